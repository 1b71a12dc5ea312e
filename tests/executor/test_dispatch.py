"""What the dispatcher makes of the log: nothing of what is not in it, and nothing against what is in it since."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from patience import eventually
from plays import gate, plan

from planmesh import Context, agent
from planmesh.delivery import subscribe
from planmesh.errors import Poison
from planmesh.eventlog import EventLog
from planmesh.executor import dispatch
from planmesh.executor.blobs import BlobStore
from planmesh.executor.dispatch import Dispatcher
from planmesh.executor.news import latest
from planmesh.executor.plans import Plans
from planmesh.executor.telling import tell
from planmesh.schemas import codec, events, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CancelPlan, ProposeRevision, RevisePlan
from planmesh.schemas.events import AnyEvent, Commit
from planmesh.schemas.goals import ID_TAKEN, Accepted, Completed, Problem, Refused
from planmesh.schemas.payload import NOTHING, Blob, Payload
from planmesh.schemas.plan import Plan, Task
from planmesh.schemas.state import fold, open_gates
from planmesh.schemas.subjects import DISPATCH, OUTCOMES, PLANS, POISON, Address
from planmesh.streams import PINNED_GROUP

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Delivered:
    """A delivery of a commit, for the second time. The surface of `planmesh.delivery.Message`."""

    stream = PLANS
    num_delivered = 2
    answered = False

    def __init__(self, address: Address, data: bytes, sequence: int) -> None:
        self.subject = subjects.plan_log(address)
        self.data = data
        self.sequence = sequence
        self.how = ""

    def ack(self) -> None:
        self.how = self.how or "ack"

    def nak(self, _delay_s: float = 0.0) -> None:
        self.how = self.how or "nak"


async def handed_out(house: Any, message: Delivered) -> str:
    """What becomes of *message*, at an executor that knows nothing yet."""
    core, agents = await house.connected("executor"), await house.connected("executor-agents")
    dispatcher = Dispatcher(core, agents, EventLog(core), BlobStore(core), Plans())
    delivered: Any = message
    dispatcher._take(delivered)
    await dispatcher.finish()
    return message.how


async def revise(house: Any, address: Address, document: Plan, base: int) -> None:
    request = f"r{base}"
    await house.ask(address, RevisePlan(id=request, base=base, document={}, cancel_running=True))
    await house.until(address, lambda state: request in state.requests)
    await house.ask(address, ProposeRevision(id=f"p{base}", request=request, plan=document), "planner")
    await house.until(address, lambda state: state.revision == base + 1)


async def test_a_step_that_came_back_is_not_taken_back_when_its_cancellation_is_delivered_again(opened: Any) -> None:
    @agent(idempotent=True)
    def work() -> str:
        return "done"

    both = plan(Task(name="w", agent="work", idempotent=True), Task(name="other", agent="work", idempotent=True))
    one = plan(Task(name="other", agent="work", idempotent=True))
    async with opened("work") as house:
        await house.executor()
        address = await house.create(both)
        await house.until(address, lambda state: state.running == 2)
        await revise(house, address, one, 1)
        await revise(house, address, both, 2)
        await house.until(address, lambda state: state.running == 2)
        lines = [line async for line in EventLog(await house.connected("executor")).lines(address)]
        cancelled = next(one for one in lines if any(isinstance(e, events.StepsCancelled) for e in one.commit.events))
        await asyncio.sleep(0.5)  # until all of it is handed out

        how = await handed_out(house, Delivered(address, encode(cancelled.commit), cancelled.sequence))

        assert how == "ack"
        await house.worker(work)
        state = await house.ended(address)
        assert (state.status, state.steps["w"].attempt) == ("completed", 2)


@pytest.mark.parametrize("again", ["before", "after"])
async def test_of_a_step_that_came_back_the_old_work_is_taken_back_and_the_new_is_not(opened: Any, again: str) -> None:
    begun: list[str] = []

    @agent(idempotent=True)
    async def work(context: Context) -> str:
        begun.append(context.key)
        return "done"

    both = plan(Task(name="w", agent="work", idempotent=True), Task(name="other", agent="work", idempotent=True))
    one = plan(Task(name="other", agent="work", idempotent=True))
    async with opened("work") as house:
        await house.executor(loops=frozenset({"decide"}))
        address = await house.create(both)
        await house.until(address, lambda state: state.running == 2)
        await revise(house, address, one, 1)
        await revise(house, address, both, 2)
        await house.until(address, lambda state: state.running == 2)
        reader = await house.connected("executor")
        lines = [line async for line in EventLog(reader).lines(address)]
        cancelled, dispatched = (
            Delivered(address, encode(line.commit), line.sequence)
            for kind in (events.StepsCancelled, events.PlanRevised)
            for line in [line for line in lines if any(isinstance(e, kind) for e in line.commit.events)][-1:]
        )
        # As by an executor that stood still once it had decided to hand out the first attempt.
        (stale,) = [event for event in lines[0].commit.events if getattr(event, "step", "") == "w"]
        first = fold(address, [(lines[0].commit, lines[0].hash)])
        dispatcher = Dispatcher(reader, reader, EventLog(reader), BlobStore(reader), Plans())
        await dispatcher._send_slowly(first, lines[0].commit, lines[0].commit.events.index(stale), stale)

        for message in (dispatched, cancelled) if again == "before" else (cancelled, dispatched):
            assert await handed_out(house, message) == "ack"

        await house.worker(work)
        await house.until(address, lambda state: state.steps["w"].status == "completed")
        assert begun == [f"{address}.w.2"]


def forged(address: Address, number: int, *happened: AnyEvent) -> bytes:
    commit = Commit(
        space=address.space,
        plan=address.plan,
        number=number,
        at=AT,
        causes=(),
        events=happened,
        previous="f" * 64,
    )
    return encode(commit)


async def test_what_does_not_continue_the_log_is_told_to_nobody(opened: Any) -> None:
    async with opened("work") as house:
        await house.executor()
        address = await house.create(plan(Task(name="w", agent="work", idempotent=True)))
        await house.until(address, lambda state: state.running == 1)
        admin = await house.connected("admin")
        junk = forged(address, 7, events.PlanCompleted(outcome="Forged", result=NOTHING))

        ack = await admin.publish(subjects.plan_log(address), junk)
        how = await handed_out(house, Delivered(address, junk, ack.sequence))

        assert how == "ack"
        await asyncio.sleep(0.3)
        said = [codec.outcome.decode(one.data) for one in await admin.direct_get(OUTCOMES, batch=10)]
        assert [type(one).__name__ for one in said] == ["Accepted"]


async def test_a_commit_of_a_later_version_is_left_to_an_executor_that_can_read_it(opened: Any) -> None:
    async with opened("work") as house:
        running = await house.executor()
        address = await house.create(plan(Task(name="w", agent="work", idempotent=True)))
        state = await house.until(address, lambda state: state.running == 1)
        await running.stop()
        commit = msgspec.json.decode(forged(address, 2))
        later = encode({**commit, "previous": state.head, "events": [{"type": "step.dreamt", "step": "w"}]})
        admin = await house.connected("admin")

        ack = await admin.publish(subjects.plan_log(address), later)

        assert await handed_out(house, Delivered(address, later, ack.sequence)) == "nak"


async def test_inputs_that_are_larger_than_a_blob_may_be_fail_their_step(opened: Any) -> None:
    @agent(idempotent=True)
    def write(text: str) -> str:
        return text * 2_000_000

    document = plan(
        Task(name="a", agent="write", inputs={"text": "長"}, idempotent=True),  # three bytes
        Task(name="b", agent="write", inputs={"text": "短"}, idempotent=True),
        Task(name="c", agent="write", after=("a", "b"), inputs={"text": ["{a}", "{b}"]}, idempotent=True),
    )
    async with opened("write") as house:
        await house.executor()
        await house.worker(write)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["c"].failure is not None
        assert (state.steps["c"].status, state.steps["c"].failure.code) == ("failed", "inputs")


async def test_a_line_that_cannot_be_handed_out_is_never_set_aside_and_keeps_nothing_else_back(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = plan(*(Task(name=name, agent="work", idempotent=True) for name in ("first", "second")))
    async with opened("work") as house:
        running = await house.executor(loops=frozenset({"decide"}))
        address = await house.create(document)
        await house.until(address, lambda state: state.running == 2)
        await running.stop()
        (line,) = [one async for one in EventLog(await house.connected("executor")).lines(address)]
        hand_out, failures = Dispatcher._hand_out, list[Exception]()

        def broken(self: Dispatcher, *arguments: Any) -> Any:
            if arguments[3].step == "first":
                raise failures[-1]
            return hand_out(self, *arguments)

        monkeypatch.setattr(Dispatcher, "_hand_out", broken)
        admin = await house.connected("admin")
        for failure in (RuntimeError("a bug"), Poison("too large")):
            failures.append(failure)
            delivered = Delivered(address, encode(line.commit), line.sequence)
            delivered.num_delivered = 99

            assert await handed_out(house, delivered) == "nak"

        assert await admin.direct_get(POISON, batch=10) == []
        work = json.loads(await admin.request("$JS.API.STREAM.INFO.WORK", b'{"subjects_filter": ">"}'))
        assert list(work["state"]["subjects"]) == [subjects.agent_work("work", address, "second")]

        monkeypatch.setattr(Dispatcher, "_hand_out", hand_out)
        await house.executor()
        await house.worker(work_quickly)
        assert (await house.ended(address)).status == "completed"


@agent(name="work", idempotent=True)
def work_quickly() -> str:
    return "done"


async def test_news_that_come_late_or_are_told_again_never_go_back(opened: Any) -> None:
    async with opened("work") as house:
        core, admin = await house.connected("executor"), await house.connected("admin")
        running = await house.executor(loops=frozenset({"decide"}))
        address = await house.create(plan(gate("g")))
        await house.until(address, open_gates)
        await house.ask(address, CancelPlan(id="c"))
        await house.ended(address)
        await running.stop()
        first, last = [one async for one in EventLog(core).lines(address)]

        for line in (last, first, last, first):
            assert await handed_out(house, Delivered(address, encode(line.commit), line.sequence)) == "ack"
        stale = fold(address, [(first.commit, first.hash)])
        again = latest(stale, NOTHING)
        assert again is not None
        await tell(core, again)

        told = [codec.outcome.decode(one.data) for one in await admin.direct_get(OUTCOMES, batch=10)]
        assert {type(one).__name__ for one in told} == {"Cancelled"}


async def test_of_the_news_of_one_commit_the_final_one_stays_the_last(opened: Any) -> None:
    async with opened() as house:
        core = await house.connected("executor")
        about: dict[str, Any] = {"space": "tester", "goal": "plan-1", "at": AT, "number": 1}
        accepted = Accepted(**about, name="A plan", steps=1)
        completed = Completed(**about, name="Done", result=NOTHING)

        for outcome in (accepted, completed, accepted):
            await tell(core, outcome)

        stored = [codec.outcome.decode(one.data) for one in await core_outcomes(house)]
        assert stored == [accepted, completed]


async def test_that_another_goal_by_the_id_of_a_plan_was_refused_does_not_overtake_the_news_of_the_plan(
    opened: Any,
) -> None:
    async with opened() as house:
        core = await house.connected("executor")
        about: dict[str, Any] = {"space": "tester", "goal": "plan-1", "at": AT}
        taken = (Problem(code=ID_TAKEN, message="publish it under another id"),)
        refused = [Refused(**about, number=number, problems=taken) for number in (3, 4)]
        late = Accepted(**about, number=1, name="A plan", steps=1)
        completed = Completed(**about, number=2, name="Done", result=NOTHING)

        for outcome in (refused[0], completed, refused[1], late):
            await tell(core, outcome)

        stored = [codec.outcome.decode(one.data) for one in await core_outcomes(house)]
        assert stored == [refused[0], completed, refused[1]]


async def core_outcomes(house: Any) -> Any:
    return await (await house.connected("admin")).direct_get(OUTCOMES, batch=10)


async def test_the_end_of_a_plan_whose_result_is_gone_is_told_all_the_same(opened: Any) -> None:
    async with opened("work") as house:
        core = await house.connected("executor")
        address = Address("tester", "plan-1")
        gone = Payload(blob=Blob(sha256="0" * 64, size_bytes=10_000))
        created = events.PlanCreated(
            plan=plan(Task(name="w", agent="work", idempotent=True)), requester="tester", goal_digest="d"
        )
        happened = (created, events.PlanStarted(by="tester"), events.PlanCompleted(outcome="Done", result=gone))
        commit = msgspec.structs.replace(codec.commit.decode(forged(address, 1, *happened)), previous=events.GENESIS)
        ack = await core.publish(subjects.plan_log(address), encode(commit))

        assert await handed_out(house, Delivered(address, encode(commit), ack.sequence)) == "ack"

        told = [codec.outcome.decode(one.data) for one in await core_outcomes(house)]
        assert told[-1].result == gone


class Crowded(Dispatcher):
    """Counts what it has in hand."""

    in_hand = 0
    most = 0
    done = 0

    async def _take_slowly(self, *arguments: Any) -> None:
        self.in_hand += 1
        self.most = max(self.most, self.in_hand)
        await super()._take_slowly(*arguments)
        self.in_hand -= 1
        self.done += 1


async def test_of_a_long_log_only_so_much_is_in_hand_at_once(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MOST_HELD", 8)
    async with opened("work") as house:
        decider = await house.executor(loops=frozenset({"decide"}))
        addresses = [await house.create(plan(gate("g"))) for _ in range(50)]
        for address in addresses:
            await house.until(address, open_gates)
        await decider.stop()
        core, agents = await house.connected("executor"), await house.connected("executor-agents")
        # To a clock that is an hour ahead each commit is old: the log is read before it is handed out.
        dispatcher = Crowded(
            core, agents, EventLog(core), BlobStore(core), Plans(), clock=lambda: datetime.now(UTC) + timedelta(hours=1)
        )
        async with await subscribe(core, PLANS, DISPATCH, group=PINNED_GROUP) as commits:
            taking = asyncio.create_task(dispatcher.take_commits(commits))
            await eventually(lambda: dispatcher.done >= len(addresses))
        await taking
        await dispatcher.finish()

        assert 1 < dispatcher.most <= 9
        assert dispatcher._held == {}
        assert dispatcher._held_bytes == 0
