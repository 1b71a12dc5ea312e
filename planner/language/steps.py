"""A step of a script to a step of the plan document: one function a kind."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, Union

from planmesh.planner.language.fields import MISSING, Fields
from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.names import Names
from planmesh.planner.language.scope import Scope
from planmesh.planner.language.source import Span
from planmesh.planner.language.tree import (
    Action,
    Broken,
    BrokenPart,
    Entries,
    Field,
    Formula,
    Items,
    Node,
    OnError,
    OnOutcome,
    Otherwise,
    Outputs,
    Step,
    Text,
    Value,
    When,
)
from planmesh.schemas.expressions import ExpressionError, parse
from planmesh.schemas.plan import LEVELS, MODEL_AGENT
from planmesh.schemas.templates import escape

Place: TypeAlias = Union[Node, Span, Mapping[str, "Place"], "list[Place]"]
"""Where something of the document stands in the script: a node, or the places of what is inside of it."""


@dataclass(slots=True)
class Draft:
    """A step of the document, in the making.

    Attributes:
        head: Where the step begins in the script.
        document: What is known of it.
        places: Where its fields stand in the script.
        end: Where the last of them ends.
        reads: The steps whose output it reads.
        waits: Those, and the ones that it names.
        body: Of an `each`: the steps in it.
        gives: Of an `each`: what an item gives, as an expression; None if that depends on where it ends. Of an `emit`
            in its body: what an item gives that ends there.
        means: What its binding stands for in the script, if that is not its output alone.
    """

    head: Span
    document: dict[str, Any]
    places: dict[str, Place] = field(default_factory=dict)
    end: int = 0
    reads: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)
    body: "list[Draft]" = field(default_factory=list)
    gives: str | None = None
    means: str = ""

    @property
    def name(self) -> str:
        return str(self.document["name"])

    def release(self, inside: Set[str]) -> set[str]:
        """Let it wait for no step but those that are *inside*; return the others that it waited for."""
        after: list[str] = self.document.get("after", [])
        outside = set(after) - inside
        if outside:
            place = self.places.get("after")
            places: list[Place] = place if isinstance(place, list) else [place or self.head] * len(after)
            places += [self.head] * (len(after) - len(places))
            kept = [(name, at) for name, at in zip(after, places, strict=False) if name in inside]
            self.document["after"], self.places["after"] = [name for name, _ in kept], [at for _, at in kept]
            if not kept:
                del self.document["after"]
        return outside

    def value_of_item(self) -> str | None:
        """Of an `each`, of whose steps all have bindings: what an item gives, as an expression.

        An item comes to exactly one of several emits. Of an object with an entry for each of them, that one is taken;
        and what the others say is not even looked at, because ``??`` reads its right side only if the left is missing.
        """
        ends = [one for one in self.body if one.gives is not None and not one.body]
        if self.gives is not None or not ends:
            return self.gives
        marks = {one.name: f"{one.document['binding']}.branch" for one in ends}
        entries = []
        for one in ends:
            others = [mark for name, mark in marks.items() if name != one.name]
            entries.append(f'"{one.name}": {" ?? ".join([*others, f"({one.gives})"])}')
        return f"{{ {', '.join(entries)} }}[{' ?? '.join(marks.values())}]"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the steps of a script share.

    Attributes:
        reviewers: Who is asked where a step names nobody; None if the script names nobody.
        is_body: Whether the steps are the body of an `each`.
    """

    scope: Scope
    names: Names
    findings: Findings
    reviewers: list[str] | None = None
    is_body: bool = False


MOST_RETRIES: Final = 99
_STEP: Final = ("name", "after", "optional")
_REVIEW: Final = ("reviewer", "quorum", "sla", "escalate", "shares", "level")


def begin(step: Step, around: Surroundings) -> "StepWriter":
    """What writes *step*."""
    end = max((part.span.end for part in step.parts), default=step.head.span.end)
    draft = Draft(step.head.span, {"kind": step.head.kind, "name": around.names.of[step.span.start]}, end=end)
    return StepWriter(step, around, step.each(Field), draft)


def write_output(output: Outputs, around: Surroundings) -> "Draft":
    """The last step of a script that has an `output` block: an emit."""
    name = around.names.free("output", output.span)
    draft = Draft(output.span, {"kind": "emit", "name": name, "outcome": "completed", "result": {}})
    places: dict[str, Place] = {}
    with around.scope.reading() as reads:
        for one in output.outputs:
            if one.name.text in places:
                said = f"there is an output {quoted(one.name.text)} already"
                around.findings.add("duplicate_field", said, one.name.span)
            draft.document["result"][one.name.text] = around.scope.template(one.value)
            places[one.name.text] = one.value
    draft.places["result"] = places
    draft.waits |= reads
    return draft


class StepWriter:
    """Writes one step.

    Attributes:
        approval: A gate that this step waits for, and nothing else does.
        fallback: A check whether this step has failed, and the step that is done then.
    """

    def __init__(self, step: Step, around: Surroundings, fields: Iterable[Field], draft: Draft) -> None:
        self.step = step
        self.around = around
        self.scope = around.scope
        self.findings = around.findings
        self.fields = Fields(fields, around.scope, around.findings)
        self.draft = draft
        self.approval: Draft | None = None
        self.fallback: tuple[Draft, Draft] | None = None

    def write(self) -> Draft:
        """The step, all but what control adds to it. What is wrong with it is said."""
        self.fields.take("name")
        head, draft = self.step.head, self.draft
        draft.places["name"] = head.label or head.span
        if head.label is not None:
            self.put("label", head.label.text, head.label)
        if (binding := self.step.binding) is not None:
            self.put("binding", binding.text, binding)
        self._after()
        self.constant("optional")
        with self.scope.reading() as reads:
            KINDS[head.kind](self)
        draft.reads |= reads
        draft.waits |= reads
        return draft

    # --- putting fields into the document ------------------------------------------------------------------

    def put(self, key: str, value: Any, place: Place) -> None:
        """Set a field of the document."""
        self.draft.document[key] = value
        self.draft.places[key] = place

    def label(self) -> str:
        """The label as a template: what the step is about, if nothing else says so."""
        return escape(self.step.head.label.text) if self.step.head.label is not None else ""

    def template(self, name: str, default: object = MISSING) -> None:
        """Put a field, in which expressions may stand."""
        found = self.fields.take(name)
        if found is not None:
            self.put(name, self.scope.template(found.value), found.value)
        elif default is not MISSING:
            self.draft.document[name] = default

    def constant(self, name: str, key: str = "") -> Any:
        """Put a field that is settled before the plan runs; return what it is, or `MISSING`."""
        found = self.fields.take(name)
        value = MISSING if found is None else self.fields.constant(found.value)
        if found is not None and value is not MISSING:
            self.put(key or name, value, found.value)
        return value

    def seconds(self, name: str, key: str) -> None:
        """Put a duration."""
        found = self.fields.take(name)
        if found is not None and (seconds := self.fields.seconds(found.value)) is not None:
            self.put(key, seconds, found.value)

    def texts(self, name: str, key: str) -> None:
        """Put a list of texts, which may be written as one text."""
        found = self.fields.take(name)
        if found is not None and (texts := self.fields.names(found.value)) is not None:
            self.put(key, texts, found.value)

    def choice(self, name: str, among: Iterable[str], key: str = "") -> None:
        """Put one of several words."""
        found = self.fields.take(name)
        if found is None:
            return
        chosen, words = self.fields.text(found.value), list(among)
        if chosen is not None and chosen not in words:
            hint = self.findings.nearest(chosen, words)
            said = f"expected one of {', '.join(words)}; found {quoted(chosen)}"
            self.findings.add("wrong_value", said, found.value.span, hint)
        elif chosen is not None:
            self.put(key or name, chosen, found.value)

    def refuse_rest(self, *known: str, **hints: str) -> None:
        """Refuse the fields that are left over."""
        kind = self.step.head.kind
        called = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        self.fields.refuse_rest(called, (*_STEP, *known), hints)

    def refuse_parts(self, *allowed: type[Node]) -> None:
        """Refuse lines that belong to other kinds of steps."""
        belongs = {
            When: "`when` belongs to a decide",
            Otherwise: "`otherwise` belongs to a decide",
            OnOutcome: "`on pass` and `on fail` belong to a check",
            OnError: "`on error` belongs to a step that an agent does",
        }
        for part in self.step.parts:
            said = belongs.get(type(part))
            if said is not None and not isinstance(part, allowed):
                self.findings.add("misplaced", said, part.span)

    # --- what several kinds have ---------------------------------------------------------------------------

    def _after(self) -> None:
        found = self.fields.take("after")
        labels = self.fields.names(found.value) if found is not None else None
        if found is None or labels is None:
            return
        names: list[str] = []
        places: list[Place] = []
        for number, label in enumerate(labels):
            value = found.value
            place = value.items[number].span if isinstance(value, Items) else value.span
            known = self.around.names
            behind = known.labelled.get(label) or ([label] if label in known.taken else [])
            if not behind:
                hint = self.findings.nearest(label, [*known.labelled], "name a step by its label")
                self.findings.add("unknown_step", f"there is no step {quoted(label)}", place, hint)
            for name in behind:
                each = known.within.get(name, "")
                if each not in ("", known.within.get(self.draft.name, "")):
                    said = f"{quoted(label)} is inside of an each, and is done once for each item"
                    self.findings.add("unknown_step", said, place, f'wait for all of them: after = ["{each}"]')
                elif name not in names:
                    names.append(name)
                    places.append(place)
        self.put("after", names, places)
        self.draft.waits.update(names)

    def agent(self) -> None:
        """Put who does the step."""
        agent = self.step.head.agent
        if agent is not None:  # else the line could not be read
            self.put("agent", agent.text, agent)

    def work(self) -> None:
        """Put what every step has that an agent does."""
        self.refuse_parts(OnError)
        self.seconds("timeout", "timeout_s")
        self.constant("permissions")
        self.constant("idempotent")
        self.retry()
        self._on_error(self.step.each(OnError))
        self.approve_first()

    def inputs(self, **wanted: type) -> None:
        """Put the fields that are left over, and those of the object `inputs`, which may have any name.

        Args:
            wanted: What some of them have to be, if they are known before the plan runs; `float` is any number.
        """
        inputs: dict[str, Any] = {}
        places: dict[str, Place] = {}
        given = self.fields.take("inputs")
        entries: list[tuple[str, Value]] = []
        if given is not None and isinstance(given.value, Entries):
            entries = [(entry.key, entry.value) for entry in given.value.entries]
        elif given is not None and not isinstance(given.value, Broken):
            hint = "write inputs = { name: value }"
            self.findings.add("wrong_value", "expected an object with the inputs", given.value.span, hint)
        left = [(name, one.value) for name, one in self.fields.left().items()]
        for name, value in (*entries, *left):
            if name in inputs:
                self.findings.add("duplicate_field", f"there are two inputs {quoted(name)}", value.span)
            inputs[name] = self.scope.template(value)
            places[name] = value
            if name in wanted:
                self._check_kind(value, inputs[name], wanted[name])
        if "task" in wanted and "task" not in inputs:
            inputs = {"task": self.label(), **inputs}
        if inputs:
            self.put("inputs", inputs, places)

    def _check_kind(self, value: Value, template: Any, wanted: type) -> None:
        """Say so, if *value* is known by now, and is no such thing."""
        if isinstance(value, Broken) or (isinstance(template, str) and "{" in template):
            return
        is_number = isinstance(template, int | float) and not isinstance(template, bool)
        if is_number if wanted is float else isinstance(template, wanted) and (wanted is not int or is_number):
            return
        expected = {str: "a text", int: "a whole number", float: "a number", dict: "an object"}[wanted]
        self.findings.add("wrong_value", f"expected {expected}", value.span)

    def tools(self) -> None:
        """Put the tools of an agent among its permissions: without any, it has none."""
        found, given = self.fields.take("tools"), self.draft.places.get("permissions")
        tools = self.fields.names(found.value) if found is not None else None
        permissions = self.draft.document.get("permissions", {})
        if not isinstance(permissions, dict):
            return  # what it is instead, the planner says
        if found is not None and "tools" in permissions:
            said = "the tools of this agent are named twice, here and among its permissions"
            self.findings.add("duplicate_field", said, found.name.span, "leave one of them out")
        places: dict[str, Place] = {"": given} if isinstance(given, Node) else {}
        if isinstance(given, Entries):
            places |= {entry.key: entry.value for entry in given.entries}
        if found is not None:
            places["tools"] = found.value
        # None are permitted, if none are named: not those that the agent declares.
        self.put("permissions", permissions if tools is None else {**permissions, "tools": tools}, places)

    def retry(self) -> None:
        """Put how often it is tried again."""
        found = self.fields.take("retry")
        if found is None:
            return
        if isinstance(found.value, Entries):
            retry: dict[str, Any] = {}
            places: dict[str, Place] = {}
            for entry in found.value.entries:
                duration = entry.key in ("backoff", "max_backoff")
                value = (
                    self.fields.seconds(entry.value, may_be_none=True)
                    if duration
                    else self.fields.constant(entry.value)
                )
                if value is not None and value is not MISSING:
                    key = f"{entry.key}_s" if duration else entry.key
                    retry[key], places[key] = value, entry.value
            self.put("retry", retry, places)
            return
        number = self.fields.constant(found.value)
        if isinstance(number, int) and not isinstance(number, bool):
            self._try_again(number, found.value)
        elif number is not MISSING:
            hint = 'write retry = 3, or retry = { attempts: 4, backoff: "10s" }'
            self.findings.add("wrong_value", "expected how often it is tried again", found.value.span, hint)

    def _try_again(self, number: int, place: Node) -> None:
        if 0 <= number <= MOST_RETRIES:
            self.put("retry", {"attempts": number + 1}, place)
        else:
            said = f"a step is tried again from 0 to {MOST_RETRIES} times; found {number}"
            self.findings.add("wrong_value", said, place.span)

    def _on_error(self, parts: Iterable[OnError]) -> None:
        seen: dict[str, Action] = {}
        for part in parts:
            action = part.action
            kind = "ending" if action.kind in ("ignore", "fallback") else action.kind
            if kind in seen:
                self.findings.add("duplicate_field", "this is settled by an `on error` above it", part.span)
                continue
            seen[kind] = action
            if action.kind == "ignore":
                self.put("on_error", "ignore", part)
            elif action.kind == "fallback":
                self._fallback(action, part)
            elif "retry" in self.draft.document:
                self.findings.add("duplicate_field", "there is a field `retry` already", part.span)
            else:
                self._try_again(1 if action.number is None else action.number, part)

    def _fallback(self, action: Action, part: OnError) -> None:
        """If the step fails for good, it is skipped; a check sees that its output is null, and another step is done.

        So that nothing else looks like that, an output of null is a failure. What the step binds is the output of the
        other one, or else its own.
        """
        own, label, names = self.draft, self.step.head.label, self.around.names
        called = label.text if label is not None else own.name
        first = own.document["binding"] = self.scope.free_name(f"first_{own.name}")
        if "accept" not in own.document:
            self.put("accept", f"{first} != null", part)
        self.put("on_error", "ignore", part)
        document: dict[str, Any] = {"kind": "check", "name": names.free(f"{own.name[:45]}-failed", part.span)}
        document |= {"label": f"Failed: {called}"[:200], "condition": f"{first} == null", "on_fail": "continue"}
        check = Draft(part.span, document, reads={own.name}, waits={own.name})
        document = {"kind": "task", "name": names.free(f"{own.name[:45]}-instead", part.span)}
        document |= {"label": f"Instead: {called}"[:200], "agent": action.word.text if action.word is not None else ""}
        document["branch"] = {"step": check.name, "label": "pass"}
        places: dict[str, Place] = {"agent": action.word or part}
        if isinstance(action.value, Entries):
            document["inputs"], places["inputs"] = self.scope.template(action.value), action.value
        elif action.value is not None and not isinstance(action.value, Broken):
            hint = "write on error: fallback AGENT { name: value }"
            self.findings.add("wrong_value", "expected an object with the inputs", action.value.span, hint)
        second = document["binding"] = self.scope.free_name(f"second_{own.name}")
        instead = Draft(part.span, document, places, waits={check.name}, means=f"{second} ?? {first}")
        self.fallback = check, instead

    def again(self) -> None:
        """Put how often it is tried again, by a field or by a line; it can do nothing else about an error."""
        self.retry()
        retries: list[OnError] = []
        for part in self.step.each(OnError):
            if part.action.kind == "retry":
                retries.append(part)
            else:
                said = f"a {self.step.head.kind} that fails can only be tried again"
                self.findings.add("misplaced", said, part.span, "write on error: retry 3")
        self._on_error(retries)

    def approve_first(self) -> None:
        """A reviewer of a step that is no gate is asked before it: put a gate in front."""
        reviewer = self.fields.take("reviewer")
        others = [one for one in map(self.fields.take, _REVIEW[1:]) if one is not None]
        if reviewer is None:
            for one in others:
                said = f"{quoted(one.name.text)} is for whoever approves the step, and it names nobody"
                self.findings.add("misplaced", said, one.name.span, 'name them: reviewer = "role:operator"')
            return
        own, label = self.draft, self.step.head.label
        name = self.around.names.free(f"approve-{own.name}", reviewer.name.span)
        document = {"kind": "gate", "name": name, "label": f"Approve: {label.text if label else own.name}"}
        places: dict[str, Place] = {"name": reviewer.name, "label": reviewer.name}
        gate = StepWriter(self.step, self.around, [reviewer, *others], Draft(reviewer.span, document, places))
        gate.review()
        self.approval = gate.draft
        own.waits.add(name)
        own.document.setdefault("after", []).append(name)
        place = own.places.setdefault("after", [])
        if isinstance(place, list):
            place.append(reviewer)

    def review(self) -> None:
        """Put who decides a gate, and what reminds them."""
        self.reviewers()
        self.constant("quorum")
        self.seconds("sla", "sla_s")
        self.escalation()
        self.constant("shares")
        self.choice("level", LEVELS)

    def reviewers(self) -> None:
        """Put who is asked."""
        found = self.fields.take("reviewer")
        reviewers = self.fields.names(found.value) if found is not None else self.around.reviewers
        if reviewers is not None:
            self.put("reviewers", reviewers, found.value if found is not None else self.step.head.span)

    def escalation(self) -> None:
        """Put who may decide as well, and after how long: unless it says so, when it is overdue."""
        found = self.fields.take("escalate")
        if found is None:
            return
        value = found.value
        listed = value.items if isinstance(value, Items) else (value,)
        if not any(isinstance(one, Entries) for one in listed):
            names = self.fields.names(value)
            after_s = self.draft.document.get("sla_s")
            if names is not None and after_s is None:
                said = "it does not say after how long"
                hint = 'write escalate = { after: "4h", to: "role:operator" }'
                self.findings.add("missing_field", said, value.span, hint)
            elif names is not None:
                places: dict[str, Place] = {"after_s": value, "to": value}
                self.put("escalate", [{"after_s": after_s, "to": names}], [places])
            return
        steps = [self._escalation(one) for one in listed]
        self.put("escalate", [document for document, _ in steps], [places for _, places in steps])

    def _escalation(self, value: Value) -> tuple[dict[str, Any], Place]:
        document: dict[str, Any] = {}
        places: dict[str, Place] = {"": value}
        if not isinstance(value, Entries):
            if not isinstance(value, Broken):
                hint = 'write { after: "4h", to: "role:operator" }'
                self.findings.add("wrong_value", "expected an object with `after` and `to`", value.span, hint)
            return document, places
        for entry in value.entries:
            key = {"after": "after_s"}.get(entry.key, entry.key)
            read = self.fields.seconds if key == "after_s" else self.fields.names
            document[key], places[key] = read(entry.value), entry
        return document, places


# --- one function a kind -----------------------------------------------------------------------------------


def _do(writer: StepWriter) -> None:
    writer.draft.document["kind"] = "task"
    writer.agent()
    writer.work()
    writer.inputs()


def _agent(writer: StepWriter) -> None:
    writer.agent()
    writer.work()
    writer.tools()
    agent = writer.step.head.agent
    if agent is not None and agent.text == MODEL_AGENT:  # what its options have to be, the planner says
        writer.inputs(task=object, schema=dict)
    else:
        writer.inputs(task=object, model=str, max_iterations=int, max_tokens=int, temperature=float, schema=dict)


def _plan(writer: StepWriter) -> None:
    writer.refuse_parts(OnError)
    agent = writer.step.head.agent
    if agent is not None and agent.text != MODEL_AGENT:
        said = f"a plan is written by the model of the mesh, `{MODEL_AGENT}`; found {quoted(agent.text)}"
        writer.findings.add(
            "wrong_value", said, agent.span, f'write with {MODEL_AGENT}; a model is chosen by model = "…"'
        )
    writer.texts("tools", "agents")
    writer.constant("max_steps")
    writer.constant("validate", "strict")
    writer.again()
    writer.approve_first()
    for name in ("timeout", "permissions", "idempotent"):
        if (found := writer.fields.take(name)) is not None:
            said, hint = f"a plan has no field {quoted(name)}", "its steps have; see `tools` and `max_steps`"
            writer.findings.add("unknown_field", said, found.name.span, hint)
    writer.inputs(task=object)


def _run(writer: StepWriter) -> None:
    writer.refuse_parts()
    target = writer.step.head.target
    if target is not None:
        value = Formula(target.span, target.text, frozenset((target.text,)), frozenset((target.text,)))
        writer.put("document", writer.scope.expression(value), target)
    writer.choice("mode", ("normal", "safe", "draft"))
    writer.constant("retries")
    writer.constant("permissions")
    writer.approve_first()
    for name, hint in _NOT_OF_RUN.items():
        if (found := writer.fields.take(name)) is not None:
            writer.findings.add("unknown_field", f"a run has no field {quoted(name)}", found.name.span, hint)
    writer.inputs()


def _ask(writer: StepWriter) -> None:
    writer.refuse_parts()
    writer.template("prompt", default=writer.label())
    writer.choice("type", ("text", "number", "boolean"))
    writer.texts("options", "options")
    writer.constant("default")
    writer.seconds("timeout", "sla_s")
    writer.choice("on_timeout", ("remind", "default"), "on_overdue")
    writer.constant("max_retries")
    writer.constant("secret")
    writer.reviewers()
    writer.escalation()
    writer.choice("level", LEVELS)
    fields = ("prompt", "options", "type", "default", "timeout", "on_timeout", "max_retries", "secret", "reviewer")
    hints = {"sla": "an ask has a timeout, which reminds", "quorum": "one answer is enough"}
    writer.refuse_rest(*fields, "escalate", "level", **hints)


def _gate(writer: StepWriter) -> None:
    writer.refuse_parts()
    writer.review()
    writer.constant("four_eyes")
    writer.constant("require_reason")
    writer.template("prompt")
    _show(writer)
    hints = {"timeout": "a gate opens by an approval, and by nothing else; `sla` reminds"}
    writer.refuse_rest(*_REVIEW, "four_eyes", "require_reason", "prompt", "show", **hints)


def _show(writer: StepWriter) -> None:
    """What leads a review: ``["report.text"]`` is read as ``["{report.text}"]``."""
    found = writer.fields.take("show")
    if found is None:
        return
    listed = found.value.items if isinstance(found.value, Items) else (found.value,)
    shown: list[Any] = []
    for value in listed:
        if isinstance(value, Text) and not value.names and (formula := _path(value, writer.scope)) is not None:
            value = formula
        shown.append(writer.scope.template(value))
    writer.put("show", shown, list(listed))


def _path(text: Text, scope: Scope) -> Formula | None:
    """What *text* says as an expression, if it is nothing but a path that begins with a known name."""
    try:
        expression = parse(text.template)
    except ExpressionError:
        return None
    if expression.path is None or not all(map(scope.knows, expression.names)):
        return None
    return Formula(text.span, expression.text, expression.names, expression.required)


def _decide(writer: StepWriter) -> None:
    writer.refuse_parts(When, Otherwise)
    cases: list[dict[str, Any]] = []
    places: list[Place] = []
    for one in writer.step.each(When):
        cases.append({"when": writer.scope.expression(one.condition), "then": one.label.text})
        places.append({"when": one.condition, "then": one.label})
    if not cases:
        is_broken = any(isinstance(part, BrokenPart) for part in writer.step.parts)
        if not is_broken:
            hint = 'add a line: when condition -> "Branch"'
            writer.findings.add("missing_field", "this decide has no `when`", writer.step.head.span, hint)
    else:
        writer.put("cases", cases, places)
    others = list(writer.step.each(Otherwise))
    if others:
        writer.put("otherwise", others[0].label.text, others[0].label)
    for more in others[1:]:
        writer.findings.add("duplicate_field", "there is an `otherwise` already", more.span)
    writer.refuse_rest()


def _check(writer: StepWriter) -> None:
    writer.refuse_parts(OnOutcome)
    condition = writer.step.head.value
    if condition is not None:
        writer.put("condition", writer.scope.expression(condition), condition)
    actions = _actions(writer)
    passed, failed = actions.get("pass"), actions.get("fail")
    if passed is not None and passed.kind == "fail":
        # The other way round, it is a check that fails.
        if failed is not None and failed.kind == "fail":
            writer.findings.add("wrong_value", "this check fails whatever it finds", failed.span)
        writer.draft.document["condition"] = f"not ({writer.draft.document.get('condition', 'true')})"
        passed, failed = failed, passed
    if passed is not None and passed.kind == "retry":
        writer.findings.add("wrong_value", "what has passed is not tried again", passed.span, "write it for `on fail`")
    if failed is not None and failed.kind in ("go_on", "goto"):
        writer.draft.document["on_fail"] = "continue"
        writer.draft.places["on_fail"] = failed
    if failed is not None and failed.kind == "fail" and failed.value is not None:
        writer.put("message", writer.scope.template(failed.value), failed.value)
    writer.refuse_rest()


def _actions(writer: StepWriter) -> dict[str, Action]:
    actions: dict[str, Action] = {}
    for part in writer.step.each(OnOutcome):
        if part.outcome in actions:
            writer.findings.add("duplicate_field", f"there is an `on {part.outcome}` already", part.span)
        else:
            actions[part.outcome] = part.action
    return actions


def _emit(writer: StepWriter) -> None:
    writer.refuse_parts()
    label = writer.step.head.label
    if writer.around.is_body:
        # Which emit an item has come to has to be known, to know what it gives.
        writer.draft.document |= {"kind": "decide", "cases": [{"when": "true", "then": writer.draft.name}]}
        result = writer.fields.take("result")
        writer.draft.gives = writer.scope.expression(result.value) if result is not None else "null"
    else:
        if label is not None:
            writer.put("outcome", label.text, label)
        writer.template("result")
    left = [name for name in writer.fields.left() if name not in _STEP]
    several = f"put it into the result: result = {{ {left[0]}: … }}" if left else ""
    writer.refuse_rest("result", **dict.fromkeys(left, several))


def _each(writer: StepWriter) -> None:
    writer.refuse_parts()
    head = writer.step.head
    if head.value is not None:
        writer.put("items", writer.scope.expression(head.value), head.value)
    if head.target is not None:
        writer.put("item", head.target.text, head.target)
    if head.parallel is not None:
        writer.put("parallel", head.parallel, head.span)
    writer.approve_first()
    writer.refuse_rest(*_REVIEW)


_NOT_OF_RUN: Final = {
    "retry": "`retries = 2` tries again what has failed in the plan that is run",
    "timeout": "the steps of the plan that is run have timeouts",
    "idempotent": "the steps of the plan that is run say so",
}

KINDS: Final[Mapping[str, Callable[[StepWriter], None]]] = {
    "do": _do,
    "agent": _agent,
    "plan": _plan,
    "run": _run,
    "ask": _ask,
    "gate": _gate,
    "decide": _decide,
    "check": _check,
    "emit": _emit,
    "each": _each,
}
