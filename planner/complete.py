"""What a plan without problems left open, settled.

Nothing here changes when a step runs, only what it waits for; and all of it is stable: a completed plan is completed
to itself.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from planmesh.planner.bodies import Body
from planmesh.planner.flow import Flow
from planmesh.planner.graph import ALWAYS, behind, exclusive, implies
from planmesh.planner.scope import Scope
from planmesh.schemas.plan import Each, Emit, Gate, Permissions, Plan, Step, Task
from planmesh.schemas.work import AgentDescription, ToolDescription

_READ: Final = 20  # what it costs to see whether a gate should wait for a step, in units of `Work`


def complete(
    plan: Plan,
    scope: Scope,
    flow: Flow,
    agents: Mapping[str, AgentDescription] | None,
    bodies: Mapping[int, Body] = {},
) -> Plan:
    """*plan*, of which *scope*, *flow* and *bodies* have been read without a problem, with everything settled."""
    needs = [set(needed) for needed in flow.needs]
    _fill_gates(plan, scope, flow, needs)
    _fill_emits(plan, scope, flow, needs)
    steps = []
    for number, step in enumerate(plan.steps):
        after = tuple(plan.steps[need].name for need in sorted(needs[number]))
        settled: Step = step if after == step.after else msgspec.structs.replace(step, after=after)
        if isinstance(settled, Task):
            settled = _settle_task(settled, agents.get(settled.agent) if agents is not None else None)
        elif isinstance(settled, Each):
            body = bodies[number]
            whole = Plan(name=settled.name, steps=settled.steps)
            settled = msgspec.structs.replace(settled, steps=complete(whole, body.scope, body.flow, agents).steps)
        steps.append(settled)
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _settle_task(task: Task, agent: AgentDescription | None) -> Task:
    declared = agent.permissions if agent is not None else Permissions()
    permissions = declared if task.permissions is None else task.permissions
    idempotent = task.idempotent
    if idempotent is None:
        idempotent = agent is not None and agent.idempotent is True
        idempotent = idempotent and all(tool.idempotent for tool in _tools(permissions, agent))
    declared_so = agent is not None and agent.destructive
    destructive = task.destructive or declared_so or any(tool.destructive for tool in _tools(permissions, agent))
    if agent is not None:
        permissions = with_what_tools_use(permissions, agent)
    if (permissions, idempotent, destructive) == (task.permissions, task.idempotent, task.destructive):
        return task
    return msgspec.structs.replace(task, permissions=permissions, idempotent=idempotent, destructive=destructive)


def with_what_tools_use(permissions: Permissions, agent: AgentDescription) -> Permissions:
    """*permissions* of a step; where they name tools of *agent* and nothing else, with all that those use.

    It is written into the plan: a gate shows it, and a tool that comes to use more than that is not given to the step.
    """
    if not permissions.tools or permissions != Permissions(tools=permissions.tools):
        return permissions
    used = [tool.permissions for tool in _tools(permissions, agent)]
    return Permissions(
        tools=permissions.tools,
        **{
            field: tuple(dict.fromkeys(value for one in used for value in getattr(one, field)))
            for field in ("network", "read", "write", "secrets")
        },
    )


def _tools(permissions: Permissions, agent: AgentDescription | None) -> list[ToolDescription]:
    """Those of the agent's tools that are permitted."""
    known = () if agent is None else agent.tools or ()
    return [tool for tool in known if tool.name in permissions.tools]


def _fill_gates(plan: Plan, scope: Scope, flow: Flow, needs: list[set[int]]) -> None:
    """Let each gate wait for what the steps right behind it read, so that whoever decides sees all that they will do.

    Left out is what could only be known once the gate is open, what is known then anyway, and what would change
    whether the gate is asked at all (a gate without a branch runs if one of those that it needs has).
    """
    reads = [0] * len(needs)  # for each step, a bit for every step whose output it reads
    for number, names in enumerate(scope.reads):
        for binder in (binder for name in names for binder in scope.binders[name] if binder in needs[number]):
            reads[number] |= 1 << binder
    released: dict[int, int] = {}  # for each gate, what the steps right behind it read
    for number, needed in enumerate(needs):
        for gate in (need for need in needed if reads[number] and isinstance(plan.steps[need], Gate)):
            released[gate] = released.get(gate, 0) | reads[number]
    if not released:
        return
    followers = behind(needs, flow.order)
    waiting = sorted(released)
    for gate in waiting:  # grows while it is gone through
        for read in _bits(released[gate] & ~followers[gate] & ~(1 << gate)):
            # What a step before this one has joined may have changed the answer.
            if not flow.work.spend(_READ) or followers[gate] >> read & 1 or followers[read] >> gate & 1:
                continue
            for need in _joining(gate, read, plan, flow, needs):
                _join(gate, need, needs, followers)
                if reads[gate] & ~released.get(need, 0) and isinstance(plan.steps[need], Gate):
                    # A gate that this one now waits for releases it.
                    released[need] = released.get(need, 0) | reads[gate]
                    waiting.append(need)


def _joining(gate: int, read: int, plan: Plan, flow: Flow, needs: list[set[int]]) -> list[int]:
    """What *gate* has to wait for, so that the output of *read* is known, and *gate* is asked as often as before."""
    when, asked = flow.conditions[read], flow.conditions[gate]
    if exclusive(when, asked, flow.work):
        return []
    if plan.steps[gate].branch is not None or (when == ALWAYS and not needs[gate]):
        return [read]
    if needs[gate]:
        return [read] if implies(when, asked, flow.work) else []
    # By itself, it would keep the gate from being asked where its branch is not taken.
    return sorted({read, _nearest_certain(read, flow, needs)})


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _nearest_certain(step: int, flow: Flow, needs: list[set[int]]) -> int:
    """A step before *step* that runs in any case: there is one, because what needs nothing does."""
    queue = [step]
    for other in queue:
        if flow.conditions[other] == ALWAYS:
            return other
        queue.extend(sorted(needs[other]))
    raise AssertionError(f"nothing before step {step} runs in any case")


def _join(step: int, need: int, needs: list[set[int]], followers: list[int]) -> None:
    """Let *step* wait for *need*, and keep *followers* right."""
    needs[step].add(need)
    more = followers[step] | 1 << step
    waiting = [need]
    while waiting:
        other = waiting.pop()
        if followers[other] | more != followers[other]:
            followers[other] |= more
            waiting.extend(needs[other])


def _fill_emits(plan: Plan, scope: Scope, flow: Flow, needs: list[set[int]]) -> None:
    """Let an emit that names nothing wait for all that can run with it.

    Of those it names the last: a step is left to another one that waits for it, and runs whenever it does.
    """
    silent = [number for number, step in enumerate(plan.steps) if _names_nothing(step, needs[number], scope)]
    if not silent:
        return
    covers = [0] * len(needs)  # for each step, a bit for every step that it can be left to
    for number, needed in enumerate(needs):
        for need in needed:
            if implies(flow.conditions[need], flow.conditions[number], flow.work):
                covers[need] |= 1 << number
    steps = [number for number, step in enumerate(plan.steps) if not isinstance(step, Emit)]
    for emit in silent:
        # Many steps have one condition, and it is one object.
        excluded: dict[int, bool] = {}
        before = 0
        for number in steps:
            condition = flow.conditions[number]
            if id(condition) not in excluded:
                excluded[id(condition)] = exclusive(condition, flow.conditions[emit], flow.work)
            if not excluded[id(condition)]:
                before |= 1 << number
        needs[emit].update(number for number in _bits(before) if not covers[number] & before)


def _names_nothing(step: Step, needed: set[int], scope: Scope) -> bool:
    guard = () if step.branch is None else (scope.numbers[step.branch.step],)
    return isinstance(step, Emit) and not needed.difference(guard)
