"""Which message goes to which function: goals, and requests for revisions, become commands; questions get answers."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from planmesh.connection import Connection
from planmesh.delivery import Message, consume
from planmesh.directory import Directory
from planmesh.planner.catalogue import Catalogue
from planmesh.planner.compile import Agents
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.goals import consider, lacks_an_agent
from planmesh.planner.proposals import serve
from planmesh.planner.revisions import propose
from planmesh.planner.runs import consider_run
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, RefuseGoal, ReportDraft, verb_of
from planmesh.schemas.subjects import GOALS, PLANNER, WORK
from planmesh.schemas.work import DraftWork, Failure, RunWork

ACTOR: Final = "planner"

_CONCURRENCY: Final = 16
_REVISIONS: Final = 4
_ACK_WAIT_S: Final = 5.0  # see `planmesh.streams.consumers`
_SMALL_BYTES: Final = 8 * 1024  # what takes no longer than a turn of the loop may

log = structlog.get_logger()


async def plan_goals(
    core: Connection,
    edge: Connection,
    stop: asyncio.Event,
    *,
    limits: Limits = LIMITS,
    directory: Directory | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer goals until *stop*; then finish those that have been begun.

    Args:
        core: The connection as `planner`: reads the catalogue, publishes commands.
        edge: The connection as `planner-edge`: receives goals.
        directory: Who can be asked to decide.
        on_ready: Called when goals are about to be received.

    Raises:
        Unusable: A connection is gone for good.
    """
    catalogue = Catalogue(core)
    planner = Planner(core, catalogue, limits, directory)
    log.info("planner.ready")
    on_ready()
    await asyncio.gather(
        consume(
            edge,
            GOALS,
            PLANNER,
            planner.answer,
            service=ACTOR,
            batch=4 * _CONCURRENCY,
            concurrency=_CONCURRENCY,
            ack_wait_s=_ACK_WAIT_S,
            stop=stop,
            poison_to=core,
        ),
        consume(
            core,
            WORK,
            PLANNER,
            planner.work,
            service=ACTOR,
            batch=_REVISIONS,
            concurrency=_REVISIONS,
            ack_wait_s=_ACK_WAIT_S,
            stop=stop,
        ),
        serve(core, catalogue, limits, stop, directory),
    )


class Planner:
    """Answers goals, one at a time or several at once."""

    def __init__(
        self, core: Connection, catalogue: Catalogue, limits: Limits = LIMITS, directory: Directory | None = None
    ) -> None:
        self._core = core
        self._catalogue = catalogue
        self._limits = limits
        self._directory = directory

    async def answer(self, message: Message) -> None:
        """Publish the command that answers a goal, and wait until it is stored.

        Raises:
            BadSubject: It is not on the subject of a goal.
            Busy: The server cannot say now which agents there are, or cannot take the command.
            Unusable: Not allowed, or closed.
        """
        address = subjects.read_goal(message.subject)
        traceparent = (message.headers or {}).get("traceparent")
        command = await self._consider(message.data, await self._catalogue.agents(), traceparent)
        if lacks_an_agent(command):
            command = await self._consider(message.data, await self._catalogue.agents_now(), traceparent)
        if isinstance(command, CreatePlan) and self._directory is not None:
            command = msgspec.structs.replace(command, owners=self._directory.owners_of(address.space))
        await self._core.publish(subjects.command(address, verb_of(command), ACTOR), encode(command))
        match command:
            case CreatePlan(plan=plan):
                log.info("goal.planned", space=address.space, plan=address.plan, steps=len(plan.steps))
            case RefuseGoal(problems=problems):
                codes = sorted({problem.code for problem in problems})
                log.info("goal.refused", space=address.space, plan=address.plan, problems=len(problems), codes=codes)

    async def work(self, message: Message) -> None:
        """Do what the executor wants done. Raises: as for `answer`; DecodeError, if it is nothing of that kind."""
        if not subjects.is_step_planning(message.subject):
            await self._revise(message)
            return
        work = codec.step_planning.decode(message.data)
        match work:
            case RunWork():
                await self._run(work)
            case DraftWork():
                await self._draft(work)

    async def _run(self, work: RunWork) -> None:
        agents = await self._catalogue.agents_now()
        command = await asyncio.to_thread(consider_run, work, agents, limits=self._limits, directory=self._directory)
        child = subjects.address(work.space, work.child)
        await self._core.publish(subjects.command(child, verb_of(command), ACTOR), encode(command))
        log.info("run.considered", space=work.space, plan=work.plan, step=work.step, child=work.child)

    async def _draft(self, work: DraftWork) -> None:
        failure = Failure(
            code="no_model",
            message="there is no model configured that could write a plan",
            retryable=False,
        )
        command = ReportDraft(
            id=f"d-{work.step[:40]}-{work.attempt}", step=work.step, attempt=work.attempt, failure=failure
        )
        await self._core.publish(subjects.command(work.address, "drafted", ACTOR), encode(command))

    async def _revise(self, message: Message) -> None:
        """Publish the command that answers a request for a revision, and wait until it is stored.

        Raises: as for `answer`; DecodeError, if it is not a request.
        """
        work = codec.planner_work.decode(message.data)
        agents = await self._catalogue.agents_now()
        command = await asyncio.to_thread(propose, work, agents, limits=self._limits, directory=self._directory)
        await self._core.publish(subjects.command(work.address, verb_of(command), ACTOR), encode(command))
        log.info("revision.proposed", space=work.space, plan=work.plan, kind=work.kind, problems=len(command.problems))

    async def _consider(self, data: bytes, agents: Agents, traceparent: str | None) -> CreatePlan | RefuseGoal:
        work = partial(consider, data, agents, traceparent=traceparent, limits=self._limits, directory=self._directory)
        # A thread lets the loop keep the deliveries alive while a large plan takes a second.
        return work() if len(data) <= _SMALL_BYTES else await asyncio.to_thread(work)
