"""Templates: JSON documents whose strings hold expressions in braces.

    {"to": "{customer.email}", "subject": "Order {order.number}", "rows": "{map(order.lines, title)}"}

A string that is one ``{expression}`` and nothing else becomes the expression's value, whatever its kind. In any other
string the value is written into the text: a text as it is, anything else as compact JSON (``null``, ``true``, ``2.5``,
``{"a":1}``). ``{{`` and ``}}`` are the braces themselves; a brace that is neither is an error. The keys of objects
are never templates. An expression that begins with a brace needs a space before it: ``{ {a: 1} }``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, NamedTuple

from planmesh.schemas.expressions import MAX_EXPRESSION_CHARACTERS, Expression, parse, unknown_names
from planmesh.schemas.values import ExpressionError, NeedsBlob, Unloaded, size_of, text_of

MAX_TEMPLATE_DEPTH: Final = 32
"""Lists and objects inside one another."""
MAX_RENDERED_CHARACTERS: Final = 7 * 1024 * 1024
"""Of all that the expressions of one document give together. What is constant in it is bounded by the plan's limit."""
MAX_TEMPLATE_WORK: Final = 1_000_000
"""Of all expressions of one document together, in the units of `planmesh.schemas.values.MAX_WORK`."""
MAX_PROBLEMS: Final = 100
"""That `problems` lists; where there are more, mending the first comes first."""

_DOUBLE: Final = "a brace that is meant as text is doubled: {{ or }}"
_NO_END: Final = f"this {{ begins an expression, and no }} ends it within {MAX_EXPRESSION_CHARACTERS:,} characters"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Template:
    """A document that was read, ready to be rendered any number of times.

    Attributes:
        document: As it was given.
        names: Every name that its expressions read.
        required: The names that are read at least once without a ``??`` to fall back on.
        expressions: All of them, in the order of the document.
    """

    document: object
    names: frozenset[str]
    required: frozenset[str]
    expressions: tuple[Expression, ...]
    _render: "_Render"

    def render(self, names: Mapping[str, object]) -> object:
        """Return the document with values in place of its expressions.

        What is constant in it, and what comes from *names*, is not copied.

        Raises:
            ExpressionError: An expression has no value, or a limit is broken; *pointer* says where in the document.
            NeedsBlob: An expression depends on something that is `Unloaded`: what all of them do, together.
        """
        missing: list[Unloaded] = []
        rendered = self._render(_Rendering(names, [MAX_TEMPLATE_WORK], [MAX_RENDERED_CHARACTERS], missing))
        if missing:
            raise NeedsBlob(missing[0], also=missing)
        return rendered

    def render_references(self, names: Mapping[str, object]) -> object:
        """Return the document as far as it can be told without loading a blob, to be read by people.

        Where a string is nothing but the path of something that is `Unloaded`, a reference stands:
        ``{"$blob": sha256, "size_bytes": …, "path": "items[0].name"}``, without *path* for the whole of it. Where
        any other expression needs a blob, its source stands, in its braces. A value from *names* may look like a
        reference as well: do not follow them.

        Raises:
            ExpressionError: As for `render`.
        """
        return self._render(_Rendering(names, [MAX_TEMPLATE_WORK], [MAX_RENDERED_CHARACTERS], None))


def compile_template(document: object) -> Template:
    """Read *document*, a JSON value, with all the expressions in it.

    Raises:
        ExpressionError: The first of its `problems`.
    """
    reader = _Reader()
    render = reader.read(document)
    if reader.problems:
        raise reader.problems[0]
    expressions = tuple(reader.expressions)
    return Template(
        document=document,
        names=frozenset().union(*(expression.names for expression in expressions)),
        required=frozenset().union(*(expression.required for expression in expressions)),
        expressions=expressions,
        _render=render or _constant(document),
    )


def problems(document: object, known: Collection[str] | None = None) -> list[ExpressionError]:
    """Return all that is wrong with *document* as a template, in its order, up to `MAX_PROBLEMS`.

    Args:
        document: A JSON value.
        known: The names that expressions may read; any, if it is not given.
    """
    reader = _Reader(None if known is None else frozenset(known))
    reader.read(document)
    return reader.problems


def escape(text: str) -> str:
    """Return the template that renders to exactly *text*."""
    return text.replace("{", "{{").replace("}", "}}")


def embed(expression: Expression) -> str:
    """Return the template that renders to exactly the value of *expression*."""
    return f"{{ {expression.text}}}" if expression.text.startswith("{") else f"{{{expression.text}}}"


def only_path(text: str) -> tuple[str | int, ...] | None:
    """The constant path that *text* is the value of, if it is ``{path}`` and nothing else."""
    if not text.startswith("{") or not text.endswith("}"):
        return None
    parts = _Reader().parts(text)
    hole = parts[0] if len(parts) == 1 else None
    return hole.expression.path if isinstance(hole, _Hole) else None


class _Rendering(NamedTuple):
    """One rendering under way.

    Attributes:
        work: One number, what is left of it; `characters` likewise.
        missing: Blobs that it needs; None where references stand for them.
    """

    names: Mapping[str, object]
    work: list[int]
    characters: list[int]
    missing: list[Unloaded] | None

    def spend(self, characters: int) -> None:
        self.characters[0] -= characters
        if self.characters[0] < 0:
            raise ExpressionError(
                "too_large",
                f"the document would hold more than {MAX_RENDERED_CHARACTERS:,} characters",
                0,
                "pass on a part of the value, or let the agent fetch it",
            )


_Render = Callable[[_Rendering], object]


class _Reader:
    """Reads a document; collects its expressions and whatever is wrong with it."""

    def __init__(self, known: frozenset[str] | None = None) -> None:
        self.known = known
        self.expressions: list[Expression] = []
        self.problems: list[ExpressionError] = []
        self.path: list[str | int] = []

    def read(self, value: object) -> _Render | None:
        """Return what renders *value*, or None if it renders to itself."""
        if type(value) is str:
            return self.string(value) if "{" in value or "}" in value else None
        if type(value) is dict:
            return self.entries(value) if self.may_nest() else None
        if type(value) is list or type(value) is tuple:
            return self.items(value) if self.may_nest() else None
        if value is not None and type(value) not in (bool, int) and not (type(value) is float and isfinite(value)):
            self.add("not_json", "there is a value here that is not JSON")
        return None

    def may_nest(self) -> bool:
        if len(self.path) < MAX_TEMPLATE_DEPTH:
            return True
        self.add("too_deep", f"a document nests at most {MAX_TEMPLATE_DEPTH} levels")
        return False

    def entries(self, value: dict[object, object]) -> _Render | None:
        renders: list[tuple[str, _Render]] = []
        for key, item in value.items():
            if len(self.problems) == MAX_PROBLEMS:
                break
            if type(key) is not str:
                self.add("not_json", "the keys of an object are texts, and here is another")
                continue
            self.path.append(key)
            render = self.read(item)
            self.path.pop()
            if render is not None:
                renders.append((key, render))
        if not renders:
            return None

        def render_object(rendering: _Rendering) -> object:
            rendered = value.copy()
            for key, render in renders:
                rendered[key] = render(rendering)
            return rendered

        return render_object

    def items(self, value: Sequence[object]) -> _Render | None:
        renders: list[tuple[int, _Render]] = []
        for index, item in enumerate(value):
            if len(self.problems) == MAX_PROBLEMS:
                break
            self.path.append(index)
            render = self.read(item)
            self.path.pop()
            if render is not None:
                renders.append((index, render))
        if not renders:
            return None

        def render_list(rendering: _Rendering) -> object:
            rendered = [*value]
            for index, render in renders:
                rendered[index] = render(rendering)
            return rendered

        return render_list

    def string(self, text: str) -> _Render | None:
        parts = self.parts(text)
        pointer = self.pointer()
        if len(parts) == 1 and isinstance(parts[0], _Hole):
            return _whole(parts[0], text, pointer)
        if all(isinstance(part, str) for part in parts):
            constant = "".join(str(part) for part in parts)
            return lambda rendering: constant
        return _mixed(parts, text, pointer)

    def parts(self, text: str) -> "list[str | _Hole]":
        """Split *text* at its expressions; what is between them has its braces undoubled."""
        parts: list[str | _Hole] = []
        literal: list[str] = []
        position = 0
        opening = closing = -1
        while True:
            # Each brace is looked for once: a text of a million of one kind takes no longer than any other.
            if opening < position:
                opening = _find(text, "{", position)
            if closing < position:
                closing = _find(text, "}", position)
            brace = min(opening, closing)
            literal.append(text[position:brace])
            if brace == len(text) or len(self.problems) == MAX_PROBLEMS:
                break
            if text[brace + 1 : brace + 2] == text[brace]:
                literal.append(text[brace])
                position = brace + 2
                continue
            position = brace + 1
            if text[brace] == "}":
                self.add("unbalanced_brace", "this } closes nothing", text, brace, _DOUBLE)
                continue
            end = _end_of_hole(text, position)
            if end < 0:
                self.add("unbalanced_brace", _NO_END, text, brace, _DOUBLE)
                break
            if between := "".join(literal):
                parts.append(between)
            literal.clear()
            hole = self.hole(text, position, end)
            if hole is not None:
                parts.append(hole)
            position = end + 1
        if between := "".join(literal):
            parts.append(between)
        return parts

    def hole(self, text: str, start: int, end: int) -> "_Hole | None":
        source = text[start:end]
        start += len(source) - len(source.lstrip())
        try:
            expression = parse(source.strip())
        except ExpressionError as error:
            self.add(error.code, error.message, text, start + error.position, error.hint or _DOUBLE)
            return None
        if self.known is not None:
            for unknown in unknown_names(expression, self.known):
                self.add(unknown.code, unknown.message, text, start + unknown.position, unknown.hint)
        self.expressions.append(expression)
        return _Hole(expression, f"{{{source}}}", start)

    def add(self, code: str, message: str, text: str = "", position: int = 0, hint: str = "") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(ExpressionError(code, message, position, hint, text, self.pointer()))

    def pointer(self) -> str:
        return "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in self.path)


class _Hole(NamedTuple):
    """An expression in a string: its source with the braces, and where in the string it starts."""

    expression: Expression
    source: str
    start: int


def _find(text: str, brace: str, start: int) -> int:
    found = text.find(brace, start)
    return len(text) if found < 0 else found


def _end_of_hole(text: str, start: int) -> int:
    """Return where the brace is that ends the expression at *start*, or -1."""
    limit = min(len(text), start + MAX_EXPRESSION_CHARACTERS + 2)
    end = text.find("}", start, limit)
    if end < 0 or (text.find("{", start, end) < 0 and text.find('"', start, end) < 0):
        return end
    depth = 0
    quoted = escaped = False
    for position in range(start, limit):
        character = text[position]
        if escaped:
            escaped = False
        elif quoted:
            escaped = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character == "{":
            depth += 1
        elif character == "}":
            if depth == 0:
                return position
            depth -= 1
    return -1


def _constant(document: object) -> _Render:
    return lambda rendering: document


def _whole(hole: _Hole, text: str, pointer: str) -> _Render:
    expression = hole.expression

    def render_whole(rendering: _Rendering) -> object:
        try:
            try:
                value = expression.run(rendering.names, rendering.work)
            except NeedsBlob as needs:
                if rendering.missing is not None:
                    rendering.missing.extend(needs.blobs)
                    return None
                value = _reference(needs.blob, needs.path) if expression.path else hole.source
            if rendering.missing is None:
                value = _with_references(value)
            rendering.spend(size_of(value))
        except ExpressionError as error:
            _place(error, hole, text, pointer)
            raise
        return value

    return render_whole


def _mixed(parts: "list[str | _Hole]", text: str, pointer: str) -> _Render:
    def render_mixed(rendering: _Rendering) -> object:
        rendered: list[str] = []
        for part in parts:
            if type(part) is str:
                rendered.append(part)
                continue
            assert isinstance(part, _Hole)
            try:
                try:
                    piece = text_of(part.expression.run(rendering.names, rendering.work))
                except NeedsBlob as needs:
                    if rendering.missing is not None:
                        rendering.missing.extend(needs.blobs)
                        continue
                    piece = part.source
                rendering.spend(len(piece))
            except ExpressionError as error:
                _place(error, part, text, pointer)
                raise
            rendered.append(piece)
        return "".join(rendered)

    return render_mixed


def _place(error: ExpressionError, hole: _Hole, text: str, pointer: str) -> None:
    """Make *error*, which counts in the expression of *hole*, count in the string that holds it."""
    error.position += hole.start
    error.text = text
    error.pointer = pointer


def _reference(blob: Unloaded, path: str = "") -> dict[str, object]:
    reference: dict[str, object] = {"$blob": blob.sha256, "size_bytes": blob.size_bytes}
    if path:
        reference["path"] = path
    return reference


def _with_references(value: object, depth: int = 0) -> object:
    """Return *value* with a reference in place of whatever is `Unloaded` inside of it."""
    if type(value) is Unloaded:
        return _reference(value)
    if depth > 4 * MAX_TEMPLATE_DEPTH:
        raise ExpressionError("too_deep", "the value nests too deep to be shown", 0)
    if type(value) is dict:
        return {key: _with_references(item, depth + 1) for key, item in value.items()}
    if type(value) is list or type(value) is tuple:
        return [_with_references(item, depth + 1) for item in value]
    return value
