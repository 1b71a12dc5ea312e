"""A plan that is to run for a step: checked as anybody's is, and held against what the step permits. Pure."""

from collections.abc import Iterator

import msgspec

from planmesh.directory import Directory
from planmesh.planner.compile import Agents, Compiled, compile_plan
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.policy import ungated
from planmesh.planner.problems import quoted
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import digest
from planmesh.schemas.plan import Each, Permissions, Plan, Run, Task
from planmesh.schemas.work import Parent, RunWork


def consider_run(
    work: RunWork, agents: Agents, *, limits: Limits = LIMITS, directory: Directory | None = None
) -> CreatePlan | RefuseGoal:
    """The command for the child that answers *work*. Its id is made of what it is to run and for whom, so that it is
    the same each time. Raises nothing."""
    parent = Parent(plan=work.plan, step=work.step, attempt=work.attempt, depth=work.depth)
    goal_digest = digest({"document": work.document, "inputs": work.inputs, "parent": parent, "mode": work.mode})
    compiled = compile_plan(work.document, agents, work.inputs, limits=limits, directory=directory)
    if isinstance(compiled, Compiled):
        problems = [*_exceeding(compiled.plan, work.permissions)]
        if work.mode == "safe":
            problems += _unguarded(compiled.plan, agents, limits)
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
    )


def _exceeding(plan: Plan, ceiling: Permissions | None) -> Iterator[Problem]:
    """What the plan would be permitted beyond *ceiling*."""
    if ceiling is None:
        return
    for pointer, step in _permitted_steps(plan):
        if isinstance(step, Run) and step.permissions is None:
            # What it runs may then use whatever there is.
            yield Problem(
                code="exceeds_permissions",
                message=f"step {quoted(step.name)} runs a plan, and does not say what that may be permitted at most; "
                "the step that runs this plan does",
                pointer=pointer,
                hint="give it `permissions`",
            )
            continue
        has = step.permissions or Permissions()
        for field in Permissions.__struct_fields__:
            more = sorted(set(getattr(has, field)) - set(getattr(ceiling, field)))
            if more:
                yield Problem(
                    code="exceeds_permissions",
                    message=f"step {quoted(step.name)} is permitted {field} {', '.join(more[:5])}, which the step that "
                    "runs this plan is not",
                    pointer=f"{pointer}/permissions/{field}",
                    hint="permit less here, or more to the `run` step",
                )


def _unguarded(plan: Plan, agents: Agents, limits: Limits) -> Iterator[Problem]:
    """The steps that do harm, or may, and do not stand behind a gate."""
    left = ungated(plan, agents, limits=limits)
    for index, step in enumerate(plan.steps):
        if step.name in left:
            yield Problem(
                code="unguarded",
                message=f"step {quoted(step.name)}: {' and '.join(left[step.name])}; and no gate stands before it",
                pointer=f"/steps/{index}",
                hint="let it wait for a gate, or run the plan in mode normal",
            )


def _permitted_steps(plan: Plan) -> Iterator[tuple[str, Task | Run]]:
    """Every step that is permitted something, those of an `each` as well, with its JSON Pointer."""
    for index, step in enumerate(plan.steps):
        if isinstance(step, Task | Run):
            yield f"/steps/{index}", step
        elif isinstance(step, Each):
            for inner, body in enumerate(step.steps):
                if isinstance(body, Task):
                    yield f"/steps/{index}/steps/{inner}", body
