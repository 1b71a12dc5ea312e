"""One plan of five thousand steps, and plans of three, with the same agent."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from flows import Flow, plan, running_flow, task

pytestmark = pytest.mark.xdist_group("flows-fairness")

STEPS = 5_000
AGENTS_ROOM = 10
NAP_S = 0.02
BIG = plan(task("first"), *(task(f"m{number}", "first", agent="nap") for number in range(STEPS)))
SMALL = plan(task("a", agent="nap"), task("b", "a", agent="nap"), task("c", "b", agent="nap"))


async def took_s(flow: Flow, document: dict[str, Any]) -> float:
    began = time.perf_counter()
    await (await flow.client.submit(document)).result(60)
    return time.perf_counter() - began


async def test_a_plan_of_five_thousand_steps_does_not_starve_a_plan_of_three(tmp_path: Path) -> None:
    """Alone, a small plan takes three naps. If the large plan's steps all stood in front of it, each of its steps
    would wait for a hundred of them, ten at a time: thirty naps more."""
    environment = {"FLOW_NAP_S": str(NAP_S)}
    async with running_flow(tmp_path, environment=environment, agent_concurrency=AGENTS_ROOM) as flow:
        alone = statistics.median([await took_s(flow, SMALL) for _ in range(5)])

        large = await flow.client.submit(BIG, id="large")
        running = asyncio.create_task(large.result(120))
        await flow.until(large.address, lambda state: state.number > 20)
        beside = [await took_s(flow, SMALL) for _ in range(7)]

        assert not running.done(), "the large plan was over before it could be in anybody's way"
        running.cancel()
        state = await flow.operator.state(large.address)
        assert max(state.in_hand.values()) <= AGENTS_ROOM + AGENTS_ROOM // 4
        assert state.running > 0
        assert statistics.median(beside) < alone + 15 * NAP_S, f"alone {alone:.3f} s, beside {beside}"
