"""``planmesh templates``: the plans that the mesh keeps, for goals to name."""

from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, document, graph
from planmesh.cli.forms import as_one, as_rows
from planmesh.cli.render import columns
from planmesh.cli.session import OfSession
from planmesh.cli.text import counted, defuse, one_line, value
from planmesh.schemas.plan import Parameter as Input
from planmesh.schemas.queries import TemplateRow

app = App(name="templates", help="See the plans that the mesh keeps, for goals to name.")


@app.command(name="list")
async def list_(*, session: OfSession) -> int:
    """List the plans that the mesh keeps."""
    async with session.operator() as operator:
        answer = await operator.templates()
    if session.output != "table":
        print(*as_rows(answer.templates, session.output), sep="\n")
        return COMPLETED
    if not answer.templates:
        session.say(
            "The mesh keeps no templates. They are files (NAME.plan, NAME.yaml or NAME.json) in a directory that"
        )
        session.say("the planner reads: PLANMESH_PLANNER__TEMPLATES.")
        return COMPLETED
    session.say(*columns(("TEMPLATE", "PLAN", "STEPS", "INPUTS"), [_cells(row) for row in answer.templates]))
    if answer.more:
        session.say(Text(f"There are {answer.more:,} more.", style="dim"), to=session.err)
    return COMPLETED


def _cells(row: TemplateRow) -> list[Text | str]:
    if row.problems:
        said = f"{counted(row.problems, 'problem')}: {one_line(row.problem, 100)}"
        return [row.template, Text(said, "red"), "", ""]
    return [
        row.template,
        one_line(row.name, 60),
        f"{row.steps:,}",
        ", ".join(_input(*one) for one in row.inputs.items()),
    ]


def _input(name: str, parameter: Input) -> str:
    optional = "" if parameter.required and parameter.default is None else f" = {value(parameter.default, 20)}"
    return f"{name}: {parameter.type}{optional}"


@app.command
async def show(
    name: Annotated[str, Parameter(help="As `planmesh templates list` has it.")], /, *, session: OfSession
) -> int:
    """Show one of them: its text, and its steps.

    Exit code: 0 it is a plan that can run; 1 it is not.
    """
    async with session.operator() as operator:
        found = await operator.template(name)
    code = FAILED if found.problems else COMPLETED
    if session.output != "table":
        print(as_one(found, session.output))
        return code
    session.out.print(Text(defuse(found.text)), end="" if found.text.endswith("\n") else "\n", soft_wrap=True)
    if found.plan is not None:
        session.say(Text(), *graph.tree(found.plan, {}), Text())
        given = "".join(f" --input {name}=…" for name, one in found.plan.inputs.items() if one.required)
        run = f"{session.command} run --template {found.template}{given}"
        session.say(Text("  To run it:  ", "dim", overflow="ignore").append(run, "cyan"))
    else:
        from pathlib import Path

        session.say(
            Text(),
            *document.told(found.problems, Path(found.file), found.text, width=session.err.width),
            to=session.err,
        )
    return code
