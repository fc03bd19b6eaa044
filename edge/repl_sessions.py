"""Commands of the terminal chat about where it is kept: /new, /save, /load, /sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import EdgeError
from edge.quantities import size_text
from edge.repl_output import note_columns, say
from edge.repl_talk import Outcome, Talk
from edge.session_list import SessionSummary, list_sessions
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.table import Table

_WIDE_COLUMNS = 100
_NARROW_COLUMNS = 60


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
        Console(stderr=True).print(session_table(found, note_columns()))
    else:
        say(no_sessions(talk.shelf.folder, argument))
    return None


def no_sessions(folder: object, text: str) -> str:
    return f"There are no sessions {f'with {text!r} ' if text else ''}in {folder}."


def session_table(found: list[SessionSummary], columns: int) -> Table:
    """Sessions as a table that suits a terminal of so many columns; 0 for what is none."""
    is_wide = columns == 0 or columns >= _WIDE_COLUMNS
    is_narrow = 0 < columns < _NARROW_COLUMNS
    shown = table("Sessions", ("Name", "left"))
    if not is_narrow:
        shown.add_column("Used", no_wrap=True)
        shown.add_column("Messages", justify="right", no_wrap=True)
    if is_wide:
        shown.add_column("Size", justify="right", no_wrap=True)
        shown.add_column("Model", overflow="fold")
    shown.add_column("What was said", overflow="ellipsis", no_wrap=True)
    for each in found:
        messages = "damaged" if each.messages is None else str(each.messages)
        used = each.updated.replace("T", " ")[:16]
        middle = [] if is_narrow else [used, messages]
        wide = [size_text(each.n_bytes), each.model] if is_wide else []
        shown.add_row(*map(cell, (each.name, *middle, *wide, each.snippet)))
    return shown
