"""Every example in docs/plan-language.md is what it says it is."""

import re
from pathlib import Path

import pytest
from scripts import document

from planmesh.cli import main
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.format import format_script
from planmesh.planner.language.names import slug
from planmesh.planner.language.recognise import Script
from planmesh.planner.language.translate import translate

PAGE = Path(__file__).parents[3] / "docs" / "plan-language.md"
_BLOCK = re.compile(r"^```([a-z-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall(PAGE.read_text())
PLANS = [text for kind, text in BLOCKS if kind in ("plan", "plan-flat")]


@pytest.mark.parametrize("text", PLANS)
def test_every_example_is_a_plan(text: str) -> None:
    found = compile_plan(Script(text), None)

    if isinstance(found, Compiled):
        return
    # What the engine cannot run yet is said by name, and nothing else is wrong with it.
    assert {problem.code for problem in found} == {"not_supported_yet"}
    assert re.search(r"^(?:ask|agent|plan|run|each) ", text, re.MULTILINE)


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
    given = {problem.code for text in PLANS for problem in translate(text).advice}

    assert given <= {"name_like_binding"}
