"""One story: a random plan, run by executors that die, on a server that hurts, by agents and people who err."""

import asyncio
import json
import logging
import random
from typing import Any

import msgspec
import structlog
from chance import AGENT, DEEPEST, SUBSTITUTE, People, random_plan, random_revision
from judge import Broken, Judge, judge_family
from world import ACK_WAIT_S, Process, SimulatedConnection, SimulatedMessage, SimulatedSubscription, VirtualLoop, World

from planmesh.errors import Busy, Conflict
from planmesh.eventlog import EventLog
from planmesh.executor.blobs import BlobStore
from planmesh.executor.decide import Decider
from planmesh.executor.dispatch import Dispatcher
from planmesh.executor.plans import Plans
from planmesh.executor.timers import handle_timer
from planmesh.planner.revisions import propose
from planmesh.planner.runs import consider_run
from planmesh.schemas import codec, events, subjects
from planmesh.schemas import commands as asks
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, verb_of
from planmesh.schemas.events import hash_of
from planmesh.schemas.goals import FINAL, Outcome, Problem, Refused
from planmesh.schemas.mandate import MAX_PLANS, Mandate
from planmesh.schemas.payload import Payload
from planmesh.schemas.state import ENDED, PlanState, PlanStatus, StepStatus
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import (
    AgentDescription,
    AttemptCompleted,
    AttemptFailed,
    AttemptUnknown,
    DraftWork,
    Failure,
    PlannerWork,
    Result,
    Results,
    RunWork,
)

HURT_S = 60.0
"""For so long the world is cruel; then it heals, and the plan has to end."""
END_S = 4_000.0
SPACE = "space"
OPERATORS = ("role:operator",)
AGENTS = {name: AgentDescription(name=name, any_parameters=True) for name in (AGENT, SUBSTITUTE)}


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
        self.process = Process()
        connection: Any = SimulatedConnection(world, self.process)
        log, store, plans = EventLog(connection), BlobStore(connection), Plans()
        self.decider = Decider(connection, log, store, plans)
        self.dispatcher = Dispatcher(connection, connection, log, store, plans, world.now)
        self.connection = connection
        self.readers = {
            name: SimulatedSubscription(world, name, self.process)
            for name in ("COMMANDS", "RESULTS", "PLANS", "work.timer")
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
        self.address = Address(SPACE, "plan")
        self.ids = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.bugs: list[BaseException] = []

    async def run(self) -> int:
        # Now and then, what follows from some commands and results is more than the log takes.
        narrow = {"commit_bytes": self.random.randint(1_200, 4_000)} if self.random.random() < 0.2 else {}
        self.world = World(self.seed, hurt=self.random.choice([0.0, 0.1, 0.3]), **narrow)
        self.connection = SimulatedConnection(self.world)
        self.reader = EventLog(self.connection)  # type: ignore[arg-type]
        self.executors = [_Executor(self.world) for _ in range(self.random.choice([1, 1, 2, 4]))]
        for _ in range(self.random.randint(0, 6)):
            harm = self.random.choice([self._someone_dies, self._someone_stands_still])
            self.world.harms[self.random.randint(1, 400)] = harm
        self._spawn(self._work(SimulatedSubscription(self.world, "work.agent")))
        self._spawn(self._plan(SimulatedSubscription(self.world, "work.planner")))
        plan = random_plan(self.random)
        inputs = {**{name: given.default for name, given in plan.inputs.items()}, "n": 1}
        mandate = Mandate(plans=self.random.choice([MAX_PLANS, 0, 1, 2, 5, 20]))
        about: dict[str, Any] = {"plan": plan, "inputs": inputs, "mandate": mandate}
        await self._ask(self.address, asks.CreatePlan(id="create", goal_digest="d", **about))
        self.world.loop.call_later(HURT_S, self._heal)
        states = await self._people()
        for task in self.tasks:
            task.cancel()
        for executor in self.executors:
            executor.die()
        await asyncio.sleep(0)
        self._judge(states)
        return sum(state.number for state in states)

    # --- harm ------------------------------------------------------------------------------------------

    def _someone_dies(self) -> None:
        if not self.executors:
            return
        victim = self.random.choice(self.executors)
        self.executors.remove(victim)
        victim.die()
        self.world.loop.call_later(self.random.uniform(0, 3), self._another_starts)

    def _someone_stands_still(self) -> None:
        if self.executors:
            process = self.random.choice(self.executors).process
            process.goes_on.clear()
            self.world.loop.call_later(self.random.uniform(0, 10 * ACK_WAIT_S), process.goes_on.set)

    def _another_starts(self) -> None:
        self.executors.append(_Executor(self.world))

    def _heal(self) -> None:
        self.world.hurt = 0.0
        self.world.commit_bytes = 8 * 1024 * 1024
        self.world.harms.clear()

    # --- agents, planner, people -----------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bugs.append(error)

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
            await self._publish(subjects.results(work.agent), encode(Results(results=(result,))))
        message.ack()

    async def _plan(self, requests: SimulatedSubscription) -> None:
        async for messages in requests:
            for message in messages:
                if subjects.is_step_planning(message.subject):
                    await self._plan_a_step(codec.step_planning.decode(message.data))
                else:
                    await self._revise(codec.planner_work.decode(message.data))
                message.ack()

    async def _revise(self, work: PlannerWork) -> None:
        proposal = asks.ProposeRevision(id=f"p-{work.request}", request=work.request, by_planner=work.is_for_a_model)
        fate = self.random.random()
        if fate < 0.2:
            problem = Problem(code="no_model", message="there is none")
            proposal = msgspec.structs.replace(proposal, problems=(problem,))
        elif fate < 0.4 or work.is_for_a_model:
            proposal = msgspec.structs.replace(proposal, plan=random_revision(self.random, work.current))
        else:
            proposal = propose(work, AGENTS, reviewers=OPERATORS)
        await self._ask(work.address, proposal, "planner")

    async def _plan_a_step(self, work: DraftWork | RunWork) -> None:
        await asyncio.sleep(self.random.expovariate(2))
        if isinstance(work, RunWork):
            # Now and then, somebody has published a goal by the very id.
            stranger = asks.CreatePlan(id="stranger", plan=random_plan(self.random, depth=DEEPEST), goal_digest="s")
            child = Address(work.space, work.child)
            if self.random.random() < 0.05:
                await self._ask(child, msgspec.structs.replace(stranger, inputs={"n": 1}))
            await self._ask(child, consider_run(work, AGENTS, reviewers=OPERATORS))
            return
        draft = asks.ReportDraft(id=f"d-{work.step}-{work.attempt}", step=work.step, attempt=work.attempt)
        if self.random.random() < 0.2:
            failure = Failure(code="no_model", message="there is none")
            draft = msgspec.structs.replace(draft, failure=failure)
        else:
            document = json.loads(encode(random_plan(self.random, depth=DEEPEST)))
            draft = msgspec.structs.replace(draft, document=document)
        await self._ask(work.address, draft)

    async def _people(self) -> list[PlanState]:
        """Look, and do what has to be done, until every plan has ended, and nothing is on its way any more."""
        people = People(self.random, self._id)
        quiet_since = self.world.loop.time()
        open_plans: list[PlanState] = []
        while self.world.loop.time() < END_S:
            await asyncio.sleep(self.random.uniform(0.5, 5))
            if self.bugs:
                raise self.bugs[0]
            try:
                states = [(await self.reader.read(address)).state for address in self._plans()]
            except Busy:
                continue
            # What was refused before it was created is not there.
            open_plans = [state for state in states if state.exists and state.status not in ENDED]
            if open_plans or not states[0].exists:
                quiet_since = self.world.loop.time()
            elif self.world.loop.time() - quiet_since > 30:
                return states
            known = {state.address: state for state in states}
            for state in open_plans:
                if _is_forsaken(state, known):
                    continue  # nobody looks after it: it has to be recalled
                for command in people.wishes(state, whims=self.world.hurt > 0):
                    await self._ask(state.address, command, SPACE if isinstance(command, asks.Reply) else "ada")
        raise Broken("; ".join([f"after {END_S:g} s", *map(_stands, open_plans)]))

    def _plans(self) -> list[Address]:
        """Every plan of which there is a line in the log, the outermost first."""
        found = dict.fromkeys([self.address])
        found.update((subjects.read_plan_log(subject), None) for subject in self.world.streams["PLANS"].last)
        return list(found)

    def _id(self) -> str:
        self.ids += 1
        return f"command-{self.ids}"

    async def _ask(self, address: Address, command: AnyCommand, actor: str = "planner") -> None:
        await self._publish(subjects.command(address, verb_of(command), actor), encode(command))

    async def _publish(self, subject: str, data: bytes) -> None:
        """Until it is stored; whoever does not know tries again."""
        while True:
            try:
                await self.connection.publish(subject, data)
                return
            except (Busy, Conflict):
                await asyncio.sleep(self.random.uniform(0.1, 1))

    # --- the verdict -----------------------------------------------------------------------------------

    def _judge(self, states: list[PlanState]) -> None:
        judges = {state.address: Judge(state.address) for state in states}
        for stored in self.world.streams["PLANS"].messages:
            commit = codec.commit.decode(stored.data)
            judges[commit.address].read(commit, hash_of(stored.data))
        for state in states:
            judge = judges[state.address]
            # After its end there may be refusals of what was asked too late.
            if judge.state.status is not state.status or (judge.state.number == state.number and judge.state != state):
                raise Broken("the executors' reading of the log is not the judge's")
            self._judge_news(judge)
        self._judge_work(judges)
        judge_family(judges)
        if self.world.streams["POISON"].messages:
            raise Broken(f"poison: {self.world.streams['POISON'].messages[0].data!r}")

    def _judge_work(self, judges: dict[Address, Judge]) -> None:
        dispatched = [
            (address, event.step, event.attempt)
            for address, judge in judges.items()
            for event in judge.events
            if isinstance(event, events.StepDispatched)
        ]
        handed = [
            codec.step_work.decode(one.data)
            for one in self.world.streams["WORK"].messages
            if one.subject.startswith("work.agent.")
        ]
        keys = [(Address(work.space, work.plan), work.step, work.attempt) for work in handed]
        if len(keys) != len(set(keys)) or not set(keys) <= set(dispatched):
            raise Broken("something was handed out twice, or that the log does not know")

    def _judge_news(self, judge: Judge) -> None:
        subject = subjects.outcome(judge.state.address)
        stored = self.world.streams["OUTCOMES"].messages
        told = [codec.outcome.decode(one.data) for one in stored if one.subject == subject]
        final = [outcome for outcome in told if isinstance(outcome, FINAL) and not _is_anothers(outcome)]
        if judge.state.status is not PlanStatus.REFUSED:  # what was refused may be published again
            final = [outcome for outcome in final if not isinstance(outcome, Refused)]
        # Whoever publishes a goal again is told again; what is told stays the same.
        if judge.state.exists and len({type(outcome) for outcome in final}) != 1:
            raise Broken(f"the requester of {judge.state.address} heard of {len(final)} ends: {final}")


def _is_anothers(outcome: Outcome) -> bool:
    """Whether it says that a goal came too late, by an id that was taken."""
    return isinstance(outcome, Refused) and outcome.is_anothers


def _is_forsaken(state: PlanState, known: dict[Address, PlanState]) -> bool:
    """Whether it ran for a step that waits for it no more. A draft that was to be recorded only is anybody's."""
    if state.parent is None:
        return False
    parent = known[state.address._replace(plan=state.parent.plan)]
    step = parent.steps.get(state.parent.step)
    if step is None or step.child != state.address.plan:
        return True
    return step.status not in (StepStatus.DISPATCHED, StepStatus.COMPLETED)


def _stands(state: PlanState) -> str:
    return f"{state.address.plan} is {state.status}: {state.reason or state.waiting or state.away}"
