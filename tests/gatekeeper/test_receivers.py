"""What arrives where people are: real mail and chat servers, with names and outputs that strangers wrote."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from immutables import Map
from patience import eventually
from plays import gate, plan
from receivers import ProxiedReceiver, WebReceiver, mail_receiver, proxied_receiver
from reviews import Clerk, Running

from planmesh.gatekeeper.letters import Letters
from planmesh.gatekeeper.notice import Notice, facts
from planmesh.gatekeeper.notify import Channel, Delivery, open_channels
from planmesh.gatekeeper.rounds import Call, Reviews, Round
from planmesh.gatekeeper.service import RETRY_PAUSES_S
from planmesh.schemas.events import GateOpened, Release, Upstream
from planmesh.schemas.payload import Payload, digest
from planmesh.schemas.plan import Gate
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address

HERE = Address("tester", "audit")
EVIL = "x\r\nBcc: victim@example.org\r\n\r\n@everyone <!channel> @all <@U123> https://evil.example/a?b \u202e\x1b[31m"


def channel(name: str, url: str, timeout_s: float = 5.0) -> Channel:
    (made,) = open_channels({name: url}, timeout_s=timeout_s)
    return made


def mail_to(at: str) -> str:
    return f"mailto://{at}?mode=insecure&from=mesh@example.org&to=ada@example.org"


def evil_notice() -> Notice:
    """A notice of a gate in which every text was written by a stranger, and not even checked."""
    opened = GateOpened(
        step="ok",
        round=1,
        digest="0" * 64,
        reviewers=(EVIL, "person:ada"),
        quorum=1,
        prompt=EVIL,
        shown=(Payload(value={EVIL: EVIL}),),
        upstream=(Upstream(step="read", status=EVIL, agent=EVIL, output_sha256=digest(EVIL), output_bytes=9),),
        releases=(Release(step="pay", kind=EVIL, agent=EVIL, inputs={EVIL: [EVIL]}),),
        behind=1,
        because=EVIL,
    )
    reviews = Reviews(
        chain=PlanState(address=HERE),
        name=EVIL,
        goal=EVIL,
        requester=EVIL,
        gates={"ok": Gate(name="ok", label=EVIL)},
        labels={"read": EVIL, "pay": EVIL},
        outputs=Map({"read": Payload(value=EVIL)}),
    )
    asked = Round(opened=opened, at=datetime.now(UTC), calls=(Call(kind="opened", reviewers=opened.reviewers),))
    return Letters().write(facts(HERE, reviews, asked, "opened", link="https://plans.example.org/gates/x"))


# --- what strangers wrote ------------------------------------------------------------------------------------


async def test_no_name_becomes_a_header_of_a_mail() -> None:
    async with mail_receiver() as server:
        assert await channel("mail", mail_to(server.at)).send(evil_notice()) == Delivery(True)

    (mail,) = server.mails
    assert mail.get_all("To") == ["ada@example.org"]
    assert mail["Bcc"] is None
    assert len(mail.get_all("Subject", [])) == 1
    assert mail["Subject"].startswith("Please decide: x Bcc: victim(at)example[.]org (at)everyone")
    assert mail.get_content_type() == "text/plain"
    body = mail.get_content()
    assert body.startswith("Read it, and decide: https://plans.example.org/gates/x")
    assert body.count("://") == 1
    assert not set(body) & set("@<>\u202e\x1b")


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("json://{at}/x", "message"),
        ("ntfy://{at}/reviews", "message"),
        ("gotify://{at}/AbCdEfGhIjKlMnO", "message"),
        ("mmost://{at}/token123token", "text"),
        ("rocket://web0123456789abcdefghij/0123456789abcdefghijklmnopqrst@{at}/?mode=webhook", "text"),
    ],
)
async def test_no_chat_finds_a_mention_or_a_link_in_what_strangers_wrote(
    web: WebReceiver, url: str, field: str
) -> None:
    assert await channel("chat", url.format(at=web.at)).send(evil_notice()) == Delivery(True)

    ((_, post),) = web.posts
    text = str(post[field])
    assert 'the gate "x Bcc' in text or 'the gate \\"x Bcc' in text
    assert text.count("://") == 1
    assert not set(text) & set("@<>\u202e\x1b")


SLACK = "slack://T00000000/B00000000/abcdefghijklmnopqrstuvwx"


@contextlib.asynccontextmanager
async def slack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[ProxiedReceiver]:
    """Slack's webhooks, by their own name: the plugin has their address built in, and so a proxy leads here."""
    async with proxied_receiver("hooks.slack.com") as (receiver, authority):
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("HTTPS_PROXY", f"http://{receiver.at}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        yield receiver


async def test_a_webhook_of_slack_is_posted_what_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with slack(monkeypatch, tmp_path) as receiver:
        assert await channel("slack", SLACK).send(evil_notice()) == Delivery(True)

    ((path, post),) = receiver.posts
    assert receiver.asked_for == ["hooks.slack.com:443"]
    assert path == "/services/T00000000/B00000000/abcdefghijklmnopqrstuvwx"
    (said,) = post["attachments"]
    assert said["title"].startswith("Please decide: x Bcc: victim(at)example[.]org")
    text = said["text"]
    assert text.startswith("Read it, and decide: https://plans.example.org/gates/x")
    assert post["mrkdwn"] is False
    assert json.dumps(said, ensure_ascii=False).count("://") == 1
    assert not set(text) & set("@<>\u202e\x1b")


async def test_a_webhook_that_slack_has_withdrawn_is_a_notice_that_failed_and_its_secret_stays_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with slack(monkeypatch, tmp_path) as receiver:
        receiver.answer = ("404 Not Found", b"no_service")
        delivery = await channel("slack", SLACK).send(evil_notice())

    assert not delivery.delivered
    assert "404" in delivery.detail
    assert "abcdefghijklmnopqrstuvwx" not in delivery.detail


# --- servers that are away -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """A server that takes connections, and says nothing."""
    open_ended = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await open_ended.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        open_ended.set()
        server.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_notice_is_tried_for_longer_than_ten_minutes() -> None:
    assert sum(RETRY_PAUSES_S) > 600


async def test_mail_that_could_not_be_sent_arrives_once_the_server_is_back_and_delays_nobody(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    port = free_port()
    mail = channel("mail", mail_to(f"127.0.0.1:{port}"))
    await gatekeeper.start(mail, channel("chat", f"json://{web.at}"), retry_pauses_s=(0.2,) * 100)
    for number in range(5):
        await clerk.create(Address("tester", f"plan-{number}"), plan(gate("ok")))
    await eventually(lambda: len(web.posts) == 5 and mail.failures >= 5)

    async with mail_receiver(port) as server:
        await eventually(lambda: len(clerk.reports) == 10)

    assert len(server.mails) == 5
    assert all(report.delivered for report in clerk.reports)


async def test_a_mail_server_that_says_nothing_holds_up_nobody_else(
    clerk: Clerk, gatekeeper: Running, web: WebReceiver
) -> None:
    async with silent_server() as silent:
        hanging = channel("mail", mail_to(silent), timeout_s=1.0)
        await gatekeeper.start(hanging, channel("chat", f"json://{web.at}"), retry_pauses_s=())
        for number in range(5):
            await clerk.create(Address("tester", f"plan-{number}"), plan(gate("ok")))
        await eventually(lambda: len(clerk.reports) == 10)

    assert len(web.posts) == 5
    assert [one.channel for one in clerk.reports[:5]] == ["chat"] * 5
    assert {one.detail for one in clerk.reports if one.channel == "mail"} == {"no answer within 1 s"}


async def test_nobody_knows_from_a_plan_where_notices_go(clerk: Clerk, gatekeeper: Running, web: WebReceiver) -> None:
    evil = "json://127.0.0.1:9/stolen"
    await gatekeeper.start(channel("chat", f"json://{web.at}"))
    await clerk.create(HERE, plan(gate("ok", reviewers=(evil, f"tag:{evil}"), prompt=evil, label=evil)))
    await eventually(lambda: clerk.reports)

    assert [one.channel for one in clerk.reports] == ["chat"]
    assert len(web.posts) == 1
