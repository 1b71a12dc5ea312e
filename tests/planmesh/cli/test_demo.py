"""``planmesh demo``, as a stranger calls it."""

import json
from pathlib import Path

import pytest

from planmesh.cli import COMPLETED, demo
from planmesh.cli.session import Session


@pytest.mark.parametrize("output", ["table", "json"])
async def test_it_publishes_a_report_and_says_how_it_came_to_be(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "audit.md"

    code = await demo.demo(path=report, session=Session(output=output))  # type: ignore[arg-type]

    out, err = capsys.readouterr()
    assert code == COMPLETED
    assert report.read_text().startswith("# Dependency audit")
    assert "Nobody is at a terminal" in err
    assert "gates approve dependency-audit-" in err
    if output == "json":
        assert json.loads(out)["plan"]["status"] == "completed"
    else:
        assert "✓ completed: Published" in out
        assert "Its log" in out
        assert f"The report is in {report}" in out
