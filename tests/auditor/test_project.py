"""The tables equal the fold of the log, however it is cut into transactions."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from auditor_tables import Audited, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, HERE, Play, gate, plan, plans, play_on, task

from planmesh.auditor.read import Refused
from planmesh.schemas import commands as asks
from planmesh.schemas import queries
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import ReportResult
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Gate, Plan
from planmesh.schemas.state import PlanState, PlanStatus, fold, open_gates
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AttemptCompleted

Tables = Callable[..., Audited]


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

    steps = audited.ask(queries.StepsQuery(plan=at.plan, space=at.space)).steps
    assert [step.step for step in steps] == list(state.graph.steps)
    for found in steps:
        step = state.steps[found.step]
        assert (found.status, found.since, found.attempt) == (step.status, step.since, step.attempt)
        assert (found.output, found.failure, found.reason) == (step.output, step.failure, step.reason)
        assert (found.votes, found.branch, found.retry_at) == (step.votes, step.label, step.retry_at)
        assert found.needs == state.graph.needs[found.step]
        if found.kind == "task" and step.status == "completed":
            assert (found.worker, found.version) == (step.worker, step.version)
            assert found.started_at == step.started_at

    gates = audited.ask(queries.GatesQuery(plan=at.plan, space=at.space)).gates
    assert sorted(one.step for one in gates) == sorted(open_gates(state))
    for one in gates:
        step, opened = state.steps[one.step], state.steps[one.step].opened
        assert opened is not None
        assert (one.round, one.votes, one.overdue, one.since) == (step.attempt, step.votes, step.overdue, step.since)
        assert (one.digest, one.releases, one.upstream) == (opened.digest, opened.releases, opened.upstream)


def log_of(audited: Audited, at: Address) -> list[queries.LogLine]:
    lines: list[queries.LogLine] = []
    number, index = 1, 0
    while True:
        answer = audited.ask(queries.LogQuery(plan=at.plan, space=at.space, number=number, index=index, limit=7))
        lines.extend(answer.lines)
        if answer.next is None:
            return lines
        number, index = answer.next


@settings(max_examples=60, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_the_tables_equal_the_fold_of_the_log(document: Plan, n: int, data: st.DataObject) -> None:
    play = Play(document, inputs={"n": n}, start=data.draw(st.integers(0, 9)) > 0)
    play_on(data.draw, play)
    other = moved(play.log, Address("other", "plan"))
    both = [commit for pair in zip(play.log, other, strict=True) for commit in pair]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(both)), max_size=8)) | {0, len(both)})
    with tempfile.TemporaryDirectory() as directory:
        audited, one_by_one = Audited(Path(directory) / "a.db"), Audited(Path(directory) / "b.db")

        for start, end in pairwise(cuts):
            audited.add(*both[start:end])
        for commit in both:
            one_by_one.add(commit)

        expect_equal(audited, fold(HERE, play.log))
        expect_equal(audited, fold(Address("other", "plan"), other))
        lines = log_of(audited, HERE)
        assert [(line.number, line.index, line.type, bytes(line.event)) for line in lines] == [
            (commit.number, index, event.__struct_config__.tag, encode(event))
            for commit, _ in play.log
            for index, event in enumerate(commit.events)
        ]
        assert audited.dump() == one_by_one.dump()
        audited.database.close()
        one_by_one.database.close()
