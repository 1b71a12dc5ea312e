"""Who waits for whom, and when a step runs at all. Steps are numbered as in the document.

**When a step runs.** A `decide` or `check` takes one of its labels. A step that has a branch runs if that label is
taken; any other step, if it needs nothing or if one of those that it needs has run (`planmesh.schemas.state.taken`).
So whether a step runs follows from the labels that are taken, and is written here as a `Condition`: alternatives,
of which each says for some of the decides which of their labels are taken. This is exact until a condition has more
alternatives, or an alternative more parts, than the limits below. Then it is widened: two steps may pass for able to
run together that are not, never the other way round.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

Alternative: TypeAlias = Mapping[int, int]
"""For some decides, a bit for each label that may be taken."""
Condition: TypeAlias = tuple[Alternative, ...]

ALWAYS: Final[Condition] = ({},)
MOST_ALTERNATIVES: Final = 8
MOST_PARTS: Final = 64

MOST_WORK: Final = 5_000_000
"""Parts of conditions that are looked at for one plan: a second or so. Ten thousand ordinary steps take some 50,000."""

_ALL: Final = -1  # every label, in the two's complement of Python's integers


def components(needs: Sequence[Iterable[int]]) -> list[list[int]]:
    """The strongly connected components: whoever is needed comes first. Without cycles, each is one step.

    Source: R. Tarjan, *Depth-first search and linear graph algorithms*, SIAM J. Comput. 1 (2), 1972; without recursion.
    """
    found: list[list[int]] = []
    number = [0] * len(needs)  # in the order of discovery, from 1
    low = [0] * len(needs)
    stacked = [False] * len(needs)
    stack: list[int] = []
    count = 0
    for root in range(len(needs)):
        if number[root]:
            continue
        path = [(root, iter(needs[root]))]
        count += 1
        number[root] = low[root] = count
        stack.append(root)
        stacked[root] = True
        while path:
            step, rest = path[-1]
            for need in rest:
                if not number[need]:
                    count += 1
                    number[need] = low[need] = count
                    stack.append(need)
                    stacked[need] = True
                    path.append((need, iter(needs[need])))
                    break
                if stacked[need]:
                    low[step] = min(low[step], number[need])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[step])
                if low[step] == number[step]:
                    component: list[int] = []
                    while not component or component[-1] != step:
                        component.append(stack.pop())
                        stacked[component[-1]] = False
                    found.append(sorted(component))
    return found


def shortest_cycle(needs: Sequence[Iterable[int]], component: Sequence[int]) -> list[int]:
    """A shortest way from the first step of *component* back to it, each step followed by one that it needs."""
    inside, first = set(component), component[0]
    came_from: dict[int, int] = {}
    queue = [first]
    for step in queue:
        for need in needs[step]:
            if need == first:
                way = [step]
                while way[-1] != first:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if need in inside and need not in came_from:
                came_from[need] = step
                queue.append(need)
    raise ValueError(f"no cycle leads through step {first}")


def behind(needs: Sequence[Iterable[int]], order: Iterable[int]) -> list[int]:
    """For each step, a bit for every step that waits for it, directly or not. *order* has needs first."""
    masks = [0] * len(needs)
    for step in reversed(list(order)):
        mask = masks[step] | 1 << step
        for need in needs[step]:
            masks[need] |= mask
    return masks


# --- conditions --------------------------------------------------------------------------------------------


class Work:
    """How many parts of conditions may still be looked at. Once nothing is `left`, answers mean nothing."""

    __slots__ = ("left",)

    def __init__(self, units: int = MOST_WORK) -> None:
        self.left = units

    @property
    def exhausted(self) -> bool:
        return self.left < 0

    def spend(self, units: int) -> bool:
        """Take *units* off. Returns: whether there were that many."""
        self.left -= units
        return self.left >= 0


def narrowed(condition: Condition, decide: int, label: int) -> Condition:
    """*condition*, and *decide* takes the label with the bit *label*."""
    return tuple(_cut({**alternative, decide: label}) for alternative in condition)


def _cut(alternative: dict[int, int]) -> Alternative:
    if len(alternative) > MOST_PARTS:
        del alternative[next(iter(alternative))]
    return alternative


def either(conditions: Iterable[Condition], labels: Mapping[int, int], work: Work) -> Condition:
    """One of *conditions* holds; with none, `ALWAYS`.

    Args:
        labels: For each decide, the bits of all its labels.
    """
    distinct = {id(condition): condition for condition in conditions}
    if not distinct or any(condition == ALWAYS for condition in distinct.values()):
        return ALWAYS
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    found: list[Alternative] = []
    for condition in distinct.values():
        for alternative in condition:
            if not work.spend(1 + len(found) * len(alternative)):
                return ALWAYS
            _add(found, alternative, labels)
    return tuple(found)


def _add(found: list[Alternative], alternative: Alternative, labels: Mapping[int, int]) -> None:
    while True:
        for index, other in enumerate(found):
            joined = _joined(alternative, other, labels)
            if joined is not None:
                del found[index]
                alternative = joined
                break
        else:
            found.append(alternative)
            if len(found) <= MOST_ALTERNATIVES:
                return
            alternative = _hull(found, labels)
            found.clear()


def _joined(one: Alternative, other: Alternative, labels: Mapping[int, int]) -> Alternative | None:
    """What holds if *one* or *other* does, if a single alternative can say that."""
    if _within(one, other):
        return other
    if _within(other, one):
        return one
    if one.keys() != other.keys():
        return None
    different = [decide for decide, mask in one.items() if other[decide] != mask]
    return _hull([one, other], labels) if len(different) == 1 else None


def _hull(alternatives: Sequence[Alternative], labels: Mapping[int, int]) -> Alternative:
    """The narrowest single alternative that holds whenever one of *alternatives* does."""
    first, *rest = alternatives
    hull: dict[int, int] = {}
    for decide, mask in first.items():
        for other in rest:
            mask |= other.get(decide, _ALL)
        if mask not in (_ALL, labels[decide]):
            hull[decide] = mask
    return hull


def _within(one: Alternative, other: Alternative) -> bool:
    """Whether *other* holds whenever *one* does."""
    return all(one.get(decide, _ALL) & ~mask == 0 for decide, mask in other.items())


def implies(one: Condition, other: Condition, work: Work) -> bool:
    """Whether *other* certainly holds whenever *one* does."""
    if one is other or other == ALWAYS:
        return True
    if not work.spend(len(one) * sum(map(len, other))):
        return False
    return all(any(_within(alternative, wider) for wider in other) for alternative in one)


def exclusive(one: Condition, other: Condition, work: Work) -> bool:
    """Whether *one* and *other* certainly never hold together."""
    if not work.spend(1 + sum(map(len, one)) * len(other)):
        return False
    return all(
        any(right.get(decide, _ALL) & mask == 0 for decide, mask in left.items()) for left in one for right in other
    )
