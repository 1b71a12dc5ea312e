"""Text for a terminal: what strangers wrote made harmless; times, durations and sizes in words."""

import re
import textwrap
import unicodedata
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.text import Text

_SUSPECT: Final = re.compile(r"[^\x20-\x7e\n]")
_OURS: Final = str.maketrans("…·→“”○●◆✓✗»–↻‖├└┌─│⋮", '~->"".*?+x>-~=|`,-|:')  # noqa: RUF001


def defuse(text: str) -> str:
    """*text* with everything visible that a terminal would obey, or that hides or reorders what a person reads.

    Plans, agents and the names of things are written by strangers. Control characters (escape sequences among them),
    bidirectional and zero-width ones, and what is no character at all become escapes such as ``\\x1b``. Line breaks
    stay, a tab becomes spaces.
    """
    return _SUSPECT.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\t":
        return "    "
    category = unicodedata.category(char)
    if category not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def whole(line: Text) -> Text:
    """Mark *line* as one that is never cut where the terminal ends: a command to paste, a text to approve."""
    line.overflow = "ignore"
    return line


def paragraph(text: str, width: int, indent: str = "", style: str = "") -> list[Text]:
    """*text*, defused and broken into lines of at most *width*, its own line breaks kept."""
    lines: list[Text] = []
    for line in defuse(text).split("\n"):
        wrapped = textwrap.wrap(line, max(20, width - len(indent)), break_on_hyphens=False, replace_whitespace=False)
        lines += [Text((indent if part else "") + part, style=style) for part in wrapped or [""]]
    return lines


def one_line(text: str, limit: int = 500) -> str:
    """*text*, defused, on one line of at most *limit* characters."""
    # Whatever lies far behind the limit need not be looked at: an output may be megabytes.
    said = " ".join(defuse(text[: 4 * limit]).split())
    return said if len(said) <= limit else f"{said[: limit - 1].rstrip()}…"


def plain(text: str, style: str = "") -> Text:
    """Untrusted text for rich: defused, and with no markup in it."""
    return Text(defuse(text), style=style)


def as_ascii(text: Text) -> Text:
    """The same for a terminal that has ASCII only: our own signs get others of the same width."""
    text = text.copy()
    text.plain = text.plain.translate(_OURS)
    return text


def duration(seconds: float | None) -> str:
    """Such as ``40 ms``, ``1.2 s``, ``3 m 20 s``, ``2 d 4 h``; empty for None."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.0005:
        return "< 1 ms"
    if seconds < 0.0995:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def ago(at: datetime, now: datetime) -> str:
    """Such as ``3 m ago``."""
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 1 else f"{_coarse(seconds)} ago"


def until(at: datetime, now: datetime) -> str:
    """Such as ``in 3 m``, to the nearest; ``3 m ago`` once it has passed."""
    seconds = (at - now).total_seconds()
    return f"in {_coarse(seconds, 0.5)}" if seconds > 0 else ago(at, now)


def _coarse(seconds: float, up: float = 0.01) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 0.99 * size:
            return f"{int(seconds / size + up)} {unit}"
    return f"{max(1, int(seconds))} s"


def clock(at: datetime, now: datetime | None = None) -> str:
    """The time of day where the reader is; with the date, unless it is today's."""
    now = now or datetime.now(UTC)
    local = at.astimezone()
    today = local.date() == now.astimezone().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"


def size(size_bytes: int) -> str:
    """Such as ``612 bytes``, ``3.4 KiB``, ``1.2 MiB``, ``5.0 GiB``."""
    if size_bytes < 1024:
        return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
    amount = size_bytes / 1024
    for unit in ("KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """Such as ``1 step``, ``1,200 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    """``a, b and c``; what is beyond *most* is counted."""
    names = list(names)
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1:,} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def value(what: object, limit: int = 500) -> str:
    """A JSON value on one line; a text without its quotes."""
    if isinstance(what, str):
        return one_line(what, limit)
    # As in JSON, but readable: not everything beyond ASCII is escaped.
    return one_line(msgspec.json.encode(what).decode(), limit)
