"""Verbs that look at plans of the mesh. Lists come from the auditor; one plan can also be read from its log."""

import asyncio
import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec
from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, history, render
from planmesh.cli.forms import as_line, as_one, as_rows
from planmesh.cli.history import Entry, entries
from planmesh.cli.review import allowed
from planmesh.cli.run import whole
from planmesh.cli.session import NotUnderstood, OfSession, Session, now
from planmesh.cli.standing import agents_asked
from planmesh.cli.steer import PlanId
from planmesh.cli.text import clock, defuse, duration, listed, one_line, paragraph, size, value
from planmesh.cli.view import PlanView, of_answers, of_state
from planmesh.cli.where import moment
from planmesh.errors import Busy, Unusable
from planmesh.inspection import consumer_info
from planmesh.operator import Operator
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Permissions
from planmesh.schemas.queries import GateRow, GatesQuery, PlanRow, PlansQuery, StepRow
from planmesh.schemas.state import PlanStatus, StepStatus
from planmesh.schemas.subjects import WORK, Address

_Status = Literal["draft", "running", "waiting", "paused", "completed", "failed", "cancelled", "refused"]
_PAGE = 1_000
_AGENTS_LOOKED_AT: Final = 20


async def list_(
    *,
    status: Annotated[tuple[_Status, ...], Parameter(negative=(), help="Only these; may be repeated.")] = (),
    text: Annotated[str, Parameter(help="Only with this in the id, the name or the goal.")] = "",
    agent: Annotated[str, Parameter(help="Only with a step of this agent.")] = "",
    space: Annotated[str, Parameter(help="Only of this requester.")] = "",
    since: Annotated[str, Parameter(help="Only created since: 2h, 3d, or a date such as 2026-11-22.")] = "",
    limit: Annotated[int, Parameter(help="How many at most.")] = 50,
    session: OfSession,
) -> int:
    """List plans, the newest first."""
    if limit < 1:
        raise NotUnderstood(f"--limit takes 1 or more, not {limit}")
    query = PlansQuery(
        statuses=tuple(PlanStatus(one) for one in status),
        text=text,
        agent=agent,
        space=space,
        since=moment(since, now()) if since else None,
    )
    rows: list[PlanRow] = []
    async with session.operator() as operator:
        more: int | None = None
        while len(rows) < limit:
            page = min(limit - len(rows), _PAGE)
            answer = await operator.plans(msgspec.structs.replace(query, limit=page, before=more))
            rows += answer.plans
            more = answer.next
            if more is None:
                break
    if session.output != "table":
        _print_rows(session, rows)
        return COMPLETED
    if not rows:
        session.say("There is no such plan." if status or text or agent or space or since else "There is no plan yet.")
        return COMPLETED
    spaces = len({row.space for row in rows}) > 1
    session.say(*render.plans(rows, now(), spaces=spaces, width=session.out.width))
    if more is not None:
        session.say(Text(f"There are more: --limit {2 * limit}", style="dim"), to=session.err)
    return COMPLETED


async def show(
    plan: PlanId,
    /,
    *,
    from_log: Annotated[bool, Parameter(negative=(), help="Read the log itself: works with the auditor down.")] = False,
    session: OfSession,
) -> int:
    """Show one plan: its steps, and, if it stands still, where, since when, why, and what you can do."""
    async with session.operator() as operator:
        address = await operator.find(plan)
        view, lag = (of_state(await operator.state(address)), 0) if from_log else await _ask(operator, address)
        unserved = await _unserved(operator, agents_asked(view)) if session.output == "table" else ()
    if session.output != "table":
        print(as_one(view, session.output))
        return COMPLETED
    lines = whole(view, session, unserved=unserved)
    origin = [*render.origin(view, now(), session.out.width), *_inputs(view)]
    session.say(*lines[:3], *origin, *lines[3:])
    if lag:
        session.say(Text(f"  The auditor is {lag:,} behind the log; --from-log shows what is newer.", style="dim"))
    return COMPLETED


async def _unserved(operator: Operator, agents: list[str]) -> tuple[str, ...]:
    """Those of *agents* that nobody runs. What cannot be looked at counts as run."""
    asked = agents[:_AGENTS_LOOKED_AT]
    with contextlib.suppress(Busy, Unusable):
        found = await asyncio.gather(
            *(consumer_info(operator.connection, WORK, subjects.agent_consumer(agent)) for agent in asked)
        )
        return tuple(agent for agent, info in zip(asked, found, strict=True) if info is None or not info.is_read)
    return ()


async def _ask(operator: Operator, address: Address) -> tuple[PlanView, int]:
    answer = await operator.plan(address)
    steps = await _steps(operator, address)
    gates: tuple[GateRow, ...] = ()
    if answer.plan.gates or answer.plan.asks:
        gates = (await operator.gates(GatesQuery(plan=address.plan, space=address.space))).gates
    return of_answers(answer, steps, gates), answer.lag


async def _steps(operator: Operator, address: Address) -> tuple[StepRow, ...]:
    rows: list[StepRow] = []
    after: int | None = 0
    while after is not None:
        page = await operator.steps(address, after=after)
        rows += page.steps
        after = page.next
    return tuple(rows)


def _inputs(view: PlanView) -> list[Text]:
    if not view.inputs:
        return []
    return [
        Text("  ").append(f"{one_line(name, 60)} = ", "dim").append(value(what, 200))
        for name, what in view.inputs.items()
    ]


async def steps(
    plan: PlanId,
    step: Annotated[str, Parameter(help="One step, with everything that is known of it.")] = "",
    /,
    *,
    session: OfSession,
) -> int:
    """Show what each step of a plan was given, and gave; or everything about one step."""
    async with session.operator() as operator:
        address = await operator.find(plan)
        rows = await _steps(operator, address)
        if step:
            rows = tuple(row for row in rows if row.step == step)
            if not rows:
                raise NotUnderstood(f"plan {address} has no step {step[:80]!a}; `planmesh steps {plan}` lists them")
            rows = (await _with_blobs(operator, rows[0]),) if session.output == "table" else rows
    if session.output != "table":
        if step:
            print(as_one(rows[0], session.output))
        else:
            _print_rows(session, list(rows))
    elif step:
        session.say(*_everything(rows[0], min(session.out.width, 120)))
    else:
        session.say(*_table(rows, session.out.width))
    return COMPLETED


async def _with_blobs(operator: Operator, row: StepRow) -> StepRow:
    changes = {}
    for field in ("inputs", "output"):
        payload: Payload = getattr(row, field)
        if payload.blob is not None and payload.blob.size_bytes <= 256 * 1024:
            changes[field] = Payload(value=await operator.value(payload))
    return msgspec.structs.replace(row, **changes)


def _table(rows: tuple[StepRow, ...], width: int) -> list[Text]:
    at = now()
    lines = []
    for row in rows:
        look = render.look_of(row)
        who = f"{row.agent} {row.version}".strip() if row.agent else row.kind
        said = render.failed(row.failure) if row.status is StepStatus.FAILED and row.failure is not None else ""
        lines.append(
            (
                row.step,
                Text(f"{look.sign} {look.word}", style=look.style),
                str(row.attempt or ""),
                duration(render.time_s(row, at)),
                who,
                listed(row.needs, 3),
                _brief(row.inputs),
                Text(one_line(said, 200), style="red") if said else _brief(row.output),
            )
        )
    head = ("STEP", "STATUS", "TRY", "TIME", "AGENT", "AFTER", "INPUTS", "OUTPUT")
    return render.columns(head, lines, right=frozenset({2, 3}), width=width, least={1: render.A_WORD})


def _brief(payload: Payload) -> str:
    if payload.blob is not None:
        return f"({size(payload.blob.size_bytes)})"
    return "" if payload.value is None else value(payload.value, 60)


def _everything(row: StepRow, width: int) -> list[Text]:
    """One step, a line or a block for each thing that is known."""
    look, at = render.look_of(row), now()
    title = Text("  ").append(row.step, "bold").append(f"   {look.sign} {look.word}", look.style)
    lines = [Text(), title.append(f"   {one_line(row.label)}" if row.label else "", "dim"), Text()]
    facts: dict[str, Any] = {
        "kind": row.kind + (", optional" if row.optional else "") + (", idempotent" if row.idempotent else ""),
        "after": ", ".join(row.needs),
        "agent": f"{row.agent} {row.version}".strip(),
        "may": allowed(row.permissions) if row.permissions != Permissions() else "",
        "worker": row.worker,
        "attempt": row.attempt or "",
        "began": clock(row.started_at, at) if row.started_at is not None else "",
        "took": duration(row.duration_s),
        "used": render.used(row.usage) if row.usage is not None else "",
        "ended": clock(row.finished_at, at) if row.finished_at is not None else "",
        "branch": row.branch,
        "votes": ", ".join(row.votes),
        "reason": row.reason,
    }
    for name, what in facts.items():
        if what != "":
            lines.append(Text("  ").append(f"{name:<9}", "dim").append(one_line(str(what))))
    if row.failure is not None:
        lines += [Text(), Text("  Failure", style="bold"), *paragraph(render.failed(row.failure), width, "    ", "red")]
        lines += [Text(f"    {line}", style="dim") for line in defuse(row.failure.traceback).splitlines()]
    for name, payload in (("Inputs", row.inputs), ("Output", row.output)):
        if payload != NOTHING:
            lines += [Text(), Text(f"  {name}", style="bold"), *_block(payload)]
    return [*lines, Text()]


def _block(payload: Payload) -> list[Text]:
    if payload.blob is not None:
        return [Text(f"    {size(payload.blob.size_bytes)}, sha256 {payload.blob.sha256}", style="dim")]
    said = payload.value if isinstance(payload.value, str) else as_one(payload.value, "json")
    return [Text(f"    {line}") for line in defuse(said).split("\n")]


async def log(
    plan: PlanId,
    /,
    *,
    step: Annotated[str, Parameter(help="Only what happened to this step.")] = "",
    verbose: Annotated[bool, Parameter(negative=(), help="With the ends of the tracebacks of agents.")] = False,
    session: OfSession,
) -> int:
    """Print everything that happened to a plan, from its log. With -o jsonl, the log itself, a commit a line."""
    told: list[Entry] = []
    commits = []
    agents: dict[str, str] = {}
    raw = session.output == "jsonl"
    async with session.operator() as operator:
        address = await operator.find(plan)
        async for line in operator.lines(address):
            if raw:
                # To a file or a program byte for byte as it is stored, so that the chain of hashes can be verified.
                print(as_line(line.commit) if session.out.is_terminal else encode(line.commit).decode())
            elif session.output == "table":
                told += [entry for entry in entries(line.commit, agents, verbose=verbose) if step in ("", entry.step)]
            else:
                commits.append(line.commit)
    if session.output == "table":
        session.say(*history.table(told, now(), session.out.width))
    elif not raw:
        _print_rows(session, commits)
    return COMPLETED


def _print_rows(session: Session, rows: list[Any]) -> None:
    for text in as_rows(rows, session.output):
        print(text)
