"""What is wrong with a plan: every rule, what is said about it, and where."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh import planner
from planmesh.directory import Directory
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.document import Limits
from planmesh.planner.language.findings import RULES as SCRIPT_RULES
from planmesh.planner.problems import RULES
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Permissions, Task
from planmesh.schemas.work import AgentDescription, AgentParameter, ToolDescription

ECHO = AgentDescription(
    name="echo", parameters=(AgentParameter(name="text"), AgentParameter(name="times", required=False))
)
AGENTS = {"echo": ECHO, "free": AgentDescription(name="free", any_parameters=True)}

Said = tuple[str, str, str, str]  # code, pointer, message, hint


def problems(document: object, agents: Mapping[str, AgentDescription] | None = AGENTS) -> list[Problem]:
    found = compile_plan(document, agents)
    assert isinstance(found, list), "the plan has no problem"
    return found


def said(document: object, agents: Mapping[str, AgentDescription] | None = AGENTS) -> list[Said]:
    return [(one.code, one.pointer, one.message, one.hint) for one in problems(document, agents)]


def plan(*steps: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "Demo", "steps": list(steps), **fields}


def task(name: str, reads: str = "", **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "agent": "free", "inputs": {"text": reads}, **fields}


def decide(name: str, *labels: str, **fields: Any) -> dict[str, Any]:
    cases = [{"when": f'topic == "{label}"', "then": label} for label in labels]
    return {"name": name, "kind": "decide", "cases": cases, **fields}


def emit(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "emit", "outcome": name, **fields}


def branch(step: str, label: str) -> dict[str, str]:
    return {"step": step, "label": label}


TOPIC = {"topic": {"type": "text"}}


# --- the form --------------------------------------------------------------------------------------------------


def test_every_problem_comes_at_once_in_the_order_of_the_document() -> None:
    found = said(
        """
        version: 2
        nam: Demo
        name: "two\\nlines"
        inputs: {1st: {}, topic: {type: txt}, n: {defaultt: 1}}
        policy: {on_failure: explode}
        concurrency: 0
        steps:
        - 3
        - {kind: task, name: Build It, agent: echo, depends_on: [x]}
        - {kind: tsk, name: b}
        - {name: c, quorum: 2}
        - {kind: task, name: d, agent: echo, quorum: 2, retry: {attempts: 0, backof_s: 1}, timeout_s: 0, idempotent: 1}
        - {kind: gate, name: e, reviewers: [], after: f}
        - {kind: decide, name: f, cases: [{when: topic}]}
        - {kind: emit, name: g, branch: {step: f}}
        """
    )

    assert found == [
        ("unknown_field", "/nam", "there is no field 'nam' in a plan", "did you mean name?"),
        ("unknown_version", "/version", "this planmesh reads version 1 of a plan; found the number 2", ""),
        (
            "invalid_value",
            "/name",
            "expected a text (one line of at most 200 characters, without control or bidirectional characters); "
            "found the text 'two\\nlines'",
            "",
        ),
        (
            "invalid_value",
            "/inputs/1st",
            "expected a text (a name that an expression can read); found the text '1st'",
            "",
        ),
        (
            "invalid_value",
            "/inputs/topic/type",
            "expected one of 'text', 'number', 'integer', 'boolean', 'object', 'list', 'date', 'timestamp' and 'any'; "
            "found the text 'txt'",
            "did you mean text?",
        ),
        ("unknown_field", "/inputs/n/defaultt", "there is no field 'defaultt' in a parameter", "did you mean default?"),
        ("invalid_value", "/concurrency", "expected a whole number from 1 to 10,000; found the number 0", ""),
        (
            "invalid_value",
            "/policy/on_failure",
            "expected one of 'pause', 'fail' and 'cancel'; found the text 'explode'",
            "",
        ),
        ("wrong_type", "/steps/0", "expected a step, which is an object; found the number 3", ""),
        (
            "unknown_field",
            "/steps/1/depends_on",
            "there is no field 'depends_on' in a step of kind task",
            "did you mean after?",
        ),
        (
            "invalid_value",
            "/steps/1/name",
            "expected a text (a-z 0-9 first, then also _ and -; 63 at most); found the text 'Build It'",
            "",
        ),
        (
            "missing_input",
            "/steps/1/inputs",
            "the agent 'echo' requires 'text'; not given here",
            "it takes text and times",
        ),
        ("unknown_kind", "/steps/2/kind", "there is no kind of step called 'tsk'", "did you mean task?"),
        (
            "missing_field",
            "/steps/3",
            "a step says of which `kind` it is",
            "the kinds are task, agent, gate, ask, decide, check, plan, run, each and emit",
        ),
        (
            "unknown_field",
            "/steps/4/quorum",
            "there is no field 'quorum' in a step of kind task",
            "it is a field of gate steps",
        ),
        (
            "unknown_field",
            "/steps/4/retry/backof_s",
            "there is no field 'backof_s' in a retry",
            "did you mean backoff_s?",
        ),
        ("invalid_value", "/steps/4/retry/attempts", "expected a whole number from 1 to 100; found the number 0", ""),
        (
            "invalid_value",
            "/steps/4/timeout_s",
            "expected a number above 0 and at most 31,622,400; found the number 0",
            "",
        ),
        ("wrong_type", "/steps/4/idempotent", "expected true or false; found the number 1", ""),
        (
            "missing_input",
            "/steps/4/inputs",
            "the agent 'echo' requires 'text'; not given here",
            "it takes text and times",
        ),
        ("wrong_type", "/steps/5/after", "expected a list; found the text 'f'", ""),
        ("invalid_value", "/steps/5/reviewers", "expected a list that is not empty; found an empty list", ""),
        ("missing_field", "/steps/6/cases/0", "expected the field 'then' in a case; it is missing", ""),
        ("missing_field", "/steps/7/branch", "expected the field 'label' in a branch; it is missing", ""),
        ("missing_field", "/steps/7", "expected the field 'outcome' in a step of kind emit; it is missing", ""),
    ]


def test_a_plan_without_its_parts_says_which() -> None:
    assert said({}) == [
        ("missing_field", "", "expected the field 'name' in a plan; it is missing", ""),
        ("missing_field", "", "expected the field 'steps' in a plan; it is missing", ""),
    ]
    assert said({"name": "x", "steps": {}}) == [
        ("wrong_type", "/steps", "expected a list of steps; found an empty object", "")
    ]
    assert said(plan()) == [("invalid_value", "/steps", "expected at least one step; found an empty list", "")]


def test_a_plan_has_ten_thousand_steps_and_not_one_more() -> None:
    steps = [task(f"s{number}") for number in range(10_001)]

    assert isinstance(compile_plan(plan(*steps[1:]), AGENTS), Compiled)
    assert [one.code for one in _list(compile_plan(plan(*steps), AGENTS, limits=Limits(steps=20_000)))] == [
        "too_many_steps"
    ]
    assert said(plan(*steps)) == [
        (
            "too_many_steps",
            "/steps",
            "a plan has at most 10,000 steps; this one has 10,001",
            "split it into several plans",
        )
    ]


def test_a_list_of_problems_ends_before_it_is_too_long_to_store() -> None:
    found = problems(plan(*(task(f"s{number}", agent="nobody") for number in range(2_000))))

    assert len(found) == 1_001
    assert found[-1].code == "more_problems"
    assert found[-1].message == "1,000 more problems were found, and are not listed"


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.b", "*", ">", "a b", "", "\u202eabc", "a\n", "A", "é", "-a", "a" * 64, "x" * 5_000, "a\x00", "$JS"]
)
def test_a_hostile_name_is_refused_wherever_it_stands(name: str) -> None:
    found = problems(
        plan(
            {"name": name, "kind": "task", "agent": name, "after": [name], "branch": branch(name, "x")},
            {"name": "b", "kind": "task", "agent": "free", "binding": name if name != "A" else "1"},
            inputs={name if name != "A" else "1": {}},
        )
    )

    places = {one.pointer for one in found}
    expected = {"/steps/0/name", "/steps/0/agent", "/steps/0/after/0", "/steps/0/branch/step", "/steps/1/binding"}
    if name not in ("a" * 64,):
        assert expected <= places
    assert all(len(one.message) < 300 and one.message.isprintable() for one in found)


def test_a_name_belongs_to_one_step() -> None:
    assert said(plan(task("a"), task("b"), task("a"))) == [
        ("duplicate_name", "/steps/2/name", "step 0 is already called 'a'", "every step has a name of its own")
    ]


def test_a_binding_belongs_to_one_step_and_to_no_input() -> None:
    found = said(
        plan(
            task("a-b"),
            task("a_b"),
            task("c", binding="topic"),
            task("d", binding="in"),
            task("not"),
            inputs={**TOPIC, "true": {}},
        )
    )

    assert found == [
        (
            "reserved_name",
            "/inputs/true",
            "'true' is a word of the expression language; an input cannot be called so",
            "",
        ),
        (
            "duplicate_binding",
            "/steps/1/name",
            "'a_b' is the output of 'a-b' already, and both can run",
            "name one of them with `binding`, or put them into different branches of one decide",
        ),
        (
            "input_is_binding",
            "/steps/2/binding",
            "the output of 'c' would be read as topic, and so is an input of the plan",
            "give it another name with `binding`",
        ),
        (
            "reserved_name",
            "/steps/3/binding",
            "'in' is a word of the expression language; the output of 'd' cannot be read by it",
            "give it another name with `binding`",
        ),
        (
            "reserved_name",
            "/steps/4/name",
            "'not' is a word of the expression language; the output of 'not' cannot be read by it",
            "give it another name with `binding`",
        ),
    ]


def test_different_branches_of_one_decide_may_share_a_binding() -> None:
    shared = plan(
        decide("which", "x", "y", "z"),
        task("a", binding="found", branch=branch("which", "x")),
        task("b", after=["which"], branch=branch("which", "y")),
        task("b2", binding="found", after=["b"]),
        decide("deeper", "p", "q", branch=branch("which", "z")),
        task("c", binding="found", branch=branch("deeper", "p")),
        task("d", binding="found", branch=branch("deeper", "q")),
        task("last", "{found ?? 1}"),
        inputs=TOPIC,
    )

    compiled = compile_plan(shared, AGENTS)

    assert isinstance(compiled, Compiled)
    assert compiled.plan.steps[-1].after == ("a", "b2", "c", "d")
    shared["steps"][2]["branch"]["label"] = "x"
    assert [(one.code, one.pointer) for one in problems(shared)] == [("duplicate_binding", "/steps/3/binding")]


def test_nothing_in_an_each_is_called_like_something_around_it() -> None:
    each = {"kind": "each", "name": "all", "items": "topic", "item": "first", "steps": [task("topic")]}

    found = said(plan(task("first"), each, inputs=TOPIC))

    assert found == [
        (
            "shadows",
            "/steps/1/item",
            "the item is called 'first', and so is something around it",
            "give it another name",
        ),
        (
            "shadows",
            "/steps/1/steps/0/name",
            "the output of 'topic' would be read as topic, and so is something around it",
            "give it another name with `binding`",
        ),
    ]


def test_branches_are_compared_within_reason() -> None:
    wide = [
        decide("d", *(f"l{n}" for n in range(100))),
        *(task(f"t{n}", binding="b", branch=branch("d", f"l{n}")) for n in range(100)),
        task("last", "{b}"),
    ]

    assert isinstance(compile_plan(plan(*wide, inputs=TOPIC), AGENTS), Compiled)
    (found,) = _list(compile_plan(plan(*wide, inputs=TOPIC), AGENTS, limits=Limits(comparisons=5_000)))
    assert (found.code, found.pointer) == ("too_large", "/steps")
    assert found.message == (
        "too many steps in too many branches share bindings or wait for one another: there are more combinations than "
        "can be compared"
    )


def test_a_step_that_is_not_there_is_named_with_the_nearest_one() -> None:
    found = said(plan(task("gather"), task("b", after=["gathr", "zzz"]), task("c", branch=branch("gatherr", "x"))))

    assert found == [
        ("unknown_step", "/steps/1/after/0", "there is no step called 'gathr'", "did you mean gather?"),
        ("unknown_step", "/steps/1/after/1", "there is no step called 'zzz'", ""),
        ("unknown_step", "/steps/2/branch/step", "there is no step called 'gatherr'", "did you mean gather?"),
    ]


def test_a_name_that_is_neither_binding_nor_input_is_refused_where_it_is_read() -> None:
    found = said(
        plan(
            task("draft-report", "{topc} {draft}"),
            task("b", inputs={"rows": [1, {"x/y": "{map(draft_reprt.rows, title)}"}]}),
            {"name": "g", "kind": "gate", "prompt": "see {b2}", "show": ["{b}", "{nothing_like_it}"]},
            {"name": "c", "kind": "check", "condition": "draft-report == 1"},
            task("d", binding="other", inputs={"x": "{d}"}),
            inputs=TOPIC,
        )
    )

    what = "which is neither a binding nor an input of the plan"
    declare = "declare it under `inputs`, or bind it by a step"
    minus = "the output of the step draft-report is read as draft_report; a - is a minus"
    assert found == [
        (
            "unknown_name",
            "/steps/0/inputs/text",
            f"an expression reads 'draft', {what}",
            declare,
        ),
        ("unknown_name", "/steps/0/inputs/text", f"an expression reads 'topc', {what}", "did you mean topic?"),
        (
            "unknown_name",
            "/steps/1/inputs/rows/1/x~1y",
            f"an expression reads 'draft_reprt', {what}",
            "did you mean draft_report?",
        ),
        ("unknown_name", "/steps/2/prompt", f"an expression reads 'b2', {what}", "did you mean b?"),
        ("unknown_name", "/steps/2/show/1", f"an expression reads 'nothing_like_it', {what}", declare),
        ("unknown_name", "/steps/3/condition", f"an expression reads 'draft', {what}", minus),
        ("unknown_name", "/steps/3/condition", f"an expression reads 'report', {what}", minus),
        (
            "unknown_name",
            "/steps/4/inputs/x",
            f"an expression reads 'd', {what}",
            "the output of the step d is read as other",
        ),
    ]


def test_what_the_message_of_a_check_reads_is_checked_and_waited_for() -> None:
    check = {"name": "c", "kind": "check", "condition": "2 > 1", "message": "found {a.count}"}

    (unknown,) = said(plan(check))
    found = compile_plan(plan(task("a"), check), AGENTS)

    assert unknown[:2] == ("unknown_name", "/steps/0/message")
    assert isinstance(found, Compiled)
    assert found.plan.steps[1].after == ("a",)


def test_every_expression_that_cannot_be_read_is_shown() -> None:
    found = said(
        plan(
            task("a", "one {topic.} and {"),
            decide("d", "x") | {"cases": [{"when": "topic = 1", "then": "x"}, {"when": "topic ==", "then": "y"}]},
            emit("e", result={"deep": ["}"]}),
            inputs=TOPIC,
        )
    )

    assert [(code, pointer) for code, pointer, *_ in found] == [
        ("bad_expression", "/steps/0/inputs/text"),
        ("bad_expression", "/steps/0/inputs/text"),
        ("bad_expression", "/steps/1/cases/0/when"),
        ("bad_expression", "/steps/1/cases/1/when"),
        ("bad_expression", "/steps/2/result/deep/0"),
    ]
    assert found[2][2:] == ("= has no meaning here (line 1, column 7: 'topic = 1')", "compare with ==")


# --- agents ----------------------------------------------------------------------------------------------------


def test_an_agent_that_the_mesh_does_not_have_is_named_with_the_nearest_one() -> None:
    assert said(plan(task("a", agent="ecko"), task("b", agent="zzz"))) == [
        (
            "unknown_agent",
            "/steps/0/agent",
            "the mesh has no agent called 'ecko'",
            "did you mean echo? If not, run its module: planmesh up --agents MODULE",
        ),
        (
            "unknown_agent",
            "/steps/1/agent",
            "the mesh has no agent called 'zzz'",
            "run its module with `planmesh up --agents MODULE`; or, to run it elsewhere, add it with "
            "`planmesh agents add zzz`",
        ),
    ]


def test_without_a_mesh_every_agent_is_taken_for_known() -> None:
    assert isinstance(compile_plan("name: Demo\nsteps: [{name: a, kind: task, agent: whoever}]", None), Compiled)


SEARCH = ToolDescription(name="web_search", permissions=Permissions(network=("api.example.com",)))
LLM = AgentDescription(name="llm", any_parameters=True, tools=(SEARCH, ToolDescription(name="grep")))
MUTE = AgentDescription(name="mute", any_parameters=True, tools=())


def thinking(name: str, agent: str = "llm", **permissions: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "agent": agent, "permissions": permissions}


def test_a_step_names_only_tools_that_its_agent_has() -> None:
    agents = {**AGENTS, "llm": LLM, "mute": MUTE}
    document = plan(
        thinking("a", tools=["grep", "web_serch", "shell"]),
        thinking("b", "mute", tools=["grep"]),
        thinking("c", "echo", tools=["whatever-it-calls-its-own"]) | {"inputs": {"text": "x"}},
    )

    found = compile_plan(document, agents)

    assert isinstance(found, list)
    assert [(one.code, one.pointer, one.message, one.hint) for one in found] == [
        (
            "unknown_tool",
            "/steps/0/permissions/tools/1",
            "the agent 'llm' has no tool 'web_serch'",
            "did you mean web_search?",
        ),
        (
            "unknown_tool",
            "/steps/0/permissions/tools/2",
            "the agent 'llm' has no tool 'shell'",
            "its tools are web_search and grep",
        ),
        (
            "unknown_tool",
            "/steps/1/permissions/tools/0",
            "the agent 'mute' has no tool 'grep'",
            "it has none: start its worker with a module of tools",
        ),
    ]


def test_a_step_that_permits_less_than_its_tools_use_is_refused() -> None:
    agents = {"llm": LLM}
    less = plan(thinking("a", tools=["web_search"], read=["notes"]))
    enough = plan(thinking("a", tools=["web_search"], network=["api.example.com", "other"]))

    found = compile_plan(less, agents)

    assert isinstance(compile_plan(enough, agents), Compiled)
    assert isinstance(found, list)
    assert [(one.code, one.pointer, one.message) for one in found] == [
        (
            "tool_not_permitted",
            "/steps/0/permissions/tools/0",
            "the tool 'web_search' uses what the step does not permit: network api.example.com",
        )
    ]


def test_a_step_that_names_tools_and_nothing_else_permits_what_they_use() -> None:
    found = compile_plan(plan(thinking("a", tools=["web_search", "grep"])), {"llm": LLM})

    assert isinstance(found, Compiled)
    (step,) = found.plan.steps
    assert isinstance(step, Task)
    assert step.permissions == Permissions(tools=("web_search", "grep"), network=("api.example.com",))
    assert compile_plan(msgspec.to_builtins(found.plan), {"llm": LLM}) == found


def test_inputs_are_those_that_the_agent_declares() -> None:
    silent = AgentDescription(name="silent")
    open_ended = AgentDescription(name="open", parameters=(AgentParameter(name="task"),), any_parameters=True)
    found = said(
        plan(
            task("a", agent="echo", inputs={"txt": 1, "times": 2, "tmes": 3}),
            task("b", agent="silent", inputs={"x": 1}),
            task("c", agent="free", inputs={"whatever": 1}),
            task("d", agent="echo", inputs={"text": 1}),
            task("e", agent="open", inputs={"whatever": 1}),
            task("f", agent="open", inputs={"whatever": 1, "task": 2}),
        ),
        {**AGENTS, "silent": silent, "open": open_ended},
    )

    assert found == [
        ("unknown_input", "/steps/0/inputs/txt", "the agent 'echo' takes no input 'txt'", "did you mean text?"),
        ("unknown_input", "/steps/0/inputs/tmes", "the agent 'echo' takes no input 'tmes'", "did you mean times?"),
        (
            "missing_input",
            "/steps/0/inputs",
            "the agent 'echo' requires 'text'; not given here",
            "it takes text and times",
        ),
        ("unknown_input", "/steps/1/inputs/x", "the agent 'silent' takes no input 'x'", "it takes none"),
        (
            "missing_input",
            "/steps/4/inputs",
            "the agent 'open' requires 'task'; not given here",
            "it takes task, and whatever else",
        ),
    ]


# --- gates -----------------------------------------------------------------------------------------------------


def test_reviewers_are_people_or_the_role_of_operators() -> None:
    good = ["person:ada", "role:operator", "person:Ada-2_x", "service:billing"]
    bad = [
        "service:",
        "service:a.b",
        "ada",
        "ada@example.com",
        "role:cfo",
        "team:finance",
        "person:",
        "person:a.b",
        "person:*",
        "person:a b",
    ]

    assert isinstance(compile_plan(plan({"name": "g", "kind": "gate", "reviewers": good}), AGENTS), Compiled)
    found = said(plan({"name": "g", "kind": "gate", "reviewers": bad}))
    assert [pointer for _, pointer, *_ in found] == [f"/steps/0/reviewers/{index}" for index in range(len(bad))]
    assert found[3] == (
        "unknown_reviewer",
        "/steps/0/reviewers/3",
        "nobody is found under the reviewer 'ada@example.com'",
        "write person:NAME, service:SPACE, or role:operator for everyone with an operator's credentials",
    )


def test_a_gate_has_as_many_reviewers_as_its_quorum_takes() -> None:
    gate = {"name": "g", "kind": "gate", "reviewers": ["person:ada", "person:ada", "person:bob"], "quorum": 3}

    assert said(plan(gate)) == [
        (
            "too_few_reviewers",
            "/steps/0/quorum",
            "this gate takes 3 approvals and has 2 who can give one, so it could never open",
            "name more reviewers, or lower it",
        )
    ]
    assert isinstance(compile_plan(plan({**gate, "reviewers": ["person:ada", "role:operator"]}), AGENTS), Compiled)


# --- order -----------------------------------------------------------------------------------------------------


def test_a_step_does_not_wait_for_itself() -> None:
    found = said(plan(task("a", after=["a"]), task("b", "{b.text}"), task("c", branch=branch("c", "x"))))

    assert [(code, pointer) for code, pointer, *_ in found] == [
        ("self_reference", "/steps/0/after/0"),
        ("self_reference", "/steps/1/inputs/text"),
        ("self_reference", "/steps/2/branch/step"),
    ]
    assert found[0][2] == "the step 'a' names itself, and so would wait for itself for ever"
    assert found[1][2] == "the step 'b' reads its own output, 'b', and so would wait for itself for ever"


def test_each_cycle_is_named_with_the_places_where_it_can_be_broken() -> None:
    found = said(
        plan(
            task("a", "{b}"),
            task("b", after=["c"]),
            decide("c", "x", after=["a"]),
            task("alone"),
            task("p", after=["alone", "q"]),
            task("q", branch=branch("r", "x")),
            decide("r", "x", after=["p"]),
            task("behind", after=["a", "p"]),
            inputs=TOPIC,
        )
    )

    assert found == [
        (
            "cycle",
            "/steps/0/inputs/text",
            "these steps wait for one another, each for the next: a → b → c → a",
            "break the circle at one of /steps/0/inputs/text, /steps/1/after/0 and /steps/2/after/0",
        ),
        (
            "cycle",
            "/steps/4/after/1",
            "these steps wait for one another, each for the next: p → q → r → p",
            "break the circle at one of /steps/4/after/1, /steps/5/branch/step and /steps/6/after/0",
        ),
    ]


def test_ten_thousand_steps_in_a_circle_are_named_in_a_line() -> None:
    (found,) = problems(plan(*(task(f"s{n}", after=[f"s{(n + 1) % 10_000}"]) for n in range(10_000))))

    assert found.code == "cycle"
    assert found.message.endswith(": s0 → s1 → s2 → s3 → s4 → s5 → s6 → s7 → s8 → (9,990 more) → s9999 → s0")


def test_nothing_waits_for_an_emit() -> None:
    found = said(plan(task("a"), emit("end", after=["a"]), task("b", after=["end"]), task("c", "{end}")))

    assert found == [
        (
            "waits_for_emit",
            "/steps/2/after/0",
            "an emit ends the plan, so nothing can run after 'end'",
            "wait for what end waits for",
        ),
        (
            "waits_for_emit",
            "/steps/3/inputs/text",
            "an emit ends the plan, so nothing can run after 'end'",
            "wait for what end waits for",
        ),
    ]


def test_a_branch_belongs_to_a_decide_or_a_check_and_is_one_of_its_labels() -> None:
    found = said(
        plan(
            task("a"),
            decide("d", "yes", "no"),
            {"name": "k", "kind": "check", "condition": "topic == 1"},
            {"name": "k2", "kind": "check", "condition": "topic == 1", "on_fail": "continue"},
            task("b", branch=branch("a", "yes")),
            task("c", branch=branch("d", "yess")),
            task("e", branch=branch("k", "fail")),
            task("f", branch=branch("k2", "fail")),
            task("h", branch=branch("k2", "maybe")),
            inputs=TOPIC,
        )
    )

    assert found == [
        (
            "not_a_branch",
            "/steps/4/branch/step",
            "expected a decide or a check, whose branch this is; 'a' is a task",
            "to wait for a step, name it in `after`",
        ),
        ("unknown_label", "/steps/5/branch/label", "'d' has no label 'yess'", "did you mean yes?"),
        (
            "unknown_label",
            "/steps/6/branch/label",
            "'k' has no label 'fail'",
            'with on_fail = "continue" it takes the branch fail, and otherwise it fails',
        ),
        ("unknown_label", "/steps/8/branch/label", "'k2' has no label 'maybe'", "its labels are 'pass' and 'fail'"),
    ]


def test_a_label_that_no_step_takes_is_fine() -> None:
    assert isinstance(
        compile_plan(plan(decide("d", "x", "y"), task("a", branch=branch("d", "x")), inputs=TOPIC), AGENTS), Compiled
    )


def test_a_step_in_a_branch_that_is_never_taken_can_never_run() -> None:
    cases = [("1 > 2", "a"), ("topic == 1", "b"), ("true", "c"), ("topic == 2", "d"), ("topic == 3", "b")]
    found = said(
        plan(
            {
                "name": "d",
                "kind": "decide",
                "cases": [{"when": when, "then": then} for when, then in cases],
                "otherwise": "e",
            },
            {"name": "k", "kind": "check", "condition": "2 > 1", "on_fail": "continue"},
            *(task(f"in-{label}", branch=branch("d", label)) for label in "abcde"),
            task("fails", branch=branch("k", "fail")),
            task("behind", after=["fails"]),
            inputs=TOPIC,
        )
    )

    assert [one[:3] for one in found] == [
        (
            "unreachable",
            "/steps/2/branch/label",
            "'in-a' can never run: 'd' never takes 'a', because the condition of case 0 is always false",
        ),
        (
            "unreachable",
            "/steps/5/branch/label",
            "'in-d' can never run: 'd' never takes 'd', because the condition of case 2 is always true",
        ),
        (
            "unreachable",
            "/steps/6/branch/label",
            "'in-e' can never run: 'd' never takes 'e', because the condition of case 2 is always true",
        ),
        (
            "unreachable",
            "/steps/7/branch/label",
            "'fails' can never run: 'k' never takes 'fail', because its condition is always true",
        ),
    ]


def test_a_binding_of_another_branch_is_never_there() -> None:
    found = said(
        plan(
            decide("d", "x", "y"),
            task("a", branch=branch("d", "x")),
            task("b", "{a}", branch=branch("d", "y")),
            task("c", "{a ?? 1}", after=["d"]),
            inputs=TOPIC,
        )
    )

    assert found == [
        (
            "never_bound",
            "/steps/2/inputs/text",
            "the step that gives 'a', 'a', is in a branch that excludes this one",
            "read a binding of this branch, or one from before the branches part",
        )
    ]


def test_two_emits_are_not_both_reached() -> None:
    clash = plan(task("a"), emit("one", after=["a"]), emit("two", after=["a"]))
    assert said(clash) == [
        (
            "emits_together",
            "/steps/2",
            "an emit ends the plan, and both 'one' and 'two' can be reached",
            "give each a `branch` of its own, of one decide or check",
        )
    ]


def test_emits_of_branches_that_part_and_join_are_told_apart() -> None:
    review = plan(
        decide("first", "good", "revise", "bad"),
        task("edit", branch=branch("first", "revise")),
        decide("second", "good", "bad", after=["edit"]),
        task("praise", branch=branch("first", "good")),
        task("praise-late", branch=branch("second", "good")),
        emit("done", after=["praise", "praise-late"]),
        emit("dropped", branch=branch("second", "bad")),
        emit("rejected", branch=branch("first", "bad")),
        inputs=TOPIC,
    )

    assert isinstance(compile_plan(review, AGENTS), Compiled)
    review["steps"][5]["after"].append("second")
    assert [(one.code, one.pointer) for one in problems(review)] == [("emits_together", "/steps/6")]


def test_a_plan_has_a_hundred_emits_and_not_one_more() -> None:
    labels = [f"l{number}" for number in range(100)]
    emits = [emit(label, branch=branch("d", label)) for label in labels]
    rest = emit("rest", branch=branch("d", "rest"))
    one_more = plan(decide("d", *labels, otherwise="rest"), *emits, rest, inputs=TOPIC)

    assert [(one.code, one.pointer, one.message) for one in problems(one_more)] == [
        ("too_many_emits", "/steps/101", "a plan has at most 100 emits; this one has 101")
    ]
    assert isinstance(compile_plan(one_more, AGENTS, limits=Limits(emits=101)), Compiled)


# --- what must not be there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc", "a private key"),
        ("id AKIA" + "IOSFODNN7EXAMPLE", "an AWS access key"),
        ("ghp_" + "a1" * 18, "a GitHub token"),
        ("xoxb" + "-1234567890-abc", "a Slack token"),
        ("sk-" + "proj-" + "a1" * 20, "an API key"),
        ("postgres://ada:" + "hunter2@db:5432/x", "an address with a password"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str, kind: str) -> None:
    (found,) = problems(plan(task("a", inputs={"deep": [{"x": text}]})))

    assert (found.code, found.pointer) == ("secret", "/steps/0/inputs/deep/0/x")
    assert found.message == f"this holds what looks like {kind}, and a plan is kept in the log for good"
    assert text not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a:b@c",
        "task-" + "a1" * 20,
        "sk-" + "some-very-long-class-of-style-sheets",
        "{user}://{a}:{b}@x",
        "sk-learn",
        "AKIA",
        "mail ada:bob@example.com",
    ],
)
def test_what_only_resembles_a_secret_passes(text: str) -> None:
    document = plan(task("a", inputs={"x": text.replace("{", "{{").replace("}", "}}")}))

    assert isinstance(compile_plan(document, AGENTS), Compiled)


def test_expressions_together_have_a_limit() -> None:
    document = plan(*(task(f"s{n}", f"{{topic.a{n}}}") for n in range(50)), inputs=TOPIC)

    assert isinstance(compile_plan(document, AGENTS, limits=Limits(expression_characters=600)), Compiled)
    (found,) = _list(compile_plan(document, AGENTS, limits=Limits(expression_characters=400)))
    assert found.message == "the expressions of a plan have at most 400 characters together; these have more"


def test_a_plan_that_grows_too_large_when_it_is_completed_is_refused() -> None:
    document = plan(*(task(f"s{n}") for n in range(100)), emit("e"))

    (found,) = _list(compile_plan(document, AGENTS, limits=Limits(completed_bytes=2_000)))

    assert found.code == "too_large"
    assert "with all that each step waits for, a plan has at most 2,000 bytes" in found.message


def _list(found: Compiled | list[Problem]) -> list[Problem]:
    assert isinstance(found, list)
    return found


def test_every_code_in_the_planner_has_a_rule_and_every_rule_a_code() -> None:
    source = "".join(path.read_text() for path in Path(planner.__file__).parent.glob("*.py") if path.stem != "problems")
    used = set(re.findall(r'"([a-z]+(?:_[a-z]+)*)"', source))

    assert set(RULES) - {"more_problems"} <= used
    raised = re.findall(r'(?:\.add|_refuse|_unreadable)\((?:\s*problems,)?\s*"([a-z_]+)"', source)
    assert set(raised) <= set(RULES)


# --- whatever comes --------------------------------------------------------------------------------------------

_VOCABULARY = """
name kind task gate decide check emit agent echo after branch step label cases when then otherwise inputs text condition
on_fail continue outcome result binding reviewers role:operator person:a quorum prompt show retry attempts policy
on_failure version concurrency steps type default required a b c {a} {b.x} {a+} 1>2 true a.b==1
"""
_WORDS = st.sampled_from(_VOCABULARY.split())
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | _WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=30,
)
_NAMES = st.sampled_from(["a", "b", "c", "d", "not", "A", ""])
_STEPS = st.fixed_dictionaries(
    {"name": _NAMES | _ANYTHING, "kind": st.sampled_from(["task", "gate", "decide", "check", "emit", "x"])},
    optional={
        "agent": st.sampled_from(["echo", "free", "nobody"]) | _ANYTHING,
        "after": st.lists(_NAMES, max_size=3) | _ANYTHING,
        "branch": st.fixed_dictionaries({"step": _NAMES, "label": st.sampled_from(["x", "pass", "fail"])}) | _ANYTHING,
        "cases": st.lists(st.fixed_dictionaries({"when": _WORDS, "then": st.sampled_from(["x", "y"])}), max_size=3)
        | _ANYTHING,
        "condition": _WORDS | _ANYTHING,
        "on_fail": st.sampled_from(["fail", "continue"]) | _ANYTHING,
        "outcome": _WORDS | _ANYTHING,
        "inputs": _ANYTHING,
        "binding": _NAMES | _ANYTHING,
        "reviewers": st.lists(_WORDS, max_size=3) | _ANYTHING,
        "prompt": _WORDS,
        "show": st.lists(_WORDS, max_size=2) | _ANYTHING,
        "result": _ANYTHING,
        "retry": _ANYTHING,
    },
)
_PLANS = st.fixed_dictionaries(
    {"name": st.just("x") | _ANYTHING, "steps": st.lists(_STEPS, max_size=6) | _ANYTHING},
    optional={"inputs": st.dictionaries(_NAMES, st.just({}) | _ANYTHING, max_size=2) | _ANYTHING, "version": _ANYTHING},
)


@given(_ANYTHING | _PLANS, _ANYTHING)
def test_no_document_raises_and_every_problem_has_a_rule_and_can_be_stored(document: object, values: object) -> None:
    found = compile_plan(document, AGENTS, values if isinstance(values, dict) else None)

    if isinstance(found, Compiled):
        assert compile_plan(msgspec.json.encode(found.plan), AGENTS, found.inputs) == found
    else:
        assert found
        assert all(one.code in RULES | SCRIPT_RULES for one in found)
        assert all(one.message.isprintable() for one in found)
        msgspec.json.encode(found)


def test_reviewers_are_those_of_the_directory_where_there_is_one() -> None:
    directory = Directory.model_validate(
        {"people": {"ada": {"email": "ada@example.org"}}, "teams": {"finance": {"members": ["ada"]}}}
    )
    good = ["person:ada", "ada@example.org", "team:finance", "role:operator"]
    gate = {"name": "g", "kind": "gate", "reviewers": good}
    assert isinstance(compile_plan(plan(gate), AGENTS, directory=directory), Compiled)

    found = compile_plan(plan({**gate, "reviewers": ["team:finanse", "person:bob"]}), AGENTS, directory=directory)
    few = compile_plan(plan({**gate, "reviewers": good[:3], "quorum": 2}), AGENTS, directory=directory)

    assert isinstance(found, list)
    assert [(one.code, one.pointer, one.hint) for one in found] == [
        ("unknown_reviewer", "/steps/0/reviewers/0", "did you mean team:finance?"),
        ("unknown_reviewer", "/steps/0/reviewers/1", "did you mean person:ada?"),
    ]
    assert isinstance(few, list)
    assert [one.code for one in few] == ["too_few_reviewers"]


# --- what a model is asked by ------------------------------------------------------------------------------


def thinks(**inputs: Any) -> dict[str, Any]:
    return plan({"name": "a", "kind": "agent", "inputs": {"task": "think", **inputs}}, inputs={"n": {"type": "number"}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_iterations": 101}, "expected a whole number from 1 to 100; found the number 101"),
        ({"max_iterations": "{50 * 3}"}, "expected a whole number from 1 to 100; found the number 150"),
        ({"temperature": -0.1}, "expected a number from 0 to 2; found the number -0.1"),
        ({"max_tokens": "9"}, "expected a whole number from 1 to 1,000,000; found the text '9'"),
    ],
)
def test_what_a_model_is_asked_by_keeps_its_range(given: dict[str, Any], message: str) -> None:
    (name,) = given

    assert [(one.pointer, one.message) for one in problems(thinks(**given), None)] == [
        (f"/steps/0/inputs/{name}", message)
    ]


def test_what_is_known_only_later_is_looked_at_later() -> None:
    assert isinstance(compile_plan(thinks(max_iterations="{n}", temperature="{n * 2}", model="m-{n}"), None), Compiled)


@pytest.mark.parametrize("kind", ["agent", "plan"])
def test_a_step_chooses_among_the_models_that_the_settings_allow(kind: str) -> None:
    def chosen(model: str) -> list[Problem]:
        step = {"name": "a", "kind": kind, "inputs": {"task": "think", "model": model}}
        found = compile_plan(plan(step), None, limits=Limits(models=("small", "large-7b")))
        return found if isinstance(found, list) else []

    (found,) = chosen("larg-7b")
    assert (found.code, found.pointer, found.hint) == (
        "model_not_allowed",
        "/steps/0/inputs/model",
        "did you mean large-7b?",
    )
    assert "allow 'small' and 'large-7b' for `model`; found 'larg-7b'" in found.message
    assert chosen("small") == chosen("large-7b") == []
