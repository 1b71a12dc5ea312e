"""The channels by which people are told: e-mail, chats, webhooks. The only file that imports Apprise.

A channel's URL is a secret (it holds passwords and tokens): it is never logged, and what Apprise says of a failure
has every part of the URL taken out of it.
"""

import asyncio
import logging
import math
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

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
        self, name: str, apprise: "Apprise", url: str, timeout_s: float = TIMEOUT_S, *, person: str = ""
    ) -> None:
        self.name = name
        self.person = person
        self.room = asyncio.Semaphore(_AT_ONCE)
        self.failures = 0
        self._apprise = apprise
        self._secret = _parts(url)
        self._timeout_s = timeout_s
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

    async def _send(self, notice: Notice) -> Delivery:
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


def open_channels(
    urls: Mapping[str, str], *, timeout_s: float = TIMEOUT_S, people: Mapping[str, str] = _NOBODY
) -> list[Channel]:
    """Make the channels of these Apprise URLs, by name. Nothing is sent yet. Takes a while: Apprise is large.

    Args:
        people: Whose each channel is, by its name; others are read by several people.

    Raises:
        Unusable: A name that cannot stand in the log, or a URL that Apprise does not understand.
    """
    if not urls:
        return []
    import apprise

    _silence()
    # The channel's name may go to whoever reads the log of a plan, links and pictures of Apprise's to nobody.
    asset = apprise.AppriseAsset(
        app_id="planmesh",
        app_desc="planmesh",
        image_url_mask="",
        image_url_logo="",
        interpret_emojis=False,
        async_mode=False,
        service_timeout=0,  # ours: Apprise's needs its pool
        allow_templates=False,
    )
    channels = []
    for name, url in urls.items():
        if not is_token(name):
            raise Unusable(f"a channel's name is 1 to 64 of A-Z a-z 0-9 _ -, not {name[:80]!a}")
        service = apprise.Apprise(asset=asset)
        if not service.add(url):
            raise Unusable(
                f"the URL of the channel {name} is none that Apprise understands (see notify_urls, and channels and "
                "mail of [directory]; the URL is secret and not shown): https://github.com/caronc/apprise/wiki says "
                "how yours is written"
            )
        channels.append(Channel(name, service, url, timeout_s, person=people.get(name, "")))
    return channels


def name_channels(urls: Iterable[str]) -> dict[str, str]:
    """URLs by names made of their schemes, where nobody has named them: ``mailto``, ``slack``, ``slack-2``."""
    named: dict[str, str] = {}
    for url in urls:
        scheme, separator, _ = url.partition("://")
        kind = scheme if separator and len(scheme) <= 40 and is_token(scheme) else "channel"
        name, number = kind, 1
        while name in named:
            number += 1
            name = f"{kind}-{number}"
        named[name] = url
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
