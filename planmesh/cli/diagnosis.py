"""What `planmesh doctor` looks at, in the order in which things depend on one another. It changes nothing."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from planmesh import access, streams
from planmesh.access import User
from planmesh.administration import Mesh, check
from planmesh.cli.text import counted, duration, listed, one_line, size
from planmesh.connection import connect
from planmesh.entry import find_credentials
from planmesh.errors import Busy, PlanmeshError, Unusable
from planmesh.inspection import ConsumerInfo, StreamInfo, agents_of, consumer_info, stream_info
from planmesh.model import NoModel, check_model
from planmesh.operator import Operator, QueryRefused
from planmesh.schemas import subjects
from planmesh.schemas.queries import GatesQuery, PositionAnswer
from planmesh.schemas.subjects import DISPATCH, GOALS, PLANNER, PLANS, POISON, TIMERS, WORK
from planmesh.settings import Settings

FULL: Final = 0.8
_LAG: Final = 1_000
_SERVER_S: Final = 2.0
_ANSWER_S: Final = 3.0
_LOOK_S: Final = 3.0

Level = Literal["ok", "warning", "bad"]

_LLM: Final = "llm"
"""The agent of `planmesh.llm`."""
SERVICES: Final = ("planner", "executor", "gatekeeper", "auditor")


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was looked at.

    Attributes:
        what: The thing.
        level: How it is; `bad` if planmesh does not work so.
        found: What was found.
        advice: What to do about it.
    """

    what: str
    level: Level
    found: str
    advice: str = ""


class _Pair(NamedTuple):
    name: str
    wanted: Mapping[str, Any]
    there: StreamInfo | ConsumerInfo | None


def _pair(stream: streams.Stream, there: StreamInfo | None) -> _Pair:
    return _Pair(stream.name, stream.settings if there is None else stream.wanted(there.config), there)


async def examine(
    settings: Settings, *, server: str | None = None, data_dir: Path | None = None, user: str | None = None
) -> AsyncIterator[Finding]:
    """Look at everything; what is of no use without something that is missing is left out."""
    mesh = Mesh(settings.data_dir, settings.credentials_dir)
    try:
        who = find_credentials("operator", server=server, data_dir=data_dir, user=user)
    except Unusable as error:
        yield Finding(what="credentials", level="bad", found="you have none", advice=str(error))
        return
    try:
        connection = await connect(who.server, who.user, who.password, name="planmesh-doctor", wait_s=_SERVER_S)
    except Unusable as error:
        yield _failed("server", error)
        return
    async with connection:
        operator = Operator(connection)
        info = connection.server
        try:
            check(info)
        except Unusable as error:
            yield _failed("server", error)
        else:
            found = f"{who.server}, version {info.version}, messages up to {size(info.max_payload)}; you are {who.user}"
            yield Finding(what="server", level="ok", found=found)
        async for finding in _users(mesh, who.server):
            yield finding
        with contextlib.suppress(Busy, Unusable):  # who is no administrator, or has a server that keeps it to itself
            yield _storage(await mesh.sickness())
        try:
            async for finding in _mesh(operator, mesh, settings):
                yield finding
        except (Busy, Unusable) as error:
            yield _failed("the rest", error)
    yield await _tracing(settings.otlp_endpoint)


async def _mesh(operator: Operator, mesh: Mesh, settings: Settings) -> AsyncIterator[Finding]:
    connection = operator.connection
    about = (settings.replicas, settings.storage.max_bytes, settings.secrets_kept_s)
    of_submitters = (stream for space in mesh.submitters() for stream in streams.streams_of(space, *about))
    wanted = [*streams.streams(*about), *of_submitters]
    there = await asyncio.gather(*(stream_info(connection, one.name) for one in wanted))
    infos = {one.name: info for one, info in zip(wanted, there, strict=True)}
    yield _as_wanted("streams", [_pair(one, infos[one.name]) for one in wanted])

    spaces = (consumer for space in mesh.submitters() for consumer in streams.of_submitter(space))
    wants = [*streams.consumers(), *spaces]
    found = await asyncio.gather(*(consumer_info(connection, one.stream, one.name) for one in wants))
    consumers = {(one.stream, one.name): info for one, info in zip(wants, found, strict=True)}
    pairs = [_Pair(f"{one.stream}/{one.name}", one.settings, consumers[one.stream, one.name]) for one in wants]
    yield _as_wanted("consumers", pairs)

    for service in SERVICES:
        rights = {right for user in access.services() if _is(user, service) for right in user.publish}
        reads = [
            (stream, name)
            for stream, name in consumers
            if f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}" in rights
            or (name == PLANNER and subjects.kind_of(stream) == GOALS and service == PLANNER)
        ]
        finding = _service(service, {name: consumers[name] for name in reads})
        if service == "gatekeeper" and finding.level == "bad" and not _channels(settings):
            # One that has nobody to tell reads nothing, so that nothing is lost when it has.
            finding = Finding(what=service, level="ok", found="it has nobody to tell, and reads nothing")
        if service == "planner" and finding.level == "ok" and not await _answers(operator):
            finding = Finding(
                what=service,
                level="bad",
                found=f"it is connected, and answers no question within {_ANSWER_S:g} s",
                advice="it hangs, or has far too much to do: end its process; `planmesh up` starts another",
            )
        yield finding
    asked = await _gates(operator, settings)
    yield _told(settings, asked)
    if not settings.directory.is_empty:
        yield _escalation(settings)
    yield _pages(settings, asked)
    position = await _position(operator)
    yield _auditor(position)
    yield await _database(settings, position)
    names = sorted({*(one.name for one in await agents_of(connection)), *mesh.agents()})
    yield await _agents(operator, names)
    yield _model(settings, names)
    yield _log(infos[PLANS], mesh.server_dir)
    yield _room(infos)
    yield _poison(infos[POISON])


async def _answers(operator: Operator) -> bool:
    """Whether a planner answers. What it has asked the server for stands for half a minute, also if it hangs."""
    try:
        await operator.templates(timeout_s=_ANSWER_S)
    except Busy:
        return False
    except (QueryRefused, Unusable):
        pass  # which is an answer
    return True


def _storage(sickness: str) -> Finding:
    if not sickness:
        return Finding(what="storage", level="ok", found="the server can write")
    return Finding(
        what="storage",
        level="bad",
        found=f"the server is not well: {one_line(sickness, 300)}",
        advice="if its disk was full, make room, and restart it: until then it stores nothing. `planmesh up` restarts "
        "its own when there is room",
    )


def _channels(settings: Settings) -> bool:
    """Whether anybody can be told anything."""
    directory = settings.directory
    people = directory.people.values()
    by_mail = directory.mail is not None and any(person.email for person in people)
    own = (*(person.channels for person in people), *(team.channels for team in directory.teams.values()))
    return bool(settings.notify_urls) or by_mail or any(own)


async def _gates(operator: Operator, settings: Settings) -> str:
    """Who is to decide something here, or what; empty if gates are not used."""
    if not settings.directory.is_empty:
        return "the directory names reviewers"
    with contextlib.suppress(QueryRefused, Busy, Unusable):  # the auditor is another finding
        waiting = (await operator.gates(GatesQuery(limit=1, brief=True))).gates
        if waiting:
            return f"the gate {waiting[0].step} of {waiting[0].space}.{waiting[0].plan} waits for a decision"
    return ""


def _told(settings: Settings, asked: str) -> Finding:
    """Whether anybody is told of gates, and whether the notices can be worded as the operator wants."""
    if not _channels(settings):
        said = "no channels (PLANMESH_NOTIFY_URLS is not set): nobody is told of gates"
        if not asked:
            return Finding(what="notices", level="ok", found=said, advice="`planmesh gates list` shows what waits")
        return Finding(
            what="notices",
            level="bad",
            found=f"{said}, and {asked}",
            advice="set notify_urls for everybody, or channels or mail in [directory]; `planmesh gates list` shows "
            "what waits",
        )
    from planmesh.gatekeeper.letters import Letters
    from planmesh.gatekeeper.notify import open_channels, read_configuration
    from planmesh.gatekeeper.reach import Reach

    try:
        tags = {} if settings.apprise_config is None else read_configuration(settings.apprise_config)
        reach = Reach(settings.directory, (url.get_secret_value() for url in settings.notify_urls), tags)
        open_channels(reach.urls, private_addresses=settings.notices.private_addresses)
    except Unusable as error:
        return Finding(what="notices", level="bad", found=str(error), advice="the gatekeeper does not start so")
    problems = Letters(settings.notices.templates).problems()
    if problems:
        more = f"; and {len(problems) - 2} more" if len(problems) > 2 else ""
        return Finding(
            what="notices",
            level="bad",
            found=f"templates in {settings.notices.templates} do not work: {'; '.join(problems[:2])}{more}",
            advice="built-in ones are used instead; `planmesh reviewers notice` shows what a notice looks like",
        )
    return Finding(what="notices", level="ok", found="people are told of gates; `planmesh reviewers list` says where")


def _escalation(settings: Settings) -> Finding:
    """What becomes of a gate that says nothing of it, once nobody has decided in time."""
    after = f"after {duration(settings.gate_sla_s)}"
    to = settings.directory.escalate_to
    if to is None:
        return Finding(
            what="overdue gates",
            level="bad",
            found=f"a gate that says nothing is overdue {after}, and then nobody else is asked",
            advice="set escalate_to in [directory] to a person, a role or a team",
        )
    return Finding(what="overdue gates", level="ok", found=f"{after}, {to} is asked as well")


def _pages(settings: Settings, asked: str) -> Finding:
    """Where reviewers decide; links that are sent to people have to lead there."""
    where = settings.pages_url
    if where is None:
        said = "none (web_port is not set): gates are decided with `planmesh gates`"
        if settings.directory.is_empty:
            return Finding(what="review pages", level="ok", found=said)
        return Finding(
            what="review pages",
            level="bad",
            found=f"{said}, and reviewers without an operator's credentials cannot decide",
            advice="set web_port, and public_url to where people find it",
        )
    if settings.public_url is None and (_channels(settings) or asked):
        return Finding(
            what="review pages",
            level="bad",
            found=f"{where}, and links in notices lead there: nobody else's machine finds it",
            advice="set public_url to where people find the pages",
        )
    return Finding(what="review pages", level="ok", found=where)


def _is(user: User, service: str) -> bool:
    """Whether a service has this user: one in each account that it needs."""
    return user.name.partition("-")[0] == service


def _failed(what: str, error: PlanmeshError) -> Finding:
    text, _, advice = str(error).partition(": ")
    return Finding(what=what, level="bad", found=text, advice=advice)


# --- users -------------------------------------------------------------------------------------------------


async def _users(mesh: Mesh, server: str) -> AsyncIterator[Finding]:
    there = set(mesh.users())
    if not there & {user.name for user in access.admins()}:
        yield Finding(what="users", level="ok", found=f"{listed(sorted(there))}; not an administrator's machine")
        return
    needed = [user.name for user in (*access.admins(), *access.services())]
    missing = [name for name in needed if name not in there]
    if missing:
        yield Finding(
            what="users",
            level="bad",
            found=f"{listed(missing)} should be in {mesh.credentials}",
            advice="`planmesh init`, or a restart of `planmesh up`, makes what is missing",
        )
    refused = [name for name in await asyncio.gather(*(_refused(mesh, name, server) for name in sorted(there))) if name]
    if refused:
        yield Finding(
            what="users",
            level="bad",
            found=f"the server does not know {listed(refused)} with the password in {mesh.credentials}",
            advice=f"have the server read {mesh.accounts_file} again, twice: `nats-server --signal reload`",
        )
    elif not missing:
        yield Finding(what="users", level="ok", found=f"the server knows all {len(there)}")


async def _refused(mesh: Mesh, name: str, server: str) -> str:
    """The user's name, if the server does not let it in."""
    try:
        who = mesh.credentials_of(name)
        async with await connect(server, who.user, who.password, name="planmesh-doctor", wait_s=_SERVER_S):
            return ""
    except PlanmeshError:
        return name


# --- streams and services ----------------------------------------------------------------------------------


def _as_wanted(what: str, pairs: Sequence[_Pair]) -> Finding:
    """Whether everything is there, with the settings that it should have."""
    missing = [pair.name for pair in pairs if pair.there is None]
    other = [
        f"{pair.name} has {key} {pair.there.config.get(key)!r} instead of {value!r}"
        for pair in pairs
        if pair.there is not None
        for key, value in pair.wanted.items()
        if pair.there.config.get(key) != value
    ]
    if not missing and not other:
        return Finding(what=what, level="ok", found=f"all {len(pairs)} are as they should be")
    found = [*([f"{listed(missing)} missing"] if missing else []), *other[:3]]
    if len(other) > 3:
        found.append(f"and {len(other) - 3} more settings")
    advice = "`planmesh init` repairs this, where the administrator's credentials are"
    return Finding(what=what, level="bad", found="; ".join(found), advice=advice)


def _service(service: str, reads: Mapping[tuple[str, str], ConsumerInfo | None]) -> Finding:
    unread = [f"{stream}/{name}" for (stream, name), info in reads.items() if info is None or not info.is_read]
    waiting = sum(info.num_pending + info.num_ack_pending for info in reads.values() if info is not None)
    # Timers wait, and are not being waited for.
    timers = reads.get((WORK, TIMERS))
    waiting -= timers.num_ack_pending if timers is not None else 0
    backlog = f"{counted(waiting, 'message')} to handle"
    lines = reads.get((PLANS, DISPATCH))
    if not unread and lines is not None and lines.num_redelivered:
        return Finding(
            what=service,
            level="warning",
            found=f"at work; {counted(lines.num_redelivered, 'line')} of the log could not be handed out yet",
            advice="if this stays so: `message.later` and `message.kept` in the log of the executor say why",
        )
    if not unread:
        return Finding(what=service, level="ok", found=f"at work; {backlog}")
    found = f"nobody reads {listed(unread)}; {backlog}"
    advice = f"start one: `planmesh up`, or `python -m planmesh.{service}` where its credentials are"
    return Finding(what=service, level="bad", found=found, advice=advice)


async def _position(operator: Operator) -> PositionAnswer | PlanmeshError:
    try:
        return await operator.position()
    except (QueryRefused, Busy, Unusable) as error:
        return error


def _auditor(position: PositionAnswer | PlanmeshError) -> Finding:
    if isinstance(position, PlanmeshError):
        return Finding(
            what="queries",
            level="bad",
            found="no auditor answers" if isinstance(position, Busy) else one_line(str(position), 200),
            advice="lists and histories need the auditor; `planmesh show PLAN --from-log` does not",
        )
    if position.skipped:
        return Finding(
            what="queries",
            level="bad",
            found=f"the log has {counted(position.skipped, 'message')} that no executor wrote",
            advice="somebody else publishes with the executor's credentials, or the stream was edited: `log.junk` in "
            "the auditor's log says which",
        )
    if position.lag > _LAG:
        found = f"the auditor is {counted(position.lag, 'message')} behind the log"
        return Finding(what="queries", level="warning", found=found, advice="give it time, or a faster database")
    return Finding(what="queries", level="ok", found=f"answered, up to message {position.position:,} of the log")


async def _database(settings: Settings, position: PositionAnswer | PlanmeshError) -> Finding:
    """The auditor's database: by the auditor, or else from here, with the settings that are here."""
    if isinstance(position, PositionAnswer):
        return Finding(what="database", level="ok", found="the auditor reads it")
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from planmesh.auditor.store import Database

    def look() -> str:
        with contextlib.suppress(ArgumentError):  # which `Database` explains
            url = make_url(settings.database)
            if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
                return f"there is no {url.database} yet; the auditor makes it"
        database = Database(settings.database)
        try:
            with database.transaction("read") as connection:
                connection.exec_driver_sql("SELECT 1")
        finally:
            database.close()
        return f"{database.shown} can be read"

    try:
        return Finding(what="database", level="ok", found=await asyncio.to_thread(look))
    except PlanmeshError as error:
        return _failed("database", error)


# --- agents, log, poison, tracing --------------------------------------------------------------------------


async def _agents(operator: Operator, names: list[str]) -> Finding:
    if not names:
        advice = "name their module: `planmesh up --agents MODULE`"
        return Finding(what="agents", level="warning", found="there are none", advice=advice)
    read = await asyncio.gather(
        *(consumer_info(operator.connection, WORK, subjects.agent_consumer(name)) for name in names)
    )
    idle = [name for name, info in zip(names, read, strict=True) if info is None or not info.is_read]
    if idle:
        advice = "their steps wait: `planmesh up --agents MODULE`, or a worker where their credentials are"
        return Finding(what="agents", level="warning", found=f"nobody runs {listed(idle)}", advice=advice)
    return Finding(what="agents", level="ok", found=f"somebody runs {listed(names)}")


def _model(settings: Settings, agents: Sequence[str]) -> Finding:
    """Whether what needs a language model has one. Workers have settings of their own; on one machine, the same."""
    configured = settings.model
    try:
        check_model(configured)
        if configured.key is None and configured.base_url is None:
            raise NoModel("OpenAI wants a key (PLANMESH_MODEL__API_KEY)")
    except Unusable as error:
        said = str(error)
        if configured.name is None and _LLM not in agents:
            return Finding(what="model", level="ok", found="none: nothing here needs one but goals in words")
        needs = f", and every step of the agent {_LLM} fails without" if _LLM in agents else ""
        found, _, advice = said.partition(": ")
        return Finding(what="model", level="warning", found=found + needs, advice=advice or found)
    return Finding(what="model", level="ok", found=f"{configured.name} at {configured.base_url or 'OpenAI'}")


def _log(plans: StreamInfo | None, server_dir: Path) -> Finding:
    if plans is None:
        return Finding(what="log", level="bad", found="there is none", advice="`planmesh init` makes it")
    found = f"{counted(plans.state.messages, 'commit')}, {size(plans.state.bytes)}"
    if server_dir.is_dir():
        disk = shutil.disk_usage(server_dir)
        taken = 1 - disk.free / disk.total
        if taken >= FULL:
            return Finding(
                what="log",
                level="warning",
                found=f"{taken:.0%} of the disk of {server_dir} is taken",
                advice="make room: when it is full, nothing goes on until it has some",
            )
    share = _share(plans)
    if share is None:
        return Finding(what="log", level="ok", found=found)
    taken_of = f"{share:.0%} of its limit, {size(plans.config['max_bytes'])}, is taken"
    if share < FULL:
        return Finding(what="log", level="ok", found=f"{found}; {taken_of}")
    advice = f"from 90 % on, goals wait, and when it is full, nothing goes on: {_raise_limit(PLANS, plans)}"
    return Finding(what="log", level="warning", found=taken_of, advice=advice)


def _room(infos: Mapping[str, StreamInfo | None]) -> Finding:
    """Whether the streams beside the log have room; those that drop what is old always have."""
    crowded = {
        name: info
        for name, info in infos.items()
        if name != PLANS
        and info is not None
        and info.config.get("discard") != "old"
        and (share := _share(info)) is not None
        and share >= FULL
    }
    if not crowded:
        return Finding(what="room", level="ok", found="every other stream has some")
    found = [f"{_share(info):.0%} of {size(info.config['max_bytes'])} of {name}" for name, info in crowded.items()]
    name, info = next(iter(crowded.items()))
    advice = f"what does not fit waits, or is refused: {_raise_limit(name, info)}"
    return Finding(what="room", level="warning", found=f"{listed(found)} is taken", advice=advice)


def _share(info: StreamInfo) -> float | None:
    """How much of its limit a stream has taken; None: it has no limit."""
    most = info.config.get("max_bytes", -1)
    return info.state.bytes / most if isinstance(most, int) and most > 0 else None


def _raise_limit(stream: str, info: StreamInfo) -> str:
    double_mib = 2 * int(info.config["max_bytes"]) // 2**20
    kind = subjects.kind_of(stream)
    return f"set PLANMESH_STORAGE__{kind}_BYTES={double_mib}MiB, say, and `planmesh init` or restart `planmesh up`"


def _poison(info: StreamInfo | None) -> Finding:
    messages = info.state.messages if info is not None else 0
    if not messages:
        return Finding(what="poison", level="ok", found="nothing is set aside")
    advice = "`planmesh poison list` says which, and why"
    found = f"{counted(messages, 'message')} could not be handled"
    return Finding(what="poison", level="warning", found=found, advice=advice)


async def _tracing(endpoint: str | None) -> Finding:
    if not endpoint:
        return Finding(what="tracing", level="ok", found="off (PLANMESH_OTLP_ENDPOINT is not set)")
    parts = urlsplit(endpoint)
    shown = f"{parts.scheme}://{parts.hostname}"
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        shown = f"{shown}:{port}"
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), _LOOK_S)
        writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        return Finding(
            what="tracing",
            level="warning",
            found=f"no collector answers at {shown}: {error or 'no answer'}",
            advice="spans are dropped until it does; nothing else is affected",
        )
    return Finding(what="tracing", level="ok", found=f"a collector answers at {shown}")


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the whole."""
    levels = {finding.level for finding in findings}
    return "bad" if "bad" in levels else "warning" if "warning" in levels else "ok"
