"""Verbs that make another plan of one that runs, from here on; and that show what revisions have changed."""

import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from msgspec import Struct
from rich.text import Text

from planmesh.cli import COMPLETED, difference, document
from planmesh.cli.forms import as_one
from planmesh.cli.preview import NO_LOOK, Looking, complete, show
from planmesh.cli.sending import Source, send
from planmesh.cli.session import NotUnderstood, OfSession, Session, now
from planmesh.cli.standing import SHORT_DIGEST
from planmesh.cli.steer import CommandId, PlanId, Why, found
from planmesh.cli.text import clock, one_line, whole
from planmesh.errors import PlanmeshError
from planmesh.operator import Operator
from planmesh.planner.secrets import find_secret
from planmesh.schemas.commands import AnyCommand, RedirectPlan, RevisePlan
from planmesh.schemas.events import PlanCreated, PlanRevised, RevisionRefused, RevisionRequested
from planmesh.schemas.payload import digest
from planmesh.schemas.plan import Plan
from planmesh.schemas.revision import Change
from planmesh.schemas.revision import difference as between
from planmesh.schemas.state import PlanState, open_gates
from planmesh.schemas.subjects import Address
from planmesh.steering import new_command_id

LAST: Final = "last"
"""What was proposed last, whatever it is."""

_Instruction = Annotated[str, Parameter(help="What to change, in words, for the planner to work out.")]
_Base = Annotated[
    int | None, Parameter(help="The revision that the file was made from: refused if there is a newer one.")
]
_Cancel = Annotated[
    bool, Parameter(negative=(), help="Cancel running steps that the file leaves out. Unless given, that is refused.")
]


async def revise(
    plan: PlanId,
    file: Annotated[
        Path | None, Parameter(help="The plan from here on: a script, or YAML or JSON; - for standard input.")
    ] = None,
    /,
    *,
    instruction: _Instruction = "",
    proposed: Annotated[
        str,
        Parameter(
            help="Do what was worked out before, and only a person may allow: the digest of it, as the refusal says; "
            "or `last`, with --preview."
        ),
    ] = "",
    base: _Base = None,
    cancel_running: _Cancel = False,
    reason: Why = "",
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Replace what has not started of a plan. What has started stays, and need not be in the file.

    Gates that had released what is now another thing ask again.
    """
    if proposed and (file is not None or instruction):
        raise NotUnderstood("--proposed is what the planner had worked out: leave the file and the instruction out")
    if proposed == LAST and not look.preview:
        raise NotUnderstood("--proposed takes the digest of what was looked at: `--proposed last --preview` says it")
    source = None if proposed else _source(file, instruction, "revise PLAN FILE")
    async with session.operator() as operator:
        address = await operator.find(plan)
        state = await operator.state(address)
        document: Any = None if source is None else source.text
        if proposed:
            request, refused = await _proposed(operator, address, proposed)
            document, base = complete(refused), request.base
            reason = reason or request.reason or request.instruction[:1_000]
            if look.preview:
                allow = f"{session.command} revise {shlex.quote(plan)} --proposed {digest(refused)[:SHORT_DIGEST]}"
                asked = f": {one_line(request.instruction)}" if request.instruction else ""
                session.say(f"  Asked for by {one_line(request.by)}{asked}. To allow exactly this:", to=session.err)
                session.say(whole(Text("    ").append(allow, "cyan")), to=session.err)
        command = RevisePlan(
            id=id or new_command_id(),
            base=base or max(state.revision, 1),
            document=document,
            instruction=instruction,
            cancel_running=cancel_running,
            reason=reason,
        )
        return await _do(session, operator, state, command, look, source)


async def _proposed(operator: Operator, address: Address, which: str) -> tuple[RevisionRequested, Plan]:
    """What was asked that only a person may allow, and the plan that was made of it: the last one, or the one whose
    digest begins with *which*. Somebody else may have asked for another since one was looked at."""
    requests: dict[str, RevisionRequested] = {}
    found: tuple[RevisionRequested, Plan] | None = None

    def is_meant(plan: Plan) -> bool:
        return which == LAST or (len(which) >= SHORT_DIGEST and digest(plan).startswith(which))

    async for line in operator.lines(address):
        for event in line.commit.events:
            if isinstance(event, RevisionRequested):
                requests[event.request] = event
            elif isinstance(event, RevisionRefused) and event.plan is not None and is_meant(event.plan):
                found = requests[event.request], event.plan
    if found is None:
        of = "" if which == LAST else f" with the digest {one_line(which, 64)} ({SHORT_DIGEST} characters at least)"
        raise PlanmeshError(f"nothing{of} was proposed for {address} that a person would have to allow")
    return found


async def redirect(
    plan: PlanId,
    gate: Annotated[str, Parameter(help="The gate to answer; if one alone is open, it is that one.")] = "",
    /,
    *,
    file: Annotated[
        Path | None, Parameter(help="The plan from here on: a script, or YAML or JSON; - for standard input.")
    ] = None,
    instruction: _Instruction = "",
    digest: Annotated[str, Parameter(help="Of what was read: refused if that has changed.")] = "",
    reason: Why = "",
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Answer a gate with another plan from here on: it asks again, and shows what has changed.

    Of a plan that waits at no gate, it is what `planmesh revise` does.
    """
    source = _source(file, instruction, "redirect PLAN --file FILE")
    async with session.operator() as operator:
        address = await operator.find(plan)
        state = await operator.state(address)
        gates = open_gates(state)
        if not gate and len(gates) > 1:
            raise NotUnderstood(f"several gates are open: say which of {', '.join(gates)}")
        command: AnyCommand
        if not gate and not gates:
            command = RevisePlan(
                id=id or new_command_id(),
                base=max(state.revision, 1),
                document=None if source is None else source.text,
                instruction=instruction,
                reason=reason,
            )
        else:
            command = redirection(state, gate or gates[0], source, instruction, reason, digest, id)
        return await _do(session, operator, state, command, look, source)


def redirection(
    state: PlanState, gate: str, source: Source | None, instruction: str, reason: str, digest: str, id: str
) -> RedirectPlan:
    """The command. Raises: NotUnderstood; PlanmeshError, if the gate is not open or asks something else by now."""
    step = found(state, gate)
    if gate not in open_gates(state) or step.opened is None:
        raise PlanmeshError(f"gate {gate} of plan {state.address} is not open: it is {step.status}")
    if digest and not step.opened.digest.startswith(digest):
        raise PlanmeshError(
            f"what gate {gate} lets go has changed since it was shown: its digest was {digest[:16]}, and is "
            f"{step.opened.digest[:16]} now. Nothing was done"
        )
    return RedirectPlan(
        id=id or new_command_id(),
        step=gate,
        digest=step.opened.digest,
        document=None if source is None else source.text,
        instruction=instruction,
        reason=reason,
    )


async def _do(
    session: Session, operator: Operator, state: PlanState, command: AnyCommand, look: Looking, source: Source | None
) -> int:
    if look.preview:
        return await show(session, operator, state, command, look, source)
    return await send(session, operator, state.address, command, source=source)


def _source(file: Path | None, instruction: str, how: str) -> Source | None:
    """What was read from *file*. Raises: NotUnderstood."""
    if (file is None) == (not instruction):
        raise NotUnderstood(f"say what the plan is to be: with a file ({how}), or in words (--instruction), not both")
    if file is None:
        return None
    text = document.read(file)
    if kind := find_secret(text):
        raise NotUnderstood(f"{file} holds what looks like {kind}, and the log keeps a plan for good")
    return Source(file, text)


# --- what was revised --------------------------------------------------------------------------------------


class Revision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revision, as the log has it. Attributes: number: the line of the log."""

    revision: int
    by: str
    reason: str = ""
    at: datetime
    number: int


class Difference(Struct, frozen=True, kw_only=True):
    """What has been changed between two revisions. Attributes: revisions: those that made it so."""

    space: str
    plan: str
    base: int
    revision: int
    revisions: tuple[Revision, ...]
    changes: tuple[Change, ...]


_RANGE = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6})?)?")


async def diff(
    plan: PlanId,
    revisions: Annotated[
        str, Parameter(help="Which, such as 1..3; 3 for what the third changed; left out, for what the last one did.")
    ] = "",
    /,
    *,
    session: OfSession,
) -> int:
    """Show what revisions of a plan have changed: what is added, removed, and changed from what to what."""
    async with session.operator() as operator:
        address = await operator.find(plan)
        plans, made = await _revisions(operator, address)
    last = max(plans, default=0)
    if not last:
        raise PlanmeshError(f"{address} has no plan")
    base, revision = _range(revisions, last)
    found = Difference(
        space=address.space,
        plan=address.plan,
        base=base,
        revision=revision,
        revisions=tuple(one for one in made if min(base, revision) < one.revision <= max(base, revision)),
        changes=between(plans[base], plans[revision]),
    )
    if session.output != "table":
        print(as_one(found, session.output))
        return COMPLETED
    session.say(Text(), *_told(found, last), Text())
    return COMPLETED


def _told(found: Difference, last: int) -> list[Text]:
    newest = "" if last in (found.base, found.revision) else f", of {last}"
    title = Text("  ").append(found.plan, "bold").append(f"   revision {found.base} → {found.revision}{newest}", "dim")
    lines = [title.append(f"   {difference.summary(found.changes)}", "not bold")]
    for one in found.revisions:
        line = Text(f"  {one.revision}  by {one.by}, {clock(one.at, now())}", "dim")
        lines.append(line.append(f": {one_line(one.reason)}" if one.reason else "").append(f"  (no. {one.number})"))
    return [*lines, Text(), *difference.changes(found.changes)]


async def _revisions(operator: Operator, address: Address) -> tuple[dict[int, Plan], list[Revision]]:
    """Every revision of a plan by its number, and who made it."""
    plans: dict[int, Plan] = {}
    made: list[Revision] = []
    async for line in operator.lines(address):
        for event in line.commit.events:
            if isinstance(event, PlanCreated):
                plans[1] = event.plan
            elif isinstance(event, PlanRevised):
                plans[event.revision] = event.plan
                made.append(
                    Revision(
                        revision=event.revision,
                        by=event.by,
                        reason=event.reason,
                        at=line.commit.at,
                        number=line.commit.number,
                    )
                )
    return plans, made


def _range(said: str, last: int) -> tuple[int, int]:
    """Raises: NotUnderstood."""
    if not said:
        if last == 1:
            raise PlanmeshError("the plan is as it was created: nobody has revised it")
        return last - 1, last
    match = _RANGE.fullmatch(said)
    if match is None:
        raise NotUnderstood(f"expected revisions such as 1..3, 1.. or 3; not {said[:40]!a}")
    first = int(match[1])
    base, revision = (first, int(match[2] or last)) if ".." in said else (first - 1, first)
    if not (1 <= base <= last and 1 <= revision <= last):
        raise NotUnderstood(f"the plan has revisions 1 to {last}; not {said}")
    return base, revision
