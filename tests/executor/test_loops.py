"""The loops of the executor, on a real server."""

import asyncio
import time
from typing import Any

import pytest
from plays import gate, plan, question

from planmesh import Context, Rejected, agent
from planmesh.agents import _MARK
from planmesh.delivery import subscribe
from planmesh.executor.work import Host, Rooms
from planmesh.schemas import codec, subjects
from planmesh.schemas.commands import AnswerAsk, CancelPlan, CastVote, CreatePlan, RetryStep
from planmesh.schemas.goals import Completed
from planmesh.schemas.plan import Check, Emit, Escalation, Parameter, Retry, Task
from planmesh.schemas.subjects import WORK, agent_consumer


@agent(idempotent=True, version="7")
async def shout(text: str) -> str:
    return text.upper()


@agent(idempotent=True)
def add(a: int, b: int) -> int:
    return a + b


@agent(idempotent=True)
def big(size: int) -> dict[str, Any]:
    return {"text": "x" * size, "size": size}


@agent(idempotent=True)
def length(text: str) -> int:
    return len(text)


async def test_a_plan_runs_from_its_creation_to_its_end(opened: Any) -> None:
    document = plan(
        Task(name="shout", agent="shout", inputs={"text": "{greeting}"}, idempotent=True),
        Task(name="add", agent="add", inputs={"a": 1, "b": 2}, idempotent=True),
        Emit(name="done", after=("shout", "add"), outcome="Done", result={"said": "{shout}", "sum": "{add}"}),
    )
    async with opened("shout", "add") as house:
        await house.executor()
        await house.worker(shout, add)
        address = await house.create(document, inputs={"greeting": "hello"})

        state = await house.ended(address)

        assert (state.status, state.outcome) == ("completed", "Done")
        assert state.result.value == {"said": "HELLO", "sum": 3}
        assert state.steps["shout"].version == "7"
        assert state.steps["shout"].worker


async def test_an_exception_of_the_agent_is_a_failure_with_its_traceback_and_is_tried_again(opened: Any) -> None:
    calls = []

    @agent(idempotent=True)
    def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("not yet")
        return "done"

    document = plan(Task(name="f", agent="flaky", idempotent=True, retry=Retry(attempts=3, backoff_s=0.05)))
    async with opened("flaky") as house:
        await house.executor()
        await house.worker(flaky)
        address = await house.create(document)

        state = await house.ended(address)

        assert (state.status, state.steps["f"].attempt, len(calls)) == ("completed", 3, 3)


async def test_a_rejected_input_is_not_tried_again(opened: Any) -> None:
    @agent(idempotent=True)
    def picky() -> None:
        raise Rejected("never")

    document = plan(Task(name="p", agent="picky", idempotent=True, retry=Retry(attempts=3, backoff_s=0)))
    async with opened("picky") as house:
        await house.executor()
        await house.worker(picky)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        failure = state.steps["p"].failure
        assert failure is not None
        assert (failure.code, failure.message, failure.type) == ("rejected", "never", "Rejected")
        assert "raise Rejected" in failure.traceback


async def test_an_attempt_that_takes_too_long_fails_and_one_that_may_have_had_its_effect_is_unknown(
    opened: Any,
) -> None:
    @agent
    async def slow() -> None:
        await asyncio.sleep(30)

    document = plan(
        Task(name="safe", agent="slow", timeout_s=0.1, idempotent=True),
        Task(name="risky", agent="slow", timeout_s=0.1, idempotent=False),
    )
    async with opened("slow") as house:
        await house.executor()
        await house.worker(slow)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["safe"].failure is not None
        assert state.steps["safe"].failure.code == "timeout"
        assert state.steps["risky"].status == "outcome_unknown"


async def test_large_outputs_travel_as_claim_checks_and_arrive_as_values(opened: Any) -> None:
    document = plan(
        Task(name="big", agent="big", inputs={"size": 400_000}, idempotent=True),
        Check(name="enough", after=("big",), condition="big.size == 400000"),
        Task(name="length", agent="length", after=("enough",), inputs={"text": "{big.text}"}, idempotent=True),
        Emit(name="done", after=("length",), outcome="Done", result="{big.text}"),
    )
    async with opened("big", "length") as house:
        await house.executor()
        await house.worker(big, length)
        address = await house.create(document)

        state = await house.ended(address)

        assert state.status == "completed"
        assert state.steps["big"].output.blob is not None
        assert state.steps["length"].output.value == 400_000
        assert state.result.blob is not None


async def test_whoever_publishes_the_same_goal_again_hears_where_it_is(opened: Any) -> None:
    document = plan(
        Task(name="big", agent="big", inputs={"size": 20_000}, idempotent=True),
        Emit(name="done", after=("big",), outcome="Done", result="{big}"),
    )
    async with opened("big") as house:
        await house.executor()
        await house.worker(big)
        address = await house.create(document)
        await house.ended(address)
        submitter = await house.connected("submitter-tester")
        heard: asyncio.Queue[Any] = asyncio.Queue()
        await submitter.listen(subjects.outcome(address), lambda message: heard.put_nowait(message.data))

        again = CreatePlan(id="again", plan=document, goal_digest="d")
        await house.ask(address, again, "planner")

        outcome = codec.outcome.decode(await asyncio.wait_for(heard.get(), 10))
        assert isinstance(outcome, Completed)
        assert outcome.result.value["size"] == 20_000


async def test_inputs_that_are_large_without_any_blob_travel_as_a_claim_check(opened: Any) -> None:
    document = plan(
        Task(name="length", agent="length", inputs={"text": "{text}"}, idempotent=True),
        inputs={"text": Parameter(type="text")},
    )
    async with opened("length") as house:
        await house.executor(inline_inputs_bytes=1_000)
        await house.worker(length)
        address = await house.create(document, inputs={"text": "x" * 5_000})

        state = await house.ended(address)

        assert state.result.value == {"length": 5_000}
        admin = await house.connected("admin")
        assert len(await admin.direct_get("BLOBS")) == 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_attempts_of_an_agent_run_than_it_was_added_with(opened: Any, concurrency: int) -> None:
    now, most = [0], [0]

    @agent(idempotent=True)
    async def counted() -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.05)
        now[0] -= 1

    async with opened() as house:
        await house.server.add_agent("counted", concurrency=concurrency)
        await house.executor()
        await house.worker(counted)
        address = await house.create(plan(*(Task(name=f"t{n}", agent="counted", idempotent=True) for n in range(8))))

        assert (await house.ended(address)).status == "completed"
        assert most == [concurrency]


async def test_inputs_that_cannot_be_put_together_fail_their_step(opened: Any) -> None:
    document = plan(
        Task(name="add", agent="add", inputs={"a": 1, "b": 1}, idempotent=True),
        Task(name="length", agent="length", after=("add",), inputs={"text": "{add.nothing}"}, idempotent=True),
    )
    async with opened("add", "length") as house:
        await house.executor()
        await house.worker(add, length)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        failure = state.steps["length"].failure
        assert failure is not None
        assert failure.code == "inputs"


async def test_wrong_inputs_are_refused_before_the_agent_is_called(opened: Any) -> None:
    document = plan(Task(name="add", agent="add", inputs={"a": 1, "c": 1}, idempotent=True))
    async with opened("add") as house:
        await house.executor()
        await house.worker(add)
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        failure = state.steps["add"].failure
        assert failure is not None
        assert failure.code == "bad_inputs"
        assert failure.message == "agent add takes a, b: b is missing, c is not one of its parameters"


async def test_a_gate_waits_for_a_vote_and_an_operator_opens_it(opened: Any) -> None:
    document = plan(gate("g"), Task(name="add", agent="add", after=("g",), inputs={"a": 1, "b": 1}, idempotent=True))
    async with opened("add") as house:
        await house.executor()
        await house.worker(add)
        address = await house.create(document)
        state = await house.until(address, lambda state: state.status == "waiting")
        question = state.steps["g"].opened

        await house.ask(address, CastVote(id="v", step="g", digest=question.digest, decision="approve"))

        state = await house.ended(address)
        assert state.status == "completed"
        assert state.steps["g"].votes == ("tester",)


async def test_escalations_and_defaults_come_about_although_the_executor_dies(opened: Any) -> None:
    chain = (
        Escalation(after_s=0.2, to=("person:lin",)),
        Escalation(after_s=1.5, to=("person:max",)),
        Escalation(after_s=3_600, to=("person:eve",)),
    )
    document = plan(
        gate("g", sla_s=0.1, escalate=chain),
        question("q", type="number", default=7, on_overdue="default", sla_s=1.5),
    )
    async with opened() as house:
        first = await house.executor()
        address = await house.create(document)
        await house.until(address, lambda state: state.status == "waiting")
        await first.die()
        await house.executor()

        state = await house.until(
            address, lambda state: state.steps["g"].escalated == 2 and state.steps["q"].status == "completed"
        )

        assert state.steps["g"].overdue
        assert (state.steps["g"].status, state.steps["g"].also) == ("waiting", ("person:lin", "person:max"))
        assert (state.steps["q"].output.value["value"], state.steps["q"].votes) == (7, ("planmesh",))


async def test_what_settings_say_of_escalation_holds_for_what_says_nothing(opened: Any) -> None:
    async with opened() as house:
        await house.executor(gate_sla_s=0.1, escalate_to="role:operator")
        address = await house.create(plan(gate("g", reviewers=("person:nobody",)), gate("h", sla_s=3_600)))

        state = await house.until(address, lambda state: state.steps["g"].escalated)
        assert (state.steps["g"].reviewers, state.steps["h"].also) == (("person:nobody", "role:operator"), ())
        digest = state.steps["g"].opened.digest
        await house.ask(address, CastVote(id="v", step="g", digest=digest, decision="approve"))
        await house.until(address, lambda state: state.steps["g"].status == "completed")


async def test_a_long_answer_is_a_claim_check_in_the_log_and_a_value_where_it_is_read(opened: Any) -> None:
    text = "so " * 20_000
    document = plan(
        question("q"),
        Check(name="long", after=("q",), condition="count(q.value) > 50000"),
        Emit(name="end", after=("long",), outcome="Done", result="{q.provided_by}"),
    )
    async with opened() as house:
        await house.executor()
        address = await house.create(document)
        state = await house.until(address, lambda state: state.status == "waiting")

        await house.ask(address, AnswerAsk(id="a", step="q", digest=state.steps["q"].opened.digest, value=text))

        state = await house.ended(address)
        assert state.steps["q"].output.blob.size_bytes > 60_000
        assert (state.status, state.result.value) == ("completed", "tester")


async def test_a_standby_takes_over_from_an_executor_that_dies(opened: Any) -> None:
    document = plan(
        *(
            Task(
                name=f"t{n}",
                agent="add",
                after=(f"t{n - 1}",) if n else (),
                inputs={"a": n, "b": 1},
                idempotent=True,
            )
            for n in range(300)
        )
    )
    async with opened("add") as house:
        first = await house.executor()
        await house.worker(add)
        address = await house.create(document)
        await house.until(address, lambda state: state.number > 20)
        await house.executor()
        await first.die()
        died = time.monotonic()
        reached = await house.until(address, lambda state: state.number > 0)

        await house.until(address, lambda state: state.number > reached.number)
        took_s = time.monotonic() - died
        state = await house.ended(address, 30)

        assert state.status == "completed"
        assert took_s < 5
        assert all(step.attempt == 1 for step in state.steps.values())


async def test_work_of_a_worker_that_dies_runs_elsewhere(opened: Any) -> None:
    started: list[str] = []
    begun = asyncio.Event()

    @agent(name="patient", idempotent=True)
    async def stuck(context: Context) -> str:
        started.append("first")
        begun.set()
        await asyncio.sleep(60)
        return "never"

    @agent(name="patient", idempotent=True)
    async def quick(context: Context) -> str:
        started.append("second")
        return "done"

    async with opened("patient") as house:
        await house.executor()
        first = await house.worker(stuck)
        address = await house.create(plan(Task(name="p", agent="patient", idempotent=True)))
        await asyncio.wait_for(begun.wait(), 10)
        await first.die()
        await house.worker(quick)

        state = await house.ended(address)

        assert (state.status, started, state.steps["p"].attempt) == ("completed", ["first", "second"], 1)


async def test_work_that_comes_twice_at_once_is_begun_once(opened: Any) -> None:
    started: list[str] = []

    @agent(idempotent=True)
    async def once(context: Context) -> str:
        started.append(context.key)
        return "done"

    async with opened("once") as house:
        await house.executor()
        address = await house.create(plan(Task(name="p", agent="once", idempotent=True)))
        connection = await house.connected("agent-once")
        async with await subscribe(connection, WORK, agent_consumer("once")) as work:
            (message,) = await work.receive()
        with Rooms(1) as rooms:
            host = Host(getattr(once, _MARK), connection, rooms, asyncio.Event())
            host._take(message)
            host._take(message)
            state = await house.ended(address)

        assert (state.status, started) == ("completed", [f"{address}.p.1"])


async def test_a_step_that_is_not_idempotent_is_never_begun_twice(opened: Any) -> None:
    started: list[str] = []
    begun = asyncio.Event()

    @agent
    async def pay() -> str:
        started.append("paid")
        begun.set()
        await asyncio.sleep(60)
        return "never"

    async with opened("pay") as house:
        await house.executor()
        first = await house.worker(pay)
        address = await house.create(plan(Task(name="p", agent="pay", idempotent=False, retry=Retry(attempts=5))))
        await asyncio.wait_for(begun.wait(), 10)
        await first.die()
        await house.worker(pay)

        state = await house.until(address, lambda state: state.status == "paused")

        assert (state.steps["p"].status, started) == ("outcome_unknown", ["paid"])


async def test_an_agent_that_blocks_its_loop_keeps_its_work(opened: Any) -> None:
    starts: list[str] = []

    @agent(idempotent=True)
    async def rude(context: Context) -> str:
        starts.append(context.key)
        time.sleep(3.5)  # noqa: ASYNC251 - longer than the server waits for a sign of life
        return "done"

    async with opened("rude") as house:
        await house.executor()
        await house.worker(rude)
        address = await house.create(plan(Task(name="r", agent="rude", idempotent=True)))

        state = await house.ended(address)

        assert (state.status, len(starts)) == ("completed", 1)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_agent_that_exits_fails_its_step_and_no_worker(opened: Any, is_async: bool) -> None:
    @agent(name="quitter", idempotent=True)
    async def quits_async() -> None:
        raise SystemExit(3)

    @agent(name="quitter", idempotent=True)
    def quits() -> None:
        raise SystemExit(3)

    async with opened("quitter", "add") as house:
        await house.executor()
        await house.worker(quits_async if is_async else quits, add)
        address = await house.create(plan(Task(name="q", agent="quitter", idempotent=True)))
        state = await house.until(address, lambda state: state.status == "paused")
        failure = state.steps["q"].failure
        assert failure is not None
        assert failure.message == "the agent called sys.exit(3)"

        again = await house.create(plan(Task(name="add", agent="add", inputs={"a": 1, "b": 1}, idempotent=True)))
        assert (await house.ended(again)).status == "completed"


async def test_an_output_that_is_no_json_fails_its_step(opened: Any) -> None:
    @agent(idempotent=True)
    def odd() -> object:
        return object()

    async with opened("odd") as house:
        await house.executor()
        await house.worker(odd)
        address = await house.create(
            plan(Task(name="o", agent="odd", idempotent=True, retry=Retry(attempts=3, backoff_s=0)))
        )
        state = await house.until(address, lambda state: state.status == "paused")

        failure = state.steps["o"].failure
        assert failure is not None
        assert (failure.code, state.steps["o"].attempt) == ("bad_output", 1)


async def test_a_cancelled_plan_tells_its_agents_to_stop(opened: Any) -> None:
    stopped = asyncio.Event()

    @agent(idempotent=True)
    async def endless(context: Context) -> str:
        await asyncio.to_thread(context.cancelled.wait)
        stopped.set()
        return "stopped"

    async with opened("endless") as house:
        await house.executor()
        await house.worker(endless)
        address = await house.create(plan(Task(name="e", agent="endless", idempotent=True)))
        await house.until(address, lambda state: state.running == 1)

        await house.ask(address, CancelPlan(id="c"))

        await asyncio.wait_for(stopped.wait(), 10)
        state = await house.ended(address)
        assert (state.status, state.steps["e"].status) == ("cancelled", "cancelled")


async def test_a_retry_goes_on_from_the_failure(opened: Any) -> None:
    broken = [True]

    @agent(idempotent=True)
    def fix() -> str:
        if broken[0]:
            raise RuntimeError("broken")
        return "whole"

    document = plan(
        Task(name="add", agent="add", inputs={"a": 1, "b": 1}, idempotent=True),
        Task(name="fix", agent="fix", after=("add",), idempotent=True),
    )
    async with opened("add", "fix") as house:
        await house.executor()
        await house.worker(add, fix)
        address = await house.create(document)
        await house.until(address, lambda state: state.status == "paused")
        broken[0] = False

        await house.ask(address, RetryStep(id="r", step="fix", attempt=1))

        state = await house.ended(address)
        assert state.status == "completed"
        assert (state.steps["add"].attempt, state.steps["fix"].attempt) == (1, 2)


@pytest.mark.parametrize("junk", [b"", b"{", b"[" * 40, b'{"verb":"cancel"}', b'{"verb":"pause","id":"x"}'])
async def test_a_command_that_is_none_is_set_aside_and_stops_nobody(opened: Any, junk: bytes) -> None:
    document = plan(Task(name="add", agent="add", inputs={"a": 1, "b": 1}, idempotent=True))
    async with opened("add") as house:
        await house.executor()
        await house.worker(add)
        operator = await house.connected("operator-tester")
        await operator.publish("commands.tester.plan-1.cancel.tester", junk)

        address = await house.create(document)

        assert (await house.ended(address)).status == "completed"
        admin = await house.connected("admin")
        stored = await admin.direct_get("POISON", sequence=1, batch=10)
        assert [one.data for one in stored] == [junk]
