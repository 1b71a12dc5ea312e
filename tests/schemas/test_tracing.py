import re

import pytest

from planmesh.schemas.subjects import Address
from planmesh.schemas.tracing import attempt_traceparent, caller, plan_span_id, span_id, trace_id

AT = Address("shop", "p1")
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def test_a_plan_joins_the_trace_of_its_caller() -> None:
    assert trace_id(AT, "digest", CALLER) == "0af7651916cd43dd8448eb211c80319c"


def test_a_plan_without_a_caller_has_a_trace_of_its_own() -> None:
    ours = trace_id(AT, "digest")

    assert re.fullmatch("[0-9a-f]{32}", ours)
    assert ours == trace_id(Address("shop", "p1"), "digest")
    assert ours not in {trace_id(AT, "other"), trace_id(Address("shop", "p2"), "digest")}


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_traceparent_names_no_caller(traceparent: str | None) -> None:
    assert caller(traceparent) is None
    assert trace_id(AT, "digest", traceparent) == trace_id(AT, "digest")


def test_every_attempt_has_a_span_of_its_own() -> None:
    spans = {plan_span_id(AT), span_id(AT, "build", 1), span_id(AT, "build", 2), span_id(AT, "test", 1)}

    assert len(spans) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", span) for span in spans)


def test_an_agent_is_told_the_span_of_its_attempt() -> None:
    told = attempt_traceparent(AT, "digest", CALLER, "build", 2)

    assert told == f"00-0af7651916cd43dd8448eb211c80319c-{span_id(AT, 'build', 2)}-01"
