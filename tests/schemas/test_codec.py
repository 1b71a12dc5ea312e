"""Bytes to messages: whatever a stranger sends is read in the time that its length takes."""

import time

import pytest

from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError, check_depth


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"', b'"'])
def test_a_string_without_an_end_is_read_once(end: bytes) -> None:
    message = b"[" * 20 + b"]" * 20 + b'"' + b'\\"' * 500_000 + end

    began = time.process_time()
    check_depth(message)

    assert time.process_time() - began < 1  # read on from each of its quotes, it would take an hour


@pytest.mark.parametrize("text", ['"[[[["', r'"\"[[[["', r'"\\"', '"{"'])
def test_brackets_in_strings_open_nothing(text: str) -> None:
    message = f"[{','.join([text] * 20)}]".encode()

    check_depth(message, limit=1)


def test_what_is_nested_too_deep_is_refused_where_it_begins() -> None:
    with pytest.raises(DecodeError, match="byte 32 opens level 33") as refused:
        codec.value.decode(b"[" * 33 + b"]" * 33)

    assert refused.value.code == "too_deep"
