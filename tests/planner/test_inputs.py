"""The values of a goal against the inputs of its plan."""

from typing import Any

import pytest

from planmesh.planner.compile import Compiled, compile_plan


def compiled(inputs: dict[str, Any], values: dict[str, Any] | None) -> Any:
    document = {"name": "x", "inputs": inputs, "steps": [{"name": "approve", "kind": "gate"}]}
    found = compile_plan(document, {}, values)
    if isinstance(found, Compiled):
        return found.inputs
    return [(one.code, one.pointer, one.message, one.hint) for one in found]


def test_what_is_not_given_has_its_default_or_is_null() -> None:
    inputs = {"a": {"default": 1}, "b": {"required": False}, "c": {"type": "text", "default": "x"}, "d": {}}

    assert compiled(inputs, {"d": None, "c": "y"}) == {"a": 1, "b": None, "c": "y", "d": None}
    assert compiled(inputs, None) == {"a": 1, "b": None, "c": "x", "d": None}


def test_a_null_for_an_input_that_need_not_be_given_stands_for_its_default() -> None:
    inputs = {"a": {"type": "integer", "default": 1}, "b": {"type": "list", "required": False}}

    assert compiled(inputs, {"a": None, "b": None}) == {"a": 1, "b": None}


def test_every_value_that_is_missing_unknown_or_of_another_type_is_named() -> None:
    inputs = {
        "path": {"type": "text", "description": "where the report goes"},
        "count": {"type": "integer"},
        "rest": {"type": "any"},
    }

    assert compiled(inputs, {"pth": "x", "count": "3"}) == [
        ("unknown_value", "/inputs/pth", "the plan has no input 'pth'", "did you mean path?"),
        (
            "missing_value",
            "/inputs/path",
            "expected a text for the input 'path'; none is given",
            "where the report goes",
        ),
        ("wrong_value", "/inputs/count", "expected a whole number for the input 'count'; found the text '3'", ""),
        (
            "missing_value",
            "/inputs/rest",
            "expected a value for the input 'rest'; none is given",
            "give it with the goal: --input rest=…, or `inputs`",
        ),
    ]
    assert compiled({}, {"x": 1}) == [
        ("unknown_value", "/inputs/x", "the plan has no input 'x'", "declare it under `inputs` of the plan")
    ]


def test_a_default_has_the_type_of_its_input() -> None:
    assert compiled({"n": {"type": "date", "default": "tomorrow"}}, None) == [
        (
            "wrong_default",
            "/inputs/n/default",
            "expected a date, as in '2026-11-22' for the input 'n'; found the text 'tomorrow'",
            "",
        )
    ]


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        ("text", ["", "x"], [1, None, ["x"]]),
        ("number", [1, 1.5, -0.0, 10**30], ["1", True, None]),
        ("integer", [1, -7], [1.0, 1.5, "1", True]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("object", [{}, {"a": [1]}], [[], "x", None]),
        ("list", [[], [1]], [{}, "x", None]),
        (
            "date",
            ["2026-11-22", "2024-02-29"],
            ["2026-02-29", "20261122", "2026-1-1", "2026-11-22T00:00:00Z", 1, "\u0662026-11-22"],
        ),
        (
            "timestamp",
            ["2026-11-22T09:30:00Z", "2026-11-22T09:30:00.123456789+05:30", "2026-11-22 09:30:00z"],
            ["2026-11-22", "2026-11-22T09:30:00", "2026-11-22T25:00:00Z", "2026-11-22T09:30Z", "now", 1],
        ),
        ("any", [None, 1, "x", {}], []),
    ],
)
def test_types_are_strict(type: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert compiled({"x": {"type": type}}, {"x": value}) == {"x": value}
    for value in bad:
        assert [code for code, *_ in compiled({"x": {"type": type}}, {"x": value})] == ["wrong_value"], value
