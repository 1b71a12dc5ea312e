"""A mesh on this machine: a server, and the services as child processes, kept alive and stopped in order.

    async with local_mesh(directory, agents=["mine"]) as mesh:
        async with Client.connect(data_dir=mesh.data_dir) as client:
            ...

This is what `planmesh up` runs, and `--local`, the demo, the flow tests and the benchmarks. A service is
``python -m planmesh.<service>``; it says that it is ready by `planmesh.readiness.notify_ready`, and is started again
when it ends. Nothing of it is a condition for running planmesh: the same services run under systemd or compose.
"""

import asyncio
import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from planmesh import access
from planmesh.administration import DEFAULT_CONCURRENCY, Mesh
from planmesh.agents import ENTRY_POINT
from planmesh.credentials import (
    CONNECTION_FILE,
    Connection,
    private_directory,
    private_file,
    read_connection,
    write_connection,
)
from planmesh.embedded import MAX_PAYLOAD_BYTES, EmbeddedServer, embedded_server, end_with_parent
from planmesh.errors import PlanmeshError, Unusable
from planmesh.readiness import NOTIFY_SOCKET
from planmesh.streams import SECRETS_KEPT_S

_STEERING: Final = "decide,dispatch,timers,blobs"
_STOP_ORDER: Final = ("planner", "worker", "executor", "gatekeeper", "auditor")

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0
_LONG_LIFE_S: Final = 30.0
_STARTS: Final = 3
_READY_S: Final = 60.0
_STOP_S: Final = 10.0
_LAST_LINES: Final = 15

_HEALTH_S: Final = 5.0
_SICK_TIMES: Final = 2
_ROOM_BYTES: Final = 256 * 1024 * 1024
_SAY_AGAIN_S: Final = 60.0
_FIRST_CURE_S: Final = 10.0
_LONGEST_CURE_S: Final = 600.0

_NOT_IN_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]+")

# Runs in a process of its own: what people's modules do when they are imported is not for the supervisor.
_FIND_AGENTS: Final = """
import json, sys
from planmesh.agents import find
from planmesh.errors import PlanmeshError
try:
    found = sorted(find(sys.argv[1:]))
except PlanmeshError as error:
    sys.exit(str(error))
print()
print(json.dumps(found))
"""

_NOTHING: Final[Mapping[str, str]] = {}

log = structlog.get_logger()


class Service(NamedTuple):
    """What runs as one process.

    Attributes:
        name: What its log lines are marked with; unique in a mesh.
        arguments: What follows ``python``.
    """

    name: str
    arguments: tuple[str, ...]


def services(*, executors: int = 1) -> tuple[Service, ...]:
    """The services of a mesh but the worker, the slowest to start first.

    Args:
        executors: How many; one steers, the others stand by.
    """
    steering = ("-m", "planmesh.executor", "--only", _STEERING)
    return (
        Service("auditor", ("-m", "planmesh.auditor")),
        Service("gatekeeper", ("-m", "planmesh.gatekeeper")),
        *(Service("executor" if not other else f"executor-{other + 1}", steering) for other in range(executors)),
        Service("planner", ("-m", "planmesh.planner")),
    )


def worker(modules: Sequence[str] = (), *, number: int = 1) -> Service:
    """The service that runs agents: those of *modules*, and of the installed distributions that declare some.

    Args:
        number: Which of several workers, from 1: they share the work.
    """
    arguments = (word for module in modules for word in ("--agents", module))
    name = "worker" if number == 1 else f"worker-{number}"
    return Service(name, ("-m", "planmesh.executor", "--only", "work", *arguments))


class Child:
    """One service: its process, and the ones that come after it.

    Attributes:
        name: The service's.
        starts: How many processes there have been.
        ready: Set while the process says that it is.
    """

    def __init__(
        self, service: Service, environment: Mapping[str, str], output: "Output", said_ready: set[int]
    ) -> None:
        self.name = service.name
        self.starts = 0
        self.ready = asyncio.Event()
        self._arguments = service.arguments
        self._environment = dict(environment)
        self._output = output
        self._said_ready = said_ready
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._was_ready = False
        self._hopeless: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.name}")

    @property
    def pid(self) -> int:
        """The process, or 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process; one that ends it is followed by a new process."""
        if self.pid:
            self._was_ready |= self.ready.is_set()
            self.ready.clear()
            with contextlib.suppress(ProcessLookupError):  # it has ended, and nobody has noticed yet
                os.kill(self.pid, number)

    async def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until it is ready.

        Raises:
            Unusable: It ended several times as it started, or takes too long; the text ends with what it said.
        """
        ready = asyncio.create_task(self.ready.wait())
        try:
            await asyncio.wait((ready, self._hopeless), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._hopeless.done():
                self._hopeless.result()
            if not self.ready.is_set():
                raise Unusable(f"the {self.name} is not ready after {timeout_s:g} s{self._output.tail(self.name)}")
        finally:
            ready.cancel()

    async def stop(self, patience_s: float = _STOP_S) -> None:
        """Ask it to end, and wait; end it by force if it does not."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), patience_s)
            except TimeoutError:
                log.warning("mesh.killed", child=self.name, pid=process.pid, patience_s=patience_s)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._stopping:
            started = loop.time()
            try:
                status = await self._once()
            except OSError as error:  # no process to be had, or no file for its log: try again like for one that ended
                log.error("mesh.child_not_started", child=self.name, error=str(error))
                status = -1
            self._was_ready |= self.ready.is_set()
            self.ready.clear()
            if self._stopping:
                return
            if not self._was_ready and self.starts >= _STARTS and not self._hopeless.done():
                self._hopeless.set_exception(
                    Unusable(f"the {self.name} does not start (status {status}){self._output.tail(self.name)}")
                )
                self._hopeless.exception()  # it may be that nobody waits
            if loop.time() - started > _LONG_LIFE_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("mesh.child_ended", child=self.name, status=status, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _once(self) -> int:
        self.starts += 1
        with self._output.open(self.name) as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file or asyncio.subprocess.PIPE,
                stderr=file or asyncio.subprocess.STDOUT,
                env=self._environment,
                # A Ctrl-C in the terminal is for us: there is an order in which they stop.
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        self._process = process
        if self._stopping:
            process.terminate()
        if process.pid in self._said_ready:
            self.ready.set()
        if process.stdout is not None:
            await self._output.copy(self.name, process.stdout)
        status = await process.wait()
        self._said_ready.discard(process.pid)
        return status


# --- what they say -----------------------------------------------------------------------------------------


class Output:
    """Where the lines go that the services write: to standard error, marked with their names; or to files.

    Args:
        directory: One file a service, written by the services themselves; None for standard error.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._last: dict[str, deque[str]] = {}
        self._width = 0
        if directory is not None:
            private_directory(directory)

    def open(self, name: str) -> "contextlib.AbstractContextManager[IO[bytes] | None]":
        """The file of a service, if it writes to one."""
        self._width = max(self._width, len(name))
        if self._directory is None:
            return contextlib.nullcontext()
        return open(self._directory / f"{name}.log", "ab", buffering=0, opener=private_file)

    async def copy(self, name: str, stream: asyncio.StreamReader) -> None:
        """Write the lines of *stream* to standard error, until it ends."""
        last = self._last[name] = deque(maxlen=_LAST_LINES)
        rest = b""
        while chunk := await stream.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > 1024 * 1024:
                lines, rest = [*lines, rest], b""
            self._write(name, lines, last)
        if rest:
            self._write(name, [rest], last)

    def _write(self, name: str, lines: list[bytes], last: "deque[str]") -> None:
        shown = []
        for line in lines:
            text = line.decode("utf-8", "replace")
            last.append(text)
            # A line that is JSON names its service itself, and stays readable for programs.
            shown.append(text if text.startswith("{") else f"{name:<{self._width}} | {text}")
        if shown:
            sys.stderr.write("\n".join(shown) + "\n")
            sys.stderr.flush()

    def tail(self, name: str) -> str:
        """The last lines of a service, to put behind an error."""
        if self._directory is None:
            found = list(self._last.get(name, ()))
        else:
            with (self._directory / f"{name}.log").open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 16_384, 0))
                found = file.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
        return "".join(f"\n  {line}" for line in ("; it said:", *found)).replace("\n  ;", ";", 1) if found else ""


class _Listener:
    """Hears which process is ready. Source: sd_notify(3)."""

    def __init__(self, directory: Path, on_ready: Callable[[int], None]) -> None:
        self.path = directory / "notify"
        self._on_ready = on_ready
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self.path))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                said = self._socket.recv(4096).decode("utf-8", "replace")
                lines = dict(line.partition("=")[::2] for line in said.splitlines())
                if lines.get("READY") == "1" and lines.get("MAINPID", "").isdecimal():
                    self._on_ready(int(lines["MAINPID"]))


class Children:
    """The services that run. They stop in an order: whoever gives others work goes first."""

    def __init__(self, directory: Path | None, environment: Mapping[str, str]) -> None:
        self.by_name: dict[str, Child] = {}
        self._output = Output(directory)
        self._environment = dict(environment)
        # Processes that have said so; one may be faster than we are in noting that it has been started.
        self._said_ready: set[int] = set()

    async def __aenter__(self) -> Self:
        # Not in the directory of the mesh: the path of a socket may have a hundred characters only.
        self._directory = Path(tempfile.mkdtemp(prefix="planmesh-"))
        self._listener = _Listener(self._directory, self._on_ready)
        self._environment[NOTIFY_SOCKET] = str(self._listener.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in sorted(self.by_name.values(), key=_place):
            await child.stop()
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self, service: Service) -> None:
        self.by_name[service.name] = Child(service, self._environment, self._output, self._said_ready)

    async def wait_ready(self) -> None:
        """Raises: Unusable, if one of them does not start."""
        waiting = [asyncio.create_task(child.wait_ready()) for child in self.by_name.values()]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    def _on_ready(self, pid: int) -> None:
        self._said_ready.add(pid)
        for child in self.by_name.values():
            if child.pid == pid:
                log.debug("mesh.child_ready", child=child.name, pid=pid)
                child.ready.set()


def _place(child: Child) -> int:
    return _STOP_ORDER.index(child.name.partition("-")[0])


class _Server:
    """The server of our own: started again on the same port when it ends, and when it can write again.

    A nats-server whose disk was full stores nothing more until it is started anew.
    """

    def __init__(self, mesh: Mesh, port: int, sync_interval: str, max_payload_bytes: int) -> None:
        self.current: EmbeddedServer | None = None
        self._mesh = mesh
        self._directory = mesh.server_dir
        self._port = port
        self._sync_interval = sync_interval
        self._max_payload_bytes = max_payload_bytes
        self._next_restart = float("-inf")
        self._cure_s = _FIRST_CURE_S
        self._first: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> str:
        """Returns: its URL. Raises: Unusable."""
        self._task = asyncio.create_task(self._run(), name="supervise nats-server")
        try:
            return await self._first
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with embedded_server(
                    self._directory,
                    port=self._port,
                    sync_interval=self._sync_interval,
                    max_payload_bytes=self._max_payload_bytes,
                ) as server:
                    self.current = server
                    self._port = urlsplit(server.url).port or 0
                    if not self._first.done():
                        self._first.set_result(server.url)
                    status = await self._until_restart(server)
                    self.current = None
                if status is not None:
                    log.error("mesh.server_ended", status=status, log=str(server.log), again_in_s=pause_s)
            except (PlanmeshError, OSError) as error:
                if not self._first.done():
                    self._first.set_exception(
                        error if isinstance(error, PlanmeshError) else Unusable(f"cannot run the nats-server: {error}")
                    )
                    return
                log.error("mesh.server_not_started", error=str(error), again_in_s=pause_s)
            self.current = None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _until_restart(self, server: EmbeddedServer) -> int | None:
        """Wait until *server* has ended, or has to. Returns: its exit status; None if it runs, and has to end."""
        ended = asyncio.create_task(server.wait())
        able = asyncio.create_task(self._could_write_again())
        try:
            await asyncio.wait((ended, able), return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            ended.cancel()
            able.cancel()
            await asyncio.gather(ended, able, return_exceptions=True)

    async def _could_write_again(self) -> None:
        """Return when the server has been unable to write, and there is room on its disk."""
        sick, said_at = 0, float("-inf")
        while True:
            await asyncio.sleep(_HEALTH_S)
            try:
                sickness = await self._mesh.sickness()
            except PlanmeshError as error:
                log.debug("mesh.health_unknown", error=str(error))
                continue
            sick = sick + 1 if sickness else 0
            if sick < _SICK_TIMES:
                continue
            free_bytes = shutil.disk_usage(self._directory).free
            if free_bytes >= _ROOM_BYTES and self._may_restart():
                log.warning("mesh.server_restarts", error=sickness, free_bytes=free_bytes)
                return
            now = asyncio.get_running_loop().time()
            if now - said_at >= _SAY_AGAIN_S:
                said_at = now
                hint = "the server is restarted as soon as there is room" if free_bytes < _ROOM_BYTES else ""
                log.error("mesh.server_cannot_write", error=sickness, free_bytes=free_bytes, hint=hint)

    def _may_restart(self) -> bool:
        """Whether that may help: less and less often, if it did not."""
        now = asyncio.get_running_loop().time()
        if now < self._next_restart:
            return False
        if now - self._next_restart > _LONGEST_CURE_S:
            self._cure_s = _FIRST_CURE_S
        self._next_restart = now + self._cure_s
        self._cure_s = min(2 * self._cure_s, _LONGEST_CURE_S)
        return True


# --- the whole ---------------------------------------------------------------------------------------------


class LocalMesh:
    """A mesh that runs on this machine.

    Attributes:
        mesh: For whatever an administrator may do.
        url: Where the server is.
        agents: The agents that the worker hosts.
        operator: The NATS user of the person at this machine, such as ``operator-ada``.
        submitter: The NATS user that publishes this person's goals, such as ``submitter-ada``.
        children: The services by name: ``planner``, ``worker``, ``worker-2``, ``executor``, ...
    """

    def __init__(
        self,
        mesh: Mesh,
        connection: Connection,
        agents: tuple[str, ...],
        children: Mapping[str, Child],
        server: _Server | None,
    ) -> None:
        self.mesh = mesh
        self.url = connection.server
        self.operator = connection.operator
        self.submitter = connection.submitter
        self.agents = agents
        self.children = children
        self._server = server

    @property
    def data_dir(self) -> Path:
        return self.mesh.data_dir

    @property
    def server(self) -> EmbeddedServer | None:
        """The server's process; None if it is somebody else's, or is just being started again."""
        return None if self._server is None else self._server.current


@contextlib.asynccontextmanager
async def local_mesh(
    data_dir: Path,
    *,
    agents: Sequence[str] = (),
    server: str | None = None,
    credentials: Path | None = None,
    port: int = 0,
    sync_interval: str = "always",
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    max_bytes: Mapping[str, int] = {},
    secrets_kept_s: float = SECRETS_KEPT_S,
    executors: int = 1,
    workers: int = 1,
    replicas: int = 1,
    agent_concurrency: int = DEFAULT_CONCURRENCY,
    log_dir: Path | None = None,
    environment: Mapping[str, str] = _NOTHING,
    without: Iterable[str] = (),
) -> AsyncIterator[LocalMesh]:
    """Run a mesh until the block ends. When the block begins, every service is ready.

    Args:
        data_dir: Where it keeps its files. With what an earlier mesh has left there, this one goes on.
        agents: Modules with agents, besides those that installed distributions declare. They are imported in
            processes of their own, from the current directory or wherever Python finds them.
        server: ``nats://host:port`` of a server that `planmesh init` has prepared; None runs one.
        credentials: The directory of credentials; None: in *data_dir*.
        port: The TCP port of the server on 127.0.0.1; 0: the one that it had before, or any free one.
        sync_interval: When the server syncs to disk: ``always``, or as often as this (``2m``).
        max_payload_bytes: The largest message of the server.
        max_bytes: What streams may take on disk, by name; the others, what they may now, or by default.
        secrets_kept_s: How long a secret is kept of a plan that does not end.
        executors: How many; one steers, the others stand by.
        workers: How many; they share the work, and what one that dies has begun is done by another.
        replicas: How many servers of a cluster of your own hold each message.
        agent_concurrency: How many steps of an agent may run at once, for agents that are new.
        log_dir: Where each service writes its log; None: to standard error, marked with the service's name.
        environment: What the services find in their environment besides ours, such as ``PLANMESH_LOG_LEVEL``.
        without: Services not to start, by name.

    Raises:
        Unusable: The server or a service does not start, or there is no such agent; the text says why.
        Busy: A server of your own does not answer.
    """
    mesh = Mesh(data_dir, credentials, agent_concurrency=agent_concurrency)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    without = frozenset(without)
    finding = asyncio.create_task(find_agents(agents, environment))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_cancel, finding)
        person = people(data_dir)
        users = (access.named(person.operator), access.named(person.submitter))
        own: _Server | None = None
        if server is None:
            # Where it was before, for now: if another mesh runs on these files, this changes nothing for it.
            before = mesh.credentials_of("admin").server if "admin" in mesh.users() else "nats://127.0.0.1"
            mesh.ensure_users(before, users)
            own = _Server(mesh, port or _last_port(person.server), sync_interval, max_payload_bytes)
            server = await stack.enter_async_context(own)
            mesh.accounts_changed = False  # it has just read them
            mesh.point_to(server)
        else:
            mesh.ensure_users(server, users)
        await mesh.prepare(replicas=replicas, max_bytes=max_bytes, secrets_kept_s=secrets_kept_s)
        person = replace(person, server=server)
        write_connection(data_dir, person)

        environment |= _where(mesh, server)
        children = await stack.enter_async_context(Children(log_dir, environment))
        for service in services(executors=executors):
            if service.name not in without:
                children.start(service)
        found = await finding
        mesh.ensure_users(server, map(access.agent, found))
        if mesh.accounts_changed:
            await mesh.reload()
            await mesh.prepare(replicas=replicas, max_bytes=max_bytes, secrets_kept_s=secrets_kept_s)
        if found and "worker" not in without:
            for number in range(1, workers + 1):
                children.start(worker(agents, number=number))
        await children.wait_ready()
        yield LocalMesh(mesh, person, found, children.by_name, own)


def _last_port(url: str) -> int:
    """The port that the server had, if it is free: credentials that were copied elsewhere stay good."""
    port = urlsplit(url).port or 0
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError:
        return 0
    return port


def _where(mesh: Mesh, server: str) -> dict[str, str]:
    return {
        "PLANMESH_DATA_DIR": str(mesh.data_dir.absolute()),
        "PLANMESH_CREDENTIALS": str(mesh.credentials.absolute()),
        "PLANMESH_SERVER": server,
    }


def people(data_dir: Path) -> Connection:
    """Who the person at this machine is: the NATS user that looks and steers, and the one that submits.

    Returns:
        What ``connection.toml`` says; the first time, whoever is logged in, with an empty `server`.

    Raises:
        Unusable: The file is not one of ours.
    """
    if (data_dir / CONNECTION_FILE).exists():
        return read_connection(data_dir)
    try:
        name = _NOT_IN_TOKEN.sub("-", getpass.getuser())[:50].strip("-") or "local"
        operator = access.operator(name)
    except (OSError, KeyError, Unusable):  # nobody is logged in, as in some containers; or it is a service's name
        name = "local"
        operator = access.operator(name)
    return Connection(server="", operator=operator.name, submitter=access.submitter(name).name)


async def find_agents(modules: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The names of the agents of *modules*, and of the distributions that are installed: imported in another process.

    Raises:
        Unusable: A module cannot be imported or has no agent, or two agents share a name.
    """
    if not modules and not entry_points(group=ENTRY_POINT):
        return ()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _FIND_AGENTS,
        *modules,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    said = err.decode("utf-8", "replace").rstrip()
    if process.returncode:
        lines = said.splitlines()
        # One line is our own word; more are the traceback of somebody's module.
        text = said if len(lines) == 1 else "\n  ".join(["cannot load the agents:", *lines[-_LAST_LINES:]])
        raise Unusable(text or f"cannot load the agents of {', '.join(modules)}: status {process.returncode}")
    # What the modules print when they are imported comes before.
    found: list[str] = json.loads(out.decode("utf-8", "replace").splitlines()[-1])
    return tuple(found)


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # whoever waited for it has heard
