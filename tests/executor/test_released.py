"""Gates above a plan that runs for a step: they ask again, in that plan, about whatever is revised of it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import Play, gate, plan, plans, play_on, task

from planmesh.executor.released import released_by
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.plan import Each, Gate, Plan, Run
from planmesh.schemas.work import Parent

ABOVE = Parent(plan="above", step="execute", attempt=1, depth=1)
LET_GO = Gate(name="look", label="look of plan above", reviewers=("role:operator",), four_eyes=True)
FIRST, SECOND = task("first"), task("second", "first")


def under(*steps: Any, gates: tuple[Gate, ...] = (LET_GO,)) -> Play:
    return Play(plan(*steps), parent=ABOVE, mandate=Mandate(gates=gates))


def changed(step: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(step, **{"inputs": {"n": 1}, **fields})


# --- above --------------------------------------------------------------------------------------------------


def test_the_gates_that_have_let_a_step_go_are_handed_down_and_of_those_that_ask_alike_one() -> None:
    run = Run(name="execute", after=("b", "d", "e"), document='{name: "x"}')
    others = [gate("b", "a"), gate("d", optional=True, reviewers=("role:cfo",)), gate("e", "b", "d", quorum=2)]
    play = Play(plan(gate("a"), *others, run))
    play.votes("a")
    play.votes("b")
    play.ask(asks.SkipStep(id="skip", step="d", reason="no need"))  # nobody has approved anything
    play.votes("e", by="ada")
    play.votes("e", by="grace")

    assert play.status("execute") == "dispatched"
    found = released_by(play.state, "execute")

    labels = {(one.label, one.quorum, one.after) for one in found}
    assert labels == {("b of plan plan", 1, ()), ("e of plan plan", 2, ())}


def test_those_of_the_plans_above_are_handed_down_further() -> None:
    play = Play(
        plan(gate("again", four_eyes=True), gate("c", "again", quorum=2), task("a", "c")),
        mandate=Mandate(gates=(LET_GO,)),
    )
    play.votes("again", by="ada")
    play.votes("c", by="ada")
    play.votes("c", by="grace")

    assert [one.label for one in released_by(play.state, "a")] == ["look of plan above", "c of plan plan"]


# --- below --------------------------------------------------------------------------------------------------


def test_what_is_not_revised_runs_and_what_is_waits_for_the_same_people() -> None:
    play = under(FIRST, SECOND, task("aside", "first"))

    play.revises(plan(FIRST, changed(SECOND), task("aside", "first"), task("third", "first")))
    play.completes("first")

    assert [play.status(name) for name in ("aside", "second", "third")] == ["dispatched", "pending", "pending"]
    opened = play.state.steps["approve-revision"].opened
    assert isinstance(opened, events.GateOpened)
    assert opened.reviewers == LET_GO.reviewers
    assert "Gate look of plan above let this plan run" in opened.prompt
    assert {release.step for release in opened.releases} == {"second", "third"}
    (refused,) = play.votes("approve-revision", by="ada")  # who has revised it
    assert isinstance(refused, events.CommandRefused)
    assert refused.code == "four_eyes"
    play.votes("approve-revision", by="grace")
    assert [play.status(name) for name in ("second", "third")] == ["dispatched", "dispatched"]


def test_so_does_a_retry_with_another_agent_and_none_as_it_was() -> None:
    play = under(FIRST, SECOND)
    play.fails("first", retryable=False)
    play.retries("first")
    assert play.status("first") == "dispatched"
    play.fails("first", retryable=False)

    play.ask(asks.RetryStep(id="other", step="first", attempt=2, agent="other"))
    answer = asks.ProposeRevision(id="p", request="other", plan=plan(changed(FIRST, agent="other"), SECOND))
    play.ask(answer, "planner")

    assert play.status("first") == "pending"
    play.votes("approve-revision", by="grace")
    assert (play.status("first"), play.state.steps["first"].agent) == ("dispatched", "other")


def test_a_revision_that_leaves_the_gate_out_does_not_take_it_away_and_another_one_lets_it_ask_again() -> None:
    play = under(FIRST, SECOND)
    play.revises(plan(FIRST, changed(SECOND)))

    play.revises(plan(FIRST, changed(SECOND), task("third")))
    play.completes("first")
    play.votes("approve-revision", by="grace")
    assert (play.status("second"), play.status("third")) == ("dispatched", "dispatched")

    play.revises(plan(*play.state.plan.steps, task("fourth", "third")))
    play.completes("third")
    assert play.status("fourth") == "pending"
    assert play.state.steps["approve-revision"].attempt > 1
    play.votes("approve-revision", by="grace")
    assert play.status("fourth") == "dispatched"


def test_the_same_revision_again_changes_nothing() -> None:
    play = under(FIRST, SECOND)
    play.revises(plan(FIRST, changed(SECOND)))

    (refused,) = play.revises(plan(FIRST, changed(SECOND)))

    assert isinstance(refused, events.RevisionRefused)
    assert play.state.revision == 2


def test_the_planner_revises_again_what_waits_for_them() -> None:
    aside = task("aside")
    play = under(FIRST, SECOND, aside)
    play.revises(plan(FIRST, SECOND, aside, task("third", "first")), by_planner=True)
    assert play.state.graph.needs["approve-revision"] == ("first",)

    play.revises(plan(FIRST, changed(SECOND), aside, task("fourth", "aside")), by_planner=True)
    assert play.state.revision == 3
    play.completes("first")
    play.completes("aside")
    assert [play.status(name) for name in ("second", "fourth")] == ["pending", "pending"]
    play.revises(plan(FIRST, SECOND, aside), by_planner=True)  # as they have let it go

    assert "approve-revision" not in play.state.graph.steps
    assert play.status("second") == "dispatched"


@pytest.mark.parametrize(
    "mine",
    [
        gate("approve-revision", reviewers=("person:eve",), four_eyes=True),
        gate("approve-revision", four_eyes=True, optional=True),
        task("approve-revision"),
        task("other", binding="approve_revision"),
        Each(name="all", items="[1]", steps=(task("approve-revision"),)),
    ],
)
def test_nothing_else_may_be_called_like_it(mine: Any) -> None:
    play = under(FIRST, SECOND)

    (refused,) = play.revises(plan(FIRST, SECOND, mine))

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["released"]


def test_a_plan_that_was_created_with_a_gate_of_that_name_gets_one_of_another() -> None:
    mine = gate("approve-revision", reviewers=("service:eve",))
    play = under(mine, task("approve-revision-2", "approve-revision"))

    play.revises(plan(mine, task("approve-revision-2", "approve-revision"), task("more")))

    assert play.status("more") == "pending"
    play.votes("approve-revision-3", by="grace")
    assert play.status("more") == "dispatched"


def test_every_group_that_was_asked_is_asked_again() -> None:
    play = under(FIRST, SECOND, gates=(LET_GO, gate("pay", quorum=2)))
    play.revises(plan(FIRST, SECOND, task("more")))

    play.votes("approve-revision", by="grace")
    play.votes("approve-revision-2", by="grace")
    assert play.status("more") == "pending"
    play.votes("approve-revision-2", by="bob")
    assert play.status("more") == "dispatched"


@settings(deadline=None, max_examples=150)
@given(plans(), st.data())
def test_nothing_starts_that_the_gates_above_were_not_asked_about(document: Plan, data: st.DataObject) -> None:
    gates = (LET_GO, gate("pay", reviewers=("role:operator",), quorum=2))[: data.draw(st.integers(1, 2))]
    play = Play(document, inputs={"n": data.draw(st.integers(0, 2))}, parent=ABOVE, mandate=Mandate(gates=gates))

    play_on(data.draw, play)  # the judge looks at whatever is dispatched
