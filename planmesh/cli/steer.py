"""Verbs that steer a plan: each is one command, and says which line of the log answers it."""

import difflib
import shlex
from collections.abc import Callable
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED
from planmesh.cli import VERBS as VERBS_HERE
from planmesh.cli.forms import as_one
from planmesh.cli.history import entries
from planmesh.cli.session import NotUnderstood, OfSession, Session
from planmesh.cli.text import one_line, whole
from planmesh.client import Operator, Refused, new_command_id
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.commands import (
    VERBS,
    AnyCommand,
    CancelPlan,
    PausePlan,
    ResolveStep,
    ResumePlan,
    RetryStep,
    SkipStep,
    StartPlan,
    verb_of,
)
from planmesh.schemas.events import CommandRefused, Commit
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.state import PlanState, StepState
from planmesh.schemas.subjects import Address

_OF_COURSE: Final = frozenset({"plan.resumed", "plan.waiting"})  # they follow from the rest

PlanId = Annotated[str, Parameter(help="Its id; or SPACE.ID, where several spaces have a plan with this id.")]
StepName = Annotated[str, Parameter(help="The step's name.")]
OneStep = Annotated[str, Parameter(help="Only this step.")]
Why = Annotated[str, Parameter(help="Why. The log keeps it.")]


async def start(plan: PlanId, /, *, reason: Why = "", session: OfSession) -> int:
    """Start a plan that was submitted as a draft."""
    return await _steer(session, plan, lambda _: StartPlan(id=new_command_id(), reason=reason))


async def pause(plan: PlanId, step: OneStep = "", /, *, reason: Why = "", session: OfSession) -> int:
    """Start nothing more of a plan, or nothing behind one step. What is running may finish, and is recorded."""
    return await _steer(
        session, plan, lambda state: PausePlan(id=new_command_id(), step=_one(state, step), reason=reason)
    )


async def resume(plan: PlanId, step: OneStep = "", /, *, reason: Why = "", session: OfSession) -> int:
    """Let a plan or a step go on that someone has paused."""
    return await _steer(
        session, plan, lambda state: ResumePlan(id=new_command_id(), step=_one(state, step), reason=reason)
    )


async def cancel(plan: PlanId, step: OneStep = "", /, *, reason: Why = "", session: OfSession) -> int:
    """End a plan; or one step, and all that can only run after it.

    What is running is told to stop, and its late result changes nothing.
    """
    return await _steer(
        session, plan, lambda state: CancelPlan(id=new_command_id(), step=_one(state, step), reason=reason)
    )


async def retry(plan: PlanId, step: StepName, /, *, reason: Why = "", session: OfSession) -> int:
    """Try a failed step again, ask a rejected gate again, or repeat a step whose outcome is unknown.

    Steps that have completed are not run again; their outputs stay.
    """

    def command(state: PlanState) -> AnyCommand:
        attempt = found(state, step).attempt
        return RetryStep(id=new_command_id(), step=step, attempt=attempt, reason=reason)

    return await _steer(session, plan, command)


async def skip(plan: PlanId, step: StepName, /, *, reason: Why = "", session: OfSession) -> int:
    """Go on without a step that the plan declares as optional; its output is null. A gate takes a reason."""

    def command(state: PlanState) -> AnyCommand:
        found(state, step)
        return SkipStep(id=new_command_id(), step=step, reason=reason)

    return await _steer(session, plan, command)


async def resolve(
    plan: PlanId,
    step: StepName,
    /,
    *,
    done: Annotated[bool, Parameter(negative="--not-done", help="Whether the step had its effect.")],
    value: Annotated[str | None, Parameter(help="What it gave, as JSON (with --done).")] = None,
    reason: Why = "",
    session: OfSession,
) -> int:
    """Say what became of a step whose outcome is unknown: it was done, or it was not, and counts as failed."""
    if value is not None and not done:
        raise NotUnderstood("--value is what a step gave that was done: leave it out with --not-done")
    output = NOTHING
    if value is not None:
        try:
            output = Payload(value=codec.value.decode(value.encode()))
        except (DecodeError, UnicodeEncodeError) as error:
            raise NotUnderstood(f"--value takes JSON, such as '{{\"sent\": true}}' or '\"a text\"': {error}") from None

    def command(state: PlanState) -> AnyCommand:
        attempt = found(state, step).attempt
        return ResolveStep(id=new_command_id(), step=step, attempt=attempt, done=done, output=output, reason=reason)

    return await _steer(session, plan, command)


def _one(state: PlanState, step: str) -> str | None:
    """The step that is meant, if there is one. Raises: NotUnderstood."""
    if not step:
        return None
    found(state, step)
    return step


def found(state: PlanState, step: str) -> StepState:
    """A step by its name. Raises: NotUnderstood, with the name that is nearest."""
    if step in state.steps:
        return state.steps[step]
    near = difflib.get_close_matches(step, list(state.steps)[:2_000], n=1)
    hint = (
        f"; did you mean {near[0]}?" if near else f": see `planmesh show {state.address.plan}`" if state.steps else ""
    )
    raise NotUnderstood(f"plan {state.address} has no step {step[:80]!a}{hint}")


async def _steer(session: Session, plan: str, command: Callable[[PlanState], AnyCommand]) -> int:
    async with session.operator() as operator:
        address = await operator.find(plan)
        return await send(session, operator, address, command(await operator.state(address)))


async def send(
    session: Session, operator: Operator, address: Address, command: AnyCommand, *, aside: Console | None = None
) -> int:
    """Send one command, and print what answers it.

    Args:
        aside: Where a person reads the answer while something else is the output of this call.

    Returns:
        The exit code: 0 if it was carried out, 1 if it was refused.

    Raises:
        NotUnderstood: It is longer than commands are, or the like.
        Busy, Unusable: See `Operator.command`.
    """
    try:
        codec.command.decode(codec.encode(command))
    except DecodeError as error:
        raise NotUnderstood(f"{error.pointer.strip('/') or 'this'} is not what a command takes: {error}") from None
    try:
        commit = (await operator.command(address, command)).commit
    except Refused as refused:
        commit = refused.commit
        session.say(*refusal(refused.event, address, session.command), to=session.err)
        code = FAILED
    else:
        if aside is not None or session.output == "table":
            session.say(*answer(commit, command), to=aside)
        code = COMPLETED
    if aside is None and session.output != "table":
        print(as_one(commit, session.output))
    return code


def answer(commit: Commit, command: AnyCommand) -> list[Text]:
    """The event that answers *command*, and what followed from it."""
    step = getattr(command, "step", None) or ""
    kinds = {kind.__struct_config__.tag for kind in VERBS[verb_of(command)].answers}
    told = list(entries(commit, {}))
    # Of several the last one says most: a vote is given, and with it the gate approved.
    answers = [number for number, entry in enumerate(told) if entry.type in kinds and entry.step == step]
    lines = []
    for number, entry in enumerate(told[answers[-1] :] if answers else told):
        if number == 0:
            line = Text().append(f"  {entry.sentence}", entry.told.style or "bold")
            lines.append(line.append(f"  (no. {commit.number} in the log)", "dim"))
        elif entry.type not in _OF_COURSE:
            lines.append(Text(f"  {entry.sentence}", style="dim"))
    return lines


def refusal(event: CommandRefused, address: Address, command: str) -> list[Text]:
    """Why a command was not carried out, and what would be."""
    of = f" of {event.step}" if event.step else ""
    lines = [Text(f"planmesh: {event.verb}{of} was refused ({event.code}): {one_line(event.reason)}", style="red")]
    plan = shlex.quote(address.plan)
    step = f" {event.step}" if event.step else ""
    ours = {verb.name for verb in VERBS_HERE}
    possible = [f"{verb} {plan}{step}" for verb in event.possible if verb in ours]
    if "vote" in event.possible:
        possible.append(f"gates show {plan}{step}")
    if possible:
        lines.append(Text("  What would be carried out now:"))
        lines += [whole(Text("    ").append(f"{command} {one}", "cyan")) for one in possible]
    return lines
