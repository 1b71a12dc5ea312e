"""What is asked of planmesh, and what becomes of it.

A goal is published on ``goals.<space>.<goal>``; the answers come on ``outcomes.<space>.<goal>``. The goal's id
is the plan's id. The same id with the same content is the same plan; with other content it is refused.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Document, Line, Text, Token


class Goal(Document, frozen=True, kw_only=True):
    """A wish: with the plan that fulfils it, or with the name of one, or in words, for a model to make a plan of."""

    version: Literal[1] = 1
    goal: Text = ""
    """The goal in words. A plan is made of them where there is neither `plan` nor `template`."""
    plan: dict[str, Any] | str | None = None
    """The plan document: as JSON, or as a string that holds YAML (or JSON)."""
    template: Token | None = None
    """In place of it, the name of a plan that the mesh keeps."""
    inputs: dict[str, Any] = {}
    """Values for the plan's inputs."""
    policy: dict[str, Any] | None = None
    """Of a goal in words: the policy of the plan that is made of it. A plan says it itself."""
    start: bool = True
    """Unless true, the plan stays a draft until someone starts it."""
    traceparent: Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?!\n)$")] | None = (
        None
    )
    """The caller's span (W3C Trace Context), which the plan's trace joins."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a goal or its plan, and where."""

    code: str
    """A stable name for the rule, such as `unknown_agent`."""
    message: str
    """What was expected and what was found."""
    pointer: str = ""
    """JSON Pointer (RFC 6901) into the plan document; into the goal where it starts with `/inputs` and has no plan."""
    hint: str = ""
    """What to do, such as the nearest name that exists."""
    line: int = 0
    """In the script that the document was made of, from 1; 0 if there is none, or all of it is meant."""
    column: int = 0
    """In that line, in characters from 1."""


class Try(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of a model that was to write a plan."""

    at: datetime
    """When it was asked."""
    duration_s: float
    input_tokens: int = 0
    output_tokens: int = 0
    problems: tuple[Problem, ...] = ()
    """What was wrong with it; the first of them. None: it is the plan."""


class Origin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who has written a plan, or was to, where that is not whoever asked for it."""

    author: Literal["model", "template"]
    model: Line = ""
    """The model's name, as the settings of the planner have it."""
    template: Line = ""
    sha256: str = ""
    """Of the template's text."""
    tries: tuple[Try, ...] = ()
    gates: tuple[str, ...] = ()
    """Gates that the planner has put in front of steps of a model's plan that could do harm."""


ID_TAKEN: Final = "goal_id_taken"
"""The code of a goal's only problem where its id belongs to a plan with other content."""


class OutcomeBase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="outcome"):
    """News of a goal. `number` grows: it is the plan's commit that brought the news."""

    space: str
    goal: str
    at: datetime
    number: int


class Accepted(OutcomeBase, frozen=True, kw_only=True, tag="accepted"):
    """The goal is a plan. A `draft` waits to be started."""

    name: str
    steps: int
    draft: bool = False


class Refused(OutcomeBase, frozen=True, kw_only=True, tag="refused"):
    """The goal did not become a plan, or its id belongs to another one."""

    problems: tuple[Problem, ...]

    @property
    def is_anothers(self) -> bool:
        """Whether the plan by this id is another goal's, and this is no news of it."""
        return any(problem.code == ID_TAKEN for problem in self.problems)


class Waiting(OutcomeBase, frozen=True, kw_only=True, tag="waiting"):
    """Nothing goes on until someone decides or answers: the gates, and the asks, that are open."""

    gates: tuple[str, ...]
    asks: tuple[str, ...] = ()


class Paused(OutcomeBase, frozen=True, kw_only=True, tag="paused"):
    """The plan stands still: at the steps that failed, or because someone paused it."""

    at_steps: tuple[str, ...]
    reason: str


class Resumed(OutcomeBase, frozen=True, kw_only=True, tag="resumed"):
    """It goes on after it waited or was paused."""


class Completed(OutcomeBase, frozen=True, kw_only=True, tag="completed"):
    """The end, as planned. A large result comes as a claim check, which an operator can fetch."""

    name: str
    """What the plan calls this outcome."""
    result: Payload


class Failed(OutcomeBase, frozen=True, kw_only=True, tag="failed"):
    """The end, by a failure."""

    step: str
    reason: str


class Cancelled(OutcomeBase, frozen=True, kw_only=True, tag="cancelled"):
    """The end, by someone's wish."""

    by: str
    reason: str


Outcome: TypeAlias = Accepted | Refused | Waiting | Paused | Resumed | Completed | Failed | Cancelled
FINAL: tuple[type[OutcomeBase], ...] = (Refused, Completed, Failed, Cancelled)
