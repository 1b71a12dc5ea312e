"""What a command would do, and that it does exactly that."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import Play, gate, plan, plans, play_on, revised, task

from planmesh.executor.plan import decide
from planmesh.frontier import Frontier, frontier
from planmesh.schemas import commands as asks
from planmesh.schemas.commands import AnyCommand, Asked
from planmesh.schemas.events import CommandRefused, GateOpened, StepDispatched
from planmesh.schemas.plan import Emit, Plan
from planmesh.schemas.state import ENDED, StepStatus


def foreseen(play: Play, *commands: tuple[AnyCommand, str]) -> Frontier:
    """What would become of the plan; the plan itself stays as it is."""
    state = play.state
    for command, by in commands:
        state = decide(state, Asked(command, by, play.at)).state
    return frontier(play.state, state)


def with_steps(document: Plan, *steps: Any) -> Plan:
    return msgspec.structs.replace(document, steps=steps)


def a_revision(play: Play, document: Plan, **fields: Any) -> tuple[tuple[AnyCommand, str], ...]:
    request = asks.RevisePlan(id="revise", base=play.state.revision, document={}, **fields)
    return ((request, "ada"), (asks.ProposeRevision(id="p", request="revise", plan=document), "planner"))


def fates(seen: Frontier) -> dict[str, str]:
    return {step.step: step.fate for step in seen.steps}


def test_a_retry_runs_the_failed_step_again_and_then_what_is_behind_it() -> None:
    play = Play(plan(task("a"), task("b", "a"), task("c", "b"), task("d", "a")))
    play.completes("a")
    play.fails("b", retryable=False)

    seen = foreseen(play, (asks.RetryStep(id="r", step="b", attempt=1), "ada"))

    assert fates(seen) == {"a": "kept", "b": "again", "c": "next", "d": "running"}
    (b,) = [step for step in seen.steps if step.step == "b"]
    assert (b.was, b.attempt, b.agent) == ("failed", 2, "agent")


def test_a_skip_and_a_cancellation_say_what_goes_on_and_what_goes() -> None:
    play = Play(plan(task("a", optional=True), task("b", "a"), task("c")))
    play.fails("a", retryable=False)

    skipped = foreseen(play, (asks.SkipStep(id="s", step="a"), "ada"))
    cancelled = foreseen(play, (asks.CancelPlan(id="c", step="a"), "ada"))
    ended = foreseen(play, (asks.CancelPlan(id="c"), "ada"))

    assert fates(skipped) == {"a": "skipped", "b": "next", "c": "running"}
    assert fates(cancelled) == {"a": "dropped", "b": "dropped", "c": "running"}
    assert (fates(ended), ended.status) == ({"a": "dropped", "b": "dropped", "c": "dropped"}, "cancelled")


def test_a_revision_says_what_is_kept_new_changed_and_dropped_and_which_gates_ask_again() -> None:
    play = Play(plan(gate("g"), task("a", "g"), task("b", "a"), task("c", "b"), gate("h")))
    play.votes("g")
    play.completes("a")

    document = with_steps(
        play.document, gate("g"), task("a", "g"), task("b", "a"), task("d", "a", inputs={"x": 1}), gate("h")
    )
    seen = foreseen(play, *a_revision(play, document))

    assert fates(seen) == {"g": "asks", "a": "kept", "b": "running", "d": "new", "h": "open", "c": "dropped"}
    assert (seen.base, seen.revision) == (1, 2)
    (d,) = [step for step in seen.steps if step.step == "d"]
    assert d.change is not None
    assert {field.field for field in d.change.fields} >= {"agent", "inputs"}


def test_nothing_of_a_plan_that_stands_still_is_said_to_go_on() -> None:
    play = Play(plan(task("a"), task("b"), gate("g")))
    play.fails("a", retryable=False)
    play.loses("b")

    seen = foreseen(play, (asks.PausePlan(id="p"), "ada"))

    assert fates(seen) == {"a": "stands", "b": "stands", "g": "open"}


COMMANDS = st.sampled_from(["retry", "skip", "cancel", "cancel step", "revise", "pause step", "resume step"])


def a_command(draw: Any, play: Play) -> tuple[tuple[AnyCommand, str], ...]:
    step = draw(st.sampled_from(sorted(play.state.graph.steps)))
    match draw(COMMANDS):
        case "retry":
            troubled = play.state.troubled or (step,)
            step = draw(st.sampled_from(troubled))
            return ((asks.RetryStep(id="it", step=step, attempt=play.state.steps[step].attempt), "ada"),)
        case "skip":
            return ((asks.SkipStep(id="it", step=step, reason="so"), "ada"),)
        case "cancel":
            return ((asks.CancelPlan(id="it"), "ada"),)
        case "cancel step":
            return ((asks.CancelPlan(id="it", step=step), "ada"),)
        case "pause step":
            return ((asks.PausePlan(id="it", step=step), "ada"),)
        case "resume step":
            return ((asks.ResumePlan(id="it", step=step), "ada"),)
        case _:
            return a_revision(play, revised(draw, play), cancel_running=draw(st.booleans()))


@settings(max_examples=150, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_what_then_happens_is_exactly_that(document: Plan, n: int, data: st.DataObject) -> None:
    play = Play(document, inputs={"n": n})
    play_on(data.draw, play, most_moves=25)
    if play.state.status in ENDED:
        return
    commands = a_command(data.draw, play)
    seen = foreseen(play, *commands)
    before = len(play.events)

    for command, by in commands:
        play.ask(command, by, later_s=0)
    assert frontier_of(play, seen) == fates(seen)
    while (play.state.held or play.state.held_steps) and play.state.status not in ENDED:
        play.ask(asks.ResumePlan(id=play.id(), step=None if play.state.held else play.state.held_steps[0]))
    go_on(play)

    begun = {event.step for event in play.events[before:] if isinstance(event, StepDispatched)}
    asked = {event.step for event in play.events[before:] if isinstance(event, GateOpened) and not event.because}
    to_run = set(seen.of("again", "new", "changed", "next", "paused"))
    due = {step.step for step in seen.steps if step.fate == "running" and step.was == "waiting"}
    assert {foreseen_as(name, play, seen) for name in begun} <= to_run | due  # what is kept is never run again
    assert {foreseen_as(name, play, seen) for name in asked} <= set(
        seen.of("asks", "new", "changed", "next", "paused", "again")
    )
    completed = play.state.status == "completed" and not any(isinstance(one, Emit) for one in play.state.plan.steps)
    if completed:
        ran = {name for name, step in play.state.steps.items() if step.status is not StepStatus.NOT_TAKEN}
        tasks = {step.step for step in seen.steps if step.kind == "task"}
        assert begun & fates(seen).keys() - due == to_run & tasks & ran


def frontier_of(play: Play, seen: Frontier) -> dict[str, str]:
    """What was foreseen, as far as the plan has it now: every step, and no other."""
    gone = {step.step: step.fate for step in seen.steps if step.step not in play.state.graph.steps}
    assert set(gone.values()) <= {"dropped"}
    assert play.state.status == seen.status
    assert play.state.revision == seen.revision
    known = fates(seen)
    there = (name for name in play.state.graph.steps if foreseen_as(name, play, seen) == name)
    return {name: known[name] for name in there} | gone


def foreseen_as(name: str, play: Play, seen: Frontier) -> str:
    """The step itself; or the `each` that had no items yet."""
    item = play.state.graph.items.get(name)
    return name if item is None or name in fates(seen) else item.each


def go_on(play: Play) -> None:
    """Everybody does what they are asked."""
    for _ in range(300):
        if play.state.status in ENDED:
            return
        if dispatched := play.in_status(StepStatus.DISPATCHED):
            play.completes(dispatched[0], by=play.state.steps[dispatched[0]].agent)
        elif waiting := play.in_status(StepStatus.WAITING):
            step = play.state.steps[waiting[0]]
            if step.opened is None:
                play.is_due(waiting[0])
            else:
                people = (name for name in ("ada", "grace", "alan", "mary") if name not in step.votes)
                play.votes(waiting[0], by=next(people))
        else:
            return


@pytest.mark.parametrize("verb", ["retry", "skip"])
def test_what_would_be_refused_changes_nothing(verb: str) -> None:
    play = Play(plan(task("a"), task("b", "a")))
    command: AnyCommand = (
        asks.RetryStep(id="it", step="a", attempt=1) if verb == "retry" else asks.SkipStep(id="it", step="a")
    )

    decision = decide(play.state, Asked(command, "ada", play.at))

    assert [type(event) for event in decision.events] == [CommandRefused]
    assert fates(frontier(play.state, decision.state)) == {"a": "running", "b": "next"}
