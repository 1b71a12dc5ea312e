"""compose.yaml and the Dockerfile, held against the code. There may be no Docker engine here, but there is a server."""

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from planmesh import access, health, settings, supervision
from planmesh.administration import Mesh
from planmesh.embedded import server_binary
from planmesh.greeting import OLDEST_SERVER

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "planmesh"}
RUNNING = {name: service for name, service in OURS.items() if service["restart"] != "no"}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What a service mounts: the volume or folder, where, and whether it may write there."""
    for mount in service.get("volumes", ()):
        source, target, *mode = mount.split(":")
        yield source, target, mode != ["ro"]


def script(name: str) -> str:
    """What a service runs in a shell, as the shell sees it."""
    shell, flags, text = SERVICES[name]["command"]
    assert (shell, flags) == ("sh", "-euc")
    return str(text).replace("$$", "$")


# --- the file in itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_is_there(name: str) -> None:
    service = SERVICES[name]

    for source, _, _ in mounts(service):
        assert source.startswith(".") or source in COMPOSE["volumes"]
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert {one["source"] for one in service.get("configs", ())} <= set(COMPOSE["configs"])
    for other, wait in service.get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_every_volume_is_mounted_somewhere() -> None:
    assert {source for service in SERVICES.values() for source, _, _ in mounts(service)} >= set(COMPOSE["volumes"])


def test_services_start_again_when_they_end_and_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        once = name in ("init", "prepare", "planmesh")
        assert service["restart"] == ("no" if once else "unless-stopped")
        if name not in OURS:
            assert re.fullmatch(r"[a-z/]+:\d+(\.\d+)*(-alpine)?", service["image"])


def test_ports_are_open_to_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_services_run_without_privileges() -> None:
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_value_that_it_can_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_image = dict(re.findall(r"(PLANMESH_\w+)=(\S+)", DOCKERFILE))
    variables = of_image | SERVICES[name].get("environment", {})
    for variable in [one for one in os.environ if one.startswith("PLANMESH_")]:
        monkeypatch.delenv(variable)
    for variable, value in variables.items():
        assert variable.removeprefix("PLANMESH_").lower() in settings.Settings.model_fields
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir("/")

    found = settings.load()

    for variable in variables:
        assert variable.removeprefix("PLANMESH_").lower() in found.model_fields_set


def test_no_secret_is_in_the_environment() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", name):
                assert name.endswith("_FILE")
            if name == "PLANMESH_DATABASE_URL":
                assert make_url(value).password is None


def test_the_auditor_reaches_the_database_as_the_user_that_it_is_made_for() -> None:
    url = make_url(SERVICES["auditor"]["environment"]["PLANMESH_DATABASE_URL"])
    database = SERVICES["database"]["environment"]

    assert (url.drivername, url.host) == ("postgresql+psycopg", "database")
    assert (url.username, url.database) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
    assert f"{url.host}:5432:{url.database}:{url.username}:" in script("prepare")
    assert set(SERVICES["database"]["networks"]) & set(SERVICES["auditor"]["networks"])
    assert importlib.util.find_spec("psycopg"), "the extra `postgresql` brings it, and `test` includes that"


def test_spans_go_to_jaeger() -> None:
    assert SERVICES["auditor"]["environment"]["PLANMESH_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert set(SERVICES["jaeger"]["networks"]) & set(SERVICES["auditor"]["networks"])


# --- users -------------------------------------------------------------------------------------------------


def test_every_service_is_there_and_runs_what_a_mesh_on_one_machine_runs() -> None:
    expected = {one.name: ["python", *one.arguments] for one in (*supervision.services(), supervision.worker())}

    assert {name: service["command"] for name, service in RUNNING.items()} == expected
    for command in expected.values():
        assert importlib.util.find_spec(command[2]) is not None


@pytest.mark.parametrize("name", RUNNING)
def test_a_service_has_its_own_credentials_and_no_others(name: str) -> None:
    copied = re.findall(r"^cp (.+) /hand-out/(\S+)$", script("prepare"), re.MULTILINE)
    handed_out = {service: files.split() for files, service in copied}
    users = {f"{user.name}.toml" for user in health.users_of(name)} if name != "worker" else {"agent-*.toml"}
    (volume,) = {source for source, target, _ in mounts(SERVICES[name]) if target == "/credentials"}

    assert set(handed_out[name]) == users
    assert SERVICES[name]["environment"]["PLANMESH_CREDENTIALS"] == "/credentials"
    # Only `prepare` writes there, and nobody else mounts it.
    seen = {
        (other, target, writable)
        for other, service in SERVICES.items()
        for source, target, writable in mounts(service)
        if source == volume
    }
    assert seen == {(name, "/credentials", False), ("prepare", f"/hand-out/{name}", True)}


def test_only_the_administrator_has_everybodys_credentials() -> None:
    having = {
        name
        for name, service in SERVICES.items()
        for source, _, _ in mounts(service)
        if source in ("mesh", "accounts") and name != "nats"
    }

    assert having == {"init", "prepare", "planmesh"}


@pytest.mark.parametrize("name", [name for name in RUNNING if name != "worker"])
def test_a_service_is_healthy_while_it_reads_what_it_should(name: str) -> None:
    assert RUNNING[name]["healthcheck"]["test"] == ["CMD", "python", "-m", "planmesh.health", name]
    assert name in health.SERVICES


# --- the image ---------------------------------------------------------------------------------------------


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = [source for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]

    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source in allowed
    # Without what the links of the package lead to, there would be no services in it.
    links = {str(link.resolve().relative_to(ROOT)) for link in (ROOT / "planmesh").iterdir() if link.is_symlink()}
    assert links <= set(copied)


def test_every_folder_that_is_written_belongs_to_the_user_of_the_image() -> None:
    (made,) = re.findall(r"install --directory --owner=planmesh [^\n]*", DOCKERFILE)

    for service in OURS.values():
        for source, target, _ in mounts(service):
            assert source.startswith(".") or target in made.split()


def test_the_documentation_names_the_images_and_the_ports() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")

    for name, service in SERVICES.items():
        assert f"`{name}`" in page
        if name not in OURS:
            assert f"`{service['image']}`" in page
        for port in service.get("ports", ()):
            assert port.rpartition(":")[0] in page


# --- its scripts, on a real server -------------------------------------------------------------------------


class Deployment:
    """The containers' folders below one directory, and their scripts with a shell of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mesh = Mesh(root / "var/lib/planmesh")
        for folder in ("var/lib/planmesh/nats", "var/lib/planmesh/database", "data", "etc/nats"):
            (root / folder).mkdir(parents=True)
        for name in RUNNING:
            (root / "hand-out" / name).mkdir(parents=True)
        (root / "etc/nats/planmesh").symlink_to(self.mesh.server_dir)

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLANMESH_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**inherited, "PATH": path, "PLANMESH_DATA_DIR": str(self.mesh.data_dir), **more}

    def run(self, name: str) -> None:
        """Run one of the services that end."""
        text = re.sub(r"(?<![\w.])/(var/lib/planmesh|hand-out)\b", rf"{self.root}/\1", script(name))
        environment = self.environment(**SERVICES[name]["environment"])
        subprocess.run(["sh", "-euc", text], env=environment, cwd=self.root, check=True, capture_output=True)

    @asynccontextmanager
    async def nats(self) -> AsyncIterator[str]:
        """Run the server with its configuration, on other ports and another folder. Yields: its URL."""
        config = COMPOSE["configs"]["nats"]["content"]
        for here, there in (
            ('"0.0.0.0:4222"', '"127.0.0.1:-1"'),
            ('"127.0.0.1:8222"', '"127.0.0.1:-1"'),
            ('"/data"', json.dumps(str(self.root / "data"))),
            ("sync_interval: always", "sync_interval: 2m"),
        ):
            assert here in config
            config = config.replace(here, there)
        file = self.root / "etc/nats/nats.conf"
        file.write_text(f"{config}\nports_file_dir: {json.dumps(str(self.root))}\n")
        server = await asyncio.create_subprocess_exec(
            server_binary(), "--config", file, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(10):
                url = await self._url(server.pid)
            yield url
        finally:
            server.terminate()
            await server.wait()

    async def _url(self, pid: int) -> str:
        while True:
            for file in self.root.glob(f"*_{pid}.ports"):
                if said := file.read_text():
                    return str(json.loads(said)["nats"][0])
            await asyncio.sleep(0.01)


async def test_its_scripts_and_its_server_make_a_mesh(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    mesh = deployment.mesh

    await asyncio.to_thread(deployment.run, "init")
    async with asyncio.timeout(90), deployment.nats() as url:
        mesh.point_to(url)  # the name `nats` is known between containers only
        await asyncio.to_thread(deployment.run, "prepare")

        # Again, with a user more: the server is told, and nothing is made anew.
        password = (mesh.data_dir / "database/password").read_text()
        await asyncio.to_thread(deployment.run, "init")
        await mesh.add_submitter("shop")
        await asyncio.to_thread(deployment.run, "prepare")
        assert await mesh.prepare() == ()

        for name in RUNNING:
            handed_out = {file.stem for file in (tmp_path / "hand-out" / name).glob("*.toml")}
            users = {user.name for user in health.users_of(name)}
            assert handed_out == (users or {f"agent-{agent}" for agent in mesh.agents()})
            assert handed_out
            for file in (tmp_path / "hand-out" / name).iterdir():
                assert file.stat().st_mode & 0o077 == 0
        pgpass = (tmp_path / "hand-out/auditor/pgpass").read_text()
        assert pgpass == f"database:5432:planmesh:planmesh:{password}"
        assert len(password.strip()) >= 32

        # A service needs no more than what it was handed.
        environment = deployment.environment(PLANMESH_CREDENTIALS=str(tmp_path / "hand-out/planner"))
        assert "GOALS-shop/planner" in await health_of("planner", environment)
        planner = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "planmesh.planner"], env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            while said := await health_of("planner", environment):
                assert "nobody reads" in said
        finally:
            planner.terminate()
            await planner.wait()


async def health_of(service: str, environment: dict[str, str]) -> str:
    """What its health check says; nothing if it is well."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "planmesh.health", service], env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert bool(process.returncode) == bool(said)
    return said.decode()


def test_the_server_is_new_enough() -> None:
    version = SERVICES["nats"]["image"].partition(":")[2].partition("-")[0]

    assert tuple(map(int, version.split("."))) >= OLDEST_SERVER
    assert access.SYSTEM in COMPOSE["configs"]["nats"]["content"]
