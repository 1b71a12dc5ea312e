"""Steps that are not to go on: what the log says of them, so that whoever is at it can be told. Pure."""

from collections.abc import Iterable

from planmesh.executor.questions import services_among
from planmesh.executor.turn import Turn
from planmesh.schemas.events import StepsCancelled, Stopped
from planmesh.schemas.state import SATISFIED, PlanState, StepStatus


def cancel(turn: Turn, names: Iterable[str], *, by: str = "", reason: str = "") -> None:
    """Cancel the steps in *names* that may still do something; if there are none, nothing has happened.

    Args:
        by: The person who asked for it; empty where it follows from how the plan ends.
    """
    steps = tuple(name for name in dict.fromkeys(names) if _may_go_on(turn.state, name))
    if steps:
        stopped = tuple(stop for name in steps if (stop := _stopped(turn.state, name)) is not None)
        turn.record(StepsCancelled(steps=steps, stopped=stopped, by=by, reason=reason))


def cancel_all_but(turn: Turn, kept: str = "") -> None:
    cancel(turn, (name for name in turn.state.graph.steps if name != kept))


def _may_go_on(state: PlanState, name: str) -> bool:
    status = state.steps[name].status
    return status not in SATISFIED and status is not StepStatus.CANCELLED


def _stopped(state: PlanState, name: str) -> Stopped | None:
    step = state.steps[name]
    match step.status:
        # Of an outcome that is unknown, the worker may be at it still.
        case StepStatus.DISPATCHED | StepStatus.OUTCOME_UNKNOWN:
            return Stopped(step=name, attempt=step.attempt, agent=step.agent, child=step.child)
        case StepStatus.WAITING:
            services = services_among(step.reviewers)
            return Stopped(step=name, attempt=step.attempt, services=services) if services else None
    return None
