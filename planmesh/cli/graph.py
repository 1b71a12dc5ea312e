"""The verb that draws a plan: as a tree of text, or as a Mermaid flowchart for documents."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, assert_never

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, document, render
from planmesh.cli.forms import as_one
from planmesh.cli.looks import STEP
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.cli.text import counted, listed, one_line, plain
from planmesh.cli.tree import layout, reduced
from planmesh.errors import PlanmeshError
from planmesh.schemas.plan import Agent, Ask, Case, Check, Decide, Draft, Each, Emit, Gate, Plan, Run, Step, Task
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


class _Line(NamedTuple):
    """A line of the tree.

    Attributes:
        rails: What is drawn before the step.
        is_item: Whether it is a step of the body of an `each`, done once for each item.
    """

    rails: str
    step: Step
    is_item: bool = False


def tree(plan: Plan, statuses: Mapping[str, StepStatus]) -> list[Text]:
    """One line a step: its name, what it is, and what it needs; below an `each`, those that are done for each item."""
    drawn = list(_lines(plan))
    cells = max(len(one.rails) + len(one.step.name) for one in drawn)
    about = [_about(one.step) for one in drawn]
    wide = max(text.cell_len for text in about)
    lines = [Text("  ").append(one_line(plan.name), "bold"), Text()]
    for one, said in zip(drawn, about, strict=True):
        step = one.step
        line = Text("  ").append(one.rails, "dim")
        if statuses and not one.is_item:
            look = STEP[statuses.get(step.name, StepStatus.PENDING)]
            line.append(f"{look.sign} ", look.style)
        line.append(step.name.ljust(cells - len(one.rails) + 2)).append_text(said)
        if step.after:
            line.append(" " * (wide - said.cell_len + 2)).append(f"after {listed(step.after)}", "dim")
        if one.is_item and (items := _items(step.name, statuses)):
            line.append(f"  {items}", "dim")
        lines.append(line)
    return lines


def _lines(plan: Plan) -> Iterator[_Line]:
    steps = {step.name: step for step in plan.steps}
    for place in render.places(plan):
        step = steps[place.name]
        yield _Line(place.rails, step)
        if isinstance(step, Each):
            below = render.below_rails(place.rails)
            inner = {one.name: one for one in step.steps}
            for within in layout(render.needs(step)):
                yield _Line(f"{below}  ┊ {within.rails}", inner[within.name], is_item=True)


def _items(name: str, statuses: Mapping[str, StepStatus]) -> str:
    """How a step of a body stands: it is done as ``NAME_1`` for the first item, and so on."""
    counts = Counter(
        STEP[status].word
        for item, status in statuses.items()
        if item.startswith(f"{name}_") and item[len(name) + 1 :].isdecimal()
    )
    return ", ".join(f"{count:,} {word}" for word, count in counts.most_common())


def _about(step: Step) -> Text:
    match step:
        case Agent():
            tools = step.permissions.tools if step.permissions is not None else ()
            about = Text(f"{step.agent} {_with(tools)}")
        case Task():
            about = Text(step.agent)
        case Gate():
            about = Text(f"gate for {listed(step.reviewers)}", style="magenta")
        case Ask():
            whom = f" of {listed(step.reviewers)}" if step.reviewers else ""
            answers = " | ".join(one_line(option, 30) for option in step.options) or f"a {step.type}"
            about = Text(f"question{whom}: {answers}{', kept secret' if step.secret else ''}", style="magenta")
        case Check():
            about = Text(f"check {one_line(step.condition, 60)}")
        case Decide(cases=(Case(when="true"),)):  # an emit in the body of an each
            about = Text(f"→ {one_line(step.label or step.cases[0].then, 60)}")
        case Decide():
            about = Text(f"decide {' | '.join(one_line(label, 30) for label in step.labels)}")
        case Draft():
            among = "" if step.agents is None else f" {_with(step.agents)}"
            about = Text(f"plan of at most {counted(step.max_steps, 'step')}{among}")
        case Run():
            mode = {"normal": "", "safe": ", if it is safe", "draft": ", as a draft"}[step.mode]
            about = Text(f"run {one_line(step.document, 60)}{mode}")
        case Each():
            most = f", {step.parallel:,} at once" if step.parallel is not None else ""
            about = Text(f"each {step.item} in {one_line(step.items, 60)}{most}")
        case Emit():
            about = Text(f"→ {one_line(step.outcome, 60)}")
        case _:
            assert_never(step)
    if isinstance(step, Task) and step.accept is not None:
        about.append(f"  until {one_line(step.accept, 60)}", "cyan")
    if step.branch is not None:
        about.append(f"  if {step.branch.step} says {one_line(step.branch.label, 60)}", "cyan")
    return about.append("  optional", "dim") if step.optional else about


def _with(tools: tuple[str, ...]) -> str:
    return f"with {listed(tools)}" if tools else "without tools"


_SHAPES: Final[Mapping[type[Step], tuple[str, str]]] = {
    Task: ("[", "]"),
    Agent: ("(", ")"),
    Gate: ("{{", "}}"),
    Ask: ("[/", "/]"),
    Check: ("{", "}"),
    Decide: ("{", "}"),
    Draft: ("[[", "]]"),
    Run: ("[[", "]]"),
    Each: ("[", "]"),
    Emit: ("([", "])"),
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
    lines = ["flowchart TD"]
    for step in plan.steps:
        if isinstance(step, Each):
            inner = {one.name: f"{numbers[step.name]}_{number}" for number, one in enumerate(step.steps)}
            lines.append(f'    subgraph {numbers[step.name]}["{_said(step)}"]')
            lines += [f"    {line}" for line in (*(_node(one, inner) for one in step.steps), *_edges(step, inner))]
            lines.append("    end")
        else:
            lines.append(_node(step, numbers))
    lines += _edges(plan, numbers)
    for its_class, style in styles.items():
        members = [numbers[name] for name, found in classes.items() if found == its_class and name in numbers]
        if members:
            lines += [f"    classDef {its_class} {style}", f"    class {','.join(members)} {its_class}"]
    return "\n".join(lines)


def _node(step: Step, numbers: Mapping[str, str]) -> str:
    opening, closing = _SHAPES[type(step)]
    return f'    {numbers[step.name]}{opening}"{_said(step)}"{closing}'


def _said(step: Step) -> str:
    match step:
        case Task():
            more = step.agent
        case Ask() | Draft() | Run() | Each():
            more = _about(step).plain
        case _:
            more = ""
    return "<br>".join(_quoted(part) for part in (step.name, step.label, more) if part)


def _edges(plan: Plan | Each, numbers: Mapping[str, str]) -> list[str]:
    edges, lines = reduced(render.needs(plan)), []
    for step in plan.steps:
        branch = step.branch
        for need in dict.fromkeys((*edges[step.name], *((branch.step,) if branch is not None else ()))):
            taken = f'|"{_quoted(branch.label)}"|' if branch is not None and branch.step == need else ""
            lines.append(f"    {numbers[need]} -->{taken} {numbers[step.name]}")
    return lines


def _quoted(text: str) -> str:
    """*text* inside quotes, where Mermaid reads entities, and HTML."""
    said = plain(one_line(text, 120)).plain
    return "".join(char if char.isalnum() or char in " .,:-_/()" else f"#{ord(char)};" for char in said)
