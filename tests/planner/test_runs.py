"""A plan that is to run for a step, held against what the step permits."""

from typing import Any

import pytest

from planmesh.planner.runs import consider_run
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.plan import Permissions
from planmesh.schemas.work import AgentDescription, RunWork

AGENTS = {"reader": AgentDescription(name="reader", permissions=Permissions(read=("/data",)))}
READ = {"kind": "task", "name": "read", "agent": "reader"}


def considered(permissions: Permissions | None, *steps: dict[str, Any]) -> CreatePlan | RefuseGoal:
    document = {"name": "A part", "inputs": {"given": {"default": {}}}, "steps": list(steps)}
    work = RunWork(
        space="s", plan="p", step="run", attempt=1, child="c", depth=1, document=document, permissions=permissions
    )
    return consider_run(work, AGENTS)


def run(**fields: Any) -> dict[str, Any]:
    return {"kind": "run", "name": "further", "document": "given", **fields}


@pytest.mark.parametrize(
    ("most", "steps", "codes"),
    [
        (None, [READ, run()], []),
        (Permissions(read=("/data",)), [READ], []),
        (Permissions(), [READ], ["exceeds_permissions"]),
        (Permissions(read=("/data",)), [run()], ["exceeds_permissions"]),
        (Permissions(read=("/data",)), [run(permissions={"read": ["/data"]})], []),
        (Permissions(read=("/data",)), [run(permissions={"read": ["/etc"]})], ["exceeds_permissions"]),
    ],
)
def test_nothing_in_it_is_permitted_more_than_the_step_however_deep(
    most: Permissions | None, steps: list[dict[str, Any]], codes: list[str]
) -> None:
    command = considered(most, *steps)

    assert [problem.code for problem in getattr(command, "problems", ())] == codes
