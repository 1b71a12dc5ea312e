"""`Operator`: looks at plans and steers them, as one person (``operator-<name>``); the log says so wherever it acts.

async with Operator.connect() as operator:
    address = await operator.find("order-17")
    await operator.pause(address, reason="lunch")
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.entry import enter, publish
from planmesh.errors import Busy, PlanmeshError, Poison, Unusable
from planmesh.eventlog import EventLog, Line, Recorded, read_line
from planmesh.inspection import stream_info
from planmesh.schemas import codec, queries, subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.commands import AnyCommand, CreatePlan, ProposeRevision, RefuseGoal, verb_of
from planmesh.schemas.events import CommandRefused, Commit, PlanRevised, RevisionRequested
from planmesh.schemas.events import RevisionRefused as RevisionRefusedEvent
from planmesh.schemas.goals import Goal
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import ENDED, PlanState, PlanStatus
from planmesh.schemas.subjects import BLOBS, PLANS, Address, BadSubject
from planmesh.schemas.work import PlannerWork, Progress
from planmesh.secrets import store
from planmesh.steering import Answer, Refused, RevisionRefused, Steering

_MODEL_S: Final = 900.0
"""How long a model may take, with all its drafts."""
_LATEST_S: Final = (0.0, 0.005, 0.05, 0.25)
_LOOK_S: Final = 5.0
_READ_BATCH: Final = 1_000

log = structlog.get_logger()

_T = TypeVar("_T", bound=queries.Answer)
_S = TypeVar("_S")


class QueryRefused(PlanmeshError):
    """There is no answer to this question.

    Attributes:
        code: See `planmesh.schemas.queries.QueryError`; `unknown_plan` and `ambiguous_plan` also come from `find`.
        nearest: Plans with an id like the one that was asked for, as ``space.plan``.
        spaces: The spaces that have a plan with this id.
    """

    def __init__(self, error: queries.QueryError) -> None:
        self.code = error.code
        self.nearest = error.nearest
        self.spaces = error.spaces
        super().__init__(error.message)


class ProgressReport(NamedTuple):
    """What an agent says of the step that it is at. Nothing of it is stored."""

    step: str
    agent: str
    progress: Progress


class Operator(Steering):
    """Looks at plans, and steers them, as one person. Made by `connect`.

    Lists and histories come from the auditor, which may be away; a single plan can also be read from the log.

    Attributes:
        name: The person, as the log names it.
        connection: What is underneath.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = connection.user.removeprefix("operator-")
        self._log = EventLog(connection)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        server: str | None = None,
        *,
        credentials: Path | None = None,
        data_dir: Path | None = None,
        user: str | None = None,
        name: str = "planmesh-operator",
        wait_s: float = 10.0,
    ) -> AsyncIterator["Operator"]:
        """Connect as an operator; see `planmesh.entry` for the arguments. Raises: Unusable."""
        async with enter(
            "operator",
            server=server,
            credentials=credentials,
            data_dir=data_dir,
            user=user,
            name=name,
            wait_s=wait_s,
        ) as connection:
            yield cls(connection)

    # --- questions that the auditor answers: each raises QueryRefused, Busy or Unusable --------------------

    async def plans(self, query: queries.PlansQuery | None = None) -> queries.PlansAnswer:
        """Plans, the newest first."""
        return await self._ask("plans", query or queries.PlansQuery(), queries.PlansAnswer)

    async def plan(self, address: Address) -> queries.PlanAnswer:
        """One plan, with its document."""
        return await self._ask("plan", queries.PlanQuery(plan=address.plan, space=address.space), queries.PlanAnswer)

    async def steps(self, address: Address, *, limit: int = 1_000, after: int = 0) -> queries.StepsAnswer:
        """The steps of one plan: a page of them."""
        query = queries.StepsQuery(plan=address.plan, space=address.space, limit=limit, after=after)
        return await self._ask("steps", query, queries.StepsAnswer)

    async def log(self, address: Address, *, limit: int = 1_000, number: int = 1, index: int = 0) -> queries.LogAnswer:
        """What happened to one plan: a page of it, from the event *index* of the commit *number* on."""
        query = queries.LogQuery(plan=address.plan, space=address.space, limit=limit, number=number, index=index)
        return await self._ask("log", query, queries.LogAnswer)

    async def gates(self, query: queries.GatesQuery | None = None) -> queries.GatesAnswer:
        """The gates that are open, the longest open first."""
        return await self._ask("gates", query or queries.GatesQuery(), queries.GatesAnswer)

    async def position(self) -> queries.PositionAnswer:
        """How far into the log the auditor has read."""
        return await self._ask("position", queries.PositionQuery(), queries.PositionAnswer)

    async def _ask(self, name: str, question: queries.Question, kind: type[_T]) -> _T:
        subject = subjects.query(name)
        try:
            data = await self.connection.request(subject, encode(question), timeout_s=10)
        except Busy as error:
            raise Busy(
                f"no auditor answers ({error}). Is one running? (`planmesh doctor`) A single plan can be read without "
                "it: `planmesh show PLAN --from-log`"
            ) from error
        try:
            answer: _T | queries.QueryError = _answers[kind].decode(data)
        except DecodeError as error:
            raise Unusable(
                f"the auditor's answer to {subject} cannot be understood ({error}): is it of another version?"
            ) from error
        if isinstance(answer, queries.QueryError):
            raise Busy(answer.message) if answer.code == "busy" else QueryRefused(answer)
        return answer

    # --- steering: the verbs are in `planmesh.steering` -------------------------------------------------------

    async def command(self, address: Address, command: AnyCommand, *, timeout_s: float = 10.0) -> Answer:
        """Ask something of a plan, and wait for the line of the log that answers.

        A command that asks for a revision (`revise`, `redirect`, a retry with other means) is answered twice: the
        request is recorded, and then the planner has worked it out. This waits for both.

        Args:
            address: The plan.
            command: With an id of its own: see `new_command_id`.
            timeout_s: How long to wait for the executor, and, three times as long, for the planner; for an instruction
                in words, a quarter of an hour.

        Raises:
            Refused, RevisionRefused: The answer is no.
            Busy: There is no answer yet. The command is stored, and may still be carried out.
            PlanmeshError: The id is that of another command.
            Unusable: Not allowed, or closed.
        """
        verb = verb_of(command)
        async with self._changes(address) as changes:
            recorded = await self._log.read(address)
            if recorded.state.has_answered(self.name, command.id):
                recorded = Recorded.nothing(address)  # the answer is there already
            await publish(self.connection, subjects.command(address, verb, self.name), encode(command))
            async with contextlib.aclosing(self._follow(recorded, changes)) as lines:
                async with _patience(timeout_s, f"{verb} for {address}", "an executor"):
                    answer = self._answer(command, await self._answering(command, lines))
                if not any(isinstance(one, RevisionRequested) and one.request == command.id for one in answer.events):
                    return answer
                # A model may take long over what is asked in words.
                patience_s = max(3 * timeout_s, _MODEL_S) if getattr(command, "instruction", "") else 3 * timeout_s
                async with _patience(patience_s, f"the {verb} of {address}", "a planner"):
                    return await _worked_out(command.id, lines)

    async def keep_secret(self, address: Address, step: str, text: str) -> str:
        """Store the answer to an ask with `secret`; `planmesh.schemas.commands.AnswerAsk` then names it.

        Returns:
            What names it.

        Raises:
            ValueError: It is empty, or too long.
            Busy: The server does not take it now.
            Unusable: Not allowed, or closed.
        """
        return await store(self.connection, address, step, "answer", self.name, text)

    async def proposal(self, work: PlannerWork) -> ProposeRevision:
        """What the planner would make of a request for a revision; nothing is stored, and nothing changes. Of one in
        words a model may make something else the next time.

        Raises:
            Busy: No planner answers, or a model takes too long.
            Poison: It is no such request, or longer than the server takes.
        """
        timeout_s = _MODEL_S if work.is_for_a_model else 30.0
        answer = codec.command.decode(await self._ask_planner("proposal", work, timeout_s))
        if not isinstance(answer, ProposeRevision):
            raise Unusable(f"a planner has answered with {verb_of(answer)}, not with a revision")
        return answer

    async def draft(self, goal: Goal, *, timeout_s: float = _MODEL_S) -> CreatePlan | RefuseGoal:
        """What a planner would make of a goal; nothing is stored, and nothing starts.

        Raises:
            Busy: No planner answers, or a model takes too long.
            Poison: It is longer than the server takes.
        """
        answer = codec.command.decode(await self._ask_planner("draft", goal, timeout_s))
        if not isinstance(answer, CreatePlan | RefuseGoal):
            raise Unusable(f"a planner has answered with {verb_of(answer)}, not with a plan")
        return answer

    async def templates(self, *, timeout_s: float = 30.0) -> queries.TemplatesAnswer:
        """The plans that the mesh keeps. Raises: Busy, Unusable."""
        data = await self._ask_planner("templates", queries.TemplatesQuery(), timeout_s)
        return _understood(_templates, data, "templates")

    async def template(self, name: str) -> queries.TemplateAnswer:
        """One plan that the mesh keeps. Raises: Poison (there is none of this name), Busy, Unusable."""
        data = await self._ask_planner("template", queries.TemplateQuery(template=name))
        return _understood(_template, data, "template")

    async def _ask_planner(self, name: str, question: Any, timeout_s: float = 30.0) -> bytes:
        try:
            return await self.connection.request(subjects.query(name), encode(question), timeout_s=timeout_s)
        except Busy as error:
            raise Busy(f"no planner answers ({error}). Is one running? (`planmesh doctor`)") from error

    async def _answering(self, command: AnyCommand, lines: AsyncIterator[tuple[PlanState, Line]]) -> Commit:
        async for _, line in lines:
            for cause in line.commit.causes:
                if cause.id == command.id and cause.actor == self.name:
                    if cause.verb != verb_of(command):
                        raise PlanmeshError(
                            f"the id {command.id} is that of another command: {cause.verb}, answered in commit "
                            f"{line.commit.number}. Nothing was changed"
                        )
                    return line.commit
        raise AssertionError("a log that is followed does not end")

    def _answer(self, command: AnyCommand, commit: Commit) -> Answer:
        for event in commit.events:
            if isinstance(event, CommandRefused) and (event.by, event.command) == (self.name, command.id):
                raise Refused(event, commit)
        return Answer(commit, commit.events)

    # --- the log itself: works with the auditor down ---------------------------------------------------------

    async def state(self, address: Address) -> PlanState:
        """A plan as its log tells it; `exists` is false where there is none. Raises: Busy, Unusable."""
        return (await self._log.read(address)).state

    async def lines(self, address: Address) -> AsyncIterator[Line]:
        """Every commit of a plan so far. Raises: Busy, Unusable."""
        async for line in self._log.lines(address):
            yield line

    async def watch(self, address: Address, *, from_start: bool = True) -> AsyncIterator[tuple[PlanState, Commit]]:
        """Every commit, in order and without gaps, with the state after it, until the plan has ended.

        A plan that is not there yet is waited for. It goes on through lost connections.

        Args:
            from_start: False: only commits after now.

        Raises:
            Busy: The log cannot be read at the start.
            Unusable: The connection is closed.
        """
        async with self._changes(address) as changes:
            recorded = Recorded.nothing(address)
            if not from_start:
                recorded = await self._log.read(address)
                if recorded.state.status in ENDED:
                    return
            async for state, line in self._follow(recorded, changes):
                yield state, line.commit
                if state.status is PlanStatus.REFUSED:
                    # The same goal may have been published again since.
                    if (await self._log.read(address)).state.number == state.number:
                        return
                elif state.status in ENDED:
                    return

    @contextlib.asynccontextmanager
    async def _changes(self, address: Address) -> AsyncIterator["_Changes"]:
        """Hear when something has been published on the plan's subject: a hint to look into the log.

        No more than a hint: what is heard may be an append that the log has refused.
        """
        changes = _Changes()
        interest = await self.connection.listen(subjects.plan_log(address), changes.on_message)
        self.connection.on_reconnect.add(changes.wake)
        self.connection.on_close.add(changes.wake)
        try:
            await self.connection.flush()
            yield changes
        finally:
            self.connection.on_reconnect.discard(changes.wake)
            self.connection.on_close.discard(changes.wake)
            with contextlib.suppress(Busy):
                await self.connection.unlisten(interest)

    async def _follow(self, recorded: Recorded, changes: "_Changes") -> AsyncGenerator[tuple[PlanState, Line], None]:
        """Read on in the log, for ever."""
        subject = subjects.plan_log(recorded.state.address)
        read_once = False
        while True:
            # What is heard may not be readable for a moment.
            for pause_s in _LATEST_S:
                await asyncio.sleep(pause_s)
                try:
                    while batch := await self.connection.direct_get(
                        PLANS, subject=subject, sequence=recorded.sequence + 1, batch=_READ_BATCH
                    ):
                        for stored in batch:
                            recorded, line = read_line(recorded, stored.sequence, stored.data)
                            if line is not None:
                                yield recorded.state, line
                        if len(batch) < _READ_BATCH:
                            break
                except Busy:
                    if not read_once:
                        raise
                    continue
                read_once = True
                if changes.highest <= recorded.state.number:
                    break
            if self.connection.closed.is_set():
                raise Unusable(f"the connection closed while {recorded.state.address} was watched")
            await changes.wait()

    async def progress(self, address: Address) -> AsyncIterator[ProgressReport]:
        """What agents say of a plan's steps while they run them, live, until the caller stops. Raises: Unusable."""
        queue: asyncio.Queue[ProgressReport | None] = asyncio.Queue(maxsize=10_000)

        def put(report: ProgressReport | None) -> None:
            with contextlib.suppress(asyncio.QueueFull):  # a hint: who cannot keep up misses some
                queue.put_nowait(report)

        def on_message(message: Msg) -> None:
            try:
                agent, _, step = subjects.read_progress(message.subject)
                put(ProgressReport(step, agent, codec.progress.decode(message.data, limit_bytes=256 * 1024)))
            except (DecodeError, BadSubject) as error:
                log.warning("progress.not_understood", subject=message.subject, error=str(error))

        def on_close() -> None:
            put(None)

        interest = await self.connection.listen(subjects.progress_of(address), on_message)
        self.connection.on_close.add(on_close)
        try:
            while (report := await queue.get()) is not None:
                yield report
            raise Unusable(f"the connection closed while the progress of {address} was watched")
        finally:
            self.connection.on_close.discard(on_close)
            with contextlib.suppress(Busy):
                await self.connection.unlisten(interest)

    async def blob(self, sha256: str) -> bytes:
        """A large value, as JSON bytes.

        Raises:
            Poison: There is no such blob, or its bytes do not have this hash.
            Busy: No answer.
        """
        stored = await self.connection.last_on_subject(BLOBS, subjects.blob(sha256))
        if stored is None:
            raise Poison(f"there is no blob {sha256}")
        if hashlib.sha256(stored.data).hexdigest() != sha256:
            raise Poison(f"blob {sha256} is damaged: its bytes have another hash")
        return stored.data

    async def value(self, payload: Payload) -> Any:
        """What a payload stands for, fetched if it is large. Raises: Poison, Busy."""
        if payload.blob is None:
            return payload.value
        return codec.value.decode(await self.blob(payload.blob.sha256))

    async def find(self, plan: str) -> Address:
        """Where a plan is.

        Args:
            plan: Its id; or ``space.plan``, which is needed where several spaces have the id.

        Raises:
            QueryRefused: There is no such plan, or several.
            Busy: No answer.
        """
        space, _, token = plan.rpartition(".")
        if not subjects.is_token(token) or not subjects.is_token(space or "any"):
            raise _no_plan(f"{plan[:100]!a} is not the id of a plan")
        info = await stream_info(self.connection, PLANS, subjects_filter=subjects.logs_of(token, space))
        found = sorted(map(subjects.read_plan_log, info.state.subjects if info is not None else ()))
        if len(found) == 1:
            return found[0]
        if found:
            text = f"several spaces have a plan {token}: say {' or '.join(map(str, found))}"
            raise QueryRefused(
                queries.QueryError(code="ambiguous_plan", message=text, spaces=tuple(at.space for at in found))
            )
        raise await self._unknown(Address(space, token))

    async def _unknown(self, address: Address) -> QueryRefused:
        text = f"there is no plan {'.'.join(filter(None, address))}"
        try:
            await self.plan(address)
        except QueryRefused as error:
            return _no_plan(text, error.nearest)
        except (Busy, Unusable):
            pass  # the auditor would only have known what is near
        return _no_plan(text)


def _understood(of: Codec[_S], data: bytes, name: str) -> _S:
    try:
        return of.decode(data)
    except DecodeError as error:
        said = f"the planner's answer to {subjects.query(name)} cannot be understood ({error})"
        raise Unusable(f"{said}: is it of another version?") from error


def _no_plan(text: str, nearest: tuple[str, ...] = ()) -> QueryRefused:
    if nearest:
        text += f"; did you mean {' or '.join(nearest)}?"
    else:
        text += "; `planmesh list` says which there are"
    return QueryRefused(queries.QueryError(code="unknown_plan", message=text, nearest=nearest))


async def _worked_out(request: str, lines: AsyncIterator[tuple[PlanState, Line]]) -> Answer:
    """What the planner has made of a request. Raises: RevisionRefused; PlanmeshError, if the plan ends before."""
    async for state, line in lines:
        for event in line.commit.events:
            if isinstance(event, RevisionRefusedEvent) and event.request == request:
                raise RevisionRefused(event, line.commit)
            if isinstance(event, PlanRevised) and event.request == request:
                return Answer(line.commit, line.commit.events)
        if state.status in ENDED:
            raise PlanmeshError(f"the plan {state.address} was {state.status} before the planner had worked it out")
    raise AssertionError("a log that is followed does not end")


@contextlib.asynccontextmanager
async def _patience(timeout_s: float, asked: str, service: str) -> AsyncIterator[None]:
    """Wait for an answer for so long. Raises: Busy (`ambiguous`)."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        busy = Busy(
            f"nobody has answered {asked} within {timeout_s:g} s: is {service} running? (`planmesh doctor`) The "
            "command is stored, and will be answered in the log"
        )
        busy.ambiguous = True
        raise busy from None


class _Changes:
    """How far a plan's log must reach, by what was heard."""

    def __init__(self) -> None:
        self.highest = 0
        self._event = asyncio.Event()

    def on_message(self, message: Msg) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            self.highest = max(self.highest, _decode_number(message.data).number)
        self._event.set()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Until something was heard; or for a while, because it may have been missed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._event.wait()
        self._event.clear()


class _Numbered(msgspec.Struct):
    number: int = 0


_decode_number = msgspec.json.Decoder(_Numbered).decode
_templates: Final = Codec[queries.TemplatesAnswer](queries.TemplatesAnswer, trusted=True)
_template: Final = Codec[queries.TemplateAnswer](queries.TemplateAnswer, trusted=True)
_answers: Final[Mapping[Any, Codec[Any]]] = {
    answer: Codec(answer | queries.QueryError, trusted=True) for _, answer in queries.QUERIES.values()
}
