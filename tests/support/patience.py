"""Waiting for what somebody else does without telling."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(check: Callable[[], Any], timeout_s: float = 10) -> Any:
    """What *check* gives, as soon as that is true: for what another process does without telling us."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = check()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
