"""Tells a script from a plan document in YAML or JSON, by its first line that says anything."""

import re
from typing import Final

SUFFIX: Final = ".plan"

# No line of YAML or JSON that begins a plan document looks like one of these: a key is followed by a colon.
_SCRIPT: Final = re.compile(
    r"--(?!-)|->"  # a comment, a binding
    r'|[A-Za-z_]\w*[ \t]+"(?!.*"[ \t]*:(?:[ \t]|$))'  # do "Label" …
    r"|[A-Za-z_]\w*[ \t]*=(?!=)"  # name = value
    r"|(?:input|output)[ \t]*(?:--.*)?$"
    r"|let[ \t]+\w+[ \t]*="
    r"|(?:run|concurrency|ordered)[ \t]+\w+[^:]*$"
    r"|each[ \t]+\w+[ \t]+in\b"
    r"|(?:do|plan|agent|ask|gate|decide|check|emit)[ \t][^:]*$"
)
_BLANK: Final = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?\n)*+[ \t]*")
_LONGEST_LINE: Final = 1_000


class Script(str):
    """A text that is a script, whatever it looks like: it came from a file that says so."""

    __slots__ = ()


def is_script(document: object) -> bool:
    """Whether *document* is a script: text that begins as none of the other forms does."""
    if isinstance(document, Script):
        return True
    if not isinstance(document, str):
        return False
    text = document.removeprefix("\ufeff")
    blank = _BLANK.match(text)
    start = blank.end() if blank is not None else 0
    end = text.find("\n", start, start + _LONGEST_LINE)
    return _SCRIPT.match(text[start : end if end >= 0 else start + _LONGEST_LINE].rstrip()) is not None
