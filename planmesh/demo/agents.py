"""The audit's agents: plain functions, each one step of `audit.yaml`.

What they take and return is JSON, and stays in the plan's log. They judge the interpreter that runs them.
"""

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import stat
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, Final, TypedDict

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from planmesh.agents import Rejected, agent
from planmesh.demo import licences as licence
from planmesh.demo import report as page
from planmesh.demo.report import one_line
from planmesh.schemas.plan import Permissions

_PREFIXES: Final = tuple(dict.fromkeys((sys.prefix, sys.base_prefix)))
_READS_INSTALLATION: Final = Permissions(read=_PREFIXES)


class Installed(TypedDict):
    """An installed distribution, in the words of its own metadata: one line each, as `report.one_line` leaves it."""

    name: str
    version: str
    summary: str
    requires: list[str]
    """Requirements (PEP 508)."""
    requires_python: str
    license_expression: str
    license: str
    """The telling line of the `License` field."""
    license_classifiers: list[str]
    license_files: list[str]


@agent(idempotent=True, permissions=_READS_INSTALLATION)
def list_distributions() -> dict[str, Any]:
    """List what is installed: the distributions that an import would see, by name.

    Returns:
        python: Version of the interpreter.
        platform: What it runs on, such as ``"linux-x86_64"``.
        prefix: Where it is installed.
        markers: The values of the environment markers (PEP 508).
        distributions: A list of `Installed`.
        unreadable: What lies there without a name or a version that can be read, by the name of its directory.
    """
    found, unreadable = _installed()
    return {
        "python": platform.python_version(),
        "platform": sysconfig.get_platform(),
        "prefix": sys.prefix,
        "markers": _markers(),
        "distributions": [described for _, (described, _) in sorted(found.items())],
        "unreadable": sorted(unreadable),
    }


def _markers() -> dict[str, str]:
    return {name: str(value) for name, value in default_environment().items()}


def _installed() -> tuple[dict[str, tuple[Installed, Distribution]], list[str]]:
    """What is installed, by canonical name (of two, the first on the path hides the other), and what is unreadable."""
    found: dict[str, tuple[Installed, Distribution]] = {}
    unreadable = []
    for distribution in importlib.metadata.distributions():
        # No METADATA, not UTF-8, no such field: they all happen, and one of them must not end the audit.
        try:
            described = _describe(distribution)
        except (OSError, UnicodeDecodeError):
            described = None
        if described is not None and described["name"] and described["version"]:
            found.setdefault(canonicalize_name(described["name"]), (described, distribution))
        else:
            unreadable.append(one_line(getattr(distribution, "_path", Path("?")).name))
    return found, unreadable


def _describe(distribution: Distribution) -> Installed:
    metadata = distribution.metadata  # parsed anew each time it is asked for

    def texts(key: str) -> list[str]:
        return metadata.get_all(key) or []

    def lines(key: str) -> list[str]:
        return [one_line(text) for text in texts(key)]

    def line(key: str) -> str:
        return next(iter(lines(key)), "")

    return {
        "name": line("Name"),
        "version": line("Version"),
        "summary": line("Summary"),
        "requires": [one_line(text, 500) for text in distribution.requires or ()],
        "requires_python": line("Requires-Python"),
        "license_expression": line("License-Expression"),
        "license": one_line(licence.telling_line(next(iter(texts("License")), ""))),
        "license_classifiers": [text for text in lines("Classifier") if text.startswith("License ::")],
        "license_files": lines("License-File"),
    }


@agent(idempotent=True)
def check_licences(distributions: list[Installed]) -> dict[str, Any]:
    """Sort distributions by how freely their licences let them be used.

    Returns:
        counts: How many there are of each of `licences.KINDS`.
        licences: `name`, `version`, `kind`, `licence` and `evidence` of each, in the order given.
        need_a_look: Those of them whose kind a person should think about, the gravest first.
    """
    rows: list[dict[str, str]] = []
    for one in distributions:
        judgement = licence.judge(
            one["license_expression"], one["license"], one["license_classifiers"], one["license_files"]
        )
        rows.append({"name": one["name"], "version": one["version"], **judgement._asdict()})
    grave = [row for row in rows if row["kind"] in licence.NEED_A_LOOK]
    return {
        "counts": {kind: sum(row["kind"] == kind for row in rows) for kind in licence.KINDS},
        "licences": rows,
        "need_a_look": sorted(grave, key=lambda row: -licence.KINDS.index(row["kind"])),
    }


@agent(idempotent=True, permissions=_READS_INSTALLATION)
def measure_sizes(distributions: list[Installed]) -> dict[str, Any]:
    """Measure what distributions take on disk: the files that their RECORDs list and that exist.

    A file that two of them list is counted once, for the first.

    Returns:
        total_bytes, files: Of all that could be measured.
        distributions: `name`, `version`, `size_bytes` and `files` of each, the largest first.
        largest: The first ten of them.
        not_measured: `name` and `reason` of the others.
    """
    here, _ = _installed()
    counted: set[str] = set()
    measured: list[dict[str, Any]] = []
    not_measured: list[dict[str, str]] = []
    for one in distributions:
        described, distribution = here.get(canonicalize_name(one["name"]), (None, None))
        if described is None or distribution is None or described["version"] != one["version"]:
            not_measured.append({"name": one["name"], "reason": "not installed where this step ran"})
        elif _is_editable(distribution):
            not_measured.append({"name": one["name"], "reason": "editable: its sources lie elsewhere"})
        elif (recorded := _recorded(distribution)) is None:
            not_measured.append({"name": one["name"], "reason": "no readable RECORD"})
        else:
            sizes = [size for size in map(_file_size, sorted(recorded - counted)) if size is not None]
            counted |= recorded
            measured.append(
                {"name": one["name"], "version": one["version"], "size_bytes": sum(sizes), "files": len(sizes)}
            )
    measured.sort(key=lambda row: (-row["size_bytes"], row["name"]))
    return {
        "total_bytes": sum(row["size_bytes"] for row in measured),
        "files": sum(row["files"] for row in measured),
        "distributions": measured,
        "largest": measured[:10],
        "not_measured": not_measured,
    }


def _is_editable(distribution: Distribution) -> bool:
    """Whether it was installed from a directory that stays where it is (PEP 610)."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(origin["dir_info"]["editable"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _recorded(distribution: Distribution) -> set[str] | None:
    """The absolute paths in the RECORD, None if there is none that can be read.

    A RECORD can name any path: what lies outside the installation is not looked at.
    """
    try:
        record = distribution.read_text("RECORD")
        paths = [row[0] for row in csv.reader((record or "").splitlines()) if row]
    except (OSError, ValueError, csv.Error):
        return None
    if record is None:
        return None
    base = Path(str(distribution.locate_file(""))).resolve()
    roots = tuple(f"{Path(root).resolve()}{os.sep}" for root in (str(base), *_PREFIXES))
    absolute = (os.path.normpath(base / path) for path in paths)
    return {path for path in absolute if path.startswith(roots)}


def _file_size(path: str) -> int | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # gone since it was installed, or a null character in a RECORD
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@agent(idempotent=True)
def check_requirements(distributions: list[Installed], markers: dict[str, str] | None = None) -> dict[str, Any]:
    """Hold what distributions require, extras aside, against what is installed.

    Args:
        distributions: All that is installed.
        markers: The environment that markers are about; unless given, the one of this interpreter.

    Returns:
        checked: How many requirements apply in that environment.
        missing, conflicts, unreadable: Those that are not met: `name` (who requires it), `requirement`, and the
            version `found`, empty if there is none to compare.
    """
    environment = {**_markers(), **(markers or {}), "extra": ""}
    python = {"python": environment["python_full_version"].rstrip("+")}  # a build from a checkout says 3.14.0+
    installed = {str(canonicalize_name(one["name"])): one["version"] for one in distributions}
    found: dict[str, list[dict[str, str]]] = {"missing": [], "conflicts": [], "unreadable": []}
    checked = 0
    for one in distributions:
        wanted = [(text, installed) for text in one["requires"]]
        if one["requires_python"]:
            wanted.append((f"python {one['requires_python']}", python))
        for text, versions in wanted:
            verdict, requirement, version = _judged(text, versions, environment)
            checked += verdict != "void"
            if verdict in found:
                found[verdict].append({"name": one["name"], "requirement": requirement, "found": version})
    return {"checked": checked, **found}


def _judged(text: str, versions: Mapping[str, str], environment: dict[str, str]) -> tuple[str, str, str]:
    """How a requirement fares (void, met, or one of the lists), what it asks for, and the version there is."""
    try:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            return "void", text, ""
        wanted = f"{requirement.name}{requirement.specifier}"
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            return "missing", wanted, ""
        met = requirement.specifier.contains(Version(version), prereleases=True)
    # The last: brackets nested deeper than the parser of `packaging` can follow.
    except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName, RecursionError):
        return "unreadable", text, ""
    return ("met" if met else "conflicts"), wanted, version


@agent(idempotent=True)
def compose_report(
    python: str,
    platform: str,
    licences: dict[str, Any] | None,
    sizes: dict[str, Any] | None,
    requirements: dict[str, Any] | None,
    unreadable: Sequence[str] = (),
) -> dict[str, Any]:
    """Put the findings together as a page for whoever approves it; a finding that is null was skipped.

    Returns:
        headline: The verdict, one line.
        markdown: The page.
    """
    headline, markdown = page.compose(
        python=python,
        platform=platform,
        unreadable=unreadable,
        licences=licences,
        sizes=sizes,
        requirements=requirements,
    )
    return {"headline": headline, "markdown": markdown}


@agent(idempotent=True, permissions=Permissions(write=("*.md",)))
def publish_report(report: str, path: str) -> dict[str, Any]:
    """Write the report to a file, whole or not at all; what was there before is replaced.

    Args:
        report: Markdown.
        path: A file whose name ends in ``.md``, in a directory that exists.

    Returns:
        path: Where it is, absolute.
        size_bytes, sha256: Of what was written.

    Raises:
        Rejected: The path does not name such a file.
        OSError: The directory cannot be written to.
    """
    # The path is the plan's input: a plan must not be able to replace just any file.
    target = Path(path).absolute()
    if target.suffix != ".md" or "\0" in path or target.is_dir():
        raise Rejected(f"a report is published to a file whose name ends in .md, not to {path!r}")
    if not target.parent.is_dir():
        raise Rejected(f"{path!r} lies in a directory that does not exist: {target.parent}; make it first")
    content = report.encode()
    # Its own name, so that an attempt given up for lost cannot cut short the file of the next one.
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return {"path": str(target), "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
