"""The log of a plan: read it, and append to it with the certainty that nobody else did in between.

A commit is appended with the sequence of the last message that its writer has seen on the plan's subject
(optimistic concurrency). The server takes one of two rivals; the other reads on, and decides again.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import structlog

from planmesh.connection import Connection, StoredMessage
from planmesh.errors import Busy, Conflict, Unusable
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.events import AnyEvent, Cause, Commit, hash_of
from planmesh.schemas.state import PlanState, apply, sealed
from planmesh.schemas.subjects import PLANS, Address

_BATCH: Final = 1_000
_SETTLE_S: Final = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
_LAG_S: Final = (0.0, 0.01, 0.05, 0.2, 0.5)

log = structlog.get_logger()


class Recorded(NamedTuple):
    """A plan as far as its log has been read.

    Attributes:
        sequence: The stream sequence of the last message on the plan's subject, junk included; 0 for none.
        size_bytes: How large the commits are that it was read from, together: what it takes to keep it in mind.
    """

    state: PlanState
    sequence: int
    size_bytes: int = 0

    @classmethod
    def nothing(cls, address: Address) -> "Recorded":
        return cls(PlanState(address=address), 0)

    def then(self, state: PlanState, sequence: int, commit: bytes) -> "Recorded":
        """The same plan with one more commit, after which it is in *state*."""
        return Recorded(state, sequence, self.size_bytes + len(commit))


class Line(NamedTuple):
    """A commit as it is stored."""

    commit: Commit
    sequence: int
    hash: str


def misfit(state: PlanState, commit: Commit) -> str:
    """What is wrong with *commit* as the one after *state*; empty if it fits."""
    if commit.address != state.address:
        return f"it names {commit.address}, on the subject of {state.address}"
    if commit.number != state.number + 1:
        return f"it is number {commit.number}, after {state.number}"
    if commit.previous != state.head:
        return f"it continues {commit.previous[:12]}, and the commit before it is {state.head[:12]}"
    return ""


def next_commit(state: PlanState, sequence: int, data: bytes) -> Commit | str:
    """The stored message *sequence* as the commit after *state*; or what is wrong with it, which makes it junk.

    Raises:
        Unusable: It is the next commit, and this version cannot read it.
    """
    try:
        commit = codec.commit.decode(data)
    except DecodeError as error:
        if _continues(state, data):
            # Skipping it would fork the log: this reader is older than whoever wrote it.
            raise Unusable(
                f"commit {state.number + 1} of {state.address} (message {sequence}) cannot be read: {error}; "
                "a newer planmesh has written it, so upgrade this one"
            ) from error
        return str(error)
    return misfit(state, commit) or commit


def read_line(recorded: Recorded, sequence: int, data: bytes) -> tuple[Recorded, Line | None]:
    """Fold one stored message. What does not fit is junk: skipped, alarmed, its sequence counted.

    Raises:
        Unusable: It is the next commit, and this version cannot read it.
    """
    address = recorded.state.address
    commit = next_commit(recorded.state, sequence, data)
    if isinstance(commit, str):
        log.error("log.junk", space=address.space, plan=address.plan, sequence=sequence, error=commit)
        return recorded._replace(sequence=sequence), None
    line = Line(commit, sequence, hash_of(data))
    return recorded.then(apply(recorded.state, commit, line.hash), sequence, data), line


class _Link(msgspec.Struct):
    """As much of a commit as says where it belongs, whatever else a later version may put into it."""

    space: str
    plan: str
    number: int
    previous: str


_decode_link: Final = msgspec.json.Decoder(_Link).decode


def _continues(state: PlanState, data: bytes) -> bool:
    try:
        link = _decode_link(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    found = (link.space, link.plan, link.number, link.previous)
    return found == (*state.address, state.number + 1, state.head)


class EventLog:
    """Reads and appends commits.

    Args:
        connection: May read PLANS directly; to append, also publish to the plans' subjects.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read(self, address: Address) -> Recorded:
        """A plan from its first commit on. Raises: Busy, Unusable."""
        recorded = Recorded.nothing(address)
        if await self._connection.last_on_subject(PLANS, subjects.plan_log(address)) is None:
            return recorded
        return await self.read_on(recorded)

    async def read_on(self, recorded: Recorded) -> Recorded:
        """The same plan, with whatever has been appended since. Raises: Busy, Unusable."""
        async for stored in self._stored(recorded):
            recorded, _ = read_line(recorded, stored.sequence, stored.data)
        return recorded

    async def read_to_the_end(self, recorded: Recorded) -> Recorded:
        """The same plan, with everything that has been appended since: what may be acted on, or refused.

        Whoever answers a read of a replicated stream may lag behind its leader; only the leader knows where the end is.

        Raises:
            Busy: No answer, or what the leader has stored cannot be read yet.
            Unusable: See `read_line`; or not allowed, or closed.
        """
        subject = subjects.plan_log(recorded.state.address)
        last = await self._connection.last_on_subject(PLANS, subject, leader=True)
        pauses = iter(_LAG_S)
        while last is not None and recorded.sequence < last.sequence:
            pause_s = next(pauses, None)
            if pause_s is None:
                raise Busy(
                    f"message {last.sequence} of {PLANS} cannot be read yet: a replica of the stream lags behind"
                )
            await asyncio.sleep(pause_s)
            recorded = await self.read_on(recorded)
        return recorded

    async def lines(self, address: Address) -> AsyncIterator[Line]:
        """Every commit of a plan, in order. Raises: Busy, Unusable."""
        recorded = Recorded.nothing(address)
        async for stored in self._stored(recorded):
            recorded, line = read_line(recorded, stored.sequence, stored.data)
            if line is not None:
                yield line

    async def _stored(self, recorded: Recorded) -> AsyncIterator[StoredMessage]:
        subject = subjects.plan_log(recorded.state.address)
        sequence = recorded.sequence
        while True:
            batch = await self._connection.direct_get(PLANS, subject=subject, sequence=sequence + 1, batch=_BATCH)
            for stored in batch:
                yield stored
            if len(batch) < _BATCH:
                return
            sequence = batch[-1].sequence

    async def append(
        self, recorded: Recorded, after: PlanState, events: list[AnyEvent], causes: list[Cause], at: datetime
    ) -> Recorded:
        """Store one commit.

        Args:
            recorded: What was decided on.
            after: Its state with *events* folded in.

        Returns:
            The plan with the commit.

        Raises:
            Conflict: Someone else has appended: read on, and decide again.
            Busy: The log cannot take it now (full, or the server is away); nothing was stored.
            Poison: The commit is larger than the server takes.
            Unusable: Not allowed, or closed.
        """
        before, address = recorded.state, recorded.state.address
        commit = Commit(
            space=address.space,
            plan=address.plan,
            number=before.number + 1,
            at=at,
            causes=tuple(causes),
            events=tuple(events),
            previous=before.head,
        )
        data = encode(commit)
        sequence = await self._store(subjects.plan_log(address), data, recorded)
        return recorded.then(sealed(after, commit.number, hash_of(data)), sequence, data)

    async def _store(self, subject: str, data: bytes, recorded: Recorded) -> int:
        """Append, and settle what is left unclear: a time-out, or a refusal of what an earlier try has stored."""
        unclear = False
        for pause_s in _SETTLE_S:
            await asyncio.sleep(pause_s)
            try:
                ack = await self._connection.publish(subject, data, expect_last_on_subject=recorded.sequence)
                return ack.sequence
            except Conflict:
                if not unclear:
                    raise
                return await self._find(subject, data, recorded)
            except Busy as error:
                if not error.ambiguous:
                    raise
                unclear = True
        return await self._find(subject, data, recorded)

    async def _find(self, subject: str, data: bytes, recorded: Recorded) -> int:
        """Whether the very bytes stand in the log. Raises: Conflict, if others do, or none."""
        for stored in await self._connection.direct_get(
            PLANS, subject=subject, sequence=recorded.sequence + 1, batch=_BATCH
        ):
            if stored.data == data:
                return stored.sequence
        raise Conflict(f"{recorded.state.address} has moved on from commit {recorded.state.number}")
