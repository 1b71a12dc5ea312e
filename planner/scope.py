"""The names of a plan: its steps, what they bind, its inputs, and which of them each step reads."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from planmesh.planner.decode import At, PlanDraft, StepDraft
from planmesh.planner.document import Limits, place
from planmesh.planner.problems import Problems, quoted
from planmesh.schemas import templates
from planmesh.schemas.expressions import KEYWORDS, Expression, ExpressionError, evaluate, parse
from planmesh.schemas.plan import Each, Parameter
from planmesh.schemas.reads import sources_of

_HYPHENATED: Final = re.compile(r"\b[a-z0-9_]+-[a-z0-9_-]+")
_EXPRESSION_IN_TEXT: Final = re.compile(r"\{[^}]*")


@dataclass(frozen=True, slots=True)
class Scope:
    """What the names of a plan stand for. Steps are numbered in the order of `steps`.

    Attributes:
        steps: The steps.
        numbers: Each step by its name; of two with one name, the first.
        binders: The steps behind each binding, in the order of the document.
        inputs: The plan's inputs.
        reads: For each step, the bindings that it reads, with the first place where it does.
        constants: Conditions that read nothing, with what they are.
    """

    steps: Sequence[StepDraft]
    numbers: Mapping[str, int]
    binders: Mapping[str, Sequence[int]]
    inputs: Mapping[str, Parameter]
    reads: Sequence[Mapping[str, At]]
    constants: Mapping[str, bool]


def read_scope(
    draft: PlanDraft,
    problems: Problems,
    limits: Limits,
    around: Collection[str] = (),
    gives: Iterable[tuple[At, str]] = (),
) -> Scope:
    """The names of *draft*; every problem with them is added, except that two steps share a binding.

    Args:
        around: What else may be read, for the steps of an `each`: they cannot bind these names again.
        gives: Expressions that read the same names, with their places.
    """
    inputs = draft.inputs or {}
    for name in inputs:
        if name in KEYWORDS:
            problems.add("reserved_name", f"{_reserved(name)}; an input cannot be called so", "inputs", name)
    numbers: dict[str, int] = {}
    binders: dict[str, list[int]] = {}
    certain = draft.inputs is not None
    for number, (index, step, unread) in enumerate((one.index, one.step, one.unread) for one in draft.steps):
        if "name" in unread:
            certain = False
            continue
        at = ("steps", index)
        first = numbers.setdefault(step.name, number)
        if first != number:
            said = f"step {draft.steps[first].index} is already called {quoted(step.name)}"
            problems.add("duplicate_name", said, *at, "name", hint="every step has a name of its own")
            if step.binding is None:
                continue
        if "binding" in unread:
            certain = False
            continue
        binding, field = step.bound_as, "binding" if step.binding else "name"
        binders.setdefault(binding, []).append(number)
        if binding in KEYWORDS:
            said = f"{_reserved(binding)}; the output of {quoted(step.name)} cannot be read by it"
            problems.add("reserved_name", said, *at, field, hint="give it another name with `binding`")
        elif binding in around:
            said = f"the output of {quoted(step.name)} would be read as {binding}, and so is something around it"
            problems.add("shadows", said, *at, field, hint="give it another name with `binding`")
        elif binding in inputs:
            said = f"the output of {quoted(step.name)} would be read as {binding}, and so is an input of the plan"
            problems.add("input_is_binding", said, *at, field, hint="give it another name with `binding`")
    known = {*binders, *inputs, *around} if certain else None
    reader = _Reader(draft, binders, known, problems, limits)
    reads = [reader.read(one) for one in draft.steps]
    for given_at, text in gives:
        list(reader.check(given_at, text))
    return Scope(draft.steps, numbers, binders, inputs, reads, reader.constants)


def _reserved(name: str) -> str:
    return f"{quoted(name)} is a word of the expression language"


class _Reader:
    """Finds the names in expressions and templates: each text once, however often a plan has it.

    Attributes:
        constants: See `Scope`.
    """

    def __init__(
        self,
        draft: PlanDraft,
        binders: Mapping[str, Sequence[int]],
        known: set[str] | None,
        problems: Problems,
        limits: Limits,
    ) -> None:
        self.constants: dict[str, bool] = {}
        self._binders = binders
        self._known = known
        self._problems = problems
        self._limits = limits
        self._characters = 0
        self._found: dict[tuple[str, bool], tuple[frozenset[str], list[ExpressionError]]] = {}
        self._bindings_of = {one.step.name: one.step.bound_as for one in draft.steps}

    def read(self, one: StepDraft) -> dict[str, At]:
        """The bindings that a step reads, with the first place where it does."""
        reads: dict[str, At] = {}
        if isinstance(one.step, Each):
            # What is wrong with these is found where the body is read by itself.
            local = locals_of(one.step, one.body)
            for at, text, is_template in chain.from_iterable([*map(texts_of, one.body), value_of(one)]):
                for name in sorted(self._names(text, is_template)[0] - local):
                    if name in self._binders:
                        reads.setdefault(name, ("steps", one.index, *at))
        for at, text, is_template in texts_of(one):
            for name in self.check(at, text, is_template=is_template):
                if not (at[-1] == "accept" and name == one.step.bound_as):  # the output that it is about
                    reads.setdefault(name, at)
        return reads

    def check(self, at: At, text: str, *, is_template: bool = False) -> Iterator[str]:
        """The bindings that a text reads; what is wrong with it is added."""
        names, errors = self._names(text, is_template)
        for error in errors:
            where = place(error.line, error.column, error.text or text)
            self._problems.add("bad_expression", f"{error.message} ({where})", *at, hint=error.hint)
        for name in sorted(names):
            if name in self._binders:
                yield name
            elif self._known is not None and name not in self._known:
                self._problems.add(
                    "unknown_name",
                    f"an expression reads {quoted(name)}, which is neither a binding nor an input of the plan",
                    *at,
                    hint=self._hint(name, text),
                )

    def _hint(self, name: str, text: str) -> str:
        for step in (name, name.replace("_", "-")):
            if step in self._bindings_of:
                return f"the output of the step {step} is read as {self._bindings_of[step]}"
        for step in _HYPHENATED.findall(text):
            if step in self._bindings_of and name in step.split("-"):
                return f"the output of the step {step} is read as {self._bindings_of[step]}; a - is a minus"
        assert self._known is not None  # or the name would not be looked for
        return self._problems.nearest(name, self._known, "declare it under `inputs`, or bind it by a step")

    def _names(self, text: str, is_template: bool) -> tuple[frozenset[str], list[ExpressionError]]:
        found = self._found.get((text, is_template))
        if found is None:
            found = self._found[text, is_template] = self._parse(text, is_template)
        return found

    def _parse(self, text: str, is_template: bool) -> tuple[frozenset[str], list[ExpressionError]]:
        before, most = self._characters, self._limits.expression_characters
        self._characters += sum(map(len, _EXPRESSION_IN_TEXT.findall(text))) if is_template else len(text)
        if self._characters > most:
            if before <= most:
                said = f"the expressions of a plan have at most {most:,} characters together; these have more"
                self._problems.add("too_large", said, "steps", hint="compute inside of an agent, or split the plan")
            return frozenset(), []
        try:
            if is_template:
                return templates.compile_template(text).names, []
            expression = parse(text)
        except ExpressionError as error:
            return frozenset(), templates.problems(text) if is_template else [error]
        if not expression.names:
            self._evaluate(text, expression)
        return expression.names, []

    def _evaluate(self, text: str, expression: Expression) -> None:
        try:
            value = evaluate(expression, {})
        except ExpressionError:
            return  # the step fails with this very error, when it gets there
        if isinstance(value, bool):
            self.constants[text] = value


def texts_of(one: StepDraft) -> Iterator[tuple[At, str, bool]]:
    """Every text of a step that is an expression, or a template with one: where, what, and whether it is a template."""
    for at, text, is_template in _texts(one, of_item=False):
        yield ("steps", one.index, *at), text, is_template


def value_of(one: StepDraft) -> list[tuple[At, str, bool]]:
    """The expression that says what an item of an `each` gives, as the others are given; its place counts in that."""
    return [*_texts(one, of_item=True)]


def _texts(one: StepDraft, *, of_item: bool) -> Iterator[tuple[At, str, bool]]:
    for source in sources_of(one.step):
        if source.of_item != of_item or source.at[0] in one.unread:
            continue
        if source.is_template:
            yield from _templates(source.value, source.at)
        else:
            yield source.at, source.value, False


def locals_of(each: Each, body: Iterable[StepDraft]) -> set[str]:
    """The names that only the steps of an `each` read."""
    return {each.item, *(one.step.bound_as for one in body)}


def _templates(value: Any, at: At) -> Iterator[tuple[At, str, bool]]:
    if isinstance(value, str):
        # A brace of either kind is an expression, or stands for itself, or is a mistake.
        if "{" in value or "}" in value:
            yield at, value, True
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _templates(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _templates(inner, (*at, index))
