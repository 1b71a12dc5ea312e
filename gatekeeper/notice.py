"""What a notice says: the round of a gate as plain text. Pure.

Plans, outputs and names are written by strangers, and a notice arrives where people trust what they read. So every
value goes through `defuse`, and stands on lines that are marked as quoted.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from planmesh.gatekeeper.rounds import Kind, Reviews, Round
from planmesh.schemas.codec import encode
from planmesh.schemas.events import GateOpened, Release, Upstream
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Gate, Permissions
from planmesh.schemas.revision import Change
from planmesh.schemas.subjects import Address

SUBJECT_CHARACTERS: Final = 150
_PROMPT_CHARACTERS: Final = 2_000
_SHOWN_CHARACTERS: Final = 1_500
_MOST_SHOWN: Final = 3
_MOST_LINES: Final = 40
_VALUE_CHARACTERS: Final = 600
_UPSTREAM_CHARACTERS: Final = 2_000
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


def write(
    address: Address, reviews: Reviews, asked: Round, kind: Kind, *, link: str = "", is_personal: bool = False
) -> Notice:
    """The notice of *kind* about a round of a gate of the plan at *address*.

    Args:
        link: Where the gate can be read and decided.
        is_personal: Whether the link alone says who its reader is.
    """
    linked = _linked(kind, link, is_personal)
    gate = reviews.gates.get(asked.opened.step) or Gate(name=asked.opened.step)
    name, plan = defuse(gate.label or gate.name, 60), defuse(reviews.name, 60)
    match kind:
        case "decided":
            return _decided(address, asked, name, plan, linked)
        case "overdue":
            subject = f"Still waiting: {name} ({plan})"
            first = f'Nobody has decided in time: the plan "{plan}" still waits at the gate "{name}".'
        case "opened":
            subject = f"Please decide{'' if asked.before is None else ' again'}: {name} ({plan})"
            first = f'The plan "{plan}" waits at the gate "{name}" for a decision.'
    sections = (
        linked,
        _question(address, reviews, asked, first),
        _answering(address, asked, gate, by_command=not link),
        _shown(asked.opened.shown),
        _upstream(asked.opened.upstream),
        _releases(asked),
        _consequences(asked, gate),
    )
    return _notice(subject, sections)


def _notice(subject: str, sections: Iterable[Iterable[str]]) -> Notice:
    body = "\n\n".join(filter(None, ("\n".join(section) for section in sections)))
    return Notice(defuse(subject, SUBJECT_CHARACTERS), body)


def _linked(kind: Kind, link: str, is_personal: bool) -> tuple[str, ...]:
    """The link, where it is the first thing to be seen."""
    if not link:
        return ()
    if kind == "decided":
        return (f"Read what was decided: {link}",)
    if is_personal:
        return (f"Read it, and decide: {link}", "The link is yours alone: whoever has it answers in your name.")
    return (f"Read it, and decide: {link}",)


def _decided(address: Address, asked: Round, name: str, plan: str, linked: tuple[str, ...]) -> Notice:
    ending = asked.ending
    assert ending is not None  # that is what the notice is about
    by = _people(ending.by)
    verdict = {
        "approved": f"Approved by {by}",
        "rejected": f"Rejected by {by}",
        "skipped": f"Skipped by {by}",
        "closed": "Closed, undecided",
    }[ending.how]
    follows = {
        "approved": "What stood behind the gate goes on.",
        "rejected": "Nothing behind the gate starts.",
        "skipped": "What stood behind the gate goes on without an approval: the plan declares the gate optional.",
        "closed": "The gate asks no longer, and nobody has approved what stood behind it.",
    }[ending.how]
    said = [f'{verdict}: the gate "{name}" of the plan "{plan}".']
    if ending.reason:
        said += ["Reason:", *_quoted(ending.reason, _PROMPT_CHARACTERS)]
    return _notice(f"{verdict}: {name} ({plan})", (linked, said, (follows,), (f"planmesh show {address}",)))


def _question(address: Address, reviews: Reviews, asked: Round, first: str) -> Iterator[str]:
    yield first
    yield from _again(asked)
    if asked.opened.prompt:
        yield "What is asked:"
        yield from _quoted(asked.opened.prompt, _PROMPT_CHARACTERS)
    else:
        yield "What is asked: whether the steps below may start. The plan does not say more."
    if reviews.goal:
        yield "What the plan is for:"
        yield from _quoted(reviews.goal, _VALUE_CHARACTERS)
    yield f"Requested by {defuse(reviews.requester, 60)}, as plan {address}."


def _again(asked: Round) -> Iterator[str]:
    before, opened = asked.before, asked.opened
    if before is None:
        return
    yield f"It asks again: this is round {opened.round}."
    ending = before.ending
    if ending is not None and ending.how in ("approved", "rejected"):
        yield f"{_people(ending.by)} {ending.how} the round before{':' if ending.reason else '.'}"
        if ending.reason:
            yield from _quoted(ending.reason, _VALUE_CHARACTERS)
        if ending.reopened_by:
            yield f"{_people([ending.reopened_by])} asked for another round."
    if opened.because:
        yield "Why it asks again:"
        yield from _quoted(opened.because, _VALUE_CHARACTERS)
    changed = list(map(_changed, opened.changes)) or _changed_releases(before.opened, opened)
    if changed:
        yield "What has changed:"
        yield from _bounded(changed, len(changed), _CHANGES_CHARACTERS)


def _changed(change: Change) -> str:
    fields = ", ".join(field.field for field in change.fields)
    of = f" ({defuse(fields, _VALUE_CHARACTERS)})" if change.kind == "changed" else ""
    return f"  - {change.step or 'the plan itself'}: {change.kind}{of}"


def _changed_releases(before: GateOpened, now: GateOpened) -> list[str]:
    """The steps right behind the gate, where no revision says what has changed."""
    known = {release.step: release for release in before.releases}
    found = {release.step: release for release in now.releases}
    return [f"  - {step}" for step in {**known, **found} if known.get(step) != found.get(step)]


def _answering(address: Address, asked: Round, gate: Gate, by_command: bool) -> Iterator[str]:
    step, opened = gate.name, asked.opened
    if by_command:
        # With the digest, an approval is one of what this notice says, and of nothing else.
        shown = f"--digest {opened.digest[:GATE_DIGEST_CHARACTERS]}"
        yield "How to answer:"
        yield f"  planmesh gates show {address} {step}"
        yield f"  planmesh gates approve {address} {step} {shown}"
        yield f"  planmesh gates reject {address} {step}" + (' --reason "..."' if gate.require_reason else "")
    who = f"Who may answer: {_people(opened.reviewers)}."
    if opened.quorum > 1:
        who += f" It takes {opened.quorum} approvals; one rejection is enough."
    if gate.four_eyes:
        who += " Whoever requested the plan cannot approve it."
    yield who
    if asked.votes:
        yield f"Approved so far by {_people(asked.votes)}."


def _shown(shown: tuple[Payload, ...]) -> Iterator[str]:
    if not shown:
        return
    yield "What the plan shows for it:"
    for payload in shown[:_MOST_SHOWN]:
        blob, value = payload.blob, payload.value
        if blob is not None:
            yield f"  | ({blob.size_bytes:,} bytes, SHA-256 {blob.sha256[:_DIGEST_CHARACTERS]})"
        else:
            yield from _quoted(value if isinstance(value, str) else _json(value), _SHOWN_CHARACTERS)
    if len(shown) > _MOST_SHOWN:
        yield f"  and {len(shown) - _MOST_SHOWN} more (planmesh gates show)"


def _upstream(steps: tuple[Upstream, ...]) -> list[str]:
    if not steps:
        return ["What ran before: nothing."]
    return ["What ran before:", *_bounded(map(_ran, steps), len(steps), _UPSTREAM_CHARACTERS)]


def _ran(step: Upstream) -> str:
    said = f"  - {step.step}: {step.status}"
    if step.agent:
        said += f" by agent {defuse(step.agent, 63)}"
    if step.duration_s is not None:
        said += f" in {_duration(step.duration_s)}"
    if step.output_sha256:
        said += f", output of {step.output_bytes:,} bytes (SHA-256 {step.output_sha256[:_DIGEST_CHARACTERS]})"
    return said


def _releases(asked: Round) -> list[str]:
    opened = asked.opened
    if not opened.behind:
        return ["What an approval starts: nothing; no step stands behind the gate."]
    said = [f"What an approval starts (digest {opened.digest[:GATE_DIGEST_CHARACTERS]}):"]
    said += _bounded(map(_would_do, opened.releases), len(opened.releases), _RELEASES_CHARACTERS)
    further = opened.behind - len(opened.releases)
    if further > 0:
        said.append(f"  and, behind {'it' if len(opened.releases) == 1 else 'them'}, {_count(further, 'more step')}.")
    return said


def _would_do(release: Release) -> str:
    if not release.agent:
        return f"  - {release.step}: a step of the kind {defuse(release.kind, 30)}, which calls no agent"
    inputs, blob = defuse(_json(release.inputs), _VALUE_CHARACTERS), release.inputs_blob
    if blob is not None:
        inputs = f"inputs of {blob.size_bytes:,} bytes (SHA-256 {blob.sha256[:_DIGEST_CHARACTERS]})"
    return (
        f"  - {release.step}: by agent {defuse(release.agent, 63)}\n"
        f"      with: {inputs}\n"
        f"      permitted: {_permissions(release.permissions)}"
    )


def _permissions(permissions: Permissions) -> str:
    granted = ((field, getattr(permissions, field)) for field in permissions.__struct_fields__)
    said = "; ".join(f"{field} {', '.join(values)}" for field, values in granted if values)
    return defuse(said, _VALUE_CHARACTERS) or "nothing"


def _consequences(asked: Round, gate: Gate) -> Iterator[str]:
    deadline = asked.opened.overdue_at
    if deadline is not None:
        waiting = _duration((deadline - asked.at).total_seconds())
        yield f"Deadline: {_time(deadline)}, {waiting} after it asked."
    yield (
        "On no: nothing behind the gate starts. Other branches of the plan go on; then it waits for an operator, who "
        "can ask again or cancel it."
    )
    silence = "On silence: the gate stays closed"
    if deadline is not None and not asked.overdue:
        silence += ", with a reminder at the deadline"
    yield f"{silence}. Waiting never opens it."
    if gate.optional:
        yield "The plan declares the gate optional: an operator may skip it, with a reason."


def _quoted(text: str, limit: int) -> list[str]:
    """Lines that nobody can take for the notice's own."""
    return [f"  | {line}" for line in defuse(text, limit, _MOST_LINES).split("\n")]


def _bounded(items: Iterable[str], count: int, limit: int) -> Iterator[str]:
    """As many of *count* items as fit into *limit* characters, at least one; and how many were left out."""
    used = 0
    for index, item in enumerate(items):
        used += len(item)
        if used > limit and index:
            yield f"  and {count - index} more (planmesh gates show)"
            return
        yield item


def _people(names: Iterable[str]) -> str:
    return defuse(", ".join(names), 300) or "nobody"


def _json(value: Any) -> str:
    return encode(value).decode()


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "")))
