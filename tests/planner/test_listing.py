"""Lists of the plans that the mesh keeps: right, however often they are asked for, and checked as seldom as can be."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planmesh.planner.listing import Listing
from planmesh.planner.templates import Templates
from planmesh.schemas.work import AgentDescription

ECHO = {"echo": AgentDescription(name="echo", any_parameters=True)}


def write(directory: Path, name: str, agent: str = "echo", steps: int = 1) -> None:
    document = {
        "name": f"By {agent}",
        "steps": [{"kind": "task", "name": f"s{n}", "agent": agent} for n in range(steps)],
    }
    (directory / f"{name}.json").write_text(json.dumps(document))


def test_a_template_is_checked_once_as_long_as_nothing_changes(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", agent="nobody")
    listing = Listing(Templates(tmp_path))

    first, second = listing.answer(ECHO, None), listing.answer(dict(ECHO), None)

    assert first == second
    assert listing.checked == 2
    assert [(row.template, row.name, row.steps, row.problems) for row in first.templates] == [
        ("a", "By echo", 1, 0),
        ("b", "", 0, 1),
    ]


def test_only_what_has_changed_is_checked_again(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b")
    listing = Listing(Templates(tmp_path))
    listing.answer(ECHO, None)

    write(tmp_path, "b", steps=3)
    (tmp_path / "a.json").rename(tmp_path / "c.json")
    rows = listing.answer(ECHO, None).templates

    assert [(row.template, row.steps) for row in rows] == [("b", 3), ("c", 1)]
    assert listing.checked == 4


def test_who_there_is_changes_what_can_run(tmp_path: Path) -> None:
    write(tmp_path, "a", agent="later")
    listing = Listing(Templates(tmp_path))

    without = listing.answer(ECHO, None).templates
    there = listing.answer({**ECHO, "later": AgentDescription(name="later", any_parameters=True)}, None).templates

    assert [(row.problems, row.steps) for row in (*without, *there)] == [(1, 0), (0, 1)]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["echo", "nobody", ""]), st.integers(1, 3))))
def test_a_list_is_always_what_it_would_be_if_it_was_made_anew(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("kept")
    listing = Listing(Templates(directory))
    for name, agent, steps in changes:
        if agent:
            write(directory, name, agent, steps)
        else:
            (directory / f"{name}.json").unlink(missing_ok=True)
        assert listing.answer(ECHO, None) == Listing(Templates(directory)).answer(ECHO, None)
