"""Answers for programs."""

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from planmesh.cli.forms import as_json, as_line, as_one, as_rows, as_yaml
from planmesh.cli.text import defuse

# What the codec lets through: no lone surrogates, which are not UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_is_lossless_and_harmless(value: Any) -> None:
    for text in (as_json(value), as_line(value)):
        assert json.loads(text) == value
        assert defuse(text) == text
    assert "\n" not in as_line(value)


@given(values)
def test_yaml_is_lossless_and_harmless(value: Any) -> None:
    text = as_yaml(value)

    assert yaml.safe_load(text) == value
    assert defuse(text) == text


def test_readable_text_stays_readable() -> None:
    assert as_line({"name": "Grüße"}) == '{"name":"Grüße"}'
    assert as_yaml({"name": "Grüße"}) == "name: Grüße"


def test_many_are_an_array_or_a_line_each() -> None:
    assert list(as_rows([1, 2], "jsonl")) == ["1", "2"]
    assert json.loads("".join(as_rows([1, 2], "json"))) == [1, 2]
    assert list(as_rows([], "yaml")) == ["[]"]
    assert as_one(True, "jsonl") == "true"
