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
    recovery  kill -9 of the executor that steers, at step 50 of the chain: seconds to go on, steps that ran twice, and
              steps dispatched again after they were completed; kill -9 of one of two workers with 50 steps in hand:
              seconds until each of its steps runs elsewhere. With --executors 2, another one stands by.
    memory    proportional set size of all processes, idle and after `many`: MB
    waiting   10,000 plans of task -> gate -> task, all of which wait for somebody: MB (proportional set size) above a
              mesh that has worked, and has been idle for as long as they have waited by then (400 s): of all processes
              and of each, and of all as soon as the last plan waits; and seconds of processor time in 20 s, of all of
              them, before and meanwhile
    language  without a mesh: a script of 1,000 steps, and of 10,000, compiled; a document of 10,000 steps in JSON
              validated; 1,000 steps formatted: milliseconds; an expression parsed, and evaluated: microseconds
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil

from planmesh import supervision
from planmesh.client import Client, Submitted
from planmesh.operator import Operator
from planmesh.schemas import codec, subjects
from planmesh.schemas.commands import CastVote, PausePlan, ResumePlan, verb_of
from planmesh.schemas.events import Commit, GateOpened, PlanPaused, StepCompleted, StepDispatched
from planmesh.schemas.goals import Waiting
from planmesh.schemas.subjects import Address
from planmesh.steering import new_command_id
from planmesh.supervision import LocalMesh, local_mesh

HERE = Path(__file__).parent
Figures = dict[str, Any]
WAITING = 10_000
"""Plans that wait."""
SETTLE_S = 400
"""The server forgets message ids after two minutes. What it has no more use for it collects every two minutes, while it
has nothing to do, and gives back in three portions: after 360 s, nothing more comes."""
LINKS = 300
"""Steps of the chain in whose middle an executor is killed: so many that it is killed long before the end."""


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
        for _ in range(4):
            took, begun = await self._pauses()
            times += took
            begun_after += begun
        return {"ms": _percentiles(times, 2), "steps_begun_after": begun_after}

    async def _pauses(self) -> tuple[list[float], int]:
        """Of one plan, a few: it must not end meanwhile."""
        times, begun_after = [], 0
        submitted = await self.client.submit(fan(5_000, 50))
        address = submitted.address
        heard: asyncio.Queue[Commit] = asyncio.Queue()
        interest = await self.operator.connection.listen(
            subjects.plan_log(address), lambda message: heard.put_nowait(codec.commit.decode(message.data))
        )
        while len((await heard.get()).events) < 10:  # until it is well under way
            pass
        for kind in [PausePlan, ResumePlan] * 5:
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
        return times, begun_after

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
        return {"executor": await self._recovery_of_executor(), "worker": await self._recovery_of_worker()}

    async def _recovery_of_executor(self) -> Figures:
        pauses, twice, again = [], 0, 0
        for _ in range(self.repeat):
            await self._all_ready()
            self.starts.write_text("")
            submitted = await self.client.submit(chain(LINKS))
            pauses.append(await self._pause_after_kill(submitted.address))
            await submitted.result(60)
            twice += sum(len(begun) - 1 for begun in self._starts().values())
            again += await self._dispatched_again(submitted.address)
        return {
            "seconds_to_go_on": round(statistics.median(pauses), 2),
            "steps_run_twice": twice,
            "completed_steps_dispatched_again": again,
            "runs": [round(pause, 2) for pause in pauses],
        }

    async def _recovery_of_worker(self) -> Figures:
        longest = []
        for _ in range(self.repeat):
            await self._all_ready()
            self.starts.write_text("")
            steps = [{**task(f"s{number}"), "agent": "slow"} for number in range(50)]
            submitted = await self.client.submit({"name": "slow", "steps": steps})
            while len(self._starts()) < 50:  # noqa: ASYNC110 - the workers are other processes
                await asyncio.sleep(0.01)
            victim = self.mesh.children["worker"]
            pid, killed_ns = victim.pid, time.time_ns()
            victim.kill()
            await submitted.result(60)
            lost = [begun for begun in self._starts().values() if begun[0][0] == pid and len(begun) > 1]
            assert lost, "the worker that was killed had nothing in hand"
            longest.append(max(begun[-1][1] - killed_ns for begun in lost) / 1e9)
        return {
            "seconds_until_all_run_elsewhere": round(statistics.median(longest), 2),
            "runs": [round(pause, 2) for pause in longest],
        }

    async def _all_ready(self) -> None:
        """What was killed before is back: each kill is to meet a whole mesh."""
        for child in self.mesh.children.values():
            await child.wait_ready()
        await asyncio.sleep(0.5)

    def _starts(self) -> dict[str, list[tuple[int, int]]]:
        """For each attempt, the processes that have begun it, and when, in nanoseconds."""
        found: dict[str, list[tuple[int, int]]] = {}
        for line in self.starts.read_text().splitlines():
            key, pid, at_ns = line.split()
            found.setdefault(key, []).append((int(pid), int(at_ns)))
        return found

    async def _dispatched_again(self, address: Address) -> int:
        completed: set[str] = set()
        again = 0
        async for line in self.operator.lines(address):
            for event in line.commit.events:
                if isinstance(event, StepCompleted):
                    completed.add(event.step)
                elif isinstance(event, StepDispatched):
                    again += event.step in completed
        return again

    async def _pause_after_kill(self, address: Address) -> float:
        """Seconds from the kill to the first commit that was not there yet."""
        executors = [child for name, child in self.mesh.children.items() if name.startswith("executor")]
        before = {child.name: _cpu_s(child.pid) for child in executors}
        killed: float | None = None
        last = 0
        async for state, commit in self.operator.watch(address):
            if killed is None and any(isinstance(e, StepCompleted) and e.step == "s50" for e in commit.events):
                # The one that steers is the one that has worked.
                max(executors, key=lambda child: _cpu_s(child.pid) - before[child.name]).kill()
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

    async def waiting(self) -> Figures:
        plan = {"name": "gated", "steps": [task("first"), {"kind": "gate", "name": "ask", "after": ["first"]}]}
        plan["steps"].append(task("last", "ask"))
        await self.many()  # what any work takes, waiting does not
        await asyncio.sleep(SETTLE_S)
        idle, idle_cpu_s = pss_mb(), await cpu_s(20)
        began, left = time.perf_counter(), iter(range(WAITING))
        submitted: list[Submitted] = []

        async def submit() -> None:
            for _ in left:
                submitted.append(await self.client.submit(plan))

        await asyncio.gather(*(submit() for _ in range(100)))
        for one in submitted:
            async for outcome in one.outcomes():
                if isinstance(outcome, Waiting):
                    break
        took_s, at_once = time.perf_counter() - began, pss_mb()
        await asyncio.sleep(SETTLE_S)
        waiting_cpu_s, waiting = await cpu_s(20), pss_mb()
        return {
            "plans_a_second": round(WAITING / took_s),
            "idle_mb": round(sum(idle.values())),
            "above_idle_mb": round(sum(waiting.values()) - sum(idle.values())),
            "above_idle_at_once_mb": round(sum(at_once.values()) - sum(idle.values())),
            "processes": {name: round(size - idle.get(name, 0)) for name, size in waiting.items()},
            "cpu_s_in_20_s": {"idle": round(idle_cpu_s, 2), "waiting": round(waiting_cpu_s, 2)},
        }


async def cpu_s(within_s: float) -> float:
    """Seconds of processor time that all processes take in so many seconds."""
    processes = psutil.Process().children(recursive=True)
    before = sum(_cpu_s(process.pid) for process in processes)
    await asyncio.sleep(within_s)
    return sum(_cpu_s(process.pid) for process in processes) - before


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


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


async def run(workloads: list[str], sync: str, repeat: int, executors: int) -> None:
    interval = "always" if sync == "always" else "2m"
    with tempfile.TemporaryDirectory(prefix="planmesh-bench-") as directory:
        starts, recovery = Path(directory) / "starts", workloads == ["recovery"]
        environment = {
            "PYTHONPATH": str(HERE),
            "PLANMESH_LOG_LEVEL": "warning",
            **({"BENCH_STARTS": str(starts)} if recovery else {}),
        }
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(
                local_mesh(
                    Path(directory) / "mesh",
                    agents=["bench_agents"],
                    sync_interval=interval,
                    executors=executors,
                    workers=2 if recovery else 1,
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
                print(json.dumps({"workload": name, "sync": sync, "executors": executors, **await work()}), flush=True)


def main() -> None:
    names = ["chain", "fan", "many", "submit", "gate", "pause", "load", "recovery", "memory", "waiting", "language"]
    parser = argparse.ArgumentParser(
        prog="python tests/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[*names, []], help="all, unless some are named")
    parser.add_argument("--sync", choices=["always", "default"], action="append", help="both, unless one is named")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each workload; the median counts")
    parser.add_argument("--executors", type=int, default=1, help="how many; one steers, the others stand by")
    arguments = parser.parse_args()
    # Each kill is to be the first: whoever is killed often waits longer to be started again.
    supervision._LONG_LIFE_S = 0.0  # type: ignore[misc]
    sys.path.insert(0, str(HERE))
    chosen = [name for name in names if name in (arguments.workloads or names)]
    if "language" in chosen:
        from bench_language import language

        chosen.remove("language")
        print(json.dumps({"workload": "language", **language(arguments.repeat)}), flush=True)
    for sync in arguments.sync or ["default", "always"]:
        # Recovery writes down every start, and memory wants a mesh that has done nothing yet: each has its own.
        together = [name for name in chosen if name not in ("recovery", "memory", "waiting")]
        for group in [together, *([name] for name in chosen if name not in together)]:
            if group:
                asyncio.run(run(group, sync, arguments.repeat, arguments.executors))


if __name__ == "__main__":
    main()
