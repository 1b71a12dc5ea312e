"""The steps of an `each`: a small plan of their own, which reads what is around it as well."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from planmesh.planner.decode import PlanDraft, StepDraft
from planmesh.planner.document import Limits
from planmesh.planner.flow import Flow, read_flow
from planmesh.planner.problems import Inside, Problems, quoted
from planmesh.planner.scope import Scope, read_scope, value_of
from planmesh.schemas.each import is_numbered
from planmesh.schemas.expressions import KEYWORDS
from planmesh.schemas.plan import MAX_STEPS, Each

_LONGEST_NAME: Final = 63 - len(f"_{MAX_STEPS}")


@dataclass(frozen=True, slots=True)
class Body:
    """The steps of an `each`, as far as they could be read.

    Attributes:
        problems: Adds what is wrong with them.
    """

    scope: Scope
    flow: Flow
    problems: Problems


def read_bodies(around: Scope, problems: Problems, limits: Limits) -> dict[int, Body]:
    """The body of each `each` of a plan, by the place of its step; every problem with them is added."""
    bodies = {
        one.index: _read_body(one, one.step, around, problems, limits)
        for one in around.steps
        if isinstance(one.step, Each) and one.body
    }
    if bodies:
        _check_names(around, problems)
    return bodies


def _read_body(one: StepDraft, each: Each, around: Scope, problems: Problems, limits: Limits) -> Body:
    outer: Collection[str] = {*around.binders, *around.inputs}
    if "item" not in one.unread:
        if each.item in KEYWORDS:
            said = f"{quoted(each.item)} is a word of the expression language; an item cannot be called so"
            problems.add("reserved_name", said, "steps", one.index, "item")
        elif each.item in outer:
            said = f"the item is called {quoted(each.item)}, and so is something around it"
            problems.add("shadows", said, "steps", one.index, "item", hint="give it another name")
        outer = {*outer, each.item}
    inside = Inside(problems, "steps", one.index)
    gives = [(at, text) for at, text, _ in value_of(one)]
    scope = read_scope(PlanDraft(None, {}, one.body), inside, limits, outer, gives)
    return Body(scope, read_flow(scope, inside, limits), inside)


def _check_names(around: Scope, problems: Problems) -> None:
    """Names are for the whole plan; and those of an item's steps, with their numbers, must be free."""
    taken = dict.fromkeys(around.numbers, "the plan")
    bodies: set[str] = set()
    for one, inner in _inner(around):
        name, at = inner.step.name, ("steps", one.index, "steps", inner.index, "name")
        if name in taken and taken[name] != one.step.name:
            said = f"a step of {taken[name]} is already called {quoted(name)}"
            problems.add("duplicate_name", said, *at, hint="every step has a name of its own")
        elif len(name) > _LONGEST_NAME:
            said = (
                f"in an `each`, a name has at most {_LONGEST_NAME} characters: the number of the item comes behind it"
            )
            problems.add("invalid_value", said, *at)
        taken.setdefault(name, one.step.name)
        bodies.add(name)
    for one in around.steps:
        name = one.step.name
        if "name" not in one.unread and is_numbered(name) and name.rpartition("_")[0] in bodies:
            said = f"{quoted(name)} is what a step of an `each` is called for an item"
            problems.add("duplicate_name", said, "steps", one.index, "name", hint="give it another name")


def _inner(around: Scope) -> Iterator[tuple[StepDraft, StepDraft]]:
    for one in around.steps:
        for inner in one.body:
            if "name" not in inner.unread:
                yield one, inner
