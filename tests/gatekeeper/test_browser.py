"""The review page in a real browser, without JavaScript. Skipped where there is no Chromium: `apt-get install chromium`
(Debian), or name one in ``CHROMIUM``; and no playwright (`pip install playwright`)."""

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pages import signed_in
from plays import gate, plan, task
from reviews import Clerk, connected
from whole import Whole, whole

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Door, Keys, Proxy
from planmesh.gatekeeper.reach import Links
from planmesh.gatekeeper.web.serve import listen, serve
from planmesh.schemas.events import AskAnswered, GateApproved, GateRejected, PlanRevised, VoteCast
from planmesh.schemas.subjects import Address
from planmesh.testing import MeshServer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

HERE = Address("tester", "pay")
ESCALATION = {"after_s": 3600, "to": ["role:cfo"]}
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as running:
        browser = await running.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        await browser.close()


@pytest.fixture
async def link(mesh_server: MeshServer, clerk: Clerk) -> AsyncIterator[str]:
    """A gate that asks, and the link to it that ada was sent."""
    steps = (
        task("before"),
        gate("ok", "before", reviewers=("person:ada",), prompt="Pay?"),
        task("pay", "ok", inputs={"total": "EUR 48,210.00", "reference": "x" * 300}),
    )
    await clerk.create(HERE, plan(*steps))
    await clerk.complete(HERE, "before")
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    keys = Keys(["k" * 32])
    directory = Directory.model_validate({"people": {"ada": {"name": "Ada Lovelace"}}})
    door = Door(directory=directory, keys=keys, proxy=Proxy("X-User", "X-Proof", ""), pages_url=url)
    async with await connected(mesh_server, "gatekeeper") as core, serve(core, door, listening):
        yield Links(url, keys, 60.0).to(HERE, "ok", "ada")


async def decided(clerk: Clerk) -> list[Any]:
    found = [event async for line in clerk.log.lines(HERE) for event in line.commit.events]
    return [event for event in found if isinstance(event, VoteCast | GateApproved | GateRejected)]


async def test_a_reviewer_approves_with_the_keyboard_on_a_phone(browser: Any, link: str, clerk: Clerk) -> None:
    page = await browser.new_page(viewport=PHONE, java_script_enabled=False, color_scheme="dark")
    await page.goto(link)
    assert await page.title() == "Please decide: ok · planmesh"

    await page.get_by_label("Comment").focus()
    await page.keyboard.type("checked")
    await page.keyboard.press("Tab")
    assert await page.locator(":focus").inner_text() == "Approve"
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Approved by Ada Lovelace").wait_for()
    await page.reload()

    assert await page.get_by_role("button").count() == 0
    assert [type(event) for event in await decided(clerk)] == [VoteCast, GateApproved]


async def test_nothing_is_wider_than_the_screen_and_nothing_is_refused_by_the_policy(browser: Any, link: str) -> None:
    for viewport in (PHONE, DESK):
        page = await browser.new_page(viewport=viewport)
        said: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("requestfailed", lambda request, said=said: said.append(request.url))
        await page.goto(link)

        width = await page.evaluate("document.documentElement.scrollWidth")
        assert (width, said) == (viewport["width"], [])


async def test_a_form_on_another_site_decides_nothing(browser: Any, link: str, clerk: Clerk) -> None:
    page = await browser.new_page()
    await page.goto(link)
    token = await page.locator("input[name=form]").get_attribute("value")
    evil = link.replace("127.0.0.1", "localhost")  # another site to a browser
    await page.route(evil, lambda route: route.fulfill(body=form(link, token), content_type="text/html"))
    await page.goto(evil)
    await page.get_by_role("button").click()

    await page.get_by_role("heading", name="This answer came from another site").wait_for()
    assert await decided(clerk) == []


def form(link: str, token: str) -> str:
    return (
        f'<form method="post" action="{link}"><input type="hidden" name="form" value="{token}">'
        '<button name="decision" value="approve">Win a prize</button></form>'
    )


# --- questions, and edited steps ---------------------------------------------------------------------------


@pytest.fixture
async def running(mesh_server: MeshServer) -> AsyncIterator[Whole]:
    async with whole(mesh_server) as site:
        yield site


def asking(**fields: Any) -> dict[str, Any]:
    ask = {"kind": "ask", "name": "ok", "reviewers": ["team:finance"], "prompt": "How?", **fields}
    return {"name": "Ship", "steps": [ask, {"kind": "task", "name": "ship", "after": ["ok"], "agent": "agent"}]}


async def test_a_question_is_answered_with_the_keyboard(browser: Any, running: Whole) -> None:
    await running.create(HERE, asking(options=["By sea", "By rail", "By road"], default="By rail"))
    page = await browser.new_page(viewport=PHONE, java_script_enabled=False)
    await page.goto(running.url + running.link())

    await page.get_by_role("radio", name="By rail").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Tab")
    assert await page.locator(":focus").get_attribute("name") == "reason"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Answered by Ada Lovelace").wait_for()

    answers = [event.output.value["value"] for event in await running.events() if isinstance(event, AskAnswered)]
    assert answers == ["By road"]


async def test_what_is_wrong_with_an_answer_is_told_to_a_screen_reader(browser: Any, running: Whole) -> None:
    await running.create(HERE, asking(type="number"))
    page = await browser.new_page(java_script_enabled=False)
    await page.goto(running.url + running.link())

    await page.get_by_label("A number").fill("a dozen")
    await page.get_by_role("button", name="Send the answer").click()
    await page.get_by_role("alert").wait_for()

    field = page.get_by_label("A number")
    assert await page.title() == "Not sent: Please answer: ok · planmesh"
    assert await field.get_attribute("aria-invalid") == "true"
    described = await field.get_attribute("aria-describedby")
    assert "Enter a number in digits" in await page.locator(f"#{described}").inner_text()
    assert await page.locator(":focus").get_attribute("id") == "value"
    await field.fill("12")
    await page.get_by_role("button", name="Send the answer").click()
    await page.get_by_text("12", exact=True).wait_for()


async def test_steps_are_edited_seen_and_sent(browser: Any, running: Whole) -> None:
    pay = {"kind": "task", "name": "pay", "after": ["ok"], "agent": "agent", "inputs": {"total": 100}}
    gate_ = {"kind": "gate", "name": "ok", "reviewers": ["team:finance"], "prompt": "Pay?"}
    await running.create(HERE, {"name": "Pay", "steps": [gate_, pay]})
    page = await browser.new_page(viewport=PHONE, java_script_enabled=False)
    await page.goto(running.url + running.link())

    await page.get_by_text("Ask for a change instead").click()
    await page.get_by_role("link", name="Edit the steps yourself").click()
    steps = page.get_by_label("The steps to come")
    await steps.fill((await steps.input_value()).replace("100", "5o:").replace("agent: agent", "agent: nobody"))
    await page.get_by_role("button", name="See what it changes").click()
    await page.get_by_role("heading", name="Nothing was sent").wait_for()
    await steps.fill((await steps.input_value()).replace("5o:", "50").replace("agent: nobody", "agent: agent"))
    await page.get_by_role("button", name="See what it changes").click()
    await page.get_by_role("button", name="Send this change").click()
    await page.get_by_role("heading", name="Why this is asked again").wait_for()

    assert await page.locator("ins").all_inner_texts() == ["50"]
    assert [event.revision for event in await running.events() if isinstance(event, PlanRevised)] == [2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_enough_to_be_read(browser: Any, running: Whole, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, measured as it is drawn."""
    await running.create(HERE, asking(type="number"))
    page = await browser.new_page(color_scheme=scheme)
    await page.goto(running.url + running.link())
    await page.get_by_label("A number").fill("x")
    await page.get_by_role("button", name="Send the answer").click()
    await page.get_by_role("alert").wait_for()
    await page.wait_for_load_state("load")  # the style sheet is there as well

    assert await page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_so_does_what_is_said_of_a_gate_that_is_asked_again(browser: Any, running: Whole, scheme: str) -> None:
    rules = {"reviewers": ["team:finance"], "four_eyes": True, "quorum": 2, "escalate": [ESCALATION]}
    pay = {"kind": "task", "name": "pay", "after": ["ok"], "agent": "agent", "inputs": {"total": 100}}
    await running.create(HERE, {"name": "Pay", "steps": [{"kind": "gate", "name": "ok", **rules}, pay]})
    page = await browser.new_page(color_scheme=scheme, extra_http_headers=signed_in("ada"))
    where = running.url + running.path()

    await page.goto(f"{where}/edit")
    steps = page.get_by_label("The steps to come")
    await steps.fill((await steps.input_value()).replace("100", "50"))
    await page.get_by_role("button", name="See what it changes").click()
    await page.get_by_text("somebody else than you has to approve").wait_for()
    await page.wait_for_load_state("load")
    assert await page.evaluate(CONTRAST) == []
    await page.get_by_role("button", name="Send this change").click()
    await page.get_by_text("so somebody else has to approve it").wait_for()
    await page.wait_for_load_state("load")
    assert await page.evaluate(CONTRAST) == []
    assert await page.get_by_role("button", name="Approve").count() == 0
    await page.get_by_label("Comment").fill("No")
    await page.get_by_role("button", name="Reject").click()
    await page.get_by_role("heading", name="Rejected by Ada Lovelace").wait_for()
    await page.wait_for_load_state("load")

    assert await page.evaluate(CONTRAST) == []


async def test_on_paper_everything_is_there_but_what_is_to_be_pressed(browser: Any, running: Whole) -> None:
    gate_ = {"kind": "gate", "name": "ok", "reviewers": ["team:finance"], "prompt": "Pay?"}
    await running.create(HERE, {"name": "Pay", "steps": [gate_]})
    page = await browser.new_page(color_scheme="dark")
    await page.goto(running.url + running.link())
    await page.emulate_media(media="print")

    assert await page.get_by_role("heading", name="Your decision").is_visible()
    assert await page.get_by_text("What has happened").is_visible()
    assert await page.locator(".aslist ol").is_visible()  # what is folded on a screen
    assert not await page.get_by_role("button", name="Approve").is_visible()
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const says = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!says || node.closest("svg") || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
