"""What a command would do, before it is sent: decided here, by the very rules of the executor, on the log as it is.

A revision is worked out by the planner that would work it out, which stores nothing of it.
"""

import contextlib
import hashlib
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, frontier
from planmesh.cli.forms import as_one
from planmesh.cli.render import author
from planmesh.cli.sending import Source, check, not_revised, refusal
from planmesh.cli.session import NotUnderstood, Session, busy
from planmesh.cli.standing import SHORT_DIGEST
from planmesh.cli.text import one_line, whole
from planmesh.errors import Unusable
from planmesh.executor.plan import Decision, decide
from planmesh.executor.revision import wanted
from planmesh.frontier import Frontier
from planmesh.frontier import frontier as compared
from planmesh.operator import Operator
from planmesh.schemas import codec
from planmesh.schemas.commands import AnyCommand, Asked, ProposeRevision, RedirectPlan, verb_of
from planmesh.schemas.events import CommandRefused, RevisionRefused, RevisionRequested
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import PlanState
from planmesh.schemas.values import NeedsBlob

_PLANNER: Final = "planner"
_PROPOSALS: Final = "proposals"
_REASON_CHARACTERS: Final = 200


@Parameter(name="*")
@dataclass(frozen=True)
class Looking:
    """Whether to do it, or only to look at what it would do."""

    preview: Annotated[bool, Parameter(negative=(), help="Show what it would do to each step, and do nothing.")] = False
    format: Annotated[
        Literal["list", "tree", "mermaid"], Parameter(help="How the preview is drawn; see also --output.")
    ] = "list"


NO_LOOK: Final = Looking()


class ProposedFrontier(Frontier, frozen=True, kw_only=True):
    """What a proposal of the planner would do.

    Attributes:
        file: The proposal: `planmesh revise PLAN FILE` does exactly that.
        origin: Who has written it.
    """

    file: str
    origin: Origin | None = None


class Foreseen(NamedTuple):
    """What a command would do.

    Attributes:
        seen: None if it would be refused.
        after: The plan, once it is done.
        refused: Why the plan would not take it.
        problems: Why the revision that it asks for cannot be.
        proposal: What the planner has made of it, if it asks for one.
    """

    seen: Frontier | None
    after: PlanState
    refused: CommandRefused | None = None
    problems: tuple[Problem, ...] = ()
    proposal: ProposeRevision | None = None


async def foresee(operator: Operator, state: PlanState, command: AnyCommand) -> Foreseen:
    """Decide *command* on *state*, and what the planner would answer to it; nothing is stored.

    Raises:
        Busy: No planner answers, or a value that a gate would show cannot be fetched.
    """
    decision = await _decide(operator, state, command, operator.name)
    for event in decision.events:
        if isinstance(event, CommandRefused) and event.command == command.id:
            return Foreseen(None, state, refused=event)
        if isinstance(event, RevisionRequested) and event.request == command.id:
            proposal = await operator.proposal(wanted(decision.state, event))
            answer = await _decide(operator, decision.state, proposal, _PLANNER)
            refused = next((one for one in answer.events if isinstance(one, RevisionRefused)), None)
            if refused is not None:
                return Foreseen(None, state, problems=refused.problems, proposal=proposal)
            return Foreseen(compared(state, answer.state), answer.state, proposal=proposal)
    return Foreseen(compared(state, decision.state), decision.state)


async def _decide(operator: Operator, state: PlanState, command: AnyCommand, by: str) -> Decision:
    at = datetime.now(UTC)
    asked = Asked(command, by, at if state.updated_at is None else max(at, state.updated_at))
    blobs: dict[str, Any] = {}
    while True:
        try:
            return decide(state, asked, blobs=blobs)
        except NeedsBlob as needs:
            for blob in needs.blobs:
                blobs[blob.sha256] = codec.value.decode(await operator.blob(blob.sha256))


async def show(
    session: Session,
    operator: Operator,
    state: PlanState,
    command: AnyCommand,
    look: Looking,
    source: Source | None = None,
) -> int:
    """Print what *command* would do.

    Args:
        source: Where its document comes from, for the places of problems.

    Returns:
        The exit code: 0 if it would be carried out, 1 if it would be refused.

    Raises:
        NotUnderstood: Two forms at once.
        Busy, Poison: See `foresee`, and `Operator.proposal`.
    """
    if look.format != "list" and session.output != "table":
        raise NotUnderstood("--format is a form by itself: leave --output out")
    check(command)
    in_words = bool(getattr(command, "instruction", ""))
    with busy(session, "The planner lets a model work it out …") if in_words else contextlib.nullcontext():
        foreseen = await foresee(operator, state, command)
    if foreseen.refused is not None:
        session.say(*refusal(foreseen.refused, state.address, session.command, "would be refused"), to=session.err)
    if foreseen.problems:
        session.say(*not_revised(foreseen.problems, source, "would be refused"), to=session.err)
    origin = foreseen.proposal.origin if foreseen.proposal is not None else None
    if origin is not None and foreseen.seen is None:
        session.say(Text(f"  {one_line(author(origin))}", style="dim"), to=session.err)
    if foreseen.seen is None:
        return FAILED
    file = None
    if in_words and foreseen.proposal is not None and foreseen.proposal.plan is not None:
        file = _kept(session, state.address.plan, foreseen.proposal.plan)
    if session.output != "table":
        seen: Frontier = foreseen.seen
        if file is not None:
            fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
            seen = ProposedFrontier(**fields, file=str(file), origin=origin)
        print(as_one(seen, session.output))
    elif look.format == "mermaid":
        print(frontier.mermaid(foreseen.seen, foreseen.after.plan))
        session.say(*frontier.warnings(foreseen.seen), to=session.err)
    elif look.format == "tree":
        session.say(Text(), *frontier.tree(foreseen.seen, foreseen.after.plan), Text())
        session.say(*frontier.warnings(foreseen.seen))
    else:
        step = getattr(command, "step", None)
        title = f"{verb_of(command)} {f'{step} of ' if step else ''}{state.address.plan}"
        session.say(Text(), *frontier.account(foreseen.seen, title), Text())
        if origin is not None:
            session.say(Text(f"  {one_line(author(origin))}", style="dim"))
        session.say(Text("  Nothing was done: this is a preview.", style="dim"))
    if session.output == "table" and look.format != "mermaid":
        if file is not None:
            session.say("  A model may propose something else the next time. To do exactly this:")
            session.say(whole(Text("    ").append(_exactly(session, state, command, file), "cyan")))
        session.say(Text())
    return COMPLETED


def _kept(session: Session, plan: str, proposed: Plan) -> Path:
    """The file in which *proposed* is kept, so that it can be sent as it is. Raises: Unusable."""
    text = codec.encode(complete(proposed))
    directory = session.settings.data_dir / _PROPOSALS
    file = directory / f"{plan}-{hashlib.sha256(text).hexdigest()[:8]}.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(msgspec.json.format(text, indent=2) + b"\n")
    except OSError as error:
        raise Unusable(f"the proposal cannot be kept in {directory}: {error.strerror or error}") from error
    return file


def complete(plan: Plan) -> dict[str, Any]:
    """*plan* as a document that says all of the plan as a whole: what a revision leaves out stays as it was."""
    return {name: msgspec.to_builtins(getattr(plan, name)) for name in plan.__struct_fields__}


def _exactly(session: Session, state: PlanState, command: AnyCommand, file: Path) -> str:
    """The command that does what the planner has proposed for *command*, and nothing else."""
    plan, reason = state.address.plan, getattr(command, "reason", "") or getattr(command, "instruction", "")
    words = ["revise", plan, str(file), "--base", str(max(state.revision, 1))]
    if isinstance(command, RedirectPlan):
        words = ["redirect", plan, command.step, "--file", str(file), "--digest", command.digest[:SHORT_DIGEST]]
    if getattr(command, "cancel_running", False):
        words.append("--cancel-running")
    return f"{session.command} {shlex.join([*words, '--reason', one_line(reason, _REASON_CHARACTERS)])}"
