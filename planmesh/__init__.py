"""planmesh: goals become plans - named, validated graphs of steps with a log, a state machine and human gates.

For agents: `agent`, `Context`, `Rejected`. For their tools: `tool`, `ToolError`, `Permissions`. For a service that
publishes goals: `Client`. For whoever looks at plans and steers them: `Operator`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planmesh.agents import Context, Rejected, agent
    from planmesh.client import Client
    from planmesh.context import ToolError
    from planmesh.operator import Operator
    from planmesh.schemas.plan import Permissions
    from planmesh.tools import tool

__all__ = ["Client", "Context", "Operator", "Permissions", "Rejected", "ToolError", "agent", "tool"]

_WHERE = {
    "Client": "client",
    "Context": "context",
    "Operator": "operator",
    "Permissions": "schemas.plan",
    "Rejected": "agents",
    "ToolError": "context",
    "agent": "agents",
    "tool": "tools",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `planmesh --help` must not pay for the SDK.
    if name in _WHERE:
        return getattr(import_module(f"planmesh.{_WHERE[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("planmesh")
    raise AttributeError(f"module 'planmesh' has no attribute {name!r}")
