"""The same verb for many plans at once: which ones, what it would do to each, and then each in its turn."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from cyclopts import Parameter
from msgspec import Struct
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED
from planmesh.cli.follow import read_line
from planmesh.cli.forms import as_line, as_rows
from planmesh.cli.history import entries
from planmesh.cli.preview import Looking, foresee
from planmesh.cli.render import columns
from planmesh.cli.sending import check
from planmesh.cli.session import NotUnderstood, Session
from planmesh.cli.text import counted, listed, one_line
from planmesh.cli.where import Where, read_where
from planmesh.errors import Busy, PlanmeshError
from planmesh.frontier import Fate, Frontier
from planmesh.operator import Operator
from planmesh.schemas.commands import VERBS, AnyCommand, verb_of
from planmesh.schemas.queries import PlanRow, PlansQuery
from planmesh.schemas.state import ENDED, PlanState, PlanStatus
from planmesh.schemas.subjects import Address
from planmesh.steering import Refused, RevisionRefused

_AT_ONCE: Final = 16
_PAGE: Final = 1_000
_SHOWN: Final = 40
_LOOKS: Final = 20
_LOOK_S: Final = 0.1
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@Parameter(name="*")
@dataclass(frozen=True)
class Many:
    """Instead of one plan, all those that fit."""

    where: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            help="Instead of PLAN: every plan with, for example, status=paused,agent=fetch,since=2h. Also until=, "
            "text=, space=, and step= for the name of a step. May be repeated.",
        ),
    ] = ()
    yes: Annotated[bool, Parameter(negative=(), help="With --where: do not ask whether to go on.")] = False


ONE: Final = Many()


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one command, or would.

    Attributes:
        outcome: `unanswered`: the command is stored, and may still be carried out.
        number: The line of the log that says so.
    """

    space: str
    plan: str
    verb: str
    step: str = ""
    outcome: Literal["done", "refused", "unanswered", "would be done", "would be refused"]
    said: str = ""
    number: int = 0

    @property
    def is_good(self) -> bool:
        return self.outcome in ("done", "would be done")


Commands = Callable[[PlanState, Where], Iterable[AnyCommand]]
"""What to ask of a plan, if anything."""


def id_of(id: str, step: str) -> str:
    """An id for the command about *step*, if the person has given one for all of them."""
    return hashlib.sha256(f"{id} {step}".encode()).hexdigest()[:16]


async def steer_many(
    session: Session,
    many: Many,
    look: Looking,
    verb: str,
    statuses: tuple[PlanStatus, ...],
    commands: Commands,
    *,
    troubled: bool = False,
) -> int:
    """Show what would be done, ask, and do it.

    Args:
        statuses: Of the plans that this verb is about, unless the person says.
        troubled: Whether it is only about plans with steps in trouble.

    Returns:
        The exit code: 0 if all of it was carried out, or would be; 1 if something was refused, or nobody agreed.

    Raises:
        NotUnderstood: There is nobody to ask, and no --yes.
        Busy: No auditor answers, or the log cannot be read.
    """
    if look.format != "list":
        raise NotUnderstood("--format is for one plan; with --where there is one line a plan")
    where = read_where(many.where)
    async with session.operator() as operator:
        lag = await _behind(operator)
        if lag:
            said = f"The auditor is {lag:,} behind the log: plans that changed just now may be missing."
            session.say(Text(said, style="dim"), to=session.err)
        rows = await _rows(operator, where, where.statuses or statuses)
        addresses = [Address(row.space, row.plan) for row in rows if row.troubled or not troubled]
        found = await _each(addresses, lambda address: _wanted(operator, address, where, commands))
        wanted = [(address, state, asked) for address, (state, asked) in zip(addresses, found, strict=True) if asked]
        if not wanted:
            session.say(await _why_nothing(operator, where, verb, statuses), to=session.err)
            if session.output != "table":
                print(*as_rows([], session.output), sep="\n")
            return COMPLETED
        if look.preview or not many.yes:
            foreseen = await _each(wanted, lambda one: _foresee(operator, *one))
            would = [row for some in foreseen for row in some]
            if look.preview:
                _print(session, would)
                return COMPLETED if all(row.is_good for row in would) else FAILED
            if not await _agrees(session, verb, would):
                return FAILED
        done = await _each(wanted, lambda one: _send(session, operator, *one))
    outcome = [row for some in done for row in some]
    if session.output == "table":
        _sum_up(session, outcome)
    else:
        print(*as_rows(outcome, session.output), sep="\n")
    return COMPLETED if all(row.is_good for row in outcome) else FAILED


async def _why_nothing(operator: Operator, where: Where, verb: str, statuses: tuple[PlanStatus, ...]) -> str:
    """What there is, where nothing takes the verb: a misspelt agent looks like one whose plans are all done."""
    there = Counter(row.status for row in await _rows(operator, where, where.statuses))
    if not there:
        return f"There is nothing to {verb}: no plan is like that. `planmesh list` says which there are."
    found = listed([f"{count:,} {status}" for status, count in there.most_common()])
    takes = f"; it is for plans that are {' or '.join(statuses)}" if not where.statuses else ""
    return f"There is nothing to {verb} in what is like that ({found}){takes}."


async def _behind(operator: Operator) -> int:
    """How far the auditor is behind the log as it is now, once it has had a moment to read it."""
    answer = await operator.position()
    end = answer.position + answer.lag
    for _ in range(_LOOKS):
        if answer.position >= end:
            break
        await asyncio.sleep(_LOOK_S)
        answer = await operator.position()
    return max(0, end - answer.position)


async def _rows(operator: Operator, where: Where, statuses: tuple[PlanStatus, ...]) -> list[PlanRow]:
    query = PlansQuery(
        statuses=statuses,
        text=where.text,
        agent=where.agent,
        space=where.space,
        since=where.since,
        until=where.until,
        limit=_PAGE,
    )
    rows: list[PlanRow] = []
    while True:
        answer = await operator.plans(query)
        rows += answer.plans
        if answer.next is None:
            return rows
        query = msgspec.structs.replace(query, before=answer.next)


async def _each(items: Iterable[_Item], work: Callable[[_Item], Awaitable[_Found]]) -> list[_Found]:
    """Do *work* for each item, some at once."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(item: _Item) -> _Found:
        async with at_once:
            return await work(item)

    return await asyncio.gather(*map(one, items))


async def _wanted(
    operator: Operator, address: Address, where: Where, commands: Commands
) -> tuple[PlanState, list[AnyCommand]]:
    """The plan as its log has it now, and what to ask of it: the auditor may be behind."""
    state = await operator.state(address)
    asked = [] if state.status in ENDED else list(commands(state, where))
    for command in asked:
        check(command)
    return state, asked


async def _foresee(operator: Operator, address: Address, state: PlanState, asked: list[AnyCommand]) -> list[Row]:
    rows = []
    for command in asked:
        about = _about(address, command)
        foreseen = await foresee(operator, state, command)
        if foreseen.seen is not None:
            state = foreseen.after
            rows.append(Row(**about, outcome="would be done", said="; ".join(_said(foreseen.seen, about["step"]))))
        else:
            why = foreseen.refused.reason if foreseen.refused is not None else foreseen.problems[0].message
            rows.append(Row(**about, outcome="would be refused", said=f"refused: {why}"))
    return rows


def _said(seen: Frontier, step: str) -> Iterator[str]:
    """What somebody who looks at many plans has to know of one: the whole of it is in the preview of the one."""
    yield from map(str, seen.discloses)
    yield from (
        f"{one.agent} would do it" for one in seen.steps if one.step == step and one.fate == "again" and one.change
    )
    others: tuple[tuple[Fate, str], ...] = (("asks", "would ask again"), ("dropped", "would be dropped"))
    for fate, what in others:
        found = [name for name in seen.of(fate) if name != step]
        if found:
            yield f"{listed(found)} {what}"
    yield f"the plan would be {seen.status}"


async def _send(
    session: Session, operator: Operator, address: Address, state: PlanState, asked: list[AnyCommand]
) -> list[Row]:
    rows = []
    for command in asked:
        rows.append(await _outcome(operator, address, command))
    if session.output == "table":
        session.say(_line(rows))
    return rows


async def _outcome(operator: Operator, address: Address, command: AnyCommand) -> Row:
    about = _about(address, command)
    try:
        commit = (await operator.command(address, command)).commit
    except Refused as refused:
        return Row(**about, outcome="refused", said=refused.event.reason, number=refused.commit.number)
    except RevisionRefused as refused:
        return Row(**about, outcome="refused", said=refused.problems[0].message, number=refused.commit.number)
    except Busy as busy:
        return Row(**about, outcome="unanswered", said=str(busy))
    except PlanmeshError as error:
        return Row(**about, outcome="refused", said=str(error))
    told = list(entries(commit, {}))
    kinds = {kind.__struct_config__.tag for kind in VERBS[verb_of(command)].answers}
    mine = [entry for entry in told if entry.type in kinds and entry.step in ("", about["step"])]
    return Row(**about, outcome="done", said=(mine or told)[-1].sentence, number=commit.number)


def _about(address: Address, command: AnyCommand) -> dict[str, Any]:
    step = getattr(command, "step", None) or ""
    return {"space": address.space, "plan": address.plan, "verb": verb_of(command), "step": step}


# --- what a person sees ------------------------------------------------------------------------------------


def _line(rows: list[Row]) -> Text:
    """What became of one plan."""
    good = all(row.is_good for row in rows)
    line = Text().append("✓ " if good else "✗ ", "green" if good else "red").append(rows[0].plan, "bold")
    for number, row in enumerate(rows):
        line.append("; " if number else "  ").append(one_line(row.said), "" if row.is_good else "red")
        line.append(f" (no. {row.number})" if row.number else "", "dim")
    return line


def _print(session: Session, rows: list[Row]) -> None:
    if session.output != "table":
        print(*(map(as_line, rows) if session.output == "jsonl" else as_rows(rows, session.output)), sep="\n")
        return
    session.say(*_table(rows, session.out.width))
    session.say(Text("Nothing was done: this is a preview.", style="dim"), to=session.err)


def _table(rows: list[Row], width: int) -> list[Text]:
    """One line a plan, and one more for what would be refused of it."""
    grouped: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.space, row.plan, row.is_good), []).append(row)
    lines = []
    for (space, plan, good), some in grouped.items():
        steps = [row.step for row in some if row.step]
        what = f"{some[0].verb} {listed(steps)}" if steps else some[0].verb
        said = dict.fromkeys(one_line(row.said) for row in (some[-1:] if good else some))
        lines.append((f"{space}.{plan}", what, Text("; ".join(said), style="" if good else "red")))
    return columns(("PLAN", "WHAT", "THEN"), lines, width=width)


def _counted(rows: list[Row]) -> str:
    plans = len({(row.space, row.plan) for row in rows})
    steps = sum(bool(row.step) for row in rows)
    return f"{counted(steps, 'step')} of {counted(plans, 'plan')}" if steps else counted(plans, "plan")


async def _agrees(session: Session, verb: str, would: list[Row]) -> bool:
    """Show it and ask. Raises: NotUnderstood, if there is nobody to ask."""
    if not session.asks:
        raise NotUnderstood(f"this would {verb} {_counted(would)}: add --yes to do it, or --preview to look at it")
    screen = session.progress
    lines = _table(would, screen.width)
    session.say(*lines[: _SHOWN + 1], to=screen)
    if len(lines) > _SHOWN + 1:
        session.say(Text(f"… and {len(lines) - _SHOWN - 1:,} more", style="dim"), to=screen)
    good = [row for row in would if row.is_good]
    said = await read_line(f"{verb.capitalize()} {_counted(good)}? [y/N] ")
    if said is not None and said.lower() in ("y", "yes"):
        return True
    session.say("Nothing was done.", to=screen)
    return False


def _sum_up(session: Session, rows: list[Row]) -> None:
    good = [row for row in rows if row.is_good]
    said = Text(f"{_counted(good)} done" if good else "nothing was done", style="green" if good else "red")
    for outcome in ("refused", "unanswered"):
        count = sum(row.outcome == outcome for row in rows)
        said.append(f", {count} {outcome}" if count else "", "red")
    session.say(said, to=session.err)
