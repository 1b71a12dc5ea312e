"""A revision that someone has asked for, to the command that proposes it. Pure.

What has started stays as it is: a document need not repeat it, and may not change it. The rest is compiled as any
plan is.
"""

from typing import Any, Final

import msgspec

from planmesh.planner.compile import Agents, Compiled, compile_plan
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document
from planmesh.planner.problems import Problems
from planmesh.schemas.commands import ProposeRevision
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Step
from planmesh.schemas.work import PlannerWork

_SETTLED_BY_US: Final = frozenset({"after", "permissions", "idempotent"})


def propose(work: PlannerWork, agents: Agents, *, limits: Limits = LIMITS) -> ProposeRevision:
    """Work out what *work* wants. The command's id is that of the request: asked twice, it is one answer."""
    found = _revised(work, agents, limits)
    identity = f"p-{work.request}"[:64]
    if isinstance(found, Compiled):
        return ProposeRevision(id=identity, request=work.request, plan=found.plan)
    return ProposeRevision(id=identity, request=work.request, problems=tuple(found))


def _revised(work: PlannerWork, agents: Agents, limits: Limits) -> Compiled | list[Problem]:
    if work.kind == "retry":
        return compile_plan(_with_other_means(work), agents, limits=limits)
    if work.document is None:
        return [
            Problem(
                code="no_model",
                message="there is no model configured that could work out an instruction",
                hint="send the edited plan itself: planmesh revise PLAN FILE",
            )
        ]
    problems = Problems()
    try:
        document = read_document(work.document, problems, limits)
    except Unreadable:
        return problems.listed()
    merged = _merged(work, document, problems)
    compiled = compile_plan(merged, agents, limits=limits)
    found = [*problems.listed(), *(compiled if isinstance(compiled, list) else [])]
    return found or compiled


def _with_other_means(work: PlannerWork) -> dict[str, Any]:
    """The plan with another agent, or other inputs, for one step; what it may use is worked out anew."""
    document: dict[str, Any] = msgspec.to_builtins(work.current)
    for step in document["steps"]:
        if step["name"] == work.step:
            if work.agent:
                step["agent"] = work.agent
                step.pop("permissions", None)
                step.pop("idempotent", None)
            if work.inputs is not None:
                step["inputs"] = work.inputs
    return document


def _merged(work: PlannerWork, document: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """The document with everything that has started, as it is."""
    current: dict[str, Any] = msgspec.to_builtins(work.current)
    declared = document.get("inputs", current.get("inputs", {}))
    if declared != current.get("inputs", {}):
        problems.add("started", "the inputs of a plan cannot change once it has been created", "inputs")
    steps = document.get("steps")
    if not isinstance(steps, list):
        return document
    stored = {step["name"]: step for step in current["steps"]}
    kept = [name for name in stored if name in work.kept]
    named = {step.get("name") for step in steps if isinstance(step, dict)}
    left_out = [stored[name] for name in kept if name not in named and name not in work.cancellable]
    merged: list[Any] = []
    for index, step in enumerate(steps):
        name = step.get("name") if isinstance(step, dict) else None
        if name not in kept:
            merged.append(step)
            continue
        if not _same(stored[name], step):
            problems.add(
                "started",
                f"step {name} has started, and cannot change any more",
                "steps",
                index,
                hint="leave it out, or as it is, and add a step with another name",
            )
        merged.append(stored[name])
    return {**document, "inputs": current.get("inputs", {}), "steps": [*left_out, *merged]}


def _same(stored: dict[str, Any], written: dict[str, Any]) -> bool:
    """Whether *written* says what *stored* says. What the planner settles may be left out."""
    try:
        plain = msgspec.to_builtins(msgspec.convert(written, Step))
    except msgspec.ValidationError:
        return False
    if not set(plain.get("after", ())) <= set(stored.get("after", ())):
        return False
    keys = (plain.keys() | stored.keys()) - _SETTLED_BY_US
    keys |= plain.keys() & {"permissions", "idempotent"}
    return all(plain.get(key) == stored.get(key) for key in keys)
