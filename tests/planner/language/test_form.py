"""Lines, blocks and values: what is read, and what is said where nothing can be."""

from typing import Any

import pytest
from scripts import document, problems, said, steps

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.layout import read_layout
from planmesh.planner.language.source import Place, Source, excerpt

DO = 'do "It" with worker\n'


def value_of(written: str) -> Any:
    """The input `a` of a step, as the document has it."""
    (step,) = steps(f"{DO}  a = {written}\n")
    return step["inputs"]["a"]


def wrong(text: str) -> tuple[int, int, str, str, str]:
    (one,) = problems(text)
    return one.line, one.column, one.code, one.message, one.hint


# --- layout ----------------------------------------------------------------------------------------------------


def test_a_logical_line_goes_on_within_brackets_and_long_texts() -> None:
    source = Source('a = [1, -- one\n  "x # y"]  # two\nb = """\n-- no comment\n"""\n')

    layout = read_layout(source, Findings(source))

    assert [layout.clean[line.span.start : line.span.end] for line in layout.lines] == [
        'a = [1,          "x # y"]',
        'b = """\n-- no comment\n"""',
    ]
    assert [comment.text for comment in layout.comments] == ["-- one", "# two"]
    assert len(layout.clean) == len(layout.masked) == len(source.text)
    assert layout.masked.split("\n")[0].rstrip() == 'a = [1,          "_____"]'


def test_places_count_from_one_and_a_tab_is_one_column() -> None:
    source = Source("a\n\tbc\n")

    assert source.place(0) == Place(1, 1)
    assert source.place(3) == Place(2, 2)
    assert source.place(6) == Place(3, 1)
    assert (source.line(2), source.line(3), source.line(9)) == ("\tbc", "", "")


def test_a_long_line_is_shown_around_its_place() -> None:
    assert excerpt("a\tb", 3) == ("a b", "  ^")
    shown, caret = excerpt("x" * 500 + "!" + "y" * 500, 501)
    assert len(shown) == 82
    assert shown[caret.index("^")] == "!"


def test_tabs_and_spaces_do_not_mix() -> None:
    assert wrong(f"{DO}  a = 1\n\tb = 2\n") == (
        3,
        1,
        "mixed_indentation",
        "this line is indented with tabs, and those above with spaces",
        "indent all lines in the same way",
    )
    assert steps(f"{DO}\ta = 1\n\tb = 2\n")[0]["inputs"] == {"a": 1, "b": 2}
    assert said(f"{DO}\t a = 1\n") == [(2, 1, "mixed_indentation")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f'{DO}  a = "x\n  b = 1\n', (2, 7, "unclosed_text")),
        (f'{DO}  a = """x\n  b = 1\n', (2, 7, "unclosed_text")),
        (f"{DO}  a = [1, (2\n  b = 1\n", (2, 11, "unclosed_bracket")),
        (f'{DO}  a = {{ x: 1\nask "B"\n', (2, 7, "unclosed_bracket")),
        (f"{DO}  a = [\n  1,\n\n\n", (2, 7, "unclosed_bracket")),
    ],
)
def test_what_is_never_closed_spoils_its_own_line_only(text: str, place: tuple[int, int, str]) -> None:
    assert said(text) == [place]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    text = f'{DO}  a = """\n    x\n    y\n    """\n  b = [\n    1,\n  ]\n'

    assert steps("\ufeff" + text.replace("\n", "\r\n")) == steps(text)


# --- lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("do Review with x", 4, "expected a text in double quotes, found 'Review'", 'write do "Review"'),
        ("ask", 4, "expected a text in double quotes, found the end of the line", 'a label follows, as in ask "Label"'),
        ('do "x"', 7, "expected with, found the end of the line", "say who does it: with AGENT"),
        ('do "x" with', 12, "expected the name of an agent or tool, found the end of the line", ""),
        ('do "x" with y z', 15, "expected the end of the line, found 'z'", "leave out what follows"),
        ('do "x" with y a = 1', 15, "expected the end of the line, found 'a'", "each field has a line of its own"),
        ('do "x" with y -> z', 15, "expected the end of the line, found ->", "a binding has a line of its own"),
        ('run "x"', 5, "expected a name, found '\"x\"'", "what is run is the binding of a plan step, without quotes"),
        ("each in xs", 9, "expected in, found 'xs'", ""),
        ('check "x"', 10, "expected a value, found the end of the line", ""),
        ('"Label"', 8, "expected :, found the end of the line", ""),
        (
            "-> 1",
            1,
            "expected a step, a field, a branch or a binding; found ->",
            "a field is `name = value`, a comment begins with --",
        ),
        (
            "?",
            1,
            "expected a step, a field, a branch or a binding; found '?'",
            "a field is `name = value`, a comment begins with --",
        ),
        ('decide "x" by rules', 12, "expected with, found 'by'", "say who does it: with AGENT"),
    ],
)
def test_a_line_that_cannot_be_read_says_what_was_expected(line: str, column: int, message: str, hint: str) -> None:
    found = [one for one in problems(line) if one.code == "syntax"]

    assert [(one.line, one.column, one.message, one.hint) for one in found] == [(1, column, message, hint)]


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('aks "Review"', "no line begins with 'aks'", "did you mean ask?"),
        ('dispatch "x" with y', "no line begins with 'dispatch'", "there are do, plan, run"),
        ("topic == 1", "no line begins with 'topic'", "to give it a value, write topic = …"),
        ("hello world", "no line begins with 'hello'", "a field is `name = value`, a comment begins with --"),
        ('if x.ok -> "It"', "no line begins with 'if'", 'write decide "Label" with rules, and when … -> "Branch"'),
        ("for x in xs", "no line begins with 'for'", "write each item in list, with the steps indented below it"),
        ("return x", "no line begins with 'return'", 'write emit "Label", which ends the plan'),
        ('task "It" with x', "no line begins with 'task'", 'write do "Label" with AGENT'),
    ],
)
def test_a_word_that_begins_no_line_is_named_with_the_nearest_one(line: str, message: str, hint: str) -> None:
    (one,) = problems(f"{DO}{line}\n")

    assert (one.line, one.column, one.code, one.message) == (2, 1, "unknown_keyword", message)
    assert one.hint.startswith(hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("when x > 1", "expected ->, found the end of the line"),
        ('when x > 1 "A"', "expected ->, found the end of the line"),
        ('otherwise "A"', "expected ->, found '\"A\"'"),
        ("on error: explode", "expected retry, fallback or ignore, found 'explode'"),
        ("on fail: explode", "expected continue, fail, goto or retry, found 'explode'"),
        ("on what: retry", "expected error, pass or fail, found 'what'"),
    ],
)
def test_clauses_say_what_they_can_be(line: str, message: str) -> None:
    text = f'decide "D" with rules\n  when x == 1 -> "A"\n  {line}\n"A":\n  do "It" with worker\n'

    assert wrong(text)[2:4] == ("syntax", message)


def test_every_word_of_the_language_can_be_a_field_and_an_input() -> None:
    words = "script input output do plan run agent ask gate decide check each let emit when otherwise on with rules"

    (step,) = steps("".join([DO, *(f"  {word} = {word}\n" for word in words.split())]))

    assert step["inputs"] == {word: f"{{{word}}}" for word in words.split()}


def test_all_mistakes_of_a_script_come_at_once() -> None:
    text = """\
do "One" with
  a = 1 +
  b = "{x"
  -> one
ak "Two"
do Three with worker
  c = one.text
emit "Four"
  result = thre
"""

    assert said(text) == [
        (1, 14, "syntax"),
        (2, 10, "bad_expression"),
        (3, 8, "bad_expression"),
        (5, 1, "unknown_keyword"),
        (6, 4, "syntax"),
    ]


# --- blocks ----------------------------------------------------------------------------------------------------


def test_a_binding_may_stand_as_far_out_as_its_step() -> None:
    inside, outside = f"{DO}  a = 1\n  -> b\n", f"{DO}  a = 1\n-> b\n"

    assert steps(inside) == steps(outside)


def test_branches_may_be_indented_below_their_decide() -> None:
    beside = 'decide "D" with rules\n  when x == 1 -> "A"\n"A":\n  do "It" with worker\ndo "After" with worker\n'
    below = 'decide "D" with rules\n  when x == 1 -> "A"\n  "A":\n    do "It" with worker\ndo "After" with worker\n'

    assert document(below) == document(beside)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{DO}  a = 1\n    b = 2\n", (3, 5, "bad_indentation")),
        (f"{DO}    a = 1\n  b = 2\n", (3, 3, "bad_indentation")),
        (f'{DO}  do "Inside" with worker\n', (2, 3, "bad_indentation")),
        (f'  {DO}do "Out" with worker\n', (2, 1, "bad_indentation")),
        ("a = 1\n" + DO + "let x = 1\nb = 2\n", (4, 1, "misplaced")),
        ("-> x\n" + DO, (1, 1, "misplaced")),
        (f"{DO}-> x\na = 1\n", (3, 1, "misplaced")),
        (f"{DO}-> x\n-> y\n", (3, 1, "duplicate_field")),
        (f"{DO}  a = 1\n  a = 2\n", (3, 3, "duplicate_field")),
        (f'{DO}script "Late"\n', (2, 1, "misplaced")),
        ("topic : text\n" + DO, (1, 1, "misplaced")),
        ("input\n  a : text\ninput\n  b : text\n" + DO, (3, 1, "duplicate_field")),
        ('script "A"\nscript "B"\n' + DO, (2, 1, "duplicate_field")),
        ("concurrency 3\nconcurency = 4\n" + DO, (2, 1, "unknown_field")),
        (DO + '  when x -> "A"\n', (2, 3, "misplaced")),
        (DO + "  on fail: continue\n", (2, 3, "misplaced")),
        ('gate "G"\n  on error: ignore\n', (2, 3, "misplaced")),
        ("each x in xs\n" + DO, (1, 1, "flat_each")),
        ('decide "D" with rules\n  when x == 1 -> "A"\n"A":\ndo "It" with worker\n', (4, 1, "bad_indentation")),
        ("-- nothing\n", (1, 1, "empty")),
        ("", (1, 1, "empty")),
    ],
)
def test_a_line_that_stands_wrong_is_said(text: str, place: tuple[int, int, str]) -> None:
    assert place in said(text)
    if place[2] != "misplaced" or "a = 1\ndo" not in text:
        assert len(said(text)) == 1


# --- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("2.5", 2.5),
        ("1e3", 1000.0),
        ("-0", 0),
        ("true", True),
        ("null", None),
        ('""', ""),
        ('"plain"', "plain"),
        (r'"a\n\t\"\\b"', 'a\n\t"\\b'),
        ('"Dear {name}"', "Dear {name}"),
        ('"{{x}}"', "{{x}}"),
        (r'"{join(xs, \", \")}"', '{join(xs, ", ")}'),
        ("x", "{x}"),
        ("x.y[0]", "{x.y[0]}"),
        ("x + 1", "{x + 1}"),
        ("true_love", "{true_love}"),
        ("[]", []),
        ("{}", {}),
        ('[1, x, "a {y}", [true]]', [1, "{x}", "a {y}", [True]]),
        ("[1, 2,]", [1, 2]),
        ('{ a: x, "b c": { d: null } }', {"a": "{x}", "b c": {"d": None}}),
        ("[1] + xs", "{[1] + xs}"),
        ("{a: 1}.a + x", "{ {a: 1}.a + x}"),
        ('"a" + x', '{"a" + x}'),
        ('join(map(xs, title), ", ")', '{join(map(xs, title), ", ")}'),
        ("count(xs) > 3 and not (y == 1)", "{count(xs) > 3 and not (y == 1)}"),
        ("f.in", "{f.in}"),
        ('x ?? "none"', '{x ?? "none"}'),
    ],
)
def test_values_are_written_as_templates(written: str, value: Any) -> None:
    found = value_of(written)

    assert found == value
    assert type(found) is type(value)


def test_a_long_text_is_indented_as_little_as_its_lines() -> None:
    assert value_of('"""one line"""') == "one line"
    assert value_of('"""\n    one\n      two\n\n    three\n    """') == "one\n  two\n\nthree"
    assert value_of('"""\n    one\n  """') == "  one"
    assert value_of('"""\n    one\n    two"""') == "one\ntwo"
    assert value_of('"""\n    say "yes" {x} \\"""\n    """') == 'say "yes" {x} """'


@pytest.mark.parametrize(
    ("written", "column", "code", "message"),
    [
        ("", 6, "syntax", "expected a value, found the end of the line"),
        ("1 +", 10, "bad_expression", "expected a value, found the end"),
        ("x y", 9, "bad_expression", "expected an operator or the end, found y"),
        ("[1, 2", 7, "unclosed_bracket", "this [ is never closed"),
        ("[1, , 2]", 11, "bad_expression", "expected a value, found ,"),
        ("{ a 1 }", 11, "bad_expression", "expected : after the key a, found 1"),
        ("{ 1: 2 }", 9, "bad_expression", "expected a key, found 1"),
        ("{ a: 1, a: 2 }", 15, "duplicate_field", "the object has a twice"),
        ("x = 1", 9, "bad_expression", "= has no meaning here"),
        ("'x'", 7, "bad_expression", "' has no meaning here"),
        ('"a\\qb"', 9, "bad_text", "\\q has no meaning in a text"),
        ('"a {x"', 10, "bad_expression", "this { begins an expression, and no } ends it within 1,024 characters"),
        ('"a }x"', 10, "bad_expression", "this } closes nothing"),
        ('"\\n{1 +}"', 14, "bad_expression", "expected a value, found the end"),
        ('["a", "{b c}"]', 17, "bad_expression", "expected an operator or the end, found c"),
        ("99999999999999999999", 7, "bad_expression", "an integer has at most 64 bits"),
        ("nope(x)", 7, "bad_expression", "there is no function nope"),
        ('x + """y"""', 11, "bad_expression", 'a text in """ stands by itself, not in an expression'),
        ("[" * 25 + "]" * 25, 31, "too_deep", "lists and objects are nested at most 24 deep"),
    ],
)
def test_a_value_that_cannot_be_read_is_said_where_it_goes_wrong(
    written: str, column: int, code: str, message: str
) -> None:
    assert wrong(f"{DO}  a = {written}\n")[:4] == (2, column, code, message)


def test_in_a_long_text_places_are_those_of_the_source() -> None:
    assert said(f'{DO}  a = """\n    one\n    two {{x +}} three\n    """\n') == [(4, 13, "bad_expression")]


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("let y : number = 3", 5, "expected something else, found 'y'", "write let name = value"),
        ('emit "Done" x', 13, "expected the end of the line, found 'x'", "what it gives stands below it: result = …"),
        ("each x in xs parallel many", 23, "expected a number, found 'many'", "say how many items at once, such as"),
        ("  on error: retry 3 times", 21, "expected the end of the line, found 'times'", "leave out what follows"),
    ],
)
def test_what_is_nearly_a_line_is_told_how_it_is_written(line: str, column: int, message: str, hint: str) -> None:
    (one,) = [found for found in problems(f"{DO}{line}\n") if found.code == "syntax"]

    assert (one.line, one.column, one.message) == (2, column, message)
    assert one.hint.startswith(hint)


@pytest.mark.parametrize(
    ("type", "meant"), [("string", "text"), ("int", "integer"), ("list<str>", "text"), ("array<x>", "list")]
)
def test_the_types_of_other_languages_are_known_by_their_names(type: str, meant: str) -> None:
    (one,) = problems(f"input\n  x : {type}\n{DO}  a = x\n")

    assert (one.code, one.hint) == ("unknown_type", f"did you mean {meant}?")
