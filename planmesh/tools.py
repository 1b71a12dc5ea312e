"""Tools: typed functions that an agent which thinks for itself may call while it works on a step.

    from planmesh import Permissions, tool

    @tool(idempotent=True, permissions=Permissions(network=("api.example.com",)))
    async def web_search(words: str, most: int = 10) -> list[str]:
        \"\"\"Search the web. Gives the addresses of pages, the best first.\"\"\"

The docstring and the annotations are what a model is told. A step names the tools that it permits
(`permissions.tools`); for its agent, there are no others.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

import msgspec

from planmesh.context import Context, Tool
from planmesh.schemas.plan import Name, Permissions
from planmesh.schemas.work import ToolDescription

ENTRY_POINT: Final = "planmesh.tools"
"""A distribution that ships tools names their modules under this group of entry points."""

MARK: Final = "__planmesh_tool__"
DEFAULT_TIMEOUT_S: Final = 60.0

_DESCRIPTION_CHARACTERS: Final = 4_000
_SCHEMA_BYTES: Final = 16 * 1024

F = TypeVar("F", bound=Callable[..., Any])


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
            fields.append((parameter.name, typing.Union[annotation, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
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
