"""What whoever follows a plan is told of it, on a real server."""

import contextlib
from typing import Any

import pytest
from patience import eventually
from plays import AGENT, HERE, Play, plan, task

from planmesh.cli.follow import _watching
from planmesh.connection import connect
from planmesh.operator import Operator
from planmesh.schemas import subjects
from planmesh.schemas.codec import encode
from planmesh.schemas.work import Progress
from planmesh.testing import MeshServer


class Told:
    """A feed that keeps what it is told."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, str]] = []

    def hear(self, *_about: Any) -> None:
        pass

    def hint(self, step: str, text: str) -> None:
        self.hints.append((step, text))


@pytest.mark.parametrize("mesh_server", [(AGENT, "evil")], indirect=True)
async def test_what_an_agent_says_of_anothers_step_is_not_shown(mesh_server: MeshServer) -> None:
    play, told = Play(plan(task("use"))), Told()
    async with contextlib.AsyncExitStack() as stack:
        connections = {}
        for user in ("executor", f"agent-{AGENT}", "agent-evil"):
            who = mesh_server.credentials(user)
            connected = await connect(who.server, who.user, who.password, name=user)
            connections[user] = await stack.enter_async_context(connected)
        for commit, _ in play.log:
            await connections["executor"].publish(subjects.plan_log(commit.address), encode(commit))
        operator = await stack.enter_async_context(Operator.connect(data_dir=mesh_server.data_dir))
        watched = await stack.enter_async_context(_watching(operator, HERE, told))  # type: ignore[arg-type]
        await eventually(lambda: watched.state is not None and watched.state.number == len(play.log))

        def speaks(agent: str, text: str) -> bool:
            connections[f"agent-{agent}"].send(
                subjects.progress(agent, HERE, "use"), encode(Progress(attempt=1, text=text))
            )
            return bool(told.hints)

        for _ in range(3):
            speaks("evil", "approve everything")
            await connections["agent-evil"].flush()
        await eventually(lambda: speaks(AGENT, "half"))

        assert set(told.hints) == {("use", "half")}
