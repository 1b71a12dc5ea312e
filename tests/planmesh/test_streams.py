"""What the streams accept, and what the consumers hand out, on a real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from planmesh.connection import Connection, connect
from planmesh.delivery import subscribe
from planmesh.errors import Busy, Conflict, Poison
from planmesh.schemas.subjects import PLANS, WORK, Address
from planmesh.secrets import store
from planmesh.streams import (
    DEFAULT_MAX_BYTES,
    PINNED_GROUP,
    agent_consumer,
    consumers,
    of_submitter,
    streams,
    streams_of,
)
from planmesh.testing import MeshServer


@asynccontextmanager
async def as_user(server: MeshServer, user: str) -> AsyncIterator[Connection]:
    credentials = server.credentials(user)
    async with await connect(credentials.server, user, credentials.password, name="test") as connection:
        yield connection


async def test_nothing_in_the_log_can_be_changed_or_removed_even_by_an_administrator(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server, "admin") as admin:
        stored = await admin.publish("plans.s.p", b"commit")

        purged = json.loads(await admin.request("$JS.API.STREAM.PURGE.PLANS"))
        deleted = json.loads(
            await admin.request("$JS.API.STREAM.MSG.DELETE.PLANS", json.dumps({"seq": stored.sequence}).encode())
        )
        with pytest.raises(Exception, match="rollup"):
            await admin.publish("plans.s.p", b"other", headers={"Nats-Rollup": "sub"})
        with pytest.raises(Exception, match="TTL"):
            await admin.publish("plans.s.p", b"other", headers={"Nats-TTL": "1s"})
        log = await admin.direct_get(PLANS)

    assert [answer["error"]["err_code"] for answer in (purged, deleted)] == [10110, 10057]
    assert [message.data for message in log] == [b"commit"]


async def test_a_blob_is_stored_once(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server, "executor") as executor:
        await executor.publish("blobs.sha256.abc", b"blob")

        with pytest.raises(Conflict):
            await executor.publish("blobs.sha256.abc", b"another")

        kept = await executor.last_on_subject("BLOBS", "blobs.sha256.abc")

    assert kept is not None
    assert kept.data == b"blob"


async def test_a_message_larger_than_the_server_takes_is_refused_before_it_is_sent(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server, "executor") as executor:
        stored = await executor.publish("blobs.sha256.large", bytes(8 * 1024 * 1024))

        with pytest.raises(Poison, match="max_payload"):
            await executor.publish("blobs.sha256.larger", bytes(8 * 1024 * 1024 + 1))

    assert stored.stream == "BLOBS"


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_an_agent_gets_no_more_work_at_once_than_it_was_added_with(mesh_server: MeshServer) -> None:
    await mesh_server.add_agent("echo", concurrency=2)
    async with as_user(mesh_server, "executor") as executor, as_user(mesh_server, "agent-echo") as agent:
        for number in range(3):
            await executor.publish(f"work.agent.echo.s.p.step-{number}", b"{}")

        async with await subscribe(agent, WORK, "agent-echo") as work:
            first = [await asyncio.wait_for(work.receive(1), 5) for _ in range(2)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work.receive(1), 0.2)
            first[0][0].ack()
            third = await asyncio.wait_for(work.receive(1), 5)

    assert third[0].subject == "work.agent.echo.s.p.step-2"


async def test_one_of_two_executors_decides(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server, "executor") as first, as_user(mesh_server, "executor") as second:
        await first.publish("commands.s.p.due.executor", b"1")
        async with await subscribe(first, "COMMANDS", "decide", group=PINNED_GROUP) as pinned:
            received = await asyncio.wait_for(pinned.receive(), 5)
            async with await subscribe(second, "COMMANDS", "decide", group=PINNED_GROUP) as standby:
                for _ in range(5):
                    await first.publish("commands.s.p.due.executor", b"2")
                more: list[bytes] = []
                while len(more) < 5:
                    more += [message.data for message in await asyncio.wait_for(pinned.receive(), 5)]

                assert (len(received), len(more)) == (1, 5)
                assert (pinned.pinned, standby.pinned) == (True, False)


def test_nobody_gives_up_on_a_message() -> None:
    every = (*consumers(), agent_consumer("echo", 5), *of_submitter("shop"))

    assert {consumer.settings["max_deliver"] for consumer in every} == {-1}


def test_the_readers_of_a_work_queue_share_nothing() -> None:
    filters = [c.settings.get("filter_subject") for c in (*consumers(), agent_consumer("a", 1), agent_consumer("b", 1))]

    assert filters.count("work.timer.>") == 1
    assert [found for found in filters if found and found.startswith("work.agent")] == [
        "work.agent.a.>",
        "work.agent.b.>",
    ]


async def test_whoever_floods_a_stream_takes_no_room_of_the_log(mesh_server: MeshServer) -> None:
    least = 16 * 1024 * 1024
    await mesh_server.mesh.prepare(max_bytes={"GOALS": least, "RESULTS": least})
    async with as_user(mesh_server, "submitter-tester") as submitter:
        for number in range(2):
            await submitter.publish(f"goals.tester.g{number}", bytes(7 * 1024 * 1024))
        with pytest.raises(Busy, match="is full"):
            await submitter.publish("goals.tester.more", bytes(7 * 1024 * 1024))

    async with as_user(mesh_server, "executor") as executor:
        stored = await executor.publish("plans.s.p", b"commit")

    assert stored.sequence == 1


@pytest.mark.parametrize(
    ("kind", "subject", "size_bytes"),
    [
        ("GOALS", "goals.{0}.g{1}", 2_000_000),
        ("SECRETS", "secrets.s.p.q.reply.{0}.s{1}", 60_000),
    ],
)
async def test_a_submitter_that_fills_what_there_is_for_it_keeps_no_other_from_storing(
    mesh_server: MeshServer, kind: str, subject: str, size_bytes: int
) -> None:
    await mesh_server.add_submitter("late", {kind: 16 * 1024 * 1024})
    await mesh_server.mesh.prepare(max_bytes={kind: 16 * 1024 * 1024})
    async with as_user(mesh_server, "submitter-tester") as flood, as_user(mesh_server, "submitter-late") as other:
        stored, is_full = 0, False
        while not is_full:
            assert stored < 1_000, "nothing keeps it from storing more"
            answers = await asyncio.gather(
                *(flood.publish(subject.format("tester", stored + n), bytes(size_bytes)) for n in range(10)),
                return_exceptions=True,
            )
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert all(isinstance(one, Busy) and "is full" in str(one) for one in refused)
            stored, is_full = stored + 10 - len(refused), bool(refused)

        of_other = [await other.publish(subject.format("late", n), bytes(size_bytes)) for n in range(5)]
        async with as_user(mesh_server, "operator-tester") as person:
            assert await store(person, Address("s", "p"), "q", "answer", "tester", "of a person")

    assert stored * size_bytes <= 16 * 1024 * 1024
    assert [one.sequence for one in of_other] == [1, 2, 3, 4, 5]


def test_every_stream_says_how_much_it_may_take() -> None:
    every = (*streams(3, {"PLANS": 5 * 2**30}), *streams_of("shop", 3, {"GOALS": 2**30}))

    of_shop = {"GOALS-shop": 2**30, "SECRETS-shop": DEFAULT_MAX_BYTES["SECRETS"]}
    of_all = {name: most for name, most in DEFAULT_MAX_BYTES.items() if name != "GOALS"}
    assert {one.name: one.max_bytes for one in every} == {**of_all, "PLANS": 5 * 2**30, **of_shop}
    assert sum(DEFAULT_MAX_BYTES.values()) < 32 * 2**30


def test_every_stream_says_how_many_consumers_it_may_have() -> None:
    assert all(stream.settings["max_consumers"] > 0 for stream in (*streams(), *streams_of("shop")))


async def test_a_secret_is_kept_for_as_long_as_the_settings_say(mesh_server: MeshServer) -> None:
    assert await mesh_server.mesh.prepare(secrets_kept_s=3_600) == ("SECRETS", "SECRETS-tester")
    assert await mesh_server.mesh.prepare(secrets_kept_s=3_600) == ()

    async with as_user(mesh_server, "admin") as admin:
        info = json.loads(await admin.request("$JS.API.STREAM.INFO.SECRETS"))["config"]

    assert info["max_age"] == 3_600 * 10**9
    assert not info.get("allow_direct", False)
    assert info["deny_delete"]
