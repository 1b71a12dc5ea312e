"""One connection to the server: publish and be told it is stored, ask and be answered, read what is stored.

Every answer comes back through one inbox subscription and is given to whoever waits for it by a number, in the
reader itself: no task, no queue and no timer a message. That is what makes a thousand appends in flight cheap.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Interest

from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.schemas import subjects
from planmesh.wire import Parser

MAX_SUBJECT_CHARACTERS: Final = 1000
OLDEST_SERVER: Final = (2, 11)

# The client buffers what the server has not taken yet. Above the first limit nothing new is accepted; below the
# second, `Client.publish` never waits, which `Connection.send` relies on.
_CROWDED_BYTES: Final = 32 * 1024 * 1024
_BUFFER_BYTES: Final = 128 * 1024 * 1024

_PING_INTERVAL_S: Final = 5
_RECONNECT_WAIT_S: Final = 0.25
_GREETING_S: Final = 2.0
_SWEEP_S: Final = 0.1
_ATTEMPTS: Final = 5
_CLOSE_S: Final = 5.0
_CLOSE_FAILED_S: Final = 0.5
_DIRECT_GET_BYTES: Final = 8 * 1024 * 1024

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_MESSAGE_ID: Final = "Nats-Msg-Id"
_STATUS: Final = "Status"

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_STREAM_FULL: Final = 10077
_MESSAGE_TOO_LARGE: Final = 10054
_NO_MESSAGE: Final = 10037

log = structlog.get_logger()


class Ack(NamedTuple):
    """The server has stored it.

    Attributes:
        stream: The stream's name.
        sequence: Its number in the stream; of the first one, if this was a duplicate.
        duplicate: The stream already had a message with this id, and dropped this one.
    """

    stream: str
    sequence: int
    duplicate: bool


class StoredMessage(NamedTuple):
    """A message as a stream holds it, with the headers that it was published with (and some of the server's)."""

    subject: str
    sequence: int
    time: datetime
    data: bytes
    headers: Mapping[str, str]


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says of itself before anybody logs in. Source: NATS client protocol, INFO."""

    version: str
    max_payload: int
    jetstream: bool = False
    tls_required: bool = False


class _ApiError(msgspec.Struct, frozen=True):
    code: int
    err_code: int = 0
    description: str = ""


class _PublishAnswer(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class _Leader(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: datetime
    data: bytes = b""
    hdrs: bytes = b""


class _LeaderAnswer(msgspec.Struct, frozen=True):
    message: _Leader | None = None
    error: _ApiError | None = None


_decode_publish = msgspec.json.Decoder(_PublishAnswer).decode
_decode_leader = msgspec.json.Decoder(_LeaderAnswer).decode
_decode_info = msgspec.json.Decoder(ServerInfo).decode


class _Waiting(Protocol):
    """Someone who waits for one answer, or for several."""

    subject: str
    deadline: float

    def hear(self, message: Msg) -> bool:
        """Take an answer. Returns: it was the last."""

    def fail(self, error: Exception) -> None: ...


class _Direct:
    """What the client takes for the future of a subscription: hands each message over in the reader itself."""

    __slots__ = ("_deliver",)

    def __init__(self, deliver: Callable[[Msg], None]) -> None:
        self._deliver = deliver

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: Msg) -> None:
        try:
            self._deliver(message)
        except Exception:
            # An exception here would end the client's reader, and with it the connection.
            log.exception("connection.callback_failed", subject=message.subject)


class Connection:
    """A connection that comes back by itself, until it is closed. Made by `connect`; closed by `async with`.

    Attributes:
        user: The NATS user.
        server: What the server said of itself at the first connection.
        client: The client underneath, for whatever is not here.
        connected: There is a connection at this moment.
        closed: Set when the connection is gone for good: the process should exit.
        violations: The last things that the server forbade, in its words.
        on_reconnect: Called, in the loop, each time the connection is back.
        on_close: Called once, when it is gone for good.
    """

    def __init__(self, user: str, server: ServerInfo, url: str) -> None:
        self.client = Client()
        self.client._ps = Parser(self.client)  # type: ignore[assignment]
        self.user = user
        self.server = server
        self.connected = False
        self.closed = asyncio.Event()
        self.violations: deque[str] = deque(maxlen=100)
        self.on_reconnect: set[Callable[[], None]] = set()
        self.on_close: set[Callable[[], None]] = set()
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self._closing = False
        self._asked = 0
        self._waiting: dict[str, _Waiting] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._inbox = ""
        self._token_at = 0

    async def _open(self, urls: list[str], password: str, name: str) -> None:
        await self.client.connect(
            urls,
            user=self.user,
            password=password,
            name=name,
            inbox_prefix=f"_INBOX.{self.user}",
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]
            ping_interval=_PING_INTERVAL_S,
            pending_size=_BUFFER_BYTES,
        )
        if not self.client.is_connected:
            raise _CutOff(_cut_off(self._url, self.user))
        self._opened = self.connected = True
        self._inbox = f"{self.client.new_inbox()}."
        self._token_at = len(self._inbox)
        await self.listen(f"{self._inbox}*", self._on_answer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Connection of {self.user} to {self._url}>"

    async def close(self) -> None:
        """Send what is still buffered, and close. Whoever waits for an answer gets `Busy`."""
        if self.closed.is_set():
            return
        self._closing = True
        try:
            await asyncio.wait_for(self.client.close(), _CLOSE_S if self._opened else _CLOSE_FAILED_S)
        except TimeoutError:
            log.debug("connection.close_timed_out", user=self.user, server=self._url)
        await self._on_closed()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has read all that was sent. Raises: Busy."""
        deadline = self._loop.time() + timeout_s
        try:
            # `Client.flush` alone lets its ping overtake what is buffered.
            await self._drain(timeout_s)
            await self.client.flush(timeout=max(deadline - self._loop.time(), 0.001))  # type: ignore[arg-type]
        except (TimeoutError, nats.errors.Error) as error:
            raise Busy(f"the NATS server at {self._url} did not answer a ping within {timeout_s:g} s") from error

    async def _drain(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.client._flush_pending(force_flush=True), timeout_s)

    # --- sending ---------------------------------------------------------------------------------------

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Publish and forget: nobody says whether it arrived. Buffered while the connection is down.

        Raises:
            Busy: The server has not taken what was sent before.
            Poison: The subject or the payload is too long.
            Unusable: The connection is closed.
        """
        self._check_size(subject, payload, headers)
        self._send(subject, payload, reply, headers)

    def publish_soon(
        self,
        subject: str,
        payload: bytes,
        *,
        expect_last_on_subject: int | None = None,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> "asyncio.Future[Ack]":
        """Publish to a stream; the future is done when the server has stored it.

        Args:
            subject: One that a stream holds.
            payload: The message.
            expect_last_on_subject: Store it only if this is the sequence of the last message of the subject
                (0: there is none).
            message_id: The stream drops a later message with the same id, within its window.
            headers: More headers; readers pay for each.
            timeout_s: How long to wait for the server's word.

        Returns:
            A future with an `Ack`, or with one of these errors: `Conflict` (another message was faster, or a
            subject that holds one message has one), `Busy` (with `ambiguous` set if it may have been stored),
            `Poison` (the stream takes no message this large), `Unusable` (not allowed, or closed).

        Raises:
            Busy: The server has not taken what was sent before.
            Poison: The subject or the payload is too long for the server, which would close the connection.
            Unusable: The connection is closed.
        """
        all_headers: dict[str, str] | None = None
        if expect_last_on_subject is not None or message_id is not None or headers:
            all_headers = dict(headers) if headers else {}
            if expect_last_on_subject is not None:
                all_headers[_EXPECTED] = str(expect_last_on_subject)
            if message_id is not None:
                all_headers[_MESSAGE_ID] = message_id
        self._check_size(subject, payload, all_headers)
        waiting = _PublishWaiting(self._loop, subject, timeout_s, expect_last_on_subject)
        self._ask(waiting, subject, payload, all_headers)
        return waiting.future

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        expect_last_on_subject: int | None = None,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> Ack:
        """`publish_soon`, awaited, also for the buffer to have room. Raises: Conflict, Busy, Poison, Unusable."""
        if self.client.pending_data_size > _CROWDED_BYTES // 2:
            await self._drain(timeout_s)
        return await self.publish_soon(
            subject,
            payload,
            expect_last_on_subject=expect_last_on_subject,
            message_id=message_id,
            headers=headers,
            timeout_s=timeout_s,
        )

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> bytes:
        """Ask whoever answers on *subject*; return the answer.

        Raises:
            Busy: Nobody listens, nobody answered in time (`ambiguous`), or the answer was an error of theirs.
            Poison: The answer was an error of ours (a service error of 400 to 499), or the request is too long.
            Unusable: Not allowed, or closed.
        """
        self._check_size(subject, payload, headers)
        waiting = _RequestWaiting(self._loop, subject, timeout_s)
        self._ask(waiting, subject, payload, headers)
        return await waiting.future

    async def listen(self, subject: str, on_message: Callable[[Msg], None], *, queue: str = "") -> Interest:
        """Call *on_message* in the reader for each message on *subject*: be quick, and raise nothing.

        Returns:
            The subscription, for `unlisten`.
        """
        direct: Any = _Direct(on_message)
        return await self.client.subscribe(subject, queue=queue, future=direct)

    async def unlisten(self, interest: Interest) -> None:
        """End a subscription. What the server had already sent is still heard. Raises: Busy."""
        await self.client._send_unsubscribe(interest._id)
        await self.flush()
        self.client._remove_sub(interest._id)

    # --- reading streams -------------------------------------------------------------------------------

    async def direct_get(
        self,
        stream: str,
        *,
        subject: str | None = None,
        sequence: int = 1,
        batch: int = 1000,
        timeout_s: float = 5.0,
    ) -> list[StoredMessage]:
        """Read stored messages in order. On a replicated stream, whoever answers may lag behind the leader.

        Args:
            stream: One with `allow_direct`.
            subject: Only messages on this subject (wildcards allowed); None reads all.
            sequence: The first sequence of interest. The server searches from here: later is faster.
            batch: At most this many messages.
            timeout_s: How long the server may be silent.

        Returns:
            Fewer than *batch* only if the stream held no more.

        Raises:
            Busy: No answer, or nobody answers for this stream.
            Unusable: Not allowed, or closed.
        """
        found: list[StoredMessage] = []
        while len(found) < batch:
            asked = {
                "seq": max(sequence, 1),
                "next_by_subj": subject or ">",
                "batch": batch - len(found),
                "max_bytes": _DIRECT_GET_BYTES,
            }
            answer = await self._direct_get(stream, asked, timeout_s)
            found += answer.found
            if not answer.left or not answer.found:
                break
            sequence = found[-1].sequence + 1
        return found

    async def last_on_subject(
        self, stream: str, subject: str, *, leader: bool = False, timeout_s: float = 5.0
    ) -> StoredMessage | None:
        """The last message on *subject*, if there is one.

        Args:
            stream: One with `allow_direct`, unless *leader*.
            subject: A whole subject.
            leader: Ask the stream's leader, who cannot lag. Dearer, and needs the right to `STREAM.MSG.GET`.
            timeout_s: How long to wait.

        Raises:
            Busy: No answer, or nobody answers for this stream.
            Unusable: Not allowed, or closed.
        """
        if leader:
            return await self._leader_get(stream, {"last_by_subj": subject}, timeout_s)
        found = (await self._direct_get(stream, {"last_by_subj": subject}, timeout_s)).found
        return found[0] if found else None

    async def _direct_get(self, stream: str, asked: dict[str, object], timeout_s: float) -> "_ReadWaiting":
        to = f"$JS.API.DIRECT.GET.{stream}"
        waiting = _ReadWaiting(self._loop, to, timeout_s, many="batch" in asked)
        self._ask(waiting, to, msgspec.json.encode(asked), None)
        await waiting.future
        return waiting

    async def _leader_get(self, stream: str, asked: dict[str, object], timeout_s: float) -> StoredMessage | None:
        to = f"$JS.API.STREAM.MSG.GET.{stream}"
        answer = _decode_leader(await self.request(to, msgspec.json.encode(asked), timeout_s=timeout_s))
        if answer.error is not None:
            if answer.error.err_code == _NO_MESSAGE:
                return None
            raise _refusal(answer.error, to)
        if answer.message is None:
            raise Unusable(f"{to} answered with neither a message nor an error")
        stored = answer.message
        headers = _parse_headers(stored.hdrs)
        return StoredMessage(stored.subject, stored.seq, stored.time, stored.data, headers)

    # --- asking and being answered ---------------------------------------------------------------------

    def _check_size(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Refuse what would make the server close the connection. Raises: Poison."""
        if not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or not subject.isascii():
            raise Poison(
                f"a subject is 1 to {MAX_SUBJECT_CHARACTERS} ASCII characters, "
                f"not the {len(subject)} of {subject[:60]!a}"
            )
        size = len(payload)
        if headers:
            size += 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
        if size > self.client.max_payload:
            raise Poison(
                f"a message for {subject} has {size:,} bytes with its headers, "
                f"and the server takes {self.client.max_payload:,} (max_payload)"
            )

    def _send(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        client = self.client
        if client.pending_data_size > _CROWDED_BYTES:
            raise Busy(f"{client.pending_data_size:,} bytes wait for the NATS server at {self._url} to take them")
        # Below its buffer's limit `Client.publish` does not wait for anything, so one step is all of it.
        sending = client.publish(subject, payload, reply, headers)
        try:
            sending.send(None)
        except StopIteration:
            return
        except nats.errors.ConnectionClosedError as error:
            raise Unusable(f"the connection to {self._url} is closed") from error
        sending.close()
        raise Busy(f"the client could not buffer a message for {subject}")

    def _ask(self, waiting: _Waiting, subject: str, payload: bytes, headers: dict[str, str] | None) -> None:
        self._asked += 1
        token = str(self._asked)
        self._send(subject, payload, self._inbox + token, headers)
        self._waiting[token] = waiting
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _on_answer(self, message: Msg) -> None:
        token = message.subject[self._token_at :]
        waiting = self._waiting.get(token)
        if waiting is not None and waiting.hear(message):
            del self._waiting[token]

    def _sweep(self) -> None:
        now = self._loop.time()
        late = [token for token, waiting in self._waiting.items() if waiting.deadline <= now]
        for token in late:
            waiting = self._waiting.pop(token)
            waiting.fail(_ambiguous(f"no answer about {waiting.subject} from the NATS server at {self._url}"))
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep) if self._waiting else None

    def _fail_all(self, error: Callable[[str], Exception]) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.fail(error(one.subject))

    # --- what the client tells us ----------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if not self._opened and not self._closing:
            # Raised here, it comes out of `Client.connect`, which would try again for ever.
            raise _unusable(error, self._url, self.user) from error
        if "permissions violation" in text:
            self.violations.append(text.removeprefix("nats: "))
            log.error("connection.forbidden", user=self.user, violation=self.violations[-1])
            self._fail_forbidden(text)
        elif isinstance(error, OSError | asyncio.TimeoutError | nats.errors.Error):
            log.debug("connection.error", user=self.user, server=self._url, error=text)
        else:
            log.error("connection.error", user=self.user, server=self._url, error=text, exc_info=error)

    def _fail_forbidden(self, text: str) -> None:
        _, _, subject = text.partition('publish to "')
        subject = subject.rstrip("\"'")
        for token, waiting in list(self._waiting.items()):
            # The client puts the server's words in lower case.
            if waiting.subject.lower() == subject:
                del self._waiting[token]
                waiting.fail(Unusable(f"the NATS user {self.user} may not publish to {waiting.subject}"))

    async def _on_disconnected(self) -> None:
        if self._closing or not self._opened:
            return
        self.connected = False
        log.warning("connection.lost", user=self.user, server=self._url)
        self._fail_all(lambda subject: _ambiguous(f"the connection to {self._url} broke before {subject} was answered"))

    async def _on_reconnected(self) -> None:
        self.connected = True
        log.info("connection.restored", user=self.user, server=self._url)
        for callback in tuple(self.on_reconnect):
            callback()

    async def _on_closed(self) -> None:
        if self.closed.is_set():
            return
        self.connected = False
        self.closed.set()
        if not self._closing:
            log.error("connection.closed", user=self.user, server=self._url, error=str(self.client.last_error))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._fail_all(
            lambda subject: _ambiguous(f"the connection to {self._url} was closed before {subject} was answered")
        )
        for callback in tuple(self.on_close):
            callback()


async def connect(server_url: str, user: str, password: str, *, name: str, wait_s: float = 10.0) -> Connection:
    """Connect to a NATS server, and stay connected.

    Args:
        server_url: `nats://host:port`, or `tls://host:port` to insist on encryption; several, with commas, for a
            cluster. Authorities of your own: the environment variable `SSL_CERT_FILE`.
        user: The NATS user; its inboxes are `_INBOX.<user>.>`.
        password: Its password.
        name: What the server's monitoring calls this connection.
        wait_s: How long a server may take to open its port.

    Raises:
        Unusable: No server, not this password, no encryption, a server that is too old or has no JetStream.
    """
    subjects.token("user", user)
    urls = [url.strip() for url in server_url.split(",")]
    shown = ",".join(_without_password(url) for url in urls)
    server = await _greeting(urls, shown, wait_s)
    for attempt in range(_ATTEMPTS):
        connection = Connection(user, server, shown)
        try:
            await connection._open(urls, password, name)
        except BaseException as error:
            await connection.close()
            if not isinstance(error, _CutOff):
                raise
            for url in urls:
                await _log_in(url, user, password)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    log.debug("connection.opened", user=user, server=shown, server_version=server.version)
    return connection


# --- who waits -----------------------------------------------------------------------------------------------


class _PublishWaiting:
    __slots__ = ("deadline", "expected", "future", "subject")

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float, expected: int | None) -> None:
        self.future: asyncio.Future[Ack] = loop.create_future()
        self.deadline = loop.time() + timeout_s
        self.subject = subject
        self.expected = expected

    def hear(self, message: Msg) -> bool:
        if self.future.done():
            return True
        if message.headers and _STATUS in message.headers:
            self.future.set_exception(_nobody(self.subject, message.headers[_STATUS]))
            return True
        try:
            answer = _decode_publish(message.data)
        except msgspec.DecodeError:
            self.future.set_exception(Unusable(f"whoever answers on {self.subject} is not a stream"))
            return True
        if answer.error is None:
            self.future.set_result(Ack(answer.stream, answer.seq, answer.duplicate))
        else:
            self.future.set_exception(_refusal(answer.error, self.subject, self.expected))
        return True

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _RequestWaiting:
    __slots__ = ("deadline", "future", "subject")

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float) -> None:
        self.future: asyncio.Future[bytes] = loop.create_future()
        self.deadline = loop.time() + timeout_s
        self.subject = subject

    def hear(self, message: Msg) -> bool:
        if self.future.done():
            return True
        headers = message.headers
        if not headers:
            self.future.set_result(message.data)
        elif _STATUS in headers:
            self.future.set_exception(_nobody(self.subject, headers[_STATUS]))
        elif "Nats-Service-Error-Code" in headers:
            code = headers["Nats-Service-Error-Code"]
            text = headers.get("Nats-Service-Error") or f"{self.subject} answered with error {code}"
            self.future.set_exception(Poison(text) if code.startswith("4") else Busy(text))
        else:
            self.future.set_result(message.data)
        return True

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _ReadWaiting:
    """Hears stored messages until the server says that there are no more. Source: NATS ADR-31."""

    __slots__ = ("_loop", "_timeout_s", "deadline", "found", "future", "left", "many", "subject")

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float, *, many: bool) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.deadline = loop.time() + timeout_s
        self.subject = subject
        self.many = many
        self.found: list[StoredMessage] = []
        self.left = False
        self._loop = loop
        self._timeout_s = timeout_s

    def hear(self, message: Msg) -> bool:
        if self.future.done():
            return True
        headers = message.headers or {}
        # A stored message may itself begin with a status, but only the server gives a sequence.
        if "Nats-Sequence" in headers:
            self.found.append(
                StoredMessage(
                    headers["Nats-Subject"],
                    int(headers["Nats-Sequence"]),
                    msgspec.convert(headers["Nats-Time-Stamp"], datetime),
                    message.data,
                    headers,
                )
            )
            self.deadline = self._loop.time() + self._timeout_s
            if self.many:
                return False
            self.future.set_result(None)
            return True
        status = headers.get(_STATUS, "")
        if status in {"204", "404"}:
            self.left = status == "204" and headers.get("Nats-Num-Pending", "0") != "0"
            self.future.set_result(None)
        elif status == "503":
            self.future.set_exception(_nobody(self.subject, status))
        elif self.many and not status:
            # Headers so broken that the server's own could not be read: one message must not hide the others.
            log.warning("connection.unreadable_message", subject=self.subject)
            return False
        else:
            said = headers.get("Description", "") or ascii(message.data[:100])
            self.future.set_exception(Unusable(f"{self.subject} answered {status or 'without a status'}: {said}"))
        return True

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


# --- what went wrong -----------------------------------------------------------------------------------------


def _ambiguous(text: str) -> Busy:
    error = Busy(f"{text}; it may have been carried out")
    error.ambiguous = True
    return error


def _nobody(subject: str, status: str) -> Exception:
    if status == "503":
        return Busy(
            f"nobody answers on {subject}: its stream or service is not there (yet). "
            "If this stays so, run `planmesh init`"
        )
    return Busy(f"{subject} answered with status {status}")


def _refusal(error: _ApiError, subject: str, expected: int | None = None) -> Exception:
    said = error.description
    if error.err_code in _WRONG_LAST_SEQUENCE:
        return Conflict(f"expected sequence {expected} as the last of {subject}; the server says: {said}")
    if error.err_code == _STREAM_FULL:
        # One subject being full is somebody else's message where this one should be.
        if "per subject" in said:
            return Conflict(f"{subject} already holds a message")
        return Busy(f"the stream of {subject} is full ({said}): make room or raise its limits")
    if error.err_code == _MESSAGE_TOO_LARGE:
        return Poison(f"the stream of {subject} takes no message this large ({said})")
    if error.code >= 500 or error.code in {408, 429}:
        return Busy(f"the server cannot take {subject} now: {said} ({error.err_code})")
    return Unusable(f"the server refuses {subject}: {said} ({error.err_code})")


class _CutOff(Unusable):
    """The server hung up without a word, or before its word was read: a refusal may look like this."""


def _cut_off(url: str, user: str) -> str:
    return f"the NATS server at {url} hangs up on the user {user}: check the credentials, and the server's log"


def _unusable(error: Exception, url: str, user: str) -> Unusable:
    text = str(error)
    if isinstance(error, ConnectionError | nats.errors.UnexpectedEOF):
        return _CutOff(_cut_off(url, user))
    if "authorization violation" in text.lower():
        return Unusable(
            f"the NATS server at {url} does not know the user {user} with this password: check the credentials"
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or text
        return Unusable(
            f"no encrypted connection to {url}: {reason}. "
            "For an authority of your own, set SSL_CERT_FILE to its certificate"
        )
    return Unusable(f"cannot connect to the NATS server at {url}: {text or type(error).__name__}")


def _without_password(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


# --- before the client connects ------------------------------------------------------------------------------


async def _greeting(urls: list[str], shown: str, wait_s: float) -> ServerInfo:
    """Wait for a server to open its port, and read who it is: the client itself would wait 2 s between attempts."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    pause_s = 0.01
    while True:
        for url in urls:
            server = await _greet(url)
            if server is not None:
                return server
        if loop.time() + pause_s > deadline:
            raise Unusable(
                f"no NATS server at {shown} within {wait_s:g} s: start one (`planmesh up`), or say where it is "
                "(--server, PLANMESH_SERVER)"
            )
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.25)


async def _greet(url: str) -> ServerInfo | None:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    shown = _without_password(url)
    if parts.scheme not in {"nats", "tls"} or not parts.hostname:
        raise Unusable(f"a NATS server is nats://host:port or tls://host:port, not {shown}")
    try:
        opening = asyncio.open_connection(parts.hostname, parts.port or 4222)
        reader, writer = await asyncio.wait_for(opening, _GREETING_S)
    except (TimeoutError, OSError):
        return None
    try:
        line = await asyncio.wait_for(reader.readline(), _GREETING_S)
        server = _decode_info(line.removeprefix(b"INFO "))
    except ConnectionError:
        return None
    except (TimeoutError, msgspec.DecodeError, ValueError):
        raise Unusable(f"what listens at {shown} does not greet as a NATS server does") from None
    finally:
        writer.close()
    if parts.scheme == "tls" and not server.tls_required:
        raise Unusable(f"{shown} asks for encryption, and the server there offers none: give it a `tls` block")
    if tuple(int(part) for part in server.version.split("-")[0].split(".")[:2]) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise Unusable(f"the NATS server at {shown} is version {server.version}: install {oldest} or later")
    if not server.jetstream:
        raise Unusable(f"the NATS server at {shown} has no JetStream: start it with `-js` or a `jetstream` block")
    return server


async def _log_in(url: str, user: str, password: str) -> None:
    """Hear why a server hangs up. The client logs in with two writes, and when the server refuses before the second
    one, its word is lost with the connection; this takes one write.

    Raises:
        Unusable: What the server said.
    """
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_GREETING_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
            try:
                if _decode_info((await reader.readline()).removeprefix(b"INFO ")).tls_required:
                    return
                who = {"user": user, "pass": password, "verbose": False, "lang": "python3", "protocol": 1}
                writer.write(b"CONNECT %s\r\nPING\r\n" % msgspec.json.encode(who))
                said = (await reader.readline()).decode("utf-8", "backslashreplace")
            finally:
                writer.close()
            if said.startswith("-ERR"):
                raise _unusable(nats.errors.Error(said.strip()), _without_password(url), user)


def _parse_headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
