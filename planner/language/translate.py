"""A script to a plan document, and every place of the document in the script."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from planmesh.planner.language.fields import MISSING, Fields
from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.flow import Flow
from planmesh.planner.language.names import name_steps
from planmesh.planner.language.parse import Parsed, parse
from planmesh.planner.language.scope import Scope
from planmesh.planner.language.source import Source, Span
from planmesh.planner.language.steps import Draft, Place, Surroundings
from planmesh.planner.language.tree import (
    Entries,
    Field,
    Inputs,
    Items,
    Node,
    Outputs,
    Parameter,
    Title,
    Word,
)
from planmesh.schemas.expressions import KEYWORDS, MAX_EXPRESSION_CHARACTERS
from planmesh.schemas.goals import Problem

TYPES: Final = ("text", "number", "integer", "boolean", "object", "list", "date", "timestamp", "any")
_SETTINGS: Final = ("version", "goal", "concurrency", "reviewer", "on_failure", "policy", "ordered")
_NAME: Final = "Plan"

# What the planner says of a step of which not every line could be read follows from that.
_OF_FORM: Final = frozenset(
    {"missing_field", "invalid_value", "wrong_type", "unknown_field", "unknown_kind", "missing_input"}
)
# And so does what it says of an order that is wrong already.
_OF_ORDER: Final = frozenset(
    {
        "unknown_step",
        "unknown_name",
        "cycle",
        "self_reference",
        "waits_for_emit",
        "not_a_branch",
        "unknown_label",
        "unreachable",
        "never_bound",
        "duplicate_binding",
        "emits_together",
    }
)


_OTHER_TYPES: Final = {
    **dict.fromkeys(("string", "str", "char", "varchar", "line"), "text"),
    **dict.fromkeys(("float", "double", "decimal", "real", "num"), "number"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("bool", "flag", "truth"), "boolean"),
    **dict.fromkeys(("array", "tuple", "set", "sequence"), "list"),
    **dict.fromkeys(("dict", "map", "json", "record", "struct"), "object"),
    **dict.fromkeys(("datetime", "time", "instant"), "timestamp"),
}
"""What other languages call the types."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What was made of a script.

    Attributes:
        source: The script.
        document: The plan document, as far as it could be made.
        problems: What is wrong with the script by itself.
        advice: What of its form could be better; the rest is said of the document (`planmesh.planner.advice`).
    """

    source: Source
    document: dict[str, Any]
    problems: tuple[Problem, ...]
    advice: tuple[Problem, ...]
    _places: Mapping[str, Place]
    _drafts: Sequence[Draft]

    def placed(self, found: Iterable[Problem]) -> list[Problem]:
        """What is wrong in all, in the order of the script.

        Args:
            found: What the planner says of the document; each is given its place in the script.
        """
        is_wrong = bool(self.problems)
        lines = sorted({problem.line for problem in self.problems})
        placed: list[Problem] = [*self.problems]
        for problem in found:
            draft, at = self._place(problem.pointer)
            line, column = self.source.place(at) if at is not None else (0, 0)
            first, last = (line, line) if draft is None or problem.code not in _OF_FORM else self._lines(draft)
            follows = bisect_right(lines, last) > bisect_left(lines, first)
            if not follows and not (is_wrong and (problem.code in _OF_ORDER or not line)):
                placed.append(msgspec.structs.replace(problem, line=line, column=column))
        return sorted(placed, key=lambda problem: (problem.line, problem.column))

    def _lines(self, draft: Draft) -> tuple[int, int]:
        return self.source.place(draft.head.start).line, self.source.place(draft.end or draft.head.end).line

    def _place(self, pointer: str) -> tuple[Draft | None, int | None]:
        """The step of which a JSON Pointer into the document speaks, and where that is; None if it is all of it."""
        keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
        draft, drafts = None, self._drafts
        while len(keys) > 1 and keys[0] == "steps" and keys[1].isdecimal() and int(keys[1]) < len(drafts):
            draft = drafts[int(keys[1])]
            drafts, keys = draft.body, keys[2:]
        if draft is not None:
            return draft, _inside(draft.places, keys, draft.head)
        return None, _inside(self._places, keys, None) if keys else None


def translate(text: str) -> Translation:
    """Make a plan document of a script. Takes time in proportion to its length. Raises nothing."""
    source = Source(text.removeprefix("\ufeff"))
    findings = Findings(source)
    parsed = parse(source, findings)
    return _Translator(parsed, findings).translate()


class _Translator:
    def __init__(self, parsed: Parsed, findings: Findings) -> None:
        self._script = parsed.script
        self._findings = findings
        self._document: dict[str, Any] = {"version": 1, "name": _NAME}
        self._places: dict[str, Place] = {}
        self._names = name_steps(parsed.script.body, findings)
        self._inputs = next((part for part in parsed.script.header if isinstance(part, Inputs)), None)
        declared = None if self._inputs is None else [one.name for one in self._inputs.parameters]
        self._scope = Scope(declared, self._names, parsed.values, findings)

    def translate(self) -> Translation:
        script, findings = self._script, self._findings
        with self._scope.region(()):
            reviewers, is_ordered = self._header()
            self._declare_inputs()
        outputs = next((part for part in script.header if isinstance(part, Outputs)), None)
        for one in outputs.outputs if outputs is not None else ():
            if one.type is not None:
                self._type(one.type)
        flow = Flow(Surroundings(self._scope, self._names, findings, reviewers), is_ordered=is_ordered)
        flow.go_through(script.body, output=outputs)
        drafts = flow.drafts
        if not drafts and not findings:
            findings.add("empty", "expected at least one step; found none", 0, 'begin with do "Label" with AGENT')
        if self._inputs is None and self._scope.inputs:
            self._document["inputs"] = {name: {} for name in self._scope.inputs}
            self._places["inputs"] = dict(self._scope.inputs)
        self._settle_bindings(drafts)
        self._settle_values(drafts)
        self._document["steps"] = [draft.document for draft in drafts]
        problems, advice = findings.problems(), findings.advice()
        source = findings.source
        return Translation(source, self._document, tuple(problems), tuple(advice), self._places, drafts)

    # --- the header ----------------------------------------------------------------------------------------

    def _header(self) -> tuple[list[str] | None, bool]:
        """Put what the header says; return who is asked unless a step says so, and whether its order is binding."""
        titles = [part for part in self._script.header if isinstance(part, Title)]
        for more in titles[1:]:
            self._findings.add("duplicate_field", "a script has one name", more.span)
        if titles:
            self._put("name", titles[0].name.text, titles[0].name)
        fields = Fields((part for part in self._script.header if isinstance(part, Field)), self._scope, self._findings)
        fields.take("version")
        if (goal := fields.take("goal")) is not None and (text := fields.text(goal.value)) is not None:
            self._put("goal", text, goal.value)
        if (one := fields.take("concurrency")) is not None and (number := fields.constant(one.value)) is not MISSING:
            self._put("concurrency", number, one.value)
        self._policy(fields)
        reviewer, ordered = fields.take("reviewer"), fields.take("ordered")
        reviewers = fields.names(reviewer.value) if reviewer is not None else None
        is_ordered = ordered is not None and fields.constant(ordered.value)
        if ordered is not None and not isinstance(is_ordered, bool):
            self._findings.add("wrong_value", "expected true or false", ordered.value.span)
        fields.refuse_rest("the header", _SETTINGS, {})
        return reviewers, is_ordered is True

    def _policy(self, fields: Fields) -> None:
        policy: dict[str, Any] = {}
        places: dict[str, Place] = {}
        given, on_failure = fields.take("policy"), fields.take("on_failure")
        if given is not None and isinstance(found := fields.constant(given.value), dict):
            policy |= found
            places |= dict.fromkeys(found, given.value.span)
            if isinstance(given.value, Entries):
                places |= {entry.key: entry.value for entry in given.value.entries}
        elif given is not None and found is not MISSING:
            hint = 'write policy = { on_failure: "fail", revisions: "hold" }'
            self._findings.add("wrong_value", "expected an object", given.value.span, hint)
        if on_failure is not None and (value := fields.constant(on_failure.value)) is not MISSING:
            policy["on_failure"], places["on_failure"] = value, on_failure.value
        if policy:
            self._put("policy", policy, places)

    def _put(self, key: str, value: Any, place: Place) -> None:
        self._document[key] = value
        self._places[key] = place

    def _declare_inputs(self) -> None:
        if self._inputs is None:
            return
        inputs: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for one in self._inputs.parameters:
            name = one.name.text
            if name in inputs:
                self._findings.add("name_taken", f"there is an input {quoted(name)} already", one.name.span)
            elif name in KEYWORDS:
                said = f"{quoted(name)} is a word of the expression language, and cannot be read by an expression"
                self._findings.add("name_taken", said, one.name.span, "choose another name")
            else:
                inputs[name], places[name] = self._parameter(one)
        self._put("inputs", inputs, places)

    def _parameter(self, one: Parameter) -> tuple[dict[str, Any], Place]:
        parameter: dict[str, Any] = {"type": self._type(one.type)}
        places: dict[str, Place] = {"type": one.type}
        if one.default is not None:
            default = Fields((), self._scope, self._findings).constant(one.default)
            parameter["default"] = None if default is MISSING else default
            places["default"] = one.default
        return parameter, places

    def _type(self, word: Word) -> str:
        """The type that is meant, of those that a document has: it does not say what is in a list."""
        written = "".join(word.text.split())
        kind, inner = written.partition("<")[0], written
        while inner.startswith("list<") and inner.endswith(">"):
            inner = inner[5:-1]
        if kind in TYPES and inner in TYPES:
            return kind
        wrong = inner if kind == "list" else kind
        hint = self._findings.nearest(wrong, TYPES, f"there are {', '.join(TYPES)}")
        if (meant := _OTHER_TYPES.get(wrong.partition("<")[0].lower())) is not None:
            hint = f"did you mean {meant}?"
        self._findings.add("unknown_type", f"there is no type {quoted(written)}", word.span, hint)
        return "any"

    # --- the steps -----------------------------------------------------------------------------------------

    def _settle_bindings(self, drafts: Sequence[Draft]) -> None:
        """Name the outputs that nobody named, where the planner would take the name of something else for them."""
        taken = {str(draft.document["binding"]) for draft in _all(drafts) if "binding" in draft.document}
        taken |= {str(draft.document["item"]) for draft in drafts if "item" in draft.document}
        taken |= {*self._document.get("inputs", ()), *KEYWORDS}
        for draft in _all(drafts):
            if "binding" not in draft.document:
                binding = draft.name.replace("-", "_")
                if binding in taken or not binding[0].isalpha():
                    number = 1
                    while f"output_{number}_of_{binding}"[:63] in taken:
                        number += 1
                    binding = draft.document["binding"] = f"output_{number}_of_{binding}"[:63]
                elif draft.gives is not None and not draft.body:
                    draft.document["binding"] = binding
                taken.add(binding)

    def _settle_values(self, drafts: Iterable[Draft]) -> None:
        """Say of each `each` what its items give."""
        for draft in drafts:
            if (value := draft.value_of_item()) is None:
                continue
            draft.document["value"] = value
            if len(value) > MAX_EXPRESSION_CHARACTERS:
                most = f"what an item gives is written in {MAX_EXPRESSION_CHARACTERS:,} characters at most"
                said = f"{most}; the emits of this each have {len(value):,} together"
                self._findings.add("too_large", said, draft.head, "let a step put it together, and bind that")


def _all(drafts: Iterable[Draft]) -> Iterator[Draft]:
    for draft in drafts:
        yield draft
        yield from _all(draft.body)


def _inside(place: Place | None, keys: Sequence[str], otherwise: Span | None) -> int | None:
    """The place to which *keys* lead, as far as it is known."""
    found = otherwise.start if otherwise is not None else None
    for key in (*keys, ""):
        start = _start(place)
        found = found if start is None else start
        if isinstance(place, Span) or place is None:
            break
        match place:
            case Entries(entries=entries):
                place = next((entry.value for entry in entries if entry.key == key), None)
            case Items(items=items):
                place = items[int(key)] if key.isdecimal() and int(key) < len(items) else None
            case list():
                place = place[int(key)] if key.isdecimal() and int(key) < len(place) else None
            case Mapping():
                place = place.get(key)
            case _:
                break
    return found


def _start(place: Place | None) -> int | None:
    if isinstance(place, Span):
        return place.start
    if isinstance(place, Mapping):
        return _start(place.get(""))
    return place.span.start if isinstance(place, Node) else None
