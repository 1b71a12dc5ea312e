"""What the names in a script stand for: inputs, bindings, what `let` calls, and the items of an `each`."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.names import Names
from planmesh.planner.language.source import Span
from planmesh.planner.language.tree import Entries, Formula, Item, Items, Let, Step, Text, Value, Word
from planmesh.planner.language.values import ValueReader
from planmesh.planner.language.write import Alias, Unwritable, Writer, Written
from planmesh.schemas.expressions import KEYWORDS, parse, reads_of
from planmesh.schemas.templates import problems

Chain: TypeAlias = tuple[int, ...]
"""Where control is: the branches that led there, from the outermost, each by a number of its own."""

_LONG_ENOUGH: Final = 3  # characters of a name, for a near one to mean something


@dataclass(slots=True)
class Binder:
    """A step that gives a binding.

    Attributes:
        step: Its name.
        word: The binding, in the script.
        chain: Where control is at the step; None until it has been reached.
    """

    step: str
    word: Word
    chain: Chain | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Where branches come together, and control goes on.

    Attributes:
        depth: How many branches they have in common.
        ends: For each of the branches from which control goes on, where it is at its end.
        chain: Where it goes on.
    """

    depth: int
    ends: tuple[Chain, ...]
    chain: Chain


@dataclass(slots=True)
class Region:
    """What has its own bindings: the whole script, or the body of an `each`.

    Attributes:
        item: What the body of an `each` calls its item.
        at: Where control is now.
        either: Bindings of steps with a fallback.
    """

    item: Word | None = None
    binders: dict[str, list[Binder]] = field(default_factory=lambda: defaultdict(list))
    at: Chain = ()
    either: list[str] = field(default_factory=list)


class Scope:
    """The names of one script, as far as it has been gone through.

    Attributes:
        inputs: The inputs of the plan; without an `input` block, those that were read so far.
        bindings: Which step gives each binding of the script, for whoever reads it.
    """

    def __init__(self, inputs: Sequence[Word] | None, names: Names, values: ValueReader, findings: Findings) -> None:
        self.inputs: dict[str, Word] = {word.text: word for word in inputs or ()}
        self._is_declared = inputs is not None
        self._names = names
        self._values = values
        self._findings = findings
        self._aliases: dict[str, Alias] = {}
        self._alias_words: dict[str, Word] = {}
        self._writer = Writer(self._aliases)
        self._regions: list[Region] = []
        self._joins: dict[int, list[Join]] = defaultdict(list)
        self._joined: dict[tuple[str, int], bool] = {}
        self._reads: set[str] = set()
        self._inside: dict[str, Word] = {}  # names that are known in the body of an `each` only
        self._branches = 0
        self._hidden: dict[str, str] = {}  # names that no script says, by what they are for
        self._shown: dict[str, str] = {}  # what the script says instead

    # --- what is known -------------------------------------------------------------------------------------

    @contextmanager
    def region(self, items: Iterable[Item], item: Word | None = None) -> Iterator[Region]:
        """Go through *items*, whose bindings are known nowhere else."""
        region = Region(item)
        if item is not None:
            self._check_free(item)
        for step in _steps(items):
            if (word := step.binding) is not None:
                if self._regions and word.text not in region.binders:
                    self._check_free(word)
                region.binders[word.text].append(Binder(self._names.of[step.span.start], word))
                self._check_word(word)
            for word in _inside(step):
                self._inside.setdefault(word.text, word)
        self._regions.append(region)
        try:
            yield region
        finally:
            for name in self._regions.pop().either:
                del self._aliases[name]

    @contextmanager
    def block(self) -> Iterator[Callable[[Let], None]]:
        """Go through a block; what `let` calls in it is known until its end. Gives what to call for each `let`."""
        begun: list[str] = []

        def let(one: Let) -> None:
            if self._let(one):
                begun.append(one.name.text)

        try:
            yield let
        finally:
            for name in begun:
                del self._aliases[name], self._alias_words[name]

    def _let(self, one: Let) -> bool:
        name = one.name.text
        self._check_word(one.name)
        if not self._check_free(one.name):
            return False
        try:
            written = self._writer.template(one.value)
            alias = self._writer.alias(one.value, written)
            self._check_names(written, one.value)
        except Unwritable as error:
            self._refuse(error, one.value)
            alias = Alias(None, False, 0, "null")
        self._aliases[name] = alias
        self._alias_words[name] = one.name
        return True

    def _check_word(self, word: Word) -> None:
        if word.text in KEYWORDS:
            said = f"{quoted(word.text)} is a word of the expression language, and cannot be read by an expression"
            self._findings.add("name_taken", said, word.span, "choose another name")

    def _check_free(self, word: Word) -> bool:
        """Say so, if the name is taken already by anything but a binding of the planner's."""
        name = word.text
        other = self._alias_words.get(name) or (self.inputs.get(name) if self._is_declared else None)
        for region in self._regions:
            if other is None and region.item is not None and region.item.text == name:
                other = region.item
            if other is None and name in region.binders:
                other = region.binders[name][0].word
        if other is None:
            return True
        line = self._findings.source.place(other.span.start).line
        said = f"{quoted(name)} stands for something else already (line {line})"
        self._findings.add("name_taken", said, word.span, "a name is given once; choose another one")
        return False

    def reached(self, step: Step) -> None:
        """Note that control is at *step*, which gives its binding to all that comes behind it."""
        word = step.binding
        if word is None:
            return
        for binder in self._regions[-1].binders[word.text]:
            if binder.word is word:
                binder.chain = self._regions[-1].at

    def reached_with_fallback(self, step: Step, first: str, second: str) -> None:
        """Note that control is at *step*, whose binding stands for what *second* gives, or else for what *first* does.

        Args:
            first: The step of the document, and `second` the one that is done if it fails.
        """
        region, word = self._regions[-1], step.binding
        place = word or step.head.agent or Word(step.head.span, "")
        names = [self._hidden[f"first_{first}"], self._hidden[f"second_{first}"]]
        for name, binder in zip(names, (first, second), strict=True):
            region.binders[name].append(Binder(binder, place, region.at))
        if word is None:
            return
        if len(region.binders[word.text]) > 1:
            said = f"{quoted(word.text)} is given by a step with a fallback, and by another one"
            self._findings.add("name_taken", said, word.span, "give them bindings of their own: first ?? second")
        text = f"{names[1]} ?? {names[0]}"
        if word.text not in self._aliases:
            region.either.append(word.text)
        self._shown |= dict.fromkeys(names, word.text)
        self._aliases[word.text] = Alias(f"{{{text}}}", False, len(text), text, either=(names[1], names[0]))

    def free_name(self, name: str) -> str:
        """A name like *name* that nothing has in the script."""
        found = name.replace("-", "_")[:50]
        while self.knows(found) or found in self._hidden.values():
            found += "_"
        self._hidden[name] = found
        return found

    def new_branch(self) -> int:
        """A number for a branch, which no other has."""
        self._branches += 1
        return self._branches

    def at(self, chain: Chain) -> None:
        """Note where control is."""
        self._regions[-1].at = chain

    def join(self, branches: Iterable[Chain], ends: Iterable[Chain], depth: int, chain: Chain) -> None:
        """Note that control goes on at *chain* behind *branches*, if it comes from one of *ends*; see `Join`."""
        join = Join(depth, tuple(ends), chain)
        for branch in {one[depth] for one in branches if len(one) > depth}:
            self._joins[branch].append(join)

    # --- reading -------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[set[str]]:
        """Gather the steps whose output is read by what is written meanwhile."""
        before, self._reads = self._reads, set()
        try:
            yield self._reads
        finally:
            before |= self._reads
            self._reads = before

    def template(self, value: Value) -> Any:
        """*value* as a JSON template; what is wrong with the names that it reads is said."""
        return self._write(self._writer.template, value)

    def expression(self, value: Value) -> str:
        """*value* as the text of an expression; what is wrong with the names that it reads is said."""
        return str(self._write(self._writer.expression, value) or "null")

    def _write(self, write: Callable[[Value], Written], value: Value) -> Any:
        try:
            written = write(value)
        except Unwritable as error:
            self._refuse(error, value)
            return None
        self._check_names(written, value)
        return written.value

    def _refuse(self, error: Unwritable, value: Value) -> None:
        if error.message:
            self._findings.add(error.code, error.message, value.span, error.hint)

    def knows(self, name: str) -> bool:
        """Whether *name* stands for something here."""
        return (
            name in self._aliases
            or name in self.inputs
            or any(name in region.binders or (region.item and region.item.text == name) for region in self._regions)
        )

    def _check_names(self, written: Written, value: Value) -> None:
        for name in written.names:
            region = self._region_of(name)
            if region is None:
                # What comes by a `let` has been looked at there.
                if name not in self.inputs and not self._is_item(name) and name in value.names:
                    self._unknown(name, value)
                continue
            reached = [binder for binder in region.binders[name] if binder.chain is not None]
            self._reads.update(binder.step for binder in reached)
            if not reached:
                line = self._findings.source.place(region.binders[name][0].word.span.start).line
                said = f"{quoted(name)} is bound below, on line {line}"
                self._findings.add("read_before_bound", said, self._where(value, name), "move that step above this one")
            elif not self._is_bound(name, reached, region.at, 0):
                self._maybe_unbound(name, value, reached, region.at, name in written.required)

    def _region_of(self, name: str) -> Region | None:
        return next((region for region in reversed(self._regions) if name in region.binders), None)

    def _is_item(self, name: str) -> bool:
        return any(region.item is not None and region.item.text == name for region in self._regions)

    def _is_bound(self, name: str, binders: Sequence[Binder], at: Chain, floor: int) -> bool:
        """Whether one of *binders* has run for sure when control is at *at*.

        Args:
            floor: How many branches of *at* count as taken anyway: a binder has to be further inside.
        """
        for binder in binders:
            chain = binder.chain or ()
            if len(chain) >= floor and at[: len(chain)] == chain:
                return True
        for binder in binders:
            chain = binder.chain or ()
            same = _common(chain, at)
            for join in self._joins.get(chain[same], ()) if len(chain) > same else ():
                if join.depth == same and len(join.chain) >= floor and at[: len(join.chain)] == join.chain:
                    key = name, id(join)
                    if key not in self._joined:
                        self._joined[key] = all(self._is_bound(name, binders, end, same + 1) for end in join.ends)
                    if self._joined[key]:
                        return True
        return False

    def _maybe_unbound(self, name: str, value: Value, binders: Sequence[Binder], at: Chain, required: bool) -> None:
        where, name = self._where(value, name), self._shown.get(name, name)
        if not any(self._may_be_bound(binder.chain or (), at) for binder in binders):
            said = f"{quoted(name)} is bound in a branch that is not taken where this is"
            hint = "read a binding of this branch, or one from above the branches"
            self._findings.add("other_branch", said, where, hint)
        elif required:
            said = f"{quoted(name)} is bound in some branches only, and may be missing here"
            self._findings.add("maybe_unbound", said, where, f"say what stands in for it: {name} ?? null")

    def _may_be_bound(self, chain: Chain, at: Chain) -> bool:
        """Whether a step at *chain* can have run when control is at *at*."""
        same = _common(chain, at)
        if same == len(chain):
            return True
        joins = [join for join in self._joins.get(chain[same], ()) if at[: len(join.chain)] == join.chain]
        return any(_common(chain, end) > same for join in joins for end in join.ends)

    def _unknown(self, name: str, value: Value) -> None:
        where = self._where(value, name)
        if (inside := self._inside.get(name)) is not None:
            line = self._findings.source.place(inside.span.start).line
            said = f"{quoted(name)} is bound inside of an each, on line {line}, and is known only there"
            hint = "read what the each binds: the list of what its items give"
            self._findings.add("unknown_name", said, where, hint)
            return
        near = self._findings.near(name, self._known())
        if not self._is_declared:
            self.inputs[name] = Word(Span(where, where + len(name)), name)
            if near and len(name) >= _LONG_ENOUGH:
                said = f"{quoted(name)} is bound nowhere, so it is taken for an input of the plan"
                self._findings.advise("name_like_binding", said, where, f"did you mean {near}?")
            return
        step = name.replace("_", "-")
        hint = f"did you mean {near}?" if near else "bind it by a step, or declare it under `input`"
        if step in self._names.taken and not near:
            hint = f"to read the output of {step}, let it bind a name: -> {name}"
        self._findings.add("unknown_name", f"there is no {quoted(name)} here", where, hint)

    def _known(self) -> list[str]:
        known = [*self._aliases, *(self.inputs if self._is_declared else ())]
        for region in self._regions:
            known += region.binders
            known += [region.item.text] if region.item is not None else []
        return known

    def _where(self, value: Value, name: str) -> int:
        """Where *value* reads *name*; where it begins, if it is `let` that does."""
        match value:
            case Formula() if name in value.names:
                read = parse(self._values.written(value))
                return value.span.start + min((at for one, at in reads_of(read) if one == name), default=0)
            case Text(template=template) if name in value.names:
                wrong = problems(template, value.names - {name})
                return self._values.place(value, wrong[0].position) if wrong else value.span.start
            case Items(items=items):
                return next((self._where(item, name) for item in items if name in item.names), value.span.start)
            case Entries(entries=entries):
                inner = (entry.value for entry in entries)
                return next((self._where(one, name) for one in inner if name in one.names), value.span.start)
            case _:
                return value.span.start


def _common(one: Chain, other: Chain) -> int:
    """How many branches two places have in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _inside(step: Step) -> Iterator[Word]:
    """What is known in the body of *step* only."""
    if step.body and step.head.target is not None:
        yield step.head.target
    for inner in _steps(step.body):
        if inner.binding is not None:
            yield inner.binding
        yield from _inside(inner)


def _steps(items: Iterable[Item]) -> Iterator[Step]:
    """The steps whose bindings are known together: not those in the body of an `each`."""
    for item in items:
        if isinstance(item, Step):
            yield item
        elif not isinstance(item, Let):
            yield from _steps(item.body)
