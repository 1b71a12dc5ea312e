"""The dispatch loop: the log's outbox. What the log says is to be done is handed out from here, and nowhere else.

Every message that is sent because of a commit has an id made of the commit and the event, so that sending it again
(after a crash, a lost ack, by a standby) stores nothing twice. What is no longer open is not handed out: if a
delivery is late or repeated, the log is read first.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from planmesh.connection import Ack, Connection
from planmesh.delivery import Message, Subscription, give_up
from planmesh.errors import Busy, Poison, Unusable
from planmesh.eventlog import EventLog, Recorded, misfit
from planmesh.executor.blobs import BlobStore, Values
from planmesh.executor.children import PLANNING_BYTES, SAYS_STATUS, errands, planning, told
from planmesh.executor.news import OUTCOME_BYTES, news
from planmesh.executor.plans import Plans
from planmesh.executor.questions import for_services
from planmesh.executor.revision import wanted
from planmesh.executor.secrets import purge
from planmesh.executor.telling import tell
from planmesh.executor.timers import utc_now
from planmesh.schemas import codec, events, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import ReportUnfit, verb_of
from planmesh.schemas.events import AnyEvent, Commit, hash_of
from planmesh.schemas.expressions import ExpressionError, NeedsBlob, Unloaded
from planmesh.schemas.payload import INLINE_INPUTS_BYTES, NOTHING, Payload
from planmesh.schemas.plan import Draft, Permissions, Run, Task
from planmesh.schemas.secrets import secret_inputs
from planmesh.schemas.state import ENDED, Names, PlanState, StepStatus, apply
from planmesh.schemas.subjects import WORK, Address
from planmesh.schemas.tracing import attempt_traceparent
from planmesh.schemas.work import Failure, Signal, StepWork, TimerWork

SERVICE: Final = "executor"
_LATE_S: Final = 60.0
_SIGNALS: Final = 3
_SIGNAL_PAUSE_S: Final = 0.5

# What was taken and is not handed out yet. After an outage, the log may have any number of commits to give.
_MOST_HELD: Final = 1_000
_MOST_HELD_BYTES: Final = 64 * 1024 * 1024
_FULL_PAUSE_S: Final = 0.02

log = structlog.get_logger()


class Dispatcher:
    """Hands out what commits ask for.

    Args:
        core: Where the log is, and the work and outcomes go.
        agents: Where agents hear signals.
        inline_inputs_bytes: Work that is larger carries a claim check for its inputs.
        plans: What is known of plans, shared with the decider.
    """

    def __init__(
        self,
        core: Connection,
        agents: Connection,
        event_log: EventLog,
        blobs: BlobStore,
        plans: Plans,
        clock: Callable[[], datetime] = utc_now,
        inline_inputs_bytes: int = INLINE_INPUTS_BYTES,
    ) -> None:
        self._core = core
        self._agents = agents
        self._log = event_log
        self._blobs = blobs
        self._plans = plans
        self._clock = clock
        self._inline_inputs_bytes = inline_inputs_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[int, int] = {}  # the size of each message that is not answered yet, by its sequence
        self._held_bytes = 0

    async def take_commits(self, commits: Subscription) -> None:
        """Hand out what commits ask for, until the subscription is closed."""
        async for messages in commits:
            for message in messages:
                self._take(message)
                if len(self._held) > _MOST_HELD or self._held_bytes > _MOST_HELD_BYTES:
                    await self._have_room()

    async def _have_room(self) -> None:
        """Wait until half of what was taken is handed out. Asked less often, the server keeps the rest."""
        while not self._core.closed.is_set():
            if len(self._held) <= _MOST_HELD // 2 and self._held_bytes <= _MOST_HELD_BYTES // 2:
                return
            await asyncio.sleep(_FULL_PAUSE_S)

    async def finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, message: Message) -> None:
        try:
            address = subjects.read_plan_log(message.subject)
        except subjects.BadSubject as error:
            self._skip(message, str(error))
            return
        if message.sequence not in self._held:
            self._held[message.sequence] = len(message.data)
            self._held_bytes += len(message.data)
        sent: list[asyncio.Future[Any]] = []
        commit: Commit | None = None
        late, whole = True, False
        try:
            commit = codec.commit.decode(message.data)
            late = message.num_delivered > 1 or (self._clock() - commit.at).total_seconds() > _LATE_S
            if not late and (recorded := self._known(address, message, commit)) is not None:
                for index, event in enumerate(commit.events):
                    future = self._send_and_purge(recorded.state, commit, index, event)
                    if future is not None:
                        sent.append(future)
                whole = True
        except Exception as error:
            # What it is, is found out the other way; what was sent already is sent again under the same id.
            log.debug("commit.slow", subject=message.subject, error=type(error).__name__)
        if whole:
            self._ack_when_stored(message, sent)
        else:
            _forget(sent)
            self._spawn(self._take_slowly(address, message, commit, late))

    def _known(self, address: Address, message: Message, commit: Commit) -> Recorded | None:
        """The plan at *commit* or later, if that can be told without reading the log."""
        recorded = self._plans.get(address) or Recorded.nothing(address)
        if commit.address == address and recorded.state.number >= commit.number:
            return recorded
        if misfit(recorded.state, commit):
            return None
        state = apply(recorded.state, commit, hash_of(message.data))
        recorded = recorded.then(state, message.sequence, message.data)
        self._plans.put(recorded)
        return recorded

    async def _take_slowly(self, address: Address, message: Message, commit: Commit | None, late: bool) -> None:
        """The same with everything that may have to be fetched first.

        Args:
            commit: What the message holds, if it could be read.
        """
        try:
            recorded = self._plans.get(address) or Recorded.nothing(address)
            if late or recorded.sequence < message.sequence:
                recorded = await self._log.read_to_the_end(recorded)
                self._plans.put(recorded)
            if commit is None or commit.address != address or recorded.state.number < commit.number:
                # The log has been read past it, and it was not the next commit.
                self._skip(message, "it is no commit of this plan, or does not continue it")
                return
            failures: list[Exception] = []
            for index, event in enumerate(commit.events):
                try:
                    await self._send_slowly(recorded.state, commit, index, event)
                except Exception as error:  # of one event; the others must not suffer for it
                    failures.append(error)
            if failures:
                raise failures[0]
        except Exception as error:
            await self._give_back(message, error)
        else:
            self._ack(message)

    async def _give_back(self, message: Message, error: BaseException) -> None:
        """It comes back until it can be handed out: what a line of the log asks for is asked nowhere else."""
        self._let_go(message)
        await give_up(self._core, SERVICE, message, error, keep=True)

    def _ack(self, message: Message) -> None:
        self._let_go(message)
        message.ack()

    def _ack_when_stored(self, message: Message, sent: "list[asyncio.Future[Any]]") -> None:
        """Ack *message* once everything that it asked for is stored. No task: most commits send one message."""
        left = len(sent)
        if left == 0:
            self._ack(message)
            return

        def on_done(future: "asyncio.Future[Ack]") -> None:
            nonlocal left
            error = future.exception()
            if message.answered:
                return
            if error is not None:
                self._spawn(self._give_back(message, error))
                return
            left -= 1
            if left == 0:
                self._ack(message)

        for future in sent:
            future.add_done_callback(on_done)

    def _let_go(self, message: Message) -> None:
        self._held_bytes -= self._held.pop(message.sequence, 0)

    def _skip(self, message: Message, why: str) -> None:
        """Junk in the log stays in the log; the decider and the auditor count it."""
        log.error("log.junk", subject=message.subject, sequence=message.sequence, error=why)
        self._ack(message)

    def _send_and_purge(
        self, state: PlanState, commit: Commit, index: int, event: AnyEvent
    ) -> "asyncio.Future[Any] | None":
        sent = self._send(state, commit, index, event)
        if not _leaves_secrets(state, event):
            return sent
        purged = asyncio.ensure_future(purge(self._core, commit.address))
        return purged if sent is None else asyncio.gather(sent, purged)

    async def _send_slowly(self, state: PlanState, commit: Commit, index: int, event: AnyEvent) -> None:
        await self._send_in_full(state, commit, index, event)
        if _leaves_secrets(state, event):
            await purge(self._core, commit.address)

    async def _send_in_full(self, state: PlanState, commit: Commit, index: int, event: AnyEvent) -> None:
        values = Values(self._blobs)
        while True:
            try:
                sent = self._send(state, commit, index, event, values.by_sha256)
            except NeedsBlob as needs:
                try:
                    await values.fetch(needs.blobs)
                except Poison as error:
                    if isinstance(event, events.StepDispatched):
                        sent = self._unfit(commit, index, event, error)
                    elif isinstance(event, events.PlanCompleted):
                        # The end of a plan is news without its result as well.
                        log.error("result.not_told", plan=str(commit.address), error=str(error))
                        await self._announce_slowly(state, commit, index, event, event.result)
                        return
                    else:
                        raise
                else:
                    continue
            except _TakesLonger as longer:
                await longer.work()
                return
            if sent is not None:
                await sent
            return

    def _send(
        self,
        state: PlanState,
        commit: Commit,
        index: int,
        event: AnyEvent,
        blobs: Mapping[str, object] | None = None,
    ) -> "asyncio.Future[Any] | None":
        """Send what *event* asks for, if anything.

        Raises:
            NeedsBlob: A blob has to be fetched first.
            _TakesLonger: It takes more than one message.
        """
        match event:
            case events.StepDispatched():
                return self._hand_out(state, commit, index, event, blobs or {})
            case events.StepPaused() | events.StepResumed() | events.ChildMoved() | events.ChildRecalled():
                return self._run_errands(state, commit, index, event)
            case events.AttemptEnded():
                return self._wait(state, commit, index, event.step, event.attempt + 1, "retry", event.retry_at)
            case events.GateOpened() | events.AskOpened():
                waits = self._wait_for_an_answer(state, commit, index, event)
                return _all([*waits, *self._tell_services(state, commit, index, event)])
            case (
                events.GateEscalated()
                | events.AskAnswered()
                | events.GateApproved()
                | events.GateRejected()
                | events.StepSkipped()
                | events.CommandRefused(verb="reply")
            ):
                return _all(self._tell_services(state, commit, index, event))
            case events.RevisionRequested():
                return self._ask_planner(state, commit, index, event)
            case events.StepsCancelled():
                raise _TakesLonger(partial(self._take_back, state, commit, index, event))
            case events.PlanCompleted():
                blob = event.result.blob
                value = (blobs or {}).get(blob.sha256) if blob is not None else None
                if blob is not None and blob.size_bytes <= OUTCOME_BYTES and value is None:
                    raise NeedsBlob(Unloaded(blob.sha256, blob.size_bytes))
                result = event.result if value is None else Payload(value=value)
                return self._announce(state, commit, index, event, result, slowly=blobs is not None)
            case _:
                return self._announce(state, commit, index, event, NOTHING, slowly=blobs is not None)

    def _hand_out(
        self,
        state: PlanState,
        commit: Commit,
        index: int,
        event: events.StepDispatched,
        blobs: Mapping[str, object],
    ) -> "asyncio.Future[Ack] | None":
        step, task = state.steps.get(event.step), state.graph.steps.get(event.step)
        if step is None or step.status is not StepStatus.DISPATCHED or step.attempt != event.attempt:
            return None
        names = Names(state, blobs, event.step)
        try:
            match task:
                case Task():
                    inputs = state.graph.inputs(task).render(names)
                case Draft() | Run():
                    work = encode(planning(state, task, event, names))
                case _:
                    raise AssertionError(f"step {event.step} is nothing that is handed out")
        except ExpressionError as error:
            return self._unfit(commit, index, event, error)
        if isinstance(task, Task):
            return self._publish_work(state, commit, index, event, task, Payload(value=inputs))
        if len(work) > PLANNING_BYTES:
            most = f"what the planner is given has at most {PLANNING_BYTES:,} bytes; this has {len(work):,}"
            return self._unfit(commit, index, event, Poison(most))
        subject = subjects.step_planning(commit.address, event.step)
        return self._core.publish_soon(subject, work, message_id=_message_id(commit, index))

    async def _hand_out_by_claim_check(
        self, state: PlanState, commit: Commit, index: int, event: events.StepDispatched, task: Task, inputs: Payload
    ) -> None:
        try:
            checked = await self._blobs.check_in(inputs, 0)
        except Poison as error:  # they are larger than a blob may be
            await self._unfit(commit, index, event, error)
        else:
            await self._publish_work(state, commit, index, event, task, checked)

    def _publish_work(
        self, state: PlanState, commit: Commit, index: int, event: events.StepDispatched, task: Task, inputs: Payload
    ) -> "asyncio.Future[Ack]":
        created = state.created
        work = StepWork(
            space=commit.space,
            plan=commit.plan,
            step=event.step,
            attempt=event.attempt,
            agent=event.agent,
            inputs=inputs,
            permissions=task.permissions or Permissions(),
            idempotent=task.idempotent is True,
            timeout_s=task.timeout_s,
            secrets=tuple(secret_inputs(state, event.step)),
            traceparent=None
            if created is None
            else attempt_traceparent(
                commit.address, created.goal_digest, created.traceparent, event.step, event.attempt
            ),
        )
        data = encode(work)
        if inputs.blob is None and len(data) > self._inline_inputs_bytes:
            raise _TakesLonger(partial(self._hand_out_by_claim_check, state, commit, index, event, task, inputs))
        return self._core.publish_soon(
            subjects.agent_work(event.agent, commit.address, event.step), data, message_id=_message_id(commit, index)
        )

    def _unfit(
        self, commit: Commit, index: int, event: events.StepDispatched, error: ExpressionError | Poison
    ) -> "asyncio.Future[Ack]":
        failure = Failure(code="inputs", message=f"its inputs cannot be put together: {error}", retryable=False)
        command = ReportUnfit(id=_token(commit, index), step=event.step, attempt=event.attempt, failure=failure)
        return self._core.publish_soon(subjects.command(commit.address, "unfit", SERVICE), encode(command))

    def _wait_for_an_answer(
        self, state: PlanState, commit: Commit, index: int, event: events.GateOpened | events.AskOpened
    ) -> "list[asyncio.Future[Ack]]":
        """One timer for when it is overdue, and one for each escalation."""
        about = (state, commit, index, event.step, event.round)
        timers = [] if event.overdue_at is None else [self._wait(*about, "sla", event.overdue_at)]
        for level, escalation in enumerate(event.escalate, 1):
            due_at = commit.at + timedelta(seconds=escalation.after_s)
            timers.append(self._wait(*about, "escalate", due_at, level))
        return [timer for timer in timers if timer is not None]

    def _tell_services(
        self, state: PlanState, commit: Commit, index: int, event: AnyEvent
    ) -> "list[asyncio.Future[Ack]]":
        return [
            self._core.publish_soon(
                subjects.question(service, commit.address, question.step),
                encode(question),
                message_id=f"{_message_id(commit, index)}.{question.step}.{service}",
            )
            for service, question in for_services(state, commit, event)
        ]

    def _wait(
        self,
        state: PlanState,
        commit: Commit,
        index: int,
        step: str,
        attempt: int,
        purpose: Any,
        due_at: datetime,
        level: int = 0,
    ) -> "asyncio.Future[Ack] | None":
        waiting = state.steps.get(step)  # a revision may have taken it out
        if waiting is None or waiting.status is not StepStatus.WAITING:
            return None
        timer = TimerWork(
            space=commit.space,
            plan=commit.plan,
            step=step,
            attempt=attempt,
            purpose=purpose,
            due_at=due_at,
            level=level,
        )
        message_id = _message_id(commit, index) + (f".{level}" if level else "")
        return self._core.publish_soon(subjects.timer(commit.address, step), encode(timer), message_id=message_id)

    def _ask_planner(
        self, state: PlanState, commit: Commit, index: int, event: events.RevisionRequested
    ) -> "asyncio.Future[Ack] | None":
        if event.request not in state.requests:
            return None
        work = encode(wanted(state, event))
        return self._core.publish_soon(
            subjects.planner_work(commit.address), work, message_id=_message_id(commit, index)
        )

    def _announce(
        self, state: PlanState, commit: Commit, index: int, event: AnyEvent, result: Payload, *, slowly: bool
    ) -> "asyncio.Future[Ack] | None":
        outcome = news(commit, event, result)
        if _is_family(state, event) or (slowly and outcome is not None):
            raise _TakesLonger(partial(self._announce_slowly, state, commit, index, event, result))
        if outcome is None:
            return None
        return self._core.publish_soon(
            subjects.outcome(commit.address), encode(outcome), message_id=_message_id(commit, index)
        )

    async def _announce_slowly(
        self, state: PlanState, commit: Commit, index: int, event: AnyEvent, result: Payload
    ) -> None:
        """The same, unless something newer has been told; and to the plan that this one runs for, and to those that run
        for it."""
        outcome = news(commit, event, result)
        if outcome is not None:
            await tell(self._core, outcome, message_id=_message_id(commit, index))
        if not _is_family(state, event):
            return
        sent: list[asyncio.Future[Ack]] = []
        heard = told(state, commit, index)
        if heard is not None:
            parent, report = heard
            at = Address(commit.space, parent.plan)
            sent.append(self._core.publish_soon(subjects.command(at, "child", SERVICE), encode(report)))
        sent += self._errands(state, commit, index, event)
        await asyncio.gather(*sent)

    def _errands(self, state: PlanState, commit: Commit, index: int, event: AnyEvent) -> "list[asyncio.Future[Ack]]":
        return [
            self._core.publish_soon(subjects.command(to, verb_of(command), SERVICE), encode(command))
            for to, command in errands(state, event, f"e{commit.number}-{index}")  # no id of the child's own
        ]

    def _run_errands(
        self, state: PlanState, commit: Commit, index: int, event: AnyEvent
    ) -> "asyncio.Future[Ack] | None":
        sent = self._errands(state, commit, index, event)
        return None if not sent else asyncio.ensure_future(_last(sent))

    async def _take_back(self, state: PlanState, commit: Commit, index: int, event: events.StepsCancelled) -> None:
        """Take back what nobody has begun, and tell whoever has begun."""
        begun = []
        for step in event.stopped:
            if step.agent:
                await self._purge(subjects.agent_work(step.agent, commit.address, step.step), step.attempt)
                signal = Signal(
                    signal="cancel", space=commit.space, plan=commit.plan, step=step.step, attempt=step.attempt
                )
                begun.append((subjects.signals(step.agent), encode(signal)))
            elif not step.services:
                await self._purge(subjects.step_planning(commit.address, step.step), step.attempt)
        await asyncio.gather(
            *self._errands(state, commit, index, event), *self._tell_services(state, commit, index, event)
        )
        if begun:
            self._spawn(self._signal(begun))

    async def _purge(self, subject: str, newest: int) -> None:
        """Take back the work on *subject* for attempts up to *newest*: a step of that name may have come back."""
        last = await self._core.last_on_subject(WORK, subject, leader=True)
        if last is None:
            return
        # Up to a sequence, and without it: what is stored meanwhile stays.
        asked = {"filter": subject, "seq": last.sequence + (_attempt_of(last.data) <= newest)}
        await self._core.request(subjects.purge(WORK), encode(asked))

    async def _signal(self, signals: list[tuple[str, bytes]]) -> None:
        """A hint, which may be lost, so it is said three times."""
        for repeat in range(_SIGNALS):
            await asyncio.sleep(_SIGNAL_PAUSE_S * repeat)
            for subject, signal in signals:
                try:
                    self._agents.send(subject, signal)
                except (Busy, Unusable) as error:
                    log.warning("signal.lost", subject=subject, error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Attempt(msgspec.Struct):
    """As much of any work as says which attempt it is for."""

    attempt: int


_decode_attempt: Final = msgspec.json.Decoder(_Attempt).decode


def _attempt_of(work: bytes) -> int:
    return _decode_attempt(work).attempt


def _leaves_secrets(state: PlanState, event: AnyEvent) -> bool:
    """Whether *event* may leave secrets behind that nobody will be given: it ends the plan; or it refuses what came
    after the end, and may have named another one."""
    ends = events.PlanCompleted | events.PlanFailed | events.PlanCancelled | events.CommandRefused
    return state.has_secrets and state.status in ENDED and isinstance(event, ends)


def _is_family(state: PlanState, event: AnyEvent) -> bool:
    """Whether *event* is news for other plans: the one that this one runs for, or those that run for it."""
    if isinstance(event, events.CommandRefused):
        return event.parent is not None
    return isinstance(event, SAYS_STATUS) and (state.parent is not None or bool(state.away))


class _TakesLonger(Exception):
    """Sending it takes more than one message: do *work* in a task."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.work = work
        super().__init__()


def _all(sent: "list[asyncio.Future[Ack]]") -> "asyncio.Future[Any] | None":
    """What is done once all of them are."""
    return sent[0] if len(sent) == 1 else asyncio.gather(*sent) if sent else None


def _forget(sent: "list[asyncio.Future[Any]]") -> None:
    """What becomes of these does not matter any more: all of it is sent again."""
    for future in sent:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _last(sent: "list[asyncio.Future[Ack]]") -> Ack:
    return (await asyncio.gather(*sent))[-1]


def _message_id(commit: Commit, index: int) -> str:
    return f"{commit.space}.{commit.plan}.{commit.number}.{index}"


def _token(commit: Commit, index: int) -> str:
    """An id for a command that comes of an event: the same each time, within the plan."""
    return f"c{commit.number}-{index}"
