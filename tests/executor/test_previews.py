"""Previews: what a command would do, by the rules by which it would be done, and nothing of it stored."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pages import HERE
from whole import Whole, whole

from planmesh.errors import Busy, Poison
from planmesh.schemas import subjects
from planmesh.schemas.codec import Codec, encode
from planmesh.schemas.commands import AnyCommand, CancelPlan, ReviewGate
from planmesh.schemas.events import AnyEvent, CommandRefused, GateApproved, RevisionRefused, VoteCast
from planmesh.schemas.previews import PREVIEW, PreviewAnswer, PreviewQuery
from planmesh.schemas.subjects import Address
from planmesh.testing import MeshServer

AGENT = {"kind": "task", "agent": "agent"}
PLAN = {
    "name": "Pay",
    "steps": [
        {"kind": "gate", "name": "ok", "reviewers": ["team:finance"]},
        {**AGENT, "name": "pay", "after": ["ok"], "inputs": {"total": 100}},
    ],
}
answers = Codec[PreviewAnswer](PreviewAnswer)


@pytest.fixture
async def site(mesh_server: MeshServer) -> AsyncIterator[Whole]:
    async with whole(mesh_server) as running:
        yield running


async def preview(site: Whole, command: AnyCommand, by: str = "ada", address: Address = HERE) -> PreviewAnswer:
    question = PreviewQuery(space=address.space, plan=address.plan, by=by, command=command)
    data = await site.gatekeeper.request(subjects.query(PREVIEW), encode(question), timeout_s=20)
    return answers.decode(data)


async def approval(site: Whole) -> ReviewGate:
    opened = (await site.state(HERE)).steps["ok"].opened
    assert opened is not None
    return ReviewGate(
        id="yes", step="ok", digest=opened.digest, decision="approve", groups=("team:finance",), level="link"
    )


async def stored(site: Whole, count: int) -> list[AnyEvent]:
    """What came after the first *count* events."""
    return (await site.events())[count:]


async def test_what_is_foreseen_is_what_happens(site: Whole) -> None:
    await site.create(HERE, PLAN)
    before, command = len(await site.events()), await approval(site)

    foreseen = await preview(site, command)
    assert await stored(site, before) == []
    await site.gatekeeper.publish(subjects.command(HERE, "review", "ada"), encode(command))
    await site.until(HERE, lambda state: state.has_answered("ada", "yes"))

    happened = await stored(site, before)
    assert any(isinstance(event, VoteCast) for event in happened)
    assert list(foreseen.events) == happened


async def test_a_refusal_is_foreseen_as_well(site: Whole) -> None:
    await site.create(HERE, PLAN)
    command = await approval(site)

    (refused,) = (await preview(site, command, by="ada", address=Address("tester", "nothing"))).events
    assert isinstance(refused, CommandRefused)
    stale = ReviewGate(
        id="late",
        step="ok",
        digest="x",
        decision="redirect",
        groups=("team:finance",),
        level="link",
        document="steps: []",
    )
    assert [event.code for event in (await preview(site, stale)).events if isinstance(event, CommandRefused)] == [
        "stale"
    ]
    assert not any(isinstance(event, GateApproved) for event in await site.events())


async def test_what_the_planner_would_refuse_is_said_with_its_problems(site: Whole) -> None:
    await site.create(HERE, PLAN)
    asked = await approval(site)
    document = {"steps": [{**AGENT, "name": "pay", "agent": "nobody"}]}
    command = ReviewGate(
        id="no",
        step="ok",
        digest=asked.digest,
        decision="redirect",
        groups=asked.groups,
        level="link",
        document=document,
    )

    (refused,) = [event for event in (await preview(site, command)).events if isinstance(event, RevisionRefused)]

    assert [problem.code for problem in refused.problems] == ["unknown_agent"]


async def test_what_an_instruction_comes_to_is_seen_when_it_is_done(site: Whole) -> None:
    await site.create(HERE, PLAN)
    asked = await approval(site)
    said = {"digest": asked.digest, "decision": "redirect", "groups": asked.groups, "level": "link"}
    command = ReviewGate(id="no", step="ok", **said, instruction="Pay less")

    (refused,) = [event for event in (await preview(site, command)).events if isinstance(event, RevisionRefused)]

    assert [problem.code for problem in refused.problems] == ["no_model"]


async def test_what_is_no_question_is_refused_and_harms_nothing(site: Whole) -> None:
    await site.create(HERE, PLAN)

    for junk in (
        b"",
        b"{}",
        b'{"space":"tester","plan":"pay","by":"ada","command":{"verb":"explode","id":"x"}}',
        b"\xff",
    ):
        with pytest.raises(Poison):
            await site.gatekeeper.request(subjects.query(PREVIEW), junk)

    assert (await preview(site, CancelPlan(id="c"), by="oper")).events


async def test_more_than_can_be_worked_out_soon_is_refused_and_asked_again_later(site: Whole) -> None:
    await site.create(HERE, PLAN)
    command = await approval(site)

    said = await asyncio.gather(*(preview(site, command) for _ in range(300)), return_exceptions=True)

    assert {type(one) for one in said} == {PreviewAnswer, Busy}
    assert isinstance(await preview(site, command), PreviewAnswer)
