"""Messages that could not be handled: in the stream POISON until someone replays or drops them.

What puts them there is `planmesh.delivery.set_aside`; the headers say where each came from, and why. Reading them
takes an operator's rights; replaying and dropping, an administrator's.
"""

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from planmesh import access
from planmesh.administration import Mesh
from planmesh.connection import Connection, StoredMessage, connect
from planmesh.errors import Poison, Unusable
from planmesh.schemas.codec import encode
from planmesh.schemas.subjects import CORE, PLANS, POISON

_PAGE: Final = 100

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_NO_MESSAGE: Final = frozenset({10037, 10057})
_ESCAPE: Final = re.compile(r"\\(.)")


class SetAside(Struct, frozen=True, kw_only=True):
    """A message that could not be handled.

    Attributes:
        number: Its number here: what `replay` and `drop` are told.
        at: When it was set aside.
        service: Who could not handle it.
        account: The account, the stream, the sequence and the subject where it came from.
        error: Why.
        traceback: Of a bug; empty otherwise.
        size_bytes: How large the message was.
        data: Its payload.
        cut: Whether the end of the payload is missing.
    """

    number: int
    at: datetime
    service: str
    account: str
    stream: str
    sequence: int
    subject: str
    error: str
    traceback: str
    size_bytes: int
    data: bytes
    cut: bool


async def read(connection: Connection, number: int = 1) -> AsyncIterator[SetAside]:
    """Everything that is set aside, from *number* on.

    Args:
        connection: May read POISON directly.

    Raises:
        Busy, Unusable: It cannot be read.
    """
    while True:
        page = await connection.direct_get(POISON, sequence=number, batch=_PAGE)
        for stored in page:
            yield _read(stored)
        if len(page) < _PAGE:
            return
        number = page[-1].sequence + 1


async def find(connection: Connection, number: int) -> SetAside:
    """One message. Raises: Poison, if it is not there; Busy, Unusable."""
    async for found in read(connection, number):
        if found.number == number:
            return found
        break
    raise Poison(f"nothing with the number {number} is set aside: `planmesh poison list` shows what is")


async def replay(mesh: Mesh, one: SetAside) -> None:
    """Publish a message again, as it was, where it was; then drop it here. Who cannot handle it sets it aside again.

    Raises:
        Poison: It cannot be replayed.
        Unusable: The administrator's credentials are not here, or do not work.
        Busy: The server does not answer now; the message is still here.
    """
    if one.cut:
        raise Poison(f"message {one.number} cannot be replayed: it was too large to keep, and its end is missing")
    if one.stream == PLANS:
        raise Poison(
            f"message {one.number} cannot be replayed: it is a line of the log, and stands there still. Only the "
            f"{one.service} has passed it over: look at the plan itself (`planmesh show`), and drop this"
        )
    user = next((user.name for user in access.admins() if user.account == one.account), None)
    if user is None:
        raise Poison(f"message {one.number} cannot be replayed: it does not say which account it came from")
    async with await _connect(mesh, user) as connection:
        await connection.publish(one.subject, one.data)
    await drop(mesh, one)


async def drop(mesh: Mesh, one: SetAside) -> None:
    """Delete a message.

    Raises:
        Unusable: The administrator's credentials are not here, or do not work.
        Busy: The server does not answer now.
    """
    user = next(user.name for user in access.admins() if user.account == CORE)
    async with await _connect(mesh, user) as connection:
        answer = _decode(await connection.request(f"$JS.API.STREAM.MSG.DELETE.{POISON}", encode({"seq": one.number})))
    # Someone may have been faster.
    if answer.error is not None and answer.error.err_code not in _NO_MESSAGE:
        raise Unusable(f"message {one.number} cannot be dropped: the server says {answer.error.description!r}")


async def _connect(mesh: Mesh, user: str) -> Connection:
    try:
        who = mesh.credentials_of(user)
    except Unusable as error:
        raise Unusable(f"this takes an administrator, whose credentials are not here. {error}") from error
    return await connect(who.server, who.user, who.password, name="planmesh-poison")


def _read(stored: StoredMessage) -> SetAside:
    said = stored.headers
    service, stream = [*stored.subject.split(".")[1:], "", ""][:2]
    cut = said.get("Planmesh-Cut", "")
    return SetAside(
        number=stored.sequence,
        at=stored.time,
        service=service,
        account=said.get("Planmesh-Account", ""),
        stream=said.get("Planmesh-Stream") or stream,
        sequence=_number(said.get("Planmesh-Sequence", "")),
        subject=said.get("Planmesh-Subject", ""),
        error=said.get("Planmesh-Error", ""),
        traceback=_lines(said.get("Planmesh-Traceback", "")),
        size_bytes=_number(cut) if cut else len(stored.data),
        data=stored.data,
        cut=bool(cut),
    )


def _lines(text: str) -> str:
    """Undo what `set_aside` does to put several lines into one."""
    return _ESCAPE.sub(lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)


class _Error(Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Answer(Struct, frozen=True):
    """Whatever of an answer of the server's matters here. Source: JetStream API."""

    error: _Error | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0
