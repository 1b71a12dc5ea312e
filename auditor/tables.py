"""The auditor's tables. Everything in them follows from the log; changing them changes nothing but this copy.

A plan's id is the sequence of its first commit in the stream PLANS: unique, and the same after a rebuild. Values of
plans (inputs, outputs) are JSON as `planmesh.schemas.payload.Payload` writes it. Times are UTC.
"""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, Table, TypeDecorator
from sqlalchemy.types import TypeEngine
from sqlmodel import Field, Index, SQLModel, UniqueConstraint

VERSION: Final = 5
"""Of these tables. Other tables are not understood, and have to be made again from the log."""


class Utc(TypeDecorator[datetime]):
    """An aware time. SQLite has no such type, so it holds text: UTC, ``2026-01-31 12:00:00.000000``."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String() if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)


_Long = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True)


class _Row(SQLModel):
    metadata = MetaData()


class Plan(_Row, table=True):
    """A plan, as of its last commit."""

    __tablename__ = "plans"
    __table_args__ = (
        UniqueConstraint("plan", "space"),
        Index("plans_by_space", "space", "id"),
        Index("plans_by_status", "status", "id"),
        Index("plans_by_time", "created_at"),
    )

    id: int = Field(primary_key=True, sa_type=_Long, sa_column_kwargs={"autoincrement": False})
    space: str
    plan: str
    name: str
    goal: str
    requester: str
    goal_digest: str
    trace_id: str
    parent: Any = Field(sa_type=_Json, nullable=True)
    """The step that it runs for."""
    status: str
    reason: str
    actor: str
    """Who paused, failed or cancelled it."""
    outcome: str
    steps: int
    open_steps: int
    """How many have not come to an end."""
    running: int
    gates: list[str] = Field(sa_type=_Json)
    """Gates that are open."""
    asks: list[str] = Field(sa_type=_Json)
    """Asks that are open."""
    overdue: list[str] = Field(sa_type=_Json)
    """Those of them that nobody has answered in time."""
    troubled: list[str] = Field(sa_type=_Json)
    held: bool
    held_steps: list[str] = Field(sa_type=_Json)
    """Steps that somebody has paused."""
    created_at: datetime = Field(sa_type=Utc)
    updated_at: datetime = Field(sa_type=Utc)
    ended_at: datetime | None = Field(sa_type=Utc)
    number: int
    """Of its last commit."""
    head: str
    """The hash of that."""
    revision: int
    document: Any = Field(sa_type=_Json, nullable=True)
    """The revision in force."""
    inputs: Any = Field(sa_type=_Json, nullable=True)
    result: Any = Field(sa_type=_Json, nullable=True)
    problems: Any = Field(sa_type=_Json, nullable=True)
    origin: Any = Field(sa_type=_Json, nullable=True)


class Step(_Row, table=True):
    """A step, as of its plan's last commit."""

    __tablename__ = "steps"
    __table_args__ = (Index("steps_by_agent", "agent", "plan_id"),)

    plan_id: int = Field(primary_key=True, sa_type=_Long, foreign_key="plans.id")
    step: str = Field(primary_key=True)
    position: int
    """In the plan's document, from 1; steps that a revision has taken out come last."""
    kind: str
    label: str
    optional: bool
    idempotent: bool
    needs: list[str] = Field(sa_type=_Json)
    permissions: Any = Field(sa_type=_Json)
    agent: str
    status: str
    since: datetime | None = Field(sa_type=Utc)
    attempt: int
    held: bool
    worker: str
    version: str
    output: Any = Field(sa_type=_Json)
    branch: str
    failure: Any = Field(sa_type=_Json, nullable=True)
    reason: str
    votes: list[str] = Field(sa_type=_Json)
    retry_at: datetime | None = Field(sa_type=Utc)
    started_at: datetime | None = Field(sa_type=Utc)
    finished_at: datetime | None = Field(sa_type=Utc)
    duration_s: float | None
    usage: Any = Field(sa_type=_Json, nullable=True)
    """Of models and tools, by the last attempt."""
    child: str
    """The plan that it runs."""
    child_status: str
    each: str
    """The `each` of whose items it belongs to one,"""
    item: int
    """and the number of that, from 1."""
    begun_at: datetime | None = Field(sa_type=Utc)
    """When the last attempt was handed out; when the gate opened."""
    inputs: Any = Field(sa_type=_Json, nullable=True)
    """Of the last attempt."""


class Line(_Row, table=True):
    """An event."""

    __tablename__ = "log"

    plan_id: int = Field(primary_key=True, sa_type=_Long, foreign_key="plans.id")
    number: int = Field(primary_key=True)
    """Of the commit."""
    event_index: int = Field(primary_key=True)
    """In the commit, from 0."""
    sequence: int = Field(sa_type=_Long)
    """Of the commit in the stream."""
    at: datetime = Field(sa_type=Utc)
    type: str
    step: str
    causes: Any = Field(sa_type=_Json, nullable=True)
    """What the commit answers; with its first event."""
    event: Any = Field(sa_type=_Json)


class OpenGate(_Row, table=True):
    """A gate or an ask that is open."""

    __tablename__ = "gates"

    plan_id: int = Field(primary_key=True, sa_type=_Long, foreign_key="plans.id")
    step: str = Field(primary_key=True)
    opened_at: datetime = Field(sa_type=Utc)
    label: str
    four_eyes: bool
    require_reason: bool
    prompt: str
    """The beginning of it."""
    reviewers: list[str] = Field(sa_type=_Json)
    """Those of `opened`, and to whom it was escalated."""
    round: int
    digest: str
    quorum: int
    votes: list[str] = Field(sa_type=_Json)
    overdue: bool
    overdue_at: datetime | None = Field(sa_type=Utc)
    escalated: list[str] = Field(sa_type=_Json)
    """To whom it was escalated."""
    invalid: int
    """Of an ask: how many answers were none."""
    kind: str
    """`gate` or `ask`."""
    opened: Any = Field(sa_type=_Json)
    """The event `gate.opened` or `ask.opened`: what the reviewers were asked."""


class Position(_Row, table=True):
    """How far the log has been read: one row."""

    __tablename__ = "position"

    id: int = Field(primary_key=True)
    version: int
    """`VERSION`."""
    stream_created: str
    """When the stream was made, in the server's words: another stream is another log."""
    sequence: int = Field(sa_type=_Long)
    at: datetime | None = Field(sa_type=Utc)
    """The time of the last commit."""
    skipped: int
    """Messages that were no commits of their plan."""


METADATA: Final = _Row.metadata
plans: Final[Table] = METADATA.tables["plans"]
steps: Final[Table] = METADATA.tables["steps"]
log: Final[Table] = METADATA.tables["log"]
gates: Final[Table] = METADATA.tables["gates"]
position: Final[Table] = METADATA.tables["position"]
