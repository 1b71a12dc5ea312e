"""Where a plan may read a secret that it asks for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.planner.advice import advise
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.disclosure import readers
from planmesh.planner.policy import ungated
from planmesh.schemas.expressions import parse
from planmesh.schemas.secrets import PLAIN, whole

ASK = {"kind": "ask", "name": "key", "secret": True}


def document(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "name": "A plan", "steps": [ASK, *steps]}


def task(**inputs: Any) -> dict[str, Any]:
    return {"kind": "task", "name": "use", "agent": "use-key", "inputs": inputs}


def problems(*steps: dict[str, Any]) -> list[tuple[str, str]]:
    compiled = compile_plan(document(*steps), None)
    return [] if isinstance(compiled, Compiled) else [(one.code, one.pointer) for one in compiled]


def each(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"kind": "each", "name": "all", "items": "[1, 2]", "steps": list(steps), **fields}


@pytest.mark.parametrize(
    "step",
    [
        task(key="{key.value}"),
        task(key="{ key.value }"),
        task(key='{key["value"]}'),
        task(key="{key.value}", text="given by {key.provided_by} at {key.provided_at}, at attempt {key.attempt}"),
        {"kind": "check", "name": "c", "condition": 'key.provided_by == "ada" and key.attempt < 3'},
        each(task(key="{key.value}", of="{item}")),
        each({**ASK, "name": "pin"}, task(key="{pin.value}")),
        each({**ASK, "name": "pin"}, task(key="{pin.value}"), value="pin.provided_by"),
    ],
)
def test_a_task_is_given_a_secret_as_the_whole_of_an_input(step: dict[str, Any]) -> None:
    assert problems(step) == []


@pytest.mark.parametrize(
    ("step", "pointer"),
    [
        (task(key="Bearer {key.value}"), "inputs/key"),
        (task(key="{key.value} "), "inputs/key"),
        (task(key="{key}"), "inputs/key"),
        (task(key="{key.value.secret}"), "inputs/key"),
        (task(key="{upper(key.value)}"), "inputs/key"),
        (task(key='{key.value ?? ""}'), "inputs/key"),
        (task(key='{key["val" + "ue"]}'), "inputs/key"),
        (task(key=["{key.value}"]), "inputs/key/0"),
        (task(key={"deep": "{key.value}"}), "inputs/key/deep"),
        ({**task(), "accept": "use == key.value"}, "accept"),
        ({"kind": "check", "name": "c", "condition": 'key.value == "x"'}, "condition"),
        ({"kind": "decide", "name": "d", "cases": [{"when": "key.value == 1", "then": "x"}]}, "cases/0/when"),
        ({"kind": "gate", "name": "g", "show": ["{key.value}"]}, "show/0"),
        ({"kind": "gate", "name": "g", "prompt": "{key}"}, "prompt"),
        ({"kind": "ask", "name": "a", "prompt": "{key.value}"}, "prompt"),
        ({"kind": "emit", "name": "e", "outcome": "Done", "result": "{key.value}"}, "result"),
        ({"kind": "plan", "name": "p", "inputs": {"task": "{key.value}"}}, "inputs/task"),
        ({"kind": "run", "name": "r", "document": "key.value"}, "document"),
        ({"kind": "run", "name": "r", "document": "{}", "inputs": {"key": "{key.value}"}}, "inputs/key"),
        ({"kind": "agent", "name": "a", "agent": "llm", "inputs": {"task": "{key.value}"}}, "inputs/task"),
        ({"kind": "agent", "name": "a", "agent": "mine", "inputs": {"task": "{key.value}"}}, "inputs/task"),
        ({**task(task="{key.value}"), "agent": "llm"}, "inputs/task"),
        (each(task(), items="key.value"), "items"),
        (each(task(key="{key.value}!")), "steps/0/inputs/key"),
        (each({**ASK, "name": "pin"}, task(key="{pin}")), "steps/1/inputs/key"),
        (each(task(), value="key.value"), "value"),
        (each({**ASK, "name": "pin"}), "steps/0"),
    ],
)
def test_a_secret_is_read_nowhere_else(step: dict[str, Any], pointer: str) -> None:
    assert problems(step) == [("secret_read", f"/steps/1/{pointer}")]


def test_in_a_script_the_place_is_shown_with_what_to_write_instead() -> None:
    script = 'ask "Key"\n  secret = true\n  -> key\n\ndo "Use" with use-key\n  key = "Bearer {key.value}"\n'

    (found,) = compile_plan(script, None)  # type: ignore[misc]

    assert (found.code, found.line, found.column) == ("secret_read", 6, 9)
    assert "{key.value}" in found.hint


def test_in_a_script_a_secret_has_another_name_by_let() -> None:
    script = 'ask "Key"\n  secret = true\n  -> key\nlet k = key.value\ndo "Use" with use-key\n  key = k\n'

    compiled = compile_plan(script, None)

    assert isinstance(compiled, Compiled)
    assert compiled.plan.steps[1].inputs == {"key": "{key.value}"}  # type: ignore[union-attr]
    assert advise(script) == []


def test_a_model_gives_a_secret_to_nothing_without_a_gate() -> None:
    for step in (task(key="{key.value}"), each(task(key="{key.value}"))):
        compiled = compile_plan(document(step), None)
        assert isinstance(compiled, Compiled)
        assert readers(compiled.plan) == {step["name"]}
        (harm,) = ungated(compiled.plan, {}, ()).values()
        assert "it is given a secret that somebody enters" in harm


ATOMS = ["key", "key.value", 'key["value"]', "key.value.secret", "key.provided_by", "key[0]", "n", '"x"', "1", "null"]
EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "==", "in", "and", "??"]), inner).map(lambda it: f"({' '.join(it)})"),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"[{one}]"),
        inner.map(lambda one: f"{{a: {one}}}"),
        inner.map(lambda one: f"{one}.value"),
        st.tuples(st.sampled_from(["upper", "count", "min", "map"]), inner).map(lambda it: f"{it[0]}({it[1]})"),
        st.tuples(inner, inner).map(lambda it: f"{it[0]}[{it[1]}]"),
    ),
    max_leaves=4,
)


@given(EXPRESSIONS, st.sampled_from(["", "x", " "]), st.sampled_from(["whole", "deep", "show", "result", "condition"]))
def test_whatever_is_let_through_reads_no_secret_but_as_a_whole_input(text: str, around: str, place: str) -> None:
    template = f"{around}{{ {text} }}"
    step: dict[str, Any] = {
        "whole": task(key=template),
        "deep": task(key=[{"of": template}]),
        "show": {"kind": "gate", "name": "g", "show": [template]},
        "result": {"kind": "emit", "name": "e", "outcome": "Done", "result": template},
        "condition": {"kind": "check", "name": "c", "condition": text},
    }[place]

    compiled = compile_plan({**document(step), "inputs": {"n": {}}}, None)

    if isinstance(compiled, Compiled):
        reads = [path for path in parse(text).paths if path[0] == "key"]
        is_plain = all(len(path) > 1 and path[1] in PLAIN for path in reads)
        assert is_plain or (place == "whole" and not around and whole(template) == "key"), json.dumps(step)
