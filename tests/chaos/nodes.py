"""NATS servers that can be killed, paused and started again where they were: one, or three that are a cluster."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from planmesh.access import SYSTEM
from planmesh.embedded import ACCOUNTS_FILE, MAX_PAYLOAD_BYTES, end_with_parent, server_binary

START_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Node:
    """One server.

    Attributes:
        name: What the cluster calls it.
        store: Where its streams are.
    """

    def __init__(self, name: str, port: int, accounts: Path, store: Path, settings: dict[str, Any]) -> None:
        self.name = name
        self.port = port
        self.store = store
        self._config = accounts.with_name(f"{name}.conf")
        self._process: asyncio.subprocess.Process | None = None
        about = {
            "server_name": name,
            "listen": f"127.0.0.1:{port}",
            "max_payload": MAX_PAYLOAD_BYTES,
            "system_account": SYSTEM,
            "logfile": str(accounts.with_name(f"{name}.log").absolute()),
            **settings,
        }
        about["jetstream"] = {
            "store_dir": str(store.absolute()),
            "max_file_store": 2**50,
            "sync_interval": "2m",
            **settings.get("jetstream", {}),
        }
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in about.items())
        self._config.write_text(f'include "{ACCOUNTS_FILE}"\n' + "".join(lines))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, unless it runs, and wait until it listens."""
        if self.runs:
            return
        self._process = await asyncio.create_subprocess_exec(
            server_binary(),
            "--config",
            self._config,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process.returncode is None, f"{self.name} ended: {self._config.with_suffix('.log')}"
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, number)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        self.send(signal.SIGCONT)
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        self.send(number)
        if self._process is not None:
            await self._process.wait()


@contextlib.asynccontextmanager
async def running_nodes(
    accounts: Path, store: Path, *, count: int = 1, settings: dict[str, Any] | None = None
) -> AsyncIterator[list[Node]]:
    """Run servers until the block ends; several are a cluster.

    Args:
        accounts: The file with the users.
        store: Where their streams are to be.
        settings: What else to say in their configuration.
    """
    ports, routes = free_ports(count), free_ports(count)
    nodes = []
    for index, port in enumerate(ports):
        more: dict[str, Any] = dict(settings or {})
        if count > 1:
            more["cluster"] = {
                "name": "chaos",
                "listen": f"127.0.0.1:{routes[index]}",
                "routes": [f"nats://127.0.0.1:{route}" for route in routes],
            }
        nodes.append(Node(f"node-{index + 1}", port, accounts, store / f"node-{index + 1}", more))
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
