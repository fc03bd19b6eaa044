"""The `edge` command, run in the process of its tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from edge.cli import main
from edge.speculation import Speculation
from edge.step_times import StepTimes


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def edge_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process: `edge_command("run", "demo", "Hi", stdin=b"")`."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr("sys.argv", ["edge", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def free_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether guesses pay depends on the machine; here they always seem to, so that every one is computed."""
    monkeypatch.setattr(StepTimes, "predict", lambda times, tokens: 1.0 + 1e-6 * tokens)
    monkeypatch.setattr(StepTimes, "largest_tokens", 4096)


@pytest.fixture
def guesses_at_every_step(free_guesses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as can be: no steps are made in one call without a look for guesses before each."""
    monkeypatch.setattr(Speculation, "pass_by", lambda speculation, steps: 0)


def error_lines(outcome: Outcome) -> list[str]:
    """The message and the hint of a command that failed as it should."""
    assert (outcome.code, outcome.out) == (1, "")
    error, hint = outcome.err.splitlines()
    return [error.removeprefix("error: "), hint.removeprefix("hint:  ")]
