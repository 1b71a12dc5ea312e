"""The agent side of the SDK: a plain function becomes an agent.

    from planmesh import Context, agent

    @agent(idempotent=True)
    def shout(text: str, context: Context) -> str:
        context.progress("shouting")
        return text.upper()

The inputs of a step arrive as keyword arguments; what is returned is the step's output, and must be JSON. An
exception is a failed attempt; `Rejected` is one that no retry can mend.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final, TypeVar, overload

import msgspec

from planmesh.context import Context, Tool
from planmesh.errors import Unusable
from planmesh.schemas.plan import Name, Permissions
from planmesh.schemas.work import MAX_TOOLS, AgentDescription, AgentParameter
from planmesh.tools import ENTRY_POINT as TOOLS
from planmesh.tools import MARK, check_told

ENTRY_POINT: Final = "planmesh.agents"
"""A distribution that ships agents names their modules under this group of entry points."""

_DESCRIPTION_BYTES: Final = 1024 * 1024
_TYPE_CHARACTERS: Final = 100
_MARK: Final = "__planmesh_agent__"

__all__ = ["Agent", "Context", "Rejected", "agent", "find", "with_tools"]

F = TypeVar("F", bound=Callable[..., Any])


class Rejected(Exception):
    """Raised by an agent whose inputs can never work: the attempt fails, and is not tried again."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A function with what it declares.

    Attributes:
        tools: All that are here, by name, where it is an agent that uses tools; None for any other.
    """

    description: AgentDescription
    function: Callable[..., Any]
    context_parameter: str | None
    tools: Mapping[str, Tool] | None = None

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


@overload
def agent(function: F, /) -> F: ...
@overload
def agent(
    *,
    name: str | None = None,
    version: str = "",
    description: str | None = None,
    idempotent: bool | None = None,
    permissions: Permissions | None = None,
    uses_tools: bool = False,
    destructive: bool = False,
) -> Callable[[F], F]: ...
def agent(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    description: str | None = None,
    idempotent: bool | None = None,
    permissions: Permissions | None = None,
    uses_tools: bool = False,
    destructive: bool = False,
) -> F | Callable[[F], F]:
    """Make a function an agent. It stays a plain function.

    Args:
        name: How plans call it; unless given, the function's name with ``-`` for ``_``.
        version: Recorded with every attempt.
        description: For people and for the planner; unless given, the first line of the docstring.
        idempotent: Whether running it twice for one attempt does no harm. Unless true, an attempt is begun at most
            once, and if its worker dies, a person has to say what became of it. Of one that uses tools: whether what it
            does besides them does no harm; a step of it is idempotent if all tools are that it permits.
        permissions: What it needs; a step that names none gets these.
        uses_tools: Whether its steps may name tools (`permissions.tools`). It finds those that a step permits in
            `Context.tools`, and calls them by `Context.call`.
        destructive: Whether what it does cannot be undone: in a plan that a model has written, a person is asked first.

    Raises:
        ValueError: The name is not one that a plan could use, or what it declares is not what planners understand.
    """

    def mark(function: F) -> F:
        described = _describe(function, name, version, description, idempotent, permissions, uses_tools, destructive)
        setattr(function, _MARK, described)
        return function

    return mark if function is None else mark(function)


def _describe(
    function: Callable[..., Any],
    name: str | None,
    version: str,
    description: str | None,
    idempotent: bool | None,
    permissions: Permissions | None,
    uses_tools: bool,
    destructive: bool,
) -> Agent:
    called = name if name is not None else function.__name__.replace("_", "-")
    try:
        msgspec.convert(called, Name)
    except msgspec.ValidationError:
        raise ValueError(
            f"agent {function.__qualname__}: its name must be a-z 0-9 first, then also _ and -, 63 at most; "
            f"found {called[:80]!a}"
        ) from None
    parameters, any_parameters, context_parameter = [], False, None
    types: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation in (Context, "Context"):
            context_parameter = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            any_parameters = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            parameters.append(AgentParameter(name=parameter.name, required=parameter.default is parameter.empty))
            if parameter.annotation is not parameter.empty:
                types[parameter.name] = inspect.formatannotation(parameter.annotation).strip("'")[:_TYPE_CHARACTERS]
        else:
            raise ValueError(f"agent {called}: inputs arrive by name, so `{parameter}` cannot be one of its parameters")
    first_line = (inspect.getdoc(function) or "").partition("\n")[0]
    described = AgentDescription(
        name=called,
        version=version,
        description=description if description is not None else first_line,
        idempotent=idempotent,
        permissions=permissions or Permissions(),
        parameters=tuple(parameters),
        any_parameters=any_parameters,
        tools=() if uses_tools else None,
        types=types,
        destructive=destructive,
    )
    check_told(described, f"agent {called}")
    return Agent(described, function, context_parameter, {} if uses_tools else None)


def find(modules: Iterable[str] = (), *, entry_point: bool = True) -> dict[str, Agent]:
    """Load agents by name, those that use tools with all tools: of *modules*, and of every installed distribution that
    has an entry point for agents or for tools.

    Raises:
        Unusable: A module cannot be imported or has neither, two agents or two tools share a name, or *modules* have
            tools and nobody uses them.
    """
    agents: dict[str, Agent] = {}
    tools: dict[str, Tool] = {}
    named = list(dict.fromkeys(modules))
    groups = (ENTRY_POINT, TOOLS) if entry_point else ()
    for module in dict.fromkeys((*named, *(point.value for group in groups for point in entry_points(group=group)))):
        loaded = _imported(module)
        here, tools_here = _marked(loaded, _MARK), _marked(loaded, MARK)
        if not here and not tools_here:
            raise Unusable(
                f"module {module!r} has no agent and no tool: mark a function with @planmesh.agent, or @planmesh.tool"
            )
        _gather(agents, here, "agent")
        _gather(tools, tools_here, "tool")
    if len(tools) > MAX_TOOLS:
        raise Unusable(f"there are {len(tools):,} tools here, and a worker has at most {MAX_TOOLS}")
    users = [one for one in agents.values() if one.tools is not None]
    if tools and named and not users:
        raise Unusable(
            f"there are tools here ({', '.join(sorted(tools)[:5])}) and no agent that uses tools: "
            "name one as well, such as planmesh.llm"
        )
    return agents | {user.name: with_tools(user, tools) for user in users}


def with_tools(user: Agent, tools: Mapping[str, Tool]) -> Agent:
    """An agent that uses tools, with all that are here, by name. Raises: Unusable, if that is too much to tell."""
    described = tuple(tools[name].description for name in sorted(tools))
    description = msgspec.structs.replace(user.description, tools=described)
    size_bytes = len(msgspec.json.encode(description))
    if size_bytes > _DESCRIPTION_BYTES:
        raise Unusable(
            f"the descriptions of {len(tools):,} tools have {size_bytes:,} bytes together, and may have "
            f"{_DESCRIPTION_BYTES:,}: give them shorter ones, or run them in several workers with agents of their own"
        )
    return replace(user, tools=tools, description=description)


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unusable(
            f"cannot import the agents in {module!r}: {error}; is the module in the current directory or installed?"
        ) from error


def _marked(module: ModuleType, mark: str) -> list[Any]:
    found = [getattr(value, mark) for value in vars(module).values() if hasattr(value, mark)]
    return list({id(one): one for one in found}.values())


def _gather(known: dict[str, Any], here: Iterable[Any], what: str) -> None:
    for one in here:
        before = known.setdefault(one.name, one)
        if before is not one:
            raise Unusable(
                f"two {what}s are called {one.name!r}: {_where(before)} and {_where(one)}; "
                f"give one of them another name with @{what}(name=...)"
            )


def _where(one: Agent | Tool) -> str:
    return f"{one.function.__module__}.{one.function.__qualname__}"
