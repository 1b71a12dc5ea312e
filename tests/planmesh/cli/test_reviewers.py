from pathlib import Path

import pytest
from receivers import web_receiver

from planmesh.cli import COMPLETED, FAILED, USAGE, main

SETTINGS = """
[directory.people.ada]
name = "Ada Lovelace"
channels = ["json://robot:hunter2hunter2@{at}/ada"]
[directory.people.bob]
[directory.teams.finance]
members = ["ada", "bob"]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_reviewers_are_listed_with_who_they_are_and_where_they_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("planmesh.toml").write_text(SETTINGS.format(at="127.0.0.1:9"))

    assert main(["reviewers", "list"]) == COMPLETED

    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[1:4]] == [
        ["person:ada", "Ada", "Lovelace", "ada-json"],
        ["person:bob", "bob", "nowhere"],
        ["team:finance", "Ada", "Lovelace,", "bob", "ada-json"],
    ]
    assert "hunter2" not in said


def test_a_test_notice_reaches_a_channel_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    with web_receiver() as web:
        Path("planmesh.toml").write_text(SETTINGS.format(at=web.at))
        assert main(["reviewers", "test", "team:finance"]) == COMPLETED
        web.answers = [500]
        assert main(["reviewers", "test", "person:ada"]) == FAILED

    assert [(path, post["title"]) for path, post in web.posts] == [("/ada", "A test of planmesh")]
    assert "hunter2" not in capsys.readouterr().out


def test_a_notice_is_shown_as_it_would_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reviewers", "notice", "cancelled"]) == COMPLETED

    said = capsys.readouterr().out
    assert said.startswith(
        "Subject: Closed, undecided: Approve the payment (Pay an invoice)\n\nRead what became of it: "
    )


def test_a_template_of_ones_own_is_shown_or_what_is_wrong_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("planmesh.toml").write_text('[notices]\ntemplates = "mine"\n')
    Path("mine/opened.txt").write_text("Bitte: {{ gate.name }}\n\nDanke.")
    assert main(["reviewers", "notice"]) == COMPLETED
    assert capsys.readouterr().out == "Subject: Bitte: Approve the payment\n\nDanke.\n"

    Path("mine/opened.txt").write_text("Bitte: {{ gate.nmae }}\n\nDanke.")
    assert main(["reviewers", "notice"]) == FAILED
    said = capsys.readouterr()
    assert "opened.txt, line 1: " in said.err
    assert said.out.startswith("Subject: Please decide: Approve the payment")


@pytest.mark.parametrize("reviewer", ["team:finanse", "person:bob"])
def test_nobody_and_whoever_is_told_nowhere_cannot_be_tested(reviewer: str) -> None:
    Path("planmesh.toml").write_text(SETTINGS.format(at="127.0.0.1:9"))

    assert main(["reviewers", "test", reviewer]) == USAGE


def test_a_plan_is_checked_against_the_directory_without_a_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    Path("planmesh.toml").write_text(SETTINGS.format(at="127.0.0.1:9"))
    step = "{kind: gate, name: ok, reviewers: ['team:NAME']}"
    for name, code in (("finance", COMPLETED), ("finanse", FAILED)):
        Path("plan.yaml").write_text(f"version: 1\nname: A plan\nsteps:\n  - {step.replace('NAME', name)}\n")
        assert main(["validate", "plan.yaml"]) == code

    assert "did you mean team:finance?" in capsys.readouterr().out
