"""Child processes that live, die and are started again: toys at first, then a whole mesh."""

import asyncio
import os
import resource
import shutil
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from flows import insist
from patience import eventually

from planmesh import supervision
from planmesh.client import Client
from planmesh.connection import connect
from planmesh.errors import Busy, Unusable
from planmesh.operator import Operator
from planmesh.schemas.state import PlanStatus
from planmesh.supervision import Children, Service, find_agents, local_mesh, people

ROOT = Path(__file__).parents[2]

ALL = ("auditor", "gatekeeper", "planner", "executor", "worker")

READY = "from planmesh.readiness import notify_ready; notify_ready()\n"
WAITS = "import signal; signal.pause()\n"

AGENTS = """
import time
from planmesh import agent

print("loaded")

@agent(idempotent=True)
def shout(text: str) -> str:
    return text.upper()

@agent(idempotent=True)
def dawdle() -> None:
    time.sleep(0.5)
"""


def toy(name: str, *code: str) -> Service:
    return Service(name, ("-c", "".join(code)))


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{directory}"}


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    async with Children(tmp_path / "log", environment(tmp_path)) as children:
        yield children


@pytest.fixture
def agents(tmp_path: Path) -> str:
    (tmp_path / "town_criers.py").write_text(AGENTS)
    return "town_criers"


# --- one child ---------------------------------------------------------------------------------------------


async def test_a_child_is_ready_when_it_says_so(children: Children) -> None:
    children.start(toy("worker", READY, WAITS))

    await children.wait_ready()

    assert psutil.pid_exists(children.by_name["worker"].pid)


async def test_a_child_that_dies_is_started_again(children: Children) -> None:
    children.start(toy("worker", READY, WAITS))
    await children.wait_ready()
    child = children.by_name["worker"]
    before = child.pid

    child.kill()
    await child.wait_ready()

    assert child.starts == 2
    assert child.pid not in (0, before)


async def test_a_child_that_was_ready_once_is_not_given_up_however_often_it_is_killed(children: Children) -> None:
    children.start(toy("worker", READY, WAITS))
    for _ in range(3):
        await children.wait_ready()
        children.by_name["worker"].kill()

    await children.wait_ready()

    assert children.by_name["worker"].starts == 4


async def test_a_child_that_never_starts_is_an_error_with_its_last_words(children: Children) -> None:
    children.start(toy("planner", "import sys; sys.exit('no chair')"))

    with pytest.raises(Unusable, match=r"the planner does not start \(status 1\); it said:\n(.*\n)*  no chair"):
        await children.wait_ready()


async def test_a_child_that_is_not_ready_in_time_is_an_error(children: Children) -> None:
    children.start(toy("worker", WAITS))

    with pytest.raises(Unusable, match=r"the worker is not ready after 0\.05 s"):
        await children.by_name["worker"].wait_ready(0.05)


async def test_a_child_that_cannot_be_started_for_now_is_started_later(tmp_path: Path) -> None:
    async with Children(tmp_path / "log", environment(tmp_path)) as children:
        children.start(toy("worker", READY, WAITS))
        await children.wait_ready()
        child = children.by_name["worker"]
        (tmp_path / "log").rename(tmp_path / "elsewhere")

        child.kill()
        await asyncio.sleep(0.5)
        (tmp_path / "elsewhere").rename(tmp_path / "log")

        await child.wait_ready(10)


async def test_a_server_that_cannot_be_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "nats-server"
    binary.write_text("not a program")
    monkeypatch.setattr("planmesh.embedded.server_binary", lambda: str(binary))

    with pytest.raises(Unusable, match="cannot run the nats-server"):
        async with asyncio.timeout(10), local_mesh(tmp_path / "mesh"):
            pass


async def test_a_child_that_does_not_end_when_asked_is_ended(children: Children) -> None:
    children.start(toy("worker", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n", READY, WAITS))
    await children.wait_ready()
    pid = children.by_name["worker"].pid

    await children.by_name["worker"].stop(patience_s=0.1)

    assert not psutil.pid_exists(pid)


async def test_children_stop_in_the_order_of_the_work(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = textwrap.dedent("""
        import signal, sys
        def say(*_):
            with open({told!r}, "a") as file:
                file.write({name!r} + " ")
            sys.exit()
        signal.signal(signal.SIGTERM, say)
    """)
    names = ("auditor", "executor-2", "worker", "executor", "gatekeeper", "planner")
    async with Children(tmp_path / "log", environment(tmp_path)) as children:
        for name in names:
            children.start(toy(name, code.format(told=str(told), name=name), READY, WAITS))
        await children.wait_ready()

    assert told.read_text().split() == ["planner", "worker", "executor-2", "executor", "gatekeeper", "auditor"]


async def test_what_children_say_is_marked_with_their_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    says = (
        """print("a plain line"); print('{"event": "a.log_line"}'); print("x" * 3_000_000); print("no end", end="")\n"""
    )
    async with Children(None, environment(tmp_path)) as children:
        children.start(toy("planner", says, READY, WAITS))
        await children.wait_ready()

    lines = capfd.readouterr().err.splitlines()

    assert "planner | a plain line" in lines
    assert '{"event": "a.log_line"}' in lines
    assert "planner | no end" in lines
    assert sum(line.count("x") for line in lines) == 3_000_000


# --- agents and people -------------------------------------------------------------------------------------


async def test_agents_are_found_whatever_their_module_prints(agents: str, tmp_path: Path) -> None:
    assert {"dawdle", "shout"} <= set(await find_agents([agents], environment(tmp_path)))


async def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"^cannot import the agents in 'no_such': .*current directory"):
        await find_agents(["no_such"], environment(tmp_path))


async def test_a_module_that_breaks_shows_where(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")

    with pytest.raises(
        Unusable, match=r"cannot load the agents:\n(.*\n)*.*broken_module\.py(.*\n)*.*ZeroDivisionError"
    ):
        await find_agents(["broken_module"], environment(tmp_path))


def test_a_login_name_becomes_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "Ada B. Lovelace")

    assert people(tmp_path).operator == "operator-Ada-B-Lovelace"


def test_a_login_name_of_a_service_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "auditor")

    assert people(tmp_path).operator == "operator-local"


# --- a whole mesh ------------------------------------------------------------------------------------------


async def test_a_mesh_goes_on_when_its_processes_are_killed(agents: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = set(psutil.Process().children(recursive=True))
    async with local_mesh(
        data, agents=[agents], sync_interval="2m", log_dir=data / "log", environment=environment(tmp_path)
    ) as mesh:
        assert {"shout", "dawdle"} <= set(mesh.agents)
        async with Client.connect(data_dir=data) as client, Operator.connect(data_dir=data) as operator:
            submitted = await client.submit(chain(6), id="p")
            async for state, _ in operator.watch(submitted.address):
                if state.status is PlanStatus.RUNNING and state.steps["s1"].attempt:
                    break
            for child in mesh.children.values():
                child.kill()
            assert mesh.server is not None
            os.kill(mesh.server.pid, signal.SIGKILL)

            await asyncio.gather(*(child.wait_ready() for child in mesh.children.values()))
            statuses = [state.status async for state, _ in operator.watch(submitted.address)]

            assert statuses[-1] is PlanStatus.COMPLETED
            assert all(child.starts >= 2 for child in mesh.children.values())

    assert not set(psutil.Process().children(recursive=True)) - before


async def test_a_server_that_could_not_write_is_started_anew_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_HEALTH_S", 0.05)
    room = [0]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=room[0]))
    async with local_mesh(tmp_path, sync_interval="2m", without=ALL) as mesh:
        who = mesh.mesh.credentials_of("executor")
        async with await connect(who.server, who.user, who.password, name="test") as executor:
            await executor.publish("plans.s.p", b"kept")
            assert mesh.server is not None
            first = mesh.server.pid
            _, most = resource.prlimit(first, resource.RLIMIT_FSIZE)
            resource.prlimit(first, resource.RLIMIT_FSIZE, (4_096, most))  # as a disk that is full
            with pytest.raises(Busy):
                await executor.publish("plans.s.p", bytes(8_000), timeout_s=1)
            resource.prlimit(first, resource.RLIMIT_FSIZE, (most, most))

            with pytest.raises(TimeoutError):
                await eventually(lambda: mesh.server is None or mesh.server.pid != first, 1)
            assert "write error" in await mesh.mesh.sickness()
            room[0] = usage.total
            await eventually(lambda: mesh.server is not None and mesh.server.pid != first, 30)

            stored = await insist(lambda: executor.publish("plans.s.q", b"again"))
            log = await insist(lambda: executor.direct_get("PLANS"))

    assert (log[0].data, log[-1].data) == (b"kept", b"again")
    assert stored.sequence == log[-1].sequence


async def test_nobody_else_can_read_what_a_mesh_keeps(agents: str, tmp_path: Path) -> None:
    data = tmp_path / "above" / "data"
    umask = os.umask(0o022)
    try:
        async with local_mesh(
            data, agents=[agents], sync_interval="2m", log_dir=data / "log", environment=environment(tmp_path)
        ):
            kept = [data.parent, *data.parent.rglob("*")]
            readable = [str(one.relative_to(tmp_path)) for one in kept if one.exists() and one.stat().st_mode & 0o077]
    finally:
        os.umask(umask)

    assert {"auditor.db", "accounts.conf", "server.log", "worker.log"} <= {one.name for one in kept}
    assert readable == []


def chain(steps: int) -> dict[str, object]:
    return {
        "version": 1,
        "name": "chain",
        "steps": [
            {"kind": "task", "name": f"s{index}", "agent": "dawdle", "after": [f"s{index - 1}"] if index else []}
            for index in range(steps)
        ],
    }


async def test_an_agent_that_cannot_be_loaded_leaves_nothing_running(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))

    with pytest.raises(Unusable, match="no_such"):
        async with local_mesh(
            tmp_path, agents=["no_such"], log_dir=tmp_path / "log", environment=environment(tmp_path)
        ):
            pass

    assert not set(psutil.Process().children(recursive=True)) - before


async def test_two_meshes_cannot_share_their_files(tmp_path: Path) -> None:
    quiet = {"log_dir": tmp_path / "log", "without": ALL}
    async with local_mesh(tmp_path, environment=environment(tmp_path), **quiet):  # type: ignore[arg-type]
        with pytest.raises(Unusable, match="another server runs on"):
            async with local_mesh(tmp_path, environment=environment(tmp_path), **quiet):  # type: ignore[arg-type]
                pass

        async with Client.connect(data_dir=tmp_path) as client:  # the first one is as it was
            assert client.space


async def test_a_mesh_comes_back_on_the_port_that_it_had(tmp_path: Path) -> None:
    urls = []
    for _ in range(2):
        async with local_mesh(
            tmp_path, log_dir=tmp_path / "log", environment=environment(tmp_path), without=ALL
        ) as mesh:
            urls.append(mesh.url)

    assert urls[0] == urls[1]


async def test_a_mesh_takes_another_port_if_somebody_has_its_own(tmp_path: Path) -> None:
    quiet = {"environment": environment(tmp_path), "without": ALL}
    async with local_mesh(tmp_path, log_dir=tmp_path / "log", **quiet) as mesh:  # type: ignore[arg-type]
        port = int(mesh.url.rpartition(":")[2])
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)

    async with local_mesh(tmp_path, log_dir=tmp_path / "log", **quiet) as mesh:  # type: ignore[arg-type]
        assert int(mesh.url.rpartition(":")[2]) != port
    listener.close()


async def test_children_end_with_whoever_started_them(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from planmesh.supervision import local_mesh

        async def main() -> None:
            directory = Path(sys.argv[1])
            async with local_mesh(directory, log_dir=directory / "log", without=("auditor",)):
                print("ready", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """)
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE, env=environment(tmp_path)
    )
    assert supervisor.stdout is not None
    while b"ready" not in await supervisor.stdout.readline():
        pass
    orphans = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(orphans) >= 4

    supervisor.kill()
    await supervisor.wait()

    _, alive = await asyncio.to_thread(psutil.wait_procs, orphans, 8)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
