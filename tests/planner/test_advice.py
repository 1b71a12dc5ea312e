"""Advice on plans that are not wrong: scripts, and documents."""

import pytest

from planmesh.planner.advice import advise
from planmesh.planner.language.recognise import Script
from planmesh.planner.language.translate import translate

DO = 'do "It" with worker\n'
ROUTES = 'decide "D" with rules\n  when a.value == "yes" -> "Yes"\n  {rest}\n"Yes":\n  do "Go" with worker\n'


def advice(text: str) -> list[tuple[int, int, str]]:
    assert translate(text).problems == ()
    return [(one.line, one.column, one.code) for one in advise(Script(text))]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ('plan "P" with llm\n', ["plan_without_limit", "plan_not_validated"]),
        ('plan "P" with llm\n  max_steps = 3\n  validate = false\n', ["plan_not_validated"]),
        ('plan "P" with llm\n  max_steps = 3\n  validate = true\n', []),
        ('agent "A" with llm\n', ["agent_without_tools", "agent_without_limit"]),
        ('agent "A" with llm\n  tools = []\n  max_iterations = 3\n', []),
        (f"{DO}  -> x\nrun x\n  -> y\n", ["run_of_other"]),
        ('plan "P" with llm\n  max_steps = 3\n  validate = true\n  -> p\nrun p\n  -> y\n', []),
        ("run mission\n  -> y\n", ["run_of_other"]),
        ('agent "A" with llm\n  permissions = { tools: ["x"] }\n  max_iterations = 3\n', []),
        ('agent "A" with llm\n  permissions = { read: ["x"] }\n  max_iterations = 3\n', ["agent_without_tools"]),
        ('ask "A"\n', ["answer_unread"]),
        ('ask "A"\n  -> a\n', ["answer_unread"]),
        (f'ask "A"\n  -> a\n{DO}  b = a.value\n', []),
        (f'ask "A"\n  options = ["yes", "no"]\n  -> a\n{DO}  b = a.value\n', ["option_unrouted", "option_unrouted"]),
        ('ask "A"\n  options = ["yes", "no"]\n  -> a\n' + ROUTES.format(rest="-- none"), ["option_unrouted"]),
        (
            'ask "A"\n  options = ["yes", "no"]\n  -> a\n'
            + ROUTES.format(rest='otherwise -> "No"')
            + '"No":\n  do "Stop" with worker\n',
            [],
        ),
        ('ask "A"\n  options = ["yes", "no"]\n  -> a\ncheck "C" a.value == "yes"\n', []),
        ('ask "A"\n  -> a\ncheck "C" a == "yes"\n', ["answer_compared"]),
        ('ask "A"\n  -> a\ncheck "C" true and "yes" == a\n', ["answer_compared"]),
        ('ask "A"\n  -> a\ncheck "C" a in ["yes", "ja"]\n', ["answer_compared"]),
        ('ask "A"\n  -> a\ncheck "C" a == null or b.a == "yes"\n', []),
        ('ask "A"\n  -> a\n' + ROUTES.format(rest='when a == "no" -> "Yes"'), ["answer_compared"]),
        (f'{DO}  a = "Dear {{x}}" + y\n', ["braces_in_expression"]),
        (f'check "C" x == "{{y}}"\n{DO}', ["braces_in_expression"]),
        (f'{DO}  a = "Dear {{x}}"\n', []),
    ],
)
def test_what_could_be_better(text: str, codes: list[str]) -> None:
    assert [code for _, _, code in advice(text)] == codes


@pytest.mark.parametrize(
    ("label", "prompt", "is_secret"),
    [
        ("Enter API key", "", True),
        ("Access", "What is your password?", True),
        ("Access", "Paste the token here.", True),
        ("Access", "Which credentials?", True),
        ("Enter the licence key", "", True),
        ("Your PIN?", "", True),
        ("Choose a keyboard", "Which one?", False),
        ("Spin it?", "Which key on the map?", False),
        ("Tokenise?", "Really?", False),
    ],
)
def test_a_question_for_a_secret_keeps_the_answer_out_of_the_log(label: str, prompt: str, is_secret: bool) -> None:
    text = f'ask "{label}"\n  prompt = "{prompt}"\n  {{secret}}\n  -> a\n{DO}  b = a.value\n'

    assert advice(text.format(secret="-- nothing")) == ([(1, 1, "secret_in_log")] if is_secret else [])
    assert advice(text.format(secret="secret = true")) == []


def test_advice_says_where_it_is_about() -> None:
    assert advice(f'ask "A"\n  options = ["yes",\n    "no"]\n  -> a\n{DO}  b = a.value\n') == [
        (2, 14, "option_unrouted"),
        (3, 5, "option_unrouted"),
    ]


def test_inside_of_branches_and_bodies_advice_is_given_as_well() -> None:
    text = 'check "C" x\n  on fail: goto "B"\n"B":\n  each y in ys\n    agent "A" with llm\n      tools = []\n'

    assert advice(text) == [(5, 5, "agent_without_limit")]


DOCUMENT = """\
name: Doubts
steps:
  - {kind: plan, name: think, max_steps: 3}
  - {kind: run, name: do, document: "{}"}
  - kind: each
    name: all
    items: do.result
    steps:
      - {kind: agent, name: look, inputs: {task: "{item}", max_iterations: 3}}
      - {kind: ask, name: sure, prompt: "The password?", options: ["yes", "no"]}
      - {kind: decide, name: route, cases: [{when: 'sure.value == "yes"', then: "on"}]}
"""


def test_documents_get_advice_as_well() -> None:
    found = [(one.code, one.pointer) for one in advise(DOCUMENT.replace('"{}"', "think"))]

    assert found == [
        ("plan_not_validated", "/steps/0"),
        ("agent_without_tools", "/steps/2/steps/0"),
        ("option_unrouted", "/steps/2/steps/1/options/1"),
        ("secret_in_log", "/steps/2/steps/1"),
    ]
    assert "run_of_other" in [one.code for one in advise(DOCUMENT.replace('"{}"', "other"))]


def test_advice_says_what_to_write_where_it_is_given() -> None:
    (in_script,) = advise(Script('agent "A" with llm\n  max_iterations = 3\n'))
    (in_document,) = advise(
        {"name": "x", "steps": [{"kind": "agent", "name": "a", "inputs": {"task": "b", "max_iterations": 3}}]}
    )

    assert in_script.hint == 'name them: tools = ["…"], or tools = []'
    assert in_document.hint == "name them in `permissions`, under `tools`; the list may be empty"


@pytest.mark.parametrize(
    "document", ["", "[", "name: x", {"name": "x", "steps": [3]}, {"steps": {}}, "steps: [{}]", None]
)
def test_what_is_no_plan_gets_none(document: object) -> None:
    assert advise(document) == []


def test_a_script_that_is_wrong_is_mended_first() -> None:
    text = 'do "A" with worker\n  -> report\nagent "B" with llm\n  a = reprot\n  retry = "x"\n'

    assert [one.code for one in advise(Script(text))] == ["name_like_binding"]
