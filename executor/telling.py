"""News on its way to the requester: it never goes back. Whoever reads only the last of it hears how a plan stands."""

from typing import Final

import structlog

from planmesh.connection import Connection, StoredMessage
from planmesh.errors import Busy, Conflict
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.goals import FINAL, Outcome
from planmesh.schemas.subjects import OUTCOMES, Address

_LOST_RACES: Final = 5

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
        if last is not None and _is_newer(last, outcome):
            log.info("news.overtaken", subject=subject, number=outcome.number)
            return
        expected = 0 if last is None else last.sequence
        try:
            await core.publish(subject, encode(outcome), expect_last_on_subject=expected, message_id=message_id)
        except Conflict:
            continue
        return
    raise Busy(f"the news of {outcome.space}.{outcome.goal} comes faster than it can be put in order")


def _is_newer(last: StoredMessage, outcome: Outcome) -> bool:
    try:
        told = codec.outcome.decode(last.data)
    except DecodeError:  # of a later version
        return False
    if told.number == outcome.number:
        return isinstance(told, FINAL) and not isinstance(outcome, FINAL)
    return told.number > outcome.number
