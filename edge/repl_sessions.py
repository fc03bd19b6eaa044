"""Commands of the terminal chat about where it is kept: /new, /save, /load, /sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import EdgeError
from edge.quantities import size_text
from edge.repl_output import note_columns, say
from edge.repl_talk import Outcome, Talk
from edge.session_list import SessionSummary, list_sessions, one_line
from edge.tables import cell, table

if TYPE_CHECKING:
    from rich.table import Table

_WIDE_COLUMNS = 100
_NARROW_COLUMNS = 60
_LEAST_COLUMNS = 12  # of what was said
_GAP_COLUMNS = 2


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
    headers = ["Name"]
    if not is_narrow:
        headers += ["Used", "Messages"]
    if is_wide:
        headers += ["Size", "Model"]
    rows = [_row(each)[: len(headers)] for each in found]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    room = columns - sum(widths) - _GAP_COLUMNS * len(headers)
    shown = table("Sessions", *((name, "right" if name in ("Messages", "Size") else "left") for name in headers))
    for column, width in zip(shown.columns, widths, strict=True):
        column.min_width = width
    shown.add_column("What was said")
    for each, row in zip(found, rows, strict=True):
        snippet = one_line(each.snippet, max(room, _LEAST_COLUMNS)) if columns else each.snippet
        shown.add_row(*map(cell, (*row, snippet)))
    return shown


def _row(session: SessionSummary) -> list[str]:
    messages = "damaged" if session.messages is None else str(session.messages)
    used = session.updated.replace("T", " ")[:16]
    return [session.name, used, messages, size_text(session.n_bytes), session.model]
