"""Listen for the review pages, in the gatekeeper's own process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import structlog
import uvicorn

from planmesh.connection import Connection
from planmesh.errors import Unusable
from planmesh.gatekeeper.identity import Door
from planmesh.gatekeeper.web.app import create_app
from planmesh.gatekeeper.web.desk import Desk

log = structlog.get_logger()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the gatekeeper's, which stops us


def listen(host: str, port: int) -> socket.socket:
    """Take the port of the pages; 0: any free one. Raises: Unusable."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise Unusable(
            f"the review pages cannot be served on {host} port {port}: {error.strerror or error}. Set web_host and "
            "web_port to an address of this machine and a port that is free"
        ) from error


@contextlib.asynccontextmanager
async def serve(core: Connection, door: Door, listening: socket.socket) -> AsyncIterator[None]:
    """Serve the pages on *listening* until the block ends."""
    config = uvicorn.Config(
        create_app(Desk(core), door),
        log_config=None,
        access_log=False,  # paths carry tokens
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        limit_concurrency=256,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    log.info("gatekeeper.pages", url=door.pages_url, port=listening.getsockname()[1])
    try:
        yield
    finally:
        server.should_exit = True
        await task
