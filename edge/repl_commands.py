"""The commands of the terminal chat: which there are, what they take, and who does them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from edge.chat_settings import DEFAULT, setting_names
from edge.errors import EdgeError
from edge.repl_choices import loaded_adapters, lora, model, schema, set_setting, stats
from edge.repl_output import say
from edge.repl_sessions import load, new, save, sessions
from edge.repl_talk import Leave, Outcome, Talk
from edge.repl_turns import branch, copy_answer, edit, read, retry, system, undo

_NARROW_COLUMNS = 60


@dataclass(frozen=True)
class Command:
    """A command: its name, what may follow it, what it is for, and what does it with what followed."""

    name: str
    takes: str
    purpose: str
    run: Callable[[Talk, str], Outcome]

    @property
    def usage(self) -> str:
        return f"{self.name} {self.takes}".rstrip()


def leave(talk: Talk, argument: str) -> Outcome:
    return Leave()


def show_help(talk: Talk, argument: str) -> Outcome:
    from rich.console import Console

    say(help_text(Console(stderr=True).width))
    return None


COMMANDS = (
    Command("/help", "", "show this list", show_help),
    Command("/exit", "", "end the chat, as Ctrl-D does", leave),
    Command("/new", "", "begin a new conversation; the system text stays", new),
    Command("/save", "NAME", "keep the chat under a name", save),
    Command("/load", "NAME", "go on with a kept chat", load),
    Command("/sessions", "[TEXT]", "list kept chats, or those with a text in them", sessions),
    Command("/undo", "", "take back the last message and its answer", undo),
    Command("/retry", "", "have the last message answered again", retry),
    Command("/edit", "[N]", "change the last message, or the N-th, and go on from there", edit),
    Command("/branch", "[N]", "list what /retry and /edit left behind, or go back to it", branch),
    Command("/system", "[TEXT]|off", "show the system text, or set it", system),
    Command("/set", "[NAME [VALUE]]", "show the changed settings or one, or change it", set_setting),
    Command("/schema", "FILE|off", "have answers conform to a JSON Schema", schema),
    Command("/lora", "[NAME[:SCALE]]|off", "choose among the loaded adapters", lora),
    Command("/read", "FILE|off", "send a file with the next message", read),
    Command("/copy", "[N]", "copy the last answer, or its N-th code block", copy_answer),
    Command("/stats", "", "show what the answers took", stats),
    Command("/model", "[REF]", "show the model, or go on with another one", model),
)
_BY_NAME = {command.name: command for command in COMMANDS}
_KEYS = """\
Tab completes commands, files, settings and sessions.
Alt-Enter, or a backslash at the end of a line, begins another line of the same message.
Up and Ctrl-R find what was typed before, in earlier chats too.
Ctrl-X Ctrl-E opens the message in an editor.
Ctrl-C ends an answer; what was written of it stays in the conversation.
Ctrl-D ends the chat.
A message that begins with a space is never taken for a command."""


def obey(talk: Talk, text: str) -> Outcome:
    """Do what a command says. EdgeError if there is none of its name, or it cannot be done."""
    name, *rest = text.split(maxsplit=1)
    command = _BY_NAME.get(name)
    if command is None:
        near = get_close_matches(name, _BY_NAME, n=1)
        meant = f"Did you mean {near[0]}? " if near else "/help lists the commands. "
        raise EdgeError(f"There is no command {name}.", hint=f"{meant}A space in front sends a message as it is.")
    return command.run(talk, rest[0].strip() if rest else "")


def help_text(columns: int) -> str:
    """Every command with its purpose: beside it, or below where there is little room."""
    if columns < _NARROW_COLUMNS:
        return "\n".join([*(f"{each.usage}\n    {each.purpose}" for each in COMMANDS), "", _KEYS])
    width = max(len(each.usage) for each in COMMANDS) + 2
    return "\n".join([*(f"{each.usage:{width}}{each.purpose}" for each in COMMANDS), "", _KEYS])


def suggestions(talk: Talk, command: str, argument: str) -> Iterable[str]:
    """What may follow a command."""
    match command:
        case "/set" if " " in argument:
            name = argument.partition(" ")[0]
            return [f"{name} {DEFAULT}"]
        case "/set":
            return setting_names()
        case "/load":
            return talk.shelf.names()
        case "/lora":
            return [*loaded_adapters(talk), "off"]
        case "/system":
            return ["off"]
        case _:
            return ()
