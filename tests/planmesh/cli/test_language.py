"""Plans that are written as they should look."""

import json
from pathlib import Path

import pytest

from planmesh.cli import COMPLETED, FAILED, main
from planmesh.cli.language import fmt
from planmesh.cli.session import Session

FLAT = 'do "A" with a\nx = 1\n-> r\n'
AS_IT_SHOULD = 'do "A" with a\n  x = 1\n  -> r\n'
JSON = '{"name": "X", "steps": [{"kind":"task","name":"a","agent":"b","inputs":{"n": 1.50,"t":"\\u00e9"}}]}'


@pytest.mark.parametrize(("name", "text"), [("a.plan", FLAT), ("a.json", JSON), ("a.txt", FLAT)])
def test_a_plan_is_written_as_it_should_look_once(tmp_path: Path, name: str, text: str) -> None:
    (file := tmp_path / name).write_text(text)
    session = Session(data_dir=tmp_path)

    assert (fmt(file, check=True, session=session), file.read_text()) == (FAILED, text)
    assert fmt(file, session=session) == COMPLETED
    formatted = file.read_text()
    assert (fmt(file, check=True, session=session), fmt(file, session=session)) == (COMPLETED, COMPLETED)

    assert file.read_text() == formatted
    assert formatted == AS_IT_SHOULD or (text == JSON and '\n        "n": 1.50,\n        "t": "\\u00e9"\n' in formatted)


def test_yaml_keeps_its_comments_and_so_its_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "a.yaml").write_text(text := "# Why.\nname:   X\nsteps: [{kind: task, name: a, agent: b}]\n")

    assert fmt(file, session=Session(data_dir=tmp_path)) == COMPLETED

    assert file.read_text() == text
    assert "is YAML, and is left as it is: its comments would be lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.plan", 'do "A" with\n', "expected the name of an agent or tool"),
        ("a.json", '{"name": ', "the text ends too early"),
        ("a.yaml", "name: [", "YAML"),
    ],
)
def test_what_cannot_be_read_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (file := tmp_path / name).write_text(text)

    assert fmt(file, session=Session(data_dir=tmp_path)) == FAILED

    assert file.read_text() == text
    told = capsys.readouterr().err
    assert said in told
    assert f"{name} is left as it is: 1 problem" in told


SCRIPT = 'script "X"\ndo "A" with b\n-> r\ndo "C" with b\nof = r\n'
YAML = """\
name: X
steps:
- {kind: task, name: a, agent: b, binding: r}
- {kind: task, name: c, agent: b, inputs: {of: "{r}"}}
"""
STEPS = [
    {"kind": "task", "name": "a", "agent": "b", "binding": "r"},
    {"kind": "task", "name": "c", "agent": "b", "inputs": {"of": "{r}"}},
]
FORMS = {"x.plan": SCRIPT, "x.yaml": YAML, "x.json": json.dumps({"name": "X", "steps": STEPS})}


@pytest.mark.parametrize(("name", "text"), FORMS.items(), ids=FORMS)
def test_a_plan_in_any_form_is_checked_and_drawn_without_a_mesh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (file := tmp_path / name).write_text(text)
    nowhere = ["--data-dir", str(tmp_path / "nothing"), "--server", "nats://127.0.0.1:9"]
    said = []

    for words in (["validate", str(file)], ["graph", str(file)], ["graph", str(file), "--format", "mermaid"]):
        assert main([*nowhere, *words]) == COMPLETED
        said.append(capsys.readouterr().out)

    checked, tree, drawn = said
    assert "is a plan: X, 2 steps" in checked
    assert tree.index(" a ") < tree.index(" c ")
    assert "s0 --> s1" in drawn
