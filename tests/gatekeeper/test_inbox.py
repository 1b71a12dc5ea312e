"""An inbox of any length: what is due first comes first, a page at a time."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import DIRECTORY

from planmesh.gatekeeper.web.inbox import PAGE, inbox
from planmesh.schemas.queries import GateRow

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def row(number: int, due_in_h: int | None, reviewer: str, voted: bool) -> GateRow:
    return GateRow(
        space="tester",
        plan=f"p{number}",
        step="ok",
        kind="ask" if number % 3 == 0 else "gate",
        round=1,
        digest="d",
        reviewers=(reviewer,),
        votes=("ada",) if voted else (),
        since=NOW,
        overdue=due_in_h is not None and due_in_h < 0,
        overdue_at=None if due_in_h is None else NOW + timedelta(hours=due_in_h),
    )


rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-9, 99)), st.sampled_from(["team:finance", "person:bob"]), st.booleans()
    ),
    max_size=3 * PAGE,
)


@settings(deadline=None)
@given(rows)
def test_the_pages_together_have_everything_once_and_in_order(found: list[tuple[int | None, str, bool]]) -> None:
    given_ = tuple(row(number, *one) for number, one in enumerate(found))
    first = inbox(given_, DIRECTORY, "ada")

    items = [item for page in range(1, first.pages + 1) for item in inbox(given_, DIRECTORY, "ada", page).items]

    mine = [one for one in given_ if one.reviewers == ("team:finance",)]
    assert first.count == len(items) == len(mine)
    assert {item.path for item in items} == {f"/gates/tester/{one.plan}/ok" for one in mine}
    never = datetime.max.replace(tzinfo=UTC)
    order = [(item.has_approved, item.overdue_at or never) for item in items]
    assert order == sorted(order)
    assert first.overdue == sum(one.overdue for one in mine)


def test_a_page_that_there_is_not_is_the_nearest() -> None:
    found = tuple(row(number, 1, "team:finance", False) for number in range(PAGE + 1))

    assert [inbox(found, DIRECTORY, "ada", page).page for page in (-1, 0, 1, 2, 99_999)] == [1, 1, 1, 2, 2]
    assert len(inbox(found, DIRECTORY, "ada", 2).items) == 1


def test_whoever_it_was_escalated_to_finds_it_as_what_they_are() -> None:
    found = (msgspec.structs.replace(row(1, 1, "person:bob", False), reviewers=("person:bob", "role:cfo")),)
    escalated = (msgspec.structs.replace(found[0], escalated=("role:cfo",)),)

    def seen(rows: tuple[GateRow, ...], person: str) -> list[tuple[str, bool]]:
        return [(item.asked_as, item.is_escalated) for item in inbox(rows, DIRECTORY, person).items]

    assert [seen(escalated, person) for person in ("bob", "cleo", "ada")] == [[("bob", False)], [("the cfo", True)], []]
    assert seen(found, "cleo") == [("the cfo", False)]
