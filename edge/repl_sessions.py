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

_HEADERS = ("Name", "Used", "Messages", "Size", "Model")
_NUMBERS = ("Messages", "Size")
_SAID = "What was said"
_SAID_COLUMNS = 25  # of what was said, before other columns make room for it
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
    rows = [_row(each) for each in found]
    widths = [max(map(len, column)) for column in zip(_HEADERS, *rows, strict=True)]
    n_shown = _shown_columns(widths, columns)
    room = columns - _taken(widths[:n_shown])
    shown = table("Sessions", *((name, "right" if name in _NUMBERS else "left") for name in _HEADERS[:n_shown]))
    for column, width in zip(shown.columns, widths, strict=False):
        column.min_width = width
    shown.add_column(_SAID)
    for each, row in zip(found, rows, strict=True):
        said = one_line(each.snippet, max(room, len(_SAID))) if columns else each.snippet
        shown.add_row(*map(cell, (*row[:n_shown], said)))
    return shown


def _shown_columns(widths: list[int], columns: int) -> int:
    """How many of the columns leave enough room for what was said; the name is always shown."""
    if columns == 0:
        return len(widths)
    fitting = (n for n in range(len(widths), 1, -1) if columns - _taken(widths[:n]) >= _SAID_COLUMNS)
    return next(fitting, 1)


def _taken(widths: list[int]) -> int:
    return sum(widths) + _GAP_COLUMNS * len(widths)


def _row(session: SessionSummary) -> list[str]:
    messages = "damaged" if session.messages is None else str(session.messages)
    used = session.updated.replace("T", " ")[:16]
    return [session.name, used, messages, size_text(session.n_bytes), session.model]
