"""``planmesh up``, ``init`` and ``doctor``: run a mesh, prepare a server of your own, find out what is wrong."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from msgspec import Struct
from msgspec.structs import replace
from rich.text import Text

from planmesh import access, settings
from planmesh.access import SYSTEM
from planmesh.administration import Mesh
from planmesh.cli import COMPLETED, FAILED
from planmesh.cli.forms import as_one, as_rows
from planmesh.cli.session import NotUnderstood, OfSession, Session
from planmesh.cli.text import counted, defuse, duration, listed
from planmesh.credentials import Connection, write_connection
from planmesh.embedded import MAX_PAYLOAD_BYTES
from planmesh.errors import Unusable
from planmesh.readiness import notify_ready
from planmesh.supervision import LocalMesh, find_agents, local_mesh, people
from planmesh.telemetry import configure_logging

Agents = Annotated[
    list[str] | None,
    Parameter(negative=(), help="A Python module with agents, importable from here; may be repeated."),
]


# --- a mesh on this machine --------------------------------------------------------------------------------


class Running(Struct, frozen=True, kw_only=True):
    """A mesh that is up.

    Attributes:
        operator: The NATS user of the person at this machine.
        submitter: The NATS user that publishes this person's goals.
        pages: Where reviewers decide; None where there are no pages.
    """

    server: str
    data_dir: str
    services: tuple[str, ...]
    agents: tuple[str, ...]
    operator: str
    submitter: str
    pages: str | None = None


async def up(
    *,
    agents: Agents = None,
    port: Annotated[
        int | None,
        Parameter(help="The server's TCP port on 127.0.0.1; unless given, the one it had before, or any free one."),
    ] = None,
    sync: Annotated[
        str | None,
        Parameter(help="When the server syncs to disk: always, or as often as this (2m), which a power cut may lose."),
    ] = None,
    executors: Annotated[int, Parameter(help="How many executors: one steers, the others stand by.")] = 1,
    session: OfSession,
) -> int:
    """Run a mesh on this machine: a NATS server, the services, and a worker for your agents.

    With --server, the services of a mesh on a NATS server of your own, which `planmesh init` has prepared.
    What is stored stays in the data directory; the next `planmesh up` goes on from there. Ctrl-C stops it.
    """
    started = time.perf_counter()
    given = settings.load(
        server=session.server,
        data_dir=session.data_dir,
        listen_port=port,
        sync_interval=sync,
        agents=tuple(agents) if agents is not None else None,
    )
    log_format = given.log_format
    if log_format == "auto":
        # The services write to us, and cannot see whether a person reads it.
        log_format = "console" if sys.stderr.isatty() else "json"
    configure_logging("warning" if given.log_level == "info" else given.log_level, log_format, "up")
    _stop_on_signals()
    try:
        async with local_mesh(
            given.data_dir,
            agents=given.agents,
            server=given.server,
            credentials=given.credentials,
            port=given.listen_port,
            sync_interval=given.sync_interval,
            max_payload_bytes=given.limits.max_payload_bytes,
            max_bytes=given.storage.max_bytes,
            secrets_kept_s=given.secrets_kept_s,
            executors=executors,
            replicas=given.replicas,
            agent_concurrency=given.agent_concurrency,
            environment={"PLANMESH_LOG_FORMAT": log_format},
        ) as mesh:
            _describe(session, mesh, given.pages_url, time.perf_counter() - started)
            notify_ready()
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        session.say("The mesh is stopped.", to=session.err)
    return COMPLETED


def _stop_on_signals() -> None:
    """Cancel this task at the first Ctrl-C or SIGTERM. The second one ends us at once, and the children with us."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # a verb runs in one

    def stop() -> None:
        task.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _describe(session: Session, mesh: LocalMesh, pages: str | None, took_s: float) -> None:
    if session.output != "table":
        running = Running(
            server=mesh.url,
            data_dir=str(mesh.data_dir),
            services=tuple(mesh.children),
            agents=mesh.agents,
            operator=mesh.operator,
            submitter=mesh.submitter,
            pages=pages,
        )
        print(as_one(running, session.output), flush=True)
        return
    lines = (
        ("files", str(mesh.data_dir)),
        ("services", listed(tuple(mesh.children), 10)),
        ("agents", listed(mesh.agents, 20) or "none yet: name their module with --agents MODULE"),
        ("you", f"{mesh.operator} looks and steers, {mesh.submitter} publishes your goals"),
        ("pages", f"{pages}, where reviewers decide" if pages else "none: set web_port for pages to decide on"),
        ("next", f"{session.command} run PLAN.yaml"),
        ("stop", "Ctrl-C"),
    )
    session.say(
        Text("✓ ", "green").append(f"The mesh is up after {duration(took_s)}, at {mesh.url}", "bold"),
        *(Text(f"  {name:<9} ", "dim").append(text, "not dim") for name, text in lines),
    )
    sys.stdout.flush()


# --- a server of your own ----------------------------------------------------------------------------------


class Prepared(Struct, frozen=True, kw_only=True):
    """What `init` has done.

    Attributes:
        credentials: The directory with one file a user.
        accounts: The part of the server's configuration that knows the users.
        users: Those that are new.
        changed: Streams and consumers that were made or changed.
    """

    server: str
    credentials: str
    accounts: str
    users: tuple[str, ...]
    changed: tuple[str, ...]


async def init(
    *,
    agents: Agents = None,
    submitter: Annotated[
        list[str] | None, Parameter(negative=(), help="A service that publishes goals; may be repeated.")
    ] = None,
    operator: Annotated[
        list[str] | None, Parameter(negative=(), help="A person who looks and steers; may be repeated.")
    ] = None,
    files_only: Annotated[
        bool, Parameter(negative=(), help="Write the files, and leave the server alone: it may not run yet.")
    ] = False,
    session: OfSession,
) -> None:
    """Prepare a NATS server of your own: users, streams and consumers.

    The first time, say where the server is, or will be, with --server. The users' credentials, and the part of the
    server's configuration that knows them, are written to the data directory. Doing it again is safe, and repairs
    what is not as it should be.
    """
    given = session.settings
    mesh = Mesh(given.data_dir, given.credentials_dir, agent_concurrency=given.agent_concurrency)
    server = given.server or (mesh.credentials_of("admin").server if "admin" in mesh.users() else "")
    if not server:
        raise NotUnderstood("say where your server is, or will be: planmesh --server nats://HOST:4222 init")
    found = await find_agents(given.agents if agents is None else agents)
    known = people(mesh.data_dir)
    operators = [access.operator(name) for name in operator or ()] or [access.named(known.operator)]
    submitters = [access.submitter(name) for name in submitter or ()] or [access.named(known.submitter)]
    new = mesh.ensure_users(server, [*operators, *submitters, *map(access.agent, found)])
    if not known.server:
        known = Connection(server=server, operator=operators[0].name, submitter=submitters[0].name)
    write_connection(mesh.data_dir, replace(known, server=server))
    changed: tuple[str, ...] = ()
    if not files_only:
        try:
            changed = await mesh.prepare(
                replicas=given.replicas, max_bytes=given.storage.max_bytes, secrets_kept_s=given.secrets_kept_s
            )
            if mesh.accounts_changed:
                await mesh.reload()
        except Unusable:
            session.say(*_what_the_server_needs(mesh.accounts_file, session.command), to=session.err)
            raise
    if session.output != "table":
        prepared = Prepared(
            server=server,
            credentials=str(mesh.credentials),
            accounts=str(mesh.accounts_file),
            users=new,
            changed=changed,
        )
        print(as_one(prepared, session.output))
        return
    session.say(Text("✓ ", "green").append(f"{counted(len(new), 'new user')}, in {mesh.credentials}"))
    if files_only:
        session.say(*_what_the_server_needs(mesh.accounts_file, session.command))
    else:
        made = (
            f"{counted(len(changed), 'stream')} and consumers made or changed" if changed else "all was as it should be"
        )
        session.say(Text("✓ ", "green").append(f"{server}: {made}"))


_FILE_STORE: Final = "64GB"  # more than all streams reserve, if nobody has set how much each may take


def _what_the_server_needs(accounts: Path, command: str) -> list[Text]:
    config = (
        f'include "{accounts.name}"',
        f"system_account: {SYSTEM}",
        f"max_payload: {MAX_PAYLOAD_BYTES // 1024 // 1024}MB",
        f'jetstream {{ store_dir: "/var/lib/nats", max_file_store: {_FILE_STORE}, sync_interval: always }}',
    )
    return [
        Text("The configuration of the server needs these lines:"),
        *(Text(f"    {line}", "cyan") for line in config),
        Text("and, beside itself, the file that knows the users; a link, because it changes when you add some:"),
        Text(f"    ln -s {accounts.absolute()} {accounts.name}", "cyan"),
        Text("Start the server with it, and then:"),
        Text(f"    {command} init", "cyan"),
    ]


# --- what is wrong -----------------------------------------------------------------------------------------

_SIGNS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}


async def doctor(*, session: OfSession) -> int:
    """Find out what is wrong, and what to do about it. Changes nothing.

    The exit code is 1 if something is wrong, and 0 if all is well or there is only something to know.
    """
    from planmesh.cli.diagnosis import Finding, examine, worst  # `up` is to be quick, and needs none of it

    findings: list[Finding] = []
    async for finding in examine(session.settings, server=session.server, data_dir=session.data_dir, user=session.user):
        findings.append(finding)
        if session.output == "table":
            sign, style = _SIGNS[finding.level]
            # Not cut: what is wrong is worth more than one line.
            line = (
                Text(f"{sign} ", style).append(f"{finding.what:<13} ", "bold").append(defuse(finding.found), "not bold")
            )
            session.out.print(line, soft_wrap=True)
            if finding.advice:
                session.out.print(
                    Text(f"  {'':<13} ").append("→ ", style).append(defuse(finding.advice)), soft_wrap=True
                )
    if session.output != "table":
        for text in as_rows(findings, session.output):
            print(text)
    return FAILED if worst(findings) == "bad" else COMPLETED
