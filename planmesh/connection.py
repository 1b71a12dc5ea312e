"""One connection to the server: publish and be told it is stored, ask and be answered, read what is stored.

Every answer comes back through one inbox subscription and is given to whoever waits for it by a number, in the
reader itself: no task, no queue and no timer a message. That is what makes a thousand appends in flight cheap.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Interest

from planmesh.answers import (
    Ack,
    PublishWaiting,
    ReadWaiting,
    RequestWaiting,
    StoredMessage,
    Waiting,
    ambiguous,
    read_leader,
)
from planmesh.errors import Busy, Poison, Unusable
from planmesh.greeting import CutOff, ServerInfo, cut_off, greeting, log_in, unusable, without_password
from planmesh.schemas import subjects
from planmesh.wire import Parser

__all__ = ["Ack", "Connection", "ServerInfo", "StoredMessage", "connect"]

MAX_SUBJECT_CHARACTERS: Final = 1000

# The client buffers what the server has not taken yet. Above the first limit nothing new is accepted; below the
# second, `Client.publish` never waits, which `Connection.send` relies on.
_CROWDED_BYTES: Final = 32 * 1024 * 1024
_BUFFER_BYTES: Final = 128 * 1024 * 1024

_PING_INTERVAL_S: Final = 5
_RECONNECT_WAIT_S: Final = 0.25
_SWEEP_S: Final = 0.1
_ATTEMPTS: Final = 5
_CLOSE_S: Final = 5.0
_CLOSE_FAILED_S: Final = 0.5
_DIRECT_GET_BYTES: Final = 8 * 1024 * 1024

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_MESSAGE_ID: Final = "Nats-Msg-Id"

log = structlog.get_logger()


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
        on_disconnect: Called, in the loop, each time the connection is lost.
        on_reconnect: Called, in the loop, each time it is back.
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
        self.on_disconnect: set[Callable[[], None]] = set()
        self.on_reconnect: set[Callable[[], None]] = set()
        self.on_close: set[Callable[[], None]] = set()
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self._closing = False
        self._asked = 0
        self._waiting: dict[str, Waiting[Any]] = {}
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
            raise CutOff(cut_off(self._url, self.user))
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
        except OSError as error:
            # The server is gone, and what was still buffered with it.
            log.debug("connection.close_failed", user=self.user, server=self._url, error=str(error))
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
        waiting = PublishWaiting(self._loop, subject, timeout_s, expect_last_on_subject)
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
        waiting = RequestWaiting(self._loop, subject, timeout_s)
        self._ask(waiting, subject, payload, headers)
        return await waiting.future

    async def listen(self, subject: str, on_message: Callable[[Msg], None], *, queue: str = "") -> Interest:
        """Call *on_message* in the reader for each message on *subject*: be quick, and raise nothing.

        Returns:
            The subscription, for `unlisten`.

        Raises:
            Unusable: The connection is closed.
        """
        direct: Any = _Direct(on_message)
        try:
            return await self.client.subscribe(subject, queue=queue, future=direct)
        except nats.errors.ConnectionClosedError as error:
            raise Unusable(f"the connection to {self._url} is closed") from error

    async def unlisten(self, interest: Interest) -> None:
        """End a subscription. What the server had already sent is still heard. Raises: Busy."""
        try:
            if self.connected:
                await self.client._send_unsubscribe(interest._id)
                await self.flush()
        finally:
            self.client._remove_sub(interest._id)

    def forget(self, interest: Interest) -> None:
        """End a subscription without telling the server, which has lost it with its connection."""
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
            to = f"$JS.API.STREAM.MSG.GET.{stream}"
            asked = msgspec.json.encode({"last_by_subj": subject})
            return read_leader(await self.request(to, asked, timeout_s=timeout_s), to)
        found = (await self._direct_get(stream, {"last_by_subj": subject}, timeout_s)).found
        return found[0] if found else None

    async def _direct_get(self, stream: str, asked: dict[str, object], timeout_s: float) -> ReadWaiting:
        to = f"$JS.API.DIRECT.GET.{stream}"
        waiting = ReadWaiting(self._loop, to, timeout_s, many="batch" in asked)
        self._ask(waiting, to, msgspec.json.encode(asked), None)
        await waiting.future
        return waiting

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

    def _ask(self, waiting: Waiting[Any], subject: str, payload: bytes, headers: dict[str, str] | None) -> None:
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
            waiting.fail(ambiguous(f"no answer about {waiting.subject} from the NATS server at {self._url}"))
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
            raise unusable(error, self._url, self.user) from error
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
        self._fail_all(lambda subject: ambiguous(f"the connection to {self._url} broke before {subject} was answered"))
        for callback in tuple(self.on_disconnect):
            callback()

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
            lambda subject: ambiguous(f"the connection to {self._url} was closed before {subject} was answered")
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
    shown = ",".join(without_password(url) for url in urls)
    server = await greeting(urls, shown, wait_s)
    for attempt in range(_ATTEMPTS):
        connection = Connection(user, server, shown)
        try:
            await connection._open(urls, password, name)
        except BaseException as error:
            await connection.close()
            if not isinstance(error, CutOff):
                raise
            for url in urls:
                await log_in(url, user, password)
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    log.debug("connection.opened", user=user, server=shown, server_version=server.version)
    return connection
