"""``planmesh agents``, ``planmesh credentials``, ``planmesh poison``: what an administrator does now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from msgspec import Struct
from rich.text import Text

from planmesh import poison as aside
from planmesh.administration import Mesh
from planmesh.cli import COMPLETED, FAILED
from planmesh.cli.forms import as_one, as_rows
from planmesh.cli.render import columns
from planmesh.cli.session import NotUnderstood, OfSession, Session, now
from planmesh.cli.text import ago, clock, defuse, one_line, size
from planmesh.credentials import Credentials
from planmesh.errors import Poison
from planmesh.inspection import ConsumerInfo, agents_of, consumer_info
from planmesh.operator import Operator
from planmesh.poison import SetAside
from planmesh.schemas import subjects
from planmesh.schemas.subjects import WORK


def mesh_of(session: Session) -> Mesh:
    """The mesh that the person administers. Raises: Unusable."""
    settings = session.settings
    return Mesh(settings.data_dir, settings.credentials_dir, agent_concurrency=settings.agent_concurrency)


# --- agents ------------------------------------------------------------------------------------------------

agents = App(name="agents", help="List and add agents.")


class AgentRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent, as the mesh knows it.

    Attributes:
        waiting: Steps that nobody has begun.
        running: Steps that are out.
        concurrency: How many may be out at once.
        hosted: Somebody runs it now.
    """

    name: str
    version: str = ""
    description: str = ""
    idempotent: bool = False
    hosted: bool
    waiting: int
    running: int
    concurrency: int


@agents.command(name="list")
async def list_agents(*, session: OfSession) -> None:
    """List the agents that plans may name, and whether somebody runs them."""
    rows: list[AgentRow] = []
    async with session.operator() as operator:
        described = {one.name: one for one in await agents_of(operator.connection)}
        names = sorted({*described, *mesh_of(session).agents()})
        found = await asyncio.gather(*(_consumer(operator, name) for name in names))
    for name, consumer in zip(names, found, strict=True):
        if consumer is None and name not in described:
            continue  # credentials of another mesh
        one = described.get(name)
        rows.append(
            AgentRow(
                name=name,
                version=one.version if one else "",
                description=one.description if one else "",
                idempotent=one.idempotent is True if one else False,
                hosted=consumer is not None and consumer.is_read,
                waiting=consumer.num_pending if consumer else 0,
                running=consumer.num_ack_pending if consumer else 0,
                concurrency=int(consumer.config.get("max_ack_pending", 0)) if consumer else 0,
            )
        )
    if session.output != "table":
        _print(as_rows(rows, session.output))
    elif not rows:
        session.say("There are no agents. Name their module: planmesh up --agents MODULE")
    else:
        session.say(
            *columns(
                ("AGENT", "WORKER", "RUNNING", "WAITING", "VERSION", "WHAT"),
                [_cells(row) for row in rows],
                width=session.out.width,
            )
        )


def _cells(row: AgentRow) -> list[Text | str]:
    worker = Text("✓ yes", "green") if row.hosted else Text("✗ none", "red")
    running = f"{row.running} of {row.concurrency}" if row.concurrency else "-"
    return [row.name, worker, running, str(row.waiting), one_line(row.version, 20), one_line(row.description, 200)]


async def _consumer(operator: Operator, agent: str) -> ConsumerInfo | None:
    return await consumer_info(operator.connection, WORK, subjects.agent_consumer(agent))


@agents.command(name="add")
async def add_agent(
    name: Annotated[str, Parameter(help="How plans call it.")],
    /,
    *,
    concurrency: Annotated[int | None, Parameter(help="How many of its steps may run at once, anywhere.")] = None,
    session: OfSession,
) -> None:
    """Make an agent's user and consumer, so that it may run on another machine; or change its concurrency.

    `planmesh up` does so by itself for the agents that it hosts.
    """
    mesh = mesh_of(session)
    made = await mesh.add_agent(name, concurrency)
    file = _file(mesh, made)
    _tell(
        session,
        made,
        file,
        "To run it elsewhere, copy that file there, and start a worker that finds it:",
        f"  PLANMESH_CREDENTIALS=DIRECTORY python -m planmesh.executor --only work --agents MODULE-OF-{name}",
    )


# --- credentials -------------------------------------------------------------------------------------------

credentials = App(name="credentials", help="Make users, for services and for people.")


class Made(Struct, frozen=True, kw_only=True):
    """A user that may now connect."""

    user: str
    server: str
    file: str


@credentials.command(name="submitter")
async def add_submitter(
    name: Annotated[str, Parameter(help="The service's name: its space, and its name as a requester.")],
    /,
    *,
    session: OfSession,
) -> None:
    """Make a user for a service that publishes goals, with a space of its own. Nobody else hears its outcomes."""
    mesh = mesh_of(session)
    made = await mesh.add_submitter(name, session.settings.storage.max_bytes)
    file = _file(mesh, made)
    _tell(
        session,
        made,
        file,
        "All that the service needs is that file:",
        f'  async with Client.connect(credentials=Path("{file.name}")) as client: ...',
        f"Without Python: publish goals on goals.{name}.ID, and listen on outcomes.{name}.*",
    )


@credentials.command(name="operator")
async def add_operator(
    name: Annotated[str, Parameter(help="The person's name, as the log will say it.")], /, *, session: OfSession
) -> None:
    """Make a user for a person who looks at plans and steers them."""
    mesh = mesh_of(session)
    made = await mesh.add_operator(name)
    _tell(
        session,
        made,
        _file(mesh, made),
        "It is all that this person needs, in a directory of theirs:",
        f"  PLANMESH_CREDENTIALS=DIRECTORY planmesh --user {name} list",
    )


@credentials.command(name="agent")
async def add_agent_user(name: Annotated[str, Parameter(help="The agent's name.")], /, *, session: OfSession) -> None:
    """Make a user for an agent. The same as `planmesh agents add`."""
    await add_agent(name, session=session)


@credentials.command(name="list")
def list_credentials(*, session: OfSession) -> None:
    """List the users whose credentials are here."""
    mesh = mesh_of(session)
    rows = []
    for user in mesh.users():
        found = mesh.credentials_of(user)
        rows.append(Made(user=user, server=found.server, file=str(_file(mesh, found))))
    if session.output != "table":
        _print(as_rows(rows, session.output))
    elif not rows:
        session.say(f"There are none in {mesh.credentials}: `planmesh up` or `planmesh init` makes them.")
    else:
        session.say(*columns(("USER", "SERVER", "FILE"), [(row.user, row.server, row.file) for row in rows]))


def _file(mesh: Mesh, made: Credentials) -> Path:
    return mesh.credentials / f"{made.user}.toml"


def _tell(session: Session, made: Credentials, file: Path, *how: str) -> None:
    if session.output != "table":
        print(as_one(Made(user=made.user, server=made.server, file=str(file)), session.output))
        return
    session.say(
        Text("✓ ", "green").append(f"{made.user} may connect to {made.server}; its password is in"),
        Text("  ").append(str(file), "cyan"),
        *(Text(line, "dim") for line in how),
    )


# --- poison ------------------------------------------------------------------------------------------------

poison = App(name="poison", help="See messages that could not be handled; replay or drop them.")

Numbers = Annotated[int, Parameter(help="Their numbers, as `planmesh poison list` shows them.")]
All = Annotated[bool, Parameter(negative=(), help="All that are set aside now.")]


class PoisonRow(Struct, frozen=True, kw_only=True):
    """A message that is set aside, without what it holds."""

    number: int
    at: str
    service: str
    stream: str
    subject: str
    error: str
    size_bytes: int


@poison.command(name="list")
async def list_poison(*, session: OfSession) -> None:
    """List the messages that no service could handle, the oldest first."""
    async with session.operator() as operator:
        found = [one async for one in aside.read(operator.connection)]
    if session.output != "table":
        _print(as_rows(map(_row, found), session.output))
        return
    if not found:
        session.say(Text("✓ ", "green").append("Nothing is set aside."))
        return
    at = now()
    head = ("NUMBER", "WHEN", "BY", "FROM", "SIZE", "WHY")
    cells: list[list[Text | str]] = [
        [
            str(one.number),
            ago(one.at, at),
            one_line(one.service, 20),
            one_line(one.subject, 60),
            size(one.size_bytes),
            one_line(one.error, 200),
        ]
        for one in found
    ]
    session.say(*columns(head, cells, right=frozenset({0, 4}), width=session.out.width))
    number = found[0].number
    session.say(
        Text(""),
        Text("What one holds:           ", "dim").append(f"{session.command} poison show {number}", "cyan"),
        Text("When its cause is mended: ", "dim").append(f"{session.command} poison replay {number}", "cyan"),
        Text("When it is of no use:     ", "dim").append(f"{session.command} poison drop {number}", "cyan"),
    )


def _row(one: SetAside) -> PoisonRow:
    return PoisonRow(
        number=one.number,
        at=one.at.isoformat(),
        service=one.service,
        stream=one.stream,
        subject=one.subject,
        error=one.error,
        size_bytes=one.size_bytes,
    )


@poison.command(name="show")
async def show_poison(
    number: Annotated[int, Parameter(help="Its number, as `planmesh poison list` shows it.")],
    /,
    *,
    session: OfSession,
) -> None:
    """Show one message: where it came from, why it is here, and what it holds (as JSON, in base64)."""
    async with session.operator() as operator:
        one = await aside.find(operator.connection, number)
    if session.output != "table":
        print(as_one(one, session.output))
        return
    about = (
        ("subject", one.subject),
        ("stream", f"{one.stream} {one.sequence}, account {one.account}"),
        ("set aside", f"{clock(one.at)} by the {one.service}"),
        ("error", one.error),
    )
    # Whole lines: who looks at one message wants all of it.
    for name, text in about:
        session.out.print(Text(f"{name:<10} ", "dim").append(one_line(text, 2_000)), soft_wrap=True)
    if one.traceback:
        session.out.print(Text(defuse(one.traceback).rstrip("\n")), soft_wrap=True)
    cut = f", of which the first {size(len(one.data))} are kept" if one.cut else ""
    session.out.print(Text(f"payload    {size(one.size_bytes)}{cut}", "dim"), soft_wrap=True)
    session.out.print(Text(defuse(one.data.decode("utf-8", "backslashreplace"))), soft_wrap=True)


@poison.command(name="replay")
async def replay_poison(*numbers: Numbers, all: All = False, session: OfSession) -> int:
    """Publish messages again where they came from, and drop them here. Who cannot handle them sets them aside again."""
    return await _each(session, numbers, all, "replayed", aside.replay)


@poison.command(name="drop")
async def drop_poison(*numbers: Numbers, all: All = False, session: OfSession) -> int:
    """Delete messages, for good."""
    return await _each(session, numbers, all, "dropped", aside.drop)


async def _each(
    session: Session,
    numbers: tuple[int, ...],
    everything: bool,
    done: str,
    act: Callable[[Mesh, SetAside], Awaitable[None]],
) -> int:
    if everything == bool(numbers):
        raise NotUnderstood("say which: their numbers, or --all")
    mesh = mesh_of(session)
    failed = False
    async with session.operator() as operator:
        if everything:
            chosen = [one async for one in aside.read(operator.connection)]
        else:
            chosen = [await aside.find(operator.connection, number) for number in dict.fromkeys(numbers)]
        for one in chosen:
            try:
                await act(mesh, one)
            except Poison as error:
                failed = True
                session.say(Text(f"✗ {error}", "red"), to=session.err)
            else:
                session.say(
                    Text("✓ ", "green").append(f"{done} {one.number}, {one_line(one.subject, 80)}"), to=session.err
                )
    return FAILED if failed else COMPLETED


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
