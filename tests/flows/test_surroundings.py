"""What is around the services is in trouble: a stream is full, a password is wrong, there is no server."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from flows import TESTS, Flow, insist, plan, task
from msgspec.structs import replace
from patience import eventually
from promises import expect_promises

from planmesh.access import home
from planmesh.client import Submitted
from planmesh.credentials import read_credentials, users, write_credentials
from planmesh.errors import Busy
from planmesh.schemas import goals
from planmesh.schemas.subjects import AGENTS, CORE, EDGE, Address, goal_stream
from planmesh.supervision import Service, services, worker
from planmesh.testing import MeshServer

SHARED = pytest.mark.asyncio(loop_scope="session")

PATIENCE_S = 60
"""What waits for room comes back after up to 10 s, and what a reader was given and has not acked, after 30 s."""

ADMINS = {CORE: "admin", AGENTS: "admin-agents", EDGE: "admin-edge"}
EVERYTHING = plan(
    task("big", agent="swell", inputs={"size": "{size}"}),
    task("once", "big", idempotent=False),
    task("flaky", "big", inputs={"value": "{big}"}),
    {"kind": "emit", "name": "end", "after": ["once", "flaky"], "outcome": "Done", "result": "{once}"},
    inputs={"size": {"type": "integer"}},
)


@contextlib.asynccontextmanager
async def full(flow: Flow, stream: str) -> AsyncIterator[None]:
    """A stream that takes nothing more for as long as the block lasts."""
    async with flow.connected(ADMINS[home(stream)]) as admin:

        async def limit(max_bytes: int) -> int:
            info = json.loads(await admin.request(f"$JS.API.STREAM.INFO.{stream}"))
            asked = json.dumps({**info["config"], "max_bytes": max_bytes}).encode()
            made = json.loads(await admin.request(f"$JS.API.STREAM.UPDATE.{stream}", asked))
            assert "error" not in made, made
            return int(info["config"]["max_bytes"])

        before = await limit(1)
        try:
            yield
        finally:
            await limit(before)


@SHARED
@pytest.mark.parametrize(
    ("stream", "who"),
    [
        ("COMMANDS", "planner"),
        ("PLANS", "executor"),
        ("WORK", "executor"),
        ("OUTCOMES", "executor"),
        ("BLOBS", "worker"),
        ("RESULTS", "worker"),
    ],
)
async def test_nothing_is_lost_while_a_stream_is_full(flow: Flow, stream: str, who: str) -> None:
    already = flow.log_of(who).count("is full")
    async with full(flow, stream):
        submitted = await submit_everything(flow, stream)
        await eventually(lambda: flow.log_of(who).count("is full") > already, PATIENCE_S)
        # What is not stored yet can be heard live.
        assert submitted.final is None or stream == "OUTCOMES"

    await submitted.result(PATIENCE_S)
    state, _ = await expect_promises(flow.operator, submitted.address)
    assert {step.attempt for step in state.steps.values()} == {0, 1}
    stored = await stored_news(flow, submitted.address)
    # Of news that waited for room together, what was overtaken is not told any more.
    assert stored in ([goals.Accepted, goals.Completed], [goals.Completed][: stream == "OUTCOMES"])


async def stored_news(flow: Flow, address: Address) -> list[type]:
    """What the stream holds for the submitter, up to the end of this plan."""
    found: list[type] = []
    every: Any = flow.client.outcomes()
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(every) as news:
        async for one in news:
            one.ack()
            if one.address == address:
                found.append(type(one.outcome))
                if isinstance(one.outcome, goals.FINAL):
                    break
    return found


@SHARED
async def test_a_step_that_cannot_be_claimed_is_not_begun(flow: Flow) -> None:
    async with full(flow, "CLAIMS"):
        submitted = await submit_everything(flow, "CLAIMS")
        state = await flow.until(submitted.address, lambda state: state.steps["once"].failure)
        assert state.steps["once"].failure is not None
        assert "it could not be claimed, and was not begun" in state.steps["once"].failure.message

    await submitted.result(PATIENCE_S)
    state, _ = await expect_promises(flow.operator, submitted.address)
    assert state.steps["once"].attempt > 1


async def submit_everything(flow: Flow, stream: str) -> Submitted:
    size = 20_000 + sum(map(ord, stream))  # a blob that is there already needs no room
    return await flow.client.submit(EVERYTHING, inputs={"size": size}, id=f"full-{stream.lower()}")


@SHARED
async def test_a_submitter_is_told_that_the_goals_are_full_and_may_try_again(flow: Flow) -> None:
    submit = flow.client.submit(plan(task("only")), id="full-goals")
    async with full(flow, goal_stream(flow.client.space)):
        with pytest.raises(
            Busy, match=r"the stream of goals\.\w+\.full-goals is full .*: make room or raise its limits"
        ):
            await submit

    submitted = await insist(lambda: flow.client.submit(plan(task("only")), id="full-goals"))
    await submitted.result(PATIENCE_S)


@pytest.mark.parametrize("mesh_server", [("echo", "hold", "pay", "swell")], indirect=True)
async def test_a_service_that_is_given_a_wrong_password_says_so_and_ends(
    mesh_server: MeshServer, tmp_path: Path
) -> None:
    directory = tmp_path / "wrong"
    for user in users(mesh_server.mesh.credentials):
        found = read_credentials(mesh_server.mesh.credentials, user)
        write_credentials(directory, replace(found, password="guess-4711"))
    environment = {"PLANMESH_CREDENTIALS": str(directory), "PLANMESH_DATA_DIR": str(tmp_path)}

    ends = await asyncio.gather(*(end_of(service.arguments, environment) for service in everybody()))

    for service, (status, said) in zip(everybody(), ends, strict=True):
        assert status == 1, said
        assert f"{service.arguments[1].rpartition('.')[2]}: the NATS server at {mesh_server.url} does not know" in said
        assert "with this password: check the credentials" in said
        assert "Traceback" not in said
        assert "guess-4711" not in said


async def test_a_service_that_finds_no_server_says_where_it_looked_and_what_to_do(
    mesh_server: MeshServer, tmp_path: Path, unused_tcp_port: int
) -> None:
    environment = {
        "PLANMESH_CREDENTIALS": str(mesh_server.mesh.credentials),
        "PLANMESH_DATA_DIR": str(tmp_path),
        "PLANMESH_SERVER": f"nats://127.0.0.1:{unused_tcp_port}",
    }

    ends = await asyncio.gather(*(end_of(service.arguments, environment) for service in services()))

    for status, said in ends:
        assert status == 1, said
        assert f"no NATS server at nats://127.0.0.1:{unused_tcp_port} within 10 s: start one (`planmesh up`)" in said
        assert "Traceback" not in said


def everybody() -> tuple[Service, ...]:
    return (*services(), worker(["flow_agents"]))


async def end_of(arguments: tuple[str, ...], environment: dict[str, str]) -> tuple[int | None, str]:
    """How a service ends, and all that it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment, "PYTHONPATH": f"{TESTS.parent}:{TESTS / 'flows'}"},
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return process.returncode, said.decode()
