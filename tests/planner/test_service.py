"""Goals from a real server become commands on it."""

import asyncio
from typing import Any

import msgspec
import pytest
from planners import Bench, plan, planning, until

from planmesh.connection import StoredMessage
from planmesh.directory import Directory
from planmesh.planner.catalogue import Catalogue, undescribed
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.plan import Permissions
from planmesh.schemas.subjects import COMMANDS, PLANS, POISON, WORK, goal_stream
from planmesh.schemas.work import AgentDescription, AgentParameter, RunWork

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


with_echo = pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)


@with_echo
async def test_the_owner_of_a_space_asks_for_what_it_asks_for(bench: Bench) -> None:
    known = {"people": {"ada": {}}, "spaces": {"tester": {"owner": "person:ada"}, "other": {"owner": "person:ada"}}}
    async with planning(bench, Directory.model_validate(known)):
        await bench.submit("g1", {"plan": plan(text="hello")})

        assert (await bench.created("g1")).owners == ("ada",)


@with_echo
async def test_whoever_owns_the_space_owns_the_plans_that_run_for_its_plans(bench: Bench) -> None:
    known = {"people": {"ada": {}}, "spaces": {"tester": {"owner": "person:ada"}}}
    work = RunWork(
        space="tester", plan="above", step="run", attempt=1, child="below", depth=1, document=plan(text="hello")
    )
    async with planning(bench, Directory.model_validate(known)):
        executor = await bench.connect("executor")
        await executor.publish(subjects.step_planning(work.address, work.step), encode(work))

        assert (await bench.created("below")).owners == ("ada",)


@with_echo
async def test_whoever_waits_for_a_plan_that_grows_too_large_hears_of_it(bench: Bench) -> None:
    await bench.describe(
        AgentDescription(name="echo", any_parameters=True, permissions=Permissions(read=("/" + "x" * 180,) * 100))
    )
    steps = [{"name": f"s{number}", "kind": "task", "agent": "echo"} for number in range(600)]
    work = RunWork(
        space="tester",
        plan="above",
        step="run",
        attempt=1,
        child="below",
        depth=1,
        document={"name": "x", "steps": steps},
    )
    async with planning(bench):
        executor = await bench.connect("executor")
        await executor.publish(subjects.step_planning(work.address, work.step), encode(work))

        assert await bench.refused("below") == ["too_large"]


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
async def test_a_description_is_whose_subject_it_is_on_and_after_junk_there_is_none(bench: Bench) -> None:
    catalogue = Catalogue(bench.core, max_age_s=0.0)
    agent = await bench.connect("agent-echo")

    await agent.publish("catalogue.echo", encode(AgentDescription(name="admin", version="2")))
    assert await catalogue.agents() == {"echo": AgentDescription(name="echo", version="2")}
    await agent.publish("catalogue.echo", b"junk")
    # What it said before holds no longer, whatever it says now.
    assert await catalogue.agents() == {"echo": undescribed("echo")}
    await agent.publish("catalogue.echo", encode(AgentDescription(name="echo", version="3")))
    assert await catalogue.agents() == {"echo": AgentDescription(name="echo", version="3")}


@with_echo
async def test_who_has_a_description_but_no_consumer_is_not_part_of_the_mesh(bench: Bench) -> None:
    await bench.admin.publish("catalogue.ghost", encode(AgentDescription(name="ghost")))

    assert list(await Catalogue(bench.core).agents()) == ["echo"]


@with_echo
async def test_the_goals_of_one_are_not_behind_all_the_goals_of_another(bench: Bench) -> None:
    await bench.server.add_submitter("other")
    other = await bench.connect("submitter-other")
    flood = [bench.submit(f"flood-{number}", {"plan": plan(text="x" * 50_000)}) for number in range(400)]
    await asyncio.gather(*flood)
    await other.publish("goals.other.g", msgspec.json.encode({"plan": plan(text="hello")}))

    async with planning(bench):
        await bench.taken("g", "create", space="other")

        assert await bench.open_goals() > 200


@with_echo
async def test_goals_are_answered_of_a_submitter_that_is_made_while_the_planner_runs(bench: Bench) -> None:
    async with planning(bench):
        await bench.submit("g", {"plan": plan(text="hello")})
        await bench.created("g")
        await bench.server.add_submitter("late")
        late = await bench.connect("submitter-late")
        await late.publish("goals.late.g", msgspec.json.encode({"plan": plan(text="hello")}))

        await bench.taken("g", "create", space="late")


@with_echo
async def test_goals_wait_while_what_is_left_of_the_log_is_for_plans_that_there_are(bench: Bench) -> None:
    await bench.server.mesh.prepare(max_bytes={PLANS: 1_000_000})
    executor = await bench.connect("executor")
    await executor.publish("plans.s.p", bytes(920_000))
    async with planning(bench):
        await bench.submit("g", {"plan": plan(text="hello")})

        async def has_come_back() -> bool:
            asked = f"$JS.API.CONSUMER.INFO.{goal_stream('tester')}.planner"
            return bool(msgspec.json.decode(await bench.admin_edge.request(asked))["num_redelivered"])

        await until(has_come_back)
        assert not bench.commands
        await executor.publish("plans.s.p", b"a line of a plan that goes on")

        await bench.server.mesh.prepare(max_bytes={PLANS: 2_000_000})

        await bench.created("g")


async def test_what_is_on_no_goals_subject_is_set_aside(bench: Bench) -> None:
    async with planning(bench):
        await bench.submit("a" * 65, {"plan": plan()})
        found: list[StoredMessage] = []

        async def set_aside() -> bool:
            found[:] = await bench.admin.direct_get(POISON, subject=f"poison.planner.{goal_stream('tester')}")
            return bool(found)

        await until(set_aside)

    assert "expected a subject like goals.<space>.<goal>" in found[0].headers["Planmesh-Error"]
