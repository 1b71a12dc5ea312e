"""A service is well while somebody reads its consumers, and can say so itself."""

import pytest

from planmesh import access, health, settings
from planmesh.connection import connect
from planmesh.delivery import subscribe
from planmesh.schemas.subjects import GATEKEEPER, PLANS, POISON
from planmesh.testing import MeshServer


@pytest.mark.parametrize("user", access.services(), ids=lambda user: user.name)
def test_a_service_may_look_at_whatever_it_reads(user: access.User) -> None:
    pulls = [right.removeprefix("$JS.API.CONSUMER.MSG.NEXT.") for right in user.publish if ".MSG.NEXT." in right]
    looks = [right.removeprefix("$JS.API.CONSUMER.INFO.") for right in user.publish if ".CONSUMER.INFO." in right]

    assert all(pull in looks or f"{pull.partition('.')[0]}.*" in looks for pull in pulls)


def test_the_services_are_those_of_the_table() -> None:
    assert health.SERVICES == ("auditor", "executor", "gatekeeper", "planner")
    assert [user.name for user in health.users_of("executor")] == ["executor", "executor-agents"]


@pytest.mark.parametrize("service", health.SERVICES)
async def test_consumers_that_nobody_reads_are_named(mesh_server: MeshServer, service: str) -> None:
    found = await health.unread(settings.load(data_dir=mesh_server.data_dir), service)

    assert found
    assert all("/" in name for name in found)


async def test_a_consumer_that_is_read_is_well(mesh_server: MeshServer) -> None:
    who = mesh_server.credentials("gatekeeper")
    configured = settings.load(data_dir=mesh_server.data_dir)

    async with await connect(who.server, who.user, who.password, name="reader") as connection:
        plans = await subscribe(connection, PLANS, GATEKEEPER)
        poison = await subscribe(connection, POISON, GATEKEEPER)

        assert await health.unread(configured, "gatekeeper") == []

        await plans.close()
        await poison.close()
