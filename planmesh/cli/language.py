"""The verb that writes a script as it should look."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, document
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.cli.text import counted, one_line


def fmt(
    file: Annotated[
        Path,
        Parameter(
            allow_leading_hyphen=True, help="A script; - for standard input, which is written to standard output."
        ),
    ],
    /,
    *,
    check: Annotated[bool, Parameter(negative=(), help="Change nothing: only say whether it would change.")] = False,
    session: OfSession,
) -> int:
    """Write a script as it should look: the indented form, two spaces a level. Comments stay.

    A script that cannot be read is left as it is.

    Exit code: 0 done, or with --check: nothing to do; 1 it cannot be read, or with --check: it would change.
    """
    from planmesh.planner.language.format import format_script

    text = document.read(file)
    formatted = format_script(text)
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


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise NotUnderstood(f"cannot write the script {file}: {error.strerror or error}") from None
