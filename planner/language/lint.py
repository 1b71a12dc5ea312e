"""Advice on a script that is not wrong: what the people who write plans have learnt."""

import re
from collections.abc import Iterable, Iterator, Set
from typing import Final

from planmesh.planner.language.findings import Findings, quoted
from planmesh.planner.language.tree import (
    Constant,
    Entries,
    Field,
    Formula,
    Item,
    Items,
    Let,
    Otherwise,
    Script,
    Step,
    Text,
    Value,
    When,
)
from planmesh.schemas.plan import Draft

_MOST_STEPS: Final = Draft(name="any").max_steps
_SECRET: Final = re.compile(
    r"(?i)\b(?:pass(?:word|phrase|code)|secret|token|credential|bearer|pin"
    r"|(?:api|access|account|private|secret|service|signing|ssh|encryption|licen[cs]e|recovery)[ _-]?key)s?\b"
)


def lint(script: Script, read: Set[str], findings: Findings) -> None:
    """Add advice on every step of *script*.

    Args:
        read: The bindings that are read anywhere.
    """
    steps = list(_steps(script.body))
    plans = {step.binding.text for step in steps if step.head.kind == "plan" and step.binding is not None}
    routes = _Routes(steps)
    for step in steps:
        fields = {field.name.text: field.value for field in step.each(Field)}
        match step.head.kind:
            case "plan":
                _plan(step, fields, findings)
            case "agent":
                _agent(step, fields, findings)
            case "ask":
                _ask(step, fields, read, routes, findings)
            case "run" if (target := step.head.target) is not None and target.text not in plans:
                said = f"{quoted(target.text)} is no plan of a `plan` step, which has been checked before it is run"
                findings.advise("run_of_other", said, target.span, "run what a `plan` step has bound")


def _plan(step: Step, fields: dict[str, Value], findings: Findings) -> None:
    if "max_steps" not in fields:
        said = f"this plan does not say how many steps it may have; {_MOST_STEPS} it is"
        findings.advise("plan_without_limit", said, step.head.span, "bound it: max_steps = 10")
    validate = fields.get("validate")
    if not (isinstance(validate, Constant) and validate.value is True):
        said = "of the plan that is made, mistakes are refused and doubts are not"
        findings.advise("plan_not_validated", said, step.head.span, "refuse both: validate = true")


def _agent(step: Step, fields: dict[str, Value], findings: Findings) -> None:
    permissions = fields.get("permissions")
    known = {entry.key for entry in permissions.entries} if isinstance(permissions, Entries) else set()
    if "tools" not in fields and "tools" not in known:
        said = "this agent names no tools, so it has none"
        findings.advise("agent_without_tools", said, step.head.span, 'name them: tools = ["…"], or tools = []')
    if "max_iterations" not in fields:
        said = "this agent does not say how often it may go round; 10 times it is"
        findings.advise("agent_without_limit", said, step.head.span, "say it: max_iterations = 8")


def _ask(step: Step, fields: dict[str, Value], read: Set[str], routes: "_Routes", findings: Findings) -> None:
    binding = step.binding
    if binding is None or binding.text not in read:
        said = "nobody reads the answer to this"
        hint = "bind it, and read its value: -> answer" if binding is None else f"read {binding.text}.value"
        findings.advise("answer_unread", said, step.head.span, hint)
    options = fields.get("options")
    for option in options.items if isinstance(options, Items) and binding is not None else ():
        if isinstance(option, Text) and not routes.has(binding.text, option.template):  # type: ignore[union-attr]
            said = f"nothing says what follows the answer {quoted(option.template)}"
            findings.advise("option_unrouted", said, option.span, "route it by a `when`, or add an `otherwise`")
    prompt, secret = fields.get("prompt"), fields.get("secret")
    asked = step.head.label.text if step.head.label is not None else ""
    asked = f"{asked} {prompt.template}" if isinstance(prompt, Text) else asked
    if _SECRET.search(asked) is not None and not (isinstance(secret, Constant) and secret.value is True):
        said = "the answer to this may be a secret, and the log keeps it for good"
        hint = "let the agent that needs it have it by its own means, and ask whether it has; or say secret = true"
        findings.advise("secret_in_log", said, step.head.span, hint)


class _Routes:
    """Which answers lead somewhere."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._open: set[str] = set()  # bindings of which every value leads somewhere
        self._values: dict[str, set[str]] = {}
        for step in steps:
            conditions = [one.condition for one in step.each(When)]
            if step.head.kind == "check" and step.head.value is not None:
                conditions.append(step.head.value)
            names = {name for one in conditions for name in one.names}
            if step.head.kind == "check" or any(step.each(Otherwise)):
                self._open |= names
            for condition in conditions:
                for name in condition.names:
                    self._values.setdefault(name, set()).update(_texts(condition))

    def has(self, binding: str, value: str) -> bool:
        return binding in self._open or value in self._values.get(binding, ())


_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _texts(condition: Value) -> Iterator[str]:
    """The texts that a condition compares with."""
    if isinstance(condition, Formula):
        yield from (found[1] for found in _QUOTED.finditer(condition.text))


def _steps(items: Iterable[Item]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Step):
            yield item
        if not isinstance(item, Let):
            yield from _steps(item.body)
