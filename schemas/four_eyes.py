"""Who may not approve a gate that takes four eyes: whoever asked for the plan, and whoever was the last to revise the
gate, or what it would release. Pure.

They are judged in `decide`, and told beforehand by everything that shows the gate: by this one rule.
"""

from collections.abc import Iterator

from planmesh.schemas.events import Barred
from planmesh.schemas.plan import SERVICE, Gate
from planmesh.schemas.state import SATISFIED, PlanState


def same(one: str, other: str) -> bool:
    """Whether two who act may be one person: the person *ada*, and the service that publishes goals as *ada*.

    They are told apart wherever somebody has to be named, and are one wherever it would help to be two.
    """
    return one.removeprefix(SERVICE) == other.removeprefix(SERVICE)


def barred(state: PlanState, gate: str) -> tuple[Barred, ...]:
    """Those who may not approve *gate*, each once."""
    step = state.graph.steps[gate]
    found: list[Barred] = []
    if isinstance(step, Gate) and step.four_eyes:
        for one in _involved(state, gate):
            if not any(same(one.who, other.who) for other in found):
                found.append(one)
    return tuple(found)


def _involved(state: PlanState, gate: str) -> Iterator[Barred]:
    if state.created is not None:
        yield from (Barred(who=who) for who in (state.requester, *state.created.owners))
    yield from (Barred(who=who, revised=step, is_above=True) for who, step in state.mandate.authors.items())
    if state.authors:
        to_come = (name for name in state.graph.behind(gate) if state.steps[name].status not in SATISFIED)
        yield from (Barred(who=state.authors[name], revised=name) for name in (gate, *to_come) if name in state.authors)
