"""What the decider does with what cannot be decided as it is: somebody waits for the answer all the same."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from plays import gate, plan

from planmesh import agent
from planmesh.connection import Connection
from planmesh.errors import Busy, Poison
from planmesh.eventlog import EventLog
from planmesh.executor import blobs, decide
from planmesh.executor.blobs import BlobStore
from planmesh.executor.digests import Digests
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CastVote, CreatePlan, PausePlan, ReportChild, ReportDraft, ResumePlan
from planmesh.schemas.events import CommandRefused
from planmesh.schemas.payload import Blob, Payload, blob_of, canonical
from planmesh.schemas.plan import Ask, Check, Draft, Emit, Permissions, Plan, Retry, Run, Task
from planmesh.schemas.state import open_gates
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AttemptCompleted, Failure, Parent, Result, Results

NOWHERE = Blob(sha256="0" * 64, size_bytes=10_000)


@agent(idempotent=True)
def write(text: str, times: int) -> str:
    return text * times


def completed(address: Address, step: str, output: Payload) -> AttemptCompleted:
    return AttemptCompleted(
        space=address.space,
        plan=address.plan,
        step=step,
        attempt=1,
        output=output,
        started_at=datetime.now(UTC),
        duration_s=0.1,
    )


async def report(connection: Connection, *results: Result) -> None:
    await connection.publish(subjects.results(connection.user.removeprefix("agent-")), encode(Results(results=results)))


def writing(name: str, text: str, times: int) -> Task:
    return Task(name=name, agent="write", inputs={"text": text, "times": times}, idempotent=True)


async def test_a_turn_may_read_any_number_of_large_outputs(opened: Any) -> None:
    names = [f"w{number}" for number in range(30)]
    document = plan(
        *(writing(name, name, 5_000) for name in names),
        Emit(name="end", after=tuple(names), outcome="Done", result=[f"{{{name}[0]}}" for name in names]),
    )
    async with opened("write") as house:
        await house.executor()
        await house.worker(write)
        address = await house.create(document)

        state = await house.ended(address)

        assert (state.status, state.result.value) == ("completed", ["w"] * 30)


NAMES = tuple(f"w{number}" for number in range(4))


@pytest.mark.parametrize(
    ("reads", "fails"),
    [
        (Emit(name="end", after=NAMES, outcome="Done", result=[f"{{{name}[0]}}" for name in NAMES]), NAMES),
        (Task(name="r", agent="write", after=NAMES, inputs={"text": "{w0}{w1}{w2}{w3}", "times": 1}), ("r",)),
    ],
)
async def test_what_reads_more_than_memory_can_bear_fails_a_step(
    opened: Any, monkeypatch: pytest.MonkeyPatch, reads: Any, fails: tuple[str, ...]
) -> None:
    monkeypatch.setattr(blobs, "MOST_READ_BYTES", 30_000)
    async with opened("write") as house:
        await house.executor()
        await house.worker(write)
        address = await house.create(plan(*(writing(name, name, 5_000) for name in NAMES), reads))

        state = await house.until(address, lambda state: state.status == "paused")

        (failed,) = state.troubled
        assert failed in fails
        assert state.steps[failed].failure is not None
        assert "what is read at once has" in state.steps[failed].failure.message


@pytest.mark.parametrize("false", [NOWHERE, Blob(sha256="../..", size_bytes=1)])
async def test_an_output_that_is_not_where_the_agent_says_fails_its_own_step_and_no_other(
    opened: Any, false: Blob
) -> None:
    document = plan(
        Task(name="lies", agent="liar", idempotent=True),
        writing("writes", "a", 1),
        Check(name="reads", after=("lies", "writes"), condition="lies.size == 1"),
    )
    async with opened("liar", "write") as house:
        await house.executor()
        address = await house.create(document)
        await house.until(address, lambda state: state.running == 2)
        await report(await house.connected("agent-liar"), completed(address, "lies", Payload(blob=false)))
        await house.worker(write)

        state = await house.until(address, lambda state: state.status == "paused")

        assert {name: step.status for name, step in state.steps.items()} == {
            "lies": "failed",
            "writes": "completed",
            "reads": "pending",
        }
        assert state.steps["lies"].failure is not None
        assert "there is no blob" in state.steps["lies"].failure.message


async def test_a_result_that_is_larger_than_a_blob_may_be_fails_the_step_before_it(opened: Any) -> None:
    document = plan(
        writing("a", "長", 2_000_000),  # three bytes each
        writing("b", "短", 2_000_000),
        Emit(name="end", after=("a", "b"), outcome="Done", result=["{a}", "{b}"]),
    )
    async with opened("write") as house:
        await house.executor()
        await house.worker(write)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        assert sorted(step.status for step in state.steps.values()) == ["completed", "failed", "pending"]
        assert "a blob may have" in state.reason


async def test_a_plan_that_is_larger_than_the_log_takes_is_refused(opened: Any) -> None:
    async with opened("write") as house:
        await house.executor()
        address = await house.create(too_many_gates("g"))

        state = await house.ended(address)

        assert state.status == "refused"
        assert state.refused is not None
        assert state.refused.problems[0].code == "too_large"


@pytest.mark.parametrize(
    "report",
    [
        lambda child: ReportDraft(id="r", step="away", attempt=1, document={"name": "x"}),
        lambda child: ReportChild(id="r", step="away", attempt=1, child=child, number=1, status="completed"),
    ],
)
async def test_a_step_away_fails_where_what_follows_is_larger_than_the_log_takes(opened: Any, report: Any) -> None:
    away = Run(name="away", document="given") if report("c").__struct_config__.tag == "child" else Draft(name="away")
    document = plan(away, *too_many_gates("g", "away").steps)
    async with opened("write") as house:
        await house.executor()
        address = await house.create(document, inputs={"given": {}})
        begun = await house.until(address, lambda state: state.away)
        told = report(begun.steps["away"].child)
        await house.ask(address, told, "executor" if isinstance(told, ReportChild) else "planner")

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["away"].status == "failed"
        assert "cannot be recorded" in state.reason


def failed_for_good(address: Address) -> Result:
    return completed(address, "first", Payload(value=1)).failed(Failure(code="broke", message="it broke"))


async def test_a_failure_that_cannot_be_ignored_because_too_much_would_follow_halts(opened: Any) -> None:
    first = Task(name="first", agent="write", on_error="ignore", idempotent=True, retry=Retry(attempts=1))
    async with opened("write") as house:
        await house.executor()
        address = await house.create(plan(first, *too_many_gates("g", "first").steps))
        await house.until(address, lambda state: state.running)
        await report(await house.connected("agent-write"), failed_for_good(address))

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["first"].status == "failed"
        assert "it broke; what follows from it cannot be recorded" in state.reason


async def test_inputs_that_are_unfit_fail_a_step_also_where_too_much_would_follow(opened: Any) -> None:
    first = Task(name="first", agent="write", on_error="ignore", idempotent=True, inputs={"text": "{n.x}"})
    async with opened("write") as house:
        await house.executor()
        address = await house.create(plan(first, *too_many_gates("g", "first").steps), inputs={"n": 1})

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["first"].status == "failed"
        assert "cannot be recorded" in state.reason


async def test_a_default_that_too_much_would_follow_from_is_no_answer_and_the_ask_waits(opened: Any) -> None:
    ask = Ask(name="first", prompt="How many?", type="number", default=7, on_overdue="default", sla_s=0.1)
    async with opened("write") as house:
        await house.executor()
        address = await house.create(plan(ask, *too_many_gates("g", "first").steps))

        state = await house.until(address, lambda state: state.steps and state.steps["first"].overdue)

        assert (state.status, state.steps["first"].status) == ("waiting", "waiting")
        lines = [line async for line in EventLog(await house.connected("operator-tester")).lines(address)]
        refused = [event for event in lines[-1].commit.events if isinstance(event, CommandRefused)]
        assert "the default cannot be the answer: what follows" in refused[0].reason


async def test_the_executor_hears_why_what_it_asks_of_a_plan_cannot_be_recorded(opened: Any) -> None:
    parent = Parent(plan="above", step="execute", attempt=1, depth=1)
    address = Address("tester", "below")
    async with opened("write") as house:
        await house.executor()
        first = Task(name="first", agent="write", idempotent=True)
        document = plan(first, *too_many_gates("g", "first").steps)
        await house.ask(address, CreatePlan(id="c", plan=document, goal_digest="d", parent=parent), "planner")
        await house.until(address, lambda state: state.running)
        await house.ask(address, PausePlan(id="p"), "executor")
        await house.until(address, lambda state: state.held)
        await report(await house.connected("agent-write"), completed(address, "first", Payload(value=1)))
        await house.until(address, lambda state: not state.running)
        await house.ask(address, ResumePlan(id="r"), "executor")

        state = await house.until(address, lambda state: state.has_answered("executor", "r"))

        assert state.held


async def test_whoever_waits_for_a_plan_hears_that_it_is_larger_than_the_log_takes(opened: Any) -> None:
    parent = Parent(plan="above", step="execute", attempt=1, depth=1)
    address = Address("tester", "below")
    async with opened("write") as house:
        await house.executor()
        create = CreatePlan(id="c", plan=too_many_gates("g"), goal_digest="d", parent=parent)
        await house.ask(address, create, "planner")

        state = await house.ended(address)

        assert (state.status, state.parent) == ("refused", parent)


async def test_a_vote_that_has_consequences_larger_than_the_log_takes_is_refused(opened: Any) -> None:
    document = too_many_gates("g", "first")
    async with opened("write") as house:
        await house.executor()
        address = await house.create(plan(gate("first"), *document.steps))
        asking = (await house.until(address, open_gates)).steps["first"]
        assert asking.opened is not None
        vote = CastVote(id="yes", step="first", digest=asking.opened.digest, decision="approve")
        await house.ask(address, vote)

        state = await house.until(address, lambda state: state.number == 2)

        assert state.steps["first"].status == "waiting"
        lines = [line async for line in EventLog(await house.connected("operator-tester")).lines(address)]
        (refused,) = lines[-1].commit.events
        assert isinstance(refused, CommandRefused)
        assert refused.code == "too_large"
        assert "cannot be recorded" in refused.reason


def too_many_gates(name: str, *after: str) -> Plan:
    """Each gate says what it would release, and each would release the same hundred steps."""
    gates = tuple(f"{name}{number}" for number in range(50))
    reads = Permissions(read=tuple(f"/data/{number:0100}" for number in range(20)))
    tasks = (Task(name=f"t{n}", agent="write", after=gates, idempotent=True, permissions=reads) for n in range(100))
    return plan(*(gate(one, *after) for one in gates), *tasks)


async def test_a_gate_in_front_of_much_says_how_large_its_inputs_are_and_opens(opened: Any) -> None:
    behind = (
        Task(name=f"t{n}", agent="write", after=("g",), inputs={"text": "{text}", "times": n}, idempotent=True)
        for n in range(90)
    )
    many = {f"part-{n}": "y" * 250 for n in range(100)}
    large = Task(name="large", agent="write", after=("g",), inputs={"text": "{text}", **many}, idempotent=True)
    # Three bytes a character.
    document = plan(gate("g", prompt="{text}", show=("{text}",) * 50), large, *behind)
    text = "長" * 30_000
    async with opened("write") as house:
        await house.executor()
        address = await house.create(document, inputs={"text": text})

        state = await house.until(address, open_gates)

        asking = state.steps["g"].opened
        assert asking is not None
        assert len(encode(asking)) < 256 * 1024
        assert asking.prompt.startswith("長" * 20_000)
        assert asking.prompt.endswith(f"(cut: the whole prompt has {3 * 30_000:,} bytes)")
        claim = blob_of(canonical(text))
        first, second = asking.releases[:2]
        assert (first.inputs, first.inputs_blob) == ({}, blob_of(canonical({"text": text, **many})))
        assert second.inputs == {"text": {"$blob": claim.sha256, "size_bytes": claim.size_bytes}, "times": 0}
        assert asking.digest == Digests().of(state, "g")
        store = BlobStore(await house.connected("executor"))
        assert await store.value(claim.sha256) == text
        assert first.inputs_blob is not None
        assert await store.value(first.inputs_blob.sha256) == {"text": text, **many}


async def test_of_a_bundle_one_part_that_must_wait_keeps_the_others_from_being_set_aside(opened: Any) -> None:
    document = plan(writing("w", "a", 1), gate("g"))
    async with opened("write") as house:
        first, second = await house.create(document), await house.create(document)
        running = await house.executor()
        core = running._connections[0]
        for address in (first, second):
            await house.until(address, lambda state: state.running == 1)
        publish, refused = core.publish, []

        async def crowded(subject: str, payload: bytes, **options: Any) -> Any:
            if subject == subjects.plan_log(second):
                await asyncio.sleep(0.2)
                raise Poison("never")
            if subject == subjects.plan_log(first) and not refused:
                refused.append(subject)
                raise Busy("not now")
            return await publish(subject, payload, **options)

        core.publish = crowded
        done = (completed(address, "w", Payload(value="a")) for address in (first, second))
        await report(await house.connected("agent-write"), *done)

        state = await house.until(first, lambda state: state.steps["w"].status == "completed")

        assert state.steps["w"].output.value == "a"


async def test_what_even_failed_to_be_given_up_comes_back(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up, failures = decide.give_up, []

    async def failing(*arguments: Any) -> None:
        if not failures:
            failures.append(arguments)
            raise RuntimeError("a bug")
        await give_up(*arguments)

    monkeypatch.setattr(decide, "give_up", failing)
    async with opened() as house:
        running = await house.executor()
        core = running._connections[0]
        publish, refused = core.publish, []

        async def crowded(subject: str, *arguments: Any, **options: Any) -> Any:
            if not refused:
                refused.append(subject)
                raise Busy("not now")
            return await publish(subject, *arguments, **options)

        core.publish = crowded

        address = await house.create(plan(gate("g")))

        await house.until(address, lambda state: state.status == "waiting", 5)
        assert len(failures) == 1
