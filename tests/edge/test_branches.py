"""The lines of a conversation, and a chat that moves between them."""

from __future__ import annotations

import pytest

from edge.branches import Branches, shared_messages
from edge.chat import Chat
from edge.errors import EdgeError
from edge.prompt import Message
from tests.edge.fake_engine import FakeEngine


def line(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))


def test_lines_are_listed_in_the_order_in_which_they_began() -> None:
    branches = Branches().left(line("a", "1"), line("b", "1"))
    assert branches.lines(line("b", "1")) == (line("a", "1"), line("b", "1"))
    branches, current = branches.switched(line("b", "1"), 1)
    assert current == line("a", "1")
    assert branches.lines((*current, *line("c", "2"))) == (line("a", "1", "c", "2"), line("b", "1"))


def test_line_that_is_the_same_again_is_kept_once() -> None:
    assert Branches().left(line("a", "1"), line("a", "1")).lines(line("a", "1")) == (line("a", "1"),)


def test_number_of_no_branch_is_refused() -> None:
    with pytest.raises(EdgeError, match=r"There is no branch 0\.\nBranches: 1 to 1\."):
        Branches().switched((), 0)


def test_shared_messages_end_where_the_lines_part() -> None:
    assert shared_messages(line("a", "1", "b", "2"), line("a", "1", "c")) == 2
    assert shared_messages(line("a", "1"), line("a", "1", "c")) == 2


# In a chat


def ask(chat: Chat, text: str, turn: int | None = None) -> None:
    chat.send(text, turn=turn).result()


def test_turn_that_is_asked_anew_replaces_it_and_all_after_it() -> None:
    engine = FakeEngine(["1", "2", "3"])
    chat = Chat(engine)
    ask(chat, "a")
    ask(chat, "b")
    ask(chat, "c", turn=1)
    assert tuple(chat.messages) == line("c", "3")
    assert "b" not in engine.prompt().replace("<|im", "")[:40]
    assert chat.branches.others == (line("a", "1", "b", "2"),)


def test_turn_that_gets_no_answer_replaces_nothing() -> None:
    chat = Chat(FakeEngine(["1"]))
    ask(chat, "a")
    reply = chat.send("b", turn=1)
    reply.cancel()
    reply.result()
    assert tuple(chat.messages) == line("a", "1") and not chat.branches.others
    with pytest.raises(EdgeError, match=r"There is no turn 3\.\nTurns: 1 to 1\."):
        chat.send("b", turn=3)


def test_chat_goes_on_from_the_branch_that_it_was_switched_to() -> None:
    engine = FakeEngine(["1", "2", "3", "4"])
    chat = Chat(engine)
    ask(chat, "a")
    ask(chat, "a", turn=1)
    chat.switch_branch(1)
    ask(chat, "b")
    assert tuple(chat.messages) == line("a", "1", "b", "3")
    assert chat.branches.lines(chat.messages) == (line("a", "1", "b", "3"), line("a", "2"))


def test_branches_go_with_the_conversation_and_are_forgotten_with_it() -> None:
    chat, other = Chat(FakeEngine(["1", "2"])), Chat(FakeEngine())
    ask(chat, "a")
    ask(chat, "a", turn=1)
    other.resume(chat.conversation())
    other.switch_branch(1)
    assert tuple(other.messages) == line("a", "1")
    other.clear()
    assert other.branches == Branches()


def test_messages_that_were_left_out_come_back_where_there_is_room_again() -> None:
    engine = FakeEngine(context_tokens=255)
    chat = Chat(engine, max_tokens=20)
    chat.messages = [message for number in range(3) for message in line(f"{number}".ljust(30), "a" * 20)]
    ask(chat, "Next")
    assert chat.left_out == 4
    ask(chat, "Short", turn=2)
    assert chat.left_out == 0 and f"<|im_start|>user\n{'0'.ljust(30)}" in engine.prompt()
    chat.undo()
    assert len(chat.messages) == 2


def test_undo_without_turns_gives_nothing() -> None:
    assert Chat(FakeEngine()).undo() is None


def test_other_model_has_its_own_defaults_but_keeps_what_was_set() -> None:
    first, second = FakeEngine(), FakeEngine(context_tokens=99)
    chat = Chat(first)
    chat.set_sampling("top_k", 3)
    second.default_sampling = type(second.default_sampling)(temperature=0.9)
    chat.use(second)
    assert (chat.sampling.temperature, chat.sampling.top_k, chat.context_tokens) == (0.9, 3, 99)
    chat.reset_sampling("top_k")
    assert chat.sampling == second.default_sampling


def test_settings_of_a_session_stay_with_another_model_where_they_were_chosen() -> None:
    first, second = FakeEngine(), FakeEngine()
    chat = Chat(first, sampling=type(first.default_sampling)(temperature=0.5, top_p=0.3))
    second.default_sampling = type(second.default_sampling)(temperature=0.9)
    chat.use(second)
    assert (chat.sampling.temperature, chat.sampling.top_p) == (0.9, 0.3)
