"""Whom gates and asks name, and what asks ask: everything that could not work is a problem of the plan."""

from typing import Any

import pytest

from planmesh.directory import Directory
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.schemas.plan import Ask, Gate

DIRECTORY = Directory.model_validate(
    {
        "people": {"ada": {}, "grace": {}, "lin": {}},
        "roles": {"cfo": {"members": ["ada"]}},
        "teams": {"legal": {"members": ["ada", "grace"]}},
    }
)


def found(step: dict[str, Any], directory: Directory | None = DIRECTORY) -> list[tuple[str, str]]:
    compiled = compile_plan({"name": "P", "steps": [step]}, {}, directory=directory)
    return [] if isinstance(compiled, Compiled) else [(one.code, one.pointer) for one in compiled]


def gate(**fields: Any) -> dict[str, Any]:
    return {"kind": "gate", "name": "g", **fields}


def ask(**fields: Any) -> dict[str, Any]:
    return {"kind": "ask", "name": "q", **fields}


@pytest.mark.parametrize(
    "step",
    [
        gate(reviewers=["role:cfo", "team:legal"], shares=[{"of": "role:cfo"}, {"of": "team:legal"}]),
        gate(reviewers=["role:operator"], quorum=5, shares=[{"of": "role:operator", "count": 3}]),
        gate(reviewers=["person:ada", "service:billing"], quorum=2),
        gate(
            reviewers=["person:lin"],
            escalate=[{"after_s": 60, "to": ["role:cfo"]}, {"after_s": 61, "to": ["person:ada"]}],
        ),
        ask(),
        ask(reviewers=["service:billing", "team:legal"], prompt="How many?", type="number", default=2.5),
        ask(options=["yes", "no"], default="no", on_overdue="default", sla_s=60),
        ask(type="boolean", default=False, on_overdue="default"),
    ],
)
def test_what_can_be_answered_is_no_problem(step: dict[str, Any]) -> None:
    assert found(step) == []


@pytest.mark.parametrize(
    ("step", "problems"),
    [
        (gate(escalate=[{"after_s": 60, "to": ["role:cfoo"]}]), [("unknown_reviewer", "/steps/0/escalate/0/to/0")]),
        (gate(escalate=[{"after_s": 60, "to": []}]), [("invalid_value", "/steps/0/escalate/0/to")]),
        (
            gate(escalate=[{"after_s": 60, "to": ["role:cfo"]}, {"after_s": 60, "to": ["person:lin"]}]),
            [("bad_escalation", "/steps/0/escalate/1/after_s")],
        ),
        (gate(shares=[{"of": "role:cfo"}]), [("not_a_reviewer", "/steps/0/shares/0/of")]),
        (
            gate(reviewers=["role:cfo"], shares=[{"of": "role:cfo", "count": 2}]),
            [("too_few_reviewers", "/steps/0/shares")],
        ),
        (  # Ada alone is both
            gate(reviewers=["role:cfo", "person:ada"], shares=[{"of": "role:cfo"}, {"of": "person:ada"}]),
            [("too_few_reviewers", "/steps/0/shares")],
        ),
        (gate(reviewers=["team:legal", "service:billing"], quorum=4), [("too_few_reviewers", "/steps/0/quorum")]),
        (ask(reviewers=["team:legall"]), [("unknown_reviewer", "/steps/0/reviewers/0")]),
        (ask(type="number", default="2"), [("wrong_default", "/steps/0/default")]),
        (ask(type="number", default=True), [("wrong_default", "/steps/0/default")]),
        (ask(options=["yes", "no"], default="maybe"), [("wrong_default", "/steps/0/default")]),
        (
            ask(options=["yes", "yes", " "]),
            [("bad_options", "/steps/0/options/1"), ("bad_options", "/steps/0/options/2")],
        ),
        (ask(type="number", options=["1", "2"]), [("bad_options", "/steps/0/options")]),
        (ask(on_overdue="default"), [("no_default", "/steps/0/on_overdue")]),
        (ask(secret=True, type="number"), [("secret_answer", "/steps/0/type")]),
        (ask(secret=True, options=["a", "b"]), [("secret_answer", "/steps/0/options")]),
        (ask(secret=True, default="a"), [("secret_answer", "/steps/0/default")]),
        (ask(secret=True, on_overdue="default"), [("no_default", "/steps/0/on_overdue")]),
        (ask(type="integer"), [("invalid_value", "/steps/0/type")]),
        (ask(timeout=5), [("unknown_field", "/steps/0/timeout")]),
        (ask(prompt="{nobody}"), [("unknown_name", "/steps/0/prompt")]),
    ],
)
def test_what_cannot_be_answered_is_a_problem_where_it_stands(
    step: dict[str, Any], problems: list[tuple[str, str]]
) -> None:
    assert found(step) == problems


def test_an_ask_waits_for_what_its_prompt_reads_and_what_reads_it_waits_for_the_answer() -> None:
    document = {
        "name": "P",
        "steps": [
            {"kind": "emit", "name": "end", "outcome": "Done", "result": "{q.value}"},
            ask(prompt="Is {report.text} right?"),
            {"kind": "task", "name": "report", "agent": "writer"},
        ],
    }

    compiled = compile_plan(document, None)

    assert isinstance(compiled, Compiled)
    assert [step.after for step in compiled.plan.steps] == [("q",), ("report",), ()]


def test_a_document_in_yaml_says_the_same() -> None:
    document = """
name: P
steps:
  - kind: ask
    name: threshold
    prompt: Which threshold?
    type: number
    default: 80
    reviewers: [role:cfo]
    escalate: [{after_s: 3600, to: [team:legal]}]
  - kind: gate
    name: release
    reviewers: [role:cfo, team:legal]
    shares: [{of: role:cfo}, {of: team:legal}]
    after: [threshold]
"""

    compiled = compile_plan(document, None, directory=DIRECTORY)

    assert isinstance(compiled, Compiled)
    question, release = compiled.plan.steps
    assert isinstance(question, Ask)
    assert (question.default, question.escalate[0].to) == (80, ("team:legal",))
    assert isinstance(release, Gate)
    assert (release.approvals, release.least_level) == (2, "login")


def test_a_service_that_the_mesh_does_not_have_is_a_problem_with_the_nearest_name() -> None:
    known = DIRECTORY.with_services(["billing", "shop"])
    step = ask(reviewers=["service:billing", "service:biling", "person:ada"])

    compiled = compile_plan({"name": "P", "steps": [step]}, {}, directory=known)

    assert isinstance(compiled, list)
    assert [(one.pointer, one.message, one.hint) for one in compiled] == [
        ("/steps/0/reviewers/1", "there is no service called 'biling'", "did you mean service:billing?")
    ]
    assert found(step) == []  # where nobody says which services there are
    assert found(gate(reviewers=["service:zzz"]), Directory().with_services([])) == [
        ("unknown_reviewer", "/steps/0/reviewers/0")
    ]
    assert DIRECTORY.services is None
