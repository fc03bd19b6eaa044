"""The page for everyone: by keyboard alone, on a phone, dark and light, and as a screen reader is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.edge.page.acting import answers, ask, ask_and_wait, open_settings, questions, titles
from tests.edge.page.fake_server import FakeServer, Wait

Opened = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, server: FakeServer) -> Iterator[Opened]:
    """Opens the page in a browser that is set as the test says."""
    contexts = []

    def new_page(**settings: Any) -> Page:
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.goto(server.address)
        expect(page.locator("#model-name")).to_have_text("tiny-model")
        return page

    yield new_page
    for context in contexts:
        context.close()


def test_enter_sends_and_shift_enter_begins_a_line(page: Page) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(questions(page)).to_have_text("one\ntwo", use_inner_text=True)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    expect(page.get_by_label("Message", exact=True)).to_have_value("")


def test_nothing_is_sent_of_blanks_or_while_an_answer_is_written(page: Page, server: FakeServer) -> None:
    ask(page, "   ")
    server.says("Slow", Wait(), "ly.")
    ask(page, "Hi")
    expect(answers(page)).to_have_text("Slow")
    ask(page, "Too early")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Too early")
    server.go_on()
    expect(page.locator(".facts")).to_be_visible()
    assert len(server.bodies) == 1


def test_escape_stops_an_answer(page: Page, server: FakeServer) -> None:
    server.says("Begun", Wait())
    ask(page, "Hi")
    expect(answers(page)).to_have_text("Begun")
    page.keyboard.press("Escape")
    expect(page.locator(".facts")).to_contain_text("stopped")


def test_the_first_stop_of_the_keyboard_leads_to_the_message(page: Page) -> None:
    assert page.evaluate("document.querySelector('a[href], button, input, textarea').id") == "skip"
    skip = page.get_by_role("link", name="Skip to the message field")
    expect(skip).not_to_be_in_viewport()
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_everything_is_reached_by_keyboard_in_order_and_seen_to_be(page: Page) -> None:
    ask_and_wait(page, "Hi")
    open_settings(page)
    page.locator("#thread").evaluate("(thread) => { document.activeElement.blur(); }")
    page.locator("#skip").focus()
    stops = []
    look = """() => {
        const at = document.activeElement;
        const isRinged = (element) => getComputedStyle(element).outlineStyle !== "none";
        const name = at.getAttribute("aria-label") ?? (at.id || at.textContent);
        return [name, isRinged(at) || isRinged(at.closest("form") ?? at)];
    }"""
    for _ in range(45):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(look))
        if stops[-1][0] == "reset":
            break
    names = [name for name, _ in stops]
    assert [name for name, is_seen in stops if not is_seen] == []
    wanted = ["new", "Search conversations", 'Rename "Hi"', 'Delete "Hi"', "export", "theme"]
    wanted = [name for name in wanted if name != "theme"] + [
        "Conversations",
        "Settings",
        "Conversation",
        "Copy",
        "Edit",
    ]
    wanted += [
        "Answer again",
        "Message",
        "Close the settings",
        "system",
        "schema",
        "setting-temperature",
        "make-default",
    ]
    places = [names.index(name) for name in wanted]
    assert places == sorted(places)


def test_a_whole_turn_works_without_a_mouse(page: Page, server: FakeServer) -> None:
    server.says("One.")
    server.says("Two.")
    page.keyboard.type("Count")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("One.")
    page.get_by_role("button", name="Answer again").focus()
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("Two.")
    page.get_by_role("button", name="Previous alternative").focus()
    page.keyboard.press("Space")
    expect(answers(page)).to_have_text("One.")
    page.keyboard.press("Space")
    expect(answers(page)).to_have_text("Two.")


def test_arrow_keys_change_a_number_by_its_step(page: Page) -> None:
    open_settings(page)
    field = page.locator("#setting-temperature")
    field.fill("0.7")
    field.press("ArrowUp")
    expect(field).to_have_value("0.8")
    for _ in range(10):
        field.press("ArrowDown")
    expect(field).to_have_value("0")


def test_screen_readers_are_told_each_block_when_it_is_whole(page: Page, server: FakeServer) -> None:
    server.says("First.\n\nSecond", Wait(), " part.")
    ask(page, "Hi")
    told = page.get_by_role("log").locator("p")
    expect(told).to_have_text(["First."])
    server.go_on()
    expect(told).to_have_text(["First.", "Second part."])
    ask_and_wait(page, "Again")
    expect(told).to_have_text(["Hello there."])


def test_screen_readers_are_told_of_a_failure(page: Page, server: FakeServer) -> None:
    server.refuses(429, "Busy.")
    ask(page, "Hi")
    expect(page.get_by_role("log").locator("p")).to_have_text(["Busy. Try again in a moment."])


def test_the_page_stays_where_the_reader_is(page: Page, server: FakeServer) -> None:
    server.says("Line\n\n" * 60, Wait(), "More\n\n" * 20, Wait(), "End")
    ask(page, "Hi")
    last = page.locator(".message.assistant .text > :last-child")
    expect(last).to_be_in_viewport()
    page.locator("#thread").hover()
    page.mouse.wheel(0, -400)
    expect(page.get_by_role("button", name="To the end of the conversation")).to_be_visible()
    top = page.locator("#thread").evaluate("(thread) => thread.scrollTop")
    server.go_on()
    expect(answers(page)).to_contain_text("More")
    assert page.locator("#thread").evaluate("(thread) => thread.scrollTop") == top
    page.get_by_role("button", name="To the end of the conversation").click()
    expect(last).to_be_in_viewport()
    server.go_on()
    expect(answers(page)).to_contain_text("End")
    expect(last).to_be_in_viewport()


def test_on_a_phone_nothing_is_cut_off_and_the_list_lies_over_the_conversation(
    opened: Opened, server: FakeServer
) -> None:
    page = opened(viewport={"width": 360, "height": 640}, has_touch=True)
    server.says(
        "| a wide | table of | many columns | that do | not fit |\n|-|-|-|-|-|\n| 1 | 2 | 3 | 4 | 5 |\n\n" + "w" * 200
    )
    ask_and_wait(page, "A question that is a good deal longer than the screen is wide")
    expect(titles(page)).to_be_hidden()
    wide = """() => [...document.querySelectorAll("*")]
        .filter((each) => each.getBoundingClientRect().right > 361 && !each.closest(".table, .visually-hidden"))
        .map((each) => each.className)"""
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(wide) == []
    page.get_by_role("button", name="Conversations", exact=True).tap()
    expect(titles(page)).to_be_visible()
    expect(page.get_by_role("button", name="New conversation", exact=True)).to_be_focused()
    assert page.locator("#main").evaluate("(main) => main.inert")
    page.keyboard.press("Escape")
    expect(titles(page)).to_be_hidden()
    expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()
    open_settings(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(wide) == []


def test_the_theme_is_the_systems_until_one_is_chosen(opened: Opened) -> None:
    page = opened(color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Switch to the light theme").click()
    light = page.evaluate(background)
    assert (dark, light) == ("rgb(21, 24, 27)", "rgb(255, 255, 255)")
    page.reload()
    expect(page.get_by_role("button", name="Switch to the dark theme")).to_be_visible()
    assert page.evaluate(background) == light


# every element with a text of its own, its colour against what is behind it
CONTRASTS = """() => {
    const number = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([red, green, blue]) => {
        const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = number(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const isShown = (element) =>
        element.checkVisibility({ visibilityProperty: true }) && !element.closest(".visually-hidden, [disabled]");
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
    const all = [...document.body.querySelectorAll("*")].filter((element) => isShown(element) && hasText(element));
    return all.map((element) => {
        const [one, other] = [light(number(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        return [contrast, `${element.tagName}.${element.className}: ${element.textContent.slice(0, 30)}`];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(opened: Opened, server: FakeServer, scheme: str) -> None:
    page = opened(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
    server.says("# Title\n\n> quote\n\n[link](https://a.test) `code`\n\n```\nx\n```\n\n|a|\n|-|\n|b|")
    ask_and_wait(page, "Hi")
    server.refuses(400, "No.")
    ask(page, "More")
    expect(page.locator(".failure")).to_be_visible()
    open_settings(page)
    page.get_by_label("JSON Schema").fill("{}")
    page.locator("#setting-seed").fill("x")
    page.get_by_role("button", name="Use for new conversations").click()
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [(round(contrast, 2), what) for contrast, what in contrasts if contrast < 4.5] == []


def test_every_control_has_a_name(page: Page) -> None:
    ask_and_wait(page, "Hi")
    open_settings(page)
    nameless = """() => [...document.querySelectorAll("button, input, textarea, select, [role=meter], [role=region]")]
        .filter((each) => each.checkVisibility())
        .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
        .map((each) => each.outerHTML)"""
    assert page.evaluate(nameless) == []
