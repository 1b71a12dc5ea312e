"""Follows the log: which message becomes part of which transaction, and when to stop.

The position in the database decides what is new, not the consumer: what the tables know already is acked and left
alone; what they miss (after a restore, after a rebuild, between two deliveries) is read from the log directly.
"""

import asyncio
import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import structlog

from planmesh.auditor.project import Batch, Followed
from planmesh.auditor.query import answering
from planmesh.auditor.read import Reader
from planmesh.auditor.store import REBUILD, Database, OlderTables, Position, Store
from planmesh.connection import Connection, StoredMessage
from planmesh.delivery import Message, Subscription, subscribe
from planmesh.errors import Busy, Conflict, Unusable
from planmesh.eventlog import next_commit
from planmesh.schemas import subjects
from planmesh.schemas.events import Commit, hash_of
from planmesh.schemas.state import ENDED, STANDING_STILL, PlanState, PlanStatus, apply
from planmesh.schemas.subjects import AUDITOR, PLANS, Address, BadSubject

if TYPE_CHECKING:
    from planmesh.auditor.collector import Collector  # it imports what only those need who want spans

MAX_BATCH: Final = 512
MAX_STEPS_KEPT: Final = 100_000
RUNNING_KEPT: Final = 1_000
"""Memory that a burst has taken, Python hardly gives back."""
STILL_KEPT: Final = 200
"""A plan that waits for somebody may wait for days: it is read again when it goes on."""
_PAUSE_S: Final = 0.05
"""Between two transactions while the log is quiet enough: what comes meanwhile shares the next one."""
_BUSY_S: Final = 0.1
_BUSY_MOST_S: Final = 5.0
_LOADS_AT_ONCE: Final = 16
_GAP_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0)
_FINISH_S: Final = 2.0
_IDLE_S: Final = 5.0

log = structlog.get_logger()

_T = TypeVar("_T")


async def audit(
    connection: Connection,
    database_url: str,
    stop: asyncio.Event,
    *,
    otlp_endpoint: str | None = None,
    rebuild: bool = False,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Follow the log and answer queries, until *stop*.

    Args:
        connection: The auditor's.
        database_url: As SQLAlchemy writes it.
        otlp_endpoint: Of a collector, such as ``http://localhost:4318``; None: no spans.
        rebuild: Only make the tables again.
        on_ready: Called when queries are answered.

    Raises:
        Unusable: See `Follower.run`.
    """
    database = Database(database_url)
    collector = None
    if otlp_endpoint is not None:
        from planmesh.auditor.collector import Collector

        collector = Collector(otlp_endpoint)
    try:
        follower = Follower(connection, Store(database), collector)
        if rebuild:
            await follower.rebuild()
            log.info("auditor.rebuilt", position=follower.position.sequence, database=database.shown)
            return
        dropped = (lambda: collector.dropped) if collector is not None else (lambda: 0)
        async with answering(connection, Reader(database), follower.last_sequence, dropped):
            await follower.run(stop, on_open=on_ready)
    finally:
        if collector is not None:
            await asyncio.to_thread(collector.close)
        database.close()


class Entry(NamedTuple):
    """A message of the log."""

    sequence: int
    subject: str
    data: bytes


class StreamState(msgspec.Struct, frozen=True):
    first_seq: int
    last_seq: int


class StreamInfo(msgspec.Struct, frozen=True):
    """What matters of a stream. Source: JetStream API, STREAM.INFO."""

    created: str
    state: StreamState


class _Sequences(msgspec.Struct, frozen=True):
    stream_seq: int


class _ConsumerInfo(msgspec.Struct, frozen=True):
    """Source: JetStream API, CONSUMER.INFO."""

    delivered: _Sequences


class Kept:
    """Plans that may go on: the ones used last, up to *max_steps* steps in all, and not too many plans; of those that
    stand still, a few."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._plans: OrderedDict[Address, Followed] = OrderedDict()
        self._still: OrderedDict[Address, None] = OrderedDict()
        self._steps = 0

    def get(self, at: Address) -> Followed | None:
        found = self._plans.get(at)
        if found is not None:
            self._plans.move_to_end(at)
        return found

    def put(self, followed: Followed) -> None:
        state = followed.state
        self.drop(state.address)
        if state.status in ENDED:
            return  # hardly anything comes after the end
        self._plans[state.address] = followed
        self._steps += 1 + len(state.steps)
        if state.status in STANDING_STILL or state.status is PlanStatus.DRAFT:
            self._still[state.address] = None
            if len(self._still) > STILL_KEPT:
                self.drop(next(iter(self._still)))
        while self._too_many() and len(self._plans) > 1:
            self.drop(next(iter(self._plans)))

    def _too_many(self) -> bool:
        return self._steps > self._max_steps or len(self._plans) - len(self._still) > RUNNING_KEPT

    def drop(self, at: Address) -> None:
        found = self._plans.pop(at, None)
        self._still.pop(at, None)
        if found is not None:
            self._steps -= 1 + len(found.state.steps)

    def clear(self) -> None:
        self._plans.clear()
        self._still.clear()
        self._steps = 0


class Follower:
    """Brings the tables to the end of the log, and keeps them there.

    Attributes:
        position: How far the tables go.

    Args:
        connection: The auditor's.
        store: The tables.
        collector: Who gets spans; None for nobody.
        max_steps_kept: How many steps of plans to keep in memory; a plan that is not kept is read again when it
            goes on.
    """

    def __init__(
        self,
        connection: Connection,
        store: Store,
        collector: "Collector | None" = None,
        *,
        max_steps_kept: int = MAX_STEPS_KEPT,
    ) -> None:
        self.position = Position()
        self._connection = connection
        self._store = store
        self._collector = collector
        self._kept = Kept(max_steps_kept)
        self._commits: Subscription | None = None
        self._heard = 0

    # --- the loops -------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, *, on_open: Callable[[], object] = lambda: None) -> None:
        """Follow the log until *stop*.

        Args:
            on_open: Called when it is clear that the tables can be read, and belong to this log.

        Raises:
            Unusable: The tables and the log do not belong together, the log has a gap, the database is damaged, or
                the connection is gone. The text says what was expected and what to do.
        """
        following = asyncio.create_task(self._follow(on_open))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._commits is not None:
                await self._commits.close()
            # Whatever is not written by then comes again: rows and position are one transaction.
            await asyncio.wait({following}, timeout=_FINISH_S)
        finally:
            stopping.cancel()
            following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    async def _follow(self, on_open: Callable[[], object]) -> None:
        await self.open()
        on_open()
        await self.fill(await self._delivered())
        log.info("auditor.ready", position=self.position.sequence)
        reconnected = asyncio.Event()

        async def look() -> None:
            while True:
                await reconnected.wait()
                reconnected.clear()
                await self._patiently(self.check)

        self._commits = await subscribe(self._connection, PLANS, AUDITOR, batch=2 * MAX_BATCH)
        self._connection.on_reconnect.add(reconnected.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(look())
                while messages := await self._receive(self._commits):
                    await self.take(messages)
                    if len(messages) < MAX_BATCH:
                        await asyncio.sleep(_PAUSE_S)
                looking.cancel()
        except* Unusable as errors:
            raise errors.exceptions[0] from None
        finally:
            self._connection.on_reconnect.discard(reconnected.set)
            await self._commits.close()

    async def _receive(self, commits: Subscription) -> list[Message]:
        """What is delivered next. While nothing is, the tables are looked at: somebody may have put others there; and
        what was lost on its way, as with a connection, would not come again soon."""
        while True:
            try:
                async with asyncio.timeout(_IDLE_S):
                    return await commits.receive()
            except TimeoutError:
                await self._compare()
                await self.fill(await self._delivered())

    async def _compare(self) -> None:
        try:
            found = await self._patiently(lambda: asyncio.to_thread(self._store.open))
        except Conflict:
            found = None
        if found != self.position:
            log.warning("tables.changed", expected=self.position.sequence, found=found and found.sequence)
            await self.open()
            await self.fill((await self._patiently(self.look_at_stream)).state.last_seq)

    async def rebuild(self) -> None:
        """Forget the tables, and make them again from the log, up to where it ends now.

        Raises:
            Unusable: The log has a gap, or the database cannot be used.
        """
        await self._patiently(lambda: asyncio.to_thread(self._store.forget))
        await self.open()
        await self.fill((await self._patiently(self.look_at_stream)).state.last_seq)

    async def open(self) -> None:
        """Learn how far the tables go, and whether they belong to this log. Raises: Unusable."""
        while True:
            self._kept.clear()
            try:
                self.position = await self._patiently(lambda: asyncio.to_thread(self._store.open))
                await self._patiently(self.check)
            except OlderTables as older:
                await self._make_again(older)
            except Conflict as error:
                log.warning("tables.changed", error=str(error))
                await asyncio.sleep(_BUSY_S)
            else:
                return

    async def _make_again(self, older: OlderTables) -> None:
        """Forget tables that an older version has made, if the log has all that they were made from.

        Raises:
            Unusable: It has not.
        """
        stream = await self._patiently(self.look_at_stream)
        is_the_same = older.position.stream_created in ("", stream.created)
        if not is_the_same or stream.state.first_seq > 1 or older.position.sequence > stream.state.last_seq:
            raise older
        log.warning("tables.made_again", of_version=older.version, up_to=stream.state.last_seq)
        await self._patiently(lambda: asyncio.to_thread(self._store.forget))

    async def take(self, messages: Sequence[Message]) -> None:
        """Write what was delivered to the tables; then ack it. Raises: Unusable."""
        delivered = {message.sequence: message for message in messages}
        if any(sequence <= self.position.sequence for sequence in delivered):
            # Delivered again, most likely; or for the first time, by a stream that has begun again.
            await self._patiently(self.check)
        newest = delivered[max(delivered)]
        self._heard = max(self._heard, newest.sequence + newest.num_pending)
        entries = [Entry(sequence, one.subject, one.data) for sequence, one in sorted(delivered.items())]
        for run in _runs(entries):
            while run := [entry for entry in run if entry.sequence > self.position.sequence]:
                await self.fill(run[0].sequence - 1)
                await self._add(run)
        newest.ack()

    async def fill(self, last: int) -> None:
        """Read what the tables miss up to the message *last* from the log itself. Raises: Unusable."""
        if self.position.sequence < last:
            log.info("log.read_directly", position=self.position.sequence, up_to=last)
        while self.position.sequence < last:
            stored = await self._read_on()
            run = next(_runs([Entry(one.sequence, one.subject, one.data) for one in stored if one.sequence <= last]))
            await self._add(run)  # a gap behind it is met when its turn comes

    # --- what is checked -------------------------------------------------------------------------------

    async def look_at_stream(self) -> StreamInfo:
        """Raises: Busy (it is not there now)."""
        return await self._ask(f"$JS.API.STREAM.INFO.{PLANS}", StreamInfo)

    async def last_sequence(self) -> int:
        """The last message of the log; where the server does not say now, the last one heard of."""
        try:
            self._heard = (await self.look_at_stream()).state.last_seq
        except Busy:
            pass
        return max(self._heard, self.position.sequence)

    async def check(self) -> None:
        """Hold the tables against the stream.

        Raises:
            Unusable: They do not belong together.
            Busy: The server does not answer.
        """
        position = self.position  # before asking: it goes on, while the answer is on its way
        stream = await self.look_at_stream()
        what_to_do = f"If this stream is the one to follow, make the tables again with {REBUILD}"
        if position.stream_created and position.stream_created != stream.created:
            raise Unusable(
                f"the stream {PLANS} is another one than before: the tables were made from the one of "
                f"{position.stream_created}, and this one was made at {stream.created}. {what_to_do}"
            )
        if position.sequence > stream.state.last_seq:
            raise Unusable(
                f"the tables are ahead of the log: they know message {position.sequence:,} of the stream {PLANS}, and "
                f"its last one is {stream.state.last_seq:,}. Was the stream restored from an old backup? {what_to_do}"
            )
        if not position.stream_created:
            await self._write(Batch(), position._replace(stream_created=stream.created))

    async def _delivered(self) -> int:
        """The last message that the consumer has delivered: again it does not, or not soon."""
        asked = f"$JS.API.CONSUMER.INFO.{PLANS}.{AUDITOR}"
        return (await self._patiently(lambda: self._ask(asked, _ConsumerInfo))).delivered.stream_seq

    async def _ask(self, subject: str, kind: type[_T]) -> _T:
        data = await self._connection.request(subject)
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            said = data[:200].decode("utf-8", "replace")
            raise Busy(f"{subject} answered {said}. If this stays so, run `planmesh init`") from None

    # --- what is written -------------------------------------------------------------------------------

    async def _read_on(self) -> list[StoredMessage]:
        """What the log has after the position, without a gap at the beginning. Raises: Unusable."""
        first = self.position.sequence + 1
        stored: list[StoredMessage] = []
        for pause_s in _GAP_S:  # a server of a cluster may answer that does not have it yet
            await asyncio.sleep(pause_s)
            stored = await self._patiently(lambda: self._connection.direct_get(PLANS, sequence=first, batch=MAX_BATCH))
            if stored:
                break
        if not stored or stored[0].sequence != first:
            found = f"the next one that is there is {stored[0].sequence:,}" if stored else "there is none"
            raise Unusable(
                f"the log has a gap: expected message {first:,} of the stream {PLANS}, and {found}. The log must not "
                f"lose messages: restore the stream from a backup, then make the tables again with {REBUILD}"
            )
        return stored

    async def _add(self, entries: Sequence[Entry]) -> None:
        """Add messages that follow on from the position without a gap; or learn that the tables are elsewhere."""
        try:
            await self._add_to_tables(entries)
        except Conflict as error:
            log.warning("tables.changed", error=str(error))
            await self.open()

    async def _add_to_tables(self, entries: Sequence[Entry]) -> None:
        batch = Batch(traced=self._collector is not None)
        addresses = [_address(entry) for entry in entries]
        plans = await self._patiently(lambda: self._plans(addresses))
        at, skipped = self.position.at, self.position.skipped
        for entry, address in zip(entries, addresses, strict=True):
            followed = plans[address] if address is not None else None
            commit = _fitting(followed.state, entry) if followed is not None else None
            if followed is None or commit is None:
                skipped += 1
                log.error("log.junk", sequence=entry.sequence, subject=entry.subject, error=_misfit(followed, entry))
                continue
            try:
                plans[commit.address] = batch.add(followed, commit, hash_of(entry.data), entry.sequence)
            except Exception as error:
                error.add_note(f"while folding message {entry.sequence} of the stream {PLANS}, on {entry.subject}")
                raise
            at = commit.at
        await self._write(batch, Position(self.position.stream_created, entries[-1].sequence, at, skipped))
        for followed in batch.followed.values():
            self._kept.put(followed)
        if self._collector is not None:
            self._collector.offer(batch.spans)

    async def _write(self, batch: Batch, after: Position) -> None:
        rows, before = batch.rows(), self.position
        await self._patiently(lambda: asyncio.to_thread(self._store.write, rows, before, after))
        self.position = after

    async def _plans(self, addresses: Sequence[Address | None]) -> dict[Address, Followed]:
        """Each plan, as the tables have it."""
        found: dict[Address, Followed] = {}
        missing: list[Address] = []
        for address in dict.fromkeys(addresses):
            if address is None:
                continue
            kept = self._kept.get(address)
            if kept is None:
                missing.append(address)
            found[address] = kept or Followed(0, PlanState(address=address))
        if missing:
            ids = list((await asyncio.to_thread(self._store.ids, missing)).items())
            for start in range(0, len(ids), _LOADS_AT_ONCE):
                loads = (self._load(address, its_id) for address, its_id in ids[start : start + _LOADS_AT_ONCE])
                found.update((loaded.state.address, loaded) for loaded in await asyncio.gather(*loads))
        return found

    async def _load(self, address: Address, its_id: int) -> Followed:
        """Fold a plan again, from its first commit up to the position."""
        state, sequence = PlanState(address=address), its_id
        while True:
            stored = await self._connection.direct_get(
                PLANS, subject=subjects.plan_log(address), sequence=sequence, batch=MAX_BATCH
            )
            for one in stored:
                if one.sequence > self.position.sequence:
                    return Followed(its_id, state)
                commit = _fitting(state, Entry(one.sequence, one.subject, one.data))
                if commit is not None:
                    state = apply(state, commit, hash_of(one.data))
            if len(stored) < MAX_BATCH:
                return Followed(its_id, state)
            sequence = stored[-1].sequence + 1

    async def _patiently(self, do: Callable[[], Awaitable[_T]]) -> _T:
        """Do it as often as it takes. Raises: whatever is not `Busy`."""
        for tries in itertools.count():
            try:
                return await do()
            except Busy as error:
                if tries in {0, 5} or tries % 60 == 59:
                    log.error("auditor.waits", error=str(error), tries=tries + 1, position=self.position.sequence)
                await asyncio.sleep(min(_BUSY_S * 2 ** min(tries, 10), _BUSY_MOST_S))
        raise AssertionError("count() does not end")


def _address(entry: Entry) -> Address | None:
    try:
        return subjects.read_plan_log(entry.subject)
    except BadSubject:
        return None


def _fitting(state: PlanState, entry: Entry) -> Commit | None:
    """The commit that an entry holds, if it is the next one of its plan.

    Raises:
        Unusable: It is the next one, and cannot be read: whoever wrote it knows more than we do.
    """
    found = next_commit(state, entry.sequence, entry.data)
    return found if isinstance(found, Commit) else None


def _misfit(followed: Followed | None, entry: Entry) -> str:
    """What is wrong with an entry that holds no commit of its plan."""
    if followed is None:
        return "its subject is no plan's"
    found = next_commit(followed.state, entry.sequence, entry.data)
    return found if isinstance(found, str) else ""


def _runs(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in the order of their sequences, in lists without a gap, of at most `MAX_BATCH`."""
    run: list[Entry] = []
    for entry in entries:
        if run and (entry.sequence != run[-1].sequence + 1 or len(run) == MAX_BATCH):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run
