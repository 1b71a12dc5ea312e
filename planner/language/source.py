"""The text of a script, and places in it."""

from bisect import bisect_right
from typing import Final, NamedTuple

MAX_SCRIPT_BYTES: Final = 1_000_000
_SHOWN: Final = 80  # characters of a line
_BEFORE: Final = 40  # of them, before the caret


class Span(NamedTuple):
    """A part of the text: where it starts, and where it ends, in characters from 0."""

    start: int
    end: int


class Place(NamedTuple):
    """A line and a column, from 1. A tab is one column."""

    line: int
    column: int


class Source:
    """A text with its lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0]
        start = text.find("\n")
        while start >= 0:
            self._starts.append(start + 1)
            start = text.find("\n", start + 1)

    def place(self, at: int) -> Place:
        """Where the character number *at* is."""
        line = bisect_right(self._starts, at)
        return Place(line, at - self._starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """The line with a number, without its line break; empty where there is none."""
        if not 0 < number <= len(self._starts):
            return ""
        end = self._starts[number] - 1 if number < len(self._starts) else len(self.text)
        return self.text[self._starts[number - 1] : end].rstrip("\r")


def excerpt(line: str, column: int) -> tuple[str, str]:
    """A line as it is shown below an error, and the caret that stands under its *column*.

    Of a long line, the part around the column. What has no form of its own (a tab, a control character) is a space.
    """
    start = max(0, column - 1 - _BEFORE) if len(line) > _SHOWN else 0
    end = start + _SHOWN
    before, after = "…" if start else "", "…" if end < len(line) else ""
    text = "".join(char if char.isprintable() else " " for char in line[start:end])
    return f"{before}{text}{after}", f"{' ' * (len(before) + column - 1 - start)}^"
