"""What stands behind a ``=`` to a value: a text, a number, a list, an object, or an expression.

A list and an object are values of their own, so that the texts in them hold expressions as any text does:
``{ to: "Dear {name}", copies: count(names) }``. Where one of them is only a part of an expression
(``names + ["Ada"]``), the whole is an expression, in which a text is plain.
"""

import re
from collections.abc import Iterator
from typing import Final, NoReturn

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.layout import Layout
from planmesh.planner.language.source import Span
from planmesh.planner.language.tree import Constant, Entries, Entry, Formula, Items, Text, Value
from planmesh.schemas import templates
from planmesh.schemas.expressions import (
    KEYWORDS,
    MAX_EXPRESSION_CHARACTERS,
    Expression,
    ExpressionError,
    evaluate,
    parse,
)

MAX_DEPTH: Final = 24
"""Lists and objects inside one another: a document nests 31 levels, and some of them are the plan's own."""
MAX_VALUES: Final = 100_000
"""Of a script, items and entries included."""

_SPACE: Final = re.compile(r"[ \t\r]*")
_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACKET_OR_COMMA: Final = re.compile(r"[\[\](){},]")
_SPACES: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[ \t\r\n]+')
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')
_ESCAPES: Final = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class Unreadable(Exception):
    """A value that cannot be read. What is wrong with it has been added to the findings."""


class ValueReader:
    """Reads the values of one script."""

    def __init__(self, layout: Layout, findings: Findings) -> None:
        self._clean = layout.clean
        self._masked = layout.masked
        self._findings = findings
        self._left = MAX_VALUES

    def value(self, span: Span) -> Value:
        """The value that stands in *span*, and nothing else. Raises: Unreadable."""
        start, end = self.trimmed(span)
        found, stop = self._value(start, end, 0)
        if stop < end:
            self._fail("bad_expression", f"expected nothing more, found {self._clean[stop]}", stop)
        return found

    def formula(self, span: Span) -> Formula:
        """The expression that stands in *span*. Raises: Unreadable."""
        start, end = self.trimmed(span)
        return self._formula(start, end)

    def label(self, span: Span) -> str:
        """The text that stands in *span*, in quotes, as it is. Raises: Unreadable."""
        return self._unescaped(span)

    def written(self, value: Value) -> str:
        """What stands there, without comments."""
        return self._clean[value.span.start : value.span.end]

    def place(self, text: Text, position: int) -> int:
        """Where in the source the character number *position* of a text's template is."""
        for piece, at in _pieces(self._clean[text.span.start : text.span.end]):
            if position < len(piece):
                return text.span.start + at + (position if len(piece) > 1 else 0)
            position -= len(piece)
        return text.span.end - 1

    def trimmed(self, span: Span) -> Span:
        """*span* without the space around it."""
        part = self._masked[span.start : span.end]
        start = span.start + len(part) - len(part.lstrip(" \t\r"))
        return Span(start, max(start, span.start + len(part.rstrip(" \t\r"))))

    # --- one value -----------------------------------------------------------------------------------------

    def _value(self, at: int, end: int, depth: int) -> tuple[Value, int]:
        """Read the value at *at*, where there is no space; return it, and where what follows it begins."""
        self._left -= 1
        if self._left < 0:
            self._fail("too_large", f"a script has at most {MAX_VALUES:,} values", at, "pass data as inputs")
        first = self._masked[at : at + 1] if at < end else ""
        if first == '"':
            stop = self._masked.find('"', at + 1, end) + 1
            if not stop:
                raise Unreadable  # it has no closing quotes, and the layout has said so
            after = self._after(stop, end)
            if self._is_over(after, end):
                return self._text(Span(at, stop)), after
        elif first and first in "[{":
            if depth >= MAX_DEPTH:
                self._fail("too_deep", f"lists and objects are nested at most {MAX_DEPTH} deep", at)
            inner = self._items(at, end, depth) if first == "[" else self._entries(at, end, depth)
            if inner is not None:
                after = self._after(inner.span.end, end)
                if self._is_over(after, end):
                    return inner, after
        stop = self._end_of_expression(at, end)
        start, trimmed = self.trimmed(Span(at, stop))
        return self._leaf(start, trimmed), stop

    def _after(self, at: int, end: int) -> int:
        space = _SPACE.match(self._masked, at, end)
        return space.end() if space is not None else at

    def _is_over(self, at: int, end: int) -> bool:
        return at >= end or self._masked[at] in ",]}"

    def _items(self, at: int, end: int, depth: int) -> Items | None:
        """The list that begins at *at*; None if it is no list of values, but may be a part of an expression."""
        items: list[Value] = []
        position = self._after(at + 1, end)
        while position < end and self._masked[position] != "]":
            item, position = self._value(position, end, depth + 1)
            items.append(item)
            if position < end and self._masked[position] == ",":
                position = self._after(position + 1, end)
            elif position >= end or self._masked[position] != "]":
                return None
        return Items(Span(at, position + 1), tuple(items)) if position < end else None

    def _entries(self, at: int, end: int, depth: int) -> Entries | None:
        entries: list[Entry] = []
        known: set[str] = set()
        position = self._after(at + 1, end)
        while position < end and self._masked[position] != "}":
            key, key_span = self._key(position, end)
            if key in known:
                self._fail("duplicate_field", f"the object has {key} twice", key_span.start)
            known.add(key)
            position = self._after(key_span.end, end)
            if position >= end or self._masked[position] != ":":
                said = f"expected : after the key {key}, found {self._found(position)}"
                self._fail("bad_expression", said, position)
            value, position = self._value(self._after(position + 1, end), end, depth + 1)
            entries.append(Entry(key_span, key, value))
            if position < end and self._masked[position] == ",":
                position = self._after(position + 1, end)
            elif position >= end or self._masked[position] != "}":
                return None
        return Entries(Span(at, position + 1), tuple(entries)) if position < end else None

    def _key(self, at: int, end: int) -> tuple[str, Span]:
        if self._masked[at] == '"':
            stop = self._masked.find('"', at + 1, end) + 1 or end
            return self._unescaped(Span(at, stop)), Span(at, stop)
        word = _KEY.match(self._masked, at, end)
        if word is None:
            self._fail("bad_expression", f"expected a key, found {self._found(at)}", at, "a key is a name or a text")
        return word[0], Span(at, word.end())

    def _end_of_expression(self, at: int, end: int) -> int:
        depth = 0
        # Past the limit, no end can make it one.
        for found in _BRACKET_OR_COMMA.finditer(self._masked, at, min(end, at + MAX_EXPRESSION_CHARACTERS + 1)):
            bracket = found[0]
            if bracket in "[({":
                depth += 1
            elif depth == 0:
                if bracket != ")":
                    return found.start()
            elif bracket != ",":
                depth -= 1
        return end

    def _leaf(self, start: int, end: int) -> Value:
        text = self._masked[start:end]
        if _INTEGER.fullmatch(text):
            return Constant(Span(start, end), int(text))
        if text in _WORDS:
            return Constant(Span(start, end), _WORDS[text])
        if _NUMBER.fullmatch(text):
            number = evaluate(self._parsed(text, start), {})
            assert isinstance(number, int | float)  # the pattern is that of a number
            return Constant(Span(start, end), number)
        return self._formula(start, end)

    def _formula(self, start: int, end: int) -> Formula:
        if start >= end:
            self._fail("bad_expression", f"expected a value, found {self._found(start)}", start)
        text, span = self._clean[start:end], Span(start, end)
        if (
            end - start <= MAX_EXPRESSION_CHARACTERS
            and _PATH.fullmatch(text)
            and (root := text.partition(".")[0]) not in KEYWORDS
        ):
            names = frozenset((root,))
            return Formula(span, text, names, names)
        expression = self._parsed(text, start)
        self._look_for_braces(text, start)
        return Formula(span, in_one_line(text), expression.names, expression.required)

    def _parsed(self, text: str, start: int) -> Expression:
        if (long := text.find('"""')) >= 0:
            hint = "give it a name with `let` first"
            self._fail("bad_expression", 'a text in """ stands by itself, not in an expression', start + long, hint)
        try:
            return parse(text)
        except ExpressionError as error:
            self._fail("bad_expression", error.message, start + error.position, error.hint)

    def _look_for_braces(self, text: str, start: int) -> None:
        """Warn of ``"Dear {name}" + x``: whoever writes it expects the name."""
        for found in _QUOTED.finditer(text) if "{" in text and '"' in text else ():
            if "{" in found[0] and "}" in found[0]:
                said = "within an expression a text is plain, and its braces stand for themselves"
                hint = 'write the whole as one text, as in "{greeting}, {name}"'
                self._findings.advise("braces_in_expression", said, start + found.start(), hint)

    # --- texts ---------------------------------------------------------------------------------------------

    def _text(self, span: Span) -> Text:
        template = self._unescaped(span)
        if "{" not in template and "}" not in template:
            return Text(span, template)
        try:
            read = templates.compile_template(template)
        except ExpressionError:
            text = Text(span, template)
            for error in templates.problems(template):
                at = self.place(text, error.position)
                self._findings.add("bad_expression", error.message, at, error.hint)
            raise Unreadable from None
        return Text(span, template, read.names, read.required)

    def _unescaped(self, span: Span) -> str:
        raw = self._clean[span.start : span.end]
        if "\\" not in raw and not raw.startswith('"""'):
            return raw[1:-1]
        parts: list[str] = []
        for piece, at in _pieces(raw):
            parts.append(piece)
            if raw[at] == "\\" and len(piece) == 2:
                shown = piece[1] if piece[1].isprintable() else ascii(piece[1])[1:-1]
                hint = r"there are \n \t \" and \\"
                self._fail("bad_text", f"\\{shown} has no meaning in a text", span.start + at, hint)
        return "".join(parts)

    def _found(self, at: int) -> str:
        char = self._clean[at : at + 1]
        return "the end" if char in ("", "\n", "\r") else char if char.isprintable() else ascii(char)[1:-1]

    def _fail(self, code: str, message: str, at: int, hint: str = "") -> NoReturn:
        self._findings.add(code, message, at, hint)
        raise Unreadable


def in_one_line(expression: str) -> str:
    """*expression* with one space for each white space outside of texts."""
    return _SPACES.sub(lambda found: found[0] if found[0][0] == '"' else " ", expression)


def _pieces(raw: str) -> Iterator[tuple[str, int]]:
    """What a text in quotes says, piece by piece, each with its place in *raw*."""
    if not raw.startswith('"""'):
        yield from _resolved(raw, 1, len(raw) - 1)
        return
    lines = _block(raw)
    if lines is None:
        yield from _resolved(raw, 3, max(3, len(raw) - 3))
        return
    if not raw[lines[-1].start : lines[-1].end].strip(" \t"):
        lines.pop()
    for number, line in enumerate(lines):
        if number:
            yield "\n", line.start - 1
        yield from _resolved(raw, line.start, line.end)


def block_lines(raw: str) -> list[str] | None:
    """The lines of a text in triple quotes that begins with a line break, less what all are indented by.

    The last one has the closing quotes. None, if *raw* is another text.
    """
    lines = _block(raw) if raw.startswith('"""') else None
    if lines is None:
        return None
    return [
        *(raw[line.start : line.end] for line in lines[:-1]),
        f'{raw[lines[-1].start : lines[-1].end].rstrip(" ")}"""',
    ]


def _block(raw: str) -> list[Span] | None:
    """Where the lines of such a text are; the last one is the one that has the closing quotes."""
    end = max(3, len(raw) - 3)
    first = raw.find("\n", 3, end)
    if first < 0 or raw[3:first].strip(" \t\r"):
        return None
    lines: list[Span] = []
    begin = first + 1
    while (stop := raw.find("\n", begin, end)) >= 0:
        lines.append(Span(begin, stop - 1 if stop > begin and raw[stop - 1] == "\r" else stop))
        begin = stop + 1
    lines.append(Span(begin, end))
    full = [line for line in lines[:-1] if raw[line.start : line.end].strip(" \t")]
    common = min(_indent(raw, *line) for line in (*full, lines[-1]))
    return [Span(min(line.start + common, line.end), line.end) for line in lines]


def _indent(raw: str, start: int, end: int) -> int:
    return end - start - len(raw[start:end].lstrip(" \t"))


def _resolved(raw: str, start: int, end: int) -> Iterator[tuple[str, int]]:
    """The characters of a part of *raw*, with escapes resolved; one that means nothing comes as it is."""
    while (escape := raw.find("\\", start, end)) >= 0:
        if escape > start:
            yield raw[start:escape], start
        letter = raw[escape + 1 : escape + 2]
        yield _ESCAPES.get(letter, "\\" + letter), escape
        start = escape + 2
    if start < end:
        yield raw[start:end], start
