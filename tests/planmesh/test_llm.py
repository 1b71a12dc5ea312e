"""The loop of the agent `llm` by itself, with models that do anything."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_server import Answer, ModelServer, calls, model_server, says

from planmesh import Context, Permissions, tool
from planmesh.agents import Rejected
from planmesh.llm import ModelAway, llm
from planmesh.schemas.subjects import Address
from planmesh.telemetry import configure_logging
from planmesh.tools import MARK

pytestmark = pytest.mark.timeout(300)  # many small servers


@pytest.fixture(autouse=True)
def quiet() -> None:
    configure_logging("error", "json")


def attempt(*tools: Callable[..., Any]) -> Context:
    here = [getattr(one, MARK) for one in tools]
    return Context(
        address=Address("shop", "p"),
        step="s",
        attempt=1,
        key="shop.p.s.1",
        permissions=Permissions(),
        tools={one.name: one for one in here},
    )


async def think(model: ModelServer, at: Context, **inputs: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**model.environment(), "PLANMESH_MODEL__RETRIES": "0"}.items():
            environment.setenv(name, value)
        return await llm(at, **{"task": "Do it", **inputs})


async def test_inputs_of_any_name_are_told_to_the_model() -> None:
    with model_server(says("Hi")) as model:
        await think(model, attempt(), context={"who": "Ada"}, tone="warm")

        assert model.said() == 'Do it\n\ncontext:\n{"who":"Ada"}\n\ntone:\nwarm'


async def test_a_model_that_wants_tools_where_there_are_none_goes_on_without() -> None:
    context = attempt()
    with model_server(calls(("search", {})), says("From memory")) as model:
        given = await think(model, context)

    assert (given["text"], given["tool_calls"]) == ("From memory", 0)
    assert [(one.what, one.why) for one in context.journal.denials] == [
        ("tool search", "the tools of this step are: none")
    ]


async def test_a_tool_may_have_the_name_that_the_form_of_an_answer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_MODEL__STRUCTURED", "tool")

    @tool
    def answer() -> str:
        return "forty-two"

    form = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with model_server(calls(("answer", {})), calls(("Answer", {"n": 42}))) as model:
        given = await think(model, attempt(answer), schema=form)

    assert (given["output"], given["tool_calls"]) == ({"n": 42}, 1)


_NAMES = st.sampled_from(["look", "break_down", "other", "", "LOOK", "look\n", "Answer", "final_result"])
_ARGUMENTS = st.sampled_from([{}, {"n": 1}, {"n": "1"}, {"n": 1, "m": 2}, "", "null", "[1]", "{", '{"n": 1}', '"n"'])
_ANSWERS = st.one_of(
    st.builds(
        says, st.sampled_from(["", " ", "Done", "{}", '{"n": 1}', "\ud83e"]), finish=st.sampled_from(["stop", "length"])
    ),
    st.lists(st.tuples(_NAMES, _ARGUMENTS), min_size=1, max_size=4).map(lambda wanted: calls(*wanted)),
    st.lists(st.tuples(_NAMES, _ARGUMENTS), min_size=1, max_size=2).map(lambda wanted: calls(*wanted, text="So")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(_ANSWERS, min_size=1, max_size=5), most=st.integers(1, 6), formed=st.booleans())
def test_whatever_a_model_does_the_step_ends_within_what_it_permits(
    script: Sequence[Answer], most: int, formed: bool
) -> None:
    seen: list[int] = []

    @tool
    def look(n: int) -> int:
        seen.append(n)
        return n

    @tool
    async def break_down() -> None:
        raise OSError("no")

    context = attempt(look, break_down)
    form = {"schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}} if formed else {}
    given: dict[str, Any] = {}
    with model_server(*script) as model:
        try:
            given = asyncio.run(think(model, context, max_iterations=most, **form))
        except (Rejected, ModelAway) as error:
            assert str(error), error  # noqa: PT017

        asked = len(model.requests)

    assert asked <= most
    offered = {one["function"]["name"] for request in model.requests for one in request.get("tools") or ()}
    assert offered == {"look", "break_down"}
    assert set(seen) <= {1}
    models = [call for call in context.journal.calls if call.kind == "model"]
    tools = [call for call in context.journal.calls if call.kind == "tool"]
    assert len(models) == asked
    assert {call.name for call in tools} <= {"look", "break_down"}
    assert all(denial.what not in ("tool look", "tool break_down") for denial in context.journal.denials)
    if given:
        assert (given["iterations"], given["tool_calls"]) == (asked, len(tools))
        assert given["usage"]["input_tokens"] == sum(call.input_tokens for call in models)
        if formed and not given["exhausted"]:
            assert isinstance(given["output"]["n"], int)


@pytest.mark.parametrize("size", [4_000, 100_000])
async def test_what_the_model_said_is_given_whole(size: int) -> None:
    with model_server(says("x" * size)) as model:
        given = await think(model, attempt())

    assert given["text"] == "x" * size
