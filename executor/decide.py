"""The decide loop: commands and results in, commits out.

Whatever waits for one plan becomes one commit; plans proceed side by side. A message is acked when the commit that
answers it is stored, and never on a cached "no": a decision that changes nothing counts only on a state that has
just been read from the log.
"""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Final, NamedTuple, assert_never

import msgspec
import structlog

from planmesh.connection import Connection
from planmesh.delivery import Message, Subscription, give_up
from planmesh.errors import Busy, Conflict, Poison
from planmesh.eventlog import EventLog, Recorded
from planmesh.executor.blobs import BlobStore, Values
from planmesh.executor.claims import Claims
from planmesh.executor.limits import AgentLimits
from planmesh.executor.news import OUTCOME_BYTES, latest
from planmesh.executor.plan import DEFAULT_GATE_SLA_S, NO_LIMITS, decide, refuse
from planmesh.executor.plans import Plans
from planmesh.executor.telling import tell
from planmesh.schemas import codec, subjects
from planmesh.schemas.commands import (
    AnyCommand,
    Asked,
    CreatePlan,
    ProposeRevision,
    RefuseGoal,
    ReportChild,
    ReportDraft,
    ReportNotice,
    ReportResult,
    ReportUnfit,
    ResolveStep,
    TimerDue,
    actor_of,
    verb_of,
)
from planmesh.schemas.events import (
    AnyEvent,
    Cause,
    CommandRefused,
    StepDispatched,
)
from planmesh.schemas.expressions import NeedsBlob
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import INLINE_OUTPUT_BYTES, NOTHING, Blob, Payload
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import PlanState, answered, evolve
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AttemptCompleted, AttemptFailed, AttemptUnknown, Failure

SERVICE: Final = "executor"
MOST_IN_A_COMMIT: Final = 120  # with inline outputs of 8 KiB, a commit stays under 1 MiB
_LOST_RACES: Final = 20

# How much may be taken and not decided yet: a server gives as fast as it is asked, and agents may say as much as they
# like. Of results, each counts: one message can hold a thousand, each about another plan. Fewer commands than results:
# what runs goes on before more begins. Else more plans are under way than can be kept in mind, and each is read again.
_MOST_COMMANDS: Final = 100
_MOST_RESULTS: Final = 500
_MOST_HELD_BYTES: Final = 32 * 1024 * 1024  # of commands, and as much of results
_FULL_PAUSE_S: Final = 0.005
_STUCK_S: Final = 1.0
_REASON_CHARACTERS: Final = 200

log = structlog.get_logger()


class _Held:
    """What was taken of one stream, and is not decided yet.

    Args:
        most: How many commands, or results, there may be when more is taken.
    """

    __slots__ = ("_most", "parts", "size_bytes")

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts = 0
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        return self.parts > self._most or self.size_bytes > _MOST_HELD_BYTES


class _Delivery:
    """A message, and how many of its parts are still undecided: a bundle of results can be about many plans."""

    __slots__ = ("_held", "_left", "error", "message")

    def __init__(self, message: Message, parts: int, held: _Held) -> None:
        self.message = message
        self.error: Exception | None = None
        self._left = parts
        self._held = held
        held.parts += parts
        held.size_bytes += len(message.data)

    def settle(self) -> bool:
        """One part is decided, or cannot be. Returns: whether it was the last."""
        self._left -= 1
        self._held.parts -= 1
        if self._left:
            return False
        self._held.size_bytes -= len(self.message.data)
        return True

    def fail(self, error: Exception) -> None:
        """Of several errors, one that passes counts: set aside for the others, its part would be lost."""
        if self.error is None or isinstance(error, Busy):
            self.error = error


class _Part(NamedTuple):
    """One message, or one result of several.

    Attributes:
        cannot: Why it cannot be carried out, whatever the plan says; empty unless that was found out.
        alone: Why nothing may follow from it; empty unless that was found out.
        still: Whether even to begin what is ready is too much.
    """

    asked: Asked
    delivery: _Delivery
    cannot: str = ""
    alone: str = ""
    still: bool = False


class _Proposal(NamedTuple):
    events: list[AnyEvent]
    causes: list[Cause]
    state: PlanState
    at: datetime
    says_no: bool
    """Whether something in it changes nothing, which only a fresh state may say."""


class _Desk:
    """What waits for one plan. There is a desk only while something waits."""

    __slots__ = ("address", "parts")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.parts: list[_Part] = []


class Decider:
    """Decides about many plans at once, each plan in the order in which messages arrive.

    Args:
        core: Where commands and the log are, and where poison is set aside.
        plans: What is known of plans, shared with the dispatcher.
        gate_sla_s: When a gate or an ask that says nothing of it counts as overdue.
        escalate_to: Who may answer it as well then; empty: nobody.
        limits: Of the agents; None: they have none.
        inline_output_bytes: Larger outputs and results are in the log as claim checks.
    """

    def __init__(
        self,
        core: Connection,
        event_log: EventLog,
        blobs: BlobStore,
        plans: Plans,
        *,
        gate_sla_s: float = DEFAULT_GATE_SLA_S,
        escalate_to: str = "",
        limits: AgentLimits | None = None,
        inline_output_bytes: int = INLINE_OUTPUT_BYTES,
    ) -> None:
        self._core = core
        self._log = event_log
        self._blobs = blobs
        self._plans = plans
        self._gate_sla_s = gate_sla_s
        self._escalate_to = escalate_to
        self._limits = limits
        self._inline_output_bytes = inline_output_bytes
        self._commands = _Held(_MOST_COMMANDS)
        self._results = _Held(_MOST_RESULTS)
        self._desks: dict[Address, _Desk] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take_commands(self, commands: Subscription) -> None:
        """Decide commands until the subscription is closed."""
        async for messages in commands:
            for message in messages:
                try:
                    address, asked = read_command(message)
                except (Poison, codec.DecodeError, subjects.BadSubject) as error:
                    self._spawn(give_up(self._core, SERVICE, message, error))
                else:
                    self._put(address, _Part(asked, _Delivery(message, 1, self._commands)))
                    await self._have_room(self._commands)

    async def take_results(self, results: Subscription) -> None:
        """Decide results until the subscription is closed."""
        async for messages in results:
            for message in messages:
                try:
                    agent = subjects.read_results(message.subject)
                    bundle = codec.results.decode(message.data)
                except (codec.DecodeError, subjects.BadSubject) as error:
                    self._spawn(give_up(self._core, SERVICE, message, error))
                    continue
                delivery, at = _Delivery(message, len(bundle.results), self._results), message.timestamp
                for result in bundle.results:
                    self._put(result.address, _Part(Asked(ReportResult(result), agent, at), delivery))
                await self._have_room(self._results)

    async def finish(self) -> None:
        """Wait until everything that was taken is decided."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _have_room(self, held: _Held) -> None:
        """Wait until some of what was taken is decided, if it is much. Asked less often, the server keeps the rest."""
        while held.full and not self._core.closed.is_set():  # noqa: ASYNC110 - whatever is decided makes room
            await asyncio.sleep(_FULL_PAUSE_S)

    def _put(self, address: Address, part: _Part) -> None:
        desk = self._desks.get(address)
        if desk is None:
            desk = self._desks[address] = _Desk(address)
            self._spawn(self._work_off(desk))
        desk.parts.append(part)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_off(self, desk: _Desk) -> None:
        parts: list[_Part] = []
        try:
            while desk.parts:
                parts, desk.parts = desk.parts[:MOST_IN_A_COMMIT], desk.parts[MOST_IN_A_COMMIT:]
                await self._settle(desk.address, parts)
        except Exception:
            log.exception("plan.not_decided", space=desk.address.space, plan=desk.address.plan)
            for part in (*parts, *desk.parts):
                part.delivery.message.nak(_STUCK_S)  # kept alive and forgotten, it would never come back
        finally:
            # No await since the last look: nothing can have arrived in between.
            del self._desks[desk.address]

    async def _settle(self, address: Address, parts: list[_Part]) -> None:
        try:
            await self._turn(address, parts)
        except Exception as error:
            self._plans.forget(address)
            if len(parts) > 1 and not isinstance(error, Busy):
                # One of them is to blame: the others must not suffer for it.
                for part in parts:
                    await self._settle(address, [part])
                return
            instead = _instead(parts[0], error)
            if instead is not None:
                await self._settle(address, [instead])
                return
            for part in parts:
                part.delivery.fail(error)
        for part in parts:
            delivery = part.delivery
            if delivery.settle():
                if delivery.error is None:
                    delivery.message.ack()
                else:
                    await give_up(self._core, SERVICE, delivery.message, delivery.error)

    async def _turn(self, address: Address, parts: list[_Part]) -> None:
        """One commit for *parts*; none if there is nothing to say."""
        recorded, fresh = self._plans.get(address), False
        if recorded is None:
            if isinstance(parts[0].asked.what, CreatePlan | RefuseGoal):
                # Almost always a new plan: the append itself finds out if it is not.
                recorded = Recorded.nothing(address)
            else:
                recorded, fresh = await self._log.read_to_the_end(Recorded.nothing(address)), True
        for part in parts:
            await self._expect_blob(part.asked)
        values = Values(self._blobs)
        races = 0
        while races < _LOST_RACES:
            try:
                proposal = self._propose(recorded, parts, values.by_sha256)
            except NeedsBlob as needs:
                await values.fetch(needs.blobs)
                continue
            if proposal.says_no and not fresh:
                recorded, fresh = await self._log.read_to_the_end(recorded), True
                continue
            if not proposal.events:
                self._plans.put(recorded)
                if isinstance(parts[0].asked.what, CreatePlan | RefuseGoal):
                    await self._tell_again(recorded.state)
                return
            events, state = await self._check_in(recorded.state, proposal)
            try:
                recorded = await self._log.append(recorded, state, events, proposal.causes, proposal.at)
            except Conflict:
                recorded, fresh = await self._log.read_to_the_end(recorded), True
                races += 1
                continue
            self._plans.put(recorded)
            if self._limits is not None:
                self._limits.notice(event.agent for event in proposal.events if isinstance(event, StepDispatched))
            self._tell(address, recorded, proposal)
            return
        raise Busy(f"{address} changes faster than it can be decided")

    def _propose(self, recorded: Recorded, parts: list[_Part], blobs: dict[str, object]) -> _Proposal:
        state = recorded.state
        # One commit has one time, and time does not run backwards in a log.
        at = max(part.asked.at for part in parts)
        if state.updated_at is not None and state.updated_at > at:
            at = state.updated_at
        events: list[AnyEvent] = []
        causes: list[Cause] = []
        says_no = False
        agent_limits = NO_LIMITS if self._limits is None else self._limits.known
        for part in parts:
            asked = part.asked._replace(at=at)
            if part.cannot:
                decision = refuse(state, asked, "too_large", part.cannot)
            else:
                decision = decide(
                    state,
                    asked,
                    blobs=blobs,
                    gate_sla_s=self._gate_sla_s,
                    agent_limits=agent_limits,
                    escalate_to=self._escalate_to,
                    alone=part.alone,
                    still=part.still,
                )
            if not decision.events:
                says_no = True
                continue
            says_no = says_no or isinstance(decision.events[0], CommandRefused)
            cause = asked.cause
            events += decision.events
            causes.append(cause)
            state = answered(decision.state, (cause,))
        return _Proposal(events, causes, state, at, says_no)

    async def _expect_blob(self, asked: Asked) -> None:
        """What the log refers to has to be there. Raises: Poison (it is not), Busy."""
        match asked.what:
            case ReportResult(AttemptCompleted(output=Payload(blob=Blob() as blob))):
                await self._blobs.expect(blob)
            case ResolveStep(output=Payload(blob=Blob() as blob)):
                await self._blobs.expect(blob)

    async def _check_in(self, before: PlanState, proposal: _Proposal) -> tuple[list[AnyEvent], PlanState]:
        """Replace large values by claim checks: neither the log nor a state in memory holds them."""
        claims = Claims(self._blobs, self._inline_output_bytes)
        events = [await claims.check_in(event) for event in proposal.events]
        if all(new is old for new, old in zip(events, proposal.events, strict=True)):
            return events, proposal.state
        state = before
        for event in events:
            state = evolve(state, event, proposal.at)
        return events, answered(state, proposal.causes)

    async def _tell_again(self, state: PlanState) -> None:
        """The same goal was published again: whoever did so may have heard nothing yet."""
        result, blob = state.result, state.result.blob
        if blob is not None and blob.size_bytes <= OUTCOME_BYTES:
            result = Payload(value=await self._blobs.value(blob.sha256))
        outcome = latest(state, result)
        if outcome is not None:
            await tell(self._core, outcome)

    def _tell(self, address: Address, recorded: Recorded, proposal: _Proposal) -> None:
        log.debug(
            "plan.decided",
            space=address.space,
            plan=address.plan,
            commit=recorded.state.number,
            status=recorded.state.status,
            causes=len(proposal.causes),
            events=len(proposal.events),
        )


def _instead(part: _Part, error: Exception) -> _Part | None:
    """What to decide in place of what can never be decided. None: it has to be set aside.

    Of all that a plan waits for, something is recorded: what a person asks is refused; what a service or an agent says
    counts as a failure; and if what follows from that cannot be recorded either, nothing follows, and people are asked.
    """
    if not isinstance(error, Poison) or part.cannot or part.still:
        return None
    if part.alone:
        return part._replace(still=True)
    why = f"what follows from it cannot be recorded: {error}"
    asked = part.asked
    problem = Problem(code="too_large", message=f"it cannot be recorded: {error}")
    what: AnyCommand | ReportResult
    match asked.what:
        case CreatePlan() as create:
            what = create.refused(problem)
        case ProposeRevision(plan=Plan()) as proposal:
            what = msgspec.structs.replace(proposal, plan=None, problems=(problem,))
        case ReportDraft(document=dict()) as report:
            failure = Failure(code="bad_output", message=problem.message, retryable=False)
            what = msgspec.structs.replace(report, document=None, failure=failure)
        case ReportResult(AttemptCompleted() as done):
            message = f"what follows from its output cannot be recorded: {error}"
            what = ReportResult(done.failed(Failure(code="bad_output", message=message, retryable=False)))
        case ReportResult() | RefuseGoal() | ProposeRevision() | ReportDraft() | ReportChild():
            return part._replace(asked=asked._replace(what=_shortened(asked.what, problem)), alone=why)
        case ReportUnfit() | TimerDue() | ReportNotice():
            return part._replace(alone=why)
        case _:
            return part._replace(cannot=why)
    return part._replace(asked=asked._replace(what=what))


def _shortened(
    what: ReportResult | RefuseGoal | ProposeRevision | ReportDraft | ReportChild, problem: Problem
) -> AnyCommand | ReportResult:
    """The same failure without what may be long about it."""
    match what:
        case ReportResult(AttemptFailed() | AttemptUnknown() as result):
            return ReportResult(msgspec.structs.replace(result, calls=(), denials=()))
        case ReportResult():
            return what
        case RefuseGoal():
            return msgspec.structs.replace(what, problems=(problem,), origin=None)
        case ProposeRevision():
            return msgspec.structs.replace(what, problems=(problem,), origin=None)
        case ReportDraft():
            return msgspec.structs.replace(what, calls=())
        case ReportChild():
            return msgspec.structs.replace(what, result=NOTHING, troubled=(), reason=what.reason[:_REASON_CHARACTERS])
        case _:
            assert_never(what)


def read_command(message: Message) -> tuple[Address, Asked]:
    """Raises: Poison, DecodeError, BadSubject."""
    subject = subjects.read_command(message.subject)
    command = codec.command.decode(message.data)
    if verb_of(command) != subject.verb:
        raise Poison(f"the subject says {subject.verb}, and the message {verb_of(command)}")
    return subject.address, Asked(command, actor_of(subject.verb, subject.actor), message.timestamp)
