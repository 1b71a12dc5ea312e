"""Channels, against real receivers."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest
from receivers import WebReceiver, mail_receiver, web_receiver

from planmesh.errors import Unusable
from planmesh.gatekeeper.notice import Notice
from planmesh.gatekeeper.notify import Channel, Delivery, name_channels, open_channels

NOTICE = Notice("Please decide: sign-off", "The plan waits.\n\nHow to answer:\n  planmesh gates show a.b sign-off\n")


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def channel(url: str, timeout_s: float = 5.0) -> Channel:
    (made,) = open_channels({"desk": url}, timeout_s=timeout_s)
    return made


async def test_a_webhook_gets_subject_and_body(web: WebReceiver) -> None:
    assert await channel(f"json://{web.at}/hook").send(NOTICE) == Delivery(True)

    ((path, body),) = web.posts
    assert path == "/hook"
    assert (body["title"], body["message"]) == (NOTICE.subject, NOTICE.body.rstrip())


async def test_ntfy_gets_plain_text(web: WebReceiver) -> None:
    assert await channel(f"ntfy://{web.at}/reviews").send(NOTICE) == Delivery(True)

    ((_, body),) = web.posts
    assert (body["topic"], body["title"]) == ("reviews", NOTICE.subject)
    assert body["message"] == NOTICE.body.rstrip()
    assert "markdown" not in body


async def test_a_mail_is_plain_text() -> None:
    async with mail_receiver() as receiver:
        url = f"mailto://{receiver.at}?mode=insecure&from=mesh@example.org&to=ada@example.org"
        assert await channel(url).send(NOTICE) == Delivery(True)

    (mail,) = receiver.mails
    assert mail["Subject"] == NOTICE.subject
    assert mail["To"] == "ada@example.org"
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().strip().replace("\r\n", "\n") == NOTICE.body.strip()


async def test_nothing_in_a_notice_is_interpreted(web: WebReceiver) -> None:
    text = "<b>bold</b> *stars* :smile: \\n {{name}} ${HOME} & more"

    await channel(f"json://{web.at}").send(Notice(text, text))

    ((_, body),) = web.posts
    assert (body["title"], body["message"]) == (text, text)


async def test_what_a_chat_shows_beside_a_notice_leads_nowhere(web: WebReceiver) -> None:
    await channel(f"mmost://{web.at}/token123token/?image=yes").send(NOTICE)

    ((path, body),) = web.posts
    assert path == "/hooks/token123token"
    assert body["username"] == "planmesh"
    assert "http" not in str(body)


async def test_a_channel_that_refuses_says_why_without_its_secrets(
    web: WebReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.answers = [403]
    secret = channel(f"json://robot:hunter2hunter2@{web.at}/token-4711?+X-Key=s3cr3t-h3ader")

    delivery = await secret.send(NOTICE)

    assert not delivery.delivered
    assert "403" in delivery.detail
    for said in (delivery.detail, repr(secret), caplog.text):
        for part in ("robot", "hunter2", "4711", "s3cr3t", web.at):
            assert part not in said


async def test_a_channel_that_nobody_serves_fails_at_once(refusing_port: int) -> None:
    begun = time.monotonic()
    dead = channel(f"json://127.0.0.1:{refusing_port}/secret-path")

    delivery = await dead.send(NOTICE)

    assert not delivery.delivered
    assert delivery.detail
    assert "secret-path" not in delivery.detail
    assert time.monotonic() - begun < 2
    assert dead.failures == 1
    assert dead.since_failure_s() < 2


async def test_a_channel_that_hangs_is_given_up_and_holds_up_no_other(web: WebReceiver) -> None:
    web.open.clear()
    hanging = channel(f"json://{web.at}", timeout_s=0.2)
    with web_receiver() as other:
        healthy = channel(f"json://{other.at}")
        begun = time.monotonic()
        many = [asyncio.create_task(hanging.send(NOTICE)) for _ in range(20)]

        assert await healthy.send(NOTICE) == Delivery(True)

        deliveries = await asyncio.gather(*many)
        assert time.monotonic() - begun < 2
    assert {delivery.detail for delivery in deliveries} == {
        "no answer within 0.2 s",
        "8 earlier notices hang there without an answer",
    }


async def test_a_channel_that_has_hung_is_used_again(web: WebReceiver) -> None:
    web.open.clear()
    slow = channel(f"json://{web.at}", timeout_s=0.1)
    await asyncio.gather(*(slow.send(NOTICE) for _ in range(8)))
    web.open.set()
    for _ in range(500):
        if (await slow.send(NOTICE)).delivered:
            break
        await asyncio.sleep(0.01)

    assert slow.failures == 0


@pytest.mark.parametrize("url", ["nonsense", "unheard-of://secret-token/", "mailto://", "json://"])
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(Unusable, match="the channel desk is none that Apprise understands") as refused:
        open_channels({"desk": url})

    assert "secret" not in str(refused.value).replace("is secret", "")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "\u202ename", "a\n"])
def test_a_name_that_cannot_stand_in_the_log_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match="a channel's name is 1 to 64"):
        open_channels({name: "json://127.0.0.1"})


def test_channels_without_a_name_are_named_by_their_scheme() -> None:
    urls = ["json://a", "mailto://b", "json://c", "no-scheme-but-a-token", "j s://d"]

    assert list(name_channels(urls)) == ["json", "mailto", "json-2", "channel", "channel-2"]
    assert list(name_channels(urls).values()) == urls
