"""Text for a terminal: harmless, and in words."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.cli.text import ago, as_ascii, defuse, duration, listed, one_line, paragraph, plain, size, until, value

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\x0db"),
        ("\x9b31m", "\\x9b31m"),
        ("exe.\u202egnp", "exe.\\u202egnp"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("two\nlines\tand a tab", "two\nlines    and a tab"),
        ("Grüße, 世界 ✓", "Grüße, 世界 ✓"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(hostile: str, shown: str) -> None:
    assert defuse(hostile) == shown


@given(st.text())
def test_nothing_that_hides_or_reorders_text_is_left(hostile: str) -> None:
    shown = defuse(hostile)

    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown if char != "\n")
    assert defuse(shown) == shown


def test_markup_of_a_stranger_is_text() -> None:
    assert plain("[red]no[/red] [link=file:///]x[/link]").plain == "[red]no[/red] [link=file:///]x[/link]"


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_of_at_most_so_many_characters(text: str, limit: int) -> None:
    line = one_line(text, limit)

    assert "\n" not in line
    assert len(line) <= limit


@given(st.text(max_size=300), st.integers(30, 120))
def test_a_paragraph_keeps_within_its_width(text: str, width: int) -> None:
    assert all(len(line.plain) <= width for line in paragraph(text, width, "    "))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (-1.0, "< 1 ms"),
        (0.0004, "< 1 ms"),
        (0.04, "40 ms"),
        (0.0996, "0.1 s"),
        (1.24, "1.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 m"),
        (200, "3 m 20 s"),
        (7_260, "2 h 1 m"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_are_short(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_times_are_told_from_here() -> None:
    assert ago(NOON - timedelta(seconds=0.4), NOON) == "just now"
    assert ago(NOON - timedelta(minutes=3, seconds=50), NOON) == "3 m ago"
    assert until(NOON + timedelta(hours=3, minutes=59, seconds=59), NOON) == "in 4 h"
    assert until(NOON + timedelta(hours=3, minutes=58), NOON) == "in 4 h"
    assert until(NOON + timedelta(hours=3, minutes=20), NOON) == "in 3 h"
    assert until(NOON - timedelta(days=2), NOON) == "2 d ago"


def test_values_are_shown_as_a_person_reads_them() -> None:
    assert value("a text\nof two lines") == "a text of two lines"
    assert value({"n": 1, "s": "ü"}) == '{"n":1,"s":"ü"}'
    assert size(1) == "1 byte"
    assert size(1_536) == "1.5 KiB"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d", "e"], 3) == "a, b and 3 more"


def test_a_terminal_of_ascii_gets_signs_of_the_same_width() -> None:
    drawn = plain("├─ ✓ licences · → pass …")

    assert as_ascii(drawn).plain.isascii()
    assert len(as_ascii(drawn).plain) == len(drawn.plain)
