"""``up``, ``init`` and ``doctor``, as a person calls them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from plays import gate, plan
from promises import until_read
from reviews import Clerk, connected

from planmesh.auditor.service import audit
from planmesh.cli import COMPLETED, FAILED, mesh
from planmesh.cli.administer import add_submitter
from planmesh.cli.session import NotUnderstood, Session
from planmesh.client import Client
from planmesh.connection import connect
from planmesh.embedded import server_binary
from planmesh.errors import Unusable
from planmesh.operator import Operator
from planmesh.schemas import subjects
from planmesh.testing import MeshServer

ROOT = Path(__file__).parents[3]


AGENTS = """
from planmesh import agent

@agent(idempotent=True)
def shout(text: str) -> str:
    return text.upper()
"""

SHOUT = {
    "version": 1,
    "name": "shout",
    "steps": [{"kind": "task", "name": "say", "agent": "shout", "inputs": {"text": "hello"}}],
}


async def findings(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    capsys.readouterr()
    code = await mesh.doctor(session=Session(data_dir=data_dir, output="jsonl"))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {one["what"]: one for one in found}


# --- up ----------------------------------------------------------------------------------------------------


async def test_a_mesh_comes_up_works_is_well_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "town_criers.py").write_text(AGENTS)
    data = tmp_path / "data"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PLANMESH_LOG_LEVEL": "warning"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "planmesh.cli", "--data-dir", str(data), "-o", "jsonl"),
        *("up", "--agents", "town_criers", "--sync", "2m"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    try:
        running = json.loads(await process.stdout.readline())
        assert set(running["services"]) == {"auditor", "gatekeeper", "executor", "planner", "worker"}
        assert "shout" in running["agents"]

        async with Client.connect(data_dir=data) as client:
            completed = await (await client.submit(SHOUT)).result(20)
        assert completed.result.value == {"say": "HELLO"}

        code, found = await findings(data, capsys)
        assert [one for one in found.values() if one["level"] == "bad"] == []
        assert found["agents"]["found"] == "somebody runs shout"
        assert code == COMPLETED
        children = psutil.Process(process.pid).children(recursive=True)

        (planner,) = [one for one in children if "planmesh.planner" in one.cmdline()]
        planner.suspend()
        try:
            code, found = await findings(data, capsys)
        finally:
            planner.resume()
        assert (code, found["planner"]["level"]) == (FAILED, "bad")
        assert "answers no question" in found["planner"]["found"]
    finally:
        process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert process.returncode == COMPLETED, err.decode()
    assert err.decode() == "The mesh is stopped.\n"
    assert [one for one in children if one.is_running()] == []


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        with pytest.raises(Unusable, match=f"port {port} on 127.0.0.1 is in use"):
            await mesh.up(port=port, session=Session(data_dir=tmp_path))
    finally:
        listener.close()


async def test_a_sync_interval_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="sync"):
        await mesh.up(sync="sometimes", session=Session(data_dir=tmp_path))


# --- init --------------------------------------------------------------------------------------------------


def configured(directory: Path, accounts: Path, more: str) -> Path:
    ports = directory / "ports"
    ports.mkdir(parents=True)
    (directory / accounts.name).symlink_to(accounts)
    config = directory / "nats.conf"
    config.write_text(
        f'include "{accounts.name}"\nsystem_account: SYSTEM\nlisten: "127.0.0.1:-1"\nports_file_dir: "{ports}"\n'
        f'jetstream {{ store_dir: "{directory}", max_file_store: 1TB }}\n{more}\n'
    )
    return config


@contextlib.asynccontextmanager
async def server_of_ones_own(directory: Path, accounts: Path, *, more: str = "") -> AsyncIterator[str]:
    ports = directory / "ports"
    config = configured(directory, accounts, more or "max_payload: 8MB")
    process = await asyncio.create_subprocess_exec(
        server_binary(), "--config", config, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        said = ports / f"nats-server_{process.pid}.ports"
        async with asyncio.timeout(10):
            while not said.exists() or not said.read_text().endswith("}"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield json.loads(said.read_text())["nats"][0]
    finally:
        process.terminate()
        await process.wait()


async def test_a_server_of_ones_own_is_prepared_and_learns_of_new_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"

    await mesh.init(
        agents=["planmesh.demo.agents"],
        submitter=["shop"],
        operator=["ada"],
        files_only=True,
        session=Session("nats://127.0.0.1:4222", data),
    )
    assert 'include "accounts.conf"' in capsys.readouterr().out

    async with server_of_ones_own(tmp_path / "server", data / "nats" / "accounts.conf") as url:
        lines = Session(url, data, output="jsonl")
        await mesh.init(session=lines)
        prepared = json.loads(capsys.readouterr().out)
        assert {"PLANS", "GOALS-shop", "WORK/agent-list-distributions", "OUTCOMES/submitter-shop"} <= set(
            prepared["changed"]
        )

        await mesh.init(session=Session(url, data))
        assert "all was as it should be" in capsys.readouterr().out

        await add_submitter("later", session=Session(data_dir=data))
        async with Client.connect(data_dir=data, user="later") as client:
            assert client.space == "later"
        async with Client.connect(data_dir=data) as client:
            assert client.space == "shop"


async def test_a_server_that_does_not_know_the_users_gets_told_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other = tmp_path / "data", tmp_path / "other.conf"
    other.write_text("accounts { A { users: [{user: a, password: b}] }, SYSTEM { users: [] } }\n")

    async with server_of_ones_own(tmp_path / "server", other) as url:
        with pytest.raises(Unusable, match="does not know the user admin"):
            await mesh.init(session=Session(url, data))

    said = capsys.readouterr().err
    assert "system_account: SYSTEM" in said
    assert f"ln -s {data}/nats/accounts.conf accounts.conf" in said


async def test_a_server_whose_messages_are_too_small_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await mesh.init(files_only=True, session=Session("nats://127.0.0.1:4222", data))

    async with server_of_ones_own(tmp_path / "server", data / "nats" / "accounts.conf", more="max_payload: 1MB") as url:
        with pytest.raises(Unusable, match="max_payload: 8MB"):
            await mesh.init(session=Session(url, data))


async def test_the_first_time_it_has_to_be_said_where_the_server_is(tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match="say where your server is"):
        await mesh.init(session=Session(data_dir=tmp_path))


# --- doctor ------------------------------------------------------------------------------------------------


async def test_without_credentials_it_says_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = await findings(tmp_path, capsys)

    assert code == FAILED
    assert "planmesh up" in found["credentials"]["advice"]


async def test_without_a_server_nothing_else_is_asked(
    mesh_server: MeshServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Session("nats://127.0.0.1:1", mesh_server.data_dir, output="jsonl")
    code = await mesh.doctor(session=nowhere)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert code == FAILED
    assert [one["what"] for one in found] == ["server"]
    assert "no NATS server at nats://127.0.0.1:1" in found[0]["found"]
    assert "planmesh up" in found[0]["advice"]


@pytest.mark.parametrize("mesh_server", [("echo",), ("echo", "llm")], indirect=True)
async def test_an_agent_that_needs_a_model_and_has_none_is_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = "llm" in mesh_server.mesh.agents()
    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["model"]["level"] == ("warning" if needs else "ok")
    assert ("no model is configured, and every step of the agent llm fails" in found["model"]["found"]) is needs
    assert ("PLANMESH_MODEL__NAME" in found["model"].get("advice", "")) is needs

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("PLANMESH_MODEL__NAME", "qwen3:8b")
    _, keyless = await findings(mesh_server.data_dir, capsys)
    monkeypatch.setenv("PLANMESH_MODEL__BASE_URL", "http://localhost:11434/v1")
    _, whole = await findings(mesh_server.data_dir, capsys)

    assert keyless["model"]["level"] == "warning"
    assert whole["model"] == {"what": "model", "level": "ok", "found": "qwen3:8b at http://localhost:11434/v1"}


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_what_does_not_run_is_named_with_how_to_start_it(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = await findings(mesh_server.data_dir, capsys)

    assert code == FAILED
    assert found["server"]["level"] == found["users"]["level"] == found["streams"]["level"] == "ok"
    for service in ("planner", "executor", "auditor"):
        assert found[service]["level"] == "bad"
        assert f"python -m planmesh.{service}" in found[service]["advice"]
    assert found["gatekeeper"]["level"] == "ok"
    assert "nobody is told of gates" in found["notices"]["found"]
    assert found["agents"] == {
        "what": "agents",
        "level": "warning",
        "found": "nobody runs echo",
        "advice": found["agents"]["advice"],
    }


async def test_streams_that_were_changed_or_deleted_are_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = mesh_server.credentials("admin")
    async with await connect(admin.server, admin.user, admin.password, name="test") as connection:
        await connection.request("$JS.API.STREAM.DELETE.OUTCOMES")
        found = json.loads(await connection.request("$JS.API.STREAM.INFO.COMMANDS"))
        await connection.request(
            "$JS.API.STREAM.UPDATE.COMMANDS", json.dumps({**found["config"], "max_msgs": 5}).encode()
        )
        await connection.request("$JS.API.CONSUMER.DELETE.WORK.timers")
        await connection.publish(subjects.poison("planner", "GOALS"), b"x")

    code, looked = await findings(mesh_server.data_dir, capsys)

    assert code == FAILED
    assert "OUTCOMES missing" in looked["streams"]["found"]
    assert "WORK/timers" in looked["consumers"]["found"]
    assert looked["poison"]["found"] == "1 message could not be handled"

    await mesh_server.mesh.prepare()
    _, looked = await findings(mesh_server.data_dir, capsys)
    assert looked["streams"]["level"] == looked["consumers"]["level"] == "ok"


async def test_streams_that_are_nearly_full_are_named_with_what_to_set(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    least = 16 * 1024 * 1024
    await mesh_server.mesh.prepare(max_bytes={"PLANS": least, "BLOBS": least})
    _, looked = await findings(mesh_server.data_dir, capsys)
    assert (looked["log"]["level"], looked["room"]["level"]) == ("ok", "ok")

    executor = mesh_server.credentials("executor")
    async with await connect(executor.server, executor.user, executor.password, name="test") as connection:
        for subject in ("plans.s.p", "blobs.sha256.a", "plans.s.q", "blobs.sha256.b"):
            await connection.publish(subject, bytes(7 * 1024 * 1024))
    _, looked = await findings(mesh_server.data_dir, capsys)

    assert (looked["log"]["level"], looked["room"]["level"]) == ("warning", "warning")
    assert looked["log"]["found"] == "88% of its limit, 16.0 MiB, is taken"
    assert "PLANMESH_STORAGE__PLANS_BYTES=32MiB" in looked["log"]["advice"]
    assert looked["room"]["found"] == "88% of 16.0 MiB of BLOBS is taken"
    assert "PLANMESH_STORAGE__BLOBS_BYTES=32MiB" in looked["room"]["advice"]


async def test_users_that_the_server_does_not_know_are_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mesh_server.data_dir / "credentials" / "planner.toml"
    file.write_text(file.read_text().replace('password = "', 'password = "x'))
    (mesh_server.data_dir / "credentials" / "auditor.toml").unlink()

    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["users"]["level"] == "bad"
    assert "planner" in found["users"]["found"]


async def test_a_collector_that_does_not_answer_is_a_warning(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANMESH_OTLP_ENDPOINT", "http://127.0.0.1:1")

    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["tracing"]["level"] == "warning"
    assert "http://127.0.0.1:1" in found["tracing"]["found"]


async def test_reviewers_whom_nobody_tells_and_pages_that_nobody_finds_are_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, unused = await findings(mesh_server.data_dir, capsys)
    monkeypatch.setenv("PLANMESH_DIRECTORY__PEOPLE", '{"ada": {}}')
    monkeypatch.setenv("PLANMESH_WEB_PORT", "8088")
    _, unreachable = await findings(mesh_server.data_dir, capsys)
    monkeypatch.setenv("PLANMESH_NOTIFY_URLS", "json://127.0.0.1:9")
    monkeypatch.setenv("PLANMESH_PUBLIC_URL", "https://plans.example.org")
    _, reachable = await findings(mesh_server.data_dir, capsys)

    assert [unused[what]["level"] for what in ("notices", "review pages")] == ["ok", "ok"]
    assert [unreachable[what]["level"] for what in ("notices", "review pages")] == ["bad", "bad"]
    assert "nobody is told of gates, and the directory names reviewers" in unreachable["notices"]["found"]
    assert "set public_url" in unreachable["review pages"]["advice"]
    assert [reachable[what]["level"] for what in ("notices", "review pages")] == ["ok", "ok"]


async def test_a_directory_that_names_nobody_to_escalate_to_is_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, unused = await findings(mesh_server.data_dir, capsys)
    monkeypatch.setenv("PLANMESH_DIRECTORY__PEOPLE", '{"ada": {}}')
    code, nobody = await findings(mesh_server.data_dir, capsys)
    monkeypatch.setenv("PLANMESH_DIRECTORY__ESCALATE_TO", "person:ada")
    monkeypatch.setenv("PLANMESH_GATE_SLA_S", "7200")
    _, somebody = await findings(mesh_server.data_dir, capsys)

    assert "overdue gates" not in unused
    assert (code, nobody["overdue gates"]["level"]) == (FAILED, "bad")
    assert "set escalate_to in [directory]" in nobody["overdue gates"]["advice"]
    assert somebody["overdue gates"]["level"] == "ok"
    assert somebody["overdue gates"]["found"] == "after 2 h, person:ada is asked as well"


async def test_a_gate_that_waits_while_nobody_is_told_of_gates_is_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    clerk = Clerk(await connected(mesh_server, "executor"))
    await clerk.create(subjects.address("tester", "pay"), plan(gate("ok")))
    stop = asyncio.Event()
    database = f"sqlite:///{mesh_server.data_dir}/auditor.db"
    reading = await connected(mesh_server, "auditor")
    auditing = asyncio.create_task(audit(reading, database, stop))
    try:
        async with Operator.connect(data_dir=mesh_server.data_dir) as operator:
            await until_read(operator, await operator.state(subjects.address("tester", "pay")))
        _, found = await findings(mesh_server.data_dir, capsys)
    finally:
        stop.set()
        await auditing
        await reading.close()
        await clerk.core.close()

    assert found["notices"]["level"] == "bad"
    assert found["notices"]["found"].endswith("the gate ok of tester.pay waits for a decision")


async def test_a_template_that_does_not_work_is_named(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "opened.txt").write_text("subject\n{{ gaet }}")
    monkeypatch.setenv("PLANMESH_NOTIFY_URLS", "json://127.0.0.1:9")
    monkeypatch.setenv("PLANMESH_NOTICES__TEMPLATES", str(tmp_path))

    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["notices"]["level"] == "bad"
    assert "opened.txt, line 2: 'gaet' is undefined" in found["notices"]["found"]


async def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    mesh_server: MeshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANMESH_DATABASE_URL", "postgresql+psycopg://me:secret@127.0.0.1:1/planmesh")

    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["database"]["level"] == "bad"
    assert "secret" not in str(found)


async def test_looking_makes_no_database(mesh_server: MeshServer, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = await findings(mesh_server.data_dir, capsys)

    assert found["database"]["found"].endswith("auditor.db yet; the auditor makes it")
    assert not (mesh_server.data_dir / "auditor.db").exists()
