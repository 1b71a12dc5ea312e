"""Spans as a real OTLP receiver gets them; and one that is dead, which delays nothing."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ReceivedSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from plays import HERE, TOLD, Play, gate, plan, task

from planmesh.auditor.collector import Collector
from planmesh.auditor.spans import Span
from planmesh.schemas import tracing


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Receiver:
    """What a collector has received, by the name of the span."""

    def __init__(self, tap: OtelTapHttpProtobufReceiver, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._stream = tap.stream_traces().__aiter__()

    async def next(self, number: int) -> list[ReceivedSpan]:
        async with asyncio.timeout(10):
            return [await anext(self._stream) for _ in range(number)]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as tap:
        yield Receiver(tap, port)


@pytest.fixture
def silent() -> Iterator[str]:
    """Something that takes connections, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def attributes_of(span: ReceivedSpan) -> dict[str, Any]:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def spans(number: int) -> list[Span]:
    return [
        Span(
            name=f"span-{one}",
            trace_id="1" * 32,
            span_id=f"{one + 1:016x}",
            parent="",
            start_ns=1_767_225_600_000_000_000,
            end_ns=1_767_225_601_000_000_000,
            attributes={"planmesh.step": "s"},
        )
        for one in range(number)
    ]


async def test_a_plan_arrives_as_one_trace(desk: Any, receiver: Receiver) -> None:
    play = Play(plan(task("build"), gate("release", "build"), task("ship", "release")))
    play.completes("build")
    play.votes("release")
    play.fails("ship", retryable=False)
    play.retries("ship")
    play.completes("ship")

    async with desk.running(otlp_endpoint=receiver.endpoint):
        await desk.write(*play.log)
        received = await receiver.next(5)

    trace_id = bytes.fromhex(tracing.trace_id(HERE, "digest"))
    assert {span.trace_id for span in received} == {trace_id}
    build, release, failed, ship, root = received
    assert [span.name for span in received] == ["build", "release", "ship", "ship", "A plan"]
    assert root.span_id.hex() == tracing.plan_span_id(HERE)
    assert root.parent_span_id == b""
    assert {span.parent_span_id for span in (build, release, failed, ship)} == {root.span_id}
    assert ship.span_id.hex() == tracing.span_id(HERE, "ship", 2)
    assert [link.span_id for link in ship.links] == [release.span_id]
    assert build.end_time_unix_nano - build.start_time_unix_nano == 500_000_000

    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.status.message == "agent_error: it broke"
    assert [event.name for event in failed.events] == ["exception"]
    assert {span.status.code for span in (build, release, ship, root)} == {Status.STATUS_CODE_UNSET}
    assert attributes_of(release)["planmesh.gate.by"] == ["ada"]
    assert attributes_of(build)["planmesh.step.kind"] == "task"
    assert attributes_of(ship)["planmesh.attempt"] == 2


async def test_what_an_attempt_called_arrives_below_it(desk: Any, receiver: Receiver) -> None:
    play = Play(plan(task("write")))
    play.completes("write", **TOLD)

    async with desk.running(otlp_endpoint=receiver.endpoint):
        await desk.write(*play.log)
        write, chat, search, _ = await receiver.next(4)

    assert [span.name for span in (write, chat, search)] == ["write", "chat m", "execute_tool search"]
    assert {span.parent_span_id for span in (chat, search)} == {write.span_id}
    assert (chat.kind, search.kind) == (chat.SPAN_KIND_CLIENT, search.SPAN_KIND_INTERNAL)
    assert attributes_of(chat)["gen_ai.usage.input_tokens"] == 7
    assert search.status.code == Status.STATUS_CODE_ERROR


async def test_a_rebuild_gives_the_same_spans(desk: Any, receiver: Receiver) -> None:
    play = Play(plan(task("build"), task("ship", "build")))
    play.completes("build")
    play.completes("ship")
    async with desk.running(otlp_endpoint=receiver.endpoint):
        await desk.write(*play.log)
        before = await receiver.next(3)

    async with desk.running(otlp_endpoint=receiver.endpoint, rebuild=True):
        after = await receiver.next(3)

    assert [span.SerializeToString() for span in after] == [span.SerializeToString() for span in before]


async def test_a_dead_collector_delays_nothing(desk: Any, silent: str) -> None:
    play = Play(plan(*(task(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(50))))
    for number in range(50):
        play.completes(f"s{number}")

    async with desk.running(otlp_endpoint=silent):
        await desk.write(*play.log)
        position = await desk.until_read(len(play.log), timeout_s=5)  # the exporter gives a collector 10 s

    assert position.lag == 0


@pytest.mark.parametrize("dead", ["silent", "closed"])
def test_what_nobody_takes_is_dropped_and_counted(dead: str, silent: str) -> None:
    endpoint = silent if dead == "silent" else f"http://127.0.0.1:{free_port()}"
    collector = Collector(endpoint, capacity=1_000)

    started = time.perf_counter()
    for _ in range(100):
        collector.offer(spans(100))
    offered_s = time.perf_counter() - started
    held = 10_000 - collector.dropped
    collector.close(timeout_s=0.1)

    assert offered_s < 1
    assert held <= 1_000 + 512  # what waits, and what is being sent
    if dead == "closed":
        assert collector.dropped == 10_000


async def test_a_collector_that_comes_back_gets_what_waited(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    collector = Collector(f"http://127.0.0.1:{port}/v1/traces")
    collector.offer(spans(3))
    await asyncio.sleep(0.5)

    settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    async with OtelTapHttpProtobufReceiver(settings) as tap:
        received = await Receiver(tap, port).next(3)
    await asyncio.to_thread(collector.close)

    assert [span.name for span in received] == ["span-0", "span-1", "span-2"]
    assert collector.dropped == 0
