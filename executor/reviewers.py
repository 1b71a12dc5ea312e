"""Those whom gates and asks are put to: who may answer, as what they are known, and whom it is escalated to. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from planmesh.executor.turn import Turn
from planmesh.schemas.events import GateEscalated
from planmesh.schemas.plan import LEVELS, OPERATORS, Ask, Escalation, Gate, Level
from planmesh.schemas.state import ENDED, PlanState, StepStatus
from planmesh.schemas.templates import compile_template
from planmesh.schemas.values import text_of


class Standing(NamedTuple):
    """As what somebody answers.

    Attributes:
        level: How they have shown who they are.
        groups: Those of the reviewers that they are, as the gatekeeper has found, or the server for a service; None
            for an operator, for whom nobody speaks.
    """

    level: Level = "operator"
    groups: tuple[str, ...] | None = None


OPERATOR: Final = Standing()

_NAMED = 5
_PROMPT_BYTES = 64 * 1024  # it is for people to read; a large value belongs into `show`


def may_answer(
    turn: Turn, name: str, standing: Standing = OPERATOR, *, wanted: Literal["gate", "ask"] = "gate"
) -> bool:
    """Whether step *name* is a gate (or an ask) that is open, and whoever asks is among those whom it asks, and known
    well enough; if not, the command is refused."""
    step, asking = turn.state.steps.get(name), turn.state.graph.steps.get(name)
    if step is None or turn.state.status in ENDED:
        turn.refuse_unknown_step(name)
    elif not isinstance(asking, Gate | Ask) or not is_open(turn.state, name):
        turn.refuse("not_open", f"step {name} is {step.status}, not an open {wanted}", name)
    elif wanted != (kind := "gate" if isinstance(asking, Gate) else "ask"):
        takes = "an approval or a rejection" if kind == "gate" else "an answer"
        turn.refuse("other_kind", f"step {name} is {'a gate' if kind == 'gate' else 'an ask'}: it takes {takes}", name)
    elif not may_decide(step.reviewers, turn.by, standing.groups):
        asked = ", ".join(step.reviewers[:_NAMED]) + (", …" if len(step.reviewers) > _NAMED else "")
        turn.refuse("not_a_reviewer", f"{turn.by} is not a reviewer of {kind} {name}, which asks {asked}", name)
    elif LEVELS.index(standing.level) < LEVELS.index(level := asking.level_for(standing.groups or (), step.also)):
        least = {"login": "whoever has signed in", "operator": "an operator's credentials"}[level]
        turn.refuse("level", f"{kind} {name} takes the answer of {least}, and {turn.by} came by {standing.level}", name)
    else:
        return True
    return False


def may_decide(reviewers: Iterable[str], person: str, groups: tuple[str, ...] | None = None) -> bool:
    """Whether *person* is among the reviewers."""
    return not set(groups_of(person, groups)).isdisjoint(reviewers)


def groups_of(person: str, groups: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """What reviewers may be called that *person* is one of.

    The server lets an operator answer as themselves, and only the gatekeeper name groups: for somebody whom it has
    identified. So an operator is one of the operators, and the person of that name.
    """
    return (OPERATORS, f"person:{person}") if groups is None else groups


def is_open(state: PlanState, name: str) -> bool:
    """Whether step *name* is a gate or an ask that asks."""
    return state.steps[name].status is StepStatus.WAITING and state.steps[name].opened is not None


def prompt_of(turn: Turn, step: Gate | Ask) -> str:
    """The question, put together; cut where it is too long to be one.

    Raises:
        ExpressionError: It cannot be put together.
        NeedsBlob: What it shows has to be fetched first.
    """
    prompt = text_of(compile_template(step.prompt).render(turn.names(step.name))) if step.prompt else ""
    data = prompt.encode()
    if len(data) <= _PROMPT_BYTES:
        return prompt
    return f"{data[:_PROMPT_BYTES].decode(errors='ignore')} … (cut: the whole prompt has {len(data):,} bytes)"


def deadline(turn: Turn, step: Gate | Ask) -> datetime:
    """When *step*, which asks now, counts as overdue."""
    return turn.at + timedelta(seconds=step.sla_s or turn.gate_sla_s)


def escalations(turn: Turn, step: Gate | Ask) -> tuple[Escalation, ...]:
    """Whom *step*, which asks now, is escalated to: by the plan, or else by the settings, once it is overdue."""
    if step.escalate or not turn.escalate_to:
        return step.escalate
    return (Escalation(after_s=step.sla_s or turn.gate_sla_s, to=(turn.escalate_to,)),)


def escalate(turn: Turn, name: str, level: int | None = None, because: str = "") -> bool:
    """Let those answer as well whom the escalation *level* names (None: the next), and those of the levels before it.

    Returns: whether there was one that had not come about yet.
    """
    step = turn.state.steps[name]
    assert step.opened is not None  # whoever calls has looked
    level = step.escalated + 1 if level is None else level
    reached = step.opened.escalate[step.escalated : level]
    if not reached or level > len(step.opened.escalate):
        return False
    to = tuple(dict.fromkeys(reviewer for one in reached for reviewer in one.to))
    turn.record(GateEscalated(step=name, round=step.attempt, level=level, to=to, because=because))
    return True
