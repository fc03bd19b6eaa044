"""Commands of the terminal chat about what was said: /undo, /retry, /edit, /branch, /system, /read, /copy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge.branches import shared_messages
from edge.clipboard import copy
from edge.errors import EdgeError
from edge.quantities import counted, size_text
from edge.repl_input import read_text
from edge.repl_output import note_columns, say
from edge.repl_talk import Attachment, Outcome, Say, Talk
from edge.session_list import one_line

_SHOWN_CHARACTERS = 50
_LEAST_CHARACTERS = 6
_ARROW = " → "
_MAX_FILE_BYTES = 64 << 20  # no context holds more


def undo(talk: Talk, argument: str) -> Outcome:
    question = talk.chat.undo()
    if question is None:
        raise EdgeError("There is nothing to take back.", hint="Nothing was said yet.")
    talk.shelf.save()
    say(f"Taken back: {one_line(question, _SHOWN_CHARACTERS)}")
    return None


def retry(talk: Talk, argument: str) -> Outcome:
    if talk.unanswered is not None:
        return Say(talk.unanswered)
    questions = talk.chat.questions
    if not questions:
        raise EdgeError("There is no message to answer again.", hint="Nothing was said yet.")
    sampling = talk.chat.sampling
    if sampling.temperature == 0 or sampling.seed is not None:
        fixed = "temperature 0" if sampling.temperature == 0 else f"seed {sampling.seed}"
        say(f"With {fixed}, the answer may be the same.")
    return Say(questions[-1], len(questions))


def edit(talk: Talk, argument: str) -> Outcome:
    questions = talk.chat.questions
    if not questions:
        raise EdgeError("There is no message to edit.", hint="Nothing was said yet.")
    turn = whole_number(argument, "/edit [N]") if argument else len(questions)
    if not 1 <= turn <= len(questions):
        raise EdgeError(f"There is no message {turn}.", hint=f"Messages: 1 to {len(questions)}.")
    text = talk.source.read(questions[turn - 1])
    if text is None or not text.strip():
        say("The message stays as it was.")
        return None
    return Say(text, turn)


def branch(talk: Talk, argument: str) -> Outcome:
    chat = talk.chat
    if argument:
        chat.switch_branch(whole_number(argument, "/branch [N]"))
        talk.shelf.save()
    lines = chat.branches.lines(chat.messages)
    if len(lines) == 1:
        say("There is one branch only. /retry and /edit begin others.")
        return None
    for number, line in enumerate(lines, 1):
        others = [other for other in lines if other is not line]
        fork = max(shared_messages(line, other) for other in others)
        marker = "*" if number == chat.branches.position + 1 else " "
        turn = fork // 2 + 1
        turns = sum(message.role == "user" for message in line)
        head = f"{marker} {number}  {counted(turns, 'turn')}; "
        said = [message.content for message in line[2 * turn - 2 :][:2]]
        say(f"{head}turn {turn}: {_exchange(said, len(head))}" if said else f"{head}there is no turn {turn}")
    return None


def _exchange(said: list[str], before: int) -> str:
    """A question with its answer, cut to stay in one line of the terminal behind so many characters and `turn N: `."""
    columns = note_columns()
    room = (columns - before - len("turn 99: ") - len(_ARROW)) // 2 if columns else _SHOWN_CHARACTERS
    return _ARROW.join(one_line(each, max(_LEAST_CHARACTERS, min(room, _SHOWN_CHARACTERS))) for each in said)


def system(talk: Talk, argument: str) -> Outcome:
    if argument == "off":
        talk.chat.system = None
        say("There is no system text, from the next message on.")
    elif argument:
        talk.chat.system = argument
        say("The system text is set, from the next message on.")
    else:
        say(talk.chat.system or "There is no system text.")
    return None


def read(talk: Talk, argument: str) -> Outcome:
    if not argument:
        names = ", ".join(each.name for each in talk.attachments)
        say(
            f"With the next message: {names}. /read off drops them."
            if names
            else "No file goes with the next message. /read FILE adds one."
        )
        return None
    if argument == "off":
        talk.attachments.clear()
        say("The next message goes without files.")
        return None
    path = Path(argument).expanduser()
    if path.is_file() and path.stat().st_size > _MAX_FILE_BYTES:
        raise EdgeError(
            f"{path.name} has {size_text(path.stat().st_size)}, the context holds {talk.chat.context_tokens:,} tokens.",
            hint="Take the part of it that matters.",
        )
    attachment = Attachment(path.name, read_text(path))
    before = talk.chat.count_tokens(talk.with_attachments(""))
    talk.attachments.append(attachment)
    tokens = talk.chat.count_tokens(talk.with_attachments(""))
    if tokens >= talk.chat.context_tokens:
        talk.attachments.pop()
        raise EdgeError(
            f"{path.name} takes {counted(tokens - before, 'token')}, with {before:,} before it;"
            f" the context holds {talk.chat.context_tokens:,}.",
            hint="Take the part of it that matters, or ask for a longer context with --ctx.",
        )
    say(f"{path.name}: {counted(tokens - before, 'token')}, part of the next message.")
    return None


def copy_answer(talk: Talk, argument: str) -> Outcome:
    from edge.terminal_markdown import code_blocks

    answers = [message.content for message in talk.chat.messages if message.role == "assistant"]
    if not answers:
        raise EdgeError("There is no answer to copy.", hint="Nothing was said yet.")
    text, what = answers[-1], "The answer"
    if argument:
        number = whole_number(argument, "/copy [N]")
        blocks = code_blocks(text)
        if not 1 <= number <= len(blocks):
            known = f"Code blocks: 1 to {len(blocks)}." if blocks else "It has none; /copy copies the whole answer."
            raise EdgeError(f"The last answer has no code block {number}.", hint=known)
        text, what = blocks[number - 1], f"Code block {number}"
    way = copy(text, os.environ, sys.stderr)
    say(f"{what} is on the clipboard ({way}).")
    return None


def whole_number(text: str, usage: str) -> int:
    if not text.isdecimal():
        raise EdgeError(f"{text!r} is not a number.", hint=f"Usage: {usage}")
    return int(text)
