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

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from string import ascii_letters, digits, hexdigits
from typing import Any, Final, NamedTuple, NoReturn

MAX_EXPRESSION_CHARACTERS: Final = 1_024
MAX_EXPRESSION_DEPTH: Final = 32
"""Parentheses, brackets, arguments and prefix operators inside one another. Chains (``a + b + …``) are flat."""
MAX_WORK: Final = 100_000
"""Of one evaluation. A unit is one item looked at, or 32 to 1,024 characters, whichever costs about the same."""
MAX_TEXT_CHARACTERS: Final = 1_048_576
"""Of a text that an expression makes. A text that it only passes on is bounded by `MAX_VALUE_CHARACTERS`."""
MAX_VALUE_CHARACTERS: Final = 7_340_032
"""Of a list or an object as a result, written as JSON, roughly."""
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Unloaded:
    """Stands in the names for a value that is stored as a blob and was not fetched.

    It may be the value of a name, or stand anywhere inside of one.

    Attributes:
        sha256: Of the blob's bytes, in hex.
        size_bytes: Of the blob.
    """

    sha256: str
    size_bytes: int


class NeedsBlob(Exception):
    """The value depends on a blob that is not loaded: load it, put its value into the names, and evaluate again.

    Attributes:
        blob: What to load.
        path: What the expression reads inside the blob, such as ``text`` or ``items[0].name``; empty for all of it.
    """

    def __init__(self, blob: Unloaded, path: str = "") -> None:
        super().__init__(blob, path)
        self.blob = blob
        self.path = path

    def __str__(self) -> str:
        return f"the blob {self.blob.sha256} ({self.blob.size_bytes} bytes) is not loaded"


class ExpressionError(ValueError):
    """An expression or a template that cannot be read, or has no value.

    Attributes:
        code: The kind of error, for programs: a constant such as ``unknown_name``.
        message: What was expected and what was found.
        position: Where in *text*, counted in characters from 0.
        hint: What to do about it; may be empty.
        text: The source that *position* counts in: the expression, or the whole string that holds it.
        pointer: Where that string stands in the document of inputs (RFC 6901); empty outside of one.
    """

    def __init__(
        self, code: str, message: str, position: int, hint: str = "", text: str = "", pointer: str = ""
    ) -> None:
        super().__init__(code, message, position, hint, text, pointer)
        self.code = code
        self.message = message
        self.position = position
        self.hint = hint
        self.text = text
        self.pointer = pointer

    @property
    def line(self) -> int:
        """Of the position in the text, from 1."""
        return self.text.count("\n", 0, self.position) + 1

    @property
    def column(self) -> int:
        """Of the position in its line, in characters, from 1."""
        return self.position - self.text.rfind("\n", 0, self.position)

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}"
        if self.pointer:
            where = f"{self.pointer}, {where}"
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    def show(self) -> str:
        """Return the error for a person: where, what, the line itself with a caret, and the hint.

        A long line is cut to the 80 characters around the caret.
        """
        begin = self.text.rfind("\n", 0, self.position) + 1
        end = self.text.find("\n", begin)
        end = len(self.text) if end < 0 else end
        first = max(begin, self.position - 40)
        last = min(end, first + 80)
        before, after = "…" if first > begin else "", "…" if last < end else ""
        shown = "".join(c if c.isprintable() else " " for c in self.text[first:last])
        caret = " " * (len(before) + self.position - first) + "^"
        where = f"{self.pointer}, " if self.pointer else ""
        lines = [f"{where}line {self.line}, column {self.column}: {self.message}"]
        if self.text:
            lines += [f"    {before}{shown}{after}", f"    {caret}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


Names = Mapping[str, object]
Work = list[int]
_Run = Callable[[Names, Work], object]
Path = tuple[str | int, ...]


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
            "split it with let",
            text,
        )
    return _parse(text)


@lru_cache(maxsize=2_048)
def _parse(text: str) -> Expression:
    parser = _Parser(text, 0)
    expression = parser.whole()
    if parser.kind is not _END:
        parser.fail("unexpected", f"expected an operator or the end, found {parser.found()}", _after_value(parser.kind))
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
    if type(value) not in _SCALARS:
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
        f"a condition is true or false, and this is {_kind(value)}",
        0,
        "compare it with something, as in x == 1 or count(x) > 0",
        expression.text,
    )


def unknown_names(expression: Expression, known: Iterable[str]) -> list[ExpressionError]:
    """Return an error for each place where *expression* reads a name that is not among *known*."""
    known = known if isinstance(known, frozenset | set | dict) else frozenset(known)
    return [
        _unknown_name(read.path[0], known, read.position, expression.text)
        for read in expression._reads
        if read.path[0] not in known
    ]


def text_of(value: object) -> str:
    """Return *value* as it reads inside a text: a text as it is, anything else as compact JSON.

    Raises:
        ExpressionError: It is not a JSON value.
        NeedsBlob: There is something `Unloaded` in it.
    """
    if type(value) is str:
        return value
    try:
        return _JSON.encode(value)
    except ExpressionError:
        raise
    except (TypeError, ValueError, RecursionError):
        raise _not_json() from None


def size_of(value: object) -> int:
    """Return how many characters *value* has as JSON, or fewer, as numbers count for one.

    Raises:
        ExpressionError: It is not a JSON value, or is larger than `MAX_VALUE_CHARACTERS`.
        NeedsBlob: There is something `Unloaded` in it.
    """
    size = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) is str:
            size += len(value) + 2
        elif type(value) is dict:
            if not all(type(key) is str for key in value):
                raise _not_json()
            size += 1 + 4 * len(value) + sum(map(len, value))
            waiting.extend(value.values())
        elif type(value) is list or type(value) is tuple:
            size += 1 + len(value)
            waiting.extend(value)
        elif type(value) in _SCALARS:
            size += 1
        elif type(value) is Unloaded:
            raise NeedsBlob(value)
        else:
            raise _not_json()
        if size > MAX_VALUE_CHARACTERS:
            raise ExpressionError(
                "too_large", f"the value has more than {MAX_VALUE_CHARACTERS:,} characters as JSON", 0
            )
    return size


# --- reading ----------------------------------------------------------------------------------------------------

KEYWORDS: Final = frozenset({"and", "or", "not", "in", "true", "false", "null"})
"""Words that cannot be names. They can be fields (``x.in``), and the functions' names can be names as well."""

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


class _Constant(NamedTuple):
    value: bool | int | float | str | None
    at: int


class _Step(NamedTuple):
    key: "_Node"
    at: int


class _Path(NamedTuple):
    root: "str | _Node"
    steps: tuple[_Step, ...]
    at: int


class _Default(NamedTuple):
    operands: tuple["_Node", ...]
    at: int


class _List(NamedTuple):
    items: tuple["_Node", ...]
    at: int


class _Object(NamedTuple):
    entries: tuple[tuple[str, "_Node"], ...]
    at: int


class _Negative(NamedTuple):
    operand: "_Node"
    at: int


class _Not(NamedTuple):
    operand: "_Node"
    at: int


class _Logic(NamedTuple):
    operator: str
    operands: tuple["_Node", ...]
    at: int


class _Compare(NamedTuple):
    operator: str
    left: "_Node"
    right: "_Node"
    at: int


class _Operation(NamedTuple):
    operator: str
    operand: "_Node"
    at: int


class _Chain(NamedTuple):
    first: "_Node"
    rest: tuple[_Operation, ...]
    at: int


class _Call(NamedTuple):
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
        path = reads[0].path if isinstance(node, _Path) and reads and reads[0].whole else None
        return Expression(
            text=self.text[self.start : self.last],
            names=frozenset(read.path[0] for read in reads),
            required=frozenset(read.path[0] for read in reads if not read.optional),
            paths=frozenset(read.path for read in reads),
            path=path,
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
            node = self.object(at)
        elif kind == "-":
            self.advance()
            if self.kind is _CONSTANT and type(self.value) in _NUMBERS:
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

    def object(self, at: int) -> _Node:
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
        if name not in _FUNCTIONS:
            self.at = at + self.start
            self.fail(
                "unknown_function",
                f"there is no function {name}",
                _nearest(name, _FUNCTIONS) or f"there are {', '.join(_FUNCTIONS)}",
            )
        arguments = self.items(")")
        function = _FUNCTIONS[name]
        if not function.least <= len(arguments) <= function.most:
            self.at = at + self.start
            self.fail("wrong_arguments", f"{name} was given {_counted(len(arguments), 'argument')}", function.usage)
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
            self.fail("too_deep", f"an expression nests at most {MAX_EXPRESSION_DEPTH} levels", "split it with let")
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
                "split it with let",
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


def _after_value(kind: str) -> str:
    if kind is _NAME or kind is _CONSTANT:
        return "put an operator, a comma or quotes between two values"
    return ""


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- compiling --------------------------------------------------------------------------------------------------


class _Absent:
    """The type of what a path under ``??`` gives when there is nothing."""


_ABSENT: Final = _Absent()


class _Read(NamedTuple):
    """One place where a name is read."""

    path: tuple[str, *tuple[str | int, ...]]
    position: int
    optional: bool
    whole: bool


def _compile(node: _Node, reads: list[_Read], lenient: bool) -> _Run:
    """Return a function that gives the value of *node*; add what it reads to *reads*.

    A *lenient* one gives `_ABSENT` where the path is missing. Closures, because walking the nodes takes twice as long.
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
                [(_ARITHMETIC[step.operator], _compile(step.operand, reads, False), step.at) for step in rest],
            )
        case _Call(function, arguments, at):
            return _call(_FUNCTIONS[function].apply, [_compile(argument, reads, False) for argument in arguments], at)


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
            value = value.get(field, _ABSENT)
            if type(value) is not Unloaded and value is not _ABSENT:
                return value
        return general(names, work)

    return read_field


def _read_name(name: str, at: int, lenient: bool, unloaded: bool = False) -> _Run:
    def read_name(names: Names, work: Work) -> object:
        try:
            value = names[name]
        except KeyError:
            if lenient:
                return _ABSENT
            raise _unknown_name(name, names, at, "") from None
        if type(value) is Unloaded and not unloaded:
            raise NeedsBlob(value)
        return value

    return read_name


def _read_in(root: _Run, keys: list[object], places: list[int], lenient: bool) -> _Run:
    def read_in(names: Names, work: Work) -> object:
        value = root(names, work)
        for index, key in enumerate(keys):
            if callable(key):
                key = key(names, work)
            if type(value) is Unloaded:
                rest = [key, *(k(names, work) if callable(k) else k for k in keys[index + 1 :])]
                raise NeedsBlob(value, _path_text(rest))
            found = _element(value, key)
            if found is _ABSENT:
                if lenient and (type(key) is str or type(key) is int):
                    return _ABSENT
                raise _no_element(value, key, places[index])
            value = found
        if type(value) is Unloaded:
            raise NeedsBlob(value)
        return value

    return read_in


def _element(value: object, key: object) -> object:
    """Return what is at *key* in *value*, or `_ABSENT`."""
    if type(value) is dict:
        return value.get(key, _ABSENT) if type(key) is str else _ABSENT
    if type(key) is int and (type(value) is list or type(value) is tuple or type(value) is str):
        return value[key] if -len(value) <= key < len(value) else _ABSENT
    return _ABSENT


def _path_text(keys: Iterable[object]) -> str:
    """Return *keys* as they are written after a value, without the first dot."""
    parts: list[str] = []
    for key in keys:
        if type(key) is str and is_name(key):
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f"[{json.dumps(key, ensure_ascii=False)}]")
    return "".join(parts)


def is_name(text: str) -> bool:
    """Return whether *text* can be a name in an expression: letters, digits and _, no digit first, no keyword."""
    return text[:1] in _LETTERS and all(character in _WORD for character in text) and text not in KEYWORDS


def _default(firsts: list[_Run], last: _Run) -> _Run:
    def default(names: Names, work: Work) -> object:
        for first in firsts:
            value = first(names, work)
            if value is not None and value is not _ABSENT:
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
            if kind is type(second) and kind in _SHORT:
                return (first == second) is expected
            return _same(first, second, work, at) is expected

        return equal
    if word in ("in", "not in"):
        expected = word == "in"
        return lambda names, work: _contains(left(names, work), right(names, work), word, work, at) is expected
    compare = _ORDERS[word]

    def ordered(names: Names, work: Work) -> object:
        first, second = left(names, work), right(names, work)
        if type(first) in _NUMBERS and type(second) in _NUMBERS:
            return compare(first, second)
        if type(first) is str and type(second) is str:
            return compare(first, second)
        raise ExpressionError(
            "wrong_type",
            f"{word} compares two numbers or two texts, and here are {_kind(first)} and {_kind(second)}",
            at,
        )

    return ordered


def _chain(first: _Run, rest: list[tuple["_Arithmetic", _Run, int]]) -> _Run:
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
            return _number(-value, at)
        raise ExpressionError("wrong_type", f"- takes a number, and this is {_kind(value)}", at)

    return negative


def _call(apply: "_Apply", arguments: list[_Run], at: int) -> _Run:
    return lambda names, work: apply([argument(names, work) for argument in arguments], work, at)


# --- what operators and functions do ----------------------------------------------------------------------------

_Arithmetic = Callable[[object, object, Work, int], object]
_Apply = Callable[[list[object], Work, int], object]

_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_SHORT: Final = frozenset({type(None), bool, int, float})
_NUMBERS: Final = frozenset({int, float})
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

# Characters to a unit of work, so that a unit costs about a tenth of a microsecond whatever it is spent on.
_COMPARED: Final = 1_024
_COPIED: Final = 256
_SEARCHED: Final = 128
_CASED: Final = 32


def _spend(work: Work, units: int, at: int) -> None:
    work[0] -= units
    if work[0] < 0:
        raise ExpressionError(
            "too_much_work", "the expression looks at too much data", at, "let an agent do it, or look at a part"
        )


def _number(value: int | float, at: int) -> int | float:
    """Return *value* if it is a number that JSON and 64 bits can hold."""
    if type(value) is int:
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return value
    elif math.isfinite(value):
        return value
    raise _number_too_large(at)


def _text(value: str, at: int) -> str:
    if len(value) > MAX_TEXT_CHARACTERS:
        raise _text_too_large(at)
    return value


def _add(left: object, right: object, work: Work, at: int) -> object:
    if type(left) is str and type(right) is str:
        length = len(left) + len(right)
        if length > MAX_TEXT_CHARACTERS:
            raise _text_too_large(at)
        _spend(work, length // _COPIED, at)
        return left + right
    if (type(left) is list or type(left) is tuple) and (type(right) is list or type(right) is tuple):
        _spend(work, len(left) + len(right), at)
        return [*left, *right]
    if type(left) in _NUMBERS and type(right) in _NUMBERS:
        return _arithmetic(operator.add, left, right, at)
    text = type(left) is str or type(right) is str
    raise ExpressionError(
        "wrong_type",
        f"+ takes two numbers, two texts or two lists, and here are {_kind(left)} and {_kind(right)}",
        at,
        "to put values into a text, write a text with {} around them" if text else "",
    )


def _subtract(left: object, right: object, work: Work, at: int) -> object:
    return _arithmetic(operator.sub, *_two_numbers("-", left, right, at), at)


def _multiply(left: object, right: object, work: Work, at: int) -> object:
    return _arithmetic(operator.mul, *_two_numbers("*", left, right, at), at)


def _divide(left: object, right: object, work: Work, at: int) -> object:
    first, second = _two_numbers("/", left, right, at)
    if second == 0:
        raise ExpressionError("division_by_zero", "division by zero", at, "test the divisor first, with decide or and")
    if type(first) is int and type(second) is int and first % second == 0:
        return _number(first // second, at)
    return _arithmetic(operator.truediv, first, second, at)


_ARITHMETIC: Final[dict[str, _Arithmetic]] = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide}


def _two_numbers(word: str, left: object, right: object, at: int) -> tuple[int | float, int | float]:
    if (type(left) is int or type(left) is float) and (type(right) is int or type(right) is float):
        return left, right
    raise ExpressionError("wrong_type", f"{word} takes two numbers, and here are {_kind(left)} and {_kind(right)}", at)


def _arithmetic(apply: Callable[[object, object], object], left: object, right: object, at: int) -> int | float:
    try:
        return _number(apply(left, right), at)  # type: ignore[arg-type]
    except OverflowError:
        raise _number_too_large(at) from None


def _same(left: object, right: object, work: Work, at: int) -> bool:
    """Return whether two JSON values are equal; unlike Python, no boolean equals a number, at any depth."""
    waiting = [(left, right)]
    while waiting:
        first, second = waiting.pop()
        _spend(work, 1, at)
        if type(first) is str and type(second) is str:
            if len(first) != len(second):
                return False
            _spend(work, len(first) // _COMPARED, at)
            if first != second:
                return False
        elif type(first) in _NUMBERS and type(second) in _NUMBERS:
            if first != second:
                return False
        elif type(first) is dict and type(second) is dict:
            if len(first) != len(second):
                return False
            _spend(work, len(first), at)
            if first.keys() != second.keys():
                return False
            waiting.extend((first[key], second[key]) for key in first)
        elif (type(first) is list or type(first) is tuple) and (type(second) is list or type(second) is tuple):
            if len(first) != len(second):
                return False
            _spend(work, len(first), at)
            waiting.extend(zip(first, second, strict=True))
        elif first is not second or type(first) not in _SHORT:
            # Two kinds, or two booleans: equal only if they are one object. `_kind` refuses what is not JSON.
            if _kind(first) != _kind(second) or type(first) in _SHORT:
                return False
            raise _not_json(at)
    return True


def _contains(item: object, container: object, word: str, work: Work, at: int) -> bool:
    if type(container) is list or type(container) is tuple:
        _spend(work, len(container), at)
        return any(_same(item, other, work, at) for other in container)
    if type(container) is str and type(item) is str:
        _spend(work, len(container) // _SEARCHED, at)
        return item in container
    if type(container) is dict and type(item) is str:
        return item in container
    raise ExpressionError(
        "wrong_type",
        f"{word} looks for anything in a list, for text in a text, or for a key in an object,"
        f" and here are {_kind(item)} and {_kind(container)}",
        at,
    )


def _apply_count(arguments: list[object], work: Work, at: int) -> object:
    (value,) = arguments
    if type(value) is list or type(value) is tuple or type(value) is dict or type(value) is str:
        return len(value)
    raise _wrong_argument("count", "a list, an object or text", value, at)


def _apply_contains(arguments: list[object], work: Work, at: int) -> object:
    container, item = arguments
    return _contains(item, container, "contains", work, at)


def _apply_starts_with(arguments: list[object], work: Work, at: int) -> object:
    text, start = _texts("starts_with", arguments, at)
    return text.startswith(start)


def _apply_ends_with(arguments: list[object], work: Work, at: int) -> object:
    text, end = _texts("ends_with", arguments, at)
    return text.endswith(end)


def _apply_lower(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("lower", arguments, at)
    _spend(work, len(text) // _CASED, at)
    return _text(text.lower(), at)


def _apply_upper(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("upper", arguments, at)
    _spend(work, len(text) // _CASED, at)
    return _text(text.upper(), at)


def _apply_trim(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("trim", arguments, at)
    _spend(work, len(text) // _CASED, at)
    return _text(text.strip(), at)


def _apply_join(arguments: list[object], work: Work, at: int) -> object:
    items, separator = _a_list("join", arguments[0], at), arguments[1]
    if type(separator) is not str:
        raise _wrong_argument("join", "a text between the items", separator, at)
    _spend(work, len(items), at)
    length = len(separator) * (len(items) - 1)
    parts: list[str] = []
    for item in items:
        if length > MAX_TEXT_CHARACTERS:
            raise _text_too_large(at)
        part = text_of(item)
        length += len(part)
        _spend(work, len(part) // (_COPIED if type(item) is str else _CASED), at)
        parts.append(part)
    _spend(work, max(length, 0) // _COPIED, at)
    return _text(separator.join(parts), at)


def _apply_split(arguments: list[object], work: Work, at: int) -> object:
    text, separator = _texts("split", arguments, at)
    if not separator:
        raise ExpressionError("wrong_arguments", "split needs a separator of one character at least", at)
    _spend(work, len(text) // _SEARCHED, at)
    _spend(work, text.count(separator), at)
    return text.split(separator)


def _apply_min(arguments: list[object], work: Work, at: int) -> object:
    return min(_ordered("min", arguments, work, at))


def _apply_max(arguments: list[object], work: Work, at: int) -> object:
    return max(_ordered("max", arguments, work, at))


def _apply_sum(arguments: list[object], work: Work, at: int) -> object:
    items = _a_list("sum", arguments[0], at)
    _spend(work, len(items), at)
    total: int | float = 0
    for item in items:
        if type(item) is not int and type(item) is not float:
            raise _wrong_argument("sum", "a list of numbers", item, at, " in it")
        total = _arithmetic(operator.add, total, item, at)
    return total


def _apply_map(arguments: list[object], work: Work, at: int) -> object:
    items, field = _a_list("map", arguments[0], at), arguments[1]
    _spend(work, len(items), at)
    found: list[object] = []
    for index, item in enumerate(items):
        value = _element(item, field)
        if value is _ABSENT:
            if type(item) is Unloaded:
                raise NeedsBlob(item)
            error = _no_element(item, field, at)
            error.message = f"item {index} of the list: {error.message}"
            raise error
        found.append(value)
    return found


def _ordered(name: str, arguments: list[object], work: Work, at: int) -> Iterable[int]:
    """Return the values that *name* chooses from: the items of one list, or all the arguments.

    They are numbers or texts; the return type is only what lets ``min`` take them.
    """
    items = _a_list(name, arguments[0], at) if len(arguments) == 1 else arguments
    if not items:
        raise ExpressionError(
            "empty_list", f"{name} of an empty list", at, f"give it one more value, as in {name}(items + [0])"
        )
    _spend(work, len(items), at)
    kinds = set(map(type, items))
    if kinds <= _NUMBERS or kinds == {str}:
        return items  # type: ignore[return-value]
    wrong = next((item for item in items if type(item) not in _NUMBERS and type(item) is not str), items[0])
    raise _wrong_argument(name, "numbers only or texts only", wrong, at, " among others")


def _texts(name: str, arguments: list[object], at: int) -> list[str]:
    for argument in arguments:
        if type(argument) is not str:
            raise _wrong_argument(name, "text", argument, at)
    return arguments  # type: ignore[return-value]


def _a_list(name: str, value: object, at: int) -> list[object] | tuple[object, ...]:
    if type(value) is list or type(value) is tuple:
        return value
    raise _wrong_argument(name, "a list", value, at)


class _Function(NamedTuple):
    least: int
    most: int
    apply: _Apply
    usage: str


_FUNCTIONS: Final = {
    "count": _Function(1, 1, _apply_count, "count(list), count(object) or count(text)"),
    "contains": _Function(2, 2, _apply_contains, "contains(list, item) or contains(text, part)"),
    "starts_with": _Function(2, 2, _apply_starts_with, "starts_with(text, start)"),
    "ends_with": _Function(2, 2, _apply_ends_with, "ends_with(text, end)"),
    "lower": _Function(1, 1, _apply_lower, "lower(text)"),
    "upper": _Function(1, 1, _apply_upper, "upper(text)"),
    "trim": _Function(1, 1, _apply_trim, "trim(text)"),
    "join": _Function(2, 2, _apply_join, 'join(list, ", ")'),
    "split": _Function(2, 2, _apply_split, 'split(text, ",")'),
    "min": _Function(1, 64, _apply_min, "min(list) or min(a, b)"),
    "max": _Function(1, 64, _apply_max, "max(list) or max(a, b)"),
    "sum": _Function(1, 1, _apply_sum, "sum(list)"),
    "map": _Function(2, 2, _apply_map, "map(list, field)"),
}
FUNCTIONS: Final = frozenset(_FUNCTIONS)
"""The names that have a meaning before a parenthesis. A name of a plan may be the same word."""


# --- errors -----------------------------------------------------------------------------------------------------


def _kind(value: object) -> str:
    """Return how an error calls the kind of *value*.

    Raises:
        NeedsBlob: It is `Unloaded`.
        ExpressionError: It is not a JSON value.
    """
    name = _KINDS.get(type(value))
    if name is not None:
        return name
    if type(value) is Unloaded:
        raise NeedsBlob(value)
    raise _not_json()


_KINDS: Final = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


def _not_json(at: int = 0) -> ExpressionError:
    return ExpressionError("not_json", "there is a value here that is not JSON", at)


def _number_too_large(at: int) -> ExpressionError:
    return ExpressionError("number_too_large", "the result is not within 64 bits, or not finite", at)


def _text_too_large(at: int) -> ExpressionError:
    return ExpressionError("too_large", f"an expression makes at most {MAX_TEXT_CHARACTERS:,} characters of text", at)


def _needs_boolean(word: str, value: object, at: int) -> ExpressionError:
    return ExpressionError(
        "wrong_type",
        f"{word} takes true or false, and this is {_kind(value)}",
        at,
        "compare it with something, as in x == 1 or count(x) > 0",
    )


def _wrong_argument(name: str, expected: str, value: object, at: int, where: str = "") -> ExpressionError:
    return ExpressionError("wrong_type", f"{name} takes {expected}, and found {_kind(value)}{where}", at)


def _unknown_name(name: str, known: Iterable[str], at: int, text: str) -> ExpressionError:
    hint = _nearest(name, known) or "if it may be missing, write a default: name ?? null"
    return ExpressionError("unknown_name", f"there is no {name} here", at, hint, text)


def _no_element(value: object, key: object, at: int) -> ExpressionError:
    """Say why there is nothing at *key* in *value*."""
    kind = _kind(value)
    if type(key) is str:
        shown = key if len(key) <= 64 else f"{key[:63]}…"
        if type(value) is dict:
            hint = _nearest(key, value) or "if it may be missing, write a default: … ?? null"
            return ExpressionError("unknown_field", f"there is no field {shown}", at, hint)
        hint = "its items have fields: [0] is the first, map(list, field) is all" if kind == "a list" else ""
        return ExpressionError("wrong_type", f"the field {shown} is read from an object, and this is {kind}", at, hint)
    if type(key) is int:
        if type(value) is list or type(value) is tuple or type(value) is str:
            what = "character" if type(value) is str else "item"
            return ExpressionError(
                "out_of_range", f"there is no {what} {key}: the {kind.split()[-1]} has {_counted(len(value), what)}", at
            )
        return ExpressionError("wrong_type", f"an item is read from a list or a text, and this is {kind}", at)
    return ExpressionError("wrong_type", f"an index is an integer or a text, and this is {_kind(key)}", at)


def _nearest(name: str, known: Iterable[object]) -> str:
    """Return a hint with the nearest of the first few hundred *known* names, or nothing."""
    candidates = [other for other in islice(known, 512) if type(other) is str and abs(len(other) - len(name)) <= 8]
    near = get_close_matches(name, candidates, n=1) if len(name) <= 64 else []
    return f"did you mean {near[0]}?" if near else ""


def _refuse(value: object) -> NoReturn:
    if type(value) is Unloaded:
        raise NeedsBlob(value)
    raise _not_json()


_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse)
