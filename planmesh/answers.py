"""What the server's answers mean: stored, refused, nobody there, or the messages that were asked for."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from planmesh.errors import Busy, Conflict, Poison, Unusable

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_STREAM_FULL: Final = 10077
_MESSAGE_TOO_LARGE: Final = 10054
_NO_MESSAGE: Final = 10037

_STATUS: Final = "Status"

log = structlog.get_logger()

T = TypeVar("T")


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


# --- who waits -----------------------------------------------------------------------------------------------


class Waiting(Generic[T]):
    """Someone who waits for one answer, or for several."""

    __slots__ = ("deadline", "future", "subject")

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self.deadline = loop.time() + timeout_s
        self.subject = subject

    def hear(self, message: Msg) -> bool:
        """Take an answer. Returns: it was the last."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        if not self.future.done():  # whoever waited may have been cancelled
            self.future.set_exception(error)


class PublishWaiting(Waiting[Ack]):
    __slots__ = ("expected",)

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float, expected: int | None) -> None:
        super().__init__(loop, subject, timeout_s)
        self.expected = expected

    def hear(self, message: Msg) -> bool:
        if message.headers and _STATUS in message.headers:
            self.fail(_nobody(self.subject, message.headers[_STATUS]))
            return True
        try:
            answer = _decode_publish(message.data)
        except msgspec.DecodeError:
            self.fail(Unusable(f"whoever answers on {self.subject} is not a stream"))
            return True
        if answer.error is not None:
            self.fail(_refusal(answer.error, self.subject, self.expected))
        elif not self.future.done():
            self.future.set_result(Ack(answer.stream, answer.seq, answer.duplicate))
        return True


class RequestWaiting(Waiting[bytes]):
    __slots__ = ()

    def hear(self, message: Msg) -> bool:
        headers = message.headers or {}
        if _STATUS in headers:
            self.fail(_nobody(self.subject, headers[_STATUS]))
        elif "Nats-Service-Error-Code" in headers:
            code = headers["Nats-Service-Error-Code"]
            text = headers.get("Nats-Service-Error") or f"{self.subject} answered with error {code}"
            self.fail(Poison(text) if code.startswith("4") else Busy(text))
        elif not self.future.done():
            self.future.set_result(message.data)
        return True


class ReadWaiting(Waiting[None]):
    """Hears stored messages until the server says that there are no more. Source: NATS ADR-31."""

    __slots__ = ("_loop", "_timeout_s", "found", "left", "many")

    def __init__(self, loop: asyncio.AbstractEventLoop, subject: str, timeout_s: float, *, many: bool) -> None:
        super().__init__(loop, subject, timeout_s)
        self.many = many
        self.found: list[StoredMessage] = []
        self.left = False
        self._loop = loop
        self._timeout_s = timeout_s

    def hear(self, message: Msg) -> bool:
        if self.future.done():
            return True
        headers = message.headers or {}
        status = headers.get(_STATUS, "")
        # A stored message may itself begin with a status, but only the server gives a sequence.
        if "Nats-Sequence" in headers:
            stored = StoredMessage(
                headers["Nats-Subject"],
                int(headers["Nats-Sequence"]),
                msgspec.convert(headers["Nats-Time-Stamp"], datetime),
                message.data,
                headers,
            )
            self.found.append(stored)
            if self.many:
                self.deadline = self._loop.time() + self._timeout_s
                return False
            self.future.set_result(None)
        elif status in {"204", "404"}:
            self.left = headers.get("Nats-Num-Pending", "0") != "0"
            self.future.set_result(None)
        elif status == "503":
            self.fail(_nobody(self.subject, status))
        elif self.many and not status:
            # Headers so broken that the server's own could not be read: one message must not hide the others.
            log.warning("connection.unreadable_message", subject=self.subject)
            return False
        else:
            said = headers.get("Description", "") or ascii(message.data[:100])
            self.fail(Unusable(f"{self.subject} answered {status or 'without a status'}: {said}"))
        return True


# --- what it means -------------------------------------------------------------------------------------------


def read_leader(answer: bytes, subject: str) -> StoredMessage | None:
    """Read what a stream's leader answers when asked on *subject* for one message. Source: NATS ADR-31.

    Raises:
        Busy, Unusable: It refuses.
    """
    said = _decode_leader(answer)
    if said.error is not None:
        if said.error.err_code == _NO_MESSAGE:
            return None
        raise _refusal(said.error, subject)
    if said.message is None:
        raise Unusable(f"{subject} answered with neither a message nor an error")
    stored = said.message
    return StoredMessage(stored.subject, stored.seq, stored.time, stored.data, _parse_headers(stored.hdrs))


def ambiguous(text: str) -> Busy:
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


def _parse_headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
