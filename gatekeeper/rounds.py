"""What reviewers have been asked and told: the rounds of a plan's gates and asks, folded from its log. Pure.

A notice needs little of a plan, so little is kept: a plan of ten thousand steps costs no more here than its gates. An
ask is a gate here, but where it says otherwise: somebody is asked, and something waits for what they say.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec
from immutables import Map
from msgspec import Struct

from planmesh.eventlog import next_commit
from planmesh.schemas import events
from planmesh.schemas.each import is_numbered
from planmesh.schemas.events import AskOpened, Commit, GateOpened, hash_of
from planmesh.schemas.payload import Payload, canonical
from planmesh.schemas.plan import Ask, Each, Gate, Plan
from planmesh.schemas.state import PlanState, sealed
from planmesh.schemas.subjects import Address

Kind: TypeAlias = Literal["opened", "overdue", "escalated", "decided", "cancelled"]
"""What a notice says: a gate asks; it still asks, and somebody should have decided; others are asked as well; it was
decided; or nobody will decide it any more."""

# As much of what ran before a gate as a notice can say.
_OUTPUT_BYTES: Final = 2_048
_MOST_OUTPUTS: Final = 40
_MOST_BEHIND: Final = 8
_MOST_LOOKED_AT: Final = 100

# Whatever opens, reminds of or closes a gate, or stops a plan, as `planmesh.schemas.codec.encode` writes it. Text
# that reads like this has its quotes escaped; an object that has such a key costs a needless decoding, no more.
_WORDS: Final = (
    b'"type":"gate.',
    b'"type":"ask.',
    b'"type":"steps.cancelled"',
    b'"type":"step.skipped"',
    b'"type":"plan.revised"',
    b'"type":"plan.paused"',
    b'"type":"plan.failed"',
    b'"type":"step.outcome_unknown"',
)
_MOST_FAILURES: Final = 20
_FAILURE_CHARACTERS: Final = 500

_replace = msgspec.structs.replace


class Ending(Struct, frozen=True, kw_only=True):
    """How a round ended.

    Attributes:
        how: `closed`: nobody decided, for the gate was taken out or the plan came to its end; `answered`: an ask.
        by: Who approved, rejected or skipped; who cancelled or revised the plan.
        reason: What they said, or how the plan ended.
        reopened_by: Who asked for another round after a rejection.
        answer: To an ask.
    """

    how: Literal["approved", "rejected", "answered", "skipped", "closed"]
    by: tuple[str, ...]
    reason: str
    reopened_by: str = ""
    answer: Payload | None = None


class Call(Struct, frozen=True, kw_only=True):
    """Why somebody is to be told of a round that is open.

    Attributes:
        reviewers: Who.
        level: Of an escalation: which, from 1.
        because: Why it was escalated.
    """

    kind: Literal["opened", "overdue", "escalated"]
    reviewers: tuple[str, ...]
    level: int = 0
    because: str = ""


class Due(Struct, frozen=True):
    """What a channel has to be told."""

    kind: Kind
    level: int = 0


class Round(Struct, frozen=True, kw_only=True):
    """One time that a gate asks.

    Attributes:
        opened: What it asks.
        at: Since when.
        before: The round before this one. One without an ending was overtaken: what it would release has changed.
        votes: Who has approved so far, where it takes several.
        calls: Who was asked, reminded and asked as well, in order.
        told: Whether a notice reached a channel, by what it said (an escalation: which) and the channel's name.
    """

    opened: GateOpened | AskOpened
    at: datetime
    before: "Round | None" = None
    overdue: bool = False
    votes: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    ending: Ending | None = None
    told: Map[tuple[str, int, str], bool] = Map()

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Everybody who is asked by now."""
        return tuple(dict.fromkeys((*self.opened.reviewers, *(one for call in self.calls for one in call.reviewers))))

    @property
    def escalated(self) -> int:
        """How many of its escalations have come about."""
        return max((call.level for call in self.calls), default=0)


class Reason(Struct, frozen=True):
    """Why a step has failed: as much of it as somebody is told."""

    code: str
    message: str


class Reviews(Struct, frozen=True, kw_only=True):
    """A plan as far as its log has been read, and as far as its reviewers care.

    Attributes:
        chain: The plan's address and the commit that was read last; its steps are not folded.
        sequence: The stream sequence of the last message on the plan's subject, junk included; 0 for none.
        gates: The plan's gates and asks by name.
        of_items: Those that an `each` has for every item, by their name in it.
        also: Those to whom they were escalated, in whatever round.
        before: The steps right before gates.
        labels: What the steps around gates are called for people, where the plan says so.
        behind: Of each gate, the first steps that stand behind those right behind it: what they are called, and the
            agent.
        outputs: What the steps right before gates have given, where it is short.
        rounds: The latest round of each gate that has been opened.
        standstill: Why the plan is paused, if nobody has paused it.
        failed: How it failed, if it has.
        failures: Why steps have failed, and attempts were given up.
        unknown: The steps that nobody knows the end of, and why.
    """

    chain: PlanState
    sequence: int = 0
    name: str = ""
    goal: str = ""
    requester: str = ""
    gates: dict[str, Gate | Ask] = {}
    of_items: dict[str, Gate | Ask] = {}
    also: Map[str, tuple[str, ...]] = Map()
    before: frozenset[str] = frozenset()
    labels: dict[str, str] = {}
    behind: dict[str, tuple[tuple[str, str], ...]] = {}
    outputs: Map[str, Payload] = Map()
    rounds: Map[str, Round] = Map()
    standstill: events.PlanPaused | None = None
    failed: events.PlanFailed | None = None
    failures: Map[str, Reason] = Map()
    unknown: Map[str, str] = Map()

    @classmethod
    def nothing(cls, address: Address) -> "Reviews":
        return cls(chain=PlanState(address=address))

    def gate(self, step: str) -> Gate | Ask | None:
        """The gate or ask called *step*, that of an item as well; None where the plan has none."""
        return self.gates.get(step) or (self.of_items.get(step.rpartition("_")[0]) if is_numbered(step) else None)


def concerns_people(commit: bytes) -> bool:
    """Whether a stored commit may be about gates, or news for operators: a look at its bytes, for all those that are
    not."""
    return any(word in commit for word in _WORDS)


def gates_of(commit: Commit) -> tuple[str, ...]:
    """What *commit* opens, reminds of or closes; not all of them need be gates."""
    found: dict[str, None] = {}
    for event in commit.events:
        match event:
            case (
                events.GateOpened()
                | events.AskOpened()
                | events.GateOverdue()
                | events.GateEscalated()
                | events.AskAnswered()
                | events.GateApproved()
                | events.GateRejected()
                | events.StepSkipped()
            ):
                found[event.step] = None
            case events.StepsCancelled():
                found.update(dict.fromkeys(event.steps))
            case events.PlanRevised():
                found.update(dict.fromkeys(change.step for change in event.changes))
    return tuple(found)


def read(reviews: Reviews, sequence: int, data: bytes) -> Reviews:
    """Fold one stored message. What does not fit is junk: skipped, its sequence counted (the executor alarms).

    Raises:
        Unusable: It is the next commit, and this version cannot read it: what is behind it may be about gates.
    """
    commit = next_commit(reviews.chain, sequence, data)
    if isinstance(commit, str):
        return _replace(reviews, sequence=sequence)
    return _replace(fold(reviews, commit), chain=sealed(reviews.chain, commit.number, hash_of(data)), sequence=sequence)


def fold(reviews: Reviews, commit: Commit) -> Reviews:
    """The reviews after the events of *commit*."""
    rounds = reviews.rounds
    for event in commit.events:
        reviews = _stand(reviews, event)
        match event:
            case events.PlanCreated(plan=plan):
                reviews = _replace(
                    reviews,
                    name=plan.name,
                    goal=event.goal or plan.goal,
                    requester=event.requester,
                    **_around_gates(plan),
                )
            case events.PlanRevised(plan=plan):
                was = reviews.gates
                reviews = _replace(reviews, name=plan.name, **_around_gates(plan))
                # Those to whom it was escalated may decide what is asked of the same people, as in `schemas.state`.
                kept = {step: to for step, to in reviews.also.items() if _asks(was, step) == _asks(reviews.gates, step)}
                reviews = _replace(reviews, also=Map(kept))
                gone = Ending(how="closed", by=(event.by,), reason=_with(event.reason, "a revision took the gate out"))
                for step in rounds:
                    if reviews.gate(step) is None:
                        rounds = _end(rounds, step, gone)
            case events.StepCompleted(step=step, output=output):
                if step in reviews.before and _is_short(output):
                    reviews = _replace(reviews, outputs=reviews.outputs.set(step, output))
            case events.GateOpened() | events.AskOpened():
                before = rounds.get(event.step)
                if before is not None:
                    before = _replace(before, before=None)
                asked_first = Call(kind="opened", reviewers=(*event.reviewers, *reviews.also.get(event.step, ())))
                opened = Round(opened=event, at=commit.at, before=before, calls=(asked_first,))
                rounds = rounds.set(event.step, opened)
            case events.VoteCast():
                rounds = _change(rounds, event.step, votes=(*_votes(rounds, event.step), event.by))
            case events.GateOverdue():
                asked = rounds.get(event.step)
                if asked is not None:
                    reminded = Call(kind="overdue", reviewers=asked.reviewers)
                    rounds = _change(rounds, event.step, overdue=True, calls=(*asked.calls, reminded))
            case events.GateEscalated():
                also = (*reviews.also.get(event.step, ()), *event.to)
                reviews = _replace(reviews, also=reviews.also.set(event.step, tuple(dict.fromkeys(also))))
                asked = rounds.get(event.step)
                if asked is not None:
                    more = Call(kind="escalated", reviewers=event.to, level=event.level, because=event.because)
                    rounds = _change(rounds, event.step, calls=(*asked.calls, more))
            case events.AskAnswered():
                ending = Ending(
                    how="answered", by=(event.by,), reason=event.reason, answer=None if event.secret else event.output
                )
                rounds = _end(rounds, event.step, ending)
            case events.GateApproved():
                rounds = _end(rounds, event.step, Ending(how="approved", by=event.by, reason=event.reason))
            case events.GateRejected():
                rounds = _end(rounds, event.step, Ending(how="rejected", by=(event.by,), reason=event.reason))
            case events.StepSkipped():
                rounds = _end(rounds, event.step, Ending(how="skipped", by=(event.by,), reason=event.reason))
            case events.StepsCancelled():
                ending = _closing(commit)
                for step in event.steps:
                    rounds = _end(rounds, step, ending)
            case events.StepReopened():
                asked = rounds.get(event.step)
                if asked is not None and asked.ending is not None:
                    rounds = _change(rounds, event.step, ending=_replace(asked.ending, reopened_by=event.by))
            case events.NoticeSent():
                rounds = told(
                    rounds, event.step, event.round, event.notice, event.level, event.channel, event.delivered
                )
    return _replace(reviews, rounds=rounds)


def _stand(reviews: Reviews, event: events.AnyEvent) -> Reviews:
    """Whether the plan stands still after *event*, and why."""
    match event:
        case events.PlanPaused():
            return _replace(reviews, standstill=None if event.held else event)
        case events.PlanResumed() | events.PlanCompleted() | events.PlanCancelled() if reviews.standstill is not None:
            return _replace(reviews, standstill=None)
        case events.PlanFailed():
            return _replace(reviews, standstill=None, failed=event)
        case events.StepFailed(step=step, failure=failure):
            known = reviews.unknown.delete(step) if step in reviews.unknown else reviews.unknown
            reason = Reason(failure.code, failure.message[:_FAILURE_CHARACTERS])
            found = reviews.failures
            if step in found or len(found) < _MOST_FAILURES:
                found = found.set(step, reason)
            return _replace(reviews, failures=found, unknown=known)
        case events.StepOutcomeUnknown(step=step, reason=why):
            return _replace(reviews, unknown=reviews.unknown.set(step, why[:_FAILURE_CHARACTERS]))
        case events.StepCompleted(step=step) | events.StepReopened(step=step) | events.StepSkipped(step=step):
            if step in reviews.unknown:
                return _replace(reviews, unknown=reviews.unknown.delete(step))
        case events.StepsCancelled(steps=steps):
            gone = [step for step in steps if step in reviews.unknown]
            if gone:
                return _replace(reviews, unknown=Map({k: v for k, v in reviews.unknown.items() if k not in gone}))
    return reviews


def told(
    rounds: Map[str, Round], step: str, number: int, kind: str, level: int, channel: str, delivered: bool
) -> Map[str, Round]:
    """The rounds once *channel* has been told, or could not be. Of a round that is over and gone, nothing is kept."""
    asked = rounds.get(step)
    if asked is None or asked.opened.round != number:
        return rounds
    return _change(rounds, step, told=asked.told.set((kind, level, channel), delivered))


def due(
    asked: Round | None, channel: str, reaches: Callable[[tuple[str, ...]], bool], *, is_personal: bool = False
) -> Due | None:
    """What *channel* has to be told of a gate now; None: nothing.

    Only the latest news counts, so that whoever was away is not told what is no longer so. That a gate asks no longer
    is news for those who heard that it did.

    Args:
        reaches: Whether the channel reaches somebody among reviewers.
        is_personal: Whether it is one person's: who has been asked is not asked as well.
    """
    if asked is None:
        return None
    if asked.ending is not None:
        heard = any(delivered for (_, _, name), delivered in asked.told.items() if name == channel)
        news = Due("cancelled" if asked.ending.how == "closed" else "decided") if heard else None
    else:
        calls = [call for call in asked.calls if reaches(call.reviewers)]
        if is_personal:
            calls = [call for at, call in enumerate(calls) if not at or call.kind != "escalated"]
        news = Due(calls[-1].kind, calls[-1].level) if calls else None
    return None if news is None or (news.kind, news.level, channel) in asked.told else news


def _around_gates(plan: Plan) -> dict[str, Any]:
    """What is kept of a plan: its gates, and of the steps right before and behind them what they are called."""
    gates = {step.name: step for step in plan.steps if isinstance(step, Gate | Ask)}
    reviewed = (step for step in gates.values() if isinstance(step, Gate))
    before = frozenset(name for gate in reviewed for name in gate.after[:_MOST_OUTPUTS])
    near = (
        step for step in plan.steps if step.label and (step.name in before or not gates.keys().isdisjoint(step.after))
    )
    labels = {step.name: step.label for step in near}
    of_items = {
        body.name: body
        for step in plan.steps
        if isinstance(step, Each)
        for body in step.steps
        if isinstance(body, Gate | Ask)
    }
    return {"gates": gates, "of_items": of_items, "before": before, "labels": labels, "behind": _behind(plan, gates)}


def _behind(plan: Plan, gates: Iterable[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """The first few steps behind those that each gate releases, nearest first: a reviewer wants to know what it is that
    follows, and not only how much."""
    steps = {step.name: step for step in plan.steps}
    successors: dict[str, list[str]] = {}
    for step in plan.steps:
        for need in step.after:
            successors.setdefault(need, []).append(step.name)
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for gate in gates:
        right_behind = successors.get(gate, ())[:_MOST_LOOKED_AT]
        seen, queue = {gate, *right_behind}, deque(right_behind)
        further: list[str] = []
        while queue and len(further) < _MOST_BEHIND:
            for name in successors.get(queue.popleft(), ())[:_MOST_LOOKED_AT]:
                if name not in seen:
                    seen.add(name)
                    queue.append(name)
                    further.append(name)
        if further:
            found[gate] = tuple(
                (steps[name].label or name, getattr(steps[name], "agent", "")) for name in further[:_MOST_BEHIND]
            )
    return found


def _asks(gates: Mapping[str, Gate | Ask], step: str) -> object:
    """Of whom a gate asks, as far as a revision may change it."""
    gate = gates.get(step)
    return None if gate is None else (type(gate), gate.reviewers, gate.escalate)


def _is_short(output: Payload) -> bool:
    return output.blob is None and len(canonical(output.value)) <= _OUTPUT_BYTES


def _with(reason: str, what: str) -> str:
    return f"{what}: {reason}" if reason else what


def _votes(rounds: Map[str, Round], step: str) -> tuple[str, ...]:
    asked = rounds.get(step)
    return () if asked is None else asked.votes


def _change(rounds: Map[str, Round], step: str, **changes: object) -> Map[str, Round]:
    asked = rounds.get(step)
    return rounds if asked is None else rounds.set(step, _replace(asked, **changes))


def _end(rounds: Map[str, Round], step: str, ending: Ending) -> Map[str, Round]:
    """End the round, unless it has ended: a gate that was rejected may be skipped or cancelled later."""
    asked = rounds.get(step)
    return rounds if asked is None or asked.ending is not None else _change(rounds, step, ending=ending)


def _closing(commit: Commit) -> Ending:
    """Why what *commit* cancels is cancelled."""
    for event in commit.events:
        match event:
            case events.PlanCancelled():
                return Ending(how="closed", by=(event.by,), reason=event.reason or "the plan was cancelled")
            case events.PlanFailed():
                return Ending(how="closed", by=(), reason=f"the plan failed: {event.reason}")
            case events.PlanCompleted():
                return Ending(how="closed", by=(), reason=f"the plan ended with the outcome {event.outcome!r}")
    return Ending(how="closed", by=(), reason="the step was cancelled")
