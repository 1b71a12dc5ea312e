"""What is handed out, and what comes back: between the executor and whoever runs a step."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from planmesh.schemas.mandate import Mandate
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Line, Name, Permissions, Plan, Policy, Text, Token
from planmesh.schemas.subjects import Address


class StepWork(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of a step, on ``work.agent.<agent>.<space>.<plan>.<step>``."""

    space: str
    plan: str
    step: str
    attempt: int
    agent: str
    inputs: Payload
    """An object: the step's inputs, put together."""
    permissions: Permissions = Permissions()
    idempotent: bool = False
    timeout_s: float | None = None
    traceparent: str | None = None
    """The span of this attempt (W3C Trace Context), for the agent's own calls to join."""
    secrets: tuple[str, ...] = ()
    """The inputs that are secrets: a handle stands in their place, and whoever runs the attempt asks for them by
    `Reveal`."""

    @property
    def address(self) -> Address:
        return Address(self.space, self.plan)

    @property
    def key(self) -> str:
        """The idempotency key: the same for every delivery of this attempt, and for no other attempt."""
        return f"{self.space}.{self.plan}.{self.step}.{self.attempt}"


class Reveal(Struct, frozen=True, kw_only=True):
    """An agent asks for the secrets of an attempt that it runs, on ``reveal.<agent>``."""

    space: Token
    plan: Token
    step: Name
    attempt: Annotated[int, Meta(ge=1)]


class Revealed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The secrets of an attempt. Never stored, and never logged."""

    inputs: dict[str, str]
    """By the input that each one is."""
    gone: tuple[str, ...] = ()
    """Inputs whose secret is not kept any more."""


class TimerWork(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A wait, on ``work.timer.<space>.<plan>.<step>``. It asks when it is due; it decides nothing."""

    space: str
    plan: str
    step: str
    attempt: int
    """The attempt to begin, or the round of the gate or ask."""
    purpose: Literal["retry", "sla", "escalate"]
    due_at: datetime
    level: int = 0
    """Of an escalation: which, from 1."""


class PlannerWork(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revision wanted, on ``work.planner.<space>.<plan>``: the planner answers with the command `propose`."""

    space: str
    plan: str
    request: str
    kind: Literal["revise", "retry", "redirect"]
    by: str
    current: Plan
    kept: tuple[str, ...]
    """Steps that have started, or have ended: they stay as they are."""
    document: dict[str, Any] | str | None = None
    instruction: str = ""
    step: str = ""
    agent: str = ""
    inputs: dict[str, Any] | None = None
    running: tuple[str, ...] = ()
    """Steps among them that run: a document says what becomes of each, unless"""
    cancellable: tuple[str, ...] = ()
    """those that it leaves out are to be cancelled."""
    trouble: dict[str, str] = {}
    """Steps that have failed or were rejected, and why."""
    mandate: Mandate = Mandate()
    parent: "Parent | None" = None
    """The step that the plan runs for."""

    @property
    def address(self) -> Address:
        return Address(self.space, self.plan)

    @property
    def is_for_a_model(self) -> bool:
        """Whether it says in words what is wanted."""
        return self.document is None and self.kind != "retry"

    @property
    def answer(self) -> str:
        """The id of the command that answers it: the same each time, and of no other request."""
        if len(self.request) <= 62:
            return f"p-{self.request}"
        return f"p-{hashlib.sha256(self.request.encode()).hexdigest()[:62]}"


class Parent(Struct, frozen=True, kw_only=True):
    """The step that a plan runs for, in the same space."""

    plan: Token
    step: Name
    attempt: Annotated[int, Meta(ge=1)]
    depth: Annotated[int, Meta(ge=1)]
    """How many plans there are above: 1 for the child of a goal's plan."""


class ChildStep(Struct, frozen=True, kw_only=True):
    """A step of a plan that runs for another, at an attempt."""

    step: Name
    attempt: int


class PlannedStep(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="work"):
    """Something that the planner is to do for a step, on ``work.planner.<space>.<plan>.<step>``."""

    space: str
    plan: str
    step: str
    attempt: int

    @property
    def address(self) -> Address:
        return Address(self.space, self.plan)


class DraftWork(PlannedStep, frozen=True, kw_only=True, tag="draft"):
    """A plan is to be written: the planner answers with the command `drafted`."""

    inputs: dict[str, Any]
    agents: tuple[str, ...] | None = None
    max_steps: int = 50
    strict: bool = False
    policy: Policy = Policy()


class RunWork(PlannedStep, frozen=True, kw_only=True, tag="run"):
    """A plan is to be run: the planner checks it, and answers with `create` or `refuse` for the child."""

    child: str
    depth: int
    document: Any
    inputs: dict[str, Any] = {}
    mode: Literal["normal", "safe", "draft"] = "normal"
    permissions: Permissions | None = None
    policy: Policy = Policy()
    mandate: Mandate = Mandate()
    """Of the plan that the step is in, and who has revised what the new one comes of."""
    traceparent: str | None = None


StepPlanning: TypeAlias = DraftWork | RunWork


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt failed."""

    code: Line
    """A stable name, such as `agent_error`, `timeout`, `bad_inputs`, `no_branch`, `check_failed`."""
    message: Text
    type: Line = ""
    """The exception's class."""
    traceback: Text = ""
    retryable: bool = True


MAX_CALLS: Final = 500
"""Calls of one attempt that are told of."""
MAX_DENIALS: Final = 100
MAX_TOOLS: Final = 500
"""Tools of one agent."""
MAX_TOKENS: Final = 1_000_000_000
"""Of one call: more than that, nobody means."""

Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class Call(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One call that an attempt made: of a model, or of a tool."""

    kind: Literal["model", "tool"]
    name: Line
    started_at: datetime
    duration_s: Annotated[float, Meta(ge=0)]
    ok: bool = True
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0


class Denial(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that an attempt wanted to do, and was not permitted to."""

    what: Line
    """Such as `tool send-mail`."""
    why: Annotated[str, Meta(max_length=1_000)]


Calls: TypeAlias = Annotated[tuple[Call, ...], Meta(max_length=MAX_CALLS)]
Denials: TypeAlias = Annotated[tuple[Denial, ...], Meta(max_length=MAX_DENIALS)]


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt has used, in all."""

    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def usage_of(calls: tuple[Call, ...]) -> Usage | None:
    """The sum of *calls*; None without any."""
    if not calls:
        return None
    models = sum(call.kind == "model" for call in calls)
    return Usage(
        model_calls=models,
        tool_calls=len(calls) - models,
        input_tokens=sum(call.input_tokens for call in calls),
        output_tokens=sum(call.output_tokens for call in calls),
    )


class ResultBase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="result", forbid_unknown_fields=True):
    """What became of one attempt."""

    space: Token
    plan: Token
    step: Name
    attempt: Annotated[int, Meta(ge=1)]

    @property
    def address(self) -> Address:
        return Address(self.space, self.plan)


class AttemptCompleted(ResultBase, frozen=True, kw_only=True, tag="completed"):
    output: Payload
    started_at: datetime
    duration_s: Annotated[float, Meta(ge=0)]
    worker: Line = ""
    """Which process ran it, as `host/pid`."""
    version: Line = ""
    """The agent's version."""
    calls: Calls = ()
    denials: Denials = ()

    def failed(self, failure: Failure) -> "AttemptFailed":
        """The same attempt, whose output cannot count: failed, for *failure*."""
        kept = {field: getattr(self, field) for field in self.__struct_fields__ if field != "output"}
        return AttemptFailed(failure=failure, **kept)


class AttemptFailed(ResultBase, frozen=True, kw_only=True, tag="failed"):
    failure: Failure
    started_at: datetime
    duration_s: Annotated[float, Meta(ge=0)]
    worker: Line = ""
    version: Line = ""
    calls: Calls = ()
    denials: Denials = ()


class AttemptUnknown(ResultBase, frozen=True, kw_only=True, tag="unknown"):
    """It was begun and may have had its effect; nobody knows. Only a person may say what happened."""

    reason: Text
    worker: Line = ""
    calls: Calls = ()
    denials: Denials = ()


class AttemptNotStarted(ResultBase, frozen=True, kw_only=True, tag="not_started"):
    """It certainly had no effect: a new attempt is safe."""

    reason: Text
    worker: Line = ""


Result: TypeAlias = AttemptCompleted | AttemptFailed | AttemptUnknown | AttemptNotStarted


class Results(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whatever finished while the message before was on its way, on ``results.<agent>``."""

    results: Annotated[tuple[Result, ...], Meta(min_length=1, max_length=1_000)]


class AgentParameter(Struct, frozen=True, kw_only=True):
    name: str
    required: bool = True


class ToolDescription(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tool says of itself, to models and to planners."""

    name: Name
    description: Annotated[str, Meta(max_length=4_000)] = ""
    parameters: dict[str, Any] = {}
    """JSON Schema of the object of its arguments."""
    permissions: Permissions = Permissions()
    """What it uses; a step that permits less does not get it."""
    idempotent: bool = False
    """Whether calling it twice does no harm."""
    destructive: bool = False
    """Whether what it does cannot be undone."""


class AgentDescription(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent says of itself, on ``catalogue.<agent>``: the planner checks plans against it."""

    name: Name
    version: Line = ""
    description: Text = ""
    idempotent: bool | None = None
    permissions: Permissions = Permissions()
    parameters: tuple[AgentParameter, ...] = ()
    any_parameters: bool = False
    """Whether it takes inputs under any name."""
    types: dict[str, str] = {}
    """How its parameters are annotated, by name, such as `list[str]`: for whoever writes plans to read."""
    destructive: bool = False
    """Whether what it does cannot be undone. A model's plan asks a person first."""
    tools: Annotated[tuple[ToolDescription, ...], Meta(max_length=MAX_TOOLS)] | None = None
    """The tools that a step of it may name in `permissions.tools`. None: it uses none by name."""

    @property
    def says_nothing(self) -> bool:
        """Whether it is all that is known of an agent whose worker has not announced itself."""
        return self == AgentDescription(name=self.name, any_parameters=True)


class Signal(Struct, frozen=True, kw_only=True):
    """A hint to whoever runs a step, on ``signals.<agent>``; it may be lost, and changes nothing by itself."""

    signal: Literal["cancel"]
    space: str
    plan: str
    step: str
    attempt: int


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hint from whoever runs a step, on ``progress.<agent>.<space>.<plan>.<step>``; nothing is stored."""

    attempt: int
    started: bool = False
    text: Text = ""
    data: Any = None
