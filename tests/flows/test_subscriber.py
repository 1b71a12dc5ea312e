"""The example of a service that tells others that plans wait."""

import asyncio
import json
import os
import sys

from flows import EXAMPLES, TESTS, Flow
from patience import eventually
from receivers import web_receiver

from planmesh.connection import connect
from planmesh.schemas import subjects
from planmesh.schemas.subjects import Address


async def test_it_tells_others_that_a_plan_waits_also_of_what_it_has_missed(flow: Flow) -> None:
    await flow.mesh.mesh.add_submitter("bakery")  # of its own: it hears all that there was
    credentials = flow.mesh.mesh.credentials / "submitter-bakery.toml"
    goal = json.dumps({"plan": {"name": "Ask", "steps": [{"kind": "gate", "name": "ok"}]}}).encode()
    who = flow.mesh.mesh.credentials_of("submitter-bakery")
    async with await connect(who.server, who.user, who.password, name="bakery") as bakery:
        await bakery.publish(subjects.goal(Address("bakery", "order-1")), goal)
        with web_receiver() as web:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, EXAMPLES / "tell_others.py", credentials, f"http://{web.at}/hook"),
                env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
            )
            try:
                await eventually(lambda: web.posts, 30)
                await bakery.publish(subjects.goal(Address("bakery", "order-2")), goal)
                await eventually(lambda: len(web.posts) == 2)
            finally:
                process.kill()
                await process.wait()

    assert [body["text"] for _, body in web.posts] == [
        "order-1 waits for people at ok",
        "order-2 waits for people at ok",
    ]
