"""What happened to a plan, in words: one line an event."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, assert_never

from rich.text import Text

from planmesh.cli.render import author, columns, failed, used
from planmesh.cli.text import clock, counted, defuse, duration, listed, one_line, value
from planmesh.schemas import events
from planmesh.schemas.events import AnyEvent, Commit
from planmesh.schemas.payload import Payload
from planmesh.schemas.work import Call, usage_of

_TRACEBACK_LINES = 12
_PLANMESH = "planmesh"  # who acts when nobody asked: the rules themselves


class Told(NamedTuple):
    """What an event says.

    Attributes:
        what: In the words that follow a step's name, or `plan`: ``completed in 0.4 s``.
        who: Who did it: a person, an agent, `planmesh` where the rules did; empty where nobody did.
        why: A reason or a message, in the words of a stranger, on one line.
        style: Rich's; empty for the ordinary course of things.
    """

    what: str
    who: str = ""
    why: str = ""
    style: str = ""


class Entry(NamedTuple):
    """An event as a line of a log. Attributes: step: empty if it is about the plan; see `Told` for the rest."""

    at: datetime
    number: int
    type: str
    step: str
    told: Told
    traceback: str = ""

    @property
    def sentence(self) -> str:
        """Such as ``licences completed in 0.4 s by check-licences``."""
        what, who, why, _ = self.told
        joined = {"step.dispatched": "to", "plan.resumed": "after a word of", "step.resumed": "after a word of"}.get(
            self.type, "by"
        )
        by = f" {joined} {who}" if who not in ("", _PLANMESH) else ""
        return f"{self.step or 'plan'} {what}{by}" + (f": {why}" if why else "")


def entries(commit: Commit, agents: dict[str, str], *, verbose: bool = False) -> Iterator[Entry]:
    """What a commit says, in order.

    Args:
        verbose: With the tracebacks of agents.
        agents: Who was handed each step last. It is kept up to date: pass it on to the plan's next commit.
    """
    for event in commit.events:
        if isinstance(event, events.StepDispatched):
            agents[event.step] = event.agent
        step = getattr(event, "step", "") if not isinstance(event, events.PlanCompleted | events.PlanFailed) else ""
        told = tell(event, agents.get(step, ""))
        broke = isinstance(event, events.StepFailed | events.AttemptEnded) and verbose
        traceback = event.failure.traceback if broke else ""  # type: ignore[union-attr]
        yield Entry(commit.at, commit.number, str(event.__struct_config__.tag), step, told, traceback)


_REQUESTED = {"revise": "to be revised", "retry": "to be retried with other means", "redirect": "redirected"}
_GOOD, _BAD, _PERSON, _QUIET = "green", "red", "magenta", "dim"


def tell(event: AnyEvent, agent: str = "") -> Told:
    """An event in words. *agent*: who was handed its step."""
    match event:
        case events.PlanCreated():
            steps = counted(len(event.plan.steps), "step")
            by = "" if event.origin is None else f", {author(event.origin)}"
            return Told(f"created with {steps}", event.requester, f"{one_line(event.plan.name, 80)}{one_line(by)}")
        case events.PlanRefused():
            found = counted(len(event.problems), "problem")
            return Told(f"refused with {found}", _PLANMESH, one_line(event.problems[0].message), _BAD)
        case events.PlanStarted():
            return Told("started", event.by, one_line(event.reason))
        case events.PlanWaiting():
            at = listed((*event.gates, *event.asks, *event.retries, *(f"plan {plan}" for plan in event.plans)))
            return Told(f"waiting at {at}", style=_PERSON if event.gates or event.asks else "")
        case events.PlanPaused():
            return Told("paused", event.by, one_line(event.reason), _PERSON if event.held else _BAD)
        case events.PlanResumed():
            return Told("goes on", event.by, one_line(event.reason))
        case events.PlanCompleted():
            outcome = "" if event.outcome == "completed" else one_line(event.outcome, 60)
            return Told("completed", why=outcome, style=_GOOD)
        case events.PlanFailed():
            return Told("failed", why=one_line(event.reason), style=_BAD)
        case events.PlanCancelled():
            return Told("cancelled", event.by, one_line(event.reason), _BAD)
        case events.StepDispatched(child=child) if child:
            return Told(f"runs as plan {child}{_attempt(event.attempt)}", style=_QUIET)
        case events.StepDispatched():
            return Told(f"handed out{_attempt(event.attempt)}", event.agent, style=_QUIET)
        case events.StepCompleted():
            took = f" in {duration(event.duration_s)}" if event.duration_s is not None else ""
            what = f"completed{took}{_attempt(event.attempt)}{_used(event.calls)}"
            return Told(what, event.by or agent, one_line(event.reason), _GOOD)
        case events.AttemptEnded():
            again = f"failed (attempt {event.attempt}; again at {clock(event.retry_at, event.retry_at)})"
            again += _used(event.calls)
            return Told(again, agent, one_line(failed(event.failure)))
        case events.StepFailed():
            return Told(
                f"failed{_attempt(event.attempt)}{_used(event.calls)}",
                event.by or agent,
                one_line(failed(event.failure)),
                _BAD,
            )
        case events.StepOutcomeUnknown():
            what = f"of unknown outcome{_attempt(event.attempt)}{_used(event.calls)}"
            return Told(what, agent, one_line(event.reason), _BAD)
        case events.PermissionDenied():
            return Told(f"denied {one_line(event.what, 80)}", agent, one_line(event.why), _BAD)
        case events.StepReopened():
            return Told("reopened", event.by, one_line(event.reason))
        case events.StepSkipped():
            return Told("skipped", event.by, one_line(event.reason))
        case events.StepNotTaken():
            return Told("not taken", style=_QUIET)
        case events.BranchTaken():
            return Told(f"took the branch {one_line(event.label, 60)}", style=_GOOD)
        case events.StepsAdded():
            return Told(f"has {counted(len(event.items), 'item')}")
        case events.ChildMoved():
            again = f"; tries {listed([step.step for step in event.retries])} again" if event.retries else ""
            return Told(f"plan {event.child} is {one_line(event.status, 20)}{again}", why=one_line(event.reason))
        case events.ChildRecalled():
            return Told(f"recalls plan {event.child}")
        case events.ChildEnded():
            ends = f"plan {event.child} is {one_line(event.status, 20)}"
            return Told(f"{ends}, and gives back {counted(event.plans_left, 'plan')}", style=_QUIET)
        case events.StepsCancelled():
            gone = f"cancelled {counted(len(event.steps), 'step')} ({listed(event.steps)})"
            return Told(gone, event.by, one_line(event.reason), _BAD if event.by else _QUIET)
        case events.GateOpened():
            again = f" again (round {event.round})" if event.round > 1 else ""
            why = one_line(event.because) or one_line(event.prompt)
            return Told(f"opened{again} for {listed(event.reviewers)}", why=why, style=_PERSON)
        case events.VoteCast():
            return Told("given a vote", event.by, one_line(event.reason), _PERSON)
        case events.GateOverdue():
            return Told("overdue: nobody has decided in time", style=_PERSON)
        case events.GateEscalated():
            return Told(f"escalated to {listed(event.to)}", why=one_line(event.because), style=_PERSON)
        case events.AskOpened():
            again = f" again (round {event.round})" if event.round > 1 else ""
            why = one_line(event.because) or one_line(event.prompt)
            return Told(f"asked{again} of {listed(event.reviewers)}", why=why, style=_PERSON)
        case events.AnswerInvalid():
            return Told("given an answer that is none", event.by, style=_PERSON)
        case events.AskAnswered():
            said = "by default" if event.by == _PLANMESH else "with a secret" if event.secret else _answer(event.output)
            return Told(f"answered {said}".rstrip(), event.by, one_line(event.reason), _GOOD)
        case events.GateApproved():
            return Told("approved", listed(event.by), one_line(event.reason), _GOOD)
        case events.GateRejected():
            return Told("rejected", event.by, one_line(event.reason), _BAD)
        case events.NoticeSent():
            sent = "told" if event.delivered else "could not tell"
            what = f"{sent} {one_line(event.channel, 60)} ({one_line(event.notice, 20)})"
            return Told(what, _PLANMESH, one_line(event.detail), _QUIET if event.delivered else _BAD)
        case events.StepPaused():
            return Told("paused", event.by, one_line(event.reason), _PERSON)
        case events.StepResumed():
            return Told("goes on", event.by, one_line(event.reason))
        case events.RevisionRequested():
            return Told(_REQUESTED[event.kind], event.by, one_line(event.reason or event.instruction), _PERSON)
        case events.PlanRevised():
            changed = counted(len(event.changes), "change")
            written = [] if event.origin is None else [one_line(author(event.origin))]
            why = ", ".join(filter(None, [one_line(event.reason), *written]))
            return Told(f"revised ({changed}, revision {event.revision})", event.by, why)
        case events.RevisionRefused():
            found = counted(len(event.problems), "problem")
            why = one_line(event.problems[0].message) if event.problems else ""
            return Told(f"not revised ({found})", event.by, why, _BAD)
        case events.CommandRefused():
            return Told(f"{one_line(event.verb, 20)} refused ({event.code})", event.by, one_line(event.reason), _BAD)
        case _:
            assert_never(event)


def _answer(output: Payload) -> str:
    given = output.value
    return value(given["value"], 60) if isinstance(given, dict) and "value" in given else ""


def _attempt(attempt: int) -> str:
    return f" (attempt {attempt})" if attempt > 1 else ""


def _used(calls: tuple[Call, ...]) -> str:
    usage = usage_of(calls)
    return f" with {used(usage)}" if usage is not None else ""


def line(entry: Entry, now: datetime | None = None) -> Text:
    """An entry as it is told while it happens: ``12:00:01 licences completed in 0.4 s by check-licences``."""
    return Text().append(f"{clock(entry.at, now)} ", "dim").append(entry.sentence, entry.told.style)


def table(told: list[Entry], now: datetime, width: int | None = None) -> list[Text]:
    """A whole log, with the tracebacks of those entries that have one."""
    rows = [
        (
            f"{clock(entry.at, now)}.{entry.at.microsecond // 1_000:03}",
            str(entry.number),
            entry.step or "(plan)",
            entry.told.who or _PLANMESH,
            Text(entry.told.what, style=entry.told.style).append(f": {entry.told.why}" if entry.told.why else ""),
        )
        for entry in told
    ]
    head, *lines = columns(("TIME", "NO", "STEP", "WHO", "WHAT"), rows, right=frozenset({1}), width=width)
    return [head, *(one for entry, line in zip(told, lines, strict=True) for one in (line, *_traceback(entry)))]


def _traceback(entry: Entry) -> Iterator[Text]:
    """The end of an agent's traceback, which says most."""
    lines = defuse(entry.traceback).splitlines()
    if len(lines) > _TRACEBACK_LINES:
        lines = ["…", *lines[-_TRACEBACK_LINES:]]
    for text in lines:
        yield Text(f"    {text}", style="dim")
