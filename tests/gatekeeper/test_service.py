"""A gatekeeper on a real server, with a real log and real receivers."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial

import psutil
import pytest
from patience import eventually
from plays import gate, plan, question, task
from receivers import WebReceiver, mail_receiver
from reviews import Clerk, Running, connected
from structlog.testing import capture_logs

from planmesh import delivery, streams
from planmesh.directory import Directory
from planmesh.gatekeeper import service
from planmesh.gatekeeper.identity import Keys
from planmesh.gatekeeper.notify import Channel, open_channels
from planmesh.gatekeeper.reach import Links, Reach
from planmesh.gatekeeper.service import Gatekeeper
from planmesh.schemas import codec, subjects
from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.plan import Escalation, Plan
from planmesh.schemas.subjects import GATEKEEPER, NOTICES, PLANS, POISON, Address
from planmesh.testing import MeshServer

HERE = Address("tester", "audit")
SECRET = "hunter2hunter2"


def asking(**fields: object) -> Plan:
    return plan(task("before"), gate("ok", "before", prompt="Publish?", **fields), task("after", "ok"))


def channel(name: str, at: str | WebReceiver, timeout_s: float = 5.0) -> Channel:
    at = at if isinstance(at, str) else at.at
    (made,) = open_channels({name: f"json://robot:{SECRET}@{at}/{name}"}, timeout_s=timeout_s)
    return made


def dead_channel(name: str) -> Channel:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return channel(name, f"127.0.0.1:{free.getsockname()[1]}")


async def sent(clerk: Clerk, address: Address = HERE) -> list[tuple[int, str, str, bool]]:
    found = await clerk.notices(address)
    return sorted((one.round, one.notice, one.channel, one.delivered) for one in found)


# --- telling -------------------------------------------------------------------------------------------------


async def test_a_gate_that_opens_reaches_every_channel_and_the_log(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    async with mail_receiver() as mail:
        (by_mail,) = open_channels({"mail": f"mailto://{mail.at}?mode=insecure&from=a@b.org&to=ada@b.org"})
        await gatekeeper.start(channel("desk", web), by_mail)
        await clerk.create(HERE, asking())
        await clerk.complete(HERE, "before")
        await eventually(lambda: len(clerk.reports) == 2)

    ((path, post),) = web.posts
    assert (path, post["title"]) == ("/desk", "Please decide: ok (A plan)")
    assert "planmesh gates approve tester.audit ok --digest " in post["message"]
    assert [mail["Subject"] for mail in mail.mails] == [post["title"]]
    await gatekeeper.stop()
    assert await sent(clerk) == [(1, "opened", "desk", True), (1, "opened", "mail", True)]


async def test_a_round_is_told_from_its_beginning_to_its_end(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, asking())
    await clerk.complete(HERE, "before")
    await eventually(lambda: len(clerk.reports) == 1)
    await clerk.overdue(HERE, "ok")
    await eventually(lambda: len(clerk.reports) == 2)
    await clerk.vote(HERE, "ok", "reject")
    await eventually(lambda: len(clerk.reports) == 3)
    await clerk.ask(HERE, asks.RetryStep(id="again", step="ok", attempt=1))
    await eventually(lambda: len(clerk.reports) == 4)
    await clerk.ask(HERE, asks.CancelPlan(id="cancel", reason="enough"))
    await eventually(lambda: len(clerk.reports) == 5)

    assert web.subjects == [
        "Please decide: ok (A plan)",
        "Still waiting: ok (A plan)",
        "Rejected by ada: ok (A plan)",
        "Please decide again: ok (A plan)",
        "Closed, undecided: ok (A plan)",
    ]
    assert [(report.round, report.notice) for report in clerk.reports] == [
        (1, "opened"),
        (1, "overdue"),
        (1, "decided"),
        (2, "opened"),
        (2, "cancelled"),
    ]


async def test_a_question_is_told_and_so_is_its_answer(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(question("how", prompt="How?"), task("pay", "how")))
    await eventually(lambda: len(clerk.reports) == 1)
    opened = (await clerk.log.read(HERE)).state.steps["how"].opened
    assert opened is not None
    await clerk.ask(HERE, asks.AnswerAsk(id="answer", step="how", digest=opened.digest, value="at once"))
    await eventually(lambda: len(clerk.reports) == 2)

    assert web.subjects == ["Please answer: how (A plan)", "Answered by ada: how (A plan)"]


async def test_whoever_it_is_escalated_to_is_told_with_a_link_of_their_own_and_nobody_else(
    clerk: Clerk, mesh_server: MeshServer, web: WebReceiver
) -> None:
    known = {
        "people": {name: {"channels": [f"json://{web.at}/{name}"]} for name in ("ada", "bob", "cleo")},
        "roles": {"cfo": {"members": ["bob"]}, "board": {"members": ["cleo"]}},
    }
    reach, keys = Reach(Directory.model_validate(known), []), Keys(["k" * 32])
    links = Links("https://plans.example.org", keys, 60.0)
    to = (Escalation(after_s=60, to=("role:cfo",)), Escalation(after_s=120, to=("role:board",)))
    stop = asyncio.Event()
    async with await connected(mesh_server, "gatekeeper") as core:
        gatekeeper = Gatekeeper(core, open_channels(reach.urls, people=reach.people), reach=reach, links=links)
        running = asyncio.create_task(gatekeeper.run(stop))
        await clerk.create(HERE, plan(gate("ok", reviewers=("person:ada",), escalate=to)))
        await eventually(lambda: len(clerk.reports) == 1)
        for level, reports in ((1, 2), (2, 3)):
            due = asks.TimerDue(id=clerk.id(), step="ok", attempt=1, purpose="escalate", level=level)
            await clerk.ask(HERE, due, "executor")
            await eventually(partial(reported, clerk, reports))
        await clerk.vote(HERE, "ok", by="ada")
        await eventually(partial(reported, clerk, 6))
        stop.set()
        await running

    assert [(path, post["title"].partition(":")[0]) for path, post in web.posts[:3]] == [
        ("/ada", "Please decide"),
        ("/bob", "You are asked as well"),
        ("/cleo", "You are asked as well"),
    ]
    assert {(path, post["title"]) for path, post in web.posts[3:]} == {
        (f"/{name}", "Approved by ada: ok (A plan)") for name in ("ada", "bob", "cleo")
    }
    for path, post in web.posts:
        (token,) = re.findall(r"gates/tester/audit/ok[?]link=(\S+)", post["message"])
        assert keys.read_link(token, HERE, "ok", time.time()).person == path[1:]


def reported(clerk: Clerk, count: int) -> bool:
    return len(clerk.reports) == count


async def test_what_is_no_longer_so_is_not_told(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    other = Address("tester", "later")
    await clerk.create(HERE, asking())
    await clerk.complete(HERE, "before")
    await clerk.vote(HERE, "ok")
    await clerk.create(other, plan(gate("ok")))
    await clerk.overdue(other, "ok")

    await gatekeeper.start(channel("desk", web))
    await eventually(lambda: len(clerk.reports) == 1)
    await gatekeeper.stop()

    assert web.subjects == ["Still waiting: ok (A plan)"]
    assert await sent(clerk) == []


async def test_gates_that_open_together_are_told_one_by_one(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(*(gate(f"gate-{number}") for number in range(20))))
    await eventually(lambda: len(clerk.reports) == 20)

    assert sorted(web.subjects) == sorted(f"Please decide: gate-{number} (A plan)" for number in range(20))


# --- once ----------------------------------------------------------------------------------------------------


async def test_what_was_sent_is_not_sent_again_by_the_next_gatekeeper(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, other_web: WebReceiver
) -> None:
    other_web.answers = [500]
    await gatekeeper.start(channel("desk", web), channel("chat", other_web), retry_pauses_s=(60.0,))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: len(clerk.reports) == 1 and not other_web.answers)
    await gatekeeper.stop()
    assert (len(web.posts), len(other_web.posts)) == (1, 0)

    await gatekeeper.start(channel("desk", web), channel("chat", other_web))
    await eventually(lambda: len(clerk.reports) == 2)

    await gatekeeper.stop()
    assert (len(web.posts), len(other_web.posts)) == (1, 1)
    assert await sent(clerk) == [(1, "opened", "chat", True), (1, "opened", "desk", True)]


async def test_what_a_gatekeeper_was_sending_when_it_was_killed_is_not_sent_twice_and_the_log_says_so(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, other_web: WebReceiver, mesh_server: MeshServer
) -> None:
    web.open.clear()
    async with process(mesh_server, f"json://{web.at}", f"json://{other_web.at}") as killed:
        await ready(killed)
        await clerk.create(HERE, plan(gate("ok")))
        await eventually(lambda: web.arrived and len(clerk.reports) == 1, 20)
        killed.kill()
        await killed.communicate()
    web.open.set()
    await eventually(lambda: web.posts)  # it arrived, and nobody has said so

    with capture_logs() as logs:
        await gatekeeper.start(channel("json", web), channel("json-2", other_web))
        await eventually(lambda: len(clerk.reports) == 2, 20)
        await gatekeeper.stop()

    assert (web.arrived, other_web.arrived) == (1, 1)
    assert await sent(clerk) == [(1, "opened", "json", False), (1, "opened", "json-2", True)]
    assert "it is not known whether it arrived, and it is not sent twice" in clerk.reports[1].detail
    assert [(log["event"], log["log_level"]) for log in logs if "notice" in log["event"]] == [
        ("notice.unclear", "error")
    ]


async def test_two_gatekeepers_at_once_send_every_notice_once(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    for _ in range(2):
        await gatekeeper.start(channel("desk", web), unclear_after_s=60.0)
    gates = [gate(f"gate-{number}") for number in range(20)]
    await clerk.create(HERE, plan(*gates))
    for one in gates:
        await clerk.overdue(HERE, one.name)
    await eventually(lambda: len({subject for subject in web.subjects if subject.startswith("Still")}) == 20)
    await gatekeeper.stop()

    assert len(web.subjects) == len(set(web.subjects))


async def test_a_notice_that_overtakes_another_one_that_is_on_its_way_is_told_after_it(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    web.open.clear()
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: web.arrived)
    await clerk.vote(HERE, "ok")
    await asyncio.sleep(0.2)  # for the commit to be read meanwhile
    web.open.set()
    await eventually(lambda: len(clerk.reports) == 2)

    assert web.subjects == ["Please decide: ok (A plan)", "Approved by ada: ok (A plan)"]


async def test_the_same_notice_is_always_the_same_command(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: len(clerk.reports) == 1)
    (report,) = clerk.reports

    async with await connected(mesh_server, "gatekeeper") as twin:
        other = asks.ReportNotice(
            id=report.id, step="ok", round=1, notice="opened", channel="desk", delivered=False, detail="again"
        )
        await twin.publish(subjects.command(HERE, "notified", "gatekeeper"), encode(other))
        await eventually(lambda: len(clerk.reports) == 2)

    assert await sent(clerk) == [(1, "opened", "desk", True)]


# --- channels that fail --------------------------------------------------------------------------------------


async def test_a_channel_that_fails_is_tried_again(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    web.answers = [500, 502]
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: clerk.reports)

    assert len(web.posts) == 1
    assert [report.delivered for report in clerk.reports] == [True]


async def test_a_channel_that_stays_dead_is_given_up_and_the_log_says_so(clerk: Clerk, gatekeeper: Running) -> None:
    await gatekeeper.start(dead_channel("desk"))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: clerk.reports)
    await gatekeeper.stop()

    assert await sent(clerk) == [(1, "opened", "desk", False)]
    assert "Connection error" in clerk.reports[0].detail
    assert SECRET not in clerk.reports[0].detail


async def test_a_dead_and_a_hanging_channel_delay_neither_the_gate_nor_the_others(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, other_web: WebReceiver
) -> None:
    other_web.open.clear()
    await gatekeeper.start(
        dead_channel("dead"), channel("hanging", other_web), channel("desk", web), retry_pauses_s=(60.0, 60.0)
    )
    begun = time.monotonic()
    plans = [Address("tester", f"plan-{number}") for number in range(30)]
    for address in plans:
        await clerk.create(address, plan(gate("ok")))
    await eventually(lambda: len(web.posts) == 30)
    for address in plans:
        await clerk.vote(address, "ok")
    await eventually(lambda: len(web.posts) == 60)

    assert time.monotonic() - begun < 4.5  # before the hanging one has been given up even once
    for address in plans:
        assert (await clerk.log.read(address)).state.status == "completed"


async def test_a_failure_that_was_overtaken_is_reported_before_the_latest_news(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    web.answers = [500]
    await gatekeeper.start(channel("desk", web), retry_pauses_s=(0.5,))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: not web.answers)
    await clerk.overdue(HERE, "ok")
    await eventually(lambda: len(clerk.reports) == 2)

    assert [(report.notice, report.delivered) for report in clerk.reports] == [("opened", False), ("overdue", True)]
    assert web.subjects == ["Still waiting: ok (A plan)"]


async def test_when_many_wait_for_a_dead_channel_nobody_waits_any_longer(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CROWDED", 5)
    await gatekeeper.start(dead_channel("dead"), channel("desk", web), retry_pauses_s=(60.0,))
    for number in range(20):
        await clerk.create(Address("tester", f"plan-{number}"), plan(gate("ok")))
    await eventually(lambda: len(web.posts) == 20)
    await eventually(lambda: sum(not report.delivered for report in clerk.reports) >= 15)

    assert any(report.detail.startswith("not tried: the channel failed a moment ago") for report in clerk.reports)


async def test_one_failure_of_a_healthy_channel_is_tried_again_however_many_wait(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CROWDED", 0)
    web.answers = [500, 500]
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))
    await eventually(lambda: clerk.reports)

    assert [report.delivered for report in clerk.reports] == [True]


async def test_a_server_that_is_away_for_a_moment_costs_no_notice(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    web.open.clear()
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))
    await asyncio.sleep(0.1)
    os.kill(mesh_server.server.pid, signal.SIGSTOP)
    web.open.set()
    await eventually(lambda: web.posts)
    os.kill(mesh_server.server.pid, signal.SIGCONT)
    await eventually(lambda: clerk.reports)

    assert len(web.posts) == 1
    assert [report.delivered for report in clerk.reports] == [True]


# --- the log -------------------------------------------------------------------------------------------------


async def test_junk_in_the_log_holds_nothing_up(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    for junk in (b'{"type":"gate.opened"}', b'[{"type":"gate.', b"\xff"):
        await clerk.core.publish(subjects.plan_log(HERE), junk)
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, plan(gate("ok")))

    await eventually(lambda: len(clerk.reports) == 1)


async def test_a_commit_that_does_not_fit_tells_nobody(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    await clerk.create(HERE, plan(gate("ok")))
    stored = await clerk.core.last_on_subject(PLANS, subjects.plan_log(HERE))
    assert stored is not None
    await clerk.core.publish(subjects.plan_log(Address("tester", "forged")), stored.data)
    await clerk.core.publish(subjects.plan_log(HERE), stored.data)
    await gatekeeper.start(channel("desk", web))
    await clerk.create(Address("tester", "last"), plan(gate("ok")))
    await eventually(lambda: len(clerk.reports) == 2)
    await gatekeeper.stop()

    assert len(web.posts) == 2


async def test_what_a_newer_version_has_written_stops_the_plan_loudly_and_no_other(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await clerk.create(HERE, asking())
    stored = await clerk.core.last_on_subject(PLANS, subjects.plan_log(HERE))
    assert stored is not None
    state = (await clerk.log.read(HERE)).state
    newer = codec.value.decode(stored.data) | {"format": 2, "number": 2, "previous": state.head}
    newer["events"] = [{"type": "gate.opened", "by": "rules that nobody here knows"}]
    with capture_logs() as logs:
        await gatekeeper.start(channel("desk", web))
        await clerk.core.publish(subjects.plan_log(HERE), encode(newer))
        await clerk.create(Address("tester", "other"), plan(gate("ok")))
        await eventually(lambda: clerk.reports and any(log["event"] == "message.later" for log in logs))

    (said, *_) = (log for log in logs if log["event"] == "message.later")
    assert said["log_level"] == "error"
    assert "a newer planmesh has written it, so upgrade this one" in said["error"]
    assert web.subjects == ["Please decide: ok (A plan)"]
    assert (await pending(mesh_server))[1] == 1  # it waits for a gatekeeper that can read it


async def test_a_commit_that_meets_a_bug_is_set_aside_as_it_came(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(service, "facts", None)
        broken.setattr(delivery, "_MOST_DELIVERIES_OF_A_BUG", 1)
        await gatekeeper.start(channel("chat", web))
        await clerk.create(HERE, plan(gate("ok")))
        async with await connected(mesh_server, "admin") as admin:
            (aside,) = await eventually(lambda: admin.direct_get(POISON))
            (commit,) = await admin.direct_get(PLANS)

    assert aside.data == commit.data
    await clerk.create(Address("tester", "next"), plan(gate("ok")))
    await eventually(lambda: web.posts)


async def test_everything_is_acked(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await gatekeeper.start(channel("desk", web))
    await clerk.create(HERE, asking())
    await clerk.complete(HERE, "before")
    await clerk.vote(HERE, "ok")
    await clerk.complete(HERE, "after")
    for _ in range(200):
        if await pending(mesh_server) == (0, 0):
            return
        await asyncio.sleep(0.02)

    raise AssertionError("something is still not acked")


async def test_without_channels_the_log_is_not_read(clerk: Clerk, gatekeeper: Running, mesh_server: MeshServer) -> None:
    await gatekeeper.start()
    await clerk.create(HERE, plan(gate("ok")))
    await asyncio.sleep(0.1)
    await gatekeeper.stop()

    assert await pending(mesh_server) == (1, 0)


async def pending(mesh: MeshServer) -> tuple[int, int]:
    """How many commits the gatekeeper has not been given, and how many it has not answered for."""
    async with await connected(mesh, "admin") as admin:
        info = codec.value.decode(await admin.request(f"$JS.API.CONSUMER.INFO.{PLANS}.{GATEKEEPER}"))
    return info["num_pending"], info["num_ack_pending"]


def test_deliveries_are_kept_alive_for_as_long_as_the_consumer_waits() -> None:
    (consumer,) = [one for one in streams.consumers() if (one.stream, one.name) == (PLANS, GATEKEEPER)]

    assert consumer.settings["ack_wait"] == streams.SERVICE_ACK_WAIT_S * 1e9
    assert consumer.settings["max_ack_pending"] > service._CROWDED


async def noted(mesh: MeshServer, channel: str, note: bytes) -> None:
    """Wait until it is noted how a notice went."""
    subject = subjects.notice(HERE, "ok", 1, "opened", channel)
    async with await connected(mesh, "admin") as admin, asyncio.timeout(10):
        while True:
            found = await admin.last_on_subject(NOTICES, subject, leader=True)
            if found is not None and found.data == note:
                return
            await asyncio.sleep(0.01)


# --- as a process --------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def process(mesh: MeshServer, *urls: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PLANMESH_")},
        "PLANMESH_DATA_DIR": str(mesh.data_dir),
        "PLANMESH_NOTIFY_URLS": " ".join(urls),
        "PLANMESH_LOG_LEVEL": "debug",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "planmesh.gatekeeper", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def ready(started: asyncio.subprocess.Process) -> None:
    assert started.stderr is not None
    while b"gatekeeper.ready" not in (line := await asyncio.wait_for(started.stderr.readline(), 20)):
        assert line, "the gatekeeper ended before it was ready"


async def test_a_gatekeeper_that_is_killed_sends_the_rest_when_it_is_back_and_no_secret_is_logged(
    clerk: Clerk, mesh_server: MeshServer, web: WebReceiver, other_web: WebReceiver
) -> None:
    other_web.answers = [500]
    urls = [f"json://robot:{SECRET}@{receiver.at}/token-{SECRET}" for receiver in (web, other_web)]
    async with process(mesh_server, *urls) as first:
        await ready(first)
        await clerk.create(HERE, plan(gate("ok")))
        await eventually(lambda: len(clerk.reports) == 1 and not other_web.answers)
        await noted(mesh_server, "json-2", b"failed")
        first.kill()
        _, said = await first.communicate()

    async with process(mesh_server, *urls) as second:
        await eventually(lambda: len(clerk.reports) == 2, timeout_s=20)
        second.terminate()
        _, more = await second.communicate()

    assert second.returncode == 0
    assert (len(web.posts), len(other_web.posts)) == (1, 1)
    assert b"notice.sent" in more
    assert SECRET.encode() not in said + more
    assert await sent(clerk) == [(1, "opened", "json", True), (1, "opened", "json-2", True)]


async def test_a_gatekeeper_without_channels_is_small(mesh_server: MeshServer) -> None:
    async with process(mesh_server) as started:
        await ready(started)
        resident_bytes = psutil.Process(started.pid).memory_info().rss
        started.terminate()
        await started.communicate()

    assert started.returncode == 0
    assert resident_bytes < 60 * 1024 * 1024


async def test_a_url_that_cannot_be_used_ends_it_with_a_reason(mesh_server: MeshServer) -> None:
    async with process(mesh_server, f"unheard-of://{SECRET}") as started:
        _, said = await started.communicate()

    assert started.returncode == 1
    assert b"the URL of the channel unheard-of is none that Apprise understands" in said
    assert SECRET.encode() not in said
