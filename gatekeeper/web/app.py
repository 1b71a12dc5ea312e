"""The routes of the review pages. GET and HEAD change nothing, and use no link up: mail scanners follow links.

Only a POST decides, with the form's own token (who was shown what), from a page of ours. Whatever is refused says so
on a page, and in the log of the service.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, quote

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar, MediaType, Request, Response, get, post, route
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import ClientException, HTTPException
from litestar.types import Message, Scope
from markupsafe import Markup

from planmesh.errors import Busy, PlanmeshError
from planmesh.gatekeeper.identity import FORM_LIFETIME_S, Door, Form, Untrusted, Visitor, command_id, new_nonce
from planmesh.gatekeeper.web import refusals, words
from planmesh.gatekeeper.web.ask import AskPage, Reading, ask_page, read_answer, refusal_of_secret
from planmesh.gatekeeper.web.desk import Case, Desk
from planmesh.gatekeeper.web.edit import Foreseen, Wrong, document_of, foreseen, refused, wrongs
from planmesh.gatekeeper.web.gate import blob_in, gate_page
from planmesh.gatekeeper.web.inbox import inbox
from planmesh.gatekeeper.web.picture import draw
from planmesh.gatekeeper.web.refusals import REFUSED, Refusal
from planmesh.gatekeeper.web.sheet import Sheet, asked, asking
from planmesh.schemas import subjects
from planmesh.schemas.commands import ReviewGate
from planmesh.schemas.events import AskOpened, CommandRefused, GateOpened, RevisionRefused
from planmesh.schemas.goals import Problem
from planmesh.schemas.payload import Payload
from planmesh.schemas.plan import Ask, Gate
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address, BadToken

BODY_BYTES: Final = 512 * 1024

_MOST_BLOBS: Final = 20
_OF_LINKS: Final = frozenset({"forged", "expired", "other_gate"})

_WORKED_OUT_S: Final = 120.0
"""How long whoever has asked for a change sees that it is being worked out, before they may answer as well."""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}

_Ask = Request[Any, Any, Any]

log = structlog.get_logger()


class Pages:
    """The handlers, and what they share."""

    def __init__(self, desk: Desk, door: Door, clock: Callable[[], float] = time.time) -> None:
        self._desk = desk
        self._door = door
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("planmesh.gatekeeper.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"moment": words.moment, "iso": lambda at: at.astimezone(UTC).isoformat()}
        self._templates.globals |= {"counted": words.counted}
        static = files("planmesh.gatekeeper.web") / "static"
        self._style, self._icon = ((static / name).read_text("utf-8") for name in ("style.css", "icon.svg"))

    def routes(self) -> list[Any]:
        read = partial(route, http_method=["GET", "HEAD"])

        @read("/gates/{space:str}/{plan:str}/{step:str}")
        async def show(request: _Ask) -> Response[str]:
            return await self.show(request)

        @post("/gates/{space:str}/{plan:str}/{step:str}")
        async def decide(request: _Ask) -> Response[str]:
            return await self.decide(request)

        @read("/gates/{space:str}/{plan:str}/{step:str}/edit")
        async def edit(request: _Ask) -> Response[str]:
            return await self.edit(request)

        @post("/gates/{space:str}/{plan:str}/{step:str}/edit")
        async def redirect(request: _Ask) -> Response[str]:
            return await self.redirect(request)

        @read("/inbox")
        async def inbox(request: _Ask) -> Response[str]:
            return await self.inbox(request)

        @read("/")
        async def root() -> Response[str]:
            return Response("", status_code=303, headers={"Location": f"{self._door.base}/inbox"})

        @get("/style.css", media_type="text/css; charset=utf-8")
        async def style() -> str:
            return self._style

        @get("/icon.svg", media_type="image/svg+xml")
        async def icon() -> str:
            return self._icon

        return [show, decide, edit, redirect, inbox, root, style, icon]

    # --- a gate, or an ask -------------------------------------------------------------------------------

    async def show(self, request: _Ask) -> Response[str]:
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        return await self._page(request, await self._case(address, step, visitor), step, visitor)

    async def decide(self, request: _Ask) -> Response[str]:
        if not self._door.is_ours(request.headers):
            return self._refuse(refusals.CROSS_SITE, request, doubt="cross_site")
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        said = await _fields(request)
        form = self._door.keys.read_form(said.get("form", ""), address, step, visitor, self._clock())
        reason, instruction = said.get("reason", "").strip(), said.get("instruction", "").strip()
        if len(reason) > refusals.REASON_CHARACTERS or len(instruction) > refusals.INSTRUCTION_CHARACTERS:
            return self._refuse(refusals.TOO_LARGE, request, person=visitor.person)
        case = await self._case(address, step, visitor)
        found = asking(case.state, step)
        problem = wrong = ""
        value: Any = None
        secret: str | None = None
        decision = said.get("decision", "")
        if isinstance(found, Ask):
            decision = "answer"
            reading = await self._read(case, step, visitor, form, said)
            if reading is not None:
                value, wrong = reading.value, reading.problem
                secret = reading.secret
                problem = "Nothing was sent: there is no answer yet." if reading.is_empty else ""
        elif decision not in ("approve", "reject", "redirect"):
            problem = "Choose an answer: approve, reject, or ask for a change."
        elif decision == "redirect" and not instruction:
            problem, wrong = "Nothing was sent.", "Say what should change."
        elif decision == "reject" and not reason and isinstance(found, Gate) and found.require_reason:
            problem, wrong = "Nothing was sent.", REFUSED["reason_required"]
        if problem:
            return await self._page(request, case, step, visitor, status=400, problem=problem, wrong=wrong, said=said)
        command = ReviewGate(
            id=command_id(form),
            step=step,
            digest=form.digest,
            decision=decision,  # type: ignore[arg-type]  # one of the four, see above
            groups=self._door.directory.groups(visitor.person, case.state.steps[step].reviewers),
            level=visitor.level,
            instruction=instruction if decision == "redirect" else "",
            value=value,
            secret=secret,
            reason=reason,
        )
        return await self._send(request, address, visitor, command, said, wrong)

    async def _read(self, case: Case, step: str, visitor: Visitor, form: Form, said: dict[str, str]) -> Reading | None:
        """What the form of an ask says; None if it does not ask. A secret is no part of *said* any more, and is stored
        if it can be the answer: else one form, sent again and again, would fill the room for everybody's.

        The forms have fields of different names: what was entered as a secret is never sent as a value, whatever the
        question has become meanwhile.

        Raises:
            Busy: It could not be stored; nothing was answered.
        """
        entered, opened = said.pop("secret", ""), case.state.steps[step].opened
        if not isinstance(opened, AskOpened):
            return None
        if not opened.secret:
            return read_answer(opened, said.get("value", ""))
        if problem := refusal_of_secret(entered):
            return Reading(None, problem, is_empty=True)
        page = ask_page(case, step, self._door.directory, visitor.person, visitor.level)
        if form.digest != opened.digest or not page.may_answer:
            return Reading(None)  # which is refused: by now it is an answer to another question, or to none of theirs
        return Reading(None, secret=await self._desk.keep(case.state.address, step, visitor.person, entered))

    async def _send(
        self,
        request: _Ask,
        address: Address,
        visitor: Visitor,
        command: ReviewGate,
        said: Mapping[str, str],
        wrong: str = "",
    ) -> Response[str]:
        """Have *command* judged, and say what has become of it.

        Args:
            wrong: What is wrong with the answer, for whoever gave it.
        """
        step = command.step
        try:
            case = await self._desk.answer(address, visitor.person, command)
        except Busy as error:
            return self._refuse(refusals.UNCLEAR, request, person=visitor.person, error=str(error))
        about = {"plan": str(address), "step": step, "person": visitor.person, "level": visitor.level}
        if case.refusal is not None:
            log.warning("review.refused", **about, decision=command.decision, code=case.refusal.code)
            problem = REFUSED.get(case.refusal.code, case.refusal.reason)
            if asking(case.state, step) is None:
                return self._refuse(refusals.NO_GATE._replace(text=problem), request, person=visitor.person)
            if case.refusal.code == "invalid_answer":
                wrong = wrong or problem
                problem = "Your answer could not be taken."
                return await self._page(
                    request, case, step, visitor, status=400, problem=problem, wrong=wrong, said=said
                )
            return await self._page(request, case, step, visitor, status=409, problem=problem, said=said)
        log.info("review.decided", **about, decision=command.decision)
        # The page that follows is read by GET: loading it again answers nothing again.
        return Response("", status_code=303, headers={"Location": self._where(request, address, step)})

    def _enter(self, request: _Ask) -> tuple[Address, str, Visitor | None]:
        """The gate that is asked for, and who asks. Raises: HTTPException, Untrusted."""
        named = request.path_params
        try:
            address = subjects.address(named["space"], named["plan"])
            step = subjects.token("step", named["step"])
        except BadToken as error:
            raise ClientException(status_code=404) from error
        token = request.query_params.get("link", "")
        return address, step, self._door.visitor(request.headers, token, address, step, self._clock())

    async def _case(self, address: Address, step: str, visitor: Visitor) -> Case:
        """Raises: _Refused, where there is nothing of that name or it does not concern *visitor*; Busy."""
        case = await self._desk.case(address, step)
        if case.state.status in (PlanStatus.ABSENT, PlanStatus.REFUSED) or asking(case.state, step) is None:
            raise _Refused(refusals.NO_GATE if visitor.level == "link" else refusals.NOT_ASKED)
        directory = self._door.directory
        escalated = (directory.escalate_to,) if directory.escalate_to is not None else ()
        if not directory.groups(visitor.person, (*asked(case.state, step), *escalated)):
            raise _Refused(refusals.NOT_ASKED)
        return case

    async def _page(
        self,
        request: _Ask,
        case: Case,
        step: str,
        visitor: Visitor,
        *,
        status: int = 200,
        problem: str = "",
        wrong: str = "",
        said: Mapping[str, str] = {},
    ) -> Response[str]:
        """The page of a gate or an ask.

        Args:
            problem: What is wrong with what was sent.
            wrong: The same, where it is about what was written into the form, and is said there.
            said: What the form said.
        """
        opened = case.state.steps[step].opened
        directory, person, level = self._door.directory, visitor.person, visitor.level
        page: Sheet
        if isinstance(asking(case.state, step), Ask):
            template = "ask.html"
            page = ask_page(case, step, directory, person, level, {} if status == 409 else said)
        else:
            template = "gate.html"
            shown = opened.shown if isinstance(opened, GateOpened) else ()
            values = {at: await self._desk.text(payload) for at, payload in enumerate(shown[:20])}
            page = gate_page(case, step, directory, person, level, values, await self._blobs(opened))
        picture = draw(case.state, step)
        mine = page.pending if page.pending is not None and page.pending.is_own else None
        is_worked_out = mine is not None and self._clock() - mine.at.timestamp() < _WORKED_OUT_S
        return self._render(
            template,
            status,
            visitor=visitor,
            page=page,
            problem=problem,
            wrong=wrong,
            said={name: said.get(name, "") for name in ("reason", "instruction")} | {"decision": _decision(page, said)},
            picture=Markup(picture.svg),  # noqa: S704 -- `draw` escapes whatever it is given
            listed=picture.steps,
            left_out=picture.left_out,
            is_worked_out=is_worked_out,
            edit=self._edit(request, case.state.address, step),
            form=self._form(case, page, visitor) if page.may_answer and not is_worked_out else "",
            action=_link(request) or "?",
            here=self._where(request, case.state.address, step),
            sign_in=self._sign_in_at(f"{self._door.pages_url}/gates/{'/'.join(case.state.address)}/{step}"),
        )

    async def _blobs(self, opened: object) -> dict[str, object]:
        """The large values that what a gate releases is given, as far as a page shows them."""
        releases = opened.releases if isinstance(opened, GateOpened) else ()
        found = [blob for one in releases for value in one.inputs.values() if (blob := blob_in(value)) is not None]
        values = {blob.sha256: await self._desk.text(Payload(blob=blob)) for blob in found[:_MOST_BLOBS]}
        return {name: value for name, value in values.items() if not isinstance(value, Payload)}

    def _form(self, case: Case, page: Sheet, visitor: Visitor, revision: int = 0) -> str:
        return self._door.keys.sign_form(
            Form(
                address=case.state.address,
                step=page.step,
                round=page.round,
                digest=page.digest,
                person=visitor.person,
                level=visitor.level,
                expires=int(self._clock() + FORM_LIFETIME_S),
                nonce=new_nonce(),
                revision=revision,
            )
        )

    def _edit(self, request: _Ask, address: Address, step: str) -> str:
        return f"{self._door.base}/gates/{address.space}/{address.plan}/{step}/edit{_link(request)}"

    def _where(self, request: _Ask, address: Address, step: str) -> str:
        return f"{self._door.base}/gates/{address.space}/{address.plan}/{step}{_link(request)}"

    # --- what comes next, edited ---------------------------------------------------------------------------

    async def edit(self, request: _Ask) -> Response[str]:
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        case = await self._case(address, step, visitor)
        return self._editor(request, case, step, visitor, document_of(case.state, step, refusals.DOCUMENT_CHARACTERS))

    async def redirect(self, request: _Ask) -> Response[str]:
        """Show what the edited steps would change; or, if that has been seen, send them."""
        if not self._door.is_ours(request.headers):
            return self._refuse(refusals.CROSS_SITE, request, doubt="cross_site")
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        said = await _fields(request)
        form = self._door.keys.read_form(said.get("form", ""), address, step, visitor, self._clock())
        document, reason = said.get("document", ""), said.get("reason", "").strip()
        if len(document) > refusals.DOCUMENT_CHARACTERS or len(reason) > refusals.REASON_CHARACTERS:
            return self._refuse(refusals.TOO_LARGE, request, person=visitor.person)
        case = await self._case(address, step, visitor)
        editor = partial(self._editor, request, case, step, visitor, document, reason=reason)
        if not form.revision or not document.strip():
            return editor(status=400, problem="There are no steps in it. Nothing was sent.")
        if form.revision != case.state.revision:
            return editor(status=409, problem="The plan was revised while you wrote. Nothing was sent: look again.")
        command = ReviewGate(
            id=command_id(form),
            step=step,
            digest=form.digest,
            decision="redirect",
            groups=self._door.directory.groups(visitor.person, case.state.steps[step].reviewers),
            level=visitor.level,
            document=document,
            base=form.revision,
            reason=reason,
        )
        try:
            answer = await self._desk.preview(address, visitor.person, command)
        except PlanmeshError as error:
            log.warning("review.no_preview", plan=str(address), step=step, error=str(error))
            said_so = "What this would change cannot be worked out now. Nothing was sent: try again in a minute."
            return editor(status=503, problem=said_so)
        if answer.number != case.state.number:
            case = await self._case(address, step, visitor)
            editor = partial(self._editor, request, case, step, visitor, document, reason=reason)
        match refused(answer.events, command.id):
            case RevisionRefused(problems=(Problem(code="nothing_to_change"),)):
                return editor(problem="This changes nothing: the steps are as they were. Nothing was sent.")
            case RevisionRefused(problems=problems):
                return editor(status=400, wrong=wrongs(problems, document))
            case CommandRefused(code=code, reason=why):
                return editor(status=409, problem=REFUSED.get(code, why))
        if answer.number != case.state.number:
            return editor(status=409, problem="The plan went on while this was worked out. Look again.")
        seen = foreseen(case.state, answer)
        has_seen = said.get("seen") == _digest(document)
        if said.get("decision") != "send" or not has_seen:
            return editor(seen=seen)
        return await self._send(request, address, visitor, command, {})

    def _editor(
        self,
        request: _Ask,
        case: Case,
        step: str,
        visitor: Visitor,
        document: str | None,
        *,
        reason: str = "",
        status: int = 200,
        problem: str = "",
        wrong: tuple[Wrong, ...] = (),
        seen: Foreseen | None = None,
    ) -> Response[str]:
        if not isinstance(asking(case.state, step), Gate):
            raise _Refused(refusals.NO_GATE)
        page = gate_page(case, step, self._door.directory, visitor.person, visitor.level, {})
        why_not = page.why_not or ("Sign in to edit this." if page.needs_level else page.verdict.title)
        may_edit = page.may_answer
        if document is None:
            document = ""
            may_edit, why_not = False, "There is too much to come for a page: use `planmesh redirect` with a file."
        return self._render(
            "edit.html",
            status,
            visitor=visitor,
            page=page,
            problem=problem,
            wrongs=wrong,
            seen=seen,
            seen_digest=_digest(document) if seen is not None else "",
            document=document,
            rows=min(max(document.count("\n") + 2, 12), 40),
            reason=reason,
            form=self._form(case, page, visitor, case.state.revision) if may_edit else "",
            why_not=why_not,
            action=_link(request) or "?",
            here=self._where(request, case.state.address, step),
        )

    # --- an inbox --------------------------------------------------------------------------------------

    async def inbox(self, request: _Ask) -> Response[str]:
        visitor = self._door.proxy.signed_in(request.headers, self._door.directory)
        if visitor is None:
            return self._sign_in()
        answer = await self._desk.open_gates()
        page = request.query_params.get("page", "1")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 6 else 1
        found = inbox(answer.gates, self._door.directory, visitor.person, number)
        return self._render("inbox.html", 200, visitor=visitor, inbox=found, lag=answer.lag)

    # --- answers that are none -------------------------------------------------------------------------

    def _sign_in(self) -> Response[str]:
        where = self._sign_in_at(f"{self._door.pages_url}/inbox")
        return self._render("sign_in.html", 401, visitor=None, where=where)

    def _sign_in_at(self, page: str) -> str:
        """Where to sign in to see *page*; empty if nobody can."""
        return (self._door.sign_in_url or page) if self._door.proxy.secret else ""

    def refused(self, request: _Ask, error: Exception) -> Response[str]:
        """The page for *error*."""
        match error:
            case Untrusted(doubt=doubt):
                # Whoever has an account need not wait for another link.
                where = self._sign_in_at(f"{self._door.pages_url}/inbox") if doubt in _OF_LINKS else ""
                return self._refuse(refusals.DOUBTS[doubt], request, where, doubt=doubt)
            case _Refused(refusal=refusal):
                return self._refuse(refusal, request)
            case PlanmeshError():
                return self._refuse(refusals.BUSY, request, error=str(error))
            case HTTPException(status_code=413):
                return self._refuse(refusals.TOO_LARGE, request)
            case HTTPException(status_code=404):
                return self._refuse(refusals.NOT_FOUND, None)
            case HTTPException(status_code=status) if status < 500:
                refusal = Refusal(status, "That cannot be done here", "The request is not one that a page makes.", "")
                return self._refuse(refusal, None)
        log.error("review.bug", path=request.url.path[:200], exc_info=error)
        return self._refuse(refusals.BUG, None)

    def _refuse(self, refusal: Refusal, request: _Ask | None, where: str = "", /, **about: object) -> Response[str]:
        """A page that says no. Args: where: Where to sign in instead."""
        if request is not None:
            # Neither the query, which is a token, nor what was posted.
            log.warning("review.turned_away", why=refusal.title, path=request.url.path[:200], **about)
        return self._render("refused.html", refusal.status, visitor=None, refusal=refusal, where=where)

    def _render(self, template: str, status: int, **context: Any) -> Response[str]:
        now = datetime.fromtimestamp(self._clock(), UTC)
        text = self._templates.get_template(template).render(
            **context,
            base=self._door.base,
            called=self._door.directory.called,
            distance=partial(words.distance, now=now),
        )
        return Response(text, status_code=status, media_type=MediaType.HTML)


class _Refused(PlanmeshError):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.title)


def _link(request: _Ask) -> str:
    """The query of the page that *request* asks for, as far as it says who they are."""
    token = request.query_params.get("link", "")
    return f"?link={quote(token)}" if token else ""


def _decision(page: Sheet, said: Mapping[str, str]) -> str:
    return "answer" if isinstance(page, AskPage) else said.get("decision", "")


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


async def _fields(request: _Ask) -> dict[str, str]:
    """What a form has said. Raises: HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise ClientException(status_code=415)
    try:
        found = parse_qs(
            (await request.body()).decode("utf-8"), keep_blank_values=True, max_num_fields=20, encoding="utf-8"
        )
    except ValueError as error:
        raise ClientException(status_code=400) from error
    return {name: values[0].replace("\r\n", "\n").replace("\0", "") for name, values in found.items()}


def create_app(desk: Desk, door: Door, clock: Callable[[], float] = time.time) -> Litestar:
    """The application of the review pages."""
    pages = Pages(desk, door, clock)

    async def with_headers(message: Message, scope: Scope) -> None:
        if message["type"] == "http.response.start":
            headers = MutableScopeHeaders.from_message(message)
            for name, value in _HEADERS.items():
                headers[name] = value

    return Litestar(
        pages.routes(),
        before_send=[with_headers],
        exception_handlers={Exception: pages.refused},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=BODY_BYTES,
    )
