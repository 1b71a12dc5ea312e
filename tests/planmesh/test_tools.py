"""Functions as tools: what they declare, and what a call of one can come to, whoever asks for it."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planmesh import Context, Permissions, ToolError, agent, tool
from planmesh.agents import find
from planmesh.context import Tool
from planmesh.errors import Unusable
from planmesh.schemas.subjects import Address
from planmesh.tools import MARK


def of(function: Callable[..., Any]) -> Tool:
    found: Tool = getattr(function, MARK)
    return found


def attempt(*functions: Callable[..., Any]) -> Context:
    return Context(
        address=Address("shop", "p"),
        step="s",
        attempt=1,
        key="shop.p.s.1",
        permissions=Permissions(),
        tools={one.name: one for one in map(of, functions)},
    )


@dataclass
class Place:
    city: str
    floor: int = 0


@tool(idempotent=True, permissions=Permissions(network=("maps.example.com",)))
def find_way(place: Place, by: Literal["foot", "train"] = "foot", stops: list[str] | None = None) -> dict[str, Any]:
    """Find the way to a place.

    Gives minutes.
    """
    return {"city": place.city, "by": by, "stops": stops}


# --- what a tool declares ------------------------------------------------------------------------------------


def test_a_tool_is_described_by_its_docstring_and_its_annotations() -> None:
    described = of(find_way).description

    assert described.name == "find_way"
    assert described.description == "Find the way to a place.\n\nGives minutes."
    assert described.permissions.network == ("maps.example.com",)
    assert described.idempotent
    assert described.parameters == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place"},
            "by": {"enum": ["foot", "train"], "default": "foot"},
            "stops": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        },
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "title": "Place",
                "type": "object",
                "properties": {"city": {"type": "string"}, "floor": {"type": "integer", "default": 0}},
                "required": ["city"],
            }
        },
    }


def test_a_tool_stays_a_plain_function() -> None:
    assert find_way(Place("Rome"), by="train") == {"city": "Rome", "by": "train", "stops": None}


class Opaque:
    pass


def takes_what_json_has_no_form_for(what: Opaque) -> None: ...
def takes_anything(**what: Any) -> None: ...
def takes_places(*what: int) -> None: ...
def takes_an_unknown(what: "Unheard") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (takes_what_json_has_no_form_for, {}, "JSON has no form for its parameters"),
        (takes_anything, {}, r"arguments arrive by name, so `\*\*what: Any` cannot be a parameter"),
        (takes_places, {}, "arguments arrive by name"),
        (takes_an_unknown, {}, "its annotations cannot be read: name 'Unheard' is not defined"),
        (find_way, {"name": "Find Way"}, "its name must be a-z 0-9 first.*found 'Find Way'"),
        (find_way, {"description": "x" * 4_001}, "a description has at most 4,000 characters; this one has 4,001"),
        (find_way, {"permissions": Permissions(secrets=("a b",))}, r"what it declares is not understood: .*secrets"),
        (find_way, {"timeout_s": 0}, "timeout_s must be above 0; found 0"),
    ],
)
def test_what_cannot_be_a_tool_says_why(function: Callable[..., Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tool(**options)(function)


# --- a call ----------------------------------------------------------------------------------------------------


async def test_a_call_gives_what_the_function_gives_and_is_noted() -> None:
    context = attempt(find_way)

    given = await context.call("find_way", {"place": {"city": "Rome"}, "stops": ["Pisa"]})

    assert given == {"city": "Rome", "by": "foot", "stops": ["Pisa"]}
    (noted,) = context.journal.calls
    assert (noted.kind, noted.name, noted.ok) == ("tool", "find_way", True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Object missing required field `place`"),
        ({"place": "Rome"}, "Expected `object`, got `str` at /place"),
        ({"place": {"city": 7}}, "Expected `str`, got `int` at /place/city"),
        ({"place": {"city": "Rome"}, "by": "car"}, "Invalid enum value 'car' at /by"),
        ({"place": {"city": "Rome"}, "sudo": True}, "Object contains unknown field `sudo`"),
        ({"place": {"city": "Rome"}, "by": None}, "Expected `str`, got `null` at /by"),
        (["Rome"], "Expected `object`, got `array`"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_and_the_function_is_not_called(arguments: Any, said: str) -> None:
    context = attempt(find_way)

    with pytest.raises(ToolError) as caught:
        await context.call("find_way", arguments)

    assert str(caught.value) == f"the arguments of find_way do not fit: {said}"
    assert [call.ok for call in context.journal.calls] == [False]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(name=st.text() | st.just("find_way"), arguments=_JSON)
def test_whatever_a_model_asks_for_a_call_gives_or_says_why_not(name: str, arguments: Any) -> None:
    context = attempt(find_way)

    with contextlib.suppress(ToolError):
        asyncio.run(context.call(name, arguments))

    assert len(context.journal.calls) + len(context.journal.denials) == 1


async def test_a_tool_that_the_step_does_not_permit_is_denied_and_noted() -> None:
    context = attempt(find_way)

    with pytest.raises(ToolError, match="you have no tool of this name; your tools are: find_way"):
        await context.call("rm_rf\x1b[2J\u202e", {})

    (denial,) = context.journal.denials
    assert (denial.what, denial.why) == ("tool rm_rf\ufffd[2J\ufffd", "the tools of this step are: find_way")
    assert context.journal.calls == ()


async def test_a_tool_may_ask_for_the_context_and_each_call_has_a_key_of_its_own() -> None:
    seen: list[Context] = []

    @tool(permissions=Permissions(secrets=("key",)))
    def pay(context: Context, amount: int) -> None:
        seen.append(context)

    context = attempt(pay)
    await context.call("pay", {"amount": 1})
    await context.call("pay", {"amount": 1})
    with pytest.raises(ToolError, match="unknown field `context`"):
        await context.call("pay", {"amount": 1, "context": {}})

    assert [one.key for one in seen] == ["shop.p.s.1.1", "shop.p.s.1.2"]
    assert seen[0].permissions == Permissions(secrets=("key",))
    assert seen[0].tools == {}


async def test_what_a_tool_raises_is_told_without_its_traceback() -> None:
    @tool
    def break_down() -> None:
        raise ValueError("the disk is " + "very " * 200 + "full")

    @tool
    async def explain() -> None:
        raise ToolError("no page has this address; search first")

    context = attempt(break_down, explain)

    with pytest.raises(ToolError) as raised:
        await context.call("break_down", {})
    with pytest.raises(ToolError, match=r"^no page has this address; search first$"):
        await context.call("explain", {})

    assert str(raised.value).startswith("break_down failed: ValueError: the disk is very very")
    assert len(str(raised.value)) < 600


async def _cancelled_from_within() -> None:
    child = asyncio.create_task(asyncio.sleep(10))
    child.cancel()
    await child


async def _exits() -> None:
    sys.exit(3)


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", [_cancelled_from_within, _exits, _interrupted])
async def test_what_is_meant_to_end_a_task_or_a_process_fails_a_call(function: Callable[..., Any]) -> None:
    context = attempt(tool(name="ends")(function))

    with pytest.raises(ToolError, match="ends failed"):
        await context.call("ends", {})


async def test_a_call_that_takes_too_long_is_given_up_in_a_loop_or_in_a_thread() -> None:
    released = threading.Event()

    @tool(timeout_s=0.05)
    def wait_in_a_thread() -> None:
        released.wait(30)

    @tool(timeout_s=0.05, idempotent=True)
    async def wait() -> None:
        await asyncio.sleep(30)

    context = attempt(wait_in_a_thread, wait)
    try:
        with pytest.raises(ToolError) as in_a_thread:
            await context.call("wait_in_a_thread", {})
        with pytest.raises(ToolError) as in_the_loop:
            await context.call("wait", {})
    finally:
        released.set()

    assert str(in_a_thread.value) == (
        "wait_in_a_thread gave no answer within 0.05 s; it may have had its effect all the same"
    )
    assert str(in_the_loop.value) == "wait gave no answer within 0.05 s"


async def test_whoever_cancels_the_attempt_cancels_its_calls() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    call = asyncio.create_task(attempt(wait).call("wait", {}))
    await begun.wait()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_a_coroutine_hears_that_the_plan_no_longer_wants_the_output() -> None:
    context = attempt()
    heard = asyncio.create_task(context.cancelled.heard())
    await asyncio.sleep(0)

    threading.Thread(target=context.cancelled.set).start()

    await asyncio.wait_for(heard, 10)
    await asyncio.wait_for(context.cancelled.heard(), 10)


async def test_more_than_a_message_may_hold_is_not_noted() -> None:
    context = attempt(find_way)
    for _ in range(600):
        with pytest.raises(ToolError):
            await context.call("find_way", {})
        with pytest.raises(ToolError):
            await context.call("other", {})

    assert (len(context.journal.calls), len(context.journal.denials)) == (500, 100)


# --- where they are found --------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


_THINKER = "from planmesh import agent\n@agent(uses_tools=True)\nasync def think(task: str): ...\n"
_TOOLS = "from planmesh import tool\n@tool\ndef grep(words: str): 'Find words.'\n@tool\ndef ask(): ...\n"


def test_an_agent_that_uses_tools_is_found_with_all_of_them(module: Callable[[str, str], str]) -> None:
    plain = "from planmesh import agent\n@agent\ndef plain(): ...\n"

    found = find([module("a_thinker", _THINKER), module("some_tools", _TOOLS), module("plain_one", plain)])

    described = found["think"].description.tools
    assert described is not None
    assert [(one.name, one.description) for one in described] == [("ask", ""), ("grep", "Find words.")]
    assert sorted(found["think"].tools or ()) == ["ask", "grep"]
    assert (found["plain"].tools, found["plain"].description.tools) == (None, None)


def test_more_than_a_worker_can_tell_of_is_refused(module: Callable[[str, str], str]) -> None:
    many = (
        "from planmesh import tool\n"
        "for n in range(400): globals()[f't{n}'] = tool(name=f't{n}', description='x' * 4_000)(lambda: None)\n"
    )

    with pytest.raises(Unusable, match=r"the descriptions of 400 tools have 1,6\d\d,\d\d\d bytes together"):
        find([module("a_thinker", _THINKER), module("many_tools", many)])


def test_an_agent_that_uses_tools_and_finds_none_says_so() -> None:
    @agent(uses_tools=True)
    async def think() -> None: ...

    assert think.__planmesh_agent__.description.tools == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"only_tools": _TOOLS}, r"there are tools here \(ask, grep\) and no agent that uses tools.*planmesh\.llm"),
        ({"nothing": "x = 1"}, "module 'nothing' has no agent and no tool"),
        (
            {"a_thinker": _THINKER, "one": _TOOLS, "other": _TOOLS},
            r"two tools are called 'grep': one\.grep and other\.grep; .*@tool\(name=\.\.\.\)",
        ),
    ],
)
def test_tools_that_cannot_be_used_are_named(
    module: Callable[[str, str], str], modules: dict[str, str], said: str
) -> None:
    with pytest.raises(Unusable, match=said):
        find([module(name, text) for name, text in modules.items()])
