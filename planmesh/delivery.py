"""What a stream delivers: received in batches, and acked in one place.

`Subscription` pulls by hand and gives lists of whatever has arrived: for loops that commit many messages at once
and ack them when the commit is stored. `consume` is built on it, for everybody else: a handler that returns has
done its message; one that raises says by the kind of error what becomes of it.
"""

import asyncio
import contextlib
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Interest

from planmesh import access
from planmesh.connection import Connection
from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.schemas import subjects
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.subjects import BadSubject
from planmesh.streams import TAKEOVER_S

# A pull of a group is short, because pulls are the only sign of life that the server counts.
_EXPIRES_S: Final = 30.0
_HEARTBEAT_S: Final = 2.0
_GROUP_EXPIRES_S: Final = TAKEOVER_S / 2
_GROUP_HEARTBEAT_S: Final = TAKEOVER_S / 4

# One pull asks for no more bytes than this, and none follows while half of it waits here: a few hundred messages of
# 8 MiB would fill the memory.
_PULL_BYTES: Final = 32 * 1024 * 1024

# The server remembers each pull that comes from another account (some 350 bytes) for as long as its inbox is listened
# to; a new inbox now and then lets it forget.
_PULLS_OF_AN_INBOX: Final = 1_000

_RETRY_S: Final = 0.1
_RETRY_MOST_S: Final = 2.0

_BUSY_S: Final = 0.1
_BUSY_MOST_S: Final = 10.0
_PAUSE_MOST_S: Final = 1.0
_BUG_S: Final = 1.0
_BUG_MOST_S: Final = 60.0
_MOST_DELIVERIES_OF_A_BUG: Final = 5

_HOPELESS: Final = (Poison, DecodeError, BadSubject)
_LATER: Final = (Busy, Conflict, Unusable)

# Of what nobody understands. With the limit of messages of one writer in POISON, it bounds what one can have there.
_KEPT_BYTES: Final = 256 * 1024

_ERROR_CHARACTERS: Final = 1000
_TRACEBACK_CHARACTERS: Final = 8000

log = structlog.get_logger()


class Message:
    """One delivery of a stored message. Answer it once: `ack`, `nak` or `term`.

    The answers are sent and forgotten; one that is lost brings the message back after the consumer's `ack_wait`.

    Attributes:
        subject: Where it was published.
        data: The payload.
        headers: Its headers, or None.
        stream: The stream that holds it.
        sequence: Its number in the stream.
        num_delivered: 1 for the first delivery. Proves nothing after a crash of the server, which may forget.
        timestamp_ns: When it was stored, in nanoseconds since 1970.
        num_pending: How many messages the consumer had not delivered yet at this moment.
        answered: It has been answered.
    """

    __slots__ = (
        "_connection",
        "_keeper",
        "_reply",
        "answered",
        "data",
        "headers",
        "num_delivered",
        "num_pending",
        "sequence",
        "stream",
        "subject",
        "timestamp_ns",
    )

    def __init__(self, connection: Connection, delivered: Msg, keeper: "Keeper | None" = None) -> None:
        reply = delivered.reply
        tokens = reply.split(".")
        # $JS.ACK[.<domain>.<account>].<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<ns>
        # .<pending>[.<random>]
        at = 2 if len(tokens) == 9 else 4
        self.subject = delivered.subject
        self.data = delivered.data
        self.headers: Mapping[str, str] | None = delivered.headers
        self.stream = tokens[at]
        self.num_delivered = int(tokens[at + 2])
        self.sequence = int(tokens[at + 3])
        self.timestamp_ns = int(tokens[at + 5])
        self.num_pending = int(tokens[at + 6])
        self.answered = False
        self._reply = reply
        self._connection = connection
        self._keeper = keeper
        if keeper is not None:
            keeper.add(self)

    def __repr__(self) -> str:
        return f"<Message {self.stream} {self.sequence} {self.subject}>"

    @property
    def timestamp(self) -> datetime:
        """When it was stored, aware UTC, to the microsecond."""
        seconds, ns = divmod(self.timestamp_ns, 1_000_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)

    def ack(self) -> None:
        """It is done. Whatever was promised must be stored already. Raises: Unusable (the connection is closed)."""
        self._answer(b"")

    def nak(self, delay_s: float = 0.0) -> None:
        """Not done: deliver it again after *delay_s*. Raises: Unusable."""
        self._answer(b'-NAK {"delay": %d}' % (delay_s * 1e9) if delay_s > 0 else b"-NAK")

    def term(self) -> None:
        """Never deliver it again. Raises: Unusable."""
        self._answer(b"+TERM")

    def in_progress(self) -> None:
        """Still at work: the `ack_wait` begins again. Raises: Unusable."""
        if not self.answered:
            self._connection.send(self._reply, b"+WPI")

    def _answer(self, word: bytes) -> None:
        if self.answered:
            return
        self.answered = True
        if self._keeper is not None:
            self._keeper.discard(self)
        try:
            self._connection.send(self._reply, word)
        except Busy:
            # The server takes nothing at the moment; it will deliver this message again.
            log.warning("delivery.answer_lost", stream=self.stream, sequence=self.sequence)


class Keeper:
    """Keeps deliveries alive while they are worked on: one timer for all of them.

    Args:
        ack_wait_s: The consumer's. Every third of it, the server hears of each message that is held.
    """

    def __init__(self, ack_wait_s: float) -> None:
        self._interval_s = ack_wait_s / 3
        self._held: set[Message] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, message: Message) -> None:
        self._held.add(message)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def discard(self, message: Message) -> None:
        self._held.discard(message)

    def close(self) -> None:
        """Let go of all of them."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self._held:
            return
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)
        try:
            for message in self._held:
                message.in_progress()
        except Busy:
            log.warning("delivery.heartbeat_lost", held=len(self._held))
        except Unusable:
            self.close()


class Subscription:
    """Pulls one durable consumer, and gives what has arrived in lists. Made by `subscribe`.

    Attributes:
        pinned: The server has chosen this reader of the group; always False without a group. No lock: for a
            moment two may believe it.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        batch: int,
        group: str | None,
        keeper: Keeper | None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._batch = batch
        self._group = group
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._expires_s = _EXPIRES_S if group is None else _GROUP_EXPIRES_S
        self._heartbeat_s = _HEARTBEAT_S if group is None else _GROUP_HEARTBEAT_S
        self._pull_bytes = max(_PULL_BYTES, 2 * connection.client.max_payload)
        self._inbox = f"{connection.client.new_inbox()}."
        self._inbox_root = f"_INBOX.{connection.user}."
        self._interests: list[Interest] = []
        self._renewals: set[asyncio.Task[None]] = set()
        self._arrived: deque[Message] = deque()
        self._arrived_bytes = 0
        self._readers: deque[asyncio.Future[None]] = deque()
        self._pin: str | None = None
        # How many messages the server still owes for the pulls from `_first_pull` on; it says so when one ends early.
        self._owed = 0
        self._pulls = 0
        self._first_pull = 1
        self._silent_ticks = 0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def pinned(self) -> bool:
        return self._pin is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[list[Message]]:
        while arrived := await self.receive():
            yield arrived

    async def receive(self, most: int | None = None) -> list[Message]:
        """Wait until something has arrived.

        Args:
            most: At most this many messages; None: all that have arrived.

        Returns:
            Messages in the order of the stream (redelivered ones apart); none if the subscription is closed.

        Raises:
            Unusable: The connection is closed.
        """
        while not self._arrived:
            if self._connection.closed.is_set() and not self._stopped:
                raise Unusable(f"the connection ended that {self._stream}/{self._consumer} was read from")
            if self._stopped:
                return []
            reader: asyncio.Future[None] = self._loop.create_future()
            self._readers.append(reader)
            try:
                await reader
            except asyncio.CancelledError:
                if reader.done() and not reader.cancelled() and self._arrived:
                    self._wake()
                raise
        if most is None or most >= len(self._arrived):
            taken = list(self._arrived)
            self._arrived.clear()
            self._arrived_bytes = 0
        else:
            taken = [self._arrived.popleft() for _ in range(most)]
            self._arrived_bytes -= sum(len(message.data) for message in taken)
        self._pull_if_low()
        return taken

    async def close(self) -> None:
        """Stop pulling, and give back what nobody has received. What was received stays with its receiver."""
        if self._stopped:
            return
        self._stopped = True
        self._connection.on_disconnect.discard(self._forget_inbox)
        self._connection.on_reconnect.discard(self._come_back)
        self._connection.on_close.discard(self._wake_all)
        for timer in (self._timer, self._retry, *self._renewals):
            if timer is not None:
                timer.cancel()
        unreceived = list(self._arrived)
        self._arrived.clear()
        self._wake_all()
        if self._connection.closed.is_set():
            return
        # First no more deliveries: what is given back would come back here. What the server had sent before it heard of
        # this is given back as it arrives.
        for interest in tuple(self._interests):
            with contextlib.suppress(Busy):
                await self._connection.unlisten(interest)
        if not self._connection.closed.is_set():
            for message in unreceived:
                message.nak()

    # --- what happens ----------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._interests.append(await self._connection.listen(f"{self._inbox}*", self._on_message))
        self._connection.on_disconnect.add(self._forget_inbox)
        self._connection.on_reconnect.add(self._come_back)
        self._connection.on_close.add(self._wake_all)
        self._start_over()
        self._timer = self._loop.call_later(self._heartbeat_s, self._watch)

    def _on_message(self, delivered: Msg) -> None:
        self._silent_ticks = 0
        # By the subject, not by a status: a stored message may begin with a status of its own.
        if delivered.subject.startswith(self._inbox_root):
            self._on_status(int(delivered.subject.rpartition(".")[2]), delivered.headers or {})
            return
        message = Message(self._connection, delivered, self._keeper)
        if self._stopped:
            message.nak()
            return
        if self._group is not None and delivered.headers:
            self._pin = delivered.headers.get("Nats-Pin-Id", self._pin)
        self._failures = 0
        self._owed -= 1
        self._arrived.append(message)
        self._arrived_bytes += len(message.data)
        if self._readers:
            self._wake()

    def _on_status(self, pull: int, headers: Mapping[str, str]) -> None:
        """Source: NATS ADR-37 (heartbeats and the ends of pulls), ADR-42 (pins)."""
        status = headers.get("Status", "")
        if status == "100" or self._stopped or pull < self._first_pull:
            return
        said = headers.get("Description", "")
        if status == "423":
            # Somebody else is pinned: wait in line as one who has never been.
            self._pin = None
            self._start_over()
        elif "Nats-Pending-Messages" in headers:
            self._owed -= int(headers["Nats-Pending-Messages"])
            self._failures = 0
            self._pull_if_low()
        else:
            self._pull_later(status, said)

    def _start_over(self) -> None:
        self._owed = 0
        self._first_pull = self._pulls + 1
        self._silent_ticks = 0
        self._pull_if_low()

    def _pull_if_low(self) -> None:
        if self._stopped or self._retry is not None or self._arrived_bytes >= self._pull_bytes // 2:
            return
        free = self._batch - max(self._owed, 0) - len(self._arrived)
        if 2 * free >= self._batch:
            self._pull(free)

    def _pull(self, count: int) -> None:
        self._pulls += 1
        self._owed = max(self._owed, 0) + count
        asked: dict[str, object] = {
            "batch": count,
            "max_bytes": self._pull_bytes,
            "expires": int(self._expires_s * 1e9),
            "idle_heartbeat": int(self._heartbeat_s * 1e9),
        }
        if self._group is not None:
            asked["group"] = self._group
            if self._pin is not None:
                asked["id"] = self._pin
        try:
            self._connection.send(self._pull_subject, msgspec.json.encode(asked), f"{self._inbox}{self._pulls}")
            if self._pulls % _PULLS_OF_AN_INBOX == 0:
                self._renew_inbox()
        except Busy:
            self._pull_later("", "the server takes nothing")
        except Unusable:
            self._wake_all()

    def _forget_inbox(self) -> None:
        # The server keeps the pulls of the connection that broke for as long as somebody listens to their inbox, and
        # what it gives to those that came from another account would get lost: nobody may listen to it again.
        for interest in self._interests:
            self._connection.forget(interest)
        self._interests.clear()

    def _come_back(self) -> None:
        self._renew_inbox(start_over=True)

    def _renew_inbox(self, *, start_over: bool = False) -> None:
        renewal = asyncio.create_task(self._renew(start_over))
        self._renewals.add(renewal)
        renewal.add_done_callback(self._renewals.discard)

    async def _renew(self, start_over: bool) -> None:
        inbox = f"{self._connection.client.new_inbox()}."
        try:
            interest = await self._connection.listen(f"{inbox}*", self._on_message)
        except Unusable:
            return  # closed, which whoever reads hears
        old = self._interests[-1] if self._interests else None
        self._interests.append(interest)
        self._inbox = inbox
        if start_over:
            self._start_over()
        # What was pulled before still arrives at the old one.
        await asyncio.sleep(self._expires_s + self._heartbeat_s)
        if old is not None and old in self._interests:
            self._interests.remove(old)
            with contextlib.suppress(Busy):
                await self._connection.unlisten(old)

    def _pull_later(self, status: str, said: str) -> None:
        """The server cannot serve a pull now: the consumer is not there, or nobody leads it."""
        if self._retry is not None:
            return
        self._failures += 1
        if self._failures in {3, 30} or self._failures % 300 == 0:
            log.warning(
                "delivery.cannot_pull",
                stream=self._stream,
                consumer=self._consumer,
                status=status,
                said=said,
                hint="if this stays so, run `planmesh init`",
            )
        pause_s = _grown(_RETRY_S, self._failures, _RETRY_MOST_S)
        self._retry = self._loop.call_later(pause_s, self._pull_again)

    def _pull_again(self) -> None:
        self._retry = None
        self._start_over()

    def _watch(self) -> None:
        # Ticks, not the clock: when this process was busy itself, what arrived has not been read yet.
        self._timer = self._loop.call_later(self._heartbeat_s, self._watch)
        self._silent_ticks += 1
        if self._silent_ticks > 3:
            log.debug("delivery.silent", stream=self._stream, consumer=self._consumer)
            self._start_over()

    def _wake(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._readers:
            self._wake()


async def subscribe(
    connection: Connection,
    stream: str,
    consumer: str,
    *,
    batch: int = 256,
    group: str | None = None,
    keeper: Keeper | None = None,
) -> Subscription:
    """Start to pull a durable consumer, and go on whatever happens to the server.

    Args:
        connection: May publish to the consumer's `MSG.NEXT` and `$JS.ACK` subjects.
        stream: The stream's name.
        consumer: A durable pull consumer with explicit acks. While it is not there, this waits for it, and logs.
        batch: Hold at most about this many that nobody has received yet.
        group: The priority group of a consumer with `pinned_client`: one reader gets everything, the others wait
            until the server has not heard of it for `TAKEOVER_S`.
        keeper: Keeps everything alive from its arrival to its answer.
    """
    subscription = Subscription(connection, stream, consumer, batch=batch, group=group, keeper=keeper)
    await subscription._open()
    return subscription


async def consume(
    connection: Connection,
    stream: str,
    consumer: str,
    handle: Callable[[Message], Awaitable[None]],
    *,
    service: str,
    batch: int = 256,
    group: str | None = None,
    concurrency: int = 1,
    ack_wait_s: float | None = None,
    stop: asyncio.Event | None = None,
    poison_to: Connection | None = None,
    poison: tuple[type[Exception], ...] = (),
) -> None:
    """Give each message of a consumer to *handle*, and answer for it, until *stop*.

    ============================================  ====================================================================
    *handle*                                      the message
    ============================================  ====================================================================
    returns                                       acked, unless it has been answered
    raises `Poison`, `DecodeError`, `BadSubject`  set aside in the stream POISON, then acked
    or one of *poison*
    raises `Busy`, `Conflict` or `Unusable`       comes back after 0.1 s, doubled by each delivery up to 10 s
    raises anything else: a bug                   logged, comes back after 1 s, 2 s, ...; set aside the fifth time
    is cancelled                                  comes back at once
    ============================================  ====================================================================

    Args:
        connection: See `subscribe`.
        stream: See `subscribe`.
        consumer: See `subscribe`.
        handle: Does one message. With a *concurrency* of 1, one after the other in the order of the stream.
        service: Whose poison it is: `poison.<service>.<stream>`.
        batch: See `subscribe`. What waits here is not done elsewhere: small for slow handlers.
        group: See `subscribe`.
        concurrency: How many messages may be worked on at once.
        ack_wait_s: The consumer's, to keep alive what waits here and what takes long; None if all is quick.
        stop: Set it to end: what has been begun is finished, what has not is given back.
        poison_to: A connection in the account of the stream POISON; None: *connection*.
        poison: More kinds of error that mean that this message will never work.

    Raises:
        Unusable: The connection is closed.
    """
    keeper = Keeper(ack_wait_s) if ack_wait_s is not None else None
    subscription = await subscribe(connection, stream, consumer, batch=batch, group=group, keeper=keeper)
    hopeless = (*_HOPELESS, *poison)
    aside = poison_to or connection

    async def work() -> None:
        busy = 0
        while messages := await subscription.receive(1):
            busy = busy + 1 if await _handle(messages[0], handle, service, hopeless, aside) else 0
            if busy:
                # What one message cannot have now, the next will hardly get.
                await asyncio.sleep(_grown(_BUSY_S, busy, _PAUSE_MOST_S))

    async def end() -> None:
        if stop is not None:
            await stop.wait()
            await subscription.close()

    ending = asyncio.create_task(end())
    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            worker.result()
    finally:
        ending.cancel()
        # First no more deliveries, then the workers: what they give back would come back here.
        await subscription.close()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if keeper is not None:
            keeper.close()


async def _handle(
    message: Message,
    handle: Callable[[Message], Awaitable[None]],
    service: str,
    hopeless: tuple[type[Exception], ...],
    aside: Connection,
) -> bool:
    """Returns: what it needs is busy, and it comes back."""
    try:
        await handle(message)
    except asyncio.CancelledError:
        message.nak()
        raise
    except Exception as error:
        await give_up(aside, service, message, error, hopeless)
        return isinstance(error, _LATER) and not isinstance(error, hopeless)
    message.ack()
    return False


async def give_up(
    connection: Connection,
    service: str,
    message: Message,
    error: BaseException,
    hopeless: tuple[type[Exception], ...] = _HOPELESS,
    *,
    keep: bool = False,
) -> None:
    """Answer for a message that could not be done: what becomes of it is in the table of `consume`.

    Args:
        connection: In the account of the stream POISON.
        service: Who could not do it.
        message: The message, not yet answered.
        error: Why.
        hopeless: The kinds of error that mean that it will never work.
        keep: Never set it aside: what must not be lost comes back, after a minute at most, until it can be done.
    """
    times = message.num_delivered
    if keep and not isinstance(error, _LATER):
        log.error("message.kept", **_told(service, message), exc_info=error)
        message.nak(_grown(_BUG_S, times, _BUG_MOST_S))
    elif isinstance(error, hopeless):
        await _set_aside_or_nak(connection, service, message, error)
    elif isinstance(error, _LATER):
        delay_s = _grown(_BUSY_S, times, _BUSY_MOST_S)
        level = log.error if isinstance(error, Unusable) else log.info
        level("message.later", **_told(service, message), error=str(error), delay_s=delay_s)
        message.nak(delay_s)
    else:
        log.error("message.bug", **_told(service, message), exc_info=error)
        if times < _MOST_DELIVERIES_OF_A_BUG:
            message.nak(_grown(_BUG_S, times, _BUG_MOST_S))
        else:
            await _set_aside_or_nak(connection, service, message, error)


async def _set_aside_or_nak(connection: Connection, service: str, message: Message, error: BaseException) -> None:
    try:
        await set_aside(connection, service, message, error)
    except (Busy, Conflict, Poison, Unusable) as failure:
        log.error("message.not_set_aside", **_told(service, message), error=str(failure))
        message.nak(_BUSY_MOST_S)


async def set_aside(connection: Connection, service: str, message: Message, error: BaseException) -> None:
    """Store a message that will never work in the stream POISON, as it came, and ack it.

    Where it came from and why it is here are in the headers `Planmesh-Account`, `-Stream`, `-Sequence`, `-Subject`
    and `-Error`; a bug adds `-Traceback`, with its newlines as ``\\n``. A payload so large that the headers do not
    fit is cut, and so is what somebody has said that nobody understands, beyond `_KEPT_BYTES`; `Planmesh-Cut` says how
    many bytes it had.

    Args:
        connection: In the account of the stream POISON.
        service: Who could not use it.
        message: The message, not yet answered.
        error: Why.

    Raises:
        Busy, Unusable: It could not be stored; the message is not acked.
    """
    headers = {
        "Planmesh-Account": access.HOME.get(subjects.kind_of(message.stream), ""),
        "Planmesh-Stream": message.stream,
        "Planmesh-Sequence": str(message.sequence),
        "Planmesh-Subject": message.subject,
        "Planmesh-Error": _one_line(f"{error}" or type(error).__name__)[:_ERROR_CHARACTERS],
    }
    is_hopeless = isinstance(error, _HOPELESS)
    if not is_hopeless:
        lines = "".join(traceback.format_exception(error))
        headers["Planmesh-Error"] = f"{type(error).__name__}: {headers['Planmesh-Error']}"
        headers["Planmesh-Traceback"] = _one_line(lines[-_TRACEBACK_CHARACTERS:])
    payload = message.data
    room = (
        connection.client.max_payload - 2000 - sum(len(name) + len(value.encode()) for name, value in headers.items())
    )
    writer = subjects.writer_of(message.subject)
    if is_hopeless and writer:
        room = min(room, _KEPT_BYTES)
    if len(payload) > room:
        headers["Planmesh-Cut"] = str(len(payload))
        payload = payload[:room]
    of = f"{subjects.kind_of(message.stream)}-{writer}" if writer else message.stream
    await connection.publish(subjects.poison(service, of), payload, headers=headers)
    log.warning("message.set_aside", **_told(service, message), error=headers["Planmesh-Error"])
    message.ack()


def _grown(first_s: float, times: int, most_s: float) -> float:
    """A delay that doubles each time."""
    return min(first_s * 2.0 ** min(times - 1, 32), most_s)


def _one_line(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")


def _told(service: str, message: Message) -> dict[str, object]:
    return {
        "service": service,
        "stream": message.stream,
        "sequence": message.sequence,
        "subject": message.subject,
        "num_delivered": message.num_delivered,
    }
