"""One turn: what one command sets going. Each event is recorded on the state that the ones before it made."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from planmesh.executor.digests import Digests
from planmesh.schemas import events
from planmesh.schemas.commands import Asked
from planmesh.schemas.events import AnyEvent
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import (
    ENDED,
    SATISFIED,
    TROUBLED,
    Names,
    PlanState,
    PlanStatus,
    StepStatus,
    evolve,
)
from planmesh.schemas.work import Parent

PLANMESH: Final = "planmesh"
_NAMED: Final = 5
"""Who acts when nobody asked: the rules themselves."""


class Turn:
    """What one command has set going so far: the events, and the state after them."""

    __slots__ = (
        "agent_limits",
        "alone",
        "asked",
        "at",
        "blobs",
        "by",
        "digests",
        "escalate_to",
        "events",
        "gate_sla_s",
        "state",
    )

    def __init__(
        self,
        state: PlanState,
        asked: Asked,
        blobs: Mapping[str, object],
        gate_sla_s: float,
        agent_limits: Mapping[str, int],
        escalate_to: str = "",
        alone: str = "",
    ) -> None:
        self.state = state
        self.asked = asked
        self.at: datetime = asked.at
        self.by = asked.by
        self.blobs = blobs
        self.gate_sla_s = gate_sla_s
        self.agent_limits = agent_limits
        self.escalate_to = escalate_to
        self.digests = Digests()
        self.alone = alone
        self.events: list[AnyEvent] = []

    def record(self, event: AnyEvent) -> None:
        self.state = evolve(self.state, event, self.at)
        self.events.append(event)

    def refuse(self, code: str, reason: str, step: str = "", parent: Parent | None = None) -> None:
        cause = self.asked.cause
        self.record(
            events.CommandRefused(
                verb=cause.verb,
                by=self.by,
                code=code,
                reason=reason,
                command=cause.id,
                step=step,
                possible=possible(self.state, step),
                parent=parent,
            )
        )

    def refuse_unknown_step(self, name: str) -> None:
        """The plan has ended, or has no such step."""
        if not self.state.exists or self.state.status in ENDED:
            self.refuse("ended", f"the plan is {described(self.state)}", name)
        else:
            self.refuse("unknown_step", f"the plan has no step {name}", name)

    def names(self, step: str, output: Payload | None = None) -> Names:
        """What the expressions of *step* read; with *output*, once it has given that."""
        return Names(self.state, self.blobs, step, output)


def described(state: PlanState) -> str:
    if not state.exists:
        return "unknown: there is no such plan"
    if state.held:
        return f"paused by {state.by}"
    if state.status is PlanStatus.PAUSED and state.troubled:
        return f"paused at {_first(state.troubled)}"
    return str(state.status)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def possible(state: PlanState, step: str = "") -> tuple[str, ...]:
    """The verbs that would be carried out now: for the plan; or for *step*, if it has one of this name."""
    if not state.exists or state.status in ENDED:
        return ()
    found = state.steps.get(step)
    if found is None:
        first = "start" if state.status is PlanStatus.DRAFT else "resume" if state.held else "pause"
        return (first, "cancel", "revise")
    verbs = ["resume"] if found.held else []
    if found.status not in SATISFIED and found.status is not StepStatus.CANCELLED:
        verbs += ["cancel"] if found.held else ["pause", "cancel"]
        if found.status in TROUBLED:
            verbs.append("retry")
        if found.status is StepStatus.OUTCOME_UNKNOWN:
            verbs.append("resolve")
        if found.status is StepStatus.WAITING and found.opened is not None:
            verbs += ["vote", "redirect"] if isinstance(found.opened, events.GateOpened) else ["answer"]
        optional = state.graph.steps[step].optional and not state.unsettled[step]
        if optional and found.status is not StepStatus.DISPATCHED:
            verbs.append("skip")
    return (*verbs, "revise")
