"""Our quantized files hold, byte for byte, what llama.cpp makes of our own BF16 file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from convert.families import FAMILIES
from convert.imatrix import ImportanceMatrix, TensorImportance
from convert.pipeline import write_checkpoint
from convert.plan import ConversionOptions
from convert.recipes import RECIPES
from edge.devices import physical_cores
from edge.gguf_file import read_gguf
from edge.llama.quantize import FileQuantization, quantize_file
from tests.convert.conftest import TinyFolder
from tests.tiny import TINY, write_tiny_checkpoint

WITHOUT_MATRIX = [name for name, recipe in RECIPES.items() if recipe.is_quantized and not recipe.needs_matrix]
EVERY_FAMILY = [family.proven_by[0] for family in FAMILIES]
WITH_MATRIX = {name: ["Q4_K_M", "IQ4_XS"] for name in EVERY_FAMILY} | {
    "qwen2": ["Q4_K_M", "IQ4_XS", "IQ3_M", "IQ3_XXS", "IQ2_M", "Q2_K", "Q5_0"],
    "llama-uneven": ["Q4_K_M", "IQ4_XS", "IQ3_M", "Q3_K_M"],
    "mixtral": ["Q4_K_M", "IQ4_XS", "IQ2_M"],
}


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
    bfloat16, *ours = write_checkpoint(source, ["BF16", "Q8_0", "Q4_K_M"], tmp_path)
    for quantization, path in zip(("Q8_0", "Q4_K_M"), ours, strict=True):
        oracle = tmp_path / f"llama-cpp-{quantization}.gguf"
        quantize_file(bfloat16, oracle, quantization, threads=1)
        expected, found = stored_tensors(oracle), stored_tensors(path)
        assert found.keys() == expected.keys()
        different = [tensor for tensor in expected if found[tensor] != expected[tensor]]
        assert not different, f"{quantization}: {different}"


def check_against_llama_cpp(source: Path, ours: list[Path], oracle: Path, wanted: list[FileQuantization]) -> None:
    """Every tensor of our files has the bytes that llama_model_quantize makes of the file `source`."""
    for quantization, path in zip(wanted, ours, strict=True):
        quantize_file(source, oracle, quantization, threads=physical_cores())
        expected, found = stored_tensors(oracle), stored_tensors(path)
        assert found.keys() == expected.keys()
        different = [tensor for tensor in expected if found[tensor] != expected[tensor]]
        assert not different, f"{quantization.quantization}: {different}"


def made_up_matrix(path: Path) -> ImportanceMatrix:
    """Importance of every matrix in the blocks of a file, far from even; among experts, one was never chosen."""
    random = np.random.default_rng(1)
    entries = {}
    for name, tensor in read_gguf(path).tensors.items():
        if name.startswith("blk.") and len(tensor.shape) > 1:
            experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
            sums = np.exp(2 * random.standard_normal((experts, tensor.shape[0]))).astype(np.float32)
            counts = random.integers(1, 900, experts)
            if experts > 1:
                sums[1], counts[1] = 0, 0
            entries[name] = TensorImportance(sums, counts)
    return ImportanceMatrix("made up", entries)


@pytest.mark.parametrize("name", [*EVERY_FAMILY, "llama-uneven"])
def test_every_recipe_gives_the_tensors_of_llama_model_quantize(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    bfloat16, *ours = write_checkpoint(tiny(name), ["BF16", *WITHOUT_MATRIX], tmp_path)
    check_against_llama_cpp(bfloat16, ours, tmp_path / "oracle.gguf", list(map(FileQuantization, WITHOUT_MATRIX)))


@pytest.mark.parametrize("name", WITH_MATRIX)
def test_recipes_with_a_matrix_give_the_tensors_of_llama_model_quantize(
    name: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    (bfloat16,) = write_checkpoint(tiny(name), ["BF16"], tmp_path)
    matrix = made_up_matrix(bfloat16)
    ours = write_checkpoint(tiny(name), WITH_MATRIX[name], tmp_path, options=ConversionOptions(matrix=matrix))
    importance = {tensor: entry.weights for tensor, entry in matrix.entries.items()}
    wanted = [FileQuantization(quantization, importance) for quantization in WITH_MATRIX[name]]
    check_against_llama_cpp(bfloat16, ours, tmp_path / "oracle.gguf", wanted)


def test_matrix_changes_what_is_written(tiny: TinyFolder, tmp_path: Path) -> None:
    (bfloat16, plain) = write_checkpoint(tiny("qwen3"), ["BF16", "Q4_K_M"], tmp_path)
    options = ConversionOptions(matrix=made_up_matrix(bfloat16))
    (weighted,) = write_checkpoint(tiny("qwen3"), ["Q4_K_M"], tmp_path / "weighted.gguf", options=options)
    before, after = stored_tensors(plain), stored_tensors(weighted)
    assert before["token_embd.weight"] == after["token_embd.weight"]
    assert before["blk.0.attn_q.weight"] != after["blk.0.attn_q.weight"]


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", ["qwen2", "llama-uneven"])
def test_gguf_file_gives_the_tensors_of_llama_model_quantize(
    name: str, stored: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    (source,) = write_checkpoint(tiny(name), [stored], tmp_path)
    quantizations = ["Q4_K_M", "Q8_0", "IQ4_NL", "F16"]
    ours = write_checkpoint(source, quantizations, tmp_path / "ours")
    check_against_llama_cpp(source, ours, tmp_path / "oracle.gguf", list(map(FileQuantization, quantizations)))


def test_q4_k_m_uses_both_of_its_types(tmp_path: Path) -> None:
    (path,) = write_checkpoint(write_tiny_checkpoint("llama3", tmp_path), ["Q4_K_M"], tmp_path)
    counts = type_counts(path)
    assert set(counts) == {"F32", "Q4_K", "Q6_K"}
    assert counts["Q6_K"] == 2 * 4 + 1  # values and feed-forward down of 4 of the 8 blocks, and the output


def test_rows_that_k_quants_cannot_take_fall_back(tmp_path: Path) -> None:
    (path,) = write_checkpoint(write_tiny_checkpoint("llama-uneven", tmp_path), ["Q4_K_M"], tmp_path)
    tensors = read_gguf(path).tensors
    assert tensors["blk.0.attn_q.weight"].type.name == "Q5_0"
    assert tensors["blk.2.attn_v.weight"].type.name == "Q8_0"
    assert tensors["blk.0.ffn_down.weight"].type.name == "F16"
