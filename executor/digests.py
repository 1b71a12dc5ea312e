"""What an approval would release, as a digest: what a gate shows, and what a vote must quote. Pure."""

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.payload import NOTHING, Payload, canonical, digest_of
from planmesh.schemas.plan import Check, Each, Gate, Step
from planmesh.schemas.state import Graph, PlanState

if TYPE_CHECKING:
    from hashlib import _Hash

_AREAS_KEPT: Final = 16
"""Gates that open together mostly stand in front of the same steps."""


class _Area(NamedTuple):
    """What stands behind a gate.

    Attributes:
        steps: How many steps can only run after it.
        begun: The hash of their definitions, to go on from.
        needs: What the steps right behind it depend on, in the order of their names.
    """

    steps: int
    begun: "_Hash"
    needs: tuple[str, ...]


class Digests:
    """The digests of the gates of one plan. What gates have in common is put together once, so that hundreds in front
    of the same steps cost hardly more than one."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._areas: dict[tuple[tuple[str, ...], tuple[str, ...]], _Area] = {}
        self._outputs: dict[str, tuple[Payload, bytes]] = {}
        self._inputs: tuple[dict[str, Any], bytes] = {}, canonical({})

    def of(self, state: PlanState, gate: str) -> str:
        """SHA-256 over every step behind *gate*: its definition, and the outputs and inputs that it reads, where known:
        of the canonical JSON of ``[definitions, {step: digest of its output}, inputs of the plan]``.

        An output never changes once it is there, so the digest changes only when there is something new to know.
        """
        area = self._area(state.graph, gate)
        hashed = area.begun.copy()
        hashed.update(b"{")
        hashed.update(b",".join([self._output(state, need) for need in area.needs if need != gate]))
        hashed.update(b"},")
        hashed.update(self._inputs_of(state))
        hashed.update(b"]")
        return hashed.hexdigest()

    def behind(self, state: PlanState, gate: str) -> int:
        """How many steps can only run after *gate*."""
        return self._area(state.graph, gate).steps

    def _area(self, graph: Graph, gate: str) -> _Area:
        if graph is not self._graph or len(self._areas) > _AREAS_KEPT:
            self._graph = graph
            self._areas.clear()
        key = graph.successors[gate], tuple(released(graph, gate))
        area = self._areas.get(key)
        if area is None:
            behind = graph.behind(gate)
            definitions = canonical([graph.steps[name] for name in behind])
            begun = hashlib.sha256(b"[" + definitions + b",")
            needs = sorted({need for name in key[1] for need in depends_on(graph, name)})
            area = self._areas[key] = _Area(len(behind), begun, tuple(needs))
        return area

    def _output(self, state: PlanState, name: str) -> bytes:
        """A member of a JSON object: the name of the step, and the digest of what it gave."""
        output = state.steps[name].output
        known = self._outputs.get(name)
        if known is None or known[0] is not output:
            found = _OF_NOTHING if output is NOTHING else digest_of(output)
            known = self._outputs[name] = output, canonical({name: found})[1:-1]
        return known[1]

    def _inputs_of(self, state: PlanState) -> bytes:
        inputs = state.created.inputs if state.created is not None else {}
        if inputs is not self._inputs[0]:
            self._inputs = inputs, canonical(inputs)
        return self._inputs[1]


def depends_on(graph: Graph, name: str) -> Iterator[str]:
    """The steps of which the outputs make a difference to what step *name* does.

    Not a gate that it only waits for: of several in front of it, one that is approved changes nothing for the others.
    """
    step = graph.steps[name]
    # What an `each` collects is made of its items, and their gates are among those.
    gates = {need for need in graph.needs[name] if isinstance(graph.steps[need], Gate)}
    if isinstance(step, Each):
        gates -= graph.items.keys()
    if not gates:
        yield from graph.needs[name]
        return
    try:
        read = graph.reads(name)
    except ExpressionError:
        yield from graph.needs[name]
        return
    item = graph.items.get(name)
    inner = {} if item is None else item.bindings
    binders = {binder for one in read for binder in inner.get(one) or graph.bindings.get(one, ())}
    yield from (need for need in graph.needs[name] if need not in gates or need in binders)


_OF_NOTHING: Final = digest_of(NOTHING)


def released(graph: Graph, gate: str) -> Iterator[str]:
    """The steps right behind *gate*, but for the `each` whose item it belongs to: that only collects. Where branches
    only meet, what comes then as well."""
    item = graph.items.get(gate)
    seen = {"" if item is None else item.each}
    waiting = deque([gate])
    while waiting:
        more = [name for name in graph.successors[waiting.popleft()] if name not in seen]
        yield from more
        seen.update(more)
        waiting.extend(name for name in more if only_meets(graph.steps[name]))


def only_meets(step: Step) -> bool:
    """Whether *step* does nothing but wait for branches."""
    return isinstance(step, Check) and step.condition == "true"
