"""Which plans a person means, and since when."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import Struct

from planmesh.cli.session import NotUnderstood, now
from planmesh.schemas.plan import Task
from planmesh.schemas.state import PlanState, PlanStatus, StepStatus

_KEYS: Final = ("status", "agent", "since", "until", "text", "space", "step")


class Where(Struct, frozen=True, kw_only=True):
    """Which plans, and which of their steps.

    Attributes:
        step: Only steps with this name.
        agent: Only steps of this agent, and plans with one.
    """

    statuses: tuple[PlanStatus, ...] = ()
    agent: str = ""
    step: str = ""
    space: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None


def read_where(said: tuple[str, ...]) -> Where:
    """Raises: NotUnderstood."""
    found: dict[str, str] = {}
    for part in (part for one in said for part in one.split(",")):
        key, equals, value = part.strip().partition("=")
        if key not in _KEYS or not equals or not value or key in found:
            raise NotUnderstood(f"--where takes KEY=VALUE, each of {', '.join(_KEYS)} once; not {part[:80]!a}")
        found[key] = value
    statuses = []
    for name in filter(None, found.pop("status", "").split("|")):
        if name not in set(PlanStatus) - {PlanStatus.ABSENT}:
            names = ", ".join(status for status in PlanStatus if status is not PlanStatus.ABSENT)
            raise NotUnderstood(f"a plan is {names}; not {name[:40]!a}. Several: status=paused|waiting")
        statuses.append(PlanStatus(name))
    conditions: dict[str, Any] = dict(found)
    for key in conditions.keys() & {"since", "until"}:
        conditions[key] = moment(found[key], now())
    return Where(statuses=tuple(statuses), **conditions)


def failed_steps(state: PlanState, where: Where) -> list[str]:
    """The failed steps that are meant. Not those whose outcome is unknown: a person looks at each; nor gates."""
    return list(_troubled(state, where, StepStatus.FAILED))


def unknown_steps(state: PlanState, where: Where) -> list[str]:
    """The steps that are meant of which nobody knows whether they were done."""
    return list(_troubled(state, where, StepStatus.OUTCOME_UNKNOWN))


def _troubled(state: PlanState, where: Where, status: StepStatus) -> Iterator[str]:
    for name in state.troubled:
        step = state.graph.steps[name]
        agent = state.steps[name].agent or (step.agent if isinstance(step, Task) else "")
        if state.steps[name].status is status and where.agent in ("", agent) and where.step in ("", name):
            yield name


_SPAN = re.compile(r"([0-9]{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(said: str, at: datetime) -> datetime:
    """``2h`` before *at*, or a date or time in ISO 8601, here where it says no zone. Raises: NotUnderstood."""
    span = _SPAN.fullmatch(said.strip())
    try:
        if span is not None:
            return at - timedelta(**{_UNITS[span[2]]: int(span[1])})
        return datetime.fromisoformat(said.strip()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise NotUnderstood(
            f"expected a time such as 30m, 2h, 3d, 2026-11-22 or 2026-11-22T09:00; not {said[:40]!a}"
        ) from None
