"""Whatever is killed in the middle of a plan: the plan goes on, and every promise is kept."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from flows import Flow, insist, plan, running_flow, task
from patience import eventually
from promises import expect_promises
from receivers import WebReceiver, web_receiver

from planmesh.schemas.commands import ResolveStep
from planmesh.schemas.events import NoticeSent, StepDispatched
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import StepStatus
from planmesh.steering import new_command_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINKS = 40
PLAN = plan(
    task("first", inputs={"value": 1}),
    # Two branches that are held, one of which ends with a large output;
    task("left", "first", agent="hold"),
    task("right", "first", agent="hold", inputs={"size": 100_000}),
    # a chain, somewhere in which the kill strikes;
    *(task(f"c{n}", f"c{n - 1}" if n else "first") for n in range(LINKS)),
    # and a gate that is open, with two steps behind it.
    {"kind": "gate", "name": "ask", "after": ["first"], "prompt": "May it go on?"},
    task("behind", "ask"),
    task("further", "behind"),
    {
        "kind": "emit",
        "name": "end",
        "after": ["left", "right", f"c{LINKS - 1}", "further"],
        "outcome": "Done",
        "result": {"first": "{first}"},
    },
)


@pytest.fixture(scope="module")
def chat() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def flow(tmp_path_factory: pytest.TempPathFactory, chat: WebReceiver) -> AsyncIterator[Flow]:
    environment = {"PLANMESH_NOTIFY_URLS": f"json://{chat.at}"}
    async with running_flow(tmp_path_factory.mktemp("crashes"), environment=environment) as running:
        yield running


def kill(flow: Flow, victim: str) -> None:
    if victim == "nats-server":
        assert flow.mesh.server is not None
        os.kill(flow.mesh.server.pid, signal.SIGKILL)
    else:
        flow.mesh.children[victim].kill()


@pytest.mark.parametrize("victim", ["planner", "executor", "worker", "gatekeeper", "auditor", "nats-server"])
async def test_a_plan_goes_on_when_something_is_killed(flow: Flow, victim: str) -> None:
    await flow.ready()
    submitted = await flow.client.submit(PLAN, id=f"killed-{victim}")
    address = submitted.address
    await flow.until_begun(address, "left", "right")

    kill(flow, victim)

    # What is asked meanwhile is not lost either: another plan, a decision, two results.
    other = await insist(lambda: flow.client.submit(plan(task("only")), id=f"during-{victim}"))
    flow.let_go(address, "left", "right")
    await flow.approve(address)
    state = await flow.until(address, lambda state: state.ended_at)
    assert (state.status, state.outcome, state.result.value) == ("completed", "Done", {"first": 1})
    assert {step.attempt for step in state.steps.values()} <= {0, 1}
    assert (await flow.until(other.address, lambda state: state.ended_at)).status == "completed"

    state, commits = await expect_promises(flow.operator, address)
    await expect_promises(flow.operator, other.address)
    happened = [event for commit in commits for event in commit.events]
    dispatched = [event.step for event in happened if isinstance(event, StepDispatched)]
    assert len(dispatched) == len(set(dispatched)) == LINKS + 5


async def test_people_hear_of_a_gate_although_the_gatekeeper_was_killed(flow: Flow, chat: WebReceiver) -> None:
    await flow.ready()
    flow.mesh.children["gatekeeper"].kill()

    submitted = await insist(lambda: flow.client.submit(plan({"kind": "gate", "name": "ask"}), id="told"))

    sent: list[NoticeSent] = []
    async with asyncio.timeout(30), flow.watch(submitted.address) as changes:
        async for _, commit in changes:
            sent += [event for event in commit.events if isinstance(event, NoticeSent)]
            if sent:
                break
    assert [(one.notice, one.delivered) for one in sent] == [("opened", True)]
    assert any("told" in json.dumps(body) for _, body in chat.posts)


async def test_a_gate_becomes_overdue_and_is_escalated_although_everything_was_killed(
    flow: Flow, chat: WebReceiver
) -> None:
    await flow.ready()
    gate = {"kind": "gate", "name": "ask", "sla_s": 2, "escalate": [{"after_s": 3, "to": ["person:boss"]}]}
    submitted = await flow.client.submit(plan(gate, task("behind", "ask")), id="late")
    address = submitted.address
    await flow.until(address, lambda state: state.steps["ask"].opened)

    for victim in ("gatekeeper", "executor", "planner", "auditor", "nats-server"):
        kill(flow, victim)

    state = await flow.until(address, lambda state: state.steps["ask"].overdue and state.steps["ask"].also)
    assert (state.steps["ask"].status, state.steps["behind"].status) == ("waiting", "pending")
    assert state.steps["ask"].also == ("person:boss",)
    # The latest news counts: a reminder that the escalation has overtaken is not sent any more.
    await eventually(lambda: any("Others are asked as well: ask" in subject for subject in chat.subjects), 30)
    await flow.approve(address)
    assert (await flow.until(address, lambda state: state.ended_at)).status == "completed"
    await expect_promises(flow.operator, address)


async def test_a_step_that_may_run_only_once_waits_for_a_person_when_its_worker_is_killed(flow: Flow) -> None:
    await flow.ready()
    submitted = await flow.client.submit(plan(task("pay", agent="pay", retry={"attempts": 3}), task("after", "pay")))
    address = submitted.address
    await flow.until_begun(address, "pay")

    flow.mesh.children["worker"].kill()

    state = await flow.until(address, lambda state: state.status == "paused")
    assert state.steps["pay"].status is StepStatus.OUTCOME_UNKNOWN
    assert flow.begun()[f"{address}.pay.1"] == 1
    resolve = ResolveStep(id=new_command_id(), step="pay", attempt=1, done=True, output=Payload(value="paid"))
    await flow.command(address, resolve)
    state = await flow.until(address, lambda state: state.ended_at)
    assert (state.status, state.steps["pay"].output.value) == ("completed", "paid")
    await expect_promises(flow.operator, address)
