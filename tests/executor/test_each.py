"""`each`: its steps once for every item, items under way at once, what the items give."""

from typing import Any

import pytest
from plays import AGENT, HERE, Play, gate, plan, task

from planmesh.executor.plan import decide
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.commands import Asked, ReportResult
from planmesh.schemas.expressions import NeedsBlob
from planmesh.schemas.payload import Payload, blob_of
from planmesh.schemas.plan import Branch, Case, Check, Decide, Each, Gate, Permissions, Task
from planmesh.schemas.state import Graph, Names, PlanStatus, StepStatus
from planmesh.schemas.work import AttemptCompleted


def each(name: str, items: str, *steps: Any, after: tuple[str, ...] = (), **fields: Any) -> Each:
    return Each(name=name, items=items, steps=steps, after=after, **fields)


def audit(**fields: Any) -> Task:
    return Task(name="audit", agent=AGENT, inputs={"of": "{item.name}", "n": "{n}"}, **fields)


def listing(*names: str) -> dict[str, Any]:
    return {"found": [{"name": name} for name in names]}


def test_the_steps_are_there_once_for_every_item_and_their_outputs_in_the_order_of_the_items() -> None:
    play = Play(plan(task("list"), each("audits", "list.found", audit(), after=("list",)), task("report", "audits")))
    play.completes("list", output=listing("a", "b", "c"))

    assert play.in_status(StepStatus.DISPATCHED) == ["audit_1", "audit_2", "audit_3"]
    play.completes("audit_3", output="third")
    play.completes("audit_1", output="first")
    assert play.status("audits") == "pending"
    play.completes("audit_2", output="second")

    assert play.state.steps["audits"].output == Payload(value=["first", "second", "third"])
    assert play.in_status(StepStatus.DISPATCHED) == ["report"]
    play.completes("report")
    play.finish()


@pytest.mark.parametrize("bound", [None, "found_out"])
def test_what_is_accepted_of_an_items_step_is_read_by_the_binding_of_the_body(bound: str | None) -> None:
    body = audit(binding=bound, accept=f"{bound or 'audit'} != item.name")
    play = Play(plan(task("list"), each("audits", "list.found", body, after=("list",))))
    play.completes("list", output=listing("a", "b"))

    play.completes("audit_1", output="first")
    play.completes("audit_2", output="b")

    assert play.status("audit_1") == "completed"
    assert [event.failure.code for event in play.of_type(events.StepFailed)] == ["not_accepted"]


def test_a_step_of_an_item_reads_its_item_the_steps_of_the_item_and_what_is_around() -> None:
    weigh = Task(name="weigh", agent=AGENT, after=("audit",), inputs={"audit": "{audit}", "of": "{item.name} of {n}"})
    play = Play(plan(task("list"), each("audits", "list.found", audit(), weigh, after=("list",))), inputs={"n": 7})
    play.completes("list", output=listing("a", "b"))
    play.completes("audit_2", output="B")

    graph = play.state.graph
    step = graph.steps["weigh_2"]
    assert isinstance(step, Task)
    assert graph.inputs(step).render(Names(play.state, step="weigh_2")) == {"audit": "B", "of": "b of 7"}
    assert Names(play.state, step="weigh_1")["audit"] is None
    with pytest.raises(KeyError):
        Names(play.state, step="list")["audit"]


def test_an_item_gives_what_the_plan_says() -> None:
    play = Play(plan(each("audits", "[1, 2]", Task(name="double", agent=AGENT), value="item + double.more")))
    play.completes("double_1", output={"more": 10})
    play.completes("double_2", output={"more": 20})

    assert play.state.result == Payload(value={"audits": [11, 22]})


def test_what_an_item_gives_is_fetched_where_it_is_large() -> None:
    play = Play(plan(each("audits", "[1]", Task(name="audit", agent=AGENT))))
    large = blob_of(b'"large"')
    report = ReportResult(
        AttemptCompleted(
            space=HERE.space,
            plan=HERE.plan,
            step="audit_1",
            attempt=1,
            output=Payload(blob=large),
            started_at=play.at,
            duration_s=0.1,
        )
    )
    asked = Asked(report, AGENT, play.at)

    with pytest.raises(NeedsBlob) as needs:
        decide(play.state, asked)
    assert needs.value.blob.sha256 == large.sha256

    state = decide(play.state, asked, blobs={large.sha256: "large"}).state
    assert state.steps["audits"].output == Payload(value=["large"])


@pytest.mark.parametrize("value", [None, "{given: audit.text}"])
def test_what_all_items_give_is_fetched_together(value: str | None) -> None:
    play = Play(plan(each("audits", "[1, 2, 3]", Task(name="audit", agent=AGENT), value=value)))
    large = [blob_of(text) for text in (b'"first"', b'"second"', b'"third"')]
    reports = [
        ReportResult(
            AttemptCompleted(
                space=HERE.space,
                plan=HERE.plan,
                step=f"audit_{number}",
                attempt=1,
                output=Payload(blob=blob),
                started_at=play.at,
                duration_s=0.1,
            )
        )
        for number, blob in enumerate(large, 1)
    ]
    play.ask(reports[0], AGENT)
    play.ask(reports[1], AGENT)

    with pytest.raises(NeedsBlob) as needs:
        decide(play.state, Asked(reports[2], AGENT, play.at))

    assert [blob.sha256 for blob in needs.value.blobs] == [blob.sha256 for blob in large]


def test_without_items_it_is_done_at_once() -> None:
    play = Play(plan(each("audits", "[]", audit()), task("report", "audits")))

    assert play.state.steps["audits"].output == Payload(value=[])
    assert play.in_status(StepStatus.DISPATCHED) == ["report"]


@pytest.mark.parametrize(
    ("value", "kind"), [({"a": 1}, "an object"), ("text", "a text"), (None, "null"), (3, "a number")]
)
def test_what_is_no_list_is_said(value: object, kind: str) -> None:
    play = Play(plan(task("list"), each("audits", "list.found", audit(), after=("list",))))
    play.completes("list", output={"found": value})

    failure = play.state.steps["audits"].failure
    assert failure is not None
    assert (failure.code, failure.message) == ("not_a_list", f"expected a list from `list.found`; found {kind}")
    assert play.state.status is PlanStatus.PAUSED


def test_no_more_items_than_a_plan_may_have_steps() -> None:
    play = Play(plan(task("list"), each("audits", "list.found", audit(), after=("list",))))
    play.completes("list", output={"found": [0] * 10_000})

    failure = play.state.steps["audits"].failure
    assert failure is not None
    assert failure.code == "too_many_items"


def test_only_so_many_items_are_under_way_as_the_plan_says() -> None:
    second = Task(name="weigh", agent=AGENT, after=("audit",))
    play = Play(plan(each("audits", "[1, 2, 3, 4]", audit(), second, parallel=2)))

    assert play.in_status(StepStatus.DISPATCHED) == ["audit_1", "audit_2"]
    play.completes("audit_1")
    assert play.in_status(StepStatus.DISPATCHED) == ["weigh_1", "audit_2"]
    play.completes("weigh_1")
    assert play.in_status(StepStatus.DISPATCHED) == ["audit_2", "audit_3"]


def test_an_item_that_has_failed_is_under_way_until_somebody_deals_with_it() -> None:
    play = Play(plan(each("audits", "[1, 2, 3]", audit(optional=True), parallel=1)))
    play.fails("audit_1", retryable=False)
    assert play.state.status is PlanStatus.PAUSED

    play.ask(asks.SkipStep(id="skip", step="audit_1"))

    assert play.in_status(StepStatus.DISPATCHED) == ["audit_2"]


def test_one_failed_item_does_not_run_the_others_again() -> None:
    play = Play(plan(each("audits", "[1, 2, 3]", audit()), task("report", "audits")))
    play.completes("audit_1", output=1)
    play.fails("audit_2", retryable=False)
    play.completes("audit_3", output=3)
    assert play.state.troubled == ("audit_2",)

    play.retries("audit_2")
    assert play.in_status(StepStatus.DISPATCHED) == ["audit_2"]
    play.completes("audit_2", output=2)

    assert play.state.steps["audits"].output == Payload(value=[1, 2, 3])
    assert [event.step for event in play.of_type(events.StepDispatched)].count("audit_1") == 1


def test_a_gate_in_it_asks_once_for_every_item_and_holds_back_that_item_alone() -> None:
    body = (audit(), Gate(name="look", after=("audit",)), Task(name="publish", agent=AGENT, after=("look",)))
    play = Play(plan(each("audits", "[1, 2]", *body), task("report", "audits")))
    play.completes("audit_1", output="one")
    opened = play.state.steps["look_1"].opened
    assert opened is not None
    assert [release.step for release in opened.releases] == ["publish_1"]

    play.completes("audit_2", output="two")
    play.votes("look_2", by="grace")
    play.votes("look_1", by="ada", digest=opened.digest)

    # What other items have done meanwhile is nothing that the first one would release.
    assert play.in_status(StepStatus.DISPATCHED) == ["publish_1", "publish_2"]


def test_branches_are_taken_for_each_item() -> None:
    choose = Decide(name="choose", cases=(Case(when="item > 1", then="big"),), otherwise="small")
    big = Task(name="big", agent=AGENT, after=("choose",), branch=Branch(step="choose", label="big"), binding="done")
    small = Task(
        name="small", agent=AGENT, after=("choose",), branch=Branch(step="choose", label="small"), binding="done"
    )
    play = Play(plan(each("sizes", "[1, 2]", choose, big, small, value="done")))

    assert play.in_status(StepStatus.DISPATCHED) == ["small_1", "big_2"]
    play.completes("small_1", output="s")
    play.completes("big_2", output="b")

    assert play.state.result == Payload(value={"sizes": ["s", "b"]})


def test_a_check_in_it_halts_its_item_alone() -> None:
    play = Play(plan(each("sizes", "[0, 1]", Check(name="positive", condition="item > 0"), audit(after=("positive",)))))

    assert play.state.troubled == ("positive_1",)
    assert play.in_status(StepStatus.DISPATCHED) == ["audit_2"]


def test_cancelling_it_cancels_its_items_and_what_is_behind() -> None:
    play = Play(plan(each("audits", "[1, 2]", audit()), task("report", "audits"), task("other")))
    play.ask(asks.CancelPlan(id="cancel", step="audits"))

    assert play.in_status(StepStatus.CANCELLED) == ["audits", "report", "audit_1", "audit_2"]
    assert play.in_status(StepStatus.DISPATCHED) == ["other"]


def test_a_revision_leaves_its_items_alone_and_may_change_what_is_behind() -> None:
    loop = each("audits", "[1, 2]", audit())
    play = Play(plan(loop, task("report", "audits")))
    play.completes("audit_1")

    play.revises(plan(loop, task("report", "audits", inputs={"changed": 1}), gate("look", "report")))

    assert play.in_status(StepStatus.DISPATCHED) == ["audit_2"]
    assert play.state.revision == 2
    play.completes("audit_2")
    assert play.in_status(StepStatus.DISPATCHED) == ["report"]


def test_a_revision_cannot_change_what_has_its_items() -> None:
    play = Play(plan(each("audits", "[1, 2]", audit()), task("report", "audits")))

    play.revises(plan(each("audits", "[1, 2, 3]", audit()), task("report", "audits")))

    assert [problem.code for problem in play.of_type(events.RevisionRefused)[0].problems] == ["started"]


def test_a_gate_before_it_shows_what_its_steps_will_do() -> None:
    play = Play(plan(gate("look"), each("audits", "[1, 2]", audit(), after=("look",))))

    opened = play.state.steps["look"].opened
    assert opened is not None
    assert [(one.step, one.kind, one.inputs) for one in opened.releases] == [
        ("audits", "each", {"items": "[1, 2]"}),
        ("audit", "task", {"of": "{item.name}", "n": "{n}"}),
    ]
    play.votes("look")
    assert play.in_status(StepStatus.DISPATCHED) == ["audit_1", "audit_2"]


def test_a_step_of_an_item_is_tried_again_as_it_is() -> None:
    play = Play(plan(each("audits", "[1]", audit())))
    play.fails("audit_1", retryable=False)

    refused = play.ask(asks.RetryStep(id="again", step="audit_1", attempt=1, inputs={}))[0]

    assert isinstance(refused, events.CommandRefused)
    assert refused.code == "of_an_item"


def test_a_revision_starts_nothing_behind_items_that_were_approved_without_a_gate_of_its_own() -> None:
    loop = each("audits", "[1]", audit(), Gate(name="look", after=("audit",)))
    play = Play(plan(loop, task("report", "audits")))
    play.completes("audit_1")
    play.votes("look_1")

    refused = play.revises(plan(loop, task("report", "audits"), task("send", "audits")))[-1]
    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["behind_items"]

    play.revises(plan(loop, task("report", "audits"), gate("ask", "audits"), task("send", "ask")))
    assert play.state.revision == 2
    assert play.status("send") == "pending"


@pytest.mark.parametrize(
    "changed",
    [
        each("audits", "list.found", audit(), after=("list",)),
        each("audits", "[]", audit(), Gate(name="look", after=("audit",)), after=("list",)),
    ],
)
def test_a_planner_changes_no_each_with_gates_in_it_by_itself(changed: Each) -> None:
    loop = each("audits", "list.found", audit(), Gate(name="look", after=("audit",)), after=("list",))
    play = Play(plan(task("list"), loop))

    refused = play.revises(plan(task("list"), changed), by_planner=True)[-1]

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["loosens"]


def test_a_planner_permits_steps_of_an_each_nothing_more() -> None:
    wider = audit(permissions=Permissions(network=("example.com",)))
    play = Play(plan(task("list"), each("audits", "list.found", audit(), after=("list",))))

    refused = play.revises(plan(task("list"), each("audits", "list.found", wider, after=("list",))), by_planner=True)[
        -1
    ]

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["loosens"]


def test_the_steps_of_items_have_one_order_whoever_reads_the_log() -> None:
    document = plan(each("first", "[1, 2]", audit()), each("second", "[1]", Task(name="weigh", agent=AGENT)))

    graphs = [Graph.of(document, {"first": 2, "second": 1}), Graph.of(document, {"second": 1, "first": 2})]

    assert [list(graph.steps) for graph in graphs] == [["first", "second", "audit_1", "audit_2", "weigh_1"]] * 2
