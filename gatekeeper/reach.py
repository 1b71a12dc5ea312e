"""Which channel reaches whom, and what leads from there to a gate. Pure; the URLs in it are secret."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Keys, Link
from planmesh.gatekeeper.notify import Entry, Target, name_targets
from planmesh.schemas.plan import OPERATORS, SERVICE
from planmesh.schemas.subjects import Address

MAIL_FIELD: Final = "{email}"

_NO_TAGS: Final[Mapping[str, Sequence[Entry]]] = {}


class Reach:
    """The channels of a directory.

    Args:
        default: Where everybody is told, as Apprise URLs, or ``tag:NAME``.
        tags: The services of an Apprise configuration file.

    Raises:
        Unusable: A tag that no service has.

    Attributes:
        directory: Who there is.
        urls: What each channel is, by its name. Secret.
        people: Whose a channel is, by its name. The others are read by several people.
    """

    def __init__(
        self, directory: Directory, default: Iterable[str], tags: Mapping[str, Sequence[Entry]] = _NO_TAGS
    ) -> None:
        self.directory = directory
        self.urls: dict[str, Target] = dict(name_targets(default, tags))
        self.people: dict[str, str] = {}
        self._tags = tags
        self._default = tuple(self.urls)
        self._own: dict[str, tuple[str, ...]] = {}
        self._of_teams: dict[str, tuple[str, ...]] = {}
        for name, team in directory.teams.items():
            self._of_teams[f"team:{name}"] = self._add(name, [url.get_secret_value() for url in team.channels])
        for person in directory.people:
            self._own[person] = self._add(person, self._urls_of(person))
            self.people |= dict.fromkeys(self._own[person], person)
        self._channels_for = lru_cache(maxsize=1_024)(self._find)

    def _urls_of(self, person: str) -> list[str]:
        found = self.directory.people[person]
        if found.channels or found.email is None or self.directory.mail is None:
            return [url.get_secret_value() for url in found.channels]
        address = quote(found.email, safe="@")
        return [self.directory.mail.get_secret_value().replace(MAIL_FIELD, address)]

    def _add(self, whose: str, urls: list[str]) -> tuple[str, ...]:
        names: list[str] = []
        for kind, target in name_targets(urls, self._tags).items():
            name, number = f"{whose}-{kind}"[:60], 1
            while name in self.urls:
                number += 1
                name = f"{f'{whose}-{kind}'[:60]}-{number}"
            self.urls[name] = target
            names.append(name)
        return tuple(names)

    def channels_for(self, reviewers: Iterable[str]) -> frozenset[str]:
        """The names of the channels that reach *reviewers*.

        A team is reached at its own channels, and each of its members at theirs. Whoever has none, and no team that
        has, is reached where everybody is; so is anybody of whom the directory does not know who it is. A service
        hears by messages of its own.
        """
        return self._channels_for(tuple(reviewers))

    def _find(self, reviewers: tuple[str, ...]) -> frozenset[str]:
        found: set[str] = set()
        for reviewer in reviewers:
            if reviewer.startswith(SERVICE):
                continue
            people, room = self.directory.people_of(reviewer), self._room_of(reviewer)
            found.update(room)
            for person in people:
                found.update(self._own.get(person) or room or self._default)
            if not people:
                found.update(self._default)
        return frozenset(found)

    def _room_of(self, reviewer: str) -> tuple[str, ...]:
        if reviewer == OPERATORS and self.directory.operators is not None:
            reviewer = self.directory.operators
        return self._of_teams.get(reviewer, ())

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
