"""Operators' news, from a real log to real receivers."""

import asyncio

import pytest
from patience import eventually
from plays import gate, plan, task
from receivers import WebReceiver
from reviews import Clerk, Running, connected

from planmesh.delivery import subscribe
from planmesh.directory import Directory
from planmesh.gatekeeper import bulletin
from planmesh.gatekeeper.notify import Channel, open_channels
from planmesh.gatekeeper.reach import Reach
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import RetryStep
from planmesh.schemas.subjects import GATEKEEPER, PLANS, POISON, WORK, Address
from planmesh.schemas.work import AgentDescription
from planmesh.testing import MeshServer

SOON_S = 0.3


def channel(name: str, web: WebReceiver) -> Channel:
    (made,) = open_channels({name: f"json://{web.at}/{name}"})
    return made


async def fail(clerk: Clerk, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        address = Address("tester", f"order-{number}")
        await clerk.create(address, plan(task("charge")))
        await clerk.fail(address, "charge")


async def unanswered(mesh: MeshServer, stream: str = PLANS) -> int:
    async with await connected(mesh, "admin") as admin:
        info = codec.value.decode(await admin.request(f"$JS.API.CONSUMER.INFO.{stream}.{GATEKEEPER}"))
    return int(info["num_pending"]) + int(info["num_ack_pending"])


async def answered(mesh: MeshServer, stream: str = PLANS) -> None:
    async with asyncio.timeout(10):
        while await unanswered(mesh, stream):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)


async def test_plans_that_one_failure_has_stopped_are_one_message(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await fail(clerk, 30)
    await gatekeeper.start(channel("desk", web), news_every_s=1.0)
    await eventually(lambda: web.posts)
    await answered(mesh_server)

    assert web.subjects == ["planmesh: 30 plans are paused: step charge failed (http_error)"]
    assert "\n  | 503\n" in web.posts[0][1]["message"]


async def test_news_waits_and_a_gate_does_not(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    await gatekeeper.start(channel("desk", web), news_every_s=60.0)
    await fail(clerk, 1)
    await clerk.create(Address("tester", "pay"), plan(gate("ok")))
    await eventually(lambda: clerk.reports)

    assert web.subjects == ["Please decide: ok (A plan)"]


async def test_news_that_was_not_told_is_told_by_the_next_gatekeeper(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await gatekeeper.start(channel("desk", web), news_every_s=60.0)
    await fail(clerk, 3)
    await clerk.create(Address("tester", "pay"), plan(gate("ok")))
    await eventually(lambda: clerk.reports)
    await gatekeeper.stop()
    assert await unanswered(mesh_server) >= 3

    await gatekeeper.start(channel("desk", web), news_every_s=SOON_S)
    await eventually(lambda: len(web.posts) == 2)

    assert web.subjects[1] == "planmesh: 3 plans are paused: step charge failed (http_error)"


async def test_a_plan_that_goes_on_meanwhile_is_not_told_of(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await gatekeeper.start(channel("desk", web), news_every_s=4.0)
    await fail(clerk, 1)
    await clerk.ask(Address("tester", "order-0"), RetryStep(id="again", step="charge", attempt=1))
    await answered(mesh_server)

    assert web.posts == []


async def test_a_channel_that_fails_is_told_again_with_what_has_come_meanwhile_and_delays_no_other(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, other_web: WebReceiver, mesh_server: MeshServer
) -> None:
    other_web.answers = [500, 500]
    channels = channel("desk", web), channel("chat", other_web)
    await gatekeeper.start(*channels, news_every_s=SOON_S, retry_pauses_s=(SOON_S, 4.0))
    await fail(clerk, 1)
    await eventually(lambda: len(web.posts) == 1 and not other_web.answers)
    await fail(clerk, 1, start=1)
    await eventually(lambda: len(other_web.posts) == 1)
    await answered(mesh_server)

    assert web.subjects == ["planmesh: 1 plan is paused: step charge failed (http_error)"] * 2
    assert other_web.subjects == ["planmesh: 2 plans are paused: step charge failed (http_error)"]


async def test_what_is_set_aside_is_told_once(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    for number in range(3):
        headers = {"Planmesh-Error": f"expected a result, found {number}"}
        await clerk.core.publish(subjects.poison("executor", "RESULTS"), b"x", headers=headers)
    await gatekeeper.start(channel("desk", web), news_every_s=SOON_S)
    await eventually(lambda: web.posts)
    await answered(mesh_server, POISON)
    await gatekeeper.stop()
    await gatekeeper.start(channel("desk", web), news_every_s=SOON_S)
    await fail(clerk, 1)
    await eventually(lambda: len(web.posts) == 2)

    assert web.subjects == [
        "planmesh: 3 messages could not be handled by the executor (from RESULTS)",
        "planmesh: 1 plan is paused: step charge failed (http_error)",
    ]
    assert "  | expected a result, found 0\n  planmesh poison list" in web.posts[0][1]["message"]


async def test_a_bug_costs_the_news_that_it_met_and_no_more(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(bulletin, "tell", None)
        await gatekeeper.start(channel("desk", web), news_every_s=SOON_S)
        await fail(clerk, 1)
        await answered(mesh_server)
    await fail(clerk, 1, start=1)
    await eventually(lambda: web.posts)

    assert web.subjects == ["planmesh: 1 plan is paused: step charge failed (http_error)"]


async def test_more_news_than_can_wait_holds_up_no_gate(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulletin, "MOST_HELD", 5)
    await gatekeeper.start(channel("desk", web), news_every_s=5.0)
    await fail(clerk, 20)
    await eventually(lambda: web.posts)

    assert web.subjects == ["planmesh: 20 plans are paused: step charge failed (http_error)"]


async def test_operators_hear_of_it_where_they_are_and_nobody_else_does(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    known = Directory.model_validate(
        {
            "people": {"ada": {"channels": [f"json://{web.at}/ada"]}, "bob": {"channels": [f"json://{web.at}/bob"]}},
            "teams": {"oncall": {"members": ["ada"]}},
            "operators": "team:oncall",
        }
    )
    reach = Reach(known, [f"json://{web.at}/everybody"])
    await gatekeeper.start(*open_channels(reach.urls, people=reach.people), reach=reach, news_every_s=SOON_S)
    await fail(clerk, 1)
    await eventually(lambda: web.posts)
    await clerk.create(Address("tester", "pay"), plan(gate("ok", reviewers=("person:bob",))))
    await eventually(lambda: clerk.reports)
    await answered(mesh_server)

    assert [(path, subject[:13]) for (path, _), subject in zip(web.posts, web.subjects, strict=True)] == [
        ("/ada", "planmesh: 1 p"),
        ("/bob", "Please decide"),
    ]


async def test_who_wants_no_news_hears_of_gates_only(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    await clerk.core.publish(subjects.poison("executor", "RESULTS"), b"x")
    await gatekeeper.start(channel("desk", web))
    await fail(clerk, 1)
    await clerk.create(Address("tester", "pay"), plan(gate("ok")))
    await eventually(lambda: clerk.reports)
    await answered(mesh_server)
    await answered(mesh_server, POISON)

    assert web.subjects == ["Please decide: ok (A plan)"]


@pytest.mark.parametrize("mesh_server", [("echo", "busy")], indirect=True)
async def test_an_agent_that_has_work_and_that_nobody_runs_is_told_of_once(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver, mesh_server: MeshServer
) -> None:
    for name in ("echo", "busy"):
        async with await connected(mesh_server, f"agent-{name}") as agent:
            await agent.publish(subjects.catalogue(name), encode(AgentDescription(name=name)))
    for number in range(3):
        where = Address("tester", f"order-{number}")
        await clerk.core.publish(subjects.agent_work("echo", where, "charge"), b"{}")
        await clerk.core.publish(subjects.agent_work("busy", where, "charge"), b"{}")
    async with (
        await connected(mesh_server, "agent-busy") as worker,
        await subscribe(worker, WORK, subjects.agent_consumer("busy"), batch=1),
    ):
        await gatekeeper.start(channel("desk", web), news_every_s=SOON_S, look_every_s=0.1)
        await eventually(lambda: web.posts)
        await fail(clerk, 1)
        await eventually(lambda: len(web.posts) == 2)

    assert web.subjects == [
        "planmesh: 3 steps wait for the agent echo, which nobody runs",
        "planmesh: 1 plan is paused: step charge failed (http_error)",
    ]
