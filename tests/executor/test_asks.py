"""Asks: who may answer, what is an answer, and what becomes of one that is none."""

from typing import Any

import pytest
from plays import HERE, Play, gate, plan, question, task

from planmesh.schemas import commands as asks
from planmesh.schemas.events import (
    AnswerInvalid,
    AskAnswered,
    AskOpened,
    CommandRefused,
    GateEscalated,
    GateOverdue,
    PlanWaiting,
)
from planmesh.schemas.plan import Check, Escalation
from planmesh.schemas.state import StepStatus


def asked(**fields: Any) -> Play:
    return Play(plan(question("q", **fields), task("after", "q")))


def refusal(happened: list[Any]) -> CommandRefused:
    found = happened[-1]
    assert isinstance(found, CommandRefused)
    return found


def test_a_plan_waits_for_an_answer_and_goes_on_with_it() -> None:
    play = asked(type="number", prompt="How many?")
    assert isinstance(play.events[-1], PlanWaiting)
    assert (play.state.status, play.events[-1].asks) == ("waiting", ("q",))

    answered = play.answers("q", 3)[0]

    assert isinstance(answered, AskAnswered)
    assert answered.output.value == {
        "value": 3,
        "provided_by": "ada",
        "provided_at": play.at.isoformat().replace("+00:00", "Z"),
        "attempt": 1,
    }
    assert (play.status("q"), play.status("after")) == ("completed", "dispatched")


def test_what_is_behind_reads_the_answer() -> None:
    check = Check(name="enough", after=("q",), condition='q.value == "yes"', on_fail="continue")
    play = Play(plan(question("q", options=("yes", "no")), check))

    play.answers("q", "no")

    assert play.state.steps["enough"].label == "fail"


@pytest.mark.parametrize(
    ("fields", "value", "said"),
    [
        ({"type": "number"}, "3", "expected a number; found a text"),
        ({"type": "number"}, True, "expected a number; found true"),
        ({"type": "number"}, 10**400, "too large"),
        ({"type": "boolean"}, 1, "expected true or false; found a number"),
        ({}, None, "expected a text; found nothing"),
        ({}, ["a"], "expected a text; found a list"),
        ({}, "x" * 65_537, "expected a text of at most 65,536 characters; found one of 65,537"),
        ({"options": ("approve", "revise")}, "aprove", "expected one of approve, revise; did you mean approve?"),
        ({"options": ("approve", "revise")}, "hunter2", "expected one of approve, revise; found another text"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_was_expected_and_counted(
    fields: dict[str, Any], value: Any, said: str
) -> None:
    play = asked(**fields)

    invalid, refused = play.answers("q", value)

    assert invalid == AnswerInvalid(step="q", round=1, by="ada")
    assert refused.code == "invalid_answer"
    assert said in refused.reason
    assert "(invalid answer 1 of 3)" in refused.reason
    assert (play.status("q"), play.state.steps["q"].invalid) == ("waiting", 1)


def test_an_answer_that_is_none_is_never_kept() -> None:
    play = asked(options=("yes", "no"))

    play.answers("q", "my password is hunter2")

    assert "hunter2" not in str(play.log)


def test_the_answer_says_how_many_it_took() -> None:
    play = asked(type="boolean")
    play.answers("q", "yes")
    play.answers("q", "true")

    play.answers("q", True)

    assert play.state.steps["q"].output.value["attempt"] == 3


def test_more_invalid_answers_than_allowed_escalate_once_and_leave_it_open() -> None:
    play = asked(
        type="number",
        max_retries=1,
        reviewers=("person:ada",),
        escalate=(Escalation(after_s=60, to=("person:grace",)), Escalation(after_s=120, to=("person:lin",))),
    )
    play.answers("q", "one")

    escalated, refused = play.answers("q", "two")[1:]

    assert escalated == GateEscalated(
        step="q", round=1, level=1, to=("person:grace",), because="2 invalid answers, and 1 are allowed"
    )
    assert "it has been escalated, and it stays open" in refused.reason
    assert len(play.answers("q", "three")) == 2  # once is enough
    assert isinstance(play.answers("q", 3, by="grace")[0], AskAnswered)


def test_where_nobody_is_left_to_escalate_to_it_says_so_and_stays_open() -> None:
    play = asked(type="number", max_retries=0)

    refused = refusal(play.answers("q", "one"))

    assert "nobody is left to escalate it to, and it stays open" in refused.reason
    assert play.status("q") == "waiting"
    assert isinstance(play.answers("q", 1)[0], AskAnswered)


def test_without_reviewers_operators_and_the_space_that_asked_may_answer() -> None:
    play = asked()
    opened = play.state.steps["q"].opened
    assert isinstance(opened, AskOpened)
    assert opened.reviewers == ("role:operator", f"service:{HERE.space}")

    answered = play.replies("q", HERE.space, value="so")[0]

    assert isinstance(answered, AskAnswered)
    assert (answered.by, answered.level, answered.groups) == ("service:space", "operator", ("service:space",))


def test_only_whoever_is_named_may_answer() -> None:
    play = asked(reviewers=("person:grace", "service:billing"))

    assert refusal(play.answers("q", "so", by="ada")).code == "not_a_reviewer"
    assert refusal(play.answers("q", "so", by="billing")).code == "not_a_reviewer"  # an operator of that name
    assert refusal(play.replies("q", HERE.space, value="so")).code == "not_a_reviewer"  # its own plan
    assert play.state.steps["q"].invalid == 0
    assert isinstance(play.replies("q", "billing", value="so")[0], AskAnswered)


def test_a_service_that_is_none_of_a_plans_business_leaves_nothing_in_its_log() -> None:
    play = Play(plan(question("q", reviewers=("person:grace",)), gate("g")))
    commits = len(play.log)

    assert play.replies("q", "stranger", value="so") == []
    assert play.replies("g", "stranger", "approve") == []
    assert len(play.log) == commits


def test_a_person_identified_by_the_gatekeeper_answers_as_what_they_are() -> None:
    play = asked(reviewers=("role:cfo",), level="login")
    opened = play.state.steps["q"].opened
    assert opened is not None
    answer = asks.ReviewGate(
        id="a", step="q", digest=opened.digest, decision="answer", groups=("role:cfo",), level="link", value="so"
    )

    assert refusal(play.ask(answer)).code == "level"
    answered = play.ask(asks.ReviewGate(**{**as_fields(answer), "id": "b", "level": "login"}))[0]

    assert isinstance(answered, AskAnswered)
    assert (answered.by, answered.level, answered.groups) == ("ada", "login", ("role:cfo",))


def as_fields(command: asks.ReviewGate) -> dict[str, Any]:
    return {field: getattr(command, field) for field in command.__struct_fields__}


def test_the_first_answer_is_final() -> None:
    play = asked()
    play.answers("q", "first")

    assert refusal(play.answers("q", "second", by="grace")).code == "not_open"
    assert play.state.steps["q"].output.value["value"] == "first"


def test_a_vote_is_no_answer_and_an_answer_is_no_vote() -> None:
    play = Play(plan(question("q"), gate("g")))

    assert refusal(play.votes("q")).reason == "step q is an ask: it takes an answer"
    assert refusal(play.answers("g", True)).reason == "step g is a gate: it takes an approval or a rejection"


def test_an_overdue_ask_stays_open() -> None:
    play = asked(default="so", sla_s=60)

    assert play.is_due("q", attempt=1, purpose="sla") == [GateOverdue(step="q", round=1)]
    assert (play.status("q"), play.state.steps["q"].overdue) == ("waiting", True)


def test_only_where_the_plan_says_so_the_default_is_the_answer_and_the_log_says_so() -> None:
    play = asked(type="number", default=7, on_overdue="default", sla_s=60)
    play.answers("q", "many")

    (answered, *_) = play.is_due("q", attempt=1, purpose="sla")

    assert isinstance(answered, AskAnswered)
    assert answered.by == "planmesh"
    assert answered.reason == "nobody has answered in time, and the plan lets the default be the answer"
    assert (answered.output.value["value"], answered.output.value["attempt"]) == (7, 2)
    assert play.status("after") == "dispatched"


def test_a_question_that_a_revision_changes_is_asked_again_and_old_answers_are_stale() -> None:
    play = asked(prompt="How many?")
    before = play.state.steps["q"].opened
    assert before is not None

    play.revises(plan(question("q", prompt="How much?"), task("after", "q")))

    opened = play.state.steps["q"].opened
    assert isinstance(opened, AskOpened)
    assert (opened.round, opened.prompt, opened.because) == (2, "How much?", "ada has revised the question")
    assert refusal(play.answers("q", "3", digest=before.digest)).code == "stale"
    assert isinstance(play.answers("q", "3")[0], AskAnswered)


def test_a_question_that_a_revision_leaves_alone_stays_open_and_one_that_is_gone_is_gone() -> None:
    play = asked()

    play.revises(plan(question("q"), task("after", "q"), task("more")))
    assert (play.status("q"), play.attempt("q")) == ("waiting", 1)
    play.revises(plan(task("more")))

    assert play.state.superseded["q"].status is StepStatus.SUPERSEDED


def test_a_question_that_has_to_wait_for_more_is_closed_until_then() -> None:
    play = asked()

    play.revises(plan(task("first"), question("q", "first"), task("after", "q")))
    assert play.status("q") == "pending"
    play.completes("first")

    assert (play.status("q"), play.attempt("q")) == ("waiting", 2)


def test_an_answered_question_cannot_change_any_more() -> None:
    play = asked()
    play.answers("q", "so")

    play.revises(plan(question("q", prompt="Really?"), task("after", "q")))

    assert play.state.revision == 1


def test_a_prompt_that_cannot_be_put_together_fails_the_step_which_can_be_tried_again() -> None:
    play = Play(plan(task("a"), question("q", "a", prompt="{a.missing}")))
    play.completes("a", output={})
    assert play.status("q") == "failed"

    play.retries("q")

    assert play.status("q") == "failed"
    assert play.attempt("q") == 2


def test_an_optional_ask_is_skipped_a_paused_one_holds_back_and_a_cancelled_one_ends() -> None:
    play = asked(optional=True)
    play.ask(asks.SkipStep(id="skip", step="q"))
    assert (play.status("q"), play.status("after")) == ("skipped", "dispatched")

    play = asked()
    play.ask(asks.PausePlan(id="pause", step="q"))
    play.answers("q", "so")
    assert (play.status("q"), play.status("after")) == ("completed", "pending")
    play.ask(asks.ResumePlan(id="resume", step="q"))
    assert play.status("after") == "dispatched"

    play = asked()
    play.ask(asks.CancelPlan(id="cancel", step="q"))
    assert (play.status("q"), play.state.status) == ("cancelled", "cancelled")
    assert refusal(play.answers("q", "so")).code == "ended"
