"""Whether the log has room for new plans. What is left of it at last is for the plans that there are."""

import asyncio
from typing import Final

import structlog

from planmesh.connection import Connection
from planmesh.errors import Busy, Unusable
from planmesh.inspection import stream_info
from planmesh.schemas.subjects import PLANS

FULL: Final = 0.9
"""How much of the log may be taken before goals wait."""

_MAX_AGE_S: Final = 1.0

log = structlog.get_logger()


class Room:
    """What the log has, as of a moment ago.

    A full log takes nothing more of anybody, and nothing can be taken out of it; and every goal becomes a line of it.
    So before it is full, goals wait where they are: in the room of whoever has published them.

    Args:
        core: May ask how large the log is.
    """

    def __init__(self, core: Connection) -> None:
        self._core = core
        self._clock = asyncio.get_running_loop().time
        self._share = 0.0
        self._read_at = float("-inf")

    async def expect(self) -> None:
        """Raises: Busy, if a goal has to wait."""
        if self._read_at < self._clock() - _MAX_AGE_S:
            self._read_at = self._clock()  # whoever comes meanwhile takes what was known
            try:
                info = await stream_info(self._core, PLANS, prefix="$JS.API")
            except (Busy, Unusable) as error:
                log.warning("log.size_unknown", error=str(error))
            else:
                most = int(info.config.get("max_bytes", -1)) if info is not None else -1
                self._share = info.state.bytes / most if info is not None and most > 0 else 0.0
        if self._share >= FULL:
            raise Busy(
                f"{self._share:.0%} of the log is taken, and the rest is for plans that there are: the goal waits "
                "until it has more room (PLANMESH_STORAGE__PLANS_BYTES, and `planmesh init`, or restart `planmesh up`)"
            )
