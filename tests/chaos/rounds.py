"""Rounds: random plans on a mesh that is hurt while they run; then everything is mended, and the log is judged.

A round has a number, from which all of it is drawn. Rounds in sixes share a mesh: numbers 0 to 5 the first kind,
6 to 11 the next, and so on. Whatever can be done to a mesh of a kind is dealt out to its six rounds.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec
from arena import Arena, Kind, patient_supervisor, running_arena
from chance import People, random_plan
from flows import insist
from harms import HURT_S, PROMISED, Harm, NeverCame, harms_for
from judge import Broken, Judge, judge_family
from patience import eventually
from promises import expect_tables

from planmesh.client import Submitted
from planmesh.errors import Busy
from planmesh.schemas import codec, events, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, Reply, verb_of
from planmesh.schemas.events import Commit, hash_of
from planmesh.schemas.goals import FINAL
from planmesh.schemas.plan import Task
from planmesh.schemas.state import ENDED, PlanState
from planmesh.schemas.subjects import OUTCOMES, PLANS, POISON, WORK, Address

KINDS = (
    Kind("one executor"),
    Kind("two executors", executors=2),
    Kind("four executors", executors=4),
    Kind("a small disk", executors=2, small_disk=True),
    Kind("a cluster", executors=2, nodes=3),
)
ROUNDS_A_MESH = 6

END_S = 60.0
"""So long plans may take to end once everything is mended."""
PACE = 0.1


def kind_of(number: int) -> Kind:
    return KINDS[number // ROUNDS_A_MESH % len(KINDS)]


class Done(NamedTuple):
    """A harm as it was done; or, if it *came* not, why it was not."""

    harm: str
    said: str
    came: bool = True


class Told(NamedTuple):
    """What there is to say of a round."""

    number: int
    kind: Kind
    plans: int
    commits: int
    harms: list[Done]
    hurt_s: float
    mended_s: float
    took_s: float

    def __str__(self) -> str:
        return (
            f"round {self.number} ({self.kind.name}): {self.plans} plans, {self.commits} commits, "
            f"{self.took_s:.1f} s ({self.hurt_s:.1f} hurt, {self.mended_s:.1f} to mend): {_listed(self.harms)}"
        )


def _listed(harms: list[Done]) -> str:
    return "; ".join(done.said for done in harms)


class Tally:
    """Which harms have been done, how often, in which rounds."""

    def __init__(self) -> None:
        self.rounds = 0
        self.commits = 0
        self._started = time.perf_counter()
        self._done: Counter[str] = Counter()
        self._never: dict[str, str] = {}

    def add(self, told: Told) -> None:
        self.rounds += 1
        self.commits += told.commits
        for done in told.harms:
            if done.came:
                self._done[done.harm] += 1
            else:
                self._never[done.harm] = done.said

    @property
    def missing(self) -> list[str]:
        """What was promised to be done, and was not, although it could be."""
        return [harm for harm in PROMISED if not self._done[harm] and "not ours" not in self._never.get(harm, "")]

    def __str__(self) -> str:
        took_s = time.perf_counter() - self._started
        lines = [f"{self.rounds} rounds, {self.commits} commits, {took_s:.0f} s. Harms done:"]
        lines += [f"{times:4} {harm}" for harm, times in sorted(self._done.items())]
        lines += [f"   - {said}" for harm, said in sorted(self._never.items()) if not self._done[harm]]
        return "\n".join(lines)


async def play(numbers: range, directory: Path, *, at_once: int = 2) -> Tally:
    """Play the rounds of *numbers*, and print a line for each.

    Args:
        at_once: So many meshes run at a time: each of them waits more than it works.

    Raises:
        Broken, AssertionError: With notes that say which round it was, and where its files are.
    """
    tally = Tally()
    blocks = iter([list(block) for _, block in itertools.groupby(numbers, lambda number: number // ROUNDS_A_MESH)])

    async def next_meshes() -> None:
        for together in blocks:
            await _on_one_mesh(together, directory / f"mesh-{together[0] // ROUNDS_A_MESH}", tally)

    try:
        with patient_supervisor():
            async with asyncio.TaskGroup() as lanes:
                for _ in range(at_once):
                    lanes.create_task(next_meshes())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the others were in the middle of something
    return tally


async def _on_one_mesh(numbers: list[int], place: Path, tally: Tally) -> None:
    async with running_arena(kind_of(numbers[0]), place) as arena:
        for number in numbers:
            round_ = Round(arena, number)
            try:
                told = await round_.run()
                await round_.write_down(place)
            except Exception as error:
                with contextlib.suppress(Exception):
                    await round_.write_down(place)
                error.add_note(f"round {number} ({arena.kind.name}): {_listed(round_.happened)}")
                error.add_note(f"python tests/chaos --seed {number} --rounds 1; its files: {place}")
                raise
            print(told, flush=True)
            tally.add(told)


class Round:
    """One round.

    Attributes:
        happened: What has been done to the mesh, so far.
    """

    def __init__(self, arena: Arena, number: int) -> None:
        self.happened: list[Done] = []
        self._arena = arena
        self._number = number
        self._draw = random.Random(f"round {number}")
        self._calm = False
        self._ids = 0
        self._plans: dict[Address, PlanState] = {}
        self._submitted: list[Submitted] = []

    async def run(self) -> Told:
        """Raises: Broken, AssertionError."""
        started = time.perf_counter()
        calm = self._arena.directory / "calm"
        calm.unlink(missing_ok=True)
        if self._draw.random() < 0.3:
            await asyncio.to_thread(self._arena.back_up)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tended = [tasks.create_task(self._plan(index)) for index in range(self._draw.randint(4, 7))]
            hurting = [tasks.create_task(self._hurt(*numbered)) for numbered in enumerate(self._harms())]
            await asyncio.gather(*hurting)
            hurt_s = time.perf_counter() - started
            await self._arena.heal()
            calm.touch()
            self._calm = True
            mended = time.perf_counter()
            await asyncio.wait(tended, timeout=END_S)
            if not all(task.done() for task in tended):
                raise Broken(f"{END_S:g} s after everything was mended: {self._unended()}")
        mended_s = time.perf_counter() - mended
        for task in tended:
            task.result()
        commits = await self._judge()
        took_s = time.perf_counter() - started
        return Told(self._number, self._arena.kind, len(self._plans), commits, self.happened, hurt_s, mended_s, took_s)

    # --- harm ------------------------------------------------------------------------------------------

    def _harms(self) -> list[Harm]:
        block, index = divmod(self._number, ROUNDS_A_MESH)
        return harms_for(self._arena.kind, random.Random(f"harms {block}"))[index::ROUNDS_A_MESH]

    async def _hurt(self, number: int, harm: Harm) -> None:
        draw = random.Random(f"{self._number} {harm.name} {number}")
        await asyncio.sleep(draw.uniform(0.1, 1.0 if harm.is_trap else HURT_S))
        try:
            self.happened.append(Done(harm.name, await harm.do(self._arena, draw)))
        except NeverCame as why:
            self.happened.append(Done(harm.name, str(why), came=False))
        except Exception as error:
            error.add_note(f"while doing harm: {harm.name}")
            raise

    # --- plans, and people -----------------------------------------------------------------------------

    async def _plan(self, index: int) -> None:
        """Publish a goal, and look after its plan until it has ended."""
        draw = random.Random(f"{self._number} plan {index}")
        plan = random_plan(draw, pace=PACE, once=0.3, service=self._arena.client.space, drafts=False)
        document = msgspec.to_builtins(plan)
        await asyncio.sleep(draw.uniform(0, HURT_S - 1))
        client, name = self._arena.client, f"r{self._number}-{index}"
        submitted = await insist(lambda: client.submit(document, inputs={"n": 1}, id=name), END_S)
        self._submitted.append(submitted)
        await self._tend(submitted.address, draw)

    async def _tend(self, address: Address, draw: random.Random, parent: Address | None = None) -> None:
        """Look, and do what has to be done, until the plan has ended, and those that ran for its steps."""
        people, children = People(draw, self._id), dict[str, asyncio.Task[None]]()
        state = PlanState(address=address)
        while state.status not in ENDED:
            is_over = parent is not None and self._plans[parent].status in ENDED
            await asyncio.sleep(draw.uniform(0.1, 0.4))
            try:
                state = await self._arena.operator.state(address)
            except Busy:
                continue
            self._plans[address] = state
            if is_over and not state.exists:
                return  # it was taken back before it was created
            for step in state.steps.values():
                if step.child and step.child not in children:
                    child = Address(address.space, step.child)
                    tending = self._tend(child, random.Random(draw.random()), address)
                    children[step.child] = self._tasks.create_task(tending)
            if state.status not in ENDED:
                for command in people.wishes(state, whims=not self._calm):
                    await self._ask(address, command)
        await asyncio.gather(*children.values())

    async def _ask(self, address: Address, command: AnyCommand) -> None:
        by, connection = "ada", self._arena.operator.connection
        if isinstance(command, Reply):
            by, connection = self._arena.client.space, self._arena.client.connection
        subject = subjects.command(address, verb_of(command), by)
        await insist(lambda: connection.publish(subject, encode(command), timeout_s=2), END_S)

    def _id(self) -> str:
        self._ids += 1
        return f"r{self._number}-{self._ids}"

    def _unended(self) -> str:
        return "; ".join(
            f"{state.address} is {state.status} ({state.reason or state.waiting or state.away or state.running})"
            for state in self._plans.values()
            if state.status not in ENDED
        )

    async def write_down(self, directory: Path) -> None:
        """Leave every plan's log and news there, for whoever wants to know what happened."""
        for address in self._plans:
            for stream, subject in ((PLANS, subjects.plan_log(address)), (OUTCOMES, subjects.outcome(address))):
                stored = await self._arena.admin(stream).direct_get(stream, subject=subject, batch=100_000)
                lines = (b"%d %s\n" % (message.sequence, message.data) for message in stored)
                (directory / f"{address}.{stream}.jsonl").write_bytes(b"".join(lines))

    # --- the verdict -----------------------------------------------------------------------------------

    async def _judge(self) -> int:
        await self._quiet()
        begun = self._effects()
        count = 0
        judges: dict[Address, Judge] = {}
        left = list(self._plans)
        for address in left:
            judge, commits = await self._read(self._plans.get(address) or PlanState(address=address))
            judges[address] = judge
            count += len(commits)
            # Of some that ran for a step, and were taken back at once, nobody has heard.
            children = [event.child for event in judge.events if isinstance(event, events.StepDispatched)]
            known = {*left, address._replace(plan="")}
            left += {address._replace(plan=child) for child in children} - known
            if judge.state.exists:
                self._judge_effects(judge, begun)
                await self._judge_news(address)
        judge_family(judges)
        for submitted in self._submitted:
            await eventually(lambda heard=submitted: heard.final, 20)
        poison = await self._arena.ask(POISON, f"STREAM.INFO.{POISON}")
        if poison["state"]["messages"]:
            raise Broken(f"{poison['state']['messages']} messages were set aside as poison")
        bugs = [line for line in self._arena.new_lines() if _is_bug(line)]
        if bugs:
            raise Broken("\n".join(["a service says that it has a bug:", *bugs[:5]]))
        return count

    async def _quiet(self) -> None:
        """Wait until nothing is on its way any more: whatever was lost or delayed has come back, and been answered."""
        found: dict[str, int] = {}

        async def nothing_left() -> bool:
            found.clear()
            for stream in ("COMMANDS", "RESULTS"):
                found[stream] = (await self._arena.ask(stream, f"STREAM.INFO.{stream}"))["state"]["messages"]
            asked = {"subjects_filter": "work.>"}
            left = (await self._arena.ask(WORK, f"STREAM.INFO.{WORK}", asked))["state"].get("subjects") or {}
            found.update((subject, n) for subject, n in left.items() if not subject.startswith("work.timer."))
            for consumer in ("dispatch", "gatekeeper"):
                info = await self._arena.ask(PLANS, f"CONSUMER.INFO.{PLANS}.{consumer}")
                found[consumer] = info["num_pending"] + info["num_ack_pending"]
            return not any(found.values())

        try:
            await eventually(nothing_left, 30)
        except TimeoutError:
            left = {name: count for name, count in found.items() if count}
            raise Broken(f"30 s after every plan has ended, this is left: {left}") from None

    async def _read(self, state: PlanState) -> tuple[Judge, list[Commit]]:
        """Judge a plan's log as it is stored, and hold the tables against it."""
        for _ in range(5):
            judge, commits = await self._log(state)
            try:
                if judge.state.exists:
                    await insist(lambda: expect_tables(self._arena.operator, judge.state, commits))  # noqa: B023
            except AssertionError:
                # After its end there may be refusals of what was asked too late.
                if len((await self._log(state))[1]) == len(commits):
                    raise
            else:
                return judge, commits
        raise Broken(f"the log of {state.address} goes on and on")

    async def _log(self, state: PlanState) -> tuple[Judge, list[Commit]]:
        connection, subject = self._arena.operator.connection, subjects.plan_log(state.address)
        async with asyncio.timeout(20):
            while True:
                stored = await insist(lambda: connection.direct_get(PLANS, subject=subject, batch=100_000))
                if len(stored) >= state.number:  # who answers may lag behind
                    break
                await asyncio.sleep(0.05)
        judge, commits = Judge(state.address), []
        for message in stored:
            commit = codec.commit.decode(message.data)
            judge.read(commit, hash_of(message.data))
            commits.append(commit)
        if judge.state.exists and (
            judge.state.status not in ENDED or (state.status in ENDED and state.status is not judge.state.status)
        ):
            raise Broken(f"{state.address} was {state.status}, and its log says {judge.state.status}")
        return judge, commits

    def _effects(self) -> Counter[str]:
        """How often each attempt has begun, and has ended (``<key> begins``)."""
        file = self._arena.directory / "effects"
        return Counter(file.read_text("utf-8").splitlines() if file.exists() else ())

    def _judge_effects(self, judge: Judge, effects: Counter[str]) -> None:
        address = judge.state.address
        for step in judge.state.graph.steps.values():
            if not isinstance(step, Task) or step.idempotent:
                continue
            for said, times in effects.items():
                if said.startswith(f"{address}.{step.name}.") and said.endswith(" begins") and times > 1:
                    raise Broken(f"{said.partition(' ')[0]} may not be done twice, and was begun {times} times")
        for event in judge.events:
            if (
                isinstance(event, events.StepCompleted)
                and not event.by
                and isinstance(judge.state.graph.steps[event.step], Task)
            ):
                key = f"{address}.{event.step}.{event.attempt}"
                if not effects[f"{key} ends"]:
                    raise Broken(f"the log says that {key} is completed, and nobody has done it")

    async def _judge_news(self, address: Address) -> None:
        """The requester hears of one end. A goal that comes again is told again where its plan is."""
        admin, subject = self._arena.admin(OUTCOMES), subjects.outcome(address)
        stored = await insist(lambda: admin.direct_get(OUTCOMES, subject=subject))
        told = [codec.outcome.decode(message.data) for message in stored]
        ends = [msgspec.structs.replace(one, number=0, at=one.at.max) for one in told if isinstance(one, FINAL)]
        if not ends or ends.count(ends[0]) != len(ends):
            raise Broken(f"the requester of {address} heard {len(ends)} ends: {ends}")


def _is_bug(line: str) -> bool:
    """What a service says when it did not know what to do. What ends it, and is said in the end, is no bug."""
    said = line.partition(": ")[2]
    if not said.startswith("{"):
        return said.startswith("Traceback")
    event: str = json.loads(said).get("event", "")
    return '"exception":' in said or event.endswith((".bug", ".junk", ".not_understood", ".callback_failed"))
