"""Where settings come from, and what is said about those that cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ByteSize, TypeAdapter

import planmesh
from planmesh import settings
from planmesh.access import HOME
from planmesh.errors import Unusable
from planmesh.settings import Settings, Storage, load


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PLANMESH_", "OTEL_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "planmesh.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def problems(**flags: object) -> str:
    with pytest.raises(Unusable) as caught:
        load(**flags)  # type: ignore[arg-type]
    return str(caught.value)


def test_nothing_has_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    settings = load()

    assert settings.data_dir == Path("/home/ada/.local/share/planmesh")
    assert settings.credentials_dir == Path("/home/ada/.local/share/planmesh/credentials")
    assert settings.database == "sqlite:////home/ada/.local/share/planmesh/auditor.db"
    assert (settings.server, settings.otlp_endpoint, settings.agents) == (None, None, ())
    assert settings.sync_interval == "always"
    assert (settings.gate_sla_s, settings.limits.steps, settings.limits.plan_bytes) == (14_400, 10_000, 4_194_304)


def test_the_command_line_is_stronger_than_the_environment_and_that_than_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('server = "nats://file"\nlisten_port = 1\nagent_concurrency = 7\n[limits]\nsteps = 5\nconcurrency = 6\n')
    monkeypatch.setenv("PLANMESH_SERVER", "nats://environment")
    monkeypatch.setenv("PLANMESH_LISTEN_PORT", "2")
    monkeypatch.setenv("PLANMESH_LIMITS__STEPS", "50")

    settings = load(server="nats://flag", data_dir=None)

    assert (settings.server, settings.listen_port, settings.agent_concurrency) == ("nats://flag", 2, 7)
    assert (settings.limits.steps, settings.limits.concurrency) == (50, 6)


def test_a_file_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("listen_port = 1\n")
    named = write("listen_port = 2\n", "other.toml")

    assert load(named).listen_port == 2
    monkeypatch.setenv("PLANMESH_CONFIG", "other.toml")
    assert load().listen_port == 2


def test_a_named_file_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_CONFIG", "nowhere.toml")

    assert problems() == "there is no settings file nowhere.toml (PLANMESH_CONFIG)"


def test_lists_in_the_environment_are_written_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_AGENTS", "shop.agents, other")
    monkeypatch.setenv("PLANMESH_NOTIFY_URLS", "mailto://a,b json://c")

    settings = load()
    monkeypatch.setenv("PLANMESH_AGENTS", '["third"]')

    assert settings.agents == ("shop.agents", "other")
    assert [url.get_secret_value() for url in settings.notify_urls] == ["mailto://a,b", "json://c"]
    assert load().agents == ("third",)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_SERVER", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")

    assert (load().server, load().otlp_endpoint) == (None, None)


def test_the_standard_variable_for_spans_counts_unless_ours_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318")
    assert load().otlp_endpoint == "http://standard:4318"

    write('otlp_endpoint = "http://ours:4318"\n')
    assert load().otlp_endpoint == "http://ours:4318"


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLANMESH_DATA_DIR", "here")
    monkeypatch.setenv("PLANMESH_CREDENTIALS", "~/keys")

    assert load().data_dir == tmp_path / "here"
    assert load().credentials_dir == Path.home() / "keys"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("listen_prot = 1", "listen_prot in planmesh.toml: there is no such setting; did you mean listen_port?"),
        ('escalate_to = "role:cfo"', "there is no such setting; did you mean directory.escalate_to?"),
        ("[notices]\nweb_port = 1", "there is no such setting; did you mean web_port, outside of [notices]?"),
        ("[limits]\nstep = 1", "limits.step in planmesh.toml: there is no such setting; did you mean steps?"),
        ("listen_port = 65536", "listen_port in planmesh.toml: expected less than or equal to 65535, found 65536"),
        (
            'sync_interval = "often"',
            "sync_interval in planmesh.toml: expected `always`, or a duration such as 500ms, 10s, 2m, found 'often'",
        ),
        ("replicas = 2", "replicas in planmesh.toml: expected 1, 3 or 5, found 2"),
        ("[limits]\nsteps = 0", "limits.steps in planmesh.toml: expected greater than 0, found 0"),
        (
            'log_level = "loud"',
            "log_level in planmesh.toml: expected 'debug', 'info', 'warning' or 'error', found 'loud'",
        ),
        ("notify_urls = [1]", "notify_urls.0 in planmesh.toml: expected a valid string"),
        ("database_url = 1", "database_url in planmesh.toml: expected a valid string"),
        (
            'public_url = "plans.example.org"',
            "public_url in planmesh.toml: expected a URL that begins with http:// or https://, without user, password "
            "or query, such as http://localhost:8080/v1, found 'plans.example.org'",
        ),
        (
            '[directory.people.ada]\nemail = "ada"',
            "directory.people.ada.email in planmesh.toml: expected one e-mail address, such as ada@example.org",
        ),
        ("server =", "planmesh.toml is not TOML: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_what_was_expected(file: str, said: str) -> None:
    write(f"{file}\n")

    assert said in problems()


def test_all_mistakes_are_told_at_once_each_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    write("replicas = 4\n")
    monkeypatch.setenv("PLANMESH_LISTEN_PORT", "door")
    monkeypatch.setenv("PLANMESH_DATADIR", "here")
    monkeypatch.setenv("PLANMESH_SERVICE_HOST", "10.0.0.1")  # Kubernetes sets such ones

    lines = problems(log_level="loud").splitlines()

    assert lines[0] == "the settings cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "PLANMESH_DATADIR in the environment",
        "PLANMESH_LISTEN_PORT in the environment",
        "replicas in planmesh.toml",
        "log_level, as it was given",
    ]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_DATABASE_URL", "postgresql://ada:hunter2@db/log")
    monkeypatch.setenv("PLANMESH_NOTIFY_URLS", "mailto://ada:hunter2@mail")

    assert "hunter2" not in repr(load())
    assert load().database == "postgresql://ada:hunter2@db/log"
    monkeypatch.setenv("PLANMESH_NOTIFY_URLS", "[hunter2")
    assert "hunter2" not in problems()


def test_limits_as_a_whole_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_LIMITS", '{"steps": 3}')
    assert load().limits.steps == 3

    monkeypatch.setenv("PLANMESH_LIMITS", "steps=3")
    assert problems() == (
        "PLANMESH_LIMITS in the environment: expected JSON; or set one key of it, as PLANMESH_LIMITS__PLAN_BYTES"
    )


def test_what_streams_may_take_is_written_with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[storage]\nblobs_bytes = "20GiB"\n')
    monkeypatch.setenv("PLANMESH_STORAGE__PLANS_BYTES", "64MiB")

    assert load().storage.max_bytes == {"BLOBS": 20 * 2**30, "PLANS": 64 * 2**20}
    assert set(Storage.model_fields) == {f"{kind.lower()}_bytes" for kind in HOME}

    monkeypatch.setenv("PLANMESH_STORAGE__PLANS_BYTES", "1MiB")
    assert "PLANMESH_STORAGE__PLANS_BYTES in the environment: expected greater than or equal to" in problems()


def test_no_mistake_is_answered_with_a_regular_expression() -> None:
    def patterns(schema: object) -> set[str]:
        if isinstance(schema, dict):
            own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
            return own.union(*map(patterns, schema.values()), *(schema.get("patternProperties") or {},))
        return set().union(*map(patterns, schema)) if isinstance(schema, list) else set()

    of_pydantic = patterns(TypeAdapter(ByteSize).json_schema())  # which has words of its own for it

    assert patterns(Settings.model_json_schema()) - of_pydantic == settings._PATTERNS.keys()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().server = "nats://other"  # type: ignore[misc]


def test_every_setting_is_explained() -> None:
    source = Path(sys.modules[Settings.__module__].__file__ or "").read_text()

    assert all(f"    {name}: " in source for name in Settings.model_fields)


def test_the_package_does_not_read_settings_when_it_is_imported() -> None:
    program = "import planmesh, planmesh.errors, planmesh.access, sys; print('pydantic' in sys.modules)"
    root = Path(planmesh.__file__).parents[1]

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)

    assert done.stdout.strip() == "False"


def test_a_model_is_set_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_MODEL__NAME", "qwen3")
    monkeypatch.setenv("PLANMESH_MODEL__BASE_URL", "http://localhost:11434/v1")
    monkeypatch.setenv("PLANMESH_MODEL__API_KEY", "geheim")

    model = load().model

    assert (model.name, model.base_url, model.key) == ("qwen3", "http://localhost:11434/v1", "geheim")
    assert "geheim" not in repr(load())


def test_a_misspelt_key_of_a_model_is_told_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_MODEL__API_KEYS", "geheim")

    said = problems()

    assert said.count("did you mean") == 1
    assert "geheim" not in said


def test_how_plans_are_drafted_is_set_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANMESH_PLANNER__REVIEWERS", "role:operator, person:ada")
    monkeypatch.setenv("PLANMESH_PLANNER__TEMPLATES", "kept")

    planner = load().planner

    assert planner.reviewers == ("role:operator", "person:ada")
    assert planner.templates == Path.cwd() / "kept"
    assert (planner.destructive, planner.rounds) == ("gate", 3)


def test_somebody_decides_at_the_gates_of_drafted_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[planner]\nreviewers = []\n")

    assert "expected at least one reviewer" in problems()
