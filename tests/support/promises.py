"""What must hold of any plan's log, and of what the auditor has made of it, whatever has happened to the services."""

import asyncio
from collections.abc import Iterator
from typing import Any

from planmesh.cli.view import gate_row
from planmesh.errors import Busy
from planmesh.eventlog import Recorded, read_line
from planmesh.operator import Operator, QueryRefused
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import AnyEvent, Commit, StepCompleted, StepDispatched
from planmesh.schemas.plan import Gate
from planmesh.schemas.queries import GatesQuery, LogLine
from planmesh.schemas.state import SATISFIED, PlanState, StepStatus, evolve, open_asks, open_gates
from planmesh.schemas.subjects import PLANS, Address


async def expect_promises(operator: Operator, address: Address) -> tuple[PlanState, list[Commit]]:
    """Hold a plan's log, and the auditor's tables, against what is promised.

    Returns:
        What the log folds to, and its commits.
    """
    while True:
        state, commits = await expect_log(operator, address)
        try:
            await expect_tables(operator, state, commits)
        except AssertionError:
            # A notice of a gate may be logged after the plan has ended.
            if (await expect_log(operator, address))[0].number == state.number:
                raise
        else:
            return state, commits


async def expect_log(operator: Operator, address: Address) -> tuple[PlanState, list[Commit]]:
    """Read a plan's log as it is stored: the chain has no gap, and no commit starts what it may not."""
    stored = await operator.connection.direct_get(PLANS, subject=subjects.plan_log(address), batch=100_000)
    recorded, commits = Recorded.nothing(address), []
    completed: set[str] = set()
    for message in stored:
        before = recorded.state
        recorded, line = read_line(recorded, message.sequence, message.data)
        assert line is not None, f"message {message.sequence} does not continue the chain of {address}"
        for state, event in _each(before, line.commit):
            if isinstance(event, StepDispatched):
                _expect_allowed(state, event, completed)
            elif isinstance(event, StepCompleted):
                completed.add(event.step)
        commits.append(line.commit)
    assert [commit.number for commit in commits] == list(range(1, len(stored) + 1))
    return recorded.state, commits


def _each(state: PlanState, commit: Commit) -> Iterator[tuple[PlanState, AnyEvent]]:
    """Every event, with the state that it met."""
    for event in commit.events:
        yield state, event
        state = evolve(state, event, commit.at)


def _expect_allowed(state: PlanState, event: StepDispatched, completed: set[str]) -> None:
    name, step = event.step, state.steps[event.step]
    assert name not in completed, f"{name} is completed, and dispatched again"
    assert step.status is StepStatus.PENDING, f"{name} is dispatched while it is {step.status}"
    assert event.attempt == step.attempt + 1, f"attempt {event.attempt} of {name} follows {step.attempt}"
    for above in _above(state, name):
        if isinstance(state.graph.steps[above], Gate):
            assert state.steps[above].status in SATISFIED, f"{name} starts behind {above}, which is undecided"


def _above(state: PlanState, name: str) -> list[str]:
    found = dict.fromkeys(state.graph.needs[name])
    queue = list(found)
    for near in queue:
        for far in state.graph.needs[near]:
            if far not in found:
                found[far] = None
                queue.append(far)
    return queue


async def expect_tables(operator: Operator, state: PlanState, commits: list[Commit]) -> None:
    """Wait until the auditor has read as far as *state*, and compare all that it says of the plan."""
    at = state.address
    await until_read(operator, state)
    answer = await operator.plan(at)
    row = answer.plan
    assert (answer.document, row.revision) == (state.document, state.revision)
    assert answer.problems == (state.refused.problems if state.refused else ())
    assert answer.result == state.result
    assert (row.status, row.reason, row.by, row.outcome) == (state.status, state.reason, state.by, state.outcome)
    assert (row.number, row.steps, row.running) == (state.number, len(state.steps), state.running)
    assert (row.created_at, row.updated_at, row.ended_at) == (state.created_at, state.updated_at, state.ended_at)
    assert (row.gates, row.asks, row.troubled) == (tuple(open_gates(state)), tuple(open_asks(state)), state.troubled)
    asked = {one.step: one for one in (await operator.gates(GatesQuery(plan=at.plan, space=at.space))).gates}
    assert asked == {name: gate_row(state, name) for name in (*row.gates, *row.asks)}

    rows = (await operator.steps(at)).steps
    steps = {**{name: state.steps[name] for name in state.graph.steps}, **dict(sorted(state.superseded.items()))}
    assert [one.step for one in rows] == list(steps)
    for one in rows:
        step = steps[one.step]
        assert (one.status, one.since, one.attempt) == (step.status, step.since, step.attempt)
        assert (one.output, one.failure, one.votes) == (step.output, step.failure, step.votes)
        if one.step in state.graph.needs:
            assert one.needs == state.graph.needs[one.step]

    events = [(commit.number, index, event) for commit in commits for index, event in enumerate(commit.events)]
    lines = [line async for line in _lines(operator, at)]
    assert [(line.number, line.index, bytes(line.event)) for line in lines] == [
        (number, index, encode(event)) for number, index, event in events
    ]


async def until_read(operator: Operator, state: PlanState, timeout_s: float = 20) -> None:
    said: Any = "nothing"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    said = (await operator.plan(state.address)).plan.number
                    if said >= state.number:
                        return
                except (Busy, QueryRefused) as error:
                    said = error
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"the auditor says {said!r} of {state.address}, not {state.number}") from None


async def _lines(operator: Operator, at: Address) -> Any:
    where = {"number": 1, "index": 0}
    while True:
        answer = await operator.log(at, **where)
        for line in answer.lines:
            assert isinstance(line, LogLine)
            yield line
        if answer.next is None:
            return
        where = dict(zip(("number", "index"), answer.next, strict=True))
