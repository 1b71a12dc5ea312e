"""Send one command, and print what answers it: the line of the log, what followed from it, or why not."""

import shlex
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, difference, document
from planmesh.cli import VERBS as VERBS_HERE
from planmesh.cli.forms import as_one
from planmesh.cli.history import Entry, entries
from planmesh.cli.session import NotUnderstood, Session
from planmesh.cli.standing import SHORT_DIGEST
from planmesh.cli.text import one_line, whole
from planmesh.operator import Operator
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.commands import VERBS, AnyCommand, verb_of
from planmesh.schemas.events import CommandRefused, Commit, PlanRevised
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import digest
from planmesh.schemas.subjects import Address
from planmesh.steering import Refused, RevisionRefused

_OF_COURSE: Final = frozenset({"plan.resumed", "plan.waiting"})  # they follow from the rest
_ABOUT_A_STEP: Final = frozenset({"pause", "resume", "cancel", "retry", "skip", "resolve"})


class Source(NamedTuple):
    """The file that a document was read from."""

    file: Path
    text: str


async def send(
    session: Session,
    operator: Operator,
    address: Address,
    command: AnyCommand,
    *,
    source: Source | None = None,
    aside: Console | None = None,
) -> int:
    """Send one command, and print what answers it.

    Args:
        source: Where its document comes from, for the places of problems.
        aside: Where a person reads the answer while something else is the output of this call.

    Returns:
        The exit code: 0 if it was carried out, 1 if it was refused.

    Raises:
        NotUnderstood: It is longer than commands are, or the like.
        Busy, Unusable: See `Operator.command`.
    """
    check(command)
    code = FAILED
    try:
        commit = (await operator.command(address, command)).commit
    except Refused as refused:
        commit = refused.commit
        session.say(*refusal(refused.event, address, session.command), to=session.err)
    except RevisionRefused as refused:
        commit = refused.commit
        session.say(*not_revised(refused.problems, source), to=session.err)
        if refused.event.plan is not None:
            named = f"--proposed {digest(refused.event.plan)[:SHORT_DIGEST]}"
            again = Text("    ").append(f"{session.command} revise {shlex.quote(address.plan)} {named}", "cyan")
            session.say("  You may allow it, which the planner may not. Look at it first (--preview):", to=session.err)
            session.say(whole(again), to=session.err)
    else:
        code = COMPLETED
        if aside is not None or session.output == "table":
            session.say(*answer(commit, command), to=aside)
    if aside is None and session.output != "table":
        print(as_one(commit, session.output))
    return code


def check(command: AnyCommand) -> None:
    """Raises: NotUnderstood, if it is longer than commands are, or the like."""
    try:
        codec.command.decode(codec.encode(command))
    except DecodeError as error:
        raise NotUnderstood(f"{error.pointer.strip('/') or 'this'} is not what a command takes: {error}") from None


def answer(commit: Commit, command: AnyCommand) -> list[Text]:
    """The event that answers *command*, and what followed from it."""
    told = list(entries(commit, {}))
    lines = []
    for number, entry in enumerate(told[_first(told, commit, command) :]):
        if number == 0:
            line = Text().append(f"  {entry.sentence}", entry.told.style or "bold")
            lines.append(line.append(f"  (no. {commit.number} in the log)", "dim"))
        elif entry.type not in _OF_COURSE:
            lines.append(Text(f"  {entry.sentence}", style="dim"))
    for event in commit.events:
        if isinstance(event, PlanRevised) and event.request == command.id:
            lines += [Text(), *difference.changes(event.changes)]
    return lines


def _first(told: list[Entry], commit: Commit, command: AnyCommand) -> int:
    """Which of the events answers *command*."""
    for number, event in enumerate(commit.events):
        if isinstance(event, PlanRevised) and event.request == command.id:
            return number
    step = getattr(command, "step", None) or ""
    kinds = {kind.__struct_config__.tag for kind in VERBS[verb_of(command)].answers}
    # Of several the last one says most: a vote is given, and with it the gate approved.
    answers = [number for number, entry in enumerate(told) if entry.type in kinds]
    of_the_step = [number for number in answers if told[number].step == step]
    return (of_the_step or answers or [0])[-1]


def refusal(event: CommandRefused, address: Address, command: str, what: str = "was refused") -> list[Text]:
    """Why a command was not carried out, and what would be.

    Args:
        command: How a command line begins that leads to this mesh.
    """
    of = f" of {event.step}" if event.step else ""
    lines = [Text(f"planmesh: {event.verb}{of} {what} ({event.code}): {one_line(event.reason)}", style="red")]
    plan = shlex.quote(address.plan)
    ours = {verb.name for verb in VERBS_HERE}
    possible = []
    for verb in event.possible:
        step = f" {event.step}" if event.step and verb in _ABOUT_A_STEP else ""
        if verb == "vote":
            possible.append(f"gates show {plan} {event.step}")
        elif verb == "resolve":  # it takes one of two words, and nobody is to paste the wrong one unread
            possible += [f"resolve {plan}{step} --done", f"resolve {plan}{step} --not-done"]
        elif verb in ours and verb != "redirect":
            possible.append(f"{verb} {plan}{step}" + (" FILE" if verb == "revise" else ""))
    if possible:
        lines.append(Text("  What would be carried out now:"))
        lines += [whole(Text("    ").append(f"{command} {one}", "cyan")) for one in possible]
    return lines


def not_revised(problems: tuple[Problem, ...], source: Source | None, what: str = "was refused") -> list[Text]:
    """Why a revision cannot be, each problem with its place in *source*."""
    head = Text(f"planmesh: the revision {what}:", style="red")
    if source is not None:
        return [head, *document.told(problems, source.file, source.text)]
    lines = [head]
    for problem in problems:
        lines.append(Text().append("  ✗ ", "red").append(one_line(problem.message)))
        if problem.hint:
            lines.append(Text().append("    ").append(one_line(problem.hint), "dim"))
    return lines
