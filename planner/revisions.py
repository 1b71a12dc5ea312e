"""A revision that someone has asked for, to the command that proposes it. Pure.

What has started stays as it is: a document need not repeat it, and may not change it. The rest is compiled as any
plan is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from planmesh.directory import Directory
from planmesh.planner.compile import UNKNOWN_AGENT, Agents, compile_plan
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document
from planmesh.planner.policy import beyond
from planmesh.planner.problems import Problems
from planmesh.schemas.commands import ProposeRevision
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Plan, Step, Task
from planmesh.schemas.work import AgentDescription, PlannerWork

_STEP: Final = re.compile(r"/steps/([0-9]+)")
_SETTLED_BY_US: Final = frozenset({"after", "permissions", "idempotent", "destructive"})


def propose(
    work: PlannerWork,
    agents: Agents,
    *,
    reviewers: Sequence[str],
    limits: Limits = LIMITS,
    directory: Directory | None = None,
) -> ProposeRevision:
    """Work out what *work* wants. The command's id is that of the request: asked twice, it is one answer.

    Args:
        reviewers: Who may decide at a gate for it to count, in a plan that runs in mode safe.
    """
    if work.current.policy.destructive == "allow":
        limits = replace(limits, may_allow_harm=True)  # it was allowed once: a revision need not take it back
    found = _revised(work, agents, limits, directory)
    if isinstance(found, Plan):
        found = [*beyond(found, work.mandate, work.parent, agents, reviewers, work.kept, limits=limits)] or found
    if isinstance(found, Plan):
        return ProposeRevision(id=work.answer, request=work.request, plan=found)
    return ProposeRevision(id=work.answer, request=work.request, problems=tuple(found))


def _revised(work: PlannerWork, agents: Agents, limits: Limits, directory: Directory | None) -> Plan | list[Problem]:
    problems = Problems()
    left_out = 0
    if work.kind == "retry":
        document = _with_other_means(work, agents)
    else:
        try:
            document, left_out = _merged(work, read_document(work.document, problems, limits), problems)
        except Unreadable:
            return problems.listed()
    compiled = compile_plan(document, _known(work, document, agents), limits=limits, directory=directory)
    if isinstance(compiled, list):
        return problems.listed(_as_written(compiled, left_out))
    return problems.listed() or _with_what_has_started(work, compiled.plan)


def _with_other_means(work: PlannerWork, agents: Agents) -> dict[str, Any]:
    """The plan with another agent, or other inputs, for one step; what it may use is worked out anew.

    An agent that uses tools keeps those that the step names: they are the step's choice, and no agent's.
    """
    document: dict[str, Any] = msgspec.to_builtins(work.current)
    for step in document["steps"]:
        if step["name"] == work.step:
            if work.agent:
                step["agent"] = work.agent
                tools = (step.pop("permissions", None) or {}).get("tools")
                if tools and work.agent in agents and agents[work.agent].tools is not None:
                    step["permissions"] = {"tools": tools}
                step.pop("idempotent", None)
                step.pop("destructive", None)
            if work.inputs is not None:
                step["inputs"] = work.inputs
    return document


def _merged(work: PlannerWork, document: dict[str, Any], problems: Problems) -> tuple[dict[str, Any], int]:
    """The document with everything that has started, as it is. What it does not say of the plan as a whole stays.

    Returns:
        The plan, and how many steps that the document does not have come first in it.
    """
    current: dict[str, Any] = msgspec.to_builtins(work.current)
    inputs = current.get("inputs", {})
    if _changes_inputs(document.get("inputs", inputs), inputs):
        problems.add("started", "the inputs of a plan cannot change once it has been created", "inputs")
    whole = {**current, **document, "inputs": inputs}
    steps = document.get("steps")
    if not isinstance(steps, list):
        return {**whole, "steps": steps}, 0
    stored = {step["name"]: step for step in current["steps"]}
    kept = [name for name in stored if name in work.kept]
    named = {step.get("name") for step in steps if isinstance(step, dict)}
    left_out = [stored[name] for name in kept if name not in named and name not in work.cancellable]
    for step in left_out:
        if step["name"] in work.running:
            problems.add(
                "started",
                f"step {step['name']} is running, and the document leaves it out",
                "steps",
                hint="put it in as it is; or cancel what is left out with --cancel-running (`cancel_running`)",
            )
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
    return {**whole, "steps": [*left_out, *merged]}, len(left_out)


def _changes_inputs(declared: Any, inputs: dict[str, Any]) -> bool:
    """Whether a document declares other inputs than the plan has.

    One of which it says nothing, not even a type, is a name that a script reads without having bound it: an input, or
    what a step gives that has started and is left out. Whoever looks at the expressions knows which.
    """
    if not isinstance(declared, dict) or not declared:
        return bool(declared != inputs)
    said = {name: one for name, one in declared.items() if one != {}}
    return any(inputs.get(name) != one for name, one in said.items()) or (
        bool(said) and not inputs.keys() <= declared.keys()
    )


def _same(stored: dict[str, Any], written: dict[str, Any]) -> bool:
    """Whether *written* says what *stored* says. What the planner settles may be left out, also in a body."""
    try:
        plain = msgspec.to_builtins(msgspec.convert(written, Step))
    except msgspec.ValidationError:
        return False
    return _says_the_same(stored, plain)


def _says_the_same(stored: dict[str, Any], plain: dict[str, Any]) -> bool:
    if not set(plain.get("after", ())) <= set(stored.get("after", ())):
        return False
    keys = (plain.keys() | stored.keys()) - _SETTLED_BY_US
    keys |= plain.keys() & (_SETTLED_BY_US - {"after"})
    if "steps" in keys:  # the body of an each, whose steps the planner has settled as well
        keys.discard("steps")
        bodies = [{step["name"]: step for step in one.get("steps", ())} for one in (stored, plain)]
        if list(bodies[0]) != list(bodies[1]) or not all(map(_says_the_same, bodies[0].values(), bodies[1].values())):
            return False
    return all(plain.get(key) == stored.get(key) for key in keys)


def _known(work: PlannerWork, document: dict[str, Any], agents: Agents) -> Agents:
    """The agents of the mesh, and those that only steps which have started name: they may be gone by now."""
    steps = document["steps"] if isinstance(document["steps"], list) else []
    wanted = {step.get("agent") for step in steps if isinstance(step, dict) and step.get("name") not in work.kept}
    gone = {
        step.agent: AgentDescription(name=step.agent, any_parameters=True)
        for step in work.current.steps
        if isinstance(step, Task) and step.name in work.kept and step.agent not in wanted
    }
    return {**agents, **gone} if gone else agents


def _as_written(found: list[Problem], left_out: int) -> Iterator[Problem]:
    """Problems of the merged document, with pointers into the one that was sent: without its first *left_out* steps."""
    for problem in found:
        match = _STEP.match(problem.pointer)
        if match is None:
            yield problem
        elif (index := int(match[1]) - left_out) >= 0:
            yield msgspec.structs.replace(problem, pointer=f"/steps/{index}{problem.pointer[match.end() :]}")
        elif problem.code != UNKNOWN_AGENT:  # then there is the same of a step that was sent
            yield msgspec.structs.replace(problem, pointer="")


def _with_what_has_started(work: PlannerWork, plan: Plan) -> Plan:
    """*plan*, in which no step that has started waits for anything more than it did."""
    stored = {step.name: step for step in work.current.steps if step.name in work.kept}
    return msgspec.structs.replace(plan, steps=tuple(stored.get(step.name, step) for step in plan.steps))
