"""A world in one thread: the loops of the executor, a server that hurts them, agents and people, and a virtual clock.

Everything that may happen is drawn from one seed: when a message arrives, in which order, how often; whether a
publish is stored, and whether its answer is heard; where an executor dies (at any await of its loops) and when
another starts. The loops are the real ones; what they talk to keeps the rules of JetStream that they rely on: an
append with an expectation is stored once or refused, a message id is remembered, what is not acked comes back.
"""

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from planmesh.connection import Ack, StoredMessage
from planmesh.errors import Busy, Conflict, Poison
from planmesh.schemas import subjects

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ACK_WAIT_S = 1.0


class _NoSelector(selectors.DefaultSelector):
    """There is nothing outside to wait for, so the system need not be asked."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everybody waits, and nothing is due")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next thing that is due."""

    def __init__(self) -> None:
        super().__init__(_NoSelector())
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@dataclass(eq=False)
class Stored:
    subject: str
    data: bytes
    sequence: int
    at_s: float
    deliveries: int = 0
    done: bool = False


@dataclass
class Stream:
    """One stream, with what of it is not acked."""

    name: str
    messages: list[Stored] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


class World:
    """The server, and the seed.

    Args:
        seed: Everything that happens is drawn from it.
        hurt: How likely each harm is, from 0 to 1.
        commit_bytes: The largest commit that the log takes of a plan that it has.
    """

    def __init__(self, seed: int, hurt: float = 0.15, commit_bytes: int = 8 * 1024 * 1024) -> None:
        self.random = random.Random(seed)
        self.hurt = hurt
        self.commit_bytes = commit_bytes
        self.loop = asyncio.get_running_loop()
        names = ("PLANS", "COMMANDS", "RESULTS", "WORK", "OUTCOMES", "BLOBS", "POISON")
        self.streams = {name: Stream(name) for name in names}
        self.readers: dict[str, list[SimulatedSubscription]] = {}
        self.awaits = 0
        self.harms: dict[int, Callable[[], None]] = {}
        """What happens at which await."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.time())

    def chance(self, share: float = 1.0) -> bool:
        return self.random.random() < self.hurt * share

    def stream_of(self, subject: str) -> Stream:
        first = subject.partition(".")[0]
        if first == "commands":
            return self.streams["COMMANDS"]
        return self.streams[{"plans": "PLANS", "blobs": "BLOBS"}.get(first, first.upper())]

    def store(self, subject: str, data: bytes, expected: int | None, message_id: str | None) -> Ack:
        stream = self.stream_of(subject)
        if message_id is not None and message_id in stream.ids:
            return Ack(stream.name, stream.ids[message_id], True)
        if expected is not None and stream.last.get(subject, 0) != expected:
            raise Conflict(f"{subject} is at {stream.last.get(subject, 0)}, not {expected}")
        sequence = len(stream.messages) + 1
        message = Stored(subject, data, sequence, self.loop.time())
        stream.messages.append(message)
        stream.last[subject] = sequence
        if message_id is not None:
            stream.ids[message_id] = sequence
        self.deliver_later(stream, message)
        return Ack(stream.name, sequence, False)

    def purge(self, stream: str, subject: str, before: int | None) -> None:
        for message in self.streams[stream].messages:
            if message.subject == subject and (before is None or message.sequence < before):
                message.done = True

    def deliver_later(self, stream: Stream, message: Stored, delay_s: float = 0.0) -> None:
        delay_s += self.random.expovariate(500)
        if self.chance(0.3):
            delay_s += self.random.uniform(0, 3)  # delayed, and overtaken by others
        self.loop.call_later(delay_s, self._deliver, stream, message)

    def _deliver(self, stream: Stream, message: Stored) -> None:
        if message.done:
            return
        readers = [reader for reader in self.readers.get(self._queue(stream, message), []) if not reader.closed]
        if readers:
            message.deliveries += 1
            self.random.choice(readers).arrive(SimulatedMessage(self, stream, message))
            if self.chance(0.2):
                self.random.choice(readers).arrive(SimulatedMessage(self, stream, message))
        # What is not acked in time comes back, to whoever is there then.
        self.loop.call_later(ACK_WAIT_S, self._deliver_again, stream, message, message.deliveries)

    def _deliver_again(self, stream: Stream, message: Stored, deliveries: int) -> None:
        if not message.done and message.deliveries == deliveries:
            self._deliver(stream, message)

    @staticmethod
    def _queue(stream: Stream, message: Stored) -> str:
        if stream.name != "WORK":
            return stream.name
        return ".".join(message.subject.split(".")[:2])

    async def pause(self) -> None:
        """What every call to the server takes: a moment, in which anything can happen."""
        self.awaits += 1
        harm = self.harms.pop(self.awaits, None)
        if harm is not None:
            harm()
        await asyncio.sleep(self.random.expovariate(1000))


class Process:
    """Something that may be stopped as by SIGSTOP: what it is at stands still, and what reaches it waits."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.goes_on.set()


class SimulatedMessage:
    """One delivery. The surface of `planmesh.delivery.Message`."""

    def __init__(self, world: World, stream: Stream, stored: Stored) -> None:
        self._world = world
        self._stream = stream
        self._stored = stored
        self.stream = stream.name
        self.subject = stored.subject
        self.data = stored.data
        self.sequence = stored.sequence
        self.num_delivered = stored.deliveries
        self.timestamp = EPOCH + timedelta(seconds=stored.at_s)
        self.headers: dict[str, str] = {}
        self.answered = False

    def ack(self) -> None:
        if not self.answered:
            self.answered = True
            if not self._world.chance(0.3):  # an ack may be lost
                self._stored.done = True

    def nak(self, delay_s: float = 0.0) -> None:
        if not self.answered:
            self.answered = True
            self._stored.deliveries += 1
            self._world.deliver_later(self._stream, self._stored, delay_s)

    term = ack

    def in_progress(self) -> None:
        pass


class SimulatedSubscription:
    """The surface of `planmesh.delivery.Subscription`."""

    def __init__(self, world: World, queue: str, process: Process | None = None) -> None:
        self._process = process or Process()
        self._arrived: list[SimulatedMessage] = []
        self._changed = asyncio.Event()
        self.closed = False
        world.readers.setdefault(queue, []).append(self)

    def arrive(self, message: SimulatedMessage) -> None:
        self._arrived.append(message)
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[list[SimulatedMessage]]:
        while not self.closed:
            await self._changed.wait()
            await self._process.goes_on.wait()
            self._changed.clear()
            arrived, self._arrived = self._arrived, []
            if arrived:
                yield arrived

    def close(self) -> None:
        self.closed = True
        self._changed.set()


class SimulatedConnection:
    """The surface of `planmesh.connection.Connection` that the loops use."""

    def __init__(self, world: World, process: Process | None = None) -> None:
        self._world = world
        self._process = process or Process()
        self.closed = asyncio.Event()
        self.client = type("Client", (), {"max_payload": 8 * 1024 * 1024})()

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        expect_last_on_subject: int | None = None,
        message_id: str | None = None,
        headers: Any = None,
        timeout_s: float = 5.0,
    ) -> Ack:
        world = self._world
        if len(payload) > world.commit_bytes and subject in world.streams["PLANS"].last:
            raise Poison(f"a message for {subject} has {len(payload):,} bytes")
        await self._pause()
        if world.chance(0.3):
            raise _busy("nobody answered", ambiguous=True)  # it never arrived
        ack = world.store(subject, payload, expect_last_on_subject, message_id)
        if world.chance(0.3):
            await asyncio.sleep(world.random.uniform(0, 2))
            raise _busy("nobody answered", ambiguous=True)  # it is stored
        await self._pause()
        return ack

    async def _pause(self) -> None:
        await self._world.pause()
        await self._process.goes_on.wait()

    def publish_soon(self, subject: str, payload: bytes, **options: Any) -> "asyncio.Future[Ack]":
        return asyncio.ensure_future(self.publish(subject, payload, **options))

    async def request(self, subject: str, payload: bytes = b"", **_options: Any) -> bytes:
        await self._pause()
        if subject == subjects.purge("WORK"):
            asked = msgspec.json.decode(payload)
            self._world.purge("WORK", asked["filter"], asked.get("seq"))
        await self._pause()
        return b"{}"

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: Any = None) -> None:
        pass

    async def direct_get(
        self, stream: str, *, subject: str | None = None, sequence: int = 1, batch: int = 1000, timeout_s: float = 5.0
    ) -> list[StoredMessage]:
        await self._pause()
        if self._world.chance(0.1):
            raise _busy("the stream has no leader", ambiguous=False)
        found = self._found(stream, subject)
        return [self._stored(one) for one in found if one.sequence >= sequence][:batch]

    async def last_on_subject(self, stream: str, subject: str, *, leader: bool = False) -> StoredMessage | None:
        await self._pause()
        found = self._found(stream, subject, leader)
        return self._stored(found[-1]) if found else None

    def _found(self, stream: str, subject: str | None, leader: bool = False) -> list[Stored]:
        found = [one for one in self._world.streams[stream].messages if one.subject == subject]
        if stream == "WORK":  # a queue, which keeps nothing that is done
            found = [one for one in found if not one.done]
        if leader or stream != "PLANS" or not self._world.chance():
            return found
        # Whoever answers is a follower that lags behind the leader.
        seen_s = self._world.loop.time() - self._world.random.uniform(0, 2)
        return [one for one in found if one.at_s <= seen_s]

    @staticmethod
    def _stored(one: Stored) -> StoredMessage:
        return StoredMessage(one.subject, one.sequence, EPOCH, one.data, {})


def _busy(text: str, *, ambiguous: bool) -> Busy:
    error = Busy(text)
    error.ambiguous = ambiguous
    return error
