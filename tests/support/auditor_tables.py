"""The auditor's tables in a file of the test's own, and logs to fill them from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from planmesh.auditor import tables
from planmesh.auditor.project import Batch, Followed
from planmesh.auditor.read import Reader
from planmesh.auditor.store import Database, Position, Store
from planmesh.schemas import codec, queries
from planmesh.schemas.codec import encode
from planmesh.schemas.events import GENESIS, Commit, hash_of
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address

CREATED = "2026-01-01T00:00:00Z"


def moved(log: Iterable[tuple[Commit, str]], address: Address) -> list[tuple[Commit, str]]:
    """The same log as another plan's, as a reader of the stream gets it."""
    found: list[tuple[Commit, str]] = []
    previous = GENESIS
    for commit, _ in log:
        commit = msgspec.structs.replace(commit, space=address.space, plan=address.plan, previous=previous)
        data = encode(commit)
        previous = hash_of(data)
        found.append((codec.commit.decode(data), previous))
    return found


class Audited:
    """Tables that logs are projected into, without a stream.

    Args:
        where: A file, or the URL of a database.
    """

    def __init__(self, where: Path | str) -> None:
        self.path = Path(where)
        self.created = CREATED
        self.database = Database(f"sqlite:///{where}" if isinstance(where, Path) else where)
        self.store = Store(self.database)
        self.position = self.store.open()
        self.plans: dict[Address, Followed] = {}
        self.reader = Reader(self.database)

    def add(self, *commits: tuple[Commit, str]) -> Batch:
        """One transaction."""
        batch, sequence, at = Batch(traced=True), self.position.sequence, self.position.at
        for commit, commit_hash in commits:
            sequence, at = sequence + 1, commit.at
            before = self.plans.get(commit.address) or Followed(0, PlanState(address=commit.address))
            self.plans[commit.address] = batch.add(before, commit, commit_hash, sequence)
        after = Position(self.created, sequence, at)
        self.store.write(batch.rows(), self.position, after)
        self.position = after
        return batch

    def ask(self, question: queries.Question) -> Any:
        return self.reader.answer(question, self.position.sequence)

    def dump(self, after: int = 0) -> dict[str, Sequence[tuple[Any, ...]]]:
        """Everything that the tables hold of plans with an id above *after*, and the position."""
        found = {}
        with self.database.transaction("read") as connection:
            for table in tables.METADATA.sorted_tables:
                wanted = select(table).order_by(*table.primary_key)
                if table is not tables.position:
                    wanted = wanted.where(next(iter(table.primary_key)) > after)
                found[table.name] = [tuple(row) for row in connection.execute(wanted)]
        return found
