"""What can be set, read once in each `__main__` and passed down. Nothing else reads the environment.

From strongest to weakest: what the command line says, ``PLANMESH_*`` in the environment, a TOML file
(``PLANMESH_CONFIG``, or else ``planmesh.toml`` in the current directory), the defaults below. A field ``data_dir``
is ``PLANMESH_DATA_DIR`` in the environment; a limit is ``PLANMESH_LIMITS__PLAN_BYTES``, and in the file a key of the
table ``[limits]``. A list in the environment is written with commas or spaces between, or as JSON.

Importing this module takes a while (pydantic): the command line does so inside its verbs.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from planmesh.directory import PATTERNS, Directory
from planmesh.errors import Unusable

DEFAULT_FILE: Final = "planmesh.toml"
_PREFIX: Final = "PLANMESH_"
_CONFIG: Final = "PLANMESH_CONFIG"
_DURATION: Final = re.compile(r"[1-9][0-9]{0,8}(ms|s|m|h)")
_LEAST: Final = Field(ge=16 * 1024 * 1024)  # twice the largest message
_BASE_URL: Final = r"^https?://[^\s/?#@\"'<>]+(/[^\s?#\"'<>]*)?$"
_URL: Final = r"^https?://[^\s\"'<>]{1,500}$"
_HEADER: Final = r"^[A-Za-z0-9-]{1,64}$"
_PATTERNS: Final = {
    **PATTERNS,
    _BASE_URL: "a URL that begins with http:// or https://, without user, password or query, such as "
    "http://localhost:8080/v1",
    _URL: "a URL that begins with http:// or https://, of at most 500 characters",
    _HEADER: "the name of a header, 1 to 64 of A-Z a-z 0-9 -",
}
"""What the regular expressions of fields say, in words."""
_SECRET: Final = frozenset({"database_url", "notify_urls", "directory", "sign_in", "model"})


class Limits(BaseModel):
    """How much of anything is accepted. What exceeds a limit is refused with the limit's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan_bytes: int = Field(default=4 * 1024 * 1024, gt=0, le=7 * 1024 * 1024)
    """A plan document; its commit has to fit into one message."""
    steps: int = Field(default=10_000, gt=0, le=100_000)
    """The steps of one plan."""
    inline_output_bytes: int = Field(default=8 * 1024, ge=0, le=1024 * 1024)
    """Larger outputs are blobs, and the log holds their digest."""
    inline_inputs_bytes: int = Field(default=256 * 1024, ge=0, le=4 * 1024 * 1024)
    """Larger inputs, put together from outputs, are blobs."""
    max_payload_bytes: int = Field(default=8 * 1024 * 1024, ge=8 * 1024 * 1024, le=64 * 1024 * 1024)
    """The largest message of the embedded server, and so the largest blob."""
    concurrency: int = Field(default=100, gt=0)
    """How many steps of a plan that says nothing else may run at once; and how many plans for its steps."""
    plans: int = Field(default=1_000, ge=0, le=100_000)
    """How many plans may run for the steps of one goal's plan, and for those of these plans, in all."""


class Storage(BaseModel):
    """What each stream may take on disk: bytes, or with a unit, such as ``20GiB``. What is not set is as it is on the
    server, or else the default of `planmesh.streams`. `planmesh init`, and `planmesh up`, apply it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plans_bytes: Annotated[ByteSize | None, _LEAST] = None
    """The log. It cannot be made smaller than it is, and nothing goes on when it is full."""
    blobs_bytes: Annotated[ByteSize | None, _LEAST] = None
    """Large outputs and inputs: kept for as long as the log, which refers to them."""
    goals_bytes: Annotated[ByteSize | None, _LEAST] = None
    """Goals of one submitter that wait for the planner: each has as much."""
    outcomes_bytes: Annotated[ByteSize | None, _LEAST] = None
    """News of 30 days."""
    work_bytes: Annotated[ByteSize | None, _LEAST] = None
    """What waits for agents."""
    commands_bytes: Annotated[ByteSize | None, _LEAST] = None
    results_bytes: Annotated[ByteSize | None, _LEAST] = None
    poison_bytes: Annotated[ByteSize | None, _LEAST] = None
    claims_bytes: Annotated[ByteSize | None, _LEAST] = None
    catalogue_bytes: Annotated[ByteSize | None, _LEAST] = None
    notices_bytes: Annotated[ByteSize | None, _LEAST] = None
    secrets_bytes: Annotated[ByteSize | None, _LEAST] = None
    """Secrets that people have entered, each for as long as its plan goes on."""

    @property
    def max_bytes(self) -> dict[str, int]:
        """What is set, by stream."""
        given = ((name.removesuffix("_bytes").upper(), getattr(self, name)) for name in type(self).model_fields)
        return {stream: int(size_bytes) for stream, size_bytes in given if size_bytes is not None}


class Notices(BaseModel):
    """What the gatekeeper tells people, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: Path | None = None
    """A directory with templates of your own for notices: one that is not there is the built-in one."""
    outputs: bool = True
    """Whether what steps gave, and what is made of it, may leave in a notice. If not, sizes and digests do, and who
    wants to read more opens the review page."""
    private_addresses: bool = True
    """Whether a channel may be at an address that is no public one: of this machine, or of its network."""
    operators_news: bool = True
    """Whether operators hear of plans that stand still, and of what was set aside."""
    operators_news_every_s: float = Field(default=60.0, gt=0, le=86_400)
    """How often at most: what happens in between is told together."""

    @field_validator("templates")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()


class SignIn(BaseModel):
    """Single sign-on, by a proxy in front of the review pages that tells who has signed in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_header: str = Field(default="X-Forwarded-Email", pattern=_HEADER)
    """The header in which the proxy says who it is: a person's e-mail address or id."""
    secret_header: str = Field(default="X-Planmesh-Proxy-Secret", pattern=_HEADER)
    """The header in which the proxy proves that it is the proxy."""
    secret: SecretStr | None = None
    """What only the proxy knows, 32 characters at least. None: nobody can sign in."""
    url: str | None = Field(default=None, pattern=_URL)
    """Where people sign in, for a page to say so. None: at `public_url`."""

    @field_validator("secret")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("expected at least 32 characters, such as `openssl rand -hex 32` gives")
        return value


class Model(BaseModel):
    """A language model behind an endpoint that speaks OpenAI's protocol for chats, wherever it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=200)
    """What the endpoint calls it. None: there is no model, and whatever needs one says so."""
    base_url: str | None = Field(default=None, pattern=_BASE_URL)
    """Where requests go, such as ``http://localhost:8080/v1``. None: to OpenAI."""
    api_key: SecretStr | None = None
    """What the endpoint knows this mesh by; many need none."""
    api_key_file: Path | None = None
    """A file with nothing else in it, instead of `api_key`."""
    timeout_s: float = Field(default=120.0, gt=0, le=3_600)
    """How long one answer may take, all tries together."""
    retries: int = Field(default=4, ge=0, le=20)
    """How often a request is made again that the endpoint could not take: it was busy, away or broken."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """None: what the endpoint thinks best."""
    max_tokens: int = Field(default=16_384, ge=16, le=1_000_000)
    """The longest answer, in tokens, thoughts included."""
    answer_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """The longest answer, in bytes of HTTP."""
    context_bytes: int = Field(default=512 * 1024, ge=1024, le=8 * 1024 * 1024)
    """The most that a step may tell a model: its task, and whatever else it gives."""
    allowed: Annotated[tuple[str, ...], NoDecode] = ()
    """What steps may choose besides `name`: other models of the endpoint; ``*`` for any."""
    structured: Literal["schema", "tool", "text"] = "schema"
    """How an answer of a certain form is asked for. ``schema``: the endpoint holds the model to a JSON Schema
    (`response_format`). ``tool``: by the parameters of a tool. ``text``: the schema is told, and hoped for."""

    @field_validator("allowed", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The models that a step may choose; None: any, or nobody knows them here."""
        if self.name is None or "*" in self.allowed:
            return None
        return tuple(dict.fromkeys([self.name, *self.allowed]))

    @property
    def key(self) -> str | None:
        """The key, read from its file if it is in one. For OpenAI, OPENAI_API_KEY counts too. Raises: Unusable."""
        if self.api_key is not None:
            return _a_key(self.api_key.get_secret_value(), "model.api_key") or None
        if self.api_key_file is None:
            of_openai = os.environ.get("OPENAI_API_KEY", "") if self.base_url is None else ""
            return _a_key(of_openai, "OPENAI_API_KEY") or None
        try:
            key = self.api_key_file.expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unusable(f"cannot read the model's key in {self.api_key_file} (model.api_key_file): {why}") from error
        where = f"{self.api_key_file} (model.api_key_file)"
        if not key:
            raise Unusable(f"expected a key and nothing else in {where}")
        return _a_key(key, where)


def _a_key(text: str, where: str) -> str:
    """*text*, if a header can hold it. Raises: Unusable, which does not repeat it."""
    if not text.isascii() or not (text.isprintable() or not text) or " " in text:
        raise Unusable(f"expected a key and nothing else in {where}")
    return text


class Planner(BaseModel):
    """How plans are made of goals that come without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: Path | None = None
    """A directory with plans that a goal may name: ``NAME.plan``, ``NAME.yaml`` or ``NAME.json``."""
    rounds: int = Field(default=3, ge=1, le=20)
    """How many drafts a model may make of one plan: after the first, it is told what is wrong with the one before."""
    drafts_at_once: int = Field(default=4, ge=1, le=100)
    """How many plans a model works on at the same time; other goals do not wait for them."""
    max_steps: int = Field(default=50, ge=1, le=1_000)
    """The steps of a plan that a model writes."""
    tight: bool = False
    """Whether a model may choose neither the names of steps nor a wrong order: for small models."""
    destructive: Literal["gate", "draft", "allow"] = "gate"
    """What becomes of a model's plan in which a step that writes, uses the network or secrets, or cannot be undone does
    not stand behind a gate. ``gate``: the planner puts one before it. ``draft``: somebody has to start the plan."""
    goals_may_allow: bool = False
    """Whether a goal, or a plan, may say ``destructive: allow`` in its policy: a model's steps take no gate there."""
    reviewers: Annotated[tuple[str, ...], NoDecode] = ("role:operator",)
    """Who decides at the gates that the planner puts in, and at those that count as one of them."""

    @property
    def may_allow_harm(self) -> bool:
        """Whether a plan may ask for no gates: where these settings ask for none, there is nothing to allow."""
        return self.goals_may_allow or self.destructive == "allow"

    @field_validator("templates")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("reviewers", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("reviewers")
    @classmethod
    def _somebody(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one reviewer, such as role:operator")
        return value


def _data_dir() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or ""
    # The specification says to ignore a path that is not absolute.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "planmesh"


class Settings(BaseSettings):
    """Everything that can be set. Made by `load`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    server: str | None = None
    """``nats://host:port``. None: what the credentials say, which `planmesh up` and `planmesh init` have written."""
    data_dir: Path = Field(default_factory=_data_dir)
    """Where a mesh on this machine keeps its files: one for each user of the machine, wherever the command line is
    called: ``$XDG_DATA_HOME/planmesh``, or else ``~/.local/share/planmesh``."""
    credentials: Path | None = None
    """The directory with one file for each user that this process may be. None: ``credentials`` in `data_dir`."""
    listen_port: int = Field(default=0, ge=0, le=65_535)
    """The embedded server's TCP port on 127.0.0.1; 0: any free one."""
    sync_interval: str = "always"
    """When the embedded server syncs what it has stored to disk: at each message, or as often as this (``2m``)."""
    replicas: int = 1
    """How many servers of a cluster of your own hold each message."""
    database_url: SecretStr | None = None
    """The auditor's database, as SQLAlchemy writes it. None: SQLite, ``auditor.db`` in `data_dir`."""
    otlp_endpoint: str | None = Field(default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None)
    """Where spans go by OTLP over HTTP, such as ``http://localhost:4318``. None: nowhere. Without one of ours, the
    standard OTEL_EXPORTER_OTLP_ENDPOINT counts."""
    agents: Annotated[tuple[str, ...], NoDecode] = ()
    """Python modules with agents to host, besides those that installed distributions declare."""
    agent_concurrency: int = Field(default=100, gt=0)
    """How many steps of an agent may run at once, unless it was added with another number."""
    stop_patience_s: float = Field(default=20.0, ge=0, le=3_600)
    """How long a worker that was told to stop goes on trying to store what its agents gave, if the server does not take
    it. Then it says what is lost, and ends."""
    notify_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Where notices of gates go: Apprise URLs, or `tag:NAME`. In the environment, spaces between them: URLs may contain
    commas."""
    apprise_config: Path | None = None
    """A configuration file of Apprise's own (YAML, TOML or text), of which the tags can be channels. Nothing remote."""
    gate_sla_s: float = Field(default=4 * 3600.0, gt=0)
    """How long a gate that does not say may wait before its reviewers are reminded."""
    directory: Directory = Directory()
    """Who decides, and how they are told."""
    public_url: str | None = Field(default=None, pattern=_BASE_URL)
    """Where people find the review pages, such as ``https://plans.example.org``: what links in notices begin with."""
    web_host: str = "127.0.0.1"
    """The address on which the gatekeeper serves the review pages."""
    web_port: int | None = Field(default=None, ge=1, le=65_535)
    """The port of the review pages. None, or ``off``: there are none."""
    link_lifetime_s: float = Field(default=7 * 86_400.0, gt=0, le=366 * 86_400)
    """How long a link in a notice is good for."""
    sign_in: SignIn = SignIn()
    model: Model = Model()
    """Who works out plans from goals in words, and revisions from instructions."""
    notices: Notices = Notices()
    planner: Planner = Planner()
    limits: Limits = Limits()
    storage: Storage = Storage()
    secrets_kept_s: float = Field(default=30 * 86_400.0, ge=60, le=366 * 86_400)
    """How long the answer to an ask with `secret` is kept of a plan that does not end. `planmesh init`, and `planmesh
    up`, apply it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    """``auto``: for people on a terminal, JSON otherwise."""

    @property
    def credentials_dir(self) -> Path:
        return self.credentials or self.data_dir / "credentials"

    @property
    def pages_url(self) -> str | None:
        """Where people find the review pages, without a slash at the end. None: there are none."""
        if self.web_port is None:
            return None
        return (self.public_url or f"http://{self.web_host}:{self.web_port}").rstrip("/")

    @property
    def database(self) -> str:
        """The auditor's database, password included: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'auditor.db'}"

    @field_validator("sync_interval")
    @classmethod
    def _interval(cls, value: str) -> str:
        if value != "always" and _DURATION.fullmatch(value) is None:
            raise ValueError("expected `always`, or a duration such as 500ms, 10s, 2m")
        return value

    @field_validator("replicas")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value not in (1, 3, 5):
            raise ValueError("expected 1, 3 or 5")
        return value

    @field_validator("web_port", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return None if value == "off" else value

    @field_validator("data_dir", "credentials", "apprise_config")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("agents", "notify_urls", mode="before")
    @classmethod
    def _split(cls, value: object, info: Any) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"expected a JSON list after the `[`: {error.msg} at character {error.pos}") from None
        return (value.replace(",", " ") if info.field_name == "agents" else value).split()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "limits": Limits,
    "storage": Storage,
    "directory": Directory,
    "sign_in": SignIn,
    "model": Model,
    "notices": Notices,
    "planner": Planner,
}


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings.

    Args:
        config: The TOML file; None: see the top of this module.
        flags: What the command line says; None for what it does not say.

    Raises:
        Unusable: A key that does not exist, or a value that cannot be; the text names each, where it is, and what
            was expected.
    """
    said = os.environ.get(_CONFIG)
    file = config or (Path(said) if said else None)
    if file is not None and not file.is_file():
        raise Unusable(f"there is no settings file {file}{'' if config else f' ({_CONFIG})'}")
    file = file or Path(DEFAULT_FILE)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    given = {name: value for name, value in flags.items() if value is not None}
    problems = _misspelt_environment()
    try:
        settings = FromFile(**given)
    except tomllib.TOMLDecodeError as error:
        raise Unusable(f"{file} is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"{file} is not TOML: it is not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise Unusable(f"cannot read {file}: {error.strerror or error}") from error
    except SettingsError as error:
        said_whole = [table for table in _TABLES if any(name.upper() == _variable(table) for name in os.environ)]
        assert said_whole  # lists in tables take any text, and nothing else is written as JSON
        key = next(iter(_TABLES[said_whole[0]].model_fields))
        raise Unusable(
            f"{' or '.join(map(_variable, said_whole))} in the environment: expected JSON; or set one key of it, as "
            f"{_variable(said_whole[0], key)}"
        ) from error
    except ValidationError as error:
        misspelt = {problem.partition(":")[0] for problem in problems}
        more = (_problem(one, given, file) for one in error.errors(include_url=False))
        problems += [problem for problem in more if problem.partition(":")[0] not in misspelt]
    if problems:
        raise Unusable("\n".join(["the settings cannot be used:", *(f"  {problem}" for problem in problems)]))
    return settings


def _problem(error: Mapping[str, Any], flags: Mapping[str, Any], file: Path) -> str:
    """One line: where, what was found, what was expected."""
    first, *rest = (str(part) for part in error["loc"])
    key = ".".join((first, *rest))
    names = (_variable(first), _variable(first, *rest))
    variable = next((name for name in os.environ if name.upper() in names), None)
    if first in flags:
        where = f"{key}, as it was given"
    elif variable is not None:
        where = f"{variable} in the environment"
    else:
        where = f"{key} in {file}"
    if error["type"] == "extra_forbidden":
        close = _meant(first, rest)
        return f"{where}: there is no such setting" + (f"; did you mean {close}?" if close else "")
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if error["type"] == "string_pattern_mismatch":
        expected = f"expected {_PATTERNS[error['ctx']['pattern']]}"
    found = "" if first in _SECRET else f", found {error['input']!r:.80}"
    return f"{where}: {expected}{found}"


def _meant(first: str, rest: Sequence[str]) -> str:
    """The setting that was probably meant: the nearest in its table, or the one of this name in another."""
    there = _TABLES[first].model_fields if rest and first in _TABLES else Settings.model_fields
    said = rest[0] if rest else first
    if len(rest) > 1:
        return ""
    elsewhere = [f"{table}.{said}" for table, fields in _TABLES.items() if said in fields.model_fields]
    if rest and said in Settings.model_fields:
        elsewhere.append(f"{said}, outside of [{first}]")
    return next(iter([*elsewhere, *difflib.get_close_matches(said, there, 1)]), "")


def _misspelt_environment() -> list[str]:
    """Variables that look like ours and are not. Others may share our prefix (Kubernetes makes such ones)."""
    known = [_CONFIG, *(_variable(name) for name in Settings.model_fields)]
    for table, fields in _TABLES.items():
        known += (_variable(table, name) for name in fields.model_fields)
    found = (name for name in os.environ if name.upper().startswith(_PREFIX) and name.upper() not in known)
    close = ((name, difflib.get_close_matches(name.upper(), known, 1, cutoff=0.9)) for name in sorted(found))
    return [
        f"{name} in the environment: there is no such setting; did you mean {near[0]}?" for name, near in close if near
    ]


def _variable(*path: str) -> str:
    return _PREFIX + "__".join(path).upper()
