"""The look of edge's reports: sections of label and value, tables with a title, text that cannot steer a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TITLE_STYLE = "bold cyan"


def section(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Labels and values under a title, without lines."""
    table = _plain_table(title, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(cell(label), cell(value))
    return table


def table(title: str, *columns: tuple[str, Literal["left", "right"]]) -> Table:
    """An empty table; its first column is never broken into lines."""
    empty = _plain_table(title, show_header=True)
    for place, (name, justify) in enumerate(columns):
        empty.add_column(name, justify=justify, overflow="fold", no_wrap=place == 0)
    return empty


def cell(text: str, style: str = "") -> Text:
    """Text as it is: brackets are no markup, control characters are escaped."""
    from rich.text import Text

    return Text(printable(text), style=style)


def printable(text: str) -> str:
    """Text with whatever could steer a terminal escaped; line ends stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _plain_table(title: str, *, show_header: bool) -> Table:
    from rich.table import Table

    return Table(
        title=title,
        title_style=TITLE_STYLE,
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=show_header,
        header_style="dim",
    )
