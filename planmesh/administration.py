"""What an administrator does: make users, streams and consumers. `planmesh init`, `planmesh up` and `agents add`.

Every step can be done again, and changes nothing when there is nothing to change. A user is a file of credentials
(`planmesh.credentials`); the server learns of them from ``<data_dir>/nats/accounts.conf``, which is written anew
each time. A server of ours reads it again when told so. In a server of your own, ``include`` that file (by a path
relative to the including one: nats-server takes every path so), and say ``system_account: SYSTEM``, and planmesh can
do so there as well; else reload it yourself, twice: see `Mesh.reload`.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from planmesh import access, streams
from planmesh.access import User
from planmesh.answers import read_leader
from planmesh.connection import Connection, ServerInfo, connect
from planmesh.credentials import Credentials, read_credentials, users, write_credentials, write_private
from planmesh.embedded import ACCOUNTS_FILE, MAX_PAYLOAD_BYTES
from planmesh.errors import Busy, Unusable
from planmesh.schemas import subjects
from planmesh.schemas.subjects import AGENTS, CORE, EDGE, GOALS, PLANNER, SECRETS, WORK

DEFAULT_CONCURRENCY: Final = 100
_HEALTH_WAIT_S: Final = 2.0
_ADMINS: Final[Mapping[str, str]] = {CORE: "admin", AGENTS: "admin-agents", EDGE: "admin-edge"}

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
_NO_JETSTREAM_HERE: Final = frozenset({10039, 10076})
_NOT_FOUND: Final = frozenset({10014, 10059})
_NO_ROOM: Final = frozenset({10023, 10028, 10047})

log = structlog.get_logger()


class _Error(msgspec.Struct, frozen=True):
    description: str = ""
    err_code: int = 0


class _AckFloor(msgspec.Struct, frozen=True):
    stream_seq: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """Whatever of an answer of the server's matters here. Source: JetStream API, system account API."""

    error: _Error | None = None
    config: dict[str, Any] = {}
    ack_floor: _AckFloor = _AckFloor()
    id: str = ""


class _Health(msgspec.Struct, frozen=True):
    status: str = "ok"
    error: str = ""


class _HealthAnswer(msgspec.Struct, frozen=True):
    """Source: system account API, HEALTHZ."""

    data: _Health = _Health()


_decode = msgspec.json.Decoder(_Answer).decode
_decode_health = msgspec.json.Decoder(_HealthAnswer).decode


class Mesh:
    """The users of one mesh, and the means to make what they need in the server.

    Attributes:
        data_dir: Where the mesh keeps its files.
        credentials: The directory with one file a user.
        server_dir: The directory of the server, with ``accounts.conf``.
        agent_concurrency: How many steps of an agent may run at once, if it is made without a number.
        accounts_changed: There are new users, or users with other rights than before: a server that runs has to
            `reload`.
    """

    def __init__(
        self, data_dir: Path, credentials: Path | None = None, *, agent_concurrency: int = DEFAULT_CONCURRENCY
    ) -> None:
        self.data_dir = data_dir
        self.credentials = credentials or data_dir / "credentials"
        self.server_dir = data_dir / "nats"
        self.agent_concurrency = agent_concurrency
        self.accounts_changed = False

    @property
    def accounts_file(self) -> Path:
        return self.server_dir / ACCOUNTS_FILE

    def users(self) -> tuple[str, ...]:
        """The users there are."""
        return users(self.credentials)

    def agents(self) -> tuple[str, ...]:
        """The agents there are."""
        return self._named("agent-")

    def submitters(self) -> tuple[str, ...]:
        """The spaces there are."""
        return self._named("submitter-")

    def credentials_of(self, user: str) -> Credentials:
        """Raises: Unusable."""
        return read_credentials(self.credentials, user)

    # --- users -----------------------------------------------------------------------------------------

    def ensure_users(self, server_url: str, more: Iterable[User] = ()) -> tuple[str, ...]:
        """Make the services' and the administrators' users, and *more*; say where the server is; write the accounts.

        Args:
            server_url: Where the server is, or will be (see `point_to`).
            more: Agents, operators and submitters.

        Returns:
            The users that are new. The server does not know them before it starts, or reads its accounts again.

        Raises:
            Unusable: A file cannot be written or read.
        """
        there = set(self.users())
        wanted = {user.name for user in (*access.admins(), *access.services(), *more)}
        for name in wanted - there:
            made = Credentials(server=server_url, user=name, password=secrets.token_urlsafe(24))
            write_credentials(self.credentials, made)
        self.point_to(server_url)
        passwords = {name: self.credentials_of(name).password for name in there | wanted}
        accounts = access.server_config(passwords)
        if not self.accounts_file.exists() or self.accounts_file.read_text("utf-8") != accounts:
            write_private(self.accounts_file, accounts)
            self.accounts_changed = True
        return tuple(sorted(wanted - there))

    def point_to(self, server_url: str) -> None:
        """Write where the server is into every user's file that says otherwise. Raises: Unusable."""
        for name in self.users():
            known = self.credentials_of(name)
            if known.server != server_url:
                write_credentials(self.credentials, msgspec.structs.replace(known, server=server_url))

    # --- what is in the server -------------------------------------------------------------------------

    async def prepare(
        self,
        *,
        replicas: int = 1,
        concurrency: Mapping[str, int] | None = None,
        max_bytes: Mapping[str, int] | None = None,
        secrets_kept_s: float = streams.SECRETS_KEPT_S,
    ) -> tuple[str, ...]:
        """Make, or bring up to date, every stream, and a consumer for every service, agent and submitter.

        Args:
            replicas: How many servers of a cluster hold each message.
            concurrency: How many steps of an agent may run at once. Agents that are not named keep what they
                have, or get `agent_concurrency`.
            max_bytes: What streams may take on disk, by kind. Streams that are not named keep what they have, or get
                the default.
            secrets_kept_s: How long a secret is kept of a plan that does not end.

        Returns:
            What was made or changed, such as ``PLANS`` and ``WORK/agent-echo``; empty if all was as it should be.

        Raises:
            Unusable: The server cannot serve planmesh; the text says what to change.
            Busy: It does not answer now.
        """
        async with self._administrators() as servers:
            check(servers[CORE].server)
            limits = max_bytes or {}
            wanted = streams.streams(replicas, limits, secrets_kept_s)
            making = (_make_stream(servers[one.account], one) for one in wanted)
            changed = await asyncio.gather(*making)
            old_goals = await _leave_to_submitters(servers[EDGE])
            of_each = [streams.streams_of(space, replicas, limits, secrets_kept_s) for space in self.submitters()]
            changed += await asyncio.gather(
                *(_make_stream(servers[one.account], one) for of_one in of_each for one in of_one)
            )
            of_services = (_make_consumer(servers[one.account], one) for one in streams.consumers())
            of_agents = (
                self._make_agent_consumer(servers[CORE], name, (concurrency or {}).get(name)) for name in self.agents()
            )
            of_submitters = (
                _make_consumer(servers[consumer.account], consumer)
                for space in self.submitters()
                for consumer in streams.of_submitter(space)
            )
            changed += await asyncio.gather(*of_services, *of_agents, *of_submitters)
            if old_goals:
                await _move_goals(servers[EDGE], self.submitters())
        done = tuple(one for one in changed if one is not None)
        log.info("mesh.prepared", server=self._server(), changed=len(done))
        return done

    async def add_agent(self, name: str, concurrency: int | None = None) -> Credentials:
        """Make an agent's user and its consumer; or change its concurrency.

        Args:
            name: The agent.
            concurrency: How many of its steps may run at once, at least 1; None: what it
                has, or `agent_concurrency`.

        Raises:
            BadToken: Not a name.
            Unusable: The server cannot be told of the user (the text says how to), or refuses the consumer.
            Busy: It does not answer now.
        """
        if concurrency is not None and concurrency < 1:
            raise Unusable(f"the concurrency of agent {name} is 1 or more, not {concurrency}")
        credentials = await self._add(access.agent(name))
        async with self._administrator(CORE) as server:
            await self._make_agent_consumer(server, name, concurrency)
        return credentials

    async def add_submitter(self, space: str, max_bytes: Mapping[str, int] | None = None) -> Credentials:
        """Make the user of a service that publishes goals, its streams, and the consumers of its goals, of its news,
        and of what it is asked.

        Args:
            max_bytes: What its streams may take on disk, by kind; the default for others.

        Raises:
            BadToken: Not a name.
            Unusable: The server cannot be told of the user (the text says how to), or refuses a stream or a consumer.
            Busy: It does not answer now.
        """
        credentials = await self._add(access.submitter(space))
        async with self._administrators() as servers:
            like = await _config(servers[CORE], f"STREAM.INFO.{SECRETS}")
            if like is None:
                raise Unusable(f"the server has no stream {SECRETS} yet: run `planmesh init`")
            kept_s = like["max_age"] / 1e9
            for stream in streams.streams_of(space, like["num_replicas"], max_bytes or {}, kept_s):
                await _make_stream(servers[stream.account], stream)
            for consumer in streams.of_submitter(space):
                await _make_consumer(servers[consumer.account], consumer)
        return credentials

    async def add_operator(self, name: str) -> Credentials:
        """Make the user of a person who looks and steers.

        Raises:
            BadToken: Not a name.
            Unusable: The server cannot be told of the user (the text says how to).
            Busy: It does not answer now.
        """
        return await self._add(access.operator(name))

    async def reload(self) -> None:
        """Tell the server to read its accounts again. Nobody who may stay is disconnected.

        Raises:
            Unusable: The server cannot be told so by planmesh, or does not accept what it reads.
            Busy: It does not answer now.
        """
        credentials = self.credentials_of("admin-system")
        by_hand = f"read {self.accounts_file} again: `nats-server --signal reload`, twice"
        server = await connect(credentials.server, credentials.user, credentials.password, name="planmesh-reload")
        async with server:
            try:
                itself = _decode(await server.request("$SYS.REQ.SERVER.PING.IDZ"))
            except Busy as error:
                if error.ambiguous:
                    raise
                raise Unusable(
                    f"the server at {credentials.server} does not let planmesh reload it (its configuration does not "
                    f"say `system_account: {access.SYSTEM}`). Have it {by_hand}"
                ) from error
            # The first time, a new account gets imports from accounts as they were; the second time, as they are.
            for _ in range(2):
                answer = _decode(await server.request(f"$SYS.REQ.SERVER.{itself.id}.RELOAD"))
                if answer.error is not None:
                    raise Unusable(
                        f"the server at {credentials.server} could not reload: {answer.error.description}. Change "
                        f"that, and have it {by_hand}"
                    )
        self.accounts_changed = False

    async def sickness(self) -> str:
        """What is wrong with the server, in its own words: that it cannot write any more, say. Empty if nothing is.

        Raises:
            Unusable: The administrator's credentials are not here, or not those of the server.
            Busy: It does not answer, or does not let planmesh ask (see `reload`).
        """
        who = self.credentials_of("admin-system")
        server = await connect(who.server, who.user, who.password, name="planmesh-health", wait_s=_HEALTH_WAIT_S)
        async with server:
            answer = _decode_health(await server.request("$SYS.REQ.SERVER.PING.HEALTHZ", timeout_s=_HEALTH_WAIT_S))
        return "" if answer.data.status == "ok" else answer.data.error or answer.data.status

    async def _add(self, user: User) -> Credentials:
        server_url = self._server()
        self.ensure_users(server_url, (user,))
        if self.accounts_changed:
            await self.reload()
        return self.credentials_of(user.name)

    async def _make_agent_consumer(self, server: Connection, name: str, concurrency: int | None) -> str | None:
        if concurrency is None:
            found = await _config(server, f"CONSUMER.INFO.{WORK}.{subjects.agent_consumer(name)}")
            concurrency = self.agent_concurrency if found is None else int(found["max_ack_pending"])
        return await _make_consumer(server, streams.agent_consumer(name, concurrency))

    @contextlib.asynccontextmanager
    async def _administrators(self) -> AsyncIterator[dict[str, Connection]]:
        async with contextlib.AsyncExitStack() as stack:
            connections = {}
            for account in _ADMINS:
                connections[account] = await stack.enter_async_context(self._administrator(account))
            yield connections

    @contextlib.asynccontextmanager
    async def _administrator(self, account: str) -> AsyncIterator[Connection]:
        credentials = self.credentials_of(_ADMINS[account])
        try:
            connection = await connect(
                credentials.server, credentials.user, credentials.password, name="planmesh-administration"
            )
        except Unusable as error:
            raise Unusable(
                f"{error}. The configuration of a server of your own needs an `include` of {self.accounts_file}, by a "
                "path relative to itself"
            ) from error
        async with connection:
            yield connection

    def _server(self) -> str:
        return self.credentials_of(_ADMINS[CORE]).server

    def _named(self, prefix: str) -> tuple[str, ...]:
        return tuple(user.removeprefix(prefix) for user in self.users() if user.startswith(prefix))


def check(server: ServerInfo) -> None:
    """Hold a server against what planmesh needs, as far as `planmesh.connection.connect` has not.

    Raises:
        Unusable: Its messages are too small.
    """
    if server.max_payload < MAX_PAYLOAD_BYTES:
        raise Unusable(
            f"the NATS server takes messages of {server.max_payload:,} bytes, and planmesh needs "
            f"{MAX_PAYLOAD_BYTES:,}: put `max_payload: {MAX_PAYLOAD_BYTES // 1024 // 1024}MB` into the server's "
            "configuration and reload it"
        )


# --- the server's API: https://docs.nats.io/reference/reference-protocols/nats_api_reference ---------------


async def _make_stream(server: Connection, stream: streams.Stream) -> str | None:
    """Make a stream, or update its settings, leaving alone those that are not ours. Returns: its name if changed."""
    there = await _config(server, f"STREAM.INFO.{stream.name}")
    if there is None:
        _insist(await _ask(server, f"STREAM.CREATE.{stream.name}", stream.settings), f"make the stream {stream.name}")
    elif _covers(there, wanted := stream.wanted(there)):
        return None
    else:
        merged = {**there, **wanted}
        _insist(await _ask(server, f"STREAM.UPDATE.{stream.name}", merged), f"update the stream {stream.name}")
    return stream.name


async def _leave_to_submitters(edge: Connection) -> bool:
    """Take its subjects from the stream that once had the goals of all. Returns: whether there is one."""
    there = await _config(edge, f"STREAM.INFO.{GOALS}")
    if there is not None and there["subjects"] != [GOALS]:
        # Without subjects, a stream listens to its own name, on which nobody may publish.
        _insist(await _ask(edge, f"STREAM.UPDATE.{GOALS}", {**there, "subjects": [GOALS]}), f"update {GOALS}")
    return there is not None


async def _move_goals(edge: Connection, submitters: Collection[str]) -> None:
    """Publish again what nobody has answered of the stream that had the goals of all, and delete it."""
    answered = _decode(await edge.request(f"$JS.API.CONSUMER.INFO.{GOALS}.{PLANNER}")).ack_floor.stream_seq
    get = f"$JS.API.STREAM.MSG.GET.{GOALS}"
    while True:
        asked = msgspec.json.encode({"seq": answered + 1, "next_by_subj": ">"})
        stored = read_leader(await edge.request(get, asked), get)
        if stored is None:
            break
        answered = stored.sequence
        if subjects.read_goal(stored.subject).space in submitters:
            # Some that come later may have been answered as well: the same goal twice is one.
            headers = {name: text for name, text in stored.headers.items() if name == "traceparent"}
            await edge.publish(stored.subject, stored.data, headers=headers)
    _insist(await _ask(edge, f"STREAM.DELETE.{GOALS}"), f"delete the stream {GOALS}")


async def _make_consumer(server: Connection, consumer: streams.Consumer) -> str | None:
    """Make a consumer, or update its settings. Returns: ``<stream>/<consumer>`` if changed."""
    there = await _config(server, f"CONSUMER.INFO.{consumer.stream}.{consumer.name}")
    if there is not None and _covers(there, consumer.settings):
        return None
    to = f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}"
    if "filter_subject" in consumer.settings:
        to += f".{consumer.settings['filter_subject']}"
    merged = {**(there or {}), **consumer.settings}
    name = f"{consumer.stream}/{consumer.name}"
    asked = {"stream_name": consumer.stream, "config": merged}
    _insist(await _ask(server, to, asked), f"make the consumer {name}")
    return name


async def _config(server: Connection, ask: str) -> dict[str, Any] | None:
    """The settings of a stream or a consumer, or None if there is none."""
    answer = await _ask(server, ask)
    if answer.error is not None and answer.error.err_code in _NOT_FOUND:
        return None
    _insist(answer, f"ask {ask}")
    return answer.config


async def _ask(server: Connection, to: str, asked: Mapping[str, Any] | None = None) -> _Answer:
    payload = b"" if asked is None else msgspec.json.encode(asked)
    return _decode(await server.request(f"$JS.API.{to}", payload))


def _insist(answer: _Answer, to: str) -> None:
    error = answer.error
    if error is None:
        return
    if error.err_code in _NO_JETSTREAM_HERE:
        raise Unusable(
            "JetStream is not enabled: give the server's configuration a `jetstream` block with a `store_dir`, and "
            f"the accounts {CORE}, {AGENTS} and {EDGE} `jetstream: enabled`"
        )
    if error.err_code in _NO_ROOM:
        raise Unusable(
            f"cannot {to}: the server has not enough room for what its streams may take. Put a larger `max_file_store` "
            "into the `jetstream` block of its configuration and restart it, or let them take less: "
            "PLANMESH_STORAGE__PLANS_BYTES, and so on"
        )
    raise Unusable(f"cannot {to}: the server says {error.description!r} ({error.err_code})")


def _covers(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """What the server leaves out has its default, which is never what is wanted: see `streams`."""
    return all(there.get(name) == value for name, value in wanted.items())
