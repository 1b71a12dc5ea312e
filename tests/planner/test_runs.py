"""A plan that is to run for a step, held against what the step permits."""

from typing import Any

import pytest

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.revisions import propose
from planmesh.planner.runs import consider_run
from planmesh.schemas.commands import CreatePlan, ProposeRevision, RefuseGoal
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.plan import Permissions
from planmesh.schemas.work import AgentDescription, Parent, PlannerWork, RunWork

OPERATORS = ("role:operator",)
AGENTS = {"reader": AgentDescription(name="reader", permissions=Permissions(read=("/data",)))}
READ = {"kind": "task", "name": "read", "agent": "reader"}


def considered(permissions: Permissions | None, *steps: dict[str, Any]) -> CreatePlan | RefuseGoal:
    document = {"name": "A part", "inputs": {"given": {"default": {}}}, "steps": list(steps)}
    work = RunWork(
        space="s", plan="p", step="run", attempt=1, child="c", depth=1, document=document, permissions=permissions
    )
    return consider_run(work, AGENTS, reviewers=OPERATORS)


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


WRITER = {"writer": AgentDescription(name="writer", permissions=Permissions(write=("/srv",)))}
OPEN_TO = [
    ({}, []),
    ({"reviewers": ["person:requester"]}, ["unguarded"]),
    ({"reviewers": ["service:s"]}, ["unguarded"]),
    ({"reviewers": ["role:operator", "service:s"]}, ["unguarded"]),
    ({"escalate": [{"after_s": 60, "to": ["service:s"]}]}, ["unguarded"]),
    ({"optional": True}, ["unguarded"]),
    ({"level": "link"}, ["unguarded"]),
]


def guarded(**gate: Any) -> dict[str, Any]:
    steps = [
        {"kind": "gate", "name": "look", **gate},
        {"kind": "task", "name": "write", "agent": "writer", "after": ["look"]},
    ]
    return {"name": "A part", "steps": steps}


def codes(command: CreatePlan | RefuseGoal | ProposeRevision) -> list[str]:
    return [problem.code for problem in getattr(command, "problems", ())]


@pytest.mark.parametrize(("gate", "found"), OPEN_TO)
def test_in_mode_safe_a_gate_counts_that_those_decide_whom_the_mesh_lets(
    gate: dict[str, Any], found: list[str]
) -> None:
    work = RunWork(
        space="s", plan="p", step="run", attempt=1, child="c", depth=1, document=guarded(**gate), mode="safe"
    )

    command = consider_run(work, WRITER, reviewers=OPERATORS)

    assert codes(command) == found
    if isinstance(command, CreatePlan):
        assert command.mandate == Mandate(safe=True)


@pytest.mark.parametrize(("gate", "found"), OPEN_TO)
def test_nor_does_a_revision_put_another_gate_in_its_place(gate: dict[str, Any], found: list[str]) -> None:
    def revised(mandate: Mandate) -> ProposeRevision:
        compiled = compile_plan(guarded(), WRITER)
        assert isinstance(compiled, Compiled)
        parent = Parent(plan="p", step="run", attempt=1, depth=1)
        about: dict[str, Any] = {"kind": "revise", "request": "r", "by": "ada", "current": compiled.plan, "kept": ()}
        work = PlannerWork(space="s", plan="c", document=guarded(**gate), mandate=mandate, parent=parent, **about)
        return propose(work, WRITER, reviewers=OPERATORS)

    assert codes(revised(Mandate(safe=True))) == found
    assert codes(revised(Mandate())) == []


def test_a_plan_within_one_that_runs_in_mode_safe_runs_in_mode_safe_and_the_least_is_permitted() -> None:
    above = Mandate(permissions=Permissions(write=("/srv", "/etc")), safe=True, authors={"eve": "step x of plan y"})
    given: dict[str, Any] = {"space": "s", "plan": "p", "step": "run", "attempt": 1, "child": "c", "depth": 2}

    def command(document: dict[str, Any], permissions: Permissions) -> CreatePlan | RefuseGoal:
        work = RunWork(**given, document=document, permissions=permissions, mandate=above)
        return consider_run(work, WRITER, reviewers=OPERATORS)

    bare = {"name": "A part", "steps": [{"kind": "task", "name": "write", "agent": "writer"}]}
    assert codes(command(bare, Permissions(write=("/srv",)))) == ["unguarded"]
    assert codes(command(guarded(), Permissions(write=("/etc",)))) == ["exceeds_permissions"]
    created = command(guarded(), Permissions(write=("/srv", "/tmp")))
    assert isinstance(created, CreatePlan)
    assert created.mandate == Mandate(permissions=Permissions(write=("/srv",)), safe=True, authors=above.authors)
