"""Scripts of the plan language: what becomes of them, and plays of what they say."""

from typing import Any

import msgspec
from plays import AGENT, Play

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.recognise import Script
from planmesh.planner.language.translate import translate
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Plan, Task
from planmesh.schemas.state import PlanStatus, StepStatus
from planmesh.schemas.work import AgentDescription

AGENTS = {"worker": AgentDescription(name="worker", any_parameters=True)}


def compiled(text: str, values: dict[str, Any] | None = None) -> Compiled:
    """A script that has no problem, as a plan that can run."""
    found = compile_plan(Script(text), None, values)
    assert isinstance(found, Compiled), "\n".join(f"{one.line}:{one.column} {one.code}: {one.message}" for one in found)
    return found


def plan(text: str) -> Plan:
    return compiled(text).plan


def document(text: str) -> dict[str, Any]:
    """The plan document that is made of a script, which has no problem but what the engine cannot run yet."""
    translation = translate(text)
    wrong = [one for one in translation.problems if one.code != "not_supported_yet"]
    assert wrong == []
    return translation.document


def steps(text: str) -> list[dict[str, Any]]:
    return list(document(text)["steps"])


def problems(text: str) -> list[Problem]:
    """Everything that is wrong with a script, but for what the engine cannot run yet."""
    found = compile_plan(Script(text), None)
    assert isinstance(found, list), "the script has no problem"
    return [one for one in found if one.code != "not_supported_yet"]


def said(text: str) -> list[tuple[int, int, str]]:
    """Line, column and code of everything that is wrong with a script."""
    return [(one.line, one.column, one.code) for one in problems(text)]


def played(text: str, values: dict[str, Any] | None = None, outputs: dict[str, object] | None = None) -> Play:
    """A script, run to its end: every task completes, gates are approved.

    Args:
        values: Its inputs.
        outputs: What tasks give, by name.
    """
    ready = compiled(text, values or {})
    play = Play(_with_one_agent(ready.plan), inputs=ready.inputs)
    while play.state.status in (PlanStatus.RUNNING, PlanStatus.WAITING):
        open_steps = [name for name, step in play.state.steps.items() if step.status is StepStatus.DISPATCHED]
        waiting = [name for name, step in play.state.steps.items() if step.status is StepStatus.WAITING]
        if not open_steps and not waiting:
            break
        if open_steps:
            play.completes(open_steps[0], output=(outputs or {}).get(open_steps[0]))
        else:
            play.votes(waiting[0])
    return play


def _with_one_agent(ready: Plan) -> Plan:
    """The same plan with the one agent that plays know."""
    changed = tuple(
        msgspec.structs.replace(step, agent=AGENT) if isinstance(step, Task) else step for step in ready.steps
    )
    return msgspec.structs.replace(ready, steps=changed)
