"""A goal becomes a command: always the same one."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.planner.catalogue import undescribed
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.goals import InWords, consider, lacks_an_agent
from planmesh.planner.problems import RULES
from planmesh.planner.templates import Templates
from planmesh.schemas import codec
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.goals import Goal, Problem
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.plan import Policy
from planmesh.schemas.work import AgentDescription

AGENTS = {"echo": undescribed("echo")}
DESCRIBED = {"echo": AgentDescription(name="echo", description="Says what it hears", any_parameters=True)}
PLAN = {
    "name": "Demo",
    "goal": "Say it",
    "inputs": {"topic": {"type": "text"}, "times": {"type": "integer", "default": 2}},
    "steps": [{"name": "say", "kind": "task", "agent": "echo", "inputs": {"text": "{topic}"}}],
}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def goal(**fields: Any) -> bytes:
    return msgspec.json.encode({"plan": PLAN, "inputs": {"topic": "hello"}, **fields})


def created(data: bytes, **settings: Any) -> CreatePlan:
    command = consider(data, AGENTS, **settings)
    assert isinstance(command, CreatePlan), command
    return command


def refused(data: bytes, **settings: Any) -> RefuseGoal:
    command = consider(data, AGENTS, **settings)
    assert isinstance(command, RefuseGoal), command
    assert codec.command.decode(codec.encode(command)) == command
    return command


def told(data: bytes) -> list[tuple[str, str, str]]:
    return [(one.code, one.pointer, one.message) for one in refused(data).problems]


def test_a_goal_becomes_a_plan_with_every_input() -> None:
    command = created(goal(goal="Say hello", start=False, traceparent=TRACEPARENT))

    assert command.plan.name == "Demo"
    assert command.inputs == {"topic": "hello", "times": 2}
    assert (command.goal, command.start, command.traceparent) == ("Say hello", False, TRACEPARENT)
    assert codec.command.decode(codec.encode(command)) == command


def test_a_goal_without_words_has_those_of_its_plan() -> None:
    assert created(goal()).goal == "Say it"


def test_the_plan_may_be_yaml_in_a_string() -> None:
    yaml = "name: Demo\nsteps:\n- {name: say, kind: task, agent: echo}\n"

    assert created(msgspec.json.encode({"plan": yaml})).plan.name == "Demo"


def test_the_same_content_is_the_same_command_however_it_is_written() -> None:
    command = created(goal())
    spaced = b'{ "inputs" : {"topic":"hell\\u006f"} , "plan": ' + msgspec.json.encode(PLAN) + b', "version": 1 }'

    again = created(spaced, traceparent=TRACEPARENT)

    assert again.id == command.id == again.goal_digest
    assert len(command.id) == 64


@pytest.mark.parametrize(
    "other", [{"goal": "x"}, {"start": False}, {"inputs": {"topic": "bye"}}, {"plan": {**PLAN, "name": "Other"}}]
)
def test_other_content_is_another_command(other: dict[str, Any]) -> None:
    assert created(goal(**other)).id != created(goal()).id


def test_the_trace_of_the_header_counts_for_more_than_that_of_the_goal() -> None:
    header = TRACEPARENT.replace("b7ad", "c8be")

    assert created(goal(traceparent=TRACEPARENT), traceparent=header).traceparent == header
    assert created(goal(traceparent=TRACEPARENT), traceparent="nonsense").traceparent == TRACEPARENT
    assert created(goal(), traceparent="00-" + "0" * 32 + "-b7ad6b7169203331-01").traceparent is None
    assert refused(goal(inputs={}), traceparent=header).traceparent == header


def test_a_goal_that_cannot_become_a_plan_is_refused_with_all_that_is_wrong() -> None:
    command = refused(goal(goal="Say hello", plan={**PLAN, "stepz": [], "steps": [{"kind": "task", "agent": "ecko"}]}))

    assert [(one.code, one.pointer) for one in command.problems] == [
        ("unknown_field", "/stepz"),
        ("missing_field", "/steps/0"),
        ("unknown_agent", "/steps/0/agent"),
    ]
    assert (command.goal, command.name) == ("Say hello", "Demo")
    assert command.id == command.goal_digest
    assert lacks_an_agent(command)


def test_a_goal_that_is_none_is_refused_with_all_that_can_be_told() -> None:
    data = msgspec.json.encode(
        {
            "gaol": 1,
            "version": 2,
            "goal": "Say",
            "inputs": [],
            "start": "yes",
            "traceparent": "x",
            "plan": {**PLAN, "x": 1},
        }
    )

    assert told(data) == [
        ("unknown_field", "/gaol", "there is no field 'gaol' in a goal"),
        ("unknown_version", "/version", "this planmesh reads version 1 of a goal; found the number 2"),
        ("wrong_type", "/inputs", "expected an object; found an empty list"),
        ("wrong_type", "/start", "expected true or false; found the text 'yes'"),
        (
            "invalid_value",
            "/traceparent",
            "expected a text of the form ^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?!\\n)$; "
            "found the text 'x'",
        ),
        ("unknown_field", "/x", "there is no field 'x' in a plan"),
    ]
    command = refused(data)
    assert (command.goal, command.name) == ("Say", "Demo")
    assert told(b"{}") == [("nothing_wanted", "/goal", "this goal does not say what is wanted")]
    assert told(b'{"plan": 3}') == [("wrong_type", "/plan", "expected an object or a text; found the number 3")]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"", "malformed", "expected a goal: an object with `goal`, `plan` or `template`, in JSON; not JSON in UTF-8"),
        (b"{", "malformed", "expected a goal: an object with `goal`, `plan` or `template`, in JSON; not JSON in UTF-8"),
        (b"\xff\xfe", "malformed", "expected a goal"),
        (
            b"[]",
            "malformed",
            "expected a goal: an object with `goal`, `plan` or `template`, in JSON; Expected `object`, got `array`",
        ),
        (b"null", "malformed", "expected a goal"),
        (b'{"plan": 1e999}', "malformed", "expected a goal"),
        (b'{"plan": "\\ud800"}', "malformed", "expected a goal"),
        (b"[" * 100_000, "too_deep", "JSON may be nested 32 deep"),
        (b'{"plan": {"name": "' + b"x" * (9 * 1024 * 1024) + b'"}}', "too_large", "expected at most 8,388,608 bytes"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_bytes_that_are_no_goal_are_a_record_as_well(data: bytes, code: str, said: str) -> None:
    (problem,) = refused(data).problems

    assert problem.code == code
    assert said in problem.message


def test_a_plan_that_is_as_deep_as_it_may_be_still_fits_into_a_command() -> None:
    def document(depth: int) -> str:
        return f"name: x\nsteps: [{{name: a, kind: task, agent: echo, inputs: {{t: {'[' * depth}{']' * depth}}}}}]"

    command = created(msgspec.json.encode({"plan": document(27)}))
    assert codec.command.decode(codec.encode(command)) == command
    assert [code for code, *_ in told(msgspec.json.encode({"plan": document(28)}))] == ["too_deep"]


def test_a_key_that_comes_twice_is_refused_where_the_plan_has_it() -> None:
    data = b'{"plan": {"name": "a", "name": "b", "steps": [{"kind": "gate", "name": "g"}]}, "inputs": {"x": 1, "x": 2}}'

    assert {(code, at) for code, at, _ in told(data)} >= {("duplicate_key", "/name"), ("duplicate_key", "/inputs/x")}


def test_a_secret_is_not_repeated_in_the_record_of_the_refusal() -> None:
    secret = "ghp_" + "a1" * 18
    command = refused(goal(goal=f"use {secret}", inputs={"topic": secret}, plan={**PLAN, "name": secret}))

    assert [(one.code, one.pointer) for one in command.problems] == [
        ("secret", "/goal"),
        ("secret", "/inputs/topic"),
        ("secret", "/name"),
    ]
    assert secret.encode() not in codec.encode(command)


def test_a_refusal_fits_into_a_message_whatever_is_refused() -> None:
    long_key = "k" * 190
    deep: Any = 1
    for _ in range(25):
        deep = {long_key: deep}
    steps = [
        {"name": f"s{n}", "kind": "task", "agent": "x" * 60, "x": "y" * 200, "retry": {"a" * 5_000: 1}}
        for n in range(400)
    ]
    texts = {f"k{n}": {long_key: {long_key: {long_key: {long_key: {long_key: "{a ==}"}}}}} for n in range(2_000)}
    steps.append({"name": "deep", "kind": "task", "agent": "echo", "inputs": texts})
    command = refused(msgspec.json.encode({"plan": {"name": "x", "steps": steps}, "inputs": deep}))

    assert isinstance(command.problems[-1], Problem)
    assert len(codec.encode(command)) < 3_000_000


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["plan", "goal", "inputs", "start", "version", "name", "steps", "x"]), inner, max_size=4
            )
        ),
        max_leaves=10,
    ).map(msgspec.json.encode)
)
def test_no_message_raises_and_every_answer_can_be_read(data: bytes) -> None:
    command = consider(data, AGENTS)

    assert codec.command.decode(codec.encode(command)) == command
    assert consider(data, AGENTS) == command
    if isinstance(command, RefuseGoal):
        assert all(one.code in RULES for one in command.problems)


# --- goals without a plan ----------------------------------------------------------------------------------


def in_words(agents: Mapping[str, AgentDescription] = DESCRIBED, **fields: Any) -> InWords:
    wanted = consider(msgspec.json.encode(fields), agents)
    assert isinstance(wanted, InWords), wanted
    return wanted


def test_a_goal_in_words_is_for_a_model() -> None:
    wanted = in_words(goal="Say hello twice", inputs={"topic": "hello"})

    assert (wanted.goal.goal, wanted.goal.inputs) == ("Say hello twice", {"topic": "hello"})
    assert wanted.agents == DESCRIBED
    assert wanted.goal_digest == in_words(goal="Say hello twice", inputs={"topic": "hello"}).goal_digest
    assert wanted.goal_digest != in_words(goal="Say hello", inputs={"topic": "hello"}).goal_digest


def test_a_model_hears_of_no_agent_that_has_said_nothing() -> None:
    agents = {**DESCRIBED, "silent": undescribed("silent")}

    assert in_words(agents, goal="Say hello").agents == DESCRIBED


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "nothing_wanted"),
        ({"goal": " \n"}, "nothing_wanted"),
        ({"plan": None}, "nothing_wanted"),
        ({"goal": "Use ghp_" + "a1" * 18}, "secret"),
        ({"goal": "Say", "inputs": {"no-name": 1}}, "invalid_value"),
        ({"goal": "Say", "inputs": {"in": 1}}, "reserved_name"),
        ({"goal": "Say", "template": "../plans"}, "invalid_value"),
        ({"goal": "x" * 70_000}, "invalid_value"),
    ],
)
def test_what_a_model_need_not_be_asked_is_refused_at_once(fields: dict[str, Any], code: str) -> None:
    assert code in [problem.code for problem in refused(msgspec.json.encode(fields)).problems]


def test_a_mesh_without_agents_has_nothing_to_make_a_plan_of() -> None:
    command = consider(msgspec.json.encode({"goal": "Say"}), {"silent": undescribed("silent")})

    assert isinstance(command, RefuseGoal)
    assert lacks_an_agent(command)


def test_a_goal_with_a_plan_is_the_same_goal_as_ever() -> None:
    assert created(goal()).id == "5cfdbd71bf17e1834b73af459462595c8d0e8d57d34a2588574d581e39d85f00"


def test_a_goal_can_name_a_template(tmp_path: Path) -> None:
    (tmp_path / "say.json").write_bytes(msgspec.json.encode(PLAN))
    templates = Templates(tmp_path)
    data = msgspec.json.encode({"template": "say", "inputs": {"topic": "hello"}})

    command = created(data, templates=templates)

    assert (command.plan.name, command.inputs["topic"], command.goal) == ("Demo", "hello", "Say it")
    assert command.origin is not None
    assert (command.origin.author, command.origin.template) == ("template", "say")
    assert command.origin.sha256 == hashlib.sha256(msgspec.json.encode(PLAN)).hexdigest()
    assert command.id != created(goal()).id


def test_a_goal_that_names_a_template_and_has_a_plan_is_refused(tmp_path: Path) -> None:
    found = refused(goal(template="say"), templates=Templates(tmp_path))

    assert [problem.code for problem in found.problems] == ["nothing_wanted"]


def test_a_template_that_is_not_there_is_told_with_the_ones_that_are(tmp_path: Path) -> None:
    (tmp_path / "audit.plan").write_text('do "Say" with echo')

    (problem,) = refused(msgspec.json.encode({"template": "audti"}), templates=Templates(tmp_path)).problems

    assert (problem.code, problem.pointer, problem.hint) == ("unknown_template", "/template", "did you mean audit?")


def test_what_is_wrong_with_a_template_is_told_as_of_any_plan(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: Bad\nsteps: []\n")

    found = refused(msgspec.json.encode({"template": "bad"}), templates=Templates(tmp_path))

    assert [problem.code for problem in found.problems] == ["invalid_value"]
    assert found.origin is not None


# --- the policy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({"revisions": "hold", "destructive": "gate"}, []),
        ({"destructive": "allow"}, ["not_allowed"]),
        ({"revisions": "holt"}, ["invalid_value"]),
        ({"revision": "hold"}, ["unknown_field"]),
    ],
)
def test_a_goal_in_words_says_what_the_policy_of_its_plan_is(policy: dict[str, Any], found: list[str]) -> None:
    considered = consider(encode(Goal(goal="Say hi", policy=policy)), DESCRIBED)

    assert [problem.code for problem in getattr(considered, "problems", ())] == found
    if isinstance(considered, InWords):
        assert considered.policy == Policy(revisions="hold", destructive="gate")
        assert considered.goal_digest != digest_of_words()


def digest_of_words() -> str:
    considered = consider(encode(Goal(goal="Say hi")), DESCRIBED)
    assert isinstance(considered, InWords)
    return considered.goal_digest


def test_a_plan_says_itself_what_its_policy_is_and_allows_no_more_than_the_mesh() -> None:
    def found(document: dict[str, Any], limits: Limits = LIMITS, **goal: Any) -> list[str]:
        considered = consider(encode(Goal(plan=document, **goal)), DESCRIBED, limits=limits)
        return [problem.code for problem in getattr(considered, "problems", ())]

    step = {"kind": "task", "name": "say", "agent": "echo", "inputs": {"text": "hi"}}
    lax = {"name": "Say it", "policy": {"destructive": "allow"}, "steps": [step]}
    strict = {**lax, "policy": {"destructive": "gate", "revisions": "hold"}}

    assert found(lax) == ["not_allowed"]
    assert found(lax, Limits(may_allow_harm=True)) == []
    assert found(strict) == []
    assert found(strict, policy={"revisions": "hold"}) == ["misplaced_policy"]


def test_a_goal_may_have_as_many_plans_run_as_the_settings_say() -> None:
    document = {"name": "Say it", "steps": [{"kind": "task", "name": "say", "agent": "echo", "inputs": {"text": "hi"}}]}

    command = consider(encode(Goal(plan=document)), DESCRIBED, limits=Limits(plans=7))

    assert isinstance(command, CreatePlan)
    assert command.mandate == Mandate(plans=7)
