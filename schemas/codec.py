"""Bytes to messages, within limits. Everything that arrives comes through here, and is refused here or is typed.

msgspec checks types and constraints. What it does not check is depth: JSON that is nested some 900 deep can
exhaust the stack of a small thread before any limit of the interpreter is met, so brackets are counted first.
"""

import re
from typing import Any, Final, Generic, TypeVar

import msgspec

from planmesh.schemas.commands import AnyCommand
from planmesh.schemas.events import Commit
from planmesh.schemas.goals import Goal, Outcome
from planmesh.schemas.questions import Question
from planmesh.schemas.work import (
    AgentDescription,
    PlannerWork,
    Progress,
    Results,
    Signal,
    StepPlanning,
    StepWork,
    TimerWork,
)

MAX_DEPTH: Final = 32
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
encode = _encoder.encode

# A string without an end reaches to the end of the text, and nothing is tried twice: otherwise each quote in it would
# be read on from, and a message of quotes would take hours.
_BRACKET_OR_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class DecodeError(ValueError):
    """Bytes that are not the message that was expected.

    Attributes:
        code: `too_large`, `too_deep`, `malformed` (no JSON) or `invalid` (JSON of the wrong shape).
        pointer: Where, as a JSON Pointer (RFC 6901), if it is known.
    """

    def __init__(self, code: str, message: str, pointer: str = "") -> None:
        self.code = code
        self.pointer = pointer
        super().__init__(message)


def check_depth(data: bytes, limit: int = MAX_DEPTH) -> None:
    """Raises: DecodeError `too_deep`. Reads as far as the first bracket past *limit*."""
    if data.count(b"{") + data.count(b"[") <= limit:
        return
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > limit:
                raise DecodeError(
                    "too_deep", f"JSON may be nested {limit} deep; byte {match.start()} opens level {depth}"
                )
        elif first in b"]}":
            depth -= 1


_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_KEY = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[(\.\.\.)\]")


def _pointer(path: str) -> str:
    """`$.steps[3].name` -> `/steps/3/name`, as far as the path is exact."""
    parts = []
    for key, index, anything in _KEY.findall(path.removeprefix("$")):
        if anything:  # msgspec does not say which entry of a mapping it was
            break
        parts.append((key or index).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def describe(error: msgspec.ValidationError) -> tuple[str, str]:
    """What a validation error says, and the JSON Pointer to where."""
    match = _AT_PATH.match(str(error))
    assert match is not None  # the pattern matches every string
    return match["what"], _pointer(match["path"] or "")


class Codec(Generic[T]):
    """Decodes one type of message.

    Args:
        type: The struct, or a union of structs.
        trusted: Written by one of the services, and by nobody else: its depth need not be checked.
    """

    def __init__(self, type: Any, *, trusted: bool = False) -> None:
        self._decoder = msgspec.json.Decoder(type)
        self._trusted = trusted

    def decode(self, data: bytes, *, limit_bytes: int = MAX_MESSAGE_BYTES) -> T:
        """Raises: DecodeError."""
        if len(data) > limit_bytes:
            raise DecodeError("too_large", f"expected at most {limit_bytes:,} bytes, found {len(data):,}")
        if not self._trusted:
            check_depth(data)
        try:
            return self._decoder.decode(data)  # type: ignore[no-any-return]
        except msgspec.ValidationError as error:
            what, pointer = describe(error)
            raise DecodeError("invalid", what, pointer) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("malformed", f"not JSON in UTF-8: {error}") from None


goal: Final = Codec[Goal](Goal)
command: Final = Codec[AnyCommand](AnyCommand)
results: Final = Codec[Results](Results)
description: Final = Codec[AgentDescription](AgentDescription)
progress: Final = Codec[Progress](Progress)
commit: Final = Codec[Commit](Commit, trusted=True)
outcome: Final = Codec[Outcome](Outcome, trusted=True)
question: Final = Codec[Question](Question, trusted=True)
step_work: Final = Codec[StepWork](StepWork, trusted=True)
timer_work: Final = Codec[TimerWork](TimerWork, trusted=True)
planner_work: Final = Codec[PlannerWork](PlannerWork, trusted=True)
step_planning: Final = Codec[StepPlanning](StepPlanning, trusted=True)
signal: Final = Codec[Signal](Signal, trusted=True)
value: Final = Codec[Any](Any)
"""Any JSON value."""
blob: Final = Codec[Any](Any, trusted=True)
"""A value that was stored in BLOBS: what an agent stores there is decoded as `value` first, and what the executor puts
together of such values may be nested deeper."""
