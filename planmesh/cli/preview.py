"""What a command would do, before it is sent: decided here, by the very rules of the executor, on the log as it is.

A revision is worked out by the planner that would work it out, which stores nothing of it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, frontier
from planmesh.cli.forms import as_one
from planmesh.cli.sending import Source, check, not_revised, refusal
from planmesh.cli.session import NotUnderstood, Session
from planmesh.client import Operator
from planmesh.executor.plan import Decision, decide
from planmesh.executor.revision import wanted
from planmesh.frontier import Frontier
from planmesh.frontier import frontier as compared
from planmesh.schemas import codec
from planmesh.schemas.commands import AnyCommand, Asked, verb_of
from planmesh.schemas.events import CommandRefused, RevisionRefused, RevisionRequested
from planmesh.schemas.goals import Problem
from planmesh.schemas.state import PlanState
from planmesh.schemas.values import NeedsBlob

_PLANNER: Final = "planner"


@Parameter(name="*")
@dataclass(frozen=True)
class Looking:
    """Whether to do it, or only to look at what it would do."""

    preview: Annotated[bool, Parameter(negative=(), help="Show what it would do to each step, and do nothing.")] = False
    format: Annotated[
        Literal["list", "tree", "mermaid"], Parameter(help="How the preview is drawn; see also --output.")
    ] = "list"


NO_LOOK: Final = Looking()


class Foreseen(NamedTuple):
    """What a command would do.

    Attributes:
        seen: None if it would be refused.
        after: The plan, once it is done.
        refused: Why the plan would not take it.
        problems: Why the revision that it asks for cannot be.
    """

    seen: Frontier | None
    after: PlanState
    refused: CommandRefused | None = None
    problems: tuple[Problem, ...] = ()


async def foresee(operator: Operator, state: PlanState, command: AnyCommand) -> Foreseen:
    """Decide *command* on *state*, and what the planner would answer to it; nothing is stored.

    Raises:
        Busy: No planner answers, or a value that a gate would show cannot be fetched.
    """
    decision = await _decide(operator, state, command, operator.name)
    for event in decision.events:
        if isinstance(event, CommandRefused) and event.command == command.id:
            return Foreseen(None, state, refused=event)
        if isinstance(event, RevisionRequested) and event.request == command.id:
            proposal = await operator.proposal(wanted(decision.state, event))
            answer = await _decide(operator, decision.state, proposal, _PLANNER)
            refused = next((one for one in answer.events if isinstance(one, RevisionRefused)), None)
            if refused is not None:
                return Foreseen(None, state, problems=refused.problems)
            return Foreseen(compared(state, answer.state), answer.state)
    return Foreseen(compared(state, decision.state), decision.state)


async def _decide(operator: Operator, state: PlanState, command: AnyCommand, by: str) -> Decision:
    at = datetime.now(UTC)
    asked = Asked(command, by, at if state.updated_at is None else max(at, state.updated_at))
    blobs: dict[str, Any] = {}
    while True:
        try:
            return decide(state, asked, blobs=blobs)
        except NeedsBlob as needs:
            for blob in needs.blobs:
                blobs[blob.sha256] = codec.value.decode(await operator.blob(blob.sha256))


async def show(
    session: Session,
    operator: Operator,
    state: PlanState,
    command: AnyCommand,
    look: Looking,
    source: Source | None = None,
) -> int:
    """Print what *command* would do.

    Args:
        source: Where its document comes from, for the places of problems.

    Returns:
        The exit code: 0 if it would be carried out, 1 if it would be refused.

    Raises:
        NotUnderstood: Two forms at once.
        Busy, Poison: See `foresee`, and `Operator.proposal`.
    """
    if look.format != "list" and session.output != "table":
        raise NotUnderstood("--format is a form by itself: leave --output out")
    check(command)
    foreseen = await foresee(operator, state, command)
    if foreseen.refused is not None:
        session.say(*refusal(foreseen.refused, state.address, session.command, "would be refused"), to=session.err)
    if foreseen.problems:
        session.say(*not_revised(foreseen.problems, source, "would be refused"), to=session.err)
    if foreseen.seen is None:
        return FAILED
    if session.output != "table":
        print(as_one(foreseen.seen, session.output))
    elif look.format == "mermaid":
        print(frontier.mermaid(foreseen.seen, foreseen.after.plan))
    elif look.format == "tree":
        session.say(Text(), *frontier.tree(foreseen.seen, foreseen.after.plan), Text())
    else:
        step = getattr(command, "step", None)
        title = f"{verb_of(command)} {f'{step} of ' if step else ''}{state.address.plan}"
        done = Text("  Nothing was done: this is a preview.", style="dim")
        session.say(Text(), *frontier.account(foreseen.seen, title), Text(), done, Text())
    return COMPLETED
