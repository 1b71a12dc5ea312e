"""What happened, in words."""

import typing

import msgspec
import pytest
from plays import TOLD, Play, plan, question, task

from planmesh.cli.history import Entry, entries, line, table, tell
from planmesh.schemas import commands as asks
from planmesh.schemas.events import AnyEvent, StepFailed
from planmesh.schemas.work import Failure


def told(play: Play) -> list[Entry]:
    agents: dict[str, str] = {}
    return [entry for commit, _ in play.log for entry in entries(commit, agents)]


def test_a_plan_is_told_from_its_beginning_to_its_end(asked: Play) -> None:
    asked.votes("approve")
    asked.fails("deploy", retryable=False)
    asked.retries("deploy")
    asked.completes("deploy")

    assert [entry.sentence for entry in told(asked)] == [
        "plan created with 5 steps by space: A plan",
        "plan started by planner",
        "build handed out to agent",
        "docs handed out to agent",
        "build completed in 0.5 s by agent",
        "docs completed in 0.5 s by agent",
        "approve opened for role:operator: Deploy to staging?",
        "plan waiting at approve",
        "approve given a vote by ada: so",
        "approve approved by ada: so",
        "deploy handed out to agent",
        "plan goes on after a word of ada",
        "deploy failed by agent: agent_error: it broke",
        "plan paused: deploy failed (agent_error): it broke",
        "deploy reopened by ada",
        "deploy handed out (attempt 2) to agent",
        "plan goes on after a word of ada",
        "deploy completed in 0.5 s (attempt 2) by agent",
        "done completed",
        "plan completed: Released",
    ]


def test_a_secret_is_told_by_who_entered_it() -> None:
    play = Play(plan(question("key", secret=True), task("use", "key", inputs={"key": "{key.value}"})))
    play.answers("key", "1")

    assert [entry.sentence for entry in told(play)][2:5] == [
        "key asked of role:operator and service:space",
        "plan waiting at key",
        "key answered with a secret by ada: so",
    ]


def test_a_refusal_is_told_with_its_code(release: Play) -> None:
    release.ask(asks.ResumePlan(id="r"))

    assert told(release)[-1].sentence == (
        "plan resume refused (not_paused) by ada: nobody has paused the plan; it is running"
    )


def test_resuming_a_plan_of_which_only_a_step_is_paused_names_the_step(release: Play) -> None:
    release.ask(asks.PausePlan(id="p", step="approve"))

    release.ask(asks.ResumePlan(id="r"))

    assert told(release)[-1].sentence == (
        "plan resume refused (not_paused) by ada: nobody has paused the plan, but these of its "
        "steps: approve; it is running"
    )


def test_an_agents_words_are_harmless_and_on_one_line() -> None:
    failure = Failure(code="agent_error", type="Boom", message="one\ntwo \x1b]0;title\x07 [red]x[/red]")

    assert tell(StepFailed(step="s", attempt=1, failure=failure)).why == (
        "Boom: one two \\x1b]0;title\\x07 [red]x[/red]"
    )


def test_what_an_attempt_called_and_was_denied_is_told() -> None:
    play = Play(plan(task("write")))
    play.completes("write", **TOLD)

    assert [entry.sentence for entry in told(play)][-3:-1] == [
        "write denied tool send by agent: the step does not name it",
        "write completed in 0.5 s with 1 model call, 1 tool call, 7 tokens in, 5 out by agent",
    ]


def test_lines_and_tables_have_the_time_first(release: Play) -> None:
    first = told(release)[0]

    assert line(first, first.at).plain.endswith(" plan created with 5 steps by space: A plan")
    assert table(told(release), first.at)[0].plain.split() == ["TIME", "NO", "STEP", "WHO", "WHAT"]


def _minimal(kind: type[msgspec.Struct]) -> dict[str, typing.Any]:
    """The fewest fields that make an event, by their types."""
    fields = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            fields[field.encode_name] = _value(field.type)
    return fields


def _value(kind: typing.Any) -> typing.Any:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _value(typing.get_args(kind)[0])
    if origin is typing.Literal:
        return typing.get_args(kind)[0]
    if origin is tuple:
        return [_value(typing.get_args(kind)[0])]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        tag = kind.__struct_config__.tag
        return {**({kind.__struct_config__.tag_field: tag} if tag else {}), **_minimal(kind)}
    plain = {str: "some", int: 1, bool: True, float: 1.0}
    if kind in plain:
        return plain[kind]
    if origin is dict or kind is dict:
        return {}
    if typing.get_args(kind):
        return _value(typing.get_args(kind)[0])
    return "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("kind", typing.get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_words(kind: type[msgspec.Struct]) -> None:
    fields = {**_minimal(kind), "type": kind.__struct_config__.tag}
    event: AnyEvent = msgspec.convert(fields, kind)

    assert tell(event).what


def test_what_a_person_says_was_not_done_is_told_as_theirs() -> None:
    play = Play(plan(task("pay")))
    play.loses("pay")
    play.ask(asks.ResolveStep(id="r", step="pay", attempt=1, done=False, reason="the bank says no"), by="ada")

    (failed,) = [entry for entry in told(play) if entry.type == "step.failed"]

    assert failed.told.who == "ada"
    assert failed.sentence == "pay failed by ada: not_done: the bank says no"


def test_the_end_of_a_traceback_is_told_if_it_is_asked_for() -> None:
    frames = "".join(f'  File "agent.py", line {number}, in work\n' for number in range(40))
    failure = Failure(code="agent_error", message="it broke", traceback=f"{frames}ValueError: \x1b[2J no\n")
    play = Play(plan(task("a")))
    play.ask(asks.ReportUnfit(id="u", step="a", attempt=1, failure=failure), by="executor")
    agents: dict[str, str] = {}
    quiet, verbose = (
        [entry for commit, _ in play.log for entry in entries(commit, agents, verbose=asked)] for asked in (False, True)
    )

    shown = [line.plain for line in table(verbose, play.at)]

    assert len(shown) - len(table(quiet, play.at)) == 13
    assert any(line == '      File "agent.py", line 39, in work' for line in shown)
    assert any(line.endswith("ValueError: \\x1b[2J no") for line in shown)
