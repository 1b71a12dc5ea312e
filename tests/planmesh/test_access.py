"""The table of users, and the server that is configured from it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client

from planmesh import access
from planmesh.access import User
from planmesh.connection import Connection, connect
from planmesh.delivery import subscribe
from planmesh.errors import Conflict, Unusable
from planmesh.schemas import subjects
from planmesh.schemas.subjects import CATALOGUE, PLANS, SECRETS, WORK, BadToken, kind_of
from planmesh.streams import consumers, of_submitter, streams, streams_of
from planmesh.testing import MeshServer, mesh_server

MODULE = pytest.mark.asyncio(loop_scope="module")
pytestmark = pytest.mark.xdist_group("access")

OUTSIDERS = (
    access.agent("echo"),
    access.agent("victim"),
    access.operator("ada"),
    access.operator("victim"),
    access.submitter("shop"),
    access.submitter("victim"),
)
USERS = (*access.services(["shop", "victim"]), *OUTSIDERS, access.named("admin-system"))

STREAMS = (*streams(), *streams_of("shop"))
FOR_ADMINISTRATORS = tuple(
    f"$JS.API.{verb}"
    for verb in (
        "STREAM.CREATE.EXTRA",
        "STREAM.NAMES",
        *(
            f"{verb}.{stream.name}"
            for stream in STREAMS
            for verb in ("STREAM.UPDATE", "STREAM.DELETE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT")
        ),
        *(f"STREAM.PURGE.{stream.name}" for stream in STREAMS if kind_of(stream.name) not in (WORK, SECRETS)),
        *(
            f"{verb}.{one.stream}.{one.name}"
            for one in (*consumers(), *of_submitter("shop"))
            for verb in ("CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE", "CONSUMER.UNPIN")
        ),
    )
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MeshServer]:
    directory: Path = tmp_path_factory.mktemp("access")
    async with mesh_server(
        directory, agents=("echo", "victim"), submitters=("shop", "victim"), operators=("ada", "victim")
    ) as running:
        async with client(running, "executor", []) as executor:
            for subject in ("plans.s.p", "blobs.sha256.abc", "outcomes.shop.g", "outcomes.victim.g"):
                await executor.jetstream().publish(subject, b"{}")
            for agent in ("echo", "victim"):
                await executor.jetstream().publish(f"work.agent.{agent}.s.p.first", b"{}")
        yield running


def covers(pattern: str, subject: str) -> bool:
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(found) >= len(wanted) and covers(".".join(wanted[:-1]) or "*", ".".join(found[: len(wanted) - 1]))
    return len(wanted) == len(found) and all(a in ("*", b) for a, b in zip(wanted, found, strict=True))


def example(pattern: str) -> str:
    return pattern.replace("*", "x").replace(">", "x")


def subjects_of_others(user: User, kind: str) -> list[str]:
    """Everything that somebody in the table may do, and this user may not."""
    mine = getattr(user, kind)
    everybody = {example(pattern) for other in USERS for pattern in getattr(other, kind)}
    everybody |= set(FOR_ADMINISTRATORS) if kind == "publish" else {"_INBOX.x", "commands.x.x.vote.x", "$JS.API.x"}
    return sorted(subject for subject in everybody if not any(covers(pattern, subject) for pattern in mine))


@asynccontextmanager
async def client(server: MeshServer, user: str, refused: list[str]) -> AsyncIterator[Client]:
    """A plain client, as anybody could write it."""

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    credentials = server.credentials(user)
    connection = await nats.connect(
        credentials.server,
        user=user,
        password=credentials.password,
        inbox_prefix=f"_INBOX.{user}",
        error_cb=on_error,
        allow_reconnect=False,
    )
    try:
        yield connection
    finally:
        await connection.close()


async def until(refused: list[str], count: int) -> None:
    """The client tells of an error in a task of its own, some time after the server has sent it."""
    for _ in range(500):
        if len(refused) >= count:
            return
        await asyncio.sleep(0.01)


async def stored(server: MeshServer) -> Counter[str]:
    """How many messages there are, by subject."""
    found: Counter[str] = Counter()
    for account, admin in (("CORE", "admin"), ("AGENTS", "admin-agents"), ("EDGE", "admin-edge")):
        async with client(server, admin, []) as connection:
            for stream in streams():
                if stream.account == account:
                    info = await connection.jetstream().stream_info(stream.name, subjects_filter=">")
                    found.update(info.state.subjects or {})
    return found


# --- the table ---------------------------------------------------------------------------------------------


@MODULE
@pytest.mark.parametrize("user", USERS, ids=lambda user: user.name)
async def test_a_user_may_publish_only_what_its_row_says(server: MeshServer, user: User) -> None:
    refused: list[str] = []
    forbidden = subjects_of_others(user, "publish")
    before = await stored(server)

    async with client(server, user.name, refused) as connection:
        for subject in forbidden:
            await connection.publish(subject, b"{}")
        await until(refused, len(forbidden))

    assert len(forbidden) > 50
    assert refused == [f'nats: permissions violation for publish to "{subject.lower()}"' for subject in forbidden]
    assert await stored(server) == before


@MODULE
@pytest.mark.parametrize("user", USERS, ids=lambda user: user.name)
async def test_a_user_may_subscribe_only_to_what_its_row_says(server: MeshServer, user: User) -> None:
    refused: list[str] = []
    forbidden = [*subjects_of_others(user, "subscribe"), ">"]

    async with client(server, user.name, refused) as connection:
        for subject in forbidden:
            await connection.subscribe(subject)
        await until(refused, len(forbidden))

    assert refused == [f'nats: permissions violation for subscription to "{subject.lower()}"' for subject in forbidden]


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("agent-echo", "results.victim"),
        ("agent-echo", "claims.victim.s.p.step.1"),
        ("agent-echo", "catalogue.victim"),
        ("agent-echo", "commands.s.p.vote.echo"),
        ("agent-echo", "plans.s.p"),
        ("agent-echo", "work.agent.victim.s.p.step"),
        ("agent-echo", "$JS.API.CONSUMER.MSG.NEXT.WORK.agent-victim"),
        ("agent-echo", "$JS.API.DIRECT.GET.BLOBS"),
        ("agent-echo", "reveal.victim"),
        ("executor", "secrets.s.p.q.answer.ada.x"),
        ("executor-agents", "$JS.API.STREAM.MSG.GET.SECRETS"),
        ("gatekeeper", "secrets.s.p.q.answer.ada.x"),
        ("operator-ada", "secrets.s.p.q.answer.victim.x"),
        ("operator-ada", "secrets.s.p.q.review.ada.x"),
        ("submitter-shop", "secrets.shop.p.q.reply.victim.x"),
        ("submitter-shop", "secrets.shop.p.q.answer.shop.x"),
        *(
            (user, subject)
            for user in ("agent-echo", "submitter-shop", "operator-ada", "gatekeeper", "auditor", "planner")
            for vault in ("SECRETS", "SECRETS-shop", "SECRETS-victim")
            for subject in (f"$JS.API.STREAM.MSG.GET.{vault}", f"$JS.API.STREAM.PURGE.{vault}")
        ),
        *((user, "secrets.s.p.q.answer.x.x") for user in ("agent-echo", "auditor", "planner")),
        ("submitter-shop", "goals.victim.g"),
        ("submitter-shop", "commands.shop.p.cancel.shop"),
        ("submitter-shop", "commands.shop.p.reply.victim"),
        ("submitter-shop", "commands.shop.p.answer.shop"),
        ("submitter-shop", "commands.shop.p.vote.shop"),
        ("submitter-shop", "commands.shop.p.review.shop"),
        ("submitter-shop", "questions.shop.s.p.q"),
        ("submitter-shop", "$JS.API.CONSUMER.MSG.NEXT.OUTCOMES.asked-victim"),
        ("operator-ada", "commands.s.p.reply.ada"),
        ("agent-echo", "commands.s.p.reply.echo"),
        ("gatekeeper", "commands.s.p.reply.gatekeeper"),
        ("executor", "commands.s.p.answer.executor"),
        ("submitter-shop", "$JS.API.CONSUMER.MSG.NEXT.OUTCOMES.submitter-victim"),
        ("submitter-shop", "$JS.API.DIRECT.GET.PLANS"),
        ("operator-ada", "commands.s.p.vote.victim"),
        ("operator-ada", "commands.s.p.review.ada"),
        ("agent-echo", "commands.s.p.review.ada"),
        ("executor", "commands.s.p.review.ada"),
        ("gatekeeper", "commands.s.p.vote.ada"),
        ("operator-ada", "commands.s.p.due.ada"),
        ("operator-ada", "commands.s.p.create.ada"),
        ("operator-ada", "plans.s.p"),
        ("planner", "commands.s.p.vote.planner"),
        ("planner", "plans.s.p"),
        ("gatekeeper", "plans.s.p"),
        ("gatekeeper", "commands.s.p.create.gatekeeper"),
        ("auditor", "plans.s.p"),
        ("auditor", "commands.s.p.vote.auditor"),
        ("executor", "commands.s.p.vote.executor"),
        ("executor", "commands.s.p.create.planner"),
    ],
)
def test_nobody_has_the_rights_of_another(user: str, subject: str) -> None:
    assert not any(covers(pattern, subject) for pattern in access.named(user).publish)


def test_only_the_executor_writes_the_log() -> None:
    writers = [user.name for user in USERS if any(covers(pattern, "plans.s.p") for pattern in user.publish)]

    assert writers == ["executor"]


def test_only_operators_vote_as_themselves_and_only_the_gatekeeper_answers_for_others() -> None:
    def may(verb: str) -> list[str]:
        subject = f"commands.s.p.{verb}.ada"
        return [user.name for user in USERS if any(covers(pattern, subject) for pattern in user.publish)]

    assert [may(verb) for verb in ("vote", "redirect")] == [["operator-ada"], ["operator-ada"]]
    assert may("review") == ["gatekeeper"]


def test_every_user_has_its_own_inbox_and_nobody_reads_another_one() -> None:
    for user in USERS:
        inboxes = [pattern for pattern in user.subscribe if pattern.startswith(("_INBOX", ">", "*"))]
        assert inboxes == [user.inbox]


def test_every_name_gives_its_row() -> None:
    everybody = (*USERS, *access.admins())

    assert [access.named(user.name, ["shop", "victim"]) for user in everybody] == list(everybody)


async def test_one_who_takes_every_connection_that_it_may_leaves_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_LIMITS", {"max_conn": 3, "max_subs": 20})
    async with mesh_server(tmp_path, agents=("echo", "victim")) as server, AsyncExitStack() as stack:

        async def connects(user: str) -> Connection:
            who = server.credentials(user)
            return await stack.enter_async_context(await connect(who.server, user, who.password, name="t", wait_s=1))

        for _ in range(3):
            await connects("agent-echo")
        with pytest.raises(Unusable):
            await connects("agent-echo")

        assert (await (await connects("agent-victim")).publish("results.victim", b"{}")).stream == "RESULTS"


@pytest.mark.parametrize("name", ["", "root", "agent", "agent-", "agent-a.b", "operator->", "agent-" + "x" * 59])
def test_other_names_are_nobody(name: str) -> None:
    with pytest.raises(BadToken):
        access.named(name)


@pytest.mark.parametrize("name", ["planner", "executor", "gatekeeper", "auditor", "planmesh"])
def test_an_operator_cannot_be_called_as_a_service(name: str) -> None:
    with pytest.raises(Unusable, match="Choose another name"):
        access.operator(name)


def test_there_are_allow_lists_and_nothing_else() -> None:
    config = json.loads(access.server_config({user.name: "p" for user in USERS}))

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    assert {"deny", "allow_responses", "no_auth_user", "default_permissions"}.isdisjoint(walk(config))
    assert all(
        set(user["permissions"]) == {"publish", "subscribe"}
        for account in config["accounts"].values()
        for user in account["users"]
    )


def test_whoever_is_not_trusted_is_alone_in_an_account_without_streams() -> None:
    block = access.accounts({user.name: "p" for user in USERS})

    for user in OUTSIDERS:
        account = block[user.name]
        imported = {one.get("to") or one.get("service", one.get("stream"))["subject"] for one in account["imports"]}
        imported |= {one["stream"] for one in account["exports"]}
        watched = {"progress.echo.*.*.*", "progress.victim.*.*.*"} if "operator" in user.name else set()
        allowed = {*user.publish, *user.subscribe} - {user.inbox, "progress.*.*.*.*"}
        assert [one["user"] for one in account["users"]] == [user.name]
        assert "jetstream" not in account
        assert imported == allowed | watched


# --- replies -----------------------------------------------------------------------------------------------

VICTIMS = (
    "plans.victim.p",
    "commands.victim.p.vote.victim",
    "commands.victim.p.review.ada",
    "work.agent.victim.s.p.step",
    "work.timer.s.p.step",
    "outcomes.victim.p",
    "blobs.sha256.abc",
    "poison.executor.RESULTS",
    "secrets.s.p.q.answer.victim.x",
    "reveal.victim",
    "results.victim",
    "claims.victim.s.p.step.1",
    "catalogue.victim",
    "goals.victim.p",
    "$JS.ACK.WORK.agent-victim.1.1.1.1.1",
    "$JS.ACK.OUTCOMES.submitter-victim.1.1.1.1.1",
    "$JS.API.CONSUMER.MSG.NEXT.WORK.agent-victim",
)
PULL = b'{"batch":1,"no_wait":true}'


@MODULE
@pytest.mark.parametrize(
    ("attacker", "asked"),
    [
        (
            "agent-echo",
            {
                "results.echo": b"{}",
                "claims.echo.s.p.step.1": b"{}",
                "catalogue.echo": b"{}",
                "blobs.echo.put": b"{}",
                "reveal.echo": b"{}",
                "$JS.API.CONSUMER.MSG.NEXT.WORK.agent-echo": PULL,
                "progress.echo.s.p.step": b"{}",
            },
        ),
        (
            "submitter-shop",
            {
                "goals.shop.g": b"{}",
                "commands.s.p.reply.shop": b"{}",
                "secrets.s.p.q.reply.shop.x": b"{}",
                "$JS.API.CONSUMER.MSG.NEXT.OUTCOMES.submitter-shop": PULL,
                "$JS.API.CONSUMER.MSG.NEXT.OUTCOMES.asked-shop": PULL,
            },
        ),
        (
            "operator-ada",
            {
                "commands.s.p.cancel.ada": b"{}",
                "secrets.s.p.q.answer.ada.x": b"{}",
                "$JS.API.DIRECT.GET.PLANS.plans.s.p": b"",
                "$JS.API.DIRECT.GET.BLOBS.blobs.sha256.abc": b"",
                "inspect.CORE.STREAM.INFO.PLANS": b"",
                "inspect.CORE.CONSUMER.INFO.WORK.agent-victim": b"",
                "query.plans": b"{}",
                "$SRV.PING": b"",
            },
        ),
    ],
)
async def test_a_reply_subject_reaches_nobody_else(server: MeshServer, attacker: str, asked: dict[str, bytes]) -> None:
    before = await stored(server)

    async with client(server, attacker, []) as connection:
        for subject, payload in asked.items():
            for reply in VICTIMS:
                await connection.publish(subject, payload, reply=reply)
        await connection.flush()
        await asyncio.sleep(0.1)  # nothing tells when an answer has gone nowhere

    after = await stored(server)
    assert {subject for subject in after | before if after[subject] != before[subject]} <= set(asked)


# --- what the table is for ---------------------------------------------------------------------------------


@MODULE
async def test_an_agent_is_given_its_work_and_reports_its_result(server: MeshServer) -> None:
    at = subjects.address("s", "p")
    async with (
        as_user(server, "agent-victim") as agent,
        await subscribe(agent, "WORK", "agent-victim", batch=1) as work,
    ):
        (message,) = await work.receive()
        claimed = await agent.publish(subjects.claim("victim", at, "step", 1), b"{}", expect_last_on_subject=0)
        with pytest.raises(Conflict):
            await agent.publish(subjects.claim("victim", at, "step", 1), b"{}", expect_last_on_subject=0)
        reported = await agent.publish(subjects.results("victim"), b"done")
        message.ack()
        await agent.flush()

    assert message.subject == subjects.agent_work("victim", at, "first")
    assert (claimed.stream, reported.stream) == ("CLAIMS", "RESULTS")


@MODULE
async def test_a_submitter_publishes_a_goal_and_hears_what_became_of_it(server: MeshServer) -> None:
    at = subjects.address("shop", "order-7")
    async with as_user(server, "executor") as executor, as_user(server, "submitter-shop") as shop:
        seen: asyncio.Queue[str] = asyncio.Queue()
        await shop.listen(subjects.plan_log(at), lambda message: seen.put_nowait(message.subject))
        await shop.flush()
        goal = await shop.publish(subjects.goal(at), b"{}")
        await executor.publish(subjects.plan_log(at), b"commit")
        await executor.publish(subjects.outcome(at), b"accepted")

        async with await subscribe(shop, "OUTCOMES", "submitter-shop", batch=10) as outcomes:
            heard = [message.data for message in await outcomes.receive()]
        watched = await asyncio.wait_for(seen.get(), 5)

    assert (goal.stream, watched, heard[-1]) == ("GOALS-shop", "plans.shop.order-7", b"accepted")


@MODULE
async def test_an_agent_is_answered_and_signalled_by_the_executor(server: MeshServer) -> None:
    async with as_user(server, "executor-agents") as executor, as_user(server, "agent-echo") as agent:
        signals: asyncio.Queue[bytes] = asyncio.Queue()
        await executor.listen("blobs.*.put", lambda message: executor.send(message.reply, b"stored"))
        await agent.listen("signals.echo", lambda message: signals.put_nowait(message.data))
        await executor.flush()
        await agent.flush()

        answer = await agent.request("blobs.echo.put", b"blob")
        executor.send("signals.echo", b"cancel")
        signal = await asyncio.wait_for(signals.get(), 5)

    assert (answer, signal) == (b"stored", b"cancel")


@MODULE
async def test_an_operator_looks_asks_watches_and_steers(server: MeshServer) -> None:
    async with (
        as_user(server, "operator-ada") as operator,
        as_user(server, "auditor") as auditor,
        as_user(server, "agent-echo") as agent,
        as_user(server, "executor") as executor,
    ):
        seen: asyncio.Queue[str] = asyncio.Queue()
        for subject in ("plans.*.*", "outcomes.*.*", "progress.*.*.*.*"):
            await operator.listen(subject, lambda message: seen.put_nowait(message.subject))
        await auditor.listen("query.*", lambda message: auditor.send(message.reply, b"rows"))
        await auditor.listen("$SRV.PING", lambda message: auditor.send(message.reply, b"auditor"))
        await operator.flush()
        await auditor.flush()

        asked = await operator.publish("commands.s.p.vote.ada", b"{}")
        answers = [await operator.request(subject) for subject in ("query.plans", "$SRV.PING")]
        await executor.publish("plans.s.watched", b"commit")
        await executor.publish("outcomes.s.watched", b"news")
        agent.send("progress.echo.s.p.step", b"half")
        watched = {await asyncio.wait_for(seen.get(), 5) for _ in range(3)}
        log = await operator.direct_get(PLANS, subject="plans.s.watched")
        last = await operator.last_on_subject(PLANS, "plans.s.watched")
        infos = [await operator.request(f"inspect.{stream.account}.STREAM.INFO.{stream.name}") for stream in STREAMS]

    assert asked.stream == "COMMANDS"
    assert answers == [b"rows", b"auditor"]
    assert watched == {"plans.s.watched", "outcomes.s.watched", "progress.echo.s.p.step"}
    assert [message.data for message in log] == [b"commit"]
    assert last is not None
    assert last.sequence == log[0].sequence
    assert [json.loads(info)["config"]["name"] for info in infos] == [stream.name for stream in STREAMS]


@MODULE
async def test_the_planner_reads_what_agents_say_of_themselves(server: MeshServer) -> None:
    async with as_user(server, "planner") as planner, as_user(server, "agent-echo") as agent:
        await agent.publish("catalogue.echo", b"old")
        await agent.publish("catalogue.echo", b"new")

        described = await planner.direct_get(CATALOGUE, subject="catalogue.echo")

    assert [message.data for message in described] == [b"new"]


def as_user(server: MeshServer, user: str) -> AbstractAsyncContextManager[Connection]:
    """A client as the services have one."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[Connection]:
        credentials = server.credentials(user)
        async with await connect(credentials.server, user, credentials.password, name="test") as connection:
            yield connection
            assert list(connection.violations) == []

    return connected()
