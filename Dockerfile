# One image for the services, for workers and for the command line: compose.yaml, docs/deployment.md.
FROM python:3.11-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
# The five folders are linked into the package (planmesh/schemas -> ../schemas), and so are the stored messages.
COPY planmesh planmesh
COPY schemas schemas
COPY planner planner
COPY executor executor
COPY gatekeeper gatekeeper
COPY auditor auditor
COPY tests/golden tests/golden
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[llm,postgresql]"
# A new volume has the owner of the directory that it is mounted over: every one that compose.yaml uses is here.
RUN useradd --uid 10001 --create-home planmesh \
 && install --directory --owner=planmesh --group=planmesh --mode=0700 \
    /credentials /work \
    /var/lib/planmesh /var/lib/planmesh/nats /var/lib/planmesh/database \
    /hand-out/planner /hand-out/executor /hand-out/gatekeeper /hand-out/auditor /hand-out/worker
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PLANMESH_DATA_DIR=/var/lib/planmesh \
    PLANMESH_LOG_FORMAT=json
USER 10001:10001
WORKDIR /work
CMD ["planmesh", "--help"]
