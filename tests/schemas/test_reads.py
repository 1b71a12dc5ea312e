"""Which names a step reads: in every field that may hold an expression, and in no other."""

from typing import Annotated, Any, get_args, get_type_hints

import pytest
from msgspec import Meta

from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.plan import (
    Agent,
    Ask,
    Case,
    Check,
    Decide,
    Draft,
    Each,
    Emit,
    ExpressionText,
    Gate,
    Run,
    Step,
    StepBase,
    Task,
    Text,
)
from planmesh.schemas.reads import Source, names_read, sources_of

KINDS: tuple[type[StepBase], ...] = get_args(Step)
REQUIRED: dict[type[StepBase], dict[str, Any]] = {
    Task: {"agent": "worker"},
    Decide: {"cases": (Case(when="1 > 0", then="one"),)},
    Check: {"condition": "1 > 0"},
    Run: {"document": '{name: "x"}'},
    Each: {"items": "[1]", "steps": (Task(name="inner", agent="worker"),)},
    Emit: {"outcome": "Done"},
}
WITH_EXPRESSIONS: list[tuple[Any, Any]] = [
    (ExpressionText, "found.here"),
    (ExpressionText | None, "found.here"),
    (Text, "As {found.here} says"),
    (tuple[Text, ...], ("plain", "{found.here}")),
    (dict[str, Any], {"found": [{"deep": "{found.here}"}]}),
    (Any, ["{found.here}"]),
    (Annotated[tuple[Case, ...], Meta(min_length=1, max_length=100)], (Case(when="found.here > 0", then="one"),)),
]
"""What a field may be that holds expressions, with a value that reads one name."""


def filled() -> list[Any]:
    return [
        pytest.param(kind, field, value, id=f"{kind.__name__}.{field}")
        for kind in KINDS
        for field, hint in get_type_hints(kind, include_extras=True).items()
        for known, value in WITH_EXPRESSIONS
        if hint == known and field not in get_type_hints(StepBase)
    ]


def step_of(kind: type[StepBase], **fields: Any) -> StepBase:
    return kind(name="step", **{**REQUIRED.get(kind, {}), **fields})


@pytest.mark.parametrize(("kind", "field", "value"), filled())
def test_every_field_that_may_hold_an_expression_is_read(kind: type[StepBase], field: str, value: Any) -> None:
    assert names_read(step_of(kind, **{field: value})) == {"found"}


def test_no_kind_of_step_is_forgotten() -> None:
    assert {param.values[0] for param in filled()} == {*KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_labels_and_names_are_no_templates(kind: type[StepBase]) -> None:
    assert names_read(step_of(kind, label="{label}", binding="binding", after=("before",))) == frozenset()


@pytest.mark.parametrize(
    ("step", "sources"),
    [
        (
            Agent(name="s", inputs={"a": "{b}"}, accept="s.ok"),
            [Source(("inputs",), {"a": "{b}"}, is_template=True), Source(("accept",), "s.ok")],
        ),
        (Task(name="s", agent="a"), [Source(("inputs",), {}, is_template=True)]),
        (
            Run(name="s", document="p", inputs={"a": 1}),
            [Source(("document",), "p"), Source(("inputs",), {"a": 1}, is_template=True)],
        ),
        (Draft(name="s", inputs={"task": "x"}), [Source(("inputs",), {"task": "x"}, is_template=True)]),
        (
            Gate(name="s", prompt="p", show=("q", "r")),
            [Source(("prompt",), "p", is_template=True), Source(("show",), ["q", "r"], is_template=True)],
        ),
        (Ask(name="s", prompt="p"), [Source(("prompt",), "p", is_template=True)]),
        (Emit(name="s", outcome="o", result=7), [Source(("result",), 7, is_template=True)]),
        (
            Check(name="s", condition="c", message="m"),
            [Source(("condition",), "c"), Source(("message",), "m", is_template=True)],
        ),
        (
            Decide(name="s", cases=(Case(when="a", then="A"), Case(when="b", then="B"))),
            [Source(("cases", 0, "when"), "a"), Source(("cases", 1, "when"), "b")],
        ),
        (
            Each(name="s", items="i", value="v", steps=(Check(name="inner", condition="c"),)),
            [Source(("items",), "i"), Source(("value",), "v", of_item=True)],
        ),
        (StepBase(name="s"), []),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, StepBase) else "",
)
def test_a_source_says_where_it_is_and_what_it_is(step: StepBase, sources: list[Source]) -> None:
    assert [*sources_of(step)] == sources


def test_an_each_reads_what_its_steps_read() -> None:
    inner = Task(name="inner", agent="worker", inputs={"a": "{item}", "b": "{around}"}, accept="inner.ok")
    each = Each(name="each", items="rows", steps=(inner, Gate(name="look", show=("{inner}",))), value="look.by")

    assert names_read(each) == {"rows", "item", "around", "inner", "look"}


@pytest.mark.parametrize("step", [Emit(name="s", outcome="o", result="{a +}"), Check(name="s", condition="a +")])
def test_what_cannot_be_read_is_an_error(step: StepBase) -> None:
    with pytest.raises(ExpressionError):
        names_read(step)
