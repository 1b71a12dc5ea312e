"""``python -m planmesh.planner``: starts, says that it is ready, plans, and ends when it is asked to."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import pytest

from planmesh.connection import connect
from planmesh.schemas.subjects import COMMANDS
from planmesh.testing import MeshServer

WAIT_S = 20.0


async def start(**environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "planmesh.planner", env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_a_planner_answers_goals_until_it_is_told_to_stop(mesh_server: MeshServer, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        listener.bind(str(tmp_path / "notify"))
        planner = await start(
            PLANMESH_DATA_DIR=str(mesh_server.data_dir),
            PLANMESH_LIMITS__STEPS="1",
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        async with asyncio.timeout(WAIT_S):
            said = await asyncio.get_running_loop().sock_recv(listener, 1_000)
    assert said.startswith(b"READY=1")

    arrived: asyncio.Queue[str] = asyncio.Queue()
    admin, submitter = mesh_server.credentials("admin"), mesh_server.credentials("submitter-tester")
    async with (
        await connect(admin.server, admin.user, admin.password, name="test") as watching,
        await connect(submitter.server, submitter.user, submitter.password, name="test") as submitting,
    ):
        await watching.listen("commands.>", lambda message: arrived.put_nowait(message.subject))
        await watching.flush()
        step = {"kind": "task", "agent": "echo"}
        for goal, names in (("one", ["a"]), ("two", ["a", "b"])):
            plan = {"name": goal, "steps": [{"name": name, **step} for name in names]}
            await submitting.publish(f"goals.tester.{goal}", msgspec.json.encode({"plan": plan}))
        async with asyncio.timeout(WAIT_S):
            heard = {await arrived.get(), await arrived.get()}
            planner.send_signal(signal.SIGTERM)
            assert await planner.wait() == 0
        stored = msgspec.json.decode(await watching.request(f"$JS.API.STREAM.INFO.{COMMANDS}"))

    assert heard == {"commands.tester.one.create.planner", "commands.tester.two.refuse.planner"}
    assert stored["state"]["messages"] == 2


async def test_without_credentials_it_says_what_to_do(tmp_path: Path) -> None:
    planner = await start(PLANMESH_DATA_DIR=str(tmp_path))

    async with asyncio.timeout(WAIT_S):
        _, errors = await planner.communicate()

    assert planner.returncode == 1
    assert b"planner: no credentials of planner" in errors
    assert b"Traceback" not in errors
