"""The clipboard of whoever looks at the terminal."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from edge.clipboard import copy
from edge.errors import EdgeError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs that write what they are given into a file under their name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("xclip", "wl-copy", "tmux"):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/{name}.options\ncat > {tmp_path}/{name}\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def path(programs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return str(programs)


@pytest.mark.parametrize(
    ("variables", "program", "options"),
    [
        ({"DISPLAY": ":0"}, "xclip", "-selection clipboard"),
        ({"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}, "wl-copy", ""),
        ({"TMUX": "/tmp/tmux,1,0", "SSH_TTY": "/dev/pts/1", "DISPLAY": ":0"}, "tmux", "load-buffer -w -"),
    ],
)
def test_program_of_the_desktop_takes_the_text(
    path: str, tmp_path: Path, variables: dict[str, str], program: str, options: str
) -> None:
    terminal = Terminal()
    assert copy("Où?", {"PATH": path, **variables}, terminal) == f"by {program}"
    assert (tmp_path / program).read_text() == "Où?"
    assert (tmp_path / f"{program}.options").read_text().strip() == options
    assert terminal.getvalue() == ""


def test_over_ssh_the_terminal_takes_it(path: str) -> None:
    terminal = Terminal()
    variables = {"PATH": path, "SSH_CONNECTION": "1", "DISPLAY": ":0", "TERM": "xterm"}
    assert copy("Hi", variables, terminal) == "by the terminal, if it takes OSC 52"
    assert terminal.getvalue() == "\x1b]52;c;SGk=\a"


def test_terminal_takes_it_where_there_is_no_program_or_it_fails(path: str, programs: Path) -> None:
    (programs / "xclip").write_text("#!/bin/sh\nexit 1\n")
    for variables in ({"PATH": path, "DISPLAY": ":0"}, {"PATH": "/nowhere", "DISPLAY": ":0"}):
        terminal = Terminal()
        copy("Hi", variables, terminal)
        assert terminal.getvalue().startswith("\x1b]52;c;")


def test_text_that_no_terminal_would_take_is_refused_with_both_numbers() -> None:
    terminal = Terminal()
    with pytest.raises(EdgeError, match=r"The text has 80000 bytes, a terminal's clipboard takes 74994\.\nCopy one of"):
        copy("x" * 80_000, {}, terminal)
    assert terminal.getvalue() == ""


def test_without_any_clipboard_nothing_is_written() -> None:
    for terminal, variables in ((io.StringIO(), {}), (Terminal(), {"TERM": "dumb"})):
        with pytest.raises(EdgeError, match=r"There is no clipboard that can be reached from here\.\nInstall "):
            copy("Hi", variables, terminal)
        assert terminal.getvalue() == ""
