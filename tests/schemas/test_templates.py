import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planmesh.schemas.expressions import (
    MAX_EXPRESSION_CHARACTERS,
    ExpressionError,
    NeedsBlob,
    Unloaded,
    evaluate,
    parse,
)
from planmesh.schemas.templates import (
    MAX_PROBLEMS,
    MAX_RENDERED_CHARACTERS,
    MAX_TEMPLATE_DEPTH,
    compile_template,
    embed,
    escape,
    problems,
)
from planmesh.schemas.values import text_of

BIG = Unloaded("ab" * 32, 99_999)
NAMES: dict[str, object] = {
    "topic": "bees",
    "report": {"text": "They dance.", "count": 3, "rows": [{"a": 1}, {"a": None}], "none": None, "é": "è"},
    "big": BIG,
    "mixed": [1, BIG, {"inner": BIG}],
}


def rendered(document: object, names: dict[str, object] = NAMES) -> object:
    return compile_template(document).render(names)


def refusal(document: object, names: dict[str, object] = NAMES) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        compile_template(document).render(names)
    return caught.value


# --- rendering --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{topic}", "bees"),
        ("{ topic\n}", "bees"),
        ("{report.rows}", [{"a": 1}, {"a": None}]),
        ("{report.none}", None),
        ("{report.count > 2}", True),
        (" {report.count}", " 3"),
        ("About {topic}: {report.text}", "About bees: They dance."),
        ("{topic}{topic}", "beesbees"),
        ("{report.rows}, {report.none}, {1 < 2}, {7 / 2}", '[{"a":1},{"a":null}], null, true, 3.5'),
        ('{["é"]}!', '["é"]!'),
        ("{{topic}}", "{topic}"),
        ("{{{topic}}}", "{bees}"),
        ("}}{{", "}{"),
        ('{{"a": {report.count}}}', '{"a": 3}'),
        ("{ {a: topic} }", {"a": "bees"}),
        ("{ {a: {b: 1}}}", {"a": {"b": 1}}),
        ('{topic + "}"}', "bees}"),
        ('{topic + "\\"}{"}', 'bees"}{'),
        ('{missing ?? "none"}', "none"),
        ('{join(map(report.rows, a), ", ")}', "1, null"),
    ],
)
def test_a_string_is_rendered_as_its_reader_expects(text: str, expected: object) -> None:
    assert rendered(text) == expected


def test_a_document_is_rendered_wherever_there_is_a_string() -> None:
    document = {
        "task": "Research {topic}",
        "{topic}": ["{report.count}", "plain", {"deep": ["{{}}", 1, None, 2.5, False]}],
        "last": {},
    }

    assert rendered(document) == {
        "task": "Research bees",
        "{topic}": [3, "plain", {"deep": ["{}", 1, None, 2.5, False]}],
        "last": {},
    }
    assert list(rendered(document)) == ["task", "{topic}", "last"]  # type: ignore[call-overload]
    assert document["task"] == "Research {topic}"


def test_a_tuple_renders_as_a_list() -> None:
    assert rendered({"a": ("{topic}", 1)}) == {"a": ["bees", 1]}


def test_a_constant_document_is_its_own_rendering() -> None:
    document = {"a": [1, {"b": "text"}]}
    template = compile_template(document)

    assert template.render({}) is document
    assert template.names == frozenset()


def test_a_value_is_never_taken_for_a_template() -> None:
    assert rendered(["{x}", "<{x}>"], {"x": "{topic}"}) == ["{topic}", "<{topic}>"]


def test_a_template_tells_what_it_reads() -> None:
    template = compile_template({"a": "{topic} {report.text ?? topic}", "b": ["{other ?? 1}"]})

    assert template.names == {"topic", "report", "other"}
    assert template.required == {"topic"}
    assert [expression.text for expression in template.expressions] == ["topic", "report.text ?? topic", "other ?? 1"]


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from('{}a" \\é\n') | st.characters(), max_size=40))
def test_an_escaped_text_renders_to_itself(text: str) -> None:
    assert rendered(escape(text), {}) == text
    assert rendered([f"<{escape(text)}{{1}}{escape(text)}"], {}) == [f"<{text}1{text}"]


@pytest.mark.parametrize("text", ["topic", "{a: topic}", '{a: "}"}', '"{" + topic', " [ {a: {}} ] ", "{}"])
def test_an_embedded_expression_renders_to_its_value(text: str) -> None:
    expression = parse(text)

    assert rendered(embed(expression)) == evaluate(expression, NAMES)


def test_the_longest_expression_can_be_embedded() -> None:
    text = '{a: "' + "x" * (MAX_EXPRESSION_CHARACTERS - 7) + '"}'
    assert len(text) == MAX_EXPRESSION_CHARACTERS

    assert rendered(embed(parse(text))) == {"a": "x" * (MAX_EXPRESSION_CHARACTERS - 7)}


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["{", "}", "{{", "}}", '"', "\\", "topic", "report.x", "big", "+", "1", " ", "é", ":"]))
)
@example(["{", '"', "\\"])
def test_whatever_the_string_there_is_a_rendering_or_problems(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = problems({"key": text})

    assert all(error.pointer == "/key" and error.text == text for error in found)
    assert [error.position for error in found] == sorted(error.position for error in found)
    if found:
        with pytest.raises(ExpressionError) as caught:
            compile_template({"key": text})
        assert str(caught.value) == str(found[0])
        return
    template = compile_template({"key": text})
    for render in (template.render, template.render_references):
        try:
            text_of(render(NAMES))
        except ExpressionError as error:
            place, position = error.pointer, error.position
        except NeedsBlob:
            assert render == template.render
            continue
        else:
            continue
        assert place == "/key"
        assert 0 <= position <= len(text)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "position", "hint"),
    [
        ("a { b", "unbalanced_brace", 2, "doubled"),
        ("a } b", "unbalanced_brace", 2, "doubled"),
        ("{topic}}", "unbalanced_brace", 7, "doubled"),
        ('{topic + "}', "unbalanced_brace", 0, "doubled"),
        ("{" + "a" * 2_000 + "}", "unbalanced_brace", 0, "doubled"),
        ("ab {}", "expected_value", 4, "doubled"),
        ('Reply with {"verdict": "ok"}', "unexpected", 21, "doubled"),
        ("ab { topc }", "unknown_name", 5, "did you mean topic?"),
        ("ab {  report.txt}", "unknown_field", 12, "did you mean text?"),
        ("{topic} {topic * 2}", "wrong_type", 15, ""),
        ("{topic * 2}", "wrong_type", 7, ""),
    ],
)
def test_an_error_says_where_in_the_string(text: str, code: str, position: int, hint: str) -> None:
    error = refusal(text)

    assert (error.code, error.position, error.text, error.pointer) == (code, position, text, "")
    assert hint in error.hint


def test_an_error_says_where_in_the_document() -> None:
    error = refusal({"a/b": [1, {"~": "line\n{report.txt}"}]})

    assert error.pointer == "/a~1b/1/~0"
    assert error.show() == (
        "/a~1b/1/~0, line 2, column 8: there is no field txt\n    {report.txt}\n           ^\nhint: did you mean text?"
    )


def test_an_error_in_one_place_leaves_the_same_expression_elsewhere_as_it_was() -> None:
    first, second = problems(["{a b}", "xx {a b}"])

    assert (first.pointer, first.position, second.pointer, second.position) == ("/0", 3, "/1", 6)


def test_all_problems_are_found_at_once() -> None:
    document = {"a": "{1 +} and {topic} and {)}", "b": ["}", {"c": "{", "d": "{topic}"}], "e": float("nan")}

    found = problems(document, known=["report"])

    assert [(error.pointer, error.code, error.position) for error in found] == [
        ("/a", "expected_value", 4),
        ("/a", "unknown_name", 11),
        ("/a", "expected_value", 23),
        ("/b/0", "unbalanced_brace", 0),
        ("/b/1/c", "unbalanced_brace", 0),
        ("/b/1/d", "unknown_name", 1),
        ("/e", "not_json", 0),
    ]
    assert problems({"a": "{topic}"}) == []
    assert problems({"a": "{topic}"}, known=["topic"]) == []


def test_what_is_not_json_is_refused() -> None:
    assert refusal({"a": object()}).pointer == "/a"
    assert refusal({1: "a"}).code == "not_json"
    assert refusal([{"a": {1, 2}}]).pointer == "/0/a"
    assert refusal("{x}", {"x": object()}).code == "not_json"
    assert refusal("{x}!", {"x": object()}).code == "not_json"


# --- bounds -----------------------------------------------------------------------------------------------------


def test_a_document_has_a_greatest_depth() -> None:
    document: object = "{topic}"
    for _ in range(MAX_TEMPLATE_DEPTH):
        document = [document]

    rendered(document)
    assert refusal([document]).code == "too_deep"
    assert refusal({"a": document}).pointer == "/a" + "/0" * (MAX_TEMPLATE_DEPTH - 1)


def test_a_rendering_has_a_greatest_size() -> None:
    names: dict[str, object] = {"half": "x" * (MAX_RENDERED_CHARACTERS // 2)}

    error = refusal(["{half}", {"b": "{half}!"}, "{half}"], names)
    assert (error.code, error.pointer) == ("too_large", "/1/b")
    assert refusal("{half} {half} {half}", names).code == "too_large"
    assert refusal(["{[half]}"] * 3, names).code == "too_large"


def test_a_rendering_has_a_greatest_amount_of_work() -> None:
    names: dict[str, object] = {"items": list(range(1_000))}

    error = refusal(["{sum(items)}"] * 2_000, names)

    assert (error.code, error.pointer) == ("too_much_work", "/1000")


def test_problems_end_somewhere() -> None:
    assert len(problems("} " * 999)) == MAX_PROBLEMS
    assert len(problems(["{"] * 999)) == MAX_PROBLEMS
    assert len(problems({str(number): "{x}" for number in range(999)}, known=[])) == MAX_PROBLEMS


@pytest.mark.parametrize("piece", ["{{", "}}", "{1}", '{"', '{ "}" ', "{1", "} ", "{}", "{x}"])
def test_a_long_string_takes_time_in_proportion(piece: str) -> None:
    text = piece * (200_000 // len(piece))

    assert seconds(lambda: problems(text, known=["y"])) < 1.5


def test_a_usual_document_takes_microseconds() -> None:
    document = {"task": "Research {topic}: {report.count}", "all": "{report}", "options": ["a", {"b": [1, 2, 3]}]}
    template = compile_template(document)

    assert seconds(lambda: [template.render(NAMES) for _ in range(100)]) / 100 < 0.000_2
    assert seconds(lambda: [compile_template(document) for _ in range(100)]) / 100 < 0.000_5


def seconds(call: Callable[[], object]) -> float:
    """The least processor time that *call* takes: other processes do not count."""
    taken = []
    for _ in range(2):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return min(taken)


# --- blobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{big}", "{big.text}", "<{big}>", "{mixed}", "<{mixed}>", "{upper(big.text)}"])
def test_what_is_not_loaded_is_asked_for(text: str) -> None:
    with pytest.raises(NeedsBlob) as caught:
        rendered({"a": [text]})

    assert caught.value.blob == BIG


def test_all_that_is_not_loaded_is_asked_for_at_once() -> None:
    other = Unloaded("b" * 64, 20_000)

    with pytest.raises(NeedsBlob) as caught:
        rendered(["{big.text}", {"a": "<{other}, {big}>"}, "{topic}"], {**NAMES, "other": other})

    assert caught.value.blobs == (BIG, other)


def test_a_rendering_goes_on_once_the_blob_is_loaded() -> None:
    assert rendered(["{big.text}", "<{mixed[0]}>"], {**NAMES, "big": {"text": "long"}}) == ["long", "<1>"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{topic}", "bees"),
        ("{big}", {"$blob": BIG.sha256, "size_bytes": 99_999}),
        ("{big.items[0].name}", {"$blob": BIG.sha256, "size_bytes": 99_999, "path": "items[0].name"}),
        ("{mixed[1].x}", {"$blob": BIG.sha256, "size_bytes": 99_999, "path": "x"}),
        (
            "{mixed}",
            [1, {"$blob": BIG.sha256, "size_bytes": 99_999}, {"inner": {"$blob": BIG.sha256, "size_bytes": 99_999}}],
        ),
        ("{upper(big.text)}", "{upper(big.text)}"),
        ('{big.text ?? "none"}', '{big.text ?? "none"}'),
        ("{big[report.count]}", "{big[report.count]}"),
        ("{topic}: { big.text }, {big}", "bees: { big.text }, {big}"),
        ("<{mixed}>", "<{mixed}>"),
        ("{{{big}}}", "{{big}}"),
    ],
)
def test_a_reference_stands_for_what_is_not_loaded(text: str, expected: object) -> None:
    assert compile_template({"a": text}).render_references(NAMES) == {"a": expected}


def test_references_keep_the_other_errors() -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_template(["{big}", "{missing}"]).render_references(NAMES)
    assert caught.value.pointer == "/1"


def test_references_render_the_rest_as_ever() -> None:
    template = compile_template({"a": "{report}", "b": "x {report.rows}", "c": [1]})

    assert template.render_references(NAMES) == template.render(NAMES)
