"""What happened to a plan. An event is never edited and never changes its meaning: new facts are optional fields
or new types. The first line of each docstring is the transition.

Events are written in commits: one message on ``plans.<space>.<plan>`` for each decision.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from planmesh.schemas.answers import AnswerType
from planmesh.schemas.goals import Origin, Problem
from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import Blob, Payload
from planmesh.schemas.plan import Escalation, Level, Permissions, Plan, Share
from planmesh.schemas.revision import Change
from planmesh.schemas.subjects import Address
from planmesh.schemas.work import Call, ChildStep, Failure, Parent

GENESIS: Final = "0" * 64
"""What the first commit of a plan names as the one before it."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A fact about one plan."""


# --- the plan ----------------------------------------------------------------------------------------------


class PlanCreated(Event, frozen=True, kw_only=True, tag="plan.created"):
    """(nothing) | refused -> draft"""

    plan: Plan
    goal: str = ""
    requester: str
    """The space that asked, as the server saw it."""
    owners: tuple[str, ...] = ()
    """The people who own that space, as the directory of the mesh had them: who asks there, they ask."""
    inputs: dict[str, Any] = {}
    goal_digest: str
    """SHA-256 of the goal's content: the same id with another digest is another goal."""
    origin: Origin | None = None
    """None: whoever asked has written the plan."""
    traceparent: str | None = None
    parent: Parent | None = None
    """The step that it runs for."""
    mandate: Mandate = Mandate()
    """What holds of it, however it is revised."""


class PlanRefused(Event, frozen=True, kw_only=True, tag="plan.refused"):
    """(nothing) | refused -> refused: published again, it may yet be a plan"""

    problems: tuple[Problem, ...]
    goal: str = ""
    name: str = ""
    requester: str
    goal_digest: str
    origin: Origin | None = None
    traceparent: str | None = None
    parent: Parent | None = None


class PlanStarted(Event, frozen=True, kw_only=True, tag="plan.started"):
    """draft -> running"""

    by: str
    reason: str = ""


class PlanWaiting(Event, frozen=True, kw_only=True, tag="plan.waiting"):
    """running -> waiting: nothing is dispatched or ready; gates or asks are open, or a retry is due later"""

    gates: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    """Plans that run for its steps, and stand still."""
    asks: tuple[str, ...] = ()


class PlanPaused(Event, frozen=True, kw_only=True, tag="plan.paused"):
    """running | waiting -> paused: by a person, or because nothing can go on"""

    by: str
    """Who paused it, or `planmesh` when steps stand in the way."""
    held: bool = False
    """Whether it stays paused until someone resumes it, whatever its steps do."""
    reason: str = ""
    at_steps: tuple[str, ...] = ()
    """The steps that failed, were rejected, or whose outcome is unknown."""


class PlanResumed(Event, frozen=True, kw_only=True, tag="plan.resumed"):
    """waiting | paused -> running"""

    by: str
    reason: str = ""
    held: bool = False
    """Whether somebody had paused it."""


class PlanCompleted(Event, frozen=True, kw_only=True, tag="plan.completed"):
    """running | waiting -> completed"""

    outcome: str
    result: Payload
    step: str = ""
    """The `emit` step that said so; empty where the plan has none."""


class PlanFailed(Event, frozen=True, kw_only=True, tag="plan.failed"):
    """running | waiting | paused -> failed"""

    step: str
    reason: str


class PlanCancelled(Event, frozen=True, kw_only=True, tag="plan.cancelled"):
    """draft | running | waiting | paused -> cancelled"""

    by: str
    reason: str = ""


# --- steps -------------------------------------------------------------------------------------------------


class StepDispatched(Event, frozen=True, kw_only=True, tag="step.dispatched"):
    """pending -> dispatched: the executor hands it out because of this line, and of nothing else"""

    step: str
    attempt: int
    agent: str
    """Empty for what the planner or another plan does."""
    child: str = ""
    """The id of the plan that a `run` step runs."""
    plans: int = 0
    """How many plans may run for the steps of that one, and for those of these plans, in all."""


class StepCompleted(Event, frozen=True, kw_only=True, tag="step.completed"):
    """dispatched | outcome_unknown -> completed"""

    step: str
    attempt: int
    output: Payload
    started_at: datetime | None = None
    duration_s: float | None = None
    worker: str = ""
    version: str = ""
    by: str = ""
    """The person who said it was done, where the agent could not."""
    reason: str = ""
    calls: tuple[Call, ...] = ()
    """Of models and tools, in the order in which they ended."""
    plans_left: int = 0
    """Of the plans that `StepDispatched` allows: how many have not been run, and may run elsewhere."""


class AttemptEnded(Event, frozen=True, kw_only=True, tag="step.attempt_ended"):
    """dispatched -> waiting (another attempt begins at `retry_at`)"""

    step: str
    attempt: int
    failure: Failure
    retry_at: datetime
    begun: bool = True
    """False: it certainly had no effect, and does not count among the attempts that the plan allows."""
    started_at: datetime | None = None
    duration_s: float | None = None
    worker: str = ""
    version: str = ""
    calls: tuple[Call, ...] = ()


class StepFailed(Event, frozen=True, kw_only=True, tag="step.failed"):
    """pending | dispatched | outcome_unknown -> failed"""

    step: str
    attempt: int
    failure: Failure
    by: str = ""
    """The person who says so, where nobody knew how it ended."""
    started_at: datetime | None = None
    duration_s: float | None = None
    worker: str = ""
    version: str = ""
    calls: tuple[Call, ...] = ()
    plans_left: int = 0
    """As in `StepCompleted`."""


class StepOutcomeUnknown(Event, frozen=True, kw_only=True, tag="step.outcome_unknown"):
    """dispatched -> outcome_unknown: never tried again by itself"""

    step: str
    attempt: int
    reason: str
    worker: str = ""
    calls: tuple[Call, ...] = ()
    """What the agent is known to have called before it was given up."""


class PermissionDenied(Event, frozen=True, kw_only=True, tag="step.permission_denied"):
    """(no change): the attempt wanted to do what its step does not permit, and could not"""

    step: str
    attempt: int
    what: str
    why: str


class StepReopened(Event, frozen=True, kw_only=True, tag="step.reopened"):
    """waiting | failed | outcome_unknown | rejected -> pending: a retry is due, or someone asked for one"""

    step: str
    by: str
    reason: str = ""


class StepSkipped(Event, frozen=True, kw_only=True, tag="step.skipped"):
    """pending | waiting | failed | outcome_unknown | rejected -> skipped (its output is null)"""

    step: str
    by: str
    reason: str = ""


class StepNotTaken(Event, frozen=True, kw_only=True, tag="step.not_taken"):
    """pending -> not_taken: its branch was not, or nothing that it needs was"""

    step: str


class BranchTaken(Event, frozen=True, kw_only=True, tag="step.branch_taken"):
    """pending -> completed: a `decide` or `check` step took a branch"""

    step: str
    label: str


class StepsAdded(Event, frozen=True, kw_only=True, tag="steps.added"):
    """(an `each` that is reached) -> pending, for the steps of each of its items: `NAME_1`, `NAME_2`, …"""

    step: str
    items: tuple[Payload, ...]


class StepPaused(Event, frozen=True, kw_only=True, tag="step.paused"):
    """pending -> paused: nothing behind it starts either; what is running may finish, and is recorded"""

    step: str
    by: str
    reason: str = ""


class StepResumed(Event, frozen=True, kw_only=True, tag="step.resumed"):
    """paused -> pending; what it had finished meanwhile counts from now on"""

    step: str
    by: str
    reason: str = ""


class Stopped(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was under way of a cancelled step: who is at it is to be told. By then, there may be another step of that
    name."""

    step: str
    attempt: int
    agent: str = ""
    """Who works on it."""
    child: str = ""
    """The plan that runs for it."""
    services: tuple[str, ...] = ()
    """Who was asked."""


class StepsCancelled(Event, frozen=True, kw_only=True, tag="steps.cancelled"):
    """pending | dispatched | waiting | paused | failed | outcome_unknown | rejected -> cancelled"""

    steps: tuple[str, ...]
    stopped: tuple[Stopped, ...] = ()
    """What was under way of them."""
    by: str = ""
    """The person who asked for it; empty where it follows from how the plan ends."""
    reason: str = ""


# --- plans that run for a step -----------------------------------------------------------------------------


class ChildMoved(Event, frozen=True, kw_only=True, tag="child.moved"):
    """(no change): the plan that a step runs has come to another status, and has not ended"""

    step: str
    attempt: int
    child: str
    status: str
    number: int
    """The child's commit that says so."""
    reason: str = ""
    paused_by: str = ""
    """Who has paused it; empty: nobody."""
    retries: tuple[ChildStep, ...] = ()
    """Steps of the child that are to be tried again."""


class ChildRecalled(Event, frozen=True, kw_only=True, tag="child.recalled"):
    """(no change): a plan that no step waits for any more is to be cancelled"""

    step: str
    attempt: int
    child: str


class ChildEnded(Event, frozen=True, kw_only=True, tag="child.ended"):
    """(no change): a plan that no step waited for any more has ended, and has plans left of those that it was given"""

    step: str
    attempt: int
    child: str
    status: str
    plans_left: int
    """How many plans may run for other steps instead."""


# --- gates -------------------------------------------------------------------------------------------------


class Upstream(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step that the gate waited for."""

    step: str
    status: str
    agent: str = ""
    duration_s: float | None = None
    output_sha256: str = ""
    output_bytes: int = 0


class Release(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step that an approval would let go, and what exactly it would do."""

    step: str
    kind: str
    agent: str = ""
    permissions: Permissions = Permissions()
    destructive: bool = False
    """Whether what it does cannot be undone, as far as its agent says."""
    inputs: dict[str, Any] = {}
    """Put together from what is known; large values as `{"$blob": sha256, …}`."""
    later: dict[str, tuple[str, ...]] = {}
    """The inputs that nobody knows yet, and the steps that they wait for. They stand as the document has them."""
    inputs_blob: Blob | None = None
    """All of its inputs, where even so they are too large to stand here; then `inputs` is empty."""


class Barred(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody who may reject a gate that takes four eyes, and not approve it."""

    who: str
    revised: str = ""
    """The gate, or the step behind it, that they were the last to revise; empty: they asked for the plan."""
    is_above: bool = False
    """Whether it is of another plan, which this one runs for: then `revised` says of which."""


class GateOpened(Event, frozen=True, kw_only=True, tag="gate.opened"):
    """pending | waiting -> waiting: asks, or asks again because what it would release has changed"""

    step: str
    round: int
    digest: str
    """SHA-256 over everything that an approval releases. A vote quotes it."""
    reviewers: tuple[str, ...]
    quorum: int
    prompt: str = ""
    shown: tuple[Payload, ...] = ()
    upstream: tuple[Upstream, ...] = ()
    releases: tuple[Release, ...] = ()
    behind: int = 0
    """How many steps stand behind the gate in all."""
    overdue_at: datetime | None = None
    because: str = ""
    """Why it asks again."""
    changes: tuple[Change, ...] = ()
    """What the revision changed that it asks again for."""
    shares: tuple[Share, ...] = ()
    escalate: tuple[Escalation, ...] = ()
    """Whom it asks as well, and when: the plan's, or else what the settings say."""
    barred: tuple[Barred, ...] = ()
    """With four eyes: who may not approve it, whatever they are asked as."""


class VoteCast(Event, frozen=True, kw_only=True, tag="gate.vote_cast"):
    """waiting -> waiting: one of the approvals that the quorum takes"""

    step: str
    round: int
    by: str
    reason: str = ""
    level: str = ""
    """How the gatekeeper knew them: `link` or `login`; empty for whoever voted with an operator's credentials."""
    groups: tuple[str, ...] = ()
    """Those of the gate's reviewers that the gatekeeper found them to be, or that a service is."""


class GateOverdue(Event, frozen=True, kw_only=True, tag="gate.overdue"):
    """waiting -> waiting: nobody has decided the gate, or answered the ask, in time; it stays open for an answer"""

    step: str
    round: int


class GateEscalated(Event, frozen=True, kw_only=True, tag="gate.escalated"):
    """waiting -> waiting: from now on, and however often the gate or ask is asked again, these may answer as well"""

    step: str
    round: int
    level: int
    """Which of its escalations it is, from 1."""
    to: tuple[str, ...]
    because: str = ""


class GateApproved(Event, frozen=True, kw_only=True, tag="gate.approved"):
    """waiting -> completed"""

    step: str
    round: int
    by: tuple[str, ...]
    digest: str
    reason: str = ""


class GateRejected(Event, frozen=True, kw_only=True, tag="gate.rejected"):
    """waiting -> rejected"""

    step: str
    round: int
    by: str
    reason: str = ""
    level: str = ""
    """As in `VoteCast`."""
    groups: tuple[str, ...] = ()


# --- asks --------------------------------------------------------------------------------------------------


class Recipient(Struct, frozen=True, kw_only=True):
    """A step that is given a secret."""

    step: str
    agent: str


class AskOpened(Event, frozen=True, kw_only=True, tag="ask.opened"):
    """pending | waiting -> waiting: asks, or asks again because the question has changed"""

    step: str
    round: int
    digest: str
    """SHA-256 over the question. An answer quotes it."""
    reviewers: tuple[str, ...]
    """Who may answer."""
    prompt: str = ""
    answer: AnswerType = "text"
    options: tuple[str, ...] = ()
    default: Any = None
    level: Level = "link"
    max_retries: int = 0
    on_overdue: Literal["remind", "default"] = "remind"
    overdue_at: datetime | None = None
    escalate: tuple[Escalation, ...] = ()
    """As in `GateOpened`."""
    because: str = ""
    """Why it asks again."""
    secret: bool = False
    """Whether the answer is a secret, which is stored elsewhere before it is given."""
    recipients: tuple[Recipient, ...] = ()
    """Of a secret: the steps that the plan gives it to."""


class AnswerInvalid(Event, frozen=True, kw_only=True, tag="ask.answer_invalid"):
    """waiting -> waiting: whoever may answer gave something else than was asked for; it is counted, and not kept"""

    step: str
    round: int
    by: str


class AskAnswered(Event, frozen=True, kw_only=True, tag="ask.answered"):
    """waiting -> completed"""

    step: str
    round: int
    by: str
    """A person, `service:<space>`, or `planmesh` where the plan lets the default be the answer."""
    output: Payload
    """An object: `value`, `provided_by`, `provided_at` and `attempt`. The value of a secret is ``{"secret": …}``."""
    secret: str = ""
    """Where a secret is: the verb, the actor and the id of the answer, with dots between them."""
    reason: str = ""
    level: str = ""
    """As in `VoteCast`."""
    groups: tuple[str, ...] = ()


class NoticeSent(Event, frozen=True, kw_only=True, tag="gate.notice_sent"):
    """(no change): a channel was told, or could not be"""

    step: str
    round: int
    notice: str
    """What it was told: `opened`, `overdue`, `escalated`, `decided` or `cancelled`."""
    level: int = 0
    """Of an escalation: which, from 1."""
    channel: str
    """The operator's name for it, never its URL."""
    delivered: bool
    detail: str = ""


# --- revisions ---------------------------------------------------------------------------------------------


class RevisionRequested(Event, frozen=True, kw_only=True, tag="revision.requested"):
    """(no change): someone wants another plan from here on; the planner is asked to work it out"""

    request: str
    """The id of the command."""
    kind: Literal["revise", "retry", "redirect"]
    by: str
    base: int
    """The revision that it is made against."""
    reason: str = ""
    document: dict[str, Any] | str | None = None
    """The plan from here on. What has started and is not in it stays."""
    instruction: str = ""
    """What to change, in words."""
    step: str = ""
    """The step to try again, or the gate that it comes from."""
    attempt: int = 0
    agent: str = ""
    """Another agent for that step."""
    inputs: dict[str, Any] | None = None
    """Other inputs for that step."""
    cancel_running: bool = False
    bound: bool = False
    """Whether it comes from a reviewer, and not from an operator: then it may not loosen anything either."""


class PlanRevised(Event, frozen=True, kw_only=True, tag="plan.revised"):
    """(keeps its status): from here on another graph; what has started stays, what is gone is superseded"""

    revision: int
    request: str
    by: str
    reason: str = ""
    plan: Plan
    changes: tuple[Change, ...] = ()
    asks_again: tuple[str, ...] = ()
    """completed -> pending: gates that had released what is now another thing"""
    origin: Origin | None = None
    """None: whoever asked has written it."""


class RevisionRefused(Event, frozen=True, kw_only=True, tag="revision.refused"):
    """(no change): the revision that was asked for cannot be"""

    request: str
    by: str
    problems: tuple[Problem, ...]
    plan: Plan | None = None
    """What the planner had worked out, where all that is wrong with it is that a person has to want it."""
    origin: Origin | None = None


# --- answers -----------------------------------------------------------------------------------------------


class CommandRefused(Event, frozen=True, kw_only=True, tag="command.refused"):
    """(no change): why a command was not carried out, and what would work instead"""

    verb: str
    by: str
    code: str
    reason: str
    command: str = ""
    """The id of the command."""
    step: str = ""
    possible: tuple[str, ...] = ()
    """Verbs that would be carried out now."""
    parent: Parent | None = None
    """Of a plan that could not be created: the step that it was to run for."""


AnyEvent: TypeAlias = (
    PlanCreated
    | PlanRefused
    | PlanStarted
    | PlanWaiting
    | PlanPaused
    | PlanResumed
    | PlanCompleted
    | PlanFailed
    | PlanCancelled
    | StepDispatched
    | StepCompleted
    | AttemptEnded
    | StepFailed
    | StepOutcomeUnknown
    | PermissionDenied
    | StepReopened
    | StepSkipped
    | StepNotTaken
    | BranchTaken
    | StepsAdded
    | StepPaused
    | StepResumed
    | StepsCancelled
    | GateOpened
    | VoteCast
    | GateOverdue
    | GateEscalated
    | GateApproved
    | GateRejected
    | AskOpened
    | AnswerInvalid
    | AskAnswered
    | NoticeSent
    | ChildMoved
    | ChildRecalled
    | ChildEnded
    | RevisionRequested
    | PlanRevised
    | RevisionRefused
    | CommandRefused
)


class Cause(Struct, frozen=True, array_like=True):
    """A command or a result that a commit answers: `[verb, actor, id]`."""

    verb: str
    actor: str
    id: str


class Commit(Struct, frozen=True, kw_only=True):
    """One decision: everything that it changed, in order, and the link to the commit before it.

    `previous` is the SHA-256 of the bytes of the commit before, so that a plan's log is a chain which is verified
    by reading it.
    """

    space: str
    plan: str
    number: Annotated[int, Meta(ge=1)]
    at: datetime
    causes: tuple[Cause, ...]
    events: tuple[AnyEvent, ...]
    previous: str
    format: Literal[1] = 1

    @property
    def address(self) -> Address:
        return Address(self.space, self.plan)


def hash_of(commit: bytes) -> str:
    """What the commit after this one names as `previous`."""
    return hashlib.sha256(commit).hexdigest()
