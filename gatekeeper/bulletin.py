"""When operators hear the news: all of a while at once, at each of their channels.

A message of the log whose news has not been sent yet is not answered for, so that a gatekeeper that is killed loses
none of it: the next one tells it, perhaps again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from planmesh.errors import Busy, Unusable
from planmesh.gatekeeper.letters import Letters
from planmesh.gatekeeper.news import Aside, Happened, Idle, NewsFacts, Trouble, tell, troubles
from planmesh.gatekeeper.notify import Channel
from planmesh.gatekeeper.rounds import Reviews
from planmesh.schemas.subjects import Address

MOST_HELD: Final = 400
"""How many messages wait for their news to be sent. Beyond that, news is told without: the server gives out no more
than the consumer's `max_ack_pending` (1,000) at a time, and gates need some of it."""

log = structlog.get_logger()


class Bulletin:
    """The news for one channel.

    Args:
        channel: Where it goes.
        letters: How it is worded.
        read: What is known of a plan, as the log is now.
        every_s: How long news waits for more.
        retry_pauses_s: How long a channel that failed is left alone before each further try.
        with_outputs: Whether what agents said of their failures may leave.
    """

    def __init__(
        self,
        channel: Channel,
        letters: Letters,
        read: Callable[[Address], Awaitable[Reviews]],
        *,
        every_s: float,
        retry_pauses_s: Sequence[float],
        with_outputs: bool,
    ) -> None:
        self.channel = channel
        self._letters = letters
        self._read = read
        self._every_s = every_s
        self._pauses_s = retry_pauses_s
        self._with_outputs = with_outputs
        self._waiting: list[Happened | Aside | Idle] = []
        self._told: asyncio.Future[None] | None = None
        self._arrived = asyncio.Event()

    async def tell(self, news: Sequence[Happened | Aside | Idle]) -> None:
        """Have *news* told, and wait until it is, or is given up; unless too much waits already.

        Raises:
            Busy: The gatekeeper stops, and it has not been told.
        """
        self._waiting += news
        self._arrived.set()
        if len(self._waiting) > MOST_HELD:
            return
        if self._told is None:
            self._told = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._told)

    async def run(self) -> None:
        """Send what there is, again and again, until cancelled."""
        released: list[asyncio.Future[None]] = []
        try:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(self._every_s)
                try:
                    await self._send(released)
                except Busy:  # the gatekeeper stops
                    return
                except Exception as error:  # a bug; what it met is not told, and what comes next is
                    log.error("news.bug", channel=self.channel.name, exc_info=error)
                    self._drop(len(self._waiting), released)
        finally:
            for told in (*released, self._told):
                if told is not None and not told.done():
                    told.set_exception(Busy("the gatekeeper stops; the news is left to the next one"))

    async def _send(self, released: list[asyncio.Future[None]]) -> None:
        """Tell everything that waits; after a failure, again, with what has come meanwhile.

        Args:
            released: Whoever waits for what this sends.
        """
        for tries, pause_s in enumerate((*self._pauses_s, None), 1):
            news = len(self._waiting)
            if self._told is not None:
                released.append(self._told)
                self._told = None  # who comes from now on waits for the next one
            error = await self._try(self._waiting[:news], tries, pause_s)
            if not error or pause_s is None:
                break
            await asyncio.sleep(pause_s)
        self._drop(news, released)

    def _drop(self, count: int, released: list[asyncio.Future[None]]) -> None:
        """Forget what has been dealt with, and let whoever waits for it go on."""
        del self._waiting[:count]
        if not self._waiting:
            self._arrived.clear()
        while released:
            released.pop().set_result(None)

    async def _try(self, news: Sequence[Happened | Aside | Idle], tries: int, pause_s: float | None) -> str:
        """Send it once. What went wrong; empty, if nothing did."""
        said = await self._facts(news)
        if said is None:
            return ""
        async with self.channel.room:
            delivery = await self.channel.send(self._letters.write(said))
        about = {"channel": self.channel.name, "plans": said.plans, "set_aside": said.set_aside, "tries": tries}
        if delivery.delivered:
            log.info("news.sent", **about)
            return ""
        if pause_s is None:
            log.error("news.given_up", **about, error=delivery.detail)
        else:
            log.warning("news.failed", **about, error=delivery.detail, retry_in_s=pause_s)
        return delivery.detail or "it was not delivered"

    async def _facts(self, news: Sequence[Happened | Aside | Idle]) -> NewsFacts | None:
        now = datetime.now(UTC)
        found: list[Trouble] = []
        since: list[datetime] = []
        for one in news:
            if isinstance(one, Happened):
                try:
                    still = troubles(one, await self._read(one.address), now)
                except Unusable as error:  # a newer planmesh has written it, which has been logged
                    log.error("news.unread", plan=str(one.address), error=str(error))
                    continue
                found += still
                since += [one.at] * bool(still)
        return tell(
            found,
            [one for one in news if isinstance(one, Aside)],
            min(since, default=None),
            idle=[one for one in news if isinstance(one, Idle)],
            with_outputs=self._with_outputs,
        )
