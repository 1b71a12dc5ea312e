"""What is asked of the planner, over NATS: requests on ``query.<name>``. Nothing is stored, and nothing changes.

============= =========================== ==========================================================================
``query.``    question                    answer
============= =========================== ==========================================================================
``proposal``  a `PlannerWork`             the `ProposeRevision` that the planner would publish
``draft``     a `Goal`                    the `CreatePlan` or `RefuseGoal` that the planner would publish
``templates`` `TemplatesQuery`            `TemplatesAnswer`: the plans that the mesh keeps
``template``  `TemplateQuery`             `TemplateAnswer`: one of them, with its text
============= =========================== ==========================================================================

What is wrong comes as a service error (ADR-32): 4xx if it can never work, 503 if it may.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.directory import Directory
from planmesh.errors import Busy, PlanmeshError, Poison
from planmesh.planner.catalogue import Catalogue, described
from planmesh.planner.compile import Agents, compile_plan
from planmesh.planner.document import Limits
from planmesh.planner.drafting import Drafter, Wish
from planmesh.planner.goals import InWords, consider, drafted
from planmesh.planner.listing import Listing
from planmesh.planner.revisions import propose
from planmesh.planner.templates import Templates
from planmesh.schemas import subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.goals import Problem
from planmesh.schemas.queries import (
    TemplateAnswer,
    TemplateQuery,
    TemplatesQuery,
)
from planmesh.schemas.subjects import PLANNER
from planmesh.schemas.work import PlannerWork

_AT_ONCE: Final = 2
_WAITING: Final = 16  # each has up to 8 MiB
_DRAFTS_WAITING: Final = 8

# From people, and so not trusted as the executor is.
_work: Final = Codec[PlannerWork](PlannerWork)
_templates_query: Final = Codec[TemplatesQuery](TemplatesQuery)
_template_query: Final = Codec[TemplateQuery](TemplateQuery)

Answer = Callable[[bytes], Awaitable[bytes]]

log = structlog.get_logger()


class Questions:
    """Answers, each by itself."""

    def __init__(
        self,
        catalogue: Catalogue,
        drafter: Drafter,
        templates: Templates,
        limits: Limits,
        directory: Directory | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._drafter = drafter
        self._templates = templates
        self._listing = Listing(templates, limits)
        self._limits = limits
        self._directory = directory
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._drafting = asyncio.Semaphore(_AT_ONCE)
        self._drafts = 0

    @property
    def by_name(self) -> Mapping[str, Answer]:
        """Everything that can be asked, as in ``query.<name>``."""
        return {
            "proposal": self._proposal,
            "draft": self._draft,
            "templates": self._list,
            "template": self._template,
        }

    @property
    def _known(self) -> Directory:
        return (self._directory or Directory()).with_services(self._catalogue.services)

    async def _proposal(self, data: bytes) -> bytes:
        work = _work.decode(data)
        async with self._at_once:
            agents = await self._catalogue.agents_now()
            if not work.is_for_a_model:
                # A thread lets the loop keep its deliveries alive while a large plan takes a second.
                answer = partial(propose, work, agents, reviewers=self._drafter.reviewers)
                return encode(await asyncio.to_thread(answer, limits=self._limits, directory=self._known))
        async with self._by_a_model():
            return encode(await self._drafter.revise(work, described(agents)))

    async def _draft(self, data: bytes) -> bytes:
        async with self._at_once:
            agents = await self._catalogue.agents_now()
            work = partial(
                consider, data, agents, limits=self._limits, directory=self._known, templates=self._templates
            )
            found = await asyncio.to_thread(work)
        if not isinstance(found, InWords):
            return encode(found)
        async with self._by_a_model():
            wish = Wish(goal=found.goal.goal, agents=found.agents, inputs=found.goal.inputs, policy=found.policy)
            return encode(drafted(found, await self._drafter.draft(wish), limits=self._limits))

    @asynccontextmanager
    async def _by_a_model(self) -> AsyncIterator[None]:
        """Wait for a turn with the model. Raises: Busy, if too many wait."""
        if self._drafts >= _DRAFTS_WAITING:
            raise Busy("too many plans are being drafted for people to look at: ask again in a minute")
        self._drafts += 1
        try:
            async with self._drafting:
                yield
        finally:
            self._drafts -= 1

    async def _list(self, data: bytes) -> bytes:
        if data:
            _templates_query.decode(data)
        async with self._at_once:
            agents = await self._catalogue.agents()
            answer = partial(self._listing.answer, agents, self._known, self._catalogue.services)
            return encode(await asyncio.to_thread(answer))

    async def _template(self, data: bytes) -> bytes:
        question = _template_query.decode(data)
        async with self._at_once:
            agents = await self._catalogue.agents()
            return encode(await asyncio.to_thread(self._one, question.template, agents))

    def _one(self, name: str, agents: Agents) -> TemplateAnswer:
        found = self._templates.read(name)
        if isinstance(found, Problem):
            raise Poison(found.message + (f"; {found.hint}" if found.hint else ""))
        compiled = compile_plan(found.document, agents, limits=self._limits, directory=self._known)
        file = f"{name}{found.suffix}"
        if isinstance(compiled, list):
            return TemplateAnswer(template=name, file=file, text=found.text, problems=tuple(compiled))
        return TemplateAnswer(template=name, file=file, text=found.text, plan=compiled.plan)


async def serve(core: Connection, questions: Questions, stop: asyncio.Event) -> None:
    """Answer until *stop*; then finish what has been begun, but for what a model is at."""
    running: set[asyncio.Task[None]] = set()

    async def answer(message: Msg, how: Answer) -> None:
        try:
            core.send(message.reply, await how(message.data))
        except asyncio.CancelledError:
            _refuse(core, message, Busy("the planner ends; ask the next one"))
        except Exception as error:
            _refuse(core, message, error)

    def on_message(message: Msg, how: Answer) -> None:
        if not message.reply:
            return
        if len(running) >= _WAITING:
            # Nothing holds people's programs back, and all that they ask is in memory.
            _refuse(core, message, Busy("too many questions are being answered; ask again later"))
            return
        task = asyncio.create_task(answer(message, how))
        running.add(task)
        task.add_done_callback(running.discard)

    interests = [
        await core.listen(subjects.query(name), partial(on_message, how=how), queue=PLANNER)
        for name, how in questions.by_name.items()
    ]
    await stop.wait()
    for interest in interests:
        await core.unlisten(interest)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _refuse(core: Connection, message: Msg, error: Exception) -> None:
    code = "400" if isinstance(error, Poison | DecodeError) else "503"
    if not isinstance(error, PlanmeshError | DecodeError):
        log.error("question.bug", subject=message.subject, exc_info=error)
    text = " ".join(str(error).split())[:500]
    try:
        core.send(message.reply, b"", headers={"Nats-Service-Error-Code": code, "Nats-Service-Error": text})
    except Busy:
        log.warning("question.answer_lost", subject=message.subject)
