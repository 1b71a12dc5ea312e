"""What the log means: `evolve` folds events into the state of a plan. Pure; everybody folds the same function.

A state is a value. Its maps share structure with those of the state before (hash array mapped tries: Bagwell,
*Ideal Hash Trees*, 2001), so that an event costs the same whether a plan has ten steps or ten thousand.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

import msgspec
from immutables import Map
from msgspec import Struct

from planmesh.schemas import events
from planmesh.schemas.each import Item, first_steps, steps_of
from planmesh.schemas.events import (
    AnyEvent,
    AskOpened,
    Cause,
    Commit,
    GateOpened,
    PlanCreated,
    PlanRefused,
    PlanRevised,
    RevisionRequested,
    StepPaused,
)
from planmesh.schemas.expressions import Unloaded
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Ask, Draft, Each, Emit, Gate, Plan, Run, Step, Task
from planmesh.schemas.reads import names_read
from planmesh.schemas.subjects import Address
from planmesh.schemas.templates import Template, compile_template
from planmesh.schemas.work import Failure, Parent, Usage, usage_of


class PlanStatus(StrEnum):
    ABSENT = "absent"
    DRAFT = "draft"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


ENDED: Final = frozenset({PlanStatus.COMPLETED, PlanStatus.FAILED, PlanStatus.CANCELLED, PlanStatus.REFUSED})
STANDING_STILL: Final = frozenset({PlanStatus.WAITING, PlanStatus.PAUSED})
"""Where a plan is when it waits for somebody."""


class StepStatus(StrEnum):
    PENDING = "pending"
    DISPATCHED = "dispatched"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    OUTCOME_UNKNOWN = "outcome_unknown"
    REJECTED = "rejected"
    PAUSED = "paused"
    SKIPPED = "skipped"
    NOT_TAKEN = "not_taken"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """It was in an earlier revision; the state of a plan no longer has it."""


SATISFIED: Final = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED, StepStatus.NOT_TAKEN})
"""What lets the steps behind go on."""
TROUBLED: Final = frozenset({StepStatus.FAILED, StepStatus.OUTCOME_UNKNOWN, StepStatus.REJECTED})
"""What holds a branch up until a person does something."""
CHANGEABLE: Final = frozenset({StepStatus.PENDING, StepStatus.PAUSED, StepStatus.FAILED, StepStatus.REJECTED})
"""What a revision may change: what has not started, and what has to start anew. An open gate as well."""


class StepState(Struct, frozen=True, kw_only=True, gc=False):
    """Where one step is.

    Attributes:
        attempt: The attempt that is or was in flight, from 1; the round of a gate or an ask. 0 before the first.
        not_begun: How many of the attempts were never begun.
        since: When it came to this status.
        output: What it gave, once completed.
        agent: Who was asked, at the last dispatch.
        label: The branch that a `decide` or `check` took.
        opened: What a gate or an ask asks.
        votes: Who has approved in this round.
        groups: Of each of them, those of the gate's reviewers that they were found to be.
        also: Who may answer besides the reviewers: it was escalated to them.
        escalated: How many of its escalations have come about.
        invalid: How many invalid answers this round has had.
        hold: Who has paused it, and why: what is behind it waits, even once it is settled.
        usage: Of models and tools, by the last attempt; None where it has told of no calls.
        child: The plan that it runs.
        child_status: Where that plan is, as it has last said itself, with its commit `child_number`.
        retried: How often failed steps of that plan have been tried again.
        plans: How many plans may run for its steps, in all.
        retrying: Whether they are about to be: nothing has been heard of it since.
        secret: Of an ask that was answered by one: where it is (`planmesh.schemas.secrets.Kept`).
    """

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    not_begun: int = 0
    since: datetime | None = None
    output: Payload = NOTHING
    agent: str = ""
    failure: Failure | None = None
    reason: str = ""
    label: str = ""
    retry_at: datetime | None = None
    opened: GateOpened | AskOpened | None = None
    votes: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    also: tuple[str, ...] = ()
    escalated: int = 0
    invalid: int = 0
    hold: StepPaused | None = None
    overdue: bool = False
    started_at: datetime | None = None
    duration_s: float | None = None
    worker: str = ""
    version: str = ""
    usage: Usage | None = None
    child: str = ""
    child_status: str = ""
    child_number: int = 0
    retried: int = 0
    plans: int = 0
    retrying: bool = False
    secret: str = ""

    @property
    def held(self) -> bool:
        return self.hold is not None

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Who may answer a gate or an ask that has been opened; nobody else's answer counts."""
        asked = () if self.opened is None else self.opened.reviewers
        return (*asked, *(one for one in self.also if one not in asked)) if self.also else asked


FRESH: Final = StepState()


class Graph(Struct, frozen=True, kw_only=True, eq=False):
    """The steps of one plan by name, and who needs whom. Built once for a plan.

    Attributes:
        needs: What must be settled before a step, in the order of the document.
        successors: The other way round.
        bindings: The steps behind each name that an expression may read; several only in exclusive branches.
        items: Where those steps belong that an `each` has added.
    """

    steps: dict[str, Step]
    needs: dict[str, tuple[str, ...]]
    successors: dict[str, tuple[str, ...]]
    bindings: dict[str, tuple[str, ...]]
    items: dict[str, Item]
    _inputs: dict[str, Template] = {}
    _reads: dict[str, frozenset[str]] = {}

    @classmethod
    def of(cls, plan: Plan, items: Mapping[str, int] = {}) -> "Graph":
        """The graph of *plan*, with the steps of the items that each `each` has been given, by its name."""
        steps: dict[str, Step] = {}
        needs: dict[str, tuple[str, ...]] = {}
        successors: dict[str, list[str]] = {step.name: [] for step in plan.steps}
        bindings: dict[str, tuple[str, ...]] = {}
        for step in plan.steps:
            steps[step.name] = step
            needed = step.after
            if step.branch is not None and step.branch.step not in needed:
                needed = (*needed, step.branch.step)
            needs[step.name] = needed
            for name in needed:
                successors[name].append(step.name)
            bindings[step.bound_as] = (*bindings.get(step.bound_as, ()), step.name)
        graph = cls(
            steps=steps,
            needs=needs,
            successors={name: tuple(behind) for name, behind in successors.items()},
            bindings=bindings,
            items={},
        )
        # In the order of the plan: that of a map differs from process to process, and the log means the same to all.
        for name in [step.name for step in plan.steps if step.name in items]:
            graph = graph.with_items(name, items[name])
        return graph

    def with_items(self, name: str, count: int) -> "Graph":
        """The graph once the `each` called *name* has been given *count* items: it needs all of their steps."""
        each = self.steps[name]
        assert isinstance(each, Each)
        steps, needs, items = dict(self.steps), dict(self.needs), dict(self.items)
        successors: dict[str, tuple[str, ...]] = dict(self.successors)
        outer, added = self.needs[name], dict[str, list[str]]()
        for number in range(1, count + 1):
            for step, needed, item in steps_of(each, number, outer):
                steps[step.name] = step
                needs[step.name] = needed
                items[step.name] = item
                successors[step.name] = ()
                for need in needed:
                    added.setdefault(need, []).append(step.name)
                added.setdefault(step.name, []).append(name)
        for need, behind in added.items():
            successors[need] = (*successors[need], *behind)
        needs[name] = (*outer, *(step for step, item in items.items() if item.each == name))
        return Graph(steps=steps, needs=needs, successors=successors, bindings=self.bindings, items=items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.steps == other.steps  # the rest is made of them

    def __hash__(self) -> int:
        return hash(tuple(self.steps))

    def inputs(self, task: Task) -> Template:
        """The inputs of a task, compiled once; once for all items. Raises: ExpressionError."""
        name = self._written_as(task.name)
        compiled = self._inputs.get(name)
        if compiled is None:
            compiled = self._inputs[name] = compile_template(task.inputs)
        return compiled

    def reads(self, name: str) -> frozenset[str]:
        """The names that a step reads, found out once; once for all items. Raises: ExpressionError."""
        written = self._written_as(name)
        read = self._reads.get(written)
        if read is None:
            read = self._reads[written] = names_read(self.steps[name])
        return read

    def _written_as(self, name: str) -> str:
        item = self.items.get(name)
        return name if item is None else item.body

    def behind(self, name: str) -> list[str]:
        """Every step that can only run after *name*, nearest first."""
        return _reached(self.successors, name)

    def before(self, name: str) -> list[str]:
        """Every step that *name* can only run after, nearest first."""
        return _reached(self.needs, name)


def _reached(edges: Mapping[str, tuple[str, ...]], name: str) -> list[str]:
    seen = dict.fromkeys(edges[name])
    queue = list(seen)
    for near in queue:
        for far in edges[near]:
            if far not in seen:
                seen[far] = None
                queue.append(far)
    return queue


_NO_GRAPH: Final = Graph(steps={}, needs={}, successors={}, bindings={}, items={})


_NO_MANDATE: Final = Mandate()


class PlanState(Struct, frozen=True, kw_only=True):
    """Where a plan is, after commit `number`.

    Attributes:
        head: The hash of that commit: what the next one names as `previous`.
        answered: Who has asked what is answered, by the id of the command: an id counts for its actor alone, so that
            nobody can use up the id of what somebody else is about to ask.
        unsettled: For each step that still waits, how many of the steps that it needs are not settled.
        ready: Tasks that may be handed out as soon as there is room, in the order in which they became ready.
        immediate: Steps that `decide` settles in the same turn: they take no room.
        running: How many tasks are dispatched.
        in_hand: How many of them each agent has; those that have none are not named.
        waiting: Steps that wait: open gates and asks, and tasks whose next attempt is due later.
        troubled: Steps that failed, were rejected, or whose outcome is unknown.
        open: How many steps are neither settled nor cancelled.
        held: Whether a person has paused the plan.
        held_steps: The steps that a person has paused.
        revision: The number of the revision that is in force; 1 is the plan as it was created.
        requests: Revisions that were asked for and are not answered, by the id of the command.
        revised: The revision in force, unless it is the first.
        authors: Who has last changed a step, or has taken out what stood behind a gate, by its name; nobody has changed
            those that are as the plan was created.
        superseded: Steps that a revision has taken out, with the state that they had.
        items: The items of each `each` that has been reached.
        admitted: How many of them may be under way, or have been.
        away: Steps that others work on, and that take no room of tasks: plans to be written, and plans that run.
        leaving: Steps of that kind that may be handed out as soon as there is room for them.
        plans_left: How many plans may yet run for its steps, and for those of these plans, in all.
        lent: Plans that run for no step any more, by their ids, with how many plans each was given for its own steps:
            what they do not use of that comes back when they end.
        started_by: Who has started it: the planner, or whoever has started the draft.
        has_secrets: Whether it has ever asked for a secret: there may be some of it, until it ends.
    """

    address: Address
    status: PlanStatus = PlanStatus.ABSENT
    created: PlanCreated | None = None
    document: Plan | None = None
    refused: PlanRefused | None = None
    graph: Graph = _NO_GRAPH
    number: int = 0
    head: str = events.GENESIS
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    answered: Map[str, tuple[str, ...]] = Map()
    steps: Map[str, StepState] = Map()
    unsettled: Map[str, int] = Map()
    ready: tuple[str, ...] = ()
    immediate: tuple[str, ...] = ()
    running: int = 0
    in_hand: Map[str, int] = Map()
    waiting: tuple[str, ...] = ()
    troubled: tuple[str, ...] = ()
    open: int = 0
    held: bool = False
    held_steps: tuple[str, ...] = ()
    revision: int = 0
    requests: Map[str, RevisionRequested] = Map()
    revised: PlanRevised | None = None
    authors: Map[str, str] = Map()
    superseded: Map[str, StepState] = Map()
    items: Map[str, tuple[Payload, ...]] = Map()
    admitted: Map[str, int] = Map()
    away: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    plans_left: int = 0
    lent: Map[str, int] = Map()
    started_by: str = ""
    has_secrets: bool = False
    outcome: str = ""
    result: Payload = NOTHING
    reason: str = ""
    """Why it is paused, or how it ended."""
    by: str = ""
    """Who paused, failed or cancelled it."""

    @property
    def exists(self) -> bool:
        return self.status is not PlanStatus.ABSENT

    @property
    def plan(self) -> Plan:
        """The revision in force. Raises: LookupError, where there is none (absent or refused)."""
        if self.document is None:
            raise LookupError(f"{self.address} has no plan: it is {self.status}")
        return self.document

    def has_answered(self, actor: str, command: str) -> bool:
        """Whether what *actor* asked by the id *command* is answered."""
        return actor in self.answered.get(command, ())

    @property
    def goal_digest(self) -> str:
        origin = self.created or self.refused
        return "" if origin is None else origin.goal_digest

    @property
    def requester(self) -> str:
        origin = self.created or self.refused
        return "" if origin is None else origin.requester

    @property
    def parent(self) -> Parent | None:
        """The step that the plan runs for."""
        origin = self.created or self.refused
        return None if origin is None else origin.parent

    @property
    def mandate(self) -> Mandate:
        """What holds of the plan, however it is revised."""
        return _NO_MANDATE if self.created is None else self.created.mandate


def standing(state: PlanState) -> PlanStatus:
    """What the status of a plan must be, from its steps alone. `decide` ends every turn with it."""
    if state.status in (PlanStatus.ABSENT, PlanStatus.DRAFT) or state.status in ENDED:
        return state.status
    if state.held:
        return PlanStatus.PAUSED
    if state.running or state.ready or state.immediate:
        return PlanStatus.RUNNING
    if any(state.steps[name].child_status not in STANDING_STILL for name in state.away):
        return PlanStatus.RUNNING
    if state.waiting or state.away:
        return PlanStatus.WAITING
    return PlanStatus.PAUSED


class Names(Mapping[str, object]):
    """What expressions read: the outputs of steps by binding, and the plan's inputs. A step that was skipped or not
    taken reads as null.

    Args:
        blobs: Values that have been fetched, by SHA-256; others appear as `Unloaded`.
        step: The step that reads. One of an item of an `each` reads its item, and the steps of the item.
        output: What it gives, if it has not completed yet: it reads that by its own binding.
    """

    def __init__(
        self,
        state: PlanState,
        blobs: Mapping[str, object] = {},
        step: str = "",
        output: Payload | None = None,
    ) -> None:
        self._state = state
        self._blobs = blobs
        self._item = state.graph.items.get(step)
        self._own = None if output is None else (self._called(step), output)

    def __getitem__(self, name: str) -> object:
        state, item = self._state, self._item
        if self._own is not None and name == self._own[0]:
            return self._value(self._own[1])
        if item is not None and name == item.called:
            return self._value(state.items[item.each][item.number - 1])
        steps = self._binders(name)
        if steps is None:
            if state.created is None:
                raise KeyError(name)
            return state.created.inputs[name]
        giver = self._completed(steps)
        return None if giver is None else self._value(state.steps[giver].output)

    def giver(self, name: str) -> str | None:
        """The step whose output *name* reads now; None where it reads something else, or null."""
        item = self._item
        if (self._own is not None and name == self._own[0]) or (item is not None and name == item.called):
            return None
        return self._completed(self._binders(name) or ())

    def _completed(self, steps: Iterable[str]) -> str | None:
        return next((step for step in steps if self._state.steps[step].status is StepStatus.COMPLETED), None)

    def awaited(self, name: str) -> tuple[str, ...]:
        """The steps that *name* will get its value from, where it has none yet."""
        if self._item is not None and name == self._item.called:
            return ()
        steps = self._binders(name) or ()
        status = {step: self._state.steps[step].status for step in steps}
        if StepStatus.COMPLETED in status.values():
            return ()
        return tuple(step for step in steps if status[step] not in SATISFIED)

    def _binders(self, name: str) -> tuple[str, ...] | None:
        """The steps that bind *name*; None if it is no step's."""
        found = None if self._item is None else self._item.bindings.get(name)
        return self._state.graph.bindings.get(name) if found is None else found

    def _called(self, step: str) -> str:
        """How *step* calls its own output: one of an item as the body of the `each` does."""
        if self._item is not None:
            return next(name for name, steps in self._item.bindings.items() if step in steps)
        return self._state.graph.steps[step].bound_as

    def _value(self, payload: Payload) -> object:
        blob = payload.blob
        if blob is None:
            return payload.value
        if blob.sha256 in self._blobs:
            return self._blobs[blob.sha256]
        return Unloaded(blob.sha256, blob.size_bytes)

    def __iter__(self) -> Iterator[str]:
        if self._item is not None:
            yield from (self._item.called, *self._item.bindings)
        yield from self._state.graph.bindings
        if self._state.created is not None:
            yield from self._state.created.inputs

    def __len__(self) -> int:
        return sum(1 for _ in self)


def taken(state: PlanState, name: str) -> bool:
    """Whether a step whose needs are all settled is to run, and not `not_taken`."""
    branch = state.graph.steps[name].branch
    if branch is not None and state.steps[branch.step].label != branch.label:
        return False
    needs = state.graph.needs[name]
    return not needs or any(state.steps[need].status is not StepStatus.NOT_TAKEN for need in needs)


# --- the fold ----------------------------------------------------------------------------------------------


def evolve(state: PlanState, event: AnyEvent, at: datetime) -> PlanState:
    """The state after *event*, which happened *at*. Total: a fact is never refused."""
    match event:
        # The two that every step has come first.
        case events.StepDispatched():
            step = msgspec.structs.replace(
                state.steps[event.step],
                status=StepStatus.DISPATCHED,
                attempt=event.attempt,
                agent=event.agent,
                since=at,
                retry_at=None,
                failure=None,
                started_at=None,
                duration_s=None,
                worker="",
                version="",
                usage=None,
                child=event.child,
                child_status="",
                child_number=0,
                retried=0,
                retrying=False,
                plans=event.plans,
            )
            if not isinstance(state.graph.steps[event.step], Task):
                return _replace(
                    state,
                    steps=state.steps.set(event.step, step),
                    leaving=_without(state.leaving, event.step),
                    away=(*state.away, event.step),
                    plans_left=max(0, state.plans_left - 1 - event.plans) if event.child else state.plans_left,
                    updated_at=at,
                )
            ready = state.ready
            ready = ready[1:] if ready and ready[0] == event.step else _without(ready, event.step)
            return _replace(
                state,
                steps=state.steps.set(event.step, step),
                ready=ready,
                running=state.running + 1,
                in_hand=state.in_hand.set(event.agent, state.in_hand.get(event.agent, 0) + 1),
                updated_at=at,
            )
        case events.StepCompleted():
            return _settle(
                _parted(state, event.step, event.plans_left),
                event.step,
                at,
                status=StepStatus.COMPLETED,
                output=event.output,
                started_at=event.started_at,
                duration_s=event.duration_s,
                worker=event.worker,
                version=event.version,
                usage=usage_of(event.calls),
                reason=event.reason,
                failure=None,
            )
        case events.PlanCreated():
            return _created(state, event, at)
        case events.PlanRefused():
            return _replace(state, status=PlanStatus.REFUSED, refused=event, created_at=at, updated_at=at, ended_at=at)
        case events.PlanStarted():
            return _replace(state, status=PlanStatus.RUNNING, started_by=event.by, updated_at=at)
        case events.PlanWaiting():
            return _replace(state, status=PlanStatus.WAITING, by="", reason="", updated_at=at)
        case events.PlanPaused():
            return _replace(
                state,
                status=PlanStatus.PAUSED,
                held=state.held or event.held,
                by=event.by,
                reason=event.reason,
                updated_at=at,
            )
        case events.PlanResumed():
            return _replace(state, status=PlanStatus.RUNNING, held=False, by="", reason="", updated_at=at)
        case events.PlanCompleted():
            return _ended(state, PlanStatus.COMPLETED, at, outcome=event.outcome, result=event.result)
        case events.PlanFailed():
            return _ended(state, PlanStatus.FAILED, at, by=event.step, reason=event.reason)
        case events.PlanCancelled():
            return _ended(state, PlanStatus.CANCELLED, at, by=event.by, reason=event.reason)
        case events.AttemptEnded():
            return _move(
                state,
                event.step,
                at,
                status=StepStatus.WAITING,
                failure=event.failure,
                retry_at=event.retry_at,
                not_begun=state.steps[event.step].not_begun + (not event.begun),
                started_at=event.started_at,
                duration_s=event.duration_s,
                worker=event.worker,
                version=event.version,
                usage=usage_of(event.calls),
            )
        case events.StepFailed():
            return _move(
                _parted(state, event.step, event.plans_left),
                event.step,
                at,
                status=StepStatus.FAILED,
                attempt=event.attempt,
                failure=event.failure,
                started_at=event.started_at,
                duration_s=event.duration_s,
                worker=event.worker,
                version=event.version,
                usage=usage_of(event.calls),
            )
        case events.StepOutcomeUnknown():
            return _move(
                state,
                event.step,
                at,
                status=StepStatus.OUTCOME_UNKNOWN,
                reason=event.reason,
                worker=event.worker,
                usage=usage_of(event.calls),
            )
        case events.StepReopened():
            status = _at_the_beginning(state.steps[event.step])
            return _unblock(_move(state, event.step, at, status=status, retry_at=None, reason=event.reason), event.step)
        case events.StepSkipped():
            return _settle(state, event.step, at, status=StepStatus.SKIPPED, output=NOTHING, reason=event.reason)
        case events.StepNotTaken():
            return _settle(state, event.step, at, status=StepStatus.NOT_TAKEN)
        case events.BranchTaken():
            return _settle(
                state,
                event.step,
                at,
                status=StepStatus.COMPLETED,
                label=event.label,
                output=Payload(value={"branch": event.label}),
                failure=None,
            )
        case events.StepPaused():
            state = _replace(state, held_steps=(*state.held_steps, event.step))
            if state.steps[event.step].status is StepStatus.PENDING:
                return _move(state, event.step, at, status=StepStatus.PAUSED, hold=event)
            return _patch(state, event.step, at, hold=event)
        case events.StepResumed():
            return _resumed(state, event.step, at)
        case events.StepsCancelled():
            return _cancelled(state, event, at)
        case events.StepsAdded():
            return _added(state, event, at)
        case events.GateOpened() | events.AskOpened():
            if isinstance(event, events.AskOpened) and event.secret:
                state = _replace(state, has_secrets=True)
            return _move(
                state,
                event.step,
                at,
                status=StepStatus.WAITING,
                attempt=event.round,
                opened=event,
                votes=(),
                groups=(),
                invalid=0,
                overdue=False,
                reason="",
            )
        case events.VoteCast():
            step = state.steps[event.step]
            return _patch(state, event.step, at, votes=(*step.votes, event.by), groups=(*step.groups, event.groups))
        case events.GateOverdue():
            return _patch(state, event.step, at, overdue=True)
        case events.GateEscalated():
            also = tuple(dict.fromkeys((*state.steps[event.step].also, *event.to)))
            return _patch(state, event.step, at, also=also, escalated=event.level)
        case events.AnswerInvalid():
            return _patch(state, event.step, at, invalid=state.steps[event.step].invalid + 1)
        case events.AskAnswered():
            return _settle(
                state,
                event.step,
                at,
                status=StepStatus.COMPLETED,
                votes=(event.by,),
                output=event.output,
                reason=event.reason,
                failure=None,
                secret=event.secret,
            )
        case events.GateApproved():
            output = {"decision": "approve", "by": list(event.by), "reason": event.reason}
            return _settle(
                state,
                event.step,
                at,
                status=StepStatus.COMPLETED,
                votes=event.by,
                output=Payload(value=output),
                reason=event.reason,
            )
        case events.GateRejected():
            return _move(state, event.step, at, status=StepStatus.REJECTED, reason=event.reason, votes=(event.by,))
        case events.RevisionRequested():
            return _replace(state, requests=state.requests.set(event.request, event), updated_at=at)
        case events.RevisionRefused():
            return _replace(state, requests=_answered(state, event.request), updated_at=at)
        case events.PlanRevised():
            return _revised(state, event, at)
        case events.ChildMoved():
            step = state.steps[event.step]
            return _patch(
                state,
                event.step,
                at,
                child_status=event.status,
                child_number=event.number,
                reason=event.reason,
                retried=step.retried + bool(event.retries),
                retrying=bool(event.retries),
            )
        case events.ChildEnded():
            given = state.lent.get(event.child, 0)
            return _replace(
                state,
                plans_left=state.plans_left + min(event.plans_left, given),
                lent=state.lent.delete(event.child) if given else state.lent,
                updated_at=at,
            )
        case events.NoticeSent() | events.PermissionDenied() | events.CommandRefused() | events.ChildRecalled():
            return _replace(state, updated_at=at)
        case _:
            assert_never(event)


def answered(state: PlanState, causes: Iterable[Cause]) -> PlanState:
    """Remember that *causes* are answered. Results need no memory: their attempt says it all."""
    ids = state.answered
    for cause in causes:
        if cause.verb != "result" and cause.actor not in (actors := ids.get(cause.id, ())):
            ids = ids.set(cause.id, (*actors, cause.actor))
    return state if ids is state.answered else _replace(state, answered=ids)


def sealed(state: PlanState, number: int, head: str) -> PlanState:
    """The state once its last events are stored: in commit *number*, whose bytes have the hash *head*."""
    return _replace(state, number=number, head=head)


def apply(state: PlanState, commit: Commit, commit_hash: str) -> PlanState:
    """Fold one commit, whose bytes have the hash *commit_hash*."""
    for event in commit.events:
        state = evolve(state, event, commit.at)
    return sealed(answered(state, commit.causes), commit.number, commit_hash)


def fold(address: Address, commits: Iterable[tuple[Commit, str]]) -> PlanState:
    """The state after *commits*, each with the hash of its bytes."""
    state = PlanState(address=address)
    for commit, commit_hash in commits:
        state = apply(state, commit, commit_hash)
    return state


_replace = msgspec.structs.replace


def _parted(state: PlanState, name: str, plans_left: int) -> PlanState:
    """A step waits no more for the plan that runs for it, if one does. Of a plan that has ended, *plans_left* plans may
    run for other steps instead."""
    if plans_left:
        return _replace(state, plans_left=state.plans_left + plans_left)
    step = state.steps[name]
    return _replace(state, lent=state.lent.set(step.child, step.plans)) if _has_lent(step) else state


def _has_lent(step: StepState) -> bool:
    return step.status is StepStatus.DISPATCHED and bool(step.child) and step.plans > 0


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    if name not in names:
        return names
    place = names.index(name)
    return (*names[:place], *names[place + 1 :])


def _given_back(in_hand: Map[str, int], agent: str) -> Map[str, int]:
    left = in_hand[agent] - 1
    return in_hand.set(agent, left) if left else in_hand.delete(agent)


def _patch(state: PlanState, name: str, at: datetime, **changes: object) -> PlanState:
    """Change a step that keeps its status."""
    step = _replace(state.steps[name], **changes)
    return _replace(state, steps=state.steps.set(name, step), updated_at=at)


def _move(state: PlanState, name: str, at: datetime, *, status: StepStatus, **changes: object) -> PlanState:
    """Bring a step to another status, but not to dispatched, and keep every count right."""
    before = state.steps[name]
    step = _replace(before, status=status, since=at, **changes)
    was, finished = before.status, (StepStatus.CANCELLED, *SATISFIED)
    running, waiting, troubled, open_steps = state.running, state.waiting, state.troubled, state.open
    ready, immediate, in_hand = state.ready, state.immediate, state.in_hand
    away, leaving = state.away, state.leaving
    if was is StepStatus.DISPATCHED and name in away:
        away = _without(away, name)
    elif was is StepStatus.DISPATCHED:
        running -= 1
        in_hand = _given_back(in_hand, before.agent)
    elif was is StepStatus.WAITING:
        waiting = _without(waiting, name)
    elif was in TROUBLED:
        troubled = _without(troubled, name)
    elif was is StepStatus.PENDING:
        ready, immediate, leaving = _without(ready, name), _without(immediate, name), _without(leaving, name)
    if status is StepStatus.WAITING:
        waiting = (*waiting, name)
    elif status in TROUBLED:
        troubled = (*troubled, name)
    if was not in finished and status in finished:
        open_steps -= 1
    return _replace(
        state,
        steps=state.steps.set(name, step),
        running=running,
        in_hand=in_hand,
        away=away,
        leaving=leaving,
        waiting=waiting,
        troubled=troubled,
        open=open_steps,
        ready=ready,
        immediate=immediate,
        updated_at=at,
    )


def _cancelled(state: PlanState, event: events.StepsCancelled, at: datetime) -> PlanState:
    gone = frozenset(event.steps)
    steps = state.steps.mutate()
    running, in_hand, lent = state.running, state.in_hand, state.lent
    for name in event.steps:
        before = steps[name]
        if _has_lent(before):
            lent = lent.set(before.child, before.plans)
        if before.status is StepStatus.DISPATCHED and name not in state.away:
            running -= 1
            in_hand = _given_back(in_hand, before.agent)
        steps[name] = _replace(before, status=StepStatus.CANCELLED, since=at, hold=None, reason=event.reason)
    return _replace(
        state,
        steps=steps.finish(),
        running=running,
        in_hand=in_hand,
        lent=lent,
        open=state.open - len(gone),
        updated_at=at,
        **{
            field: tuple(name for name in getattr(state, field) if name not in gone)
            for field in ("ready", "immediate", "leaving", "waiting", "troubled", "held_steps", "away")
        },
    )


def _settle(state: PlanState, name: str, at: datetime, *, status: StepStatus, **changes: object) -> PlanState:
    """Bring a step to a status that lets those behind it go on."""
    state = _move(state, name, at, status=status, **changes)
    return state if state.steps[name].held else _release(state, name)


def _release(state: PlanState, name: str) -> PlanState:
    """A step is settled: let those behind it know."""
    freed: list[str] = []
    unsettled = state.unsettled.mutate()
    for behind in state.graph.successors[name]:
        left = unsettled[behind] - 1
        unsettled[behind] = left
        if left == 0:
            freed.append(behind)
    state = _replace(state, unsettled=unsettled.finish())
    item = state.graph.items.get(name)
    if item is not None and all(_lets_go_on(state.steps[step]) for step in item.steps):
        state, more = _admit(state, item.each, 1)
        freed += more
    return _unblock(state, *freed)


def _lets_go_on(step: StepState) -> bool:
    return step.status in SATISFIED and not step.held


def _admit(state: PlanState, each: str, count: int) -> tuple[PlanState, list[str]]:
    """Let *count* more items of *each* begin, as far as there are any.

    Returns:
        The state, and the steps that begin them: they wait for one thing less.
    """
    admitted, items = state.admitted[each], len(state.items[each])
    upto = min(admitted + count, items)
    if upto == admitted:
        return state, []
    document = state.graph.steps[each]
    assert isinstance(document, Each)
    unsettled = state.unsettled.mutate()
    first = [name for number in range(admitted + 1, upto + 1) for name in first_steps(document, number)]
    for name in first:
        unsettled[name] -= 1
    return _replace(state, unsettled=unsettled.finish(), admitted=state.admitted.set(each, upto)), first


def _unblock(state: PlanState, *names: str) -> PlanState:
    """These steps may have nothing left to wait for: queue those that have not."""
    queues: dict[str, list[str]] = {}
    for name in names:
        if state.steps[name].status is StepStatus.PENDING and not state.unsettled[name]:
            queues.setdefault(_queue(state, name), []).append(name)
    if not queues:
        return state
    return _replace(state, **{queue: (*getattr(state, queue), *more) for queue, more in queues.items()})


def _queue(state: PlanState, name: str) -> str:
    """Where a step belongs that has nothing left to wait for."""
    step = state.graph.steps[name]
    if not isinstance(step, Task | Draft | Run) or not taken(state, name):
        return "immediate"
    return "ready" if isinstance(step, Task) else "leaving"


def _resumed(state: PlanState, name: str, at: datetime) -> PlanState:
    state = _replace(state, held_steps=_without(state.held_steps, name))
    if state.steps[name].status is StepStatus.PAUSED:
        return _unblock(_move(state, name, at, status=StepStatus.PENDING, hold=None), name)
    state = _patch(state, name, at, hold=None)
    return _release(state, name) if state.steps[name].status in SATISFIED else state


def _added(state: PlanState, event: events.StepsAdded, at: datetime) -> PlanState:
    """The steps of all items are there; those begin that may be under way at once."""
    each, count = state.graph.steps[event.step], len(event.items)
    assert isinstance(each, Each)
    graph = state.graph.with_items(event.step, count)
    steps, unsettled = state.steps.mutate(), state.unsettled.mutate()
    added = graph.needs[event.step][len(state.graph.needs[event.step]) :]
    for name in added:
        steps[name] = FRESH
        unsettled[name] = len(graph.needs[name])
    for number in range(1, count + 1):
        for name in first_steps(each, number):
            unsettled[name] = 1  # all that *each* has waited for is settled; what is left is that it is admitted
    unsettled[event.step] += len(added)
    state = _replace(
        state,
        graph=graph,
        steps=steps.finish(),
        unsettled=unsettled.finish(),
        items=state.items.set(event.step, event.items),
        admitted=state.admitted.set(event.step, 0),
        immediate=_without(state.immediate, event.step),
        open=state.open + len(added),
        updated_at=at,
    )
    state, first = _admit(state, event.step, each.parallel or count)
    return _unblock(state, event.step, *first)


def _created(state: PlanState, event: PlanCreated, at: datetime) -> PlanState:
    graph = Graph.of(event.plan)
    return counted(
        _replace(
            state,
            status=PlanStatus.DRAFT,
            created=event,
            refused=None,
            ended_at=None,
            document=event.plan,
            revision=1,
            graph=graph,
            created_at=at,
            updated_at=at,
            steps=Map(dict.fromkeys(graph.steps, FRESH)),
            plans_left=event.mandate.plans,
        )
    )


def _revised(state: PlanState, event: PlanRevised, at: datetime) -> PlanState:
    kept = {step.name for step in event.plan.steps}
    items = {name: found for name, found in state.items.items() if name in kept}
    graph = Graph.of(event.plan, {name: len(found) for name, found in items.items()})
    steps = {name: _carried(state, step) for name, step in graph.steps.items()}
    for gate in event.asks_again:
        steps[gate] = _closed_again(steps[gate], at)
    settled = _settled(steps)
    for name, step in steps.items():
        # A gate or an ask that is open, and has to wait for more than before.
        if step.status is StepStatus.WAITING and step.opened is not None and not settled.issuperset(graph.needs[name]):
            steps[name] = _closed_again(step, at)
    superseded = state.superseded.mutate()
    for name, step in state.steps.items():
        if name not in steps:
            superseded[name] = _replace(step, status=StepStatus.SUPERSEDED, since=at)
    for name in steps:
        if name in state.superseded:
            del superseded[name]
    return counted(
        _replace(
            state,
            document=event.plan,
            revision=event.revision,
            revised=event,
            authors=_authors(state, graph, event.by),
            requests=_answered(state, event.request),
            graph=graph,
            items=Map(items),
            admitted=Map({name: state.admitted[name] for name in items}),
            updated_at=at,
            steps=Map(steps),
            superseded=superseded.finish(),
        )
    )


def _authors(state: PlanState, graph: Graph, by: str) -> Map[str, str]:
    """Who has changed what, now that *by* has revised the plan to *graph*."""
    authors = {name: author for name, author in state.authors.items() if name in graph.steps}
    authors |= {name: by for name, step in graph.steps.items() if state.graph.steps.get(name) != step}
    # What is gone cannot be named any more: the gates that it stood behind release something else without it.
    above = dict.fromkeys(name for name in state.graph.steps if name not in graph.steps)
    queue = list(above)
    for name in queue:
        for need in state.graph.needs[name]:
            if need not in above:
                above[need] = None
                queue.append(need)
    return Map(authors | {name: by for name in above if isinstance(graph.steps.get(name), Gate)})


def _carried(state: PlanState, step: Step) -> StepState:
    """What a step of a revision begins with.

    Attempts are counted on for a step that was there before under this name, and is another one now: what comes late
    of the old one must not be taken for news of the new one.
    """
    before = state.steps.get(step.name)
    if before is None:
        gone = state.superseded.get(step.name)
        return FRESH if gone is None else StepState(attempt=gone.attempt, not_begun=gone.not_begun)
    was = state.graph.steps[step.name]
    if type(step) is type(was):
        # Those to whom it was escalated may answer what is asked of the same people, not what is asked of others.
        is_open_to_others = isinstance(step, Gate | Ask) and before.escalated and _asks(step) != _asks(was)
        return _replace(before, also=(), escalated=0) if is_open_to_others else before
    return StepState(
        status=_at_the_beginning(before), attempt=before.attempt, not_begun=before.not_begun, hold=before.hold
    )


def _asks(step: Step) -> object:
    return (step.reviewers, step.escalate) if isinstance(step, Gate | Ask) else None


def _closed_again(gate: StepState, at: datetime) -> StepState:
    """A gate or an ask that has to ask once more, as soon as all that it needs is settled."""
    return StepState(
        status=_at_the_beginning(gate),
        attempt=gate.attempt,
        opened=gate.opened,
        also=gate.also,
        escalated=gate.escalated,
        since=at,
        hold=gate.hold,
    )


def _at_the_beginning(step: StepState) -> StepStatus:
    return StepStatus.PAUSED if step.held else StepStatus.PENDING


def _settled(steps: Mapping[str, StepState]) -> set[str]:
    """What lets the steps behind go on."""
    return {name for name, step in steps.items() if step.status in SATISFIED and not step.held}


def _answered(state: PlanState, request: str) -> Map[str, RevisionRequested]:
    return state.requests.delete(request) if request in state.requests else state.requests


def counted(state: PlanState) -> PlanState:
    """The state with everything that is counted as it goes counted afresh, from the steps alone."""
    steps, graph = state.steps, state.graph
    settled = _settled(steps)
    unsettled = {name: sum(need not in settled for need in needs) for name, needs in graph.needs.items()}
    for each, items in state.items.items():
        document = graph.steps[each]
        assert isinstance(document, Each)
        for number in range(state.admitted[each] + 1, len(items) + 1):
            for name in first_steps(document, number):
                unsettled[name] += 1
    state = _replace(state, unsettled=Map(unsettled))
    fields = ("ready", "immediate", "leaving", "waiting", "troubled", "held_steps")
    queues: dict[str, list[str]] = {field: [] for field in fields}
    for name in graph.steps:
        step = steps[name]
        if step.held:
            queues["held_steps"].append(name)
        if step.status is StepStatus.PENDING and not unsettled[name]:
            queues[_queue(state, name)].append(name)
        elif step.status is StepStatus.WAITING:
            queues["waiting"].append(name)
        elif step.status in TROUBLED:
            queues["troubled"].append(name)
    dispatched = [name for name in graph.steps if steps[name].status is StepStatus.DISPATCHED]
    away = tuple(name for name in dispatched if not isinstance(graph.steps[name], Task))
    return _replace(
        state,
        running=len(dispatched) - len(away),
        in_hand=Map(Counter(steps[name].agent for name in dispatched if name not in away)),
        away=away,
        open=sum(step.status not in SATISFIED and step.status is not StepStatus.CANCELLED for step in steps.values()),
        **{field: tuple(names) for field, names in queues.items()},
    )


def _ended(state: PlanState, status: PlanStatus, at: datetime, **changes: object) -> PlanState:
    return _replace(
        state,
        status=status,
        ended_at=at,
        updated_at=at,
        ready=(),
        immediate=(),
        leaving=(),
        waiting=(),
        held=False,
        **changes,
    )


# --- reading a state ---------------------------------------------------------------------------------------


def may_change(state: PlanState, name: str) -> bool:
    """Whether a revision may change or remove a step: nothing of it has been begun, or it has to begin anew. An `each`
    that has its items has begun."""
    step = state.steps[name]
    if name in state.items or name in state.graph.items:
        return False
    return step.status in CHANGEABLE or (step.status is StepStatus.WAITING and step.opened is not None)


def open_gates(state: PlanState) -> list[str]:
    return [name for name in state.waiting if isinstance(state.graph.steps[name], Gate)]


def open_asks(state: PlanState) -> list[str]:
    return [name for name in state.waiting if isinstance(state.graph.steps[name], Ask)]


def overdue(state: PlanState) -> list[str]:
    """Those gates and asks that nobody has answered in time."""
    return [name for name in state.waiting if state.steps[name].overdue]


def pending_retries(state: PlanState) -> list[str]:
    return [name for name in state.waiting if isinstance(state.graph.steps[name], Task)]


def last_steps(state: PlanState) -> list[str]:
    """The steps that nothing needs: what they give is the result of a plan without an `emit`."""
    return [
        name
        for name, behind in state.graph.successors.items()
        if not behind and not isinstance(state.graph.steps[name], Emit)
    ]
