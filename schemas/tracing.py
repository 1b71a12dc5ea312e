"""Trace and span ids, derived: whoever knows a plan knows its ids, so no two services have to agree on them, and
a restart or a rebuild gives the same trace.

A plan is one trace. Its root span is the plan; each attempt of a step, and each wait at a gate, is a span below it.
Source of the formats: W3C Trace Context, https://www.w3.org/TR/trace-context/.
"""

import hashlib
import re
from typing import Final, NamedTuple

from planmesh.schemas.subjects import Address

SAMPLED: Final = "01"
"""Every plan is recorded, whatever the caller has sampled: a plan's trace is for the operator of the mesh."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


class Caller(NamedTuple):
    """The span of whoever published the goal: the parent of the plan's root span.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
    """

    trace_id: str
    span_id: str


def caller(traceparent: str | None) -> Caller | None:
    """What a `traceparent` says, if it is a valid one."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return None if match is None else Caller(match[1], match[2])


def trace_id(at: Address, goal_digest: str, traceparent: str | None = None) -> str:
    """The trace of a plan: the caller's, or else one derived from the plan and its goal (32 hex digits)."""
    joined = caller(traceparent)
    return joined.trace_id if joined is not None else _derived(f"trace {at} {goal_digest}", 32)


def plan_span_id(at: Address) -> str:
    """The root span of a plan (16 hex digits)."""
    return _derived(f"plan {at}", 16)


def refusal_span_id(at: Address, number: int) -> str:
    """The span of a goal that was refused after *number* commits (16 hex digits): published again, it may be a plan."""
    return _derived(f"refusal {at} {number}", 16)


def span_id(at: Address, step: str, attempt: int) -> str:
    """The span of one attempt of a step, or of one round of a gate (16 hex digits)."""
    return _derived(f"step {at} {step} {attempt}", 16)


def call_span_id(at: Address, step: str, attempt: int, number: int) -> str:
    """The span of one call that an attempt has made, counted from 1 (16 hex digits)."""
    return _derived(f"call {at} {step} {attempt} {number}", 16)


def draft_span_id(at: Address, of: str, number: int) -> str:
    """The span of one draft of a model, counted from 1, of the plan or of the revision *of* it (16 hex digits)."""
    return _derived(f"draft {at} {of} {number}", 16)


def attempt_traceparent(at: Address, goal_digest: str, traceparent: str | None, step: str, attempt: int) -> str:
    """The `traceparent` of one attempt, for the agent's own calls to join.

    Args:
        at: The plan.
        goal_digest: `PlanState.goal_digest`.
        traceparent: The caller's, `PlanCreated.traceparent`.
        step: The step.
        attempt: From 1.
    """
    return f"00-{trace_id(at, goal_digest, traceparent)}-{span_id(at, step, attempt)}-{SAMPLED}"


def _derived(what: str, digits: int) -> str:
    found = hashlib.sha256(what.encode()).hexdigest()[:digits]
    # All zeros is the one id that means none.
    return found if found.strip("0") else found[:-1] + "1"
