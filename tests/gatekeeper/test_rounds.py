"""What reviewers have been asked and told, folded from the log."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import AGENT, HERE, Play, gate, plan, question, task

from planmesh.errors import Unusable
from planmesh.gatekeeper import rounds
from planmesh.gatekeeper.rounds import Due, Ending, Reviews, Round, concerns_people, due, gates_of
from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.plan import Case, Decide, Each, Emit, Escalation, Plan
from planmesh.schemas.state import StepStatus


def reviews_of(play: Play) -> Reviews:
    """As a reader of the log gets them: bytes, with sequences that have gaps."""
    reviews = Reviews.nothing(HERE)
    for commit, _ in play.log:
        reviews = rounds.read(reviews, 3 * commit.number, encode(commit))
    return reviews


def round_of(play: Play, step: str = "ok") -> Round:
    return reviews_of(play).rounds[step]


def told(
    play: Play, notice: Any, delivered: bool = True, channel: str = "mail", step: str = "ok", level: int = 0
) -> None:
    number = play.state.steps[step].attempt
    about: dict[str, Any] = {"step": step, "round": number, "notice": notice, "level": level}
    play.ask(asks.ReportNotice(id=play.id(), channel=channel, delivered=delivered, **about), "gatekeeper")


def due_at(channel: str, play: Play, step: str = "ok", reaches: tuple[str, ...] | None = None) -> str | None:
    """What a channel has to be told that reaches these reviewers; None: all of them."""
    found = due(
        reviews_of(play).rounds.get(step),
        channel,
        lambda reviewers: reaches is None or not set(reaches).isdisjoint(reviewers),
    )
    return None if found is None else f"{found.kind}{found.level or ''}"


def asking(**fields: Any) -> Plan:
    return plan(task("before"), gate("ok", "before", **fields), task("after", "ok"))


def waiting(**fields: Any) -> Play:
    play = Play(asking(**fields))
    play.completes("before")
    return play


# --- what is due ---------------------------------------------------------------------------------------------


def test_a_gate_that_asks_is_news_until_a_channel_has_been_told() -> None:
    play = waiting()
    assert due_at("mail", play) == "opened"

    told(play, "opened")

    assert due_at("mail", play) is None
    assert due_at("chat", play) == "opened"


def test_a_channel_that_could_not_be_told_is_given_up() -> None:
    play = waiting()
    told(play, "opened", delivered=False)

    assert due_at("mail", play) is None


def test_only_the_latest_news_counts() -> None:
    play = waiting()
    play.is_due("ok", purpose="sla")

    assert due_at("mail", play) == "overdue"


def test_that_a_gate_asks_no_longer_is_news_for_those_who_heard_that_it_did() -> None:
    play = waiting()
    told(play, "opened", channel="mail")
    told(play, "opened", channel="broken", delivered=False)
    play.votes("ok")

    assert due_at("mail", play) == "decided"
    assert due_at("broken", play) is None
    assert due_at("chat", play) is None


def test_another_round_is_news_to_everyone() -> None:
    play = waiting()
    told(play, "opened")
    play.votes("ok", "reject")
    play.retries("ok")

    assert round_of(play).opened.round == 2
    assert due_at("mail", play) == "opened"


def test_what_was_told_of_an_old_round_counts_for_that_round_only() -> None:
    play = waiting()
    play.votes("ok", "reject")
    play.retries("ok")
    play.ask(
        asks.ReportNotice(id="late", step="ok", round=1, notice="opened", channel="mail", delivered=True), "gatekeeper"
    )

    assert due_at("mail", play) == "opened"


def test_nothing_is_due_of_a_gate_that_has_not_asked() -> None:
    assert due_at("mail", Play(asking())) is None


def test_what_follows_on_what_a_gate_releases_is_known_by_name() -> None:
    steps = [gate("ok"), task("a", "ok"), task("b", "a", label="Pay it"), gate("g", "b"), task("d", "g", "b")]
    reviews = reviews_of(Play(plan(*steps)))

    assert reviews.behind == {"ok": (("Pay it", AGENT), ("g", ""), ("d", AGENT))}


def test_of_a_large_plan_only_the_nearest_steps_are_kept() -> None:
    width = [task(f"w{number}", "ok") for number in range(300)]
    reviews = reviews_of(Play(plan(gate("ok"), *width, *(task(f"x{number}", f"w{number}") for number in range(300)))))

    assert len(reviews.behind["ok"]) == 8


# --- who is asked as well ------------------------------------------------------------------------------------


def escalating() -> Play:
    return waiting(
        reviewers=("team:finance",),
        escalate=(Escalation(after_s=60, to=("role:cfo",)), Escalation(after_s=120, to=("role:board",))),
    )


def test_those_to_whom_it_is_escalated_are_told_and_the_others_are_not_again() -> None:
    play = escalating()
    told(play, "opened", channel="finance")
    assert due_at("cfo", play, reaches=("role:cfo",)) is None

    play.is_due("ok", purpose="escalate", level=1)

    assert due_at("cfo", play, reaches=("role:cfo",)) == "escalated1"
    assert due_at("finance", play, reaches=("team:finance",)) is None
    assert due_at("board", play, reaches=("role:board",)) is None
    assert round_of(play).reviewers == ("team:finance", "role:cfo")


def test_a_channel_that_several_people_read_hears_of_each_escalation() -> None:
    play = escalating()
    everybody = ("team:finance", "role:cfo", "role:board")
    told(play, "opened")
    for level in (1, 2):
        play.is_due("ok", purpose="escalate", level=level)
        assert due_at("mail", play, reaches=everybody) == f"escalated{level}"
        told(play, "escalated", level=level)
        assert due_at("mail", play, reaches=everybody) is None


def test_who_has_been_asked_is_not_asked_as_well() -> None:
    play = escalating()
    both = ("team:finance", "role:cfo")
    play.is_due("ok", purpose="sla")
    play.is_due("ok", purpose="escalate", level=1)
    asked = round_of(play)

    assert due(asked, "ada", lambda reviewers: not set(both).isdisjoint(reviewers), is_personal=True) == Due("overdue")
    assert due(asked, "bob", lambda reviewers: "role:cfo" in reviewers, is_personal=True) == Due("escalated", 1)


def test_a_reminder_reaches_everybody_who_is_asked_by_then() -> None:
    play = escalating()
    play.is_due("ok", purpose="escalate", level=1)
    told(play, "escalated", channel="cfo", level=1)
    play.is_due("ok", purpose="sla")

    assert due_at("cfo", play, reaches=("role:cfo",)) == "overdue"
    assert due_at("finance", play, reaches=("team:finance",)) == "overdue"


def test_those_to_whom_it_was_escalated_hear_how_it_ends_and_of_the_next_round() -> None:
    play = escalating()
    play.is_due("ok", purpose="escalate", level=1)
    told(play, "escalated", channel="cfo", level=1)
    play.ask(asks.SkipStep(id="no", step="ok"))  # refused: it is not optional
    play.revises(msgspec.structs.replace(play.document, steps=(*play.document.steps[:2], task("other", "ok"))))
    assert (round_of(play).opened.round, due_at("cfo", play, reaches=("role:cfo",))) == (2, "opened")

    told(play, "opened", channel="cfo")
    play.ask(asks.CancelPlan(id="c"))
    assert due_at("cfo", play, reaches=("role:cfo",)) == "cancelled"


def test_a_revision_that_asks_others_asks_nobody_to_whom_it_was_escalated_before() -> None:
    play = escalating()
    play.is_due("ok", purpose="escalate", level=1)
    first, asked, after = play.document.steps
    others = msgspec.structs.replace(asked, reviewers=("team:legal",))
    play.revises(msgspec.structs.replace(play.document, steps=(first, others, after)))

    assert round_of(play).reviewers == ("team:legal",)
    assert round_of(play).reviewers == play.state.steps["ok"].reviewers


# --- asks ----------------------------------------------------------------------------------------------------


def test_a_question_is_news_until_it_is_answered() -> None:
    play = Play(plan(question("q", prompt="How many?", type="number"), task("a", "q")))
    assert due_at("mail", play, "q") == "opened"
    told(play, "opened", step="q")
    play.answers("q", "many")
    assert due_at("mail", play, "q") is None

    play.answers("q", 3)

    ending = round_of(play, "q").ending
    assert ending is not None
    assert (ending.how, ending.by, due_at("mail", play, "q")) == ("answered", ("ada",), "decided")


def test_a_question_that_is_not_understood_is_escalated() -> None:
    to = (Escalation(after_s=60, to=("person:grace",)),)
    play = Play(plan(question("q", type="number", max_retries=1, reviewers=("person:ada",), escalate=to)))
    for _ in range(2):
        play.answers("q", "many")

    assert due_at("grace", play, "q", reaches=("person:grace",)) == "escalated1"
    assert round_of(play, "q").calls[-1].because == "2 invalid answers, and 1 are allowed"


# --- how a round ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (lambda play: play.votes("ok"), Ending(how="approved", by=("ada",), reason="so")),
        (lambda play: play.votes("ok", "reject"), Ending(how="rejected", by=("ada",), reason="so")),
        (
            lambda play: play.ask(asks.SkipStep(id="s", step="ok", reason="late")),
            Ending(how="skipped", by=("ada",), reason="late"),
        ),
        (
            lambda play: play.ask(asks.CancelPlan(id="c")),
            Ending(how="closed", by=("ada",), reason="the plan was cancelled"),
        ),
    ],
)
def test_a_round_ends(end: Any, ending: Ending) -> None:
    play = waiting(optional=True)
    end(play)

    assert round_of(play).ending == ending


def test_an_open_gate_closes_when_the_plan_ends_elsewhere() -> None:
    play = Play(plan(gate("ok"), task("work"), Emit(name="done", after=("work",), outcome="enough")))
    play.completes("work")

    assert round_of(play).ending == Ending(how="closed", by=(), reason="the plan ended with the outcome 'enough'")


def test_a_gate_that_was_rejected_stays_so_when_the_plan_is_cancelled() -> None:
    play = waiting()
    play.votes("ok", "reject")
    play.ask(asks.CancelPlan(id="c"))

    ending = round_of(play).ending
    assert ending is not None
    assert ending.how == "rejected"


def test_votes_are_counted_in_their_round() -> None:
    play = waiting(quorum=2)
    play.votes("ok", by="ada")
    assert round_of(play).votes == ("ada",)

    play.votes("ok", by="bob")

    ending = round_of(play).ending
    assert ending is not None
    assert ending.by == ("ada", "bob")


def test_an_open_gate_closes_when_a_revision_takes_it_out() -> None:
    play = Play(plan(gate("ok"), gate("other"), task("after", "ok", "other")))
    told(play, "opened")
    play.ask(asks.RevisePlan(id="revise", base=1, instruction="Ask once"))
    revised = plan(gate("other"), task("after", "other"))
    play.ask(asks.ProposeRevision(id="proposal", request="revise", plan=revised), "planner")

    commit = play.log[-1][0]
    assert round_of(play).ending == Ending(how="closed", by=("ada",), reason="a revision took the gate out: Ask once")
    assert due_at("mail", play) == "cancelled"
    assert concerns_people(encode(commit))
    assert {"ok", "other"} <= set(gates_of(commit))
    assert round_of(play, "other").opened.round == 2


# --- reading the log -----------------------------------------------------------------------------------------


def test_a_revision_leaves_the_gates_of_items_open() -> None:
    look = gate("look", reviewers=("team:finance",), four_eyes=True)
    each = Each(name="all", items="[1, 2]", steps=(look, task("do", "look")))
    play = Play(plan(each, gate("ok")))
    play.revises(plan(each, gate("instead")))

    assert play.status("look_2") == "waiting"
    assert round_of(play, "look_2").ending is None
    assert round_of(play, "ok").ending is not None
    assert reviews_of(play).gate("look_2") == look


def test_a_plan_is_known_by_name_goal_and_requester() -> None:
    reviews = reviews_of(Play(plan(gate("ok"), goal="peace")))

    assert (reviews.name, reviews.goal, reviews.requester) == ("A plan", "peace", "space")
    assert list(reviews.gates) == ["ok"]
    assert reviews.sequence == 3


def test_junk_in_the_log_is_counted_and_changes_nothing() -> None:
    play = waiting()
    reviews = reviews_of(play)
    opened = encode(play.log[-1][0])

    for junk in (b"{", b"[]", opened, encode(play.log[0][0])):
        after = rounds.read(reviews, 99, junk)
        assert after.sequence == 99
        assert (after.rounds, after.chain) == (reviews.rounds, reviews.chain)


def test_only_commits_about_gates_are_decoded() -> None:
    play = waiting(optional=True)
    play.ask(asks.CancelPlan(id="c"))
    found = [(concerns_people(encode(commit)), gates_of(commit)) for commit, _ in play.log]

    assert [about for about, _ in found] == [False, True, True]
    assert [gates for _, gates in found] == [(), ("ok",), ("ok", "after")]


def test_words_in_an_output_are_not_taken_for_a_gate() -> None:
    play = Play(plan(task("a", idempotent=True), task("b", "a")))
    play.completes("a", output='{"type":"gate.opened"} "steps.cancelled"')

    assert [concerns_people(encode(commit)) for commit, _ in play.log] == [False, False]


def test_what_a_newer_version_has_written_is_not_skipped() -> None:
    play = waiting()
    (first, _), (second, _) = play.log
    reviews = rounds.read(Reviews.nothing(HERE), 1, encode(first))
    newer = encode(second).replace(b'"format":1', b'"format":2')
    elsewhere = newer.replace(f'"number":{second.number}'.encode(), b'"number":9')

    with pytest.raises(Unusable, match=r"commit 2 of space\.plan .* a newer planmesh has written it"):
        rounds.read(reviews, 2, newer)

    assert rounds.read(reviews, 2, elsewhere) == msgspec.structs.replace(reviews, sequence=2)


_ACTS = st.lists(
    st.tuples(
        st.sampled_from(["complete", "approve", "reject", "retry", "overdue", "skip", "told"]), st.integers(0, 3)
    ),
    max_size=25,
)


@given(_ACTS)
def test_a_round_is_open_exactly_while_its_gate_waits(acts: list[tuple[str, int]]) -> None:
    steps = (
        task("t0"),
        gate("g1", "t0", optional=True),
        gate("g2", "t0", quorum=2),
        Decide(name="d3", after=("g1",), cases=(Case(when="true", then="x"),)),
    )
    play = Play(plan(*steps, task("t4", "g1", "g2")))
    for act, number in acts:
        step = steps[number].name
        match act:
            case "complete":
                play.completes("t0")
            case "approve" | "reject":
                play.votes(step, act, by=f"person-{len(play.log) % 3}")
            case "retry":
                play.retries(step)
            case "overdue":
                play.is_due(step, purpose="sla")
            case "skip":
                play.ask(asks.SkipStep(id=play.id(), step=step, reason="so"))
            case "told":
                told(play, "opened", step=step)

    reviews = reviews_of(play)

    for name in ("g1", "g2"):
        state, asked = play.state.steps[name], reviews.rounds.get(name)
        assert (asked is not None and asked.ending is None) == (state.status is StepStatus.WAITING)
        if asked is not None:
            assert asked.opened == state.opened
            assert asked.overdue == state.overdue
    assert (reviews.chain.number, reviews.chain.head) == (play.state.number, play.state.head)
