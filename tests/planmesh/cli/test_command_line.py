"""The command line itself: what it knows, and what it says to whoever types something else."""

import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from planmesh.cli import COMPLETED, FAILED, USAGE, VERBS, main, where
from planmesh.cli.session import NotUnderstood


def test_every_verb_leads_somewhere_and_explains_itself() -> None:
    for verb in VERBS:
        module, attribute = verb.target.split(":")
        target = getattr(importlib.import_module(f"planmesh.cli.{module}"), attribute)
        assert getattr(target, "help", None) or target.__doc__, verb


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == COMPLETED

    shown = capsys.readouterr().out
    assert all(f" {verb.name} " in shown for verb in VERBS)


def test_help_loads_nothing_that_takes_a_while() -> None:
    code = "import sys; from planmesh.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(eval(ran.stderr))
    assert not loaded & {"asyncio", "nats", "pydantic", "pydantic_settings", "sqlmodel", "structlog", "opentelemetry"}
    assert not {name for name in loaded if name.startswith("planmesh.schemas.")} - {"planmesh.schemas.subjects"}


def test_the_help_of_a_verb_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == COMPLETED

    shown = capsys.readouterr().out
    assert "--no-wait" in shown
    assert "3 a person has to decide" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["shwo", "x"], "there is no verb 'shwo'; did you mean `planmesh show`?"),
        (["\x1b[2J"], "there is no verb '\\x1b[2J'; `planmesh --help` lists what there is"),
        (["gates", "aprove"], "there is no verb 'aprove'; did you mean `planmesh gates approve`?"),
        (["show"], 'Command "show" parameter PLAN requires an argument.'),
        (["show", "a", "b"], "nothing here takes 'b'"),
        (["show", "a", "--bogus"], "--bogus"),
        (["list", "--status", "asleep"], '"asleep"'),
        (["list", "--since", "yesterday"], "expected a time such as 30m"),
        (["list", "-o", "xml"], '"xml"'),
        (["resolve", "plan", "step"], "--done"),
        (["resolve", "plan", "step", "--not-done", "--value", "1"], "--value is what a step gave that was done"),
        (["resolve", "plan", "step", "--done", "--value", "{"], "--value takes JSON"),
        (["run", "plan.yaml", "--agents", "mine"], "--agents is for --local"),
        (["demo", "--path", "report.txt"], "--path takes a file whose name ends in .md"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(typed)

    out, err = capsys.readouterr()
    assert code == USAGE
    assert out == ""
    assert err.startswith("planmesh: ")
    assert err.count("\n") == 1
    assert said in err


def test_no_credentials_is_one_line_that_says_what_to_do(
    tmp_path: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLANMESH_CREDENTIALS", raising=False)

    assert main(["--data-dir", str(tmp_path), "list"]) == FAILED
    assert "`planmesh up` starts one on this machine" in capsys.readouterr().err


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == COMPLETED
    assert json.dumps(capsys.readouterr().out.strip()).strip('"').count(".") >= 1


def test_times_are_told_in_spans_and_dates() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)

    assert where.moment("90m", noon) == noon - timedelta(minutes=90)
    assert where.moment("2026-11-01T00:00:00+01:00", noon) == datetime(2026, 10, 31, 23, tzinfo=UTC)
    with pytest.raises(NotUnderstood):
        where.moment("999999w", noon)
