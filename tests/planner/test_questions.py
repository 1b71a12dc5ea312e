"""Revisions that are looked at before they are asked for, on a real server."""

import asyncio
from collections.abc import Mapping

import pytest

from planmesh import settings
from planmesh.connection import Connection, connect
from planmesh.errors import Busy
from planmesh.planner.catalogue import Catalogue
from planmesh.planner.document import LIMITS
from planmesh.planner.drafting import Drafter
from planmesh.planner.goals import NO_TEMPLATES
from planmesh.planner.questions import Questions, serve
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import ProposeRevision
from planmesh.schemas.plan import Plan, Task
from planmesh.schemas.work import AgentDescription, PlannerWork
from planmesh.testing import MeshServer

ASKED = 40


class Slow(Catalogue):
    """Knows its agents only when it is let go."""

    def __init__(self, core: Connection) -> None:
        super().__init__(core)
        self.let_go = asyncio.Event()

    async def agents_now(self) -> Mapping[str, AgentDescription]:
        await self.let_go.wait()
        return {}


async def test_of_very_many_questions_some_are_told_to_come_again_and_the_others_are_answered(
    mesh_server: MeshServer,
) -> None:
    current = Plan(name="A plan", steps=(Task(name="a", agent="echo", idempotent=True),))
    work = encode(
        PlannerWork(space="s", plan="p", request="r", kind="revise", by="ada", current=current, kept=(), document={})
    )
    core, operator = [await opened(mesh_server, user) for user in ("planner", "operator-tester")]
    stop, catalogue = asyncio.Event(), Slow(core)
    questions = Questions(catalogue, Drafter(settings.Model(), settings.Planner()), NO_TEMPLATES, LIMITS)
    async with core, operator, asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(core, questions, stop))
        await core.flush()

        asked = [asyncio.create_task(ask(operator, work)) for _ in range(ASKED)]
        done, left = await asyncio.wait(asked, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < ASKED - 16:
            more, left = await asyncio.wait(left, timeout=15, return_when=asyncio.FIRST_COMPLETED)
            assert more, "nobody was told to come again"
            done |= more
        for one in done:
            with pytest.raises(Busy, match="too many questions"):
                one.result()
        catalogue.let_go.set()
        answers = await asyncio.gather(*left)
        stop.set()

    assert len(answers) == 16
    assert all(isinstance(codec.command.decode(answer), ProposeRevision) for answer in answers)


async def ask(operator: Connection, work: bytes) -> bytes:
    return await operator.request(subjects.query("proposal"), work, timeout_s=60)


async def opened(server: MeshServer, user: str) -> Connection:
    who = server.credentials(user)
    return await connect(who.server, who.user, who.password, name="test")
