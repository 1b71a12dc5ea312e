"""How the graph of a plan is drawn."""

from hypothesis import given
from hypothesis import strategies as st

from planmesh.cli.tree import layout, reduced

Needs = dict[str, tuple[str, ...]]


def drawn(needs: Needs) -> list[str]:
    return [
        f"{place.rails}{place.name}" + (f" (after {', '.join(place.after)})" if place.after else "")
        for place in layout(needs)
    ]


def test_a_chain_stands_below_itself_however_long_it_is() -> None:
    chain: Needs = {"s0": (), **{f"s{number}": (f"s{number - 1}",) for number in range(1, 200)}}

    assert drawn(chain) == list(chain)


def test_what_starts_at_one_point_branches_and_what_joins_goes_on_at_the_left() -> None:
    assert drawn(
        {
            "read": (),
            "licences": ("read",),
            "sizes": ("read",),
            "summarise": ("sizes",),
            "requirements": ("read",),
            "compose": ("read", "licences", "summarise", "requirements"),
            "publish": ("compose", "read"),
        }
    ) == [
        "read",
        "├─ licences",
        "├─ sizes",
        "│  summarise",
        "└─ requirements",
        "compose",
        "publish",
    ]


def test_branches_branch() -> None:
    assert drawn(
        {
            "s": (),
            "a": ("s",),
            "a1": ("a",),
            "a2": ("a",),
            "a3": ("a1", "a2"),
            "b": ("s",),
            "end": ("a3", "b"),
        }
    ) == ["s", "├─ a", "│  ├─ a1", "│  └─ a2", "│  a3", "└─ b", "end"]


def test_several_beginnings_are_bracketed() -> None:
    assert drawn({"a": (), "b": (), "c": ("a", "b")}) == ["┌─ a", "└─ b", "c"]


def test_where_the_place_does_not_say_it_a_step_says_what_it_waits_for() -> None:
    assert drawn({"a": (), "b": (), "c": ("a",), "d": ("a", "b"), "e": ("b",)}) == [
        "┌─ a",
        "│  c",
        "└─ b",
        "   e",
        "d (after a, b)",
    ]


def test_the_order_of_the_document_does_not_matter() -> None:
    assert drawn({"c": ("b",), "b": ("a",), "a": ()}) == ["a", "b", "c"]


def test_needs_that_others_imply_are_no_edges() -> None:
    assert reduced({"a": (), "b": ("a",), "c": ("a", "b")}) == {"a": (), "b": ("a",), "c": ("b",)}


def test_a_circle_is_drawn_all_the_same() -> None:
    assert sorted(drawn({"a": ("b",), "b": ("a",)})) == ["a", "b"]


@st.composite
def graphs(draw: st.DrawFn) -> Needs:
    count = draw(st.integers(1, 30))
    return {
        f"s{number}": tuple(
            f"s{need}" for need in draw(st.sets(st.integers(0, number - 1), max_size=4) if number else st.just(set()))
        )
        for number in range(count)
    }


@given(graphs())
def test_every_step_is_drawn_once_and_below_everything_that_it_needs(needs: Needs) -> None:
    lines = {place.name: number for number, place in enumerate(layout(needs))}

    assert sorted(lines) == sorted(needs)
    assert all(lines[need] < lines[name] for name, of in needs.items() for need in of)
