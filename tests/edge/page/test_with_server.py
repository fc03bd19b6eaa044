"""The page on the real server with the real small model: what the other tests fake, once in earnest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from edge.settings import ModelSettings
from tests.edge.page.acting import answers, ask, ask_and_wait, open_settings

pytestmark = pytest.mark.model
CITY = {
    "type": "object",
    "required": ["city", "country"],
    "additionalProperties": False,
    "properties": {"city": {"type": "string", "maxLength": 30}, "country": {"type": "string", "maxLength": 30}},
}


@pytest.fixture(scope="module")
def address(demo_gguf: Path) -> Iterator[str]:
    source = source_of("demo", demo_gguf, ModelSettings(context_tokens=1024, threads=1))
    settings = ServerSettings(port=0, api_keys=("edge-key",))
    with BackgroundServer(ModelPool([source], open_model), settings) as server:
        yield server.url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("API key", exact=True).fill("edge-key")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#model-name")).to_have_text("demo")
    yield page
    context.close()


def test_the_model_answers_on_the_page(page: Page) -> None:
    open_settings(page)
    page.get_by_label("System prompt").fill("Answer in one sentence.")
    page.locator("#setting-temperature").fill("0")
    ask_and_wait(page, "What is the capital of France?")
    expect(answers(page)).to_have_text("The capital of France is Paris.")
    expect(page.locator(".facts")).to_contain_text("tokens/s")
    expect(page.locator("#context-words")).to_contain_text("of 1,024 tokens")


def test_the_models_answer_matches_the_schema(page: Page) -> None:
    open_settings(page)
    page.get_by_label("JSON Schema").fill(json.dumps(CITY))
    page.locator("#setting-seed").fill("3")
    page.locator("#setting-max_tokens").fill("60")
    ask_and_wait(page, "Name a city in France as JSON.")
    expect(page.locator(".message .badge")).to_have_text("Matches the schema")
    assert json.loads(answers(page).locator("code").inner_text()).keys() == {"city", "country"}


def test_what_the_server_refuses_is_shown_in_its_own_words(page: Page) -> None:
    ask(page, "word " * 2000)
    expect(page.locator(".failure")).to_contain_text("the context holds 1024")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_schema_that_cannot_be_held_is_refused_with_the_reason(page: Page) -> None:
    open_settings(page)
    page.get_by_label("JSON Schema").fill('{"items": {"uniqeItems": true}}')
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("has the unknown keyword 'uniqeItems' at #/items")
