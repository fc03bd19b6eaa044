"""Conversations: what is remembered, what is left out when the context is full, what is computed again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.chat import Chat, Conversation, Reply
from edge.errors import EdgeError
from edge.local_engine import LocalEngine as Engine
from edge.prompt import Message
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from tests.edge.fake_engine import FakeEngine

GREEDY = SamplingSettings(temperature=0)


def turn(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


def prompt_of(*messages: Message) -> str:
    turns = "".join(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages)
    return f"{turns}<|im_start|>assistant\n"


def ask(chat: Chat, question: str) -> Reply:
    """Send and read to the end."""
    reply = chat.send(question)
    reply.result()
    return reply


def test_each_prompt_begins_with_the_one_before_and_its_answer() -> None:
    engine = FakeEngine(["It is Paris.", "Two million."])
    chat = Chat(engine, system="Be brief.")
    assert "".join(chat.send("Capital of France?")) == "It is Paris."
    assert "".join(chat.send("How many people?")) == "Two million."
    system = Message("system", "Be brief.")
    first = prompt_of(system, Message("user", "Capital of France?"))
    second = prompt_of(system, *turn("Capital of France?", "It is Paris."), Message("user", "How many people?"))
    assert [engine.prompt(0), engine.prompt(1)] == [first, second]
    assert second.startswith(first)
    assert chat.messages == [*turn("Capital of France?", "It is Paris."), *turn("How many people?", "Two million.")]


def test_settings_travel_with_each_request() -> None:
    engine = FakeEngine()
    ask(Chat(engine, sampling=GREEDY, max_tokens=9, stop=["\n"]), "Hi")
    request = engine.requests[0]
    assert (request.sampling, request.max_tokens, request.stop) == (GREEDY, 9, ("\n",))


def test_without_sampling_settings_the_model_decides() -> None:
    engine = FakeEngine()
    ask(Chat(engine), "Hi")
    assert engine.requests[0].sampling is engine.default_sampling


def test_system_text_may_change_between_turns() -> None:
    engine = FakeEngine()
    chat = Chat(engine, system="Be brief.")
    ask(chat, "Hi")
    chat.system = None
    ask(chat, "Hi")
    assert engine.prompt(0).startswith("<|im_start|>system\nBe brief.")
    assert engine.prompt(1).startswith("<|im_start|>user\nHi")


def test_cleared_conversation_keeps_its_system_text_only() -> None:
    engine = FakeEngine()
    chat = Chat(engine, system="Be brief.")
    ask(chat, "Hi")
    chat.clear()
    ask(chat, "Hello")
    assert engine.prompt() == prompt_of(Message("system", "Be brief."), Message("user", "Hello"))


def test_completion_is_there_when_the_iteration_has_ended() -> None:
    reply = Chat(FakeEngine(["It is Paris."])).send("Capital of France?")
    assert reply.completion is None
    assert "".join(reply) == "It is Paris."
    assert reply.completion is not None
    assert reply.completion.text == "It is Paris."
    assert reply.completion.usage.completion_tokens == 3


def test_result_after_the_iteration_is_the_same_answer_and_is_remembered_once() -> None:
    chat = Chat(FakeEngine(["It is Paris."]))
    reply = chat.send("Capital of France?")
    list(reply)
    assert reply.result().text == "It is Paris."
    assert chat.messages == turn("Capital of France?", "It is Paris.")


def test_answer_that_is_left_early_is_remembered_as_far_as_it_went() -> None:
    chat = Chat(FakeEngine(["one two three four"]))
    for piece in chat.send("Count"):
        if piece == "two ":
            break
    gc.collect()
    assert chat.messages == turn("Count", "one two ")


def test_cancelled_answer_ends_and_the_next_prompt_holds_what_there_was() -> None:
    engine = FakeEngine(["one two three four"])
    chat = Chat(engine)
    reply = chat.send("Count")
    for piece in reply:
        if piece == "two ":
            reply.cancel()
    assert reply.result().finish_reason == "cancelled"
    ask(chat, "Go on")
    assert engine.prompt() == prompt_of(*turn("Count", "one two "), Message("user", "Go on"))


def test_question_cancelled_before_its_first_token_is_forgotten() -> None:
    chat = Chat(FakeEngine())
    reply = chat.send("Hi")
    reply.cancel()
    assert reply.result().text == ""
    assert chat.messages == []


def test_empty_answer_is_an_answer() -> None:
    chat = Chat(FakeEngine([""]))
    ask(chat, "Say nothing.")
    assert chat.messages == turn("Say nothing.", "")


# The toy vocabulary has a token for each character and control token, so a message of n characters takes n + 8 tokens
# from the user and n + 13 from the assistant; the head of the answer takes 11.


def long_chat(engine: FakeEngine, *, max_tokens: int | None = 20) -> Chat:
    """Three turns of 71 tokens each, numbered."""
    chat = Chat(engine, max_tokens=max_tokens)
    chat.messages = [message for number in range(3) for message in turn(f"{number}".ljust(30), "a" * 20)]
    return chat


def test_nothing_is_left_out_while_question_and_answer_fit() -> None:
    engine = FakeEngine(context_tokens=213 + 8 + 4 + 11 + 20)
    reply = ask(long_chat(engine), "Next")
    assert reply.dropped_messages == 0
    assert len(engine.requests[0].prompt_tokens) == 236


def test_oldest_turns_are_left_out_until_half_the_context_is_free() -> None:
    engine = FakeEngine(context_tokens=255)
    chat = long_chat(engine)
    reply = ask(chat, "Next")
    assert reply.dropped_messages == 4
    assert engine.prompt() == prompt_of(*turn("2".ljust(30), "a" * 20), Message("user", "Next"))
    assert len(chat.messages) == 8


def test_what_is_left_out_stays_out_and_is_told_once() -> None:
    engine = FakeEngine(context_tokens=255)
    chat = long_chat(engine)
    assert [ask(chat, "Next").dropped_messages, ask(chat, "Next").dropped_messages] == [4, 0]
    assert engine.prompt(1).startswith(engine.prompt(0))


def test_system_text_is_never_left_out() -> None:
    engine = FakeEngine(context_tokens=255)
    chat = long_chat(engine)
    chat.system = "Be brief."
    ask(chat, "Next")
    assert engine.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2")


def test_room_for_an_answer_of_unstated_length_is_a_quarter_of_the_context() -> None:
    # the prompt takes 236 tokens
    for context_tokens, expected in ((313, 4), (314, 0)):
        chat = long_chat(FakeEngine(context_tokens=context_tokens), max_tokens=None)
        assert ask(chat, "Next").dropped_messages == expected


def test_cleared_conversation_starts_with_the_whole_context() -> None:
    engine = FakeEngine(context_tokens=255)
    chat = long_chat(engine)
    ask(chat, "Next")
    chat.clear()
    ask(chat, "One")
    assert ask(chat, "Two").dropped_messages == 0
    assert "One" in engine.prompt()


def test_refused_question_leaves_the_conversation_as_it_was() -> None:
    engine = FakeEngine([EdgeError("The prompt has 300 tokens, the context holds 255.")], context_tokens=255)
    chat = long_chat(engine)
    before = list(chat.messages)
    with pytest.raises(EdgeError):
        chat.send("x" * 281)
    assert chat.messages == before
    engine.context_tokens = 4096
    ask(chat, "Next")
    assert engine.prompt() == prompt_of(*before, Message("user", "Next"))


def test_conversation_that_outgrows_the_context_is_refused_where_nothing_may_be_left_out() -> None:
    # the prompt takes 236 tokens
    engine = FakeEngine(context_tokens=255)
    chat = Chat(engine, max_tokens=20, overflow="error")
    chat.resume(long_chat(engine).conversation())
    with pytest.raises(EdgeError) as caught:
        chat.send("Next")
    assert caught.value.message == (
        "The conversation has 236 tokens, and its answer may have 20: more than the 255 of the context."
    )
    assert "--ctx" in caught.value.hint and "drop" in caught.value.hint
    assert len(chat.messages) == 6 and not engine.requests
    engine.context_tokens = 256
    assert ask(chat, "Next").dropped_messages == 0


def test_answer_of_unstated_length_may_have_what_is_left_where_nothing_may_be_left_out() -> None:
    for context_tokens, fits in ((236, False), (237, True)):
        engine = FakeEngine(context_tokens=context_tokens)
        chat = Chat(engine, overflow="error")
        chat.resume(long_chat(engine).conversation())
        if fits:
            assert ask(chat, "Next").dropped_messages == 0
        else:
            with pytest.raises(EdgeError, match="has 236 tokens, and its answer may have 1: more than the 236 of"):
                chat.send("Next")


# Going on


def test_conversation_goes_on_in_another_chat_as_it_would_in_this_one() -> None:
    first, second = FakeEngine(context_tokens=255), FakeEngine(context_tokens=255)
    chat = long_chat(first)
    chat.system = "Be brief."
    ask(chat, "Next")
    other = Chat(second, max_tokens=20)
    other.resume(chat.conversation())
    assert ask(chat, "And?").dropped_messages == ask(other, "And?").dropped_messages == 0
    assert second.prompt() == first.prompt()
    assert other.conversation() == chat.conversation()


def test_tokens_are_those_of_the_last_prompt_and_its_answer() -> None:
    engine = FakeEngine(["It is Paris.", "one two three"])
    chat = Chat(engine)
    ask(chat, "Capital?")
    assert chat.tokens == (*engine.requests[0].prompt_tokens, 1, 2, 3)
    for _ in chat.send("Count"):
        break
    gc.collect()
    assert chat.tokens == (*engine.requests[1].prompt_tokens, 1)
    chat.clear()
    assert chat.tokens == ()


# With a real model


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, ModelSettings(context_tokens=256, threads=1)) as opened:
        yield opened


@pytest.mark.model
def test_second_turn_computes_only_what_is_new(engine: Engine) -> None:
    chat = Chat(engine, sampling=GREEDY, max_tokens=16)
    first = chat.send("Count from one to twenty in words.").result()
    second = chat.send("Now backwards.").result()
    # all but the last token of the answer, which was chosen and never computed
    assert second.usage.cached_tokens == first.usage.prompt_tokens + first.usage.completion_tokens - 1


@pytest.mark.model
def test_answer_in_odd_tokens_is_not_computed_again(engine: Engine) -> None:
    letters = [token for letter in "The capital" for token in engine.vocab.tokenize(letter)]
    prompt = engine.chat_tokens([Message("user", "Name a capital.")])
    computed = (*prompt, *letters)
    engine.submit(Request(computed, sampling=GREEDY, max_tokens=1)).result()
    chat = Chat(engine, sampling=GREEDY, max_tokens=4)
    chat.resume(Conversation(tuple(turn("Name a capital.", "The capital")), tokens=computed))
    assert chat.send("Which?").result().usage.cached_tokens == len(computed)


@pytest.mark.model
def test_turn_after_a_cancelled_answer_reuses_what_was_computed(engine: Engine) -> None:
    chat = Chat(engine, sampling=GREEDY)
    reply = chat.send("Count from one to one hundred in words.")
    for number, _ in enumerate(reply):
        if number == 5:
            reply.cancel()
    cancelled = reply.result()
    assert cancelled.finish_reason == "cancelled"
    assert chat.messages[-1] == Message("assistant", cancelled.text)
    following = chat.send("Thank you.").result()
    assert following.usage.cached_tokens > cancelled.usage.prompt_tokens


@pytest.mark.model
def test_conversation_outgrows_the_context_and_goes_on(engine: Engine) -> None:
    chat = Chat(engine, sampling=GREEDY, max_tokens=8)
    question = "The bees are dancing again. " * 8
    dropped = [ask(chat, question).dropped_messages for _ in range(5)]
    assert dropped[:2] == [0, 0]
    assert sum(dropped) > 0
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 5
    assert all(message.content for message in chat.messages)


@pytest.mark.model
def test_single_question_too_long_for_the_context_is_refused_with_both_numbers(engine: Engine) -> None:
    chat = Chat(engine, sampling=GREEDY)
    with pytest.raises(EdgeError, match=r"The prompt has 6\d\d tokens, the context holds 256\."):
        chat.send("bee " * 600)
    assert chat.messages == []
