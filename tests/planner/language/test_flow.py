"""Who waits for whom, and what runs in which branch."""

import pytest
from scripts import Attempts, compiled, played, problems, said

from planmesh.schemas.events import GateOpened, PlanCompleted
from planmesh.schemas.plan import Task
from planmesh.schemas.state import PlanStatus, StepStatus


def waits(text: str) -> dict[str, list[str]]:
    """What each step waits for in the end, its branch included."""
    return {step.name: sorted(step.after) for step in compiled(text).plan.steps}


def do(label: str, *lines: str, indent: int = 0) -> str:
    parts = [f'do "{label}" with worker', *(f"  {line}" for line in lines)]
    return "".join(f"{' ' * indent}{part}\n" for part in parts)


def ran(text: str, **values: object) -> tuple[PlanStatus, set[str]]:
    """How the plan ended, and which tasks ran."""
    play = played(text, dict(values))
    tasks = {step.name for step in play.document.steps if isinstance(step, Task)}
    done = {name for name, step in play.state.steps.items() if step.status is StepStatus.COMPLETED}
    return play.state.status, tasks & done


# --- what waits ------------------------------------------------------------------------------------------------


def test_steps_that_share_nothing_wait_for_nothing() -> None:
    assert waits(do("a") + do("b", "x = topic") + do("c")) == {"a": [], "b": [], "c": []}


def test_whoever_reads_waits() -> None:
    assert waits(do("a", "-> x") + do("b", 't = "{x.text}"') + do("c")) == {"a": [], "b": ["a"], "c": []}


@pytest.mark.parametrize("step", ['gate "stop"\n', 'check "stop" topic == 1\n'])
def test_what_follows_a_gate_or_a_check_waits_for_it(step: str) -> None:
    assert waits(do("a") + step + do("b") + do("c")) == {"a": [], "stop": [], "b": ["stop"], "c": ["stop"]}


def test_an_ordered_script_is_a_chain() -> None:
    assert waits("ordered = true\n" + do("a") + do("b") + do("c")) == {"a": [], "b": ["a"], "c": ["b"]}


def test_after_names_labels_and_steps() -> None:
    text = do("First one") + do("Second") + do("c", 'after = ["First one", "second"]') + do("d", 'after = "Second"')

    assert waits(text) == {"first-one": [], "second": [], "c": ["first-one", "second"], "d": ["second"]}


def test_an_emit_waits_for_all_that_is_above_it_and_around_it() -> None:
    text = (
        do("a")
        + 'decide "d" with rules\n  when x == 1 -> "One"\n  otherwise -> "Two"\n"One":\n'
        + do("b", indent=2)
        + do("c", indent=2)
        + '  emit "end"\n"Two":\n'
        + do("e", indent=2)
    )
    assert waits(text)["end"] == ["a", "b", "c", "d"]
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"a", "b", "c"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, {"a", "e"})


def test_an_emit_waits_for_what_control_has_left_behind() -> None:
    text = (
        'decide "d" with rules\n  when x == 1 -> "One"\n  otherwise -> "Two"\n"One":\n'
        + do("a", indent=2)
        + '  decide "e" with rules\n    when x == 1 -> "Two"\n    otherwise -> "Three"\n  "Three":\n'
        + do("b", indent=4)
        + '"Two":\n  emit "end"\n'
    )
    assert "a" in waits(text)["end"]
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"a"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, set())


def test_what_follows_branches_waits_for_the_end_of_the_one_that_was_taken() -> None:
    text = (
        'decide "d" with rules\n  when x == 1 -> "One"\n  otherwise -> "Two"\n"One":\n'
        + do("a", indent=2)
        + '  gate "look"\n'
        + do("b", indent=2)
        + '"Two":\n'
        + do("c", indent=2)
        + do("after")
    )
    assert waits(text)["after"] == ["a", "b", "c"]
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"a", "b", "after"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, {"c", "after"})


def test_where_one_of_two_branches_ends_the_plan_what_follows_is_in_the_other() -> None:
    text = (
        do("first", "-> f")
        + 'decide "d" with rules\n  when x == 1 -> "Go"\n  otherwise -> "Stop"\n"Go":\n'
        + do("a", indent=2)
        + '"Stop":\n'
        + do("b", indent=2)
        + '  emit "stopped"\n'
        + do("after", "f = f")
    )
    steps = {step.name: step for step in compiled(text).plan.steps}

    assert steps["after"].branch == steps["a"].branch
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"first", "a", "after"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, {"first", "b"})


def test_where_several_branches_go_on_and_one_does_not_they_meet() -> None:
    text = (
        do("first", "-> f")
        + 'decide "d" with rules\n  when x == 1 -> "One"\n  when x == 2 -> "Two"\n  otherwise -> "Stop"\n"One":\n'
        + do("a", indent=2)
        + '"Two":\n"Stop":\n  emit "stopped"\n'
        + do("after", "f = f")
    )
    assert [step.name for step in compiled(text).plan.steps if step.label == "Branches meet"] == ["meet", "meet-2"]
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"first", "a", "after"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, {"first", "after"})
    assert ran(text, x=3) == (PlanStatus.COMPLETED, {"first"})


def test_a_goto_leaves_what_follows_to_those_that_pass() -> None:
    text = (
        'check "c" x == 1\n  on fail: goto "Small"\n' + do("big") + '"Small":\n' + do("small", indent=2) + do("after")
    )
    assert ran(text, x=1) == (PlanStatus.COMPLETED, {"big", "after"})
    assert ran(text, x=2) == (PlanStatus.COMPLETED, {"small", "after"})


def test_several_steps_may_lead_to_one_branch() -> None:
    text = (
        'check "c" x == 1\n  on fail: goto "Out"\ncheck "d" y == 1\n  on fail: goto "Out"\n'
        + do("in")
        + '"Out":\n'
        + do("out", indent=2)
    )
    assert ran(text, x=1, y=1) == (PlanStatus.COMPLETED, {"in"})
    assert ran(text, x=1, y=2) == (PlanStatus.COMPLETED, {"out"})
    assert ran(text, x=2, y=2) == (PlanStatus.COMPLETED, {"out"})


def test_a_decide_in_a_branch_may_lead_to_a_branch_beside_that() -> None:
    text = (
        'decide "d" with rules\n  when x == 1 -> "One"\n  otherwise -> "Two"\n'
        '"One":\n  decide "e" with rules\n    when y == 1 -> "Inner"\n    otherwise -> "Two"\n  "Inner":\n'
        + do("a", indent=4)
        + '"Two":\n'
        + do("b", indent=2)
        + do("after")
    )
    assert ran(text, x=1, y=1) == (PlanStatus.COMPLETED, {"a", "after"})
    assert ran(text, x=1, y=2) == (PlanStatus.COMPLETED, {"b", "after"})
    assert ran(text, x=2, y=1) == (PlanStatus.COMPLETED, {"b", "after"})


def test_the_output_is_given_at_the_end_of_whatever_goes_on() -> None:
    text = (
        "output\n  r = f.r\n"
        + do("first", "-> f")
        + 'check "c" x == 1\n  on fail: goto "Stop"\n"Stop":\n  emit "stopped"\n'
        + do("a")
    )
    play = played(text, {"x": 1}, {"first": {"r": 7}})

    (end,) = [event for event in play.events if isinstance(event, PlanCompleted)]
    assert (end.outcome, end.result.value) == ("completed", {"r": 7})


# --- what is wrong with it -------------------------------------------------------------------------------------

RULES = 'decide "d" with rules\n  when x == 1 -> "One"\n  otherwise -> "Two"\n'
BOTH = '"One":\n' + do("a", indent=2) + '"Two":\n' + do("b", indent=2)


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "message"),
    [
        (RULES + '"One":\n' + do("a", indent=2), 3, 16, "unknown_branch", "there is no branch 'Two' below this"),
        (BOTH.replace("Two", "Three") + RULES, 1, 1, "unused_branch", "nothing leads to the branch 'One'"),
        (RULES + BOTH + '"Three":\n' + do("c", indent=2), 8, 1, "unused_branch", "nothing leads to the branch 'Three'"),
        (
            RULES + BOTH + '"One":\n' + do("c", indent=2),
            8,
            1,
            "duplicate_label",
            "there is a branch 'One' already, on line 4",
        ),
        (
            RULES + do("between") + BOTH,
            4,
            1,
            "unreachable",
            "this is never reached: 'd' goes on in one of its branches",
        ),
        (
            RULES + '"One":\n  emit "e"\n"Two":\n  emit "f"\n' + do("late"),
            8,
            1,
            "unreachable",
            "this is never reached: every branch",
        ),
        ('emit "e"\n' + do("late"), 2, 1, "unreachable", "this is never reached: the plan ends at 'e' above"),
        ("output\n  a = 1\n" + 'emit "e"\n', 1, 1, "unreachable", "the output is never given: the plan ends at 'e'"),
        (do("a", 'after = ["b"]') + do("b", 'after = ["a"]'), 2, 12, "cycle", "these steps wait for one another"),
        (do("a", 'after = ["e"]') + 'emit "e"\n', 2, 12, "waits_for_emit", "an emit ends the plan"),
        (
            'decide "d" with rules\n  when 1 > 2 -> "One"\n  otherwise -> "Two"\n' + BOTH,
            5,
            3,
            "unreachable",
            "'a' can never run",
        ),
    ],
)
def test_an_order_that_cannot_be_says_where(text: str, line: int, column: int, code: str, message: str) -> None:
    one = problems(text)[0]

    assert (one.line, one.column, one.code) == (line, column, code)
    assert one.message.startswith(message)


def test_control_goes_forward_only() -> None:
    text = RULES + BOTH + 'check "c" y\n  on fail: goto "One"\n'

    (one,) = problems(text)

    assert (one.line, one.column, one.code) == (9, 17, "backward")
    assert "retry" in one.hint
    assert "each" in one.hint


def test_a_branch_inside_of_another_one_is_out_of_reach() -> None:
    text = (
        RULES + '"One":\n  check "c" y\n    on fail: goto "Deep"\n  "Deep":\n' + do("a", indent=4) + '"Two":\n'
        '  check "e" z\n    on fail: goto "Deep"\n' + do("b", indent=2)
    )
    assert [(line, code) for line, _, code in said(text)] == [(11, "unknown_branch")]


def test_a_branch_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    (one, _) = problems(RULES.replace('"Two"', '"Too"') + BOTH)

    assert (one.code, one.hint) == ("unknown_branch", "did you mean Two?")


def test_a_line_that_cannot_be_read_does_not_make_others_wrong() -> None:
    assert said(RULES.replace("x == 1", "x = 1").replace("otherwise ->", "otherwise") + BOTH) == [
        (2, 10, "bad_expression"),
        (3, 13, "syntax"),
    ]


# --- what is tried again, and what is run ----------------------------------------------------------------------


def test_a_step_completes_only_with_what_passes_its_checks() -> None:
    text = do("write", "-> text") + 'check "short" count(text) < 4\n  on fail: retry 2\n' + do("send", "text = text")

    play = played(text, {}, {"write": Attempts(["too long", "fits"[:3]])})
    stuck = played(text, {}, {"write": Attempts(["too long"] * 3)})

    assert (play.state.status, play.attempt("write")) == (PlanStatus.COMPLETED, 2)
    assert (stuck.state.status, stuck.status("write"), stuck.status("send")) == (PlanStatus.PAUSED, "failed", "pending")
    assert stuck.state.steps["write"].failure.code == "not_accepted"


def test_a_plan_that_was_written_is_run() -> None:
    text = """\
plan "Think" with llm
  max_steps = 3
  validate = true
  -> mission
run mission
  mode = "safe"
  topic = topic
  -> result
emit "Done"
  result = "{result.outcome}: {result.result}, {result.status}"
"""
    child = {
        "name": "Child",
        "inputs": {"topic": {"type": "text"}},
        "steps": [
            {"kind": "task", "name": "look", "agent": "worker", "inputs": {"at": "{topic}"}},
            {"kind": "emit", "name": "end", "outcome": "Seen", "result": "{look}"},
        ],
    }

    (end,) = played(text, {"topic": "bees"}, {"think": child, "look": "many"}).of_type(PlanCompleted)

    assert end.result.value == "Seen: many, completed"


FALLBACK = """\
do "Ask" with worker
  on error: fallback other { about: topic }
  -> answer
do "Use" with worker
  text = answer.text
emit "Done"
  result = answer.text
"""


@pytest.mark.parametrize(
    ("outputs", "result", "instead"),
    [
        ({"ask": {"text": "first"}, "ask-instead": {"text": "second"}}, "first", "not_taken"),
        ({"ask": None, "ask-instead": {"text": "second"}}, "second", "completed"),
    ],
)
def test_what_has_failed_for_good_is_done_by_another(outputs: dict[str, object], result: str, instead: str) -> None:
    play = played(FALLBACK, {"topic": "bees"}, outputs)

    (end,) = play.of_type(PlanCompleted)
    assert (end.result.value, play.status("ask-instead")) == (result, instead)
    assert set(play.state.graph.needs["done"]) >= {"ask", "ask-failed", "ask-instead", "use"}


def test_a_fallback_in_a_branch_and_for_an_item() -> None:
    branch = (
        'check "c" x == 1\n  on fail: goto "B"\n"B":\n'
        + do("a", "on error: fallback other", "-> y", indent=2)
        + do("after", 't = y.text ?? "none"')
    )
    items = "each i in x\n" + do("a", "on error: fallback other { of: i }", "-> y", indent=2) + "-> all\n"
    items += 'emit "Done"\n  result = all\n'

    assert ran(branch, x=1) == (PlanStatus.COMPLETED, {"after"})
    (end,) = played(items, {"x": [1, 2]}, {"a": [{"n": 1}, None], "a-instead": [None, {"n": 2}]}).of_type(PlanCompleted)
    assert end.result.value == [{"n": 1}, {"n": 2}]
    (one,) = problems(branch.replace(' ?? "none"', ""))
    assert (one.code, one.message) == ("maybe_unbound", "'y' is bound in some branches only, and may be missing here")
    assert said(items.replace("result = all", "result = y"))[0][2] == "unknown_name"


def test_a_binding_of_a_step_with_a_fallback_is_its_own() -> None:
    text = (
        'check "c" x == 1\n  on fail: goto "B"\n'
        + do("b", "-> y")
        + '"B":\n'
        + do("a", "on error: fallback other", "-> y", indent=2)
    )
    assert [code for _, _, code in said(text)] == ["name_taken"]
    assert said(do("u", "t = y") + do("a", "on error: fallback other", "-> y"))[0][2] == "read_before_bound"


def test_an_emit_of_one_branch_does_not_wait_for_that_of_another_above_it() -> None:
    text = """\
check "Plenty?" stock > 100
  on fail: goto "Order"
do "Report" with worker
emit "There is plenty"
"Order":
  do "Order more" with worker
  emit "Ordered"
"""
    for stock, done in ((500, {"plenty", "report", "there-is-plenty"}), (5, {"plenty", "order-more", "ordered"})):
        play = played(text, {"stock": stock})

        assert play.state.status is PlanStatus.COMPLETED
        assert {name for name, step in play.state.steps.items() if step.status == "completed"} == done


def test_a_gate_in_a_branch_shows_what_comes_where_the_branches_meet() -> None:
    text = """\
do "Write" with worker
  -> letter
decide "Route" with rules
  when urgent -> "Look"
  otherwise -> "Go"
"Look":
  gate "Check it"
"Go":
  do "Note it" with worker
do "Post" with mailer
  text = letter.text
"""
    (opened,) = played(text, {"urgent": True}, {"write": {"text": "Hello"}}).of_type(GateOpened)

    assert [(one.step, one.kind, one.inputs) for one in opened.releases] == [("post", "task", {"text": "Hello"})]
