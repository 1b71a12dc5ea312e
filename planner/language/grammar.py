"""One logical line to what it says. The grammar is in `grammar.lark`."""

import re
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.layout import Layout, Line
from planmesh.planner.language.source import Span
from planmesh.planner.language.tree import (
    Action,
    Binding,
    Branch,
    Broken,
    BrokenPart,
    Field,
    Head,
    Inputs,
    Let,
    Node,
    OnError,
    OnOutcome,
    Otherwise,
    Outputs,
    Parameter,
    Setting,
    Title,
    Value,
    When,
    Word,
)
from planmesh.planner.language.values import Unreadable, ValueReader

if TYPE_CHECKING:
    from lark import Lark, Token, Tree
    from lark.exceptions import UnexpectedInput

STEPS: Final = ("do", "plan", "run", "agent", "ask", "gate", "decide", "check", "each", "let", "emit")
_OTHERS: Final = ("script", "input", "output", "when", "otherwise", "on")

_WORD: Final = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_]|-(?!>))*")
_QUOTED: Final = re.compile(r'"[^"]*"')
_FOUND: Final = re.compile(r"[A-Za-z0-9_]+|->|\"[^\"]*\"|.", re.DOTALL)

# Words that begin a line in other languages, and what says the same here.
_ELSEWHERE: Final = {
    **dict.fromkeys(
        ("if", "elif", "switch", "case", "match"), 'write decide "Label" with rules, and when … -> "Branch"'
    ),
    "else": 'write otherwise -> "Branch", in a decide',
    **dict.fromkeys(
        ("for", "foreach", "while", "loop", "map"), "write each item in list, with the steps indented below it"
    ),
    "parallel": "steps run at the same time anyway, unless one reads the other or stands behind a gate",
    **dict.fromkeys(("return", "end", "stop", "exit"), 'write emit "Label", which ends the plan'),
    **dict.fromkeys(("set", "var", "const"), "write let name = value"),
    **dict.fromkeys(("step", "task", "call", "tool"), 'write do "Label" with AGENT'),
    **dict.fromkeys(("approve", "approval", "wait"), 'write gate "Label", which a person opens'),
    **dict.fromkeys(("assert", "validate", "ensure"), 'write check "Label" condition'),
    **dict.fromkeys(("try", "catch", "except", "retry"), "write on error: retry 3, below the step"),
    **dict.fromkeys(("inputs", "parameters"), "write input, and the names and their types indented below it"),
}

# What is expected where the grammar wants one of these; of several, the first that is listed here.
_EXPECTED: Final = {
    "TEXT": "a text in double quotes",
    "NAME": "a name",
    "AGENT": "the name of an agent or tool",
    "TYPE": "a type",
    "NUMBER": "a number",
    "EXPRESSION": "a value",
    "ITEMS": "a list",
    "_WITH": "with",
    "_IN": "in",
    "_RULES": "rules",
    "_ERROR": "error, pass or fail",
    "OUTCOME": "pass or fail",
    "_IGNORE": "retry, fallback or ignore",
    "_GOTO": "continue, fail, goto or retry",
    "_ARROW": "->",
    "_EQUALS": "=",
    "_COLON": ":",
    "<END-OF-FILE>": "the end of the line",
}


@lru_cache(maxsize=1)
def _parser() -> "Lark":
    # It takes 20 ms and more, which whoever reads no script need not spend.
    from lark import Lark

    grammar = resources.files(__package__).joinpath("grammar.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", start="line", maybe_placeholders=True)


class LineReader:
    """Reads the lines of one script.

    Attributes:
        values: Reads what stands in them.
    """

    def __init__(self, layout: Layout, findings: Findings) -> None:
        self._layout = layout
        self._findings = findings
        self.values = ValueReader(layout, findings)
        self._parse = _parser().parse
        self._line = Span(0, 0)
        self._spoilt = False

    def read(self, line: Line) -> Node:
        """What *line* says: a part of the tree; a `BrokenPart`, or a `Head` of what could be read, if it is wrong."""
        from lark.exceptions import UnexpectedInput

        self._line = line.span
        # A text without an end, or a bracket, is what is wrong then: what it makes of its line is not.
        self._spoilt = self._findings.has_line_of(line.span.start)
        try:
            tree: Any = self._parse(self._layout.masked[line.span.start : line.span.end]).children[0]
        except UnexpectedInput as error:
            return self._broken(error)
        try:
            return getattr(self, f"_{tree.data}")(line.span, *tree.children)  # type: ignore[no-any-return]
        except Unreadable:
            return self._rest()

    # --- one rule of the grammar each ----------------------------------------------------------------------

    def _script(self, span: Span, name: "Token") -> Node:
        return Title(span, self._label(name))

    def _setting(self, span: Span, name: "Token", value: "Token") -> Node:
        return Setting(span, self._word(name), self._value(value))

    def _input(self, span: Span) -> Node:
        return Inputs(span)

    def _output(self, span: Span) -> Node:
        return Outputs(span)

    def _parameter(self, span: Span, name: "Token", type: "Token", default: "Token | None") -> Node:
        value = self._value(default) if default is not None else None
        return Parameter(span, self._word(name, " \t:"), self._word(type), value)

    def _do(self, span: Span, label: "Token", agent: "Token") -> Node:
        return self._with(span, "do", label, agent)

    def _plan(self, span: Span, label: "Token", agent: "Token") -> Node:
        return self._with(span, "plan", label, agent)

    def _agent(self, span: Span, label: "Token", agent: "Token") -> Node:
        return self._with(span, "agent", label, agent)

    def _with(self, span: Span, kind: str, label: "Token", agent: "Token") -> Node:
        named = self._label(agent) if agent.startswith('"') else self._word(agent)
        return Head(span, kind, label=self._label(label), agent=named)

    def _run(self, span: Span, target: "Token") -> Node:
        return Head(span, "run", target=self._word(target))

    def _ask(self, span: Span, label: "Token") -> Node:
        return Head(span, "ask", label=self._label(label))

    def _gate(self, span: Span, label: "Token") -> Node:
        return Head(span, "gate", label=self._label(label))

    def _decide(self, span: Span, label: "Token") -> Node:
        return Head(span, "decide", label=self._label(label))

    def _emit(self, span: Span, label: "Token") -> Node:
        return Head(span, "emit", label=self._label(label))

    def _check(self, span: Span, label: "Token", condition: "Token") -> Node:
        return Head(span, "check", label=self._label(label), value=self._condition(condition))

    def _each(self, span: Span, name: "Token", items: "Token", parallel: "Token | None") -> Node:
        number = int(parallel) if parallel is not None else None
        return Head(span, "each", target=self._word(name), value=self._condition(items), parallel=number)

    def _let(self, span: Span, name: "Token", value: "Token") -> Node:
        return Let(span, self._word(name, " \t="), self._value(value))

    def _field(self, span: Span, name: "Token", value: "Token") -> Node:
        return Field(span, self._word(name, " \t="), self._value(value))

    def _binding(self, span: Span, arrow: "Token") -> Node:
        name = arrow.lstrip("-> \t")
        start = self._span(arrow).end - len(name)
        return Binding(span, Word(Span(start, start + len(name)), name))

    def _branch(self, span: Span, label: "Token") -> Node:
        return Branch(span, self._label(label))

    def _when(self, span: Span, condition: "Token", label: "Token") -> Node:
        return When(span, self._condition(condition), self._label(label))

    def _otherwise(self, span: Span, label: "Token") -> Node:
        return Otherwise(span, self._label(label))

    def _on_error(self, span: Span, action: "Tree[Token]") -> Node:
        return OnError(span, self._action(action))

    def _on_outcome(self, span: Span, outcome: "Token", action: "Tree[Token]") -> Node:
        return OnOutcome(span, str(outcome), self._action(action))

    def _action(self, tree: "Tree[Token]") -> Action:
        kind = str(tree.data)
        children: list[Any] = list(tree.children)
        present = [self._span(child) for child in children if child is not None]
        span = present[0] if present else self._line
        if kind == "retry":
            return Action(span, kind, number=int(children[0]) if children[0] is not None else None)
        if kind == "fallback":
            named = self._label(children[0]) if children[0].startswith('"') else self._word(children[0])
            return Action(span, kind, word=named, value=self._value(children[1]) if children[1] is not None else None)
        if not children or children[0] is None:
            return Action(span, kind)
        if kind == "fail":
            return Action(span, kind, value=self._value(children[0]))
        return Action(span, kind, word=self._label(children[0]))

    # --- its parts -----------------------------------------------------------------------------------------

    def _span(self, token: "Token") -> Span:
        start = self._line.start + (token.start_pos or 0)
        return Span(start, start + len(token))

    def _word(self, token: "Token", around: str = "") -> Word:
        text = token.rstrip(around) if around else str(token)
        start = self._line.start + (token.start_pos or 0)
        return Word(Span(start, start + len(text)), text)

    def _label(self, token: "Token") -> Word:
        span = self._span(token)
        return Word(span, self.values.label(span))

    def _value(self, token: "Token") -> Value:
        span = self._span(token)
        try:
            return Broken(span) if self._spoilt else self.values.value(span)
        except Unreadable:
            return Broken(span)

    def _condition(self, token: "Token") -> Value:
        span = self._span(token)
        try:
            return Broken(span) if self._spoilt else self.values.formula(span)
        except Unreadable:
            return Broken(span)

    # --- what is no line -----------------------------------------------------------------------------------

    def _rest(self) -> Node:
        """What can be told of a line that cannot be read: that it is a step, perhaps with its label."""
        line = self._layout.masked[self._line.start : self._line.end]
        word = _WORD.match(line)
        kind = word[0] if word is not None else ""
        label = _QUOTED.search(line)
        if kind in _OTHERS or not (kind in STEPS or (label is not None and word is not None)):
            return BrokenPart(self._line)
        if kind == "let" or kind.lower() in _ELSEWHERE:
            return BrokenPart(self._line)
        named = None
        if label is not None and kind not in ("run", "each"):
            span = Span(self._line.start + label.start(), self._line.start + label.end())
            named = Word(span, self._layout.clean[span.start + 1 : span.end - 1])
        return Head(self._line, kind if kind in STEPS else "", label=named, value=Broken(self._line))

    def _broken(self, error: "UnexpectedInput") -> Node:
        from lark.exceptions import UnexpectedCharacters

        line = self._layout.masked[self._line.start : self._line.end]
        token: Any = getattr(error, "token", None)
        if token is not None and token.type != "$END":
            at = token.start_pos
        else:
            at = error.pos_in_stream if isinstance(error, UnexpectedCharacters) else len(line)
        at += len(line[at:]) - len(line[at:].lstrip(" \t\r"))
        if not self._spoilt:
            expected = error.allowed if isinstance(error, UnexpectedCharacters) else getattr(error, "expected", None)
            self._report(line, at, set(expected or ()))
        return self._rest()

    def _report(self, line: str, at: int, expected: set[str]) -> None:
        place = self._line.start + at
        found = self._found(line, at)
        if "FIELD" in expected and "_DO" in expected:
            self._report_beginning(line, place, found)
            return
        wanted = next((said for terminal, said in _EXPECTED.items() if terminal in expected), "something else")
        word = _WORD.match(line)
        self._findings.add(
            "syntax", f"expected {wanted}, found {found}", place, _hint(word[0] if word else "", expected, line, at)
        )

    def _report_beginning(self, line: str, place: int, found: str) -> None:
        word = _WORD.match(line)
        if word is None:
            hint = "a field is `name = value`, a comment begins with --"
            self._findings.add("syntax", f"expected a step, a field, a branch or a binding; found {found}", place, hint)
            return
        rest = line[word.end() :].lstrip(" \t")
        hint = self._findings.nearest(word[0], (*STEPS, *_OTHERS), f"there are {', '.join(STEPS)}")
        if (other := _ELSEWHERE.get(word[0].lower())) is not None:
            hint = other
        elif rest.startswith("=="):
            hint = f"to give it a value, write {word[0]} = …"
        elif not rest.startswith('"') and not hint.startswith("did"):
            hint = "a field is `name = value`, a comment begins with --"
        self._findings.add("unknown_keyword", f"no line begins with {quoted(word[0])}", place, hint)

    def _found(self, line: str, at: int) -> str:
        shown = _FOUND.match(line, at)
        if shown is None:
            return "the end of the line"
        start = self._line.start + at
        return quoted(self._layout.clean[start : start + len(shown[0])]) if shown[0] != "->" else "->"


def _hint(kind: str, expected: set[str], line: str, at: int) -> str:
    rest = line[at:]
    if "<END-OF-FILE>" in expected and rest.startswith("->"):
        return "a binding has a line of its own"
    if "<END-OF-FILE>" in expected and "=" in rest:
        return "each field has a line of its own"
    if kind == "emit" and "<END-OF-FILE>" in expected:
        return "what it gives stands below it: result = …"
    if "<END-OF-FILE>" in expected:
        return "leave out what follows"
    if kind == "let":
        return "write let name = value"
    if kind == "each" and "NUMBER" in expected:
        return "say how many items at once, such as parallel 5; without it, all"
    if kind == "run" and rest.startswith('"'):
        return "what is run is the binding of a plan step, without quotes"
    if "TEXT" in expected and kind in STEPS and rest[:1] not in ("", '"'):
        return f'write {kind} "{_FOUND.match(line, at)[0]}"' if rest[:1].isalpha() else ""  # type: ignore[index]
    if "TEXT" in expected and kind in STEPS:
        return f'a label follows, as in {kind} "Label"'
    if "_ARROW" in expected:
        return 'write -> "Branch" behind it'
    if "_WITH" in expected:
        return "say who does it: with AGENT"
    return ""
