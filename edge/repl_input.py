"""Where the messages of a terminal chat come from: an edited prompt, a plain terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from edge.errors import EdgeError
from edge.state_directory import state_directory
from edge.tables import printable
from edge.terminal import decode_utf8, note

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_MENU_ROWS = 5
PROMPT = "> "


class Source(Protocol):
    """Where messages come from."""

    @property
    def is_interactive(self) -> bool:
        """Whether a person is typing, who can try again after an error and may interrupt an answer."""

    def read(self, draft: str = "") -> str | None:
        """The next message, which may have several lines; None when there will be no more.

        `draft` is a text to begin with, where it can be edited.
        """


Suggestions = Callable[[str, str], Iterable[str]]
"""What may follow a command: takes the command and the beginning of its argument."""


class PlainLines:
    """Lines of bytes as they come; one that ends with a backslash goes on in the next."""

    def __init__(self, stream: IO[bytes], *, is_interactive: bool) -> None:
        self.is_interactive = is_interactive
        self._stream = stream
        self._line_number = 0

    def read(self, draft: str = "") -> str | None:
        if draft and self.is_interactive:
            note(f"It was:\n{printable(draft)}\nType it anew; a blank line leaves it as it was.")
        try:
            return self._read_message()
        except KeyboardInterrupt:
            if self.is_interactive:
                note("")  # behind the ^C that the terminal shows
            raise

    def _read_message(self) -> str | None:
        lines: list[str] = []
        self._show_prompt(PROMPT)
        while content := self._stream.readline():
            self._line_number += 1
            line = decode_utf8(content, f"Line {self._line_number} of stdin").rstrip("\r\n")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line.removesuffix("\\"))
            self._show_prompt(" " * len(PROMPT))
        return "\n".join(lines) if lines else None

    def _show_prompt(self, prompt: str) -> None:
        if self.is_interactive and sys.stderr.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)


class EditedLines:
    """Messages edited in a terminal, with a history."""

    is_interactive = True

    def __init__(self, session: PromptSession[str]) -> None:
        self._session = session

    def read(self, draft: str = "") -> str | None:
        try:
            return self._session.prompt(PROMPT, default=draft)
        except EOFError:
            return None


def prompt_session(history: History, completer: Completer | None = None) -> PromptSession[str]:
    """A prompt for messages of several lines, which Enter sends and Tab completes."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.shortcuts import CompleteStyle

    return PromptSession(
        history=history,
        completer=completer,
        complete_while_typing=False,
        complete_style=CompleteStyle.COLUMN,
        reserve_space_for_menu=0,
        key_bindings=_key_bindings(),
        multiline=True,
        prompt_continuation=" " * len(PROMPT),
        enable_suspend=True,
        enable_open_in_editor=True,
    )


def command_completer(commands: Iterable[tuple[str, str]], suggestions: Suggestions) -> Completer:
    """Completes the names of commands, given with their explanations, and what may follow them."""
    from prompt_toolkit.completion import Completer, Completion, PathCompleter

    explained = list(commands)

    class CommandCompleter(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            text = document.text_before_cursor
            command, blank, argument = text.partition(" ")
            if not text.startswith("/") or "\n" in text:
                return
            if not blank:
                for name, explanation in explained:
                    if name.startswith(text):
                        yield Completion(name, start_position=-len(text), display_meta=explanation)
            elif command in ("/read", "/schema"):
                path = document.__class__(argument, len(argument))
                yield from PathCompleter(expanduser=True).get_completions(path, complete_event)
            else:
                for suggestion in suggestions(command, argument):
                    if suggestion.startswith(argument):
                        yield Completion(suggestion, start_position=-len(argument))

    return CommandCompleter()


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


def kept_history() -> History:
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


def read_text(path: Path) -> str:
    """The text of a file. EdgeError if it cannot be read, or is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error
    return decode_utf8(content, str(path))
