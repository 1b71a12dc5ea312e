"""Goals in words and templates at the command line, on a real mesh with a model that answers by a script."""

import asyncio
import json
import os
import pty
import re
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from model_server import Answer, ModelServer, Request, gives, model_server, says

from planmesh.cli import COMPLETED, FAILED, WAITING, drafts, plans, revise, run, steer, templates
from planmesh.cli.preview import Looking
from planmesh.cli.session import NotUnderstood, Output, Session
from planmesh.client import Client
from planmesh.errors import PlanmeshError
from planmesh.schemas.plan import Plan
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address
from planmesh.supervision import local_mesh

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("drafts on a mesh")]

AGENTS = """
from planmesh import agent
from planmesh.schemas.plan import Permissions

@agent(idempotent=True)
def greet(who: str) -> dict:
    '''Writes a greeting.'''
    return {"text": f"Hello, {who}!"}

@agent(idempotent=True, permissions=Permissions(write=("board.txt",)))
def post(text: str) -> dict:
    '''Puts a text on the board.'''
    return {"posted": text}
"""
TEMPLATE = """
name: Greet by a template
inputs:
  who: {type: text}
steps:
  - {kind: task, name: greet, agent: greet, inputs: {who: "{who}"}}
"""


def task(name: str, agent: str, **inputs: str) -> dict[str, Any]:
    return {"kind": "task", "name": name, "agent": agent, "inputs": inputs, "after": []}


GREET = {"name": "Greet", "steps": [task("greet", "greet", who="{who}")]}
POST = {
    "name": "Greet and post",
    "steps": [task("greet", "greet", who="Ada"), task("post", "post", text="{greet.text}")],
}


GATE = {"kind": "gate", "name": "agree", "prompt": "Go on?", "after": ["greet"]}
MORE = {**task("more", "greet", who="Bob"), "after": ["agree"]}


def answer(request: Request) -> Answer:
    """What the goal says is what the model does."""
    if "<instruction>" in request["messages"][1]["content"] and "add a step" in request["messages"][1]["content"]:
        return gives({"name": "Greet", "steps": [task("greet", "greet", who="Ada"), GATE, MORE]})
    wanted = re.findall(r"<(?:goal|instruction)>\n(.*)\n", request["messages"][1]["content"])[-1]
    for word, given in (
        ("post it", POST),
        ("greet", GREET),
        ("other words", {**GREET, "steps": [task("bye", "greet", who="Bob")]}),
    ):
        if word in wanted:
            return gives(given)
    return says("I would rather not.")


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Mesh(NamedTuple):
    directory: Path
    model: ModelServer

    def session(self, output: Output = "table") -> Session:
        return Session(data_dir=self.directory, output=output)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    directory = tmp_path_factory.mktemp("mesh")
    (directory / "greeters.py").write_text(AGENTS)
    (directory / "kept").mkdir()
    (directory / "kept" / "greeting.yaml").write_text(TEMPLATE)
    (directory / "kept" / "broken.plan").write_text('do "Greet" with nobody\n')
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    with model_server(answer) as model:
        environment = {"PLANMESH_PLANNER__TEMPLATES": str(directory / "kept"), "PYTHONPATH": path}
        async with local_mesh(
            directory,
            agents=["greeters"],
            sync_interval="2m",
            log_dir=directory / "log",
            environment={**environment, **model.environment()},
        ):
            yield Mesh(directory, model)


@pytest.fixture
def tells(capsys: pytest.CaptureFixture[str]) -> Any:
    async def said(verb: Awaitable[int]) -> Said:
        capsys.readouterr()
        code = await verb
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return said


# --- goals in words ----------------------------------------------------------------------------------------


async def test_a_dry_run_shows_the_plan_and_stores_nothing(mesh: Mesh, tells: Any) -> None:
    said = await tells(drafts.plan("greet and post it", dry_run=True, session=mesh.session()))

    assert said.code == COMPLETED
    assert re.search(r"approve-post +gate for role:operator", said.out)
    assert "write board.txt" in said.out
    assert "A person decides at approve-post." in said.out
    assert "written by scripted: 1 draft, 18 tokens" in said.out
    assert "Nothing was stored" in said.out
    listed = await tells(plans.list_(text="greet and post it", session=mesh.session()))
    assert listed.out == "There is no such plan.\n"


async def test_a_dry_run_for_programs_is_the_command_that_would_be_published(mesh: Mesh, tells: Any) -> None:
    said = await tells(drafts.plan("greet", input=("who=Ada",), dry_run=True, session=mesh.session("json")))

    found = json.loads(said.out)
    assert (found["verb"], found["inputs"], found["origin"]["model"]) == ("create", {"who": "Ada"}, "scripted")


async def test_without_a_terminal_a_draft_is_left_that_somebody_can_start(mesh: Mesh, tells: Any) -> None:
    said = await tells(drafts.plan("greet", input=("who=Ada",), id="words-1", session=mesh.session()))
    shown = await tells(plans.show("words-1", from_log=True, session=mesh.session()))
    started = await tells(steer.start("words-1", session=mesh.session()))
    watched = await tells(run.watch("words-1", session=mesh.session()))

    assert said.code == COMPLETED
    assert f"planmesh --data-dir {mesh.directory} start words-1" in said.out
    assert "written by scripted" in shown.out
    assert (started.code, watched.code) == (COMPLETED, COMPLETED)
    assert "Hello, Ada!" in watched.out


async def test_a_plan_can_be_started_without_asking(mesh: Mesh, tells: Any) -> None:
    said = await tells(drafts.plan("greet", input=("who=Ada",), start=True, session=mesh.session()))

    assert said.code == COMPLETED
    assert "Greet   ✓ completed" in said.out


async def test_a_started_plan_stops_at_the_gate_that_the_planner_put_in(mesh: Mesh, tells: Any) -> None:
    said = await tells(drafts.plan("greet and post it", id="words-2", start=True, wait=False, session=mesh.session()))

    assert said.code == WAITING
    assert "gates show words-2 approve-post" in said.out


async def test_a_goal_that_no_plan_can_be_made_of_is_told_with_every_draft(mesh: Mesh, tells: Any) -> None:
    for dry_run in (False, True):
        said = await tells(drafts.plan("do something else", dry_run=dry_run, session=mesh.session()))

        assert said.code == FAILED
        assert "there is no plan: 1 problem" in said.err
        assert "expected a plan as JSON" in said.err
        assert "Draft 2 was no better" in said.err
        assert "written by scripted: 3 drafts" in said.err


async def test_the_same_goal_twice_is_one_plan(mesh: Mesh, tells: Any) -> None:
    first = await tells(drafts.plan("greet", input=("who=Eve",), id="words-3", session=mesh.session("json")))
    again = await tells(drafts.plan("greet", input=("who=Eve",), id="words-3", session=mesh.session("json")))

    first, again = json.loads(first.out), json.loads(again.out)
    assert first["plan"]["created_at"] == again["plan"]["created_at"]


async def test_the_tables_say_who_wrote_a_plan(mesh: Mesh, tells: Any) -> None:
    await tells(drafts.plan("greet", input=("who=Eve",), id="words-4", session=mesh.session()))
    told = await tells(plans.log("words-4", session=mesh.session()))

    async def shown() -> dict[str, Any]:
        while True:
            try:
                return dict(json.loads((await tells(plans.show("words-4", session=mesh.session("json")))).out))
            except PlanmeshError:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(20):
        found = await shown()

    assert found["origin"]["author"] == "model"
    assert found["origin"]["tries"][0]["input_tokens"] == 11
    assert "written by scripted: 1 draft" in told.out


async def test_an_instruction_in_words_revises_a_plan(mesh: Mesh, tells: Any) -> None:
    await tells(drafts.plan("greet", input=("who=Ada",), id="words-5", session=mesh.session()))

    said = await tells(revise.revise("words-5", instruction="use other words", session=mesh.session()))
    told = await tells(plans.log("words-5", session=mesh.session()))

    assert said.code == COMPLETED
    assert "bye" in said.out
    assert re.search(r"revised \(2 changes, revision 2\): use other words, written by scripted: 1 draft", told.out)


def proposed(file: str) -> Plan:
    """What was proposed, and kept in a file that nobody else can read."""
    path = Path(file)
    assert (path.stat().st_mode & 0o077, path.parent.stat().st_mode & 0o077) == (0, 0)
    return msgspec.json.decode(path.read_bytes(), type=Plan)


async def test_what_a_preview_of_an_instruction_shows_can_be_done_exactly_so(mesh: Mesh, tells: Any) -> None:
    await tells(drafts.plan("greet", input=("who=Ada",), id="words-8", session=mesh.session()))
    asked = len(mesh.model.requests)

    seen = await tells(
        revise.revise("words-8", instruction="use other words", look=Looking(preview=True), session=mesh.session())
    )
    async with mesh.session().operator() as operator:
        state = await operator.state(await operator.find("words-8"))
    assert (seen.code, state.revision, len(mesh.model.requests)) == (COMPLETED, 1, asked + 1)
    assert re.search(r"\+ new +1 +bye \(by greet\)", seen.out)
    assert re.search(r"- dropped +1 +greet", seen.out)
    assert "What it changes: 1 added, 1 removed" in seen.out
    assert "written by scripted: 1 draft" in seen.out
    assert "A model may propose something else the next time. To do exactly this:" in seen.out

    (command,) = [line for line in seen.out.splitlines() if "--base" in line]
    words = shlex.split(command)
    file, base, reason = words[words.index("words-8") + 1], words[words.index("--base") + 1], words[-1]
    done = await tells(revise.revise("words-8", Path(file), base=int(base), reason=reason, session=mesh.session()))
    again = await tells(revise.revise("words-8", Path(file), base=2, session=mesh.session()))

    async with mesh.session().operator() as operator:
        state = await operator.state(await operator.find("words-8"))
    assert (done.code, reason, state.revision, len(mesh.model.requests)) == (COMPLETED, "use other words", 2, asked + 1)
    assert state.plan == proposed(file)
    assert again.code == FAILED
    assert "nothing to change" in again.err


async def test_a_preview_of_an_instruction_for_programs_names_the_proposal(mesh: Mesh, tells: Any) -> None:
    await tells(drafts.plan("greet", input=("who=Ada",), id="words-9", session=mesh.session()))

    look = Looking(preview=True)
    seen = await tells(revise.revise("words-9", instruction="other words", look=look, session=mesh.session("json")))
    none = await tells(revise.revise("words-9", instruction="as you like", look=look, session=mesh.session()))
    same = await tells(revise.revise("words-9", instruction="greet", look=look, session=mesh.session()))

    told = json.loads(seen.out)
    assert [step["fate"] for step in told["steps"]] == ["new", "dropped"]
    assert (told["origin"]["author"], [step.name for step in proposed(told["file"]).steps]) == ("model", ["bye"])
    assert (none.code, same.code) == (FAILED, FAILED)
    assert "expected a plan as JSON" in none.err
    assert "written by scripted: 3 drafts" in none.err
    assert "nothing to change: the plan is like that already" in same.err


async def test_a_preview_of_a_redirection_in_words_can_be_done_exactly_so(mesh: Mesh, tells: Any) -> None:
    file = mesh.directory / "gated.json"
    file.write_text(json.dumps({"name": "Greet", "steps": [task("greet", "greet", who="Ada"), GATE]}))
    await tells(run.run(file, id="words-10", wait=False, session=mesh.session()))

    seen = await tells(
        revise.redirect("words-10", instruction="add a step", look=Looking(preview=True), session=mesh.session())
    )
    (command,) = [line for line in seen.out.splitlines() if "--digest" in line]
    words = shlex.split(command)
    options = {name: words[words.index(name) + 1] for name in ("--file", "--digest", "--reason")}
    done = await tells(
        revise.redirect(
            "words-10",
            "agree",
            file=Path(options["--file"]),
            digest=options["--digest"],
            reason=options["--reason"],
            session=mesh.session(),
        )
    )

    assert (seen.code, done.code) == (COMPLETED, COMPLETED)
    assert re.search(r"asks again +1 +agree \(round 2\)", seen.out)
    async with mesh.session().operator() as operator:
        state = await operator.state(await operator.find("words-10"))
    assert state.plan == proposed(options["--file"])
    assert state.steps["agree"].attempt == 2


async def test_where_the_policy_says_so_what_the_planner_proposes_waits_for_a_person(mesh: Mesh, tells: Any) -> None:
    policy = ("revisions=hold", "destructive=gate")
    drafted = await tells(drafts.plan("greet", input=("who=Ada",), policy=policy, id="held-1", session=mesh.session()))
    said = await tells(revise.revise("held-1", instruction="use other words", session=mesh.session()))
    shown = await tells(plans.show("held-1", from_log=True, session=mesh.session()))
    looked = await tells(revise.revise("held-1", proposed="last", look=Looking(preview=True), session=mesh.session()))
    with pytest.raises(NotUnderstood, match="takes the digest of what was looked at"):
        await revise.revise("held-1", proposed="last", session=mesh.session())
    with pytest.raises(PlanmeshError, match="nothing with the digest 0000"):
        await revise.revise("held-1", proposed="0" * 16, session=mesh.session())
    named = looked.err.split("--proposed ")[1].split()[0]
    allowed = await tells(revise.revise("held-1", proposed=named, session=mesh.session()))
    told = await tells(plans.log("held-1", session=mesh.session()))

    waits = "what the planner proposes waits for a person (revise --proposed last --preview)"
    rules = f"{waits} · what a model writes that could do harm"
    assert rules in drafted.out
    assert said.code == FAILED
    assert "leaves it to a person to allow what the planner proposes" in said.err
    assert f"revise held-1 --proposed {named}" in said.err
    assert "Asked for by root: use other words. To allow exactly this:" in looked.err
    assert rules in shown.out
    assert "greet" in shown.out
    assert "bye" not in shown.out
    assert allowed.code == COMPLETED
    assert "bye" in allowed.out
    assert "revision 2" in told.out


async def test_at_a_gate_it_waits_for_a_person_as_well_and_the_gate_asks_again(mesh: Mesh, tells: Any) -> None:
    file = mesh.directory / "held.json"
    steps = [task("greet", "greet", who="Ada"), GATE]
    file.write_text(json.dumps({"name": "Greet", "policy": {"revisions": "hold"}, "steps": steps}))
    await tells(run.run(file, id="held-2", wait=False, session=mesh.session()))

    said = await tells(revise.redirect("held-2", instruction="add a step", session=mesh.session()))
    named = said.err.split("revise held-2 --proposed ")[-1].split()[0]
    allowed = await tells(revise.revise("held-2", proposed=named, session=mesh.session()))
    told = await tells(plans.log("held-2", session=mesh.session()))

    assert (said.code, allowed.code) == (FAILED, COMPLETED)
    assert "more" in allowed.out
    assert "leaves it to a person to allow what the planner proposes" in told.out


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("destructive=allow", "this mesh lets no plan say"),
        ("revisions=holt", "did you mean hold?"),
        ("revision=hold", "did you mean revisions?"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_before_a_model_is_asked(
    mesh: Mesh, tells: Any, policy: str, said: str
) -> None:
    asked = len(mesh.model.requests)

    found = await tells(drafts.plan("greet and post it", policy=(policy,), session=mesh.session()))

    assert found.code == FAILED
    assert said in found.err
    assert len(mesh.model.requests) == asked


async def test_a_reviewer_redirects_a_plan_in_words_and_the_gate_asks_again(mesh: Mesh, tells: Any) -> None:
    file = mesh.directory / "gated.json"
    file.write_text(json.dumps({"name": "Greet", "steps": [task("greet", "greet", who="Ada"), GATE]}))
    ran = await tells(run.run(file, id="words-6", wait=False, session=mesh.session()))
    assert ran.code == WAITING

    said = await tells(revise.redirect("words-6", instruction="add a step", session=mesh.session()))
    left = await tells(run.watch("words-6", wait=False, session=mesh.session()))

    assert said.code == COMPLETED
    assert "more" in said.out
    assert left.code == WAITING
    assert "1 of 3 steps" in left.out
    assert "agree opened again (round 2)" in left.err


async def test_a_redirection_that_nothing_comes_of_says_why_and_the_gate_asks_again(mesh: Mesh, tells: Any) -> None:
    file = mesh.directory / "gated.json"
    file.write_text(json.dumps({"name": "Greet", "steps": [task("greet", "greet", who="Ada"), GATE]}))
    await tells(run.run(file, id="words-7", wait=False, session=mesh.session()))

    said = await tells(revise.redirect("words-7", instruction="do what you like", session=mesh.session()))
    told = await tells(plans.log("words-7", session=mesh.session()))

    assert said.code == FAILED
    assert "expected a plan as JSON" in said.err
    assert "cannot be: expected a plan as JSON" in told.out


async def test_a_step_lets_the_model_write_a_plan_and_another_runs_it(mesh: Mesh, tells: Any) -> None:
    file = mesh.directory / "nested.json"
    steps = [
        {"kind": "plan", "name": "think", "inputs": {"task": "greet and post it"}, "agents": ["greet", "post"]},
        {"kind": "run", "name": "do", "document": "think"},
    ]
    file.write_text(json.dumps({"name": "Think, then do", "steps": steps}))

    await tells(run.submit(file, id="nested-1", session=mesh.session()))
    async with mesh.session().operator() as operator:
        address = await operator.find("nested-1")
        async for state, _ in operator.watch(address):
            if state.steps and state.steps["do"].child:
                break
        child = Address(address.space, state.steps["do"].child)
        async for state, _ in operator.watch(child):
            if state.status is PlanStatus.WAITING:
                break
        told = await tells(plans.log("nested-1", session=mesh.session()))

    assert [step.name for step in state.plan.steps] == ["greet", "approve-post", "post"]
    assert "completed with 1 model call, 11 tokens in, 7 out" in told.out


async def test_an_sdk_can_publish_words(mesh: Mesh) -> None:
    async with Client.connect(data_dir=mesh.directory) as client:
        submitted = await client.submit(goal="greet", inputs={"who": "SDK"})
        assert submitted.address.plan.startswith("greet-")

        completed = await submitted.result()

    assert completed.result.value == {"greet": {"text": "Hello, SDK!"}}


@pytest.mark.parametrize(
    "options", [{"dry_run": True, "start": True}, {"dry_run": True, "id": "x"}, {"goal": " "}, {"input": ("who",)}]
)
async def test_what_cannot_be_meant_is_not_understood(mesh: Mesh, options: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood):
        await drafts.plan(options.pop("goal", "greet"), **options, session=mesh.session())


@pytest.mark.parametrize(("typed", "ends"), [("y", "completed"), ("n", "It is a draft"), ("", "It is a draft")])
async def test_on_a_terminal_it_asks_before_anything_runs(mesh: Mesh, typed: str, ends: str) -> None:
    command = [sys.executable, "-m", "planmesh.cli", "--data-dir", str(mesh.directory)]
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command, "plan", "greet", "--input", "who=Ada", stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = ""

    async def until(text: str) -> None:
        nonlocal seen
        async with asyncio.timeout(30):
            while text not in seen:
                seen += (await asyncio.to_thread(os.read, ours, 65_536)).decode("utf-8", "replace")

    await until("Start it? [y/N]")
    os.write(ours, f"{typed}\n".encode())
    await until(ends)

    assert await process.wait() == COMPLETED
    os.close(ours)


# --- templates ---------------------------------------------------------------------------------------------


async def test_templates_are_listed_with_what_is_wrong_with_them(mesh: Mesh, tells: Any) -> None:
    said = await tells(templates.list_(session=mesh.session()))
    rows = json.loads((await tells(templates.list_(session=mesh.session("json")))).out)

    assert re.search(r"greeting +Greet by a template +1 +who: text", said.out)
    assert "1 problem: the mesh has no agent called 'nobody'" in said.out
    assert [(row["template"], row.get("problems", 0)) for row in rows] == [("broken", 1), ("greeting", 0)]


async def test_a_template_is_shown_with_how_to_run_it(mesh: Mesh, tells: Any) -> None:
    said = await tells(templates.show("greeting", session=mesh.session()))
    broken = await tells(templates.show("broken", session=mesh.session()))

    assert said.code == COMPLETED
    assert TEMPLATE in said.out
    assert f"planmesh --data-dir {mesh.directory} run --template greeting --input who=…" in said.out
    assert broken.code == FAILED
    assert "broken.plan:1:17  unknown_agent" in broken.err


async def test_a_template_that_is_not_there_is_told(mesh: Mesh) -> None:
    with pytest.raises(PlanmeshError, match="there is no template called 'greting'; did you mean greeting"):
        await templates.show("greting", session=mesh.session())


async def test_a_template_is_run_with_inputs_of_its_types(mesh: Mesh, tells: Any) -> None:
    said = await tells(run.run(template="greeting", input=("who=17",), id="kept-1", session=mesh.session()))
    shown = await tells(plans.show("kept-1", from_log=True, session=mesh.session()))

    assert said.code == COMPLETED
    assert "Hello, 17!" in said.out
    assert "from the template greeting" in shown.out


async def test_a_template_is_submitted(mesh: Mesh, tells: Any) -> None:
    said = await tells(run.submit(template="greeting", input=("who=Ada",), id="kept-2", session=mesh.session()))

    assert said == Said(COMPLETED, "kept-2\n", "")


async def test_a_template_that_cannot_run_is_refused_with_its_name(mesh: Mesh, tells: Any) -> None:
    said = await tells(run.run(template="broken", session=mesh.session()))

    assert said.code == FAILED
    assert "template broken:1:17" in said.err


@pytest.mark.parametrize("options", [{}, {"file": Path("x.yaml"), "template": "greeting"}])
async def test_a_plan_is_a_file_or_a_template(mesh: Mesh, options: dict[str, Any]) -> None:
    file = options.pop("file", None)
    for verb in (run.run, run.submit):
        with pytest.raises(NotUnderstood, match=r"say which plan: a file, or --template NAME"):
            await verb(file, **options, session=mesh.session())
