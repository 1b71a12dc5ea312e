"""`each`: its steps once for every item of a list. Pure."""

from planmesh.executor.failures import fail_now
from planmesh.executor.turn import PLANMESH, Turn
from planmesh.schemas import events
from planmesh.schemas.each import item_step
from planmesh.schemas.expressions import NeedsBlob, Unloaded, evaluate, parse
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import MAX_STEPS, Each


def go_through(turn: Turn, each: Each) -> None:
    """Add the steps of all items; or, once all of them are settled, put together what the items gave.

    Raises:
        ExpressionError: The list, or what an item gives, cannot be put together.
        NeedsBlob: Something that it reads has to be fetched first: whatever the items read, together.
    """
    items = turn.state.items.get(each.name)
    if items is None:
        _begin(turn, each)
    else:
        given: list[object] = []
        missing: list[Unloaded] = []
        for number in range(1, len(items) + 1):
            try:
                given.append(_given(turn, each, number))
            except NeedsBlob as needs:
                missing += needs.blobs
        if missing:
            raise NeedsBlob(missing[0], also=missing)
        turn.record(events.StepCompleted(step=each.name, attempt=1, output=Payload(value=given), by=PLANMESH))


def _begin(turn: Turn, each: Each) -> None:
    found = evaluate(parse(each.items), turn.names(each.name))
    if not isinstance(found, list):
        kind = {dict: "an object", str: "a text", bool: "true or false", type(None): "null"}.get(
            type(found), "a number"
        )
        fail_now(turn, each.name, "not_a_list", f"expected a list from `{each.items}`; found {kind}")
        return
    steps = len(turn.state.graph.steps) + len(found) * len(each.steps)
    if steps > MAX_STEPS:
        message = f"a plan has at most {MAX_STEPS:,} steps; with those of {len(found):,} items, it would have {steps:,}"
        fail_now(turn, each.name, "too_many_items", message)
        return
    turn.record(events.StepsAdded(step=each.name, items=tuple(Payload(value=item) for item in found)))


def _given(turn: Turn, each: Each, number: int) -> object:
    """What an item gives."""
    last = each.steps[-1]
    names = turn.names(item_step(last.name, number))
    if each.value is not None:
        return evaluate(parse(each.value), names)
    found = names[last.bound_as]
    if isinstance(found, Unloaded):
        raise NeedsBlob(found)
    return found
