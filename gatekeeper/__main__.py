"""Start a gatekeeper: ``python -m planmesh.gatekeeper``."""

import argparse
import asyncio
import contextlib
import signal
import sys

from planmesh import settings, telemetry
from planmesh.connection import connect
from planmesh.credentials import read_credentials
from planmesh.errors import PlanmeshError
from planmesh.gatekeeper.notify import name_channels, open_channels
from planmesh.gatekeeper.service import SERVICE, Gatekeeper


def main() -> None:
    argparse.ArgumentParser(prog="python -m planmesh.gatekeeper", description=__doc__).parse_args()
    try:
        configured = settings.load()
        telemetry.configure_logging(configured.log_level, configured.log_format, SERVICE)
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
        asyncio.run(_run(configured))
    except PlanmeshError as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        sys.exit(1)


async def _run(configured: settings.Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    urls = name_channels(url.get_secret_value() for url in configured.notify_urls)
    channels = open_channels(urls)
    who = read_credentials(configured.credentials_dir, SERVICE, configured.server)
    async with await connect(who.server, who.user, who.password, name=SERVICE) as core:
        await Gatekeeper(core, channels).run(stop)


if __name__ == "__main__":
    main()
