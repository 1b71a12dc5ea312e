"""A text to its logical lines: what belongs together, how deep it is indented, and what is a comment.

A logical line ends where the line does, outside of brackets and of texts in ``\"\"\"``. The text is given in two more
forms, as long as the source, so that a place in one is the same place in the others: *clean* has spaces for comments
and for the line breaks inside of brackets; *masked* has nothing but ``_`` inside of texts as well, so that whoever
looks for an arrow or a comma needs to know nothing of texts, and a line break in it ends a logical line.
"""

import re
from dataclasses import dataclass
from typing import Final

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.source import Source, Span

_TAB: Final = 4  # columns, where tabs and spaces are mixed, which is an error


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment, from its ``--`` or ``#`` to the end of its line.

    Attributes:
        indent: Columns before it; -1 if something else is on its line.
    """

    span: Span
    text: str
    indent: int


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line.

    Attributes:
        span: From its first character to its last, without a comment behind it.
        indent: Columns before it.
    """

    span: Span
    indent: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The logical lines of a source. See the module for *clean* and *masked*."""

    source: Source
    clean: str
    masked: str
    lines: tuple[Line, ...]
    comments: tuple[Comment, ...]


_MARK: Final = re.compile(r'"""|"|--|#|[(\[{]|[)\]}]|\n')
_TEXT: Final = re.compile(r'"(?:[^"\\\n]++|\\[^\n])*+("?)')
_LONG_TEXT: Final = re.compile(r'"""(?:[^"\\]++|\\.|"(?!""))*+((?:""")?)', re.DOTALL)
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
# No expression goes on like this: whatever bracket is open before such a line has been forgotten.
_BEGINS: Final = re.compile(
    r"[ \t]*(?:->|(?:do|plan|agent|ask|gate|decide|check|emit)[ \t]+\"|(?:let[ \t]+)?[A-Za-z_]\w*[ \t]*=(?!=)"
    r"|each[ \t]+[A-Za-z_]\w*[ \t]+in\b|run[ \t]+[A-Za-z_]\w*[ \t]*(?:\n|$)|otherwise[ \t]*->|on[ \t]+\w+[ \t]*:)"
)


def read_layout(source: Source, findings: Findings) -> Layout:
    """The logical lines of *source*. Takes time in proportion to its length."""
    scanner = _Scanner(source, findings)
    scanner.scan()
    masked = "".join(scanner.masked)
    lines = _lines(masked, findings)
    return Layout(source, "".join(scanner.clean), masked, tuple(lines), tuple(scanner.comments))


class _Scanner:
    def __init__(self, source: Source, findings: Findings) -> None:
        self.clean: list[str] = []
        self.masked: list[str] = []
        self.comments: list[Comment] = []
        self._text = source.text
        self._findings = findings
        self._open: list[int] = []  # where brackets are that have not been closed
        self._done = 0  # up to here, the text is in `clean` and `masked`

    def scan(self) -> None:
        text, position = self._text, 0
        while (found := _MARK.search(text, position)) is not None:
            mark, at = found[0], found.start()
            position = found.end()
            if mark[0] == '"':
                position = self._text_at(at, mark)
            elif mark in "([{":
                self._open.append(at)
            elif mark in ")]}":
                if self._open:
                    self._open.pop()
            elif mark == "\n":
                self._line_break(at)
            else:
                position = self._comment_at(at)
        if self._open:
            self._unclosed()
        self._copy(len(text))

    def _copy(self, until: int) -> None:
        part = self._text[self._done : until]
        self.clean.append(part)
        self.masked.append(part)
        self._done = until

    def _replace(self, until: int, clean: str, masked: str) -> None:
        self.clean.append(clean)
        self.masked.append(masked)
        self._done = until

    def _text_at(self, at: int, quotes: str) -> int:
        found = (_TEXT if quotes == '"' else _LONG_TEXT).match(self._text, at)
        assert found is not None  # it begins with the quotes that were found
        end = found.end()
        if not found[1]:
            if quotes == '"':
                hint = 'a text of several lines stands between """ and """'
                self._findings.add("unclosed_text", "this text has no closing quotes on its line", at, hint)
            else:
                self._findings.add("unclosed_text", "this text is never closed", at, 'put """ where it ends')
        self._copy(at)
        self._replace(end, found[0], f'"{"_" * (end - at - 2)}"' if end - at > 1 else '"')
        return end

    def _comment_at(self, at: int) -> int:
        end = self._text.find("\n", at)
        end = len(self._text) if end < 0 else end
        before = self._text[self._text.rfind("\n", 0, at) + 1 : at]
        indent = -1 if before.strip() else _columns(before)
        self.comments.append(Comment(Span(at, end), self._text[at:end].rstrip(), indent))
        self._copy(at)
        self._replace(end, " " * (end - at), " " * (end - at))
        return end

    def _line_break(self, at: int) -> None:
        if not self._open:
            return
        if _BEGINS.match(self._text, at + 1) is not None:
            self._unclosed()
            return
        self._copy(at)
        self._replace(at + 1, " ", " ")

    def _unclosed(self) -> None:
        at = self._open[-1]
        bracket = self._text[at]
        hint = f"put a {_CLOSING[bracket]} where it ends"
        self._findings.add("unclosed_bracket", f"this {bracket} is never closed", at, hint)
        self._open.clear()


def _lines(masked: str, findings: Findings) -> list[Line]:
    lines: list[Line] = []
    used = ""
    end = -1
    for text in masked.split("\n"):
        begin, end = end + 1, end + 1 + len(text)
        content = text.strip(" \t\r")
        if not content:
            continue
        indent = text[: text.index(content[0])]
        used = used or indent[:1]
        if indent.strip(used or None):
            names = {" ": "spaces", "\t": "tabs"}
            other = names.get(indent.strip(used)[0], "something else")
            said = f"this line is indented with {other}, and those above with {names.get(used, 'something else')}"
            findings.add("mixed_indentation", said, begin, "indent all lines in the same way")
        start = begin + len(indent)
        lines.append(Line(Span(start, start + len(content)), _columns(indent)))
    return lines


def _columns(indent: str) -> int:
    return len(indent) if len(set(indent)) <= 1 else len(indent.expandtabs(_TAB))
