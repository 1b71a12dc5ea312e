"""Large values: kept in the stream BLOBS under their SHA-256, and carried for agents, who have no access to it."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.errors import Busy, Conflict, PlanmeshError, Poison, Unusable
from planmesh.executor.lines import Lines
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.expressions import Unloaded
from planmesh.schemas.payload import MAX_BLOB_BYTES, Blob, Payload, blob_of, canonical
from planmesh.schemas.subjects import BLOBS

MOST_READ_BYTES: Final = 64 * 1024 * 1024
"""Of JSON; decoded, it takes several times as much."""
_CACHED_BYTES: Final = 32 * 1024 * 1024
_QUEUE: Final = "blobs"  # several executors share the requests
_AT_ONCE: Final = 16
_WAITING_BYTES: Final = 64 * 1024 * 1024

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")


class BlobStore:
    """Puts and gets blobs; the ones used last are kept in memory.

    Args:
        connection: In CORE; may publish ``blobs.sha256.*`` and read BLOBS directly.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def put(self, data: bytes) -> Blob:
        """Store JSON bytes. Storing the same again changes nothing.

        Raises:
            Poison: They are larger than `MAX_BLOB_BYTES`.
            Busy: The stream is full or away.
        """
        if len(data) > MAX_BLOB_BYTES:
            raise Poison(f"a blob may have {MAX_BLOB_BYTES:,} bytes; this one has {len(data):,}")
        blob = blob_of(data)
        if blob.sha256 in self._kept:
            return blob
        try:
            await self._connection.publish(subjects.blob(blob.sha256), data, expect_last_on_subject=0)
        except Conflict:
            pass  # the name is the content: whoever was faster stored the same
        self._keep(blob.sha256, data)
        return blob

    async def get(self, sha256: str) -> bytes:
        """Raises: Poison (no such blob, or its bytes do not have this hash), Busy."""
        kept = self._kept.get(sha256)
        if kept is not None:
            self._kept.move_to_end(sha256)
            return kept
        stored = None
        if subjects.is_token(sha256):
            subject = subjects.blob(sha256)
            stored = await self._connection.last_on_subject(BLOBS, subject)
            if stored is None:  # whoever answered may lag behind the leader
                stored = await self._connection.last_on_subject(BLOBS, subject, leader=True)
        if stored is None:
            raise Poison(f"there is no blob {sha256[:80]!a}")
        if hashlib.sha256(stored.data).hexdigest() != sha256:
            raise Poison(f"blob {sha256} is damaged: its bytes have another hash")
        self._keep(sha256, stored.data)
        return stored.data

    async def value(self, sha256: str) -> object:
        """A blob, decoded. Raises: Poison, Busy."""
        return codec.blob.decode(await self.get(sha256))

    async def expect(self, blob: Blob) -> None:
        """Whoever holds a claim check may have made it up. Raises: Poison (there is nothing for it), Busy."""
        size_bytes = len(await self.get(blob.sha256))
        if size_bytes != blob.size_bytes:
            raise Poison(f"blob {blob.sha256} has {size_bytes:,} bytes, not {blob.size_bytes:,}")

    async def check_in(self, payload: Payload, limit_bytes: int) -> Payload:
        """The payload with its value replaced by a claim check, if it is larger than *limit_bytes*."""
        if payload.blob is not None:
            return payload
        data = canonical(payload.value)
        if len(data) <= limit_bytes:
            return payload
        return Payload(blob=await self.put(data))

    async def check_in_all(self, payloads: Sequence[Payload], limit_bytes: int) -> list[Payload]:
        """The same for many, a few of them at once. Raises: Poison, Busy."""
        return await _side_by_side(lambda payload: self.check_in(payload, limit_bytes), payloads)

    def _keep(self, sha256: str, data: bytes) -> None:
        if sha256 in self._kept or len(data) > _CACHED_BYTES:
            return
        self._kept[sha256] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > _CACHED_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)


class Values:
    """The values of blobs that one turn reads, by SHA-256: no more of them than memory can bear."""

    def __init__(self, store: BlobStore) -> None:
        self.by_sha256: dict[str, object] = {}
        self._store = store
        self._size_bytes = 0

    async def fetch(self, blobs: Iterable[Unloaded]) -> None:
        """Get *blobs*, a few of them at once. Raises: Poison (no such blob; or they are too large together), Busy."""
        missing = {blob.sha256: blob for blob in blobs if blob.sha256 not in self.by_sha256}
        self._size_bytes += sum(blob.size_bytes for blob in missing.values())
        if self._size_bytes > MOST_READ_BYTES:
            raise Poison(
                f"what is read at once has {self._size_bytes:,} bytes or more; at most {MOST_READ_BYTES:,} are: let "
                "the steps pass on less"
            )
        values = await _side_by_side(self._store.value, list(missing))
        self.by_sha256.update(zip(missing, values, strict=True))


async def _side_by_side(do: Callable[[T], Awaitable[R]], these: Sequence[T]) -> list[R]:
    """What *do* gives for each of *these*, `_AT_ONCE` at a time. Raises: what the first of them raises that fails."""
    left = iter(enumerate(these))
    given: dict[int, R] = {}

    async def work() -> None:
        for place, one in left:
            given[place] = await do(one)

    workers = [asyncio.create_task(work()) for _ in range(min(_AT_ONCE, len(these)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [given[place] for place in range(len(these))]


async def serve(store: BlobStore, agents: Connection, stop: asyncio.Event) -> None:
    """Answer agents on ``blobs.<agent>.put`` and ``.get`` until *stop*, in turn.

    The answer to a put is a `Blob`, to a get the bytes. What is wrong comes as a service error (ADR-32): 4xx if the
    request can never work, 503 if it may later. The server lets this user answer to inboxes only, so that no
    agent can have an answer stored somewhere.
    """
    lines = Lines[Msg](partial(_answer, store, agents), most_bytes=_WAITING_BYTES)

    def on_message(message: Msg) -> None:
        # Nothing holds agents back, and all that they send is in memory.
        if message.reply and not lines.take(message.subject.split(".")[1], message, len(message.data)):
            _refuse(agents, message, Busy("too many blobs are on their way; ask again later"))

    put = await agents.listen(subjects.put_blob_pattern(), on_message, queue=_QUEUE)
    get = await agents.listen(subjects.get_blob_pattern(), on_message, queue=_QUEUE)
    await stop.wait()
    for interest in (put, get):
        await agents.unlisten(interest)
    await lines.finish()


async def _answer(store: BlobStore, agents: Connection, message: Msg) -> None:
    try:
        if message.subject.endswith(".put"):
            codec.value.decode(message.data)  # whoever reads it later must be able to
            answer = encode(await store.put(message.data))
        else:
            answer = await store.get(message.data.decode("ascii", "replace"))
        agents.send(message.reply, answer)
    except Exception as error:
        _refuse(agents, message, error)


def _refuse(agents: Connection, message: Msg, error: Exception) -> None:
    code = "400" if isinstance(error, Poison | DecodeError | subjects.BadToken) else "503"
    if not isinstance(error, PlanmeshError | DecodeError | subjects.BadToken):
        log.error("blob.bug", subject=message.subject, exc_info=error)
    text = str(error).replace("\n", " ").replace("\r", " ")[:500]
    try:
        agents.send(message.reply, b"", headers={"Nats-Service-Error-Code": code, "Nats-Service-Error": text})
    except (Busy, Unusable):
        log.warning("blob.answer_lost", subject=message.subject)
