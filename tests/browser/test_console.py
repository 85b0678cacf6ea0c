"""The console in Chromium, over the registry of a federation that ran: read, used by keyboard, and checked by axe."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from federation import Federation
from playwright.sync_api import Page, sync_playwright

from zkapex.cli.web import estimated
from zkapex.proofs.verify import DEPTHS
from zkapex.server.console.access import Role, add_operator, load_access
from zkapex.server.console.app import create_app
from zkapex.server.console.folder import FederationFolder
from zkapex.server.console.source import FolderSource
from zkapex.server.deployment.init import create_server
from zkapex.server.deployment.requests import OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.store.registry import Registry

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@dataclass(frozen=True)
class Console:
    """A console that runs, and what it runs over."""

    url: str
    token: str
    registry: Registry
    place: Place


@pytest.fixture(scope="module")
def console(market: Federation, result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    settings = ServerSettings(host="localhost", provider="small_deployed:classes")
    place = create_server(tmp_path_factory.mktemp("console") / "server", settings)
    shutil.copytree(market.folder, place.federation, dirs_exist_ok=True)
    folder = FederationFolder.of(place.root)
    token = add_operator(folder.tokens, "ada", Role.OPERATOR)
    with folder.registry() as registry:
        app = create_app(FolderSource(folder, estimated), load_access(folder.tokens))
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Console(f"http://127.0.0.1:{port}", token, registry, place)
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def page(console: Console) -> Iterator[Page]:
    """A browser that is signed in, and that may ask nobody but the console for anything."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = browser.new_page()
        asked: list[str] = []
        found.on("request", lambda request: asked.append(request.url))
        found.on("pageerror", lambda error: asked.append(f"error: {error}"))
        found.goto(console.url)
        assert "/signin" in found.url
        found.keyboard.type(console.token)  # the field has the focus
        found.keyboard.press("Enter")
        found.wait_for_url(console.url + "/")
        yield found
        assert [url for url in asked if not url.startswith((console.url, "data:"))] == []
        browser.close()


def pages(console: Console) -> list[str]:
    request = console.registry.requests()[0]
    quarantined = [c for c in console.registry.clients() if c.status == "quarantined"]
    return [
        "/",
        "/requests",
        f"/requests/{request.request_id}",
        "/clients",
        f"/clients/{quarantined[0].client_id}",
        f"/receipts/{request.request_id}/{request.client_id}",
        "/trail",
        "/requests/new",
        "/ledger",
        f"/requests/{request.request_id}/report",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(console: Console, page: Page, scheme: Any) -> None:
    """WCAG 2.1 A and AA by axe; nothing is wider than a small phone but tables, which scroll by themselves."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    axe = Axe()
    for path in pages(console):
        page.goto(console.url + path)
        found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert found.violations_count == 0, f"{path} ({scheme}): {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_it_is_used_by_keyboard(console: Console, page: Page) -> None:
    """From the overview to a quarantined client, who is readmitted with a reason; it stands in the audit trail."""
    page.goto(console.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    client = next(c for c in console.registry.clients() if c.status == "quarantined")
    page.get_by_role("link", name=f"Client {client.client_id[:16]} is quarantined").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Reason").focus()
    page.keyboard.type("its disk was exchanged")
    page.keyboard.press("Enter")
    page.get_by_text("by ada, in the console: its disk was exchanged").wait_for()
    after = console.registry.client(client.client_id)
    assert after is not None
    assert after.readmitted
    page.get_by_role("link", name="Audit trail").click()
    page.wait_for_url(f"{console.url}/trail")
    assert "its disk was exchanged" in page.inner_text("main")


def test_it_shows_what_the_registry_holds(console: Console, page: Page, result: dict[str, Any]) -> None:
    page.goto(f"{console.url}/requests/{result['request_id']}")
    text = page.inner_text("main")
    for row in result["clients"]:
        assert row["id"] in text
    assert page.locator("span.proved").count() == sum(row["verdict"] == "proved" for row in result["clients"])


def test_a_deletion_is_ordered_after_its_cost_was_seen(console: Console, page: Page) -> None:
    page.goto(f"{console.url}/requests")
    page.get_by_role("link", name="Order a deletion").click()
    assert page.get_by_role("button", name="Order it").count() == 0
    page.get_by_label("Id of the request").fill("r-2026-17")
    page.get_by_label("What is to be forgotten").fill("forget-class=5")
    page.get_by_role("button", name="Estimate").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What it will cost").wait_for(timeout=120_000)
    assert "CPU seconds on each device" in page.inner_text("main")
    assert OrderBook(console.place.requests).all() == []
    page.get_by_role("button", name="Order it").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{console.url}/requests/r-2026-17")
    [order] = OrderBook(console.place.requests).all()
    assert dict(order.about) == {"forget-class": 5}
    page.get_by_role("link", name="Audit trail").click()
    page.wait_for_url(f"{console.url}/trail")
    first = page.locator("tbody tr").first.inner_text()
    assert all(word in first for word in ("request.created", "ada, in the console", "r-2026-17"))
    page.goto(f"{console.url}/requests/r-2026-17")
    page.get_by_role("button", name="Cancel the order").click()
    page.get_by_text("cancelled").wait_for()
    assert not OrderBook(console.place.requests).get("r-2026-17").open


def test_a_receipt_and_the_ledger_are_verified(console: Console, page: Page, result: dict[str, Any]) -> None:
    row = next(row for row in result["clients"] if row["verdict"] == "proved")
    page.goto(f"{console.url}/receipts/{result['request_id']}/{row['client_id']}")
    page.get_by_role("button", name="Verify it").click()
    page.get_by_role("heading", name="Verified").wait_for(timeout=120_000)
    depths = {name: page.locator(f"tr:has(th:text-is('{name}')) td").first.inner_text() for name in DEPTHS}
    assert depths == {**dict.fromkeys(DEPTHS, "reached"), "time": depths["time"]}
    page.get_by_role("link", name="Ledger").click()
    page.get_by_role("button", name="Check it whole").click()
    page.get_by_text("It holds").wait_for()


def test_a_plan_shows_its_curves(console: Console, page: Page, result: dict[str, Any]) -> None:
    page.goto(f"{console.url}/requests/{result['request_id']}")
    assert page.locator("figure.chart svg").count() >= 1
    assert "chosen" in page.inner_text("main")
    assert "accuracy on what is to be forgotten" in (page.locator("figure.chart desc").first.text_content() or "")


def test_a_report_is_signed_and_read(console: Console, page: Page, result: dict[str, Any]) -> None:
    """Every reader's page is accessible, and follows from the receipts."""
    path = f"/requests/{result['request_id']}/report"
    page.goto(console.url + path)
    for field, text in (
        ("controller", "Clinic"),
        ("contact", "dpo@clinic.example"),
        ("complaints", "The authority"),
        ("reference", "C-17"),
        ("received", "2026-01-02"),
        ("due", "2026-02-02"),
    ):
        page.locator(f"#{field}").fill(text)
    page.get_by_role("button", name="Sign the report").click()
    page.get_by_text("A report is signed").wait_for()
    for reader in ("dpo", "auditor", "subject"):
        page.goto(f"{console.url}{path}/{reader}")
        assert "C-17" in page.inner_text("body")
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert found.violations_count == 0, found.generate_report()


def test_screenshots(console: Console, page: Page, result: dict[str, Any]) -> None:
    """The pictures of docs/console.md, written by ``make screenshots`` into the folder that the environment names."""
    folder = os.environ.get("ZKAPEX_SCREENSHOTS")
    if not folder:
        pytest.skip("ZKAPEX_SCREENSHOTS names no folder")
    request = result["request_id"]
    proved = next(row for row in result["clients"] if row["verdict"] == "proved")
    bad = next(row for row in result["clients"] if row["verdict"] == "quarantined")
    page.set_viewport_size({"width": 900, "height": 640})
    page.emulate_media(color_scheme="light")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in {
        "overview": "/",
        "request": f"/requests/{request}",
        "client": f"/clients/{bad['client_id']}",
        "report": f"/requests/{request}/report",
        "ledger": "/ledger",
        "trail": "/trail",
    }.items():
        page.goto(console.url + path)
        if name == "request":
            page.locator("figure.chart").first.scroll_into_view_if_needed()
        page.screenshot(path=Path(folder) / f"{name}.png")
    page.goto(f"{console.url}/requests/new")
    page.get_by_label("Id of the request").fill("r-2026-17")
    page.get_by_label("What is to be forgotten").fill("forget-class=5")
    page.get_by_role("button", name="Estimate").click()
    page.get_by_role("button", name="Order it").scroll_into_view_if_needed(timeout=120_000)
    page.screenshot(path=Path(folder) / "new.png")
    page.goto(f"{console.url}/receipts/{request}/{proved['client_id']}")
    page.get_by_role("button", name="Verify it").click()
    page.get_by_role("heading", name="Verified").wait_for(timeout=120_000)
    page.screenshot(path=Path(folder) / "receipt.png")


def test_an_expired_session_leads_back_to_where_one_was(console: Console, page: Page) -> None:
    page.context.clear_cookies()
    page.goto(f"{console.url}/clients")
    assert "/signin" in page.url
    page.get_by_label("Your token").fill(console.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{console.url}/clients")
