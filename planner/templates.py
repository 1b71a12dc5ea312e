"""Plans that the mesh keeps, for goals to name: files in a directory of the planner's.

A template ``nightly-audit`` is the file ``nightly-audit.plan`` (a script), ``.yaml``, ``.yml`` or ``.json``. Files are
read anew each time, so that a change holds from the next goal on.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from planmesh.planner.language.recognise import SUFFIX, Script
from planmesh.planner.problems import Problems, listed, quoted
from planmesh.schemas.goals import Problem
from planmesh.schemas.plan import MAX_PLAN_BYTES
from planmesh.schemas.subjects import is_token

SUFFIXES: Final = (SUFFIX, ".yaml", ".yml", ".json")
_MOST: Final = 10_000


@dataclass(frozen=True)
class Template:
    """A template, as its file has it."""

    name: str
    suffix: str
    text: str

    @property
    def document(self) -> str:
        """What a plan is compiled of: a script is one, however it begins."""
        return Script(self.text) if self.suffix == SUFFIX else self.text

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Of the files of a template: suffix, time of the last change in ns, size in bytes, and number on the disk."""


class Templates:
    """The templates of a directory.

    Args:
        directory: Where they are; None: there are none.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """What can be read, in order; nothing, if the directory cannot be read."""
        if self._directory is None:
            return []
        try:
            found = {path.stem for path in self._directory.iterdir() if path.suffix in SUFFIXES and path.is_file()}
        except OSError:
            return []
        return sorted(filter(is_token, found))[:_MOST]

    def stamp(self, name: str) -> Stamp:
        """What is another once a file of this template is another."""
        found = []
        for path in self._paths(name):
            try:
                about = path.stat()
            except OSError:
                continue
            found.append((path.suffix, about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(found)

    def _paths(self, name: str) -> list[Path]:
        # A name that is a token has no way out of the directory: neither a dot nor a slash.
        if self._directory is None or not is_token(name):
            return []
        return [self._directory / f"{name}{suffix}" for suffix in SUFFIXES]

    def read(self, name: str) -> Template | Problem:
        """One template, or why there is none of this name that could be read."""
        if self._directory is None:
            hint = "set PLANMESH_PLANNER__TEMPLATES, for the planner, to a directory with plans"
            return _problem(
                "unknown_template", f"this mesh keeps no templates, and so none called {quoted(name)}", hint
            )
        present = [path for path in self._paths(name) if path.is_file()]
        if not present:
            names = self.names()
            hint = Problems().nearest(name, names, f"there are {listed(names)}" if names else "there are none")
            return _problem("unknown_template", f"there is no template called {quoted(name)}", hint)
        if len(present) > 1:
            both = listed(path.name for path in present)
            return _problem(
                "bad_template", f"several files are the template {quoted(name)}: {both}", "keep one of them"
            )
        (path,) = present
        if not path.resolve().is_relative_to(self._directory.resolve()):
            said = f"the template {quoted(name)} is a link to outside of the directory of templates"
            return _problem("bad_template", said, "put the file itself there")
        return _read(name, path)


def _read(name: str, path: Path) -> Template | Problem:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        return _problem("bad_template", f"the template {quoted(name)} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        return _problem(
            "bad_template", f"the template {quoted(name)} is not UTF-8: {error.reason} at byte {error.start}"
        )
    if len(data) > MAX_PLAN_BYTES:
        return _problem("bad_template", f"the template {quoted(name)} has more than {MAX_PLAN_BYTES:,} bytes")
    return Template(name, path.suffix, text)


def _problem(code: str, message: str, hint: str = "") -> Problem:
    return Problem(code=code, message=message, pointer="/template", hint=hint)
