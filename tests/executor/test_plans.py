"""The plans that an executor has in mind."""

from msgspec.structs import replace

from planmesh.eventlog import Recorded
from planmesh.executor.plans import Plans
from planmesh.schemas.state import PlanState, PlanStatus
from planmesh.schemas.subjects import Address


def recorded(name: str, *, sequence: int = 1, size_bytes: int = 0, status: PlanStatus = PlanStatus.RUNNING) -> Recorded:
    state = PlanState(address=Address("space", name))
    return Recorded(replace(state, status=status), sequence, size_bytes)


def kept(plans: Plans, *names: str) -> list[str]:
    return [name for name in names if plans.get(Address("space", name)) is not None]


def test_plans_with_large_commits_make_room_for_one_another() -> None:
    plans = Plans(max_bytes=100)

    for name in ("a", "b", "c"):
        plans.put(recorded(name, size_bytes=40))

    assert kept(plans, "a", "b", "c") == ["b", "c"]


def test_a_plan_that_grows_is_counted_once() -> None:
    plans = Plans(max_bytes=100)
    plans.put(recorded("a", size_bytes=10))

    for sequence in range(1, 20):
        plans.put(recorded("b", sequence=sequence, size_bytes=20 + sequence))

    assert kept(plans, "a", "b") == ["a", "b"]


def test_plans_that_have_ended_make_room_first() -> None:
    plans = Plans(max_bytes=100)
    plans.put(recorded("running", size_bytes=40))
    plans.put(recorded("ended", size_bytes=40, status=PlanStatus.COMPLETED))

    plans.put(recorded("new", size_bytes=40))

    assert kept(plans, "running", "ended", "new") == ["running", "new"]


def test_many_plans_that_stand_still_do_not_push_out_those_that_go_on_and_are_not_all_kept() -> None:
    plans = Plans()
    plans.put(recorded("running"))

    names = [f"still-{number}" for number in range(2_000)]
    for name in names:
        plans.put(recorded(name, status=PlanStatus.WAITING))

    assert kept(plans, "running", *names) == ["running", *names[-200:]]


def test_of_many_plans_that_run_at_once_those_used_last_are_kept() -> None:
    plans = Plans()
    names = [f"running-{number}" for number in range(3_000)]
    for name in names:
        plans.put(recorded(name))

    assert kept(plans, *names) == names[-1_000:]


def test_a_plan_is_kept_as_what_it_has_become() -> None:
    plans = Plans(max_bytes=100)
    plans.put(recorded("a", size_bytes=40, status=PlanStatus.WAITING))
    plans.put(recorded("a", sequence=2, size_bytes=40, status=PlanStatus.RUNNING))
    plans.put(recorded("b", size_bytes=40, status=PlanStatus.WAITING))

    plans.put(recorded("c", size_bytes=40))

    assert kept(plans, "a", "b", "c") == ["a", "c"]


def test_what_is_older_than_what_is_known_is_not_kept() -> None:
    plans = Plans()
    newer = recorded("a", sequence=2)
    plans.put(newer)

    plans.put(recorded("a", sequence=1))

    assert plans.get(Address("space", "a")) == newer
