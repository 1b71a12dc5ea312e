"""Real receivers of notices on 127.0.0.1: web servers, one of any name behind a proxy; and a mail server."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme
from aiosmtpd.smtp import SMTP, Envelope, Session


class WebReceiver:
    """A web server that takes whatever is posted to it.

    Attributes:
        at: ``127.0.0.1:<port>``.
        posts: What has arrived: path and body (JSON decoded).
        arrived: How many requests have come, answered or not.
        answers: The statuses of the next answers; 200 when there are none left.
        location: Where an answer sends whoever posts.
        open: Clear it, and requests hang until it is set again.
    """

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.arrived = 0
        self.location = ""
        self.answers: list[int] = []
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.arrived += 1
                receiver.open.wait(30)
                status = receiver.answers.pop(0) if receiver.answers else 200
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    if receiver.location:
                        self.send_header("Location", receiver.location)
                    self.end_headers()
                if status == 200:
                    receiver.posts.append((self.path, json.loads(body)))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.at = f"127.0.0.1:{self.server.server_port}"

    @property
    def subjects(self) -> list[str]:
        return [body["title"] for _, body in self.posts]


@contextlib.contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    receiver = WebReceiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


class ProxiedReceiver:
    """A web server for a host that services have built in, such as hooks.slack.com: it is reached by a proxy, speaks
    TLS by that name, and takes whatever is posted to it.

    Attributes:
        at: Of the proxy: ``127.0.0.1:<port>``.
        asked_for: Where whoever came wanted to go.
        posts: What has arrived: path and body (JSON decoded).
        answer: What is answered to that: status line and body.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.at = ""
        self.asked_for: list[str] = []
        self.posts: list[tuple[str, Any]] = []
        self.answer = ("200 OK", b"ok")
        self._tls = tls

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            connect = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked_for.append(connect.split()[1])
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            await writer.start_tls(self._tls)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0].partition(":")[2]))
            self.posts.append((head.split()[1], json.loads(body)))
            status, said = self.answer
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxied_receiver(host: str) -> AsyncIterator[tuple[ProxiedReceiver, trustme.CA]]:
    """The receiver that is *host*, and who vouches for it."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(tls)
    receiver = ProxiedReceiver(tls)
    async with await asyncio.start_server(receiver.take, "127.0.0.1", 0) as server:
        receiver.at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield receiver, authority


class MailReceiver:
    """What has arrived at a mail server.

    Attributes:
        at: ``127.0.0.1:<port>``.
    """

    def __init__(self) -> None:
        self.at = ""
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"


@contextlib.asynccontextmanager
async def mail_receiver(port: int = 0) -> AsyncIterator[MailReceiver]:
    """Args: port: Where it listens on 127.0.0.1; 0: anywhere."""
    receiver = MailReceiver()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(receiver), "127.0.0.1", port)
    async with server:
        receiver.at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield receiver
