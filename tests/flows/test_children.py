"""Plans that run for a step, and steps that are there once for every item, with real processes."""

from typing import Any

import pytest
from flows import Flow, plan, task
from promises import expect_promises

from planmesh.client import PlanCancelled
from planmesh.schemas.commands import CancelPlan, PausePlan, ResumePlan
from planmesh.schemas.state import PlanState, PlanStatus, StepStatus, open_gates
from planmesh.schemas.subjects import Address
from planmesh.steering import RevisionRefused

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.asyncio(loop_scope="session")]


def parent(child: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A plan whose first step gives a plan, and whose second step runs it."""
    return plan(
        task("mission", inputs={"value": child}),
        {"kind": "run", "name": "execute", "document": "mission", **fields},
        task("report", "execute", inputs={"value": "{execute.result}"}),
    )


async def child_of(flow: Flow, address: Address) -> Address:
    state = await flow.until(address, lambda state: state.steps["execute"].child)
    return Address(address.space, state.steps["execute"].child)


async def ended(flow: Flow, address: Address) -> PlanState:
    state = await flow.until(address, lambda state: state.ended_at)
    await expect_promises(flow.operator, address)
    return state


async def test_a_plan_runs_for_a_step_with_a_record_of_its_own(flow: Flow) -> None:
    inner = plan(
        task("greet", inputs={"value": "hello {{name}}"}),
        {"kind": "gate", "name": "look", "after": ["greet"]},
        {"kind": "emit", "name": "end", "after": ["look"], "outcome": "Greeted", "result": "{{greet}}"},
        inputs={"name": {"type": "text"}},
    )
    submitted = await flow.client.submit(parent(inner, inputs={"name": "ada"}))
    child = await child_of(flow, submitted.address)

    await flow.until(submitted.address, lambda state: state.status is PlanStatus.WAITING)
    await flow.approve(child)
    state = await ended(flow, submitted.address)

    assert state.steps["report"].output.value == "hello ada"
    assert state.steps["execute"].output.value == {
        "plan": child.plan,
        "status": "completed",
        "outcome": "Greeted",
        "result": "hello ada",
    }
    inside = await ended(flow, child)
    assert inside.parent is not None
    assert (inside.parent.plan, inside.parent.step) == (submitted.address.plan, "execute")


async def test_what_cannot_be_a_plan_is_refused_with_a_record_and_fails_the_step(flow: Flow) -> None:
    submitted = await flow.client.submit(parent(plan(task("a", agent="nobody"))))
    child = await child_of(flow, submitted.address)

    state = await flow.until(submitted.address, lambda state: state.status is PlanStatus.PAUSED)

    failure = state.steps["execute"].failure
    assert failure is not None
    assert failure.code == "child_refused"
    assert "nobody" in failure.message
    assert (await flow.operator.state(child)).status is PlanStatus.REFUSED


async def test_a_plan_may_do_no_more_than_the_step_that_runs_it(flow: Flow) -> None:
    inner = plan(task("a", permissions={"network": ["example.com"]}))
    submitted = await flow.client.submit(parent(inner, permissions={"read": ["/data"]}))

    state = await flow.until(submitted.address, lambda state: state.status is PlanStatus.PAUSED)

    failure = state.steps["execute"].failure
    assert failure is not None
    assert "is permitted network example.com" in failure.message


async def test_in_mode_safe_what_reaches_out_stands_behind_a_gate(flow: Flow) -> None:
    reaching = task("a", permissions={"network": ["example.com"]})
    refused = await flow.client.submit(parent(plan(reaching), mode="safe"))
    guarded = plan({"kind": "gate", "name": "look"}, {**reaching, "after": ["look"]})
    allowed = await flow.client.submit(parent(guarded, mode="safe"))

    state = await flow.until(refused.address, lambda state: state.status is PlanStatus.PAUSED)
    failure = state.steps["execute"].failure
    assert failure is not None
    assert "no gate stands before it" in failure.message
    await flow.approve(await child_of(flow, allowed.address))
    assert (await ended(flow, allowed.address)).status is PlanStatus.COMPLETED


async def test_nor_does_anybody_revise_it_to_do_more(flow: Flow) -> None:
    first = task("first", agent="hold", permissions={"read": ["/data"]})
    reads = {"read": ["/data"]}
    submitted = await flow.client.submit(parent(plan(first, task("a", "first", permissions={})), permissions=reads))
    child = await child_of(flow, submitted.address)
    await flow.until_begun(child, "first")

    wide = task("a", "first", permissions={"read": ["/data", "/etc"]})
    with pytest.raises(RevisionRefused, match=r"step a is permitted read /etc; step execute of plan") as refused:
        await flow.operator.revise(child, {"steps": [first, wide]})
    await flow.operator.revise(child, {"steps": [first, {**wide, "permissions": reads}]})

    assert [problem.code for problem in refused.value.problems] == ["exceeds_permissions"]
    flow.let_go(child, "first")
    assert (await ended(flow, child)).status is PlanStatus.COMPLETED


async def test_a_gate_that_has_let_it_go_asks_again_in_it_about_what_is_revised(flow: Flow) -> None:
    first = task("first", agent="hold")
    steps = parent(plan(first, task("a", "first", inputs={"value": 1})))["steps"]
    gated = [steps[0], {"kind": "gate", "name": "look", "after": ["mission"]}, {**steps[1], "after": ["look"]}]
    submitted = await flow.client.submit(plan(*gated))
    await flow.approve(submitted.address)
    child = await child_of(flow, submitted.address)
    await flow.until_begun(child, "first")

    await flow.operator.revise(child, {"steps": [first, task("a", "first", inputs={"value": 2})]})
    flow.let_go(child, "first")
    waiting = await flow.until(child, lambda state: state.status is PlanStatus.WAITING)
    assert open_gates(waiting) == ["approve-revision"]
    assert waiting.steps["a"].attempt == 0
    await flow.approve(child)

    assert (await ended(flow, child)).steps["a"].output.value == 2
    assert (await ended(flow, submitted.address)).status is PlanStatus.COMPLETED


async def test_pause_resume_and_cancel_reach_the_plan_that_runs(flow: Flow) -> None:
    inner = plan(task("held", agent="hold"), task("behind", "held"))
    submitted = await flow.client.submit(parent(inner))
    child = await child_of(flow, submitted.address)
    await flow.until_begun(child, "held")

    await flow.command(submitted.address, PausePlan(id="pause"))
    await flow.until(child, lambda state: state.held)
    await flow.command(submitted.address, ResumePlan(id="resume"))
    await flow.until(child, lambda state: not state.held)
    await flow.command(submitted.address, CancelPlan(id="cancel"))

    assert (await ended(flow, child)).status is PlanStatus.CANCELLED
    flow.let_go(child, "held")
    await ended(flow, submitted.address)


async def test_what_the_plan_of_a_cancelled_step_has_not_used_is_there_for_others(flow: Flow) -> None:
    document = parent(plan(task("held", agent="hold")))
    document["steps"].append({"kind": "gate", "name": "look"})  # which keeps it from ending
    submitted = await flow.client.submit(document)
    child = await child_of(flow, submitted.address)
    await flow.until_begun(child, "held")
    before = await flow.operator.state(submitted.address)

    await flow.command(submitted.address, CancelPlan(id="cancel", step="execute"))
    given = before.steps["execute"].plans
    assert given
    after = await flow.until(submitted.address, lambda state: state.plans_left == before.plans_left + given)

    assert (await ended(flow, child)).status is PlanStatus.CANCELLED
    assert after.steps["execute"].status is StepStatus.CANCELLED
    flow.let_go(child, "held")
    await flow.approve(submitted.address)
    await ended(flow, submitted.address)


async def test_a_failed_step_of_the_plan_is_tried_again_for_its_parent(flow: Flow) -> None:
    flow.breaks("inner")
    submitted = await flow.client.submit(
        parent(plan(task("fetch", agent="fragile", inputs={"source": "inner"})), retries=1)
    )
    child = await child_of(flow, submitted.address)

    stuck = await flow.until(submitted.address, lambda state: state.steps["execute"].retried)
    assert stuck.status in (PlanStatus.RUNNING, PlanStatus.WAITING)
    await flow.until(child, lambda state: state.steps["fetch"].attempt == 2)
    flow.mends("inner")
    state = await flow.until(child, lambda state: state.steps["fetch"].attempt == 2 and not state.running)
    if state.status is PlanStatus.PAUSED:  # it was mended too late for the second attempt
        await flow.operator.retry(child, "fetch")
    assert (await ended(flow, submitted.address)).status is PlanStatus.COMPLETED


async def test_an_each_runs_its_steps_for_every_item(flow: Flow) -> None:
    document = plan(
        task("list", inputs={"value": [{"name": "a"}, {"name": "b"}, {"name": "x" * 20_000}]}),
        {
            "kind": "each",
            "name": "audits",
            "items": "list",
            "parallel": 2,
            "steps": [
                task("audit", inputs={"value": "{item.name}"}),
                task("weigh", "audit", inputs={"value": "{count(audit)}"}),
            ],
        },
        task("report", "audits", inputs={"value": "{audits}"}),
    )
    submitted = await flow.client.submit(document)

    state = await ended(flow, submitted.address)

    assert state.steps["report"].output.value == [1, 1, 20_000]


async def test_without_a_model_a_plan_step_says_so(flow: Flow) -> None:
    submitted = await flow.client.submit(plan({"kind": "plan", "name": "mission", "inputs": {"task": "tidy up"}}))

    state = await flow.until(submitted.address, lambda state: state.status is PlanStatus.PAUSED)

    failure = state.steps["mission"].failure
    assert failure is not None
    assert failure.code == "no_model"
    await flow.operator.cancel(submitted.address)
    with pytest.raises(PlanCancelled):
        await submitted.result(timeout_s=20)
    assert not open_gates(await ended(flow, submitted.address))
