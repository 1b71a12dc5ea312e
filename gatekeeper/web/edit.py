"""Editing what is to come after a gate: the steps as a document, what is wrong with it, what it would change. Pure."""

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import yaml
from msgspec import Struct

from planmesh.frontier import Fate, Frontier, frontier
from planmesh.gatekeeper.web.gate import Changed, changed
from planmesh.gatekeeper.web.words import cut, line, plain
from planmesh.places import broken_at, locate
from planmesh.schemas.events import AnyEvent, CommandRefused, RevisionRefused
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Gate
from planmesh.schemas.previews import PreviewAnswer
from planmesh.schemas.state import PlanState, StepStatus, evolve, may_change

_MOST_NAMED: Final = 60
_LINE_CHARACTERS: Final = 160
_HIDDEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"})

_LOOKS: Final[dict[Fate, tuple[str, str]]] = {
    "changed": ("Changed", "changed"),
    "new": ("New", "added"),
    "dropped": ("Dropped", "removed"),
    "asks": ("Asks again", "open"),
    "again": ("Runs again", "open"),
    "running": ("Goes on running", ""),
    "open": ("Goes on asking", ""),
    "next": ("To come, as before", ""),
    "kept": ("Kept: has ended", ""),
    "paused": ("Stays paused", ""),
    "stands": ("Stays as it is", ""),
    "skipped": ("Skipped", ""),
}


class Wrong(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a document.

    Attributes:
        line: Where, from 1; 0 if it is about all of it.
        text: The line itself.
    """

    message: str
    hint: str
    line: int
    text: str


class Group(Struct, frozen=True, kw_only=True):
    """The steps of which the same becomes."""

    title: str
    look: str
    names: tuple[str, ...]
    more: int


class Foreseen(Struct, frozen=True, kw_only=True):
    """What would become of the plan.

    Attributes:
    """

    groups: tuple[Group, ...]
    changes: tuple[Changed, ...]
    asks_again: tuple[str, ...]


# --- the document ------------------------------------------------------------------------------------------


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Block style; what hides or reorders text stands as an escape; several lines stand as several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _is_hidden(char: str) -> bool:
    return char != "\n" and unicodedata.category(char) in _HIDDEN


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if any(_is_hidden(char) for char in value):
        style = '"'
    elif "\n" in value:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def document_of(state: PlanState, gate: str, most: int) -> str | None:
    """What is to come of a plan, as a document to be edited: every step that may change, and those that run.

    Read back, it is the plan as it is. None if it has more than *most* characters.
    """
    steps: list[str] = []
    characters = 0
    for name, step in state.graph.steps.items():
        if name in state.graph.items or state.steps[name].status is StepStatus.SUPERSEDED:
            continue
        runs = state.steps[name].status is StepStatus.DISPATCHED
        if not runs and not may_change(state, name):
            continue
        written = {"kind": str(step.__struct_config__.tag), **msgspec.to_builtins(step)}
        named = {"name": written.pop("name"), "kind": written.pop("kind"), **written}
        text = yaml.dump([named], Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        note = "  # this gate\n" if name == gate else "  # runs now: leave it as it is\n" if runs else ""
        lines = _escaped(text).split("\n")
        characters += len(text)
        if characters > most:
            return None
        steps.append(note + "\n".join(f"  {one}" if one else one for one in lines))
    return "steps:\n" + "\n".join(steps)


def _escaped(text: str) -> str:
    """What hides or reorders text as YAML writes it: such a scalar stands in double quotes."""
    return "".join(f"\\U{ord(char):08x}" if _is_hidden(char) else char for char in text)


# --- what is wrong with it ---------------------------------------------------------------------------------


def wrongs(problems: Iterable[Problem], text: str) -> tuple[Wrong, ...]:
    """What is wrong, where people see it: by its line."""
    problems = tuple(problems)
    spots = locate(text, {problem.pointer for problem in problems if problem.pointer and not problem.line})
    lines = text.split("\n")
    found = []
    for problem in problems:
        number = problem.line
        if not number and problem.pointer:
            number = spots[problem.pointer].line if problem.pointer in spots else 0
        elif not number and problem.code == "malformed" and (broken := broken_at(text)) is not None:
            number = broken.line
        shown = plain(lines[number - 1], _LINE_CHARACTERS) if 0 < number <= len(lines) else ""
        found.append(
            Wrong(message=plain(problem.message, 1_000), hint=plain(problem.hint, 500), line=number, text=shown)
        )
    return tuple(sorted(found, key=lambda one: one.line))


# --- what it would change ----------------------------------------------------------------------------------


def refused(events: Iterable[AnyEvent], command: str) -> CommandRefused | RevisionRefused | None:
    """The event that says no, if one does."""
    for event in events:
        if isinstance(event, CommandRefused) and event.command == command:
            return event
        if isinstance(event, RevisionRefused) and event.request == command:
            return event
    return None


def foreseen(state: PlanState, answer: PreviewAnswer) -> Foreseen:
    """What *answer* would come to, on *state*."""
    after = state
    for event in answer.events:
        after = evolve(after, event, answer.at)
    seen = frontier(state, after)
    changes = tuple(one for one in (seen.whole, *(step.change for step in seen.steps)) if one is not None)
    return Foreseen(
        groups=tuple(_groups(seen)),
        changes=changed(changes, after),
        asks_again=tuple(line(name) for name in seen.of("asks") if isinstance(after.graph.steps.get(name), Gate)),
    )


def _groups(seen: Frontier) -> Iterable[Group]:
    for fate, (title, look) in _LOOKS.items():
        names = seen.of(fate)
        if names:
            yield Group(
                title=title,
                look=look,
                names=tuple(cut(line(name), 80) for name in names[:_MOST_NAMED]),
                more=max(0, len(names) - _MOST_NAMED),
            )
