from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import TYPE_CHECKING

import nats.errors
import pytest
from patience import eventually

from planmesh.connection import Connection, StoredMessage, connect
from planmesh.errors import Busy, Conflict, Poison, Unusable
from planmesh.greeting import log_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.planmesh.conftest import PlainServer

# For 127.0.0.1, by nobody that anyone trusts, until 2126.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIULDP4xmzJdq8OWFJiflqstgaQZ7AwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjA5MTQzMVoYDzIxMjYxMDI5
MDkxNDMxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT6SamcM0ApFEcsHJrjKbSw2WxzNVf7mVpIfCYsvsH7He4prWg5+WBD
INdGuAqAuN9iHt4ztltRvd4N1q34Mrq6o28wbTAdBgNVHQ4EFgQUNc10YPzFcUAY
kGGmA/YP3D9Y11AwHwYDVR0jBBgwFoAUNc10YPzFcUAYkGGmA/YP3D9Y11AwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/AAABgglsb2NhbGhvc3QwCgYIKoZI
zj0EAwIDSAAwRQIhAM+A6wjQoNQTuab8EGwP7AZXD6DmsmHWx3GzT+I1yGuNAiBA
VO53jaCL3qkhsYi+Zg54Sdj1IpPjoj0FqdQqKnkXGg==
-----END CERTIFICATE-----
"""
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgczQXsKcQ8xBJoyhu
2Dbn+HlreTBDKN/vqeKCwE6ZuPihRANCAAT6SamcM0ApFEcsHJrjKbSw2WxzNVf7
mVpIfCYsvsH7He4prWg5+WBDINdGuAqAuN9iHt4ztltRvd4N1q34Mrq6
-----END PRIVATE KEY-----
"""


async def with_a_stream(server: PlainServer, **settings: object) -> Connection:
    connection = await server.connect()
    await server.stream(connection, "DATA", "data.>", allow_direct=True, **settings)
    return connection


# --- publishing ---------------------------------------------------------------------------------------------


async def test_publishes_are_stored_in_the_order_they_were_made(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        acks = await asyncio.gather(*(connection.publish_soon(f"data.{n % 7}", b"%d" % n) for n in range(500)))

        assert [ack.sequence for ack in acks] == list(range(1, 501))
        assert {(ack.stream, ack.duplicate) for ack in acks} == {("DATA", False)}


async def test_of_rivals_with_one_expectation_one_wins(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        first = await connection.publish("data.plan", b"1", expect_last_on_subject=0)
        rivals = [connection.publish_soon("data.plan", b"2", expect_last_on_subject=first.sequence) for _ in range(20)]
        results = await asyncio.gather(*rivals, return_exceptions=True)

        assert [type(result).__name__ for result in results] == ["Ack"] + ["Conflict"] * 19
        with pytest.raises(Conflict, match=r"expected sequence 0 as the last of data\.plan.*: 2"):
            await connection.publish("data.plan", b"3", expect_last_on_subject=0)


async def test_a_repeated_message_id_is_stored_once(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        first = await connection.publish("data.a", b"1", message_id="one")
        second = await connection.publish("data.a", b"1", message_id="one")

        assert (second.sequence, second.duplicate) == (first.sequence, True)


async def test_a_subject_that_holds_one_message_takes_no_other(server: PlainServer) -> None:
    settings = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
    async with await with_a_stream(server, **settings) as connection:
        await connection.publish("data.blob", b"1")

        with pytest.raises(Conflict, match=r"data\.blob already holds a message"):
            await connection.publish("data.blob", b"2")


async def test_a_full_stream_is_busy_and_has_stored_nothing(server: PlainServer) -> None:
    async with await with_a_stream(server, max_msgs=1, discard="new") as connection:
        await connection.publish("data.a", b"1")

        with pytest.raises(Busy, match="is full") as caught:
            await connection.publish("data.b", b"2")
        assert not caught.value.ambiguous


async def test_a_subject_without_a_stream_is_busy_at_once(server: PlainServer) -> None:
    async with await server.connect() as connection:
        with pytest.raises(Busy, match=r"nobody answers on nowhere\.x.*planmesh init") as caught:
            await connection.publish("nowhere.x", b"")
        assert not caught.value.ambiguous


async def test_what_is_too_large_is_refused_here_and_the_connection_stays(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        most = connection.client.max_payload
        await connection.publish("data.a", b"x" * most)

        with pytest.raises(Poison, match=r"has 1,048,577 bytes .* takes 1,048,576"):
            connection.publish_soon("data.a", b"x" * (most + 1))
        with pytest.raises(Poison, match="with its headers"):
            connection.publish_soon("data.a", b"x" * most, message_id="é")
        with pytest.raises(Poison, match="1 to 1000 ASCII characters, not the 5005"):
            connection.publish_soon("data." + "y" * 5000, b"")
        headers = len("NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n")
        ack = await connection.publish("data." + "y" * 995, b"x" * (most - headers), message_id="1")
        assert ack.sequence == 2
        assert not connection.closed.is_set()


async def test_a_message_that_the_stream_finds_too_large_is_poison(server: PlainServer) -> None:
    async with await with_a_stream(server, max_msg_size=100) as connection:
        with pytest.raises(Poison, match="takes no message this large"):
            await connection.publish("data.a", b"x" * 101)


async def test_an_unanswered_publish_is_ambiguous_and_may_have_been_stored(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await server.pause()
        with pytest.raises(Busy, match="may have been carried out") as caught:
            await connection.publish("data.a", b"1", timeout_s=0.2)
        assert caught.value.ambiguous
        server.go_on()

        assert (await connection.publish("data.a", b"2")).sequence == 2


async def test_when_the_connection_breaks_nobody_waits_for_the_timeout(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await server.pause()
        waiting = connection.publish_soon("data.a", b"1", timeout_s=60)
        await asyncio.sleep(0.05)
        await server.kill()

        with pytest.raises(Busy, match="broke before") as caught:
            await asyncio.wait_for(waiting, 2)
        assert caught.value.ambiguous


async def test_what_is_published_while_the_server_is_away_is_stored_when_it_is_back(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        back = asyncio.Event()
        connection.on_reconnect.add(back.set)
        await connection.publish("data.a", b"1")
        await server.kill()
        while connection.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting = connection.publish_soon("data.a", b"2", timeout_s=10)
        await server.start()

        try:
            sequence = (await waiting).sequence
        except Busy:  # the streams of a server that has just started may not be there yet
            sequence = (await connection.publish("data.a", b"2")).sequence
        assert sequence == 2
        await asyncio.wait_for(back.wait(), 2)


async def test_what_the_server_forbids_is_said_at_once(server: PlainServer) -> None:
    async with await server.connect("confined") as connection:
        started = time.monotonic()
        with pytest.raises(Unusable, match=r"user confined may not publish to Theirs\.x"):
            await connection.publish("Theirs.x", b"")

        assert time.monotonic() - started < 1
        assert list(connection.violations) == ['permissions violation for publish to "theirs.x"']


# --- asking ---------------------------------------------------------------------------------------------------


async def test_a_request_gets_its_answer(server: PlainServer) -> None:
    async with await server.connect() as connection, await server.connect() as other:
        await other.listen("echo.*", lambda message: other.send(message.reply, message.data.upper()))
        await other.flush()

        answers = await asyncio.gather(*(connection.request(f"echo.{n}", b"a%d" % n) for n in range(50)))

        assert answers == [b"A%d" % n for n in range(50)]


async def test_a_request_that_nobody_hears_or_answers_is_busy(server: PlainServer) -> None:
    async with await server.connect() as connection, await server.connect() as other:
        await other.listen("silent", lambda message: None)
        await other.flush()

        with pytest.raises(Busy, match="nobody answers on nothing"):
            await connection.request("nothing")
        with pytest.raises(Busy, match="no answer about silent"):
            await connection.request("silent", timeout_s=0.1)


@pytest.mark.parametrize(("code", "kind"), [("404", Poison), ("500", Busy)])
async def test_an_error_of_a_service_is_ours_or_theirs(server: PlainServer, code: str, kind: type[Exception]) -> None:
    headers = {"Nats-Service-Error": "no such plan", "Nats-Service-Error-Code": code}
    async with await server.connect() as connection, await server.connect() as other:
        await other.listen("query", lambda message: other.send(message.reply, b"", headers=headers))
        await other.flush()

        with pytest.raises(kind, match="no such plan"):
            await connection.request("query")


async def test_a_callback_that_fails_does_not_end_the_connection(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await connection.listen("data.a", lambda message: 1 / 0)

        await connection.publish("data.a", b"")
        assert (await connection.publish("data.a", b"")).sequence == 2


# --- reading --------------------------------------------------------------------------------------------------


async def test_direct_get_reads_one_subject_in_order(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        for n in range(30):
            await connection.publish(f"data.{n % 3}", b"%d" % n, message_id=f"id-{n}")

        found = await connection.direct_get("DATA", subject="data.1", sequence=6, batch=4)

        assert [(one.sequence, one.subject, one.data) for one in found] == [
            (n + 1, "data.1", b"%d" % n) for n in (7, 10, 13, 16)
        ]
        assert found[0].headers["Nats-Msg-Id"] == "id-7"
        assert abs(found[0].time.timestamp() - time.time()) < 60
        assert len(await connection.direct_get("DATA")) == 30
        assert await connection.direct_get("DATA", subject="data.none") == []
        assert await connection.direct_get("DATA", sequence=31) == []


async def test_direct_get_goes_on_where_the_server_has_had_enough(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        large = b"x" * (connection.client.max_payload - 1000)
        for _ in range(20):
            await connection.publish("data.large", large)

        found = await connection.direct_get("DATA", subject="data.large")

        assert [one.sequence for one in found] == list(range(1, 21))


async def test_the_last_message_of_a_subject(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await connection.publish("data.a", b"1")
        await connection.publish("data.a", b"", headers={"Note": "two: it is"})
        await connection.publish("data.b", b"3")

        found = [await connection.last_on_subject("DATA", "data.a", leader=leader) for leader in (False, True)]

        for one in found:
            assert isinstance(one, StoredMessage)
            assert (one.sequence, one.subject, one.data, one.headers["Note"]) == (2, "data.a", b"", "two: it is")
        assert found[0].time == found[1].time
        assert await connection.last_on_subject("DATA", "data.c") is None
        assert await connection.last_on_subject("DATA", "data.c", leader=True) is None


async def test_reading_a_stream_that_is_not_there_is_said(server: PlainServer) -> None:
    async with await server.connect() as connection:
        with pytest.raises(Busy, match=r"nobody answers on .*GONE"):
            await connection.direct_get("GONE")
        with pytest.raises(Unusable, match="stream not found"):
            await connection.last_on_subject("GONE", "data.a", leader=True)


# --- hostile publishers ---------------------------------------------------------------------------------------

HOSTILE = {
    b"PUB data.\xff\xfe 2\r\nhi\r\n": "data.\\xff\\xfe",
    b"PUB data.a\x0bb 2\r\nhi\r\n": "data.a\x0bb",
    b"PUB data.a\x0c1\x0c2 2\r\nhi\r\n": "data.a\x0c1\x0c2",
    b"PUB data.a\x00b 2\r\nhi\r\n": "data.a\x00b",
    "PUB data.\u2028\u202e 2\r\nhi\r\n".encode(): "data.\u2028\u202e",
    b"HPUB data.status 19 21\r\nNATS/1.0 404 \xff\xfe\r\n\r\nhi\r\n": "data.status",
    b"HPUB data.none 4 6\r\n\r\n\r\nhi\r\n": "data.none",
    b"HPUB data.short 10 12\r\nNATS/1.0\r\nhi\r\n": "data.short",
    b"HPUB data.many %d %d\r\nNATS/1.0\r\n%s\r\nhi\r\n" % (500_012, 500_014, b"a:b\r\n" * 100_000): "data.many",
}


async def test_no_subject_and_no_header_can_end_the_readers_of_others(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        heard: list[tuple[str, bytes]] = []
        await connection.listen("data.>", lambda message: heard.append((message.subject, message.data)))
        await connection.flush()
        started = time.monotonic()

        await asyncio.to_thread(publish_raw, server.url, *HOSTILE)
        await connection.flush()

        assert heard == [(subject, b"hi") for subject in HOSTILE.values()]
        stored = await connection.direct_get("DATA")
        assert [one.data for one in stored] == [b"hi"] * (len(HOSTILE) - 1)  # no stream takes so many headers
        assert time.monotonic() - started < 1
        assert connection.client.stats["reconnects"] == 0


def publish_raw(url: str, *commands: bytes) -> None:
    host, _, port = url.removeprefix("nats://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.recv(4096)
        raw.sendall(b'CONNECT {"user":"service","pass":"secret","headers":true,"verbose":false}\r\n')
        for command in commands:
            raw.sendall(command)
        raw.sendall(b"PING\r\n")
        assert raw.recv(100) == b"PONG\r\n"


# --- connecting and closing -----------------------------------------------------------------------------------


async def test_a_wrong_password_is_said_at_once_and_never_shown(server: PlainServer) -> None:
    url = server.url.replace("//", "//u:hunter2@")
    with pytest.raises(Unusable, match="does not know the user service with this password") as caught:
        await connect(url, "service", "hunter2", name="test")

    assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_down_is_waited_for(server: PlainServer) -> None:
    await server.kill()
    with pytest.raises(Unusable, match=r"no NATS server at nats://127.* within 0.1 s.*planmesh up"):
        await connect(server.url, "service", "secret", name="test", wait_s=0.1)

    connecting = asyncio.create_task(server.connect())
    await asyncio.sleep(0.1)
    await server.start()
    async with await connecting as connection:
        assert connection.server.jetstream


async def test_what_is_no_nats_server_is_said(unused_tcp_port: int) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", unused_tcp_port):
        with pytest.raises(Unusable, match="does not greet as a NATS server does"):
            await connect(f"nats://127.0.0.1:{unused_tcp_port}", "service", "secret", name="test")
    with pytest.raises(Unusable, match="nats://host:port or tls://host:port, not http://"):
        await connect("http://127.0.0.1:1", "service", "secret", name="test")


@pytest.mark.parametrize("half", [b"", b'INFO {"version":"2.12'])
async def test_a_server_that_hangs_up_before_it_has_greeted_may_be_another_one_soon(
    unused_tcp_port: int, half: bytes
) -> None:
    hung_up = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hung_up
        hung_up += 1
        writer.write(half)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", unused_tcp_port):
        ending = f"nats://127.0.0.1:{unused_tcp_port}"
        await log_in(ending, "service", "secret")  # has nothing to say
        with pytest.raises(Unusable, match="no NATS server at"):
            await connect(ending, "service", "secret", name="test", wait_s=0.05)
    assert hung_up > 2


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (b'{"version":"2.10.7","max_payload":1,"jetstream":true}', r"version 2\.10\.7: install 2\.11 or later"),
        (b'{"version":"2.12.0","max_payload":1}', "has no JetStream"),
    ],
)
async def test_a_server_that_cannot_serve_is_said(unused_tcp_port: int, info: bytes, said: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + info + b"\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", unused_tcp_port):
        with pytest.raises(Unusable, match=said):
            await connect(f"nats://127.0.0.1:{unused_tcp_port}", "service", "secret", name="test")


async def test_encryption_is_insisted_on_and_verified(
    server: PlainServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unusable, match="asks for encryption, and the server there offers none"):
        await connect(server.url.replace("nats:", "tls:"), "service", "secret", name="test")

    await server.stop()
    (tmp_path / "certificate.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    with (server.directory / "accounts.conf").open("a") as file:
        file.write(f'tls {{ cert_file: "{tmp_path}/certificate.pem", key_file: "{tmp_path}/key.pem" }}\n')
    await server.start()
    url = server.url.replace("nats:", "tls:")
    with pytest.raises(Unusable, match=r"self-signed certificate.*SSL_CERT_FILE"):
        await connect(url, "service", "secret", name="test")
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(tmp_path / "certificate.pem"))
    async with await with_a_stream(server) as connection:
        assert (await connection.publish("data.a", b"")).sequence == 1


async def test_a_name_that_is_no_token_is_no_user(server: PlainServer) -> None:
    with pytest.raises(ValueError, match="user must be 1 to 64"):
        await connect(server.url, "a.>", "secret", name="test")


async def test_closing_sends_what_is_buffered_and_tells_who_waits(server: PlainServer) -> None:
    closed: list[str] = []
    async with await with_a_stream(server) as connection:
        connection.on_close.add(lambda: closed.append("closed"))
        await server.pause()
        unanswered = connection.publish_soon("data.a", b"")
        connection.send("data.b", b"")

    server.go_on()
    with pytest.raises(Busy, match="was closed before"):
        await unanswered
    with pytest.raises(Unusable, match="is closed"):
        connection.send("data.a", b"")
    assert connection.closed.is_set()
    assert closed == ["closed"]
    async with await server.connect() as other:
        async with asyncio.timeout(5):
            while len(await other.direct_get("DATA")) < 2:
                pass


async def test_a_connection_to_a_server_that_is_gone_is_closed_without_a_word(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        unanswered = connection.publish_soon("data.a", b"")
        await server.kill()
        await eventually(lambda: not connection.connected)
        connection.send("data.b", b"")

    assert connection.closed.is_set()
    with pytest.raises(Busy):
        await unanswered


async def test_a_connection_that_the_server_ends_for_good_says_so(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        waiting = connection.publish_soon("data.a", b"")
        most = b"x" * connection.client.max_payload
        await connection.client.publish("data.a", most, headers={"One": "more"})  # around every check

        await asyncio.wait_for(connection.closed.wait(), 5)
        assert (await asyncio.gather(waiting, return_exceptions=True))[0] is not None
        with pytest.raises(Unusable):
            await connection.publish("data.a", b"")


async def test_a_ping_that_nobody_waits_for_any_more_does_no_harm(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await server.pause()
        with pytest.raises(Busy, match=r"did not answer a ping within 0.1 s"):
            await connection.flush(timeout_s=0.1)
        server.go_on()

        assert (await connection.publish("data.a", b"")).sequence == 1
        await connection.flush()


async def test_a_forbidden_subscription_is_visible(server: PlainServer) -> None:
    async with await server.connect("confined") as connection:
        await connection.listen("theirs", lambda message: None)
        await connection.flush()

        assert list(connection.violations) == ['permissions violation for subscription to "theirs"']


async def test_what_the_server_does_not_take_is_not_buffered_for_ever(server: PlainServer) -> None:
    async with await with_a_stream(server) as connection:
        await server.pause()
        piece = b"x" * 1_000_000

        async def send_too_much() -> None:
            for _ in range(100):
                connection.send("data.a", piece)
                await asyncio.sleep(0)

        with pytest.raises(Busy, match="bytes wait for the NATS server"):
            await send_too_much()
        server.go_on()

        await connection.flush()
        assert not isinstance(connection.client.last_error, nats.errors.Error)
