"""Plan documents in files."""

import json
from pathlib import Path

import pytest

from planmesh.cli import main
from planmesh.cli.document import values
from planmesh.cli.session import NotUnderstood

ROOT = Path(__file__).parents[3]

WRONG = """\
version: 1
name: Wrong
steps:
  - kind: task
    name: one
    agent: write-greeting
    after: [tow]
  - {kind: task, name: two, agent: write-greting}
"""

DECLARES = """\
name: Declares
inputs:
  title: {type: text}
  count: {type: integer}
  when: {type: date}
  rest: {type: any}
steps: []
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    return file


def test_values_are_what_the_document_declares() -> None:
    given = ["title=3", "count=3", "when=2026-01-01", 'rest={"a": [1]}', "unknown=words = more"]

    assert values(DECLARES, given) == {
        "title": "3",
        "count": 3,
        "when": "2026-01-01",
        "rest": {"a": [1]},
        "unknown": "words = more",
    }


@pytest.mark.parametrize("pairs", [["alone"], ["=value"], ["a=1", "a=2"]])
def test_a_value_that_cannot_be_meant_is_refused(pairs: list[str]) -> None:
    with pytest.raises(NotUnderstood, match="--input"):
        values(DECLARES, pairs)


def test_everything_that_is_wrong_is_told_with_its_place(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["validate", str(wrong)])

    out, err = capsys.readouterr()
    assert code == 1
    assert out.splitlines() == [
        f"{wrong}:7:13  /steps/0/after/0  unknown_step",
        "  ✗ there is no step called 'tow'",
        "    did you mean two?",
    ]
    assert err == f"planmesh: {wrong} is not a plan that can run: 1 problem\n"


def test_agents_are_checked_where_their_modules_are_named(
    wrong: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))

    code = main(["validate", str(wrong), "--agents", "hello_agents", "-o", "jsonl"])

    problems = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [(one["code"], one["pointer"]) for one in problems] == [
        ("unknown_step", "/steps/0/after/0"),
        ("missing_input", "/steps/0/inputs"),
        ("unknown_agent", "/steps/1/agent"),
    ]


def test_a_plan_that_can_run_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["validate", str(ROOT / "planmesh" / "demo" / "audit.yaml")])

    assert code == 0
    assert "is a plan: Dependency audit, 9 steps" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_matter_of_usage(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    if content is not None:
        file.write_bytes(content)

    assert main(["validate", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
