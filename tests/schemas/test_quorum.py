"""When a gate opens: held against an oracle that tries everything."""

from collections.abc import Sequence
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from planmesh.schemas.plan import Share
from planmesh.schemas.quorum import is_enough, missing

GROUPS = ("role:cfo", "team:legal", "team:sales", "role:operator")

shares = st.lists(
    st.builds(Share, of=st.sampled_from(GROUPS), count=st.integers(1, 2)), max_size=2, unique_by=lambda share: share.of
)
approvals = st.lists(st.lists(st.sampled_from(GROUPS), unique=True, max_size=3).map(tuple), max_size=5)


def by_trying_everything(quorum: int, wanted: Sequence[Share], approving: Sequence[Sequence[str]]) -> bool:
    """Whether there is any way to put people on all places, one each."""
    places = [share.of for share in wanted for _ in range(share.count)]
    if len(approving) < max(quorum, len(places)):
        return False
    return any(
        all(place in approving[person] for place, person in zip(places, seated, strict=True))
        for seated in permutations(range(len(approving)), len(places))
    )


@given(st.integers(1, 5), shares, approvals)
def test_a_gate_opens_exactly_when_there_is_a_way_to_seat_everybody(
    quorum: int, wanted: list[Share], approving: list[tuple[str, ...]]
) -> None:
    assert is_enough(quorum, wanted, approving) == by_trying_everything(quorum, wanted, approving)


@given(st.integers(1, 5), shares, approvals, st.lists(st.sampled_from(GROUPS), unique=True))
def test_one_more_approval_never_closes_a_gate(
    quorum: int, wanted: list[Share], approving: list[tuple[str, ...]], groups: list[str]
) -> None:
    if is_enough(quorum, wanted, approving):
        assert is_enough(quorum, wanted, [*approving, groups])


@given(st.integers(1, 5), shares, approvals)
def test_what_is_missing_is_the_least_that_opens_a_gate(
    quorum: int, wanted: list[Share], approving: list[tuple[str, ...]]
) -> None:
    left = missing(quorum, wanted, approving)
    more = [(share.of,) for share, count in zip(wanted, left.of, strict=True) for _ in range(count)]
    more += [()] * left.anybody

    assert is_enough(quorum, wanted, [*approving, *more])
    for number in range(len(more)):
        assert not is_enough(quorum, wanted, [*approving, *more[:number], *more[number + 1 :]])


def test_somebody_in_two_groups_gives_a_place_up_to_whoever_has_only_that_one() -> None:
    wanted = [Share(of="role:cfo"), Share(of="team:legal")]

    assert not is_enough(1, wanted, [("role:cfo", "team:legal")])
    assert is_enough(1, wanted, [("role:cfo", "team:legal"), ("role:cfo",)])
    assert not is_enough(3, wanted, [("role:cfo", "team:legal"), ("role:cfo",)])


def test_many_people_are_seated_at_once() -> None:
    wanted = [Share(of=f"team:{number}", count=100) for number in range(20)]
    approving = [(f"team:{number % 20}", f"team:{(number + 1) % 20}") for number in range(2_000)]

    assert is_enough(2_000, wanted, approving)
