"""Post to a webhook whenever a plan of yours waits for people, or stands still:
``python tell_others.py path/to/submitter-shop.toml https://chat.example.org/hooks/…``.

It may be stopped and started again: what happened meanwhile is told then. Several may run at once, and share the news.
"""

import asyncio
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from planmesh import Client
from planmesh.schemas.goals import Failed, Outcome, Paused, Waiting


def said(outcome: Outcome) -> str:
    """What is worth telling; empty if nothing is."""
    match outcome:
        case Waiting(goal=goal, gates=gates, asks=asks):
            return f"{goal} waits for people at {', '.join((*gates, *asks))}" if gates or asks else ""
        case Paused(goal=goal, reason=reason):
            return f"{goal} stands still: {reason}"
        case Failed(goal=goal, step=step, reason=reason):
            return f"{goal} has failed at {step}: {reason}"
    return ""


def post(webhook: str, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    with urlopen(Request(webhook, body, {"Content-Type": "application/json"}), timeout=10):
        pass


async def main(credentials: Path, webhook: str) -> None:
    async with Client.connect(credentials=credentials) as client:
        async for news in client.outcomes():
            if text := said(news.outcome):
                await asyncio.to_thread(post, webhook, text)  # if this fails, the news comes again
                print(text)
            news.ack()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
