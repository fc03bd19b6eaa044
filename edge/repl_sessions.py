"""Commands of the terminal chat about where it is kept: /new, /save, /load, /sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import EdgeError
from edge.quantities import size_text
from edge.repl_output import say
from edge.repl_talk import Outcome, Talk
from edge.session_list import SessionSummary, list_sessions
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.table import Table


def new(talk: Talk, argument: str) -> Outcome:
    name = talk.shelf.name
    talk.shelf.begin()
    talk.attachments.clear()
    talk.unanswered = None
    kept = f" The last one is kept as {name}." if name else ""
    say(f"A new conversation.{kept}")
    return None


def save(talk: Talk, argument: str) -> Outcome:
    if not argument:
        raise EdgeError("A session needs a name.", hint="Usage: /save NAME")
    talk.shelf.save_as(argument)
    say(f"This chat is kept as {argument}. Go on with it later: edge chat --session {argument}")
    return None


def load(talk: Talk, argument: str) -> Outcome:
    if not argument:
        raise EdgeError("Which session?", hint="Usage: /load NAME; /sessions lists them.")
    say(talk.shelf.load(argument))
    talk.unanswered = None
    return None


def sessions(talk: Talk, argument: str) -> Outcome:
    from rich.console import Console

    found = list_sessions(talk.shelf.folder, argument)
    if found:
        Console(stderr=True).print(session_table(found))
    else:
        say(no_sessions(talk.shelf.folder, argument))
    return None


def no_sessions(folder: object, text: str) -> str:
    return f"There are no sessions {f'with {text!r} ' if text else ''}in {folder}."


def session_table(found: list[SessionSummary]) -> Table:
    listed = table(
        "Sessions", ("Name", "left"), ("Messages", "right"), ("Size", "right"), ("Used", "left"), ("Model", "left")
    )
    listed.add_column("What was said", overflow="ellipsis", no_wrap=True)
    for each in found:
        messages = "damaged" if each.messages is None else str(each.messages)
        used = each.updated.replace("T", " ").removesuffix("+00:00")[:16]
        row = (each.name, messages, size_text(each.n_bytes), used, each.model, each.snippet)
        listed.add_row(*map(cell, row))
    return listed
