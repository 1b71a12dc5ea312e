"""What the planner makes of a request for a revision."""

from typing import Any

import msgspec

from planmesh.planner.catalogue import undescribed
from planmesh.planner.revisions import propose
from planmesh.schemas.commands import ProposeRevision
from planmesh.schemas.plan import Each, Gate, Parameter, Permissions, Plan, Policy, Task, is_destructive
from planmesh.schemas.work import AgentDescription, AgentParameter, PlannerWork, ToolDescription

OPERATORS = ("role:operator",)
AGENTS = {
    "first": undescribed("first"),
    "second": AgentDescription(
        name="second",
        parameters=(AgentParameter(name="value"),),
        idempotent=True,
        permissions=Permissions(network=("api.example",)),
    ),
}


def task(name: str, *after: str, agent: str = "first", **fields: Any) -> Task:
    return Task(name=name, after=after, agent=agent, permissions=Permissions(), idempotent=False, **fields)


CURRENT = Plan(
    name="Release",
    concurrency=7,
    policy=Policy(on_failure="fail"),
    steps=(task("a"), Gate(name="g", after=("a",)), task("b", "g")),
)


def wants(
    document: object = None, *, kept: tuple[str, ...] = ("a",), current: Plan = CURRENT, **more: Any
) -> PlannerWork:
    about: dict[str, Any] = {"kind": "revise", "request": "r", "by": "ada", **more}
    return PlannerWork(space="space", plan="plan", current=current, kept=kept, document=document, **about)


def proposed(work: PlannerWork) -> Plan:
    answer = propose(work, AGENTS, reviewers=OPERATORS)
    assert answer.plan is not None, answer.problems
    return answer.plan


def problems(work: PlannerWork) -> list[tuple[str, str]]:
    return [(problem.code, problem.pointer) for problem in propose(work, AGENTS, reviewers=OPERATORS).problems]


def test_a_document_need_not_repeat_what_has_started() -> None:
    plan = proposed(wants({"steps": [{"kind": "task", "name": "c", "agent": "first", "inputs": {"x": "{a}"}}]}))

    assert [step.name for step in plan.steps] == ["a", "c"]
    assert plan.steps[0] == CURRENT.steps[0]
    assert plan.steps[1].after == ("a",)


def test_what_a_document_does_not_say_of_the_plan_stays() -> None:
    plan = proposed(wants({"name": "Release again", "steps": msgspec.to_builtins(CURRENT.steps)}))

    assert (plan.name, plan.concurrency, plan.policy.on_failure) == ("Release again", 7, "fail")


def test_what_has_started_cannot_be_written_otherwise() -> None:
    other = {"kind": "task", "name": "a", "agent": "second", "inputs": {"value": 1}}

    assert problems(wants({"steps": [other]})) == [("started", "/steps/0")]


def test_what_has_started_may_be_written_without_what_the_planner_settles() -> None:
    plan = proposed(wants({"steps": [{"kind": "task", "name": "a", "agent": "first"}]}))

    assert plan.steps == CURRENT.steps[:1]


def each(text: str = "{x}", **settled: Any) -> dict[str, Any]:
    first = {"kind": "task", "name": "fetch", "binding": "page", "agent": "first", "inputs": {"about": text}}
    then = {"kind": "task", "name": "sum", "binding": "total", "agent": "second", "inputs": {"value": "{page}"}}
    if settled:
        then["after"] = ["fetch"]
    steps = [{**step, **settled} for step in (first, then)]
    return {"kind": "each", "name": "all", "binding": "totals", "items": "[1, 2]", "item": "x", "steps": steps}


def test_an_each_that_has_started_may_be_written_without_what_the_planner_settles_in_its_body() -> None:
    stored = msgspec.convert(each(permissions={}, idempotent=False), Each)
    current = msgspec.structs.replace(CURRENT, steps=(stored, task("b", "all")))

    plan = proposed(
        wants(
            {"steps": [each(), {"kind": "task", "name": "c"} | {"agent": "first", "inputs": {"x": "{totals}"}}]},
            kept=("all",),
            current=current,
        )
    )

    assert plan.steps[0] == stored
    assert [step.name for step in plan.steps] == ["all", "c"]
    for other in (each("{x}!"), each(permissions={"network": ["else.example"]}), {**each(), "parallel": 3}):
        found = problems(wants({"steps": [other]}, kept=("all",), current=current))
        assert ("started", "/steps/0") in found, other
    shorter = {**each(), "steps": each()["steps"][:1]}
    assert ("started", "/steps/0") in problems(wants({"steps": [shorter]}, kept=("all",), current=current))


def test_a_running_step_is_left_out_if_it_may_be_cancelled() -> None:
    steps = [{"kind": "task", "name": "c", "agent": "first"}]

    assert problems(wants({"steps": steps}, running=("a",))) == [("started", "/steps")]
    cancelling = wants({"steps": steps}, running=("a",), cancellable=("a",))
    assert [step.name for step in proposed(cancelling).steps] == ["c"]
    named = wants({"steps": [{"kind": "task", "name": "a", "agent": "first"}, *steps]}, running=("a",))
    assert [step.name for step in proposed(named).steps] == ["a", "c"]


def test_the_agent_of_a_step_that_has_started_may_be_gone() -> None:
    current = msgspec.structs.replace(CURRENT, steps=(task("a", agent="retired"), task("b", "a")))

    plan = proposed(wants({"steps": []}, current=current))
    assert [step.name for step in plan.steps] == ["a"]
    again = {"kind": "task", "name": "c", "agent": "retired"}
    assert problems(wants({"steps": [again]}, current=current)) == [("unknown_agent", "/steps/0/agent")]


def test_a_gate_that_was_approved_waits_for_no_more_than_it_did() -> None:
    """A gate would otherwise wait for what the steps behind it read."""
    current = msgspec.structs.replace(CURRENT, steps=(task("a"), task("x"), Gate(name="g", after=("a",))))
    steps = [{"kind": "task", "name": "c", "agent": "first", "after": ["g"], "inputs": {"x": "{x}"}}]

    plan = proposed(wants({"steps": steps}, kept=("a", "x", "g"), current=current))

    assert plan.steps[2] == current.steps[2]


def test_a_retry_with_another_agent_takes_what_that_one_declares() -> None:
    plan = proposed(wants(kind="retry", step="b", agent="second", inputs={"value": "{a}"}))

    (b,) = [step for step in plan.steps if step.name == "b"]
    assert isinstance(b, Task)
    assert (b.agent, b.idempotent, b.permissions) == ("second", True, Permissions(network=("api.example",)))
    assert b.after == ("a", "g")


def test_a_retry_with_another_agent_cannot_be_undone_only_if_that_one_says_so() -> None:
    steps = tuple(
        msgspec.structs.replace(step, destructive=True) if step.name == "b" else step for step in CURRENT.steps
    )
    current = msgspec.structs.replace(CURRENT, steps=steps)

    plan = proposed(wants(kind="retry", step="b", agent="second", inputs={"value": "{a}"}, current=current))

    assert [step.name for step in plan.steps if is_destructive(step)] == []


def test_a_retry_with_another_agent_keeps_the_tools_that_the_step_names() -> None:
    tools = (ToolDescription(name="look", permissions=Permissions(network=("maps.example",))),)
    thinkers = {
        name: AgentDescription(name=name, any_parameters=True, tools=tools if name != "bare" else ())
        for name in ("thinker", "other", "bare")
    }
    permitted = Permissions(tools=("look",), network=("maps.example", "more.example"))
    step = Task(name="b", agent="thinker", permissions=permitted, idempotent=False)
    current = msgspec.structs.replace(CURRENT, steps=(step,))

    def again(agent: str) -> ProposeRevision:
        work = wants(kind="retry", step="b", agent=agent, current=current, kept=())
        return propose(work, {**AGENTS, **thinkers}, reviewers=OPERATORS)

    found = again("other").plan
    assert found is not None
    assert isinstance(found.steps[0], Task)
    assert found.steps[0].permissions == Permissions(tools=("look",), network=("maps.example",))
    assert [problem.code for problem in again("bare").problems] == ["unknown_tool"]


def test_a_retry_with_inputs_that_the_agent_does_not_take_is_refused() -> None:
    assert problems(wants(kind="retry", step="b", agent="second", inputs={"other": 1})) == [
        ("unknown_input", "/steps/2/inputs/other"),
        ("missing_input", "/steps/2/inputs"),
    ]


def test_pointers_lead_into_the_document_that_was_sent() -> None:
    steps = [{"kind": "task", "name": "c", "agent": "first", "after": ["nobody"]}]

    assert problems(wants({"steps": steps}, kept=("a", "g"))) == [("unknown_step", "/steps/0/after/0")]


def test_what_is_wrong_with_a_script_is_said_with_its_line() -> None:
    script = 'script "Release"\n\ndo "C" with frist\n  x = nothing_of_the_kind\n'

    found = propose(wants(script), AGENTS, reviewers=OPERATORS).problems

    assert [(one.code, one.line) for one in found] == [("unknown_agent", 3), ("unknown_name", 4)]


def test_what_is_wrong_with_a_script_that_leaves_out_steps_is_said_with_its_line() -> None:
    script = 'script "Release"\n\ndo "C" with first\n  x = a\n\ndo "D" with frist\n'

    found = propose(wants(script, kept=("a", "g", "b")), AGENTS, reviewers=OPERATORS).problems

    assert [(one.code, one.line) for one in found] == [("unknown_agent", 6)]


def test_a_script_reads_what_a_step_gave_that_it_leaves_out() -> None:
    plan = proposed(wants('script "Release"\n\ndo "C" with first\n  x = a\n'))

    assert [(step.name, step.after) for step in plan.steps] == [("a", ()), ("c", ("a",))]


def test_inputs_cannot_change() -> None:
    plan = msgspec.structs.replace(CURRENT, inputs={"x": Parameter(type="text"), "y": Parameter()})
    same = {"x": {"type": "text"}, "y": {}}
    refused = [("started", "/inputs")]

    assert problems(wants({"inputs": same, "steps": []}, current=plan)) == []
    assert problems(wants({"inputs": {"x": {}}, "steps": []}, current=plan)) == []
    assert problems(wants({"inputs": {"x": {"type": "number"}, "y": {}}, "steps": []}, current=plan)) == refused
    assert problems(wants({"inputs": {**same, "z": {"type": "text"}}, "steps": []}, current=plan)) == refused
    assert problems(wants({"inputs": {"x": {"type": "text"}}, "steps": []}, current=plan)) == refused
    assert problems(wants({"inputs": {}, "steps": []}, current=plan)) == refused


def test_steps_that_are_no_list_are_a_problem_and_no_error() -> None:
    assert problems(wants({"steps": 7}))
    assert problems(wants("steps: {a: b}"))
    assert problems(wants("- no plan")) == [("malformed", "")]


def test_what_is_said_in_words_is_for_a_model() -> None:
    assert wants(instruction="make it cheaper").is_for_a_model
    assert not wants({"steps": []}).is_for_a_model
    assert not wants(kind="retry", step="a", agent="other").is_for_a_model


def test_every_request_has_an_answer_of_its_own() -> None:
    requests = ["r", "a" * 62, "a" * 63, "a" * 64, "a" * 63 + "b"]
    answers = [propose(wants({"steps": []}, request=request), AGENTS, reviewers=OPERATORS).id for request in requests]

    assert len(set(answers)) == len(requests)
    assert max(map(len, answers)) <= 64
    assert answers == [
        propose(wants({"steps": []}, request=request), AGENTS, reviewers=OPERATORS).id for request in requests
    ]
