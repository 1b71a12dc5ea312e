"""What an approval would release, as a digest."""

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import HERE, START, Play, gate, plan, plans, play_on, question, task

from planmesh.executor.digests import Digests, depends_on, released
from planmesh.executor.plan import decide
from planmesh.schemas.commands import Asked, CreatePlan
from planmesh.schemas.events import CommandRefused, GateOpened
from planmesh.schemas.payload import digest, digest_of
from planmesh.schemas.plan import Case, Check, Decide, Draft, Each, Emit, Gate, Plan, Run, Step
from planmesh.schemas.state import PlanState


def written_out(state: PlanState, name: str) -> str:
    """The digest as it is defined: votes that were cast long ago quote it."""
    graph = state.graph
    assert state.created is not None
    needs = {need for behind in released(graph, name) for need in depends_on(graph, behind)} - {name}
    outputs = {need: digest_of(state.steps[need].output) for need in needs}
    return digest([[graph.steps[behind] for behind in graph.behind(name)], outputs, state.created.inputs])


@settings(max_examples=150, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_a_digest_is_the_same_whatever_else_was_digested_before(document: Plan, n: int, data: st.DataObject) -> None:
    play, digests = Play(document, inputs={"n": n}), Digests()
    for most_moves in (0, 5, 60):
        play_on(data.draw, play, most_moves)
        state = play.state
        gates = [name for name, step in state.graph.steps.items() if isinstance(step, Gate)]

        assert [digests.of(state, name) for name in gates] == [written_out(state, name) for name in gates]
        assert [digests.behind(state, name) for name in gates] == [len(state.graph.behind(name)) for name in gates]


def test_a_digest_of_today_is_the_one_that_was_quoted_before() -> None:
    ship = task("ship", "build", "ask", inputs={"what": "{build}", "n": "{n}"})
    play = Play(plan(task("build"), gate("ask", "build"), ship), inputs={"n": 7})
    play.completes("build", output={"size": 1})

    opened = play.state.steps["ask"].opened
    assert isinstance(opened, GateOpened)
    assert opened.digest == "ea47bf86d31eabf97afba5cbe95298b1443e04d6cb5a9046d1de5c3e463c1a3b"


BOTH = ("legal", "finance")


@pytest.mark.parametrize(
    "behind",
    [
        task("next", *BOTH, inputs={"total": 7}),
        Run(name="next", after=BOTH, document='{name: "x"}'),
        Draft(name="next", after=BOTH, inputs={"task": "write it"}),
        gate("next", *BOTH, prompt="Go on?"),
        question("next", *BOTH, prompt="How many?"),
        Check(name="next", after=BOTH, condition="true"),
        Decide(name="next", after=BOTH, cases=(Case(when="1 > 0", then="one"),), otherwise="none"),
        Each(name="next", after=BOTH, items="[1, 2]", steps=(task("pay"), gate("look", "pay"))),
        Emit(name="next", after=BOTH, outcome="Done"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_what_is_decided_at_one_gate_makes_no_vote_at_another_stale(behind: Step) -> None:
    play = Play(plan(gate("legal"), gate("finance"), behind))

    play.votes("legal")
    play.votes("finance")

    assert [play.status(name) for name in BOTH] == ["completed", "completed"]
    assert [event.round for event in play.of_type(GateOpened) if event.step in BOTH] == [1, 1]


@pytest.mark.parametrize(
    "behind",
    [
        task("next", *BOTH, inputs={"who": "{legal.by}"}),
        task("next", *BOTH, accept='legal.decision == "approve"'),
        Run(name="next", after=BOTH, document="{name: legal.reason}"),
        Run(name="next", after=BOTH, document='{name: "x"}', inputs={"who": "{legal.by}"}),
        Draft(name="next", after=BOTH, inputs={"task": "{legal.reason}"}),
        gate("next", *BOTH, show=("{legal}",)),
        question("next", *BOTH, prompt="What does {legal.reason} mean?"),
        Check(name="next", after=BOTH, condition="1 > 0", message="Not for {legal.by}"),
        Check(name="next", after=BOTH, condition='legal.reason == ""'),
        Decide(name="next", after=BOTH, cases=(Case(when='legal.reason == ""', then="one"),), otherwise="none"),
        Each(name="next", after=BOTH, items="legal.by", steps=(task("pay"),)),
        Each(name="next", after=BOTH, items="[1]", value="legal.by", steps=(task("pay"),)),
        Each(name="next", after=BOTH, items="[1]", steps=(task("pay", inputs={"who": "{legal.by}"}),)),
        Emit(name="next", after=BOTH, outcome="Done", result={"who": "{legal.by}"}),
    ],
    ids=lambda step: type(step).__name__,
)
def test_but_it_does_where_what_it_lets_go_reads_the_decision(behind: Step) -> None:
    play = Play(plan(gate("legal"), gate("finance"), behind))

    assert set(depends_on(play.state.graph, "next")) == {"legal"}  # and not both, as of what cannot be read
    play.votes("legal")
    refused, reopened = play.votes("finance")

    assert isinstance(refused, CommandRefused)
    assert refused.code == "stale"
    assert isinstance(reopened, GateOpened)
    assert reopened.step == "finance"


def test_so_it_does_where_what_comes_where_branches_meet_reads_something_new() -> None:
    meet = Check(name="meet", after=("ask",), condition="true")
    pay = task("pay", "meet", "count", inputs={"total": "{count}"})
    play = Play(plan(gate("ask"), task("count"), meet, pay))
    assert play.of_type(GateOpened)[0].releases[0].later == {"total": ("count",)}

    play.completes("count", output=7)
    refused, reopened = play.votes("ask")

    assert isinstance(refused, CommandRefused)
    assert refused.code == "stale"
    assert isinstance(reopened, GateOpened)
    assert reopened.releases[0].inputs == {"total": 7}


def test_whoever_votes_again_sees_the_decision() -> None:
    inputs = {"who": "{legal.by}"}
    play = Play(plan(gate("legal"), gate("finance"), task("pay", "legal", "finance", inputs=inputs)))

    play.votes("legal")
    _, reopened = play.votes("finance")

    assert isinstance(reopened, GateOpened)
    assert reopened.releases[0].inputs == {"who": ["ada"]}


def test_hundreds_of_gates_in_front_of_the_same_steps_cost_no_more_each_than_a_few() -> None:
    few, many = calls_to_open(50), calls_to_open(400)

    assert many < 8 * few * 1.5


def calls_to_open(count: int) -> int:
    """How many functions are called to open so many gates that stand in front of the same hundred steps."""
    gates = [gate(f"g{number}") for number in range(count)]
    names = [step.name for step in gates]
    document = plan(*gates, *(task(f"t{number}", *names) for number in range(100)))
    asked = Asked(CreatePlan(id="create", plan=document, goal_digest="digest"), "planner", START)
    calls = 0

    def count_call(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        decision = decide(PlanState(address=HERE), asked)
    finally:
        sys.setprofile(before)
    assert sum(isinstance(event, GateOpened) for event in decision.events) == count
    return calls
