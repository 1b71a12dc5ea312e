"""`Client`: a service publishes goals, hears what becomes of them, and answers what plans ask it.

    async with Client.connect() as client:
        submitted = await client.submit(plan, goal="Publish the audit", inputs={"path": "audit.md"})
        completed = await submitted.result()

A client is one NATS user (``submitter-<space>``), and the space is its name as a requester.
"""

import asyncio
import contextlib
import re
import secrets
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.delivery import subscribe
from planmesh.entry import enter, publish
from planmesh.errors import Busy, PlanmeshError, Unusable
from planmesh.schemas import codec, goals, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.commands import Reply
from planmesh.schemas.goals import FINAL, Goal, Outcome, Problem
from planmesh.schemas.questions import Question, Questioned
from planmesh.schemas.subjects import OUTCOMES, Address, BadSubject
from planmesh.secrets import store
from planmesh.steering import described, new_command_id

log = structlog.get_logger()

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
        """Connect as a submitter; see `planmesh.entry` for the arguments.

        Args:
            name: What the server's monitoring calls this connection.
            wait_s: How long the server may take to open its port.

        Raises:
            Unusable: No credentials, no server, or not one for planmesh; the text says what to do.
        """
        async with enter(
            "submitter",
            server=server,
            credentials=credentials,
            data_dir=data_dir,
            user=user,
            name=name,
            wait_s=wait_s,
        ) as connection:
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
        await publish(self.connection, subjects.goal(address), encode(body))
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
        await publish(self.connection, subjects.command(at, "reply", self.space), encode(reply))
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


_NAME_LINE: Final = re.compile(r"""^\s*\{?\s*(?:["']?name["']?\s*:\s*["']?|script\s+")([^"'\n#,}]+)""", re.MULTILINE)
_NOT_IN_SLUG: Final = re.compile(r"[^a-z0-9]+")
_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # none that are mistaken for another


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
