"""What becomes of each kind of step, and of the header."""

from typing import Any

import pytest
from scripts import compiled, document, problems, said, steps

from planmesh.planner.compile import compile_plan
from planmesh.planner.language.findings import RULES
from planmesh.planner.language.names import slug
from planmesh.planner.language.steps import KINDS
from planmesh.planner.problems import RULES as PLANNER_RULES
from planmesh.schemas.goals import Problem
from planmesh.schemas.work import AgentDescription, AgentParameter

DO = 'do "It" with worker\n'


def one(text: str) -> dict[str, Any]:
    (step,) = steps(text)
    return step


def wrong(text: str) -> tuple[int, int, str, str, str]:
    (found,) = problems(text)
    return found.line, found.column, found.code, found.message, found.hint


# --- the header ------------------------------------------------------------------------------------------------


def test_the_header_says_what_is_true_of_the_whole_plan() -> None:
    text = f"""\
script "Audit"
version "2"
goal = "Look at it"
concurrency 7
on_failure = "fail"
ordered = true
input
  quarter : text
  depth : integer = 3
  tags : list<list<text>> = [["a"]]
{DO}  q = quarter
"""
    assert document(text) | {"steps": []} == {
        "version": 1,
        "name": "Audit",
        "goal": "Look at it",
        "concurrency": 7,
        "policy": {"on_failure": "fail"},
        "inputs": {
            "quarter": {"type": "text"},
            "depth": {"type": "integer", "default": 3},
            "tags": {"type": "list", "default": [["a"]]},
        },
        "steps": [],
    }
    assert compiled(text, {"quarter": "Q1"}).inputs == {"quarter": "Q1", "depth": 3, "tags": [["a"]]}


def test_a_script_without_a_header_is_a_plan() -> None:
    assert document(DO) == {"version": 1, "name": "Plan", "steps": steps(DO)}


def test_the_output_is_an_emit_that_waits_for_everything() -> None:
    first, second, output = steps(f'output\n  a = x.y\n  b : text = "{{z}}"\n{DO}  -> x\ndo "Two" with worker\n')

    assert output == {
        "kind": "emit",
        "name": "output",
        "outcome": "completed",
        "result": {"a": "{x.y}", "b": "{z}"},
        "after": [first["name"], second["name"]],
    }


@pytest.mark.parametrize(
    ("header", "place", "code", "message"),
    [
        ("concurrency = 0", (1, 15), "invalid_value", "expected a whole number from 1 to 10,000; found the number 0"),
        ('on_failure = "stop"', (1, 14), "invalid_value", "expected one of 'pause', 'fail' and 'cancel'; found"),
        ('policy = { on_failure: "stop" }', (1, 24), "invalid_value", "expected one of 'pause', 'fail' and 'cancel'"),
        ("policy = 3", (1, 10), "wrong_value", "expected an object"),
        ('ordered = "yes"', (1, 11), "wrong_value", "expected true or false"),
        ("goal = 3", (1, 8), "wrong_value", "expected a text in double quotes"),
        ("concurrency = x", (1, 15), "wrong_value", "this is settled before the plan runs, and 'x' is known only then"),
        ("input\n  a : txt", (2, 7), "unknown_type", "there is no type 'txt'"),
        ("input\n  a : list<txt>", (2, 7), "unknown_type", "there is no type 'list<txt>'"),
        ("input\n  a : text = 3", (2, 14), "wrong_default", "the default of 'a' is the number 3, and its type is text"),
        ("input\n  a : text\n  a : text", (3, 3), "name_taken", "there is an input 'a' already"),
        ("input\n  in : text", (2, 3), "name_taken", "'in' is a word of the expression language"),
        ('script ""', (1, 8), "invalid_value", "expected a text"),
        ('reviewer = "role:cfo"\ngate "G"', (2, 1), "unknown_reviewer", "nobody is found under the reviewer"),
    ],
)
def test_a_header_that_is_wrong_says_where(header: str, place: tuple[int, int], code: str, message: str) -> None:
    line, column, found, text, _ = wrong(f"{header}\n{DO}")

    assert ((line, column), found) == (place, code)
    assert message in text or code == "wrong_default"


# --- steps -----------------------------------------------------------------------------------------------------


def test_a_do_is_a_task_with_the_fields_that_are_its_own() -> None:
    text = """\
do "Send mail" with mail.sender
  to = "x"
  timeout = "1h 30m"
  retry = { attempts: 4, backoff: "10s", factor: 3, max_backoff: 60 }
  permissions = { network: ["example.com"] }
  idempotent = true
  optional = true
  on error: ignore
  inputs = { name: "y", "reply-to": z }
  -> sent
"""
    assert one(text) == {
        "kind": "task",
        "name": "send-mail",
        "label": "Send mail",
        "binding": "sent",
        "optional": True,
        "agent": "mail.sender",
        "timeout_s": 5400.0,
        "permissions": {"network": ["example.com"]},
        "idempotent": True,
        "retry": {"attempts": 4, "backoff_s": 10.0, "factor": 3, "max_backoff_s": 60.0},
        "on_error": "ignore",
        "inputs": {"name": "y", "reply-to": "{z}", "to": "x"},
    }


@pytest.mark.parametrize("written", ["retry = 2", "on error: retry 2"])
def test_a_retry_is_one_attempt_more(written: str) -> None:
    assert one(f"{DO}  {written}\n")["retry"] == {"attempts": 3}


def test_a_retry_without_a_number_is_one() -> None:
    assert one(f"{DO}  on error: retry\n")["retry"] == {"attempts": 2}


def test_a_fallback_is_a_step_of_its_own_for_when_the_first_has_failed() -> None:
    text = f"{DO}  on error: retry 1\n  on error: fallback other {{ a: x }}\n  -> y\n"
    first, check, second, last = steps(text + 'do "Use" with worker\n  y = y\n  n = "{y.n}" \n  m = y.n ?? 1\n')

    assert first == {
        "kind": "task",
        "name": "it",
        "label": "It",
        "binding": "first_it",
        "agent": "worker",
        "retry": {"attempts": 2},
        "accept": "first_it != null",
        "on_error": "ignore",
    }
    assert check == {
        "kind": "check",
        "name": "it-failed",
        "label": "Failed: It",
        "condition": "first_it == null",
        "on_fail": "continue",
    }
    assert second == {
        "kind": "task",
        "name": "it-instead",
        "label": "Instead: It",
        "binding": "second_it",
        "agent": "other",
        "inputs": {"a": "{x}"},
        "branch": {"step": "it-failed", "label": "pass"},
    }
    assert last["inputs"] == {
        "y": "{second_it ?? first_it}",
        "n": "{(second_it.n ?? first_it.n)}",
        "m": "{second_it.n ?? first_it.n ?? 1}",
    }


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ('"90s"', 90),
        ('"2h"', 7200),
        ('"1d"', 86400),
        ('"1h 30m"', 5400),
        ('"1.5h"', 5400),
        ('"500ms"', 0.5),
        ("20", 20),
    ],
)
def test_durations(written: str, seconds: float) -> None:
    assert one(f"{DO}  timeout = {written}\n")["timeout_s"] == seconds


def test_a_reviewer_of_a_step_puts_a_gate_in_front_of_it() -> None:
    gate, task, other = steps(f'{DO}  reviewer = "role:operator"\n  sla = "4h"\n  a = 1\ndo "Other" with worker\n')

    assert gate == {
        "kind": "gate",
        "name": "approve-it",
        "label": "Approve: It",
        "reviewers": ["role:operator"],
        "sla_s": 14400.0,
    }
    assert (task["after"], task["inputs"]) == (["approve-it"], {"a": 1})
    assert "after" not in other


def test_a_gate_says_who_decides_and_what_they_see() -> None:
    step = one(
        'gate "Look"\n  reviewer = ["person:ada", "person:bob"]\n  quorum = 2\n  sla = "1h"\n  prompt = "Go to {x}?"\n'
        '  show = ["x.text", "{x.more}", "Read this", x.list]\n  four_eyes = true\n  require_reason = true\n'
    )
    assert step == {
        "kind": "gate",
        "name": "look",
        "label": "Look",
        "reviewers": ["person:ada", "person:bob"],
        "quorum": 2,
        "sla_s": 3600.0,
        "four_eyes": True,
        "require_reason": True,
        "prompt": "Go to {x}?",
        "show": ["{x.text}", "{x.more}", "Read this", "{x.list}"],
    }


def test_what_a_gate_shows_is_a_path_if_its_name_is_known() -> None:
    _, gate = steps(f'{DO}  -> x\ngate "Look"\n  show = ["x.text", "y.text"]\n')

    assert gate["show"] == ["{x.text}", "y.text"]


def test_the_reviewer_of_the_header_is_asked_where_nobody_is_named() -> None:
    first, second = steps('reviewer = "person:ada"\ngate "A"\ngate "B"\n  reviewer = "person:bob"\n')

    assert (first["reviewers"], second["reviewers"]) == (["person:ada"], ["person:bob"])


def test_a_decide_has_its_cases_in_order() -> None:
    step, *_ = steps(
        'decide "D" with rules\n  when x == 1 -> "A"\n  when x > 1 -> "B"\n  otherwise -> "A"\n'
        f'"A":\n  {DO}"B":\n  do "Other" with worker\n'
    )
    assert step["cases"] == [{"when": "x == 1", "then": "A"}, {"when": "x > 1", "then": "B"}]
    assert step["otherwise"] == "A"


def test_a_check_fails_with_a_message_or_goes_on() -> None:
    fails, goes_on, turned = steps(
        'check "A" x > 1\n  on fail: fail "It is {x}."\n  on pass: continue\ncheck "B" x > 2\n  on fail: continue\n'
        'check "C" x > 3\n  on pass: fail "too much"\n'
    )
    assert (fails["condition"], fails["message"], fails.get("on_fail")) == ("x > 1", "It is {x}.", None)
    assert goes_on["on_fail"] == "continue"
    assert (turned["condition"], turned["message"]) == ("not (x > 3)", "too much")


def test_a_check_that_tries_again_holds_back_the_step_whose_output_it_reads() -> None:
    task, check = steps(f'{DO}  -> x\ncheck "Good" x.score > limit\n  on fail: retry 2\n')

    assert (task["accept"], task["retry"]) == ("x.score > limit", {"attempts": 3})
    assert (check["condition"], "on_fail" in check) == ("x.score > limit", False)


def test_checks_that_try_a_step_again_hold_together() -> None:
    text = f"""{DO}  retry = {{ attempts: 6, backoff: "1s" }}
  -> x
check "Good" x.score > 1
  on fail: retry
check "Cheap" x.price < 5 or x.free
  on fail: retry 9
"""
    task, *_ = steps(text)

    assert task["accept"] == "(x.score > 1) and (x.price < 5 or x.free)"
    assert task["retry"] == {"attempts": 10, "backoff_s": 1.0}
    assert steps(text.replace("retry 9", "retry 2"))[0]["retry"]["attempts"] == 6


@pytest.mark.parametrize(
    "text",
    [
        'check "C" x > 1\n  on fail: retry\n',
        f'{DO}  -> a\ndo "Two" with worker\n  -> b\ncheck "C" a == b\n  on fail: retry\n',
        'gate "G"\n  -> a\ncheck "C" a == 1\n  on fail: retry\n',
        'plan "P" with llm\n  -> a\ncheck "C" count(a.steps) < 3\n  on fail: retry\n',
        f'{DO}  -> a\ncheck "D" x\n  on fail: goto "B"\n"B":\n  check "C" a == 1\n    on fail: retry\n',
        f'{DO}  -> a\neach i in is\n  check "C" a == i\n    on fail: retry\n',
        f'{DO}  -> a\ncheck "C" a == "{"x" * 600}"\n  on fail: retry\ncheck "E" a == "{"y" * 600}"\n  on fail: retry\n',
    ],
)
def test_a_check_cannot_try_anything_else_again(text: str) -> None:
    assert said(text)[-1][2] in ("no_retry", "too_large")


def test_an_emit_has_an_outcome_and_a_result() -> None:
    assert one('emit "Done"\n  result = { a: x }\n') == {
        "kind": "emit",
        "name": "done",
        "label": "Done",
        "outcome": "Done",
        "result": {"a": "{x}"},
    }


def test_an_ask_has_a_type_and_options() -> None:
    step = one(
        'ask "How {many}?"\n  options = ["a", "b"]\n  type = "text"\n  default = "a"\n  timeout = "2h"\n'
        '  on_timeout = "default"\n  max_retries = 2\n  secret = true\n  reviewer = "person:ada"\n'
        '  level = "login"\n  escalate = "role:operator"\n  -> x\n'
    )
    assert step == {
        "kind": "ask",
        "name": "how-many",
        "label": "How {many}?",
        "binding": "x",
        "prompt": "How {{many}}?",
        "options": ["a", "b"],
        "type": "text",
        "default": "a",
        "sla_s": 7200.0,
        "on_overdue": "default",
        "max_retries": 2,
        "secret": True,
        "reviewers": ["person:ada"],
        "level": "login",
        "escalate": [{"after_s": 7200.0, "to": ["role:operator"]}],
    }


def test_whoever_decides_as_well_does_so_after_a_time() -> None:
    gate = one(
        'gate "G"\n  reviewer = "role:operator"\n  shares = [{ of: "role:operator", count: 2 }]\n  level = "operator"\n'
        '  escalate = [{ after: "1h", to: "person:ada" }, { after: 7200, to: ["person:bob", "person:eve"] }]\n'
    )
    assert gate["shares"] == [{"of": "role:operator", "count": 2}]
    assert gate["level"] == "operator"
    assert gate["escalate"] == [
        {"after_s": 3600.0, "to": ["person:ada"]},
        {"after_s": 7200.0, "to": ["person:bob", "person:eve"]},
    ]


def test_an_agent_has_the_tools_that_it_names_and_no_others() -> None:
    bare = one('agent "Look {around}" with llm\n')
    full = one(
        'agent "Look" with llm\n  task = "Look at {x}."\n  tools = ["search"]\n  max_iterations = 3\n'
        '  permissions = { network: ["example.com"] }\n  topic = x\n  on error: retry 1\n'
    )
    assert (bare["kind"], bare["agent"]) == ("agent", "llm")
    assert bare["inputs"] == {"task": "Look {{around}}"}
    assert bare["permissions"] == {}  # which is none, and not what the agent declares
    assert full["inputs"] == {"task": "Look at {x}.", "max_iterations": 3, "topic": "{x}"}
    assert full["permissions"] == {"tools": ["search"], "network": ["example.com"]}
    assert full["retry"] == {"attempts": 2}


def test_a_plan_is_told_what_it_needs_and_kept_within_bounds() -> None:
    gate, step = steps(
        'plan "Move it" with llm\n  context = { of: x }\n  tools = "deploy"\n  max_steps = 5\n  validate = true\n'
        '  audience = "ops"\n  reviewer = "role:operator"\n  on error: retry 2\n  -> mission\n'
    )
    assert gate["kind"] == "gate"
    assert step == {
        "kind": "plan",
        "name": "move-it",
        "label": "Move it",
        "binding": "mission",
        "after": ["approve-move-it"],
        "agents": ["deploy"],
        "max_steps": 5,
        "strict": True,
        "retry": {"attempts": 3},
        "inputs": {"task": "Move it", "context": {"of": "{x}"}, "audience": "ops"},
    }


def test_a_run_has_its_inputs_and_its_ceiling() -> None:
    step = one(
        'run mission\n  mode = "draft"\n  retries = 1\n  permissions = { read: ["/data"] }\n  region = "eu"\n'
        "  inputs = { mode: x }\n  -> outcome\n"
    )
    assert step == {
        "kind": "run",
        "name": "run-outcome",
        "binding": "outcome",
        "document": "mission",
        "mode": "draft",
        "retries": 1,
        "permissions": {"read": ["/data"]},
        "inputs": {"region": "eu", "mode": "{x}"},
    }


@pytest.mark.parametrize(
    ("text", "column", "code", "message", "hint"),
    [
        (
            'gate "G"\n  timeout = "1h"',
            3,
            "unknown_field",
            "a gate has no field 'timeout'",
            "a gate opens by an approval",
        ),
        ('gate "G"\n  promt = "x"', 3, "unknown_field", "a gate has no field 'promt'", "did you mean prompt?"),
        ('emit "E"\n  text = "x"', 3, "unknown_field", "an emit has no field 'text'", "put it into the result"),
        (
            'ask "A"\n  sla = "1h"',
            3,
            "unknown_field",
            "an ask has no field 'sla'",
            "an ask has a timeout, which reminds",
        ),
        (
            'ask "A"\n  type = "txt"',
            10,
            "wrong_value",
            "expected one of text, number, boolean; found 'txt'",
            "did you mean text?",
        ),
        (DO + "  timeout = 0", 13, "wrong_value", "expected a duration of more than 0 s, and at most 366 days", ""),
        (
            DO + '  timeout = "367d"',
            13,
            "wrong_value",
            "expected a duration of more than 0 s, and at most 366 days",
            "",
        ),
        (DO + "  retry = 100", 11, "wrong_value", "a step is tried again from 0 to 99 times; found 100", ""),
        (DO + "  on error: retry 100", 3, "wrong_value", "a step is tried again from 0 to 99 times; found 100", ""),
        (DO + '  timeout = "soon"', 13, "wrong_value", "expected a duration", 'write it like "30s"'),
        (DO + '  retry = "x"', 11, "wrong_value", "expected how often it is tried again", "write retry = 3"),
        (DO + "  retry = x", 11, "wrong_value", "this is settled before the plan runs, and 'x'", "write the value"),
        (DO + "  quorum = 2", 3, "misplaced", "'quorum' is for whoever approves the step", "name them"),
        (DO + "  inputs = 3", 12, "wrong_value", "expected an object with the inputs", "write inputs"),
        (DO + '  after = ["Itt"]', 12, "unknown_step", "there is no step 'Itt'", "did you mean It?"),
        (DO + "  after = [1]", 11, "wrong_value", "expected a text, or a list of texts", ""),
        (DO + "  optional = 3", 14, "wrong_type", "expected true or false; found the number 3", ""),
        (
            DO + '  permissions = { tool: ["x"] }',
            25,
            "unknown_field",
            "there is no field 'tool' in permissions",
            "did you mean tools?",
        ),
        (DO + '  name = "Not This"', 10, "bad_name", "a name is a text of a-z, 0-9, - and _", 'write "not-this"'),
        (DO + '  name = "it_3"', 10, "bad_name", "names that end in _ and a number are for the items of an each", ""),
        (
            DO + '  key = "sk-abcdefghijklmnopqrstuvwxyz0123456789"',
            9,
            "secret",
            "this holds what looks like an API key",
            "",
        ),
        (
            'decide "D" with rules\n  otherwise -> "A"\n"A":',
            1,
            "missing_field",
            "this decide has no `when`",
            "add a line",
        ),
        (
            'decide "D" with rules\n  when x -> "A"\n  otherwise -> "A"\n  otherwise -> "A"\n"A":',
            3,
            "duplicate_field",
            "there is an `otherwise` already",
            "",
        ),
        (
            'check "C" x\n  on fail: continue\n  on fail: continue',
            3,
            "duplicate_field",
            "there is an `on fail` already",
            "",
        ),
        ('check "C" x\n  on pass: retry', 3, "wrong_value", "what has passed is not tried again", ""),
        ('plan "P" with gpt', 15, "wrong_value", "a plan is written by the model of the mesh", "write with llm"),
        ('plan "P" with llm\n  timeout = "1h"', 3, "unknown_field", "a plan has no field 'timeout'", "its steps have"),
        (
            'plan "P" with llm\n  on error: ignore',
            3,
            "misplaced",
            "a plan that fails can only be tried again",
            "write on error: retry 3",
        ),
        ("run p\n  retry = 2", 3, "unknown_field", "a run has no field 'retry'", "`retries = 2` tries again"),
        ("run p\n  on error: ignore", 3, "misplaced", "`on error` belongs to a step that an agent does", ""),
        (
            'run p\n  mode = "fast"',
            10,
            "wrong_value",
            "expected one of normal, safe, draft; found 'fast'",
            "",
        ),
        ('agent "A" with llm\n  max_iterations = "8"', 20, "wrong_type", "expected a whole number from 1 to 100", ""),
        (
            'agent "A" with llm\n  max_iterations = 101',
            20,
            "invalid_value",
            "expected a whole number from 1 to 100",
            "",
        ),
        ('agent "A" with llm\n  temperature = true', 17, "wrong_type", "expected a number from 0 to 2", ""),
        ('agent "A" with llm\n  temperature = 2.5', 17, "invalid_value", "expected a number from 0 to 2; found", ""),
        (
            'agent "A" with llm\n  max_tokens = 0',
            16,
            "invalid_value",
            "expected a whole number from 1 to 1,000,000",
            "",
        ),
        ('agent "A" with llm\n  model = 3', 11, "wrong_type", "expected a text of 1 to 200 characters", ""),
        ('agent "A" with other\n  max_iterations = "8"', 20, "wrong_value", "expected a whole number", ""),
        ('plan "P" with llm\n  model = ""', 11, "invalid_value", "expected a text of 1 to 200 characters", ""),
        ('plan "P" with llm\n  max_steps = 1001', 15, "invalid_value", "expected a whole number from 1 to 1,000", ""),
        (
            'each x in xs parallel 0\n  do "A" with a',
            1,
            "invalid_value",
            "expected a whole number from 1 to 10,000",
            "",
        ),
        ('agent "A" with llm\n  schema = "text"', 12, "wrong_value", "expected an object", ""),
        ('agent "A" with llm\n  tools = [1]', 11, "wrong_value", "expected a text, or a list of texts", ""),
        ('agent "A" with llm\n  tools = ["No Tool"]', 12, "invalid_value", "expected a text (a-z 0-9 first", ""),
        (
            'agent "A" with llm\n  tools = "a"\n  permissions = { tools: ["b"] }',
            3,
            "duplicate_field",
            "the tools of this agent are named twice",
            "leave one of them out",
        ),
        (
            'gate "G"\n  escalate = "role:operator"',
            14,
            "missing_field",
            "it does not say after how long",
            "write escalate = {",
        ),
        (
            'gate "G"\n  escalate = [{ after: "1h" }]',
            15,
            "missing_field",
            "expected the field 'to' in a escalation; it is missing",
            "",
        ),
        (
            'gate "G"\n  escalate = { afer: "1h", after: "1h", to: "role:operator" }',
            16,
            "unknown_field",
            "there is no field 'afer'",
            "",
        ),
        ('gate "G"\n  level = "admin"', 11, "wrong_value", "expected one of link, login, operator; found 'admin'", ""),
        (
            DO + "  on error: ignore\n  on error: fallback x",
            3,
            "duplicate_field",
            "this is settled by an `on error` above it",
            "",
        ),
    ],
)
def test_a_field_that_is_wrong_says_where(text: str, column: int, code: str, message: str, hint: str) -> None:
    _, found_column, found, said_message, said_hint = wrong(text + "\n")

    assert (found_column, found) == (column, code)
    assert said_message.startswith(message)
    assert said_hint.startswith(hint)


def test_the_planner_looks_at_agents_and_their_inputs() -> None:
    agents = {"worker": AgentDescription(name="worker", parameters=(AgentParameter(name="text"),))}

    found = compile_plan('do "A" with workr\ndo "B" with worker\n  txt = 1\n', agents)

    assert isinstance(found, list)
    assert [(problem.line, problem.column, problem.code, problem.hint) for problem in found] == [
        (
            1,
            13,
            "unknown_agent",
            "did you mean worker? If not, run its module: planmesh up --agents MODULE",
        ),
        (2, 1, "missing_input", "it takes text"),
        (3, 9, "unknown_input", "did you mean text?"),
    ]


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Draft report", "draft-report"),
        ("  A -- B!  ", "a-b"),
        ("Straße", "strasse"),
        ("Łódź", "lodz"),
        ("a_b", "a-b"),
        ("x" * 80, "x" * 63),
        ("日本", ""),
        ("", ""),
    ],
)
def test_names_are_made_of_labels(label: str, name: str) -> None:
    assert slug(label) == name


def test_two_labels_that_make_one_name_are_refused_with_the_way_out() -> None:
    assert wrong(f'{DO}do "it!" with worker\n') == (
        2,
        4,
        "duplicate_name",
        "a step is called 'it' already, on line 1",
        'give it another label, or a name of its own: name = "…"',
    )
    assert [step["name"] for step in steps(f'{DO}do "it!" with worker\n  name = "other"\n')] == ["it", "other"]


def test_a_label_that_makes_no_name_is_refused() -> None:
    assert wrong('do "…" with worker\n')[2:] == (
        "bad_name",
        "no name can be made of the label '…'",
        'give it one: name = "…"',
    )


def test_an_output_that_nobody_named_is_in_nobodys_way() -> None:
    text = 'input\n  review : text\ndo "Review" with a\n  a = review\ndo "Two" with a\n  -> other\ndo "Other" with a\n'

    assert [step.bound_as for step in compiled(text).plan.steps] == [
        "output_1_of_review",
        "other",
        "output_1_of_other",
    ]


def test_a_kind_is_one_function() -> None:
    assert list(KINDS) == ["do", "agent", "plan", "run", "ask", "gate", "decide", "check", "emit", "each"]


def test_every_code_that_is_given_has_a_rule() -> None:
    given = {"missing_value", *RULES, *PLANNER_RULES}

    assert all(isinstance(rule, str) and rule.endswith(".") for rule in RULES.values())
    assert {problem.code for problem in problems('do "x" with\nfoo\n')} <= given
    assert Problem(code="x", message="y").line == 0
