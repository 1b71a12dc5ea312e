"""What a plan may not do by itself: one that a model has written, whatever the model was told or persuaded of; and one
that runs for a step.

A step that writes, uses the network or secrets, is given a secret that somebody enters, or cannot be undone is
*harmful*: it must stand behind a gate. What an agent does is what the agent declares; a step that declares less for it
does not make it harmless. Nothing of this reads a word that the model has written for people.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Final

import msgspec

from planmesh.planner.decode import read_plan
from planmesh.planner.disclosure import readers
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.flow import read_flow
from planmesh.planner.graph import behind, implies
from planmesh.planner.problems import Problems, listed, quoted
from planmesh.planner.scope import read_scope
from planmesh.schemas.goals import Problem
from planmesh.schemas.mandate import Mandate, exceeding
from planmesh.schemas.plan import Branch, Each, Gate, Plan, Run, Step, Task
from planmesh.schemas.work import AgentDescription, Parent

Agents = Mapping[str, AgentDescription]

_KINDS: Final = ("tools", "network", "read", "write", "secrets")
_NAME: Final = "approve"


def harm(step: Step, agents: Agents) -> list[str]:
    """What makes a step harmful, for people: such as `writes /srv/www`. Empty: nothing does."""
    match step:
        case Task():
            return _harm_of_task(step, agents)
        case Each():
            found = [_harm_of_task(inner, agents) for inner in step.steps if isinstance(inner, Task)]
            return list(dict.fromkeys(chain.from_iterable(found)))
        case Run(mode=mode) if mode != "draft":
            return ["it runs a plan that is not known yet"]
    return []


def _harm_of_task(task: Task, agents: Agents) -> list[str]:
    agent = agents.get(task.agent)
    if agent is None or agent.says_nothing:
        return ["nobody knows what its agent does"]
    uses = [agent.permissions, *([task.permissions] if task.permissions is not None else [])]
    named = {tool for permissions in uses for tool in permissions.tools}
    tools = [tool for tool in agent.tools or () if tool.name in named]
    uses += [tool.permissions for tool in tools]
    found = ["it cannot be undone"] if agent.destructive or any(tool.destructive for tool in tools) else []
    for what, kind in (("writes", "write"), ("uses the network", "network"), ("uses the secrets", "secrets")):
        names = dict.fromkeys(name for permissions in uses for name in getattr(permissions, kind))
        if names:
            found.append(f"{what} {listed(names)}")
    return found


def refuse_widening(plan: Plan, agents: Agents, problems: Problems, leave: Collection[str] = ()) -> None:
    """Add a problem for each step, but those of *leave*, that is to be allowed more than its agent has declared."""
    for at, step in _tasks(plan, leave):
        if step.agent not in agents:
            continue
        agent = agents[step.agent]
        if step.permissions is not None:
            for kind in _KINDS:
                more = set(getattr(step.permissions, kind)) - _declared(agent, kind)
                if more:
                    problems.add(
                        "widened",
                        f"step {step.name} is permitted {kind} {listed(map(quoted, sorted(more)))}, which its agent "
                        f"{agent.name} does not declare",
                        *at,
                        "permissions",
                        kind,
                        hint="leave `permissions` out: a step gets what its agent declares",
                    )
        if step.idempotent and agent.idempotent is not True:
            problems.add(
                "widened",
                f"step {step.name} is called idempotent, and its agent {agent.name} does not declare that it is",
                *at,
                "idempotent",
                hint="leave `idempotent` out",
            )


def _tasks(plan: Plan, leave: Collection[str]) -> Iterator[tuple[tuple[str | int, ...], Task]]:
    """The tasks of a plan, those in an `each` as well, and where they are."""
    for index, step in enumerate(plan.steps):
        if step.name in leave:
            continue
        if isinstance(step, Task):
            yield ("steps", index), step
        elif isinstance(step, Each):
            for number, inner in enumerate(step.steps):
                if isinstance(inner, Task):
                    yield ("steps", index, "steps", number), inner


def _declared(agent: AgentDescription, kind: str) -> set[str]:
    declared = set(getattr(agent.permissions, kind))
    for tool in agent.tools or ():
        declared |= {tool.name} if kind == "tools" else set(getattr(tool.permissions, kind))
    return declared


def ungated(
    plan: Plan,
    agents: Agents,
    reviewers: Sequence[str],
    leave: Collection[str] = (),
    *,
    limits: Limits = LIMITS,
) -> dict[str, list[str]]:
    """The harmful steps of a completed plan that can start without anybody's approval, each with what makes it so.

    Args:
        reviewers: Who may decide at a gate for it to count. It must not be optional, and must run whenever the step
            does.
        leave: Steps that are not looked at.
    """
    harmful = {step.name: found for step in plan.steps if step.name not in leave and (found := harm(step, agents))}
    for name in readers(plan).difference(leave):
        harmful[name] = [*harmful.get(name, ()), "it is given a secret that somebody enters"]
    if not harmful:
        return {}
    problems = Problems()
    scope = read_scope(read_plan(msgspec.to_builtins(plan), problems, limits), problems, limits)
    flow = read_flow(scope, problems, limits)
    followers = behind([needed.keys() for needed in flow.needs], flow.order)
    gates = [number for number, step in enumerate(plan.steps) if isinstance(step, Gate) and _is_firm(step, reviewers)]
    for number, step in enumerate(plan.steps):
        if step.name in harmful and any(
            followers[gate] >> number & 1
            and implies(flow.conditions[number], flow.conditions[gate], flow.work)
            and not flow.work.exhausted
            for gate in gates
        ):
            del harmful[step.name]
    return harmful


def _is_firm(gate: Gate, reviewers: Sequence[str]) -> bool:
    """Whether *reviewers*, and nobody else, decide at a gate: nor those to whom it is escalated."""
    asked = {*gate.reviewers, *chain.from_iterable(one.to for one in gate.escalate)}
    # A link that was sent to somebody is less than what operators show.
    return not gate.optional and asked <= set(reviewers) and gate.level != "link"


def beyond(
    plan: Plan,
    mandate: Mandate,
    parent: Parent | None,
    agents: Agents,
    reviewers: Sequence[str],
    leave: Collection[str] = (),
    *,
    limits: Limits = LIMITS,
) -> Iterator[Problem]:
    """A problem for whatever a completed plan does that its mandate does not allow, when it is created or revised.

    Args:
        parent: The step that has handed the mandate down.
        reviewers, leave: As for `ungated`.
    """
    yield from exceeding(plan, mandate, parent)
    if not mandate.safe:
        return
    left = ungated(plan, agents, reviewers, leave, limits=limits)
    above = "it runs" if parent is None else f"step {parent.step} of plan {parent.plan} runs it"
    for index, step in enumerate(plan.steps):
        if step.name in left:
            yield Problem(
                code="unguarded",
                message=f"step {quoted(step.name)}: {' and '.join(left[step.name])}; {above} in mode safe, and no gate "
                f"stands before it that {listed(reviewers)} and nobody else can open, and that is always asked",
                pointer=f"/steps/{index}",
                hint="let it wait for such a gate, or run the plan in mode normal",
            )


def gated(
    plan: Plan, agents: Agents, reviewers: Sequence[str], leave: Collection[str] = (), *, limits: Limits = LIMITS
) -> tuple[Plan, tuple[str, ...]]:
    """The plan with a gate before each step of `ungated`, and the names of these gates.

    Steps that wait for the same things share one. A gate waits for what its steps waited for, in the branch that they
    are in, so that it is asked exactly when they would have started.
    """
    left = ungated(plan, agents, reviewers, leave, limits=limits)
    taken = {step.name for step in plan.steps} | {step.bound_as.replace("_", "-") for step in plan.steps}
    taken |= {name.replace("_", "-") for name in plan.inputs}
    gates: dict[tuple[tuple[str, ...], Branch | None], Gate] = {}
    steps: list[Step] = []
    # What comes later may stand behind a gate that is put in here: it is looked at again below.
    for step in plan.steps:
        if step.name not in left or not _is_first(step, left, plan):
            steps.append(step)
            continue
        place = (step.after, step.branch)
        if place not in gates:
            gates[place] = Gate(
                name=_unused(step.name, taken),
                label=f"Approve what {step.name} does",
                after=step.after,
                branch=step.branch,
                reviewers=tuple(reviewers),
            )
            steps.append(gates[place])
        steps.append(msgspec.structs.replace(step, after=(*step.after, gates[place].name)))
    if not gates:
        return plan, ()
    released: dict[str, list[str]] = {}
    for step in steps:
        for gate in (gate.name for gate in gates.values() if gate.name in step.after and step.name in left):
            released.setdefault(gate, []).append(f"- {step.name}: {'; '.join(left[step.name])}")
    said = "A model wrote this plan. What comes next does what only a person may allow:\n"
    steps = [
        msgspec.structs.replace(step, prompt=said + _literal("\n".join(released[step.name])))
        if step.name in released
        else step
        for step in steps
    ]
    whole = msgspec.structs.replace(plan, steps=tuple(steps))
    behind_one = {
        step.name for step in steps if step.name in left and any(gate.name in step.after for gate in gates.values())
    }
    further, more = gated(whole, agents, reviewers, behind_one.union(leave), limits=limits)
    return further, (*(gate.name for gate in gates.values()), *more)


def _is_first(step: Step, left: Mapping[str, object], plan: Plan) -> bool:
    """Whether none of the others of *left* comes before *step*."""
    by_name = {one.name: one for one in plan.steps}
    seen: set[str] = set()
    waiting = list(step.after)
    while waiting:
        name = waiting.pop()
        if name in left:
            return False
        if name not in seen:
            seen.add(name)
            waiting.extend(by_name[name].after)
    return True


def _unused(step: str, taken: set[str]) -> str:
    for number in count(1):
        name = f"{_NAME}-{step}"[:55] + ("" if number == 1 else f"-{number}")
        if name.replace("_", "-") not in taken:
            taken.add(name.replace("_", "-"))
            return name
    raise AssertionError


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
