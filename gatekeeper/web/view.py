"""What a page says of a gate, as plain values for a template. Pure.

Everything in it that comes from plans is text that strangers wrote: templates escape it, and `plain` has taken out
what would hide or reorder it.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.web.desk import Case, Fact
from planmesh.schemas import events
from planmesh.schemas.events import GateOpened, Release, Upstream
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import LEVELS, Gate, Level, Permissions
from planmesh.schemas.queries import GateRow
from planmesh.schemas.state import ENDED, PlanState, StepState, StepStatus

TEXT_CHARACTERS: Final = 6_000
_LINE_CHARACTERS: Final = 300
_MOST_LISTED: Final = 50
_BRIEF_CHARACTERS: Final = 80
_KEPT: Final = frozenset("\n\t")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


class Shown(Struct, frozen=True, kw_only=True):
    """A value to be read.

    Attributes:
        text: As much of it as is shown; empty if it is only named.
        note: What there is to know beside it: that it was cut, or its size and digest.
    """

    text: str
    note: str = ""

    @property
    def is_short(self) -> bool:
        """Whether it needs no frame of its own."""
        return 0 < len(self.text) <= _BRIEF_CHARACTERS and "\n" not in self.text


class Event(Struct, frozen=True, kw_only=True):
    """A line of what has happened: who did what, when, and why."""

    at: datetime
    who: str
    what: str
    why: str = ""
    look: str = ""


class Before(Struct, frozen=True, kw_only=True):
    """A step that ran before the gate."""

    name: str
    status: str
    agent: str
    took: str
    output: Shown | None = None


class Next(Struct, frozen=True, kw_only=True):
    """A step that an approval lets go."""

    name: str
    kind: str
    agent: str
    inputs: tuple[tuple[str, Shown], ...] = ()
    permissions: tuple[tuple[str, str], ...] = ()


class Changed(Struct, frozen=True, kw_only=True):
    """What has become of a step since the gate asked before."""

    name: str
    kind: str
    fields: tuple[tuple[str, str, str], ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """How a gate stands: `open`, `approved`, `rejected`, `skipped`, `closed` or `waiting` (it does not ask yet)."""

    how: str
    title: str
    text: str


class Page(Struct, frozen=True, kw_only=True):
    """Everything that the page of a gate shows.

    Attributes:
        digest: Of what is shown; an answer quotes it.
        needs_level: How whoever decides must have shown who they are, if that is more than the reader has.
        may_answer: Whether there is a form.
        why_not: Why there is none, where that needs saying.
    """

    plan: str
    plan_name: str
    goal: str
    requester: str
    gate: str
    label: str
    prompt: str
    round: int
    digest: str
    because: str
    verdict: Verdict
    opened_at: datetime | None
    overdue_at: datetime | None
    is_overdue: bool
    reviewers: tuple[str, ...]
    quorum: int
    approved_by: tuple[str, ...]
    require_reason: bool
    four_eyes: bool
    is_optional: bool
    behind: int
    shown: tuple[Shown, ...]
    before: tuple[Before, ...]
    next: tuple[Next, ...]
    changes: tuple[Changed, ...]
    history: tuple[Event, ...]
    may_answer: bool
    needs_level: Level | None
    why_not: str


class Item(Struct, frozen=True, kw_only=True):
    """A line of an inbox."""

    path: str
    title: str
    plan_name: str
    requester: str
    prompt: str
    since: datetime
    overdue_at: datetime | None
    is_overdue: bool
    has_approved: bool
    asked_as: str


def is_gate(state: PlanState, step: str) -> bool:
    return isinstance(state.graph.steps.get(step), Gate)


def page(
    case: Case, gate_name: str, directory: Directory, person: str, level: Level, values: Mapping[int, object]
) -> Page:
    """The page of a gate, for *person*.

    Args:
        case: A plan that has this gate.
        person: Who reads it.
        level: How they have shown who they are.
        values: What the plan shows for the gate, by its place in `GateOpened.shown`.
    """
    state = case.state
    gate, step = state.graph.steps[gate_name], state.steps[gate_name]
    assert isinstance(gate, Gate)  # or there is no page
    opened = step.opened if isinstance(step.opened, GateOpened) else None
    verdict = _verdict(state, gate, step, case.facts, directory)
    is_open = verdict.how == "open"
    least = gate.level_for(directory.groups(person, step.reviewers), step.also)
    needs = least if LEVELS.index(level) < LEVELS.index(least) else None
    why_not = _why_not(state, gate, step, directory, person) if is_open else ""
    return Page(
        plan=str(state.address),
        plan_name=line(state.plan.name),
        goal=plain(state.created.goal if state.created is not None else state.plan.goal),
        requester=line(state.requester),
        gate=gate_name,
        label=line(gate.label or gate_name),
        prompt=plain(opened.prompt) if opened is not None else "",
        round=step.attempt,
        digest=opened.digest if opened is not None else "",
        because=plain(opened.because) if opened is not None else "",
        verdict=verdict,
        opened_at=step.since if is_open else None,
        overdue_at=opened.overdue_at if opened is not None else None,
        is_overdue=step.overdue,
        reviewers=tuple(called(directory, reviewer) for reviewer in dict.fromkeys((*gate.reviewers, *step.also))),
        quorum=gate.quorum,
        approved_by=tuple(map(directory.called, step.votes)) if is_open else (),
        require_reason=gate.require_reason,
        four_eyes=gate.four_eyes,
        is_optional=gate.optional,
        behind=opened.behind if opened is not None else len(state.graph.behind(gate_name)),
        shown=_shown(opened, values),
        before=tuple(_before(state, one) for one in (opened.upstream if opened is not None else ())[:_MOST_LISTED]),
        next=tuple(_next(one) for one in (opened.releases if opened is not None else ())[:_MOST_LISTED]),
        changes=_changes(opened),
        history=tuple(filter(None, (_event(fact, directory, is_first=not at) for at, fact in enumerate(case.facts)))),
        may_answer=is_open and not why_not and needs is None,
        needs_level=needs if is_open and not why_not else None,
        why_not=why_not,
    )


def inbox(rows: tuple[GateRow, ...], directory: Directory, person: str) -> tuple[Item, ...]:
    """The gates that *person* is asked to decide: what is overdue or due first comes first."""
    found = [
        Item(
            path=f"/gates/{row.space}/{row.plan}/{row.step}",
            title=line(row.label or row.step),
            plan_name=line(row.plan_name),
            requester=line(row.space),
            prompt=_cut(line(row.prompt), 180),
            since=row.since,
            overdue_at=row.overdue_at,
            is_overdue=row.overdue,
            has_approved=person in row.votes,
            asked_as=", ".join(called(directory, group) for group in groups),
        )
        for row in rows
        if row.kind == "gate" and (groups := directory.groups(person, row.reviewers))
    ]
    never = datetime.max.replace(tzinfo=UTC)
    found.sort(key=lambda item: (item.has_approved, not item.is_overdue, item.overdue_at or never))
    return tuple(found)


def called(directory: Directory, reviewer: str) -> str:
    """A reviewer as people say it."""
    kind, _, name = reviewer.partition(":")
    match kind:
        case "person":
            return line(directory.called(name))
        case "role":
            return "an operator" if name == "operator" else f"the {line(name)}"
        case "team":
            return f"the team {line(name)}"
    found = directory.people_of(reviewer)
    return line(directory.called(found[0]) if found else reviewer)


# --- how it stands -----------------------------------------------------------------------------------------


def _verdict(state: PlanState, gate: Gate, step: StepState, facts: tuple[Fact, ...], directory: Directory) -> Verdict:
    by = ", ".join(line(directory.called(one)) for one in step.votes)
    match step.status:
        case StepStatus.WAITING if step.opened is not None and state.status not in ENDED:
            return Verdict(how="open", title="Waiting for a decision", text="")
        case StepStatus.COMPLETED:
            return Verdict(how="approved", title=f"Approved by {by}", text="What stood behind the gate goes on.")
        case StepStatus.REJECTED:
            return Verdict(how="rejected", title=f"Rejected by {by}", text="Nothing behind the gate starts.")
        case StepStatus.SKIPPED:
            return Verdict(how="skipped", title="Skipped by an operator", text=plain(step.reason))
    if state.status in ENDED or step.status is StepStatus.CANCELLED:
        what = {"cancelled": "was cancelled", "failed": "failed", "completed": "is completed"}.get(
            state.status, "has moved on"
        )
        by = f" by {line(directory.called(state.by))}" if state.status == "cancelled" and state.by else ""
        return Verdict(
            how="closed",
            title="There is nothing to decide any more",
            text=f"The plan {what}{by}{f': {plain(state.reason)}' if state.reason else ''}. Nobody decided this gate.",
        )
    if step.status is StepStatus.NOT_TAKEN:
        return Verdict(how="closed", title="The plan went another way", text="This gate is not asked.")
    return Verdict(
        how="waiting",
        title="This gate does not ask yet" if step.opened is None else "This gate will ask again",
        text="Steps before it have to finish first. You will be told.",
    )


def _why_not(state: PlanState, gate: Gate, step: StepState, directory: Directory, person: str) -> str:
    if person in step.votes:
        left = gate.quorum - len(step.votes)
        return f"You have approved. It takes {left} more approval{'' if left == 1 else 's'} by others."
    if not directory.groups(person, (*gate.reviewers, *step.also)):
        return "You were told that nobody has decided in time. Only its reviewers can decide it."
    return ""


# --- what there is to read ---------------------------------------------------------------------------------


def _shown(opened: GateOpened | None, values: Mapping[int, object]) -> tuple[Shown, ...]:
    if opened is None:
        return ()
    return tuple(_value(values.get(at, payload)) for at, payload in enumerate(opened.shown))


def _value(value: object, most: int = TEXT_CHARACTERS) -> Shown:
    if isinstance(value, Payload):
        if value.blob is not None:
            return Shown(text="", note=f"{value.blob.size_bytes:,} bytes, SHA-256 {value.blob.sha256[:12]}")
        value = value.value
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str)
    shown = plain(text, most)
    note = f"The first {most:,} of {len(text):,} characters." if len(text) > most else ""
    return Shown(text=shown, note=note)


def _before(state: PlanState, one: Upstream) -> Before:
    found = state.steps.get(one.step)
    output: Shown | None = None
    if found is not None and found.status is StepStatus.COMPLETED and one.output_sha256:
        output = _value(found.output, 2_000)
    elif one.output_sha256:
        output = Shown(text="", note=f"{one.output_bytes:,} bytes, SHA-256 {one.output_sha256[:12]}")
    return Before(
        name=one.step,
        status=one.status.replace("_", " "),
        agent=line(one.agent),
        took=duration(one.duration_s) if one.duration_s is not None else "",
        output=output,
    )


def _next(one: Release) -> Next:
    granted = ((field, getattr(one.permissions, field)) for field in Permissions.__struct_fields__)
    inputs = [(line(name), _value(value, 1_500)) for name, value in list(one.inputs.items())[:_MOST_LISTED]]
    if (blob := one.inputs_blob) is not None:
        inputs.append(("all its inputs", Shown(text="", note=f"{blob.size_bytes:,} bytes, SHA-256 {blob.sha256[:12]}")))
    return Next(
        name=one.step,
        kind=one.kind,
        agent=line(one.agent),
        inputs=tuple(inputs),
        permissions=tuple((field, line(", ".join(values))) for field, values in granted if values),
    )


def _changes(opened: GateOpened | None) -> tuple[Changed, ...]:
    if opened is None:
        return ()
    return tuple(
        Changed(
            name=change.step or "the plan itself",
            kind=change.kind,
            fields=tuple(row for one in change.fields for row in _rows(one.field, one.before, one.after)),
        )
        for change in opened.changes[:_MOST_LISTED]
    )


def _rows(field: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """What has changed in a field; of an object, only the keys that have."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            if before.get(key) != after.get(key):
                yield f"{line(field)}: {line(str(key))}", _short(before.get(key)), _short(after.get(key))
    else:
        yield line(field), _short(before), _short(after)


def _short(value: Any) -> str:
    if value is None:
        return ""
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 600)


def _event(fact: Fact, directory: Directory, *, is_first: bool) -> Event | None:
    at, event = fact

    def said(who: str, what: str, why: str = "", look: str = "") -> Event:
        return Event(at=at, who=line(directory.called(who)), what=what, why=plain(why), look=look)

    match event:
        case events.GateOpened():
            again = "" if is_first else f" again, as round {event.round}"
            return said("planmesh", f"asked{again}", event.because)
        case events.GateOverdue():
            return said("planmesh", "noted that nobody has decided in time", "", "overdue")
        case events.GateEscalated():
            to = ", ".join(called(directory, reviewer) for reviewer in event.to)
            return said("planmesh", f"asked {to} as well", event.because, "overdue")
        case events.VoteCast():
            return said(event.by, f"approved{_how(event.level)}", event.reason, "approved")
        case events.GateApproved():
            return said("planmesh", "opened the gate", "", "approved")
        case events.GateRejected():
            return said(event.by, f"rejected{_how(event.level)}", event.reason, "rejected")
        case events.StepSkipped():
            return said(event.by, "skipped the gate", event.reason)
        case events.StepReopened():
            return said(event.by, "asked for another round", event.reason)
        case events.StepsCancelled() if event.by:
            return said(event.by, "cancelled the gate", event.reason)
        case events.PlanCancelled():
            return said(event.by, "cancelled the plan", event.reason, "rejected")
        case events.PlanFailed():
            return said("planmesh", "ended the plan: it failed", event.reason, "rejected")
        case events.RevisionRequested():
            return said(event.by, "asked for a change", event.instruction or event.reason)
        case events.PlanRevised():
            return said(event.by, f"revised the plan (revision {event.revision})", event.reason)
        case events.RevisionRefused():
            problems = "; ".join(one.message for one in event.problems[:3])
            return said("planner", "could not make the change", problems, "rejected")
    return None


def _how(level: str) -> str:
    return {"link": ", by link", "login": ", signed in"}.get(level, ", as an operator")


# --- text --------------------------------------------------------------------------------------------------


def plain(text: str, most: int = TEXT_CHARACTERS) -> str:
    """*text* without what hides or reorders it, and cut to *most* characters."""
    cut = text[:most].replace("\r\n", "\n")
    kept = "".join(char for char in cut if char in _KEPT or unicodedata.category(char) not in _HIDDEN)
    return f"{kept}…" if len(text) > most else kept


def line(text: str) -> str:
    """*text* on one line."""
    return " ".join(plain(text, _LINE_CHARACTERS).split())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"


def moment(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def distance(at: datetime, now: datetime) -> str:
    """How far *at* is from *now*: ``in 3 h``, ``2 min ago``."""
    seconds = (at - now).total_seconds()
    if abs(seconds) < 60:
        return "now" if seconds > 0 else "just now"
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"
