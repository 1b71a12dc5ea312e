"""How soon people hear of gates, and what a thousand open gates cost: ``python tests/bench/bench_notices.py [PART …]``.

Prints one JSON line. Parts, all of them unless some are named:

    one_by_one    a gate opens -> its notice has arrived: milliseconds
    thousand      1,000 gates at once, two channels, one of which takes 0.1 s for each: seconds, and the gatekeeper's MB
    dead_channel  1,000 notices, ten channels, one of which takes them and never answers: seconds until the others have
                  theirs. Once as 100 gates that go to all ten, once as 1,000 gates of ten people with a channel each
    inbox         1,000 open gates: the page of somebody who is asked in all of them, and the list of an operator:
                  milliseconds
    decide        an approval is posted to a page -> the step behind the gate has started: milliseconds
"""

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from planmesh.client import Client
from planmesh.operator import Operator
from planmesh.schemas.events import GateOpened, StepCompleted
from planmesh.schemas.queries import GatesQuery
from planmesh.schemas.subjects import Address
from planmesh.supervision import LocalMesh, local_mesh

Figures = dict[str, Any]
HERE = Path(__file__).parent
SECRET = "s" * 32
LISTED = GatesQuery(limit=1_000, brief=True)
REPORT = "One line of a report that somebody has to read.\n" * 160


def gated(*reviewers: str) -> Figures:
    """A plan that asks something before anything else, of whoever hears of everything unless somebody is named."""
    gate = {"kind": "gate", "name": "ask", "prompt": "Go on?", **({"reviewers": list(reviewers)} if reviewers else {})}
    return {"name": "gated", "steps": [gate]}


def weighty(reviewer: str) -> Figures:
    """A plan whose gate shows and releases as much as one of a real plan does: about 8 KB."""
    steps = [{"kind": "ask", "name": f"step-{number}", "after": ["ask"], "prompt": "And?"} for number in range(10)]
    gate = {"kind": "gate", "name": "ask", "prompt": "Pay? " * 80, "show": [REPORT], "reviewers": [reviewer]}
    return {"name": "weighty", "steps": [gate, *steps]}


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
async def mesh_with(
    *receivers: Receiver,
    people: Sequence[str] = (),
    environment: Mapping[str, str] = {},
    agents: Sequence[str] = (),
) -> AsyncIterator[tuple[LocalMesh, Client, Operator]]:
    """A mesh that tells all of *receivers* of everything; or each of *people* by one of them."""
    async with AsyncExitStack() as stack:
        for receiver in receivers:
            server = await asyncio.start_server(receiver.take, "127.0.0.1", 0, backlog=1_000)
            stack.callback(server.close)
            receiver.at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="planmesh-bench-"))
        urls = [f"json://{receiver.at}/x" for receiver in receivers]
        of_each = {person: {"channels": [url]} for person, url in zip(people, urls, strict=False)}
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
            "PLANMESH_LOG_LEVEL": "warning",
            **({"PLANMESH_DIRECTORY": json.dumps({"people": of_each})} if people else {}),
            **({} if people else {"PLANMESH_NOTIFY_URLS": " ".join(urls)}),
            **environment,
        }
        mesh = await stack.enter_async_context(
            local_mesh(
                Path(directory) / "mesh",
                agents=agents,
                sync_interval="2m",
                log_dir=Path(directory) / "logs",
                environment=environment,
            )
        )
        client = await stack.enter_async_context(Client.connect(data_dir=mesh.data_dir))
        yield mesh, client, await stack.enter_async_context(Operator.connect(data_dir=mesh.data_dir))


async def open_gates(client: Client, count: int, people: Sequence[str] = ()) -> list[Address]:
    """As many; each person is asked in every so-manieth."""
    plans = [gated(f"person:{people[number % len(people)]}") if people else gated() for number in range(count)]
    return [one.address for one in await asyncio.gather(*map(client.submit, plans))]


async def until(receivers: Sequence[Receiver], count: int, within_s: float = 180) -> None:
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


async def all_at_once(gates: int, *receivers: Receiver, people: Sequence[str] = ()) -> Figures:
    """Goals published -> every notice has arrived where somebody answers."""
    async with mesh_with(*receivers, people=people) as (mesh, client, _):
        before_mb = resident_mb(mesh)
        begun = time.time()
        await open_gates(client, gates, people)
        submitted_s = time.time() - begun
        each = gates // len(people) if people else gates
        prompt = [one for one in receivers if one.answers_after_s == 0.0]
        await until(prompt, each)
        prompt_s = max(max(one.arrivals.values()) for one in prompt) - begun
        slow = [one for one in receivers if one.answers_after_s]
        await until(slow, each)
        peak_mb = resident_mb(mesh)
        await asyncio.sleep(1)
        return {
            "notices": each * len(receivers),
            "goals_submitted_s": round(submitted_s, 1),
            "prompt_channels_s": round(prompt_s, 1),
            **({"slow_channel_s": round(max(max(one.arrivals.values()) for one in slow) - begun, 1)} if slow else {}),
            "gatekeeper_mb": {"before": before_mb, "with_all_open": peak_mb},
        }


async def thousand() -> Figures:
    return await all_at_once(1_000, Receiver(), Receiver(0.1))


async def dead_channel() -> Figures:
    def ten() -> list[Receiver]:
        return [*(Receiver() for _ in range(9)), Receiver(None)]

    return {
        "100 gates x 10 channels": await all_at_once(100, *ten()),
        "1,000 gates, 10 people": await all_at_once(1_000, *ten(), people=[f"p{number}" for number in range(10)]),
    }


async def inbox(gates: int = 1_000, times: int = 100) -> Figures:
    """What reading costs while nothing else happens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pages = {"PLANMESH_WEB_PORT": str(port), "PLANMESH_SIGN_IN__SECRET": SECRET}
    headers = {"X-Forwarded-Email": "ada", "X-Planmesh-Proxy-Secret": SECRET}
    receiver = Receiver()
    async with (
        mesh_with(receiver, people=["ada"], environment=pages) as (mesh, client, operator),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http,
    ):

        async def read() -> None:
            answer = (await http.get("/inbox")).raise_for_status()
            assert f"{gates:,} things" in answer.text

        async def list_() -> None:
            assert len((await operator.gates(LISTED)).gates) == gates

        await asyncio.gather(*(client.submit(weighty("person:ada")) for _ in range(gates)))
        await until([receiver], gates)
        await asyncio.sleep(5)
        return {
            "page_ms": await timed(read, times),
            "list_ms": await timed(list_, times),
            "gatekeeper_mb": resident_mb(mesh),
        }


async def decide(times: int = 60) -> Figures:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pages = {"PLANMESH_WEB_PORT": str(port), "PLANMESH_SIGN_IN__SECRET": SECRET}
    headers = {"X-Forwarded-Email": "ada", "X-Planmesh-Proxy-Secret": SECRET, "Sec-Fetch-Site": "same-origin"}
    gate = {"kind": "gate", "name": "ask", "reviewers": ["person:ada"]}
    step = {"kind": "task", "name": "next", "after": ["ask"], "agent": "noop"}
    async with (
        mesh_with(Receiver(), people=["ada"], environment=pages, agents=["bench_agents"]) as (_, client, operator),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as http,
    ):
        found = []
        for _ in range(times):
            address = (await client.submit({"name": "one", "steps": [gate, step]})).address
            where = f"/gates/{address.space}/{address.plan}/ask"
            await until_done(operator, address, 0)
            page = (await http.get(where)).raise_for_status()
            token = page.text.partition('name="form" value="')[2].partition('"')[0]
            begun = time.time()
            answer = await http.post(where, data={"form": token, "decision": "approve"}, headers={"Origin": "null"})
            assert answer.status_code == 303, answer.status_code
            output = await until_done(operator, address, 1)
            found.append(output["started_ns"] / 1e6 - begun * 1_000)
        return {"started_ms": percentiles(found[10:])}


async def until_done(operator: Operator, address: Address, count: int) -> Any:
    """What the latest of *count* steps has given, once they are completed; of none: once the plan's gate is open."""
    async with asyncio.timeout(30):
        while True:
            events = [event async for line in operator.lines(address) for event in line.commit.events]
            given = [event.output.value for event in events if isinstance(event, StepCompleted)]
            if any(isinstance(event, GateOpened) for event in events) and len(given) >= count:
                return given[-1] if given else None
            await asyncio.sleep(0.005)


async def timed(act: Callable[[], Awaitable[None]], times: int) -> Figures:
    """Milliseconds that *act* takes, after it has been done a few times."""
    found = []
    for number in range(times + 5):
        begun = time.perf_counter()
        await act()
        if number >= 5:
            found.append((time.perf_counter() - begun) * 1_000)
    return percentiles(found)


def percentiles(found: Sequence[float]) -> Figures:
    ordered = sorted(found)
    return {"p50": round(statistics.median(ordered), 1), "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1)}


PARTS = {part.__name__: part for part in (one_by_one, thousand, dead_channel, inbox, decide)}


async def measured(names: Sequence[str]) -> Figures:
    return {name: await PARTS[name]() for name in names}


if __name__ == "__main__":
    named = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in named if name not in PARTS]:
        sys.exit(f"there is no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    print(json.dumps({"workload": "notices", **asyncio.run(measured(named))}))
