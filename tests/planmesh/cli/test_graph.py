"""Drawings of plans."""

from pathlib import Path

import pytest

from planmesh.cli import main
from planmesh.cli.graph import mermaid, tree
from planmesh.schemas.plan import (
    Agent,
    Ask,
    Branch,
    Case,
    Check,
    Decide,
    Draft,
    Each,
    Emit,
    Gate,
    Permissions,
    Plan,
    Run,
    Task,
)
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


EVERY_KIND = Plan(
    name="Every kind",
    steps=(
        Draft(name="think", max_steps=1, agents=("search",)),
        Run(name="run-it", document="think", mode="safe", after=("think",)),
        Each(
            name="all",
            items="run_it.result",
            item="url",
            parallel=3,
            after=("run-it",),
            steps=(
                Task(name="fetch", agent="fetcher", accept="fetch.n > 0"),
                Gate(name="look", after=("fetch",)),
                Decide(name="kept", label="Kept", cases=(Case(when="true", then="kept"),), after=("look",)),
            ),
        ),
        Ask(name="which", options=("first", "last"), secret=True, reviewers=("person:ada",), after=("all",)),
        Ask(name="many", type="number", after=("all",)),
        Agent(name="write", permissions=Permissions(tools=("read",)), after=("which", "many")),
        Agent(name="bare", after=("write",)),
    ),
)


def test_text_says_what_steps_of_each_kind_do_and_what_is_done_for_each_item() -> None:
    statuses = {"fetch_1": StepStatus.COMPLETED, "fetch_2": StepStatus.COMPLETED, "fetch_3": StepStatus.DISPATCHED}

    assert [line.plain.rstrip() for line in tree(EVERY_KIND, {})][2:] == [
        "  think      plan of at most 1 step with search",
        "  run-it     run think, if it is safe                           after think",
        "  all        each url in run_it.result, 3 at once               after run-it",
        "    ┊ fetch  fetcher  until fetch.n > 0",
        "    ┊ look   gate for role:operator                             after fetch",
        "    ┊ kept   → Kept                                             after look",
        "  ├─ which   question of person:ada: first | last, kept secret  after all",
        "  └─ many    question: a number                                 after all",
        "  write      llm with read                                      after which and many",
        "  bare       llm without tools                                  after write",
    ]
    assert "2 completed, 1 running" in tree(EVERY_KIND, statuses)[5].plain


def test_mermaid_draws_the_body_of_an_each_inside_of_it() -> None:
    assert mermaid(EVERY_KIND, {"all": StepStatus.COMPLETED}).splitlines() == [
        "flowchart TD",
        '    s0[["think<br>plan of at most 1 step with search"]]',
        '    s1[["run-it<br>run think, if it is safe"]]',
        '    subgraph s2["all<br>each url in run_it.result, 3 at once"]',
        '        s2_0["fetch<br>fetcher"]',
        '        s2_1{{"look"}}',
        '        s2_2{"kept<br>Kept"}',
        "        s2_0 --> s2_1",
        "        s2_1 --> s2_2",
        "    end",
        '    s3[/"which<br>question of person:ada: first #124; last, kept secret"/]',
        '    s4[/"many<br>question: a number"/]',
        '    s5("write<br>llm")',
        '    s6("bare<br>llm")',
        "    s0 --> s1",
        "    s1 --> s2",
        "    s2 --> s3",
        "    s2 --> s4",
        "    s3 --> s5",
        "    s4 --> s5",
        "    s5 --> s6",
        "    classDef completed fill:#d7f0dd,stroke:#2e7d46",
        "    class s2 completed",
    ]


def test_a_file_is_drawn_without_a_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[3] / "planmesh" / "demo" / "audit.yaml"

    assert main(["graph", str(file)]) == 0
    drawn = capsys.readouterr().out
    assert "├─ licences" in drawn
    assert "└─ requirements" in drawn
