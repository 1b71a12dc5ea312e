"""Following the log on a real server: what is new is written, what is missing is read, what cannot be is said."""

import asyncio
import shutil
import sqlite3
from typing import Any

import msgspec
import pytest
from auditor_tables import moved
from plays import HERE, Play, plan, task

from planmesh.auditor import service
from planmesh.auditor.tables import VERSION
from planmesh.delivery import subscribe
from planmesh.errors import Unusable
from planmesh.schemas import queries, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import Commit
from planmesh.schemas.subjects import AUDITOR, PLANS, Address


def played() -> list[tuple[Commit, str]]:
    """Four commits: the plan is created and started, then each of its three steps is completed."""
    play = Play(plan(task("one"), task("two", "one"), task("three", "two")))
    for step in ("one", "two", "three"):
        play.completes(step, output={"from": step})
    return play.log


def numbered(log: list[tuple[Commit, str]], many: int) -> list[list[tuple[Commit, str]]]:
    return [moved(log, Address("space", f"plan-{number}")) for number in range(many)]


async def test_what_is_logged_can_be_asked_for(desk: Any) -> None:
    async with desk.running():
        await desk.write(*played())

        position = await desk.until_read(4)
        answer = await desk.ask(queries.PlanQuery(plan="plan"))

    assert (position.position, position.lag, position.skipped) == (4, 0, 0)
    assert (answer.plan.status, answer.plan.number, answer.plan.sequence) == ("completed", 4, 1)
    assert await desk.acked() == 4


async def test_an_auditor_goes_on_where_another_one_ended(desk: Any) -> None:
    log = played()
    async with desk.running():
        await desk.write(*log[:2])
        await desk.until_read(2)
    await desk.write(*log[2:])

    async with desk.running():
        await desk.until_read(4)
        answer = await desk.ask(queries.StepsQuery(plan="plan"))

    assert [step.status for step in answer.steps] == ["completed"] * 3
    assert [step.output.value for step in answer.steps] == [{"from": name} for name in ("one", "two", "three")]


async def test_plans_that_are_not_kept_in_memory_are_read_again(desk: Any) -> None:
    logs = numbered(played(), 4)
    follower = await desk.follower(max_steps_kept=1)
    await desk.write(*(log[0] for log in logs))
    await follower.open()
    await follower.fill(4)

    await desk.write(*(commit for step in zip(*(log[1:] for log in logs), strict=True) for commit in step))
    for last in range(5, 17):
        await follower.fill(last)

    async with desk.running():
        answer = await desk.ask(queries.PlansQuery(statuses=()))
    assert [row.status for row in answer.plans] == ["completed"] * 4
    assert follower.position.skipped == 0


async def test_a_database_from_an_old_backup_catches_up_from_the_log(desk: Any) -> None:
    log = played()
    async with desk.running():
        await desk.write(*log[:1])
        await desk.until_read(1)
    backup = desk.path.with_name("backup.db")
    sqlite3.connect(desk.path).execute("VACUUM INTO ?", (str(backup),)).connection.close()
    async with desk.running():
        await desk.write(*log[1:])
        await desk.until_read(4)

    for leftover in ("-wal", "-shm"):
        desk.path.with_name(desk.path.name + leftover).unlink(missing_ok=True)
    shutil.move(backup, desk.path)

    async with desk.running():
        await desk.until_read(4)
        assert (await desk.ask(queries.PlanQuery(plan="plan"))).plan.status == "completed"


async def test_a_database_that_is_replaced_while_in_use_catches_up_as_well(desk: Any) -> None:
    log = played()
    async with desk.running():
        await desk.write(*log[:1])
        await desk.until_read(1)
        backup = desk.path.with_name("backup.db")
        sqlite3.connect(desk.path).execute("VACUUM INTO ?", (str(backup),)).connection.close()
        await desk.write(*log[1:3])
        await desk.until_read(3)

        for leftover in ("-wal", "-shm"):
            desk.path.with_name(desk.path.name + leftover).unlink(missing_ok=True)
        shutil.move(backup, desk.path)
        await desk.write(*log[3:])

        await desk.until_read(4)
        assert (await desk.ask(queries.PlanQuery(plan="plan"))).plan.status == "completed"


async def test_a_database_that_is_replaced_while_nothing_happens_catches_up_as_well(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_IDLE_S", 0.1)
    log = played()
    async with desk.running():
        await desk.write(*log[:1])
        await desk.until_read(1)
        backup = desk.path.with_name("backup.db")
        sqlite3.connect(desk.path).execute("VACUUM INTO ?", (str(backup),)).connection.close()
        await desk.write(*log[1:])
        await desk.until_read(4)

        for leftover in ("-wal", "-shm"):
            desk.path.with_name(desk.path.name + leftover).unlink(missing_ok=True)
        shutil.move(backup, desk.path)

        await desk.until_read(4)
        assert (await desk.ask(queries.PlanQuery(plan="plan"))).plan.status == "completed"


async def test_what_was_delivered_to_an_auditor_that_died_is_read_from_the_log(desk: Any) -> None:
    await desk.write(*played())
    async with await subscribe(await desk.connected("auditor"), PLANS, AUDITOR) as commits:
        received = 0
        while received < 4:
            received += len(await commits.receive())

    async with desk.running():
        await desk.until_read(4, timeout_s=5)
        assert (await desk.ask(queries.PlanQuery(plan="plan"))).plan.status == "completed"


async def test_what_was_lost_on_its_way_is_read_from_the_log_when_nothing_follows(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_IDLE_S", 0.1)
    async with desk.running(), await subscribe(await desk.connected("auditor"), PLANS, AUDITOR) as elsewhere:
        for number, line in enumerate(played(), 1):
            await desk.write(line)
            await desk.until_read(number, timeout_s=10)  # it would be delivered again after 30

        assert await elsewhere.receive()


async def test_a_database_file_that_is_gone_is_waited_for(desk: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log = played()
    async with desk.running() as running:
        await desk.write(*log[:1])
        await desk.until_read(1)
        away = desk.path.with_name("away.db")
        desk.path.rename(away)

        await desk.write(*log[1:])
        answer = await desk.ask(queries.PlanQuery(plan="plan"))
        await asyncio.sleep(0.2)
        assert running.task is not None
        assert not running.task.done()
        assert not desk.path.exists()
        away.rename(desk.path)

        assert answer.code == "busy"
        assert "is gone" in answer.message
        await desk.until_read(4)
    assert "put it back; or restart the auditor" in "".join(capsys.readouterr())


async def test_a_locked_database_is_waited_for(desk: Any) -> None:
    log = played()
    async with desk.running():
        await desk.write(*log[:1])
        await desk.until_read(1)
        other = sqlite3.connect(desk.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        await desk.write(*log[1:])
        await asyncio.sleep(0.3)
        behind = await desk.ask(queries.PlanQuery(plan="plan"))
        other.execute("ROLLBACK")
        other.close()

        assert (behind.position, behind.lag, behind.plan.number) == (1, 3, 1)
        await desk.until_read(4)


async def test_a_rebuild_gives_the_same_tables(desk: Any, tables_in: Any) -> None:
    logs = numbered(played(), 3)
    async with desk.running():
        await desk.write(*(commit for step in zip(*logs, strict=True) for commit in step))
        await desk.until_read(12)
    before = tables_in(desk.path.name)
    dumped = before.dump()
    before.database.close()

    async with desk.running(rebuild=True) as rebuilding:
        await rebuilding.ended()

    assert len(dumped["log"]) == sum(len(commit.events) for log in logs for commit, _ in log)
    assert tables_in(desk.path.name).dump() == dumped


async def test_what_the_consumer_will_not_deliver_again_is_read_from_the_log(desk: Any) -> None:
    await desk.write(*played())
    async with desk.running():
        await desk.until_read(4)
    desk.path.unlink()

    async with desk.running():
        await desk.until_read(4)
        assert (await desk.ask(queries.PlanQuery(plan="plan"))).plan.status == "completed"


# --- what stops it -----------------------------------------------------------------------------------------


async def test_it_stops_at_a_stream_that_was_made_anew(desk: Any) -> None:
    async with desk.running():
        await desk.write(*played())
        await desk.until_read(4)
    await desk.api("STREAM.DELETE.PLANS")
    await desk.server.mesh.prepare()
    await desk.write(*played())

    async with desk.running() as running:
        with pytest.raises(Unusable, match=r"PLANS is another one than before.*--rebuild"):
            await running.ended()


async def test_it_stops_when_the_stream_is_made_anew_under_its_feet(desk: Any) -> None:
    async with desk.running() as running:
        await desk.write(*played())
        await desk.until_read(4)
        await desk.api("STREAM.DELETE.PLANS")
        await desk.server.mesh.prepare()
        await desk.write(*played()[:1])

        with pytest.raises(Unusable, match="PLANS is another one than before"):
            await running.ended()


async def test_it_stops_when_the_tables_are_ahead_of_the_log(desk: Any, tables_in: Any) -> None:
    await desk.write(*played()[:2])
    created = (await desk.api("STREAM.INFO.PLANS"))["created"]
    ahead = tables_in(desk.path.name)
    ahead.created = created
    ahead.add(*played())
    ahead.database.close()

    async with desk.running() as running:
        with pytest.raises(Unusable, match=r"they know message 4 of the stream PLANS, and its last one is 2"):
            await running.ended()


async def test_it_stops_at_a_gap_that_cannot_be_filled(desk: Any) -> None:
    settings = (await desk.api("STREAM.INFO.PLANS"))["config"]
    await desk.api("STREAM.DELETE.PLANS")
    await desk.api("STREAM.CREATE.PLANS", {**settings, "deny_delete": False})
    await desk.write(*played())
    await desk.api("STREAM.MSG.DELETE.PLANS", {"seq": 3})
    await desk.server.mesh.prepare()

    async with desk.running() as running:
        with pytest.raises(Unusable, match=r"expected message 3 of the stream PLANS.*is 4.*--rebuild"):
            await running.ended()
    assert sqlite3.connect(desk.path).execute("SELECT sequence FROM position").fetchall() == [(2,)]


async def test_it_stops_at_a_commit_that_only_a_newer_version_can_read(desk: Any) -> None:
    log = played()
    await desk.write(*log[:1])
    newer = msgspec.to_builtins(log[1][0]) | {"events": [{"type": "step.teleported", "step": "one"}]}
    await desk.write_bytes(msgspec.json.encode(newer), subjects.plan_log(HERE))

    async with desk.running() as running:
        with pytest.raises(Unusable, match=r"commit 2 of space\.plan \(message 2\) cannot be read.*upgrade this one"):
            await running.ended()


async def test_tables_of_an_older_version_are_made_again(desk: Any) -> None:
    await desk.write(*played())
    async with desk.running():
        await desk.until_read(len(played()))
        before = await desk.ask(queries.PlanQuery(plan="plan"))
    of_old = "UPDATE position SET version = 1; DELETE FROM plans; DELETE FROM steps"
    sqlite3.connect(desk.path, isolation_level=None).executescript(of_old).connection.close()

    async with desk.running():
        await desk.until_read(len(played()))
        assert await desk.ask(queries.PlanQuery(plan="plan")) == before


async def test_tables_of_an_older_version_are_not_touched_if_the_log_is_another(desk: Any, tables_in: Any) -> None:
    tables_in(desk.path.name).database.close()
    of_another_log = "UPDATE position SET version = 1, stream_created = '2020-01-01T00:00:00Z'"
    sqlite3.connect(desk.path, isolation_level=None).execute(of_another_log).connection.close()

    async with desk.running() as running:
        with pytest.raises(Unusable, match=rf"of version 1, and this auditor writes version {VERSION}.*--rebuild"):
            await running.ended()


async def test_tables_of_a_newer_version_are_not_touched(desk: Any, tables_in: Any) -> None:
    tables_in(desk.path.name).database.close()
    sqlite3.connect(desk.path, isolation_level=None).execute("UPDATE position SET version = 99").connection.close()

    async with desk.running() as running:
        with pytest.raises(Unusable, match=rf"of version 99, and this auditor writes version {VERSION}.*--rebuild"):
            await running.ended()


# --- junk --------------------------------------------------------------------------------------------------


async def test_junk_in_the_log_is_skipped_and_counted(desk: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log = played()
    here = subjects.plan_log(HERE)
    await desk.write(*log[:2])
    await desk.write_bytes(b"\xff not JSON", here)
    await desk.write_bytes(encode(log[1][0]), here)
    await desk.write_bytes(encode(moved(log, Address("other", "plan"))[2][0]), here)
    await desk.write_bytes(encode(msgspec.structs.replace(log[2][0], previous="0" * 64)), here)
    await desk.write_bytes(b"{}", "plans.space.pl@n")
    await desk.write(*log[2:])

    async with desk.running():
        position = await desk.until_read(9)
        answer = await desk.ask(queries.PlanQuery(plan="plan"))

    assert position.skipped == 5
    assert (answer.plan.status, answer.plan.number) == ("completed", 4)
    told = "".join(capsys.readouterr())
    assert told.count("log.junk") == 5
    assert "it is number 2, after 2" in told
