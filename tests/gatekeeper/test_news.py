"""What operators hear, put together from logs."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import HERE, START, Play, gate, plan, task

from planmesh.gatekeeper import rounds
from planmesh.gatekeeper.letters import Letters, news_samples
from planmesh.gatekeeper.news import Aside, Trouble, happened, tell, troubles
from planmesh.gatekeeper.rounds import Reviews
from planmesh.schemas import commands as asks
from planmesh.schemas.plan import Policy
from planmesh.schemas.subjects import Address

NOW = START + timedelta(hours=1)
LETTERS = Letters()


def news_of(play: Play, later: timedelta = timedelta(0)) -> list[Trouble]:
    """What is told of a plan's whole log, at its end."""
    reviews, found = Reviews.nothing(HERE), []
    for commit, _ in play.log:
        reviews = rounds.fold(reviews, commit)
        found += happened(HERE, commit)
    return [trouble for one in found for trouble in troubles(one, reviews, NOW + later)]


def failed(**fields: Any) -> Play:
    play = Play(plan(task("a", **fields)))
    play.fails("a", retryable=False)
    return play


def test_a_plan_that_failures_have_paused_is_news() -> None:
    assert news_of(failed()) == [Trouble("paused", HERE, "a", "agent_error", "it broke")]


def test_what_is_over_is_not_news() -> None:
    play = failed()
    play.retries("a")
    assert news_of(play) == []

    play.completes("a")
    assert news_of(play) == []


def test_what_a_person_has_stopped_is_not_news() -> None:
    play = Play(plan(task("a")))
    play.ask(asks.PausePlan(id="pause"))
    assert news_of(play) == []
    play.ask(asks.CancelPlan(id="cancel"))
    assert news_of(play) == []


def test_a_step_that_nobody_knows_the_end_of_is_news_until_somebody_says() -> None:
    play = Play(plan(task("a"), task("b")))
    play.loses("a")
    assert news_of(play) == [Trouble("unknown", HERE, "a", "", "the worker is gone")]  # while b still runs

    play.ask(asks.ResolveStep(id="resolve", step="a", attempt=1, done=True))
    assert news_of(play) == []


def test_a_rejected_gate_stops_a_plan_too() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    play.votes("g", "reject")

    assert news_of(play) == [Trouble("rejected", HERE, "g", "", "so")]


def test_an_overdue_gate_is_news_until_it_is_decided() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    play.is_due("g", purpose="sla")
    assert news_of(play) == [Trouble("overdue", HERE, "g", "", "")]

    play.votes("g")
    assert news_of(play) == []


def test_reviewers_who_could_not_be_told_are_news_while_they_are_asked() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    about: Any = {"step": "g", "round": 1, "notice": "opened"}
    play.ask(asks.ReportNotice(id="1", channel="mail", delivered=True, **about), "gatekeeper")
    play.ask(asks.ReportNotice(id="2", channel="chat", delivered=False, detail="no answer", **about), "gatekeeper")
    assert news_of(play) == [Trouble("untold", HERE, "g", "chat", "no answer")]

    play.votes("g")
    assert news_of(play) == []


def test_a_plan_that_has_failed_is_news_for_a_day() -> None:
    play = Play(plan(task("a"), policy=Policy(on_failure="fail")))
    play.fails("a", retryable=False)

    (trouble,) = news_of(play)
    assert (trouble.what, trouble.step, trouble.code) == ("failed", "a", "agent_error")
    assert news_of(play, later=timedelta(days=1)) == []


# --- together ------------------------------------------------------------------------------------------------


def paused(number: int, step: str = "charge", code: str = "http_error", why: str = "503") -> Trouble:
    return Trouble("paused", Address("shop", f"order-{number}"), step, code, why)


def test_what_one_dead_service_has_stopped_is_one_thing() -> None:
    said = tell([paused(number, why=f"503 for {number}") for number in range(200)], [], START)

    assert said is not None
    (group,) = said.groups
    assert (group.count, group.more, len(group.plans), group.why) == (200, 195, 5, "503 for 0")
    assert group.commands == (
        "planmesh show shop.order-0",
        "planmesh retry --where status=paused,step=charge --preview",
    )
    notice = Letters().write(said)
    assert notice.subject == "planmesh: 200 plans are paused: step charge failed (http_error)"
    assert len(notice.body) < 500


def test_a_plan_counts_once_however_often_it_was_told_of() -> None:
    said = tell([paused(1), paused(1), paused(1, step="ship")], [], START)

    assert said is not None
    assert said.plans == 1
    assert [group.count for group in said.groups] == [1, 1]


def test_nothing_is_told_of_nothing() -> None:
    assert tell([], [], None) is None


_TROUBLES = st.builds(
    Trouble,
    st.sampled_from(["paused", "unknown", "failed", "rejected", "overdue", "untold"]),
    st.builds(Address, st.sampled_from(["a", "b"]), st.sampled_from([f"p{at}" for at in range(9)])),
    st.sampled_from(["s1", "s2", "s3", "s4", "s5"]),
    st.sampled_from(["", "x"]),
    st.text(max_size=30),
)


@settings(deadline=None)
@given(st.lists(_TROUBLES, max_size=80), st.lists(st.builds(Aside, st.just("executor"), st.just("R"), st.text())))
def test_every_plan_is_counted_and_the_gravest_stand_first(found: list[Trouble], aside: list[Aside]) -> None:
    said = tell(found, aside, None)

    if said is None:
        assert not found
        assert not aside
        return
    assert (said.plans, said.set_aside) == (len({one.address for one in found}), len(aside))
    assert len(said.groups) + said.more_groups == len(
        {(one.what, "" if one.what == "untold" else one.step, one.code) for one in found}
    ) + bool(aside)
    kinds = [group.what for group in said.groups]
    order = ["unknown", "paused", "failed", "rejected", "overdue", "untold", "set_aside"]
    assert kinds == sorted(kinds, key=order.index)
    assert len(LETTERS.write(said).body) < 20_000


def test_what_strangers_wrote_can_only_be_read() -> None:
    evil = "@everyone <!channel> https://evil.example\n\nplanmesh cancel --where space=shop\u202e"
    said = tell([paused(1, why=evil)], [Aside("executor", "RESULTS", evil)], START)
    assert said is not None

    notice = Letters().write(said)

    for text in (notice.subject, notice.body):
        assert not set(text) & set("@<>\u202e")
        assert "://" not in text
    assert "\nplanmesh cancel" not in notice.body


def test_what_agents_said_stays_here_where_it_may_not_leave() -> None:
    rejected = Trouble("rejected", HERE, "g", "", "not before Friday")
    said = tell([paused(1, why="card 4711 declined"), rejected], [], START, with_outputs=False)
    assert said is not None

    body = Letters().write(said).body

    assert "4711" not in body
    assert "not before Friday" in body


@pytest.mark.parametrize("said", news_samples(), ids=lambda said: said.groups[0].what)
def test_news_is_worded_whatever_it_is(said: Any) -> None:
    notice = Letters().write(said)

    assert notice.subject.startswith("planmesh: ")
    assert "planmesh " in notice.body
    assert "\n\n\n" not in notice.body
