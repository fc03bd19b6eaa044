"""The examples run, most of them with a tiny model in place of a real one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
WAIT_SECONDS = 300  # for an answer that fills the context, on a machine that is busy with others


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), *arguments]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_chat_prints_an_answer(demo_gguf: Path) -> None:
    question = "What is the capital of France?"
    done = subprocess.run(
        command("chat.py", str(demo_gguf), question), capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    assert re.search(r"[a-z]{3}", done.stdout), "no word"


def test_server_answers_until_it_is_told_to_end(tiny_gguf: Path) -> None:
    with subprocess.Popen(
        command("server.py", str(tiny_gguf)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        ready = re.fullmatch(r"Ready at (http://\S+) with the key (\S+)\. Enter ends it\.\n", process.stdout.readline())
        assert ready
        request = urllib.request.Request(f"{ready[1]}/models", headers={"Authorization": f"Bearer {ready[2]}"})
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == [tiny_gguf.stem]
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(WAIT_SECONDS) == 0


@pytest.fixture(scope="module")
def desktop_chat() -> ModuleType:
    pytest.importorskip("tkinter", reason="this Python was built without tkinter")
    spec = importlib.util.spec_from_file_location("desktop_chat", EXAMPLES / "desktop_chat.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_desktop_chat_shows_answers_from_a_thread_of_its_own(desktop_chat: ModuleType, tiny_gguf: Path) -> None:
    shown: list[str] = []
    model = desktop_chat.Model(tiny_gguf, shown.append)
    try:
        wait_until(lambda: desktop_chat.READY in shown)
        model.ask("Bees?")
        wait_until(lambda: len(shown) > 2 or shown[-1] == "\n\n")  # a model of noise may end at once
        model.stop()
        wait_until(lambda: shown[-1] == "\n\n")
    finally:
        model.close()
    wait_until(lambda: model.has_ended)


def test_desktop_chat_that_is_closed_ends_in_the_middle_of_an_answer(desktop_chat: ModuleType, tiny_gguf: Path) -> None:
    shown: list[str] = []
    model = desktop_chat.Model(tiny_gguf, shown.append)
    model.ask("Bees?")
    model.ask("And wasps?")
    model.close()
    wait_until(lambda: model.has_ended)
    assert shown.count("\n\n") <= 1


def test_desktop_chat_says_what_is_wrong_with_a_model(desktop_chat: ModuleType, tmp_path: Path) -> None:
    shown: list[str] = []
    model = desktop_chat.Model(tmp_path / "none.gguf", shown.append)
    wait_until(lambda: model.has_ended)
    assert "none.gguf" in "".join(shown)


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="there is no display to show a window on")
def test_window_of_the_desktop_chat_shows_question_and_answer(desktop_chat: ModuleType, tiny_gguf: Path) -> None:
    window = desktop_chat.Window(tiny_gguf)

    def text() -> str:
        window.root.update()
        return str(window.text.get("1.0", "end"))

    wait_until(lambda: desktop_chat.READY.strip() in text())
    window.entry.insert(0, "Bees?")
    window.ask()
    assert "> Bees?\n" in text()
    wait_until(lambda: text().partition("> Bees?\n")[2].endswith("\n\n\n"))
    window.close()
    window.root.mainloop()
