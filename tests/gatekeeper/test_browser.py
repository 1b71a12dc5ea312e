"""The review page in a real browser, without JavaScript. Skipped where there is no Chromium: `apt-get install chromium`
(Debian), or name one in ``CHROMIUM``; and no playwright (`pip install playwright`)."""

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from plays import gate, plan, task
from reviews import Clerk, connected

from planmesh.directory import Directory
from planmesh.gatekeeper.identity import Door, Keys, Proxy
from planmesh.gatekeeper.reach import Links
from planmesh.gatekeeper.web.serve import listen, serve
from planmesh.schemas.events import GateApproved, GateRejected, VoteCast
from planmesh.schemas.subjects import Address
from planmesh.testing import MeshServer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

HERE = Address("tester", "pay")
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
