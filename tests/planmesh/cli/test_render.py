"""A plan as lines for a terminal."""

from datetime import UTC, datetime, timedelta

from plays import TOLD, Play, plan, task

from planmesh.cli import render
from planmesh.cli.looks import PLAN, STEP
from planmesh.cli.view import of_state
from planmesh.schemas import commands as asks
from planmesh.schemas.plan import Branch, Case, Decide, Each
from planmesh.schemas.queries import PlanRow
from planmesh.schemas.state import PlanStatus, StepStatus


def lines(play: Play, most: int | None = None, **hints: str) -> list[str]:
    view = of_state(play.state)
    at = play.at + timedelta(seconds=2)
    drawn = render.steps(view, render.places(play.document), at, most=most, hints=hints)
    return [line.plain.rstrip() for line in drawn]


def test_every_status_has_a_sign_and_a_word() -> None:
    assert {status.value for status in StepStatus} <= set(STEP)
    assert set(PLAN) == set(PlanStatus)
    assert all(len(look.sign) == 1 and len(look.word) <= 10 for look in (*STEP.values(), render.RETRYING))


def test_a_step_says_who_has_it_and_how_long(release: Play) -> None:
    assert lines(release, docs="half of it") == [
        "  ┌─ ● build  running       2.0 s  agent",
        "  └─ ● docs   running       2.0 s  agent · half of it · Write the docs",
        "  ○ approve   pending              gate for role:operator",
        "  ○ deploy    pending              agent",
        "  ○ done      pending              → Released",
    ]


def test_a_step_that_is_tried_again_says_when_and_why(release: Play) -> None:
    release.fails("build")

    assert lines(release)[0] == "  ┌─ ↻ build  retrying             agent · again 1 s ago · agent_error: it broke"


def test_a_step_says_what_it_has_used() -> None:
    play = Play(plan(task("write")))
    play.completes("write", **TOLD)

    assert lines(play) == ["  ✓ write  completed     0.5 s  agent · 1 model call, 1 tool call, 7 tokens in, 5 out"]


def test_the_header_says_how_it_stands(asked: Play) -> None:
    first, second = render.header(of_state(asked.state), asked.at)

    assert first.plain == "  A plan   ◆ waiting for a person"
    assert second.plain == "  plan · 2 of 5 steps · 3.0 s"


def test_what_a_cancelled_plan_has_not_done_does_not_count_as_done(asked: Play) -> None:
    asked.ask(asks.CancelPlan(id="c"))
    view = of_state(asked.state)

    assert "2 of 5 steps" in render.header(view, asked.at)[1].plain
    assert render.plans([view.plan], asked.at, spaces=False)[1].plain.split()[3] == "5"


def test_an_ended_plan_gives_its_result(asked: Play) -> None:
    asked.votes("approve")
    asked.completes("deploy")

    view = of_state(asked.state)

    assert render.status(view.plan).plain == "✓ completed: Released"
    assert render.result(view) == []
    assert lines(asked)[2:] == [
        "  ✓ approve   completed            approved by ada",
        "  ✓ deploy    completed     0.5 s  agent",
        "  ✓ done      completed            → Released",
    ]


def test_a_result_is_shown_by_name() -> None:
    play = Play(plan(task("only")))
    play.completes("only", output={"n": 1})

    shown = [line.plain for line in render.result(of_state(play.state))]

    assert shown == ["  Result", '    only  {"n":1}']


def test_branches_say_which_was_taken() -> None:
    play = Play(
        plan(
            Decide(name="which", cases=(Case(when="n > 1", then="many"),), otherwise="few"),
            task("one", "which", branch=Branch(step="which", label="few")),
            task("more", "which", branch=Branch(step="which", label="many")),
        ),
        inputs={"n": 1},
    )

    assert lines(play) == [
        "  ✓ which    completed            → few",
        "  ├─ ● one   running       2.0 s  agent",
        "  └─ – more  not taken            agent",  # noqa: RUF001
    ]


def test_what_matters_is_kept_when_there_is_no_room() -> None:
    play = Play(plan(*(task(f"t{number}") for number in range(100))))
    for number in range(50):
        play.completes(f"t{number}")
    play.fails("t70", retryable=False)

    shown = lines(play, most=12)

    assert len(shown) == 12
    assert any("t70" in line and "failed" in line for line in shown)
    assert "  ⋮ 50 completed" in shown


def test_a_list_has_one_line_a_plan(asked: Play) -> None:
    rows = [of_state(asked.state).plan]

    shown = [line.plain for line in render.plans(rows, asked.at + timedelta(minutes=5), spaces=False)]

    assert shown == [
        "PLAN  STATUS                  STEPS     TIME  CREATED  WHAT",
        "plan  ◆ waiting for a person    2/5  5 m 3 s  5 m ago  at approve · A plan",
    ]


def test_a_list_says_once_at_which_step_a_plan_has_stopped() -> None:
    play = Play(plan(task("a")))
    play.fails("a")

    shown = [line.plain for line in render.plans([of_state(play.state).plan], play.at, spaces=False)]

    assert "‖ paused at a" in shown[1]
    assert shown[1].endswith("  A plan")


def items(count: int) -> Play:
    body = (task("read", inputs={"of": "{item}"}), task("write", "read"))
    each = Each(name="all", items=f"[{', '.join(map(str, range(count)))}]", steps=body, after=("first",))
    return Play(plan(task("first"), each, task("last", "all")))


def test_items_stand_below_what_goes_through_them() -> None:
    play = items(2)
    play.completes("first")
    play.completes("read_1")
    play.fails("read_2")

    assert lines(play) == [
        "  ✓ first      completed     0.5 s  agent",
        "  ● all        running              each item in [0, 1]",
        "  ┊ ✓ read_1   completed     0.5 s  agent",
        "  ┊ ● write_1  running       3.0 s  agent",
        "  ┊ ✗ read_2   failed        0.5 s  agent · agent_error: it broke",
        "  ┊ ○ write_2  pending              agent",
        "  ○ last       pending              agent",
    ]


def test_of_many_items_only_what_matters_is_shown() -> None:
    play = items(15)
    play.completes("first")
    for number in range(1, 13):
        play.completes(f"read_{number}")
        play.completes(f"write_{number}")
    play.fails("read_14")

    shown = lines(play)

    assert [line.split()[1] for line in shown if "┊" in line] == [
        "⋮",
        "●",
        "⋮",
        "✗",
        "⋮",
        "●",
        "⋮",
    ]
    assert "⋮ 24 completed" in shown[2]
    assert len(shown) == 10


def test_a_narrow_list_of_plans_says_each_status_in_a_word() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    row = PlanRow(
        space="s",
        plan="a-plan-20261122-1648-8y25rn",
        name="A plan with a name that is long",
        status=PlanStatus.COMPLETED,
        requester="ada",
        created_at=noon - timedelta(minutes=5),
        updated_at=noon,
        number=1,
        sequence=1,
    )

    head, shown = (line.plain for line in render.plans([row], noon, spaces=False, width=80))

    assert "✓ completed" in shown
    assert "5 m ago" in shown
    assert shown.index("A plan with") == head.index("WHAT") <= 69


def test_a_narrow_table_cuts_what_is_widest_and_keeps_every_column() -> None:
    rows = [("a-plan-with-a-long-name", "x" * 40, "y" * 60, "3", "why it is so, at some length")]
    head = ("PLAN", "ONE", "OTHER", "NO", "WHY")

    shown = [line.plain for line in render.columns(head, rows, right=frozenset({3}), width=80)]

    (cells,) = [line.split("  ") for line in shown[1:]]
    assert cells[0] == "a-plan-with-a-long-name"
    assert all(cell.rstrip().endswith("…") for cell in cells[1:3])
    assert shown[1].index("why it is so") <= 80 - 24
    assert [line.plain for line in render.columns(head, rows, width=500)] == [
        line.plain for line in render.columns(head, rows)
    ]
