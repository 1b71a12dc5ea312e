"""A wire that hurts: it stands between the services and their server, reads what passes, and lets rules meddle.

A rule sees each message, in either direction, before the other side does. It may hold it back, drop it, send it
twice or later than others; or kill the process that has just sent it, at exactly this point of its work. Source:
NATS client protocol, https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """A message on its way.

    Attributes:
        outgoing: From a service to the server.
        data: The payload, without headers.
        raw: All of it.
    """

    link: "Link"
    outgoing: bool
    subject: str
    reply: str
    data: bytes
    raw: bytes

    @property
    def user(self) -> str:
        return self.link.user

    def send(self) -> None:
        """Let it go to the other side."""
        self.link.send(self.outgoing, self.raw)


Rule = Callable[[Frame], Awaitable[bool]]
"""Sees a message, and says whether it goes on. What comes behind it waits for the answer."""


class Link:
    """One connection of a service.

    Attributes:
        user: The NATS user, once it has said so.
        port: The service's side: which process it is can be told by it.
    """

    def __init__(
        self,
        wire: "Wire",
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.user = ""
        self.port: int = client[1].get_extra_info("peername")[1]
        self.open = asyncio.Event()
        self.open.set()
        self._wire = wire
        self._client = client
        self._server = server

    async def run(self) -> None:
        """Carry messages until either side closes."""
        pumps = [asyncio.create_task(self._pump(outgoing)) for outgoing in (True, False)]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # What a process has said before it died still arrives, as it does without us in between.
            for _, writer in (self._client, self._server):
                writer.close()

    def send(self, outgoing: bool, raw: bytes) -> None:
        writer = (self._server if outgoing else self._client)[1]
        if not writer.is_closing():
            writer.write(raw)

    def cut(self) -> None:
        """Break the connection, without a word."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _pump(self, outgoing: bool) -> None:
        reader = (self._client if outgoing else self._server)[0]
        writer = (self._server if outgoing else self._client)[1]
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                buffer += chunk
                for frame in self._frames(buffer, outgoing):
                    await self.open.wait()
                    if isinstance(frame, bytes):
                        writer.write(frame)
                    elif await self._wire.passes(frame):
                        frame.send()
                await writer.drain()

    def _frames(self, buffer: bytearray, outgoing: bool) -> "Iterator[Frame | bytes]":
        """Take whole messages, and whatever else is said, from *buffer*."""
        while (end := buffer.find(b"\r\n")) >= 0:
            words = bytes(buffer[:end]).split(b" ")
            operation, size = words[0].upper(), end + 2
            if operation in (b"PUB", b"HPUB", b"MSG", b"HMSG"):
                total, header = int(words[-1]), int(words[-2]) if operation[:1] == b"H" else 0
                size += total + 2
                if len(buffer) < size:
                    return
                raw = bytes(buffer[:size])
                del buffer[:size]
                # [H]PUB subject [reply] …; [H]MSG subject sid [reply] …
                rest = words[2 + (not outgoing) : -1 - (operation[:1] == b"H")]
                reply = rest[0].decode() if rest else ""
                data = raw[end + 2 + header : end + 2 + total]
                yield Frame(self, outgoing, words[1].decode(), reply, data, raw)
                continue
            raw = bytes(buffer[:size])
            del buffer[:size]
            if operation == b"CONNECT":
                self.user = json.loads(raw[len(b"CONNECT ") :])["user"]
            yield raw


class Wire:
    """Carries connections to one of several servers.

    Attributes:
        url: Where services find it.
        rules: Who meddles. The first one that does not let a message go has decided.
        links: The connections there are.
    """

    def __init__(self, ports: list[int]) -> None:
        self.url = ""
        self.rules: list[Rule] = []
        self.links: set[Link] = set()
        self._ports = ports

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for link in tuple(self.links):
            link.cut()

    async def passes(self, frame: Frame) -> bool:
        for rule in tuple(self.rules):
            if not await rule(frame):
                return False
        return True

    @contextlib.asynccontextmanager
    async def meddling(self, rule: Rule) -> AsyncIterator[None]:
        """Let *rule* meddle until the block ends."""
        self.rules.append(rule)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                self.rules.remove(rule)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in self._ports:
            try:
                server = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            link = Link(self, (reader, writer), server)
            self.links.add(link)
            try:
                await link.run()
            finally:
                self.links.discard(link)
            return
        writer.transport.abort()
