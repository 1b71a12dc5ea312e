"""Plans that a model writes: drafted, checked like anybody's, and given back with what is wrong with them.

What a model answers is untrusted text. It becomes a plan only through `compile_plan` and `planmesh.planner.policy`; a
model that is told lies, or tells some, can write a bad plan, and nothing else.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import msgspec
import structlog

from planmesh import settings
from planmesh.directory import Directory
from planmesh.errors import Busy, PlanmeshError
from planmesh.model import NoModel, NotAllowed, check_context, check_model, explained, open_model
from planmesh.planner import form, prompts
from planmesh.planner.advice import advise
from planmesh.planner.compile import Agents, Compiled, compile_plan
from planmesh.planner.document import LIMITS, Limits
from planmesh.planner.policy import gated, refuse_widening, ungated
from planmesh.planner.problems import Problems
from planmesh.planner.revisions import propose
from planmesh.schemas import codec
from planmesh.schemas.codec import DecodeError, encode
from planmesh.schemas.commands import ProposeRevision, ReportDraft
from planmesh.schemas.goals import Origin, Problem, Try
from planmesh.schemas.plan import Each, Plan, Policy, Step, Task
from planmesh.schemas.work import MAX_TOKENS, Call, DraftWork, Failure, PlannerWork

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.models.openai import OpenAIChatModel

NO_MODEL: Final = "no_model"
UNAVAILABLE: Final = "model_unavailable"
FAILED: Final = "model_failed"
NOT_ALLOWED: Final = "model_not_allowed"

_ANSWER_BYTES: Final = 256 * 1024
_TOLD_PROBLEMS: Final = 10
_FAILURE_CHARACTERS: Final = 4_000
_MODEL_CHARACTERS: Final = 200  # of the name of a model
_TOOL: Final = "answer"

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a plan is wanted for.

    Attributes:
        goal: In words.
        agents: The agents that it may use.
        inputs: The values of its inputs, by name: the plan gets an input for each.
        context: Whatever helps, as JSON.
        max_steps: The most steps; None: what the settings say.
        is_part: It is for another plan to run, and nobody will be asked to start it.
        policy: Of the plan; a model has no say in it.
        strict: Whether advice is to be followed (`planmesh.planner.advice`).
        model: Another model of the same endpoint.
    """

    goal: str
    agents: Agents
    inputs: Mapping[str, Any] = field(default_factory=dict)
    context: Any = None
    max_steps: int | None = None
    is_part: bool = False
    policy: Policy = field(default_factory=Policy)
    strict: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Drafted:
    """What became of a wish.

    Attributes:
        plan: A plan that can run; None if there is none,
        problems: and why.
        origin: Who wrote it, and how often it was tried.
        needs_start: It may not start by itself: somebody has to have seen it.
    """

    plan: Compiled | None
    problems: tuple[Problem, ...]
    origin: Origin
    needs_start: bool = False


@dataclass(frozen=True)
class _Accepted:
    plan: Compiled
    gates: tuple[str, ...]
    is_gated: bool


class Drafter:
    """Writes plans with the model of the settings, which is opened when it is first needed.

    Args:
        model: Which, and where.
        planner: How often it may try, and what it may not do.
        limits: How much a plan may be.
        directory: Who can be asked to decide.
    """

    def __init__(
        self,
        model: settings.Model,
        planner: settings.Planner,
        *,
        limits: Limits = LIMITS,
        directory: Directory | None = None,
    ) -> None:
        self._configured = model
        self._planner = planner
        self._limits = limits
        self._directory = directory
        self._opened: OpenAIChatModel | None = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def draft(self, wish: Wish) -> Drafted:
        """Write a plan. Raises nothing: what goes wrong is among the problems."""
        if not wish.agents:
            said = "there is no agent that could be used: none has said what it does, or none is allowed"
            problem = Problem(code="no_agents", message=said)
            return Drafted(None, (problem,), Origin(author="model", model=self._name))
        most = min(self._planner.max_steps, wish.max_steps or self._planner.max_steps, self._limits.steps)
        try:
            check_model(self._configured, wish.model)
            check_context(self._configured, encode(wish.context).decode())
        except PlanmeshError as error:
            return Drafted(None, (_unanswered(error),), Origin(author="model", model=wish.model or self._name))
        reviewers = self._reviewers()
        tight = self._planner.tight
        most = min(most, form.MOST_TIGHT_STEPS) if tight else most
        schema = form.tight(wish.agents, wish.inputs, most) if tight else form.loose(wish.agents, reviewers, most)
        accepted, problems, origin = await self._write(
            prompts.instructions(most, is_tight=tight),
            prompts.wish(wish.goal, wish.agents, wish.inputs, wish.context, reviewers),
            schema,
            lambda document: self._check(document, wish, most),
            wish.model,
        )
        if accepted is None:
            return Drafted(None, problems, origin)
        origin = msgspec.structs.replace(origin, gates=accepted.gates)
        return Drafted(accepted.plan, (), origin, needs_start=not accepted.is_gated)

    async def revise(self, work: PlannerWork, agents: Agents) -> ProposeRevision:
        """Work out the instruction of *work*. Raises nothing: what goes wrong is among the problems."""
        reviewers = self._reviewers()
        most = max(self._planner.max_steps, 2 * len(work.current.steps))
        if len(encode(work.current)) > _ANSWER_BYTES:
            said = f"a plan of more than {_ANSWER_BYTES:,} bytes is too large for a model to revise"
            hint = "send the edited plan itself: planmesh revise PLAN FILE"
            problem = Problem(code="too_large", message=said, hint=hint)
            return _proposal(work, None, (problem,), Origin(author="model", model=self._name))
        plan, problems, origin = await self._write(
            prompts.instructions(most, is_tight=False),
            prompts.change(work, agents, reviewers),
            form.loose(agents, reviewers, most),
            lambda document: self._check_revision(document, work, agents),
        )
        if plan is None:
            return _proposal(work, None, problems, origin)
        revised, gates = plan
        return _proposal(work, revised, (), msgspec.structs.replace(origin, gates=gates))

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Who may decide at a gate that is to keep a step from doing harm."""
        return self._planner.reviewers

    @property
    def _name(self) -> str:
        return (self._configured.name or "")[:200]

    def _reviewers(self) -> tuple[str, ...]:
        # Addresses of people are nobody's business outside.
        return () if self._directory is None else tuple(who for who in self._directory.reviewers if "@" not in who)

    # --- what a plan has to be ---------------------------------------------------------------------------

    def _check(self, document: dict[str, Any], wish: Wish, most: int) -> "_Accepted | list[Problem]":
        inputs = {name: {"type": _type_of(value)} for name, value in wish.inputs.items()}
        policy = msgspec.to_builtins(wish.policy)
        whole = {**self._with_reviewers(document), "version": 1, "goal": wish.goal, "inputs": inputs, "policy": policy}
        limits = replace(self._limits, steps=most)
        compiled = compile_plan(whole, wish.agents, wish.inputs, limits=limits, directory=self._directory)
        if isinstance(compiled, list):
            return compiled
        if wish.strict and (doubts := advise(whole, limits=limits)):
            return doubts
        problems = Problems()
        refuse_widening(compiled.plan, wish.agents, problems)
        if problems:
            return problems.listed()
        harm = self._harm(wish.policy)
        plan, gates = self._gated(compiled.plan, wish.agents, (), harm, is_part=wish.is_part)
        if gates:
            document = msgspec.to_builtins(plan)
            again = compile_plan(document, wish.agents, wish.inputs, limits=self._limits, directory=self._directory)
            if isinstance(again, list):
                return again
            compiled = again
        is_gated = harm != "draft" or not ungated(
            compiled.plan, wish.agents, self._planner.reviewers, limits=self._limits
        )
        return _Accepted(compiled, gates, is_gated)

    def _check_revision(
        self, document: dict[str, Any], work: PlannerWork, agents: Agents
    ) -> tuple[Plan, tuple[str, ...]] | list[Problem]:
        def proposed(by: dict[str, Any]) -> Plan | list[Problem]:
            asked = msgspec.structs.replace(work, document=by, instruction="")
            answer = propose(asked, agents, reviewers=self.reviewers, limits=self._limits, directory=self._directory)
            return answer.plan if answer.plan is not None else list(answer.problems)

        revised = proposed({**self._with_reviewers(document), "policy": msgspec.to_builtins(work.current.policy)})
        if isinstance(revised, list):
            return revised
        # What a person has written stays as a person has written it.
        before = {step.name: _written(step) for step in work.current.steps}
        theirs = {one.name for one in revised.steps if one.name in work.kept or before.get(one.name) == _written(one)}
        problems = Problems()
        refuse_widening(revised, agents, problems, theirs)
        if problems:
            return problems.listed()
        plan, gates = self._gated(revised, agents, theirs, self._harm(work.current.policy))
        if not gates:
            return revised, ()
        again = proposed(msgspec.to_builtins(plan))
        return again if isinstance(again, list) else (again, gates)

    def _harm(self, policy: Policy) -> Literal["gate", "draft", "allow"]:
        """What becomes of a step that could do harm: what the plan says, as far as it may, or else the settings."""
        if policy.destructive == "allow" and not self._planner.may_allow_harm:
            return self._planner.destructive  # the plan is older than the settings
        return policy.destructive or self._planner.destructive

    def _gated(
        self,
        plan: Plan,
        agents: Agents,
        leave: Collection[str],
        harm: Literal["gate", "draft", "allow"],
        *,
        is_part: bool = True,
    ) -> tuple[Plan, tuple[str, ...]]:
        """Gates go in where nobody could be asked to start the plan instead."""
        if harm == "allow" or (harm == "draft" and not is_part):
            return plan, ()
        return gated(plan, agents, self._planner.reviewers, leave, limits=self._limits)

    def _with_reviewers(self, document: dict[str, Any]) -> dict[str, Any]:
        """Gates that name nobody are for whoever the settings say."""
        steps = document.get("steps")
        if not isinstance(steps, list):
            return document
        return {
            **document,
            "steps": [
                {**step, "reviewers": list(self._planner.reviewers)}
                if isinstance(step, dict) and step.get("kind") == "gate" and not step.get("reviewers")
                else step
                for step in steps
            ],
        }

    # --- the conversation --------------------------------------------------------------------------------

    async def _write(
        self,
        instructions: str,
        wanted: str,
        schema: form.Schema,
        check: Callable[[dict[str, Any]], T | list[Problem]],
        named: str | None = None,
    ) -> tuple[T | None, tuple[Problem, ...], Origin]:
        """Ask until an answer passes *check*, or for as many rounds as there may be.

        Args:
            named: Another model than the configured one.
        """
        tries: list[Try] = []
        problems: list[Problem] = []
        accepted: T | None = None
        begun = _Begun()
        name = named or self._name
        try:
            async with self._using(named) as model:
                from pydantic_ai.messages import ModelRequest, SystemPromptPart, UserPromptPart

                how, parameters = self._asked_for(schema)
                opening = [SystemPromptPart(content="\n\n".join(filter(None, [instructions, how])))]
                conversation: list[ModelMessage] = [ModelRequest(parts=[*opening, UserPromptPart(content=wanted)])]
                for _ in range(self._planner.rounds):
                    begun = _Begun()
                    response = await self._ask(model, conversation, parameters)
                    text = _text(response)
                    document = _read(text, response.finish_reason == "length")
                    if isinstance(document, dict):
                        # A thread lets the loop keep its deliveries alive.
                        judged = await asyncio.to_thread(check, document)
                    else:
                        judged = document
                    problems = judged if isinstance(judged, list) else []
                    usage = response.usage
                    tries.append(_try(begun, problems, usage.input_tokens, usage.output_tokens))
                    log.info("plan.drafted", model=name, round=len(tries), problems=len(problems))
                    if not isinstance(judged, list):
                        accepted = judged
                        break
                    answer = response if len(text) <= _ANSWER_BYTES else None
                    conversation += [] if answer is None else [answer]
                    conversation.append(ModelRequest(parts=[UserPromptPart(content=prompts.repair(problems))]))
        except PlanmeshError as error:
            problems = [_unanswered(error)]
            tries.append(_try(begun, problems, 0, 0))
            log.warning("plan.not_drafted", model=name, round=len(tries), error=str(error))
        return accepted, tuple(problems), Origin(author="model", model=name, tries=tuple(tries))

    @asynccontextmanager
    async def _using(self, named: str | None) -> "AsyncIterator[OpenAIChatModel]":
        if named is None or named == self._configured.name:
            yield await self._model()
        else:
            async with open_model(self._configured, named) as model:
                yield model

    async def _model(self) -> "OpenAIChatModel":
        async with self._opening:
            if self._opened is None:
                self._opened = await self._stack.enter_async_context(open_model(self._configured))
        return self._opened

    async def _ask(
        self, model: "OpenAIChatModel", conversation: "list[ModelMessage]", parameters: "ModelRequestParameters"
    ) -> "ModelResponse":
        from pydantic_ai.direct import model_request

        with explained():
            return await model_request(
                model, conversation, model_settings=model.settings, model_request_parameters=parameters
            )

    def _asked_for(self, schema: form.Schema) -> tuple[str, "ModelRequestParameters"]:
        """How the form of the answer is asked for: what to add to the instructions, and to the request."""
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.output import OutputObjectDefinition
        from pydantic_ai.tools import ToolDefinition

        match self._configured.structured:
            case "schema":
                wanted = OutputObjectDefinition(json_schema=schema, name="plan", strict=False)
                return "", ModelRequestParameters(output_mode="native", output_object=wanted)
            case "tool":
                tool = ToolDefinition(name=_TOOL, parameters_json_schema=schema, description="The plan.", strict=False)
                wanted_tool = ModelRequestParameters(output_mode="tool", output_tools=[tool], allow_text_output=False)
                return f"Give the plan by calling the tool `{_TOOL}`.", wanted_tool
            case "text":
                return prompts.in_words(schema), ModelRequestParameters()


def _text(response: "ModelResponse") -> str:
    calls = response.tool_calls
    return calls[0].args_as_json_str() if calls else response.text or ""


def _read(text: str, is_cut: bool) -> dict[str, Any] | list[Problem]:
    if len(text) > _ANSWER_BYTES:
        said = f"an answer has at most {_ANSWER_BYTES:,} characters; this one has {len(text):,}"
        return [Problem(code="too_large", message=said, hint="write a smaller plan")]
    # Some wrap it in words, or in the fence of a block of code.
    first, last = text.find("{"), text.rfind("}")
    try:
        value = codec.value.decode(text[first : last + 1].encode("utf-8", "replace"))
    except DecodeError as error:
        if is_cut:
            said = "the answer was cut short: it was longer than a model may answer (model.max_tokens)"
            return [Problem(code="cut_short", message=said, hint="write a smaller plan")]
        return [Problem(code=error.code, message=f"expected a plan as JSON; {error}")]
    if not isinstance(value, dict):
        return [Problem(code="malformed", message="expected a plan, which is an object of JSON")]
    return value


def _unanswered(error: PlanmeshError) -> Problem:
    if isinstance(error, NoModel):
        hint = (
            "send a plan in place of words; or set up a model for the planner, and ask again (a goal: under another id)"
        )
        return Problem(code=NO_MODEL, message=f"no plan can be made of words: {error}", hint=hint)
    if isinstance(error, NotAllowed):
        return Problem(code=NOT_ALLOWED, message=str(error))
    hint = "publish the goal again under another id"
    code = UNAVAILABLE if isinstance(error, Busy) else FAILED
    return Problem(code=code, message=str(error), hint=f"{hint}, when that has changed")


class _Begun:
    """When something was begun, by the calendar and by the clock."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)
        self._clock_s = time.monotonic()

    @property
    def duration_s(self) -> float:
        return round(time.monotonic() - self._clock_s, 3)


def _try(begun: _Begun, problems: list[Problem], input_tokens: int, output_tokens: int) -> Try:
    return Try(
        at=begun.at,
        duration_s=begun.duration_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        problems=tuple(problems[:_TOLD_PROBLEMS]),
    )


# --- plans for steps ---------------------------------------------------------------------------------------


def allowed(agents: Agents, names: Collection[str] | None) -> Agents:
    """The agents among *names*, and those with tools among them, with these tools only. None: all."""
    if names is None:
        return agents
    found = {}
    for name, agent in agents.items():
        tools = None if agent.tools is None else tuple(tool for tool in agent.tools if tool.name in names)
        if name in names or tools:
            found[name] = msgspec.structs.replace(agent, tools=tools)
    return found


async def draft_for_step(drafter: Drafter, work: DraftWork, agents: Agents) -> ReportDraft:
    """The command that answers *work*: a plan that a step can run, or why there is none. Raises nothing."""
    context = dict(work.inputs)
    task, model = context.pop("task", ""), context.pop("model", None)
    goal = task if isinstance(task, str) else encode(task).decode()
    wish = Wish(
        goal=goal,
        agents=agents,
        context=context,
        max_steps=work.max_steps,
        is_part=True,
        policy=work.policy,
        strict=work.strict,
        model=str(model)[:_MODEL_CHARACTERS] if model else None,
    )
    drafted = await drafter.draft(wish)
    document, failure = None, None
    if drafted.plan is not None:
        document = msgspec.to_builtins(drafted.plan.plan)
    else:
        first = drafted.problems[0]
        said = "; ".join(problem.message for problem in drafted.problems[:_TOLD_PROBLEMS])
        failure = Failure(code=first.code, message=said[:_FAILURE_CHARACTERS], retryable=first.code == UNAVAILABLE)
    calls = tuple(
        Call(
            kind="model",
            name=drafted.origin.model,
            started_at=one.at,
            duration_s=one.duration_s,
            ok=not one.problems,
            input_tokens=min(one.input_tokens, MAX_TOKENS),
            output_tokens=min(one.output_tokens, MAX_TOKENS),
        )
        for one in drafted.origin.tries
    )
    # Two steps whose names begin alike are two.
    identity = hashlib.sha256(f"{work.step}.{work.attempt}".encode()).hexdigest()[:32]
    return ReportDraft(
        id=f"d-{identity}", step=work.step, attempt=work.attempt, document=document, failure=failure, calls=calls
    )


def _proposal(work: PlannerWork, plan: Plan | None, problems: tuple[Problem, ...], origin: Origin) -> ProposeRevision:
    return ProposeRevision(
        id=work.answer,
        request=work.request,
        plan=plan,
        problems=problems,
        by_planner=True,
        origin=origin,
    )


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case dict():
            return "object"
    return "any"


def _written(step: Step) -> Step:
    """A step without what the planner says of its agent, which may have come to declare it since."""
    match step:
        case Task():
            return msgspec.structs.replace(step, destructive=False)
        case Each():
            return msgspec.structs.replace(step, steps=tuple(map(_written, step.steps)))
    return step
