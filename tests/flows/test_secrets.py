"""A secret, from whoever enters it to the agent that is given it; and everywhere else, where it must not be."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from flows import Flow, plan, running_flow, task
from nats.aio.msg import Msg
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from patience import eventually
from receivers import WebReceiver, web_receiver

from planmesh.access import home
from planmesh.client import Client
from planmesh.connection import Connection
from planmesh.schemas import subjects
from planmesh.schemas.commands import AnswerAsk
from planmesh.schemas.questions import Questioned
from planmesh.schemas.state import PlanStatus, StepStatus, open_asks
from planmesh.schemas.subjects import SECRETS, Address
from planmesh.steering import Refused
from planmesh.streams import streams, streams_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROOF = "p" * 32
KEY = 'sk-It\'s "the" kéy/of+the=shop\\'
"""With what is quoted by repr, by JSON, and in addresses."""


def traces_of(secret: str) -> list[bytes]:
    """How it could be found: as it is, as JSON has it, and as the server encodes what it stores."""
    as_json = [json.dumps(secret, ensure_ascii=escaped).encode()[1:-1] for escaped in (True, False)]
    return [secret.encode(), *as_json, base64.b64encode(secret.encode()).rstrip(b"=")[:-2]]


def has(data: bytes, secret: str) -> bool:
    return any(trace in data for trace in traces_of(secret))


def document(**of_ask: Any) -> dict[str, Any]:
    ask = {"kind": "ask", "name": "key", "prompt": "The key of the shop", "secret": True, **of_ask}
    return plan(
        {"reviewers": ["person:ada", "role:operator", "service:vault"], **ask},
        task("use", agent="use-key", inputs={"key": "{key.value}", "who": "{key.provided_by}"}),
        {"kind": "gate", "name": "go-on", "after": ["use"], "show": ["{use}"], "reviewers": ["role:operator"]},
        task("again", "go-on", agent="use-key", inputs={"key": "{key.value}"}),
    )


class World:
    """A mesh with review pages, and all that is said in it.

    Attributes:
        heard: Every message in the accounts of the services and of the agents: its account, its subject, its bytes.
    """

    def __init__(self, flow: Flow, http: httpx.AsyncClient, notices: WebReceiver) -> None:
        self.flow = flow
        self.http = http
        self.notices = notices
        self.heard: list[tuple[str, str, bytes]] = []
        self.spans: list[bytes] = []

    async def listen(self, connection: Connection, account: str) -> None:
        def hear(message: Msg) -> None:
            self.heard.append((account, message.subject, message.data))

        await connection.listen(">", hear)

    @property
    def spaces(self) -> tuple[str, ...]:
        return self.flow.mesh.mesh.submitters()

    async def stored(self, stream: str) -> list[tuple[str, bytes]]:
        """Whatever a stream holds."""
        of = {"AGENTS": "admin-agents", "EDGE": "admin-edge"}
        account = home(stream)
        async with self.flow.connected(of.get(account, "admin")) as admin:
            info = json.loads(await admin.request(f"$JS.API.STREAM.INFO.{stream}"))["state"]
            found = []
            for sequence in range(info["first_seq"], info["last_seq"] + 1):
                answer = json.loads(
                    await admin.request(f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps({"seq": sequence}).encode())
                )
                if (message := answer.get("message")) is not None:
                    data, headers = (base64.b64decode(message.get(part, "")) for part in ("data", "hdrs"))
                    found.append((message["subject"], headers + data))
            return found

    async def nowhere(self, secret: str, *addresses: Address) -> None:
        """It is in nothing that anybody can read, but in SECRETS and in what the executor has told an agent."""
        for stream in (*streams(), *(stream for space in self.spaces for stream in streams_of(space))):
            if subjects.kind_of(stream.name) != SECRETS:
                assert not [on for on, data in await self.stored(stream.name) if has(data, secret)], stream.name
        ways = ("secrets.", "_INBOX.", "_R_.")
        found = {(account, on) for account, on, data in self.heard if has(data, secret)}
        assert not [one for one in found if not one[1].startswith(ways)]
        assert not [body for body in self.notices.posts if has(json.dumps(body).encode(), secret)]
        assert not [span for span in self.spans if has(span, secret)]
        directory = self.flow.directory
        files = [file for file in directory.rglob("*") if file.is_file() and "jetstream" not in file.parts]
        assert any(file.name.startswith("auditor.db") for file in files)
        assert not [file for file in files if has(file.read_bytes(), secret)]
        for address in addresses:
            for step in ("key", "go-on"):
                for path in (f"/gates/{address.space}/{address.plan}/{step}", "/inbox"):
                    assert not has((await self.page(path)).encode(), secret)

    async def page(self, path: str) -> str:
        return unescape((await self.http.get(path)).text)

    async def asked(self, name: str, **of_ask: Any) -> Address:
        submitted = await self.flow.client.submit(document(**of_ask), id=name)
        await self.flow.until(submitted.address, open_asks)
        return submitted.address

    async def given(self, step: str, secret: str, times: int = 1) -> None:
        """Wait until the agent has been given exactly this."""
        line = f"{step} {hashlib.sha256(secret.encode()).hexdigest()}"
        file = self.flow.directory / "given"
        await eventually(lambda: file.exists() and file.read_text().split("\n").count(line) >= times, 30)

    async def finish(self, address: Address) -> None:
        await self.flow.approve(address)
        await self.flow.until(address, lambda state: state.status is PlanStatus.COMPLETED)
        await eventually(lambda: self._is_gone(address))

    async def _is_gone(self, address: Address) -> bool:
        vaults = (SECRETS, *(subjects.secret_stream("reply", space) for space in self.spaces))
        return not [subject for vault in vaults for subject, _ in await self.stored(vault) if str(address) in subject]

    async def enter(self, address: Address, secret: str, step: str = "key") -> httpx.Response:
        path = f"/gates/{address.space}/{address.plan}/{step}"
        form = re.search(r'name="form" value="([^"]+)"', await self.page(path))
        assert form is not None
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}
        fields = {"form": form[1], "decision": "answer", "secret": secret}
        return await self.http.post(path, data=fields, headers=headers, follow_redirects=True)

    async def command(self, *arguments: str, stdin: str = "") -> tuple[int | None, str]:
        """What the command line says, to somebody who pipes *stdin* into it."""
        environment = {**os.environ, "PLANMESH_DATA_DIR": str(self.flow.mesh.data_dir)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "planmesh.cli", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        said, _ = await process.communicate(stdin.encode())
        return process.returncode, " ".join(said.decode().split())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("secrets")
    port, otlp = free_port(), free_port()
    settings = directory.parent / "planmesh.toml"
    sign_in = f'secret = "{PROOF}"\nuser_header = "X-Who"\nsecret_header = "X-Proof"\n'
    settings.write_text(f'[directory.people.ada]\nname = "Ada"\n[sign_in]\n{sign_in}')
    environment = {
        "PLANMESH_CONFIG": str(settings),
        "PLANMESH_WEB_PORT": str(port),
        "PLANMESH_LOG_LEVEL": "debug",
        "PLANMESH_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp}",
    }
    headers = {"X-Who": "ada", "X-Proof": PROOF}
    async with contextlib.AsyncExitStack() as stack:
        notices = stack.enter_context(web_receiver())
        environment["PLANMESH_NOTIFY_URLS"] = f"json://{notices.at}"
        tap = await stack.enter_async_context(
            OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=otlp))
        )
        flow = await stack.enter_async_context(
            running_flow(directory, agents=["secret_agents"], environment=environment)
        )
        await flow.mesh.mesh.add_submitter("vault")
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30)
        )
        found = World(flow, http, notices)
        for user, account in (("admin", "CORE"), ("admin-agents", "AGENTS"), ("admin-edge", "EDGE")):
            await found.listen(await stack.enter_async_context(flow.connected(user)), account)

        async def collect() -> None:
            async for span in tap.stream_traces():
                found.spans.append(span.SerializeToString())

        collecting = asyncio.create_task(collect())
        stack.callback(collecting.cancel)
        yield found


async def test_a_secret_that_is_entered_on_the_page_reaches_the_agent_and_nothing_else(world: World) -> None:
    address = await world.asked("by-page")
    page = await world.page(f"/gates/{address.space}/{address.plan}/key")
    assert 'type="password"' in page
    assert 'autocomplete="off"' in page

    answered = await world.enter(address, KEY)

    assert answered.status_code == 200
    assert "Answered by Ada" in answered.text
    assert "kept as a secret" in answered.text
    await world.given("use", KEY)
    state = await world.flow.until(address, lambda state: state.steps["go-on"].opened)
    assert state.steps["use"].output.value == {"used": "***", "header": "Authorization: Bearer ***", "by": "ada"}
    assert [has(data, KEY) for _, data in await world.stored(SECRETS)] == [True]
    await world.nowhere(KEY, address)

    await world.finish(address)

    await world.given("again", KEY)
    # What is looked through has what there is of the plan; and each of these has the secret where it may be.
    await eventually(lambda: any(b"by-page" in span for span in world.spans), 30)
    await eventually(lambda: any("by-page" in json.dumps(body) for body in world.notices.posts), 30)
    await world.nowhere(KEY, address)
    assert await world.stored(SECRETS) == []
    assert {on.split(".")[0] for _, on, data in world.heard if has(data, KEY)} == {"secrets", "_INBOX", "_R_"}


async def test_a_secret_comes_from_a_pipe_and_never_from_the_command_line(world: World, tmp_path: Path) -> None:
    secret = "-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----"
    address = await world.asked("by-pipe")
    status, said = await world.command("answer", address.plan, "key", "hunter2-hunter2")
    assert (status, "shell's history" in said, "hunter2" in said) == (2, True, False)
    status, said = await world.command("answer", address.plan, "key")
    assert (status, "--file -" in said) == (2, True)
    status, said = await world.command("answer", address.plan, "key", "--file", "-", stdin="\n")
    assert (status, "not empty" in said) == (2, True)

    status, said = await world.command("answer", address.plan, "key", "--file", "-", stdin=f"{secret}\n")

    assert status == 0, said
    assert "answered with a secret" in said
    await world.given("use", secret)
    _, shown = await world.command("show", address.plan)
    assert "answered with a secret by" in shown
    await world.nowhere(secret, address)
    await world.finish(address)
    await world.nowhere("hunter2-hunter2", address)


async def test_at_a_terminal_it_is_typed_unseen(world: World) -> None:
    secret = "typed-by-hand"
    address = await world.asked("by-terminal")
    ours, theirs = os.openpty()
    environment = {**os.environ, "PLANMESH_DATA_DIR": str(world.flow.mesh.data_dir), "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "planmesh.cli", "answer", address.plan, "key",
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # it has ended
        while data := await asyncio.to_thread(os.read, ours, 4_096):
            is_asked = b"nothing is shown" in seen
            seen += data
            if b"nothing is shown" in seen and not is_asked:
                os.write(ours, f"{secret}\n".encode())
    os.close(ours)

    assert await process.wait() == 0, seen
    assert b"answered with a secret" in seen
    assert b"given to use (use-key) and again (use-key)" in seen[: seen.index(b"nothing is shown")]
    assert secret.encode() not in seen
    await world.given("use", secret)
    await world.finish(address)


async def test_a_service_answers_with_a_secret(world: World) -> None:
    secret = "from the vault's hand"
    address = await world.asked("by-service")
    who = world.flow.credentials("submitter-vault")
    file = world.flow.mesh.data_dir / "credentials" / f"{who.user}.toml"
    async with Client.connect(credentials=file) as client, asyncio.timeout(30):
        async for heard in client.questions():
            heard.ack()
            if isinstance(heard.question, Questioned) and heard.question.plan == address.plan:
                assert heard.question.secret
                await client.answer(heard.question, secret)
                break

    await world.given("use", secret)
    await world.nowhere(secret, address)
    await world.finish(address)


async def test_an_error_that_quotes_the_secret_is_recorded_without_it(world: World) -> None:
    ask = {"kind": "ask", "name": "key", "secret": True, "reviewers": ["person:ada"]}
    failing = plan(ask, task("fail", agent="fail-with-key", inputs={"key": "{key.value}"}))
    submitted = await world.flow.client.submit(failing, id="failing")
    await world.flow.until(submitted.address, open_asks)

    await world.enter(submitted.address, KEY)

    state = await world.flow.until(submitted.address, lambda state: state.steps["fail"].status is StepStatus.FAILED)
    failure = state.steps["fail"].failure
    assert failure is not None
    assert failure.message == "https://shop.example/?key=*** said no to '***'"
    assert "ValueError" in failure.traceback
    await world.nowhere(KEY)
    await world.flow.operator.cancel(submitted.address)
    await eventually(lambda: world._is_gone(submitted.address))


async def test_a_tool_that_quotes_the_secret_is_logged_without_it(world: World) -> None:
    ask = {"kind": "ask", "name": "key", "secret": True, "reviewers": ["person:ada"]}
    step = task("fail", agent="call-with-key", inputs={"key": "{key.value}"}, permissions={"tools": ["try_key"]})
    submitted = await world.flow.client.submit(plan(ask, step), id="tool")
    await world.flow.until(submitted.address, open_asks)

    await world.enter(submitted.address, KEY)

    state = await world.flow.until(submitted.address, lambda state: state.steps["fail"].status is StepStatus.FAILED)
    failure = state.steps["fail"].failure
    assert failure is not None
    assert failure.message == "try_key failed: ValueError: no lock takes ***"
    logs = [file for file in world.flow.directory.rglob("*") if file.is_file() and b"tool.failed" in file.read_bytes()]
    assert any(b"no lock takes ***" in file.read_bytes() for file in logs)
    await world.nowhere(KEY)
    await world.flow.operator.cancel(submitted.address)
    await eventually(lambda: world._is_gone(submitted.address))


async def test_of_two_answers_at_once_one_counts_and_both_are_taken_away(world: World) -> None:
    address = await world.asked("two")

    answers = await asyncio.gather(
        world.enter(address, "one-secret-of-ada"),
        world.flow.operator.answer(address, "key", "another-of-an-operator"),
        return_exceptions=True,
    )

    state = await world.flow.until(address, lambda state: state.steps["go-on"].opened)
    by_page = state.steps["key"].votes == ("ada",)
    await world.given("use", "one-secret-of-ada" if by_page else "another-of-an-operator")
    assert isinstance(answers[1], Exception) is by_page
    for secret in ("one-secret-of-ada", "another-of-an-operator"):
        await world.nowhere(secret, address)
    await world.finish(address)


async def test_what_was_stored_and_never_answered_is_taken_away_when_the_plan_ends(world: World) -> None:
    address = await world.asked("orphan")
    kept = await world.flow.operator.keep_secret(address, "key", "left-behind")
    assert [subject.rpartition(".")[2] for subject, _ in await world.stored(SECRETS)] == [kept]

    await world.flow.operator.cancel(address)

    await eventually(lambda: world._is_gone(address))


async def test_a_secret_that_comes_too_late_is_taken_away(world: World) -> None:
    address = await world.asked("late")
    await world.flow.operator.cancel(address)
    await world.flow.until(address, lambda state: state.status is PlanStatus.CANCELLED)

    with pytest.raises(Refused):
        await world.flow.operator.answer(address, "key", "too-late-for-that")

    await eventually(lambda: world._is_gone(address))


async def test_a_step_whose_secret_is_gone_fails_and_says_what_can_be_done(world: World) -> None:
    address = await world.asked("gone")
    await world.enter(address, KEY)
    await world.flow.until(address, lambda state: state.steps["go-on"].opened)
    async with world.flow.connected("admin") as admin:
        await admin.request(f"$JS.API.STREAM.PURGE.{SECRETS}", b"")  # as if they had grown too old

    await world.flow.approve(address)

    state = await world.flow.until(address, lambda state: state.steps["again"].status is StepStatus.FAILED)
    failure = state.steps["again"].failure
    assert failure is not None
    assert failure.code == "secret_gone"
    assert "planmesh revise" in failure.message

    # What the message says to do works: another ask, of which the answer is read instead.
    revised = document()
    revised["steps"][3] = task("again", "go-on", agent="use-key", inputs={"key": "{key_anew.value}"})
    anew = {"kind": "ask", "name": "key-anew", "binding": "key_anew", "secret": True, "reviewers": ["person:ada"]}
    revised["steps"].append(anew)
    await world.flow.operator.revise(address, revised)
    await world.flow.until(address, lambda state: open_asks(state) == ["key-anew"])
    await world.enter(address, "entered-once-more", "key-anew")
    for _ in range(2):  # it may ask again, now that it knows what it lets go
        opened = (await world.flow.operator.state(address)).steps["go-on"].opened
        assert opened is not None
        with contextlib.suppress(Refused):
            await world.flow.operator.approve(address, "go-on", opened.digest)
    await world.given("again", "entered-once-more")
    await world.flow.until(address, lambda state: state.status is PlanStatus.COMPLETED)


@pytest.mark.parametrize("victim", ["executor", "worker", "gatekeeper"])
async def test_a_secret_arrives_and_is_taken_away_whoever_is_killed(world: World, victim: str) -> None:
    secret = f"entered-while-{victim}-dies"
    address = await world.asked(f"killed-{victim}")
    state = await world.flow.operator.state(address)
    opened = state.steps["key"].opened
    assert opened is not None
    kept = await world.flow.operator.keep_secret(address, "key", secret)

    world.flow.mesh.children[victim].kill()
    await world.flow.command(address, AnswerAsk(id="once", step="key", digest=opened.digest, secret=kept))
    await world.given("use", secret)
    await world.flow.until(address, lambda state: state.steps["go-on"].opened)
    await world.flow.ready()
    world.flow.mesh.children[victim].kill()
    await world.finish(address)

    await world.given("again", secret)
    await world.flow.ready()
    await world.nowhere(secret, address)
