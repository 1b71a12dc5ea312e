"""A gatekeeper on a real server, its pages, whoever makes the log that it follows, and whoever receives."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from pages import DIRECTORY, SECRET, Site
from receivers import WebReceiver, web_receiver
from reviews import Clerk, Running, connected

from planmesh.gatekeeper.identity import Door, Keys, Proxy
from planmesh.gatekeeper.web.serve import listen, serve
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


@pytest.fixture
async def site(mesh_server: MeshServer, clerk: Clerk) -> AsyncIterator[Site]:
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    keys = Keys(["k" * 32])
    door = Door(directory=DIRECTORY, keys=keys, proxy=Proxy("X-User", "X-Proof", SECRET), pages_url=url)
    async with (
        await connected(mesh_server, "gatekeeper") as core,
        serve(core, door, listening),
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield Site(url, keys, http, clerk)
