"""The verb that shows what planmesh is: a real plan, with a gate, in a mesh of its own."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, history
from planmesh.cli.follow import Ask, at_the_terminal, exit_code, went_wrong
from planmesh.cli.history import Entry, entries
from planmesh.cli.run import Given, followed, leave, private_mesh, publish, refused
from planmesh.cli.session import NotUnderstood, OfSession, Session, now
from planmesh.cli.standing import SHORT_DIGEST
from planmesh.cli.text import duration, paragraph
from planmesh.operator import Operator
from planmesh.schemas.commands import CastVote
from planmesh.schemas.goals import Refused
from planmesh.schemas.queries import GateRow
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address
from planmesh.steering import new_command_id

AGENTS: Final = "planmesh.demo.agents"
_PLAN: Final = "audit.yaml"
_INTRODUCTION: Final = (
    "A plan is a graph of named steps, with a log, a state machine and gates for people. This one audits the Python "
    "environment that it runs in: what is installed, under which licences, how large it is, and whether it fits "
    "together. Nothing is published before somebody has read the report. It needs no network and no keys."
)


async def demo(
    *,
    path: Annotated[Path, Parameter(help="The Markdown file to publish to.")] = Path("dependency-audit.md"),
    session: OfSession,
) -> int:
    """See a real plan run, from start to end, in a few seconds: an audit of the Python environment that you are in.

    It brings up a mesh for itself: a NATS server and all services, on this machine. On a terminal you are asked to
    approve the report before it is published; otherwise the demo approves it as the reviewer, and says so. With
    --data-dir, the mesh keeps its files there, and `planmesh up --data-dir` brings it up again.
    """
    target = _target(path)
    document = resources.files("planmesh.demo").joinpath(_PLAN).read_text("utf-8")
    screen = session.progress
    session.say("", *paragraph(_INTRODUCTION, min(screen.width, 100), "  "), "", to=screen)
    begun = now()
    async with private_mesh(session, (AGENTS,)) as own:
        took = duration((now() - begun).total_seconds())
        assert own.private is not None  # it has just been brought up
        running = ", ".join(("nats-server", *sorted(own.private.children)))
        session.say(*paragraph(f"A mesh is up after {took}: {running}.", min(screen.width, 100), "  "), to=screen)
        async with own.operator() as operator:
            given = Given(Path(_PLAN), document)
            address, news = await publish(own, given, {"path": str(target)}, operator=operator)
            if isinstance(news, Refused):
                return refused(own, news, given)
            ask = at_the_terminal(own, elsewhere=True) if session.asks else _as_the_reviewer(own)
            state = await followed(own, operator, address, stop=went_wrong, ask=ask)
            leave(own, state)
            code = await exit_code(operator, state)
            if session.output == "table":
                session.say(Text("  Its log", style="bold"), "")
                session.say(
                    *(Text("  ").append_text(line) for line in history.table(await _log(operator, address), now()))
                )
                session.say("", *_farewell(target, code), "")
    return code


def _target(path: Path) -> Path:
    target = path.absolute()
    if target.suffix != ".md" or not target.parent.is_dir():
        raise NotUnderstood(f"--path takes a file whose name ends in .md, in a directory that exists; found {path}")
    return target


def _as_the_reviewer(session: Session) -> Ask:
    """Nobody can be asked, so the demo itself decides, as anybody else would: by a command."""

    async def ask(operator: Operator, state: PlanState, gate: GateRow) -> CastVote:
        digest = gate.digest[:SHORT_DIGEST]
        command = f"{session.command} gates approve {gate.plan} {gate.step} --digest {digest}"
        session.say(
            "",
            "  Nobody is at a terminal to be asked. The demo answers as the reviewer, by the ordinary command:",
            Text().append("    ").append(command, "cyan"),
            "",
            to=session.progress,
        )
        return CastVote(
            id=new_command_id(),
            step=gate.step,
            digest=gate.digest,
            decision="approve",
            reason="the demo approves, as nobody can be asked",
        )

    return ask


async def _log(operator: Operator, address: Address) -> list[Entry]:
    agents: dict[str, str] = {}
    return [entry async for line in operator.lines(address) for entry in entries(line.commit, agents)]


def _farewell(target: Path, code: int) -> list[Text]:
    if code != COMPLETED:
        return [Text("  The report was not published.")]
    return [
        Text().append("  The report is in ").append(str(target), "bold"),
        Text(),
        Text("  Next", style="bold"),
        Text().append("    planmesh up", "cyan").append("                          a mesh that stays", "dim"),
        Text().append("    planmesh run PLAN.yaml --input k=v", "cyan").append("   a plan of your own", "dim"),
        Text().append("    planmesh --help", "cyan"),
    ]
