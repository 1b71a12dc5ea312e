"""Finds what must not be in a plan: the log keeps every word of it for good, and many may read it."""

import re
from typing import Any, Final

import msgspec

from planmesh.planner.problems import Problems

# Only what is nothing else, by the prefixes that its issuers document. Each begins with letters that are rarely in
# a text and has a bound where it may go on, so that looking costs little, whatever the text.
_KINDS: Final = {
    "a private key": r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60})",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{32}",
    "an address with a password": r"://[^\s/:@\"{}]{1,100}:[^\s/@\"{}]{1,100}@",
}
_SECRET: Final = re.compile("|".join(f"({pattern})" for pattern in _KINDS.values()))


def find_secret(text: str) -> str:
    """What kind of secret is in *text*; empty if none is."""
    match = _SECRET.search(text)
    return "" if match is None else list(_KINDS)[(match.lastindex or 1) - 1]


def refuse_secrets(value: dict[str, Any], problems: Problems) -> None:
    """Add a problem for each text of *value* (JSON) that holds what can only be a secret."""
    if not find_secret(msgspec.json.encode(value).decode()):
        return
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    while waiting:
        inner, at = waiting.pop()
        if isinstance(inner, str):
            if kind := find_secret(inner):
                problems.add(
                    "secret",
                    f"this holds what looks like {kind}, and a plan is kept in the log for good",
                    *at,
                    hint="give it to the agent where the agent runs, and name it in the step's `permissions.secrets`",
                )
        elif isinstance(inner, dict):
            waiting.extend((child, (*at, key)) for key, child in reversed(inner.items()))
        elif isinstance(inner, list):
            waiting.extend((child, (*at, index)) for index, child in reversed(list(enumerate(inner))))
