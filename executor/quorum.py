"""Whether those who have approved are enough: as many as it takes, and from each group that has to be among them.

Nobody counts for two shares. Whether there is a way to let each share have as many as it takes is a matching between
places and people; people who are in several groups stand in for one another along augmenting paths. Pure.
Source: H. Kuhn, *The Hungarian method for the assignment problem*, Naval Research Logistics Quarterly 2, 1955 (the
unweighted case).
"""

from collections.abc import Sequence

from planmesh.schemas.plan import Share


def is_enough(quorum: int, shares: Sequence[Share], approvals: Sequence[Sequence[str]]) -> bool:
    """Whether *approvals* open a gate.

    Args:
        quorum: Approvals that it takes in all.
        shares: Approvals that it takes from each of several groups.
        approvals: For each person who has approved, the groups that they are in.
    """
    if len(approvals) < max(quorum, sum(share.count for share in shares)):
        return False
    holder: dict[int, int] = {}  # who has approved, and which place they take
    places = [share.of for share in shares for _ in range(share.count)]
    return all(_seat(place, places, approvals, holder, set()) for place in range(len(places)))


def _seat(
    place: int, places: Sequence[str], approvals: Sequence[Sequence[str]], holder: dict[int, int], tried: set[int]
) -> bool:
    """Find somebody for *place*, who may have to give another place to somebody else."""
    for person, groups in enumerate(approvals):
        if person in tried or places[place] not in groups:
            continue
        tried.add(person)
        if person not in holder or _seat(holder[person], places, approvals, holder, tried):
            holder[person] = place
            return True
    return False
