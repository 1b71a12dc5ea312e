"""Start an executor: ``python -m planmesh.executor [--only LOOP,…] [--agents MODULE …]``."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Final, NoReturn

import structlog

from planmesh import credentials, settings, telemetry
from planmesh.agents import find
from planmesh.connection import Connection, connect
from planmesh.errors import PlanmeshError, Unusable
from planmesh.executor.service import LOOPS, steer, work
from planmesh.schemas.subjects import token

_PATIENCE_S: Final = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m planmesh.executor", description=__doc__)
    parser.add_argument("--only", default=",".join(LOOPS), help=f"loops to run, with commas: {', '.join(LOOPS)}")
    parser.add_argument("--agents", action="append", metavar="MODULE", help="a module with agents; may be repeated")
    arguments = parser.parse_args()
    loops = frozenset(arguments.only.split(","))
    if not loops <= set(LOOPS):
        parser.error(f"--only knows {', '.join(LOOPS)}; not {', '.join(sorted(loops - set(LOOPS)))}")
    try:
        configured = settings.load(agents=arguments.agents)
        service = "worker" if loops == {"work"} else "executor"
        telemetry.configure_logging(configured.log_level, configured.log_format, service)
        sys.path.insert(0, "")  # the modules of agents are looked for where the command was typed
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
        asyncio.run(_run(configured, loops))
    except* PlanmeshError as group:
        for error in _each(group):
            sys.stderr.write(f"executor: {error}\n")
        leave(1)
    leave(0)


def leave(status: int) -> NoReturn:
    """End the process, also while agents that were given up on still run in threads, for which Python would wait."""
    ends = time.monotonic() + _PATIENCE_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(ends - time.monotonic(), 0))
            if thread.is_alive():
                structlog.get_logger().warning("agent.left_behind", thread=thread.name)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
    sys.exit(status)


def _each(group: BaseExceptionGroup[PlanmeshError]) -> Iterator[PlanmeshError]:
    """The errors themselves: loops are tasks of tasks, and so are the groups of their errors."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


async def _run(configured: settings.Settings, loops: frozenset[str]) -> None:
    stop, limits = asyncio.Event(), configured.limits
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:

        async def connected(user: str) -> Connection:
            who = credentials.read_credentials(configured.credentials_dir, user, configured.server)
            connection = await connect(who.server, who.user, who.password, name=user)
            return await stack.enter_async_context(connection)

        async with asyncio.TaskGroup() as tasks:
            if loops - {"work"}:
                core, agents = await connected("executor"), await connected("executor-agents")
                tasks.create_task(
                    steer(
                        core,
                        agents,
                        stop,
                        loops=loops,
                        gate_sla_s=configured.gate_sla_s,
                        escalate_to=configured.directory.escalate_to or "",
                        inline_output_bytes=limits.inline_output_bytes,
                        inline_inputs_bytes=limits.inline_inputs_bytes,
                    )
                )
            if "work" in loops:
                found = find(configured.agents)
                if not found:
                    raise Unusable("there are no agents to run: name a module with --agents, or PLANMESH_AGENTS")
                hosts = {name: await connected(f"agent-{token('agent', name)}") for name in found}
                tasks.create_task(
                    work(
                        found,
                        hosts,
                        stop,
                        inline_output_bytes=limits.inline_output_bytes,
                        stop_patience_s=configured.stop_patience_s,
                    )
                )


if __name__ == "__main__":
    main()
