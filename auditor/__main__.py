"""Start the auditor: ``python -m planmesh.auditor [--rebuild]``."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from planmesh import credentials, settings, telemetry
from planmesh.auditor.service import audit
from planmesh.connection import connect
from planmesh.errors import PlanmeshError
from planmesh.readiness import notify_ready

NICE = 10
"""The auditor may lag and catch up: on a busy machine, plans go first."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m planmesh.auditor", description=__doc__)
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="forget the tables, make them again from the log as far as it goes now, and end",
    )
    arguments = parser.parse_args()
    try:
        configured = settings.load()
        telemetry.configure_logging(configured.log_level, configured.log_format, "auditor")
        with contextlib.suppress(OSError):
            os.nice(NICE)
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
        asyncio.run(_run(configured, rebuild=arguments.rebuild))
    except PlanmeshError as error:
        sys.stderr.write(f"auditor: {error}\n")
        sys.exit(1)


async def _run(configured: settings.Settings, *, rebuild: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    who = credentials.read_credentials(configured.credentials_dir, "auditor", configured.server)
    async with await connect(who.server, who.user, who.password, name="auditor") as connection:
        await audit(
            connection,
            configured.database,
            stop,
            otlp_endpoint=configured.otlp_endpoint,
            rebuild=rebuild,
            on_ready=notify_ready,
        )


if __name__ == "__main__":
    main()
