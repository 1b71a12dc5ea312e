import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError

from planmesh.wire import Parser


class Heard(Client):
    """A client that notes what its parser gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subject.decode()
        reply.decode()
        self.heard.append((sid, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(err_msg)


def heard(*pieces: bytes) -> list[Any]:
    client = Heard()
    parser = Parser(client)

    async def parse() -> None:
        for piece in pieces:
            await parser.parse(piece)

    asyncio.run(parse())
    return client.heard


OPERATIONS = [
    (b"PING\r\n", "ping"),
    (b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n", "'permissions violation for publish to \"a\"'"),
    (b"MSG a.b 7 5\r\nhello\r\n", (7, b"a.b", b"", b"hello", b"")),
    (b"MSG a.b 7 back 0\r\n\r\n", (7, b"a.b", b"back", b"", b"")),
    (b"MSG a.b 7 12\r\nMSG a.b 7 5\r\r\n", (7, b"a.b", b"", b"MSG a.b 7 5\r", b"")),
    (b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", (1, b"a", b"", b"hi", b"NATS/1.0\r\n\r\n")),
    (b"HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n", (1, b"a", b"r", b"", b"NATS/1.0\r\n\r\n")),
    (b"MSG \xff\x0b1\x0c 1 1\r\n\r\r\n", (1, b"\\xff\x0b1\x0c", b"", b"\r", b"")),
]


@given(st.lists(st.sampled_from(OPERATIONS)), st.lists(st.integers(0, 400), max_size=20))
def test_however_it_is_cut_the_same_is_heard(operations: list[tuple[bytes, Any]], cuts: list[int]) -> None:
    sent = b"".join(operation for operation, _ in operations)
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]

    pieces = [sent[start:end] for start, end in itertools.pairwise(places)]

    assert heard(*pieces) == [meaning for _, meaning in operations]


@pytest.mark.parametrize("junk", [b"HELLO\r\n", b"MSG a\r\n", b"MSG a x 5\r\n", b"HMSG a 1\r\n", b"x" * 2_000_000])
def test_what_no_server_says_ends_the_connection(junk: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard(junk)
