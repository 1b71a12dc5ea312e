from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from nats.aio.msg import Msg

from planmesh.connection import Connection, StoredMessage
from planmesh.delivery import Keeper, Message, Subscription, consume, set_aside, subscribe
from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.schemas.codec import DecodeError
from planmesh.streams import PINNED_GROUP, TAKEOVER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.planmesh.conftest import PlainServer

SECOND_NS = 1_000_000_000


@pytest.fixture
async def core(server: PlainServer) -> AsyncIterator[Connection]:
    async with await server.connect() as connection:
        await server.stream(connection, "DATA", "data.>")
        await server.stream(connection, "POISON", "poison.>", allow_direct=True)
        yield connection


async def receive(subscription: Subscription, count: int, timeout_s: float = 5.0) -> list[Message]:
    received: list[Message] = []
    async with asyncio.timeout(timeout_s):
        while len(received) < count:
            received += await subscription.receive()
    return received


async def nothing_comes(subscription: Subscription, for_s: float = 0.3) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(subscription.receive(), for_s)
        return False
    return True


async def publish(connection: Connection, *texts: str) -> None:
    await asyncio.gather(*(connection.publish_soon("data.a", text.encode()) for text in texts))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def poisoned(connection: Connection) -> StoredMessage:
    async with asyncio.timeout(5):
        while not (found := await connection.direct_get("POISON")):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    (one,) = found
    return one


# --- a subscription -------------------------------------------------------------------------------------------


async def test_a_message_says_where_it_came_from(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await core.publish("data.a.b", b"1", headers={"Note": "n"})
    await core.publish("data.c", b"")

    async with await subscribe(core, "DATA", "reader") as subscription:
        first, second = await receive(subscription, 2)

    assert (first.subject, first.data, first.headers) == ("data.a.b", b"1", {"Note": "n"})
    assert (second.subject, second.data, second.headers) == ("data.c", b"", None)
    assert (first.stream, first.sequence, first.num_delivered) == ("DATA", 1, 1)
    assert second.num_pending == 0
    assert abs(first.timestamp.timestamp() - time.time()) < 60
    assert first.timestamp.utcoffset() is not None
    assert 0 <= second.timestamp_ns - first.timestamp_ns < 5 * SECOND_NS


def test_a_reply_that_names_domain_and_account_is_read_too() -> None:
    short = "$JS.ACK.DATA.reader.3.17.5.1764000000123456789.4"
    long = "$JS.ACK.hub.ACCHASH.DATA.reader.3.17.5.1764000000123456789.4.random"

    for reply in (short, long, long.removesuffix(".random")):
        message = Message(None, Msg(None, subject="data.a", reply=reply))  # type: ignore[arg-type]
        assert (message.stream, message.num_delivered, message.sequence, message.num_pending) == ("DATA", 3, 17, 4)
        assert message.timestamp.isoformat() == "2025-11-24T16:00:00.123456+00:00"


async def test_thousands_arrive_in_order_and_once(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    async with await subscribe(core, "DATA", "reader", batch=64) as subscription:
        publishing = asyncio.create_task(publish(core, *map(str, range(3000))))
        received: list[Message] = []
        while len(received) < 3000:
            messages = await subscription.receive()
            for message in messages:
                message.ack()
            assert len(messages) <= 128
            received += messages
        await publishing

        assert [int(message.data) for message in received] == list(range(3000))
        assert await nothing_comes(subscription)


async def test_thousands_of_pulls_go_through_more_than_one_inbox_and_lose_nothing(
    server: PlainServer, core: Connection
) -> None:
    await server.consumer(core, "DATA", "reader")
    await publish(core, *map(str, range(2500)))
    async with await subscribe(core, "DATA", "reader", batch=1) as subscription:
        first_inbox, received = subscription._inbox, []
        while len(received) < 2500:
            for message in await subscription.receive():
                message.ack()
                received.append(int(message.data))

        assert received == list(range(2500))
        assert subscription._inbox != first_inbox


async def test_what_is_not_acked_comes_back_and_what_is_acked_does_not(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=0.3)
    await publish(core, "acked", "forgotten")
    async with await subscribe(core, "DATA", "reader") as subscription:
        first, _ = await receive(subscription, 2)
        first.ack()

        (again,) = await receive(subscription, 1)

        assert (again.data, again.num_delivered) == (b"forgotten", 2)
        again.ack()
        assert await nothing_comes(subscription, 0.5)


async def test_a_nak_brings_a_message_back_when_it_says(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await publish(core, "now", "later", "never")
    async with await subscribe(core, "DATA", "reader") as subscription:
        now, later, never = await receive(subscription, 3)
        started = time.monotonic()
        later.nak(0.4)
        now.nak()
        never.term()

        (first,) = await receive(subscription, 1)
        took_s = time.monotonic() - started
        (second,) = await receive(subscription, 1)

        assert (first.data, second.data) == (b"now", b"later")
        assert took_s < 0.3
        assert 0.35 < time.monotonic() - started < 2
        first.ack()
        second.ack()
        assert await nothing_comes(subscription)


async def test_only_the_first_answer_counts(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await publish(core, "one")
    async with await subscribe(core, "DATA", "reader") as subscription:
        (message,) = await receive(subscription, 1)
        message.ack()
        message.nak()

        assert message.answered
        assert await nothing_comes(subscription)


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_subscription_goes_on_when_the_server_comes_back(
    server: PlainServer, core: Connection, end: str
) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=1)
    await publish(core, "before")
    async with await subscribe(core, "DATA", "reader") as subscription:
        (before,) = await receive(subscription, 1)
        before.ack()
        await core.flush()

        await (server.kill() if end == "kill" else server.stop())
        await server.start()
        async with await server.connect() as other:
            await other.publish("data.a", b"after")

        async with asyncio.timeout(5):
            while b"after" not in [message.data for message in await subscription.receive()]:
                pass  # what was acked in the last tenth of a second before a kill -9 comes back


async def test_a_consumer_that_is_not_there_is_waited_for(server: PlainServer, core: Connection) -> None:
    async with await subscribe(core, "DATA", "late") as subscription:
        await asyncio.sleep(0.2)
        await publish(core, "one")
        await server.consumer(core, "DATA", "late")

        assert [message.data for message in await receive(subscription, 1)] == [b"one"]


async def test_a_consumer_that_was_deleted_and_made_again_is_found(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    async with await subscribe(core, "DATA", "reader") as subscription:
        assert await nothing_comes(subscription, 0.1)
        await core.request("$JS.API.CONSUMER.DELETE.DATA.reader")
        await publish(core, "one")
        await server.consumer(core, "DATA", "reader")

        assert [message.data for message in await receive(subscription, 1)] == [b"one"]


async def test_large_messages_fill_no_more_than_their_share_of_memory(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    large = "x" * (core.client.max_payload - 100)
    for _ in range(50):
        await publish(core, large)

    async with await subscribe(core, "DATA", "reader") as subscription:
        await asyncio.sleep(0.5)
        waiting = await subscription.receive()
        assert 25 <= len(waiting) <= 33
        assert len(waiting) + len(await receive(subscription, 50 - len(waiting))) == 50


async def test_a_stored_message_that_looks_like_a_status_is_a_message(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    for status in ("100", "404", "409", "423"):
        await core.publish("data.a", b"", headers={"Status": status, "Nats-Pending-Messages": "-1"})

    async with await subscribe(core, "DATA", "reader") as subscription:
        assert len(await receive(subscription, 4)) == 4
        await publish(core, "and on")
        assert [message.data for message in await receive(subscription, 1)] == [b"and on"]


async def test_a_pull_through_another_account_works_like_one_at_home(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "guest", ack_wait_s=0.5)
    async with await server.connect("guest") as guest, await subscribe(guest, "DATA", "guest", batch=4) as subscription:
        await publish(core, *map(str, range(20)))
        received: list[Message] = []
        while len(received) < 20:
            for message in await receive(subscription, 1):
                message.ack()
                received.append(message)

        assert [int(message.data) for message in received] == list(range(20))
        assert await nothing_comes(subscription, 0.8)


async def test_what_was_pulled_before_a_connection_broke_swallows_nothing(
    server: PlainServer, core: Connection
) -> None:
    await server.consumer(core, "DATA", "guest", ack_wait_s=2)
    async with await server.connect("guest") as guest, await subscribe(guest, "DATA", "guest", batch=4) as subscription:
        await guest.flush()
        back = asyncio.Event()
        guest.on_reconnect.add(back.set)

        guest.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
        await asyncio.wait_for(back.wait(), 5)
        await asyncio.sleep(0.1)
        await publish(core, *map(str, range(4)))

        received = await receive(subscription, 4, 1)
        assert [(int(message.data), message.num_delivered) for message in received] == [(n, 1) for n in range(4)]


async def test_closing_gives_back_what_nobody_received(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await publish(core, *map(str, range(10)))
    async with await server.connect() as other:
        first = await subscribe(core, "DATA", "reader")
        mine = await first.receive(2)
        while len(mine) < 2:
            mine += await first.receive(2 - len(mine))
        await first.close()
        assert await first.receive() == []

        async with await subscribe(other, "DATA", "reader") as second:
            theirs = await receive(second, 8)

    assert [message.data for message in mine] == [b"0", b"1"]
    assert sorted(int(message.data) for message in theirs) == list(range(2, 10))


async def test_closing_does_not_wait_for_a_server_that_is_away(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    subscription = await subscribe(core, "DATA", "reader")
    await server.kill()
    await until(lambda: not core.connected)
    started = time.monotonic()
    await subscription.close()

    assert time.monotonic() - started < 1


async def test_a_subscription_ends_with_its_connection(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    other = await server.connect()
    subscription = await subscribe(other, "DATA", "reader")
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.05)
    await other.close()

    with pytest.raises(Unusable, match="connection ended that DATA/reader"):
        await receiving
    await subscription.close()


# --- one reader of several ------------------------------------------------------------------------------------


async def pinned(server: PlainServer, core: Connection) -> None:
    settings = {"priority_policy": "pinned_client", "priority_groups": [PINNED_GROUP]}
    await server.consumer(core, "DATA", "decide", ack_wait_s=1, priority_timeout=TAKEOVER_S * SECOND_NS, **settings)


async def test_one_reader_gets_everything_and_another_takes_over_when_it_dies(
    server: PlainServer, core: Connection
) -> None:
    await pinned(server, core)
    dying, standing_by = await server.connect(), await server.connect()
    first = await subscribe(dying, "DATA", "decide", group=PINNED_GROUP)
    await publish(core, "0")
    (await receive(first, 1))[0].ack()
    async with await subscribe(standing_by, "DATA", "decide", group=PINNED_GROUP) as second:
        for n in range(1, 40):
            await publish(core, str(n))
            for message in await receive(first, 1):
                assert message.data == b"%d" % n
                message.ack()
        await asyncio.sleep(1.5 * TAKEOVER_S)  # longer than the pin would last without a sign of life
        assert (first.pinned, second.pinned) == (True, False)

        await publish(core, "unfinished")
        assert len(await receive(first, 1)) == 1
        await dying.client.close()
        died_at = time.monotonic()
        await publish(core, "next")

        taken = await receive(second, 2)
        assert time.monotonic() - died_at < TAKEOVER_S + 1
        assert {message.data for message in taken} == {b"unfinished", b"next"}
        assert second.pinned
    await dying.close()
    await standing_by.close()


async def test_a_reader_that_was_away_finds_another_in_its_place_and_waits(
    server: PlainServer, core: Connection
) -> None:
    await pinned(server, core)
    async with (
        await server.connect() as other,
        await subscribe(core, "DATA", "decide", group=PINNED_GROUP) as first,
        await subscribe(other, "DATA", "decide", group=PINNED_GROUP) as second,
    ):
        async with asyncio.timeout(10):
            while not (first.pinned or second.pinned):
                await publish(core, "0")
                await asyncio.sleep(0.05)
        was, becomes = (first, second) if first.pinned else (second, first)
        was._expires_s = 3600  # a process that hangs: its pull stays, and no other follows
        was._pull_if_low = lambda: None  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while not becomes.pinned:
                await publish(core, "1")
                await asyncio.sleep(0.05)

        del was._pull_if_low
        was._start_over()
        await until(lambda: not was.pinned)
        assert becomes.pinned


# --- consume --------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def consuming(
    core: Connection, handle: Callable[[Message], Awaitable[None]], **settings: object
) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(consume(core, "DATA", "reader", handle, service="test", stop=stop, **settings))  # type: ignore[arg-type]
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


class Handled:
    """A handler that notes what it gets, and raises what it is told to."""

    def __init__(self, *errors: Exception | None) -> None:
        self.messages: list[Message] = []
        self._errors = list(errors)
        self._changed = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()
        if self._errors and (error := self._errors.pop(0)):
            raise error

    async def wait(self, count: int) -> list[bytes]:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        return [message.data for message in self.messages]


async def test_a_handler_that_returns_has_done_its_message(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=0.3)
    handle = Handled()
    async with consuming(core, handle):
        await publish(core, "1", "2", "3")

        assert await handle.wait(3) == [b"1", b"2", b"3"]
        await asyncio.sleep(0.5)
        assert len(handle.messages) == 3


async def test_a_handler_may_answer_itself(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    times: list[float] = []

    async def handle(message: Message) -> None:
        times.append(time.monotonic())
        if message.num_delivered == 1:
            message.nak(0.2)

    async with consuming(core, handle):
        await publish(core, "timer")
        await asyncio.sleep(0.6)

    assert len(times) == 2
    assert times[1] - times[0] >= 0.18


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Poison("has no\nname"), "has no\\nname"),
        (DecodeError("invalid", "has no name"), "has no name"),
        (LookupError("name"), "LookupError: name"),
    ],
)
async def test_poison_is_set_aside_as_it_came_and_says_why(
    server: PlainServer, core: Connection, error: Exception, said: str
) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=0.3)
    handle = Handled(error)
    async with consuming(core, handle, poison=(LookupError,)):
        await core.publish("data.a", b"\x00{bad", message_id="id")
        found = await poisoned(core)
        await publish(core, "good")

        assert await handle.wait(2) == [b"\x00{bad", b"good"]
        await asyncio.sleep(0.5)
        assert len(handle.messages) == 2

    assert (found.subject, found.data) == ("poison.test.DATA", b"\x00{bad")
    assert {name: value for name, value in found.headers.items() if name.startswith("Planmesh-")} | {
        "Planmesh-Account": "",
        "Planmesh-Stream": "DATA",
        "Planmesh-Sequence": "1",
        "Planmesh-Subject": "data.a",
        "Planmesh-Error": said,
    } == {name: value for name, value in found.headers.items() if name.startswith("Planmesh-")}


async def test_a_bug_stops_nothing_and_is_set_aside_the_fifth_time(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await publish(core, "bug")
    async with await subscribe(core, "DATA", "reader") as subscription:
        for times in range(1, 5):
            (message,) = await receive(subscription, 1)
            assert message.num_delivered == times
            message.nak()
    await publish(core, "good")
    handle = Handled(ZeroDivisionError("divided by nothing"))
    async with consuming(core, handle):
        await handle.wait(2)
        found = await poisoned(core)

    assert found.data == b"bug"
    assert found.headers["Planmesh-Error"] == "ZeroDivisionError: divided by nothing"
    assert "in __call__\\n" in found.headers["Planmesh-Traceback"]


async def test_a_bug_comes_back_after_a_second(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    handle = Handled(ZeroDivisionError())
    async with consuming(core, handle):
        await publish(core, "bug", "good")
        await handle.wait(2)
        started = time.monotonic()

        assert await handle.wait(3) == [b"bug", b"good", b"bug"]
        assert 0.8 < time.monotonic() - started < 3


@pytest.mark.parametrize("error", [Busy("later"), Conflict("again"), Unusable("forbidden")])
async def test_what_is_busy_comes_back_soon_and_is_never_poison(
    server: PlainServer, core: Connection, error: Exception
) -> None:
    await server.consumer(core, "DATA", "reader")
    handle = Handled(error, error, error)
    async with consuming(core, handle):
        await publish(core, "1")

        assert await handle.wait(4) == [b"1"] * 4
    assert await core.direct_get("POISON") == []


async def test_poison_that_cannot_be_set_aside_is_not_acked(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    await core.request("$JS.API.STREAM.DELETE.POISON")
    async with await subscribe(core, "DATA", "reader") as subscription:
        await publish(core, "1")
        (message,) = await receive(subscription, 1)

        with pytest.raises(Busy):
            await set_aside(core, "test", message, Poison("bad"))
        assert not message.answered


async def test_poison_as_large_as_can_be_is_cut(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    size = core.client.max_payload
    async with consuming(core, Handled(Poison("ü" * 5000 + "\ud800"))):
        await publish(core, "x" * size)
        found = await poisoned(core)

    assert found.headers["Planmesh-Cut"] == str(size)
    assert size - 10_000 < len(found.data) < size


async def test_as_many_as_may_be_are_worked_on_at_once(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    at_once = most = done = 0

    async def handle(message: Message) -> None:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        done += 1

    async with consuming(core, handle, concurrency=4):
        await publish(core, *map(str, range(20)))
        await until(lambda: done == 20)

    assert most == 4


async def test_what_takes_long_is_kept_alive_and_so_is_what_waits_behind_it(
    server: PlainServer, core: Connection
) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=0.5)
    handled: list[tuple[bytes, int]] = []

    async def handle(message: Message) -> None:
        await asyncio.sleep(0.8)
        handled.append((message.data, message.num_delivered))

    async with consuming(core, handle, ack_wait_s=0.5):
        await publish(core, "1", "2")
        await until(lambda: len(handled) == 2)
        await asyncio.sleep(0.6)

    assert handled == [(b"1", 1), (b"2", 1)]


async def test_a_keeper_lets_go_of_what_is_answered(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader", ack_wait_s=0.4)
    keeper = Keeper(0.4)
    async with await subscribe(core, "DATA", "reader", keeper=keeper) as subscription:
        await publish(core, "kept", "dropped")
        kept, dropped = await receive(subscription, 2)
        keeper.discard(dropped)
        (again,) = await receive(subscription, 1)
        assert again.data == b"dropped"
        again.ack()
        assert await nothing_comes(subscription, 0.6)

        keeper.close()
        assert [message.data for message in await receive(subscription, 1)] == [kept.data]


async def test_a_clean_stop_finishes_what_was_begun_and_gives_back_the_rest(
    server: PlainServer, core: Connection
) -> None:
    await server.consumer(core, "DATA", "reader")
    begun, go_on, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    done: list[bytes] = []

    async def handle(message: Message) -> None:
        begun.set()
        await go_on.wait()
        done.append(message.data)

    await publish(core, "1", "2", "3")
    task = asyncio.create_task(consume(core, "DATA", "reader", handle, service="test", stop=stop))
    await begun.wait()
    stop.set()
    async with await server.connect() as other, await subscribe(other, "DATA", "reader") as next_one:
        given_back = await receive(next_one, 2)
        go_on.set()
        await asyncio.wait_for(task, 5)

        assert done == [b"1"]
        assert {message.data for message in given_back} == {b"2", b"3"}
        assert await nothing_comes(next_one)


async def test_a_cancelled_handler_gives_its_message_back(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    begun = asyncio.Event()

    async def handle(message: Message) -> None:
        begun.set()
        await asyncio.sleep(60)

    await publish(core, "1")
    task = asyncio.create_task(consume(core, "DATA", "reader", handle, service="test"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with await subscribe(core, "DATA", "reader") as subscription:
        assert [message.num_delivered for message in await receive(subscription, 1, 2)] == [2]


async def test_consuming_ends_with_the_connection(server: PlainServer, core: Connection) -> None:
    await server.consumer(core, "DATA", "reader")
    other = await server.connect()
    task = asyncio.create_task(consume(other, "DATA", "reader", Handled(), service="test", concurrency=3))
    await asyncio.sleep(0.1)
    await other.close()

    with pytest.raises(Unusable, match="connection ended"):
        await asyncio.wait_for(task, 5)
