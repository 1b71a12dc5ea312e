"""Agents that take a moment, sometimes fail, and write down each time that they begin and end."""

import asyncio
import hashlib
import os
import random
from pathlib import Path
from typing import Any

from planmesh import Context, agent
from planmesh.agents import Rejected

DIRECTORY = Path(os.environ.get("CHAOS_DIRECTORY", "."))
CALM = DIRECTORY / "calm"
EFFECTS = DIRECTORY / "effects"


@agent(name="agent")
async def work(context: Context, **inputs: Any) -> dict[str, Any]:
    """Take a moment; what comes of it depends on the attempt alone. In calm times, it succeeds."""
    note(context.key, "begins")
    draw = random.Random(hashlib.sha256(context.key.encode()).digest())
    await asyncio.sleep(draw.expovariate(8))
    fate = draw.random()
    if not CALM.exists():
        if fate < 0.03:
            raise Rejected("it will never work")
        if fate < 0.10:
            raise RuntimeError("it broke")
    note(context.key, "ends")
    # Now and then, more than the log holds inline.
    return {"n": draw.randint(0, 2), "key": context.key, "much": "x" * (20_000 if fate > 0.9 else 0)}


@agent
async def substitute(context: Context, **inputs: Any) -> dict[str, Any]:
    """Do the same in its place."""
    return await work(context, **inputs)


def note(key: str, what: str) -> None:
    """One write, which the system does not mix with those of other processes."""
    number = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(number, f"{key} {what}\n".encode())
    finally:
        os.close(number)
