"""What a command would do: requests on ``query.preview``, decided by the rules by which it would be, and forgotten.

A revision is worked out by a planner, which stores nothing of it either; one in words is not.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.errors import Busy, PlanmeshError, Poison
from planmesh.eventlog import EventLog
from planmesh.executor.blobs import BlobStore, Values
from planmesh.executor.plan import Decision, decide
from planmesh.executor.revision import wanted
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.commands import Asked, ProposeRevision
from planmesh.schemas.events import RevisionRequested
from planmesh.schemas.goals import Problem
from planmesh.schemas.previews import PREVIEW, PreviewAnswer, PreviewQuery
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address
from planmesh.schemas.values import NeedsBlob
from planmesh.schemas.work import PlannerWork

_AT_ONCE: Final = 2
_WAITING: Final = 16  # each has up to 8 MiB
_PLANNER_S: Final = 20.0
_question: Final = Codec[PreviewQuery](PreviewQuery)

log = structlog.get_logger()


class Rules(NamedTuple):
    """What the settings say of decisions; see `decide`."""

    gate_sla_s: float
    escalate_to: str


class Previews:
    """Args:
    core: May answer requests, and ask planners.
    """

    def __init__(self, core: Connection, event_log: EventLog, blobs: BlobStore, rules: Rules) -> None:
        self._core = core
        self._log = event_log
        self._blobs = blobs
        self._rules = rules
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def serve(self, stop: asyncio.Event, group: str) -> None:
        """Answer until *stop*. What is wrong comes as a service error (ADR-32): 4xx if it can never work, 503 if it
        may."""
        running: set[asyncio.Task[None]] = set()

        def on_message(message: Msg) -> None:
            if message.reply and len(running) >= _WAITING:
                # Nothing holds people's programs back, and all that they ask is in memory.
                self._refuse(message, Busy("too many previews are being worked out; ask again later"))
            elif message.reply:
                task = asyncio.create_task(self._answer(message))
                running.add(task)
                task.add_done_callback(running.discard)

        interest = await self._core.listen(subjects.query(PREVIEW), on_message, queue=group)
        await stop.wait()
        await self._core.unlisten(interest)
        await asyncio.gather(*running, return_exceptions=True)

    async def _answer(self, message: Msg) -> None:
        try:
            async with self._at_once:
                answer = encode(await self.preview(_question.decode(message.data)))
                self._core.send(message.reply, answer)
        except Exception as error:
            if not isinstance(error, PlanmeshError | DecodeError):
                log.error("preview.bug", exc_info=error)
            self._refuse(message, error)

    def _refuse(self, message: Msg, error: Exception) -> None:
        code = "400" if isinstance(error, Poison | DecodeError) else "503"
        text = " ".join(str(error).split())[:500]
        try:
            self._core.send(message.reply, b"", headers={"Nats-Service-Error-Code": code, "Nats-Service-Error": text})
        except Busy:
            log.warning("preview.answer_lost")

    async def preview(self, question: PreviewQuery) -> PreviewAnswer:
        """Decide *question* on the log as it is.

        Raises:
            Busy: The log cannot be read, or no planner answers.
        """
        state = (await self._log.read(Address(question.space, question.plan))).state
        now = datetime.now(UTC)
        at = now if state.updated_at is None else max(now, state.updated_at)
        decision = await self._decide(state, Asked(question.command, question.by, at))
        events = decision.events
        for event in events:
            if isinstance(event, RevisionRequested) and event.request == question.command.id:
                proposal = await self._propose(wanted(decision.state, event))
                events = [*events, *(await self._decide(decision.state, Asked(proposal, "planner", at))).events]
                break
        return PreviewAnswer(number=state.number, at=at, events=tuple(events))

    async def _decide(self, state: PlanState, asked: Asked) -> Decision:
        values = Values(self._blobs)
        while True:
            try:
                # A thread lets the loop decide what waits while a large plan takes its time.
                return await asyncio.to_thread(partial(self._decided, state, asked, dict(values.by_sha256)))
            except NeedsBlob as needs:
                await values.fetch(needs.blobs)

    def _decided(self, state: PlanState, asked: Asked, blobs: Mapping[str, object]) -> Decision:
        return decide(state, asked, blobs=blobs, gate_sla_s=self._rules.gate_sla_s, escalate_to=self._rules.escalate_to)

    async def _propose(self, work: PlannerWork) -> ProposeRevision:
        if work.is_for_a_model:
            # What a model says now is not what it will say then; and who asks here does not wait for one.
            problem = Problem(
                code="no_model",
                message="an instruction takes a model to work it out; what it comes to is seen when it is done",
                hint="send the edited plan itself",
            )
            return ProposeRevision(id=work.answer, request=work.request, problems=(problem,))
        data = await self._core.request(subjects.query("proposal"), encode(work), timeout_s=_PLANNER_S)
        answer = codec.command.decode(data)
        if not isinstance(answer, ProposeRevision):
            raise Busy("a planner has answered with something else than a revision")
        return answer
