"""What a revision changes, as lines for a terminal: what is added, removed, and changed from what to what. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.text import Text

from planmesh.cli.text import counted, one_line, value
from planmesh.schemas.revision import Change, FieldChange

_VALUE_CHARACTERS: Final = 120
_SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_OF_ADDED: Final = frozenset({"kind", "agent"})  # said in the line of the step itself


def changes(found: Iterable[Change]) -> list[Text]:
    """One line a step, and one for each field that is another."""
    lines: list[Text] = []
    for change in found:
        lines += _change(change)
    return lines or [Text("  Nothing is changed.", style="dim")]


def summary(found: Iterable[Change]) -> str:
    """Such as ``2 added, 1 changed``."""
    kinds = [change.kind for change in found if change.step]
    said = [f"{kinds.count(kind)} {kind}" for kind in ("added", "changed", "removed") if kind in kinds]
    return ", ".join(said) or counted(0, "step")


def _change(change: Change) -> Iterator[Text]:
    sign, style = _SIGNS[change.kind]
    line = Text(f"  {sign} ", style).append(change.step or "(the plan)", "bold")
    fields = {field.field: field for field in change.fields}
    if change.kind == "removed":
        yield line.append(_who({name: field.before for name, field in fields.items()}), "dim")
        return
    if change.kind == "added":
        yield line.append(_who({name: field.after for name, field in fields.items()}), "dim")
    else:
        yield line
    for field in change.fields:
        if change.kind == "changed" or field.field not in _OF_ADDED:
            yield from _field(field, added=change.kind == "added")


def _who(fields: dict[str, Any]) -> str:
    kind, agent = fields.get("kind"), fields.get("agent")
    return f"  {kind}" + (f" by {agent}" if agent else "") if kind else ""


def _field(field: FieldChange, *, added: bool) -> Iterator[Text]:
    for name, before, after in _parts(field.field, field.before, field.after):
        line = Text(f"      {one_line(name, 60)}: ", "dim")
        if not added:
            line.append(_value(before), "red").append(" → ", "dim")
        yield line.append(_value(after), "green")


def _parts(name: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """A field; if it has parts of its own, those of them that are another."""
    if not (isinstance(before, dict | None) and isinstance(after, dict | None)):
        yield name, before, after
        return
    old, new = before or {}, after or {}
    keys = [key for key in dict.fromkeys([*old, *new]) if (key in old, old.get(key)) != (key in new, new.get(key))]
    for key in keys:
        yield f"{name}.{key}", old.get(key), new.get(key)


def _value(what: Any) -> str:
    if what is None:
        return "(none)"
    if isinstance(what, list | tuple) and all(isinstance(one, str) for one in what):
        return one_line(", ".join(what), _VALUE_CHARACTERS) or "(none)"
    return value(what, _VALUE_CHARACTERS) or '""'
