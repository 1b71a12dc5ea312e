"""A planner on a real server, and everybody whom it has to do with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from planmesh.connection import Connection, connect
from planmesh.delivery import Message, consume
from planmesh.directory import Directory
from planmesh.planner.drafting import Drafter
from planmesh.planner.goals import NO_TEMPLATES
from planmesh.planner.service import plan_goals
from planmesh.planner.templates import Templates
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.subjects import COMMANDS, DECIDE, goal_stream
from planmesh.schemas.work import AgentDescription
from planmesh.streams import PINNED_GROUP
from planmesh.testing import MeshServer

FAST_S = 30.0


def plan(agent: str = "echo", **inputs: Any) -> dict[str, Any]:
    return {"name": "Demo", "steps": [{"name": "say", "kind": "task", "agent": agent, "inputs": inputs}]}


class Bench:
    """Everybody whom a planner has to do with: a submitter, an administrator, and an executor that takes commands."""

    def __init__(self, server: MeshServer, stack: contextlib.AsyncExitStack) -> None:
        self.server = server
        self.commands: dict[str, list[bytes]] = {}
        self._stack = stack
        self._arrived = asyncio.Condition()

    async def open(self) -> None:
        users = ("planner", "planner-edge", "admin", "admin-edge", "submitter-tester", "executor")
        self.core, self.edge, self.admin, self.admin_edge, self.submitter, executor = [
            await self.connect(user) for user in users
        ]
        taking = consume(executor, COMMANDS, DECIDE, self._take, service="executor", group=PINNED_GROUP)
        task = asyncio.create_task(taking)
        self._stack.callback(task.cancel)

    async def connect(self, user: str) -> Connection:
        who = self.server.credentials(user)
        return await self._stack.enter_async_context(await connect(who.server, who.user, who.password, name=user))

    async def submit(self, goal: str, content: object, **headers: str) -> None:
        data = content if isinstance(content, bytes) else msgspec.json.encode(content)
        await self.submitter.publish(f"goals.tester.{goal}", data, headers=headers or None)

    async def describe(self, description: AgentDescription) -> None:
        agent = await self.connect(f"agent-{description.name}")
        await agent.publish(subjects.catalogue(description.name), encode(description))

    async def taken(self, goal: str, verb: str, count: int = 1, space: str = "tester") -> list[bytes]:
        """The commands for *goal*, once there are *count*."""
        subject = f"commands.{space}.{goal}.{verb}.planner"
        async with asyncio.timeout(FAST_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.commands.get(subject, [])) >= count)
        return self.commands[subject]

    async def created(self, goal: str) -> CreatePlan:
        command = codec.command.decode((await self.taken(goal, "create"))[0])
        assert isinstance(command, CreatePlan)
        return command

    async def refused(self, goal: str) -> list[str]:
        command = codec.command.decode((await self.taken(goal, "refuse"))[0])
        assert isinstance(command, RefuseGoal)
        return [problem.code for problem in command.problems]

    async def open_goals(self) -> int:
        """Goals that are not acked."""
        answer = msgspec.json.decode(
            await self.admin_edge.request(f"$JS.API.CONSUMER.INFO.{goal_stream('tester')}.planner")
        )
        return int(answer["num_pending"]) + int(answer["num_ack_pending"])

    async def _take(self, message: Message) -> None:
        async with self._arrived:
            self.commands.setdefault(message.subject, []).append(message.data)
            self._arrived.notify_all()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(FAST_S):
        while not await holds():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def planning(
    bench: Bench,
    directory: Directory | None = None,
    *,
    drafter: Drafter | None = None,
    templates: Templates = NO_TEMPLATES,
    drafts_at_once: int = 4,
) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        work = plan_goals(
            bench.core,
            bench.edge,
            stop,
            directory=directory,
            drafter=drafter,
            templates=templates,
            drafts_at_once=drafts_at_once,
        )
        tasks.create_task(work)
        try:
            yield
        finally:
            stop.set()
