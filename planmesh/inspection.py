"""What the server says of streams and consumers. Source: JetStream API, STREAM.INFO, CONSUMER.INFO, which operators
reach below `planmesh.access.INSPECT`, and CONSUMER.NAMES.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from planmesh.access import INSPECT, home
from planmesh.connection import Connection
from planmesh.errors import Unusable
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.subjects import CATALOGUE, OUTCOMES, BadSubject
from planmesh.schemas.work import AgentDescription

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_NOT_FOUND: Final = frozenset({10014, 10059})

_RECENT: Final = timedelta(seconds=10)

log = structlog.get_logger()


class Error(Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class StreamState(Struct, frozen=True):
    """Attributes: subjects: how many messages each subject has, where the question named a filter."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = {}


class StreamInfo(Struct, frozen=True):
    """A stream as it is. `config` is in the server's words."""

    config: dict[str, Any] = {}
    state: StreamState = StreamState()
    error: Error | None = None


class Names(Struct, frozen=True):
    """A page of the names of a stream's consumers. Source: JetStream API, ``$JS.API.CONSUMER.NAMES.<stream>``."""

    total: int = 0
    consumers: tuple[str, ...] | None = ()
    error: Error | None = None


class Delivered(Struct, frozen=True):
    consumer_seq: int = 0
    stream_seq: int = 0
    last_active: datetime | None = None


class ConsumerInfo(Struct, frozen=True):
    """A consumer as it is.

    Attributes:
        config: Its settings, in the server's words.
        num_pending: Messages that it has not delivered.
        num_ack_pending: Messages that are delivered, and not answered.
        num_redelivered: Those of them that were delivered before.
        num_waiting: Requests for messages that wait: somebody reads it.
    """

    config: dict[str, Any] = {}
    delivered: Delivered = Delivered()
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0
    error: Error | None = None

    @property
    def is_read(self) -> bool:
        """Somebody waits for messages, or has just been given some."""
        if self.num_waiting:
            return True
        last = self.delivered.last_active
        return last is not None and datetime.now(UTC) - last < _RECENT


_decode_stream = msgspec.json.Decoder(StreamInfo).decode
_decode_names = msgspec.json.Decoder(Names).decode
_decode_consumer = msgspec.json.Decoder(ConsumerInfo).decode


async def stream_info(
    connection: Connection, stream: str, *, subjects_filter: str = "", prefix: str = ""
) -> StreamInfo | None:
    """A stream, or None if there is none.

    Args:
        connection: An operator's; or, with ``$JS.API`` as *prefix*, that of a service which may ask.
        subjects_filter: Count the messages of each subject that this matches.

    Raises:
        Busy: No answer.
        Unusable: Not allowed, or the server answers with an error.
    """
    asked = msgspec.json.encode({"subjects_filter": subjects_filter}) if subjects_filter else b""
    prefix = prefix or f"{INSPECT}.{home(stream)}"
    info = _decode_stream(await connection.request(f"{prefix}.STREAM.INFO.{stream}", asked))
    return None if _missing(info.error, stream) else info


async def consumer_info(connection: Connection, stream: str, consumer: str, *, prefix: str = "") -> ConsumerInfo | None:
    """A consumer, or None if there is none.

    Args:
        connection: An operator's; or, with ``$JS.API`` as *prefix*, that of the service which reads the consumer.

    Raises:
        Busy: No answer.
        Unusable: Not allowed, or the server answers with an error.
    """
    prefix = prefix or f"{INSPECT}.{home(stream)}"
    info = _decode_consumer(await connection.request(f"{prefix}.CONSUMER.INFO.{stream}.{consumer}"))
    return None if _missing(info.error, f"{stream}/{consumer}") else info


async def agents_of(connection: Connection) -> list[AgentDescription]:
    """What agents have said of themselves, by name.

    Args:
        connection: May read CATALOGUE directly.

    Raises:
        Busy, Unusable: It cannot be read.
    """
    found = {}
    for stored in await connection.direct_get(CATALOGUE, batch=100_000):
        try:
            name = subjects.read_catalogue(stored.subject)
            one = codec.description.decode(stored.data)
        except (DecodeError, BadSubject) as error:
            log.warning("catalogue.not_understood", subject=stored.subject, error=str(error))
            continue
        if one.name == name:
            found[name] = one
    return [found[name] for name in sorted(found)]


async def spaces_of(connection: Connection) -> list[str]:
    """The submitters that the server knows.

    Args:
        connection: May ask for the names of the consumers of OUTCOMES.

    Raises:
        Busy: No answer.
        Unusable: Not allowed, or the server answers with an error.
    """
    return await names_of(connection, OUTCOMES, subjects.outcome_consumer("_").removesuffix("_"))


async def names_of(connection: Connection, stream: str, prefix: str) -> list[str]:
    """What follows *prefix* in the names of a stream's consumers. Raises: as for `spaces_of`."""
    found: list[str] = []
    while True:
        asked = msgspec.json.encode({"offset": len(found)})
        page = _decode_names(await connection.request(f"$JS.API.CONSUMER.NAMES.{stream}", asked))
        if page.error is not None:
            raise Unusable(f"the server does not say which {prefix}… there are: {page.error.description}")
        found += page.consumers or ()
        if not page.consumers or len(found) >= page.total:
            return [name.removeprefix(prefix) for name in found if name.startswith(prefix)]


def _missing(error: Error | None, what: str) -> bool:
    if error is None:
        return False
    if error.err_code in _NOT_FOUND:
        return True
    raise Unusable(f"cannot inspect {what}: the server says {error.description!r} ({error.err_code})")
