"""Start a planner: ``python -m planmesh.planner``."""

import argparse
import asyncio
import contextlib
import signal
import sys
from contextlib import AsyncExitStack

from planmesh import credentials, settings, telemetry
from planmesh.connection import Connection, connect
from planmesh.errors import PlanmeshError
from planmesh.planner.document import Limits
from planmesh.planner.drafting import Drafter
from planmesh.planner.service import plan_goals
from planmesh.planner.templates import Templates
from planmesh.readiness import notify_ready


def main() -> None:
    argparse.ArgumentParser(prog="python -m planmesh.planner", description=__doc__).parse_args()
    try:
        configured = settings.load()
        telemetry.configure_logging(configured.log_level, configured.log_format, "planner")
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
        asyncio.run(_run(configured))
    except PlanmeshError as error:
        sys.stderr.write(f"planner: {error}\n")
        sys.exit(1)


async def _run(configured: settings.Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:

        async def connected(user: str) -> Connection:
            who = credentials.read_credentials(configured.credentials_dir, user, configured.server)
            connection = await connect(who.server, who.user, who.password, name=user)
            return await stack.enter_async_context(connection)

        core, edge = await connected("planner"), await connected("planner-edge")
        limits = Limits(
            document_bytes=configured.limits.plan_bytes,
            steps=configured.limits.steps,
            concurrency=configured.limits.concurrency,
            models=configured.model.choices,
            plans=configured.limits.plans,
            may_allow_harm=configured.planner.may_allow_harm,
        )
        drafter = await stack.enter_async_context(
            Drafter(configured.model, configured.planner, limits=limits, directory=configured.directory)
        )
        await plan_goals(
            core,
            edge,
            stop,
            limits=limits,
            directory=configured.directory,
            drafter=drafter,
            templates=Templates(configured.planner.templates),
            drafts_at_once=configured.planner.drafts_at_once,
            on_ready=notify_ready,
        )


if __name__ == "__main__":
    main()
