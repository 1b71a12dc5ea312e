"""Services that publish goals: with the SDK, with a plain NATS client, and in another language."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import pytest_asyncio
from flows import EXAMPLES, TESTS, Flow, plan, task
from nats.aio.client import Client
from patience import eventually
from promises import expect_promises

from planmesh.poison import SetAside, read
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAN = plan(task("say", inputs={"value": "{what}"}), inputs={"what": {"type": "text"}})
FINAL = {"completed", "refused", "failed", "cancelled"}


class Plain:
    """A submitter that knows NATS and JSON, and nothing of ours."""

    def __init__(self, client: Client, space: str) -> None:
        self.client = client
        self.space = space
        self.refused: list[str] = []

    async def publish(self, goal: str, payload: bytes) -> dict[str, Any]:
        """What the server says."""
        answer = await self.client.request(f"goals.{self.space}.{goal}", payload, timeout=5)
        said: dict[str, Any] = json.loads(answer.data)
        return said

    async def outcomes(self, goal: str, payload: object) -> list[dict[str, Any]]:
        """Publish a goal, and hear what becomes of it until a final word."""
        heard: list[dict[str, Any]] = []
        news = await self.client.subscribe(f"outcomes.{self.space}.{goal}")
        stored = await self.publish(goal, json.dumps(payload).encode())
        assert stored["stream"] == f"GOALS-{self.space}"
        while not heard or heard[-1]["outcome"] not in FINAL:
            heard.append(json.loads((await news.next_msg(timeout=10)).data))
        await news.unsubscribe()
        return heard


@pytest_asyncio.fixture(loop_scope="session")
async def shop(flow: Flow) -> AsyncIterator[Plain]:
    await flow.mesh.mesh.add_submitter("shop")
    async with plain(flow, "shop") as client:
        yield client


@contextlib.asynccontextmanager
async def plain(flow: Flow, space: str) -> AsyncIterator[Plain]:
    who = flow.credentials(f"submitter-{space}")
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        who.server,
        user=who.user,
        password=who.password,
        inbox_prefix=f"_INBOX.{who.user}",
        error_cb=on_error,
        allow_reconnect=False,
    )
    found = Plain(client, space)
    found.refused = refused
    try:
        yield found
    finally:
        await client.close()


# --- plain NATS --------------------------------------------------------------------------------------------


async def test_a_goal_published_as_json_becomes_a_plan_and_its_outcome_is_heard(flow: Flow, shop: Plain) -> None:
    heard = await shop.outcomes("order-1", {"plan": PLAN, "inputs": {"what": "hello"}, "goal": "Say hello"})

    assert [one["outcome"] for one in heard] == ["accepted", "completed"]
    assert {(one["space"], one["goal"]) for one in heard} == {("shop", "order-1")}
    assert (heard[0]["name"], heard[0]["steps"]) == ("A plan", 1)
    assert heard[1]["result"]["value"] == {"say": "hello"}
    state, _ = await expect_promises(flow.operator, Address("shop", "order-1"))
    assert state.requester == "shop"


async def test_a_goal_that_cannot_become_a_plan_is_refused_with_its_problems(flow: Flow, shop: Plain) -> None:
    wrong = plan(task("say", agent="ecko", after="x"))

    (refused,) = await shop.outcomes("order-2", {"plan": wrong})

    assert refused["outcome"] == "refused"
    assert [(one["code"], one["pointer"]) for one in refused["problems"]] == [
        ("wrong_type", "/steps/0/after"),
        ("unknown_agent", "/steps/0/agent"),
    ]
    assert refused["problems"][1]["hint"].startswith("did you mean echo?")
    state, _ = await expect_promises(flow.operator, Address("shop", "order-2"))
    assert state.status is PlanStatus.REFUSED


async def test_the_same_goal_twice_is_one_plan_and_another_under_its_id_is_refused(flow: Flow, shop: Plain) -> None:
    goal = {"plan": PLAN, "inputs": {"what": "once"}}
    await shop.outcomes("order-3", goal)
    _, commits = await expect_promises(flow.operator, Address("shop", "order-3"))

    again = await shop.outcomes("order-3", goal)
    heard = await shop.outcomes("order-3", {**goal, "inputs": {"what": "other"}})

    assert [one["outcome"] for one in again] == ["completed"]
    assert [one["outcome"] for one in heard] == ["refused"]
    (problem,) = heard[0]["problems"]
    assert problem["code"] == "goal_id_taken"
    assert problem["message"] == (
        "goal 'order-3' is already a plan with other content; publish this one under another id"
    )
    state, after = await expect_promises(flow.operator, Address("shop", "order-3"))
    assert (state.status, state.result.value) == (PlanStatus.COMPLETED, {"say": "once"})
    assert len(after) == len(commits) + 1


async def test_news_wait_for_a_submitter_that_was_away(flow: Flow, shop: Plain) -> None:
    await flow.mesh.mesh.add_submitter("night")
    async with plain(flow, "night") as night:
        await night.publish("late-1", json.dumps({"plan": PLAN, "inputs": {"what": "x"}}).encode())
    await flow.until(Address("night", "late-1"), lambda state: state.ended_at)

    async with plain(flow, "night") as night:
        pulled = await night.client.jetstream().pull_subscribe_bind("submitter-night", "OUTCOMES")
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["outcome"] not in FINAL:
            (message,) = await pulled.fetch(1, timeout=5)
            heard.append(json.loads(message.data))
            await message.ack()

    assert [one["outcome"] for one in heard] == ["accepted", "completed"]


@pytest.mark.parametrize(
    "goal",
    ["a=b", "$JS", "é", "a\u202eb", "a\x01b", "x" * 65, "x" * 1_000, "*", ">", "a/b"],
    ids=lambda goal: ascii(goal)[:10],
)
async def test_a_goal_under_an_id_that_no_plan_can_have_is_set_aside_with_the_rule(
    flow: Flow, shop: Plain, goal: str
) -> None:
    stored = await shop.publish(goal, json.dumps({"plan": PLAN, "inputs": {"what": "x"}}).encode())

    found = await eventually(lambda: set_aside(flow, stored["seq"]))
    assert (found.service, found.stream) == ("planner", "GOALS-shop")
    assert "expected a subject like goals.<space>.<goal>, found" in found.error
    heard = await shop.outcomes(f"after-{stored['seq']}", {"plan": PLAN, "inputs": {"what": "x"}})
    assert heard[-1]["outcome"] == "completed"


async def set_aside(flow: Flow, sequence: int) -> SetAside | None:
    async for one in read(flow.operator.connection):
        if one.sequence == sequence:
            return one
    return None


async def test_a_subject_that_is_longer_than_any_ends_no_connection_but_its_own(flow: Flow, shop: Plain) -> None:
    async with plain(flow, "shop") as hostile:
        await hostile.client.publish(f"goals.shop.{'x' * 5_000}", b"{}")
        await eventually(lambda: hostile.client.is_closed)

    heard = await shop.outcomes("order-4", {"plan": PLAN, "inputs": {"what": "x"}})
    assert heard[-1]["outcome"] == "completed"


async def test_a_goal_in_somebody_elses_space_is_forbidden(flow: Flow, shop: Plain) -> None:
    await shop.client.publish("goals.night.order-1", json.dumps({"plan": PLAN}).encode())
    await shop.client.flush()

    await eventually(lambda: shop.refused)
    assert shop.refused == ['nats: permissions violation for publish to "goals.night.order-1"']
    assert not (await flow.operator.state(Address("night", "order-1"))).exists


# --- the examples of the README ----------------------------------------------------------------------------


async def test_the_python_example_publishes_a_goal_and_hears_its_outcome(flow: Flow, shop: Plain) -> None:
    credentials = flow.mesh.mesh.credentials / "submitter-shop.toml"

    lines = await run_example(flow, EXAMPLES, sys.executable, EXAMPLES / "publish_goal.py", credentials)

    assert lines[1].startswith("Accepted(")
    assert lines[-1] == "{'send': {'sent': 'Hello, Ada!'}}"


async def test_a_service_answers_what_plans_ask_it(flow: Flow, shop: Plain) -> None:
    await flow.mesh.mesh.add_submitter("billing")
    credentials = flow.mesh.mesh.credentials / "submitter-billing.toml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / "answer_questions.py", credentials),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"service:billing is there to be asked\n"
            asked = {"kind": "ask", "name": "ok", "type": "boolean", "reviewers": ["service:billing"], "prompt": "OK?"}
            gate = {"kind": "gate", "name": "pay", "reviewers": ["service:billing"], "after": ["ok"]}
            end = {"kind": "emit", "name": "end", "outcome": "Paid", "result": "{ok.provided_by}", "after": ["pay"]}
            heard = await shop.outcomes("order-9", {"plan": {"name": "Pay", "steps": [asked, gate, end]}})
            lines = [await process.stdout.readline() for _ in range(4)]
    finally:
        process.kill()
        await process.wait()

    assert heard[-1]["result"]["value"] == "service:billing"
    assert lines == [
        b"ok of order-9: OK?\n",
        b"ok of order-9 is answered by service:billing\n",
        b"pay of order-9: \n",
        b"pay of order-9 is approved by service:billing\n",
    ]


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="there is no node here, or no npm")
async def test_the_javascript_example_publishes_a_goal_and_hears_its_outcome(
    flow: Flow, shop: Plain, tmp_path: Path
) -> None:
    # Node looks for packages beside the script.
    for file in (EXAMPLES / "publish-goal.mjs", EXAMPLES / "hello.yaml", *(TESTS / "flows" / "javascript").iterdir()):
        shutil.copy(file, tmp_path)
    installing = await asyncio.create_subprocess_exec(
        *("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"), cwd=tmp_path
    )
    assert await asyncio.wait_for(installing.wait(), 60) == 0
    credentials = flow.mesh.mesh.credentials / "submitter-shop.toml"

    lines = await run_example(flow, tmp_path, "node", "publish-goal.mjs", credentials)

    heard = [json.loads(line) for line in lines[1:]]
    assert [one["outcome"] for one in heard] == ["accepted", "waiting", "resumed", "completed"]
    assert heard[-1]["result"]["value"] == {"send": {"sent": "Hello, Ada!"}}


async def run_example(flow: Flow, directory: Path, *words: str | Path) -> list[str]:
    """Run it until it ends well, and approve what it waits for. Returns: its lines."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            first = (await process.stdout.readline()).decode().rstrip()
            found = re.fullmatch(r"published (\w+)\.([\w-]+)", first)
            assert found is not None
            await flow.approve(Address(*found.groups()))
            rest = (await process.stdout.read()).decode().splitlines()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return [first, *rest]
