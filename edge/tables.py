"""The look of edge's reports: sections of label and value, tables with a title, text that cannot steer a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

TITLE_STYLE = "bold cyan"
_ANY_WIDTH = 1_000_000  # rich has no word for it


def show(*reports: RenderableType, least_width: int = 0) -> None:
    """Print reports to stdout: as wide as a terminal, if that has `least_width`; in a pipe, as wide as they are.

    There each row is one line, without the spaces that would fill it up to the longest.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _ANY_WIDTH)
    console.width = max(console.width, least_width)
    for report in reports:
        if sys.stdout.isatty():
            console.print(report)
            continue
        with console.capture() as captured:
            console.print(report)
        for line in captured.get().splitlines():
            print(line.rstrip(" "))


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
