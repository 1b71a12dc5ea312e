"""Verbs that steer plans, on a real mesh: what they print, what they end with, and that they can be looked at first."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from planmesh.cli import COMPLETED, FAILED, WAITING, gates, plans, revise, run, steer
from planmesh.cli.bulk import Many
from planmesh.cli.preview import Looking
from planmesh.cli.session import NotUnderstood, Output, Session
from planmesh.connection import connect
from planmesh.errors import PlanmeshError
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import AnyCommand, CreatePlan, ProposeRevision, verb_of
from planmesh.schemas.plan import Gate, Plan, Task
from planmesh.schemas.subjects import Address
from planmesh.supervision import local_mesh

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("steering on a mesh")]

AGENTS = """
import time
from pathlib import Path
from planmesh import agent

HERE = Path(__file__).parent

@agent(idempotent=True)
def fetch(url: str, size: int = 1) -> dict:
    if (HERE / "down").exists():
        raise ConnectionError(f"no answer from {url}")
    return {"text": f"{url} {size}"}

@agent(idempotent=True)
def mirror(url: str = "", size: int = 1) -> dict:
    return {"text": f"mirror of {url} {size}"}

@agent(idempotent=True)
def send(text: str) -> dict:
    return {"sent": text}

@agent
def charge(amount: int) -> dict:
    time.sleep(60)
"""

FETCH = {"kind": "task", "name": "fetch", "agent": "fetch", "inputs": {"url": "news"}}
EXTRA = {"kind": "task", "name": "extra", "agent": "fetch", "inputs": {"url": "blog"}, "optional": True}
GATE = {"kind": "gate", "name": "agree", "after": ["fetch", "extra"]}
SEND = {"kind": "task", "name": "send", "agent": "send", "after": ["agree"], "inputs": {"text": "{fetch.text}"}}
LOOK = Looking(preview=True)


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return [re.sub(r"  +", "  ", line.strip()) for line in self.out.splitlines() if line.strip()]


class Desk:
    """A mesh, and somebody at its command line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.down = directory / "down"

    def session(self, output: Output = "table") -> Session:
        return Session(data_dir=self.directory, output=output)

    def file(self, name: str, *steps: dict[str, Any]) -> Path:
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps({"name": name.title(), "steps": steps}, indent=1))
        return file

    async def stopped(self, says: Any, id: str) -> None:
        """Bring a plan to where both of its sources are down."""
        self.down.touch()
        await says(run.run(self.file("digest", FETCH, EXTRA, GATE, SEND), id=id, session=self.session()))
        self.down.unlink()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    directory = tmp_path_factory.mktemp("mesh")
    (directory / "sources.py").write_text(AGENTS)
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    async with local_mesh(
        directory, agents=["sources"], sync_interval="2m", log_dir=directory / "log", environment={"PYTHONPATH": path}
    ):
        yield Desk(directory)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Any:
    async def said(verb: Awaitable[int]) -> Said:
        capsys.readouterr()
        code = await verb
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return said


# --- retry with other means, and a look at it first --------------------------------------------------------


async def test_a_preview_of_a_retry_shows_what_runs_again_and_does_nothing(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "one")

    seen = await says(steer.retry("one", "fetch", agent="mirror", look=LOOK, session=desk.session()))

    assert seen.code == COMPLETED
    assert seen.lines == [
        "retry fetch of one  revision 1 → 2",
        "↻ runs again  1  fetch (attempt 2, by mirror)",
        "○ to come  2  agree and send",
        "! stays as it is  1  extra",
        "The plan would be running",
        "What it changes: 1 changed",
        "~ fetch",
        "agent: fetch → mirror",
        "Nothing was done: this is a preview.",
    ]
    as_json = (await says(steer.retry("one", "fetch", look=LOOK, session=desk.session("json")))).json
    assert [(step["step"], step["fate"]) for step in as_json["steps"]] == [
        ("fetch", "again"),
        ("extra", "stands"),
        ("agree", "next"),
        ("send", "next"),
    ]
    tree = Looking(preview=True, format="tree")
    assert (
        "runs again (attempt 2, by fetch)"
        in (await says(steer.retry("one", "fetch", look=tree, session=desk.session()))).out
    )
    drawn = Looking(preview=True, format="mermaid")
    mermaid = (await says(steer.retry("one", "fetch", look=drawn, session=desk.session()))).out
    assert "class s0 fate-again" in mermaid
    assert "class s2,s3 fate-next" in mermaid
    assert "revision 2" not in (await says(_show(desk, "one"))).out


async def _show(desk: Desk, plan: str) -> int:
    from planmesh.cli import plans

    return await plans.show(plan, from_log=True, session=desk.session())


async def test_a_retry_with_other_means_waits_for_the_planner_and_prints_what_changed(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "two")

    said = await says(
        steer.retry("two", "fetch", agent="mirror", input=("size=3",), reason="news is down", session=desk.session())
    )

    assert said.code == COMPLETED
    assert said.lines[0].startswith("plan revised (1 change, revision 2) by root: news is down  (no. ")
    assert said.lines[1:] == [
        "fetch reopened by root: news is down",
        "fetch handed out (attempt 2) to mirror",
        "~ fetch",
        "agent: fetch → mirror",
        "inputs.size: (none) → 3",
    ]


async def test_what_cannot_be_is_refused_and_says_why_before_and_after(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "three")

    looked = await says(steer.retry("three", "fetch", agent="miror", look=LOOK, session=desk.session()))
    done = await says(steer.retry("three", "fetch", agent="miror", session=desk.session()))
    skipped = await says(steer.skip("three", "fetch", look=LOOK, session=desk.session()))

    assert (looked.code, done.code, skipped.code) == (FAILED, FAILED, FAILED)
    assert "the revision would be refused" in looked.err
    assert "the revision was refused" in done.err
    for said in (looked, done):
        assert "did you mean mirror?" in said.err
    assert "skip of fetch would be refused (not_optional)" in skipped.err
    assert f"planmesh --data-dir {desk.directory} retry three fetch" in skipped.err


async def test_other_inputs_come_from_a_file_or_one_by_one(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "four")
    file = desk.directory / "inputs.yaml"
    file.write_text("url: elsewhere\nsize: 7\n")

    said = await says(steer.retry("four", "fetch", inputs=file, input=("size=8",), session=desk.session()))

    assert said.lines[-2:] == ["inputs.url: news → elsewhere", "inputs.size: (none) → 8"]
    secret = ("url=https://ada:hunter2@example.com",)
    with pytest.raises(NotUnderstood, match="an address with a password, and the log keeps them for good"):
        await steer.retry("four", "extra", input=secret, session=desk.session())
    with pytest.raises(NotUnderstood, match="step agree is no task"):
        await steer.retry("four", "agree", input=("a=b",), session=desk.session())


# --- revise, redirect, diff --------------------------------------------------------------------------------


async def asked(desk: Desk, says: Any, id: str) -> None:
    """Bring a plan to its gate."""
    await says(run.run(desk.file("digest", FETCH, EXTRA, GATE, SEND), id=id, wait=False, session=desk.session()))


LEGAL = {"kind": "task", "name": "legal", "agent": "send", "after": ["agree"], "inputs": {"text": "{fetch.text}"}}
SEND_LATER = {**SEND, "after": ["legal"], "inputs": {"text": "{legal.sent}"}}


async def test_a_plan_is_revised_and_the_difference_can_be_read_later(desk: Desk, says: Any) -> None:
    await asked(desk, says, "five")
    file = desk.file("later", GATE, LEGAL, SEND_LATER)

    looked = await says(revise.revise("five", file, look=LOOK, session=desk.session()))
    done = await says(revise.revise("five", file, base=1, reason="ask them first", session=desk.session()))
    stale = await says(revise.revise("five", file, base=1, session=desk.session()))
    told = await says(revise.diff("five", "1..2", session=desk.session()))
    as_json = (await says(revise.diff("five", session=desk.session("json")))).json

    assert "◆ asks again  1  agree (round 2)" in looked.lines
    assert "+ new  1  legal (by send)" in looked.lines
    assert "~ changed  1  send" in looked.lines
    assert done.code == COMPLETED
    assert (stale.code, "the plan is at revision 2, not 1" in stale.err) == (FAILED, True)
    assert told.lines[0] == "five  revision 1 → 2  1 added, 1 changed"
    assert ": ask them first  (no. " in told.lines[1]
    assert "after: fetch, agree → legal" in told.lines
    assert [(change["step"], change["kind"]) for change in as_json["changes"]] == [
        ("", "changed"),
        ("legal", "added"),
        ("send", "changed"),
    ]
    shown = await says(_show(desk, "five"))
    assert "· revision 2" in shown.out
    with pytest.raises(NotUnderstood, match="the plan has revisions 1 to 2"):
        await revise.diff("five", "1..3", session=desk.session())


async def test_a_difference_may_span_several_revisions(desk: Desk, says: Any) -> None:
    await asked(desk, says, "span")
    await says(revise.revise("span", desk.file("second", GATE, LEGAL, SEND_LATER), session=desk.session()))
    third = desk.file("third", GATE, {**LEGAL, "label": "Ask them"}, SEND_LATER)
    await says(revise.revise("span", third, reason="a better name", session=desk.session()))

    both = (await says(revise.diff("span", "1..3", session=desk.session("json")))).json
    last = (await says(revise.diff("span", "3", session=desk.session("json")))).json

    assert [one["revision"] for one in both["revisions"]] == [2, 3]
    assert {change["step"]: change["kind"] for change in both["changes"] if change["step"]} == {
        "legal": "added",
        "send": "changed",
    }
    assert [(change["step"], change["kind"]) for change in last["changes"] if change["step"]] == [("legal", "changed")]
    assert [(one["by"], one["reason"]) for one in last["revisions"]] == [("root", "a better name")]


async def test_a_preview_of_a_redirection_with_edited_steps_does_nothing(desk: Desk, says: Any) -> None:
    await asked(desk, says, "look")
    file = desk.file("later", GATE, LEGAL, SEND_LATER)

    looked = await says(revise.redirect("look", "agree", file=file, look=LOOK, session=desk.session()))
    shown = await says(gates.show("look", "agree", session=desk.session()))

    assert looked.code == COMPLETED
    assert "◆ asks again  1  agree (round 2)" in looked.lines
    assert "+ new  1  legal (by send)" in looked.lines
    assert "Nothing was done: this is a preview." in looked.lines
    assert "asks again" not in shown.out


KEY = {"kind": "ask", "name": "key", "secret": True, "prompt": "The key?"}
USE = {"kind": "task", "name": "use", "agent": "fetch", "inputs": {"url": "{key.value}"}, "after": ["key"]}
TOLD = {
    "with another agent": "step use (by agent mirror) is given the secret that was entered at key",
    "with another step": "step more (by agent mirror) is given the secret that was entered at key",
}


async def test_a_preview_says_who_would_be_given_a_secret_that_was_not_entered_for_them(desk: Desk, says: Any) -> None:
    (desk.directory / "typed").write_text("hunter22")
    desk.down.touch()
    await says(run.run(desk.file("keyed", KEY, USE), id="keyed", wait=False, session=desk.session()))
    answered = await says(gates.answer("keyed", "key", file=desk.directory / "typed", session=desk.session()))
    assert answered.code == COMPLETED
    assert (await says(run.watch("keyed", wait=False, session=desk.session()))).code == FAILED
    desk.down.unlink()

    same = await says(steer.retry("keyed", "use", look=LOOK, session=desk.session()))
    other = await says(steer.retry("keyed", "use", agent="mirror", look=LOOK, session=desk.session()))
    more = desk.file("more", {**USE, "name": "more", "agent": "mirror"})
    revised = [
        await says(revise.revise("keyed", more, look=look, session=desk.session(output)))
        for look, output in (
            (LOOK, "table"),
            (LOOK, "json"),
            (Looking(preview=True, format="tree"), "table"),
            (Looking(preview=True, format="mermaid"), "table"),
        )
    ]

    assert "secret" not in same.out
    assert f"! {TOLD['with another agent']}" in other.lines
    listed, as_json, tree, mermaid = revised
    assert f"! {TOLD['with another step']}" in listed.lines
    assert as_json.json["discloses"] == [{"ask": "key", "step": "more", "agent": "mirror"}]
    assert f"! {TOLD['with another step']}" in tree.lines
    assert TOLD["with another step"] in mermaid.err
    assert mermaid.out.startswith("flowchart")
    assert "is given" not in mermaid.out
    many = Many(where=("status=paused,text=keyed",))
    rows = await says(steer.retry(many=many, agent="mirror", look=LOOK, session=desk.session("json")))
    assert TOLD["with another agent"] in rows.out


async def test_problems_of_a_revision_are_told_with_their_places_in_the_file(desk: Desk, says: Any) -> None:
    await asked(desk, says, "six")
    file = desk.file("wrong", GATE, {**SEND, "agent": "sent"})

    said = await says(revise.revise("six", file, session=desk.session()))

    assert said.code == FAILED
    assert re.search(r"wrong\.json:\d+:\d+  /steps/1/agent  unknown_agent", said.err)
    with pytest.raises(NotUnderstood, match=r"with a file .* or in words"):
        await revise.revise("six", session=desk.session())
    (desk.directory / "secret.yaml").write_text("steps: []  # AKIAIOSFODNN7EXAMPLE\n")
    with pytest.raises(NotUnderstood, match="looks like an AWS access key"):
        await revise.revise("six", desk.directory / "secret.yaml", session=desk.session())


async def test_a_gate_is_redirected_with_edited_steps(desk: Desk, says: Any) -> None:
    await asked(desk, says, "seven")
    file = desk.file("later", GATE, LEGAL, SEND_LATER)

    said = await says(gates.redirect("seven", "agree", file=file, reason="ask them first", session=desk.session()))
    shown = await says(gates.show("seven", "agree", session=desk.session()))
    words = await says(revise.redirect("seven", instruction="shorter, please", session=desk.session()))

    assert said.lines[0].startswith("plan revised (")
    assert "agree opened again (round 2)" in said.lines[1]
    assert "It asks again: root has revised what it would release: ask them first" in shown.out
    assert (words.code, "no model is configured" in words.err) == (FAILED, True)
    with pytest.raises(PlanmeshError, match="what gate agree lets go has changed"):
        await revise.redirect("seven", "agree", file=file, digest="0" * 16, session=desk.session())
    with pytest.raises(PlanmeshError, match="is not open: it is completed"):
        await revise.redirect("seven", "fetch", file=file, session=desk.session())


# --- many at once ------------------------------------------------------------------------------------------


async def test_one_source_that_was_down_is_retried_in_all_plans_that_it_stopped(desk: Desk, says: Any) -> None:
    for number in range(3):
        await desk.stopped(says, f"many-{number}")
    where = ("status=paused,agent=fetch", "text=many-")

    with pytest.raises(NotUnderstood, match="this would retry 6 steps of 3 plans: add --yes"):
        await steer.retry(many=Many(where=where), session=desk.session())
    looked = await says(steer.retry(many=Many(where=where), look=LOOK, session=desk.session()))
    done = await says(
        steer.retry(many=Many(where=where, yes=True), reason="it is back", id="x", session=desk.session())
    )
    again = await says(steer.retry(many=Many(where=where, yes=True), session=desk.session()))

    assert looked.lines == [
        "PLAN  WHAT  THEN",
        *(
            line
            for line in looked.lines[1:]
            if re.fullmatch(r"root\.many-\d  retry (fetch and extra|extra and fetch)  the plan would be running", line)
        ),
    ]
    assert len(looked.lines) == 4
    assert (done.code, len(done.lines)) == (COMPLETED, 3)
    assert all("reopened by root: it is back" in line for line in done.lines)
    assert "6 steps of 3 plans done" in done.err
    assert "There is nothing to retry" in again.err


async def test_a_look_at_many_says_who_would_do_it_instead_and_what_would_ask_again(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "instead-0")
    await says(steer.retry("instead-0", "extra", session=desk.session()))
    many = Many(where=("text=instead-0",))

    looked = await says(steer.retry(many=many, agent="mirror", look=LOOK, session=desk.session("json")))

    assert [(row["step"], row["said"]) for row in looked.json] == [
        ("fetch", "mirror would do it; the plan would be running")
    ]


async def test_where_nothing_takes_a_verb_it_says_what_there_is(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "nothing-0")

    paused = await says(steer.pause(many=Many(where=("text=nothing-0",)), look=LOOK, session=desk.session()))
    nobody = await says(steer.pause(many=Many(where=("agent=fetsh",)), look=LOOK, session=desk.session()))

    assert paused.err.strip() == (
        "There is nothing to pause in what is like that (1 paused); it is for plans that are running or waiting."
    )
    assert nobody.err.strip() == (
        "There is nothing to pause: no plan is like that. `planmesh list` says which there are."
    )


async def test_many_plans_are_told_apart_by_what_became_of_each(desk: Desk, says: Any) -> None:
    for number in range(2):
        await asked(desk, says, f"row-{number}")
    where = Many(where=("text=row-",), yes=True)

    paused = await says(steer.pause(many=where, reason="lunch", session=desk.session("json")))
    both = await says(steer.resume(many=Many(where=("text=row-",)), look=LOOK, session=desk.session("jsonl")))
    await says(steer.resume("row-0", session=desk.session()))
    resumed = await says(steer.resume(many=where, session=desk.session("json")))
    cancelled = await says(steer.cancel(many=where, session=desk.session("json")))

    assert [(row["plan"], row["outcome"]) for row in paused.json] == [("row-1", "done"), ("row-0", "done")]
    assert [json.loads(line)["outcome"] for line in both.out.splitlines()] == ["would be done", "would be done"]
    assert [row["plan"] for row in resumed.json] == ["row-1"]
    assert [(row["plan"], row["said"]) for row in cancelled.json] == [
        ("row-1", "plan cancelled by root"),
        ("row-0", "plan cancelled by root"),
    ]


async def test_optional_steps_of_many_plans_are_skipped_and_the_others_are_not(desk: Desk, says: Any) -> None:
    await desk.stopped(says, "skips-0")

    said = await says(steer.skip(many=Many(where=("text=skips-",), yes=True), session=desk.session("json")))

    assert [(row["step"], row["outcome"]) for row in said.json] == [("extra", "done")]


async def test_attempts_of_which_nobody_knows_the_end_are_resolved_together(desk: Desk, says: Any) -> None:
    charge = {"kind": "task", "name": "charge", "agent": "charge", "inputs": {"amount": 7}, "timeout_s": 0.1}
    drafts = Many(where=("text=charges-",), yes=True)
    for number in range(2):
        file = desk.file(f"charges-{number}", charge)
        await says(run.submit(file, id=f"charges-{number}", draft=True, session=desk.session()))

    started = await says(steer.start(many=drafts, session=desk.session("json")))
    for number in range(2):
        await says(run.watch(f"charges-{number}", wait=False, session=desk.session()))
    retried = await says(steer.retry(many=drafts, session=desk.session()))
    refused = await says(steer.skip("charges-0", "charge", session=desk.session()))
    shown = await says(plans.show("charges-0", session=desk.session()))
    with pytest.raises(NotUnderstood, match="--done, or --not-done"):
        await steer.resolve("charges-0", "charge", session=desk.session())
    resolved = await says(
        steer.resolve(done=True, value="{}", many=drafts, reason="the bank says so", session=desk.session("json"))
    )

    assert [row["said"] for row in started.json] == ["plan started by root"] * 2
    assert "There is nothing to retry" in retried.err
    assert all(f"resolve charges-0 charge --{said}\n" in refused.err for said in ("done", "not-done"))
    assert "Its idempotency key is root.charges-0.charge.1" in " ".join(shown.out.split())
    assert [(row["step"], row["outcome"]) for row in resolved.json] == [("charge", "done")] * 2
    assert all(row["said"].endswith("by root: the bank says so") for row in resolved.json)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("paused", "KEY=VALUE"),
        ("status=broken", "a plan is draft, running"),
        ("colour=red", "--where takes KEY=VALUE, each of status, agent"),
        ("agent=a,agent=b", "once"),
        ("since=yesterday", "expected a time"),
    ],
)
async def test_conditions_that_are_none_are_not_understood(desk: Desk, said: str, wrong: str) -> None:
    with pytest.raises(NotUnderstood, match=wrong):
        await steer.pause(many=Many(where=(said,)), session=desk.session())


async def test_a_verb_is_about_one_plan_or_about_many(desk: Desk) -> None:
    many = Many(where=("status=paused",))
    with pytest.raises(NotUnderstood, match="not both"):
        await steer.retry("one", many=many, session=desk.session())
    with pytest.raises(NotUnderstood, match="--where step=fetch"):
        await steer.retry("", "fetch", many=many, session=desk.session())
    with pytest.raises(NotUnderstood, match="which plan"):
        await steer.cancel(session=desk.session())
    with pytest.raises(NotUnderstood, match="which step"):
        await steer.retry("one", session=desk.session())


# --- what only a person may allow --------------------------------------------------------------------------


async def test_a_person_may_allow_what_the_planner_may_not_do_by_itself(tmp_path: Path, says: Any) -> None:
    """In a mesh without a planner: the test is the planner, one with a model."""
    here = Session(data_dir=tmp_path)
    address = Address("root", "plan")
    gate, send = Gate(name="agree"), Task(name="send", agent="nobody", after=("agree",))
    without = ("planner", "worker", "gatekeeper", "auditor")
    async with local_mesh(tmp_path, sync_interval="2m", log_dir=tmp_path / "log", without=without) as mesh:
        who = mesh.mesh.credentials_of("planner")
        async with await connect(who.server, who.user, who.password, name="test") as planner:

            async def says_the_planner(command: AnyCommand) -> None:
                subject = subjects.command(address, verb_of(command), "planner")
                await planner.publish(subject, encode(command))

            created = CreatePlan(id="c", plan=Plan(name="Send it", steps=(gate, send)), goal_digest="d")
            await says_the_planner(created)
            asked = asyncio.create_task(revise.revise("plan", instruction="just send it", id="r", session=here))
            async with here.operator() as operator:
                async for state, _ in operator.watch(address):
                    if state.requests:
                        break
            around = Plan(name="Send it", steps=(gate, Task(name="send", agent="nobody")))
            await says_the_planner(ProposeRevision(id="p-r", request="r", plan=around, by_planner=True))
            refused = await says(asked)

            named = refused.err.split("--proposed ")[-1].split()[0]
            allowed = asyncio.create_task(revise.revise("plan", proposed=named, id="a", session=here))
            async with here.operator() as operator:
                async for state, _ in operator.watch(address):
                    if "a" in state.requests:
                        break
                request = state.requests["a"]
                assert (request.reason, request.base) == ("just send it", 1)
                await says_the_planner(ProposeRevision(id="p-a", request="a", plan=around))
                done = await says(allowed)
                state = await operator.state(address)

    assert refused.code == FAILED
    assert "step send goes around gate agree, which nobody has decided" in refused.err
    assert f"planmesh --data-dir {tmp_path} revise plan --proposed" in refused.err
    assert (done.code, state.revision, state.steps["send"].status) == (COMPLETED, 2, "dispatched")


# --- questions ---------------------------------------------------------------------------------------------

QUESTION = {
    "kind": "ask",
    "name": "how-many",
    "type": "number",
    "prompt": "How many?",
    "default": 80,
    "escalate": [{"after_s": 3600, "to": ["person:grace"]}],
}


async def test_a_question_is_listed_shown_and_answered(desk: Desk, says: Any) -> None:
    await says(run.run(desk.file("asking", QUESTION), id="ask-1", wait=False, session=desk.session()))

    listed = await says(gates.list_(plan="ask-1", session=desk.session()))
    assert listed.lines[0].split() == ["PLAN", "STEP", "KIND", "OPENED", "OVERDUE", "FOR", "QUESTION"]
    assert "how-many  ask" in listed.lines[1]
    shown = (await says(gates.show("ask-1", "how-many", session=desk.session()))).lines
    assert {"How many?", "It takes a number", "Default: 80", "In 1 h, person:grace may answer as well"} <= set(shown)
    offered = [line for line in (await says(_show(desk, "ask-1"))).lines if " answer ask-1 how-many NUMBER" in line]
    assert len(offered) == 1
    with pytest.raises(NotUnderstood, match=r"expected a number; found a text\. Nothing was answered"):
        await gates.answer("ask-1", "how-many", "many", session=desk.session())
    with pytest.raises(NotUnderstood, match="is no gate, but an ask: `answer` answers it"):
        await gates.approve("ask-1", "how-many", session=desk.session())
    said = await says(gates.answer("ask-1", "how-many", "-3", reason="a debt", session=desk.session()))

    assert said.code == COMPLETED
    assert said.lines[0].startswith("how-many answered -3 by root: a debt  (no. ")
    assert "answered -3 by root" in (await says(_show(desk, "ask-1"))).out
    with pytest.raises(PlanmeshError, match=r"ask how-many of plan root\.ask-1 is not open: it is completed"):
        await gates.answer("ask-1", "how-many", "4", session=desk.session())


async def test_whoever_runs_a_plan_without_waiting_learns_how_to_answer(desk: Desk, says: Any) -> None:
    said = await says(
        run.run(
            desk.file("choosing", {"kind": "ask", "name": "way", "options": ["left", "sharp right"]}),
            id="ask-2",
            wait=False,
            session=desk.session(),
        )
    )

    assert said.code == WAITING
    shown = (await says(_show(desk, "ask-2"))).out
    assert "answer ask-2 way left" in shown
    assert "answer ask-2 way 'sharp right'" in shown
