"""Going on: everything that can go on does, and the plan's status agrees with its steps. Pure."""

from typing import assert_never

from planmesh.executor.asks import open_ask
from planmesh.executor.cancelling import cancel_all_but
from planmesh.executor.children import send_away
from planmesh.executor.each import go_through
from planmesh.executor.failures import fail_now
from planmesh.executor.gates import open_gate, open_gate_again
from planmesh.executor.turn import PLANMESH, Turn
from planmesh.schemas import events
from planmesh.schemas.expressions import ExpressionError, holds, parse
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Ask, Check, Decide, Draft, Each, Emit, Gate, Run, Task
from planmesh.schemas.state import (
    ENDED,
    PlanState,
    PlanStatus,
    StepStatus,
    last_steps,
    open_asks,
    open_gates,
    pending_retries,
    standing,
    taken,
)
from planmesh.schemas.templates import compile_template
from planmesh.schemas.values import text_of


def advance(turn: Turn) -> None:
    """Let everything go on that can, and bring the plan's status in line with its steps.

    Where nothing may follow (`Turn.alone`), nothing is settled. What was ready is begun all the same: that takes little
    room in the log, and nothing else would ever begin it.
    """
    if turn.state.status in ENDED or turn.state.status in (PlanStatus.DRAFT, PlanStatus.ABSENT):
        return
    while not turn.state.held and turn.state.status not in ENDED:
        if turn.state.immediate and not turn.alone:
            _settle_now(turn, turn.state.immediate[0])
        elif turn.state.leaving and len(turn.state.away) < turn.state.plan.concurrency:
            away = turn.state.graph.steps[turn.state.leaving[0]]
            assert isinstance(away, Draft | Run)  # `leaving` holds nothing else
            send_away(turn, away)
        elif (task := _next(turn)) is not None:
            attempt = turn.state.steps[task.name].attempt + 1
            turn.record(events.StepDispatched(step=task.name, attempt=attempt, agent=task.agent))
        elif turn.state.open == 0 and not turn.alone:
            _end(turn)
        else:
            break
    agree(turn)


def _end(turn: Turn) -> None:
    """Nothing is left to do. A plan whose last steps were all cancelled has not completed anything."""
    state = turn.state
    cancelled = [name for name in last_steps(state) if state.steps[name].status is StepStatus.CANCELLED]
    listed = ", ".join(cancelled[:5]) + (", …" if len(cancelled) > 5 else "")
    if cancelled and len(cancelled) == len(last_steps(state)):
        turn.record(events.PlanCancelled(by=turn.by, reason=f"what it ends with was cancelled: {listed}"))
        return
    outcome = f"completed without {listed}" if cancelled else "completed"
    turn.record(events.PlanCompleted(outcome=outcome, result=Payload(value=_outputs(state))))


def _next(turn: Turn) -> Task | None:
    """The first task that is ready, and for which there is room: in the plan, and with its agent.

    What an agent cannot begin soon stays here: handed out, it would stand in front of the steps of other plans.
    """
    state, concurrency = turn.state, turn.state.plan.concurrency
    if state.running >= concurrency:
        return None
    for name in state.ready[:concurrency]:
        task = state.graph.steps[name]
        assert isinstance(task, Task)  # `ready` holds tasks only
        limit = turn.agent_limits.get(task.agent)
        # A few wait with the agent, so that it has something to do while the next ones are on their way.
        if limit is None or state.in_hand.get(task.agent, 0) < limit + max(1, limit // 4):
            return task
    return None


def _settle_now(turn: Turn, name: str) -> None:
    """Settle a step that takes no room."""
    state = turn.state
    step = state.graph.steps[name]
    if not taken(state, name):
        turn.record(events.StepNotTaken(step=name))
        return
    try:
        match step:
            case Gate():
                before = state.steps[name].opened
                if before is None or state.revised is None or before.digest == turn.digests.of(state, name):
                    open_gate(turn, step)
                else:
                    open_gate_again(turn, step, state.revised)
            case Ask():
                open_ask(turn, step)
            case Decide():
                label = _choose(turn, step)
                if label is None:
                    fail_now(turn, name, "no_branch", "no case holds, and there is no `otherwise`")
                else:
                    turn.record(events.BranchTaken(step=name, label=label))
            case Check():
                passed = holds(parse(step.condition), turn.names(name))
                if passed or step.on_fail == "continue":
                    turn.record(events.BranchTaken(step=name, label="pass" if passed else "fail"))
                else:
                    message = text_of(compile_template(step.message).render(turn.names(name))) if step.message else ""
                    fail_now(turn, name, "check_failed", message or f"`{step.condition}` does not hold")
            case Emit():
                result = compile_template(step.result).render(turn.names(name))
                cancel_all_but(turn, name)
                turn.record(events.StepCompleted(step=name, attempt=1, output=NOTHING, by=PLANMESH))
                turn.record(events.PlanCompleted(outcome=step.outcome, result=Payload(value=result), step=name))
            case Each():
                go_through(turn, step)
            case Task() | Draft() | Run():
                raise AssertionError(f"step {name} is not settled by deciding")
            case _:
                assert_never(step)
    except ExpressionError as error:
        fail_now(turn, name, "expression", str(error))


def _choose(turn: Turn, step: Decide) -> str | None:
    for case in step.cases:
        if holds(parse(case.when), turn.names(step.name)):
            return case.then
    return step.otherwise


def _outputs(state: PlanState) -> dict[str, object]:
    """The result of a plan without an `emit`: what its last steps gave, by binding."""
    result: dict[str, object] = {}
    for name in last_steps(state):
        output = state.steps[name].output
        shown: object = output.value
        if output.blob is not None:
            shown = {"$blob": output.blob.sha256, "size_bytes": output.blob.size_bytes}
        if state.steps[name].status is StepStatus.COMPLETED:
            result[state.graph.steps[name].bound_as] = shown
    return result


def agree(turn: Turn) -> None:
    """End the turn with the status that the steps give."""
    state = turn.state
    should_be = standing(state)
    if should_be is state.status:
        return
    match should_be:
        case PlanStatus.RUNNING:
            turn.record(events.PlanResumed(by=turn.by))
        case PlanStatus.WAITING:
            turn.record(
                events.PlanWaiting(
                    gates=tuple(open_gates(state)),
                    retries=tuple(pending_retries(state)),
                    plans=tuple(state.steps[name].child for name in state.away),
                    asks=tuple(open_asks(state)),
                )
            )
        case PlanStatus.PAUSED:
            at_steps = (*state.troubled, *(name for name in state.held_steps if name not in state.troubled))
            reason = "; ".join(_trouble(state, name) for name in at_steps[:5])
            turn.record(events.PlanPaused(by=PLANMESH, reason=reason, at_steps=at_steps))
        case _:
            raise AssertionError(f"{state.address} cannot come to {should_be} by itself")


def _trouble(state: PlanState, name: str) -> str:
    step = state.steps[name]
    if step.failure is not None and step.status is StepStatus.FAILED:
        return f"{name} failed ({step.failure.code}): {step.failure.message[:200]}"
    if step.hold is not None:
        return f"{step.hold.by} has paused {name}" + (f": {step.hold.reason[:200]}" if step.hold.reason else "")
    return f"{name} is {step.status}" + (f": {step.reason[:200]}" if step.reason else "")
