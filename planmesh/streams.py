"""The streams and their consumers, as data. `planmesh.administration` makes them; no service may.

Settings are those of the server's own API (https://docs.nats.io/reference/reference-protocols/nats_api_reference):
times in nanoseconds, sizes in bytes. Whatever cannot be changed later, such as the number of consumers, is
explicit and has room. No consumer has a `max_deliver`: at the limit the server would skip the message in silence.

Every stream has a limit in bytes, so that nobody can take the room of the log: what does not fit is refused, and
whoever wanted to store it tries again. What submitters write is in streams of their own: see `streams_of`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from planmesh.access import home
from planmesh.schemas import subjects
from planmesh.schemas.secrets import MAX_SECRET_BYTES
from planmesh.schemas.subjects import (
    AUDITOR,
    BLOBS,
    CATALOGUE,
    CLAIMS,
    COMMANDS,
    DECIDE,
    DISPATCH,
    GATEKEEPER,
    GOALS,
    NOTICES,
    OUTCOMES,
    PLANNER,
    PLANS,
    POISON,
    RESULTS,
    SECRETS,
    TIMERS,
    WORK,
)

_NOTHING_SET: Final[Mapping[str, int]] = {}

_SECOND_NS: Final = 1_000_000_000
_DAY_NS: Final = 24 * 3600 * _SECOND_NS

_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB

DEFAULT_MAX_BYTES: Final[Mapping[str, int]] = {
    PLANS: 10 * _GIB,
    BLOBS: 5 * _GIB,
    OUTCOMES: 4 * _GIB,
    WORK: 2 * _GIB,
    COMMANDS: _GIB,
    RESULTS: _GIB,
    POISON: 512 * _MIB,
    CLAIMS: 512 * _MIB,
    CATALOGUE: 256 * _MIB,
    NOTICES: 256 * _MIB,
    GOALS: 256 * _MIB,
    SECRETS: 16 * _MIB,
}
"""What each stream of a kind may take on disk, unless something else is set. The server reserves it."""

SECRETS_KEPT_S: Final = 30 * 86_400.0
"""How long a secret is kept of a plan that does not end, unless something else is set."""
_HEADERS_BYTES: Final = 1024

# One consumer at a time is served; another takes over when it has been silent for this long.
PINNED_GROUP: Final = "executor"
TAKEOVER_S: Final = 2

# What is not answered for so long is delivered again: this is how soon somebody else has the work of one who died.
STEERING_ACK_WAIT_S: Final = 1
AGENT_ACK_WAIT_S: Final = 2
SERVICE_ACK_WAIT_S: Final = 5
READER_ACK_WAIT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream.

    Attributes:
        name: Its name, unique across accounts.
        settings: All that is not the server's default, in the server's words.
        limited: Whether somebody has set its `max_bytes`. If not, one that it has on the server already stays.
    """

    name: str
    settings: Mapping[str, Any]
    limited: bool = False

    @property
    def account(self) -> str:
        return home(self.name)

    @property
    def max_bytes(self) -> int:
        return int(self.settings["max_bytes"])

    def wanted(self, there: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its settings, where the server has it with the settings *there*."""
        found = there.get("max_bytes", -1)
        if self.limited or not isinstance(found, int) or found <= 0:
            return self.settings
        return {**self.settings, "max_bytes": found}


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer.

    Attributes:
        stream: The stream that it reads.
        name: Its name, unique in the stream.
        settings: All that is not the server's default, in the server's words.
    """

    stream: str
    name: str
    settings: Mapping[str, Any]

    @property
    def account(self) -> str:
        return home(self.stream)


def streams(
    replicas: int = 1, max_bytes: Mapping[str, int] = _NOTHING_SET, secrets_kept_s: float = SECRETS_KEPT_S
) -> tuple[Stream, ...]:
    """Every stream that several may write.

    Args:
        replicas: How many servers hold each message: 1, or 3 or 5 in a cluster.
        max_bytes: What streams may take on disk, by kind; `DEFAULT_MAX_BYTES` for the others.
        secrets_kept_s: How long a secret is kept of a plan that does not end.
    """
    return tuple(_limited(one, max_bytes) for one in _streams(replicas, secrets_kept_s))


def streams_of(
    space: str,
    replicas: int = 1,
    max_bytes: Mapping[str, int] = _NOTHING_SET,
    secrets_kept_s: float = SECRETS_KEPT_S,
) -> tuple[Stream, ...]:
    """Every stream that one submitter alone writes: nobody else's room is in them. Args: as for `streams`."""
    goals = _stream(subjects.goal_stream(space), [f"goals.{space}.*"], replicas, retention="workqueue", max_consumers=4)
    vault = _vault(
        subjects.secret_stream(subjects.SERVICE_VERB, space),
        [f"secrets.*.*.*.{subjects.SERVICE_VERB}.{space}.*"],
        replicas,
        secrets_kept_s,
    )
    return _limited(goals, max_bytes), _limited(vault, max_bytes)


def _limited(stream: Stream, max_bytes: Mapping[str, int]) -> Stream:
    kind = subjects.kind_of(stream.name)
    settings = {**stream.settings, "max_bytes": max_bytes.get(kind, DEFAULT_MAX_BYTES[kind])}
    return Stream(stream.name, settings, limited=kind in max_bytes)


def _streams(replicas: int, secrets_kept_s: float) -> tuple[Stream, ...]:
    return (
        # The log. A message that is stored stays as it is, where it is.
        _stream(PLANS, ["plans.*.*"], replicas, max_consumers=16, allow_direct=True, deny_delete=True, deny_purge=True),
        _stream(COMMANDS, ["commands.*.*.*.*"], replicas, retention="workqueue", max_consumers=4),
        _stream(
            WORK,
            ["work.agent.*.*.*.*", "work.planner.*.*", "work.planner.*.*.*", "work.timer.*.*.*"],
            replicas,
            retention="workqueue",
            max_consumers=10_000,
        ),
        _stream(
            OUTCOMES,
            ["outcomes.*.*", "questions.*.*.*.*"],
            replicas,
            max_consumers=10_000,
            allow_direct=True,
            max_age=30 * _DAY_NS,
        ),
        # A blob's subject is its digest: whoever stores it again learns that it is there.
        _stream(
            BLOBS,
            ["blobs.sha256.*"],
            replicas,
            max_consumers=4,
            allow_direct=True,
            max_msgs_per_subject=1,
            discard_new_per_subject=True,
        ),
        # Each who writes what nobody understands has a place here, and room for so much. Were it full, what cannot be
        # set aside would stay where it is, in the way of what comes behind it: the oldest go first.
        _stream(
            POISON,
            ["poison.*.*"],
            replicas,
            discard="old",
            max_consumers=4,
            allow_direct=True,
            max_msgs_per_subject=1_000,
        ),
        _stream(RESULTS, ["results.*"], replicas, retention="workqueue", max_consumers=4),
        _stream(CLAIMS, ["claims.*.*.*.*.*"], replicas, max_consumers=4, max_age=30 * _DAY_NS),
        _stream(
            CATALOGUE,
            ["catalogue.*"],
            replicas,
            discard="old",
            max_consumers=4,
            allow_direct=True,
            max_msgs_per_subject=1,
        ),
        # What is being sent; the log says what was. The oldest go first where there are too many.
        _stream(
            NOTICES,
            ["notices.*.*.*.*.*.*"],
            replicas,
            discard="old",
            max_consumers=4,
            max_msgs_per_subject=1,
            max_age=30 * _DAY_NS,
        ),
        _vault(SECRETS, ["secrets.*.*.*.answer.*.*", "secrets.*.*.*.review.*.*"], replicas, secrets_kept_s),
    )


def _vault(name: str, of: list[str], replicas: int, kept_s: float) -> Stream:
    """What nobody but the executor may read: no direct get, and no consumer of anybody's. Each is written once, so that
    nobody can put another one in its place."""
    return _stream(
        name,
        of,
        replicas,
        max_consumers=1,
        max_msgs_per_subject=1,
        discard_new_per_subject=True,
        max_msg_size=MAX_SECRET_BYTES + _HEADERS_BYTES,
        max_age=int(kept_s * _SECOND_NS),
        duplicate_window=int(min(kept_s, 120) * _SECOND_NS),  # the server takes none longer than the age
        deny_delete=True,
    )


def consumers() -> tuple[Consumer, ...]:
    """Every consumer of a service."""
    pinned = {
        "priority_policy": "pinned_client",
        "priority_groups": [PINNED_GROUP],
        "priority_timeout": TAKEOVER_S * _SECOND_NS,
    }
    return (
        _consumer(COMMANDS, DECIDE, ack_wait_s=STEERING_ACK_WAIT_S, max_ack_pending=20_000, **pinned),
        _consumer(RESULTS, DECIDE, ack_wait_s=STEERING_ACK_WAIT_S, max_ack_pending=20_000, **pinned),
        _consumer(PLANS, DISPATCH, ack_wait_s=STEERING_ACK_WAIT_S, max_ack_pending=20_000, **pinned),
        # Its tables and its position are one transaction: it acks a batch by its last message.
        _consumer(PLANS, AUDITOR, ack_wait_s=READER_ACK_WAIT_S, ack_policy="all", max_ack_pending=20_000),
        _consumer(PLANS, GATEKEEPER, ack_wait_s=SERVICE_ACK_WAIT_S, max_ack_pending=1_000),
        _consumer(POISON, GATEKEEPER, ack_wait_s=SERVICE_ACK_WAIT_S, max_ack_pending=1_000),
        _consumer(WORK, PLANNER, filter_subject="work.planner.>", ack_wait_s=SERVICE_ACK_WAIT_S),
        # Waiting is being un-acked, so whatever limit there was would be a limit of waits.
        _consumer(WORK, TIMERS, filter_subject="work.timer.>", ack_wait_s=SERVICE_ACK_WAIT_S, max_ack_pending=-1),
    )


def agent_consumer(agent: str, concurrency: int) -> Consumer:
    """The work of one agent.

    Args:
        agent: Its name.
        concurrency: How many of its steps may run at once, wherever; at least 1.
    """
    return _consumer(
        WORK,
        subjects.agent_consumer(agent),
        filter_subject=f"work.agent.{agent}.>",
        ack_wait_s=AGENT_ACK_WAIT_S,
        max_ack_pending=concurrency,
    )


def of_submitter(space: str) -> tuple[Consumer, ...]:
    """Every consumer of one submitter."""
    return goal_consumer(space), outcome_consumer(space), question_consumer(space)


def goal_consumer(space: str) -> Consumer:
    """The goals of one submitter."""
    # Waiting for a model is being un-acked: a limit would be one of waits.
    return _consumer(subjects.goal_stream(space), PLANNER, ack_wait_s=SERVICE_ACK_WAIT_S, max_ack_pending=-1)


def outcome_consumer(space: str) -> Consumer:
    """The news for one submitter."""
    return _consumer(
        OUTCOMES,
        subjects.outcome_consumer(space),
        filter_subject=f"outcomes.{space}.*",
        ack_wait_s=READER_ACK_WAIT_S,
        max_ack_pending=1_000,
    )


def question_consumer(space: str) -> Consumer:
    """What one submitter, as a service, is asked."""
    return _consumer(
        OUTCOMES,
        subjects.question_consumer(space),
        filter_subject=f"questions.{space}.*.*.*",
        ack_wait_s=30,
        max_ack_pending=1_000,
    )


def _stream(name: str, of: list[str], replicas: int, **settings: Any) -> Stream:
    full = {"name": name, "subjects": of, "storage": "file", "discard": "new", "num_replicas": replicas, **settings}
    return Stream(name, full)


def _consumer(stream: str, name: str, *, ack_wait_s: int, **settings: Any) -> Consumer:
    full = {
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ack_wait_s * _SECOND_NS,
        "max_deliver": -1,
        **settings,
    }
    return Consumer(stream, name, full)
