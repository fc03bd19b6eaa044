"""Error lines, text from stdin, progress that stays out of files."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import pytest

from edge.errors import EdgeError
from edge.terminal import byte_progress, decode_utf8, note, read_stdin, report_error, warnings_as_notes


def test_error_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(EdgeError("The disk is full.", hint="Free 3 GB."))
    captured = capsys.readouterr()
    assert captured.err == "error: The disk is full.\nhint:  Free 3 GB.\n"
    assert captured.out == ""


def test_error_without_hint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(EdgeError("The disk is full."))
    assert capsys.readouterr().err == "error: The disk is full.\n"


def test_warning_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_notes():
        warnings.warn("The format is unknown.", stacklevel=1)
    assert capsys.readouterr().err == "warning: The format is unknown.\n"


def test_note_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("Reading back ...")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Reading back ...\n")


def test_stdin_is_read_as_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Où?\n".encode()), encoding="ascii"))
    assert read_stdin() == "Où?\n"


def test_stdin_that_is_not_utf8_is_refused_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Où?".encode("latin-1"))))
    with pytest.raises(EdgeError) as caught:
        read_stdin()
    assert caught.value.message == "stdin is not UTF-8: byte 0xf9 at offset 1."
    assert "iconv" in caught.value.hint


def test_text_that_breaks_off_inside_a_character_is_refused() -> None:
    with pytest.raises(EdgeError, match=r"schema\.json is not UTF-8: byte 0xe6 at offset 2"):
        decode_utf8("ab日".encode()[:4], "schema.json")


@dataclass(frozen=True)
class Done:
    done_bytes: int
    total_bytes: int


def test_progress_into_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with byte_progress("Converting") as progress:
        progress(Done(1_000_000_000, 2_350_000_000))
        progress(Done(2_350_000_000, 2_350_000_000))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Converting: 2.35 GB\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_work_that_was_not_needed_shows_no_progress(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    with byte_progress("Converting"):
        pass
    assert stderr.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with byte_progress("Converting") as progress:
        progress(Done(1_500_000, 3_000_000))
    assert "Converting" in terminal.getvalue()
    assert "1.5/3.0 MB" in terminal.getvalue()
