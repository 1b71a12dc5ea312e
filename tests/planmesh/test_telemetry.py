import json
import subprocess
import sys
from typing import Any

import pytest
import structlog

from planmesh.errors import Unusable
from planmesh.telemetry import configure_logging

SAY = """
import logging, sys
import structlog
from planmesh.telemetry import configure_logging

log = structlog.get_logger()
configure_logging(sys.argv[1], sys.argv[2], "executor")
log.debug("cache.hit", plan="p")
log.info("step.completed", plan="shop.p\\ud800", step="build", duration_s=0.5)
log.info("user.made", password="hunter2", payload=b"hunter2", token="hunter2")
try:
    secret = "hunter2"
    raise LookupError("no such plan")
except LookupError:
    log.exception("message.bug")
logging.getLogger("nats").error("lost %s", "it")
logging.getLogger("nats").info("chatter")
"""


def said(level: str, format: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", SAY, level, format], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert run.stdout == ""
    return run.stderr


def lines(level: str, format: str = "json") -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(level, format).splitlines()]


def test_a_line_is_an_event_with_keys() -> None:
    line = lines("info")[0]

    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "step.completed",
        "level": "info",
        "service": "executor",
        "plan": "shop.p\ud800",
        "step": "build",
        "duration_s": 0.5,
    }


def test_what_is_less_important_than_the_level_is_not_logged() -> None:
    assert next(line["event"] for line in lines("debug")) == "cache.hit"
    assert [line["event"] for line in lines("error")] == ["message.bug", "library.said"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_is_logged_not_even_as_a_local_variable_of_a_traceback(format: str) -> None:
    text = said("debug", format)

    assert "no such plan" in text
    assert "Traceback (most recent call last)" in text
    assert "password" in text
    assert "hunter2" not in text


def test_libraries_are_heard_from_warnings_on() -> None:
    (line,) = [line for line in lines("debug") if line["event"] == "library.said"]

    assert (line["library"], line["level"], line["text"]) == ("nats", "error", "lost it")


def test_where_there_is_no_terminal_there_are_no_colours_and_auto_means_json() -> None:
    assert "\x1b[" not in said("info", "console")
    assert lines("info", "auto")[0]["event"] == "step.completed"


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml")])
def test_another_level_or_format_is_refused(level: str, format: Any) -> None:
    with pytest.raises(Unusable, match="must be"):
        configure_logging(level, format)


def test_a_terminal_obeys_nothing_that_a_stranger_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console", "executor")
    log = structlog.get_logger()

    log.warning("message.set_aside", subject="goals.a.\x1b[2J", error="two \x1b]0;words\x07")
    try:
        raise ValueError("\x1b[31m red")
    except ValueError:
        log.exception("message.bug")

    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "goals.a.\\x1b[2J" in text
    assert "ValueError: \\x1b[31m red\n" in text
