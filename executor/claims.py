"""Claim checks in events: neither the log nor a state in memory holds large values."""

from typing import Any, Final

import msgspec

from planmesh.executor.blobs import BlobStore
from planmesh.schemas.events import AnyEvent, AskAnswered, GateOpened, PlanCompleted, Release, StepCompleted, StepsAdded
from planmesh.schemas.payload import MAX_BLOB_BYTES, Blob, Payload, blob_of, canonical

_GATES_BYTES: Final = 1024 * 1024
"""What all the gates of one commit may show inline: a hundred steps behind each may have inputs of megabytes."""
_ITEMS_BYTES: Final = 3 * 1024 * 1024
"""What all the items of an `each` may have inline."""
_MENTIONED_BYTES: Final = 256
"""An input up to this size stays where it is, if those beside it are large."""


class Claims:
    """Takes the large values out of the events of one commit.

    Args:
        inline_bytes: What is larger is stored as a blob, and stands in the event as its claim check.
    """

    def __init__(self, blobs: BlobStore, inline_bytes: int) -> None:
        self._blobs = blobs
        self._inline_bytes = inline_bytes
        self._room_bytes = _GATES_BYTES

    async def check_in(self, event: AnyEvent) -> AnyEvent:
        """*event*, or one with claim checks in place of its large values.

        Raises:
            Poison: An output is larger than a blob may be.
            Busy: The blobs are full or away.
        """
        match event:
            case StepCompleted() | AskAnswered():
                output = await self._blobs.check_in(event.output, self._inline_bytes)
                return event if output is event.output else msgspec.structs.replace(event, output=output)
            case PlanCompleted():
                result = await self._blobs.check_in(event.result, self._inline_bytes)
                return event if result is event.result else msgspec.structs.replace(event, result=result)
            case StepsAdded():
                # Together they are to fit into a commit.
                most = min(self._inline_bytes, _ITEMS_BYTES // max(1, len(event.items)))
                items = await self._blobs.check_in_all(event.items, most)
                return msgspec.structs.replace(event, items=tuple(items))
            case GateOpened() if event.shown or event.releases:
                shown = tuple([await self._shown(payload) for payload in event.shown])
                releases = tuple([await self._release(release) for release in event.releases])
                if (shown, releases) != (event.shown, event.releases):
                    return msgspec.structs.replace(event, shown=shown, releases=releases)
        return event

    async def _shown(self, payload: Payload) -> Payload:
        if payload.blob is not None or self._takes(len(canonical(payload.value))):
            return payload
        return await self._blobs.check_in(payload, 0)

    async def _release(self, release: Release) -> Release:
        """The same with large inputs as references. The digest of the gate is over the inputs themselves."""
        data = canonical(release.inputs)
        if self._takes(len(data)):
            return release
        inputs = {name: await self._mentioned(value) for name, value in release.inputs.items()}
        if self._takes(len(canonical(inputs))):
            return msgspec.structs.replace(release, inputs=inputs)
        return msgspec.structs.replace(release, inputs={}, later={}, inputs_blob=await self._put(data))

    async def _mentioned(self, value: Any) -> Any:
        data = canonical(value)
        if len(data) <= _MENTIONED_BYTES:
            return value
        blob = await self._put(data)
        return {"$blob": blob.sha256, "size_bytes": blob.size_bytes}

    async def _put(self, data: bytes) -> Blob:
        # Larger than a blob may be, it is only named: no step can be given it either, and its own will fail of it.
        return await self._blobs.put(data) if len(data) <= MAX_BLOB_BYTES else blob_of(data)

    def _takes(self, size_bytes: int) -> bool:
        """Whether a gate may show so much inline."""
        if size_bytes > min(self._inline_bytes, self._room_bytes):
            return False
        self._room_bytes -= size_bytes
        return True
