"""`edge chat` in a terminal, as its own process, with a real model in another one."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

if sys.platform == "win32":
    pytest.skip("needs a POSIX terminal", allow_module_level=True)

import fcntl
import pty
import struct
import termios

LIMIT_SECONDS = 60.0  # what is waited for comes in a few; this only ends a test that would hang
SUMMARY = r"\d+ ?/ ?(512|8192)"
CHAT_CODE = "from edge.cli import main; main()"
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


class TerminalChat:
    """A chat at the other end of a pseudo-terminal."""

    def __init__(
        self, *arguments: object, environment: dict[str, str], columns: int = 80, code: str = CHAT_CODE
    ) -> None:
        self._terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [sys.executable, "-c", code, "chat", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, env={**os.environ, **environment}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(end, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(end)
        self.output = ""
        self._read_until = 0

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Wait until the pattern is in what came since the last time; gives that up to its end."""
        until = time.monotonic() + LIMIT_SECONDS
        while not (found := re.search(pattern, self.output[self._read_until :])):
            if time.monotonic() > until or not self._read(until):
                raise AssertionError(f"{pattern!r} did not come:\n{self.output[self._read_until :]}")
        text = self.output[self._read_until :][: found.end()]
        self._read_until += found.end()
        return text

    def leave(self) -> int:
        """Press Ctrl-D at the prompt; gives the exit code."""
        self.wait_for(">")
        self.type(CTRL_D)
        until = time.monotonic() + LIMIT_SECONDS
        while self._read(until):
            pass
        return self.process.wait(LIMIT_SECONDS)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    def _read(self, until: float) -> bool:
        if not select.select([self._terminal], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        try:
            content = os.read(self._terminal, 65536)
        except OSError:  # how the end of a pseudo-terminal shows on Linux
            return False
        if "\x1b[6n" in content.decode("utf-8", "replace"):
            self.type("\x1b[1;1R")  # prompt_toolkit asks where the cursor is
        self.output += content.decode("utf-8", "replace")
        return bool(content)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"EDGE_STATE": str(tmp_path / "state"), "TERM": "xterm-256color", "EDGE_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def chats() -> Iterator[list[TerminalChat]]:
    started: list[TerminalChat] = []
    yield started
    for chat in started:
        chat.close()


def start(chats: list[TerminalChat], environment: dict[str, str], *arguments: object) -> TerminalChat:
    chats.append(TerminalChat(*arguments, environment=environment))
    return chats[-1]


GREEDY = ("--threads", 1, "--temperature", 0)


@pytest.mark.model
def test_ctrl_c_ends_the_answer_and_not_the_chat(
    demo_gguf: Path, chats: list[TerminalChat], environment: dict[str, str], tmp_path: Path
) -> None:
    chat = start(chats, environment, demo_gguf, *GREEDY)
    chat.wait_for("Ctrl-D ends the chat")
    chat.type(f"Write a long story about a girl in the mountains.{ENTER}")
    chat.wait_for("mountains[^.]")
    chat.type(CTRL_C)
    chat.wait_for("interrupted")
    chat.type(f"/set max_tokens 8{ENTER}")
    chat.wait_for("max_tokens = 8")
    chat.type(f"What is the capital of France?{ENTER}")
    chat.wait_for(SUMMARY)
    assert chat.leave() == 0
    assert len(list((tmp_path / "state" / "sessions").glob("*.json"))) == 1


@pytest.mark.model
def test_process_that_dies_in_an_answer_costs_this_answer_only(
    demo_gguf: Path, chats: list[TerminalChat], environment: dict[str, str]
) -> None:
    chat = start(chats, environment, demo_gguf, *GREEDY)
    chat.wait_for("Ctrl-D ends the chat")
    chat.type(f"Write a long story about a girl in the mountains.{ENTER}")
    chat.wait_for("mountains[^.]")
    (worker,) = chat.workers()
    os.kill(worker.pid, signal.SIGKILL)
    chat.wait_for("error: The engine's process was ended by SIGKILL")
    chat.wait_for("hint:  ")
    chat.type(f"/set max_tokens 12{ENTER}")
    chat.wait_for("max_tokens = 12")
    chat.type(f"And then?{ENTER}")
    chat.wait_for(SUMMARY)
    chat.type(f"/stats{ENTER}")
    chat.wait_for(r"Turns.* 2 ")
    assert worker.pid not in [each.pid for each in chat.workers()]
    assert chat.leave() == 0


NOT_NEEDED = [
    *("numpy", "llama_cpp", "gguf", "jinja2", "llguidance", "huggingface_hub", "fastapi", "uvicorn", "pydantic"),
    *("rich", "markdown_it", "pygments", "edge.llama.context", "edge.local_engine", "edge.loop", "edge.server"),
]
UNTIL_THE_PROMPT = f"""
import os, sys, threading
import edge.engine, edge.repl_input
from edge.cli import main

def stay(*arguments, **settings):
    threading.Event().wait()  # the model is never there

def read(source, draft=""):
    print("imported:", *[name for name in {NOT_NEEDED} if name in sys.modules], ".", flush=True)
    os._exit(0)

edge.engine.Engine.__init__ = stay
edge.repl_input.EditedLines.read = read
main()
"""


def test_prompt_waits_for_nothing_that_only_answers_need(
    tiny_gguf: Path, chats: list[TerminalChat], environment: dict[str, str]
) -> None:
    chats.append(TerminalChat(tiny_gguf, "--threads", 1, environment=environment, code=UNTIL_THE_PROMPT))
    assert chats[-1].wait_for(r"imported:.* \.").split("imported:")[1].split() == ["."]


def test_prompt_is_there_before_the_model(
    tiny_gguf: Path, chats: list[TerminalChat], environment: dict[str, str]
) -> None:
    chat = start(chats, environment, tiny_gguf, "--threads", 1, "--max-tokens", 4)
    chat.wait_for("Ctrl-D ends the chat")
    chat.wait_for(">")
    workers = chat.workers()
    assert workers
    for worker in workers:  # it takes longer to load anything than to get here
        worker.suspend()
    chat.type(f"/help{ENTER}")
    chat.wait_for("never taken for a command")
    chat.type(f"Hi{ENTER}")
    chat.wait_for("Loading ")
    chat.type(CTRL_C)  # waiting ends, too
    chat.wait_for("interrupted")
    for worker in workers:
        worker.resume()
    chat.type(f"Hi{ENTER}")
    chat.wait_for(SUMMARY)
    assert chat.workers() == workers
    assert chat.leave() == 0


def test_dumb_terminal_gets_no_sequences(
    tiny_gguf: Path, chats: list[TerminalChat], environment: dict[str, str]
) -> None:
    chat = start(chats, {**environment, "TERM": "dumb"}, tiny_gguf, "--threads", 1, "--max-tokens", 4)
    chat.wait_for("Ctrl-D ends the chat")
    chat.wait_for("> ")
    chat.type("Hi\n")
    chat.wait_for(SUMMARY)
    chat.type("/branch\n")
    chat.wait_for("one branch only")
    chat.wait_for("> ")
    chat.type(CTRL_C)
    chat.wait_for(r"\^C\r\n> ")
    chat.type(CTRL_D)
    chat.wait_for("$")
    assert chat.process.wait(LIMIT_SECONDS) == 0
    assert "\x1b" not in chat.output
