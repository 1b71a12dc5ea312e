"""Text to a JSON value: a plan document as people write it, in YAML or JSON, or a script to be made into one.

YAML is taken as JSON with other punctuation. Of YAML 1.2's core schema it has mappings, sequences, the scalars
that JSON has, and both styles of comment and block text. A date is text, and so are ``yes``, ``on`` and ``12:30``.
Anchors, aliases, tags, several documents and keys that are no text are refused: nothing stands for anything but itself.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import yaml

from planmesh.planner.graph import MOST_WORK
from planmesh.planner.language.recognise import is_script
from planmesh.planner.problems import Problems, quoted
from planmesh.schemas.codec import MAX_DEPTH, DecodeError, check_depth, describe
from planmesh.schemas.mandate import MAX_PLANS
from planmesh.schemas.plan import MAX_PLAN_BYTES, MAX_STEPS

MAX_COMPLETED_BYTES: Final = 6 * 1024 * 1024
MAX_EMITS: Final = 100
DEFAULT_CONCURRENCY: Final = 100
MAX_EXPRESSION_CHARACTERS: Final = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a plan may be."""

    document_bytes: int = MAX_PLAN_BYTES
    depth: int = MAX_DEPTH - 1
    """One level less than a message has, because a message holds it."""
    steps: int = MAX_STEPS
    emits: int = MAX_EMITS
    expression_characters: int = MAX_EXPRESSION_CHARACTERS
    """Of all different expressions together: to parse one takes some ten microseconds a character."""
    comparisons: int = MOST_WORK
    """See `planmesh.planner.graph.MOST_WORK`."""
    models: tuple[str, ...] | None = None
    """The models that a step may choose; None: any, or nobody knows them here."""
    concurrency: int = DEFAULT_CONCURRENCY
    """Tasks in flight at once, of a plan that does not say."""
    plans: int = MAX_PLANS
    """How many plans may run for the steps of a plan, in all."""
    may_allow_harm: bool = False
    """Whether a plan may say in its policy that a step of a model's may do harm without a gate before it."""
    completed_bytes: int = MAX_COMPLETED_BYTES
    """The completed plan with the goal's inputs: one message of the log holds both, and the server takes 8 MiB."""


LIMITS: Final = Limits()


class Unreadable(Exception):
    """A document that is no JSON value. What is wrong with it has been added to the problems."""


def read_document(document: object, problems: Problems, limits: Limits = LIMITS) -> dict[str, Any]:
    """The object that *document* holds: a script, a text in JSON or YAML, or an object already.

    Raises:
        Unreadable: There is none.
    """
    if is_script(document):
        value: Any = _read_script(str(document), problems)
    else:
        value = _read_text(document, problems, limits) if isinstance(document, str | bytes) else document
    value = _plain_json(value, problems, limits)
    if not isinstance(value, dict):
        raise _unreadable(
            problems,
            "malformed",
            f"expected a plan: an object with `name` and `steps`; found {_found(value)}",
        )
    return value


def _found(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"only the text {quoted(value)}"
    return "a list" if isinstance(value, list) else f"only {json.dumps(value)[:60]}"


def _unreadable(problems: Problems, code: str, message: str, *at: str | int, hint: str = "") -> Unreadable:
    problems.add(code, message, *at, hint=hint)
    return Unreadable()


def _plain_json(value: object, problems: Problems, limits: Limits) -> Any:
    """*value* as it comes back from JSON, within the limits."""
    try:
        data = msgspec.json.encode(value)
    except RecursionError:
        raise _unreadable(problems, "too_deep", _too_deep(limits)) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise _unreadable(problems, "malformed", f"expected what JSON can hold: {error}") from None
    if len(data) > limits.document_bytes:
        raise _unreadable(problems, "too_large", _too_large(len(data), limits))
    try:
        check_depth(data, limits.depth)
        return msgspec.json.decode(data)
    except (DecodeError, RecursionError):
        raise _unreadable(problems, "too_deep", _too_deep(limits)) from None
    except msgspec.MsgspecError as error:
        raise _unreadable(problems, "malformed", f"expected what JSON can hold: {error}") from None


def _too_large(size_bytes: int, limits: Limits) -> str:
    return f"a plan document has at most {limits.document_bytes:,} bytes; this one has {size_bytes:,}"


def _too_deep(limits: Limits) -> str:
    return f"a plan document is nested at most {limits.depth} deep; this one is deeper"


def _read_text(text: str | bytes, problems: Problems, limits: Limits) -> Any:
    size_bytes = len(text)
    if size_bytes <= limits.document_bytes:
        try:
            text = text.encode() if isinstance(text, str) else text.decode().encode()
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise _unreadable(
                problems, "malformed", f"expected text in UTF-8: {error.reason} at {error.start}"
            ) from None
        size_bytes = len(text)
    if size_bytes > limits.document_bytes:
        raise _unreadable(problems, "too_large", _too_large(size_bytes, limits))
    assert isinstance(text, bytes)
    text = text.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        return _read_json(text, problems, limits)
    return _read_yaml(text.decode(), problems, limits)


def _read_script(text: str, problems: Problems) -> Any:
    # Whoever writes no scripts need not load what reads them.
    from planmesh.planner.language.translate import translate

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _unreadable(problems, "malformed", f"expected text in UTF-8: {error.reason} at {error.start}") from None
    translation = translate(text)
    problems.begin_with(translation)
    return translation.document


def place(line: int, column: int, text: str) -> str:
    """Where something is in *text* (lines and columns from 1), with the line itself."""
    lines = text.split("\n")
    said = f"line {line}, column {column}"
    if not 0 < line <= len(lines) or not (found := lines[line - 1].strip()):
        return said
    start = max(0, column - 40) if len(found) > 80 else 0
    return f"{said}: {quoted(found[start : start + 80])}"


# --- JSON --------------------------------------------------------------------------------------------------


def _read_json(data: bytes, problems: Problems, limits: Limits) -> Any:
    try:
        check_depth(data, limits.depth)
    except DecodeError:
        raise _unreadable(problems, "too_deep", _too_deep(limits)) from None
    try:
        value = msgspec.json.decode(data)
    except msgspec.ValidationError as error:
        # It is JSON, but has a number that Python has no form for.
        said, where = describe(error)
        raise _unreadable(
            problems, "malformed", f"expected what JSON can hold: {said}", *where.split("/")[1:]
        ) from None
    except msgspec.DecodeError as error:
        said, position = _what_and_where(str(error), len(data))
        before = data[:position].decode(errors="replace")
        where = place(before.count("\n") + 1, len(before) - before.rfind("\n"), data.decode())
        raise _unreadable(
            problems,
            "malformed",
            f"expected JSON, because the document begins with {quoted(data.lstrip()[:1].decode())}; {said} ({where})",
        ) from None
    refuse_duplicates(data, problems)
    if problems:
        raise Unreadable
    return value


_POSITION = re.compile(r"^(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?$", re.DOTALL)


def _what_and_where(error: str, end: int) -> tuple[str, int]:
    match = _POSITION.match(error)
    assert match is not None  # the pattern matches every string
    said = "the text ends too early" if match[1] == "Input data was truncated" else match[1]
    return said, int(match[2]) if match[2] else end


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written: its keys may come twice."""


def refuse_duplicates(data: bytes, problems: Problems, inside: str = "") -> None:
    """Add a problem for each key that an object of *data* has twice: the last would win, silently.

    Args:
        data: JSON that is not deep.
        inside: A key of the outermost object; pointers into its value begin there.
    """
    twice = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) != len(pairs)

    # Numbers are left as they are written: Python takes no integer of 5,000 digits.
    json.loads(data, object_pairs_hook=look, parse_int=str, parse_float=str)
    if twice:
        written = json.loads(data, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
        for at in _duplicates(written, ()):
            place = at[1:] if len(at) > 1 and at[0] == inside else at
            problems.add("duplicate_key", f"an object has the key {quoted(str(at[-1]))} twice", *place)


def _duplicates(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, _Pairs):
        times = Counter(key for key, _ in value)
        yield from ((*at, key) for key, count in times.items() if count > 1)
        for key, inner in value:
            yield from _duplicates(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _duplicates(inner, (*at, index))


# --- YAML --------------------------------------------------------------------------------------------------

# libyaml where it is built in: ten times as fast.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# YAML 1.2.2, section 10.3.2 (core schema).
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OTHER_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 400


def _read_yaml(text: str, problems: Problems, limits: Limits) -> Any:
    try:
        return _Builder(text, problems, limits).build()
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        where = _marked(error.problem_mark or error.context_mark, text)
        raise _unreadable(problems, "malformed", f"expected YAML (or JSON); {said} ({where})") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise _unreadable(problems, "malformed", f"expected YAML (or JSON); {quoted(said)}") from None


class _Builder:
    """Builds a value from what a YAML parser reads, event by event: no recursion, and nothing before its limit."""

    def __init__(self, text: str, problems: Problems, limits: Limits) -> None:
        self._text = text
        self._problems = problems
        self._limits = limits
        self._whole: list[Any] = []
        self._documents = 0
        # What is open, innermost last: a list, or an object with the key that waits for its value.
        self._open: list[list[Any] | dict[str, Any]] = [self._whole]
        self._keys: list[str | None] = [None]

    def build(self) -> Any:
        for event in yaml.parse(self._text, Loader=_LOADER):
            if getattr(event, "anchor", None) is not None:
                raise self._refuse("alias", "anchors and aliases (& and *) are not read", event, "write the value out")
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.MappingStartEvent():
                    self._begin(event, {})
                case yaml.SequenceStartEvent():
                    self._begin(event, [])
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._open.pop()
                    self._keys.pop()
                case yaml.DocumentStartEvent():
                    self._documents += 1
                    if self._documents > 1:
                        raise self._refuse("malformed", "expected one document, found another after `---`", event)
                case _:
                    pass
        return self._whole[0] if self._whole else None

    def _begin(self, event: yaml.CollectionStartEvent, value: dict[str, Any] | list[Any]) -> None:
        if event.tag is not None and event.tag != "!":
            raise self._refuse("alias", f"the tag {quoted(event.tag)} is not read", event, "leave it out")
        if isinstance(self._open[-1], dict) and self._keys[-1] is None:
            raise self._refuse("malformed", "a key is a text, not a list or an object", event)
        self._put(value)
        self._open.append(value)
        self._keys.append(None)
        if len(self._open) - 1 > self._limits.depth:
            raise self._refuse("too_deep", _too_deep(self._limits), event)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self._refuse(
                "alias", f"the tag {quoted(event.tag)} is not read", event, "quote a text, or leave it out"
            )
        inner = self._open[-1]
        if isinstance(inner, dict) and self._keys[-1] is None:
            if event.value in inner:
                raise self._refuse("duplicate_key", f"an object has the key {quoted(event.value)} twice", event)
            self._keys[-1] = event.value
            return
        plain = event.tag is None and event.implicit[0]
        self._put(self._plain(event) if plain else event.value)

    def _put(self, value: Any) -> None:
        inner, key = self._open[-1], self._keys[-1]
        if isinstance(inner, list):
            inner.append(value)
        else:
            assert key is not None  # `_scalar` and `_begin` have seen to it
            inner[key] = value
            self._keys[-1] = None

    def _plain(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if text in _NULL:
            return None
        if text in _BOOLEAN:
            return _BOOLEAN[text]
        if text[0] not in "-+.0123456789":
            return text
        number = len(text) <= _LONGEST_NUMBER
        if number and _INTEGER.fullmatch(text):
            return int(text)
        if number and _OTHER_INTEGER.fullmatch(text):
            return int(text, 0)
        if number and _FLOAT.fullmatch(text):
            value = float(text)
            if value - value == 0:
                return value
        elif not _NOT_FINITE.fullmatch(text):
            return text
        raise self._refuse("malformed", f"{quoted(text)} is a number that JSON has no form for", event, "quote it")

    def _refuse(self, code: str, message: str, event: yaml.Event, hint: str = "") -> Unreadable:
        where = _marked(event.start_mark, self._text)
        return _unreadable(self._problems, code, f"{message} ({where})", hint=hint)


def _marked(mark: Any, text: str) -> str:
    return "at an unknown place" if mark is None else place(mark.line + 1, mark.column + 1, text)
