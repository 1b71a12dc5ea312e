"""Which spans a plan's log gives. Pure; the ids are derived (`planmesh.schemas.tracing`).

One trace a plan: a root span from its creation to its end; below it a span for each attempt of a step, and for each
wait at a gate; below an attempt, one for each call of a model or a tool that it has told of. Where a model has written
the plan, or was to revise it, there is one below the root for each of its drafts. A span is given when it
ends, and every span once: an attempt whose outcome is unknown has ended.

Attributes that start with `gen_ai.` are OpenTelemetry's semantic conventions for generative AI,
https://opentelemetry.io/docs/specs/semconv/gen-ai/.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from planmesh.schemas import events, tracing
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.goals import Origin
from planmesh.schemas.plan import Ask, Check, Decide, Each, Emit, Gate, Task
from planmesh.schemas.state import PlanState, PlanStatus, StepStatus
from planmesh.schemas.work import Call, Failure, usage_of

MAX_LINKS: Final = 128  # OpenTelemetry's own limit
_TEXT_CHARACTERS: Final = 1_000
_TRACEBACK_CHARACTERS: Final = 4_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CLOCK_SKEW: Final = timedelta(days=1)

Attribute = str | int | float | bool | tuple[str, ...]


class Span(Struct, frozen=True, kw_only=True):
    """A span that has ended.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent: The span above it, 16 hex digits; empty for none.
        start_ns: Nanoseconds since 1970.
        end_ns: Nanoseconds since 1970, not before the start.
        links: Spans of the same trace that had to end first, 16 hex digits each.
        error: Why its status is an error.
        failure: Recorded as an exception.
        remote: Its parent is somebody else's span.
        outgoing: It is a call of another service.
    """

    name: str
    trace_id: str
    span_id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute]
    links: tuple[str, ...] = ()
    error: str = ""
    failure: Failure | None = None
    remote: bool = False
    outgoing: bool = False


def spans_of(before: PlanState, event: AnyEvent, after: PlanState, at: datetime) -> Iterator[Span]:
    """The spans that end with *event*, which happened *at*.

    Args:
        before: The plan without the event.
        after: The plan with it.
    """
    match event:
        case events.StepDispatched():
            return
        case events.StepCompleted() | events.StepFailed() | events.AttemptEnded():
            yield from _attempt(before, event, at)
        case events.StepOutcomeUnknown():
            step = before.steps[event.step]
            span = _step_span(
                before,
                event.step,
                event.attempt,
                step.since or at,
                at,
                {"planmesh.step.status": str(StepStatus.OUTCOME_UNKNOWN), "planmesh.worker": event.worker}
                | _used(event.calls),
                error=f"outcome unknown: {event.reason}",
            )
            yield span
            yield from _calls(before, span, event.step, event.attempt, event.calls)
        case events.BranchTaken():
            attempt = before.steps[event.step].attempt + 1
            taken: dict[str, Attribute] = {"planmesh.step.status": "completed", "planmesh.step.branch": event.label}
            yield _step_span(before, event.step, attempt, at, at, taken)
        case events.GateApproved():
            yield from _gate(before, event.step, at, "approved", event.by, event.reason)
        case events.GateRejected():
            yield from _gate(before, event.step, at, "rejected", (event.by,), event.reason)
        case events.StepSkipped():
            yield from _gate(before, event.step, at, "skipped", (event.by,), event.reason)
        case events.AskAnswered():
            yield from _gate(before, event.step, at, "answered", (event.by,), event.reason)
        case events.GateOpened() | events.AskOpened():
            yield from _gate(before, event.step, at, "asked_again")
        case events.StepsCancelled():
            for name in event.steps:
                step = before.steps[name]
                if step.status is StepStatus.DISPATCHED:
                    gone: dict[str, Attribute] = {"planmesh.step.status": str(StepStatus.CANCELLED)}
                    yield _step_span(before, name, step.attempt, step.since or at, at, gone)
                else:
                    yield from _gate(before, name, at, "closed")
        case events.PlanCreated():
            yield from _drafts(after, event.origin, at, "created")
        case events.PlanRevised():
            yield from _drafts(before, event.origin, at, event.request)
            for name in before.graph.steps:
                if name not in after.graph.steps:
                    yield from _gate(before, name, at, "superseded", (event.by,), event.reason)
        case events.RevisionRefused():
            yield from _drafts(before, event.origin, at, event.request)
        case events.PlanRefused():
            yield from _drafts(after, event.origin, at, f"refused {after.number}")
            yield _root(after, at, "; ".join(problem.message for problem in event.problems[:5]))
        case events.PlanFailed():
            yield _root(after, at, event.reason or f"step {event.step} failed")
        case events.PlanCompleted() | events.PlanCancelled():
            yield _root(after, at)
        case _:
            return


_AT_ONCE: Final = (Decide, Check, Each, Emit)
"""What a decision settles, without an attempt."""


def last_attempt(state: PlanState, name: str) -> int:
    """The number in the id of the last span that a step has. Steps that are settled at once count no attempts."""
    step = state.steps[name]
    instant = isinstance(state.graph.steps[name], _AT_ONCE) and step.status is StepStatus.COMPLETED
    return step.attempt + 1 if instant else step.attempt


def _attempt(
    before: PlanState, event: events.StepCompleted | events.StepFailed | events.AttemptEnded, at: datetime
) -> Iterator[Span]:
    step = before.steps[event.step]
    attempt, start, end = event.attempt, at, at
    if step.status is StepStatus.OUTCOME_UNKNOWN:
        return  # a person, or a late result, has said how it ended; the span was given then
    if step.status is StepStatus.DISPATCHED:
        start, end = _worked(event.started_at, event.duration_s, step.since or at, at)
    else:
        attempt = max(attempt, step.attempt + 1)
    attributes: dict[str, Attribute] = {"planmesh.worker": event.worker} | _used(event.calls)
    if event.version:
        attributes["gen_ai.agent.version"] = event.version
    if isinstance(event, events.StepCompleted):
        attributes["planmesh.step.status"] = str(StepStatus.COMPLETED)
        span = _step_span(before, event.step, attempt, start, end, attributes)
        yield span
        yield from _calls(before, span, event.step, attempt, event.calls)
        return
    failure = event.failure
    attributes["planmesh.step.status"] = str(StepStatus.FAILED)
    attributes["planmesh.failure.code"] = failure.code
    attributes["error.type"] = failure.type or failure.code
    if isinstance(event, events.AttemptEnded):
        attributes["planmesh.retry_at"] = event.retry_at.isoformat()
    error = f"{failure.code}: {failure.message}"
    span = _step_span(before, event.step, attempt, start, end, attributes, error=error, failure=failure)
    yield span
    yield from _calls(before, span, event.step, attempt, event.calls)


def _used(calls: tuple[Call, ...]) -> dict[str, Attribute]:
    usage = usage_of(calls)
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "planmesh.model_calls": usage.model_calls,
        "planmesh.tool_calls": usage.tool_calls,
    }


def _calls(state: PlanState, attempt_span: Span, step: str, attempt: int, calls: tuple[Call, ...]) -> Iterator[Span]:
    """What an attempt called, within the time that the attempt took: a worker may say anything of both."""
    for number, call in enumerate(calls, 1):
        began = call.started_at if call.started_at.tzinfo is not None else call.started_at.replace(tzinfo=UTC)
        start_ns = min(max(_ns(began), attempt_span.start_ns), attempt_span.end_ns)
        lasted_ns = int(min(call.duration_s * 1e9, attempt_span.end_ns - start_ns))
        attributes: dict[str, Attribute] = {
            "planmesh.space": state.address.space,
            "planmesh.plan": state.address.plan,
            "planmesh.step": step,
            "planmesh.attempt": attempt,
        }
        if call.kind == "model":
            name = f"chat {call.name}"
            attributes |= {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",  # whose protocol it speaks, wherever it is
                "gen_ai.request.model": call.name,
                "gen_ai.usage.input_tokens": call.input_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
            }
        else:
            name = f"execute_tool {call.name}"
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name}
        yield Span(
            name=name,
            trace_id=attempt_span.trace_id,
            span_id=tracing.call_span_id(state.address, step, attempt, number),
            parent=attempt_span.span_id,
            start_ns=start_ns,
            end_ns=start_ns + lasted_ns,
            attributes=attributes,
            error="" if call.ok else "it failed",
            outgoing=call.kind == "model",
        )


def _drafts(state: PlanState, origin: Origin | None, at: datetime, of: str) -> Iterator[Span]:
    """What a model was asked when it was to write a plan, which was known *at* last.

    Args:
        of: What the drafts are of, among all that models have written for this plan.
    """
    for number, draft in enumerate(origin.tries if origin is not None else (), 1):
        assert origin is not None  # it has tries
        start, end = _worked(draft.at, draft.duration_s, at, at)
        yield Span(
            name=f"chat {origin.model}",
            trace_id=trace_id(state),
            span_id=tracing.draft_span_id(state.address, of, number),
            parent=_root_id(state),
            start_ns=_ns(start),
            end_ns=max(_ns(start), _ns(end)),
            attributes={
                "planmesh.space": state.address.space,
                "planmesh.plan": state.address.plan,
                "planmesh.draft": number,
                "planmesh.draft.problems": len(draft.problems),
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": origin.model,
                "gen_ai.usage.input_tokens": draft.input_tokens,
                "gen_ai.usage.output_tokens": draft.output_tokens,
            },
            error="; ".join(problem.message for problem in draft.problems[:5])[:_TEXT_CHARACTERS],
            outgoing=True,
        )


def _worked(
    started_at: datetime | None, duration_s: float | None, handed_out: datetime, at: datetime
) -> tuple[datetime, datetime]:
    """When the worker began and ended, by its own clock, unless that is far out."""
    if started_at is None or duration_s is None:
        return handed_out, at
    if started_at.tzinfo is None:
        started_at = started_at.replace(tzinfo=UTC)
    if not handed_out - _CLOCK_SKEW < started_at < at + _CLOCK_SKEW:
        started_at = handed_out
    if duration_s > (at - started_at + _CLOCK_SKEW).total_seconds():
        return started_at, max(started_at, at)
    return started_at, started_at + timedelta(seconds=duration_s)


def _gate(
    before: PlanState, name: str, at: datetime, decision: str, by: tuple[str, ...] = (), reason: str = ""
) -> Iterator[Span]:
    """The wait at a gate or an ask, if it was open. However it ended, nothing went wrong."""
    step, gate = before.steps[name], before.graph.steps[name]
    if step.status is not StepStatus.WAITING or not isinstance(gate, Gate | Ask):
        return
    attributes: dict[str, Attribute] = {
        "planmesh.gate.decision": decision,
        "planmesh.gate.by": by,
        "planmesh.gate.reviewers": step.reviewers,
        "planmesh.gate.overdue": step.overdue,
        "planmesh.gate.escalated": step.escalated,
    }
    if isinstance(gate, Gate):
        attributes["planmesh.gate.quorum"] = gate.quorum
    else:
        attributes["planmesh.ask.invalid_answers"] = step.invalid
    if step.opened is not None:
        attributes["planmesh.gate.digest"] = step.opened.digest
    if reason:
        attributes["planmesh.reason"] = reason[:_TEXT_CHARACTERS]
    yield _step_span(before, name, step.attempt, step.since or at, at, attributes)


def _step_span(
    state: PlanState,
    name: str,
    attempt: int,
    start: datetime,
    end: datetime,
    attributes: dict[str, Attribute],
    *,
    error: str = "",
    failure: Failure | None = None,
) -> Span:
    step = state.graph.steps[name]
    attributes |= {
        "planmesh.space": state.address.space,
        "planmesh.plan": state.address.plan,
        "planmesh.step": name,
        "planmesh.step.kind": str(step.__struct_config__.tag),
        "planmesh.attempt": attempt,
    }
    if isinstance(step, Task):
        attributes["gen_ai.agent.name"] = step.agent
    if failure is not None:
        failure = Failure(
            code=failure.code,
            message=failure.message[:_TEXT_CHARACTERS],
            type=failure.type,
            traceback=failure.traceback[-_TRACEBACK_CHARACTERS:],
        )
    return Span(
        name=name,
        trace_id=trace_id(state),
        span_id=tracing.span_id(state.address, name, attempt),
        parent=tracing.plan_span_id(state.address),
        start_ns=_ns(start),
        end_ns=max(_ns(start), _ns(end)),
        attributes=attributes,
        links=tuple(
            tracing.span_id(state.address, need, last_attempt(state, need))
            for need in state.graph.needs[name][:MAX_LINKS]
            if state.steps[need].status is StepStatus.COMPLETED
        ),
        error=error[:_TEXT_CHARACTERS],
        failure=failure,
    )


def _root(state: PlanState, at: datetime, error: str = "") -> Span:
    origin = state.created or state.refused
    assert origin is not None  # only a plan that there is can end
    created, caller = state.created, tracing.caller(origin.traceparent)
    name = created.plan.name if created is not None else state.refused.name if state.refused is not None else ""
    attributes: dict[str, Attribute] = {
        "planmesh.space": state.address.space,
        "planmesh.plan": state.address.plan,
        "planmesh.plan.name": name,
        "planmesh.plan.status": str(state.status),
        "planmesh.plan.steps": len(state.graph.steps),
        "planmesh.requester": state.requester,
        "planmesh.goal": origin.goal[:_TEXT_CHARACTERS],
    }
    if state.outcome:
        attributes["planmesh.plan.outcome"] = state.outcome
    if state.reason:
        attributes["planmesh.reason"] = state.reason[:_TEXT_CHARACTERS]
    if state.status is PlanStatus.CANCELLED:
        attributes["planmesh.cancelled_by"] = state.by
    start = state.created_at or at
    if origin.origin is not None and origin.origin.tries:
        # What a model has written, it has written before there was a plan.
        start = min(start, _worked(origin.origin.tries[0].at, 0.0, start, start)[0])
    return Span(
        name=name or state.address.plan,
        trace_id=trace_id(state),
        span_id=_root_id(state),
        parent=caller.span_id if caller is not None else "",
        start_ns=_ns(start),
        end_ns=max(_ns(start), _ns(at)),
        attributes=attributes,
        error=error[:_TEXT_CHARACTERS],
        remote=caller is not None,
    )


def _root_id(state: PlanState) -> str:
    if state.created is not None:
        return tracing.plan_span_id(state.address)
    return tracing.refusal_span_id(state.address, state.number)


def trace_id(state: PlanState) -> str:
    """The trace of a plan that exists, or was refused."""
    origin = state.created or state.refused
    traceparent = origin.traceparent if origin is not None else None
    return tracing.trace_id(state.address, state.goal_digest, traceparent)


def _ns(moment: datetime) -> int:
    # A span cannot be older than 1970; log times come from the server, so none is past what 64 bits hold.
    return max(0, (moment - _EPOCH) // _MICROSECOND * 1_000)
