"""An executor that gets more than it can do, or has to wait for the server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from patience import eventually
from plays import gate, plan

from planmesh.connection import Connection
from planmesh.delivery import Keeper, subscribe
from planmesh.errors import Busy
from planmesh.eventlog import EventLog
from planmesh.executor import decide
from planmesh.executor.blobs import BlobStore
from planmesh.executor.decide import Decider
from planmesh.executor.plans import Plans
from planmesh.poison import read
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, ReportResult
from planmesh.schemas.payload import NOTHING, Blob
from planmesh.schemas.plan import Plan
from planmesh.schemas.subjects import COMMANDS, DECIDE, RESULTS, Address
from planmesh.schemas.work import AttemptCompleted, Results
from planmesh.streams import PINNED_GROUP, STEERING_ACK_WAIT_S

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


class Stuck(Decider):
    """Decides no result before it may, and counts those that it has in hand."""

    def __init__(self, core: Connection) -> None:
        super().__init__(core, EventLog(core), BlobStore(core), Plans())
        self.may = asyncio.Event()
        self.in_hand = 0
        self.most = 0
        self.decided: set[Address] = set()

    async def _turn(self, address: Address, parts: list[Any]) -> None:
        results = sum(isinstance(part.asked.what, ReportResult) for part in parts)
        self.in_hand += results
        self.most = max(self.most, self.in_hand)
        if results:
            await self.may.wait()
        await super()._turn(address, parts)
        self.in_hand -= results
        self.decided.add(address)


@asynccontextmanager
async def stuck(house: Any) -> AsyncIterator[Stuck]:
    core, agents = await house.connected("executor"), await house.connected("executor-agents")
    decider, keeper = Stuck(core), Keeper(STEERING_ACK_WAIT_S)
    async with (
        await subscribe(core, COMMANDS, DECIDE, group=PINNED_GROUP, keeper=keeper) as commands,
        await subscribe(agents, RESULTS, DECIDE, group=PINNED_GROUP, keeper=keeper) as results,
    ):
        taking = [
            asyncio.create_task(decider.take_commands(commands)),
            asyncio.create_task(decider.take_results(results)),
        ]
        yield decider
    decider.may.set()
    await asyncio.gather(*taking)
    await decider.finish()
    keeper.close()


async def report(house: Any, bundles: int, of: int) -> set[Address]:
    """Have an agent report on as many plans, some of them in one message. There are no such plans."""
    agent = await house.connected("agent-work")
    told: set[Address] = set()
    for bundle in range(bundles):
        addresses = [Address("tester", f"plan-{bundle}-{number}") for number in range(of)]
        told.update(addresses)
        results = tuple(
            AttemptCompleted(
                space=at.space,
                plan=at.plan,
                step="s",
                attempt=1,
                output=NOTHING,
                started_at=datetime.now(UTC),
                duration_s=0.1,
            )
            for at in addresses
        )
        await agent.publish(subjects.results("work"), encode(Results(results=results)))
    return told


async def test_of_results_that_come_in_bundles_only_so_many_are_taken(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "_MOST_RESULTS", 20)
    async with opened("work") as house:
        told = await report(house, bundles=30, of=10)
        async with stuck(house) as decider:
            await eventually(lambda: decider.in_hand > 20)
            decider.may.set()
            await eventually(lambda: decider.decided == told)

        assert decider.most <= 30
        assert decider._results.parts == 0
        assert decider._results.size_bytes == 0


async def test_commands_do_not_wait_for_room_that_results_take(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "_MOST_RESULTS", 20)
    async with opened("work") as house:
        await report(house, bundles=30, of=10)
        async with stuck(house) as decider:
            await eventually(lambda: decider.in_hand > 20)

            created = set()
            for _ in range(3):
                address = await house.create(plan(gate("g")))
                await house.until(address, lambda state: state.status == "waiting")
                created.add(address)

            await eventually(lambda: decider.decided == created)


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
