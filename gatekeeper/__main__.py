"""Start a gatekeeper: ``python -m planmesh.gatekeeper``."""

import argparse
import asyncio
import contextlib
import signal
import sys

import structlog

from planmesh import settings, telemetry
from planmesh.connection import connect
from planmesh.credentials import read_credentials
from planmesh.errors import PlanmeshError
from planmesh.gatekeeper.identity import KEY_FILE, Door, Proxy, read_keys
from planmesh.gatekeeper.letters import Letters
from planmesh.gatekeeper.notify import open_channels, read_configuration
from planmesh.gatekeeper.reach import Links, Reach
from planmesh.gatekeeper.service import SERVICE, Gatekeeper

log = structlog.get_logger()


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
    tags = {} if configured.apprise_config is None else read_configuration(configured.apprise_config)
    reach = Reach(configured.directory, (url.get_secret_value() for url in configured.notify_urls), tags)
    channels = open_channels(reach.urls, people=reach.people, private_addresses=configured.notices.private_addresses)
    letters = Letters(configured.notices.templates)
    for problem in letters.problems():
        log.error("notice.template_broken", error=problem, used="the built-in one")
    keys = read_keys(configured.data_dir / KEY_FILE) if configured.pages_url is not None else None
    links = None
    if keys is not None and configured.pages_url is not None:
        links = Links(configured.pages_url, keys, configured.link_lifetime_s)
    who = read_credentials(configured.credentials_dir, SERVICE, configured.server)
    async with await connect(who.server, who.user, who.password, name=SERVICE) as core:
        gatekeeper = Gatekeeper(
            core,
            channels,
            reach=reach,
            links=links,
            letters=letters,
            with_outputs=configured.notices.outputs,
            news_every_s=configured.notices.operators_news_every_s if configured.notices.operators_news else None,
        )
        if keys is None or configured.pages_url is None or configured.web_port is None:
            await gatekeeper.run(stop)
            return
        from planmesh.gatekeeper.web.serve import listen, serve  # what has no pages need not load a web server

        sign_in = configured.sign_in
        secret = sign_in.secret.get_secret_value() if sign_in.secret is not None else ""
        door = Door(
            directory=configured.directory,
            keys=keys,
            proxy=Proxy(sign_in.user_header, sign_in.secret_header, secret),
            pages_url=configured.pages_url,
            sign_in_url=sign_in.url,
        )
        listening = listen(configured.web_host, configured.web_port)
        async with serve(core, door, listening):
            await gatekeeper.run(stop)


if __name__ == "__main__":
    main()
