"""Where what takes a model waits, so that nothing else does.

A model takes minutes where everything else takes milliseconds. So at most a few plans are worked on at once, a few more
wait here with their deliveries kept alive, and the rest is given back to the server for a while.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from planmesh.delivery import Message
from planmesh.errors import Busy
from planmesh.schemas.subjects import Address

WAITING: Final = 32
"""How many may wait here; so a consumer needs as many workers more, as well as `at_once`."""

_LATER_S: Final = 5.0
_LATER_MOST_S: Final = 60.0
_REMEMBERED: Final = 64

T = TypeVar("T")


class Desk(Generic[T]):
    """Works on a few things at once, and remembers what came of the last ones.

    Args:
        at_once: How many things are worked on at the same time.
        stop: When it is set, what is being worked on is let go.
    """

    def __init__(self, at_once: int, stop: asyncio.Event) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._room = at_once + WAITING
        self._stop = stop
        self._here: dict[Hashable, str] = {}  # and whose it is
        self._done: OrderedDict[Hashable, T] = OrderedDict()

    def turns_away(self, message: Message, space: str) -> bool:
        """Whether there is no room for more of *space*; then *message* has been given back, for longer each time.

        One may have as much here as there is room left, and so half of it at most: one who asks a lot of a model keeps
        no other from asking.
        """
        if Counter(self._here.values())[space] < self._room - len(self._here):
            return False
        message.nak(min(_LATER_S * message.num_delivered, _LATER_MOST_S))
        return True

    async def work(
        self, message: Message, key: tuple[Address, *tuple[Hashable, ...]], make: Callable[[], Awaitable[T]]
    ) -> T | None:
        """What *make* gives; or what it gave the last time, for the same *key*, which begins with the plan's address.

        Returns:
            None, if the message has been given back, because there is no room, or because it is here already.

        Raises:
            Busy: The planner ends.
        """
        if key in self._done:
            return self._done[key]
        if key in self._here:
            message.nak(_LATER_S)
            return None
        if self.turns_away(message, key[0].space):
            return None
        self._here[key] = key[0].space
        try:
            made = await self._unless_stopped(self._in_turn(make))
        finally:
            del self._here[key]
        self._done[key] = made
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        return made

    async def _in_turn(self, make: Callable[[], Awaitable[T]]) -> T:
        async with self._places:
            return await make()

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Busy("the planner ends; another one, or the next one, goes on with this")
            return working.result()
        finally:
            working.cancel()
            stopped.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)
