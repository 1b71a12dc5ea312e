"""What happens to a plan, told while it happens: as a tree that changes on a terminal, as lines everywhere else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from planmesh.cli import history, render
from planmesh.cli.forms import as_line
from planmesh.cli.session import Session, fitted, now, write
from planmesh.cli.standing import stops
from planmesh.cli.tree import Place
from planmesh.cli.view import PlanView, of_state
from planmesh.schemas.events import Commit
from planmesh.schemas.state import PlanState

_REFRESH_S: Final = 0.1
_SHARE: Final = 0.1  # of the time that may go into drawing


class Feed(Protocol):
    """Who tells what happens."""

    def hear(self, state: PlanState, commit: Commit) -> None:
        """The plan has come to *state* by *commit*."""

    def hint(self, step: str, text: str) -> None:
        """An agent says how far it is with *step*."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Be silent, and leave the terminal to somebody else, until the block ends."""


class Tree:
    """The tree of steps, which changes in place. Made by `feed`."""

    def __init__(self, console: Console, command: str | None) -> None:
        self._console = console
        self._command = command
        self._live: Live | None = None
        self._state: PlanState | None = None
        self._view: PlanView | None = None
        self._places: tuple[Place, ...] = ()
        self._hints: dict[str, str] = {}
        self._quiet = False

    def hear(self, state: PlanState, commit: Commit) -> None:
        if state.document is not None and (self._state is None or state.document is not self._state.document):
            self._places = render.places(state.document)
        self._state, self._view = state, None

    def hint(self, step: str, text: str) -> None:
        self._hints[step] = text

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        self._quiet = True
        self.freeze()
        try:
            yield
        finally:
            self._quiet = False

    async def run(self) -> None:
        """Draw, for ever: never more than a part of the time, however large the plan is."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            if not self._quiet:
                self._draw()
            await asyncio.sleep(max(_REFRESH_S, (loop.time() - begun) / _SHARE))

    def _draw(self) -> None:
        if self._state is None:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Group(*self._lines()), refresh=True)

    def freeze(self) -> None:
        """Leave the drawing on the terminal as it is now, above whatever follows."""
        self._draw()
        if self._live is not None:
            self._live.transient = False
        self.stop()

    def stop(self) -> None:
        """Take the drawing off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _lines(self) -> list[Text]:
        assert self._state is not None  # see `run`
        if self._view is None:
            self._view = of_state(self._state)
        view, at = self._view, now()
        head, foot = [Text(), *render.header(view, at), Text()], self._foot(view)
        room = self._console.height - len(head) - len(foot) - 1
        drawn = render.steps(view, self._places, at, most=max(room, 3), hints=self._hints) if self._places else []
        return [fitted(line, self._console) for line in [*head, *drawn, *foot]]

    def _foot(self, view: PlanView) -> list[Text]:
        """How to answer whatever is open, in one line each."""
        if self._command is None:
            return []
        waiting = [stop for stop in stops(view, self._command) if stop.remedies][:3]
        lines = [
            Text().append(f"  {stop.at} ", "magenta" if stop.person else "red").append(stop.remedies[0].command, "cyan")
            for stop in waiting
        ]
        return [Text(), *lines] if lines else []


class Lines:
    """One line an event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._agents: dict[str, str] = {}

    def hear(self, state: PlanState, commit: Commit) -> None:
        write(self._console, (history.line(entry, now()) for entry in history.entries(commit, self._agents)))

    def hint(self, step: str, text: str) -> None:
        """Hints come and go; what is written stays."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Commits(Lines):
    """The log itself on standard output, a commit a line, for programs."""

    def hear(self, state: PlanState, commit: Commit) -> None:
        # Not through rich: nothing may be wrapped, cut or coloured.
        print(as_line(commit), flush=True)


@contextlib.asynccontextmanager
async def feed(session: Session, *, asks: bool) -> AsyncIterator[Feed]:
    """Whoever tells what happens in the form that this call asks for, until the block ends.

    Args:
        asks: Whether the person at the terminal is asked at gates, and need not be told how to answer.
    """
    if session.output == "jsonl":
        yield Commits(session.err)
    elif not session.progress.is_terminal:
        yield Lines(session.progress)
    else:
        tree = Tree(session.progress, None if asks else session.command)
        drawing = asyncio.create_task(tree.run())
        try:
            yield tree
        except BaseException:
            tree.freeze()
            raise
        finally:
            drawing.cancel()
            tree.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
