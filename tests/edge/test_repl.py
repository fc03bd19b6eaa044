"""The terminal chat, without a terminal and without a model."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from edge.chat import Chat
from edge.constraint import Constraint
from edge.errors import EdgeError
from edge.prompt import Message
from edge.repl import converse
from edge.repl_commands import COMMANDS
from edge.repl_input import EditedLines, PlainLines, command_completer, prompt_session
from edge.repl_output import summary
from edge.request import Completion, FinishReason, Timing, Usage
from edge.session_shelf import Shelf
from edge.state_directory import state_directory
from tests.edge.fake_engine import FakeEngine
from tests.edge.talks import INTERRUPT, FakeModels, talk_with

TOO_LONG = EdgeError("The prompt has 9000 tokens, the context holds 4096.", hint="Shorten the prompt.")


def talk(chat: Chat, *items: str | BaseException, is_interactive: bool = True) -> None:
    engine = chat._engine
    assert isinstance(engine, FakeEngine)
    talk_with(engine, *items, chat=chat, is_interactive=is_interactive)


Captured = pytest.CaptureFixture[str]


def notes(capsys: Captured) -> list[str]:
    """Lines on stderr, without the greeting."""
    greeting, *lines = capsys.readouterr().err.splitlines()
    assert greeting == "Type a message. /help lists the commands, Ctrl-D ends the chat."
    return lines


def test_answers_go_to_stdout_and_what_they_took_to_stderr(capsys: Captured) -> None:
    talk(Chat(FakeEngine(["It is Paris.", "So it is."])), "Capital of France?", "Really?")
    captured = capsys.readouterr()
    assert captured.out == "It is Paris.\nSo it is.\n"
    assert "3 tokens · 4.0 tokens/s · first after 0.25 s · context 40 / 4096" in captured.err.splitlines()


def test_lines_of_a_pipe_get_an_answer_each_and_nothing_else_is_written(capsys: Captured) -> None:
    engine = FakeEngine(["It is Paris.", "So it is."])
    talk(Chat(engine), "Capital of France?", "Really?", is_interactive=False)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("It is Paris.\nSo it is.\n", "")
    assert "It is Paris." in engine.prompt()


def test_blank_messages_are_not_sent() -> None:
    engine = FakeEngine()
    talk(Chat(engine), "", "  \n", "Hi")
    assert len(engine.requests) == 1


def test_first_message_that_is_left_is_told_with_those_left_out(capsys: Captured) -> None:
    chat = Chat(FakeEngine(context_tokens=255), max_tokens=20)
    chat.messages = [
        message
        for number in range(3)
        for message in (Message("user", f"{number}".ljust(30)), Message("assistant", "a" * 20))
    ]
    talk(chat, "Next", is_interactive=False)
    assert capsys.readouterr().err == (
        "4 earlier messages no longer fit the context and were left out; it begins with: 2\n"
    )


def test_answer_that_was_cut_off_before_it_met_its_schema_says_so(capsys: Captured) -> None:
    engine = FakeEngine(['{"name": "Ada"}'])
    chat = Chat(engine, max_tokens=1)
    chat.constraint = Constraint.json_schema({"type": "object"})
    talk(chat, "Who?")
    assert "The answer was cut off before it met its schema. /set max_tokens allows more." in notes(capsys)


def test_messages_left_out_are_told_before_the_answer(capsys: Captured) -> None:
    chat = Chat(FakeEngine(context_tokens=200), max_tokens=20)
    talk(chat, "a" * 60, "b" * 60, "c" * 60, is_interactive=False)
    assert capsys.readouterr().err == (
        "4 earlier messages no longer fit the context and were left out; only the last message is read\n"
    )


# Commands


@pytest.mark.parametrize("command", ["/exit", "/exit now"])
def test_command_ends_the_chat(command: str) -> None:
    engine = FakeEngine()
    talk(Chat(engine), "Hi", command, "Still there?")
    assert len(engine.requests) == 1


def test_new_begins_a_conversation_and_keeps_the_system_text(capsys: Captured) -> None:
    engine = FakeEngine()
    talk(Chat(engine, system="Be brief."), "My name is Ada.", "/new", "What is my name?")
    assert "Ada" not in engine.prompt()
    assert "Be brief." in engine.prompt()
    assert "A new conversation." in notes(capsys)


def test_system_text_is_set_for_what_follows(capsys: Captured) -> None:
    engine = FakeEngine()
    talk(Chat(engine), "Hi", "/system  Answer in rhyme. ", "Hi")
    assert "system" not in engine.prompt(0)
    assert engine.prompt(1).startswith("<|im_start|>system\nAnswer in rhyme.<|im_end|>")
    assert "The system text is set, from the next message on." in notes(capsys)


def test_system_text_is_taken_away_with_off(capsys: Captured) -> None:
    engine = FakeEngine()
    talk(Chat(engine, system="Answer in rhyme."), "Hi", "/system off", "Hi", "/system")
    assert "system" in engine.prompt(0) and "system" not in engine.prompt(1)
    told = [line for line in notes(capsys) if "system text" in line]
    assert told == ["There is no system text, from the next message on.", "There is no system text."]


@pytest.mark.parametrize(("system", "shown"), [(None, "There is no system text."), ("Be brief.", "Be brief.")])
def test_system_without_a_text_shows_it(capsys: Captured, system: str | None, shown: str) -> None:
    talk(Chat(FakeEngine(), system=system), "/system")
    assert notes(capsys) == [shown]


def test_help_names_every_command_and_key(capsys: Captured) -> None:
    talk(Chat(FakeEngine()), "/help")
    text = "\n".join(notes(capsys))
    for command in COMMANDS:
        assert f"{command.usage} " in text and command.purpose in text
    for key in ("Tab", "Ctrl-D", "Ctrl-C", "Ctrl-R", "Ctrl-X Ctrl-E", "Alt-Enter", "backslash", "begins with a space"):
        assert key in text


def test_unknown_command_is_not_sent_and_a_known_one_is_offered(capsys: Captured) -> None:
    engine = FakeEngine()
    talk(Chat(engine), "/exti now", "Hi")
    error, hint, _ = notes(capsys)
    assert error == "error: There is no command /exti."
    assert hint == "hint:  Did you mean /exit? A space in front sends a message as it is."
    assert len(engine.requests) == 1


def test_message_that_begins_with_a_space_is_no_command() -> None:
    engine = FakeEngine()
    talk(Chat(engine), " /exit is what?")
    assert " /exit is what?" in engine.prompt()


# Errors


def test_error_in_a_turn_is_reported_and_the_chat_goes_on(capsys: Captured) -> None:
    talk(Chat(FakeEngine([TOO_LONG, "Hello."])), "x" * 9000, "Hi")
    captured = capsys.readouterr()
    assert captured.out == "Hello.\n"
    assert f"error: {TOO_LONG.message}\nhint:  {TOO_LONG.hint}\n" in captured.err


def test_error_in_the_middle_of_an_answer_begins_a_line_of_its_own(capsys: Captured) -> None:
    engine = FakeEngine(["one two three"])
    chat = Chat(engine)

    def fail(word: str) -> None:
        if word == "three":
            raise EdgeError("The engine failed.")

    engine.before_token = fail
    talk(chat, "Count")
    captured = capsys.readouterr()
    assert captured.out == "one two \n"
    assert "error: The engine failed.\n" in captured.err
    assert chat.messages[-1] == Message("assistant", "one two ")


def test_error_ends_the_answers_to_a_pipe(capsys: Captured) -> None:
    engine = FakeEngine(["Hello.", TOO_LONG, "never"])
    with pytest.raises(EdgeError, match="9000"):
        talk(Chat(engine), "Hi", "x" * 9000, "Hi again", is_interactive=False)
    assert capsys.readouterr().out == "Hello.\n"


# Ctrl-C


def interrupt_at(engine: FakeEngine, *words: str) -> None:
    """Let Ctrl-C be pressed when the engine is about to give one of these words."""
    engine.before_token = lambda word: signal.raise_signal(signal.SIGINT) if word.strip() in words else None


def test_ctrl_c_ends_the_answer_and_the_chat_goes_on_from_what_there_was(capsys: Captured) -> None:
    engine = FakeEngine(["one two three four", "Welcome."])
    interrupt_at(engine, "two")
    talk(Chat(engine), "Count", "Thanks")
    captured = capsys.readouterr()
    assert captured.out == "one two \nWelcome.\n"
    assert "2 tokens · 2.0 tokens/s · first after 0.25 s · context 26 / 4096 · interrupted" in captured.err
    assert "<|im_start|>assistant\none two <|im_end|>" in engine.prompt()


def test_second_ctrl_c_ends_the_waiting_if_the_first_has_no_effect(capsys: Captured) -> None:
    engine = FakeEngine(["one two three four", "Welcome."])

    def press_twice(word: str) -> None:
        if word == "two ":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    engine.before_token = press_twice
    talk(Chat(engine), "Count", "Thanks")
    assert capsys.readouterr().out == "one \nWelcome.\n"
    assert "<|im_start|>assistant\none <|im_end|>" in engine.prompt()


def test_ctrl_c_works_as_usual_after_an_answer() -> None:
    usual = signal.getsignal(signal.SIGINT)
    talk(Chat(FakeEngine()), "Hi")
    assert signal.getsignal(signal.SIGINT) is usual


def test_ctrl_c_ends_the_answers_to_a_pipe() -> None:
    engine = FakeEngine(["one two three four"])
    interrupt_at(engine, "two")
    with pytest.raises(KeyboardInterrupt):
        talk(Chat(engine), "Count", is_interactive=False)
    with pytest.raises(KeyboardInterrupt):
        talk(Chat(engine), INTERRUPT, is_interactive=False)


def test_ctrl_c_at_the_prompt_twice_in_a_row_tells_how_to_leave(capsys: Captured) -> None:
    talk(Chat(FakeEngine()), INTERRUPT, INTERRUPT, "/system")
    assert notes(capsys) == ["Ctrl-D or /exit ends the chat.", "There is no system text."]


def test_ctrl_c_at_the_prompt_once_in_a_while_says_nothing(capsys: Captured) -> None:
    talk(Chat(FakeEngine()), INTERRUPT, "", INTERRUPT, "/system", INTERRUPT)
    assert notes(capsys) == ["There is no system text."]


# What an answer took


def completion(tokens: int, reason: FinishReason = "stop") -> Completion:
    return Completion("", (), reason, Usage(100, 90, tokens), Timing(0.0, 0.123, 2.0 if tokens > 1 else 0.0))


def test_summary_has_tokens_rate_latency_and_context() -> None:
    expected = "41 tokens · 20.0 tokens/s · first after 0.12 s · context 141 / 2048"
    assert summary(completion(41), 2048) == expected


def test_summary_of_an_answer_that_ended_early_says_why() -> None:
    assert summary(completion(41, "length"), 2048).endswith(" · context 141 / 2048 · cut off at the token limit")
    assert summary(completion(41, "length"), 141).endswith(" · context 141 / 141 · cut off as the context is full")
    assert summary(completion(41, "cancelled"), 2048).endswith(" · context 141 / 2048 · interrupted")


def test_summary_leaves_out_what_was_not_measured() -> None:
    assert summary(completion(1), 2048) == "1 token · first after 0.12 s · context 101 / 2048"
    assert summary(completion(0), 2048) == "0 tokens · context 100 / 2048"


# Plain lines


def plain(content: bytes) -> PlainLines:
    return PlainLines(io.BytesIO(content), is_interactive=False)


def read_all(source: PlainLines) -> list[str]:
    return list(iter(source.read, None))


def test_lines_are_read_whatever_ends_them() -> None:
    assert read_all(plain("one\ntwo\r\n\n café ".encode())) == ["one", "two", "", " café "]


def test_backslash_at_the_end_of_a_line_continues_the_message() -> None:
    assert read_all(plain(b"one\\\ntwo\\\nthree\nfour")) == ["one\ntwo\nthree", "four"]


def test_message_that_is_to_be_continued_at_the_end_is_not_lost() -> None:
    assert read_all(plain(b"one\\\n")) == ["one"]


def test_line_that_is_not_utf8_is_refused_with_its_number() -> None:
    source = plain(b"one\ntw\xff\n")
    assert source.read() == "one"
    with pytest.raises(EdgeError, match="Line 2 of stdin is not UTF-8: byte 0xff at offset 2"):
        source.read()


# Edited lines


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


CTRL_C, CTRL_D, CTRL_R, ALT_ENTER, UP = "\x03", "\x04", "\x12", "\x1b\r", "\x1b[A"


def test_enter_sends_what_was_typed(keyboard: PipeInput) -> None:
    keyboard.send_text("Hello\rSecond\r")
    lines = EditedLines(prompt_session(InMemoryHistory()))
    assert [lines.read(), lines.read()] == ["Hello", "Second"]


def test_alt_enter_and_a_trailing_backslash_begin_another_line(keyboard: PipeInput) -> None:
    keyboard.send_text(f"one{ALT_ENTER}two\\\rthree\r")
    assert EditedLines(prompt_session(InMemoryHistory())).read() == "one\ntwo\nthree"


def test_backslash_inside_a_line_is_a_backslash(keyboard: PipeInput) -> None:
    keyboard.send_text("C:\\dir\r")
    assert EditedLines(prompt_session(InMemoryHistory())).read() == "C:\\dir"


def test_ctrl_d_at_an_empty_prompt_is_the_end(keyboard: PipeInput) -> None:
    keyboard.send_text(CTRL_D)
    assert EditedLines(prompt_session(InMemoryHistory())).read() is None


def test_ctrl_c_at_the_prompt_interrupts_and_clears_the_line(keyboard: PipeInput) -> None:
    lines = EditedLines(prompt_session(InMemoryHistory()))
    keyboard.send_text(f"half{CTRL_C}")
    with pytest.raises(KeyboardInterrupt):
        lines.read()
    keyboard.send_text("whole\r")
    assert lines.read() == "whole"


def test_earlier_messages_come_back_whole_even_in_another_chat(keyboard: PipeInput, tmp_path: Path) -> None:
    path = str(tmp_path / "history")
    keyboard.send_text(f"one{ALT_ENTER}two\r")
    EditedLines(prompt_session(FileHistory(path))).read()
    keyboard.send_text(f"{CTRL_R}one\r\r")  # found with the first Enter, sent with the second
    assert EditedLines(prompt_session(FileHistory(path))).read() == "one\ntwo"


def completions(typed: str) -> list[str]:
    """What Tab would make of a text."""
    completer = command_completer([("/save", "keep"), ("/set", "change")], lambda command, argument: ["seed", "system"])
    document = Document(typed, len(typed))
    found = completer.get_completions(document, CompleteEvent(completion_requested=True))
    return [typed[: len(typed) + each.start_position] + each.text for each in found]


def test_commands_and_what_follows_them_are_completed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert completions("/s") == ["/save", "/set"]
    assert completions("/set see") == ["/set seed"]
    assert completions(f"/read {tmp_path}/no") == [f"/read {tmp_path}/notes.txt"]


def test_messages_are_not_completed() -> None:
    assert completions("see") == completions(" /sa") == completions("/sa\n/sa") == []


def test_draft_is_there_to_be_edited(keyboard: PipeInput) -> None:
    keyboard.send_text("!\r")
    assert EditedLines(prompt_session(InMemoryHistory())).read("Hello") == "Hello!"


def test_draft_is_shown_where_it_cannot_be_edited(capsys: Captured) -> None:
    source = PlainLines(io.BytesIO(b"Hi\n"), is_interactive=True)
    assert source.read("Hel\x1blo") == "Hi"
    assert capsys.readouterr().err == "It was:\nHel\\x1blo\nType it anew; a blank line leaves it as it was.\n"


# The place of the history, and the choice of a source


def test_history_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path))
    assert state_directory() == tmp_path


def test_history_is_in_the_place_of_the_system_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_STATE", raising=False)
    assert state_directory().name == "edge"


def converse_with(engine: FakeEngine) -> None:
    chat, models = Chat(engine), FakeModels(engine, Path("model.gguf")).desk
    converse(chat, models, Shelf(Path("nowhere"), chat, models, keeps_unnamed=False))


class FakeTerminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def terminal(content: str = "") -> FakeTerminal:
    return FakeTerminal(io.BytesIO(content.encode()), encoding="utf-8")


def test_history_is_a_file_that_only_its_owner_may_read(
    keyboard: PipeInput, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin", terminal())
    monkeypatch.setattr("sys.stdout", terminal())
    keyboard.send_text(f"What do bees eat?\r{CTRL_D}")
    engine = FakeEngine()
    converse_with(engine)
    history = tmp_path / "state" / "chat-history"
    assert "+What do bees eat?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    assert len(engine.requests) == 1


def test_chat_works_where_no_history_can_be_kept(
    keyboard: PipeInput, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "file" / "state"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin", terminal())
    monkeypatch.setattr("sys.stdout", terminal())
    keyboard.send_text(f"Hi\r{CTRL_D}")
    engine = FakeEngine()
    converse_with(engine)
    assert len(engine.requests) == 1
    assert "What is typed is not kept for later: " in capsys.readouterr().err


def test_terminal_that_cannot_edit_is_read_line_by_line_and_goes_on_after_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdin", terminal("/nonsense\nHi\n"))
    engine = FakeEngine()
    converse_with(engine)
    captured = capsys.readouterr()
    assert captured.out == "ok\n"
    assert "error: There is no command /nonsense." in captured.err


def test_pipe_is_read_without_prompt_until_its_end(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Où?\nWo?".encode()), encoding="ascii"))
    engine = FakeEngine(["Là.", "Da."])
    converse_with(engine)
    assert capsys.readouterr().out == "Là.\nDa.\n"
    assert "Où?" in engine.prompt(0)
