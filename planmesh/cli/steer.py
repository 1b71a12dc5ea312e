"""Verbs that steer a plan, or many at once: each is one command, and says which line of the log answers it."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from planmesh.cli import document
from planmesh.cli.bulk import ONE, Many, id_of, steer_many
from planmesh.cli.preview import NO_LOOK, Looking, show
from planmesh.cli.sending import send
from planmesh.cli.session import NotUnderstood, OfSession, Session
from planmesh.cli.where import Where, failed_steps, unknown_steps
from planmesh.planner.document import Unreadable, read_document
from planmesh.planner.problems import Problems
from planmesh.planner.secrets import find_secret
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.commands import (
    AnyCommand,
    CancelPlan,
    PausePlan,
    ResolveStep,
    ResumePlan,
    RetryStep,
    SkipStep,
    StartPlan,
)
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Task
from planmesh.schemas.state import PlanState, PlanStatus, StepState
from planmesh.steering import new_command_id

PlanId = Annotated[str, Parameter(help="Its id; or SPACE.ID, where several spaces have a plan with this id.")]
StepName = Annotated[str, Parameter(help="The step's name.")]
OneStep = Annotated[str, Parameter(help="Only this step.")]
Why = Annotated[str, Parameter(help="Why. The log keeps it.")]
CommandId = Annotated[
    str, Parameter(name="--id", help="An id of your own: the same command sent twice with it is carried out once.")
]

_ONE_PLAN = Annotated[str, Parameter(help="Its id, or SPACE.ID; left out with --where.")]
_ITS_STEP = Annotated[str, Parameter(help="The step's name; left out with --where.")]
_GO_ON: Final = (PlanStatus.RUNNING, PlanStatus.WAITING, PlanStatus.PAUSED)


async def start(
    plan: _ONE_PLAN = "",
    /,
    *,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Start a plan that was submitted as a draft."""

    def command(state: PlanState) -> AnyCommand:
        return StartPlan(id=id or new_command_id(), reason=reason)

    if _is_many(many, plan):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [command(state)] if state.status is PlanStatus.DRAFT else []

        return await steer_many(session, many, look, "start", (PlanStatus.DRAFT,), all_of)
    return await _steer(session, plan, command, look)


async def pause(
    plan: _ONE_PLAN = "",
    /,
    step: OneStep = "",
    *,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Start nothing more of a plan, or nothing behind one step. What is running may finish, and is recorded."""
    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [] if state.held else [PausePlan(id=id or new_command_id(), reason=reason)]

        return await steer_many(session, many, look, "pause", (PlanStatus.RUNNING, PlanStatus.WAITING), all_of)

    def command(state: PlanState) -> AnyCommand:
        return PausePlan(id=id or new_command_id(), step=_one(state, step), reason=reason)

    return await _steer(session, plan, command, look)


async def resume(
    plan: _ONE_PLAN = "",
    /,
    step: OneStep = "",
    *,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Let a plan or a step go on that someone has paused."""
    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [ResumePlan(id=id or new_command_id(), reason=reason)] if state.held else []

        return await steer_many(session, many, look, "resume", (PlanStatus.PAUSED,), all_of)

    def command(state: PlanState) -> AnyCommand:
        return ResumePlan(id=id or new_command_id(), step=_one(state, step), reason=reason)

    return await _steer(session, plan, command, look)


async def cancel(
    plan: _ONE_PLAN = "",
    /,
    step: OneStep = "",
    *,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """End a plan; or one step, and all that can only run after it.

    What is running is told to stop, and its late result changes nothing.
    """
    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [CancelPlan(id=id or new_command_id(), reason=reason)]

        return await steer_many(session, many, look, "cancel", (PlanStatus.DRAFT, *_GO_ON), all_of)

    def command(state: PlanState) -> AnyCommand:
        return CancelPlan(id=id or new_command_id(), step=_one(state, step), reason=reason)

    return await _steer(session, plan, command, look)


async def retry(
    plan: _ONE_PLAN = "",
    step: _ITS_STEP = "",
    /,
    *,
    agent: Annotated[str, Parameter(help="Let this agent do it. A gate that released the step asks again.")] = "",
    input: Annotated[
        tuple[str, ...],
        Parameter(
            name="--input", negative=(), help="Another value for one of its inputs: NAME=VALUE. May be repeated."
        ),
    ] = (),
    inputs: Annotated[
        Path | None, Parameter(help="A file with other inputs, in YAML or JSON, in place of all that it has.")
    ] = None,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Try a failed step again, ask a rejected gate again, or repeat a step whose outcome is unknown.

    Steps that have completed are not run again; their outputs stay. With --where: every failed step of these plans,
    but none whose outcome is unknown.
    """
    instead = None if inputs is None else _read_inputs(inputs)

    def again(state: PlanState, step: str, its_id: str) -> AnyCommand:
        return RetryStep(
            id=its_id or new_command_id(),
            step=step,
            attempt=found(state, step).attempt,
            agent=agent or None,
            inputs=_other_inputs(state, step, instead, input),
            reason=reason,
        )

    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [again(state, name, id and id_of(id, name)) for name in failed_steps(state, where)]

        return await steer_many(session, many, look, "retry", _GO_ON, all_of, troubled=True)
    return await _steer(session, plan, lambda state: again(state, _named(step), id), look)


async def skip(
    plan: _ONE_PLAN = "",
    step: _ITS_STEP = "",
    /,
    *,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Go on without a step that the plan declares as optional; its output is null. A gate takes a reason.

    With --where: every failed step of these plans that is optional.
    """
    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            names = [name for name in failed_steps(state, where) if state.graph.steps[name].optional]
            return [
                SkipStep(id=id_of(id, name) if id else new_command_id(), step=name, reason=reason) for name in names
            ]

        return await steer_many(session, many, look, "skip", _GO_ON, all_of, troubled=True)

    def command(state: PlanState) -> AnyCommand:
        found(state, _named(step))
        return SkipStep(id=id or new_command_id(), step=step, reason=reason)

    return await _steer(session, plan, command, look)


async def resolve(
    plan: _ONE_PLAN = "",
    step: _ITS_STEP = "",
    /,
    *,
    done: Annotated[bool | None, Parameter(negative="--not-done", help="Whether the step had its effect.")] = None,
    value: Annotated[str | None, Parameter(help="What it gave, as JSON (with --done).")] = None,
    reason: Why = "",
    many: Many = ONE,
    look: Looking = NO_LOOK,
    id: CommandId = "",
    session: OfSession,
) -> int:
    """Say what became of a step whose outcome is unknown: it was done, or it was not, and counts as failed.

    With --where: every step of these plans whose outcome is unknown.
    """
    if done is None:
        raise NotUnderstood("say whether the step had its effect: --done, or --not-done if it had none")
    if value is not None and not done:
        raise NotUnderstood("--value is what a step gave that was done: leave it out with --not-done")
    output = NOTHING
    if value is not None:
        try:
            output = Payload(value=codec.value.decode(value.encode()))
        except (DecodeError, UnicodeEncodeError) as error:
            raise NotUnderstood(f"--value takes JSON, such as '{{\"sent\": true}}' or '\"a text\"': {error}") from None

    def settled(state: PlanState, step: str, its_id: str) -> AnyCommand:
        return ResolveStep(
            id=its_id or new_command_id(),
            step=step,
            attempt=found(state, step).attempt,
            done=done,
            output=output,
            reason=reason,
        )

    if _is_many(many, plan, step):

        def all_of(state: PlanState, where: Where) -> list[AnyCommand]:
            return [settled(state, name, id and id_of(id, name)) for name in unknown_steps(state, where)]

        return await steer_many(session, many, look, "resolve", _GO_ON, all_of, troubled=True)
    return await _steer(session, plan, lambda state: settled(state, _named(step), id), look)


async def _steer(
    session: Session, plan: str, command: Callable[[PlanState], AnyCommand], look: Looking = NO_LOOK
) -> int:
    async with session.operator() as operator:
        address = await operator.find(plan)
        state = await operator.state(address)
        if look.preview:
            return await show(session, operator, state, command(state), look)
        return await send(session, operator, address, command(state))


# --- what is meant -----------------------------------------------------------------------------------------


def found(state: PlanState, step: str) -> StepState:
    """A step by its name. Raises: NotUnderstood, with the name that is nearest."""
    if step in state.steps:
        return state.steps[step]
    near = difflib.get_close_matches(step, list(state.steps)[:2_000], n=1)
    hint = (
        f"; did you mean {near[0]}?" if near else f": see `planmesh show {state.address.plan}`" if state.steps else ""
    )
    raise NotUnderstood(f"plan {state.address} has no step {step[:80]!a}{hint}")


def _is_many(many: Many, plan: str, step: str = "") -> bool:
    """Whether it is about many plans. Raises: NotUnderstood, if it is about none, or both."""
    if many.where and plan:
        raise NotUnderstood("name a plan, or say which ones with --where, not both")
    if many.where and step:
        raise NotUnderstood(f"with --where, a step is named there: --where step={step}")
    if not many.where and not plan:
        raise NotUnderstood("which plan? Name one, or say which ones with --where (status=paused,agent=…)")
    if many.yes and not many.where:
        raise NotUnderstood("--yes goes with --where: for one plan nobody is asked")
    return bool(many.where)


def _one(state: PlanState, step: str) -> str | None:
    """The step that is meant, if there is one. Raises: NotUnderstood."""
    if not step:
        return None
    found(state, step)
    return step


def _named(step: str) -> str:
    """Raises: NotUnderstood, if no step is named."""
    if not step:
        raise NotUnderstood("which step? Name it after the plan")
    return step


def _read_inputs(file: Path) -> dict[str, Any]:
    problems = Problems()
    try:
        return read_document(document.read(file), problems)
    except Unreadable:
        said = "; ".join(problem.message for problem in problems.listed())
        raise NotUnderstood(f"{file} does not hold inputs, as an object of names and values: {said}") from None


def _other_inputs(
    state: PlanState, step: str, instead: dict[str, Any] | None, pairs: tuple[str, ...]
) -> dict[str, Any] | None:
    """All inputs that a step is to have; None for those that it has. Raises: NotUnderstood."""
    if instead is None and not pairs:
        return None
    task = state.graph.steps.get(step)
    if not isinstance(task, Task):
        found(state, step)
        raise NotUnderstood(f"step {step} is no task, and has no inputs")
    before = dict(task.inputs) if instead is None else instead
    other = {**before, **document.values("", pairs)}
    if kind := find_secret(encode(other).decode()):
        raise NotUnderstood(f"these inputs hold what looks like {kind}, and the log keeps them for good")
    return other
