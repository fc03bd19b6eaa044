"""Models opened as they fit best, and with less: what is said, what is remembered, what a person gave stays."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

import edge.engine
import edge.fitted_model
import edge.server.model_files
from bench.sparse_model import write_sparse_model
from edge.device_profiles import Device, MemoryPool
from edge.engine import Engine
from edge.errors import EdgeError
from edge.fitted_model import Wanted, fit_model
from edge.gguf_file import GGUFFile
from edge.published_models import published_config
from edge.request import Request
from edge.server.model_files import fitted_source, open_model
from edge.settings import ModelSettings
from tests.edge.conftest import Command
from tests.edge.fake_engine import FakeEngine
from tests.edge.published import LLAMA

KILLED = EdgeError("The engine's process was ended by SIGKILL (out of memory?).")


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama.gguf"
    write_sparse_model(path, published_config(LLAMA) or {}, "Q4_K_M")
    return path


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A machine with 16 GB free and no graphics card."""
    device = Device("made", "made", MemoryPool(16_000_000_000, 16_000_000_000, 40e9, 3e11))
    for name in ("edge.best_fit.this_device", "edge.server.model_files.this_device"):
        monkeypatch.setattr(name, lambda **_: device)
    return device


class FakeEngines:
    """Engines that fit up to so many tokens of context."""

    def __init__(self, most_tokens: int = 1 << 30) -> None:
        self.most_tokens = most_tokens
        self.tried: list[ModelSettings] = []

    def fits(self, settings: ModelSettings) -> bool:
        return (settings.context_tokens or 0) <= self.most_tokens

    def __call__(
        self, model: Path | GGUFFile, settings: ModelSettings | None = None, *, isolate: bool = True
    ) -> FakeEngine:
        assert settings is not None
        self.tried.append(settings)
        if not self.fits(settings):
            raise KILLED
        return FakeEngine(["It is Paris."])


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    fake = FakeEngines()
    monkeypatch.setattr(edge.engine, "Engine", fake)
    monkeypatch.setattr(edge.server.model_files, "Engine", fake)
    return fake


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_is_for_who_looks_at_a_terminal(
    edge_command: Command, engines: FakeEngines, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edge_command("run", llama, "Capital?").err == ""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert edge_command("run", llama, "Capital?").out == "It is Paris.\n"
    assert terminal.getvalue() == f"{fit_model(llama, Wanted(longest_tokens=8192)).line}\n"
    assert terminal.getvalue().startswith("Using 8,192 tokens of context: about 3.")
    monkeypatch.setattr("sys.stderr", quiet := Terminal())
    edge_command("run", llama, "Capital?", "--json")
    assert quiet.getvalue() == ""


def test_one_answer_gets_a_usual_context_and_a_chat_a_longer_one(
    edge_command: Command, engines: FakeEngines, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Device("made", "made", MemoryPool(64_000_000_000, 64_000_000_000, 40e9, 3e11))
    monkeypatch.setattr("edge.best_fit.this_device", lambda **_: room)
    edge_command("run", llama, "Capital?")
    edge_command("run", llama, "-", stdin=b"word " * 2000)
    edge_command("chat", llama, stdin=b"Capital?\n")
    assert [each.context_tokens for each in engines.tried] == [8192, 32768, 32768]


def test_model_that_may_not_fit_is_said_to_everyone(
    edge_command: Command, engines: FakeEngines, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Device("made", "made", MemoryPool(2_000_000_000, 2_000_000_000, 40e9, 3e11))
    monkeypatch.setattr("edge.best_fit.this_device", lambda **_: small)
    outcome = edge_command("chat", llama, stdin=b"Capital?\n")
    assert outcome.out == "It is Paris.\n"
    assert outcome.err.startswith("This model may not fit: it needs about ")
    assert "even with 512 tokens of context, where 2.00 GB are free." in outcome.err


def test_steps_are_said_and_remembered(edge_command: Command, engines: FakeEngines, llama: Path, state: Path) -> None:
    engines.most_tokens = 4096
    outcome = edge_command("chat", llama, stdin=b"Capital?\n")
    assert (outcome.code, outcome.out) == (0, "It is Paris.\n")
    first = engines.tried[0].context_tokens
    assert first is not None and first > 4096
    assert "Memory does not suffice: trying a context of 4,096 tokens." in outcome.err.splitlines()
    engines.tried.clear()
    again = edge_command("chat", llama, stdin=b"Capital?\n")
    assert [each.context_tokens for each in engines.tried] == [4096]
    assert again.err == (
        "Memory did not suffice last time, so now with --ubatch 128 --kv-type Q8_0/Q4_0 --ctx 4096 --no-repack"
        f" ({state / 'memory.json'}).\n"
    )


def test_what_was_given_stays_and_the_error_names_it(edge_command: Command, engines: FakeEngines, llama: Path) -> None:
    engines.most_tokens = 4096
    outcome = edge_command("chat", llama, "--ctx", "8000", stdin=b"Capital?\n")
    assert (outcome.code, outcome.out) == (1, "")
    assert {each.context_tokens for each in engines.tried} == {8000}
    assert engines.tried[-1].value_type == "Q4_0"  # what was not given is given up
    assert outcome.err.splitlines()[-2:] == [
        f"error: {KILLED.message}",
        "hint:  Memory does not suffice: give less with --ctx.",
    ]


def test_nothing_that_was_given_is_changed(edge_command: Command, engines: FakeEngines, llama: Path) -> None:
    engines.most_tokens = 0
    options = ["--ctx", "2000", "--kv-type", "F16", "--ubatch", "512", "--gpu-layers", "0", "--repack"]
    outcome = edge_command("run", llama, "Hi", *options)
    assert engines.tried == [ModelSettings(context_tokens=2000, gpu_layers=0)]
    assert outcome.err.splitlines()[-1] == (
        "hint:  Memory does not suffice: give less with --no-repack or --ubatch or --kv-type or --ctx."
    )


def test_second_copy_of_weights_is_given_up_first(
    edge_command: Command, engines: FakeEngines, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "fits", lambda settings: not settings.repack_weights)
    outcome = edge_command("chat", llama, stdin=b"Capital?\n")
    assert outcome.err == "Memory does not suffice: trying weights that are not repacked.\n"
    first, second = engines.tried
    assert second == replace(first, repack_weights=False)
    engines.tried.clear()
    assert edge_command("chat", llama, stdin=b"Capital?\n").err.startswith(
        "Memory did not suffice last time, so now with --no-repack ("
    )
    assert engines.tried == [second]


def test_system_text_is_baked_with_what_a_chat_is_opened_with(
    edge_command: Command, engines: FakeEngines, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.bake.bake", lambda engine, text, path: path.write_bytes(b"prefix"))
    monkeypatch.setattr(engines, "fits", lambda settings: not settings.repack_weights)
    outcome = edge_command("bake", llama, "--system", "Be kind.", "--out", tmp_path / "baked")
    assert outcome.err == "Memory does not suffice: trying weights that are not repacked.\n"
    baked = engines.tried[-1]
    edge_command("chat", llama, stdin=b"Capital?\n")
    assert not baked.repack_weights
    assert engines.tried[-1] == baked


def test_remembered_steps_do_not_change_what_is_given_later(llama: Path) -> None:
    engines = FakeEngines(most_tokens=4096)
    fit_model(llama, Wanted(ModelSettings(context_tokens=8192))).open(lambda settings: engines(llama, settings), print)
    engines.tried.clear()
    given = Wanted(ModelSettings(context_tokens=8192), frozenset({"context_tokens"}))
    with pytest.raises(EdgeError):
        fit_model(llama, given).open(lambda settings: engines(llama, settings), print)
    assert {each.context_tokens for each in engines.tried} == {8192}


def test_server_takes_less_if_there_is_less_when_it_loads(
    engines: FakeEngines, llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge.server")
    source = fitted_source("llama", llama, Wanted(ModelSettings(parallel=2)), 8_000_000_000)
    assert source.memory_bytes <= 8_000_000_000
    less = Device("made", "made", MemoryPool(3_600_000_000, 3_600_000_000, 40e9, 3e11))
    monkeypatch.setattr("edge.best_fit.this_device", lambda **_: less)
    loaded = open_model(source)
    assert loaded.source.settings == engines.tried[0]
    assert (engines.tried[0].context_tokens or 0) <= (source.settings.context_tokens or 0)
    assert engines.tried[0] != source.settings
    assert caplog.messages[0].startswith("llama: Using ")


def test_server_says_in_its_log_what_it_gives_up(
    engines: FakeEngines, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines.most_tokens = 2048
    loaded = open_model(fitted_source("llama", llama, Wanted()))
    assert loaded.source.settings.context_tokens == 2048
    assert "llama: Memory does not suffice: trying a context of 2,048 tokens." in caplog.messages


def test_real_model_is_opened_as_it_fits_and_answers(demo_gguf: Path) -> None:
    told: list[str] = []
    fitted = fit_model(demo_gguf, Wanted())
    assert fitted.line == "Using 8,192 tokens of context: about 378 MB of memory."
    with fitted.open(lambda settings: Engine(fitted.file, settings, isolate=False), told.append) as engine:
        assert engine.context_tokens == 8192 and not told
        tokens = engine.text_tokens("The capital of France is")
        assert engine.submit(Request(tokens, max_tokens=2)).result().text.startswith(" Paris")
