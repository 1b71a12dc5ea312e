"""The database: its connection, and what is written to it. Everything here blocks, and is called in a thread.

SQLite by default: one file, which this process alone writes. Any other database that SQLAlchemy knows will do.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Engine,
    Insert,
    Table,
    Update,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.compiler import SQLCompiler

from planmesh.auditor import tables
from planmesh.auditor.project import Row, Rows
from planmesh.credentials import private_directory, private_file
from planmesh.errors import Busy, Conflict, PlanmeshError, Unusable
from planmesh.schemas.codec import encode
from planmesh.schemas.subjects import Address

REBUILD: Final = "`python -m planmesh.auditor --rebuild`"

Statement = Insert | Update | Delete

_SECRETS: Final = ("password", "passfile", "sslpassword")
_READERS: Final = 4
_ADDRESSES_A_QUERY: Final = 400


def _of_the_step(table: Table) -> ColumnElement[bool]:
    return and_(table.c.plan_id == bindparam("its_plan"), table.c.step == bindparam("its_step"))


# For each field of `Rows`, in the order in which foreign keys allow them.
_STATEMENTS: Final[dict[str, Statement]] = {
    "plans": insert(tables.plans),
    "plan_changes": update(tables.plans).where(tables.plans.c.id == bindparam("its_id")),
    "steps": insert(tables.steps),
    "step_changes": update(tables.steps).where(_of_the_step(tables.steps)),
    "gates_gone": delete(tables.gates).where(_of_the_step(tables.gates)),
    "gates": insert(tables.gates),
    "lines": insert(tables.log),
}


class Position(NamedTuple):
    """How far the log has been read.

    Attributes:
        stream_created: When the stream was made, in the server's words; empty before any was seen.
        sequence: The last message that the tables know of; 0 for none.
        at: The time of the last commit.
        skipped: Messages that were no commits of their plan.
    """

    stream_created: str = ""
    sequence: int = 0
    at: datetime | None = None
    skipped: int = 0


class OlderTables(Unusable):
    """The tables are those of an older version.

    Attributes:
        version: Which one.
        position: What they were made from.
    """

    def __init__(self, text: str, version: int, position: Position) -> None:
        super().__init__(text)
        self.version = version
        self.position = position


class Database:
    """A database, and the connections to it.

    Attributes:
        shown: Which one, without a password.

    Args:
        url: As SQLAlchemy writes it. A SQLite file that is not there is made, readable by its owner only.
        lock_wait_s: How long to wait for a SQLite file that somebody else has locked.

    Raises:
        Unusable: This is no database, its driver is not installed, or the file cannot be made.
    """

    def __init__(self, url: str, *, lock_wait_s: float = 5.0) -> None:
        self._lock_wait_s = lock_wait_s
        try:
            self._url: URL = make_url(url)
            self._dialect = self._url.get_dialect()
        except (ArgumentError, NoSuchModuleError) as error:
            raise Unusable(
                "the auditor's database_url is not one of SQLAlchemy's, such as sqlite:////var/lib/planmesh/auditor.db "
                f"or postgresql+psycopg://user@host/planmesh: {type(error).__name__}"
            ) from None
        self.shown = self._url.difference_update_query(_SECRETS).render_as_string(hide_password=True)
        self.path = _file(self._url, self.shown) if self._url.get_backend_name() == "sqlite" else None
        self._lock = threading.RLock()
        self._opened: tuple[int, int] | None = None
        self._wal: tuple[int, int] | None = None
        self._engines: dict[str, Engine] = {}

    def close(self) -> None:
        with self._lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()
            self._opened = None

    @contextlib.contextmanager
    def transaction(self, kind: Literal["read", "write"]) -> Iterator[Connection]:
        """One transaction, on a connection of the pool for this kind.

        Raises:
            Busy: It is locked, full, gone or away.
            Conflict: The file is another one than before, or its tables are gone: what was known of it is not so.
            Unusable: It is damaged, or refuses us.
        """
        try:
            with self._lock:
                self._look()
                engine = self._engine(kind)
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            trouble = self._trouble(error)
            if trouble is None:
                raise
            raise trouble from error

    def _look(self) -> None:
        """SQLite would go on writing to a file that has been deleted, which nobody could read."""
        if self.path is None:
            return
        found = _identity(self.path)
        if found is None:
            raise Busy(
                f"the database {self.path} is gone: put it back; or restart the auditor, which makes a new one from "
                "the log"
            )
        if self._opened is not None and self._opened != found:
            self.close()
            # What is left of the old file would be taken for changes to the new one.
            if self._wal is not None and _identity(self._beside("-wal")) == self._wal:
                self._beside("-wal").unlink(missing_ok=True)
                self._beside("-shm").unlink(missing_ok=True)
            raise Conflict(f"the database {self.path} has been replaced by another file")
        self._opened = found

    def _beside(self, suffix: str) -> Path:
        assert self.path is not None  # whoever calls has looked
        return self.path.with_name(self.path.name + suffix)

    def _engine(self, kind: Literal["read", "write"]) -> Engine:
        engine = self._engines.get(kind)
        if engine is None:
            engine = self._engines[kind] = self._sqlite(kind) if self.path is not None else self._server(kind)
        return engine

    def _server(self, kind: Literal["read", "write"]) -> Engine:
        try:
            return create_engine(
                self._url,
                json_serializer=_to_json,
                json_deserializer=msgspec.json.decode,
                # An answer is drawn from one moment, rows and position alike.
                isolation_level="REPEATABLE READ" if kind == "read" else "READ COMMITTED",
                pool_size=_READERS if kind == "read" else 1,
                max_overflow=0,
                pool_pre_ping=kind == "read",
            )
        except ImportError as error:
            raise Unusable(
                f"the driver for {self.shown} is not installed ({error}): `pip install 'planmesh[postgresql]'`"
            ) from None

    def _sqlite(self, kind: Literal["read", "write"]) -> Engine:
        assert self.path is not None  # whoever calls has looked
        name = f"file:{quote(str(self.path))}?mode=rw"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                name, uri=True, timeout=self._lock_wait_s, check_same_thread=False, isolation_level=None
            )
            # WAL: who reads does not wait for who writes. NORMAL: a power cut may lose the last transactions, rows
            # and position together, and they are read from the log again.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if kind == "read":
                connection.execute("PRAGMA query_only=ON")
            connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # now the write-ahead log is there
            self._wal = _identity(self._beside("-wal"))
            return connection

        engine = create_engine(
            "sqlite://",
            creator=connect,
            poolclass=QueuePool,
            json_serializer=_to_json,
            json_deserializer=msgspec.json.decode,
            pool_size=_READERS if kind == "read" else 1,
            max_overflow=0,
        )
        begin = "BEGIN" if kind == "read" else "BEGIN IMMEDIATE"

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _trouble(self, error: SQLAlchemyError) -> PlanmeshError | None:
        """What an error of the database means for whoever asked; None: it is a bug."""
        origin = error.orig if isinstance(error, DBAPIError) else None
        said = " ".join(str(origin or error).split())[:500]
        if isinstance(error, IntegrityError):
            return Unusable(
                f"the tables in {self.shown} are not what the log has made of them ({said}): somebody else has changed "
                f"them. Make them again with {REBUILD}"
            )
        if isinstance(origin, sqlite3.Error):
            return self._trouble_of_sqlite(getattr(origin, "sqlite_errorname", ""), said)
        if isinstance(error, ProgrammingError):
            if "UndefinedTable" in type(origin).__name__:
                return Conflict(f"the tables in {self.shown} are not there: {said}")
            return Unusable(f"the database {self.shown} refuses what the auditor needs: {said}")
        if isinstance(error, DataError):
            return None
        return Busy(f"the database {self.shown} does not answer as it should: {said}")

    def _trouble_of_sqlite(self, code: str, said: str) -> PlanmeshError | None:
        """Source: https://www.sqlite.org/rescode.html"""
        match "_".join(code.split("_")[:2]):
            case "SQLITE_BUSY" | "SQLITE_LOCKED":
                return Busy(f"the database {self.path} is locked by another process: it has to let go ({said})")
            case "SQLITE_FULL" | "SQLITE_IOERR":
                return Busy(f"the database {self.path} cannot be written ({said}): is the disk full?")
            case "SQLITE_CANTOPEN" | "SQLITE_READONLY" | "SQLITE_PERM":
                return Busy(f"the database {self.path} cannot be opened for writing ({said}): who may write there?")
            case "SQLITE_CORRUPT" | "SQLITE_NOTADB":
                return Unusable(
                    f"the database {self.path} is damaged ({said}): move it away, and the auditor makes a new one from "
                    "the log"
                )
            case "SQLITE_ERROR" if "no such table" in said:
                return Conflict(f"the tables in {self.path} are not there: {said}")
        return None


class _Prepared:
    """A statement for many rows with the same columns, compiled once: SQLAlchemy's own way costs half as much again
    as the database does."""

    def __init__(self, connection: Connection, statement: Statement, columns: Sequence[str]) -> None:
        dialect = connection.dialect
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)  # it is SQL
        self._sql = str(compiled)
        self._positional = compiled.positional
        self._parameters = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in (compiled.positiontup or compiled.binds)
        ]

    def execute(self, connection: Connection, rows: list[Row]) -> None:
        parameters = self._parameters
        given: list[Any]
        if self._positional:
            given = [tuple([row[name] if to is None else to(row[name]) for name, to in parameters]) for row in rows]
        else:
            given = [{name: row[name] if to is None else to(row[name]) for name, to in parameters} for row in rows]
        connection.exec_driver_sql(self._sql, given)


class Store:
    """Writes what the log says. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared: dict[tuple[str, tuple[str, ...]], _Prepared] = {}

    def open(self) -> Position:
        """Make the tables if they are not there; say how far they go.

        Raises:
            Busy, Conflict, Unusable: See `Database.transaction`.
            OlderTables, Unusable: The tables are those of another version.
        """
        with self._database.transaction("write") as connection:
            tables.METADATA.create_all(connection)
            found = connection.execute(select(tables.position)).one_or_none()
            if found is None:
                first = {"id": 1, "version": tables.VERSION, **Position()._asdict()}
                connection.execute(insert(tables.position), first)
                return Position()
        position = Position(found.stream_created, found.sequence, found.at, found.skipped)
        if found.version != tables.VERSION:
            said = (
                f"the tables in {self._database.shown} are of version {found.version}, and this auditor writes version "
                f"{tables.VERSION}: make them again from the log with {REBUILD}"
            )
            raise OlderTables(said, found.version, position) if found.version < tables.VERSION else Unusable(said)
        return position

    def forget(self) -> None:
        """Drop everything. Raises: Busy, Conflict, Unusable."""
        with self._database.transaction("write") as connection:
            tables.METADATA.drop_all(connection)

    def write(self, rows: Rows, before: Position, after: Position) -> None:
        """Rows and position, in one transaction.

        Raises:
            Conflict: The tables are not at *before*: someone else writes them, or they were replaced.
            Busy, Unusable: See `Database.transaction`. Nothing was written.
        """
        with self._database.transaction("write") as connection:
            moved = connection.execute(
                update(tables.position).where(
                    tables.position.c.sequence == before.sequence,
                    tables.position.c.stream_created == before.stream_created,
                ),
                after._asdict(),
            )
            if moved.rowcount != 1:
                raise Conflict(
                    f"expected the tables in {self._database.shown} to be at sequence {before.sequence:,}, and they "
                    "are not: another auditor writes them, or they were replaced"
                )
            for name, statement in _STATEMENTS.items():
                by_columns: dict[tuple[str, ...], list[Row]] = {}
                for row in getattr(rows, name):
                    by_columns.setdefault(tuple(row), []).append(row)
                for columns, changed in by_columns.items():
                    prepared = self._prepared.get((name, columns))
                    if prepared is None:
                        prepared = self._prepared[name, columns] = _Prepared(connection, statement, columns)
                    prepared.execute(connection, changed)

    def ids(self, addresses: list[Address]) -> dict[Address, int]:
        """The ids of those plans that the tables know. Raises: Busy, Conflict, Unusable."""
        found: dict[Address, int] = {}
        columns = (tables.plans.c.space, tables.plans.c.plan, tables.plans.c.id)
        with self._database.transaction("write") as connection:
            for start in range(0, len(addresses), _ADDRESSES_A_QUERY):
                some = addresses[start : start + _ADDRESSES_A_QUERY]
                wanted = tables.plans.c.plan.in_([at.plan for at in some])
                for space, plan, its_id in connection.execute(select(*columns).where(wanted)):
                    found[Address(space, plan)] = its_id
        return {at: found[at] for at in addresses if at in found}


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None if there is none that can be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _to_json(value: Any) -> str:
    return encode(value).decode()


def _file(url: URL, shown: str) -> Path:
    if url.database in (None, "", ":memory:") or url.query:
        raise Unusable(f"the auditor's database is a file, such as sqlite:////var/lib/planmesh/auditor.db, not {shown}")
    path = Path(str(url.database)).absolute()
    try:
        private_directory(path.parent)
        # It holds what plans hold: nobody else's business.
        os.close(private_file(path, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        raise Unusable(f"cannot make the database {path}: {error.strerror or error}") from error
    return path
