"""planmesh: goals become plans - named, validated graphs of steps with a log, a state machine and human gates.

For an agent: `agent`, `Context`, `Rejected`. For a service that publishes goals: `Client`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planmesh.agents import Context, Rejected, agent
    from planmesh.client import Client

__all__ = ["Client", "Context", "Rejected", "agent"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `planmesh --help` must not pay for the SDK.
    if name in ("Context", "Rejected", "agent"):
        from planmesh import agents

        return getattr(agents, name)
    if name == "Client":
        from planmesh import client

        return client.Client
    raise AttributeError(f"module 'planmesh' has no attribute {name!r}")
