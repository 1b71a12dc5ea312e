"""The tables of docs/messages.md: who may ask what, what answers it, and what each event changes.

`planmesh schema --docs` writes the file, and a test holds it against the code.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from planmesh import streams
from planmesh.contract import (
    CHANNELS,
    Access,
    Message,
    Plain,
    all_streams,
    consumers,
    event_type,
    facts,
    may_pull,
    receivers,
    said_of,
    senders,
    users,
)
from planmesh.schemas import subjects
from planmesh.schemas.commands import VERBS
from planmesh.schemas.events import AnyEvent

_PUBLISHERS: Final = {
    "operator": "an operator, as themselves",
    "person": "the gatekeeper, as whom it has identified",
}

_HEAD: Final = """\
# Messages

Every subject, who may use it, and what comes back. This page is made from the code by `planmesh schema --docs`;
`planmesh schema DIRECTORY` writes the same for programs, as JSON Schema and AsyncAPI 3.0. Every message is JSON; one
stored message of each type is in [tests/golden](../tests/golden).

The server checks who may publish where: whoever asks is read from the subject, never from the message.
"""


def messages_page() -> str:
    """The whole of docs/messages.md."""
    parts = (
        _HEAD,
        _commands(),
        _events(),
        _queries(),
        _subjects(),
        _streams(),
        _consumers(),
        _users(),
    )
    return "\n".join(parts)


def _commands() -> str:
    text = (
        "Published on `commands.<space>.<plan>.<verb>.<actor>`. Every command is answered in the plan's log, by one of "
        "these events at least; those of the steps that it sets going follow. The same `id` twice is one command."
    )
    rows = (
        (
            f"`{verb}`",
            said_of(row.command),
            "; ".join(_PUBLISHERS.get(who, f"the {who}") for who in row.publishers),
            ", ".join(f"`{event_type(event)}`" for event in row.answers),
        )
        for verb, row in VERBS.items()
    )
    return _section("Commands", text, ("Verb", "Asks", "Published by", "Answered by"), rows)


def _events() -> str:
    text = "What a plan's log holds: each message on `plans.<space>.<plan>` is a commit, with one or more of these."
    rows = ((f"`{event_type(event)}`", said_of(event)) for event in get_args(AnyEvent))
    return _section("Events", text, ("Event", "Transition"), rows)


def _queries() -> str:
    text = "Requests, on `query.<name>`. To the auditor, an empty one asks with every default."
    rows = (
        (
            f"`{channel.address}`",
            _names(channel.messages),
            _names(channel.replies),
            _of(receivers(channel)),
            channel.summary,
        )
        for channel in CHANNELS
        if channel.subject is subjects.query
    )
    return _section("Queries", text, ("Subject", "Question", "Answer", "Answered by", "About"), rows)


def _subjects() -> str:
    text = "What is not stored in a stream is a request, or a hint that may be lost."
    rows = (
        (
            f"`{channel.address}`",
            "; answered by: ".join(filter(None, (_names(channel.messages), _names(channel.replies)))),
            _of(senders(channel)),
            _of(receivers(channel)) or "nobody",
            channel.stream.name if channel.stream else "-",
        )
        for channel in CHANNELS
        if channel.subject not in (subjects.command, subjects.query)
    )
    return _section("Other subjects", text, ("Subject", "Message", "Sent by", "Received by", "Stored in"), rows)


def _names(messages: Iterable[Message]) -> str:
    return ", ".join(one.summary if isinstance(one, Plain) else f"`{one.__name__}`" for one in messages)


def _of(found: Iterable[Access]) -> str:
    return ", ".join(dict.fromkeys(f"`{one.user}`" for one in found))


def _streams() -> str:
    rows = (
        (
            f"`{one.name}`",
            one.account,
            _code(one.settings["subjects"]),
            one.settings.get("retention", "limits"),
            _age(one.settings.get("max_age", 0)),
            _rest(one.settings, {"name", "subjects", "retention", "max_age", "storage", "num_replicas"}),
        )
        for one in all_streams()
    )
    text = "All are files, on as many servers of a cluster as `replicas` says."
    return _section("Streams", text, ("Stream", "Account", "Subjects", "Retention", "Kept for", "Settings"), rows)


def _consumers() -> str:
    known = {"durable_name", "filter_subject", "ack_wait", "max_ack_pending", "deliver_policy", "max_deliver"}
    rows = (
        (
            f"`{one.stream}`",
            f"`{one.name}`",
            _of_consumer(one),
            f"`{one.settings['filter_subject']}`" if "filter_subject" in one.settings else "all",
            f"{one.settings['ack_wait'] / 1e9:g} s",
            _un_acked(one.settings.get("max_ack_pending", "the server's limit")),
            _rest(one.settings, known),
        )
        for one in consumers()
    )
    head = ("Stream", "Consumer", "Pulled by", "Of", "Ack wait", "Un-acked", "Settings")
    return _section("Consumers", "Durable, pulled, and never giving up on a message.", head, rows)


def _un_acked(limit: object) -> str:
    return "no limit" if limit == -1 else _number(limit)


def _of_consumer(one: streams.Consumer) -> str:
    return _code(user.name for user in users() if may_pull(user, one))


def _users() -> str:
    text = (
        "Allow-lists, and nothing else. Who is alone in an account imports exactly these subjects into it. The "
        "administrators (`admin`, `admin-agents`, `admin-edge`, `admin-system`) are for `planmesh` itself."
    )
    rows = (
        (
            f"`{user.name}`",
            "its own" if user.is_alone else user.account,
            _code(user.publish, "<br>"),
            _code(user.subscribe, "<br>"),
        )
        for user in users()
    )
    return _section("Users", text, ("User", "Account", "May publish", "May subscribe"), rows)


# --- Markdown ----------------------------------------------------------------------------------------------


def _section(title: str, text: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"## {title}\n\n{text}\n\n{table}\n"


def _code(words: Iterable[str], between: str = ", ") -> str:
    return between.join(f"`{word}`" for word in words)


def _rest(settings: Mapping[str, Any], known: set[str]) -> str:
    """Settings that have no column of their own."""
    left = {name: value for name, value in settings.items() if name not in known}
    return ", ".join(f"`{name}` {_number(value)}" for name, value in facts(left).items())


def _number(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _age(nanoseconds: int) -> str:
    return f"{nanoseconds / 86_400e9:g} days" if nanoseconds else "ever"
