"""A script as it should look: the indented form, whatever form it was written in.

Two spaces a level, a field a line, the binding last, a blank line between steps. Comments stay with the line that they
stand before or behind. Texts and expressions are left as they were written, but for the white space around them; a
list or an object that has comments in it is left as it is. What was formatted is formatted to itself.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.layout import Comment
from planmesh.planner.language.parse import Parsed, parse
from planmesh.planner.language.source import Source, Span
from planmesh.planner.language.tree import (
    Action,
    Binding,
    Branch,
    Entries,
    Field,
    Head,
    HeaderPart,
    Inputs,
    Item,
    Items,
    Let,
    Node,
    OnError,
    OnOutcome,
    Otherwise,
    Output,
    Outputs,
    Parameter,
    Part,
    Step,
    Title,
    Value,
    When,
)
from planmesh.planner.language.values import block_lines, in_one_line
from planmesh.schemas.goals import Problem

WIDTH: Final = 100
"""Characters that a line with a list or an object may have; a longer one has a line for each of its items."""

_INDENT: Final = "  "
_ACTIONS: Final = {"go_on": "continue"}


def format_script(text: str) -> str | list[Problem]:
    """*text* as it should look; or what is wrong with its form, for which it is left as it is."""
    source = Source(text.removeprefix("\ufeff"))
    findings = Findings(source)
    parsed = parse(source, findings)
    if findings:
        return findings.problems()
    entries = _Printer(parsed).entries()
    return _woven(entries, parsed.layout.comments, source)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line as it should look, or several.

    Attributes:
        span: What it stands for.
        apart: Whether a blank line stands before it; None: if one did.
    """

    span: Span
    level: int
    text: str
    apart: bool | None = False


class _Printer:
    """Writes the parts of a script, without the comments between them."""

    def __init__(self, parsed: Parsed) -> None:
        self._script = parsed.script
        self._source = parsed.layout.source
        self._clean = parsed.layout.clean
        self._comments = parsed.layout.comments
        self._entries: list[_Entry] = []

    def entries(self) -> list[_Entry]:
        for number, part in enumerate(self._script.header):
            self._header_part(part, is_first=number == 0)
        self._items(self._script.body, 0, is_apart=bool(self._script.header))
        return self._entries

    def _put(self, node: Node, level: int, text: str, *, apart: bool | None = False) -> None:
        self._entries.append(_Entry(node.span, level, text, apart))

    # --- parts of a script ---------------------------------------------------------------------------------

    def _header_part(self, part: HeaderPart, *, is_first: bool) -> None:
        match part:
            case Title(name=name):
                self._put(part, 0, f"script {self._as_is(name)}", apart=None)
            case Field(name=name) if name.text == "version":
                self._put(part, 0, f"version {self._value(part.value, 0, 8)}", apart=None)
            case Field():
                self._put(part, 0, self._field(part, 0), apart=None)
            case Inputs(parameters=parameters):
                self._put(part, 0, "input", apart=not is_first)
                for one in parameters:
                    self._put(one, 1, self._parameter(one))
            case Outputs(outputs=outputs):
                self._put(part, 0, "output", apart=not is_first)
                for output in outputs:
                    self._put(output, 1, self._output(output))

    def _parameter(self, one: Parameter) -> str:
        declared = f"{one.name.text} : {self._one_line(one.type)}"
        return declared if one.default is None else f"{declared} = {self._value(one.default, 1, len(declared) + 3)}"

    def _output(self, one: Output) -> str:
        declared = one.name.text if one.type is None else f"{one.name.text} : {self._one_line(one.type)}"
        return f"{declared} = {self._value(one.value, 1, len(declared) + 3)}"

    def _items(self, items: Iterable[Item], level: int, *, is_apart: bool = False) -> None:
        """Write a block.

        Args:
            is_apart: Whether there is something above it, from which it is kept apart.
        """
        for item in items:
            match item:
                case Let():
                    text = f"let {self._field(item, level, 4)}"
                    self._put(item, level, text, apart=None if is_apart else False)
                case Branch(label=label, body=body):
                    self._entries.append(_Entry(label.span, level, f"{self._as_is(label)}:", is_apart))
                    self._items(body, level + 1)
                case Step():
                    self._step(item, level, is_apart)
            is_apart = True

    def _step(self, step: Step, level: int, is_apart: bool) -> None:
        self._entries.append(_Entry(step.head.span, level, self._head(step.head, level), is_apart))
        begin = step.body[0].span.start if step.body else step.span.end
        for part in step.parts:
            if part.span.start < begin:
                self._put(part, level + 1, self._part(part, level + 1))
        self._items(step.body, level + 1)
        for part in step.parts:
            if part.span.start >= begin:
                # Deeper, it would be the binding of the last step in the body.
                self._put(part, level, self._part(part, level))

    def _head(self, head: Head, level: int) -> str:
        label = f" {self._as_is(head.label)}" if head.label is not None else ""
        match head.kind:
            case "do" | "plan" | "agent":
                return f"{head.kind}{label} with {self._as_is(head.agent)}"
            case "run":
                return f"run {self._as_is(head.target)}"
            case "decide":
                return f"decide{label} with rules"
            case "check":
                return f"check{label} {self._value(head.value, level, len(label) + 6)}"
            case "each":
                parallel = f" parallel {head.parallel}" if head.parallel is not None else ""
                target = self._as_is(head.target)
                return f"each {target} in {self._value(head.value, level, len(target) + 9)}{parallel}"
            case _:
                return f"{head.kind}{label}"

    def _part(self, part: Part, level: int) -> str:
        match part:
            case Field():
                return self._field(part, level)
            case Binding(name=name):
                return f"-> {name.text}"
            case When(condition=condition, label=label):
                return f"when {self._value(condition, level, 5)} -> {self._as_is(label)}"
            case Otherwise(label=label):
                return f"otherwise -> {self._as_is(label)}"
            case OnError(action=action):
                return f"on error: {self._action(action, level)}"
            case OnOutcome(outcome=outcome, action=action):
                return f"on {outcome}: {self._action(action, level)}"
            case _:
                return self._one_line(part)  # a line that cannot be read, of which there is none here

    def _action(self, action: Action, level: int) -> str:
        said = [_ACTIONS.get(action.kind, action.kind)]
        if action.word is not None:
            said.append(self._as_is(action.word))
        if action.number is not None:
            said.append(str(action.number))
        if action.value is not None:
            said.append(self._value(action.value, level, 20))
        return " ".join(said)

    def _field(self, field: Field | Let, level: int, before: int = 0) -> str:
        name = field.name.text
        return f"{name} = {self._value(field.value, level, before + len(name) + 3)}"

    # --- values --------------------------------------------------------------------------------------------

    def _as_is(self, node: Node | None) -> str:
        return "" if node is None else self._source.text[node.span.start : node.span.end]

    def _one_line(self, node: Node) -> str:
        return in_one_line(self._clean[node.span.start : node.span.end])

    def _value(self, value: Value | None, level: int, before: int) -> str:
        """A value, whose first line begins at a level behind as many characters as stand *before* it."""
        if value is None:
            return ""
        if any(value.span.start <= comment.span.start < value.span.end for comment in self._comments):
            return self._shifted(value, level)
        return self._laid_out(value, level, before)

    def _shifted(self, value: Value, level: int) -> str:
        """A value with comments in it, as it is, with its lines as much further in or out as the first one."""
        first, *lines = self._as_is(value).split("\n")
        line = self._source.line(self._source.place(value.span.start).line)
        by = len(_INDENT) * level - (len(line) - len(line.lstrip(" \t")))
        shifted = [first.rstrip()]
        for one in lines:
            content = one.lstrip(" \t").rstrip()
            shifted.append(" " * max(0, len(one) - len(one.lstrip(" \t")) + by) + content if content else "")
        return "\n".join(shifted)

    def _laid_out(self, value: Value, level: int, before: int) -> str:
        if not isinstance(value, Items | Entries):
            raw = self._as_is(value)
            lines = block_lines(raw)
            if lines is None:
                return raw if raw.startswith('"""') else self._one_line(value)
            indent = _INDENT * (level + 1)
            return "\n".join(['"""', *(f"{indent}{line}" if line else "" for line in lines)])
        written = self._written(value, level)
        opening, closing = "[]" if isinstance(value, Items) else "{}"
        space = " " if isinstance(value, Entries) and written else ""
        short = f"{opening}{space}{', '.join(written)}{space}{closing}"
        if len(_INDENT) * level + before + len(short) <= WIDTH and "\n" not in short:
            return short
        indent = _INDENT * (level + 1)
        return "\n".join([opening, *(f"{indent}{one}," for one in written), f"{_INDENT * level}{closing}"])

    def _written(self, value: Items | Entries, level: int) -> list[str]:
        if isinstance(value, Items):
            return [self._laid_out(item, level + 1, 0) for item in value.items]
        return [
            f"{(key := self._as_is(entry))}: {self._laid_out(entry.value, level + 1, len(key) + 2)}"
            for entry in value.entries
        ]


# --- comments ----------------------------------------------------------------------------------------------


def _woven(entries: list[_Entry], comments: Iterable[Comment], source: Source) -> str:
    """The lines of a script, with its comments where they were."""
    lines: list[str] = []
    waiting = deque(comments)
    columns: list[int] = []  # in the source, of the last line of each level
    last = 0  # the line of the source that has been written last
    end = _Entry(Span(len(source.text), len(source.text)), 0, "", apart=None)
    for entry in [*entries, end]:
        column = source.place(entry.span.start).column - 1 if entry is not end else 0
        above: list[tuple[int, int, str]] = []  # comments: line in the source, level, text
        while waiting and waiting[0].span.start < entry.span.start:
            comment = waiting.popleft()
            line = source.place(comment.span.start).line
            if comment.indent >= 0:
                above.append((line, _level_of(comment, columns, entry.level, column), comment.text))
            elif lines:
                lines[-1] += f"  {comment.text}"
        if entry is not end:
            above.append((source.place(entry.span.start).line, entry.level, entry.text))
        # What still belongs to the block above stays with it.
        begin = next((number for number, (_, level, _) in enumerate(above) if level <= entry.level), 0)
        blanks = [entry.apart is not False and 0 < before + 1 < line for before, (line, _, _) in _pairs(last, above)]
        if entry.apart and not any(blanks[begin:]):
            blanks[begin] = bool(lines)
        for is_apart, (_, level, text) in zip(blanks, above, strict=True):
            lines += [""] if is_apart else []
            lines += f"{_INDENT * level}{text}".split("\n")
        # Whatever comment is inside has been written with it.
        while waiting and waiting[0].span.start < entry.span.end:
            waiting.popleft()
        columns = [*columns[: entry.level], *[column] * max(1, entry.level + 1 - len(columns))]
        last = source.place(max(entry.span.start, entry.span.end - 1)).line
    return "\n".join([*lines, ""]) if lines else ""


def _pairs(last: int, above: list[tuple[int, int, str]]) -> Iterator[tuple[int, tuple[int, int, str]]]:
    """Each line with the line of the source before it."""
    for one in above:
        yield last, one
        last = one[0]


def _level_of(comment: Comment, columns: list[int], level: int, column: int) -> int:
    """The level of a comment before a line: its own, or that of a block above it which it is still indented as."""
    deeper = [number for number in range(level + 1, len(columns)) if column < columns[number] <= comment.indent]
    return max(deeper, default=level)
