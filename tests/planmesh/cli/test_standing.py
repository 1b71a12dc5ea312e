"""Where a plan stands still, and what can be done: commands that work."""

import re
import shlex
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import Play, gate, plan, plans, play_on, question, task

from planmesh.cli.standing import account, agents_asked, stops
from planmesh.cli.view import of_state
from planmesh.executor.plan import decide
from planmesh.schemas import commands as asks
from planmesh.schemas.answers import typed
from planmesh.schemas.commands import Asked
from planmesh.schemas.events import AskOpened, CommandRefused, GateOpened


def commands(play: Play, command: str = "planmesh") -> list[str]:
    return [remedy.command for stop in stops(of_state(play.state), command) for remedy in stop.remedies]


def told(play: Play, width: int = 100) -> list[str]:
    lines = account(of_state(play.state), play.at + timedelta(minutes=2), width)
    return [line.plain.rstrip() for line in lines]


def test_a_plan_that_goes_on_stands_nowhere(release: Play) -> None:
    assert commands(release) == []
    assert told(release) == []


def test_an_ended_plan_stands_nowhere(asked: Play) -> None:
    asked.ask(asks.CancelPlan(id="c"))

    assert commands(asked) == []


def test_a_draft_can_be_started() -> None:
    assert commands(Play(plan(task("a")), start=False)) == ["planmesh start plan"]


def test_a_paused_plan_can_be_resumed(release: Play) -> None:
    release.ask(asks.PausePlan(id="p", reason="lunch"))

    assert commands(release) == ["planmesh resume plan"]
    assert "  Why         ada has paused it: lunch." in told(release)


def test_a_paused_step_can_be_resumed(release: Play) -> None:
    release.ask(asks.PausePlan(id="p", step="approve"))

    assert commands(release) == ["planmesh resume plan approve"]


def test_an_open_gate_can_be_read_approved_and_rejected(asked: Play) -> None:
    opened = asked.state.steps["approve"].opened
    assert opened is not None

    assert commands(asked, "planmesh --data-dir /data") == [
        "planmesh --data-dir /data gates show plan approve",
        f"planmesh --data-dir /data gates approve plan approve --digest {opened.digest[:16]}",
        "planmesh --data-dir /data gates reject plan approve",
    ]


def test_a_failed_step_can_be_retried_and_skipped_only_if_it_is_optional(release: Play) -> None:
    release.fails("docs", retryable=False)
    release.fails("build", retryable=False)

    assert commands(release) == [
        "planmesh steps plan build",
        "planmesh retry plan build",
        "planmesh retry plan build --agent NAME",
        "planmesh steps plan docs",
        "planmesh retry plan docs",
        "planmesh retry plan docs --agent NAME",
        "planmesh skip plan docs",
    ]
    assert "    planmesh revise plan FILE               go on from here by another plan" in told(release)


def test_an_unknown_outcome_can_be_resolved(release: Play) -> None:
    release.loses("build")

    assert commands(release) == [
        "planmesh resolve plan build --done",
        "planmesh resolve plan build --not-done",
        "planmesh retry plan build",
    ]


def test_a_gate_that_wants_a_reason_is_offered_with_one() -> None:
    play = Play(plan(gate("ok", require_reason=True, optional=True)))

    assert "planmesh gates reject plan ok --reason WHY" in commands(play)
    assert "planmesh skip plan ok --reason WHY" in commands(play)


def test_what_is_overdue_says_so() -> None:
    play = Play(plan(gate("ok"), question("how", prompt="How?")))
    assert "It is overdue" not in " ".join(told(play))

    for step in ("ok", "how"):
        play.is_due(step, attempt=1, purpose="sla")

    assert " ".join(told(play)).count("It is overdue.") == 2


def test_a_wait_for_the_next_attempt_needs_nobody(release: Play) -> None:
    release.completes("docs")
    release.fails("build")

    assert len(told(release)) == 1
    assert told(release)[0].startswith("  Nothing to do: it goes on by itself at ")


def test_the_account_says_where_since_when_why_and_what(asked: Play) -> None:
    lines = told(asked)

    assert re.fullmatch(r"  Waits at    approve, since \d\d:\d\d:\d\d \(2 m ago\)", lines[0])
    assert lines[1] == "  Why         A person has to decide (role:operator). Deploy to staging?"
    assert lines[3] == "  What you can do"
    assert lines[-1].split("  ")[2] == "planmesh cancel plan"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_commands_are_whole_however_narrow_the_terminal_is(asked: Play, width: int) -> None:
    lines = [line.strip() for line in told(asked, width)]

    for command in commands(asked):
        assert any(line.startswith(command) for line in lines)


def test_a_hostile_failure_is_shown_harmless() -> None:
    play = Play(plan(task("a")))
    play.ask(asks.PausePlan(id="p", reason="\x1b[2J\u202e[red]"))

    assert "ada has paused it: \\x1b[2J\\u202e[red]." in told(play)[1]


def command_of(words: list[str], play: Play) -> asks.AnyCommand:
    """What the command line makes of these words."""
    verb, *rest = words[1:]
    reason = "so" if "--reason" in rest else ""
    step = rest[1] if len(rest) > 1 else ""
    attempt = play.state.steps[step].attempt if step in play.state.steps else 0
    match verb:
        case "start":
            return asks.StartPlan(id="x")
        case "resume":
            return asks.ResumePlan(id="x", step=step or None)
        case "retry":
            agent = "other" if "--agent" in rest else None
            return asks.RetryStep(id="x", step=step, attempt=attempt, agent=agent)
        case "skip":
            return asks.SkipStep(id="x", step=step, reason=reason)
        case "resolve":
            return asks.ResolveStep(id="x", step=step, attempt=attempt, done="--done" in rest)
        case "answer":
            asked = play.state.steps[step].opened
            assert isinstance(asked, AskOpened)
            if asked.secret:
                return asks.AnswerAsk(id="x", step=step, digest=asked.digest, secret="kept")
            value = typed({"NUMBER": "7", "VALUE": "so"}.get(rest[2], rest[2]), asked.answer)
            return asks.AnswerAsk(id="x", step=step, digest=asked.digest, value=value)
        case "gates":
            decision: Any = rest[0]
            opened = play.state.steps[rest[2]].opened
            assert opened is not None
            assert "--digest" not in rest or opened.digest.startswith(rest[rest.index("--digest") + 1])
            reason = "so" if "--reason" in rest else ""
            return asks.CastVote(id="x", step=rest[2], digest=opened.digest, decision=decision, reason=reason)
    raise AssertionError(words)


@settings(max_examples=60)
@given(st.data())
def test_whatever_is_offered_is_carried_out(data: st.DataObject) -> None:
    play = Play(data.draw(plans()), inputs={"n": data.draw(st.integers(0, 2))})
    play_on(data.draw, play, most_moves=30)

    for command in commands(play):
        words = shlex.split(command)
        if words[1:3] == ["gates", "show"] or words[1] in ("show", "steps"):
            continue
        # By someone who has not voted yet: who has is refused, whatever the plan.
        decision = decide(play.state, Asked(command_of(words, play), "someone", play.at))
        refused, *others = decision.events
        if isinstance(refused, CommandRefused):
            if refused.verb == "answer" and refused.code == "not_a_reviewer":
                continue  # it is for those whom the account names
            # What it would let go has changed: then it asks again, and the account has the new digest.
            assert refused.code == "stale", (command, refused)
            assert isinstance(others[0], GateOpened)


def test_a_step_whose_agent_nobody_runs_says_so_with_what_to_run(release: Play) -> None:
    view = of_state(release.state)

    (stop,) = stops(view, "planmesh", {"agent", "other"})

    assert stop.at == "build and docs"
    assert stop.why.startswith("Nobody runs the agent agent")
    assert stop.remedies[0].command == "planmesh up --agents MODULE"
    release.completes("build")
    (stop,) = stops(of_state(release.state), "planmesh", {"agent"})
    assert stop.at == "docs"
    assert agents_asked(of_state(release.state)) == ["agent"]
