"""Masks secrets in what comes back from an agent that was given them, before it is published.

Best effort, and no more: an agent that means to tell a secret can always write it in another way. It catches the usual
accidents: an input that is returned, a URL or a header in the text of an error.
"""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import msgspec

MASKED: Final = "***"
_LONG_CHARACTERS: Final = 6


class Mask:
    """Puts `MASKED` in place of *secrets*: anywhere in a text, or, of those of less than 6 characters, which any text
    could have by chance, where they are the whole of it."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Whoever uses what was pasted with a space or the end of a line is wont to take that off.
        self._whole = frozenset(form for secret in secrets for form in (secret, secret.strip()))
        found = {form for secret in self._whole if len(secret) >= _LONG_CHARACTERS for form in _forms(secret)}
        self._parts = sorted(found, key=len, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._whole)

    def text(self, text: str) -> str:
        if text in self._whole:
            return MASKED
        for part in self._parts:
            text = text.replace(part, MASKED)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value, with all texts and keys in it."""
        if not self:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self.value(inner) for key, inner in value.items()}
            case list():
                return [self.value(inner) for inner in value]
            case _:
                return value


def _forms(secret: str) -> Iterable[str]:
    """A secret as it is, and as errors and addresses are wont to quote it."""
    return (secret, repr(secret)[1:-1], msgspec.json.encode(secret).decode()[1:-1], quote(secret, safe=""))
