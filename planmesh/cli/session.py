"""What a person says beside the verb: where the mesh is, and in which form to answer."""

import asyncio
import inspect
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Group, Parameter
from rich.console import Console

if TYPE_CHECKING:
    from planmesh.settings import Settings

Output: TypeAlias = Literal["table", "json", "yaml", "jsonl"]


@dataclass(frozen=True)
class Session:
    """One call of the command line.

    Attributes:
        server: ``--server``; None for what the settings say.
        data_dir: ``--data-dir``; None for what the settings say.
        output: ``--output``.
    """

    server: str | None = None
    data_dir: Path | None = None
    output: Output = "table"

    @cached_property
    def settings(self) -> "Settings":
        """Raises: Unusable."""
        from planmesh import settings

        return settings.load(server=self.server, data_dir=self.data_dir)

    @cached_property
    def out(self) -> Console:
        """Where answers go: standard output."""
        return Console(highlight=False, emoji=False, markup=False, soft_wrap=False)

    @cached_property
    def err(self) -> Console:
        """Where everything goes that is not the answer: standard error."""
        return Console(stderr=True, highlight=False, emoji=False, markup=False)

    @cached_property
    def progress(self) -> Console:
        """Where progress is told: with the answer as long as a person reads it, beside it otherwise."""
        return self.out if self.output == "table" and self.out.is_terminal else self.err

    @property
    def command(self) -> str:
        """How a command that a person is to paste begins: it leads to the mesh that this one talked to."""
        words = ["planmesh"]
        if self.server is not None:
            words += ["--server", self.server]
        if self.data_dir is not None:
            words += ["--data-dir", str(self.data_dir)]
        return shlex.join(words)


OfSession: TypeAlias = Annotated[Session, Parameter(parse=False)]
"""The type of a verb's parameter ``session``, which must be keyword-only."""

_EVERYWHERE = Group("Everywhere", sort_key=1_000)


def launcher(app: App) -> None:
    """Let *app* take the options that every verb has, before or after it."""
    for flag in ("--help", "--version"):
        app[flag].group = (_EVERYWHERE,)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        server: Annotated[str | None, Parameter(group=_EVERYWHERE)] = None,
        data_dir: Annotated[Path | None, Parameter(group=_EVERYWHERE)] = None,
        output: Annotated[Output, Parameter(name=["--output", "-o"], group=_EVERYWHERE)] = "table",
    ) -> Any:
        """Find the verb and call it.

        Parameters
        ----------
        server
            Where the mesh is, as nats://host:port; unless given, what the settings or `planmesh up` say.
        data_dir
            Where a mesh on this machine keeps its files; unless given, what the settings say.
        output
            For people, or for programs.
        """
        command, bound, unparsed = app.parse_args(tokens)
        given = {"session": Session(server, data_dir, output)} if "session" in unparsed else {}
        answer = command(*bound.args, **bound.kwargs, **given)
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer
