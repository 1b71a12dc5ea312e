"""A plan as lines for a terminal: what it is, and its steps with their status, time and whatever else matters now.

Pure: what is shown, how wide the terminal is and what time it is arrive as arguments. Lines are as wide as they need
to be, and are cut where the terminal ends; only sentences are broken.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from rich.text import Text

from planmesh.cli.looks import PLAN, RETRYING, STEP, Look
from planmesh.cli.text import (
    ago,
    clock,
    counted,
    duration,
    listed,
    one_line,
    paragraph,
    plain,
    size,
    until,
    value,
    whole,
)
from planmesh.cli.tree import Place, layout
from planmesh.cli.view import PlanView
from planmesh.schemas.each import item_step
from planmesh.schemas.goals import Origin
from planmesh.schemas.plan import Ask, Check, Decide, Draft, Each, Emit, Gate, Plan, Run, Step, Task
from planmesh.schemas.queries import PlanRow, StepRow
from planmesh.schemas.state import ENDED, SATISFIED, TROUBLED, PlanStatus, StepStatus
from planmesh.schemas.work import Failure, Usage

WIDEST: Final = 100
"""Sentences are broken here at the latest: longer lines are hard to read."""

_NAME_CELLS: Final = 40  # a name longer than this moves the rest of its line, not of all lines
_SEPARATOR: Final = " · "
_MOST_OF_ITEMS: Final = 20  # steps of items that are all shown
_NOW: Final = TROUBLED | {StepStatus.WAITING, StepStatus.DISPATCHED}
_CUT_SHORT: Final = frozenset({PlanStatus.FAILED, PlanStatus.CANCELLED, PlanStatus.REFUSED})
_LEAST: Final = 6
A_WORD: Final = 11
"""A sign and the usual words for a status: less of them says nothing."""
_LAST: Final = 24  # as much as the last column of a narrow table should have


def look_of(step: StepRow) -> Look:
    return RETRYING if step.status is StepStatus.WAITING and step.retry_at is not None else STEP[step.status]


def status(row: PlanRow, steps: Collection[StepRow] = ()) -> Text:
    """The plan's status in a few words. *steps*, where they are known, say what it waits for."""
    look = PLAN[row.status]
    word = look.word
    if row.status is PlanStatus.WAITING:
        runs = [step.step for step in steps if step.status is StepStatus.DISPATCHED and step.child]
        if row.gates or row.asks:
            word = f"waiting for a person{', overdue' if row.overdue else ''}"
        elif runs:
            word = f"waiting for what {listed(runs)} runs"
        elif any(step.retry_at is not None for step in steps):
            word = "waiting to try again"
    elif row.status is PlanStatus.COMPLETED and row.outcome not in ("", "completed"):
        word = f"completed: {one_line(row.outcome, 60)}"
    elif row.status is PlanStatus.PAUSED:
        word = f"paused by {row.by}" if row.held else f"paused at {listed(row.troubled or row.held_steps)}"
    if row.overdue and row.status not in ENDED and row.status is not PlanStatus.WAITING:
        word += f", {listed(row.overdue)} overdue"
    return Text(f"{look.sign} {word}", style=_style(row))


def _style(row: PlanRow) -> str:
    if row.status is PlanStatus.WAITING and row.overdue:
        return "red"
    if row.status is PlanStatus.WAITING and not (row.gates or row.asks):
        return "blue"
    by_a_person = row.status is PlanStatus.PAUSED and (row.held or not row.troubled)
    return "magenta" if by_a_person else PLAN[row.status].style


def lasted_s(row: PlanRow, now: datetime) -> float:
    """How long a plan has taken, or has taken until now."""
    return ((row.ended_at or now) - row.created_at).total_seconds()


def failed(failure: Failure) -> str:
    """Why an attempt failed; from an agent, so not to be trusted."""
    return f"{failure.type or failure.code}: {failure.message}"


def used(usage: Usage) -> str:
    """Such as ``2 model calls, 3 tool calls, 1,204 tokens in, 96 out``."""
    parts = [(usage.model_calls, "model call"), (usage.tool_calls, "tool call")]
    said = [counted(count, noun) for count, noun in parts if count]
    if usage.input_tokens or usage.output_tokens:
        said.append(f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out")
    return ", ".join(said)


def header(view: PlanView, now: datetime) -> list[Text]:
    """Two lines: what it is and how it stands; its id, and how far it has come."""
    row = view.plan
    title = Text("  ").append(one_line(row.name, 80) or "(a goal without a plan)", "bold")
    title.append("   ").append_text(status(row, view.steps))
    done = sum(step.status in SATISFIED for step in view.steps)
    parts = [row.plan, f"{done} of {counted(row.steps, 'step')}", duration(lasted_s(row, now))]
    if row.running:
        parts.insert(2, f"{row.running} running")
    if row.revision > 1:
        parts.append(f"revision {row.revision}")
    return [title, Text("  ").append(_SEPARATOR.join(parts), "dim")]


def origin(view: PlanView, now: datetime, width: int) -> list[Text]:
    """Where a plan comes from: its goal, who asked, and when."""
    row = view.plan
    lines = paragraph(one_line(row.goal, 1_000), min(width, WIDEST), "  ", "italic") if row.goal else []
    asked = [f"asked for by {row.requester}", f"created {clock(row.created_at, now)}, {ago(row.created_at, now)}"]
    if row.ended_at is not None:
        asked.append(f"ended {clock(row.ended_at, now)}")
    if row.parent is not None:
        asked.insert(0, f"runs for step {row.parent.step} of plan {row.parent.plan}")
    lines.append(Text("  ").append(_SEPARATOR.join(asked), "dim"))
    if view.origin is not None:
        lines.append(Text("  ").append(one_line(author(view.origin)), "dim"))
    return lines if view.document is None else [*lines, *policy(view.document, width)]


def policy(plan: Plan, width: int = WIDEST) -> list[Text]:
    """What the policy of a plan says that no other plan's does unless it is asked to."""
    stated = plan.policy
    said = [] if stated.on_failure == "pause" else [_ON_FAILURE[stated.on_failure]]
    if stated.revisions == "hold":
        said.append("what the planner proposes waits for a person (revise --proposed last --preview)")
    if stated.destructive is not None:
        said.append(_DESTRUCTIVE[stated.destructive])
    return paragraph(f"policy: {_SEPARATOR.join(said)}", width, "  ", "dim") if said else []


_ON_FAILURE: Final = {
    "fail": "the plan fails with the first step that has failed for good",
    "cancel": "the plan is cancelled with the first step that has failed for good",
}
_DESTRUCTIVE: Final = {
    "gate": "what a model writes that could do harm gets a gate",
    "allow": "what a model writes may do harm without a gate",
}


def author(origin: Origin) -> str:
    """Who has written a plan, and what that took: such as `written by qwen3-8b: 2 drafts, 1,824 tokens, 7.8 s`."""
    if origin.author == "template":
        return f"from the template {origin.template}"
    tokens = sum(one.input_tokens + one.output_tokens for one in origin.tries)
    spent = [counted(len(origin.tries), "draft"), counted(tokens, "token")]
    spent.append(duration(sum(one.duration_s for one in origin.tries)))
    said = f"written by {origin.model or 'a model'}: {', '.join(spent)}"
    return f"{said}; the planner put in {listed(origin.gates)}" if origin.gates else said


def result(view: PlanView) -> list[Text]:
    """What a plan gave."""
    payload = view.result
    if payload.blob is not None:
        said = f"    {size(payload.blob.size_bytes)}, stored as {payload.blob.sha256}"
        return [Text("  Result", style="bold"), Text(said, style="dim")]
    if payload.value is None or payload.value == {}:
        return []
    pairs = payload.value.items() if isinstance(payload.value, dict) else [("", payload.value)]
    names = [one_line(name, 40) for name, _ in pairs]
    cells = max(map(len, names)) + 2 if any(names) else 0
    return [
        Text("  Result", style="bold"),
        *(
            whole(Text("    ").append(name.ljust(cells), "dim").append(value(what)))
            for name, (_, what) in zip(names, pairs, strict=True)
        ),
    ]


# --- steps -------------------------------------------------------------------------------------------------


def places(document: Plan) -> tuple[Place, ...]:
    """Where each step of a plan is drawn: once for a plan."""
    return layout(needs(document))


def needs(document: Plan | Each) -> dict[str, tuple[str, ...]]:
    """For each step of a plan, or of the body of an `each`, what must be settled before it."""
    return {
        step.name: step.after
        if step.branch is None or step.branch.step in step.after
        else (*step.after, step.branch.step)
        for step in document.steps
    }


def steps(
    view: PlanView,
    drawn: Sequence[Place],
    now: datetime,
    *,
    most: int | None = None,
    hints: Mapping[str, str] = {},
) -> list[Text]:
    """One line a step; below an `each`, those of its items. Of many items, only what matters now.

    Args:
        drawn: `places` of the plan's document.
        most: How many lines there is room for. What matters least is then counted instead of shown.
        hints: What agents say of the steps that they are at.
    """
    if view.document is None:
        return []
    rows = {**view.by_name}
    for step in view.document.steps:
        if isinstance(step, Each) and rows[step.name].status is StepStatus.PENDING and any(_items(step, rows)):
            # The log says nothing of it until all of its items have ended.
            rows[step.name] = msgspec.structs.replace(rows[step.name], status=StepStatus.DISPATCHED)
    entries = list(_entries(view.document, drawn, rows))
    cells = max(len(place.rails) + len(place.name) for place, _, _ in entries)
    name_cells = min(cells, _NAME_CELLS) + 2
    kept = _kept([rows[place.name] for place, _, _ in entries], most)
    lines: list[Text] = []
    left_out: list[StepRow] = []
    rails = ""
    for (place, document, matters), keep in zip(entries, kept, strict=True):
        row = rows[place.name]
        if not keep or not matters:
            left_out.append(row)
            rails = place.rails if not matters else ""
            continue
        if left_out:
            lines.append(_left_out(left_out, rails))
            left_out = []
        lines.append(_line(row, document, place, name_cells, now, hints.get(place.name, "")))
    if left_out:
        lines.append(_left_out(left_out, rails))
    return lines


def _entries(plan: Plan, drawn: Iterable[Place], rows: Mapping[str, StepRow]) -> Iterator[tuple[Place, Step, bool]]:
    """Every line: where it stands, what it is, and whether it is shown although there are many of its kind."""
    documents = {step.name: step for step in plan.steps}
    for place in drawn:
        step = documents[place.name]
        yield place, step, True
        if isinstance(step, Each):
            below = f"{below_rails(place.rails)}┊ "
            items = list(_items(step, rows))
            many = len(items) > _MOST_OF_ITEMS
            for name, body in items:
                yield Place(name, below), body, not many or rows[name].status in _NOW


def below_rails(rails: str) -> str:
    """What is drawn before whatever hangs below a step that has *rails* before it."""
    return rails.replace("├─ ", "│  ").replace("┌─ ", "│  ").replace("└─ ", "   ")


def _items(each: Each, rows: Mapping[str, StepRow]) -> Iterator[tuple[str, Step]]:
    """The steps of the items of an `each`, item by item, as far as there are any yet."""
    for number in itertools.count(1):
        names = [(item_step(body.name, number), body) for body in each.steps]
        if names[0][0] not in rows:
            return
        yield from ((name, body) for name, body in names if name in rows)


def taken_out(view: PlanView) -> list[Text]:
    """The steps that revisions took out of a plan."""
    gone = [row.step for row in view.steps if row.status is StepStatus.SUPERSEDED]
    if not gone:
        return []
    said = f"  {STEP[StepStatus.SUPERSEDED].sign} taken out by revisions: {listed(gone, 8)}"
    return [Text(said, style="dim").append(f" (planmesh diff {view.plan.plan})", "dim")]


def _line(row: StepRow, document: Step, place: Place, name_cells: int, now: datetime, hint: str) -> Text:
    look = look_of(row)
    quiet = row.status in (StepStatus.NOT_TAKEN, StepStatus.CANCELLED)
    line = Text("  ").append(place.rails, "dim").append(f"{look.sign} ", look.style)
    line.append(row.step.ljust(name_cells - len(place.rails)), "dim" if quiet else "")
    line.append(f"{look.word:<11}", look.style)
    line.append(f"{duration(time_s(row, now)):>8}  ", "dim")
    line.append_text(_detail(row, document, now, hint))
    if place.after:
        line.append(f"{_SEPARATOR}after {listed(place.after)}", "dim")
    return line


def time_s(row: StepRow, now: datetime) -> float | None:
    """How long a step took, runs, or has been waited for; None if that is nothing to know."""
    if row.status in (StepStatus.DISPATCHED, StepStatus.WAITING) and row.since is not None:
        return (now - row.since).total_seconds() if row.retry_at is None else None
    return row.duration_s


def _detail(row: StepRow, document: Step, now: datetime, hint: str) -> Text:
    """What matters of a step as it stands: who has it, what went wrong, who is to decide, which branch was taken."""
    parts: list[Text] = []
    if isinstance(document, Task):
        parts.append(Text(row.agent))
        if row.attempt > 1:
            parts.append(Text(_attempt(row, document)))
        if row.usage is not None:
            parts.append(Text(used(row.usage), style="dim"))
    if row.failure is not None and row.status in (StepStatus.WAITING, StepStatus.FAILED):
        if row.retry_at is not None:
            parts.append(Text(f"again {until(row.retry_at, now)}"))
        style = "red" if row.status is StepStatus.FAILED else ""
        parts.append(Text(one_line(failed(row.failure)), style=style))
    elif row.status in TROUBLED or row.status is StepStatus.SKIPPED:
        if row.votes:
            parts.append(Text(f"by {listed(row.votes)}"))
        if row.reason:
            parts.append(Text(one_line(row.reason), style="red" if row.status in TROUBLED else ""))
    elif row.held:
        parts.append(Text("nothing behind it starts", style="magenta"))
    elif hint and row.status is StepStatus.DISPATCHED:
        parts.append(Text(one_line(hint), style="blue"))
    elif (said := _of_kind(row, document)) is not None:
        parts.append(said)
    if document.label and row.status not in TROUBLED:
        parts.append(plain(document.label, "dim"))
    detail = Text()
    for part in filter(None, parts):
        detail.append(_SEPARATOR if detail else "", "dim").append_text(part)
    return detail


def _attempt(row: StepRow, task: Task) -> str:
    return f"attempt {row.attempt} of {task.retry.attempts}" if task.retry.attempts > 1 else f"attempt {row.attempt}"


def _of_kind(row: StepRow, document: Step) -> Text | None:
    """What only a step of this kind has to say."""
    done = row.status is StepStatus.COMPLETED
    match document:
        case Gate() if done and row.votes:
            return Text(f"approved by {listed(row.votes)}")
        case Gate() if row.status is StepStatus.WAITING:
            quorum = f"{len(row.votes)} of {document.quorum} approvals" if document.quorum > 1 else ""
            return Text(_SEPARATOR.join(filter(None, (f"for {listed(document.reviewers)}", quorum))), style="magenta")
        case Gate():
            return Text(f"gate for {listed(document.reviewers)}", style="dim")
        case Ask() if done and row.votes:
            answer = row.output.value
            said = f" {value(answer['value'], 60)}" if isinstance(answer, dict) and "value" in answer else ""
            said = " with a secret" if document.secret else said
            return Text(f"answered{said} by {listed(row.votes)}")
        case Ask() if row.status is StepStatus.WAITING:
            return Text(f"asks {_asked(document)}", style="magenta")
        case Ask():
            return Text(f"question to {_asked(document)}", style="dim")
        case Check() | Decide() if done:
            return Text(f"→ {one_line(row.branch, 60)}")
        case Check() | Decide():
            return Text(document.__struct_config__.tag, style="dim")  # type: ignore[arg-type]
        case Draft():
            return Text("a plan" if done else "writes a plan", style="" if done else "dim")
        case Run() if row.child:
            stands = f", which is {one_line(row.child_status, 20)}" if row.child_status and not done else ""
            return Text(f"plan {row.child}{stands}", style="" if done else "blue")
        case Run():
            return Text(f"runs {one_line(document.document, 60)}", style="dim")
        case Each():
            return Text(f"each {document.item} in {one_line(document.items, 60)}", style="dim")
        case Emit():
            return Text(f"→ {one_line(document.outcome, 60)}", style="" if done else "dim")
    return None


def _asked(ask: Ask) -> str:
    return listed(ask.reviewers) if ask.reviewers else "an operator or the requester"


# --- more steps than lines ---------------------------------------------------------------------------------

_MATTERS: Final = {
    StepStatus.FAILED: 0,
    StepStatus.REJECTED: 0,
    StepStatus.OUTCOME_UNKNOWN: 0,
    StepStatus.WAITING: 1,
    StepStatus.DISPATCHED: 2,
    StepStatus.COMPLETED: 3,
    StepStatus.SKIPPED: 3,
    StepStatus.PENDING: 4,
}


def _kept(rows: Sequence[StepRow], most: int | None) -> list[bool]:
    """Which steps to show, so that with a line for each gap no more than *most* lines are needed."""
    if most is None or len(rows) <= most:
        return [True] * len(rows)
    ranked = sorted(range(len(rows)), key=lambda index: (_MATTERS.get(rows[index].status, 5), index))
    low, high = 0, most
    while low < high:  # as many as possible: the more are shown, the more gaps there may be
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _lines(ranked[:middle], len(rows)) <= most else (low, middle - 1)
    chosen = set(ranked[:low])
    return [index in chosen for index in range(len(rows))]


def _lines(chosen: Iterable[int], total: int) -> int:
    """How many lines it takes to show these steps, and one for each gap."""
    inside = sorted(chosen)
    edges = [-1, *inside, total]
    return len(inside) + sum(after - before > 1 for before, after in itertools.pairwise(edges))


def _left_out(rows: Sequence[StepRow], rails: str = "") -> Text:
    counts = Counter(look_of(row).word for row in rows)
    said = ", ".join(f"{count:,} {word}" for word, count in counts.most_common())
    return Text(f"  {rails}⋮ {said}", style="dim")


# --- lists -------------------------------------------------------------------------------------------------


def columns(
    head: Sequence[str],
    rows: Sequence[Sequence[Text | str]],
    *,
    right: frozenset[int] = frozenset(),
    keep: frozenset[int] = frozenset({0}),
    width: int | None = None,
    least: Mapping[int, int] = {},
) -> list[Text]:
    """A table without lines: each column as wide as its widest cell, the last one as wide as it likes.

    Args:
        right: The columns that are aligned to the right.
        keep: Those that are never cut, such as what is pasted into commands.
        width: How wide the table may be: the widest of the other columns are cut until there is some room for the
            last one. None: as wide as it likes.
        least: To how many cells a column is cut at most; unless given, to its title, or to six.
    """
    cells = [[cell if isinstance(cell, Text) else plain(cell) for cell in row] for row in rows]
    titles = [Text(title, style="dim") for title in head]
    last = len(head) - 1
    widths = [max(line[column].cell_len for line in [titles, *cells]) for column in range(len(head))]
    if width is not None:
        widths = _narrowed(
            widths,
            [least.get(column, max(len(title), _LEAST)) for column, title in enumerate(head)],
            keep | right,
            width,
        )
        cells = [[*(cut(cell, most) for cell, most in zip(row, widths[:-1], strict=False)), row[-1]] for row in cells]
    lines = []
    for line in [titles, *cells]:
        written = Text()
        for column, cell in enumerate(line):
            gap = " " * (widths[column] - cell.cell_len)
            if column in right:
                written.append(gap).append_text(cell)
            else:
                written.append_text(cell).append("" if column == last else gap)
            written.append("" if column == last else "  ")
        written.rstrip()
        lines.append(written)
    return lines


def plans(rows: Sequence[PlanRow], now: datetime, *, spaces: bool, width: int | None = None) -> list[Text]:
    """A list of plans. *spaces*: whether it says whose they are."""
    lines = []
    for row in rows:
        line: list[Text | str] = [
            f"{row.space}.{row.plan}" if spaces else row.plan,
            status(row),
            # How many were done before a plan was ended is not in its row: the others ended with it.
            str(row.steps) if row.status in _CUT_SHORT else f"{row.settled}/{row.steps}",
            duration(lasted_s(row, now)),
            ago(row.created_at, now),
            one_line(_matter(row), 200),
        ]
        lines.append(line)
    head = ("PLAN", "STATUS", "STEPS", "TIME", "CREATED", "WHAT")
    return columns(head, lines, right=frozenset({2, 3}), keep=frozenset({0, 4}), width=width, least={1: A_WORD})


def _matter(row: PlanRow) -> str:
    """The one thing to know of a plan in a list."""
    at = (*row.gates, *row.asks) or row.troubled or row.held_steps
    is_said = row.status is PlanStatus.PAUSED and not row.held  # by the status
    if at and row.status not in ENDED and not (is_said and at == (row.troubled or row.held_steps)):
        return f"at {listed(at)}{_SEPARATOR}{row.name}"
    if row.status in _CUT_SHORT and row.reason:
        return f"{row.reason}{_SEPARATOR}{row.name}"
    return row.name or row.goal


def _narrowed(widths: list[int], least: list[int], keep: frozenset[int], width: int) -> list[int]:
    """*widths* that fit into *width* with some room for the last column, as far as that can be."""
    widths = list(widths)
    gaps, last = 2 * (len(widths) - 1), min(widths[-1], _LAST)
    may_give = [column for column in range(len(widths) - 1) if column not in keep]
    while sum(widths[:-1]) + gaps + last > width:
        spare = [(widths[column] - least[column], column) for column in may_give if widths[column] > least[column]]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def cut(line: Text, width: int) -> Text:
    """*line*, with an ellipsis where *width* ends."""
    if line.cell_len <= width:
        return line
    line = line.copy()
    line.truncate(width, overflow="ellipsis")
    return line
