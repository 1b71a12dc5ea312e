"""Revisions: who may ask for one, what it may not do, which gates ask again. Pure.

Someone asks (`revise`, `redirect`, or a retry with other inputs or another agent); the planner answers with a plan that
is checked and completed, or with what is wrong; then it is carried out on the state of that moment, or refused.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from planmesh.executor.asks import open_ask_again
from planmesh.executor.cancelling import cancel
from planmesh.executor.failures import fail_now
from planmesh.executor.gates import open_gate, open_gate_again
from planmesh.executor.released import asking_again, gates_of, mistaken
from planmesh.executor.reviewers import OPERATOR, Standing, is_open, may_answer
from planmesh.executor.turn import Turn, described
from planmesh.schemas import events
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import ProposeRevision, RedirectPlan, RevisePlan
from planmesh.schemas.events import AskOpened, RevisionRequested
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.mandate import exceeding
from planmesh.schemas.plan import (
    LEVELS,
    OPERATORS,
    SERVICE,
    Ask,
    Check,
    Decide,
    Each,
    Gate,
    Permissions,
    Plan,
    Run,
    Step,
    Task,
)
from planmesh.schemas.revision import abridged, difference
from planmesh.schemas.secrets import disclosed, recipients
from planmesh.schemas.state import (
    ENDED,
    SATISFIED,
    Graph,
    PlanState,
    StepStatus,
    may_change,
    open_asks,
    open_gates,
)
from planmesh.schemas.work import PlannerWork

REQUEST_BYTES: Final = 7 * 1024 * 1024
"""The plan and the document that is to take its place: the planner gets both in one message."""

LOOSENS: Final = "loosens"
"""The code of what a planner may not do by itself, and a person may."""
HELD: Final = "held"
"""The code of what the plan's policy leaves to a person."""

NOTHING: Final = "nothing_to_change"
"""The code of a revision that would be no other plan."""

_CHANGES_BYTES: Final = 256 * 1024
_TROUBLE_CHARACTERS: Final = 1_000
_SAYS_NOTHING: Final = {"label": "", "optional": False, "on_error": "halt"}
"""What does not change what a step does, by what it is unless given."""


def may_request(turn: Turn, document: object, step: str = "") -> bool:
    """Whether the planner can be asked about *document*, and its answer told apart; if not, the command is refused.

    Args:
        document: What is to take the place of the plan, or of the inputs of *step*.
    """
    others = turn.state.answered.get(turn.asked.cause.id, ())
    size_bytes = len(encode(document)) + len(encode(turn.state.plan))
    if others:
        # The answer names the request by nothing else.
        turn.refuse("id_taken", f"its id is that of something that {others[0]} has asked; give it another", step)
    elif size_bytes > REQUEST_BYTES:
        turn.refuse(
            "too_large",
            f"the plan and what is to change it have {size_bytes:,} bytes; together, {REQUEST_BYTES:,} are allowed",
            step,
        )
    else:
        return True
    return False


def revise(turn: Turn, command: RevisePlan) -> None:
    """Ask the planner for what the plan is to be from here on."""
    if not turn.state.graph.steps or turn.state.status in ENDED:
        turn.refuse("ended", f"the plan is {described(turn.state)}")
    elif command.base != turn.state.revision:
        turn.refuse("stale", f"the plan is at revision {turn.state.revision}, not {command.base}")
    elif (command.document is None) == (not command.instruction):
        turn.refuse("unclear", "a revision takes either a document or an instruction")
    elif may_request(turn, command.document):
        turn.record(
            RevisionRequested(
                request=command.id,
                kind="revise",
                by=turn.by,
                base=command.base,
                reason=command.reason,
                document=command.document,
                instruction=command.instruction,
                cancel_running=command.cancel_running,
            )
        )


def redirect(turn: Turn, command: RedirectPlan, standing: Standing = OPERATOR) -> None:
    """The same, from a gate, by one of its reviewers. It asks again when the answer is there."""
    if not may_answer(turn, command.step, standing):
        return
    step = turn.state.steps[command.step]
    assert step.opened is not None  # it is open, or it could not be answered
    if command.digest != step.opened.digest:
        turn.refuse("stale", f"the answer quotes another digest than gate {command.step} has now", command.step)
    elif command.base not in (0, turn.state.revision):
        turn.refuse("stale", f"the plan is at revision {turn.state.revision}, not {command.base}", command.step)
    elif (command.document is None) == (not command.instruction):
        turn.refuse("unclear", "a redirection takes either a document or an instruction", command.step)
    elif may_request(turn, command.document, command.step):
        turn.record(
            RevisionRequested(
                request=command.id,
                kind="redirect",
                by=turn.by,
                base=turn.state.revision,
                reason=command.reason,
                document=command.document,
                instruction=command.instruction,
                step=command.step,
                attempt=step.attempt,
                bound=standing.groups is not None,
            )
        )


def propose(turn: Turn, command: ProposeRevision) -> None:
    """Carry out what the planner has worked out, or say why not. A request that was answered before says nothing."""
    request = turn.state.requests.get(command.request)
    if request is None or turn.state.status in ENDED:
        return
    problems, revised = command.problems, command.plan
    if revised is not None and not problems:
        mistakes = tuple(mistaken(turn.state, revised))
        revised = asking_again(turn.state, revised)
        if mistakes:
            problems = mistakes
        elif request.kind != "retry" and not difference(turn.state.plan, revised):
            problems = (Problem(code=NOTHING, message="nothing to change: the plan is like that already"),)
        else:
            problems = refusals(turn.state, request, revised, by_planner=command.by_planner)
    if revised is None or problems:
        for_a_person = all(problem.code in (LOOSENS, HELD) for problem in problems)
        turn.record(
            events.RevisionRefused(
                request=command.request,
                by=request.by,
                problems=problems,
                plan=revised if for_a_person else None,
                origin=command.origin,
            )
        )
        gate = turn.state.graph.steps.get(request.step)
        goes_back = request.kind == "redirect" and not turn.alone
        if goes_back and isinstance(gate, Gate) and is_open(turn.state, request.step):
            why = "; ".join(problem.message for problem in problems[:3])
            open_gate(turn, gate, because=f"the redirection by {request.by} cannot be: {why}"[:1_000])
        return
    _carry_out(turn, request, revised, command.origin)


def wanted(state: PlanState, event: RevisionRequested) -> PlannerWork:
    """What the planner has to know to answer *event*, as the plan is now."""
    running = tuple(
        name
        for name in state.graph.steps
        if state.steps[name].status is StepStatus.DISPATCHED and name not in state.graph.items
    )
    return PlannerWork(
        space=state.address.space,
        plan=state.address.plan,
        request=event.request,
        kind=event.kind,
        by=event.by,
        current=state.plan,
        kept=tuple(name for name in state.graph.steps if not may_change(state, name) and name not in state.graph.items),
        document=event.document,
        instruction=event.instruction,
        step=event.step,
        agent=event.agent,
        inputs=event.inputs,
        running=running,
        cancellable=running if event.cancel_running else (),
        trouble=_trouble(state) if event.instruction else {},
        mandate=state.mandate,
        parent=state.parent,
    )


def _trouble(state: PlanState) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in state.graph.steps:
        step = state.steps[name]
        if step.status is StepStatus.FAILED and step.failure is not None:
            found[name] = f"{step.failure.code}: {step.failure.message}"[:_TROUBLE_CHARACTERS]
        elif step.status in (StepStatus.REJECTED, StepStatus.OUTCOME_UNKNOWN):
            found[name] = step.reason[:_TROUBLE_CHARACTERS]
    return found


def _carry_out(turn: Turn, request: RevisionRequested, revised: Plan, origin: Origin | None) -> None:
    before = turn.state
    asks_again = to_ask_again(before, revised, StepStatus.COMPLETED)
    revised = behind_again(before, revised, asks_again)
    anew = [*_changed_troubles(before, revised), *to_ask_again(before, revised, StepStatus.REJECTED)]
    if request.kind == "retry":
        anew.append(request.step)
    changes = difference(before.plan, revised)
    kept = {step.name for step in revised.steps}
    running = [
        name
        for name, step in before.steps.items()
        if name not in kept and name not in before.graph.items and step.status is StepStatus.DISPATCHED
    ]
    cancel(turn, sorted(running), by=request.by, reason=request.reason or "a revision leaves it out")
    event = events.PlanRevised(
        revision=before.revision + 1,
        request=request.request,
        by=request.by,
        reason=request.reason or request.instruction[:1_000],
        plan=revised,
        changes=abridged(changes, _CHANGES_BYTES),
        asks_again=asks_again,
        origin=origin,
    )
    turn.record(event)
    for name in dict.fromkeys(anew):
        if turn.state.steps[name].status in (StepStatus.FAILED, StepStatus.REJECTED):
            turn.record(events.StepReopened(step=name, by=request.by, reason=request.reason))
    for name in open_gates(turn.state):
        gate, opened = turn.state.graph.steps[name], turn.state.steps[name].opened
        assert isinstance(gate, Gate)  # `open_gates` lists nothing else
        assert opened is not None
        is_another = before.graph.steps.get(name) != gate
        if name == request.step or is_another or opened.digest != turn.digests.of(turn.state, name):
            try:
                open_gate_again(turn, gate, event)
            except ExpressionError as error:
                fail_now(turn, name, "expression", str(error))
                if turn.state.status in ENDED:
                    return
    for name in open_asks(turn.state):
        ask = turn.state.graph.steps[name]
        assert isinstance(ask, Ask)  # `open_asks` lists nothing else
        opened = turn.state.steps[name].opened
        gives_to_others = isinstance(opened, AskOpened) and opened.recipients != recipients(turn.state, name)
        if before.graph.steps.get(name) != ask or gives_to_others:
            try:
                open_ask_again(turn, ask, event)
            except ExpressionError as error:
                fail_now(turn, name, "expression", str(error))
                if turn.state.status in ENDED:
                    return


def _changed_troubles(state: PlanState, revised: Plan) -> Iterator[str]:
    """The failed and rejected steps that are to do something else now: they begin anew."""
    for step in revised.steps:
        before = state.graph.steps.get(step.name)
        if (
            before is not None
            and state.steps[step.name].status in (StepStatus.FAILED, StepStatus.REJECTED)
            and _what_it_does(before) != _what_it_does(step)
        ):
            yield step.name


def _what_it_does(step: Step) -> Step:
    unsaid = {field: value for field, value in _SAYS_NOTHING.items() if field in step.__struct_fields__}
    return msgspec.structs.replace(step, **unsaid)


def refusals(state: PlanState, request: RevisionRequested, revised: Plan, *, by_planner: bool) -> tuple[Problem, ...]:
    """Why *revised* cannot take the place of the plan that *state* has; none if it can.

    Args:
        by_planner: Whether the planner wrote it by itself: then it may not loosen a gate or widen a permission; nor may
            what a reviewer has asked for, who is asked about one gate.
    """
    if request.base != state.revision:
        message = f"it was made against revision {request.base}, and the plan is at {state.revision}"
        hint = f"planmesh show {state.address.plan}, and revise again"
        return (Problem(code="stale", message=message, hint=hint),)
    problems = [
        *_started_steps_changed(state, request, revised),
        *_never_reached(state, revised),
        *_behind_items(state, revised),
        *exceeding(revised, state.mandate, state.parent),
    ]
    if by_planner or request.bound:
        problems += _loosened(state, revised)
    if by_planner and state.plan.policy.revisions == "hold":
        message = "the plan's policy leaves it to a person to allow what the planner proposes"
        hint = f"look at it, and allow it: planmesh revise {state.address.plan} --proposed last --preview"
        problems.append(Problem(code=HELD, pointer="/policy/revisions", message=message, hint=hint))
    return tuple(problems)


def to_ask_again(state: PlanState, revised: Plan, status: StepStatus) -> tuple[str, ...]:
    """The gates in *status* (approved, or rejected) behind which there is now something to start that nobody has
    judged."""
    graph = Graph.of(revised)
    return tuple(
        name
        for name, step in graph.steps.items()
        if isinstance(step, Gate)
        and name in state.steps
        and state.steps[name].status is status
        and any(_is_news(state, graph, name, behind) for behind in graph.behind(name))
    )


def behind_again(state: PlanState, revised: Plan, gates: tuple[str, ...]) -> Plan:
    """The plan in which everything that is to start behind *gates* needs them itself.

    Between such a gate and a step behind it there may be one that it let go before: that one will finish, and must
    not let the next one start while the gate asks again.
    """
    graph = Graph.of(revised)
    more: dict[str, list[str]] = {}
    for gate in gates:
        for name in graph.behind(gate):
            waits = name not in state.steps or may_change(state, name)
            if waits and gate not in graph.needs[name]:
                needs_started = any(need in state.steps and not may_change(state, need) for need in graph.needs[name])
                if needs_started:
                    more.setdefault(name, []).append(gate)
    if not more:
        return revised
    steps = tuple(
        msgspec.structs.replace(step, after=(*step.after, *more.get(step.name, ()))) for step in revised.steps
    )
    return msgspec.structs.replace(revised, steps=steps)


def _is_news(state: PlanState, graph: Graph, gate: str, name: str) -> bool:
    if name not in state.steps:
        return True
    return may_change(state, name) and (
        graph.steps[name] != state.graph.steps[name] or name not in state.graph.behind(gate)
    )


def _started_steps_changed(state: PlanState, request: RevisionRequested, revised: Plan) -> Iterator[Problem]:
    new = {step.name: (index, step) for index, step in enumerate(revised.steps)}
    for name, step in state.graph.steps.items():
        if may_change(state, name) or name in state.graph.items:
            continue
        status = state.steps[name].status
        if name not in new:
            if not (status is StepStatus.DISPATCHED and request.cancel_running):
                hints = {
                    StepStatus.DISPATCHED: "cancel it with --cancel-running",
                    StepStatus.WAITING: "it waits for its next attempt: cancel it first",
                    StepStatus.OUTCOME_UNKNOWN: "say first whether it was done (resolve)",
                }
                message = f"step {name} is {status}, and the revision leaves it out"
                yield Problem(code="started", message=message, hint=hints.get(status, ""))
        elif new[name][1] != step:
            yield Problem(
                code="started",
                pointer=f"/steps/{new[name][0]}",
                message=f"step {name} is {status}, and cannot change any more",
                hint="leave it as it is, and add a step with another name",
            )


def _never_reached(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """What would wait for ever, because it needs what was cancelled."""
    graph = Graph.of(revised)
    for index, name in enumerate(graph.steps):
        if name in state.steps and state.steps[name].status is StepStatus.CANCELLED:
            continue
        for need in graph.needs[name]:
            if need in state.steps and state.steps[need].status is StepStatus.CANCELLED:
                yield Problem(
                    code="never",
                    pointer=f"/steps/{index}/after",
                    message=f"step {name} needs step {need}, which was cancelled, and would never begin",
                    hint="let it need something else, or add the cancelled step again under another name",
                )


def _behind_items(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """What would start behind an `each` whose gates have let their items go, and were asked about something else.

    They cannot ask again: what they let go has been done. So a gate of its own has to stand before it.
    """
    graph = Graph.of(revised)
    asked = {
        item.each
        for name, item in state.graph.items.items()
        if isinstance(state.graph.steps[name], Gate) and state.steps[name].status is StepStatus.COMPLETED
    }
    for each in sorted(asked & graph.steps.keys()):
        behind = graph.behind(each)
        guarded = {
            name
            for gate in behind
            if isinstance(graph.steps[gate], Gate) and not (gate in state.steps and _is_decided(state, gate))
            for name in (gate, *graph.behind(gate))
        }
        for name in behind:
            if name not in guarded and _is_news(state, graph, each, name):
                yield Problem(
                    code="behind_items",
                    message=f"step {name} would start behind the items of {each}, whose gates were asked about "
                    "something else",
                    hint="let it wait for a gate of its own, behind that step",
                )


def _is_decided(state: PlanState, gate: str) -> bool:
    return state.steps[gate].status in SATISFIED


def _loosened(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """What only a person may do: open a way around a gate, weaken one, give a step more than it had, or a secret to one
    that it was not entered for, or let the plan's policy ask less of people."""
    if revised.policy.is_looser_than(state.plan.policy):
        yield Problem(code=LOOSENS, pointer="/policy", message="it lets the plan's policy ask less of people")
    kept = {step.name for step in revised.steps}
    graph = Graph.of(revised, {name: len(items) for name, items in state.items.items() if name in kept})
    # Those that ask again stand where they have to, whoever revises the plan.
    ours = gates_of(state)
    undecided = [
        (name, step)
        for name, step in state.graph.steps.items()
        if isinstance(step, Gate)
        and name not in ours
        and state.steps[name].status not in (StepStatus.COMPLETED, StepStatus.SKIPPED)
    ]
    changed = {name for name, step in graph.steps.items() if state.graph.steps.get(name) != step}
    for name, gate in undecided:
        new = graph.steps.get(name)
        if not isinstance(new, Gate) or _is_weaker(gate, new):
            yield Problem(code=LOOSENS, message=f"it removes or weakens gate {name}, which nobody has decided")
            continue
        was_behind, is_behind = set(state.graph.behind(name)), set(graph.behind(name))
        around = [step for step in was_behind & graph.steps.keys() if step not in is_behind]
        # A new step may do what one behind the gate did: it has to stand there too.
        around += [step for step in changed if step not in is_behind and step not in state.graph.steps]
        for step in sorted(around):
            yield Problem(code=LOOSENS, message=f"step {step} goes around gate {name}, which nobody has decided")
        for step in sorted(_steering(state.graph, graph, changed) - is_behind):
            if name in state.graph.behind(step):
                message = f"step {step} decides whether gate {name} is asked, which nobody has decided"
                yield Problem(code=LOOSENS, message=message)
    for name, each in state.graph.steps.items():
        gates = isinstance(each, Each) and name not in state.items and any(isinstance(b, Gate) for b in each.steps)
        if gates and state.steps[name].status not in SATISFIED and graph.steps.get(name) != each:
            message = f"it changes or removes {name}, which has gates in it that nobody has decided"
            yield Problem(code=LOOSENS, message=message)
    for name in sorted(changed & state.graph.steps.keys()):
        if _is_wider(state.graph.steps[name], graph.steps[name]):
            yield Problem(code=LOOSENS, message=f"step {name} is given permissions that it did not have")
    yield from _asked_otherwise(state, revised)
    for disclosure in disclosed(state, revised):
        yield Problem(code=LOOSENS, message=str(disclosure))


def _asked_otherwise(state: PlanState, revised: Plan) -> Iterator[Problem]:
    """Secrets that would be asked for where everybody reads the answer; and questions that have been asked, or take a
    secret, and that others could answer."""
    asks = {step.name: step for step in revised.innermost() if isinstance(step, Ask)}
    asked = open_asks(state)
    for ask in state.plan.innermost():
        new = asks.get(ask.name)
        if not isinstance(ask, Ask) or new is None:
            continue
        if ask.secret and not new.secret:
            message = f"ask {ask.name} takes a secret, and everybody would read the answer"
            yield Problem(code=LOOSENS, message=message)
        elif (ask.secret or ask.name in asked) and _may_be_answered_by_others(ask, new, state.requester):
            message = f"others could answer ask {ask.name}, or with less to show who they are"
            yield Problem(code=LOOSENS, message=message)


def _steering(old: Graph, new: Graph, changed: Iterable[str]) -> set[str]:
    """The steps that choose another branch than before, or lie on another one."""
    return {
        name
        for name in {*changed, *(old.steps.keys() - new.steps.keys())} & old.steps.keys()
        if isinstance(old.steps[name], Decide | Check)
        or (name in new.steps and old.steps[name].branch != new.steps[name].branch)
    }


def _is_weaker(old: Gate, new: Gate) -> bool:
    return (
        not set(new.reviewers) <= set(old.reviewers)
        or new.quorum < old.quorum
        or not set(old.shares) <= set(new.shares)
        or _trusts_more(old, new)
        or (old.four_eyes and not new.four_eyes)
        or (old.require_reason and not new.require_reason)
        or (new.optional and not old.optional)
        or not set(old.show) <= set(new.show)
        # Where nothing that it needs is taken, a gate is not asked at all.
        or old.branch != new.branch
        or not set(old.after) <= set(new.after)
        or (not old.after and bool(new.after))
    )


def _may_be_answered_by_others(old: Ask, new: Ask, requester: str) -> bool:
    were, would_be = (set(ask.reviewers or (OPERATORS, f"{SERVICE}{requester}")) for ask in (old, new))
    by_silence = new.on_overdue == "default" != old.on_overdue
    return not would_be <= were or by_silence or _trusts_more(old, new)


def _trusts_more(old: Gate | Ask, new: Gate | Ask) -> bool:
    """Whether it would be escalated to others, or take less of somebody to show who they are."""
    if new.escalate and new.escalate != old.escalate:
        return True
    # To operators it may be escalated in any case.
    return any(
        LEVELS.index(new.level_for((group,), (OPERATORS,))) < LEVELS.index(old.level_for((group,), (OPERATORS,)))
        for group in {*new.reviewers, OPERATORS}
    )


def _is_wider(old: Step, new: Step) -> bool:
    if isinstance(old, Run) and isinstance(new, Run) and old.mode == "safe" != new.mode:
        return True
    had = _granted(old)
    return any(not _covers(had.get(name, Permissions()), has) for name, has in _granted(new).items())


def _granted(step: Step) -> dict[str, Permissions | None]:
    """What a step, and those in an `each`, may use, by name; None for all that there is."""
    match step:
        case Task():
            return {step.name: step.permissions or Permissions()}
        case Run():
            return {step.name: step.permissions}
        case Each():
            return {body.name: body.permissions or Permissions() for body in step.steps if isinstance(body, Task)}
    return {}


def _covers(had: Permissions | None, has: Permissions | None) -> bool:
    if had is None or has is None:
        return had is None
    return all(set(getattr(has, field)) <= set(getattr(had, field)) for field in Permissions.__struct_fields__)
