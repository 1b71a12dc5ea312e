"""An executor with its worker, on a real server, in the test's own loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from planmesh.agents import _MARK, Agent, with_tools
from planmesh.connection import Connection, connect
from planmesh.eventlog import EventLog
from planmesh.executor.service import steer, work
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, CreatePlan, verb_of
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import ENDED, PlanState
from planmesh.schemas.subjects import Address
from planmesh.testing import MeshServer, mesh_server
from planmesh.tools import MARK


class House:
    """A server with executors and workers, and somebody who asks for plans."""

    def __init__(self, server: MeshServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.stack = stack
        self.number = 0
        self.running: list[Running] = []

    async def connected(self, user: str) -> Connection:
        who = self.server.credentials(user)
        return await self.stack.enter_async_context(await connect(who.server, who.user, who.password, name=user))

    async def executor(self, **options: Any) -> "Running":
        core, agents = await self.connected("executor"), await self.connected("executor-agents")
        stop = asyncio.Event()
        return self._run(Running(asyncio.create_task(steer(core, agents, stop, **options)), stop, (core, agents)))

    def _run(self, running: "Running") -> "Running":
        self.running.append(running)
        return running

    async def worker(
        self, *functions: Callable[..., Any], tools: Sequence[Callable[..., Any]] = (), **options: Any
    ) -> "Running":
        found: dict[str, Agent] = {one.name: one for one in (getattr(function, _MARK) for function in functions)}
        here = {one.name: one for one in (getattr(function, MARK) for function in tools)}
        found |= {name: with_tools(one, here) for name, one in found.items() if one.tools is not None}
        connections = {name: await self.connected(f"agent-{name}") for name in found}
        stop = asyncio.Event()
        working = asyncio.create_task(work(found, connections, stop, **options))
        return self._run(Running(working, stop, tuple(connections.values())))

    async def create(self, plan: Plan, *, inputs: dict[str, Any] | None = None, start: bool = True) -> Address:
        self.number += 1
        address = Address("tester", f"plan-{self.number}")
        command = CreatePlan(id=f"create-{self.number}", plan=plan, goal_digest="d", inputs=inputs or {}, start=start)
        await self.ask(address, command, "planner")
        return address

    async def ask(self, address: Address, command: AnyCommand, actor: str = "tester") -> None:
        user = actor if actor in ("planner", "executor", "gatekeeper") else f"operator-{actor}"
        connection = await self.connected(user)
        await connection.publish(subjects.command(address, verb_of(command), actor), encode(command))

    async def until(self, address: Address, reached: Callable[[PlanState], object], timeout_s: float = 15) -> PlanState:
        """The state of the plan, read from the log, as soon as *reached* says so."""
        reader = await self.connected("operator-tester")
        log, changed = EventLog(reader), asyncio.Event()
        interest = await reader.listen(subjects.plan_log(address), lambda _message: changed.set())
        try:
            async with asyncio.timeout(timeout_s):
                recorded = await log.read(address)
                while not reached(recorded.state):
                    # What is heard may not be stored yet, and nothing more may come: look again by oneself.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), 0.2)
                    changed.clear()
                    recorded = await log.read_on(recorded)
        finally:
            await interest.unsubscribe()
        return recorded.state

    async def ended(self, address: Address, timeout_s: float = 15) -> PlanState:
        return await self.until(address, lambda state: state.status in ENDED, timeout_s)


class Running:
    """A service in a task."""

    def __init__(self, task: asyncio.Task[None], stop: asyncio.Event, connections: tuple[Connection, ...]) -> None:
        self.task = task
        self._stop = stop
        self._connections = connections

    async def stop(self) -> None:
        self._stop.set()
        if not self.task.cancelled():
            await self.task

    async def die(self) -> None:
        """End as kill -9 would, as far as the server can tell: nothing is answered, nothing is given back."""
        for connection in self._connections:
            connection.send = lambda *_args, **_options: None  # type: ignore[method-assign]
        self.task.cancel()
        await asyncio.wait([self.task])
        for connection in self._connections:
            await connection.close()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(*agents: str) -> AsyncIterator[House]:
        async with mesh_server(tmp_path, agents=agents) as server, AsyncExitStack() as stack:
            house = House(server, stack)
            try:
                yield house
            finally:
                for running in reversed(house.running):
                    await running.stop()

    return opened
