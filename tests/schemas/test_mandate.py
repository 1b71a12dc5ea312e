"""What a step hands down to the plan that runs for it: never more than there was."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from planmesh.schemas.mandate import EXCEEDS, Mandate, exceeding
from planmesh.schemas.plan import Each, Permissions, Plan, Run, Step, Task
from planmesh.schemas.work import Parent

ABOVE = Parent(plan="above", step="execute", attempt=1, depth=1)
some = st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple)
permissions = st.builds(Permissions, tools=some, network=some, read=some, write=some, secrets=some)
ceilings = st.none() | permissions


def plan(*steps: Step) -> Plan:
    return Plan(name="A plan", steps=steps)


def does(permitted: Permissions | None) -> Task:
    return Task(name="do", agent="agent", permissions=permitted)


@given(st.lists(st.tuples(ceilings, st.booleans()), max_size=4), permissions)
def test_what_is_permitted_down_there_is_permitted_all_the_way_up(
    steps: list[tuple[Permissions | None, bool]], permitted: Permissions
) -> None:
    lowest = reduce(lambda above, step: above.handed_down(step[0], safe=step[1]), steps, Mandate())

    def within(ceiling: Permissions | None) -> bool:
        return not any(exceeding(plan(does(permitted)), Mandate(permissions=ceiling), ABOVE))

    assert within(lowest.permissions) == all(within(ceiling) for ceiling, _ in steps)
    assert lowest.safe == any(safe for _, safe in steps)


@given(permissions)
def test_nothing_is_permitted_beyond_it_in_an_each_nor_by_a_run(permitted: Permissions) -> None:
    most = Mandate(permissions=Permissions(tools=("a", "b"), network=("a", "b")))
    each = Each(name="all", items="[1]", steps=(does(permitted),))
    run = Run(name="more", document="{}", permissions=permitted)

    beyond = [problem.pointer for problem in exceeding(plan(does(permitted)), most, ABOVE)]

    assert [problem.pointer for problem in exceeding(plan(run), most, ABOVE)] == beyond
    assert [
        problem.pointer.replace("/steps/0/steps/0", "/steps/0") for problem in exceeding(plan(each), most, ABOVE)
    ] == beyond


def test_a_problem_names_what_is_too_much_the_most_there_may_be_and_who_says_so() -> None:
    most = Mandate(permissions=Permissions(network=("api.example", "b.example")))
    step = does(Permissions(network=("api.example", "evil.example"), write=("/etc",)))

    network, write = exceeding(plan(step), most, ABOVE)

    assert network.message == (
        "step do is permitted network evil.example; step execute of plan above, for which this plan runs, permits "
        "network api.example, b.example"
    )
    assert (network.code, network.pointer) == (EXCEEDS, "/steps/0/permissions/network")
    assert write.message.endswith("permits no write")
