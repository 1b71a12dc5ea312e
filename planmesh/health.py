"""Whether a service does its work: ``python -m planmesh.health NAME``, for the health check of a container.

A service is well while somebody reads each of its consumers: a process that is there but hangs does not. Which
consumers those are, its users' rights say (`planmesh.access`), and it is they who look: no other credentials are
needed. The exit status is 0 if all is well; else 1, and standard error says what is not.
"""

import argparse
import asyncio
import sys
from typing import Final

from planmesh import access, settings, telemetry
from planmesh.access import User
from planmesh.connection import connect
from planmesh.credentials import read_credentials
from planmesh.errors import PlanmeshError
from planmesh.inspection import consumer_info, spaces_of
from planmesh.schemas import subjects
from planmesh.schemas.subjects import OUTCOMES, PLANNER

SERVICES: Final = tuple(sorted({user.name.partition("-")[0] for user in access.services()}))
_PULL: Final = "$JS.API.CONSUMER.MSG.NEXT."
_CONNECT_S: Final = 3.0


def users_of(service: str) -> tuple[User, ...]:
    """The users that a service is: one in each account that it needs."""
    return tuple(user for user in access.services() if user.name.partition("-")[0] == service)


async def unread(configured: settings.Settings, service: str) -> list[str]:
    """The consumers of *service* that nobody reads, as ``COMMANDS/decide``.

    Raises:
        Unusable: No credentials, no server, or not this password.
        Busy: The server does not answer.
    """
    found: list[str] = []
    spaces: list[str] = []
    for user in users_of(service):
        pulls = [right.removeprefix(_PULL).split(".") for right in user.publish if right.startswith(_PULL)]
        if not pulls:
            continue
        who = read_credentials(configured.credentials_dir, user.name, configured.server)
        async with await connect(
            who.server, who.user, who.password, name=f"{user.name}-health", wait_s=_CONNECT_S
        ) as connection:
            if f"$JS.API.CONSUMER.NAMES.{OUTCOMES}" in user.publish:
                spaces = await spaces_of(connection)
            if ["*", PLANNER] in pulls:
                pulls = [[subjects.goal_stream(space), PLANNER] for space in spaces]
            for stream, consumer in pulls:
                info = await consumer_info(connection, stream, consumer, prefix="$JS.API")
                if info is None or not info.is_read:
                    found.append(f"{stream}/{consumer}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m planmesh.health", description=__doc__)
    parser.add_argument("service", choices=SERVICES)
    service = parser.parse_args().service
    try:
        configured = settings.load()
        telemetry.configure_logging("error", configured.log_format, "health")
        found = asyncio.run(unread(configured, service))
    except PlanmeshError as error:
        sys.exit(f"{service}: {error}")
    if found:
        sys.exit(f"{service}: nobody reads {', '.join(found)}")


if __name__ == "__main__":
    main()
