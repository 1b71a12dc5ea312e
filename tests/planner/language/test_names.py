"""What names stand for: bindings, inputs, `let`, and where each may be read."""

from typing import Any

import pytest
from scripts import compiled, document, played, problems, said, steps

from planmesh.planner.language.translate import translate
from planmesh.schemas.events import PlanCompleted

DO = 'do "It" with worker\n'
BRANCHES = """\
decide "D" with rules
  when a == 1 -> "One"
  otherwise -> "Two"
"One":
  do "First" with worker
    -> x
"Two":
  do "Second" with worker
    {second}
do "After" with worker
  x = {read}
"""


def inputs(text: str) -> dict[str, Any]:
    return dict(steps(text)[-1]["inputs"])


# --- inputs ----------------------------------------------------------------------------------------------------


def test_without_an_input_block_what_nothing_binds_is_an_input() -> None:
    text = f'{DO}  a = topic.name\n  b = "for {{reader}}"\n  c = known\n'

    assert document(f'do "First" with worker\n  -> known\n{text}')["inputs"] == {"topic": {}, "reader": {}}


def test_with_an_input_block_what_nothing_binds_is_a_mistake() -> None:
    (one,) = problems(f"input\n  topic : text\n{DO}  a = topics\n")

    assert (one.line, one.column, one.code, one.hint) == (4, 7, "unknown_name", "did you mean topic?")


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("a = nope", 7),
        ('a = "x {count(nope)} y"', 17),
        ('a = [1, "{nope}"]', 13),
        ("a = { b: 1 + nope }", 16),
        (r'a = "\n{nope}"', 11),
    ],
)
def test_an_unknown_name_is_said_where_it_is_read(field: str, column: int) -> None:
    assert said(f"input\n  topic : text\n{DO}  {field}\n") == [(4, column, "unknown_name")]


def test_a_step_whose_output_nobody_named_is_hinted_at() -> None:
    (one,) = problems(f'input\n  a : text\ndo "Draft report" with worker\n{DO}  b = draft_report\n')

    assert one.hint == "to read the output of draft-report, let it bind a name: -> draft_report"


def test_a_name_that_is_nearly_bound_gets_advice() -> None:
    (one,) = translate(f'do "A" with worker\n  -> report\n{DO}  a = reprot.text\n').advice

    assert (one.line, one.column, one.code, one.hint) == (4, 7, "name_like_binding", "did you mean report?")


# --- order -----------------------------------------------------------------------------------------------------


def test_a_binding_is_read_below_the_step_that_gives_it() -> None:
    (one,) = problems(f'{DO}  a = x\ndo "Later" with worker\n  -> x\n')

    assert (one.line, one.column, one.code, one.message) == (2, 7, "read_before_bound", "'x' is bound below, on line 4")


def test_a_step_does_not_read_itself() -> None:
    assert said(f"{DO}  a = x\n  -> x\n") == [(2, 7, "read_before_bound")]


def test_a_name_stands_for_one_thing() -> None:
    assert said(f"input\n  a : text\nlet a = 1\n{DO}") == [(3, 5, "name_taken")]
    assert said(f"let a = 1\nlet a = 2\n{DO}") == [(2, 5, "name_taken")]
    assert said(f"let a = 1\n{DO}  -> a\n") == [(1, 5, "name_taken")]
    assert said(f"let and = 1\n{DO}") == [(1, 5, "name_taken")]
    assert said(f"{DO}  -> or\n") == [(2, 6, "name_taken"), (2, 6, "reserved_name")][:1]
    assert said(f'{DO}  -> a\ndo "Two" with worker\n  -> a\n') == [(4, 6, "duplicate_binding")]
    assert said(f"input\n  a : text\n{DO}  -> a\n") == [(4, 6, "input_is_binding")]


def test_an_input_that_is_called_name_is_given_among_the_inputs() -> None:
    (one,) = problems(f"input\n  person : text\n{DO}  name = person\n")

    assert one.code == "bad_name"
    assert "write inputs = { name: … }" in one.hint
    assert steps(f"input\n  person : text\n{DO}  inputs = {{ name: person }}\n")[0]["inputs"] == {"name": "{person}"}


# --- branches --------------------------------------------------------------------------------------------------


def test_what_every_branch_gives_can_be_read_behind_them() -> None:
    text = BRANCHES.format(second="-> x", read="x.text")

    assert [step.after for step in compiled(text).plan.steps][-1] == ("first", "second")


def test_what_some_branches_give_needs_a_default() -> None:
    (one,) = problems(BRANCHES.format(second="-> y", read="x.text"))

    assert (one.line, one.column, one.code, one.hint) == (
        11,
        7,
        "maybe_unbound",
        "say what stands in for it: x ?? null",
    )
    assert compiled(BRANCHES.format(second="-> y", read='x.text ?? "none"'))


def test_what_ends_the_plan_need_not_give_anything() -> None:
    text = BRANCHES.format(second="-> y", read="x.text").replace('  do "Second" with worker\n    -> y', '  emit "End"')

    assert compiled(text)


def test_the_other_branch_cannot_be_read() -> None:
    text = BRANCHES.format(second='y = x ?? "none"', read="1")

    assert said(text) == [(9, 9, "other_branch")]


def test_what_a_branch_gives_that_ends_the_plan_cannot_be_read_behind_it() -> None:
    branch = 'check "C" a\n  on fail: goto "B"\n"B":\n  do "A" with a\n    -> x\n  emit "End"\n'
    text = f'{branch}do "Out" with a\n  x = x ?? 1\n'

    assert said(text) == [(8, 7, "other_branch")]


def test_defaults_are_found_through_nested_branches() -> None:
    text = """\
decide "Outer" with rules
  when a == 1 -> "A"
  otherwise -> "B"
"A":
  decide "Inner" with rules
    when b == 1 -> "C"
    otherwise -> "D"
  "C":
    do "One" with worker
      -> x
  "D":
    do "Two" with worker
      -> {inner}
"B":
  do "Three" with worker
    -> x
do "After" with worker
  x = x
"""
    assert compiled(text.format(inner="x"))
    assert said(text.format(inner="y")) == [(18, 7, "maybe_unbound")]


def test_what_is_above_a_goto_is_known_behind_it() -> None:
    text = """\
do "First" with worker
  -> x
check "A" a
  on fail: goto "Late"
do "Second" with worker
  -> y
check "B" b
  on fail: goto "Late"
do "Third" with worker
  y = y
  -> z
"Late":
  do "Fourth" with worker
    x = x
    y = {late}
do "After" with worker
  x = x
  y = {after}
"""
    assert compiled(text.format(late="y ?? 1", after="y ?? 1"))
    assert said(text.format(late="y", after="y ?? 1")) == [(15, 9, "maybe_unbound")]
    assert said(text.format(late="1", after="y")) == [(18, 7, "maybe_unbound")]


def test_the_body_of_an_each_keeps_its_names_to_itself() -> None:
    text = 'each x in xs\n  do "Inside" with worker\n    -> inner\n-> all\ndo "After" with worker\n  a = {read}\n'

    assert document(text.format(read="all"))["inputs"] == {"xs": {}}
    for name, line in (("inner", 3), ("x", 1)):
        (one,) = problems(text.format(read=name))
        assert (one.line, one.column, one.code) == (6, 7, "unknown_name")
        assert one.message == f"'{name}' is bound inside of an each, on line {line}, and is known only there"
    assert said("input\n  xs : list\n" + text.format(read="inner")) == [(8, 7, "unknown_name")]
    assert said("let x = 1\n" + text.format(read="all")) == [(2, 6, "name_taken")]
    assert said(f"{DO}  -> inner\n" + text.format(read="all")) == [(5, 8, "name_taken")]
    assert said(f"{DO}  -> x\n" + text.format(read="all")) == [(3, 6, "name_taken")]


def test_two_bodies_may_use_the_same_names() -> None:
    body = 'each x in {items}\n  do "{label}" with worker\n    of = x\n    -> inner\n-> {to}\n'
    text = body.format(items="xs", label="One", to="ones") + body.format(items="ones", label="Two", to="twos")

    assert [step["value"] for step in steps(text)] == ["inner", "inner"]


# --- let -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("let", "read", "written"),
    [
        ("1 + a", "x", "{1 + a}"),
        ("1 + a", "x * 2", "{(1 + a) * 2}"),
        ("b.c", "x.d ?? 1", "{b.c.d ?? 1}"),
        ('"Dear {a}"', "x", "Dear {a}"),
        ('"Dear {a}"', '"{x}, hello"', "Dear {a}, hello"),
        ('"Dear {a}"', '"{x}"', "Dear {a}"),
        ('"Dear {a}"', "x + b", '{(join(["Dear ", a], "")) + b}'),
        ('"{{}}"', "x + b", '{("{}") + b}'),
        ('"a\\"b\\\\n"', "x + b", '{("a\\"b\\\\n") + b}'),
        ("[1, a]", "x", [1, "{a}"]),
        ("[1, a]", "{ k: x }", {"k": [1, "{a}"]}),
        ("[1, a]", "count(x)", "{count(([1, a]))}"),
        ('{ k: "v {a}" }', "x.k", '{({"k": join(["v ", a], "")}).k}'),
        ("1 + a", '"is {x} or {{x}}"', "is {(1 + a)} or {{x}}"),
        ("true", "x", True),
        ("1", "map(xs, x)", "{map(xs, x)}"),
    ],
)
def test_a_let_is_put_in_where_it_is_read(let: str, read: str, written: object) -> None:
    assert inputs(f"let x = {let}\n{DO}  v = {read}\n") == {"v": written}


def test_what_let_puts_in_means_what_it_would_mean_by_itself() -> None:
    text = """\
let name = "{first} {last}"
let long = count(name) > 5
let both = [name, "<{name}>"]
emit "End"
  result = { n: name, l: long, b: both, t: "{name}: {long}", j: join(both, ";"), d: first ?? name }
"""
    play = played(text, {"first": "Ada", "last": "Lovelace"})

    (end,) = [event for event in play.events if isinstance(event, PlanCompleted)]
    assert end.result.value == {
        "n": "Ada Lovelace",
        "l": True,
        "b": ["Ada Lovelace", "<Ada Lovelace>"],
        "t": "Ada Lovelace: true",
        "j": "Ada Lovelace;<Ada Lovelace>",
        "d": "Ada",
    }


def test_a_let_is_known_to_the_end_of_its_block() -> None:
    text = (
        'check "C" a\n  on fail: goto "B"\n"B":\n  let x = 1\n  do "In" with a\n    v = x\ndo "Out" with a\n  v = x\n'
    )

    assert document(text)["inputs"] == {"a": {}, "x": {}}


def test_a_let_keeps_a_step_waiting_for_what_it_reads() -> None:
    text = f'do "First" with worker\n  -> a\nlet x = a.b\n{DO}  v = x\n'

    assert compiled(text).plan.steps[-1].after == ("first",)


def test_what_let_reads_is_checked_where_it_stands() -> None:
    assert said(f"input\n  a : text\nlet x = nope\n{DO}  v = x\n  w = x\n") == [(3, 9, "unknown_name")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("let x = " + " + ".join(["abcdefghij"] * 70) + f"\n{DO}  v = x + x\n", "too_large"),
        ('let x = "' + "y" * 65_600 + f'"\n{DO}', "too_large"),
        ('let x = "' + "y" * 40_000 + f'"\n{DO}  v = "{{x}}{{x}}"\n', "too_large"),
        ('let x = "' + "y" * 2_000 + f'"\n{DO}  v = count(x)\n', "too_large"),
        (f"let x = 1 + a\n{DO}  v = x ?? 1\n", "bad_expression"),
    ],
)
def test_what_let_puts_in_keeps_the_limits(text: str, code: str) -> None:
    assert [one[2] for one in said(text)] == [code]


def test_a_chain_of_lets_does_not_explode() -> None:
    chain = "".join(f"let a{number} = [a{number - 1}, a{number - 1}]\n" for number in range(1, 400))

    assert "too_large" in {one[2] for one in said(f"let a0 = [1]\n{chain}{DO}  v = a399\n")}
