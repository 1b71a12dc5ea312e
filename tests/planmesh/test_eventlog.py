"""The log of a plan, on a real server."""

from datetime import UTC, datetime
from typing import Any

import pytest

from planmesh.connection import Connection, connect
from planmesh.errors import Conflict, Unusable
from planmesh.eventlog import EventLog, Recorded
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import AnyEvent, Commit, PlanCreated, PlanStarted
from planmesh.schemas.plan import Plan, Task
from planmesh.schemas.state import evolve
from planmesh.schemas.subjects import PLANS, Address
from planmesh.testing import MeshServer

HERE = Address("tester", "plan")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = PlanCreated(
    plan=Plan(name="A plan", steps=(Task(name="a", agent="agent"),)), requester="tester", goal_digest="d"
)


@pytest.fixture
async def executor(mesh_server: MeshServer) -> Any:
    who = mesh_server.credentials("executor")
    async with await connect(who.server, who.user, who.password, name="executor") as connection:
        yield connection


async def append(log: EventLog, recorded: Recorded, *happened: AnyEvent) -> Recorded:
    state = recorded.state
    for event in happened:
        state = evolve(state, event, NOW)
    return await log.append(recorded, state, list(happened), [], NOW)


async def test_what_is_appended_is_what_is_read(executor: Connection) -> None:
    log = EventLog(executor)

    written = await append(log, Recorded.nothing(HERE), CREATED)
    written = await append(log, written, PlanStarted(by="planner"))

    assert await log.read(HERE) == written
    assert [line.commit.number async for line in log.lines(HERE)] == [1, 2]


async def test_of_two_who_append_to_the_same_state_one_is_told_to_read_on(executor: Connection) -> None:
    log = EventLog(executor)
    first = await append(log, Recorded.nothing(HERE), CREATED)
    await append(log, first, PlanStarted(by="planner"))

    with pytest.raises(Conflict):
        await append(log, first, PlanStarted(by="somebody else"))

    assert (await log.read(HERE)).state.number == 2


async def test_an_append_whose_answer_was_lost_is_found_again(executor: Connection) -> None:
    log = EventLog(executor)
    first = await append(log, Recorded.nothing(HERE), CREATED)

    again = await log._find(subjects.plan_log(HERE), encode_first(), Recorded.nothing(HERE))

    assert again == first.sequence


def encode_first() -> bytes:
    commit = Commit(space=HERE.space, plan=HERE.plan, number=1, at=NOW, causes=(), events=(CREATED,), previous="0" * 64)
    return encode(commit)


async def test_junk_is_skipped_and_its_sequence_counts(executor: Connection) -> None:
    log, subject = EventLog(executor), subjects.plan_log(HERE)
    first = await append(log, Recorded.nothing(HERE), CREATED)
    for junk in (b"junk", b"{}", encode_first()):
        await executor.publish(subject, junk)

    recorded = await log.read(HERE)
    assert (recorded.state, recorded.sequence) == (first.state, first.sequence + 3)
    after = await append(log, recorded, PlanStarted(by="planner"))
    assert (after.state.number, (await log.read(HERE)).state.number) == (2, 2)


async def test_a_commit_of_a_later_version_is_not_skipped(executor: Connection) -> None:
    log = EventLog(executor)
    first = await append(log, Recorded.nothing(HERE), CREATED)
    later = encode_first().replace(b'"number":1', b'"number":2').replace(b"plan.created", b"plan.from_the_future")
    await executor.publish(subjects.plan_log(HERE), later.replace(b"0" * 64, first.state.head.encode()))

    with pytest.raises(Unusable, match="upgrade this one"):
        await log.read(HERE)


async def test_a_plan_that_is_not_there_reads_as_absent(executor: Connection) -> None:
    recorded = await EventLog(executor).read(Address("tester", "none"))

    assert (recorded.state.exists, recorded.sequence) == (False, 0)


async def test_a_log_of_many_commits_is_read_whole(executor: Connection) -> None:
    log, recorded = EventLog(executor), Recorded.nothing(HERE)
    recorded = await append(log, recorded, CREATED)
    for _ in range(1_200):
        recorded = await append(log, recorded, PlanStarted(by="planner"))

    assert (await log.read(HERE)).state.number == 1_201
    assert (await executor.direct_get(PLANS, batch=2_000))[-1].sequence == recorded.sequence
