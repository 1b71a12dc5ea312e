"""Who sends a notice: noted before it is sent, so that nobody sends it once more.

No channel can be asked whether a notice has arrived. So a gatekeeper notes that it begins; whoever finds the note of
another one leaves the notice alone, and when that one has not said in the log how it went, nobody ever will: the
notice is reported as unclear, and is not sent again. What certainly failed is noted as that, and may be tried again by
anybody.

The note is one message on a subject of its own, stored only if nobody was faster (optimistic concurrency).
"""

import secrets
from datetime import UTC, datetime
from typing import Final, NamedTuple

from planmesh.connection import Connection
from planmesh.errors import Conflict
from planmesh.schemas.subjects import NOTICES

_FAILED: Final = b"failed"


class Claim(NamedTuple):
    """What was noted of a notice.

    Attributes:
        sequence: Of the note.
        by_another: For how many seconds another one has been sending it; None: it is ours to send.
    """

    sequence: int
    by_another: float | None = None


class Claims:
    """The notes of one gatekeeper.

    Args:
        core: The connection of the user `gatekeeper`.
    """

    def __init__(self, core: Connection) -> None:
        self._core = core
        self._mine = f"sending {secrets.token_hex(8)}".encode()

    async def begin(self, subject: str) -> Claim:
        """Note that a notice is about to be sent, unless another one has.

        Raises:
            Busy, Unusable: It cannot be noted now.
        """
        sequence = 0
        while True:
            try:
                ack = await self._core.publish(subject, self._mine, expect_last_on_subject=sequence)
            except Conflict:
                found = await self._core.last_on_subject(NOTICES, subject, leader=True)
            else:
                return Claim(ack.sequence)
            if found is None:  # its time was over just now
                sequence = 0
            elif found.data == self._mine:  # stored, and the answer was lost
                return Claim(found.sequence)
            elif found.data == _FAILED:
                sequence = found.sequence
            else:
                return Claim(found.sequence, (datetime.now(UTC) - found.time).total_seconds())

    async def fail(self, subject: str, claim: Claim) -> None:
        """Note that what was begun certainly failed. Raises: Busy, Unusable."""
        try:
            await self._core.publish(subject, _FAILED, expect_last_on_subject=claim.sequence)
        except Conflict:
            return  # stored, and the answer was lost
