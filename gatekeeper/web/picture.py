"""The graph of a plan around one of its gates, as SVG. Pure.

Layers by longest path from above, the order within a layer by the mean place of what is needed (one sweep of
Sugiyama's method: Sugiyama, Tagawa and Toda, 1981). Colours and fonts come from the style sheet.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final, NamedTuple

from planmesh.schemas.state import Graph, PlanState, StepStatus

_MOST: Final = 40
_WIDTH: Final = 156
_HEIGHT: Final = 46
_GAP_X: Final = 20
_GAP_Y: Final = 42
_MARGIN: Final = 6
_CHARACTERS: Final = 19

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


class _Node(NamedTuple):
    name: str
    x: float
    y: float


def draw(state: PlanState, gate: str) -> Picture:
    """The steps around *gate*, from top to bottom, the gate marked."""
    graph = state.graph
    shown = _near(graph, gate)
    needs = {name: [need for need in graph.needs[name] if need in shown] for name in graph.steps if name in shown}
    rows = _rows(needs)
    width = max(len(row) for row in rows) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    nodes: dict[str, _Node] = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * (_WIDTH + _GAP_X) + _GAP_X) / 2
        for place, name in enumerate(row):
            nodes[name] = _Node(name, left + place * (_WIDTH + _GAP_X), _MARGIN + level * (_HEIGHT + _GAP_Y))
    parts = [
        f'<svg class="graph" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(_told(state, gate, needs))}">'
    ]
    parts += (_edge(nodes[need], nodes[name]) for name, found in needs.items() for need in found)
    parts += (_box(state, node, is_gate=node.name == gate) for node in nodes.values())
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


def _rows(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The names, layer by layer. *needs* may be in any order, and has no cycle."""
    levels: dict[str, int] = {}
    left = dict(needs)
    while left:
        ready = [name for name, found in left.items() if all(need in levels for need in found)]
        for name in ready:
            levels[name] = max((levels[need] + 1 for need in left.pop(name)), default=0)
    rows: list[list[str]] = [[] for _ in range(max(levels.values()) + 1)]
    for name in needs:
        rows[levels[name]].append(name)
    places: dict[str, float] = {}
    for row in rows:
        middle = {name: _mean(places[need] for need in needs[name]) for name in row}
        row.sort(key=lambda name: middle[name])
        for place, name in enumerate(row):
            places[name] = (place + 0.5) / len(row)
    return rows


def _mean(places: Iterable[float]) -> float:
    found = list(places)
    return sum(found) / len(found) if found else 0.5


def _edge(above: _Node, below: _Node) -> str:
    x1, y1 = above.x + _WIDTH / 2, above.y + _HEIGHT
    x2, y2 = below.x + _WIDTH / 2, below.y
    bend = min((y2 - y1) / 2, _GAP_Y)
    return f'<path class="edge" d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"/>'


def _box(state: PlanState, node: _Node, *, is_gate: bool) -> str:
    step = state.graph.steps[node.name]
    look, status = _LOOKS.get(state.steps[node.name].status, ("pending", "not started"))
    kind = str(step.__struct_config__.tag)
    classes = f"node {look}{' gate' if kind == 'gate' else ''}{' here' if is_gate else ''}"
    title = node.name if len(node.name) <= _CHARACTERS else f"{node.name[: _CHARACTERS - 1]}…"
    note = "this gate" if is_gate else f"{'gate, ' if kind == 'gate' else ''}{status}"
    x, y, middle = node.x, node.y, node.x + _WIDTH / 2
    radius = _HEIGHT / 2 if kind == "gate" else 8
    return (
        f'<g class="{classes}"><title>{escape(node.name)}: {escape(kind)}, {status}</title>'
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
