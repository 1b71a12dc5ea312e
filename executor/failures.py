"""What follows from a step that has failed for good. Pure."""

from planmesh.executor.cancelling import cancel_all_but
from planmesh.executor.turn import PLANMESH, Turn
from planmesh.schemas import events
from planmesh.schemas.plan import Task
from planmesh.schemas.work import Failure


def fail_now(turn: Turn, name: str, code: str, message: str) -> None:
    """A step that takes no room cannot be settled."""
    attempt = turn.state.steps[name].attempt + 1
    failure = Failure(code=code, message=message, retryable=False)
    turn.record(events.StepFailed(step=name, attempt=attempt, failure=failure))
    failed(turn, name)


def failed(turn: Turn, name: str) -> None:
    """What follows from a step that has failed for good."""
    step = turn.state.graph.steps[name]
    if isinstance(step, Task) and step.on_error == "ignore" and not turn.alone:
        turn.record(events.StepSkipped(step=name, by=PLANMESH, reason="on_error is ignore"))
        return
    failure = turn.state.steps[name].failure
    reason = f"step {name} failed" + (f" ({failure.code}): {failure.message}" if failure is not None else "")
    match turn.state.plan.policy.on_failure:
        case "pause":
            pass
        case "fail":
            cancel_all_but(turn, name)
            turn.record(events.PlanFailed(step=name, reason=reason[:1_000]))
        case "cancel":
            cancel_all_but(turn, name)
            turn.record(events.PlanCancelled(by=PLANMESH, reason=reason[:1_000]))
