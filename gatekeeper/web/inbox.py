"""What an inbox shows, as plain values for a template. Pure."""

from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.web.words import called, cut, line
from planmesh.schemas.queries import GateRow

PAGE: Final = 50
"""Lines of one page."""


class Item(Struct, frozen=True, kw_only=True):
    """A line of an inbox."""

    path: str
    kind: Literal["gate", "ask"]
    title: str
    plan_name: str
    requester: str
    prompt: str
    since: datetime
    overdue_at: datetime | None
    is_overdue: bool
    is_escalated: bool
    has_approved: bool
    asked_as: str


class Inbox(Struct, frozen=True):
    """One page of it.

    Attributes:
        count: How many lines there are in all.
        overdue: How many of them are overdue.
        page: Which page this is, from 1.
        pages: How many there are.
    """

    items: tuple[Item, ...]
    count: int
    overdue: int
    page: int
    pages: int


def inbox(rows: tuple[GateRow, ...], directory: Directory, person: str, page: int = 1) -> Inbox:
    """What *person* is asked: what is overdue or due first comes first. A page that there is not is the nearest."""
    never = datetime.max.replace(tzinfo=UTC)
    found = [(row, groups) for row in rows if (groups := directory.groups(person, row.reviewers))]
    found.sort(key=lambda one: (person in one[0].votes, not one[0].overdue, one[0].overdue_at or never))
    pages = max(1, -(-len(found) // PAGE))
    page = min(max(page, 1), pages)
    return Inbox(
        items=tuple(_item(row, groups, directory, person) for row, groups in found[(page - 1) * PAGE : page * PAGE]),
        count=len(found),
        overdue=sum(row.overdue for row, _ in found),
        page=page,
        pages=pages,
    )


def _item(row: GateRow, groups: tuple[str, ...], directory: Directory, person: str) -> Item:
    return Item(
        path=f"/gates/{row.space}/{row.plan}/{row.step}",
        kind=row.kind,
        title=line(row.label or row.step),
        plan_name=line(row.plan_name),
        requester=line(row.space),
        prompt=cut(line(row.prompt), 180),
        since=row.since,
        overdue_at=row.overdue_at,
        is_overdue=row.overdue,
        is_escalated=bool(set(groups) & set(row.escalated)),
        has_approved=person in row.votes,
        asked_as=", ".join(called(directory, group) for group in groups),
    )
