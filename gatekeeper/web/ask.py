"""What the page of an ask shows, as plain values for a template; and how what a form says becomes an answer. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from planmesh.directory import Directory
from planmesh.gatekeeper.web.desk import Case
from planmesh.gatekeeper.web.sheet import Sheet, Verdict, closed, fields, is_waiting
from planmesh.gatekeeper.web.words import Shown, cut, line, plain, value_of, who
from planmesh.schemas import secrets
from planmesh.schemas.answers import MAX_TEXT_CHARACTERS, AnswerType, misfit, typed
from planmesh.schemas.events import AskAnswered, AskOpened
from planmesh.schemas.plan import Ask, Level
from planmesh.schemas.state import PlanState, StepState, StepStatus

_LONG_CHARACTERS: Final = 60

Field = Literal["options", "boolean", "number", "text", "secret"]


class Choice(Struct, frozen=True, kw_only=True):
    """One of the answers that there are: what the form says, and what people read."""

    value: str
    label: str
    is_chosen: bool


class Answered(Struct, frozen=True, kw_only=True):
    """The answer that counts. Its value is None where it is a secret."""

    by: str
    at: datetime
    value: Shown | None
    reason: str
    is_default: bool


class AskPage(Sheet, frozen=True, kw_only=True):
    """The page of an ask.

    Attributes:
        field: What the form has.
        value: What it is filled with.
        is_long: Whether a text is more than a line.
        attempt: Which answer the next one is.
        attempts: After how many it is escalated.
        takes_default: Whether the default is the answer where nobody answers in time.
        recipients: The steps that a secret is given to.
    """

    field: Field
    choices: tuple[Choice, ...]
    value: str
    is_long: bool
    default: str
    attempt: int
    attempts: int
    takes_default: bool
    answered: Answered | None
    behind: int
    recipients: tuple[str, ...]


def ask_page(
    case: Case, name: str, directory: Directory, person: str, level: Level, said: Mapping[str, str] = {}
) -> AskPage:
    """The page of an ask, for *person*.

    Args:
        case: A plan that has this ask.
        said: What the form said that could not be an answer.
    """
    state = case.state
    ask, step = state.graph.steps[name], state.steps[name]
    assert isinstance(ask, Ask)  # or there is no page
    opened = step.opened if isinstance(step.opened, AskOpened) else None
    default = opened.default if opened is not None else ask.default
    value = plain(said["value"], MAX_TEXT_CHARACTERS) if "value" in said else _written(default)
    if opened is not None and default in opened.options and "value" not in said:
        value = str(opened.options.index(default) + 1)  # as the form says it
    field = _field(opened)
    recipients = opened.recipients if opened is not None else ()
    return AskPage(
        **fields(case, name, directory, person, level, verdict=_verdict(state, step, directory), why_not=""),
        field=field,
        choices=_choices(opened, value) if opened is not None else (),
        value=value,
        is_long=field == "text" and (len(value) > _LONG_CHARACTERS or "\n" in value),
        default=cut(line(_worded(default)), 200),
        attempt=step.invalid + 1,
        attempts=opened.max_retries + 1 if opened is not None else 1,
        takes_default=opened is not None and opened.on_overdue == "default",
        answered=_answered(case, directory),
        behind=len(state.graph.behind(name)),
        recipients=tuple(f"{line(one.step)} (by agent {line(one.agent)})" for one in recipients),
    )


def _field(opened: AskOpened | None) -> Field:
    if opened is not None and opened.options:
        return "options"
    if opened is not None and opened.secret:
        return "secret"
    kind: AnswerType = opened.answer if opened is not None else "text"
    return kind


def _choices(opened: AskOpened, chosen: str) -> tuple[Choice, ...]:
    if opened.options:
        # The form says which one, not what: what is shown has lost what hides or reorders text.
        return tuple(
            Choice(value=str(number), label=line(option), is_chosen=str(number) == chosen)
            for number, option in enumerate(opened.options, 1)
        )
    if opened.answer == "boolean":
        return tuple(
            Choice(value=value, label=label, is_chosen=value == chosen)
            for value, label in (("true", "Yes"), ("false", "No"))
        )
    return ()


def _written(value: Any) -> str:
    """A value as a field of a form is filled with it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return plain(str(value), MAX_TEXT_CHARACTERS)


def _worded(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "" if value is None else str(value)


def _verdict(state: PlanState, step: StepState, directory: Directory) -> Verdict:
    if is_waiting(state, step):
        return Verdict(how="open", title="Waiting for an answer", text="")
    if step.status is StepStatus.COMPLETED:
        given = step.output.value if isinstance(step.output.value, dict) else {}
        by = str(given.get("provided_by", ""))
        title = "The default was taken" if by == "planmesh" else f"Answered by {who(directory, by)}"
        return Verdict(how="answered", title=title, text="")
    return closed(state, step, directory, what="question")


def _answered(case: Case, directory: Directory) -> Answered | None:
    for at, event in reversed(case.facts):
        if isinstance(event, AskAnswered):
            given = event.output.value
            value = given.get("value") if isinstance(given, dict) else None
            return Answered(
                by=who(directory, event.by),
                at=at,
                value=None if event.secret else value_of(_worded(value)),
                reason=plain(event.reason),
                is_default=event.by == "planmesh",
            )
    return None


# --- answers -----------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What a form has said.

    Attributes:
        value: The answer that it means, or what was written instead of one.
        problem: Why it is none, for whoever wrote it; empty if it is one.
        is_empty: Whether there is nothing to judge.
        secret: What names the secret that was entered, once it is stored.
    """

    value: Any
    problem: str = ""
    is_empty: bool = False
    secret: str | None = None


def refusal_of_secret(said: str) -> str:
    """Why what was entered cannot be a secret; empty if it can. Repeats nothing of it."""
    if not said.strip():
        return "Enter the secret."
    most = f"{secrets.MAX_SECRET_CHARACTERS:,}"
    return f"A secret has at most {most} characters; this has {len(said):,}." if secrets.misfit(said) else ""


def read_answer(opened: AskOpened, said: str) -> Reading:
    """What the field of the form says."""
    if opened.options:
        chosen = int(said) if said.isascii() and said.isdecimal() and len(said) < 4 else 0
        if 0 < chosen <= len(opened.options):
            return Reading(opened.options[chosen - 1])
        if not said:
            return Reading(None, "Choose one of the answers.", is_empty=True)
        # Whatever wrote this was no form of ours: the answer itself, if it is one.
        return Reading(said, "" if said in opened.options else "Choose one of the answers.")
    if not said.strip():
        what = {"boolean": "Choose yes or no.", "number": "Enter a number.", "text": "Write an answer."}
        return Reading(None, what[opened.answer], is_empty=True)
    value = typed(said, opened.answer)
    if not misfit(value, opened.answer):
        return Reading(value)
    match opened.answer:
        case "number":
            return Reading(value, "Enter a number in digits, such as 1200 or 3.5, and nothing else.")
        case "boolean":
            return Reading(value, "Choose yes or no.")
    return Reading(value, f"Write at most {MAX_TEXT_CHARACTERS:,} characters; this has {len(said):,}.")
