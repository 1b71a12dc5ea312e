"""Follow a plan until there is a reason to stop; ask the person at the terminal whenever a gate is open."""

import asyncio
import contextlib
import os
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Literal

from rich.text import Text

from planmesh.cli import COMPLETED, FAILED, WAITING
from planmesh.cli.feed import Feed
from planmesh.cli.render import WIDEST
from planmesh.cli.review import review
from planmesh.cli.sending import send
from planmesh.cli.session import NotUnderstood, Session, now
from planmesh.cli.standing import account
from planmesh.cli.text import value
from planmesh.cli.view import gate_row, of_state
from planmesh.errors import PlanmeshError
from planmesh.operator import Operator
from planmesh.schemas import secrets
from planmesh.schemas.answers import misfit, typed
from planmesh.schemas.commands import AnswerAsk, CastVote
from planmesh.schemas.queries import GateRow
from planmesh.schemas.state import ENDED, STANDING_STILL, PlanState, PlanStatus, open_asks, open_gates
from planmesh.schemas.subjects import Address
from planmesh.steering import new_command_id

Ask = Callable[[Operator, PlanState, GateRow], Awaitable[CastVote | AnswerAsk | None]]
"""Puts a gate to somebody. Gives the vote to send; or None, if they leave the gate open."""


Stop = Callable[[Operator, PlanState], Awaitable[bool]]
"""Whether there is a reason to stop following a plan in this state. Raises: Busy, Unusable: the log cannot be read."""


async def exit_code(operator: Operator, state: PlanState) -> int:
    """What a command line ends with that stops following a plan in this state."""
    if state.status is PlanStatus.COMPLETED:
        return COMPLETED
    return FAILED if state.status in ENDED or await went_wrong(operator, state) else WAITING


async def stands_still(operator: Operator, state: PlanState) -> bool:
    """Whether nothing goes on until a person does something, here or in a plan that this one waits for."""
    match state.status:
        case PlanStatus.DRAFT | PlanStatus.PAUSED:
            return True
        case PlanStatus.WAITING if open_gates(state) or open_asks(state):
            return True
        case PlanStatus.WAITING:
            return await _only_plans_hold(operator, state, stands_still)
    return False


async def went_wrong(operator: Operator, state: PlanState) -> bool:
    """Whether nothing goes on because of a failure, here or in a plan that this one waits for."""
    match state.status:
        case PlanStatus.PAUSED:
            return not state.held and bool(state.troubled)
        case PlanStatus.WAITING:
            return await _only_plans_hold(operator, state, went_wrong)
    return False


async def _only_plans_hold(operator: Operator, state: PlanState, so: Stop) -> bool:
    """Whether *state* waits for nothing but plans that it runs, and each of them is *so*."""
    runs = [state.steps[name] for name in state.away]
    if state.waiting or not runs or any(not run.child or run.retrying for run in runs):
        return False
    for run in runs:
        child = Address(state.address.space, run.child)
        # What it has come to since, it will tell its parent.
        if run.child_status not in STANDING_STILL or not await so(operator, await operator.state(child)):
            return False
    return True


async def follow(
    session: Session,
    operator: Operator,
    address: Address,
    feed: Feed,
    *,
    stop: Stop,
    ask: Ask | None = None,
) -> PlanState:
    """Tell *feed* what happens to a plan until it has ended, or *stop* holds.

    Args:
        stop: Judged on states that are not history: those after the last commit that there was at the beginning.
        ask: Called for each gate or ask that opens, once a round. It is cancelled if somebody else decides.

    Returns:
        The state in which it was left.

    Raises:
        Busy, Unusable: The log cannot be read.
    """
    known = (await operator.state(address)).number
    asked: set[tuple[str, int]] = set()
    async with _watching(operator, address, feed) as watched:
        while True:
            state = await watched.next(known)
            if state.status in ENDED:
                return state
            gate = next((gate for gate in _gates(state) if (gate.step, gate.round) not in asked), None)
            if ask is not None and gate is not None:
                asked.add((gate.step, gate.round))
                with feed.aside():
                    vote = await watched.unless_decided(gate, ask(operator, state, gate))
                    if vote is not None:
                        await send(session, operator, address, vote, aside=session.progress)
                watched.look_again()
            elif await stop(operator, state):
                return state


def _gates(state: PlanState) -> list[GateRow]:
    return [gate_row(state, name) for name in (*open_gates(state), *open_asks(state))]


class _Watched:
    """The state of a plan, as it changes."""

    def __init__(self) -> None:
        self.state: PlanState | None = None
        self.reading: asyncio.Task[None]
        self._seen = 0
        self._changed = asyncio.Event()

    def hear(self, state: PlanState) -> None:
        self.state = state
        self._changed.set()

    def look_again(self) -> None:
        """Let `next` give a state that it has given before."""
        self._seen = 0

    async def next(self, least: int) -> PlanState:
        """The newest state, once it is another than the last time, and at least of commit *least*."""
        while self.state is None or self._is_history(self.state, least):
            await self._wait()
        self._seen = self.state.number
        return self.state

    def _is_history(self, state: PlanState, least: int) -> bool:
        if state.status is PlanStatus.REFUSED:
            return state.number < least  # the same goal was published again since
        # What comes after its end (a refusal of what was asked too late) is not watched.
        return state.number < max(least, self._seen + 1) and state.status not in ENDED

    async def unless_decided(
        self, gate: GateRow, asking: Awaitable[CastVote | AnswerAsk | None]
    ) -> CastVote | AnswerAsk | None:
        """Wait for *asking*, but no longer than *gate* is open in this round."""
        task = asyncio.ensure_future(asking)
        try:
            while not task.done() and self._open(gate):
                changed = asyncio.ensure_future(self._wait())
                await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            return task.result() if task.done() else None
        finally:
            task.cancel(_DECIDED if not self._open(gate) else None)
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _open(self, gate: GateRow) -> bool:
        state = self.state
        if state is None or gate.step not in (*open_gates(state), *open_asks(state)):
            return False
        return state.steps[gate.step].attempt == gate.round

    async def _wait(self) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((changed, self.reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._changed.is_set():
            self._changed.clear()
        else:
            self.reading.result()  # it has ended, and so does the plan; or it cannot be read


@contextlib.asynccontextmanager
async def _watching(operator: Operator, address: Address, feed: Feed) -> AsyncIterator[_Watched]:
    watched = _Watched()

    async def read() -> None:
        async for state, commit in operator.watch(address):
            feed.hear(state, commit)
            watched.hear(state)

    async def hints() -> None:
        # A hint more or less; whatever is wrong with the connection, `read` says so.
        with contextlib.suppress(PlanmeshError):
            async for report in operator.progress(address):
                step = watched.state.steps.get(report.step) if watched.state is not None else None
                # Any agent may say something of any step; only of its own is it to be believed.
                if step is not None and step.agent == report.agent:
                    feed.hint(report.step, report.progress.text)

    watched.reading = asyncio.create_task(read())
    tasks = (watched.reading, asyncio.create_task(hints()))
    try:
        yield watched
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- at the terminal ---------------------------------------------------------------------------------------

_DECIDED: Final = "decided"  # why asking is cancelled
_TERMINAL_BYTES: Final = 4_095  # of a line: Linux drops the rest without a word
_ELSEWHERE: Final = "Here, or from another terminal"
_QUESTION: Final = "  Approve, reject, or leave it open? [a/r/l] "


def at_the_terminal(session: Session, *, elsewhere: bool = False) -> Ask:
    """Asks whoever sits there. *elsewhere*: and says how to answer from another terminal."""
    command = session.command if elsewhere else None
    screen = session.progress

    async def ask(operator: Operator, state: PlanState, gate: GateRow) -> CastVote | AnswerAsk | None:
        values = await shown_values(operator, gate)
        question = review(gate, now(), screen.width, values=values, command=command, heading=_ELSEWHERE)
        session.say(Text(), *question, Text(), to=screen)
        try:
            if gate.secret:
                return await _secret_answer(session, operator, gate)
            if gate.kind == "ask":
                answer = await _value(session, gate)
                if answer is None:
                    session.say(_left(session, gate), Text(), to=screen)
                    return None
                return AnswerAsk(id=new_command_id(), step=gate.step, digest=gate.digest, value=answer)
            decision = await _choose()
            reason = await _why(gate) if decision == "reject" else ""
        except asyncio.CancelledError as cancelled:
            if _DECIDED in cancelled.args:
                said = "  It is decided elsewhere, or what it lets go has changed."
                session.say(Text(), Text(said, style="dim"), to=screen)
            raise
        if decision == "leave":
            session.say(_left(session, gate), Text(), to=screen)
            return None
        return CastVote(id=new_command_id(), step=gate.step, digest=gate.digest, decision=decision, reason=reason)

    return ask


def how_to_answer(session: Session) -> Ask:
    """Asks nobody, but says by which commands anyone can answer."""

    async def ask(operator: Operator, state: PlanState, gate: GateRow) -> None:
        session.say(*account(of_state(state), now(), WIDEST, session.command), to=session.progress)

    return ask


async def shown_values(operator: Operator, gate: GateRow) -> dict[str, Any]:
    """The values of the blobs that a gate shows, by SHA-256; without those that cannot be had."""
    values = {}
    for payload in gate.shown:
        if payload.blob is not None:
            with contextlib.suppress(PlanmeshError, ValueError):
                values[payload.blob.sha256] = await operator.value(payload)
    return values


def _left(session: Session, gate: GateRow) -> Text:
    command = f"{session.command} gates show {gate.plan} {gate.step}"
    said = Text(overflow="ignore").append("  Left open. To decide it later:  ", "dim").append(command, "cyan")
    return said.append("\n  Ctrl-C stops watching; the plan stays.", "dim")


async def _choose() -> Literal["approve", "reject", "leave"]:
    words: dict[str, Literal["approve", "reject", "leave"]] = {}
    for word in ("approve", "reject", "leave"):
        words |= {word: word, word[0]: word}
    while True:
        said = await read_line(_QUESTION)
        if said is None:
            return "leave"
        if said.lower() in words:
            return words[said.lower()]


async def _value(session: Session, ask: GateRow) -> Any:
    """An answer that fits; None: it is left open."""
    has_default = ask.default is not None
    how = f"Enter: {value(ask.default, 60)}; -: leave it open" if has_default else "Enter: leave it open"
    while True:
        said = await read_line(f"  Your answer ({how}): ")
        if said is None or (said == "-" if has_default else not said):
            return None
        answer = typed(said, ask.answer) if said else ask.default
        wrong = misfit(answer, ask.answer, ask.options)
        if not wrong:
            return answer
        session.say(Text(f"  {wrong}", style="red"), to=session.progress)


async def _secret_answer(session: Session, operator: Operator, ask: GateRow) -> AnswerAsk | None:
    text = await read_secret("  The secret (nothing is shown; Enter: leave it open): ")
    if text:
        wrong = secrets.misfit(text)
        if not wrong:
            kept = await operator.keep_secret(Address(ask.space, ask.plan), ask.step, text)
            return AnswerAsk(id=new_command_id(), step=ask.step, digest=ask.digest, secret=kept)
        session.say(Text(f"  {wrong}", style="red"), to=session.progress)
    session.say(_left(session, ask), Text(), to=session.progress)
    return None


async def _why(gate: GateRow) -> str:
    needed = "" if gate.require_reason else " (Enter for none)"
    while True:
        said = await read_line(f"  Why?{needed} ")
        if said or said is None or not gate.require_reason:
            return said or ""


async def read_line(prompt: str) -> str | None:
    """What a person types, without holding anything up that goes on meanwhile. None at the end of the input."""
    data = await _read(prompt)
    return data.decode("utf-8", "replace").strip() if data else None


async def read_secret(prompt: str) -> str | None:
    """What a person types while the terminal shows nothing of it. None at the end of the input.

    Raises:
        NotUnderstood: It is longer than a line of a terminal may be, or not UTF-8.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        data = await _read(prompt)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        sys.stderr.write("\n")
        sys.stderr.flush()
    if len(data) >= _TERMINAL_BYTES:
        raise NotUnderstood("a terminal passes on no longer line than that: put it into a file, and add --file FILE")
    try:
        return data.decode().rstrip("\r\n") if data else None
    except UnicodeDecodeError:
        raise NotUnderstood("a secret is a text in UTF-8, and this is none") from None


async def _read(prompt: str) -> bytes:
    # Not input(): it would block in a thread that nothing can end.
    sys.stderr.write(prompt)
    sys.stderr.flush()
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()
    source = sys.stdin.fileno()

    def read() -> None:
        if not typed.done():
            typed.set_result(os.read(source, 4096))

    loop.add_reader(source, read)
    try:
        return await typed
    finally:
        loop.remove_reader(source)
