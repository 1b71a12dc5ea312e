"""The demo's plan, from the goal to the report, with a person at its gate."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
from flows import Flow
from promises import expect_promises

from planmesh.schemas import goals
from planmesh.schemas.events import GateApproved, GateOpened
from planmesh.schemas.state import StepStatus

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUDIT = files("planmesh.demo").joinpath("audit.yaml").read_text("utf-8")


async def test_an_audit_of_this_environment_is_published_once_a_person_has_approved(flow: Flow, tmp_path: Path) -> None:
    report = tmp_path / "audit.md"
    submitted = await flow.client.submit(AUDIT, goal="Audit this", inputs={"path": str(report)}, id="audit")
    waiting = await flow.until(submitted.address, lambda state: state.status == "waiting")
    assert waiting.steps["publish"].attempt == 0
    assert not report.exists()

    answer = await flow.approve(submitted.address)

    completed = await submitted.result(30)
    assert completed.name == "Published"
    result = completed.result.value
    assert (result["path"], result["sha256"]) == (str(report), hashlib.sha256(report.read_bytes()).hexdigest())
    assert result["headline"] in report.read_text("utf-8")
    assert [type(one) for one in submitted.heard] == [goals.Accepted, goals.Waiting, goals.Resumed, goals.Completed]

    state, commits = await expect_promises(flow.operator, submitted.address)
    assert {step.status for step in state.steps.values()} == {StepStatus.COMPLETED}
    assert {step.attempt for name, step in state.steps.items() if name != "not-empty"} <= {0, 1}
    (approved,) = (event for event in answer.events if isinstance(event, GateApproved))
    (opened,) = (event for commit in commits for event in commit.events if isinstance(event, GateOpened))
    assert (approved.by, approved.digest) == ((flow.operator.name,), opened.digest)
    (release,) = opened.releases
    assert (release.step, release.agent, release.inputs["path"]) == ("publish", "publish-report", str(report))


async def test_the_rows_of_an_audit_say_who_did_what_with_what_and_how_long_it_took(flow: Flow, tmp_path: Path) -> None:
    submitted = await flow.client.submit(AUDIT, inputs={"path": str(tmp_path / "audit.md")})
    await flow.approve(submitted.address)
    await submitted.result(30)
    await expect_promises(flow.operator, submitted.address)

    rows = {row.step: row for row in (await flow.operator.steps(submitted.address)).steps}

    tasks = [row for row in rows.values() if row.kind == "task"]
    assert len(tasks) == 6
    for row in tasks:
        assert row.agent
        assert row.worker.partition("/")[2].isdecimal()
        assert row.duration_s is not None
        assert row.started_at is not None
        assert row.finished_at is not None
        assert row.output.value is not None or row.output.blob is not None
    assert rows["licences"].dispatched_at == rows["sizes"].dispatched_at == rows["requirements"].dispatched_at
    assert rows["compose"].needs == ("read", "licences", "sizes", "requirements")
    assert rows["publish"].inputs.value["path"] == str(tmp_path / "audit.md")
    assert rows["approve"].votes == (flow.operator.name,)
