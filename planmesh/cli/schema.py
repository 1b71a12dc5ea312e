"""``planmesh schema``: what travels over NATS, for programs and for people. Needs no mesh."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

import planmesh
from planmesh import contract, reference
from planmesh.cli.forms import as_one
from planmesh.cli.session import NotUnderstood, OfSession
from planmesh.errors import Unusable


def schema(
    directory: Annotated[Path | None, Parameter(help="Where to write; it is made if it is not there.")] = None,
    /,
    *,
    docs: Annotated[
        bool, Parameter(negative=(), help="Print the tables of docs/messages.md instead: Markdown, for people.")
    ] = False,
    session: OfSession,
) -> None:
    """Describe every message and every subject: JSON Schema for each message, and one AsyncAPI 3.0 document.

    With a directory, writes asyncapi.json there and a NAME.schema.json for each message; Plan.schema.json is the one
    that editors can check plan documents against. Without one, prints the AsyncAPI document.
    """
    if docs:
        if directory is not None:
            raise NotUnderstood("--docs prints one page: `planmesh schema --docs > messages.md`")
        print(reference.messages_page(), end="")
        return
    described = contract.asyncapi(planmesh.__version__, contract.golden())
    if directory is None:
        print(as_one(described, session.output))
        return
    files = {"asyncapi.json": described}
    files |= {f"{name}.schema.json": found for name, found in contract.json_schemas().items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, found in files.items():
            (directory / name).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    except OSError as error:
        raise Unusable(f"cannot write to {directory}: {error.strerror or error}") from error
    session.say(f"{len(files)} files in {directory}: asyncapi.json, and a JSON Schema for each message", to=session.err)
