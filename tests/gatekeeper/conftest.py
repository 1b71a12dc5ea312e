"""A gatekeeper on a real server, whoever makes the log that it follows, and whoever receives."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from receivers import WebReceiver, web_receiver
from reviews import Clerk, Running, connected

from planmesh.testing import MeshServer


@pytest.fixture
async def clerk(mesh_server: MeshServer) -> AsyncIterator[Clerk]:
    async with await connected(mesh_server, "executor") as core:
        clerk = Clerk(core)
        listening = asyncio.create_task(clerk.listen())
        yield clerk
        listening.cancel()
        await asyncio.wait([listening])


@pytest.fixture
async def gatekeeper(mesh_server: MeshServer) -> AsyncIterator[Running]:
    running = Running(mesh_server)
    yield running
    await running.stop()


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest.fixture
def other_web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver
