"""Forms of answers that strangers wrote: what they may say, and what is held against them."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from planmesh.json_schema import BadSchema, Form


def with_properties(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_what_a_value_lacks_is_told_with_its_place() -> None:
    form = Form(with_properties(score={"type": "integer"}, tags={"type": "array", "items": {"type": "string"}}))

    assert form.problems({"score": 1, "tags": ["a"], "more": None}) == []
    assert form.problems({"score": "high", "tags": ["a", 2]}) == [
        "$.score: 'high' is not of type 'integer'",
        "$.tags[1]: 2 is not of type 'string'",
    ]


def test_no_more_is_told_than_somebody_would_read() -> None:
    form = Form(with_properties(all={"type": "array", "items": {"type": "string", "maxLength": 3}}))

    told = form.problems({"all": ["x" * 1_000] * 50})

    assert len(told) == 5
    assert all(len(line) < 250 for line in told)


def test_what_it_refers_to_is_written_out() -> None:
    form = Form(
        with_properties(by={"$ref": "#/$defs/who", "description": "Who wrote it"})
        | {"$defs": {"who": {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]}, "name": {"type": "string"}}}
    )

    assert form.schema == with_properties(
        by={"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Who wrote it"}
    )


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, 'expected the JSON Schema of an object, which has "type": "object"'),
        ({"type": "string"}, "expected the JSON Schema of an object"),
        (with_properties(a={"pattern": "(a+)+$"}), "/properties/a: 'pattern' is not a word that a schema may have"),
        (with_properties(a={"$ref": "https://example.com/s"}), r"/properties/a/\$ref: expected a name in \$defs"),
        (with_properties(a={"$ref": "#/$defs/gone"}), "expected a name in"),
        (with_properties(a={"$ref": "#"}), "expected a name in"),
        (with_properties(a={"$ref": 7}), "found 7"),
        (with_properties(a=[1]), "/properties/a: expected a schema, which is an object"),
        (with_properties(a={"anyOf": {}}), "/properties/a/anyOf: expected a list of schemas"),
        ({"type": "object", "properties": []}, "/properties: expected an object of schemas"),
        (with_properties(a={"type": "int"}), r"\$\.properties\.a\.type: 'int' is not valid"),
        (with_properties(a={"description": "x" * 70_000}), "a schema has at most 65,536 bytes; this one has 70,"),
        (
            with_properties(a={"$ref": "#/$defs/t"}) | {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}},
            r"/\$defs/t/items/\$ref: 't' contains itself",
        ),
    ],
)
def test_a_schema_that_says_more_than_it_may_is_refused_with_the_place(schema: Any, said: str) -> None:
    with pytest.raises(BadSchema, match=said):
        Form(schema).check()


def test_a_schema_that_doubles_itself_is_refused_at_once() -> None:
    doubles = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    began = time.process_time()

    with pytest.raises(BadSchema, match="at most 2,000 parts"):
        Form(with_properties(a={"$ref": "#/$defs/d0"}) | {"$defs": {**doubles, "d60": {}}})

    assert time.process_time() - began < 1


_LEAVES = st.sampled_from(
    [
        True,
        False,
        {},
        {"type": "string", "maxLength": 2},
        {"type": ["integer", "null"], "minimum": 0},
        {"enum": ["a", 1, None]},
        {"const": {"a": 1}},
        {"$ref": "#/$defs/pair"},
    ]
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"items": inner, "minItems": st.integers(0, 2)}),
        st.fixed_dictionaries(
            {
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
                "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
                "additionalProperties": inner,
            }
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2), "prefixItems": st.just([{}])}),
    ),
    max_leaves=10,
)
_VALUES = st.recursive(
    st.none() | st.integers(-2, 2) | st.sampled_from(["a", "abc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(part=_SCHEMAS, value=_VALUES)
def test_a_value_has_the_form_exactly_where_the_schema_says_so(part: Any, value: Any) -> None:
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}
    schema = with_properties(x=part) | {"$defs": {"pair": pair}}
    form = Form(schema)
    form.check()

    assert (form.problems({"x": value}) == []) == Draft202012Validator(schema).is_valid({"x": value})
