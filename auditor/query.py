"""The questions on ``query.<name>``, and their answers: a NATS micro service (ADR-32), so `nats micro` can see it.

Every answer is JSON: the answer asked for, or a `QueryError`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec
import nats.errors
import structlog
from nats.micro.request import Request
from nats.micro.service import Service, ServiceConfig

import planmesh
from planmesh.auditor.read import Reader, Refused
from planmesh.connection import Connection
from planmesh.errors import Busy, Conflict, PlanmeshError
from planmesh.schemas import subjects
from planmesh.schemas.codec import Codec, DecodeError, encode
from planmesh.schemas.queries import QUERIES, Answer, PositionAnswer, QueryError, Question

_AT_ONCE: Final = 4
_WAITING: Final = 200
_QUESTION_BYTES: Final = 64 * 1024

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def answering(
    connection: Connection,
    reader: Reader,
    last_sequence: Callable[[], Awaitable[int]],
    spans_dropped: Callable[[], int],
) -> AsyncIterator[None]:
    """Answer until the block ends.

    Args:
        connection: The auditor's.
        reader: The tables.
        last_sequence: Says how far the log goes by now.
        spans_dropped: Says how many spans the collector did not take.
    """
    questions: dict[str, Codec[Question]] = {name: Codec(question) for name, (question, _) in QUERIES.items()}
    at_once = asyncio.Semaphore(_AT_ONCE)
    running: set[asyncio.Task[None]] = set()

    async def answer(name: str, data: bytes) -> Answer:
        if len(running) > _WAITING:
            return QueryError(code="busy", message=f"{_WAITING} questions wait already: ask again later")
        try:
            question = questions[name].decode(data or b"{}", limit_bytes=_QUESTION_BYTES)
        except DecodeError as error:
            at = f" at {error.pointer}" if error.pointer else ""
            return QueryError(code="bad_query", message=f"query.{name}: {error}{at}")
        async with at_once:
            last = await last_sequence()
            try:
                found = await asyncio.to_thread(reader.answer, question, last)
            except Refused as refused:
                return refused.error
        if isinstance(found, PositionAnswer):
            found = msgspec.structs.replace(found, spans_dropped=spans_dropped())
        return found

    async def respond(name: str, request: Request) -> None:
        found: Answer
        try:
            found = await answer(name, request.data)
        except (Busy, Conflict) as error:
            found = QueryError(code="busy", message=str(error))
        except Exception as error:
            log.exception("query.bug", query=name)
            shown = str(error) if isinstance(error, PlanmeshError) else "a bug: the auditor's log has its traceback"
            found = QueryError(code="failed", message=f"query.{name}: {shown}")
        try:
            await request.respond(encode(found))
        except Exception as error:
            log.warning("query.answer_lost", query=name, error=str(error))

    def handler(name: str) -> Callable[[Request], Awaitable[None]]:
        async def handle(request: Request) -> None:
            # One endpoint's handlers run one after the other; a slow answer would hold up the next.
            task = asyncio.create_task(respond(name, request))
            running.add(task)
            task.add_done_callback(running.discard)

        return handle

    config = ServiceConfig(
        name="planmesh-auditor", version=planmesh.__version__, description="What plans did, and are doing"
    )
    service = Service(connection.client, config)
    try:
        with contextlib.suppress(nats.errors.TimeoutError):  # a connection that broke subscribes again when it is back
            await service.start()
        for name in QUERIES:
            await service.add_endpoint(name=name, subject=subjects.query(name), handler=handler(name))
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):  # the connection may be why the block ends
            await service.stop()
        await asyncio.gather(*running, return_exceptions=True)
