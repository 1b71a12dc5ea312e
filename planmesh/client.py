"""The ways in: `Client` publishes goals and hears what becomes of them, `Operator` looks at plans and steers them.

A service that wants something done::

    async with Client.connect() as client:
        submitted = await client.submit(plan, goal="Publish the audit", inputs={"path": "audit.md"})
        completed = await submitted.result()

A client is one NATS user (``submitter-<space>``), and the space is its name as a requester. An operator is a person
(``operator-<name>``), and the log says so wherever it acts. Who one is comes from a file of credentials.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection, connect
from planmesh.credentials import CONNECTION_FILE, Credentials, read_connection, read_credentials, users
from planmesh.delivery import subscribe
from planmesh.errors import Busy, PlanmeshError, Poison, Unusable
from planmesh.eventlog import EventLog, Line, Recorded, read_line
from planmesh.inspection import stream_info
from planmesh.schemas import codec, goals, queries, subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.commands import AnyCommand, CreatePlan, ProposeRevision, RefuseGoal, Reply, verb_of
from planmesh.schemas.events import CommandRefused, Commit, PlanRevised, RevisionRequested
from planmesh.schemas.events import RevisionRefused as RevisionRefusedEvent
from planmesh.schemas.goals import FINAL, Goal, Outcome, Problem
from planmesh.schemas.payload import Payload
from planmesh.schemas.questions import Question, Questioned
from planmesh.schemas.state import ENDED, PlanState, PlanStatus
from planmesh.schemas.subjects import BLOBS, OUTCOMES, PLANS, Address, BadSubject
from planmesh.schemas.work import PlannerWork, Progress
from planmesh.secrets import store
from planmesh.steering import Answer as Answer
from planmesh.steering import Refused as Refused
from planmesh.steering import RevisionRefused as RevisionRefused
from planmesh.steering import Steering, described
from planmesh.steering import new_command_id as new_command_id

_PUBLISH_S: Final = 5.0
_TRIES: Final = 5
_MODEL_S: Final = 900.0
"""How long a model may take, with all its drafts."""
_LATEST_S: Final = (0.0, 0.005, 0.05, 0.25)
_LOOK_S: Final = 5.0
_READ_BATCH: Final = 1_000

log = structlog.get_logger()

_T = TypeVar("_T", bound=queries.Answer)
_S = TypeVar("_S")


# --- what can go wrong -------------------------------------------------------------------------------------


class PlanRefused(PlanmeshError):
    """The goal did not become a plan.

    Attributes:
        outcome: With the problems, each with its place in the document.
    """

    def __init__(self, outcome: goals.Refused) -> None:
        self.outcome = outcome
        lines = (f"  {described(problem)}" for problem in outcome.problems)
        super().__init__("\n".join([f"goal {outcome.space}.{outcome.goal} was refused:", *lines]))

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.outcome.problems


class PlanFailed(PlanmeshError):
    """The plan ended by a failure. Attributes: outcome."""

    def __init__(self, outcome: goals.Failed) -> None:
        self.outcome = outcome
        at = f" at step {outcome.step}" if outcome.step else ""
        super().__init__(f"plan {outcome.space}.{outcome.goal} failed{at}: {outcome.reason}")


class PlanCancelled(PlanmeshError):
    """Someone ended the plan. Attributes: outcome."""

    def __init__(self, outcome: goals.Cancelled) -> None:
        self.outcome = outcome
        why = f": {outcome.reason}" if outcome.reason else ""
        super().__init__(f"plan {outcome.space}.{outcome.goal} was cancelled by {outcome.by}{why}")


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


# --- who one is --------------------------------------------------------------------------------------------


def find_credentials(
    role: Literal["submitter", "operator"],
    *,
    server: str | None = None,
    credentials: Path | None = None,
    data_dir: Path | None = None,
    user: str | None = None,
) -> Credentials:
    """Whose credentials to use.

    Args:
        role: What is to be done.
        server: ``nats://host:port``; None: what the settings, or else the credentials say.
        credentials: The directory of credentials, or one file of it; None: what the settings say.
        data_dir: Where the mesh keeps its files; None: what the settings say.
        user: ``submitter-<space>`` or ``operator-<name>``, or only what follows the role; None: whom
            ``connection.toml`` names, or else the only user of the role in the directory.

    Raises:
        Unusable: There are none, or several to choose from.
    """
    from planmesh import settings  # it takes a while, and a caller may have its own credentials

    if credentials is not None and credentials.is_file():
        return read_credentials(credentials.parent, user or credentials.stem, server)
    found = settings.load(server=server, credentials=credentials, data_dir=data_dir)
    directory = found.credentials_dir
    if user is None:
        user = _only(role, directory, found.data_dir)
    elif not user.startswith(f"{role}-"):
        user = f"{role}-{user}"
    return read_credentials(directory, user, found.server)


def _only(role: Literal["submitter", "operator"], directory: Path, data_dir: Path) -> str:
    there = [user for user in users(directory) if user.startswith(f"{role}-")]
    if (data_dir / CONNECTION_FILE).exists():
        chosen = read_connection(data_dir)
        named = chosen.operator if role == "operator" else chosen.submitter
        if named in there:
            return named
    if len(there) == 1:
        return there[0]
    if there:
        raise Unusable(f"{directory} has the credentials of {', '.join(there)}: say which of them to be (--user)")
    if not users(directory):
        raise Unusable(
            f"there is no mesh in {data_dir}, and no credentials of one: `planmesh up` starts one on this machine. To "
            f"use one elsewhere, have its administrator run `planmesh credentials {role} NAME`, and say where you keep "
            "the file: --data-dir, PLANMESH_DATA_DIR or PLANMESH_CREDENTIALS"
        )
    raise Unusable(
        f"no {role}'s credentials in {directory}: `planmesh up` makes them for a mesh on this machine, and "
        f"`planmesh credentials {role} NAME` on the machine of whoever administers it. If they are elsewhere, say so "
        "with --data-dir, PLANMESH_DATA_DIR or PLANMESH_CREDENTIALS"
    )


def _be_quiet() -> None:
    """In a program that has not said what to do with logs, write warnings to stderr: structlog would write everything
    to stdout."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


# --- for services ------------------------------------------------------------------------------------------


class News(NamedTuple):
    """An outcome from the durable consumer: `ack` it once it has been dealt with, or it comes again."""

    outcome: Outcome
    ack: Callable[[], None]

    @property
    def address(self) -> Address:
        return Address(self.outcome.space, self.outcome.goal)


class Heard(NamedTuple):
    """What a service is asked, from the durable consumer: `ack` it once it has been dealt with, or it comes again."""

    question: Question
    ack: Callable[[], None]

    @property
    def address(self) -> Address:
        return Address(self.question.space, self.question.plan)


class Submitted:
    """A goal that the server has stored, and the news of it as they come.

    Attributes:
        address: Where the plan will be: the space, and the goal's id.
        heard: The news so far, in order.
    """

    def __init__(self, address: Address, connection: Connection) -> None:
        self.address = address
        self.heard: list[Outcome] = []
        self._connection = connection
        self._seen: set[tuple[int, type]] = set()
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Submitted {self.address}, heard {len(self.heard)}>"

    @property
    def final(self) -> Outcome | None:
        """How it ended, once it has."""
        return self.heard[-1] if self.heard and isinstance(self.heard[-1], FINAL) else None

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """The news from the first on, until a final one (`planmesh.schemas.goals.FINAL`).

        Raises:
            Unusable: The connection is closed.
        """
        told = 0
        while True:
            while told < len(self.heard):
                outcome = self.heard[told]
                told += 1
                yield outcome
                if isinstance(outcome, FINAL):
                    return
            if self._connection.closed.is_set():
                raise Unusable(f"the connection closed before {self.address} ended; {self._last()}")
            self._changed.clear()
            await self._changed.wait()

    async def result(self, timeout_s: float | None = None) -> goals.Completed:
        """Wait until the plan has completed.

        A large result comes as a claim check, which an operator can fetch.

        Raises:
            PlanRefused, PlanFailed, PlanCancelled: It ended otherwise.
            TimeoutError: It has not ended within *timeout_s*; the text says what was heard last.
            Unusable: The connection is closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                async for outcome in self.outcomes():
                    match outcome:
                        case goals.Completed():
                            return outcome
                        case goals.Refused():
                            raise PlanRefused(outcome)
                        case goals.Failed():
                            raise PlanFailed(outcome)
                        case goals.Cancelled():
                            raise PlanCancelled(outcome)
        except TimeoutError:
            raise TimeoutError(f"{self.address} has not ended within {timeout_s:g} s; {self._last()}") from None
        raise AssertionError("the news ended without a final one")

    def _hear(self, outcome: Outcome) -> None:
        key = (outcome.number, type(outcome))
        # An id that is taken is refused on the same subject: that is news of somebody else's goal.
        stranger = isinstance(outcome, goals.Refused) and any(isinstance(one, goals.Accepted) for one in self.heard)
        if key in self._seen or self.final is not None or stranger:
            return
        self._seen.add(key)
        self.heard.append(outcome)
        self._changed.set()

    def _last(self) -> str:
        if not self.heard:
            return "nothing was heard of it: is a planner running? (`planmesh doctor`)"
        match self.heard[-1]:
            case goals.Waiting(gates=gates, asks=asks):
                return f"it waits at {', '.join((*gates, *asks))}"
            case goals.Paused(reason=reason):
                return f"it is paused: {reason}"
            case last:
                return f"last heard: {last.__struct_config__.tag}"


class Client:
    """Publishes goals in one space, and hears what becomes of them. Made by `connect`.

    Attributes:
        space: The name of this requester.
        connection: What is underneath.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.space = connection.user.removeprefix("submitter-")
        self._waiting: dict[str, weakref.WeakSet[Submitted]] = {}
        self._catching_up: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        server: str | None = None,
        *,
        credentials: Path | None = None,
        data_dir: Path | None = None,
        user: str | None = None,
        name: str = "planmesh-client",
        wait_s: float = 10.0,
    ) -> AsyncIterator["Client"]:
        """Connect as a submitter; see `find_credentials` for the arguments.

        Args:
            name: What the server's monitoring calls this connection.
            wait_s: How long the server may take to open its port.

        Raises:
            Unusable: No credentials, no server, or not one for planmesh; the text says what to do.
        """
        _be_quiet()
        found = find_credentials("submitter", server=server, credentials=credentials, data_dir=data_dir, user=user)
        async with await connect(found.server, found.user, found.password, name=name, wait_s=wait_s) as connection:
            client = cls(connection)
            await client._listen()
            try:
                yield client
            finally:
                if client._catching_up is not None:
                    client._catching_up.cancel()

    async def submit(
        self,
        plan: Mapping[str, Any] | str | None = None,
        *,
        goal: str = "",
        template: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        id: str | None = None,
        start: bool = True,
        traceparent: str | None = None,
    ) -> Submitted:
        """Publish a goal. It is stored when this returns; whether it became a plan is the first news of it.

        Args:
            plan: The plan document: as a mapping, or as text: a script, YAML or JSON. None: the mesh has it as
                *template*, or a model makes it of *goal*.
            goal: What it is for, in words.
            template: The name of a plan that the mesh keeps.
            inputs: Values for the plan's inputs.
            policy: Of a goal in words: the policy of the plan that is made of it, such as ``{"revisions": "hold"}``.
            id: The goal's id, and the plan's: 1 to 64 of ``A-Z a-z 0-9 _ -``. The same id with the same content
                is the same goal, so a caller that does not know whether it has published may do so again; of a goal
                that was known already, only what happens from now on is heard. One that was refused may be submitted
                again, mended or not. None: a new one, from the plan's name
                and the time.
            start: False: it stays a draft until someone starts it.
            traceparent: The caller's span (W3C Trace Context), which the plan's trace joins.

        Raises:
            BadToken: The id is not one.
            Poison: The document is larger than the server takes.
            Busy: The server does not take it now. It may have been stored: submit it again, with this id.
            Unusable: Not allowed, or closed.
        """
        address = subjects.address(self.space, _new_id(plan or {"name": template or goal}) if id is None else id)
        document = dict(plan) if isinstance(plan, Mapping) else plan
        body = Goal(
            goal=goal,
            plan=document,
            template=template,
            inputs=dict(inputs or {}),
            policy=None if policy is None else dict(policy),
            start=start,
            traceparent=traceparent,
        )
        submitted = Submitted(address, self.connection)
        self._waiting.setdefault(address.plan, weakref.WeakSet()).add(submitted)
        await _publish(self.connection, subjects.goal(address), encode(body))
        return submitted

    async def outcomes(self) -> AsyncIterator[News]:
        """Everything that becomes of this space's goals, from where it was left, at least once, until the caller stops.

        For a service that may restart: whatever was not acked comes again. Several processes share the news.

        Raises:
            Unusable: The connection is closed.
        """
        subscription = await subscribe(self.connection, OUTCOMES, subjects.outcome_consumer(self.space), batch=64)
        async with subscription:
            # One at a time: what nobody has asked for yet stays with the server, for other processes.
            while messages := await subscription.receive(1):
                for message in messages:
                    outcome = _outcome(message.subject, message.data)
                    if outcome is None:
                        message.ack()
                    else:
                        yield News(outcome, message.ack)

    # --- what others, and one's own plans, ask of this service ---------------------------------------------

    async def questions(self) -> AsyncIterator[Heard]:
        """What plans ask of this service, as ``service:<space>``, and what becomes of it, from where it was left, at
        least once, until the caller stops. See `outcomes`, and `planmesh.schemas.questions`.

        Raises:
            Unusable: The connection is closed.
        """
        subscription = await subscribe(self.connection, OUTCOMES, subjects.question_consumer(self.space), batch=64)
        async with subscription:
            while messages := await subscription.receive(1):
                for message in messages:
                    question = _question(message.subject, message.data)
                    if question is None:
                        message.ack()
                    else:
                        yield Heard(question, message.ack)

    async def answer(
        self, question: Questioned, value: str | float | bool, *, reason: str = "", id: str | None = None
    ) -> str:
        """Answer an ask: with a text (or one of the options), a number, or true or false. A secret is stored first,
        and is no part of the answer.

        The answer is stored when this returns; whether it is taken comes with `questions`. What does not fit is
        refused, and counted.

        Args:
            id: An id of your own: the same answer published twice with it counts once.

        Returns:
            The id.

        Raises:
            Busy: The server does not take it now; it may have been stored.
            Unusable: Not allowed, or closed.
        """
        if not question.secret:
            return await self._reply(question, "answer", value, reason, id)
        if not isinstance(value, str):
            raise ValueError(f"ask {question.step} takes a secret, which is a text")
        at = subjects.address(question.space, question.plan)
        secret = await store(self.connection, at, question.step, "reply", self.space, value)
        return await self._reply(question, "answer", None, reason, id, secret)

    async def approve(self, question: Questioned, *, reason: str = "", id: str | None = None) -> str:
        """Approve what a gate lets go: exactly what the question says. See `answer`."""
        return await self._reply(question, "approve", None, reason, id)

    async def reject(self, question: Questioned, *, reason: str = "", id: str | None = None) -> str:
        """Reject what a gate would let go. See `answer`."""
        return await self._reply(question, "reject", None, reason, id)

    async def _reply(
        self,
        question: Questioned,
        decision: Literal["approve", "reject", "answer"],
        value: Any,
        reason: str,
        id: str | None,
        secret: str | None = None,
    ) -> str:
        reply = Reply(
            id=id or new_command_id(),
            step=question.step,
            digest=question.digest,
            decision=decision,
            value=value,
            secret=secret,
            reason=reason,
        )
        at = subjects.address(question.space, question.plan)
        await _publish(self.connection, subjects.command(at, "reply", self.space), encode(reply))
        return reply.id

    async def _listen(self) -> None:
        self.connection.on_close.add(self._wake)
        self.connection.on_reconnect.add(self._start_to_catch_up)
        await self.connection.listen(subjects.outcomes_of(self.space), self._on_outcome)
        await self.connection.flush()

    def _on_outcome(self, message: Msg) -> None:
        self._hear(message.subject, message.data)

    def _hear(self, subject: str, data: bytes) -> None:
        goal = subject.rpartition(".")[2]
        waiting = self._waiting.get(goal)
        outcome = _outcome(subject, data) if waiting is not None else None
        if waiting is None or outcome is None:
            return
        for submitted in waiting:
            submitted._hear(outcome)
        if all(submitted.final for submitted in waiting):
            del self._waiting[goal]

    def _start_to_catch_up(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        """Hear the last news of every goal that somebody waits for: what came while the connection was away."""
        for goal in list(self._waiting):
            try:
                data = await self.connection.request(subjects.last_outcome(self.space, goal))
            except (Busy, Unusable) as error:  # no news yet; or the connection is away again, and will be back
                log.debug("outcome.not_caught_up", goal=goal, error=str(error))
            else:
                self._hear(subjects.outcome(Address(self.space, goal)), data)

    def _wake(self) -> None:
        for waiting in self._waiting.values():
            for submitted in waiting:
                submitted._changed.set()


def _outcome(subject: str, data: bytes) -> Outcome | None:
    try:
        outcome = codec.outcome.decode(data)
        address = subjects.read_outcome(subject)
    except (DecodeError, BadSubject) as error:
        log.warning("outcome.not_understood", subject=subject, error=str(error))
        return None
    if (outcome.space, outcome.goal) != address:
        log.warning("outcome.misplaced", subject=subject, space=outcome.space, goal=outcome.goal)
        return None
    return outcome


def _question(subject: str, data: bytes) -> Question | None:
    try:
        question = codec.question.decode(data)
        found = subjects.read_question(subject)
    except (DecodeError, BadSubject) as error:
        log.warning("question.not_understood", subject=subject, error=str(error))
        return None
    if (question.space, question.plan, question.step) != (*found.address, found.step):
        log.warning("question.misplaced", subject=subject, space=question.space, plan=question.plan)
        return None
    return question


_NAME_LINE: Final = re.compile(r"""^\s*["']?name["']?\s*:\s*["']?([^"'\n#,}]+)""", re.MULTILINE)
_NOT_IN_SLUG: Final = re.compile(r"[^a-z0-9]+")
_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # none that are mistaken for another


def _understood(of: Codec[_S], data: bytes, name: str) -> _S:
    try:
        return of.decode(data)
    except DecodeError as error:
        said = f"the planner's answer to {subjects.query(name)} cannot be understood ({error})"
        raise Unusable(f"{said}: is it of another version?") from error


def _new_id(plan: Mapping[str, Any] | str) -> str:
    """Such as ``dependency-audit-20261122-0915-x7k2m9``: told apart by people, and by a thousand plans a minute."""
    if isinstance(plan, str):
        found = _NAME_LINE.search(plan)
        name = found[1] if found else ""
    else:
        name = str(plan.get("name", ""))
    slug = _NOT_IN_SLUG.sub("-", name.lower()).strip("-")[:40].strip("-") or "plan"
    unique = "".join(secrets.choice(_ALPHABET) for _ in range(6))
    return f"{slug}-{datetime.now(UTC):%Y%m%d-%H%M}-{unique}"


async def _publish(connection: Connection, subject: str, data: bytes) -> None:
    """Publish what may arrive twice without harm, until the server says that it is stored. Raises: Busy, …"""
    for left in reversed(range(_TRIES)):
        try:
            await connection.publish(subject, data, timeout_s=_PUBLISH_S)
        except Busy as error:
            if not error.ambiguous or not left:
                raise
            await asyncio.sleep(0.2)
        else:
            return


# --- for people --------------------------------------------------------------------------------------------


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
        """Connect as an operator; see `find_credentials` for the arguments, and `Client.connect`. Raises: Unusable."""
        _be_quiet()
        found = find_credentials("operator", server=server, credentials=credentials, data_dir=data_dir, user=user)
        async with await connect(found.server, found.user, found.password, name=name, wait_s=wait_s) as connection:
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
            await _publish(self.connection, subjects.command(address, verb, self.name), encode(command))
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

    async def templates(self) -> queries.TemplatesAnswer:
        """The plans that the mesh keeps. Raises: Busy, Unusable."""
        data = await self._ask_planner("templates", queries.TemplatesQuery())
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


def _no_plan(text: str, nearest: tuple[str, ...] = ()) -> QueryRefused:
    if nearest:
        text += f"; did you mean {' or '.join(nearest)}?"
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
