"""Which agents the mesh has, and what they say of themselves: read from the server, and remembered for a moment.

An agent is part of the mesh when the administrator has made the consumer of its work (`planmesh agents add`). What it
declares, it has said itself, in the stream CATALOGUE, when a worker of its started; until then it declares nothing.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from planmesh.connection import Connection
from planmesh.inspection import names_of, spaces_of
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.subjects import CATALOGUE, WORK, BadSubject
from planmesh.schemas.work import AgentDescription

MAX_AGE_S: Final = 2.0
_WHOLE_S: Final = 60.0
_BATCH: Final = 1_000
_AGENT: Final = subjects.agent_consumer("_").removesuffix("_")

log = structlog.get_logger()


def undescribed(agent: str) -> AgentDescription:
    """What is known of an agent whose worker has never announced itself: it declares nothing."""
    return AgentDescription(name=agent, any_parameters=True)


def described(agents: Mapping[str, AgentDescription]) -> dict[str, AgentDescription]:
    """Those that have said something of themselves: the others, no worker has ever hosted."""
    return {name: agent for name, agent in agents.items() if not agent.says_nothing}


class Catalogue:
    """The agents of a mesh.

    Args:
        core: May read the stream CATALOGUE, and the names of the consumers of WORK and OUTCOMES.
        max_age_s: How long an answer is good.

    Attributes:
        services: Those that publish goals, and that plans may ask, as of the agents that were given last.
    """

    def __init__(self, core: Connection, *, max_age_s: float = MAX_AGE_S) -> None:
        self._core = core
        self._max_age_s = max_age_s
        self._clock = asyncio.get_running_loop().time
        self.services: frozenset[str] = frozenset()
        self._agents: Mapping[str, AgentDescription] = {}
        self._described: dict[str, AgentDescription] = {}
        self._sequence = 0
        self._read_at = float("-inf")
        self._read_whole_at = float("-inf")
        self._reading = asyncio.Lock()

    async def agents(self) -> Mapping[str, AgentDescription]:
        """All agents by name, as they were no longer than `max_age_s` ago.

        Raises:
            Busy: The server does not answer now.
            Unusable: It does not let this user read them.
        """
        return await self._not_older_than(self._clock() - self._max_age_s)

    async def agents_now(self) -> Mapping[str, AgentDescription]:
        """All agents by name, as they are now. Raises: Busy, Unusable."""
        return await self._not_older_than(self._clock())

    async def _not_older_than(self, moment: float) -> Mapping[str, AgentDescription]:
        if self._read_at < moment:
            async with self._reading:
                # Someone else may have read them while this one waited.
                if self._read_at < moment:
                    await self._read()
        return self._agents

    async def _read(self) -> None:
        began = self._clock()
        names, spaces, _ = await asyncio.gather(
            names_of(self._core, WORK, _AGENT), spaces_of(self._core), self._read_descriptions(began)
        )
        self.services = frozenset(spaces)
        self._agents = {name: self._described.get(name) or undescribed(name) for name in names}
        self._read_at = began

    async def _read_descriptions(self, now: float) -> None:
        """Read what is new. All of it now and then: whoever made the stream again began to count again."""
        if now - self._read_whole_at > _WHOLE_S:
            self._described, self._sequence, self._read_whole_at = {}, 0, now
        while True:
            stored = await self._core.direct_get(CATALOGUE, sequence=self._sequence + 1, batch=_BATCH)
            for message in stored:
                self._sequence = message.sequence
                try:
                    agent = subjects.read_catalogue(message.subject)
                    # What it said before holds no longer, whatever it says now.
                    self._described.pop(agent, None)
                    description = codec.description.decode(message.data)
                except (BadSubject, DecodeError) as error:
                    log.warning("catalogue.unreadable", subject=message.subject, error=str(error))
                    continue
                # Who speaks is said by the subject, which the server has checked.
                self._described[agent] = msgspec.structs.replace(description, name=agent)
            if len(stored) < _BATCH:
                return
