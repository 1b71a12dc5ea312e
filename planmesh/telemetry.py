"""Logs: events with keys, on stderr, as JSON lines for machines or as coloured lines for people.

Get a logger with ``structlog.get_logger()``, and say what happened as ``<thing>.<event>`` with keys:
``log.info("step.completed", plan="shop.p1", step="build", attempt=2)``. An event below the level costs one call of
an empty function. Payloads, passwords and tokens are not logged; should one get into an event, it is hidden here.
"""

import json
import logging
import sys
from typing import Any, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from planmesh.errors import Unusable

LogFormat = Literal["auto", "console", "json"]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_HIDDEN: Final = frozenset(
    {"authorization", "credentials", "data", "headers", "password", "payload", "secret", "token"}
)


def configure_logging(level: str = "info", format: LogFormat = "auto", service: str = "planmesh") -> None:
    """Say once, at the start of the process, what is logged and how.

    Args:
        level: The least important level to log: debug, info, warning or error.
        format: `json`, `console`, or `auto`: console if stderr is a terminal.
        service: Stands in each line, under this name.

    Raises:
        Unusable: Another level or format.
    """
    if level not in LEVELS:
        raise Unusable(f"the log level must be one of {', '.join(LEVELS)}, not {level[:40]!a}")
    if format not in ("auto", "console", "json"):
        raise Unusable(f"the log format must be auto, console or json, not {format[:40]!a}")
    terminal = sys.stderr.isatty()
    console = format == "console" or (format == "auto" and terminal)

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    # At a terminal a line is to fit into one: `planmesh up` says in front of it which service it is of.
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console, key="time")
    processors: list[Processor] = [structlog.processors.add_log_level, stamp, _hide]
    if not console:
        processors.append(add_service)
    factory: Any
    if console:
        # Plain tracebacks: the pretty ones show local variables, and with them payloads and passwords.
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal, exception_formatter=structlog.dev.plain_traceback, timestamp_key="time", pad_event_to=0
        )
        processors += [structlog.processors.format_exc_info, _defuse, renderer]
        factory = structlog.PrintLoggerFactory(_StandardError())  # type: ignore[arg-type]
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_serialize)]
        factory = structlog.BytesLoggerFactory(_StandardError())  # type: ignore[arg-type]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    _forward_the_libraries(max(LEVELS[level], logging.WARNING))


def _hide(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in _HIDDEN & event.keys():
        event[key] = "(hidden)"
    return event


def _defuse(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make visible what a terminal would obey: names, errors and tracebacks may be what a stranger wrote."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(
                char if char.isprintable() or (char == "\n" and key == "exception") else ascii(char)[1:-1]
                for char in value
            )
    return event


def _serialize(event: dict[str, Any], **_settings: Any) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=repr)
    except ValueError:
        # A lone surrogate, of which a hostile name may consist, is not UTF-8; escaped, it can be written.
        return json.dumps(event, default=repr).encode()


class _StandardError:
    """Standard error as it is when something is written: whoever captures it replaces it, and loggers are kept."""

    def write(self, line: str | bytes) -> None:
        if isinstance(line, str):
            sys.stderr.write(line)
        else:
            sys.stderr.buffer.write(line)

    def flush(self) -> None:
        sys.stderr.flush()


class _Forward(logging.Handler):
    """Gives what libraries log to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, "library.said", library=record.name, text=record.getMessage(), exc_info=record.exc_info)


def _forward_the_libraries(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(level)
