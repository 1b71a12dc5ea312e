"""Why a plan stands still, and what a person can do about it: as commands to paste, right for the state it is in.

Pure. What it offers is what `planmesh.executor.plan.decide` would carry out; the tests hold one against the other.
"""

import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Final

from rich.text import Text

from planmesh.cli.render import WIDEST, failed
from planmesh.cli.text import ago, clock, counted, defuse, listed, one_line, paragraph, until, whole
from planmesh.cli.view import PlanView
from planmesh.schemas.answers import expected
from planmesh.schemas.plan import Task
from planmesh.schemas.queries import GateRow, StepRow
from planmesh.schemas.state import ENDED, SATISFIED, STANDING_STILL, TROUBLED, PlanStatus, StepStatus

SHORT_DIGEST: Final = 16
"""How much of a digest a person has to quote."""

_MOST: Final = 5  # steps that are spoken of one by one
_WIDEST_PAIR: Final = 120  # a command and what it does, side by side
_REASON: Final = "--reason WHY"


@dataclass(frozen=True)
class Remedy:
    """A command to paste, and what it does."""

    command: str
    effect: str


@dataclass(frozen=True)
class Stop:
    """One place where a plan stands still.

    Attributes:
        at: What it stands at: a step, or the plan as a whole.
        since: None where nobody knows.
        why: In a sentence or two; from plans, agents and people, so not to be trusted.
        remedies: What can be done about this one place.
        person: Whether it only waits for someone, and nothing went wrong.
    """

    at: str
    since: datetime | None
    why: str
    remedies: tuple[Remedy, ...]
    person: bool


def agents_asked(view: PlanView) -> list[str]:
    """The agents that steps are with now."""
    if view.plan.status in ENDED:
        return []
    return sorted({step.agent for step in view.steps if step.status is StepStatus.DISPATCHED and step.agent})


def stops(view: PlanView, command: str = "planmesh", unserved: Collection[str] = ()) -> list[Stop]:
    """Every place where a plan stands still; none of a plan that goes on or has ended.

    Args:
        command: How a command line begins that leads to this mesh.
        unserved: Agents that nobody runs.
    """
    row = view.plan
    if row.status in ENDED:
        return []
    of = shlex.quote(row.plan)
    found: list[Stop] = []
    if row.status is PlanStatus.DRAFT:
        start = Remedy(f"{command} start {of}", "let it begin")
        found.append(
            Stop("its beginning", row.created_at, "It is a draft: it begins when someone says so.", (start,), True)
        )
    if row.held:
        said = f": {row.reason}" if row.reason else ""
        resume = Remedy(f"{command} resume {of}", "let it go on")
        found.append(Stop("a pause", row.updated_at, f"{row.by} has paused it{said}.", (resume,), True))
    gates = {gate.step: gate for gate in view.gates}
    documents = {step.name: step for step in view.document.steps} if view.document is not None else {}
    rows = view.by_name
    for step in view.steps:
        if step.step in gates:
            asked = gates[step.step]
            ask = _open_gate if asked.kind == "gate" else _open_ask
            found.append(ask(step, asked, command, of))
        if step.child and step.status is StepStatus.DISPATCHED and step.child_status in STANDING_STILL:
            said = f": {one_line(step.reason)}" if step.reason else ""
            look = Remedy(f"{command} show {shlex.quote(step.child)}", "see where that plan stands, and what to do")
            why = f"The plan that it runs is {step.child_status}{said}."
            found.append(Stop(step.step, step.since, why, (look,), person=True))
        if step.held:
            goes_on = Remedy(f"{command} resume {of} {step.step}", "let what is behind it start")
            found.append(Stop(step.step, step.since, "A person has paused it.", (goes_on,), True))
        elif step.status in TROUBLED:
            document = documents.get(step.step)
            needed = (rows.get(need) for need in step.needs)
            reached = all(need is None or (need.status in SATISFIED and not need.held) for need in needed)
            task = document if isinstance(document, Task) else None
            key = f"{row.space}.{row.plan}.{step.step}.{step.attempt}"
            found.append(_trouble(step, task, command, of, key, can_skip=step.optional and reached))
    waiting: dict[str, list[StepRow]] = {}
    for step in view.steps:
        if step.status is StepStatus.DISPATCHED and step.agent in unserved:
            waiting.setdefault(step.agent, []).append(step)
    return [*found, *(_unserved(agent, steps, command) for agent, steps in waiting.items())]


def _unserved(agent: str, steps: list[StepRow], command: str) -> Stop:
    since = min((step.since for step in steps if step.since is not None), default=None)
    of = "it" if len(steps) == 1 else "they"
    why = f"Nobody runs the agent {agent}: {of} will begin as soon as somebody does."
    remedies = (
        Remedy(f"{command} up --agents MODULE", f"start, or restart, the mesh with it; MODULE has {agent}"),
        Remedy(f"{command} agents list", "see who is run, and what waits"),
    )
    return Stop(listed([step.step for step in steps]), since, why, remedies, False)


def _open_gate(step: StepRow, gate: GateRow, command: str, of: str) -> Stop:
    name, digest, gates = step.step, gate.digest[:SHORT_DIGEST], f"{command} gates"
    approvals = f" {len(gate.votes)} of {gate.quorum} approvals are there." if gate.quorum > 1 else ""
    overdue = " It is overdue." if gate.overdue else ""
    question = f" {one_line(gate.prompt)}" if gate.prompt else ""
    why = f"A person has to decide ({listed(gate.reviewers)}).{approvals}{overdue}{question}"
    reason = f" {_REASON}" if gate.require_reason else ""
    remedies = [
        Remedy(f"{gates} show {of} {name}", "read what is asked, and what it lets go"),
        Remedy(f"{gates} approve {of} {name} --digest {digest}", "let exactly that go"),
        Remedy(f"{gates} reject {of} {name}{reason}", "stop here"),
    ]
    if step.optional:
        remedies.append(Remedy(f"{command} skip {of} {name} {_REASON}", "go on without asking"))
    return Stop(name, gate.since, why, tuple(remedies), True)


def _open_ask(step: StepRow, ask: GateRow, command: str, of: str) -> Stop:
    name = step.step
    overdue = " It is overdue." if ask.overdue else ""
    invalid = f" {counted(ask.invalid, 'answer')} did not fit." if ask.invalid else ""
    question = f" {one_line(ask.prompt)}" if ask.prompt else ""
    why = f"Somebody has to answer ({listed(ask.reviewers)}).{overdue}{invalid}{question}"
    possible = possible_answers(ask)
    remedies = [Remedy(f"{command} answer {of} {name} {value}".rstrip(), effect) for value, effect in possible]
    if step.optional:
        remedies.append(Remedy(f"{command} skip {of} {name}", "go on without an answer"))
    return Stop(name, ask.since, why, tuple(remedies), True)


def possible_answers(ask: GateRow) -> list[tuple[str, str]]:
    """What to type after `planmesh answer PLAN STEP`, and what it means."""
    if ask.options:
        more = len(ask.options) - _MOST
        found = [(shlex.quote(option), "answer so") for option in ask.options[:_MOST]]
        return [*found, ("OPTION", f"answer with one of {counted(more, 'more option')}")] if more > 0 else found
    if ask.secret:
        return [("", "enter the secret, unseen"), ("--file FILE", "take it from a file; - for standard input")]
    if ask.answer == "boolean":
        return [("yes", "answer so"), ("no", "answer so")]
    return [("VALUE" if ask.answer == "text" else "NUMBER", f"answer with {expected(ask.answer)}")]


def _trouble(step: StepRow, task: Task | None, command: str, of: str, key: str, *, can_skip: bool) -> Stop:
    """Args:
    task: The step in the document; None where it calls no agent, or is of an item.
    key: The idempotency key of its last attempt.
    """
    name = step.step
    attempts = task.retry.attempts if task is not None else 1
    is_gate = step.kind == "gate"
    remedies: list[Remedy] = []
    match step.status:
        case StepStatus.REJECTED:
            by = f" by {listed(step.votes)}" if step.votes else ""
            why = f"It was rejected{by}" + (f": {step.reason}" if step.reason else ".")
        case StepStatus.OUTCOME_UNKNOWN:
            why = f"It may have had its effect, or not; nobody knows: {step.reason}. Its idempotency key is {key}"
            remedies += [
                Remedy(f"{command} resolve {of} {name} --done", "it had its effect: go on"),
                Remedy(f"{command} resolve {of} {name} --not-done", "it had none: it has failed"),
            ]
        case _:
            failure = step.failure
            said = failed(failure) if failure is not None else "It failed."
            tried = f" (attempt {step.attempt} of {max(attempts, step.attempt)})" if step.attempt > 1 else ""
            why = said + tried + (innermost(failure.traceback) if failure is not None else "")
            if step.attempt:
                remedies.append(Remedy(f"{command} steps {of} {name}", "see what it was given, and all of its error"))
    unknown = step.status is StepStatus.OUTCOME_UNKNOWN
    again = "ask again" if is_gate else "try it again, though it may have been done" if unknown else "try it again"
    remedies.append(Remedy(f"{command} retry {of} {name}", again))
    if task is not None and not unknown:
        remedies.append(Remedy(f"{command} retry {of} {name} --agent NAME", "have another agent try it"))
    if can_skip:
        reason = f" {_REASON}" if is_gate else ""
        remedies.append(Remedy(f"{command} skip {of} {name}{reason}", "go on without it; its output is null"))
    return Stop(name, step.since, why, tuple(remedies), False)


def account(
    view: PlanView,
    now: datetime,
    width: int,
    command: str | None = "planmesh",
    unserved: Collection[str] = (),
) -> list[Text]:
    """What `show` ends with, for a plan that stands still somewhere: stopped at, since, why, what you can do.

    Args:
        command: How a command line begins that leads to this mesh; None: nothing can be done any more.
        unserved: Agents that nobody runs.
    """
    found = stops(view, command or "planmesh", unserved)
    if not found:
        return list(_failed(view, width, command) if view.plan.status is PlanStatus.FAILED else _retries(view, now))
    lines: list[Text] = []
    for stop in found[:_MOST]:
        since = f", since {clock(stop.since, now)} ({ago(stop.since, now)})" if stop.since is not None else ""
        title = Text("  Waits at    " if stop.person else "  Stopped at  ", style="bold")
        lines.append(title.append(stop.at, "magenta bold" if stop.person else "red bold").append(since, "not bold"))
        why = paragraph(stop.why[:2_000], min(width, WIDEST), " " * 14)
        why[0] = Text("  Why         ", style="bold").append(why[0].plain[14:], "not bold")
        lines += [*why, Text()]
    if len(found) > _MOST:
        lines += [Text(f"  … and at {counted(len(found) - _MOST, 'more step')}", style="dim"), Text()]
    if command is None:
        return lines
    remedies = [remedy for stop in found[:_MOST] for remedy in stop.remedies]
    of = shlex.quote(view.plan.plan)
    if not all(stop.person for stop in found):
        remedies.append(Remedy(f"{command} revise {of} FILE", "go on from here by another plan"))
    remedies.append(Remedy(f"{command} cancel {of}", "end the plan"))
    return [*lines, Text("  What you can do", style="bold"), *offer(remedies, width)]


def offer(remedies: list[Remedy], width: int) -> list[Text]:
    """Commands, one a line, each whole, so that they can be pasted; what they do beside them, or as a comment above."""
    longest = max(len(remedy.command) for remedy in remedies)
    beside = 4 + longest + 2 + max(len(remedy.effect) for remedy in remedies) <= min(width, _WIDEST_PAIR)
    lines: list[Text] = []
    for remedy in remedies:
        command = whole(Text("    ").append(remedy.command, "cyan"))
        if beside:
            gap = " " * (longest - len(remedy.command) + 2)
            lines.append(command.append(f"{gap}{remedy.effect}", "dim"))
        else:
            lines += [Text(f"    # {remedy.effect}", style="dim"), command]
    return lines


_FRAME: Final = re.compile(r'^ *File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
_TRACEBACK_LINES: Final = 20


def innermost(traceback: str) -> str:
    """Where in the agent's code it went wrong, as `` (oncall.py:10, in fetch)``; empty if nobody knows."""
    frames = _FRAME.findall(traceback)
    if not frames:
        return ""
    file, line, function = frames[-1]
    return f" ({one_line(PurePath(file).name, 60)}:{line}, in {one_line(function, 60)})"


def _failed(view: PlanView, width: int, command: str | None) -> Iterator[Text]:
    """How a plan ended that has failed: at which step, by what, after how many attempts."""
    step = view.by_name.get(view.plan.by)
    yield Text("  Failed at   ", style="bold").append(view.plan.by or "(nobody says)", "red bold")
    if step is None or step.failure is None:
        yield from paragraph(view.plan.reason, min(width, WIDEST), " " * 14)
        return
    by = f" by {step.agent}" if step.agent else ""
    yield Text("  Tried       ", style="bold").append(f"{counted(max(step.attempt, 1), 'time')}{by}", "not bold")
    why = paragraph(failed(step.failure), min(width, WIDEST), " " * 14)
    why[0] = Text("  Why         ", style="bold").append(why[0].plain[14:], "not bold")
    yield from why
    lines = defuse(step.failure.traceback).splitlines()
    if lines:
        yield Text()
        yield from (Text(f"    {line}", style="dim") for line in lines[-_TRACEBACK_LINES:])
    if command is not None:
        yield Text()
        more = Remedy(f"{command} steps {shlex.quote(view.plan.plan)} {step.step}", "what it was given, and all of it")
        yield from offer([more], width)


def _retries(view: PlanView, now: datetime) -> Iterator[Text]:
    """A plan that waits only for a step's next attempt goes on by itself."""
    due = [step.retry_at for step in view.steps if step.status is StepStatus.WAITING and step.retry_at is not None]
    if due and view.plan.status is PlanStatus.WAITING:
        first = min(due)
        yield Text(f"  Nothing to do: it goes on by itself at {clock(first, now)} ({until(first, now)}).", style="dim")
