"""The routes of the review pages. GET and HEAD change nothing, and use no link up: mail scanners follow links.

Only a POST decides, with the form's own token (who was shown what), from a page of ours. Whatever is refused says so
on a page, and in the log of the service.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar, MediaType, Request, Response, get, post, route
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import ClientException, HTTPException
from litestar.types import Message, Scope
from markupsafe import Markup

from planmesh.errors import Busy, PlanmeshError
from planmesh.gatekeeper.identity import (
    FORM_LIFETIME_S,
    Door,
    Doubt,
    Form,
    Untrusted,
    Visitor,
    command_id,
    new_nonce,
)
from planmesh.gatekeeper.web import view
from planmesh.gatekeeper.web.desk import Case, Desk
from planmesh.gatekeeper.web.picture import draw
from planmesh.schemas import subjects
from planmesh.schemas.commands import ReviewGate
from planmesh.schemas.events import GateOpened
from planmesh.schemas.plan import Gate
from planmesh.schemas.state import PlanStatus
from planmesh.schemas.subjects import Address, BadToken

BODY_BYTES: Final = 256 * 1024
REASON_CHARACTERS: Final = 4_096
INSTRUCTION_CHARACTERS: Final = 20_000

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
_T = TypeVar("_T")

log = structlog.get_logger()


class Refusal(NamedTuple):
    """An honest answer to what cannot be."""

    status: int
    title: str
    text: str
    what_now: str


_ASK_AGAIN: Final = "Open the link of the latest notice, or ask whoever runs planmesh to send you another one."
_DOUBTS: Final[Mapping[Doubt, Refusal]] = {
    "forged": Refusal(
        403,
        "This link is not one of ours",
        "It is incomplete, was changed, or was signed with a key that is no longer used.",
        f"Copy the whole link from the notice. {_ASK_AGAIN}",
    ),
    "expired": Refusal(
        403,
        "This link has expired",
        "Links are good for a limited time, so that an old message in somebody's mailbox decides nothing.",
        _ASK_AGAIN,
    ),
    "other_gate": Refusal(
        403, "This link belongs to another gate", "A link is good for the one gate that it was sent for.", _ASK_AGAIN
    ),
    "other_person": Refusal(
        403,
        "This was meant for somebody else",
        "What you opened was made for another person than the one you are here.",
        "Sign out and open it again, or open the link that was sent to you.",
    ),
    "other_form": Refusal(
        403,
        "This answer did not come from the page",
        "What was sent does not carry the mark of a page that we have shown. Nothing was decided.",
        "Open the page again and answer there.",
    ),
    "not_the_proxy": Refusal(
        403,
        "We cannot tell who you are",
        "The request names a user, and does not come from where people sign in. Nothing was decided.",
        "Open the pages by their usual address.",
    ),
    "unknown": Refusal(
        403,
        "We do not know you",
        "You have shown who you are, and nobody of that name is in the directory of this mesh.",
        "Ask whoever runs planmesh to add you to the directory.",
    ),
}
_NOT_FOUND: Final = Refusal(
    404, "There is no such page", "Nothing is known under this address.", "Open the link of a notice, or your inbox."
)
_NO_GATE: Final = Refusal(
    404,
    "There is no such gate",
    "The plan is not known, or a revision has taken the gate out of it.",
    "Open your inbox.",
)
_NOT_ASKED: Final = Refusal(
    403,
    "You are not asked here",
    "You are known, and not among the reviewers of this gate.",
    "If you should be, ask whoever wrote the plan to name you.",
)
_CROSS_SITE: Final = Refusal(
    403,
    "This answer came from another site",
    "Only the page itself can send an answer. Nothing was decided.",
    "Open the page again, over HTTPS if it is not on this machine, and answer there.",
)
_TOO_LARGE: Final = Refusal(
    413,
    "That is too long",
    f"A comment has at most {REASON_CHARACTERS:,} characters, an instruction "
    f"{INSTRUCTION_CHARACTERS:,}. Nothing was decided.",
    "Go back and shorten it.",
)
_BUSY: Final = Refusal(
    503,
    "We cannot read the plan now",
    "The mesh does not answer. Nothing is lost, and the gate stays closed.",
    "Try again in a minute.",
)
_UNCLEAR: Final = Refusal(
    503,
    "We do not know yet",
    "Your answer could not be confirmed in time. It may still count.",
    "Open the page again: it says what was decided. Answering once more does no harm.",
)
_BUG: Final = Refusal(500, "Something is wrong on our side", "The page could not be made.", "Try again in a minute.")

_REFUSED: Final[Mapping[str, str]] = {
    "stale": "What it would release has changed since you read it. Nothing was decided. Below is what it asks now.",
    "not_open": "Somebody was faster: the gate does not ask any more. Your answer changed nothing.",
    "ended": "The plan has ended. Your answer changed nothing.",
    "unknown_step": "The plan was revised, and no longer has this gate. Your answer changed nothing.",
    "voted_already": "You have approved already. Each person counts once.",
    "four_eyes": "Whoever requested a plan cannot approve it.",
    "not_a_reviewer": "You are not among the reviewers any more.",
    "level": "This gate takes the answer of people who have signed in.",
    "reason_required": "Rejecting this gate takes a reason.",
}


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
        self._templates.filters |= {"moment": view.moment, "iso": lambda at: at.astimezone(UTC).isoformat()}
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

        return [show, decide, inbox, root, style, icon]

    # --- a gate ----------------------------------------------------------------------------------------

    async def show(self, request: _Ask) -> Response[str]:
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        return await self._page(request, await self._case(address, step, visitor), step, visitor)

    async def decide(self, request: _Ask) -> Response[str]:
        if not self._door.is_ours(request.headers):
            return self._refuse(_CROSS_SITE, request, doubt="cross_site")
        address, step, visitor = self._enter(request)
        if visitor is None:
            return self._sign_in()
        said = await _fields(request)
        form = self._door.keys.read_form(said.get("form", ""), address, step, visitor, self._clock())
        decision, reason = said.get("decision", ""), said.get("reason", "").strip()
        instruction = said.get("instruction", "").strip()
        if len(reason) > REASON_CHARACTERS or len(instruction) > INSTRUCTION_CHARACTERS:
            return self._refuse(_TOO_LARGE, request, person=visitor.person)
        case = await self._case(address, step, visitor)
        gate = case.state.graph.steps[step]
        problem = ""
        if decision not in ("approve", "reject", "redirect"):
            problem = "Choose an answer: approve, reject, or ask for a change."
        elif decision == "redirect" and not instruction:
            problem = "Say what should change."
        elif decision == "reject" and not reason and getattr(gate, "require_reason", False):
            problem = _REFUSED["reason_required"]
        if problem:
            return await self._page(request, case, step, visitor, status=400, problem=problem, said=said)
        command = ReviewGate(
            id=command_id(form),
            step=step,
            digest=form.digest,
            decision=decision,  # type: ignore[arg-type]  # one of the three, see above
            groups=self._door.directory.groups(visitor.person, case.state.steps[step].reviewers),
            level=visitor.level,
            instruction=instruction if decision == "redirect" else "",
            reason=reason,
        )
        try:
            case = await self._desk.answer(address, visitor.person, command)
        except Busy as error:
            return self._refuse(_UNCLEAR, request, person=visitor.person, error=str(error))
        about = {"plan": str(address), "step": step, "person": visitor.person, "level": visitor.level}
        if case.refusal is not None:
            log.warning("review.refused", **about, decision=decision, code=case.refusal.code)
            problem = _REFUSED.get(case.refusal.code, case.refusal.reason)
            if not view.is_gate(case.state, step):
                return self._refuse(_NO_GATE._replace(text=problem), request, person=visitor.person)
            return await self._page(request, case, step, visitor, status=409, problem=problem, said=said)
        log.info("review.decided", **about, decision=decision)
        # The page that follows is read by GET: loading it again answers nothing again.
        token = request.query_params.get("link", "")
        where = f"{self._door.base}/gates/{address.space}/{address.plan}/{step}"
        return Response("", status_code=303, headers={"Location": where + (f"?link={quote(token)}" if token else "")})

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
        """Raises: _Refused, where there is no such gate or it does not concern *visitor*; Busy."""
        case = await self._desk.case(address, step)
        if case.state.status in (PlanStatus.ABSENT, PlanStatus.REFUSED):
            raise _Refused(_NO_GATE if visitor.level == "link" else _NOT_ASKED)
        gate = case.state.graph.steps.get(step)
        directory = self._door.directory
        if not isinstance(gate, Gate):
            raise _Refused(_NO_GATE if visitor.level == "link" else _NOT_ASKED)
        escalated = (directory.escalate_to,) if directory.escalate_to is not None else ()
        if not directory.groups(visitor.person, (*gate.reviewers, *case.state.steps[step].also, *escalated)):
            raise _Refused(_NOT_ASKED)
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
        said: Mapping[str, str] = {},
    ) -> Response[str]:
        opened = case.state.steps[step].opened
        shown = opened.shown if isinstance(opened, GateOpened) else ()
        values = {at: await self._desk.text(payload) for at, payload in enumerate(shown[:20])}
        page = view.page(case, step, self._door.directory, visitor.person, visitor.level, values)
        form = Form(
            address=case.state.address,
            step=step,
            round=page.round,
            digest=page.digest,
            person=visitor.person,
            level=visitor.level,
            expires=int(self._clock() + FORM_LIFETIME_S),
            nonce=new_nonce(),
        )
        picture = draw(case.state, step)
        return self._render(
            "gate.html",
            status,
            visitor=visitor,
            page=page,
            problem=problem,
            said={name: said.get(name, "") for name in ("reason", "instruction")},
            picture=Markup(picture.svg),  # noqa: S704 -- `draw` escapes whatever it is given
            left_out=picture.left_out,
            form=self._door.keys.sign_form(form) if page.may_answer else "",
            action=self._action(request),
            sign_in=self._sign_in_at(f"{self._door.pages_url}/gates/{'/'.join(case.state.address)}/{step}"),
        )

    def _action(self, request: _Ask) -> str:
        token = request.query_params.get("link", "")
        return f"?link={quote(token)}" if token else "?"

    # --- an inbox --------------------------------------------------------------------------------------

    async def inbox(self, request: _Ask) -> Response[str]:
        visitor = self._door.proxy.signed_in(request.headers, self._door.directory)
        if visitor is None:
            return self._sign_in()
        answer = await self._desk.open_gates()
        items = view.inbox(answer.gates, self._door.directory, visitor.person)
        return self._render("inbox.html", 200, visitor=visitor, items=items, lag=answer.lag)

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
                return self._refuse(_DOUBTS[doubt], request, doubt=doubt)
            case _Refused(refusal=refusal):
                return self._refuse(refusal, request)
            case PlanmeshError():
                return self._refuse(_BUSY, request, error=str(error))
            case HTTPException(status_code=413):
                return self._refuse(_TOO_LARGE, request)
            case HTTPException(status_code=404):
                return self._refuse(_NOT_FOUND, None)
            case HTTPException(status_code=status) if status < 500:
                refusal = Refusal(status, "That cannot be done here", "The request is not one that a page makes.", "")
                return self._refuse(refusal, None)
        log.error("review.bug", path=request.url.path[:200], exc_info=error)
        return self._refuse(_BUG, None)

    def _refuse(self, refusal: Refusal, request: _Ask | None, **about: object) -> Response[str]:
        if request is not None:
            # Neither the query, which is a token, nor what was posted.
            log.warning("review.turned_away", why=refusal.title, path=request.url.path[:200], **about)
        return self._render("refused.html", refusal.status, visitor=None, refusal=refusal)

    def _render(self, template: str, status: int, **context: Any) -> Response[str]:
        now = datetime.fromtimestamp(self._clock(), UTC)
        text = self._templates.get_template(template).render(
            **context,
            base=self._door.base,
            called=self._door.directory.called,
            distance=partial(view.distance, now=now),
        )
        return Response(text, status_code=status, media_type=MediaType.HTML)


class _Refused(PlanmeshError):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.title)


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
