"""The tools of `digest.plan`: they read Markdown files below the worker's directory, and nothing else.

What a model asks for may be anything, whatever it was told. So each path is looked at before it is opened.
"""

from pathlib import Path

from planmesh import Permissions, ToolError, tool

READS = Permissions(read=("*.md",))


@tool(idempotent=True, permissions=READS)
def list_notes(folder: str = ".") -> list[str]:
    """List the notes in a folder, as paths for `read_note`."""
    return sorted(str(path.relative_to(Path.cwd())) for path in _inside(folder).glob("*.md"))


@tool(idempotent=True, permissions=READS)
def read_note(path: str) -> str:
    """Read a note."""
    note = _inside(path)
    if note.suffix != ".md" or not note.is_file():
        raise ToolError(f"{path} is no note; list_notes says which there are")
    return note.read_text("utf-8", "replace")


def _inside(path: str) -> Path:
    found = Path(path).resolve()
    if not found.is_relative_to(Path.cwd()):
        raise ToolError("only what is below this directory can be read")
    return found
