"""What the pages read and write: the log of a plan, answers to its gates and asks, previews, and what is open."""

import asyncio
from datetime import datetime
from typing import Final, NamedTuple

from planmesh.connection import Connection
from planmesh.errors import Busy
from planmesh.eventlog import EventLog
from planmesh.schemas import codec, events, subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.commands import ReviewGate
from planmesh.schemas.payload import Payload
from planmesh.schemas.previews import PREVIEW, PreviewAnswer, PreviewQuery
from planmesh.schemas.queries import GateRow, GatesAnswer, GatesQuery, QueryError
from planmesh.schemas.state import PlanState, apply
from planmesh.schemas.subjects import BLOBS, Address
from planmesh.secrets import store

BLOB_BYTES: Final = 256 * 1024
"""A larger output is named by its digest, and not shown."""

_ANSWER_S: Final = 10.0
_PREVIEW_S: Final = 25.0
_FIRST_PAUSE_S: Final = 0.01
_PAUSE_S: Final = 0.1
_INBOX: Final = 10_000
_PAGE: Final = 1_000
_preview: Final = Codec[PreviewAnswer](PreviewAnswer)
_answer: Final = Codec[GatesAnswer | QueryError](GatesAnswer | QueryError)


class Fact(NamedTuple):
    """Something that happened to a gate or an ask."""

    at: datetime
    event: events.AnyEvent


class Case(NamedTuple):
    """A plan, and what has happened to one of its gates or asks.

    Attributes:
        facts: In order.
        refusal: Why the command that was asked for was refused, if it was.
    """

    state: PlanState
    facts: tuple[Fact, ...]
    refusal: events.CommandRefused | None = None


class Desk:
    """Args:
    core: The connection of the user `gatekeeper`.
    """

    def __init__(self, core: Connection) -> None:
        self._core = core
        self._log = EventLog(core)

    async def case(self, address: Address, gate: str, command: str = "", person: str = "") -> Case:
        """Read a plan and what has happened to *gate*, or an ask. A plan that nobody knows is absent.

        Args:
            command: The id of what *person* has asked, to say how it was refused, if it was.

        Raises:
            Busy, Unusable: The log cannot be read.
        """
        state = PlanState(address=address)
        facts: list[Fact] = []
        refusal: events.CommandRefused | None = None
        requests: set[str] = set()
        async for line in self._log.lines(address):
            state = apply(state, line.commit, line.hash)
            for event in line.commit.events:
                if isinstance(event, events.CommandRefused):
                    refusal = event if (event.by, event.command) == (person, command) else refusal
                elif isinstance(event, events.RevisionRequested) and event.step == gate:
                    requests.add(event.request)
                    facts.append(Fact(line.commit.at, event))
                elif isinstance(event, events.RevisionRefused | events.PlanRevised):
                    if event.request in requests:
                        facts.append(Fact(line.commit.at, event))
                elif _is_about(event, gate):
                    facts.append(Fact(line.commit.at, event))
        return Case(state, tuple(facts), refusal)

    async def answer(self, address: Address, person: str, command: ReviewGate) -> Case:
        """Publish an answer, and wait until it has been judged.

        Raises:
            Busy: It could not be published, or nobody has judged it yet; it may still count.
            Unusable: Not allowed, or closed.
        """
        await self._core.publish(subjects.command(address, "review", person), encode(command))
        ends = asyncio.get_running_loop().time() + _ANSWER_S
        pause_s = _FIRST_PAUSE_S
        while True:
            case = await self.case(address, command.step, command.id, person)
            is_judged = case.state.has_answered(person, command.id)
            # A document is worked out at once; what has been said in words takes a model, and its time.
            if is_judged and (command.document is None or command.id not in case.state.requests):
                return case
            if asyncio.get_running_loop().time() > ends:
                if is_judged:
                    return case
                raise Busy("the answer is stored, and nobody has judged it yet")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S)

    async def keep(self, address: Address, ask: str, person: str, secret: str) -> str:
        """Store a secret that *person* has entered; return what the answer names it by. Raises: Busy, Unusable."""
        return await store(self._core, address, ask, "review", person, secret)

    async def preview(self, address: Address, person: str, command: ReviewGate) -> PreviewAnswer:
        """What *command* would do; nothing is stored.

        Raises:
            Busy: No executor answers, or no planner.
            Poison: It is longer than the server takes.
            Unusable: Not allowed, or closed.
        """
        question = PreviewQuery(space=address.space, plan=address.plan, by=person, command=command)
        answer = await self._core.request(subjects.query(PREVIEW), encode(question), timeout_s=_PREVIEW_S)
        try:
            return _preview.decode(answer)
        except DecodeError as error:
            raise Busy(f"the executor's answer cannot be understood: {error}") from error

    async def open_gates(self) -> GatesAnswer:
        """The gates and asks of every plan that are open, in brief, the longest open first. Raises: Busy, Unusable."""
        rows: list[GateRow] = []
        after = ""
        while True:
            query = encode(GatesQuery(limit=_PAGE, after=after, brief=True))
            try:
                found = _answer.decode(await self._core.request(subjects.query("gates"), query, timeout_s=5))
            except DecodeError as error:
                raise Busy(f"the auditor's answer cannot be understood: {error}") from error
            if isinstance(found, QueryError):
                raise Busy(found.message)
            rows += found.gates
            if found.next is None or len(rows) >= _INBOX:
                return GatesAnswer(position=found.position, lag=found.lag, gates=tuple(rows), next=found.next)
            after = found.next

    async def text(self, payload: Payload) -> object:
        """The value of *payload*, if it is short enough to be shown; the payload itself otherwise.

        Raises:
            Busy, Unusable: It cannot be read.
        """
        blob = payload.blob
        if blob is None:
            return payload.value
        if blob.size_bytes > BLOB_BYTES:
            return payload
        stored = await self._core.last_on_subject(BLOBS, subjects.blob(blob.sha256))
        if stored is None:
            return payload
        try:
            return codec.value.decode(stored.data)
        except DecodeError:
            return payload


def _is_about(event: events.AnyEvent, gate: str) -> bool:
    match event:
        case (
            events.GateOpened()
            | events.AskOpened()
            | events.VoteCast()
            | events.GateOverdue()
            | events.GateEscalated()
            | events.GateApproved()
            | events.GateRejected()
            | events.AnswerInvalid()
            | events.AskAnswered()
            | events.StepSkipped()
            | events.StepReopened()
        ):
            return event.step == gate
        case events.StepsCancelled():
            return gate in event.steps
        case events.PlanCancelled() | events.PlanFailed() | events.PlanCompleted():
            return True
    return False
