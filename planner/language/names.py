"""The names of steps: made of their labels, or of what they bind."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.source import Span
from planmesh.planner.language.tree import Field, Item, Let, Step, Text
from planmesh.schemas.plan import MAX_STEPS

LONGEST_NAME: Final = 63
LONGEST_NAME_IN_EACH: Final = LONGEST_NAME - len(f"_{MAX_STEPS}")
"""There the number of the item comes behind it."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_OF_ITEM: Final = re.compile(r"_[0-9]+\Z")
# What Unicode does not take apart into a Latin letter and a mark.
_LETTERS: Final = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ħ": "h", "ı": "i"}  # noqa: RUF001
)


def slug(label: str) -> str:
    """*label* as a name: ``Draft report`` is ``draft-report``; empty if nothing of it can be in a name."""
    plain = unicodedata.normalize("NFKD", label.lower().translate(_LETTERS))
    ascii_only = plain.encode("ascii", "ignore").decode()
    return _NOT_IN_NAMES.sub("-", ascii_only).strip("-")[:LONGEST_NAME].rstrip("-")


@dataclass(slots=True)
class Names:
    """The name of each step.

    Attributes:
        of: By where the step begins.
        labelled: The names behind each label.
        taken: Every name, with the place that gave it.
        within: For each step inside of an `each`, the name of that.
    """

    of: dict[int, str] = field(default_factory=dict)
    labelled: dict[str, list[str]] = field(default_factory=dict)
    taken: dict[str, Span] = field(default_factory=dict)
    within: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def free(self, name: str, at: Span) -> str:
        """*name*, or one like it that no step has; from now on it is taken. It may be one of a step in an `each`."""
        base = name = name[:LONGEST_NAME_IN_EACH].rstrip("-")
        while name in self.taken:
            self._counts[base] = number = self._counts.get(base, 1) + 1
            name = f"{base[: LONGEST_NAME_IN_EACH - 6].rstrip('-')}-{number}"
        self.taken[name] = at
        return name


def name_steps(items: Iterable[Item], findings: Findings) -> Names:
    """Name every step of a script, those inside of others too."""
    names = Names()
    _name_steps(items, "", names, findings)
    return names


def _name_steps(items: Iterable[Item], each: str, names: Names, findings: Findings) -> None:
    for item in items:
        if isinstance(item, Step):
            name = _name_step(item, names, findings, LONGEST_NAME_IN_EACH if each else LONGEST_NAME)
            if each:
                names.within[name] = each
            _name_steps(item.body, each or name, names, findings)
        elif not isinstance(item, Let):
            _name_steps(item.body, each, names, findings)


def _name_step(step: Step, names: Names, findings: Findings, longest: int) -> str:
    name, at = _name(step, findings)
    name = name[:longest].rstrip("-")
    if not name:
        name = names.free(f"step-{len(names.taken) + 1}", at)
    elif name in names.taken:
        line = findings.source.place(names.taken[name].start).line
        said = f"a step is called {quoted(name)} already, on line {line}"
        findings.add("duplicate_name", said, at, 'give it another label, or a name of its own: name = "…"')
        name = names.free(name, at)
    names.taken.setdefault(name, at)
    names.of[step.span.start] = name
    if step.head.label is not None:
        names.labelled.setdefault(step.head.label.text, []).append(name)
    return name


def _name(step: Step, findings: Findings) -> tuple[str, Span]:
    """The name of a step, and what gave it; empty if nothing does, which has been said."""
    for one in step.each(Field):
        if one.name.text == "name":
            return _given(one, findings), one.value.span
    head = step.head
    if head.label is not None:
        name = slug(head.label.text)
        if not name and not findings.has_line_of(head.span.start):
            said = f"no name can be made of the label {quoted(head.label.text)}"
            findings.add("bad_name", said, head.label.span, 'give it one: name = "…"')
        return name, head.label.span
    word = step.binding or head.target
    return (slug(f"{head.kind}-{word.text}"), word.span) if word is not None else ("", head.span)


def _given(field: Field, findings: Findings) -> str:
    value = field.value
    name = value.template if isinstance(value, Text) else ""
    if _NAME.fullmatch(name) is None:
        said = f"a name is a text of a-z, 0-9, - and _, with 63 characters at most; found {quoted(name)}"
        if isinstance(value, Text):
            findings.add("bad_name", said, value.span, f'write "{slug(name)}"' if slug(name) else "")
        elif not findings.has_line_of(value.span.start):
            hint = "name = says what the step is called; for an input of that name, write inputs = { name: … }"
            findings.add("bad_name", "a name is a text in double quotes", value.span, hint)
        return ""
    if _OF_ITEM.search(name) is not None:
        findings.add("bad_name", "names that end in _ and a number are for the items of an each", value.span)
    return name
