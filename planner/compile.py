"""A plan document to a plan that can run: every problem at once, or the plan with all that it left open settled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from planmesh.directory import Directory
from planmesh.planner.bodies import read_bodies
from planmesh.planner.complete import complete, with_what_tools_use
from planmesh.planner.decode import StepDraft, check_fields, read_plan
from planmesh.planner.disclosure import check_reads
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document
from planmesh.planner.flow import read_flow, refuse_work
from planmesh.planner.inputs import check_defaults, fill
from planmesh.planner.problems import Problems, listed, quoted
from planmesh.planner.reviewers import check_asked
from planmesh.planner.scope import read_scope
from planmesh.planner.secrets import refuse_secrets
from planmesh.schemas.codec import encode
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import MAX_STEPS, MODEL_AGENT, Ask, Draft, Gate, ModelOptions, Plan, Task
from planmesh.schemas.subjects import is_token
from planmesh.schemas.templates import compile_template
from planmesh.schemas.work import AgentDescription

UNKNOWN_AGENT: Final = "unknown_agent"

Agents = Mapping[str, AgentDescription]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan that can run.

    Attributes:
        plan: The completed plan. Compiling it again gives the same.
        inputs: Every input of the plan with its value: the one that was given, the default, or null.
    """

    plan: Plan
    inputs: dict[str, Any]


def compile_plan(
    document: object,
    agents: Agents | None,
    values: Mapping[str, Any] | None = None,
    *,
    limits: Limits = LIMITS,
    directory: Directory | None = None,
) -> Compiled | list[Problem]:
    """Check and complete a plan document. Costs time in proportion to its size. Raises nothing.

    What is completed: ``after`` names every step that an expression of the step reads, and that of its branch, in
    the order of the document; a gate waits for what the steps right behind it read; an emit that names nothing waits
    for everything that can run with it (`planmesh.planner.complete`); permissions and `idempotent` of tasks
    are settled.

    Args:
        document: The plan as text (YAML or JSON), or as an object.
        agents: The agents of the mesh by name. None: whoever is named exists, and declares nothing.
        values: The goal's values for the inputs of the plan; None: they are not checked, and defaults stand in.

        directory: Who can be asked to decide. None, or an empty one: whoever is named exists.

    Returns:
        The plan and its inputs; or, if anything is wrong, every problem, in the order of the document. Their codes are
        `planmesh.planner.problems.RULES`.
    """
    problems = Problems()
    try:
        value = read_document(document, problems, limits)
    except Unreadable:
        return problems.listed()
    refuse_secrets(value, problems)
    draft = read_plan(value, problems, limits)
    scope = read_scope(draft, problems, limits)
    flow = read_flow(scope, problems, limits)
    bodies = read_bodies(scope, problems, limits)
    for one in draft.steps:
        _check_step(one, agents, limits, directory, problems)
        if one.index in bodies:
            for inner in one.body:
                _check_step(inner, agents, limits, directory, bodies[one.index].problems)
    check_reads(scope, bodies, problems)
    if agents is not None and not limits.may_allow_harm:
        refuse_harm(value.get("policy"), problems)
    check_defaults(scope.inputs, problems)
    inputs: dict[str, Any] = {}
    if draft.inputs is not None:
        unset = {name: parameter.default for name, parameter in draft.inputs.items()}
        inputs = unset if values is None else fill(draft.inputs, values, problems)
    if problems or draft.plan is None:
        return problems.listed()
    plan = complete(draft.plan, scope, flow, agents, bodies)
    if flow.work.exhausted or any(body.flow.work.exhausted for body in bodies.values()):
        refuse_work(problems)
        return problems.listed()
    if "concurrency" not in value:
        plan = msgspec.structs.replace(plan, concurrency=min(limits.concurrency, MAX_STEPS))
    size_bytes = len(encode(plan)) + len(encode(inputs))
    if size_bytes > limits.completed_bytes:
        problems.add(
            "too_large",
            f"with its inputs, and with all that each step waits for, a plan has at most {limits.completed_bytes:,} "
            f"bytes; this one has {size_bytes:,}",
            hint="pass large inputs by reference, and let each emit name in `after` what it waits for",
        )
        return problems.listed()
    return Compiled(plan, inputs)


def refuse_harm(policy: object, problems: Problems) -> None:
    """Add a problem for a policy that lets a model do harm, on a mesh that lets no policy do so."""
    if isinstance(policy, dict) and policy.get("destructive") == "allow":
        problems.add(
            "not_allowed",
            "this mesh lets no plan say that what a model writes of it may do harm without a gate",
            "policy",
            "destructive",
            hint="leave it out; or have it allowed: PLANMESH_PLANNER__GOALS_MAY_ALLOW",
        )


# --- steps by themselves -----------------------------------------------------------------------------------


def _check_step(
    one: StepDraft, agents: Agents | None, limits: Limits, directory: Directory | None, problems: Problems
) -> None:
    if isinstance(one.step, Task | Draft) and "inputs" not in one.unread:
        _check_model_options(one, one.step, limits, problems)
    match one.step:
        case Task(agent=agent) if agents is not None and "agent" not in one.unread:
            if agent in agents:
                _check_agent_inputs(one, one.step, agents[agent], problems)
                _check_tools(one, one.step, agents[agent], problems)
            else:
                said = f"the mesh has no agent called {quoted(agent)}"
                hint = _where_agents_come_from(agent, agents, problems)
                problems.add(UNKNOWN_AGENT, said, "steps", one.index, "agent", hint=hint)
        case Draft(agents=named) if agents is not None and named is not None and "agents" not in one.unread:
            known = {*agents, *(tool.name for agent in agents.values() for tool in agent.tools or ())}
            for index, name in enumerate(named):
                if name not in known:
                    said = f"the mesh has neither an agent nor a tool called {quoted(name)}"
                    hint = problems.nearest(name, known)
                    problems.add(UNKNOWN_AGENT, said, "steps", one.index, "agents", index, hint=hint)
        case Gate() | Ask():
            check_asked(one, directory, problems)


def _where_agents_come_from(agent: str, agents: Agents, problems: Problems) -> str:
    near = problems.nearest(agent, agents)
    add = "run its module with `planmesh up --agents MODULE`"
    if is_token(agent):
        add += f"; or, to run it elsewhere, add it with `planmesh agents add {agent}`"
    return f"{near} If not, run its module: planmesh up --agents MODULE" if near else add


def _check_agent_inputs(one: StepDraft, task: Task, agent: AgentDescription, problems: Problems) -> None:
    if "inputs" in one.unread:
        return
    parameters = {parameter.name: parameter.required for parameter in agent.parameters}
    for name in task.inputs:
        if name not in parameters and not agent.any_parameters:
            takes = f"it takes {listed(parameters)}" if parameters else "it takes none"
            hint = problems.nearest(name, parameters, takes)
            said = f"the agent {quoted(agent.name)} takes no input {quoted(name)}"
            problems.add("unknown_input", said, "steps", one.index, "inputs", name, hint=hint)
    missing = [name for name, required in parameters.items() if required and name not in task.inputs]
    if missing:
        said = f"the agent {quoted(agent.name)} requires {listed(map(quoted, missing))}; not given here"
        problems.add(
            "missing_input",
            said,
            "steps",
            one.index,
            "inputs",
            hint=f"it takes {listed(parameters)}{', and whatever else' if agent.any_parameters else ''}",
        )


def _check_model_options(one: StepDraft, step: Task | Draft, limits: Limits, problems: Problems) -> None:
    """What a step says of how a model is asked is checked as far as it is known before the plan runs."""
    if isinstance(step, Task) and step.agent != MODEL_AGENT:
        return
    known = {name: inner for name in ModelOptions.__struct_fields__ if (inner := _known(step, name)) is not None}
    if isinstance(step, Draft):
        known = {name: inner for name, inner in known.items() if name == "model"}
    at = ("steps", one.index, "inputs")
    check_fields(ModelOptions, known, problems, *at)
    model = known.get("model")
    if limits.models is not None and isinstance(model, str) and model not in limits.models:
        said = f"the settings of the mesh allow {listed(map(quoted, limits.models))} for `model`; found {quoted(model)}"
        hint = problems.nearest(model, limits.models, "leave it out; or have it allowed: PLANMESH_MODEL__ALLOWED")
        problems.add("model_not_allowed", said, *at, "model", hint=hint)


def _known(step: Task | Draft, name: str) -> Any:
    """What an input of *step* always is; None if that is not known before the plan runs."""
    value = step.inputs.get(name)
    if not isinstance(value, str):
        return value
    try:
        template = compile_template(value)
        return None if template.names else template.render({})
    except ExpressionError:
        return None  # which is said elsewhere


def _check_tools(one: StepDraft, task: Task, agent: AgentDescription, problems: Problems) -> None:
    """An agent that uses tools says which there are: a step that permits another one would wait for it in vain."""
    if agent.tools is None or task.permissions is None or not task.permissions.tools or "permissions" in one.unread:
        return
    known = {tool.name: tool for tool in agent.tools}
    granted = with_what_tools_use(task.permissions, agent)
    for index, name in enumerate(task.permissions.tools):
        at = ("steps", one.index, "permissions", "tools", index)
        if name not in known:
            there = (
                f"its tools are {listed(known)}" if known else "it has none: start its worker with a module of tools"
            )
            hint = problems.nearest(name, known, there)
            problems.add("unknown_tool", f"the agent {quoted(agent.name)} has no tool {quoted(name)}", *at, hint=hint)
        elif beyond := known[name].permissions.beyond(granted):
            problems.add(
                "tool_not_permitted",
                f"the tool {quoted(name)} uses what the step does not permit: {beyond}",
                *at,
                hint="permit that as well; or name nothing but tools, and what they use is permitted",
            )
