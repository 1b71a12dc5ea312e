"""Agents that are given a secret, and are careless with it. What they were given is seen in FLOW_DIRECTORY, hashed."""

import hashlib
import os
from pathlib import Path

from planmesh import Context, agent, tool


def _note(step: str, key: str) -> None:
    digest = hashlib.sha256(key.encode()).hexdigest()
    with (Path(os.environ["FLOW_DIRECTORY"]) / "given").open("a") as file:
        file.write(f"{step} {digest}\n")


@agent(idempotent=True)
def use_key(key: str, context: Context, who: str = "") -> dict[str, str]:
    """Use a key; report it, and give it back."""
    _note(context.step, key)
    context.progress(f"used {key}", {"key": key})
    return {"used": key, "header": f"Authorization: Bearer {key}", "by": who}


@agent(idempotent=True)
def fail_with_key(key: str, context: Context) -> None:
    """Fail, and say with which key."""
    _note(context.step, key)
    raise ValueError(f"https://shop.example/?key={key} said no to {key!r}")


@tool(idempotent=True)
def try_key(key: str) -> None:
    """Try a key, and say which it was."""
    raise ValueError(f"no lock takes {key}")


@agent(idempotent=True, uses_tools=True)
async def call_with_key(key: str, context: Context) -> None:
    """Have a tool try the key."""
    await context.call("try_key", {"key": key})
