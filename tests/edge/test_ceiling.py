"""What of a model a token reads, and what bandwidth makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.pipeline import write_checkpoint
from edge.ceiling import Bandwidth, ceiling, last_cache_bytes, measure_bandwidth_over, weight_bytes_per_token
from edge.gguf_file import read_gguf
from tests.tiny import write_tiny_checkpoint


def _file(family: str, folder: Path) -> Path:
    (path,) = write_checkpoint(write_tiny_checkpoint(family, folder), ["F32"], folder / f"{family}.gguf")
    return path


def test_embeddings_count_when_they_are_the_output_as_well(tmp_path: Path) -> None:
    file = read_gguf(_file("gemma2", tmp_path))
    assert "output.weight" not in file.tensors
    assert weight_bytes_per_token(file) == sum(tensor.n_bytes for tensor in file.tensors.values())


def test_embeddings_that_are_only_looked_up_do_not_count(tiny_gguf: Path) -> None:
    file = read_gguf(tiny_gguf)
    assert "output.weight" in file.tensors
    everything = sum(tensor.n_bytes for tensor in file.tensors.values())
    assert weight_bytes_per_token(file) == everything - file.tensors["token_embd.weight"].n_bytes


def test_of_experts_those_count_that_a_token_uses(tmp_path: Path) -> None:
    file = read_gguf(_file("mixtral", tmp_path))
    experts, used = (file.metadata[f"llama.{name}"] for name in ("expert_count", "expert_used_count"))
    of_experts = sum(tensor.n_bytes for name, tensor in file.tensors.items() if "_exps." in name)
    others = sum(
        tensor.n_bytes
        for name, tensor in file.tensors.items()
        if "_exps." not in name and (name != "token_embd.weight" or "output.weight" not in file.tensors)
    )
    assert of_experts
    assert weight_bytes_per_token(file) == others + of_experts * used // experts


def test_ceiling_is_bandwidth_over_bytes() -> None:
    bandwidth = Bandwidth(threads=2, buffer_bytes=1 << 30, cache_bytes=1 << 25, read=20e9, copy=18e9, triad=15e9)
    limit = ceiling(bandwidth, weight_bytes=99_000_000, cache_bytes=1_000_000)
    assert limit.tokens_per_second == pytest.approx(200)
    assert limit.weights_exceed_cache and bandwidth.exceeds_cache


def test_weights_that_fit_into_the_cache_are_known_as_such() -> None:
    bandwidth = Bandwidth(threads=1, buffer_bytes=1 << 20, cache_bytes=1 << 25, read=1e9, copy=1e9, triad=1e9)
    assert not ceiling(bandwidth, weight_bytes=1 << 20, cache_bytes=0).weights_exceed_cache
    assert not bandwidth.exceeds_cache


def test_bandwidth_is_measured_with_every_thread_over_the_buffers_asked_for() -> None:
    found = measure_bandwidth_over(2, buffer_bytes=3 << 20, cache_bytes=123)
    assert (found.threads, found.cache_bytes) == (2, 123)
    assert found.buffer_bytes == pytest.approx(3 << 20, rel=0.01)
    assert min(found.read, found.copy, found.triad) > 0
    assert found.highest == max(found.read, found.copy, found.triad)


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M", "odd")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 32 << 20
    assert last_cache_bytes(tmp_path / "elsewhere") == 0
