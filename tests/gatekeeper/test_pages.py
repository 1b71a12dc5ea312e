"""The review pages over real HTTP, with a real server and a real log behind them."""

import asyncio
import re
import time
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import HERE, NASTY, Site, signed_in
from patience import eventually
from plays import gate, plan, task
from receivers import WebReceiver
from reviews import Clerk, connected
from structlog.testing import capture_logs

from planmesh.auditor.service import audit
from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Form, Keys, Link
from planmesh.gatekeeper.notify import open_channels
from planmesh.gatekeeper.reach import Links, Reach
from planmesh.gatekeeper.service import Gatekeeper
from planmesh.schemas import commands as asks
from planmesh.schemas.events import CommandRefused, GateApproved, GateRejected, RevisionRequested, VoteCast
from planmesh.schemas.plan import Escalation, Plan, Share
from planmesh.schemas.subjects import Address
from planmesh.testing import MeshServer


def asking(**fields: Any) -> Plan:
    rules = {"reviewers": ("team:finance",), "prompt": "Pay?", **fields}
    pay = task("pay", "ok", inputs={"total": "{before.total}", "note": "{before.note}"}, destructive=True)
    thank = task("thank", "ok", "pay", inputs={"receipt": "{pay.receipt}"})
    return plan(task("before"), gate("ok", "before", **rules), pay, thank)


async def opened(clerk: Clerk, address: Address = HERE, **fields: Any) -> None:
    await clerk.create(address, asking(**fields))
    await clerk.complete(address, "before", {"total": "EUR 48", "note": NASTY})


# --- reading -----------------------------------------------------------------------------------------------


async def test_a_reviewer_reads_what_is_asked_and_what_would_start(site: Site, clerk: Clerk) -> None:
    await opened(clerk)

    status, text = await site.read(site.link())

    assert status == 200
    for said in ("Pay?", "Ada Lovelace", "by the agent agent", "EUR 48", "the team finance", "Your decision", "<svg"):
        assert said in text
    assert 'class="node waiting here"' in text
    assert "not known yet: pay has to run first" in text
    assert text.count("This cannot be undone.") == 1
    assert "exactly as shown. <b>pay cannot be undone.</b>" in text


async def test_nothing_that_strangers_wrote_becomes_markup_or_hides_text(site: Site, clerk: Clerk) -> None:
    await opened(clerk, prompt=f"{NASTY} {{before.note}}", label="<b>bold</b>")

    raw = (await site.http.get(site.link("dan"))).text

    assert "<script" not in raw
    assert "<b>bold" not in raw
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in raw
    assert not set("\u202e\x1b") & set(raw)


async def test_pages_are_private_and_load_nothing_from_elsewhere(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    for path in (site.link(), site.path(), "/inbox", "/nothing", site.link() + "x"):
        answer = await site.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.findall(r'<(?:link|img|iframe|object)[^>]+(?:src|href)="([^"]*)"', answer.text) == [
            "/icon.svg",
            "/style.css",
        ]
        assert "<script" not in answer.text
        assert " style=" not in answer.text


async def test_reading_a_link_changes_nothing_and_does_not_use_it_up(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    before = await site.events()

    await asyncio.gather(*(site.http.request(verb, site.link()) for verb in ("GET", "HEAD") for _ in range(50)))
    for verb in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert (await site.http.request(verb, site.link())).status_code in (204, 405)

    assert await site.events() == before
    assert (await site.read(site.link()))[0] == 200


# --- deciding ----------------------------------------------------------------------------------------------


async def test_an_approval_is_in_the_log_and_on_the_page(site: Site, clerk: Clerk) -> None:
    await opened(clerk)

    status, text = await site.answer(site.link(), "approve", reason="checked\r\ntwice")

    assert status == 200
    assert "Approved by Ada Lovelace" in text
    assert "checked\ntwice" in text
    assert 'name="form"' not in text
    (vote,) = (event for event in await site.events() if isinstance(event, VoteCast))
    assert (vote.by, vote.level, vote.groups, vote.reason) == ("ada", "link", ("team:finance",), "checked\ntwice")
    assert any(isinstance(event, GateApproved) for event in await site.events())


async def test_a_rejection_that_needs_a_reason_asks_for_it_and_keeps_what_was_written(site: Site, clerk: Clerk) -> None:
    await opened(clerk, require_reason=True)

    status, text = await site.answer(site.link(), "reject", reason="  ", instruction="pay half")
    assert status == 400
    assert "takes a reason" in text
    assert "pay half</textarea>" in text
    _, text = await site.answer(site.link(), "reject", reason="too much")

    assert "Rejected by Ada Lovelace" in text
    (rejected,) = (event for event in await site.events() if isinstance(event, GateRejected))
    assert rejected.reason == "too much"


async def test_a_change_is_asked_for_in_words(site: Site, clerk: Clerk) -> None:
    await opened(clerk)

    assert (await site.answer(site.link(), "redirect", instruction=" "))[0] == 400
    status, text = await site.answer(site.link(), "redirect", instruction="pay half")

    assert status == 200
    assert "Ada Lovelace</b> asked for a change" in text
    (asked,) = (event for event in await site.events() if isinstance(event, RevisionRequested))
    assert (asked.by, asked.instruction) == ("ada", "pay half")


async def test_a_quorum_takes_people_who_have_signed_in(site: Site, clerk: Clerk) -> None:
    await opened(clerk, quorum=2)
    _, text = await site.read(site.link())
    assert "Sign in to answer." in text
    assert 'name="form"' not in text

    forged = Form(HERE, "ok", 1, "x", "ada", "link", int(time.time()) + 9, "n")
    refused = await site.post(site.link(), form=site.keys.sign_form(forged), decision="approve")
    assert refused.status_code == 409
    for person in ("ada@example.org", "bob"):
        form = await site.form(site.path(), **signed_in(person))
        answer = await site.post(site.path(), form=form, headers=signed_in(person), decision="approve")
        assert answer.status_code == 303
        if person != "bob":
            text = (await site.read(site.path(), **signed_in(person)))[1]
            assert "You have approved. Others have to as well: 1 more approval from anybody who is asked." in text

    votes = [(one.by, one.level) for one in await site.events() if isinstance(one, VoteCast)]
    assert votes == [("ada", "login"), ("bob", "login")]


async def test_who_has_approved_and_who_has_to_yet_is_said_share_by_share(site: Site, clerk: Clerk) -> None:
    shares = (Share(of="team:finance"), Share(of="role:cfo"))
    await opened(clerk, reviewers=("team:finance", "role:cfo"), quorum=3, shares=shares)
    _, text = await site.read(site.path(), **signed_in("cleo"))
    assert "0 of 3</b> have approved" in text
    form = await site.form(site.path(), **signed_in("ada"))
    answer = await site.post(
        site.path(), form=form, headers=signed_in("ada"), decision="approve", reason="all of it matches"
    )
    assert answer.status_code == 303

    _, text = await site.read(site.path(), **signed_in("cleo"))

    assert "1 of 3</b> have approved" in text
    assert "<b>Ada Lovelace</b>" in text
    assert "all of it matches" in text
    assert re.findall(r"<li>([^<]*)</li>", text) == [
        "1 approval from the cfo (cleo)",
        "1 more approval from anybody who is asked",
    ]


async def test_whoever_requested_a_plan_that_takes_four_eyes_can_only_reject_it(site: Site, clerk: Clerk) -> None:
    mine = Address("ada", "mine")
    await opened(clerk, mine, four_eyes=True)

    _, text = await site.read(site.path(address=mine), **signed_in("ada"))

    assert "somebody else has to approve it" in text
    assert 'value="approve"' not in text
    assert 'value="reject"' in text
    assert 'value="approve"' in (await site.read(site.path(address=mine), **signed_in("bob")))[1]


async def test_whoever_was_the_last_to_revise_it_is_told_before_they_would_be_refused(site: Site, clerk: Clerk) -> None:
    await opened(clerk, four_eyes=True, reviewers=("person:ada", "person:bob"))
    await revised(clerk, "ada", asking(four_eyes=True, reviewers=("person:ada", "person:bob"), prompt="Pay less?"))

    _, to_ada = await site.read(site.path(), **signed_in("ada"))
    _, to_bob = await site.read(site.path(), **signed_in("bob"))

    assert "You were the last to revise ok, so somebody else has to approve it" in to_ada
    assert 'value="approve"' not in to_ada
    assert "tester, who asked for this plan" in to_ada
    assert "Ada Lovelace, who was the last to revise ok" in to_bob
    assert 'value="approve"' in to_bob
    assert "who is asked may approve" not in to_bob


async def test_a_gate_that_nobody_who_is_asked_may_approve_says_so(site: Site, clerk: Clerk) -> None:
    only_ada = {"four_eyes": True, "reviewers": ("person:ada",)}
    await opened(clerk, **only_ada)
    await revised(clerk, "ada", asking(**only_ada, prompt="Pay less?"))

    _, text = await site.read(site.path(), **signed_in("ada"))

    assert "Nobody who is asked may approve this. It can be rejected or changed" in text


async def revised(clerk: Clerk, by: str, plan: Plan) -> None:
    request = clerk.id()
    await clerk.ask(HERE, asks.RevisePlan(id=request, base=1, document={}), by)
    await clerk.ask(HERE, asks.ProposeRevision(id=clerk.id(), request=request, plan=plan), "planner")


async def test_whoever_is_asked_later_is_named_beforehand(site: Site, clerk: Clerk) -> None:
    await opened(clerk, escalate=(Escalation(after_s=3_600.0, to=("role:cfo",)),))

    _, text = await site.read(site.link())

    assert re.search(
        r"The gate stays closed\. Waiting never opens it\.\s+From .* on, the cfo \(cleo\) may answer", text
    )


async def test_a_rejection_is_shown_with_its_reason_and_what_it_has_kept_from_starting(
    site: Site, clerk: Clerk
) -> None:
    rest = (task("pay", "ok"), task("thank", "pay"), task("file", "thank"))
    await clerk.create(HERE, plan(gate("ok", reviewers=("team:finance",)), *rest))
    assert "And 2 more steps behind that: thank, file" in (await site.read(site.link()))[1]

    _, text = await site.answer(site.link(), "reject", reason="Too dear")

    verdict = text[text.index('id="verdict"') : text.index('id="asked"')]
    assert "Rejected by Ada Lovelace" in verdict
    assert "Too dear" in verdict
    assert "What an approval would have started" in text


async def test_an_escalated_gate_says_so_to_everybody_and_takes_the_answer_of_whom_it_names(
    site: Site, clerk: Clerk
) -> None:
    await opened(clerk, sla_s=60.0, escalate=(Escalation(after_s=60.0, to=("role:cfo",)),))
    assert "Escalated" not in (await site.read(site.link()))[1]
    await clerk.overdue(HERE, "ok")
    due = asks.TimerDue(id="t", step="ok", attempt=1, purpose="escalate", level=1)
    await clerk.ask(HERE, due, "executor")

    for person in ("ada", "cleo"):
        _, text = await site.read(site.link(person))
        assert "Overdue" in text
        assert "the cfo (cleo) may answer as well" in text
        assert 'name="form"' in text

    assert "Approved by cleo" in (await site.answer(site.link("cleo"), "approve"))[1]


async def test_a_change_that_is_being_worked_out_says_so(site: Site, clerk: Clerk) -> None:
    await opened(clerk)

    _, text = await site.answer(site.link(), "redirect", instruction="pay half")
    _, others = await site.read(site.link("bob"))

    assert "Your change is being worked out" in text
    assert "pay half" in text
    assert 'http-equiv="refresh"' in text
    assert 'name="form"' not in text
    assert "A change is being worked out" in others
    assert 'name="form"' in others
    assert "refresh" not in others


async def test_two_answers_at_once_are_one_decision_and_a_form_sent_twice_is_one_answer(
    site: Site, clerk: Clerk
) -> None:
    await opened(clerk)
    adas, bobs = await site.form(site.link()), await site.form(site.link("bob"))

    answers = await asyncio.gather(
        site.post(site.link(), form=adas, decision="approve"),
        site.post(site.link(), form=adas, decision="approve"),
        site.post(site.link("bob"), form=bobs, decision="reject", reason="no"),
    )

    found = await site.events()
    assert sum(isinstance(event, GateApproved | GateRejected) for event in found) == 1
    assert sum(isinstance(event, CommandRefused) for event in found) == 1
    assert sorted(answer.status_code for answer in answers) in ([303, 303, 409], [303, 409, 409])
    assert "Somebody was faster" in next(answer.text for answer in answers if answer.status_code == 409)


# --- refusing ----------------------------------------------------------------------------------------------


async def refused(site: Site, answer: Any, status: int, said: str) -> None:
    assert answer.status_code == status
    assert said in unescape(answer.text)
    events = await site.events()
    assert not any(isinstance(event, VoteCast | GateRejected | CommandRefused) for event in events)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("forged", "not one of ours"),
        ("rotated out", "not one of ours"),
        ("nonsense", "not one of ours"),
        ("expired", "has expired"),
        ("other gate", "another gate"),
        ("gone", "We do not know you"),
    ],
)
async def test_a_link_that_is_not_good_is_refused_and_only_our_own_log_grows(
    site: Site, clerk: Clerk, how: str, said: str
) -> None:
    await opened(clerk)
    good = site.link()
    token = Link(HERE, "ok", "ada", int(time.time()) + 60)
    where = {
        "forged": good[:-6] + "AAAAAA",
        "rotated out": f"{site.path()}?link={Keys(['r' * 32]).sign_link(token)}",
        "nonsense": f"{site.path()}?link=%00%ff..%2f" + "x" * 5_000,
        "expired": site.link(expires_in_s=-1),
        "other gate": f"{site.path()}?link={site.link(step='other').partition('link=')[2]}",
        "gone": site.link("eve"),
    }[how]
    form = await site.form(good)

    with capture_logs() as lines:
        await refused(site, await site.http.get(where), 403, said)
        await refused(site, await site.post(where, form=form, decision="approve"), 403, said)

    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["review.turned_away"] * 2
    assert "link=" not in str(lines)


async def test_a_form_counts_only_for_whom_and_for_what_it_was_shown(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    other = Address("tester", "other")
    await opened(clerk, other)
    adas = await site.form(site.link())

    await refused(site, await site.post(site.link("bob"), form=adas, decision="approve"), 403, "somebody else")
    answer = await site.post(site.link(address=other), form=adas, decision="approve")
    await refused(site, answer, 403, "another gate")
    await refused(site, await site.post(site.link(), form="", decision="approve"), 403, "did not come from the page")
    await refused(site, await site.post(site.link(), form=adas, decision="drop table"), 400, "Choose an answer")
    as_ada = await site.post(site.link(), form=adas, decision="approve", headers=signed_in("ada"))
    await refused(site, as_ada, 403, "somebody else")


async def test_whoever_has_an_account_may_sign_in_where_a_link_is_no_good(site: Site, clerk: Clerk) -> None:
    await opened(clerk)

    _, text = await site.read(site.link(expires_in_s=-1))

    assert f'href="{site.url}/inbox">Sign in instead' in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    ],
)
async def test_another_site_cannot_post(site: Site, clerk: Clerk, headers: dict[str, str]) -> None:
    await opened(clerk)
    form = await site.form(site.link())

    answer = await site.post(site.link(), form=form, decision="approve", headers=headers)

    await refused(site, answer, 403, "another site")


async def test_a_header_that_the_proxy_did_not_set_is_refused(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    for proof in ("", "wrong", "s" * 31):
        headers = {"X-User": "ada", "X-Proof": proof}
        await refused(site, await site.http.get(site.path(), headers=headers), 403, "cannot tell who you are")
        await refused(site, await site.http.get("/inbox", headers=headers), 403, "cannot tell who you are")
    unknown = await site.http.get(site.path(), headers=signed_in("eve@example.org"))
    await refused(site, unknown, 403, "We do not know you")


async def test_whoever_is_not_asked_learns_nothing(site: Site, clerk: Clerk) -> None:
    await opened(clerk, reviewers=("person:bob",))

    for path in (site.path(), "/gates/tester/no-plan/ok", site.path("before"), site.path("no-step")):
        answer = await site.http.get(path, headers=signed_in("ada"))
        assert (answer.status_code, "You are not asked here" in answer.text) == (403, True)
        assert (await site.http.get(path)).status_code == 401
    escalated = await site.http.get(site.path(), headers=signed_in("cleo"))
    assert escalated.status_code == 200
    assert 'name="form"' not in escalated.text


async def test_a_storm_of_visits_by_bots_changes_nothing_and_leaves_room_for_an_answer(
    site: Site, clerk: Clerk
) -> None:
    await opened(clerk)
    before = await site.events()
    form = await site.form(site.link())
    forged, good, nothing = site.path() + "?link=x", site.link(), site.path(step="none")
    limits = httpx.Limits(max_connections=400)
    async with httpx.AsyncClient(base_url=site.url, limits=limits, timeout=60) as bots:
        storm = [bots.request(("GET", "HEAD")[n % 2], (forged, good, nothing)[n % 3]) for n in range(400)]
        answers = await asyncio.gather(*storm)

    assert {answer.status_code for answer in answers} <= {200, 401, 403, 404, 503}
    assert await site.events() == before
    assert (await site.post(site.link(), form=form, decision="approve")).status_code == 303
    assert any(isinstance(event, GateApproved) for event in await site.events())


@pytest.mark.parametrize(
    "path",
    [
        "/gates/tester/pay/ok/..%2f..%2finbox",
        "/gates/tester/..%2fpay/ok",
        "/gates/te.ster/pay/ok",
        "/gates/tester/pay/*",
        "/gates/tester/%3E/ok",
        "/gates/tester/pay/" + "x" * 3_000,
        "/style.css/../../app.py",
        "/static/%2e%2e/app.py",
        "/%00",
    ],
)
async def test_path_tricks_lead_nowhere(site: Site, path: str) -> None:
    answer = await site.http.get(path, headers=signed_in("ada"))

    assert answer.status_code == 404
    assert "There is no such page" in answer.text


async def test_what_is_too_long_or_no_form_is_refused(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    form = await site.form(site.link())

    for size in (5_000, 1_000_000):
        answer = await site.post(site.link(), form=form, decision="approve", reason="x" * size)
        await refused(site, answer, 413, "That is too long")
    ours = {"Sec-Fetch-Site": "same-origin"}
    await refused(site, await site.http.post(site.link(), json={"form": form}, headers=ours), 415, "cannot be done")
    many = {f"field{number}": "x" for number in range(1_000)}
    answer = await site.http.post(site.link(), data=many, headers=ours)
    await refused(site, answer, 400, "cannot be done")


async def test_an_answer_to_what_has_changed_since_decides_nothing_and_shows_what_is_asked_now(
    site: Site, clerk: Clerk
) -> None:
    await opened(clerk)
    form = await site.form(site.link())
    asked = (await clerk.log.read(HERE)).state.steps["ok"].opened
    assert asked is not None
    redirect = asks.ReviewGate(
        id="r", step="ok", digest=asked.digest, decision="redirect", groups=("team:finance",), level="link",
        instruction="pay less",
    )  # fmt: skip
    await clerk.ask(HERE, redirect, "bob")
    less = plan(*asking().steps[:2], task("pay", "ok", inputs={"total": "EUR 1"}))
    await clerk.ask(HERE, asks.ProposeRevision(id="p", request="r", plan=less), "planner")

    answer = await site.post(site.link(), form=form, decision="approve")

    assert answer.status_code == 409
    text = unescape(answer.text)
    assert "has changed since you read it" in text
    assert "inputs: total" in text
    assert "<del>{before.total}</del>" in text
    assert not any(isinstance(event, VoteCast) for event in await site.events())
    assert "Approved by Ada" in (await site.answer(site.link(), "approve"))[1]


async def test_a_plan_that_was_cancelled_asks_for_nothing_any_more(site: Site, clerk: Clerk) -> None:
    await opened(clerk)
    form = await site.form(site.link())
    await clerk.ask(HERE, asks.CancelPlan(id="c", reason="budget is gone"), "oper")

    answer = await site.post(site.link(), form=form, decision="approve")
    _, text = await site.read(site.link())

    assert (answer.status_code, "The plan has ended" in answer.text) == (409, True)
    assert "The plan was cancelled by oper: budget is gone" in text
    assert not any(isinstance(event, VoteCast) for event in await site.events())


# --- the inbox, and the way there --------------------------------------------------------------------------


async def test_an_inbox_shows_what_waits_for_me(
    site: Site, clerk: Clerk, mesh_server: MeshServer, tmp_path: Path
) -> None:
    await opened(clerk, reviewers=("person:bob",))
    await opened(clerk, Address("tester", "late"), sla_s=60.0, label="Late <i>one</i>")
    await opened(clerk, Address("tester", "early"))
    stop, ready = asyncio.Event(), asyncio.Event()
    async with await connected(mesh_server, "auditor") as connection:
        auditing = asyncio.create_task(audit(connection, f"sqlite:///{tmp_path}/auditor.db", stop, on_ready=ready.set))
        await ready.wait()
        text = ""
        for _ in range(200):
            text = (await site.read("/inbox", **signed_in("ada")))[1]
            if "2 things to decide" in text:
                break
            await asyncio.sleep(0.05)

        assert re.findall(r'href="(/gates/[^"]+)"', text) == ["/gates/tester/late/ok", "/gates/tester/early/ok"]
        assert "Nothing waits" in (await site.read("/inbox", **signed_in("cleo")))[1]
        assert (await site.http.get("/inbox")).status_code == 401
        stop.set()
        await auditing


async def test_an_inbox_says_what_is_overdue(site: Site, clerk: Clerk, mesh_server: MeshServer, tmp_path: Path) -> None:
    await opened(clerk, sla_s=60.0)
    await clerk.overdue(HERE, "ok")
    await opened(clerk, Address("tester", "early"))
    stop, ready = asyncio.Event(), asyncio.Event()
    async with await connected(mesh_server, "auditor") as connection:
        auditing = asyncio.create_task(audit(connection, f"sqlite:///{tmp_path}/auditor.db", stop, on_ready=ready.set))
        await ready.wait()
        text = ""
        for _ in range(200):
            text = (await site.read("/inbox", **signed_in("ada")))[1]
            if "2 things to decide" in text:
                break
            await asyncio.sleep(0.05)
        stop.set()
        await auditing

    assert "2 things to decide or answer, 1 of them overdue." in text
    first, second = text.split("<li>")[1:3]
    assert ("/gates/tester/pay/ok" in first, ">Overdue<" in first) == (True, True)
    assert ("/gates/tester/early/ok" in second, ">Overdue<" in second) == (True, False)


async def test_an_inbox_without_an_auditor_says_so(site: Site) -> None:
    status, text = await site.read("/inbox", **signed_in("ada"))

    assert (status, "The mesh does not answer" in text) == (503, True)


async def test_each_reviewer_is_told_at_a_channel_of_their_own_with_a_link_of_their_own(
    clerk: Clerk, site: Site, mesh_server: MeshServer, web: WebReceiver
) -> None:
    people = {
        "people": {"ada": {"channels": [f"json://{web.at}/ada"]}, "bob": {"channels": [f"json://{web.at}/bob"]}},
        "teams": {"finance": {"members": ["ada"]}},
    }
    reach = Reach(Directory.model_validate(people), [f"json://{web.at}/room"])
    links = Links(site.url, site.keys, 60.0)
    async with await connected(mesh_server, "gatekeeper") as core:
        stop = asyncio.Event()
        gatekeeper = Gatekeeper(core, open_channels(reach.urls, people=reach.people), reach=reach, links=links)
        running = asyncio.create_task(gatekeeper.run(stop))
        await opened(clerk)
        await opened(clerk, Address("tester", "ops"), reviewers=("role:operator",))
        await eventually(lambda: len(clerk.reports) == 2)
        stop.set()
        await running

    said = {path: body["message"] for path, body in web.posts}
    assert set(said) == {"/ada", "/room"}
    first, second = said["/ada"].splitlines()[:2]
    assert second == "The link is yours alone: whoever has it answers in your name."
    link = first.removeprefix(f"Read it, and decide: {site.url}")
    assert "link=" not in said["/room"]
    assert said["/room"].startswith(f"Read it, and decide: {site.url}/gates/tester/ops/ok\n")
    assert "Approved by Ada Lovelace" in (await site.answer(link, "approve"))[1]
