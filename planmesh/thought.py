"""What a step asks of a language model, and how far that has come."""

from typing import Any

import msgspec

from planmesh.json_schema import Form
from planmesh.schemas.plan import ModelOptions


class Asked(ModelOptions, frozen=True, kw_only=True):
    """What a step asks of the model: its inputs, read.

    Attributes:
        prompt: The task, and whatever else the step gives, by name.
        form: Of the answer; None: any text.
    """

    prompt: str
    system: str = ""
    form: Form | None = None


class Thought(msgspec.Struct):
    """How far a model has come.

    Attributes:
        text: The last thing that it said.
        value: The answer, where it is to have a form.
        cut_short: The last answer was as long as it may be.
        exhausted: It has given as many answers as it may, and was not done.
    """

    text: str = ""
    value: Any = None
    iterations: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cut_short: bool = False
    exhausted: bool = False

    def as_output(self, *, with_form: bool) -> dict[str, Any]:
        return {
            "text": self.text,
            **({"output": self.value} if with_form else {}),
            "iterations": self.iterations,
            "tool_calls": self.tool_calls,
            "exhausted": self.exhausted or self.cut_short,
            "usage": {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens},
        }
