"""What a revision changes: the difference between two plan documents, step by step. Pure."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from planmesh.schemas.plan import Plan, Step


class FieldChange(Struct, frozen=True, kw_only=True):
    """One field of a step, or of the plan. A field that was or is not there is null."""

    field: str
    before: Any = None
    after: Any = None


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one step; `step` is empty for what belongs to the plan as a whole."""

    step: str
    kind: Literal["added", "removed", "changed"]
    fields: tuple[FieldChange, ...] = ()


def abridged(changes: tuple[Change, ...], most_bytes: int) -> tuple[Change, ...]:
    """*changes*, without their fields if those take more than *most_bytes*: the plans themselves say what they are."""
    if len(msgspec.json.encode(changes)) <= most_bytes:
        return changes
    return tuple(Change(step=change.step, kind=change.kind) for change in changes)


def difference(before: Plan, after: Plan) -> tuple[Change, ...]:
    """What has to be done to *before* to make it *after*: the plan first, then its steps in the order of *after*,
    then what was removed. Steps are matched by name."""
    changes: list[Change] = []
    whole = _fields(_without_steps(before), _without_steps(after))
    if whole:
        changes.append(Change(step="", kind="changed", fields=whole))
    old = {step.name: step for step in before.steps}
    new = {step.name: step for step in after.steps}
    for name, step in new.items():
        if name not in old:
            changes.append(Change(step=name, kind="added", fields=_fields({}, _named(step))))
        elif old[name] != step:
            changes.append(Change(step=name, kind="changed", fields=_fields(_named(old[name]), _named(step))))
    changes += (
        Change(step=name, kind="removed", fields=_fields(_named(step), {}))
        for name, step in old.items()
        if name not in new
    )
    return tuple(changes)


def _named(step: Step) -> dict[str, Any]:
    named: dict[str, Any] = msgspec.to_builtins(step)
    named.pop("name")
    return named


def _without_steps(plan: Plan) -> dict[str, Any]:
    whole: dict[str, Any] = msgspec.to_builtins(plan)
    whole.pop("steps")
    return whole


def _fields(before: dict[str, Any], after: dict[str, Any]) -> tuple[FieldChange, ...]:
    return tuple(
        FieldChange(field=field, before=before.get(field), after=after.get(field))
        for field in dict.fromkeys([*before, *after])
        if before.get(field) != after.get(field)
    )
