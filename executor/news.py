"""What the requester hears of a plan. Pure."""

from typing import Any, Final

from planmesh.schemas import events, goals
from planmesh.schemas.events import AnyEvent, Commit
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import PlanState, PlanStatus, open_asks, open_gates

OUTCOME_BYTES: Final = 1024 * 1024
"""A result up to this size travels in the news: submitters cannot fetch blobs."""


def news(commit: Commit, event: AnyEvent, result: Payload) -> goals.Outcome | None:
    """What the requester hears of *event*, if anything.

    Args:
        result: The result of a completed plan, as it is to travel.
    """
    about: dict[str, Any] = {"space": commit.space, "goal": commit.plan, "at": commit.at, "number": commit.number}
    match event:
        case events.PlanCreated():
            started = any(isinstance(other, events.PlanStarted) for other in commit.events)
            return goals.Accepted(**about, name=event.plan.name, steps=len(event.plan.steps), draft=not started)
        case events.PlanRefused():
            return goals.Refused(**about, problems=event.problems)
        case events.CommandRefused(verb="create" | "refuse", parent=None):
            return goals.Refused(**about, problems=(goals.Problem(code=event.code, message=event.reason),))
        case events.PlanWaiting() if event.gates or event.asks:
            return goals.Waiting(**about, gates=event.gates, asks=event.asks)
        case events.PlanPaused():
            return goals.Paused(**about, at_steps=event.at_steps, reason=event.reason)
        case events.PlanResumed():
            return goals.Resumed(**about)
        case events.PlanCompleted():
            return goals.Completed(**about, name=event.outcome, result=result)
        case events.PlanFailed():
            return goals.Failed(**about, step=event.step, reason=event.reason)
        case events.PlanCancelled():
            return goals.Cancelled(**about, by=event.by, reason=event.reason)
    return None


def latest(state: PlanState, result: Payload) -> goals.Outcome | None:
    """The news that *state* stands for, told again to whoever publishes the same goal again; None without a plan."""
    if state.updated_at is None:
        return None
    about: dict[str, Any] = {
        "space": state.address.space,
        "goal": state.address.plan,
        "at": state.updated_at,
        "number": state.number,
    }
    match state.status:
        case PlanStatus.REFUSED if state.refused is not None:
            return goals.Refused(**about, problems=state.refused.problems)
        case PlanStatus.WAITING if open_gates(state) or open_asks(state):
            return goals.Waiting(**about, gates=tuple(open_gates(state)), asks=tuple(open_asks(state)))
        case PlanStatus.PAUSED:
            return goals.Paused(**about, at_steps=(*state.troubled, *state.held_steps), reason=state.reason)
        case PlanStatus.COMPLETED:
            return goals.Completed(**about, name=state.outcome, result=result)
        case PlanStatus.FAILED:
            return goals.Failed(**about, step=state.by, reason=state.reason)
        case PlanStatus.CANCELLED:
            return goals.Cancelled(**about, by=state.by, reason=state.reason)
        case PlanStatus.DRAFT | PlanStatus.RUNNING | PlanStatus.WAITING:
            draft = state.status is PlanStatus.DRAFT
            return goals.Accepted(**about, name=state.plan.name, steps=len(state.graph.steps), draft=draft)
    return None
