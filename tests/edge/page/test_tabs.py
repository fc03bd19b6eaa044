"""One conversation in two tabs: each shows what the other did, and neither writes over it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.edge.page.acting import (
    answers,
    ask,
    ask_and_wait,
    keep_from_storing,
    left_behind,
    module,
    open_settings,
    questions,
    titles,
)
from tests.edge.page.fake_server import FakeServer, Wait

WRITTEN_ELSEWHERE = "Another tab is writing this answer."


@pytest.fixture
def other(page: Page, server: FakeServer) -> Iterator[Page]:
    """A second tab, with the conversation open that the first one has begun."""
    ask_and_wait(page, "Begin")
    other = page.context.new_page()
    complaints: list[str] = []
    other.on("pageerror", lambda error: complaints.append(str(error)))
    other.goto(page.url)
    expect(answers(other)).to_have_text("Hello there.")
    yield other
    assert complaints == []


def deaf(page: Page) -> None:
    """Opens the page anew in a tab that hears of no other."""
    page.add_init_script("window.BroadcastChannel = class extends BroadcastChannel { set onmessage(listener) {} };")
    page.reload()
    expect(answers(page)).to_have_text("Hello there.")


def test_a_tab_that_is_not_writing_shows_what_the_other_does(page: Page, other: Page, server: FakeServer) -> None:
    open_settings(page)
    page.get_by_label("System prompt").fill("Be brief.")
    server.says("Good.")
    ask_and_wait(page, "Well?")
    expect(questions(other)).to_have_text(["Begin", "Well?"])
    expect(answers(other)).to_have_text(["Hello there.", "Good."])
    expect(other.locator(".facts")).to_have_count(2)
    expect(other.locator("#system")).to_have_value("Be brief.")


def test_an_answer_of_another_tab_is_waited_for(page: Page, other: Page, server: FakeServer) -> None:
    server.says("Half", Wait(), " and half.")
    ask(page, "Slowly")
    expect(answers(other).last).to_have_text("Half")
    expect(other.locator(".note")).to_have_text(WRITTEN_ELSEWHERE)
    ask(other, "Me too")
    expect(other.locator("#toasts")).to_contain_text("Another tab is writing an answer here.")
    expect(other.get_by_label("Message", exact=True)).to_have_value("Me too")
    server.go_on()
    expect(answers(other).last).to_have_text("Half and half.")
    expect(other.locator(".note")).to_have_count(0)
    other.keyboard.press("Enter")
    expect(questions(page)).to_have_text(["Begin", "Slowly", "Me too"])
    assert [message["content"] for message in server.bodies[-1]["messages"]][-2:] == ["Half and half.", "Me too"]


def test_an_answer_is_followed_in_a_tab_whose_timers_stand_still(page: Page, other: Page, server: FakeServer) -> None:
    """As in one that has been hidden for minutes."""
    page.evaluate("window.setInterval = () => 0")
    server.says("Half", Wait(), " more", Wait(), ".")
    ask(page, "Slowly")
    expect(answers(page).last).to_have_text("Half")
    page.wait_for_timeout(1600)
    server.go_on()
    expect(answers(other).last).to_have_text("Half more")
    expect(other.locator(".note")).to_have_text(WRITTEN_ELSEWHERE)
    server.go_on()
    expect(answers(other).last).to_have_text("Half more.")


def test_a_tab_that_was_closed_in_an_answer_is_not_waited_for(page: Page, other: Page, server: FakeServer) -> None:
    server.says("Half", Wait())
    ask(other, "Slowly")
    expect(answers(page).last).to_have_text("Half")
    expect(page.locator(".note")).to_have_text(WRITTEN_ELSEWHERE)
    other.close()
    expect(page.locator(".note")).to_have_text("The page was closed before this answer was complete.")
    ask_and_wait(page, "Go on")
    expect(questions(page)).to_have_text(["Begin", "Slowly", "Go on"])


def test_what_a_tab_could_not_store_before_it_was_closed_is_taken_in(
    page: Page, other: Page, server: FakeServer
) -> None:
    server.says("Half", Wait(), " and half.")
    ask(other, "Slowly")
    expect(answers(page).last).to_have_text("Half")
    keep_from_storing(other)
    server.go_on()
    expect(answers(other).last).to_have_text("Half and half.")
    other.close()
    expect(answers(page).last).to_have_text("Half and half.")
    expect(page.locator(".note")).to_have_count(0)
    page.reload()
    expect(answers(page).last).to_have_text("Half and half.")
    assert left_behind(page) == []


def test_what_is_typed_stays_while_another_tab_goes_on(page: Page, other: Page, server: FakeServer) -> None:
    other.locator(".message.user").get_by_role("button", name="Edit").click()
    other.get_by_label("Edit the message").fill("Began")
    ask_and_wait(page, "More")
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("Another beginning")
    page.keyboard.press("Enter")
    expect(questions(page)).to_have_text("Another beginning")
    expect(page.locator(".facts")).to_have_count(1)
    expect(other.locator("#conversations .title")).to_have_text(["Another beginning"])
    expect(other.get_by_label("Edit the message")).to_have_value("Began")
    other.keyboard.press("Enter")
    expect(questions(other)).to_have_text("Began")
    expect(other.locator(".message.user .branches")).to_have_text("3 / 3")


def test_both_ways_are_kept_where_two_tabs_go_on_at_once(page: Page, other: Page, server: FakeServer) -> None:
    deaf(other)
    server.says("One", Wait(), ".")
    ask(page, "First way")
    expect(answers(page).last).to_have_text("One")
    server.says("Two.")
    ask_and_wait(other, "Second way")
    expect(other.locator("#toasts")).to_contain_text("Another tab went on from here, too. Both ways are kept")
    server.go_on()
    expect(page.locator(".facts")).to_have_count(2)
    expect(answers(page)).to_have_text(["Hello there.", "One."])
    expect(questions(page)).to_have_text(["Begin", "First way"])
    page.reload()
    ways = {}
    for step in ("Previous alternative", "Next alternative"):
        button = page.get_by_role("button", name=step)
        if button.is_enabled():
            button.click()
        ways[questions(page).last.text_content()] = answers(page).last.text_content()
    assert ways == {"First way": "One.", "Second way": "Two."}


def test_a_name_given_in_another_tab_outlives_an_answer(page: Page, other: Page, server: FakeServer) -> None:
    deaf(page)
    server.says("Half", Wait(), " and half.")
    ask(page, "Slowly")
    expect(answers(other).last).to_have_text("Half")
    item = other.locator("#conversations li")
    item.hover()
    item.get_by_role("button", name="Rename").click()
    other.get_by_label("New name").fill("Named")
    other.keyboard.press("Enter")
    expect(titles(other)).to_have_text("Named")
    server.go_on()
    expect(page.locator("#title")).to_have_text("Named")
    page.reload()
    expect(titles(page)).to_have_text("Named")
    expect(answers(page).last).to_have_text("Half and half.")


def test_a_conversation_that_another_tab_deleted_is_left(page: Page, other: Page) -> None:
    item = page.locator("#conversations li")
    item.hover()
    item.get_by_role("button", name="Delete").click()
    expect(other.locator("#title")).to_have_text("New conversation")
    expect(titles(other)).to_have_count(0)


# Bringing together


def node(content: str, children: list[str], chosen: str | None, **more: Any) -> dict[str, Any]:
    return {"children": children, "chosen": chosen, "content": content, **more}


def conversation(title: str = "", **nodes: dict[str, Any]) -> dict[str, Any]:
    fields = {"title": title, "model": "m", "system": "", "settings": {}, "schema": "", "usesSchema": False}
    return {**fields, "updated": 1, "nodes": {name: {"id": name, **each} for name, each in nodes.items()}}


def taken_in(page: Page, mine: Any, theirs: Any, base: Any, *, follows: bool = False) -> tuple[Any, Any]:
    call = """(m, mine, theirs, base, follows) => {
      const { isSet, nodes, isForked } = m.takeIn(mine, theirs, base, { follows });
      return [mine, { isSet, nodes: [...nodes], isForked }];
    }"""
    mine, taken = module(page, "merging.js", call, mine, theirs, base, follows)
    return mine, taken


BASE = conversation(root=node("", ["a"], "a"), a=node("Begin", [], None))


def test_what_one_side_changed_is_taken_from_there(modules: Page) -> None:
    theirs = conversation("Named", root=node("", ["a"], "a"), a=node("Begin", ["b"], "b"), b=node("More", [], None))
    assert taken_in(modules, BASE, theirs, BASE) == (theirs, {"isSet": True, "nodes": ["b"], "isForked": False})
    assert taken_in(modules, theirs, BASE, BASE) == (theirs, {"isSet": False, "nodes": [], "isForked": False})


def test_what_both_sides_said_is_kept_as_alternatives(modules: Page) -> None:
    mine = conversation(root=node("", ["a"], "a"), a=node("Begin", ["b"], "b"), b=node("Mine", [], None))
    theirs = conversation(root=node("", ["a"], "a"), a=node("Begin", ["c"], "c"), c=node("Theirs", [], None))
    both, taken = taken_in(modules, mine, theirs, BASE)
    assert both["nodes"]["a"] == {"id": "a", **node("Begin", ["c", "b"], "b")}
    assert (both["nodes"]["b"]["content"], both["nodes"]["c"]["content"]) == ("Mine", "Theirs")
    assert taken == {"isSet": False, "nodes": ["c", "b"], "isForked": True}


def test_a_message_is_as_the_side_that_writes_it_has_it(modules: Page) -> None:
    longer = conversation(root=node("", ["a"], "a"), a=node("Begin and go on", [], None, facts={"tokens": 3}))
    assert taken_in(modules, BASE, longer, BASE)[0] == longer
    assert taken_in(modules, longer, BASE, BASE)[0] == longer


@pytest.mark.parametrize(("follows", "shown"), [(True, "b"), (False, "a")])
def test_a_new_alternative_is_followed_on_demand_and_what_follows_the_last_message_always(
    modules: Page, follows: bool, shown: str
) -> None:
    theirs = conversation(
        root=node("", ["a", "b"], "b"), a=node("Begin", ["c"], "c"), b=node("Anew", [], None), c=node("More", [], None)
    )
    mine, taken = taken_in(modules, BASE, theirs, BASE, follows=follows)
    assert (mine["nodes"]["root"]["chosen"], mine["nodes"]["a"]["chosen"]) == (shown, "c")
    assert sorted(taken["nodes"]) == ["a", "b", "c"]


def test_an_alternative_that_is_known_is_not_followed(modules: Page) -> None:
    one, two = (
        conversation(root=node("", ["a", "b"], chosen), a=node("Begin", [], None), b=node("Anew", [], None))
        for chosen in ("a", "b")
    )
    assert taken_in(modules, one, two, one, follows=True)[0] == one


def test_what_is_stored_is_what_both_tabs_said(page: Page, other: Page, server: FakeServer) -> None:
    deaf(other)
    for tab, text in ((page, "From one"), (other, "From two"), (page, "From one again")):
        ask_and_wait(tab, text)
    page.reload()
    expect(questions(page).last).to_have_text("From one again")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    (kept,) = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["conversations"]
    said = [each["content"] for each in kept["nodes"].values() if each["role"] == "user"]
    assert sorted(said) == ["Begin", "From one", "From one again", "From two"]
