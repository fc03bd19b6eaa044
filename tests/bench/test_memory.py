"""The memory model against what llama.cpp says it would allocate, on a part of the grid of `python -m bench.memory`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import memory as bench_memory
from bench.engine_case import SLIDING_MODEL
from bench.memory import GRID, compare_model, main
from bench.memory_resident import Resident, measure_resident
from convert.pipeline import write_checkpoint
from edge.demo import build_demo_checkpoint
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.sizes import ContextShape, SizedModel
from edge.models import cache_directory
from edge.published_models import published_names

ROUNDING_BYTES = 2 * 0.005 * 2**20 + 1
"""The cache is exact, but llama.cpp says it in hundredths of a MiB, once for each of two kinds of layers."""
GEMMA_2_9B = "google/gemma-2-9b-it"
RECURRENT = ("Qwen/Qwen3.5-4B",)
MODELS = (
    GEMMA_2_9B,
    "meta-llama/Llama-3.2-1B-Instruct",
    "google/gemma-3-4b-it",
    "google/gemma-4-E2B-it",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3.5-4B",
    "microsoft/Phi-3-mini-4k-instruct",
    "LiquidAI/LFM2-1.2B",
    "bigcode/starcoder2-3b",
)


@pytest.mark.parametrize("model", MODELS)
def test_prediction_is_near_what_llama_cpp_reports(model: str, tmp_path: Path) -> None:
    # states are allocated even so, and some models have large ones
    grid = [context for context in GRID if context.sequences < 16 or model not in RECURRENT]
    comparisons = list(compare_model(model, tmp_path, grid))
    assert len(comparisons) == len(grid) >= 10
    for each in comparisons:
        assert each.is_within_limit, each
        assert abs(each.predicted_cache_bytes - each.cache_bytes) <= ROUNDING_BYTES
    assert not list(tmp_path.iterdir())


def test_the_grid_has_more_than_two_hundred_cases() -> None:
    assert len(published_names()) * len(GRID) >= 200
    assert GEMMA_2_9B in published_names()


def test_worst_case_is_printed_and_every_case_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_memory, "published_names", lambda: (GEMMA_2_9B,))
    assert main(["--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "contexts", "largest", "error", "of", "the", "total"]
    assert lines[1].startswith(f"{GEMMA_2_9B} ")
    assert lines[2].startswith(f"worst of {len(GRID)}: {GEMMA_2_9B}, ")
    assert len(json.loads((tmp_path / "all.json").read_text("utf-8"))) == len(GRID)


def test_case_outside_of_the_limits_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_memory, "published_names", lambda: ("Qwen/Qwen3-0.6B",))
    monkeypatch.setattr(bench_memory, "compute_bytes", lambda shape, context: 1 << 30)
    assert main([]) == 1
    assert "outside of 3 % and 16 MiB: Qwen/Qwen3-0.6B, 512 tokens" in capsys.readouterr().out


def test_running_processes_are_compared_with_their_predictions(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(path: Path, context_tokens: int) -> Resident:
        return Resident(path.name, predicted_bytes=context_tokens << 20, peak_bytes=100 << 20)

    monkeypatch.setattr(bench_memory, "measure_resident", measured)
    assert main(["--resident", str(tiny_gguf), "--ctx", "103"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        tiny_gguf.name, "103", "MiB", "100", "MiB", "(+3.0", "%)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["missing.gguf"], "missing.gguf cannot be read: No such file or directory.", "Check the path."),
        (["--ctx", "3", "missing.gguf"], "context_tokens is 3.", "context_tokens must be at least 16."),
    ],
)
def test_file_that_is_not_there_is_one_clear_line(
    words: list[str],
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    *options, file = words
    assert main([*options, "--resident", file]) == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {message}", f"hint:  {hint}"]


def test_comparisons_that_cannot_be_written_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_memory, "published_names", lambda: ("Qwen/Qwen3-0.6B",))
    assert main(["--json", str(tmp_path / "missing" / "all.json")]) == 1
    printed = capsys.readouterr()
    assert f"worst of {len(GRID)}: Qwen/Qwen3-0.6B" in printed.out
    assert "all.json cannot be written: No such file or directory." in printed.err.splitlines()[0]
    assert printed.err.splitlines()[1] == "hint:  What was found is printed above."


@pytest.fixture(scope="module")
def real_models(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """SmolLM2 as it comes and in two conversions, and Gemma 3 270M where tools/gemma_model.py has put it."""
    folder = tmp_path_factory.mktemp("real")
    checkpoint = folder / "demo"
    build_demo_checkpoint(checkpoint)
    converted = write_checkpoint(checkpoint, ["Q8_0", "Q4_K_M"], folder)
    gemma = cache_directory() / SLIDING_MODEL
    return [demo_gguf, *converted, *([gemma] if gemma.is_file() else [])]


def test_peaks_of_processes_with_real_models_are_within_five_percent(real_models: list[Path]) -> None:
    for path in real_models:
        measured = measure_resident(path, 512)
        assert abs(measured.predicted_bytes / measured.peak_bytes - 1) < 0.05, measured


def test_sizes_are_those_of_a_real_context(demo_gguf: Path) -> None:
    read_gguf(demo_gguf)
    with SizedModel(demo_gguf) as sized:
        sizes = sized.context_sizes(ContextShape(2048, max_outputs=17))
        assert sizes.cache_bytes == 45 << 20
        assert sizes.compute_bytes == pytest.approx(15.5 * 2**20, rel=0.01)
        assert sized.weights_bytes == sum(tensor.n_bytes for tensor in read_gguf(demo_gguf).tensors.values())
        with pytest.raises(EdgeError, match=r"llama\.cpp cannot make a context of 2048 tokens"):
            sized.context_sizes(ContextShape(2048, value_type="Q8_0", has_flash_attention=False))


def test_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(EdgeError) as caught:
        SizedModel(path)
    assert caught.value.message.startswith(f"llama.cpp cannot load {path}: ")
    assert caught.value.hint == f"See what is in the file with: edge inspect {path}"
