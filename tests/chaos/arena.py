"""A mesh of real processes that can be hurt: its servers, its services, the wire between them, and the database."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
from flows import insist
from nodes import Node, running_nodes
from receivers import web_receiver
from wire import Link, Wire

from planmesh import access, supervision
from planmesh.access import home
from planmesh.administration import Mesh
from planmesh.client import Client
from planmesh.connection import Connection, connect
from planmesh.credentials import Connection as Pointer
from planmesh.credentials import write_connection
from planmesh.errors import Busy, Unusable
from planmesh.operator import Operator
from planmesh.schemas.subjects import AGENTS, CORE, EDGE
from planmesh.streams import DEFAULT_MAX_BYTES
from planmesh.supervision import Child, LocalMesh, local_mesh

ADMINS = {CORE: "admin", AGENTS: "admin-agents", EDGE: "admin-edge"}
ROOT = Path(__file__).parent.parent.parent
STREAM_BYTES = 16 * 1024 * 1024
ROOM_BYTES = 32 * 1024 * 1024
"""Besides what the streams may take: for one that somebody else makes."""
STORE_BYTES = len(DEFAULT_MAX_BYTES) * STREAM_BYTES + ROOM_BYTES

_T = TypeVar("_T")


class Kind(NamedTuple):
    """A kind of mesh.

    Attributes:
        nodes: How many NATS servers; several are a cluster, which the services reach without a wire in between.
        small_disk: Whether the server may store little, on a disk that holds little more.
    """

    name: str
    executors: int = 1
    workers: int = 2
    nodes: int = 1
    small_disk: bool = False

    @property
    def is_cluster(self) -> bool:
        return self.nodes > 1


class Arena:
    """A mesh that runs.

    Attributes:
        directory: Where all of it is.
        nodes: Its servers.
        wire: What carries the services' connections; None in a cluster.
        mesh: Its services.
        client: Publishes goals; over a connection that nobody meddles with, as the ones below.
        operator: Looks, and steers.
        disk: The server's disk, if it is one that can be filled.
    """

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        nodes: list[Node],
        wire: Wire | None,
        mesh: LocalMesh,
        people: tuple[Client, Operator],
        admins: dict[str, Connection],
        disk: Path | None,
    ) -> None:
        self.kind = kind
        self.directory = directory
        self.nodes = nodes
        self.wire = wire
        self.mesh = mesh
        self.client, self.operator = people
        self.disk = disk
        self._admins = admins
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._read_up_to: dict[Path, int] = {}
        self.back_up()

    @property
    def children(self) -> dict[str, Child]:
        return dict(self.mesh.children)

    def held(self, victim: str) -> asyncio.Lock:
        """One harm at a time for each victim."""
        return self._locks[victim]

    async def heal(self) -> None:
        """Let everything run that should. Raises: TimeoutError, Unusable."""
        for node in self.nodes:
            node.send(signal.SIGCONT)
            await node.start()
        for child in self.children.values():
            send(child.pid, signal.SIGCONT)
        for child in self.children.values():
            await child.wait_ready(60)

    async def child_of(self, link: Link) -> Child | None:
        """The service at the other end of a link."""
        return await asyncio.to_thread(self._child_of, link)

    def _child_of(self, link: Link) -> Child | None:
        for child in self.children.values():
            with contextlib.suppress(psutil.Error):
                ports = psutil.Process(child.pid).net_connections("tcp4") if child.pid else ()
                if any(one.laddr.port == link.port for one in ports):
                    return child
        return None

    # --- the server ------------------------------------------------------------------------------------

    def admin(self, stream: str) -> Connection:
        """Who may do anything with *stream*."""
        return self._admins[home(stream)]

    async def ask(self, stream: str, verb: str, asked: Any = None) -> Any:
        """Ask the server something about *stream*, as often as it takes."""

        async def once() -> Any:
            payload = b"" if asked is None else json.dumps(asked).encode()
            answer = json.loads(await self.admin(stream).request(f"$JS.API.{verb}", payload, timeout_s=2))
            if "error" in answer:
                raise Busy(f"{verb}: {answer['error']}")
            return answer

        return await insist(once)

    async def leader(self, stream: str) -> Node:
        """Who leads *stream*, in a cluster."""
        info = await self.ask(stream, f"STREAM.INFO.{stream}")
        return next(node for node in self.nodes if node.name == info["cluster"]["leader"])

    # --- the database ----------------------------------------------------------------------------------

    @property
    def database(self) -> Path:
        return self.mesh.data_dir / "auditor.db"

    @property
    def backup(self) -> Path:
        return self.directory / "backup.db"

    def back_up(self) -> None:
        with (
            contextlib.closing(sqlite3.connect(self.database)) as source,
            contextlib.closing(sqlite3.connect(self.backup)) as copy,
        ):
            source.backup(copy)

    # --- what it says ----------------------------------------------------------------------------------

    def new_lines(self) -> Iterator[str]:
        """What the services have logged since the last look."""
        for path in sorted((self.directory / "logs").glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read_up_to.get(path, 0))
                data = file.read()
                self._read_up_to[path] = file.tell()
            for line in data.decode("utf-8", "replace").splitlines():
                yield f"{path.stem}: {line}"


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if there is one."""
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.asynccontextmanager
async def running_arena(kind: Kind, directory: Path) -> AsyncIterator[Arena]:
    """Run a mesh until the block ends."""
    operator, submitter = access.operator("ada"), access.submitter("shop")
    mesh = Mesh(directory / "mesh")
    agents = (access.agent("agent"), access.agent("substitute"))
    mesh.ensure_users("nats://127.0.0.1", (operator, submitter, *agents))
    store = directory / "store"
    store.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        disk = store if kind.small_disk and stack.enter_context(_mounted(store)) else None
        settings = {"jetstream": {"max_file_store": STORE_BYTES}} if kind.small_disk else {}
        nodes = await stack.enter_async_context(
            running_nodes(mesh.accounts_file, store, count=kind.nodes, settings=settings)
        )
        direct = ",".join(node.url for node in nodes)
        wire = None if kind.is_cluster else await stack.enter_async_context(Wire([node.port for node in nodes]))
        write_connection(mesh.data_dir, Pointer(server=direct, operator=operator.name, submitter=submitter.name))
        mesh.point_to(direct)
        replicas = min(kind.nodes, 3)
        limits = dict.fromkeys(DEFAULT_MAX_BYTES, STREAM_BYTES) if kind.small_disk else {}
        await _patiently(lambda: mesh.prepare(replicas=replicas, max_bytes=limits))
        receiver = stack.enter_context(web_receiver())
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "chaos"))),
            "CHAOS_DIRECTORY": str(directory),
            "PLANMESH_NOTIFY_URLS": f"json://{receiver.at}",
            "PLANMESH_NOTICES__OPERATORS_NEWS_EVERY_S": "0.5",  # the log is not answered for before its news is told
        }
        local = await stack.enter_async_context(
            local_mesh(
                mesh.data_dir,
                agents=["chaos_agents"],
                server=direct if wire is None else wire.url,
                executors=kind.executors,
                workers=kind.workers,
                replicas=replicas,
                log_dir=directory / "logs",
                environment=environment,
            )
        )
        client = await stack.enter_async_context(Client.connect(direct, data_dir=mesh.data_dir))
        steering = await stack.enter_async_context(Operator.connect(direct, data_dir=mesh.data_dir))
        admins = {}
        for account, user in ADMINS.items():
            password = mesh.credentials_of(user).password
            admins[account] = await stack.enter_async_context(await connect(direct, user, password, name="chaos"))
        arena = Arena(kind, directory, nodes, wire, local, (client, steering), admins, disk)
        try:
            yield arena
        finally:
            for node in nodes:
                node.send(signal.SIGCONT)
            for child in arena.children.values():
                send(child.pid, signal.SIGCONT)


async def _patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """A cluster that has just started has no leader yet, and says so in several ways."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            return await ask()
        except (Busy, Unusable):
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def patient_supervisor() -> Iterator[None]:
    """A service that is killed every few seconds, and means well in between, need not wait longer each time."""
    before = supervision._LONG_LIFE_S
    supervision._LONG_LIFE_S = 1.0  # type: ignore[misc]
    try:
        yield
    finally:
        supervision._LONG_LIFE_S = before  # type: ignore[misc]


@contextlib.contextmanager
def _mounted(directory: Path) -> Iterator[bool]:
    """A disk of its own, and a small one. Says whether there is one: not everybody may mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES * 3 // 2}", "tmpfs", directory]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", directory], check=True)
