"""Every stream, subject and consumer name: the only dotted strings in the system.

A plan's address is ``<space>.<plan>`` in every subject. A space belongs to one submitter's NATS user, so the
server, not the message, says who asked. Who may publish and read what is in ``planmesh.access``.

Three accounts keep those who do not trust one another apart. The server checks no permission on the *reply*
subject of a request, so whoever shares an account with a stream can make the server store an answer in it:

- ``CORE``: the services. Holds the log, the commands, the work, the outcomes and the blobs.
- ``AGENTS``: those who run steps. Holds what they say: results, claims, descriptions of themselves.
- ``EDGE``: those who publish goals. Holds the goals.

What a submitter writes is in streams of its own, ``GOALS-<space>`` and ``SECRETS-<space>``: of what is stored, the
server limits nothing but streams, so whoever fills theirs takes nobody else's room.
"""

import re
from typing import Final, NamedTuple

CORE: Final = "CORE"
AGENTS: Final = "AGENTS"
EDGE: Final = "EDGE"

PLANS: Final = "PLANS"
COMMANDS: Final = "COMMANDS"
WORK: Final = "WORK"
OUTCOMES: Final = "OUTCOMES"
BLOBS: Final = "BLOBS"
POISON: Final = "POISON"
RESULTS: Final = "RESULTS"
CLAIMS: Final = "CLAIMS"
CATALOGUE: Final = "CATALOGUE"
NOTICES: Final = "NOTICES"
SECRETS: Final = "SECRETS"
GOALS: Final = "GOALS"

SERVICE_VERB: Final = "reply"
"""How a service answers what it is asked."""

ACTORS: Final = frozenset({"planner", "executor", "gatekeeper", "auditor", "planmesh"})
"""Who acts in a log besides people: no person may be called so."""

# Durable consumers, by stream. Agents and submitters have one each: see `agent_consumer`, `outcome_consumer`.
DECIDE: Final = "decide"
DISPATCH: Final = "dispatch"
AUDITOR: Final = "auditor"
GATEKEEPER: Final = "gatekeeper"
PLANNER: Final = "planner"
TIMERS: Final = "timers"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Address(NamedTuple):
    """Where a plan lives: the space of whoever asked for it, and its id (the goal's)."""

    space: str
    plan: str

    def __str__(self) -> str:
        return f"{self.space}.{self.plan}"


class BadToken(ValueError):
    """A name that cannot be part of a subject.

    Attributes:
        what: What the name was for, such as ``"space"``.
        value: The name as it was given.
    """

    def __init__(self, what: str, value: object) -> None:
        self.what = what
        self.value = value
        shown = ascii(value)
        if len(shown) > 80:
            shown = f"{shown[:77]}..."
        super().__init__(f"{what} must be 1 to 64 of the characters A-Z a-z 0-9 _ -, not {shown}")


def token(what: str, value: str) -> str:
    """Return *value* if it may stand between two dots of a subject.

    Raises:
        BadToken: It has another character, or is empty or longer than 64.
    """
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise BadToken(what, value)
    return value


def is_token(value: str) -> bool:
    return _TOKEN.fullmatch(value) is not None


def address(space: str, plan: str) -> Address:
    """Check both tokens. Raises: BadToken."""
    return Address(token("space", space), token("plan", plan))


# --- subjects: an Address has been checked when it was made; every other name is checked here --------------


def plan_log(at: Address) -> str:
    return f"plans.{at.space}.{at.plan}"


def command(at: Address, verb: str, actor: str) -> str:
    return f"commands.{at.space}.{at.plan}.{token('verb', verb)}.{token('actor', actor)}"


def goal(at: Address) -> str:
    return f"goals.{at.space}.{at.plan}"


def outcome(at: Address) -> str:
    return f"outcomes.{at.space}.{at.plan}"


def question(asked: str, at: Address, step: str) -> str:
    """What the service *asked* hears of a gate or an ask."""
    return f"questions.{token('service', asked)}.{at.space}.{at.plan}.{token('step', step)}"


def agent_work(agent: str, at: Address, step: str) -> str:
    return f"work.agent.{token('agent', agent)}.{at.space}.{at.plan}.{token('step', step)}"


def planner_work(at: Address) -> str:
    return f"work.planner.{at.space}.{at.plan}"


def step_planning(at: Address, step: str) -> str:
    return f"work.planner.{at.space}.{at.plan}.{token('step', step)}"


def is_step_planning(subject: str) -> bool:
    """Of what the planner is handed out, whether it is for a step, or a revision."""
    return subject.count(".") == 4


def timer(at: Address, step: str) -> str:
    return f"work.timer.{at.space}.{at.plan}.{token('step', step)}"


def notice(at: Address, step: str, attempt: int, notice: str, channel: str) -> str:
    """Where it is noted that a channel is being told something of a round."""
    told = f"{token('notice', notice)}.{token('channel', channel)}"
    return f"notices.{at.space}.{at.plan}.{token('step', step)}.{attempt:d}.{told}"


def results(agent: str) -> str:
    return f"results.{token('agent', agent)}"


def claim(agent: str, at: Address, step: str, attempt: int) -> str:
    return f"claims.{token('agent', agent)}.{at.space}.{at.plan}.{token('step', step)}.{attempt:d}"


def catalogue(agent: str) -> str:
    return f"catalogue.{token('agent', agent)}"


def blob(sha256: str) -> str:
    return f"blobs.sha256.{token('sha256', sha256)}"


def secret(at: Address, step: str, verb: str, actor: str, secret: str) -> str:
    """Where the secret is that an answer to the ask *step* names by the id *secret*.

    The ask, the verb and the actor are those of the answer: nobody can name what was stored for another ask, or by
    somebody else.
    """
    by = f"{token('verb', verb)}.{token('actor', actor)}.{token('secret', secret)}"
    return f"secrets.{at.space}.{at.plan}.{token('step', step)}.{by}"


def secrets_of(at: Address) -> str:
    """Every secret of a plan: a filter."""
    return f"secrets.{at.space}.{at.plan}.*.*.*.*"


def purge(stream: str) -> str:
    """The server's request to take messages out of a stream."""
    return f"$JS.API.STREAM.PURGE.{stream}"


def poison(service: str, stream: str) -> str:
    """Where what *service* cannot handle is set aside; of what outsiders have said, with the writer in the name of the
    stream: ``RESULTS-echo``."""
    kind, dash, writer = stream.partition("-")
    return f"poison.{token('service', service)}.{token('stream', kind)}{dash}{token('writer', writer) if dash else ''}"


def writer_of(subject: str) -> str:
    """Who has published a goal, a command or a result; empty of other messages."""
    found = subject.split(".")
    places = {"goals": 1, "results": 1, "commands": 4}
    writer = found[places[found[0]]] if len(found) > places.get(found[0], len(found)) else ""
    return writer if is_token(writer) else ""


# --- core NATS, for requests and hints: nothing is stored ---------------------------------------------------


def progress(agent: str, at: Address, step: str) -> str:
    return f"progress.{token('agent', agent)}.{at.space}.{at.plan}.{token('step', step)}"


def signals(agent: str) -> str:
    return f"signals.{token('agent', agent)}"


def put_blob(agent: str) -> str:
    return f"blobs.{token('agent', agent)}.put"


def get_blob(agent: str) -> str:
    return f"blobs.{token('agent', agent)}.get"


def reveal(agent: str) -> str:
    """Where an agent asks for the secrets that an attempt of its own is given."""
    return f"reveal.{token('agent', agent)}"


def reveal_pattern() -> str:
    return "reveal.*"


def outcomes_of(space: str) -> str:
    """The news of every goal of a space: to subscribe to."""
    return f"outcomes.{token('space', space)}.*"


def last_outcome(space: str = "*", goal: str = "*") -> str:
    """The server's request for the last news of a goal; with ``*``, what to allow for it."""
    for what, value in (("space", space), ("goal", goal)):
        if value != "*":
            token(what, value)
    return f"$JS.API.DIRECT.GET.{OUTCOMES}.outcomes.{space}.{goal}"


def progress_of(at: Address) -> str:
    """What every agent says of one plan's steps: to subscribe to."""
    return f"progress.*.{at.space}.{at.plan}.*"


def logs_of(plan: str, space: str = "") -> str:
    """The logs of the plans with this id, in every space unless one is named: a filter."""
    return f"plans.{token('space', space) if space else '*'}.{token('plan', plan)}"


def put_blob_pattern() -> str:
    return "blobs.*.put"


def get_blob_pattern() -> str:
    return "blobs.*.get"


def query(name: str) -> str:
    """A query that the auditor answers, such as ``query.plans``."""
    return f"query.{token('query', name)}"


# --- streams of one writer ---------------------------------------------------------------------------------


def goal_stream(space: str) -> str:
    """Where the goals of one submitter are."""
    return f"{GOALS}-{token('space', space)}"


def secret_stream(verb: str, actor: str) -> str:
    """Where the secrets are that answers of this verb and actor name: those of a service are in a stream of its own."""
    return f"{SECRETS}-{token('space', actor)}" if verb == SERVICE_VERB else SECRETS


def kind_of(stream: str) -> str:
    """What a stream is for, such as ``GOALS``, whoever writes it."""
    return stream.partition("-")[0]


# --- consumers ---------------------------------------------------------------------------------------------


def agent_consumer(agent: str) -> str:
    return f"agent-{token('agent', agent)}"


def question_consumer(space: str) -> str:
    return f"asked-{token('space', space)}"


def outcome_consumer(space: str) -> str:
    return f"submitter-{token('space', space)}"


# --- reading a subject -------------------------------------------------------------------------------------


class BadSubject(ValueError):
    """A subject that none of the functions above makes.

    Attributes:
        subject: The subject as it was received.
    """

    def __init__(self, subject: str, expected: str) -> None:
        self.subject = subject
        super().__init__(f"expected a subject like {expected}, found {subject[:200]!a}")


class CommandSubject(NamedTuple):
    address: Address
    verb: str
    actor: str


def _split(subject: str, expected: str) -> list[str]:
    found, pattern = subject.split("."), expected.split(".")
    if len(found) != len(pattern):
        raise BadSubject(subject, expected)
    for part, wanted in zip(found, pattern, strict=True):
        if (part != wanted) if wanted[0] != "<" else not is_token(part):
            raise BadSubject(subject, expected)
    return found


def read_goal(subject: str) -> Address:
    """Raises: BadSubject."""
    _, space, plan = _split(subject, "goals.<space>.<goal>")
    return Address(space, plan)


def read_plan_log(subject: str) -> Address:
    """Raises: BadSubject."""
    _, space, plan = _split(subject, "plans.<space>.<plan>")
    return Address(space, plan)


def read_outcome(subject: str) -> Address:
    """Raises: BadSubject."""
    _, space, plan = _split(subject, "outcomes.<space>.<goal>")
    return Address(space, plan)


class QuestionSubject(NamedTuple):
    asked: str
    address: Address
    step: str


def read_question(subject: str) -> QuestionSubject:
    """Raises: BadSubject."""
    _, asked, space, plan, step = _split(subject, "questions.<asked>.<space>.<plan>.<step>")
    return QuestionSubject(asked, Address(space, plan), step)


def read_command(subject: str) -> CommandSubject:
    """Raises: BadSubject."""
    _, space, plan, verb, actor = _split(subject, "commands.<space>.<plan>.<verb>.<actor>")
    return CommandSubject(Address(space, plan), verb, actor)


def read_results(subject: str) -> str:
    """The agent that speaks. Raises: BadSubject."""
    return _split(subject, "results.<agent>")[1]


class ProgressSubject(NamedTuple):
    agent: str
    address: Address
    step: str


def read_progress(subject: str) -> ProgressSubject:
    """Raises: BadSubject."""
    _, agent, space, plan, step = _split(subject, "progress.<agent>.<space>.<plan>.<step>")
    return ProgressSubject(agent, Address(space, plan), step)


def read_reveal(subject: str) -> str:
    """The agent that asks. Raises: BadSubject."""
    return _split(subject, "reveal.<agent>")[1]


def read_catalogue(subject: str) -> str:
    """The agent that describes itself. Raises: BadSubject."""
    return _split(subject, "catalogue.<agent>")[1]
