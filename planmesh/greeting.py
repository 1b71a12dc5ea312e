"""Before the client connects: is there a server, is it one that can serve, and why does it hang up?

The client by itself waits two seconds between attempts, tries a wrong password for ever, and reads what the server
offers only when it has told it everything.
"""

import asyncio
import contextlib
import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nats.errors

from planmesh.errors import Unusable

OLDEST_SERVER: Final = (2, 11)

_GREETING_S: Final = 2.0


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says of itself before anybody logs in. Source: NATS client protocol, INFO."""

    version: str
    max_payload: int
    jetstream: bool = False
    tls_required: bool = False


_decode_info = msgspec.json.Decoder(ServerInfo).decode


async def greeting(urls: list[str], shown: str, wait_s: float) -> ServerInfo:
    """Wait for a server to open its port, and read who it is: the client itself would wait 2 s between attempts."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    pause_s = 0.01
    while True:
        for url in urls:
            server = await _greet(url)
            if server is not None:
                return server
        if loop.time() + pause_s > deadline:
            raise Unusable(
                f"no NATS server at {shown} within {wait_s:g} s: start one (`planmesh up`), or say where it is "
                "(--server, PLANMESH_SERVER)"
            )
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.25)


async def _greet(url: str) -> ServerInfo | None:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    shown = without_password(url)
    if parts.scheme not in {"nats", "tls"} or not parts.hostname:
        raise Unusable(f"a NATS server is nats://host:port or tls://host:port, not {shown}")
    try:
        opening = asyncio.open_connection(parts.hostname, parts.port or 4222)
        reader, writer = await asyncio.wait_for(opening, _GREETING_S)
    except (TimeoutError, OSError):
        return None
    try:
        line = await asyncio.wait_for(reader.readline(), _GREETING_S)
        if not line.endswith(b"\n"):
            return None  # it hung up before it had said so much: it may just be ending
        server = _decode_info(line.removeprefix(b"INFO "))
    except ConnectionError:
        return None
    except (TimeoutError, msgspec.DecodeError, ValueError):
        raise Unusable(f"what listens at {shown} does not greet as a NATS server does") from None
    finally:
        writer.close()
    if parts.scheme == "tls" and not server.tls_required:
        raise Unusable(f"{shown} asks for encryption, and the server there offers none: give it a `tls` block")
    if tuple(int(part) for part in server.version.split("-")[0].split(".")[:2]) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise Unusable(f"the NATS server at {shown} is version {server.version}: install {oldest} or later")
    if not server.jetstream:
        raise Unusable(f"the NATS server at {shown} has no JetStream: start it with `-js` or a `jetstream` block")
    return server


async def log_in(url: str, user: str, password: str) -> None:
    """Hear why a server hangs up. The client logs in with two writes, and when the server refuses before the second
    one, its word is lost with the connection; this takes one write.

    Raises:
        Unusable: What the server said.
    """
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_GREETING_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
            try:
                line = await reader.readline()
                if not line.endswith(b"\n") or _decode_info(line.removeprefix(b"INFO ")).tls_required:
                    return
                who = {"user": user, "pass": password, "verbose": False, "lang": "python3", "protocol": 1}
                writer.write(b"CONNECT %s\r\nPING\r\n" % msgspec.json.encode(who))
                said = (await reader.readline()).decode("utf-8", "backslashreplace")
            finally:
                writer.close()
            if said.startswith("-ERR"):
                raise unusable(nats.errors.Error(said.strip()), without_password(url), user)


class CutOff(Unusable):
    """The server hung up without a word, or before its word was read: a refusal may look like this."""


def cut_off(url: str, user: str) -> str:
    return f"the NATS server at {url} hangs up on the user {user}: check the credentials, and the server's log"


def unusable(error: Exception, url: str, user: str) -> Unusable:
    text = str(error)
    if isinstance(error, ConnectionError | nats.errors.UnexpectedEOF):
        return CutOff(cut_off(url, user))
    if "authorization violation" in text.lower():
        return Unusable(
            f"the NATS server at {url} does not know the user {user} with this password: check the credentials"
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or text
        return Unusable(
            f"no encrypted connection to {url}: {reason}. "
            "For an authority of your own, set SSL_CERT_FILE to its certificate"
        )
    return Unusable(f"cannot connect to the NATS server at {url}: {text or type(error).__name__}")


def without_password(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
