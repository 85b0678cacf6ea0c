"""Reports in Chromium: at every width, in both colour schemes and on paper, with nothing for axe to find."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import conformance
import pytest
from axe_playwright_python.sync_playwright import Axe
from commands import output_of
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
READERS = ("dpo", "auditor", "subject")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    request = conformance.lay("v2_report", folder / "request")
    for reader in READERS:
        options = ("--trust", conformance.ROOT / "provider.pem", "--for", reader, "--out", folder / f"{reader}.html")
        assert output_of("report", request, *options)[0] == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.mark.parametrize("reader", READERS)
def test_a_report_can_be_read_by_anybody(pages: Path, browser: Browser, reader: str) -> None:
    for scheme, width in (("light", 900), ("dark", 900), ("light", 360), ("dark", 360)):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((pages / f"{reader}.html").as_uri())
        assert len(asked) == 1, "a page that is kept needs nothing from elsewhere"
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider == 0, f"{reader} is wider than {width} pixels"
        assert page.locator("h1").count() == 1
        assert "1 of the 2 devices" in page.locator(".lead").inner_text()
        assert Axe().run(page).response["violations"] == []
        page.close()


@pytest.mark.parametrize("reader", READERS)
def test_a_report_is_printed_in_black_on_white(pages: Path, browser: Browser, reader: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((pages / f"{reader}.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    page.close()
