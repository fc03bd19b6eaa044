"""The terminal chat behind `edge chat`: messages and commands in, answers out.

Answers go to stdout and everything else to stderr. Knows nothing of models, only of a `Talk` and its source of
messages: an edited prompt, a plain terminal or a pipe.
"""

from __future__ import annotations

import contextlib
import sys

from edge.chat import Chat, Reply
from edge.errors import EdgeError
from edge.model_desk import ModelDesk
from edge.repl_commands import COMMANDS, obey, suggestions
from edge.repl_input import EditedLines, PlainLines, Source, command_completer, kept_history, prompt_session
from edge.repl_output import (
    answer_writer,
    can_redraw,
    interrupting,
    note_columns,
    passing_note,
    quiet_note,
    say,
    silent_keyboard,
    summary,
)
from edge.repl_talk import Leave, Outcome, Say, Talk
from edge.session_list import one_line
from edge.session_shelf import Shelf
from edge.terminal import note

_GREETING = "Type a message. /help lists the commands, Ctrl-D ends the chat."
_HOW_TO_EXIT = "Ctrl-D or /exit ends the chat."
_SHOWN_CHARACTERS = 50
_NOTED_TOKENS = 256  # from so many new tokens on, it takes a while until the first one of the answer


def is_typed() -> bool:
    """Whether a person types the messages."""
    return sys.stdin.isatty()


def converse(chat: Chat, models: ModelDesk, shelf: Shelf, *, is_plain: bool = False) -> None:
    """Talk in the terminal until its user leaves, or answer the lines of a pipe until it ends.

    From a pipe, the first EdgeError ends it.
    """
    source: Source
    if is_typed() and can_redraw(sys.stdout):
        talk: Talk  # which the completer looks at when it is asked
        completer = command_completer(
            [(command.name, command.purpose) for command in COMMANDS],
            lambda command, argument: suggestions(talk, command, argument),
        )
        source = EditedLines(prompt_session(kept_history(), completer))
    else:
        source = PlainLines(sys.stdin.buffer, is_interactive=is_typed())
    talk = Talk(chat, models, shelf, source)
    Session(talk, is_plain=is_plain).run()


class Session:
    """One run of a terminal chat."""

    def __init__(self, talk: Talk, *, is_plain: bool = False) -> None:
        self._talk = talk
        self._source = talk.source
        self._is_plain = is_plain

    def run(self) -> None:
        if self._source.is_interactive:
            quiet_note(_GREETING)
        goes_on = True
        while goes_on:
            try:
                goes_on = self._take_turn()
            except EdgeError as error:
                if not self._source.is_interactive:
                    raise
                say(f"error: {error.message}" + (f"\nhint:  {error.hint}" if error.hint else ""))
            except KeyboardInterrupt:  # while a model was waited for, or after an answer could not be ended
                if not self._source.is_interactive:
                    raise
                quiet_note("interrupted")

    def _take_turn(self) -> bool:
        """Read a message and do what it asks for; False if it was the last one."""
        text = self._next_message()
        if text is None:
            return False
        outcome: Outcome = Say(self._talk.with_attachments(text))
        if text.startswith("/"):
            outcome = obey(self._talk, text)
        if isinstance(outcome, Say):
            self._answer(outcome)
        return not isinstance(outcome, Leave)

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

    def _answer(self, asked: Say) -> None:
        """Write the answer to a message as it comes."""
        talk = self._talk
        talk.unanswered = asked.text if asked.turn is None else None
        try:
            with silent_keyboard() if self._source.is_interactive else contextlib.nullcontext():
                self._write(self._send(asked))
        except BaseException:
            talk.shelf.save_text()  # what was written is part of the conversation
            raise
        talk.shelf.save()

    def _send(self, asked: Say) -> Reply:
        """Ask the model, once it is there."""
        talk = self._talk
        waiting = "" if talk.models.is_ready else f"Loading {talk.models.choice.path.name} …"
        with passing_note(waiting) as clear:
            remark = talk.shelf.prepare()
            reply = talk.chat.send(asked.text, turn=asked.turn)
            clear()
        for line in talk.models.take_remarks():
            say(line)
        if remark:
            say(remark)
        if reply.dropped_messages:
            say(_dropped_text(reply, talk.chat))
        return reply

    def _write(self, reply: Reply) -> None:
        """Show the answer and what it took."""
        talk = self._talk
        self._write_pieces(reply)
        talk.attachments.clear()
        talk.unanswered = None
        completion = reply.completion
        if completion is None:
            return
        talk.completions.append(completion)
        if self._source.is_interactive:
            quiet_note(summary(completion, talk.chat.context_tokens, note_columns()))
        if not completion.is_valid and completion.finish_reason != "cancelled":
            say("The answer was cut off before it met its schema. /set max_tokens allows more.")

    def _write_pieces(self, reply: Reply) -> None:
        """Write an answer as it comes. The first Ctrl-C ends it, a second one the waiting for its end."""
        is_json = self._talk.chat.constraint is not None
        writer = answer_writer(sys.stdout, is_plain=self._is_plain, language="json" if is_json else "")
        interruption = interrupting(reply.cancel) if self._source.is_interactive else contextlib.nullcontext()
        is_long = reply.new_tokens >= _NOTED_TOKENS
        with passing_note(f"Reading {reply.new_tokens:,} tokens …" if is_long else "") as clear:
            try:
                with interruption:
                    for piece in reply:
                        clear()
                        writer.write(piece)
            finally:
                clear()
                writer.finish()


def _dropped_text(reply: Reply, chat: Chat) -> str:
    """What the context had no room for."""
    line = f"{reply.dropped_messages} earlier messages no longer fit the context and were left out"
    rest = chat.messages[chat.left_out :]
    begin = f"; it begins with: {one_line(rest[0].content, _SHOWN_CHARACTERS)}" if rest else ""
    return line + (begin or "; only the last message is read")
