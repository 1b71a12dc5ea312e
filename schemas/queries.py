"""What the auditor is asked, and what it answers: requests on ``query.<name>``, over NATS.

Every answer says how far into the log it has read (`position`, `lag`): the log is the truth, and the tables
follow it. An answer fits in one message. Lists come in pages; a page ends early where it would grow large, and
`next` (null on the last one) goes into the next question. A single value that is too large for any message is
left out, and named in `cut`.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Raw, Struct

from planmesh.schemas.answers import AnswerType
from planmesh.schemas.events import AskOpened, Barred, Cause, GateOpened, Recipient, Release, Upstream
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Document, Escalation, Parameter, Permissions, Plan, Share
from planmesh.schemas.revision import Change
from planmesh.schemas.state import PlanStatus, StepStatus
from planmesh.schemas.work import Failure, Parent, Usage

PAGE_BYTES: Final = 1024 * 1024
"""About where a page ends, whatever its limit."""
ROW_BYTES: Final = 7 * 1024 * 1024
"""The largest row that is given whole; `max_payload` is 8 MiB."""

Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1_000)]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Id: TypeAlias = Annotated[str, Meta(max_length=64)]


# --- questions: the subject is `subjects.query(name)`; an empty payload asks with every default --------------


class PlansQuery(Document, frozen=True, kw_only=True):
    """``query.plans``: plans, the newest first. Conditions that are left out hold for all."""

    statuses: tuple[PlanStatus, ...] = ()
    """Any of these; unless said, all but `absent`: plans that nobody has asked for, only commands for them."""
    text: Annotated[str, Meta(max_length=1_024)] = ""
    """Somewhere in the id, the name or the goal; letters A-Z without regard to case."""
    agent: Id = ""
    """One of its tasks is this agent's."""
    space: Id = ""
    since: Moment | None = None
    """Created at or after."""
    until: Moment | None = None
    """Created before."""
    limit: Limit = 50
    before: Annotated[int, Meta(ge=1)] | None = None
    """`next` of the page before."""


class PlanQuery(Document, frozen=True, kw_only=True):
    """``query.plan``: one plan, with its document."""

    plan: Id
    space: Id = ""
    """Not needed while no other space has a plan with this id."""


class StepsQuery(Document, frozen=True, kw_only=True):
    """``query.steps``: the steps of one plan, in the order of its document; then those that a revision took out."""

    plan: Id
    space: Id = ""
    limit: Limit = 1_000
    after: Annotated[int, Meta(ge=0)] = 0
    """`next` of the page before."""


class LogQuery(Document, frozen=True, kw_only=True):
    """``query.log``: what happened to one plan, in order."""

    plan: Id
    space: Id = ""
    limit: Limit = 1_000
    number: Annotated[int, Meta(ge=1)] = 1
    """From this commit on, and in it,"""
    index: Annotated[int, Meta(ge=0)] = 0
    """from this event on."""


class GatesQuery(Document, frozen=True, kw_only=True):
    """``query.gates``: the gates and asks that are open, the longest open first; of one space or plan, if it is
    named."""

    space: Id = ""
    plan: Id = ""
    brief: bool = False
    """Only what a list has to say: who is asked, since when and until when, who has approved, and how the prompt
    begins."""
    limit: Limit = 100
    after: Annotated[str, Meta(max_length=200)] = ""
    """`next` of the page before."""


class PositionQuery(Document, frozen=True, kw_only=True):
    """``query.position``: how far into the log the auditor has read."""


# --- answers -----------------------------------------------------------------------------------------------


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an answer."""


class PlanRow(Row, frozen=True, kw_only=True):
    """A plan, as of its last commit."""

    space: str
    plan: str
    name: str = ""
    goal: str = ""
    """In lists, the beginning of it."""
    status: PlanStatus
    reason: str = ""
    """Why it is paused, or how it ended."""
    by: str = ""
    """Who paused, failed or cancelled it."""
    outcome: str = ""
    """What the plan calls its end."""
    requester: str = ""
    steps: int = 0
    settled: int = 0
    """How many of them have come to an end: completed, skipped, not taken or cancelled."""
    running: int = 0
    gates: tuple[str, ...] = ()
    """Gates that are open."""
    asks: tuple[str, ...] = ()
    """Asks that are open."""
    overdue: tuple[str, ...] = ()
    """Those gates and asks that nobody has answered in time."""
    troubled: tuple[str, ...] = ()
    """Steps that failed, were rejected, or whose outcome is unknown."""
    held: bool = False
    """A person has paused it."""
    held_steps: tuple[str, ...] = ()
    """Steps that a person has paused."""
    revision: int = 0
    """Of the document in force; 1 is the plan as it was created."""
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    number: int
    """How many commits its log has."""
    sequence: int
    """Where in the stream its log begins."""
    trace_id: str = ""
    parent: Parent | None = None
    """The step that it runs for."""


class StepRow(Row, frozen=True, kw_only=True):
    """A step, as of the plan's last commit; agent, worker, version, times and inputs are its last attempt's."""

    step: str
    kind: str
    label: str = ""
    status: StepStatus
    since: datetime | None = None
    """When it came to this status."""
    needs: tuple[str, ...] = ()
    optional: bool = False
    attempt: int = 0
    """The attempt that is or was in flight; of a gate, the round. 0 before the first."""
    held: bool = False
    """A person has paused it: nothing behind it starts."""
    agent: str = ""
    """Of a task that has not begun, the agent that it names."""
    worker: str = ""
    version: str = ""
    permissions: Permissions = Permissions()
    idempotent: bool = False
    inputs: Payload = NOTHING
    """What the attempt was given: an object, in which a large value is `{"$blob": sha256, …}`; a large object is a
    digest of it. Null before the first attempt."""
    output: Payload = NOTHING
    branch: str = ""
    """The branch that a `decide` or `check` took."""
    failure: Failure | None = None
    reason: str = ""
    retry_at: datetime | None = None
    dispatched_at: datetime | None = None
    started_at: datetime | None = None
    """When the worker began, by its clock; of a gate, when it opened."""
    finished_at: datetime | None = None
    """When its end was recorded."""
    duration_s: float | None = None
    """What the worker measured; of a gate, how long it was open."""
    usage: Usage | None = None
    """Of models and tools, where the attempt has told of any calls."""
    child: str = ""
    """The plan that it runs, in the same space."""
    child_status: str = ""
    """Where that plan is, as it has last said itself."""
    each: str = ""
    """The `each` of whose items it belongs to one,"""
    item: int = 0
    """and the number of that, from 1."""
    votes: tuple[str, ...] = ()
    span_id: str = ""
    cut: tuple[str, ...] = ()


class LogLine(Row, frozen=True, kw_only=True):
    """One event."""

    number: int
    """Of the commit."""
    index: int
    """Of the event in the commit, from 0."""
    sequence: int
    """Of the commit in the stream."""
    at: datetime
    type: str
    step: str = ""
    causes: tuple[Cause, ...] = ()
    """What the commit answers; given with its first event."""
    event: Raw
    """The event, as JSON (see `AnyEvent`)."""
    cut: tuple[str, ...] = ()


class GateRow(Row, frozen=True, kw_only=True):
    """A gate or an ask that is open, and what its reviewers must know."""

    space: str
    plan: str
    plan_name: str = ""
    step: str
    kind: Literal["gate", "ask"] = "gate"
    label: str = ""
    round: int
    digest: str
    """What a vote, or an answer, quotes."""
    reviewers: tuple[str, ...] = ()
    """Who may answer, those included to whom it was escalated."""
    escalated: tuple[str, ...] = ()
    """To whom it was escalated."""
    escalate: tuple[Escalation, ...] = ()
    """To whom it is, or has been, and when."""
    quorum: int = 1
    shares: tuple[Share, ...] = ()
    votes: tuple[str, ...] = ()
    """Who has approved in this round."""
    four_eyes: bool = False
    barred: tuple[Barred, ...] = ()
    """Who may reject it, and not approve it."""
    require_reason: bool = False
    since: datetime
    overdue_at: datetime | None = None
    overdue: bool = False
    prompt: str = ""
    shown: tuple[Payload, ...] = ()
    upstream: tuple[Upstream, ...] = ()
    releases: tuple[Release, ...] = ()
    behind: int = 0
    """How many steps stand behind the gate in all."""
    because: str = ""
    """Why it asks again."""
    changes: tuple[Change, ...] = ()
    """What the revision changed that it asks again for."""
    answer: AnswerType = "text"
    """Of an ask: what it takes."""
    options: tuple[str, ...] = ()
    default: Any = None
    on_overdue: Literal["remind", "default"] = "remind"
    invalid: int = 0
    """Of an ask: how many answers were none."""
    max_retries: int = 0
    secret: bool = False
    """Of an ask: whether the answer is a secret, which is not sent with it."""
    recipients: tuple[Recipient, ...] = ()
    """The steps that a secret is given to."""
    cut: tuple[str, ...] = ()


def asked(opened: GateOpened | AskOpened) -> dict[str, Any]:
    """What a `GateRow` has of what was asked."""
    fields = {field: getattr(opened, field) for field in opened.__struct_fields__ if field in GateRow.__struct_fields__}
    return {**fields, "kind": "gate" if isinstance(opened, GateOpened) else "ask"}


class AnswerBase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="answer"):
    """What every answer has."""

    position: int
    """The last sequence of the log that this is drawn from."""
    lag: int
    """How many messages the log had beyond that, when last heard of."""


class PlansAnswer(AnswerBase, frozen=True, kw_only=True, tag="plans"):
    plans: tuple[PlanRow, ...]
    next: int | None = None
    """`before` of the next page."""


class PlanAnswer(AnswerBase, frozen=True, kw_only=True, tag="plan"):
    plan: PlanRow
    document: Plan | None = None
    """None of a goal that was refused."""
    inputs: dict[str, Any] = {}
    result: Payload = NOTHING
    problems: tuple[Problem, ...] = ()
    """Why the goal was refused."""
    origin: Origin | None = None
    """Who wrote the plan as it was created, if that was not whoever asked."""
    cut: tuple[str, ...] = ()


class StepsAnswer(AnswerBase, frozen=True, kw_only=True, tag="steps"):
    space: str
    plan: str
    steps: tuple[StepRow, ...]
    next: int | None = None
    """`after` of the next page."""


class LogAnswer(AnswerBase, frozen=True, kw_only=True, tag="log"):
    space: str
    plan: str
    lines: tuple[LogLine, ...]
    next: tuple[int, int] | None = None
    """`number` and `index` of the next page."""


class GatesAnswer(AnswerBase, frozen=True, kw_only=True, tag="gates"):
    gates: tuple[GateRow, ...]
    next: str | None = None
    """`after` of the next page."""


class PositionAnswer(AnswerBase, frozen=True, kw_only=True, tag="position"):
    at: datetime | None = None
    """The time of the last commit that has been read."""
    skipped: int = 0
    """Messages in the log that were no commits of their plan (an alarm)."""
    spans_dropped: int = 0
    """Spans that the collector did not take, since the auditor started."""


class QueryError(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="answer", tag="error"):
    """Why there is no answer.

    ====================  ==========================================================================
    `code`
    ====================  ==========================================================================
    `unknown_plan`        no such plan (yet, if there is a lag); `nearest` has ids that look like it
    `ambiguous_plan`      several spaces have it: ask again with one of `spaces`
    `bad_query`           the question is malformed; the message says where
    `busy`                the database does not answer now: ask again
    `failed`              a bug; the auditor's log has its traceback
    ====================  ==========================================================================
    """

    code: str
    message: str
    nearest: tuple[str, ...] = ()
    """As `space.plan`."""
    spaces: tuple[str, ...] = ()


# --- templates: the planner answers these --------------------------------------------------------------------


class TemplatesQuery(Document, frozen=True, kw_only=True):
    """``query.templates``: the plans that the mesh keeps."""


class TemplateQuery(Document, frozen=True, kw_only=True):
    """``query.template``: one of them, with its text."""

    template: Id


class TemplateRow(Row, frozen=True, kw_only=True):
    """A plan that the mesh keeps."""

    template: str
    name: str = ""
    goal: str = ""
    inputs: dict[str, Parameter] = {}
    steps: int = 0
    problems: int = 0
    """How many things are wrong with it."""
    problem: str = ""
    """The first of them."""


class TemplatesAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    templates: tuple[TemplateRow, ...]
    more: int = 0
    """How many there are besides."""


class TemplateAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    template: str
    file: str
    """The name of its file."""
    text: str
    plan: Plan | None = None
    """What it is completed to; None, if something is wrong with it."""
    problems: tuple[Problem, ...] = ()


# --- the auditor's, by name ----------------------------------------------------------------------------------

Answer: TypeAlias = PlansAnswer | PlanAnswer | StepsAnswer | LogAnswer | GatesAnswer | PositionAnswer | QueryError
Question: TypeAlias = PlansQuery | PlanQuery | StepsQuery | LogQuery | GatesQuery | PositionQuery

QUERIES: Final[dict[str, tuple[type[Question], type[Answer]]]] = {
    "plans": (PlansQuery, PlansAnswer),
    "plan": (PlanQuery, PlanAnswer),
    "steps": (StepsQuery, StepsAnswer),
    "log": (LogQuery, LogAnswer),
    "gates": (GatesQuery, GatesAnswer),
    "position": (PositionQuery, PositionAnswer),
}
"""By the name in the subject: the question, and its answer (or a `QueryError`)."""
