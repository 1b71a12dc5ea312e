"""Which step waits for which, and which runs only in a branch.

Control goes through a script from top to bottom. What follows a gate, an ask, a decide or a check in the same block
waits for it; apart from that, only what a step reads holds it up. Branches begin where a decide, or a `goto` of a
check, leads to them, always further down, and where they end control goes on behind them.

In the document a step says of one decide or check which label it must have taken (its `branch`), and what it waits
for (its `after`); it runs unless all of that was not taken. Nearly always that says exactly when a step runs. It does
not where some branches end the plan and several others do not: what follows would have to belong to several branches.
There a check that always passes is put in between, as the place where they come together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from planmesh.planner.language.findings import quoted
from planmesh.planner.language.scope import Chain
from planmesh.planner.language.source import Span
from planmesh.planner.language.steps import KINDS, MOST_RETRIES, Draft, Place, Surroundings, begin, write_output
from planmesh.planner.language.tree import (
    Action,
    Branch,
    BrokenPart,
    Item,
    Let,
    OnOutcome,
    Otherwise,
    Outputs,
    Step,
    When,
    Word,
)
from planmesh.schemas.expressions import MAX_EXPRESSION_CHARACTERS

Guard: TypeAlias = tuple[str, str]
"""A decide or a check, and the label that it must have taken."""
Names: TypeAlias = dict[str, None]
"""Names of steps, in order."""

_WAITED_FOR: Final = frozenset({"gate", "ask", "decide", "check"})
_DEFAULT_RETRIES: Final = 3
_NAMES_A_BLOCK: Final = 3  # see `_Path.open_ends`
_NOT_IN_BODY: Final = {
    "each": "let an agent make one list of them, or go through the inner list in an each of its own",
    "plan": "let one plan be written above it, for all items",
    "run": "run one plan above or below it, for all items",
}


@dataclass(slots=True)
class _Path:
    """How far control has come in a block.

    Attributes:
        guard: The branch that it is in; None if it always comes here.
        chain: The same for names (`planmesh.planner.language.scope.Chain`).
        barrier: What the next steps wait for.
        last: Steps that nothing on this path waits for, and that run whenever control comes here.
        earlier: Such steps from above the point where this path became narrower than `base`.
        broad: Such steps from where it was broader than that.
        closed: Why control does not go on; empty if it does.
        decided: The decide that has closed it.
        base: The guard that comes back once all branches are together again.
        base_chain: The same for names.
        is_lost: Whether control has ended somewhere since `base`, or has left the block.
        ended: Whether it has ended the plan anywhere in the block.
        left_to: The outermost list that it has gone to from anywhere in the block, by its depth.
        ends: What has still to be joined before control goes on.
        is_rebased: Whether `base` is to be where that is.
    """

    guard: Guard | None
    chain: Chain
    base: Guard | None
    base_chain: Chain
    barrier: tuple[str, ...] = ()
    last: Names = field(default_factory=dict)
    earlier: Names = field(default_factory=dict)
    broad: Names = field(default_factory=dict)
    closed: str = ""
    decided: str = ""
    is_lost: bool = False
    ended: bool = False
    left_to: int = 1_000
    ends: "tuple[_End, ...]" = ()
    is_rebased: bool = False

    def open_ends(self) -> tuple[Names, Names, Names]:
        """The steps that nothing on this path waits for, the first ones first."""
        return self.broad, self.earlier, self.last


@dataclass(frozen=True, slots=True)
class _End:
    """Where a way through a block ends.

    Attributes:
        guard: The branch that it is in there.
        chain: The same for names.
        last: What has to be settled before control goes on.
        is_exact: Whether one of `last` has run if, and only if, control came to this end.
    """

    guard: Guard | None
    chain: Chain
    last: tuple[str, ...]
    is_exact: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """A step that leads to a branch.

    Attributes:
        guard: By which label.
        step_guard: The branch that it is in itself.
        chain: The same for names.
        behind: Steps that nothing waits for there, in the blocks that control leaves.
    """

    guard: Guard
    step_guard: Guard | None
    chain: Chain
    behind: Names


@dataclass(slots=True)
class _List:
    """Items that control goes through, for whoever looks for a branch among them.

    Attributes:
        labels: The branches, and their numbers in the list.
        number: Of the item where control is.
    """

    labels: dict[str, tuple[int, Branch]]
    number: int = -1


class Flow:
    """Goes through a script, or the body of an `each`, and gathers the steps of the document.

    Attributes:
        drafts: The steps.
        gives: What an item gives, whichever way it goes through the body (`Draft.gives`).
        is_broken: Whether a line that could lead to a branch could not be read.
    """

    def __init__(self, around: Surroundings, *, is_ordered: bool) -> None:
        self.drafts: list[Draft] = []
        self.gives: str | None = None
        self.is_broken = False
        self._around = around
        self._findings = around.findings
        self._scope = around.scope
        self._is_ordered = is_ordered
        self._by_name: dict[str, Draft] = {}
        self._lists: list[_List] = []
        self._entries: dict[int, list[_Entry]] = {}  # by where the branch begins
        self._pending: Counter[str] = Counter()  # entries by the step that leads to them

    def go_through(self, items: Sequence[Item], item: Word | None = None, output: Outputs | None = None) -> None:
        """Gather the steps of *items*; everything that is wrong with their order is said.

        Args:
            item: What an `each` calls its item, if they are its body.
            output: What the plan gives at its end.
        """
        with self._scope.region(items, item):
            path = self._block(items, None, (), ())
            if output is not None:
                self._end(path, output)
            if self._around.is_body:
                self._give(path, items)

    def _give(self, path: _Path, items: Sequence[Item]) -> None:
        """Let each way through the body of an `each` end in something that says what the item gives."""
        emits = [one for one in self.drafts if one.gives is not None and not one.body]
        if not emits:
            bound = [one.means or str(one.document["binding"]) for one in self.drafts if "binding" in one.document]
            may_be_missing = any("branch" in one.document for one in self.drafts)
            self.gives = f"{bound[-1]} ?? null" if bound and may_be_missing else bound[-1] if bound else None
            return
        if not path.closed:
            self._join(path, items[-1].span)
            self._scope.at(path.chain)
            name = self._around.names.free("no-emit", items[-1].span)
            cases = [{"when": "true", "then": name}]
            document = {"kind": "decide", "name": name, "label": "No emit was reached", "cases": cases}
            rest = Draft(items[-1].span, document, gives="null")
            self._wait_for_all(path, rest, ())
            self._add(path, rest)
        elif len(emits) == 1 and len(self.drafts) > 1 and "branch" not in emits[0].document:
            self.drafts.remove(emits[0])  # every item comes to it
            self.gives = emits[0].gives

    def _end(self, path: _Path, output: Outputs) -> None:
        """End the plan with its output, once all that is above it is settled."""
        self._join(path, output.span)
        self._scope.at(path.chain)
        if path.closed:
            hint = "let one branch go on, or leave the output to emits"
            self._findings.add("unreachable", f"the output is never given: {path.closed}", output.span, hint)
        draft = write_output(output, self._around)
        self._wait_for_all(path, draft, ())
        self._add(path, draft)

    # --- blocks --------------------------------------------------------------------------------------------

    def _block(self, items: Sequence[Item], guard: Guard | None, chain: Chain, above: tuple[Names, ...]) -> _Path:
        """Go through the items of a block.

        Args:
            guard: The branch that it is.
            chain: The same for names.
            above: The steps above it that nothing waits for, of each block around it.
        """
        path = _Path(guard, chain, guard, chain)
        here = _List(self._labels(items))
        self._lists.append(here)
        with self._scope.block() as let:
            number = 0
            while number < len(items):
                item = items[number]
                here.number = number
                self._scope.at(path.chain)
                if isinstance(item, Branch):
                    group = list(_branches(items, number))
                    self._group(path, group, here, above)
                    number += len(group)
                    continue
                if isinstance(item, Let):
                    let(item)
                else:
                    self._step(path, item, above)
                number += 1
        self._lists.pop()
        if above and not path.closed:
            self._join(path, items[-1].span if items else Span(0, 0))
        return path

    def _labels(self, items: Iterable[Item]) -> dict[str, tuple[int, Branch]]:
        labels: dict[str, tuple[int, Branch]] = {}
        for number, item in enumerate(items):
            if not isinstance(item, Branch):
                continue
            label = item.label.text
            if label in labels:
                line = self._findings.source.place(labels[label][1].span.start).line
                said = f"there is a branch {quoted(label)} already, on line {line}"
                self._findings.add("duplicate_label", said, item.label.span, "give it another label")
            else:
                labels[label] = number, item
        return labels

    def _step(self, path: _Path, step: Step, above: tuple[Names, ...]) -> None:
        kind = step.head.kind
        if kind not in KINDS:
            self.is_broken = True
            self._scope.reached(step)
            return
        if self._around.is_body and kind in _NOT_IN_BODY:
            said = f"the body of an each has no `{kind}`"
            self._findings.add("misplaced", said, step.head.span, _NOT_IN_BODY[kind])
        self._join(path, step.span)
        if path.closed:
            said = f"this is never reached: {path.closed}"
            self._findings.add("unreachable", said, step.head.span, "move it above that, or into a branch")
            path.closed = path.decided = ""
        writer = begin(step, self._around)
        draft = writer.write()
        if kind == "each":
            self._body(step, draft)
        if writer.fallback is None:
            self._scope.reached(step)
        else:
            self._scope.reached_with_fallback(step, draft.name, writer.fallback[1].name)
        if writer.approval is not None:
            self._add(path, writer.approval)
        if kind == "emit":
            self._wait_for_all(path, draft, above)
        self._add(path, draft)
        if writer.fallback is not None:
            self._fall_back(path, *writer.fallback)
        if kind == "decide":
            self._decide(path, step, draft, above)
        elif kind == "check":
            self._check(path, step, draft, above)
        elif kind == "emit":
            path.last.pop(draft.name)  # nothing waits for it, in whatever branch
            path.closed = f"the plan ends at {quoted(draft.document.get('outcome', ''))} above"
            path.ended = path.is_lost = True
        elif (self._is_ordered and writer.fallback is None) or kind in _WAITED_FOR:
            path.barrier = (draft.name,)

    def _fall_back(self, path: _Path, check: Draft, instead: Draft) -> None:
        """Add the check whether the step above has failed, and the step that is done then."""
        self._add(path, check)
        self.drafts.append(instead)
        self._by_name[instead.name] = instead
        path.earlier[instead.name] = None  # it does not run whenever control comes here
        if self._is_ordered:
            path.barrier = (check.name, instead.name)

    def _add(self, path: _Path, draft: Draft) -> None:
        """Add a step where control is."""
        document, guard = draft.document, path.guard
        barrier = [name for name in path.barrier if guard is None or name != guard[0]]
        if guard is not None:
            document["branch"] = {"step": guard[0], "label": guard[1]}
            path.last.pop(guard[0], None)
        own = document.get("after", [])
        if barrier or own:
            document["after"] = [*dict.fromkeys([*barrier, *own])]
            place = draft.places.get("after")
            places: list[Place] = place if isinstance(place, list) else [place or draft.head] * len(own)
            draft.places["after"] = [*[draft.head] * len(barrier), *places]
        for name in (*barrier, *draft.waits):
            path.last.pop(name, None)
        path.last[draft.name] = None
        self.drafts.append(draft)
        self._by_name[draft.name] = draft

    def _wait_for_all(self, path: _Path, draft: Draft, above: tuple[Names, ...]) -> None:
        """Let an emit wait for everything above it, in its own block and around it."""
        names = dict.fromkeys(name for group in (*above, *path.open_ends()) for name in group)
        if path.guard is not None:
            names.pop(path.guard[0], None)
        named = draft.document.get("after", [])
        more = [name for name in names if name not in named and name not in path.barrier]
        if more:
            draft.document["after"] = [*named, *more]
            place = draft.places.get("after")
            places: list[Place] = place if isinstance(place, list) else []
            draft.places["after"] = [*places, *[draft.head] * len(more)]

    def _body(self, step: Step, draft: Draft) -> None:
        """Put the steps that run for each item, and what an item gives."""
        inner = Flow(replace(self._around, is_body=True), is_ordered=self._is_ordered)
        with self._scope.reading() as reads:
            inner.go_through(step.body, step.head.target)
        self.is_broken = self.is_broken or inner.is_broken
        draft.body, draft.gives = inner.drafts, inner.gives
        inside = {one.name for one in inner.drafts}
        outside = reads - inside
        for one in inner.drafts:
            # What is outside has been settled before the first item begins.
            outside |= one.release(inside)
        draft.document["steps"] = [one.document for one in inner.drafts]
        draft.places["steps"] = [one.places for one in inner.drafts]
        draft.waits |= outside
        if outside:
            draft.document["after"] = sorted({*draft.document.get("after", ()), *outside})

    # --- where control parts -------------------------------------------------------------------------------

    def _decide(self, path: _Path, step: Step, draft: Draft, above: tuple[Names, ...]) -> None:
        for part in step.parts:
            if isinstance(part, When | Otherwise):
                self._lead(path, draft.name, part.label.text, part.label, above)
            elif isinstance(part, BrokenPart):
                self.is_broken = True
        path.last.pop(draft.name, None)
        path.decided = draft.name
        path.closed = f"{quoted(_label(step))} goes on in one of its branches, and this stands before them"

    def _check(self, path: _Path, step: Step, draft: Draft, above: tuple[Names, ...]) -> None:
        actions = {part.outcome: part.action for part in step.each(OnOutcome)}
        self.is_broken = self.is_broken or any(isinstance(part, BrokenPart) for part in step.parts)
        if draft.document["condition"].startswith("not (") and _is_kind(actions.get("pass"), "fail"):
            actions = {"pass": actions["fail"]} if "fail" in actions else {}
        path.barrier = (draft.name,)
        gone = [outcome for outcome, action in actions.items() if action.kind == "goto" and action.word is not None]
        for outcome in gone:
            word = actions[outcome].word
            assert word is not None  # it would not be gone
            self._lead(path, draft.name, outcome, word, above)
        if _is_kind(actions.get("fail"), "retry"):
            self._retry(actions["fail"], draft, path)
        if not gone:
            return
        path.last.pop(draft.name, None)
        path.earlier |= path.last
        path.last, path.barrier = {}, ()
        if len(gone) == 1 and draft.document.get("on_fail", "fail") == "continue":
            path.guard = draft.name, "fail" if gone[0] == "pass" else "pass"
            path.chain = (*path.chain, self._scope.new_branch())
        else:
            path.decided = draft.name
            path.closed = f"{quoted(_label(step))} goes on elsewhere, and this stands before that"

    def _retry(self, action: Action, draft: Draft, path: _Path) -> None:
        """Let the one step whose output is checked be done again until it passes."""
        held = [self._by_name[name] for name in sorted(draft.reads) if name in self._by_name]
        if len(held) != 1 or len(draft.reads) != 1 or held[0].document["kind"] not in ("task", "agent"):
            said = "a check that tries again reads the output of one step that an agent does, and of no other"
            self._findings.add("no_retry", said, action.span, "check it by itself, in a check of its own")
            return
        step = held[0]
        branch = step.document.get("branch")
        if branch != (None if path.guard is None else {"step": path.guard[0], "label": path.guard[1]}):
            said = f"{quoted(step.name)} is done whether this is checked or not"
            self._findings.add("no_retry", said, action.span, "check it right below it, in the same block")
            return
        condition = draft.document["condition"]
        if (other := step.document.get("accept")) is not None:
            condition = f"({other}) and ({condition})"
        if len(condition) > MAX_EXPRESSION_CHARACTERS:
            said = f"the conditions on which {quoted(step.name)} is tried again are too long together"
            self._findings.add("too_large", said, action.span, "let a step check it")
            return
        step.document["accept"], step.places["accept"] = condition, action
        retries = _DEFAULT_RETRIES if action.number is None else action.number
        if retries > MOST_RETRIES:
            said = f"a step is tried again {MOST_RETRIES} times at most; found {retries}"
            self._findings.add("wrong_value", said, action.span)
            return
        attempts = 1 + retries
        retry = step.document.setdefault("retry", {})
        if isinstance(retry, dict) and isinstance(given := retry.get("attempts", 1), int):  # else the planner says so
            retry["attempts"] = max(given, attempts)
            step.places.setdefault("retry", action)

    def _lead(self, path: _Path, step: str, label: str, to: Word, above: tuple[Names, ...]) -> None:
        """Note that *step* leads to a branch."""
        for depth in range(len(self._lists) - 1, -1, -1):
            number, branch = self._lists[depth].labels.get(to.text, (-1, None))
            if branch is None:
                continue
            if number <= self._lists[depth].number:
                said = f"the branch {quoted(to.text)} is above this, and control goes forward only"
                hint = "to do something again, use `on fail: retry`, `each`, or a gate that is redirected"
                self._findings.add("backward", said, to.span, hint)
                return
            if depth < len(self._lists) - 1:
                path.left_to = min(path.left_to, depth)
                path.is_lost = True
            left = (*above[_NAMES_A_BLOCK * (depth + 1) :], *path.open_ends()) if depth < len(self._lists) - 1 else ()
            behind = dict.fromkeys(name for names in left for name in names)
            entry = _Entry((step, label), path.guard, path.chain, behind)
            self._entries.setdefault(branch.span.start, []).append(entry)
            self._pending[step] += 1
            return
        known = [name for one in self._lists for name, (number, _) in one.labels.items() if number > one.number]
        hint = self._findings.nearest(to.text, known, f'add it below: "{to.text[:40]}":')
        self._findings.add("unknown_branch", f"there is no branch {quoted(to.text)} below this", to.span, hint)

    # --- where it comes together ---------------------------------------------------------------------------

    def _group(self, path: _Path, group: Sequence[Branch], here: _List, above: tuple[Names, ...]) -> None:
        """Go through branches that stand together, and find where control goes on behind them."""
        self._join(path, group[0].span)
        first, depth = here.number, len(self._lists) - 1
        decider, path.decided = path.decided, ""
        ends: list[_End] = []
        chains: list[Chain] = []  # of everything that comes together, where it begins
        parents: list[Chain] = []  # and where it parts from the rest
        if not path.closed:
            ends.append(_End(path.guard, path.chain, (*path.last,), bool(path.last)))
            chains.append(path.chain)
            parents.append(path.chain)
        is_lost, is_whole = path.is_lost, bool(decider)
        origin: _Entry | None = None
        for number, branch in enumerate(group, first):
            here.number = number
            entries = self._taken_entries(branch, here)
            guard, parent = self._enter(entries, path, branch.span)
            chain = (*parent, self._scope.new_branch())
            if len(entries) > 1:
                ways = [entry.chain for entry in entries]
                self._scope.join(ways, ways, len(parent), chain)
            broad, earlier, latest = path.open_ends()
            left = dict.fromkeys(name for entry in entries for name in entry.behind)
            inner = self._block(branch.body, guard, chain, (*above, broad, earlier, latest | left))
            if not inner.closed:
                last = tuple(name for names in inner.open_ends() for name in names)
                is_exact = bool(inner.last) and not (inner.earlier or inner.broad)
                ends.append(_End(inner.guard, inner.chain, last, is_exact))
            chains.append(chain)
            parents.append(parent)
            origin = entries[0] if entries else origin
            is_whole = is_whole and all(entry.guard[0] == decider for entry in entries)
            is_whole = is_whole and not inner.ended and inner.left_to > depth
            is_lost = is_lost or inner.ended or inner.left_to < depth
            path.ended = path.ended or inner.ended
            path.left_to = min(path.left_to, inner.left_to)
        if not ends:
            path.closed = "every branch above it ends the plan, or goes on elsewhere"
            path.is_lost = True
            return
        path.closed = ""
        common = _common_prefix(parents)
        is_outstanding = any(
            number > here.number and branch.span.start in self._entries for number, branch in here.labels.values()
        )
        if is_whole and origin is not None and not self._pending[decider]:
            # All that the decide has parted is together again.
            path.guard, path.chain = origin.step_guard, origin.chain
            self._go_on(path, ends)
        elif not is_lost and not is_outstanding:
            path.guard, path.chain = path.base, path.base_chain
            path.last, path.earlier = path.earlier | path.last, {}
            self._go_on(path, ends)
        else:
            path.chain = (*common, self._scope.new_branch())
            path.ends = tuple(ends)
            path.is_lost = is_lost and is_outstanding
            path.is_rebased = not is_outstanding
        self._scope.join(chains, [end.chain for end in ends], len(common), path.chain)

    def _taken_entries(self, branch: Branch, here: _List) -> list[_Entry]:
        """What leads to a branch: each label of a step once."""
        entries = self._entries.pop(branch.span.start, [])
        for entry in entries:
            self._pending[entry.guard[0]] -= 1
        is_first = here.labels[branch.label.text][1] is branch  # of those that share a label
        if not entries and is_first and not self.is_broken:
            said = f"nothing leads to the branch {quoted(branch.label.text)}"
            hint = "name it in a `when`, an `otherwise` or a `goto` above it"
            self._findings.add("unused_branch", said, branch.label.span, hint)
        return [*{entry.guard: entry for entry in entries}.values()]

    def _enter(self, entries: Sequence[_Entry], path: _Path, at: Span) -> tuple[Guard | None, Chain]:
        """The guard of a branch, and where it parts from the rest."""
        if not entries:
            return path.base, path.base_chain
        if len(entries) == 1:
            return entries[0].guard, entries[0].chain
        ways = [self._meeting(entry.guard, (), at) for entry in entries]
        return (self._meeting(None, ways, at), "pass"), _common_prefix([entry.chain for entry in entries])

    def _go_on(self, path: _Path, ends: Iterable[_End]) -> None:
        """Let control go on where it does whatever was taken."""
        names = dict.fromkeys(
            name for end in ends for name in end.last or (() if end.guard is None else (end.guard[0],))
        )
        path.barrier = (*names,)
        path.last = path.last | names

    def _join(self, path: _Path, at: Span) -> None:
        """Let control go on where it does only if it comes from certain ends."""
        if not path.ends:
            return
        ends, path.ends = path.ends, ()
        path.earlier = path.earlier | path.last
        path.last = {}
        if len(ends) == 1:
            (end,) = ends
            path.guard, path.barrier = end.guard, end.last
            if end.is_exact:
                path.last = dict.fromkeys(end.last)
            else:
                path.earlier = path.earlier | dict.fromkeys(end.last)
        else:
            ways: list[str] = []
            for end in ends:
                ways += end.last if end.is_exact else [self._meeting(end.guard, end.last, at)]
            meeting = self._meeting(None, ways, at)
            path.guard, path.barrier, path.last = (meeting, "pass"), (), {meeting: None}
        if path.is_rebased:
            path.base, path.base_chain, path.is_rebased = path.guard, path.chain, False
            path.broad, path.earlier = path.broad | path.earlier, {}

    def _meeting(self, guard: Guard | None, after: Sequence[str], at: Span) -> str:
        """A check that always passes, where ways come together; its name."""
        name = self._around.names.free("meet", at)
        document: dict[str, Any] = {"kind": "check", "name": name, "label": "Branches meet", "condition": "true"}
        after = [one for one in after if guard is None or one != guard[0]]
        if after:
            document["after"] = after
        if guard is not None:
            document["branch"] = {"step": guard[0], "label": guard[1]}
        draft = Draft(at, document)
        self.drafts.append(draft)
        self._by_name[name] = draft
        return name


def _branches(items: Sequence[Item], number: int) -> Iterator[Branch]:
    """The branches that stand together from *number* on."""
    while number < len(items) and isinstance(branch := items[number], Branch):
        yield branch
        number += 1


def _common_prefix(chains: Sequence[Chain]) -> Chain:
    shortest = min(chains, key=len)
    for depth, branch in enumerate(shortest):
        if any(chain[depth] != branch for chain in chains):
            return shortest[:depth]
    return shortest


def _label(step: Step) -> str:
    return step.head.label.text if step.head.label is not None else step.head.kind


def _is_kind(action: Action | None, kind: str) -> bool:
    return action is not None and action.kind == kind
