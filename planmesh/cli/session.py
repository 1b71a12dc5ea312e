"""What a person says beside the verb: where the mesh is, who they are, and in which form to answer."""

import contextlib
import inspect
import shlex
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Group, Parameter
from rich.console import Console
from rich.text import Text

from planmesh.cli.text import as_ascii
from planmesh.errors import PlanmeshError

if TYPE_CHECKING:
    from planmesh.client import Client
    from planmesh.operator import Operator
    from planmesh.settings import Settings
    from planmesh.supervision import LocalMesh

Output: TypeAlias = Literal["table", "json", "yaml", "jsonl"]

_SERVER_S = 2.0  # a person waits, and a server that runs answers at once
_ENDLESS = 10_000  # the width of what is no terminal: whoever reads it cuts lines as they like


class NotUnderstood(PlanmeshError):
    """What was typed cannot be meant: `main` ends with the code for that."""


@dataclass(frozen=True)
class Session:
    """One call of the command line.

    Attributes:
        server: ``--server``; None for what the settings say.
        data_dir: ``--data-dir``; None for what the settings say.
        user: ``--user``; None for the only one there is, or whom ``connection.toml`` names.
        output: ``--output``.
        private: The mesh that was brought up for this call alone, if there is one.
        passing: Whether that mesh leaves no files behind.
    """

    server: str | None = None
    data_dir: Path | None = None
    user: str | None = None
    output: Output = "table"
    private: "LocalMesh | None" = None
    passing: bool = False

    @cached_property
    def settings(self) -> "Settings":
        """Raises: Unusable."""
        from planmesh import settings

        return settings.load(server=self.server, data_dir=self.data_dir)

    # --- the mesh ----------------------------------------------------------------------------------------

    def operator(self) -> "AbstractAsyncContextManager[Operator]":
        """Connect, to look and to steer. Raises: Unusable."""
        from planmesh.operator import Operator

        own = self.private
        return Operator.connect(**self._where(self.user if own is None else own.operator))

    def client(self) -> "AbstractAsyncContextManager[Client]":
        """Connect, to publish goals. Raises: Unusable."""
        from planmesh.client import Client

        own = self.private
        return Client.connect(**self._where(self.user if own is None else own.submitter))

    def _where(self, user: str | None) -> dict[str, Any]:
        own = self.private
        # Whatever the environment says of other meshes, it is not about one's own.
        server, credentials = (self.server, None) if own is None else (own.url, own.mesh.credentials)
        here = {"server": server, "credentials": credentials, "data_dir": self.data_dir}
        return {**here, "user": user, "name": "planmesh-cli", "wait_s": _SERVER_S}

    @contextlib.asynccontextmanager
    async def local(self, agents: Iterable[str]) -> AsyncIterator["Session"]:
        """Bring a mesh up until the block ends: where ``--data-dir`` says, or in a directory that goes with it.

        Raises:
            Unusable: It does not start.
        """
        from planmesh.supervision import local_mesh

        with contextlib.ExitStack() as files:
            passing = self.data_dir is None
            directory = self.data_dir or Path(files.enter_context(TemporaryDirectory(prefix="planmesh-")))
            # What a power cut would lose goes with this call anyway.
            sync = "2m" if passing else "always"
            # Nor are its database and its reviewers those of another mesh, whatever the environment says.
            own = {
                "PLANMESH_DATABASE_URL": f"sqlite:///{directory.absolute()}/auditor.db",
                "PLANMESH_NOTIFY_URLS": "",
                "PLANMESH_WEB_PORT": "off",
            }
            async with local_mesh(
                directory, agents=tuple(agents), log_dir=directory / "log", sync_interval=sync, environment=own
            ) as mesh:
                yield replace(self, server=None, data_dir=directory, user=None, private=mesh, passing=passing)

    @property
    def command(self) -> str:
        """How a command that a person is to paste begins: it leads to the mesh that this one talks to."""
        words = ["planmesh"]
        for flag, said in (("--server", self.server), ("--data-dir", self.data_dir), ("--user", self.user)):
            if said is not None:
                words += [flag, str(said)]
        return shlex.join(words)

    # --- the terminal ------------------------------------------------------------------------------------

    @cached_property
    def out(self) -> Console:
        """Where answers go: standard output."""
        return _console(sys.stdout.isatty(), stderr=False)

    @cached_property
    def err(self) -> Console:
        """Where everything goes that is not the answer: standard error."""
        return _console(sys.stderr.isatty(), stderr=True)

    @property
    def progress(self) -> Console:
        """Where progress is told: with the answer if a person reads it, beside it otherwise."""
        return self.out if self.output == "table" and self.out.is_terminal else self.err

    @property
    def asks(self) -> bool:
        """Whether there is a person at the terminal who can be asked."""
        return sys.stdin is not None and sys.stdin.isatty() and self.progress.is_terminal

    def say(self, *lines: Text | str, to: Console | None = None) -> None:
        """Write lines, each cut where the terminal ends. *to*: standard output, unless given."""
        write(to or self.out, lines)


def write(console: Console, lines: Iterable[Text | str]) -> None:
    """Write lines, each cut where the terminal ends."""
    for line in lines:
        console.print(fitted(line, console), no_wrap=True, overflow="ignore", crop=False)


def fitted(line: Text | str, console: Console) -> Text:
    """*line* as *console* can show it."""
    text = Text(line) if isinstance(line, str) else line
    if text.cell_len > console.width and text.overflow != "ignore":
        text = text.copy()
        text.truncate(console.width, overflow="ellipsis")
    return as_ascii(text) if console.options.ascii_only else text


@contextlib.contextmanager
def busy(session: Session, what: str) -> Iterator[None]:
    """Say what is waited for, as long as it is."""
    if session.progress.is_terminal:
        with session.progress.status(Text(what, style="dim"), spinner_style="blue"):
            yield
    else:
        session.say(what, to=session.progress)
        yield


def now() -> datetime:
    return datetime.now(UTC)


def _console(terminal: bool, *, stderr: bool) -> Console:
    # What is piped somewhere is not cut, whatever COLUMNS says of the terminal that it does not go to.
    width = None if terminal else _ENDLESS
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False, width=width)


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
        user: Annotated[str | None, Parameter(group=_EVERYWHERE)] = None,
        output: Annotated[Output, Parameter(name=["--output", "-o"], group=_EVERYWHERE)] = "table",
    ) -> Any:
        """Find the verb and call it.

        Parameters
        ----------
        server
            Where the mesh is, as nats://host:port; unless given, what the settings or `planmesh up` say.
        data_dir
            Where a mesh on this machine keeps its files; unless given, what the settings say.
        user
            Whom to act as, if this machine has the credentials of several.
        output
            For people, or for programs.
        """
        command, bound, unparsed = app.parse_args(tokens)
        if "session" not in unparsed:  # help, or the version
            return command(*bound.args, **bound.kwargs)
        from planmesh.telemetry import configure_logging

        configure_logging("warning", "console")
        answer = command(*bound.args, **bound.kwargs, session=Session(server, data_dir, user, output))
        if not inspect.iscoroutine(answer):
            return answer
        import asyncio  # not for --help

        return asyncio.run(answer)
