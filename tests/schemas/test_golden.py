"""The stored messages of every type are understood for ever: files are added to tests/golden, never edited."""

import json
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import pytest

from planmesh import contract
from planmesh.contract import CHANNELS, Sample
from planmesh.schemas import plan
from planmesh.schemas.codec import Codec, encode
from planmesh.schemas.events import Commit
from planmesh.schemas.work import Results

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def codec_of(name: str) -> Codec[Any]:
    """What whoever receives such a message decodes it with: all that may come on its channel."""
    for channel in CHANNELS:
        for together in (channel.messages, channel.replies):
            types = [one for one in together if isinstance(one, type)]
            if name in [one.__name__ for one in types]:
                return Codec(reduce(or_, types))
    assert name == plan.Plan.__name__, f"tests/golden/{name}*.json is no message of planmesh.contract.CHANNELS"
    return Codec(plan.Plan)


@pytest.mark.parametrize("sample", contract.samples(), ids=lambda sample: sample.name)
def test_there_is_a_stored_message_of_every_type(sample: Sample) -> None:
    file = GOLDEN / f"{sample.name}.json"
    within = "" if sample.part is sample.message else f" with a {sample.part.__name__} in it"

    assert file.exists(), (
        f"add tests/golden/{file.name}: a {sample.message.__name__}{within}, as `planmesh.schemas.codec.encode` writes "
        "it, indented. Never edit the file later: a change of its meaning needs a new type"
    )
    found = codec_of(sample.message.__name__).decode(file.read_bytes())
    assert any(type(one) is sample.part for one in (found, *parts(found)))


def parts(message: Any) -> tuple[Any, ...]:
    of = {Commit: "events", Results: "results", plan.Plan: "steps"}
    return tuple(getattr(message, of[type(message)])) if type(message) in of else ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stored_message_is_read_and_written_the_same(file: Path) -> None:
    data = file.read_bytes()

    message = codec_of(file.stem.split(".")[0].split("-")[0]).decode(data)

    assert json.loads(encode(message)) == json.loads(data)
