"""A goal as it was published to the command that answers it. Pure: the same goal always gives the same command."""

import hashlib
from typing import Any, Final

import msgspec

from planmesh.directory import Directory
from planmesh.planner.compile import Agents, Compiled, compile_plan
from planmesh.planner.decode import read_goal
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document, refuse_duplicates
from planmesh.planner.problems import Problems
from planmesh.planner.secrets import find_secret, refuse_secrets
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.goals import Goal, Problem
from planmesh.schemas.payload import digest
from planmesh.schemas.plan import Line, Text
from planmesh.schemas.tracing import caller

UNKNOWN_AGENT: Final = "unknown_agent"


def consider(
    data: bytes,
    agents: Agents,
    *,
    traceparent: str | None = None,
    limits: Limits = LIMITS,
    directory: Directory | None = None,
) -> CreatePlan | RefuseGoal:
    """Make a plan of a goal, or say why not. Raises nothing.

    The command's id is the digest of what the goal says, so that a goal that is delivered or published again gives
    the same command again.
    Pointers of problems lead into the plan document; those of the goal's own fields, into the goal.

    Args:
        data: The message, a `Goal`; whatever else it is, is refused.
        agents: The agents of the mesh by name.
        traceparent: From the message's headers; a valid one counts for more than the goal's own.
        directory: Who can be asked to decide.
    """
    problems = Problems()
    try:
        goal = codec.goal.decode(data)
    except DecodeError as error:
        return _refuse_unread(data, agents, error, traceparent, limits, directory)
    goal_digest = _digest(goal)
    traceparent = _traceparent(traceparent, goal.traceparent)
    _check_goal(data, {"goal": goal.goal, "inputs": goal.inputs}, problems)
    compiled = compile_plan(goal.plan, agents, goal.inputs, limits=limits, directory=directory)
    if isinstance(compiled, Compiled) and not problems:
        return CreatePlan(
            id=goal_digest,
            plan=compiled.plan,
            goal=goal.goal or compiled.plan.goal,
            inputs=compiled.inputs,
            goal_digest=goal_digest,
            start=goal.start,
            traceparent=traceparent,
        )
    found = [*problems.listed(), *(compiled if isinstance(compiled, list) else [])]
    return _refusal(goal_digest, found, goal.goal, goal.plan, traceparent)


def lacks_an_agent(command: CreatePlan | RefuseGoal) -> bool:
    """Whether the goal was refused because nobody knows an agent: there may be newer news of the agents."""
    return isinstance(command, RefuseGoal) and any(problem.code == UNKNOWN_AGENT for problem in command.problems)


def _digest(goal: Goal) -> str:
    return digest({"goal": goal.goal, "plan": goal.plan, "inputs": goal.inputs, "start": goal.start})


def _traceparent(*candidates: object) -> str | None:
    return next((one for one in candidates if isinstance(one, str) and caller(one) is not None), None)


def _refuse_unread(
    data: bytes,
    agents: Agents,
    error: DecodeError,
    traceparent: str | None,
    limits: Limits,
    directory: Directory | None,
) -> RefuseGoal:
    """Refuse what is no goal, and say what else is wrong with it as far as it can be read."""
    problems = Problems()
    raw = _raw(data) if error.code == "invalid" else None
    if not isinstance(raw, dict):
        code = error.code if error.code in ("too_large", "too_deep") else "malformed"
        problems.add(code, f"expected a goal: an object with `plan`, in JSON; {error}")
        goal_digest = hashlib.sha256(data).hexdigest()
        return _refusal(goal_digest, problems.listed(), "", None, _traceparent(traceparent))
    values = read_goal(raw, problems)
    _check_goal(data, {name: values[name] for name in ("goal", "inputs") if name in values}, problems)
    if not problems:  # what msgspec minds and the reader of fields does not is still no goal
        problems.add("malformed", f"expected a goal; {error}")
    found = problems.listed()
    if "plan" in values:
        compiled = compile_plan(values["plan"], agents, values.get("inputs"), limits=limits, directory=directory)
        found += compiled if isinstance(compiled, list) else []
    return _refusal(
        digest(raw),
        found,
        values.get("goal", ""),
        values.get("plan"),
        _traceparent(traceparent, raw.get("traceparent")),
    )


def _raw(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _check_goal(data: bytes, said: dict[str, Any], problems: Problems) -> None:
    refuse_secrets(said, problems)
    refuse_duplicates(data, problems, inside="plan")


def _refusal(goal_digest: str, problems: list[Problem], goal: str, plan: object, traceparent: str | None) -> RefuseGoal:
    return RefuseGoal(
        id=goal_digest,
        problems=tuple(problems),
        # The record of the refusal is kept for good as well.
        goal="" if find_secret(goal) else _fitting(goal, Text),
        name=_name(plan),
        goal_digest=goal_digest,
        traceparent=traceparent,
    )


def _name(plan: object) -> str:
    """What the plan calls itself, if that can be read."""
    try:
        name = read_document(plan, Problems()).get("name")
    except Unreadable:
        return ""
    return "" if isinstance(name, str) and find_secret(name) else _fitting(name, Line)


def _fitting(value: object, kind: Any) -> str:
    try:
        return str(msgspec.convert(value, kind))
    except msgspec.ValidationError:
        return ""
