"""`edge serve` turns its options into a server that is as safe as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.server.model_pool import ModelPool
from edge.server.server_settings import ServerSettings
from tests.edge.conftest import Command, Outcome, error_lines


class Started:
    """In place of the function that serves: what it was to serve."""

    def __init__(self) -> None:
        self.pool: ModelPool
        self.settings: ServerSettings
        self.ready_fd: int | None = None

    def __call__(self, pool: ModelPool, settings: ServerSettings, ready: Any, *, ready_fd: int | None = None) -> None:
        self.pool, self.settings, self.ready_fd = pool, settings, ready_fd
        ready("http://127.0.0.1:1")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr("edge.server.run.serve", started)
    monkeypatch.delenv("EDGE_API_KEY", raising=False)
    return started


def run(edge_command: Command, *arguments: object) -> Outcome:
    outcome = edge_command("serve", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def test_without_options_it_serves_this_machine_only(edge_command: Command, started: Started, tiny_gguf: Path) -> None:
    outcome = run(edge_command, tiny_gguf)
    assert started.settings == ServerSettings()
    assert outcome.out == "Ready at http://127.0.0.1:1\n"
    assert outcome.err == ""
    (source,) = started.pool.sources
    assert (source.name, source.path, source.settings.parallel) == ("llama3", tiny_gguf, 4)
    assert source.settings.queue_limit <= 1000
    assert source.memory_bytes > 0


def test_options_are_settings(edge_command: Command, started: Started, tiny_gguf: Path) -> None:
    run(
        edge_command, f"one={tiny_gguf}", f"two={tiny_gguf}", "--host", "localhost", "--port", 0, "--parallel", 2,
        "--ctx", 256, "--threads", 1, "--queue", 3, "--allowed-host", "box", "--allowed-origin", "https://a.example",
        "--ready-fd", 9, "--log-prompts", "--sessions", "kept", "--memory", "2GB", "--idle-minutes", 5,
    )  # fmt: skip
    assert started.settings == ServerSettings(
        host="localhost",
        port=0,
        allowed_hosts=("box",),
        allowed_origins=("https://a.example",),
        logs_prompts=True,
        sessions_folder=Path("kept"),
    )
    assert [source.name for source in started.pool.sources] == ["one", "two"]
    model = started.pool.sources[1].settings
    assert (model.parallel, model.context_tokens, model.threads, model.queue_limit) == (2, 256, 1, 3)
    assert started.ready_fd == 9


def test_weights_are_repacked_as_the_options_say(edge_command: Command, started: Started, tiny_gguf: Path) -> None:
    for options, expected, given in (((), True, False), (["--repack"], True, True), (["--no-repack"], False, True)):
        run(edge_command, tiny_gguf, *options)
        (source,) = started.pool.sources
        assert source.settings.repack_weights == expected
        assert source.wanted and ("repack_weights" in source.wanted.given) == given
    message, hint = error_lines(edge_command("serve", tiny_gguf, "--repack", "--no-repack"))
    assert message == "--repack and --no-repack exclude each other."
    assert hint == "Give one of them, or none."


def test_binding_elsewhere_makes_a_key_and_prints_it_once(
    edge_command: Command, started: Started, tiny_gguf: Path
) -> None:
    outcome = run(edge_command, tiny_gguf, "--host", "0.0.0.0")
    (key,) = started.settings.api_keys
    assert outcome.err.count(key) == 1
    assert "0.0.0.0 is reached from other machines, so requests need a key. This time it is: " in outcome.err
    assert key not in outcome.out
    run(edge_command, tiny_gguf, "--host", "0.0.0.0")
    assert started.settings.api_keys != (key,)


def test_binding_elsewhere_with_a_key_prints_none(edge_command: Command, started: Started, tiny_gguf: Path) -> None:
    outcome = run(edge_command, tiny_gguf, "--host", "0.0.0.0", "--api-key", "secret")
    assert started.settings.api_keys == ("secret",)
    assert "secret" not in outcome.err + outcome.out


def test_key_comes_from_option_file_or_environment(
    edge_command: Command, started: Started, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("in-file\n", encoding="utf-8")
    monkeypatch.setenv("EDGE_API_KEY", "in-environment")
    run(edge_command, tiny_gguf)
    assert started.settings.api_keys == ("in-environment",)
    run(edge_command, tiny_gguf, "--api-key-file", file)
    assert started.settings.api_keys == ("in-file",)
    run(edge_command, tiny_gguf, "--api-key-file", file, "--api-key", "in-option")
    assert started.settings.api_keys == ("in-option", "in-file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api-key", ""], "An API key is empty or holds characters that no header can carry."),
        (["--port", "70000"], "port is 70000."),
        (["--allowed-origin", "*"], "'*' is no origin of web pages."),
        (["--memory", "much"], "'much' is not a size."),
        (["--api-key-file", "/none"], "The key file /none cannot be read: No such file or directory."),
        (["--idle-minutes", "0"], "--idle-minutes is 0."),
    ],
)
@pytest.mark.usefixtures("started")
def test_options_that_make_no_sense_are_refused(
    edge_command: Command, tiny_gguf: Path, arguments: list[str], message: str
) -> None:
    assert error_lines(edge_command("serve", tiny_gguf, *arguments))[0] == message


@pytest.mark.usefixtures("started")
def test_models_of_one_name_are_refused(edge_command: Command, tiny_gguf: Path) -> None:
    error, hint = error_lines(edge_command("serve", tiny_gguf, tiny_gguf))
    assert (error, hint) == ("The models are called: llama3, llama3.", "Give one or more, each with a name of its own.")


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("given", ["=demo", "name="])
def test_name_without_a_model_is_refused(edge_command: Command, given: str) -> None:
    assert error_lines(edge_command("serve", given))[0] == f"{given!r} names no model."


@pytest.mark.usefixtures("started")
def test_models_that_could_never_be_loaded_are_refused_at_the_start(edge_command: Command, tiny_gguf: Path) -> None:
    error, _ = error_lines(edge_command("serve", tiny_gguf, "--memory", "1kB"))
    assert error.startswith("llama3 takes about ")
