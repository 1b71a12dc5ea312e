"""Blobs: many are put, and got, a few at a time."""

import asyncio
from typing import Any

import pytest
from plays import plan

from planmesh import agent
from planmesh.errors import Poison
from planmesh.executor import decide
from planmesh.executor.blobs import BlobStore, Values
from planmesh.executor.claims import Claims
from planmesh.schemas.events import StepsAdded
from planmesh.schemas.expressions import Unloaded
from planmesh.schemas.payload import Blob, Payload, blob_of, canonical
from planmesh.schemas.plan import Each, Task

MANY = [f"{number} " * 5_000 for number in range(50)]


class Watched(BlobStore):
    """Counts what is under way at once."""

    under_way = 0
    most = 0

    async def get(self, sha256: str) -> bytes:
        with self:
            return await super().get(sha256)

    async def put(self, data: bytes) -> Blob:
        with self:
            return await super().put(data)

    def __enter__(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)

    def __exit__(self, *_error: object) -> None:
        self.under_way -= 1


def unloaded(text: str) -> Unloaded:
    blob = blob_of(canonical(text))
    return Unloaded(blob.sha256, blob.size_bytes)


async def test_many_items_are_stored_and_read_some_at_a_time(opened: Any) -> None:
    async with opened() as house:
        core = await house.connected("executor")
        store, reader = Watched(core), Watched(core)
        event = StepsAdded(step="each", items=tuple(Payload(value=text) for text in [*MANY, "small"]))

        added = await Claims(store, 8_192).check_in(event)
        values = Values(reader)
        await values.fetch([unloaded(text) for text in [*MANY, *MANY]])

        assert isinstance(added, StepsAdded)
        assert added.items == (*(Payload(blob=blob_of(canonical(text))) for text in MANY), Payload(value="small"))
        assert sorted(map(str, values.by_sha256.values())) == sorted(MANY)
        assert 1 < store.most <= 16
        assert 1 < reader.most <= 16


async def test_of_many_one_that_is_not_there_is_said_and_nothing_goes_on_behind_it(opened: Any) -> None:
    async with opened() as house:
        store = Watched(await house.connected("executor"))
        await store.check_in_all([Payload(value=text) for text in MANY], 0)

        with pytest.raises(Poison, match="there is no blob"):
            await Values(store).fetch([unloaded("nowhere"), *(unloaded(text) for text in MANY)])
        await asyncio.sleep(0)

        assert store.under_way == 0


@agent(idempotent=True)
def grow(number: int) -> str:
    return f"{number} " * 5_000


async def test_what_large_items_give_is_gathered_in_one_round(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[int] = set()

    def watched(*arguments: Any, blobs: dict[str, object], **options: Any) -> Any:
        loaded.add(len(blobs))
        return judge(*arguments, blobs=blobs, **options)

    judge = decide.decide
    monkeypatch.setattr(decide, "decide", watched)
    task = Task(name="grow", agent="grow", inputs={"number": "{item}"}, idempotent=True)
    document = plan(Each(name="all", items=str(list(range(12))), steps=(task,)))
    async with opened("grow") as house:
        await house.executor()
        await house.worker(grow)

        state = await house.ended(await house.create(document))

        assert state.status == "completed"
        assert loaded == {0, 12}
