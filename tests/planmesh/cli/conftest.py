"""Plans in every state, without a mesh."""

from datetime import timedelta

import pytest
from plays import Play, gate, plan, task

from planmesh.schemas.plan import Emit, Retry
from planmesh.telemetry import configure_logging


@pytest.fixture(autouse=True)
def quiet() -> None:
    configure_logging("warning", "console")  # as the command line does before it calls a verb


@pytest.fixture
def release() -> Play:
    """A plan that has begun: `build` and `docs` run; then `approve` asks, `deploy` runs, and it ends."""
    document = plan(
        task("build", retry=Retry(attempts=3)),
        task("docs", optional=True, label="Write the docs"),
        gate("approve", "build", "docs", prompt="Deploy to {target}?", show=("{build.text}",)),
        task("deploy", "approve", inputs={"to": "{target}", "what": "{build.text}"}),
        Emit(name="done", after=("deploy",), outcome="Released"),
    )
    return Play(document, inputs={"target": "staging"})


@pytest.fixture
def asked(release: Play) -> Play:
    """The same, once it asks."""
    release.completes("build", output={"text": "version [bold]7[/bold]\n\x1b[31mred"})
    release.completes("docs")
    release.at += timedelta(seconds=1)
    return release
