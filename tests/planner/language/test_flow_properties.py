"""What runs is what control reaches: scripts with any branches, against a few lines that walk through them."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripts import played

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.recognise import Script
from planmesh.schemas.events import StepCompleted, StepDispatched
from planmesh.schemas.goals import Problem
from planmesh.schemas.state import PlanStatus


@dataclass
class Do:
    """Fails or does not, if it has a fallback; without one (None), it does not."""

    name: str
    fails: bool | None = None

    @property
    def done(self) -> str:
        """The step that completes."""
        return f"{self.name}-instead" if self.fails else self.name


@dataclass
class Emit:
    name: str


@dataclass
class Decide:
    """Reads the input of its name, and goes to one of its labels."""

    name: str
    labels: list[str] = field(default_factory=list)


@dataclass
class Check:
    """Reads the input of its name; if that is not so, goes on at a label."""

    name: str
    label: str


@dataclass
class Branch:
    label: str
    body: "list[Item]" = field(default_factory=list)


Item = Do | Emit | Decide | Check | Branch


class Ended(Exception):
    """The plan has ended."""


class Gone(Exception):
    """Control has gone to a label."""

    def __init__(self, label: str) -> None:
        self.label = label


Waits = dict[str, set[str]]
"""For each step that ran, the steps in the branches above it, which it had to wait for."""


def walk(items: list[Item], values: dict[str, Any], waits: Waits, before: frozenset[str] = frozenset()) -> None:
    """Go through *items* as a person would who reads them."""
    number = 0
    while number < len(items):
        item = items[number]
        try:
            match item:
                case Do():
                    waits[item.done] = set(before)
                case Emit(name):
                    waits[name] = set(waits)
                    raise Ended
                case Decide(name):
                    raise Gone(values[name])
                case Check(name, label):
                    if not values[name]:
                        raise Gone(label)
            number += 1
        except Gone as gone:
            to = gone.label
            known = set(waits)
            while True:
                found = [at for at, one in enumerate(items) if isinstance(one, Branch) and one.label == to]
                if not found:
                    raise Gone(to) from None
                number = found[0]
                branch = items[number]
                assert isinstance(branch, Branch)
                try:
                    walk(branch.body, values, waits, before)
                    break
                except Gone as further:
                    to = further.label
            while number < len(items) and isinstance(items[number], Branch):
                number += 1
            before |= waits.keys() - known


def written(items: list[Item], indent: str = "") -> Iterator[str]:
    for item in items:
        match item:
            case Do(name, fails):
                yield f'{indent}do "{name}" with worker'
                if fails is not None:
                    yield f"{indent}  on error: fallback other"
            case Emit(name):
                yield f'{indent}emit "{name}"'
            case Decide(name, labels):
                yield f'{indent}decide "{name}" with rules'
                for label in labels[1:]:
                    yield f'{indent}  when {name} == "{label}" -> "{label}"'
                yield f'{indent}  when {name} == "{labels[0]}" -> "{labels[0]}"'
            case Check(name, label):
                yield f'{indent}check "{name}" {name}'
                yield f'{indent}  on fail: goto "{label}"'
            case Branch(label, body):
                yield f'{indent}"{label}":'
                yield from written(body, indent + "  ")


class Maker:
    """Draws a script: first its blocks, then where its decides lead."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def do(self) -> Do:
        return Do(self.name("d"), self.draw(st.sampled_from([None, None, None, False, True])))

    def block(self, depth: int, reachable: list[str]) -> list[Item]:
        """A block, from which control may go to the labels that are *reachable* further out."""
        groups = self.draw(st.lists(st.sampled_from(["do", "fork", "check", "far"]), min_size=1, max_size=4))
        items: list[Item] = []
        pending: list[str] = []
        for kind in groups:
            if kind == "do" or depth == 0:
                items.append(self.do())
            elif kind == "check":
                label = self.name("L")
                items.append(Check(self.name("c"), label))
                pending.append(label)
            else:
                labels = [self.name("L") for _ in range(self.draw(st.integers(1, 3)))]
                far = reachable if kind == "far" else []
                known = [*labels, *far[: self.draw(st.integers(0, 2))]]
                items.append(Decide(self.name("k"), known))
                stay = self.draw(st.booleans())
                mine = [*labels, *(pending if stay else [])]
                pending = [] if stay else pending
                for position, label in enumerate(mine):
                    later = [*mine[position + 1 :], *pending, *reachable]
                    items.append(Branch(label, self.block(depth - 1, later)))
                if not items[-1].body:
                    items[-1].body.append(self.do())
        if pending and self.draw(st.booleans()):
            items.append(Emit(self.name("e")))
        for label in pending:
            items.append(Branch(label, self.block(depth - 1, reachable) or [self.do()]))
        if self.draw(st.integers(0, 3)) == 0 and depth < 3:
            items.append(Emit(self.name("e")))
        if self.draw(st.integers(0, 5)) == 0 and depth < 3:
            items.clear()
        return items


@st.composite
def scripts(draw: Any) -> tuple[list[Item], dict[str, Any], dict[str, Any]]:
    items = Maker(draw).block(3, [])
    values: dict[str, Any] = {}
    outputs: dict[str, Any] = {}

    def choose(block: list[Item]) -> None:
        for item in block:
            match item:
                case Do(name, False):
                    outputs[name] = "done"
                case Decide(name, labels):
                    values[name] = draw(st.sampled_from(labels))
                case Check(name):
                    values[name] = draw(st.booleans())
                case Branch(_, body):
                    choose(body)

    choose(items)
    return items, values, outputs


def _expect_only_what_is_wrong(found: Compiled | list[Problem], text: str, *others: str) -> None:
    """What cannot be reached is a mistake, and so are emits of which both can be."""
    if isinstance(found, list):
        assert {problem.code for problem in found} <= {"unreachable", "emits_together", *others}, f"{found}\n{text}"
        assume(False)


@settings(max_examples=50, deadline=None)
@given(scripts())
def test_what_runs_is_what_control_reaches(drawn: tuple[list[Item], dict[str, Any], dict[str, Any]]) -> None:
    items, values, outputs = drawn
    text = "\n".join(written(items))
    found = compile_plan(Script(text), None)
    _expect_only_what_is_wrong(found, text)
    expected: Waits = {}
    with contextlib.suppress(Ended):
        walk(items, values, expected)

    play = played(text, values, outputs)

    assert play.state.status is PlanStatus.COMPLETED, text
    begun: dict[str, int] = {}
    done: dict[str, int] = {}
    for number, event in enumerate(play.events):
        match event:
            case StepDispatched(step=step):
                begun[step] = number
            case StepCompleted(step=step):
                begun.setdefault(step, number)
                done[step] = number
    assert done.keys() == {name.lower() for name in expected}, text
    for name, waited_for in expected.items():
        assert all(done[one] < begun[name] for one in waited_for), f"{name} began too early in\n{text}"


@settings(max_examples=50, deadline=None)
@given(scripts())
def test_what_runs_for_an_item_is_what_control_reaches_and_its_emit_says_what_it_gives(
    drawn: tuple[list[Item], dict[str, Any], dict[str, Any]],
) -> None:
    items, values, outputs = drawn
    body = "\n".join(written(items, "  "))
    body = re.sub(r'^( *)emit "(\w+)"$', r'\1emit "\2"\n\1  result = "came to \2"', body, flags=re.MULTILINE)
    text = f"each item in [1, 2]\n{body}\n-> given\n"
    # There may be more emits than one expression can tell apart, and more steps than a body may have.
    _expect_only_what_is_wrong(compile_plan(Script(text), None), text, "too_large", "invalid_value")
    expected: Waits = {}
    gives = None
    try:
        walk(items, values, expected)
    except Ended:
        gives = f"came to {list(expected)[-1]}"

    play = played(text, values, outputs)

    assert play.state.status is PlanStatus.COMPLETED, text
    done = {event.step for event in play.events if isinstance(event, StepCompleted)}
    tasks = {f"{name}_{number}" for name in expected if name.startswith("d") for number in (1, 2)}
    assert done - {"each-given"} == tasks, text
    if re.search(r"^ *emit ", text, re.MULTILINE):
        assert play.state.steps["each-given"].output.value == [gives, gives], text
