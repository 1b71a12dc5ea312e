"""What an agent, or a tool, may know of the attempt that it works for, what it may call, and what it may tell of it."""

import asyncio
import contextlib
import inspect
import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import msgspec
import structlog

from planmesh.calling import awaited, called
from planmesh.schemas.codec import describe
from planmesh.schemas.plan import Permissions
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import MAX_CALLS, MAX_DENIALS, MAX_TOKENS, Call, Denial, ToolDescription

_LINE_CHARACTERS = 200
_WHY_CHARACTERS = 1_000
_MESSAGE_CHARACTERS = 500
_WHO = "the tool"

log = structlog.get_logger()


class ToolError(Exception):
    """Why a call of a tool gave nothing, in words for whoever called it: a model, as a rule."""


class Cancellation(threading.Event):
    """Set when the plan no longer wants the output. A thread looks at it; a coroutine may wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Callable[[], object]] = []
        self._changing = threading.Lock()

    def set(self) -> None:
        with self._changing:
            super().set()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    async def heard(self) -> None:
        """Wait until it is set, from whichever loop."""
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(heard.set)

        with self._changing:
            if self.is_set():
                return
            self._waiting.append(wake)
        await heard.wait()


@dataclass(eq=False, slots=True)
class Calling:
    """A call that is under way. Whoever makes it says how many tokens it took."""

    kind: Literal["model", "tool"]
    name: str
    started_at: datetime
    started: float
    input_tokens: int = 0
    output_tokens: int = 0

    def as_call(self, *, ok: bool) -> Call:
        return Call(
            kind=self.kind,
            name=self.name,
            started_at=self.started_at,
            duration_s=time.monotonic() - self.started,
            ok=ok,
            input_tokens=min(max(0, self.input_tokens), MAX_TOKENS),
            output_tokens=min(max(0, self.output_tokens), MAX_TOKENS),
        )


class Journal:
    """What an attempt has called, and what it was denied: the log has it, once the attempt has ended.

    Beyond as many as a message may hold, nothing more is noted. For any thread.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._open: dict[Calling, None] = {}
        self._denials: list[Denial] = []
        self._numbers = itertools.count(1)
        self._changing = threading.Lock()

    @property
    def calls(self) -> tuple[Call, ...]:
        """In the order in which they ended; then those that have not, as if they had failed now."""
        with self._changing:
            return (*self._calls, *(one.as_call(ok=False) for one in self._open))[:MAX_CALLS]

    @property
    def denials(self) -> tuple[Denial, ...]:
        with self._changing:
            return tuple(self._denials)

    def number(self) -> int:
        """The next number of a call of a tool, from 1."""
        return next(self._numbers)

    def begin(self, call: Calling) -> None:
        with self._changing:
            self._open[call] = None

    def end(self, call: Calling, *, ok: bool) -> None:
        with self._changing:
            del self._open[call]
            if len(self._calls) < MAX_CALLS:
                self._calls.append(call.as_call(ok=ok))

    def deny(self, denial: Denial) -> None:
        with self._changing:
            if len(self._denials) < MAX_DENIALS:
                self._denials.append(denial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an agent or a tool may know of the attempt that it works for: a parameter that is annotated with this type
    is given it.
    """

    address: Address
    step: str
    attempt: int
    key: str
    """The idempotency key: pass it on to whatever is called. A tool gets one of its own for each call."""
    permissions: Permissions
    """Of the step; to a tool, what it declares."""
    traceparent: str | None = None
    cancelled: Cancellation = field(default_factory=Cancellation)
    """Set when the plan no longer wants the output. A long-running agent looks at it, and returns."""
    tools: "Mapping[str, Tool]" = field(default_factory=dict)
    """The tools that the step names, and whose declared permissions it grants: see `call`."""
    report: Callable[[str, Any], None] = field(default=lambda _text, _data: None, repr=False)
    hide: Callable[[str], str] = field(default=lambda text: text, repr=False)
    """Takes the secrets that the attempt was given out of a text that is for the worker's own log."""
    journal: Journal = field(default_factory=Journal, repr=False)
    threads: Executor | None = field(default=None, repr=False)
    """Where tools run that are not async; None: the loop's own threads."""

    @property
    def plan(self) -> str:
        return self.address.plan

    def progress(self, text: str, data: object = None) -> None:
        """Tell whoever watches how far it is. A hint: it may be lost, and is not in the log."""
        self.report(text, data)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> object:
        """Call a tool by name. Arguments, errors and names may be a model's: nothing about them is trusted.

        A tool that is not among `tools` is not called, whatever it is: the log has a line that says so.

        Raises:
            ToolError: There is no such tool here, the arguments do not fit, or it failed or took too long. The text is
                for whoever wanted the call.
        """
        found = self.tools.get(tool)
        if found is None:
            self.denied_tool(tool)
            raise ToolError(f"you have no tool of this name; your tools are: {', '.join(self.tools) or 'none'}")
        return await found.call(self, arguments)

    def denied_tool(self, tool: str) -> None:
        """Note that somebody wanted a tool that is not among `tools`."""
        self.denied(f"tool {tool}", f"the tools of this step are: {', '.join(self.tools) or 'none'}")

    def denied(self, what: str, why: str) -> None:
        """Note that the attempt wanted to do *what*, and was not permitted to: a line of the plan's log."""
        self.journal.deny(Denial(what=line_of(what), why=why[:_WHY_CHARACTERS]))

    @contextlib.contextmanager
    def calling(self, kind: Literal["model", "tool"], name: str) -> Iterator[Calling]:
        """Note a call of a model or a tool, which lasts as long as the block and fails if that raises.

        The plan's log counts it, and its trace has a span of it.
        """
        call = Calling(kind, line_of(name), datetime.now(UTC), time.monotonic())
        self.journal.begin(call)
        ok = False
        try:
            yield call
            ok = True
        finally:
            self.journal.end(call, ok=ok)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what it declares.

    Attributes:
        arguments: A struct: what its arguments are checked against.
        timeout_s: How long one call may take.
    """

    description: ToolDescription
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    context_parameter: str | None
    timeout_s: float

    @property
    def name(self) -> str:
        return self.description.name

    async def call(self, context: Context, arguments: Mapping[str, Any]) -> object:
        """Call it for the attempt of *context*, whose journal notes the call. Raises: ToolError."""
        with context.calling("tool", self.name):
            return await self._run(context, self._checked(arguments))

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: ToolError."""
        try:
            given = msgspec.convert(arguments, self.arguments)
        except msgspec.ValidationError as error:
            what, pointer = describe(error)
            at = f" at {pointer}" if pointer else ""
            raise ToolError(f"the arguments of {self.name} do not fit: {_clipped(what)}{at}") from None
        # What was left out is left to the function.
        return {
            name: value
            for name in self.arguments.__struct_fields__
            if (value := getattr(given, name)) is not msgspec.UNSET
        }

    async def _run(self, context: Context, given: dict[str, Any]) -> object:
        if self.context_parameter is not None:
            given[self.context_parameter] = replace(
                context,
                key=f"{context.key}.{context.journal.number()}",
                permissions=self.description.permissions,
                tools={},
            )
        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                if inspect.iscoroutinefunction(self.function):
                    return await awaited(self.function, given, _WHO)
                run = partial(copy_context().run, called, self.function, given, _WHO)
                return await asyncio.get_running_loop().run_in_executor(context.threads, run)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ToolError(f"{self.name} failed: something that it waited for was cancelled") from None
        except ToolError:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                effect = "" if self.description.idempotent else "; it may have had its effect all the same"
                raise ToolError(f"{self.name} gave no answer within {self.timeout_s:g} s{effect}") from None
            said = context.hide("".join(traceback.format_exception(error)).rstrip("\n"))
            log.warning("tool.failed", tool=self.name, key=context.key, exception=said)
            raise ToolError(f"{self.name} failed: {type(error).__name__}: {_clipped(str(error))}") from error


def _clipped(text: str) -> str:
    return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]} …"


def line_of(text: str) -> str:
    """*text* as one line that may be in a message: short, with a mark in place of whatever hides or reorders text."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:_LINE_CHARACTERS])
