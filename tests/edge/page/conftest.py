"""A browser, and the page in it. The browser is closed with the last of these tests: Playwright keeps an event loop
running in the thread of the tests, which others must not find there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.edge.page.browser import MISSING, find_browser
from tests.edge.page.fake_server import FakeServer

expect.set_options(timeout=30_000)  # for slow machines; what is expected comes at once or not at all


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Missing, it fails the tests: a page that was never opened is not tested."""
    path = find_browser()
    if path is None:
        pytest.fail(MISSING, pytrace=False)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path) as browser:
        yield browser


@pytest.fixture(scope="package")
def modules(browser: Browser) -> Iterator[Page]:
    """The page as the place where its modules are called. Tests leave it as they found it."""
    server = FakeServer()
    page = browser.new_page()
    page.goto(server.address)
    yield page
    page.close()
    server.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def page(browser: Browser, server: FakeServer) -> Iterator[Page]:
    """The page, opened. Whatever the browser complains about fails the test, above all a breach of the policy."""
    context = browser.new_context(
        viewport={"width": 1300, "height": 800}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(30_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(server.address)
    expect(page.locator("#model-name")).to_have_text("tiny-model")
    yield page
    context.close()
    assert [text for text in complaints if "Failed to load resource" not in text] == []
