"""Gates: what one would release, exactly; and when it opens. Pure."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal, NamedTuple

from planmesh.executor.digests import only_meets, released
from planmesh.executor.reviewers import (
    OPERATOR,
    Standing,
    deadline,
    escalations,
    groups_of,
    may_answer,
    prompt_of,
)
from planmesh.executor.turn import Turn
from planmesh.schemas.commands import CastVote, Reply, ReviewGate
from planmesh.schemas.events import GateApproved, GateOpened, GateRejected, PlanRevised, Release, Upstream, VoteCast
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.four_eyes import barred, same
from planmesh.schemas.payload import Payload, canonical, digest_of
from planmesh.schemas.plan import Draft, Each, Gate, Permissions, Run, Step, Task, is_destructive
from planmesh.schemas.quorum import is_enough
from planmesh.schemas.revision import Change, abridged
from planmesh.schemas.state import Names, PlanState
from planmesh.schemas.templates import compile_template

_MAX_LISTED = 100  # steps listed in one event; the digest is over all of them
_CHANGES_BYTES = 64 * 1024


def open_gate(turn: Turn, gate: Gate, because: str = "", changes: tuple[Change, ...] = ()) -> None:
    """Let *gate* ask, or ask again.

    Args:
        because: Why it asks again.
        changes: What a revision has changed since it asked before.

    Raises:
        ExpressionError: Its prompt, or what it is to show, cannot be put together.
        NeedsBlob: What it is to show has to be fetched first.
    """
    state, names = turn.state, turn.names(gate.name)
    before = state.graph.needs[gate.name]
    turn.record(
        GateOpened(
            step=gate.name,
            round=state.steps[gate.name].attempt + 1,
            digest=turn.digests.of(state, gate.name),
            reviewers=gate.reviewers,
            quorum=gate.quorum,
            prompt=prompt_of(turn, gate),
            shown=tuple(Payload(value=compile_template(shown).render(names)) for shown in gate.show),
            upstream=tuple(_upstream(state, name) for name in before[:_MAX_LISTED]),
            releases=tuple(islice(_releases(state, gate.name), _MAX_LISTED)),
            behind=turn.digests.behind(state, gate.name),
            overdue_at=deadline(turn, gate),
            because=because,
            changes=changes,
            shares=gate.shares,
            barred=barred(state, gate.name),
            escalate=escalations(turn, gate),
        )
    )


def open_gate_again(turn: Turn, gate: Gate, revised: PlanRevised) -> None:
    """Let *gate* ask again because of a revision, with the reviser's own words and what has changed.

    Raises: as for `open_gate`.
    """
    because = f"{revised.by} has revised what it would release" + (f": {revised.reason}" if revised.reason else "")
    open_gate(turn, gate, because[:1_000], abridged(revised.changes[:_MAX_LISTED], _CHANGES_BYTES))


class _Ballot(NamedTuple):
    step: str
    digest: str
    decision: Literal["approve", "reject"]
    reason: str
    standing: Standing

    @property
    def said(self) -> dict[str, Any]:
        """What its events say of whoever answered. The server vouches for an operator; there is nothing to add."""
        groups = self.standing.groups
        return {} if groups is None else {"level": self.standing.level, "groups": groups}


def vote(turn: Turn, command: CastVote) -> None:
    """Judge the vote of an operator."""
    _judge(turn, _Ballot(command.step, command.digest, command.decision, command.reason, OPERATOR))


def review(turn: Turn, command: ReviewGate | Reply, decision: Literal["approve", "reject"], standing: Standing) -> None:
    """Judge the vote of somebody whom the gatekeeper, or the server, has identified."""
    _judge(turn, _Ballot(command.step, command.digest, decision, command.reason, standing))


def _judge(turn: Turn, command: _Ballot) -> None:
    """Judge a vote: once, for every channel that it may have come by."""
    if not may_answer(turn, command.step, command.standing):
        return
    step, gate = turn.state.steps[command.step], turn.state.graph.steps[command.step]
    assert isinstance(gate, Gate)  # or it could not be answered
    assert step.opened is not None
    if command.decision == "approve":
        own = next((one for one in barred(turn.state, command.step) if same(one.who, turn.by)), None)
        if own is not None:
            what = f"{own.revised}, which this plan comes of" if own.is_above else f"step {own.revised}"
            why = f"was the last to revise {what}" if own.revised else "requested the plan"
            turn.refuse("four_eyes", f"{turn.by} {why}, and cannot approve it: that takes somebody else", command.step)
            return
    if command.decision == "reject" and gate.require_reason and not command.reason.strip():
        turn.refuse("reason_required", f"rejecting gate {command.step} takes a reason", command.step)
        return
    if any(same(turn.by, voter) for voter in step.votes):
        turn.refuse("voted_already", f"{turn.by} has already approved gate {command.step}", command.step)
        return
    now = turn.digests.of(turn.state, command.step)
    if now != step.opened.digest:
        turn.refuse("stale", f"what gate {command.step} would release has changed: it asks again", command.step)
        open_gate(turn, gate, because="what it would release has changed since it asked")
        return
    if command.digest != now:
        turn.refuse("stale", f"the vote quotes another digest than gate {command.step} has now", command.step)
        return
    if command.decision == "reject":
        rejected = GateRejected(
            step=command.step, round=step.attempt, by=turn.by, reason=command.reason, **command.said
        )
        turn.record(rejected)
        return
    turn.record(VoteCast(step=command.step, round=step.attempt, by=turn.by, reason=command.reason, **command.said))
    now_step = turn.state.steps[command.step]
    votes = now_step.votes
    known = zip(votes, now_step.groups, strict=True)
    approvals = [groups_of(voter, groups or None) for voter, groups in known]
    if is_enough(gate.quorum, gate.shares, approvals):
        turn.record(
            GateApproved(step=command.step, round=step.attempt, by=votes, digest=command.digest, reason=command.reason)
        )


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


def _releases(state: PlanState, gate: str) -> Iterator[Release]:
    """What an approval would let go. Of the steps of an `each` no more is known than the document says."""
    for name in released(state.graph, gate):
        step = state.graph.steps[name]
        if only_meets(step):
            continue
        match step:
            case Task():
                yield _release(step, _known(state, step, step.inputs))
            case Each():
                yield _release(step, _Known({"items": step.items}))
                yield from (_release(body, _Known(body.inputs)) for body in step.steps if isinstance(body, Task))
            case Draft():
                yield _release(step, _known(state, step, step.inputs))
            case Run():
                yield _release(step, _about_run(state, step))
            case _:
                yield _release(step, _Known({}))


class _Known(NamedTuple):
    """The inputs of a step as far as they are known; and the steps that the other ones, as the document has them, wait
    for."""

    inputs: dict[str, Any]
    later: dict[str, tuple[str, ...]] = {}


def _release(step: Step, known: _Known) -> Release:
    permissions = step.permissions if isinstance(step, Task | Run) else None
    return Release(
        step=step.name,
        kind=str(step.__struct_config__.tag),
        agent=step.agent if isinstance(step, Task) else "",
        permissions=permissions or Permissions(),
        destructive=is_destructive(step),
        inputs=known.inputs,
        later=known.later,
    )


def _about_run(state: PlanState, step: Run) -> _Known:
    """What a reviewer of a `run` has to know besides its inputs, under names that no input can have."""
    most: object = "whatever its agents declare"
    if step.permissions is not None:
        granted = ((field, getattr(step.permissions, field)) for field in Permissions.__struct_fields__)
        most = {field: list(values) for field, values in granted if values} or "nothing"
    known = _known(state, step, {**step.inputs, "the plan": f"{{ {step.document} }}"})
    own = {"the plan": known.inputs.get("the plan"), "permitted at most": most}
    return known._replace(inputs=own | {name: what for name, what in known.inputs.items() if name not in own})


def _known(state: PlanState, step: Task | Draft | Run, inputs: Mapping[str, Any]) -> _Known:
    names = Names(state, step=step.name)
    try:
        awaited = {
            name: dict.fromkeys(step for read in compile_template(what).names for step in names.awaited(read))
            for name, what in inputs.items()
        }
        known = {name: what for name, what in inputs.items() if not awaited[name]}
        rendered = compile_template(known).render_references(names)
    except ExpressionError as error:
        # The step will fail with this very error; the reviewer sees it first.
        return _Known({"$error": str(error)})
    assert isinstance(rendered, dict)  # as an object is rendered
    later = {name: tuple(sorted(steps)) for name, steps in awaited.items() if steps}
    return _Known({name: rendered.get(name, what) for name, what in inputs.items()}, later)
