"""What a plan leaves open is settled, and nothing that it said is changed."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.decode import read_plan
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.flow import Flow, read_flow
from planmesh.planner.graph import Condition, components, exclusive
from planmesh.planner.problems import Problems
from planmesh.planner.scope import read_scope
from planmesh.schemas.plan import Check, Decide, Emit, Gate, Permissions, Plan, Task, is_destructive
from planmesh.schemas.state import Graph
from planmesh.schemas.work import AgentDescription, ToolDescription

CAREFUL = AgentDescription(
    name="careful", any_parameters=True, idempotent=True, permissions=Permissions(read=("/data",))
)
AGENTS = {
    "careful": CAREFUL,
    "free": AgentDescription(name="free", any_parameters=True),
    "no": AgentDescription(name="no", any_parameters=True, idempotent=False),
}


def completed(*steps: Any, **fields: Any) -> Plan:
    document = {"name": "Demo", "inputs": {"topic": {}}, "steps": list(steps), **fields}
    found = compile_plan(document, AGENTS)
    assert isinstance(found, Compiled), found
    assert compile_plan(msgspec.json.encode(found.plan), AGENTS) == found
    return found.plan


def after(plan: Plan) -> dict[str, str]:
    return {step.name: " ".join(step.after) for step in plan.steps}


def task(name: str, reads: str = "", **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "agent": "free", "inputs": {"text": reads}, **fields}


def gate(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "gate", **fields}


def decide(name: str, *labels: str, **fields: Any) -> dict[str, Any]:
    cases = [{"when": f'topic == "{label}"', "then": label} for label in labels]
    return {"name": name, "kind": "decide", "cases": cases, **fields}


def emit(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "emit", "outcome": name, **fields}


def branch(step: str, label: str) -> dict[str, str]:
    return {"step": step, "label": label}


# --- what a step reads -----------------------------------------------------------------------------------------


def test_a_step_waits_for_whatever_it_reads_in_the_order_of_the_document() -> None:
    plan = completed(
        task("first"),
        task("second", binding="two"),
        decide("third", "x", "y", after=["first"]),
        task("all", "{two} {first.a} {topic}", after=["third", "first", "third"], branch=branch("third", "x")),
        {"name": "checked", "kind": "check", "condition": "two == 1 and first.x == 2"},
    )

    assert after(plan) == {
        "first": "",
        "second": "",
        "third": "first",
        "all": "first second third",
        "checked": "first second",
    }


def test_an_emit_waits_for_what_it_names_or_reads() -> None:
    plan = completed(task("a"), task("b"), task("c"), emit("end", after=["a"], result={"b": ["{b}"]}))

    assert after(plan)["end"] == "a b"


def test_an_emit_that_names_nothing_waits_for_everything_that_can_run_with_it() -> None:
    plan = completed(
        task("a"),
        task("b", after=["a"]),
        decide("which", "x", "y"),
        task("in-x", branch=branch("which", "x")),
        task("in-y", branch=branch("which", "y")),
        task("late", after=["in-x"]),
        emit("ends-x", branch=branch("which", "x")),
        emit("ends-y", branch=branch("which", "y")),
    )

    # `a` by way of `b`, and `in-x` by way of `late`, which needs it.
    assert after(plan)["ends-x"] == "b which late"
    assert after(plan)["ends-y"] == "b which in-y"


def test_an_emit_that_names_nothing_is_reached_whatever_is_taken() -> None:
    plan = completed(
        decide("which", "x", "y", "z"),
        task("in-x", branch=branch("which", "x")),
        task("in-y", branch=branch("which", "y")),
        emit("end"),
    )

    assert after(plan)["end"] == "which in-x in-y"


def test_the_only_step_waits_for_nothing() -> None:
    assert after(completed(emit("end"))) == {"end": ""}


# --- gates -----------------------------------------------------------------------------------------------------


def test_a_gate_waits_for_what_it_would_release_to_be_known() -> None:
    plan = completed(
        task("draft"),
        task("numbers"),
        gate("approve", show=["{draft}"]),
        task("publish", "{draft} {numbers}", after=["approve"]),
        task("announce", "{publish}", after=["approve"]),
    )

    # What `announce` reads can only be known once the gate is open.
    assert after(plan)["approve"] == "draft numbers"
    assert after(plan)["announce"] == "approve publish"


def test_what_is_known_by_then_anyway_is_not_named_again() -> None:
    plan = completed(task("a"), task("b", "{a}"), gate("g", after=["b"]), task("c", "{a}", after=["g"]))

    assert after(plan)["g"] == "b"


def test_gates_behind_gates_wait_for_what_those_read() -> None:
    plan = completed(
        task("numbers"),
        gate("first"),
        gate("second", show=["{numbers}"]),
        task("end", "{first.by}", after=["second"]),
    )

    # The second gate waits for the first, whose decision `end` reads; so the first releases the second, which
    # reads the numbers.
    assert after(plan) == {"numbers": "", "first": "numbers", "second": "numbers first", "end": "first second"}


def test_two_gates_that_would_wait_for_each_other_do_not() -> None:
    plan = completed(
        gate("g"),
        gate("h"),
        task("behind-g", "{behind_h_first}", after=["g"]),
        task("behind-h-first", after=["h"]),
        task("behind-h", "{behind_g_first}", after=["h"]),
        task("behind-g-first", after=["g"]),
    )

    assert after(plan)["g"] == "behind-h-first"
    assert after(plan)["h"] == ""


def test_a_gate_is_asked_as_often_as_before() -> None:
    plan = completed(
        task("numbers"),
        decide("which", "x", "y", after=["numbers"]),
        task("in-x", branch=branch("which", "x")),
        task("in-y", branch=branch("which", "y")),
        gate("always"),
        task("behind-always", "{in_x ?? 1}", after=["always"]),
        gate("in-y-only", after=["in-y"]),
        task("behind-in-y-only", "{aside}", after=["in-y-only"]),
        task("aside"),
        gate("guarded", branch=branch("which", "y")),
        task("behind-guarded", "{aside}", after=["guarded"]),
    )

    # With `in-x` alone, the gate would be left out where `in-x` is; with `aside`, it would be asked in both branches.
    assert after(plan)["always"] == "which in-x"
    assert after(plan)["in-y-only"] == "in-y"
    assert after(plan)["guarded"] == "which aside"


# --- tasks -----------------------------------------------------------------------------------------------------


def test_permissions_and_idempotence_are_the_steps_own_or_else_what_the_agent_declares() -> None:
    own = {"read": ["/mine"]}
    plan = completed(
        task("a", agent="careful"),
        task("b", agent="careful", permissions=own, idempotent=False),
        task("c", agent="free"),
        task("d", agent="no"),
        task("e", agent="free", idempotent=True),
        task("f", agent="careful", permissions={}),
    )

    settled = [(step.permissions, step.idempotent) for step in plan.steps if isinstance(step, Task)]
    assert settled == [
        (Permissions(read=("/data",)), True),
        (Permissions(read=("/mine",)), False),
        (Permissions(), False),
        (Permissions(), False),
        (Permissions(), True),
        (Permissions(), True),
    ]


def test_a_step_cannot_be_undone_if_its_agent_or_a_tool_that_it_permits_says_so() -> None:
    tools = (ToolDescription(name="look"), ToolDescription(name="buy", destructive=True))
    agents = {
        "thinker": AgentDescription(name="thinker", any_parameters=True, tools=tools),
        "payer": AgentDescription(name="payer", any_parameters=True, destructive=True),
    }

    def step(name: str, agent: str, *tools: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "kind": "task", "agent": agent, "permissions": {"tools": list(tools)}, **more}

    inner = step("inner", "payer")
    document = {
        "name": "Demo",
        "steps": [
            step("a", "payer"),
            step("b", "payer", destructive=False),
            step("c", "thinker", "look"),
            step("d", "thinker", "look", "buy"),
            step("e", "thinker", destructive=True),
            {"kind": "each", "name": "all", "items": "[1]", "item": "x", "steps": [inner]},
            {"kind": "gate", "name": "g"},
        ],
    }

    found = compile_plan(document, agents)

    assert isinstance(found, Compiled)
    assert [is_destructive(step) for step in found.plan.steps] == [True, True, False, True, True, True, False]
    again = compile_plan(msgspec.to_builtins(found.plan), agents)
    assert isinstance(again, Compiled)
    assert again.plan == found.plan


def test_a_step_of_an_agent_that_uses_tools_is_idempotent_if_all_that_it_permits_are() -> None:
    tools = (ToolDescription(name="look", idempotent=True), ToolDescription(name="buy"))
    agents = {
        "thinker": AgentDescription(name="thinker", any_parameters=True, idempotent=True, tools=tools),
        "doer": AgentDescription(name="doer", any_parameters=True, tools=tools),
    }

    def step(name: str, agent: str, *tools: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "kind": "task", "agent": agent, "permissions": {"tools": list(tools)}, **more}

    document = {
        "name": "Demo",
        "steps": [
            step("a", "thinker"),
            step("b", "thinker", "look"),
            step("c", "thinker", "look", "buy"),
            step("d", "thinker", "buy", idempotent=True),
            step("e", "doer", "look"),
        ],
    }

    found = compile_plan(document, agents)

    assert isinstance(found, Compiled)
    settled = [step.idempotent for step in found.plan.steps if isinstance(step, Task)]
    assert settled == [True, True, False, True, False]


def test_a_plan_that_does_not_say_how_many_run_at_once_gets_the_settings_number() -> None:
    document = {"name": "x", "steps": [task("a")]}
    silent = compile_plan(document, AGENTS, limits=Limits(concurrency=7))
    explicit = compile_plan({**document, "concurrency": 3}, AGENTS, limits=Limits(concurrency=7))

    assert isinstance(silent, Compiled)
    assert isinstance(explicit, Compiled)
    assert (silent.plan.concurrency, explicit.plan.concurrency) == (7, 3)


# --- any plan --------------------------------------------------------------------------------------------------

LABELS = ("x", "y", "z")


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Plans, about half of them without a problem. Steps wait for earlier ones; the document has them in any order."""
    steps: list[dict[str, Any]] = []
    decides: list[tuple[str, str]] = []
    count = draw(st.integers(1, 9))
    for number in range(count):
        earlier = [f"s{other}" for other in range(number)]
        nothing: st.SearchStrategy[list[str]] = st.just([])
        some = st.lists(st.sampled_from(earlier), max_size=3, unique=True) if earlier else nothing
        name, kind = f"s{number}", draw(st.sampled_from(["task", "task", "gate", "gate", "decide", "check"]))
        reads = " ".join(f"{{{other} ?? 1}}" for other in draw(some))
        step: dict[str, Any] = {"name": name, "kind": kind, "after": draw(some)}
        if draw(st.booleans()) and decides:
            step["branch"] = branch(*draw(st.sampled_from(decides)))
        if kind == "task":
            step |= {"agent": "free", "inputs": {"text": reads}}
            if draw(st.booleans()):
                step["binding"] = draw(st.sampled_from(["one", "two"]))
        elif kind == "gate":
            step["prompt"] = reads
        elif kind == "decide":
            step |= {"cases": [{"when": f'topic == "{label}"', "then": label} for label in LABELS]}
            decides += [(name, label) for label in LABELS]
        else:
            step |= {"condition": "topic == 1", "on_fail": "continue"}
            decides += [(name, label) for label in ("pass", "fail")]
        steps.append(step)
    shared = [step for step in steps if step.get("binding")]
    for step in steps:
        if shared and step["kind"] == "gate" and draw(st.booleans()):
            step["show"] = [f"{{{draw(st.sampled_from(shared))['binding']} ?? 1}}"]
    for end in range(draw(st.integers(0, 2))):
        last: dict[str, Any] = {"name": f"e{end}", "kind": "emit", "outcome": "x"}
        if draw(st.booleans()) and decides:
            last["branch"] = branch(*draw(st.sampled_from(decides)))
        steps.append(last)
    return {"name": "Any", "inputs": {"topic": {}}, "steps": draw(st.permutations(steps))}


def read(document: dict[str, Any]) -> tuple[Plan, Flow]:
    """A plan without problems, and its order."""
    problems = Problems()
    draft = read_plan(document, problems)
    flow = read_flow(read_scope(draft, problems, LIMITS), problems, LIMITS)
    assume(not problems)
    assert draft.plan is not None
    return draft.plan, flow


def worlds(plan: Plan) -> Iterator[dict[str, str]]:
    """Every way in which decides and checks can take their labels."""
    steps = [step for step in plan.steps if isinstance(step, Decide | Check)]
    for labels in product(*(step.labels for step in steps)):
        yield {step.name: label for step, label in zip(steps, labels, strict=True)}


def running(plan: Plan, needs: dict[str, set[str]], taken: dict[str, str]) -> set[str]:
    """The steps that run in one world, by the rule of `planmesh.schemas.state.taken`."""
    ran: set[str] = set()
    numbers = {step.name: number for number, step in enumerate(plan.steps)}
    for component in components([[numbers[need] for need in needs[step.name]] for step in plan.steps]):
        step = plan.steps[component[0]]
        if step.branch is not None and (step.branch.step not in ran or taken[step.branch.step] != step.branch.label):
            continue
        if not needs[step.name] or needs[step.name] & ran:
            ran.add(step.name)
    return ran


def holds(condition: Condition, plan: Plan, taken: dict[str, str], ran: set[str]) -> bool:
    return any(
        all(
            plan.steps[decide].name in ran
            and mask >> list(_labels(plan, decide)).index(taken[plan.steps[decide].name]) & 1
            for decide, mask in alternative.items()
        )
        for alternative in condition
    )


def _labels(plan: Plan, number: int) -> tuple[str, ...]:
    step = plan.steps[number]
    assert isinstance(step, Decide | Check)
    return step.labels


def needs_of(plan: Plan, flow: Flow) -> dict[str, set[str]]:
    return {step.name: {plan.steps[need].name for need in flow.needs[number]} for number, step in enumerate(plan.steps)}


@given(plans())
@settings(max_examples=150)
def test_a_condition_holds_exactly_where_its_step_runs(document: dict[str, Any]) -> None:
    plan, flow = read(document)
    needs = needs_of(plan, flow)

    together: set[tuple[int, int]] = set()
    for taken in worlds(plan):
        ran = running(plan, needs, taken)
        for number, step in enumerate(plan.steps):
            assert (step.name in ran) == holds(flow.conditions[number], plan, taken, ran)
        numbers = [number for number, step in enumerate(plan.steps) if step.name in ran]
        together.update(product(numbers, numbers))
    for one, other in product(range(len(plan.steps)), repeat=2):
        assert exclusive(flow.conditions[one], flow.conditions[other], flow.work) == ((one, other) not in together)


@given(plans())
@settings(max_examples=150)
def test_completing_a_plan_changes_no_step_that_runs_and_completing_it_again_changes_nothing(
    document: dict[str, Any],
) -> None:
    plan, flow = read(document)
    found = compile_plan(document, AGENTS)

    assert isinstance(found, Compiled)
    assert compile_plan(msgspec.json.encode(found.plan), AGENTS) == found
    before = needs_of(plan, flow)
    settled = {step.name: set(step.after) for step in found.plan.steps}
    assert all(before[name] <= settled[name] for name in before)
    for taken in worlds(plan):
        assert running(plan, before, taken) == running(plan, settled, taken)


@given(plans())
@settings(max_examples=150)
def test_a_completed_plan_names_whatever_its_gates_and_emits_need_to_know(document: dict[str, Any]) -> None:
    _, flow = read(document)
    found = compile_plan(document, AGENTS)
    assert isinstance(found, Compiled)
    graph = Graph.of(found.plan)

    order = [step.name for step in found.plan.steps]
    behind = {name: set(graph.behind(name)) for name in order}
    assert not any(name in behind[name] for name in order)
    for step in found.plan.steps:
        assert list(step.after) == sorted(set(step.after), key=order.index)
        if isinstance(step, Emit):
            for taken in worlds(found.plan):
                ran = running(found.plan, {name: set(graph.needs[name]) for name in order}, taken)
                others = {other for other in ran if step.name not in behind[other]} - {step.name}
                assert step.name not in ran or all(isinstance(graph.steps[other], Emit) for other in others)
        if isinstance(step, Gate) and step.branch is not None:
            opens = flow.conditions[order.index(step.name)]
            for follower in graph.successors[step.name]:
                for need in graph.needs[follower]:
                    known = need == step.name or step.name in behind[need] or need in behind[step.name]
                    never = exclusive(opens, flow.conditions[order.index(need)], flow.work)
                    assert known or never or not _reads(found.plan, follower, need)


def _reads(plan: Plan, reader: str, binder: str) -> bool:
    text = msgspec.json.encode(next(step for step in plan.steps if step.name == reader)).decode()
    bound_as = next(step for step in plan.steps if step.name == binder).bound_as
    return f"{{{bound_as} ??" in text
