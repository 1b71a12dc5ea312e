"""A script is told from YAML and JSON by how it begins."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from scripts import AGENTS

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.goals import consider
from planmesh.planner.language.recognise import Script, is_script
from planmesh.schemas.commands import CreatePlan, RefuseGoal
from planmesh.schemas.goals import Goal

EXAMPLES = [file.read_text() for file in sorted((Path(__file__).parent / "examples").rglob("*.plan"))]
ROOT = Path(__file__).parents[3]
DOCUMENTS = [file.read_text() for pattern in ("docs/**/*.yaml", "planmesh/demo/*.yaml") for file in ROOT.glob(pattern)]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_script(text: str) -> None:
    assert is_script(text)
    assert is_script("\ufeff# a comment\n\n-- another\n" + text)
    assert is_script("# a comment\r\n\r\n" + text.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    "text",
    [
        'do "A: b" with c',
        "input\n  a : text",
        "output",
        "concurrency = 3",
        "concurrency 3",
        'aks "Review"',
        "let x = {a: 1}",
        "each x in y",
        "-- only a comment",
        "do Something with x",
        Script("anything: at all"),
    ],
)
def test_these_begin_like_scripts(text: str) -> None:
    assert is_script(text)


@pytest.mark.parametrize(
    "text",
    [
        *DOCUMENTS,
        "",
        "# nothing\n",
        "name: x\nsteps: []",
        '{"name": "x"}',
        "[1]",
        "---\nname: x",
        "--- \nname: x",
        '"name": x',
        "plan: x",
        "run: x",
        "do it: now",
        "input: {a: 1}",
        "- a",
        "? a",
        "hello",
        "a: b = c",
        'a "b": c',
        b'do "A" with b',
        {"name": "x"},
        None,
    ],
)
def test_these_do_not(text: object) -> None:
    assert not is_script(text)


def test_a_plan_document_may_be_a_script() -> None:
    assert isinstance(compile_plan(EXAMPLES[0].replace("agent ", "do "), None), Compiled)


def test_a_goal_may_carry_a_script() -> None:
    goal = Goal(plan='do "It" with worker\n  text = "about {topic}"\n', inputs={"topic": "bees"})

    command = consider(msgspec.json.encode(goal), AGENTS)

    assert isinstance(command, CreatePlan)
    assert [step.name for step in command.plan.steps] == ["it"]
    assert command.inputs == {"topic": "bees"}


def test_a_goal_whose_script_is_wrong_is_refused_with_places() -> None:
    goal = Goal(plan='do "It" with workr\n  text = 1 +\n')

    command = consider(msgspec.json.encode(goal), AGENTS)

    assert isinstance(command, RefuseGoal)
    assert [(one.line, one.column, one.code) for one in command.problems] == [
        (1, 14, "unknown_agent"),
        (2, 13, "bad_expression"),
    ]


def test_whoever_reads_no_script_does_not_load_what_reads_them() -> None:
    code = (
        "import sys, planmesh.planner.service, planmesh.cli.document;"
        "from planmesh.planner.compile import compile_plan;"
        "compile_plan('name: x', None);"
        "print([name for name in sys.modules if name.split('.')[0] == 'lark' or name.endswith('.translate')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"
