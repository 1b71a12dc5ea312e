"""The steps that an `each` has for one item of its list. Pure.

Each step of its body is there once an item, under a name of its own: ``audit_3`` for the third. The steps of one item
read one another by the bindings of the body; nothing outside of it reads them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from planmesh.schemas.plan import BodyStep, Each

_NUMBERED: Final = re.compile(r"_[0-9]+$")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """Where a step of an item belongs.

    Attributes:
        each: The `each` step.
        number: Of the item, from 1.
        body: The step of the body that it is made of.
        bindings: The item's steps behind each name that its expressions may read.
        called: How they call the item itself.
        steps: All steps of the item.
    """

    each: str
    number: int
    body: str
    bindings: Mapping[str, tuple[str, ...]]
    called: str
    steps: tuple[str, ...]


def item_step(body: str, number: int) -> str:
    """What the step *body* is called for the item with this *number*, from 1."""
    return f"{body}_{number}"


def first_steps(each: Each, number: int) -> list[str]:
    """The steps that begin an item: within it, they need nothing."""
    return [item_step(body.name, number) for body in each.steps if not body.after and body.branch is None]


def is_numbered(name: str) -> bool:
    """Whether a name looks like that of an item's step: no step of a document is called so beside an `each`."""
    return _NUMBERED.search(name) is not None


def steps_of(each: Each, number: int, needs: tuple[str, ...]) -> list[tuple[BodyStep, tuple[str, ...], Item]]:
    """The steps for one item: each with what must be settled before it, and where it belongs.

    Args:
        needs: What *each* itself has waited for. What begins an item needs that as well: it is settled, and it says
            what the step stands behind.
    """
    bindings: dict[str, tuple[str, ...]] = {}
    for body in each.steps:
        bindings[body.bound_as] = (*bindings.get(body.bound_as, ()), item_step(body.name, number))
    names = tuple(item_step(body.name, number) for body in each.steps)
    found = []
    for body in each.steps:
        after = tuple(item_step(need, number) for need in body.after)
        branch = body.branch
        if branch is not None:
            branch = msgspec.structs.replace(branch, step=item_step(branch.step, number))
        step = msgspec.structs.replace(body, name=item_step(body.name, number), after=after, branch=branch)
        needed = after if branch is None or branch.step in after else (*after, branch.step)
        item = Item(
            each=each.name,
            number=number,
            body=body.name,
            bindings=bindings,
            called=each.item,
            steps=names,
        )
        found.append((step, needed or needs, item))
    return found
