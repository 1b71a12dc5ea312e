"""An executor that gets more than it can do, or has to wait for the server."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest
from patience import eventually
from plays import gate, plan

from planmesh.errors import Busy
from planmesh.executor import decide
from planmesh.executor.blobs import BlobStore
from planmesh.poison import read
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


async def test_one_who_says_nothing_but_junk_is_in_nobodys_way(opened: Any) -> None:
    """What cannot be set aside stays in the stream where it came, and fills it for everybody."""
    async with opened("flood", "other") as house:
        await house.server.mesh.prepare(max_bytes={"POISON": 16 * 1024 * 1024})
        flood, other, admin = [await house.connected(user) for user in ("agent-flood", "agent-other", "admin-agents")]
        await other.publish(subjects.results("other"), b"junk as well")
        await house.executor()
        for _ in range(8):
            await asyncio.gather(*(flood.publish(subjects.results("flood"), bytes(3_000_000)) for _ in range(10)))

        async def all_is_done() -> bool:
            info = msgspec.json.decode(await admin.request("$JS.API.STREAM.INFO.RESULTS"))
            return bool(info["state"]["messages"] == 0)

        await eventually(all_is_done, 30)
        operator = await house.connected("operator-tester")
        aside = [one async for one in read(operator)]
        assert {one.subject for one in aside} == {"results.flood"}
        assert 10 < len(aside) < 80
        assert all(one.cut and one.size_bytes == 3_000_000 and one.stream == "RESULTS" for one in aside)


async def test_of_what_is_set_aside_each_writer_has_its_own(opened: Any) -> None:
    async with opened("flood", "other") as house:
        users = ("agent-flood", "agent-other", "submitter-tester")
        flood, other, submitter = [await house.connected(user) for user in users]
        await other.publish(subjects.results("other"), b"junk as well")
        await submitter.publish("commands.s.p.reply.tester", b"junk")
        await house.executor()
        for _ in range(12):
            await asyncio.gather(*(flood.publish(subjects.results("flood"), b"junk") for _ in range(100)))

        operator = await house.connected("operator-tester")

        async def are_there() -> bool:
            return len([one async for one in read(operator)]) == 1_002

        await eventually(are_there, 30)
        found = Counter([one.subject async for one in read(operator)])
        assert found == {"results.flood": 1_000, "results.other": 1, "commands.s.p.reply.tester": 1}


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
