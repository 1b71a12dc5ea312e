"""Thirty rounds: real processes are killed, paused, cut off, and run out of room, while random plans run. Whatever is
done to them, every promise holds, says the log.

A round that fails names itself; ``python tests/chaos --seed ROUND --rounds 1`` plays it again, and more than thirty
with ``--rounds``.
"""

import logging
from pathlib import Path

import pytest
import structlog
from rounds import KINDS, ROUNDS_A_MESH, play


@pytest.mark.chaos
@pytest.mark.timeout(1_200)  # on two quiet cores, it takes a sixth of this
async def test_whatever_is_done_to_a_mesh_the_promises_hold(tmp_path: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    tally = await play(range(len(KINDS) * ROUNDS_A_MESH), tmp_path)  # raises Broken

    print(tally)
    assert tally.missing == []
    assert tally.commits > 1_000
