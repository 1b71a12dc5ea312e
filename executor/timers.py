"""The timer loop: waits are work that nobody can finish early.

A timer is given back with a delay until it is due; then it asks, by command, and `decide` judges. It keeps nothing
in memory, so that a restart forgets nothing. The server may deliver early: then it is given back again.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from planmesh.connection import Connection
from planmesh.delivery import Message
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import TimerDue
from planmesh.schemas.payload import digest
from planmesh.schemas.subjects import Address

_LONGEST_DELAY_S: Final = 3_600.0  # a clock that is set, or a server that forgets a delay, costs no more than this


def utc_now() -> datetime:
    return datetime.now(UTC)


async def handle_timer(core: Connection, message: Message, clock: Callable[[], datetime] = utc_now) -> None:
    """One delivery of a timer: ask if it is due, give it back if not. Raises: DecodeError, Busy."""
    timer = codec.timer_work.decode(message.data)
    left_s = (timer.due_at - clock()).total_seconds()
    if left_s > 0:
        message.nak(min(left_s, _LONGEST_DELAY_S))
        return
    # The same each time that this wait is over, however often the timer is stored.
    what = digest([timer.step, timer.attempt, timer.purpose, timer.level])
    command = TimerDue(
        id=f"t{what[:32]}", step=timer.step, attempt=timer.attempt, purpose=timer.purpose, level=timer.level
    )
    address = Address(timer.space, timer.plan)
    await core.publish(subjects.command(address, "due", "executor"), encode(command))
