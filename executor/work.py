"""The work loop: hosts agents, runs steps, and says what became of them.

An agent speaks as itself: each has a connection with its own NATS user, which may publish nobody else's results.
The order that makes this safe: claim (if the step is not idempotent), run, store the result, wait for the ack, then
ack the work. Whatever dies in between, the work comes back, and a step that was claimed is never begun again.
"""

import asyncio
import contextlib
import contextvars
import os
import socket
import threading
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from planmesh import calling
from planmesh.agents import Agent, Context, Rejected
from planmesh.calling import awaited, called
from planmesh.connection import Connection
from planmesh.delivery import Keeper, Message, subscribe
from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.executor.masking import Mask
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.payload import INLINE_OUTPUT_BYTES, Blob, Payload, blob_of, canonical
from planmesh.schemas.subjects import WORK
from planmesh.schemas.work import (
    AttemptCompleted,
    AttemptFailed,
    AttemptNotStarted,
    AttemptUnknown,
    Failure,
    Progress,
    Result,
    Reveal,
    Revealed,
    StepWork,
)
from planmesh.streams import AGENT_ACK_WAIT_S

MOST_IN_A_BUNDLE: Final = 120
_BUNDLE_BYTES: Final = 2 * 1024 * 1024
_RESULT_DEPTH: Final = 4  # what a message of results puts around an output
_CLAIMED_S: Final = 29 * 86_400.0  # the stream CLAIMS forgets after 30 days
_STUCK_S: Final = 30.0
STOP_PATIENCE_S: Final = 20.0
"""How long a worker that is to end goes on trying to store what its agents gave."""
_LAST_WORDS_S: Final = 0.5
_BLOCKED_S: Final = 1.0
_TRACEBACK_CHARACTERS: Final = 8_000
_MESSAGE_CHARACTERS: Final = 4_000
_LISTED: Final = 20
_WHO: Final = "the agent"

_revealed_decoder: Final = codec.Codec[Revealed](Revealed, trusted=True)
_blob_decoder: Final = codec.Codec[Blob](Blob, trusted=True)

log = structlog.get_logger()


class Host:
    """Runs one agent, as many attempts at once as its consumer lets through.

    Args:
        agent: The function, with what it declares.
        connection: In AGENTS, as the agent's own user.
        rooms: Where agents run: never in the loop that this runs in.
        stop: Set it to end.
        inline_output_bytes: Larger outputs become blobs.
        stop_patience_s: How long, once it is to end, it goes on trying to store what its agents gave.

    Attributes:
        lost: The attempts that have ended, and of which the server did not take how.
    """

    def __init__(
        self,
        agent: Agent,
        connection: Connection,
        rooms: "Rooms",
        stop: asyncio.Event,
        *,
        inline_output_bytes: int = INLINE_OUTPUT_BYTES,
        stop_patience_s: float = STOP_PATIENCE_S,
    ) -> None:
        self.lost: list[str] = []
        self._agent = agent
        self._connection = connection
        self._rooms = rooms
        self._inline_output_bytes = inline_output_bytes
        self._worker = f"{socket.gethostname()}/{os.getpid()}"
        self._running: dict[str, Context] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = stop
        self._patience = _Patience(stop, stop_patience_s)
        self._outbox = _Outbox(agent.name, connection, self._patience, self.lost)
        self._keeper = Keeper(AGENT_ACK_WAIT_S)

    async def describe(self) -> None:
        """Tell the planner what the agent declares, as soon as the server takes it, or until it is to end.

        Raises:
            Unusable: The connection is closed, or may not say so.
        """
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                await self._connection.publish(subjects.catalogue(self._agent.name), encode(self._agent.description))
            except Busy as error:
                log.warning("description.later", agent=self._agent.name, error=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
            else:
                return

    async def run(self) -> None:
        """Take work until it is to end; then finish what has been begun. Raises: Unusable."""
        signals = await self._connection.listen(subjects.signals(self._agent.name), self._on_signal)
        work = await subscribe(self._connection, WORK, subjects.agent_consumer(self._agent.name), keeper=self._keeper)
        closing = asyncio.create_task(_close_on(self._stop, work))
        try:
            async for messages in work:
                for message in messages:
                    self._take(message)
            while self._tasks:
                await asyncio.wait(self._tasks)
            await self._outbox.finish()
        finally:
            # After an orderly stop nothing is left here. Otherwise nobody can be told how it ends: it comes back.
            for task in (closing, *self._tasks):
                task.cancel()
            self._keeper.close()
            await work.close()
            await self._connection.unlisten(signals)

    def _take(self, message: Message) -> None:
        try:
            work = codec.step_work.decode(message.data)
        except DecodeError as error:
            # Only the executor writes here: it is newer than this worker, which another one may not be.
            log.error("work.not_understood", subject=message.subject, error=str(error))
            message.nak(_STUCK_S)
            return
        if work.key in self._running:
            # The server thinks that we are gone, and we are not: the first delivery goes on.
            self._keeper.discard(message)
            return
        here = self._agent.tools or {}
        beyond = {
            name: excess
            for name in work.permissions.tools
            if name in here and (excess := here[name].description.permissions.beyond(work.permissions))
        }
        reporter = _Reporter(self._connection, self._agent.name, work, asyncio.get_running_loop())
        context = Context(
            address=work.address,
            step=work.step,
            attempt=work.attempt,
            key=work.key,
            permissions=work.permissions,
            traceparent=work.traceparent,
            tools={name: here[name] for name in work.permissions.tools if name in here and name not in beyond},
            report=reporter,
            hide=reporter.hide,
            threads=self._rooms.threads,
        )
        for name, excess in beyond.items():
            context.denied(f"tool {name}", f"it uses what the step does not permit: {excess}")
        # Now, and not when the task begins: the next message may be the same work again.
        self._running[work.key] = context
        task = asyncio.create_task(self._attempt(work, context, reporter, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_signal(self, delivered: Any) -> None:
        try:
            signal = codec.signal.decode(delivered.data)
        except DecodeError:
            return
        context = self._running.get(f"{signal.space}.{signal.plan}.{signal.step}.{signal.attempt}")
        if context is not None:
            context.cancelled.set()

    async def _attempt(self, work: StepWork, context: Context, reporter: "_Reporter", message: Message) -> None:
        try:
            waited_s = (datetime.now(UTC) - message.timestamp).total_seconds()
            result = await self._result(work, context, reporter, waited_s)
        except Busy as error:
            # Before it was begun: blobs or the server are away.
            log.warning("work.later", key=work.key, error=str(error))
            message.nak(AGENT_ACK_WAIT_S)
        except _GivenUp:
            self._keeper.discard(message)
            self.lost.append(work.key)
        except Exception:
            log.exception("work.bug", key=work.key)
            message.nak(_STUCK_S)
        else:
            self._outbox.put(work.key, result, message)
        finally:
            del self._running[work.key]

    async def _result(self, work: StepWork, context: Context, reporter: "_Reporter", waited_s: float) -> Result:
        """Run one attempt, which was handed out *waited_s* ago. Raises: Busy, before anything was begun."""
        about: dict[str, Any] = {
            "space": work.space,
            "plan": work.plan,
            "step": work.step,
            "attempt": work.attempt,
            "worker": self._worker,
        }
        try:
            inputs = await self._inputs(work)
            secrets = await self._secrets(work)
        except _SecretGone as error:
            failure = Failure(code="secret_gone", message=str(error), retryable=False)
            return AttemptFailed(failure=failure, started_at=datetime.now(UTC), duration_s=0, **about)
        except (Poison, DecodeError) as error:
            # They are gone, or nothing that can be read: another worker, or another time, would get no further.
            failure = Failure(code="inputs", message=_clipped(f"its inputs cannot be had: {error}"), retryable=False)
            return AttemptFailed(failure=failure, started_at=datetime.now(UTC), duration_s=0, **about)
        inputs |= secrets
        mask = reporter.mask = Mask(secrets.values())
        if not work.idempotent:
            if waited_s > _CLAIMED_S:
                reason = "it was handed out so long ago that nobody knows any more whether it was begun"
                return AttemptUnknown(reason=reason, **about)
            try:
                await self._claim(work)
            except Conflict:
                reason = "another worker has begun this attempt and has not said how it ended"
                return AttemptUnknown(reason=reason, **about)
            except Busy as error:
                reason = f"it could not be claimed, and was not begun: {error}"
                return AttemptNotStarted(reason=reason, **about)
        about["version"] = self._agent.description.version
        about["started_at"] = datetime.now(UTC)
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            value = await self._call(work, context, inputs)
            output = await self._output(value, mask)
        except _GivenUp:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and not work.idempotent:
                reason = f"no answer within {work.timeout_s:g} s, and whether it had its effect is not known"
                return AttemptUnknown(reason=reason, **_without_times(about), **_told(context, mask))
            failure = _failure(error, work, mask)
            log.info("step.failed", key=work.key, agent=work.agent, code=failure.code)
            return AttemptFailed(failure=failure, duration_s=loop.time() - started, **about, **_told(context, mask))
        return AttemptCompleted(output=output, duration_s=loop.time() - started, **about, **_told(context, mask))

    async def _call(self, work: StepWork, context: Context, inputs: dict[str, Any]) -> object:
        agent = self._agent
        _check_inputs(agent, inputs)
        if agent.context_parameter is not None:
            inputs = {**inputs, agent.context_parameter: context}
        _check_tools(agent, work.permissions.tools)
        try:
            async with asyncio.timeout(work.timeout_s) as limit:
                try:
                    return await self._rooms.call(agent, inputs)
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise  # by us: it takes too long, or the worker ends
                    # Passed on, it would end this task in silence, and the work would stay ours for ever.
                    raise RuntimeError("something that the agent waited for was cancelled") from error
        except TimeoutError as error:
            if not limit.expired():
                raise _AgentTimeout(str(error)) from error  # the agent's own time-out is its own failure
            context.cancelled.set()
            raise

    async def _inputs(self, work: StepWork) -> dict[str, Any]:
        value = work.inputs.value
        if work.inputs.blob is not None:
            wanted = work.inputs.blob
            data = await self._connection.request(
                subjects.get_blob(self._agent.name), wanted.sha256.encode(), timeout_s=10
            )
            if blob_of(data) != wanted:
                raise Busy(f"blob {wanted.sha256} arrived damaged")
            value = codec.value.decode(data)
        return value if isinstance(value, dict) else {}

    async def _secrets(self, work: StepWork) -> dict[str, str]:
        """The inputs that are secrets: in nothing that is stored, and told to nobody but the agent of an open attempt.

        Raises:
            _SecretGone: One is not kept any more.
            Poison: The attempt is not open any more: whatever becomes of it here, it changes nothing.
            Busy: Nobody answers now.
        """
        if not work.secrets:
            return {}
        wanted = Reveal(space=work.space, plan=work.plan, step=work.step, attempt=work.attempt)
        data = await self._connection.request(subjects.reveal(self._agent.name), encode(wanted), timeout_s=10)
        revealed = _revealed_decoder.decode(data)
        if gone := [name for name in work.secrets if name not in revealed.inputs]:
            raise _SecretGone(
                f"the secret that was entered for the input {', '.join(gone)} is not kept any more, and the step was "
                "not begun. Secrets are kept until the plan ends, but only for as long as the mesh is set to keep them "
                "(`secrets_kept_s`). It has to be asked for again: revise the plan (`planmesh revise`), so that the "
                "step reads the answer of a new ask with `secret`"
            )
        return {name: revealed.inputs[name] for name in work.secrets}

    async def _output(self, value: object, mask: Mask) -> Payload:
        """Raises: Poison (not JSON, or too large), DecodeError (nested too deep)."""
        try:
            data = canonical(value)
        except (TypeError, msgspec.MsgspecError) as error:
            raise Poison(f"an agent returns JSON, and this is not: {error}") from error
        codec.check_depth(data)
        if mask:
            data = canonical(mask.value(msgspec.json.decode(data)))
        if len(data) <= self._inline_output_bytes and _fits_in_a_result(data):
            return Payload(value=msgspec.Raw(data))
        return Payload(blob=await self._put(data))

    async def _put(self, data: bytes) -> Blob:
        """Store a large output, however long it takes: the agent has done its work, and must not fail now."""
        pause_s, timeout_s = 0.1, 2.0  # who was asked may just have died
        while True:
            try:
                answer = await self._connection.request(subjects.put_blob(self._agent.name), data, timeout_s=timeout_s)
            except Busy as error:
                log.warning("output.later", agent=self._agent.name, size_bytes=len(data), error=str(error))
                await self._patience.pause(pause_s)
                pause_s, timeout_s = min(2 * pause_s, 2.0), min(2 * timeout_s, 10.0)
            else:
                return _blob_decoder.decode(answer)

    async def _claim(self, work: StepWork) -> None:
        """Say that this attempt begins: the server lets only one say so. Raises: Conflict, Busy."""
        subject = subjects.claim(self._agent.name, work.address, work.step, work.attempt)
        await self._connection.publish(subject, self._worker.encode(), expect_last_on_subject=0)


class Rooms:
    """Where agents run: a loop of their own for those that are async, a pool of threads for the others.

    An agent that blocks can then block other agents, and never the heartbeats that keep its work from being given
    to somebody else. Used as a context manager.
    """

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="agent")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agents", daemon=True)

    def __enter__(self) -> "Rooms":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Who is still at work here has been given up on: nobody waits for it, and its thread ends with the process.
        self.threads.shutdown(wait=False, cancel_futures=True)
        ended = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        with contextlib.suppress(TimeoutError):
            ended.result(2 * _LAST_WORDS_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_BLOCKED_S)
        if not self._thread.is_alive():  # an agent that blocks it does not hear
            self._loop.close()

    async def call(self, agent: Agent, inputs: Mapping[str, Any]) -> object:
        """Run *agent*. Cancelling this cancels an async agent; one in a thread goes on, unheard."""
        if agent.is_async:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(awaited(agent.function, inputs, _WHO), self._loop)
            )
        here = contextvars.copy_context()
        return await asyncio.wrap_future(self.threads.submit(here.run, called, agent.function, inputs, _WHO))


async def _cancel_all() -> None:
    """Cancel every task of this loop but this one, and let them end, for a moment."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_WORDS_S)


class _AgentTimeout(Exception):
    pass


class _Outbox:
    """Results on their way: what finishes while one message is travelling goes into the next.

    At low load nothing waits; at high load a bundle saves one write to disk for each result in it.

    Args:
        lost: Takes the keys of the attempts of which nobody could be told how they ended.
    """

    def __init__(self, agent: str, connection: Connection, patience: "_Patience", lost: list[str]) -> None:
        self._subject = subjects.results(agent)
        self._connection = connection
        self._patience = patience
        self._lost = lost
        self._waiting: deque[_Ended] = deque()
        self._sending: asyncio.Task[None] | None = None

    def put(self, key: str, result: Result, message: Message) -> None:
        self._waiting.append(_Ended(key, encode(result), message))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def finish(self) -> None:
        while self._sending is not None:
            await asyncio.wait([self._sending])

    async def _send(self) -> None:
        try:
            while self._waiting:
                bundle = self._bundle()
                try:
                    await self._publish(bundle)
                except _GivenUp:
                    self._lost += [ended.key for ended in bundle]
        finally:
            self._sending = None

    def _bundle(self) -> "list[_Ended]":
        """What goes into one message: the first that wait, and no more than the server takes."""
        bundle, size_bytes = [self._waiting.popleft()], 0
        while self._waiting and len(bundle) < MOST_IN_A_BUNDLE:
            size_bytes += len(bundle[-1].result)
            if size_bytes + len(self._waiting[0].result) > _BUNDLE_BYTES:
                break
            bundle.append(self._waiting.popleft())
        return bundle

    async def _publish(self, bundle: "list[_Ended]") -> None:
        data = encode({"results": [msgspec.Raw(ended.result) for ended in bundle]})
        pause_s = 0.1
        while True:
            try:
                await self._connection.publish(self._subject, data)
                break
            except Busy as error:
                # Storing it twice does no harm; losing it would. The work stays ours meanwhile.
                log.warning("results.later", subject=self._subject, results=len(bundle), error=str(error))
                await self._patience.pause(pause_s)
                pause_s = min(2 * pause_s, 2.0)
            except Unusable as error:
                # Kept alive here, the work would never come back to a worker that may say what became of it.
                log.error("results.refused", subject=self._subject, results=len(bundle), error=str(error))
                for ended in bundle:
                    ended.message.nak(_STUCK_S)
                return
        for ended in bundle:
            ended.message.ack()


class _Ended(NamedTuple):
    """An attempt that has ended, and how."""

    key: str
    result: bytes
    message: Message


class _GivenUp(Exception):
    """What an agent gave cannot be stored, and the worker is to end."""


class _Patience:
    """For what the server does not take: without end while the worker is to go on, and bounded once it is to end.

    Args:
        most_s: How long it lasts after *stop*, or after the first failure since.
    """

    def __init__(self, stop: asyncio.Event, most_s: float) -> None:
        self._stop = stop
        self._most_s = most_s
        self._ends_at: float | None = None

    async def pause(self, pause_s: float) -> None:
        """Wait before the next try. Raises: _GivenUp, if there is to be none."""
        now = asyncio.get_running_loop().time()
        if self._stop.is_set():
            if self._ends_at is None:
                self._ends_at = now + self._most_s
            if now >= self._ends_at:
                raise _GivenUp
        await asyncio.sleep(pause_s)


class _Reporter:
    """Sends progress from whichever thread the agent runs in."""

    def __init__(self, connection: Connection, agent: str, work: StepWork, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._subject = subjects.progress(agent, work.address, work.step)
        self._attempt = work.attempt
        self._loop = loop
        self.mask = Mask()

    def __call__(self, text: str, data: object) -> None:
        said, shown = self.mask.text(str(text)), data
        if self.mask:
            shown = self.mask.value(msgspec.json.decode(encode(data)))
        message = encode(Progress(attempt=self._attempt, text=said[:_MESSAGE_CHARACTERS], data=shown))
        self._loop.call_soon_threadsafe(self._send, message)

    def hide(self, text: str) -> str:
        return self.mask.text(text)

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send(self._subject, message)
        except (Busy, Poison):
            log.debug("progress.lost", subject=self._subject)


async def _close_on(stop: asyncio.Event, subscription: Any) -> None:
    await stop.wait()
    await subscription.close()


def _check_inputs(agent: Agent, inputs: Mapping[str, Any]) -> None:
    """Raises: Rejected, if the function could not be called with these."""
    described = agent.description
    known = {parameter.name for parameter in described.parameters}
    missing = [one.name for one in described.parameters if one.required and one.name not in inputs]
    # What the context is given to is nobody else's to fill.
    unknown = [n for n in inputs if n == agent.context_parameter or (n not in known and not described.any_parameters)]
    if missing or unknown:
        found = ", ".join(
            [f"{name} is missing" for name in missing] + [f"{name} is not one of its parameters" for name in unknown]
        )
        raise _BadInputs(f"agent {described.name} takes {', '.join(sorted(known)) or 'no inputs'}: {found}")


def _check_tools(agent: Agent, named: Sequence[str]) -> None:
    """Raises: Rejected, if the step names tools that its agent would have, were they here."""
    if agent.tools is not None and (missing := [name for name in named if name not in agent.tools]):
        there = ", ".join(sorted(agent.tools)[:_LISTED]) or "none"
        raise _BadInputs(
            f"this worker has no tool called {', '.join(missing[:_LISTED])}; its tools are: {there}. Start it with the "
            "module that has it (--agents MODULE)"
        )


def _fits_in_a_result(data: bytes) -> bool:
    """Whether JSON that may be in a message may be in one of results: deeper, it would spoil all that are in there."""
    try:
        codec.check_depth(data, codec.MAX_DEPTH - _RESULT_DEPTH)
    except DecodeError:
        return False
    return True


class _BadInputs(Rejected):
    pass


class _SecretGone(Exception):
    pass


def _told(context: Context, mask: Mask) -> dict[str, Any]:
    calls, denials = context.journal.calls, context.journal.denials
    if mask:
        calls = tuple(msgspec.structs.replace(one, name=mask.text(one.name)) for one in calls)
        denials = tuple(
            msgspec.structs.replace(one, what=mask.text(one.what), why=mask.text(one.why)) for one in denials
        )
    return {"calls": calls, "denials": denials}


def _without_times(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name not in ("started_at", "version")}


def _failure(error: Exception, work: StepWork, mask: Mask) -> Failure:
    """What went wrong, as the log keeps it: the agent's frames only, and all of it untrusted text."""
    kind = type(error).__name__
    match error:
        case TimeoutError():
            return Failure(code="timeout", message=f"no answer within {work.timeout_s:g} s", type=kind)
        case _BadInputs():
            return Failure(code="bad_inputs", message=_clipped(mask.text(str(error))), retryable=False)
        case Poison() | DecodeError():
            return Failure(code="bad_output", message=_clipped(mask.text(str(error))), retryable=False)
        case _AgentTimeout() if error.__cause__ is not None:
            error, kind = error.__cause__, "TimeoutError"  # type: ignore[assignment]
    lines = "".join(traceback.format_exception(type(error), error, _agents_own(error.__traceback__)))
    return Failure(
        code="rejected" if isinstance(error, Rejected) else "agent_error",
        message=_clipped(mask.text(str(error)) or kind),
        type=_line(mask.text(kind)),
        traceback=mask.text(lines)[-_TRACEBACK_CHARACTERS:],
        retryable=not isinstance(error, Rejected),
    )


def _agents_own(frames: TracebackType | None) -> TracebackType | None:
    """The frames of the agent: what comes after the last one of ours."""
    own = frames
    while frames is not None:
        if frames.tb_frame.f_code.co_filename in (__file__, calling.__file__):
            own = frames.tb_next
        frames = frames.tb_next
    return own


def _clipped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]} …"


def _line(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]
