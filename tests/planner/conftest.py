"""A planner on a real server, for whoever asks for one."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from planners import Bench

from planmesh.testing import MeshServer


@pytest.fixture
async def bench(mesh_server: MeshServer) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        bench = Bench(mesh_server, stack)
        await bench.open()
        yield bench
