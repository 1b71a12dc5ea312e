"""The audit that `planmesh demo` runs: on this interpreter, and on installations made to be difficult."""

import json
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from packaging.utils import canonicalize_name

from planmesh.agents import Agent, Rejected, find
from planmesh.demo import agents as audit
from planmesh.demo.licences import KINDS, judge, kind_of_expression, kind_of_words, telling_line
from planmesh.demo.report import one_line, size
from planmesh.schemas.plan import Plan, Task

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MIT = "License-Expression: MIT"

T = TypeVar("T")


class Site:
    """Directories of installed distributions, the only ones there are while `see` calls something."""

    def __init__(self, *directories: Path) -> None:
        self.directories = directories

    def install(
        self, name: str, version: str, headers: Sequence[str] = (), files: Mapping[str, str] | None = None
    ) -> Path:
        """Write a distribution with *headers* in its metadata, and *files* with a RECORD of them (None: without)."""
        directory = self.directories[0]
        info = directory / f"d{len(list(directory.iterdir()))}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if files is not None:
            for path, content in files.items():
                (directory / path).write_text(content, encoding="utf-8")
            (info / "RECORD").write_text("".join(f"{path},,\n" for path in files), encoding="utf-8")
        return info

    def see(self, function: Callable[..., T], *arguments: Any) -> T:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(directory) for directory in self.directories])
            return function(*arguments)

    def read(self) -> dict[str, Any]:
        return self.see(audit.list_distributions)

    def measure(self) -> dict[str, Any]:
        return self.see(audit.measure_sizes, self.read()["distributions"])

    def report(self) -> dict[str, Any]:
        """What all steps of the plan make of it."""
        return self.see(report_of_what_is_here)


def report_of_what_is_here() -> dict[str, Any]:
    read = audit.list_distributions()
    return audit.compose_report(
        read["python"],
        read["platform"],
        audit.check_licences(read["distributions"]),
        audit.measure_sizes(read["distributions"]),
        audit.check_requirements(read["distributions"], read["markers"]),
        read["unreadable"],
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    directory = tmp_path / "site-packages"
    directory.mkdir()
    return Site(directory)


def test_the_audit_of_this_environment_sees_all_that_is_installed() -> None:
    names = {canonicalize_name(one.metadata["Name"]) for one in distributions()}

    read = audit.list_distributions()
    licences = audit.check_licences(read["distributions"])
    sizes = audit.measure_sizes(read["distributions"])
    requirements = audit.check_requirements(read["distributions"], read["markers"])

    assert {canonicalize_name(one["name"]) for one in read["distributions"]} == names
    assert sum(licences["counts"].values()) == len(names)
    assert len(sizes["distributions"]) + len(sizes["not_measured"]) == len(names)
    assert sizes["total_bytes"] > 1_000_000
    assert requirements["checked"] > len(names)
    assert msgspec.json.decode(msgspec.json.encode(read)) == read


def test_the_report_on_this_environment_is_short_repeatable_and_names_no_path_of_this_machine() -> None:
    report = report_of_what_is_here()

    assert report_of_what_is_here() == report
    assert f"**{report['headline']}**" in report["markdown"]
    assert sys.prefix not in report["markdown"]
    assert len(report["markdown"].encode()) < 8_192  # what the log keeps inline


def test_requirements_that_are_missing_or_in_conflict_are_told_apart(site: Site) -> None:
    site.install(
        "app",
        "1.0",
        [
            "Requires-Dist: Absent.Thing>=2",
            "Requires-Dist: old>=2; python_version >= '3'",
            "Requires-Dist: new (>=1)",
            "Requires-Dist: beta>=1",
            "Requires-Dist: elsewhere @ https://example.invalid/elsewhere.whl",
            "Requires-Dist: not-here; sys_platform == 'no such platform'",
            "Requires-Dist: only-with-extra; extra == 'more'",
            "Requires-Python: >=99",
        ],
    )
    for name, version in {"old": "1.9", "new": "3", "beta": "2.0b1", "elsewhere": "0"}.items():
        site.install(name, version)

    read = site.read()
    found = audit.check_requirements(read["distributions"])

    assert found == {
        "checked": 6,
        "missing": [{"name": "app", "requirement": "Absent.Thing>=2", "found": ""}],
        "conflicts": [
            {"name": "app", "requirement": "old>=2", "found": "1.9"},
            {"name": "app", "requirement": "python>=99", "found": read["python"]},
        ],
        "unreadable": [],
    }


def test_requirements_are_judged_for_the_environment_that_was_read_and_not_for_the_judge_s(site: Site) -> None:
    site.install("app", "1.0", ["Requires-Dist: pywin; sys_platform == 'win32'", "Requires-Python: <3.4"])

    found = audit.check_requirements(
        site.read()["distributions"], {"sys_platform": "win32", "python_full_version": "3.3.0+"}
    )

    assert [row["requirement"] for row in found["missing"]] == ["pywin"]
    assert found["conflicts"] == []


@pytest.mark.parametrize(
    "text",
    [
        "not a requirement at all",
        "odd-version>=1",
        "x; no_such_marker == '1'",
        "x; " + "(" * 240 + "os_name == 'posix'" + ")" * 240,
        "x" * 10_000 + ">=1",
    ],
)
def test_a_requirement_that_cannot_be_judged_is_reported_and_ends_nothing(site: Site, text: str) -> None:
    site.install("app", "1.0", [f"Requires-Dist: {text}"])
    site.install("odd-version", "one and a bit")

    found = audit.check_requirements(site.read()["distributions"])

    assert [row["name"] for row in found["unreadable"]] == ["app"]
    assert "1 unreadable requirement" in site.report()["headline"]


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("MIT", "permissive"),
        ("mit or gpl-3.0-only", "permissive"),
        ("MIT AND GPL-3.0-or-later", "strong copyleft"),
        ("(MIT OR GPL-2.0-only) AND (LGPL-3.0-only OR AGPL-3.0-only)", "weak copyleft"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "weak copyleft"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"),
        ("MPL-2.0", "weak copyleft"),
        ("CC-BY-4.0", "permissive"),
        ("CC-BY-SA-4.0", "strong copyleft"),
        ("CC-BY-NC-4.0", "proprietary"),
        ("CECILL-2.1", "strong copyleft"),
        ("CECILL-B", "permissive"),
        ("SSPL-1.0", "proprietary"),
        ("LicenseRef-Proprietary", "proprietary"),
        ("LicenseRef-MIT-with-a-twist", "unknown"),
        ("MIT AND LicenseRef-Ours", "unknown"),
        ("MIT AND", "unknown"),
        ("MIT) OR (", "unknown"),
        ("=0", "unknown"),
        ("", "unknown"),
        ("(" * 1_000 + "MIT" + ")" * 1_000, "permissive"),
    ],
)
def test_a_licence_expression_is_as_grave_as_its_lightest_choice(expression: str, kind: str) -> None:
    assert kind_of_expression(expression) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("BSD 3-Clause License", "permissive"),
        ("3-Clause BSD License", "permissive"),
        ("Apache License, Version 2.0", "permissive"),
        ("Permission is hereby granted, free of charge, to any person", "permissive"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("GNU Library or Lesser General Public License (LGPL)", "weak copyleft"),
        ("GNU General Public License v2 or later (GPLv2+)", "strong copyleft"),
        ("GNU Affero General Public License v3", "strong copyleft"),
        ("GPLv3", "strong copyleft"),
        ("Other/Proprietary License", "proprietary"),
        ("Free for non-commercial use", "proprietary"),
        ("BSD, parts GPL", "strong copyleft"),
        ("UNLICENSED", "unknown"),
        ("see LICENSE", "unknown"),
        ("limited permit", "unknown"),
    ],
)
def test_a_licence_in_free_words_is_as_grave_as_its_gravest_word(text: str, kind: str) -> None:
    assert kind_of_words(text) == kind


def test_a_distribution_is_judged_by_its_first_statement_that_can_be_read() -> None:
    classifiers = ["License :: OSI Approved", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]

    assert judge("MIT", "GPL", classifiers, []) == ("permissive", "MIT", "License-Expression")
    assert judge("", "LGPL", classifiers, []) == ("weak copyleft", "LGPL", "License field")
    assert judge("", "see LICENSE", classifiers, [])[::2] == ("strong copyleft", "classifier")
    assert judge("", "see LICENSE", [], []) == ("unknown", "see LICENSE", "License field")
    assert judge("", "", ["License :: OSI Approved"], ["LICENSE"]) == ("unknown", "", "a licence file, no statement")
    assert judge("", "", [], []) == ("unknown", "", "no statement")


def test_a_licence_field_that_holds_the_whole_text_is_known_by_its_title(site: Site) -> None:
    site.install(
        "long", "1.0", ["License: Copyright (c) 2020 Someone", "        All rights reserved.", "        MIT License"]
    )

    (described,) = site.read()["distributions"]

    assert described["license"] == "MIT License"
    assert telling_line("UNKNOWN") == ""


def test_licences_are_counted_and_the_gravest_are_listed_first(site: Site) -> None:
    site.install("a", "1", ["License-Expression: GPL-3.0-only"])
    site.install("b", "1", [MIT])
    site.install("c", "1")

    found = audit.check_licences(site.read()["distributions"])

    assert [row["name"] for row in found["need_a_look"]] == ["c", "a"]
    assert found["counts"] == {
        "permissive": 1,
        "weak copyleft": 0,
        "strong copyleft": 1,
        "proprietary": 0,
        "unknown": 1,
    }


def test_sizes_are_of_the_recorded_files_that_exist_each_counted_once(site: Site) -> None:
    site.install("big", "1", files={"data.txt": "x" * 5_000, "shared.txt": "y" * 100})
    info = site.install("small", "1", files={"shared.txt": "y" * 100, "small.py": "z" * 7})
    with (info / "RECORD").open("a") as record:
        record.write(f"gone.py,sha256=abc,12\n\n{info.name},,\n")

    found = site.measure()

    assert [(row["name"], row["size_bytes"], row["files"]) for row in found["distributions"]] == [
        ("big", 5_100, 2),
        ("small", 7, 1),
    ]
    assert (found["total_bytes"], found["files"], found["not_measured"]) == (5_107, 3, [])


def test_a_record_cannot_point_outside_of_the_installation(site: Site) -> None:
    info = site.install("nosy", "1", files={"../secret.txt": "s" * 999, "nosy.py": "n"})
    with (info / "RECORD").open("a") as record:
        record.write(f"{info.parent.parent / 'secret.txt'},,\nbad\0name,,\n/etc/hostname,,\n")

    assert site.measure()["total_bytes"] == 1


def test_what_cannot_be_measured_says_why(site: Site) -> None:
    site.install("no-record", "1")
    editable = site.install("editable", "1", files={"editable.pth": "/src"})
    (editable / "direct_url.json").write_text('{"url": "file:///src", "dir_info": {"editable": true}}')
    broken = site.install("broken", "1", files={"broken.py": ""})
    (broken / "RECORD").write_bytes(b"\xff\xfe")
    described = site.read()["distributions"]
    elsewhere = {**described[0], "name": "elsewhere"}
    older = {**described[0], "version": "0"}

    found = site.see(audit.measure_sizes, [*described, elsewhere, older])

    assert sorted((row["name"], row["reason"]) for row in found["not_measured"]) == [
        ("broken", "no readable RECORD"),
        ("broken", "not installed where this step ran"),
        ("editable", "editable: its sources lie elsewhere"),
        ("elsewhere", "not installed where this step ran"),
        ("no-record", "no readable RECORD"),
    ]
    assert found["total_bytes"] == 0


def test_of_two_distributions_with_one_name_the_one_that_an_import_finds_counts(site: Site, tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    behind.mkdir()
    Site(behind).install("Same_Name", "1.0")
    site.install("same-name", "2.0")

    read = Site(*site.directories, behind).read()

    assert [(one["name"], one["version"]) for one in read["distributions"]] == [("same-name", "2.0")]


def test_a_distribution_that_cannot_be_read_is_named_and_the_others_are_audited(site: Site) -> None:
    site.install("fine", "1", [MIT])
    empty = site.directories[0] / "empty-1.dist-info"
    empty.mkdir()
    latin = site.install("latin", "1")
    (latin / "METADATA").write_bytes(b"Name: latin\nVersion: 1\nSummary: caf\xe9\n")

    read, report = site.read(), site.report()

    assert [one["name"] for one in read["distributions"]] == ["fine"]
    assert read["unreadable"] == sorted([empty.name, latin.name])
    assert "2 unreadable distributions" in report["headline"]
    assert f"`{empty.name}`" in report["markdown"]


def test_hostile_metadata_is_shown_as_inert_text(site: Site) -> None:
    hostile = (
        "x`|\\</td><script>alert(1)</script> [a](javascript:b) ![i](//evil.example) www.evil.example "
        "**b** @all \x1b[31m\u202egnp\u200b"
    )
    headers = [f"{key}: {hostile}" for key in ("License", "Requires-Dist", "Summary", "Requires-Python")]
    site.install(hostile, "1`|2", headers)
    site.install("# heading\u2028\u2028- item", "1", ["License: \ufeff" + "y" * 100_000])

    read, page = site.read(), site.report()["markdown"]

    assert {char for char in page if unicodedata.category(char)[0] == "C"} == {"\n"}
    assert all(unicodedata.category(char)[0] != "C" for char in json.dumps(read["distributions"], ensure_ascii=False))
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    assert {child.type for token in tokens for child in token.children or ()} == {
        "text",
        "code_inline",
        "strong_open",
        "strong_close",
    }
    # Two rows and a heading of three cells, two rows and a heading of four: no cell was split or ended early.
    assert [token.type for token in tokens].count("tr_open") == 3 + 3
    assert sum(token.type in ("th_open", "td_open") for token in tokens) == 3 * 3 + 3 * 4
    assert len(page) < 2_500


def test_a_report_says_in_its_first_words_what_is_wrong(site: Site) -> None:
    site.install("app", "1", [MIT, "Requires-Dist: lib>=2", "Requires-Dist: gone"], files={"app.py": "a" * 1_500})
    site.install("lib", "1", ["License-Expression: LGPL-3.0-only"], files={})
    site.install("odd", "1", ["License: as you like"], files={})

    report = site.report()

    assert report["headline"] == "1 conflict, 1 missing requirement, 1 unknown licence, 1.5 kB in 3 distributions"
    assert "| `app` | `lib>=2` | `1` |" in report["markdown"]
    assert "| `app` | `gone` | not installed |" in report["markdown"]
    assert "| `odd` `1` | unknown | `as you like` | License field |" in report["markdown"]
    assert "Weak copyleft (changes to the work itself must be shared): `lib`." in report["markdown"]
    assert "| `app` `1` | 1.5 kB | 100% | 1 |" in report["markdown"]


def test_a_report_of_skipped_steps_says_that_they_were_not_checked() -> None:
    report = audit.compose_report("3.11.0", "linux-x86_64", None, None, None)

    assert report["headline"] == "Requirements not checked, licences not checked, sizes not measured"
    assert report["markdown"].count("Not checked: the step was skipped.") == 3


def test_a_long_table_is_cut_and_says_so(site: Site) -> None:
    for number in range(40):
        site.install(f"name-{number}", "1")

    report = site.report()

    assert "40 unknown licences" in report["headline"]
    assert "… and 25 more" in report["markdown"]
    assert report["markdown"].count("| unknown |") == 15


def test_a_report_is_published_whole_and_twice_is_the_same_as_once(tmp_path: Path) -> None:
    target = tmp_path / "audit.md"
    target.write_text("what was there before, and longer than what comes")

    first = audit.publish_report("# Ünïcode\n", str(target))
    again = audit.publish_report("# Ünïcode\n", str(target))

    assert first == again
    assert (first["path"], first["size_bytes"], len(first["sha256"])) == (str(target), 12, 64)
    assert target.read_text(encoding="utf-8") == "# Ünïcode\n"
    assert list(tmp_path.iterdir()) == [target]


def test_publishing_to_a_link_replaces_the_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "important").write_text("keep")
    (tmp_path / "audit.md").symlink_to(tmp_path / "important")

    audit.publish_report("new", str(tmp_path / "audit.md"))

    assert (tmp_path / "important").read_text() == "keep"
    assert (tmp_path / "audit.md").read_text() == "new"


@pytest.mark.parametrize("path", ["", ".", "audit.txt", ".md", "no/such/place/audit.md", "directory.md", "null\0.md"])
def test_a_path_that_cannot_be_published_to_is_rejected_for_good(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory.md").mkdir()

    with pytest.raises(Rejected, match=r"\.md"):
        audit.publish_report("text", path)

    assert [child.name for child in tmp_path.iterdir()] == ["directory.md"]


def test_the_audit_s_plan_calls_its_agents_as_they_want_to_be_called() -> None:
    document = yaml.safe_load(files("planmesh.demo").joinpath("audit.yaml").read_text("utf-8"))

    plan = msgspec.convert(document, Plan)

    assert_calls_fit(plan, find(["planmesh.demo.agents"], entry_point=False))


def test_the_example_s_plan_calls_its_agents_as_they_want_to_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))

    plan = msgspec.convert(yaml.safe_load((EXAMPLES / "hello.yaml").read_text("utf-8")), Plan)

    assert_calls_fit(plan, find(["hello_agents"], entry_point=False))


def assert_calls_fit(plan: Plan, agents: Mapping[str, Agent]) -> None:
    tasks = [step for step in plan.steps if isinstance(step, Task)]
    assert {task.agent for task in tasks} == set(agents)
    for task in tasks:
        parameters = agents[task.agent].description.parameters
        assert set(task.inputs) <= {parameter.name for parameter in parameters}
        assert set(task.inputs) >= {parameter.name for parameter in parameters if parameter.required}


@given(st.text(max_size=100))
def test_one_line_keeps_only_what_can_be_seen_and_stored(text: str) -> None:
    line = one_line(text, 40)

    assert len(line) <= 40
    assert line == " ".join(line.split())
    assert not any(unicodedata.category(char)[0] == "C" for char in line)


@given(st.text("()= MITorandwithGPL-2.0+"))
def test_every_text_has_a_kind_of_licence(text: str) -> None:
    assert kind_of_expression(text) in KINDS
    assert kind_of_words(text) in KINDS


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (7, "7 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (143_200_000, "143 MB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_sizes_read_well(size_bytes: int, words: str) -> None:
    assert size(size_bytes) == words
