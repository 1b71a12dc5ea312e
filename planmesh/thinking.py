"""The loop of the agent `llm`, by pydantic-ai: ask the model, call the tools that it wants, ask again.

This takes a second to import; `planmesh.llm` does so when it is needed. What is untrusted here: everything that the
model says, the names of tools among it, and what tools give.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, RunContext, StructuredDict, ToolOutput
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_ai.usage import UsageLimits

from planmesh.context import Context, ToolError
from planmesh.json_schema import Form
from planmesh.model import explained
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.payload import canonical
from planmesh.thought import Asked, Thought

MAX_TOOL_CALLS: Final = 300
_AT_ONCE: Final = 10
_RESULT_CHARACTERS: Final = 64 * 1024
_SHOWN_CHARACTERS: Final = 200
_ANSWER: Final = "Answer"  # no tool of ours has a capital letter
_TEXTS: Final = ("content", "args", "tool_name", "tool_call_id")
_NO_LIMIT: Final = 1_000_000  # of retries: how often the model is asked is counted here, whatever the reason


async def think(model: Model, structured: str, context: Context, asked: Asked) -> Thought:
    """Ask *model* until it is done, or has been asked often enough.

    Args:
        structured: How an answer of a certain form is asked for: see `planmesh.settings.Model.structured`.

    Raises:
        Busy, Unusable, Poison: See `planmesh.model.explained`.
    """
    thought = Thought()
    thinker: Agent[None, Any] = Agent(
        _Watched(model, thought, context, asked.max_iterations),
        deps_type=type(None),
        output_type=str if asked.form is None else _asked_for(asked.form, structured),
        instructions=asked.system or None,
        toolsets=[_Tools(thought, context)] if context.tools else [],
        retries=_NO_LIMIT,
    )
    if asked.form is not None:
        thinker.output_validator(_Holds(asked.form))
    options = ModelSettings()
    if asked.temperature is not None:
        options["temperature"] = asked.temperature
    if asked.max_tokens is not None:
        options["max_tokens"] = asked.max_tokens
    with explained():
        try:
            run = await thinker.run(asked.prompt, model_settings=options, usage_limits=UsageLimits(request_limit=None))
        except _Exhausted:
            thought.exhausted = True
        else:
            if asked.form is not None:
                thought.value = run.output
    return thought


def _asked_for(form: Form, structured: str) -> Any:
    kind: Any = StructuredDict(form.schema, name="answer")
    match structured:
        case "tool":
            return ToolOutput(kind, name=_ANSWER, strict=False)
        case "text":
            return PromptedOutput(kind)
        case _:
            return NativeOutput(kind, strict=False)


class _Exhausted(Exception):
    """The model has given as many answers as it may."""


class _Holds:
    """Holds an answer against the form that it is to have, and tells the model what is wrong with it."""

    def __init__(self, form: Form) -> None:
        self._form = form

    async def __call__(self, _context: RunContext[None], value: Any) -> Any:
        # A thread, because an answer may be long, and others share this loop.
        problems = await asyncio.to_thread(self._form.problems, value)
        if problems:
            raise ModelRetry("This does not have the form that was asked for:\n" + "\n".join(problems))
        return value


class _Watched(WrapperModel):
    """A model whose every answer is counted, timed and told of; and no tool that it asks for in vain is forgotten."""

    def __init__(self, model: Model, thought: Thought, context: Context, most: int) -> None:
        super().__init__(model)
        self._thought = thought
        self._context = context
        self._most = most

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        thought, context = self._thought, self._context
        if thought.iterations >= self._most:
            raise _Exhausted
        context.progress(f"asking {self.model_name} ({thought.iterations + 1} of {self._most} at most)")
        with context.calling("model", self.model_name) as call:
            response = _sound(await super().request(messages, model_settings, model_request_parameters))
            call.input_tokens = response.usage.input_tokens
            call.output_tokens = response.usage.output_tokens
        self._heard(response, [tool.name for tool in model_request_parameters.output_tools])
        return response

    def _heard(self, response: ModelResponse, for_output: Sequence[str]) -> None:
        thought, context = self._thought, self._context
        thought.iterations += 1
        thought.input_tokens += response.usage.input_tokens
        thought.output_tokens += response.usage.output_tokens
        thought.text = response.text or thought.text
        thought.cut_short = response.finish_reason == "length"
        wanted = [call.tool_name for call in response.tool_calls]
        for name in wanted:
            if name not in context.tools and name not in for_output:
                context.denied_tool(name)
        if wanted and thought.iterations >= self._most and not set(wanted) & set(for_output):
            # Nobody would hear what they give: better not to let them do anything.
            raise _Exhausted


def _sound(response: ModelResponse) -> ModelResponse:
    """The same with nothing in its texts that UTF-8 has no form for: JSON has one for half a character."""
    parts: list[Any] = []
    for part in response.parts:
        texts: dict[str, Any] = {name: text for name in _TEXTS if isinstance(text := getattr(part, name, None), str)}
        sound = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
        parts.append(part if sound == texts else replace(part, **sound))
    return replace(response, parts=parts)


class _Unchecked:
    """Leaves it to the tool to say whether arguments fit. What is no JSON is a text, and no object; none are none."""

    def validate_json(self, input: str | bytes | bytearray, **_options: Any) -> Any:
        text = input.encode("utf-8", "replace") if isinstance(input, str) else bytes(input)
        try:
            return self.validate_python(codec.value.decode(text) if text.strip() else None)
        except DecodeError:
            return text.decode("utf-8", "replace")

    def validate_python(self, input: Any, **_options: Any) -> Any:
        return {} if input is None else input


class _Tools(AbstractToolset[None]):
    """The tools that the step permits, and no others."""

    def __init__(self, thought: Thought, context: Context) -> None:
        self._thought = thought
        self._context = context
        self._room = asyncio.Semaphore(_AT_ONCE)

    @property
    def id(self) -> str | None:
        return None

    async def get_tools(self, ctx: RunContext[None]) -> dict[str, ToolsetTool[None]]:
        return {
            name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=name,
                    description=tool.description.description,
                    parameters_json_schema=tool.description.parameters,
                    strict=False,
                ),
                max_retries=_NO_LIMIT,
                args_validator=_Unchecked(),
            )
            for name, tool in self._context.tools.items()
        }

    async def call_tool(self, name: str, tool_args: Any, ctx: RunContext[None], tool: ToolsetTool[None]) -> str:
        """What the tool gives, as the model may read it."""
        if self._thought.tool_calls >= MAX_TOOL_CALLS:
            raise ToolFailed(f"a step has at most {MAX_TOOL_CALLS} calls of tools; answer with what you know")
        self._thought.tool_calls += 1
        async with self._room:
            self._context.progress(f"calling {name} {_shown(tool_args)}")
            try:
                value = await self._context.call(name, tool_args)
                said = value if isinstance(value, str) else canonical(value).decode()
            except ToolError as error:
                raise ToolFailed(str(error)) from error
            except (TypeError, ValueError, RecursionError) as error:
                raise ToolFailed(f"{name} gave what cannot be told: {error}") from error
        return _cut(said)


def _shown(arguments: Any) -> str:
    try:
        return canonical(arguments).decode()[:_SHOWN_CHARACTERS]
    except (TypeError, ValueError, RecursionError):
        return ""


def _cut(said: str) -> str:
    """No more than a model should have to read of one call."""
    said = said.encode("utf-8", "replace").decode()
    if len(said) <= _RESULT_CHARACTERS:
        return said
    return f"{said[:_RESULT_CHARACTERS]}\n… the first {_RESULT_CHARACTERS:,} of {len(said):,} characters"
