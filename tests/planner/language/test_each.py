"""The body of an `each`: what runs for an item, what waits for what, and what an item gives."""

from typing import Any

import pytest
from plays import Play
from scripts import Attempts, compiled, document, played, problems, said, steps

from planmesh.planner.compile import compile_plan
from planmesh.planner.language.recognise import Script
from planmesh.schemas.events import AskOpened, BranchTaken, GateOpened, PlanCompleted
from planmesh.schemas.expressions import evaluate, parse

KEPT_OR_DROPPED = """\
each url in urls
  do "Fetch" with fetcher
    url = url
    -> page
  decide "Keep?" with rules
    when page.ok -> "Yes"
    otherwise -> "No"
  "Yes":
    do "Summarise" with writer
      text = page.text
      -> summary
    emit "Kept"
      result = { url: url, text: "In short: {summary.text}" }
  "No":
    {no}
-> pages
"""


def each(text: str) -> dict[str, Any]:
    (found,) = [step for step in steps(text) if step["kind"] == "each"]
    return found


def inside(text: str) -> dict[str, dict[str, Any]]:
    """The steps of the body by name."""
    return {step["name"]: step for step in each(text)["steps"]}


def given(text: str, **outputs: object) -> object:
    """What an item gives, if its steps gave these *outputs*."""
    return evaluate(parse(each(text)["value"]), outputs)


# --- what an item gives ----------------------------------------------------------------------------------------


def test_an_item_gives_what_its_last_binding_stands_for() -> None:
    text = 'each x in xs\n  do "A" with worker\n    -> a\n  do "B" with worker\n    -> b\n  do "C" with worker\n'

    assert each(text)["value"] == "b"


def test_a_binding_that_an_item_may_not_come_to_is_null_then() -> None:
    text = 'each x in xs\n  check "C" x > 1\n    on fail: goto "B"\n  "B":\n    do "A" with worker\n      -> a\n'

    assert given(text, a=3) == 3
    assert given(text) is None


def test_a_body_that_binds_nothing_leaves_it_to_its_last_step() -> None:
    assert "value" not in each('each x in xs\n  do "A" with worker\n')


def test_an_emit_that_every_item_comes_to_is_no_step() -> None:
    text = 'each x in xs\n  do "A" with worker\n    -> a\n  emit "Done"\n    result = { of: x, a: "{a.n} of {x}" }\n'

    assert [step["name"] for step in each(text)["steps"]] == ["a"]
    assert given(text, a={"n": 1}, x="three") == {"of": "three", "a": "1 of three"}


def test_an_emit_by_itself_is_a_step_all_the_same() -> None:
    text = 'each x in xs\n  emit "Done"\n    result = x * 2\n'

    assert [step["kind"] for step in each(text)["steps"]] == ["decide"]
    assert given(text, x=2, done={"branch": "done"}) == 4


@pytest.mark.parametrize("no", ['emit "Dropped"', 'do "Log" with logger\n      text = page.text\n    emit "Dropped"'])
def test_of_several_emits_an_item_gives_what_the_one_says_that_it_comes_to(no: str) -> None:
    text = KEPT_OR_DROPPED.replace("{no}", no)

    assert given(text, url="u", page={}, summary={"text": "s"}, kept={"branch": "kept"}) == {
        "url": "u",
        "text": "In short: s",
    }
    # What the others would give cannot even be computed then.
    assert given(text, url="u", page={}, dropped={"branch": "dropped"}) is None


def test_an_item_that_comes_to_no_emit_gives_null() -> None:
    text = KEPT_OR_DROPPED.replace("{no}", 'do "Log" with logger')

    assert inside(text)["no-emit"]["after"] == ["log"]
    assert given(text, url="u", page={}, no_emit={"branch": "no-emit"}) is None


def test_the_name_of_a_step_of_an_item_has_room_for_the_number_of_the_item() -> None:
    (name,) = inside(f'each x in xs\n  do "{"a" * 80}" with worker\n')

    assert name == "a" * 57
    assert compiled(f'each x in xs\n  do "{"a" * 80}" with worker\n')


def test_what_the_log_says_of_an_emit_is_its_label() -> None:
    kept = inside(KEPT_OR_DROPPED.replace("{no}", 'emit "Dropped"'))["kept"]

    assert kept == {
        "kind": "decide",
        "name": "kept",
        "label": "Kept",
        "binding": "kept",
        "cases": [{"when": "true", "then": "kept"}],
        "branch": {"step": "keep", "label": "Yes"},
        "after": ["summarise"],
    }


def test_an_output_that_has_the_name_of_an_emit_is_in_nobodys_way() -> None:
    text = KEPT_OR_DROPPED.replace("{no}", 'emit "Dropped"\n      result = kept')

    assert document(text)["inputs"].keys() == {"urls", "kept"}
    assert inside(text)["kept"]["binding"] == "output_1_of_kept"


def test_what_an_item_gives_has_the_length_of_an_expression() -> None:
    text = KEPT_OR_DROPPED.replace("{no}", f'emit "Dropped"\n      result = "{"x" * 1_000}"')
    (one,) = problems(text)

    assert (one.line, one.column, one.code) == (1, 1, "too_large")


# --- what waits ------------------------------------------------------------------------------------------------


def test_what_items_read_from_outside_holds_up_the_each() -> None:
    text = """\
do "List" with worker
  -> urls
do "Rules" with worker
  -> rules
do "Warm up" with worker
each url in urls
  do "Fetch" with fetcher
    url = url
    by = rules.all
    after = ["Warm up"]
    -> page
  do "Read" with reader
    after = ["Fetch"]
-> pages
do "Use" with worker
  after = ["each-pages"]
"""
    assert each(text)["after"] == ["rules", "warm-up"]
    assert "after" not in inside(text)["fetch"]
    assert inside(text)["read"]["after"] == ["fetch"]
    assert [set(step.after) for step in compiled(text).plan.steps][3:] == [
        {"list", "rules", "warm-up"},
        {"each-pages"},
    ]


def test_nothing_outside_waits_for_a_step_of_an_item() -> None:
    body = 'each x in xs\n  do "A" with worker\n-> ys\n'
    (one,) = problems(body + 'do "B" with worker\n  after = ["A"]\n')
    (other,) = problems(body + 'each y in ys\n  do "B" with worker\n    after = ["A"]\n')

    assert (one.line, one.column, one.code) == (5, 12, "unknown_step")
    assert one.message == "'A' is inside of an each, and is done once for each item"
    assert one.hint == 'wait for all of them: after = ["each-ys"]'
    assert (other.line, other.column, other.hint) == (6, 14, one.hint)


def test_control_does_not_leave_a_body() -> None:
    text = 'each x in xs\n  check "C" x > 1\n    on fail: goto "Out"\n"Out":\n  do "A" with worker\n'

    assert [code for _, _, code in said(text)] == ["unknown_branch", "unused_branch"]


def test_a_reviewer_is_asked_once_before_all_items_or_for_each_of_them() -> None:
    before = steps('each x in xs\n  do "A" with worker\n  reviewer = "role:operator"\n-> ys\n')
    within = inside('each x in xs\n  do "A" with worker\n    reviewer = "role:operator"\n-> ys\n')

    assert [step["kind"] for step in before] == ["each"]
    assert within.keys() == {"approve-a", "a"}
    ahead = steps('each x in xs\n  reviewer = "role:operator"\n  do "A" with worker\n-> ys\n')
    assert [(step["kind"], step.get("after")) for step in ahead] == [("gate", None), ("each", ["approve-each-ys"])]


# --- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "kind"),
    [('each y in x\n    do "A" with worker\n  -> z', "each"), ('plan "P" with llm', "plan"), ("run p", "run")],
)
def test_a_body_has_no_plans_and_no_bodies(inner: str, kind: str) -> None:
    found = problems(f"each x in xs\n  {inner}\n")

    assert [(one.line, one.column, one.code, one.message) for one in found] == [
        (2, 3, "misplaced", f"the body of an each has no `{kind}`")
    ]
    assert found[0].hint


def test_what_is_wrong_in_a_body_is_said_where_it_is() -> None:
    text = 'each x in xs\n  do "A" with worker\n    timeout = "30s"\n    optional = 3\n  gate "G"\n    quorum = 0\n'

    assert said(text) == [(4, 16, "wrong_type"), (6, 14, "invalid_value")]


def test_the_list_may_be_written_there_and_then() -> None:
    found = compile_plan(Script('each x in ["a", "b"] parallel 2\n  do "A" with worker\n    of = x\n'), None)

    assert not isinstance(found, list)


# --- what runs -------------------------------------------------------------------------------------------------


def end(text: str, values: dict[str, Any], outputs: dict[str, Any]) -> tuple[Any, Play]:
    """What a plan gives that ends in one step which reads what the `each` gives, and how it came to that."""
    play = played(text + 'emit "Done"\n  result = pages\n', values, outputs)
    (completed,) = play.of_type(PlanCompleted)
    return completed.result.value, play


def test_what_items_give_is_collected_in_the_order_of_the_list() -> None:
    pages = [{"ok": True, "text": "one"}, {"ok": False, "text": "two"}, {"ok": True, "text": "three"}]
    summaries = [{"text": "1"}, None, {"text": "3"}]
    dropped = KEPT_OR_DROPPED.replace("{no}", 'emit "Dropped"\n      result = "{page.text} was dropped"')

    given, play = end(dropped, {"urls": ["a", "b", "c"]}, {"fetch": pages, "summarise": summaries})

    assert given == [
        {"url": "a", "text": "In short: 1"},
        "two was dropped",
        {"url": "c", "text": "In short: 3"},
    ]
    branches = {one.step: one.label for one in play.of_type(BranchTaken)}
    assert branches["dropped_2"] == "dropped"
    assert play.status("summarise_2") == "not_taken"


def test_a_body_that_goes_on_gives_null_where_nothing_was_bound() -> None:
    text = KEPT_OR_DROPPED.replace("{no}", 'do "Log" with logger')

    given, _ = end(text, {"urls": ["a", "b"]}, {"fetch": [{"ok": False}, {"ok": True}], "summarise": {"text": "s"}})

    assert given == [None, {"url": "b", "text": "In short: s"}]


def test_gates_and_questions_come_once_an_item() -> None:
    text = """\
each name in names
  ask "Invite {name}?"
    name = "invite"
    prompt = "Invite {name}?"
    type = "boolean"
    -> answer
  gate "Sure?"
  do "Invite" with mailer
    name = "send"
    to = name
    -> sent
  emit "Asked"
    result = { name: name, yes: answer.value, sent: sent }
-> pages
"""
    given, play = end(text, {"names": ["Ada", "Bob"]}, {"invite": [True, False], "send": ["sent", "sent"]})

    assert given == [{"name": "Ada", "yes": True, "sent": "sent"}, {"name": "Bob", "yes": False, "sent": "sent"}]
    assert [one.prompt for one in play.of_type(AskOpened)] == ["Invite Ada?", "Invite Bob?"]
    assert {one.step for one in play.of_type(GateOpened)} == {"sure_1", "sure_2"}


def test_a_step_of_an_item_is_done_again_until_it_passes() -> None:
    text = 'each x in xs\n  do "A" with worker\n    -> a\n  check "C" a.n > x\n    on fail: retry 2\n-> pages\n'
    outputs = {"a_1": {"n": 5}, "a_2": Attempts([{"n": 1}, {"n": 7}])}

    given, play = end(text, {"xs": [3, 4]}, outputs)

    assert given == [{"n": 5}, {"n": 7}]
    assert (play.attempt("a_1"), play.attempt("a_2")) == (1, 2)
