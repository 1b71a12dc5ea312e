"""Agents, credentials and poison, by the verbs themselves, on a real server."""

import json
import shutil
from pathlib import Path

import pytest

from planmesh.cli import COMPLETED, FAILED, administer
from planmesh.cli.session import NotUnderstood, Session
from planmesh.client import Client
from planmesh.connection import Connection, connect
from planmesh.delivery import set_aside, subscribe
from planmesh.errors import Poison, Unusable
from planmesh.operator import Operator
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.subjects import PLANNER, PLANS, Address, BadToken, goal_stream
from planmesh.schemas.work import AgentDescription
from planmesh.testing import MeshServer

GOALS = goal_stream("tester")
HOSTILE = "\x1b[2J\u202e"


def session_of(server: MeshServer, output: str = "table") -> Session:
    return Session(data_dir=server.data_dir, output=output)  # type: ignore[arg-type]


@pytest.fixture
def session(mesh_server: MeshServer) -> Session:
    return session_of(mesh_server)


@pytest.fixture
def lines(mesh_server: MeshServer) -> Session:
    return session_of(mesh_server, "jsonl")


async def as_user(server: MeshServer, user: str) -> Connection:
    who = server.credentials(user)
    return await connect(who.server, who.user, who.password, name=user)


# --- credentials -------------------------------------------------------------------------------------------


async def test_a_submitter_can_connect_with_nothing_but_its_file(
    lines: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await administer.add_submitter("shop", session=lines)

    made = json.loads(capsys.readouterr().out)

    assert made["user"] == "submitter-shop"
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    async with Client.connect(credentials=Path(shutil.copy(made["file"], alone))) as client:
        assert client.space == "shop"


async def test_an_operator_can_connect(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    await administer.add_operator("ada", session=session)

    assert "operator-ada may connect to nats://127.0.0.1:" in capsys.readouterr().out
    async with Operator.connect(data_dir=session.data_dir, user="ada") as operator:
        assert operator.name == "ada"


async def test_an_agent_is_added_with_its_concurrency(lines: Session, capsys: pytest.CaptureFixture[str]) -> None:
    await administer.add_agent("echo", concurrency=7, session=lines)
    await administer.add_agent_user("other", session=lines)
    capsys.readouterr()

    await administer.list_agents(session=lines)

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["name"], row["concurrency"], row["hosted"]) for row in rows] == [
        ("echo", 7, False),
        ("other", 100, False),
    ]


@pytest.mark.parametrize("name", ["a.b", "", "*", "x" * 65, "ada lovelace", HOSTILE])
async def test_a_name_that_cannot_be_in_a_subject_is_refused(session: Session, name: str) -> None:
    for verb in (administer.add_submitter, administer.add_operator, administer.add_agent):
        with pytest.raises(BadToken):
            await verb(name, session=session)


async def test_users_are_listed_without_their_passwords(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    administer.list_credentials(session=session)

    out = capsys.readouterr().out
    assert "submitter-tester" in out
    assert administer.mesh_of(session).credentials_of("admin").password not in out


# --- agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mesh_server", [("echo",)], indirect=True)
async def test_agents_are_listed_with_what_they_say_and_whether_somebody_runs_them(
    mesh_server: MeshServer, session: Session, lines: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await as_user(mesh_server, "agent-echo") as worker:
        said = AgentDescription(name="echo", version="1.2", description=f"Says it again{HOSTILE}", idempotent=True)
        await worker.publish(subjects.catalogue("echo"), encode(said))
        async with await subscribe(worker, "WORK", "agent-echo"):
            await worker.flush()
            await administer.list_agents(session=lines)

    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (row["version"], row["hosted"], row["idempotent"], row["concurrency"]) == ("1.2", True, True, 100)

    await administer.list_agents(session=session)

    out = capsys.readouterr().out
    assert "✗ none" in out
    assert "Says it again\\x1b[2J\\u202e" in out


async def test_without_agents_it_says_how_to_have_some(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    await administer.list_agents(session=session)

    assert "planmesh up --agents MODULE" in capsys.readouterr().out


# --- poison ------------------------------------------------------------------------------------------------


@pytest.fixture
async def poisoned(mesh_server: MeshServer) -> MeshServer:
    """A goal that the planner could not handle, because of a bug."""
    async with (
        await as_user(mesh_server, "submitter-tester") as submitter,
        await as_user(mesh_server, "planner-edge") as edge,
        await as_user(mesh_server, "planner") as planner,
    ):
        await submitter.publish(
            subjects.goal(Address("tester", "g1")), f"the payload{HOSTILE}\xff".encode("latin-1", "replace")
        )
        async with await subscribe(edge, GOALS, PLANNER) as goals:
            (message,) = await goals.receive()
            try:
                raise RuntimeError(f"cannot\nread this{HOSTILE}")
            except RuntimeError as error:
                await set_aside(planner, "planner", message, error)
        await edge.flush()
    return mesh_server


async def test_poison_is_listed_with_where_it_came_from_and_why(
    poisoned: MeshServer, session: Session, lines: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    await administer.list_poison(session=lines)

    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (row["number"], row["service"], row["stream"], row["subject"]) == (1, "planner", GOALS, "goals.tester.g1")

    await administer.list_poison(session=session)

    out = capsys.readouterr().out
    assert "RuntimeError: cannot" in out
    assert "poison replay 1" in out
    assert "\x1b" not in out


async def test_poison_is_shown_with_its_traceback_and_its_payload_made_harmless(
    poisoned: MeshServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    await administer.show_poison(1, session=session)

    out = capsys.readouterr().out
    assert "goals.tester.g1" in out
    assert "Traceback (most recent call last):\n" in out
    assert "the payload\\x1b[2J" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


async def test_what_is_replayed_is_handled_again_and_no_longer_set_aside(
    poisoned: MeshServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await administer.replay_poison(1, session=session) == COMPLETED

    async with await as_user(poisoned, "planner-edge") as edge, await subscribe(edge, GOALS, PLANNER) as goals:
        (message,) = await goals.receive()
    assert message.subject == "goals.tester.g1"
    assert message.data.startswith(b"the payload")
    await administer.list_poison(session=session)
    assert "Nothing is set aside" in capsys.readouterr().out


async def test_what_is_dropped_is_gone(poisoned: MeshServer, session: Session) -> None:
    assert await administer.drop_poison(all=True, session=session) == COMPLETED

    with pytest.raises(Poison, match="nothing with the number 1 is set aside"):
        await administer.show_poison(1, session=session)


async def test_a_line_of_the_log_is_not_published_again(
    mesh_server: MeshServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await as_user(mesh_server, "auditor") as auditor:
        about = {"Planmesh-Account": "CORE", "Planmesh-Subject": "plans.tester.p", "Planmesh-Sequence": "1"}
        await auditor.publish(subjects.poison("auditor", PLANS), b"junk", headers=about)

    assert await administer.replay_poison(1, session=session) == FAILED
    assert "it is a line of the log" in capsys.readouterr().err


async def test_a_message_whose_end_is_missing_is_not_published_again(
    mesh_server: MeshServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await as_user(mesh_server, "planner") as planner:
        about = {"Planmesh-Account": "EDGE", "Planmesh-Subject": "goals.tester.g", "Planmesh-Cut": "9000000"}
        await planner.publish(subjects.poison("planner", GOALS), b"{", headers=about)

    assert await administer.replay_poison(1, session=session) == FAILED
    assert "its end is missing" in capsys.readouterr().err
    await administer.show_poison(1, session=session)
    assert "8.6 MiB, of which the first 1 byte are kept" in capsys.readouterr().out


async def test_it_takes_an_administrator(poisoned: MeshServer, session: Session) -> None:
    (poisoned.data_dir / "credentials" / "admin.toml").unlink()

    with pytest.raises(Unusable, match="this takes an administrator, whose credentials are not here"):
        await administer.drop_poison(1, session=session)


async def test_which_messages_has_to_be_said(session: Session) -> None:
    for numbers, everything in (((), False), ((1,), True)):
        with pytest.raises(NotUnderstood, match="their numbers, or --all"):
            await administer.drop_poison(*numbers, all=everything, session=session)
