"""A real server for whoever asks for one."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from planmesh.testing import MeshServer
from planmesh.testing import mesh_server as run_mesh_server


@pytest.fixture(autouse=True)
def as_it_logged() -> Iterator[None]:
    """What a test has said about logging, it has said for itself."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
async def mesh_server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MeshServer]:
    """A mesh with the users `operator-tester` and `submitter-tester`, and the agents that the test names.

    Name them by ``@pytest.mark.parametrize("mesh_server", [("echo", "other")], indirect=True)``, or later by
    ``await mesh_server.add_agent("echo")``.
    """
    async with run_mesh_server(tmp_path, agents=getattr(request, "param", ())) as server:
        yield server
