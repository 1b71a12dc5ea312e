"""Goals from a real server become commands on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from planmesh.connection import Connection, StoredMessage, connect
from planmesh.delivery import Message, consume
from planmesh.directory import Directory
from planmesh.planner.catalogue import Catalogue, undescribed
from planmesh.planner.service import plan_goals
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.plan import Permissions
from planmesh.schemas.subjects import COMMANDS, DECIDE, GOALS, POISON, WORK
from planmesh.schemas.work import AgentDescription, AgentParameter
from planmesh.streams import PINNED_GROUP
from planmesh.testing import MeshServer

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FAST_S = 10.0


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

    async def taken(self, goal: str, verb: str, count: int = 1) -> list[bytes]:
        """The commands for *goal*, once there are *count*."""
        subject = f"commands.tester.{goal}.{verb}.planner"
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
        answer = msgspec.json.decode(await self.admin_edge.request(f"$JS.API.CONSUMER.INFO.{GOALS}.planner"))
        return int(answer["num_pending"]) + int(answer["num_ack_pending"])

    async def _take(self, message: Message) -> None:
        async with self._arrived:
            self.commands.setdefault(message.subject, []).append(message.data)
            self._arrived.notify_all()


@pytest.fixture
async def bench(mesh_server: MeshServer) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        bench = Bench(mesh_server, stack)
        await bench.open()
        yield bench


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(FAST_S):
        while not await holds():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def planning(bench: Bench, directory: Directory | None = None) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(plan_goals(bench.core, bench.edge, stop, directory=directory))
        try:
            yield
        finally:
            stop.set()


with_echo = pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)


@with_echo
async def test_the_owner_of_a_space_asks_for_what_it_asks_for(bench: Bench) -> None:
    known = {"people": {"ada": {}}, "spaces": {"tester": {"owner": "person:ada"}, "other": {"owner": "person:ada"}}}
    async with planning(bench, Directory.model_validate(known)):
        await bench.submit("g1", {"plan": plan(text="hello")})

        assert (await bench.created("g1")).owners == ("ada",)


@with_echo
async def test_a_goal_becomes_a_command_and_is_acked(bench: Bench) -> None:
    async with planning(bench):
        await bench.submit("g1", {"plan": plan(text="hello"), "goal": "Say hello"}, traceparent=TRACEPARENT)

        command = await bench.created("g1")

    assert (command.goal, command.traceparent) == ("Say hello", TRACEPARENT)
    assert command.plan.steps[0].name == "say"

    async def acked() -> bool:
        return await bench.open_goals() == 0

    await until(acked)


@with_echo
async def test_whatever_cannot_become_a_plan_is_put_on_record(bench: Bench) -> None:
    deep = b'{"plan": ' + b"[" * 100 + b"]" * 100 + b"}"
    cyclic = {"name": "x", "steps": [{"name": "a", "kind": "gate", "after": ["a"]}]}
    async with planning(bench):
        await bench.submit("malformed", b"{")
        await bench.submit("unknown", {"plan": plan(), "x": 1})
        await bench.submit("deep", deep)
        await bench.submit("cyclic", {"plan": cyclic})
        await bench.submit("nobody", {"plan": plan("nobody")})
        await bench.submit("large", {"plan": {"name": "x", "goal": "y" * 5_000_000, "steps": []}})

        assert await bench.refused("malformed") == ["malformed"]
        assert await bench.refused("unknown") == ["unknown_field"]
        assert await bench.refused("deep") == ["too_deep"]
        assert await bench.refused("cyclic") == ["self_reference"]
        assert await bench.refused("nobody") == ["unknown_agent"]
        assert await bench.refused("large") == ["too_large"]


@with_echo
async def test_a_goal_that_is_published_again_gives_the_same_command(bench: Bench) -> None:
    async with planning(bench):
        for _ in range(2):
            await bench.submit("g1", {"plan": plan(text="hello")})
        first, second = await bench.taken("g1", "create", 2)

    assert first == second


@with_echo
async def test_an_agent_that_is_added_is_known_to_the_next_goal(bench: Bench) -> None:
    async with planning(bench):
        await bench.submit("before", {"plan": plan("late")})
        assert await bench.refused("before") == ["unknown_agent"]
        await bench.server.add_agent("late")
        await bench.submit("after", {"plan": plan("late", whatever=1)})

        assert (await bench.created("after")).plan.steps[0].name == "say"


@with_echo
async def test_a_plan_is_held_against_what_the_agent_said_of_itself(bench: Bench) -> None:
    await bench.describe(
        AgentDescription(
            name="echo",
            idempotent=True,
            permissions=Permissions(network=("example.com",)),
            parameters=(AgentParameter(name="text"),),
        )
    )
    async with planning(bench):
        await bench.submit("good", {"plan": plan(text="hello")})
        await bench.submit("bad", {"plan": plan(txt="hello")})

        (step,) = (await bench.created("good")).plan.steps
        assert (step.idempotent, step.permissions) == (True, Permissions(network=("example.com",)))  # type: ignore[union-attr]
        assert await bench.refused("bad") == ["unknown_input", "missing_input"]


@with_echo
async def test_a_large_plan_does_not_stop_the_small_ones(bench: Bench) -> None:
    steps = [
        {"name": f"s{n}", "kind": "task", "agent": "echo", "after": [f"s{n - 1}"] if n else []} for n in range(5_000)
    ]
    async with planning(bench):
        await bench.submit("large", {"plan": {"name": "Large", "steps": steps}})
        await bench.submit("small", {"plan": plan()})

        assert len((await bench.created("large")).plan.steps) == 5_000
        assert len((await bench.created("small")).plan.steps) == 1


@with_echo
async def test_a_goal_waits_until_the_command_can_be_stored(bench: Bench) -> None:
    full = {"name": COMMANDS, "subjects": ["commands.*.*.*.*"], "retention": "workqueue", "discard": "new"}
    original = msgspec.json.decode(await bench.admin.request(f"$JS.API.STREAM.INFO.{COMMANDS}"))["config"]
    await _update(bench, {**original, **full, "max_bytes": 10})
    async with planning(bench):
        await bench.submit("g1", {"plan": plan()})
        await asyncio.sleep(0.2)
        assert await bench.open_goals() == 1
        await _update(bench, {**original, "max_bytes": -1})

        assert (await bench.created("g1")).plan.name == "Demo"


async def _update(bench: Bench, config: dict[str, Any]) -> None:
    answer = msgspec.json.decode(
        await bench.admin.request(f"$JS.API.STREAM.UPDATE.{COMMANDS}", msgspec.json.encode(config))
    )
    assert "error" not in answer, answer


# --- the catalogue ---------------------------------------------------------------------------------------------


@with_echo
async def test_an_agent_without_a_worker_is_known_and_declares_nothing(bench: Bench) -> None:
    catalogue = Catalogue(bench.core)

    assert await catalogue.agents() == {"echo": undescribed("echo")}


@with_echo
async def test_the_catalogue_is_read_once_for_many_goals(bench: Bench) -> None:
    reads = 0
    await bench.admin.listen(f"$JS.API.CONSUMER.NAMES.{WORK}", lambda _message: count())

    def count() -> None:
        nonlocal reads
        reads += 1

    await bench.admin.flush()
    catalogue = Catalogue(bench.core, max_age_s=60.0)
    await asyncio.gather(*(catalogue.agents() for _ in range(50)))
    await catalogue.agents()
    await bench.server.add_agent("late")
    assert "late" not in await catalogue.agents()
    assert "late" in await catalogue.agents_now()
    assert "late" in await catalogue.agents()
    await bench.admin.flush()

    assert reads == 2


@with_echo
async def test_a_description_is_whose_subject_it_is_on_and_junk_is_none(bench: Bench) -> None:
    catalogue = Catalogue(bench.core, max_age_s=0.0)
    agent = await bench.connect("agent-echo")

    await agent.publish("catalogue.echo", encode(AgentDescription(name="admin", version="2")))
    assert await catalogue.agents() == {"echo": AgentDescription(name="echo", version="2")}
    await agent.publish("catalogue.echo", b"junk")
    assert await catalogue.agents() == {"echo": AgentDescription(name="echo", version="2")}
    await agent.publish("catalogue.echo", encode(AgentDescription(name="echo", version="3")))
    assert await catalogue.agents() == {"echo": AgentDescription(name="echo", version="3")}


@with_echo
async def test_who_has_a_description_but_no_consumer_is_not_part_of_the_mesh(bench: Bench) -> None:
    await bench.admin.publish("catalogue.ghost", encode(AgentDescription(name="ghost")))

    assert list(await Catalogue(bench.core).agents()) == ["echo"]


async def test_what_is_on_no_goals_subject_is_set_aside(bench: Bench) -> None:
    async with planning(bench):
        await bench.submit("a" * 65, {"plan": plan()})
        found: list[StoredMessage] = []

        async def set_aside() -> bool:
            found[:] = await bench.admin.direct_get(POISON, subject=f"poison.planner.{GOALS}")
            return bool(found)

        await until(set_aside)

    assert "expected a subject like goals.<space>.<goal>" in found[0].headers["Planmesh-Error"]
