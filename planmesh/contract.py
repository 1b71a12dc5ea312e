"""What travels over NATS, as documents: JSON Schema, AsyncAPI 3.0, and the tables of docs/messages.md.

Everything is drawn from what the services themselves run on: subjects from `schemas.subjects`, commands from
`commands.VERBS`, queries from `queries.QUERIES`, streams from `streams`, and who may do what from `access`. The only
list here is `CHANNELS`: which messages go where. Examples are the stored messages of ``tests/golden``.

Sources: https://json-schema.org/draft/2020-12, https://www.asyncapi.com/docs/reference/specification/v3.0.0.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple, TypeAlias, get_args

import msgspec
from msgspec import Struct

from planmesh import access, streams
from planmesh.access import User
from planmesh.schemas import subjects
from planmesh.schemas.commands import VERBS, CreatePlan, ProposeRevision, RefuseGoal
from planmesh.schemas.events import AnyEvent, Commit, Event
from planmesh.schemas.goals import Goal, Outcome
from planmesh.schemas.payload import Blob
from planmesh.schemas.plan import Plan, Step
from planmesh.schemas.previews import PreviewAnswer, PreviewQuery
from planmesh.schemas.queries import (
    QUERIES,
    LogLine,
    QueryError,
    TemplateAnswer,
    TemplateQuery,
    TemplatesAnswer,
    TemplatesQuery,
)
from planmesh.schemas.questions import Question
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import (
    AgentDescription,
    PlannerWork,
    Progress,
    Result,
    Results,
    Reveal,
    Revealed,
    Signal,
    StepPlanning,
    StepWork,
    TimerWork,
)

_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, eq=False)
class Plain:
    """A message that is no struct.

    Attributes:
        name: What the documents call it.
        content_type: Its media type.
        schema: Of its payload.
        summary: One line.
        headers: What each header says.
    """

    name: str
    content_type: str
    schema: Mapping[str, Any]
    summary: str
    headers: Mapping[str, str] = field(default_factory=dict)


Message: TypeAlias = type[Struct] | Plain

BLOB_BYTES: Final = Plain("BlobBytes", "application/json", {}, "A JSON value, of which the SHA-256 is known")
BLOB_NAME: Final = Plain(
    "BlobName", "text/plain", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "The SHA-256 of a blob, in hex"
)
CLAIM: Final = Plain("Claim", "text/plain", {"type": "string"}, "The worker that begins the attempt, as `host/pid`")
SECRET: Final = Plain("Secret", "text/plain", {"type": "string"}, "A secret, in UTF-8; only the executor can read it")
SENDING: Final = Plain(
    "NoticeState",
    "text/plain",
    {"type": "string", "pattern": "^(failed|sending \\w+)$"},
    "`sending` and who sends it, or `failed`: it certainly did not arrive",
)
SET_ASIDE: Final = Plain(
    "SetAside",
    "application/octet-stream",
    {},
    "A message that could not be handled, byte for byte; where it came from is in its headers",
    {
        "Planmesh-Account": "The account it came from.",
        "Planmesh-Stream": "The stream it came from.",
        "Planmesh-Sequence": "Its sequence there.",
        "Planmesh-Subject": "Its subject there.",
        "Planmesh-Error": "Why it is here.",
        "Planmesh-Traceback": "Of a bug.",
        "Planmesh-Cut": "How many bytes it had, if not all of them fitted.",
    },
)


def said_of(what: object) -> str:
    """The first paragraph of a docstring, on one line; empty without one."""
    return " ".join((inspect.cleandoc(what.__doc__ or "")).partition("\n\n")[0].split())


class Channel(NamedTuple):
    """Where messages of some types go.

    Attributes:
        subject: The function of `schemas.subjects` that makes the subject.
        messages: What is published there.
        summary: One line.
        fixed: Arguments of `subject` that decide which messages these are.
        replies: What may be answered; none where nothing is asked.
    """

    subject: Callable[..., str]
    messages: tuple[Message, ...]
    summary: str
    fixed: Mapping[str, str] = _NOTHING
    replies: tuple[Message, ...] = ()

    @property
    def key(self) -> str:
        """What the documents call it: ``plan_log``, ``command_create``."""
        return "_".join((self.subject.__name__, *self.fixed.values()))

    @property
    def address(self) -> str:
        """The subject with its parameters in braces: ``plans.{space}.{plan}``."""
        return template(self.subject, self.fixed)

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)\}", self.address))

    @property
    def stream(self) -> "streams.Stream | None":
        """Where its messages are stored, if they are."""
        wildcard = _any(self.address)
        found = [one for one in all_streams() if any(_covers(_any(of), wildcard) for of in one.settings["subjects"])]
        return found[0] if found else None


def _commands() -> Iterator[Channel]:
    for verb, row in VERBS.items():
        yield Channel(subjects.command, (row.command,), said_of(row.command), {"verb": verb})


def _queries() -> Iterator[Channel]:
    for name, (question, answer) in QUERIES.items():
        summary = said_of(question).partition(": ")[2]
        yield Channel(subjects.query, (question,), summary, {"name": name}, (answer, QueryError))


CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(subjects.goal, (Goal,), "What is asked of planmesh."),
    Channel(subjects.outcome, get_args(Outcome), "What becomes of a goal."),
    Channel(subjects.question, get_args(Question), "What a service is asked that a gate or an ask names."),
    *_commands(),
    Channel(subjects.plan_log, (Commit,), "The log of a plan: one message for each decision."),
    Channel(subjects.agent_work, (StepWork,), "Steps for an agent to run."),
    Channel(subjects.planner_work, (PlannerWork,), "Revisions for the planner to work out."),
    Channel(subjects.step_planning, get_args(StepPlanning), "Plans for the planner to write, or to check and run."),
    Channel(subjects.timer, (TimerWork,), "Waits: a retry later, the SLA of a gate."),
    Channel(subjects.claim, (CLAIM,), "Begins an attempt that must not begin twice: only the first message is taken."),
    Channel(subjects.notice, (SENDING,), "Before a notice is sent: whoever finds it does not send that once more."),
    Channel(subjects.results, (Results,), "What became of attempts."),
    Channel(subjects.catalogue, (AgentDescription,), "What an agent says of itself."),
    Channel(subjects.progress, (Progress,), "How an attempt is going."),
    Channel(subjects.signals, (Signal,), "Hints to whoever runs a step."),
    Channel(subjects.put_blob, (BLOB_BYTES,), "Store a large value.", replies=(Blob,)),
    Channel(subjects.get_blob, (BLOB_NAME,), "Fetch a large value.", replies=(BLOB_BYTES,)),
    Channel(subjects.blob, (BLOB_BYTES,), "Large values, each under the SHA-256 of its bytes."),
    *(
        Channel(subjects.secret, (SECRET,), "An answer to an ask with `secret`.", {"verb": verb})
        for verb, row in VERBS.items()
        if row.may_name_a_secret
    ),
    Channel(subjects.reveal, (Reveal,), "Fetch the secrets that an attempt is given.", replies=(Revealed,)),
    Channel(subjects.poison, (SET_ASIDE,), "Messages that could not be handled: `planmesh poison`."),
    *_queries(),
    Channel(
        subjects.query,
        (PlannerWork,),
        "What a revision would come to; nothing changes.",
        {"name": "proposal"},
        (ProposeRevision,),
    ),
    Channel(
        subjects.query,
        (Goal,),
        "What would become of a goal; nothing is stored, and nothing starts.",
        {"name": "draft"},
        (CreatePlan, RefuseGoal),
    ),
    Channel(
        subjects.query, (TemplatesQuery,), "The plans that the mesh keeps.", {"name": "templates"}, (TemplatesAnswer,)
    ),
    Channel(
        subjects.query,
        (TemplateQuery,),
        "One plan that the mesh keeps, with its text.",
        {"name": "template"},
        (TemplateAnswer,),
    ),
    Channel(
        subjects.query,
        (PreviewQuery,),
        "What a command would do; nothing changes.",
        {"name": "preview"},
        (PreviewAnswer,),
    ),
)

PARAMETERS: Final[Mapping[str, str]] = {
    "space": "Who asked: the space of a submitter.",
    "plan": "The plan's id, which is the goal's.",
    "step": "The step's name.",
    "attempt": "The attempt, from 1; of a gate or an ask, its round.",
    "agent": "The agent's name.",
    "actor": "Who asks: `planner`, `executor`, `gatekeeper`, the person, or the space of the service.",
    "asked": "The space of the service that is asked.",
    "sha256": "The SHA-256 of the bytes, in hex.",
    "notice": "What is said; of an escalation, also which.",
    "channel": "The operator's name for it.",
    "service": "Who could not handle it.",
    "secret": "A random id, which the answer names.",
    "stream": "The stream it came from; with `-` and who wrote it, where outsiders may write.",
}
"""What may stand in the braces. Every one is 1 to 64 of the characters A-Z a-z 0-9 _ -."""

_PARTS: Final[Mapping[type[Struct], Any]] = {Commit: AnyEvent, Results: Result, Plan: Step}


def event_type(event: type[Event]) -> str:
    """What the log calls it: ``plan.created``."""
    return str(event.__struct_config__.tag)


class Sample(NamedTuple):
    """A message of which ``tests/golden`` has to hold one.

    Attributes:
        name: The file's, without ``.json``: the message, and what it has to contain where it could be one of several.
        message: What it decodes to.
        part: What it has to contain; `message` itself where there is nothing to choose.
    """

    name: str
    message: type[Struct]
    part: type[Struct]


def messages() -> tuple[Message, ...]:
    """Every message, once, in the order of `CHANNELS`; answers follow their questions."""
    return tuple(dict.fromkeys(one for channel in CHANNELS for one in (*channel.messages, *channel.replies)))


def samples() -> tuple[Sample, ...]:
    """What ``tests/golden`` has to hold: one of each message, each event, each result and each kind of step."""
    found: list[Sample] = []
    for message in (*messages(), Plan):
        if isinstance(message, Plain):
            continue
        parts = get_args(_PARTS[message]) if message in _PARTS else ()
        found += [Sample(f"{message.__name__}.{part.__name__}", message, part) for part in parts]
        if not parts:
            found.append(Sample(message.__name__, message, message))
    return tuple(found)


def golden() -> dict[str, Any]:
    """The stored messages by name, decoded from JSON."""
    found = resources.files("planmesh").joinpath("golden").iterdir()
    files = sorted((file for file in found if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): msgspec.json.decode(file.read_bytes()) for file in files}


# --- JSON Schema -------------------------------------------------------------------------------------------


def json_schemas() -> dict[str, dict[str, Any]]:
    """A self-contained JSON Schema (2020-12) for each message, and for the plan document, by name."""
    found = {}
    for message in (*messages(), Plan):
        if isinstance(message, Plain):
            continue
        _, components = _components((message,), "#/$defs/{name}")
        found[message.__name__] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": f"#/$defs/{message.__name__}",
            "$defs": components,
        }
    return found


def _components(types: Iterable[Any], ref_template: str) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Schemas of *types*, and of every struct in them, with the docstrings of their fields."""
    # The event of a log line is stored JSON that nobody has decoded, so its type does not say what it is.
    types = tuple(types)
    behind = (*types, AnyEvent) if LogLine in structs(types) else types
    schemas, components = msgspec.json.schema_components(behind, ref_template=ref_template)
    if len(behind) > len(types):
        components["LogLine"]["properties"]["event"] = {"anyOf": [schemas[-1], {"type": "null"}]}
    for struct in structs(behind):
        properties = components[struct.__name__].get("properties", {})
        for name, text in _field_docs(struct).items():
            if name in properties:
                properties[name]["description"] = text
        for given in msgspec.structs.fields(struct):
            if given.encode_name in properties and datetime in (given.type, *get_args(given.type)):
                _say_date_time(properties[given.encode_name])
    return schemas[: len(types)], components


def _say_date_time(schema: dict[str, Any]) -> None:
    # Whatever planmesh writes is aware (RFC 3339), and msgspec says so of those types alone that insist on it.
    for one in schema.get("anyOf", (schema,)):
        if one.get("type") == "string":
            one["format"] = "date-time"


def structs(types: Iterable[Any]) -> frozenset[type[Struct]]:
    """The structs that messages of *types* are made of."""
    found: set[type[Struct]] = set()

    def look(at: Any) -> None:
        if isinstance(at, msgspec.inspect.StructType):
            if at.cls in found:
                return
            found.add(at.cls)
        if isinstance(at, msgspec.inspect.Type | msgspec.inspect.Field):
            for name in at.__struct_fields__:
                inner = getattr(at, name)
                for one in inner if isinstance(inner, tuple) else (inner,):
                    look(one)

    for one in msgspec.inspect.multi_type_info(types):
        look(one)
    return frozenset(found)


@cache
def _field_docs(struct: type[Struct]) -> dict[str, str]:
    """The docstrings below the fields of a struct, its bases' included."""
    found: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if not issubclass(cls, Struct) or cls is Struct:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for stated, text in zip(definition.body, definition.body[1:], strict=False):
            match stated, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = inspect.cleandoc(said)
    return found


# --- AsyncAPI ----------------------------------------------------------------------------------------------


def asyncapi(version: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of every subject.

    What AsyncAPI has no words for stands in ``x-`` fields: the stream of a channel and its consumers, in the words of
    the NATS server (durations in seconds), and the users of each operation, with the subject that each is allowed.

    Args:
        version: Of planmesh.
        examples: Messages by the names of `samples`, see `golden`.
    """
    types = [one for one in messages() if not isinstance(one, Plain)]
    _, components = _components((*types, Plan), "#/components/schemas/{name}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for channel in CHANNELS:
        channels[channel.key] = _channel(channel)
        if channel.replies:
            channels[f"{channel.key}_reply"] = {
                "address": None,
                "summary": f"The answer, in the inbox that the request names. Asked: {channel.summary}",
                "messages": _messages(channel.replies),
            }
        for action, users in (("send", senders(channel)), ("receive", receivers(channel))):
            if users:
                operations[f"{action}_{channel.key}"] = _operation(channel, action, users)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "planmesh",
            "version": version,
            "description": "Every subject of a planmesh, and who may use it. Made by `planmesh schema`.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "mesh": {
                "host": "{host}",
                "protocol": "nats",
                "description": "The NATS server of the mesh; each user's file of credentials says where it is.",
                "variables": {"host": {"default": "127.0.0.1:4222"}},
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": {name: _draft_7(schema) for name, schema in components.items()},
            "parameters": {name: {"description": text} for name, text in PARAMETERS.items()},
            "messages": {_name(one): _message(one, examples) for one in messages()},
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "address": channel.address,
        "summary": channel.summary,
        "messages": _messages(channel.messages),
    }
    if channel.parameters:
        found["parameters"] = {name: {"$ref": f"#/components/parameters/{name}"} for name in channel.parameters}
    if "verb" in channel.fixed:
        found["x-answers"] = [event_type(event) for event in VERBS[channel.fixed["verb"]].answers]
    if channel.stream is None:
        found["x-stored"] = False
    else:
        found["x-stream"] = {
            "account": channel.stream.account,
            "retention": "limits",  # the server's default
            **facts(channel.stream.settings),
        }
        found["x-consumers"] = [facts(one.settings) for one in consumers_of(channel)]
    return found


def _name(message: Message) -> str:
    return message.name if isinstance(message, Plain) else message.__name__


def _messages(of: Iterable[Message]) -> dict[str, Any]:
    return {_name(one): {"$ref": f"#/components/messages/{_name(one)}"} for one in of}


def _operation(channel: Channel, action: str, users: "list[Access]") -> dict[str, Any]:
    found: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel.key}"},
        "summary": channel.summary,
        "messages": [{"$ref": f"#/channels/{channel.key}/messages/{_name(one)}"} for one in channel.messages],
        "x-users": [one._asdict() for one in users],
    }
    if channel.replies:
        key = f"{channel.key}_reply"
        answers = [{"$ref": f"#/channels/{key}/messages/{_name(one)}"} for one in channel.replies]
        found["reply"] = {"channel": {"$ref": f"#/channels/{key}"}, "messages": answers}
    return found


def _message(message: Message, examples: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(message, Plain):
        found: dict[str, Any] = {
            "name": message.name,
            "summary": message.summary,
            "contentType": message.content_type,
            "payload": dict(message.schema),
        }
        if message.headers:
            described = {name: {"type": "string", "description": text} for name, text in message.headers.items()}
            found["headers"] = {"type": "object", "properties": described}
        return found
    name = message.__name__
    return {
        "name": name,
        "summary": said_of(message),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [
            {"name": sample.name, "payload": examples[sample.name]}
            for sample in samples()
            if sample.message is message and sample.name in examples
        ],
    }


def _draft_7(schema: Any) -> Any:
    """The same in the words of AsyncAPI's Schema Object, which are those of draft 7.

    A tuple is an array of `items`, a discriminator is the property alone, and nothing stands beside a `$ref`.
    """
    if isinstance(schema, list):
        return [_draft_7(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in ("default", "enum") else _draft_7(value) for key, value in schema.items()}
    if isinstance(found.get("discriminator"), dict) and "propertyName" in found["discriminator"]:
        found["discriminator"] = found["discriminator"]["propertyName"]
    if isinstance(found.get("prefixItems"), list):
        rest = found.pop("items", None)
        found["items"] = found.pop("prefixItems")
        if rest is not None:
            found["additionalItems"] = rest
    if isinstance(found.get("$ref"), str) and len(found) > 1:
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found


_NANOSECONDS: Final = {"max_age", "ack_wait", "priority_timeout"}


def facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stream or a consumer in the server's words, but durations in seconds: ``max_age_s``."""
    seconds = {f"{name}_s": settings[name] / 1e9 for name in _NANOSECONDS & settings.keys()}
    return {name: value for name, value in settings.items() if name not in _NANOSECONDS} | seconds


# --- who may do what ---------------------------------------------------------------------------------------


class Access(NamedTuple):
    """Who may use a channel, and how.

    Attributes:
        user: The NATS user; of those that there are many of, with the name in braces.
        account: The account it is in.
        how: The subject that it may publish on; or the consumer, the read or the subscription by which it receives.
    """

    user: str
    account: str
    how: str


def users() -> tuple[User, ...]:
    """Everyone but the administrators; of agents, operators and submitters one each, with the name in braces."""
    found = (
        *access.services([_placed("space")]),
        access.agent(_placed("agent")),
        access.operator(_placed("operator")),
        access.submitter(_placed("space")),
    )
    return tuple(
        User(
            _in_braces(user.name),
            _in_braces(user.account),
            tuple(map(_in_braces, user.publish)),
            tuple(map(_in_braces, user.subscribe)),
        )
        for user in found
    )


def all_streams() -> tuple[streams.Stream, ...]:
    """Every stream; of those of a submitter one each, with the name in braces."""
    of_one = (
        streams.Stream(
            _in_braces(one.name),
            {
                **one.settings,
                "name": _in_braces(one.name),
                "subjects": [_in_braces(of) for of in one.settings["subjects"]],
            },
        )
        for one in streams.streams_of(_placed("space"))
    )
    return (*streams.streams(), *of_one)


def consumers() -> tuple[streams.Consumer, ...]:
    """Every consumer; of those that there are many of, one each, with the name in braces."""
    found = (
        *streams.consumers(),
        _of_agent(streams.agent_consumer(_placed("agent"), 1)),
        *streams.of_submitter(_placed("space")),
    )
    return tuple(
        streams.Consumer(
            _in_braces(one.stream),
            _in_braces(one.name),
            {name: _in_braces(value) if isinstance(value, str) else value for name, value in one.settings.items()},
        )
        for one in found
    )


def _of_agent(consumer: streams.Consumer) -> streams.Consumer:
    limit = {"max_ack_pending": "the agent's concurrency"}
    return streams.Consumer(consumer.stream, consumer.name, {**consumer.settings, **limit})


def senders(channel: Channel) -> list[Access]:
    """Who may publish there."""
    return [
        Access(user.name, user.account, right)
        for user in users()
        for right in user.publish
        if not right.startswith("$") and reaches(right, channel)
    ]


def receivers(channel: Channel) -> list[Access]:
    """Who may receive what is published there."""
    stored = channel.stream
    found = []
    for user in users():
        ways = [f"subscription to {right}" for right in user.subscribe if reaches(right, channel)]
        if stored is not None:
            ways += (f"consumer {one.name} of {one.stream}" for one in consumers_of(channel) if may_pull(user, one))
            if f"$JS.API.DIRECT.GET.{stored.name}" in user.publish:
                ways.append(f"direct get from {stored.name}")
            elif f"$JS.API.STREAM.MSG.GET.{stored.name}" in user.publish:
                ways.append(f"get from the leader of {stored.name}")
        found += [Access(user.name, user.account, how) for how in ways]
    return found


def may_pull(user: User, consumer: streams.Consumer) -> bool:
    wanted = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"
    """Whether it reads *consumer*."""
    is_there = user.is_alone or user.account == consumer.account
    return is_there and any(_covers(right, wanted) for right in user.publish)


def consumers_of(channel: Channel) -> list[streams.Consumer]:
    stored = channel.stream
    return [
        one
        for one in consumers()
        if stored is not None
        and one.stream == stored.name
        and reaches(one.settings.get("filter_subject", ">"), channel)
    ]


def reaches(right: str, channel: Channel) -> bool:
    """Whether a right to *right* is one to this channel.

    Where the function that makes the subject has a word of its own, the right has to name it: ``blobs.*.put`` is no
    right to ``blobs.sha256.put``, which lives in another account. What the channel fixes may be a wildcard.
    """
    if right == ">":
        return True
    ours = template(channel.subject).split(".")
    fixed = channel.address.split(".")
    theirs = right.split(".")
    if theirs[-1] == ">":
        theirs = [*theirs[:-1], *ours[len(theirs) - 1 :]]
    if len(theirs) != len(ours):
        return False
    for word, value, found in zip(ours, fixed, theirs, strict=True):
        if not word.startswith("{"):
            if found != word:
                return False
        elif not value.startswith("{") and found != "*" and not found.startswith("{") and found != value:
            return False
    return True


def _any(subject: str) -> str:
    """*subject* with a wildcard in place of each parameter."""
    return re.sub(r"\{\w+\}", "*", subject)


def _covers(pattern: str, subject: str) -> bool:
    """Whether a stream that listens to *pattern* stores *subject*."""
    wanted, found = pattern.split("."), subject.split(".")
    return len(wanted) == len(found) and all(want in ("*", word) for want, word in zip(wanted, found, strict=True))


# --- names that stand for any ------------------------------------------------------------------------------

# `subjects` and `access` check what they are given, so what stands for any name has to be one.
_ATTEMPT: Final = 808_080


def _placed(parameter: str) -> str:
    return f"any_{parameter}_any"


def _in_braces(text: str) -> str:
    return re.sub(r"any_(\w+?)_any", r"{\1}", text).replace(str(_ATTEMPT), "{attempt}")


def template(function: Callable[..., str], fixed: Mapping[str, str] = _NOTHING) -> str:
    """The subjects that *function* of `schemas.subjects` makes, with its parameters in braces."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is Address:
            arguments[name] = Address(_placed("space"), _placed("plan"))
        elif parameter.annotation is int:
            arguments[name] = _ATTEMPT
        else:
            arguments[name] = fixed.get(name, _placed(name))
    return _in_braces(function(**arguments))
