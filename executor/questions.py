"""What services hear of the gates and asks that name them. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from planmesh.schemas import events
from planmesh.schemas.events import AnyEvent, Commit, GateOpened
from planmesh.schemas.plan import SERVICE
from planmesh.schemas.questions import NotTaken, Question, Questioned, Settled
from planmesh.schemas.state import PlanState, StepState, StepStatus
from planmesh.schemas.subjects import is_token


class ForService(NamedTuple):
    """What one service hears.

    Attributes:
        service: Its space.
    """

    service: str
    question: Question


def for_services(state: PlanState, commit: Commit, event: AnyEvent) -> list[ForService]:
    """What services hear of *event*; *state* is the plan's, at *commit* or later."""
    match event:
        case events.GateOpened() | events.AskOpened():
            step = state.steps.get(event.step)
            also = () if step is None else step.also
            return _asked(state, commit, event.step, event.round, (*event.reviewers, *also), event.because)
        case events.GateEscalated():
            return _asked(state, commit, event.step, event.round, event.to, "it has been escalated")
        case events.AskAnswered():
            return _settled(state, commit, event.step, "answered", (event.by,))
        case events.GateApproved():
            return _settled(state, commit, event.step, "approved", event.by)
        case events.GateRejected():
            return _settled(state, commit, event.step, "rejected", (event.by,))
        case events.StepSkipped():
            return _settled(state, commit, event.step, "skipped", (event.by,))
        case events.StepsCancelled():
            by = (event.by,) if event.by else ()
            return [
                ForService(service, Settled(**_about(commit, stopped.step), how="cancelled", by=by))
                for stopped in event.stopped
                for service in stopped.services
            ]
        case events.CommandRefused(verb="reply") if event.by.startswith(SERVICE):
            refused = NotTaken(
                **_about(commit, event.step), command=event.command, code=event.code, reason=event.reason
            )
            return [ForService(event.by.removeprefix(SERVICE), refused)]
    return []


def services_among(reviewers: Iterable[str]) -> tuple[str, ...]:
    """The services that are named as reviewers, each once, by their spaces."""
    named = dict.fromkeys(one.removeprefix(SERVICE) for one in reviewers if one.startswith(SERVICE))
    return tuple(name for name in named if is_token(name))  # there is no service of another name


def _asked(
    state: PlanState, commit: Commit, name: str, number: int, reviewers: Iterable[str], because: str
) -> list[ForService]:
    """What is still asked; what has been answered meanwhile is not told."""
    services, step = services_among(reviewers), state.steps.get(name)
    if not services or step is None or step.opened is None or step.opened.round != number:
        return []
    if step.status is not StepStatus.WAITING:
        return []
    opened = step.opened
    given = {
        field: getattr(opened, field) for field in opened.__struct_fields__ if field in Questioned.__struct_fields__
    }
    kind: Any = "gate" if isinstance(opened, GateOpened) else "ask"
    question = Questioned(**{**given, **_about(commit, name), "kind": kind, "because": because})
    return [ForService(service, question) for service in services]


def _settled(state: PlanState, commit: Commit, name: str, how: Any, by: tuple[str, ...]) -> list[ForService]:
    step: StepState | None = state.steps.get(name) or state.superseded.get(name)
    if step is None or step.opened is None:
        return []
    settled = Settled(**_about(commit, name), how=how, by=by)
    return [ForService(service, settled) for service in services_among(step.reviewers)]


def _about(commit: Commit, step: str) -> dict[str, Any]:
    return {"space": commit.space, "plan": commit.plan, "step": step, "at": commit.at, "number": commit.number}
