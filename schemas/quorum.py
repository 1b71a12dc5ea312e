"""Whether those who have approved are enough: as many as it takes, and from each group that has to be among them.
Pure.

Nobody counts for two shares. Whether people can be told off to the shares so that each has as many as it takes is a
matching; it is found share by share, along shortest augmenting paths: whoever counts for one share moves to another
that wants somebody, if there is someone else for the first.
Source: J. Edmonds and R. Karp, *Theoretical improvements in algorithmic efficiency for network flow problems*, Journal
of the ACM 19 (2), 1972.
"""

from collections.abc import Sequence
from typing import NamedTuple

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
    counts_for: dict[int, int] = {}  # people, and the share that each counts for, by their places
    return all(
        _find_one(number, shares, approvals, counts_for)
        for number, share in enumerate(shares)
        for _ in range(share.count)
    )


def _find_one(
    share: int, shares: Sequence[Share], approvals: Sequence[Sequence[str]], counts_for: dict[int, int]
) -> bool:
    """Let one more person count for *share*."""
    moves: dict[int, tuple[int, int]] = {}  # for a share that could spare somebody: to which other, and whom
    reached = [share]
    for wanting in reached:
        for person, groups in enumerate(approvals):
            if shares[wanting].of not in groups:
                continue
            held = counts_for.get(person)
            if held is None:
                counts_for[person] = wanting
                while wanting != share:
                    wanting, person = moves[wanting]
                    counts_for[person] = wanting
                return True
            if held != share and held not in moves:
                moves[held] = wanting, person
                reached.append(held)
    return False


class Missing(NamedTuple):
    """What it takes yet.

    Attributes:
        of: For each share, how many more approvals it needs.
        anybody: How many more besides, from whomever the gate asks.
    """

    of: tuple[int, ...]
    anybody: int


def missing(quorum: int, shares: Sequence[Share], approvals: Sequence[Sequence[str]]) -> Missing:
    """What *approvals* lack to open a gate; the arguments are those of `is_enough`."""
    counts_for: dict[int, int] = {}
    of = tuple(
        sum(not _find_one(number, shares, approvals, counts_for) for _ in range(share.count))
        for number, share in enumerate(shares)
    )
    wanted = max(quorum, sum(share.count for share in shares))
    return Missing(of, max(0, wanted - len(approvals) - sum(of)))
