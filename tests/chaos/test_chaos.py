"""Thirty rounds: real processes are killed, paused, cut off, and run out of room, while random plans run. Whatever is
done to them, every promise holds, says the log.

A round that fails names itself; ``python tests/chaos --seed ROUND --rounds 1`` plays it again, and more than thirty
with ``--rounds``.
"""

from pathlib import Path

import pytest
from rounds import KINDS, ROUNDS_A_MESH, rounds


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", range(len(KINDS)), ids=[kind.name for kind in KINDS])
async def test_whatever_is_done_to_a_mesh_the_promises_hold(block: int, tmp_path: Path) -> None:
    first = block * ROUNDS_A_MESH
    played = [told async for told in rounds(range(first, first + ROUNDS_A_MESH), tmp_path)]

    assert sum(told.commits for told in played) > 100, [str(told) for told in played]
