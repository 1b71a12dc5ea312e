"""What a command would do, as lines for a terminal, as a tree and as a Mermaid flowchart. Pure."""

from typing import Final, NamedTuple

from rich.text import Text

from planmesh.cli import graph, render
from planmesh.cli.difference import changes, summary
from planmesh.cli.looks import PLAN
from planmesh.cli.text import listed, whole
from planmesh.frontier import Fate, Frontier, StepFate
from planmesh.schemas.plan import Plan


class _Look(NamedTuple):
    sign: str
    words: str
    style: str
    mermaid: str
    most: int
    """How many are named."""


_GREEN, _BLUE, _MAGENTA, _RED, _GREY = (
    "fill:#d7f0dd,stroke:#2e7d46",
    "fill:#dbe9ff,stroke:#2b62b8",
    "fill:#f3e0f7,stroke:#8e3aa6",
    "fill:#fbdcdc,stroke:#b3261e",
    "fill:#eeeeee,stroke:#999999",
)
_LOOKS: Final[dict[Fate, _Look]] = {
    "kept": _Look("✓", "kept", "green", _GREEN, 6),
    "running": _Look("●", "goes on running", "blue", _BLUE, 6),
    "again": _Look("↻", "runs again", "yellow", "fill:#fff3cd,stroke:#b58105", 40),
    "asks": _Look("◆", "asks again", "magenta", _MAGENTA, 40),
    "open": _Look("◆", "goes on asking", "magenta", _MAGENTA, 6),
    "new": _Look("+", "new", "green", "fill:#c9f7e5,stroke:#0b7a53,stroke-width:3px", 40),
    "changed": _Look("~", "changed", "yellow", "fill:#ffe5c2,stroke:#b35c00,stroke-width:3px", 40),
    "next": _Look("○", "to come", "", "fill:#ffffff,stroke:#666666", 6),
    "paused": _Look("‖", "stays paused", "magenta", _MAGENTA, 6),
    "stands": _Look("!", "stays as it is", "red", _RED, 6),
    "skipped": _Look("»", "skipped", "cyan", "fill:#d5f2f7,stroke:#0b7285", 40),
    "dropped": _Look("-", "dropped", "red", _GREY, 40),
}
_WORDS: Final = max(len(look.words) for look in _LOOKS.values())


def account(seen: Frontier, title: str) -> list[Text]:
    """Every step, by what would become of it, and what would change.

    Args:
        title: What would be done, such as ``retry build of release-1``.
    """
    revision = f"revision {seen.base}" + (f" → {seen.revision}" if seen.revision != seen.base else "")
    lines = [Text("  ").append(title, "bold").append(f"   {revision}", "dim"), Text()]
    for fate, look in _LOOKS.items():
        steps = [step for step in seen.steps if step.fate == fate]
        if steps:
            line = Text(f"  {look.sign} ", look.style).append(f"{look.words:<{_WORDS}}", look.style)
            line.append(f"{len(steps):>6}  ", "dim").append(listed([_named(step) for step in steps], look.most))
            lines.append(line)
    status = PLAN[seen.status]
    lines += [Text(), Text("  The plan would be ").append(status.word, status.style)]
    if seen.discloses:
        lines += [Text(), *warnings(seen)]
    changed = [change for change in (seen.whole, *(step.change for step in seen.steps)) if change is not None]
    if seen.revision != seen.base:
        lines += [Text(), Text("  What it changes: ", style="bold").append(summary(changed), "not bold")]
        lines += changes(changed)
    return lines


def warnings(seen: Frontier) -> list[Text]:
    """What else it would do, which no form shows at a step."""
    return [whole(Text("  ! ", "red").append(str(disclosure))) for disclosure in seen.discloses]


def _named(step: StepFate) -> str:
    if step.fate == "again" and step.agent:
        return f"{step.step} (attempt {step.attempt}, by {step.agent})"
    if step.fate == "asks":
        return f"{step.step} (round {step.attempt})"
    if step.fate == "new" and step.agent:
        return f"{step.step} (by {step.agent})"
    return step.step


def tree(seen: Frontier, plan: Plan) -> list[Text]:
    """The plan as it would be, one line a step; then what it would no longer have."""
    fates = {step.step: step for step in seen.steps}
    places = render.places(plan)
    cells = max(len(place.rails) + len(place.name) for place in places) + 2
    lines = []
    for place in places:
        look = _LOOKS[fates[place.name].fate]
        line = Text("  ").append(place.rails, "dim").append(f"{look.sign} ", look.style)
        line.append(place.name.ljust(cells - len(place.rails))).append(look.words, look.style)
        said = _named(fates[place.name]).removeprefix(place.name)
        lines.append(line.append(said, "dim"))
    gone = [step for step in seen.steps if step.step not in {place.name for place in places}]
    look = _LOOKS["dropped"]
    lines += [Text(f"  {look.sign} ", look.style).append(step.step.ljust(cells)).append(look.words) for step in gone]
    return lines


def mermaid(seen: Frontier, plan: Plan) -> str:
    """The plan as it would be, each step in the colour of what would become of it."""
    styles = {f"fate-{fate}": look.mermaid for fate, look in _LOOKS.items()}
    return graph.mermaid(plan, {step.step: f"fate-{step.fate}" for step in seen.steps}, styles)
