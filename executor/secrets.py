"""Secrets that people have entered: told to the agent that a plan gives them to, and taken away when the plan ends."""

import asyncio
from typing import Final

import structlog
from nats.aio.msg import Msg

from planmesh.connection import Connection
from planmesh.errors import Busy, PlanmeshError, Poison, Unusable
from planmesh.eventlog import EventLog, Recorded
from planmesh.executor.lines import Lines
from planmesh.executor.plans import Plans
from planmesh.inspection import spaces_of
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.secrets import Kept, misfit, secret_inputs
from planmesh.schemas.state import StepStatus
from planmesh.schemas.subjects import SECRETS, SERVICE_VERB, Address
from planmesh.schemas.work import Reveal, Revealed

_QUEUE: Final = "secrets"  # several executors share the requests

_reveal: Final = codec.Codec[Reveal](Reveal)
_REQUEST_ERRORS: Final = (Poison, DecodeError, subjects.BadToken, subjects.BadSubject)

log = structlog.get_logger()


class SecretStore:
    """The only reader of secrets.

    Args:
        connection: In CORE; may read every stream of secrets from its leader.
        plans: What is known of plans.
    """

    def __init__(self, connection: Connection, event_log: EventLog, plans: Plans) -> None:
        self._connection = connection
        self._log = event_log
        self._plans = plans

    async def reveal(self, agent: str, wanted: Reveal) -> Revealed:
        """The secrets of an attempt that *agent* runs: those of its step's inputs, as the plan's document says.

        Raises:
            Poison: It has no such attempt that is open.
            Busy, Unusable: They cannot be read now.
        """
        at = subjects.address(wanted.space, wanted.plan)
        recorded = await self._log.read_to_the_end(self._plans.get(at) or Recorded.nothing(at))
        if recorded.state.exists:
            self._plans.put(recorded)  # also for who is told nothing: a log is long, and may be asked for often
        step = recorded.state.steps.get(wanted.step)
        if step is None or (step.status, step.attempt, step.agent) != (StepStatus.DISPATCHED, wanted.attempt, agent):
            raise Poison(f"agent {agent} has no open attempt {wanted.attempt} of step {wanted.step} of plan {at}")
        found = {key: await self._get(at, kept) for key, kept in secret_inputs(recorded.state, wanted.step).items()}
        log.info("secrets.revealed", space=at.space, plan=at.plan, step=wanted.step, agent=agent, inputs=sorted(found))
        return Revealed(
            inputs={key: text for key, text in found.items() if text is not None},
            gone=tuple(key for key, text in found.items() if text is None),
        )

    async def _get(self, at: Address, kept: Kept) -> str | None:
        """A secret; None if it is not there (any more), or is none."""
        verb, actor, name = kept.handle.split(".")
        subject = subjects.secret(at, kept.step, verb, actor, name)
        stored = await self._connection.last_on_subject(subjects.secret_stream(verb, actor), subject, leader=True)
        if stored is None:
            return None
        try:
            text = stored.data.decode()
        except UnicodeDecodeError:
            return None
        return None if misfit(text) else text


async def purge(connection: Connection, at: Address) -> None:
    """Take away all secrets that there are of a plan, whoever has stored them. Raises: Busy, Unusable."""
    of_services = (subjects.secret_stream(SERVICE_VERB, space) for space in await spaces_of(connection))
    request = encode({"filter": subjects.secrets_of(at)})
    for stream in (SECRETS, *of_services):
        answer = codec.value.decode(await connection.request(subjects.purge(stream), request))
        if not (isinstance(answer, dict) and answer.get("success") is True):
            raise Busy(f"the secrets of {at} could not be taken away from {stream}: {str(answer)[:200]}")


async def serve(store: SecretStore, agents: Connection, stop: asyncio.Event) -> None:
    """Answer agents on ``reveal.<agent>`` until *stop*, in turn; what is wrong is a service error, as for blobs."""

    async def answer(message: Msg) -> None:
        try:
            agent = subjects.read_reveal(message.subject)
            agents.send(message.reply, encode(await store.reveal(agent, _reveal.decode(message.data))))
        except Exception as error:
            _refuse(agents, message, error)

    lines = Lines[Msg](answer)

    def on_message(message: Msg) -> None:
        if message.reply and not lines.take(message.subject, message, len(message.data)):
            _refuse(agents, message, Busy("too many secrets are being asked for; ask again later"))

    interest = await agents.listen(subjects.reveal_pattern(), on_message, queue=_QUEUE)
    await stop.wait()
    await agents.unlisten(interest)
    await lines.finish()


def _refuse(agents: Connection, message: Msg, error: Exception) -> None:
    code = "400" if isinstance(error, _REQUEST_ERRORS) else "503"
    if not isinstance(error, (PlanmeshError, *_REQUEST_ERRORS)):
        log.error("secrets.bug", subject=message.subject, error=type(error).__name__)
    text = str(error).replace("\n", " ").replace("\r", " ")[:500] if isinstance(error, PlanmeshError) else "not served"
    try:
        agents.send(message.reply, b"", headers={"Nats-Service-Error-Code": code, "Nats-Service-Error": text})
    except (Busy, Unusable):
        log.warning("secrets.answer_lost", subject=message.subject)
