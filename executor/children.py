"""Steps that others work on: plans that the planner writes, and plans that run for a step. Pure.

A plan that runs for a step has a record of its own, in the same space. It says where it is (`told`), and its parent
decides what follows (`moved`); what the parent wants of it goes there as commands (`errands`).
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from planmesh.executor.failures import failed
from planmesh.executor.released import released_by
from planmesh.executor.turn import Turn
from planmesh.schemas import events
from planmesh.schemas.commands import (
    AnyCommand,
    CancelPlan,
    PausePlan,
    ReportChild,
    ReportDraft,
    ResumePlan,
    RetryStep,
)
from planmesh.schemas.events import AnyEvent, Commit
from planmesh.schemas.expressions import evaluate, parse
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Draft, Run
from planmesh.schemas.state import ENDED, SATISFIED, Names, PlanState, PlanStatus, StepState, StepStatus
from planmesh.schemas.subjects import PLANNER, Address
from planmesh.schemas.templates import compile_template
from planmesh.schemas.tracing import attempt_traceparent
from planmesh.schemas.work import ChildStep, DraftWork, Failure, Parent, RunWork, StepPlanning

FOR_CHILDREN: Final = (PausePlan, ResumePlan, CancelPlan, RetryStep)
"""What the executor asks of plans that run for a step (`may_steer`), and of no others."""

PLANNING_BYTES: Final = 7 * 1024 * 1024
"""What the planner is handed for a step."""

MAX_DEPTH: Final = 8
"""How many plans may run inside of one another."""

EXECUTOR: Final = "executor"
"""Who pauses, resumes and cancels plans on behalf of those that they run for."""

SAYS_STATUS: Final = (
    events.PlanCreated,
    events.PlanRefused,
    events.PlanStarted,
    events.PlanWaiting,
    events.PlanPaused,
    events.PlanResumed,
    events.PlanCompleted,
    events.PlanFailed,
    events.PlanCancelled,
)
"""Events after which a plan is in another status."""


def child_id(state: PlanState, step: str, attempt: int) -> str:
    """What the plan is called that runs for an attempt of *step*: the same each time, and for nothing else."""
    at = state.address
    unique = hashlib.sha256(f"{at.space}.{at.plan}.{step}.{attempt}.{state.goal_digest}".encode()).hexdigest()[:10]
    return f"{at.plan[:30]}-{step[:20]}-{unique}"


def send_away(turn: Turn, step: Draft | Run) -> None:
    """Hand *step* to whoever works on it."""
    state = turn.state
    attempt = state.steps[step.name].attempt + 1
    if isinstance(step, Run) and depth_of(state) >= MAX_DEPTH:
        message = f"plans run inside of one another {MAX_DEPTH} deep at most; this one is at the bottom already"
        failure = Failure(code="too_deep", message=message, retryable=False)
        turn.record(events.StepFailed(step=step.name, attempt=attempt, failure=failure))
        failed(turn, step.name)
        return
    if isinstance(step, Draft):
        turn.record(events.StepDispatched(step=step.name, attempt=attempt, agent=""))
        return
    if not state.plans_left:
        message = (
            f"no more plans may run for this one: of the {state.mandate.plans:,} that it was given, for its steps and "
            "those of these plans, none is left (limits.plans)"
        )
        failure = Failure(code="too_many_plans", message=message, retryable=False)
        turn.record(events.StepFailed(step=step.name, attempt=attempt, failure=failure))
        failed(turn, step.name)
        return
    child = child_id(state, step.name, attempt)
    plans = _share(state) - 1
    turn.record(events.StepDispatched(step=step.name, attempt=attempt, agent="", child=child, plans=plans))


def _share(state: PlanState) -> int:
    """How many plans the next plan may come to, itself included: as many as every other that is still to run, and a
    share is kept for those that are tried again, or that a revision adds."""
    begun = (StepStatus.DISPATCHED, StepStatus.CANCELLED, *SATISFIED)
    to_come = sum(
        isinstance(step, Run) and state.steps[name].status not in begun for name, step in state.graph.steps.items()
    )
    return max(1, state.plans_left // (to_come + 1))


def depth_of(state: PlanState) -> int:
    """How many plans there are above this one."""
    parent = state.created.parent if state.created is not None else None
    return 0 if parent is None else parent.depth


def planning(state: PlanState, step: Draft | Run, event: events.StepDispatched, names: Names) -> StepPlanning:
    """What the planner has to know to do its part for *step*.

    Raises:
        ExpressionError: Its inputs, or its document, cannot be put together.
        NeedsBlob: Something that they read has to be fetched first.
    """
    at, created = state.address, state.created
    assert created is not None  # or nothing would have been handed out
    inputs = compile_template(step.inputs).render(names)
    assert isinstance(inputs, dict)
    if isinstance(step, Draft):
        return DraftWork(
            space=at.space,
            plan=at.plan,
            step=event.step,
            attempt=event.attempt,
            inputs=inputs,
            agents=step.agents,
            max_steps=step.max_steps,
            strict=step.strict,
            policy=state.plan.policy,
        )
    return RunWork(
        space=at.space,
        plan=at.plan,
        step=event.step,
        attempt=event.attempt,
        child=event.child,
        depth=depth_of(state) + 1,
        document=evaluate(parse(step.document), names),
        inputs=inputs,
        mode=step.mode,
        permissions=step.permissions,
        policy=state.plan.policy,
        mandate=msgspec.structs.replace(
            state.mandate,
            plans=event.plans,
            authors=_authors(state, step),
            gates=released_by(state, step.name),
        ),
        traceparent=attempt_traceparent(at, created.goal_digest, created.traceparent, event.step, event.attempt),
    )


def _authors(state: PlanState, step: Run) -> dict[str, str]:
    """Who was the last to revise *step*, or anything that came before it and so has made its plan what it is; and
    those who have revised what its own plan comes of."""
    if not state.authors:
        return state.mandate.authors
    before = [step.name, *state.graph.before(step.name)]
    # The nearest counts for whoever has revised several.
    own = {
        state.authors[name]: f"step {name} of plan {state.address.plan}"
        for name in reversed(before)
        if name in state.authors
    }
    return state.mandate.authors | own


# --- what comes back ---------------------------------------------------------------------------------------


def drafted(turn: Turn, command: ReportDraft) -> None:
    """The planner has written a plan for a step, or could not."""
    step = _in_flight(turn.state, command.step, command.attempt)
    if step is None or not isinstance(turn.state.graph.steps[command.step], Draft):
        return
    if command.document is not None:
        output = Payload(value=command.document)
        turn.record(
            events.StepCompleted(step=command.step, attempt=command.attempt, output=output, calls=command.calls)
        )
        return
    failure = command.failure or Failure(code="no_draft", message="the planner gave neither a plan nor a reason")
    turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=failure, calls=command.calls))
    failed(turn, command.step)


def moved(turn: Turn, command: ReportChild) -> None:
    """A plan that runs for a step says where it is."""
    ended = command.status in ENDED
    step = _in_flight(turn.state, command.step, command.attempt)
    if step is None or step.child != command.child:
        known = turn.state.steps.get(command.step) or turn.state.superseded.get(command.step)
        # A draft that its step was to record, and no more, is anybody's to start, and then no concern of the step.
        handed_over = known is not None and known.status is StepStatus.COMPLETED and known.child == command.child
        if not ended and known is not None and not handed_over:
            # It was created while its step was being cancelled.
            turn.record(events.ChildRecalled(step=command.step, attempt=command.attempt, child=command.child))
        elif ended:
            _gives_back(turn, command)
        return
    run = turn.state.graph.steps[command.step]
    assert isinstance(run, Run)  # nothing else has a child
    if command.number <= step.child_number:
        return
    plans_left = _unused(command, step.plans)
    done = command.status == "completed" or (run.mode == "draft" and not ended)
    if done and turn.alone:
        message = f"plan {command.child} is {command.status}, and {turn.alone}"
        failure = Failure(code="too_large", message=message[:4_000], retryable=False)
        left = plans_left if ended else 0
        turn.record(events.StepFailed(step=command.step, attempt=command.attempt, failure=failure, plans_left=left))
        if not ended:
            turn.record(events.ChildRecalled(step=command.step, attempt=command.attempt, child=command.child))
        failed(turn, command.step)
    elif done:
        output: dict[str, object] = {"plan": command.child, "status": command.status}
        if command.status == "completed":
            shown = command.result.value
            if command.result.blob is not None:
                shown = {"$blob": command.result.blob.sha256, "size_bytes": command.result.blob.size_bytes}
            output |= {"outcome": command.outcome, "result": shown}
        left = plans_left if ended else 0  # a draft that somebody starts may use them
        turn.record(
            events.StepCompleted(
                step=command.step, attempt=command.attempt, output=Payload(value=output), plans_left=left
            )
        )
    elif ended:
        message = f"plan {command.child} {_ENDS[command.status]}" + (f": {command.reason}" if command.reason else "")
        failure = Failure(code=f"child_{command.status}", message=message[:4_000], retryable=False)
        turn.record(
            events.StepFailed(step=command.step, attempt=command.attempt, failure=failure, plans_left=plans_left)
        )
        failed(turn, command.step)
    else:
        stuck = command.status == "paused" and not command.held and command.troubled
        turn.record(
            events.ChildMoved(
                step=command.step,
                attempt=command.attempt,
                child=command.child,
                status=command.status,
                number=command.number,
                reason=command.reason,
                paused_by=command.paused_by,
                retries=command.troubled if stuck and step.retried < run.retries else (),
            )
        )


def _gives_back(turn: Turn, command: ReportChild) -> None:
    """A plan that no step waits for any more has ended: what it has not used is there for others."""
    plans_left = _unused(command, turn.state.lent.get(command.child, 0))
    if plans_left and turn.state.status not in ENDED:
        turn.record(
            events.ChildEnded(
                step=command.step,
                attempt=command.attempt,
                child=command.child,
                status=command.status,
                plans_left=plans_left,
            )
        )


def _unused(command: ReportChild, given: int) -> int:
    """How many plans are left of those that an ended one was *given*. One that was refused has run nothing."""
    return given if command.status == "refused" else min(command.plans_left, given)


_ENDS: Final = {"failed": "failed", "cancelled": "was cancelled", "refused": "was refused"}


def _in_flight(state: PlanState, name: str, attempt: int) -> StepState | None:
    step = state.steps.get(name)
    if step is None or state.status in ENDED or step.status is not StepStatus.DISPATCHED or step.attempt != attempt:
        return None
    return step


# --- what a child says -------------------------------------------------------------------------------------


def told(state: PlanState, commit: Commit, index: int) -> tuple[Parent, ReportChild] | None:
    """What the parent of a plan is to hear of event number *index* of *commit*, if anything; *state* is the plan's, at
    that commit or later. Of several events of one commit, the last one says it."""
    event = commit.events[index]
    if isinstance(event, events.CommandRefused) and event.parent is not None:
        return event.parent, _never_created(event.parent, commit, event.reason)
    parent = state.parent
    if parent is None:
        return None
    said = [number for number, event in enumerate(commit.events) if isinstance(event, SAYS_STATUS)]
    if not said or index != said[-1]:
        return None
    status = state.status
    reason = state.reason
    if state.refused is not None:
        reason = "; ".join(problem.message for problem in state.refused.problems[:5])
    return (
        parent,
        ReportChild(
            id=_report_id(state.address, state.number),
            step=parent.step,
            attempt=parent.attempt,
            child=state.address.plan,
            number=state.number,
            status=str(status),  # type: ignore[arg-type]  # a plan that is told of exists
            held=state.held,
            paused_by=state.by if state.held else "",
            outcome=state.outcome,
            result=state.result if status is PlanStatus.COMPLETED else NOTHING,
            reason=reason[:1_000],
            # Nobody but a person tries again what was rejected, or what may have been done.
            troubled=tuple(
                ChildStep(step=name, attempt=state.steps[name].attempt)
                for name in state.troubled
                if state.steps[name].status is StepStatus.FAILED
            )[:100],
            plans_left=state.plans_left,
        ),
    )


def _never_created(parent: Parent, commit: Commit, reason: str) -> ReportChild:
    """There was another plan by the id of the child."""
    return ReportChild(
        id=_report_id(commit.address, commit.number),
        step=parent.step,
        attempt=parent.attempt,
        child=commit.plan,
        number=commit.number,
        status="refused",
        reason=reason[:1_000],
    )


def _report_id(child: Address, number: int) -> str:
    return f"r-{number}-{hashlib.sha256(child.plan.encode()).hexdigest()[:16]}"


# --- what a parent wants -----------------------------------------------------------------------------------


def may_steer(state: PlanState, command: AnyCommand) -> bool:
    """Whether a plan does what *command* says, which comes from the plan that it runs for.

    Not somebody's own plan, by the id that the plan for a step would have. Nor a draft that a step was to make, and
    that somebody has started: the step may be done by then, and would never take a pause back that comes late.
    """
    return state.parent is not None and (isinstance(command, CancelPlan) or state.started_by in ("", PLANNER))


class Errand(NamedTuple):
    """A command for a plan that runs for a step."""

    to: Address
    command: AnyCommand


def errands(state: PlanState, event: AnyEvent, token: str) -> Iterator[Errand]:
    """What *event* asks of the plans that run for steps; *state* is the plan's, then or later.

    Args:
        token: What the ids of the commands begin with: the same each time.
    """
    at = state.address
    match event:
        case events.StepsCancelled():
            for stopped in event.stopped:
                if stopped.child:
                    reason = f"step {stopped.step} of plan {at.plan}, which it ran for, was cancelled"
                    yield Errand(Address(at.space, stopped.child), CancelPlan(id=token, reason=reason))
        case events.ChildRecalled():
            reason = f"step {event.step} of plan {at.plan} waits for it no more"
            yield Errand(Address(at.space, event.child), CancelPlan(id=token, reason=reason))
        case events.PlanPaused(held=True) if state.held:
            yield from _stand_still(state, state.away, token)
        case events.PlanResumed(held=True) if not state.held:
            yield from _go_on(state, state.away, token)
        case events.StepPaused():
            yield from _stand_still(state, (event.step,), token)
        case events.StepResumed() if not state.held:
            yield from _go_on(state, (event.step,), token)
        case events.ChildMoved():
            step = state.steps.get(event.step)
            if step is None or step.child != event.child or step.status is not StepStatus.DISPATCHED:
                return
            # What was asked of it may have come before it was created, or in another order.
            if not event.paused_by and (state.held or step.held):
                yield from _stand_still(state, (event.step,), token)
            elif event.paused_by == EXECUTOR and not state.held:
                yield from _go_on(state, (event.step,), token)
            for number, tried in enumerate(event.retries):
                reason = f"step {event.step} of plan {at.plan} tries it again"
                retry = RetryStep(id=f"{token}-{number}", step=tried.step, attempt=tried.attempt, reason=reason)
                yield Errand(Address(at.space, event.child), retry)


def _stand_still(state: PlanState, names: Iterable[str], token: str) -> Iterator[Errand]:
    """The plans that run for steps in *names* are to stand still, as far as what they run for does."""
    for name, child in _children(state, names):
        if state.held or state.steps[name].held:
            what = "plan" if state.held else f"step {name} of plan"
            reason = f"it runs for {what} {state.address.plan}, which is paused"
            yield Errand(child, PausePlan(id=token, reason=reason))


def _go_on(state: PlanState, names: Iterable[str], token: str) -> Iterator[Errand]:
    for name, child in _children(state, names):
        if not state.steps[name].held:
            reason = f"it runs for plan {state.address.plan}, which goes on"
            yield Errand(child, ResumePlan(id=token, reason=reason))


def _children(state: PlanState, names: Iterable[str]) -> Iterator[tuple[str, Address]]:
    """Those of the steps in *names* that plans run for, with these plans."""
    for name in names:
        step = state.steps.get(name)
        if step is not None and step.status is StepStatus.DISPATCHED and step.child:
            yield name, Address(state.address.space, step.child)
