"""What a revision would come to, for whoever wants to see that first: requests on ``query.proposal``.

The question is a `PlannerWork`, as the executor would put it; the answer is the `ProposeRevision` that the planner
would publish. Nothing is stored, and nothing changes.
"""

import asyncio
from typing import Final

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.directory import Directory
from planmesh.errors import Busy, PlanmeshError, Poison
from planmesh.planner.catalogue import Catalogue
from planmesh.planner.document import Limits
from planmesh.planner.revisions import propose
from planmesh.schemas import subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.subjects import PLANNER
from planmesh.schemas.work import PlannerWork

PROPOSAL: Final = "proposal"

_AT_ONCE: Final = 2
_WAITING: Final = 16  # each has up to 8 MiB
_question: Final = Codec[PlannerWork](PlannerWork)  # from people, and so not trusted as the executor is

log = structlog.get_logger()


async def serve(
    core: Connection,
    catalogue: Catalogue,
    limits: Limits,
    stop: asyncio.Event,
    directory: Directory | None = None,
) -> None:
    """Answer until *stop*. What is wrong comes as a service error (ADR-32): 4xx if it can never work, 503 if it may."""
    running: set[asyncio.Task[None]] = set()
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def answer(message: Msg) -> None:
        try:
            work = _question.decode(message.data)
            async with at_once:
                # A thread lets the loop keep its deliveries alive while a large plan takes a second.
                agents = await catalogue.agents_now()
                proposal = await asyncio.to_thread(propose, work, agents, limits=limits, directory=directory)
            core.send(message.reply, encode(proposal))
        except Exception as error:
            _refuse(core, message, error)

    def on_message(message: Msg) -> None:
        if not message.reply:
            return
        if len(running) >= _WAITING:
            # Nothing holds people's programs back, and all that they ask is in memory.
            _refuse(core, message, Busy("too many revisions are being looked at; ask again later"))
            return
        task = asyncio.create_task(answer(message))
        running.add(task)
        task.add_done_callback(running.discard)

    interest = await core.listen(subjects.query(PROPOSAL), on_message, queue=PLANNER)
    await stop.wait()
    await core.unlisten(interest)
    await asyncio.gather(*running, return_exceptions=True)


def _refuse(core: Connection, message: Msg, error: Exception) -> None:
    code = "400" if isinstance(error, Poison | DecodeError) else "503"
    if not isinstance(error, PlanmeshError | DecodeError):
        log.error("proposal.bug", exc_info=error)
    text = " ".join(str(error).split())[:500]
    try:
        core.send(message.reply, b"", headers={"Nats-Service-Error-Code": code, "Nats-Service-Error": text})
    except Busy:
        log.warning("proposal.answer_lost")
