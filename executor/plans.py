"""The plans that this executor has in mind: a cache of what the log says, never more."""

from collections import OrderedDict
from typing import Final

from planmesh.eventlog import Recorded
from planmesh.schemas.state import ENDED
from planmesh.schemas.subjects import Address

MAX_STEPS: Final = 50_000
MAX_BYTES: Final = 128 * 1024 * 1024
"""Of the commits that the plans were read from: plans of a few steps may have inputs of megabytes."""
_ENDED_KEPT: Final = 200


class Plans:
    """The plans used last, up to *max_steps* steps and *max_bytes* bytes in all. Those that have ended make room first.

    Everything in here was stored in the log before it came here, so what is old is not wrong, only old.
    """

    def __init__(self, max_steps: int = MAX_STEPS, max_bytes: int = MAX_BYTES) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._running: OrderedDict[Address, Recorded] = OrderedDict()
        self._ended: OrderedDict[Address, Recorded] = OrderedDict()
        self._steps = 0
        self._bytes = 0

    def get(self, address: Address) -> Recorded | None:
        found = self._running.get(address)
        if found is not None:
            self._running.move_to_end(address)
            return found
        return self._ended.get(address)

    def put(self, recorded: Recorded) -> None:
        """Keep *recorded*, unless something newer is known."""
        address = recorded.state.address
        known = self._running.get(address) or self._ended.get(address)
        if known is not None:
            if known.sequence > recorded.sequence:
                return
            self.forget(address)
        self._count(recorded, 1)
        if recorded.state.status in ENDED:
            self._ended[address] = recorded
            if len(self._ended) > _ENDED_KEPT:
                self._drop(self._ended)
        else:
            self._running[address] = recorded
        while (self._steps > self._max_steps or self._bytes > self._max_bytes) and (
            len(self._running) + len(self._ended) > 1
        ):
            self._drop(self._ended or self._running)

    def forget(self, address: Address) -> None:
        found = self._running.pop(address, None) or self._ended.pop(address, None)
        if found is not None:
            self._count(found, -1)

    def _drop(self, plans: OrderedDict[Address, Recorded]) -> None:
        _, dropped = plans.popitem(last=False)
        self._count(dropped, -1)

    def _count(self, recorded: Recorded, times: int) -> None:
        self._steps += times * (1 + len(recorded.state.steps))
        self._bytes += times * recorded.size_bytes
