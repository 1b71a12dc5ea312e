"""What happens when a command meets a plan."""

from typing import Any

import pytest
from plays import AGENT, HERE, START, TOLD, Play, gate, plan, task

from planmesh.executor.plan import decide
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.commands import Asked
from planmesh.schemas.expressions import NeedsBlob
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import Blob, Payload
from planmesh.schemas.plan import Branch, Case, Check, Decide, Emit, Policy, Retry
from planmesh.schemas.state import PlanState, answered
from planmesh.schemas.work import Failure, Usage


def kinds(happened: list[Any]) -> list[str]:
    return [type(event).__name__ for event in happened]


# --- order ---------------------------------------------------------------------------------------------------


def test_steps_with_no_path_between_them_run_at_once() -> None:
    play = Play(plan(task("a"), task("b"), task("c", "a", "b")))

    assert play.in_status("dispatched") == ["a", "b"]
    assert play.status("c") == "pending"


def test_a_step_starts_when_everything_that_it_needs_is_settled() -> None:
    play = Play(plan(task("a"), task("b"), task("c", "a", "b")))

    play.completes("a")
    assert play.status("c") == "pending"
    play.completes("b")
    assert play.status("c") == "dispatched"


def test_no_more_tasks_run_than_the_plan_allows() -> None:
    play = Play(plan(*(task(f"t{n}") for n in range(5)), concurrency=2))

    assert play.in_status("dispatched") == ["t0", "t1"]
    play.completes("t1")
    assert play.in_status("dispatched") == ["t0", "t2"]


def test_a_plan_without_an_emit_completes_with_what_its_last_steps_gave() -> None:
    play = Play(plan(task("a"), task("last-one", "a")))

    play.completes("a", output=1)
    play.completes("last-one", output=2)

    assert play.state.status == "completed"
    assert play.state.result == Payload(value={"last_one": 2})


def test_a_draft_starts_nothing_until_someone_starts_it() -> None:
    play = Play(plan(task("a")), start=False)
    assert (play.state.status, play.status("a")) == ("draft", "pending")

    play.ask(asks.StartPlan(id="start"))

    assert (play.state.status, play.status("a")) == ("running", "dispatched")


# --- results -------------------------------------------------------------------------------------------------


def test_a_completed_step_is_never_started_again() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.completes("a")

    refused = play.ask(asks.RetryStep(id="again", step="a", attempt=1))

    assert kinds(refused) == ["CommandRefused"]
    assert refused[0].reason == "step a is completed"


def test_the_late_result_of_an_old_attempt_changes_nothing() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=2, backoff_s=0))))
    play.fails("a")
    assert play.state.steps["a"].attempt == 2

    assert play.completes("a", attempt=1) == []


def test_an_agent_cannot_speak_for_another_agents_step() -> None:
    play = Play(plan(task("a")))

    assert play.completes("a", by="mallory") == []


def test_a_failed_attempt_is_tried_again_after_its_backoff() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=3, backoff_s=10, factor=2))))

    (ended, waiting) = play.fails("a")
    assert isinstance(ended, events.AttemptEnded)
    assert (ended.retry_at - play.at).total_seconds() == 10
    assert waiting == events.PlanWaiting(retries=("a",))

    play.is_due("a")
    assert play.state.steps["a"].attempt == 2
    (ended, _) = play.fails("a")
    assert (ended.retry_at - play.at).total_seconds() == 20


def test_a_timer_that_was_overtaken_says_nothing() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=2))))
    play.fails("a")
    play.is_due("a")

    assert play.is_due("a", attempt=2) == []


def test_an_error_that_no_retry_can_mend_is_not_tried_again() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=5))))

    play.fails("a", retryable=False)

    assert play.status("a") == "failed"


def test_a_failure_halts_its_branch_and_no_other() -> None:
    play = Play(plan(task("a"), task("behind-a", "a"), task("b"), task("behind-b", "b")))

    play.fails("a")
    assert play.state.status == "running"
    play.completes("b")
    play.completes("behind-b")

    assert play.state.status == "paused"
    assert play.state.troubled == ("a",)
    assert play.status("behind-a") == "pending"
    assert play.of_type(events.PlanPaused)[0].at_steps == ("a",)


def test_a_retry_goes_on_from_the_failure_and_replays_nothing() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.completes("a")
    play.fails("b")

    play.retries("b")
    play.completes("b")

    assert play.state.status == "completed"
    assert [event.step for event in play.of_type(events.StepDispatched)] == ["a", "b", "b"]


@pytest.mark.parametrize(("on_failure", "status"), [("fail", "failed"), ("cancel", "cancelled")])
def test_a_plan_that_says_so_ends_with_its_first_failure(on_failure: Any, status: str) -> None:
    play = Play(plan(task("a"), task("b"), policy=Policy(on_failure=on_failure)))

    play.fails("a")

    assert play.state.status == status
    assert (play.status("a"), play.status("b")) == ("failed", "cancelled")
    assert play.completes("b") == []


def test_a_failure_that_the_plan_ignores_counts_as_skipped() -> None:
    play = Play(plan(task("a", on_error="ignore"), task("b", "a")))

    play.fails("a")

    assert (play.status("a"), play.status("b")) == ("skipped", "dispatched")


def test_an_attempt_that_was_not_started_is_tried_again_whatever_the_retries_say() -> None:
    play = Play(plan(task("a")))

    play.gives_back("a")
    play.is_due("a")

    assert (play.status("a"), play.state.steps["a"].attempt) == ("dispatched", 2)


# --- unknown outcomes ----------------------------------------------------------------------------------------


def test_an_unknown_outcome_is_never_tried_again_by_itself() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=5))))

    play.loses("a")

    assert (play.status("a"), play.state.status) == ("outcome_unknown", "paused")


def test_a_late_result_settles_an_unknown_outcome() -> None:
    play = Play(plan(task("a")))
    play.loses("a")

    play.completes("a")

    assert play.state.status == "completed"


@pytest.mark.parametrize(("done", "status"), [(True, "completed"), (False, "failed")])
def test_a_person_says_what_became_of_an_unknown_outcome(done: bool, status: str) -> None:
    play = Play(plan(task("a")))
    play.loses("a")

    play.ask(asks.ResolveStep(id="r", step="a", attempt=1, done=done, output=Payload(value="x"), reason="I looked"))

    assert play.status("a") == status


def test_a_person_may_have_an_unknown_outcome_tried_again() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.loses("a")

    play.retries("a")

    assert (play.status("a"), play.attempt("a"), play.state.status) == ("dispatched", 2, "running")
    play.completes("a")
    assert play.status("b") == "dispatched"


# --- people --------------------------------------------------------------------------------------------------


def test_only_an_optional_step_can_be_skipped() -> None:
    play = Play(plan(task("a"), task("b", optional=True), task("c", "b")))
    play.fails("a")
    play.fails("b")

    (refused,) = play.ask(asks.SkipStep(id="1", step="a"))
    play.ask(asks.SkipStep(id="2", step="b"))

    assert refused.code == "not_optional"
    assert (play.status("b"), play.status("c")) == ("skipped", "dispatched")


def test_a_step_cannot_be_skipped_before_it_is_reached() -> None:
    play = Play(plan(gate("g"), task("b", "g", optional=True), task("c", "b")))

    (refused,) = play.ask(asks.SkipStep(id="1", step="b"))

    assert refused.code == "not_reached"
    assert play.status("c") == "pending"


def test_a_pause_starts_nothing_more_and_records_what_finishes() -> None:
    play = Play(plan(task("a"), task("b", "a")))

    play.ask(asks.PausePlan(id="p", reason="lunch"))
    play.completes("a")
    assert (play.state.status, play.status("a"), play.status("b")) == ("paused", "completed", "pending")
    play.ask(asks.ResumePlan(id="r"))

    assert (play.state.status, play.status("b")) == ("running", "dispatched")


def test_a_cancelled_plan_takes_no_late_result() -> None:
    play = Play(plan(task("a"), task("b", "a")))

    play.ask(asks.CancelPlan(id="c", reason="no longer wanted"))

    assert play.state.status == "cancelled"
    assert play.in_status("cancelled") == ["a", "b"]
    assert play.completes("a") == []


def test_a_refusal_says_what_would_work() -> None:
    play = Play(plan(task("a")))
    play.fails("a")

    (refused,) = play.ask(asks.SkipStep(id="1", step="a"))

    assert "retry" in refused.possible
    assert "cancel" in refused.possible


def test_a_plan_that_a_failed_step_has_stopped_says_that_it_is_no_pause_that_ends() -> None:
    play = Play(plan(task("a")))
    play.fails("a")

    (refused,) = play.ask(asks.ResumePlan(id="1"))

    assert refused.reason == "nobody has paused the plan; it is paused at a, and goes on once that step does"


@pytest.mark.parametrize(
    ("command", "code", "state", "works"),
    [
        (asks.StartPlan(id="1"), "not_a_draft", "the plan is running", ("pause", "cancel", "revise")),
        (asks.ResumePlan(id="1"), "not_paused", "it is running", ("pause", "cancel", "revise")),
        (asks.ResumePlan(id="1", step="c"), "not_paused", "it is waiting", ("pause", "cancel", "vote", "redirect")),
        (asks.PausePlan(id="1", step="b"), "paused_already", "step b is paused already", ("resume", "cancel")),
        (asks.PausePlan(id="1", step="a"), "cannot_pause", "step a is completed", ("revise",)),
        (asks.CancelPlan(id="1", step="a"), "cannot_cancel", "step a is completed", ("revise",)),
        (asks.RetryStep(id="1", step="b", attempt=1), "not_failed", "step b is dispatched", ("resume", "cancel")),
        (
            asks.ResolveStep(id="1", step="b", attempt=1, done=True),
            "not_unknown",
            "is dispatched",
            ("resume", "cancel"),
        ),
        (asks.SkipStep(id="1", step="b"), "cannot_skip", "step b is dispatched", ("resume", "cancel")),
        (asks.SkipStep(id="1", step="d"), "not_reached", "step d still waits", ("pause", "cancel")),
    ],
)
def test_each_verb_that_cannot_be_carried_out_is_refused_with_the_state_and_what_would_work(
    command: asks.AnyCommand, code: str, state: str, works: tuple[str, ...]
) -> None:
    play = Play(plan(task("a", optional=True), task("b", optional=True), gate("c"), task("d", "b", optional=True)))
    # Each step is in another state: completed, running (and held), at its gate, not reached.
    play.completes("a")
    play.ask(asks.PausePlan(id="hold", step="b"))
    before = play.state.steps

    (refused,) = play.ask(command)

    assert isinstance(refused, events.CommandRefused)
    assert (refused.code, state in refused.reason) == (code, True), refused.reason
    assert set(works) <= set(refused.possible)
    assert play.state.steps == before


def test_a_plan_that_is_paused_already_says_who_has_paused_it() -> None:
    play = Play(plan(task("a")))
    play.ask(asks.PausePlan(id="1"), "bob")

    (refused,) = play.ask(asks.PausePlan(id="2"))

    assert (refused.code, refused.reason) == ("cannot_pause", "the plan is paused by bob")
    assert refused.possible[0] == "resume"


@pytest.mark.parametrize("reason", ["", " \n"])
def test_a_gate_takes_a_reason_to_be_rejected_if_it_says_so_and_to_be_skipped(reason: str) -> None:
    play = Play(plan(gate("g", require_reason=True, optional=True), task("a", "g")))
    opened = play.state.steps["g"].opened
    assert opened is not None
    no = asks.CastVote(id="1", step="g", digest=opened.digest, decision="reject", reason=reason)

    (rejected,) = play.ask(no)
    (skipped,) = play.ask(asks.SkipStep(id="2", step="g", reason=reason))

    assert (rejected.code, skipped.code) == ("reason_required", "reason_required")
    assert play.status("g") == "waiting"
    play.ask(asks.CastVote(id="3", step="g", digest=opened.digest, decision="reject", reason="too dear"))
    assert play.status("g") == "rejected"


def test_an_approval_takes_no_reason() -> None:
    play = Play(plan(gate("g", require_reason=True), task("a", "g")))

    play.votes("g")

    assert play.status("a") == "dispatched"


def test_a_command_to_a_plan_that_does_not_exist_is_refused() -> None:
    nowhere = PlanState(address=HERE)

    (refused,) = decide(nowhere, Asked(asks.CancelPlan(id="c"), "ada", START)).events

    assert isinstance(refused, events.CommandRefused)
    assert "no such plan" in refused.reason


# --- goals ---------------------------------------------------------------------------------------------------


def test_the_same_goal_again_is_the_same_plan() -> None:
    play = Play(plan(task("a")))

    again = asks.CreatePlan(id="another", plan=play.document, goal_digest="digest")

    assert play.ask(again, by="planner") == []


def test_a_goal_that_a_model_was_asked_twice_for_is_the_plan_that_came_first() -> None:
    play = Play(plan(task("a")))

    other = asks.CreatePlan(id="another", plan=plan(task("b")), goal_digest="digest")
    refused = asks.RefuseGoal(id="third", problems=(Problem(code="cycle", message="a circle"),), goal_digest="digest")

    assert play.ask(other, by="planner") == []
    assert play.ask(refused, by="planner") == []
    assert play.in_status("dispatched") == ["a"]


def test_the_same_goal_id_with_other_content_is_refused() -> None:
    play = Play(plan(task("a")))

    (refused,) = play.ask(asks.CreatePlan(id="another", plan=play.document, goal_digest="other"), by="planner")

    assert refused.code == "goal_id_taken"
    assert play.state.status == "running"


# --- gates ---------------------------------------------------------------------------------------------------


def test_nothing_behind_a_gate_starts_before_it_is_approved() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")
    assert (play.status("g"), play.status("b"), play.state.status) == ("waiting", "pending", "waiting")

    for attempt in (
        lambda: play.completes("b", attempt=1),
        lambda: play.retries("b"),
        lambda: play.ask(asks.SkipStep(id="s", step="g", reason="in a hurry")),
        lambda: play.is_due("g", attempt=1, purpose="sla"),
        lambda: play.ask(asks.PausePlan(id="p")),
        lambda: play.ask(asks.ResumePlan(id="r")),
    ):
        attempt()
    assert play.status("b") == "pending"

    play.votes("g")
    assert (play.status("g"), play.status("b")) == ("completed", "dispatched")


def test_a_gate_shows_what_ran_and_exactly_what_it_would_release() -> None:
    play = Play(
        plan(
            task("a"),
            gate("g", "a", prompt="Ship {a.version}?", show=("{a.notes}",)),
            task("b", "g", "a", inputs={"version": "{a.version}"}),
        )
    )

    play.completes("a", output={"version": "1.2", "notes": "all green"})

    (opened,) = play.of_type(events.GateOpened)
    assert opened.prompt == "Ship 1.2?"
    assert opened.shown == (Payload(value="all green"),)
    assert opened.upstream[0].step == "a"
    assert opened.releases[0].inputs == {"version": "1.2"}
    assert (opened.releases[0].agent, opened.behind) == (AGENT, 1)


def test_a_gate_says_which_inputs_only_come_to_be_known_behind_it() -> None:
    inputs = {"receipt": "For {a}: {charge.receipt}", "version": "{a}"}
    play = Play(plan(task("a"), gate("g", "a"), task("charge", "g"), task("report", "g", "charge", inputs=inputs)))

    play.completes("a", output=7)

    (opened,) = play.of_type(events.GateOpened)
    assert opened.releases[1].inputs == {"receipt": "For {a}: {charge.receipt}", "version": 7}
    assert opened.releases[1].later == {"receipt": ("charge",)}
    assert opened.releases[0].later == {}


def test_what_a_skipped_step_would_have_given_is_known_to_be_nothing() -> None:
    play = Play(plan(task("a", optional=True), gate("g", "a"), task("b", "g", "a", inputs={"x": "{a}"})))
    play.fails("a", retryable=False)
    play.ask(asks.SkipStep(id="skip", step="a"))

    (opened,) = play.of_type(events.GateOpened)

    assert (opened.releases[0].inputs, opened.releases[0].later) == ({"x": None}, {})


def test_a_vote_that_quotes_another_digest_is_refused() -> None:
    play = Play(plan(gate("g"), task("a", "g")))

    (refused,) = play.votes("g", digest="0" * 64)

    assert refused.code == "stale"
    assert play.status("g") == "waiting"


def test_a_gate_asks_again_when_what_it_would_release_has_changed() -> None:
    play = Play(plan(task("slow"), gate("g"), task("b", "g", "slow", inputs={"x": "{slow}"})))
    shown = play.state.steps["g"].opened
    assert shown is not None
    play.completes("slow", output=1)

    refused, reopened = play.votes("g", digest=shown.digest)

    assert refused.code == "stale"
    assert (reopened.round, reopened.digest != shown.digest) == (2, True)
    assert reopened.releases[0].inputs == {"x": 1}
    assert kinds(play.votes("g"))[:2] == ["VoteCast", "GateApproved"]


def test_a_quorum_takes_several_people_each_once() -> None:
    play = Play(plan(gate("g", quorum=2), task("a", "g")))

    play.votes("g", by="ada")
    (refused,) = play.votes("g", by="ada")
    assert (refused.code, play.status("g")) == ("voted_already", "waiting")
    play.votes("g", by="grace")

    assert play.status("g") == "completed"
    assert play.of_type(events.GateApproved)[0].by == ("ada", "grace")


def test_a_rejection_halts_the_branch_and_can_be_asked_again() -> None:
    play = Play(plan(gate("g"), task("a", "g"), task("b")))
    play.votes("g", "reject")
    play.completes("b")
    assert (play.status("g"), play.status("a"), play.state.status) == ("rejected", "pending", "paused")

    play.retries("g")
    play.votes("g")

    assert play.status("a") == "dispatched"


def test_only_a_reviewer_may_decide() -> None:
    play = Play(plan(gate("g", reviewers=("person:grace",)), task("a", "g")))

    (refused,) = play.votes("g", by="ada")
    assert refused.code == "not_a_reviewer"
    play.votes("g", by="grace")

    assert play.status("g") == "completed"


def test_four_eyes_bar_the_requester() -> None:
    play = Play(plan(gate("g", four_eyes=True), task("a", "g")))

    (refused,) = play.votes("g", by=HERE.space)

    assert refused.code == "four_eyes"


def test_four_eyes_bar_whoever_owns_the_space_that_requested_it() -> None:
    play = Play(plan(gate("g", four_eyes=True), task("a", "g")), owners=("grace",))

    (refused,) = play.votes("g", by="grace")
    assert refused.code == "four_eyes"
    play.votes("g", by="ada")

    assert play.status("g") == "completed"


def test_an_overdue_gate_stays_closed() -> None:
    play = Play(plan(gate("g", sla_s=60), task("a", "g")))

    assert play.is_due("g", attempt=1, purpose="sla") == [events.GateOverdue(step="g", round=1)]
    assert (play.status("g"), play.state.steps["g"].overdue) == ("waiting", True)


# --- branches, checks, ends ----------------------------------------------------------------------------------


def route(*labels: str, otherwise: str | None = None) -> Decide:
    cases = tuple(Case(when=f'a.kind == "{label}"', then=label) for label in labels)
    return Decide(name="route", after=("a",), cases=cases, otherwise=otherwise)


def test_exactly_one_branch_runs_and_the_join_waits_for_it() -> None:
    play = Play(
        plan(
            task("a"),
            route("big", "small"),
            task("big", "route", branch=Branch(step="route", label="big")),
            task("small", "route", branch=Branch(step="route", label="small")),
            task("after-big", "big"),
            task("join", "after-big", "small"),
        )
    )

    play.completes("a", output={"kind": "small"})

    assert play.in_status("not_taken") == ["big", "after-big"]
    assert play.status("join") == "pending"
    play.completes("small")
    assert play.status("join") == "dispatched"


def test_a_decision_without_a_branch_fails() -> None:
    play = Play(plan(task("a"), route("big")))

    play.completes("a", output={"kind": "none"})

    failure = play.state.steps["route"].failure
    assert failure is not None
    assert failure.code == "no_branch"


def test_a_check_that_does_not_hold_halts_its_branch_and_says_why() -> None:
    check = Check(name="enough", after=("a",), condition="a.count > 3", message="only {a.count} found")
    play = Play(plan(task("a"), check, task("b", "enough")))

    play.completes("a", output={"count": 2})

    failure = play.state.steps["enough"].failure
    assert failure is not None
    assert (failure.code, failure.message) == ("check_failed", "only 2 found")
    assert play.status("b") == "pending"


def test_an_expression_that_cannot_be_evaluated_fails_its_step_and_nothing_else() -> None:
    check = Check(name="enough", after=("a",), condition="a.count > 3")
    play = Play(plan(task("a"), check, task("c")))

    play.completes("a", output={"cuont": 2})

    failure = play.state.steps["enough"].failure
    assert failure is not None
    assert failure.code == "expression"
    assert play.status("c") == "dispatched"


def test_a_condition_on_a_large_output_asks_for_the_blob_first() -> None:
    play = Play(plan(task("a"), Check(name="c", after=("a",), condition="a.count > 3")))
    blob = Blob(sha256="ab" * 32, size_bytes=9_000)
    result = play.state
    from planmesh.schemas.commands import ReportResult
    from planmesh.schemas.work import AttemptCompleted

    report = ReportResult(
        AttemptCompleted(
            space="space", plan="plan", step="a", attempt=1, output=Payload(blob=blob), started_at=START, duration_s=1
        )
    )

    with pytest.raises(NeedsBlob) as needs:
        decide(result, Asked(report, AGENT, START))
    decided = decide(result, Asked(report, AGENT, START), blobs={needs.value.blob.sha256: {"count": 4}})

    assert events.BranchTaken(step="c", label="pass") in decided.events


def test_an_emit_ends_the_plan_and_closes_what_is_open() -> None:
    play = Play(
        plan(
            task("a"),
            task("slow"),
            gate("g"),
            Emit(name="end", after=("a",), outcome="Published", result={"path": "{a}"}),
        )
    )

    play.completes("a", output="x.md")

    assert (play.state.status, play.state.outcome) == ("completed", "Published")
    assert play.state.result == Payload(value={"path": "x.md"})
    assert play.in_status("cancelled") == ["slow", "g"]
    assert kinds(play.votes("g")) == ["CommandRefused"]


# --- what attempts tell of -----------------------------------------------------------------------------------


def test_what_an_attempt_was_not_permitted_is_in_the_log_before_its_end() -> None:
    play = Play(plan(task("a"), task("b")))

    completed = play.completes("a", **TOLD)
    failed = play.fails("b", retryable=False, **TOLD)

    assert kinds(completed) == ["PermissionDenied", "StepCompleted"]
    assert kinds(failed)[:2] == ["PermissionDenied", "StepFailed"]
    assert completed[0] == events.PermissionDenied(
        step="a", attempt=1, what="tool send", why="the step does not name it"
    )


def test_a_repeated_result_repeats_no_denial() -> None:
    play = Play(plan(task("a"), task("b")))

    lost = [*play.loses("a", **TOLD), *play.loses("a", **TOLD)]
    done = [*play.completes("b", **TOLD), *play.completes("b", **TOLD)]

    assert kinds(lost).count("PermissionDenied") == 1
    assert kinds(done).count("PermissionDenied") == 1


def test_a_late_result_of_what_was_cancelled_tells_of_nothing() -> None:
    play = Play(plan(task("a"), task("b")))
    play.ask(asks.CancelPlan(id="c", step="a"))

    assert play.completes("a", **TOLD) == []


def test_a_step_knows_what_its_last_attempt_has_used() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=2, backoff_s=0))))

    play.fails("a", **TOLD)
    assert play.state.steps["a"].usage is None
    play.completes("a", **TOLD)

    assert play.state.steps["a"].usage == Usage(model_calls=1, tool_calls=1, input_tokens=7, output_tokens=5)


# --- ids -----------------------------------------------------------------------------------------------------


def test_nobody_uses_up_the_id_of_what_somebody_else_is_about_to_ask() -> None:
    play = Play(plan(task("a")))
    unfit = asks.ReportUnfit(id="c1-1", step="a", attempt=1, failure=Failure(code="inputs", message="too large"))
    play.ask(asks.PausePlan(id=unfit.id, step="a"), by="mallory")

    play.ask(unfit, by="executor")

    assert play.status("a") == "failed"


def test_the_same_id_again_by_the_same_actor_changes_nothing() -> None:
    play = Play(plan(task("a")))
    for by in ("ada", "bob", "ada"):
        play.ask(asks.PausePlan(id="pause", step="a"), by=by)
        play.ask(asks.ResumePlan(id="resume", step="a"), by=by)

    assert [event.by for event in play.of_type(events.StepPaused)] == ["ada", "bob"]
    play.ask(asks.PausePlan(id="pause", step="a"), by="bob")
    assert not play.state.steps["a"].held


def test_an_output_that_is_not_accepted_was_called_for_all_the_same() -> None:
    play = Play(plan(task("a", accept="a.n > 1")))

    happened = play.completes("a", output={"n": 1}, **TOLD)

    assert kinds(happened)[:2] == ["PermissionDenied", "StepFailed"]
    assert kinds(happened).count("PermissionDenied") == 1
    assert play.of_type(events.StepFailed)[0].calls == TOLD["calls"]


# --- goals that were refused ---------------------------------------------------------------------------------


def refusal(message: str, goal_digest: str = "digest") -> asks.RefuseGoal:
    problem = Problem(code="unknown_agent", message=message)
    return asks.RefuseGoal(id=goal_digest, problems=(problem,), goal_digest=goal_digest)


@pytest.mark.parametrize("goal_digest", ["digest", "other"])
def test_a_goal_that_was_refused_may_become_a_plan_when_it_is_published_again(goal_digest: str) -> None:
    state = PlanState(address=HERE)
    state, _ = told(state, refusal("nobody is called a"))
    created, happened = told(state, asks.CreatePlan(id=goal_digest, plan=plan(task("a")), goal_digest=goal_digest))

    assert [type(event).__name__ for event in happened] == ["PlanCreated", "PlanStarted", "StepDispatched"]
    assert (created.status, created.refused, created.ended_at) == ("running", None, None)
    # Late news of the refusal changes nothing.
    assert told(created, refusal("nobody is called a"))[1] == []


def test_a_goal_that_is_refused_again_is_recorded_again_only_if_something_else_is_wrong() -> None:
    state, _ = told(PlanState(address=HERE), refusal("nobody is called a"))

    assert told(state, refusal("nobody is called a"))[1] == []
    again, (event,) = told(state, refusal("nobody is called b"))

    assert isinstance(event, events.PlanRefused)
    assert again.refused == event


def told(state: PlanState, command: asks.AnyCommand) -> tuple[PlanState, list[Any]]:
    """What the planner asks of a plan, with the id remembered if it was answered."""
    asked = Asked(command, "planner", START)
    decision = decide(state, asked)
    return (answered(decision.state, [asked.cause]) if decision.events else decision.state), decision.events


# --- attempts that were never begun --------------------------------------------------------------------------


def test_what_was_not_begun_is_not_one_of_the_attempts_that_a_plan_allows() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=2))))
    for _ in range(5):
        play.gives_back("a")
        play.is_due("a")

    play.fails("a")
    assert play.status("a") == "waiting"
    play.is_due("a")
    play.fails("a")

    assert play.status("a") == "failed"
    waits = [(one.retry_at - at).total_seconds() for one, at in ended_at(play) if not one.begun]
    assert waits == [1, 2, 4, 8, 16]


def ended_at(play: Play) -> list[tuple[events.AttemptEnded, Any]]:
    return [
        (event, commit.at) for commit, _ in play.log for event in commit.events if type(event) is events.AttemptEnded
    ]


# --- where nothing may follow --------------------------------------------------------------------------------


def test_what_does_not_follow_from_it_goes_on_where_nothing_may() -> None:
    play = Play(plan(task("a", on_error="ignore"), gate("behind", "a"), task("b"), concurrency=1))

    play.fails("a", retryable=False, alone="too much would follow")

    assert [play.status(name) for name in ("a", "behind", "b")] == ["failed", "pending", "dispatched"]
    play.completes("b")
    assert play.state.status == "paused"


def test_the_next_attempt_begins_at_once_where_nothing_else_may() -> None:
    play = Play(plan(task("a", retry=Retry(attempts=2, backoff_s=0))))

    play.fails("a", alone="what was said of it is too large")

    assert (play.status("a"), play.attempt("a")) == ("dispatched", 2)


def test_not_even_what_is_ready_begins_where_that_is_too_much_as_well() -> None:
    play = Play(plan(task("a"), task("b"), concurrency=1))
    failure = Failure(code="broke", message="it broke", retryable=False)
    asked = Asked(asks.ReportUnfit(id="u", step="a", attempt=1, failure=failure), "executor", START)

    decision = decide(play.state, asked, alone="too much would follow", still=True)

    assert kinds(decision.events) == ["StepFailed"]
