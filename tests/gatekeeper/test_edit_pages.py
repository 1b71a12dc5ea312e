"""Editing what comes next on a page: seen before it is sent, by the rules of the executor and the planner."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html import unescape
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HERE, NASTY
from whole import Whole, whole

from planmesh.gatekeeper.web.edit import document_of, wrongs
from planmesh.planner.document import read_document
from planmesh.planner.problems import Problems
from planmesh.schemas import commands as asks
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.events import GateOpened, PlanCreated, PlanRevised, RevisionRequested, VoteCast
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import Plan, Task
from planmesh.schemas.state import PlanState, StepState, StepStatus, evolve
from planmesh.testing import MeshServer

AGENT = {"agent": "agent"}


def pay(**inputs: Any) -> dict[str, Any]:
    return {"kind": "task", "name": "pay", "after": ["ok"], "inputs": inputs, **AGENT}


def document(*after: dict[str, Any], **rules: Any) -> dict[str, Any]:
    gate = {"kind": "gate", "name": "ok", "reviewers": ["team:finance"], "prompt": "Pay?", **rules}
    return {"name": "Pay", "steps": [gate, *after]}


@pytest.fixture
async def site(mesh_server: MeshServer) -> AsyncIterator[Whole]:
    async with whole(mesh_server) as running:
        yield running


async def edit(site: Whole, change: Any, person: str = "ada", decision: str = "preview", **fields: str) -> Any:
    """Open the editor, change its text, and post it."""
    where = site.link(person).replace("?", "/edit?")
    raw = (await site.http.get(where)).text
    found = re.search(r"<textarea class=\"script\"[^>]*>\n(.*?)</textarea>", raw, re.DOTALL)
    assert found is not None, raw
    text = change(unescape(found[1]))
    return await post(site, where, raw, text, decision, **fields)


async def post(site: Whole, where: str, raw: str, text: str, decision: str, **fields: str) -> Any:
    form = re.search(r'name="form" value="([^"]+)"', raw)
    seen = re.search(r'name="seen" value="([^"]*)"', raw)
    assert form is not None
    assert seen is not None
    said = {"seen": seen[1], "document": text.replace("\n", "\r\n"), **fields}
    return await site.post(where, form=form[1], decision=decision, **said)


async def revisions(site: Whole) -> list[PlanRevised]:
    return [event for event in await site.events() if isinstance(event, PlanRevised)]


async def test_a_reviewer_sees_what_an_edit_changes_and_then_sends_it(site: Whole) -> None:
    notify = {"kind": "task", "name": "tell", "after": ["pay"], "inputs": {}, **AGENT}
    await site.create(HERE, document(pay(total=100), notify))
    where = site.link().replace("?", "/edit?")

    def halved(text: str) -> str:
        assert "# this gate" in text
        kept = text[: text.index("  - name: tell")]
        return f"{kept.replace('total: 100', 'total: 50')}  - {{name: log, kind: task, agent: agent, after: [pay]}}\n"

    answer = await edit(site, halved)
    text = unescape(answer.text)
    assert answer.status_code == 200
    rows = dict(re.findall(r'<span class="tag [a-z]*">([^<]+)</span></dt><dd>([^<]*)</dd>', text))
    assert rows == {"Changed": "pay", "New": "log", "Dropped": "tell", "Asks again": "ok"}
    assert "Nothing has been sent yet" in text
    assert not any(isinstance(event, RevisionRequested) for event in await site.events())

    written = re.search(r"<textarea class=\"script\"[^>]*>\n(.*?)</textarea>", answer.text, re.DOTALL)
    assert written is not None
    sent = await post(site, where, answer.text, unescape(written[1]), "send", reason="half is enough")

    assert sent.status_code == 303
    (revised,) = await revisions(site)
    assert revised.by == "ada"
    assert [step.name for step in revised.plan.steps] == ["ok", "pay", "log"]
    _, text = await site.read(site.link("bob"))
    assert "Why this is asked again" in text
    assert "<b>Ada Lovelace</b> edited what comes next:" in text
    assert "half is enough" in text
    assert "<del>100</del>" in text
    assert "<ins>50</ins>" in text
    assert "<b>You</b> edited what comes next" in (await site.read(site.link()))[1]
    assert not any(isinstance(event, VoteCast) for event in await site.events())


async def test_nothing_is_sent_that_was_not_seen(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))
    where = site.link().replace("?", "/edit?")

    answer = await edit(site, lambda text: text.replace("100", "50"), decision="send")
    assert "Nothing has been sent yet" in answer.text
    again = await post(site, where, answer.text, "steps: []\n", "send")
    assert again.status_code == 400
    same = await edit(site, lambda text: text, decision="send", seen="x")
    assert "This changes nothing: the steps are as they were" in same.text
    assert "Send this change" not in same.text

    assert await revisions(site) == []


async def test_what_is_wrong_is_said_with_its_line(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))

    answer = await edit(site, lambda text: text.replace("agent: agent", "agent: agnet"))
    text = unescape(answer.text)
    assert answer.status_code == 400
    assert re.search(r"Line \d+: ", text)
    assert "agent: agnet" in text
    assert 'aria-invalid="true" aria-describedby="errors"' in text
    answer = await edit(site, lambda text: f"{text}  - name: [unclosed\n")
    assert (answer.status_code, "Line " in answer.text) == (400, True)
    answer = await edit(site, lambda _: "")
    assert (answer.status_code, "There are no steps in it" in answer.text) == (400, True)
    answer = await edit(site, lambda _: "steps: " + "x" * 140_000)
    assert answer.status_code == 413

    assert not any(isinstance(event, RevisionRequested) for event in await site.events())


async def test_an_edit_of_a_plan_that_was_revised_meanwhile_overwrites_nothing(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))
    where = site.link().replace("?", "/edit?")
    raw = (await site.http.get(where)).text
    await edit_and_send(site, lambda text: text.replace("100", "70"), "bob")

    answer = await post(site, where, raw, "steps: [{name: pay, kind: task, agent: agent}]", "preview")

    assert answer.status_code == 409
    assert "revised while you wrote" in answer.text
    assert len(await revisions(site)) == 1


async def edit_and_send(site: Whole, change: Any, person: str) -> None:
    answer = await edit(site, change, person)
    written = re.search(r"<textarea class=\"script\"[^>]*>\n(.*?)</textarea>", answer.text, re.DOTALL)
    assert written is not None
    where = site.link(person).replace("?", "/edit?")
    assert (await post(site, where, answer.text, unescape(written[1]), "send")).status_code == 303


async def test_whoever_may_not_answer_may_not_edit_either(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100), level="login"))

    by_link = await site.http.get(site.link().replace("?", "/edit?"))
    assert "Sign in to edit this." in by_link.text
    assert "<textarea" not in by_link.text
    assert (await site.http.get(site.link("cleo").replace("?", "/edit?"))).status_code == 200  # whom it is escalated to
    assert (await site.http.get(site.path() + "/edit")).status_code == 401
    forged = await site.http.get(site.path() + "/edit?link=forged")
    assert forged.status_code == 403


async def test_reading_the_editor_changes_nothing(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))
    before = await site.events()

    for verb in ("GET", "HEAD"):
        assert (await site.http.request(verb, site.link().replace("?", "/edit?"))).status_code == 200

    assert await site.events() == before


async def test_a_redirection_that_names_an_older_revision_is_refused(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))
    await edit_and_send(site, lambda text: text.replace("100", "70"), "bob")
    state = await site.state(HERE)
    opened = state.steps["ok"].opened
    assert isinstance(opened, GateOpened)
    command = asks.ReviewGate(
        id="late", step="ok", digest=opened.digest, decision="redirect", groups=("team:finance",), level="login",
        base=1, document="steps: []",
    )  # fmt: skip
    await site.gatekeeper.publish(subjects.command(HERE, "review", "ada"), encode(command))

    await site.until(HERE, lambda state: state.has_answered("ada", "late"))

    assert len(await revisions(site)) == 1


async def test_a_change_in_words_that_could_not_be_made_says_why_and_asks_again(site: Whole) -> None:
    await site.create(HERE, document(pay(total=100)))

    await site.answer(site.link(), "redirect", instruction="pay <b>half</b>")
    await site.until(HERE, lambda state: not state.requests and state.steps["ok"].attempt == 2)
    _, mine = await site.read(site.link())
    raw = (await site.http.get(site.link("bob"))).text

    assert "<b>You</b> asked for a change:" in mine
    assert "It could not be done, and nothing has changed:" in mine
    assert "no model is configured" in mine
    assert 'name="form"' in mine
    assert "<b>Ada Lovelace</b> asked for a change:" in raw
    assert "pay &lt;b&gt;half&lt;/b&gt;" in raw


# --- the document ------------------------------------------------------------------------------------------

tricky = st.sampled_from([NASTY, "a\nb", "  a\n\n b\n", "yes", "12:30", "2020-01-01", "#", "- a", "{x}", "\u2028"])
texts = st.one_of(st.text(max_size=30), tricky)
values = st.recursive(
    st.one_of(texts, st.integers(-(2**53), 2**53), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def created(steps: tuple[Task, ...]) -> PlanState:
    event = PlanCreated(plan=Plan(name="Demo", steps=steps), requester="tester", goal_digest="digest")
    return evolve(PlanState(address=HERE), event, datetime.now(UTC))


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=4))
def test_what_is_to_be_edited_reads_back_as_what_it_was(inputs: list[Any]) -> None:
    steps = tuple(
        Task(name=f"step-{number}", agent="agent", label="é", inputs={"of": value})
        for number, value in enumerate(inputs)
    )
    state = created(steps)

    text = document_of(state, "step-0", 100_000)

    assert text is not None
    assert not set(text) & set("\u202e\u200b\u2028\x1b")
    found = Problems()
    assert read_document(text, found) == {"steps": msgspec.to_builtins(list(steps))}
    assert found.listed() == []


def test_what_has_ended_is_not_in_it_and_what_runs_is() -> None:
    steps = tuple(Task(name=name, agent="agent") for name in ("done", "runs", "next"))
    has = (StepStatus.COMPLETED, StepStatus.DISPATCHED, StepStatus.PENDING)
    state = created(steps)
    states = {step.name: StepState(status=status) for step, status in zip(steps, has, strict=True)}

    text = document_of(msgspec.structs.replace(state, steps=state.steps.update(states)), "next", 10_000)

    assert text is not None
    assert "done" not in text
    assert "# runs now: leave it as it is\n  - name: runs" in text


def test_what_is_too_much_for_a_page_is_not_put_together() -> None:
    state = created(tuple(Task(name=f"s{number}", agent="agent", inputs={"x": "y" * 1_000}) for number in range(100)))

    assert document_of(state, "s0", 50_000) is None
    assert document_of(state, "s0", 500_000) is not None


def test_a_problem_is_found_at_its_line() -> None:
    text = "steps:\n  - name: a\n    kind: task\n"

    (wrong,) = wrongs([Problem(code="x", message="no\u202e", pointer="/steps/0/kind")], text)

    assert (wrong.line, wrong.text, wrong.message) == (3, "    kind: task", "no")
