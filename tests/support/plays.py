"""Plays of a plan without a server: commands and results in any order, and what must hold after each of them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st
from judge import Broken, Judge

from planmesh.executor.plan import NO_LIMITS, decide
from planmesh.executor.released import gates_of
from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import Asked, ReportResult
from planmesh.schemas.events import AnyEvent, AskOpened, Cause, Commit, hash_of
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import (
    OPERATORS,
    Ask,
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
from planmesh.schemas.state import (
    ENDED,
    PlanState,
    StepStatus,
    answered,
    fold,
    open_gates,
    sealed,
)
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import (
    AttemptCompleted,
    AttemptFailed,
    AttemptNotStarted,
    AttemptUnknown,
    Call,
    ChildStep,
    Denial,
    Failure,
    Parent,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Address("space", "plan")
AGENT = "agent"
NO_MANDATE = Mandate()
TOLD = {
    "calls": (
        Call(kind="model", name="m", started_at=START, duration_s=0.2, input_tokens=7, output_tokens=5),
        Call(kind="tool", name="search", started_at=START, duration_s=0.1, ok=False),
    ),
    "denials": (Denial(what="tool send", why="the step does not name it"),),
}
"""What an attempt may tell of besides its output."""


def task(name: str, *after: str, **fields: Any) -> Task:
    return Task(name=name, after=after, agent=AGENT, **fields)


def gate(name: str, *after: str, **fields: Any) -> Gate:
    return Gate(name=name, after=after, **fields)


def question(name: str, *after: str, **fields: Any) -> Ask:
    return Ask(name=name, after=after, **fields)


def plan(*steps: Step, **fields: Any) -> Plan:
    return Plan(name="A plan", steps=steps, **fields)


def fitting(opened: AskOpened) -> Any:
    """An answer to what is asked."""
    return opened.options[0] if opened.options else {"text": "so", "number": 7, "boolean": True}[opened.answer]


def kept(value: Any) -> dict[str, Any]:
    """What an answer says of a secret: it has been stored as *value*, or *value* is none, and is sent instead."""
    return {"secret": f"kept-{value}"} if isinstance(value, str) else {"value": value}


class Play:
    """One plan, played against `decide`. Every commit is checked against the promises as it is made."""

    def __init__(
        self,
        document: Plan,
        *,
        start: bool = True,
        inputs: dict[str, Any] | None = None,
        agent_limits: Mapping[str, int] = NO_LIMITS,
        owners: tuple[str, ...] = (),
        parent: Parent | None = None,
        mandate: Mandate = NO_MANDATE,
    ) -> None:
        self.agent_limits = agent_limits
        self.document = document
        self.judge = Judge(HERE)
        self.at = START
        self.log: list[tuple[Commit, str]] = []
        self.ids = 0
        created = asks.CreatePlan(
            id="create",
            plan=document,
            inputs=inputs or {},
            goal_digest="digest",
            start=start,
            owners=owners,
            parent=parent,
            mandate=mandate,
        )
        self.ask(created, by="planner")

    @property
    def state(self) -> PlanState:
        return self.judge.state

    @property
    def events(self) -> list[AnyEvent]:
        return self.judge.events

    # --- what can be done ------------------------------------------------------------------------------

    def ask(
        self, what: asks.AnyCommand | ReportResult, by: str = "ada", later_s: float = 1.0, alone: str = ""
    ) -> list[AnyEvent]:
        self.at += timedelta(seconds=later_s)
        asked = Asked(what, by, self.at)
        decision = decide(self.state, asked, agent_limits=self.agent_limits, alone=alone)
        if decision.events:
            self._commit(decision.events, decision.state, asked.cause)
        return decision.events

    def id(self) -> str:
        self.ids += 1
        return f"command-{self.ids}"

    def completes(
        self, step: str, attempt: int | None = None, output: object = None, by: str = AGENT, **told: Any
    ) -> list[AnyEvent]:
        return self.ask(
            ReportResult(
                AttemptCompleted(
                    space=HERE.space,
                    plan=HERE.plan,
                    step=step,
                    attempt=attempt or self.attempt(step),
                    output=Payload(value=output),
                    started_at=self.at,
                    duration_s=0.5,
                    worker="here/1",
                    version="1",
                    **told,
                )
            ),
            by,
        )

    def fails(
        self, step: str, attempt: int | None = None, *, retryable: bool = True, alone: str = "", **told: Any
    ) -> list[AnyEvent]:
        return self.ask(
            ReportResult(
                AttemptFailed(
                    space=HERE.space,
                    plan=HERE.plan,
                    step=step,
                    attempt=attempt or self.attempt(step),
                    failure=Failure(code="agent_error", message="it broke", retryable=retryable),
                    started_at=self.at,
                    duration_s=0.5,
                    **told,
                )
            ),
            AGENT,
            alone=alone,
        )

    def does(self, step: str) -> list[AnyEvent]:
        """Let whoever works on a step do what is asked of them."""
        match self.state.graph.steps[step]:
            case Draft():
                return self.is_drafted(step, {"name": "written"})
            case Run():
                return self.hears(step, "completed", number=10)
            case _:
                return self.completes(step)

    def is_drafted(self, step: str, document: dict[str, Any] | None) -> list[AnyEvent]:
        """Answer a `plan` step as the planner."""
        failure = None if document is not None else Failure(code="no_model", message="there is none")
        attempt = self.attempt(step)
        draft = asks.ReportDraft(id=self.id(), step=step, attempt=attempt, document=document, failure=failure)
        return self.ask(draft, "planner")

    def hears(self, step: str, status: Any, number: int, alone: str = "", **said: Any) -> list[AnyEvent]:
        """What the plan says that a `run` step runs."""
        known = self.state.steps[step]
        if status == "paused" and not said:
            said = {"troubled": (ChildStep(step="inner", attempt=1),)}
        report = asks.ReportChild(
            id=self.id(),
            step=step,
            attempt=known.attempt,
            child=known.child or "none",
            number=number,
            status=status,
            **said,
        )
        return self.ask(report, "executor", alone=alone)

    def loses(self, step: str, **told: Any) -> list[AnyEvent]:
        result = AttemptUnknown(
            space=HERE.space, plan=HERE.plan, step=step, attempt=self.attempt(step), reason="the worker is gone", **told
        )
        return self.ask(ReportResult(result), AGENT)

    def gives_back(self, step: str) -> list[AnyEvent]:
        result = AttemptNotStarted(
            space=HERE.space, plan=HERE.plan, step=step, attempt=self.attempt(step), reason="no claim"
        )
        return self.ask(ReportResult(result), AGENT)

    def votes(self, step: str, decision: Any = "approve", by: str = "ada", digest: str | None = None) -> list[AnyEvent]:
        opened = self.state.steps[step].opened
        quoted = digest if digest is not None else opened.digest if opened is not None else "none"
        return self.ask(asks.CastVote(id=self.id(), step=step, digest=quoted, decision=decision, reason="so"), by)

    def answers(self, step: str, value: Any, by: str = "ada", digest: str | None = None) -> list[AnyEvent]:
        opened = self.state.steps[step].opened
        quoted = digest if digest is not None else opened.digest if opened is not None else "none"
        given = kept(value) if isinstance(opened, AskOpened) and opened.secret else {"value": value}
        return self.ask(asks.AnswerAsk(id=self.id(), step=step, digest=quoted, **given, reason="so"), by)

    def is_answered(self, step: str) -> list[AnyEvent]:
        """Somebody who is asked gives an answer that fits."""
        opened = self.state.steps[step].opened
        assert isinstance(opened, AskOpened)  # it is open
        if OPERATORS in opened.reviewers:
            return self.answers(step, fitting(opened))
        return self.replies(step, "aide", value=fitting(opened))

    def replies(self, step: str, space: str, decision: Any = "answer", value: Any = None) -> list[AnyEvent]:
        opened = self.state.steps[step].opened
        digest = opened.digest if opened is not None else "none"
        given = kept(value) if isinstance(opened, AskOpened) and opened.secret else {"value": value}
        reply = asks.Reply(id=self.id(), step=step, digest=digest, decision=decision, **given)
        return self.ask(reply, asks.actor_of("reply", space))

    def replies_late(self, step: str, space: str) -> list[AnyEvent]:
        """A service answers what is not asked any more."""
        reply = asks.Reply(id=self.id(), step=step, digest="of old", decision="answer", value="so")
        return self.ask(reply, asks.actor_of("reply", space))

    def is_due(self, step: str, attempt: int | None = None, purpose: Any = "retry", level: int = 0) -> list[AnyEvent]:
        number = self.attempt(step) + (purpose == "retry") if attempt is None else attempt
        due = asks.TimerDue(id=self.id(), step=step, attempt=number, purpose=purpose, level=level)
        return self.ask(due, "executor")

    def revises(self, document: Plan, *, cancel_running: bool = False, by_planner: bool = False) -> list[AnyEvent]:
        """Ask for a revision, and answer as the planner."""
        request = self.id()
        self.ask(asks.RevisePlan(id=request, base=self.state.revision, document={}, cancel_running=cancel_running))
        return self._proposes(request, document, by_planner)

    def redirects(self, gate: str, document: Plan, *, by_planner: bool = False) -> list[AnyEvent]:
        """Answer an open gate with another plan, and answer that as the planner."""
        request, opened = self.id(), self.state.steps[gate].opened
        assert opened is not None  # it is open
        self.ask(asks.RedirectPlan(id=request, step=gate, digest=opened.digest, document={}))
        return self._proposes(request, document, by_planner)

    def retries_with(self, step: str, inputs: dict[str, Any]) -> list[AnyEvent]:
        """Try a step again with other inputs, and answer that as the planner."""
        request = self.id()
        self.ask(asks.RetryStep(id=request, step=step, attempt=self.attempt(step), inputs=inputs))
        steps = (
            msgspec.structs.replace(one, inputs=inputs) if one.name == step and isinstance(one, Task) else one
            for one in self.state.plan.steps
        )
        return self._proposes(request, msgspec.structs.replace(self.state.plan, steps=tuple(steps)))

    def _proposes(self, request: str, document: Plan, by_planner: bool = False) -> list[AnyEvent]:
        before = self.state
        proposal = asks.ProposeRevision(id=self.id(), request=request, plan=document, by_planner=by_planner)
        happened = self.ask(proposal, "planner")
        if by_planner and self.state.revision > before.revision:
            ours = gates_of(before)  # of what waits for these, the judge has its own list
            for name, step in before.graph.steps.items():
                undecided = before.steps[name].status not in (StepStatus.COMPLETED, StepStatus.SKIPPED)
                if isinstance(step, Gate) and undecided and name not in ours:
                    behind = set(self.state.graph.behind(name)) if name in self.state.graph.steps else set()
                    if not behind >= set(before.graph.behind(name)) & self.state.graph.steps.keys():
                        raise Broken(f"the planner has led a way around gate {name}")
        return happened

    def retries(self, step: str) -> list[AnyEvent]:
        return self.ask(asks.RetryStep(id=self.id(), step=step, attempt=self.attempt(step)))

    # --- what is the case ------------------------------------------------------------------------------

    def attempt(self, step: str) -> int:
        return max(self.state.steps[step].attempt, 1)

    def status(self, step: str) -> str:
        return self.state.steps[step].status

    def in_status(self, *wanted: StepStatus) -> list[str]:
        return [name for name in self.state.graph.steps if self.state.steps[name].status in wanted]

    def of_type(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    # --- what must hold --------------------------------------------------------------------------------

    def _commit(self, happened: list[AnyEvent], after: PlanState, cause: Cause) -> None:
        number = self.state.number + 1
        commit = Commit(
            space=HERE.space,
            plan=HERE.plan,
            number=number,
            at=self.at,
            causes=(cause,),
            events=tuple(happened),
            previous=self.state.head,
        )
        head = hash_of(encode(commit))
        self.log.append((commit, head))
        self.judge.read(commit, head)
        if self.state != sealed(answered(after, (cause,)), number, head):
            raise Broken("the state that decide gives is not the fold of its events")

    def finish(self) -> None:
        """At the end: the log alone gives the same state."""
        if fold(HERE, self.log) != self.state:
            raise Broken("folding the log gives another state")


# --- random plans and random plays --------------------------------------------------------------------------


QUESTIONS: list[dict[str, Any]] = [
    {"type": "number"},
    {"type": "number", "default": 7, "on_overdue": "default"},
    {"type": "boolean", "reviewers": ("service:aide",), "max_retries": 0},
    {"options": ("yes", "no"), "escalate": (Escalation(after_s=60, to=("person:grace",)),), "max_retries": 1},
    {"secret": True},
]
ANSWERS: list[Any] = ["yes", "no", "maybe", 7, True, None]


@st.composite
def plans(draw: st.DrawFn, most: int = 12) -> Plan:
    """Plans with tasks, gates, decisions, branches, checks and sometimes an end."""
    steps: list[Step] = []
    labels: dict[str, tuple[str, ...]] = {}
    for index in range(draw(st.integers(1, most))):
        name = f"s{index}"
        names = [step.name for step in steps]
        after = tuple(draw(st.lists(st.sampled_from(names), unique=True, max_size=3))) if names else ()
        branch = None
        if labels and draw(st.integers(0, 2)) == 0:
            of = draw(st.sampled_from(sorted(labels)))
            branch = Branch(step=of, label=draw(st.sampled_from(labels[of])))
            after = (*after, of) if of not in after else after
        about: dict[str, Any] = {"name": name, "after": after, "branch": branch, "optional": draw(st.booleans())}
        kind = draw(
            st.sampled_from(["task", "task", "task", "task", "gate", "ask", "decide", "check", "each", "run", "plan"])
        )
        if kind == "task":
            retry = Retry(attempts=draw(st.integers(1, 3)), backoff_s=draw(st.sampled_from([0.0, 1.0])))
            step: Step = Task(
                **about,
                agent=AGENT,
                retry=retry,
                on_error=draw(st.sampled_from(["halt", "halt", "ignore"])),
                idempotent=draw(st.booleans()),
            )
        elif kind == "gate":
            step = Gate(
                **about,
                quorum=draw(st.integers(1, 2)),
                four_eyes=draw(st.booleans()),
                escalate=draw(st.sampled_from([(), (Escalation(after_s=60, to=("service:aide",)),)])),
            )
        elif kind == "ask":
            step = Ask(**about, **draw(st.sampled_from(QUESTIONS)))
        elif kind == "decide":
            step = Decide(**about, cases=(Case(when="n == 1", then="one"), Case(when="n > 1", then="more")))
            if draw(st.booleans()):
                step = Decide(**about, cases=step.cases, otherwise="none")
            labels[name] = step.labels
        elif kind == "each":
            step = each_of(draw, **about)
        elif kind == "run":
            step = Run(**about, document="{name: n}", retries=draw(st.integers(0, 2)))
        elif kind == "plan":
            step = Draft(**about, inputs={"task": "{n}"})
        else:
            step = Check(**about, condition="n > 0", on_fail=draw(st.sampled_from(["fail", "continue"])))
            labels[name] = step.labels
        steps.append(step)
    if draw(st.integers(0, 3)) == 0:
        steps.append(Emit(name="end", after=tuple(step.name for step in steps), outcome="Done", result={"n": "{n}"}))
    return Plan(
        name="Random",
        inputs={"n": Parameter(type="integer")},
        steps=tuple(steps),
        concurrency=draw(st.integers(1, 4)),
        policy=Policy(on_failure=draw(st.sampled_from(["pause", "pause", "fail", "cancel"]))),
    )


def each_of(draw: Any, **about: Any) -> Each:
    """An `each` over no, some or unknown items, whose body may have a gate in it."""
    name = about["name"]
    body: list[Any] = [Task(name=f"{name}-a", agent=AGENT, inputs={"of": "{item}"}, optional=draw(st.booleans()))]
    if draw(st.booleans()):
        body.append(Gate(name=f"{name}-g", after=(f"{name}-a",)))
        body.append(Task(name=f"{name}-b", after=(f"{name}-g",), agent=AGENT, on_error="ignore"))
    if draw(st.booleans()):
        body.append(Task(name=f"{name}-c", agent=AGENT, retry=Retry(attempts=2, backoff_s=0.0)))
    items = draw(st.sampled_from(["[]", "[n]", "[n, 2, 3]", "[1, 2, 3, 4]", "n"]))
    return Each(**about, items=items, steps=tuple(body), parallel=draw(st.sampled_from([None, 1, 2])))


def play_on(draw: Any, play: Play, most_moves: int = 60) -> None:
    """Random moves: results in any order, late and repeated ones, failures, votes, timers, people."""
    for _ in range(most_moves):
        if play.state.status in ENDED and draw(st.integers(0, 3)) == 0:
            break
        move = draw(st.integers(0, 24))
        dispatched = play.in_status(StepStatus.DISPATCHED)
        waiting = play.in_status(StepStatus.WAITING)
        troubled = list(play.state.troubled)
        anyone = draw(st.sampled_from(sorted(play.state.graph.steps)))
        if move < 8 and dispatched:
            play.completes(draw(st.sampled_from(dispatched)), output={"n": move}, **(TOLD if move == 0 else {}))
        elif move == 8 and play.state.away:
            step = draw(st.sampled_from(play.state.away))
            if isinstance(play.state.graph.steps[step], Draft):
                play.is_drafted(step, draw(st.sampled_from([None, {"name": "written"}])))
            else:
                statuses = ["running", "waiting", "paused", "completed", "failed", "cancelled", "refused", "draft"]
                play.hears(step, draw(st.sampled_from(statuses)), number=draw(st.integers(1, 5)))
        elif move == 9 and dispatched:
            play.fails(draw(st.sampled_from(dispatched)), retryable=draw(st.booleans()), **TOLD)
        elif move == 10 and dispatched:
            draw(st.sampled_from([play.loses, play.gives_back]))(draw(st.sampled_from(dispatched)))
        elif move in (11, 12) and waiting:
            step = draw(st.sampled_from(waiting))
            if isinstance(play.state.graph.steps[step], Ask):
                value = draw(st.sampled_from(ANSWERS))
                if draw(st.booleans()):
                    play.answers(step, value, by=draw(st.sampled_from(["ada", "grace"])))
                else:
                    play.replies(step, draw(st.sampled_from(["aide", "space", "stranger"])), value=value)
            elif play.state.steps[step].opened is not None and draw(st.integers(0, 4)) == 0:
                play.replies(step, "aide", draw(st.sampled_from(["approve", "reject"])))
            elif play.state.steps[step].opened is not None:
                digest = draw(st.sampled_from([None, None, None, "other"]))
                play.votes(
                    step,
                    draw(st.sampled_from(["approve", "approve", "approve", "reject"])),
                    by=draw(st.sampled_from(["ada", "grace", "space"])),
                    digest=digest,
                )
            else:
                play.is_due(step)
        elif move == 13 and troubled:
            play.retries(draw(st.sampled_from(troubled)))
        elif move == 14 and troubled:
            step = draw(st.sampled_from(troubled))
            done = draw(st.booleans())
            play.ask(asks.ResolveStep(id=play.id(), step=step, attempt=play.attempt(step), done=done))
        elif move == 15:
            play.ask(asks.SkipStep(id=play.id(), step=anyone, reason="no need"))
        elif move == 16:
            play.completes(anyone, attempt=draw(st.integers(1, 3)))
        elif move == 17:
            purpose = draw(st.sampled_from(["retry", "sla", "escalate"]))
            play.is_due(anyone, attempt=draw(st.integers(0, 3)), purpose=purpose, level=draw(st.integers(0, 2)))
        elif move == 18:
            play.ask(draw(st.sampled_from([asks.PausePlan, asks.ResumePlan, asks.StartPlan]))(id=play.id()))
        elif move == 19:
            step_or_plan = anyone if draw(st.integers(0, 9)) else None
            if step_or_plan is None or draw(st.integers(0, 2)) == 0:
                play.ask(asks.CancelPlan(id=play.id(), step=step_or_plan))
        elif move == 20:
            play.ask(draw(st.sampled_from([asks.PausePlan, asks.ResumePlan]))(id=play.id(), step=anyone))
        elif move == 21 and play.state.held_steps:
            play.ask(asks.ResumePlan(id=play.id(), step=play.state.held_steps[0]))
        elif move == 22 and play.state.status not in ENDED:
            play.revises(
                revised(draw, play), cancel_running=draw(st.booleans()), by_planner=draw(st.integers(0, 2)) == 0
            )
        elif move == 23 and troubled:
            play.retries_with(draw(st.sampled_from(troubled)), inputs={"changed": draw(st.integers(1, 3))})
        elif move == 24 and (gates := open_gates(play.state)):
            play.redirects(draw(st.sampled_from(gates)), revised(draw, play), by_planner=draw(st.booleans()))
    play.finish()


def revised(draw: Any, play: Play) -> Plan:
    """Another plan: steps gone, changed, of another kind, added or back; what has started may be hit as well."""
    steps = list(play.state.plan.steps)
    names = [step.name for step in steps if isinstance(step, Task | Gate | Ask)]
    gone, changed, other_kind, moved = (draw(st.sampled_from([*names, "", ""])) for _ in range(4))
    kept: list[Step] = []
    for step in steps:
        if step.name == gone:
            continue
        earlier = [one.name for one in kept]
        step = msgspec.structs.replace(step, after=tuple(need for need in step.after if need != gone))
        if step.name == moved and earlier:
            branch = (step.branch.step,) if step.branch is not None else ()
            after = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2))
            step = msgspec.structs.replace(step, after=tuple(dict.fromkeys((*after, *branch))))
        if step.name == changed:
            number = draw(st.integers(1, 3))
            step = (
                msgspec.structs.replace(step, inputs={"changed": number})
                if isinstance(step, Task)
                else msgspec.structs.replace(step, quorum=number)
                if isinstance(step, Gate)
                else msgspec.structs.replace(step, prompt=f"version {number}")
                if isinstance(step, Ask)
                else step
            )
        if step.name == other_kind:
            about: dict[str, Any] = {"name": step.name, "after": step.after, "branch": step.branch}
            step = draw(st.sampled_from([Gate, Ask]))(**about) if isinstance(step, Task) else Task(**about, agent=AGENT)
        kept.append(step)
    for kind in draw(st.lists(st.sampled_from([Task, Task, Gate]), max_size=2)):
        there = [step.name for step in kept if not isinstance(step, Emit)]
        after = tuple(draw(st.lists(st.sampled_from(there), unique=True, max_size=2))) if there else ()
        back = sorted(set(play.state.superseded) - {step.name for step in kept})
        name = draw(st.sampled_from([*back, f"new{play.ids}-{len(kept)}"]))
        kept.append(Task(name=name, after=after, agent=AGENT) if kind is Task else Gate(name=name, after=after))
    if not kept:
        return play.state.plan
    concurrency = draw(st.sampled_from([play.state.plan.concurrency, 1, 4]))
    return msgspec.structs.replace(play.state.plan, steps=tuple(kept), concurrency=concurrency)
