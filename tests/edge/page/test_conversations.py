"""Conversations that are kept in the browser: listed, found, renamed, deleted, exported, imported."""

from __future__ import annotations

import json
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
    open_settings,
    questions,
    titles,
)
from tests.edge.page.fake_server import FakeServer, Wait


def new(page: Page) -> None:
    page.get_by_role("button", name="New conversation", exact=True).click()


def act(page: Page, title: str, action: str) -> None:
    item = page.locator("#conversations li", has_text=title)
    item.hover()
    item.get_by_role("button", name=action).click()


def give(page: Page, content: str) -> None:
    page.locator("#import-file").set_input_files(
        [{"name": "given.json", "mimeType": "application/json", "buffer": content.encode()}]
    )


def test_a_conversation_is_there_again_after_a_reload(page: Page, server: FakeServer) -> None:
    server.says("Kept.")
    ask_and_wait(page, "Will this last?")
    expect(titles(page)).to_have_text(["Will this last?"])
    page.reload()
    expect(questions(page)).to_have_text("Will this last?")
    expect(answers(page)).to_have_text("Kept.")


def test_conversations_are_listed_newest_first_and_opened(page: Page) -> None:
    for text in ("First", "Second"):
        ask_and_wait(page, text)
        new(page)
    expect(titles(page)).to_have_text(["Second", "First"])
    page.get_by_role("button", name="First", exact=True).click()
    expect(questions(page)).to_have_text("First")
    page.go_back()
    expect(page.locator("#title")).to_have_text("New conversation")


def test_search_looks_into_titles_and_messages(page: Page, server: FakeServer) -> None:
    server.says("A hive of them.")
    ask_and_wait(page, "Bees")
    new(page)
    ask_and_wait(page, "Ants")
    page.get_by_label("Search conversations").fill("HIVE")
    expect(titles(page)).to_have_text(["Bees"])
    page.get_by_label("Search conversations").fill("wasps")
    expect(page.locator("#none-found")).to_have_text("Nothing found.")
    page.keyboard.press("Escape")
    expect(titles(page)).to_have_count(2)


def test_a_conversation_is_renamed(page: Page) -> None:
    ask_and_wait(page, "Old")
    act(page, "Old", "Rename")
    page.get_by_label("New name").fill("Better")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Better"])
    expect(page.locator("#title")).to_have_text("Better")
    page.reload()
    expect(titles(page)).to_have_text(["Better"])


def test_a_deleted_conversation_can_be_had_back(page: Page) -> None:
    ask_and_wait(page, "Precious")
    act(page, "Precious", "Delete")
    expect(titles(page)).to_have_count(0)
    expect(page.locator("#none-found")).to_have_text("No conversations yet.")
    expect(page.locator("#title")).to_have_text("New conversation")
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text(["Precious"])
    expect(questions(page)).to_have_text("Precious")
    page.reload()
    expect(titles(page)).to_have_text(["Precious"])


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(page: Page, server: FakeServer) -> None:
    server.says("Still", Wait(), " going")
    ask(page, "Gone")
    expect(answers(page)).to_have_text("Still")
    act(page, "Gone", "Delete")
    expect(titles(page)).to_have_count(0)
    page.reload()
    expect(page.locator("#none-found")).to_have_text("No conversations yet.")


def test_an_answer_goes_on_while_another_conversation_is_open(page: Page, server: FakeServer) -> None:
    server.says("Begun", Wait(), " and ended.")
    ask(page, "Slow")
    expect(answers(page)).to_have_text("Begun")
    new(page)
    ask_and_wait(page, "Quick")
    server.go_on()
    page.get_by_role("button", name="Slow", exact=True).click()
    expect(answers(page)).to_have_text("Begun and ended.")


def test_an_answer_that_a_closed_page_cut_off_says_so(page: Page, server: FakeServer) -> None:
    server.says("Up to here", Wait())
    ask(page, "Hi")
    expect(answers(page)).to_have_text("Up to here")
    page.reload()
    expect(answers(page)).to_have_text("Up to here")
    expect(page.locator(".note")).to_have_text("The page was closed before this answer was complete.")


def test_an_answer_that_ended_as_the_page_is_closed_is_kept(page: Page, server: FakeServer) -> None:
    server.says("The first half, ", Wait(), "and the second.")
    ask(page, "Hi")
    expect(answers(page)).to_have_text("The first half,")
    keep_from_storing(page)
    server.go_on()
    expect(answers(page)).to_have_text("The first half, and the second.")
    expect(page.get_by_role("button", name="Answer again")).to_be_visible()
    page.reload()
    expect(answers(page)).to_have_text("The first half, and the second.")
    expect(page.locator(".note")).to_have_count(0)


def test_what_a_closed_page_left_is_taken_in_once(page: Page, server: FakeServer) -> None:
    server.says("Half", Wait())
    ask(page, "Hi")
    expect(answers(page)).to_have_text("Half")
    expect(titles(page)).to_have_text(["Hi"])
    keep_from_storing(page)
    page.goto("about:blank")
    other = page.context.new_page()
    other.goto(server.address)
    act(other, "Hi", "Delete")
    expect(titles(other)).to_have_count(0)
    page.goto(server.address)
    expect(titles(page)).to_have_count(0)
    assert left_behind(page) == []


def test_what_was_left_of_a_conversation_that_is_gone_or_of_none_is_forgotten(page: Page, server: FakeServer) -> None:
    ask_and_wait(page, "Hi")
    left = page.evaluate(
        """async () => {
            const request = indexedDB.open("edge");
            const database = await new Promise((resolve) => { request.onsuccess = () => resolve(request.result); });
            const all = database.transaction("conversations").objectStore("conversations").getAll();
            const [conversation] = await new Promise((resolve) => { all.onsuccess = () => resolve(all.result); });
            const left = { conversation: { ...conversation, id: "gone" }, stored: conversation };
            localStorage.setItem("edge.left.gone", JSON.stringify(left));
            localStorage.setItem("edge.left.nothing", "{");
            return Object.keys(localStorage).length;
        }"""
    )
    assert left >= 2
    page.reload()
    expect(titles(page)).to_have_text(["Hi"])
    assert left_behind(page) == []


def test_a_setting_of_the_last_moment_is_kept(page: Page, server: FakeServer) -> None:
    ask_and_wait(page, "Hi")
    open_settings(page)
    keep_from_storing(page)
    page.get_by_label("System prompt").fill("Be brief.")
    page.reload()
    open_settings(page)
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")


def test_another_tab_shows_what_this_one_did(page: Page, server: FakeServer) -> None:
    other = page.context.new_page()
    other.goto(server.address)
    ask_and_wait(page, "From the first tab")
    expect(titles(other)).to_have_text(["From the first tab"])
    titles(other).click()
    ask_and_wait(page, "And again")
    expect(questions(other)).to_have_text(["From the first tab", "And again"])


def exported(page: Page) -> dict[str, Any]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    assert download.value.suggested_filename.startswith("edge-conversations-")
    content: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    return content


def test_what_is_exported_is_imported_whole(page: Page, server: FakeServer) -> None:
    for text in ("One.", "Two."):
        server.says(text)
    open_settings(page)
    page.get_by_label("System prompt").fill("Be brief.")
    page.locator("#setting-top_k").fill("7")
    ask_and_wait(page, "Count")
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_have_text("Two.")
    expect(page.locator("#main")).not_to_have_class("answering")
    content = exported(page)
    assert (content["format"], content["version"], len(content["conversations"])) == ("edge-conversations", 1, 1)
    act(page, "Count", "Delete")
    expect(titles(page)).to_have_count(0)
    give(page, json.dumps(content))
    expect(page.locator("#toasts")).to_contain_text("1 conversation was imported.")
    expect(titles(page)).to_have_text(["Count"])
    expect(answers(page)).to_have_text("Two.")
    expect(page.locator("#setting-top_k")).to_have_value("7")
    page.get_by_role("button", name="Previous alternative").click()
    expect(answers(page)).to_have_text("One.")
    ask_and_wait(page, "More")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["Be brief.", "Count", "One.", "More"]


def test_one_conversation_is_exported_by_itself(page: Page) -> None:
    ask_and_wait(page, "First")
    new(page)
    ask_and_wait(page, "Second")
    with page.expect_download() as download:
        act(page, "First", "Export")
    content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    (conversation,) = content["conversations"]
    assert sorted(node["content"] for node in conversation["nodes"].values()) == ["", "First", "Hello there."]


def test_an_imported_conversation_takes_the_place_of_none(page: Page) -> None:
    ask_and_wait(page, "Twice")
    content = exported(page)
    give(page, json.dumps(content))
    expect(titles(page)).to_have_text(["Twice", "Twice"])


def node(**members: Any) -> dict[str, Any]:
    return {"id": "a", "role": "user", "content": "x", "children": [], "chosen": None, **members}


ROOT = node(role="root", content="", children=["a"], chosen="a")


def file_of(nodes: dict[str, Any] | None, **members: Any) -> str:
    conversation = {"title": "", "system": "", "settings": {}, "schema": "", "nodes": nodes, **members}
    return json.dumps({"format": "edge-conversations", "version": 1, "conversations": [conversation]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "The file is not JSON"),
        ("[]", "This is no file of conversations that was exported here."),
        ('{"format": "edge-conversations", "version": 2}', "The file has version 2; this page reads 1."),
        ('{"format": "edge-conversations", "version": 1}', "The file has no list of conversations."),
        (file_of(None), "conversations[0].nodes has no root."),
        (file_of({"root": ROOT}), "conversations[0].nodes.a is missing or no message."),
        (file_of({"root": ROOT, "a": node(role="system")}), "conversations[0].nodes.a has the role system."),
        (file_of({"root": ROOT, "a": node(children=["a"])}), "conversations[0].nodes.a is there twice."),
        (file_of({"root": ROOT, "a": node(children=["root"])}), "conversations[0].nodes.root is there twice."),
        (file_of({"root": ROOT, "a": node(content=5)}), "conversations[0].nodes.a.content is no text."),
        (file_of({"root": ROOT, "a": node()}, title=[]), "conversations[0].title is no text."),
    ],
)
def test_a_file_that_is_no_export_says_why_and_changes_nothing(page: Page, content: str, reason: str) -> None:
    give(page, content)
    expect(page.locator("#toasts")).to_contain_text("Nothing was imported.")
    expect(page.locator("#toasts")).to_contain_text(reason)
    expect(titles(page)).to_have_count(0)


def test_of_a_strangers_file_only_known_and_allowed_settings_are_taken(page: Page, server: FakeServer) -> None:
    settings = {"top_k": 9, "top_p": 40, "seed": "x", "stop": ["a"], "lora": [{"name": "/etc/passwd"}]}
    nodes = {"root": ROOT, "a": node(content="<img src=x onerror=alert(1)>", extra=1)}
    give(page, file_of(nodes, settings=settings, id="../../etc", model="gone"))
    expect(questions(page)).to_have_text("<img src=x onerror=alert(1)>")
    ask_and_wait(page, "Go on")
    body = server.bodies[0]
    assert body.keys() == {"messages", "model", "stream", "stream_options", "top_k", "stop"}
    assert body["model"] == "tiny-model"


def test_without_a_database_the_page_works_and_says_that_nothing_is_kept(page: Page, server: FakeServer) -> None:
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: { open() { throw new Error('no'); } } })")
    page.reload()
    expect(page.locator("#banner")).to_contain_text("This browser keeps no conversations")
    ask_and_wait(page, "Hi")
    expect(titles(page)).to_have_text(["Hi"])


def test_five_hundred_messages_open_at_their_end(page: Page) -> None:
    nodes = {"root": {**ROOT, "children": ["n0"], "chosen": "n0"}}
    for index in range(500):
        below = [f"n{index + 1}"] if index < 499 else []
        role = "assistant" if index % 2 else "user"
        nodes[f"n{index}"] = node(role=role, content=f"Message **{index}**\n\n" * 5, children=below)
    give(page, file_of(nodes))
    expect(page.locator(".message")).to_have_count(500)
    expect(page.locator(".message").last).to_be_in_viewport()
    ask_and_wait(page, "One more")
    expect(page.locator(".message").last).to_be_in_viewport()
    expect(page.locator(".message")).to_have_count(502)
