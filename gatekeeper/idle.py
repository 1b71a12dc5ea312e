"""Agents that have work, and that nobody runs: their steps wait, and nothing in the log says so."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from planmesh.connection import Connection
from planmesh.errors import Busy, Unusable
from planmesh.gatekeeper.news import Idle
from planmesh.inspection import agents_of, consumer_info
from planmesh.schemas import subjects
from planmesh.schemas.subjects import WORK

LOOKS: Final = 2
"""How often in a row an agent is found so before it counts: a worker that is started anew is away for a moment."""

log = structlog.get_logger()


class IdleAgents:
    """Looks again and again, and tells of each agent once, until somebody runs it again.

    Args:
        core: May read CATALOGUE, and inspect the consumers of WORK.
        tell: What is done with the news.
        every_s: How often.
    """

    def __init__(self, core: Connection, tell: Callable[[Sequence[Idle]], Awaitable[None]], *, every_s: float) -> None:
        self._core = core
        self._tell = tell
        self._every_s = every_s
        self._found: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                news = await self.look()
                if news:
                    await self._tell(news)
            except (Busy, Unusable) as error:  # the next look says it
                log.warning("agents.not_looked_at", error=str(error), retry_in_s=self._every_s)

    async def look(self) -> list[Idle]:
        """Look once. Returns: what is news. Raises: Busy, Unusable."""
        idle: dict[str, int] = {}
        for agent in await agents_of(self._core):
            found = await consumer_info(self._core, WORK, subjects.agent_consumer(agent.name), prefix="$JS.API")
            if found is not None and found.num_pending and not found.is_read:
                idle[agent.name] = found.num_pending
        self._found = {name: self._found.get(name, 0) + 1 for name in idle}
        return [Idle(name, idle[name]) for name, looks in self._found.items() if looks == LOOKS]
