"""Which message goes to which function: goals, and requests for revisions, become commands; questions get answers."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from planmesh import settings
from planmesh.connection import Connection
from planmesh.delivery import Message, consume
from planmesh.directory import Directory
from planmesh.errors import Busy, Poison, Unusable
from planmesh.inspection import spaces_of
from planmesh.planner.catalogue import Catalogue, described
from planmesh.planner.compile import Agents
from planmesh.planner.desk import WAITING, Desk
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.drafting import Drafter, Wish, allowed, draft_for_step
from planmesh.planner.goals import NO_TEMPLATES, InWords, consider, drafted, lacks_an_agent
from planmesh.planner.questions import Questions, serve
from planmesh.planner.revisions import propose
from planmesh.planner.room import Room
from planmesh.planner.runs import consider_run
from planmesh.planner.templates import Templates
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, ProposeRevision, RefuseGoal, ReportDraft, verb_of
from planmesh.schemas.goals import Problem
from planmesh.schemas.subjects import PLANNER, WORK, Address
from planmesh.schemas.work import DraftWork, RunWork
from planmesh.streams import SERVICE_ACK_WAIT_S

ACTOR: Final = "planner"

_CONCURRENCY: Final = 16
_REVISIONS: Final = 4
_LOOK_S: Final = 2.0  # for submitters that are new
_SMALL_BYTES: Final = 8 * 1024  # what takes no longer than a turn of the loop may

log = structlog.get_logger()


async def plan_goals(
    core: Connection,
    edge: Connection,
    stop: asyncio.Event,
    *,
    limits: Limits = LIMITS,
    directory: Directory | None = None,
    drafter: Drafter | None = None,
    templates: Templates = NO_TEMPLATES,
    drafts_at_once: int = 4,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer goals until *stop*; then finish those that have been begun, but for what a model is at.

    Args:
        core: The connection as `planner`: reads the catalogue, publishes commands.
        edge: The connection as `planner-edge`: receives goals.
        directory: Who can be asked to decide.
        drafter: Makes plans of words; None: there is no model.
        templates: The plans that the mesh keeps.
        drafts_at_once: How many goals a model works on at the same time, and as many revisions and steps.
        on_ready: Called when goals are about to be received.

    Raises:
        Unusable: A connection is gone for good.
    """
    catalogue = Catalogue(core)
    drafter = drafter or Drafter(settings.Model(), settings.Planner(), limits=limits, directory=directory)
    goals = Desk[CreatePlan | RefuseGoal](drafts_at_once, stop)
    at_work = Desk[ProposeRevision | ReportDraft](drafts_at_once, stop)
    planner = Planner(core, catalogue, drafter, goals, at_work, templates, limits, directory)
    log.info("planner.ready")
    on_ready()
    await asyncio.gather(
        _take_goals(core, edge, planner, _CONCURRENCY + (drafts_at_once + WAITING) // 2, stop),
        consume(
            core,
            WORK,
            PLANNER,
            planner.work,
            service=ACTOR,
            batch=_REVISIONS,
            concurrency=_REVISIONS + drafts_at_once + WAITING,
            ack_wait_s=SERVICE_ACK_WAIT_S,
            stop=stop,
        ),
        serve(core, Questions(catalogue, drafter, templates, limits, directory), stop),
    )


async def _take_goals(
    core: Connection, edge: Connection, planner: "Planner", concurrency: int, stop: asyncio.Event
) -> None:
    """Answer the goals of every submitter until *stop*, each with workers of its own: however many one publishes, those
    of another are not behind them."""
    read: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while not stop.is_set():
            try:
                spaces = await spaces_of(core)
            except (Busy, Unusable) as error:
                if core.closed.is_set():
                    raise
                log.warning("submitters.unknown", error=str(error))
                spaces = []
            for space in set(spaces) - read:
                read.add(space)
                goals = consume(
                    edge,
                    subjects.goal_stream(space),
                    PLANNER,
                    planner.answer,
                    service=ACTOR,
                    batch=4 * _CONCURRENCY,
                    concurrency=concurrency,
                    ack_wait_s=SERVICE_ACK_WAIT_S,
                    stop=stop,
                    poison_to=core,
                )
                tasks.create_task(goals)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S)


class Planner:
    """Answers goals, one at a time or several at once."""

    def __init__(
        self,
        core: Connection,
        catalogue: Catalogue,
        drafter: Drafter,
        goals: Desk[CreatePlan | RefuseGoal],
        at_work: Desk[ProposeRevision | ReportDraft],
        templates: Templates,
        limits: Limits = LIMITS,
        directory: Directory | None = None,
    ) -> None:
        self._core = core
        self._room = Room(core)
        self._catalogue = catalogue
        self._drafter = drafter
        self._goals = goals
        self._at_work = at_work
        self._templates = templates
        self._limits = limits
        self._directory = directory

    async def answer(self, message: Message) -> None:
        """Publish the command that answers a goal, and wait until it is stored.

        Raises:
            BadSubject: It is not on the subject of a goal.
            Busy: The log is nearly full; or the server cannot say now which agents there are, or take the command.
            Unusable: Not allowed, or closed.
        """
        address = subjects.read_goal(message.subject)
        await self._room.expect()
        traceparent = (message.headers or {}).get("traceparent")
        command = await self._consider(message.data, await self._catalogue.agents(), traceparent)
        if isinstance(command, InWords) and self._goals.turns_away(message, address.space):
            return  # before anything is asked of the server for it
        if isinstance(command, InWords) or lacks_an_agent(command):
            command = await self._consider(message.data, await self._catalogue.agents_now(), traceparent)
        if isinstance(command, InWords):
            key = (address, command.goal_digest)
            made = await self._goals.work(message, key, partial(self._in_words, command))
            if made is None:
                return
            command = made
        command = await self._publish(address, command)
        match command:
            case CreatePlan(plan=plan):
                log.info("goal.planned", space=address.space, plan=address.plan, steps=len(plan.steps))
            case RefuseGoal(problems=problems):
                codes = sorted({problem.code for problem in problems})
                log.info("goal.refused", space=address.space, plan=address.plan, problems=len(problems), codes=codes)

    async def _publish(self, address: Address, command: CreatePlan | RefuseGoal) -> CreatePlan | RefuseGoal:
        """Publish *command*, or a refusal in its place if it is too large; and wait until it is stored.

        Returns: what has been published.
        """
        if isinstance(command, CreatePlan):
            if self._directory is not None:
                # Of a plan that runs for a step as well: its gates with four eyes bar the same people.
                command = msgspec.structs.replace(command, owners=self._directory.owners_of(address.space))
            try:
                await self._core.publish(subjects.command(address, verb_of(command), ACTOR), encode(command))
            except Poison as error:
                command = command.refused(
                    Problem(code="too_large", message=f"the completed plan is too large: {error}")
                )
            else:
                return command
        await self._core.publish(subjects.command(address, verb_of(command), ACTOR), encode(command))
        return command

    @property
    def _known(self) -> Directory:
        """Who can be asked to decide: people, as the settings have them, and the services that the server knows."""
        return (self._directory or Directory()).with_services(self._catalogue.services)

    async def _in_words(self, wanted: InWords) -> CreatePlan | RefuseGoal:
        wish = Wish(goal=wanted.goal.goal, agents=wanted.agents, inputs=wanted.goal.inputs, policy=wanted.policy)
        return drafted(wanted, await self._drafter.draft(wish), limits=self._limits)

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
                await self._draft(message, work)

    async def _run(self, work: RunWork) -> None:
        agents = await self._catalogue.agents_now()
        considered = partial(consider_run, work, agents, reviewers=self._drafter.reviewers)
        command = await asyncio.to_thread(considered, limits=self._limits, directory=self._known)
        await self._publish(subjects.address(work.space, work.child), command)
        log.info("run.considered", space=work.space, plan=work.plan, step=work.step, child=work.child)

    async def _draft(self, message: Message, work: DraftWork) -> None:
        agents = allowed(described(await self._catalogue.agents_now()), work.agents)
        key = (work.address, work.step, work.attempt)
        command = await self._at_work.work(message, key, partial(draft_for_step, self._drafter, work, agents))
        if command is not None:
            await self._core.publish(subjects.command(work.address, verb_of(command), ACTOR), encode(command))

    async def _revise(self, message: Message) -> None:
        """Publish the command that answers a request for a revision, and wait until it is stored.

        Raises: as for `answer`; DecodeError, if it is not a request.
        """
        work = codec.planner_work.decode(message.data)
        agents = await self._catalogue.agents_now()
        if work.is_for_a_model:
            key = (work.address, work.request)
            made = await self._at_work.work(message, key, partial(self._drafter.revise, work, described(agents)))
            if made is None:
                return
            assert isinstance(made, ProposeRevision)  # the key of a draft is another
            command = made
        else:
            answer = partial(propose, work, agents, reviewers=self._drafter.reviewers)
            command = await asyncio.to_thread(answer, limits=self._limits, directory=self._known)
        await self._core.publish(subjects.command(work.address, verb_of(command), ACTOR), encode(command))
        log.info("revision.proposed", space=work.space, plan=work.plan, kind=work.kind, problems=len(command.problems))

    async def _consider(
        self, data: bytes, agents: Agents, traceparent: str | None
    ) -> CreatePlan | RefuseGoal | InWords:
        work = partial(
            consider,
            data,
            agents,
            traceparent=traceparent,
            limits=self._limits,
            directory=self._known,
            templates=self._templates,
        )
        # A thread lets the loop keep the deliveries alive while a large plan takes a second.
        return work() if len(data) <= _SMALL_BYTES else await asyncio.to_thread(work)
