"""Plans that nobody has thought of, and people who do about them what has to be done, and now and then what they like.

The simulator and the chaos harness both draw from here: everything comes from the `random.Random` that they give.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from planmesh.schemas import commands as asks
from planmesh.schemas.commands import AnyCommand
from planmesh.schemas.events import AskOpened
from planmesh.schemas.plan import (
    Ask,
    Branch,
    Case,
    Check,
    Decide,
    Emit,
    Escalation,
    Gate,
    Parameter,
    Plan,
    Policy,
    Retry,
    Step,
    Task,
)
from planmesh.schemas.state import PlanState, StepStatus

AGENT = "agent"


def random_plan(draw: random.Random, *, pace: float = 1.0, once: float = 0.0) -> Plan:
    """A plan of up to a dozen steps, of every kind.

    Args:
        pace: How long what waits waits: 1 for seconds.
        once: How many of the tasks may not be done twice, from 0 to 1.
    """
    steps: list[Step] = []
    labels: dict[str, tuple[str, ...]] = {}
    for index in range(draw.randint(1, 16)):
        names = [step.name for step in steps]
        after = tuple(draw.sample(names, min(len(names), draw.choice([0, 1, 1, 2]))))
        branch = None
        if labels and draw.random() < 0.3:
            of = draw.choice(sorted(labels))
            branch = Branch(step=of, label=draw.choice(labels[of]))
            after = after if of in after else (*after, of)
        about: dict[str, Any] = {"name": f"s{index}", "after": after, "branch": branch, "optional": draw.random() < 0.3}
        kind = draw.choice(["task", "task", "task", "task", "gate", "ask", "decide", "check"])
        step: Step
        if kind == "task":
            step = Task(
                **about,
                agent=AGENT,
                retry=Retry(attempts=draw.randint(1, 4), backoff_s=draw.choice([0.0, 1.0, 5.0]) * pace),
                idempotent=not once or draw.random() >= once,
            )
        elif kind == "gate":
            step = Gate(**about, sla_s=draw.choice([None, 5.0 * pace]), escalate=_escalations(draw, pace))
        elif kind == "ask":
            # Where the default is to be the answer, nobody answers: only its timer lets the plan go on.
            by_default: dict[str, Any] = {"default": 7, "on_overdue": "default"} if draw.random() < 0.4 else {}
            sla_s, escalate = draw.choice([1.0, 5.0]) * pace, _escalations(draw, pace)
            step = Ask(**about, type="number", sla_s=sla_s, max_retries=1, escalate=escalate, **by_default)
        elif kind == "decide":
            step = Decide(**about, cases=(Case(when="n == 1", then="one"),), otherwise=draw.choice(["none", "one"]))
            labels[step.name] = step.labels
        else:
            step = Check(**about, condition="n > 0", on_fail=draw.choice(["fail", "continue"]))
            labels[step.name] = step.labels
        steps.append(step)
    if draw.random() < 0.3:
        steps.append(Emit(name="end", after=tuple(step.name for step in steps), outcome="Done", result={"n": "{n}"}))
    return Plan(
        name="Random",
        inputs={"n": Parameter(type="integer")},
        steps=tuple(steps),
        concurrency=draw.randint(1, 4),
        policy=Policy(on_failure=draw.choice(["pause", "pause", "pause", "fail"])),
    )


def _escalations(draw: random.Random, pace: float) -> tuple[Escalation, ...]:
    chain = (Escalation(after_s=2.0 * pace, to=("person:grace",)), Escalation(after_s=6.0 * pace, to=("person:lin",)))
    return draw.choice([(), chain])


def random_revision(draw: random.Random, current: Plan) -> Plan:
    """The plan with one task changed, and perhaps one more: it may well hit what has started."""
    steps = list(current.steps)
    tasks = [index for index, step in enumerate(steps) if isinstance(step, Task)]
    if tasks:
        index = draw.choice(tasks)
        steps[index] = msgspec.structs.replace(steps[index], inputs={"changed": draw.randint(0, 99)})
    name = f"new{draw.randint(0, 999)}"
    names = [step.name for step in steps if not isinstance(step, Emit)]
    if draw.random() < 0.5 and names and name not in names:
        steps.append(Task(name=name, agent=AGENT, after=(draw.choice(names),), idempotent=True))
    return msgspec.structs.replace(current, steps=tuple(steps))


class People:
    """Those who look after plans.

    Args:
        new_id: Gives each command an id of its own.
    """

    def __init__(self, draw: random.Random, new_id: Callable[[], str]) -> None:
        self._draw = draw
        self._id = new_id

    def wishes(self, state: PlanState, *, whims: bool) -> list[AnyCommand]:
        """What they ask of a plan: all that keeps it from ending; with *whims*, sometimes more."""
        wishes = list(self._needed(state, whims))
        if whims and state.graph.steps and self._draw.random() < 0.2:
            wishes.append(self._draw.choice(self._whims(state)))
        return wishes

    def _needed(self, state: PlanState, whims: bool) -> Iterator[AnyCommand]:
        for name in state.waiting:
            opened = state.steps[name].opened
            if isinstance(opened, AskOpened) and opened.on_overdue != "default":
                value: Any = "seven" if whims and self._draw.random() < 0.3 else 7
                yield asks.AnswerAsk(id=self._id(), step=name, digest=opened.digest, value=value)
            elif isinstance(state.graph.steps[name], Gate) and opened is not None:
                decision: Any = "reject" if whims and self._draw.random() < 0.1 else "approve"
                yield asks.CastVote(id=self._id(), step=name, digest=opened.digest, decision=decision)
        for name in state.troubled:
            step = state.steps[name]
            if step.status is StepStatus.OUTCOME_UNKNOWN and self._draw.random() < 0.5:
                done = self._draw.random() < 0.5
                yield asks.ResolveStep(id=self._id(), step=name, attempt=step.attempt, done=done)
            elif isinstance(state.graph.steps[name], Decide | Check):
                yield asks.CancelPlan(id=self._id(), step=name)
            else:
                yield asks.RetryStep(id=self._id(), step=name, attempt=step.attempt)
        if state.held:
            yield asks.ResumePlan(id=self._id())
        for name in state.held_steps:
            yield asks.ResumePlan(id=self._id(), step=name)

    def _whims(self, state: PlanState) -> list[AnyCommand]:
        anyone = self._draw.choice(sorted(state.graph.steps))
        document = msgspec.to_builtins(random_revision(self._draw, state.plan))
        whims: list[AnyCommand] = [
            asks.PausePlan(id=self._id()),
            asks.PausePlan(id=self._id(), step=anyone),
            asks.SkipStep(id=self._id(), step=anyone, reason="no need"),
            asks.RevisePlan(id=self._id(), base=state.revision, document=document),
            asks.CancelPlan(id=self._id(), step=anyone),
        ]
        for name in state.waiting:
            opened = state.steps[name].opened
            if isinstance(state.graph.steps[name], Gate) and opened is not None:
                whims.append(asks.RedirectPlan(id=self._id(), step=name, digest=opened.digest, document=document))
        for name in state.troubled:
            retry = asks.RetryStep(id=self._id(), step=name, attempt=state.steps[name].attempt, inputs={"changed": 1})
            whims.append(retry)
        if self._draw.random() < 0.1:
            whims.append(asks.CancelPlan(id=self._id()))
        return whims
