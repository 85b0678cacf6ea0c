"""The console in Chromium, over the registry of a federation that ran: read, used by keyboard, and checked by axe."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from federation import Federation
from playwright.sync_api import Page, sync_playwright

from zkapex.server.console.access import Role, add_operator, load_access
from zkapex.server.console.app import create_app
from zkapex.server.console.source import RegistrySource
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


@pytest.fixture(scope="module")
def console(market: Federation, result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    shutil.copy(market.folder / "provider" / "registry.sqlite", folder)
    token = add_operator(folder / "console.toml", "ada", Role.OPERATOR)
    with Registry(folder / "registry.sqlite", market.provider.federation) as registry:
        source = RegistrySource(registry, market.folder / "receipts")
        app = create_app(source, load_access(folder / "console.toml"))
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Console(f"http://127.0.0.1:{port}", token, registry)
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
    page.get_by_text("readmitted by ada: its disk was exchanged").wait_for()
    after = console.registry.client(client.client_id)
    assert after is not None
    assert after.readmitted
    page.get_by_role("link", name="Audit trail").click()
    assert "its disk was exchanged" in page.inner_text("main")


def test_it_shows_what_the_registry_holds(console: Console, page: Page, result: dict[str, Any]) -> None:
    page.goto(f"{console.url}/requests/{result['request_id']}")
    text = page.inner_text("main")
    for row in result["clients"]:
        assert row["id"] in text
    assert page.locator("span.proved").count() == sum(row["verdict"] == "proved" for row in result["clients"])


def test_an_expired_session_leads_back_to_where_one_was(console: Console, page: Page) -> None:
    page.context.clear_cookies()
    page.goto(f"{console.url}/clients")
    assert "/signin" in page.url
    page.get_by_label("Your token").fill(console.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{console.url}/clients")
