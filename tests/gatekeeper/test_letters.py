"""The wording of notices, and what an operator can make of it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from planmesh.gatekeeper.letters import BODY_CHARACTERS, KINDS, Letters, sample, samples


def letters(directory: Path, **templates: str) -> Letters:
    for name, text in templates.items():
        file = directory / f"{name.replace('__', '/')}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return Letters(directory)


def test_every_kind_of_notice_has_a_template() -> None:
    for said in samples():
        notice = Letters().write(said)

        assert "\n" not in notice.subject
        assert "\n\n\n" not in notice.body
        assert notice.body == notice.body.strip()
    assert {said.kind for said in samples()} == set(KINDS)


def test_an_operator_replaces_one_template_and_keeps_the_others(tmp_path: Path) -> None:
    mine = letters(tmp_path, opened='Bitte entscheiden: {{ gate.name }}\n\n{% include "parts/link.txt" %}\nDanke.')

    notice = mine.write(sample("opened"))

    assert notice.subject == "Bitte entscheiden: Approve the payment"
    assert notice.body.startswith("Read it, and decide: https://")
    assert notice.body.endswith("\nDanke.")
    assert mine.write(sample("overdue")) == Letters().write(sample("overdue"))
    assert mine.problems() == []


def test_an_operator_replaces_one_part_of_all(tmp_path: Path) -> None:
    mine = letters(tmp_path, parts__rules="Ask the treasury if in doubt.")

    for kind in ("opened", "overdue"):
        assert mine.write(sample(kind)).body.endswith("Ask the treasury if in doubt.")
    assert mine.problems() == []


def test_what_a_template_makes_of_a_subject_is_one_line_that_mentions_nobody(tmp_path: Path) -> None:
    mine = letters(tmp_path, opened="{{ 'a\\r\\nBcc: x@y.org \u202e@here' | replace('\\n', ' ') }}\nbody")

    assert mine.write(sample("opened")).subject == "a Bcc: x(at)y[.]org (at)here"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("subject\n\n{% if %}", "opened.txt, line 3: Expected an expression"),
        ("subject\n{{ nobody }}", "opened.txt, line 2: 'nobody' is undefined"),
        ("subject\n{{ gate.nothing }}", "opened.txt, line 2: "),
        ('subject\n{% include "parts/lnik.txt" %}', "opened.txt, line 2: parts/lnik[.]txt"),
        ("subject\n{{ 1 / 0 }}", "opened.txt, line 2: division by zero"),
        ("subject\n{{ plan.__class__.__mro__ }}", "opened.txt, line 2: access to attribute '__class__'"),
        ("subject\n{% for x in range(999999999) %}x{% endfor %}", "opened.txt, line 2: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}s\n{{ m() }}", "maximum recursion depth exceeded"),
        ("only a subject", "opened.txt gives no subject and body"),
        ("", "opened.txt gives no subject and body"),
    ],
)
def test_a_template_that_does_not_work_is_named_and_the_notice_goes_out(
    tmp_path: Path, template: str, said: str
) -> None:
    mine = letters(tmp_path, opened=template)

    (problem,) = mine.problems()
    with capture_logs() as logs:
        notice = mine.write(sample("opened"))

    assert said in problem
    assert notice == Letters().write(sample("opened"))
    (logged,) = logs
    assert (logged["event"], logged["log_level"], logged["template"]) == ("notice.template_broken", "error", "opened")
    assert said in logged["error"]


def test_a_template_works_only_if_it_does_for_every_gate(tmp_path: Path) -> None:
    mine = letters(tmp_path, opened="{{ gate.name }}\n{{ next[0].name }}")

    assert mine.problems() == ["opened.txt, line 2: tuple object has no element 0"]


def test_a_file_that_is_no_template_is_named(tmp_path: Path) -> None:
    mine = letters(tmp_path, openend="x\ny", parts__link="", my__own="")

    assert mine.problems() == ["openend.txt: there is no notice of this name; did you mean opened.txt?"]
    assert Letters(tmp_path / "nowhere").problems() == [f"there is no directory {tmp_path / 'nowhere'}"]


def test_a_template_reads_nothing_outside_its_directory(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "mine").mkdir()
    mine = letters(tmp_path / "mine", opened='subject\n{% include "../secret.txt" %}')

    assert "secret" not in mine.write(sample("opened")).body
    assert len(mine.problems()) == 1


def test_a_template_cannot_make_a_notice_endless(tmp_path: Path) -> None:
    mine = letters(tmp_path, opened="subject\n{% for x in range(60000) %}xxxx {% endfor %}")

    assert len(mine.write(sample("opened")).body) == BODY_CHARACTERS
