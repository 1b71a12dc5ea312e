"""Real receivers of notices on 127.0.0.1: a web server and a mail server."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
