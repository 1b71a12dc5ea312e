"""Whatever happens to a plan, in whatever order: the promises hold."""

from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, HERE, Play, fitting, plans, play_on

from planmesh.executor.plan import decide
from planmesh.executor.turn import possible
from planmesh.schemas import commands as asks
from planmesh.schemas.commands import AnyCommand, Asked
from planmesh.schemas.events import AskOpened, CommandRefused
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import ENDED, PlanStatus, StepStatus, fold, open_asks


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
            play.does(dispatched[0])
        elif asking := open_asks(play.state):
            play.is_answered(asking[0])
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


@settings(max_examples=100, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_what_is_said_to_be_possible_is_carried_out(document: Plan, n: int, data: st.DataObject) -> None:
    play = Play(document, inputs={"n": n}, start=data.draw(st.integers(0, 9)) > 0)
    play_on(data.draw, play, most_moves=30)

    for step in ("", *play.state.graph.steps):
        for verb in possible(play.state, step):
            command = a_command(play, verb, step)
            answer = decide(play.state, Asked(command, "somebody-else", play.at)).events[0]
            # What a gate releases may have become known since it asked: then it asks again, and the vote is too early.
            too_early = isinstance(answer, CommandRefused) and verb == "vote" and answer.code == "stale"
            # Whoever may answer an ask can; not everybody may.
            of_others = isinstance(answer, CommandRefused) and verb == "answer" and answer.code == "not_a_reviewer"
            refused = isinstance(answer, CommandRefused) and not (too_early or of_others)
            assert not refused, f"{verb} {step}: {answer}"


def a_command(play: Play, verb: str, step: str) -> AnyCommand:
    state = play.state.steps.get(step)
    attempt, opened = (0, None) if state is None else (state.attempt, state.opened)
    digest = opened.digest if opened is not None else ""
    match verb:
        case "start":
            return asks.StartPlan(id="it")
        case "pause":
            return asks.PausePlan(id="it", step=step or None)
        case "resume":
            return asks.ResumePlan(id="it", step=step or None)
        case "cancel":
            return asks.CancelPlan(id="it", step=step or None)
        case "retry":
            return asks.RetryStep(id="it", step=step, attempt=attempt)
        case "skip":
            return asks.SkipStep(id="it", step=step, reason="so")
        case "resolve":
            return asks.ResolveStep(id="it", step=step, attempt=attempt, done=True)
        case "answer":
            assert isinstance(opened, AskOpened)  # or it could not be answered
            given = {"secret": "kept"} if opened.secret else {"value": fitting(opened)}
            return asks.AnswerAsk(id="it", step=step, digest=digest, **given)
        case "redirect":
            return asks.RedirectPlan(id="it", step=step, digest=digest, document={})
        case "vote":
            return asks.CastVote(id="it", step=step, digest=digest, decision="reject", reason="so")
        case _:
            return asks.RevisePlan(id="it", base=play.state.revision, document={})
