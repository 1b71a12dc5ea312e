"""What a plan without problems left open, settled.

Nothing here changes when a step runs, only what it waits for; and all of it is stable: a completed plan is completed
to itself.
"""

from collections.abc import Mapping

import msgspec

from planmesh.planner.flow import Flow
from planmesh.planner.graph import ALWAYS, behind, exclusive, implies
from planmesh.planner.scope import Scope
from planmesh.schemas.plan import Emit, Gate, Permissions, Plan, Step, Task
from planmesh.schemas.work import AgentDescription


def complete(plan: Plan, scope: Scope, flow: Flow, agents: Mapping[str, AgentDescription] | None) -> Plan:
    """*plan*, of which *scope* and *flow* have been read without a problem, with everything settled."""
    needs = [set(needed) for needed in flow.needs]
    _fill_gates(plan, scope, flow, needs)
    _fill_emits(plan, scope, flow, needs)
    steps = []
    for number, step in enumerate(plan.steps):
        after = tuple(plan.steps[need].name for need in sorted(needs[number]))
        settled: Step = step if after == step.after else msgspec.structs.replace(step, after=after)
        if isinstance(settled, Task):
            settled = _settle_task(settled, agents.get(settled.agent) if agents is not None else None)
        steps.append(settled)
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _settle_task(task: Task, agent: AgentDescription | None) -> Task:
    if task.permissions is not None and task.idempotent is not None:
        return task
    declared = agent.permissions if agent is not None else Permissions()
    return msgspec.structs.replace(
        task,
        permissions=declared if task.permissions is None else task.permissions,
        idempotent=(agent is not None and agent.idempotent is True) if task.idempotent is None else task.idempotent,
    )


def _fill_gates(plan: Plan, scope: Scope, flow: Flow, needs: list[set[int]]) -> None:
    """Let each gate wait for what the steps right behind it read, so that whoever decides sees all that they will do.

    Left out is what could only be known once the gate is open, what is known then anyway, and what would change
    whether the gate is asked at all (a gate without a branch runs if one of those that it needs has).
    """
    reads = [
        {binder for name in names for binder in scope.binders[name] if binder in needs[number]}
        for number, names in enumerate(scope.reads)
    ]
    pairs = sorted(
        (need, number)
        for number, needed in enumerate(needs)
        for need in needed
        if isinstance(plan.steps[need], Gate) and reads[number] - {need}
    )
    if not pairs:
        return
    followers = behind(needs, flow.order)
    for gate, number in pairs:  # grows while it is gone through
        for read in sorted(reads[number]):
            settled_before = followers[read] >> gate & 1
            if read == gate or settled_before or followers[gate] >> read & 1:
                continue
            if exclusive(flow.conditions[read], flow.conditions[gate]):
                continue
            joining = {read}
            if plan.steps[gate].branch is None:
                if needs[gate]:
                    if not implies(flow.conditions[read], flow.conditions[gate]):
                        continue
                elif flow.conditions[read] != ALWAYS:
                    # Alone, it would keep the gate from being asked where its branch is not taken.
                    joining.add(_nearest_certain(read, flow, needs))
            for need in sorted(joining):
                _join(gate, need, needs, followers)
                if isinstance(plan.steps[need], Gate) and reads[gate] - {need}:
                    pairs.append((need, gate))


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
    for emit, step in enumerate(plan.steps):
        guard = () if step.branch is None else {scope.numbers[step.branch.step]}
        if not isinstance(step, Emit) or needs[emit].difference(guard):
            continue
        condition = flow.conditions[emit]
        before = [
            number
            for number, other in enumerate(plan.steps)
            if not isinstance(other, Emit) and not exclusive(flow.conditions[number], condition)
        ]
        covered: set[int] = set()
        for number in before:
            covered.update(need for need in needs[number] if implies(flow.conditions[need], flow.conditions[number]))
        needs[emit].update(number for number in before if number not in covered)
