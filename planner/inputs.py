"""The values that a goal gives for the inputs of its plan, against what the plan declares."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

from planmesh.planner.problems import Problems, listed, quoted, shown
from planmesh.schemas.plan import Parameter

_EXPECTED: Final[Mapping[str, str]] = {
    "text": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "an object",
    "list": "a list",
    "date": "a date, as in '2026-11-22'",
    "timestamp": "a timestamp with its offset, as in '2026-11-22T09:30:00Z'",
}
# Shapes of RFC 3339; whether there is such a day is for `datetime` to say.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[-+]\d{2}:\d{2})", re.ASCII)


def fill(parameters: Mapping[str, Parameter], values: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Every input with its value: the goal's, else its default, else null where it need not be given.

    Problems are added with pointers into the goal, ``/inputs/<name>``.
    """
    for name in values:
        if name not in parameters:
            hint = problems.nearest(
                name,
                parameters,
                f"its inputs are {listed(parameters)}" if parameters else "declare it under `inputs` of the plan",
            )
            problems.add("unknown_value", f"the plan has no input {quoted(name)}", "inputs", name, hint=hint)
    filled: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = values.get(name)
        needed = parameter.required and parameter.default is None
        if name not in values and needed:
            problems.add(
                "missing_value",
                f"expected {_EXPECTED.get(parameter.type, 'a value')} for the input {quoted(name)}; none is given",
                "inputs",
                name,
                hint=parameter.description[:200] or f"give it with the goal: --input {name}=…, or `inputs`",
            )
        elif (value is not None or needed) and not _fits(value, parameter):
            problems.add("wrong_value", _misfit(name, value, parameter), "inputs", name)
        filled[name] = parameter.default if value is None else value
    return filled


def check_defaults(parameters: Mapping[str, Parameter], problems: Problems) -> None:
    """Add a problem for each default that is not of the type of its input, with pointers into the plan."""
    for name, parameter in parameters.items():
        if parameter.default is not None and not _fits(parameter.default, parameter):
            said = _misfit(name, parameter.default, parameter)
            problems.add("wrong_default", said, "inputs", name, "default")


def _misfit(name: str, value: Any, parameter: Parameter) -> str:
    return f"expected {_EXPECTED[parameter.type]} for the input {quoted(name)}; found {shown(value)}"


def _fits(value: Any, parameter: Parameter) -> bool:
    match parameter.type:
        case "any":
            return True
        case "text":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "list":
            return isinstance(value, list)
        case "date":
            return isinstance(value, str) and _DATE.fullmatch(value) is not None and _exists(value)
        case "timestamp":
            return isinstance(value, str) and _TIMESTAMP.fullmatch(value) is not None and _exists(value)


def _exists(moment: str) -> bool:
    try:
        if len(moment) == len("2026-11-22"):
            date.fromisoformat(moment)
        else:
            datetime.fromisoformat(moment.upper())
    except ValueError:
        return False
    return True
