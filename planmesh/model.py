"""The language model: one endpoint that speaks OpenAI's protocol for chats, as the settings say.

Everything that talks to a model gets it here, as a pydantic-ai model, and hears of what went wrong in our own three
kinds of error. pydantic-ai is an extra (``planmesh[llm]``) and takes a second to import, so nothing here does until a
model is opened.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from planmesh.errors import Busy, PlanmeshError, Poison, Unusable
from planmesh.settings import Model

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from pydantic_ai.models.openai import OpenAIChatModel

EXTRA: Final = "llm"

_OPENAI: Final = "https://api.openai.com/v1"
_CONNECT_S: Final = 10
_CONNECTIONS: Final = 100
_SAID_CHARACTERS: Final = 300
_NAME_CHARACTERS: Final = 60
_ERROR_BYTES: Final = 16 * 1024
_SECRET_CHARACTERS: Final = 16
_HIDDEN: Final = b"[key]"


class NoModel(Unusable):
    """There is no model: none is configured, or what it takes to talk to one is not installed."""


class NotAllowed(Poison):
    """A step asks for what the settings do not allow: another model, or to tell it more."""


def check_model(configured: Model, name: str | None = None) -> None:
    """See whether a model can be opened, without opening one.

    Args:
        name: Another model of the same endpoint.

    Raises:
        NoModel: There is none.
        NotAllowed: The settings do not allow this one.
    """
    if configured.name is None:
        raise NoModel(
            "no model is configured: set PLANMESH_MODEL__NAME; and PLANMESH_MODEL__BASE_URL, unless it is OpenAI's"
        )
    if find_spec("pydantic_ai") is None or find_spec("openai") is None:
        raise NoModel(f"what talks to models is not installed here: pip install 'planmesh[{EXTRA}]'")
    if name is not None and configured.choices is not None and name not in configured.choices:
        raise NotAllowed(
            f"a step may choose the model {', '.join(configured.choices)}, and found {name[:_NAME_CHARACTERS]!a}: "
            "the settings allow no other (model.allowed)"
        )


def check_context(configured: Model, text: str) -> None:
    """See whether a model may be told *text*. Raises: NotAllowed."""
    size_bytes = len(text.encode("utf-8", "replace"))
    if size_bytes > configured.context_bytes:
        raise NotAllowed(
            f"a step tells a model {configured.context_bytes:,} bytes at most, and this one has {size_bytes:,} "
            "(model.context_bytes): let a step before it choose, or sum up, what it needs"
        )


@contextlib.asynccontextmanager
async def open_model(configured: Model, name: str | None = None) -> AsyncIterator["OpenAIChatModel"]:
    """The model, until the block ends; its settings (time, tokens, temperature, retries) are the configured ones.

    Any number of requests may be made at once. An agent or a request may have settings of its own, which count for
    more. What goes wrong in a request is raised as one of our errors inside of `explained`.

    Args:
        name: Another model of the same endpoint.

    Raises:
        NoModel, NotAllowed: See `check_model`; or there is no key, and OpenAI wants one.
        Unusable: The key cannot be read.
    """
    check_model(configured, name)
    key = configured.key
    if key is None and configured.base_url is None:
        raise NoModel(
            "OpenAI wants a key: set PLANMESH_MODEL__API_KEY, or PLANMESH_MODEL__BASE_URL for another endpoint"
        )
    # A thread, because to import it all takes longer than a delivery may be left alone.
    client, model = await asyncio.to_thread(_make, configured, name, key)
    try:
        yield model
    finally:
        await client.aclose()


def _make(configured: Model, name: str | None, key: str | None) -> tuple["AsyncClient", "OpenAIChatModel"]:
    import httpx2
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
    from pydantic_ai.settings import ModelSettings

    class Bounded(httpx2.AsyncByteStream):
        """The body of an answer, up to a number of bytes, and without the key."""

        def __init__(self, stream: httpx2.AsyncByteStream, most_bytes: int, *, is_error: bool) -> None:
            self._stream = stream
            self._most_bytes = most_bytes
            self._is_error = is_error
            # Who needs no key is given a word, and answers may well have that.
            self._hide = redactor(key if is_error or len(key or "") >= _SECRET_CHARACTERS else None)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            read_bytes = 0
            async for chunk in self._stream:
                read_bytes += len(chunk)
                if read_bytes > self._most_bytes and self._is_error:
                    break
                if read_bytes > self._most_bytes:
                    raise Poison(f"the model's answer has more than {self._most_bytes:,} bytes (model.answer_bytes)")
                yield self._hide(chunk, False)
            yield self._hide(b"", True)

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # what an asynchronous client gets
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Poison("the model's endpoint compresses its answer, which it was not asked for (model.base_url)")
        most_bytes = min(_ERROR_BYTES, configured.answer_bytes) if response.is_error else configured.answer_bytes
        response.stream = Bounded(response.stream, most_bytes, is_error=response.is_error)

    client = httpx2.AsyncClient(
        timeout=httpx2.Timeout(configured.timeout_s, connect=min(_CONNECT_S, configured.timeout_s)),
        limits=httpx2.Limits(max_connections=_CONNECTIONS),
        event_hooks={"response": [bound]},
        headers={"accept-encoding": "identity"},  # what is compressed has no bound, and hides what is in it
    )
    provider: OpenAIProvider | OpenAICompatibleProvider
    if configured.base_url is None:
        provider = OpenAIProvider(_OPENAI, api_key=key, http_client=client)
    else:
        host = urlsplit(configured.base_url).hostname or "model"
        provider = OpenAICompatibleProvider(host, base_url=configured.base_url, api_key=key, http_client=client)
    settings = ModelSettings(
        timeout=configured.timeout_s,
        request_timeout=configured.timeout_s,
        max_retries=configured.retries,
        max_tokens=configured.max_tokens,
    )
    if configured.temperature is not None:
        settings["temperature"] = configured.temperature
    return client, OpenAIChatModel(name or configured.name or "", provider=provider, settings=settings)


def redactor(key: str | None) -> Callable[[bytes, bool], bytes]:
    """What takes *key* out of the chunks of a text, wherever one ends and the next begins; told which is the last."""
    secret = (key or "").encode()
    rest = b""

    def hide(chunk: bytes, is_last: bool) -> bytes:
        nonlocal rest
        if not secret:
            return chunk
        clean = (rest + chunk).replace(secret, _HIDDEN)
        # The end may be the beginning of one.
        kept = 0 if is_last else next((n for n in range(len(secret) - 1, 0, -1) if clean.endswith(secret[:n])), 0)
        rest = clean[len(clean) - kept :]
        return clean[: len(clean) - kept]

    return hide


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise what goes wrong in requests to a model, and in runs of pydantic-ai's agents, as what can be done about it.

    Raises:
        Busy: It may work later: the model is away, slow, broken or overloaded. All tries have been made.
        Unusable: Somebody has to change the settings: the key, the address or the name, or to pay.
        Poison: This will not work again: the request is refused, or the answer is none.
    """
    try:
        yield
    except PlanmeshError:
        raise
    except Exception as error:
        if (ours := _ours(error)) is None:
            raise
        raise ours from error


def _ours(error: Exception) -> PlanmeshError | None:
    from pydantic_ai import exceptions as theirs

    match error:
        case theirs.ModelAuthenticationError():
            # What it says of a key may well repeat it.
            return Unusable("the model's endpoint does not accept the key (model.api_key, model.api_key_file)")
        case theirs.ModelNotFoundError():
            return Unusable(
                f"the endpoint has no model {error.model_name!a} (model.name, model.base_url): {_said(error)}"
            )
        case theirs.ModelQuotaExceededError():
            return Unusable(f"the model's endpoint has no more credit for this key: {_said(error)}")
        case theirs.ModelContextWindowExceededError():
            return Poison(f"this is more than the model can take in at once: {_said(error)}")
        case theirs.ModelRequestRejectedError():
            return Poison(f"the model's endpoint refuses the request: {_said(error)}")
        case theirs.ModelRequestTimeout() | theirs.ModelTimeoutError():
            return Busy("the model did not answer in time (model.timeout_s)")
        case theirs.ModelConnectionError():
            return Busy(f"the model cannot be reached (model.base_url): {_said(error)}")
        case theirs.ModelRateLimitError() | theirs.ModelUnavailableError() | theirs.ModelServerError():
            return Busy(f"the model's endpoint cannot answer now: {_said(error)}")
        case theirs.ModelAPIError(__cause__=ValueError()):
            return Poison(f"the model's endpoint does not answer in JSON: {_said(error)}")
        case theirs.ModelAPIError():
            return Busy(f"the model's endpoint failed: {_said(error)}")
        case theirs.UsageLimitExceeded():
            return Poison(f"the model has used up what it may use: {_said(error)}")
        case theirs.AgentRunError():
            return Poison(f"the model's answer cannot be used: {_said(error)}")
    return None


def _said(error: Exception) -> str:
    """What the endpoint said, in one short line of untrusted text."""
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error")
        body = body.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
    text = body if isinstance(body, str) and body else str(error.__cause__ or error) if status is None else ""
    line = " ".join(text.split())[:_SAID_CHARACTERS]
    return " ".join(filter(None, [f"HTTP {status}" if status else "", line])) or type(error).__name__
