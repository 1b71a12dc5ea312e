"""The plans that the auditor has in mind."""

from msgspec.structs import replace

from planmesh.auditor.project import Followed
from planmesh.auditor.service import MAX_STEPS_KEPT, RUNNING_KEPT, STILL_KEPT, Kept
from planmesh.schemas.state import PlanState, PlanStatus
from planmesh.schemas.subjects import Address


def put(plans: Kept, name: str, status: PlanStatus = PlanStatus.RUNNING) -> Address:
    state = replace(PlanState(address=Address("space", name)), status=status)
    plans.put(Followed(1, state))
    return state.address


def test_of_many_plans_that_run_or_wait_at_once_those_used_last_are_kept() -> None:
    plans = Kept(MAX_STEPS_KEPT)
    running = [put(plans, f"running-{number}") for number in range(RUNNING_KEPT + 500)]
    waiting = [put(plans, f"waiting-{number}", PlanStatus.WAITING) for number in range(STILL_KEPT + 500)]

    assert [at for at in running if plans.get(at)] == running[-RUNNING_KEPT:]
    assert [at for at in waiting if plans.get(at)] == waiting[-STILL_KEPT:]


def test_a_plan_that_waits_after_it_ran_or_has_ended_makes_room() -> None:
    plans = Kept(MAX_STEPS_KEPT)
    old = put(plans, "old")
    for number in range(3 * RUNNING_KEPT):
        put(plans, f"plan-{number}")
        put(plans, f"plan-{number}", (PlanStatus.WAITING, PlanStatus.COMPLETED)[number % 2])

    assert plans.get(old)
