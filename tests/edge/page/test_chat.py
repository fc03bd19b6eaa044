"""Questions and answers on the page: asked, streamed, stopped, tried again, edited, and refused."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.edge.page.acting import answers, ask, ask_and_wait, module, open_settings, questions
from tests.edge.page.fake_server import Drop, FakeServer, Wait

STOP = "button:has-text('Stop'), #send.stop"


def test_an_answer_appears_while_it_is_written(page: Page, server: FakeServer) -> None:
    server.says("First part", Wait(), " and second.")
    ask(page, "Say two things")
    expect(questions(page)).to_have_text("Say two things")
    expect(answers(page)).to_have_text("First part")
    expect(page.locator(".message.assistant")).to_have_attribute("aria-busy", "true")
    server.go_on()
    expect(answers(page)).to_have_text("First part and second.")
    expect(page.locator(".message.assistant")).not_to_have_attribute("aria-busy", "true")


def test_only_what_was_set_is_sent(page: Page, server: FakeServer) -> None:
    ask_and_wait(page, "Hi")
    assert server.bodies == [
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "model": "tiny-model",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_settings_and_the_system_prompt_are_sent_under_the_servers_names(page: Page, server: FakeServer) -> None:
    open_settings(page)
    page.get_by_label("System prompt").fill("Be brief.")
    for name, value in {"temperature": "0,5", "top_k": "20", "max_tokens": "99", "stop": "END\n\\n\\n"}.items():
        page.locator(f"#setting-{name}").fill(value)
    ask_and_wait(page, "Hi")
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    sent = {name: body[name] for name in ("temperature", "top_k", "max_tokens", "stop")}
    assert sent == {"temperature": 0.5, "top_k": 20, "max_tokens": 99, "stop": ["END", "\n\n"]}


def test_every_setting_of_the_page_is_one_that_the_server_reads(page: Page) -> None:
    from edge.openai_request import KNOWN_FIELDS

    names = module(page, "settings.js", "(m) => m.SETTINGS.map((setting) => setting.name)")
    assert len(names) == 10
    assert set(names) <= set(KNOWN_FIELDS)


def test_a_setting_out_of_range_says_so_and_is_not_sent(page: Page, server: FakeServer) -> None:
    open_settings(page)
    page.locator("#setting-top_p").fill("3")
    expect(page.locator("#setting-top_p-problem")).to_have_text("Top p must be above 0 and at most 1.")
    page.locator("#setting-seed").fill("1.5")
    expect(page.locator("#setting-seed-problem")).to_have_text("Seed must be a whole number.")
    page.locator("#setting-seed").fill("-1")
    expect(page.locator("#setting-seed-problem")).to_have_text("Seed must be at least 0.")
    page.locator("#setting-min_p").fill("a little")
    expect(page.locator("#setting-min_p-problem")).to_have_text("Min p must be a number.")
    ask(page, "Hi")
    expect(page.locator("#toasts")).to_contain_text("Put this right first, or leave it empty.")
    expect(page.locator("#setting-top_p")).to_be_focused()
    assert server.bodies == []


def test_settings_can_be_made_those_of_new_conversations(page: Page, server: FakeServer) -> None:
    open_settings(page)
    page.locator("#setting-temperature").fill("0")
    page.get_by_role("button", name="Use for new conversations").click()
    expect(page.locator("#toasts")).to_contain_text("New conversations begin with these settings.")
    page.get_by_role("button", name="New conversation", exact=True).click()
    ask_and_wait(page, "Hi")
    assert server.bodies[0]["temperature"] == 0


def test_the_figures_of_an_answer_are_the_servers(page: Page, server: FakeServer) -> None:
    server.says("a", "b", Wait(), "c", prompt_tokens=200)
    ask(page, "Hi")
    expect(answers(page)).to_have_text("ab")
    server.go_on()
    facts = page.locator(".facts")
    expect(facts).to_have_text(re.compile(r"^3 tokens · [\d,]+\.\d tokens/s · first after \d+\.\d\d s$"))
    expect(page.locator("#context-words")).to_have_text("203 of 512 tokens")
    expect(page.locator("#context-bar")).to_have_attribute("aria-valuenow", "40")


def test_an_answer_can_be_stopped_and_keeps_what_it_has(page: Page, server: FakeServer) -> None:
    server.says("As far as", Wait(), "never", Wait(), "more")
    ask(page, "Go on for ever")
    expect(answers(page)).to_have_text("As far as")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".facts")).to_contain_text("stopped")
    expect(answers(page)).to_have_text("As far as")
    assert server.was_left.wait(30), "the server was not told that nobody listens any more"
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_another_answer_is_an_alternative_and_both_stay(page: Page, server: FakeServer) -> None:
    server.says("One.")
    server.says("Two.")
    ask_and_wait(page, "Count")
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_have_text("Two.")
    branches = page.get_by_role("group", name="Alternatives")
    expect(branches).to_contain_text("2 / 2")
    page.get_by_role("button", name="Previous alternative").click()
    expect(answers(page)).to_have_text("One.")
    expect(branches).to_contain_text("1 / 2")
    expect(page.get_by_role("button", name="Next alternative")).to_be_focused()
    assert server.bodies[0]["messages"] == server.bodies[1]["messages"] == [{"role": "user", "content": "Count"}]


def test_an_edited_question_begins_a_branch_with_its_own_answers(page: Page, server: FakeServer) -> None:
    for text in ("Bees.", "Yes, bees.", "Wasps."):
        server.says(text)
    ask_and_wait(page, "Who?")
    ask_and_wait(page, "Sure?")
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    field = page.get_by_label("Edit the message")
    expect(field).to_have_value("Who?")
    field.fill("Who else?")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(["Wasps."])
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Who else?"}]
    page.get_by_role("button", name="Previous alternative").click()
    expect(questions(page)).to_have_text(["Who?", "Sure?"])
    expect(answers(page)).to_have_text(["Bees.", "Yes, bees."])


def test_an_edited_answer_is_what_the_model_is_told_it_said(page: Page, server: FakeServer) -> None:
    server.says("Wrong.")
    ask_and_wait(page, "Hi")
    page.locator(".message.assistant").get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("Right.")
    page.get_by_role("button", name="Save").click()
    expect(answers(page)).to_have_text("Right.")
    ask_and_wait(page, "And?")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["Hi", "Right.", "And?"]


def test_escape_leaves_a_message_as_it_was(page: Page) -> None:
    ask_and_wait(page, "Hi")
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("changed")
    page.keyboard.press("Escape")
    expect(questions(page)).to_have_text("Hi")


def test_a_refusal_is_shown_in_place_with_what_to_do_and_can_be_tried_again(page: Page, server: FakeServer) -> None:
    server.refuses(400, "The prompt has 700 tokens and the context 512.", code="context_length_exceeded")
    server.says("Now it fits.")
    ask(page, "Long")
    failure = page.locator(".failure")
    expect(failure).to_contain_text("The prompt has 700 tokens and the context 512.")
    expect(failure).to_contain_text("Start a new conversation, or edit an earlier message to be shorter.")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text(["Now it fits."])
    expect(failure).to_have_count(0)
    expect(page.get_by_role("group", name="Alternatives")).to_have_count(0)


def test_a_busy_server_says_when_to_come_again(page: Page, server: FakeServer) -> None:
    server.refuses(429, "256 requests wait already.", headers={"Retry-After": "7"})
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("256 requests wait already. Try again in 7 seconds.")


def test_a_wrong_setting_is_named(page: Page, server: FakeServer) -> None:
    server.refuses(400, "top_k is too much.", param="top_k")
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("top_k is too much. Change top_k in the settings, then try again.")


def test_a_connection_that_is_lost_keeps_what_arrived(page: Page, server: FakeServer) -> None:
    server.says("Half of ", Drop())
    server.says("All of it.")
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("The connection was lost before the answer was complete.")
    expect(page.locator(".failure")).to_contain_text("What arrived is kept.")
    expect(page.locator(".failure ~ .row .facts")).to_contain_text("incomplete")
    expect(answers(page)).to_have_text("Half of")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text("All of it.")
    page.get_by_role("button", name="Previous alternative").click()
    expect(answers(page)).to_have_text("Half of")


def test_an_error_in_the_middle_of_an_answer_is_shown_after_it(page: Page, server: FakeServer) -> None:
    server.says("So far", {"message": "The model's process ended."})
    ask(page, "Hi")
    expect(answers(page)).to_have_text("So far")
    expect(page.locator(".failure")).to_contain_text("The model's process ended.")


def test_a_server_that_is_gone_is_said_to_be(page: Page, server: FakeServer) -> None:
    server.close()
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("The server cannot be reached. Is it still running?")


def test_an_answer_cut_off_at_its_limit_says_so(page: Page, server: FakeServer) -> None:
    server.says("Once upon", finish_reason="length")
    ask_and_wait(page, "Tell")
    expect(page.locator(".facts")).to_contain_text("cut off at its limit")


def test_one_token_is_one(page: Page, server: FakeServer) -> None:
    server.says("Yes.")
    ask_and_wait(page, "Sure?")
    expect(page.locator(".facts")).to_contain_text("1 token ·")


def test_an_empty_answer_says_so(page: Page, server: FakeServer) -> None:
    server.says()
    ask(page, "Hi")
    expect(page.locator(".note")).to_have_text("The answer is empty.")


def test_a_key_is_asked_for_once_and_kept_for_the_tab_only(page: Page, server: FakeServer) -> None:
    server.key = "secret"
    page.reload()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This server asks for an API key")
    page.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("The server does not know this API key.")
    page.get_by_label("API key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_be_hidden()
    ask_and_wait(page, "Hi")
    kept = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert "secret" not in kept[0] and "secret" in kept[1]


def test_a_key_that_is_asked_for_later_leads_back_to_the_question(page: Page, server: FakeServer) -> None:
    server.key = "secret"
    ask(page, "Hi")
    expect(page.locator(".failure")).to_contain_text("The server asks for an API key.")
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_label("API key", exact=True).fill("secret")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text("Hello there.")


def test_one_of_several_models_is_chosen(page: Page, server: FakeServer) -> None:
    expect(page.locator("#model-name")).to_have_text("tiny-model")
    server.models.append({"id": "other-model", "object": "model"})
    page.reload()
    page.get_by_label("Model").select_option("other-model")
    ask_and_wait(page, "Hi")
    assert server.bodies[0]["model"] == "other-model"
    expect(page.locator("#context-words")).to_have_text("22 tokens")


def test_nothing_is_loaded_from_another_host(page: Page, server: FakeServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    server.says("![picture](https://example.org/a.png) and [link](https://example.org)")
    page.reload()
    ask_and_wait(page, "Hi")
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith(server.address)] == []


def test_events_are_found_however_they_are_cut(modules: Page) -> None:
    text = "data: one\r\n\r\n: comment\ndata: two\ndata:more\n\nevent: x\r\rdata: é\n\ndata: unfinished"
    call = """(m, text, size) => {
        const parser = new m.EventParser();
        const found = [];
        for (let at = 0; at < text.length; at += size) found.push(...parser.push(text.slice(at, at + size)));
        return found;
    }"""
    for size in (1, 2, 3, 7, 1000):
        assert module(modules, "sse.js", call, text, size) == ["one", "two\nmore", "é"]
