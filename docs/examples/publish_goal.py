"""Publish a goal, and wait for what becomes of it: ``python publish_goal.py path/to/submitter-shop.toml``.

`planmesh credentials submitter shop` makes that file, and says where it is.
"""

import asyncio
import sys
from pathlib import Path

from planmesh import Client

PLAN = Path("hello.yaml").read_text(encoding="utf-8")


async def main(credentials: Path) -> None:
    async with Client.connect(credentials=credentials) as client:
        submitted = await client.submit(PLAN, inputs={"who": "Ada"})
        print(f"published {submitted.address}")
        async for outcome in submitted.outcomes():
            print(outcome)
        completed = await submitted.result()  # PlanRefused, PlanFailed or PlanCancelled, if it ended otherwise
        print(completed.result.value)


asyncio.run(main(Path(sys.argv[1])))
