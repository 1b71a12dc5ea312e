"""Plans that people steer while real processes run them."""

from typing import Any

import pytest
from flows import Flow, plan, task
from patience import eventually
from promises import expect_promises

from planmesh.cli.preview import foresee
from planmesh.client import PlanFailed
from planmesh.errors import PlanmeshError
from planmesh.frontier import frontier
from planmesh.schemas.commands import AnyCommand, CancelPlan, RetryStep, RevisePlan, SkipStep
from planmesh.schemas.events import GateRejected, PlanRevised, PlanStarted, StepDispatched, StepSkipped
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import PlanStatus, StepStatus, open_gates
from planmesh.schemas.subjects import Address
from planmesh.steering import Refused, RevisionRefused, new_command_id

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.asyncio(loop_scope="session")]

SAID = (PlanStarted, GateRejected, StepSkipped)


def fragile(name: str, *after: str, **fields: Any) -> dict[str, Any]:
    return task(name, *after, agent="fragile", **fields)


async def settled(flow: Flow, address: Address, status: PlanStatus = PlanStatus.COMPLETED) -> None:
    state = await flow.until(address, lambda state: state.ended_at)
    assert state.status is status
    await expect_promises(flow.operator, address)


async def test_a_draft_is_started_its_gate_rejected_asked_again_and_skipped(flow: Flow) -> None:
    gate = {"kind": "gate", "name": "ask", "optional": True}
    submitted = await flow.client.submit(plan(gate, task("behind", "ask")), start=False)
    address, operator = submitted.address, flow.operator
    await flow.until(address, lambda state: state.status is PlanStatus.DRAFT)

    started = await operator.start(address, reason="now", id="begin")
    again = await operator.start(address, reason="now", id="begin")
    state = await flow.until(address, open_gates)
    opened = state.steps["ask"].opened
    assert opened is not None
    rejected = await operator.reject(address, "ask", opened.digest, reason="too dear")
    await operator.retry(address, "ask", reason="it is cheaper")
    skipped = await operator.skip(address, "ask", reason="it is for nothing")

    assert again.commit.number == started.commit.number
    happened = [*started.commit.events, *rejected.commit.events, *skipped.commit.events]
    said = [(type(event), event.reason) for event in happened if isinstance(event, SAID)]
    assert said == [(PlanStarted, "now"), (GateRejected, "too dear"), (StepSkipped, "it is for nothing")]
    await settled(flow, address)


# --- cancelling, pausing -----------------------------------------------------------------------------------


async def test_the_late_result_of_a_cancelled_step_changes_nothing(flow: Flow) -> None:
    document = plan(task("held", agent="hold"), task("behind", "held"), task("other", agent="hold"))
    address = (await flow.client.submit(document)).address
    await flow.until_begun(address, "held", "other")

    answer = await flow.operator.cancel(address, "held", reason="not needed any more")
    flow.let_go(address, "held")
    # One agent's results come in order: once a later one is there, this one has been heard.
    later = (await flow.client.submit(plan(task("later", agent="hold")))).address
    await flow.until_begun(later, "later")
    flow.let_go(later, "later")
    await settled(flow, later)

    state = await flow.operator.state(address)
    assert (state.steps["held"].status, state.steps["behind"].status) == ("cancelled", "cancelled")
    assert state.number == answer.commit.number
    assert state.steps["held"].reason == "not needed any more"
    flow.let_go(address, "other")
    await settled(flow, address)


async def test_a_cancelled_plan_tells_what_runs_and_takes_back_what_does_not(flow: Flow) -> None:
    document = plan(task("held", agent="hold"), task("waits", "held"))
    address = (await flow.client.submit(document)).address
    await flow.until_begun(address, "held")

    await flow.operator.cancel(address, reason="wrong customer")
    flow.let_go(address, "held")

    await settled(flow, address, PlanStatus.CANCELLED)
    assert (await flow.operator.state(address)).reason == "wrong customer"


async def test_a_paused_step_finishes_and_nothing_behind_it_starts_until_it_is_resumed(flow: Flow) -> None:
    address = (await flow.client.submit(plan(task("held", agent="hold"), task("behind", "held")))).address
    await flow.until_begun(address, "held")

    await flow.operator.pause(address, "held", reason="wait for the auditors")
    flow.let_go(address, "held")
    state = await flow.until(address, lambda state: state.status is PlanStatus.PAUSED)
    assert (state.steps["held"].status, state.steps["behind"].status) == ("completed", "pending")
    assert state.reason == "root has paused held: wait for the auditors"

    await flow.operator.resume(address, "held")
    await settled(flow, address)


async def test_a_command_sent_twice_is_carried_out_once(flow: Flow) -> None:
    address = (await flow.client.submit(plan(task("held", agent="hold")))).address
    await flow.until_begun(address, "held")
    number = (await flow.operator.state(address)).number

    first = await flow.operator.pause(address, id="once")
    second = await flow.operator.pause(address, id="once")
    with pytest.raises(PlanmeshError, match="the id once is that of another command: pause"):
        await flow.operator.resume(address, id="once")
    with pytest.raises(Refused, match="possible now: resume, cancel, revise"):
        await flow.operator.pause(address)

    assert first == second
    assert first.commit.number == number + 1
    await flow.operator.resume(address)
    flow.let_go(address, "held")
    await settled(flow, address)


# --- failure, retry ----------------------------------------------------------------------------------------


async def test_a_failed_step_says_what_went_wrong_and_goes_on_with_another_agent(flow: Flow) -> None:
    flow.breaks("news")
    document = plan(fragile("fetch", inputs={"source": "news"}), task("use", "fetch", inputs={"value": "{fetch}"}))
    address = (await flow.client.submit(document)).address
    state = await flow.until(address, lambda state: state.status is PlanStatus.PAUSED)

    failure = state.steps["fetch"].failure
    assert failure is not None
    assert (failure.type, failure.message) == ("ConnectionError", "no answer from news")
    frames = [line.strip() for line in failure.traceback.splitlines() if line.strip().startswith("File ")]
    assert [frame.split(", in ")[-1] for frame in frames] == ["fragile"]  # the agent's own, none of planmesh

    answer = await flow.operator.retry(
        address, "fetch", agent="echo", inputs={"value": "from elsewhere"}, reason="down"
    )
    (revised,) = [event for event in answer.events if isinstance(event, PlanRevised)]
    assert (revised.revision, revised.reason, [change.step for change in revised.changes]) == (2, "down", ["fetch"])
    await settled(flow, address)
    state = await flow.operator.state(address)
    assert (state.steps["use"].output.value, state.steps["fetch"].attempt) == ("from elsewhere", 2)


async def test_a_retry_with_an_agent_that_is_not_there_is_refused_with_the_nearest(flow: Flow) -> None:
    flow.breaks("news")
    address = (await flow.client.submit(plan(fragile("fetch", inputs={"source": "news"})))).address
    await flow.until(address, lambda state: state.status is PlanStatus.PAUSED)

    with pytest.raises(RevisionRefused, match="did you mean echo") as no:
        await flow.operator.retry(address, "fetch", agent="ecko")

    assert [problem.code for problem in no.value.problems] == ["unknown_agent"]
    assert (await flow.operator.state(address)).revision == 1
    await flow.operator.cancel(address)


async def test_a_plan_that_is_to_fail_at_a_failure_does_and_stops_the_rest(flow: Flow) -> None:
    flow.breaks("prices")
    document = plan(
        fragile("fetch", inputs={"source": "prices"}), task("held", agent="hold"), policy={"on_failure": "fail"}
    )
    submitted = await flow.client.submit(document)
    address = submitted.address

    with pytest.raises(PlanFailed, match=r"at step fetch: step fetch failed \(agent_error\): no answer from prices"):
        await submitted.result(30)
    flow.let_go(address, "held")

    await settled(flow, address, PlanStatus.FAILED)
    assert (await flow.operator.state(address)).steps["held"].status is StepStatus.CANCELLED


# --- what is foreseen happens ------------------------------------------------------------------------------


async def test_what_a_preview_shows_is_what_then_happens(flow: Flow) -> None:
    flow.breaks("news")
    document = plan(
        task("read", inputs={"value": "kept"}),
        fragile("fetch", "read", inputs={"source": "news"}),
        fragile("extra", "read", optional=True, inputs={"source": "news"}),
        {"kind": "gate", "name": "ask", "after": ["fetch", "extra"], "prompt": "Send {read}?"},
        task("send", "ask", inputs={"value": "{read}"}),
    )
    address = (await flow.client.submit(document)).address
    await flow.until(address, lambda state: len(state.troubled) == 2)
    revised = [*document["steps"][:3], {**document["steps"][3], "prompt": "Really?"}, task("post", "ask")]

    for command in (
        SkipStep(id=new_command_id(), step="extra", reason="no need"),
        RetryStep(id=new_command_id(), step="fetch", attempt=1, agent="echo", inputs={"value": 1}),
        RevisePlan(id=new_command_id(), base=2, document={"steps": revised[3:]}),
        CancelPlan(id=new_command_id(), step="post"),
    ):
        await eventually(lambda: _is_quiet(flow, address))
        await expect_foreseen(flow, address, command)
    await approve(flow, address, "ask")
    await settled(flow, address, PlanStatus.CANCELLED)  # what it would have ended with is
    state = await flow.operator.state(address)
    assert {name: step.status for name, step in state.steps.items()} == {
        "read": "completed",
        "fetch": "completed",
        "extra": "skipped",
        "ask": "completed",
        "post": "cancelled",
    }


async def _is_quiet(flow: Flow, address: Address) -> bool:
    return not (await flow.operator.state(address)).running


async def expect_foreseen(flow: Flow, address: Address, command: AnyCommand) -> None:
    before = await flow.operator.state(address)
    foreseen = await foresee(flow.operator, before, command)
    assert foreseen.seen is not None, (foreseen.refused, foreseen.problems)
    assert (await flow.operator.state(address)).number == before.number  # nothing was done

    answer = await flow.operator.command(address, command)

    after = await flow.until(address, lambda state: state.number == answer.commit.number)
    assert frontier(before, after) == foreseen.seen
    begun = {event.step for event in answer.events if isinstance(event, StepDispatched)}
    assert begun <= set(foreseen.seen.of("again", "new", "changed", "next"))


async def test_a_revision_that_cannot_be_is_refused_with_places_and_nothing_changes(flow: Flow) -> None:
    address = (await flow.client.submit(plan(task("held", agent="hold"), task("b", "held")))).address
    await flow.until_begun(address, "held")

    with pytest.raises(RevisionRefused) as no:
        await flow.operator.revise(address, {"steps": [task("c", "nobody")]})
    assert [(one.code, one.pointer) for one in no.value.problems] == [
        ("started", "/steps"),  # `held` runs, and the document does not say what becomes of it
        ("unknown_step", "/steps/0/after/0"),
    ]
    with pytest.raises(Refused, match="the plan is at revision 1, not 3"):
        await flow.operator.revise(address, {"steps": []}, base=3)

    await flow.operator.revise(address, {"steps": [task("c")]}, cancel_running=True, reason="start over")
    state = await flow.operator.state(address)
    assert (sorted(state.graph.steps), sorted(state.superseded)) == (["c"], ["b", "held"])
    flow.let_go(address, "held")
    await settled(flow, address)


async def test_a_redirected_gate_asks_again_and_shows_the_words_of_its_reviewer_and_what_changed(flow: Flow) -> None:
    gate = {"kind": "gate", "name": "ask"}
    address = (await flow.client.submit(plan(gate, task("b", "ask")))).address
    opened = (await flow.until(address, open_gates)).steps["ask"].opened
    assert opened is not None

    steps = [gate, task("c", "ask"), task("b", "c")]
    await flow.operator.redirect(address, "ask", opened.digest, {"steps": steps}, reason="c comes first")

    again = (await flow.operator.state(address)).steps["ask"].opened
    assert again is not None
    assert (again.round, again.because) == (2, "root has revised what it would release: c comes first")
    assert [(change.step, change.kind) for change in again.changes] == [("c", "added"), ("b", "changed")]
    with pytest.raises(Refused, match="quotes another digest"):
        await flow.operator.approve(address, "ask", opened.digest)
    await approve(flow, address, "ask")
    await settled(flow, address)


async def approve(flow: Flow, address: Address, gate: str) -> None:
    """Approve what the gate asks now."""
    opened = (await flow.operator.state(address)).steps[gate].opened
    assert opened is not None
    await flow.operator.approve(address, gate, opened.digest)


async def test_an_unknown_outcome_is_for_a_person_to_resolve(flow: Flow) -> None:
    address = (await flow.client.submit(plan(task("pay", agent="pay", timeout_s=0.2), task("b", "pay")))).address
    await flow.until(address, lambda state: state.status is PlanStatus.PAUSED)

    with pytest.raises(Refused, match="say first whether it was"):
        await flow.operator.retry(address, "pay", agent="echo")
    await flow.operator.resolve(address, "pay", done=True, output=Payload(value="paid"), reason="it is on the account")
    flow.let_go(address, "pay")

    await settled(flow, address)
    await eventually(lambda: flow.begun()[f"{address}.pay.1"] == 1)
