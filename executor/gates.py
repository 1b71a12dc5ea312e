"""What a gate would release, exactly; and the digest that a vote must quote. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from planmesh.schemas.events import GateOpened, Release, Upstream
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.payload import Payload, canonical, digest, digest_of
from planmesh.schemas.plan import Gate, Permissions, Task
from planmesh.schemas.state import Names, PlanState
from planmesh.schemas.templates import compile_template

_MAX_LISTED = 100  # steps listed in one event; the digest is over all of them


def opening(
    state: PlanState, gate: Gate, at: datetime, blobs: Mapping[str, object], default_sla_s: float
) -> GateOpened:
    """The question that *gate* puts now.

    Raises:
        ExpressionError: Its prompt, or what it is to show, cannot be put together.
        NeedsBlob: What it is to show has to be fetched first.
    """
    names = Names(state, blobs)
    before = state.graph.needs[gate.name]
    return GateOpened(
        step=gate.name,
        round=state.steps[gate.name].attempt + 1,
        digest=release_digest(state, gate.name),
        reviewers=gate.reviewers,
        quorum=gate.quorum,
        prompt=str(compile_template(gate.prompt).render(names)) if gate.prompt else "",
        shown=tuple(Payload(value=compile_template(shown).render(names)) for shown in gate.show),
        upstream=tuple(_upstream(state, name) for name in before[:_MAX_LISTED]),
        releases=tuple(_release(state, name) for name in state.graph.successors[gate.name][:_MAX_LISTED]),
        behind=len(state.graph.behind(gate.name)),
        overdue_at=at + timedelta(seconds=gate.sla_s or default_sla_s),
    )


def release_digest(state: PlanState, gate: str) -> str:
    """SHA-256 over every step behind *gate*: its definition, and the outputs and inputs that it reads, where known.

    An output never changes once it is there, so the digest changes only when there is something new to know.
    """
    behind = state.graph.behind(gate)
    definitions = [state.graph.steps[name] for name in behind]
    outputs = {
        need: digest_of(state.steps[need].output)
        for name in state.graph.successors[gate]
        for need in state.graph.needs[name]
        if need != gate
    }
    inputs = state.created.inputs if state.created is not None else {}
    return digest([definitions, outputs, inputs])


def _upstream(state: PlanState, name: str) -> Upstream:
    step = state.steps[name]
    payload = step.output
    return Upstream(
        step=name,
        status=step.status,
        agent=step.agent,
        duration_s=step.duration_s,
        output_sha256=digest_of(payload),
        output_bytes=payload.blob.size_bytes if payload.blob is not None else len(canonical(payload.value)),
    )


def _release(state: PlanState, name: str) -> Release:
    step = state.graph.steps[name]
    kind = step.__struct_config__.tag
    if not isinstance(step, Task):
        return Release(step=name, kind=str(kind))
    return Release(
        step=name,
        kind=str(kind),
        agent=step.agent,
        permissions=step.permissions or Permissions(),
        inputs=_known_inputs(state, step),
    )


def _known_inputs(state: PlanState, step: Task) -> dict[str, Any]:
    try:
        known = state.graph.inputs(step).render_references(Names(state))
    except ExpressionError as error:
        # The step will fail with this very error; the reviewer sees it first.
        return {"$error": str(error)}
    return known if isinstance(known, dict) else {}
