"""Plans that are steered while they run."""

from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, Play, gate, kept, plan, question, task

from planmesh.executor.plan import decide
from planmesh.executor.revision import REQUEST_BYTES
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import LEVELS, Branch, Case, Decide, Each, Escalation, Permissions, Plan, Policy, Task


def kinds(happened: list[Any]) -> list[str]:
    return [type(event).__name__ for event in happened]


# --- one step ------------------------------------------------------------------------------------------------


def test_a_paused_step_finishes_and_is_recorded_and_nothing_behind_it_starts() -> None:
    play = Play(plan(task("a"), task("b", "a"), task("c")))

    play.ask(asks.PausePlan(id="p", step="a", reason="wait for the auditors"))
    play.completes("a")
    play.completes("c")
    assert (play.status("a"), play.status("b"), play.state.status) == ("completed", "pending", "paused")
    assert play.of_type(events.PlanPaused)[0].at_steps == ("a",)

    play.ask(asks.ResumePlan(id="r", step="a"))
    assert (play.status("b"), play.state.status) == ("dispatched", "running")


def test_a_step_that_is_paused_before_it_starts_does_not_start() -> None:
    play = Play(plan(task("a"), task("b", "a")))

    play.ask(asks.PausePlan(id="p", step="b"))
    play.completes("a")
    assert (play.status("b"), play.state.status) == ("paused", "paused")

    play.ask(asks.ResumePlan(id="r", step="b"))
    assert play.status("b") == "dispatched"


def test_a_cancelled_step_takes_with_it_what_can_only_run_after_it() -> None:
    play = Play(plan(task("a"), task("b", "a"), task("c", "b"), task("d")))

    play.ask(asks.CancelPlan(id="c", step="a"))
    play.completes("d")

    assert play.in_status("cancelled") == ["a", "b", "c"]
    assert (play.state.status, play.state.outcome) == ("completed", "completed without c")
    assert play.completes("a") == []


def test_a_plan_whose_last_steps_are_cancelled_is_cancelled() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")

    play.ask(asks.CancelPlan(id="c", step="g"))

    assert (play.state.status, play.state.by) == ("cancelled", "ada")
    assert play.state.reason == "what it ends with was cancelled: b"


# --- revisions -----------------------------------------------------------------------------------------------


def with_steps(document: Plan, *steps: Any) -> Plan:
    return msgspec.structs.replace(document, steps=steps)


def test_a_revision_replaces_what_has_not_started_and_keeps_the_rest() -> None:
    play = Play(plan(task("a"), task("b", "a"), task("c", "b")))
    play.completes("a", output="kept")

    revised = with_steps(play.document, task("a"), task("b", "a"), task("d", "b"), task("e", "d"))
    play.revises(revised)

    (event,) = play.of_type(events.PlanRevised)
    assert event.revision == play.state.revision == 2
    assert [(change.step, change.kind) for change in event.changes] == [
        ("d", "added"),
        ("e", "added"),
        ("c", "removed"),
    ]
    assert play.state.steps["a"].output.value == "kept"
    assert list(play.state.superseded) == ["c"]
    play.completes("b")
    assert play.in_status("dispatched") == ["d"]
    assert [one.step for one in play.of_type(events.StepDispatched)] == ["a", "b", "d"]


def test_a_revision_against_an_older_one_is_refused() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.revises(with_steps(play.document, task("a"), task("c", "a")))

    (refused,) = play.ask(asks.RevisePlan(id="late", base=1, document={}))

    assert refused.code == "stale"


def test_what_has_started_cannot_change() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.completes("a")

    (refused,) = play.revises(with_steps(play.document, task("a", inputs={"x": 1}), task("b", "a")))

    assert isinstance(refused, events.RevisionRefused)
    assert refused.problems[0].message == "step a is completed, and cannot change any more"
    assert play.state.revision == 1


def test_what_runs_cannot_change() -> None:
    play = Play(plan(task("a"), task("b", "a")))

    (refused,) = play.revises(with_steps(play.document, task("a", inputs={"x": 1}), task("b", "a")))

    assert isinstance(refused, events.RevisionRefused)
    assert refused.problems[0].message.startswith("step a is dispatched, and cannot change")
    assert play.state.revision == 1


def test_a_running_step_is_left_out_only_if_it_may_be_cancelled() -> None:
    play = Play(plan(task("a"), task("b")))
    without_a = with_steps(play.document, task("b"))

    (refused,) = play.revises(without_a)
    assert refused.problems[0].hint == "cancel it with --cancel-running"
    play.revises(without_a, cancel_running=True)

    assert play.of_type(events.StepsCancelled)[0].steps == ("a",)
    play.completes("b")
    assert play.state.status == "completed"


def test_an_open_gate_asks_again_when_what_it_would_release_is_revised() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")
    first = play.state.steps["g"].opened
    assert first is not None

    play.revises(with_steps(play.document, task("a"), gate("g", "a"), task("b", "g", inputs={"x": 1})))

    again = play.state.steps["g"].opened
    assert again is not None
    assert (again.round, again.digest != first.digest) == (2, True)
    assert again.changes[0].step == "b"
    (refused,) = play.votes("g", digest=first.digest)
    assert refused.code == "stale"


def test_an_approved_gate_asks_again_when_what_it_released_and_has_not_started_is_revised() -> None:
    play = Play(plan(gate("g"), task("a", "g"), task("b", "a")))
    play.votes("g")
    assert play.status("a") == "dispatched"

    play.revises(with_steps(play.document, gate("g"), task("a", "g"), task("b", "a", inputs={"x": 1})))
    assert play.of_type(events.PlanRevised)[0].asks_again == ("g",)
    assert play.status("g") == "waiting"
    play.completes("a")
    assert play.status("b") == "pending"

    play.votes("g")
    assert play.status("b") == "dispatched"


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((task("a"), task("b", "a")), "removes or weakens gate g"),
        ((task("a"), gate("g", "a", reviewers=("person:mallory",)), task("b", "g")), "removes or weakens gate g"),
        ((task("a"), gate("g", "a"), task("b", "a")), "step b goes around gate g"),
        ((task("a"), gate("g", "a"), task("b", "g"), task("quick", "a")), "step quick goes around gate g"),
        (
            (task("a"), gate("g", "a"), task("b", "g", permissions=Permissions(network=("evil.example",)))),
            "step b is given permissions",
        ),
    ],
)
def test_the_planner_may_not_loosen_what_people_have_to_decide(steps: tuple[Any, ...], says: str) -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")

    (refused,) = play.revises(with_steps(play.document, *steps), by_planner=True)

    assert isinstance(refused, events.RevisionRefused)
    assert says in " ".join(problem.message for problem in refused.problems)
    assert refused.plan is not None  # for a person who may want it

    play.revises(refused.plan)
    assert play.state.revision == 2


RULES: dict[str, Any] = {
    "reviewers": ("person:ada", "person:bob", "person:eve"),
    "quorum": 2,
    "four_eyes": True,
    "require_reason": True,
    "level": "operator",
}


@pytest.mark.parametrize(
    "weaker",
    [
        {"quorum": 1},
        {"four_eyes": False},
        {"require_reason": False},
        {"optional": True},
        {"level": "link"},
        {"reviewers": ("person:ada", "person:bob", "person:mallory")},
    ],
    ids=lambda weaker: next(iter(weaker)),
)
def test_the_planner_may_not_weaken_any_rule_of_a_gate_and_a_person_may(weaker: dict[str, Any]) -> None:
    play = Play(plan(gate("g", **RULES), task("b", "g")))
    document = with_steps(play.document, gate("g", **{**RULES, **weaker}), task("b", "g"))

    (refused,) = play.revises(document, by_planner=True)

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["loosens"]
    play.revises(document)
    assert play.state.revision == 2


def test_no_planner_lets_a_link_alone_speak_for_the_operators() -> None:
    play = Play(plan(gate("g"), task("b", "g")))  # which asks them

    play.revises(with_steps(play.document, gate("g", level="link"), task("b", "g")), by_planner=True)

    (refused,) = play.of_type(events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["loosens"]


GROUPS = ("role:operator", "team:a", "person:bob")
LOOKS = st.fixed_dictionaries(
    {"secret": st.booleans()},
    optional={
        "reviewers": st.lists(st.sampled_from(GROUPS), unique=True).map(tuple),
        "level": st.sampled_from([None, *LEVELS]),
        "escalate": st.just((Escalation(after_s=60, to=("team:b",)),)),
    },
)


@settings(max_examples=200, deadline=None)
@given(before=LOOKS, after=LOOKS, prompt=st.sampled_from(["", "Really?"]))
def test_what_a_planner_makes_of_an_open_question_is_answered_by_nobody_who_could_not_before(
    before: dict[str, Any], after: dict[str, Any], prompt: str
) -> None:
    asked = Play(plan(question("q", **before), task("b", "q")))
    play = Play(plan(question("q", **before), task("b", "q")))

    play.revises(plan(question("q", prompt=prompt, **after), task("b", "q"), task("c")), by_planner=True)

    def may_answer(play: Play, groups: tuple[str, ...], level: Any) -> bool:
        opened = play.state.steps["q"].opened
        assert isinstance(opened, events.AskOpened)
        given = kept("1") if opened.secret else {"value": "1"}
        review = asks.ReviewGate(
            id="r", step="q", digest=opened.digest, decision="answer", groups=groups, level=level, **given
        )
        return isinstance(decide(play.state, asks.Asked(review, "bob", play.at)).events[0], events.AskAnswered)

    every = [groups for count in range(len(GROUPS) + 1) for groups in combinations(GROUPS, count)]
    for groups in every:
        for level in LEVELS:
            assert may_answer(asked, groups, level) or not may_answer(play, groups, level)
    opened = play.state.steps["q"].opened
    assert isinstance(opened, events.AskOpened)
    assert opened.secret or not before["secret"]
    assert after.get("escalate") is None or play.state.revision == 1 or before.get("escalate") is not None


@pytest.mark.parametrize(
    ("looser", "is_open", "takes_secret", "codes"),
    [
        ({"reviewers": ("team:b",)}, True, False, ["loosens"]),
        ({"reviewers": ("team:b",)}, False, False, []),  # nobody has been asked yet, and the log shows the answer
        ({"reviewers": ("team:b",)}, False, True, ["loosens"]),
        ({"reviewers": ()}, True, False, ["loosens"]),  # which are those of a question that names nobody
        ({"level": "link"}, True, False, ["loosens"]),
        ({"level": "operator"}, True, True, []),
        ({"on_overdue": "default", "default": "so", "sla_s": 60}, True, False, ["loosens"]),
        ({"prompt": "Which one?"}, True, True, []),
        ({"secret": False}, False, True, ["loosens"]),
    ],
)
@pytest.mark.parametrize("in_each", [False, True])
def test_who_may_answer_a_question_is_a_matter_of_people(
    looser: dict[str, Any], is_open: bool, takes_secret: bool, codes: list[str], in_each: bool
) -> None:
    if in_each and is_open:
        is_open, codes = False, codes if takes_secret else []
    rules = {"reviewers": ("team:a",), "level": "login", "secret": takes_secret}
    before = [] if is_open else ["first"]

    def document(**fields: Any) -> Plan:
        asked = question("q", *(() if in_each else before), **{**rules, **fields})
        step = Each(name="all", after=("first",), items="[1]", steps=(asked,)) if in_each else asked
        return plan(task("first"), step, task("last", step.name))

    def revised(*, by_planner: bool) -> Play:
        play = Play(document())
        play.revises(document(**looser), by_planner=by_planner)
        return play

    found = revised(by_planner=True)
    refused = found.of_type(events.RevisionRefused)
    assert [problem.code for event in refused for problem in event.problems] == codes
    assert revised(by_planner=False).state.revision == 2


def test_a_person_may_do_what_the_planner_may_not() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")

    play.revises(with_steps(play.document, task("a"), task("b", "a")))

    assert play.status("b") == "dispatched"


# --- retries with other means --------------------------------------------------------------------------------


def test_a_retry_with_another_agent_is_a_revision_of_that_step() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.fails("a")

    (requested,) = play.ask(asks.RetryStep(id="r", step="a", attempt=1, agent="other", reason="the first is down"))
    assert isinstance(requested, events.RevisionRequested)
    other = Task(name="a", agent="other", permissions=Permissions(network=("api.example",)))
    play.ask(
        asks.ProposeRevision(id="p", request="r", plan=with_steps(play.document, other, task("b", "a"))), "planner"
    )

    assert (play.status("a"), play.state.steps["a"].attempt, play.state.steps["a"].agent) == ("dispatched", 2, "other")
    assert play.completes("a", by=AGENT) == []
    play.completes("a", by="other")
    assert play.status("b") == "dispatched"


def test_a_retry_with_another_agent_behind_an_approved_gate_asks_again() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    play.votes("g")
    play.fails("a")

    play.ask(asks.RetryStep(id="r", step="a", attempt=1, agent="other"))
    other = Task(name="a", agent="other", after=("g",))
    play.ask(asks.ProposeRevision(id="p", request="r", plan=with_steps(play.document, gate("g"), other)), "planner")

    assert (play.status("g"), play.status("a")) == ("waiting", "pending")
    play.votes("g")
    assert play.status("a") == "dispatched"


# --- redirections --------------------------------------------------------------------------------------------


def test_a_redirection_with_edited_steps_asks_again_and_shows_what_changed() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")
    opened = play.state.steps["g"].opened
    assert opened is not None

    play.ask(asks.RedirectPlan(id="r", step="g", digest=opened.digest, document={}, reason="send it to legal first"))
    revised = with_steps(play.document, task("a"), gate("g", "a"), task("legal", "g"), task("b", "legal"))
    play.ask(asks.ProposeRevision(id="p", request="r", plan=revised), "planner")

    again = play.state.steps["g"].opened
    assert again is not None
    assert again.because == "ada has revised what it would release: send it to legal first"
    assert [change.step for change in again.changes] == ["legal", "b"]
    play.votes("g")
    assert play.status("legal") == "dispatched"


def test_a_redirection_that_cannot_be_worked_out_reopens_the_gate_and_says_why() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    opened = play.state.steps["g"].opened
    assert opened is not None
    play.ask(asks.RedirectPlan(id="r", step="g", digest=opened.digest, instruction="make it cheaper"))

    problem = Problem(code="no_model", message="there is no model configured")
    play.ask(asks.ProposeRevision(id="p", request="r", problems=(problem,)), "planner")

    again = play.state.steps["g"].opened
    assert again is not None
    assert (again.round, "no model configured" in again.because) == (2, True)
    assert play.status("a") == "pending"


def test_a_redirection_that_changes_nothing_reopens_the_gate_and_makes_no_revision() -> None:
    play = Play(plan(gate("g"), task("a", "g")))
    opened = play.state.steps["g"].opened
    assert opened is not None
    play.ask(asks.RedirectPlan(id="r", step="g", digest=opened.digest, instruction="leave it as it is"))

    play.ask(asks.ProposeRevision(id="p", request="r", plan=play.document, by_planner=True), "planner")

    again = play.state.steps["g"].opened
    assert again is not None
    assert (again.round, again.because) == (
        2,
        "the redirection by ada cannot be: nothing to change: the plan is like that already",
    )
    assert play.state.revision == 1


def test_a_revision_that_changes_nothing_is_none() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.ask(asks.RevisePlan(id="r", base=1, instruction="leave it as it is"))

    (refused,) = play.ask(asks.ProposeRevision(id="p", request="r", plan=play.document, by_planner=True), "planner")

    assert [problem.code for problem in refused.problems] == ["nothing_to_change"]
    assert (play.state.revision, dict(play.state.requests)) == (1, {})


def test_a_retry_with_the_same_means_is_a_retry_all_the_same() -> None:
    play = Play(plan(task("a", inputs={"x": 1})))
    play.fails("a")
    play.ask(asks.RetryStep(id="r", step="a", attempt=1, inputs={"x": 1}))

    play.ask(asks.ProposeRevision(id="p", request="r", plan=play.document), "planner")

    assert (play.status("a"), play.state.steps["a"].attempt) == ("dispatched", 2)


def test_only_a_reviewer_may_redirect() -> None:
    play = Play(plan(gate("g", reviewers=("person:grace",)), task("a", "g")))

    (refused,) = play.ask(asks.RedirectPlan(id="r", step="g", digest="d", instruction="x"), by="ada")

    assert refused.code == "not_a_reviewer"


# --- what comes back, and what becomes something else --------------------------------------------------------


def test_a_step_that_comes_back_counts_its_attempts_on() -> None:
    """A late result of the step that was there before must not be taken for one of the new step."""
    play = Play(plan(task("a"), task("b")))
    play.revises(with_steps(play.document, task("b")), cancel_running=True)
    assert dict(play.state.superseded).keys() == {"a"}

    play.revises(with_steps(play.document, task("a", inputs={"x": 1}), task("b")))

    assert (play.status("a"), play.state.steps["a"].attempt) == ("dispatched", 2)
    assert not play.state.superseded
    assert play.completes("a", attempt=1) == []
    play.completes("a", attempt=2)
    assert play.status("a") == "completed"


def test_a_step_of_another_kind_begins_anew() -> None:
    play = Play(plan(task("a"), gate("g", "a"), task("b", "g")))
    play.completes("a")
    assert play.status("g") == "waiting"

    play.revises(with_steps(play.document, task("a"), task("g", "a"), task("b", "g")))

    assert (play.status("g"), play.state.steps["g"].opened) == ("dispatched", None)
    play.completes("g", attempt=2)
    assert play.status("b") == "dispatched"


def test_an_open_gate_that_has_to_wait_for_more_asks_when_that_is_there() -> None:
    play = Play(plan(gate("g"), task("b", "g")))
    digest = play.state.steps["g"].opened

    play.revises(with_steps(play.document, task("a"), gate("g", "a"), task("b", "g")))
    (refused,) = play.votes("g", digest=digest.digest if digest else "")
    assert (refused.code, play.status("g")) == ("not_open", "pending")
    play.completes("a")

    assert (play.status("g"), play.state.steps["g"].attempt) == ("waiting", 2)


def test_a_failed_step_that_is_to_do_something_else_begins_anew() -> None:
    play = Play(plan(task("a"), task("b", "a")))
    play.fails("a")

    play.revises(with_steps(play.document, task("a", optional=True, label="The first"), task("b", "a")))
    assert play.status("a") == "failed"  # what it does is the same: a person may now skip it

    play.revises(with_steps(play.document, task("a", inputs={"x": 1}), task("b", "a")))
    assert (play.status("a"), play.state.steps["a"].attempt) == ("dispatched", 2)


def test_a_rejected_gate_asks_again_when_what_it_would_release_is_revised() -> None:
    play = Play(plan(gate("g"), task("b", "g")))
    play.votes("g", "reject")
    assert play.state.status == "paused"

    play.revises(with_steps(play.document, gate("g"), task("b", "g", inputs={"softer": True})))

    opened = play.state.steps["g"].opened
    assert opened is not None
    assert (opened.round, opened.because) == (2, "ada has revised what it would release")
    assert [change.step for change in opened.changes] == ["b"]


def test_an_approved_gate_that_asks_again_says_what_was_changed_and_why() -> None:
    play = Play(plan(gate("g"), task("a", "g"), task("b", "a")))
    play.votes("g")

    play.revises(with_steps(play.document, gate("g"), task("a", "g"), task("b", "a", inputs={"x": 1})))

    opened = play.state.steps["g"].opened
    assert opened is not None
    assert opened.because == "ada has revised what it would release"
    assert [change.step for change in opened.changes] == ["b"]


def test_a_gate_that_cannot_be_asked_as_it_was_revised_fails() -> None:
    play = Play(plan(gate("g"), task("b", "g")))

    play.revises(with_steps(play.document, gate("g", prompt="Send {nothing.at.all}?"), task("b", "g")))

    failure = play.state.steps["g"].failure
    assert failure is not None
    assert (play.status("g"), failure.code, play.state.status) == ("failed", "expression", "paused")


def test_nothing_can_need_a_step_that_was_cancelled() -> None:
    play = Play(plan(task("a"), task("b")))
    play.ask(asks.CancelPlan(id="c", step="a"))

    (refused,) = play.revises(with_steps(play.document, task("a"), task("b"), task("c", "a")))

    assert [(problem.code, problem.pointer) for problem in refused.problems] == [("never", "/steps/2/after")]


def test_an_unknown_outcome_has_to_be_resolved_before_the_step_is_done_by_other_means() -> None:
    play = Play(plan(task("a")))
    play.loses("a")

    (refused,) = play.ask(asks.RetryStep(id="r", step="a", attempt=1, agent="other"))
    (left_out,) = play.revises(with_steps(play.document, task("b")))

    assert (refused.code, "resolve" in refused.possible) == ("outcome_unknown", True)
    assert left_out.problems[0].hint == "say first whether it was done (resolve)"


def test_a_document_that_is_too_large_for_the_planner_is_refused() -> None:
    play = Play(plan(task("a", inputs={"x": "x" * 4_000_000}), task("b", "a")))

    (refused,) = play.ask(asks.RevisePlan(id="r", base=1, document={"x": "x" * 4_000_000}))

    assert (refused.code, "7,340,032 are allowed" in refused.reason) == ("too_large", True)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((gate("g", show=()), task("b", "g")), "removes or weakens gate g"),
        ((task("new"), gate("g", "new", show=("{x}",)), task("b", "g")), "removes or weakens gate g"),
    ],
)
def test_the_planner_may_not_hide_what_a_gate_shows_or_lead_past_it(steps: tuple[Any, ...], says: str) -> None:
    play = Play(plan(gate("g", show=("{n}",)), task("b", "g")), inputs={"n": 1})

    (refused,) = play.revises(with_steps(play.document, *steps), by_planner=True)

    assert says in " ".join(problem.message for problem in refused.problems)


def test_the_planner_may_not_choose_whether_a_gate_is_asked() -> None:
    case = Decide(name="d", cases=(Case(when="n > 5", then="ask"),), otherwise="no", after=("a",))
    asked = gate("g", "d", branch=Branch(step="d", label="ask"))
    play = Play(plan(task("a"), case, asked, task("b", "g")), inputs={"n": 9})

    other = msgspec.structs.replace(case, cases=(Case(when="n > 50", then="ask"),))
    (refused,) = play.revises(with_steps(play.document, task("a"), other, asked, task("b", "g")), by_planner=True)

    messages = [problem.message for problem in refused.problems]
    assert "step d decides whether gate g is asked, which nobody has decided" in messages


def test_a_request_by_an_id_that_is_somebody_elses_is_refused() -> None:
    # The planner's answer names nothing but the id: it would be taken for the answer to the other request.
    play = Play(plan(task("a"), gate("g"), task("b", "g")))
    revise = asks.RevisePlan(id="mine", base=1, document={})
    play.ask(revise, by="ada")
    play.fails("a", retryable=False)
    opened = play.state.steps["g"].opened
    assert opened is not None

    asked = (
        revise,
        asks.RedirectPlan(id="mine", step="g", digest=opened.digest, document={}),
        asks.RetryStep(id="mine", step="a", attempt=1, inputs={"x": 1}),
    )
    refusals = [play.ask(one, by="mallory")[0] for one in asked[:1]]
    refusals += [play.ask(one, by=by)[0] for one, by in zip(asked[1:], ("bob", "eve"), strict=True)]

    assert [refused.code for refused in refusals] == ["id_taken"] * 3
    assert [request.by for request in play.state.requests.values()] == ["ada"]


def test_a_request_that_is_larger_than_a_planner_can_be_sent_is_refused() -> None:
    play = Play(plan(task("a"), gate("g"), task("b", "g")))
    play.fails("a", retryable=False)
    opened = play.state.steps["g"].opened
    assert opened is not None
    large = {"text": "長" * (REQUEST_BYTES // 3)}

    refusals = [
        play.ask(asks.RevisePlan(id="1", base=1, document=large)),
        play.ask(asks.RedirectPlan(id="2", step="g", digest=opened.digest, document=large)),
        play.ask(asks.RetryStep(id="3", step="a", attempt=1, inputs=large)),
    ]

    assert [refused.code for (refused,) in refusals] == ["too_large"] * 3
    assert not play.state.requests


# --- the plan's policy --------------------------------------------------------------------------------------

LAX, USUAL, STRICT = Policy(destructive="allow"), Policy(), Policy(revisions="hold", destructive="gate")


@pytest.mark.parametrize(("by_planner", "held"), [(True, True), (False, False)])
def test_what_the_planner_proposes_is_held_where_the_policy_says_so(by_planner: bool, held: bool) -> None:
    play = Play(plan(task("a"), task("b", "a"), policy=STRICT))

    happened = play.revises(plan(task("a"), task("c", "a"), policy=STRICT), by_planner=by_planner)

    assert isinstance(happened[0], events.RevisionRefused if held else events.PlanRevised)
    if isinstance(happened[0], events.RevisionRefused):
        assert [problem.code for problem in happened[0].problems] == ["held"]
        assert happened[0].plan is not None  # a person may allow it
        assert "--proposed" in happened[0].problems[0].hint


def test_a_gate_that_it_was_asked_at_asks_again() -> None:
    play = Play(plan(gate("look"), task("b", "look"), policy=STRICT))

    happened = play.redirects("look", plan(gate("look"), task("c", "look"), policy=STRICT), by_planner=True)

    assert [type(event) for event in happened] == [events.RevisionRefused, events.GateOpened]
    assert "leaves it to a person" in happened[1].because


@settings(deadline=None)
@given(
    st.sampled_from([LAX, USUAL, STRICT, Policy(revisions="hold"), Policy(destructive="gate")]),
    st.sampled_from([LAX, USUAL, STRICT, Policy(revisions="hold"), Policy(destructive="gate")]),
)
def test_no_planner_lets_a_policy_ask_less_of_people_and_a_person_may(before: Policy, after: Policy) -> None:
    def revised(*, by_planner: bool) -> Play:
        play = Play(plan(task("a"), task("b", "a"), policy=before))
        play.revises(plan(task("a"), task("c", "a"), policy=after), by_planner=by_planner)
        return play

    assert revised(by_planner=False).state.plan.policy == after
    found = revised(by_planner=True)
    assert not found.state.plan.policy.is_looser_than(before)
    refused = found.of_type(events.RevisionRefused)
    codes = {problem.code for event in refused for problem in event.problems}
    assert codes == {
        *(["loosens"] if after.is_looser_than(before) else []),
        *(["held"] if before.revisions == "hold" else []),
    }


def test_a_planner_that_changes_nothing_leaves_a_person_nothing_to_allow() -> None:
    document = plan(task("a"), policy=STRICT)
    play = Play(document)

    (refused,) = play.revises(document, by_planner=True)

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["nothing_to_change"]
    assert refused.plan is None
