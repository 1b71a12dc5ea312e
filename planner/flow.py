"""The order of a plan: what each step needs, whether that can ever be, and under which condition a step runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from planmesh.planner.decode import At, StepDraft
from planmesh.planner.document import Limits
from planmesh.planner.graph import (
    ALWAYS,
    Condition,
    Work,
    components,
    either,
    exclusive,
    narrowed,
    shortest_cycle,
)
from planmesh.planner.problems import Problems, listed, pointer, quoted
from planmesh.planner.scope import Scope
from planmesh.schemas.plan import Check, Decide, Emit

_SHOWN_CYCLE: Final = 12
_EDGE: Final = 20  # what it costs to note that a step may need another one, in units of `Work`


@dataclass(frozen=True, slots=True)
class Flow:
    """The order of the steps of a scope, by their numbers there.

    Attributes:
        needs: For each step, what must be settled before it, with the place that says so.
        order: Every step, what it needs first (as far as there is no cycle).
        conditions: For each step, when it runs.
        work: What may still be spent on comparing conditions.
    """

    needs: Sequence[Mapping[int, At]]
    order: Sequence[int]
    conditions: Sequence[Condition]
    work: Work


@dataclass(slots=True)
class _Links:
    """What one step says of its place in the order.

    Attributes:
        firm: What it needs in any case.
        shared: Names that it reads and several steps bind: it needs those that can run together with it.
        guard: The decide or check whose branch it is in, and the bit of the label.
        doubtful: Something of this could not be read, so that less is known of when it runs.
    """

    firm: dict[int, At] = field(default_factory=dict)
    shared: dict[str, At] = field(default_factory=dict)
    guard: tuple[int, int] | None = None
    doubtful: bool = False


def read_flow(scope: Scope, problems: Problems, limits: Limits) -> Flow:
    """The order of *scope*; every problem with it is added.

    A step is *unreachable* if it is in a branch whose label its decide or check cannot take, whatever the outputs of
    steps are: every case that gives the label is false by itself (``1 > 2``), or stands behind one that is true by
    itself. Steps that can only run after such a step are unreachable as well, and are not listed.
    """
    labels, work = _Labels(scope), Work(limits.comparisons)
    links = [_links(number, scope, labels, problems) for number in range(len(scope.steps))]
    possible: list[dict[int, At]] = []
    for link in links:
        # All that may be needed. A binding that is shared is given by other steps than the one that reads it.
        needs = dict(link.firm)
        for name, at in link.shared.items():
            if work.spend(_EDGE * len(scope.binders[name])):
                needs |= {binder: at for binder in scope.binders[name] if binder not in needs}
        possible.append(needs)
    order: list[int] = []
    for component in components(possible):
        order += component
        if len(component) > 1:
            _report_cycle(scope, possible, component, problems)
            for number in component:
                links[number].doubtful = True
    flow = _settle(scope, links, order, labels.all, work)
    _check_reachable(scope, links, labels, problems)
    if not work.exhausted:
        certain = [not doubtful for doubtful in _doubtful(links, flow)]
        _check_reads(scope, flow, certain, problems)
        _check_emits(scope, flow, certain, problems, limits)
        _check_shared_bindings(scope, flow, certain, problems)
    if work.exhausted:
        refuse_work(problems)
    return flow


def refuse_work(problems: Problems) -> None:
    """Add the problem that a plan has too many branches to compare."""
    problems.add(
        "too_large",
        "too many steps in too many branches share bindings or wait for one another: there are more combinations than "
        "can be compared",
        "steps",
        hint="give each step a binding of its own, or split the plan",
    )


class _Labels:
    """The labels of decides and checks, as bits.

    Attributes:
        all: For each decide and check, the bits of all its labels.
    """

    def __init__(self, scope: Scope) -> None:
        self._steps = scope.steps
        self._bits: dict[int, dict[str, int]] = {}
        self.all: dict[int, int] = {}
        for number, one in enumerate(scope.steps):
            if isinstance(one.step, Decide | Check):
                self._bits[number] = {label: 1 << index for index, label in enumerate(one.step.labels)}
                self.all[number] = (1 << len(self._bits[number])) - 1

    def bit(self, decide: int, label: str) -> int:
        """The label's bit; one of its own if *decide* has no such label."""
        bits = self._bits.setdefault(decide, {})
        if label not in bits:
            bits[label] = 1 << len(bits)
            self.all[decide] = -1  # nobody knows all of them
        return bits[label]

    def known(self, decide: int) -> Sequence[str] | None:
        """All labels; None if they could not be read."""
        one = self._steps[decide]
        if not isinstance(one.step, Decide | Check) or one.unread & {"cases", "otherwise", "on_fail"}:
            return None
        return one.step.labels


def _links(number: int, scope: Scope, labels: _Labels, problems: Problems) -> _Links:
    one = scope.steps[number]
    step, at = one.step, ("steps", one.index)
    links = _Links(doubtful=bool(one.unread & {"after", "branch", "kind"}))
    for index, name in enumerate(step.after):
        # A name that could not be read is missing here, and moves the others.
        place: At = (*at, "after") if "after" in one.unread else (*at, "after", index)
        _need(number, name, links, place, scope, problems)
    if step.branch is not None:
        place = (*at, "branch", "step")
        decide = _need(number, step.branch.step, links, place, scope, problems)
        if decide is not None:
            _guard(decide, step.branch.label, links, (*at, "branch"), scope, labels, problems)
    for name, place in scope.reads[number].items():
        binders = scope.binders[name]
        if number in binders:
            _refuse_self(step.name, f"reads its own output, {quoted(name)}", place, links, problems)
        elif len(binders) > 1:
            links.shared[name] = place
        else:
            _after_emit(binders[0], links, place, scope, problems)
            links.firm.setdefault(binders[0], place)
    return links


def _need(number: int, name: str, links: _Links, at: At, scope: Scope, problems: Problems) -> int | None:
    """Note that a step needs the one called *name*, and return its number."""
    need = scope.numbers.get(name)
    if need is None:
        hint = problems.nearest(name, scope.numbers)
        problems.add("unknown_step", f"there is no step called {quoted(name)}", *at, hint=hint)
        links.doubtful = True
    elif name == scope.steps[number].step.name:
        _refuse_self(name, "names itself", at, links, problems)
        return None
    else:
        if at[-1] != "step":
            _after_emit(need, links, at, scope, problems)
        links.firm.setdefault(need, at)
    return need


def _refuse_self(name: str, does: str, at: At, links: _Links, problems: Problems) -> None:
    problems.add("self_reference", f"the step {quoted(name)} {does}, and so would wait for itself for ever", *at)
    links.doubtful = True


def _after_emit(need: int, links: _Links, at: At, scope: Scope, problems: Problems) -> None:
    emit = scope.steps[need].step
    if isinstance(emit, Emit):
        problems.add(
            "waits_for_emit",
            f"an emit ends the plan, so nothing can run after {quoted(emit.name)}",
            *at,
            hint=f"wait for what {emit.name} waits for",
        )
        links.doubtful = True


def _guard(decide: int, label: str, links: _Links, at: At, scope: Scope, labels: _Labels, problems: Problems) -> None:
    one = scope.steps[decide]
    if "kind" in one.unread:
        links.doubtful = True
        return
    if not isinstance(one.step, Decide | Check):
        kind = one.step.__struct_config__.tag
        said = f"expected a decide or a check, whose branch this is; {quoted(one.step.name)} is a {kind}"
        problems.add("not_a_branch", said, *at, "step", hint="to wait for a step, name it in `after`")
        links.doubtful = True
        return
    known = labels.known(decide)
    if known is not None and label not in known:
        said = f"{quoted(one.step.name)} has no label {quoted(label)}"
        hint = problems.nearest(label, known, f"its labels are {listed(map(quoted, known))}")
        if isinstance(one.step, Check) and label == "fail":
            hint = 'with on_fail = "continue" it takes the branch fail, and otherwise it fails'
        problems.add("unknown_label", said, *at, "label", hint=hint)
    links.guard = decide, labels.bit(decide, label)


def _settle(scope: Scope, links: Sequence[_Links], order: Iterable[int], labels: Mapping[int, int], work: Work) -> Flow:
    """Under which condition each step runs, and so which of the steps that share a binding it needs."""
    conditions: list[Condition] = [ALWAYS] * len(links)
    needs: list[dict[int, At]] = [{} for _ in links]
    settled = list(order)
    # One object for one condition: that makes it cheap to see that two are the same.
    branches: dict[tuple[int, int], Condition] = {}
    for number in settled:
        link = links[number]
        chosen = dict(link.firm)
        if link.guard is not None:
            decide, label = link.guard
            if link.guard not in branches:
                whole = labels.get(decide) == label
                branches[link.guard] = conditions[decide] if whole else narrowed(conditions[decide], decide, label)
            condition = branches[link.guard]
        else:
            condition = either((conditions[need] for need in sorted(chosen)), labels, work)
        candidates: dict[int, At] = {}
        for name, at in link.shared.items():
            if not work.exhausted:
                candidates |= {binder: at for binder in scope.binders[name] if binder not in chosen}
        more = True
        while more and candidates:
            joining = {
                binder: at for binder, at in candidates.items() if not exclusive(condition, conditions[binder], work)
            }
            more = bool(joining)
            chosen |= joining
            candidates = {binder: at for binder, at in candidates.items() if binder not in joining}
            if link.guard is None:
                # What it needs more makes it run more often, and perhaps together with more of them.
                condition = either((conditions[need] for need in sorted(chosen)), labels, work)
        conditions[number], needs[number] = condition, chosen
    return Flow(needs, settled, conditions, work)


def _doubtful(links: Sequence[_Links], flow: Flow) -> list[bool]:
    """For each step, whether what is known of when it runs rests on something that is wrong."""
    doubtful = [link.doubtful for link in links]
    for number in flow.order:
        doubtful[number] = doubtful[number] or any(doubtful[need] for need in flow.needs[number])
    return doubtful


# --- what is wrong with it ---------------------------------------------------------------------------------


def _report_cycle(
    scope: Scope, needs: Sequence[Mapping[int, At]], component: Sequence[int], problems: Problems
) -> None:
    cycle = shortest_cycle(needs, component)
    names = [scope.steps[number].step.name for number in (*cycle, cycle[0])]
    if len(names) > _SHOWN_CYCLE:
        names[_SHOWN_CYCLE - 3 : -2] = [f"({len(names) - _SHOWN_CYCLE + 1:,} more)"]
    places = [needs[step][need] for step, need in pairwise((*cycle, cycle[0]))]
    problems.add(
        "cycle",
        f"these steps wait for one another, each for the next: {' → '.join(names)}",
        *places[0],
        hint=f"break the circle at one of {listed(map(pointer, places), most=4)}",
    )


def _check_reads(scope: Scope, flow: Flow, certain: Sequence[bool], problems: Problems) -> None:
    for number, reads in enumerate(scope.reads):
        for name, at in reads.items():
            binders = scope.binders[name]
            if number in binders or not certain[number] or not all(certain[binder] for binder in binders):
                continue
            if all(exclusive(flow.conditions[number], flow.conditions[binder], flow.work) for binder in binders):
                one = scope.steps[binders[0]].step
                said = f"the step that gives {quoted(name)}, {quoted(one.name)}, is in a branch that excludes this one"
                hint = "read a binding of this branch, or one from before the branches part"
                problems.add("never_bound", said, *at, hint=hint)


def _check_shared_bindings(scope: Scope, flow: Flow, certain: Sequence[bool], problems: Problems) -> None:
    for binding, binders in scope.binders.items():
        accepted = [binders[0]]
        for number in binders[1:]:
            one = scope.steps[number]
            at = ("steps", one.index, "binding" if one.step.binding else "name")
            clash = next((other for other in accepted if _together(number, other, flow, certain)), None)
            if flow.work.exhausted:
                return
            if clash is None:
                accepted.append(number)
                continue
            problems.add(
                "duplicate_binding",
                f"{quoted(binding)} is the output of {quoted(scope.steps[clash].step.name)} already, and both can run",
                *at,
                hint="name one of them with `binding`, or put them into different branches of one decide",
            )


def _together(one: int, other: int, flow: Flow, certain: Sequence[bool]) -> bool:
    """Whether two steps can both run, as far as that is certain."""
    if not (certain[one] and certain[other]):
        return False
    return not exclusive(flow.conditions[one], flow.conditions[other], flow.work)


def _check_emits(scope: Scope, flow: Flow, certain: Sequence[bool], problems: Problems, limits: Limits) -> None:
    emits = [number for number, one in enumerate(scope.steps) if isinstance(one.step, Emit)]
    if len(emits) > limits.emits:
        said = f"a plan has at most {limits.emits:,} emits; this one has {len(emits):,}"
        problems.add("too_many_emits", said, "steps", scope.steps[emits[limits.emits]].index)
        return
    for position, number in enumerate(emits):
        one = scope.steps[number]
        clash = next((other for other in emits[:position] if _together(number, other, flow, certain)), None)
        if flow.work.exhausted:
            return
        if clash is not None:
            earlier = scope.steps[clash].step.name
            problems.add(
                "emits_together",
                f"an emit ends the plan, and both {quoted(earlier)} and {quoted(one.step.name)} can be reached",
                "steps",
                one.index,
                hint="give each a `branch` of its own, of one decide or check",
            )


def _check_reachable(scope: Scope, links: Sequence[_Links], labels: _Labels, problems: Problems) -> None:
    closed: dict[int, dict[str, str]] = {}
    for number, link in enumerate(links):
        if link.guard is None:
            continue
        decide = link.guard[0]
        if decide not in closed:
            closed[decide] = (
                _never_taken(scope.steps[decide], scope.constants) if labels.known(decide) is not None else {}
            )
        one = scope.steps[number]
        branch = one.step.branch
        if branch is not None and (why := closed[decide].get(branch.label)):
            said = f"{quoted(one.step.name)} can never run: {quoted(branch.step)} never takes {quoted(branch.label)}"
            problems.add("unreachable", f"{said}, because {why}", "steps", one.index, "branch", "label")


def _never_taken(one: StepDraft, constants: Mapping[str, bool]) -> dict[str, str]:
    """The labels of a decide or check that it cannot take, and why."""
    match one.step:
        case Check(condition=condition) if "condition" not in one.unread:
            always = constants.get(condition)
            return (
                {}
                if always is None
                else {"fail" if always else "pass": f"its condition is always {str(always).lower()}"}
            )
        case Decide(cases=cases, otherwise=otherwise):
            taken: set[str] = set()
            closed: dict[str, str] = {}
            settled = ""
            for index, case in enumerate(cases):
                always = constants.get(case.when)
                if settled or always is False:
                    closed.setdefault(case.then, settled or f"the condition of case {index} is always false")
                else:
                    taken.add(case.then)
                    settled = f"the condition of case {index} is always true" if always else ""
            if otherwise is not None:
                if settled:
                    closed.setdefault(otherwise, settled)
                else:
                    taken.add(otherwise)
            return {label: why for label, why in closed.items() if label not in taken}
    return {}
