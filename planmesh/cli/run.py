"""Verbs that put a plan to work, and follow it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, document, render
from planmesh.cli.feed import feed
from planmesh.cli.follow import Ask, Stop, at_the_terminal, exit_code, follow, how_to_answer, stands_still, went_wrong
from planmesh.cli.forms import as_one
from planmesh.cli.session import NotUnderstood, OfSession, Session, busy, now
from planmesh.cli.standing import account
from planmesh.cli.steer import PlanId
from planmesh.cli.text import counted
from planmesh.cli.view import PlanView, of_state
from planmesh.client import Submitted
from planmesh.errors import Busy
from planmesh.operator import Operator
from planmesh.schemas.goals import Accepted, Outcome, Refused
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address

NEWS_S: Final = 15.0
_LINES_BESIDE_TREE = 12

File = Annotated[
    Path,
    Parameter(allow_leading_hyphen=True, help="A script, or a plan document in YAML or JSON; - for standard input."),
]
Inputs = Annotated[
    tuple[str, ...], Parameter(name="--input", negative=(), help="A value for an input of the plan, as NAME=VALUE.")
]
GoalId = Annotated[str | None, Parameter(name="--id", help="The plan's id: the same goal twice is one plan.")]
GoalText = Annotated[str, Parameter(help="What it is for, in words.")]
TemplateName = Annotated[
    str | None, Parameter(name="--template", help="Instead of a file: the name of a plan that the mesh keeps.")
]
Wait = Annotated[bool, Parameter(help="With --no-wait, stop once a person has to decide: exit code 3.")]


async def run(
    file: File | None = None,
    /,
    *,
    input: Inputs = (),
    template: TemplateName = None,
    id: GoalId = None,
    goal: GoalText = "",
    wait: Wait = True,
    local: Annotated[bool, Parameter(negative=(), help="In a private mesh, which ends with the plan.")] = False,
    agents: Annotated[
        tuple[str, ...], Parameter(negative=(), help="A Python module with agents, for --local; may be repeated.")
    ] = (),
    session: OfSession,
) -> int:
    """Submit a plan, and watch it until it ends.

    On a terminal, gates are put to you as they open; otherwise it says how to answer them.

    Exit code: 0 completed; 1 failed, refused, cancelled, or paused by a failure; 3 a person has to decide (with
    --no-wait).
    """
    if agents and not local:
        raise NotUnderstood("--agents is for --local: a mesh that is up already has its own (`planmesh up --agents …`)")
    given = _given(file, template)
    async with contextlib.AsyncExitStack() as stack:
        if local:
            session = await stack.enter_async_context(private_mesh(session, agents))
        operator = await stack.enter_async_context(session.operator())
        values = await _values(given, input, operator)
        address, news = await publish(session, given, values, goal=goal, id=id, operator=operator)
        if isinstance(news, Refused):
            return refused(session, news, given)
        asking = at_the_terminal if session.asks else how_to_answer
        ask, stop = (asking(session), went_wrong) if wait else (None, stands_still)
        state = await followed(session, operator, address, stop=stop, ask=ask)
        leave(session, state)
        return await exit_code(operator, state)


async def submit(
    file: File | None = None,
    /,
    *,
    input: Inputs = (),
    template: TemplateName = None,
    id: GoalId = None,
    goal: GoalText = "",
    draft: Annotated[bool, Parameter(negative=(), help="Do not start it: someone does, by `planmesh start`.")] = False,
    session: OfSession,
) -> int:
    """Submit a plan, and leave it running. Prints its id.

    Exit code: 0 accepted; 1 refused.
    """
    given = _given(file, template)
    async with contextlib.AsyncExitStack() as stack:
        # What a template takes, its planner says; that of a file is in the file.
        operator = None if given.template is None else await stack.enter_async_context(session.operator())
        values = await _values(given, input, operator)
    address, news = await publish(session, given, values, goal=goal, id=id, start=not draft)
    if isinstance(news, Refused):
        return refused(session, news, given)
    if session.output != "table":
        print(as_one(news, session.output))
        return COMPLETED
    session.say(address.plan)
    if session.out.is_terminal:
        verb = "start" if draft else "watch"
        steps = counted(news.steps, "step") if isinstance(news, Accepted) else "it was known already"
        session.say(
            Text().append(f"  {steps}; go on with  ", "dim").append(f"{session.command} {verb} {address.plan}", "cyan")
        )
    return COMPLETED


async def watch(plan: PlanId, /, *, wait: Wait = True, session: OfSession) -> int:
    """Watch a plan until it ends. With -o jsonl, print each line of its log as it comes.

    Exit code: 0 completed; 1 failed, refused, cancelled, or (with --no-wait) paused by a failure; 3 a person has to
    decide (with --no-wait).
    """
    async with session.operator() as operator:
        address = await operator.find(plan)
        state = await followed(session, operator, address, stop=_never if wait else stands_still, ask=None)
        leave(session, state)
        return await exit_code(operator, state)


async def _never(operator: Operator, state: PlanState) -> bool:
    return False


class Given(NamedTuple):
    """What is wanted: a plan in a file, or one that the mesh keeps; or neither, but words."""

    file: Path | None = None
    text: str | None = None
    template: str | None = None


def _given(file: Path | None, template: str | None) -> Given:
    if (file is None) == (template is None):
        raise NotUnderstood("say which plan: a file, or --template NAME (`planmesh templates list`)")
    return Given(template=template) if file is None else Given(file, document.read(file))


async def _values(given: Given, pairs: tuple[str, ...], operator: Operator | None) -> dict[str, Any]:
    if given.text is not None:
        return document.values(given.text, pairs)
    assert operator is not None  # see `submit`
    assert given.template is not None
    if not pairs:
        return {}
    found = await operator.template(given.template)
    types = {name: one.type for name, one in found.plan.inputs.items()} if found.plan is not None else {}
    return document.values_of(types, pairs)


# --- the parts ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def private_mesh(session: Session, agents: tuple[str, ...]) -> AsyncIterator[Session]:
    """A mesh for this call alone; see `Session.local`."""
    async with contextlib.AsyncExitStack() as stack:
        with busy(session, "Bringing up a private mesh …"):
            own = await stack.enter_async_context(session.local(agents))
        yield own


async def publish(
    session: Session,
    given: Given,
    values: Mapping[str, Any],
    *,
    goal: str = "",
    policy: Mapping[str, Any] | None = None,
    id: str | None = None,
    start: bool = True,
    operator: Operator | None = None,
    patience_s: float = NEWS_S,
) -> tuple[Address, Outcome | None]:
    """Submit a goal, and wait for what is heard first of it.

    Args:
        operator: Looks into the log: a goal that is a plan already brings no news.
        patience_s: How long to wait for it.

    Returns:
        Where the plan is, and the news; None of one that was a plan already.

    Raises:
        Busy: Nothing is heard: no planner runs, or no executor.
    """
    async with session.client() as client:
        submitted = await client.submit(
            given.text, goal=goal, template=given.template, inputs=values, policy=policy, id=id, start=start
        )
        return submitted.address, await _first_news(submitted, operator, patience_s)


async def _first_news(submitted: Submitted, operator: Operator | None, patience_s: float) -> Outcome | None:
    news: asyncio.Task[Outcome] = asyncio.ensure_future(anext(aiter(submitted.outcomes())))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        while loop.time() - begun < patience_s:
            done, _ = await asyncio.wait((news,), timeout=1.0)
            if done:
                return news.result()
            if operator is not None and (await operator.state(submitted.address)).document is not None:
                return None  # of one that was refused before, there is news to come
    finally:
        news.cancel()
    raise Busy(
        f"goal {submitted.address} is stored, but nothing has become of it within {patience_s:g} s: is a planner "
        "running, and an executor? (`planmesh doctor`) If it was submitted before, it is a plan already (`planmesh "
        "show`)"
    )


def refused(session: Session, news: Refused, given: Given) -> int:
    """Say what is wrong with a goal."""
    if session.output != "table":
        print(as_one(news, session.output))
    count = counted(len(news.problems), "problem")
    session.say(Text(f"planmesh: {news.goal} was refused: {count}", style="red"), to=session.err)
    place = given.file or Path(f"template {given.template}" if given.template else "the goal")
    session.say(*document.told(news.problems, place, given.text or "", width=session.err.width), to=session.err)
    return FAILED


async def followed(session: Session, operator: Operator, address: Address, *, stop: Stop, ask: Ask | None) -> PlanState:
    """Tell what happens to a plan until it ends, or *stop* holds; see `follow`."""
    try:
        async with feed(session, asks=ask is not None) as telling:
            return await follow(session, operator, address, telling, stop=stop, ask=ask)
    except asyncio.CancelledError:
        if session.private is None:
            watch = f"{session.command} watch {address.plan}"
            session.say(
                Text().append("  The plan goes on. To watch it again:  ", "dim").append(watch, "cyan"), to=session.err
            )
        raise


def leave(session: Session, state: PlanState) -> None:
    """Show how a plan was left: as a whole, with what it gave, or what can be done."""
    view = of_state(state)
    if session.output == "jsonl":
        return  # its last line says so
    if session.output != "table":
        print(as_one(view, session.output))
        return
    most = max(session.out.height - _LINES_BESIDE_TREE, 20) if session.out.is_terminal else None
    session.say(*whole(view, session, most))


def whole(view: PlanView, session: Session, most: int | None = None, unserved: Collection[str] = ()) -> list[Text]:
    """A plan from its header to what can be done about it. *unserved*: agents that nobody runs."""
    at = now()
    lines = [Text(), *render.header(view, at), Text()]
    if view.document is not None:
        lines += [*render.steps(view, render.places(view.document), at, most=most), *render.taken_out(view), Text()]
    lines += [Text().append("  ✗ ", "red").append(problem.message) for problem in view.problems]
    ending = account(view, at, session.out.width, None if session.passing else session.command, unserved)
    if ending and session.passing:
        ending.append(
            Text("  Its private mesh has ended: nothing more can be done. `planmesh up` runs one that stays.")
        )
    ending = ending or render.result(view)
    return [*lines, *ending, *([Text()] if ending else [])]
