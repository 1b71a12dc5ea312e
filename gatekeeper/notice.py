"""What there is to say of the round of a gate: the facts that the templates of notices are filled with. Pure.

Plans, outputs and names are written by strangers, and a notice arrives where people trust what they read. So every
text in `Facts` has gone through `defuse` (the link, which is ours, has not): no template has to think of it.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.rounds import Ending, Kind, Reviews, Round
from planmesh.schemas import events
from planmesh.schemas.codec import encode
from planmesh.schemas.events import AskOpened, GateOpened
from planmesh.schemas.four_eyes import same
from planmesh.schemas.payload import Payload, canonical, digest, digest_of
from planmesh.schemas.plan import OPERATORS, Gate, Level, Permissions
from planmesh.schemas.revision import Change
from planmesh.schemas.subjects import Address

SUBJECT_CHARACTERS: Final = 150
_PROMPT_CHARACTERS: Final = 2_000
_SHOWN_CHARACTERS: Final = 1_500
_MOST_SHOWN: Final = 3
_MOST_LINES: Final = 40
_VALUE_CHARACTERS: Final = 600
_OUTPUT_CHARACTERS: Final = 400
_OUTPUT_LINES: Final = 6
_NAME_CHARACTERS: Final = 60
_MOST_INPUTS: Final = 20
_UPSTREAM_CHARACTERS: Final = 3_000
_RELEASES_CHARACTERS: Final = 6_000
_CHANGES_CHARACTERS: Final = 1_500
_DIGEST_CHARACTERS: Final = 12
GATE_DIGEST_CHARACTERS: Final = 16
"""Of a gate's digest, as many as `planmesh gates approve --digest` wants."""

_SUSPECT: Final = re.compile(r"[^\x20-\x7e\n]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_BREAKS: Final = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# A dot that could stand in the name of a host.
_HOST_DOT: Final = re.compile(r"(?<=[^\s.])\.(?=[^\W\d_]{2})")
# What chats take for a mention (also in full width) or a link, and what it becomes. An `@` or a `<` in
# the text of others is never needed to decide.
_INERT: Final = (
    ("@", "(at)"),
    ("\uff20", "(at)"),
    ("\ufe6b", "(at)"),
    ("<", "\u2039"),
    (">", "\u203a"),
    ("://", "[:]//"),
    ("](", "] ("),
)


class Notice(Struct, frozen=True):
    """A subject of one line, and a plain-text body of several."""

    subject: str
    body: str


def defuse(text: str, limit: int, lines: int = 1) -> str:
    """*text* as something that can only be read.

    Control, bidirectional, zero-width and unassigned characters are gone; nothing in it mentions anyone
    (``@everyone``, ``<!channel>``) or is a link; it has at most *limit* characters, on at most *lines* lines. What was
    cut ends in ``…``.
    """
    whole = text[: 8 * limit]  # an output may be megabytes, and what lies far behind the limit is cut anyhow
    whole = _SUSPECT.sub(_visible, _BREAKS.sub("\n", whole))
    for found, inert in _INERT:
        whole = whole.replace(found, inert)
    whole = _HOST_DOT.sub("[.]", whole)
    if lines == 1:
        kept = whole = " ".join(whole.split())
    else:
        whole = "\n".join(line.rstrip() for line in whole.split("\n")).strip("\n")
        kept = "\n".join(whole.split("\n", lines)[:lines])
    if len(kept) > limit or len(kept) < len(whole) or len(text) > 8 * limit:
        kept = f"{kept[: limit - 1].rstrip()}…"
    return kept


def _visible(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\t":
        return " "
    return "" if unicodedata.category(char) in _HIDDEN else char


class PlanFacts(Struct, frozen=True, kw_only=True):
    """The plan.

    Attributes:
        address: ``space.plan``, as the command line takes it.
    """

    name: str
    address: str
    goal: str
    requester: str


class Barred(Struct, frozen=True, kw_only=True):
    """Somebody who may reject, and not approve.

    Attributes:
        who: For people.
        is_reader: Whether the notice is theirs alone.
        revised: The step that they were the last to revise, for people; empty: they asked for the plan.
    """

    who: str
    is_reader: bool
    revised: str


class GateFacts(Struct, frozen=True, kw_only=True):
    """The gate, or the ask, and how it is decided.

    Attributes:
        name: For people.
        step: As the command line takes it.
        prompt: What is asked; empty if the plan does not say.
        digest: As much of it as `planmesh gates approve --digest` wants.
        reviewers: Who is asked, with the names of the people behind roles and teams.
        approvals: How many it takes, at least.
        shares: Whose approvals they have to be, if the plan says so.
        approved_by: Who has approved, where it takes several.
        barred: With `four_eyes`: who may not approve.
        level: How its reader must have shown who they are: ``link``, ``login``, ``operator``.
    """

    name: str
    step: str
    prompt: str
    round: int
    digest: str
    reviewers: tuple[str, ...]
    approvals: int
    shares: tuple[str, ...]
    approved_by: tuple[str, ...]
    four_eyes: bool
    barred: tuple[Barred, ...]
    require_reason: bool
    optional: bool
    level: Level


class AskFacts(Struct, frozen=True, kw_only=True):
    """What an ask wants to know.

    Attributes:
        answer: What it takes: ``text``, ``number``, ``boolean``.
        options: The answers that there are; none: any of that kind.
        default: What is proposed; empty if nothing is.
        is_answered_by_default: Whether the default is the answer when nobody has answered in time.
        is_secret: Whether the answer is a secret, which is entered on the page or by the command line only.
    """

    answer: str
    options: tuple[str, ...]
    default: str
    is_answered_by_default: bool
    is_secret: bool = False


class Escalated(Struct, frozen=True, kw_only=True):
    """That others are asked as well.

    Attributes:
        to: Who, with the names of the people behind roles and teams.
        because: Why.
    """

    to: tuple[str, ...]
    because: str


class Escalates(Struct, frozen=True, kw_only=True):
    """Whom it asks as well, if nobody has decided by then."""

    to: tuple[str, ...]
    at: str


class Value(Struct, frozen=True, kw_only=True):
    """A value, or as much as may be said of it.

    Attributes:
        text: Lines; empty where it is too large, or may not leave.
        note: What stands for it then: its size and digest.
    """

    text: str = ""
    note: str = ""


class Ran(Struct, frozen=True, kw_only=True):
    """A step that the gate waited for.

    Attributes:
        name: For people.
        took: Such as ``4.2 s``; empty if it is not known.
        output: None: it has none.
    """

    name: str
    status: str
    agent: str
    took: str
    output: Value | None


class Next(Struct, frozen=True, kw_only=True):
    """A step that an approval starts.

    Attributes:
        name: For people.
        does: In words, what a step does that calls no agent.
        agent: Who does it; empty for a step that calls nobody.
        inputs: What the agent is given, by name.
        withheld: What stands for the inputs where they may not leave.
        permissions: What it may do.
        destructive: Whether what it does cannot be undone.
    """

    name: str
    does: str
    agent: str
    inputs: tuple[tuple[str, str], ...]
    withheld: str
    permissions: str
    destructive: bool


class Again(Struct, frozen=True, kw_only=True):
    """Why the gate asks again.

    Attributes:
        verdict: Of the round before: ``approved``, ``rejected``, ``answered``; empty if it had none.
        reason: What they said who decided it.
        reopened_by: Who asked for another round.
        because: Why it asks again.
        changes: What has changed since, a step each.
    """

    verdict: str
    by: str
    reason: str
    reopened_by: str
    because: str
    changes: tuple[str, ...]
    more_changes: int


class Verdict(Struct, frozen=True, kw_only=True):
    """How the round ended.

    Attributes:
        how: ``approved``, ``rejected``, ``answered``, ``skipped``, or ``closed``: nobody decided.
        by: Who; ``nobody`` where it followed from how the plan ended.
        answer: To an ask; None where it may not leave.
    """

    how: str
    by: str
    reason: str
    answer: Value | None


class Facts(Struct, frozen=True, kw_only=True):
    """What the template of a notice is given. Every text is safe to be read, and bounded.

    Attributes:
        kind: Which notice it is.
        link: Where the gate can be read and decided; empty where there are no pages.
        is_personal: Whether the link alone says who its reader is.
        deadline: Such as ``2026-01-01 02:00 UTC``; empty if there is none.
        waits: How long that is after the gate opened, such as ``4 h``.
        is_overdue: Whether it has passed.
        ask: What is asked, where it is no gate.
        escalated: Of the notice that says so.
        escalates: What comes next, if nobody decides.
        again: None: it asks for the first time.
        shown: What the plan shows to whoever decides; `more_shown` further ones were left out.
        before: What ran before; `more_before` further ones were left out.
        next: What an approval starts; `more_next` further ones were left out, `behind` more steps follow on them.
        further: The nearest of those that follow, by name and agent.
        verdict: Of a round that has ended.
    """

    kind: Kind
    link: str
    is_personal: bool
    plan: PlanFacts
    gate: GateFacts
    deadline: str
    waits: str
    is_overdue: bool
    ask: AskFacts | None
    escalated: Escalated | None
    escalates: tuple[Escalates, ...]
    again: Again | None
    shown: tuple[Value, ...]
    more_shown: int
    before: tuple[Ran, ...]
    more_before: int
    next: tuple[Next, ...]
    more_next: int
    behind: int
    further: tuple[str, ...]
    verdict: Verdict | None


_NOBODY: Final = Directory()
_DOES: Final[Mapping[str, str]] = {
    "gate": "asks for another approval",
    "ask": "asks people a question",
    "decide": "decides by a rule how the plan goes on",
    "check": "checks a condition",
    "emit": "ends the plan",
    "plan": "lets the planner write a plan",
    "run": "runs another plan",
    "each": "runs steps for each item of a list",
}
_NULL: Final = digest(None)  # of a step that gave nothing
_NO_REVIEW: Final = GateOpened(step="", round=0, digest="", reviewers=(), quorum=1)  # what an ask does not have


def facts(
    address: Address,
    reviews: Reviews,
    asked: Round,
    kind: Kind,
    *,
    level: int = 0,
    link: str = "",
    person: str = "",
    directory: Directory = _NOBODY,
    with_outputs: bool = True,
) -> Facts:
    """What there is to say in a notice of *kind* about a round of a gate of the plan at *address*.

    Args:
        level: Of an escalation: which.
        link: Where the gate can be read and decided.
        person: Whom the link says to be its reader; empty: nobody.
        directory: Who is behind the names of reviewers.
        with_outputs: Whether what steps gave, and what is made of it, may leave; otherwise sizes and digests do.
    """
    opened = asked.opened
    gate = reviews.gate(opened.step) or Gate(name=opened.step)
    # What a prompt is put together from are outputs; the plan's own words are not.
    prompt = opened.prompt if with_outputs else gate.prompt
    review = opened if isinstance(opened, GateOpened) else _NO_REVIEW
    shown = [_shown(payload, with_outputs) for payload in review.shown[:_MOST_SHOWN]]
    before, more_before = _fitting(
        [_ran(step, reviews, with_outputs) for step in review.upstream], len(review.upstream), _UPSTREAM_CHARACTERS
    )
    next_, more_next = _fitting(
        [_next(release, reviews, with_outputs) for release in review.releases],
        len(review.releases),
        _RELEASES_CHARACTERS,
    )
    escalation = next((call for call in asked.calls if call.level == level and call.kind == "escalated"), None)
    deadline = opened.overdue_at
    return Facts(
        kind=kind,
        link=link,
        is_personal=bool(person),
        plan=PlanFacts(
            name=_name(reviews.name),
            address=str(address),
            goal=_lines(reviews.goal, _VALUE_CHARACTERS),
            requester=_name(reviews.requester),
        ),
        gate=GateFacts(
            name=_name(gate.label or gate.name),
            step=gate.name,
            prompt=_lines(prompt, _PROMPT_CHARACTERS),
            round=opened.round,
            digest=opened.digest[:GATE_DIGEST_CHARACTERS],
            reviewers=_called(asked.reviewers, directory),
            approvals=max(review.quorum, sum(share.count for share in review.shares)),
            shares=tuple(f"{share.count} of {defuse(share.of, 100)}" for share in review.shares),
            approved_by=tuple(_name(directory.called(one)) for one in asked.votes),
            four_eyes=isinstance(gate, Gate) and gate.four_eyes,
            barred=tuple(
                Barred(
                    who=_name(directory.called(one.who)),
                    is_reader=same(one.who, person),
                    revised=defuse(reviews.labels.get(one.revised, one.revised), 200),
                )
                for one in review.barred[:_MOST_LINES]
            ),
            require_reason=isinstance(gate, Gate) and gate.require_reason,
            optional=gate.optional,
            level=gate.level_for(directory.groups(person, asked.reviewers), asked.reviewers),
        ),
        deadline="" if deadline is None else time_of(deadline),
        waits="" if deadline is None else duration((deadline - asked.at).total_seconds()),
        is_overdue=asked.overdue,
        ask=_asks(opened) if isinstance(opened, AskOpened) else None,
        escalated=None
        if escalation is None
        else Escalated(to=_called(escalation.reviewers, directory), because=defuse(escalation.because, 300)),
        escalates=tuple(
            Escalates(to=_called(one.to, directory), at=time_of(asked.at + timedelta(seconds=one.after_s)))
            for one in opened.escalate[asked.escalated :]
        ),
        again=None if asked.before is None else _again(asked, asked.before, directory),
        shown=tuple(shown),
        more_shown=len(review.shown) - len(shown),
        before=before,
        more_before=more_before,
        next=next_,
        more_next=more_next,
        behind=max(review.behind - len(review.releases), 0),
        further=tuple(
            f"{_name(name)} (by agent {_name(agent)})" if agent else _name(name)
            for name, agent in reviews.behind.get(opened.step, ())
        ),
        verdict=None if asked.ending is None else _verdict(asked.ending, directory, with_outputs),
    )


def _asks(opened: AskOpened) -> AskFacts:
    return AskFacts(
        answer=opened.answer,
        options=tuple(defuse(option, 200) for option in opened.options[:_MOST_LINES]),
        default="" if opened.default is None else defuse(_told(opened.default), _VALUE_CHARACTERS),
        is_answered_by_default=opened.on_overdue == "default",
        is_secret=opened.secret,
    )


def _called(reviewers: Sequence[str], directory: Directory) -> tuple[str, ...]:
    """Reviewers as the plan names them, and who that is."""
    said = []
    for reviewer in reviewers[:_MOST_LINES]:
        people = directory.people_of(reviewer)
        names = [directory.called(person) for person in people[:_MOST_INPUTS]]
        if len(people) > len(names):
            names.append(f"and {len(people) - len(names)} more")
        if reviewer == OPERATORS and not names:
            names = ["whoever has an operator's credentials"]
        who = f" ({defuse(', '.join(names), 300)})" if names and names != [reviewer.partition(":")[2]] else ""
        said.append(f"{defuse(reviewer, 100)}{who}")
    return tuple(said)


def _verdict(ending: Ending, directory: Directory, with_outputs: bool) -> Verdict:
    # Where nobody said why, the reason may be what an agent said of its failure.
    reason = ending.reason if with_outputs or ending.by else ""
    answer = None
    if ending.answer is not None and with_outputs:
        value = ending.answer.value
        answer = Value(text=_lines(_text(value.get("value") if isinstance(value, dict) else value), _VALUE_CHARACTERS))
    return Verdict(
        how=ending.how, by=_people(ending.by, directory), reason=_lines(reason, _PROMPT_CHARACTERS), answer=answer
    )


def _again(asked: Round, before: Round, directory: Directory) -> Again:
    opened, ending = asked.opened, before.ending
    decided = ending if ending is not None and ending.how in ("approved", "rejected", "answered") else None
    changes: list[str] = []
    if isinstance(opened, GateOpened) and isinstance(before.opened, GateOpened):
        changes = [_changed(change) for change in opened.changes] or _changed_releases(before.opened, opened)
    kept, left = _fitting(changes, len(changes), _CHANGES_CHARACTERS)
    return Again(
        verdict="" if decided is None else decided.how,
        by="" if decided is None else _people(decided.by, directory),
        reason="" if decided is None else _lines(decided.reason, _VALUE_CHARACTERS),
        reopened_by=_people([decided.reopened_by], directory) if decided is not None and decided.reopened_by else "",
        because=_lines(opened.because, _VALUE_CHARACTERS),
        changes=kept,
        more_changes=left,
    )


def _changed(change: Change) -> str:
    fields = ", ".join(field.field for field in change.fields)
    of = f" ({defuse(fields, _VALUE_CHARACTERS)})" if change.kind == "changed" else ""
    return f"{defuse(change.step, 63) or 'the plan itself'}: {change.kind}{of}"


def _changed_releases(before: GateOpened, now: GateOpened) -> list[str]:
    """The steps right behind the gate, where no revision says what has changed."""
    known = {release.step: release for release in before.releases}
    found = {release.step: release for release in now.releases}
    return [step for step in {**known, **found} if known.get(step) != found.get(step)]


def _shown(payload: Payload, with_outputs: bool) -> Value:
    blob = payload.blob
    if blob is not None:
        return Value(note=_size(blob.size_bytes, blob.sha256))
    if not with_outputs:
        return Value(note=_withheld(payload.value))
    return Value(text=_lines(_text(payload.value), _SHOWN_CHARACTERS))


def _ran(step: events.Upstream, reviews: Reviews, with_outputs: bool) -> Ran:
    output = None
    if step.output_sha256 not in ("", _NULL):
        payload = reviews.outputs.get(step.step) if with_outputs else None
        # What the gate has waited for, and no later attempt.
        is_it = payload is not None and digest_of(payload) == step.output_sha256
        text = _lines(_text(payload.value), _OUTPUT_CHARACTERS, _OUTPUT_LINES) if payload is not None and is_it else ""
        output = Value(text=text, note=_size(step.output_bytes, step.output_sha256))
    return Ran(
        name=_name(reviews.labels.get(step.step, step.step)),
        status=defuse(step.status, 30).replace("_", " "),
        agent=_name(step.agent),
        took="" if step.duration_s is None else duration(step.duration_s),
        output=output,
    )


def _next(release: events.Release, reviews: Reviews, with_outputs: bool) -> Next:
    inputs: list[tuple[str, str]] = []
    if with_outputs:
        found = list(release.inputs.items())
        inputs = [
            (_name(name), defuse(_told(value), _VALUE_CHARACTERS) + _later(release.later.get(name, ()), reviews))
            for name, value in found[:_MOST_INPUTS]
        ]
        if len(found) > len(inputs):
            inputs.append(("and", f"{len(found) - len(inputs)} more (planmesh gates show)"))
    return Next(
        name=_name(reviews.labels.get(release.step, release.step)),
        does=_DOES.get(release.kind, f"is a step of the kind {defuse(release.kind, 30)}"),
        agent=_name(release.agent),
        inputs=tuple(inputs),
        withheld="" if with_outputs or not release.inputs else _withheld(release.inputs),
        permissions=_permissions(release.permissions),
        destructive=release.destructive,
    )


def _later(waits_for: Sequence[str], reviews: Reviews) -> str:
    steps = ", ".join(_name(reviews.labels.get(step, step)) for step in waits_for)
    return f" (not known before {steps} {'has' if len(waits_for) == 1 else 'have'} run)" if steps else ""


def _permissions(permissions: Permissions) -> str:
    granted = ((field, getattr(permissions, field)) for field in permissions.__struct_fields__)
    said = "; ".join(f"{field} {', '.join(values)}" for field, values in granted if values)
    return defuse(said, _VALUE_CHARACTERS) or "nothing"


_Item = TypeVar("_Item", str, Ran, Next)


def _fitting(items: Sequence[_Item], count: int, limit: int) -> tuple[tuple[_Item, ...], int]:
    """As many items as take *limit* characters, at least one; and how many of *count* were left out."""
    used = 0
    for index, item in enumerate(items):
        used += len(encode(item))
        if used > limit and index:
            return tuple(items[:index]), count - index
    return tuple(items), count - len(items)


def _name(text: str) -> str:
    return defuse(text, _NAME_CHARACTERS)


def _lines(text: str, limit: int, lines: int = _MOST_LINES) -> str:
    return defuse(text, limit, lines)


def _people(names: Iterable[str], directory: Directory = _NOBODY) -> str:
    return defuse(", ".join(map(directory.called, names)), 300) or "nobody"


def _text(value: object) -> str:
    """A value to be read: a text as it is, an object as its fields."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        return "\n".join(f"{name}: {_told(one)}" for name, one in value.items())
    return encode(value).decode()


def _told(value: object) -> str:
    """A value on one line; a reference to a large one as its size and digest."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("$blob"), str):
        size_bytes = value.get("size_bytes")
        return _size(size_bytes if isinstance(size_bytes, int) else 0, value["$blob"], str(value.get("path", "")))
    return encode(value).decode()


def _withheld(value: object) -> str:
    data = canonical(value)
    return _size(len(data), hashlib.sha256(data).hexdigest())


def _size(size_bytes: int, sha256: str, path: str = "") -> str:
    of = f"{defuse(path, 100)} of " if path else ""
    return f"{of}{size_bytes:,} bytes, SHA-256 {defuse(sha256[:_DIGEST_CHARACTERS], _DIGEST_CHARACTERS)}"


def time_of(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "")))
