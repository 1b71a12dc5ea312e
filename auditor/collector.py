"""Sends spans to an OpenTelemetry collector by OTLP over HTTP, in a thread of its own, and never makes anybody wait.

The SDK's own batch processor drops in silence; this one keeps what a collector did not take for a while, counts what
it had to drop, and says so.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

import planmesh
from planmesh.auditor.spans import Span

CAPACITY: Final = 8_192
_BATCH: Final = 512
_GATHER_S: Final = 0.2
_TIMEOUT_S: Final = 10.0
_TRIES: Final = 6
_PAUSE_S: Final = 2.0
_PATH: Final = "/v1/traces"

log = structlog.get_logger()


class Collector:
    """A queue of spans, and the thread that empties it.

    Attributes:
        dropped: How many spans were given up: the queue was full, or the collector refused them time and again.

    Args:
        endpoint: Of the collector, such as ``http://localhost:4318``.
        capacity: How many spans may wait; the oldest make room.
    """

    def __init__(self, endpoint: str, *, capacity: int = CAPACITY) -> None:
        url = endpoint.rstrip("/")
        self._endpoint = url if url.endswith(_PATH) else url + _PATH
        self._capacity = capacity
        self._waiting: deque[Span] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.dropped = 0
        self._reached = True
        # It tells of every try; one line for an outage is enough, and that is ours.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(self._endpoint, timeout=_TIMEOUT_S)
        self._resource = Resource.create({"service.name": "planmesh", "service.version": planmesh.__version__})
        self._scope = InstrumentationScope("planmesh.auditor", planmesh.__version__)
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def offer(self, spans: Iterable[Span]) -> None:
        """Queue spans. Returns at once, whatever the collector does."""
        with self._changed:
            dropped = self.dropped
            self._waiting.extend(spans)
            while len(self._waiting) > self._capacity:
                self._waiting.popleft()
                self._drop(1)
            self._changed.notify()
        if not dropped and self.dropped:
            log.warning("spans.dropping", endpoint=self._endpoint, waiting=self._capacity)

    def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits, as far as that goes in *timeout_s*; then end, within as much time again."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends its pauses between tries
            self._thread.join(timeout_s)
        if self.dropped:
            log.warning("spans.dropped", endpoint=self._endpoint, spans=self.dropped)

    def _run(self) -> None:
        while batch := self._take():
            for _ in range(_TRIES):
                if self._send(batch):
                    self._reach(True)
                    break
                self._reach(False)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, _PAUSE_S):
                        self._drop(len(batch) + len(self._waiting))
                        return
            else:
                self._drop(len(batch))

    def _take(self) -> list[Span]:
        """The next spans to send; none when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(lambda: len(self._waiting) >= _BATCH or self._closing, _GATHER_S)
            return [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]

    def _drop(self, spans: int) -> None:
        self.dropped += spans

    def _reach(self, reached: bool) -> None:
        """Log that the collector is away, or back: once each, not for every batch."""
        if reached != self._reached:
            self._reached = reached
            if reached:
                log.info("spans.taken_again", endpoint=self._endpoint, dropped=self.dropped)
            else:
                hint = "is an OTLP/HTTP collector there? (PLANMESH_OTLP_ENDPOINT)"
                log.warning("spans.not_taken", endpoint=self._endpoint, waiting=len(self._waiting), hint=hint)

    def _send(self, batch: list[Span]) -> bool:
        try:
            return self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("spans.bug")
            return False

    def _readable(self, span: Span) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        events = []
        if span.failure is not None:
            exception = {
                "exception.type": span.failure.type or span.failure.code,
                "exception.message": span.failure.message,
            }
            if span.failure.traceback:
                exception["exception.stacktrace"] = span.failure.traceback
            events.append(Event("exception", exception, timestamp=span.end_ns))
        return ReadableSpan(
            span.name,
            context=_context(trace_id, span.span_id),
            parent=_context(trace_id, span.parent, remote=span.remote) if span.parent else None,
            resource=self._resource,
            attributes=span.attributes,
            events=events,
            links=[Link(_context(trace_id, link)) for link in span.links],
            kind=SpanKind.CONSUMER if span.remote else SpanKind.CLIENT if span.outgoing else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: int, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))
