"""Text to a value: YAML and JSON, and whatever else someone sends."""

import random
import string
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.document import Limits, Unreadable, read_document
from planmesh.planner.language.findings import RULES as SCRIPT_RULES
from planmesh.planner.problems import RULES, Problems
from planmesh.schemas.goals import Problem

MIB = 1024 * 1024


def read(text: object, limits: Limits | None = None) -> Any:
    """The value, or the problems."""
    problems = Problems()
    try:
        return read_document(text, problems, limits or Limits())
    except Unreadable:
        return problems.listed()


def problem(text: object, limits: Limits | None = None) -> Problem:
    (only,) = read(text, limits)
    assert isinstance(only, Problem)
    return only


def test_yaml_and_json_give_the_same() -> None:
    yaml = "name: Demo\nsteps:\n- {name: a, retry: {attempts: 3}}  # three times\n"
    json = '{"name": "Demo", "steps": [{"name": "a", "retry": {"attempts": 3}}]}'

    assert read(yaml) == read(json) == {"name": "Demo", "steps": [{"name": "a", "retry": {"attempts": 3}}]}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2026-11-22", "2026-11-22"),
        ("2026-11-22T09:00:00Z", "2026-11-22T09:00:00Z"),
        ("12:30", "12:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("1.2.3", "1.2.3"),
        ("-", ["-"]),
        ("true", True),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("<<", "<<"),
    ],
)
def test_yaml_scalars_are_those_of_json_and_everything_else_is_text(written: str, value: object) -> None:
    if written == "-":
        written = "\n- '-'"
    assert read(f"a: {written}") == {"a": value}


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("1: a\ntrue: b\nnull: c\n2026-11-22: d") == {"1": "a", "true": "b", "null": "c", "2026-11-22": "d"}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", '{"a": 1, "b": 2, "a": 3}'])
def test_a_key_that_comes_twice_is_refused(text: str) -> None:
    found = problem(text)

    assert found.code == "duplicate_key"
    assert "an object has the key 'a' twice" in found.message


def test_a_duplicate_key_in_yaml_is_shown_with_its_line() -> None:
    assert problem("name: x\nsteps: []\nname: y").message == (
        "an object has the key 'name' twice (line 3, column 1: 'name: y')"
    )


def test_every_duplicate_key_in_json_has_its_pointer() -> None:
    found = read('{"steps": [{"a/b": 1, "a/b": 2, "c": {"d": 1, "d": 1, "d": 1}}]}')

    assert [one.pointer for one in found] == ["/steps/0/a~1b", "/steps/0/c/d"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("a: &x 1\nb: *x", "alias", "anchors and aliases (& and *) are not read (line 1, column 4: 'a: &x 1')"),
        ("a: *x", "alias", "(line 1, column 4: 'a: *x')"),
        ("a: !!python/object:os.system x", "alias", "the tag 'tag:yaml.org,2002:python/object:os.system' is not read"),
        ("a: !!set {x}", "alias", "is not read"),
        ("a: 1\n---\nb: 2", "malformed", "expected one document, found another after `---` (line 2, column 1: '---')"),
        ("? [a]\n: 1", "malformed", "a key is a text, not a list or an object"),
        ("a: .inf", "malformed", "'.inf' is a number that JSON has no form for (line 1, column 4: 'a: .inf')"),
        ("a: 1e999", "malformed", "'1e999' is a number that JSON has no form for"),
        (
            "name: x\nsteps: [1, 2\nb: }",
            "malformed",
            "expected YAML (or JSON); while parsing a flow sequence, did not find expected ',' or ']' "
            "(line 3, column 2: 'b: }')",
        ),
        ("a\tb: \x00", "malformed", "expected YAML (or JSON); 'unacceptable character #x0000"),
        (
            '{"a":\n [1,,2]}',
            "malformed",
            "expected JSON, because the document begins with '{'; invalid character (line 2, column 5: '[1,,2]}')",
        ),
        ('{"a": 1', "malformed", "the text ends too early (line 1, column 8: '{\"a\": 1')"),
        ('{"a": 1e999}', "malformed", "expected what JSON can hold"),
        ('{"a": NaN}', "malformed", "expected JSON"),
        (b"a: \xff", "malformed", "expected text in UTF-8: invalid start byte at 3"),
        ("a: \ud800", "malformed", "expected text in UTF-8: surrogates not allowed at 3"),
        ("", "malformed", "expected a plan: an object with `name` and `steps`; found nothing"),
        ("- a", "malformed", "found a list"),
        ("hello", "malformed", "found only the text 'hello'"),
        (None, "malformed", "found nothing"),
        ({"a": object()}, "malformed", "expected what JSON can hold"),
        ({"a": "\ud800"}, "malformed", "expected what JSON can hold"),
        ({"a": 10**5000}, "malformed", "expected what JSON can hold"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text: object, code: str, said: str) -> None:
    found = problem(text)

    assert found.code == code
    assert said in found.message


def test_nesting_and_size_are_limited() -> None:
    fits = "a: " + "[" * 30 + "]" * 30
    assert isinstance(read(fits), dict)
    for deep in (fits.replace("[]", "[[]]"), '{"a": ' + "[" * 31 + "]" * 31 + "}", {"a": _nested(5_000)}):
        assert problem(deep).code == "too_deep"
        assert "a plan document is nested at most 31 deep; this one is deeper" in problem(deep).message
    found = problem("a: " + "x" * 100, Limits(document_bytes=50))
    assert found.code == "too_large"
    assert found.message == "a plan document has at most 50 bytes; this one has 103"


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


NOISE = random.Random(20261122)


@pytest.mark.parametrize(
    "garbage",
    [
        *(
            unit * (MIB // len(unit))
            for unit in ("[", "{", "- ", "? ", "a: ", "&a ", "*a ", "! ", '"', "'", "|", ">\n")
        ),
        *(unit * (MIB // len(unit)) for unit in ("%", "\x01", "1", ":", "\n", "#", "- a\n", "a: '\\\n", "[[],", "a,")),
        *(unit * (MIB // len(unit)) for unit in ("é", "{a: ", '{"a":', '"\\"', "a: b, ", "\t", "--- \n", "- - ")),
        '{"a": "' + '\\"' * (MIB // 2) + '"}',
        '{"a": ' + "1" * MIB + "}",
        "{" + '"a": 1,' * (MIB // 7) + '"a": 1}',
        "".join(NOISE.choices(string.printable, k=MIB)),
        "".join(NOISE.choices(" \n:-[]{}&*!|>'\"%@`#,?ab", k=MIB)),
        NOISE.randbytes(MIB),
    ],
    ids=lambda garbage: ascii(garbage[:4]),
)
def test_a_mebibyte_of_garbage_is_answered_at_once(garbage: str | bytes) -> None:
    began = time.process_time()

    found = compile_plan(garbage, None)

    assert isinstance(found, list)
    assert time.process_time() - began < 2


@given(st.text() | st.binary() | st.text(alphabet=" \n:-[]{}&*!|>'\"%@`#,?ab1", max_size=60))
def test_no_text_raises(text: str | bytes) -> None:
    found = compile_plan(text, None)

    # What does not look like a document is read as a script, whose rules are its own.
    assert isinstance(found, Compiled) or all(one.code in RULES | SCRIPT_RULES for one in found)


# YAML has no form for control characters but escapes, which JSON does not ask for.
TEXT = st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs")))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_json_can_hold_yaml_can_say(value: object) -> None:
    text = msgspec.json.encode({"a": value})

    assert read(text) == read(b"# in YAML\n" + text) == msgspec.json.decode(text)
