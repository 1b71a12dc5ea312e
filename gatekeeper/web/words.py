"""Text that strangers wrote, made fit to be read; and times and people in words. Pure.

Templates escape what they are given; `plain` has taken out what would hide or reorder it.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import SERVICE

TEXT_CHARACTERS: Final = 6_000
_LINE_CHARACTERS: Final = 300
_BRIEF_CHARACTERS: Final = 80
_MOST_PEOPLE: Final = 6
_AS_JSON: Final[Mapping[str, Any]] = {"indent": 2, "ensure_ascii": False, "default": str}
_COLUMNS: Final = re.compile(r"\S(  +|\t)\S")
_KEPT: Final = frozenset("\n\t")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


class Shown(Struct, frozen=True, kw_only=True):
    """A value to be read.

    Attributes:
        text: As much of it as is shown; empty if it is only named.
        note: What there is to know beside it: that it was cut, or its size and digest.
    """

    text: str
    note: str = ""

    @property
    def is_short(self) -> bool:
        """Whether it needs no frame of its own."""
        return 0 < len(self.text) <= _BRIEF_CHARACTERS and "\n" not in self.text

    @property
    def is_table(self) -> bool:
        """Whether its lines are set under one another, and to break them would undo it."""
        return sum(_COLUMNS.search(one) is not None for one in self.text.splitlines()) > 1


def value_of(value: object, most: int = TEXT_CHARACTERS, *, exactly: bool = False) -> Shown:
    """A value of a plan, to be read; one that was not fetched is named.

    Args:
        most: How many characters are shown, at most.
        exactly: Whether an object is shown as JSON, and not as the lines that it is read more easily as.
    """
    if isinstance(value, Payload):
        if value.blob is not None:
            return Shown(text="", note=f"{value.blob.size_bytes:,} bytes, SHA-256 {value.blob.sha256[:12]}")
        value = value.value
    text = value if isinstance(value, str) else (not exactly and _fields(value)) or json.dumps(value, **_AS_JSON)
    shown = plain(text, most)
    note = f"The first {most:,} of {len(text):,} characters." if len(text) > most else ""
    return Shown(text=shown, note=note)


def _fields(value: object) -> str:
    """An object that holds no others, as lines ``name: value``. Empty of anything else."""
    if not isinstance(value, dict) or any(isinstance(one, dict | list) for one in value.values()):
        return ""
    return "\n".join(f"{line(str(name))}: {_field(one)}" for name, one in value.items())


def _field(value: object) -> str:
    """A text of several lines stands below its name, indented: none of it passes for another field."""
    text = value if isinstance(value, str) else json.dumps(value, **_AS_JSON)
    lines = text.splitlines()
    return "".join(f"\n  {one}" for one in lines) if len(lines) > 1 else "".join(lines)


def plain(text: str, most: int = TEXT_CHARACTERS) -> str:
    """*text* without what hides or reorders it, and cut to *most* characters."""
    kept = "".join(
        char for char in text[:most].replace("\r\n", "\n") if char in _KEPT or unicodedata.category(char) not in _HIDDEN
    )
    return f"{kept}…" if len(text) > most else kept


def line(text: str) -> str:
    """*text* on one line."""
    return " ".join(plain(text, _LINE_CHARACTERS).split())


def cut(text: str, most: int) -> str:
    """*text* on *most* characters at most."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"


def moment(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def distance(at: datetime, now: datetime) -> str:
    """How far *at* is from *now*: ``in 3 h``, ``2 min ago``."""
    seconds = (at - now).total_seconds()
    if abs(seconds) < 60:
        return "now" if seconds > 0 else "just now"
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"


def called(directory: Directory, reviewer: str) -> str:
    """A reviewer as people say it."""
    kind, _, name = reviewer.partition(":")
    match kind:
        case "person":
            return line(directory.called(name))
        case "role":
            return "an operator" if name == "operator" else f"the {line(name)}"
        case "team":
            return f"the team {line(name)}"
        case "service":
            return f"the service {line(name)}"
    found = directory.people_of(reviewer)
    return line(directory.called(found[0]) if found else reviewer)


def who(directory: Directory, person: str) -> str:
    """Whoever has done something, as people say it: a person, a service, or planmesh itself."""
    if person.startswith(SERVICE):
        return called(directory, person)
    return line(directory.called(person))


def with_people(directory: Directory, reviewer: str) -> str:
    """A reviewer, and who that is."""
    said = called(directory, reviewer)
    people = directory.people_of(reviewer)
    if not reviewer.startswith(("role:", "team:")) or not people:
        return said
    named = ", ".join(line(directory.called(one)) for one in people[:_MOST_PEOPLE])
    more = len(people) - _MOST_PEOPLE
    return f"{said} ({named}{f' and {more} more' if more > 0 else ''})"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
