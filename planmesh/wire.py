"""What the server sends, taken apart. Stands in for the client's own parser, which any publisher can kill.

Whoever may publish one message chooses its subject and its headers, byte by byte, and the server passes them on. In
nats-py 2.16 a subject or a status line that is not UTF-8, or a header block without its first line, ends the
reader of everybody who receives it; a form feed in a subject resets their connection, or hands the message to
another subscription. A stored message would do so again at each delivery. Here every message arrives, with
what is not text made visible (``\\xff``), and what is not a header block left out.
"""

import asyncio
import json
from typing import Final

import structlog
from nats.aio.client import Client
from nats.errors import ProtocolError

# Parsing costs some microseconds a header, and a message may be nothing but headers. A stream stores no more than
# 64 KiB of them; what the server adds when it delivers comes on top.
MAX_HEADER_BYTES: Final = 72 * 1024

_MAX_LINE_BYTES: Final = 1024 * 1024

log = structlog.get_logger()


class Parser:
    """Has the two methods that the client calls. Source: NATS client protocol."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        """Forget what has been read: the connection is a new one."""
        self._buffer = bytearray()
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read, and dispatch every whole operation in it.

        Raises:
            ProtocolError: This is not what a NATS server says.
        """
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return
        self._needed = 0
        at = 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            line = bytes(buffer[at:end])
            operation, _, rest = line.partition(b" ")
            start = end + 2
            if operation in {b"MSG", b"HMSG"}:
                # Single spaces, and nothing else, separate the words; a subject may hold any other byte.
                words = rest.split(b" ")
                try:
                    sid = int(words[1])
                    header_bytes = int(words[-2]) if operation == b"HMSG" else 0
                    stop = start + int(words[-1])
                except (LookupError, ValueError):
                    raise ProtocolError(f"nats: cannot read {line[:100]!r}") from None
                if len(buffer) < stop + 2:
                    self._needed = stop + 2 - at
                    break
                reply = words[2] if len(words) == (5 if operation == b"HMSG" else 4) else b""
                headers = bytes(buffer[start : start + header_bytes]) if header_bytes else b""
                await self._message(sid, words[0], reply, bytes(buffer[start + header_bytes : stop]), headers)
                at = stop + 2
            else:
                await self._operation(operation, rest)
                at = start
            if self._buffer is not buffer:
                return  # reset, by what was dispatched
        else:
            if len(buffer) - at > _MAX_LINE_BYTES:
                raise ProtocolError("nats: a line without an end")
        del buffer[:at]

    async def _message(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if not subject.isascii():
            subject = _text(subject).encode()
        if reply and not reply.isascii():
            reply = _text(reply).encode()
        if len(headers) > MAX_HEADER_BYTES:
            log.warning("connection.headers_dropped", subject=_text(subject), size_bytes=len(headers))
            headers = b""
        try:
            await self._client._process_msg(sid, subject, reply, payload, headers)
        except (ValueError, LookupError) as error:
            log.warning("connection.headers_dropped", subject=_text(subject), error=str(error))
            await self._client._process_msg(sid, subject, reply, payload, b"")

    async def _operation(self, operation: bytes, rest: bytes) -> None:
        match operation.upper():
            case b"PING":
                await self._client._process_ping()
            case b"PONG":
                try:
                    await self._client._process_pong()
                except asyncio.InvalidStateError:
                    pass  # whoever asked has given up
            case b"+OK":
                pass
            case b"-ERR":
                await self._client._process_err(_text(rest).lower())
            case b"INFO":
                await self._client._process_info(json.loads(rest))
            case _:
                raise ProtocolError(f"nats: unknown operation {operation[:20]!r}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
