"""The plans that this executor has in mind: a cache of what the log says, never more."""

from collections import OrderedDict
from typing import Final

from planmesh.eventlog import Recorded
from planmesh.schemas.state import ENDED, STANDING_STILL, PlanStatus
from planmesh.schemas.subjects import Address

MAX_STEPS: Final = 50_000
MAX_BYTES: Final = 128 * 1024 * 1024
"""Of the commits that the plans were read from: plans of a few steps may have inputs of megabytes."""
_RUNNING_KEPT: Final = 1_000
"""Reading a plan again costs no more than its step; and memory that a burst has taken, Python hardly gives back."""
_ENDED_KEPT: Final = 200
_STILL_KEPT: Final = 200
"""A plan that waits for somebody may wait for days: it is read again when it goes on."""


class Plans:
    """The plans used last, up to *max_steps* steps and *max_bytes* bytes in all, and not too many plans of each kind.
    Those that have ended make room first, then those that stand still.

    Everything in here was stored in the log before it came here, so what is old is not wrong, only old.
    """

    def __init__(self, max_steps: int = MAX_STEPS, max_bytes: int = MAX_BYTES) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._ended: OrderedDict[Address, Recorded] = OrderedDict()
        self._still: OrderedDict[Address, Recorded] = OrderedDict()
        self._running: OrderedDict[Address, Recorded] = OrderedDict()
        self._all = (self._running, self._still, self._ended)
        self._steps = 0
        self._bytes = 0

    def get(self, address: Address) -> Recorded | None:
        for plans in self._all:
            found = plans.get(address)
            if found is not None:
                plans.move_to_end(address)
                return found
        return None

    def put(self, recorded: Recorded) -> None:
        """Keep *recorded*, unless something newer is known."""
        address = recorded.state.address
        known = next((plans[address] for plans in self._all if address in plans), None)
        if known is not None:
            if known.sequence > recorded.sequence:
                return
            self.forget(address)
        self._count(recorded, 1)
        plans, most = self._of(recorded.state.status)
        plans[address] = recorded
        if len(plans) > most:
            self._drop(plans)
        while (self._steps > self._max_steps or self._bytes > self._max_bytes) and sum(map(len, self._all)) > 1:
            self._drop(self._ended or self._still or self._running)

    def forget(self, address: Address) -> None:
        for plans in self._all:
            found = plans.pop(address, None)
            if found is not None:
                self._count(found, -1)

    def _of(self, status: PlanStatus) -> tuple[OrderedDict[Address, Recorded], int]:
        """Where plans in this status are kept, and how many of them at most."""
        if status in ENDED:
            return self._ended, _ENDED_KEPT
        if status in STANDING_STILL or status is PlanStatus.DRAFT:
            return self._still, _STILL_KEPT
        return self._running, _RUNNING_KEPT

    def _drop(self, plans: OrderedDict[Address, Recorded]) -> None:
        _, dropped = plans.popitem(last=False)
        self._count(dropped, -1)

    def _count(self, recorded: Recorded, times: int) -> None:
        self._steps += times * (1 + len(recorded.state.steps))
        self._bytes += times * recorded.size_bytes
