"""Verbs that steer a plan, as methods: each is one command (`planmesh.schemas.commands`), and gives its answer.

Each takes a `reason`, which the log keeps, and an `id`: the same command sent twice with the same id is carried out
once, so that a caller who does not know whether it has asked may ask again.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from planmesh.errors import PlanmeshError
from planmesh.schemas import events
from planmesh.schemas.commands import (
    AnswerAsk,
    AnyCommand,
    CancelPlan,
    CastVote,
    PausePlan,
    RedirectPlan,
    ResolveStep,
    ResumePlan,
    RetryStep,
    RevisePlan,
    SkipStep,
    StartPlan,
)
from planmesh.schemas.events import AnyEvent, CommandRefused, Commit
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import NOTHING, Payload
from planmesh.schemas.plan import Ask
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address


class Answer(NamedTuple):
    """What became of a command.

    Attributes:
        commit: The line of the log that answers it; it may answer others too.
        events: Everything that happened in it, in order.
    """

    commit: Commit
    events: tuple[AnyEvent, ...]


class Refused(PlanmeshError):
    """The plan does not take this command now; nothing has changed.

    Attributes:
        event: What the log says: code, reason, and the verbs that would be carried out.
        commit: Where it says so.
    """

    def __init__(self, event: CommandRefused, commit: Commit) -> None:
        self.event = event
        self.commit = commit
        instead = f" (possible now: {', '.join(event.possible)})" if event.possible else ""
        super().__init__(f"{event.verb} was refused: {event.reason}{instead}")


class RevisionRefused(PlanmeshError):
    """The revision that was asked for cannot be; the plan is as it was.

    Attributes:
        event: What the log says.
        commit: Where it says so.
    """

    def __init__(self, event: events.RevisionRefused, commit: Commit) -> None:
        self.event = event
        self.commit = commit
        super().__init__("\n".join(["the revision was refused:", *(f"  {described(one)}" for one in event.problems)]))

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.event.problems


def described(problem: Problem) -> str:
    """Where, what, and what to do about it."""
    at = f"{problem.pointer}: " if problem.pointer else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"{at}{problem.message}{hint} [{problem.code}]"


def new_command_id() -> str:
    """An id for a command: no other has it."""
    return secrets.token_hex(8)


class Steering(ABC):
    """What steers a plan. Every method but `command` and `state` raises what `command` raises."""

    @abstractmethod
    async def command(self, address: Address, command: AnyCommand, *, timeout_s: float = 10.0) -> Answer: ...

    @abstractmethod
    async def state(self, address: Address) -> PlanState: ...

    @abstractmethod
    async def keep_secret(self, address: Address, step: str, text: str) -> str: ...

    async def start(self, address: Address, *, reason: str = "", id: str | None = None) -> Answer:
        """Start a draft."""
        return await self.command(address, StartPlan(id=id or new_command_id(), reason=reason))

    async def pause(
        self, address: Address, step: str | None = None, *, reason: str = "", id: str | None = None
    ) -> Answer:
        """Start nothing more: in the plan, or behind one step. What is running may finish, and is recorded."""
        return await self.command(address, PausePlan(id=id or new_command_id(), step=step, reason=reason))

    async def resume(
        self, address: Address, step: str | None = None, *, reason: str = "", id: str | None = None
    ) -> Answer:
        """Go on after a pause of the plan, or of one step."""
        return await self.command(address, ResumePlan(id=id or new_command_id(), step=step, reason=reason))

    async def cancel(
        self, address: Address, step: str | None = None, *, reason: str = "", id: str | None = None
    ) -> Answer:
        """End the plan; or one step, and with it all that can only run after it."""
        return await self.command(address, CancelPlan(id=id or new_command_id(), step=step, reason=reason))

    async def retry(
        self,
        address: Address,
        step: str,
        *,
        attempt: int | None = None,
        agent: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        reason: str = "",
        id: str | None = None,
    ) -> Answer:
        """Try a failed step again, or a rejected gate.

        Args:
            attempt: The attempt that failed: a retry of another one is refused. None: the one that the log has now.
            agent: Another agent.
            inputs: Other inputs, all of them.

        Returns:
            The line that reopens the step; with other means, the one with the revision.
        """
        command = RetryStep(
            id=id or new_command_id(),
            step=step,
            attempt=await self._attempt(address, step) if attempt is None else attempt,
            agent=agent,
            inputs=None if inputs is None else dict(inputs),
            reason=reason,
        )
        return await self.command(address, command)

    async def skip(self, address: Address, step: str, *, reason: str = "", id: str | None = None) -> Answer:
        """Go on without an optional step; its output is null. A gate takes a reason as well."""
        return await self.command(address, SkipStep(id=id or new_command_id(), step=step, reason=reason))

    async def resolve(
        self,
        address: Address,
        step: str,
        *,
        done: bool,
        output: Payload = NOTHING,
        attempt: int | None = None,
        reason: str = "",
        id: str | None = None,
    ) -> Answer:
        """Say what became of an attempt whose outcome is unknown."""
        command = ResolveStep(
            id=id or new_command_id(),
            step=step,
            attempt=await self._attempt(address, step) if attempt is None else attempt,
            done=done,
            output=output,
            reason=reason,
        )
        return await self.command(address, command)

    async def approve(
        self, address: Address, gate: str, digest: str, *, reason: str = "", id: str | None = None
    ) -> Answer:
        """Approve what a gate lets go. *digest*: of what was read; if it has changed since, that is refused."""
        vote = CastVote(id=id or new_command_id(), step=gate, digest=digest, decision="approve", reason=reason)
        return await self.command(address, vote)

    async def reject(
        self, address: Address, gate: str, digest: str, *, reason: str = "", id: str | None = None
    ) -> Answer:
        """Reject what a gate would let go. *digest*: as for `approve`."""
        vote = CastVote(id=id or new_command_id(), step=gate, digest=digest, decision="reject", reason=reason)
        return await self.command(address, vote)

    async def answer(
        self,
        address: Address,
        step: str,
        value: str | float | bool,
        *,
        digest: str | None = None,
        reason: str = "",
        id: str | None = None,
    ) -> Answer:
        """Answer an ask.

        Args:
            value: A text (or one of the options), a number, or true or false, as the ask takes it. Anything else is
                refused, and counted. Where the ask takes a secret, it is stored first, and is no part of the answer.
            digest: Of the question that was read: if it has changed since, the answer is refused. None: the one that
                is asked now.

        Raises:
            ValueError: It takes a secret, and this is none.
        """
        state = await self.state(address)
        if digest is None:
            found = state.steps.get(step)
            digest = "" if found is None or found.opened is None else found.opened.digest
        about: dict[str, Any] = {"id": id or new_command_id(), "step": step, "digest": digest, "reason": reason}
        ask = state.graph.steps.get(step)
        if isinstance(ask, Ask) and ask.secret:
            if not isinstance(value, str):
                raise ValueError(f"ask {step} takes a secret, which is a text")
            about["secret"] = await self.keep_secret(address, step, value)
        else:
            about["value"] = value
        return await self.command(address, AnswerAsk(**about))

    async def revise(
        self,
        address: Address,
        document: Mapping[str, Any] | str | None = None,
        *,
        instruction: str = "",
        base: int | None = None,
        cancel_running: bool = False,
        reason: str = "",
        id: str | None = None,
    ) -> Answer:
        """Replace what has not started, and wait for the planner to have worked it out.

        Args:
            document: The plan from here on. What has started and is not in it stays.
            instruction: What to change, in words, instead.
            base: The revision that the document is made against; another one is refused. None: the one in force now.
            cancel_running: Whether a running step that the document leaves out is cancelled.

        Returns:
            The line of the log with the revision (`planmesh.schemas.events.PlanRevised`).
        """
        command = RevisePlan(
            id=id or new_command_id(),
            base=(await self.state(address)).revision if base is None else base,
            document=document if document is None or isinstance(document, str) else dict(document),
            instruction=instruction,
            cancel_running=cancel_running,
            reason=reason,
        )
        return await self.command(address, command)

    async def redirect(
        self,
        address: Address,
        gate: str,
        digest: str,
        document: Mapping[str, Any] | str | None = None,
        *,
        instruction: str = "",
        reason: str = "",
        id: str | None = None,
    ) -> Answer:
        """Answer a gate with another plan from here on; it asks again. See `approve` and `revise`."""
        command = RedirectPlan(
            id=id or new_command_id(),
            step=gate,
            digest=digest,
            document=document if document is None or isinstance(document, str) else dict(document),
            instruction=instruction,
            reason=reason,
        )
        return await self.command(address, command)

    async def _attempt(self, address: Address, step: str) -> int:
        found = (await self.state(address)).steps.get(step)
        return 1 if found is None else found.attempt
