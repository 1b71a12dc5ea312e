"""How a notice is worded: Jinja templates, which an operator can replace one by one.

A template is one text file: the first line that is not empty is the subject, the rest the body. It is given `Facts`
(`notice.py`), and finds the built-in templates beside it, so that it may include their parts. It runs in a sandbox,
and nothing is escaped: a notice is plain text, and what strangers wrote has been defused.

A template that does not work holds no notice up: the built-in one goes out instead, and the log says why.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Final

import structlog
from immutables import Map
from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, PackageLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec.structs import asdict, replace

from planmesh.errors import PlanmeshError
from planmesh.gatekeeper.news import Aside, Idle, NewsFacts, Trouble, tell
from planmesh.gatekeeper.notice import SUBJECT_CHARACTERS, Facts, Notice, defuse, facts
from planmesh.gatekeeper.rounds import Call, Ending, Kind, Reviews, Round
from planmesh.schemas.events import AskOpened, Barred, GateOpened, Release, Upstream
from planmesh.schemas.payload import Payload, canonical, digest
from planmesh.schemas.plan import Escalation, Gate, Permissions
from planmesh.schemas.state import PlanState
from planmesh.schemas.subjects import Address

KINDS: Final[tuple[Kind, ...]] = ("opened", "overdue", "escalated", "decided", "cancelled")
SUFFIX: Final = ".txt"
BODY_CHARACTERS: Final = 40_000
"""What is longer is cut: channels refuse it, or nobody reads it."""

_PACKAGE: Final = ("planmesh.gatekeeper", "notices")
_TEMPLATE_BYTES: Final = 256 * 1024
_GAPS: Final = re.compile(r"\n{3,}")

log = structlog.get_logger()


class Broken(PlanmeshError):
    """A template of the operator's does not work; the text says which, where and why."""


class Letters:
    """The wording of notices.

    Args:
        directory: The operator's own templates. None: the built-in ones.
    """

    def __init__(self, directory: Path | None = None) -> None:
        built_in = PackageLoader(*_PACKAGE)
        self._directory = directory
        self._built_in = _environment(built_in)
        self._own = None
        if directory is not None:
            self._own = _environment(ChoiceLoader([FileSystemLoader(directory), built_in]))

    def write(self, said: Facts | NewsFacts) -> Notice:
        """Word a notice; with the built-in template, if the operator's does not work."""
        if self._own is not None:
            try:
                return _render(self._own, said)
            except Broken as error:
                log.error("notice.template_broken", template=said.kind, error=str(error), used="the built-in one")
        return _render(self._built_in, said)

    def problems(self) -> list[str]:
        """What is wrong with the operator's templates, each with its place: tried with notices of every kind."""
        directory, environment = self._directory, self._own
        if directory is None or environment is None:
            return []
        if not directory.is_dir():
            return [f"there is no directory {directory}"]
        found = [*_strangers(directory), *_too_large(directory)]
        tried: list[Facts | NewsFacts] = [*samples(), *news_samples()]
        for sample in tried:
            try:
                _render(environment, sample)
            except Broken as error:
                if str(error) not in found:
                    found.append(str(error))
        return found


def _environment(loader: BaseLoader) -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        loader=loader,
        autoescape=False,  # a notice is plain text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.filters["quoted"] = _quoted
    return made


def _quoted(text: str, indent: int = 2) -> str:
    """Lines that nobody can take for the notice's own."""
    return "\n".join(f"{' ' * indent}| {line}" for line in text.split("\n"))


def _render(environment: ImmutableSandboxedEnvironment, said: Facts | NewsFacts) -> Notice:
    """Raises: Broken."""
    try:
        text = environment.get_template(f"{said.kind}{SUFFIX}").render(asdict(said))
    except Exception as error:  # whatever a template does is its own fault
        raise Broken(_explained(said.kind, error)) from error
    subject, _, body = text.strip().partition("\n")
    body = _GAPS.sub("\n\n", "\n".join(line.rstrip() for line in body.split("\n"))).strip()
    if not subject.strip() or not body:
        raise Broken(f"{said.kind}{SUFFIX} gives no subject and body: the first line is the one, the rest the other")
    if len(body) > BODY_CHARACTERS:
        body = f"{body[: BODY_CHARACTERS - 1].rstrip()}…"
    return Notice(defuse(subject, SUBJECT_CHARACTERS), body)


def _explained(kind: str, error: Exception) -> str:
    """Where in which file it went wrong, as far as Jinja or the traceback say so."""
    name, line = f"{kind}{SUFFIX}", 0
    if isinstance(error, TemplateError) and getattr(error, "lineno", None):
        name, line = str(getattr(error, "name", None) or name), int(getattr(error, "lineno", 0))
    else:
        step = error.__traceback__
        while step is not None:  # Jinja puts the template's own lines into the traceback
            if step.tb_frame.f_code.co_filename.endswith(SUFFIX):
                name, line = Path(step.tb_frame.f_code.co_filename).name, step.tb_lineno
            step = step.tb_next
    what = str(error) or type(error).__name__
    return f"{name}{f', line {line}' if line else ''}: {defuse(what, 300)}"


def _names() -> frozenset[str]:
    root = files(_PACKAGE[0]).joinpath(_PACKAGE[1])
    parts = (f"parts/{one.name}" for one in root.joinpath("parts").iterdir())
    return frozenset((*(f"{kind}{SUFFIX}" for kind in (*KINDS, "news")), *parts))


def _strangers(directory: Path) -> Iterable[str]:
    """Files that would never be read, for they are called like no template. (Those in other directories may be
    included.)"""
    known = _names()
    there = [one.relative_to(directory).as_posix() for one in directory.glob(f"*{SUFFIX}")]
    there += [one.relative_to(directory).as_posix() for one in directory.glob(f"parts/*{SUFFIX}")]
    for name in sorted(set(there) - known):
        close = difflib.get_close_matches(name, known, 1)
        yield f"{name}: there is no notice of this name" + (f"; did you mean {close[0]}?" if close else "")


def _too_large(directory: Path) -> Iterable[str]:
    for file in sorted(directory.rglob(f"*{SUFFIX}")):
        if file.stat().st_size > _TEMPLATE_BYTES:
            yield f"{file.relative_to(directory).as_posix()}: larger than {_TEMPLATE_BYTES:,} bytes"


# --- samples -----------------------------------------------------------------------------------------------


def samples() -> tuple[Facts, ...]:
    """Made-up notices of every kind, plain and rich, to try templates with."""
    empty = Reviews.nothing(_ADDRESS)
    rich = (facts(_ADDRESS, _REVIEWS, one, kind, level=1, link=_LINK, person="ada") for kind, one in _rounds())
    plain = (facts(_ADDRESS, empty, one, kind, level=1, with_outputs=False) for kind, one in _rounds())
    return (*rich, *plain)


def sample(kind: Kind, *, with_outputs: bool = True) -> Facts:
    """A made-up notice, to be looked at."""
    asked = next(one for found, one in _rounds() if found == kind and one.opened is _OPENED)
    return facts(_ADDRESS, _REVIEWS, asked, kind, level=1, link=_LINK, person="ada", with_outputs=with_outputs)


def news_samples() -> tuple[NewsFacts, ...]:
    """Made-up news for operators: of everything, and of one thing each."""
    troubles: list[Trouble] = [
        *(Trouble("paused", Address("shop", f"order-{at}"), "charge", "http_error", "503") for at in range(1, 201)),
        Trouble("unknown", _ADDRESS, "pay", "", "the worker is gone"),
        Trouble("failed", Address("shop", "refund-4"), "check", "check_failed", "the sums differ"),
        Trouble("rejected", Address("billing", "invoice-9"), "approve", "", "Not before Friday"),
        Trouble("overdue", Address("billing", "invoice-3"), "approve", "", ""),
        Trouble("untold", Address("billing", "invoice-3"), "approve", "bob-slack", "no answer within 15 s"),
    ]
    aside = Aside("executor", "RESULTS", "expected a result, found an array")
    single = (tell([one], [], _AT) for one in troubles[-6:])
    idle = Idle("charge-card", 12)
    few = (tell([], [aside], None), tell([], [], None, idle=[idle]))
    return tuple(filter(None, (tell(troubles, [aside], _AT, idle=[idle]), *single, *few)))


def _rounds() -> Iterator[tuple[Kind, Round]]:
    plain = Round(opened=GateOpened(step="approve", round=1, digest="0" * 64, reviewers=(), quorum=1), at=_AT)
    asked = Round(opened=_OPENED, at=_AT)
    reopened = replace(_OPENED, round=2, because="ada has revised what it would release: pay in two parts")
    before = Round(opened=_OPENED, at=_AT, ending=Ending(how="rejected", by=("ada",), reason="Not before Friday"))
    again = Round(opened=reopened, at=_AT, before=before, overdue=True, votes=("bob",))
    yield from (("opened", plain), ("opened", asked), ("opened", again))
    yield from (("overdue", replace(asked, overdue=True)), ("overdue", again))
    more = Call(kind="escalated", reviewers=("role:board",), level=1, because="nobody has answered in time")
    yield "escalated", replace(asked, overdue=True, calls=(more,))
    question = Round(opened=_QUESTION, at=_AT)
    misunderstood = replace(more, because="4 invalid answers, and 3 are allowed")
    yield from (("opened", question), ("overdue", question), ("escalated", replace(question, calls=(misunderstood,))))
    answer = Payload(value={"value": "in parts", "provided_by": "ada"})
    yield "decided", replace(question, ending=Ending(how="answered", by=("ada",), reason="", answer=answer))
    yield "cancelled", replace(question, ending=_ENDINGS[-1])
    yield "opened", Round(opened=AskOpened(step="how", round=2, digest="0", reviewers=()), at=_AT, before=question)
    for ending in _ENDINGS:
        yield "cancelled" if ending.how == "closed" else "decided", replace(asked, ending=ending)


_LINK: Final = "https://plans.example.org/gates/billing/invoice-17/approve?link=WyJiaWxsaW5nIiw"
_ENDINGS: Final = (
    Ending(how="approved", by=("ada", "bob"), reason="Seen, and agreed"),
    Ending(how="rejected", by=("ada",), reason="Not before Friday"),
    Ending(how="skipped", by=("cleo",), reason=""),
    Ending(how="closed", by=(), reason="the plan was cancelled"),
    Ending(how="closed", by=("ada",), reason="a revision took the gate out"),
)
_AT: Final = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
_ADDRESS: Final = Address("billing", "invoice-17")
_INVOICE: Final = {"supplier": "Example Ltd", "total": "EUR 48,000.00", "due": "2026-03-06"}
_OPENED: Final = GateOpened(
    step="approve",
    round=1,
    digest=digest("a sample"),
    reviewers=("role:cfo", "person:bob"),
    quorum=2,
    prompt="Pay EUR 48,000.00 to Example Ltd?",
    shown=(Payload(value="The invoice matches order 4711."),),
    upstream=(
        Upstream(
            step="read",
            status="completed",
            agent="read-invoice",
            duration_s=4.2,
            output_sha256=digest(_INVOICE),
            output_bytes=len(canonical(_INVOICE)),
        ),
    ),
    releases=(
        Release(
            step="pay",
            kind="task",
            agent="pay-invoice",
            permissions=Permissions(network=("bank.example.com",)),
            destructive=True,
            inputs={"to": "Example Ltd", "total": "EUR 48,000.00"},
        ),
    ),
    behind=2,
    barred=(Barred(who="cleo"), Barred(who="ada", revised="pay")),
    overdue_at=_AT + timedelta(hours=4),
    escalate=(Escalation(after_s=4 * 3600.0, to=("role:board",)), Escalation(after_s=86_400.0, to=("role:audit",))),
)
_QUESTION: Final = AskOpened(
    step="how",
    round=1,
    digest=digest("a question"),
    reviewers=("role:cfo",),
    prompt="How is it to be paid?",
    options=("at once", "in parts"),
    default="at once",
    on_overdue="default",
    overdue_at=_AT + timedelta(hours=4),
)
_REVIEWS: Final = Reviews(
    chain=PlanState(address=_ADDRESS),
    name="Pay an invoice",
    goal="Suppliers are paid in time, and nobody is paid twice.",
    requester="billing",
    gates={
        "approve": Gate(
            name="approve",
            label="Approve the payment",
            reviewers=("role:cfo", "person:bob"),
            quorum=2,
            four_eyes=True,
            require_reason=True,
            optional=True,
        )
    },
    labels={"read": "Read the invoice", "pay": "Pay it"},
    behind={"approve": (("Tell the supplier", "send-mail"),)},
    outputs=Map({"read": Payload(value=_INVOICE)}),
)
