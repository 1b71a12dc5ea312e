"""What strangers wrote, as people read it."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planmesh.gatekeeper.web.words import Shown, listed, value_of

texts = st.text(max_size=30)
flat = st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none(), min_size=1, max_size=5)


@given(flat)
@example({"": "\n"})
def test_of_an_object_each_field_begins_a_line_and_nothing_else_does(fields: dict[str, object]) -> None:
    lines = value_of(fields).text.split("\n")

    begun = [one for one in lines if not one.startswith("  ")]

    assert len(begun) == len(fields)
    assert all(": " in one or one.endswith(":") for one in begun)


def test_a_text_of_several_lines_passes_for_no_other_field() -> None:
    assert (
        value_of({"note": "all is well\ntotal: 1", "total": 48}).text == "note: \n  all is well\n  total: 1\ntotal: 48"
    )


@pytest.mark.parametrize("value", [{"a": [1]}, {"a": {"b": 1}}, [1, 2], {}, 3, None, True])
def test_everything_else_is_shown_as_json(value: object) -> None:
    assert json.loads(value_of(value).text) == value


@given(flat)
def test_what_is_approved_is_shown_exactly(fields: dict[str, object]) -> None:
    assert value_of(fields, exactly=True).text.startswith("{")


@pytest.mark.parametrize(
    ("text", "is_table"),
    [
        ("Position    ordered\nBeams        12.0 t", True),
        ("a\tb\nc\td", True),
        ("One line  with a gap\nand one without", False),
        ("  indented\n  lines", False),
        ("x", False),
    ],
)
def test_what_is_set_in_columns_is_not_broken(text: str, is_table: bool) -> None:
    assert Shown(text=text).is_table is is_table


def test_names_are_listed_as_people_say_them() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
