"""Secrets that people enter: what one is, and which of them a step is given.

The answer to an `ask` with `secret` is kept in the stream SECRETS and nowhere else. Everything that can be read (the
log, the work, what an expression gives) has a handle in its place, which opens nothing. What a step is given is read
from the document of its plan, never from a value that looks like a handle.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from planmesh.schemas.events import Recipient
from planmesh.schemas.plan import Ask, Plan, Step, Task
from planmesh.schemas.state import Names, PlanState
from planmesh.schemas.templates import only_path

MAX_SECRET_CHARACTERS: Final = 16_384
MAX_SECRET_BYTES: Final = 4 * MAX_SECRET_CHARACTERS

PLAIN: Final = frozenset({"provided_by", "provided_at", "attempt"})
"""What is not secret of the answer: any expression may read it."""


def misfit(text: object) -> str:
    """Why *text* cannot be the answer where a secret is asked for; empty if it can. Repeats nothing of it."""
    if not isinstance(text, str) or not text.strip():
        return "expected a text that is not empty"
    if len(text) > MAX_SECRET_CHARACTERS:
        return f"expected a text of at most {MAX_SECRET_CHARACTERS:,} characters; found one of {len(text):,}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "expected a text that is valid Unicode"
    return ""


def shown(handle: str) -> dict[str, str]:
    """What stands for the value in the answer."""
    return {"secret": handle}


class Kept(NamedTuple):
    """Where a secret is: *handle* is ``<verb>.<actor>.<id>`` of the answer to the ask *step*."""

    step: str
    handle: str


def whole(value: Any) -> str:
    """The binding of which *value*, an input of a task, is the `value` and nothing else; empty if it is not."""
    path = only_path(value) if isinstance(value, str) else None
    return str(path[0]) if path is not None and len(path) == 2 and path[1] == "value" else ""


def recipients(state: PlanState, name: str) -> tuple[Recipient, ...]:
    """The steps that the plan gives the answer to an ask to, if that takes a secret. Those in the body of an `each` are
    named as there, unless the ask is of an item itself."""
    ask, item = state.graph.steps[name], state.graph.items.get(name)
    if not isinstance(ask, Ask) or not ask.secret:
        return ()
    if item is None:
        return recipients_in(state.plan, ask)
    binding = next(bound for bound, steps in item.bindings.items() if name in steps)
    return _given((state.graph.steps[step] for step in item.steps), binding)


def recipients_in(plan: Plan, ask: Ask) -> tuple[Recipient, ...]:
    """The steps that *plan* gives the answer to *ask* to, which is no step of an `each`."""
    return _given(plan.innermost(), ask.bound_as)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """A secret that was entered at *ask*, and a step that would be given it, and was not meant to be then."""

    ask: str
    step: str
    agent: str

    def __str__(self) -> str:
        return f"step {self.step} (by agent {self.agent}) is given the secret that was entered at {self.ask}"


def disclosed(state: PlanState, revised: Plan) -> Iterator[Disclosure]:
    """The secrets that have been entered, and whom *revised* gives them to and the plan as it is does not."""
    for name, step in state.steps.items():
        ask = state.graph.steps[name]
        # What is asked in an item is given within the item, which cannot change any more.
        if not isinstance(ask, Ask) or not step.secret or name in state.graph.items:
            continue
        told = recipients_in(state.plan, ask)
        for other in recipients_in(revised, ask):
            if other not in told:
                yield Disclosure(ask=name, step=other.step, agent=other.agent)


def _given(steps: Iterable[Step], binding: str) -> tuple[Recipient, ...]:
    return tuple(
        Recipient(step=step.name, agent=step.agent)
        for step in steps
        if isinstance(step, Task) and any(whole(value) == binding for value in step.inputs.values())
    )


def secret_inputs(state: PlanState, name: str) -> Mapping[str, Kept]:
    """The inputs of a step that are secrets, by their names: those that its plan gives the whole answer to an ask with
    `secret`, which has been answered."""
    task = state.graph.steps.get(name)
    if not state.has_secrets or not isinstance(task, Task):
        return {}
    found: dict[str, Kept] = {}
    names = Names(state, step=name)
    for key, value in task.inputs.items():
        step = names.giver(binding) if (binding := whole(value)) else None
        if step is not None and isinstance(state.graph.steps[step], Ask) and state.steps[step].secret:
            found[key] = Kept(step, state.steps[step].secret)
    return found
