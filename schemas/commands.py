"""What is asked of a plan. Commands ask; events tell. `VERBS` says who may ask and how it may be answered.

A command is published on ``commands.<space>.<plan>.<verb>.<actor>``. Plan, verb and actor are read from the
subject, which the server checks, never from the message. A command names the attempt, or the digest, that it
is about, so that one that comes late changes nothing; the same id twice is one command.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct

from planmesh.schemas import events
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import SERVICE, Level, Line, Name, Plan, Text, Token
from planmesh.schemas.work import Calls, ChildStep, Failure, Parent, Result

Reason: TypeAlias = Annotated[str, Meta(max_length=4_096)]


class Command(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="verb"):
    """What every command has."""

    id: Token


class CreatePlan(Command, frozen=True, kw_only=True, tag="create"):
    """A goal has become a plan, checked and completed."""

    plan: Plan
    goal: Text = ""
    inputs: dict[str, Any] = {}
    goal_digest: str
    owners: Annotated[tuple[Token, ...], Meta(max_length=1_000)] = ()
    """The people who own the space that asks."""
    origin: Origin | None = None
    start: bool = True
    traceparent: str | None = None
    parent: Parent | None = None
    """The step that it is to run for."""
    mandate: Mandate = Mandate()

    def refused(self, *problems: Problem) -> "RefuseGoal":
        """The command that refuses the same goal, and that whoever waits for it hears of."""
        return RefuseGoal(
            id=self.id,
            problems=problems,
            goal=self.goal,
            name=self.plan.name,
            goal_digest=self.goal_digest,
            origin=self.origin,
            traceparent=self.traceparent,
            parent=self.parent,
        )


class RefuseGoal(Command, frozen=True, kw_only=True, tag="refuse"):
    """A goal cannot become a plan."""

    problems: Annotated[tuple[Problem, ...], Meta(min_length=1)]
    goal: Text = ""
    name: Line = ""
    goal_digest: str
    origin: Origin | None = None
    traceparent: str | None = None
    parent: Parent | None = None


class StartPlan(Command, frozen=True, kw_only=True, tag="start"):
    """Start a draft."""

    reason: Reason = ""


class PausePlan(Command, frozen=True, kw_only=True, tag="pause"):
    """Start nothing more: in the plan, or behind one step. What is running may finish, and is recorded."""

    step: Name | None = None
    reason: Reason = ""


class ResumePlan(Command, frozen=True, kw_only=True, tag="resume"):
    """Go on after a pause of the plan, or of one step."""

    step: Name | None = None
    reason: Reason = ""


class CancelPlan(Command, frozen=True, kw_only=True, tag="cancel"):
    """End the plan; or one step, and with it all that can only run after it. What is running is told to stop, and
    its late result changes nothing."""

    step: Name | None = None
    reason: Reason = ""


class RetryStep(Command, frozen=True, kw_only=True, tag="retry"):
    """Try a failed step again, or a rejected gate, or one whose outcome is unknown."""

    step: Name
    attempt: int
    """The attempt that failed (the gate's round): a retry of an older one is refused."""
    agent: Name | None = None
    """Another agent. Its permissions are worked out anew, and a gate that released the step asks again."""
    inputs: dict[str, Any] | None = None
    """Other inputs, in place of the step's."""
    reason: Reason = ""


class SkipStep(Command, frozen=True, kw_only=True, tag="skip"):
    """Go on without an optional step; its output is null. A gate takes a reason as well."""

    step: Name
    reason: Reason = ""


class ResolveStep(Command, frozen=True, kw_only=True, tag="resolve"):
    """Say what became of an attempt whose outcome is unknown."""

    step: Name
    attempt: int
    done: bool
    """True: it had its effect, with `output`. False: it had none, and counts as failed."""
    output: Payload = Payload()
    reason: Reason = ""


class CastVote(Command, frozen=True, kw_only=True, tag="vote"):
    """Approve or reject what a gate would release, as the operator in the subject."""

    step: Name
    digest: str
    """The digest of what was shown: if it has changed since, the vote is refused and the gate asks again."""
    decision: Literal["approve", "reject"]
    reason: Reason = ""


class ReviewGate(Command, frozen=True, kw_only=True, tag="review"):
    """Answer a gate or an ask as the person in the subject, whom the gatekeeper has identified. Nobody else may publish
    it: an operator's own answer claims no groups."""

    step: Name
    digest: str
    """As in `CastVote`, or `AnswerAsk`."""
    decision: Literal["approve", "reject", "redirect", "answer"]
    groups: Annotated[tuple[Line, ...], Meta(max_length=100)]
    """Those of the gate's reviewers that the person is, or is in."""
    level: Level
    """How the person has shown who they are."""
    document: dict[str, Any] | str | None = None
    """Of a redirection: as in `RedirectPlan`."""
    base: int = 0
    """As in `RedirectPlan`."""
    instruction: Text = ""
    """Of a redirection: what to change, in words."""
    value: Any = None
    secret: Token | None = None
    """As in `AnswerAsk`."""
    reason: Reason = ""


class AnswerAsk(Command, frozen=True, kw_only=True, tag="answer"):
    """Answer an ask, as the operator in the subject."""

    step: Name
    digest: str
    """The digest of the question: if it has changed since, the answer is refused."""
    value: Any = None
    """A text, a number, or true or false, as the ask takes it. Anything else is refused, and counted."""
    secret: Token | None = None
    """In place of a value, where the ask takes a secret: the id under which whoever answers has stored it before
    (`planmesh.secrets`). A value that is sent to such an ask is refused, and not recorded."""
    reason: Reason = ""


class Reply(Command, frozen=True, kw_only=True, tag="reply"):
    """Answer a gate or an ask as the service in the subject, which they name, as `service:<space>`."""

    step: Name
    digest: str
    """As in `CastVote`, or `AnswerAsk`."""
    decision: Literal["approve", "reject", "answer"]
    value: Any = None
    secret: Token | None = None
    """As in `AnswerAsk`."""
    reason: Reason = ""


class RevisePlan(Command, frozen=True, kw_only=True, tag="revise"):
    """Replace what has not started by what *document* says."""

    base: Annotated[int, Meta(ge=1)]
    """The revision that the document is made against; another one is refused."""
    document: dict[str, Any] | str | None = None
    instruction: Text = ""
    """What to change, in words, for the planner to work out."""
    cancel_running: bool = False
    """Whether a running step that the document leaves out is cancelled. Unless true, that is refused."""
    reason: Reason = ""


class RedirectPlan(Command, frozen=True, kw_only=True, tag="redirect"):
    """Answer a gate with another plan from here on: edited steps, or an instruction for the planner. The gate asks
    again, and shows what has changed."""

    step: Name
    digest: str
    base: int = 0
    """The revision that the document was made from: a newer plan is not overwritten. 0: whichever there is."""
    document: dict[str, Any] | str | None = None
    instruction: Text = ""
    reason: Reason = ""


class ProposeRevision(Command, frozen=True, kw_only=True, tag="propose"):
    """The planner's answer to a request for a revision: a plan, checked and completed, or what is wrong."""

    request: Token
    plan: Plan | None = None
    problems: tuple[Problem, ...] = ()
    by_planner: bool = False
    """Whether the planner wrote it, and not the person who asked: then it may loosen nothing by itself."""
    origin: Origin | None = None


class ReportDraft(Command, frozen=True, kw_only=True, tag="drafted"):
    """What became of a plan that the planner was to write for a step: the document, or why there is none."""

    step: Name
    attempt: int
    document: dict[str, Any] | None = None
    failure: Failure | None = None
    calls: Calls = ()
    """Of the model."""


class ReportChild(Command, frozen=True, kw_only=True, tag="child"):
    """Where the plan is that a step runs."""

    step: Name
    attempt: int
    child: Token
    number: int
    """The child's commit that says so; what an older one says is out of date."""
    status: Literal["draft", "running", "waiting", "paused", "completed", "failed", "cancelled", "refused"]
    held: bool = False
    """Whether somebody has paused it, and"""
    paused_by: str = ""
    """who."""
    outcome: str = ""
    result: Payload = Payload()
    reason: str = ""
    troubled: tuple[ChildStep, ...] = ()
    """Its steps that have failed."""
    plans_left: Annotated[int, Meta(ge=0)] = 0
    """How many plans may yet run for its steps."""


class TimerDue(Command, frozen=True, kw_only=True, tag="due"):
    """A wait is over, says the timer loop. `decide` judges."""

    step: Name
    attempt: int
    purpose: Literal["retry", "sla", "escalate"]
    level: int = 0
    """Of an escalation: which, from 1."""


class ReportNotice(Command, frozen=True, kw_only=True, tag="notified"):
    """The gatekeeper has told someone of a gate, or could not."""

    step: Name
    round: int
    notice: Literal["opened", "overdue", "escalated", "decided", "cancelled"]
    level: int = 0
    """Of an escalation: which, from 1."""
    channel: Line
    delivered: bool
    detail: Line = ""


class ReportUnfit(Command, frozen=True, kw_only=True, tag="unfit"):
    """The inputs of a dispatched step cannot be put together: there is nothing to hand out."""

    step: Name
    attempt: int
    failure: Failure


AnyCommand: TypeAlias = (
    CreatePlan
    | RefuseGoal
    | StartPlan
    | PausePlan
    | ResumePlan
    | CancelPlan
    | RetryStep
    | SkipStep
    | ResolveStep
    | CastVote
    | ReviewGate
    | AnswerAsk
    | Reply
    | RevisePlan
    | RedirectPlan
    | ProposeRevision
    | ReportDraft
    | ReportChild
    | TimerDue
    | ReportNotice
    | ReportUnfit
)


class ReportResult(Struct, frozen=True):
    """What came back from an agent: not a command anyone may publish, but decided like one."""

    result: Result


class Asked(NamedTuple):
    """A command or a result, with what the server says about it.

    Attributes:
        what: The message.
        by: Who asked: the actor of the subject; for a result, the agent.
        at: When the server stored it (aware UTC). Decisions read no other clock.
    """

    what: AnyCommand | ReportResult
    by: str
    at: datetime

    @property
    def cause(self) -> events.Cause:
        what = self.what
        if isinstance(what, ReportResult):
            return events.Cause("result", self.by, f"{what.result.step}.{what.result.attempt}")
        return events.Cause(verb_of(what), self.by, what.id)


class Verb(NamedTuple):
    """One row of the table of commands.

    Attributes:
        command: The message.
        publishers: Who may publish it. `person` is the gatekeeper, as whom it has identified; `service` is whoever may
            publish goals, as its space.
        answers: The events that can answer it, besides those of the steps that it sets going.
    """

    command: type[Command]
    publishers: tuple[Literal["planner", "executor", "gatekeeper", "operator", "person", "service"], ...]
    answers: tuple[type[events.Event], ...]

    @property
    def may_name_a_secret(self) -> bool:
        return "secret" in self.command.__struct_fields__


VERBS: Final[dict[str, Verb]] = {
    "create": Verb(CreatePlan, ("planner",), (events.PlanCreated, events.CommandRefused)),
    "refuse": Verb(RefuseGoal, ("planner",), (events.PlanRefused, events.CommandRefused)),
    "start": Verb(StartPlan, ("operator",), (events.PlanStarted, events.CommandRefused)),
    "pause": Verb(PausePlan, ("operator", "executor"), (events.PlanPaused, events.StepPaused, events.CommandRefused)),
    "resume": Verb(
        ResumePlan, ("operator", "executor"), (events.PlanResumed, events.StepResumed, events.CommandRefused)
    ),
    "cancel": Verb(
        CancelPlan, ("operator", "executor"), (events.PlanCancelled, events.StepsCancelled, events.CommandRefused)
    ),
    "retry": Verb(
        RetryStep, ("operator", "executor"), (events.StepReopened, events.RevisionRequested, events.CommandRefused)
    ),
    "skip": Verb(SkipStep, ("operator",), (events.StepSkipped, events.CommandRefused)),
    "resolve": Verb(ResolveStep, ("operator",), (events.StepCompleted, events.StepFailed, events.CommandRefused)),
    "vote": Verb(
        CastVote,
        ("operator",),
        (events.VoteCast, events.GateApproved, events.GateRejected, events.GateOpened, events.CommandRefused),
    ),
    "review": Verb(
        ReviewGate,
        ("person",),
        (
            events.VoteCast,
            events.GateApproved,
            events.GateRejected,
            events.GateOpened,
            events.RevisionRequested,
            events.AskAnswered,
            events.AnswerInvalid,
            events.GateEscalated,
            events.CommandRefused,
        ),
    ),
    "answer": Verb(
        AnswerAsk,
        ("operator",),
        (events.AskAnswered, events.AnswerInvalid, events.GateEscalated, events.CommandRefused),
    ),
    "reply": Verb(
        Reply,
        ("service",),
        (
            events.VoteCast,
            events.GateApproved,
            events.GateRejected,
            events.GateOpened,
            events.AskAnswered,
            events.AnswerInvalid,
            events.GateEscalated,
            events.CommandRefused,
        ),
    ),
    "revise": Verb(RevisePlan, ("operator",), (events.RevisionRequested, events.CommandRefused)),
    "redirect": Verb(RedirectPlan, ("operator",), (events.RevisionRequested, events.CommandRefused)),
    "propose": Verb(ProposeRevision, ("planner",), (events.PlanRevised, events.RevisionRefused)),
    "drafted": Verb(ReportDraft, ("planner",), (events.StepCompleted, events.StepFailed)),
    "child": Verb(
        ReportChild,
        ("executor",),
        (events.ChildMoved, events.ChildRecalled, events.ChildEnded, events.StepCompleted, events.StepFailed),
    ),
    "due": Verb(
        TimerDue,
        ("executor",),
        (events.StepReopened, events.GateOverdue, events.GateEscalated, events.AskAnswered),
    ),
    "unfit": Verb(ReportUnfit, ("executor",), (events.StepFailed,)),
    "notified": Verb(ReportNotice, ("gatekeeper",), (events.NoticeSent,)),
}

OPERATOR_VERBS: Final = tuple(name for name, verb in VERBS.items() if "operator" in verb.publishers)


def actor_of(verb: str, actor: str) -> str:
    """Who asks, as decisions and the log have it, given the last token of the subject that a command came on."""
    row = VERBS.get(verb)
    return f"{SERVICE}{actor}" if row is not None and "service" in row.publishers else actor


def verb_of(command: AnyCommand) -> str:
    tag = command.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
