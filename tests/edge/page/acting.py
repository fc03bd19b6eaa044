"""What a person does on the page, and where the results are."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

DONE = ".message.assistant:not([aria-busy]) .facts"


def ask(page: Page, text: str) -> None:
    """Types a question and sends it; does not wait for the answer."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def ask_and_wait(page: Page, text: str) -> None:
    answered = page.locator(DONE).count()
    ask(page, text)
    expect(page.locator(DONE)).to_have_count(answered + 1)


def answers(page: Page) -> Locator:
    return page.locator(".message.assistant .text")


def questions(page: Page) -> Locator:
    return page.locator(".message.user .text")


def titles(page: Page) -> Locator:
    return page.locator("#conversations .title")


def open_settings(page: Page) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()


def keep_from_storing(page: Page) -> None:
    """From now on writing takes as long as the page is open: what is read before it is read again and again."""
    page.evaluate(
        """() => {
            const get = IDBObjectStore.prototype.get;
            IDBObjectStore.prototype.get = function (id) {
                const reading = { error: null };
                const again = () => { get.call(this, id).onsuccess = again; };
                again();
                return reading;
            };
        }"""
    )


def left_behind(page: Page) -> list[str]:
    """The keys of what pages that were closed had not stored, and no other has taken in."""
    keys: list[str] = page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('edge.left.'))")
    return keys


def module(page: Page, name: str, call: str, *arguments: Any) -> Any:
    """What a function of one of the page's modules gives: module(page, "sse.js", "(m, text) => ...", "data: x")."""
    script = f"async ([name, given]) => (({call}))(await import(name), ...given)"
    return page.evaluate(script, [f"/page/{name}", list(arguments)])
