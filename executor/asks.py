"""Asks: the question as it is put, and the answer as it is judged. Pure."""

from typing import Any, NamedTuple

from planmesh.executor.reviewers import OPERATOR, Standing, deadline, escalate, escalations, may_answer, prompt_of
from planmesh.executor.turn import PLANMESH, Turn
from planmesh.schemas.answers import expected, misfit
from planmesh.schemas.commands import AnswerAsk, Reply, ReviewGate, verb_of
from planmesh.schemas.events import AnswerInvalid, AskAnswered, AskOpened, PlanRevised
from planmesh.schemas.payload import Payload, digest
from planmesh.schemas.plan import OPERATORS, SERVICE, Ask
from planmesh.schemas.secrets import recipients, shown


def open_ask(turn: Turn, ask: Ask, because: str = "") -> None:
    """Let *ask* ask, or ask again.

    Args:
        because: Why it asks again.

    Raises:
        ExpressionError: Its prompt cannot be put together.
        NeedsBlob: What the prompt shows has to be fetched first.
    """
    prompt = prompt_of(turn, ask)
    given = recipients(turn.state, ask.name)
    turn.record(
        AskOpened(
            step=ask.name,
            round=turn.state.steps[ask.name].attempt + 1,
            digest=digest([ask.name, prompt, ask.type, ask.options, *(["secret", given] if ask.secret else [])]),
            reviewers=ask.reviewers or (OPERATORS, f"{SERVICE}{turn.state.requester}"),
            prompt=prompt,
            answer=ask.type,
            options=ask.options,
            default=ask.default,
            level=ask.least_level,
            max_retries=ask.max_retries,
            on_overdue=ask.on_overdue,
            overdue_at=deadline(turn, ask),
            escalate=escalations(turn, ask),
            because=because,
            secret=ask.secret,
            recipients=given,
        )
    )


def open_ask_again(turn: Turn, ask: Ask, revised: PlanRevised) -> None:
    """Let *ask* ask again because of a revision. Raises: as for `open_ask`."""
    because = f"{revised.by} has revised the question" + (f": {revised.reason}" if revised.reason else "")
    open_ask(turn, ask, because[:1_000])


class Given(NamedTuple):
    """An answer, by whatever command it came.

    Attributes:
        secret: Where the secret is that it names: ``<verb>.<actor>.<id>``, of which the subject has said the first two.
    """

    step: str
    digest: str
    value: Any
    reason: str = ""
    standing: Standing = OPERATOR
    secret: str = ""

    @classmethod
    def by(cls, turn: Turn, command: AnswerAsk | ReviewGate | Reply, standing: Standing = OPERATOR) -> "Given":
        secret = f"{verb_of(command)}.{turn.by.removeprefix(SERVICE)}.{command.secret}" if command.secret else ""
        return cls(command.step, command.digest, command.value, command.reason, standing, secret)


def answer(turn: Turn, given: Given) -> None:
    """Judge an answer: once, for every channel that it may have come by."""
    if not may_answer(turn, given.step, given.standing, wanted="ask"):
        return
    step = turn.state.steps[given.step]
    asked = step.opened
    assert isinstance(asked, AskOpened)  # or it could not be answered
    if given.digest != asked.digest:
        turn.refuse("stale", f"the answer quotes another digest than ask {given.step} has now", given.step)
    elif asked.secret and (given.value is not None or not given.secret):
        # What was sent may be the secret itself: nothing is said of it, and nothing of it is kept.
        said = f"ask {given.step} takes a secret, which is stored before it is answered, and never sent with the answer"
        turn.refuse("plain_secret", said, given.step)
    elif given.secret and not asked.secret:
        _count(turn, asked, f"expected {expected(asked.answer, asked.options)}; found the name of a secret")
    elif not asked.secret and (wrong := misfit(given.value, asked.answer, asked.options)):
        _count(turn, asked, wrong)
    else:
        groups = given.standing.groups
        about: dict[str, Any] = {} if groups is None else {"level": given.standing.level, "groups": groups}
        value = shown(given.secret) if given.secret else given.value
        turn.record(_answered(turn, asked, value, turn.by, given.reason, secret=given.secret, **about))


def answer_by_default(turn: Turn, asked: AskOpened) -> bool:
    """Answer an ask that is overdue, if that is what its plan says. Returns: whether it is."""
    if asked.secret or asked.on_overdue != "default" or misfit(asked.default, asked.answer, asked.options):
        return False
    reason = "nobody has answered in time, and the plan lets the default be the answer"
    turn.record(_answered(turn, asked, asked.default, PLANMESH, reason))
    return True


def _answered(turn: Turn, asked: AskOpened, value: Any, by: str, reason: str, **about: Any) -> AskAnswered:
    output = {
        "value": value,
        "provided_by": by,
        "provided_at": turn.at.isoformat().replace("+00:00", "Z"),
        "attempt": turn.state.steps[asked.step].invalid + 1,
    }
    return AskAnswered(step=asked.step, round=asked.round, by=by, output=Payload(value=output), reason=reason, **about)


def _count(turn: Turn, asked: AskOpened, wrong: str) -> None:
    """An answer that is none. Beyond so many, it is escalated; it stays open all the same."""
    turn.record(AnswerInvalid(step=asked.step, round=asked.round, by=turn.by))
    count = turn.state.steps[asked.step].invalid
    if count <= asked.max_retries:
        turn.refuse("invalid_answer", f"{wrong} (invalid answer {count} of {asked.max_retries})", asked.step)
        return
    more = f"{count} invalid answers, and {asked.max_retries} are allowed"
    then = "it stays open"
    if count == asked.max_retries + 1:
        escalated = escalate(turn, asked.step, because=more)
        then = f"{'it has been escalated' if escalated else 'nobody is left to escalate it to'}, and {then}"
    turn.refuse("invalid_answer", f"{wrong} ({more}: {then})", asked.step)
