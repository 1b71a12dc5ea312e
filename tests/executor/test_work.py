"""What agents may do to a worker, and it still says what became of each attempt."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from plays import plan

from planmesh import Context, agent
from planmesh.agents import _MARK
from planmesh.embedded import EmbeddedServer
from planmesh.errors import Unusable
from planmesh.executor import work
from planmesh.executor.work import Host, Rooms
from planmesh.schemas.plan import Task


async def _cancelled_from_within() -> None:
    child = asyncio.create_task(asyncio.sleep(10))
    child.cancel()
    await child


async def _interrupted() -> None:
    raise KeyboardInterrupt


def _interrupted_in_a_thread() -> None:
    raise KeyboardInterrupt


def _cancelled_in_a_thread() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "function", [_cancelled_from_within, _interrupted, _interrupted_in_a_thread, _cancelled_in_a_thread]
)
async def test_what_is_meant_to_end_a_task_or_a_process_fails_an_attempt(
    opened: Any, function: Callable[..., Any]
) -> None:
    ends = agent(name="ends", idempotent=True)(function)
    async with opened("ends") as house:
        await house.executor()
        await house.worker(ends)
        address = await house.create(plan(Task(name="e", agent="ends", idempotent=True)))

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["e"].failure is not None
        assert state.steps["e"].failure.code == "agent_error"


@pytest.mark.parametrize("levels", [28, 29, 32])
async def test_an_output_as_deep_as_a_message_may_be_arrives(opened: Any, levels: int) -> None:
    @agent(idempotent=True)
    def nest() -> Any:
        value: Any = []
        for _ in range(levels - 1):
            value = [value]
        return value

    async with opened("nest") as house:
        await house.executor()
        await house.worker(nest)
        address = await house.create(plan(Task(name="n", agent="nest", idempotent=True)))

        assert (await house.ended(address)).status == "completed"


async def test_an_output_that_is_deeper_fails_its_step(opened: Any) -> None:
    @agent(idempotent=True)
    def nest() -> Any:
        value: Any = []
        for _ in range(32):
            value = [value]
        return value

    async with opened("nest") as house:
        await house.executor()
        await house.worker(nest)
        address = await house.create(plan(Task(name="n", agent="nest", idempotent=True)))

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["n"].failure is not None
        assert state.steps["n"].failure.code == "bad_output"


async def test_no_step_fills_what_the_context_is_given_to(opened: Any) -> None:
    @agent(idempotent=True)
    def look(context: Context, **more: Any) -> str:
        return context.step

    async with opened("look") as house:
        await house.executor()
        await house.worker(look)
        address = await house.create(plan(Task(name="l", agent="look", inputs={"context": "mine"}, idempotent=True)))

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["l"].failure is not None
        assert state.steps["l"].failure.message == "agent look takes no inputs: context is not one of its parameters"


async def test_as_many_agents_run_in_threads_as_there_is_work(opened: Any) -> None:
    all_here = threading.Barrier(80)

    @agent(idempotent=True)
    def meet() -> None:
        all_here.wait(10)

    document = plan(*(Task(name=f"m{n}", agent="meet", idempotent=True) for n in range(80)))
    async with opened("meet") as house:
        await house.executor()
        await house.worker(meet)
        address = await house.create(document)

        assert (await house.ended(address)).status == "completed"


async def test_what_was_handed_out_longer_ago_than_claims_are_kept_is_not_begun(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    @agent
    def pay() -> None:
        begun.append(1)

    monkeypatch.setattr(work, "_CLAIMED_S", -1)
    async with opened("pay") as house:
        await house.executor()
        await house.worker(pay)
        address = await house.create(plan(Task(name="p", agent="pay", idempotent=False)))

        state = await house.until(address, lambda state: state.status == "paused")

        assert (state.steps["p"].status, begun) == ("outcome_unknown", [])


async def test_results_that_are_large_together_go_in_several_messages(opened: Any) -> None:
    @agent(idempotent=True)
    def break_down() -> None:
        raise RuntimeError("\x01" * 4_000)  # six bytes each, in JSON, and three times: in the traceback as well

    document = plan(*(Task(name=f"b{n}", agent="break-down", idempotent=True) for n in range(60)))
    async with opened("break-down") as house:
        sizes = []
        worker = await house.worker(break_down)
        (connection,) = worker._connections
        publish = connection.publish

        async def noted(subject: str, payload: bytes, **options: Any) -> Any:
            if subject.startswith("results."):
                sizes.append(len(payload))
                await asyncio.sleep(0.5)  # until all the others have failed
            return await publish(subject, payload, **options)

        connection.publish = noted
        await house.executor()
        address = await house.create(document)

        state = await house.until(address, lambda state: state.status == "paused")

        assert len(state.troubled) == 60
        assert max(sizes) < 2.5 * 1024 * 1024
        assert len(sizes) < 60


async def test_inputs_that_are_gone_fail_their_step(opened: Any) -> None:
    @agent(idempotent=True)
    def take(text: str) -> int:
        return len(text)

    async with opened("take") as house:
        running = await house.executor()
        document = plan(Task(name="t", agent="take", inputs={"text": "{text}"}, idempotent=True))
        address = await house.create(document, inputs={"text": "x" * 300_000})
        admin = await house.connected("admin")
        async with asyncio.timeout(15):
            while True:
                info = json.loads(await admin.request("$JS.API.STREAM.INFO.WORK"))
                if info["state"]["messages"]:
                    break
                await asyncio.sleep(0.01)
        await running.stop()  # it keeps in memory what it used last
        await admin.request("$JS.API.STREAM.PURGE.BLOBS")
        await house.executor()
        await house.worker(take)

        state = await house.until(address, lambda state: state.status == "paused")

        assert state.steps["t"].failure is not None
        assert state.steps["t"].failure.code == "inputs"
        assert "there is no blob" in state.steps["t"].failure.message


async def gone(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()


@pytest.mark.parametrize("characters", [10, 20_000])
async def test_a_worker_that_is_to_end_gives_up_what_the_server_does_not_take_and_says_so(
    opened: Any, characters: int
) -> None:
    begun, ends = threading.Event(), threading.Event()

    @agent(idempotent=True)
    def give() -> str:
        begun.set()
        ends.wait(60)
        return "x" * characters

    async with opened("give") as house:
        await house.executor()
        worker = await house.worker(give, stop_patience_s=0.2)
        address = await house.create(plan(Task(name="p", agent="give", idempotent=True)))
        await asyncio.to_thread(begun.wait, 30)
        await gone(house.server.server)
        ends.set()

        house.running.remove(worker)
        with pytest.raises(Unusable, match=rf"{address}\.p\.1\. Each is handed out again"):
            await asyncio.wait_for(worker.stop(), 60)


async def test_a_worker_that_is_to_end_before_it_could_say_what_its_agents_are_ends(opened: Any) -> None:
    @agent(idempotent=True)
    def give() -> str:
        return "x"

    async with opened("give") as house:
        connection = await house.connected("agent-give")
        await gone(house.server.server)
        stop = asyncio.Event()
        with Rooms(1) as rooms:
            host = Host(getattr(give, _MARK), connection, rooms, stop)
            describing = asyncio.create_task(host.describe())
            await asyncio.sleep(0.1)
            stop.set()

            await asyncio.wait_for(describing, 60)
