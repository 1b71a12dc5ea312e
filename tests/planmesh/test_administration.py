"""Making a mesh, once and again, on our server and on somebody else's."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from planmesh import access
from planmesh.administration import Mesh, check
from planmesh.connection import Connection, ServerInfo, connect
from planmesh.credentials import Credentials
from planmesh.delivery import subscribe
from planmesh.embedded import server_binary
from planmesh.errors import Busy, Unusable
from planmesh.schemas.subjects import BadToken
from planmesh.streams import DEFAULT_MAX_BYTES, consumers, streams
from planmesh.testing import MeshServer, mesh_server


@asynccontextmanager
async def as_user(credentials: Credentials) -> AsyncIterator[Connection]:
    async with await connect(credentials.server, credentials.user, credentials.password, name="test") as connection:
        yield connection


async def ask(server: MeshServer, subject: str) -> dict[str, object]:
    async with as_user(server.credentials("admin")) as admin:
        answer: dict[str, object] = json.loads(await admin.request(f"$JS.API.{subject}"))
        return answer


async def limit_of(server: MeshServer, agent: str) -> object:
    return msgspec.convert(await ask(server, f"CONSUMER.INFO.WORK.agent-{agent}"), type=dict)["config"][
        "max_ack_pending"
    ]


@asynccontextmanager
async def server_of_your_own(directory: Path, config: str) -> AsyncIterator[str]:
    """A nats-server that somebody has configured, with `config` before whatever tells where it listens."""
    file, ports = directory / "own.conf", directory / "own-ports"
    ports.mkdir(parents=True)
    lines = ["listen: '127.0.0.1:-1'", f"ports_file_dir: '{ports}'", f"logfile: '{directory / 'own.log'}'"]
    file.write_text("\n".join([config, *lines]) + "\n")
    process = await asyncio.create_subprocess_exec(server_binary(), "--config", str(file))
    try:
        said = ports / f"nats-server_{process.pid}.ports"
        for _ in range(1000):
            if said.exists() and said.read_text():
                break
            await asyncio.sleep(0.005)
        yield json.loads(said.read_text())["nats"][0]
    finally:
        process.terminate()
        await process.wait()


# --- once and again ----------------------------------------------------------------------------------------


async def test_everything_is_made_at_once(mesh_server: MeshServer) -> None:
    made = {
        one["name"]: set(
            msgspec.convert(await ask(mesh_server, f"CONSUMER.NAMES.{one['name']}"), type=dict)["consumers"]
        )
        for one in ({"name": stream.name} for stream in streams() if stream.account == "CORE")
    }

    assert made["PLANS"] == {"dispatch", "auditor", "gatekeeper"}
    assert made["COMMANDS"] == {"decide"}
    assert made["WORK"] == {"planner", "timers"}
    assert made["OUTCOMES"] == {"submitter-tester", "asked-tester"}


async def test_preparing_again_changes_nothing(mesh_server: MeshServer) -> None:
    before = [await ask(mesh_server, f"STREAM.INFO.{name}") for name in ("PLANS", "WORK")]
    accounts = mesh_server.mesh.accounts_file.read_text()

    new = mesh_server.mesh.ensure_users(mesh_server.url)
    changed = await mesh_server.mesh.prepare()

    after = [await ask(mesh_server, f"STREAM.INFO.{name}") for name in ("PLANS", "WORK")]
    assert (new, changed) == ((), ())
    assert mesh_server.mesh.accounts_file.read_text() == accounts
    assert [one["config"] for one in after] == [one["config"] for one in before]


async def test_what_was_lost_or_changed_by_hand_is_put_right_and_own_limits_stay(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server.credentials("admin")) as admin:
        await admin.request("$JS.API.CONSUMER.DELETE.PLANS.gatekeeper")
        config = msgspec.convert(await ask(mesh_server, "STREAM.INFO.OUTCOMES"), type=dict)["config"]
        changed = {**config, "max_age": 10**12, "max_bytes": 10**9}
        await admin.request("$JS.API.STREAM.UPDATE.OUTCOMES", json.dumps(changed).encode())

    assert await mesh_server.mesh.prepare() == ("OUTCOMES", "PLANS/gatekeeper")

    kept = msgspec.convert(await ask(mesh_server, "STREAM.INFO.OUTCOMES"), type=dict)["config"]
    assert (kept["max_age"], kept["max_bytes"]) == (30 * 24 * 3600 * 10**9, 10**9)
    assert await mesh_server.mesh.prepare() == ()


async def test_a_mesh_from_before_there_were_limits_gets_them_and_keeps_what_it_has(mesh_server: MeshServer) -> None:
    names = [one.name for one in streams()]
    homes = {"RESULTS": "admin-agents", "CLAIMS": "admin-agents"}
    for name in names:
        async with as_user(mesh_server.credentials(homes.get(name, "admin"))) as admin:
            config = json.loads(await admin.request(f"$JS.API.STREAM.INFO.{name}"))["config"]
            await admin.request(f"$JS.API.STREAM.UPDATE.{name}", json.dumps({**config, "max_bytes": -1}).encode())
            if name == "PLANS":
                await admin.publish("plans.s.p", b"commit")

    assert set(await mesh_server.mesh.prepare(max_bytes={"PLANS": 20 * 2**30})) == set(names)

    info = msgspec.convert(await ask(mesh_server, "STREAM.INFO.PLANS"), type=dict)
    assert (info["config"]["max_bytes"], info["state"]["messages"]) == (20 * 2**30, 1)
    blobs = msgspec.convert(await ask(mesh_server, "STREAM.INFO.BLOBS"), type=dict)
    assert blobs["config"]["max_bytes"] == DEFAULT_MAX_BYTES["BLOBS"]
    # What was set once stays, where nobody says otherwise.
    assert await mesh_server.mesh.prepare() == ()
    assert await mesh_server.mesh.prepare(max_bytes={"BLOBS": 2**30}) == ("BLOBS",)


async def test_goals_of_a_mesh_from_before_submitters_had_streams_of_their_own_are_moved(
    mesh_server: MeshServer,
) -> None:
    async with as_user(mesh_server.credentials("admin-edge")) as admin:
        await admin.request("$JS.API.STREAM.DELETE.GOALS-tester")
        once = {"name": "GOALS", "subjects": ["goals.*.*"], "discard": "new", "max_age": 90 * 24 * 3600 * 10**9}
        await admin.request("$JS.API.STREAM.CREATE.GOALS", json.dumps(once).encode())
        config = {"durable_name": "planner", "ack_policy": "explicit"}
        asked = json.dumps({"stream_name": "GOALS", "config": config}).encode()
        await admin.request("$JS.API.CONSUMER.CREATE.GOALS.planner", asked)
        for goal in ("tester.answered", "tester.a", "gone.b", "tester.c"):
            headers = {"traceparent": "00-1"} if goal == "tester.c" else None
            await admin.publish(f"goals.{goal}", goal.encode(), headers=headers)
        async with await subscribe(admin, "GOALS", "planner") as goals:
            (await goals.receive(1))[0].ack()
            await admin.flush()

        changed = await mesh_server.mesh.prepare()

        assert {"GOALS-tester", "GOALS-tester/planner"} <= set(changed)
        async with await subscribe(admin, "GOALS-tester", "planner") as goals:
            found = [(await goals.receive(1))[0] for _ in range(2)]
        there = json.loads(await admin.request("$JS.API.STREAM.INFO.GOALS"))
    assert [(one.subject, one.data) for one in found] == [(f"goals.tester.{g}", f"tester.{g}".encode()) for g in "ac"]
    assert found[1].headers is not None
    assert found[1].headers["traceparent"] == "00-1"
    assert there["error"]["err_code"] == 10059
    assert await mesh_server.mesh.prepare() == ()


async def test_a_server_that_runs_is_told_of_rights_that_are_new(mesh_server: MeshServer) -> None:
    mesh = mesh_server.mesh
    accounts = mesh.accounts_file.read_text()
    older = accounts.replace('"poison.executor.*",', "")
    assert older != accounts
    mesh.accounts_file.write_text(older)  # as an earlier version has left it
    await mesh.reload()
    async with as_user(mesh_server.credentials("executor")) as executor:
        with pytest.raises(Unusable):
            await executor.publish("poison.executor.GOALS", b"x", timeout_s=1)

        assert mesh.ensure_users(mesh_server.url) == ()
        assert mesh.accounts_changed
        await mesh.add_operator("ada")
        await executor.publish("poison.executor.GOALS", b"x")

    assert not mesh.accounts_changed
    mesh.ensure_users(mesh_server.url)
    assert not mesh.accounts_changed


async def test_a_stream_that_cannot_become_ours_is_named(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server.credentials("admin")) as admin:
        await admin.request("$JS.API.STREAM.DELETE.COMMANDS")
        theirs = {"name": "THEIRS", "subjects": ["commands.>"], "storage": "file", "retention": "limits"}
        await admin.request("$JS.API.STREAM.CREATE.THEIRS", json.dumps(theirs).encode())

    with pytest.raises(Unusable, match=r"cannot make the stream COMMANDS: .*overlap"):
        await mesh_server.mesh.prepare()


# --- users, later ------------------------------------------------------------------------------------------


async def test_an_agent_that_is_added_works_at_once_and_disturbs_nobody(mesh_server: MeshServer) -> None:
    async with as_user(mesh_server.credentials("executor")) as executor:
        credentials = await mesh_server.add_agent("late")

        async with as_user(credentials) as agent:
            described = await agent.publish("catalogue.late", b"{}")
            reported = await agent.publish("results.late", b"{}")
        await executor.publish("work.agent.late.s.p.step", b"{}")

        assert (described.stream, reported.stream) == ("CATALOGUE", "RESULTS")
        assert executor.client.stats["reconnects"] == 0


async def test_a_submitter_and_an_operator_that_are_added_can_begin(mesh_server: MeshServer) -> None:
    submitter = await mesh_server.add_submitter("late")
    operator = await mesh_server.add_operator("late")

    async with as_user(submitter) as late, as_user(operator) as person:
        goal = await late.publish("goals.late.g", b"{}")
        vote = await person.publish("commands.s.p.vote.late", b"{}")

    assert (goal.stream, vote.stream) == ("GOALS-late", "COMMANDS")


async def test_one_whose_file_is_deleted_is_shut_out_and_what_it_left_can_be_taken_out(mesh_server: MeshServer) -> None:
    mesh = mesh_server.mesh
    evil, good = await mesh_server.add_agent("evil"), await mesh_server.add_agent("good")
    async with as_user(evil) as agent, as_user(good) as other:
        for _ in range(3):
            await agent.publish("results.evil", b"junk")
        await other.publish("results.good", b"{}")

        (mesh.credentials / "agent-evil.toml").unlink()
        assert mesh.ensure_users(mesh_server.url) == ()
        assert mesh.accounts_changed
        await mesh.reload()

        with pytest.raises((Busy, Unusable)):
            await agent.publish("results.evil", b"junk", timeout_s=1)
        with pytest.raises(Unusable):
            await connect(evil.server, evil.user, evil.password, name="test", wait_s=1)
        async with as_user(mesh_server.credentials("admin-agents")) as admin:
            asked = json.dumps({"filter": "results.evil"}).encode()
            purged = json.loads(await admin.request("$JS.API.STREAM.PURGE.RESULTS", asked))
        assert purged["purged"] == 3
        assert (await other.publish("results.good", b"{}")).sequence == 5


async def test_an_operator_sees_the_progress_of_an_agent_that_is_added_later(mesh_server: MeshServer) -> None:
    agent = await mesh_server.add_agent("late")
    async with as_user(mesh_server.credentials("operator-tester")) as operator, as_user(agent) as late:
        seen: asyncio.Queue[str] = asyncio.Queue()
        await operator.listen("progress.*.*.*.*", lambda message: seen.put_nowait(message.subject))
        await operator.flush()

        late.send("progress.late.s.p.step", b"{}")

        assert await asyncio.wait_for(seen.get(), 5) == "progress.late.s.p.step"


async def test_an_agent_keeps_its_concurrency_until_another_is_said(mesh_server: MeshServer) -> None:
    limits = []
    for concurrency in (None, 3, None, 7):
        await mesh_server.add_agent("echo", concurrency)
        await mesh_server.mesh.prepare()
        limits.append(await limit_of(mesh_server, "echo"))

    assert limits == [100, 3, 3, 7]


async def test_adding_somebody_again_keeps_the_password(mesh_server: MeshServer) -> None:
    first = await mesh_server.add_agent("echo")

    assert await mesh_server.add_agent("echo") == first


@pytest.mark.parametrize("name", ["", ">", "a.b", "a b", "ä", "x" * 60, "../admin"])
async def test_a_name_that_is_none_makes_nothing(tmp_path: Path, name: str) -> None:
    mesh = Mesh(tmp_path)

    with pytest.raises(BadToken):
        await mesh.add_agent(name)

    assert mesh.users() == ()


async def test_a_concurrency_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="1 or more, not 0"):
        await Mesh(tmp_path).add_agent("echo", 0)


# --- servers that cannot serve -----------------------------------------------------------------------------


def test_a_server_whose_messages_are_too_small_is_told_what_to_change() -> None:
    with pytest.raises(Unusable, match=r"takes messages of 1,048,576 bytes.*needs 8,388,608.*`max_payload: 8MB`"):
        check(ServerInfo(version="2.15.1", max_payload=1024 * 1024, jetstream=True))


async def test_a_server_of_your_own_is_prepared_and_says_what_it_lacks(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path / "mesh")
    mesh.ensure_users("nats://127.0.0.1")
    store = f"jetstream {{ store_dir: '{tmp_path / 'store'}', max_file_store: 1TB }}"
    include = "include '../mesh/nats/accounts.conf'"

    async def prepare(name: str, *lines: str) -> tuple[str, ...]:
        async with server_of_your_own(tmp_path / name, "\n".join(lines)) as url:
            mesh.point_to(url)
            return await mesh.prepare()

    with pytest.raises(Unusable, match=f"an `include` of {mesh.accounts_file}"):
        await prepare("stranger", store, "authorization { user: a, password: b }")
    with pytest.raises(Unusable, match=r"has no JetStream.*`jetstream` block"):
        await prepare("plain", include)
    with pytest.raises(Unusable, match="`max_payload: 8MB`"):
        await prepare("small", include, store)
    little = store.replace("1TB", "1GB")
    with pytest.raises(Unusable, match=r"not enough room .*`max_file_store`.*PLANMESH_STORAGE__PLANS_BYTES"):
        await prepare("little", include, little, "max_payload: 8MB")
    made = await prepare("good", include, store, "max_payload: 8MB")

    assert {one.name for one in streams()} | {f"{one.stream}/{one.name}" for one in consumers()} >= set(made)
    assert {f"{one.stream}/{one.name}" for one in consumers()} <= set(made)


async def test_accounts_without_jetstream_are_named(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path / "mesh")
    mesh.ensure_users("nats://127.0.0.1")
    mesh.accounts_file.write_text(mesh.accounts_file.read_text().replace('"jetstream": "enabled",', ""))
    store = f"jetstream {{ store_dir: '{tmp_path / 'store'}', max_file_store: 1TB }}"
    config = f"include '../mesh/nats/accounts.conf'\n{store}\nmax_payload: 8MB"
    async with server_of_your_own(tmp_path / "own", config) as url:
        mesh.point_to(url)

        with pytest.raises(Unusable, match="the accounts CORE, AGENTS and EDGE `jetstream: enabled`"):
            await mesh.prepare()


async def test_a_server_that_planmesh_may_not_reload_is_reloaded_by_hand(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path / "mesh")
    mesh.ensure_users("nats://127.0.0.1")
    store = f"jetstream {{ store_dir: '{tmp_path / 'store'}', max_file_store: 1TB }}"
    config = f"include '../mesh/nats/accounts.conf'\n{store}\nmax_payload: 8MB"
    async with server_of_your_own(tmp_path / "own", config) as url:
        mesh.point_to(url)

        with pytest.raises(Unusable, match=r"does not say `system_account: SYSTEM`.*--signal reload`, twice"):
            await mesh.add_agent("late")


async def test_a_configuration_that_the_server_does_not_take_is_told(mesh_server: MeshServer) -> None:
    mesh_server.mesh.accounts_file.write_text("accounts: {")

    with pytest.raises(Unusable, match=r"could not reload: .*accounts\.conf"):
        await mesh_server.mesh.reload()


async def test_nobody_else_can_read_the_accounts(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.ensure_users("nats://127.0.0.1", [access.agent("echo")])

    assert stat.S_IMODE(mesh.accounts_file.stat().st_mode) == 0o600
    assert "agent-echo" in mesh.users()


async def test_a_mesh_is_ready_in_a_moment(tmp_path: Path) -> None:
    started = asyncio.get_running_loop().time()

    async with mesh_server(tmp_path, agents=["echo"]):
        took_s = asyncio.get_running_loop().time() - started

    assert took_s < 5  # 0.1 s on an idle machine
