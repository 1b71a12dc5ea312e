"""Agents that a test can hold in the middle of a step. What they do is seen in the directory FLOW_DIRECTORY."""

import asyncio
import os
from pathlib import Path
from typing import Any

from planmesh import Context, agent


@agent(idempotent=True)
async def echo(value: Any = None) -> Any:
    """Give back what is given."""
    return value


@agent(idempotent=True)
async def swell(size: int) -> str:
    """Give back more than the log holds inline."""
    return "x" * size


@agent(idempotent=True)
async def nap() -> None:
    """Take as long as the test says."""
    await asyncio.sleep(float(os.environ.get("FLOW_NAP_S", "0")))


@agent(idempotent=True)
async def hold(context: Context, size: int = 0) -> str:
    """Begin, and end when the test lets it."""
    await _held(context)
    return "x" * size


@agent
async def pay(context: Context) -> str:
    """The same, and nothing that may be done twice."""
    await _held(context)
    return "paid"


@agent(idempotent=True)
def fragile(source: str) -> str:
    """Fail, if the test has broken the source."""
    if (Path(os.environ["FLOW_DIRECTORY"]) / f"broken-{source}").exists():
        raise ConnectionError(f"no answer from {source}")
    return source


async def _held(context: Context) -> None:
    directory = Path(os.environ["FLOW_DIRECTORY"])
    with (directory / "begun").open("a", encoding="utf-8") as file:
        file.write(f"{context.key}\n")
    while not (directory / context.key).exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.01)
