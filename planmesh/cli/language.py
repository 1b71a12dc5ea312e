"""The verb that writes a plan as it should look."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, document
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.cli.text import counted, one_line
from planmesh.planner.document import Unreadable, read_document
from planmesh.planner.language.recognise import SUFFIX, is_script
from planmesh.planner.problems import Problems
from planmesh.schemas.goals import Problem


def fmt(
    file: Annotated[
        Path,
        Parameter(
            allow_leading_hyphen=True,
            help="A script, or a plan in JSON; - for standard input, which is written to standard output.",
        ),
    ],
    /,
    *,
    check: Annotated[bool, Parameter(negative=(), help="Change nothing: only say whether it would change.")] = False,
    session: OfSession,
) -> int:
    """Write a plan as it should look: a script in the indented form, two spaces a level, and its comments stay; JSON
    likewise, a field a line.

    What cannot be read is left as it is, and so is a plan in YAML: nothing here could keep its comments.

    Exit code: 0 done, or with --check: nothing to do; 1 it cannot be read, or with --check: it would change.
    """
    text = document.read(file)
    formatted = _formatted(file, text)
    if formatted is None:
        said = f"planmesh: {one_line(str(file))} is YAML, and is left as it is: its comments would be lost"
        session.say(Text(said), to=session.err)
        formatted = text
    if not isinstance(formatted, str):
        session.say(*document.told(formatted, file, text, width=session.err.width), to=session.err)
        session.say(Text(f"planmesh: {file} is left as it is: {counted(len(formatted), 'problem')}"), to=session.err)
        return FAILED
    changes = formatted != text
    if check:
        if changes:
            session.say(Text(f"{one_line(str(file))} would change"))
        return FAILED if changes else COMPLETED
    if file == document.STANDARD_INPUT:
        sys.stdout.write(formatted)
    elif changes:
        _write(file, formatted)
    return COMPLETED


def _formatted(file: Path, text: str) -> str | Sequence[Problem] | None:
    """A plan as it should look, or what is wrong with it; None of one in YAML."""
    if file.suffix == SUFFIX or is_script(text):
        from planmesh.planner.language.format import format_script

        return format_script(text)
    problems = Problems()
    try:
        read_document(text, problems)
    except Unreadable:
        return problems.listed()
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return None
    return msgspec.json.format(text.removeprefix("\ufeff"), indent=2) + "\n"


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise NotUnderstood(f"cannot write {file}: {error.strerror or error}") from None
