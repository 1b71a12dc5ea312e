"""How fast plans are read: without a mesh, and with nothing cached but lark's tables."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.language.format import format_script
from planmesh.planner.language.recognise import Script
from planmesh.schemas.expressions import Expression, evaluate, parse

_KINDS = (
    'do "{n}" with worker\n  text = "From {{{before}.text}}"\n  of = {before}.n + {n}\n  -> {now}\n',
    'do "{n}" with worker\n  text = {before}.text ?? "none"\n  retry = 2\n  -> {now}\n',
    'agent "{n}" with llm\n  task = "Look at {{{before}.text}}"\n  tools = ["search"]\n  -> {now}\n',
    'ask "{n}"\n  prompt = "Is {{{before}.text}} right?"\n  options = ["yes", "no"]\n  -> {now}\n',
    'gate "{n}"\n  prompt = "Go on with {{{before}.text}}?"\n  show = ["{before}.text"]\n  -> {now}\n',
    'check "{n}" {before}.n > {n}\n  on fail: continue\n  -> {now}\n',
    'plan "{n}" with llm\n  context = {before}\n  max_steps = 3\n  validate = true\n  -> {now}\n',
    'run {before}\n  name = "r{n}"\n  of = {n}\n  -> {now}\n',
)
_EXPRESSION = 'decision.value == "approve" and count(report.sources) >= {least}'
_NAMES = {"decision": {"value": "approve"}, "report": {"sources": ["a", "b", "c", "d"]}}


def script(name: str, steps: int) -> str:
    """A script in which each step reads the one before it. Scripts of two names share no expression."""
    lines = [f'do "first" with worker\n  about = {name}\n  -> {name}0\n']
    lines += [_KINDS[n % len(_KINDS)].format(n=n, before=f"{name}{n - 1}", now=f"{name}{n}") for n in range(1, steps)]
    return "".join(lines)


def document(name: str, steps: int) -> str:
    """The same in JSON."""
    tasks = [
        {
            "kind": "task",
            "name": f"{name}{n}",
            "agent": "worker",
            "inputs": {"text": f"From {{{name}{n - 1}.text}}", "of": n} if n else {"of": 0},
        }
        for n in range(steps)
    ]
    return json.dumps({"name": "Chain", "steps": tasks})


def language(repeat: int) -> dict[str, Any]:
    """All of it; the median of *repeat* runs, in milliseconds and microseconds."""
    _compiled(Script(script("warm", 20)))
    small = [_ms(lambda: _compiled(Script(script(f"s{n}_", 1_000)))) for n in range(repeat)]  # noqa: B023
    large = [_ms(lambda: _compiled(Script(script(f"l{n}_", 10_000)))) for n in range(1)]  # noqa: B023
    formatted = [_ms(lambda: format_script(script("f", 1_000))) for _ in range(repeat)]
    validated = [_ms(lambda: _compiled(document(f"d{n}-", 10_000).replace("-", "_"))) for n in range(repeat)]  # noqa: B023
    parsed, evaluated = [], []
    for n in range(repeat):
        texts = [_EXPRESSION.format(least=n * 1_000 + least) for least in range(1_000)]
        read: list[Expression] = []
        parsed.append(_ms(lambda: read.extend(map(parse, texts))))  # noqa: B023
        evaluated.append(_ms(lambda: [evaluate(one, _NAMES) for one in read]))  # noqa: B023
    return {
        "script_of_1000_steps_ms": round(statistics.median(small)),
        "script_of_10000_steps_ms": round(statistics.median(large)),
        "format_1000_steps_ms": round(statistics.median(formatted)),
        "json_of_10000_steps_ms": round(statistics.median(validated)),
        "expression_parsed_us": round(statistics.median(parsed), 1),  # of a thousand, in milliseconds
        "expression_evaluated_us": round(statistics.median(evaluated), 1),
        "runs": [round(one) for one in (*small, *validated)],
    }


def _compiled(document: object) -> None:
    found = compile_plan(document, None)
    if not isinstance(found, Compiled):
        raise RuntimeError(f"no plan: {found[0]}")


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1_000
