"""The channels by which people are told: e-mail, chats, webhooks. The only file that imports Apprise.

A channel's URL is a secret (it holds passwords and tokens): it is never logged, and what Apprise says of a failure
has every part of the URL taken out of it.
"""

import asyncio
import ipaddress
import logging
import math
import re
import socket
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote

import yaml

from planmesh.directory import TAG
from planmesh.errors import Unusable
from planmesh.gatekeeper.notice import Notice, defuse
from planmesh.schemas.subjects import is_token

if TYPE_CHECKING:
    from apprise import Apprise

TIMEOUT_S: Final = 15.0
"""Longer than Apprise waits to connect and for an answer: what it gives up by itself leaves no thread behind."""

_AT_ONCE: Final = 4
_MOST_HANGING: Final = 8
_DETAIL_CHARACTERS: Final = 200
_NOBODY: Final[Mapping[str, str]] = {}
_MOST_INCLUDES: Final = 3
_PLACE: Final = re.compile(r"(line|entry #?)\s*\d+", re.IGNORECASE)


class Delivery(NamedTuple):
    """What became of a notice at one channel.

    Attributes:
        delivered: The channel took it.
        detail: Why not, in one line without secrets.
    """

    delivered: bool
    detail: str = ""


class Channel:
    """One place where notices go. Made by `open_channels`.

    Each notice has a thread of its own. Apprise's `async_notify` would send every channel's by one small pool, which a
    few channels that hang would fill; and a thread of a pool keeps the process from ending.

    Attributes:
        name: The operator's name for it.
        person: Whose it is, and nobody else's; empty for one that several people read.
        room: To be held while sending: how many notices may be on their way at once.
        failures: How many notices in a row it has not taken.
    """

    def __init__(
        self,
        name: str,
        apprise: "Apprise",
        url: str,
        timeout_s: float = TIMEOUT_S,
        *,
        person: str = "",
        private_addresses: bool = True,
    ) -> None:
        self.name = name
        self.person = person
        self.room = asyncio.Semaphore(_AT_ONCE)
        self.failures = 0
        self._apprise = apprise
        self._secret = _parts(url)
        self._timeout_s = timeout_s
        self._hosts = () if private_addresses else _hosts(apprise)
        self._pace_s = _unhurried(apprise)
        self._next_at = -math.inf
        self._threads = 0
        self._failed_at = -math.inf

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"

    async def send(self, notice: Notice) -> Delivery:
        """Give it *notice*, once. Never raises, and takes no longer than the channel's time limit."""
        delivery = await self._send(notice)
        if delivery.delivered:
            self.failures = 0
        else:
            self.failures += 1
            self._failed_at = asyncio.get_running_loop().time()
        return delivery

    def since_failure_s(self) -> float:
        """Seconds since it last failed; infinite if it has not."""
        return asyncio.get_running_loop().time() - self._failed_at

    async def _turn(self) -> None:
        """Wait until the service takes another one."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_at)
        self._next_at = at + self._pace_s
        await asyncio.sleep(at - now)

    async def _send(self, notice: Notice) -> Delivery:
        await self._turn()
        if self._threads >= _MOST_HANGING:
            return Delivery(False, f"{self._threads} earlier notices hang there without an answer")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Delivery] = loop.create_future()

        def answered(delivery: Delivery) -> None:
            self._threads -= 1
            if not answer.done():
                answer.set_result(delivery)

        def run() -> None:
            delivery = self._send_now(notice)
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(answered, delivery)

        self._threads += 1
        threading.Thread(target=run, name=f"channel {self.name}", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, self._timeout_s)
        except TimeoutError:
            return Delivery(False, f"no answer within {self._timeout_s:g} s")

    def _send_now(self, notice: Notice) -> Delivery:
        if any(map(_is_private, self._hosts)):
            return Delivery(False, "its address is not a public one, which notices.private_addresses forbids")
        try:
            result = self._apprise.notify(body=notice.body, title=notice.subject, body_format="text")
        except Exception as error:
            return Delivery(False, f"Apprise failed with {type(error).__name__}")
        if result:
            return Delivery(True)
        said = [entry.message for service in result.results for entry in service.logs()]
        return Delivery(False, self._without_secrets(said[-1]) if said else "Apprise does not say why")

    def _without_secrets(self, text: str) -> str:
        return defuse(self._secret.sub("***", text), _DETAIL_CHARACTERS)


class Entry(NamedTuple):
    """A service of an Apprise configuration file.

    Attributes:
        service: As Apprise has made it of what the file says. It holds secrets.
    """

    service: Any

    def __repr__(self) -> str:
        return "<Entry>"


Target: TypeAlias = str | Entry
"""An Apprise URL, or a service of a configuration file."""


def open_channels(
    targets: Mapping[str, Target],
    *,
    timeout_s: float = TIMEOUT_S,
    people: Mapping[str, str] = _NOBODY,
    private_addresses: bool = True,
) -> list[Channel]:
    """Make the channels, by name. Nothing is sent yet. Takes a while: Apprise is large.

    Args:
        people: Whose each channel is, by its name; others are read by several people.
        private_addresses: Whether one may be at an address that is no public one.

    Raises:
        Unusable: A name that cannot stand in the log, or a URL that Apprise does not understand, or that may not be.
    """
    if not targets:
        return []
    import apprise

    asset = _asset()
    channels = []
    for name, target in targets.items():
        if not is_token(name):
            raise Unusable(f"a channel's name is 1 to 64 of A-Z a-z 0-9 _ -, not {name[:80]!a}")
        service = apprise.Apprise(asset=asset)
        if not service.add(target if isinstance(target, str) else target.service):
            raise Unusable(
                f"the URL of the channel {name} is none that Apprise understands (see notify_urls, and channels and "
                "mail of [directory]; the URL is secret and not shown): https://github.com/caronc/apprise/wiki says "
                "how yours is written"
            )
        if not private_addresses and any(map(_is_private_literal, _hosts(service))):
            raise Unusable(
                f"the channel {name} is at an address that is not a public one, which notices.private_addresses forbids"
            )
        url = target if isinstance(target, str) else str(target.service.url(privacy=False))
        person = people.get(name, "")
        channels.append(Channel(name, service, url, timeout_s, person=person, private_addresses=private_addresses))
    return channels


def read_configuration(path: Path) -> dict[str, tuple[Entry, ...]]:
    """The services of an Apprise configuration file (YAML, TOML or text), by tag. Nothing is fetched from anywhere.

    Raises:
        Unusable: It cannot be read, an entry is not understood, or it includes what is no file here.
    """
    found: dict[str, tuple[Entry, ...]] = {}
    for service in _services(path, _asset(), depth=0):
        for tag in service.tags:
            found[str(tag)] = (*found.get(str(tag), ()), Entry(service))
    return found


def _services(path: Path, asset: Any, depth: int) -> list[Any]:
    from apprise.config.base import ConfigBase

    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Unusable(f"cannot read the Apprise configuration {path}: {reason}") from error
    kind = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}.get(path.suffix, "text")
    with _minding() as minded:
        if kind == "toml":  # which Apprise does not read: the same keys, in what it does
            content = _as_yaml(content, path)
        read_as = "text" if kind == "text" else "yaml"
        services, included = ConfigBase.config_parse(content, asset=asset, config_format=read_as)
    if minded:
        where = next((place for said in minded if (place := _PLACE.search(said))), None)
        raise Unusable(
            f"Apprise does not understand {path}{f', {where[0]}' if where else ''} (read as {kind}): "
            "https://github.com/caronc/apprise/wiki/config says how it is written"
        )
    for include in included:
        scheme, separator, rest = include.partition("://")
        if (separator and scheme != "file") or depth >= _MOST_INCLUDES:
            raise Unusable(
                f"{path} includes {defuse(scheme, 20)}://…, and only files on this machine can be included"
                if separator
                else f"{path} is included by itself, or too deep"
            )
        services += _services(path.parent / (rest if separator else include), asset, depth + 1)
    return list(services)


def _as_yaml(content: str, path: Path) -> str:
    try:
        return yaml.safe_dump(tomllib.loads(content), sort_keys=False)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))  # and nothing else of it: the line may hold a password
        raise Unusable(f"{path} is not TOML{f': see {place[0]}' if place is not None else ''}") from None


@contextmanager
def _minding() -> Iterator[list[str]]:
    """What Apprise warns of meanwhile. It may name URLs: never show it."""
    minded: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            minded.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("apprise")
    logger.addHandler(listener)
    try:
        yield minded
    finally:
        logger.removeHandler(listener)


def _asset() -> Any:
    import apprise

    _silence()
    # The channel's name may go to whoever reads the log of a plan, links and pictures of Apprise's to nobody.
    return apprise.AppriseAsset(
        app_id="planmesh",
        app_desc="planmesh",
        image_url_mask="",
        image_url_logo="",
        interpret_emojis=False,
        async_mode=False,
        http_redirects=False,  # a channel is where its URL says, and nowhere else
        service_timeout=0,  # ours: Apprise's needs its pool
        allow_templates=False,
    )


def _unhurried(apprise: "Apprise") -> float:
    """Take from Apprise the pauses between notices, in which it sleeps; how long they are, in seconds.

    A notice would wait there while its time limit runs, be given up, and be sent all the same. Where nobody has said
    what a service takes, Apprise waits for 5.5 s; a mail server of one's own takes more than that.
    """
    from apprise.plugins.base import NotifyBase

    pace_s = 0.0
    for service in apprise:
        said = float(type(service).request_rate_per_sec)
        pace_s = max(pace_s, 0.0 if said == NotifyBase.request_rate_per_sec else said)
        service.request_rate_per_sec = 0
    return pace_s


def _hosts(apprise: "Apprise") -> tuple[str, ...]:
    """The hosts that the operator has named; those of public services are their own affair."""
    found: list[str] = []
    for service in apprise:
        named = any("{host}" in template for template in getattr(service, "templates", ()))
        found += [getattr(service, "host", "") or ""] * named
        found.append(getattr(service, "smtp_host", "") or "")
    return tuple(filter(None, found))


def _is_private_literal(host: str) -> bool:
    if host.rstrip(".").lower() in ("localhost", "localhost.localdomain"):
        return True
    with suppress(ValueError):
        return not ipaddress.ip_address(host.strip("[]")).is_global
    return False


def _is_private(host: str) -> bool:
    """Whether any address of *host* is no public one. What has none cannot be reached either."""
    if _is_private_literal(host):
        return True
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_private_literal(str(address[0]).partition("%")[0]) for *_, address in found)


def name_targets(given: Iterable[str], tags: Mapping[str, Sequence[Entry]]) -> dict[str, Target]:
    """What *given* stands for, by names: URLs as in `name_channels`, and ``tag:NAME`` with each service of that tag.

    Raises:
        Unusable: There is no service with this tag.
    """
    kinds: list[tuple[str, Target]] = []
    for one in given:
        if not one.startswith(TAG):
            kinds.append((_kind(one), one))
            continue
        tag = one.removeprefix(TAG)
        if tag not in tags:
            known = ", ".join(sorted(tags)[:10]) or "none, or apprise_config is not set"
            raise Unusable(f"no service has the tag {tag[:80]!a} in the Apprise configuration; the tags there: {known}")
        kind = re.sub(r"[^A-Za-z0-9_-]", "-", tag)[:40]
        kinds += ((kind, entry) for entry in tags[tag])
    return _numbered(kinds)


def name_channels(urls: Iterable[str]) -> dict[str, str]:
    """URLs by names made of their schemes, where nobody has named them: ``mailto``, ``slack``, ``slack-2``."""
    return _numbered((_kind(url), url) for url in urls)


def _kind(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme if separator and len(scheme) <= 40 and is_token(scheme) else "channel"


_Named = TypeVar("_Named")


def _numbered(kinds: Iterable[tuple[str, _Named]]) -> dict[str, _Named]:
    named: dict[str, _Named] = {}
    for kind, one in kinds:
        name, number = kind, 1
        while name in named:
            number += 1
            name = f"{kind}-{number}"
        named[name] = one
    return named


def _silence() -> None:
    """What Apprise and what it stands on say may name URLs: we say ourselves what became of a notice."""
    for library in ("apprise", "urllib3", "requests", "mail.log"):
        logger = logging.getLogger(library)
        logger.propagate = False
        logger.setLevel(logging.WARNING)  # Apprise notes the reasons of failures from this level on
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _parts(url: str) -> re.Pattern[str]:
    """Everything in a URL behind its scheme that may be told from what surrounds it."""
    _, _, rest = url.partition("://")
    found: set[str] = set()
    for text in (rest, unquote(rest)):
        found.update(part for part in re.split(r"[\s/:@?&=,#;]+", text) if len(part) >= 3)
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")
