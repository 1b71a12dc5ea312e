"""One plan as the command line shows it: the same whether the auditor's tables or the log itself were read.

It is also what ``-o json`` prints, so its parts are those of `planmesh.schemas.queries`.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from planmesh.schemas.four_eyes import barred
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Gate, Permissions, Plan, Task
from planmesh.schemas.queries import GateRow, PlanAnswer, PlanRow, StepRow, asked
from planmesh.schemas.state import SATISFIED, Graph, PlanState, StepState, StepStatus, open_asks, open_gates, overdue


class PlanView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan with its steps and its open gates."""

    plan: PlanRow
    document: Plan | None = None
    """None of a goal that was refused."""
    inputs: dict[str, Any] = {}
    result: Payload = NOTHING
    problems: tuple[Problem, ...] = ()
    """Why the goal was refused."""
    origin: Origin | None = None
    """Who wrote the plan as it was created, if that was not whoever asked."""
    steps: tuple[StepRow, ...] = ()
    """In the order of the document; then those that revisions took out."""
    gates: tuple[GateRow, ...] = ()
    """Those that are open."""

    @property
    def by_name(self) -> Mapping[str, StepRow]:
        return {step.step: step for step in self.steps}


def of_answers(plan: PlanAnswer, steps: tuple[StepRow, ...], gates: tuple[GateRow, ...]) -> PlanView:
    """What the auditor says."""
    return PlanView(
        plan=plan.plan,
        document=plan.document,
        inputs=plan.inputs,
        result=plan.result,
        problems=plan.problems,
        origin=plan.origin,
        steps=steps,
        gates=gates,
    )


def of_state(state: PlanState, sequence: int = 0) -> PlanView:
    """What the log says, folded.

    Args:
        sequence: Where in the stream the plan's log begins; 0 if that was not asked.
    """
    origin = state.created or state.refused
    assert origin is not None
    assert state.created_at is not None
    assert state.updated_at is not None
    row = PlanRow(
        space=state.address.space,
        plan=state.address.plan,
        name=state.document.name if state.document is not None else state.refused.name if state.refused else "",
        goal=origin.goal or (state.document.goal if state.document is not None else ""),
        status=state.status,
        reason=state.reason,
        by=state.by,
        outcome=state.outcome,
        requester=state.requester,
        steps=len(state.steps),
        settled=len(state.steps) - state.open,
        running=state.running,
        gates=tuple(open_gates(state)),
        asks=tuple(open_asks(state)),
        overdue=tuple(overdue(state)),
        troubled=state.troubled,
        held=state.held,
        held_steps=state.held_steps,
        revision=state.revision,
        created_at=state.created_at,
        updated_at=state.updated_at,
        ended_at=state.ended_at,
        number=state.number,
        sequence=sequence,
        parent=state.parent,
    )
    if state.created is None:
        assert state.refused is not None  # one of the two, see above
        return PlanView(plan=row, problems=state.refused.problems, origin=state.refused.origin)
    return PlanView(
        plan=row,
        document=state.plan,
        inputs=state.created.inputs,
        result=state.result,
        origin=state.created.origin,
        steps=(
            *(step_row(state, name) for name in state.graph.steps),
            *(_gone(name, step) for name, step in sorted(state.superseded.items())),
        ),
        gates=tuple(gate_row(state, name) for name in (*open_gates(state), *open_asks(state))),
    )


def step_row(state: PlanState, name: str) -> StepRow:
    """One step of a folded log, which holds no inputs: only the auditor's tables have them."""
    return _step_row(state.graph, name, state.steps[name])


def _step_row(graph: Graph, name: str, step: StepState) -> StepRow:
    document, item = graph.steps[name], graph.items.get(name)
    task = document if isinstance(document, Task) else None
    return StepRow(
        step=name,
        kind=str(document.__struct_config__.tag),
        label=document.label,
        status=step.status,
        since=step.since,
        needs=graph.needs[name],
        optional=document.optional,
        attempt=step.attempt,
        held=step.held,
        agent=step.agent or (task.agent if task is not None else ""),
        worker=step.worker,
        version=step.version,
        permissions=(task.permissions if task is not None else None) or Permissions(),
        idempotent=task is not None and bool(task.idempotent),
        output=step.output,
        branch=step.label,
        failure=step.failure,
        reason=step.reason,
        retry_at=step.retry_at,
        dispatched_at=step.since if step.status is StepStatus.DISPATCHED else None,
        started_at=step.started_at,
        finished_at=step.since if step.status in SATISFIED or step.status is StepStatus.FAILED else None,
        duration_s=step.duration_s,
        usage=step.usage,
        child=step.child,
        child_status=step.child_status,
        each=item.each if item is not None else "",
        item=item.number if item is not None else 0,
        votes=step.votes,
    )


def _gone(name: str, step: StepState) -> StepRow:
    """A step that a revision took out: what kind it was, only the auditor's tables know."""
    return StepRow(
        step=name,
        kind="",
        status=step.status,
        since=step.since,
        attempt=step.attempt,
        agent=step.agent,
        output=step.output,
        failure=step.failure,
        reason=step.reason,
    )


def gate_row(state: PlanState, name: str) -> GateRow:
    """A gate or an ask that is open, from a folded log."""
    step, document = state.steps[name], state.graph.steps[name]
    assert step.opened is not None
    assert step.since is not None
    about = {
        "space": state.address.space,
        "plan": state.address.plan,
        "plan_name": state.plan.name,
        "step": name,
        "label": document.label,
        "reviewers": step.reviewers,
        "escalated": step.also,
        "votes": step.votes,
        "four_eyes": isinstance(document, Gate) and document.four_eyes,
        "barred": barred(state, name),
        "require_reason": isinstance(document, Gate) and document.require_reason,
        "since": step.since,
        "overdue": step.overdue,
        "invalid": step.invalid,
    }
    return GateRow(**{**asked(step.opened), **about})
