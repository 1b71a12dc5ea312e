"""What a command would do to a plan: two states of it, compared step by step. Pure.

The frontier is where a plan goes on from. `frontier` takes the state that there is and the one that deciding a command
has given, and says what becomes of each step.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from planmesh.schemas.plan import Ask, Gate, Step, Task
from planmesh.schemas.revision import Change, difference
from planmesh.schemas.secrets import Disclosure, disclosed
from planmesh.schemas.state import SATISFIED, TROUBLED, PlanState, PlanStatus, StepState, StepStatus

Fate: TypeAlias = Literal[
    "kept", "running", "again", "asks", "open", "new", "changed", "next", "paused", "stands", "skipped", "dropped"
]
"""What becomes of a step.

=========  ==================================================================================
`kept`     it has ended, and stays as it is: its output is there, and it is not run again
`running`  an attempt is under way, or due by itself: it goes on
`again`    it was begun before, and begins anew
`asks`     a gate or an ask that has asked before, and asks again
`open`     a gate or an ask that asks, and goes on asking what it asks
`new`      the plan did not have it
`changed`  it has not begun, and will do something else than before
`next`     it has not begun, and is as it was: its turn comes, or has come
`paused`   somebody has paused it
`stands`   it failed, was rejected, or its outcome is unknown; nothing becomes of it by itself
`skipped`  the plan goes on without it; its output is null
`dropped`  it was cancelled, or is no longer in the plan
=========  ==================================================================================
"""


class StepFate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What becomes of one step.

    Attributes:
        was: Its status before; None of a new one.
        agent: Of a task, who would run it.
        attempt: Its number, if another attempt (a gate's round) is to come.
        change: What becomes of its definition, if that changes.
    """

    step: str
    fate: Fate
    kind: str
    was: StepStatus | None = None
    agent: str = ""
    attempt: int = 0
    change: Change | None = None


class Frontier(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would become of a plan.

    Attributes:
        status: The plan's, right after the command.
        base: The revision that is in force.
        revision: The one that would be.
        whole: What becomes of the plan's own fields, if they change.
        steps: In the order of the plan; then what it would no longer have.
        discloses: Secrets that have been entered, and to whom they would be given as well.
    """

    status: PlanStatus
    base: int
    revision: int
    whole: Change | None = None
    steps: tuple[StepFate, ...] = ()
    discloses: tuple[Disclosure, ...] = ()

    def of(self, *fates: Fate) -> tuple[str, ...]:
        """The steps with one of *fates*."""
        return tuple(step.step for step in self.steps if step.fate in fates)


_BEGINS: frozenset[Fate] = frozenset({"again", "asks", "new", "changed", "next", "paused"})


def frontier(before: PlanState, after: PlanState) -> Frontier:
    """What has become of every step between the two.

    Args:
        before: A plan that exists, and was not refused.
        after: What deciding a command has made of it.
    """
    changes = {change.step: change for change in difference(before.plan, after.plan)}
    fates = []
    for name, step in after.graph.steps.items():
        was, now = before.steps.get(name), after.steps[name]
        fate = "new" if was is None else _fate(step, was, now, changed=name in changes)
        fates.append(_of(step, fate, was, now, changes.get(name)))
    for name, step in before.graph.steps.items():
        if name not in after.graph.steps:
            fates.append(_of(step, "dropped", before.steps[name], before.steps[name], changes.get(name)))
    return Frontier(
        status=after.status,
        base=before.revision,
        revision=after.revision,
        whole=changes.get(""),
        steps=tuple(fates),
        discloses=tuple(disclosed(before, after.plan)),
    )


def _of(step: Step, fate: Fate, was: StepState | None, now: StepState, change: Change | None) -> StepFate:
    begun = now.status is StepStatus.DISPATCHED or now.status is StepStatus.WAITING
    return StepFate(
        step=step.name,
        fate=fate,
        kind=str(step.__struct_config__.tag),
        was=None if was is None else was.status,
        agent=step.agent if isinstance(step, Task) else "",
        attempt=(now.attempt if begun else now.attempt + 1) if fate in _BEGINS else 0,
        change=change,
    )


def _fate(step: Step, was: StepState, now: StepState, *, changed: bool) -> Fate:
    status = now.status
    finished = status in SATISFIED or status is StepStatus.CANCELLED
    if finished and status is was.status and now.attempt == was.attempt:
        return "kept"
    if status is StepStatus.CANCELLED:
        return "dropped"
    if status is StepStatus.SKIPPED:
        return "skipped"
    if status in TROUBLED and status is was.status and now.attempt == was.attempt:
        return "stands"
    asked = isinstance(step, Gate | Ask) and was.opened is not None
    if asked:
        return "open" if status is StepStatus.WAITING and now.attempt == was.attempt else "asks"
    if status is StepStatus.PAUSED:
        return "paused"
    if status in (StepStatus.DISPATCHED, StepStatus.WAITING) and status is was.status and now.attempt == was.attempt:
        return "running"
    if was.attempt:
        return "again"
    return "changed" if changed else "next"
