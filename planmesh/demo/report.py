"""What a person needs to see before saying yes: the findings as one short page of Markdown.

The same findings give the same bytes: there is no clock in it, and no path of this machine.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

from planmesh.demo.licences import KINDS, NEED_A_LOOK, WEAK_COPYLEFT

_ROWS: Final = 15
"""The longest table. A page that nobody reads to its end approves nothing; the plan's log has everything."""


def one_line(text: str, limit: int = 200) -> str:
    """Untrusted text as one line of visible characters, *limit* at most.

    Runs of white space become one space. Control, format (bidirectional, zero-width), surrogate, private and
    unassigned characters go: they hide or reorder what a reviewer reads, or cannot be stored as UTF-8.
    """
    kept = (" " if char.isspace() else char for char in text[: 20 * limit])
    visible = " ".join("".join(char for char in kept if unicodedata.category(char)[0] != "C").split())
    return visible if len(visible) <= limit else visible[: limit - 1].rstrip() + "…"


def compose(
    *,
    python: str,
    platform: str,
    unreadable: Sequence[str],
    licences: dict[str, Any] | None,
    sizes: dict[str, Any] | None,
    requirements: dict[str, Any] | None,
) -> tuple[str, str]:
    """Put the findings together.

    Args:
        python: Version of the interpreter.
        platform: What it runs on, such as ``"linux-x86_64"``.
        unreadable: Distributions whose metadata could not be read.
        licences: What `check-licences` returned; like the other two, None if a person skipped the step.
        sizes: What `measure-sizes` returned.
        requirements: What `check-requirements` returned.

    Returns:
        The verdict in one line without markup, and the whole page.
    """
    headline = _headline(unreadable, licences, sizes, requirements)
    page = [
        "# Dependency audit",
        f"**{headline}**",
        f"Python {_code(python)} on {_code(platform)}",
        "## Requirements",
        *_requirements(requirements),
        "## Licences",
        *_licences(licences),
        "## Size",
        *_sizes(sizes),
    ]
    if unreadable:
        page += ["## Unreadable", f"No name and version could be read from {_listed(unreadable)}."]
    return headline, "\n\n".join(page) + "\n"


def _headline(
    unreadable: Sequence[str],
    licences: dict[str, Any] | None,
    sizes: dict[str, Any] | None,
    requirements: dict[str, Any] | None,
) -> str:
    parts = []
    if requirements is None:
        parts.append("requirements not checked")
    else:
        wrong = _found((len(requirements[one]), noun) for one, noun in _REQUIREMENT_NOUNS.items())
        parts += wrong or ["all requirements met"]
    if licences is None:
        parts.append("licences not checked")
    else:
        grave = [kind for kind in KINDS if kind in NEED_A_LOOK]
        parts += _found((licences["counts"][kind], f"{kind} licence") for kind in grave) or ["no licence in doubt"]
    parts += _found([(len(unreadable), "unreadable distribution")])
    if sizes is None or not sizes["distributions"]:
        parts.append("sizes not measured")
    else:
        parts.append(f"{size(sizes['total_bytes'])} in {_counted(len(sizes['distributions']), 'distribution')}")
    headline = ", ".join(parts)
    return headline[0].upper() + headline[1:]


_REQUIREMENT_NOUNS: Final = {
    "conflicts": "conflict",
    "missing": "missing requirement",
    "unreadable": "unreadable requirement",
}


def _found(counts: Iterable[tuple[int, str]]) -> list[str]:
    return [_counted(number, noun) for number, noun in counts if number]


def _requirements(found: dict[str, Any] | None) -> Iterable[str]:
    if found is None:
        yield _SKIPPED
        return
    wrong = [
        *((row, _code(row["found"])) for row in found["conflicts"]),
        *((row, "not installed") for row in found["missing"]),
        *((row, "cannot be judged") for row in found["unreadable"]),
    ]
    met = found["checked"] - len(wrong)
    if not wrong:
        yield f"All {_counted(met, 'requirement')} that apply here are met."
        return
    yield f"{_counted(met, 'requirement')} met, {len(wrong)} not:"
    yield from _table(
        ("Distribution", "Requires", "Found"),
        [(_code(row["name"]), _code(row["requirement"]), there) for row, there in wrong],
    )


def _licences(found: dict[str, Any] | None) -> Iterable[str]:
    if found is None:
        yield _SKIPPED
        return
    counts = [f"{found['counts'][kind]} {kind}" for kind in KINDS if found["counts"][kind]]
    yield ", ".join(counts) + "."
    if look := found["need_a_look"]:
        yield "These need a look:"
        yield from _table(
            ("Distribution", "Kind", "Licence", "Evidence"),
            [(_titled(row), row["kind"], _code(row["licence"]), row["evidence"]) for row in look],
        )
    if weak := [row["name"] for row in found["licences"] if row["kind"] == WEAK_COPYLEFT]:
        yield f"Weak copyleft (changes to the work itself must be shared): {_listed(weak)}."


def _sizes(found: dict[str, Any] | None) -> Iterable[str]:
    if found is None:
        yield _SKIPPED
        return
    total = found["total_bytes"]
    if largest := found["largest"]:
        yield f"{size(total)} in {_counted(found['files'], 'file')}. The largest:"
        yield from _table(
            ("Distribution", "Size ", "Share ", "Files "),
            [
                (_titled(row), size(row["size_bytes"]), f"{row['size_bytes'] / max(total, 1):.0%}", f"{row['files']:,}")
                for row in largest
            ],
        )
    if missed := found["not_measured"]:
        for reason in sorted({row["reason"] for row in missed}):
            names = [row["name"] for row in missed if row["reason"] == reason]
            yield f"Not measured ({one_line(reason)}): {_listed(names)}."


_SKIPPED: Final = "Not checked: the step was skipped."


def size(size_bytes: int) -> str:
    """Bytes in decimal units with three digits at most: ``"143 MB"``, ``"9.8 kB"``."""
    amount, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # 999.5 would be printed as 1000.
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if amount < 9.95 and unit != "B" else f"{amount:.0f} {unit}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """A table; a heading that ends in a space is of a column of numbers."""
    marks = ["---:" if title.endswith(" ") else "---" for title in head]
    titles = [title.strip() for title in head]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, marks, *rows[:_ROWS]])
    if len(rows) > _ROWS:
        yield f"… and {len(rows) - _ROWS} more: the plan's log has them all."


def _titled(row: dict[str, Any]) -> str:
    return f"{_code(row['name'])} {_code(row['version'])}"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _ROWS} more" if len(names) > _ROWS else ""
    return ", ".join(_code(name) for name in names[:_ROWS]) + rest


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_INERT: Final = str.maketrans("`|\\", "'//")


def _code(text: str) -> str:
    """Untrusted text as a code span, in which nothing is markup, a link or a mention.

    The three characters that could end the span or the table's cell are replaced: Markdown dialects disagree
    about how to escape them there.
    """
    inert = one_line(text, 80).translate(_INERT)
    return f"`{inert}`" if inert else ""
