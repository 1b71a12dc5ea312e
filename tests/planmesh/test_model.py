"""Talking to a model: a real client against a real server that speaks the protocol."""

import gzip
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_server import Answer, Script, calls, fails, gives, hangs, model_server, says, sends
from pydantic import SecretStr
from pydantic_ai import Agent

from planmesh.errors import Busy, Poison, Unusable
from planmesh.model import NoModel, check_model, explained, open_model, redactor
from planmesh.settings import Model


async def ask(*script: Script, said: str = "Hi", **configured: Any) -> tuple[str, Any]:
    """What a model says that answers by *script*, and the server."""
    with model_server(*script) as server:
        settings = Model(**{"name": "small", "base_url": server.base_url, "timeout_s": 30, **configured})
        async with open_model(settings) as model:
            with explained():
                result = await Agent(model, output_type=str).run(said)
        return result.output, server


async def test_a_model_is_asked_as_the_settings_say() -> None:
    said, server = await ask(says("Hello there"), api_key=SecretStr("geheim"), temperature=0.25, max_tokens=77)

    (request,) = server.requests
    assert said == "Hello there"
    assert (request["model"], request["temperature"]) == ("small", 0.25)
    assert request.get("max_completion_tokens", request.get("max_tokens")) == 77
    assert server.headers[0]["authorization"] == "Bearer geheim"


async def test_what_is_not_set_is_left_to_the_endpoint() -> None:
    _, server = await ask(says("Hello"))

    assert "temperature" not in server.requests[0]


async def test_a_key_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")

    _, server = await ask(says("Hello"), api_key_file=tmp_path / "key")

    assert server.headers[0]["authorization"] == "Bearer from-a-file"


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", "schlüssel"])
async def test_a_file_with_anything_but_a_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)

    with pytest.raises(Unusable, match=r"expected a key and nothing else in .*key"):
        await ask(says("Hello"), api_key_file=tmp_path / "key")


async def test_a_setting_with_anything_but_a_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(Unusable, match=r"^expected a key and nothing else in model.api_key$"):
        await ask(says("Hello"), api_key=SecretStr("geheim\n"))


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"cannot read the model's key in .*nowhere.*: No such file"):
        await ask(says("Hello"), api_key_file=tmp_path / "nowhere")


async def test_the_key_of_openai_goes_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai-alone")

    _, server = await ask(says("Hello"))

    assert "sk-for-openai-alone" not in str(server.headers)


def test_the_key_is_in_no_repr() -> None:
    assert "geheim" not in repr(Model(name="m", api_key=SecretStr("geheim")))


# --- what there is not -------------------------------------------------------------------------------------


def test_no_model_is_configured_unless_it_is() -> None:
    with pytest.raises(NoModel, match=r"no model is configured: set PLANMESH_MODEL__NAME"):
        check_model(Model())


async def test_openai_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(NoModel, match="OpenAI wants a key"):
        async with open_model(Model(name="gpt")):
            pass


def test_whoever_asks_for_no_model_does_not_wait_for_pydantic_ai() -> None:
    loaded = "import sys, planmesh.model; print(any(name.startswith('pydantic_ai') for name in sys.modules))"

    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)

    assert said.stdout == "False\n"


def test_without_the_extra_it_says_what_to_install() -> None:
    # For whoever looks for it, a module that is None is not there.
    without = """
import sys
sys.modules["pydantic_ai"] = None
from planmesh.errors import Unusable
from planmesh.model import check_model
from planmesh.settings import Model
try:
    check_model(Model(name="m"))
except Unusable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True)

    assert said.stdout == "what talks to models is not installed here: pip install 'planmesh[llm]'\n"


# --- what goes wrong ---------------------------------------------------------------------------------------


async def test_an_endpoint_that_is_busy_is_asked_again() -> None:
    said, server = await ask(fails(429), fails(500), fails(503), says("At last"))

    assert (said, len(server.requests)) == ("At last", 4)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_after_the_last_try_it_is_busy(status: int) -> None:
    with pytest.raises(Busy, match=rf"the model's endpoint cannot answer now: HTTP {status} too much"):
        await ask(fails(status, "too much"), retries=1)


async def test_an_endpoint_that_is_not_there_is_busy() -> None:
    with model_server() as server:
        gone = server.base_url

    with pytest.raises(Busy, match=r"the model cannot be reached \(model.base_url\)"):
        await ask(base_url=gone, retries=0)


@pytest.mark.parametrize("script", [hangs(), sends(b" ", endless=True)])
async def test_an_answer_that_does_not_end_is_not_waited_for(script: Script) -> None:
    with pytest.raises((Busy, Poison), match=r"did not answer in time|more than 1,024 bytes"):
        await ask(script, timeout_s=0.3, retries=0, answer_bytes=1024)


async def test_the_time_is_for_all_tries_together() -> None:
    with model_server(hangs()) as server:
        async with open_model(Model(name="m", base_url=server.base_url, timeout_s=0.5, retries=20)) as model:
            with pytest.raises(Busy, match="did not answer in time"), explained():
                await Agent(model).run("Hi")

        assert len(server.requests) <= 2


async def test_a_huge_answer_is_not_read_to_its_end() -> None:
    with pytest.raises(Poison, match=r"the model's answer has more than 100,000 bytes \(model.answer_bytes\)"):
        await ask(says("x" * 1_000_000), answer_bytes=100_000)


@pytest.mark.parametrize(
    "body",
    [b"<html>no</html>", b"", b"[]", b"{}", b'"text"', b'{"choices": []}', b'{"choices": [{"message": 1}]}', b"\xff"],
)
async def test_what_is_no_completion_is_poison(body: bytes) -> None:
    with pytest.raises(Poison, match=r"cannot be used|not answer in JSON"):
        await ask(sends(body), retries=0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fails(401, "Incorrect API key: geheim"), r"does not accept the key \(model.api_key, model.api_key_file\)$"),
        (fails(404, "unknown"), r"the endpoint has no model 'small' \(model.name, model.base_url\): HTTP 404 unknown"),
        (fails(429, "pay", code="insufficient_quota"), "no more credit for this key: HTTP 429 pay"),
    ],
)
async def test_what_somebody_has_to_change_is_unusable(answer: Script, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        await ask(answer, retries=0)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429, 500, 503])
async def test_a_key_that_an_endpoint_repeats_is_in_nothing_that_is_told(status: int) -> None:
    key = "sk-" + "0123456789abcdef" * 2

    with pytest.raises((Busy, Poison, Unusable)) as raised:
        await ask(fails(status, f"no such key: {key}, {key}"), api_key=SecretStr(key), retries=0)

    assert key not in "".join(traceback.format_exception(raised.value))


async def test_a_key_in_an_answer_is_hidden_and_a_word_that_is_none_is_not() -> None:
    key = "sk-" + "0123456789abcdef" * 2

    hidden, _ = await ask(says(f"it is {key}, {key[:9]}"), api_key=SecretStr(key))
    plain, _ = await ask(says("it is none"), api_key=SecretStr("none"))

    assert hidden == f"it is [key], {key[:9]}"
    assert plain == "it is none"


@given(st.text("ab", min_size=1, max_size=4), st.lists(st.text("abc", max_size=5)))
def test_a_key_is_hidden_wherever_it_is_cut(key: str, chunks: list[str]) -> None:
    hide = redactor(key)

    said = b"".join([*(hide(chunk.encode(), False) for chunk in chunks), hide(b"", True)])

    assert said == "".join(chunks).encode().replace(key.encode(), b"[key]")


async def test_no_more_of_an_error_is_read_than_the_beginning() -> None:
    with pytest.raises(Busy) as raised:
        await ask(sends(b"broken " * 100_000, status=500), retries=0)

    assert len("".join(traceback.format_exception(raised.value))) < 60_000


async def test_an_answer_that_is_compressed_is_refused() -> None:
    packed = Answer(body=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})

    with pytest.raises(Poison, match="compresses its answer"):
        await ask(packed, retries=0)


async def test_a_request_that_is_refused_is_poison() -> None:
    with pytest.raises(Poison, match="refuses the request: HTTP 400 a b"):
        await ask(fails(400, "a\nb"), retries=0)


# --- the server of the tests -------------------------------------------------------------------------------


async def test_tools_are_called_with_what_the_model_says() -> None:
    with model_server(calls(("add", {"left": 2, "right": 3})), lambda request: says(_last(request))) as server:
        async with open_model(Model(name="m", base_url=server.base_url)) as model:
            agent = Agent(model)

            @agent.tool_plain
            def add(left: int, right: int) -> int:
                return left + right

            result = await agent.run("2 + 3")

    assert result.output == "5"
    assert (result.usage.input_tokens, result.usage.output_tokens) == (22, 14)


def _last(request: dict[str, Any]) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


async def test_answers_can_be_streamed() -> None:
    with model_server(says("one two three"), calls(("now", {})), gives({"a": 1})) as server:
        async with open_model(Model(name="m", base_url=server.base_url)) as model:
            agent = Agent(model)
            async with agent.run_stream("count") as streamed:
                said = await streamed.get_output()
            usage = streamed.usage

    assert said == "one two three"
    assert (usage.input_tokens, usage.output_tokens) == (11, 7)
    assert server.requests[0]["stream"] is True
