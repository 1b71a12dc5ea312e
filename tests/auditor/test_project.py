"""The tables equal the fold of the log, however it is cut into transactions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from auditor_tables import Audited, moved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plays import AGENT, START, Play, gate, plan, plans, play_on, task

from planmesh.auditor.read import Refused
from planmesh.cli.view import gate_row
from planmesh.schemas import commands as asks
from planmesh.schemas import queries
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import ReportResult
from planmesh.schemas.events import (
    GENESIS,
    AnyEvent,
    CommandRefused,
    Commit,
    PlanCreated,
    PlanRefused,
    PlanStarted,
    hash_of,
)
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import Blob, Payload
from planmesh.schemas.plan import Each, Plan, Task
from planmesh.schemas.state import PlanState, fold, open_asks, open_gates
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AttemptCompleted

Tables = Callable[..., Audited]
A_DAY = timedelta(days=1)


def time_of(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)


def commit_of(event: AnyEvent, after: tuple[Commit, str] | None = None) -> tuple[Commit, str]:
    """The first commit of a plan, or the one after another."""
    number, at, previous = 1, START, GENESIS
    if after is not None:
        number, at, previous = after[0].number + 1, after[0].at + timedelta(seconds=1), after[1]
    commit = Commit(space="space", plan="plan", number=number, at=at, causes=(), events=(event,), previous=previous)
    return commit, hash_of(encode(commit))


def expect_equal(audited: Audited, state: PlanState) -> None:
    """What the tables answer about a plan is what its state says."""
    at = state.address
    answer = audited.ask(queries.PlanQuery(plan=at.plan, space=at.space))
    assert (answer.document, answer.inputs) == (state.plan, state.created.inputs if state.created else {})
    assert answer.result == state.result
    row = answer.plan
    assert (row.status, row.reason, row.by, row.outcome, row.held) == (
        state.status,
        state.reason,
        state.by,
        state.outcome,
        state.held,
    )
    assert (row.steps, row.settled, row.running) == (len(state.steps), len(state.steps) - state.open, state.running)
    assert (row.created_at, row.updated_at, row.ended_at) == (state.created_at, state.updated_at, state.ended_at)
    assert (row.number, row.gates, row.troubled) == (state.number, tuple(open_gates(state)), state.troubled)
    assert row.asks == tuple(open_asks(state))
    assert (row.name, row.revision, row.held_steps) == (state.plan.name, state.revision, state.held_steps)

    steps = audited.ask(queries.StepsQuery(plan=at.plan, space=at.space)).steps
    assert [step.step for step in steps] == [*state.graph.steps, *sorted(state.superseded)]
    for found in steps:
        if found.step in state.superseded:
            assert (found.status, found.attempt) == ("superseded", state.superseded[found.step].attempt)
            continue
        step, document = state.steps[found.step], state.graph.steps[found.step]
        assert (found.label, found.optional, found.held) == (document.label, document.optional, step.held)
        assert not isinstance(document, Task) or found.agent == document.agent
        assert (found.status, found.since, found.attempt) == (step.status, step.since, step.attempt)
        assert (found.output, found.failure, found.reason) == (step.output, step.failure, step.reason)
        assert (found.votes, found.branch, found.retry_at) == (step.votes, step.label, step.retry_at)
        assert found.needs == state.graph.needs[found.step]
        if found.kind == "task" and step.status == "completed":
            assert (found.worker, found.version) == (step.worker, step.version)
            assert found.started_at == step.started_at

    gates = audited.ask(queries.GatesQuery(plan=at.plan, space=at.space)).gates
    assert {one.step: one for one in gates} == {
        name: gate_row(state, name) for name in (*open_gates(state), *open_asks(state))
    }


def log_of(audited: Audited, at: Address) -> list[queries.LogLine]:
    lines: list[queries.LogLine] = []
    number, index = 1, 0
    while True:
        answer = audited.ask(queries.LogQuery(plan=at.plan, space=at.space, number=number, index=index, limit=7))
        lines.extend(answer.lines)
        if answer.next is None:
            return lines
        number, index = answer.next


@pytest.fixture
def two_tables(tables_in: Tables) -> tuple[Audited, Audited]:
    return tables_in("a.db"), tables_in("b.db")


# The tables are used again, by plans with other names: making them takes longer than all the rest.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_the_tables_equal_the_fold_of_the_log(
    two_tables: tuple[Audited, Audited], document: Plan, n: int, data: st.DataObject
) -> None:
    audited, one_by_one = two_tables
    before = audited.position.sequence
    play = Play(document, inputs={"n": n}, start=data.draw(st.integers(0, 9)) > 0)
    play_on(data.draw, play)
    this, that = Address("this", f"plan-{before}"), Address("that", f"plan-{before}")
    logs = [moved(play.log, this), moved(play.log, that)]
    both = [commit for pair in zip(*logs, strict=True) for commit in pair]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(both)), max_size=8)) | {0, len(both)})

    for start, end in pairwise(cuts):
        audited.add(*both[start:end])
    for commit in both:
        one_by_one.add(commit)

    expect_equal(audited, fold(this, logs[0]))
    expect_equal(audited, fold(that, logs[1]))
    assert [(line.number, line.index, line.type, bytes(line.event)) for line in log_of(audited, this)] == [
        (commit.number, index, event.__struct_config__.tag, encode(event))
        for commit, _ in logs[0]
        for index, event in enumerate(commit.events)
    ]
    assert audited.dump(before) == one_by_one.dump(before)


def test_an_attempt_shows_what_it_was_given_and_who_did_it(tables_in: Tables) -> None:
    build, ship = task("build"), task("ship", "build", inputs={"what": "{build.name}", "n": "{n}", "x": 1})
    play = Play(plan(build, ship), inputs={"n": 3})
    play.completes("build", output={"name": "wheel"})
    play.fails("ship", retryable=False)
    play.retries("ship")
    audited = tables_in()
    audited.add(*play.log)

    first, second = audited.ask(queries.StepsQuery(plan="plan")).steps

    assert (first.agent, first.worker, first.version, first.duration_s) == (AGENT, "here/1", "1", 0.5)
    assert first.inputs == Payload(value={})
    assert (second.needs, second.attempt, second.status) == (("build",), 2, "dispatched")
    assert second.inputs == Payload(value={"what": "wheel", "n": 3, "x": 1})
    assert (second.worker, second.started_at, second.duration_s) == ("", None, None)
    assert second.dispatched_at == second.since == play.at


def test_a_revision_is_what_the_tables_show_from_then_on(tables_in: Tables) -> None:
    audited = tables_in()
    play = Play(plan(task("build"), gate("release", "build"), task("ship", "release")))
    play.completes("build")
    before = len(play.log)
    steps = (task("build"), task("test", "build"), task("ship", "test", label="Ship it"))
    revised = Plan(name="Another plan", steps=steps)
    play.revises(revised)
    audited.add(*play.log[:before])
    audited.add(*play.log[before:])

    answer = audited.ask(queries.PlanQuery(plan="plan"))
    found = audited.ask(queries.StepsQuery(plan="plan")).steps

    assert (answer.plan.name, answer.plan.revision, answer.plan.steps) == ("Another plan", 2, 3)
    assert answer.document == revised
    assert [(step.step, step.status, step.label) for step in found] == [
        ("build", "completed", ""),
        ("test", "dispatched", ""),
        ("ship", "pending", "Ship it"),
        ("release", "superseded", ""),
    ]
    assert found[0].inputs == Payload(value={})
    assert audited.ask(queries.GatesQuery()).gates == ()


def test_the_steps_of_items_are_there_once_the_items_are_known(tables_in: Tables) -> None:
    audited = tables_in()
    each = Each(name="all", after=("list",), items="list", steps=(task("build"), gate("look", "build")))
    play = Play(plan(task("list"), each, task("report", "all")))
    audited.add(*play.log)
    for move in (lambda: play.completes("list", output=[7, 8]), lambda: play.completes("build_1")):
        move()
        audited.add(play.log[-1])
        expect_equal(audited, play.state)

    found = audited.ask(queries.StepsQuery(plan="plan")).steps

    assert [(step.step, step.status) for step in found] == [
        ("list", "completed"),
        ("all", "pending"),
        ("report", "pending"),
        ("build_1", "completed"),
        ("look_1", "waiting"),
        ("build_2", "dispatched"),
        ("look_2", "pending"),
    ]


def test_large_inputs_are_a_digest_and_large_outputs_a_reference(tables_in: Tables) -> None:
    whole = Blob(sha256="a" * 64, size_bytes=9_000_000)
    play = Play(plan(task("read"), task("use", "read", inputs={"all": "{read}", "pad": "x" * 300_000})))
    play.ask(
        ReportResult(
            AttemptCompleted(
                space="space",
                plan="plan",
                step="read",
                attempt=1,
                output=Payload(blob=whole),
                started_at=play.at,
                duration_s=1.0,
            )
        ),
        AGENT,
    )
    audited = tables_in()
    audited.add(*play.log)

    read, use = audited.ask(queries.StepsQuery(plan="plan")).steps

    assert read.output == Payload(blob=whole)
    assert use.inputs.blob is not None
    assert use.inputs.blob.size_bytes > 300_000


def test_a_gate_shows_how_long_it_was_open(tables_in: Tables) -> None:
    play = Play(plan(task("build"), gate("release", "build"), task("ship", "release")))
    play.completes("build")
    opened_at = play.at
    play.at += timedelta(minutes=5)
    play.votes("release")
    audited = tables_in()
    audited.add(*play.log)

    release = audited.ask(queries.StepsQuery(plan="plan")).steps[1]

    assert (release.started_at, release.finished_at, release.duration_s) == (opened_at, play.at, 301.0)
    assert release.votes == ("ada",)
    assert audited.ask(queries.GatesQuery()).gates == ()


def test_a_command_that_came_before_its_plan_is_in_the_log_and_nowhere_else(tables_in: Tables) -> None:
    refused = CommandRefused(verb="cancel", by="ada", code="ended", reason="the plan is unknown", step="build")
    document = plan(task("build"), gate("release"))
    created = PlanCreated(plan=document, requester="space", goal_digest="d", goal="Ship it")
    early = commit_of(refused)
    late = commit_of(created, early)
    later = commit_of(PlanStarted(by="ada"), late)
    split, whole = tables_in("split.db"), tables_in("whole.db")

    split.add(early)
    with pytest.raises(Refused, match="there is no plan plan"):
        split.ask(queries.PlanQuery(plan="plan"))
    assert split.ask(queries.PlansQuery()).plans == ()
    assert [line.type for line in split.ask(queries.LogQuery(plan="plan")).lines] == ["command.refused"]

    split.add(late)
    split.add(later)
    whole.add(early, late, later)

    answer = split.ask(queries.PlanQuery(plan="plan"))
    assert (answer.plan.status, answer.plan.goal, answer.plan.number) == ("running", "Ship it", 3)
    assert [step.step for step in split.ask(queries.StepsQuery(plan="plan")).steps] == ["build", "release"]
    assert split.dump() == whole.dump()


def test_a_goal_that_was_refused_is_a_row_with_its_problems(tables_in: Tables) -> None:
    problem = Problem(code="unknown_agent", message="no agent is called ghost", pointer="/steps/0/agent")
    refused = PlanRefused(problems=(problem,), goal="Ship it", name="Ship", requester="space", goal_digest="d")
    audited = tables_in()
    audited.add(commit_of(refused))

    answer = audited.ask(queries.PlanQuery(plan="plan"))

    assert (answer.plan.status, answer.plan.name, answer.plan.goal) == ("refused", "Ship", "Ship it")
    assert (answer.problems, answer.document) == ((problem,), None)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 1, 1, 10, tzinfo=UTC)),
        (datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 12, tzinfo=UTC)),  # noqa: DTZ001
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), None),
        (datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=14))), None),
    ],
)
def test_the_clock_of_an_agent_may_say_anything(tables_in: Tables, told: datetime, kept: datetime | None) -> None:
    play = Play(plan(task("build")))
    result = AttemptCompleted(
        space="space", plan="plan", step="build", attempt=1, output=Payload(), started_at=told, duration_s=1e308
    )
    play.ask(ReportResult(result), AGENT)
    audited = tables_in()
    batch = audited.add(*play.log)

    (build,) = audited.ask(queries.StepsQuery(plan="plan")).steps

    assert (build.started_at, build.duration_s) == (kept, 1e308)
    assert all(START <= time_of(span.start_ns) <= time_of(span.end_ns) <= play.at + A_DAY for span in batch.spans)


def test_text_that_a_database_cannot_hold_is_made_visible(tables_in: Tables) -> None:
    play = Play(plan(task("build"), goal="one\0two"))
    play.ask(asks.PausePlan(id="pause", reason="three\0four"))
    audited = tables_in()
    audited.add(*play.log)

    answer = audited.ask(queries.PlanQuery(plan="plan"))

    assert answer.plan.reason == "three\ufffdfour"
    assert answer.document.goal == "one\0two"


def test_a_plan_of_many_steps_comes_in_pages(tables_in: Tables) -> None:
    document = plan(*(task(f"s{number}") for number in range(2_500)))
    audited = tables_in()
    audited.add(commit_of(PlanCreated(plan=document, requester="space", goal_digest="d")))

    sizes, after = [], 0
    while after is not None:
        answer = audited.ask(queries.StepsQuery(plan="plan", after=after))
        assert len(encode(answer)) < queries.ROW_BYTES
        sizes.append(len(answer.steps))
        after = answer.next

    assert sizes == [1_000, 1_000, 500]
