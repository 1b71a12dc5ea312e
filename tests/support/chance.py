"""Plans that nobody has thought of, and people who do about them what has to be done, and now and then what they like.

The simulator and the chaos harness both draw from here: everything comes from the `random.Random` that they give.
"""

import json
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec

from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand
from planmesh.schemas.events import AskOpened, GateOpened
from planmesh.schemas.plan import (
    OPERATORS,
    Ask,
    BodyStep,
    Branch,
    Case,
    Check,
    Decide,
    Draft,
    Each,
    Emit,
    Escalation,
    Gate,
    Parameter,
    Plan,
    Policy,
    Retry,
    Run,
    Step,
    Task,
)
from planmesh.schemas.state import PlanState, PlanStatus, StepStatus

AGENT = "agent"
SUBSTITUTE = "substitute"
"""Another agent that can do the same."""
EXECUTOR = "executor"
DEEPEST = 2
"""How many plans run inside of one another, besides the outermost."""


def random_plan(
    draw: random.Random,
    *,
    pace: float = 1.0,
    once: float = 0.0,
    service: str = "space",
    drafts: bool = True,
    depth: int = 0,
) -> Plan:
    """A plan of up to a dozen steps, of every kind.

    Args:
        pace: How long what waits waits: 1 for seconds.
        once: How many of the tasks may not be done twice, from 0 to 1.
        service: A service that answers what it is asked.
        drafts: Whether the planner writes plans.
        depth: How many plans there are above it.
    """
    steps: list[Step] = []
    labels: dict[str, tuple[str, ...]] = {}
    written: list[str] = []
    inner = {
        f"child{number}": random_plan(draw, pace=pace, once=once, service=service, drafts=drafts, depth=depth + 1)
        for number in range(draw.choice([0, 0, 1, 1, 2]) if depth < DEEPEST else 0)
    }
    kinds = ["task", "task", "task", "task", "gate", "decide", "check", "ask", "each"]
    kinds += ["run"] * (2 * bool(inner)) + ["plan"] * (drafts and depth < DEEPEST)
    for index in range(draw.randint(1, 5 if depth else 14)):
        names = [step.name for step in steps]
        after = tuple(draw.sample(names, min(len(names), draw.choice([0, 1, 1, 2]))))
        branch = None
        if labels and draw.random() < 0.3:
            of = draw.choice(sorted(labels))
            branch = Branch(step=of, label=draw.choice(labels[of]))
            after = after if of in after else (*after, of)
        about: dict[str, Any] = {"name": f"s{index}", "after": after, "branch": branch, "optional": draw.random() < 0.3}
        kind = draw.choice(kinds)
        step: Step
        if kind == "task":
            step = _random_task(draw, pace, once, **about)
        elif kind == "gate":
            step = Gate(**about, sla_s=draw.choice([None, 5.0 * pace]), escalate=_escalations(draw, pace))
        elif kind == "ask":
            step = _random_ask(draw, pace, service, **about)
        elif kind == "decide":
            step = Decide(**about, cases=(Case(when="n == 1", then="one"),), otherwise=draw.choice(["none", "one"]))
            labels[step.name] = step.labels
        elif kind == "each":
            step = _random_each(draw, pace, once, service, **about)
        elif kind == "plan":
            step = Draft(**about, inputs={"task": "{n}"})
            written.append(step.name)
        elif kind == "run":
            of = draw.choice([*written, *inner, *inner])
            about["after"] = tuple(dict.fromkeys((*after, *([of] if of in written else []))))
            mode: Any = draw.choice(["normal", "normal", "normal", "safe", "draft"])
            step = Run(**about, document=of, inputs={"n": "{n}"}, mode=mode, retries=draw.randint(0, 2))
        else:
            step = Check(**about, condition="n > 0", on_fail=draw.choice(["fail", "continue"]))
            labels[step.name] = step.labels
        steps.append(step)
    if draw.random() < 0.3:
        steps.append(Emit(name="end", after=tuple(step.name for step in steps), outcome="Done", result={"n": "{n}"}))
    return Plan(
        name="Random",
        inputs={
            "n": Parameter(type="integer"),
            **{name: Parameter(type="object", default=_written(draw, plan)) for name, plan in inner.items()},
        },
        steps=tuple(steps),
        concurrency=draw.randint(1, 4),
        policy=Policy(on_failure=draw.choice(["pause", "pause", "pause", "fail", "cancel"])),
    )


def _escalations(draw: random.Random, pace: float) -> tuple[Escalation, ...]:
    chain = (Escalation(after_s=2.0 * pace, to=("person:grace",)), Escalation(after_s=6.0 * pace, to=("person:lin",)))
    return draw.choice([(), chain])


def _written(draw: random.Random, plan: Plan) -> dict[str, Any]:
    """The plan as a document; now and then as one that is none."""
    document: dict[str, Any] = json.loads(encode(plan))
    return document if draw.random() < 0.9 else {**document, "steps": []}


def _random_task(draw: random.Random, pace: float, once: float, **about: Any) -> Task:
    """A task, of which agents give an object with `n`, from 0 to 2."""
    task = Task(
        **about,
        agent=AGENT,
        retry=Retry(attempts=draw.randint(1, 4), backoff_s=draw.choice([0.0, 1.0, 5.0]) * pace),
        idempotent=not once or draw.random() >= once,
        on_error=draw.choice(["halt"] * 9 + ["ignore"]),  # type: ignore[arg-type]
    )
    accept = draw.choice([None, None, None, f"{task.bound_as}.n > 0", f"{task.bound_as}.n < n or n < 0"])
    return msgspec.structs.replace(task, accept=accept)


def _random_ask(draw: random.Random, pace: float, service: str, **about: Any) -> Ask:
    said = draw.choice(
        [
            {"type": "number"},
            {"type": "boolean", "sla_s": 5.0 * pace},
            {"type": "number", "default": 7, "on_overdue": "default", "sla_s": 5.0 * pace},
            {"options": ("yes", "no"), "max_retries": 1},
        ]
    )
    reviewers = draw.choice([(), (f"service:{service}",), (OPERATORS,)])
    return Ask(**about, **said, prompt="Of {n}?", reviewers=reviewers, escalate=_escalations(draw, pace))


def _random_each(draw: random.Random, pace: float, once: float, service: str, **about: Any) -> Each:
    """An `each` over no, some or too few items; some of them fail, and some ask."""
    name = about["name"]
    body: list[BodyStep] = [_random_task(draw, pace, once, name=f"{name}-a", inputs={"of": "{item}"})]
    last = body[0].name
    for letter, kind in zip("bc", draw.sample(["task", "gate", "ask", "check"], draw.randint(0, 2)), strict=False):
        within: dict[str, Any] = {"name": f"{name}-{letter}", "after": (last,), "optional": draw.random() < 0.3}
        if kind == "task":
            body.append(_random_task(draw, pace, once, **within))
        elif kind == "gate":
            body.append(Gate(**within))
        elif kind == "ask":
            body.append(_random_ask(draw, pace, service, **within))
        else:
            body.append(Check(**within, condition="item > 1", on_fail=draw.choice(["fail", "continue"])))
        last = body[-1].name
    items = draw.choice(["[]", "[n]", "[n, 2]", "[3, 2, n, 4]", "n"] if draw.random() < 0.5 else ["[n, 2, 3]"])
    return Each(**about, items=items, steps=tuple(body), parallel=draw.choice([None, 1, 2]))


def random_revision(draw: random.Random, current: Plan, gone: Collection[str] = ()) -> Plan:
    """The plan with one task changed, and perhaps one step less and one more: it may well hit what has started.

    Args:
        gone: What other revisions have taken out: it may come back, as another step by the same name.
    """
    steps = list(current.steps)
    if draw.random() < 0.3:
        steps = _one_less(draw, steps)
    tasks = [index for index, step in enumerate(steps) if isinstance(step, Task)]
    if tasks:
        index = draw.choice(tasks)
        steps[index] = msgspec.structs.replace(steps[index], inputs={"changed": draw.randint(0, 99)})
    name = draw.choice(sorted(gone)) if gone and draw.random() < 0.5 else f"new{draw.randint(0, 999)}"
    names = [step.name for step in steps if not isinstance(step, Emit)]
    if draw.random() < 0.5 and names and name not in names:
        steps.append(Task(name=name, agent=AGENT, after=(draw.choice(names),), idempotent=True))
    return msgspec.structs.replace(current, steps=tuple(steps))


def _one_less(draw: random.Random, steps: list[Step]) -> list[Step]:
    """Without one that nothing but the end needs."""
    needed = {need for step in steps if not isinstance(step, Emit) for need in step.after}
    last = [step.name for step in steps if not isinstance(step, Emit) and step.name not in needed]
    if len(steps) < 3 or not last:
        return steps
    name = draw.choice(last)
    return [
        msgspec.structs.replace(step, after=tuple(need for need in step.after if need != name))
        for step in steps
        if step.name != name
    ]


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
        if state.status is PlanStatus.DRAFT:
            if self._draw.random() < 0.5:
                yield self._draw.choice([asks.StartPlan, asks.CancelPlan])(id=self._id())
            return
        for name in state.waiting:
            opened = state.steps[name].opened
            if isinstance(opened, GateOpened):
                decision: Any = "reject" if whims and self._draw.random() < 0.1 else "approve"
                yield asks.CastVote(id=self._id(), step=name, digest=opened.digest, decision=decision)
            elif isinstance(opened, AskOpened) and (opened.on_overdue != "default" or state.steps[name].overdue):
                # The other ones, their timers answer.
                yield self._answer(opened, whims)
        for name in state.troubled:
            step = state.steps[name]
            if step.status is StepStatus.OUTCOME_UNKNOWN and self._draw.random() < 0.5:
                done = self._draw.random() < 0.5
                yield asks.ResolveStep(id=self._id(), step=name, attempt=step.attempt, done=done)
            elif isinstance(state.graph.steps[name], Decide | Check | Each | Draft | Run) and (
                self._draw.random() < 0.5 or isinstance(state.graph.steps[name], Decide | Check | Each)
            ):
                yield asks.CancelPlan(id=self._id(), step=name)
            else:
                yield asks.RetryStep(id=self._id(), step=name, attempt=step.attempt)
        if state.held and state.by != EXECUTOR:  # what runs for another plan is that plan's to pause
            yield asks.ResumePlan(id=self._id())
        for name in state.held_steps:
            yield asks.ResumePlan(id=self._id(), step=name)

    def _answer(self, opened: AskOpened, whims: bool) -> AnyCommand:
        fitting = opened.options[0] if opened.options else {"text": "so", "number": 7, "boolean": True}[opened.answer]
        value: Any = "perhaps" if whims and self._draw.random() < 0.2 else fitting
        by_service = OPERATORS not in opened.reviewers or self._draw.random() < 0.3
        if by_service and any(one.startswith("service:") for one in opened.reviewers):
            return asks.Reply(id=self._id(), step=opened.step, digest=opened.digest, decision="answer", value=value)
        return asks.AnswerAsk(id=self._id(), step=opened.step, digest=opened.digest, value=value)

    def _whims(self, state: PlanState) -> list[AnyCommand]:
        in_flight = [name for name, step in state.steps.items() if step.status is StepStatus.DISPATCHED]
        anyone = self._draw.choice(in_flight if in_flight and self._draw.random() < 0.5 else sorted(state.graph.steps))
        document = msgspec.to_builtins(random_revision(self._draw, state.plan, state.superseded.keys()))
        cancel_running = self._draw.random() < 0.5
        whims: list[AnyCommand] = [
            asks.PausePlan(id=self._id()),
            asks.PausePlan(id=self._id(), step=anyone),
            asks.SkipStep(id=self._id(), step=anyone, reason="no need"),
            asks.RevisePlan(
                id=self._id(), base=state.revision, document=document, cancel_running=cancel_running, reason="better"
            ),
            asks.RevisePlan(id=self._id(), base=state.revision, instruction="do it better"),
            asks.CancelPlan(id=self._id(), step=anyone),
        ]
        for name in state.waiting:
            opened = state.steps[name].opened
            if isinstance(opened, GateOpened):
                about = {"step": name, "digest": opened.digest}
                whims.append(asks.RedirectPlan(id=self._id(), **about, document=document))
                whims.append(asks.RedirectPlan(id=self._id(), **about, instruction="do it better"))
        for name in state.troubled:
            again: dict[str, Any] = {"step": name, "attempt": state.steps[name].attempt}
            whims.append(asks.RetryStep(id=self._id(), **again, inputs={"changed": 1}))
            whims.append(asks.RetryStep(id=self._id(), **again, agent=self._draw.choice([AGENT, SUBSTITUTE])))
        if self._draw.random() < 0.1:
            whims.append(asks.CancelPlan(id=self._id()))
        return whims
