"""Gates above a plan that runs for a step: what they let go with it, and how they ask again if it is revised. Pure.

Whoever approves a gate approves what stands behind it, and so the plan of a `run` step as it is. Where that plan is
revised, what is another thing waits, in its own plan, for a gate that asks the same people.
"""

from collections.abc import Iterator
from itertools import count
from typing import Final

import msgspec

from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Each, Gate, Plan, Step
from planmesh.schemas.state import Graph, PlanState, StepStatus, may_change

_NOT_ASKED: Final = (StepStatus.SKIPPED, StepStatus.NOT_TAKEN)
_NAME: Final = "approve-revision"
_ASKED: Final = (
    "reviewers",
    "quorum",
    "shares",
    "escalate",
    "four_eyes",
    "require_reason",
    "sla_s",
    "level",
)
"""What a gate says of whom it asks, and how."""


def released_by(state: PlanState, name: str) -> tuple[Gate, ...]:
    """The gates that have let step *name* go, which has been dispatched, in its plan and in those above it; of several
    that ask alike, one. One that asks again by now has let it go all the same."""
    found: dict[object, Gate] = {_asked(gate): gate for gate in state.mandate.gates}
    for above in state.graph.before(name):
        gate = state.graph.steps[above]
        if isinstance(gate, Gate) and state.steps[above].status not in _NOT_ASKED:
            said = f"{gate.name} of plan {state.address.plan}"
            about = {field: getattr(gate, field) for field in _ASKED}
            found.setdefault(_asked(gate), Gate(name=gate.name, label=said, **about))
    return tuple(found.values())


def asking_again(state: PlanState, revised: Plan) -> Plan:
    """*revised*, in which every step that has not been released as it is waits for the gates that have released the
    plan."""
    gates = gates_of(state)
    if not gates or state.created is None:
        return revised
    released = {step.name: step for step in state.created.plan.steps}
    steps: list[Step] = []
    is_asked = False
    for step in revised.steps:
        if step.name in gates:
            is_asked = True
            continue
        rest = tuple(need for need in step.after if need not in gates)
        is_news = msgspec.structs.replace(step, after=rest) != released.get(step.name)
        if is_news and (step.name not in state.steps or may_change(state, step.name)):
            # In the order of the steps, as the planner has it: so it is the same the next time.
            step = msgspec.structs.replace(step, after=(*gates, *rest))
            is_asked = True
        steps.append(step)
    if not is_asked:
        return revised
    whole = msgspec.structs.replace(revised, steps=(*gates.values(), *steps))
    there = {step.name for step in whole.steps}
    asking: list[Step] = []
    for name, gate in gates.items():
        if name in state.steps and not may_change(state, name):
            # What it has waited for is settled; a revision that leaves some of it out is refused for that.
            gate = msgspec.structs.replace(gate, after=tuple(need for need in state.graph.needs[name] if need in there))
        elif not gate.after:
            gate = msgspec.structs.replace(gate, after=_known_before(state, whole, name))
        asking.append(gate)
    return msgspec.structs.replace(revised, steps=(*asking, *steps))


def _known_before(state: PlanState, revised: Plan, gate: str) -> tuple[str, ...]:
    """What *gate* waits for, so that whoever is asked sees all that the steps right behind it will do: what these need.
    Nothing, where all of it may not be taken: then the gate would not be asked."""
    graph = Graph.of(revised)
    behind = {gate, *graph.behind(gate)}
    needs = dict.fromkeys(need for name in graph.successors[gate] for need in graph.needs[name] if need not in behind)
    certain = {name for name, needed in graph.needs.items() if not needed}
    certain |= {
        name for name, step in state.steps.items() if step.status is StepStatus.COMPLETED and name in graph.steps
    }
    queue = list(certain)
    for name in queue:
        for other in graph.successors[name]:
            if other not in certain and graph.steps[other].branch is None:
                certain.add(other)
                queue.append(other)
    return tuple(needs) if certain & needs.keys() else ()


def mistaken(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """A problem for each step that is called like a gate which asks again, and is not that gate."""
    gates = gates_of(state)
    bindings = {gate.bound_as: gate for gate in gates.values()}
    for index, step in enumerate(revised.steps):
        gate = gates.get(step.name)
        if gate is not None and isinstance(step, Gate) and _unordered(step) == _unordered(gate):
            continue
        inner = step.steps if isinstance(step, Each) else ()
        for one in (step, *inner):
            if (taken := gates.get(one.name) or bindings.get(one.bound_as)) is not None:
                yield Problem(
                    code="released",
                    pointer=f"/steps/{index}",
                    message=f"step {one.name} is called like the gate at which {taken.label} asks again",
                    hint=f"leave {taken.name} out, or as it is, and call others otherwise",
                )


def gates_of(state: PlanState) -> dict[str, Gate]:
    """The gates that ask again in the plan, by names that nothing in the plan as it was created has."""
    created, above = state.created, state.mandate.gates
    if not above or created is None:
        return {}
    taken = {name.replace("_", "-") for name in created.inputs}
    for step in created.plan.steps:
        for one in (step, *(step.steps if isinstance(step, Each) else ())):
            taken |= {one.name, one.bound_as.replace("_", "-")}
    free = (
        name for name in (_NAME if number == 1 else f"{_NAME}-{number}" for number in count(1)) if name not in taken
    )
    gates: dict[str, Gate] = {}
    # One behind the other: what one says is known when the next is asked, and does not make its votes stale.
    for gate, name in zip(above, free, strict=False):
        prompt = f"Gate {gate.label} let this plan run. What comes next has been revised since."
        gates[name] = msgspec.structs.replace(gate, name=name, after=tuple(gates)[-1:], prompt=prompt)
    return gates


def _unordered(gate: Gate) -> Gate:
    return msgspec.structs.replace(gate, after=())


def _asked(gate: Gate) -> object:
    return tuple(getattr(gate, field) for field in _ASKED)
