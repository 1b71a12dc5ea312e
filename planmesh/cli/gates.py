"""Verbs for gates: what waits for a person, and deciding it."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter

from planmesh.cli import COMPLETED, FAILED
from planmesh.cli import review as screens
from planmesh.cli.follow import read_line, read_secret, shown_values
from planmesh.cli.forms import as_one, as_rows
from planmesh.cli.preview import NO_LOOK, Looking
from planmesh.cli.revise import redirect as redirect_plan
from planmesh.cli.sending import send
from planmesh.cli.session import NotUnderstood, OfSession, Session, now
from planmesh.cli.standing import SHORT_DIGEST
from planmesh.cli.steer import CommandId, PlanId, StepName, Why, found
from planmesh.cli.view import gate_row
from planmesh.errors import PlanmeshError
from planmesh.operator import Operator
from planmesh.schemas.answers import misfit, typed
from planmesh.schemas.commands import AnswerAsk, CastVote
from planmesh.schemas.queries import GateRow, GatesQuery
from planmesh.schemas.secrets import MAX_SECRET_BYTES
from planmesh.schemas.secrets import misfit as misfit_of_secret
from planmesh.schemas.state import ENDED, StepStatus
from planmesh.schemas.subjects import Address
from planmesh.steering import new_command_id

app = App(name="gates", help="See what waits for a person, and decide it.", help_format="plaintext")


@app.command(name="list")
async def list_(*, plan: str = "", limit: int = 100, session: OfSession) -> int:
    """List the gates and asks that are open, the longest open first.

    Parameters
    ----------
    plan
        Only of the plan with this id.
    limit
        How many, from 1 to 1000.
    """
    if not 1 <= limit <= 1_000:
        raise NotUnderstood(f"--limit takes 1 to 1000, not {limit}")
    async with session.operator() as operator:
        # Whoever reads it by program may want everything; people are shown a line of each.
        query = GatesQuery(limit=limit, brief=session.output == "table")
        if plan:
            address = await operator.find(plan)
            query = msgspec.structs.replace(query, plan=address.plan, space=address.space)
        rows = (await operator.gates(query)).gates
    if session.output != "table":
        print(*as_rows(rows, session.output), sep="\n")
    elif rows:
        session.say(*screens.gates(rows, now(), session.out.width))
    else:
        session.say("No gate and no ask is open: nothing waits for a person.")
    return COMPLETED


@app.command
async def show(plan: PlanId, gate: StepName, /, *, session: OfSession) -> int:
    """Show what a gate asks, what ran before it, and exactly what an approval lets go; or what an ask asks."""
    async with session.operator() as operator:
        row = await _open(operator, plan, gate, "either")
        values = await shown_values(operator, row) if session.output == "table" else {}
    if session.output != "table":
        print(as_one(row, session.output))
    else:
        me = operator.name
        session.say(*screens.review(row, now(), session.out.width, values=values, command=session.command, me=me))
    return COMPLETED


@app.command
async def approve(
    plan: PlanId,
    gate: StepName,
    /,
    *,
    digest: Annotated[
        str, Parameter(help="Of what was read, as `gates show` prints it. Without it, you are asked.")
    ] = "",
    reason: Why = "",
    session: OfSession,
) -> int:
    """Approve what a gate lets go: exactly what was shown, or the approval is refused."""
    async with session.operator() as operator:
        row = await _open(operator, plan, gate)
        if digest:
            _check_digest(session, row, digest)
        elif not await _agrees(session, operator, row):
            return FAILED
        return await _vote(session, operator, row, "approve", reason)


@app.command
async def reject(
    plan: PlanId,
    gate: StepName,
    /,
    *,
    digest: Annotated[str, Parameter(help="Of what was read: it is refused if that has changed.")] = "",
    reason: Why = "",
    session: OfSession,
) -> int:
    """Reject what a gate would let go: its branch of the plan stops there."""
    async with session.operator() as operator:
        row = await _open(operator, plan, gate)
        if digest:
            _check_digest(session, row, digest)
        return await _vote(session, operator, row, "reject", reason)


@app.command
async def redirect(
    plan: PlanId,
    gate: StepName,
    /,
    *,
    file: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True, help="The plan from here on: a script, or YAML or JSON; - for standard input."
        ),
    ] = None,
    instruction: Annotated[str, Parameter(help="What to change, in words, for the planner to work out.")] = "",
    digest: Annotated[str, Parameter(help="Of what was read: it is refused if that has changed.")] = "",
    reason: Why = "",
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Answer a gate with another plan from here on: it asks again, and shows what has changed."""
    return await redirect_plan(
        plan,
        gate,
        file=file,
        instruction=instruction,
        digest=digest,
        reason=reason,
        look=look,
        id=id,
        session=session,
    )


@app.command
async def answer(
    plan: PlanId,
    step: StepName,
    value: Annotated[
        str | None,
        Parameter(help="A text; a number; yes or no; or one of the options. Not of a secret: you are asked for that."),
    ] = None,
    /,
    *,
    file: Annotated[
        Path | None,
        Parameter(
            help="Take the answer from this file, such as a secret; - for standard input.", allow_leading_hyphen=True
        ),
    ] = None,
    reason: Why = "",
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Answer a question that a plan asks. What is behind it reads the answer."""
    async with session.operator() as operator:
        row = await _open(operator, plan, step, "ask")
        address = Address(row.space, row.plan)
        if row.secret:
            text = await _secret(session, row, value, file)
            kept = await operator.keep_secret(address, step, text)
            command = AnswerAsk(id=id or new_command_id(), step=step, digest=row.digest, secret=kept, reason=reason)
            return await send(session, operator, address, command)
        said = value if file is None else _text(file)
        if said is None or (value is not None and file is not None):
            raise NotUnderstood(f"say what the answer to ask {step} is: as an argument, or by --file FILE")
        given = typed(said, row.answer)
        wrong = misfit(given, row.answer, row.options)
        if wrong:  # a slip of the fingers is not worth a line of the log
            raise NotUnderstood(f"ask {step} takes another answer: {wrong}. Nothing was answered")
        command = AnswerAsk(id=id or new_command_id(), step=step, digest=row.digest, value=given, reason=reason)
        return await send(session, operator, address, command)


async def _secret(session: Session, row: GateRow, value: str | None, file: Path | None) -> str:
    """A secret, from wherever others do not see it. Raises: NotUnderstood."""
    if value is not None:
        raise NotUnderstood(
            f"ask {row.step} takes a secret, and what is written here is in the shell's history, and whoever lists "
            "processes sees it. Leave it out, and you are asked; or add --file FILE (- for standard input). Nothing "
            "was answered; if that was the secret, consider it known"
        )
    if file is not None:
        text: str | None = _text(file)
    elif session.asks:
        text = await read_secret(f"  {screens.given_to(row)}\n  The secret (nothing is shown): ")
    else:
        raise NotUnderstood(
            f"ask {row.step} takes a secret, and nobody is here to enter it: add --file FILE, or --file -"
        )
    if wrong := misfit_of_secret(text):
        raise NotUnderstood(f"ask {row.step} takes a secret: {wrong}. Nothing was answered")
    assert text is not None  # or it would not fit
    return text


def _text(file: Path) -> str:
    """What a file has, without the end of its last line. Raises: NotUnderstood."""
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            data = source.read(MAX_SECRET_BYTES + 1)
        return data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise NotUnderstood(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotUnderstood("an answer is a text in UTF-8, and this is none") from None


async def _open(operator: Operator, plan: str, name: str, wanted: Literal["gate", "ask", "either"] = "gate") -> GateRow:
    """A gate or an ask as the log has it now: the auditor may be a moment behind. Raises: PlanmeshError."""
    address = await operator.find(plan)
    state = await operator.state(address)
    step = found(state, name)
    kind = str(state.graph.steps[name].__struct_config__.tag)
    if kind not in (("gate", "ask") if wanted == "either" else (wanted,)):
        hint = {"gate": "`gates approve` and `gates reject` decide it", "ask": "`answer` answers it"}.get(kind, "")
        sought = "gate" if wanted != "ask" else "ask"
        raise NotUnderstood(f"step {name} of plan {address} is no {sought}, but {_one(kind)}" + (hint and f": {hint}"))
    if step.opened is None or step.status is not StepStatus.WAITING or state.status in ENDED:
        raise PlanmeshError(
            f"{kind} {name} of plan {address} is not open: it is {step.status}, and the plan {state.status}"
        )
    return gate_row(state, name)


def _one(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _check_digest(session: Session, row: GateRow, digest: str) -> None:
    if len(digest) < SHORT_DIGEST:
        raise NotUnderstood(f"--digest takes at least the first {SHORT_DIGEST} characters of the digest")
    if not row.digest.startswith(digest):
        raise PlanmeshError(
            f"what gate {row.step} lets go has changed since it was shown: its digest was {digest[:SHORT_DIGEST]}, and "
            f"is {row.digest[:SHORT_DIGEST]} now. Nothing was decided. Read it again: "
            f"{session.command} gates show {row.plan} {row.step}"
        )


async def _agrees(session: Session, operator: Operator, row: GateRow) -> bool:
    """Show it and ask. Raises: NotUnderstood, if there is nobody to ask."""
    show = f"{session.command} gates show {row.plan} {row.step}"
    if not session.asks:
        raise NotUnderstood(f"an approval names what was read: add --digest, as this prints it: {show}")
    values: dict[str, Any] = await shown_values(operator, row)
    screen = session.progress
    shown = screens.review(row, now(), screen.width, values=values, command=None, me=operator.name)
    session.say(*shown, "", to=screen)
    said = await read_line("  Approve this? [y/N] ")
    if said is not None and said.lower() in ("y", "yes"):
        return True
    session.say("  Nothing was decided.", to=screen)
    return False


async def _vote(session: Session, operator: Operator, row: GateRow, decision: Any, reason: str) -> int:
    command = CastVote(id=new_command_id(), step=row.step, digest=row.digest, decision=decision, reason=reason)
    return await send(session, operator, Address(row.space, row.plan), command)
