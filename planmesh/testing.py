"""A mesh of your own for a test: a real server, in a directory of the test's, ready in a moment.

For pytest::

    @pytest.fixture
    async def mesh(tmp_path):
        async with mesh_server(tmp_path, agents=["echo"]) as mesh:
            yield mesh
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from planmesh import access
from planmesh.administration import Mesh
from planmesh.credentials import Connection, Credentials, write_connection
from planmesh.embedded import EmbeddedServer, embedded_server


class MeshServer:
    """A running server with every stream, and users for every service.

    Attributes:
        url: ``nats://127.0.0.1:<port>``.
        data_dir: Where it keeps its files; what a process finds when told ``PLANMESH_DATA_DIR``.
        mesh: For whatever an administrator may do.
        server: The process.
    """

    def __init__(self, mesh: Mesh, server: EmbeddedServer) -> None:
        self.url = server.url
        self.data_dir = mesh.data_dir
        self.mesh = mesh
        self.server = server

    def credentials(self, user: str) -> Credentials:
        """Who *user* is: ``executor``, ``agent-echo``, ``operator-tester``. Raises: Unusable."""
        return self.mesh.credentials_of(user)

    async def add_agent(self, name: str, concurrency: int | None = None) -> Credentials:
        """See `Mesh.add_agent`."""
        return await self.mesh.add_agent(name, concurrency)

    async def add_submitter(self, space: str, max_bytes: Mapping[str, int] | None = None) -> Credentials:
        """See `Mesh.add_submitter`."""
        return await self.mesh.add_submitter(space, max_bytes)

    async def add_operator(self, name: str) -> Credentials:
        """See `Mesh.add_operator`."""
        return await self.mesh.add_operator(name)


@contextlib.asynccontextmanager
async def mesh_server(
    directory: Path,
    *,
    agents: Iterable[str] = (),
    submitters: Iterable[str] = ("tester",),
    operators: Iterable[str] = ("tester",),
    sync_interval: str = "2m",
) -> AsyncIterator[MeshServer]:
    """Run a server with these users until the block ends.

    Args:
        directory: An empty directory, or one that an earlier call has left: then the mesh goes on from there.
        agents: Agents to make at once; later ones by `MeshServer.add_agent`.
        submitters: Spaces; the first is whom ``connection.toml`` names.
        operators: People; the first is whom ``connection.toml`` names.
        sync_interval: How often the server syncs to disk; ``always`` for each message, which is slow.

    Raises:
        Unusable: There is no nats-server, or it does not start.
    """
    mesh = Mesh(directory)
    people = [access.operator(name) for name in operators]
    spaces = [access.submitter(space) for space in submitters]
    more = [*people, *spaces, *(access.agent(name) for name in agents)]
    mesh.ensure_users("nats://127.0.0.1", more)
    async with embedded_server(mesh.server_dir, sync_interval=sync_interval) as server:
        mesh.point_to(server.url)
        if people and spaces:
            operator, submitter = people[0].name, spaces[0].name
            write_connection(directory, Connection(server=server.url, operator=operator, submitter=submitter))
        await mesh.prepare()
        yield MeshServer(mesh, server)
