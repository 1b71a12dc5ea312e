"""How many steps each agent may run at once: what its consumer says, read when it is handed something."""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from planmesh.connection import Connection
from planmesh.errors import PlanmeshError
from planmesh.inspection import consumer_info
from planmesh.schemas import subjects
from planmesh.schemas.subjects import WORK

_MAX_AGE_S: Final = 30.0

log = structlog.get_logger()


class AgentLimits:
    """The limits of those agents that have been handed a step lately.

    Attributes:
        known: By agent. Who is not in it has no limit as far as anybody here knows.

    Args:
        core: May read the consumers of WORK.
        max_age_s: After how long a limit is read again: an administrator may have changed it.
    """

    def __init__(self, core: Connection, *, max_age_s: float = _MAX_AGE_S) -> None:
        self.known: dict[str, int] = {}
        self._core = core
        self._max_age_s = max_age_s
        self._asked_at: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def notice(self, agents: Iterable[str]) -> None:
        """These have just been handed something: find out soon how much they may run, unless that is known. What no
        agent works on (the planner does, or another plan) has an empty name here."""
        now = asyncio.get_running_loop().time()
        for agent in filter(None, set(agents)):
            if now - self._asked_at.get(agent, -self._max_age_s) >= self._max_age_s:
                self._asked_at[agent] = now
                task = asyncio.create_task(self._read(agent))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _read(self, agent: str) -> None:
        try:
            found = await consumer_info(self._core, WORK, subjects.agent_consumer(agent), prefix="$JS.API")
        except PlanmeshError as error:
            log.warning("limit.unknown", agent=agent, error=str(error))
            return
        limit = int(found.config.get("max_ack_pending", -1)) if found is not None else -1
        if limit > 0:
            self.known[agent] = limit
        else:
            self.known.pop(agent, None)
