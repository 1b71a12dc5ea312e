"""What the page of a gate shows, as plain values for a template. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from planmesh.directory import Directory
from planmesh.gatekeeper.web.desk import Case
from planmesh.gatekeeper.web.sheet import Sheet, Verdict, asked, closed, fields, is_waiting
from planmesh.gatekeeper.web.words import (
    Shown,
    called,
    counted,
    duration,
    line,
    listed,
    plain,
    value_of,
    who,
    with_people,
)
from planmesh.schemas import events
from planmesh.schemas.events import Barred, GateOpened, Release, Upstream
from planmesh.schemas.four_eyes import barred, same
from planmesh.schemas.payload import Blob, Payload
from planmesh.schemas.plan import OPERATORS, Gate, Level, Permissions, is_destructive
from planmesh.schemas.quorum import missing
from planmesh.schemas.revision import Change
from planmesh.schemas.state import PlanState, StepState, StepStatus

_MOST_LISTED: Final = 50
_MOST_NAMED: Final = 6


class Before(Struct, frozen=True, kw_only=True):
    """A step that ran before the gate."""

    name: str
    label: str
    status: str
    agent: str
    took: str
    output: Shown | None = None


class Next(Struct, frozen=True, kw_only=True):
    """A step that an approval lets go."""

    name: str
    label: str
    kind: str
    agent: str
    inputs: tuple[tuple[str, Shown], ...] = ()
    permissions: tuple[tuple[str, str], ...] = ()
    destructive: bool = False


class Changed(Struct, frozen=True, kw_only=True):
    """What has become of a step since the gate asked before."""

    name: str
    label: str
    kind: str
    fields: tuple[tuple[str, str, str], ...] = ()


class Approval(Struct, frozen=True, kw_only=True):
    """One of the approvals that a gate takes."""

    by: str
    as_: str
    at: datetime
    reason: str


class GatePage(Sheet, frozen=True, kw_only=True):
    """The page of a gate.

    Attributes:
        approvals: Those so far in this round.
        lacking: Who has to approve yet, in words.
        own: Why the reader may reject, and not approve.
        barred: Who else may not approve, and why.
        for_good: The steps behind the gate that cannot be undone, whether they start at once or later.
        further: What stands behind the steps that an approval starts, as far as it is named.
        reason: Of a rejection: why, and when.
        stuck: That too few of those who are asked may approve it.
    """

    quorum: int
    approvals: tuple[Approval, ...]
    lacking: tuple[str, ...]
    own: str
    barred: tuple[str, ...]
    stuck: str
    require_reason: bool
    four_eyes: bool
    behind: int
    shown: tuple[Shown, ...]
    before: tuple[Before, ...]
    next: tuple[Next, ...]
    for_good: tuple[str, ...]
    further: tuple[str, ...]
    changes: tuple[Changed, ...]
    reason: Approval | None


def gate_page(
    case: Case,
    name: str,
    directory: Directory,
    person: str,
    level: Level,
    values: Mapping[int, object],
    blobs: Mapping[str, object] = {},
) -> GatePage:
    """The page of a gate, for *person*.

    Args:
        case: A plan that has this gate.
        person: Who reads it.
        level: How they have shown who they are.
        values: What the plan shows for the gate, by its place in `GateOpened.shown`.
        blobs: What released steps are given, by its SHA-256, as far as it was fetched.
    """
    state = case.state
    gate, step = state.graph.steps[name], state.steps[name]
    assert isinstance(gate, Gate)  # or there is no page
    opened = step.opened if isinstance(step.opened, GateOpened) else None
    verdict = _verdict(state, step, directory)
    why_not = ""
    lacking = _lacking(gate, step, directory) if verdict.how == "open" and gate.approvals > 1 else ()
    if person in step.votes:
        why_not = f"You have approved. Others have to as well: {'; '.join(lacking)}."
    not_these = barred(state, name)
    mine = next((one for one in not_these if same(one.who, person)), None)
    return GatePage(
        **fields(case, name, directory, person, level, verdict=verdict, why_not=why_not),
        quorum=gate.approvals,
        approvals=_approvals(case, step, directory) if verdict.how in ("open", "approved") else (),
        lacking=lacking,
        own="" if mine is None else _own(state, mine),
        barred=tuple(f"{who(directory, one.who)}, who {_why(state, one)}" for one in not_these if one is not mine),
        stuck=_stuck(gate, asked(state, name), not_these, directory) if verdict.how == "open" else "",
        require_reason=gate.require_reason,
        four_eyes=gate.four_eyes,
        behind=opened.behind if opened is not None else len(state.graph.behind(name)),
        shown=_shown(opened, values),
        before=tuple(_before(state, one) for one in (opened.upstream if opened is not None else ())[:_MOST_LISTED]),
        next=tuple(_next(state, one, blobs) for one in (opened.releases if opened is not None else ())[:_MOST_LISTED]),
        changes=changed(opened.changes if opened is not None else (), state),
        for_good=_for_good(state, name),
        further=_further(state, name, opened),
        reason=_reason(case, step),
    )


def _verdict(state: PlanState, step: StepState, directory: Directory) -> Verdict:
    by = listed([who(directory, one) for one in step.votes])
    if is_waiting(state, step):
        return Verdict(how="open", title="Waiting for a decision", text="")
    if step.status is StepStatus.COMPLETED:
        return Verdict(how="approved", title=f"Approved by {by}", text="What stood behind the gate goes on.")
    if step.status is StepStatus.REJECTED:
        return Verdict(how="rejected", title=f"Rejected by {by}", text="Nothing behind the gate starts.")
    return closed(state, step, directory, what="gate")


def _reason(case: Case, step: StepState) -> Approval | None:
    if step.status is not StepStatus.REJECTED:
        return None
    for at, event in reversed(case.facts):
        if isinstance(event, events.GateRejected):
            return Approval(by="", as_="", at=at, reason=plain(event.reason))
    return None


def _further(state: PlanState, name: str, opened: GateOpened | None) -> tuple[str, ...]:
    """The steps behind the gate, but for those that it starts at once."""
    first = {one.step for one in opened.releases} if opened is not None else set()
    names = [one for one in state.graph.behind(name) if one not in first][:_MOST_NAMED]
    return tuple(_label(state, one) or one for one in names)


def _for_good(state: PlanState, name: str) -> tuple[str, ...]:
    behind = state.graph.behind(name)
    return tuple(_label(state, one) or one for one in behind if is_destructive(state.graph.steps[one]))


def _approvals(case: Case, step: StepState, directory: Directory) -> tuple[Approval, ...]:
    return tuple(
        Approval(
            by=who(directory, event.by),
            as_=", ".join(called(directory, group) for group in event.groups) or "an operator",
            at=at,
            reason=plain(event.reason),
        )
        for at, event in case.facts
        if isinstance(event, events.VoteCast) and event.round == step.attempt
    )


def _lacking(gate: Gate, step: StepState, directory: Directory) -> tuple[str, ...]:
    """Who has to approve yet."""
    left = missing(gate.quorum, gate.shares, step.groups)
    said = []
    for share, count in zip(gate.shares, left.of, strict=True):
        if count:
            said.append(f"{counted(count, 'approval')} from {with_people(directory, share.of)}")
    if left.anybody:
        what = "more approval" if step.votes or said else "approval"
        said.append(f"{counted(left.anybody, what)} from anybody who is asked")
    return tuple(said)


def _why(state: PlanState, one: Barred) -> str:
    if not one.revised:
        return "asked for this plan"
    return f"was the last to revise {_label(state, one.revised) or one.revised}"


def _own(state: PlanState, mine: Barred) -> str:
    why = "asked for this plan"
    if mine.revised:
        why = f"were the last to revise {_label(state, mine.revised) or mine.revised}"
    return f"You {why}, so somebody else has to approve it. You may reject it, or ask for a change."


def _stuck(gate: Gate, reviewers: Sequence[str], not_these: Sequence[Barred], directory: Directory) -> str:
    if OPERATORS in reviewers or not not_these:
        return ""  # there may be more of them than the directory names
    people = {one for reviewer in reviewers for one in directory.people_of(reviewer) or (reviewer,)}
    left = [one for one in people if not any(same(one, other.who) for other in not_these)]
    if len(left) >= gate.approvals:
        return ""
    may = "Nobody who is asked may approve this" if not left else f"Only {len(left)} of those who are asked may approve"
    takes = f", and it takes {gate.approvals}" if left else ""
    return f"{may}{takes}. It can be rejected or changed; an operator can put it to others by a revision."


# --- what there is to read ---------------------------------------------------------------------------------


def _shown(opened: GateOpened | None, values: Mapping[int, object]) -> tuple[Shown, ...]:
    if opened is None:
        return ()
    return tuple(value_of(values.get(at, payload)) for at, payload in enumerate(opened.shown))


def _before(state: PlanState, one: Upstream) -> Before:
    found = state.steps.get(one.step)
    output: Shown | None = None
    if found is not None and found.status is StepStatus.COMPLETED and one.output_sha256:
        output = value_of(found.output, 2_000)
    elif one.output_sha256:
        output = Shown(text="", note=f"{one.output_bytes:,} bytes, SHA-256 {one.output_sha256[:12]}")
    return Before(
        name=one.step,
        label=_label(state, one.step),
        status=one.status.replace("_", " "),
        agent=line(one.agent),
        took=duration(one.duration_s) if one.duration_s is not None else "",
        output=output,
    )


def _next(state: PlanState, one: Release, blobs: Mapping[str, object]) -> Next:
    granted = ((field, getattr(one.permissions, field)) for field in Permissions.__struct_fields__)
    inputs = [
        (line(name), _later(state, value, one.later[name]) if name in one.later else _input(value, blobs))
        for name, value in list(one.inputs.items())[:_MOST_LISTED]
    ]
    if (blob := one.inputs_blob) is not None:
        inputs.append(("all its inputs", Shown(text="", note=f"{blob.size_bytes:,} bytes, SHA-256 {blob.sha256[:12]}")))
    return Next(
        name=one.step,
        label=_label(state, one.step),
        kind=one.kind,
        agent=line(one.agent),
        inputs=tuple(inputs),
        permissions=tuple((field, line(", ".join(values))) for field, values in granted if values),
        destructive=one.destructive,
    )


def _label(state: PlanState, name: str) -> str:
    step = state.graph.steps.get(name)
    return line(step.label) if step is not None else ""


def _input(value: object, blobs: Mapping[str, object]) -> Shown:
    blob = blob_in(value)
    if blob is None:
        return value_of(value, 1_500, exactly=True)
    return value_of(blobs.get(blob.sha256, Payload(blob=blob)), 1_500, exactly=True)


def _later(state: PlanState, value: object, waits_for: tuple[str, ...]) -> Shown:
    steps = ", ".join(_label(state, name) or line(name) for name in waits_for)
    note = f"not known yet: {steps} {'has' if len(waits_for) == 1 else 'have'} to run first"
    return replace(value_of(value, 1_500, exactly=True), note=note)


def blob_in(value: object) -> Blob | None:
    """The blob that *value*, an input of a released step, stands for."""
    match value:
        case {"$blob": str(sha256), "size_bytes": int(size_bytes)}:
            return Blob(sha256=sha256, size_bytes=size_bytes)
    return None


def changed(changes: tuple[Change, ...], state: PlanState) -> tuple[Changed, ...]:
    """What a revision changes, to be read."""
    return tuple(
        Changed(
            name=change.step or "the plan itself",
            label=_label(state, change.step),
            kind=change.kind,
            fields=tuple(row for one in change.fields for row in _rows(one.field, one.before, one.after)),
        )
        for change in changes[:_MOST_LISTED]
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
