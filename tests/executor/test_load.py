"""An executor that gets more than it can do, or has to wait for the server."""

import asyncio
from typing import Any

import msgspec
import pytest
from plays import gate, plan

from planmesh.errors import Busy
from planmesh.executor import decide
from planmesh.executor.blobs import BlobStore
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan
from planmesh.schemas.payload import Blob
from planmesh.schemas.plan import Plan
from planmesh.schemas.subjects import Address

_blob = codec.Codec[Blob](Blob)


async def deliveries(house: Any, stream: str, consumer: str) -> int:
    admin = await house.connected("admin")
    info = msgspec.json.decode(await admin.request(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}"))
    return int(info["delivered"]["consumer_seq"])


async def create(house: Any, document: Plan, count: int) -> list[Address]:
    planner = await house.connected("planner")
    addresses = [Address("tester", f"plan-{number}") for number in range(count)]
    command = encode(CreatePlan(id="create", plan=document, goal_digest="d"))
    await asyncio.gather(*(planner.publish(subjects.command(at, "create", "planner"), command) for at in addresses))
    return addresses


def slow_down(running: Any, pause_s: float) -> None:
    """Have the log take its time for every commit."""
    core = running._connections[0]
    publish = core.publish

    async def slow(subject: str, *arguments: Any, **options: Any) -> Any:
        if subject.startswith("plans."):
            await asyncio.sleep(pause_s)
        return await publish(subject, *arguments, **options)

    core.publish = slow


async def test_a_command_that_takes_long_to_decide_is_delivered_once(opened: Any) -> None:
    async with opened() as house:
        slow_down(await house.executor(), 2.5)  # the consumer's `ack_wait` is 1 s
        address = await house.create(plan(gate("g")))

        await house.until(address, lambda state: state.status == "waiting")

        assert await deliveries(house, "COMMANDS", "decide") == 1


async def test_what_cannot_be_decided_yet_stays_with_the_server(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "_MOST_HELD_BYTES", 100_000)
    async with opened() as house:
        addresses = await create(house, plan(gate("g", prompt="x" * 2_000)), 1_000)
        slow_down(await house.executor(), 0.5)

        await house.until(addresses[0], lambda state: state.status == "waiting")
        taken = await deliveries(house, "COMMANDS", "decide")
        await house.until(addresses[-1], lambda state: state.status == "waiting", 30)

        assert taken < 800


async def test_an_agent_that_sends_blobs_faster_than_they_can_be_stored_is_told_to_wait(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = BlobStore.put

    async def slow(store: BlobStore, data: bytes) -> Blob:
        await asyncio.sleep(0.3)
        return await put(store, data)

    monkeypatch.setattr(BlobStore, "put", slow)
    monkeypatch.setattr("planmesh.executor.blobs._WAITING_BYTES", 6_000_000)
    async with opened("work") as house:
        await house.executor()
        agent = await house.connected("agent-work")
        sent = [b'"%s"' % (b"%03d" % number * 100_000) for number in range(30)]

        answers = await asyncio.gather(
            *(agent.request(subjects.put_blob("work"), data) for data in sent), return_exceptions=True
        )

        refused = [answer for answer in answers if isinstance(answer, Busy)]
        stored = [_blob.decode(answer) for answer in answers if isinstance(answer, bytes)]
        assert len(refused) + len(stored) == 30
        assert len(stored) >= 6
        assert len(refused) >= 10
        assert "too many blobs" in str(refused[0])
