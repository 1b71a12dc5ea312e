"""The steps of a plan, one a line, in the order in which they run.

A graph is drawn as the series and parallel runs that it is made of: steps that follow one another stand below one
another without an indent, so a chain of a hundred needs no more width than one of two; where several start at the same
point, each begins a branch, and what waits for all of them follows below, back at the left::

    read
    ├─ licences
    ├─ sizes
    │  summarise-sizes
    └─ requirements
    compose

Layers by depth would tear `sizes` and `summarise-sizes` apart, and a tree by indentation has no place for `compose`.
Where a graph is not made of such runs, a step stands below the nearest point that all its needs have in common, and
says what it waits for (`Place.after`).

The nearest common point is the immediate dominator in the graph without its redundant edges.
Source: Cooper, Harvey and Kennedy, *A Simple, Fast Dominance Algorithm*, 2001; one pass suffices without cycles.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

_DEEPEST: Final = 8  # levels of indent; what lies deeper stays there

# What stands below a step: runs, one after the other, of steps that do not wait for one another.
_Runs: TypeAlias = dict[str, list[list[str]]]


class Place(NamedTuple):
    """Where a step stands.

    Attributes:
        name: The step.
        rails: What is drawn before it.
        after: What it waits for, where its place does not say so; in most plans always empty.
    """

    name: str
    rails: str
    after: tuple[str, ...] = ()


def layout(needs: Mapping[str, tuple[str, ...]]) -> tuple[Place, ...]:
    """Place every step.

    Args:
        needs: For each step, what must be settled before it. A circle is broken at an arbitrary step.
    """
    order = _sorted(needs)
    edges = _reduced(needs, order)
    parent = _dominators(edges, order)
    run, runs = _placed(edges, order, parent)
    places: list[Place] = []
    # What is still to be placed, nearest last: the step, what its own line begins with, what those below it do.
    stack: list[tuple[str, str, str, int]] = []
    _push(stack, runs.get("", []), "", 0, hanging=False)
    while stack:
        name, rails, below, depth = stack.pop()
        places.append(Place(name, rails, _untold(name, edges, parent, run, runs)))
        _push(stack, runs.get(name, []), below, depth, hanging=True)
    return tuple(places)


def _push(
    stack: list[tuple[str, str, str, int]], runs: list[list[str]], below: str, depth: int, *, hanging: bool
) -> None:
    """Put what follows a step on the stack: *runs* one after the other, the members of each side by side."""
    items: list[tuple[str, str, str, int]] = []
    for number, members in enumerate(runs):
        if len(members) == 1 or depth >= _DEEPEST:
            items += [(name, below, below, depth) for name in members]
            continue
        for index, name in enumerate(members):
            last = index == len(members) - 1
            first = index == 0 and (number > 0 or not hanging)
            corner = "└─ " if last else "┌─ " if first else "├─ "
            items.append((name, below + corner, below + ("   " if last else "│  "), depth + 1))
    stack += reversed(items)


def _sorted(needs: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every step after those that it needs, otherwise in the order given. Source: Kahn, 1962."""
    left = {name: sum(need in needs for need in of) for name, of in needs.items()}
    behind: dict[str, list[str]] = {name: [] for name in needs}
    for name, of in needs.items():
        for need in of:
            if need in behind:
                behind[need].append(name)
    order = [name for name, count in left.items() if count == 0]
    for name in order:
        for other in behind[name]:
            left[other] -= 1
            if left[other] == 0:
                order.append(other)
    if len(order) < len(needs):
        placed = set(order)
        order += [name for name in needs if name not in placed]
    return order


def reduced(needs: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same graph with fewer edges: without needs that another need implies."""
    return _reduced(needs, _sorted(needs))


def _reduced(needs: Mapping[str, tuple[str, ...]], order: list[str]) -> dict[str, tuple[str, ...]]:
    number = {name: index for index, name in enumerate(order)}
    before: list[int] = []  # for each step, in order, all that lie before it: one bit each
    edges: dict[str, tuple[str, ...]] = {}
    for name in order:
        mine = [need for need in dict.fromkeys(needs[name]) if number.get(need, len(order)) < number[name]]
        implied = 0
        for need in mine:
            implied |= before[number[need]]
        edges[name] = tuple(need for need in mine if not implied >> number[need] & 1)
        for need in edges[name]:
            implied |= 1 << number[need]
        before.append(implied)
    return edges


def _dominators(edges: Mapping[str, tuple[str, ...]], order: list[str]) -> dict[str, str]:
    """For each step, the nearest one that every way to it passes; empty if there is none."""
    parent: dict[str, str] = {}
    depth = {"": 0}
    for name in order:
        common: str | None = None
        for need in edges[name]:
            other = need
            common = other if common is None else common
            while common != other:
                if depth[common] > depth[other]:
                    common = parent[common]
                else:
                    other = parent[other]
        parent[name] = common or ""
        depth[name] = depth[parent[name]] + 1
    return parent


def _placed(
    edges: Mapping[str, tuple[str, ...]], order: list[str], parent: Mapping[str, str]
) -> tuple[dict[str, int], _Runs]:
    """For each step, the number of its run among those below the same point; and these runs, point by point."""
    run: dict[str, int] = {}
    runs: _Runs = {}
    for name in order:
        point = parent[name]
        mine = max((run[_branch(need, point, parent)] + 1 for need in edges[name] if need != point), default=0)
        run[name] = mine
        below = runs.setdefault(point, [])
        # No run is skipped: a step waits for one of the run just before its own.
        if mine == len(below):
            below.append([])
        below[mine].append(name)
    return run, runs


def _branch(name: str, point: str, parent: Mapping[str, str]) -> str:
    """The step directly below *point* under which *name* stands."""
    while parent[name] != point:
        name = parent[name]
    return name


def _untold(
    name: str, edges: Mapping[str, tuple[str, ...]], parent: Mapping[str, str], run: Mapping[str, int], runs: _Runs
) -> tuple[str, ...]:
    """What a step waits for, unless that is just what a reader of the drawing takes it to be."""
    if run[name] == 0:
        return ()
    ends: set[str] = set()
    queue = list(runs[parent[name]][run[name] - 1])
    for branch in queue:
        if branch in runs:
            queue += runs[branch][-1]
        else:
            ends.add(branch)
    return () if ends == set(edges[name]) else edges[name]
