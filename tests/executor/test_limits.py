"""A plan hands out what its agents can begin, and hardly more: the rest would stand in front of other plans."""

import asyncio
import gc

import pytest
from plays import Play, plan, task

from planmesh.connection import connect
from planmesh.executor.limits import AgentLimits
from planmesh.schemas.plan import Task
from planmesh.testing import MeshServer


def test_a_plan_hands_out_hardly_more_than_an_agent_can_run() -> None:
    play = Play(plan(*(task(f"t{number}") for number in range(40))), agent_limits={"agent": 8})

    assert len(play.in_status("dispatched")) == 10  # two wait with the agent, so that it is never idle
    play.completes("t0")
    assert play.in_status("dispatched")[-1] == "t10"


def test_an_agent_that_can_run_one_at_a_time_has_the_next_one_at_hand() -> None:
    play = Play(plan(task("a"), task("b"), task("c")), agent_limits={"agent": 1})

    assert play.in_status("dispatched") == ["a", "b"]


def test_steps_of_other_agents_go_past_those_that_have_no_room() -> None:
    other = (Task(name=f"o{number}", agent="other") for number in range(3))
    play = Play(plan(*(task(f"t{number}") for number in range(5)), *other), agent_limits={"agent": 1})

    assert play.in_status("dispatched") == ["t0", "t1", "o0", "o1", "o2"]


def test_the_plan_itself_may_allow_less() -> None:
    play = Play(plan(*(task(f"t{number}") for number in range(5)), concurrency=1), agent_limits={"agent": 8})

    assert play.in_status("dispatched") == ["t0"]


def test_who_has_given_back_a_step_has_room_again() -> None:
    play = Play(plan(*(task(f"t{number}") for number in range(4))), agent_limits={"agent": 1})

    play.loses("t0")
    play.fails("t1", retryable=False)

    assert play.in_status("dispatched") == ["t2", "t3"]
    assert dict(play.state.in_hand) == {"agent": 2}


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_a_limit_is_what_the_consumer_says_and_is_read_again(mesh_server: MeshServer) -> None:
    await mesh_server.add_agent("slow", concurrency=3)
    who = mesh_server.credentials("executor")
    async with await connect(who.server, who.user, who.password, name="test") as core, asyncio.timeout(10):
        limits = AgentLimits(core, max_age_s=0.05)

        limits.notice(["slow", "nobody"])
        while limits.known != {"slow": 3}:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)

        await mesh_server.add_agent("slow", concurrency=5)
        while limits.known != {"slow": 5}:
            await asyncio.sleep(0.01)
            limits.notice(["slow"])


async def test_what_no_agent_works_on_asks_for_no_limit(mesh_server: MeshServer) -> None:
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
    who = mesh_server.credentials("executor")
    async with await connect(who.server, who.user, who.password, name="test") as core, asyncio.timeout(10):
        limits = AgentLimits(core)

        limits.notice([""])
        while limits._tasks:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    gc.collect()

    assert said == []
