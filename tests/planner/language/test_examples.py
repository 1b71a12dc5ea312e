"""The examples that the language was described with, in both forms."""

from pathlib import Path
from typing import Any

import pytest
from scripts import compiled, document, played

from planmesh.planner.advice import advise
from planmesh.planner.language.format import format_script
from planmesh.planner.language.recognise import Script
from planmesh.schemas.events import AskOpened, PlanCompleted

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.plan"))
HUMAN_IN_THE_LOOP = (Path(__file__).parent / "examples" / "human-in-the-loop.plan").read_text()
FLAT_HUMAN_IN_THE_LOOP = (Path(__file__).parent / "examples" / "flat" / "human-in-the-loop.plan").read_text()


def flat(example: Path) -> str:
    return (example.parent / "flat" / example.name).read_text()


def steps(name: str) -> list[dict[str, Any]]:
    (example,) = [one for one in EXAMPLES if one.stem == name]
    return list(document(example.read_text())["steps"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_both_forms_are_one_plan(example: Path) -> None:
    assert document(flat(example)) == document(example.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_example_is_a_plan_that_can_run(example: Path) -> None:
    assert compiled(example.read_text()).plan == compiled(flat(example)).plan


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_flat_form_is_formatted_to_the_indented_one(example: Path) -> None:
    assert format_script(flat(example)) == example.read_text() == format_script(example.read_text())


def test_a_plan_step_has_its_fields_and_hands_on_those_that_it_does_not_know() -> None:
    assert steps("plan") == [
        {
            "kind": "plan",
            "name": "generate-execution-plan",
            "label": "Generate execution plan",
            "binding": "mission",
            "inputs": {"task": "{task}", "context": "{codebase_summary.text}", "model": "gpt-4o"},
            "agents": ["file_read", "grep", "shell_exec", "file_write"],
            "max_steps": 10,
            "strict": True,
        }
    ]
    (form,) = steps("plan-form")
    assert form["inputs"] == {"task": "Label", "field": "{expr}", "field2": "{expr}"}


def test_a_run_is_named_after_what_it_binds() -> None:
    assert steps("run") == [
        {"kind": "run", "name": "run-execution-result", "binding": "execution_result", "document": "mission"}
    ]
    (with_inputs,) = steps("run-with-inputs")
    assert (with_inputs["mode"], with_inputs["retries"]) == ("safe", 2)


def test_an_agent_has_its_task_and_tools() -> None:
    (agent,) = steps("agent")

    assert agent["permissions"] == {"tools": ["web_search", "fetch_url"]}
    assert agent["inputs"] == {
        "system": "You are a thorough research analyst.",
        "task": "Research topic: {topic}.",
        "max_iterations": 8,
        "temperature": 0.4,
    }


def test_questions_have_types_options_and_times() -> None:
    (review,) = steps("ask-options")
    threshold, enabled = steps("ask-number-and-boolean")

    assert (review["options"], review["sla_s"], review["max_retries"]) == (["approve", "revise", "reject"], 7200, 2)
    assert (threshold["type"], threshold["default"]) == ("number", 80)
    assert (enabled["type"], enabled["default"]) == ("boolean", True)
    assert enabled["after"] == ["set-threshold"]


def test_names_that_nothing_binds_are_inputs() -> None:
    assert document(HUMAN_IN_THE_LOOP)["inputs"] == {"topic": {}}


@pytest.mark.parametrize(
    ("answer", "outcome", "result"),
    [
        ("approve", "Approved", "a report"),
        ("request_changes", "Revised", "a better report"),
        ("reject", "Rejected", "Rejected by reviewer"),
    ],
)
@pytest.mark.parametrize("form", ["indented", "flat"])
def test_the_human_in_the_loop_comes_to_each_of_its_ends(answer: str, outcome: str, result: str, form: str) -> None:
    text = HUMAN_IN_THE_LOOP if form == "indented" else FLAT_HUMAN_IN_THE_LOOP
    outputs = {
        "draft-report": {"text": "a report"},
        "approve-report": answer,
        "provide-edits": "shorter",
        "revise-report": {"text": "a better report"},
    }

    play = played(text, {"topic": "bees"}, outputs)

    (end,) = play.of_type(PlanCompleted)
    assert (end.outcome, end.result.value) == (outcome, result)
    asked = [one.prompt for one in play.of_type(AskOpened)]
    assert asked == ["Approve this report?\n\na report", "What should change?"][: len(asked)]
    assert len(asked) == (2 if outcome == "Revised" else 1)


def test_the_examples_get_the_advice_of_whoever_described_them() -> None:
    given = {example.stem: [one.code for one in advise(Script(example.read_text()))] for example in EXAMPLES}

    assert given["plan"] == []
    assert given["run"] == ["run_of_other"]
    assert given["plan-form"] == ["plan_without_limit", "plan_not_validated"]
    assert given["agent"] == []
    assert given["ask-text"] == ["answer_unread", "secret_in_log"]
    assert given["human-in-the-loop"] == ["agent_without_tools", "agent_without_limit"] * 2
