"""The agent `llm`: a language model in a loop, which may call the tools that its step permits, and no others.

    planmesh up --agents planmesh.llm --agents my_tools

The model is the one of the settings (`planmesh.model`). Tools are those of the modules that the worker is started with
(`planmesh.tools`). A step of it may be begun again after its worker died if all tools that it permits are idempotent.
"""

import asyncio
from typing import Any, Final

import msgspec

import planmesh
from planmesh import settings
from planmesh.agents import Rejected, agent
from planmesh.context import Context
from planmesh.errors import Busy, PlanmeshError, Unusable
from planmesh.json_schema import BadSchema, Form
from planmesh.model import check_context, check_model, open_model
from planmesh.schemas.codec import describe
from planmesh.schemas.plan import ModelOptions
from planmesh.schemas.values import text_of
from planmesh.thought import Asked, Thought

DEFAULT_ITERATIONS: Final = ModelOptions().max_iterations


class ModelAway(Exception):
    """The model cannot answer now; another attempt may find it there."""


@agent(idempotent=True, uses_tools=True, version=planmesh.__version__)
async def llm(
    planmesh_context: Context,  # so that a step may give an input called `context`
    task: Any,
    system: Any = "",
    model: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    max_iterations: int = DEFAULT_ITERATIONS,
    schema: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Let a language model work on a task, with tools.

    Args:
        task: What to do.
        system: Who the model is to be, and what it is to keep to.
        model: Another model of the endpoint in the settings, which have to allow it.
        temperature: From 0 to 2.
        max_tokens: The longest answer.
        max_iterations: The most answers of the model, those that call tools included.
        schema: The JSON Schema of an object: the answer has that form, and is held against it.
        more: Whatever else the step gives is told to the model with its name.

    Returns:
        text: The last thing that the model said.
        output: The answer, where it has a form; null if it never had it.
        iterations: Answers of the model.
        tool_calls: Calls of tools.
        exhausted: It ran into `max_iterations` or `max_tokens`; `text` is how far it came.
        usage: `input_tokens` and `output_tokens`, of all answers together.

    Raises:
        ModelAway: The model cannot be reached, or is overloaded. The attempt may be repeated, unless it has called a
            tool that is not idempotent.
        Rejected: There is no model, or the inputs are none, or the model's endpoint refuses them.
    """
    options = {
        "system": text_of(system),
        "model": model,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "max_iterations": max_iterations,
    }
    asked = _read(_prompt(task, more), options, schema)
    thinking = asyncio.ensure_future(_think(planmesh_context, asked))
    cancelled = asyncio.ensure_future(planmesh_context.cancelled.heard())
    try:
        await asyncio.wait((thinking, cancelled), return_when=asyncio.FIRST_COMPLETED)
        if not thinking.done():
            raise Rejected("the plan no longer wants the answer")
        thought = thinking.result()
    finally:
        thinking.cancel()
        cancelled.cancel()
        await asyncio.gather(thinking, cancelled, return_exceptions=True)
    return thought.as_output(with_form=asked.form is not None)


def _prompt(task: Any, more: dict[str, Any]) -> str:
    parts = [text_of(task), *(f"{name}:\n{text_of(value)}" for name, value in more.items())]
    return "\n\n".join(parts)


def _read(prompt: str, options: dict[str, Any], schema: dict[str, Any] | None) -> Asked:
    """Raises: Rejected."""
    try:
        asked = msgspec.convert({"prompt": prompt, **options}, Asked)
        if schema is None:
            return asked
        form = Form(schema)
    except msgspec.ValidationError as error:
        what, pointer = describe(error)
        raise Rejected(f"input {pointer.removeprefix('/')}: {what}") from None
    except BadSchema as error:
        raise Rejected(f"input schema: {error}") from None
    return msgspec.structs.replace(asked, form=form)


async def _think(context: Context, asked: Asked) -> Thought:
    try:
        configured = (await asyncio.to_thread(settings.load)).model
        check_model(configured, asked.model)
        check_context(configured, asked.system + asked.prompt)
        if asked.form is not None:
            asked.form.check()
        async with open_model(configured, asked.model) as model:
            # It takes a while to import, and whoever shares this loop should not wait for that.
            think = await asyncio.to_thread(_import)
            thought: Thought = await think(model, configured.structured, context, asked)
            return thought
    except BadSchema as error:
        raise Rejected(f"input schema: {error}") from None
    except Busy as error:
        effects = sorted(
            {
                call.name
                for call in context.journal.calls
                if call.kind == "tool" and not context.tools[call.name].description.idempotent
            }
        )
        if effects:
            called = ", ".join(effects)
            raise Rejected(
                f"{error}. It is not tried again by itself: {called} was called, and may not be again"
            ) from error
        raise ModelAway(str(error)) from error
    except Unusable as error:
        raise Rejected(f"{error} (where the worker of this agent runs)") from error
    except PlanmeshError as error:
        raise Rejected(str(error)) from error


def _import() -> Any:
    from planmesh.thinking import think

    return think
