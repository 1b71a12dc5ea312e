"""Values that travel: inline while they are small, by claim check when they are not.

Source of the pattern: Hohpe and Woolf, *Enterprise Integration Patterns*, "Claim Check".
"""

import hashlib
from typing import Any, Final

import msgspec
from msgspec import Struct

INLINE_OUTPUT_BYTES: Final = 8 * 1024
INLINE_INPUTS_BYTES: Final = 256 * 1024
MAX_BLOB_BYTES: Final = 7 * 1024 * 1024  # one message; `max_payload` is 8 MiB

_encoder = msgspec.json.Encoder(order="deterministic")


class Blob(Struct, frozen=True, kw_only=True):
    """A claim check: JSON bytes in the stream BLOBS, found and verified by their SHA-256 (hex)."""

    sha256: str
    size_bytes: int


class Payload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON value, or the claim check for one."""

    value: Any = None
    blob: Blob | None = None


NOTHING: Final = Payload()


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return _encoder.encode(value)


def blob_of(data: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of *value*."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_of(payload: Payload) -> str:
    """SHA-256 (hex) of the value, the same whether it is inline or a blob."""
    return payload.blob.sha256 if payload.blob is not None else digest(payload.value)
