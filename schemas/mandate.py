"""What holds of a plan for as long as it exists, whoever revises it: what the step that runs it hands down. Pure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Each, Gate, Permissions, Plan, Run, Task

if TYPE_CHECKING:
    from planmesh.schemas.work import Parent

EXCEEDS: Final = "exceeds_permissions"
MAX_PLANS: Final = 1_000
"""How many plans may run for the steps of a goal's plan, and for those of these plans, in all, unless the settings of
the planner say otherwise."""
_NAMED: Final = 5


class Mandate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a plan may do, and who has had a hand in it. That of a goal's plan bounds nothing."""

    permissions: Permissions | None = None
    """The most that its steps may be permitted; None: whatever their agents declare."""
    safe: bool = False
    """Whether each of its steps that could do harm has to stand behind a gate of those whom the mesh lets decide."""
    plans: int = MAX_PLANS
    """How many plans may run for its steps, and for those of these plans, in all."""
    authors: dict[str, str] = {}
    """Who was the last to revise a step that it comes of, with that step; four eyes are two others'."""
    gates: tuple[Gate, ...] = ()
    """The gates that have let it go as it is: they ask again about whatever a revision makes of it."""

    def handed_down(self, permissions: Permissions | None, *, safe: bool) -> "Mandate":
        """The mandate of a plan that runs for a step which permits *permissions* at most: within this one."""
        ceilings = [ceiling for ceiling in (self.permissions, permissions) if ceiling is not None]
        most = None if not ceilings else _both(ceilings[0], ceilings[-1])
        return msgspec.structs.replace(self, permissions=most, safe=self.safe or safe)


def exceeding(plan: Plan, mandate: Mandate, parent: "Parent | None") -> Iterator[Problem]:
    """A problem for whatever the plan would be permitted beyond its mandate, which *parent* has handed down."""
    ceiling = mandate.permissions
    if ceiling is None:
        return
    above = "the step that runs this plan" if parent is None else f"step {parent.step} of plan {parent.plan}"
    for pointer, step in _permitted_steps(plan):
        if isinstance(step, Run) and step.permissions is None:
            # What it runs may then use whatever there is.
            yield Problem(
                code=EXCEEDS,
                message=f"step {step.name} runs a plan, and does not say what that may be permitted at most; {above}, "
                "for which this plan runs, does",
                pointer=pointer,
                hint="give it `permissions`",
            )
            continue
        has = step.permissions or Permissions()
        for field in Permissions.__struct_fields__:
            most = getattr(ceiling, field)
            more = sorted(set(getattr(has, field)) - set(most))
            if more:
                yield Problem(
                    code=EXCEEDS,
                    message=f"step {step.name} is permitted {field} {_listed(more)}; {above}, for which this plan "
                    f"runs, permits {f'{field} {_listed(most)}' if most else f'no {field}'}",
                    pointer=f"{pointer}/permissions/{field}",
                    hint="permit less here; or let a `run` step that permits it run the plan",
                )


def _permitted_steps(plan: Plan) -> Iterator[tuple[str, Task | Run]]:
    """Every step that is permitted something, those of an `each` as well, with its JSON Pointer."""
    for index, step in enumerate(plan.steps):
        if isinstance(step, Task | Run):
            yield f"/steps/{index}", step
        elif isinstance(step, Each):
            for inner, body in enumerate(step.steps):
                if isinstance(body, Task):
                    yield f"/steps/{index}/steps/{inner}", body


def _both(one: Permissions, other: Permissions) -> Permissions:
    return Permissions(
        **{
            field: tuple(value for value in getattr(other, field) if value in getattr(one, field))
            for field in Permissions.__struct_fields__
        }
    )


def _listed(values: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(values[:_NAMED]) + (", …" if len(values) > _NAMED else "")
