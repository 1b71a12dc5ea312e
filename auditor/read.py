"""Answers from the tables. Everything here blocks, and is called in a thread; an answer is drawn from one moment."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, Select, Text, and_, cast, exists, or_, select
from sqlalchemy.engine import Row

from planmesh.auditor import tables
from planmesh.auditor.store import Database
from planmesh.schemas import queries, tracing
from planmesh.schemas.codec import encode
from planmesh.schemas.events import AskOpened, Cause, GateOpened
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Permissions, Plan
from planmesh.schemas.queries import PAGE_BYTES, ROW_BYTES, QueryError
from planmesh.schemas.state import PlanStatus, StepStatus
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import Failure, Parent, Usage

_GOAL_CHARACTERS: Final = 200
_FETCH: Final = 50
_SPACES: Final = 20
_NEAREST: Final = 5
_LOOKED_AT: Final = 2_000

_plans, _steps, _log, _gates, _position = (
    tables.plans.c,
    tables.steps.c,
    tables.log.c,
    tables.gates.c,
    tables.position.c,
)

_Any = TypeVar("_Any", bound=msgspec.Struct)


class _Base(NamedTuple):
    """What every answer says."""

    position: int
    lag: int


class Refused(Exception):
    """There is no answer, and this is why."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        self.error = QueryError(code=code, message=message, **more)
        super().__init__(message)


class Reader:
    """Reads the tables.

    Every method takes a question and `last`, the last sequence of the log as far as is known, and raises `Refused`,
    or what `Database.transaction` raises.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def answer(self, question: queries.Question, last: int) -> queries.Answer:
        with self._database.transaction("read") as connection:
            position = connection.execute(select(tables.position)).one()
            base = _Base(position.sequence, max(0, last - position.sequence))
            match question:
                case queries.PlansQuery():
                    return _answer_plans(connection, question, base)
                case queries.PlanQuery():
                    return _answer_plan(connection, question, base)
                case queries.StepsQuery():
                    return _answer_steps(connection, question, base)
                case queries.LogQuery():
                    return _answer_log(connection, question, base)
                case queries.GatesQuery():
                    return _answer_gates(connection, question, base)
                case queries.PositionQuery():
                    return queries.PositionAnswer(at=position.at, skipped=position.skipped, **base._asdict())


# --- plans -------------------------------------------------------------------------------------------------

_IN_LISTS: Final = [
    column for column in _plans if column.name not in {"document", "inputs", "result", "problems", "origin"}
]


def _answer_plans(connection: Connection, question: queries.PlansQuery, base: _Base) -> queries.PlansAnswer:
    wanted = select(*_IN_LISTS).order_by(_plans.id.desc()).limit(question.limit + 1)
    if question.before is not None:
        wanted = wanted.where(_plans.id < question.before)
    if question.statuses:
        wanted = wanted.where(_plans.status.in_([str(status) for status in question.statuses]))
    else:
        wanted = wanted.where(_plans.status != PlanStatus.ABSENT.value)
    if question.space:
        wanted = wanted.where(_plans.space == question.space)
    if question.since is not None:
        wanted = wanted.where(_plans.created_at >= question.since)
    if question.until is not None:
        wanted = wanted.where(_plans.created_at < question.until)
    if question.text:
        columns = (_plans.plan, _plans.name, _plans.goal)
        wanted = wanted.where(or_(*(column.icontains(question.text, autoescape=True) for column in columns)))
    if question.agent:
        wanted = wanted.where(exists().where(_steps.plan_id == _plans.id, _steps.agent == question.agent))
    rows, follows = _page(_rows(connection, wanted), _plan_in_list, question.limit)
    return queries.PlansAnswer(plans=tuple(rows), next=rows[-1].sequence if follows else None, **base._asdict())


def _plan_in_list(row: Row[Any]) -> queries.PlanRow:
    plan = _plan(row)
    if len(plan.goal) <= _GOAL_CHARACTERS:
        return plan
    return replace(plan, goal=f"{plan.goal[: _GOAL_CHARACTERS - 1]}…")


def _plan(row: Row[Any]) -> queries.PlanRow:
    return queries.PlanRow(
        space=row.space,
        plan=row.plan,
        name=row.name,
        goal=row.goal,
        status=PlanStatus(row.status),
        reason=row.reason,
        by=row.actor,
        outcome=row.outcome,
        requester=row.requester,
        steps=row.steps,
        settled=row.steps - row.open_steps,
        running=row.running,
        gates=tuple(row.gates),
        asks=tuple(row.asks),
        overdue=tuple(row.overdue),
        troubled=tuple(row.troubled),
        held=row.held,
        held_steps=tuple(row.held_steps),
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        ended_at=row.ended_at,
        number=row.number,
        sequence=row.id,
        trace_id=row.trace_id,
        parent=None if row.parent is None else msgspec.convert(row.parent, Parent),
    )


def _answer_plan(connection: Connection, question: queries.PlanQuery, base: _Base) -> queries.PlanAnswer:
    its_id, _ = _find(connection, question.space, question.plan, base)
    row = connection.execute(select(tables.plans).where(_plans.id == its_id)).one()
    answer = queries.PlanAnswer(
        plan=_plan(row),
        document=None if row.document is None else msgspec.convert(row.document, Plan),
        inputs=row.inputs or {},
        result=_payload(row.result),
        problems=msgspec.convert(row.problems or (), tuple[Problem, ...]),
        origin=None if row.origin is None else msgspec.convert(row.origin, Origin),
        **base._asdict(),
    )
    return _fit(answer, {"document": None, "result": NOTHING, "inputs": {}, "problems": (), "origin": None})


def _find(connection: Connection, space: str, plan: str, base: _Base, *, absent: bool = False) -> tuple[int, Address]:
    """The id of a plan; if *absent*, also of one that has nothing but commands that were refused. Raises: Refused."""
    wanted = select(_plans.id, _plans.space).where(_plans.plan == plan).order_by(_plans.space).limit(_SPACES)
    if not absent:
        wanted = wanted.where(_plans.status != PlanStatus.ABSENT.value)
    if space:
        wanted = wanted.where(_plans.space == space)
    found = connection.execute(wanted).all()
    if len(found) == 1:
        return found[0].id, Address(found[0].space, plan)
    if found:
        spaces = tuple(row.space for row in found)
        raise Refused(
            "ambiguous_plan",
            f"plan {plan} is in more than one space: {', '.join(spaces)}. Say which: {spaces[0]}.{plan}",
            spaces=spaces,
        )
    nearest = _nearest(connection, space, plan)
    behind = f"; {base.lag:,} messages of the log are still to be read" if base.lag else ""
    like = f". Did you mean {nearest[0]}?" if nearest else ""
    shown = f"{space}.{plan}" if space else plan
    raise Refused("unknown_plan", f"there is no plan {shown}{behind}{like}", nearest=nearest)


def _nearest(connection: Connection, space: str, plan: str) -> tuple[str, ...]:
    """Plans whose ids look like this one, or begin like it; among the newest."""
    there = select(_plans.space, _plans.plan).where(_plans.status != PlanStatus.ABSENT.value)
    newest = there.order_by(_plans.id.desc()).limit(_LOOKED_AT)
    begin = there.where(_plans.plan.startswith(plan, autoescape=True)).limit(_NEAREST)
    known: dict[str, list[str]] = {}
    for row in connection.execute(newest):
        known.setdefault(row.plan, []).append(row.space)
    found = [f"{row.space}.{row.plan}" for row in connection.execute(begin)] if plan else []
    found += [f"{its}.{name}" for name in get_close_matches(plan, known, _NEAREST) for its in known[name]]
    # The same plan in another space than the one that was named comes first.
    ranked = sorted(dict.fromkeys(found), key=lambda address: address.partition(".")[2] != plan)
    return tuple(ranked[:_NEAREST])


# --- steps, log, gates -------------------------------------------------------------------------------------


def _answer_steps(connection: Connection, question: queries.StepsQuery, base: _Base) -> queries.StepsAnswer:
    its_id, at = _find(connection, question.space, question.plan, base)
    wanted = (
        select(tables.steps)
        .where(_steps.plan_id == its_id, _steps.position > question.after)
        .order_by(_steps.position)
        .limit(question.limit + 1)
    )
    rows, follows = _page(_rows(connection, wanted), lambda row: _step(row, at), question.limit)
    following = question.after + len(rows) if follows else None
    return queries.StepsAnswer(space=at.space, plan=at.plan, steps=tuple(rows), next=following, **base._asdict())


def _step(row: Row[Any], at: Address) -> queries.StepRow:
    gate = row.kind in {"gate", "ask"}
    duration_s, attempt = row.duration_s, row.attempt
    if gate and row.begun_at is not None and row.finished_at is not None:
        duration_s = (row.finished_at - row.begun_at).total_seconds()
    if row.kind in {"decide", "check", "each", "emit"} and row.status == StepStatus.COMPLETED:
        attempt += 1  # what is settled at once counts its failures only: see `planmesh.auditor.spans.last_attempt`
    step = queries.StepRow(
        step=row.step,
        kind=row.kind,
        label=row.label,
        status=StepStatus(row.status),
        since=row.since,
        needs=tuple(row.needs),
        optional=row.optional,
        attempt=row.attempt,
        held=row.held,
        agent=row.agent,
        worker=row.worker,
        version=row.version,
        permissions=msgspec.convert(row.permissions, Permissions),
        idempotent=row.idempotent,
        inputs=_payload(row.inputs),
        output=_payload(row.output),
        branch=row.branch,
        failure=None if row.failure is None else msgspec.convert(row.failure, Failure),
        reason=row.reason,
        retry_at=row.retry_at,
        dispatched_at=None if gate else row.begun_at,
        started_at=row.begun_at if gate else row.started_at,
        finished_at=row.finished_at,
        duration_s=duration_s,
        usage=None if row.usage is None else msgspec.convert(row.usage, Usage),
        child=row.child,
        child_status=row.child_status,
        each=row.each,
        item=row.item,
        votes=tuple(row.votes),
        span_id=tracing.span_id(at, row.step, attempt) if attempt else "",
    )
    return _fit(step, {"inputs": NOTHING, "output": NOTHING, "failure": None})


def _answer_log(connection: Connection, question: queries.LogQuery, base: _Base) -> queries.LogAnswer:
    its_id, at = _find(connection, question.space, question.plan, base, absent=True)
    columns = (_log.number, _log.event_index, _log.sequence, _log.at, _log.type, _log.step, _log.causes)
    wanted = (
        select(*columns, cast(_log.event, Text).label("event"))
        .where(
            _log.plan_id == its_id,
            or_(
                _log.number > question.number,
                and_(_log.number == question.number, _log.event_index >= question.index),
            ),
        )
        .order_by(_log.number, _log.event_index)
        .limit(question.limit + 1)
    )
    rows, follows = _page(_rows(connection, wanted), _line, question.limit)
    following = (follows.number, follows.event_index) if follows else None
    return queries.LogAnswer(space=at.space, plan=at.plan, lines=tuple(rows), next=following, **base._asdict())


def _line(row: Row[Any]) -> queries.LogLine:
    line = queries.LogLine(
        number=row.number,
        index=row.event_index,
        sequence=row.sequence,
        at=row.at,
        type=row.type,
        step=row.step,
        causes=msgspec.convert(row.causes or (), tuple[Cause, ...]),
        event=msgspec.Raw(row.event.encode()),
    )
    return _fit(line, {"event": msgspec.Raw(b"null"), "causes": ()})


_IN_LISTS_OF_GATES: Final = [column for column in _gates if column.name != "opened"]


def _answer_gates(connection: Connection, question: queries.GatesQuery, base: _Base) -> queries.GatesAnswer:
    of_the_plan = (_plans.space, _plans.plan, _plans.name.label("plan_name"))
    wanted = (
        select(*(_IN_LISTS_OF_GATES if question.brief else _gates), *of_the_plan)
        .join(tables.plans, _plans.id == _gates.plan_id)
        .order_by(_gates.opened_at, _gates.plan_id, _gates.step)
        .limit(question.limit + 1)
    )
    if question.plan:
        its_id, _ = _find(connection, question.space, question.plan, base)
        wanted = wanted.where(_gates.plan_id == its_id)
    elif question.space:
        wanted = wanted.where(_plans.space == question.space)
    if question.after:
        opened_at, plan_id, step = _cursor(question.after)
        same_time = _gates.opened_at == opened_at
        wanted = wanted.where(
            or_(
                _gates.opened_at > opened_at,
                and_(same_time, _gates.plan_id > plan_id),
                and_(same_time, _gates.plan_id == plan_id, _gates.step > step),
            )
        )
    read: list[Row[Any]] = []  # the last of them need not fit

    def gate(row: Row[Any]) -> queries.GateRow:
        read.append(row)
        return _listed(row) if question.brief else _gate(row)

    rows, follows = _page(_rows(connection, wanted), gate, question.limit)
    last = read[len(rows) - 1] if follows else None
    following = f"{last.opened_at.isoformat()}/{last.plan_id}/{last.step}" if last is not None else None
    return queries.GatesAnswer(gates=tuple(rows), next=following, **base._asdict())


def _cursor(after: str) -> tuple[datetime, int, str]:
    try:
        opened_at, plan_id, step = after.split("/")
        return datetime.fromisoformat(opened_at), int(plan_id), step
    except ValueError:
        raise Refused("bad_query", f"`after` is `next` of the page before, not {after[:80]!a}") from None


def _listed(row: Row[Any]) -> queries.GateRow:
    """A gate in few words."""
    return queries.GateRow(
        kind=row.kind,
        digest=row.digest,
        quorum=row.quorum,
        overdue_at=row.overdue_at,
        prompt=row.prompt,
        round=row.round,
        **_about(row),
    )


def _gate(row: Row[Any]) -> queries.GateRow:
    opened = msgspec.convert({**row.opened, "type": f"{row.kind}.opened"}, GateOpened | AskOpened)
    gate = queries.GateRow(**{**queries.asked(opened), **_about(row)})
    return _fit(gate, {"releases": (), "shown": (), "changes": (), "upstream": (), "prompt": ""})


def _about(row: Row[Any]) -> dict[str, Any]:
    return {
        "space": row.space,
        "plan": row.plan,
        "plan_name": row.plan_name,
        "step": row.step,
        "label": row.label,
        "reviewers": tuple(row.reviewers),
        "escalated": tuple(row.escalated),
        "votes": tuple(row.votes),
        "four_eyes": row.four_eyes,
        "require_reason": row.require_reason,
        "since": row.opened_at,
        "overdue": row.overdue,
        "invalid": row.invalid,
    }


# --- pages -------------------------------------------------------------------------------------------------


def _rows(connection: Connection, wanted: Select[Any]) -> Iterator[Row[Any]]:
    """One by one, so that a page which ends early has not fetched what is behind it."""
    yield from connection.execution_options(yield_per=_FETCH).execute(wanted)


def _page(rows: Iterable[Row[Any]], read: Callable[[Row[Any]], _Any], limit: int) -> tuple[list[_Any], Row[Any] | None]:
    """As many rows as fit.

    Returns:
        The rows, and the first one that is left for the next page, if there is one.
    """
    page: list[_Any] = []
    size_bytes = 0
    for row in rows:
        if len(page) == limit:
            return page, row
        one = read(row)
        size_bytes += len(encode(one))
        if page and size_bytes > PAGE_BYTES:
            return page, row
        page.append(one)
    return page, None


def _fit(struct: _Any, empty: Mapping[str, Any]) -> _Any:
    """The same without as many of these fields as it takes to fit in a message; `cut` names them."""
    cut: list[str] = []
    for field, nothing in empty.items():
        if len(encode(struct)) <= ROW_BYTES:
            break
        cut.append(field)
        struct = replace(struct, **{field: nothing, "cut": tuple(cut)})
    return struct


def _payload(value: Any) -> Payload:
    return NOTHING if value is None else msgspec.convert(value, Payload)
