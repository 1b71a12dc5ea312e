"""Agents that do nothing, and return about 100 bytes."""

import asyncio
import os
import time
from typing import Any

from planmesh import Context, agent


@agent(idempotent=True)
async def noop(context: Context) -> dict[str, Any]:
    _note(context)
    return {"started_ns": time.time_ns(), "text": "x" * 60}


@agent(idempotent=True)
async def slow(context: Context) -> None:
    """Long enough to be killed in the middle."""
    _note(context)
    await asyncio.sleep(1)


def _note(context: Context) -> None:
    """Each start, where the recovery workload asks for it: what ran twice is counted."""
    path = os.environ.get("BENCH_STARTS")
    if path:
        with open(path, "a") as file:  # noqa: PTH123 - the cheapest way
            file.write(f"{context.key} {os.getpid()} {time.time_ns()}\n")
