"""Which spans a play of a plan gives: one root, one for each attempt and each wait; the same ones every time."""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import AGENT, HERE, START, Play, gate, plan, plans, play_on, question, task

from planmesh.auditor.project import Batch, Followed
from planmesh.auditor.spans import Span
from planmesh.schemas import commands as asks
from planmesh.schemas import events, tracing
from planmesh.schemas.events import Commit
from planmesh.schemas.goals import Origin, Problem, Try
from planmesh.schemas.plan import Case, Decide, Plan, Retry
from planmesh.schemas.state import ENDED, PlanState, StepStatus
from planmesh.schemas.work import Call

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(log: Iterable[tuple[Commit, str]], traceparent: str | None = None) -> list[Span]:
    batch, followed = Batch(traced=True), Followed(0, PlanState(address=HERE))
    for sequence, (commit, commit_hash) in enumerate(log, 1):
        first = commit.events[0]
        if traceparent is not None and isinstance(first, events.PlanCreated):
            created = msgspec.structs.replace(first, traceparent=traceparent)
            commit = msgspec.structs.replace(commit, events=(created, *commit.events[1:]))
        followed = batch.add(followed, commit, commit_hash, sequence)
    return batch.spans


def named(spans: list[Span], name: str) -> Span:
    (found,) = (span for span in spans if span.name == name)
    return found


def test_a_plan_is_one_trace_with_a_span_for_each_attempt() -> None:
    play = Play(plan(task("build"), task("ship", "build")))
    created_at = play.at
    play.completes("build")
    play.completes("ship")

    spans = spans_of(play.log)

    build, ship, root = spans
    assert (build.name, ship.name, root.name) == ("build", "ship", "A plan")
    assert {span.trace_id for span in spans} == {tracing.trace_id(HERE, "digest")}
    assert (build.parent, ship.parent, root.parent) == (root.span_id, root.span_id, "")
    assert build.span_id == tracing.span_id(HERE, "build", 1)
    assert ship.links == (build.span_id,)
    assert build.end_ns - build.start_ns == 500_000_000
    assert root.end_ns - root.start_ns == (play.at - created_at) // timedelta(microseconds=1) * 1_000
    assert build.attributes["gen_ai.agent.name"] == AGENT
    assert build.attributes["planmesh.worker"] == "here/1"
    assert root.attributes["planmesh.plan.status"] == "completed"
    assert [span.error for span in spans] == ["", "", ""]


def test_the_trace_joins_that_of_the_caller() -> None:
    play = Play(plan(task("build")))
    play.completes("build")

    build, root = spans_of(play.log, CALLER)

    assert {build.trace_id, root.trace_id} == {"0af7651916cd43dd8448eb211c80319c"}
    assert (root.parent, root.remote) == ("b7ad6b7169203331", True)
    assert (build.parent, build.remote) == (root.span_id, False)


def test_each_attempt_that_fails_is_an_error_with_its_exception() -> None:
    play = Play(plan(task("build", retry=Retry(attempts=2, backoff_s=1.0))))
    play.fails("build")
    play.is_due("build")
    play.completes("build")

    first, second, _ = spans_of(play.log)

    assert first.error == "agent_error: it broke"
    assert first.failure is not None
    assert first.failure.message == "it broke"
    assert (first.attributes["planmesh.attempt"], second.attributes["planmesh.attempt"]) == (1, 2)
    assert first.span_id != second.span_id
    assert second.error == ""


def test_a_wait_for_an_answer_is_a_span() -> None:
    play = Play(plan(question("how-many", type="number")))
    play.answers("how-many", "many")

    play.answers("how-many", 3)

    asked = named(spans_of(play.log), "how-many")
    assert (asked.attributes["planmesh.gate.decision"], asked.attributes["planmesh.gate.by"]) == ("answered", ("ada",))
    assert asked.attributes["planmesh.ask.invalid_answers"] == 1


def test_a_wait_at_a_gate_is_a_span_and_never_an_error() -> None:
    play = Play(plan(gate("release"), task("ship", "release")))
    play.votes("release", "reject")
    play.retries("release")
    play.votes("release", "approve")
    play.completes("ship")

    spans = spans_of(play.log)

    rejected, approved = (span for span in spans if span.name == "release")
    assert (rejected.attributes["planmesh.gate.decision"], rejected.error) == ("rejected", "")
    assert (approved.attributes["planmesh.gate.decision"], approved.attributes["planmesh.gate.by"]) == (
        "approved",
        ("ada",),
    )
    assert approved.end_ns - approved.start_ns == 1_000_000_000
    assert named(spans, "ship").links == (approved.span_id,)


def test_an_attempt_whose_outcome_is_unknown_has_ended_whatever_is_said_later() -> None:
    play = Play(plan(task("pay")))
    play.loses("pay")
    play.ask(asks.ResolveStep(id="yes", step="pay", attempt=1, done=True))

    pay, root = spans_of(play.log)

    assert pay.error == "outcome unknown: the worker is gone"
    assert root.error == ""


def test_a_branch_that_was_chosen_is_a_moment() -> None:
    choice = Decide(name="choice", after=("build",), cases=(Case(when="n == 1", then="one"),))
    play = Play(plan(task("build"), choice, task("next", "choice")), inputs={"n": 1})
    play.completes("build")
    play.completes("next")

    spans = spans_of(play.log)

    chosen = named(spans, "choice")
    assert chosen.start_ns == chosen.end_ns
    assert chosen.attributes["planmesh.step.branch"] == "one"
    assert named(spans, "next").links == (chosen.span_id,)


def test_a_plan_that_is_cancelled_ends_the_spans_of_what_was_going_on() -> None:
    play = Play(plan(task("build"), gate("release"), task("ship", "build", "release")))
    play.ask(asks.CancelPlan(id="stop", reason="no money"))

    spans = spans_of(play.log)

    assert named(spans, "build").attributes["planmesh.step.status"] == "cancelled"
    assert named(spans, "release").attributes["planmesh.gate.decision"] == "closed"
    assert [span.name for span in spans if span.name == "ship"] == []
    assert named(spans, "A plan").attributes["planmesh.reason"] == "no money"
    assert [span.error for span in spans] == ["", "", ""]


def called(kind: Any, name: str, began: datetime, duration_s: float = 0.1, **more: Any) -> Call:
    return Call(kind=kind, name=name, started_at=began, duration_s=duration_s, **more)


def test_the_calls_of_an_attempt_are_spans_below_it() -> None:
    play = Play(plan(task("write")))
    began = play.at
    play.completes(
        "write",
        calls=(
            called("model", "gpt-4o", began, input_tokens=400, output_tokens=40),
            called("tool", "search", began + timedelta(seconds=0.2), ok=False),
        ),
    )

    write, chat, search, _ = spans_of(play.log)

    assert (chat.name, search.name) == ("chat gpt-4o", "execute_tool search")
    assert {chat.parent, search.parent} == {write.span_id}
    assert chat.span_id == tracing.call_span_id(HERE, "write", 1, 1)
    assert (chat.start_ns - write.start_ns, chat.end_ns - chat.start_ns) == (0, 100_000_000)
    assert search.start_ns - write.start_ns == 200_000_000
    assert (chat.outgoing, search.outgoing) == (True, False)
    assert (chat.error, search.error) == ("", "it failed")
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == "gpt-4o"
    assert (chat.attributes["gen_ai.usage.input_tokens"], chat.attributes["gen_ai.usage.output_tokens"]) == (400, 40)
    assert search.attributes["gen_ai.operation.name"] == "execute_tool"
    assert search.attributes["gen_ai.tool.name"] == "search"
    assert (write.attributes["gen_ai.usage.input_tokens"], write.attributes["planmesh.tool_calls"]) == (400, 1)


def drafted(first: datetime) -> Origin:
    wrong = Problem(code="unknown_agent", message="the mesh has no agent called 'x'")
    tries = (
        Try(at=first, duration_s=2.0, input_tokens=30, output_tokens=9, problems=(wrong,)),
        Try(at=first + timedelta(seconds=2), duration_s=1.0, input_tokens=40, output_tokens=8),
    )
    return Origin(author="model", model="qwen3", tries=tries)


def test_the_drafts_of_a_plan_are_spans_of_its_trace() -> None:
    play = Play(plan(task("build")))
    play.completes("build")
    (commit, commit_hash), *others = play.log
    assert isinstance(commit.events[0], events.PlanCreated)
    created = msgspec.structs.replace(commit.events[0], origin=drafted(START - timedelta(seconds=4)))
    commit = msgspec.structs.replace(commit, events=(created, *commit.events[1:]))

    first, second, build, root = spans_of([(commit, commit_hash), *others])

    assert (first.name, second.name) == ("chat qwen3", "chat qwen3")
    assert {first.parent, second.parent, build.parent} == {root.span_id}
    assert {first.trace_id, second.trace_id} == {root.trace_id}
    assert (first.error, second.error) == ("the mesh has no agent called 'x'", "")
    assert (first.attributes["planmesh.draft"], first.attributes["planmesh.draft.problems"]) == (1, 1)
    assert (second.attributes["gen_ai.usage.input_tokens"], second.attributes["gen_ai.usage.output_tokens"]) == (40, 8)
    assert (first.start_ns, second.end_ns - second.start_ns) == (root.start_ns, 1_000_000_000)


def test_the_drafts_of_every_revision_are_spans_of_their_own() -> None:
    play = Play(plan(task("build"), task("ship", "build")))
    origin = drafted(play.at)
    for number, document in enumerate((play.document, plan(task("build"), task("send", "build"))), 1):
        play.ask(asks.RevisePlan(id=f"r{number}", base=1, instruction="make it cheaper"))
        play.ask(asks.ProposeRevision(id=f"p{number}", request=f"r{number}", plan=document, origin=origin), "planner")

    drafts = [span for span in spans_of(play.log) if span.name == "chat qwen3"]

    assert play.state.revision == 2  # the first changes nothing
    assert len({span.span_id for span in drafts}) == len(drafts) == 4
    assert {span.parent for span in drafts} == {tracing.plan_span_id(HERE)}


def test_the_calls_of_an_attempt_that_failed_or_was_lost_are_spans_too() -> None:
    for ends in (Play.fails, Play.loses):
        play = Play(plan(task("write")))
        ends(play, "write", calls=(called("tool", "search", play.at),))

        write, search = spans_of(play.log)

        assert search.parent == write.span_id


@pytest.mark.parametrize(
    ("began", "duration_s"),
    [
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), 1.0),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), 1.0),
        (START, 1e308),
        (START.replace(tzinfo=None), 0.1),
    ],
)
def test_a_call_lies_within_its_attempt_whatever_the_worker_says(began: datetime, duration_s: float) -> None:
    play = Play(plan(task("write")))
    play.completes("write", calls=(called("tool", "search", began, duration_s),))

    write, search, _ = spans_of(play.log)

    assert write.start_ns <= search.start_ns <= search.end_ns <= write.end_ns


@settings(max_examples=100, deadline=None)
@given(document=plans(), n=st.integers(-1, 3), data=st.data())
def test_every_attempt_has_one_span_and_every_link_leads_to_one(document: Plan, n: int, data: Any) -> None:
    play = Play(document, inputs={"n": n})
    play_on(data.draw, play)

    spans = spans_of(play.log)

    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids))
    assert spans == spans_of(play.log)
    ended = play.state.status in ENDED
    assert [span.span_id == tracing.plan_span_id(HERE) for span in spans].count(True) == ended
    seen: set[str] = set()
    for span in spans:
        assert seen.issuperset(span.links)
        assert 0 < span.start_ns <= span.end_ns
        assert ("planmesh.gate.decision" in span.attributes) <= (span.error == "")
        seen.add(span.span_id)
    handed_out = {tracing.span_id(HERE, one.step, one.attempt) for one in play.of_type(events.StepDispatched)}
    still_open = {
        tracing.span_id(HERE, name, play.state.steps[name].attempt) for name in play.in_status(StepStatus.DISPATCHED)
    }
    assert handed_out - still_open <= set(ids)
