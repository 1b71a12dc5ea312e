"""A gatekeeper on a real server, and whoever makes the log that it follows."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime
from typing import Any

from planmesh.connection import Connection, connect
from planmesh.delivery import Message, consume
from planmesh.errors import Conflict
from planmesh.eventlog import EventLog
from planmesh.executor.plan import decide
from planmesh.gatekeeper.notify import Channel
from planmesh.gatekeeper.reach import Reach
from planmesh.gatekeeper.service import Gatekeeper
from planmesh.schemas import codec, subjects
from planmesh.schemas import commands as asks
from planmesh.schemas.commands import AnyCommand, Asked, ReportNotice, ReportResult
from planmesh.schemas.events import AnyEvent, NoticeSent
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import answered
from planmesh.schemas.subjects import COMMANDS, DECIDE, Address
from planmesh.schemas.work import AttemptCompleted, AttemptFailed, Failure
from planmesh.testing import MeshServer


class Clerk:
    """Decides what a test asks and what the gatekeeper reports, as an executor does, on the real log.

    Attributes:
        reports: What the gatekeeper has reported, in order, once it is in the log.
        core: The executor's connection.
    """

    def __init__(self, core: Connection) -> None:
        self.core = core
        self.log = EventLog(core)
        self.reports: list[ReportNotice] = []
        self._ids = itertools.count(1)
        self._one_at_a_time = asyncio.Lock()

    async def listen(self) -> None:
        await consume(self.core, COMMANDS, DECIDE, self._hear, service="executor", group="executor")

    async def _hear(self, message: Message) -> None:
        subject = subjects.read_command(message.subject)
        command = codec.command.decode(message.data)
        await self._decide(subject.address, Asked(command, subject.actor, message.timestamp))
        if isinstance(command, ReportNotice):
            self.reports.append(command)

    async def ask(self, address: Address, what: AnyCommand | ReportResult, by: str = "ada") -> list[AnyEvent]:
        """Have *what* decided now, as if it had come from *by*."""
        return await self._decide(address, Asked(what, by, datetime.now(UTC)))

    async def _decide(self, address: Address, asked: Asked) -> list[AnyEvent]:
        while True:
            async with self._one_at_a_time:
                recorded = await self.log.read(address)
                decision = decide(recorded.state, asked)
                if not decision.events:
                    return []
                after = answered(decision.state, [asked.cause])
                with contextlib.suppress(Conflict):
                    await self.log.append(recorded, after, decision.events, [asked.cause], asked.at)
                    return decision.events

    # --- what happens to plans -------------------------------------------------------------------------

    def id(self) -> str:
        return f"id-{next(self._ids)}"

    async def create(self, address: Address, plan: Plan) -> None:
        await self.ask(address, asks.CreatePlan(id=self.id(), plan=plan, goal_digest="digest"), "planner")

    async def complete(self, address: Address, step: str, output: object = None) -> None:
        state = (await self.log.read(address)).state
        result = AttemptCompleted(
            space=address.space,
            plan=address.plan,
            step=step,
            attempt=state.steps[step].attempt,
            output=Payload(value=output),
            started_at=datetime.now(UTC),
            duration_s=0.5,
        )
        await self.ask(address, ReportResult(result), state.steps[step].agent)

    async def fail(self, address: Address, step: str, message: str = "503") -> None:
        state = (await self.log.read(address)).state
        result = AttemptFailed(
            space=address.space,
            plan=address.plan,
            step=step,
            attempt=state.steps[step].attempt,
            failure=Failure(code="http_error", message=message, retryable=False),
            started_at=datetime.now(UTC),
            duration_s=0.5,
        )
        await self.ask(address, ReportResult(result), state.steps[step].agent)

    async def vote(self, address: Address, step: str, decision: Any = "approve", by: str = "ada") -> None:
        opened = (await self.log.read(address)).state.steps[step].opened
        assert opened is not None
        await self.ask(address, asks.CastVote(id=self.id(), step=step, digest=opened.digest, decision=decision), by)

    async def overdue(self, address: Address, step: str) -> None:
        number = (await self.log.read(address)).state.steps[step].attempt
        await self.ask(address, asks.TimerDue(id=self.id(), step=step, attempt=number, purpose="sla"), "executor")

    async def notices(self, address: Address) -> list[NoticeSent]:
        """What the log says was sent."""
        return [
            event
            async for line in self.log.lines(address)
            for event in line.commit.events
            if isinstance(event, NoticeSent)
        ]


async def connected(mesh: MeshServer, user: str) -> Connection:
    who = mesh.credentials(user)
    return await connect(who.server, who.user, who.password, name=user)


class Running:
    """Gatekeepers that a test starts and stops."""

    def __init__(self, mesh: MeshServer) -> None:
        self.mesh = mesh
        self._running: list[tuple[asyncio.Task[None], asyncio.Event, Connection]] = []

    async def start(
        self,
        *channels: Channel,
        retry_pauses_s: tuple[float, ...] = (0.05, 0.05),
        news_every_s: float | None = None,
        with_outputs: bool = True,
        unclear_after_s: float = 0.5,
        look_every_s: float = 60.0,
        reach: Reach | None = None,
    ) -> None:
        core, stop = await connected(self.mesh, "gatekeeper"), asyncio.Event()
        gatekeeper = Gatekeeper(
            core,
            channels,
            retry_pauses_s=retry_pauses_s,
            news_every_s=news_every_s,
            with_outputs=with_outputs,
            unclear_after_s=unclear_after_s,
            look_every_s=look_every_s,
            reach=reach,
        )
        self._running.append((asyncio.create_task(gatekeeper.run(stop)), stop, core))

    async def stop(self) -> None:
        """As SIGTERM does."""
        while self._running:
            task, stop, core = self._running.pop()
            stop.set()
            await asyncio.wait_for(task, 10)
            assert not core.violations
            await core.close()
