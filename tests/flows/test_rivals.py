"""Two executors on one plan: one sequence of commits, without gaps, whoever makes them."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from flows import plan, running_flow, task
from promises import expect_log, expect_promises

from planmesh.client import Client
from planmesh.connection import Connection, connect
from planmesh.delivery import subscribe
from planmesh.errors import Conflict
from planmesh.eventlog import EventLog, Recorded
from planmesh.executor.blobs import BlobStore
from planmesh.executor.decide import Decider
from planmesh.executor.plans import Plans
from planmesh.operator import Operator
from planmesh.planner.service import plan_goals
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import StepDispatched
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import COMMANDS, DECIDE, RESULTS
from planmesh.schemas.work import AttemptCompleted, Results
from planmesh.testing import MeshServer

LINKS = 40


async def test_a_plan_goes_on_whichever_of_two_executors_is_killed(tmp_path: Path) -> None:
    chain = plan(
        task("held-1", agent="hold"),
        *(task(f"a{n}", f"a{n - 1}" if n else "held-1") for n in range(LINKS)),
        task("held-2", f"a{LINKS - 1}", agent="hold"),
        *(task(f"b{n}", f"b{n - 1}" if n else "held-2") for n in range(LINKS)),
    )
    async with running_flow(tmp_path, executors=2) as flow:
        address = (await flow.client.submit(chain)).address

        for held, victim in (("held-1", "executor"), ("held-2", "executor-2")):
            await flow.until_begun(address, held)
            await flow.ready()
            number = (await flow.operator.state(address)).number
            flow.let_go(address, held)
            await flow.until(address, partial(is_past, number + LINKS // 4))
            flow.mesh.children[victim].kill()

        state = await flow.until(address, lambda state: state.ended_at)
        assert state.status == "completed"
        assert {step.attempt for step in state.steps.values()} == {1}
        await expect_promises(flow.operator, address)


def is_past(number: int, state: PlanState) -> bool:
    return state.number > number


class CountedLog(EventLog):
    """A log that counts what its writer has appended, and how often somebody else was faster."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.appended = 0
        self.lost = 0

    async def append(self, *asked: object) -> Recorded:
        try:
            recorded = await super().append(*asked)  # type: ignore[arg-type]
        except Conflict:
            self.lost += 1
            raise
        self.appended += 1
        return recorded


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_two_that_decide_at_once_make_one_sequence_of_commits(mesh_server: MeshServer) -> None:
    width = 80
    fan = plan(
        task("first"), *(task(f"m{n}", "first") for n in range(width)), task("last", *(f"m{n}" for n in range(width)))
    )
    async with AsyncExitStack() as stack:

        async def connected(user: str) -> Connection:
            who = mesh_server.credentials(user)
            return await stack.enter_async_context(await connect(who.server, who.user, who.password, name=user))

        await unpin(await connected("admin"), COMMANDS)
        await unpin(await connected("admin-agents"), RESULTS)
        logs = []
        for _ in range(2):
            core, agents = await connected("executor"), await connected("executor-agents")
            log = CountedLog(core)
            logs.append(log)
            decider = Decider(core, log, BlobStore(core), Plans())
            commands = await stack.enter_async_context(await subscribe(core, COMMANDS, DECIDE, batch=2))
            results = await stack.enter_async_context(await subscribe(agents, RESULTS, DECIDE, batch=2))
            for taking in (decider.take_commands(commands), decider.take_results(results)):
                stack.callback(asyncio.create_task(taking).cancel)
        stop = asyncio.Event()
        planner = asyncio.create_task(plan_goals(await connected("planner"), await connected("planner-edge"), stop))
        client = await stack.enter_async_context(Client.connect(data_dir=mesh_server.data_dir))
        operator = await stack.enter_async_context(Operator.connect(data_dir=mesh_server.data_dir))

        address = (await client.submit(fan)).address
        agent = await connected("agent-echo")
        dispatched: list[str] = []
        async with asyncio.timeout(30):
            async for _, commit in operator.watch(address):
                for event in commit.events:
                    if isinstance(event, StepDispatched):
                        dispatched.append(event.step)
                        # Each result is a message of its own, and comes twice.
                        result = encode(Results(results=(completed(address, event.step),)))
                        for _ in range(2):
                            agent.send(subjects.results("echo"), result)
        stop.set()
        await planner

        state = await operator.state(address)
        assert state.status == "completed"
        assert sorted(dispatched) == sorted(step["name"] for step in fan["steps"])
        assert [log.appended > 0 for log in logs] == [True, True]
        assert sum(log.lost for log in logs) > 0
        assert sum(log.appended for log in logs) == state.number
        await expect_log(operator, address)


async def unpin(admin: Connection, stream: str) -> None:
    """Make the consumer of the deciders one that serves whoever asks."""
    info = json.loads(await admin.request(f"$JS.API.CONSUMER.INFO.{stream}.{DECIDE}"))
    pinned = ("priority_policy", "priority_groups", "priority_timeout")
    config = {name: value for name, value in info["config"].items() if name not in pinned}
    await admin.request(f"$JS.API.CONSUMER.DELETE.{stream}.{DECIDE}")
    asked = json.dumps({"stream_name": stream, "config": config}).encode()
    made = json.loads(await admin.request(f"$JS.API.CONSUMER.CREATE.{stream}.{DECIDE}", asked))
    assert "error" not in made, made


def completed(address: subjects.Address, step: str) -> AttemptCompleted:
    return AttemptCompleted(
        space=address.space,
        plan=address.plan,
        step=step,
        attempt=1,
        output=Payload(),
        started_at=datetime.now(UTC),
        duration_s=0.0,
    )
