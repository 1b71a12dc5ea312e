"""Requests of agents, in a line for each: one that asks too much waits behind itself, and is in nobody's way."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

_AT_ONCE: Final = 16
_WAITING: Final = 1_000
_WAITING_BYTES: Final = 64 * 1024 * 1024

T = TypeVar("T")

log = structlog.get_logger()


class Lines(Generic[T]):
    """Serves requests in turn: after each, it is the turn of whoever has been served least recently.

    A request is taken if whoever asks has less here than there is room left. So one who asks alone has up to half of
    the room, any number who ask share it evenly, and whoever has nothing here always has some. Source: Choudhury and
    Hahne, "Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Trans. Networking 6 (1998).

    Args:
        serve: Does one request. What it raises is logged, and ends nothing.
        at_once: How many are served at the same time.
        most: How many may be here, those that are being served among them.
        most_bytes: How many bytes they may have together; the last one that is taken may be beyond that.
    """

    def __init__(
        self,
        serve: Callable[[T], Awaitable[None]],
        *,
        at_once: int = _AT_ONCE,
        most: int = _WAITING,
        most_bytes: int = _WAITING_BYTES,
    ) -> None:
        self._serve = serve
        self._at_once = at_once
        self._left = most
        self._left_bytes = most_bytes
        self._lines: OrderedDict[str, deque[tuple[T, int]]] = OrderedDict()  # whose turn is next comes first
        self._here: dict[str, tuple[int, int]] = {}  # how many requests of whom, and how many bytes
        self._workers: set[asyncio.Task[None]] = set()

    def take(self, who: str, request: T, size_bytes: int = 0) -> bool:
        """Let *request* wait for its turn. Returns: there was room for it."""
        count, held_bytes = self._here.get(who, (0, 0))
        if count >= self._left or held_bytes >= self._left_bytes:
            return False
        self._move(who, 1, size_bytes)
        self._lines.setdefault(who, deque()).append((request, size_bytes))
        if len(self._workers) < self._at_once:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
        return True

    async def finish(self) -> None:
        """Wait until everything that was taken has been served."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        try:
            while self._lines:
                who, line = self._lines.popitem(last=False)
                request, size_bytes = line.popleft()
                if line:
                    self._lines[who] = line
                try:
                    await self._serve(request)
                except Exception:
                    log.exception("request.failed", agent=who)
                finally:
                    self._move(who, -1, -size_bytes)
        finally:
            # No await since the last look: nothing can have been taken in between.
            self._workers.discard(asyncio.current_task())

    def _move(self, who: str, count: int, size_bytes: int) -> None:
        held, held_bytes = self._here.pop(who, (0, 0))
        if held + count:
            self._here[who] = (held + count, held_bytes + size_bytes)
        self._left -= count
        self._left_bytes -= size_bytes
