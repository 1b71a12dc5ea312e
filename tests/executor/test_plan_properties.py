"""Whatever happens to a plan, in whatever order: the promises hold."""

from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, HERE, Play, plans, play_on

from planmesh.schemas import commands as asks
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import ENDED, PlanStatus, StepStatus, fold


@settings(max_examples=200, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_every_play_keeps_the_promises(document: Plan, n: int, data: st.DataObject) -> None:
    limits = data.draw(st.sampled_from([{}, {AGENT: 1}, {AGENT: 2}]))
    play = Play(document, inputs={"n": n}, start=data.draw(st.integers(0, 9)) > 0, agent_limits=limits)

    play_on(data.draw, play)  # raises Broken


@settings(max_examples=75, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_every_prefix_of_a_log_is_a_state_that_the_rest_can_be_folded_into(
    document: Plan, n: int, data: st.DataObject
) -> None:
    play = Play(document, inputs={"n": n})
    play_on(data.draw, play)
    cut = data.draw(st.integers(0, len(play.log)))

    before = fold(HERE, play.log[:cut])

    assert before.number == cut
    assert before.status in PlanStatus


@settings(max_examples=200, deadline=None)
@given(document=plans(), n=st.integers(-1, 3))
def test_every_plan_ends_if_agents_and_people_do_what_they_are_asked(document: Plan, n: int) -> None:
    play = Play(document, inputs={"n": n})

    for _ in range(500):
        if play.state.status in ENDED:
            break
        if dispatched := play.in_status(StepStatus.DISPATCHED):
            play.completes(dispatched[0])
        elif gates := play.in_status(StepStatus.WAITING):
            play.votes(gates[0], by="grace" if play.state.steps[gates[0]].votes else "ada")
        else:
            break  # a check that does not hold, or a decision without a branch: people are asked

    play.finish()
    assert play.state.status in ENDED or play.state.status is PlanStatus.PAUSED


@settings(max_examples=75, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_a_command_that_is_delivered_again_changes_nothing(document: Plan, n: int, data: st.DataObject) -> None:
    play = Play(document, inputs={"n": n})
    command = data.draw(
        st.sampled_from(
            [
                asks.PausePlan(id="again"),
                asks.CancelPlan(id="again"),
                asks.SkipStep(id="again", step="s0", reason="no need"),
                asks.RetryStep(id="again", step="s0", attempt=1),
            ]
        )
    )
    play.ask(command)
    before = play.state

    assert play.ask(command) == []
    assert play.state == before
