"""Who opens a gate: shares of several groups, four eyes, services, escalations. What is said late changes nothing."""

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import HERE, START, Play, gate, plan, question, task

from planmesh.executor.plan import decide
from planmesh.schemas import commands as asks
from planmesh.schemas.commands import Asked
from planmesh.schemas.events import CommandRefused, GateApproved, GateEscalated, GateOpened, GateOverdue, VoteCast
from planmesh.schemas.four_eyes import barred
from planmesh.schemas.plan import Escalation, Share, Task
from planmesh.schemas.state import PlanState, StepStatus


def behind(**fields: Any) -> Play:
    return Play(plan(gate("g", **fields), task("after", "g")))


def reviews(play: Play, by: str, *groups: str, decision: Any = "approve", level: Any = "login") -> list[Any]:
    opened = play.state.steps["g"].opened
    digest = opened.digest if opened is not None else "none"
    command = asks.ReviewGate(
        id=play.id(), step="g", digest=digest, decision=decision, groups=groups, level=level, reason="so"
    )
    return play.ask(command, by)


def code(happened: list[Any]) -> str:
    return next((event.code for event in happened if isinstance(event, CommandRefused)), "")


# --- shares ------------------------------------------------------------------------------------------------


def test_every_share_has_to_be_among_those_who_approve() -> None:
    play = behind(reviewers=("role:cfo", "team:legal"), shares=(Share(of="role:cfo"), Share(of="team:legal")), quorum=2)

    reviews(play, "lin", "team:legal")
    reviews(play, "max", "team:legal")
    assert play.status("g") == "waiting"
    reviews(play, "ada", "role:cfo")

    assert play.of_type(GateApproved)[0].by == ("lin", "max", "ada")


def test_nobody_counts_for_two_shares() -> None:
    play = behind(reviewers=("role:cfo", "team:legal"), shares=(Share(of="role:cfo"), Share(of="team:legal")))

    reviews(play, "ada", "role:cfo", "team:legal")
    assert play.status("g") == "waiting"
    reviews(play, "bob", "role:cfo")

    assert play.status("g") == "completed"


def test_an_operator_counts_as_an_operator_and_as_the_person_of_that_name() -> None:
    play = behind(reviewers=("role:operator", "person:ada"), shares=(Share(of="person:ada"), Share(of="role:operator")))

    play.votes("g", by="ada")
    assert play.status("g") == "waiting"
    play.votes("g", by="bob")

    assert play.status("g") == "completed"


def test_several_shares_take_a_sign_in_as_several_approvals_do() -> None:
    play = behind(reviewers=("role:cfo",), shares=(Share(of="role:cfo", count=2),))

    assert code(reviews(play, "ada", "role:cfo", level="link")) == "level"
    assert code(reviews(play, "ada", "role:cfo")) == ""


GROUPS = ("role:cfo", "team:legal", "team:sales")
PEOPLE = {
    "ada": ("role:cfo", "team:legal"),
    "bob": ("role:cfo",),
    "lin": ("team:legal",),
    "max": ("team:sales", "team:legal"),
    "eve": ("team:sales",),
    "space": ("role:cfo",),  # who has asked for the plan
}


def opens(quorum: int, shares: list[Share], voters: set[str]) -> bool:
    """The oracle: tries every way to put people on places."""
    places = [share.of for share in shares for _ in range(share.count)]
    return len(voters) >= max(quorum, len(places)) and any(
        all(place in PEOPLE[person] for place, person in zip(places, seated, strict=True))
        for seated in permutations(sorted(voters), len(places))
    )


@settings(max_examples=300, deadline=None)
@given(
    quorum=st.integers(1, 3),
    shares=st.lists(
        st.builds(Share, of=st.sampled_from(GROUPS), count=st.integers(1, 2)),
        max_size=2,
        unique_by=lambda share: share.of,
    ),
    four_eyes=st.booleans(),
    votes=st.lists(
        st.tuples(st.sampled_from(sorted(PEOPLE)), st.sampled_from(["approve"] * 6 + ["reject"])), max_size=12
    ),
)
def test_a_gate_opens_with_the_first_votes_that_are_enough_and_then_no_more(
    quorum: int, shares: list[Share], four_eyes: bool, votes: list[tuple[str, str]]
) -> None:
    play = behind(reviewers=GROUPS, quorum=quorum, shares=tuple(shares), four_eyes=four_eyes)
    voters: set[str] = set()
    expected = "waiting"

    for person, decision in votes:
        reviews(play, person, *PEOPLE[person], decision=decision)
        if expected == "waiting" and decision == "reject" and person not in voters:
            expected = "rejected"
        elif expected == "waiting" and decision == "approve" and not (four_eyes and person == "space"):
            voters.add(person)
            expected = "completed" if opens(quorum, shares, voters) else "waiting"
        assert play.status("g") == expected
        assert (play.status("after") == "dispatched") is (expected == "completed")
    assert len(play.of_type(GateApproved)) == (expected == "completed")


# --- four eyes ---------------------------------------------------------------------------------------------


def test_four_eyes_bar_the_requester_as_a_person_and_as_a_service() -> None:
    play = behind(four_eyes=True, reviewers=("role:operator", f"service:{HERE.space}"))

    assert code(play.votes("g", by=HERE.space)) == "four_eyes"
    assert code(play.replies("g", HERE.space, "approve")) == "four_eyes"
    assert code(play.votes("g", by="grace")) == ""


def test_four_eyes_bar_whoever_was_the_last_to_revise_what_is_to_be_released() -> None:
    play = behind(four_eyes=True)
    play.revises(plan(gate("g", four_eyes=True), task("after", "g", inputs={"pay": 100})))

    (refused,) = play.votes("g", by="ada")
    assert isinstance(refused, CommandRefused)
    assert refused.code == "four_eyes"
    assert "was the last to revise step after" in refused.reason
    play.votes("g", by="grace")

    assert play.status("g") == "completed"


@pytest.mark.parametrize(
    "revised",
    [
        plan(gate("g", four_eyes=True), task("more", "g"), task("after", "g")),
        plan(gate("g", four_eyes=True)),
        plan(gate("g", four_eyes=True, quorum=1, prompt="Quick!"), task("after", "g")),
    ],
    ids=["a step more", "a step less", "the gate itself"],
)
def test_whatever_of_a_gate_is_revised_four_eyes_see_it(revised: Any) -> None:
    play = behind(four_eyes=True)

    play.revises(revised)

    assert code(play.votes("g", by="ada")) == "four_eyes"
    assert code(play.votes("g", by="grace")) == ""


def test_a_revision_elsewhere_bars_nobody() -> None:
    play = behind(four_eyes=True)

    play.revises(plan(gate("g", four_eyes=True), task("after", "g"), task("elsewhere")))

    assert code(play.votes("g", by="ada")) == ""


def test_four_eyes_bar_whoever_has_redirected_or_tries_again_with_other_inputs() -> None:
    play = behind(four_eyes=True)
    play.redirects("g", plan(gate("g", four_eyes=True), task("after", "g", inputs={"n": 1})))
    assert code(play.votes("g", by="ada")) == "four_eyes"

    play = behind(four_eyes=True)
    play.votes("g", by="grace")
    play.fails("after", retryable=False)
    play.retries_with("after", {"n": 2})
    assert play.status("g") == "waiting"  # what it had released is another thing now
    assert code(play.votes("g", by="ada")) == "four_eyes"
    assert code(play.votes("g", by="grace")) == ""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ada", "grace", "space"]), st.integers(0, 2)), max_size=4), st.booleans())
def test_a_gate_says_beforehand_whom_four_eyes_bar_and_bars_nobody_else(
    revisions: list[tuple[str, int]], four_eyes: bool
) -> None:
    play = Play(plan(gate("g", four_eyes=four_eyes), task("after", "g")), owners=("olga",))
    for by, pay in revisions:
        revise(play, by, pay)
    opened = play.state.steps["g"].opened
    assert isinstance(opened, GateOpened)

    told = {one.who for one in opened.barred}

    assert barred(play.state, "g") == opened.barred
    assert len(told) == len(opened.barred)
    for person in ("ada", "grace", "space", "olga", "bob"):
        vote = asks.CastVote(id=play.id(), step="g", digest=opened.digest, decision="approve")
        happened = decide(play.state, Asked(vote, person, play.at)).events
        assert (code(list(happened)) == "four_eyes") is (person in told), person


def test_whoever_revises_after_somebody_takes_over_what_that_one_did() -> None:
    play = behind(four_eyes=True)
    revise(play, "ada", 1)
    revise(play, "grace", 2)

    assert code(play.votes("g", by="grace")) == "four_eyes"
    assert code(play.votes("g", by="ada")) == ""


def revise(play: Play, by: str, n: int) -> None:
    request = play.id()
    play.ask(asks.RevisePlan(id=request, base=play.state.revision, document={}), by)
    steps = tuple(
        msgspec.structs.replace(step, inputs={"n": n}) if isinstance(step, Task) else step
        for step in play.state.plan.steps
    )
    document = msgspec.structs.replace(play.state.plan, steps=steps)
    play.ask(asks.ProposeRevision(id=play.id(), request=request, plan=document), "planner")


def test_one_person_is_not_two_by_being_a_service_as_well() -> None:
    play = behind(quorum=2, reviewers=("role:operator", "service:ada"))
    play.votes("g", by="ada")

    assert code(play.replies("g", "ada", "approve")) == "voted_already"
    assert code(play.replies("g", "bob", "approve")) == ""  # none of bob's business: nothing is said
    play.votes("g", by="grace")

    assert play.status("g") == "completed"


# --- services ----------------------------------------------------------------------------------------------


def test_a_service_that_is_named_approves_and_the_log_says_as_what() -> None:
    play = behind(reviewers=("service:checker",), level="operator")

    cast, approved = play.replies("g", "checker", "approve")[:2]

    assert cast == VoteCast(step="g", round=1, by="service:checker", level="operator", groups=("service:checker",))
    assert isinstance(approved, GateApproved)


def test_an_operator_is_not_the_service_of_that_name() -> None:
    play = behind(reviewers=("service:checker",))

    assert code(play.votes("g", by="checker")) == "not_a_reviewer"


def test_the_gatekeeper_and_services_cannot_be_mistaken_for_one_another() -> None:
    assert asks.actor_of("reply", "ada") == "service:ada"
    assert asks.actor_of("review", "ada") == asks.actor_of("vote", "ada") == "ada"


# --- late and repeated votes -------------------------------------------------------------------------------


def test_after_a_decision_nothing_that_is_said_changes_it() -> None:
    play = behind(reviewers=("role:operator", "service:checker"))
    play.votes("g", "reject")
    before = play.state.steps["g"]

    for happened in (play.votes("g", by="grace"), play.replies("g", "checker", "approve")):
        assert code(happened) == "not_open"

    assert play.state.steps["g"] == before


def test_a_vote_that_quotes_what_has_been_overtaken_is_stale() -> None:
    play = behind()
    opened = play.state.steps["g"].opened
    assert opened is not None
    play.revises(plan(gate("g"), task("after", "g", inputs={"n": 1})))

    assert code(play.votes("g", by="grace", digest=opened.digest)) == "stale"


# --- escalation --------------------------------------------------------------------------------------------

CHAIN = (Escalation(after_s=60, to=("person:lin",)), Escalation(after_s=120, to=("person:max", "service:aide")))


def test_an_escalation_adds_reviewers_and_decides_nothing() -> None:
    play = behind(reviewers=("person:ada",), escalate=CHAIN)
    assert code(play.votes("g", by="lin")) == "not_a_reviewer"

    (escalated,) = play.is_due("g", attempt=1, purpose="escalate", level=1)

    assert escalated == GateEscalated(
        step="g", round=1, level=1, to=("person:lin",), because="nobody has answered in time"
    )
    assert (play.status("g"), play.state.steps["g"].reviewers) == ("waiting", ("person:ada", "person:lin"))
    assert code(play.votes("g", by="max")) == "not_a_reviewer"
    play.votes("g", by="lin")
    assert play.status("g") == "completed"


def test_a_timer_that_was_overtaken_escalates_nothing() -> None:
    play = behind(escalate=CHAIN)
    play.is_due("g", attempt=1, purpose="escalate", level=2)
    assert play.state.steps["g"].also == ("person:lin", "person:max", "service:aide")

    assert play.is_due("g", attempt=1, purpose="escalate", level=1) == []
    assert play.is_due("g", attempt=1, purpose="escalate", level=2) == []
    assert play.is_due("g", attempt=1, purpose="escalate", level=3) == []
    assert play.is_due("g", attempt=2, purpose="escalate", level=1) == []
    play.votes("g")
    assert play.is_due("g", attempt=1, purpose="escalate", level=1) == []


def test_those_to_whom_it_was_escalated_may_answer_what_is_asked_again() -> None:
    play = behind(reviewers=("person:ada",), escalate=CHAIN)
    play.is_due("g", attempt=1, purpose="escalate", level=1)

    play.revises(plan(gate("g", reviewers=("person:ada",), escalate=CHAIN), task("after", "g", inputs={"n": 1})))

    assert (play.attempt("g"), play.state.steps["g"].reviewers) == (2, ("person:ada", "person:lin"))
    assert play.is_due("g", attempt=2, purpose="escalate", level=1) == []
    assert len(play.is_due("g", attempt=2, purpose="escalate", level=2)) == 1


def test_a_gate_that_is_put_to_others_is_not_open_to_those_of_before() -> None:
    play = behind(reviewers=("person:ada",), escalate=CHAIN)
    play.is_due("g", attempt=1, purpose="escalate", level=1)

    play.revises(plan(gate("g", reviewers=("person:grace",)), task("after", "g")))

    assert play.state.steps["g"].reviewers == ("person:grace",)
    assert code(play.votes("g", by="lin")) == "not_a_reviewer"


def test_what_says_nothing_of_it_is_escalated_as_the_settings_say() -> None:
    document = plan(gate("g", sla_s=60), gate("own", escalate=CHAIN), question("q"))
    command = asks.CreatePlan(id="create", plan=document, goal_digest="d")

    decision = decide(
        PlanState(address=HERE),
        Asked(command, "planner", START),
        gate_sla_s=600,
        escalate_to="role:cfo",
    )

    opened = {name: step.opened for name, step in decision.state.steps.items()}
    assert {name: asked.escalate for name, asked in opened.items() if asked is not None} == {
        "g": (Escalation(after_s=60, to=("role:cfo",)),),
        "own": CHAIN,
        "q": (Escalation(after_s=600, to=("role:cfo",)),),
    }


def test_the_planner_may_not_open_a_gate_to_more_people_by_itself() -> None:
    def revised(**fields: Any) -> int:
        play = behind(reviewers=("role:cfo",), shares=(Share(of="role:cfo"),), escalate=CHAIN)
        about: dict[str, Any] = {"reviewers": ("role:cfo",), "shares": (Share(of="role:cfo"),), "escalate": CHAIN}
        play.revises(plan(gate("g", **{**about, **fields}), task("after", "g")), by_planner=True)
        return play.state.revision

    assert revised(prompt="Really?") == 2
    assert revised(escalate=()) == 2
    assert revised(shares=()) == 1
    assert revised(escalate=(*CHAIN, Escalation(after_s=130, to=("person:eve",)))) == 1


def test_an_overdue_gate_is_overdue_once_and_stays_closed() -> None:
    play = behind(escalate=CHAIN)

    assert play.is_due("g", attempt=1, purpose="sla") == [GateOverdue(step="g", round=1)]
    assert play.is_due("g", attempt=1, purpose="sla") == []
    assert play.state.steps["g"].status is StepStatus.WAITING
    assert isinstance(play.state.steps["g"].opened, GateOpened)
