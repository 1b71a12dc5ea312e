"""Whatever somebody sends, they get an error with a place, soon; never a crash."""

import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripts import compiled, played

from planmesh.cli import document
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.findings import MOST, RULES
from planmesh.planner.language.format import format_script
from planmesh.planner.language.recognise import Script
from planmesh.planner.problems import RULES as PLANNER_RULES
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Draft
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.work import AgentDescription, ToolDescription

DO = 'do "It" with worker\n'
EXAMPLES = [file.read_text() for file in sorted((Path(__file__).parent / "examples").rglob("*.plan"))]
PAGE = (Path(__file__).parents[3] / "docs" / "plan-language.md").read_text()
EXAMPLES += re.findall(r"^```plan(?:-flat)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CODES = {*RULES, *PLANNER_RULES}


def looked_at(text: str) -> list[Problem]:
    """What is wrong with any text. The first time, lark builds its tables."""
    found = compile_plan(Script(text), None)
    formatted = format_script(text)
    if isinstance(formatted, str):
        assert format_script(formatted) == formatted
    if isinstance(found, Compiled):
        again = compile_plan(msgspec.to_builtins(found.plan), None)
        assert isinstance(again, Compiled), again
        assert again.plan == found.plan
        return []
    lines = text.removeprefix("\ufeff").split("\n")
    for one in found:
        assert one.code in CODES, one
        assert one.message
        assert len(one.message) < 1_000, one
        if one.line:
            assert 0 < one.line <= len(lines)
            assert 0 < one.column <= len(lines[one.line - 1]) + 2, one
        else:
            # All of the plan is meant, or the text is no text.
            assert one.code in ("too_large", "too_deep", "malformed", "more_problems"), one
    return found


looked_at(DO)

HOSTILE = {
    "nothing but brackets": f"{DO}  a = " + "[" * 100_000,
    "brackets that are closed": f"{DO}  a = " + "[" * 50_000 + "]" * 50_000,
    "many values in the deepest list": f"{DO}  a = " + "[" * 23 + "1," * 200_000 + "]" * 23,
    "parentheses": f"{DO}  a = " + "(" * 50_000 + "1" + ")" * 50_000,
    "prefix operators": 'check "C" ' + "not " * 50_000 + "a\n",
    "an expression of 40 KB": f"{DO}  a = " + "a + " * 10_000 + "a\n",
    "a path of 40 KB": f"{DO}  a = " + "a." * 20_000 + "a\n",
    "blocks inside of blocks": "\n".join(" " * depth + f"each x{depth} in y" for depth in range(1_000)),
    "one long word": "x" * 999_000,
    "one byte too many": "x" * 1_000_001,
    "empty lines": "\n" * 999_000,
    "quotes": '"' * 999_000,
    "triple quotes": '"""' * 300_000,
    "backslashes": '"' + "\\" * 900_000,
    "dashes": "-" * 999_000,
    "comments": "-- c\n" * 150_000,
    "lines that are none": "foo bar\n" * 100_000,
    "fields without a step": "".join(f"a{number} = 1\n" for number in range(55_000)),
    "one field again and again": f"{DO}" + "  a = 1\n" * 55_000,
    "a brace, and no end": f'{DO}  a = "{{x\n',
    "braces": f'{DO}  a = "' + "{" * 900_000 + '"\n',
    "holes": f'{DO}  a = "' + "{x" * 400_000 + '"\n',
    "a long text": f'{DO}  a = "' + "x" * 900_000 + '"\n  b = 1 +\n',
    "objects that are never closed": f"{DO}  a = {{\n" * 15_000,
    "a parenthesis that is never closed": f"{DO}  a = (\n" + "b c d\n" * 100_000,
    "too many steps": "".join(f'do "s{number}" with y\n' for number in range(10_001)),
    "labels": "".join(f'"L{number}":\n' for number in range(50_000)),
    "conditions": 'decide "D" with rules\n' + '  when a -> "b"\n' * 50_000,
    "tabs and spaces": DO + "\t a = 1\n \tb = 2\n" * 20_000,
    "control characters": "".join(map(chr, range(32))) * 1_000,
    "half of a pair": 'do "\ud800" with y\n',
    "right to left": 'do "\u202e\u2066" with y\n  a\u200b = 1\n',
    "a regular-expression bomb": f'{DO}  timeout = "' + "1h " * 12 + "x" + '"\n',
    "a huge number": f"{DO}  a = " + "9" * 100_000 + "\n",
    "a huge parallel": "each x in y parallel " + "9" * 5_000 + f"\n  {DO}",
    "a duration of digits": f'{DO}  timeout = "' + "1" * 100_000 + 'h"\n',
    "lets that double": "".join(f"let a{n} = a{n - 1} + a{n - 1}\n" if n else "let a0 = b\n" for n in range(3_000))
    + DO,
    "texts that double": "".join(f'let a{n} = "{{a{n - 1}}}" \n' if n else 'let a0 = "x"\n' for n in range(3_000)) + DO,
    "a label used twice": '"L":\n' * 20_000,
    "names that nobody knows": "input\n  a : text\n"
    + "".join(f'do "s{number}" with y\n  f = zz{number}\n' for number in range(2_000)),
    "steps of one name": 'do "s" with y\n' * 3_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_script_gets_an_error_soon(text: str) -> None:
    began = time.thread_time()

    found = compile_plan(Script(text), None)

    # Less than a second of this processor; what takes more than its share takes minutes.
    assert time.thread_time() - began < 10
    assert isinstance(found, list) or text.startswith("let")
    if isinstance(found, list):
        assert 0 < len(found) <= MOST
        assert all(one.code in CODES for one in found)


# --- what is said --------------------------------------------------------------------------------------------

LLM = AgentDescription(name="llm", any_parameters=True, tools=(ToolDescription(name="web_search"),))
AGENTS = {"worker": AgentDescription(name="worker", any_parameters=True), "llm": LLM}
BRANCHES = 'decide "D" with rules\n  when x -> "One"\n  otherwise -> "Two"\n"One":\n  do "A" with worker\n    -> a\n'


@pytest.mark.parametrize(
    ("text", "code", "line", "shown", "under", "hint"),
    [
        ("x" * 1_000_001, "too_large", 1, "x" * 80 + "…", "x", "pass data as inputs, or split the plan"),
        (
            f"{DO}  a = {'a + ' * 10_000}a\n",
            "bad_expression",
            2,
            f"…{'a + ' * 20}…",
            "a",
            "shorten it, or compute a part of it in a step before",
        ),
        (
            f"{DO}  a = {'[' * 100}{']' * 100}\n",
            "too_deep",
            2,
            f"  a = {'[' * 74}…",
            "[",
            "pass it as an input, or let a step put it together",
        ),
        (
            f'{DO}  timeout = "{"1h " * 12}x"\n',
            "wrong_value",
            2,
            f'  timeout = "{"1h " * 12}x"',
            '"',
            'write it like "30s", "10m", "2h", "1d" or "1h 30m"',
        ),
        (
            f'{DO}  a = "Dear {{name"\n',
            "bad_expression",
            2,
            '  a = "Dear {name"',
            "{",
            "a brace that is meant as text is doubled: {{ or }}",
        ),
        (f"{DO}  a = {{ b: 1\n  c = 2\n", "unclosed_bracket", 2, "  a = { b: 1", "{", "put a } where it ends"),
        (
            f"{DO}  a = 1\n\tb = 2\n",
            "mixed_indentation",
            3,
            " b = 2",
            " ",
            "indent all lines in the same way",
        ),
        (
            f'{BRANCHES}"Two":\n"One":\n',
            "duplicate_label",
            8,
            '"One":',
            '"',
            "give it another label",
        ),
        (f"{DO}{DO}", "duplicate_name", 2, DO.rstrip(), '"', 'give it another label, or a name of its own: name = "…"'),
        (
            BRANCHES.replace('-> "Two"', '-> "Tow"') + '"Too":\n',
            "unknown_branch",
            3,
            '  otherwise -> "Tow"',
            '"',
            "did you mean Too?",
        ),
        (
            f'{DO}  a = later.text\ndo "B" with worker\n  -> later\n',
            "read_before_bound",
            2,
            "  a = later.text",
            "l",
            "move that step above this one",
        ),
        (
            f'{BRANCHES}"Two":\n  do "B" with worker\n    b = a.text\n',
            "other_branch",
            9,
            "    b = a.text",
            "a",
            "read a binding of this branch, or one from above the branches",
        ),
        (
            'do "A" with workr\n',
            "unknown_agent",
            1,
            'do "A" with workr',
            "w",
            "did you mean worker?",
        ),
        (
            'agent "A" with llm\n  tools = ["websearch"]\n',
            "unknown_tool",
            2,
            '  tools = ["websearch"]',
            '"',
            "did you mean web_search?",
        ),
        (
            'plan "P" with llm\n  tools = ["worker", "web_serch"]\n',
            "unknown_agent",
            2,
            '  tools = ["worker", "web_serch"]',
            '"',
            "did you mean web_search?",
        ),
        (
            'each x in xs\n  do "A" with worker\n    -> a\ndo "B" with worker\n  b = a\n',
            "unknown_name",
            5,
            "  b = a",
            "a",
            "read what the each binds: the list of what its items give",
        ),
        (
            'each x in xs\ndo "A" with worker\n',
            "flat_each",
            1,
            "each x in xs",
            "e",
            "indent the steps that run for each item",
        ),
        (
            f'{BRANCHES}"Two":\n  do "B" with worker\ncheck "C" x\n  on fail: goto "One"\n',
            "backward",
            10,
            '  on fail: goto "One"',
            '"',
            "to do something again, use `on fail: retry`, `each`, or a gate that is redirected",
        ),
        (
            'run "mission.plan"\n',
            "syntax",
            1,
            'run "mission.plan"',
            '"',
            "what is run is the binding of a plan step, without quotes",
        ),
        (
            'ask "A"\n  type = "number"\n  options = ["1"]\n',
            "bad_options",
            3,
            '  options = ["1"]',
            "[",
            "leave out `type`, or the options",
        ),
    ],
)
def test_what_is_wrong_is_shown_where_it_is_with_what_to_do(
    text: str, code: str, line: int, shown: str, under: str, hint: str
) -> None:
    found = compile_plan(Script(text), AGENTS)
    assert isinstance(found, list)
    (one,) = [one for one in found if one.code == code]
    told = [said.plain for said in document.told([one], Path("broken.plan"), text)]

    assert told[0] == f"broken.plan:{line}:{one.column}  {code}"
    assert told[2].strip(" ") == shown.strip(" ") or told[2] == f"      {shown}"
    assert told[3].endswith("^")
    assert told[2][len(told[3]) - 1] == under
    assert one.hint.startswith(hint)
    assert len({problem.line for problem in found}) <= 2, "one mistake is said once"


# --- work ----------------------------------------------------------------------------------------------------


def calls(of: Callable[[], object]) -> int:
    """How many functions it calls, those written in C included: its work, whatever the machine does besides."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        of()
    finally:
        sys.setprofile(None)
    return count


def chained(name: str, steps: int) -> str:
    """Steps of every kind, each of which reads the one before it; no two scripts share an expression."""
    kinds = (
        'do "{n}" with worker\n  text = "From {{{before}.text}}"\n  of = {before}.n + {n}\n  -> {now}\n',
        'agent "{n}" with llm\n  task = "Look at {{{before}.text}}"\n  tools = ["search"]\n  -> {now}\n',
        'ask "{n}"\n  prompt = "Is {{{before}.text}} right?"\n  options = ["yes", "no"]\n  -> {now}\n',
        'plan "{n}" with llm\n  context = {before}\n  max_steps = 3\n  validate = true\n  -> p{now}\n'
        "run p{now}\n  of = {before}\n  -> {now}\n",
        'each x in {before}.items\n  do "{n}" with worker\n    text = "{{x}} of {{{before}.text}}"\n'
        "    -> y{now}\n-> {now}\n",
        'decide "{n}" with rules\n  when {before}.n > {n} -> "A{n}"\n  otherwise -> "B{n}"\n'
        '"A{n}":\n  do "a{n}" with worker\n    -> {now}\n"B{n}":\n  do "b{n}" with worker\n    -> {now}\n',
    )
    lines = [f'do "first" with worker\n  of = {name}\n  -> {name}0\n']
    lines += [kinds[n % len(kinds)].format(n=n, before=f"{name}{n - 1}", now=f"{name}{n}") for n in range(1, steps)]
    return "".join(lines)


def test_the_work_of_reading_a_script_is_in_proportion_to_its_steps() -> None:
    compiled(chained("warm", 20))

    small, large = (calls(lambda: compiled(chained(f"s{steps}_", steps))) for steps in (100, 400))  # noqa: B023

    assert large < 4.5 * small


def test_the_work_of_a_document_is_in_proportion_to_its_steps() -> None:
    def document(steps: int) -> dict[str, object]:
        tasks = [
            {"kind": "task", "name": f"s{n}", "agent": "worker", "inputs": {"a": f"{{s{n - 1}.d{steps}}}" if n else 1}}
            for n in range(steps)
        ]
        return {"name": "Chain", "steps": tasks}

    compile_plan(document(20), None)

    small, large = (calls(lambda: compile_plan(document(steps), None)) for steps in (500, 2_000))  # noqa: B023

    assert large < 4.5 * small


def test_scripts_are_read_side_by_side() -> None:
    found: list[object] = []

    def read(text: str) -> None:
        found.append([one.code for one in looked_at(text)])

    texts = [DO + f"  a = {number}\n" + "".join(EXAMPLES[:3]) for number in range(8)]
    threads = [threading.Thread(target=read, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == len(texts)
    assert all(codes == found[0] for codes in found)


# --- anything at all -------------------------------------------------------------------------------------------

PIECES = """\
script "S"|version "1"|concurrency = 3|concurrency 3|reviewer "role:operator"|ordered = true
policy = { on_failure: "fail" }
input|output|topic : text|n : list<text> = ["a"]|x = topic
do "A" with b|do "B" with c|plan "P" with llm|agent "G" with llm|run mission|ask "Q"|gate "W"|emit "E"|emit "F"
decide "D" with rules|when topic == "x" -> "L"|when a.value > 1 -> "M"|otherwise -> "M"|"L":|"M":|"N":
check "C" a.n > 1|on pass: continue|on fail: fail "no {a}"|on fail: goto "L"|on fail: retry 2|on pass: goto "M"
on error: retry 3|on error: ignore|on error: fallback t { a: 1 }
each x in xs parallel 3|each y in a.list|reviewer = "person:ada"|let z = "v {topic}"|let w = z + 1
-> a|-> b|-> mission|-> xs
task = "do {topic}"|text = a.text|prompt = \"\"\"|\"\"\"|list = [1, "x {a}", { k: z }]|after = ["A"]|name = "n"
retry = 2
timeout = "2h"
max_steps = 3|validate = true|tools = ["t"]|mode = "safe"|retries = 2|max_iterations = 4|level = "login"
escalate = "role:operator"|escalate = [{ after: "1h", to: "person:ada" }]|shares = [{ of: "person:ada" }]|default = 3
type = "number"|type = "boolean"|on_timeout = "default"|max_retries = 1|permissions = { tools: ["t"], read: ["/"] }
options = ["x", "y"]|secret = true|show = ["a.text"]|sla = "1h"|quorum = 2|result = { a: a ?? 1 }|inputs = { a: w }
a = (|b = [|c = {|d = "|e = {x|)|]|}|-- comment|# comment|a == 1|->|"|:|=|not|null|\\|	|{{|}}|é
""".replace("\n", "|").split("|")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "", "  ", "  ", "    ", "\t"]),
            st.sampled_from(PIECES),
            st.sampled_from(["", " ", " -- x"]),
        ),
        max_size=25,
    )
)
def test_no_arrangement_of_lines_is_more_than_the_compiler_can_bear(lines: list[tuple[str, str, str]]) -> None:
    looked_at("\n".join("".join(line) for line in lines))


NAMES = ["a", "b", "c", "topic", "xs"]
HEADS = [
    'do "{n}" with worker',
    'agent "{n}" with llm',
    'plan "{n}" with llm',
    "run {name}",
    'ask "{n}"',
    'gate "{n}"',
    'check "{n}" {name}.n > 1',
    "each {item} in {name}",
    'emit "{n}"',
    'decide "{n}" with rules',
]
FIELDS = [
    "of = {name}.text",
    'of = "{{{name}}} and {{{item}}}"',
    "result = {name} ?? 1",
    'prompt = "{{{name}.text}}"',
    'tools = ["search"]',
    "max_steps = 3",
    "retry = 2",
    'reviewer = "role:operator"',
    'options = ["yes", "no"]',
    'mode = "safe"',
    'timeout = "1h"',
    "on error: ignore",
    "on error: fallback other {{ of: {name} }}",
    "on fail: retry 2",
    "on fail: continue",
    'on fail: goto "{label}"',
    'after = ["1", "2"]',
]


class Writing:
    """Draws scripts that are mostly in order: steps of every kind, one inside of another."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.count = 0

    def pick(self, among: list[str]) -> str:
        return str(self.draw(st.sampled_from(among)))

    def block(self, depth: int, indent: str) -> Iterator[str]:
        for _ in range(self.draw(st.integers(1, 4))):
            yield from self.step(depth, indent)

    def step(self, depth: int, indent: str) -> Iterator[str]:
        self.count += 1
        label = f"L{self.count}"
        named = {"n": str(self.count), "label": label, "name": self.pick(NAMES), "item": f"i{self.count}"}
        head = self.pick(HEADS if depth else HEADS[:7])
        yield indent + head.format(**named)
        if head.startswith("decide"):
            yield f'{indent}  when {named["name"]} == 1 -> "{label}"'
            yield f'{indent}  otherwise -> "{label}b"'
            for branch in (label, f"{label}b"):
                yield f'{indent}"{branch}":'
                yield from self.block(depth - 1, indent + "  ")
            return
        for field in self.draw(st.lists(st.sampled_from(FIELDS), max_size=2, unique=True)):
            yield f"{indent}  {field.format(**named | {'name': self.pick(NAMES)})}"
        if head.startswith("each"):
            yield from self.block(depth - 1, indent + "  ")
        if self.draw(st.booleans()):
            yield f"{indent}-> {self.pick(NAMES)}"
        if head.startswith("check"):
            yield f'{indent}"{label}":'


@st.composite
def orderly(draw: Any) -> str:
    return "\n".join(Writing(draw).block(3, "")) + "\n"


@settings(max_examples=200, deadline=None)
@given(orderly())
def test_no_script_that_is_nearly_in_order_is_more_than_the_compiler_can_bear(text: str) -> None:
    looked_at(text)


WHATEVER: dict[str, Any] = {
    **{key: {"n": 1, "text": "x", "value": "yes"} for key in NAMES},
    "xs": [1, 2],
    "topic": 1,
}


@settings(max_examples=60, deadline=None)
@given(orderly())
def test_whatever_is_a_plan_runs_to_an_end_or_says_where_it_stands(text: str) -> None:
    found = compile_plan(Script(text), None)
    assume(isinstance(found, Compiled))
    assert isinstance(found, Compiled)
    child = {"name": "Child", "steps": [{"kind": "task", "name": "only", "agent": "worker"}]}
    plans = {step.name: child for step in found.plan.steps if isinstance(step, Draft)}

    play = played(text, {name: WHATEVER.get(name) for name in found.inputs}, plans)

    assert play.state.status in (PlanStatus.COMPLETED, PlanStatus.PAUSED, PlanStatus.CANCELLED), text
    assert play.state.status is PlanStatus.COMPLETED or play.state.reason
    play.finish()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(EXAMPLES), st.randoms(use_true_random=False))
def test_no_spoilt_example_is_more_than_the_compiler_can_bear(text: str, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(text) + 1), chance.choice([0, 1, 1, 5, 30])
        put = chance.choice(
            ["", "", '"', "{", "}", "[", "(", "->", "\n", "\n  ", "\t", "=", ":", "--", "\\", "x", '"""', "\0", "é"]
        )
        text = text[:at] + put + text[at + length :]
    looked_at(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_more_than_the_compiler_can_bear(text: str) -> None:
    looked_at(text)


def test_expressions_cannot_reach_python() -> None:
    for expression in ("a.__class__", "a.__class__.__mro__", "__import__", 'a["__class__"]', "count.__globals__"):
        plan = compiled(f"{DO}  a = {expression}\n").plan
        assert plan.steps  # they are names and fields like any others, of JSON values
