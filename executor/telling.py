"""News on its way to the requester: it never goes back. Whoever reads only the last of it hears how a plan stands."""

from typing import Final

import structlog

from planmesh.connection import Connection, StoredMessage
from planmesh.errors import Busy, Conflict
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.goals import FINAL, Outcome, Refused
from planmesh.schemas.subjects import OUTCOMES, Address

_LOST_RACES: Final = 5
_ALL: Final = 100_000

log = structlog.get_logger()


async def tell(core: Connection, outcome: Outcome, *, message_id: str | None = None) -> None:
    """Store *outcome*, unless something newer has been told of the plan: for news that is late, or told again.

    Raises:
        Busy: It cannot be stored now.
        Unusable: Not allowed, or closed.
    """
    subject = subjects.outcome(Address(outcome.space, outcome.goal))
    for _ in range(_LOST_RACES):
        last = await core.last_on_subject(OUTCOMES, subject, leader=True)
        newest = None if last is None else _read(last)
        if isinstance(newest, Refused) and newest.is_anothers:
            newest = await _newest(core, subject)
        if newest is not None and _is_newer(newest, outcome):
            log.info("news.overtaken", subject=subject, number=outcome.number)
            return
        expected = 0 if last is None else last.sequence
        try:
            await core.publish(subject, encode(outcome), expect_last_on_subject=expected, message_id=message_id)
        except Conflict:
            continue
        return
    raise Busy(f"the news of {outcome.space}.{outcome.goal} comes faster than it can be put in order")


async def _newest(core: Connection, subject: str) -> Outcome | None:
    """The last news of the plan itself: since then, any number of other goals by its id may have been refused."""
    stored = await core.direct_get(OUTCOMES, subject=subject, batch=_ALL)
    for message in reversed(stored):
        told = _read(message)
        if told is not None and not (isinstance(told, Refused) and told.is_anothers):
            return told
    return None


def _read(message: StoredMessage) -> Outcome | None:
    try:
        return codec.outcome.decode(message.data)
    except DecodeError:  # of a later version
        return None


def _is_newer(told: Outcome, outcome: Outcome) -> bool:
    if told.number == outcome.number:
        return isinstance(told, FINAL) and not isinstance(outcome, FINAL)
    return told.number > outcome.number
