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
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, TypeVar, overload

import msgspec

from planmesh.errors import Unusable
from planmesh.schemas.plan import Name, Permissions
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import AgentDescription, AgentParameter

ENTRY_POINT: Final = "planmesh.agents"
"""A distribution that ships agents names their modules under this group of entry points."""

_MARK: Final = "__planmesh_agent__"

F = TypeVar("F", bound=Callable[..., Any])


class Rejected(Exception):
    """Raised by an agent whose inputs can never work: the attempt fails, and is not tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an agent may know of the attempt that it runs; it asks for it by annotating a parameter."""

    address: Address
    step: str
    attempt: int
    key: str
    """The idempotency key: pass it on to whatever the agent calls."""
    permissions: Permissions
    traceparent: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the plan no longer wants the output. A long-running agent looks at it, and returns."""
    report: Callable[[str, Any], None] = field(default=lambda _text, _data: None, repr=False)

    @property
    def plan(self) -> str:
        return self.address.plan

    def progress(self, text: str, data: object = None) -> None:
        """Tell whoever watches how far it is. A hint: it may be lost, and is not in the log."""
        self.report(text, data)


@dataclass(frozen=True, slots=True)
class Agent:
    """A function with what it declares."""

    description: AgentDescription
    function: Callable[..., Any]
    context_parameter: str | None

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
) -> F | Callable[[F], F]:
    """Make a function an agent. It stays a plain function.

    Args:
        name: How plans call it; unless given, the function's name with ``-`` for ``_``.
        version: Recorded with every attempt.
        description: For people and for the planner; unless given, the first line of the docstring.
        idempotent: Whether running it twice for one attempt does no harm. Unless true, an attempt is begun at most
            once, and if its worker dies, a person has to say what became of it.
        permissions: What it needs; a step that names none gets these.

    Raises:
        ValueError: The name is not one that a plan could use.
    """

    def mark(function: F) -> F:
        described = _describe(function, name, version, description, idempotent, permissions)
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
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation in (Context, "Context"):
            context_parameter = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            any_parameters = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            parameters.append(AgentParameter(name=parameter.name, required=parameter.default is parameter.empty))
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
    )
    return Agent(described, function, context_parameter)


def find(modules: Iterable[str] = (), *, entry_point: bool = True) -> dict[str, Agent]:
    """Load agents by name: those of *modules*, and of every installed distribution that has the entry point.

    Raises:
        Unusable: A module cannot be imported or has no agent, or two agents share a name.
    """
    found: dict[str, Agent] = {}
    names = [*modules]
    if entry_point:
        names += [point.value for point in entry_points(group=ENTRY_POINT)]
    for module in dict.fromkeys(names):
        for one in _agents_in(module):
            known = found.setdefault(one.name, one)
            if known is not one:
                raise Unusable(
                    f"two agents are called {one.name!r}: {_where(known)} and {_where(one)}; "
                    "give one of them another name with @agent(name=...)"
                )
    return found


def _agents_in(module: str) -> list[Agent]:
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise Unusable(
            f"cannot import the agents in {module!r}: {error}; is the module in the current directory or installed?"
        ) from error
    agents = [getattr(value, _MARK) for value in vars(loaded).values() if hasattr(value, _MARK)]
    if not agents:
        raise Unusable(f"module {module!r} has no agent: mark a function with @planmesh.agent")
    return list({id(one): one for one in agents}.values())


def _where(one: Agent) -> str:
    return f"{one.function.__module__}.{one.function.__qualname__}"
