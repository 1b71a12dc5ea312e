"""Revisions: who may ask for one, what it may not do, which gates ask again. Pure.

Someone asks (`revise`, `redirect`, or a retry with other inputs or another agent); the planner answers with a plan that
is checked and completed, or with what is wrong; then it is carried out on the state of that moment, or refused.
"""

from collections.abc import Iterator

import msgspec

from planmesh.executor.gates import is_open, may_answer, open_gate, release_digest
from planmesh.executor.turn import Turn, described
from planmesh.schemas import events
from planmesh.schemas.commands import ProposeRevision, RedirectPlan, RevisePlan
from planmesh.schemas.events import RevisionRequested
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Gate, Permissions, Plan, Step, Task
from planmesh.schemas.revision import difference
from planmesh.schemas.state import CHANGEABLE, ENDED, TROUBLED, Graph, PlanState, StepStatus, open_gates


def revise(turn: Turn, command: RevisePlan) -> None:
    """Ask the planner for what the plan is to be from here on."""
    if not turn.state.graph.steps or turn.state.status in ENDED:
        turn.refuse("ended", f"the plan is {described(turn.state)}")
    elif command.base != turn.state.revision:
        turn.refuse("stale", f"the plan is at revision {turn.state.revision}, not {command.base}")
    elif (command.document is None) == (not command.instruction):
        turn.refuse("unclear", "a revision takes either a document or an instruction")
    else:
        turn.record(
            RevisionRequested(
                request=command.id,
                kind="revise",
                by=turn.by,
                base=command.base,
                reason=command.reason,
                document=command.document,
                instruction=command.instruction,
                cancel_running=command.cancel_running,
            )
        )


def redirect(turn: Turn, command: RedirectPlan) -> None:
    """The same, from a gate, by one of its reviewers. It asks again when the answer is there."""
    if not may_answer(turn, command.step):
        return
    step = turn.state.steps[command.step]
    assert step.opened is not None  # it is open, or it could not be answered
    if command.digest != step.opened.digest:
        turn.refuse("stale", f"the answer quotes another digest than gate {command.step} has now", command.step)
    elif (command.document is None) == (not command.instruction):
        turn.refuse("unclear", "a redirection takes either a document or an instruction", command.step)
    else:
        turn.record(
            RevisionRequested(
                request=command.id,
                kind="redirect",
                by=turn.by,
                base=turn.state.revision,
                reason=command.reason,
                document=command.document,
                instruction=command.instruction,
                step=command.step,
                attempt=step.attempt,
            )
        )


def propose(turn: Turn, command: ProposeRevision) -> None:
    """Carry out what the planner has worked out, or say why not. A request that was answered before says nothing."""
    request = turn.state.requests.get(command.request)
    if request is None or turn.state.status in ENDED:
        return
    problems = command.problems
    if command.plan is not None and not problems:
        problems = refusals(turn.state, request, command.plan, by_planner=command.by_planner)
    if command.plan is None or problems:
        turn.record(events.RevisionRefused(request=command.request, by=request.by, problems=problems))
        gate = turn.state.graph.steps.get(request.step)
        if request.kind == "redirect" and isinstance(gate, Gate) and is_open(turn.state, request.step):
            why = "; ".join(problem.message for problem in problems[:3])
            open_gate(turn, gate, because=f"the redirection by {request.by} cannot be: {why}"[:1_000])
        return
    _carry_out(turn, request, command.plan)


def _carry_out(turn: Turn, request: RevisionRequested, revised: Plan) -> None:
    before = turn.state
    asks_again = to_ask_again(before, revised)
    revised = behind_again(before, revised, asks_again)
    changes = difference(before.plan, revised)
    kept = {step.name for step in revised.steps}
    running = tuple(
        name for name, step in before.steps.items() if name not in kept and step.status is StepStatus.DISPATCHED
    )
    if running:
        turn.record(events.StepsCancelled(steps=tuple(sorted(running))))
    turn.record(
        events.PlanRevised(
            revision=before.revision + 1,
            request=request.request,
            by=request.by,
            reason=request.reason or request.instruction[:1_000],
            plan=revised,
            changes=changes,
            asks_again=asks_again,
        )
    )
    if request.kind == "retry" and turn.state.steps[request.step].status in TROUBLED:
        turn.record(events.StepReopened(step=request.step, by=request.by, reason=request.reason))
    said = request.instruction or request.reason
    why = f"{request.by} has revised what it would release" + (f": {said}" if said else "")
    for name in open_gates(turn.state):
        gate, opened = turn.state.graph.steps[name], turn.state.steps[name].opened
        assert isinstance(gate, Gate)  # `open_gates` lists nothing else
        assert opened is not None
        if name == request.step or opened.digest != release_digest(turn.state, name):
            open_gate(turn, gate, because=why[:1_000], changes=changes)


def refusals(state: PlanState, request: RevisionRequested, revised: Plan, *, by_planner: bool) -> tuple[Problem, ...]:
    """Why *revised* cannot take the place of the plan that *state* has; none if it can.

    Args:
        by_planner: Whether the planner wrote it by itself: then it may not loosen a gate or widen a permission.
    """
    problems = list(_started_steps_changed(state, request, revised))
    if request.base != state.revision:
        problems.append(
            Problem(
                code="stale",
                message=f"it was made against revision {request.base}, and the plan is at {state.revision}",
                hint=f"planmesh show {state.address.plan}, and revise again",
            )
        )
    if by_planner:
        problems += _loosened(state, revised)
    return tuple(problems)


def may_change(state: PlanState, name: str) -> bool:
    """Whether a revision may change or remove a step: nothing of it has been begun, or it has to begin anew."""
    step = state.steps[name]
    return step.status in CHANGEABLE or (step.status is StepStatus.WAITING and step.opened is not None)


def to_ask_again(state: PlanState, revised: Plan) -> tuple[str, ...]:
    """The approved gates behind which there is now something to start that nobody has approved."""
    graph = Graph.of(revised)
    return tuple(
        name
        for name, step in graph.steps.items()
        if isinstance(step, Gate)
        and name in state.steps
        and state.steps[name].status is StepStatus.COMPLETED
        and any(_is_news(state, graph, name, behind) for behind in graph.behind(name))
    )


def behind_again(state: PlanState, revised: Plan, gates: tuple[str, ...]) -> Plan:
    """The plan in which everything that is to start behind *gates* needs them itself.

    Between such a gate and a step behind it there may be one that it let go before: that one will finish, and must
    not let the next one start while the gate asks again.
    """
    graph = Graph.of(revised)
    more: dict[str, list[str]] = {}
    for gate in gates:
        for name in graph.behind(gate):
            waits = name not in state.steps or may_change(state, name)
            if waits and gate not in graph.needs[name]:
                needs_started = any(need in state.steps and not may_change(state, need) for need in graph.needs[name])
                if needs_started:
                    more.setdefault(name, []).append(gate)
    if not more:
        return revised
    steps = tuple(
        msgspec.structs.replace(step, after=(*step.after, *more.get(step.name, ()))) for step in revised.steps
    )
    return msgspec.structs.replace(revised, steps=steps)


def _is_news(state: PlanState, graph: Graph, gate: str, name: str) -> bool:
    if name not in state.steps:
        return True
    return may_change(state, name) and (
        graph.steps[name] != state.graph.steps[name] or name not in state.graph.behind(gate)
    )


def _started_steps_changed(state: PlanState, request: RevisionRequested, revised: Plan) -> Iterator[Problem]:
    new = {step.name: (index, step) for index, step in enumerate(revised.steps)}
    for name, step in state.graph.steps.items():
        if may_change(state, name):
            continue
        status = state.steps[name].status
        if name not in new:
            if not (status is StepStatus.DISPATCHED and request.cancel_running):
                hint = "cancel it with --cancel-running" if status is StepStatus.DISPATCHED else ""
                yield Problem(
                    code="started", message=f"step {name} is {status}, and the revision leaves it out", hint=hint
                )
        elif new[name][1] != step:
            yield Problem(
                code="started",
                pointer=f"/steps/{new[name][0]}",
                message=f"step {name} is {status}, and cannot change any more",
                hint="leave it as it is, and add a step with another name",
            )


def _loosened(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """What only a person may do: open a way around a gate, weaken one, or give a step more than it had."""
    graph = Graph.of(revised)
    undecided = [
        (name, step)
        for name, step in state.graph.steps.items()
        if isinstance(step, Gate) and state.steps[name].status not in (StepStatus.COMPLETED, StepStatus.SKIPPED)
    ]
    changed = {name for name, step in graph.steps.items() if state.graph.steps.get(name) != step}
    for name, gate in undecided:
        new = graph.steps.get(name)
        if not isinstance(new, Gate) or _is_weaker(gate, new):
            yield Problem(code="loosens", message=f"it removes or weakens gate {name}, which nobody has decided")
            continue
        was_behind, is_behind = set(state.graph.behind(name)), set(graph.behind(name))
        around = [step for step in was_behind & graph.steps.keys() if step not in is_behind]
        # A new step may do what one behind the gate did: it has to stand there too.
        around += [step for step in changed if step not in is_behind and step not in state.graph.steps]
        for step in sorted(around):
            yield Problem(code="loosens", message=f"step {step} goes around gate {name}, which nobody has decided")
    for name in sorted(changed & state.graph.steps.keys()):
        if _is_wider(state.graph.steps[name], graph.steps[name]):
            yield Problem(code="loosens", message=f"step {name} is given permissions that it did not have")


def _is_weaker(old: Gate, new: Gate) -> bool:
    return (
        not set(new.reviewers) <= set(old.reviewers)
        or new.quorum < old.quorum
        or (old.four_eyes and not new.four_eyes)
        or (old.require_reason and not new.require_reason)
        or (new.optional and not old.optional)
    )


def _is_wider(old: Step, new: Step) -> bool:
    if not isinstance(new, Task):
        return False
    had = (old.permissions if isinstance(old, Task) else None) or Permissions()
    has = new.permissions or Permissions()
    return any(not set(getattr(has, field)) <= set(getattr(had, field)) for field in Permissions.__struct_fields__)
