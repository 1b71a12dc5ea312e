"""Values as a plan document has them: as templates, or as expressions; with what `let` calls put in their place.

A `let` is gone after this: where its name is read, its value stands. That keeps the document to one kind of name, and
an expression in it says all that it reads.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from planmesh.planner.language.tree import Constant, Entries, Formula, Items, Text, Value
from planmesh.schemas.expressions import MAX_EXPRESSION_CHARACTERS, Expression, ExpressionError, parse, reads_of
from planmesh.schemas.templates import compile_template, escape

MAX_CHARACTERS: Final = 65_536
"""Of what `let` gives a name, and of what it puts into one value."""
MAX_CHARACTERS_IN_SCRIPT: Final = 524_288
"""Of the values into which `let` puts something, together: they are read once more."""

_PATH: Final = re.compile(r"(?:\.[A-Za-z_]\w*|\[-?[0-9]+\])*")
_BRACE: Final = re.compile(r"[{}]")
_ESCAPES: Final = {code: f"\\u{code:04x}" for code in range(0x20)} | str.maketrans(
    {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
)
_NOTHING: Final[frozenset[str]] = frozenset()


class Unwritable(Exception):
    """A value cannot be written with what `let` puts in.

    Attributes:
        code: Of a problem.
        message: What is wrong; nothing, if that has been said.
        hint: What to do.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Written:
    """A value in the form of the document.

    Attributes:
        value: A template, or the text of an expression.
        names: Every name that it reads.
        required: Those that it reads at least once without a ``??``.
    """

    value: Any
    names: frozenset[str] = _NOTHING
    required: frozenset[str] = _NOTHING


@dataclass(frozen=True, slots=True)
class Alias:
    """What `let` has given a name.

    Attributes:
        template: The value, without other aliases in it.
        is_text: Whether it was written as a text, so that it can go on within another one.
        size: Characters of it, roughly.
        expression: The value as an expression; empty if that would be too long for one.
        either: Two names, of which it is the first that is there; else nothing.
    """

    template: Any
    is_text: bool
    size: int
    expression: str
    either: tuple[str, ...] = ()


Aliases: TypeAlias = Mapping[str, Alias]


class Writer:
    """Writes the values of one script.

    Attributes:
        aliases: What `let` calls.
    """

    def __init__(self, aliases: Aliases) -> None:
        self.aliases = aliases
        self._left_in_script = MAX_CHARACTERS_IN_SCRIPT
        self._left = 0

    def template(self, value: Value) -> Written:
        """*value* as a JSON template. Raises: Unwritable."""
        if self.aliases.keys().isdisjoint(value.names):
            return Written(self._template(value), value.names, value.required)
        self._spend()
        self._left = MAX_CHARACTERS
        document = self._template(value)
        self._spend(len(json.dumps(document)))
        try:
            read = compile_template(document)
        except ExpressionError as error:
            raise _spoilt(error) from None
        return Written(document, read.names, read.required)

    def expression(self, value: Value) -> Written:
        """*value* as the text of an expression. Raises: Unwritable."""
        if isinstance(value, Formula) and self.aliases.keys().isdisjoint(value.names):
            return Written(value.text, value.names, value.required)
        self._spend()
        self._left = MAX_CHARACTERS
        text = self._expression(value)
        self._spend(len(text))
        read = _parsed(text)
        return Written(read.text, read.names, read.required)

    def alias(self, value: Value, written: Written) -> Alias:
        """What *value*, which was *written* as a template, is for those that read it by a name. Raises: Unwritable."""
        template = written.value
        size = len(json.dumps(template))
        if size > MAX_CHARACTERS:
            raise _too_large(f"what `let` gives a name has at most {MAX_CHARACTERS:,} characters; this has {size:,}")
        expression = _expression_of(template)
        return Alias(
            template, isinstance(value, Text), size, expression if len(expression) <= MAX_EXPRESSION_CHARACTERS else ""
        )

    def _put_in(self, name: str) -> Alias:
        alias = self.aliases[name]
        self._left -= alias.size
        if self._left < 0:
            raise _too_large(f"`let` puts more than {MAX_CHARACTERS:,} characters into this")
        return alias

    def _spend(self, characters: int = 0) -> None:
        """Take off what has been written with something put in. Raises: Unwritable, of which one is enough to see."""
        was_left, self._left_in_script = self._left_in_script > 0, self._left_in_script - characters
        if self._left_in_script <= 0:
            said = f"what `let` has put something into has more than {MAX_CHARACTERS_IN_SCRIPT:,} characters by here"
            raise _too_large(said if was_left else "")

    # --- templates -----------------------------------------------------------------------------------------

    def _template(self, value: Value) -> Any:
        match value:
            case Constant(value=constant):
                return constant
            case Text(template=template):
                return template if self.aliases.keys().isdisjoint(value.names) else self._spliced(template)
            case Formula(text=text):
                return self._put_in(text).template if text in self.aliases else _embedded(self._expression(value))
            case Items(items=items):
                return [self._template(item) for item in items]
            case Entries(entries=entries):
                return {entry.key: self._template(entry.value) for entry in entries}
            case _:
                return None  # it is broken, and nobody will run it

    def _spliced(self, template: str) -> Any:
        pieces = _pieces(template)
        if len(pieces) == 1 and isinstance(pieces[0], Expression) and pieces[0].text in self.aliases:
            # The text is nothing but the value, whatever its kind.
            return self._put_in(pieces[0].text).template
        return "".join(escape(piece) if isinstance(piece, str) else self._hole(piece) for piece in pieces)

    def _hole(self, expression: Expression) -> str:
        alias = self.aliases.get(expression.text)
        if alias is not None and alias.is_text and isinstance(alias.template, str):
            return str(self._put_in(expression.text).template)
        return _embedded(self._substituted(expression))

    # --- expressions ---------------------------------------------------------------------------------------

    def _expression(self, value: Value) -> str:
        match value:
            case Constant(value=constant):
                return json.dumps(constant)
            case Text(template=template):
                return _expression_of(
                    template if self.aliases.keys().isdisjoint(value.names) else self._spliced(template)
                )
            case Formula(text=text):
                return text if self.aliases.keys().isdisjoint(value.names) else self._substituted(parse(text))
            case Items(items=items):
                return f"[{', '.join(self._expression(item) for item in items)}]"
            case Entries(entries=entries):
                written = (f"{_quoted(entry.key)}: {self._expression(entry.value)}" for entry in entries)
                return f"{{{', '.join(written)}}}"
            case _:
                return "null"

    def _substituted(self, expression: Expression) -> str:
        """The text of *expression*, with what `let` calls in the places where it reads that."""
        text = expression.text
        for name, place in sorted(reads_of(expression), key=lambda read: -read[1]):
            if name not in self.aliases:
                continue
            alias = self._put_in(name)
            if alias.either:
                text = _either(text, place, name, alias.either)
                _check_length(text)
                continue
            put_in = alias.expression
            if not put_in:
                raise _too_large(f"what `let` calls {name} is too long to be a part of an expression")
            # A path may go on: what is read of it is read of the whole.
            is_path = parse(put_in).path is not None
            text = f"{text[:place]}{put_in if is_path else f'({put_in})'}{text[place + len(name) :]}"
            _check_length(text)
        return text


def _either(text: str, place: int, name: str, either: tuple[str, ...]) -> str:
    """*text*, with the first of two names that is there where it reads *name*: each is read as far as that is."""
    end = place + len(name)
    path = _PATH.match(text, end)
    assert path is not None  # it matches nothing as well
    written = " ?? ".join(f"{one}{path[0]}" for one in either)
    rest = text[path.end() :]
    is_left = rest.lstrip().startswith("??")
    return f"{text[:place]}{written if is_left else f'({written})'}{rest}"


def _embedded(expression: str) -> str:
    return f"{{ {expression}}}" if expression.startswith("{") else f"{{{expression}}}"


def _expression_of(template: Any) -> str:
    """A JSON template as an expression of the same value: ``join(["Dear ", name], "")`` writes as a text does."""
    if isinstance(template, str):
        pieces = _pieces(template)
        if all(isinstance(piece, str) for piece in pieces):
            return _quoted("".join(map(str, pieces)))
        written = [piece.text if isinstance(piece, Expression) else _quoted(piece) for piece in pieces]
        return written[0] if len(written) == 1 else f'join([{", ".join(written)}], "")'
    if isinstance(template, list):
        return f"[{', '.join(map(_expression_of, template))}]"
    if isinstance(template, dict):
        return f"{{{', '.join(f'{_quoted(key)}: {_expression_of(inner)}' for key, inner in template.items())}}}"
    return json.dumps(template)


def _pieces(template: str) -> list[str | Expression]:
    """The expressions of a text that can be read, and what is between them, with single braces."""
    expressions = iter(compile_template(template).expressions)
    pieces: list[str | Expression] = []
    literal: list[str] = []
    position = 0
    while (brace := _BRACE.search(template, position)) is not None:
        at = brace.start()
        literal.append(template[position:at])
        if template[at : at + 2] in ("{{", "}}"):
            literal.append(template[at])
            position = at + 2
            continue
        if between := "".join(literal):
            pieces.append(between)
        literal = []
        expression = next(expressions)
        pieces.append(expression)
        start = template.index(expression.text, at + 1)
        position = template.index("}", start + len(expression.text)) + 1
    if between := "".join([*literal, template[position:]]):
        pieces.append(between)
    return pieces


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _parsed(text: str) -> Expression:
    _check_length(text)
    try:
        return parse(text)
    except ExpressionError as error:
        raise _spoilt(error) from None


def _check_length(text: str) -> None:
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        most = f"an expression has at most {MAX_EXPRESSION_CHARACTERS:,} characters"
        raise _too_large(f"{most}, and with what `let` puts in this one has {len(text):,}")


def _spoilt(error: ExpressionError) -> Unwritable:
    hint = error.hint or "write out what `let` calls"
    return Unwritable("bad_expression", f"with what `let` puts in: {error.message}", hint)


def _too_large(message: str) -> Unwritable:
    return Unwritable("too_large", message, "pass it as an input, or let a step compute it")
