"""What an agent, or a tool, may know of the attempt that it works for, and what it may tell of it."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from planmesh.schemas.plan import Permissions
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import MAX_CALLS, MAX_DENIALS, MAX_TOKENS, Call, Denial

if TYPE_CHECKING:
    from planmesh.tools import Tool

_LINE_CHARACTERS = 200
_WHY_CHARACTERS = 1_000


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


class Journal:
    """What an attempt has called, and what it was denied: the log has it, once the attempt has ended.

    Beyond as many as a message may hold, nothing more is noted.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._denials: list[Denial] = []
        self._numbers = itertools.count(1)

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls[:MAX_CALLS])

    @property
    def denials(self) -> tuple[Denial, ...]:
        return tuple(self._denials[:MAX_DENIALS])

    def number(self) -> int:
        """The next number of a call of a tool, from 1."""
        return next(self._numbers)

    def add_call(self, call: Call) -> None:
        if len(self._calls) < MAX_CALLS:
            self._calls.append(call)

    def add_denial(self, denial: Denial) -> None:
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
            named = ", ".join(self.tools) or "none"
            self.denied(f"tool {tool}", f"the tools of this step are: {named}")
            raise ToolError(f"you have no tool of this name; your tools are: {named}")
        return await found.call(self, arguments)

    def denied(self, what: str, why: str) -> None:
        """Note that the attempt wanted to do *what*, and was not permitted to: a line of the plan's log."""
        self.journal.add_denial(Denial(what=line_of(what), why=why[:_WHY_CHARACTERS]))

    def called(
        self,
        kind: Literal["model", "tool"],
        name: str,
        started_at: datetime,
        duration_s: float,
        *,
        ok: bool = True,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """Note a call of a model or a tool: the plan's log counts it, and its trace has a span of it."""
        self.journal.add_call(
            Call(
                kind=kind,
                name=line_of(name),
                started_at=started_at,
                duration_s=max(0.0, duration_s),
                ok=ok,
                input_tokens=min(max(0, input_tokens), MAX_TOKENS),
                output_tokens=min(max(0, output_tokens), MAX_TOKENS),
            )
        )


def line_of(text: str) -> str:
    """*text* as one line that may be in a message: short, without what hides or reorders text."""
    return "".join(character for character in text[:_LINE_CHARACTERS] if character.isprintable())
