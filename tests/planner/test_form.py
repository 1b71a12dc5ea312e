"""The form of a model's answer: what it lets through, and what a model that is held to it cannot get wrong."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.planner import form
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.schemas.work import AgentDescription, AgentParameter, ToolDescription

AGENTS = {
    "read": AgentDescription(name="read", parameters=(AgentParameter(name="path"),)),
    "count": AgentDescription(
        name="count", parameters=(AgentParameter(name="text"), AgentParameter(name="unit", required=False))
    ),
    "anything": AgentDescription(name="anything", any_parameters=True),
    "llm": AgentDescription(
        name="llm",
        parameters=(AgentParameter(name="task"),),
        tools=(ToolDescription(name="look"), ToolDescription(name="post")),
    ),
}


def fits(schema: form.Schema, *steps: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid({"name": "A plan", "steps": list(steps)}))


def task(name: str, agent: str, *after: str, kind: str = "task", **inputs: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "agent": agent, "inputs": inputs, "after": list(after)}


LOOSE = form.loose(AGENTS, ["person:ada", "role:operator"], 5)
TIGHT = form.tight(AGENTS, ["topic"], 5)


@pytest.mark.parametrize("schema", [LOOSE, TIGHT])
def test_it_is_json_schema(schema: form.Schema) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_kind_of_step_fits_that_a_model_may_write() -> None:
    branch = {"step": "which", "label": "more"}
    steps = [
        task("read", "read", path="{topic}"),
        {
            "kind": "agent",
            "name": "think",
            "agent": "llm",
            "inputs": {"task": "x"},
            "after": [],
            "permissions": {"tools": ["look"]},
        },
        {"kind": "ask", "name": "which-one", "prompt": "Which?", "type": "text", "options": ["a", "b"]},
        {"kind": "decide", "name": "which", "cases": [{"when": "topic == 1", "then": "more"}], "otherwise": "done"},
        {"kind": "gate", "name": "ok", "prompt": "Go on?", "branch": branch, "reviewers": ["person:ada"]},
    ]

    assert fits(LOOSE, *steps)
    assert fits(
        LOOSE,
        {"kind": "check", "name": "c", "condition": "1 < 2"},
        {"kind": "emit", "name": "e", "outcome": "o", "result": {}},
    )


@pytest.mark.parametrize(
    "step",
    [
        task("a", "nobody", path="x"),
        task("a", "read"),
        task("a", "read", path="x", other="y"),
        task("A b", "read", path="x"),
        {**task("a", "read", path="x"), "permissions": {"write": ["/"]}},
        {**task("a", "read", path="x"), "idempotent": True},
        {"kind": "gate", "name": "g", "prompt": "?", "optional": True},
        {"kind": "gate", "name": "g", "prompt": "?", "reviewers": ["person:mallory"]},
        {**task("a", "llm", kind="agent", task="x"), "permissions": {"tools": ["shell"]}},
        {"kind": "run", "name": "r", "document": "x"},
    ],
)
def test_what_a_model_may_not_say_does_not_fit(step: dict[str, Any]) -> None:
    assert not fits(LOOSE, step)


def test_a_plan_has_some_steps_and_not_too_many() -> None:
    for schema, steps in (
        (LOOSE, [task(f"s{number}", "read", path="x") for number in range(6)]),
        (TIGHT, [task(f"step-{number}", "read", path="x") for number in range(1, 7)]),
    ):
        assert not fits(schema)
        assert fits(schema, *steps[:5])
        assert not fits(schema, *steps)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (task("step-1", "read", "step-2", path="x"), task("step-2", "read", path="x")),
        (task("step-1", "read", path="{step_1}"), task("step-2", "read", path="x")),
        (task("step-1", "read", path="x"), task("step-1", "read", path="x")),
        (task("step-1", "read", path="x"), task("step-2", "count", "step-3", text="x")),
        (task("step-1", "read", path="{other}"), task("step-2", "read", path="x")),
        (task("step-1", "read", path="{"), task("step-2", "read", path="x")),
    ],
)
def test_the_tight_form_has_no_circles_and_no_unknown_names(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert not fits(TIGHT, first, second)


def test_many_agents_are_told_by_their_names_alone() -> None:
    agents = {f"a{number}": AgentDescription(name=f"a{number}") for number in range(500)}
    for schema in (form.loose(agents, [], 50), form.tight(agents, [], 50)):
        assert len(json.dumps(schema)) < 150_000
        assert fits(schema, task("step-1", "a499"))
        assert not fits(schema, task("step-1", "a500"))


@st.composite
def tight_plans(draw: st.DrawFn) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for number in range(1, draw(st.integers(1, 5)) + 1):
        before = [step["name"] for step in steps]
        after = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        read = ["{topic}", *(f"{{{name.replace('-', '_')}}}" for name in before)]
        value = st.sampled_from(read) | st.text("abc .,-ä", min_size=1, max_size=20)
        name = f"step-{number}"
        if draw(st.booleans()):
            steps.append(task(name, "count", *after, text=draw(value)))
        else:
            steps.append({"kind": "gate", "name": name, "after": after, "prompt": draw(st.text("abc ", max_size=20))})
    return steps


@given(tight_plans())
def test_what_fits_the_tight_form_can_run(steps: list[dict[str, Any]]) -> None:
    assert fits(TIGHT, *steps)

    found = compile_plan({"name": "A plan", "inputs": {"topic": {}}, "steps": steps}, AGENTS)

    assert isinstance(found, Compiled), found
