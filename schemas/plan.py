"""The plan document: what a goal becomes, before anything runs.

A document is written by a person, a program or a model, as JSON or YAML; the planner checks and completes it
(`planmesh.planner`). What the log stores is the completed form: `after` names everything that a step needs,
and `permissions` and `idempotent` are settled. Completing a completed plan changes nothing.

In the strings of `inputs`, `prompt`, `show` and `result`, ``{expression}`` reads the output of a step by its
binding or an input of the plan by its name (`planmesh.schemas.templates`).
"""

from collections.abc import Iterable
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
    secrets: tuple[Name, ...] = ()
    """Secrets by name."""

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
    on_error: Literal["halt", "ignore"] = "halt"
    """`ignore`: when it has failed for good, the step counts as skipped, with null as its output."""


Level: TypeAlias = Literal["link", "login", "operator"]
"""How somebody has shown who they are, from weakest to strongest: they hold a link that was sent to them, they have
signed in, or they have an operator's credentials."""

OPERATORS: Final = "role:operator"
"""The reviewers of a gate that names none: everyone with an operator's credentials."""

LEVELS: Final[tuple[Level, ...]] = ("link", "login", "operator")


class Gate(StepBase, frozen=True, kw_only=True, tag="gate"):
    """A hard stop: nothing that needs it starts before it is approved."""

    reviewers: Annotated[tuple[Line, ...], Meta(min_length=1)] = (OPERATORS,)
    """Who may decide: `person:NAME`, an e-mail address, `role:NAME` or `team:NAME`, as the directory of the mesh has
    them; or `role:operator` for everyone with an operator's credentials."""
    quorum: Annotated[int, Meta(ge=1, le=100)] = 1
    """Approvals that it takes. One rejection is enough."""
    four_eyes: bool = False
    """Whether the requester is barred from approving."""
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
        return self.level or ("login" if self.four_eyes or self.quorum > 1 else "link")

    def level_for(self, groups: Iterable[str]) -> Level:
        """How somebody must have shown who they are who answers as *groups* of the reviewers.

        Operators have credentials of their own: whoever answers in their place, and as nobody else, is not taken at
        the word of a link, unless the gate says so itself.
        """
        if self.level is None and set(groups).intersection(self.reviewers) == {OPERATORS}:
            return max(self.least_level, "login", key=LEVELS.index)
        return self.least_level


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


Step: TypeAlias = Task | Gate | Decide | Check | Emit


class Policy(Document, frozen=True, kw_only=True):
    on_failure: Literal["pause", "fail", "cancel"] = "pause"
    """What becomes of the plan when a step has failed for good. `pause`: other branches go on, then it waits for a
    person. `fail` and `cancel`: the rest is cancelled at once."""


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
    """Tasks in flight at once."""
    policy: Policy = Policy()
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=MAX_STEPS)]
