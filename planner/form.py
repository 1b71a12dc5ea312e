"""The form of a model's answer, as JSON Schema: a plan document, and as little else as can be said by a schema.

What it excludes, a model that is held to it cannot get wrong: the agents that there are, the inputs that each takes
and wants. The *tight* form also gives the names of the steps, in order, and lets each wait for and read only what
comes before it; it knows no branches, and is for small models. Whatever comes is compiled all the same: nobody has to
hold a model to anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from planmesh.schemas.work import AgentDescription

MOST_TIGHT_STEPS: Final = 8
_MOST_DESCRIBED: Final = 60
_TEXT: Final = {"type": "string", "maxLength": 2000}
_LABEL: Final = {"type": "string", "maxLength": 120}
_NAME: Final = {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,40}$"}

Schema = dict[str, Any]


def loose(agents: Mapping[str, AgentDescription], reviewers: Sequence[str], max_steps: int) -> Schema:
    """A plan of any shape.

    Args:
        agents: Those that a step may name.
        reviewers: Those whom a gate may name; none: it names nobody.
        max_steps: The most steps.
    """
    names = {"type": "array", "items": _NAME}
    place = {"after": names, "branch": _object({"step": _NAME, "label": _LABEL})}
    who = {"reviewers": {"type": "array", "items": {"enum": list(reviewers)}, "minItems": 1}} if reviewers else {}
    names_of = {"type": "array", "items": _LABEL}
    case = _object({"when": _TEXT, "then": _LABEL})
    kinds = [
        *_tasks(agents, place),
        _step("gate", {**place, "prompt": _TEXT, "show": {"type": "array", "items": _TEXT}, **who}, ("prompt",)),
        _step(
            "ask",
            {**place, "prompt": _TEXT, "type": {"enum": ["text", "number", "boolean"]}, "options": names_of},
            ("prompt",),
        ),
        _step(
            "decide",
            {**place, "cases": {"type": "array", "items": case, "minItems": 1}, "otherwise": _LABEL},
            ("cases",),
        ),
        _step(
            "check",
            {**place, "condition": _TEXT, "on_fail": {"enum": ["fail", "continue"]}, "message": _TEXT},
            ("condition",),
        ),
        _step("emit", {**place, "outcome": _LABEL, "result": {}}, ("outcome", "result")),
    ]
    return _plan({"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": max_steps})


def tight(agents: Mapping[str, AgentDescription], inputs: Iterable[str], max_steps: int) -> Schema:
    """A plan of at most `MOST_TIGHT_STEPS` tasks and gates that are called ``step-1``, ``step-2`` and so on.

    Args:
        agents: Those that a step may name.
        inputs: The inputs of the plan.
        max_steps: The most steps.
    """
    most = min(max_steps, MOST_TIGHT_STEPS)
    parts: dict[str, Schema] = {}
    for number in range(1, most + 1):
        before = [f"step-{other}" for other in range(1, number)]
        read = [f"{{{name}}}" for name in (*inputs, *(name.replace("-", "_") for name in before))]
        plain = {"type": "string", "pattern": '^[^{}"\\\\]{1,200}$'}
        parts[f"value-{number}"] = {"anyOf": [{"enum": read}, plain]} if read else plain
        after: Schema = {"type": "array", "items": {"enum": before}, "maxItems": len(before)}
        if not before:
            after = {"const": []}
        place = {"after": after}
        value = {"$ref": f"#/$defs/value-{number}"}
        kinds = _tasks(agents, place, name={"const": f"step-{number}"}, value=value)
        kinds.append(_step("gate", {**place, "prompt": _LABEL}, ("after", "prompt"), name={"const": f"step-{number}"}))
        parts[f"step-{number}"] = {"anyOf": kinds}
    lengths = [
        {
            "type": "array",
            "prefixItems": [{"$ref": f"#/$defs/step-{number}"} for number in range(1, length + 1)],
            "minItems": length,
            "maxItems": length,
        }
        for length in range(1, most + 1)
    ]
    return {**_plan({"anyOf": lengths}), "$defs": parts}


def _plan(steps: Schema) -> Schema:
    return _object({"name": {"type": "string", "minLength": 1, "maxLength": 100}, "steps": steps})


def _tasks(
    agents: Mapping[str, AgentDescription], place: Schema, *, name: Schema = _NAME, value: Schema | None = None
) -> list[Schema]:
    """One form an agent; one for all of them, where they are too many for that."""
    value = value or {}
    needed = ("after",)
    if len(agents) > _MOST_DESCRIBED:
        fields = {"agent": {"enum": list(agents)}, "inputs": {"type": "object"}, **place}
        return [_step("task", fields, ("agent", "inputs", *needed), name=name)]
    forms = []
    for agent in agents.values():
        inputs: Schema = {"type": "object"}
        if not agent.any_parameters:
            inputs = _object(
                {parameter.name: value for parameter in agent.parameters},
                [parameter.name for parameter in agent.parameters if parameter.required],
            )
        fields = {"agent": {"const": agent.name}, "inputs": inputs, **place}
        if agent.tools:
            tools = {"type": "array", "items": {"enum": [tool.name for tool in agent.tools]}}
            fields["permissions"] = _object({"tools": tools})
        forms.append(_step("agent" if agent.tools else "task", fields, ("agent", "inputs", *needed), name=name))
    return forms


def _step(kind: str, fields: Schema, required: Iterable[str], *, name: Schema = _NAME) -> Schema:
    head = {"kind": {"const": kind}, "name": name, "label": _LABEL}
    return _object({**head, **fields}, ["kind", "name", *required])


def _object(properties: Schema, required: Iterable[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
