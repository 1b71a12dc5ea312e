"""The picture of a plan around a gate: every kind of step, and plans of any size."""

import re
from collections import Counter
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import gate, plan, task

from planmesh.gatekeeper.web.picture import Picture, draw
from planmesh.schemas.events import PlanCreated, PlanStarted
from planmesh.schemas.plan import Ask, Draft, Each, Gate, Plan, Run, Task
from planmesh.schemas.state import PlanState, evolve
from planmesh.schemas.subjects import Address

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def state_of(made: Plan) -> PlanState:
    created = PlanCreated(plan=made, requester="tester", goal_digest="digest")
    state = evolve(PlanState(address=Address("tester", "pay")), created, NOW)
    return evolve(state, PlanStarted(by="tester"), NOW)


def notes(picture: Picture) -> dict[str, str]:
    return {one.name: one.note for one in picture.steps}


def test_each_kind_of_step_says_what_it_is() -> None:
    body = Task(name="pay", agent="agent")
    made = plan(
        gate("ok"),
        Ask(name="how", after=("ok",)),
        Draft(name="draft", after=("ok",)),
        Run(name="child", document="draft", after=("draft",)),
        Each(name="items", items="orders", steps=(body,), after=("ok",)),
    )

    picture = draw(state_of(made), "ok")

    found = notes(picture)
    assert found["ok"] == "this gate, not started"
    assert found["how"] == "question, not started"
    assert found["draft"] == "writes a plan, not started"
    assert found["child"] == "runs a plan, not started"
    assert found["items"] == "for each item, not started"
    assert picture.left_out == 0


def test_a_long_name_takes_two_lines_and_no_more() -> None:
    made = plan(gate("ok", label="Approve the payment"), task("long", "ok", label="A name of a step " * 9))

    words = [one.text for one in ElementTree.fromstring(draw(state_of(made), "ok").svg).iter("text") if one.text]

    assert words[:2] == ["Approve the", "payment"]
    assert [one.endswith("…") for one in words[3:5]] == [False, True]
    assert len(words) == 6


def test_steps_that_are_alike_are_one_box_and_the_gate_is_marked_once() -> None:
    made = plan(
        gate("ok"), *(task(f"t{number}", "ok") for number in range(97)), task("end", *(f"t{n}" for n in range(97)))
    )

    picture = draw(state_of(made), "ok")

    assert notes(picture) == {"ok": "this gate, not started", "97 steps": "not started", "end": "not started"}
    assert picture.svg.count(" here") == 1
    assert picture.left_out == 0


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 60), max_size=4), min_size=1, max_size=60), st.data())
def test_a_plan_of_any_shape_fits_on_a_screen_and_counts_every_step(wants: list[set[int]], data: st.DataObject) -> None:
    here = data.draw(st.integers(0, len(wants) - 1))
    steps = [
        (Gate if number == here else Task)(
            name=f"s{number}",
            after=tuple(f"s{need}" for need in sorted(found) if need < number),
            **({} if number == here else {"agent": "agent"}),
        )
        for number, found in enumerate(wants)
    ]

    picture = draw(state_of(plan(*steps)), f"s{here}")

    drawn = ElementTree.fromstring(picture.svg)
    boxes = [one for one in drawn if one.tag == "g"]
    assert len(boxes) == len(picture.steps)
    counted = sum(int(found[1]) if (found := re.fullmatch(r"(\d+) steps", one.name)) else 1 for one in picture.steps)
    assert counted + picture.left_out == len(steps)
    assert sum(one.is_here for one in picture.steps) == 1
    places = [(one.findall("rect")[-1].get("x"), one.findall("rect")[-1].get("y")) for one in boxes]
    assert len(set(places)) == len(boxes)
    assert max(Counter(y for _, y in places).values()) <= 3


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a" onload="x', "a & b\u202e"])
def test_what_steps_are_called_is_text(name: str) -> None:
    picture = draw(state_of(plan(gate("ok", label=name), task("pay", "ok", label=name))), "ok")

    ElementTree.fromstring(picture.svg)
    assert "<script" not in picture.svg
    assert "\u202e" not in picture.svg
    assert 'onload="x' not in picture.svg
