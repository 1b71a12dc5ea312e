"""The timer loop, on a real server."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any

from planmesh.schemas import codec, subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.commands import TimerDue
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import TimerWork

HERE = Address("tester", "plan-1")


async def test_a_wait_that_is_over_is_told_by_the_same_id_however_often_it_is_stored(opened: Any) -> None:
    async with opened() as house:
        executor, admin = await house.connected("executor"), await house.connected("admin")
        for attempt in (1, 1, 2):
            timer = TimerWork(
                space=HERE.space, plan=HERE.plan, step="a", attempt=attempt, purpose="retry", due_at=datetime.now(UTC)
            )
            await executor.publish(subjects.timer(HERE, "a"), encode(timer))

        await house.executor(loops=frozenset({"timers"}))
        told = [await command(admin, sequence) for sequence in (1, 2, 3)]

    assert sorted(one.attempt for one in told) == [1, 1, 2]
    assert len({one.id for one in told}) == 2


async def command(admin: Any, sequence: int) -> TimerDue:
    """The command that has this number, as soon as it is stored."""
    while True:
        asked = json.dumps({"seq": sequence}).encode()
        answer = json.loads(await admin.request("$JS.API.STREAM.MSG.GET.COMMANDS", asked))
        if "message" in answer:
            found = codec.command.decode(base64.b64decode(answer["message"]["data"]))
            assert isinstance(found, TimerDue)
            return found
        await asyncio.sleep(0.01)
