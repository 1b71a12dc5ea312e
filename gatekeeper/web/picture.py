"""The graph of a plan around one of its gates or asks, as SVG and as a list. Pure.

Steps that differ in nothing but their names are one box, and so are the items of an `each`. Layers by longest path from
above, the order within a layer by the mean place of what is needed (one sweep of Sugiyama's method: Sugiyama, Tagawa
and Toda, 1981). Colours and fonts come from the style sheet.
"""

import textwrap
from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from planmesh.gatekeeper.web.words import counted, cut, line
from planmesh.schemas.each import Item
from planmesh.schemas.plan import Ask, Check, Decide, Draft, Each, Emit, Gate, Run
from planmesh.schemas.state import SATISFIED, PlanState, StepStatus

_MOST: Final = 24
_FAR: Final = 4
"""How many steps away from the gate a step may be."""
_ALIKE: Final = 4
"""From how many on, steps that are alike are one box."""
_MOST_NAMES: Final = 20
_WIDTH: Final = 156
_HEIGHT: Final = 46
_LINE: Final = 16
_GAP_X: Final = 20
_GAP_Y: Final = 42
_MARGIN: Final = 8
_CHARACTERS: Final = 18
_ROUND_CHARACTERS: Final = 15
_NOTE_CHARACTERS: Final = 27
_PASSING: Final = 12
_ACROSS: Final = 3
"""Boxes beside one another, so that all of it fits on a screen; a wider layer takes several rows."""
_NARROW: Final = 720

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
    StepStatus.PAUSED: ("pending", "paused"),
}


class Listed(NamedTuple):
    """A step in the list: what it is called, what it is and where it stands, and what it comes after."""

    name: str
    note: str
    needs: tuple[str, ...]
    is_here: bool


class Picture(NamedTuple):
    """A drawing.

    Attributes:
        svg: The markup; everything in it is escaped.
        steps: The same as a list, from top to bottom.
        left_out: How many steps of the plan are not in it: those farthest from the gate.
    """

    svg: str
    steps: tuple[Listed, ...]
    left_out: int


class _Box(NamedTuple):
    """What is drawn as one box.

    Attributes:
        names: The steps that it stands for.
        title: What they are called.
        note: What they are, and where they stand.
        look: The classes of its look.
        is_round: Whether people answer it.
        is_stack: Whether it stands for several.
    """

    names: tuple[str, ...]
    title: str
    note: str
    look: str
    is_round: bool
    is_stack: bool


# A box; or a place that lines pass, which is named for where they come from, and for the layer.
_Spot: TypeAlias = tuple[str, str]


class _Node(NamedTuple):
    """Where something stands: its middle, and its upper edge."""

    x: float
    y: float


def draw(state: PlanState, here: str) -> Picture:
    """The steps around the gate or ask *here*, from top to bottom, which is marked."""
    boxes, needs = _boxes(state, here)
    near = _near(needs, here)
    needs = {name: [need for need in found if need in near] for name, found in needs.items() if name in near}
    levels = _folded(_levels(needs), here)
    rows, chains = _rows(needs, levels)
    tall = _HEIGHT + _LINE * any(len(_titled(boxes[name])) > 1 for name in needs)
    width = max(sum(_width(spot) + _GAP_X for spot in row) for row in rows) - _GAP_X + 2 * _MARGIN
    height = len(rows) * (tall + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    nodes: dict[_Spot, _Node] = {}
    for level, row in enumerate(rows):
        left = (width - sum(_width(spot) + _GAP_X for spot in row) + _GAP_X) / 2
        for spot in row:
            nodes[spot] = _Node(left + _width(spot) / 2, _MARGIN + level * (tall + _GAP_Y))
            left += _width(spot) + _GAP_X
    look = "graph narrow" if width <= _NARROW else "graph"
    parts = [
        f'<svg class="{look}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(_told(state, here, needs))}">'
    ]
    parts += (_edge([nodes[spot] for spot in chain], tall) for chain in chains)
    parts += (_drawn(boxes[name], nodes[name, ""], tall) for name in needs)
    listed = tuple(
        Listed(boxes[name].title, boxes[name].note, tuple(boxes[need].title for need in needs[name]), name == here)
        for name in sorted(needs, key=lambda name: levels[name])
    )
    drawn = sum(len(boxes[name].names) for name in needs)
    every = sum(len(box.names) for box in boxes.values())
    return Picture("".join([*parts, "</svg>"]), listed, every - drawn)


def _boxes(state: PlanState, here: str) -> tuple[dict[str, _Box], dict[str, list[str]]]:
    """What could be drawn, by the first of its names, and what needs what.

    Of the items of an `each` only the one is drawn that *here* belongs to.
    """
    graph = state.graph
    mine = graph.items.get(here)
    drawn = {name for name in graph.steps if (item := graph.items.get(name)) is None or _is_of(item, mine)}
    alike: dict[object, list[str]] = {}
    for name in graph.steps:
        if name in drawn:
            needs = frozenset(need for need in graph.needs[name] if need in drawn)
            behind = frozenset(one for one in graph.successors[name] if one in drawn)
            kind = type(graph.steps[name])
            single = name if name == here or not (needs or behind) else ""
            alike.setdefault((kind, state.steps[name].status, needs, behind, single), []).append(name)
    stands_for: dict[str, str] = {}
    boxes: dict[str, _Box] = {}
    for names in alike.values():
        together = [names] if len(names) >= _ALIKE else [[name] for name in names]
        for found in together:
            boxes[found[0]] = _box(state, tuple(found), here)
            stands_for |= dict.fromkeys(found, found[0])
    needs_of = {
        name: list(dict.fromkeys(stands_for[need] for need in graph.needs[name] if need in stands_for))
        for name in graph.steps
        if name in boxes
    }
    return boxes, needs_of


def _is_of(item: Item, mine: Item | None) -> bool:
    return mine is not None and (item.each, item.number) == (mine.each, mine.number)


def _box(state: PlanState, names: tuple[str, ...], here: str) -> _Box:
    first = names[0]
    step, found = state.graph.steps[first], state.steps[first]
    look, status = _LOOKS.get(found.status, ("pending", "not started"))
    note, is_round, is_stack = status, False, len(names) > 1
    match step:
        case Gate():
            note, is_round = f"gate, {'approved' if found.status is StepStatus.COMPLETED else status}", True
        case Ask():
            note, is_round = f"question, {'answered' if found.status is StepStatus.COMPLETED else status}", True
        case Each():
            note, is_stack = _items(state, first, status), True
        case Run():
            note = f"plan {found.child}, {found.child_status or status}" if found.child else f"runs a plan, {status}"
        case Draft():
            note = f"writes a plan, {status}"
        case Decide() | Check():
            what = "decides" if isinstance(step, Decide) else "checks"
            note = f"{what}: {line(found.label)}" if found.label else f"{what}, {status}"
        case Emit():
            note = f"ends the plan: {line(step.outcome)}"
    if first == here:
        note = f"this {'gate' if isinstance(step, Gate) else 'question'}, {status}"
        look += " here"
    title = f"{len(names)} steps" if len(names) > 1 else line(step.label or first)
    return _Box(names, title, note, look, is_round, is_stack)


def _items(state: PlanState, each: str, status: str) -> str:
    """How far an `each` is."""
    items = state.items.get(each)
    if items is None:
        return f"for each item, {status}"
    graph = state.graph
    open_ = {item.number for name, item in graph.items.items() if item.each == each and not _is_over(state, name)}
    return f"{counted(len(items), 'item')}, {len(items) - len(open_)} done"


def _is_over(state: PlanState, name: str) -> bool:
    return state.steps[name].status in SATISFIED or state.steps[name].status is StepStatus.CANCELLED


def _near(needs: Mapping[str, list[str]], here: str) -> set[str]:
    """As many boxes as a picture may have, the nearest first: what it needs and what needs it."""
    behind: dict[str, list[str]] = {name: [] for name in needs}
    for name, found in needs.items():
        for need in found:
            behind[need].append(name)
    far = {here: 0}
    queue = [here]
    for name in queue:
        for other in (*needs[name], *behind[name]):
            if other not in far and len(far) < _MOST and far[name] < _FAR:
                far[other] = far[name] + 1
                queue.append(other)
    return set(far)


def _levels(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The layer of each name. *needs* may be in any order, and has no cycle."""
    levels: dict[str, int] = {}
    left = dict(needs)
    while left:
        for name in [name for name, found in left.items() if all(need in levels for need in found)]:
            levels[name] = max((levels[need] + 1 for need in left.pop(name)), default=0)
    return levels


def _folded(levels: Mapping[str, int], here: str) -> dict[str, int]:
    """The layers, of which none has more boxes than go beside one another; *here* comes first in its own."""
    members: dict[int, list[str]] = {}
    for name, level in levels.items():
        members.setdefault(level, []).append(name)
    folded: dict[str, int] = {}
    row = 0
    for level in sorted(members):
        names = sorted(members[level], key=lambda name: name != here)
        for start in range(0, len(names), _ACROSS):
            folded |= dict.fromkeys(names[start : start + _ACROSS], row)
            row += 1
    return folded


def _rows(needs: Mapping[str, Iterable[str]], levels: Mapping[str, int]) -> tuple[list[list[_Spot]], list[list[_Spot]]]:
    """What stands in each layer, in order; and what each line passes, from above.

    Lines that pass a layer have a spot there, so that they run behind no box: one for all that come from one box.
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
                spot = (f"{need} {level}", "passes")
                if spot not in above:
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


def _edge(chain: list[_Node], tall: int) -> str:
    path = ""
    for above, below in pairwise(chain):
        y = above.y + tall
        start = f"M{above.x:g} {y:g}" if above is chain[0] else f"L{above.x:g} {y:g}"
        bend = _GAP_Y / 2
        path += f"{start}C{above.x:g} {y + bend:g} {below.x:g} {below.y - bend:g} {below.x:g} {below.y:g}"
    return f'<path class="edge" d="{path}"/>'


def _titled(box: _Box) -> list[str]:
    """What it is called, on two lines at most."""
    width = _ROUND_CHARACTERS if box.is_round else _CHARACTERS
    return textwrap.wrap(box.title, width, max_lines=2, placeholder="…") or [cut(box.title, width)]


def _drawn(box: _Box, node: _Node, tall: int) -> str:
    x, y, middle = node.x - _WIDTH / 2, node.y, node.x
    radius = tall / 2 if box.is_round else 8
    shape = f'width="{_WIDTH}" height="{tall}" rx="{radius:g}"/>'
    behind = f'<rect x="{x + 5:g}" y="{y - 5:g}" {shape}' if box.is_stack else ""
    title = _titled(box)
    first = y + (tall - _HEIGHT) / 2 + 20 - (len(title) - 1) * _LINE / 2
    lines = "".join(
        f'<text x="{middle:g}" y="{first + at * _LINE:g}">{escape(text)}</text>' for at, text in enumerate(title)
    )
    below = first + (len(title) - 1) * _LINE + 15
    names = ", ".join(box.names[:_MOST_NAMES]) + (" …" if len(box.names) > _MOST_NAMES else "")
    return (
        f'<g class="node {box.look}"><title>{escape(names)}: {escape(box.note)}</title>{behind}'
        f'<rect x="{x:g}" y="{y:g}" {shape}'
        f'{lines}<text class="note" x="{middle:g}" y="{below:g}">{escape(cut(box.note, _NOTE_CHARACTERS))}</text></g>'
    )


def _told(state: PlanState, here: str, needs: Mapping[str, list[str]]) -> str:
    """The picture in words, for whoever cannot see it."""
    before = len(state.graph.needs[here])
    behind = len(state.graph.behind(here))
    return (
        f"The steps around {here}: it waited for {before}, and {behind} stand behind it. The list below has the same."
    )
