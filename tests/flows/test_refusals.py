"""Whatever is published as a goal becomes a plan, or a record of why not; and nobody dies of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from flows import Flow, plan, task
from promises import expect_promises

from planmesh.client import PlanRefused, Submitted
from planmesh.schemas import codec, goals, subjects
from planmesh.schemas.state import PlanStatus

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUMBERS = count(1)
LONG = "x" * 5_000


def goal(*steps: Any, **fields: Any) -> bytes:
    return json.dumps({"plan": plan(*steps), **fields}).encode()


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def hostile(name: str) -> Any:
    return goal(task(name, agent=name), task("b", name))


CASES: dict[str, tuple[bytes, set[tuple[str, str]], str]] = {
    "no-json": (
        b'{"plan": ',
        {("malformed", "")},
        "expected a goal: an object with `goal`, `plan` or `template`, in JSON",
    ),
    "no-text": (b"\xff\xfe", {("malformed", "")}, "in JSON"),
    "empty": (b"", {("malformed", "")}, "in JSON"),
    "no-yaml": (json.dumps({"plan": "name: x\nsteps: [1, 2\nb: }"}).encode(), {("malformed", "")}, "line 3, column 2"),
    "unknown-fields": (
        json.dumps({"plan": plan(task("a", colour="red"), size=1), "gaol": 1}).encode(),
        {("unknown_field", "/gaol"), ("unknown_field", "/size"), ("unknown_field", "/steps/0/colour")},
        "there is no field 'colour'",
    ),
    "unknown-versions": (
        json.dumps({"plan": {**plan(task("a")), "version": 7}, "version": 2}).encode(),
        {("unknown_version", "/version")},
        "reads version 1 of a plan; found the number 7",
    ),
    "deep-goal": (goal(task("a", inputs={"value": nested(40)})), {("too_deep", "")}, "nested 32 deep"),
    "deep-plan": (
        json.dumps({"plan": f"name: x\nsteps: {json.dumps(nested(40))}"}).encode(),
        {("too_deep", "")},
        "this one is deeper (line 2",
    ),
    "large": (
        goal(task("a", inputs={"value": "x" * (5 * 1024 * 1024)})),
        {("too_large", "")},
        "at most 4,194,304 bytes",
    ),
    "large-text": (
        json.dumps({"plan": "name: x\nsteps: []\n#" + "x" * (5 * 1024 * 1024)}).encode(),
        {("too_large", "")},
        "at most 4,194,304 bytes",
    ),
    "many": (goal(*(task(f"s{n}") for n in range(10_001))), {("too_many_steps", "/steps")}, "this one has 10,001"),
    "cycle": (goal(task("a", "c"), task("b", "a"), task("c", "b")), {("cycle", "/steps/0/after/0")}, "a → c → b → a"),
    "unknown-agent": (goal(task("a", agent="ecko")), {("unknown_agent", "/steps/0/agent")}, "'ecko'"),
    "duplicate": (goal(task("a"), task("a")), {("duplicate_name", "/steps/1/name")}, "step 0 is already called 'a'"),
    **{
        f"name {ascii(name)[:12]}": (
            hostile(name),
            {("invalid_value", f"/steps/{place}") for place in ("0/name", "0/agent", "1/after/0")},
            "a-z 0-9 first, then also _ and -; 63 at most",
        )
        for name in ("a.b", "*", ">", "a b", "a\tb", "a\x00b", "a\nb", "a\u202eb", "\u200b", LONG, "")
    },
}


@pytest.mark.parametrize("case", CASES)
async def test_what_cannot_become_a_plan_is_a_record_that_names_the_rule_and_the_place(flow: Flow, case: str) -> None:
    data, wrong, said = CASES[case]
    address = subjects.address(flow.client.space, f"bad-{next(NUMBERS)}")
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    connection = flow.client.connection
    interest = await connection.listen(subjects.outcome(address), lambda message: heard.put_nowait(message.data))

    await connection.publish(subjects.goal(address), data)

    outcome = codec.outcome.decode(await asyncio.wait_for(heard.get(), 20))
    await connection.unlisten(interest)
    assert isinstance(outcome, goals.Refused)
    assert wrong <= {(problem.code, problem.pointer) for problem in outcome.problems}
    assert any(said in problem.message for problem in outcome.problems)
    assert all(len(problem.message) < 500 and problem.message.isprintable() for problem in outcome.problems)
    state, _ = await expect_promises(flow.operator, address)
    assert state.status is PlanStatus.REFUSED
    assert state.refused is not None
    assert state.refused.problems == outcome.problems


async def test_a_goal_that_was_refused_may_be_published_again_by_its_id(flow: Flow) -> None:
    refused = await flow.client.submit(plan(task("a", agent="ecko")), id="mended")
    with pytest.raises(PlanRefused):
        await refused.result(30)
    same = await flow.client.submit(plan(task("a", agent="ecko")), id="mended")
    with pytest.raises(PlanRefused):
        await same.result(30)

    submitted = await flow.client.submit(plan(task("a")), id="mended")
    await submitted.result(30)

    state, _ = await expect_promises(flow.operator, submitted.address)
    assert [kind async for kind in kinds_of(flow, submitted)][:2] == ["PlanRefused", "PlanCreated"]
    watched = [state.status async for state, _ in flow.operator.watch(submitted.address)]
    assert (watched[0], watched[-1], state.status) == ("refused", "completed", "completed")


async def kinds_of(flow: Flow, submitted: Submitted) -> AsyncIterator[str]:
    async for line in flow.operator.lines(submitted.address):
        for event in line.commit.events:
            yield type(event).__name__
