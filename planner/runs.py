"""A plan that is to run for a step: checked as anybody's is, and held to what the step hands down. Pure."""

from collections.abc import Sequence

import msgspec

from planmesh.directory import Directory
from planmesh.planner.compile import Agents, Compiled, compile_plan
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.policy import beyond
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.payload import digest
from planmesh.schemas.work import Parent, RunWork


def consider_run(
    work: RunWork,
    agents: Agents,
    *,
    reviewers: Sequence[str],
    limits: Limits = LIMITS,
    directory: Directory | None = None,
) -> CreatePlan | RefuseGoal:
    """The command for the child that answers *work*. Its id is made of what it is to run and for whom, so that it is
    the same each time. Raises nothing.

    Args:
        reviewers: Who may decide at a gate for it to count in mode safe.
    """
    parent = Parent(plan=work.plan, step=work.step, attempt=work.attempt, depth=work.depth)
    mandate = work.mandate.handed_down(work.permissions, safe=work.mode == "safe")
    goal_digest = digest({"document": work.document, "inputs": work.inputs, "parent": parent, "mode": work.mode})
    compiled = compile_plan(work.document, agents, work.inputs, limits=limits, directory=directory)
    if isinstance(compiled, Compiled):
        problems = [*beyond(compiled.plan, mandate, parent, agents, reviewers, limits=limits)]
    else:
        problems = compiled
    if problems or not isinstance(compiled, Compiled):
        return RefuseGoal(
            id=goal_digest,
            problems=tuple(problems),
            goal_digest=goal_digest,
            traceparent=work.traceparent,
            parent=parent,
        )
    plan = msgspec.structs.replace(compiled.plan, policy=work.policy)
    return CreatePlan(
        id=goal_digest,
        plan=plan,
        goal=plan.goal,
        inputs=compiled.inputs,
        goal_digest=goal_digest,
        start=work.mode != "draft",
        traceparent=work.traceparent,
        parent=parent,
        mandate=mandate,
    )
