"""How soon people hear of gates, and what a thousand open gates cost: ``python tests/bench/bench_notices.py``.

Prints one JSON line: a gate opens -> its notice arrives, in milliseconds; all of 1,000 that open at once, and of 100 at
ten channels of which one never answers, in seconds; the gatekeeper's memory, in MB.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from planmesh.client import Client, Operator
from planmesh.schemas.events import GateOpened
from planmesh.schemas.subjects import Address
from planmesh.supervision import LocalMesh, local_mesh

Figures = dict[str, Any]
GATED: Figures = {"name": "gated", "steps": [{"kind": "gate", "name": "ask", "prompt": "Go on?"}]}


class Receiver:
    """A web server on 127.0.0.1 that notes when what was posted to it has arrived.

    Args:
        answers_after_s: How long it takes to answer; None: it never does.
    """

    def __init__(self, answers_after_s: float | None = 0.0) -> None:
        self.answers_after_s = answers_after_s
        self.at = ""
        self.arrivals: dict[str, float] = {}
        self.count = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived = time.time()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            text = json.loads(await reader.readexactly(length))["message"]
            self.count += 1
            plan = text.partition(", as plan ")[2].partition(".\n")[0].rpartition(".")[2]
            self.arrivals.setdefault(plan, arrived)
            await asyncio.sleep(3_600 if self.answers_after_s is None else self.answers_after_s)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def mesh_with(*receivers: Receiver) -> AsyncIterator[tuple[LocalMesh, Client, Operator]]:
    async with AsyncExitStack() as stack:
        for receiver in receivers:
            server = await asyncio.start_server(receiver.take, "127.0.0.1", 0, backlog=1_000)
            stack.callback(server.close)
            receiver.at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="planmesh-bench-"))
        environment = {
            "PLANMESH_LOG_LEVEL": "warning",
            "PLANMESH_NOTIFY_URLS": " ".join(f"json://{receiver.at}/x" for receiver in receivers),
        }
        mesh = await stack.enter_async_context(
            local_mesh(
                Path(directory) / "mesh", sync_interval="2m", log_dir=Path(directory) / "logs", environment=environment
            )
        )
        client = await stack.enter_async_context(Client.connect(data_dir=mesh.data_dir))
        yield mesh, client, await stack.enter_async_context(Operator.connect(data_dir=mesh.data_dir))


async def open_gates(client: Client, count: int) -> list[Address]:
    return [one.address for one in await asyncio.gather(*(client.submit(GATED) for _ in range(count)))]


async def until(receivers: list[Receiver], count: int, within_s: float = 180) -> None:
    async with asyncio.timeout(within_s):
        while any(len(one.arrivals) < count for one in receivers):  # noqa: ASYNC110 - the gatekeeper is another process
            await asyncio.sleep(0.005)


def resident_mb(mesh: LocalMesh) -> float:
    return round(psutil.Process(mesh.children["gatekeeper"].pid).memory_info().rss / 1e6, 1)


async def one_by_one() -> Figures:
    """Decided that the gate asks -> arrived at the receiver, which is in this process."""
    receiver = Receiver()
    async with mesh_with(receiver) as (mesh, client, operator):
        times = []
        for number in range(60):
            (address,) = await open_gates(client, 1)
            await until([receiver], number + 1)
            async for line in operator.lines(address):
                if any(isinstance(event, GateOpened) for event in line.commit.events):
                    times.append((receiver.arrivals[address.plan] - line.commit.at.timestamp()) * 1_000)
        ordered = sorted(times[10:])
        return {
            "ms": {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[-1], 1)},
            "gatekeeper_mb": resident_mb(mesh),
        }


async def all_at_once(gates: int, *receivers: Receiver) -> Figures:
    """Goals published -> every notice has arrived where somebody answers."""
    async with mesh_with(*receivers) as (mesh, client, _):
        before_mb = resident_mb(mesh)
        begun = time.time()
        await open_gates(client, gates)
        submitted_s = time.time() - begun
        prompt = [one for one in receivers if one.answers_after_s == 0.0]
        await until(prompt, gates)
        prompt_s = max(max(one.arrivals.values()) for one in prompt) - begun
        slow = [one for one in receivers if one.answers_after_s]
        await until(slow, gates)
        peak_mb = resident_mb(mesh)
        await asyncio.sleep(1)
        return {
            "notices": sum(one.count for one in receivers),
            "goals_submitted_s": round(submitted_s, 1),
            "prompt_channels_s": round(prompt_s, 1),
            **({"slow_channel_s": round(max(max(one.arrivals.values()) for one in slow) - begun, 1)} if slow else {}),
            "gatekeeper_mb": {"before": before_mb, "with_all_open": peak_mb},
        }


async def notices() -> Figures:
    return {
        "one_by_one": await one_by_one(),
        "1,000 gates, 1 channel of 2 takes 0.1 s": await all_at_once(1_000, Receiver(), Receiver(0.1)),
        "100 gates, 1 channel of 10 never answers": await all_at_once(
            100, *(Receiver() for _ in range(9)), Receiver(None)
        ),
    }


if __name__ == "__main__":
    print(json.dumps({"workload": "notices", **asyncio.run(notices())}))
