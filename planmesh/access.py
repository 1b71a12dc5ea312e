"""Who may publish and subscribe to what: the one table of users.

The server's configuration, the compose file and the tests are made from it. Users have allow-lists and nothing
else: no deny-lists, no `allow_responses`.

**Accounts.** An allow-list says what a user may publish, not which *reply* subject it names there, and what the
server answers can be stored by any stream that listens to that subject (measured: an acknowledgement stored in
another agent's claims; with the right to read a blob, bytes of one's choice stored as somebody else's vote). A
reply never leaves its account. So services, which are trusted, share accounts with the streams; whoever is not
(each agent, each operator, each submitter) is alone in an account of its own, named as its user, which has no
stream and imports exactly the subjects of its allow-list. There is nothing else that its replies could reach.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from planmesh.errors import Unusable
from planmesh.schemas import subjects
from planmesh.schemas.commands import OPERATOR_VERBS, VERBS
from planmesh.schemas.subjects import (
    AGENTS,
    AUDITOR,
    BLOBS,
    CATALOGUE,
    CLAIMS,
    COMMANDS,
    CORE,
    DECIDE,
    DISPATCH,
    EDGE,
    GATEKEEPER,
    GOALS,
    NOTICES,
    OUTCOMES,
    PLANNER,
    PLANS,
    POISON,
    RESULTS,
    SECRETS,
    TIMERS,
    WORK,
)

INSPECT: Final = "inspect"
"""How an operator's requests to inspect streams and consumers begin, followed by an account, instead of ``$JS.API``:
below that, the server answers in every account, for those without streams that there are none."""

SYSTEM: Final = "SYSTEM"
"""The system account of a server that planmesh configures. Its one user may reload the configuration."""

# Where the streams of each kind live. CATALOGUE is read by the planner at each goal, so it is where the planner is.
HOME: Final[Mapping[str, str]] = {
    PLANS: CORE,
    COMMANDS: CORE,
    WORK: CORE,
    OUTCOMES: CORE,
    BLOBS: CORE,
    POISON: CORE,
    CATALOGUE: CORE,
    NOTICES: CORE,
    SECRETS: CORE,
    RESULTS: AGENTS,
    CLAIMS: AGENTS,
    GOALS: EDGE,
}

# The same for subjects of a service or of nobody's stream; the others are where their stream is.
_HOME_OF_FIRST_TOKEN: Final[Mapping[str, str]] = {
    "results": AGENTS,
    "claims": AGENTS,
    "blobs": AGENTS,  # as requests of agents; the stream's own subjects are for services only
    "signals": AGENTS,
    "reveal": AGENTS,
    "goals": EDGE,
}


def home(stream: str) -> str:
    """The account that *stream* is in. Raises: KeyError (there is no such stream)."""
    return HOME[subjects.kind_of(stream)]


@dataclass(frozen=True, slots=True)
class User:
    """One row of the table.

    Attributes:
        name: The NATS user, unique in the server: ``executor``, ``agent-<name>``, ``operator-<name>``.
        account: The account it is in: one that has streams, or its own (then equal to `name`).
        publish: The subjects it may publish to.
        subscribe: The subjects it may subscribe to. Answers arrive below ``_INBOX.<user>``.
    """

    name: str
    account: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    @property
    def inbox(self) -> str:
        return f"_INBOX.{self.name}.>"

    @property
    def is_alone(self) -> bool:
        """It has an account of its own."""
        return self.account == self.name


# --- what a right is made of -------------------------------------------------------------------------------


def _pull(stream: str, consumer: str) -> tuple[str, ...]:
    return (f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", f"$JS.ACK.{stream}.{consumer}.>")


def _read(stream: str) -> tuple[str, ...]:
    return (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>")


def _read_leader(stream: str) -> tuple[str, ...]:
    return (f"$JS.API.STREAM.MSG.GET.{stream}",)


def _inspect(stream: str, consumer: str = "*", prefix: str = "$JS.API") -> tuple[str, ...]:
    return (f"{prefix}.STREAM.INFO.{stream}", f"{prefix}.CONSUMER.INFO.{stream}.{consumer}")


def _ask(role: str, actor: str) -> tuple[str, ...]:
    verbs = (verb for verb, row in VERBS.items() if role in row.publishers)
    return tuple(f"commands.*.*.{verb}.{actor}" for verb in verbs)


def _store_secrets(role: str, actor: str) -> tuple[str, ...]:
    """Whoever may answer an ask may store, under the same verb and name, what the answer is not to say."""
    verbs = (verb for verb, row in VERBS.items() if role in row.publishers and row.may_name_a_secret)
    return tuple(f"secrets.*.*.*.{verb}.{actor}.*" for verb in verbs)


# Where whoever answers requests may publish: an inbox of this account, or of one that imports the service.
_ANSWER: Final = ("_INBOX.>", "_R_.>")
_ACCOUNT_INFO: Final = "$JS.API.INFO"


# --- services ----------------------------------------------------------------------------------------------


def services(spaces: Iterable[str] = ()) -> tuple[User, ...]:
    """The users of the four services, in a mesh of these submitters."""
    vaults = (SECRETS, *(subjects.secret_stream(subjects.SERVICE_VERB, space) for space in spaces))
    return (
        _in(
            CORE,
            "executor",
            publish=(
                "plans.*.*",
                "work.agent.*.*.*.*",
                "work.timer.*.*.*",
                "work.planner.*.*",
                "work.planner.*.*.*",
                "outcomes.*.*",
                "questions.*.*.*.*",
                "blobs.sha256.*",
                "poison.executor.*",
                *_ask("executor", "executor"),
                *_read(PLANS),
                *_read_leader(PLANS),
                *_read(BLOBS),
                *_read_leader(BLOBS),
                *_read(OUTCOMES),
                *_read_leader(OUTCOMES),  # what has been told already
                # Nobody else may.
                *(right for vault in vaults for right in (*_read_leader(vault), subjects.purge(vault))),
                f"$JS.API.CONSUMER.NAMES.{OUTCOMES}",  # which submitters may have left secrets
                *_read_leader(WORK),  # what a step that was cancelled, and came back, has still to be taken back of
                subjects.query("proposal"),  # what a preview takes from a planner
                *_ANSWER,
                *_pull(COMMANDS, DECIDE),
                *_pull(PLANS, DISPATCH),
                *_pull(WORK, TIMERS),
                f"$JS.API.STREAM.PURGE.{WORK}",
                *_inspect(PLANS, DISPATCH),
                *_inspect(COMMANDS, DECIDE),
                *_inspect(WORK),
                *_inspect(OUTCOMES),
                *_inspect(BLOBS),
                _ACCOUNT_INFO,
            ),
            subscribe=("query.preview",),
        ),
        _in(
            AGENTS,
            "executor-agents",
            publish=(
                "signals.*",
                *_ANSWER,
                *_pull(RESULTS, DECIDE),
                *_inspect(RESULTS, DECIDE),
                _ACCOUNT_INFO,
            ),
            subscribe=("blobs.*.put", "blobs.*.get", subjects.reveal_pattern()),
        ),
        _in(
            CORE,
            "planner",
            publish=(
                "poison.planner.*",
                *_ask("planner", "planner"),
                *_pull(WORK, PLANNER),
                *_inspect(WORK, PLANNER),
                *_read(CATALOGUE),
                *_inspect(CATALOGUE),
                f"$JS.API.STREAM.INFO.{PLANS}",  # whether the log has room
                f"$JS.API.CONSUMER.NAMES.{WORK}",  # an agent is there once it has a consumer
                f"$JS.API.CONSUMER.NAMES.{OUTCOMES}",  # and so is whoever publishes goals
                *_ANSWER,
                _ACCOUNT_INFO,
            ),
            subscribe=tuple(subjects.query(name) for name in ("proposal", "draft", "templates", "template")),
        ),
        _in(
            EDGE,
            "planner-edge",
            # There is nothing in EDGE but the goals of each submitter.
            publish=(*_pull("*", PLANNER), *_inspect("*", PLANNER), _ACCOUNT_INFO),
        ),
        _in(
            CORE,
            "gatekeeper",
            publish=(
                "poison.gatekeeper.*",
                *_ask("gatekeeper", "gatekeeper"),
                *_ask("person", "*"),  # as whom it has identified
                *_store_secrets("person", "*"),
                subjects.query("gates"),  # what somebody's inbox shows
                subjects.query("preview"),  # what a redirection would come to
                *_pull(PLANS, GATEKEEPER),
                *_pull(POISON, GATEKEEPER),  # what operators are told of
                *_read(CATALOGUE),  # and of agents that have work, and that nobody runs
                *_inspect(WORK),
                "notices.*.*.*.*.*.*",
                *_read_leader(NOTICES),
                *_read(PLANS),
                *_read(BLOBS),
                *_inspect(PLANS, GATEKEEPER),
                *_inspect(POISON, GATEKEEPER),
                _ACCOUNT_INFO,
            ),
        ),
        _in(
            CORE,
            "auditor",
            publish=(
                "poison.auditor.*",
                *_ANSWER,
                *_pull(PLANS, AUDITOR),
                *_read(PLANS),
                *_read(BLOBS),
                *_read(CATALOGUE),
                *_inspect(PLANS, AUDITOR),
                _ACCOUNT_INFO,
            ),
            subscribe=("query.*", "$SRV.>"),
        ),
    )


def admins() -> tuple[User, ...]:
    """The users that make streams and consumers, one an account that has streams, and the one that may reload."""
    return (
        User("admin", CORE, (">",), (">",)),
        User("admin-agents", AGENTS, (">",), (">",)),
        User("admin-edge", EDGE, (">",), (">",)),
        _in(
            SYSTEM,
            "admin-system",
            publish=("$SYS.REQ.SERVER.PING.IDZ", "$SYS.REQ.SERVER.PING.HEALTHZ", "$SYS.REQ.SERVER.*.RELOAD"),
        ),
    )


# --- those who are alone in their account ------------------------------------------------------------------


def agent(name: str) -> User:
    """Whoever runs the steps of the agent *name*. Raises: BadToken."""
    user = f"agent-{subjects.token('agent', name)}"
    return _in(
        user,
        user,
        publish=(
            subjects.results(name),
            f"claims.{name}.*.*.*.*",
            subjects.catalogue(name),
            f"progress.{name}.*.*.*",
            subjects.put_blob(name),
            subjects.get_blob(name),
            subjects.reveal(name),
            *_pull(WORK, subjects.agent_consumer(name)),
        ),
        subscribe=(subjects.signals(name),),
    )


def operator(name: str) -> User:
    """The person *name*, who may look at everything and steer plans as themselves.

    Raises:
        BadToken: Not a name.
        Unusable: The log would take this person for a service.
    """
    if name in subjects.ACTORS:
        raise Unusable(f"an operator cannot be called {name}: the log names a service so. Choose another name")
    user = f"operator-{subjects.token('operator', name)}"
    return _in(
        user,
        user,
        publish=(
            *(f"commands.*.*.{verb}.{name}" for verb in OPERATOR_VERBS),
            *_store_secrets("operator", name),
            "query.*",
            "$SRV.>",
            *(right for stream in (PLANS, BLOBS, POISON, CATALOGUE) for right in _read(stream)),
            *(right for account in (CORE, AGENTS, EDGE) for right in _inspect("*", prefix=f"{INSPECT}.{account}")),
        ),
        subscribe=("plans.*.*", "outcomes.*.*", "progress.*.*.*.*"),
    )


def submitter(space: str) -> User:
    """A service that publishes goals: *space* is its name as a requester, and its tenant. Raises: BadToken."""
    user = f"submitter-{subjects.token('space', space)}"
    return _in(
        user,
        user,
        publish=(
            f"goals.{space}.*",
            *_ask("service", space),
            *_store_secrets("service", space),
            subjects.last_outcome(space),  # what it may have missed while its connection was away
            *_pull(OUTCOMES, subjects.outcome_consumer(space)),
            *_pull(OUTCOMES, subjects.question_consumer(space)),
        ),
        subscribe=(f"outcomes.{space}.*", f"plans.{space}.*"),
    )


def named(name: str, spaces: Iterable[str] = ()) -> User:
    """The user with this name, in a mesh of these submitters.

    Raises:
        BadToken: It is none of the fixed names, and not ``agent-``, ``operator-`` or ``submitter-`` and a token.
        Unusable: See `operator`.
    """
    for user in (*services(spaces), *admins()):
        if user.name == name:
            return user
    role, _, rest = name.partition("-")
    make = {"agent": agent, "operator": operator, "submitter": submitter}.get(role)
    if make is None:
        raise subjects.BadToken("user", name)
    return make(rest)


def _in(account: str, name: str, *, publish: tuple[str, ...], subscribe: tuple[str, ...] = ()) -> User:
    subjects.token("user", name)
    return User(name, account, publish, (*subscribe, f"_INBOX.{name}.>"))


# --- the server's configuration ----------------------------------------------------------------------------

# What accounts of one user may import. `stream`: more than one answer may come back; the server takes an answer
# without headers and content for the last one, and so nothing in WORK or OUTCOMES may be empty.
_SERVICE_EXPORTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    CORE: (
        ("commands.*.*.*.*", "singleton"),
        ("secrets.*.*.*.*.*.*", "singleton"),
        ("catalogue.*", "singleton"),
        ("query.*", "singleton"),
        ("$SRV.>", "stream"),
        *((f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", "stream") for stream in (WORK, OUTCOMES)),
        *((f"$JS.ACK.{stream}.*.>", "singleton") for stream in (WORK, OUTCOMES)),
        (subjects.last_outcome(), "singleton"),
        *((right, "stream") for stream in (PLANS, BLOBS, POISON, CATALOGUE) for right in _read(stream)),
    ),
    AGENTS: (
        ("results.*", "singleton"),
        ("claims.*.*.*.*.*", "singleton"),
        ("blobs.*.put", "singleton"),
        ("blobs.*.get", "singleton"),
        (subjects.reveal_pattern(), "singleton"),
    ),
    EDGE: (("goals.*.*", "singleton"),),
}
# How long the server keeps the way open that an answer takes, where the two minutes that it has of itself are too few:
# a planner may ask a model.
_PATIENCE: Final[Mapping[str, Mapping[str, str]]] = {"query.*": {"response_threshold": "20m"}}
_STREAM_EXPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    CORE: ("plans.*.*", "outcomes.*.*"),
    AGENTS: ("signals.*",),
    EDGE: (),
}


# Of one outsider: a server has some 65,000 connections for everybody. The server closes what is beyond.
_LIMITS: Final[Mapping[str, int]] = {"max_conn": 2_000, "max_subs": 20_000}


def _home(subject: str) -> str:
    """The account that serves *subject*."""
    tokens = subject.split(".")
    if tokens[0] == "$JS":
        return next(HOME[kind] for kind in map(subjects.kind_of, tokens) if kind in HOME)
    return _HOME_OF_FIRST_TOKEN.get(tokens[0], CORE)


def _imports(user: User, agents: Iterable[str]) -> list[dict[str, Any]]:
    """All of the user's allow-list, and nothing else."""
    found: list[dict[str, Any]] = []
    for subject in user.publish:
        # Progress is exported to whoever watches: what an account imports it cannot export again.
        if subject.startswith(f"{INSPECT}."):
            account, remote = subject.removeprefix(f"{INSPECT}.").split(".", 1)
            found.append({"service": {"account": account, "subject": f"$JS.API.{remote}"}, "to": subject})
        elif not subject.startswith("progress."):
            found.append({"service": {"account": _home(subject), "subject": subject}})
    for subject in user.subscribe:
        if subject.startswith("progress."):
            found += ({"stream": {"account": f"agent-{name}", "subject": f"progress.{name}.*.*.*"}} for name in agents)
        elif subject != user.inbox:
            found.append({"stream": {"account": _home(subject), "subject": subject}})
    return found


def accounts(passwords: Mapping[str, str]) -> dict[str, Any]:
    """The ``accounts`` block of a nats-server: every user of *passwords* with its rights.

    Args:
        passwords: User names, and their passwords.

    Raises:
        BadToken: Not the name of a user.
    """
    spaces = sorted(name.removeprefix("submitter-") for name in passwords if name.startswith("submitter-"))
    users = [named(name, spaces) for name in sorted(passwords)]
    agents = [user.name.removeprefix("agent-") for user in users if user.name.startswith("agent-") and user.is_alone]
    block: dict[str, dict[str, Any]] = {}
    for account in (CORE, AGENTS, EDGE):
        block[account] = {
            "jetstream": "enabled",
            "users": [],
            "exports": [
                *(
                    {"service": subject, "response_type": answers, **_PATIENCE.get(subject, {})}
                    for subject, answers in _SERVICE_EXPORTS[account]
                ),
                *({"service": right} for right in _inspect("*")),
                *({"stream": subject} for subject in _STREAM_EXPORTS[account]),
            ],
        }
    block[SYSTEM] = {"users": []}
    for user in users:
        if user.is_alone:
            block[user.account] = {
                "users": [],
                "imports": _imports(user, agents),
                "limits": _LIMITS,
                "exports": [{"stream": subject} for subject in user.publish if subject.startswith("progress.")],
            }
        block[user.account]["users"].append(
            {
                "user": user.name,
                "password": passwords[user.name],
                "permissions": {"publish": list(user.publish), "subscribe": list(user.subscribe)},
            }
        )
    return block


def server_config(passwords: Mapping[str, str]) -> str:
    """`accounts` as a file for nats-server's ``include`` (its configuration language contains JSON).

    It holds passwords: keep it at mode 0600. Reload the server after a change. Where the including file says
    ``system_account: SYSTEM``, planmesh can do that itself.
    """
    return json.dumps({"accounts": accounts(passwords)}, indent=1) + "\n"
