"""What operators hear: plans that stand still, and messages that were set aside; what has one cause, together. Pure.

One service that is down may pause two hundred plans. Whoever is on call wants one message that says so.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from planmesh.gatekeeper.notice import defuse, time_of
from planmesh.gatekeeper.rounds import Reviews
from planmesh.schemas import events
from planmesh.schemas.events import Commit
from planmesh.schemas.subjects import Address

What: TypeAlias = Literal["paused", "rejected", "unknown", "failed", "overdue", "untold", "idle", "set_aside"]
"""What has happened: steps failed and the plan stands still; a gate was rejected and it does; nobody knows what became
of a step; the plan failed; nobody has decided in time; a channel could not be told of a gate; nobody runs
an agent that has work; or a message could not be handled."""

MOST_NAMED: Final = 5
_MOST_GROUPS: Final = 20
_WHY_CHARACTERS: Final = 300
_OLD_AFTER: Final = timedelta(days=1)
_ORDER: Final[tuple[What, ...]] = ("unknown", "paused", "failed", "rejected", "overdue", "untold", "idle", "set_aside")


class Happened(NamedTuple):
    """Something in the log that an operator may have to do something about.

    Attributes:
        notice: Which notice it is that did not arrive.
    """

    address: Address
    what: What
    step: str
    at: datetime
    notice: events.NoticeSent | None = None


class Aside(NamedTuple):
    """A message that was set aside."""

    service: str
    stream: str
    error: str


class Idle(NamedTuple):
    """An agent that nobody runs, and how many steps wait for it."""

    agent: str
    waiting: int


class Trouble(NamedTuple):
    """What is the case with a plan, still. Of a channel that could not be told, `code` is its name."""

    what: What
    address: Address
    step: str
    code: str
    why: str


class Group(Struct, frozen=True, kw_only=True):
    """What has one cause, as far as anybody can tell.

    Attributes:
        what: See `What`.
        count: How many plans, steps, or messages.
        step: The step that it is about, by name, or the agent; of what was set aside, who could not handle it.
        code: The failure's code; of what was set aside, the stream; of what was not told, the channel.
        why: What was said about the first of them.
        plans: The first few, as the command line takes them; `more` others are not named.
        commands: What can be done.
    """

    what: What
    count: int
    step: str
    code: str
    why: str
    plans: tuple[str, ...]
    more: int
    commands: tuple[str, ...]


class NewsFacts(Struct, frozen=True, kw_only=True):
    """What the template of operators' news is given. Every text is safe to be read, and bounded.

    Attributes:
        plans: How many plans there is news of.
        set_aside: How many messages were set aside.
        since: When the first of it happened; empty if that is not known.
        groups: The gravest first; `more_groups` further ones were left out.
    """

    kind: Literal["news"] = "news"
    plans: int
    set_aside: int
    since: str
    groups: tuple[Group, ...]
    more_groups: int


def happened(address: Address, commit: Commit) -> list[Happened]:
    """What *commit* says that operators may want to hear. Whoever pauses a plan knows it."""
    found: list[Happened] = []
    for event in commit.events:
        match event:
            case events.PlanPaused(held=False):
                found.append(Happened(address, "paused", "", commit.at))
            case events.PlanFailed():
                found.append(Happened(address, "failed", event.step, commit.at))
            case events.StepOutcomeUnknown():
                found.append(Happened(address, "unknown", event.step, commit.at))
            case events.GateOverdue():
                found.append(Happened(address, "overdue", event.step, commit.at))
            case events.NoticeSent(delivered=False):
                found.append(Happened(address, "untold", event.step, commit.at, event))
    return found


def troubles(one: Happened, reviews: Reviews, now: datetime) -> list[Trouble]:
    """What is still so of *one*: news that is late or repeated says nothing that is over."""
    match one.what:
        case "paused":
            if reviews.standstill is None:
                return []
            return [_stopped(one.address, step, reviews) for step in reviews.standstill.at_steps[:MOST_NAMED]]
        case "unknown" if one.step in reviews.unknown:
            return [Trouble("unknown", one.address, one.step, "", reviews.unknown[one.step])]
        case "failed" if reviews.failed is not None and now - one.at < _OLD_AFTER:
            return [Trouble("failed", one.address, one.step, _code(reviews, one.step), reviews.failed.reason)]
        case "overdue":
            asked = reviews.rounds.get(one.step)
            if asked is not None and asked.overdue and asked.ending is None:
                return [Trouble("overdue", one.address, one.step, "", "")]
        case "untold" if one.notice is not None:
            # While it asks: nobody has to be told any more of what is decided.
            asked = reviews.rounds.get(one.step)
            if asked is not None and asked.ending is None and asked.opened.round == one.notice.round:
                return [Trouble("untold", one.address, one.step, one.notice.channel, one.notice.detail)]
    return []


def _stopped(address: Address, step: str, reviews: Reviews) -> Trouble:
    if step in reviews.unknown:
        return Trouble("unknown", address, step, "", reviews.unknown[step])
    if reviews.gate(step) is not None:
        asked = reviews.rounds.get(step)
        ending = asked.ending if asked is not None else None
        return Trouble("rejected", address, step, "", "" if ending is None else ending.reason)
    failure = reviews.failures.get(step)
    why = failure.message if failure is not None else "" if reviews.standstill is None else reviews.standstill.reason
    return Trouble("paused", address, step, _code(reviews, step), why)


def _code(reviews: Reviews, step: str) -> str:
    failure = reviews.failures.get(step)
    return failure.code if failure is not None else ""


def tell(
    found: Iterable[Trouble],
    aside: Iterable[Aside],
    since: datetime | None,
    *,
    idle: Iterable[Idle] = (),
    with_outputs: bool = True,
) -> NewsFacts | None:
    """Put together what has one cause. None: there is nothing to tell.

    Args:
        with_outputs: Whether what agents said of their failures may leave.
    """
    alike: dict[tuple[str, ...], dict[Address, Trouble]] = {}
    for trouble in found:
        step = "" if trouble.what == "untold" else trouble.step
        alike.setdefault((trouble.what, step, trouble.code), {}).setdefault(trouble.address, trouble)
    kept: dict[tuple[str, str], list[Aside]] = {}
    for one in aside:
        kept.setdefault((one.service, one.stream), []).append(one)
    waiting = {one.agent: one.waiting for one in idle}
    groups = [
        *(_group(plans, with_outputs) for plans in alike.values()),
        *(_idle(agent, count) for agent, count in waiting.items()),
        *map(_set_aside, kept.values()),
    ]
    if not groups:
        return None
    groups.sort(key=lambda group: (_ORDER.index(group.what), -group.count))
    return NewsFacts(
        plans=len({address for plans in alike.values() for address in plans}),
        set_aside=sum(map(len, kept.values())),
        since="" if since is None else time_of(since),
        groups=tuple(groups[:_MOST_GROUPS]),
        more_groups=max(len(groups) - _MOST_GROUPS, 0),
    )


def _group(plans: Mapping[Address, Trouble], with_outputs: bool) -> Group:
    first = next(iter(plans.values()))
    said_by_agents = first.what in ("paused", "unknown", "failed")
    return Group(
        what=first.what,
        count=len(plans),
        step=defuse(first.step, 63),
        code=defuse(first.code, 100),
        why=defuse(first.why, _WHY_CHARACTERS, 5) if with_outputs or not said_by_agents else "",
        plans=tuple(map(str, list(plans)[:MOST_NAMED])),
        more=max(len(plans) - MOST_NAMED, 0),
        commands=_commands(first, len(plans)),
    )


def _commands(first: Trouble, count: int) -> tuple[str, ...]:
    """What would work, as the command line takes it. Names of steps and addresses are tokens."""
    address, step = first.address, first.step
    show = f"planmesh show {address}"
    match first.what:
        case "paused" | "rejected" if count > 1:
            return show, f"planmesh retry --where status=paused,step={step} --preview"
        case "paused" | "rejected":
            return show, f"planmesh retry {address} {step}"
        case "unknown":
            return show, f"planmesh resolve {address} {step} --done", f"planmesh resolve {address} {step} --not-done"
        case "overdue" | "untold":
            return (f"planmesh gates show {address} {step}",) if count == 1 else ("planmesh gates list",)
        case _:
            return (show,)


def _idle(agent: str, waiting: int) -> Group:
    return Group(
        what="idle",
        count=waiting,
        step=defuse(agent, 63),
        code="",
        why="",
        plans=(),
        more=0,
        commands=("planmesh doctor", "planmesh up --agents MODULE"),
    )


def _set_aside(messages: list[Aside]) -> Group:
    first = messages[0]
    return Group(
        what="set_aside",
        count=len(messages),
        step=defuse(first.service, 63),
        code=defuse(first.stream, 63),
        why=defuse(first.error, _WHY_CHARACTERS, 5),
        plans=(),
        more=0,
        commands=("planmesh poison list",),
    )
