"""The graph of a plan around one of its gates, as SVG. Pure.

Layers by longest path from above, the order within a layer by the mean place of what is needed (one sweep of
Sugiyama's method: Sugiyama, Tagawa and Toda, 1981). Colours and fonts come from the style sheet.
"""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from planmesh.schemas.state import Graph, PlanState, StepStatus

_MOST: Final = 40
_WIDTH: Final = 156
_HEIGHT: Final = 46
_GAP_X: Final = 20
_GAP_Y: Final = 42
_MARGIN: Final = 6
_CHARACTERS: Final = 19
_PASSING: Final = 12
_NARROW: Final = 560

_LOOKS: Final[Mapping[StepStatus, tuple[str, str]]] = {
    StepStatus.COMPLETED: ("done", "completed"),
    StepStatus.SKIPPED: ("done", "skipped"),
    StepStatus.NOT_TAKEN: ("gone", "not taken"),
    StepStatus.DISPATCHED: ("running", "running"),
    StepStatus.WAITING: ("waiting", "waiting"),
    StepStatus.FAILED: ("failed", "failed"),
    StepStatus.REJECTED: ("failed", "rejected"),
    StepStatus.OUTCOME_UNKNOWN: ("failed", "outcome unknown"),
    StepStatus.CANCELLED: ("gone", "cancelled"),
}


class Picture(NamedTuple):
    """A drawing.

    Attributes:
        svg: The markup; everything in it is escaped.
        left_out: How many steps of the plan are not in it: those farthest from the gate.
    """

    svg: str
    left_out: int


# A step, or, with the step that it leads to, a place that a line passes.
_Spot: TypeAlias = tuple[str, str]


class _Node(NamedTuple):
    """Where something stands: its middle, and its upper edge."""

    x: float
    y: float


def draw(state: PlanState, gate: str) -> Picture:
    """The steps around *gate*, from top to bottom, the gate marked."""
    graph = state.graph
    shown = _near(graph, gate)
    needs = {name: [need for need in graph.needs[name] if need in shown] for name in graph.steps if name in shown}
    levels = _levels(needs)
    rows, chains = _rows(needs, levels)
    width = max(sum(_width(spot) + _GAP_X for spot in row) for row in rows) - _GAP_X + 2 * _MARGIN
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    nodes: dict[_Spot, _Node] = {}
    for level, row in enumerate(rows):
        left = (width - sum(_width(spot) + _GAP_X for spot in row) + _GAP_X) / 2
        for spot in row:
            nodes[spot] = _Node(left + _width(spot) / 2, _MARGIN + level * (_HEIGHT + _GAP_Y))
            left += _width(spot) + _GAP_X
    look = "graph narrow" if width <= _NARROW else "graph"
    parts = [
        f'<svg class="{look}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(_told(state, gate, needs))}">'
    ]
    parts += (_edge([nodes[spot] for spot in chain]) for chain in chains)
    parts += (_box(state, name, nodes[name, ""], is_gate=name == gate) for name in needs)
    return Picture("".join([*parts, "</svg>"]), len(graph.steps) - len(shown))


def _near(graph: Graph, gate: str) -> set[str]:
    """As many steps as a picture may have, the nearest to the gate first: what it needs and what needs it."""
    found = {gate: None}
    queue = [gate]
    for name in queue:
        for other in (*graph.needs[name], *graph.successors[name]):
            if other not in found and len(found) < _MOST:
                found[other] = None
                queue.append(other)
    return set(found)


def _levels(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The layer of each name. *needs* may be in any order, and has no cycle."""
    levels: dict[str, int] = {}
    left = dict(needs)
    while left:
        for name in [name for name, found in left.items() if all(need in levels for need in found)]:
            levels[name] = max((levels[need] + 1 for need in left.pop(name)), default=0)
    return levels


def _rows(needs: Mapping[str, Iterable[str]], levels: Mapping[str, int]) -> tuple[list[list[_Spot]], list[list[_Spot]]]:
    """What stands in each layer, in order; and what each line passes, from above.

    A line that passes a layer has a spot of its own there, so that it runs behind no box.
    """
    rows: list[list[_Spot]] = [[] for _ in range(max(levels.values()) + 1)]
    above: dict[_Spot, list[_Spot]] = {}
    chains: list[list[_Spot]] = []
    for name, found in needs.items():
        above[name, ""] = []
        rows[levels[name]].append((name, ""))
        for need in found:
            chain: list[_Spot] = [(need, "")]
            for level in range(levels[need] + 1, levels[name]):
                spot = (f"{need} {level}", name)
                rows[level].append(spot)
                above[spot] = [chain[-1]]
                chain.append(spot)
            above[name, ""].append(chain[-1])
            chains.append([*chain, (name, "")])
    places: dict[_Spot, float] = {}
    for row in rows:
        middle = {spot: _mean(places[other] for other in above[spot]) for spot in row}
        row.sort(key=lambda spot, middle=middle: middle[spot])  # type: ignore[misc]
        for place, spot in enumerate(row):
            places[spot] = (place + 0.5) / len(row)
    return rows, chains


def _width(spot: _Spot) -> int:
    return _PASSING if spot[1] else _WIDTH


def _mean(places: Iterable[float]) -> float:
    found = list(places)
    return sum(found) / len(found) if found else 0.5


def _edge(chain: list[_Node]) -> str:
    path = ""
    for above, below in pairwise(chain):
        y = above.y + _HEIGHT
        start = f"M{above.x:g} {y:g}" if above is chain[0] else f"L{above.x:g} {y:g}"
        bend = _GAP_Y / 2
        path += f"{start}C{above.x:g} {y + bend:g} {below.x:g} {below.y - bend:g} {below.x:g} {below.y:g}"
    return f'<path class="edge" d="{path}"/>'


def _box(state: PlanState, name: str, node: _Node, *, is_gate: bool) -> str:
    step = state.graph.steps[name]
    look, status = _LOOKS.get(state.steps[name].status, ("pending", "not started"))
    kind = str(step.__struct_config__.tag)
    classes = f"node {look}{' gate' if kind == 'gate' else ''}{' here' if is_gate else ''}"
    title = name if len(name) <= _CHARACTERS else f"{name[: _CHARACTERS - 1]}…"
    note = "this gate" if is_gate else f"{'gate, ' if kind == 'gate' else ''}{status}"
    x, y, middle = node.x - _WIDTH / 2, node.y, node.x
    radius = _HEIGHT / 2 if kind == "gate" else 8
    return (
        f'<g class="{classes}"><title>{escape(name)}: {escape(kind)}, {status}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius:g}"/>'
        f'<text x="{middle:g}" y="{y + 20:g}">{escape(title)}</text>'
        f'<text class="note" x="{middle:g}" y="{y + 35:g}">{note}</text></g>'
    )


def _told(state: PlanState, gate: str, needs: Mapping[str, list[str]]) -> str:
    """The picture in words, for whoever cannot see it."""
    before = len(state.graph.needs[gate])
    behind = len(state.graph.behind(gate))
    return (
        f"The steps around the gate {gate}: it waited for {before}, and {behind} stand behind it; {len(needs)} shown."
    )
