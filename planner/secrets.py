"""Finds what must not be in a plan: the log keeps every word of it for good, and many may read it."""

import re
from typing import Any, Final

import msgspec

from planmesh.planner.problems import Problems

# Only what is nothing else, by the prefixes that its issuers document. Each pattern begins with letters, for which
# looking is quick, looks back from there for the begin of the word, and has a bound where it may go on.
_KINDS: Final = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"),
    "an AWS access key": re.compile(r"A[KS]IA(?<![A-Za-z0-9]A[KS]IA)[0-9A-Z]{16}(?![0-9A-Z])"),
    "a GitHub token": re.compile(r"gh[opsur]_(?<![A-Za-z0-9]gh[opsur]_)[A-Za-z0-9]{36}"),
    "a fine-grained GitHub token": re.compile(r"github_pat_[A-Za-z0-9_]{60}"),
    "a Slack token": re.compile(r"xox[abeoprs]-[A-Za-z0-9-]{10}"),
    "an API key": re.compile(r"sk-(?<![A-Za-z0-9_-]sk-)(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{32}"),
    "an address with a password": re.compile(r"://[^\s/:@\"{}]{1,100}:[^\s/@\"{}]{1,100}@"),
}


def find_secret(text: str) -> str:
    """What kind of secret is in *text*; empty if none is."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(text)), "")


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
                    hint="ask for it (`ask` with `secret`), or give it to the agent where the agent runs",
                )
        elif isinstance(inner, dict):
            waiting.extend((child, (*at, key)) for key, child in reversed(inner.items()))
        elif isinstance(inner, list):
            waiting.extend((child, (*at, index)) for index, child in reversed(list(enumerate(inner))))
