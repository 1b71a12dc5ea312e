"""Verbs that need a mesh, on a real one."""

import asyncio
import hashlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import yaml

from planmesh import administration
from planmesh.cli import COMPLETED, FAILED, INTERRUPTED, WAITING, gates, plans, run, steer
from planmesh.cli.session import NotUnderstood, Output, Session
from planmesh.errors import PlanmeshError
from planmesh.operator import QueryRefused
from planmesh.schemas.events import GENESIS
from planmesh.supervision import local_mesh

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("command line on a mesh")]

AGENTS = """
from planmesh import Context, Rejected, agent

@agent(idempotent=True)
def greet(who: str) -> dict:
    if who == "nobody":
        raise Rejected("nobody is there \\x1b[31m")
    return {"text": f"Hello, {who}!"}

@agent(idempotent=True)
def send(text: str, context: Context) -> dict:
    context.progress("on its way")
    return {"sent": text}

@agent(idempotent=True)
def give(value) -> object:
    return value

@agent(idempotent=True)
def sleep(seconds: float, context: Context) -> None:
    context.cancelled.wait(seconds)
"""


def document(*steps: dict[str, Any]) -> str:
    inputs = {"who": {"type": "text", "default": "world"}}
    return json.dumps({"version": 1, "name": "Greet someone", "inputs": inputs, "steps": steps})


GREET = {"kind": "task", "name": "greet", "agent": "greet", "inputs": {"who": "{who}"}, "optional": True}
GATE = {"kind": "gate", "name": "agree", "prompt": "Send this?", "show": ["{greet.text}"]}
SEND = {"kind": "task", "name": "send", "agent": "send", "after": ["agree"], "inputs": {"text": "{greet.text}"}}
SLEEP = {"kind": "task", "name": "sleep", "agent": "sleep", "inputs": {"seconds": 30}}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Mesh(NamedTuple):
    """A mesh, and somebody at its command line."""

    directory: Path
    url: str

    def session(self, output: Output = "table") -> Session:
        return Session(data_dir=self.directory, output=output)

    def file(self, *steps: dict[str, Any]) -> Path:
        file = self.directory / f"{hashlib.sha256(repr(steps).encode()).hexdigest()[:8]}.json"
        file.write_text(document(*steps))
        return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    directory = tmp_path_factory.mktemp("mesh")
    (directory / "greeters.py").write_text(AGENTS)
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    async with local_mesh(
        directory,
        agents=["greeters"],
        sync_interval="2m",
        log_dir=directory / "log",
        environment={"PYTHONPATH": path},
    ) as running:
        yield Mesh(directory, running.url)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Any:
    async def said(verb: Awaitable[int]) -> Said:
        capsys.readouterr()
        code = await verb
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return said


async def asked(mesh: Mesh, says: Any, id: str) -> None:
    """Bring a plan to its gate."""
    said = await says(run.run(mesh.file(GREET, GATE, SEND), id=id, wait=False, session=mesh.session()))
    assert said.code == WAITING


# --- run, submit, watch ------------------------------------------------------------------------------------


async def test_run_tells_what_happens_line_by_line_and_ends_with_the_whole(mesh: Mesh, says: Any) -> None:
    said = await says(run.run(mesh.file(GREET), input=("who=Ada",), id="run-1", session=mesh.session()))

    assert said.code == COMPLETED
    told = [re.sub(r"^[\d:]+ |in .*? (?=by)", "", line) for line in said.err.splitlines()]
    assert told[1:] == [
        "plan started by planner",
        "greet handed out to greet",
        "greet completed by greet",
        "plan completed",
    ]
    assert "Greet someone   ✓ completed" in said.out
    assert '{"text":"Hello, Ada!"}' in said.out


async def test_without_waiting_run_ends_at_a_gate_and_says_how_to_answer(mesh: Mesh, says: Any) -> None:
    said = await says(run.run(mesh.file(GREET, GATE, SEND), id="run-2", wait=False, session=mesh.session()))

    assert said.code == WAITING
    assert f"planmesh --data-dir {mesh.directory} gates show run-2 agree" in said.out


def running(*steps: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], ...]:
    """Steps that run a plan of *steps*, which read nothing."""
    child = {"name": "Greet inside", "steps": steps}
    return (
        {"kind": "task", "name": "child", "agent": "give", "inputs": {"value": child}},
        {"kind": "run", "name": "execute", "document": "child", **fields},
    )


async def test_without_waiting_run_ends_where_a_plan_that_it_runs_waits_for_somebody(mesh: Mesh, says: Any) -> None:
    file = mesh.file(*running({"kind": "gate", "name": "agree"}))

    said = await says(run.run(file, id="run-child-1", wait=False, session=mesh.session()))

    assert said.code == WAITING
    assert "The plan that it runs is waiting" in said.out
    assert f"planmesh --data-dir {mesh.directory} show run-child-1-execute-" in said.out


@pytest.mark.parametrize(("wait", "retries"), [(False, 0), (True, 0), (False, 2)])
async def test_run_ends_where_a_plan_that_it_runs_has_failed_for_good(
    mesh: Mesh, says: Any, wait: bool, retries: int
) -> None:
    fails = {"kind": "task", "name": "greet", "agent": "greet", "inputs": {"who": "nobody"}}
    file = mesh.file(*running(fails, retries=retries))

    said = await says(run.run(file, id=f"run-child-{wait}-{retries}", wait=wait, session=mesh.session()))

    assert said.code == FAILED
    assert said.err.count("; tries greet again") == retries
    assert "The plan that it runs is paused" in said.out


async def test_run_ends_when_a_failure_stops_the_plan(mesh: Mesh, says: Any) -> None:
    said = await says(run.run(mesh.file(GREET), input=("who=nobody",), id="run-3", session=mesh.session()))

    assert said.code == FAILED
    assert "Rejected: nobody is there \\x1b[31m" in said.out
    assert f"planmesh --data-dir {mesh.directory} retry run-3 greet" in said.out
    assert f"planmesh --data-dir {mesh.directory} skip run-3 greet" in said.out


async def test_a_refused_goal_is_told_with_the_places_in_the_file(mesh: Mesh, says: Any) -> None:
    file = mesh.file({**GREET, "agent": "great"})

    said = await says(run.run(file, id="run-4", session=mesh.session()))

    assert said.code == FAILED
    assert f"{file}:1:" in said.err
    assert "did you mean greet?" in said.err


async def test_a_goal_that_was_refused_may_be_mended_and_run_by_the_same_id(mesh: Mesh, says: Any) -> None:
    wrong = mesh.file({**GREET, "agent": "great"})
    refused = await says(run.run(wrong, id="mended", session=mesh.session()))
    assert refused.code == FAILED

    again = await says(run.run(mesh.file(GREET), id="mended", session=mesh.session("json")))

    assert (again.code, again.json["plan"]["number"] > 1) == (COMPLETED, True)


async def test_show_says_that_nobody_runs_the_agent_of_a_step(mesh: Mesh, says: Any) -> None:
    await administration.Mesh(mesh.directory).add_agent("idle")
    step = {"kind": "task", "name": "wait", "agent": "idle"}
    submitted = await says(run.submit(mesh.file(step), id="idle-1", session=mesh.session()))
    assert submitted.code == COMPLETED

    shown = await says(plans.show("idle-1", from_log=True, session=mesh.session()))
    await says(steer.cancel("idle-1", session=mesh.session()))
    ended = await says(plans.show("idle-1", from_log=True, session=mesh.session()))

    assert "Stopped at  wait" in shown.out
    assert "Nobody runs the agent idle" in shown.out
    assert f"planmesh --data-dir {mesh.directory} up --agents MODULE" in shown.out
    assert "Nobody runs" not in ended.out


async def test_the_same_goal_twice_is_one_plan(mesh: Mesh, says: Any) -> None:
    file = mesh.file(GREET)

    first = await says(run.run(file, id="run-5", session=mesh.session("json")))
    again = await says(run.run(file, id="run-5", session=mesh.session("json")))

    assert (first.code, again.code) == (COMPLETED, COMPLETED)
    assert first.json["plan"]["created_at"] == again.json["plan"]["created_at"]


async def test_a_draft_begins_when_someone_starts_it(mesh: Mesh, says: Any) -> None:
    submitted = await says(run.submit(mesh.file(GREET), id="draft-1", draft=True, session=mesh.session()))
    shown = await says(plans.show("draft-1", from_log=True, session=mesh.session()))
    started = await says(steer.start("draft-1", session=mesh.session()))
    watched = await says(run.watch("draft-1", session=mesh.session()))

    assert submitted == Said(COMPLETED, "draft-1\n", "")
    assert "Waits at    its beginning" in shown.out
    assert started.out.startswith("  plan started by ")
    assert watched.code == COMPLETED


async def test_watching_as_lines_gives_the_log_itself(mesh: Mesh, says: Any) -> None:
    await says(run.run(mesh.file(GREET), id="watch-1", session=mesh.session()))

    watched = await says(run.watch("watch-1", session=mesh.session("jsonl")))
    log = await says(plans.log("watch-1", session=mesh.session("jsonl")))

    assert watched.out == log.out


# --- look --------------------------------------------------------------------------------------------------


async def test_the_tables_and_the_log_show_the_same_plan(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "look-1")
    from_log = (await says(plans.show("look-1", from_log=True, session=mesh.session("json")))).json
    from_tables: dict[str, Any] = {}
    async with asyncio.timeout(10):
        while from_tables.get("plan", {}).get("number") != from_log["plan"]["number"]:  # the tables follow the log
            try:
                from_tables = (await says(plans.show("look-1", session=mesh.session("json")))).json
            except QueryRefused:
                await asyncio.sleep(0.05)

    assert from_tables["document"] == from_log["document"]
    assert from_tables["gates"] == from_log["gates"]
    assert {**from_log["plan"], "sequence": 0, "trace_id": ""} == {**from_tables["plan"], "sequence": 0, "trace_id": ""}
    for ours, theirs in zip(from_log["steps"], from_tables["steps"], strict=True):
        alike = ("step", "kind", "status", "needs", "agent", "attempt", "output", "since")
        assert [ours.get(field) or None for field in alike] == [theirs.get(field) or None for field in alike]


async def test_show_ends_with_what_can_be_done(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "look-2")

    said = await says(plans.show("look-2", from_log=True, session=mesh.session()))

    assert said.code == COMPLETED
    lines = said.out.splitlines()
    assert lines.index("  What you can do") < len(lines) - 4
    assert "asked for by" in said.out
    assert "who = world" in said.out


async def test_a_list_can_be_narrowed(mesh: Mesh, says: Any) -> None:
    await says(run.run(mesh.file(GREET), id="list-1", session=mesh.session()))
    rows: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not rows:
            said = await says(
                plans.list_(
                    status=("completed",), text="list-1", agent="greet", since="1h", session=mesh.session("json")
                )
            )
            rows = said.json

    assert [row["plan"] for row in rows] == ["list-1"]
    assert (await says(plans.list_(text="no such plan", session=mesh.session("json")))).json == []
    table = await says(plans.list_(text="list-1", session=mesh.session()))
    assert table.out.splitlines()[1].startswith("list-1  ✓ completed")


async def test_steps_show_what_they_were_given_and_gave(mesh: Mesh, says: Any) -> None:
    await says(run.run(mesh.file(GREET), input=("who=Ada",), id="steps-1", session=mesh.session()))
    row: dict[str, Any] = {}
    async with asyncio.timeout(10):
        while row.get("status") != "completed":
            try:
                row = yaml.safe_load((await says(plans.steps("steps-1", "greet", session=mesh.session("yaml")))).out)
            except QueryRefused:
                await asyncio.sleep(0.05)

    assert row["inputs"] == {"value": {"who": "Ada"}}
    table = await says(plans.steps("steps-1", session=mesh.session()))
    assert '{"who":"Ada"}' in table.out
    one = await says(plans.steps("steps-1", "greet", session=mesh.session()))
    assert '"text": "Hello, Ada!"' in one.out


async def test_the_log_is_a_chain_that_anyone_can_verify(mesh: Mesh, says: Any) -> None:
    await says(run.run(mesh.file(GREET), id="log-1", session=mesh.session()))

    said = await says(plans.log("log-1", session=mesh.session("jsonl")))

    previous = GENESIS
    for number, line in enumerate(said.out.splitlines(), start=1):
        commit = json.loads(line)
        assert (commit["number"], commit["previous"]) == (number, previous)
        previous = hashlib.sha256(line.encode()).hexdigest()
    table = await says(plans.log("log-1", step="greet", session=mesh.session()))
    assert [line.split()[2] for line in table.out.splitlines()[1:]] == ["greet", "greet"]


async def test_a_plan_that_is_not_there_is_said_to_be_missing(mesh: Mesh) -> None:
    with pytest.raises(PlanmeshError, match="there is no plan nowhere"):
        await plans.show("nowhere", session=mesh.session())


# --- decide and steer --------------------------------------------------------------------------------------


async def test_an_approval_quotes_what_was_shown(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "gate-1")
    shown = await says(gates.show("gate-1", "agree", session=mesh.session()))
    found = re.search(r"gates approve gate-1 agree --digest (\w+)", shown.out)
    assert found is not None
    assert "Hello, world!" in shown.out

    with pytest.raises(NotUnderstood, match="add --digest"):
        await gates.approve("gate-1", "agree", session=mesh.session())
    with pytest.raises(NotUnderstood, match="at least the first 16"):
        await gates.approve("gate-1", "agree", digest=found[1][:8], session=mesh.session())
    with pytest.raises(PlanmeshError, match="has changed since it was shown"):
        await gates.approve("gate-1", "agree", digest="0" * 16, session=mesh.session())
    said = await says(gates.approve("gate-1", "agree", digest=found[1], reason="fine", session=mesh.session()))

    assert said.code == COMPLETED
    assert re.match(r"  agree approved by \S+: fine  \(no. \d+ in the log\)", said.out)
    assert "send handed out to send" in said.out
    with pytest.raises(PlanmeshError, match="is not open: it is completed"):
        await gates.show("gate-1", "agree", session=mesh.session())


async def test_a_rejection_stops_the_plan_until_the_gate_is_asked_again(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "gate-2")

    rejected = await says(gates.reject("gate-2", "agree", reason="not so", session=mesh.session()))
    shown = await says(plans.show("gate-2", from_log=True, session=mesh.session()))
    again = await says(steer.retry("gate-2", "agree", session=mesh.session()))

    assert rejected.code == COMPLETED
    assert "It was rejected by " in shown.out
    assert again.out.splitlines()[0].startswith("  agree reopened by ")
    assert "agree opened again (round 2)" in again.out


async def test_open_gates_are_listed(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "gate-3")

    rows: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not rows:
            try:
                rows = (await says(gates.list_(plan="gate-3", session=mesh.session("json")))).json
            except QueryRefused:
                await asyncio.sleep(0.05)

    assert [(row["plan"], row["step"]) for row in rows] == [("gate-3", "agree")]


async def test_a_refusal_says_why_and_what_would_be_carried_out(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "steer-1")

    of_step = await says(steer.retry("steer-1", "greet", session=mesh.session()))
    of_plan = await says(steer.resume("steer-1", session=mesh.session()))

    assert (of_step.code, of_plan.code) == (FAILED, FAILED)
    assert of_step.err.startswith("planmesh: retry of greet was refused (not_failed): step greet is completed")
    assert of_plan.err.startswith("planmesh: resume was refused (not_paused)")
    assert f"    planmesh --data-dir {mesh.directory} cancel steer-1" in of_plan.err


async def test_what_no_plan_has_is_not_sent_to_it(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "steer-2")

    with pytest.raises(NotUnderstood, match="did you mean greet"):
        await steer.retry("steer-2", "great", session=mesh.session())
    with pytest.raises(NotUnderstood, match="reason"):
        await steer.cancel("steer-2", reason="x" * 5_000, session=mesh.session())
    with pytest.raises(NotUnderstood, match="is no gate, but a task"):
        await gates.show("steer-2", "greet", session=mesh.session())


async def test_one_step_can_be_paused_and_goes_on(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "steer-4")

    paused = await says(steer.pause("steer-4", "send", reason="later", session=mesh.session()))
    resumed = await says(steer.resume("steer-4", "send", session=mesh.session()))

    assert re.match(r"  send paused by \S+: later  \(no. \d+ in the log\)", paused.out)
    assert re.match(r"  send goes on after a word of \S+", resumed.out)


async def test_each_verb_names_the_line_of_the_log_that_answers_it(mesh: Mesh, says: Any) -> None:
    await asked(mesh, says, "steer-3")

    paused = await says(steer.pause("steer-3", reason="lunch", session=mesh.session()))
    resumed = await says(steer.resume("steer-3", session=mesh.session()))
    cancelled = await says(steer.cancel("steer-3", session=mesh.session("json")))

    assert re.match(r"  plan paused by \S+: lunch  \(no. \d+ in the log\)", paused.out)
    assert re.match(r"  plan goes on after a word of \S+", resumed.out)
    assert [event["type"] for event in cancelled.json["events"]] == ["steps.cancelled", "plan.cancelled"]


# --- at a terminal -----------------------------------------------------------------------------------------


class Terminal:
    """The command line as a process, and a person who reads and types."""

    def __init__(self, process: asyncio.subprocess.Process, controller: int) -> None:
        self.process = process
        self.seen = ""
        self._controller = controller
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(controller, self._read)

    @classmethod
    async def run(cls, mesh: Mesh, *arguments: str) -> "Terminal":
        controller, terminal = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "planmesh.cli",
            "--data-dir",
            str(mesh.directory),
            *arguments,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
            start_new_session=True,
            # Whoever runs the tests in the background may have had it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(terminal)
        return cls(process, controller)

    def _read(self) -> None:
        try:
            self.seen += os.read(self._controller, 65_536).decode()
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._controller)
        self._news.set()

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    async def sees(self, text: str, timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s):
            while text not in self.seen:
                self._news.clear()
                await self._news.wait()

    async def ends(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 20)
        asyncio.get_running_loop().remove_reader(self._controller)
        self._read()
        os.close(self._controller)
        return code


async def test_at_a_terminal_the_gate_is_put_to_whoever_sits_there(mesh: Mesh) -> None:
    terminal = await Terminal.run(mesh, "run", str(mesh.file(GREET, GATE, SEND)), "--id", "pty-1")

    await terminal.sees("[a/r/l]")
    assert "Hello, world!" in terminal.seen
    terminal.type("a\n")

    assert await terminal.ends() == COMPLETED
    assert "agree approved by" in terminal.seen
    assert "✓ completed" in terminal.seen


async def test_a_question_is_withdrawn_when_somebody_else_has_decided(mesh: Mesh, says: Any) -> None:
    terminal = await Terminal.run(mesh, "run", str(mesh.file(GREET, GATE, SEND)), "--id", "pty-2")
    await terminal.sees("[a/r/l]")

    await says(gates.reject("pty-2", "agree", session=mesh.session()))

    assert await terminal.ends() == FAILED
    assert "decided elsewhere" in terminal.seen


async def test_an_interrupted_run_leaves_the_plan_running_and_says_so(mesh: Mesh, says: Any) -> None:
    terminal = await Terminal.run(mesh, "run", str(mesh.file(SLEEP)), "--id", "pty-3")
    await terminal.sees("running")

    terminal.process.send_signal(2)

    assert await terminal.ends() == INTERRUPTED
    assert "The plan goes on" in terminal.seen
    assert "Traceback" not in terminal.seen
    shown = await says(plans.show("pty-3", from_log=True, session=mesh.session("json")))
    assert shown.json["plan"]["status"] == "running"
    await says(steer.cancel("pty-3", session=mesh.session()))
