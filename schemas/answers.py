"""Answers to an `ask`: which ones it takes, and how a text that somebody has typed becomes one. Pure."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final, Literal, TypeAlias

AnswerType: TypeAlias = Literal["text", "number", "boolean"]

MAX_TEXT_CHARACTERS: Final = 65_536

_LARGEST: Final = 2**63  # what most programs that read JSON take for a whole number
_LONGEST_NUMBER: Final = 400
_TYPED: Final = {"true": True, "yes": True, "y": True, "false": False, "no": False, "n": False}
_WHOLE: Final = re.compile(r"[-+]?[0-9]+")


def expected(answer: AnswerType, options: Sequence[str] = ()) -> str:
    """What an `ask` takes, in words."""
    if options:
        shown = [option if len(option) <= 60 else f"{option[:60]}…" for option in options[:20]]
        more = f" ({len(options) - 20} more)" if len(options) > 20 else ""
        return f"one of {', '.join(shown)}{more}"
    return {"text": "a text", "number": "a number", "boolean": "true or false"}[answer]


def misfit(value: Any, answer: AnswerType, options: Sequence[str] = ()) -> str:
    """What was expected instead of *value*, and what was found; empty if it is an answer. Never repeats a text: it may
    have been meant for another field."""
    wanted = expected(answer, options)
    if answer == "text":
        if not isinstance(value, str):
            return f"expected {wanted}; found {_kind(value)}"
        if options and value not in options:
            near = get_close_matches(value[:200], options, 1)
            return f"expected {wanted}" + (f"; did you mean {near[0]}?" if near else "; found another text")
        if len(value) > MAX_TEXT_CHARACTERS:
            return f"expected a text of at most {MAX_TEXT_CHARACTERS:,} characters; found one of {len(value):,}"
    elif answer == "boolean":
        if not isinstance(value, bool):
            return f"expected {wanted}; found {_kind(value)}"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return f"expected {wanted}; found {_kind(value)}"
    elif abs(value) > _LARGEST if isinstance(value, int) else not isfinite(value):
        return f"expected {wanted}; found one that is too large to be stored"
    return ""


def typed(text: str, answer: AnswerType) -> Any:
    """What somebody means who has typed *text*; the text itself where it cannot be read, which `misfit` then says."""
    said = text.strip()
    if answer == "boolean":
        return _TYPED.get(said.lower(), text)
    if answer == "number" and len(said) <= _LONGEST_NUMBER:
        if _WHOLE.fullmatch(said):
            return int(said)
        try:
            number = float(said)
        except ValueError:
            return text
        return number if isfinite(number) else text
    return text


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"
