"""From the log to rows and spans. Pure: a plan's state and its next commit give what the tables must hold then.

A row is written from the plan's state at the end of a batch of commits, so a step that went through three statuses in
it costs one statement. What hardly ever changes (`plan_start`, `plan_document`, `step_start`) is written once, and
again when a revision changes it; `plan_now` and `step_now` each time.
"""

from collections.abc import Container
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_args

import msgspec

from planmesh.auditor.spans import Span, spans_of, trace_id
from planmesh.schemas import events
from planmesh.schemas.codec import encode
from planmesh.schemas.events import AnyEvent, Commit, GateOpened
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.payload import INLINE_INPUTS_BYTES, Payload, blob_of, canonical
from planmesh.schemas.plan import Ask, Gate, Permissions, Task
from planmesh.schemas.state import (
    Names,
    PlanState,
    StepState,
    StepStatus,
    evolve,
    open_asks,
    open_gates,
    overdue,
    sealed,
)
from planmesh.schemas.templates import Template, compile_template

Row = dict[str, Any]

_PROMPT_CHARACTERS: Final = 300
_KEPT_TEMPLATE_BYTES: Final = 4_096

_GOES_ON: Final = frozenset({StepStatus.PENDING, StepStatus.PAUSED, StepStatus.DISPATCHED, StepStatus.WAITING})
_NOT_REPORTED: Final = frozenset({StepStatus.DISPATCHED, StepStatus.OUTCOME_UNKNOWN})
"""The worker has said nothing of this attempt: what the state holds is of an earlier one."""

_NAMES_A_STEP: Final = frozenset(kind for kind in get_args(AnyEvent) if "step" in kind.__struct_fields__)


class Followed(NamedTuple):
    """A plan as far as the tables have it.

    Attributes:
        id: The sequence of its first commit; 0 before that.
    """

    id: int
    state: PlanState


class Rows(NamedTuple):
    """What a batch of commits changes, by table.

    Attributes:
        plans: New plans.
        plan_changes: Columns of plans that were there; `its_id` says which.
        steps: New steps.
        step_changes: Columns of steps that were there; `its_plan` and `its_step` say which.
        gates_gone: `its_plan` and `its_step` of gates that changed, or closed.
        gates: Gates that are open now.
        lines: New lines of the log.
    """

    plans: list[Row]
    plan_changes: list[Row]
    steps: list[Row]
    step_changes: list[Row]
    gates_gone: list[Row]
    gates: list[Row]
    lines: list[Row]


class Batch:
    """Commits that are written to the tables together.

    Attributes:
        followed: Each plan that has a commit in here, after its last one.
        spans: The spans that have ended.

    Args:
        traced: Whether anybody wants spans.
    """

    def __init__(self, *, traced: bool = False) -> None:
        self.followed: dict[int, Followed] = {}
        self.spans: list[Span] = []
        self._traced = traced
        self._new: set[int] = set()
        self._created: set[int] = set()
        self._revised: dict[int, frozenset[str]] = {}  # with the steps that the tables know
        self._touched: dict[int, dict[str, None]] = {}
        self._begun: dict[tuple[int, str], Row] = {}
        self._gone: dict[tuple[int, str], Row] = {}
        self._lines: list[Row] = []

    def add(self, before: Followed, commit: Commit, commit_hash: str, sequence: int) -> Followed:
        """Fold one commit that fits, stored as message *sequence* of the stream, whose bytes have this hash.

        Returns:
            The plan after it.
        """
        plan_id, state, at = before.id or sequence, before.state, commit.at
        if not before.id:
            self._new.add(plan_id)
        touched = self._touched.setdefault(plan_id, {})
        for index, event in enumerate(commit.events):
            after = evolve(state, event, at)
            kind = type(event)
            if isinstance(event, events.PlanRevised | events.StepsAdded):
                self._revise(plan_id, state, after)
            elif kind in _NAMES_A_STEP:
                name: str = event.step  # type: ignore[union-attr]
                touched[name] = None
                if kind in (events.StepDispatched, events.GateOpened, events.AskOpened):
                    self._begun[plan_id, name] = step_begun(after, name, at)
            elif isinstance(event, events.StepsCancelled):
                touched.update(dict.fromkeys(event.steps))
            elif isinstance(event, events.PlanCreated | events.PlanRefused):
                self._created.add(plan_id)
            if self._traced:
                self.spans.extend(spans_of(state, event, after, at))
            self._lines.append(line(plan_id, commit, index, sequence))
            state = after
        followed = Followed(plan_id, sealed(state, commit.number, commit_hash))
        self.followed[plan_id] = followed
        return followed

    def _revise(self, plan_id: int, before: PlanState, after: PlanState) -> None:
        self._revised.setdefault(plan_id, frozenset(before.steps) | frozenset(before.superseded))
        for name in before.graph.steps:
            if name not in after.graph.steps:
                self._gone[plan_id, name] = step_start(before, name)
        for name in after.graph.steps:
            if name not in before.graph.steps:
                self._begun[plan_id, name] = _NOT_BEGUN  # also if there was one of this name before

    def rows(self) -> Rows:
        rows = Rows([], [], [], [], [], [], [])
        rows.lines.extend(self._lines)
        for plan_id, (_, state) in self.followed.items():
            if plan_id in self._new or plan_id in self._created:
                whole = {**plan_start(state), **plan_document(state), **plan_now(state)}
                if plan_id in self._new:
                    rows.plans.append({"id": plan_id, **whole})
                else:  # before, there was nothing but refusals
                    rows.plan_changes.append({"its_id": plan_id, **whole})
                self._all_steps(rows, plan_id, state, frozenset())
            elif plan_id in self._revised:
                rows.plan_changes.append({"its_id": plan_id, **plan_document(state), **plan_now(state)})
                self._all_steps(rows, plan_id, state, self._revised[plan_id])
            else:
                rows.plan_changes.append({"its_id": plan_id, **plan_now(state)})
                self._touched_steps(rows, plan_id, state)
        return rows

    def _all_steps(self, rows: Rows, plan_id: int, state: PlanState, known: Container[str]) -> None:
        """Every step of a plan that is new, or another one than before; those that were taken out come last."""
        superseded = sorted(state.superseded.items())
        for position, name in enumerate((*state.graph.steps, *(name for name, _ in superseded)), 1):
            if position <= len(state.graph.steps):
                start, now = step_start(state, name), step_now(state.steps[name])
            else:
                start, now = self._gone.get((plan_id, name), {}), step_now(state.superseded[name])
            row = {"position": position, **start, **now}
            begun = self._begun.get((plan_id, name))
            if name in known:
                key: Row = {"its_plan": plan_id, "its_step": name}
                rows.step_changes.append({**key, **row, **(begun or {})})
                rows.gates_gone.append(key)
            else:
                rows.steps.append({"plan_id": plan_id, "step": name, **row, **(begun or _NOT_BEGUN)})
        rows.gates.extend(gate_row(plan_id, state, name) for name in (*open_gates(state), *open_asks(state)))

    def _touched_steps(self, rows: Rows, plan_id: int, state: PlanState) -> None:
        for name in self._touched[plan_id]:
            step = state.steps.get(name)
            if step is None:
                continue  # a command that was refused may name anything
            key: Row = {"its_plan": plan_id, "its_step": name}
            rows.step_changes.append({**key, **step_now(step), **self._begun.get((plan_id, name), {})})
            if isinstance(state.graph.steps[name], Gate | Ask):
                rows.gates_gone.append(key)
                if name in state.waiting:
                    rows.gates.append(gate_row(plan_id, state, name))


def plan_start(state: PlanState) -> Row:
    created, refused = state.created, state.refused
    origin = created or refused
    return {
        "space": state.address.space,
        "plan": state.address.plan,
        "goal": _text(origin.goal) if origin is not None else "",
        "requester": state.requester,
        "goal_digest": state.goal_digest,
        "trace_id": trace_id(state),
        "parent": state.parent,
        "created_at": state.created_at or state.updated_at,
        "inputs": created.inputs if created is not None else None,
        "problems": refused.problems if refused is not None else None,
        "origin": origin.origin if origin is not None else None,
    }


def plan_document(state: PlanState) -> Row:
    """What a revision changes."""
    document, refused = state.document, state.refused
    return {
        "name": document.name if document is not None else refused.name if refused is not None else "",
        "steps": len(state.graph.steps),
        "revision": state.revision,
        "document": document,
    }


def plan_now(state: PlanState) -> Row:
    return {
        "status": str(state.status),
        "reason": _text(state.reason),
        "actor": state.by,
        "outcome": state.outcome,
        "open_steps": state.open,
        "running": state.running,
        "gates": open_gates(state),
        "asks": open_asks(state),
        "overdue": overdue(state),
        "troubled": state.troubled,
        "held": state.held,
        "held_steps": state.held_steps,
        "updated_at": state.updated_at,
        "ended_at": state.ended_at,
        "number": state.number,
        "head": state.head,
        "result": state.result,
    }


def step_start(state: PlanState, name: str) -> Row:
    """What only a revision changes."""
    step, item = state.graph.steps[name], state.graph.items.get(name)
    task = step if isinstance(step, Task) else None
    return {
        "each": item.each if item is not None else "",
        "item": item.number if item is not None else 0,
        "kind": str(step.__struct_config__.tag),
        "label": step.label,
        "optional": step.optional,
        "idempotent": bool(task is not None and task.idempotent),
        "needs": state.graph.needs[name],
        "permissions": (task.permissions if task is not None else None) or Permissions(),
        "agent": task.agent if task is not None else "",
    }


def step_now(step: StepState) -> Row:
    status = step.status
    reported = status not in _NOT_REPORTED
    return {
        "status": str(status),
        "since": step.since,
        "attempt": step.attempt,
        "held": step.held,
        "worker": step.worker if status is not StepStatus.DISPATCHED else "",
        "version": step.version if reported else "",
        "output": step.output,
        "branch": step.label,
        "failure": step.failure,
        "reason": _text(step.reason),
        "votes": step.votes,
        "retry_at": step.retry_at,
        "started_at": _utc(step.started_at) if reported else None,
        "finished_at": None if status in _GOES_ON else step.since,
        "duration_s": step.duration_s if reported else None,
        "usage": step.usage,
        "child": step.child,
        "child_status": step.child_status,
    }


_NOT_BEGUN: Final[Row] = {"begun_at": None, "inputs": None}


def step_begun(state: PlanState, name: str, at: datetime) -> Row:
    """What is known of an attempt as it is handed out, or of a gate as it opens."""
    step = state.graph.steps[name]
    return {"begun_at": at, "inputs": inputs_of(state, step) if isinstance(step, Task) else None}


def inputs_of(state: PlanState, task: Task) -> Payload:
    """What a task is given, large values as references; a digest only, if the whole is large."""
    template = encode(task.inputs)
    value: object = task.inputs
    if b"{" in template[1:] or b"}" in template[:-1]:
        try:
            value = _compiled(template).render_references(Names(state, step=task.name))
        except ExpressionError as error:
            value = {"$error": str(error)}
    data = canonical(value)
    return Payload(value=value) if len(data) <= INLINE_INPUTS_BYTES else Payload(blob=blob_of(data))


def _compiled(template: bytes) -> Template:
    # The same plan is run again and again; and reading a template costs more than all the rest of a step.
    if len(template) <= _KEPT_TEMPLATE_BYTES:
        return _compiled_and_kept(template)
    return compile_template(msgspec.json.decode(template))


@lru_cache(maxsize=1_024)
def _compiled_and_kept(template: bytes) -> Template:
    return compile_template(msgspec.json.decode(template))


def gate_row(plan_id: int, state: PlanState, name: str) -> Row:
    step, document = state.steps[name], state.graph.steps[name]
    opened = step.opened
    return {
        "plan_id": plan_id,
        "step": name,
        "opened_at": step.since,
        "kind": str(document.__struct_config__.tag),
        "label": document.label,
        "four_eyes": isinstance(document, Gate) and document.four_eyes,
        "require_reason": isinstance(document, Gate) and document.require_reason,
        "prompt": opened.prompt[:_PROMPT_CHARACTERS] if opened is not None else "",
        "reviewers": step.reviewers,
        "round": step.attempt,
        "digest": opened.digest if opened is not None else "",
        "quorum": opened.quorum if isinstance(opened, GateOpened) else 1,
        "votes": step.votes,
        "overdue": step.overdue,
        "overdue_at": opened.overdue_at if opened is not None else None,
        "escalated": step.also,
        "invalid": step.invalid,
        "opened": opened,
    }


def line(plan_id: int, commit: Commit, index: int, sequence: int) -> Row:
    event = commit.events[index]
    return {
        "plan_id": plan_id,
        "number": commit.number,
        "event_index": index,
        "sequence": sequence,
        "at": commit.at,
        "type": event.__struct_config__.tag,
        "step": getattr(event, "step", ""),
        "causes": commit.causes if index == 0 else None,
        "event": event,
    }


def _text(text: str) -> str:
    # PostgreSQL has no text with a NUL in it.
    return text.replace("\0", "\ufffd") if "\0" in text else text


def _utc(moment: datetime | None) -> datetime | None:
    """An agent's own clock may say anything."""
    if moment is None or moment.tzinfo is UTC:
        return moment
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None
