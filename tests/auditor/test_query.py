"""Questions over NATS, and what is answered."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from auditor_tables import Audited, moved
from plays import START, Play, gate, plan, task

from planmesh.auditor.read import Refused
from planmesh.cli.render import status
from planmesh.cli.view import of_state
from planmesh.errors import Busy
from planmesh.schemas import commands as asks
from planmesh.schemas import queries, subjects, tracing
from planmesh.schemas.codec import encode
from planmesh.schemas.events import PlanCreated
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Ask, Escalation
from planmesh.schemas.queries import QueryError
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address

Tables = Callable[..., Audited]


def waiting() -> Play:
    """A plan that stands before a gate."""
    play = Play(plan(task("build"), gate("release", "build", prompt="Ship it?"), task("ship", "release")))
    play.completes("build", output={"name": "wheel"})
    return play


def filled(audited: Audited) -> Audited:
    """Three plans in two spaces: one waits, one is done, one was cancelled; an hour between them."""
    first = waiting()
    second = Play(plan(task("read"), goal="Find the lost keys"))
    second.at += timedelta(hours=1)
    second.completes("read")
    third = Play(plan(task("read")))
    third.ask(asks.CancelPlan(id="stop"), later_s=7_200)
    audited.add(*moved(first.log, Address("shop", "release-7")))
    audited.add(*moved(second.log, Address("shop", "keys")))
    audited.add(*moved(third.log, Address("lab", "keys")))
    return audited


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (queries.PlansQuery(), ["lab.keys", "shop.keys", "shop.release-7"]),
        (queries.PlansQuery(space="shop"), ["shop.keys", "shop.release-7"]),
        (queries.PlansQuery(statuses=(PlanStatus.WAITING,)), ["shop.release-7"]),
        (queries.PlansQuery(statuses=(PlanStatus.WAITING, PlanStatus.CANCELLED)), ["lab.keys", "shop.release-7"]),
        (queries.PlansQuery(text="KEY"), ["lab.keys", "shop.keys"]),
        (queries.PlansQuery(text="a plan"), ["lab.keys", "shop.keys", "shop.release-7"]),
        (queries.PlansQuery(text="100%_"), []),
        (queries.PlansQuery(agent="agent", space="lab"), ["lab.keys"]),
        (queries.PlansQuery(agent="nobody"), []),
        (queries.PlansQuery(since=START + timedelta(hours=1)), []),
        (queries.PlansQuery(until=START + timedelta(hours=1), limit=1), ["lab.keys"]),
    ],
)
def test_plans_are_found(tables_in: Tables, question: queries.PlansQuery, found: list[str]) -> None:
    answer = filled(tables_in()).ask(question)

    assert [f"{row.space}.{row.plan}" for row in answer.plans] == found


def test_plans_come_in_pages(tables_in: Tables) -> None:
    audited = filled(tables_in())

    first = audited.ask(queries.PlansQuery(limit=2))
    second = audited.ask(queries.PlansQuery(limit=2, before=first.next))

    assert [row.plan for row in (*first.plans, *second.plans)] == ["keys", "keys", "release-7"]
    assert second.next is None


def test_a_plan_is_found_by_its_id_alone_while_no_other_space_has_it(tables_in: Tables) -> None:
    audited = filled(tables_in())

    assert audited.ask(queries.PlanQuery(plan="release-7")).plan.space == "shop"
    with pytest.raises(Refused) as refused:
        audited.ask(queries.PlanQuery(plan="keys"))

    assert refused.value.error == QueryError(
        code="ambiguous_plan",
        message="plan keys is in more than one space: lab, shop. Say which: lab.keys",
        spaces=("lab", "shop"),
    )
    assert audited.ask(queries.PlanQuery(plan="keys", space="lab")).plan.status == "cancelled"


@pytest.mark.parametrize(
    ("question", "nearest"),
    [
        (queries.PlanQuery(plan="relaese-7"), ("shop.release-7",)),
        (queries.PlanQuery(plan="rel"), ("shop.release-7",)),
        (queries.PlanQuery(plan="release-7", space="lab"), ("shop.release-7",)),
        (queries.PlanQuery(plan="%"), ()),
    ],
)
def test_an_unknown_plan_is_answered_by_those_that_look_like_it(
    tables_in: Tables, question: queries.PlanQuery, nearest: tuple[str, ...]
) -> None:
    with pytest.raises(Refused) as refused:
        filled(tables_in()).ask(question)

    assert refused.value.error.code == "unknown_plan"
    assert refused.value.error.nearest == nearest


def test_open_gates_say_what_their_reviewers_must_know(tables_in: Tables) -> None:
    answer = filled(tables_in()).ask(queries.GatesQuery())

    (found,) = answer.gates
    assert (found.space, found.plan, found.plan_name, found.step) == ("shop", "release-7", "A plan", "release")
    assert (found.round, found.quorum, found.votes, found.overdue) == (1, 1, (), False)
    assert found.prompt == "Ship it?"
    assert [step.step for step in found.upstream] == ["build"]
    assert [step.step for step in found.releases] == ["ship"]
    assert found.overdue_at > found.since


def test_a_plan_says_which_of_its_gates_are_overdue(tables_in: Tables) -> None:
    play = waiting()
    play.is_due("release", purpose="sla")
    audited = tables_in()
    audited.add(*play.log)

    (row,) = audited.ask(queries.PlansQuery()).plans

    assert (row.gates, row.overdue) == (("release",), ("release",))
    assert status(row).plain.endswith("waiting for a person, overdue")
    assert of_state(play.state).plan.overdue == ("release",)


def test_gates_come_in_pages_the_longest_open_first(tables_in: Tables) -> None:
    audited = tables_in()
    for number in (3, 1, 2):
        play = Play(plan(gate("a"), gate("b")))
        play.ask(asks.PausePlan(id="hold"))
        audited.add(*moved(play.log, Address("shop", f"p{number}")))

    found, after = [], ""
    while after is not None:
        answer = audited.ask(queries.GatesQuery(limit=4, after=after))
        found += [f"{one.plan}.{one.step}" for one in answer.gates]
        after = answer.next

    assert found == ["p3.a", "p3.b", "p1.a", "p1.b", "p2.a", "p2.b"]


def test_a_page_of_gates_that_grows_large_ends_earlier_and_loses_none(tables_in: Tables) -> None:
    audited = tables_in()
    for number in range(30):
        play = Play(plan(gate("go", show=("{text}",))), inputs={"text": "x" * (queries.ROW_BYTES // 4)})
        audited.add(*moved(play.log, Address("shop", f"p{number:02}")))

    sizes, found, after = [], [], ""
    while after is not None:
        answer = audited.ask(queries.GatesQuery(limit=25, after=after))
        sizes.append(len(answer.gates))
        found += [one.plan for one in answer.gates]
        after = answer.next

    assert sizes[0] < 25
    assert found == [f"p{number:02}" for number in range(30)]


def test_a_list_of_gates_says_in_brief_what_the_whole_says_at_length(tables_in: Tables) -> None:
    play = Play(
        plan(
            gate(
                "go",
                prompt="Pay? " * 100,
                show=("{text}",),
                reviewers=("team:a", "role:operator"),
                quorum=2,
                label="Go",
            ),
            Ask(name="now", escalate=(Escalation(after_s=60, to=("person:ada",)),)),
        ),
        inputs={"text": "x" * 1_000},
    )
    play.votes("go")
    audited = tables_in()
    audited.add(*play.log)

    whole, brief = (audited.ask(queries.GatesQuery(brief=brief)).gates for brief in (False, True))

    assert [one.step for one in brief] == ["go", "now"]
    told = {
        "prompt",
        "shown",
        "upstream",
        "releases",
        "behind",
        "shares",
        "escalate",
        "answer",
        "default",
        "max_retries",
    }
    for field in set(queries.GateRow.__struct_fields__) - told:
        assert [getattr(one, field) for one in brief] == [getattr(one, field) for one in whole], field
    assert [one.shown for one in brief] == [(), ()]
    assert 0 < len(brief[0].prompt) < len(whole[0].prompt)
    assert whole[0].prompt.startswith(brief[0].prompt)


def test_what_is_too_large_for_a_message_is_left_out_and_named(tables_in: Tables) -> None:
    play = Play(plan(task("build")), inputs={"text": "x" * (queries.ROW_BYTES + 1)})
    audited = tables_in()
    audited.add(*play.log)

    answer = audited.ask(queries.PlanQuery(plan="plan"))
    first = audited.ask(queries.LogQuery(plan="plan")).lines[0]

    assert answer.cut == ("document", "result", "inputs")
    assert (first.type, first.cut, bytes(first.event)) == ("plan.created", ("event",), b"null")


def test_a_page_ends_before_it_grows_large(tables_in: Tables) -> None:
    play = Play(plan(*(task(f"s{number}") for number in range(6)), concurrency=6))
    for number in range(6):
        play.completes(f"s{number}", output="x" * 400_000)
    audited = tables_in()
    audited.add(*play.log)

    sizes, after = [], 0
    while after is not None:
        answer = audited.ask(queries.StepsQuery(plan="plan", after=after))
        sizes.append(len(answer.steps))
        after = answer.next

    assert sizes == [2, 2, 2]


# --- over NATS ---------------------------------------------------------------------------------------------


async def test_every_question_is_answered_over_nats(desk: Any) -> None:
    async with desk.running():
        await desk.write(*waiting().log)
        await desk.until_read(2)

        plans = await desk.ask_bytes("plans", b"")
        one = await desk.ask(queries.PlanQuery(plan="plan"))
        steps = await desk.ask(queries.StepsQuery(plan="plan", space="space"))
        log = await desk.ask(queries.LogQuery(plan="plan", number=2))
        gates = await desk.ask(queries.GatesQuery(plan="plan"))

    assert [row.plan for row in plans.plans] == ["plan"]
    assert (one.plan.status, one.plan.gates, one.plan.settled) == ("waiting", ("release",), 1)
    assert one.plan.trace_id == tracing.trace_id(Address("space", "plan"), "digest")
    assert [step.status for step in steps.steps] == ["completed", "waiting", "pending"]
    assert steps.steps[0].output == Payload(value={"name": "wheel"})
    assert steps.steps[0].span_id == tracing.span_id(Address("space", "plan"), "build", 1)
    assert [line.type for line in log.lines] == ["step.completed", "gate.opened", "plan.waiting"]
    assert log.lines[0].causes[0].verb == "result"
    assert [one.step for one in gates.gates] == ["release"]


@pytest.mark.parametrize(
    ("name", "question", "said"),
    [
        ("plans", b"not JSON", "query.plans: not JSON in UTF-8"),
        ("plans", b'{"limit": 100000}', "query.plans: Expected `int` <= 1000 at /limit"),
        ("plans", b'{"statsues": []}', "query.plans: Object contains unknown field `statsues`"),
        ("plans", b'{"since": "2026-01-01T00:00:00"}', "timezone"),
        ("plan", b"{}", "query.plan: Object missing required field `plan`"),
        ("plan", b"[" * 100_000, "query.plan: expected at most 65,536 bytes"),
        ("gates", b'{"after": "here"}', "`after` is `next` of the page before, not 'here'"),
    ],
)
async def test_a_malformed_question_is_answered_by_what_is_wrong(
    desk: Any, name: str, question: bytes, said: str
) -> None:
    async with desk.running():
        answer = await desk.ask_bytes(name, question)

    assert answer.code == "bad_query"
    assert said in answer.message


async def test_a_slow_question_does_not_hold_up_the_next(desk: Any) -> None:
    async with desk.running():
        await desk.write(*waiting().log)
        await desk.until_read(2)

        answers = await asyncio.gather(*(desk.ask(queries.PlanQuery(plan="plan")) for _ in range(50)))

    assert {answer.plan.status for answer in answers} == {"waiting"}


async def test_the_service_can_be_found_as_every_nats_service(desk: Any) -> None:
    operator = await desk.connected("operator-tester")
    async with desk.running():
        info = json.loads(await operator.request("$SRV.INFO.planmesh-auditor"))

    assert sorted(endpoint["subject"] for endpoint in info["endpoints"]) == sorted(
        subjects.query(name) for name in queries.QUERIES
    )


async def test_nobody_answers_once_the_auditor_has_ended(desk: Any) -> None:
    async with desk.running():
        await desk.until_read(0)

    with pytest.raises(Busy, match=r"nobody answers on query\.position"):
        await desk.ask(queries.PositionQuery())


async def test_answers_fit_in_a_message_whatever_they_hold(desk: Any) -> None:
    plan_document = plan(*(task(f"s{number}", inputs={"pad": "x" * 6_000}) for number in range(600)))
    created = PlanCreated(
        plan=plan_document, requester="space", goal_digest="d", inputs={"text": "y" * 4_000_000}, goal="z" * 60_000
    )
    commit = waiting().log[0][0]
    large = type(commit)(**{**{name: getattr(commit, name) for name in commit.__struct_fields__}, "events": (created,)})
    async with desk.running():
        await desk.write_bytes(encode(large), subjects.plan_log(Address("space", "plan")))
        await desk.until_read(1)

        one = await desk.ask(queries.PlanQuery(plan="plan"))
        steps = await desk.ask(queries.StepsQuery(plan="plan"))
        log = await desk.ask(queries.LogQuery(plan="plan"))
        plans = await desk.ask(queries.PlansQuery())

    assert one.cut == ("document",)
    assert len(one.inputs["text"]) == 4_000_000
    assert len(steps.steps) == 600
    assert log.lines[0].cut == ("event",)
    assert len(plans.plans[0].goal) == 200
