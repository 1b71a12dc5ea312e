"""A goal as it was published to the command that answers it. The same goal always gives the same command, unless a
template has changed, or a model has to be asked: then the first command that the log has of a goal counts."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from planmesh.directory import Directory
from planmesh.planner.catalogue import described
from planmesh.planner.compile import UNKNOWN_AGENT, Agents, Compiled, compile_plan, refuse_harm
from planmesh.planner.decode import read_goal, read_policy
from planmesh.planner.document import LIMITS, Limits, Unreadable, read_document, refuse_duplicates
from planmesh.planner.drafting import Drafted
from planmesh.planner.problems import Problems, quoted
from planmesh.planner.reviewers import UNKNOWN_REVIEWER
from planmesh.planner.secrets import find_secret, refuse_secrets
from planmesh.planner.templates import Template, Templates
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.expressions import KEYWORDS
from planmesh.schemas.goals import Goal, Origin, Problem
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import digest
from planmesh.schemas.plan import Identifier, Line, Policy, Text
from planmesh.schemas.tracing import caller

NO_AGENTS: Final = "no_agents"
NO_TEMPLATES: Final = Templates(None)


@dataclass(frozen=True)
class InWords:
    """A goal that says what is wanted, and not how: a model has to make a plan of it.

    Attributes:
        agents: Those that the plan may use: the ones that have said what they do.
    """

    goal: Goal
    goal_digest: str
    agents: Agents
    traceparent: str | None
    policy: Policy


def consider(
    data: bytes,
    agents: Agents,
    *,
    traceparent: str | None = None,
    limits: Limits = LIMITS,
    directory: Directory | None = None,
    templates: Templates = NO_TEMPLATES,
) -> CreatePlan | RefuseGoal | InWords:
    """Make a plan of a goal, or say why not, or what a model has to do. Raises nothing.

    The command's id is the digest of what the goal says, so that a goal that is delivered or published again gives
    the same command again.
    Pointers of problems lead into the plan document; those of the goal's own fields, into the goal.

    Args:
        data: The message, a `Goal`; whatever else it is, is refused.
        agents: The agents of the mesh by name.
        traceparent: From the message's headers; a valid one counts for more than the goal's own.
        directory: Who can be asked to decide.
        templates: The plans that the mesh keeps.
    """
    problems = Problems()
    try:
        goal = codec.goal.decode(data)
    except DecodeError as error:
        return _refuse_unread(data, agents, error, traceparent, limits, directory)
    goal_digest = _digest(goal)
    traceparent = _traceparent(traceparent, goal.traceparent)
    _check_goal(data, {"goal": goal.goal, "inputs": goal.inputs}, problems)
    document, origin, in_words = goal.plan, None, False
    if goal.template is not None:
        template = templates.read(goal.template)
        if goal.plan is not None:
            problems.add("nothing_wanted", "a goal has a plan, or names a template; this one does both", "template")
        elif isinstance(template, Problem):
            problems.add(template.code, template.message, "template", hint=template.hint)
        else:
            document, origin = template.document, _origin(template)
    elif goal.plan is None:
        in_words = True
        _check_words(goal, agents, problems)
    policy = _policy(goal, in_words, limits, problems)
    if problems and document is None:
        return _refusal(goal_digest, problems.listed(), goal.goal, None, traceparent)
    if in_words:
        return InWords(goal, goal_digest, described(agents), traceparent, policy)
    compiled = compile_plan(document, agents, goal.inputs, limits=limits, directory=directory)
    if isinstance(compiled, Compiled) and not problems:
        return CreatePlan(
            id=goal_digest,
            plan=compiled.plan,
            goal=goal.goal or compiled.plan.goal,
            inputs=compiled.inputs,
            goal_digest=goal_digest,
            origin=origin,
            start=goal.start,
            traceparent=traceparent,
            mandate=Mandate(plans=limits.plans),
        )
    found = [*problems.listed(), *(compiled if isinstance(compiled, list) else [])]
    return _refusal(goal_digest, found, goal.goal, document, traceparent, origin)


def drafted(wanted: InWords, found: Drafted, *, limits: Limits = LIMITS) -> CreatePlan | RefuseGoal:
    """The command that answers a goal in words, once a model has been asked."""
    goal, digest_of = wanted.goal, wanted.goal_digest
    if found.plan is None:
        return _refusal(digest_of, list(found.problems), goal.goal, None, wanted.traceparent, found.origin)
    return CreatePlan(
        id=digest_of,
        plan=found.plan.plan,
        goal=goal.goal,
        inputs=found.plan.inputs,
        goal_digest=digest_of,
        origin=found.origin,
        start=goal.start and not found.needs_start,
        traceparent=wanted.traceparent,
        mandate=Mandate(plans=limits.plans),
    )


def lacks_an_agent(command: CreatePlan | RefuseGoal | InWords) -> bool:
    """Whether the goal was refused because nobody knows an agent, or whom it asks: there may be newer news of them."""
    return isinstance(command, RefuseGoal) and any(
        problem.code in (UNKNOWN_AGENT, NO_AGENTS, UNKNOWN_REVIEWER) for problem in command.problems
    )


def _digest(goal: Goal) -> str:
    named: dict[str, Any] = {} if goal.template is None else {"template": goal.template}
    named |= {} if goal.policy is None else {"policy": goal.policy}
    return digest({"goal": goal.goal, "plan": goal.plan, "inputs": goal.inputs, "start": goal.start, **named})


def _origin(template: Template) -> Origin:
    return Origin(author="template", template=template.name, sha256=template.sha256)


def _policy(goal: Goal, in_words: bool, limits: Limits, problems: Problems) -> Policy:
    if goal.policy is None:
        return Policy()
    if not in_words:
        said = "a goal with a plan, or with a template, leaves the policy to that"
        problems.add("misplaced_policy", said, "policy", hint="say it in the plan: `policy`")
    policy = read_policy(goal.policy, problems)
    if not limits.may_allow_harm:
        refuse_harm(goal.policy, problems)
    return policy


def _check_words(goal: Goal, agents: Agents, problems: Problems) -> None:
    if not goal.goal.strip():
        hint = "say it in words (`goal`), or send a plan (`plan`), or name a template (`template`)"
        problems.add("nothing_wanted", "this goal does not say what is wanted", "goal", hint=hint)
    elif not described(agents):
        said = "the mesh has no agent that says what it does, so there is nothing to make a plan of"
        problems.add(NO_AGENTS, said, "goal", hint="start a worker with agents: planmesh up --agents MODULE")
    for name in goal.inputs:
        try:
            msgspec.convert(name, Identifier)
        except msgspec.ValidationError:
            said = f"an input is called by A-Z a-z 0-9 _ and no digit first, 63 at most; found {quoted(name)}"
            problems.add("invalid_value", said, "inputs", name)
        else:
            if name in KEYWORDS:
                problems.add("reserved_name", f"{quoted(name)} is a word of the expression language", "inputs", name)


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
        problems.add(code, f"expected a goal: an object with `goal`, `plan` or `template`, in JSON; {error}")
        goal_digest = hashlib.sha256(data).hexdigest()
        return _refusal(goal_digest, problems.listed(), "", None, _traceparent(traceparent))
    values = read_goal(raw, problems)
    _check_goal(data, {name: values[name] for name in ("goal", "inputs") if name in values}, problems)
    if not problems:  # what msgspec minds and the reader of fields does not is still no goal
        problems.add("malformed", f"expected a goal; {error}")
    found = problems.listed()
    if values.get("plan") is not None:
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


def _refusal(
    goal_digest: str,
    problems: list[Problem],
    goal: str,
    plan: object,
    traceparent: str | None,
    origin: Origin | None = None,
) -> RefuseGoal:
    return RefuseGoal(
        id=goal_digest,
        problems=tuple(problems),
        # The record of the refusal is kept for good as well.
        goal="" if find_secret(goal) else _fitting(goal, Text),
        name=_name(plan),
        goal_digest=goal_digest,
        origin=origin,
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
