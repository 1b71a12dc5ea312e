"""What is wrong with a script, and where: the rules of the language, and the list that gathers what was found."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Final

from planmesh.planner.language.source import Source, Span
from planmesh.schemas.goals import Problem

RULES: Final[Mapping[str, str]] = {
    # The text
    "too_large": "A script is no larger than 1 MB, and what `let` puts in is no larger than a field may be.",
    "mixed_indentation": "All lines are indented with spaces, or all of them with tabs.",
    "bad_indentation": "The lines of a block are indented alike, and deeper than what they belong to.",
    "unclosed_text": "A text has closing quotes.",
    "unclosed_bracket": "A bracket is closed.",
    "too_deep": "Blocks and values are nested no deeper than the limits say.",
    "syntax": "A line is a step, a field, a binding, a branch, or a part of one of them.",
    "unknown_keyword": "A step begins with one of the words that there are.",
    "misplaced": "A line stands where it belongs.",
    "empty": "A script has at least one step.",
    # Names
    "bad_name": "A step's name is made of its label, is its own, and does not end as the items of `each` do.",
    "duplicate_name": "Two steps have two names.",
    "duplicate_label": "Two branches have two labels.",
    "duplicate_field": "A step has each field once.",
    "name_taken": "A name stands for one thing: an input, a binding, a `let` or the item of an `each`.",
    "unknown_name": "A name that is read is bound above, or is an input.",
    "read_before_bound": "A binding is read below the step that gives it.",
    "other_branch": "A binding is not read where another branch was taken.",
    "maybe_unbound": "A binding that only some branches give is read with `??`.",
    "unknown_step": "A step that is named in `after` exists.",
    "unknown_type": "An input has one of the types that there are.",
    # Fields
    "unknown_field": "A step has the fields of its kind.",
    "missing_field": "A field that a step cannot do without is there.",
    "wrong_value": "A field has a value of its kind.",
    "bad_text": "A text has only escapes that mean something.",
    "bad_expression": "An expression can be read.",
    # Order
    "unknown_branch": "A branch that is named exists, below and within reach.",
    "backward": "Control goes forward only.",
    "unused_branch": "Every branch can be taken.",
    "unreachable": "Every step can be reached.",
    "no_retry": "A check that tries a step again reads the output of just that one.",
    "flat_each": "The body of an `each` is indented.",
    # Advice
    "braces_in_expression": "A text within an expression holds no expressions of its own.",
    "name_like_binding": "A name that is taken for an input is not nearly one that is bound.",
}
"""Every code that the language gives, and the rule that it stands for. Those of the planner come beside them."""

_HINTS: Final[Mapping[str, str]] = {
    "too_large": "pass data as inputs, or split the plan",
    "too_deep": "pass it as an input, or let a step put it together",
    "bad_indentation": "indent the lines of a block alike",
    "misplaced": "move it to where it belongs, or leave it out",
    "duplicate_field": "leave one of them out",
    "name_taken": "choose another name",
    "bad_name": "give it another one",
}
"""What to do where nothing more is known than the rule."""

MOST: Final = 200  # that are kept: whoever has more mends the first ones first
_COMPARISONS: Final = 20_000  # of names, to find near ones, for one script
_LONGEST_NAME: Final = 60  # that is compared, or quoted


class Findings:
    """Gathers problems with their places."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._wrong: list[tuple[int, Problem]] = []
        self._advice: list[tuple[int, Problem]] = []
        self._lines: set[int] = set()
        self._left = _COMPARISONS

    def __bool__(self) -> bool:
        return bool(self._wrong)

    def __len__(self) -> int:
        return len(self._wrong)

    def add(self, code: str, message: str, at: Span | int, hint: str = "") -> None:
        """Add something that is wrong.

        Args:
            code: One of `RULES`.
            message: What was expected, and what was found.
            at: Where, in characters from 0.
            hint: What to do about it.
        """
        self._note(self._wrong, code, message, at, hint)

    def advise(self, code: str, message: str, at: Span | int, hint: str = "") -> None:
        """Add something that could be better. Arguments: as for `add`."""
        self._note(self._advice, code, message, at, hint)

    def _note(self, to: list[tuple[int, Problem]], code: str, message: str, at: Span | int, hint: str) -> None:
        if len(to) < MOST:
            start = at if isinstance(at, int) else at.start
            line, column = self.source.place(start)
            hint = hint or _HINTS.get(code, "")
            to.append((start, Problem(code=code, message=message, hint=hint, line=line, column=column)))
            if to is self._wrong:
                self._lines.add(line)

    @property
    def full(self) -> bool:
        """Whether there are so many that looking for more is of no use."""
        return len(self._wrong) >= MOST

    def has_line_of(self, at: int) -> bool:
        """Whether something is wrong already in the line of the character number *at*."""
        return self.source.place(at).line in self._lines

    def nearest(self, name: str, known: Collection[str], instead: str = "") -> str:
        """A hint with the *known* name that is most like *name*; *instead*, if none is."""
        near = self.near(name, known)
        return f"did you mean {near}?" if near else instead

    def near(self, name: str, known: Collection[str]) -> str:
        """The *known* name that is most like *name*, or nothing."""
        if len(name) > _LONGEST_NAME:
            return ""
        # Comparing is slow, and a hostile script has ten thousand names that nobody knows.
        self._left -= len(known)
        return next(iter(get_close_matches(name, known, n=1)), "") if self._left >= 0 else ""

    def problems(self) -> list[Problem]:
        """What is wrong, in the order of the text."""
        return [problem for _, problem in sorted(self._wrong, key=lambda one: one[0])]

    def advice(self) -> list[Problem]:
        """What could be better, in the order of the text."""
        return [problem for _, problem in sorted(self._advice, key=lambda one: one[0])]


def quoted(text: str) -> str:
    """*text* as a message may show it: short, and with whatever hides or reorders text made visible."""
    return repr(text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…")
