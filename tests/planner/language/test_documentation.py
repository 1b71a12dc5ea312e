"""Every example in docs/plan-language.md is what it says it is."""

import re
from pathlib import Path
from typing import Any

import pytest
from scripts import compiled, document, played

from planmesh.cli import main
from planmesh.planner.advice import advise
from planmesh.planner.language.format import format_script
from planmesh.planner.language.names import slug
from planmesh.planner.language.recognise import Script
from planmesh.schemas.state import PlanStatus

PAGE = Path(__file__).parents[3] / "docs" / "plan-language.md"
_BLOCK = re.compile(r"^```([a-z-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall(PAGE.read_text())
PLANS = [text for kind, text in BLOCKS if kind in ("plan", "plan-flat")]

VALUES: dict[str, Any] = {
    "topic": "bees",
    "pages": ["one", "two"],
    "first": "Ada",
    "last": "Lovelace",
    "priority": "high",
    "deadline": "2027-01-01",
    "reviewers": 2,
    "quarter": "Q1",
    "letter": "This is too late.",
    "service": "shop",
    "urls": ["https://example.com/1", "https://example.com/2"],
}
OUTPUTS: dict[str, Any] = {
    "collect": {"items": [1, 2, 3, 4]},
    "write": {"text": "A report."},
    "audit": {"summary": "In order.", "pages": ["one"]},
    "translate": {"text": "Eine Seite."},
    "fetch": {"text": "A page.", "words": 200},
    "build": {"version": "1.2", "changes": ["faster"]},
    "how-many-copies": 3,
    "which-paper": "glossy",
    "classify": {"name": "complaint", "summary": "late"},
    "answer": {"text": "Sorry."},
    "count": {"left": 200, "name": "paper"},
    "headline": {"text": "Bees!"},
    "research": {"text": "Bees fly."},
    "plan-the-migration": {
        "name": "Migrate",
        "inputs": {"service": {"type": "text"}},
        "steps": [{"kind": "task", "name": "move", "agent": "deploy", "inputs": {"what": "{service}"}}],
    },
    "summarise": {"text": "In short."},
}
"""What the steps of the examples give, by name."""


@pytest.mark.parametrize("text", PLANS)
def test_every_example_is_run(text: str) -> None:
    inputs = compiled(text).plan.inputs

    play = played(text, {name: VALUES[name] for name, one in inputs.items() if one.default is None}, OUTPUTS)

    assert play.state.status is PlanStatus.COMPLETED, play.state.reason


@pytest.mark.parametrize("text", PLANS)
def test_every_example_looks_as_it_should(text: str) -> None:
    formatted = format_script(text)

    assert isinstance(formatted, str)
    assert document(formatted) == document(text)
    if text not in [flat for kind, flat in BLOCKS if kind == "plan-flat"]:
        assert formatted == text


def test_what_is_said_of_a_broken_script_is_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, broken),) = [block for block in BLOCKS if block[0] == "plan-error"]
    ((_, shown),) = [block for block in BLOCKS if block[0] == "text"]
    monkeypatch.chdir(tmp_path)
    Path("broken.plan").write_text(broken)

    assert main(["validate", "broken.plan"]) == 1

    assert capsys.readouterr().out == shown


def test_names_are_made_as_the_page_says() -> None:
    assert slug("Draft report") == "draft-report"
    assert slug("Résumé prüfen") == "resume-prufen"


def test_only_what_should_be_better_gets_advice() -> None:
    given = {problem.code for text in PLANS for problem in advise(Script(text))}

    assert given <= {"name_like_binding"}
