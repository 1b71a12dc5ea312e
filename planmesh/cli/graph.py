"""The verb that draws a plan: as a tree of text, or as a Mermaid flowchart for documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, document, render
from planmesh.cli.forms import as_one
from planmesh.cli.looks import STEP
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.cli.text import listed, one_line, plain
from planmesh.cli.tree import reduced
from planmesh.errors import PlanmeshError
from planmesh.schemas.plan import Ask, Check, Decide, Emit, Gate, Plan, Step, Task
from planmesh.schemas.state import StepStatus

_SUFFIXES: Final = (".plan", ".yaml", ".yml", ".json")


async def graph(
    plan: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True, help="A file with a plan document, - for standard input, or the id of a plan."
        ),
    ],
    /,
    *,
    format: Annotated[Literal["text", "mermaid"], Parameter(help="A tree, or a Mermaid flowchart.")] = "text",
    session: OfSession,
) -> int:
    """Draw a plan, from a file or of the mesh. A plan of the mesh shows how its steps stand."""
    statuses: dict[str, StepStatus] = {}
    if _is_file(plan):
        drawn = document.checked(session, Path(plan))
    else:
        async with session.operator() as operator:
            address = await operator.find(plan)
            state = await operator.state(address)
        if state.document is None:
            raise PlanmeshError(f"{address} has no plan: it is {state.status}")
        drawn = state.document
        statuses = {name: step.status for name, step in state.steps.items()}
    if session.output != "table":
        if format != "text":
            raise NotUnderstood("--format is a form by itself: leave --output out")
        print(as_one(drawn, session.output))
    elif format == "mermaid":
        print(mermaid(drawn, statuses))
    else:
        session.say(Text(), *tree(drawn, statuses), Text())
    return COMPLETED


def _is_file(said: str) -> bool:
    return said == "-" or Path(said).suffix in _SUFFIXES or Path(said).is_file()


def tree(plan: Plan, statuses: Mapping[str, StepStatus]) -> list[Text]:
    """One line a step: its name, what it is, and what it needs."""
    places = render.places(plan)
    steps = {step.name: step for step in plan.steps}
    cells = max(len(place.rails) + len(place.name) for place in places)
    about = {name: _about(step) for name, step in steps.items()}
    wide = max(text.cell_len for text in about.values())
    lines = [Text("  ").append(one_line(plan.name), "bold"), Text()]
    for place in places:
        step = steps[place.name]
        look = STEP[statuses.get(place.name, StepStatus.PENDING)]
        line = Text("  ").append(place.rails, "dim").append(f"{look.sign} " if statuses else "", look.style)
        line.append(place.name.ljust(cells - len(place.rails) + 2)).append_text(about[place.name])
        if step.after:
            line.append(" " * (wide - about[place.name].cell_len + 2)).append(f"after {listed(step.after)}", "dim")
        lines.append(line)
    return lines


def _about(step: Step) -> Text:
    match step:
        case Task():
            about = Text(step.agent)
        case Gate():
            about = Text(f"gate for {listed(step.reviewers)}", style="magenta")
        case Ask():
            about = Text(f"asks {listed(step.reviewers) if step.reviewers else 'whoever may answer'}", style="magenta")
        case Check():
            about = Text(f"check {one_line(step.condition, 60)}")
        case Decide():
            about = Text(f"decide {' | '.join(one_line(label, 30) for label in step.labels)}")
        case Emit():
            about = Text(f"→ {one_line(step.outcome, 60)}")
    if step.branch is not None:
        about.append(f"  if {step.branch.step} says {one_line(step.branch.label, 60)}", "cyan")
    return about.append("  optional", "dim") if step.optional else about


_SHAPES: Final = {
    Gate: ("{{", "}}"),
    Ask: ("[/", "/]"),
    Check: ("{", "}"),
    Decide: ("{", "}"),
    Emit: ("([", "])"),
    Task: ("[", "]"),
}
_CLASSES: Final[Mapping[str, str]] = {
    StepStatus.COMPLETED: "fill:#d7f0dd,stroke:#2e7d46",
    StepStatus.DISPATCHED: "fill:#dbe9ff,stroke:#2b62b8",
    StepStatus.WAITING: "fill:#f3e0f7,stroke:#8e3aa6",
    StepStatus.FAILED: "fill:#fbdcdc,stroke:#b3261e",
    StepStatus.REJECTED: "fill:#fbdcdc,stroke:#b3261e",
    StepStatus.OUTCOME_UNKNOWN: "fill:#fbdcdc,stroke:#b3261e",
}


def mermaid(plan: Plan, classes: Mapping[str, str], styles: Mapping[str, str] = _CLASSES) -> str:
    """A Mermaid flowchart, without the edges that others imply. Nodes are numbered: a name could be one of its words.

    Args:
        classes: The class of each step, such as its status.
        styles: How those of a class look; classes without a style look like others.

    Source: https://mermaid.js.org/syntax/flowchart.html
    """
    numbers = {step.name: f"s{number}" for number, step in enumerate(plan.steps)}
    edges = reduced(render.needs(plan))
    lines = ["flowchart TD"]
    for step in plan.steps:
        opening, closing = _SHAPES[type(step)]
        said = [step.name, step.label, step.agent if isinstance(step, Task) else ""]
        text = "<br>".join(_quoted(part) for part in said if part)
        lines.append(f'    {numbers[step.name]}{opening}"{text}"{closing}')
    for step in plan.steps:
        branch = step.branch
        for need in dict.fromkeys((*edges[step.name], *((branch.step,) if branch is not None else ()))):
            taken = f'|"{_quoted(branch.label)}"|' if branch is not None and branch.step == need else ""
            lines.append(f"    {numbers[need]} -->{taken} {numbers[step.name]}")
    for its_class, style in styles.items():
        members = [numbers[name] for name, found in classes.items() if found == its_class and name in numbers]
        if members:
            lines += [f"    classDef {its_class} {style}", f"    class {','.join(members)} {its_class}"]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """*text* inside quotes, where Mermaid reads entities, and HTML."""
    said = plain(one_line(text, 120)).plain
    return "".join(char if char.isalnum() or char in " .,:-_/()" else f"#{ord(char)};" for char in said)
