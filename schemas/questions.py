"""What a service is asked: gates and asks that name it, as ``service:<space>``, of its own plans and of others'.

Told on ``questions.<service>.<space>.<plan>.<step>``, and answered by the command `reply`
(`planmesh.schemas.commands.Reply`). What a service is asked is the latest that it has heard of a step.
"""

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from planmesh.schemas.answers import AnswerType
from planmesh.schemas.events import Recipient, Release
from planmesh.schemas.payload import Payload


class QuestionBase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="question"):
    """News of one question. `number` grows: it is the plan's commit that brought the news."""

    space: str
    plan: str
    step: str
    at: datetime
    number: int


class Questioned(QuestionBase, frozen=True, kw_only=True, tag="asked"):
    """The service may answer: by `approve` or `reject` a gate, by `answer` an ask."""

    kind: Literal["gate", "ask"]
    round: int
    digest: str
    """What the reply quotes."""
    prompt: str = ""
    answer: AnswerType = "text"
    """Of an ask: what it takes."""
    options: tuple[str, ...] = ()
    default: Any = None
    secret: bool = False
    """Of an ask: whether the answer is a secret. Then the reply names one that was stored before."""
    recipients: tuple[Recipient, ...] = ()
    """The steps that a secret is given to."""
    overdue_at: datetime | None = None
    because: str = ""
    """Why it asks again, or as well."""
    shown: tuple[Payload, ...] = ()
    """Of a gate: what leads the review. A large value is a claim check, which an operator can fetch."""
    releases: tuple[Release, ...] = ()
    """Of a gate: the steps that an approval would let go."""
    behind: int = 0
    """How many steps stand behind the gate in all."""


class Settled(QuestionBase, frozen=True, kw_only=True, tag="settled"):
    """It is not asked any more."""

    how: Literal["answered", "approved", "rejected", "skipped", "cancelled"]
    by: tuple[str, ...] = ()


class NotTaken(QuestionBase, frozen=True, kw_only=True, tag="not_taken"):
    """What the service replied was refused."""

    command: str
    """The id of the reply."""
    code: str
    reason: str


Question: TypeAlias = Questioned | Settled | NotTaken
