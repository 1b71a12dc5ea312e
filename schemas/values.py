"""JSON values, and what an expression may do to them: within bounds, and never by way of a Python attribute.

Whatever is done here takes a list of one number, the work that is left, and a position: where in the expression it
is asked for, for the error that says why it cannot be done.
"""

import json
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Final, NamedTuple

MAX_WORK: Final = 100_000
"""Of one evaluation. A unit is one item looked at, or 32 to 1,024 characters, whichever costs about the same."""
MAX_TEXT_CHARACTERS: Final = 1024 * 1024
"""Of a text that an expression makes. A text that it only passes on is bounded by `MAX_VALUE_CHARACTERS`."""
MAX_VALUE_CHARACTERS: Final = 7 * 1024 * 1024
"""Of a list or an object as a result, and as JSON; as much as a blob may have."""
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1

# Types are compared as they are, subclasses left out: what a JSON decoder gives has no behaviour of its own.
SIMPLE: Final = frozenset({type(None), bool, int, str})
"""Kinds of value that need no second look. (A float might be infinite.)"""
_FLAT: Final = SIMPLE - {str}
NUMBERS: Final = frozenset({int, float})

_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

# Characters to a unit of work, so that a unit costs about a tenth of a microsecond whatever it is spent on.
_COMPARED: Final = 1_024
_COPIED: Final = 256
_SEARCHED: Final = 128
_CASED: Final = 32


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
        blobs: All that is known to be missing, *blob* among them: loaded together, they take one round.
    """

    def __init__(self, blob: Unloaded, path: str = "", *, also: Iterable[Unloaded] = ()) -> None:
        super().__init__(blob, path)
        self.blob = blob
        self.path = path
        self.blobs = tuple(dict.fromkeys((blob, *also)))

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


Work = list[int]
"""One number, what is left of the budget. Whoever spends takes it off."""
Arithmetic = Callable[[object, object, Work, int], object]
Apply = Callable[[list[object], Work, int], object]


def text_of(value: object) -> str:
    """Return *value* as it reads inside a text: a text as it is, anything else as compact JSON.

    Raises:
        ExpressionError: It is not a JSON value, or is larger than `MAX_VALUE_CHARACTERS`.
        NeedsBlob: There is something `Unloaded` in it.
    """
    if type(value) is str:
        return value
    size_of(value)
    try:
        return _JSON.encode(value)
    except (ValueError, RecursionError):
        # Digits by the thousand in an integer, or lists by the thousand in a list: no JSON decoder passes them.
        raise not_json() from None


def size_of(value: object) -> int:
    """Return how many characters *value* has as JSON, or fewer, as numbers count for one.

    Raises:
        ExpressionError: It is not a JSON value, or is larger than `MAX_VALUE_CHARACTERS`.
        NeedsBlob: There is something `Unloaded` in it.
    """
    size = 0
    waiting: list[object] = [value]
    while waiting:
        value = waiting.pop()
        if type(value) is str:
            size += len(value) + 2
        elif type(value) is dict:
            if not all(type(key) is str for key in value):
                raise not_json()
            size += 1 + 4 * len(value) + sum(map(len, value))
            waiting.extend(value.values())
        elif type(value) is list or type(value) is tuple:
            size += 1 + len(value)
            # A long list is mostly of one kind: of numbers, it needs no second look.
            if set(map(type, value)) <= _FLAT:
                size += len(value)
            else:
                waiting.extend(value)
        elif type(value) is float:
            if not math.isfinite(value):
                raise not_json()
            size += 1
        elif type(value) in SIMPLE:
            size += 1
        elif type(value) is Unloaded:
            raise NeedsBlob(value)
        else:
            raise not_json()
        if size > MAX_VALUE_CHARACTERS:
            raise ExpressionError(
                "too_large", f"the value has more than {MAX_VALUE_CHARACTERS:,} characters as JSON", 0
            )
    return size


class Absent:
    """The type of `ABSENT`."""


ABSENT: Final = Absent()
"""What a path gives when there is nothing, for `??` to see. Never a result."""


def element(value: object, key: object) -> object:
    """Return what is at *key* in *value*, or `ABSENT`."""
    if type(value) is dict:
        return value.get(key, ABSENT) if type(key) is str else ABSENT
    if type(key) is int and (type(value) is list or type(value) is tuple or type(value) is str):
        return value[key] if -len(value) <= key < len(value) else ABSENT
    return ABSENT


def path_text(keys: Iterable[object]) -> str:
    """Return *keys* as they are written after a value, without the first dot."""
    parts: list[str] = []
    for key in keys:
        if type(key) is str and key.isascii() and key.isidentifier():
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f"[{json.dumps(key, ensure_ascii=False)}]")
    return "".join(parts)


def spend(work: Work, units: int, at: int) -> None:
    """Take *units* off what is left.

    Raises:
        ExpressionError: Nothing is left.
    """
    work[0] -= units
    if work[0] < 0:
        raise ExpressionError(
            "too_much_work", "the expression looks at too much data", at, "let an agent do it, or look at a part"
        )


def bounded(value: int | float, at: int) -> int | float:
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
        spend(work, length // _COPIED, at)
        return left + right
    if (type(left) is list or type(left) is tuple) and (type(right) is list or type(right) is tuple):
        spend(work, len(left) + len(right), at)
        return [*left, *right]
    if type(left) in NUMBERS and type(right) in NUMBERS:
        return _arithmetic(operator.add, left, right, at)
    text = type(left) is str or type(right) is str
    raise ExpressionError(
        "wrong_type",
        f"+ takes two numbers, two texts or two lists, and here are {kind_of(left)} and {kind_of(right)}",
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
        raise ExpressionError(
            "division_by_zero", "division by zero", at, "test the divisor first, as in x != 0 and 1 / x > 2"
        )
    if type(first) is int and type(second) is int and first % second == 0:
        return bounded(first // second, at)
    return _arithmetic(operator.truediv, first, second, at)


ARITHMETIC: Final[dict[str, Arithmetic]] = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide}


def _two_numbers(word: str, left: object, right: object, at: int) -> tuple[int | float, int | float]:
    if (type(left) is int or type(left) is float) and (type(right) is int or type(right) is float):
        return left, right
    raise ExpressionError(
        "wrong_type", f"{word} takes two numbers, and here are {kind_of(left)} and {kind_of(right)}", at
    )


def _arithmetic(apply: Callable[[object, object], object], left: object, right: object, at: int) -> int | float:
    try:
        return bounded(apply(left, right), at)  # type: ignore[arg-type]
    except OverflowError:
        raise _number_too_large(at) from None


def same(left: object, right: object, work: Work, at: int) -> bool:
    """Return whether two JSON values are equal; unlike Python, no boolean equals a number, at any depth."""
    waiting: list[tuple[object, object]] = [(left, right)]
    while waiting:
        first, second = waiting.pop()
        spend(work, 1, at)
        if type(first) is str and type(second) is str:
            if len(first) != len(second):
                return False
            spend(work, len(first) // _COMPARED, at)
            if first != second:
                return False
        elif type(first) in NUMBERS and type(second) in NUMBERS:
            if first != second:
                return False
        elif type(first) is dict and type(second) is dict:
            if len(first) != len(second):
                return False
            spend(work, len(first), at)
            if first.keys() != second.keys():
                return False
            waiting.extend((first[key], second[key]) for key in first)
        elif (type(first) is list or type(first) is tuple) and (type(second) is list or type(second) is tuple):
            if len(first) != len(second):
                return False
            spend(work, len(first), at)
            waiting.extend(zip(first, second, strict=True))
        elif first is not second or type(first) not in SIMPLE:
            # Two kinds, or true and false. What is not loaded or not JSON equals nothing: its kind raises.
            kind_of(first)
            kind_of(second)
            return False
    return True


def contains(item: object, container: object, word: str, work: Work, at: int) -> bool:
    """Return whether *item* is in *container*; *word* is what the expression calls the question."""
    if type(container) is list or type(container) is tuple:
        return any(same(item, other, work, at) for other in container)
    if type(container) is str and type(item) is str:
        spend(work, len(container) // _SEARCHED, at)
        return item in container
    if type(container) is dict and type(item) is str:
        return item in container
    raise ExpressionError(
        "wrong_type",
        f"{word} looks for anything in a list, for text in a text, or for a key in an object,"
        f" and here are {kind_of(item)} and {kind_of(container)}",
        at,
    )


def _count(arguments: list[object], work: Work, at: int) -> object:
    (value,) = arguments
    if type(value) is list or type(value) is tuple or type(value) is dict or type(value) is str:
        return len(value)
    raise _wrong_argument("count", "a list, an object or text", value, at)


def _contains(arguments: list[object], work: Work, at: int) -> object:
    container, item = arguments
    return contains(item, container, "contains", work, at)


def _starts_with(arguments: list[object], work: Work, at: int) -> object:
    text, start = _texts("starts_with", arguments, at)
    return text.startswith(start)


def _ends_with(arguments: list[object], work: Work, at: int) -> object:
    text, end = _texts("ends_with", arguments, at)
    return text.endswith(end)


def _lower(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("lower", arguments, at)
    spend(work, len(text) // _CASED, at)
    return _text(text.lower(), at)


def _upper(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("upper", arguments, at)
    spend(work, len(text) // _CASED, at)
    return _text(text.upper(), at)


def _trim(arguments: list[object], work: Work, at: int) -> object:
    (text,) = _texts("trim", arguments, at)
    spend(work, len(text) // _CASED, at)
    return _text(text.strip(), at)


def _join(arguments: list[object], work: Work, at: int) -> object:
    items, separator = _a_list("join", arguments[0], at), arguments[1]
    if type(separator) is not str:
        raise _wrong_argument("join", "a text between the items", separator, at)
    spend(work, len(items), at)
    length = len(separator) * (len(items) - 1)
    parts: list[str] = []
    for item in items:
        if length > MAX_TEXT_CHARACTERS:
            raise _text_too_large(at)
        part = text_of(item)
        length += len(part)
        spend(work, len(part) // (_COPIED if type(item) is str else _CASED), at)
        parts.append(part)
    spend(work, max(length, 0) // _COPIED, at)
    return _text(separator.join(parts), at)


def _split(arguments: list[object], work: Work, at: int) -> object:
    text, separator = _texts("split", arguments, at)
    if not separator:
        raise ExpressionError("wrong_arguments", "split needs a separator of one character at least", at)
    spend(work, len(text) // _SEARCHED, at)
    spend(work, text.count(separator), at)
    return text.split(separator)


def _min(arguments: list[object], work: Work, at: int) -> object:
    return min(_ordered("min", arguments, work, at))


def _max(arguments: list[object], work: Work, at: int) -> object:
    return max(_ordered("max", arguments, work, at))


def _sum(arguments: list[object], work: Work, at: int) -> object:
    items = _a_list("sum", arguments[0], at)
    spend(work, len(items), at)
    total: int | float = 0
    for item in items:
        if type(item) is not int and type(item) is not float:
            raise _wrong_argument("sum", "a list of numbers", item, at, " in it")
        total = _arithmetic(operator.add, total, item, at)
    return total


def _map(arguments: list[object], work: Work, at: int) -> object:
    items, field = _a_list("map", arguments[0], at), arguments[1]
    spend(work, len(items), at)
    found: list[object] = []
    for index, item in enumerate(items):
        value = element(item, field)
        if value is ABSENT:
            if type(item) is Unloaded:
                raise NeedsBlob(item)
            error = no_element(item, field, at, constant=True)
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
    spend(work, len(items), at)
    kinds = set(map(type, items))
    if kinds <= NUMBERS or kinds == {str}:
        return items  # type: ignore[return-value]
    wrong = next((item for item in items if type(item) not in NUMBERS and type(item) is not str), items[0])
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


class Function(NamedTuple):
    """What may stand before a parenthesis: how many arguments it takes, what it does, and how to write it."""

    least: int
    most: int
    apply: Apply
    usage: str


FUNCTIONS: Final = {
    "count": Function(1, 1, _count, "count(list), count(object) or count(text)"),
    "contains": Function(2, 2, _contains, "contains(list, item) or contains(text, part)"),
    "starts_with": Function(2, 2, _starts_with, "starts_with(text, start)"),
    "ends_with": Function(2, 2, _ends_with, "ends_with(text, end)"),
    "lower": Function(1, 1, _lower, "lower(text)"),
    "upper": Function(1, 1, _upper, "upper(text)"),
    "trim": Function(1, 1, _trim, "trim(text)"),
    "join": Function(2, 2, _join, 'join(list, ", ")'),
    "split": Function(2, 2, _split, 'split(text, ",")'),
    "min": Function(1, 64, _min, "min(list) or min(a, b)"),
    "max": Function(1, 64, _max, "max(list) or max(a, b)"),
    "sum": Function(1, 1, _sum, "sum(list)"),
    "map": Function(2, 2, _map, "map(list, field)"),
}


def kind_of(value: object) -> str:
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
    raise not_json()


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


def not_json(at: int = 0) -> ExpressionError:
    """Return the error for a value that no JSON decoder gives, such as a Python object or an infinity."""
    return ExpressionError("not_json", "there is a value here that is not JSON", at)


def _number_too_large(at: int) -> ExpressionError:
    return ExpressionError("number_too_large", "the result is not within 64 bits, or not finite", at)


def _text_too_large(at: int) -> ExpressionError:
    return ExpressionError("too_large", f"an expression makes at most {MAX_TEXT_CHARACTERS:,} characters of text", at)


def _wrong_argument(name: str, expected: str, value: object, at: int, where: str = "") -> ExpressionError:
    return ExpressionError("wrong_type", f"{name} takes {expected}, and found {kind_of(value)}{where}", at)


_NO_FIELDS: Final = {
    "null": "if it may be null, give a default with ??",
    "a list": "its items have fields: [0] is the first item, map(list, field) gives the field of each",
}


def no_element(value: object, key: object, at: int, constant: bool) -> ExpressionError:
    """Return the error for a missing *key* in *value*; it names the key only if that is *constant*, not a value."""
    if type(key) is not str and type(key) is not int:
        return ExpressionError("wrong_type", f"an index is an integer or a text, and this is {kind_of(key)}", at)
    kind = kind_of(value)
    if type(key) is str:
        named = f"field {path_text([key])}" if constant else "field of this name"
        if type(value) is dict:
            hint = nearest(key, value) or "if it may be missing, give a default with ??"
            return ExpressionError("unknown_field", f"there is no {named}", at, hint)
        said = f"a field is read from an object, and this is {kind}"
        return ExpressionError("wrong_type", said, at, _NO_FIELDS.get(kind, ""))
    if type(value) is list or type(value) is tuple or type(value) is str:
        said = f"there are {counted(len(value), 'character' if type(value) is str else 'item')}, and not this one"
        return ExpressionError("out_of_range", said, at, "the first is 0, the last is -1")
    return ExpressionError("wrong_type", f"an item is read from a list or a text, and this is {kind}", at)


def nearest(name: str, known: Iterable[object]) -> str:
    """Return a hint with the nearest of the first few hundred *known* names, or nothing."""
    candidates = [other for other in islice(known, 256) if type(other) is str and abs(len(other) - len(name)) <= 3]
    near = get_close_matches(name, candidates, n=1) if len(name) <= 64 else []
    return f"did you mean {near[0]}?" if near else ""


def counted(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural unless it is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
