"""A mesh in one process: the executor's loops, a planner and the review pages, on a real server. Nobody does work."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from pages import DIRECTORY, SECRET, Site
from reviews import Clerk, connected

from planmesh.connection import Connection
from planmesh.directory import Directory
from planmesh.executor.service import steer
from planmesh.gatekeeper.identity import Door, Keys, Proxy
from planmesh.gatekeeper.web.serve import listen, serve
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.service import plan_goals
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AgentDescription
from planmesh.testing import MeshServer


class Whole(Site):
    """The pages of a mesh that decides and plans.

    Attributes:
        planner, gatekeeper: Their connections.
        directory: Who there is.
    """

    planner: Connection
    gatekeeper: Connection
    directory: Directory

    async def create(self, address: Address, document: dict[str, Any]) -> None:
        """Have a plan run, once its first gate or ask is open."""
        compiled = compile_plan(document, None, directory=self.directory)
        assert isinstance(compiled, Compiled), compiled
        command = CreatePlan(id=f"create-{address.plan}", plan=compiled.plan, goal_digest="digest")
        await self.planner.publish(subjects.command(address, "create", "planner"), encode(command))
        await self.until(address, lambda state: any(step.opened for step in state.steps.values()))

    async def state(self, address: Address) -> PlanState:
        return (await self.clerk.log.read(address)).state

    async def until(self, address: Address, holds: Any) -> PlanState:
        deadline = time.monotonic() + 20
        while not holds(state := await self.state(address)):
            assert time.monotonic() < deadline, "not so within 20 s"
            await asyncio.sleep(0.005)
        return state


@contextlib.asynccontextmanager
async def whole(mesh: MeshServer, agent: str = "agent", directory: Directory = DIRECTORY) -> AsyncIterator[Whole]:
    """Run it until the block ends."""
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    keys = Keys(["k" * 32])
    door = Door(directory=directory, keys=keys, proxy=Proxy("X-User", "X-Proof", SECRET), pages_url=url)
    await mesh.add_agent(agent)
    async with contextlib.AsyncExitStack() as stack:
        users = ("executor", "executor-agents", "planner", "planner-edge", "gatekeeper", "executor", f"agent-{agent}")
        core, agents, planner, edge, pages, reader, at_work = [
            await stack.enter_async_context(await connected(mesh, user)) for user in users
        ]
        description = AgentDescription(name=agent, any_parameters=True)
        await at_work.publish(subjects.catalogue(agent), encode(description))
        stop = asyncio.Event()
        running = [
            asyncio.create_task(steer(core, agents, stop)),
            asyncio.create_task(plan_goals(planner, edge, stop, directory=directory)),
        ]
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        await stack.enter_async_context(serve(pages, door, listening))
        site = Whole(url, keys, http, Clerk(reader))
        site.planner, site.gatekeeper, site.directory = planner, pages, directory
        yield site
        stop.set()
        await asyncio.gather(*running)
