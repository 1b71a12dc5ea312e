"""Channels, against real receivers."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from receivers import WebReceiver, mail_receiver, web_receiver

from planmesh.errors import Unusable
from planmesh.gatekeeper.notice import Notice
from planmesh.gatekeeper.notify import (
    Channel,
    Delivery,
    name_channels,
    name_targets,
    open_channels,
    read_configuration,
)

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


@pytest.mark.parametrize("url", ["ntfy://{at}/reviews", "rocket://user:pass@{at}/#room", "json://{at}"])
async def test_notices_do_not_wait_for_one_another_where_the_service_does_not_want_it(
    web: WebReceiver, url: str
) -> None:
    begun = time.monotonic()
    made = channel(url.format(at=web.at))
    await asyncio.gather(*(made.send(NOTICE) for _ in range(3)))

    assert web.arrived >= 3
    assert time.monotonic() - begun < 5.5  # what Apprise would wait for between two


async def test_what_a_service_takes_is_kept_to_outside_the_time_limit(
    web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins.custom_json import NotifyJSON

    monkeypatch.setattr(NotifyJSON, "request_rate_per_sec", 0.4)
    made = channel(f"json://{web.at}", timeout_s=0.3)
    begun = time.monotonic()

    assert await asyncio.gather(*(made.send(NOTICE) for _ in range(3))) == [Delivery(True)] * 3
    assert time.monotonic() - begun >= 0.8


# --- Apprise's own configuration files -----------------------------------------------------------------------


async def test_the_services_of_a_configuration_file_are_found_by_their_tags(web: WebReceiver, tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text(f"ops,finance=json://robot:hunter2hunter2@{web.at}/ops\n")
    file = tmp_path / "apprise.yaml"
    file.write_text(
        f"version: 1\ninclude: more.conf\nurls:\n"
        f"  - json://{web.at}/chat:\n     - tag: finance\n"
        f"  - ntfy://{web.at}/phone:\n     - tag: ada\n"
    )

    tags = read_configuration(file)
    (first, second) = open_channels(name_targets(["tag:finance"], tags))

    assert {tag: len(entries) for tag, entries in tags.items()} == {"finance": 2, "ada": 1, "ops": 1}
    assert (first.name, second.name) == ("finance", "finance-2")
    assert [await first.send(NOTICE), await second.send(NOTICE)] == [Delivery(True), Delivery(True)]
    assert [path for path, _ in web.posts] == ["/chat", "/ops"]
    web.answers = [403]
    assert "hunter2" not in (await second.send(NOTICE)).detail


def test_a_configuration_file_may_be_toml(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("ops=json://localhost/ops\n")
    file = tmp_path / "apprise.toml"
    file.write_text(
        'version = 1\ninclude = "more.conf"\n'
        'urls = [{ "json://localhost/chat" = [{ tag = "finance, ada" }] }, "ntfy://localhost/phone"]\n'
    )

    tags = read_configuration(file)

    assert {tag: len(entries) for tag, entries in tags.items()} == {"finance": 1, "ada": 1, "ops": 1}


def test_a_toml_file_that_is_none_says_where_without_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "apprise.toml").write_text('version = 1\nurls = ["json://robot:hunter2hunter2@h"\nx')

    with pytest.raises(Unusable, match=r"apprise.toml is not TOML: see line 3") as refused:
        read_configuration(tmp_path / "apprise.toml")

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version: 1\ninclude: http://evil.example/x.yaml\n", "only files on this machine can be included"),
        ("version: 1\ninclude: file:///nowhere/x.yaml\n", "cannot read the Apprise configuration /nowhere/x.yaml"),
        ("version: 1\ninclude: apprise.yaml\n", "is included by itself, or too deep"),
        ("version: 1\nurls:\n  - unheard-of://hunter2hunter2\n", "Apprise does not understand"),
        ("version: 1\nurls:\n  - json://h\n  - ftp:/hunter2hunter2\n", "entry #2"),
        (": : not yaml {", "Apprise does not understand"),
    ],
)
def test_a_configuration_file_that_cannot_be_used_is_refused_without_its_secrets(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "apprise.yaml").write_text(content)

    with pytest.raises(Unusable) as refused:
        read_configuration(tmp_path / "apprise.yaml")

    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


# --- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    ["127.0.0.1:9", "localhost:9", "[::1]:9", "10.1.2.3", "192.168.0.9", "169.254.169.254", "[fe80::1]", "0.0.0.0"],
)
@pytest.mark.parametrize("url", ["json://{at}/x", "mmost://{at}/token123token", "mailto://u:p@{at}?from=a@b.org"])
def test_an_address_that_is_not_public_is_refused_where_it_may_not_be(url: str, at: str) -> None:
    with pytest.raises(Unusable, match=r"the channel desk is at an address that is not a public one"):
        open_channels({"desk": url.format(at=at)}, private_addresses=False)


async def test_another_way_to_write_a_private_address_does_not_help(web: WebReceiver) -> None:
    port = web.at.partition(":")[2]
    (made,) = open_channels({"desk": f"json://2130706433:{port}/x"}, private_addresses=False)

    delivery = await made.send(NOTICE)

    assert not delivery.delivered
    assert "not a public one" in delivery.detail
    assert web.arrived == 0


async def test_a_channel_that_sends_us_elsewhere_is_not_followed(web: WebReceiver) -> None:
    with web_receiver() as elsewhere:
        web.answers = [307]
        web.location = f"http://{elsewhere.at}/metadata"
        delivery = await channel(f"json://{web.at}/x").send(NOTICE)

    assert not delivery.delivered
    assert elsewhere.arrived == 0


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "\u202ename", "a\n"])
def test_a_name_that_cannot_stand_in_the_log_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match="a channel's name is 1 to 64"):
        open_channels({name: "json://127.0.0.1"})


def test_channels_without_a_name_are_named_by_their_scheme() -> None:
    urls = ["json://a", "mailto://b", "json://c", "no-scheme-but-a-token", "j s://d"]

    assert list(name_channels(urls)) == ["json", "mailto", "json-2", "channel", "channel-2"]
    assert list(name_channels(urls).values()) == urls
