"""Lines to a tree: which line belongs to what.

A line belongs to the innermost thing above it that is still open, and is not indented deeper than the line itself. That
reads two forms. In the indented one, what belongs to something is indented below it; only a binding may stand as far
out as the first line of its step. In the flat one no line is indented: fields belong to the step above them, and steps
to the branch above them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.grammar import LineReader
from planmesh.planner.language.layout import Layout, Line, read_layout
from planmesh.planner.language.source import MAX_SCRIPT_BYTES, Source, Span
from planmesh.planner.language.tree import (
    Binding,
    Branch,
    BrokenPart,
    Field,
    Head,
    HeaderPart,
    Inputs,
    Item,
    Let,
    Node,
    OnError,
    OnOutcome,
    Otherwise,
    Output,
    Outputs,
    Parameter,
    Part,
    Script,
    Setting,
    Step,
    Title,
    When,
)
from planmesh.planner.language.values import ValueReader
from planmesh.schemas.plan import MAX_STEPS

MAX_DEPTH: Final = 32
"""Of blocks inside one another."""
MAX_LINES: Final = 60_000
MAX_PARTS: Final = 1_000
"""Lines of one step, or of the header."""
_STEP: Final = re.compile(r"^[ \t]*(?:do|plan|run|agent|ask|gate|decide|check|each|emit)[ \t]", re.MULTILINE)
_BRANCH: Final = re.compile(r'^[ \t]*"[^"\n]*"[ \t]*:', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A script as it was read. The tree has what could be read of it."""

    layout: Layout
    script: Script
    values: ValueReader


def parse(source: Source, findings: Findings) -> Parsed:
    """Read a script; everything that is wrong with its form is added to *findings*. Raises nothing."""
    layout = Layout(source, "", "", (), ())
    script = Script(Span(0, 0), (), ())
    size_bytes = len(source.text.encode(errors="replace"))
    if size_bytes > MAX_SCRIPT_BYTES:
        said = f"a script has at most {MAX_SCRIPT_BYTES:,} bytes; this one has {size_bytes:,}"
        findings.add("too_large", said, 0, "pass data as inputs, or split the plan")
        return Parsed(layout, script, ValueReader(layout, findings))
    layout = read_layout(source, findings)
    reader = LineReader(layout, findings)
    steps, branches = len(_STEP.findall(layout.masked)), len(_BRANCH.findall(layout.masked))
    if max(steps, branches) > MAX_STEPS:
        what = f"{steps:,} steps" if steps > MAX_STEPS else f"{branches:,} branches"
        findings.add("too_large", f"a script has at most {MAX_STEPS:,} steps, and as many branches; this has {what}", 0)
    elif len(layout.lines) > MAX_LINES:
        findings.add("too_large", f"a script has at most {MAX_LINES:,} lines; this one has more", 0)
    else:
        script = _Blocks(findings).build(layout, reader)
    return Parsed(layout, script, reader.values)


@dataclass(slots=True)
class _Open:
    """Something that further lines may belong to: the script, a step, or a branch.

    Attributes:
        indent: Columns before its first line.
        is_bound: Whether it has a binding.
        parts_at: Columns before its fields, if they are deeper.
        items_at: Columns before the items of its body.
        branches_at: Columns before the branches that are indented below a decide of its body.
    """

    indent: int
    node: Head | Branch | None = None
    parts: list[Part] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    is_bound: bool = False
    parts_at: int | None = None
    items_at: int | None = None
    branches_at: int | None = None

    @property
    def is_step(self) -> bool:
        return isinstance(self.node, Head)

    @property
    def takes_items(self) -> bool:
        return not isinstance(self.node, Head) or self.node.kind == "each"


class _Blocks:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._open = [_Open(indent=-1)]
        self._header: list[HeaderPart] = []
        self._section: Inputs | Outputs | None = None
        self._parameters: list[Parameter] = []
        self._outputs: list[Output] = []
        self._begun = False  # whether a step has been seen
        self._is_flat = True
        self._is_over = False  # whether something has more lines than it may have

    def build(self, layout: Layout, reader: LineReader) -> Script:
        self._is_flat = len({line.indent for line in layout.lines}) <= 1
        for line in layout.lines:
            self._place(line, reader.read(line))
            if self._findings.full or self._is_over:
                break
        self._end_section()
        while len(self._open) > 1:
            self._close()
        whole = Span(0, len(layout.masked))
        if self._is_over:
            return Script(whole, (), ())  # of half a script, nothing that is missing is a mistake
        return Script(whole, tuple(self._header), tuple(self._open[0].items))

    def _place(self, line: Line, node: Node) -> None:
        match node:
            case Head() | Branch() | Let():
                self._end_section()
                self._begun = True
                self._item(line, node)
            case Title() | Setting() | Inputs() | Outputs():
                self._end_section()
                self._header_part(line, node)
            case Parameter():
                self._parameter(line, node)
            case Field() if self._section is not None and isinstance(self._section, Outputs):
                self._outputs.append(Output(node.span, node.name, None, node.value))
            case Field() | Binding() | When() | Otherwise() | OnError() | OnOutcome() | BrokenPart():
                self._end_section()
                self._part(line, node)

    # --- the header ----------------------------------------------------------------------------------------

    def _header_part(self, line: Line, node: Title | Setting | Inputs | Outputs) -> None:
        if self._begun:
            self._findings.add("misplaced", "this belongs into the header, above the first step", line.span)
        elif isinstance(node, Inputs | Outputs):
            if any(isinstance(part, type(node)) for part in self._header):
                self._findings.add("duplicate_field", "a script has one block of this kind", line.span)
            self._section = node
        else:
            self._header.append(node)

    def _parameter(self, line: Line, node: Parameter) -> None:
        if isinstance(self._section, Inputs):
            self._parameters.append(node)
            self._limit(self._parameters, line)
        elif isinstance(self._section, Outputs) and node.default is not None:
            self._outputs.append(Output(node.span, node.name, node.type, node.default))
        else:
            hint = f"a field is written {node.name.text} = …" if self._begun else "write `input` above it"
            self._findings.add("misplaced", "a name with a type belongs into the `input` block", node.span, hint)

    def _end_section(self) -> None:
        section, self._section = self._section, None
        if isinstance(section, Inputs):
            self._header.append(Inputs(section.span, tuple(self._parameters)))
        elif section is not None:
            self._header.append(Outputs(section.span, tuple(self._outputs)))
        self._parameters, self._outputs = [], []

    # --- steps and branches --------------------------------------------------------------------------------

    def _part(self, line: Line, part: Part) -> None:
        while self._open[-1].indent > line.indent:
            self._close()
        owner = self._open[-1]
        if not owner.is_step:
            if isinstance(part, Field) and not self._begun:
                self._header.append(Setting(part.span, part.name, part.value))
                self._limit(self._header, line)
            elif not isinstance(part, BrokenPart):
                self._findings.add("misplaced", "this line belongs to a step, and there is none above it", line.span)
            return
        if line.indent > owner.indent:
            owner.parts_at = line.indent if owner.parts_at is None else owner.parts_at
        # A binding may stand as far out as its step.
        expected = owner.parts_at if owner.parts_at is not None else owner.indent
        outside = isinstance(part, BrokenPart) or (isinstance(part, Binding) and line.indent == owner.indent)
        if line.indent != expected and not outside:
            self._bad_indentation(line, expected, "the lines of its step")
        if owner.is_bound and not isinstance(part, BrokenPart):
            if isinstance(part, Binding):
                self._findings.add("duplicate_field", "a step has one binding", line.span)
                return
            self._findings.add("misplaced", "the fields of a step stand above its binding", line.span)
        owner.is_bound = owner.is_bound or isinstance(part, Binding)
        owner.parts.append(part)
        self._limit(owner.parts, line)

    def _limit(self, parts: Sequence[object], line: Line) -> None:
        if len(parts) > MAX_PARTS:
            said = f"a step, and the header, have at most {MAX_PARTS:,} lines; this one has more"
            self._findings.add("too_large", said, line.span, "pass data as inputs")
            self._is_over = True

    def _item(self, line: Line, node: Head | Branch | Let) -> None:
        is_branch = isinstance(node, Branch)
        while self._open[-1].indent > line.indent or (
            self._open[-1].indent == line.indent and (self._open[-1].is_step or self._is_past(line, is_branch))
        ):
            self._close()
        owner = self._open[-1]
        below_decide = False
        if not owner.takes_items:
            assert isinstance(owner.node, Head)  # nothing else refuses items
            below_decide = is_branch and owner.node.kind in ("decide", "check", "")
            if not below_decide:
                said = "a step does not belong into another one, unless that is an each"
                self._findings.add("bad_indentation", said, line.span, "indent it as the step above it")
            self._close()
            owner = self._open[-1]
        self._look_at_indent(line, owner, below_decide)
        if isinstance(node, Let):
            owner.items.append(node)
        elif len(self._open) > MAX_DEPTH:
            hint = "leave a part of it to a plan of its own, and `run` that"
            self._findings.add("too_deep", f"blocks are nested at most {MAX_DEPTH} deep", line.span, hint)
        else:
            self._open.append(_Open(line.indent, node))

    def _is_past(self, line: Line, is_branch: bool) -> bool:
        """Whether the branch that is open ends where a line begins that is indented as it is."""
        if not is_branch and not self._is_flat and not self._open[-1].items:
            said = "it is not clear whether this belongs to the branch above it, which is empty"
            hint = "indent it, to put it into the branch; to let the branch do nothing, put it above another one"
            self._findings.add("bad_indentation", said, line.span, hint)
        return is_branch or not self._is_flat

    def _look_at_indent(self, line: Line, owner: _Open, below_decide: bool) -> None:
        if below_decide:
            owner.branches_at = line.indent
        elif line.indent == owner.branches_at:
            return
        elif owner.items_at is None:
            owner.items_at = line.indent
        elif owner.items_at != line.indent:
            self._bad_indentation(line, owner.items_at, "the other lines of its block")

    def _bad_indentation(self, line: Line, expected: int, others: str) -> None:
        # Where tabs and spaces are mixed, nobody knows how deep it is.
        if not self._findings.has_line_of(line.span.start):
            said = f"this line is indented by {line.indent}, and {others} by {expected}"
            self._findings.add("bad_indentation", said, line.span)

    def _close(self) -> None:
        """Build the innermost thing that is open."""
        one = self._open.pop()
        items = self._open[-1].items
        if isinstance(one.node, Branch):
            items.append(Branch(_around(one.node, one.items), one.node.label, tuple(one.items)))
        elif one.node is not None:
            if one.node.kind == "each" and not one.items:
                hint = "indent the steps that run for each item"
                self._findings.add("flat_each", "an each has a body, which is indented below it", one.node.span, hint)
            whole = _around(one.node, [*one.parts, *one.items])
            items.append(Step(whole, one.node, tuple(one.parts), tuple(one.items)))


def _around(first: Node, rest: Sequence[Node]) -> Span:
    return Span(first.span.start, max((node.span.end for node in rest), default=first.span.end))
