"""Where a plan may put a secret that it asks for: into an input of a task, whole, and nowhere else.

The value itself never reaches an expression (`planmesh.schemas.secrets`): anywhere else there would be a handle, which
opens nothing. So this is no wall; it tells whoever writes a plan, before it runs, what would not work.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from planmesh.planner.bodies import Body
from planmesh.planner.decode import At, StepDraft
from planmesh.planner.problems import Problems, quoted
from planmesh.planner.scope import Scope, texts_of, value_of
from planmesh.schemas import templates
from planmesh.schemas.expressions import Expression, ExpressionError, parse
from planmesh.schemas.plan import MODEL_AGENT, Agent, Ask, Each, Plan, Step, StepBase, Task
from planmesh.schemas.secrets import PLAIN, whole

_CODE: Final = "secret_read"


def check_reads(scope: Scope, bodies: Mapping[int, Body], problems: Problems) -> None:
    """Add a problem for each place in which a plan reads a secret where it cannot."""
    secrets = _asked(one.step for one in scope.steps)
    for one in scope.steps:
        if secrets:
            _check_step(one, secrets, problems)
        if (body := bodies.get(one.index)) is None:
            continue
        inner = secrets | _asked(step.step for step in body.scope.steps)
        if not inner:
            continue
        for step in body.scope.steps:
            _check_step(step, inner, body.problems)
        for at, text, is_template in value_of(one):
            _check_text(one, at, text, is_template, inner, body.problems)
        if not value_of(one) and (last := body.scope.steps[-1].step).bound_as in inner and isinstance(last, Ask):
            said = "what an item gives is the output of its last step, and this one gives a secret"
            body.problems.add(_CODE, said, *("steps", body.scope.steps[-1].index), hint="say what it gives: `value`")


def readers(plan: Plan) -> set[str]:
    """The steps of a plan that are given a secret, or of which a step in the body is."""
    secrets = _asked(plan.steps)
    found = {step.name for step in plan.steps if _is_given(step, secrets)}
    for step in plan.steps:
        if isinstance(step, Each):
            inner = secrets | _asked(step.steps)
            found |= {step.name for one in step.steps if _is_given(one, inner)}
    return found


def _asked(steps: Iterable[StepBase]) -> frozenset[str]:
    """The bindings that are answers to asks with `secret`."""
    return frozenset(step.bound_as for step in steps if isinstance(step, Ask) and step.secret)


def _is_given(step: Step, secrets: frozenset[str]) -> bool:
    return isinstance(step, Task) and any(whole(value) in secrets for value in step.inputs.values())


def _check_step(one: StepDraft, secrets: frozenset[str], problems: Problems) -> None:
    for at, text, is_template in texts_of(one):
        _check_text(one, at, text, is_template, secrets, problems)


def _check_text(
    one: StepDraft, at: At, text: str, is_template: bool, secrets: frozenset[str], problems: Problems
) -> None:
    step = one.step
    name = next(iter(sorted(_exposed(text, is_template, secrets))), "")
    if not name:
        return
    # `steps`, its number, `inputs`, the name: what is deeper is a part of an input.
    is_input = isinstance(step, Task) and len(at) == 4 and at[2] == "inputs"
    if is_input and whole(text) == name:
        assert isinstance(step, Task)
        if not isinstance(step, Agent) and step.agent != MODEL_AGENT:
            return
        said = f"{quoted(name)} is a secret, and whatever this step is given is shown to a model"
        hint = "let an agent of your own use it, in a `task`"
    else:
        said = f"{quoted(name)} is a secret: it can be read only as the whole of an input of a task"
        fields = ", ".join(f"{name}.{field}" for field in sorted(PLAIN))
        hint = f"give a task (a `do`) an input that is {{{name}.value}} and nothing else; anybody may read {fields}"
    problems.add(_CODE, said, *at, hint=hint)


def _exposed(text: str, is_template: bool, secrets: frozenset[str]) -> Iterator[str]:
    """The secrets that a text reads, but for what is not secret about them."""
    for expression in _expressions(text, is_template):
        for name, *rest in expression.paths:
            if name in secrets and not (rest and rest[0] in PLAIN):
                yield str(name)


def _expressions(text: str, is_template: bool) -> tuple[Expression, ...]:
    try:
        return templates.compile_template(text).expressions if is_template else (parse(text),)
    except ExpressionError:
        return ()  # which is a problem of its own
