import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from planmesh.connection import Connection, connect
from planmesh.embedded import EmbeddedServer, embedded_server

MAX_PAYLOAD_BYTES = 1024 * 1024

ACCOUNTS = """
accounts {
  SYSTEM { users: [] }
  CORE {
    jetstream: enabled
    users: [
      {user: service, password: secret}
      {user: confined, password: secret, permissions: {publish: ["mine.>"], subscribe: ["_INBOX.confined.>"]}}
    ]
    exports: [
      {service: "$JS.API.CONSUMER.MSG.NEXT.DATA.guest", response_type: stream, accounts: [GUESTS]}
      {service: "$JS.ACK.DATA.guest.>", accounts: [GUESTS]}
    ]
  }
  GUESTS {
    users: [{user: guest, password: secret}]
    imports: [
      {service: {account: CORE, subject: "$JS.API.CONSUMER.MSG.NEXT.DATA.guest"}}
      {service: {account: CORE, subject: "$JS.ACK.DATA.guest.>"}}
    ]
  }
}
"""


class PlainServer:
    """A server without planmesh's streams, which can be stopped, killed and started again on its port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self._port = 0
        self._running = contextlib.AsyncExitStack()
        self._server: EmbeddedServer | None = None
        self._pid = 0

    async def start(self) -> None:
        running = embedded_server(
            self.directory, port=self._port, sync_interval="2m", max_payload_bytes=MAX_PAYLOAD_BYTES
        )
        self._server = await self._running.enter_async_context(running)
        self._pid = self._server.pid
        self.url = self._server.url
        self._port = int(self.url.rpartition(":")[2])

    async def pause(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        while psutil.Process(self._pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    async def kill(self) -> None:
        assert self._server is not None
        os.kill(self._pid, signal.SIGKILL)
        await self._server.wait()
        await self._running.aclose()

    async def stop(self) -> None:
        await self._running.aclose()

    async def connect(self, user: str = "service") -> Connection:
        return await connect(self.url, user, "secret", name="test")

    async def stream(self, admin: Connection, name: str, *of: str, **settings: Any) -> None:
        await self._api(admin, f"STREAM.CREATE.{name}", {"name": name, "subjects": of, **settings})

    async def consumer(
        self, admin: Connection, stream: str, name: str, *, ack_wait_s: float = 30, **settings: Any
    ) -> None:
        durable = {"durable_name": name, "ack_policy": "explicit", "ack_wait": int(ack_wait_s * 1e9), "max_deliver": -1}
        asked = {"stream_name": stream, "config": {**durable, **settings}}
        await self._api(admin, f"CONSUMER.CREATE.{stream}.{name}", asked)

    async def _api(self, admin: Connection, verb: str, asked: dict[str, Any]) -> None:
        answer = json.loads(await admin.request(f"$JS.API.{verb}", json.dumps(asked).encode()))
        assert "error" not in answer, answer["error"]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PlainServer]:
    directory = tmp_path / "nats"
    directory.mkdir()
    (directory / "accounts.conf").write_text(ACCOUNTS)
    server = PlainServer(directory)
    await server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.go_on()
        await server.stop()
