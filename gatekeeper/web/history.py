"""What has happened to a gate or an ask, as lines for a page. Pure."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.web.desk import Fact
from planmesh.gatekeeper.web.words import called, plain, who
from planmesh.schemas import events


class Event(Struct, frozen=True, kw_only=True):
    """A line of what has happened: who did what, when, and why."""

    at: datetime
    who: str
    what: str
    why: str = ""
    look: str = ""


def history(facts: Sequence[Fact], directory: Directory) -> tuple[Event, ...]:
    """Everything that has happened, in order."""
    told = (_told(fact, directory, facts[at - 1].event if at else None) for at, fact in enumerate(facts))
    return tuple(event for event in told if event is not None)


def _told(fact: Fact, directory: Directory, before: events.AnyEvent | None) -> Event | None:
    at, event = fact

    def said(by: str, what: str, why: str = "", look: str = "") -> Event:
        return Event(at=at, who=who(directory, by), what=what, why=plain(why), look=look)

    match event:
        case events.GateOpened() | events.AskOpened():
            again = "" if before is None else f" again, as round {event.round}"
            # What was said just now need not be said again.
            is_said = isinstance(before, events.PlanRevised | events.RevisionRefused)
            return said("planmesh", f"asked{again}", "" if is_said else event.because)
        case events.GateOverdue():
            return said("planmesh", "noted that nobody has answered in time", "", "overdue")
        case events.GateEscalated():
            to = ", ".join(called(directory, reviewer) for reviewer in event.to)
            return said("planmesh", f"asked {to} as well", event.because, "overdue")
        case events.VoteCast():
            return said(event.by, f"approved{_how(event.level)}", event.reason, "approved")
        case events.GateApproved():
            return said("planmesh", "opened the gate", "", "approved")
        case events.GateRejected():
            return said(event.by, f"rejected{_how(event.level)}", event.reason, "rejected")
        case events.AnswerInvalid():
            return said(event.by, "gave an answer that did not fit; it was not kept", "", "rejected")
        case events.AskAnswered(by="planmesh"):
            return said(event.by, "took the default", event.reason, "approved")
        case events.AskAnswered():
            return said(event.by, f"answered{_how(event.level)}", event.reason, "approved")
        case events.StepSkipped():
            return said(event.by, "skipped it", event.reason)
        case events.StepReopened():
            return said(event.by, "asked for another round", event.reason)
        case events.StepsCancelled() if event.by:
            return said(event.by, "cancelled it", event.reason)
        case events.PlanCancelled():
            return said(event.by, "cancelled the plan", event.reason, "rejected")
        case events.PlanFailed():
            return said("planmesh", "ended the plan: it failed", event.reason, "rejected")
        case events.RevisionRequested():
            how = "edited what comes next" if event.document is not None else "asked for a change"
            return said(event.by, how, event.instruction or event.reason)
        case events.PlanRevised():
            return said(event.by, f"revised the plan (revision {event.revision})", event.reason)
        case events.RevisionRefused():
            problems = "; ".join(one.message for one in event.problems[:3])
            return said("planner", "could not make the change", problems, "rejected")
    return None


def _how(level: str) -> str:
    return {"link": ", by link", "login": ", signed in"}.get(level, "")
