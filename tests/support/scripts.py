"""Scripts of the plan language: what becomes of them, and plays of what they say."""

from typing import Any

import msgspec
from plays import AGENT, Play

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.recognise import Script
from planmesh.planner.language.translate import translate
from planmesh.schemas.commands import CancelPlan, ReportChild, ReportDraft, ReportUnfit
from planmesh.schemas.events import StepDispatched
from planmesh.schemas.expressions import ExpressionError, evaluate, parse
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Ask, Draft, Each, Plan, Run, Task
from planmesh.schemas.state import Names, PlanStatus, StepStatus
from planmesh.schemas.templates import compile_template
from planmesh.schemas.work import AgentDescription, Failure

AGENTS = {"worker": AgentDescription(name="worker", any_parameters=True)}


def compiled(text: str, values: dict[str, Any] | None = None) -> Compiled:
    """A script that has no problem, as a plan that can run."""
    found = compile_plan(Script(text), None, values)
    assert isinstance(found, Compiled), "\n".join(f"{one.line}:{one.column} {one.code}: {one.message}" for one in found)
    return found


def plan(text: str) -> Plan:
    return compiled(text).plan


def document(text: str) -> dict[str, Any]:
    """The plan document that is made of a script, which has no problem by itself."""
    translation = translate(text)
    assert translation.problems == ()
    return translation.document


def steps(text: str) -> list[dict[str, Any]]:
    return list(document(text)["steps"])


def problems(text: str) -> list[Problem]:
    """Everything that is wrong with a script."""
    found = compile_plan(Script(text), None)
    assert isinstance(found, list), "the script has no problem"
    return found


def said(text: str) -> list[tuple[int, int, str]]:
    """Line, column and code of everything that is wrong with a script."""
    return [(one.line, one.column, one.code) for one in problems(text)]


def played(text: str, values: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None) -> Play:
    """A script, run to its end: every task completes, gates are approved, asks are answered, and plans that steps run
    are run to their ends as well.

    Args:
        values: Its inputs.
        outputs: What steps give, by name: outputs of tasks, answers to asks, documents of plans. For the items of an
            `each`, a list; for attempts that are not accepted, all of them in an `Attempts`.
    """
    ready = compiled(text, values or {})
    return _played(ready, outputs or {})


class Attempts(list[Any]):
    """What a step gives at its first attempt, at its second, and so on."""


def _played(ready: Compiled, outputs: dict[str, Any]) -> Play:
    play = Play(_with_one_agent(ready.plan), inputs=ready.inputs)
    while play.state.status in (PlanStatus.RUNNING, PlanStatus.WAITING):
        open_steps = play.in_status(StepStatus.DISPATCHED)
        waiting = play.in_status(StepStatus.WAITING)
        if open_steps:
            _complete(play, open_steps[0], outputs)
        elif waiting:
            _decide(play, waiting[0], outputs)
        else:
            break
    return play


def _complete(play: Play, name: str, outputs: dict[str, Any]) -> None:
    state = play.state
    step, attempt = state.graph.steps[name], play.attempt(name)
    match step:
        case Draft():
            document = _given(name, outputs)
            play.ask(ReportDraft(id=play.id(), step=name, attempt=attempt, document=document), "planner")
        case Run():
            child = next(one.child for one in reversed(play.of_type(StepDispatched)) if one.step == name)
            about: dict[str, Any] = {"id": play.id(), "step": name, "attempt": attempt, "child": child}
            try:
                document = evaluate(parse(step.document), Names(state, {}, name))
                inputs: Any = compile_template(step.inputs).render(Names(state, {}, name))
            except ExpressionError as error:
                unfit = Failure(code="expression", message=str(error), retryable=False)
                play.ask(ReportUnfit(id=play.id(), step=name, attempt=attempt, failure=unfit), "executor")
                return
            found = compile_plan(document, None, inputs)
            if isinstance(found, Compiled):
                ended = _played(found, outputs).state
                about |= {"number": ended.number, "status": str(ended.status), "reason": ended.reason}
                about |= {"outcome": ended.outcome, "result": ended.result}
            else:
                about |= {"number": 1, "status": "refused", "reason": found[0].message[:1_000]}
            play.ask(ReportChild(**about), "executor")
            if about["status"] == "paused":
                play.ask(CancelPlan(id=play.id(), step=name))
        case _:
            output = _given(name, outputs)
            if isinstance(output, Attempts):
                output = output[attempt - 1]
            play.completes(name, output=output)


def _decide(play: Play, name: str, outputs: dict[str, Any]) -> None:
    if not isinstance(play.state.graph.steps[name], Ask):
        if play.state.steps[name].opened is None:
            play.is_due(name)  # it waits to be tried again
        else:
            named = [one.removeprefix("person:") for one in play.state.steps[name].reviewers]
            voted = play.state.steps[name].votes
            assert play.votes(name, by=next((one for one in named if one not in voted and ":" not in one), "ada"))
    elif (answer := _given(name, outputs)) is None:
        play.is_answered(name)
    else:
        play.answers(name, answer)


def _given(name: str, outputs: dict[str, Any]) -> Any:
    body, _, number = name.rpartition("_")
    if name not in outputs and number.isdecimal() and body in outputs:
        given = outputs[body]
        return given[int(number) - 1] if isinstance(given, list) else given
    return outputs.get(name)


def _with_one_agent(ready: Plan) -> Plan:
    """The same plan with the one agent that plays know."""
    return msgspec.structs.replace(ready, steps=tuple(map(_by_one_agent, ready.steps)))


def _by_one_agent(step: Any) -> Any:
    if isinstance(step, Task):
        return msgspec.structs.replace(step, agent=AGENT)
    if isinstance(step, Each):
        return msgspec.structs.replace(step, steps=tuple(map(_by_one_agent, step.steps)))
    return step
