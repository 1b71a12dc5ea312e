"""Tools: typed functions that an agent which thinks for itself may call while it works on a step.

    from planmesh import Permissions, tool

    @tool(idempotent=True, permissions=Permissions(network=("api.example.com",)))
    async def web_search(words: str, most: int = 10) -> list[str]:
        \"\"\"Search the web. Gives the addresses of pages, the best first.\"\"\"

The docstring and the annotations are what a model is told. A step names the tools that it permits
(`permissions.tools`); for its agent, there are no others.
"""

import asyncio
import inspect
import traceback
import typing
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar, overload

import msgspec
import structlog

from planmesh.calling import awaited, called
from planmesh.context import Context, ToolError
from planmesh.schemas.codec import describe
from planmesh.schemas.plan import Name, Permissions
from planmesh.schemas.work import ToolDescription

ENTRY_POINT: Final = "planmesh.tools"
"""A distribution that ships tools names their modules under this group of entry points."""

MARK: Final = "__planmesh_tool__"
DEFAULT_TIMEOUT_S: Final = 60.0

_DESCRIPTION_CHARACTERS: Final = 4_000
_SCHEMA_BYTES: Final = 16 * 1024
_MESSAGE_CHARACTERS: Final = 500
_WHO: Final = "the tool"

F = TypeVar("F", bound=Callable[..., Any])

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what it declares.

    Attributes:
        arguments: A struct: what its arguments are checked against.
        timeout_s: How long one call may take.
    """

    description: ToolDescription
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    context_parameter: str | None
    timeout_s: float

    @property
    def name(self) -> str:
        return self.description.name

    async def call(self, context: Context, arguments: Mapping[str, Any]) -> object:
        """Call it for the attempt of *context*, whose journal notes the call. Raises: ToolError."""
        with context.calling("tool", self.name):
            return await self._run(context, self._checked(arguments))

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: ToolError."""
        try:
            given = msgspec.convert(arguments, self.arguments)
        except msgspec.ValidationError as error:
            what, pointer = describe(error)
            at = f" at {pointer}" if pointer else ""
            raise ToolError(f"the arguments of {self.name} do not fit: {_clipped(what)}{at}") from None
        # What was left out is left to the function.
        return {
            name: value for name in self.arguments.__struct_fields__ if (value := getattr(given, name)) is not _LEFT_OUT
        }

    async def _run(self, context: Context, given: dict[str, Any]) -> object:
        if self.context_parameter is not None:
            given[self.context_parameter] = replace(
                context,
                key=f"{context.key}.{context.journal.number()}",
                permissions=self.description.permissions,
                tools={},
            )
        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                if inspect.iscoroutinefunction(self.function):
                    return await awaited(self.function, given, _WHO)
                run = partial(copy_context().run, called, self.function, given, _WHO)
                return await asyncio.get_running_loop().run_in_executor(context.threads, run)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ToolError(f"{self.name} failed: something that it waited for was cancelled") from None
        except ToolError:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                effect = "" if self.description.idempotent else "; it may have had its effect all the same"
                raise ToolError(f"{self.name} gave no answer within {self.timeout_s:g} s{effect}") from None
            said = context.hide("".join(traceback.format_exception(error)).rstrip("\n"))
            log.warning("tool.failed", tool=self.name, key=context.key, exception=said)
            raise ToolError(f"{self.name} failed: {type(error).__name__}: {_clipped(str(error))}") from error


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    permissions: Permissions | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    destructive: bool = False,
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    permissions: Permissions | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    destructive: bool = False,
) -> F | Callable[[F], F]:
    """Make a function a tool. It stays a plain function, async or not; one that is not runs in a thread.

    What it raises, the model is told: a `ToolError` in the tool's own words, anything else with the name of its class.

    Args:
        name: How plans and models call it; unless given, the function's name.
        description: For models and for people; unless given, the docstring.
        idempotent: Whether calling it twice does no harm.
        permissions: What it uses. A step that permits less of the network, of files or of secrets does not get it.
        timeout_s: How long one call may take, in seconds.
        destructive: Whether what it does cannot be undone: in a plan that a model has written, a person is asked first.

    Raises:
        ValueError: The name is not one that a plan could use, or JSON cannot hold its parameters.
    """

    def mark(function: F) -> F:
        setattr(function, MARK, _tool(function, name, description, idempotent, permissions, timeout_s, destructive))
        return function

    return mark if function is None else mark(function)


# What a parameter has that was not given; msgspec takes it for "may be left out".
_LEFT_OUT: Final = msgspec.UNSET


def _tool(
    function: Callable[..., Any],
    name: str | None,
    description: str | None,
    idempotent: bool,
    permissions: Permissions | None,
    timeout_s: float,
    destructive: bool,
) -> Tool:
    called = name if name is not None else function.__name__
    try:
        msgspec.convert(called, Name)
    except msgspec.ValidationError:
        raise ValueError(
            f"tool {function.__qualname__}: its name must be a-z 0-9 first, then also _ and -, 63 at most; "
            f"found {called[:80]!a}"
        ) from None
    if timeout_s <= 0:
        raise ValueError(f"tool {called}: timeout_s must be above 0; found {timeout_s:g}")
    arguments, context_parameter = _arguments(function, called)
    text = description if description is not None else inspect.getdoc(function) or ""
    if len(text) > _DESCRIPTION_CHARACTERS:
        raise ValueError(
            f"tool {called}: a description has at most {_DESCRIPTION_CHARACTERS:,} characters; this one has "
            f"{len(text):,}. Give a shorter one with @tool(description=...)"
        )
    described = ToolDescription(
        name=called,
        description=text,
        parameters=_schema(arguments, inspect.signature(function), called),
        permissions=permissions or Permissions(),
        idempotent=idempotent,
        destructive=destructive,
    )
    check_told(described, f"tool {called}")
    return Tool(described, function, arguments, context_parameter, timeout_s)


def check_told(description: msgspec.Struct, what: str) -> None:
    """See that whoever reads a description will understand it: what is not is as if the agent declared nothing.

    Raises:
        ValueError: It would not be.
    """
    try:
        msgspec.json.decode(msgspec.json.encode(description), type=type(description))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: what it declares is not understood: {error}") from None


def _arguments(function: Callable[..., Any], called: str) -> tuple[type[msgspec.Struct], str | None]:
    """What a function takes, as a struct; and its parameter for the context."""
    try:
        types = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise ValueError(f"tool {called}: its annotations cannot be read: {error}") from error
    fields: list[Any] = []
    context_parameter = None
    for parameter in inspect.signature(function).parameters.values():
        annotation = types.get(parameter.name, Any)
        if annotation is Context:
            context_parameter = parameter.name
        elif parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"tool {called}: arguments arrive by name, so `{parameter}` cannot be a parameter")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append((parameter.name, typing.Union[annotation, msgspec.UnsetType], _LEFT_OUT))  # noqa: UP007
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True), context_parameter


def _schema(arguments: type[msgspec.Struct], signature: inspect.Signature, called: str) -> dict[str, Any]:
    try:
        _, components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"tool {called}: JSON has no form for its parameters: {error}. Use text, numbers, lists, dicts, Literal, "
            "dataclasses, TypedDict or msgspec's structs"
        ) from error
    schema: dict[str, Any] = components.pop(arguments.__name__)
    del schema["title"]
    for name, stated in schema["properties"].items():
        default = signature.parameters[name].default
        if default is None or isinstance(default, str | int | float | bool):
            stated["default"] = default
    if components:
        schema["$defs"] = components
    size_bytes = len(msgspec.json.encode(schema))
    if size_bytes > _SCHEMA_BYTES:
        raise ValueError(
            f"tool {called}: the schema of its parameters has at most {_SCHEMA_BYTES:,} bytes; this one has "
            f"{size_bytes:,}. Take fewer parameters, or simpler ones"
        )
    return schema


def _clipped(text: str) -> str:
    return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]} …"
