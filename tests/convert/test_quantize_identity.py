"""Our quantized files hold, byte for byte, what llama.cpp makes of our own BF16 file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from convert.pipeline import convert_checkpoint
from edge.gguf_file import read_gguf
from edge.llama.quantize import quantize_file
from tests.tiny import TINY, write_tiny_checkpoint


@dataclass(frozen=True)
class StoredTensor:
    shape: tuple[int, ...]
    type: str
    content: bytes


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    content = path.read_bytes()
    return {
        name: StoredTensor(tensor.shape, tensor.type.name, content[tensor.offset : tensor.offset + tensor.n_bytes])
        for name, tensor in read_gguf(path).tensors.items()
    }


def type_counts(path: Path) -> Counter[str]:
    return Counter(tensor.type.name for tensor in read_gguf(path).tensors.values())


@pytest.mark.parametrize("name", TINY)
def test_tensors_equal_those_of_llama_model_quantize(name: str, tmp_path: Path) -> None:
    source = write_tiny_checkpoint(name, tmp_path)
    # one pass for all three, so that the order of the files and slabs is part of the test
    bfloat16, *ours = convert_checkpoint(source, ["BF16", "Q8_0", "Q4_K_M"], tmp_path)
    for quantization, path in zip(("Q8_0", "Q4_K_M"), ours, strict=True):
        oracle = tmp_path / f"llama-cpp-{quantization}.gguf"
        quantize_file(bfloat16, oracle, quantization, threads=1)
        expected, found = stored_tensors(oracle), stored_tensors(path)
        assert found.keys() == expected.keys()
        different = [tensor for tensor in expected if found[tensor] != expected[tensor]]
        assert not different, f"{quantization}: {different}"


def test_q4_k_m_uses_both_of_its_types(tmp_path: Path) -> None:
    (path,) = convert_checkpoint(write_tiny_checkpoint("llama3", tmp_path), ["Q4_K_M"], tmp_path)
    counts = type_counts(path)
    assert set(counts) == {"F32", "Q4_K", "Q6_K"}
    assert counts["Q6_K"] == 2 * 4 + 1  # values and feed-forward down of 4 of the 8 blocks, and the output


def test_rows_that_k_quants_cannot_take_fall_back(tmp_path: Path) -> None:
    (path,) = convert_checkpoint(write_tiny_checkpoint("llama-uneven", tmp_path), ["Q4_K_M"], tmp_path)
    tensors = read_gguf(path).tensors
    assert tensors["blk.0.attn_q.weight"].type.name == "Q5_0"
    assert tensors["blk.2.attn_v.weight"].type.name == "Q8_0"
    assert tensors["blk.0.ffn_down.weight"].type.name == "F16"
