"""What docs/agents.md shows works as it stands there."""

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from model_server import calls, gives, model_server

from planmesh.agents import find

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = {re.match(r"# (\w+\.py)\n", text)[1]: text for kind, text in BLOCKS if kind == "python"}  # type: ignore[index]
(PLAN,) = (text for kind, text in BLOCKS if kind == "plan")
COMMANDS = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's folder, with everything of the page in it."""
    for name, text in PYTHON.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "shop.plan").write_text(PLAN)
    return tmp_path


async def run(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "planmesh.cli", "--data-dir", str(folder / "data"), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def command(verb: str) -> list[str]:
    (line,) = (line for line in COMMANDS if line.startswith(f"planmesh {verb} "))
    return shlex.split(line)[1:]


def test_every_block_is_one_that_the_tests_here_know() -> None:
    assert sorted(PYTHON) == ["careful_agents.py", "shop_agents.py", "shop_tools.py"]
    assert {kind for kind, _ in BLOCKS} == {"python", "plan", "console"}
    assert [line.split()[0] for line in COMMANDS] == ["planmesh", "planmesh", "pip", "export", "planmesh"]


def test_its_agents_and_tools_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    for name in PYTHON:
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)

    found = find([name.removesuffix(".py") for name in PYTHON], entry_point=False)

    assert sorted(found) == ["check-all", "count-words", "place-order"]
    assert sorted(found["check-all"].tools or ()) == ["in_stock", "reorder"]


async def test_the_plan_runs_with_the_model_and_the_tools(folder: Path) -> None:
    script = (
        calls(("in_stock", {"item": "teas"})),
        calls(("in_stock", {"item": "tea"}), ("erase_everything", {})),
        gives({"ordered": False, "why": "there are twelve"}),
    )
    with model_server(*script) as model:
        code, out, err = await run(folder, *command("run"), "-o", "jsonl", **model.environment())

    assert code == 0, err
    happened = [event for line in out.splitlines() for event in json.loads(line)["events"]]
    (completed,) = (
        event for event in happened if event["type"] == "step.completed" and event["step"] == "look-after-the-stock"
    )
    (denied,) = (event for event in happened if event["type"] == "step.permission_denied")
    (ended,) = (event for event in happened if event["type"] == "plan.completed")
    assert denied["what"] == "tool erase_everything"
    assert [call["name"] for call in completed["calls"] if call["kind"] == "tool"] == ["in_stock", "in_stock"]
    assert ended["result"]["value"] == {"ordered": False, "why": "there are twelve"}
    assert "there is no such item; there are: tea, sugar" in model.said()
    assert "How many of an item there are." in json.dumps(model.requests[0]["tools"])


async def test_the_example_of_a_digest_runs_and_reads_nothing_else(folder: Path) -> None:
    for name in ("digest.plan", "notes_tools.py"):
        (folder / name).write_text((ROOT / "docs" / "examples" / name).read_text("utf-8"))
    (folder / "notes").mkdir()
    (folder / "notes" / "monday.md").write_text("The bridge is closed.")
    (folder / "secret.txt").write_text("hunter2")
    outside = [{"path": "/etc/passwd"}, {"path": "../../x.md"}, {"path": "secret.txt"}]
    script = (
        calls(("list_notes", {"folder": "notes"})),
        calls(("read_note", {"path": "notes/monday.md"}), *(("read_note", one) for one in outside)),
        gives({"sentences": ["The bridge is closed."]}),
    )
    with model_server(*script) as model:
        verb = ("run", "digest.plan", "--local", "--agents", "planmesh.llm", "--agents", "notes_tools")
        code, out, err = await run(folder, *verb, "--input", "folder=notes", "-o", "jsonl", **model.environment())

    assert code == 0, err
    ended = json.loads(out.splitlines()[-1])["events"][-1]
    assert (ended["outcome"], ended["result"]["value"]) == ("Digest", "The bridge is closed.")
    told = [message["content"] for message in model.requests[-1]["messages"] if message["role"] == "tool"]
    assert told[:2] == ['["notes/monday.md"]', "The bridge is closed."]
    assert ["only what is below" in told[2], "only what is below" in told[3], "is no note" in told[4]] == [True] * 3


async def test_a_tool_that_nobody_has_is_named_before_anything_runs(folder: Path) -> None:
    (folder / "wrong.plan").write_text(PLAN.replace('"in_stock"', '"in_stok"'))
    agents = ("--agents", "planmesh.llm", "--agents", "shop_tools")

    right, *_ = await run(folder, "validate", "shop.plan", *agents)
    wrong, out, err = await run(folder, "validate", "wrong.plan", *agents)

    assert (right, wrong) == (0, 1)
    assert "the agent 'llm' has no tool 'in_stok'" in out + err
    assert "did you mean in_stock?" in out + err


async def test_agents_of_the_page_run_steps(folder: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"kind": "task", "name": "count", "agent": "count-words", "inputs": {"text": "one two"}},
        {"kind": "task", "name": "order", "agent": "place-order", "inputs": {"item": "{count.words} teas"}},
        {
            "kind": "task",
            "name": "check",
            "agent": "check-all",
            "inputs": {"items": ["tea", "salt"]},
            "permissions": {"tools": ["in_stock"]},
        },
    ]
    (folder / "all.json").write_text(json.dumps({"name": "All", "steps": steps}))
    modules = [word for name in PYTHON for word in ("--agents", name.removesuffix(".py"))]

    code, out, err = await run(folder, "run", "all.json", "--local", *modules, "-o", "jsonl")

    assert code == 0, err
    happened = [event for line in out.splitlines() for event in json.loads(line)["events"]]
    outputs = {event["step"]: event["output"]["value"] for event in happened if event["type"] == "step.completed"}
    assert outputs["check"] == {
        "tea": "in_stock: 12",
        "salt": "there is no such item; there are: tea, sugar",
    }
    assert outputs["order"] == {"ordered": "2 teas"}
    assert (folder / "orders.txt").read_text().endswith(".order.1 2 teas\n")
