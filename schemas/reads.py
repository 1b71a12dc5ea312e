"""What a step reads: every field of it that holds expressions, and the names in them.

The one place that knows which fields these are: the planner makes edges of them, a gate's digest covers what they
read, and advice is given on what nobody reads.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from planmesh.schemas.expressions import parse
from planmesh.schemas.plan import Ask, Check, Decide, Draft, Each, Emit, Gate, Run, StepBase, Task
from planmesh.schemas.templates import compile_template


class Source(NamedTuple):
    """A field of a step that holds an expression, or a template with any number of them.

    Attributes:
        at: Where it is in the step: the name of the field first.
        value: The text of the expression; or the template, a JSON value.
        of_item: Whether it is read once for each item of an `each`, with the names that its steps have.
    """

    at: tuple[str | int, ...]
    value: Any
    is_template: bool = False
    of_item: bool = False

    @property
    def names(self) -> frozenset[str]:
        """What it reads. Raises: ExpressionError."""
        return compile_template(self.value).names if self.is_template else parse(self.value).names


def sources_of(step: StepBase) -> Iterator[Source]:
    """The fields of *step* that hold expressions, in the order of the document; of an `each`, not those of its steps.

    The `accept` of a task is about its own output, and reads it by the step's own binding.
    """
    match step:
        case Task(inputs=inputs, accept=accept):
            yield Source(("inputs",), inputs, is_template=True)
            if accept is not None:
                yield Source(("accept",), accept)
        case Draft(inputs=inputs):
            yield Source(("inputs",), inputs, is_template=True)
        case Run(document=document, inputs=inputs):
            yield Source(("document",), document)
            yield Source(("inputs",), inputs, is_template=True)
        case Each(items=items, value=value):
            yield Source(("items",), items)
            if value is not None:
                yield Source(("value",), value, of_item=True)
        case Gate(prompt=prompt, show=show):
            yield Source(("prompt",), prompt, is_template=True)
            yield Source(("show",), [*show], is_template=True)
        case Ask(prompt=prompt):
            yield Source(("prompt",), prompt, is_template=True)
        case Emit(result=result):
            yield Source(("result",), result, is_template=True)
        case Check(condition=condition, message=message):
            yield Source(("condition",), condition)
            yield Source(("message",), message, is_template=True)
        case Decide(cases=cases):
            for index, case in enumerate(cases):
                yield Source(("cases", index, "when"), case.when)


def names_read(step: StepBase) -> frozenset[str]:
    """The names that *step* reads, those that the steps of an `each` read among them. Raises: ExpressionError."""
    inner = map(names_read, step.steps) if isinstance(step, Each) else ()
    return frozenset().union(*(source.names for source in sources_of(step)), *inner)
