"""Reports as a terminal shows them, and as a pipe or a file gets them."""

from __future__ import annotations

import sys

import pytest
from rich.text import Text

from edge.tables import cell, section, show, table

LONG = " ".join(["word"] * 40)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_rows_are_whole_in_a_pipe_and_end_where_their_text_ends(capsys: pytest.CaptureFixture[str]) -> None:
    files = table("Files", ("Name", "left"), ("Bytes", "right"), ("Of", "left"))
    files.add_row(*map(cell, ("model", "5", LONG)))
    files.add_row(*map(cell, ("m", "1,000", "[b]")))
    show(files, section("More", [("key", LONG), ("k", "v")]), f"{LONG}\nthe end")
    assert capsys.readouterr().out.splitlines() == [
        "Files",
        "Name   Bytes  Of",
        f"model      5  {LONG}",
        "m      1,000  [b]",
        "More",
        f"key  {LONG}",
        "k    v",
        LONG,
        "the end",
    ]


def test_rows_are_as_wide_as_the_terminal_at_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(section("More", [("key", LONG)]), LONG)
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split() == ["More", "key", *LONG.split(), *LONG.split()]
