"""Answers to asks: what fits, what is said of what does not, and what somebody means who types."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.schemas.answers import AnswerType, expected, misfit, typed
from planmesh.schemas.codec import encode
from planmesh.schemas.payload import canonical

TYPES = st.sampled_from(get_args(AnswerType))
OPTIONS = st.lists(st.text(max_size=8), max_size=4).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(JSON, TYPES, OPTIONS)
def test_whatever_is_given_it_fits_or_there_is_a_short_reason(value: Any, answer: AnswerType, options: Any) -> None:
    wrong = misfit(value, answer, options if answer == "text" else ())

    if wrong:
        assert wrong.startswith("expected ")
        assert len(wrong) < 500
    else:
        assert type(value) in {"text": {str}, "number": {int, float}, "boolean": {bool}}[answer]
        assert encode(value)  # it can be stored
        assert canonical(value)


@given(st.text(max_size=50), TYPES)
def test_whatever_is_typed_means_itself_or_something_that_fits(text: str, answer: AnswerType) -> None:
    meant = typed(text, answer)

    assert meant == text or misfit(meant, answer) == "" or abs(meant) > 2**63


@given(st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_is_typed_is_that_number(number: float) -> None:
    assert typed(f" {number} ", "number") == number


@pytest.mark.parametrize(
    ("text", "answer", "meant"),
    [
        ("yes", "boolean", True),
        (" No ", "boolean", False),
        ("TRUE", "boolean", True),
        ("1", "boolean", "1"),
        ("-3", "number", -3),
        ("2.50", "number", 2.5),
        ("1e3", "number", 1000.0),
        ("1,5", "number", "1,5"),
        ("nan", "number", "nan"),
        ("inf", "number", "inf"),
        ("1e999", "number", "1e999"),
        ("", "number", ""),
        ("9" * 5_000, "number", "9" * 5_000),
        (" as it is ", "text", " as it is "),
    ],
)
def test_what_somebody_means_who_types(text: str, answer: AnswerType, meant: Any) -> None:
    found = typed(text, answer)

    assert (found, type(found)) == (meant, type(meant))


def test_many_or_long_options_are_said_in_short() -> None:
    said = expected("text", ["x" * 200, *(f"option {number}" for number in range(99))])

    assert said.startswith(f"one of {'x' * 60}…, option 0")
    assert said.endswith("(80 more)")
