"""The way in for a program of somebody's own: whose credentials, a connection, and logs that keep quiet."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

import structlog

from planmesh.connection import Connection, connect
from planmesh.credentials import CONNECTION_FILE, Credentials, read_connection, read_credentials, users
from planmesh.errors import Busy, Unusable

_PUBLISH_S: Final = 5.0
_TRIES: Final = 5


@contextlib.asynccontextmanager
async def enter(
    role: Literal["submitter", "operator"],
    *,
    server: str | None,
    credentials: Path | None,
    data_dir: Path | None,
    user: str | None,
    name: str,
    wait_s: float,
) -> AsyncIterator[Connection]:
    """Connect as a user of *role*; see `find_credentials` for who that is.

    Args:
        name: What the server's monitoring calls this connection.
        wait_s: How long the server may take to open its port.

    Raises:
        Unusable: No credentials, no server, or not one for planmesh; the text says what to do.
    """
    _be_quiet()
    found = find_credentials(role, server=server, credentials=credentials, data_dir=data_dir, user=user)
    async with await connect(found.server, found.user, found.password, name=name, wait_s=wait_s) as connection:
        yield connection


def find_credentials(
    role: Literal["submitter", "operator"],
    *,
    server: str | None = None,
    credentials: Path | None = None,
    data_dir: Path | None = None,
    user: str | None = None,
) -> Credentials:
    """Whose credentials to use.

    Args:
        role: What is to be done.
        server: ``nats://host:port``; None: what the settings, or else the credentials say.
        credentials: The directory of credentials, or one file of it; None: what the settings say.
        data_dir: Where the mesh keeps its files; None: what the settings say.
        user: ``submitter-<space>`` or ``operator-<name>``, or only what follows the role; None: whom
            ``connection.toml`` names, or else the only user of the role in the directory.

    Raises:
        Unusable: There are none, or several to choose from.
    """
    from planmesh import settings  # it takes a while, and a caller may have its own credentials

    if credentials is not None and credentials.is_file():
        return read_credentials(credentials.parent, user or credentials.stem, server)
    found = settings.load(server=server, credentials=credentials, data_dir=data_dir)
    directory = found.credentials_dir
    if user is None:
        user = _only(role, directory, found.data_dir)
    elif not user.startswith(f"{role}-"):
        user = f"{role}-{user}"
    return read_credentials(directory, user, found.server)


def _only(role: Literal["submitter", "operator"], directory: Path, data_dir: Path) -> str:
    there = [user for user in users(directory) if user.startswith(f"{role}-")]
    if (data_dir / CONNECTION_FILE).exists():
        chosen = read_connection(data_dir)
        named = chosen.operator if role == "operator" else chosen.submitter
        if named in there:
            return named
    if len(there) == 1:
        return there[0]
    if there:
        raise Unusable(f"{directory} has the credentials of {', '.join(there)}: say which of them to be (--user)")
    if not users(directory):
        raise Unusable(
            f"there is no mesh in {data_dir}, and no credentials of one: `planmesh up` starts one on this machine. To "
            f"use one elsewhere, have its administrator run `planmesh credentials {role} NAME`, and say where you keep "
            "the file: --data-dir, PLANMESH_DATA_DIR or PLANMESH_CREDENTIALS"
        )
    raise Unusable(
        f"no {role}'s credentials in {directory}: `planmesh up` makes them for a mesh on this machine, and "
        f"`planmesh credentials {role} NAME` on the machine of whoever administers it. If they are elsewhere, say so "
        "with --data-dir, PLANMESH_DATA_DIR or PLANMESH_CREDENTIALS"
    )


async def publish(connection: Connection, subject: str, data: bytes) -> None:
    """Publish what may arrive twice without harm, until the server says that it is stored. Raises: Busy, …"""
    for left in reversed(range(_TRIES)):
        try:
            await connection.publish(subject, data, timeout_s=_PUBLISH_S)
        except Busy as error:
            if not error.ambiguous or not left:
                raise
            await asyncio.sleep(0.2)
        else:
            return


def _be_quiet() -> None:
    """In a program that has not said what to do with logs, write warnings to stderr: structlog would write everything
    to stdout."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )
