"""Places in the text of a plan document."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planmesh.places import Spot, broken_at, locate

TEXT = """\
name: Demo
steps:
  - name: a
    kind: task
    after: [x,
            b]
  - {name: c, kind: gate}
"""


def test_a_pointer_leads_to_a_line_or_nowhere() -> None:
    found = locate(TEXT, ["/steps/0/after/1", "/steps/1", "/steps/1/kind", "/steps/7", "/inputs/x", ""])

    assert found == {
        "/steps/0/after/1": Spot(6, 13),
        "/steps/1": Spot(7, 5),
        "/steps/1/kind": Spot(7, 15),
        "": Spot(1, 1),
    }
    assert locate("a: [", ["/a"]) == {}


@pytest.mark.parametrize(
    ("text", "spot"),
    [(TEXT, None), ("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: b: c\n", 1), ("\ta: 1\n", 1), ("x" * 300_000 + ": [", None)],
)
def test_what_is_no_yaml_has_a_line(text: str, spot: int | None) -> None:
    found = broken_at(text)

    assert (found and found.line) == spot


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_a_place_in_itself_or_none(text: str) -> None:
    found = broken_at(text)

    assert found is None or 1 <= found.line <= len(text.splitlines()) + 2
