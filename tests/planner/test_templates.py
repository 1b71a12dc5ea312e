"""Plans that the mesh keeps, in files."""

import json
from pathlib import Path

import pytest

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.templates import Template, Templates
from planmesh.schemas.goals import Problem

DOCUMENT = {"name": "Demo", "steps": [{"kind": "task", "name": "say", "agent": "echo"}]}


def code(templates: Templates, name: str) -> str:
    found = templates.read(name)
    assert isinstance(found, Problem), found
    assert found.pointer == "/template"
    return found.code


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("demo.json", json.dumps(DOCUMENT)),
        ("demo.yaml", "name: Demo\nsteps: [{kind: task, name: say, agent: echo}]\n"),
        ("demo.yml", "\ufeffname: Demo\nsteps: [{kind: task, name: say, agent: echo}]\n"),
        ("demo.plan", 'script "Demo"\n\ndo "Say" with echo\n'),
        ("demo.plan", '# A script begins as it likes.\n\ndo "Say" with echo\n'),
    ],
)
def test_a_template_is_a_plan_in_any_form(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, "utf-8")
    templates = Templates(tmp_path)

    found = templates.read("demo")

    assert templates.names() == ["demo"]
    assert isinstance(found, Template)
    compiled = compile_plan(found.document, None)
    assert isinstance(compiled, Compiled)
    assert [step.name for step in compiled.plan.steps] == ["say"]


def test_a_change_holds_at_once(tmp_path: Path) -> None:
    templates = Templates(tmp_path)
    assert templates.names() == []

    (tmp_path / "a.json").write_text("{}")
    first = templates.read("a")
    (tmp_path / "a.json").write_text("[]")
    second = templates.read("a")

    assert isinstance(first, Template)
    assert isinstance(second, Template)
    assert (first.text, second.text) == ("{}", "[]")
    assert first.sha256 != second.sha256


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a.json", "a\0", "x" * 65, "ä", "a\n"]
)
def test_a_name_does_not_lead_out_of_the_directory(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "templates"
    inside.mkdir()
    (tmp_path / "secret.json").write_text(json.dumps(DOCUMENT))
    (inside / "a.json").write_text(json.dumps(DOCUMENT))

    assert code(Templates(inside), name) == "unknown_template"


def test_nor_does_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "templates"
    inside.mkdir()
    (tmp_path / "secret.json").write_text(json.dumps(DOCUMENT))
    (inside / "a.json").symlink_to(tmp_path / "secret.json")

    assert code(Templates(inside), "a") == "bad_template"


def test_a_link_within_the_directory_is_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "b.json").symlink_to("a.json")

    assert isinstance(Templates(tmp_path).read("b"), Template)


def test_what_is_no_template_has_no_name(tmp_path: Path) -> None:
    for file in ("notes.txt", "two words.json", ".json", "a.json.bak"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "folder.json").mkdir()

    assert Templates(tmp_path).names() == []
    assert code(Templates(tmp_path), "folder") == "unknown_template"


def test_two_files_of_one_name_are_not_chosen_from(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.plan").write_text("")

    found = Templates(tmp_path).read("a")

    assert isinstance(found, Problem)
    assert found.message == "several files are the template 'a': a.plan and a.json"


@pytest.mark.parametrize(
    ("data", "said"), [(b"\xff", "is not UTF-8"), (b" " * (4 * 1024 * 1024 + 1), "more than 4,194,304")]
)
def test_a_file_that_cannot_be_a_plan_is_told(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(data)

    found = Templates(tmp_path).read("a")

    assert isinstance(found, Problem)
    assert said in found.message


def test_a_directory_that_is_not_there_has_no_templates(tmp_path: Path) -> None:
    templates = Templates(tmp_path / "nowhere")

    assert templates.names() == []
    assert code(templates, "a") == "unknown_template"


def test_without_a_directory_it_says_how_to_have_one() -> None:
    found = Templates(None).read("a")

    assert isinstance(found, Problem)
    assert "PLANMESH_PLANNER__TEMPLATES" in found.hint
