"""Thousands of stories, each from a seed: whatever happens, at whichever await, the promises hold."""

import os

import pytest
from story import tell

STORIES = int(os.environ.get("PLANMESH_STORIES", "2000"))
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_promises_hold(part: int) -> None:
    for seed in range(part, STORIES, PARTS):
        try:
            tell(seed)
        except Exception as error:
            error.add_note(f"the story of seed {seed}: python tests/simulation {seed}")
            raise
