"""The plan document: what a goal becomes, before anything runs.

A document is written by a person, a program or a model, as JSON or YAML; the planner checks and completes it
(`planmesh.planner`). What the log stores is the completed form: `after` names everything that a step needs,
and `permissions` and `idempotent` are settled. Completing a completed plan changes nothing.

In the strings of `inputs`, `prompt`, `show` and `result`, ``{expression}`` reads the output of a step by its
binding or an input of the plan by its name (`planmesh.schemas.templates`).
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

MAX_STEPS: Final = 10_000
MAX_PLAN_BYTES: Final = 4 * 1024 * 1024

# `$` also matches before a final line break; the look-ahead closes that gap in Python and ECMA 262 alike.
Token: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$", description="1 to 64 of A-Z a-z 0-9 _ -")
]
Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(?!\n)$",
        description="a-z 0-9 first, then also _ and -; 63 at most",
    ),
]

SecretName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?!\n)$",
        description="a-z A-Z 0-9 _ first, then also -; 63 at most",
    ),
]
Identifier: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}(?!\n)$", description="a name that an expression can read"),
]
# One line for people: no control character, nothing that hides or reorders text (Unicode TR 36).
Line: TypeAlias = Annotated[
    str,
    Meta(
        max_length=200,
        pattern="^[^\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff]*$",
        description="one line of at most 200 characters, without control or bidirectional characters",
    ),
]
Text: TypeAlias = Annotated[str, Meta(max_length=65_536)]
ExpressionText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1_024)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=366 * 86_400)]
Delay: TypeAlias = Annotated[float, Meta(ge=0, le=366 * 86_400)]


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of what people write: unknown fields are refused, so that a misspelt one cannot pass in silence."""


class Permissions(Document, frozen=True, kw_only=True):
    """What a step may use. An empty list permits nothing."""

    tools: tuple[Name, ...] = ()
    """Tools by name."""
    network: tuple[Line, ...] = ()
    """Hosts, as `host` or `host:port`."""
    read: tuple[Line, ...] = ()
    """Paths that may be read."""
    write: tuple[Line, ...] = ()
    """Paths that may be written."""
    secrets: tuple[SecretName, ...] = ()
    """Secrets by name: of variables in the worker's environment, as a rule."""

    def beyond(self, granted: "Permissions") -> str:
        """What of this, tools aside, is not *granted*, in words; empty if all of it is.

        Hosts, paths and secrets are compared as they are written.
        """
        missing = []
        for field in ("network", "read", "write", "secrets"):
            more = [value for value in getattr(self, field) if value not in getattr(granted, field)]
            if more:
                missing.append(f"{field} {', '.join(more)}")
        return "; ".join(missing)


class Retry(Document, frozen=True, kw_only=True):
    """How often a failed step is tried, and how long it waits in between: exponential backoff, in seconds."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    """Attempts in all, the first included."""
    backoff_s: Delay = 1.0
    factor: Annotated[float, Meta(ge=1, le=10)] = 2.0
    max_backoff_s: Delay = 300.0

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after *attempt* (from 1) has failed."""
        # An exponent of 64 is past every maximum that is allowed, and cannot overflow a float.
        return min(self.backoff_s * self.factor ** min(attempt - 1, 64), self.max_backoff_s)


class Branch(Document, frozen=True, kw_only=True):
    """A step that has a branch runs only if that `decide` or `check` step took it."""

    step: Name
    label: Line
    """One of the labels of a `decide`; `pass` or `fail` of a `check`."""


class StepBase(Document, frozen=True, kw_only=True, tag_field="kind"):
    """What every kind of step has."""

    name: Name
    binding: Identifier | None = None
    """How expressions call the step's output; unless given, the name with `_` for `-`."""
    label: Line = ""
    """For people."""
    after: tuple[Name, ...] = ()
    """Steps that must be settled first. The planner adds every step that an expression here reads."""
    branch: Branch | None = None
    optional: bool = False
    """Whether a person may skip the step."""

    @property
    def bound_as(self) -> str:
        return self.binding or self.name.replace("-", "_")


class Task(StepBase, frozen=True, kw_only=True, tag="task"):
    """One call of an agent."""

    agent: Name
    inputs: dict[str, Any] = {}
    permissions: Permissions | None = None
    """Unless given, what the agent declares; the planner settles it."""
    retry: Retry = Retry()
    timeout_s: Seconds | None = None
    idempotent: bool | None = None
    """Whether doing it twice does no harm. Unless given, what the agent declares; an agent that declares nothing
    is not. A step that is not is begun at most once an attempt."""
    destructive: bool = False
    """Whether what it does cannot be undone: so its agent declares, or a tool that it permits. The planner settles it,
    and whoever approves the step is told."""
    on_error: Literal["halt", "ignore"] = "halt"
    """`ignore`: when it has failed for good, the step counts as skipped, with null as its output."""
    accept: ExpressionText | None = None
    """What must hold of its output, which is read by the step's binding. An attempt whose output does not is failed, as
    `not_accepted`, and tried again while there are attempts."""


def is_destructive(step: "Step") -> bool:
    """Whether what a step does cannot be undone, or what one does that goes through its items."""
    match step:
        case Task():
            return step.destructive
        case Each():
            return any(map(is_destructive, step.steps))
    return False


MODEL_AGENT: Final = "llm"
"""The agent that planmesh comes with: a language model with tools (`planmesh.llm`)."""


class ModelOptions(Struct, frozen=True, kw_only=True):
    """What a step may say of how the model of `MODEL_AGENT` is asked, among its inputs."""

    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Another model of the endpoint in the settings, which have to allow it."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """The longest answer."""
    max_iterations: Annotated[int, Meta(ge=1, le=100)] = 10
    """The most answers, those that call tools included."""


class Agent(Task, frozen=True, kw_only=True, tag="agent"):
    """One call of an agent that thinks for itself: a model in a loop, which may use the tools that
    `permissions` names and no others. The rest of what it is told, such as `task`, `system` and `max_iterations`,
    are its inputs."""

    agent: Name = MODEL_AGENT


Level: TypeAlias = Literal["link", "login", "operator"]
"""How somebody has shown who they are, from weakest to strongest: they hold a link that was sent to them, they have
signed in, or they have an operator's credentials."""

OPERATORS: Final = "role:operator"
"""The reviewers of a gate that names none: everyone with an operator's credentials."""

SERVICE: Final = "service:"
"""How a service is written where people are: the one that publishes goals as *billing* is `service:billing`. No person
is called so."""

LEVELS: Final[tuple[Level, ...]] = ("link", "login", "operator")


Reviewers: TypeAlias = Annotated[tuple[Line, ...], Meta(max_length=100)]


class Escalation(Document, frozen=True, kw_only=True):
    """Who may decide as well, once it has taken too long. Nobody is taken off, and nothing is decided by it."""

    after_s: Seconds
    """In seconds after it has asked."""
    to: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=100)]


class Share(Document, frozen=True, kw_only=True):
    """Approvals that have to come from one group."""

    of: Line
    """The group, as in `reviewers`."""
    count: Annotated[int, Meta(ge=1, le=100)] = 1


class Gate(StepBase, frozen=True, kw_only=True, tag="gate"):
    """A hard stop: nothing that needs it starts before it is approved."""

    reviewers: Annotated[Reviewers, Meta(min_length=1)] = (OPERATORS,)
    """Who may decide: `person:NAME`, an e-mail address, `role:NAME` or `team:NAME`, as the directory of the mesh has
    them; `role:operator` for everyone with an operator's credentials; or `service:SPACE` for a service that has one."""
    quorum: Annotated[int, Meta(ge=1, le=100)] = 1
    """Approvals that it takes. One rejection is enough."""
    shares: Annotated[tuple[Share, ...], Meta(max_length=20)] = ()
    """Which groups have to be among those who approve."""
    escalate: Annotated[tuple[Escalation, ...], Meta(max_length=10)] = ()
    four_eyes: bool = False
    """Whether those are barred from approving who asked for the plan, or were the last to revise the gate or what is
    behind it."""
    require_reason: bool = False
    """Whether a rejection must say why."""
    sla_s: Seconds | None = None
    """When the gate counts as overdue, in seconds after it opened. It stays closed all the same."""
    level: Level | None = None
    """How whoever decides must have shown who they are, at least. Unless given, `link`; and `login` where it takes
    several approvals or `four_eyes`, or for whoever answers as nobody but `role:operator`."""
    prompt: Text = ""
    show: tuple[Text, ...] = ()
    """What leads the review, such as `{report.text}`."""

    @property
    def least_level(self) -> Level:
        return self.level or ("login" if self.four_eyes or self.approvals > 1 else "link")

    @property
    def approvals(self) -> int:
        """How many it takes, at least: each person counts for one share."""
        return max(self.quorum, sum(share.count for share in self.shares))

    def level_for(self, groups: Iterable[str], also: Iterable[str] = ()) -> Level:
        """How somebody must have shown who they are who decides as *groups* of the reviewers, or of those to whom it
        was escalated (*also*)."""
        return _level_for(self, self.reviewers, groups, also)


class Ask(StepBase, frozen=True, kw_only=True, tag="ask"):
    """A question to a person or to a service. Its output is an object: `value`, `provided_by`, `provided_at` (RFC 3339)
    and `attempt`, which is how many answers it took. An answer is a value like any other: only a gate stops."""

    prompt: Text = ""
    type: Literal["text", "number", "boolean"] = "text"
    options: Annotated[tuple[Line, ...], Meta(max_length=100)] = ()
    """The answers that a `text` may have; none: any."""
    default: str | int | float | bool | None = None
    """What the form is filled with."""
    reviewers: Reviewers = ()
    """Who may answer, as for a gate; unless given, whoever has an operator's credentials, and the space that requested
    the plan."""
    level: Level | None = None
    """How whoever answers must have shown who they are, at least. Unless given, `link`; and `login` where the answer is
    `secret`, or for whoever answers as nobody but `role:operator`."""
    sla_s: Seconds | None = None
    """When it counts as overdue, in seconds after it was asked."""
    on_overdue: Literal["remind", "default"] = "remind"
    """`default`: then the default is the answer, and the log says so."""
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 3
    """Invalid answers after which it is escalated. It stays open all the same."""
    escalate: Annotated[tuple[Escalation, ...], Meta(max_length=10)] = ()
    secret: bool = False
    """Whether the answer must never be shown: the log, notices and pages have a handle in its place."""

    @property
    def least_level(self) -> Level:
        return self.level or ("login" if self.secret else "link")

    def level_for(self, groups: Iterable[str], also: Iterable[str] = ()) -> Level:
        """How somebody must have shown who they are who answers as *groups* of the reviewers, or of *also*."""
        return _level_for(self, self.reviewers or (OPERATORS,), groups, also)


def _level_for(asking: Gate | Ask, reviewers: Iterable[str], groups: Iterable[str], also: Iterable[str]) -> Level:
    """Operators have credentials of their own: whoever answers in their place, and as nobody else, is not taken at the
    word of a link, unless the plan says so itself."""
    if asking.level is None and set(groups).intersection((*reviewers, *also)) == {OPERATORS}:
        return max(asking.least_level, "login", key=LEVELS.index)
    return asking.least_level


class Case(Document, frozen=True, kw_only=True):
    when: ExpressionText
    then: Line


class Decide(StepBase, frozen=True, kw_only=True, tag="decide"):
    """Takes the branch of the first case that holds; with none and no `otherwise`, it fails as `no_branch`."""

    cases: Annotated[tuple[Case, ...], Meta(min_length=1, max_length=100)]
    otherwise: Line | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        rest = () if self.otherwise is None else (self.otherwise,)
        return (*dict.fromkeys([*(case.then for case in self.cases), *rest]),)


class Check(StepBase, frozen=True, kw_only=True, tag="check"):
    """Holds a condition against what is known, and takes the branch `pass` or `fail`."""

    condition: ExpressionText
    on_fail: Literal["fail", "continue"] = "fail"
    """`fail`: the step fails as `check_failed` and its branch halts. `continue`: the branch `fail` is taken."""
    message: Text = ""

    @property
    def labels(self) -> tuple[str, ...]:
        return ("pass",) if self.on_fail == "fail" else ("pass", "fail")


class Emit(StepBase, frozen=True, kw_only=True, tag="emit"):
    """Ends the plan with an outcome and a result. What has not ended is cancelled; open gates close, undecided."""

    outcome: Line
    result: Any = None


class Draft(StepBase, frozen=True, kw_only=True, tag="plan"):
    """Lets the planner write a plan, with a model. Its output is the plan document, checked as anybody's; a `run` step
    runs it."""

    inputs: dict[str, Any] = {}
    """What the model is told: `task`, and whatever helps."""
    agents: Annotated[tuple[Name, ...], Meta(max_length=1_000)] | None = None
    """The agents and tools that the plan may use; unless given, all that the mesh has."""
    max_steps: Annotated[int, Meta(ge=1, le=1_000)] = 50
    strict: bool = False
    """Whether lints are errors too."""


class Run(StepBase, frozen=True, kw_only=True, tag="run"):
    """Runs a plan as a child, which has a record of its own. Its output is an object: `plan` (the child's id),
    `status`, `outcome` and `result`."""

    document: ExpressionText
    """What gives the plan document: the binding of a `plan` step, as a rule."""
    inputs: dict[str, Any] = {}
    """Values for the child's inputs."""
    mode: Literal["normal", "safe", "draft"] = "normal"
    """`safe`: a plan in which a step that writes, reaches the network, uses secrets or cannot be undone does not stand
    behind a gate is refused. `draft`: it is recorded, and not started."""
    retries: Annotated[int, Meta(ge=0, le=100)] = 0
    """How often failed steps of the child are tried again, before this step fails."""
    permissions: Permissions | None = None
    """The most that the steps of the child may be permitted. Unless given, what each agent declares."""


BodyStep: TypeAlias = Task | Agent | Gate | Ask | Decide | Check


class Each(StepBase, frozen=True, kw_only=True, tag="each"):
    """Runs its steps once for each item of a list, which may be known only when it is reached. The steps of item 3 are
    called `NAME_3`; items count from 1. Its output is the list of what the items gave, in their order; null for one
    that was skipped."""

    items: ExpressionText
    """What gives the list."""
    item: Identifier = "item"
    """How the steps call their item. They read one another by their bindings, and what is around them as well."""
    steps: Annotated[tuple[BodyStep, ...], Meta(min_length=1, max_length=100)]
    """`after` names steps among them."""
    value: ExpressionText | None = None
    """What an item gives; unless given, the output of the last of its steps."""
    parallel: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Items under way at once; unless given, all. One that has failed is under way until somebody deals with it."""


Step: TypeAlias = Task | Agent | Gate | Ask | Decide | Check | Draft | Run | Each | Emit


class Policy(Document, frozen=True, kw_only=True):
    on_failure: Literal["pause", "fail", "cancel"] = "pause"
    """What becomes of the plan when a step has failed for good. `pause`: other branches go on, then it waits for a
    person. `fail` and `cancel`: the rest is cancelled at once."""
    revisions: Literal["apply", "hold"] = "apply"
    """What becomes of a revision that the planner has worked out from an instruction. `apply`: it is carried out,
    unless only a person may allow it. `hold`: a person has to allow it, whatever it changes."""
    destructive: Literal["gate", "allow"] | None = None
    """What becomes of a step that a model has written, that could do harm, and that no gate stands before. `gate`: one
    is put there. `allow`: nothing; a plan may say so only where the settings of the planner let it. Unless given,
    what these settings say."""

    def is_looser_than(self, other: "Policy") -> bool:
        """Whether this lets happen without a person what *other* does not."""
        return (self.revisions == "apply" and other.revisions == "hold") or _STRICTNESS.index(
            self.destructive
        ) < _STRICTNESS.index(other.destructive)


_STRICTNESS: Final = ("allow", None, "gate")
"""Of `Policy.destructive`."""


class Parameter(Document, frozen=True, kw_only=True):
    """An input of a plan."""

    type: Literal["text", "number", "integer", "boolean", "object", "list", "date", "timestamp", "any"] = "any"
    required: bool = True
    """A default makes an input optional whatever this says."""
    default: Any = None
    description: Text = ""


class Plan(Document, frozen=True, kw_only=True):
    """A named DAG of steps. Steps with no path between them run at once, up to `concurrency`."""

    version: Literal[1] = 1
    name: Annotated[Line, Meta(min_length=1)]
    goal: Text = ""
    """What it is for, in words."""
    inputs: dict[Identifier, Parameter] = {}
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Tasks in flight at once; and, counted by themselves, plans that are written or run for its steps."""
    policy: Policy = Policy()
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=MAX_STEPS)]

    def innermost(self) -> Iterator[Step]:
        """Its steps, with those of its body in place of an `each`."""
        for step in self.steps:
            yield from step.steps if isinstance(step, Each) else (step,)
