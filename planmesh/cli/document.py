"""A plan in a file: its text, values for its inputs, what is wrong with it and where; and `validate`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.text import Text

from planmesh.agents import find
from planmesh.cli import COMPLETED
from planmesh.cli.forms import as_rows
from planmesh.cli.session import NotUnderstood, OfSession, Session
from planmesh.cli.text import counted, defuse, one_line, paragraph
from planmesh.errors import PlanmeshError
from planmesh.places import Spot, locate
from planmesh.planner.advice import advise
from planmesh.planner.compile import Compiled, compile_plan
from planmesh.planner.document import Limits, Unreadable, read_document
from planmesh.planner.language.recognise import SUFFIX, Script
from planmesh.planner.language.source import Source, excerpt
from planmesh.planner.problems import Problems
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import MAX_PLAN_BYTES, Each, Plan, Task

STANDARD_INPUT: Final = Path("-")


def read(file: Path) -> str:
    """The text of a plan document or a script; ``-`` is standard input. Raises: NotUnderstood."""
    try:
        data = sys.stdin.buffer.read(MAX_PLAN_BYTES + 1) if file == STANDARD_INPUT else _bytes(file)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUnderstood(f"{file} is not text in UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise NotUnderstood(f"cannot read the plan document {file}: {error.strerror or error}") from None


def _bytes(file: Path) -> bytes:
    with file.open("rb") as opened:
        # One more than there may be: who judges it sees that it is too large.
        return opened.read(MAX_PLAN_BYTES + 1)


def values(text: str, pairs: Iterable[str]) -> dict[str, Any]:
    """What ``--input name=value`` gives, by name: text where the document says so, otherwise JSON if it is JSON.

    Raises:
        NotUnderstood: One has no ``=``, or a name comes twice.
    """
    return values_of(_types(text), pairs)


def values_of(types: Mapping[str, str], pairs: Iterable[str]) -> dict[str, Any]:
    """The same, where it is known of which type the inputs are. Raises: NotUnderstood."""
    given = pairs_of(pairs, "--input")
    texts = ("text", "date", "timestamp")
    return {name: said if types.get(name) in texts else _value(said) for name, said in given.items()}


def pairs_of(pairs: Iterable[str], option: str) -> dict[str, str]:
    """What *option* gives as NAME=VALUE. Raises: NotUnderstood."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, said = pair.partition("=")
        if not equals or not name:
            raise NotUnderstood(f"{option} takes NAME=VALUE, not {pair[:80]!a}")
        if name in found:
            raise NotUnderstood(f"{option} {name[:80]} is given twice")
        found[name] = said
    return found


def _value(said: str) -> Any:
    try:
        return codec.value.decode(said.encode())
    except (DecodeError, UnicodeEncodeError):
        return said


def _types(text: str) -> dict[str, str]:
    try:
        document = read_document(text, Problems())
    except Unreadable:
        return {}  # whoever checks it says what is wrong
    declared = document.get("inputs")
    if not isinstance(declared, dict):
        return {}
    return {name: str(one.get("type", "any")) for name, one in declared.items() if isinstance(one, dict)}


# --- problems ----------------------------------------------------------------------------------------------


_ENDLESS: Final = 10_000  # the width of what is no terminal: whoever reads it cuts lines as they like


def told(
    problems: Sequence[Problem],
    file: Path,
    text: str,
    *,
    sign: str = "✗",
    style: str = "red",
    width: int = _ENDLESS,
) -> list[Text]:
    """Everything that is wrong with a document: where, what, and what to do. Of a script, with the line itself."""
    source = Source(text)
    spots = locate(text, {problem.pointer for problem in problems if not problem.line})
    lines = []
    for problem in problems:
        where = str(file)
        # Without a pointer it is about the document as a whole, or about the goal.
        spot = spots.get(problem.pointer) if problem.pointer else None
        if problem.line:
            spot = Spot(problem.line, problem.column)
        if spot is not None:
            where += f":{spot.line}:{spot.column}"
        head = Text().append(f"{one_line(where)}  ", "bold")
        # Whoever wrote a script has never seen the document that the pointer leads into.
        pointer = "" if problem.line else problem.pointer
        head.append(f"{one_line(pointer)}  " if pointer else "", "cyan").append(problem.code, "dim")
        lines.append(head)
        message = paragraph(one_line(problem.message), width, "    ")
        message[0] = Text(f"  {sign} ", style).append(message[0].plain[4:], "not dim")
        lines += message
        if problem.line:
            shown, caret = excerpt(source.line(problem.line), problem.column)
            lines += [Text("      ").append(defuse(shown)), Text("      ").append(caret, style)]
        if problem.hint:
            lines += paragraph(one_line(problem.hint), width, "    ", "dim")
    return lines


# --- verbs -------------------------------------------------------------------------------------------------


class NoPlan(PlanmeshError):
    """A document is no plan; what is wrong with it has been said."""


def checked(
    session: Session, file: Path, agents: Sequence[str] = (), pairs: Iterable[str] = (), *, with_advice: bool = False
) -> Plan:
    """The plan in a file, completed.

    Args:
        agents: Modules with agents; with none, whoever is named exists.
        pairs: Values for inputs, as NAME=VALUE; with none, they are not checked.
        with_advice: Whether to say what could be better.

    Raises:
        NotUnderstood: The file cannot be read.
        NoPlan: It holds no plan.
        Unusable: The agents cannot be loaded.
    """
    text = read(file)
    # A script may begin with a line that nobody could take for one.
    document = Script(text) if file.suffix == SUFFIX else text
    compiled = _compile(session, document, agents, list(pairs))
    if with_advice:
        advice = told(advise(document), file, text, sign="!", style="yellow", width=session.out.width)
        session.say(*advice, to=session.out if session.output == "table" else session.err)
    if isinstance(compiled, Compiled):
        return compiled.plan
    if session.output == "table":
        session.say(*told(compiled, file, text, width=session.out.width))
    else:
        print(*as_rows(compiled, session.output), sep="\n")
    raise NoPlan(f"{file} is not a plan that can run: {counted(len(compiled), 'problem')}")


def _compile(session: Session, text: str, agents: Sequence[str], pairs: list[str]) -> Compiled | list[Problem]:
    known = None
    if agents:
        sys.path.insert(0, "")  # the modules of agents are looked for where the command was typed
        known = {name: agent.description for name, agent in find(agents).items()}
    given = values(text, pairs) if pairs else None
    limits = Limits(may_allow_harm=session.settings.planner.may_allow_harm, models=session.settings.model.choices)
    return compile_plan(text, known, given, limits=limits, directory=session.settings.directory)


def validate(
    file: Annotated[
        Path,
        Parameter(
            allow_leading_hyphen=True, help="A script, or a plan document in YAML or JSON; - for standard input."
        ),
    ],
    /,
    *,
    agents: Annotated[
        tuple[str, ...], Parameter(negative=(), help="A Python module with agents, to check them too; may be repeated.")
    ] = (),
    input: Annotated[
        tuple[str, ...],
        Parameter(name="--input", negative=(), help="A value for an input, to check it too: NAME=VALUE."),
    ] = (),
    session: OfSession,
) -> int:
    """Check a plan document, without a mesh: everything that is wrong, with its place.

    Exit code: 0 it is a plan that can run; 1 it is not.
    """
    plan = checked(session, file, agents, input, with_advice=True)
    if session.output != "table":
        print(*as_rows([], session.output), sep="\n")
        return COMPLETED
    bodies = (inner for step in plan.steps if isinstance(step, Each) for inner in step.steps)
    names = sorted({step.agent for step in (*plan.steps, *bodies) if isinstance(step, Task)})
    line = Text().append("✓ ", "green").append(f"{file} is a plan: ").append(one_line(plan.name), "bold")
    session.say(line.append(f", {counted(len(plan.steps), 'step')}"))
    if names:
        checked_too = "" if agents else "; whether they exist was not checked (--agents MODULE)"
        session.say(Text(f"  It needs {counted(len(names), 'agent')}: {', '.join(names)}{checked_too}", style="dim"))
    return COMPLETED
