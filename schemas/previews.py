"""What a command would do, for whoever wants to see that before it is sent: requests on ``query.preview``.

The question is a command, and who would send it; the answer is what the log would have. Nothing is stored, and nothing
changes.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from planmesh.schemas.commands import AnyCommand
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.plan import Line, Token

PREVIEW: Final = "preview"


class PreviewQuery(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """``query.preview``: what a command would do."""

    space: Token
    plan: Token
    by: Line
    """Who would send it."""
    command: AnyCommand


class PreviewAnswer(Struct, frozen=True, kw_only=True):
    """What it would do, to the plan as it is after its commit `number`."""

    number: int
    at: datetime
    """When it would be."""
    events: tuple[AnyEvent, ...]
    """A `command.refused` or a `revision.refused` where it would do nothing. Of a revision, that it is wanted, and what
    the planner would make of it."""
