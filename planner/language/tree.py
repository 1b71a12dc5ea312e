"""The syntax tree of a script. Every node knows where it stands."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from msgspec import Struct

from planmesh.planner.language.source import Span

_NOTHING: frozenset[str] = frozenset()


class Node(Struct, frozen=True):
    """A part of a script."""

    span: Span


class Word(Node, frozen=True):
    """A name, a keyword or a label: what it says, without quotes."""

    text: str


# --- values ------------------------------------------------------------------------------------------------


class Value(Node, frozen=True):
    """What stands behind a ``=``."""

    @property
    def names(self) -> frozenset[str]:
        """Every name that is read."""
        return _NOTHING

    @property
    def required(self) -> frozenset[str]:
        """The names that are read at least once without a ``??`` to fall back on."""
        return _NOTHING


class Constant(Value, frozen=True):
    """A number, true, false or null."""

    value: int | float | bool | None


class Broken(Value, frozen=True):
    """A value that could not be read. What is wrong with it has been said."""


class Formula(Value, frozen=True):
    """An expression (`planmesh.schemas.expressions`)."""

    text: str
    reads: frozenset[str]
    needs: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.reads

    @property
    def required(self) -> frozenset[str]:
        return self.needs


class Text(Value, frozen=True):
    """A text in quotes: a template (`planmesh.schemas.templates`), its escapes resolved."""

    template: str
    reads: frozenset[str] = _NOTHING
    needs: frozenset[str] = _NOTHING

    @property
    def names(self) -> frozenset[str]:
        return self.reads

    @property
    def required(self) -> frozenset[str]:
        return self.needs


class Items(Value, frozen=True):
    """A list."""

    items: tuple[Value, ...]

    @property
    def names(self) -> frozenset[str]:
        return _NOTHING.union(*(item.names for item in self.items))

    @property
    def required(self) -> frozenset[str]:
        return _NOTHING.union(*(item.required for item in self.items))


class Entry(Node, frozen=True):
    """One key of an object, with its value."""

    key: str
    value: Value


class Entries(Value, frozen=True):
    """An object."""

    entries: tuple[Entry, ...]

    @property
    def names(self) -> frozenset[str]:
        return _NOTHING.union(*(entry.value.names for entry in self.entries))

    @property
    def required(self) -> frozenset[str]:
        return _NOTHING.union(*(entry.value.required for entry in self.entries))


# --- the header --------------------------------------------------------------------------------------------


class Title(Node, frozen=True):
    """``script "Name"``"""

    name: Word


class Parameter(Node, frozen=True):
    """``name : type = default``"""

    name: Word
    type: Word
    default: Value | None


class Inputs(Node, frozen=True):
    """``input``, and the lines below it."""

    parameters: tuple[Parameter, ...] = ()


class Output(Node, frozen=True):
    """``name = value``, or ``name : type = value``"""

    name: Word
    type: Word | None
    value: Value


class Outputs(Node, frozen=True):
    """``output``, and the lines below it."""

    outputs: tuple[Output, ...] = ()


# --- steps -------------------------------------------------------------------------------------------------


class Head(Node, frozen=True):
    """The first line of a step."""

    kind: str
    """The word that it begins with; empty if there is no step of that kind, which has been said."""
    label: Word | None = None
    agent: Word | None = None
    """After ``with``."""
    target: Word | None = None
    """What is run; the name of an item."""
    value: Value | None = None
    """The condition of a check; the list of an ``each``."""
    parallel: int | None = None


class Field(Node, frozen=True):
    """``name = value``"""

    name: Word
    value: Value


class Setting(Field, frozen=True):
    """``name value``, in the header."""


class Binding(Node, frozen=True):
    """``-> name``"""

    name: Word


class When(Node, frozen=True):
    """``when condition -> "Branch"``"""

    condition: Value
    label: Word


class Otherwise(Node, frozen=True):
    """``otherwise -> "Branch"``"""

    label: Word


class Action(Node, frozen=True):
    """What follows ``on error:``, ``on pass:`` or ``on fail:``."""

    kind: str
    """`retry`, `fallback`, `ignore`, `go_on`, `fail` or `goto`."""
    word: Word | None = None
    """The branch to go to, or the agent to fall back on."""
    number: int | None = None
    """How often it is tried again."""
    value: Value | None = None
    """The message, or the inputs of the agent to fall back on."""


class OnError(Node, frozen=True):
    """``on error: action``"""

    action: Action


class OnOutcome(Node, frozen=True):
    """``on pass: action``, ``on fail: action``"""

    outcome: str
    action: Action


class Let(Node, frozen=True):
    """``let name = value``"""

    name: Word
    value: Value


class BrokenPart(Node, frozen=True):
    """A line that could not be read, and is no step. What is wrong with it has been said."""


Part: TypeAlias = Field | Binding | When | Otherwise | OnError | OnOutcome | BrokenPart


class Step(Node, frozen=True):
    """A step with its parts, in the order of the script, and the body of an ``each``."""

    head: Head
    parts: tuple[Part, ...] = ()
    body: tuple["Item", ...] = ()

    def each(self, kind: type[Any]) -> Iterator[Any]:
        """Its parts of one kind."""
        return (part for part in self.parts if isinstance(part, kind))

    @property
    def binding(self) -> Word | None:
        return next((part.name for part in self.each(Binding)), None)


class Branch(Node, frozen=True):
    """``"Label":``, and what runs if it is taken."""

    label: Word
    body: tuple["Item", ...] = ()


Item: TypeAlias = Step | Let | Branch
HeaderPart: TypeAlias = Title | Field | Inputs | Outputs


class Script(Node, frozen=True):
    """A whole script."""

    header: tuple[HeaderPart, ...]
    body: tuple[Item, ...]
