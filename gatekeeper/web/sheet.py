"""What the pages of gates and of asks have in common, as plain values for a template. Pure.

Everything in it that comes from plans is text that strangers wrote (`planmesh.gatekeeper.web.words`).
"""

from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.web.desk import Case, Fact
from planmesh.gatekeeper.web.history import Event, history
from planmesh.gatekeeper.web.words import line, plain, who, with_people
from planmesh.schemas import events
from planmesh.schemas.events import AskOpened, GateOpened
from planmesh.schemas.plan import LEVELS, OPERATORS, Ask, Gate, Level
from planmesh.schemas.state import ENDED, PlanState, StepState, StepStatus

Asking: TypeAlias = Gate | Ask

ELSEWHERE: Final = "You were told that nobody has answered in time. Only those who are asked can answer."


class Verdict(Struct, frozen=True, kw_only=True):
    """How it stands: `open`, `approved`, `rejected`, `answered`, `skipped`, `closed` or `waiting` (it does not ask
    yet)."""

    how: str
    title: str
    text: str


class Escalated(Struct, frozen=True, kw_only=True):
    """Who was asked as well, when, and why."""

    to: tuple[str, ...]
    at: datetime
    because: str


class Escalates(Struct, frozen=True, kw_only=True):
    """Who will be asked as well, and when, if nobody has answered by then."""

    to: tuple[str, ...]
    at: datetime


class Wanted(Struct, frozen=True, kw_only=True):
    """Another plan that somebody has asked for here.

    Attributes:
        by: Who, as people say it.
        is_own: Whether it was whoever reads.
        said: The instruction, or the reason.
        is_edited: Whether they edited the steps themselves.
        at: When.
        problems: Why it could not be, if it could not.
    """

    by: str
    is_own: bool
    said: str
    is_edited: bool
    at: datetime
    problems: tuple[str, ...] = ()


class Sheet(Struct, frozen=True, kw_only=True):
    """What is shown of a gate or an ask.

    Attributes:
        digest: Of what is shown; an answer quotes it.
        again: What was asked for here, before it asked again.
        pending: What was asked for here, and is not worked out yet.
        needs_level: How whoever answers must have shown who they are, if that is more than the reader has.
        may_answer: Whether there is a form.
        why_not: Why there is none, where that needs saying.
    """

    plan: str
    plan_name: str
    goal: str
    requester: str
    step: str
    label: str
    prompt: str
    round: int
    digest: str
    because: str
    verdict: Verdict
    overdue_at: datetime | None
    is_overdue: bool
    escalated: tuple[Escalated, ...]
    escalates: tuple[Escalates, ...]
    reviewers: tuple[str, ...]
    again: Wanted | None
    pending: Wanted | None
    history: tuple[Event, ...]
    may_answer: bool
    needs_level: Level | None
    why_not: str

    @property
    def is_open(self) -> bool:
        return self.verdict.how == "open"


def asking(state: PlanState, step: str) -> Asking | None:
    """The gate or the ask of this name."""
    found = state.graph.steps.get(step)
    return found if isinstance(found, Gate | Ask) else None


def asked(state: PlanState, step: str) -> tuple[str, ...]:
    """Who may answer a gate or an ask; before it asks, whom its plan names."""
    found = state.graph.steps[step]
    named = found.reviewers if isinstance(found, Gate | Ask) else ()
    opened = state.steps[step].reviewers
    return tuple(dict.fromkeys((*opened, *state.steps[step].also) if opened else (*named, *state.steps[step].also)))


def fields(
    case: Case, name: str, directory: Directory, person: str, level: Level, *, verdict: Verdict, why_not: str
) -> dict[str, Any]:
    """What a `Sheet` has, but for what is special to gates or to asks.

    Args:
        verdict: How it stands.
        why_not: Why *person* cannot answer, though they are asked.
    """
    state = case.state
    step, found = state.graph.steps[name], state.steps[name]
    assert isinstance(step, Gate | Ask)  # or there is no page
    opened = found.opened
    is_open = verdict.how == "open"
    reviewers = asked(state, name)
    mine = directory.groups(person, reviewers)
    why_not = (why_not if mine else ELSEWHERE) if is_open else ""
    least = step.level_for(mine, found.also)
    needs = least if LEVELS.index(level) < LEVELS.index(least) else None
    again, pending = _wanted(case, name, directory, person)
    return {
        "plan": str(state.address),
        "plan_name": line(state.plan.name),
        "goal": plain(state.created.goal if state.created is not None else state.plan.goal),
        "requester": line(state.requester),
        "step": name,
        "label": line(step.label or name),
        "prompt": plain(opened.prompt) if opened is not None else "",
        "round": found.attempt,
        "digest": opened.digest if opened is not None else "",
        "because": plain(opened.because) if opened is not None else "",
        "verdict": verdict,
        "overdue_at": opened.overdue_at if opened is not None else None,
        "is_overdue": found.overdue,
        "escalated": _escalated(case.facts, directory),
        "escalates": _escalates(found, directory) if is_open else (),
        "reviewers": tuple(with_people(directory, reviewer) for reviewer in reviewers or (OPERATORS,)),
        "again": again if is_open else None,
        "pending": pending if is_open else None,
        "history": history(case.facts, directory),
        "may_answer": is_open and not why_not and needs is None,
        "needs_level": needs if is_open and not why_not else None,
        "why_not": why_not,
    }


def _escalated(facts: tuple[Fact, ...], directory: Directory) -> tuple[Escalated, ...]:
    return tuple(
        Escalated(
            to=tuple(with_people(directory, reviewer) for reviewer in event.to), at=at, because=plain(event.because)
        )
        for at, event in facts
        if isinstance(event, events.GateEscalated)
    )


def _escalates(step: StepState, directory: Directory) -> tuple[Escalates, ...]:
    if step.opened is None or step.since is None:
        return ()
    return tuple(
        Escalates(
            to=tuple(with_people(directory, reviewer) for reviewer in one.to),
            at=step.since + timedelta(seconds=one.after_s),
        )
        for one in step.opened.escalate[step.escalated :]
    )


def _wanted(case: Case, name: str, directory: Directory, person: str) -> tuple[Wanted | None, Wanted | None]:
    """What somebody has asked for that this round is the answer to; and what is not answered yet."""
    again: Wanted | None = None
    latest: tuple[str, Wanted] | None = None
    for at, event in case.facts:
        match event:
            case events.RevisionRequested():
                wanted = Wanted(
                    by=who(directory, event.by),
                    is_own=event.by == person,
                    said=plain(event.instruction or event.reason),
                    is_edited=event.document is not None,
                    at=at,
                )
                latest = event.request, wanted
            case events.PlanRevised() if latest is not None and event.request == latest[0]:
                again = latest[1]
            case events.RevisionRefused() if latest is not None and event.request == latest[0]:
                problems = tuple(plain(problem.message, 600) for problem in event.problems[:5])
                again = Wanted(**{**_plain_fields(latest[1]), "problems": problems})
            case GateOpened() | AskOpened() if again is not None and not event.because:
                again = None
    pending = latest[1] if latest is not None and latest[0] in case.state.requests else None
    return again, pending


def _plain_fields(wanted: Wanted) -> dict[str, Any]:
    return {field: getattr(wanted, field) for field in wanted.__struct_fields__}


def closed(state: PlanState, step: StepState, directory: Directory, *, what: str) -> Verdict:
    """How something stands that does not ask, and that nobody has answered.

    Args:
        what: What it is: a `gate`, or a `question`.
    """
    if step.status is StepStatus.SKIPPED:
        return Verdict(how="skipped", title="Skipped by an operator", text=plain(step.reason))
    if state.status in ENDED or step.status is StepStatus.CANCELLED:
        became = {"cancelled": "was cancelled", "failed": "failed", "completed": "is completed"}.get(
            state.status, "has moved on"
        )
        by = f" by {who(directory, state.by)}" if state.status == "cancelled" and state.by else ""
        why = f": {plain(state.reason)}" if state.reason else ""
        return Verdict(
            how="closed",
            title="There is nothing to answer any more",
            text=f"The plan {became}{by}{why}. Nobody answered this {what}.",
        )
    if step.status is StepStatus.NOT_TAKEN:
        return Verdict(how="closed", title="The plan went another way", text=f"This {what} is not asked.")
    return Verdict(
        how="waiting",
        title=f"This {what} is not asked yet" if step.opened is None else f"This {what} will be asked again",
        text="Steps before it have to finish first. You will be told.",
    )


def is_waiting(state: PlanState, step: StepState) -> bool:
    return step.status is StepStatus.WAITING and step.opened is not None and state.status not in ENDED
