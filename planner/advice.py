"""Advice on a plan that is not wrong: what the people who write plans have learnt.

It is given on what was written, not on what the planner makes of it: whether somebody has thought of a limit cannot be
seen once the default stands there.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from planmesh.planner.decode import read_plan
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document
from planmesh.planner.language.recognise import is_script
from planmesh.planner.problems import Problems, quoted
from planmesh.schemas.expressions import ExpressionError
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Agent, Ask, Check, Decide, Draft, Each, Plan, Run, Step
from planmesh.schemas.reads import Source, sources_of

_SECRET: Final = re.compile(
    r"(?i)\b(?:pass(?:word|phrase|code)|secret|token|credential|bearer|pin"
    r"|(?:api|access|account|private|secret|service|signing|ssh|encryption|licen[cs]e|recovery)[ _-]?key)s?\b"
)
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMPARED: Final = re.compile(
    r"(?<![A-Za-z0-9_.\"])([A-Za-z_][A-Za-z0-9_]{0,62}) {0,4}(?:[=!<>]=|[<>]|(?:not )?in\b) {0,4}(?=[\"0-9\[])"
    r"|(?<=[\"0-9\]]) {0,4}(?:[=!<>]=|[<>]) {0,4}([A-Za-z_][A-Za-z0-9_]{0,62})(?![A-Za-z0-9_.\[(])"
)
_NOTHING: Final[frozenset[str]] = frozenset()


def advise(document: object, *, limits: Limits = LIMITS) -> list[Problem]:
    """What could be better in a plan document, or in a script, in the order of the text; nothing of a document that is
    none. Costs time in proportion to its size. Raises nothing."""
    if is_script(document):
        from planmesh.planner.language.translate import translate

        translation = translate(str(document))
        if translation.problems:
            return [*translation.advice]
        found = translation.placed(_advice(translation.document, _IN_SCRIPT, limits))
        return sorted([*translation.advice, *found], key=lambda one: (one.line, one.column))
    try:
        value = read_document(document, Problems(), limits)
    except Unreadable:
        return []
    return _advice(value, _IN_DOCUMENT, limits)


_IN_SCRIPT: Final[Mapping[str, str]] = {
    "plan_without_limit": "bound it: max_steps = 10",
    "plan_not_validated": "refuse both: validate = true",
    "agent_without_tools": 'name them: tools = ["…"], or tools = []',
    "agent_without_limit": "say it: max_iterations = 8",
    "option_unrouted": "route it by a `when`, or add an `otherwise`",
    "run_of_other": "run what a `plan` step has bound",
}
_IN_DOCUMENT: Final[Mapping[str, str]] = {
    "plan_without_limit": "bound it with `max_steps`",
    "plan_not_validated": "refuse both: `strict` is true",
    "agent_without_tools": "name them in `permissions`, under `tools`; the list may be empty",
    "agent_without_limit": "say it in `inputs`, as `max_iterations`",
    "option_unrouted": "let a case of a `decide` route it, or give that an `otherwise`",
    "run_of_other": "run what a `plan` step gives",
}


def _advice(value: dict[str, Any], hints: Mapping[str, str], limits: Limits) -> list[Problem]:
    plan = read_plan(value, Problems(), limits).plan
    if plan is None:
        return []
    problems = Problems()
    steps = list(_steps(plan, value))
    plans = {step.bound_as for _, step, _ in steps if isinstance(step, Draft)}
    asks = {step.bound_as for _, step, _ in steps if isinstance(step, Ask)}
    routes = _Routes(step for _, step, _ in steps)
    for at, step, written in steps:
        _look_at_conditions(step, asks, problems, at)
        match step:
            case Draft():
                _look_at_plan(step, written, problems, at)
            case Agent():
                _look_at_agent(step, written, problems, at)
            case Ask():
                _look_at_ask(step, routes, problems, at)
            case Run() if not _names(Source(("document",), step.document)) <= plans:
                said = f"{quoted(step.document)} is no plan of a `plan` step, which has been checked before it is run"
                problems.add("run_of_other", said, *at, "document")
    return [msgspec.structs.replace(one, hint=one.hint or hints.get(one.code, "")) for one in problems.listed()]


def _steps(plan: Plan, value: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Step, Mapping[str, Any]]]:
    """Every step, those of bodies too: where it is, what it is, and what was written."""
    for index, (step, written) in enumerate(zip(plan.steps, value["steps"], strict=True)):
        yield ("steps", index), step, written
        if isinstance(step, Each):
            for inner, (body, said) in enumerate(zip(step.steps, written["steps"], strict=True)):
                yield ("steps", index, "steps", inner), body, said


def _look_at_plan(step: Draft, written: Mapping[str, Any], problems: Problems, at: tuple[str | int, ...]) -> None:
    if "max_steps" not in written:
        said = f"this plan does not say how many steps it may have; {step.max_steps} it is"
        problems.add("plan_without_limit", said, *at)
    if not step.strict:
        said = "of the plan that is written, mistakes are refused and doubts are not"
        problems.add("plan_not_validated", said, *at)


def _look_at_agent(step: Agent, written: Mapping[str, Any], problems: Problems, at: tuple[str | int, ...]) -> None:
    if "tools" not in (written.get("permissions") or {}):
        said = "this agent names no tools, so it has none"
        problems.add("agent_without_tools", said, *at)
    if "max_iterations" not in step.inputs:
        said = "this agent does not say how often it may go round; 10 times it is"
        problems.add("agent_without_limit", said, *at)


def _look_at_conditions(step: Step, asks: Collection[str], problems: Problems, at: tuple[str | int, ...]) -> None:
    """An answer is an object, and equal to no text."""
    for condition in _conditions(step):
        for found in _COMPARED.finditer(condition.value):
            if (name := found[1] or found[2]) in asks:
                said = (
                    f"{quoted(name)} is all that is known of an answer, and equal to nothing that it is compared with"
                )
                problems.add("answer_compared", said, *at, *condition.at, hint=f"read what was answered: {name}.value")


def _look_at_ask(step: Ask, routes: "_Routes", problems: Problems, at: tuple[str | int, ...]) -> None:
    bound = step.bound_as
    if bound not in routes.read:
        hint = "bind it, and read its value: -> answer" if step.binding is None else f"read {bound}.value"
        problems.add("answer_unread", "nobody reads the answer to this", *at, hint=hint)
    for index, option in enumerate(step.options if step.binding is not None or bound in routes.read else ()):
        if not routes.has(bound, option):
            said = f"nothing says what follows the answer {quoted(option)}"
            problems.add("option_unrouted", said, *at, "options", index)
    if not step.secret and _SECRET.search(f"{step.label} {step.prompt}") is not None:
        said = "the answer to this may be a secret, and the log keeps it for good"
        hint = "say secret = true: then only the task that is given it can read it"
        problems.add("secret_in_log", said, *at, hint=hint)


class _Routes:
    """What becomes of answers.

    Attributes:
        read: Every name that is read.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self.read: set[str] = set()
        self._open: set[str] = set()  # names of which every value leads somewhere
        self._values: dict[str, set[str]] = {}
        for step in steps:
            conditions = _conditions(step)
            names = _NOTHING.union(*map(_names, conditions))
            self.read |= _reads(step)
            if isinstance(step, Check) or (isinstance(step, Decide) and step.otherwise is not None):
                self._open |= names
            for condition in conditions:
                for name in _names(condition):
                    self._values.setdefault(name, set()).update(found[1] for found in _QUOTED.finditer(condition.value))

    def has(self, binding: str, value: str) -> bool:
        return binding in self._open or value in self._values.get(binding, ())


def _conditions(step: Step) -> list[Source]:
    """Those of a step that chooses between branches."""
    return [source for source in sources_of(step) if not source.is_template] if isinstance(step, Check | Decide) else []


def _reads(step: Step) -> frozenset[str]:
    """The names that a step reads, of an `each` those of its own fields; not its own output, which it may judge."""
    return _NOTHING.union(*map(_names, sources_of(step))) - {step.bound_as}


def _names(source: Source) -> frozenset[str]:
    try:
        return source.names
    except ExpressionError:
        return _NOTHING  # the planner says so
