"""Answers for programs: JSON, YAML and JSON lines, of the structs that `planmesh.schemas` defines.

Lossless, and still harmless to a terminal: what would hide or reorder text is escaped.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from planmesh.cli.session import Output
from planmesh.cli.text import defuse

# Whatever `defuse` would change, and JSON lets stand: only strings can hold it, so an escape means the same.
_RAW: Final = re.compile(r"[^\x20-\x7e\n]")


def as_json(value: Any) -> str:
    """Indented JSON."""
    return _harmless(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def as_line(value: Any) -> str:
    """JSON on one line."""
    return _harmless(msgspec.json.encode(value).decode())


def as_yaml(value: Any) -> str:
    """YAML, for reading: what JSON can hold."""
    import yaml

    built = msgspec.to_builtins(value, str_keys=True)
    text = yaml.safe_dump(built, sort_keys=False, allow_unicode=True, width=120)
    if defuse(text) != text:
        text = yaml.safe_dump(built, sort_keys=False, allow_unicode=False, width=120)
    return text.rstrip("\n")


def as_rows(rows: Iterable[Any], output: Output) -> Iterable[str]:
    """Many of a kind: an array of them, or one a line."""
    if output == "jsonl":
        return (as_line(row) for row in rows)
    listed = list(rows)
    return (as_yaml(listed) if output == "yaml" else as_json(listed),)


def as_one(value: Any, output: Output) -> str:
    """One of a kind."""
    return {"jsonl": as_line, "yaml": as_yaml}.get(output, as_json)(value)


def _harmless(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        char = match[0]
        if defuse(char) == char:
            return char
        code = ord(char)
        if code <= 0xFFFF:
            return f"\\u{code:04x}"
        code -= 0x10000  # a pair of surrogates, RFC 8259, section 7
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"

    return _RAW.sub(escape, text)
