"""Answers as a terminal shows them while they are written."""

from __future__ import annotations

import io
import itertools
import re
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edge.repl_output import MarkdownWriter, PlainWriter, answer_writer, passing_note, say
from edge.terminal_markdown import code_blocks, decided, rendered_lines, split_blocks, without_control
from tests.edge.screen import Screen

ANSWER = """\
# Keeping bees

Bees live in **colonies** of up to `50,000` workers. See [the guide](https://example.org) and <b>this</b>.

A verse
of two lines

1. Choose a *quiet* place
2. Buy a hive
   - with frames

> A swarm in May.

```python
def honey(frames: int) -> float:
    # about two for each frame


    return 2.1 * frames
```

| Month | Work |
|---|---:|
| May | swarms |

The end.
"""
SHOWN = """\
Keeping bees

Bees live in colonies of up to 50,000
workers. See the guide
(https://example.org) and <b>this</b>.

A verse
of two lines

 1 Choose a quiet place
 2 Buy a hive
    • with frames

▌ A swarm in May.

  def honey(frames: int) -> float:
      # about two for each frame


      return 2.1 * frames

 Month    Work
 ─────────────
 May    swarms

The end.
"""


class Terminal(io.StringIO):
    """What is written to it is on a screen."""

    def __init__(self, columns: int = 40, rows: int = 24) -> None:
        super().__init__()
        self.screen = Screen(columns, rows)
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.screen.write(text)
        if text:
            self.written.append(text)
        return len(text)

    def isatty(self) -> bool:
        return True


def writer_for(terminal: Terminal, **options: str) -> MarkdownWriter:
    screen = terminal.screen
    console = Console(
        file=terminal, width=screen.columns, height=screen.height, force_terminal=True, color_system="truecolor"
    )
    return MarkdownWriter(console, clock=slow_clock(), **options)


def slow_clock() -> Callable[[], float]:
    """Drawing takes no time, and between two pieces there is much of it: every piece is drawn."""
    readings = itertools.count()
    return lambda: float(next(readings) // 2)


def shown(pieces: list[str], columns: int = 40, rows: int = 24) -> str:
    terminal = Terminal(columns, rows)
    writer = writer_for(terminal)
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    return terminal.screen.text()


# Markdown on the screen


def test_answer_is_shown_as_markdown_with_one_line_between_blocks() -> None:
    assert shown([ANSWER]) == SHOWN


def test_answer_looks_the_same_however_it_arrives() -> None:
    assert shown(list(ANSWER)) == SHOWN
    assert shown(re.findall(r"\S+\s*", ANSWER)) == SHOWN


def test_answer_looks_the_same_on_a_screen_that_holds_little_of_it() -> None:
    assert shown(list(ANSWER), rows=5) == SHOWN


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(ANSWER) - 1), max_size=12), st.integers(6, 30))
def test_answer_looks_the_same_wherever_it_is_cut(cuts: list[int], rows: int) -> None:
    places = [0, *sorted(set(cuts)), len(ANSWER)]
    assert shown([ANSWER[a:b] for a, b in itertools.pairwise(places)], rows=rows) == SHOWN


def test_finished_blocks_are_not_drawn_again() -> None:
    terminal = Terminal()
    writer = writer_for(terminal)
    writer.write("First.\n\nSecond")
    terminal.written.clear()
    for _ in range(5):
        writer.write(" word")
    assert "First" not in "".join(terminal.written)
    assert all(text.startswith("\r\x1b[J") for text in terminal.written)  # the last line, and no other


def test_lines_of_an_open_block_that_do_not_change_are_not_drawn_again() -> None:
    terminal = Terminal()
    writer = writer_for(terminal)
    writer.write("```\none\ntwo\n")
    terminal.written.clear()
    writer.write("three\n")
    assert "one" not in "".join(terminal.written) and "three" in "".join(terminal.written)


def test_drawing_pauses_between_pieces_that_come_faster_and_misses_none() -> None:
    terminal = Terminal()
    console = Console(file=terminal, width=40, force_terminal=True)
    writer = MarkdownWriter(console, clock=lambda: 1.0)
    for piece in ("one ", "two ", "three"):
        writer.write(piece)
    assert terminal.screen.text() == "one"
    writer.finish()
    assert terminal.screen.text() == "one two three\n"


def test_narrower_terminal_draws_over_all_rows_of_a_line() -> None:
    terminal = Terminal(columns=40)
    console = Console(file=terminal, width=40, height=24, force_terminal=True)
    writer = MarkdownWriter(console, clock=slow_clock())
    writer.write("Bees live in colonies of many, so they")
    console.width = 20
    terminal.written.clear()
    writer.write(" say.")
    assert terminal.written[0].startswith("\r\x1b[1A\x1b[J")  # the line takes two rows now


def test_answer_under_a_schema_is_shown_as_code() -> None:
    terminal = Terminal()
    writer = writer_for(terminal, opening="````````json\n")
    writer.write('{"text": "```"}')
    writer.finish()
    assert terminal.screen.text() == '  {"text": "```"}\n'


def test_what_could_steer_the_terminal_is_taken_out() -> None:
    assert without_control("a\x1b[2Jb\x07\x9bc\td\n") == "a[2Jbc\td\n"
    assert shown(["\x1b]52;c;aGk=\x07Hi \x1b[31mred"]) == "]52;c;aGk=Hi [31mred\n"


# Blocks


def test_only_the_last_block_can_change() -> None:
    assert split_blocks("One.\n\n- a\n- b\n\nThree") == ["One.\n\n", "- a\n- b\n\n", "Three"]
    assert split_blocks("") == [""]
    assert split_blocks("\n\n```\nx\n\n\ny") == ["\n\n```\nx\n\n\ny"]


@given(st.text(st.sampled_from("ab -#`>|*_1.\n\t\u2028"), max_size=60))
def test_blocks_are_the_whole_text(text: str) -> None:
    assert "".join(split_blocks(text)) == text


@pytest.mark.parametrize("line", ["-", "1.", "12", "##", "===", "```", "> -", "  *", "|"])
def test_line_that_may_become_anything_waits(line: str) -> None:
    assert decided(f"Text\n{line}") == "Text\n"
    assert decided(f"```\n{line}") == f"```\n{line}"


def test_line_that_is_plain_text_does_not_wait() -> None:
    assert decided("Text\n-5 degrees") == "Text\n-5 degrees"


def test_code_blocks_are_counted_wherever_they_stand() -> None:
    text = "```python\nx = 1\n```\n\n- item\n\n  ```\n  y\n  ```\n\nText\n\n    indented\n"
    assert code_blocks(text) == ["x = 1\n", "y\n", "indented\n"]


def test_block_without_anything_to_show_takes_no_lines() -> None:
    assert rendered_lines("[a]: https://example.org\n", Console(file=io.StringIO(), width=40)) == []


# Which writer


def test_answers_are_plain_where_nothing_can_be_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(answer_writer(Terminal(), is_plain=False), MarkdownWriter)
    assert isinstance(answer_writer(Terminal(), is_plain=True), PlainWriter)
    assert isinstance(answer_writer(io.StringIO(), is_plain=False), PlainWriter)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(answer_writer(Terminal(), is_plain=False), PlainWriter)


def test_plain_answer_is_changed_for_a_terminal_only() -> None:
    for stream, expected in ((io.StringIO(), "a\x1b[1mb **c**\n"), (Terminal(), "a[1mb **c**\n")):
        writer = PlainWriter(stream)
        writer.write("a\x1b[1mb **c**")
        writer.finish()
        assert ("".join(stream.written) if isinstance(stream, Terminal) else stream.getvalue()) == expected


# Notes


def test_note_that_passes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("edge.repl_output.note_columns", lambda: 40)
    with passing_note("Loading x.gguf …") as clear:
        clear()
    assert terminal.written == ["\x1b[2mLoading x.gguf …\x1b[0m", "\r\x1b[K"]


def test_note_that_passes_stays_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("edge.repl_output.note_columns", lambda: 12)
    with passing_note("Loading a-long-name.gguf …"):
        pass
    assert terminal.written == ["\x1b[2mLoading a-…\x1b[0m", "\r\x1b[K"]


def test_note_that_passes_is_not_written_where_it_would_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with passing_note("Loading x.gguf …") as clear:
        clear()
    assert capsys.readouterr().err == ""


def test_notes_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb")
    assert capsys.readouterr().err == "a\\x1b[2Jb\n"
