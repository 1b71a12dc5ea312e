"""planmesh: goals become plans - named, validated graphs of steps with a log, a state machine and human gates.

For an agent: `agent`, `Context`, `Rejected`. For a service that publishes goals: `Client`. For whoever looks at plans
and steers them: `Operator`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planmesh.agents import Context, Rejected, agent
    from planmesh.client import Client, Operator

__all__ = ["Client", "Context", "Operator", "Rejected", "agent"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `planmesh --help` must not pay for the SDK.
    if name in ("Context", "Rejected", "agent"):
        from planmesh import agents

        return getattr(agents, name)
    if name in ("Client", "Operator"):
        from planmesh import client

        return getattr(client, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("planmesh")
    raise AttributeError(f"module 'planmesh' has no attribute {name!r}")
