"""Real services, each a process, on a real server."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from flows import Flow, running_flow


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def flow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flow]:
    """A mesh that many tests share: they leave its services alone, and so does whatever they send.

    A test that uses it runs in the loop of the session.
    """
    directory = tmp_path_factory.mktemp("flows")
    async with running_flow(directory, agents=["planmesh.demo.agents", "hello_agents", "scripted_model"]) as running:
        yield running
        assert set(running.starts().values()) == {1}, "a service has ended"
