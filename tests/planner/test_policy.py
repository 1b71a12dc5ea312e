"""Gates before what could do harm, in plans of any shape."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.policy import gated, harm, refuse_widening, ungated
from planmesh.planner.problems import Problems
from planmesh.schemas.plan import Decide, Gate, Permissions, Plan, Task
from planmesh.schemas.work import AgentDescription, ToolDescription

AGENTS = {
    "safe": AgentDescription(name="safe", description="Looks", any_parameters=True),
    "silent": AgentDescription(name="silent", any_parameters=True),
    "harmful": AgentDescription(name="harmful", any_parameters=True, permissions=Permissions(write=("/srv",))),
    "thinker": AgentDescription(
        name="thinker",
        any_parameters=True,
        tools=(
            ToolDescription(name="look"),
            ToolDescription(name="post", permissions=Permissions(network=("example.org",))),
            ToolDescription(name="erase", destructive=True),
        ),
    ),
}
OPERATORS = ("role:operator",)


def compiled(*steps: dict[str, Any]) -> Plan:
    inputs = {"flag": {"type": "boolean"}}
    found = compile_plan({"name": "A plan", "inputs": inputs, "steps": list(steps)}, AGENTS)
    assert isinstance(found, Compiled), found
    return found.plan


def task(name: str, agent: str = "harmful", after: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    return {"kind": "task", "name": name, "agent": agent, "after": list(after), **fields}


def gate(name: str, after: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    return {"kind": "gate", "name": name, "after": list(after), **fields}


def decide(name: str, after: Sequence[str] = ()) -> dict[str, Any]:
    cases = [{"when": "flag", "then": "left"}]
    return {"kind": "decide", "name": name, "cases": cases, "otherwise": "right", "after": list(after)}


# --- what is harmful ---------------------------------------------------------------------------------------


def test_what_an_agent_uses_is_said_of_its_step() -> None:
    agents = {
        "all": AgentDescription(
            name="all",
            permissions=Permissions(write=("/a",), network=("b", "c"), secrets=("d",), read=("/e",)),
            destructive=True,
        )
    }

    found = harm(Task(name="step", agent="all"), agents)

    assert found == ["it cannot be undone", "writes /a", "uses the network b and c", "uses the secrets d"]


@pytest.mark.parametrize("agent", ["silent", "unheard-of"])
def test_an_agent_that_has_said_nothing_of_itself_may_do_anything(agent: str) -> None:
    assert harm(Task(name="step", agent=agent), AGENTS) == ["nobody knows what its agent does"]


def test_a_tool_that_a_step_names_does_its_harm_in_the_step() -> None:
    def step(*tools: str) -> Task:
        return Task(name="think", agent="thinker", permissions=Permissions(tools=tools))

    assert harm(step("look"), AGENTS) == []
    assert harm(step("look", "post"), AGENTS) == ["uses the network example.org"]
    assert harm(step("look", "erase"), AGENTS) == ["it cannot be undone"]


def test_tools_that_an_agent_has_do_not_widen_what_it_may() -> None:
    problems = Problems()
    plan = compiled(task("think", "thinker", permissions={"tools": ["look"], "network": ["example.org"]}))

    refuse_widening(plan, AGENTS, problems)

    assert not problems


def test_what_neither_an_agent_nor_its_tools_declare_does() -> None:
    body = task("inner", "thinker", permissions={"tools": ["look"], "network": ["elsewhere.org"]})
    plan = compiled(
        task("think", "thinker", permissions={"tools": ["look"], "network": ["elsewhere.org"]}),
        {"kind": "each", "name": "all", "items": "[1, 2]", "steps": [body]},
    )
    problems = Problems()

    refuse_widening(plan, AGENTS, problems)

    assert [problem.pointer for problem in problems.listed()] == [
        "/steps/0/permissions/network",
        "/steps/1/steps/0/permissions/network",
    ]


def test_steps_that_do_others_are_as_harmful_as_they_are() -> None:
    plan = compiled(
        {"kind": "plan", "name": "write", "inputs": {"task": "anything"}},
        {"kind": "run", "name": "run-it", "document": "write"},
        {"kind": "run", "name": "keep-it", "document": "write", "mode": "draft"},
        {"kind": "each", "name": "all", "items": "[1, 2]", "steps": [task("inner")]},
        {"kind": "each", "name": "safely", "items": "[1, 2]", "steps": [task("other", "safe")]},
        {"kind": "ask", "name": "question", "prompt": "Which?"},
    )

    assert ungated(plan, AGENTS, OPERATORS) == {
        "run-it": ["it runs a plan that is not known yet"],
        "all": ["writes /srv"],
    }
    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-run-it", "approve-all")


# --- gates -------------------------------------------------------------------------------------------------


def test_a_step_behind_a_gate_needs_no_other() -> None:
    plan = compiled(gate("ok"), task("a", "safe", ["ok"]), task("b", after=["a"]))

    assert gated(plan, AGENTS, OPERATORS) == (plan, ())


def test_steps_that_wait_for_the_same_share_a_gate() -> None:
    plan = compiled(task("a", "safe"), task("b", after=["a"]), task("c", after=["a"]), task("d", after=["b", "c"]))

    found, gates = gated(plan, AGENTS, OPERATORS)

    assert gates == ("approve-b",)
    asked = next(step for step in found.steps if isinstance(step, Gate))
    assert asked.after == ("a",)
    assert "- b: writes /srv\n- c: writes /srv" in asked.prompt


def test_a_gate_that_may_be_skipped_does_not_count() -> None:
    plan = compiled(gate("maybe", optional=True), task("a", after=["maybe"]))

    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-a",)


def test_a_gate_for_somebody_else_does_not_count() -> None:
    plan = compiled(gate("mine", reviewers=["person:mallory"]), task("a", after=["mine"]))

    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-a",)


def test_a_gate_that_is_escalated_to_somebody_else_does_not_count() -> None:
    escalate = [{"after_s": 0.001, "to": ["service:mallory"]}]
    plan = compiled(gate("mine", reviewers=list(OPERATORS), escalate=escalate), task("a", after=["mine"]))

    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-a",)


def test_a_gate_that_takes_less_proof_does_not_count() -> None:
    plan = compiled(gate("mine", reviewers=list(OPERATORS), level="link"), task("a", after=["mine"]))

    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-a",)


def test_a_gate_in_a_branch_that_may_not_be_taken_does_not_count() -> None:
    plan = compiled(
        task("a", "safe"),
        decide("which", ["a"]),
        gate("ok", branch={"step": "which", "label": "left"}),
        task("b", after=["a", "ok"]),
    )

    assert list(ungated(plan, AGENTS, OPERATORS)) == ["b"]
    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-b",)


def test_a_gate_in_the_branch_of_the_step_does_count() -> None:
    branch = {"step": "which", "label": "left"}
    plan = compiled(
        task("a", "safe"),
        decide("which", ["a"]),
        gate("ok", branch=branch),
        task("b", after=["ok"], branch=branch),
    )

    assert gated(plan, AGENTS, OPERATORS)[1] == ()


def test_names_that_are_taken_are_not_given_again() -> None:
    plan = compiled(task("approve-a", "safe"), task("x", "safe", binding="approve_a_2"), task("a"))

    assert gated(plan, AGENTS, OPERATORS)[1] == ("approve-a-3",)


def test_what_is_to_be_left_is_left() -> None:
    plan = compiled(task("a"), task("b"))

    assert gated(plan, AGENTS, OPERATORS, {"a"})[1] == ("approve-b",)


# --- any plan ----------------------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 9))):
        before = [step["name"] for step in steps]
        after = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        name = f"s{number}"
        match draw(st.sampled_from(["harmful", "harmful", "safe", "gate", "weak", "decide"])):
            case "decide":
                step = decide(name, after)
            case "gate":
                step = gate(name, after)
            case "weak":
                step = gate(name, after, **draw(st.sampled_from([{"optional": True}, {"reviewers": ["person:eve"]}])))
            case agent:
                step = task(name, agent, after)
        decides = [one["name"] for one in steps if one["kind"] == "decide"]
        if decides and draw(st.booleans()):
            step["branch"] = {"step": draw(st.sampled_from(decides)), "label": draw(st.sampled_from(["left", "right"]))}
        steps.append(step)
    return compiled(*steps)


def begun_without_approval(plan: Plan, labels: dict[str, str]) -> set[str]:
    """The tasks that start though nobody approves at a gate that counts; any other gate is opened at once.

    By what `planmesh.schemas.state.taken` says, written down once more.
    """
    ran: dict[str, bool] = {}
    while True:
        before = len(ran)
        for step in plan.steps:
            if step.name in ran or not all(need in ran for need in step.after):
                continue
            if step.branch is not None:
                decided = ran[step.branch.step] and labels.get(step.branch.step) == step.branch.label
                runs = decided
            else:
                runs = not step.after or any(ran[need] for need in step.after)
            counts = isinstance(step, Gate) and not step.optional and step.reviewers == OPERATORS
            if not (runs and counts):
                ran[step.name] = runs
        if len(ran) == before:
            return {step.name for step in plan.steps if isinstance(step, Task) and ran.get(step.name)}


@given(plans(), st.data())
def test_nothing_harmful_starts_before_somebody_approves(plan: Plan, data: st.DataObject) -> None:
    found, gates = gated(plan, AGENTS, OPERATORS)
    labels = {
        step.name: data.draw(st.sampled_from(["left", "right"])) for step in plan.steps if isinstance(step, Decide)
    }

    begun = begun_without_approval(found, labels)

    assert not [step for step in found.steps if step.name in begun and isinstance(step, Task) and harm(step, AGENTS)]
    assert ungated(found, AGENTS, OPERATORS) == {}
    assert bool(gates) == bool(ungated(plan, AGENTS, OPERATORS))


@given(plans())
def test_a_plan_with_gates_put_in_can_run_and_is_settled(plan: Plan) -> None:
    found, gates = gated(plan, AGENTS, OPERATORS)

    again = compile_plan(msgspec.to_builtins(found), AGENTS)

    assert isinstance(again, Compiled), again
    assert gated(again.plan, AGENTS, OPERATORS) == (again.plan, ())
    kept = [step.name for step in again.plan.steps if step.name not in gates]
    assert kept == [step.name for step in plan.steps]
