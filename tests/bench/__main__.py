"""Measure a mesh: ``python tests/bench [WORKLOAD …] [--sync always|default] [--repeat N] [--quick]``.

Starts a mesh of its own (server and services as processes), and prints one JSON line a workload. A step is an agent
that does nothing and returns about 100 bytes; the client is one more process on the same two cores.

    chain     100 steps in a row: milliseconds a step
    fan       1 -> 500 -> 1, at most 50 at once: steps a second
    many      200 plans of 1 -> 8 -> 1 at once: plans and steps a second, latency of a plan
    submit    goal published -> first step started: milliseconds
    gate      decision published -> next step started: milliseconds
    pause     pause published -> the line of the log that says so: milliseconds; and steps begun after it
    load      a plan of 2,000 steps read from its log, by somebody who knows nothing of it: milliseconds
    recovery  kill -9 of the executor at step 50 of the chain: seconds to go on, and steps that ran twice
    memory    proportional set size of all processes, idle and after `many`: MB
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil

from planmesh.client import Client, Operator, new_command_id
from planmesh.schemas import codec, subjects
from planmesh.schemas.commands import CastVote, PausePlan, ResumePlan, verb_of
from planmesh.schemas.events import Commit, GateOpened, PlanPaused, StepCompleted, StepDispatched
from planmesh.schemas.subjects import Address
from planmesh.supervision import LocalMesh, local_mesh

HERE = Path(__file__).parent
Figures = dict[str, Any]


def task(name: str, *after: str) -> Figures:
    return {"kind": "task", "name": name, "agent": "noop", "after": list(after)}


def chain(steps: int = 100) -> Figures:
    return {
        "name": "chain",
        "steps": [task(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(steps)],
    }


def fan(width: int, limit: int) -> Figures:
    middle = [task(f"m{number}", "first") for number in range(width)]
    last = task("last", *(step["name"] for step in middle))
    return {"name": "fan", "concurrency": limit, "steps": [task("first"), *middle, last]}


class Bench:
    def __init__(self, mesh: LocalMesh, client: Client, operator: Operator, starts: Path, repeat: int) -> None:
        self.mesh = mesh
        self.client = client
        self.operator = operator
        self.starts = starts
        self.repeat = repeat

    async def took_s(self, plan: Figures) -> float:
        started = time.perf_counter()
        await (await self.client.submit(plan)).result(120)
        return time.perf_counter() - started

    async def chain(self) -> Figures:
        times = [await self.took_s(chain()) for _ in range(self.repeat)]
        return {"ms_a_step": round(statistics.median(times) * 10, 2), "runs": [round(t * 10, 2) for t in times]}

    async def fan(self) -> Figures:
        rates = [502 / await self.took_s(fan(500, 50)) for _ in range(self.repeat)]
        return {"steps_a_second": round(statistics.median(rates)), "runs": [round(rate) for rate in rates]}

    async def many(self) -> Figures:
        runs = []
        for _ in range(self.repeat):
            started = time.perf_counter()
            times = await asyncio.gather(*(self.took_s(fan(8, 100)) for _ in range(200)))
            runs.append((time.perf_counter() - started, times))
        wall_s, times = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
        return {
            "plans_a_second": round(200 / wall_s),
            "steps_a_second": round(2_000 / wall_s),
            "latency_s": _percentiles(times, 3),
            "runs": [round(2_000 / wall_s) for wall_s, _ in runs],
        }

    async def submit(self) -> Figures:
        times = []
        for _ in range(50):
            published_ns = time.time_ns()
            submitted = await self.client.submit({"name": "one", "steps": [task("only")]})
            result = (await submitted.result(30)).result.value
            times.append((result["only"]["started_ns"] - published_ns) / 1e6)
        return {"ms": _percentiles(times, 2)}

    async def gate(self) -> Figures:
        plan = {"name": "gated", "steps": [{"kind": "gate", "name": "ask"}, task("behind", "ask")]}
        times = []
        for _ in range(50):
            submitted = await self.client.submit(plan)
            async for outcome in submitted.outcomes():
                if type(outcome).__name__ == "Waiting":
                    break
            state = await self.operator.state(submitted.address)
            opened: GateOpened | None = state.steps["ask"].opened
            assert opened is not None
            vote = CastVote(id=new_command_id(), step="ask", digest=opened.digest, decision="approve")
            published_ns = time.time_ns()
            await self.operator.command(submitted.address, vote)
            result = (await submitted.result(30)).result.value
            times.append((result["behind"]["started_ns"] - published_ns) / 1e6)
        return {"ms": _percentiles(times, 2)}

    async def pause(self) -> Figures:
        """While 50 steps of the plan run at once."""
        times, begun_after = [], 0
        submitted = await self.client.submit(fan(5_000, 50))
        address = submitted.address
        heard: asyncio.Queue[Commit] = asyncio.Queue()
        interest = await self.operator.connection.listen(
            subjects.plan_log(address), lambda message: heard.put_nowait(codec.commit.decode(message.data))
        )
        while len((await heard.get()).events) < 10:  # until it is well under way
            pass
        for kind in [PausePlan, ResumePlan] * 20:
            await asyncio.sleep(0.03)
            command = kind(id=new_command_id())
            subject = subjects.command(address, verb_of(command), self.operator.name)
            while not heard.empty():
                heard.get_nowait()
            began = time.perf_counter()
            await self.operator.connection.publish(subject, codec.encode(command))
            commit = await heard.get()
            while not any(cause.id == command.id for cause in commit.causes):
                commit = await heard.get()
            if kind is PausePlan:
                times.append((time.perf_counter() - began) * 1_000)
                paused = [type(event) for event in commit.events].index(PlanPaused)
                begun_after += sum(isinstance(event, StepDispatched) for event in commit.events[paused:])
        await self.operator.connection.unlisten(interest)
        await self.operator.cancel(address)
        return {"ms": _percentiles(times, 2), "steps_begun_after": begun_after}

    async def load(self) -> Figures:
        submitted = await self.client.submit(chain(2_000))  # as many commits as steps
        await submitted.result(120)
        times = []
        for _ in range(20):
            began = time.perf_counter()
            state = await self.operator.state(submitted.address)
            times.append((time.perf_counter() - began) * 1_000)
        return {"ms": _percentiles(times, 1), "commits": state.number}

    async def recovery(self) -> Figures:
        pauses, twice = [], 0
        for _ in range(self.repeat):
            self.starts.write_text("")
            submitted = await self.client.submit(chain())
            pauses.append(await self._pause_after_kill(submitted.address))
            await submitted.result(60)
            twice += sum(count - 1 for count in Counter(self.starts.read_text().split("\n")).values() if count > 1)
        return {
            "seconds_to_go_on": round(statistics.median(pauses), 2),
            "steps_run_twice": twice,
            "runs": [round(pause, 2) for pause in pauses],
        }

    async def _pause_after_kill(self, address: Address) -> float:
        """Seconds from the kill to the first commit that was not there yet."""
        killed: float | None = None
        last = 0
        async for state, commit in self.operator.watch(address):
            if killed is None and any(isinstance(e, StepCompleted) and e.step == "s50" for e in commit.events):
                self.mesh.children["executor"].kill()
                killed = time.perf_counter()
                # What was on its way already does not count.
                await asyncio.sleep(0.05)
                last = (await self.operator.state(address)).number
            elif killed is not None and state.number > last:
                return time.perf_counter() - killed
        raise RuntimeError(f"{address} ended too early")

    async def memory(self) -> Figures:
        await asyncio.sleep(2)
        idle = pss_mb()
        await self.many()
        await asyncio.sleep(3)
        after = pss_mb()
        return {
            "idle_mb": round(sum(idle.values())),
            "after_many_mb": round(sum(after.values())),
            "processes": {name: round(size) for name, size in after.items()},
        }


def pss_mb() -> dict[str, float]:
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        words = process.cmdline()
        name = next((word.removeprefix("planmesh.") for word in words if word.startswith("planmesh.")), words[0])
        if "work" in words:
            name = "worker"
        found[Path(name).name] = found.get(name, 0) + process.memory_full_info().pss / 1e6
    return found


def _percentiles(values: list[float], digits: int) -> Figures:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), digits),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], digits),
    }


async def run(workloads: list[str], sync: str, repeat: int) -> None:
    interval = "always" if sync == "always" else "2m"
    with tempfile.TemporaryDirectory(prefix="planmesh-bench-") as directory:
        starts = Path(directory) / "starts"
        environment = {
            "PYTHONPATH": str(HERE),
            "PLANMESH_LOG_LEVEL": "warning",
            **({"BENCH_STARTS": str(starts)} if workloads == ["recovery"] else {}),
        }
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(
                local_mesh(
                    Path(directory) / "mesh",
                    agents=["bench_agents"],
                    sync_interval=interval,
                    log_dir=Path(directory) / "logs",
                    environment=environment,
                )
            )
            client = await stack.enter_async_context(Client.connect(data_dir=mesh.data_dir))
            operator = await stack.enter_async_context(Operator.connect(data_dir=mesh.data_dir))
            bench = Bench(mesh, client, operator, starts, repeat)
            await bench.took_s(chain(20))  # warm
            for name in workloads:
                work: Callable[[], Awaitable[Figures]] = getattr(bench, name)
                print(json.dumps({"workload": name, "sync": sync, **await work()}), flush=True)


def main() -> None:
    names = ["chain", "fan", "many", "submit", "gate", "pause", "load", "recovery", "memory"]
    parser = argparse.ArgumentParser(
        prog="python tests/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[*names, []], help="all, unless some are named")
    parser.add_argument("--sync", choices=["always", "default"], action="append", help="both, unless one is named")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each workload; the median counts")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    chosen = [name for name in names if name in (arguments.workloads or names)]
    for sync in arguments.sync or ["default", "always"]:
        # Recovery writes down every start, and memory wants a mesh that has done nothing yet: each has its own.
        together = [name for name in chosen if name not in ("recovery", "memory")]
        for group in [together, *([name] for name in chosen if name not in together)]:
            if group:
                asyncio.run(run(group, sync, arguments.repeat))


if __name__ == "__main__":
    main()
