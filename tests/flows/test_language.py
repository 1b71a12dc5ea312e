"""Scripts on a real mesh: what the language says is what happens."""

from pathlib import Path
from typing import Any

import pytest
from flows import Flow
from promises import expect_promises

from planmesh.schemas.commands import AnswerAsk
from planmesh.schemas.events import AskOpened
from planmesh.schemas.state import PlanState, PlanStatus, StepStatus, open_asks
from planmesh.schemas.subjects import Address
from planmesh.steering import Refused, new_command_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES = Path(__file__).parents[1] / "planner" / "language" / "examples"


async def answer(flow: Flow, address: Address, step: str, value: Any) -> None:
    state = await flow.until(address, lambda state: step in open_asks(state))
    opened = state.steps[step].opened
    assert isinstance(opened, AskOpened)
    await flow.command(address, AnswerAsk(id=new_command_id(), step=step, digest=opened.digest, value=value))


async def ended(flow: Flow, address: Address) -> PlanState:
    return await flow.until(address, lambda state: state.status is PlanStatus.COMPLETED)


@pytest.mark.parametrize("form", ["", "flat"])
@pytest.mark.parametrize(
    ("said", "outcome", "result"),
    [
        ("approve", "Approved", "a report"),
        ("request_changes", "Revised", "a better report"),
        ("reject", "Rejected", "Rejected by reviewer"),
    ],
)
async def test_the_human_in_the_loop_comes_to_each_of_its_ends(
    flow: Flow, said: str, outcome: str, result: str, form: str
) -> None:
    text = (EXAMPLES / form / "human-in-the-loop.plan").read_text()
    submitted = await flow.client.submit(text, inputs={"topic": "bees"})

    await answer(flow, submitted.address, "approve-report", said)
    if said == "request_changes":
        await answer(flow, submitted.address, "provide-edits", "Shorter, please.")

    state = await ended(flow, submitted.address)
    assert (state.outcome, state.result.value) == (outcome, result)
    await expect_promises(flow.operator, submitted.address)


async def test_an_invalid_answer_is_counted_and_the_question_stays_open(flow: Flow) -> None:
    text = (EXAMPLES / "human-in-the-loop.plan").read_text()
    submitted = await flow.client.submit(text, inputs={"topic": "bees"})

    with pytest.raises(Refused, match="expected one of approve, request_changes, reject"):
        await answer(flow, submitted.address, "approve-report", "maybe")
    await answer(flow, submitted.address, "approve-report", "reject")

    state = await ended(flow, submitted.address)
    assert state.steps["approve-report"].output.value["attempt"] == 2


async def test_items_are_steps_of_their_own_and_a_plan_that_is_run_has_a_record_of_its_own(flow: Flow) -> None:
    text = """\
each page in pages parallel 2
  do "Read" with echo
    value = page
    -> read
  decide "Of use?" with rules
    when read.words > 10 -> "Yes"
    otherwise -> "No"
  "Yes":
    agent "Summarise" with llm
      task = "Summarise {read.title}"
      tools = []
      max_iterations = 1
      -> summary
    emit "Kept"
      result = "{read.title}: {summary.text}"
  "No":
    emit "Dropped"
-> summaries

run mission
  summaries = summaries
  -> filed

emit "Done"
  result = { how: filed.outcome, what: filed.result }
"""
    mission = 'do "File" with echo\n  value = summaries\n  -> kept\nemit "Filed"\n  result = kept\n'
    pages = [{"title": "Bees", "words": 100}, {"title": "Ants", "words": 3}, {"title": "Wasps", "words": 50}]
    submitted = await flow.client.submit(text, inputs={"pages": pages, "mission": mission})

    state = await ended(flow, submitted.address)

    assert state.result.value == {"how": "Filed", "what": ["Bees: in short", None, "Wasps: in short"]}
    assert {name for name in state.steps if name.startswith("read_")} == {"read_1", "read_2", "read_3"}
    assert state.steps["summarise_2"].status is StepStatus.NOT_TAKEN
    child = await flow.operator.state(Address(submitted.address.space, state.steps["run-filed"].child))
    assert (child.status, child.outcome) == (PlanStatus.COMPLETED, "Filed")
    assert child.parent is not None
    assert (child.parent.plan, child.parent.step) == (submitted.address.plan, "run-filed")
