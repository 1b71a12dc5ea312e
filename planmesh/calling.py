"""Calling what strangers wrote, so that whatever it raises ends the call and nothing else."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any


async def awaited(function: Callable[..., Any], arguments: Mapping[str, Any], who: str) -> object:
    """What an async *function* gives. Raises: whatever it does; what would end a process, as a RuntimeError
    that says *who* it was."""
    try:
        return await function(**arguments)
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise _ended(error, who) from error


def called(function: Callable[..., Any], arguments: Mapping[str, Any], who: str) -> object:
    """What *function* gives. Raises: whatever it does; what would end a process or a task, as a
    RuntimeError that says *who* it was."""
    try:
        return function(**arguments)
    except Exception:
        raise
    except BaseException as error:
        raise _ended(error, who) from error


def _ended(error: BaseException, who: str) -> RuntimeError:
    """What is meant to end a process or a task ends a call, and no more."""
    if isinstance(error, SystemExit):
        return RuntimeError(f"{who} called sys.exit({error.code!r})")
    return RuntimeError(f"{who} ended with {type(error).__name__}")
