"""Answer what plans ask of a service: ``python answer_questions.py path/to/submitter-billing.toml``.

`planmesh credentials submitter billing` makes that file. Plans name the service as ``service:billing``: in the
`reviewers` of an `ask`, or of a `gate`. This one says yes to all that it understands, and stops at what it does not.
"""

import asyncio
import sys
from pathlib import Path

from planmesh import Client
from planmesh.schemas.questions import NotTaken, Questioned, Settled


async def main(credentials: Path) -> None:
    async with Client.connect(credentials=credentials) as client:
        print(f"service:{client.space} is there to be asked", flush=True)
        async for heard in client.questions():
            match heard.question:
                case Questioned(kind="gate") as gate:
                    print(f"{gate.step} of {gate.plan}: {gate.prompt}", flush=True)
                    await client.approve(gate, reason="it lets go nothing that this service minds")
                case Questioned(answer="boolean") as ask:
                    print(f"{ask.step} of {ask.plan}: {ask.prompt}", flush=True)
                    await client.answer(ask, True)
                case Questioned() as ask:
                    print(f"{ask.step} of {ask.plan}: {ask.prompt} (left to somebody else)", flush=True)
                case Settled() as settled:
                    print(f"{settled.step} of {settled.plan} is {settled.how} by {', '.join(settled.by)}", flush=True)
                case NotTaken() as refused:
                    print(f"{refused.step} of {refused.plan}: {refused.reason}", flush=True)
            heard.ack()  # dealt with: it does not come again


asyncio.run(main(Path(sys.argv[1])))
