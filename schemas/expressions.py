"""Expressions: what a plan may compute from the results of its steps, and nothing more.

    decision.value == "approve" and count(report.sources) >= 3
    review.value ?? "none"
    join(map(findings, title), ", ")

An expression reads names (the bindings of a plan), and gives a JSON value. It cannot call Python, read an
attribute, loop or recurse; its length, its depth, its work and what it makes are bounded, so that a plan written
by a model or by a stranger may be evaluated inside a service.

From the loosest to the tightest binding:

==========================================  =========================================================
``or``, then ``and``, then ``not``          booleans only; the right side is read only if it matters
``== != < <= > >= in``, ``not in``          one a level: ``a < b < c`` is an error
``+ -``, then ``* /``, then unary ``-``     ``+`` also joins two texts or two lists
``??``                                      the right side where the left is null or missing
``.field``, ``[i]``                         into objects; into lists, texts (from the end if negative) and objects
==========================================  =========================================================

``??`` binds tighter than arithmetic because its left side must be a path, the only thing that can be missing:
``a ?? b == c`` reads ``(a ?? b) == c``, and ``total ?? 0 + 1`` reads ``(total ?? 0) + 1``. Missing anywhere along
the path counts: ``a.b.c ?? d`` is ``d`` if there is no ``a`` at all, or if ``a.b`` is null.

``==`` between two kinds of value is false, ``<`` is an error. A boolean is not a number. Integers have 64 bits;
``/`` gives an integer where two integers divide evenly. Nothing is ever converted silently. A string literal is
plain text: a ``{`` in it means nothing (strings of a plan that hold ``{expression}`` are `planmesh.schemas.templates`).

Errors name kinds and fields, never values: a value may be a secret.
"""

import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_letters, digits, hexdigits
from typing import Any, Final, NamedTuple, NoReturn

from planmesh.schemas.values import (
    ABSENT,
    ARITHMETIC,
    FUNCTIONS,
    MAX_INTEGER,
    MAX_WORK,
    MIN_INTEGER,
    NUMBERS,
    SIMPLE,
    Apply,
    Arithmetic,
    ExpressionError,
    NeedsBlob,
    Unloaded,
    Work,
    bounded,
    contains,
    counted,
    element,
    kind_of,
    nearest,
    no_element,
    path_text,
    same,
    size_of,
)

__all__ = [
    "KEYWORDS",
    "MAX_EXPRESSION_CHARACTERS",
    "MAX_EXPRESSION_DEPTH",
    "Expression",
    "ExpressionError",
    "NeedsBlob",
    "Unloaded",
    "evaluate",
    "holds",
    "is_name",
    "parse",
    "parse_prefix",
    "unknown_names",
]

MAX_EXPRESSION_CHARACTERS: Final = 1_024
MAX_EXPRESSION_DEPTH: Final = 32
"""Parentheses, brackets, arguments and prefix operators inside one another. Chains (``a + b + …``) are flat."""

Names = Mapping[str, object]
Path = tuple[str | int, ...]
_Run = Callable[[Names, Work], object]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Expression:
    """A parsed expression: a value, equal to every other expression of the same text.

    Attributes:
        text: The source, without the white space around it.
        names: Every name that it reads.
        required: The names that it reads at least once without a ``??`` to fall back on.
        paths: What it reads, each as far as it is constant: ``("report", "items", 0)``.
        path: If it is nothing but one constant path, that path.
    """

    text: str
    names: frozenset[str]
    required: frozenset[str]
    paths: frozenset[Path]
    path: Path | None
    _reads: tuple["_Read", ...]
    _run: _Run

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Expression) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"parse({self.text!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return parse, (self.text,)

    def run(self, names: Names, work: Work) -> object:
        """Return the value, of which the inside is not looked at: there may be something `Unloaded` deep in it.

        Most callers want `evaluate`.

        Args:
            names: What may be read.
            work: One number, what is left of the budget; the evaluation takes its part off.
        """
        try:
            return self._run(names, work)
        except ExpressionError as error:
            error.text = self.text
            raise


def parse(text: str) -> Expression:
    """Read *text* as one expression. What was read before is remembered.

    Raises:
        ExpressionError: It is too long, too deep, or not an expression; positions count in *text*.
    """
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionError(
            "too_long",
            f"an expression has at most {MAX_EXPRESSION_CHARACTERS:,} characters, this one {len(text):,}",
            MAX_EXPRESSION_CHARACTERS,
            _SHORTEN,
            text,
        )
    return _parse(text)


@lru_cache(maxsize=2_048)
def _parse(text: str) -> Expression:
    parser = _Parser(text, 0)
    expression = parser.whole()
    if parser.kind is not _END:
        hint = "values have no methods: functions stand before them, as in upper(name)" if parser.kind == "(" else ""
        parser.fail(
            "unexpected",
            f"expected an operator or the end, found {parser.found()}",
            hint or _after_value(parser.kind),
        )
    return expression


def parse_prefix(text: str, start: int = 0) -> tuple[Expression, int]:
    """Read one expression at *start* and as far as it goes, as in ``when ready == true -> "Done"``.

    Returns:
        The expression, and where in *text* it ends.

    Raises:
        ExpressionError: There is no expression there; positions count in *text*.
    """
    parser = _Parser(text, start)
    expression = parser.whole()
    return expression, parser.last


def evaluate(expression: Expression, names: Names) -> object:
    """Return the value of *expression*: a JSON value (a tuple among the names passes as a list).

    What comes from *names* is not copied.

    Raises:
        ExpressionError: It has no value, or breaks a limit.
        NeedsBlob: It depends on something that is `Unloaded`.
    """
    value = expression.run(names, [MAX_WORK])
    if type(value) not in SIMPLE:
        try:
            size_of(value)
        except ExpressionError as error:
            error.text = expression.text
            raise
    return value


def holds(expression: Expression, names: Names) -> bool:
    """Return whether the condition *expression* is true.

    Raises:
        ExpressionError: As for `evaluate`, or its value is not a boolean.
        NeedsBlob: It depends on something that is `Unloaded`.
    """
    value = expression.run(names, [MAX_WORK])
    if value is True or value is False:
        return value
    raise ExpressionError(
        "not_boolean",
        f"a condition is true or false, and this is {kind_of(value)}",
        0,
        "compare it with something, as in x == 1 or count(x) > 0",
        expression.text,
    )


def unknown_names(expression: Expression, known: Collection[str]) -> list[ExpressionError]:
    """Return an error for each name that *expression* reads and that is not among *known*, where it stands first."""
    unknown = {read.path[0]: read.position for read in reversed(expression._reads) if read.path[0] not in known}
    in_order = sorted(unknown, key=lambda name: unknown[name])
    return [_unknown_name(name, known, unknown[name], expression.text) for name in in_order]


def reads_of(expression: Expression) -> list[tuple[str, int]]:
    """Return the names that *expression* reads, each as often as it does, with the position in its text."""
    return [(read.path[0], read.position) for read in expression._reads]


def is_name(text: str) -> bool:
    """Return whether *text* can be a name in an expression: letters, digits and _, no digit first, no keyword."""
    return text[:1] in _LETTERS and all(character in _WORD for character in text) and text not in KEYWORDS


# --- reading ----------------------------------------------------------------------------------------------------

KEYWORDS: Final = frozenset({"and", "or", "not", "in", "true", "false", "null"})
"""Words that cannot be names. They can be fields (``x.in``), and the functions' names can be names as well."""

_SHORTEN: Final = "shorten it, or compute a part of it in a step before"
_SPACE = frozenset(" \t\r\n")
_DIGITS = frozenset(digits)
_LETTERS = frozenset(ascii_letters + "_")
_WORD = _LETTERS | _DIGITS
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_PAIRS = frozenset({"==", "!=", "<=", ">=", "??", "->"})
_SINGLES = frozenset("+-*/<>()[]{},.:")
_SLIPS = {
    "=": "compare with ==",
    "!": "write not, or !=",
    "&": "write and",
    "|": "write or",
    "?": "write ?? for a default",
    "'": "texts are in double quotes",
    "%": "there is no remainder",
    "^": "there are no powers",
}

# Kinds of token; every other kind is the operator or the keyword itself.
_END: Final = "end"
_NAME: Final = "name"
_CONSTANT: Final = "constant"

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _NEGATE, _DEFAULT = range(1, 9)
_POWERS = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in", "not"), _COMPARE),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/", _PRODUCT),
    "??": _DEFAULT,
}


@dataclass(slots=True)
class _Constant:
    value: bool | int | float | str | None
    at: int


@dataclass(slots=True)
class _Step:
    key: "_Node"
    at: int


@dataclass(slots=True)
class _Path:
    root: "str | _Node"
    steps: tuple[_Step, ...]
    at: int


@dataclass(slots=True)
class _Default:
    operands: tuple["_Node", ...]
    at: int


@dataclass(slots=True)
class _List:
    items: tuple["_Node", ...]
    at: int


@dataclass(slots=True)
class _Object:
    entries: tuple[tuple[str, "_Node"], ...]
    at: int


@dataclass(slots=True)
class _Negative:
    operand: "_Node"
    at: int


@dataclass(slots=True)
class _Not:
    operand: "_Node"
    at: int


@dataclass(slots=True)
class _Logic:
    operator: str
    operands: tuple["_Node", ...]
    at: int


@dataclass(slots=True)
class _Compare:
    operator: str
    left: "_Node"
    right: "_Node"
    at: int


@dataclass(slots=True)
class _Operation:
    operator: str
    operand: "_Node"
    at: int


@dataclass(slots=True)
class _Chain:
    first: "_Node"
    rest: tuple[_Operation, ...]
    at: int


@dataclass(slots=True)
class _Call:
    function: str
    arguments: tuple["_Node", ...]
    at: int


_Node = _Constant | _Path | _Default | _List | _Object | _Negative | _Not | _Logic | _Compare | _Chain | _Call


class _Parser:
    """Reads tokens as it needs them, and knows one ahead. Positions in nodes count from the first token."""

    __slots__ = ("at", "depth", "end", "kind", "last", "limit", "start", "text", "value")

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.limit = min(len(text), start + MAX_EXPRESSION_CHARACTERS)
        self.kind = _END
        self.value: bool | int | float | str | None = None
        self.at = self.end = self.last = start
        self.depth = 0
        self.advance()
        self.start = self.at

    def whole(self) -> Expression:
        """Read an expression, and compile it."""
        node = self.expression(_OR)
        reads: list[_Read] = []
        run = _compile(node, reads, False)
        direct = isinstance(node, _Path) and isinstance(node.root, str) and reads[-1].whole
        return Expression(
            text=self.text[self.start : self.last],
            names=frozenset(read.path[0] for read in reads),
            required=frozenset(read.path[0] for read in reads if not read.optional),
            paths=frozenset(read.path for read in reads),
            path=reads[-1].path if direct else None,
            _reads=tuple(reads),
            _run=run,
        )

    def expression(self, floor: int) -> _Node:
        """Read an operand, then every operator that binds at least as tightly as *floor*."""
        left = self.operand()
        while (power := _POWERS.get(self.kind, 0)) >= floor:
            at = self.at - self.start
            if power == _COMPARE:
                left = self.comparison(left, at)
            elif power == _DEFAULT:
                operands = [left]
                while self.kind == "??":
                    if not isinstance(operands[-1], _Path | _Default):
                        self.fail(
                            "default_needs_path",
                            "the left side of ?? is something that may be missing: a name, a field or an element",
                            'put ?? beside the name, as in upper(name ?? "")',
                        )
                    self.advance()
                    operands.append(self.expression(_DEFAULT + 1))
                left = _Default(tuple(operands), at)
            elif power <= _AND:
                word = self.kind
                operands = [left]
                while self.kind == word:
                    self.advance()
                    operands.append(self.expression(power + 1))
                left = _Logic(word, tuple(operands), at)
            else:
                rest: list[_Operation] = []
                while _POWERS.get(self.kind, 0) == power:
                    word, place = self.kind, self.at - self.start
                    self.advance()
                    rest.append(_Operation(word, self.expression(power + 1), place))
                left = _Chain(left, tuple(rest), at)
        return left

    def comparison(self, left: _Node, at: int) -> _Node:
        word = self.kind
        self.advance()
        if word == "not":
            if self.kind != "in":
                self.fail("unexpected", f"expected in after not, found {self.found()}")
            word = "not in"
            self.advance()
        node = _Compare(word, left, self.expression(_COMPARE + 1), at)
        if _POWERS.get(self.kind) == _COMPARE:
            self.fail("chained", "comparisons do not chain", "join two of them with and, or use parentheses")
        return node

    def operand(self) -> _Node:
        """Read what an operator may stand beside: a prefix operator with its operand, or a value with its path."""
        kind, at = self.kind, self.at - self.start
        node: _Node
        if kind is _NAME:
            name = str(self.value)
            self.advance()
            node = self.call(name, at) if self.kind == "(" else _Path(name, (), at)
        elif kind is _CONSTANT:
            node = _Constant(self.constant(), at)
        elif kind == "(":
            self.advance()
            node = self.nested(_OR)
            self.close(")")
        elif kind == "[":
            node = _List(tuple(self.items("]")), at)
        elif kind == "{":
            node = self.entries(at)
        elif kind == "-":
            self.advance()
            # A number with a path is an operand like any other: the minus is of all of it.
            has_path = self.text[self.end : self.limit].lstrip()[:1] in (".", "[")
            if self.kind is _CONSTANT and type(self.value) in NUMBERS and not has_path:
                self.value = -self.value  # type: ignore[operator]
                node = _Constant(self.constant(), at)
            else:
                return _Negative(self.nested(_NEGATE), at)
        elif kind == "not":
            self.advance()
            return _Not(self.nested(_NOT), at)
        else:
            self.fail("expected_value", f"expected a value, found {self.found()}")
        return self.path(node)

    def path(self, node: _Node) -> _Node:
        """Read the fields and the indexes that follow *node*."""
        steps: list[_Step] = []
        while True:
            place = self.at - self.start
            if self.kind == ".":
                self.advance()
                if self.kind is not _NAME and self.word() not in KEYWORDS:
                    self.fail(
                        "expected_field",
                        f"expected a field's name after the dot, found {self.found()}",
                        'a field with another name is written ["like this"]',
                    )
                steps.append(_Step(_Constant(self.word(), place), place))
                self.advance()
            elif self.kind == "[":
                self.advance()
                steps.append(_Step(self.nested(_OR), place))
                self.close("]")
            elif not steps:
                return node
            elif isinstance(node, _Path):
                return _Path(node.root, (*node.steps, *steps), node.at)
            else:
                return _Path(node, tuple(steps), node.at)

    def constant(self) -> bool | int | float | str | None:
        value = self.value
        if type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
            self.fail("bad_number", "an integer has at most 64 bits", "write it as a text, or with a fraction")
        self.advance()
        return value

    def items(self, closing: str) -> list[_Node]:
        """Read values between commas up to *closing*; a comma may follow the last one."""
        self.advance()
        items: list[_Node] = []
        while self.kind != closing:
            items.append(self.nested(_OR))
            if self.kind != ",":
                break
            self.advance()
        self.close(closing, "a comma or ")
        return items

    def entries(self, at: int) -> _Node:
        self.advance()
        entries: dict[str, _Node] = {}
        while self.kind != "}":
            key = self.word()
            if not key and not (self.kind is _CONSTANT and type(self.value) is str):
                self.fail("expected_key", f"expected a key, found {self.found()}", "a key is a name or a text")
            key = key or str(self.value)
            if key in entries:
                self.fail("duplicate_key", "the key is there already")
            self.advance()
            if self.kind != ":":
                self.fail("unexpected", f"expected : after the key, found {self.found()}")
            self.advance()
            entries[key] = self.nested(_OR)
            if self.kind != ",":
                break
            self.advance()
        self.close("}", "a comma or ")
        return _Object(tuple(entries.items()), at)

    def call(self, name: str, at: int) -> _Node:
        if name not in FUNCTIONS:
            self.at = at + self.start
            self.fail(
                "unknown_function",
                f"there is no function {name}",
                _other_function(name),
            )
        arguments = self.items(")")
        function = FUNCTIONS[name]
        if not function.least <= len(arguments) <= function.most:
            self.at = at + self.start
            self.fail("wrong_arguments", f"{name} was given {counted(len(arguments), 'argument')}", function.usage)
        if name == "map":
            field = arguments[1]
            if isinstance(field, _Path) and isinstance(field.root, str) and not field.steps:
                arguments[1] = _Constant(field.root, field.at)
            elif not isinstance(field, _Constant) or type(field.value) is not str:
                self.at = field.at + self.start
                self.fail("wrong_arguments", "map takes the name of one field", function.usage)
        return _Call(name, tuple(arguments), at)

    def nested(self, floor: int) -> _Node:
        self.depth += 1
        if self.depth > MAX_EXPRESSION_DEPTH:
            self.fail("too_deep", f"an expression nests at most {MAX_EXPRESSION_DEPTH} levels", _SHORTEN)
        node = self.expression(floor)
        self.depth -= 1
        return node

    def close(self, closing: str, before: str = "") -> None:
        if self.kind != closing:
            self.fail("unexpected", f"expected {before}{closing}, found {self.found()}", _after_value(self.kind))
        self.advance()

    def word(self) -> str:
        """Return the token if it is a word, a keyword too; otherwise nothing."""
        return self.text[self.at : self.end] if self.text[self.at : self.at + 1] in _LETTERS else ""

    def found(self) -> str:
        """Return how an error names the token."""
        if self.kind is _END:
            return "the end"
        shown = self.text[self.at : self.end]
        return shown if len(shown) <= 40 else f"{shown[:39]}…"

    def fail(self, code: str, message: str, hint: str = "") -> NoReturn:
        raise ExpressionError(code, message, self.at, hint, self.text)

    # The tokens.

    def advance(self) -> None:
        """Read the next token."""
        text, limit = self.text, self.limit
        self.last = at = self.end
        while at < limit and text[at] in _SPACE:
            at += 1
        self.at = at
        if at == limit:
            self.end = at
            self.kind = _END
            self.check_length()
            return
        character = text[at]
        end = at + 1
        if character in _LETTERS:
            while end < limit and text[end] in _WORD:
                end += 1
            self.end = end
            word = text[at:end]
            if word not in KEYWORDS:
                self.kind = _NAME
                self.value = word
            elif word in _CONSTANTS:
                self.kind = _CONSTANT
                self.value = _CONSTANTS[word]
            else:
                self.kind = word
        elif character == '"':
            self.string(end)
        elif character in _DIGITS:
            self.number(end)
        else:
            pair = text[at : at + 2]
            if pair in _PAIRS:
                self.kind = pair
                self.end = at + 2
            elif character in _SINGLES:
                self.kind = character
                self.end = end
            else:
                hint = _SLIPS.get(character, "names are made of A-Z a-z 0-9 _" if character.isalpha() else "")
                self.fail("unexpected_character", f"{_shown(character)} has no meaning here", hint)

    def check_length(self) -> None:
        """Fail if it was the limit that ended the text."""
        if self.limit < len(self.text):
            self.at = self.limit
            self.fail(
                "too_long",
                f"an expression has at most {MAX_EXPRESSION_CHARACTERS:,} characters",
                _SHORTEN,
            )

    def number(self, end: int) -> None:
        text, limit, at = self.text, self.limit, self.at
        whole = True
        while end < limit and text[end] in _DIGITS:
            end += 1
        if text[at] == "0" and end > at + 1:
            self.fail("bad_number", "a number does not begin with 0")
        if end + 1 < limit and text[end] == "." and text[end + 1] in _DIGITS:
            whole = False
            end += 2
            while end < limit and text[end] in _DIGITS:
                end += 1
        if end < limit and text[end] in "eE":
            power = end + 2 if text[end + 1 : end + 2] in ("+", "-") else end + 1
            if power < limit and text[power] in _DIGITS:
                whole = False
                end = power + 1
                while end < limit and text[end] in _DIGITS:
                    end += 1
        if end < limit and text[end] in _LETTERS:
            self.fail("bad_number", "a number ends in a letter", "a name begins with a letter or _")
        self.kind = _CONSTANT
        self.end = end
        if whole:
            self.value = int(text[at:end])
        else:
            self.value = float(text[at:end])
            if math.isinf(self.value):
                self.fail("bad_number", "the number is too large")

    def string(self, at: int) -> None:
        text, limit = self.text, self.limit
        parts: list[str] = []
        while True:
            end = text.find('"', at, limit)
            if end < 0:
                self.check_length()
                self.fail("bad_text", 'the text has no closing "')
            escape = text.find("\\", at, end)
            if escape < 0:
                parts.append(text[at:end])
                break
            parts.append(text[at:escape])
            letter = text[escape + 1]
            at = escape + 2
            if letter == "u":
                code, at = self.unicode(escape)
                parts.append(chr(code))
            elif letter in _ESCAPES:
                parts.append(_ESCAPES[letter])
            else:
                self.at = escape
                self.fail("bad_text", f"\\{_shown(letter)} has no meaning", 'there are \\n \\t \\" \\\\ and \\u0000')
        self.kind = _CONSTANT
        self.value = "".join(parts)
        self.end = end + 1

    def unicode(self, escape: int) -> tuple[int, int]:
        r"""Read ``\uXXXX`` at *escape*, or a pair of them; return the code point and where it ends."""
        code, end = self.unit(escape), escape + 6
        if 0xD800 <= code < 0xDC00:
            low = self.unit(end) if self.text[end : end + 2] == "\\u" else 0
            if 0xDC00 <= low < 0xE000:
                return 0x10000 + (code - 0xD800 << 10) + (low - 0xDC00), end + 6
        if 0xD800 <= code < 0xE000:
            self.at = escape
            self.fail("bad_text", "half of a surrogate pair is not a character")
        return code, end

    def unit(self, escape: int) -> int:
        unit = self.text[escape + 2 : escape + 6]
        if len(unit) < 4 or any(character not in hexdigits for character in unit):
            self.at = escape
            self.fail("bad_text", "\\u is followed by four hexadecimal digits")
        return int(unit, 16)


_OTHER_FUNCTIONS: Final = {
    **dict.fromkeys(("len", "length", "size"), "count"),
    **dict.fromkeys(("tolower", "lowercase", "downcase"), "lower"),
    **dict.fromkeys(("toupper", "uppercase", "upcase"), "upper"),
    **dict.fromkeys(("includes", "has"), "contains"),
    **dict.fromkeys(("strip",), "trim"),
    **dict.fromkeys(("concat", "implode"), "join"),
    **dict.fromkeys(("explode",), "split"),
    **dict.fromkeys(("pluck",), "map"),
}
"""What other languages call the functions."""


def _other_function(name: str) -> str:
    meant = _OTHER_FUNCTIONS.get(name.lower())
    if name.lower() in ("str", "string", "text", "format"):
        return "a value becomes a text in one, as in {x}"
    if meant is not None:
        return f"did you mean {meant}?"
    return nearest(name, FUNCTIONS) or f"there are {', '.join(FUNCTIONS)}"


def _after_value(kind: str) -> str:
    if kind is _NAME or kind is _CONSTANT:
        return "put an operator, a comma or quotes between two values"
    return ""


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


# --- compiling --------------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """One place where a name is read."""

    path: tuple[str, *tuple[str | int, ...]]
    position: int
    optional: bool
    whole: bool


def _compile(node: _Node, reads: list[_Read], lenient: bool) -> _Run:
    """Return a function that gives the value of *node*; add what it reads to *reads*.

    A *lenient* one gives `ABSENT` where the path is missing. Closures, because walking the nodes takes twice as long.
    """
    match node:
        case _Constant(value):
            return lambda names, work: value
        case _Path():
            return _compile_path(node, reads, lenient)
        case _Default(operands):
            *firsts, last = operands
            return _default([_compile(first, reads, True) for first in firsts], _compile(last, reads, lenient))
        case _List(items):
            runs = [_compile(item, reads, False) for item in items]
            return lambda names, work: [run(names, work) for run in runs]
        case _Object(entries):
            pairs = [(key, _compile(value, reads, False)) for key, value in entries]
            return lambda names, work: {key: run(names, work) for key, run in pairs}
        case _Negative(operand, at):
            return _negative(_compile(operand, reads, False), at)
        case _Not(operand, at):
            return _not(_compile(operand, reads, False), at)
        case _Logic(word, operands, at):
            return _logic(word, [_compile(operand, reads, False) for operand in operands], at)
        case _Compare(word, left, right, at):
            return _comparison(word, _compile(left, reads, False), _compile(right, reads, False), at)
        case _Chain(first, rest):
            return _chain(
                _compile(first, reads, False),
                [(ARITHMETIC[step.operator], _compile(step.operand, reads, False), step.at) for step in rest],
            )
        case _Call(function, arguments, at):
            return _call(FUNCTIONS[function].apply, [_compile(argument, reads, False) for argument in arguments], at)


def _compile_path(node: _Path, reads: list[_Read], lenient: bool) -> _Run:
    root = node.root
    keys: list[object] = []
    constant: list[str | int] = []
    for step in node.steps:
        if isinstance(step.key, _Constant):
            key = step.key.value
            keys.append(key)
            if len(constant) == len(keys) - 1 and (type(key) is str or type(key) is int):
                constant.append(key)
        else:
            keys.append(_compile(step.key, reads, False))
    places = [step.at for step in node.steps]
    if not isinstance(root, str):
        return _read_in(_compile(root, reads, lenient), keys, places, lenient)
    reads.append(_Read((root, *constant), node.at, lenient, len(constant) == len(keys)))
    if not keys:
        return _read_name(root, node.at, lenient)
    name = _read_name(root, node.at, lenient, unloaded=True)
    general = _read_in(name, keys, places, lenient)
    if len(keys) > 1 or type(keys[0]) is not str:
        return general
    field = keys[0]

    def read_field(names: Names, work: Work) -> object:
        try:
            value = names[root]
        except KeyError:
            return general(names, work)
        if type(value) is dict:
            value = value.get(field, ABSENT)
            if type(value) is not Unloaded and value is not ABSENT:
                return value
        return general(names, work)

    return read_field


def _read_name(name: str, at: int, lenient: bool, unloaded: bool = False) -> _Run:
    def read_name(names: Names, work: Work) -> object:
        try:
            value = names[name]
        except KeyError:
            if lenient:
                return ABSENT
            raise _unknown_name(name, names, at, "") from None
        if type(value) is Unloaded and not unloaded:
            raise NeedsBlob(value)
        return value

    return read_name


def _read_in(root: _Run, keys: list[object], places: list[int], lenient: bool) -> _Run:
    """Return what walks from *root* along *keys*; a key is a constant, or a function that gives it."""

    def read_in(names: Names, work: Work) -> object:
        value = root(names, work)
        for index, key in enumerate(keys):
            constant = not callable(key)
            if callable(key):
                key = key(names, work)
            if type(value) is Unloaded:
                rest = [key, *(other(names, work) if callable(other) else other for other in keys[index + 1 :])]
                raise NeedsBlob(value, path_text(rest))
            found = element(value, key)
            if found is ABSENT:
                if lenient and (type(key) is str or type(key) is int):
                    return ABSENT
                raise no_element(value, key, places[index], constant)
            value = found
        if type(value) is Unloaded:
            raise NeedsBlob(value)
        return value

    return read_in


def _default(firsts: list[_Run], last: _Run) -> _Run:
    def default(names: Names, work: Work) -> object:
        for first in firsts:
            value = first(names, work)
            if value is not None and value is not ABSENT:
                return value
        return last(names, work)

    return default


def _not(operand: _Run, at: int) -> _Run:
    def negation(names: Names, work: Work) -> object:
        value = operand(names, work)
        if value is True or value is False:
            return not value
        raise _needs_boolean("not", value, at)

    return negation


def _logic(word: str, operands: list[_Run], at: int) -> _Run:
    decisive = word == "or"

    def logic(names: Names, work: Work) -> object:
        for operand in operands:
            value = operand(names, work)
            if value is decisive:
                return value
            if value is not True and value is not False:
                raise _needs_boolean(word, value, at)
        return not decisive

    return logic


def _comparison(word: str, left: _Run, right: _Run, at: int) -> _Run:
    if word in ("==", "!="):
        expected = word == "=="

        def equal(names: Names, work: Work) -> object:
            first, second = left(names, work), right(names, work)
            kind = type(first)
            if kind is type(second) and kind in _FLAT:
                return (first == second) is expected
            return same(first, second, work, at) is expected

        return equal
    if word in ("in", "not in"):
        expected = word == "in"
        return lambda names, work: contains(left(names, work), right(names, work), word, work, at) is expected
    compare = _ORDERS[word]

    def ordered(names: Names, work: Work) -> object:
        first, second = left(names, work), right(names, work)
        if type(first) in NUMBERS and type(second) in NUMBERS:
            return compare(first, second)
        if type(first) is str and type(second) is str:
            return compare(first, second)
        raise ExpressionError(
            "wrong_type",
            f"{word} compares two numbers or two texts, and here are {kind_of(first)} and {kind_of(second)}",
            at,
        )

    return ordered


def _chain(first: _Run, rest: list[tuple[Arithmetic, _Run, int]]) -> _Run:
    def chain(names: Names, work: Work) -> object:
        value = first(names, work)
        for apply, operand, at in rest:
            value = apply(value, operand(names, work), work, at)
        return value

    return chain


def _negative(operand: _Run, at: int) -> _Run:
    def negative(names: Names, work: Work) -> object:
        value = operand(names, work)
        if type(value) is int or type(value) is float:
            return bounded(-value, at)
        raise ExpressionError("wrong_type", f"- takes a number, and this is {kind_of(value)}", at)

    return negative


def _call(apply: Apply, arguments: list[_Run], at: int) -> _Run:
    return lambda names, work: apply([argument(names, work) for argument in arguments], work, at)


_FLAT: Final = frozenset({type(None), bool, int, float})
"""Kinds that are equal if Python says so, once both sides have the same one."""
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _needs_boolean(word: str, value: object, at: int) -> ExpressionError:
    return ExpressionError(
        "wrong_type",
        f"{word} takes true or false, and this is {kind_of(value)}",
        at,
        "compare it with something, as in x == 1 or count(x) > 0",
    )


def _unknown_name(name: str, known: Iterable[str], at: int, text: str) -> ExpressionError:
    hint = nearest(name, known) or f"if it may be missing, give a default with ??, as in {name} ?? null"
    return ExpressionError("unknown_name", f"there is no {name} here", at, hint, text)
