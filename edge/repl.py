"""The terminal chat behind `edge chat`: messages and commands in, answers out.

Answers go to stdout and everything else to stderr. Knows nothing of models, only of a `Chat` and of where lines come
from: an edited prompt, a plain terminal or a pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from edge.chat import Chat
from edge.errors import EdgeError
from edge.request import Completion
from edge.terminal import decode_utf8, note, report_error

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_GREETING = "Type a message. /help lists the commands, Ctrl-D ends the chat."
_HOW_TO_EXIT = "Ctrl-D or /exit ends the chat."
_HELP = """\
/system [TEXT]  show the system text, or set it
/clear          forget the conversation; the system text stays
/help           show this list
/exit, /quit    end the chat, as Ctrl-D does

Alt-Enter, or a backslash at the end of a line, begins another line of the same message.
Ctrl-C ends an answer; what was written of it stays in the conversation.
A message that begins with a space is never taken for a command."""
_ENDS = {"length": "cut off at the token limit", "cancelled": "interrupted"}


class Source(Protocol):
    """Where messages come from."""

    @property
    def is_interactive(self) -> bool:
        """Whether a person is typing, who can try again after an error and may interrupt an answer."""

    def read(self) -> str | None:
        """The next message, which may have several lines; None when there will be no more."""


def converse(chat: Chat, after_answer: Callable[[], None] = lambda: None) -> None:
    """Talk in the terminal until its user leaves, or answer the lines of a pipe until it ends.

    From a pipe, the first EdgeError ends it.
    """
    is_typed = sys.stdin.isatty()
    if is_typed and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        Session(chat, EditedLines(prompt_session(_history())), after_answer).run()
    else:
        Session(chat, PlainLines(sys.stdin.buffer, is_interactive=is_typed), after_answer).run()


class Session:
    """One conversation with one source of messages."""

    def __init__(self, chat: Chat, source: Source, after_answer: Callable[[], None] = lambda: None) -> None:
        self._chat = chat
        self._source = source
        self._after_answer = after_answer

    def run(self) -> None:
        if self._source.is_interactive:
            _quiet_note(_GREETING)
        goes_on = True
        while goes_on:
            try:
                goes_on = self._take_turn()
            except EdgeError as error:
                if not self._source.is_interactive:
                    raise
                report_error(error)

    def _take_turn(self) -> bool:
        """Read a message and do what it asks for; False if it was the last one."""
        text = self._next_message()
        if text is None:
            return False
        if text.startswith("/"):
            return self._obey(text)
        self._answer(text)
        return True

    def _next_message(self) -> str | None:
        """The next message that is not blank. Interrupting twice in a row tells how to leave."""
        interrupts = 0
        while True:
            try:
                text = self._source.read()
            except KeyboardInterrupt:
                if not self._source.is_interactive:
                    raise
                interrupts += 1
                if interrupts > 1:
                    note(_HOW_TO_EXIT)
                continue
            if text is None or text.strip():
                return text
            interrupts = 0

    def _obey(self, text: str) -> bool:
        """Do what a command says; False if it ends the chat."""
        command, *rest = text.split(maxsplit=1)
        match command:
            case "/exit" | "/quit":
                return False
            case "/clear":
                self._chat.clear()
                note("The conversation is forgotten.")
            case "/system" if rest:
                self._chat.system = rest[0].strip()
                note("The system text is set, from the next message on.")
            case "/system":
                note(self._chat.system or "There is no system text.")
            case "/help":
                note(_HELP)
            case _:
                raise EdgeError(
                    f"There is no command {command}.",
                    hint="Commands: /system, /clear, /help, /exit, /quit. A space in front sends a message as it is.",
                )
        return True

    def _answer(self, text: str) -> None:
        """Write the answer to a message as it comes."""
        reply = self._chat.send(text)
        if reply.dropped_messages:
            note(f"{reply.dropped_messages} earlier messages no longer fit the context and were left out.")
        interruption = _interrupting(reply.cancel) if self._source.is_interactive else contextlib.nullcontext()
        try:
            with interruption:
                for piece in reply:
                    print(piece, end="", flush=True)
        finally:
            print(flush=True)
        if self._source.is_interactive and reply.completion:
            _quiet_note(summary(reply.completion, self._chat.context_tokens))
        self._after_answer()


def summary(completion: Completion, context_tokens: int) -> str:
    """What an answer took, in a line: `57 tokens · 34.1 tokens/s · first after 0.12 s · context 312 / 8192`."""
    usage, timing = completion.usage, completion.timing
    rate = timing.tokens_per_second(usage)
    parts = [
        f"{usage.completion_tokens} token{'s' * (usage.completion_tokens != 1)}",
        f"{rate:.1f} tokens/s" if rate else "",
        f"first after {timing.first_token_seconds:.2f} s" if usage.completion_tokens else "",
        f"context {usage.prompt_tokens + usage.completion_tokens} / {context_tokens}",
        _ENDS.get(completion.finish_reason, ""),
    ]
    return " · ".join(part for part in parts if part)


@contextlib.contextmanager
def _interrupting(cancel: Callable[[], None]) -> Iterator[None]:
    """Inside the block, the first Ctrl-C calls `cancel` and any further one interrupts as usual."""

    usual = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        cancel()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _quiet_note(text: str) -> None:
    """A line on stderr that does not ask for attention."""
    from rich.console import Console

    Console(stderr=True).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


class PlainLines:
    """Lines of bytes as they come; one that ends with a backslash goes on in the next."""

    def __init__(self, stream: IO[bytes], *, is_interactive: bool) -> None:
        self.is_interactive = is_interactive
        self._stream = stream
        self._line_number = 0

    def read(self) -> str | None:
        lines: list[str] = []
        while content := self._stream.readline():
            self._line_number += 1
            line = decode_utf8(content, f"Line {self._line_number} of stdin").rstrip("\r\n")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line.removesuffix("\\"))
        return "\n".join(lines) if lines else None


class EditedLines:
    """Messages edited in a terminal, with a history."""

    is_interactive = True

    def __init__(self, session: PromptSession[str]) -> None:
        self._session = session

    def read(self) -> str | None:
        try:
            return self._session.prompt("> ")
        except EOFError:
            return None


def prompt_session(history: History) -> PromptSession[str]:
    """A prompt for messages of several lines, which Enter sends."""
    from prompt_toolkit import PromptSession

    return PromptSession(
        history=history,
        key_bindings=_key_bindings(),
        multiline=True,
        prompt_continuation="  ",
        enable_suspend=True,
    )


def _key_bindings() -> KeyBindings:
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)  # and not in a search through the history, where Enter means something else

    @keys.add("enter", filter=in_message)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=in_message)
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def state_directory() -> Path:
    """Where history and sessions are kept: the folder named by EDGE_STATE, or the system's place for such things."""
    if folder := os.environ.get("EDGE_STATE"):
        return Path(folder).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("edge", appauthor=False)


def _history() -> History:
    """What was typed in earlier chats, in a file that only its owner may read; forgotten where none can be made."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = state_directory() / "chat-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        note(f"What is typed is not kept for later: {path} cannot be written ({error.strerror or error}).")
        return InMemoryHistory()
    return FileHistory(str(path))
