"""A database that cannot be used says why, and what was not written is not half written."""

import resource
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from auditor_tables import Audited
from plays import Play, plan, task

from planmesh.auditor.project import Batch
from planmesh.auditor.store import Database, Store
from planmesh.errors import Busy, Conflict, Unusable
from planmesh.schemas import queries

Tables = Callable[..., Audited]


def played() -> Play:
    play = Play(plan(task("one"), task("two", "one")))
    play.completes("one", output={"text": "x" * 2_000})
    play.completes("two")
    return play


def test_nobody_else_may_read_the_file(tables_in: Tables) -> None:
    assert stat.S_IMODE(tables_in().path.stat().st_mode) == 0o600


def test_a_lock_that_somebody_holds_is_waited_out(tmp_path: Path) -> None:
    store = Store(Database(f"sqlite:///{tmp_path / 'auditor.db'}", lock_wait_s=0.05))
    position = store.open()
    other = sqlite3.connect(tmp_path / "auditor.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Busy, match=r"auditor\.db is locked by another process"):
        store.write(Batch().rows(), position, position._replace(sequence=1))
    other.execute("ROLLBACK")
    other.close()

    store.write(Batch().rows(), position, position._replace(sequence=1))
    assert store.open().sequence == 1


def test_a_full_disk_loses_nothing(tables_in: Tables) -> None:
    play, audited = played(), tables_in()
    audited.add(*play.log[:1])
    plans, position = dict(audited.plans), audited.position
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = audited.path.with_name(f"{audited.path.name}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 512, hard))
    try:
        with pytest.raises(Busy, match=r"cannot be written .*: is the disk full\?"):
            audited.add(*play.log[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert audited.store.open() == position

    audited.plans = plans
    audited.add(*play.log[1:])

    assert audited.ask(queries.PlanQuery(plan="plan")).plan.status == "completed"


def test_a_file_that_is_gone_is_not_written_to_and_not_made_anew(tables_in: Tables) -> None:
    play, audited = played(), tables_in()
    audited.add(*play.log[:1])
    audited.path.unlink()

    with pytest.raises(Busy, match=r"is gone: put it back; or restart the auditor"):
        audited.add(*play.log[1:])
    with pytest.raises(Busy, match="is gone"):
        audited.ask(queries.PlansQuery())

    assert not audited.path.exists()


def test_another_file_in_its_place_is_noticed(tables_in: Tables) -> None:
    audited, other = tables_in(), tables_in("other.db")
    play = played()
    audited.add(*play.log)
    other.database.close()
    other.path.replace(audited.path)

    with pytest.raises(Conflict, match="has been replaced by another file"):
        audited.store.write(Batch().rows(), audited.position, audited.position)

    assert audited.store.open().sequence == 0


def test_two_writers_do_not_write_the_same_twice(tables_in: Tables) -> None:
    play, audited = played(), tables_in()
    second = Store(audited.database)
    position = second.open()
    audited.add(*play.log)

    with pytest.raises(Conflict, match=r"expected the tables in .* to be at sequence 0, .* another auditor"):
        second.write(Batch().rows(), position, position._replace(sequence=1))

    assert second.open() == audited.position


def test_tables_that_were_dropped_are_noticed(tables_in: Tables) -> None:
    audited = tables_in()
    audited.store.forget()

    with pytest.raises(Conflict, match=r"the tables in .* are not there"):
        audited.store.write(Batch().rows(), audited.position, audited.position)
    with pytest.raises(Conflict, match=r"the tables in .* are not there"):
        audited.ask(queries.PlansQuery())


def test_tables_that_somebody_has_changed_are_not_written_to(tables_in: Tables) -> None:
    play, audited = played(), tables_in()
    audited.add(*play.log)
    sqlite3.connect(audited.path, isolation_level=None).execute("DELETE FROM position").connection.close()
    audited.position = audited.store.open()
    audited.plans.clear()

    with pytest.raises(Unusable, match=r"are not what the log has made of them \(UNIQUE .*--rebuild"):
        audited.add(*play.log)


def test_a_damaged_file_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "auditor.db"
    path.write_bytes(b"This is a text that somebody has put here." * 100)

    with pytest.raises(Unusable, match=r"is damaged \(file is not a database\): move it away"):
        Store(Database(f"sqlite:///{path}")).open()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not one of SQLAlchemy's, such as sqlite:///"),
        ("oracle2://somewhere", "not one of SQLAlchemy's, such as sqlite:///"),
        ("sqlite://", "is a file, such as"),
        ("sqlite:///:memory:", "is a file, such as"),
        ("sqlite:////dev/null/auditor.db", "cannot make the database"),
    ],
)
def test_what_is_no_database_is_said_so(url: str, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        Database(url)


def test_a_server_that_is_away_is_waited_for_and_its_password_is_not_shown() -> None:
    store = Store(Database("postgresql+psycopg://ada:secret@127.0.0.1:1/planmesh?connect_timeout=1&password=secret"))

    with pytest.raises(Busy, match=r"postgresql\+psycopg://ada:\*\*\*@127\.0\.0\.1:1/planmesh") as error:
        store.open()

    assert "secret" not in str(error.value)
