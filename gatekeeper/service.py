"""Which commit leads to which notice, and when the log's message is answered for.

A commit about gates is a reason to look: each channel is told what is news to it *now*, so a notice that is late,
repeated or overtaken is not sent. What became of it goes to the log as a command whose id is made of the round, the
notice and the channel; the log is also where a gatekeeper that was killed finds what has been sent. What it was
sending just then is not sent again (`claims.py`): the log says that nobody knows whether it arrived.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import msgspec
import structlog

from planmesh.connection import Connection
from planmesh.delivery import Keeper, Message, Subscription, give_up, subscribe
from planmesh.directory import Directory
from planmesh.errors import Busy, Unusable
from planmesh.gatekeeper import rounds
from planmesh.gatekeeper.bulletin import Bulletin
from planmesh.gatekeeper.claims import Claims
from planmesh.gatekeeper.idle import IdleAgents
from planmesh.gatekeeper.letters import Letters
from planmesh.gatekeeper.news import Aside, Idle, happened
from planmesh.gatekeeper.notice import facts
from planmesh.gatekeeper.notify import TIMEOUT_S, Channel, Delivery
from planmesh.gatekeeper.reach import Links, Reach
from planmesh.gatekeeper.rounds import Kind, Reviews, Round, concerns_people, due, gates_of
from planmesh.readiness import notify_ready
from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.commands import ReportNotice
from planmesh.schemas.events import Commit
from planmesh.schemas.plan import OPERATORS
from planmesh.schemas.subjects import GATEKEEPER, PLANS, POISON, Address, BadSubject
from planmesh.streams import SERVICE_ACK_WAIT_S

SERVICE: Final = "gatekeeper"
RETRY_PAUSES_S: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
"""How long a channel that failed is left alone before the next try; after the last, it is given up."""

# A channel that fails holds up deliveries, and the server gives no more than the consumer's `max_ack_pending` (1,000)
# at a time. From this many on, nobody waits any longer for a channel that has failed this often in a row.
_CROWDED: Final = 500
_FAILING: Final = 3
_FAILED_LATELY_S: Final = 10.0
# Longer than any try takes: whoever has been sending for so long is no more.
_UNCLEAR_S: Final = 2 * TIMEOUT_S
_UNCLEAR: Final = "a gatekeeper ended while it sent this; it is not known whether it arrived, and it is not sent twice"
_LOOK_S: Final = 60.0
_PLANS_KEPT: Final = 100
_BATCH: Final = 1_000
_BUSY_PAUSE_S: Final = 1.0
_STOP_S: Final = 3.0

_T = TypeVar("_T")

log = structlog.get_logger()


class Gatekeeper:
    """Tells people what gates ask of them.

    Args:
        core: The connection of the user `gatekeeper`.
        channels: Where notices go. Without any there is nobody to tell, and the log is not read.
        reach: Which of them reach whom; unless given, each of them reaches everybody.
        links: What leads from a notice to its gate; None: nothing does.
        letters: How notices are worded; unless given, as the built-in templates do.
        with_outputs: Whether what steps gave may leave in a notice.
        news_every_s: How long news for operators waits for more; None: there is none.
        retry_pauses_s: See `RETRY_PAUSES_S`.
        look_every_s: How often to look for agents that nobody runs.
        unclear_after_s: When whoever has begun to send a notice counts as gone.
    """

    def __init__(
        self,
        core: Connection,
        channels: Sequence[Channel],
        *,
        reach: Reach | None = None,
        links: Links | None = None,
        letters: Letters | None = None,
        with_outputs: bool = True,
        news_every_s: float | None = None,
        retry_pauses_s: Sequence[float] = RETRY_PAUSES_S,
        unclear_after_s: float = _UNCLEAR_S,
        look_every_s: float = _LOOK_S,
    ) -> None:
        self._core = core
        self._channels = channels
        self._reach = reach
        self._directory = reach.directory if reach is not None else Directory()
        self._links = links
        self._letters = letters or Letters()
        self._with_outputs = with_outputs
        self._pauses_s = retry_pauses_s
        self._bulletins = [
            Bulletin(
                channel,
                self._letters,
                self._read_patiently,
                every_s=news_every_s,
                retry_pauses_s=retry_pauses_s,
                with_outputs=with_outputs,
            )
            for channel in self._operators()
            if news_every_s is not None
        ]
        self._telling = 0
        self._claims = Claims(core)
        self._unclear_after_s = unclear_after_s
        self._look_every_s = look_every_s
        self._plans: OrderedDict[Address, Reviews] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until *stop*; then finish what is on its way, and give back what waits.

        Raises:
            Unusable: The connection is gone for good.
        """
        if not self._channels:
            notify_ready()
            log.info("gatekeeper.ready", channels=[])
            await self._until(stop)
            return
        keeper = Keeper(SERVICE_ACK_WAIT_S)
        async with (
            await subscribe(self._core, PLANS, GATEKEEPER, keeper=keeper) as commits,
            await subscribe(self._core, POISON, GATEKEEPER, keeper=keeper) as aside,
        ):

            async def end() -> None:
                await stop.wait()
                await aside.close()
                await commits.close()

            besides = [asyncio.create_task(one) for one in (end(), self._follow_aside(aside))]
            besides += [asyncio.create_task(bulletin.run()) for bulletin in self._bulletins]
            if self._bulletins:
                idle = IdleAgents(self._core, self._tell_operators, every_s=self._look_every_s)
                besides.append(asyncio.create_task(idle.run()))
            notify_ready()
            log.info("gatekeeper.ready", channels=[channel.name for channel in self._channels])
            try:
                async for messages in commits:
                    for message in messages:
                        if concerns_people(message.data):
                            self._spawn(self._take(message))
                        else:
                            message.ack()
            finally:
                for task in besides:
                    task.cancel()
                await asyncio.gather(*besides, return_exceptions=True)
                await self._finish()
                keeper.close()

    async def _follow_aside(self, aside: Subscription) -> None:
        """Have operators told of what is set aside."""
        async for messages in aside:
            for message in messages:
                if self._bulletins:
                    self._spawn(self._take_aside(message))
                else:
                    message.ack()

    async def _until(self, stop: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._core.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not stop.is_set():
            raise Unusable("the connection to the server is gone for good")

    async def _finish(self) -> None:
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _spawn(self, taking: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(taking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, message: Message) -> None:
        try:
            address = subjects.read_plan_log(message.subject)
        except BadSubject:
            message.ack()  # junk in the log stays in the log; the executor alarms
            return
        try:
            for failure in await asyncio.gather(*await self._telling_of(address, message), return_exceptions=True):
                if failure is not None:
                    raise failure
        except asyncio.CancelledError:
            message.nak()
            raise
        except Exception as error:
            with contextlib.suppress(Unusable):  # the connection is gone for good, which ends `run`
                await self._give_up(message, error)
        else:
            with contextlib.suppress(Unusable):
                message.ack()

    async def _telling_of(self, address: Address, message: Message) -> Sequence[Coroutine[None, None, None]]:
        """What tells everybody whom the commit in *message* concerns.

        It holds names, and nothing that was read: a channel may be down for long, and a thousand deliveries wait then.
        """
        # Before it is decoded: what a later version has written is no junk, and stops this one at this plan.
        reviews = await self._read(address, message.sequence)
        commit = _decoded(message.data)
        if commit is None:
            return ()
        gates = [name for name in gates_of(commit) if name in reviews.rounds]
        news = happened(address, commit)
        message.data = b""
        return [
            *(self._tell(channel, address, gate) for gate in gates for channel in self._whom(reviews.rounds[gate])),
            *(bulletin.tell(news) for bulletin in self._bulletins if news),
        ]

    async def _give_up(self, message: Message, error: Exception) -> None:
        """Answer for a commit that could not be told of, whose data may have been let go. Raises: Unusable."""
        try:
            if not message.data and not isinstance(error, Busy):
                stored = await self._core.direct_get(PLANS, subject=message.subject, sequence=message.sequence, batch=1)
                message.data = b"".join(one.data for one in stored)
        except Busy as busy:
            error = busy
        await give_up(self._core, SERVICE, message, error)

    async def _take_aside(self, message: Message) -> None:
        """Tell of a message that was set aside. What goes wrong with that is not set aside in its turn."""
        _, service, stream = (*message.subject.split("."), "", "")[:3]
        news = Aside(service, stream, (message.headers or {}).get("Planmesh-Error", ""))
        try:
            await self._tell_operators([news])
        except asyncio.CancelledError:
            message.nak()
            raise
        except Busy:  # the gatekeeper stops
            with contextlib.suppress(Unusable):
                message.nak()
        else:
            with contextlib.suppress(Unusable):
                message.ack()

    async def _tell_operators(self, news: Sequence[Aside | Idle]) -> None:
        """Raises: Busy, when the gatekeeper stops."""
        await asyncio.gather(*(bulletin.tell(news) for bulletin in self._bulletins))

    def _operators(self) -> Sequence[Channel]:
        """The channels that reach whoever runs the mesh."""
        if self._reach is None:
            return self._channels
        names = self._reach.channels_for([OPERATORS])
        return [channel for channel in self._channels if channel.name in names]

    def _whom(self, asked: Round) -> Sequence[Channel]:
        """The channels that reach whoever is asked, and those that were told."""
        names = {name for _, _, name in asked.told}
        reviewers = asked.reviewers
        return [one for one in self._channels if one.name in names or self._reaches(one)(reviewers)]

    def _reaches(self, channel: Channel) -> Callable[[tuple[str, ...]], bool]:
        reach = self._reach
        return lambda reviewers: reach is None or channel.name in reach.channels_for(reviewers)

    def _news(self, reviews: Reviews, gate: str, channel: Channel) -> "_News | None":
        asked = reviews.rounds.get(gate)
        news = due(asked, channel.name, self._reaches(channel), is_personal=bool(channel.person))
        return None if asked is None or news is None else _News(gate, asked.opened.round, news.kind, news.level)

    async def _tell(self, channel: Channel, address: Address, gate: str) -> None:
        """Tell *channel* what is news to it about *gate*, or find that it cannot be told.

        Raises:
            Busy: The gatekeeper stops.
        """
        failed: tuple[_News, Delivery] | None = None
        async with self._counted(), self._lock(channel.name, address, gate):
            for tries, pause_s in enumerate((*self._pauses_s, None), 1):
                async with channel.room:
                    tried = await self._try(channel, address, gate, failed)
                if tried is None:
                    return
                news, delivery = tried
                about = {**_about(address, channel, news), "tries": tries}
                if delivery is None:
                    await self._left_unclear(channel, address, news)
                    return
                if delivery.delivered or pause_s is None or self._is_in_the_way(channel):
                    if delivery.delivered:
                        log.info("notice.sent", **about)
                    else:
                        log.error("notice.given_up", **about, error=delivery.detail)
                    await self._report(address, channel, news, delivery)
                    return
                log.warning("notice.failed", **about, error=delivery.detail, retry_in_s=pause_s)
                failed = news, delivery
                await self._pause(pause_s)

    async def _try(
        self, channel: Channel, address: Address, gate: str, failed: "tuple[_News, Delivery] | None"
    ) -> "tuple[_News, Delivery | None] | None":
        """Send *channel* what is news to it now.

        Args:
            failed: What was news at the try before, and how it failed.

        Returns:
            What was sent, and with which result: None, if another gatekeeper sends it. None: nothing is news to it.
        """
        reviews = await self._patiently(lambda: self._read(address))
        news = self._news(reviews, gate, channel)
        if failed is not None and failed[0] != news:
            await self._report(address, channel, *failed)  # overtaken
        if news is None:
            return None
        return news, await self._send_once(channel, address, reviews, news)

    async def _send_once(self, channel: Channel, address: Address, reviews: Reviews, news: "_News") -> Delivery | None:
        """Send a notice, unless another gatekeeper has begun to: then None."""
        subject = _subject(address, channel, news)
        claim = await self._patiently(lambda: self._claims.begin(subject))
        if claim.by_another is not None:
            return None
        delivery = await self._send(channel, address, reviews, news)
        if not delivery.delivered:
            await self._patiently(lambda: self._claims.fail(subject, claim))
        return delivery

    async def _left_unclear(self, channel: Channel, address: Address, news: "_News") -> None:
        """Wait for another gatekeeper to say what became of what it sends; say so if it never will."""
        subject = _subject(address, channel, news)
        while True:
            reviews = await self._patiently(lambda: self._read(address))
            if self._news(reviews, news.gate, channel) != news:
                return
            claim = await self._patiently(lambda: self._claims.begin(subject))
            if claim.by_another is None:
                await self._patiently(partial(self._claims.fail, subject, claim))
                raise Busy("another gatekeeper could not send the notice, so that it has to be tried again")
            if claim.by_another > self._unclear_after_s:
                log.error("notice.unclear", **_about(address, channel, news), error=_UNCLEAR)
                await self._report(address, channel, news, Delivery(False, _UNCLEAR))
                return
            await self._pause(_BUSY_PAUSE_S)

    async def _send(self, channel: Channel, address: Address, reviews: Reviews, news: "_News") -> Delivery:
        if self._is_in_the_way(channel) and channel.since_failure_s() < _FAILED_LATELY_S:
            return Delivery(False, f"not tried: the channel failed a moment ago, and {self._telling} others wait")
        link = "" if self._links is None else self._links.to(address, news.gate, channel.person)
        asked = reviews.rounds[news.gate]
        said = facts(
            address,
            reviews,
            asked,
            news.kind,
            level=news.level,
            link=link,
            person=channel.person,
            directory=self._directory,
            with_outputs=self._with_outputs,
        )
        return await channel.send(self._letters.write(said))

    def _is_in_the_way(self, channel: Channel) -> bool:
        return self._telling > _CROWDED and channel.failures >= _FAILING

    async def _report(self, address: Address, channel: Channel, news: "_News", delivery: Delivery) -> None:
        """Have the log say what became of a notice, and believe it at once."""
        command = ReportNotice(
            id=_command_id(channel, news),
            step=news.gate,
            round=news.round,
            notice=news.kind,
            level=news.level,
            channel=channel.name,
            delivered=delivery.delivered,
            detail=delivery.detail,
        )
        reviews = self._plans.get(address)
        if reviews is not None:
            said = rounds.told(
                reviews.rounds, news.gate, news.round, news.kind, news.level, channel.name, delivery.delivered
            )
            self._keep(msgspec.structs.replace(reviews, rounds=said))
        subject = subjects.command(address, "notified", SERVICE)
        await self._patiently(lambda: self._core.publish(subject, encode(command)))

    async def _patiently(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the server again while it is busy: given back, the delivery would wait for its slowest channel first.

        Raises:
            Busy: The gatekeeper stops.
        """
        while True:
            try:
                return await ask()
            except Busy as error:
                log.warning("gatekeeper.waits", error=str(error), retry_in_s=_BUSY_PAUSE_S)
                await self._pause(_BUSY_PAUSE_S)

    # --- what is known of plans ------------------------------------------------------------------------

    async def _read(self, address: Address, sequence: int | None = None) -> Reviews:
        """A plan's gates at *sequence* of the log or later; None: as the log is now.

        Raises:
            Busy: The log cannot be read now, or not so far yet.
        """
        async with self._lock(*address):
            reviews = self._plans.get(address) or Reviews.nothing(address)
            if sequence is None or reviews.sequence < sequence:
                reviews = await self._read_on(reviews)
            if sequence is not None and reviews.sequence < sequence:
                raise Busy(f"the log of {address} has been read to {reviews.sequence}, not yet to {sequence}")
            return reviews

    async def _read_on(self, reviews: Reviews) -> Reviews:
        address = reviews.chain.address
        while True:
            stored = await self._core.direct_get(
                PLANS, subject=subjects.plan_log(address), sequence=reviews.sequence + 1, batch=_BATCH
            )
            # What was reported in the meantime is only here.
            reviews = self._plans.get(address) or reviews
            for one in stored:
                reviews = rounds.read(reviews, one.sequence, one.data)
            self._keep(reviews)
            if len(stored) < _BATCH:
                return reviews

    async def _read_patiently(self, address: Address) -> Reviews:
        return await self._patiently(lambda: self._read(address))

    def _keep(self, reviews: Reviews) -> None:
        self._plans[reviews.chain.address] = reviews
        self._plans.move_to_end(reviews.chain.address)
        if len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """How many notices are to be sent, or wait for their next try."""
        self._telling += 1
        try:
            yield
        finally:
            self._telling -= 1

    def _lock(self, *key: object) -> asyncio.Lock:
        """One for each key, for as long as somebody has it."""
        return self._locks.setdefault(tuple(map(str, key)), asyncio.Lock())

    async def _pause(self, pause_s: float) -> None:
        """Raises: Busy, when the gatekeeper stops."""
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            return
        raise Busy("the gatekeeper stops; the notice is left to the next one")


class _News(msgspec.Struct, frozen=True):
    """What a channel has to be told: of which round of which gate, and what."""

    gate: str
    round: int
    kind: Kind
    level: int


def _decoded(commit: bytes) -> Commit | None:
    try:
        return codec.commit.decode(commit)
    except DecodeError:
        return None


def _command_id(channel: Channel, news: _News) -> str:
    """The same for every report of the same notice, whoever sends it: only the first counts."""
    said = f"{news.gate}.{news.round}.{news.kind}{news.level or ''}.{channel.name}"
    return f"notice-{hashlib.sha256(said.encode()).hexdigest()[:40]}"


def _subject(address: Address, channel: Channel, news: _News) -> str:
    """Where it is noted that the notice is being sent."""
    said = f"{news.kind}-{news.level}" if news.level else news.kind
    return subjects.notice(address, news.gate, news.round, said, channel.name)


def _about(address: Address, channel: Channel, news: _News) -> dict[str, object]:
    return {
        "plan": str(address),
        "step": news.gate,
        "round": news.round,
        "notice": news.kind,
        "channel": channel.name,
    }
