"""`decide`: what happens when a command meets a plan. Pure: time, ids and fetched values arrive as arguments.

A turn records events one by one, each on the state that the ones before it made. After what was asked for has
been recorded, `advance` lets everything go on that can: it settles the steps that take no room, hands out tasks
while there is room, and ends with the plan's status agreeing with its steps (`planmesh.schemas.state.standing`).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, NamedTuple, assert_never

import msgspec

from planmesh.executor.advance import advance, agree
from planmesh.executor.asks import Given, answer, answer_by_default
from planmesh.executor.cancelling import cancel, cancel_all_but
from planmesh.executor.children import EXECUTOR, FOR_CHILDREN, drafted, may_steer, moved
from planmesh.executor.failures import failed
from planmesh.executor.gates import review, vote
from planmesh.executor.reviewers import Standing, escalate
from planmesh.executor.revision import may_request, propose, redirect, revise
from planmesh.executor.turn import PLANMESH, Turn, described
from planmesh.schemas import commands as asks
from planmesh.schemas import events
from planmesh.schemas.commands import Asked, ReportResult
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.expressions import ExpressionError, holds, parse
from planmesh.schemas.goals import ID_TAKEN
from planmesh.schemas.plan import SERVICE, Gate, Task
from planmesh.schemas.state import ENDED, SATISFIED, TROUBLED, PlanState, PlanStatus, StepStatus
from planmesh.schemas.work import AttemptCompleted, AttemptFailed, AttemptNotStarted, AttemptUnknown, Failure, Result

DEFAULT_GATE_SLA_S: Final = 4 * 3600.0
# Whatever keeps attempts from starting is not over at once, and each of them takes room in the log.
_NOT_STARTED_DELAY_S: Final = 1.0
_NOT_STARTED_MOST_S: Final = 60.0
_EXPLAINED_CHARACTERS: Final = 4_000

NO_BLOBS: Final[Mapping[str, object]] = {}
NO_LIMITS: Final[Mapping[str, int]] = {}


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
    agent_limits: Mapping[str, int] = NO_LIMITS,
    escalate_to: str = "",
    alone: str = "",
    still: bool = False,
) -> Decision:
    """Choose what happens when *asked* meets *plan*.

    Args:
        blobs: Values of blobs that were fetched, by SHA-256.
        gate_sla_s: When a gate or an ask that says nothing of it counts as overdue.
        agent_limits: How many steps of an agent may run at once, where that is known. A plan hands out hardly more
            than that, so that what it has still to do does not stand in front of other plans.
        escalate_to: Who may answer as well, once it is overdue, a gate or an ask that says nothing of it. Empty:
            nobody.
        alone: Why nothing may follow from it but that steps begin which are ready, and the plan's own status; empty if
            it may, as a rule. A step that fails is failed then, also where the plan says to go on without it; and
            nobody is answered for by a default.
        still: Whether no step may begin either.

    Returns:
        The events to append, in order, and the state that folding them gives. A command that cannot be carried out
        gives one `CommandRefused`. No events when nothing is left to say: a command that was answered before, the
        late result of an old attempt, a timer that has been overtaken.

    Raises:
        NeedsBlob: An expression reads an output that is stored as a blob: fetch it, and decide again.
    """
    what = asked.what
    # A goal that was refused may be published again: by then it may be a plan.
    again = plan.status is PlanStatus.REFUSED and isinstance(what, asks.CreatePlan | asks.RefuseGoal)
    if not again and not isinstance(what, ReportResult) and plan.has_answered(asked.by, what.id):
        return Decision([], plan)
    if asked.by == EXECUTOR and isinstance(what, FOR_CHILDREN) and not may_steer(plan, what):
        return Decision([], plan)
    turn = Turn(plan, asked, blobs, gate_sla_s, agent_limits, escalate_to, alone)
    match what:
        case ReportResult():
            _report(turn, what.result)
        case asks.CreatePlan():
            _create(turn, what)
        case asks.RefuseGoal():
            _refuse_goal(turn, what)
        case asks.StartPlan():
            _start(turn, what)
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
            vote(turn, what)
        case asks.ReviewGate():
            _review(turn, what)
        case asks.AnswerAsk():
            answer(turn, Given.by(turn, what))
        case asks.Reply():
            _reply(turn, what)
        case asks.RevisePlan():
            revise(turn, what)
        case asks.RedirectPlan():
            redirect(turn, what)
        case asks.ProposeRevision():
            propose(turn, what)
        case asks.ReportDraft():
            drafted(turn, what)
        case asks.ReportChild():
            moved(turn, what)
        case asks.TimerDue():
            _due(turn, what)
        case asks.ReportNotice():
            _notified(turn, what)
        case asks.ReportUnfit():
            _unfit(turn, what)
        case _:
            assert_never(what)
    if turn.events:
        if still:
            agree(turn)
        else:
            advance(turn)
    return Decision(turn.events, turn.state)


def refuse(plan: PlanState, asked: Asked, code: str, reason: str) -> Decision:
    """What *asked* comes to where carrying it out gives something that the log cannot take."""
    turn = Turn(plan, asked, NO_BLOBS, DEFAULT_GATE_SLA_S, NO_LIMITS)
    turn.refuse(code, reason)
    return Decision(turn.events, turn.state)


# --- goals -------------------------------------------------------------------------------------------------


def _create(turn: Turn, command: asks.CreatePlan) -> None:
    if turn.state.exists and turn.state.status is not PlanStatus.REFUSED:
        _same_goal(turn, command)
        return
    if turn.state.parent is not None:
        return  # the step that it was to run for has heard that it was refused; another attempt is another plan
    turn.record(
        events.PlanCreated(
            plan=command.plan,
            goal=command.goal,
            requester=turn.state.address.space,
            owners=command.owners,
            inputs=command.inputs,
            goal_digest=command.goal_digest,
            origin=command.origin,
            traceparent=command.traceparent,
            parent=command.parent,
            mandate=command.mandate,
        )
    )
    if command.start:
        turn.record(events.PlanStarted(by=turn.by))


def _refuse_goal(turn: Turn, command: asks.RefuseGoal) -> None:
    refused = turn.state.refused
    if refused is not None and (refused.goal_digest, refused.problems) == (command.goal_digest, command.problems):
        return
    if turn.state.exists and refused is None:
        _same_goal(turn, command)
        return
    turn.record(
        events.PlanRefused(
            problems=command.problems,
            goal=command.goal,
            name=command.name,
            requester=turn.state.address.space,
            goal_digest=command.goal_digest,
            origin=command.origin,
            traceparent=command.traceparent,
            parent=command.parent,
        )
    )


def _same_goal(turn: Turn, command: asks.CreatePlan | asks.RefuseGoal) -> None:
    if command.goal_digest != turn.state.goal_digest:
        turn.refuse(
            ID_TAKEN,
            f"goal {turn.state.address.plan!r} is already a plan with other content; publish this one under another id",
            parent=command.parent,
        )


# --- the plan ----------------------------------------------------------------------------------------------


def _start(turn: Turn, command: asks.StartPlan) -> None:
    if turn.state.status is not PlanStatus.DRAFT:
        turn.refuse("not_a_draft", f"only a draft can be started; the plan is {turn.state.status}")
        return
    turn.record(events.PlanStarted(by=turn.by, reason=command.reason))


def _review(turn: Turn, command: asks.ReviewGate) -> None:
    standing = Standing(command.level, command.groups)
    if command.decision == "answer":
        answer(turn, Given.by(turn, command, standing))
        return
    if command.decision != "redirect":
        review(turn, command, command.decision, standing)
        return
    asked = asks.RedirectPlan(
        id=command.id,
        step=command.step,
        digest=command.digest,
        base=command.base,
        document=command.document,
        instruction=command.instruction,
        reason=command.reason,
    )
    redirect(turn, asked, standing)


def _reply(turn: Turn, command: asks.Reply) -> None:
    """What a service says. Of a plan that is none of its business it learns nothing, and leaves nothing in its log."""
    step = turn.state.steps.get(command.step) or turn.state.superseded.get(command.step)
    its_own = turn.state.exists and turn.by == f"{SERVICE}{turn.state.requester}"
    if not its_own and (step is None or turn.by not in step.reviewers):
        return
    standing = Standing("operator", (turn.by,))
    if command.decision == "answer":
        answer(turn, Given.by(turn, command, standing))
    else:
        review(turn, command, command.decision, standing)


def _pause(turn: Turn, command: asks.PausePlan) -> None:
    if command.step is not None:
        _pause_step(turn, command.step, command.reason)
    elif turn.state.status not in (PlanStatus.RUNNING, PlanStatus.WAITING, PlanStatus.PAUSED) or turn.state.held:
        turn.refuse("cannot_pause", f"the plan is {described(turn.state)}")
    else:
        turn.record(events.PlanPaused(by=turn.by, held=True, reason=command.reason))


def _pause_step(turn: Turn, name: str, reason: str) -> None:
    step = turn.state.steps.get(name)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(name)
    elif step.held:
        turn.refuse("paused_already", f"step {name} is paused already", name)
    elif step.status in SATISFIED or step.status is StepStatus.CANCELLED:
        turn.refuse("cannot_pause", f"step {name} is {step.status}", name)
    else:
        turn.record(events.StepPaused(step=name, by=turn.by, reason=reason))


def _resume(turn: Turn, command: asks.ResumePlan) -> None:
    if command.step is not None:
        step = turn.state.steps.get(command.step)
        if step is None or turn.state.status in ENDED:
            turn.refuse_unknown_step(command.step)
        elif not step.held:
            turn.refuse("not_paused", f"nobody has paused step {command.step}; it is {step.status}", command.step)
        else:
            turn.record(events.StepResumed(step=command.step, by=turn.by, reason=command.reason))
    elif not turn.state.held:
        steps = f", but these of its steps: {', '.join(turn.state.held_steps[:5])}" if turn.state.held_steps else ""
        # It is called paused as well, when it stands still because a step has failed.
        then = ", and goes on once that step does" if turn.state.troubled else ""
        turn.refuse("not_paused", f"nobody has paused the plan{steps}; it is {described(turn.state)}{then}")
    elif turn.by == EXECUTOR != turn.state.by:
        # The plan that it runs for goes on; what a person has stopped, a person lets go on.
        turn.refuse("not_paused", f"{turn.state.by} has paused the plan, and not the one that it runs for")
    else:
        turn.record(events.PlanResumed(by=turn.by, reason=command.reason, held=True))


def _cancel(turn: Turn, command: asks.CancelPlan) -> None:
    if command.step is not None:
        _cancel_step(turn, command.step, command.reason)
    elif not turn.state.exists or turn.state.status in ENDED:
        turn.refuse("ended", f"the plan is {described(turn.state)}")
    else:
        cancel_all_but(turn)
        turn.record(events.PlanCancelled(by=turn.by, reason=command.reason))


def _cancel_step(turn: Turn, name: str, reason: str) -> None:
    """What can only run after a cancelled step can never run: it goes with it; and so do the items of an `each`."""
    step = turn.state.steps.get(name)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(name)
    elif step.status in SATISFIED or step.status is StepStatus.CANCELLED:
        turn.refuse("cannot_cancel", f"step {name} is {step.status}", name)
    else:
        behind = turn.state.graph.behind(name)
        gone = {name, *behind}
        items = (step for step, item in turn.state.graph.items.items() if item.each in gone and step not in gone)
        cancel(turn, (name, *behind, *items), by=turn.by, reason=reason)


# --- steps -------------------------------------------------------------------------------------------------


def _report(turn: Turn, result: Result) -> None:
    """A late result of an old attempt, of another agent's step or of a plan that has ended says nothing."""
    state = turn.state
    step = state.steps.get(result.step)
    if (
        state.status in ENDED
        or step is None
        or not isinstance(state.graph.steps[result.step], Task)
        or step.attempt != result.attempt
        or step.agent != turn.by
        or step.status not in (StepStatus.DISPATCHED, StepStatus.OUTCOME_UNKNOWN)
    ):
        return
    if isinstance(result, AttemptCompleted | AttemptFailed) or (
        isinstance(result, AttemptUnknown) and step.status is StepStatus.DISPATCHED
    ):
        for denial in result.denials:
            turn.record(
                events.PermissionDenied(step=result.step, attempt=result.attempt, what=denial.what, why=denial.why)
            )
    match result:
        case AttemptCompleted() if (refused := _not_accepted(turn, result)) is not None:
            _attempt_failed(turn, refused)
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
                    calls=result.calls,
                )
            )
        case AttemptFailed():
            _attempt_failed(turn, result)
        case AttemptNotStarted():
            if step.status is StepStatus.DISPATCHED:
                failure = Failure(code="not_started", message=result.reason)
                delay_s = min(_NOT_STARTED_DELAY_S * 2.0 ** min(step.not_begun, 16), _NOT_STARTED_MOST_S)
                turn.record(
                    events.AttemptEnded(
                        step=result.step,
                        attempt=result.attempt,
                        failure=failure,
                        retry_at=turn.at + timedelta(seconds=delay_s),
                        begun=False,
                        worker=result.worker,
                    )
                )
        case AttemptUnknown():
            if step.status is StepStatus.DISPATCHED:
                turn.record(
                    events.StepOutcomeUnknown(
                        step=result.step,
                        attempt=result.attempt,
                        reason=result.reason,
                        worker=result.worker,
                        calls=result.calls,
                    )
                )
        case _:
            assert_never(result)


def _not_accepted(turn: Turn, done: AttemptCompleted) -> AttemptFailed | None:
    """The attempt as a failed one, if the step says what its output must be like, and it is not.

    Raises:
        NeedsBlob: The output, or something else that is read, has to be fetched first.
    """
    task = turn.state.graph.steps[done.step]
    assert isinstance(task, Task)  # only tasks are dispatched to agents
    if task.accept is None:
        return None
    try:
        if holds(parse(task.accept), turn.names(done.step, done.output)):
            return None
        failure = Failure(code="not_accepted", message=f"`{task.accept}` does not hold of its output")
    except ExpressionError as error:
        failure = Failure(code="not_accepted", message=f"its output cannot be judged: {error}")
    return done.failed(failure)


def _attempt_failed(turn: Turn, result: AttemptFailed) -> None:
    task = turn.state.graph.steps[result.step]
    assert isinstance(task, Task)  # only tasks are dispatched
    begun = result.attempt - turn.state.steps[result.step].not_begun
    if result.failure.retryable and begun < task.retry.attempts:
        delay_s = task.retry.delay_s(begun)
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
                calls=result.calls,
            )
        )
        if delay_s == 0:
            turn.record(events.StepReopened(step=result.step, by=PLANMESH))
        return
    turn.record(
        events.StepFailed(
            step=result.step,
            attempt=result.attempt,
            failure=_explained(turn, result.failure),
            started_at=result.started_at,
            duration_s=result.duration_s,
            worker=result.worker,
            version=result.version,
            calls=result.calls,
        )
    )
    failed(turn, result.step)


def _explained(turn: Turn, failure: Failure) -> Failure:
    """*failure*, with why nothing follows from it."""
    if not turn.alone:
        return failure
    return msgspec.structs.replace(failure, message=f"{failure.message[:_EXPLAINED_CHARACTERS]}; {turn.alone}")


def _unfit(turn: Turn, command: asks.ReportUnfit) -> None:
    step = turn.state.steps.get(command.step)
    if step is not None and step.status is StepStatus.DISPATCHED and step.attempt == command.attempt:
        failure = _explained(turn, command.failure)
        turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=failure))
        failed(turn, command.step)


def _retry(turn: Turn, command: asks.RetryStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(command.step)
    elif step.status not in TROUBLED:
        turn.refuse("not_failed", f"step {command.step} is {step.status}", command.step)
    elif step.attempt != command.attempt:
        turn.refuse("stale", f"step {command.step} is at attempt {step.attempt}, not {command.attempt}", command.step)
    elif command.step in turn.state.graph.items and (command.agent is not None or command.inputs is not None):
        item = turn.state.graph.items[command.step]
        reason = f"step {command.step} does for item {item.number} what {item.each} says of each: retry it as it is"
        turn.refuse("of_an_item", reason, command.step)
    elif command.agent is not None or command.inputs is not None:
        if not isinstance(turn.state.graph.steps[command.step], Task):
            turn.refuse("not_a_task", f"step {command.step} has no agent and no inputs to change", command.step)
            return
        if step.status is StepStatus.OUTCOME_UNKNOWN:
            reason = f"step {command.step} may have been done as it was; say first whether it was (resolve)"
            turn.refuse("outcome_unknown", reason, command.step)
            return
        if not may_request(turn, command.inputs, command.step):
            return
        turn.record(
            events.RevisionRequested(
                request=command.id,
                kind="retry",
                by=turn.by,
                base=turn.state.revision,
                reason=command.reason,
                step=command.step,
                attempt=command.attempt,
                agent=command.agent or "",
                inputs=command.inputs,
            )
        )
    else:
        turn.record(events.StepReopened(step=command.step, by=turn.by, reason=command.reason))


def _skip(turn: Turn, command: asks.SkipStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(command.step)
        return
    document = turn.state.graph.steps[command.step]
    if not document.optional:
        turn.refuse("not_optional", f"the plan does not declare step {command.step} as optional", command.step)
    elif step.status is StepStatus.DISPATCHED or step.status in SATISFIED or step.status is StepStatus.CANCELLED:
        turn.refuse("cannot_skip", f"step {command.step} is {step.status}", command.step)
    elif turn.state.unsettled[command.step]:
        # Skipping it now would let what is behind it start before what is in front of it is settled: a gate, say.
        turn.refuse("not_reached", f"step {command.step} still waits for the steps that it needs", command.step)
    elif isinstance(document, Gate) and not command.reason.strip():
        turn.refuse("reason_required", f"skipping gate {command.step} takes a reason", command.step)
    else:
        turn.record(events.StepSkipped(step=command.step, by=turn.by, reason=command.reason))


def _resolve(turn: Turn, command: asks.ResolveStep) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(command.step)
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
        turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=failure, by=turn.by))
        failed(turn, command.step)


def _due(turn: Turn, command: asks.TimerDue) -> None:
    step = turn.state.steps.get(command.step)
    if step is None or step.status is not StepStatus.WAITING or turn.state.status in ENDED:
        return
    if command.purpose == "retry" and step.retry_at is not None and step.attempt + 1 == command.attempt:
        turn.record(events.StepReopened(step=command.step, by=PLANMESH))
    elif step.opened is None or step.attempt != command.attempt:
        return
    elif command.purpose == "escalate":
        escalate(turn, command.step, command.level, "nobody has answered in time")
    elif command.purpose == "sla" and not step.overdue:
        _overdue(turn, command, step.opened)


def _overdue(turn: Turn, command: asks.TimerDue, opened: events.GateOpened | events.AskOpened) -> None:
    if isinstance(opened, events.AskOpened):
        if not turn.alone and answer_by_default(turn, opened):
            return
        if turn.alone:
            turn.refuse("too_large", f"the default cannot be the answer: {turn.alone}", command.step)
    turn.record(events.GateOverdue(step=command.step, round=command.attempt))


def _notified(turn: Turn, command: asks.ReportNotice) -> None:
    if command.step in turn.state.steps:
        turn.record(
            events.NoticeSent(
                step=command.step,
                round=command.round,
                notice=command.notice,
                level=command.level,
                channel=command.channel,
                delivered=command.delivered,
                detail=command.detail,
            )
        )
