"""`decide`: what happens when a command meets a plan. Pure: time, ids and fetched values arrive as arguments.

A turn records events one by one, each on the state that the ones before it made. After what was asked for has
been recorded, `advance` lets everything go on that can: it settles the steps that take no room, hands out tasks
while there is room, and ends with the plan's status agreeing with its steps (`planmesh.schemas.state.standing`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple, assert_never

from planmesh.executor.gates import opening, release_digest
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.commands import Asked, ReportResult
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.expressions import ExpressionError, holds, parse
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Check, Decide, Emit, Gate, Task
from planmesh.schemas.state import (
    ENDED,
    SATISFIED,
    TROUBLED,
    Names,
    PlanState,
    PlanStatus,
    StepStatus,
    evolve,
    last_steps,
    open_gates,
    pending_retries,
    standing,
    taken,
)
from planmesh.schemas.templates import compile_template
from planmesh.schemas.work import AttemptCompleted, AttemptFailed, AttemptNotStarted, AttemptUnknown, Failure, Result

DEFAULT_GATE_SLA_S: Final = 4 * 3600.0
PLANMESH: Final = "planmesh"
"""Who acts when nobody asked: the rules themselves."""

_NOT_STARTED_DELAY_S: Final = 1.0  # whatever kept it from starting is not over at once

NO_BLOBS: Final[Mapping[str, object]] = {}


class Decision(NamedTuple):
    """What a command set going: the events to append, and the state after them."""

    events: list[AnyEvent]
    state: PlanState


def decide(
    plan: PlanState,
    asked: Asked,
    *,
    blobs: Mapping[str, object] = NO_BLOBS,
    gate_sla_s: float = DEFAULT_GATE_SLA_S,
) -> Decision:
    """Choose what happens when *asked* meets *plan*.

    Args:
        blobs: Values of blobs that were fetched, by SHA-256.
        gate_sla_s: When a gate that says nothing of it counts as overdue.

    Returns:
        The events to append, in order, and the state that folding them gives. A command that cannot be carried out
        gives one `CommandRefused`. No events when nothing is left to say: a command that was answered before, the
        late result of an old attempt, a timer that has been overtaken.

    Raises:
        NeedsBlob: An expression reads an output that is stored as a blob: fetch it, and decide again.
    """
    what = asked.what
    if not isinstance(what, ReportResult) and what.id in plan.answered:
        return Decision([], plan)
    turn = _Turn(plan, asked, blobs, gate_sla_s)
    match what:
        case ReportResult():
            _report(turn, what.result)
        case asks.CreatePlan():
            _create(turn, what)
        case asks.RefuseGoal():
            _refuse_goal(turn, what)
        case asks.StartPlan():
            _start(turn)
        case asks.PausePlan():
            _pause(turn, what)
        case asks.ResumePlan():
            _resume(turn, what)
        case asks.CancelPlan():
            _cancel(turn, what)
        case asks.RetryStep():
            _retry(turn, what)
        case asks.SkipStep():
            _skip(turn, what)
        case asks.ResolveStep():
            _resolve(turn, what)
        case asks.CastVote():
            _vote(turn, what)
        case asks.TimerDue():
            _due(turn, what)
        case asks.ReportNotice():
            _notified(turn, what)
        case asks.ReportUnfit():
            _unfit(turn, what)
        case _:
            assert_never(what)
    if turn.events:
        _advance(turn)
    return Decision(turn.events, turn.state)


class _Turn:
    """What one command has set going so far: the events, and the state after them."""

    __slots__ = ("asked", "at", "blobs", "by", "events", "gate_sla_s", "state")

    def __init__(self, state: PlanState, asked: Asked, blobs: Mapping[str, object], gate_sla_s: float) -> None:
        self.state = state
        self.asked = asked
        self.at: datetime = asked.at
        self.by = asked.by
        self.blobs = blobs
        self.gate_sla_s = gate_sla_s
        self.events: list[AnyEvent] = []

    def record(self, event: AnyEvent) -> None:
        self.state = evolve(self.state, event, self.at)
        self.events.append(event)

    def refuse(self, code: str, reason: str, step: str = "") -> None:
        cause = self.asked.cause
        self.record(
            events.CommandRefused(
                verb=cause.verb, by=self.by, code=code, reason=reason, step=step, possible=possible(self.state, step)
            )
        )

    @property
    def names(self) -> Names:
        return Names(self.state, self.blobs)


# --- goals -------------------------------------------------------------------------------------------------


def _create(turn: _Turn, command: asks.CreatePlan) -> None:
    if turn.state.exists:
        _same_goal(turn, command.goal_digest)
        return
    turn.record(
        events.PlanCreated(
            plan=command.plan,
            goal=command.goal,
            requester=turn.state.address.space,
            inputs=command.inputs,
            goal_digest=command.goal_digest,
            traceparent=command.traceparent,
        )
    )
    if command.start:
        turn.record(events.PlanStarted(by=turn.by))


def _refuse_goal(turn: _Turn, command: asks.RefuseGoal) -> None:
    if turn.state.exists:
        _same_goal(turn, command.goal_digest)
        return
    turn.record(
        events.PlanRefused(
            problems=command.problems,
            goal=command.goal,
            name=command.name,
            requester=turn.state.address.space,
            goal_digest=command.goal_digest,
            traceparent=command.traceparent,
        )
    )


def _same_goal(turn: _Turn, goal_digest: str) -> None:
    if goal_digest != turn.state.goal_digest:
        turn.refuse(
            "goal_id_taken",
            f"goal {turn.state.address.plan!r} is already a plan with other content; publish this one under another id",
        )


# --- the plan ----------------------------------------------------------------------------------------------


def _start(turn: _Turn) -> None:
    if turn.state.status is not PlanStatus.DRAFT:
        turn.refuse("not_a_draft", f"only a draft can be started; the plan is {turn.state.status}")
        return
    turn.record(events.PlanStarted(by=turn.by))


def _pause(turn: _Turn, command: asks.PausePlan) -> None:
    if turn.state.status not in (PlanStatus.RUNNING, PlanStatus.WAITING, PlanStatus.PAUSED) or turn.state.held:
        turn.refuse("cannot_pause", f"the plan is {_described(turn.state)}")
        return
    turn.record(events.PlanPaused(by=turn.by, held=True, reason=command.reason))


def _resume(turn: _Turn, command: asks.ResumePlan) -> None:
    if not turn.state.held:
        turn.refuse("not_paused", f"nobody has paused the plan; it is {_described(turn.state)}")
        return
    turn.record(events.PlanResumed(by=turn.by, reason=command.reason))


def _cancel(turn: _Turn, command: asks.CancelPlan) -> None:
    if not turn.state.exists or turn.state.status in ENDED:
        turn.refuse("ended", f"the plan is {_described(turn.state)}")
        return
    _cancel_all_but(turn)
    turn.record(events.PlanCancelled(by=turn.by, reason=command.reason))


# --- steps -------------------------------------------------------------------------------------------------


def _report(turn: _Turn, result: Result) -> None:
    """A late result of an old attempt, of another agent's step or of a plan that has ended says nothing."""
    state = turn.state
    step = state.steps.get(result.step)
    if (
        state.status in ENDED
        or step is None
        or step.attempt != result.attempt
        or step.agent != turn.by
        or step.status not in (StepStatus.DISPATCHED, StepStatus.OUTCOME_UNKNOWN)
    ):
        return
    match result:
        case AttemptCompleted():
            turn.record(
                events.StepCompleted(
                    step=result.step,
                    attempt=result.attempt,
                    output=result.output,
                    started_at=result.started_at,
                    duration_s=result.duration_s,
                    worker=result.worker,
                    version=result.version,
                )
            )
        case AttemptFailed():
            _attempt_failed(turn, result)
        case AttemptNotStarted():
            if step.status is StepStatus.DISPATCHED:
                failure = Failure(code="not_started", message=result.reason)
                turn.record(
                    events.AttemptEnded(
                        step=result.step,
                        attempt=result.attempt,
                        failure=failure,
                        retry_at=turn.at + timedelta(seconds=_NOT_STARTED_DELAY_S),
                        worker=result.worker,
                    )
                )
        case AttemptUnknown():
            if step.status is StepStatus.DISPATCHED:
                turn.record(
                    events.StepOutcomeUnknown(
                        step=result.step, attempt=result.attempt, reason=result.reason, worker=result.worker
                    )
                )
        case _:
            assert_never(result)


def _attempt_failed(turn: _Turn, result: AttemptFailed) -> None:
    task = turn.state.graph.steps[result.step]
    assert isinstance(task, Task)  # only tasks are dispatched
    if result.failure.retryable and result.attempt < task.retry.attempts:
        delay_s = task.retry.delay_s(result.attempt)
        turn.record(
            events.AttemptEnded(
                step=result.step,
                attempt=result.attempt,
                failure=result.failure,
                retry_at=turn.at + timedelta(seconds=delay_s),
                started_at=result.started_at,
                duration_s=result.duration_s,
                worker=result.worker,
                version=result.version,
            )
        )
        if delay_s == 0:
            turn.record(events.StepReopened(step=result.step, by=PLANMESH))
        return
    turn.record(
        events.StepFailed(
            step=result.step,
            attempt=result.attempt,
            failure=result.failure,
            started_at=result.started_at,
            duration_s=result.duration_s,
            worker=result.worker,
            version=result.version,
        )
    )
    _failed(turn, result.step)


def _failed(turn: _Turn, name: str) -> None:
    """What follows from a step that has failed for good."""
    step = turn.state.graph.steps[name]
    if isinstance(step, Task) and step.on_error == "ignore":
        turn.record(events.StepSkipped(step=name, by=PLANMESH, reason="on_error is ignore"))
        return
    failure = turn.state.steps[name].failure
    reason = f"step {name} failed" + (f" ({failure.code}): {failure.message}" if failure is not None else "")
    match turn.state.plan.policy.on_failure:
        case "pause":
            pass
        case "fail":
            _cancel_all_but(turn, name)
            turn.record(events.PlanFailed(step=name, reason=reason[:1_000]))
        case "cancel":
            _cancel_all_but(turn, name)
            turn.record(events.PlanCancelled(by=PLANMESH, reason=reason[:1_000]))


def _cancel_all_but(turn: _Turn, kept: str = "") -> None:
    rest = tuple(
        name
        for name in turn.state.graph.steps
        if name != kept
        and (status := turn.state.steps[name].status) not in SATISFIED
        and status is not StepStatus.CANCELLED
    )
    if rest:
        turn.record(events.StepsCancelled(steps=rest))


def _unfit(turn: _Turn, command: asks.ReportUnfit) -> None:
    step = turn.state.steps.get(command.step)
    if step is not None and step.status is StepStatus.DISPATCHED and step.attempt == command.attempt:
        turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=command.failure))
        _failed(turn, command.step)


def _retry(turn: _Turn, command: asks.RetryStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        _no_such_step(turn, command.step)
    elif step.status not in TROUBLED:
        turn.refuse("not_failed", f"step {command.step} is {step.status}", command.step)
    elif step.attempt != command.attempt:
        turn.refuse("stale", f"step {command.step} is at attempt {step.attempt}, not {command.attempt}", command.step)
    else:
        turn.record(events.StepReopened(step=command.step, by=turn.by, reason=command.reason))


def _skip(turn: _Turn, command: asks.SkipStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        _no_such_step(turn, command.step)
        return
    document = turn.state.graph.steps[command.step]
    if not document.optional:
        turn.refuse("not_optional", f"the plan does not declare step {command.step} as optional", command.step)
    elif step.status is StepStatus.DISPATCHED or step.status in SATISFIED or step.status is StepStatus.CANCELLED:
        turn.refuse("cannot_skip", f"step {command.step} is {step.status}", command.step)
    elif turn.state.unsettled[command.step]:
        # Skipping it now would let what is behind it start before what is in front of it is settled: a gate, say.
        turn.refuse("not_reached", f"step {command.step} still waits for the steps that it needs", command.step)
    elif isinstance(document, Gate) and not command.reason:
        turn.refuse("reason_required", f"skipping gate {command.step} takes a reason", command.step)
    else:
        turn.record(events.StepSkipped(step=command.step, by=turn.by, reason=command.reason))


def _resolve(turn: _Turn, command: asks.ResolveStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        _no_such_step(turn, command.step)
    elif step.status is not StepStatus.OUTCOME_UNKNOWN:
        turn.refuse("not_unknown", f"step {command.step} is {step.status}", command.step)
    elif step.attempt != command.attempt:
        turn.refuse("stale", f"step {command.step} is at attempt {step.attempt}, not {command.attempt}", command.step)
    elif command.done:
        turn.record(
            events.StepCompleted(
                step=command.step,
                attempt=command.attempt,
                output=command.output,
                by=turn.by,
                reason=command.reason,
            )
        )
    else:
        failure = Failure(code="not_done", message=command.reason or f"{turn.by} says that it was not done")
        turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=failure))
        _failed(turn, command.step)


def _no_such_step(turn: _Turn, name: str) -> None:
    if not turn.state.exists or turn.state.status in ENDED:
        turn.refuse("ended", f"the plan is {_described(turn.state)}")
    else:
        turn.refuse("unknown_step", f"the plan has no step {name}")


def _due(turn: _Turn, command: asks.TimerDue) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or step.status is not StepStatus.WAITING or turn.state.status in ENDED:
        return
    if command.purpose == "retry" and step.retry_at is not None and step.attempt + 1 == command.attempt:
        turn.record(events.StepReopened(step=command.step, by=PLANMESH))
    elif command.purpose == "sla" and step.opened is not None and step.attempt == command.attempt and not step.overdue:
        turn.record(events.GateOverdue(step=command.step, round=command.attempt))


# --- gates -------------------------------------------------------------------------------------------------


def _vote(turn: _Turn, command: asks.CastVote) -> None:
    step = turn.state.steps.get(command.step)
    gate = turn.state.graph.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        _no_such_step(turn, command.step)
        return
    if not isinstance(gate, Gate) or step.status is not StepStatus.WAITING or step.opened is None:
        turn.refuse("not_open", f"step {command.step} is {step.status}, not an open gate", command.step)
        return
    if not may_decide(gate, turn.by):
        turn.refuse("not_a_reviewer", f"{turn.by} is not a reviewer of gate {command.step}", command.step)
        return
    if command.decision == "approve" and gate.four_eyes and turn.by == turn.state.requester:
        turn.refuse("four_eyes", f"{turn.by} requested the plan and cannot approve it", command.step)
        return
    if command.decision == "reject" and gate.require_reason and not command.reason.strip():
        turn.refuse("reason_required", f"rejecting gate {command.step} takes a reason", command.step)
        return
    if turn.by in step.votes:
        turn.refuse("voted_already", f"{turn.by} has already approved gate {command.step}", command.step)
        return
    now = release_digest(turn.state, command.step)
    if now != step.opened.digest:
        turn.refuse("stale", f"what gate {command.step} would release has changed: it asks again", command.step)
        turn.record(opening(turn.state, gate, turn.at, turn.blobs, turn.gate_sla_s))
        return
    if command.digest != now:
        turn.refuse("stale", f"the vote quotes another digest than gate {command.step} has now", command.step)
        return
    if command.decision == "reject":
        turn.record(
            events.GateRejected(step=command.step, round=step.attempt, by=turn.by, reason=command.reason),
        )
        return
    turn.record(events.VoteCast(step=command.step, round=step.attempt, by=turn.by, reason=command.reason))
    votes = turn.state.steps[command.step].votes
    if len(votes) >= gate.quorum:
        turn.record(
            events.GateApproved(
                step=command.step, round=step.attempt, by=votes, digest=command.digest, reason=command.reason
            )
        )


def may_decide(gate: Gate, person: str) -> bool:
    """Whether *person*, as the server knows them, is among the reviewers.

    The server lets only operators, and the gatekeeper for people whom it has identified, publish a vote.
    """
    return "role:operator" in gate.reviewers or f"person:{person}" in gate.reviewers


def _notified(turn: _Turn, command: asks.ReportNotice) -> None:
    if command.step in turn.state.steps:
        turn.record(
            events.NoticeSent(
                step=command.step,
                round=command.round,
                notice=command.notice,
                channel=command.channel,
                delivered=command.delivered,
                detail=command.detail,
            )
        )


# --- going on ----------------------------------------------------------------------------------------------


def _advance(turn: _Turn) -> None:
    """Let everything go on that can, and bring the plan's status in line with its steps."""
    if turn.state.status in ENDED or turn.state.status in (PlanStatus.DRAFT, PlanStatus.ABSENT):
        return
    while not turn.state.held and turn.state.status not in ENDED:
        if turn.state.immediate:
            _settle_now(turn, turn.state.immediate[0])
        elif turn.state.ready and turn.state.running < turn.state.plan.concurrency:
            name = turn.state.ready[0]
            task = turn.state.graph.steps[name]
            assert isinstance(task, Task)  # `ready` holds tasks only
            attempt = turn.state.steps[name].attempt + 1
            turn.record(events.StepDispatched(step=name, attempt=attempt, agent=task.agent))
        elif turn.state.open == 0:
            turn.record(events.PlanCompleted(outcome="completed", result=Payload(value=_outputs(turn.state))))
        else:
            break
    _agree(turn)


def _settle_now(turn: _Turn, name: str) -> None:
    """Settle a step that takes no room."""
    state = turn.state
    step = state.graph.steps[name]
    if not taken(state, name):
        turn.record(events.StepNotTaken(step=name))
        return
    try:
        match step:
            case Gate():
                turn.record(opening(state, step, turn.at, turn.blobs, turn.gate_sla_s))
            case Decide():
                label = _choose(turn, step)
                if label is None:
                    _fail_now(turn, name, "no_branch", "no case holds, and there is no `otherwise`")
                else:
                    turn.record(events.BranchTaken(step=name, label=label))
            case Check():
                passed = holds(parse(step.condition), turn.names)
                if passed or step.on_fail == "continue":
                    turn.record(events.BranchTaken(step=name, label="pass" if passed else "fail"))
                else:
                    message = str(compile_template(step.message).render(turn.names)) if step.message else ""
                    _fail_now(turn, name, "check_failed", message or f"`{step.condition}` does not hold")
            case Emit():
                result = compile_template(step.result).render(turn.names)
                _cancel_all_but(turn, name)
                turn.record(events.StepCompleted(step=name, attempt=1, output=NOTHING, by=PLANMESH))
                turn.record(events.PlanCompleted(outcome=step.outcome, result=Payload(value=result), step=name))
            case Task():
                raise AssertionError(f"task {name} is not settled by deciding")
            case _:
                assert_never(step)
    except ExpressionError as error:
        _fail_now(turn, name, "expression", str(error))


def _choose(turn: _Turn, step: Decide) -> str | None:
    for case in step.cases:
        if holds(parse(case.when), turn.names):
            return case.then
    return step.otherwise


def _fail_now(turn: _Turn, name: str, code: str, message: str) -> None:
    attempt = turn.state.steps[name].attempt + 1
    failure = Failure(code=code, message=message, retryable=False)
    turn.record(events.StepFailed(step=name, attempt=attempt, failure=failure))
    _failed(turn, name)


def _outputs(state: PlanState) -> dict[str, object]:
    """The result of a plan without an `emit`: what its last steps gave, by binding."""
    result: dict[str, object] = {}
    for name in last_steps(state):
        output = state.steps[name].output
        shown: object = output.value
        if output.blob is not None:
            shown = {"$blob": output.blob.sha256, "size_bytes": output.blob.size_bytes}
        if state.steps[name].status is StepStatus.COMPLETED:
            result[state.graph.steps[name].bound_as] = shown
    return result


def _agree(turn: _Turn) -> None:
    """End the turn with the status that the steps give."""
    state = turn.state
    should_be = standing(state)
    if should_be is state.status:
        return
    match should_be:
        case PlanStatus.RUNNING:
            turn.record(events.PlanResumed(by=turn.by))
        case PlanStatus.WAITING:
            turn.record(events.PlanWaiting(gates=tuple(open_gates(state)), retries=tuple(pending_retries(state))))
        case PlanStatus.PAUSED:
            at_steps = state.troubled
            reason = "; ".join(_trouble(state, name) for name in at_steps[:5])
            turn.record(events.PlanPaused(by=PLANMESH, reason=reason, at_steps=at_steps))
        case _:
            raise AssertionError(f"{state.address} cannot come to {should_be} by itself")


def _described(state: PlanState) -> str:
    if not state.exists:
        return "unknown: there is no such plan"
    return f"paused by {state.by}" if state.held else str(state.status)


def _trouble(state: PlanState, name: str) -> str:
    step = state.steps[name]
    if step.failure is not None and step.status is StepStatus.FAILED:
        return f"{name} failed ({step.failure.code}): {step.failure.message[:200]}"
    return f"{name} is {step.status}" + (f": {step.reason[:200]}" if step.reason else "")


def possible(state: PlanState, step: str = "") -> tuple[str, ...]:
    """The verbs that would be carried out now: for the plan, and for *step* if it is named."""
    if not state.exists or state.status in ENDED:
        return ()
    verbs = ["cancel"]
    if state.status is PlanStatus.DRAFT:
        return ("start", *verbs)
    verbs.insert(0, "resume" if state.held else "pause")
    found = state.steps.get(step)
    if found is not None:
        if found.status in TROUBLED:
            verbs.append("retry")
        if found.status is StepStatus.OUTCOME_UNKNOWN:
            verbs.append("resolve")
        if found.status is StepStatus.WAITING and found.opened is not None:
            verbs.append("vote")
        if (
            state.graph.steps[step].optional
            and not state.unsettled[step]
            and found.status not in SATISFIED
            and found.status not in (StepStatus.DISPATCHED, StepStatus.CANCELLED)
        ):
            verbs.append("skip")
    return tuple(verbs)


__all__ = ["DEFAULT_GATE_SLA_S", "Decision", "decide", "may_decide", "possible"]
