"""Goals in words, and instructions, on a real server: nothing else waits for a model."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from flows import insist
from model_server import Answer, ModelServer, Script, fails, gives, hangs, model_server
from planners import Bench, plan, planning, until

from planmesh import settings
from planmesh.connection import Connection
from planmesh.errors import Busy, Poison, Unusable
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.desk import WAITING
from planmesh.planner.drafting import Drafter, allowed
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, ProposeRevision, RefuseGoal, ReportDraft
from planmesh.schemas.goals import Goal
from planmesh.schemas.plan import Plan, Policy
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AgentDescription, AgentParameter, DraftWork, PlannerWork, ToolDescription

with_echo = pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)

ECHO = AgentDescription(name="echo", description="Says what it hears", parameters=(AgentParameter(name="text"),))


def answer(name: str = "Say it") -> Answer:
    return gives({"name": name, "steps": [{"kind": "task", "name": "say", "agent": "echo", "inputs": {"text": "hi"}}]})


@asynccontextmanager
async def modelled(bench: Bench, *script: Script, drafts_at_once: int = 4, **model: Any) -> AsyncIterator[ModelServer]:
    """A planner with a model that answers by *script*."""
    await bench.describe(ECHO)
    with model_server(*script) as server:
        given = settings.Model(**{"name": "scripted", "base_url": server.base_url, "timeout_s": 60, **model})
        async with (
            Drafter(given, settings.Planner()) as drafter,
            planning(bench, drafter=drafter, drafts_at_once=drafts_at_once),
        ):
            yield server


@with_echo
async def test_a_goal_in_words_becomes_a_plan_with_its_author(bench: Bench) -> None:
    async with modelled(bench, answer()):
        await bench.submit("g1", {"goal": "Say hi", "start": False})

        command = await bench.created("g1")

    assert (command.plan.name, command.goal, command.start) == ("Say it", "Say hi", False)
    assert command.origin is not None
    assert (command.origin.author, command.origin.model, len(command.origin.tries)) == ("model", "scripted", 1)


@with_echo
async def test_without_a_model_a_goal_in_words_is_refused_and_says_what_to_do(bench: Bench) -> None:
    await bench.describe(ECHO)
    async with planning(bench):
        await bench.submit("g1", {"goal": "Say hi"})

        command = codec.command.decode((await bench.taken("g1", "refuse"))[0])

    assert isinstance(command, RefuseGoal)
    assert [problem.code for problem in command.problems] == ["no_model"]
    assert command.goal == "Say hi"
    assert command.origin is not None


@with_echo
async def test_a_goal_that_is_published_again_is_drafted_once(bench: Bench) -> None:
    names = iter("abc")

    async with modelled(bench, lambda _request: answer(next(names))) as server:
        await bench.submit("g1", {"goal": "Say hi"})
        await bench.taken("g1", "create")
        await bench.submit("g1", {"goal": "Say hi"})

        first, second = await bench.taken("g1", "create", 2)

        assert first == second
        assert len(server.requests) == 1


@with_echo
async def test_no_goal_with_a_plan_waits_for_a_model(bench: Bench) -> None:
    async with modelled(bench, hangs(), drafts_at_once=2) as server:
        for number in range(2 + WAITING + 20):
            await bench.submit(f"words-{number}", {"goal": "Say hi"})
        await until(lambda: held(server, 2))
        for number in range(20):
            await bench.submit(f"plan-{number}", {"plan": plan(text="hello")})

        for number in range(20):
            assert (await bench.created(f"plan-{number}")).plan.name == "Demo"

        assert server.most_at_once == 2


@with_echo
async def test_one_who_asks_a_lot_of_a_model_keeps_no_other_from_asking(bench: Bench) -> None:
    await bench.server.add_submitter("other")
    other = await bench.connect("submitter-other")
    async with modelled(bench, answer(), drafts_at_once=1) as server:
        for number in range(3 * WAITING):
            await bench.submit(f"words-{number}", {"goal": "Say hi"})
        await until(lambda: asked(server))
        await other.publish("goals.other.g", msgspec.json.encode({"goal": "Say hi"}))

        await bench.taken("g", "create", space="other")

        assert await bench.open_goals() > WAITING


async def held(server: ModelServer, count: int) -> bool:
    return server.running >= count


async def asked(server: ModelServer) -> bool:
    return server.most_at_once > 0


@with_echo
async def test_every_goal_is_drafted_in_the_end(bench: Bench) -> None:
    async with modelled(bench, answer(), drafts_at_once=3) as server:
        goals = [f"words-{number}" for number in range(WAITING + 15)]
        for goal in goals:
            await bench.submit(goal, {"goal": f"Say {goal}"})

        for goal in goals:
            assert (await bench.created(goal)).goal == f"Say {goal}"
        assert server.most_at_once <= 3


@with_echo
async def test_a_planner_that_ends_leaves_what_the_model_is_at_to_the_next(bench: Bench) -> None:
    async with modelled(bench, hangs()) as server:
        await bench.submit("g1", {"goal": "Say hi"})
        await until(lambda: held(server, 1))

    assert await bench.open_goals() == 1
    async with modelled(bench, answer()):
        assert (await bench.created("g1")).plan.name == "Say it"


# --- revisions ---------------------------------------------------------------------------------------------

CURRENT = msgspec.convert(
    {
        "name": "Greet",
        "steps": [
            {
                "kind": "task",
                "name": "first",
                "agent": "echo",
                "inputs": {"text": "a"},
                "permissions": {},
                "idempotent": False,
            },
            {
                "kind": "task",
                "name": "second",
                "agent": "echo",
                "inputs": {"text": "b"},
                "permissions": {},
                "idempotent": False,
            },
        ],
    },
    Plan,
)


def wanted(instruction: str = "Say c instead of b", **fields: Any) -> PlannerWork:
    return PlannerWork(
        space="tester",
        plan="p1",
        request="r1",
        kind="revise",
        by="ada",
        current=CURRENT,
        kept=("first",),
        instruction=instruction,
        **fields,
    )


async def proposed(bench: Bench, work: PlannerWork) -> ProposeRevision:
    executor = await bench.connect("executor")
    at = Address(work.space, work.plan)
    await executor.publish(subjects.planner_work(at), encode(work))
    command = codec.command.decode((await bench.taken(work.plan, "propose"))[0])
    assert isinstance(command, ProposeRevision)
    assert (command.request, command.by_planner) == (work.request, True)
    return command


def revised(**steps: str) -> Answer:
    return gives(
        {
            "name": "Greet",
            "steps": [
                {"kind": "task", "name": name, "agent": "echo", "inputs": {"text": text}, "after": []}
                for name, text in steps.items()
            ],
        }
    )


@with_echo
async def test_an_instruction_is_worked_out_by_the_model(bench: Bench) -> None:
    async with modelled(bench, revised(first="a", second="c", third="d")) as server:
        command = await proposed(bench, wanted(trouble={"second": "agent_error: b is a bad word"}))

    assert command.plan is not None
    assert [(step.name, step.inputs["text"]) for step in command.plan.steps] == [  # type: ignore[union-attr]
        ("first", "a"),
        ("second", "c"),
        ("third", "d"),
    ]
    assert command.origin is not None
    assert command.origin.model == "scripted"
    said = server.said(0)
    assert "Say c instead of b" in said
    assert "b is a bad word" in said
    assert '<started>\n["first"]' in said


@with_echo
async def test_a_model_that_changes_what_has_started_is_told_so(bench: Bench) -> None:
    async with modelled(bench, revised(first="x"), revised(second="c")) as server:
        command = await proposed(bench, wanted())

    assert command.plan is not None
    assert [step.name for step in command.plan.steps] == ["first", "second"]
    assert "step first has started, and cannot change any more" in server.said(1)


@with_echo
async def test_what_a_model_adds_that_could_do_harm_stands_behind_a_gate(bench: Bench) -> None:
    harmful = {**json.loads(encode(ECHO)), "destructive": True}
    async with modelled(bench, revised(second="b", third="d")):
        await bench.describe(codec.description.decode(json.dumps(harmful).encode()))

        command = await proposed(bench, wanted())

    assert command.plan is not None
    assert [step.name for step in command.plan.steps] == ["first", "second", "approve-third", "third"]
    assert command.origin is not None
    assert command.origin.gates == ("approve-third",)


@with_echo
async def test_a_model_that_changes_a_plan_changes_nothing_of_its_policy(bench: Bench) -> None:
    lax = {"destructive": "allow", "revisions": "apply"}
    strict = msgspec.structs.replace(CURRENT, policy=Policy(revisions="hold", destructive="gate"))
    step = {"kind": "task", "name": "second", "agent": "echo", "inputs": {"text": "c"}, "after": []}
    async with modelled(bench, gives({"name": "Greet", "policy": lax, "steps": [step]})):
        command = await proposed(bench, msgspec.structs.replace(wanted(), current=strict))

    assert command.plan is not None
    assert command.plan.policy == strict.policy


@with_echo
async def test_an_instruction_that_cannot_be_worked_out_says_why(bench: Bench) -> None:
    async with modelled(bench, revised(other="{nobody}")):
        command = await proposed(bench, wanted())

    assert command.plan is None
    assert [problem.code for problem in command.problems] == ["unknown_name"]
    assert command.origin is not None
    assert len(command.origin.tries) == 3


@with_echo
async def test_without_a_model_an_instruction_is_answered_all_the_same(bench: Bench) -> None:
    async with planning(bench):
        command = await proposed(bench, wanted())

    assert command.plan is None
    assert [problem.code for problem in command.problems] == ["no_model"]


@with_echo
async def test_a_document_does_not_wait_for_instructions(bench: Bench) -> None:
    executor = await bench.connect("executor")
    document = {"name": "Greet", "steps": [{"kind": "task", "name": "third", "agent": "echo", "inputs": {"text": "c"}}]}
    async with modelled(bench, hangs(), drafts_at_once=1) as server:
        for number in range(WAITING + 5):
            work = msgspec.structs.replace(wanted(), plan=f"slow-{number}")
            await executor.publish(subjects.planner_work(Address("tester", work.plan)), encode(work))
        await until(lambda: held(server, 1))
        work = msgspec.structs.replace(wanted(""), document=document)
        await executor.publish(subjects.planner_work(Address("tester", "p1")), encode(work))

        (data,) = await bench.taken("p1", "propose")

        command = codec.command.decode(data)
        assert isinstance(command, ProposeRevision)
        assert command.plan is not None


# --- plans for steps ---------------------------------------------------------------------------------------


async def written(bench: Bench, **fields: Any) -> ReportDraft:
    executor = await bench.connect("executor")
    inputs = fields.pop("inputs", {"task": "Say hi", "audience": "the team"})
    work = DraftWork(space="tester", plan="p1", step="write", attempt=1, inputs=inputs, **fields)
    await executor.publish(subjects.step_planning(work.address, work.step), encode(work))
    command = codec.command.decode((await bench.taken("p1", "drafted"))[0])
    assert isinstance(command, ReportDraft)
    assert (command.step, command.attempt) == ("write", 1)
    return command


@with_echo
async def test_a_step_gets_a_plan_that_another_can_run(bench: Bench) -> None:
    async with modelled(bench, answer()) as server:
        command = await written(bench)

    assert command.document is not None
    assert compile_plan(command.document, {"echo": ECHO}) == Compiled(msgspec.convert(command.document, Plan), {})
    (call,) = command.calls
    assert (call.kind, call.name, call.ok, call.input_tokens) == ("model", "scripted", True, 11)
    assert '"Say hi"' in server.said(0)
    assert "the team" in server.said(0)


@with_echo
async def test_a_step_may_name_the_model_that_writes_its_plan(bench: Bench) -> None:
    async with modelled(bench, answer(), allowed="bigger-7b, others") as server:
        command = await written(bench, inputs={"task": "Say hi", "model": "bigger-7b"})

    assert server.requests[0]["model"] == "bigger-7b"
    assert "bigger-7b" not in server.said(0)
    assert [call.name for call in command.calls] == ["bigger-7b"]


@with_echo
async def test_a_step_may_name_no_model_that_the_settings_do_not_allow(bench: Bench) -> None:
    async with modelled(bench, answer(), allowed=["bigger-7b"]) as server:
        command = await written(bench, inputs={"task": "Say hi", "model": "biggest"})

    assert command.failure is not None
    assert (command.failure.code, command.failure.retryable) == ("model_not_allowed", False)
    assert "may choose the model scripted, bigger-7b, and found 'biggest'" in command.failure.message
    assert "(model.allowed)" in command.failure.message
    assert server.requests == []


@with_echo
async def test_a_step_tells_a_model_no_more_than_the_settings_allow(bench: Bench) -> None:
    async with modelled(bench, answer(), context_bytes=2_000) as server:
        command = await written(bench, inputs={"task": "Say hi", "context": "x" * 2_000})

    assert command.failure is not None
    assert (command.failure.code, command.failure.retryable) == ("model_not_allowed", False)
    assert "a step tells a model 2,000 bytes at most, and this one has 2,0" in command.failure.message
    assert "(model.context_bytes)" in command.failure.message
    assert server.requests == []


@with_echo
async def test_a_plan_for_a_step_uses_the_agents_that_the_step_allows(bench: Bench) -> None:
    async with modelled(bench, answer()):
        command = await written(bench, agents=("other",))

    assert command.failure is not None
    assert command.failure.code == "no_agents"


@with_echo
async def test_a_plan_for_a_step_has_no_more_steps_than_it_allows(bench: Bench) -> None:
    async with modelled(bench, revised(a="1", b="2", c="3")):
        command = await written(bench, max_steps=2)

    assert command.failure is not None
    assert (command.failure.code, command.failure.retryable) == ("too_many_steps", False)
    assert [call.ok for call in command.calls] == [False, False, False]


@with_echo
@pytest.mark.parametrize("strict", [False, True])
async def test_a_plan_for_a_step_follows_advice_if_the_step_says_so(bench: Bench, strict: bool) -> None:
    doubtful = {
        "name": "Ask",
        "steps": [
            {"kind": "ask", "name": "really", "prompt": "Really?", "reviewers": ["role:operator"]},
            {"kind": "task", "name": "say", "agent": "echo", "after": ["really"], "inputs": {"text": "hi"}},
        ],
    }
    async with modelled(bench, gives(doubtful), answer()) as server:
        command = await written(bench, strict=strict)

    assert command.document is not None
    assert ("really" in [step["name"] for step in command.document["steps"]]) is not strict
    assert len(server.requests) == 1 + strict
    assert not strict or "nobody reads the answer to this" in server.said(1)


@with_echo
async def test_a_step_can_be_tried_again_when_the_model_was_away(bench: Bench) -> None:
    async with modelled(bench, fails(503), retries=0):
        command = await written(bench)

    assert command.failure is not None
    assert (command.failure.code, command.failure.retryable) == ("model_unavailable", True)


def test_a_step_may_allow_single_tools_of_an_agent() -> None:
    tools = (ToolDescription(name="look"), ToolDescription(name="post"))
    agents = {"echo": ECHO, "llm": AgentDescription(name="llm", tools=tools)}

    found = allowed(agents, ("look",))

    assert allowed(agents, None) == agents
    assert list(found) == ["llm"]
    assert found["llm"].tools == tools[:1]


# --- questions ---------------------------------------------------------------------------------------------


async def somebody(bench: Bench) -> Connection:
    """An operator, once the planner hears questions."""
    operator = await bench.connect("operator-tester")
    await insist(lambda: operator.request("query.templates", b""))
    return operator


@with_echo
async def test_a_goal_can_be_drafted_without_being_one(bench: Bench) -> None:
    async with modelled(bench, answer()):
        operator = await somebody(bench)
        drafted = await operator.request("query.draft", encode(Goal(goal="Say hi")), timeout_s=30)
        planned = await operator.request("query.draft", encode(Goal(plan=plan(text="hi"))), timeout_s=30)
        refused = await operator.request("query.draft", b"[]", timeout_s=30)

    assert isinstance(codec.command.decode(drafted), CreatePlan)
    assert isinstance(codec.command.decode(planned), CreatePlan)
    assert isinstance(codec.command.decode(refused), RefuseGoal)
    assert await bench.open_goals() == 0
    assert bench.commands == {}


@with_echo
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("proposal", b"junk"),
        ("templates", b"[]"),
        ("template", b""),
        ("template", b'{"template": "../secret"}'),
        ("template", b'{"template": "none", "more": 1}'),
    ],
)
async def test_a_question_that_is_none_is_told_so(bench: Bench, name: str, data: bytes) -> None:
    async with planning(bench):
        operator = await somebody(bench)
        with pytest.raises(Poison):
            await operator.request(f"query.{name}", data, timeout_s=30)


@with_echo
async def test_a_planner_that_ends_says_so_to_whoever_waits_for_a_draft(bench: Bench) -> None:
    async with modelled(bench, hangs()) as server:
        operator = await somebody(bench)
        waiting = asyncio.create_task(operator.request("query.draft", encode(Goal(goal="Say hi")), timeout_s=60))
        await until(lambda: held(server, 1))

    with pytest.raises(Busy, match="the planner ends"):
        await waiting


async def test_no_submitter_can_ask_the_planner(bench: Bench) -> None:
    async with planning(bench):
        with pytest.raises(Unusable):
            await bench.submitter.request("query.draft", encode(Goal(goal="Say hi")), timeout_s=5)
