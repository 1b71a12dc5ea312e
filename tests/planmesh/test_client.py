"""The SDK against a real server, with a planner and an executor in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planmesh.agents import Context, agent, find
from planmesh.client import Client, PlanCancelled, PlanFailed, PlanRefused
from planmesh.connection import Connection, connect
from planmesh.credentials import Credentials, write_credentials
from planmesh.entry import find_credentials
from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.executor.service import steer, work
from planmesh.operator import Operator, QueryRefused
from planmesh.planner.document import Limits
from planmesh.planner.service import plan_goals
from planmesh.schemas import goals, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, CancelPlan, CastVote, PausePlan, ResumePlan
from planmesh.schemas.events import AskAnswered, Commit, GateApproved
from planmesh.schemas.payload import canonical
from planmesh.schemas.questions import NotTaken, Questioned, Settled
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address
from planmesh.steering import Refused, new_command_id
from planmesh.testing import MeshServer


@agent(name="echo", idempotent=True)
def echo(text: str = "", size: int = 0, context: Context | None = None) -> str:
    return text or "x" * size


@agent(name="fail", idempotent=True)
def fail() -> None:
    raise RuntimeError("no luck")


@agent(name="tell", idempotent=True)
def tell(context: Context) -> None:
    context.progress("half way", {"percent": 50})


NOW = datetime(2026, 1, 1, tzinfo=UTC)

ECHO = {"version": 1, "name": "Say it", "steps": [{"kind": "task", "name": "say", "agent": "echo"}]}
GATED = {
    "version": 1,
    "name": "Ask first",
    "steps": [
        {"kind": "gate", "name": "ask"},
        {"kind": "task", "name": "say", "agent": "echo", "after": ["ask"], "inputs": {"text": "done"}},
    ],
}


class Running:
    """A server with services: `connect` as anybody."""

    def __init__(self, server: MeshServer, stack: contextlib.AsyncExitStack) -> None:
        self.server = server
        self._stack = stack

    async def connect(self, user: str) -> Connection:
        who = self.server.credentials(user)
        return await self._stack.enter_async_context(await connect(who.server, who.user, who.password, name=user))


@pytest.fixture
async def mesh(mesh_server: MeshServer) -> AsyncIterator[Running]:
    found = find([__name__], entry_point=False)
    for name in found:
        await mesh_server.add_agent(name)
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        running = Running(mesh_server, stack)
        core, agents = await running.connect("executor"), await running.connect("executor-agents")
        planner, edge = await running.connect("planner"), await running.connect("planner-edge")
        hosts = {name: await running.connect(f"agent-{name}") for name in found}
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(steer(core, agents, stop))
            tasks.create_task(work(found, hosts, stop))
            tasks.create_task(plan_goals(planner, edge, stop, limits=Limits(), on_ready=ready.set))
            await ready.wait()
            yield running
            stop.set()


@pytest.fixture
async def client(mesh: Running) -> AsyncIterator[Client]:
    async with Client.connect(data_dir=mesh.server.data_dir) as client:
        yield client


@pytest.fixture
async def operator(mesh: Running) -> AsyncIterator[Operator]:
    async with Operator.connect(data_dir=mesh.server.data_dir) as operator:
        yield operator


ASKING = {
    "version": 1,
    "name": "Ask a number",
    "steps": [
        {"kind": "ask", "name": "q", "type": "number", "prompt": "How many?", "reviewers": ["service:helper"]},
        {"kind": "gate", "name": "release", "reviewers": ["service:helper"], "after": ["q"]},
        {"kind": "emit", "name": "end", "outcome": "Done", "result": "{q.value}", "after": ["release"]},
    ],
}


def echoing(**inputs: Any) -> dict[str, Any]:
    step = {"kind": "task", "name": "say", "agent": "echo", "inputs": inputs}
    return {"version": 1, "name": "Say it", "steps": [step]}


def command(kind: type[AnyCommand], **fields: Any) -> Any:
    return kind(id=new_command_id(), **fields)


async def approval(operator: Operator, address: Address) -> CastVote:
    async for state, _ in operator.watch(address):
        if state.status is PlanStatus.WAITING:
            opened = state.steps["ask"].opened
            assert opened is not None
            return CastVote(id=new_command_id(), step="ask", digest=opened.digest, decision="approve")
    raise AssertionError("it ended")


# --- submitting --------------------------------------------------------------------------------------------


async def test_a_submitter_hears_the_result(client: Client) -> None:
    submitted = await client.submit(echoing(text="hello"), goal="Say hello")

    completed = await submitted.result(10)

    assert completed.result.value == {"say": "hello"}
    assert [type(one) for one in submitted.heard] == [goals.Accepted, goals.Completed]
    assert submitted.address.space == "tester"
    assert submitted.address.plan.startswith("say-it-2")


async def test_a_plan_may_be_text(client: Client) -> None:
    text = "version: 1\nname: Say it\nsteps:\n- {kind: task, name: say, agent: echo, inputs: {text: '{what}'}}\n"

    submitted = await client.submit(text + "inputs: {what: {type: text}}\n", inputs={"what": "moo"})

    assert (await submitted.result(10)).result.value == {"say": "moo"}


async def test_a_goal_that_cannot_be_a_plan_is_refused_with_every_problem(client: Client) -> None:
    steps = [{"kind": "task", "name": "a", "agent": "nobody"}, {"kind": "task", "name": "b", "agent": "no-one"}]
    submitted = await client.submit({"version": 1, "name": "x", "steps": steps}, id="bad")

    with pytest.raises(PlanRefused, match=r"goal tester\.bad was refused:\n.*/steps/0/agent: .*nobody") as caught:
        await submitted.result(10)

    assert [problem.code for problem in caught.value.problems] == ["unknown_agent", "unknown_agent"]


async def test_a_plan_that_fails_is_an_error_with_the_outcome(client: Client) -> None:
    steps = [{"kind": "task", "name": "a", "agent": "fail"}]
    submitted = await client.submit(
        {"version": 1, "name": "x", "policy": {"on_failure": "fail"}, "steps": steps}, id="unlucky"
    )

    with pytest.raises(PlanFailed, match=r"plan tester\.unlucky failed at step a: .*no luck") as caught:
        await submitted.result(10)

    assert caught.value.outcome.step == "a"


async def test_a_plan_that_is_cancelled_is_an_error_with_the_outcome(client: Client, operator: Operator) -> None:
    submitted = await client.submit(GATED, id="p")
    await approval(operator, submitted.address)

    await operator.command(submitted.address, command(CancelPlan, reason="not today"))

    with pytest.raises(PlanCancelled, match=r"plan tester\.p was cancelled by tester: not today"):
        await submitted.result(10)


async def test_waiting_for_a_result_says_what_was_heard_last(client: Client) -> None:
    submitted = await client.submit(GATED, id="p")
    async for outcome in submitted.outcomes():
        if isinstance(outcome, goals.Waiting):
            break

    with pytest.raises(TimeoutError, match=r"tester\.p has not ended within 0\.1 s; it waits at ask"):
        await submitted.result(0.1)


async def test_a_draft_is_not_started(client: Client, operator: Operator) -> None:
    submitted = await client.submit(ECHO, start=False)

    async for outcome in submitted.outcomes():
        assert isinstance(outcome, goals.Accepted)
        assert outcome.draft
        break
    assert (await operator.state(submitted.address)).status is PlanStatus.DRAFT


async def test_the_refusal_of_another_goal_with_the_same_id_is_not_the_end_of_the_first(client: Client) -> None:
    first = await client.submit(GATED, id="p")
    async for outcome in first.outcomes():
        if isinstance(outcome, goals.Waiting):
            break

    second = await client.submit(ECHO, id="p")

    with pytest.raises(PlanRefused, match="already a plan with other content"):
        await second.result(10)
    assert first.final is None


async def test_an_id_is_checked_before_anything_is_published(client: Client) -> None:
    with pytest.raises(subjects.BadToken, match="plan must be 1 to 64"):
        await client.submit(ECHO, id="a.b")


async def test_a_document_that_no_message_can_carry_is_refused_at_once(client: Client) -> None:
    with pytest.raises(Poison, match="max_payload"):
        await client.submit({**ECHO, "goal": "x" * 9_000_000})


async def test_new_ids_differ(client: Client) -> None:
    first, second = await client.submit(ECHO), await client.submit(ECHO)

    assert first.address != second.address


@pytest.mark.parametrize(
    "text", ['script "Tidy up"\n', "steps: []\nname: 'Tidy up'\n", '{"name": "Tidy up", "steps": []}']
)
async def test_a_new_id_tells_people_which_plan_it_is(client: Client, text: str) -> None:
    assert (await client.submit(text)).address.plan.startswith("tidy-up-")


async def test_news_that_nobody_acked_come_again(client: Client, mesh: Running) -> None:
    submitted = await client.submit(ECHO, id="p")
    await submitted.result(10)

    async for news in client.outcomes():
        assert isinstance(news.outcome, goals.Accepted)
        break  # as if this process had died here

    async with Client.connect(data_dir=mesh.server.data_dir) as restarted:
        heard = []
        async for news in restarted.outcomes():
            heard.append(type(news.outcome))
            news.ack()
            if isinstance(news.outcome, goals.FINAL):
                break
        assert news.address == submitted.address
    # The one that was taken is out until its `ack_wait` is over; what was behind it is here.
    assert heard[-1] is goals.Completed


async def test_what_is_no_outcome_is_skipped(client: Client, mesh: Running) -> None:
    executor = await mesh.connect("executor")
    submitted = await client.submit(GATED, id="p")
    await executor.publish(subjects.outcome(submitted.address), b"junk")
    strange = goals.Resumed(space="other", goal="p", at=NOW, number=9)
    await executor.publish(subjects.outcome(submitted.address), encode(strange))
    real = goals.Cancelled(space="tester", goal="p", at=NOW, number=9, by="ada", reason="")
    await executor.publish(subjects.outcome(submitted.address), encode(real))

    with pytest.raises(PlanCancelled):
        await submitted.result(10)

    assert goals.Resumed not in [type(one) for one in submitted.heard]


class Wire:
    """A way to the server that can be cut, and mended."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._writers: list[asyncio.StreamWriter] = []
        self._is_cut = False

    async def lay(self) -> str:
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        self._is_cut = False

    def take_up(self) -> None:
        self.cut()
        self._listener.close()


async def test_news_that_come_while_the_connection_is_away_are_heard_when_it_is_back(
    mesh: Running, operator: Operator
) -> None:
    wire = Wire(mesh.server.url)
    async with Client.connect(await wire.lay(), data_dir=mesh.server.data_dir) as client:
        submitted = await client.submit(GATED, id="p")
        vote = await approval(operator, submitted.address)

        wire.cut()
        await operator.command(submitted.address, vote)
        assert await last_status(operator, submitted.address) is PlanStatus.COMPLETED
        wire.mend()

        assert (await submitted.result(10)).result.value == {"say": "done"}
    wire.take_up()


async def test_a_watcher_misses_nothing_while_the_connection_is_away(client: Client, mesh: Running) -> None:
    wire = Wire(mesh.server.url)
    async with (
        Operator.connect(await wire.lay(), data_dir=mesh.server.data_dir) as away,
        Operator.connect(data_dir=mesh.server.data_dir) as operator,
    ):
        submitted = await client.submit(GATED, id="p")
        vote = await approval(operator, submitted.address)
        watching = asyncio.create_task(numbers_of(away, submitted.address))
        await asyncio.sleep(0.1)

        wire.cut()
        await operator.command(submitted.address, vote)
        await submitted.result(10)
        wire.mend()

        numbers = await asyncio.wait_for(watching, 10)
        assert numbers == list(range(1, len(numbers) + 1))
    wire.take_up()


async def numbers_of(operator: Operator, address: Address) -> list[int]:
    return [commit.number async for _, commit in operator.watch(address)]


async def test_a_submitter_cannot_read_the_news_of_others(client: Client) -> None:
    with pytest.raises(Unusable, match="may not publish"):
        await client.connection.request(subjects.last_outcome("other", "p"))


async def test_who_waits_hears_that_the_connection_is_closed(mesh: Running) -> None:
    async with Client.connect(data_dir=mesh.server.data_dir) as client:
        submitted = await client.submit(GATED, id="p")
        waiting = asyncio.create_task(submitted.result())
        await asyncio.sleep(0)

    with pytest.raises(Unusable, match=r"the connection closed before tester\.p ended"):
        await waiting


# --- steering ----------------------------------------------------------------------------------------------


async def test_a_command_is_answered_by_the_line_of_the_log(client: Client, operator: Operator) -> None:
    submitted = await client.submit(GATED)
    vote = await approval(operator, submitted.address)

    answer = await operator.command(submitted.address, vote)

    assert GateApproved in [type(event) for event in answer.events]
    assert (await submitted.result(10)).result.value == {"say": "done"}


async def test_the_same_command_twice_has_one_answer(client: Client, operator: Operator) -> None:
    submitted = await client.submit(GATED)
    vote = await approval(operator, submitted.address)

    first = await operator.command(submitted.address, vote)
    second = await operator.command(submitted.address, vote)

    assert first == second


async def test_a_command_that_the_plan_does_not_take_is_refused_with_what_is_possible(
    client: Client, operator: Operator
) -> None:
    submitted = await client.submit(GATED)
    await approval(operator, submitted.address)

    with pytest.raises(Refused, match=r"resume was refused: nobody has paused .*\(possible now: pause, cancel") as no:
        await operator.command(submitted.address, command(ResumePlan))

    assert no.value.event.code == "not_paused"
    assert no.value.event.possible[:2] == ("pause", "cancel")


async def test_without_an_executor_a_command_says_so(mesh_server: MeshServer) -> None:
    async with Operator.connect(data_dir=mesh_server.data_dir) as operator:
        with pytest.raises(Busy, match="is an executor running") as caught:
            await operator.command(Address("tester", "p"), command(PausePlan), timeout_s=0.1)
    assert caught.value.ambiguous


# --- looking -----------------------------------------------------------------------------------------------


async def test_a_plan_is_watched_from_its_first_commit_to_its_end(client: Client, operator: Operator) -> None:
    submitted = await client.submit(GATED)
    seen: list[tuple[int, PlanStatus]] = []

    async def watch() -> None:
        async for state, commit in operator.watch(submitted.address):
            assert state.number == commit.number
            seen.append((commit.number, state.status))

    watching = asyncio.create_task(watch())
    await operator.command(submitted.address, await approval(operator, submitted.address))
    await asyncio.wait_for(watching, 10)

    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] is PlanStatus.COMPLETED


async def test_a_plan_that_is_not_there_yet_is_waited_for(client: Client, operator: Operator) -> None:
    watching = asyncio.create_task(last_status(operator, Address("tester", "later")))
    await asyncio.sleep(0.05)

    await client.submit(ECHO, id="later")

    assert await asyncio.wait_for(watching, 10) is PlanStatus.COMPLETED


async def test_watching_from_now_on_leaves_out_what_was(client: Client, operator: Operator) -> None:
    submitted = await client.submit(GATED)
    vote = await approval(operator, submitted.address)
    before = (await operator.state(submitted.address)).number
    numbers: list[int] = []

    async def watch() -> None:
        async for _, commit in operator.watch(submitted.address, from_start=False):
            numbers.append(commit.number)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.1)
    await operator.command(submitted.address, vote)
    await asyncio.wait_for(watching, 10)

    assert numbers[0] == before + 1
    assert [number async for number in ended(operator, submitted.address)] == []


async def ended(operator: Operator, address: Address) -> AsyncIterator[int]:
    async for _, commit in operator.watch(address, from_start=False):
        yield commit.number


async def last_status(operator: Operator, address: Address) -> PlanStatus:
    status = PlanStatus.ABSENT
    async for state, _ in operator.watch(address):
        status = state.status
    return status


async def test_a_rejected_append_is_not_taken_for_the_log(client: Client, operator: Operator, mesh: Running) -> None:
    submitted = await client.submit(GATED)
    await approval(operator, submitted.address)
    watching = asyncio.create_task(last_status(operator, submitted.address))
    executor = await mesh.connect("executor")
    forged = Commit(
        space="tester", plan=submitted.address.plan, number=99, at=NOW, causes=(), events=(), previous="0" * 64
    )

    with pytest.raises(Conflict):
        await executor.publish(subjects.plan_log(submitted.address), encode(forged), expect_last_on_subject=0)
    started = time.perf_counter()
    await operator.command(submitted.address, command(CancelPlan))

    assert await asyncio.wait_for(watching, 10) is PlanStatus.CANCELLED
    assert time.perf_counter() - started < 2


async def test_a_plan_is_found_by_its_id_alone(client: Client, operator: Operator) -> None:
    submitted = await client.submit(ECHO, id="p")
    await submitted.result(10)

    assert await operator.find("p") == submitted.address
    assert await operator.find("tester.p") == submitted.address


async def test_an_id_that_two_spaces_have_is_ambiguous(client: Client, operator: Operator, mesh: Running) -> None:
    await mesh.server.add_submitter("other")
    async with Client.connect(data_dir=mesh.server.data_dir, user="other") as other:
        for one in (client, other):
            await (await one.submit(ECHO, id="p")).result(10)

    with pytest.raises(QueryRefused, match=r"several spaces have a plan p: say other\.p or tester\.p") as caught:
        await operator.find("p")

    assert caught.value.spaces == ("other", "tester")


@pytest.mark.parametrize("text", ["nope", "tester.nope", "*", "a.b.c", "", "p\u202e", "x" * 5_000])
async def test_a_plan_that_is_not_there_is_not_found(operator: Operator, text: str) -> None:
    with pytest.raises(QueryRefused) as caught:
        await operator.find(text)

    assert caught.value.code == "unknown_plan"


async def test_without_an_auditor_a_question_says_what_to_do(operator: Operator) -> None:
    started = time.perf_counter()

    with pytest.raises(Busy, match=r"no auditor answers .*planmesh doctor.*--from-log"):
        await operator.plans()

    assert time.perf_counter() - started < 2


async def test_a_large_value_is_fetched_by_its_digest(client: Client, operator: Operator) -> None:
    submitted = await client.submit(echoing(size=20_000))
    await submitted.result(10)
    output = (await operator.state(submitted.address)).steps["say"].output

    assert output.blob is not None
    assert await operator.value(output) == "x" * 20_000
    assert await operator.blob(output.blob.sha256) == canonical("x" * 20_000)
    with pytest.raises(Poison, match="there is no blob"):
        await operator.blob("0" * 64)


async def test_the_progress_of_a_plan_is_heard_live(client: Client, operator: Operator) -> None:
    address = Address("tester", "p")
    reports = operator.progress(address)
    first = asyncio.ensure_future(anext(reports))
    await asyncio.sleep(0.1)
    steps = [{"kind": "task", "name": "a", "agent": "tell"}]

    await client.submit({"version": 1, "name": "x", "steps": steps}, id="p")
    report = await asyncio.wait_for(first, 10)

    assert (report.step, report.agent, report.progress.text) == ("a", "tell", "half way")
    assert report.progress.data == {"percent": 50}
    await reports.aclose()  # type: ignore[attr-defined]


# --- who one is --------------------------------------------------------------------------------------------


async def test_one_file_of_credentials_is_enough(mesh: Running, tmp_path: Path) -> None:
    file = mesh.server.data_dir / "credentials" / "submitter-tester.toml"
    copied = tmp_path / "elsewhere" / file.name
    copied.parent.mkdir()
    copied.write_bytes(file.read_bytes())

    async with Client.connect(credentials=copied) as client:
        await (await client.submit(ECHO)).result(10)


def test_without_credentials_it_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"there is no mesh in .*`planmesh up` starts .*`planmesh credentials operator"):
        find_credentials("operator", data_dir=tmp_path)
    write_credentials(tmp_path / "credentials", Credentials(server="nats://here", user="agent-a", password="p"))
    with pytest.raises(Unusable, match=r"no operator's credentials in .*`planmesh up`.*`planmesh credentials operator"):
        find_credentials("operator", data_dir=tmp_path)


async def test_with_several_credentials_it_asks_which(mesh_server: MeshServer) -> None:
    await mesh_server.add_operator("ada")
    (mesh_server.data_dir / "connection.toml").unlink()

    with pytest.raises(Unusable, match=r"operator-ada, operator-tester: say which"):
        find_credentials("operator", data_dir=mesh_server.data_dir)
    assert find_credentials("operator", data_dir=mesh_server.data_dir, user="ada").user == "operator-ada"


# --- answering ---------------------------------------------------------------------------------------------


async def test_an_operator_answers_a_question(client: Client, operator: Operator) -> None:
    document = {"name": "Ask", "steps": [{"kind": "ask", "name": "q", "options": ["yes", "no"]}]}
    submitted = await client.submit(document)
    await anext(one async for one in submitted.outcomes() if isinstance(one, goals.Waiting))

    with pytest.raises(Refused, match="expected one of yes, no"):
        await operator.answer(submitted.address, "q", "maybe")
    answer = await operator.answer(submitted.address, "q", "no", reason="not now")

    assert any(isinstance(event, AskAnswered) and event.by == operator.name for event in answer.events)
    assert (await submitted.result(10)).result.value["q"]["value"] == "no"


async def test_whoever_waits_hears_of_questions(client: Client) -> None:
    submitted = await client.submit({"name": "Ask", "steps": [{"kind": "ask", "name": "q"}]})

    waiting = await anext(one async for one in submitted.outcomes() if isinstance(one, goals.Waiting))

    assert (waiting.gates, waiting.asks) == ((), ("q",))
    with pytest.raises(TimeoutError, match="it waits at q"):
        await submitted.result(0.01)


async def test_a_service_answers_what_plans_of_others_ask_it(client: Client, mesh: Running) -> None:
    await mesh.server.add_submitter("helper")
    submitted = await client.submit(ASKING)
    async with (
        Client.connect(data_dir=mesh.server.data_dir, user="helper") as helper,
        contextlib.aclosing(helper.questions()) as questions,
    ):
        asked = await told(questions, Questioned)
        assert (asked.space, asked.plan, asked.step, asked.answer) == (*submitted.address, "q", "number")
        sent = await helper.answer(asked, "many")
        refused = await told(questions, NotTaken)
        assert (refused.command, refused.code) == (sent, "invalid_answer")
        await helper.answer(asked, 42, reason="counted")
        assert (await told(questions, Settled)).by == ("service:helper",)
        gate = await told(questions, Questioned)
        assert (gate.kind, gate.step) == ("gate", "release")
        await helper.approve(gate)
        assert (await told(questions, Settled)).how == "approved"

    completed = await submitted.result(10)
    assert completed.result.value == 42


async def test_a_service_answers_what_its_own_plan_asks_whoever_asked(client: Client) -> None:
    submitted = await client.submit({"name": "Ask", "steps": [{"kind": "ask", "name": "q", "type": "boolean"}]})

    async with contextlib.aclosing(client.questions()) as questions:
        await client.answer(await told(questions, Questioned), False)
        assert isinstance(await told(questions, Settled), Settled)

    answered = (await submitted.result(10)).result.value["q"]
    assert (answered["value"], answered["provided_by"]) == (False, f"service:{client.space}")


async def test_a_service_that_is_not_asked_changes_nothing(client: Client, operator: Operator, mesh: Running) -> None:
    await mesh.server.add_submitter("stranger")
    submitted = await client.submit({"name": "Ask", "steps": [{"kind": "ask", "name": "q"}]})
    await anext(one async for one in submitted.outcomes() if isinstance(one, goals.Waiting))
    before = await operator.state(submitted.address)
    opened = before.steps["q"].opened
    assert opened is not None
    fake = Questioned(
        space=before.address.space,
        plan=before.address.plan,
        step="q",
        at=NOW,
        number=1,
        kind="ask",
        round=1,
        digest=opened.digest,
    )
    async with Client.connect(data_dir=mesh.server.data_dir, user="stranger") as stranger:
        await stranger.answer(fake, "mine")
        nowhere = msgspec.structs.replace(fake, plan="no-such-plan")
        await stranger.answer(nowhere, "mine")

    await operator.answer(submitted.address, "q", "ours")

    after = await operator.state(submitted.address)
    assert after.steps["q"].output.value["value"] == "ours"
    assert not any("stranger" in actors for actors in after.answered.values())
    with pytest.raises(QueryRefused):
        await operator.find("no-such-plan")


async def told(questions: Any, kind: type[Any]) -> Any:
    """The next of this kind that the service hears."""
    async with asyncio.timeout(20):
        async for heard in questions:
            heard.ack()
            if isinstance(heard.question, kind):
                return heard.question
    raise AssertionError("the questions have ended")


async def test_a_plan_that_asks_a_service_that_nobody_is_is_refused(client: Client, mesh: Running) -> None:
    await mesh.server.add_submitter("helper")
    document = {"name": "Ask", "steps": [{"kind": "ask", "name": "q", "reviewers": ["service:helpr"]}]}

    with pytest.raises(PlanRefused) as refused:
        await (await client.submit(document)).result(10)

    assert [(one.code, one.hint) for one in refused.value.problems] == [
        ("unknown_reviewer", "did you mean service:helper?")
    ]
