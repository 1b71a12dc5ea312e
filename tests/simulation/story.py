"""One story: a random plan, run by executors that die, on a server that hurts, by agents and people who err."""

import asyncio
import logging
import random
from typing import Any

import msgspec
import structlog
from judge import Broken, Judge
from world import SimulatedConnection, SimulatedMessage, SimulatedSubscription, VirtualLoop, World

from planmesh.errors import Busy, Conflict
from planmesh.eventlog import EventLog
from planmesh.executor.blobs import BlobStore
from planmesh.executor.decide import Decider
from planmesh.executor.dispatch import Dispatcher
from planmesh.executor.plans import Plans
from planmesh.executor.timers import handle_timer
from planmesh.schemas import codec, events, subjects
from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, verb_of
from planmesh.schemas.events import hash_of
from planmesh.schemas.goals import FINAL, Problem
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Branch, Case, Check, Decide, Emit, Gate, Parameter, Plan, Policy, Retry, Step, Task
from planmesh.schemas.state import ENDED, PlanState, StepStatus
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AttemptCompleted, AttemptFailed, AttemptUnknown, Failure, Result, Results

AGENT = "agent"
HURT_S = 60.0
"""For so long the world is cruel; then it heals, and the plan has to end."""
END_S = 4_000.0


def tell(seed: int) -> int:
    """Tell the story of *seed*. Returns: how many commits it took. Raises: Broken, naming the promise."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_Story(seed).run())
    finally:
        loop.close()


class _Executor:
    """The real loops, on a simulated connection, until they die."""

    def __init__(self, world: World) -> None:
        self.world = world
        connection: Any = SimulatedConnection(world)
        log, store, plans = EventLog(connection), BlobStore(connection), Plans()
        self.decider = Decider(connection, log, store, plans)
        self.dispatcher = Dispatcher(connection, connection, log, store, plans, world.now)
        self.connection = connection
        self.readers = {
            name: SimulatedSubscription(world, name) for name in ("COMMANDS", "RESULTS", "PLANS", "work.timer")
        }
        reader: Any = self.readers
        self.tasks = [
            asyncio.create_task(self.decider.take_commands(reader["COMMANDS"])),
            asyncio.create_task(self.decider.take_results(reader["RESULTS"])),
            asyncio.create_task(self.dispatcher.take_commits(reader["PLANS"])),
            asyncio.create_task(self._timers(self.readers["work.timer"])),
        ]

    async def _timers(self, timers: SimulatedSubscription) -> None:
        async for messages in timers:
            for message in messages:
                delivered: Any = message
                try:
                    await handle_timer(self.connection, delivered, self.world.now)
                except Busy:
                    message.nak(0.5)
                else:
                    message.ack()

    def die(self) -> None:
        """As by kill -9: whatever it awaits never returns, and nothing is given back."""
        for reader in self.readers.values():
            reader.closed = True
        for task in (*self.tasks, *self.decider._tasks, *self.dispatcher._tasks):
            task.cancel()


class _Story:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"story {seed}")
        self.address = Address("space", "plan")
        self.ids = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        self.world = World(self.seed, hurt=self.random.choice([0.0, 0.1, 0.3]))
        self.connection = SimulatedConnection(self.world)
        self.reader = EventLog(self.connection)  # type: ignore[arg-type]
        self.executors = [_Executor(self.world) for _ in range(self.random.choice([1, 1, 2, 4]))]
        for _ in range(self.random.randint(0, 6)):
            self.world.deaths[self.random.randint(1, 400)] = self._someone_dies
        self._spawn(self._work(SimulatedSubscription(self.world, "work.agent")))
        self._spawn(self._plan(SimulatedSubscription(self.world, "work.planner")))
        await self._ask(asks.CreatePlan(id="create", plan=random_plan(self.random), inputs={"n": 1}, goal_digest="d"))
        self.world.loop.call_later(HURT_S, self._heal)
        state = await self._people()
        await asyncio.sleep(30)  # what is still on its way
        for task in self.tasks:
            task.cancel()
        for executor in self.executors:
            executor.die()
        await asyncio.sleep(0)
        self._judge(state)
        return state.number

    # --- harm ------------------------------------------------------------------------------------------

    def _someone_dies(self) -> None:
        if not self.executors:
            return
        victim = self.random.choice(self.executors)
        self.executors.remove(victim)
        victim.die()
        self.world.loop.call_later(self.random.uniform(0, 3), self._another_starts)

    def _another_starts(self) -> None:
        self.executors.append(_Executor(self.world))

    def _heal(self) -> None:
        self.world.hurt = 0.0
        self.world.deaths.clear()

    # --- agents, planner, people -----------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _work(self, work: SimulatedSubscription) -> None:
        async for messages in work:
            for message in messages:
                self._spawn(self._attempt(message))

    async def _attempt(self, message: SimulatedMessage) -> None:
        work = codec.step_work.decode(message.data)
        await asyncio.sleep(self.random.expovariate(2))
        about: dict[str, Any] = {
            "space": work.space,
            "plan": work.plan,
            "step": work.step,
            "attempt": work.attempt,
        }
        ran: dict[str, Any] = {**about, "started_at": self.world.now(), "duration_s": 0.1}
        fate = self.random.random() if self.world.hurt else 1.0
        result: Result = AttemptCompleted(**ran, output=Payload(value={"n": self.random.randint(0, 2)}))
        if fate < 0.1:
            result = AttemptFailed(
                **ran, failure=Failure(code="agent_error", message="it broke", retryable=fate < 0.07)
            )
        elif fate < 0.14:
            result = AttemptUnknown(**about, reason="the worker died")
        elif fate < 0.18:
            return  # the worker dies: the work comes back
        for _ in range(self.random.choice([1, 1, 1, 2])):  # a result may be told twice
            await self._publish(subjects.results(AGENT), encode(Results(results=(result,))))
        message.ack()

    async def _plan(self, requests: SimulatedSubscription) -> None:
        async for messages in requests:
            for message in messages:
                work = codec.planner_work.decode(message.data)
                proposal = asks.ProposeRevision(id=f"p-{work.request}", request=work.request)
                if self.random.random() < 0.3:
                    problem = Problem(code="no_model", message="there is none")
                    proposal = msgspec.structs.replace(proposal, problems=(problem,))
                else:
                    proposal = msgspec.structs.replace(proposal, plan=random_revision(self.random, work.current))
                await self._ask(proposal, "planner")
                message.ack()

    async def _people(self) -> PlanState:
        """Look, and do what has to be done, until the plan has ended."""
        while self.world.loop.time() < END_S:
            await asyncio.sleep(self.random.uniform(0.5, 5))
            try:
                state = (await self.reader.read(self.address)).state
            except Busy:
                continue
            if state.status in ENDED:
                return state
            for command in self._wishes(state):
                await self._ask(command, "ada")
        raise Broken(f"after {END_S:g} s the plan is {state.status}: {state.reason or state.waiting}")

    def _wishes(self, state: PlanState) -> list[AnyCommand]:
        wishes: list[AnyCommand] = []
        for name in state.waiting:
            opened = state.steps[name].opened
            if isinstance(state.graph.steps[name], Gate) and opened is not None:
                decision: Any = "reject" if self.random.random() < 0.1 and self.world.hurt else "approve"
                wishes.append(asks.CastVote(id=self._id(), step=name, digest=opened.digest, decision=decision))
        for name in state.troubled:
            step = state.steps[name]
            if step.status is StepStatus.OUTCOME_UNKNOWN and self.random.random() < 0.5:
                done = self.random.random() < 0.5
                wishes.append(asks.ResolveStep(id=self._id(), step=name, attempt=step.attempt, done=done))
            elif isinstance(state.graph.steps[name], Decide | Check):
                wishes.append(asks.CancelPlan(id=self._id(), step=name))
            else:
                wishes.append(asks.RetryStep(id=self._id(), step=name, attempt=step.attempt))
        if state.held:
            wishes.append(asks.ResumePlan(id=self._id()))
        wishes += [asks.ResumePlan(id=self._id(), step=name) for name in state.held_steps]
        if self.world.hurt and state.graph.steps:
            anyone = self.random.choice(sorted(state.graph.steps))
            whims: list[AnyCommand] = [
                asks.PausePlan(id=self._id()),
                asks.PausePlan(id=self._id(), step=anyone),
                asks.SkipStep(id=self._id(), step=anyone, reason="no need"),
                asks.RevisePlan(id=self._id(), base=state.revision, document={}),
                asks.CancelPlan(id=self._id(), step=anyone),
            ]
            if self.random.random() < 0.2:
                wishes.append(self.random.choice(whims))
        return wishes

    def _id(self) -> str:
        self.ids += 1
        return f"command-{self.ids}"

    async def _ask(self, command: AnyCommand, actor: str = "planner") -> None:
        await self._publish(subjects.command(self.address, verb_of(command), actor), encode(command))

    async def _publish(self, subject: str, data: bytes) -> None:
        """Until it is stored; whoever does not know tries again."""
        while True:
            try:
                await self.connection.publish(subject, data)
                return
            except (Busy, Conflict):
                await asyncio.sleep(self.random.uniform(0.1, 1))

    # --- the verdict -----------------------------------------------------------------------------------

    def _judge(self, state: PlanState) -> None:
        judge = Judge(self.address)
        for stored in self.world.streams["PLANS"].messages:
            commit = codec.commit.decode(stored.data)
            judge.read(commit, hash_of(stored.data))
        # After its end there may be refusals of what was asked too late.
        if judge.state.status is not state.status or (judge.state.number == state.number and judge.state != state):
            raise Broken("the executors' reading of the log is not the judge's")
        dispatched = [(e.step, e.attempt) for e in judge.events if isinstance(e, events.StepDispatched)]
        handed = [
            codec.step_work.decode(one.data) for one in self.world.streams["WORK"].messages if "agent" in one.subject
        ]
        keys = [(work.step, work.attempt) for work in handed]
        if len(keys) != len(set(keys)) or not set(keys) <= set(dispatched):
            raise Broken("something was handed out twice, or that the log does not know")
        told = [codec.outcome.decode(one.data) for one in self.world.streams["OUTCOMES"].messages]
        final = [outcome for outcome in told if isinstance(outcome, FINAL)]
        if len(final) != 1:
            raise Broken(f"the requester heard {len(final)} ends")
        if self.world.streams["POISON"].messages:
            raise Broken(f"poison: {self.world.streams['POISON'].messages[0].data!r}")


def random_plan(draw: random.Random) -> Plan:
    """A plan of up to a dozen steps, of every kind."""
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
        kind = draw.choice(["task", "task", "task", "task", "gate", "decide", "check"])
        step: Step
        if kind == "task":
            step = Task(
                **about,
                agent=AGENT,
                retry=Retry(attempts=draw.randint(1, 4), backoff_s=draw.choice([0.0, 1.0, 5.0])),
                idempotent=True,
            )
        elif kind == "gate":
            step = Gate(**about, sla_s=draw.choice([None, 5.0]))
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
