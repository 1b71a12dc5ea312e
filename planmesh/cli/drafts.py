"""The verb that lets a model make a plan of words, and shows it before anything runs."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, document, graph, render
from planmesh.cli.follow import at_the_terminal, exit_code, how_to_answer, read_line, stands_still, went_wrong
from planmesh.cli.forms import as_one
from planmesh.cli.render import author, columns
from planmesh.cli.review import allowed
from planmesh.cli.run import Given, GoalId, Inputs, Wait, followed, leave, publish
from planmesh.cli.session import NotUnderstood, OfSession, Session, busy
from planmesh.cli.text import counted, listed, one_line, paragraph, value, whole
from planmesh.cli.view import of_state
from planmesh.operator import Operator
from planmesh.schemas.commands import CreatePlan, StartPlan
from planmesh.schemas.goals import Goal, Origin, Problem, Refused
from planmesh.schemas.plan import Gate, Permissions, Plan, Task
from planmesh.schemas.state import ENDED, PlanState, PlanStatus
from planmesh.steering import new_command_id

_MODEL_S: Final = 900.0
_PROBLEMS: Final = 3


async def plan(
    goal: Annotated[str, Parameter(help="What is wanted, in words; quote it.")],
    /,
    *,
    input: Inputs = (),
    policy: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="What the plan's policy says, as NAME=VALUE: such as revisions=hold."),
    ] = (),
    dry_run: Annotated[bool, Parameter(negative=(), help="Only show the plan: nothing is stored.")] = False,
    start: Annotated[bool, Parameter(negative=(), help="Start it without asking.")] = False,
    id: GoalId = None,
    wait: Wait = True,
    session: OfSession,
) -> int:
    """Let a model make a plan of a goal in words, and look at it before anything runs.

    On a terminal it asks whether to start the plan, and watches it. Otherwise the plan stays a draft, unless --start
    is given.

    Exit code: 0 there is a plan, and if it was started: it completed; 1 there is none, or it failed; 3 a person has to
    decide (with --no-wait).
    """
    if dry_run and (start or id is not None):
        raise NotUnderstood("--dry-run stores nothing: leave --start and --id out")
    if not goal.strip():
        raise NotUnderstood('say what is wanted, in words: planmesh plan "…"')
    values = document.values_of({}, input)
    stated = document.pairs_of(policy, "--policy") if policy else None
    async with session.operator() as operator:
        if dry_run:
            return await _look(session, operator, Goal(goal=goal, inputs=values, policy=stated))
        with busy(session, "The planner lets a model make a plan …"):
            about: dict[str, Any] = {"goal": goal, "policy": stated, "id": id, "start": False}
            address, news = await publish(session, Given(), values, **about, operator=operator, patience_s=_MODEL_S)
        state = await operator.state(address)
        if isinstance(news, Refused):
            return _refused(session, news, state)
        if session.output == "table":
            _show(session, state.plan, None if state.created is None else state.created.origin)
        if state.status is PlanStatus.DRAFT and (start or await _wanted(session)):
            started = StartPlan(id=new_command_id())
            await operator.command(address, started)
        elif state.status is PlanStatus.DRAFT or state.status in ENDED:
            return _left(session, state)
        asking = at_the_terminal if session.asks else how_to_answer
        ask, stop = (asking(session), went_wrong) if wait else (None, stands_still)
        state = await followed(session, operator, address, stop=stop, ask=ask)
        leave(session, state)
        return await exit_code(operator, state)


async def _look(session: Session, operator: Operator, goal: Goal) -> int:
    with busy(session, "The planner lets a model make a plan …"):
        answer = await operator.draft(goal, timeout_s=_MODEL_S)
    if session.output != "table":
        print(as_one(answer, session.output))
        return COMPLETED if isinstance(answer, CreatePlan) else FAILED
    if not isinstance(answer, CreatePlan):
        session.say(*_why_not(answer.problems, answer.origin, session.err.width), to=session.err)
        return FAILED
    _show(session, answer.plan, answer.origin)
    session.say(Text("  Nothing was stored: this is a dry run. A model may write another plan the next time.", "dim"))
    return COMPLETED


def _refused(session: Session, news: Refused, state: PlanState) -> int:
    if session.output != "table":
        print(as_one(news, session.output))
    origin = state.refused.origin if state.refused is not None else None
    session.say(*_why_not(news.problems, origin, session.err.width), to=session.err)
    return FAILED


def _why_not(problems: Sequence[Problem], origin: Origin | None, width: int) -> list[Text]:
    lines = [Text(f"planmesh: there is no plan: {counted(len(problems), 'problem')}", style="red")]
    lines += _told(problems, "  ", width)
    drafts = origin.tries[:-1] if origin is not None else ()
    for number, draft in enumerate(drafts, 1):
        lines.append(Text(f"  Draft {number} was no better:", style="dim"))
        lines += _told(draft.problems[:_PROBLEMS], "    ", width)
    if origin is not None and origin.tries:
        lines.append(Text(f"  {one_line(author(origin))}", style="dim"))
    return lines


def _told(problems: Sequence[Problem], indent: str, width: int) -> list[Text]:
    lines = []
    for problem in problems:
        where = f"{one_line(problem.pointer)}  " if problem.pointer else ""
        message = paragraph(where + one_line(problem.message), width, f"{indent}  ")
        message[0] = Text(indent).append("✗ ", "red").append(message[0].plain[len(indent) + 2 :])
        lines += message
        if problem.hint:
            lines += paragraph(one_line(problem.hint), width, f"{indent}  ", "dim")
    return lines


def _left(session: Session, state: PlanState) -> int:
    if session.output != "table":
        print(as_one(of_state(state), session.output))
        return COMPLETED
    if state.status in ENDED:
        session.say(Text(f"  This goal was a plan already: it is {state.status}.", style="dim"))
        return COMPLETED
    plan = state.address.plan
    session.say(Text("  It is a draft: nothing runs. What you can do:", style="dim"))
    for verb in ("start", "cancel"):
        session.say(whole(Text("    ").append(f"{session.command} {verb} {plan}", "cyan")))
    return COMPLETED


async def _wanted(session: Session) -> bool:
    if not session.asks or session.output != "table":
        return False
    while True:
        said = await read_line("  Start it? [y/N] ")
        if said is None or said.lower() in ("", "n", "no"):
            return False
        if said.lower() in ("y", "yes"):
            return True


# --- how it looks ------------------------------------------------------------------------------------------


def _show(session: Session, plan: Plan, origin: Origin | None) -> None:
    session.say(Text(), *graph.tree(plan, {}), Text(), *_steps(plan), Text())
    gates = [step.name for step in plan.steps if isinstance(step, Gate)]
    if gates:
        session.say(Text(f"  A person decides at {listed(gates)}.", style="magenta"))
    session.say(*render.policy(plan, session.out.width))
    if origin is not None:
        session.say(Text(f"  {one_line(author(origin))}", style="dim"))
    session.say(Text())


def _steps(plan: Plan) -> list[Text]:
    """What each task may do, and what it is given."""
    rows: list[list[Text | str]] = []
    for step in plan.steps:
        if isinstance(step, Task):
            given = ", ".join(f"{name} = {value(what, 60)}" for name, what in step.inputs.items())
            permissions = step.permissions or Permissions()
            may = allowed(permissions) if permissions != Permissions() else Text("-", "dim")
            rows.append([f"  {step.name}", may, one_line(given, 200)])
    return columns(("  STEP", "MAY", "IS GIVEN"), rows) if rows else []
