"""Who decides: people, and the roles and teams that they are in. Read from ``[directory]`` of the settings; pure.

The planner refuses a plan that names a reviewer whom it does not find here; the gatekeeper finds out whom to tell,
and as what somebody answers. A reviewer is written as ``person:ada``, ``ada@example.org``, ``role:cfo`` or
``team:finance``; ``role:operator`` is everyone with an operator's credentials, and whom `Directory.operators` names.

A person who is also an operator has the same id here as there (``operator-ada`` is ``ada``): one name, one vote.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from planmesh.schemas.plan import OPERATORS
from planmesh.schemas.subjects import ACTORS

TAG: Final = "tag:"
"""How a channel is written that is a tag of an Apprise configuration file."""

_PERSON: Final = "person:"
_ID: Final = r"^[A-Za-z0-9_-]{1,40}$"  # what is longer leaves no room for the names of channels
_EMAIL: Final = r"^[^\s@<>\"',;:\\()\[\]]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"
_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"

_SPACE: Final = r"^[A-Za-z0-9_-]{1,64}$"

PATTERNS: Final = {
    _ID: "an id of 1 to 40 of A-Z a-z 0-9 _ -",
    _SPACE: "the name of a space, 1 to 64 of A-Z a-z 0-9 _ -",
    _EMAIL: "one e-mail address, such as ada@example.org",
    _LINE: "one line of plain text",
}
"""What the regular expressions of fields say, in words."""

Id = Annotated[str, Field(pattern=_ID)]
SpaceName = Annotated[str, Field(pattern=_SPACE)]
Label = Annotated[str, Field(max_length=100, pattern=_LINE)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Person(_Part):
    """Somebody who can be asked."""

    name: Label = ""
    """For people; unless given, the id."""
    email: Annotated[str, Field(max_length=200, pattern=_EMAIL)] | None = None
    channels: tuple[SecretStr, ...] = ()
    """Where this person is told, as Apprise URLs, or as ``tag:NAME`` of the file `apprise_config`. None: by e-mail if
    `Directory.mail` says how, or else where everybody is told (`notify_urls`)."""


class Role(_Part):
    """What somebody is: whoever has the role may answer for it."""

    members: Annotated[tuple[Id, ...], Field(min_length=1)]


class Team(_Part):
    """People who decide together: each of them may answer."""

    members: Annotated[tuple[Id, ...], Field(min_length=1)]
    lead: Id | None = None
    channels: tuple[SecretStr, ...] = ()
    """Where the team is told, such as its room in a chat: besides its members, and in place of those who have no
    channels of their own."""


class Space(_Part):
    """A space, which is a service that publishes goals."""

    owner: str
    """Whose it is, written as a reviewer: what the space asks for, its owner asks for, and with ``four_eyes`` cannot
    approve."""


class Directory(_Part):
    """Everybody whom a plan may name. An empty one knows nobody, and nothing is checked against it."""

    people: dict[Id, Person] = {}
    roles: dict[Id, Role] = {}
    teams: dict[Id, Team] = {}
    spaces: dict[SpaceName, Space] = {}
    operators: str | None = None
    """Whom the gatekeeper lets answer for ``role:operator``, and tells: a reviewer, such as ``team:oncall``."""
    escalate_to: str | None = None
    """Who may answer as well what nobody has answered in time, where a gate or an ask says nothing of it."""
    _services: frozenset[str] | None = PrivateAttr(None)
    mail: SecretStr | None = None
    """How people with an e-mail address and no channels are told: an Apprise URL with ``{email}`` in it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._bad_people(), *self._bad_groups()]
        for field in ("operators", "escalate_to"):
            said = getattr(self, field)
            if said is not None and not self.people_of(said):
                problems.append(f"{field} names {said!a:.100}, where nobody is found; it takes one of {self._names()}")
        for name, space in self.spaces.items():
            if not self.people_of(space.owner):
                found = f"the owner of the space {name} is {space.owner!a:.100}, where nobody is found"
                problems.append(f"{found}; it takes one of {self._names()}")
        if self.mail is not None and "{email}" not in self.mail.get_secret_value():
            problems.append("mail has no {email} in it, so that everybody's mail would go to one address")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _bad_people(self) -> Iterable[str]:
        taken: dict[str, str] = {}
        for name, person in self.people.items():
            if name in ACTORS:
                yield f"a person cannot be called {name}: the log names a service so"
            if person.email is not None:
                other = taken.setdefault(person.email.lower(), name)
                if other != name:
                    yield f"the people {other} and {name} have the same e-mail address"

    def _bad_groups(self) -> Iterable[str]:
        if "operator" in self.roles:
            yield "the role operator is everyone with an operator's credentials: say `operators` for whom to tell"
        groups: list[tuple[str, tuple[str, ...]]] = [
            *((f"the role {name}", role.members) for name, role in self.roles.items()),
            *((f"the team {name}", team.members) for name, team in self.teams.items()),
        ]
        for what, members in groups:
            for member in members:
                if member not in self.people:
                    yield f"{what} has {member}, who is not among the people"
        for name, team in self.teams.items():
            if team.lead is not None and team.lead not in team.members:
                yield f"the team {name} is led by {team.lead}, who is not in it"

    def _names(self) -> str:
        return ", ".join(self.reviewers[:10]) or "those that are declared, and none is"

    def with_services(self, services: Iterable[str]) -> Self:
        """The same, which knows that there are *services*, and no others."""
        found = self.model_copy()
        found._services = frozenset(services)
        return found

    @property
    def services(self) -> frozenset[str] | None:
        """The services that may be asked, by their spaces; None: whoever is named may exist."""
        return self._services

    # --- finding people ----------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not self.people

    @cached_property
    def reviewers(self) -> tuple[str, ...]:
        """Everything that a plan may write to name somebody here."""
        return (
            *(f"{_PERSON}{name}" for name in self.people),
            *(person.email for person in self.people.values() if person.email is not None),
            *(f"role:{name}" for name in self.roles),
            *(f"team:{name}" for name in self.teams),
            OPERATORS,
        )

    @cached_property
    def _members(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {f"{_PERSON}{name}": (name,) for name in self.people}
        found |= {person.email.lower(): (name,) for name, person in self.people.items() if person.email is not None}
        found |= {f"role:{name}": tuple(dict.fromkeys(role.members)) for name, role in self.roles.items()}
        for name, team in self.teams.items():
            lead = () if team.lead is None else (team.lead,)
            found[f"team:{name}"] = tuple(dict.fromkeys((*lead, *team.members)))
        return found

    def people_of(self, reviewer: str) -> tuple[str, ...]:
        """The ids of those whom *reviewer* names, a team's lead first; nobody, if it is not known."""
        if reviewer == OPERATORS:
            return self.people_of(self.operators) if self.operators not in (None, OPERATORS) else ()
        return self._members.get(reviewer.lower() if "@" in reviewer else reviewer, ())

    def knows(self, reviewer: str) -> bool:
        """Whether *reviewer* names somebody: operators are somewhere, even where nobody says who they are."""
        return reviewer == OPERATORS or bool(self.people_of(reviewer))

    def everybody(self, reviewers: Iterable[str]) -> tuple[str, ...]:
        """The ids of all whom *reviewers* name, each once."""
        return tuple(dict.fromkeys(one for reviewer in reviewers for one in self.people_of(reviewer)))

    def owners_of(self, space: str) -> tuple[str, ...]:
        """The ids of those who own *space*; nobody, where nobody is said to."""
        found = self.spaces.get(space)
        return () if found is None else self.people_of(found.owner)

    def groups(self, person: str, reviewers: Iterable[str]) -> tuple[str, ...]:
        """Those of *reviewers* that *person* is, or is in."""
        return tuple(reviewer for reviewer in dict.fromkeys(reviewers) if person in self.people_of(reviewer))

    def called(self, person: str) -> str:
        """What to call *person*: the name that is declared, or else the id."""
        found = self.people.get(person)
        return (found.name if found is not None else "") or person

    def by_login(self, said: str) -> str | None:
        """The id of whoever signs in as *said*: an id, or an e-mail address. None: nobody here."""
        found = self.people_of(said) if "@" in said else self.people_of(f"{_PERSON}{said}")
        return found[0] if found else None
