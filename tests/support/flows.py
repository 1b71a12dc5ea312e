"""A mesh of real processes for a test, with somebody who submits goals and somebody who looks and steers."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from patience import eventually

from planmesh.client import Client
from planmesh.connection import Connection, connect
from planmesh.credentials import Credentials
from planmesh.errors import Busy
from planmesh.operator import Operator
from planmesh.schemas.commands import AnyCommand, CastVote
from planmesh.schemas.events import Commit
from planmesh.schemas.state import PlanState, open_gates
from planmesh.schemas.subjects import Address
from planmesh.steering import Answer, new_command_id
from planmesh.supervision import LocalMesh, local_mesh

TESTS = Path(__file__).parent.parent
EXAMPLES = TESTS.parent / "docs" / "examples"

_T = TypeVar("_T")


def task(name: str, *after: str, agent: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"kind": "task", "name": name, "agent": agent, "after": list(after), **fields}


def plan(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"version": 1, "name": "A plan", "steps": list(steps), **fields}


class Flow:
    """A mesh that runs.

    Attributes:
        mesh: Its processes.
        directory: Where the agents of `flow_agents` say what they do, and hear when to end.
        client: Submits goals.
        operator: Looks, and steers.
    """

    def __init__(self, mesh: LocalMesh, directory: Path, client: Client, operator: Operator) -> None:
        self.mesh = mesh
        self.directory = directory
        self.client = client
        self.operator = operator

    def log_of(self, service: str) -> str:
        return (self.directory / "logs" / f"{service}.log").read_text("utf-8")

    def starts(self) -> dict[str, int]:
        """How many processes each service has had."""
        return {name: child.starts for name, child in self.mesh.children.items()}

    async def ready(self) -> None:
        """Wait until every service runs."""
        for child in self.mesh.children.values():
            await child.wait_ready(30)

    def credentials(self, user: str) -> Credentials:
        return self.mesh.mesh.credentials_of(user)

    @contextlib.asynccontextmanager
    async def connected(self, user: str) -> AsyncIterator[Connection]:
        who = self.credentials(user)
        async with await connect(who.server, who.user, who.password, name="test") as connection:
            yield connection

    # --- plans -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def watch(self, address: Address) -> AsyncIterator[AsyncIterator[tuple[PlanState, Commit]]]:
        """Every commit of the plan, until the block ends."""
        changes: Any = self.operator.watch(address)
        async with contextlib.aclosing(changes):
            yield changes

    async def until(self, address: Address, reached: Callable[[PlanState], object], timeout_s: float = 30) -> PlanState:
        """The first state of the plan of which *reached* is true."""
        state: PlanState | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    with contextlib.suppress(Busy):  # the server may be away just now
                        async with self.watch(address) as changes:
                            async for state, _ in changes:
                                if reached(state):
                                    return state
                            break
        said = "not there" if state is None else f"{state.status} ({state.reason}) at commit {state.number}"
        raise AssertionError(f"{address} is {said}")

    async def command(self, address: Address, command: AnyCommand) -> Answer:
        return await insist(lambda: self.operator.command(address, command, timeout_s=30))

    async def approve(self, address: Address) -> Answer:
        """Approve the first gate that opens."""
        state = await self.until(address, open_gates)
        (gate,) = open_gates(state)
        opened = state.steps[gate].opened
        assert opened is not None
        vote = CastVote(id=new_command_id(), step=gate, digest=opened.digest, decision="approve")
        return await self.command(address, vote)

    # --- steps that are held -----------------------------------------------------------------------------

    def begun(self) -> Counter[str]:
        """How often each attempt (``space.plan.step.attempt``) has begun."""
        file = self.directory / "begun"
        return Counter(file.read_text("utf-8").split() if file.exists() else ())

    async def until_begun(self, address: Address, *steps: str, times: int = 1, timeout_s: float = 30) -> None:
        await eventually(lambda: all(self.begun()[f"{address}.{step}.1"] >= times for step in steps), timeout_s)

    def breaks(self, source: str) -> None:
        """Let the agent `fragile` fail for this source from now on."""
        (self.directory / f"broken-{source}").touch()

    def mends(self, source: str) -> None:
        (self.directory / f"broken-{source}").unlink()

    def let_go(self, address: Address, *steps: str) -> None:
        for step in steps:
            (self.directory / f"{address}.{step}.1").touch()


async def insist(ask: Callable[[], Awaitable[_T]], timeout_s: float = 30) -> _T:
    """Ask again while the server or a service is away; what is asked must do no harm when it is done twice."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await ask()
            except Busy:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running_flow(
    directory: Path, *, agents: Sequence[str] = (), environment: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[Flow]:
    """Run a mesh with the agents of `flow_agents`, and of the modules *agents*, until the block ends."""
    surroundings = {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS / "flows", EXAMPLES))),
        "FLOW_DIRECTORY": str(directory),
        **(environment or {}),
    }
    async with contextlib.AsyncExitStack() as stack:
        # Where the worker is started is where the agents of the examples write.
        with contextlib.chdir(directory):
            mesh = await stack.enter_async_context(
                local_mesh(
                    directory / "mesh",
                    agents=["flow_agents", *agents],
                    sync_interval="2m",
                    log_dir=directory / "logs",
                    environment=surroundings,
                    **options,
                )
            )
        client = await stack.enter_async_context(Client.connect(data_dir=mesh.data_dir))
        operator = await stack.enter_async_context(Operator.connect(data_dir=mesh.data_dir))
        yield Flow(mesh, directory, client, operator)
