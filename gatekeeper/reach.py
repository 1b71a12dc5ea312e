"""Which channel reaches whom, and what leads from there to a gate. Pure; the URLs in it are secret."""

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Keys, Link
from planmesh.gatekeeper.notify import name_channels
from planmesh.schemas.plan import SERVICE
from planmesh.schemas.subjects import Address

MAIL_FIELD: Final = "{email}"


class Reach:
    """The channels of a directory.

    Attributes:
        directory: Who there is.
        urls: The Apprise URL of each channel, by its name. Secret.
        people: Whose a channel is, by its name. The others are the default ones.
    """

    def __init__(self, directory: Directory, default_urls: Iterable[str]) -> None:
        self.directory = directory
        self.urls = name_channels(default_urls)
        self.people: dict[str, str] = {}
        self._default = tuple(self.urls)
        self._own: dict[str, tuple[str, ...]] = {}
        for person in directory.people:
            self._add(person)
        self._channels_for = lru_cache(maxsize=1_024)(self._find)

    def _add(self, person: str) -> None:
        found = self.directory.people[person]
        urls = [url.get_secret_value() for url in found.channels]
        if not urls and found.email is not None and self.directory.mail is not None:
            address = quote(found.email, safe="@")
            urls = [self.directory.mail.get_secret_value().replace(MAIL_FIELD, address)]
        names: list[str] = []
        for kind, url in name_channels(urls).items():
            name, number = f"{person}-{kind}"[:60], 1
            while name in self.urls:
                number += 1
                name = f"{f'{person}-{kind}'[:60]}-{number}"
            self.urls[name] = url
            self.people[name] = person
            names.append(name)
        self._own[person] = tuple(names)

    def channels_for(self, reviewers: Iterable[str]) -> frozenset[str]:
        """The names of the channels that reach *reviewers*.

        Whoever has no channel is reached where everybody is; so is anybody of whom the directory does not know who
        it is. A service hears by messages of its own.
        """
        return self._channels_for(tuple(reviewers))

    def _find(self, reviewers: tuple[str, ...]) -> frozenset[str]:
        found: set[str] = set()
        for reviewer in reviewers:
            if reviewer.startswith(SERVICE):
                continue
            people = self.directory.people_of(reviewer)
            for person in people:
                found.update(self._own.get(person) or self._default)
            if not people:
                found.update(self._default)
        return frozenset(found)

    def channels_of(self, person: str) -> tuple[str, ...]:
        """The names of the channels that reach *person*."""
        return self._own.get(person) or self._default


class Links:
    """What leads from a notice to its gate.

    Args:
        pages_url: Where the review pages are, without a slash at the end.
        keys: What links are signed with.
        lifetime_s: How long a link is good for.
    """

    def __init__(self, pages_url: str, keys: Keys, lifetime_s: float, clock: Callable[[], float] = time.time) -> None:
        self._pages_url = pages_url
        self._keys = keys
        self._lifetime_s = lifetime_s
        self._clock = clock

    def to(self, address: Address, step: str, person: str = "") -> str:
        """The URL of a gate's page; with a *person*, it also says who its reader is."""
        url = f"{self._pages_url}/gates/{address.space}/{address.plan}/{step}"
        if not person:
            return url
        expires = int(self._clock() + self._lifetime_s)
        return f"{url}?link={self._keys.sign_link(Link(address, step, person, expires))}"
