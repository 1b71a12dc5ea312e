"""The judge: reads a plan's log commit by commit, and says which promise it breaks. It trusts nothing but the log."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from planmesh.schemas import events
from planmesh.schemas.answers import misfit
from planmesh.schemas.events import AnyEvent, AskOpened, Commit
from planmesh.schemas.expressions import holds, parse
from planmesh.schemas.mandate import exceeding
from planmesh.schemas.plan import Ask, Gate, Step, Task
from planmesh.schemas.state import (
    ENDED,
    SATISFIED,
    Names,
    PlanState,
    PlanStatus,
    StepStatus,
    apply,
    counted,
    evolve,
    standing,
)
from planmesh.schemas.subjects import Address

ANYTHING: dict[str, Step] = {}
"""What a gate lets go that a person has skipped, or that lies on a branch that was not taken."""


class Broken(AssertionError):
    """A promise that was not kept."""


class Judge:
    """Judges one plan.

    Attributes:
        state: The fold of what it has read.
        events: All of it, in order.
    """

    def __init__(self, address: Address) -> None:
        self.state = PlanState(address=address)
        self.events: list[AnyEvent] = []
        self._dispatched: dict[str, set[int]] = {}
        self._open: dict[str, int] = {}
        self._completed: set[str] = set()
        self._approved: dict[str, dict[str, Step]] = {}
        self._revisers: dict[tuple[str, str], str] = {}

    def read(self, commit: Commit, commit_hash: str) -> None:
        """Raises: Broken."""
        before = self.state
        if commit.number != before.number + 1 or commit.previous != before.head:
            raise Broken(f"commit {commit.number} does not continue the one before it, {before.number}")
        for event in commit.events:
            self._judge(event)
            self.events.append(event)
            # Each event is judged on the state that the ones before it have made.
            self.state = evolve(self.state, event, commit.at)
        self.state = apply(before, commit, commit_hash)
        self._judge_state()

    def _judge(self, event: AnyEvent) -> None:
        match event:
            case events.StepDispatched():
                self._judge_dispatch(event)
            case events.AttemptEnded() | events.StepFailed() | events.StepOutcomeUnknown():
                self._open.pop(event.step, None)
            case events.StepCompleted():
                self._open.pop(event.step, None)
                self._completed.add(event.step)
                self._judge_output(event)
            case events.StepsCancelled():
                for name in event.steps:
                    self._open.pop(name, None)
            case events.GateApproved():
                # What exactly was approved: the definitions of the steps behind the gate, as they are at this moment.
                graph = self.state.graph
                self._approved[event.step] = {name: graph.steps[name] for name in graph.behind(event.step)}
                self._judge_approval(event)
            case events.PlanRevised():
                self._note_reviser(event)
            case events.AskAnswered():
                self._judge_answer(event)
            case events.GateEscalated():
                opened = self.state.steps[event.step].opened
                if opened is None or not set(event.to) <= {to for one in opened.escalate for to in one.to}:
                    raise Broken(f"{event.step} is escalated to {event.to}, and nobody has said so")
            case events.StepSkipped() | events.StepNotTaken():
                self._approved[event.step] = ANYTHING

    def _judge_approval(self, event: events.GateApproved) -> None:
        gate = self.state.graph.steps[event.step]
        assert isinstance(gate, Gate)
        people = {name.removeprefix("service:") for name in event.by}
        if len(people) < max(gate.quorum, len(event.by)):
            raise Broken(f"gate {event.step} takes {gate.quorum} people, and {event.by} have opened it")
        if gate.four_eyes and people & self.state.mandate.authors.keys():
            raise Broken(f"gate {event.step} takes four eyes, and who revised what the plan comes of has approved it")
        if gate.four_eyes and self.state.requester in people:
            raise Broken(f"gate {event.step} takes four eyes, and the requester has approved it")
        to_come = [
            name for name in self.state.graph.behind(event.step) if self.state.steps[name].status not in SATISFIED
        ]
        for name in (event.step, *to_come):
            if gate.four_eyes and self._revisers.get((event.step, name)) in people:
                raise Broken(f"gate {event.step} takes four eyes, and whoever last revised {name} has approved it")

    def _note_reviser(self, event: events.PlanRevised) -> None:
        """For each gate and each step behind it, in the new plan: who was the last to change it."""
        before, after = self.state.graph.steps, {step.name: step for step in event.plan.steps}
        for gate in (name for name, step in after.items() if isinstance(step, Gate)):
            gone = [name for name in self.state.graph.behind(gate) if name not in after] if gate in before else []
            changed = [name for name, step in after.items() if before.get(name) != step]
            for name in (*changed, *([gate] if gone else [])):
                self._revisers[gate, name] = event.by

    def _judge_answer(self, event: events.AskAnswered) -> None:
        step, ask, output = self.state.steps[event.step], self.state.graph.steps[event.step], event.output.value
        opened = step.opened
        if step.status is not StepStatus.WAITING or not isinstance(opened, AskOpened) or opened.round != event.round:
            raise Broken(f"{event.step} is answered, and does not ask that")
        if opened.secret:
            verb, actor, name = event.secret.split(".")
            whose = actor == event.by.removeprefix("service:") and (verb == "reply") is event.by.startswith("service:")
            fits = whose and bool(name) and output["value"] == {"secret": event.secret}
        else:
            fits = not event.secret and not misfit(output["value"], opened.answer, opened.options)
        if not fits or output["provided_by"] != event.by:
            raise Broken(f"{event.step} is answered by {event.by} with {output!r}")
        if event.by == "planmesh":
            if opened.on_overdue != "default" or output["value"] != opened.default:
                raise Broken(f"{event.step} is answered by nobody, and its plan does not say so")
        elif not {"role:operator", f"person:{event.by}", event.by, *event.groups} & set(step.reviewers):
            raise Broken(f"{event.step} is answered by {event.by}, who is not asked")
        assert isinstance(ask, Ask)

    def _judge_output(self, event: events.StepCompleted) -> None:
        """What an agent gave is as the step says that it must be. A person may say that it is done all the same."""
        step = self.state.graph.steps[event.step]
        if event.by or not isinstance(step, Task) or step.accept is None or event.output.blob is not None:
            return
        if not holds(parse(step.accept), Names(self.state, {}, event.step, event.output)):
            raise Broken(f"{event.step} is completed with {event.output.value!r}, and takes only `{step.accept}`")

    def _judge_dispatch(self, event: events.StepDispatched) -> None:
        name, attempts = event.step, self._dispatched.setdefault(event.step, set())
        if event.attempt in attempts:
            raise Broken(f"attempt {event.attempt} of {name} is dispatched twice")
        if name in self._completed:
            raise Broken(f"{name} is completed, and dispatched again")
        if name in self._open:
            raise Broken(f"{name} is dispatched while attempt {self._open[name]} is open")
        # A revision may allow less than there is; then nothing more begins until there is less.
        if isinstance(self.state.graph.steps[name], Task) and self.state.running >= self.state.plan.concurrency:
            raise Broken(f"{name} is dispatched, and the plan allows no more at once")
        if not isinstance(self.state.graph.steps[name], Task) and len(self.state.away) >= self.state.plan.concurrency:
            raise Broken(f"{name} is dispatched, and the plan allows no more plans at once")
        if event.child and self.state.plans_left < 1 + event.plans:
            raise Broken(f"{name} is given {event.plans} plans, and there are {self.state.plans_left} with its own")
        alone = msgspec.structs.replace(self.state.plan, steps=(self.state.graph.steps[name],))
        if any(exceeding(alone, self.state.mandate, self.state.parent)):
            raise Broken(f"{name} is dispatched, and is permitted more than the plan may be")
        if isinstance(self.state.graph.steps[name], Task) and event.agent != self.state.graph.steps[name].agent:
            raise Broken(f"{name} is dispatched to {event.agent}, and the plan says another agent")
        attempts.add(event.attempt)
        self._open[name] = event.attempt
        graph = self.state.graph
        for above in self._above(name):
            if not isinstance(graph.steps.get(above), Gate):
                continue
            approved = self._approved.get(above)
            if approved is None:
                raise Broken(f"{name} starts behind gate {above}, which nobody has opened")
            if above in graph.items and name not in graph.items and self._has_a_gate_of_its_own(name, above):
                continue
            if approved is not ANYTHING and not self._is_approved(approved, name):
                raise Broken(f"{name} starts behind gate {above}, which was opened for something else")

        for gate in self.state.mandate.gates:
            if not self._is_asked_again(name, gate):
                raise Broken(f"{name} starts, and gate {gate.name}, which let the plan go, was not asked about it")

    def _is_asked_again(self, name: str, gate: Gate) -> bool:
        """Whether *name* is as it was when *gate* let the plan go, or people whom it asks have been asked again."""
        graph, created = self.state.graph, self.state.created
        assert created is not None
        named = graph.items[name].each if name in graph.items else name
        if _is_still({step.name: step for step in created.plan.steps}.get(named), graph.steps[named]):
            return True
        return any(
            isinstance(above := graph.steps.get(other), Gate)
            and (above.reviewers, above.quorum, above.four_eyes) == (gate.reviewers, gate.quorum, gate.four_eyes)
            and self._approved.get(other, ANYTHING) is not ANYTHING
            for other in self._above(name)
        )

    def _has_a_gate_of_its_own(self, name: str, above: str) -> bool:
        """Whether a gate behind the `each` that gate *above* is in, which asks for items, has let exactly *name* go."""
        graph = self.state.graph
        between = set(graph.behind(graph.items[above].each)) & set(self._above(name))
        gates = [gate for gate in between if isinstance(graph.steps[gate], Gate)]
        return any(_is_still(self._approved.get(gate, ANYTHING).get(name), graph.steps[name]) for gate in gates)

    def _is_approved(self, approved: dict[str, Step], name: str) -> bool:
        graph = self.state.graph
        item = graph.items.get(name)
        if item is not None and name not in approved:
            # The steps of items come of what the `each` says, which was approved.
            name = item.each
        return _is_still(approved.get(name), graph.steps[name])

    def _above(self, name: str) -> Iterable[str]:
        seen: set[str] = set()
        queue = [name]
        while queue:
            for need in self.state.graph.needs.get(queue.pop(), ()):
                if need not in seen:
                    seen.add(need)
                    queue.append(need)
        return seen

    def _judge_state(self) -> None:
        state = self.state
        if state.status is not standing(state):
            raise Broken(f"the plan is {state.status}, and its steps say {standing(state)}")
        if tallies(state) != tallies(counted(state)):
            raise Broken("what is counted as it goes is not what the steps add up to")
        if state.status is PlanStatus.WAITING and not (state.waiting or state.away):
            raise Broken("the plan waits for nobody")
        if state.status is PlanStatus.PAUSED and not (state.held or state.troubled or state.held_steps):
            raise Broken("the plan stands still, and nobody can say why")
        if state.status in ENDED and any(step.status is StepStatus.DISPATCHED for step in state.steps.values()):
            raise Broken("the plan has ended, and steps of it run")


def judge_family(judges: Mapping[Address, Judge]) -> None:
    """Hold plans that have all ended against the plans that ran for their steps. Raises: Broken."""
    for address, judge in judges.items():
        children: dict[tuple[str, int], Address] = {}
        given: dict[Address, int] = {}
        for event in judge.events:
            match event:
                case events.StepDispatched(child=child) if child:
                    at = children[event.step, event.attempt] = Address(address.space, child)
                    given[at] = event.plans
                case events.StepCompleted() | events.StepFailed() if (event.step, event.attempt) in children:
                    at = children[event.step, event.attempt]
                    _judge_child(event, judges.get(at) or Judge(at))
                    _judge_given_back(event.plans_left, at, given, judges)
                case events.ChildEnded():
                    _judge_given_back(event.plans_left, Address(address.space, event.child), given, judges)
    _judge_number(judges)


def _judge_given_back(
    plans_left: int, child: Address, given: dict[Address, int], judges: Mapping[Address, Judge]
) -> None:
    """A plan gives back what it has left of the plans that it was *given*, and that once."""
    if not plans_left:
        return
    state = (judges.get(child) or Judge(child)).state
    most = given.pop(child, 0)
    if state.created is not None and state.parent is not None:  # or it has run nothing
        most = min(most, state.plans_left)
    if plans_left > most:
        raise Broken(f"{child} gives back {plans_left} plans, and has not got them, or has given them back before")


def _judge_number(judges: Mapping[Address, Judge]) -> None:
    """No more plans have run for those that run for nobody than their mandates say."""
    ran = Counter[Address]()
    for address, judge in judges.items():
        above = judge
        while (parent := above.state.parent) is not None:
            above = judges[address._replace(plan=parent.plan)]
        ran[above.state.address] += judge.state.created is not None and above is not judge
    for address, number in ran.items():
        most = judges[address].state.mandate.plans
        if number > most:
            raise Broken(f"{number} plans have run for {address}, which may have {most}")


def _judge_child(said: events.StepCompleted | events.StepFailed, child: Judge) -> None:
    """What became of a step is what became of the plan that ran for it."""
    state = child.state
    if isinstance(said, events.StepCompleted):
        claims = said.output.value["status"]
        if claims == "draft" and not any(isinstance(event, events.PlanCreated) for event in child.events):
            raise Broken(f"{said.step} has recorded {state.address} as a draft, and there is none")
        if claims == "completed" and state.status is not PlanStatus.COMPLETED:
            raise Broken(f"{said.step} is completed by {state.address}, which is {state.status}")
    elif said.failure.code.startswith("child_"):
        # A plan that was refused may have been created since; or there is somebody else's by this id.
        was_refused = state.parent is None or any(isinstance(event, events.PlanRefused) for event in child.events)
        is_so = state.status == said.failure.code.removeprefix("child_")
        if not is_so and not (said.failure.code == "child_refused" and was_refused):
            raise Broken(f"{said.step} has failed as {said.failure.code}, and {state.address} is {state.status}")


def _is_still(approved: Step | None, step: Step) -> bool:
    """Whether *step* does what was approved. It may wait for more: a gate that asks again holds back what is behind."""
    return (
        approved is not None
        and set(approved.after) <= set(step.after)
        and msgspec.structs.replace(approved, after=()) == msgspec.structs.replace(step, after=())
    )


def tallies(state: PlanState) -> object:
    """Everything that `evolve` counts as it goes; a queue as a set, where the plan has not ended."""
    if state.status in ENDED:
        return None
    queues = (state.ready, state.immediate, state.leaving, state.waiting, state.troubled, state.held_steps)
    return (
        [set(queue) for queue in queues],
        set(state.away),
        state.running,
        state.in_hand,
        state.open,
        state.unsettled,
    )
