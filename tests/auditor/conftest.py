import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from auditor_tables import Audited

from planmesh.auditor.service import Follower, audit
from planmesh.auditor.store import Database, Store
from planmesh.connection import Connection, connect
from planmesh.schemas import codec, queries, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import Commit
from planmesh.testing import MeshServer


@pytest.fixture
def tables_in(tmp_path: Path) -> Iterator[Callable[..., Audited]]:
    """Opens tables in a file of that name."""
    opened: list[Audited] = []

    def open_(name: str = "auditor.db") -> Audited:
        opened.append(Audited(tmp_path / name))
        return opened[-1]

    yield open_
    for one in opened:
        one.database.close()


class Desk:
    """An auditor's desk: a server with a log that the test writes, and the tables that an auditor makes of it."""

    def __init__(self, server: MeshServer, path: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self.path = path
        self.url = f"sqlite:///{path}"
        self._stack = stack
        self._connections: dict[str, Connection] = {}

    async def connected(self, user: str) -> Connection:
        if user not in self._connections:
            who = self.server.credentials(user)
            opening = await connect(who.server, who.user, who.password, name=user)
            self._connections[user] = await self._stack.enter_async_context(opening)
        return self._connections[user]

    async def write(self, *log: tuple[Commit, str]) -> None:
        """Append commits as an executor would."""
        for commit, _ in log:
            await self.write_bytes(encode(commit), subjects.plan_log(commit.address))

    async def write_bytes(self, data: bytes, subject: str) -> None:
        executor = await self.connected("executor")
        await executor.publish(subject, data)

    async def follower(self, **options: Any) -> Follower:
        database = Database(self.url)
        self._stack.callback(database.close)
        return Follower(await self.connected("auditor"), Store(database), **options)

    def running(self, **options: Any) -> "RunningAuditor":
        return RunningAuditor(self, options)

    async def ask(self, question: queries.Question) -> Any:
        """Ask the auditor over NATS, as an operator."""
        name = next(name for name, (kind, _) in queries.QUERIES.items() if isinstance(question, kind))
        return await self.ask_bytes(name, encode(question))

    async def ask_bytes(self, name: str, question: bytes) -> Any:
        operator = await self.connected("operator-tester")
        data = await operator.request(subjects.query(name), question)
        return codec.Codec[queries.Answer](queries.Answer, trusted=True).decode(data)

    async def until_read(self, sequence: int | None = None, timeout_s: float = 15) -> queries.PositionAnswer:
        """Wait until the tables have the whole log, or as much of it as *sequence*."""
        async with asyncio.timeout(timeout_s):
            while True:
                answer = await self.ask(queries.PositionQuery())
                if isinstance(answer, queries.PositionAnswer) and (
                    answer.lag == 0 if sequence is None else answer.position >= sequence
                ):
                    return answer
                await asyncio.sleep(0.01)

    async def api(self, what: str, payload: object = None) -> dict[str, Any]:
        """An administrator's request to JetStream."""
        admin = await self.connected("admin")
        data = b"" if payload is None else json.dumps(payload).encode()
        answer: dict[str, Any] = json.loads(await admin.request(f"$JS.API.{what}", data))
        assert "error" not in answer, answer
        return answer

    async def acked(self) -> int:
        """The last message that the server will not deliver to the auditor again."""
        return int((await self.api("CONSUMER.INFO.PLANS.auditor"))["ack_floor"]["stream_seq"])


class RunningAuditor:
    """An auditor in a task, for as long as the block lasts."""

    def __init__(self, desk: Desk, options: dict[str, Any]) -> None:
        self._desk = desk
        self._options = options
        self._stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RunningAuditor":
        connection, ready = await self._desk.connected("auditor"), asyncio.Event()
        self.task = asyncio.create_task(
            audit(connection, self._desk.url, self._stop, on_ready=ready.set, **self._options)
        )
        waiting: Awaitable[Any] = asyncio.create_task(ready.wait())
        await asyncio.wait({self.task, waiting}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        return self

    async def ended(self) -> None:
        """Wait until it ends by itself. Raises: what it raises."""
        assert self.task is not None
        await asyncio.wait_for(self.task, 15)

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self._stop.set()
        await asyncio.wait({self.task}, timeout=10)
        if not self.task.done():
            self.task.cancel()
        elif not self.task.cancelled():
            self.task.exception()  # looked at: `ended` is for those who expect one


@pytest.fixture
async def desk(mesh_server: MeshServer, tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(mesh_server, tmp_path / "auditor.db", stack)
