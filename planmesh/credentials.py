"""Who a process is to the server: one small file a user, and one that points to the files a person needs.

``<data_dir>/credentials/<user>.toml`` (mode 0600) holds one user's server, name and password, and is all that this
user needs: to run a service on another machine, copy its files, and no more, to a directory that
``PLANMESH_CREDENTIALS`` names. The directory of whoever administers the mesh is also the list of its users.

``<data_dir>/connection.toml`` is what `planmesh up` and `planmesh init` leave for the other verbs of the command
line: the server, and which operator and which submitter the person at this machine is.
"""

import json
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from planmesh.errors import Unusable
from planmesh.schemas import subjects

CONNECTION_FILE: Final = "connection.toml"

_T = TypeVar("_T")


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user shows to the server.

    Attributes:
        server: ``nats://host:port``.
        user: The NATS user.
        password: Its password.
    """

    server: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(server={self.server!r}, user={self.user!r})"


class Connection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the mesh is, and who the person at this machine is.

    Attributes:
        server: ``nats://host:port``.
        operator: The NATS user that looks and steers, such as ``operator-ada``.
        submitter: The NATS user that publishes goals, such as ``submitter-ada``.
    """

    server: str
    operator: str
    submitter: str


def read_credentials(directory: Path, user: str, server: str | None = None) -> Credentials:
    """Read one user's file.

    Args:
        directory: The directory of credentials, see `planmesh.settings.Settings`.
        user: The NATS user.
        server: Another server than the file's; None for the file's.

    Raises:
        Unusable: There is no such file, it cannot be read, or it is not one of ours.
    """
    path = _path(directory, user)
    found = _read(path, Credentials, f"credentials of {user}")
    if found.user != user:
        raise Unusable(f"{path} has the credentials of {found.user}: it was renamed, or copied to the wrong name")
    return found if server is None else msgspec.structs.replace(found, server=server)


def write_credentials(directory: Path, credentials: Credentials) -> Path:
    """Store one user's file, readable by the owner only. Returns: where. Raises: Unusable."""
    path = _path(directory, credentials.user)
    write_private(path, _toml(credentials))
    return path


def users(directory: Path) -> tuple[str, ...]:
    """The users that have a file in *directory*, sorted; none if there is no directory."""
    return tuple(sorted(path.stem for path in directory.glob("*.toml") if subjects.is_token(path.stem)))


def read_connection(data_dir: Path) -> Connection:
    """Read ``connection.toml``. Raises: Unusable."""
    return _read(data_dir / CONNECTION_FILE, Connection, "connection")


def write_connection(data_dir: Path, connection: Connection) -> Path:
    """Store ``connection.toml``. Returns: where. Raises: Unusable."""
    path = data_dir / CONNECTION_FILE
    write_private(path, _toml(connection))
    return path


def private_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, for the owner alone. One that is there stays as it is.

    Raises: OSError.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would make those above with the usual mode


def private_file(path: str | Path, flags: int) -> int:
    """Open a file with `os.open`; one that is new is for the owner alone. To be used as an `opener`."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; nobody but the owner can read it at any moment. Raises: Unusable."""
    try:
        private_directory(path.parent)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Unusable(f"cannot write {path}: {error.strerror or error}") from error


def _path(directory: Path, user: str) -> Path:
    return directory / f"{subjects.token('user', user)}.toml"


def _read(path: Path, kind: type[_T], what: str) -> _T:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
        return msgspec.convert(found, kind)
    except FileNotFoundError:
        raise Unusable(
            f"no {what}: there is no {path}. `planmesh up` writes it for a mesh on this machine, `planmesh init` for "
            f"a server of your own{_made_by(path.stem)}; if it is elsewhere, say so with --data-dir, PLANMESH_DATA_DIR "
            "or PLANMESH_CREDENTIALS"
        ) from None
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise Unusable(f"{path} is not a file that planmesh wrote: {error}") from error


def _made_by(user: str) -> str:
    kind, _, name = user.partition("-")
    verb = {"operator": "credentials operator", "submitter": "credentials submitter", "agent": "agents add"}.get(kind)
    return f", `planmesh {verb} {name}` where you want one more" if verb and name else ""


def _toml(struct: msgspec.Struct) -> str:
    # A JSON string of ASCII characters is a TOML string.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in msgspec.structs.asdict(struct).items())
