"""Answers of people whom the gatekeeper has identified: judged as the votes of operators are, and no more trusted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plays import Play, gate, plan, question, task

from planmesh.schemas import commands as asks
from planmesh.schemas.events import (
    CommandRefused,
    GateApproved,
    GateRejected,
    RevisionRefused,
    RevisionRequested,
    VoteCast,
)
from planmesh.schemas.plan import LEVELS
from planmesh.schemas.state import StepStatus

GROUPS = ("person:ada", "team:finance", "role:cfo", "ada@example.org", "role:operator")


def opened(**fields: Any) -> Play:
    return Play(plan(gate("g", **fields), task("after", "g")))


def review(play: Play, decision: Any = "approve", groups: tuple[str, ...] = ("team:finance",), **fields: Any) -> Any:
    asked = play.state.steps["g"].opened
    assert asked is not None
    said = {"level": "link", "digest": asked.digest, **fields}
    return asks.ReviewGate(id=play.id(), step="g", decision=decision, groups=groups, **said)


def test_a_member_of_a_reviewing_team_approves_and_the_log_says_as_what() -> None:
    play = opened(reviewers=("team:finance",))

    found = play.ask(review(play), by="ada")

    assert found[0] == VoteCast(step="g", round=1, by="ada", level="link", groups=("team:finance",))
    assert isinstance(found[1], GateApproved)
    assert play.state.steps["after"].status is StepStatus.DISPATCHED


def test_a_rejection_and_a_redirection_name_the_person() -> None:
    play = opened(reviewers=("role:cfo",))
    (asked,) = play.ask(review(play, "redirect", ("role:cfo",), instruction="pay half"), by="ada")
    assert isinstance(asked, RevisionRequested)
    assert (asked.kind, asked.by, asked.instruction) == ("redirect", "ada", "pay half")

    rejected = play.ask(review(play, "reject", ("role:cfo",), reason="no"), by="bob")[0]
    assert rejected == GateRejected(step="g", round=1, by="bob", reason="no", level="link", groups=("role:cfo",))


@pytest.mark.parametrize(("by", "is_taken"), [("reviewer", False), ("operator", True)])
def test_a_reviewer_who_redirects_takes_no_other_gate_away_and_an_operator_may(by: str, is_taken: bool) -> None:
    mine = gate("g", reviewers=("team:finance", "role:operator"))
    play = Play(plan(mine, task("after", "g"), gate("other", reviewers=("role:cfo",)), task("pay", "other")))
    without = plan(mine, task("after", "g"), task("pay", "after"))
    asked = play.state.steps["g"].opened
    assert asked is not None
    if by == "reviewer":
        (request,) = play.ask(review(play, "redirect", document={}), by="ada")
    else:
        redirect = asks.RedirectPlan(id="redirect", step="g", digest=asked.digest, document={})
        (request,) = play.ask(redirect, by="ada")
    assert isinstance(request, RevisionRequested)

    play.ask(asks.ProposeRevision(id="answer", request=request.request, plan=without), by="planner")

    assert ("other" not in play.state.graph.steps) is is_taken
    if not is_taken:
        refused = play.of_type(RevisionRefused)[0]
        assert {problem.code for problem in refused.problems} == {"loosens"}


def test_an_operator_cannot_claim_a_group_with_a_vote_of_its_own() -> None:
    play = opened(reviewers=("team:finance",))
    asked = play.state.steps["g"].opened
    assert asked is not None

    (refused,) = play.ask(asks.CastVote(id="v", step="g", digest=asked.digest, decision="approve"), by="ada")

    assert isinstance(refused, CommandRefused)
    assert refused.code == "not_a_reviewer"
    assert not hasattr(asks.CastVote, "groups")


def test_somebody_identified_is_no_operator_for_it() -> None:
    play = opened(reviewers=("role:operator",))

    (refused,) = play.ask(review(play, groups=()), by="ada")

    assert refused.code == "not_a_reviewer"


@pytest.mark.parametrize(
    ("reviewers", "groups", "level", "code"),
    [
        (("role:operator",), ("role:operator",), "link", "level"),
        (("role:operator",), ("role:operator",), "login", ""),
        (("role:operator", "team:finance"), ("role:operator", "team:finance"), "link", ""),
        (("role:operator", "team:finance"), ("role:operator", "role:cfo"), "link", "level"),
    ],
)
@pytest.mark.parametrize("decision", ["approve", "reject", "redirect"])
def test_a_link_alone_does_not_speak_for_the_operators(
    decision: Any, reviewers: tuple[str, ...], groups: tuple[str, ...], level: str, code: str
) -> None:
    play = opened(reviewers=reviewers)

    first = play.ask(review(play, decision, groups, level=level, instruction="x"), by="ada")[0]

    assert (first.code if isinstance(first, CommandRefused) else "") == code


def test_a_gate_may_say_that_a_link_is_enough_for_operators_too() -> None:
    play = opened(reviewers=("role:operator",), level="link")

    assert isinstance(play.ask(review(play, groups=("role:operator",)), by="ada")[0], VoteCast)


@pytest.mark.parametrize(
    ("rules", "level", "code"),
    [
        ({"quorum": 2}, "link", "level"),
        ({"four_eyes": True}, "link", "level"),
        ({"four_eyes": True}, "login", ""),
        ({"four_eyes": True, "level": "link"}, "link", ""),
        ({"level": "login"}, "link", "level"),
        ({"level": "operator"}, "login", "level"),
    ],
)
def test_a_gate_says_how_well_it_must_know_whoever_answers(rules: dict[str, Any], level: str, code: str) -> None:
    play = opened(reviewers=("team:finance",), **rules)

    first = play.ask(review(play, level=level), by="ada")[0]

    assert (first.code if isinstance(first, CommandRefused) else "") == code


@pytest.mark.parametrize(
    ("rules", "group", "level", "code"),
    [
        ({}, "role:operator", "link", "level"),  # whom it asks unless it names somebody
        ({}, "role:operator", "login", ""),
        ({"level": "link"}, "role:operator", "link", ""),
        ({"reviewers": ("role:operator", "person:bob")}, "role:operator", "link", "level"),
        ({"reviewers": ("role:operator", "team:finance")}, "team:finance", "link", ""),
        ({"reviewers": ("team:finance",), "level": "login"}, "team:finance", "link", "level"),
        ({"reviewers": ("team:finance",), "level": "operator"}, "team:finance", "login", "level"),
    ],
)
def test_an_ask_takes_the_word_of_a_link_where_a_gate_would(
    rules: dict[str, Any], group: str, level: Any, code: str
) -> None:
    play = Play(plan(question("q", **rules)))
    asked = play.state.steps["q"].opened
    assert asked is not None
    command = asks.ReviewGate(
        id="r", step="q", digest=asked.digest, decision="answer", groups=(group,), level=level, value="x"
    )

    first = play.ask(command, by="ada")[0]

    assert (first.code if isinstance(first, CommandRefused) else "") == code


def test_nobody_counts_twice_however_they_come() -> None:
    play = opened(reviewers=("team:finance", "role:cfo", "person:ada"), quorum=2)
    play.ask(review(play, groups=("team:finance",), level="login"), by="ada")
    asked = play.state.steps["g"].opened
    assert asked is not None

    (again,) = play.ask(review(play, groups=("role:cfo",), level="login"), by="ada")
    (by_vote,) = play.ask(asks.CastVote(id="v", step="g", digest=asked.digest, decision="approve"), by="ada")

    assert (again.code, by_vote.code) == ("voted_already", "voted_already")


_answers = st.tuples(
    st.sampled_from(["ada", "bob", "cleo", "space"]),
    st.sampled_from(["approve", "reject", "redirect"]),
    st.lists(st.sampled_from(GROUPS), max_size=3).map(tuple),
    st.sampled_from(LEVELS),
    st.sampled_from(["now", "other"]),
)


@given(
    reviewers=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=4, unique=True).map(tuple),
    quorum=st.integers(1, 3),
    four_eyes=st.booleans(),
    level=st.sampled_from([None, *LEVELS]),
    answers=st.lists(_answers, max_size=12),
)
def test_a_gate_opens_only_by_enough_people_who_may_and_are_known_well_enough(
    reviewers: Any, quorum: int, four_eyes: bool, level: Any, answers: list[Any]
) -> None:
    play = opened(reviewers=reviewers, quorum=quorum, four_eyes=four_eyes, level=level)
    least = level or ("login" if quorum > 1 or four_eyes else "link")
    good: set[str] = set()
    decided = False
    for by, decision, groups, known, digest in answers:
        command = review(play, decision, groups, level=known, instruction="x" if decision == "redirect" else "")
        if digest == "other":
            command = asks.ReviewGate(
                id=play.id(), step="g", decision=decision, groups=groups, level=known, digest="other", instruction="x"
            )
        before = play.state.steps["g"].status
        play.ask(command, by=by)
        for_operators_only = level is None and set(groups) & set(reviewers) == {"role:operator"}
        needed = max(least, "login", key=LEVELS.index) if for_operators_only else least
        may = bool(set(groups) & set(reviewers)) and LEVELS.index(known) >= LEVELS.index(needed) and digest == "now"
        if decided:
            assert play.state.steps["g"].status is before  # the first decision is final
        elif may and decision == "approve" and not (four_eyes and by == "space"):
            good.add(by)
        elif may and decision == "reject" and by not in good:
            decided = True
        decided = decided or len(good) >= quorum
        expected = StepStatus.COMPLETED if len(good) >= quorum else StepStatus.REJECTED
        assert play.state.steps["g"].status is (expected if decided else StepStatus.WAITING)
