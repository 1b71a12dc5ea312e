"""What services hear of what they are asked."""

from typing import Any

from plays import HERE, Play, gate, plan, question, task

from planmesh.executor.questions import ForService, for_services
from planmesh.schemas import commands as asks
from planmesh.schemas.plan import Escalation
from planmesh.schemas.questions import NotTaken, Questioned, Settled


def heard(play: Play, since: int = 0) -> list[tuple[str, Any]]:
    """What services hear of a play, once all of it is in the log."""
    found: list[ForService] = []
    for commit, _ in play.log[since:]:
        for event in commit.events:
            found += for_services(play.state, commit, event)
    return [(service, question) for service, question in found]


def test_a_service_hears_what_it_is_asked_and_that_it_is_answered() -> None:
    play = Play(plan(question("q", reviewers=("service:billing", "person:ada"), type="number", prompt="How many?")))

    ((service, asked),) = heard(play)

    assert service == "billing"
    assert isinstance(asked, Questioned)
    assert (asked.space, asked.plan, asked.step, asked.number) == (*HERE, "q", 1)
    assert (asked.kind, asked.round, asked.prompt, asked.answer) == ("ask", 1, "How many?", "number")
    play.replies("q", "billing", value=3)
    ((service, settled),) = heard(play)
    assert isinstance(settled, Settled)
    assert (service, settled.how, settled.by) == ("billing", "answered", ("service:billing",))


def test_the_space_that_asked_hears_what_anybody_may_answer() -> None:
    play = Play(plan(question("q")))

    assert [service for service, _ in heard(play)] == [HERE.space]


def test_a_gate_is_told_with_what_it_lets_go() -> None:
    play = Play(
        plan(task("a"), gate("g", "a", reviewers=("service:checker",), show=("{a}",)), task("b", "g", inputs={"n": 1}))
    )
    play.completes("a", output="all of it")

    ((_, asked),) = heard(play)

    assert isinstance(asked, Questioned)
    assert (asked.kind, asked.behind, asked.shown[0].value) == ("gate", 1, "all of it")
    assert (asked.releases[0].step, asked.releases[0].inputs) == ("b", {"n": 1})


def test_a_service_hears_why_its_reply_was_not_taken() -> None:
    play = Play(plan(question("q", reviewers=("service:billing",), type="number")))
    since = len(play.log)

    play.replies("q", "billing", value="three")

    ((service, refused),) = heard(play, since)
    assert isinstance(refused, NotTaken)
    assert (service, refused.command, refused.code) == ("billing", "command-1", "invalid_answer")
    assert "expected a number" in refused.reason


def test_a_reply_to_what_is_not_asked_any_more_is_answered() -> None:
    play = Play(plan(question("q", reviewers=("service:billing",)), task("a")))
    play.revises(plan(task("a")))
    since = len(play.log)

    play.replies_late("q", "billing")

    ((service, refused),) = heard(play, since)
    assert (service, refused.code) == ("billing", "unknown_step")
    play.ask(asks.CancelPlan(id="cancel"))
    since = len(play.log)
    play.replies_late("q", "billing")
    assert [(service, said.code) for service, said in heard(play, since)] == [("billing", "ended")]


def test_only_whom_it_is_escalated_to_hears_of_an_escalation() -> None:
    play = Play(
        plan(gate("g", reviewers=("service:first",), escalate=(Escalation(after_s=1, to=("service:second",)),)))
    )
    since = len(play.log)

    play.is_due("g", attempt=1, purpose="escalate", level=1)

    ((service, asked),) = heard(play, since)
    assert isinstance(asked, Questioned)
    assert (service, asked.because) == ("second", "it has been escalated")
    play.replies("g", "second", "reject")
    told = [(service, said.how) for service, said in heard(play) if isinstance(said, Settled)]
    assert told == [("first", "rejected"), ("second", "rejected")]


def test_what_is_skipped_or_cancelled_is_not_asked_any_more() -> None:
    play = Play(plan(question("q", optional=True, reviewers=("service:a",)), question("r", reviewers=("service:b",))))

    play.ask(asks.SkipStep(id="skip", step="q"))
    play.ask(asks.CancelPlan(id="cancel"))

    told = [(service, said.how) for service, said in heard(play) if isinstance(said, Settled)]
    assert told == [("a", "skipped"), ("b", "cancelled")]


def test_a_name_that_no_service_can_have_is_passed_over() -> None:
    play = Play(plan(gate("g", reviewers=("service:a.b", "service:*", "service:"))))

    assert heard(play) == []
