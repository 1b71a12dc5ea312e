"""``planmesh reviewers``: whom a plan may name to decide, and whether a notice reaches them."""

import asyncio
from typing import Annotated, Literal

from cyclopts import App, Parameter
from msgspec import Struct
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED
from planmesh.cli.forms import as_rows
from planmesh.cli.render import columns
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.cli.text import defuse
from planmesh.gatekeeper.letters import Letters, sample
from planmesh.gatekeeper.notice import Notice
from planmesh.gatekeeper.notify import open_channels, read_configuration
from planmesh.gatekeeper.reach import Reach

app = App(name="reviewers", help="See whom a plan may name to decide, and test how they are told.")


class ReviewerRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody whom a plan may name.

    Attributes:
        reviewer: How a plan writes it.
        people: Who that is.
        channels: Where they are told, by the names that the log has for it.
    """

    reviewer: str
    people: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class Tried(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a test notice at one channel."""

    channel: str
    delivered: bool
    detail: str = ""


@app.command(name="list")
def list_(*, session: OfSession) -> int:
    """List whom a plan may name to decide, who that is, and where they are told."""
    directory = session.settings.directory
    reach = _reach(session)
    rows = [
        ReviewerRow(
            reviewer=reviewer,
            people=directory.people_of(reviewer),
            channels=tuple(sorted(reach.channels_for([reviewer]))),
        )
        for reviewer in directory.reviewers
    ]
    if session.output != "table":
        print(*as_rows(rows, session.output), sep="\n")
        return COMPLETED
    everyone = "everyone with an operator's credentials"
    cells: list[list[Text | str]] = [
        [
            row.reviewer,
            ", ".join(map(directory.called, row.people)) or everyone,
            ", ".join(row.channels) or Text("nowhere", "red"),
        ]
        for row in rows
    ]
    session.say(*columns(("REVIEWER", "WHO", "TOLD AT"), cells, width=session.out.width))
    if directory.is_empty:
        session.say("", "The settings declare nobody: a plan may name person:NAME for an operator called NAME.")
    return COMPLETED


@app.command
async def test(
    reviewer: Annotated[str, Parameter(help="As a plan would write it, such as team:finance.")],
    /,
    *,
    session: OfSession,
) -> int:
    """Send a test notice to wherever a reviewer is told. The exit code is 1 if a channel does not take it."""
    directory = session.settings.directory
    if not directory.knows(reviewer):
        raise NotUnderstood(f"nobody is found under the reviewer {reviewer[:80]!a}; `planmesh reviewers list`")
    reach = _reach(session)
    names = sorted(reach.channels_for([reviewer]))
    if not names:
        raise NotUnderstood(f"{reviewer} is told nowhere: set channels for them, or notify_urls for everybody")
    channels = open_channels(
        {name: reach.urls[name] for name in names},
        private_addresses=session.settings.notices.private_addresses,
    )
    notice = Notice(
        "A test of planmesh",
        f"This is a test, and asks for nothing. Gates for {reviewer} will be announced here.",
    )
    answers = await asyncio.gather(*(channel.send(notice) for channel in channels))
    tried = [
        Tried(channel=channel.name, delivered=answer.delivered, detail=answer.detail)
        for channel, answer in zip(channels, answers, strict=True)
    ]
    if session.output != "table":
        print(*as_rows(tried, session.output), sep="\n")
    else:
        session.say(
            *(
                Text("✓ ", "green").append(f"{one.channel} took it", "default")
                if one.delivered
                else Text("✗ ", "red").append(f"{one.channel}: {defuse(one.detail)}", "default")
                for one in tried
            )
        )
    return COMPLETED if all(one.delivered for one in tried) else FAILED


@app.command
def notice(
    kind: Annotated[
        Literal["opened", "overdue", "escalated", "decided", "cancelled"], Parameter(help="Which notice.")
    ] = "opened",
    /,
    *,
    session: OfSession,
) -> int:
    """Show what a notice looks like, with a made-up gate. The exit code is 1 if a template of yours does not work."""
    letters = Letters(session.settings.notices.templates)
    problems = letters.problems()
    session.say(*(Text("✗ ", "red").append(problem, "default") for problem in problems), to=session.err)
    written = letters.write(sample(kind, with_outputs=session.settings.notices.outputs))
    if session.output != "table":
        print(*as_rows([written], session.output), sep="\n")
    else:
        print(f"Subject: {written.subject}\n\n{written.body}")  # whole: a terminal would cut its lines
    return FAILED if problems else COMPLETED


def _reach(session: OfSession) -> Reach:
    settings = session.settings
    tags = {} if settings.apprise_config is None else read_configuration(settings.apprise_config)
    return Reach(settings.directory, (url.get_secret_value() for url in settings.notify_urls), tags)
