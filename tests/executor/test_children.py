"""Steps that others work on: plans that the planner writes, plans that run for a step; and what passes between them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, HERE, START, Play, gate, plan, task

from planmesh.executor.children import MAX_DEPTH, errands, planning, told
from planmesh.executor.news import news
from planmesh.executor.plan import decide
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.commands import Asked
from planmesh.schemas.events import Commit
from planmesh.schemas.goals import Problem
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Draft, Permissions, Run
from planmesh.schemas.state import ENDED, Names, PlanState, PlanStatus, StepStatus, evolve
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import ChildStep, Parent, RunWork

STUCK = {"troubled": (ChildStep(step="tests", attempt=2),), "reason": "tests failed"}


def run(name: str = "execute", *after: str, **fields: Any) -> Run:
    return Run(name=name, after=after, document='{name: "x"}', **fields)


def child_of(play: Play, step: str = "execute") -> str:
    return play.state.steps[step].child


def wanted(play: Play, happened: list[Any]) -> list[tuple[str, str]]:
    """The commands for other plans that follow from events."""
    return [
        (to.plan, type(command).__name__)
        for index, event in enumerate(happened)
        for to, command in errands(play.state, event, f"c1-{index}")
    ]


# --- plan ---------------------------------------------------------------------------------------------------


def test_what_the_planner_writes_is_the_output_of_the_step() -> None:
    play = Play(plan(Draft(name="mission", inputs={"task": "tidy up"}), task("use", "mission")))
    assert play.state.status is PlanStatus.RUNNING

    play.is_drafted("mission", {"name": "written"})

    assert play.state.steps["mission"].output == Payload(value={"name": "written"})
    assert play.status("use") == "dispatched"


def test_without_a_draft_the_step_has_failed_and_says_why() -> None:
    play = Play(plan(Draft(name="mission")))
    play.is_drafted("mission", None)

    failure = play.state.steps["mission"].failure
    assert failure is not None
    assert failure.code == "no_model"
    assert play.state.status is PlanStatus.PAUSED


def test_a_draft_takes_no_room() -> None:
    play = Play(plan(Draft(name="mission"), run(), task("a"), concurrency=1))

    assert play.status("a") == "dispatched"


def test_no_agent_can_answer_for_the_planner_or_for_a_plan() -> None:
    play = Play(plan(Draft(name="mission"), run()))

    assert play.completes("mission", by="planner") == []
    assert play.completes("execute", by=AGENT) == []
    assert play.completes("execute", by="") == []


# --- run ----------------------------------------------------------------------------------------------------


def test_a_plan_that_completes_gives_the_step_its_outcome_and_result() -> None:
    play = Play(plan(run(), task("use", "execute")))
    play.hears("execute", "running", 1)
    play.hears("execute", "completed", 9, outcome="Done", result=Payload(value={"n": 1}))

    assert play.state.steps["execute"].output == Payload(
        value={"plan": child_of(play), "status": "completed", "outcome": "Done", "result": {"n": 1}}
    )
    assert play.status("use") == "dispatched"


@pytest.mark.parametrize("status", ["failed", "cancelled", "refused"])
def test_a_plan_that_ends_otherwise_fails_the_step(status: str) -> None:
    play = Play(plan(run(), task("use", "execute")))
    play.hears("execute", status, 3, reason="no room")

    failure = play.state.steps["execute"].failure
    assert failure is not None
    assert failure.code == f"child_{status}"
    assert failure.message.endswith(": no room")
    play.retries("execute")
    assert play.state.steps["execute"].attempt == 2
    assert child_of(play) not in failure.message  # another attempt is another plan


def test_a_plan_that_stands_still_lets_its_parent_wait_and_says_why() -> None:
    play = Play(plan(run()))
    play.hears("execute", "waiting", 2)
    assert play.state.status is PlanStatus.WAITING
    assert play.of_type(events.PlanWaiting)[-1].plans == (child_of(play),)

    play.hears("execute", "running", 3)
    assert play.state.status is PlanStatus.RUNNING

    play.hears("execute", "paused", 4, **STUCK)
    assert play.state.status is PlanStatus.WAITING
    assert play.state.steps["execute"].reason == "tests failed"


def test_what_a_plan_says_late_changes_nothing() -> None:
    play = Play(plan(run()))
    play.hears("execute", "waiting", 5)

    assert play.hears("execute", "running", 4) == []
    assert play.state.status is PlanStatus.WAITING


def test_failed_steps_of_the_plan_are_tried_again_as_often_as_the_step_says() -> None:
    play = Play(plan(run(retries=1)))

    happened = play.hears("execute", "paused", 3, **STUCK)
    assert wanted(play, happened) == [(child_of(play), "RetryStep")]
    play.hears("execute", "running", 4)
    assert wanted(play, play.hears("execute", "paused", 5, **STUCK)) == []
    assert play.state.status is PlanStatus.WAITING


def test_what_a_person_has_paused_is_not_tried_again() -> None:
    play = Play(plan(run(retries=1)))

    assert wanted(play, play.hears("execute", "paused", 3, held=True, **STUCK)) == []


def test_pause_resume_and_cancel_reach_the_plan() -> None:
    play = Play(plan(run(), task("other")))
    play.hears("execute", "running", 1)
    child = child_of(play)

    assert wanted(play, play.ask(asks.PausePlan(id="pause"))) == [(child, "PausePlan")]
    assert wanted(play, play.ask(asks.ResumePlan(id="resume"))) == [(child, "ResumePlan")]
    assert wanted(play, play.ask(asks.PausePlan(id="pause-it", step="execute"))) == [(child, "PausePlan")]
    assert wanted(play, play.ask(asks.ResumePlan(id="resume-it", step="execute"))) == [(child, "ResumePlan")]
    assert wanted(play, play.ask(asks.CancelPlan(id="cancel"))) == [(child, "CancelPlan")]


def test_a_plan_that_begins_while_its_parent_is_being_paused_is_paused_as_well() -> None:
    play = Play(plan(run()))
    play.ask(asks.PausePlan(id="pause"))

    assert wanted(play, play.hears("execute", "running", 1)) == [(child_of(play), "PausePlan")]


def test_a_plan_that_stands_at_a_gate_when_it_begins_is_paused_as_well() -> None:
    play = Play(plan(run()))
    play.ask(asks.PausePlan(id="pause"))

    assert wanted(play, play.hears("execute", "waiting", 1)) == [(child_of(play), "PausePlan")]


def test_a_pause_that_comes_after_the_resumption_is_taken_back() -> None:
    play = Play(plan(run()))
    play.ask(asks.PausePlan(id="pause"))
    play.ask(asks.ResumePlan(id="resume"))

    happened = play.hears("execute", "paused", 4, held=True, paused_by="executor")

    assert wanted(play, happened) == [(child_of(play), "ResumePlan")]


def test_what_a_person_has_paused_stays_paused() -> None:
    play = Play(plan(run()))

    assert wanted(play, play.hears("execute", "paused", 4, held=True, paused_by="ada")) == []


def test_a_draft_that_was_to_be_recorded_and_no_more_is_not_recalled_when_somebody_starts_it() -> None:
    play = Play(plan(run(mode="draft")))
    play.hears("execute", "draft", 1)

    assert play.hears("execute", "running", 2) == []


def test_a_draft_that_was_started_before_its_parent_heard_of_it_is_recorded_all_the_same() -> None:
    play = Play(plan(run(mode="draft")))
    play.hears("execute", "running", 2)

    assert play.state.status is PlanStatus.COMPLETED
    assert play.hears("execute", "draft", 1) == []


def test_a_draft_whose_record_does_not_fit_the_log_is_recalled() -> None:
    play = Play(plan(run(mode="draft")))

    happened = play.hears("execute", "draft", 1, alone="the log takes no more")

    assert play.status("execute") == "failed"
    assert wanted(play, happened) == [(child_of(play), "CancelPlan")]


def test_every_plan_that_ran_for_a_cancelled_step_is_told_also_when_another_step_has_its_name() -> None:
    play = Play(plan(run(), task("other")))
    first = child_of(play)
    cancelled = play.ask(asks.CancelPlan(id="cancel", step="execute"))
    assert play.of_type(events.StepsCancelled)[0].stopped == (events.Stopped(step="execute", attempt=1, child=first),)

    # Whoever tells it does so when all of this has happened to the name since.
    step = msgspec.structs.replace(play.state.steps["execute"], attempt=2, child="another")
    for status in StepStatus:
        now = msgspec.structs.replace(step, status=status)
        later = msgspec.structs.replace(play.state, steps=play.state.steps.set("execute", now))
        told = [errand for event in cancelled for errand in errands(later, event, "e2-0")]
        assert [to.plan for to, command in told if isinstance(command, asks.CancelPlan)] == [first]


def test_what_a_plan_was_to_do_is_not_asked_of_those_that_run_for_it_once_it_does_something_else() -> None:
    play = Play(plan(run()))
    paused = play.ask(asks.PausePlan(id="pause"))
    resumed = play.ask(asks.ResumePlan(id="resume"))

    assert wanted(play, paused) == []  # by an executor that stood still meanwhile
    assert wanted(play, resumed) == [(child_of(play), "ResumePlan")]


def test_a_plan_whose_step_is_paused_stays_paused_when_its_parent_goes_on() -> None:
    play = Play(plan(run()))
    play.ask(asks.PausePlan(id="pause"))
    play.ask(asks.PausePlan(id="pause-step", step="execute"))

    assert wanted(play, play.ask(asks.ResumePlan(id="resume"))) == []
    assert wanted(play, play.ask(asks.ResumePlan(id="resume-step", step="execute"))) == [(child_of(play), "ResumePlan")]


def test_a_plan_that_nobody_waits_for_any_more_is_recalled() -> None:
    play = Play(plan(run(), task("other")))
    child = child_of(play)
    play.ask(asks.CancelPlan(id="cancel", step="execute"))

    happened = play.hears("execute", "running", 1)

    assert wanted(play, happened) == [(child, "CancelPlan")]
    assert play.hears("execute", "cancelled", 2) == []


def test_in_mode_draft_the_step_is_done_once_the_plan_is_recorded() -> None:
    play = Play(plan(run(mode="draft")))
    play.hears("execute", "draft", 1)

    assert play.state.status is PlanStatus.COMPLETED
    assert play.state.steps["execute"].output == Payload(value={"plan": child_of(play), "status": "draft"})


def test_a_gate_shows_what_a_plan_may_do_and_holds_it_back() -> None:
    step = Run(name="execute", document="given", after=("look",), inputs={"topic": "x"}, retries=2)
    play = Play(plan(gate("look"), step), inputs={"given": {"name": "x"}})

    opened = play.state.steps["look"].opened
    assert opened is not None
    inputs = {"the plan": {"name": "x"}, "permitted at most": "whatever its agents declare", "topic": "x"}
    assert [(one.step, one.kind, one.inputs) for one in opened.releases] == [("execute", "run", inputs)]
    assert play.of_type(events.StepDispatched) == []


def test_a_gate_shows_the_plan_that_was_written_and_what_it_may_do_at_most() -> None:
    most = Permissions(read=("/data",))
    step = Run(name="execute", document="mission", after=("look",), permissions=most, inputs={"the plan": "harmless"})
    play = Play(plan(Draft(name="mission"), gate("look", "mission"), step))
    play.is_drafted("mission", {"name": "written"})

    opened = play.state.steps["look"].opened
    assert opened is not None
    assert opened.releases[0].inputs == {"the plan": {"name": "written"}, "permitted at most": {"read": ["/data"]}}


# --- the plan that runs ---------------------------------------------------------------------------------------


def begun(depth: int = 1) -> tuple[PlanState, Commit]:
    """A plan that runs for step `execute` of plan `above`, after its first commit."""
    create = asks.CreatePlan(
        id="create",
        plan=plan(task("a"), run()),
        goal_digest="digest",
        parent=Parent(plan="above", step="execute", attempt=1, depth=depth),
    )
    play = Play(plan(task("a")))
    decision = decide(PlanState(address=HERE), Asked(create, "planner", play.at))
    commit = Commit(
        space=HERE.space, plan=HERE.plan, number=1, at=play.at, causes=(), events=tuple(decision.events), previous=""
    )
    return decision.state, commit


def test_it_tells_its_parent_once_a_commit_where_it_is() -> None:
    state, commit = begun()

    heard = [told(state, commit, index) for index in range(len(commit.events))]

    said = [one for one in heard if one is not None]
    assert len(said) == 1
    parent, report = said[0]
    assert parent.plan == "above"
    assert (report.step, report.attempt, report.child, report.status) == ("execute", 1, HERE.plan, "running")


def test_a_plan_whose_id_is_taken_fails_the_step_that_it_was_to_run_for() -> None:
    above = Parent(plan="above", step="execute", attempt=1, depth=1)
    play = Play(plan(task("a")))
    create = asks.CreatePlan(id="other", plan=plan(task("b")), goal_digest="another", parent=above)
    play.ask(create, by="planner")
    commit, _ = play.log[-1]

    heard = told(play.state, commit, 0)

    assert heard is not None
    parent, report = heard
    assert parent == above
    assert (report.status, report.child, report.number) == ("refused", HERE.plan, commit.number)
    assert "already a plan" in report.reason
    assert news(commit, commit.events[0], Payload()) is None  # to whoever published the goal, nothing has happened


def test_what_may_have_been_done_and_what_was_rejected_is_not_tried_again_by_itself() -> None:
    above = Parent(plan="above", step="execute", attempt=1, depth=1)
    play = Play(plan(task("a"), task("b"), gate("c")), parent=above)
    play.fails("a", retryable=False)
    play.votes("c", "reject")
    play.loses("b")
    commit, _ = play.log[-1]
    assert set(play.state.troubled) == {"a", "b", "c"}

    heard = [one for index in range(len(commit.events)) if (one := told(play.state, commit, index)) is not None]

    assert [(report.status, report.troubled) for _, report in heard] == [("paused", (ChildStep(step="a", attempt=1),))]


def test_what_a_person_has_paused_does_not_go_on_with_the_plan_that_it_runs_for() -> None:
    play = Play(plan(task("a")), parent=Parent(plan="above", step="execute", attempt=1, depth=1))
    play.ask(asks.PausePlan(id="by-a-person"), by="ada")

    (refused,) = play.ask(asks.ResumePlan(id="e1-0"), by="executor")
    assert isinstance(refused, events.CommandRefused)
    assert play.state.held

    play.ask(asks.ResumePlan(id="by-herself"), by="ada")
    play.ask(asks.PausePlan(id="e2-0"), by="executor")
    play.ask(asks.ResumePlan(id="e3-0"), by="executor")
    assert not play.state.held


def started_draft() -> Play:
    """A draft that a step was to make, and that ada has started."""
    play = Play(plan(task("a")), parent=Parent(plan="above", step="execute", attempt=1, depth=1), start=False)
    play.ask(asks.StartPlan(id="start"), by="ada")
    return play


@pytest.mark.parametrize(
    "late",
    [asks.PausePlan(id="e5-0"), asks.ResumePlan(id="e6-0"), asks.RetryStep(id="e7-0", step="a", attempt=1)],
    ids=lambda command: type(command).__name__,
)
def test_what_comes_late_for_a_draft_that_somebody_has_started_changes_nothing(late: Any) -> None:
    play = started_draft()

    assert play.ask(late, by="executor") == []
    assert play.state.status is PlanStatus.RUNNING


def test_a_draft_that_somebody_has_started_is_cancelled_with_the_step_that_was_to_make_it() -> None:
    play = started_draft()
    play.ask(asks.CancelPlan(id="e5-0"), by="executor")

    assert play.state.status is PlanStatus.CANCELLED


def test_a_plan_without_a_parent_tells_nobody() -> None:
    play = Play(plan(task("a")))
    commit, _ = play.log[0]

    assert [told(play.state, commit, index) for index in range(len(commit.events))] == [None] * len(commit.events)


def test_plans_run_inside_of_one_another_only_so_deep() -> None:
    state, _ = begun(depth=MAX_DEPTH)

    failure = state.steps["execute"].failure
    assert failure is not None
    assert failure.code == "too_deep"


def test_every_attempt_of_every_step_has_a_plan_of_its_own_with_a_name_that_fits() -> None:
    play = Play(plan(run("a" * 63), run("b"), run("b" * 40 + "2")))
    children = [event.child for event in play.of_type(events.StepDispatched)]

    assert len(set(children)) == 3
    assert all(Address("space", child) and len(child) <= 64 for child in children)


@pytest.mark.parametrize(
    "changed",
    [run(mode="normal"), run(mode="safe", permissions=Permissions(read=("/",))), run(mode="safe")],
)
def test_a_planner_lets_no_plan_do_more_by_itself(changed: Run) -> None:
    first = task("first")
    play = Play(plan(first, run("execute", "first", mode="safe", permissions=Permissions())))
    later = msgspec.structs.replace(changed, after=("first",))

    refused = play.revises(plan(first, later), by_planner=True)[-1]

    assert isinstance(refused, events.RevisionRefused)
    assert [problem.code for problem in refused.problems] == ["loosens"]


def test_a_plan_that_was_refused_stays_refused_though_it_could_be_created_by_now() -> None:
    parent = Parent(plan="above", step="execute", attempt=1, depth=1)
    refuse = asks.RefuseGoal(
        id="refuse", problems=(Problem(code="unknown_agent", message="no"),), goal_digest="digest", parent=parent
    )
    create = asks.CreatePlan(id="create", plan=plan(task("a")), goal_digest="digest", parent=parent)
    refused = decide(PlanState(address=HERE), Asked(refuse, "planner", START)).state

    assert decide(refused, Asked(create, "planner", START)).events == []


@pytest.mark.parametrize("command", [asks.CancelPlan, asks.PausePlan])
def test_what_a_parent_wants_reaches_nobodys_own_plan_that_has_the_id_of_the_child(command: type[Any]) -> None:
    play = Play(plan(task("a")))

    assert play.ask(command(id="c1-0"), by="executor") == []
    assert play.status("a") == "dispatched"


# --- what the step hands down -------------------------------------------------------------------------------

ABOVE = Parent(plan="above", step="execute", attempt=1, depth=1)
READS = Permissions(read=("/data",))


def under(*steps: Any, **mandate: Any) -> Play:
    return Play(plan(*steps), parent=ABOVE, mandate=Mandate(**mandate))


def handed(state: PlanState, step: str = "execute") -> Mandate:
    """The mandate with which the planner is asked to create the plan of *step*."""
    run, dispatched = state.graph.steps[step], state.steps[step]
    assert isinstance(run, Run)
    about: dict[str, Any] = {"step": step, "attempt": dispatched.attempt, "child": dispatched.child}
    event = events.StepDispatched(**about, agent="", plans=dispatched.plans)
    work = planning(state, run, event, Names(state, step=step))
    assert isinstance(work, RunWork)
    return work.mandate


@pytest.mark.parametrize("by_planner", [True, False])
def test_no_revision_permits_more_than_the_step_that_the_plan_runs_for(by_planner: bool) -> None:
    play = under(task("a", permissions=READS), permissions=READS)

    more = task("b", "a", permissions=Permissions(read=("/data",), write=("/etc",)))
    refused = play.revises(plan(task("a", permissions=READS), more), by_planner=by_planner)[-1]

    assert isinstance(refused, events.RevisionRefused)
    (problem,) = refused.problems
    assert problem.code == "exceeds_permissions"
    assert "step b is permitted write /etc; step execute of plan above" in problem.message
    assert problem.message.endswith("permits no write")
    assert refused.plan is None  # nobody may allow it
    less = msgspec.structs.replace(more, permissions=READS)
    assert isinstance(play.revises(plan(task("a", permissions=READS), less))[0], events.PlanRevised)


def test_nor_does_a_retry_with_another_agent_or_a_redirection() -> None:
    play = under(task("a", permissions=READS), gate("look"), permissions=READS)
    wide = task("a", permissions=Permissions(network=("example.com",)))
    play.fails("a", retryable=False)

    play.ask(asks.RetryStep(id="again", step="a", attempt=1, agent="other"))
    answer = asks.ProposeRevision(id="p", request="again", plan=plan(wide, gate("look")))
    (refused,) = play.ask(answer, "planner")
    redirected = play.redirects("look", plan(wide, gate("look")))

    assert isinstance(refused, events.RevisionRefused)
    assert [type(event) for event in redirected] == [events.RevisionRefused, events.GateOpened]
    assert play.state.revision == 1


@given(st.data())
def test_whoever_revises_it_nothing_that_runs_is_permitted_more(data: st.DataObject) -> None:
    some = st.lists(st.sampled_from(["/a", "/b", "/c"]), unique=True).map(tuple)
    permitted = st.builds(Permissions, read=some, write=some)
    most = data.draw(permitted)
    play = under(task("first", permissions=Permissions()), permissions=most)
    for number in range(3):
        steps = [task(f"s{number}-{index}", permissions=data.draw(permitted)) for index in range(2)]
        steps = [*play.state.plan.steps, *steps]
        play.revises(plan(*steps), by_planner=data.draw(st.booleans()))  # the judge looks at each that is dispatched


def test_what_is_handed_down_further_is_within_what_was_handed_down() -> None:
    play = under(run(permissions=READS), permissions=Permissions(read=("/data", "/etc")), safe=True)

    mandate = handed(play.state)

    further = mandate.handed_down(READS, safe=False)
    assert (further.permissions, further.safe) == (READS, True)


def test_whoever_has_revised_what_a_plan_comes_of_is_handed_down_with_it() -> None:
    first, later = task("brief"), run("execute", "brief")
    play = Play(plan(first, task("aside"), later), mandate=Mandate(authors={"eve": "step x of plan above"}))
    changed = msgspec.structs.replace(later, inputs={"n": 1})
    play.revises(plan(first, task("aside"), task("elsewhere"), changed))
    play.completes("brief")

    assert handed(play.state).authors == {"eve": "step x of plan above", "ada": "step execute of plan plan"}


def test_so_is_whoever_has_revised_the_step_that_drafted_it() -> None:
    steps = (task("a"), Draft(name="mission", after=("a",), inputs={"task": "x"}), run("execute", "mission"))
    play = Play(plan(*steps))
    play.revises(plan(steps[0], msgspec.structs.replace(steps[1], inputs={"task": "y"}), steps[2]))
    play.completes("a")
    play.does("mission")

    assert handed(play.state).authors == {"ada": "step mission of plan plan"}


def test_they_cannot_approve_where_it_takes_four_eyes_and_others_can() -> None:
    play = under(
        gate("look", four_eyes=True), gate("glance"), task("a", "look"), authors={"eve": "step x of plan above"}
    )

    (refused,) = play.votes("look", by="eve")
    assert isinstance(refused, events.CommandRefused)
    assert refused.code == "four_eyes"
    assert "step x of plan above, which this plan comes of" in refused.reason
    play.votes("glance", by="eve")
    play.votes("look", by="ada")
    assert play.status("a") == "dispatched"
    assert play.status("glance") == "completed"


# --- how many -----------------------------------------------------------------------------------------------


def test_plans_are_written_and_run_a_few_at_once_counted_apart_from_tasks() -> None:
    play = Play(plan(run("a"), Draft(name="b"), run("c"), task("d"), task("e"), concurrency=2))
    assert [play.status(name) for name in "abcde"] == [
        "dispatched",
        "dispatched",
        "pending",
        "dispatched",
        "dispatched",
    ]

    play.hears("a", "waiting", 1)
    assert play.status("c") == "pending"
    play.completes("d")
    play.completes("e")
    play.does("b")
    assert play.status("c") == "dispatched"


def test_a_plan_whose_plans_all_wait_waits_though_more_are_to_come() -> None:
    play = Play(plan(run("a"), run("b"), concurrency=1))
    play.hears("a", "waiting", 1)

    assert play.state.status is PlanStatus.WAITING
    play.hears("a", "failed", 2)
    assert play.status("b") == "dispatched"


def test_what_waits_for_room_can_be_paused_cancelled_and_revised() -> None:
    play = Play(plan(run("a"), run("b"), run("c"), run("d"), concurrency=1))
    play.ask(asks.PausePlan(id="pause", step="b"))
    play.ask(asks.CancelPlan(id="cancel", step="c"))
    play.revises(plan(run("a"), run("b"), run("d", inputs={"n": 1}), concurrency=1))
    play.does("a")
    assert [play.status(name) for name in "bd"] == ["paused", "dispatched"]

    play.does("d")
    play.ask(asks.ResumePlan(id="resume", step="b"))
    assert play.status("b") == "dispatched"


def test_where_there_are_none_left_the_step_fails_and_names_the_limit() -> None:
    play = Play(plan(run("a"), run("b"), run("c")), mandate=Mandate(plans=2))

    failure = play.state.steps["c"].failure
    assert failure is not None
    assert failure.code == "too_many_plans"
    assert "of the 2 that it was given" in failure.message
    assert "limits.plans" in failure.message
    assert [play.state.steps[name].plans for name in "ab"] == [0, 0]


def test_what_a_plan_has_not_used_its_own_plan_has_back() -> None:
    play = Play(plan(run("a"), run("b", "a")), mandate=Mandate(plans=30))
    assert play.state.steps["a"].plans == 9  # a third: one is for `b`, and one for whatever comes to it
    assert play.state.plans_left == 20
    assert handed(play.state, "a").plans == 9

    play.hears("a", "completed", 3, plans_left=7)
    assert (play.state.plans_left, play.state.steps["b"].plans) == (14, 12)
    play.hears("b", "refused", 4)
    assert play.state.plans_left == 26


def child_ends(play: Play, step: str, status: str, child: str, attempt: int = 1, **said: Any) -> list[Any]:
    """A plan has ended of which the step may know nothing any more."""
    about: dict[str, Any] = {"step": step, "attempt": attempt, "child": child, "number": 99, "status": status, **said}
    return play.ask(asks.ReportChild(id=play.id(), **about), "executor")


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed", "refused"])
@pytest.mark.parametrize("by", ["cancelled", "superseded", "superseded and there again"])
def test_what_the_plan_of_a_cancelled_step_has_not_used_comes_back_once_it_has_ended(status: str, by: str) -> None:
    play = Play(plan(run("a"), task("b")), mandate=Mandate(plans=30))
    child, given, before = child_of(play, "a"), play.state.steps["a"].plans, play.state.plans_left
    if by == "cancelled":
        play.ask(asks.CancelPlan(id="c", step="a"))
    else:
        play.revises(plan(task("b")), cancel_running=True)
    if by == "superseded and there again":
        play.revises(plan(task("b"), run("a", "b")))
    assert play.state.plans_left == before
    used = 0 if status == "refused" else 3

    (ended,) = child_ends(play, "a", status, child, plans_left=given - used)
    again = child_ends(play, "a", status, child, plans_left=given - used)

    assert isinstance(ended, events.ChildEnded)
    assert (ended.child, ended.status, ended.plans_left) == (child, status, given - used)
    assert again == []
    assert play.state.plans_left == before + given - used
    assert wanted(play, [ended]) == []


def test_a_draft_that_somebody_has_started_gives_back_what_it_has_not_used_as_well() -> None:
    play = Play(plan(run("a", mode="draft"), gate("b", "a")), mandate=Mandate(plans=30))
    child, given, before = child_of(play, "a"), play.state.steps["a"].plans, play.state.plans_left
    play.hears("a", "draft", 1)
    assert (play.status("a"), play.state.plans_left) == ("completed", before)

    assert child_ends(play, "a", "running", child) == []
    child_ends(play, "a", "completed", child, plans_left=given)

    assert play.state.plans_left == before + given


def test_nothing_comes_back_from_what_was_given_nothing_and_to_what_has_ended() -> None:
    play = Play(plan(run("a"), run("b"), task("c")), mandate=Mandate(plans=30))
    child, other = child_of(play, "a"), child_of(play, "b")
    play.ask(asks.CancelPlan(id="a", step="a"))

    assert child_ends(play, "a", "cancelled", "somebody-elses", plans_left=5) == []
    assert child_ends(play, "a", "cancelled", child, plans_left=0) == []
    play.ask(asks.CancelPlan(id="all"))
    assert child_ends(play, "b", "cancelled", other, plans_left=5) == []


def test_a_line_of_the_log_that_nothing_was_lent_for_gives_nothing() -> None:
    play = Play(plan(run("a"), task("b")), mandate=Mandate(plans=30))
    ended = events.ChildEnded(step="a", attempt=1, child=child_of(play, "a"), status="cancelled", plans_left=9)

    assert evolve(play.state, ended, play.at).plans_left == play.state.plans_left


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_more_plans_run_than_a_goal_may_have_however_they_spread_and_none_is_lost(data: st.DataObject) -> None:
    most = data.draw(st.integers(0, 12) | st.integers(12, 60))
    root = Address("space", "root")
    plans: dict[Address, PlanState] = {}
    open_plans: list[Address] = []
    above: dict[Address, Parent] = {}
    created = asked = 0

    def ask(address: Address, what: Any, by: str) -> None:
        before = plans.get(address, PlanState(address=address))
        decision = decide(before, Asked(what, by, START))
        plans[address] = decision.state
        for event in decision.events:
            if isinstance(event, events.StepDispatched) and event.child:
                begin(address, event)

    def begin(address: Address, event: events.StepDispatched) -> None:
        nonlocal created
        state = plans[address]
        step = state.graph.steps[event.step]
        assert isinstance(step, Run)
        work = planning(state, step, event, Names(state, step=event.step))
        assert isinstance(work, RunWork)
        created += 1
        child = Address("space", event.child)
        above[child] = Parent(plan=address.plan, step=event.step, attempt=event.attempt, depth=work.depth)
        create(child, work.mandate, above[child])

    def create(address: Address, mandate: Mandate, parent: Parent | None) -> None:
        open_plans.append(address)
        steps = [run(f"r{number}") for number in range(data.draw(st.integers(1, 3)))]
        document = plan(*steps, task("end"), concurrency=data.draw(st.integers(1, 4)))
        about: dict[str, Any] = {"goal_digest": address.plan, "parent": parent, "mandate": mandate}
        ask(address, asks.CreatePlan(id="create", plan=document, **about), "planner")

    def ends(address: Address) -> bool:
        """Whether somebody hears of all that is left: not of plans that run for one that has ended."""
        nonlocal asked
        parent = above[address]
        open_plans.remove(address)
        status = data.draw(st.sampled_from(["completed", "failed", "cancelled"]))
        about: dict[str, Any] = {"step": parent.step, "attempt": parent.attempt, "child": address.plan}
        at = Address("space", parent.plan)
        is_heard = at in open_plans and plans[at].status not in ENDED
        for _ in range(data.draw(st.integers(1, 2))):  # it is told once; but if it were told again
            asked += 1
            left = plans[address].plans_left
            report = asks.ReportChild(id=f"c{asked}", number=99, status=status, plans_left=left, **about)
            if at in open_plans:  # or it has ended, and nothing begins in it any more
                ask(at, report, "executor")
        return is_heard and not any(above[other].plan == address.plan for other in open_plans if other in above)

    create(root, Mandate(plans=most), None)
    lost = False
    for number in range(data.draw(st.integers(0, 30))):
        address = data.draw(st.sampled_from(open_plans))
        state = plans[address]
        match data.draw(st.sampled_from(["try again", "cancel", "end"])):
            case "try again":
                for name in state.troubled:
                    retry = asks.RetryStep(id=f"r{number}-{name}", step=name, attempt=state.steps[name].attempt)
                    ask(address, retry, "ada")
            case "cancel":
                step = data.draw(st.sampled_from(sorted(state.graph.steps)))
                ask(address, asks.CancelPlan(id=f"r{number}", step=step), "ada")
            case "end" if address != root:
                lost |= not ends(address)
        assert created + sum(plans[one].plans_left for one in open_plans) <= most
    while len(open_plans) > 1:
        lost |= not ends(open_plans[-1])

    assert created + plans[root].plans_left <= most
    assert lost or plans[root].status in ENDED or created + plans[root].plans_left == most
