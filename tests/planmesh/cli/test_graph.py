"""Drawings of plans."""

from pathlib import Path

import pytest

from planmesh.cli import main
from planmesh.cli.graph import mermaid, tree
from planmesh.schemas.plan import Branch, Check, Emit, Gate, Plan, Task
from planmesh.schemas.state import StepStatus

PLAN = Plan(
    name="A plan",
    steps=(
        Task(name="read", agent="reader", label='Say "hi" <b>'),
        Check(name="fine", condition="read.n > 0", on_fail="continue", after=("read",)),
        Gate(name="ok", after=("read", "fine"), branch=Branch(step="fine", label="pass"), optional=True),
        Emit(name="end", after=("ok",), outcome="Done"),
    ),
)


def test_text_says_what_each_step_is_and_needs() -> None:
    assert [line.plain.split() for line in tree(PLAN, {})][2:] == [
        ["read", "reader"],
        ["fine", "check", "read.n", ">", "0", "after", "read"],
        [
            "ok",
            "gate",
            "for",
            "role:operator",
            "if",
            "fine",
            "says",
            "pass",
            "optional",
            "after",
            "read",
            "and",
            "fine",
        ],
        ["end", "→", "Done", "after", "ok"],
    ]
    assert {line.plain.index("after") for line in tree(PLAN, {}) if "after" in line.plain} == {61}


def test_mermaid_has_a_node_a_step_and_no_edge_that_others_imply() -> None:
    assert mermaid(PLAN, {"read": StepStatus.COMPLETED}).splitlines() == [
        "flowchart TD",
        '    s0["read<br>Say #34;hi#34; #60;b#62;<br>reader"]',
        '    s1{"fine"}',
        '    s2{{"ok"}}',
        '    s3(["end"])',
        "    s0 --> s1",
        '    s1 -->|"pass"| s2',
        "    s2 --> s3",
        "    classDef completed fill:#d7f0dd,stroke:#2e7d46",
        "    class s0 completed",
    ]


def test_a_file_is_drawn_without_a_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[3] / "planmesh" / "demo" / "audit.yaml"

    assert main(["graph", str(file)]) == 0
    drawn = capsys.readouterr().out
    assert "├─ licences" in drawn
    assert "└─ requirements" in drawn
