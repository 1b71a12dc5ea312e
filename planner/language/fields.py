"""The fields of a step, one by one: what is left over is a mistake, or an input of an agent."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.scope import Scope
from planmesh.planner.language.tree import Broken, Field, Text, Value
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.templates import compile_template

_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[ ]?(?:ms|s|m|h|d)[ ]?)+")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)[ ]?(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LONGEST_DURATION: Final = 40
_LONGEST_S: Final = 366 * 86_400
MISSING: Final = object()


class Fields:
    """The fields of one step, or of the header."""

    def __init__(self, fields: Iterable[Field], scope: Scope, findings: Findings) -> None:
        self._scope = scope
        self._findings = findings
        self._left: dict[str, Field] = {}
        for one in fields:
            if one.name.text in self._left:
                said = f"there is a field {quoted(one.name.text)} already"
                findings.add("duplicate_field", said, one.name.span, "leave one of them out")
            else:
                self._left[one.name.text] = one

    def take(self, name: str) -> Field | None:
        """The field called *name*, which then is not left over."""
        return self._left.pop(name, None)

    def left(self) -> Mapping[str, Field]:
        """What nobody has taken."""
        return self._left

    def refuse_rest(self, called: str, known: Iterable[str], hints: Mapping[str, str]) -> None:
        """Add a problem for each field that is left over.

        Args:
            called: What the fields would belong to.
            known: The fields that it has.
            hints: For fields of other steps, what to do instead.
        """
        names = sorted(known)
        for name, one in self._left.items():
            hint = hints.get(name) or self._findings.nearest(name, names, f"its fields are {', '.join(names)}")
            self._findings.add("unknown_field", f"{called} has no field {quoted(name)}", one.name.span, hint)
        self._left = {}

    # --- constants -----------------------------------------------------------------------------------------

    def constant(self, value: Value) -> Any:
        """The JSON value that *value* always has; `MISSING` if it has none, which has been said."""
        if isinstance(value, Broken):
            return MISSING
        before = len(self._findings)
        template = self._scope.template(value)
        if len(self._findings) > before:
            return MISSING
        try:
            read = compile_template(template)
            if not read.names:
                return read.render({})
            said = f"this is settled before the plan runs, and {quoted(min(read.names))} is known only then"
            self._findings.add("wrong_value", said, value.span, "write the value itself, or name it with `let`")
        except ExpressionError as error:
            self._findings.add("wrong_value", error.message, value.span, error.hint)
        return MISSING

    def seconds(self, value: Value, *, may_be_none: bool = False) -> float | None:
        """How long a duration like ``"2h"``, ``"1h 30m"`` or a number of seconds is; None if it is none.

        Args:
            may_be_none: Whether it may be no time at all.
        """
        found = self.constant(value)
        if found is MISSING:
            return None
        if isinstance(found, int | float) and not isinstance(found, bool):
            return self._within(float(found), value, may_be_none)
        if isinstance(found, str) and len(found) <= _LONGEST_DURATION and _DURATION.fullmatch(found.strip()):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(found))
            return self._within(seconds, value, may_be_none)
        hint = 'write it like "30s", "10m", "2h", "1d" or "1h 30m"'
        self._findings.add("wrong_value", "expected a duration", value.span, hint)
        return None

    def _within(self, seconds: float, value: Value, may_be_none: bool) -> float | None:
        if (seconds > 0 or (may_be_none and seconds == 0)) and seconds <= _LONGEST_S:
            return seconds
        least = "" if may_be_none else "more than 0 s, and "
        said = f"expected a duration of {least}at most {_LONGEST_S // 86_400} days"
        self._findings.add("wrong_value", said, value.span, 'write it like "30s", "10m", "2h", "1d" or "1h 30m"')
        return None

    def names(self, value: Value) -> list[str] | None:
        """The texts of a list, or the one text that it is; None if it is neither."""
        found = self.constant(value)
        if found is MISSING:
            return None
        listed = found if isinstance(found, list) else [found]
        if all(isinstance(one, str) for one in listed):
            return listed
        self._findings.add("wrong_value", "expected a text, or a list of texts", value.span)
        return None

    def text(self, value: Value) -> str | None:
        """The text that *value* always is; None if it is none."""
        if isinstance(value, Text) and not value.names and "{" not in value.template:
            return value.template
        found = self.constant(value)
        if found is MISSING or isinstance(found, str):
            return found if isinstance(found, str) else None
        self._findings.add("wrong_value", "expected a text in double quotes", value.span)
        return None
