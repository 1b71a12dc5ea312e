"""Lines: one that asks too much waits behind itself, and behind nobody else."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import eventually

from planmesh.connection import Connection
from planmesh.errors import Busy, Poison
from planmesh.executor.lines import Lines
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.work import Reveal

ROOM = 12
ROOM_BYTES = 1_000


class Counter:
    """Lines in front of a server that begins nothing before it is let, and notes what it has begun."""

    def __init__(self, at_once: int, **room: int) -> None:
        self.begun: list[tuple[str, int]] = []
        self.taken: list[tuple[str, int]] = []
        self._free = asyncio.Semaphore(0)
        self.lines = Lines[tuple[str, int]](self._serve, at_once=at_once, **room)

    async def _serve(self, request: tuple[str, int]) -> None:
        await self._free.acquire()
        self.begun.append(request)

    def asks(self, who: str, size_bytes: int = 0) -> bool:
        request = (who, len(self.taken))
        is_taken = self.lines.take(who, request, size_bytes)
        if is_taken:
            self.taken.append(request)
        return is_taken

    async def serves(self, count: int) -> None:
        wanted = len(self.begun) + count
        for _ in range(count):
            self._free.release()
        await eventually(lambda: len(self.begun) == wanted)

    async def closes(self) -> None:
        for _ in self.taken:
            self._free.release()
        await self.lines.finish()


async def test_whoever_comes_behind_a_hundred_of_another_waits_for_one() -> None:
    counter = Counter(1)
    for _ in range(100):
        counter.asks("flood")
    await counter.serves(3)

    counter.asks("other")
    await counter.serves(3)

    assert [who for who, _ in counter.begun[3:]] == ["flood", "flood", "other"], "one of them had been begun"
    await counter.closes()


async def test_one_who_fills_all_that_there_is_for_one_leaves_room_for_others() -> None:
    counter = Counter(1, most=ROOM)

    flood = [counter.asks("flood") for _ in range(100)]
    others = [counter.asks(who) for who in ("a", "b", "c")]

    assert flood.count(True) == ROOM // 2
    assert all(others)
    await counter.closes()


async def test_bytes_count_as_requests_do() -> None:
    counter = Counter(1, most_bytes=ROOM_BYTES)

    flood = [counter.asks("flood", 100) for _ in range(100)]

    assert flood.count(True) == 5
    assert counter.asks("other", 10_000), "whoever has nothing here may send one of any size"
    await counter.closes()


async def test_a_request_that_fails_stops_nothing() -> None:
    served: list[int] = []

    async def serve(number: int) -> None:
        served.append(number)
        if number == 1:
            raise ValueError("a bug")

    lines = Lines[int](serve, at_once=1)
    for number in range(3):
        lines.take("one", number)
    await lines.finish()

    assert served == [0, 1, 2]
    assert lines.take("one", 3)
    await lines.finish()
    assert served == [0, 1, 2, 3]


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 300)), max_size=60),
    at_once=st.integers(1, 4),
)
def test_everything_that_is_taken_is_served_once_in_its_order_and_in_turn(
    asked: list[tuple[str, int]], at_once: int
) -> None:
    async def play() -> None:
        counter = Counter(at_once, most=ROOM, most_bytes=ROOM_BYTES)
        held: dict[str, int] = {}
        for who, size_bytes in asked:
            is_taken = counter.asks(who, size_bytes)
            assert is_taken or who in held or len(counter.taken) == ROOM or sum(held.values()) >= ROOM_BYTES
            if is_taken:
                held[who] = held.get(who, 0) + size_bytes
        assert len(counter.taken) <= ROOM
        await counter.closes()

        for who in "abcd":
            of_one = [request for request in counter.taken if request[0] == who]
            # Those that are served at the same time end in any order; they are begun in theirs.
            assert sorted(request for request in counter.begun if request[0] == who) == of_one
        if at_once == 1:
            # While two wait, neither is served twice before the other is served once.
            left = {who: sum(one[0] == who for one in counter.taken) for who in "abcd"}
            last: dict[str, int] = {}
            for turn, (who, _) in enumerate(counter.begun):
                since = [other for other, _ in counter.begun[last[who] + 1 : turn]] if who in last else None
                if since is not None:
                    assert set(since) >= {other for other, count in left.items() if count and other != who}
                last[who] = turn
                left[who] -= 1

    asyncio.run(play())


# --- on a server -------------------------------------------------------------------------------------------

numbers = itertools.count()


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(lambda agent: (subjects.put_blob(agent), b'"%d"' % next(numbers)), id="put"),
        pytest.param(lambda agent: (subjects.get_blob(agent), b"0" * 64), id="get"),
        pytest.param(
            lambda agent: (subjects.reveal(agent), encode(Reveal(space="s", plan="p", step="s", attempt=1))),
            id="reveal",
        ),
    ],
)
async def test_an_agent_that_asks_without_end_keeps_no_other_from_being_served(
    opened: Callable[..., Any], asks: Callable[[str], tuple[str, bytes]]
) -> None:
    async with opened("flood", "other") as house:
        await house.executor()
        flood, other = await house.connected("agent-flood"), await house.connected("agent-other")
        is_refused = asyncio.Event()

        async def ask(connection: Connection, subject: str, data: bytes) -> str:
            try:
                await connection.request(subject, data, timeout_s=30)
            except Poison:  # there is no such blob, and no such attempt
                return "served"
            except Busy as error:
                is_refused.set()
                return str(error)
            return "served"

        async def without_end() -> None:
            while True:
                await asyncio.gather(*(ask(flood, *asks("flood")) for _ in range(2_000)))

        flooding = asyncio.create_task(without_end())
        await asyncio.wait_for(is_refused.wait(), 30)
        answers = [await ask(other, *asks("other")) for _ in range(10)]

        assert not flooding.done()
        flooding.cancel()
        assert answers == ["served"] * 10
