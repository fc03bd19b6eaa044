"""Adapters merged while converting: the sums, what a file says of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import convert.slabs
from convert.adapter import read_adapter
from convert.checkpoint import read_checkpoint
from convert.merge import ScaledAdapter, merge_adapters
from convert.pipeline import plan_checkpoint, write_checkpoint
from convert.safetensors_file import SourceTensor
from convert.shards import ShardMaps
from convert.weights_identity import weights_sha256
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder
from tests.convert.edited import stored
from tests.convert.edited_adapter import edited_adapter
from tests.tiny.adapters import write_tiny_adapter

DOWN = "model.layers.1.mlp.down_proj"
EMBEDDINGS = "model.embed_tokens"


def floats(tensor: SourceTensor) -> npt.NDArray[np.float64]:
    with ShardMaps() as maps:
        rows: npt.NDArray[Any] = maps.rows(tensor, 0, tensor.rows)
        if tensor.dtype == "BF16":
            rows = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return rows.astype(np.float64)


def products(adapter: Path, module: str) -> npt.NDArray[np.float64]:
    pair = read_adapter(adapter).pairs[module]
    product = pair.scale * floats(pair.b) @ floats(pair.a)
    return product.T if pair.is_embedding else product


def converted_values(path: Path, name: str) -> npt.NDArray[np.float32]:
    tensor = read_gguf(path).tensors[name]
    values = np.fromfile(path, np.float32, tensor.n_elements, offset=tensor.offset)
    return values.reshape(tensor.shape[::-1])


@pytest.mark.parametrize(("module", "target"), [(DOWN, "blk.1.ffn_down"), (EMBEDDINGS, "token_embd")])
@pytest.mark.parametrize("slab_elements", [1 << 20, 1024])
def test_every_row_gets_its_part_of_the_product_however_slabs_are_cut(
    module: str, target: str, slab_elements: int, tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert.slabs, "SLAB_ELEMENTS", slab_elements)
    adapter = write_tiny_adapter("llama2-embeddings", tmp_path)
    merge = [ScaledAdapter(adapter, -0.75)]
    (path,) = write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "x.gguf", merge=merge, threads=2)
    base = floats(read_checkpoint(tiny("llama2")).tensors[f"{module}.weight"])
    expected = base - 0.75 * products(adapter, module)
    np.testing.assert_allclose(converted_values(path, f"{target}.weight"), expected, rtol=1e-5, atol=1e-6)


def test_several_adapters_add_up(tiny: TinyFolder, tmp_path: Path) -> None:
    first = write_tiny_adapter("llama2-embeddings", tmp_path)
    second = edited_adapter(first, tmp_path / "second", lora_alpha=8)
    merge = [ScaledAdapter(first), ScaledAdapter(second, 0.25)]
    (path,) = write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "x.gguf", merge=merge, threads=1)
    base = floats(read_checkpoint(tiny("llama2")).tensors[f"{DOWN}.weight"])
    expected = base + 1.5 * products(first, DOWN)
    np.testing.assert_allclose(converted_values(path, "blk.1.ffn_down.weight"), expected, rtol=1e-5, atol=1e-6)


def test_file_says_what_was_merged_and_is_named_after_it(tiny: TinyFolder, tmp_path: Path) -> None:
    adapter = write_tiny_adapter("llama2-embeddings", tmp_path)
    merge = [ScaledAdapter(adapter, 0.5)]
    (path,) = write_checkpoint(tiny("llama2"), ["Q8_0"], tmp_path, merge=merge, threads=1)
    metadata = read_gguf(path).metadata
    assert path.name == "llama2-llama2-embeddings-Q8_0.gguf"
    assert metadata["general.name"] == "llama2-llama2-embeddings"
    assert metadata["general.source.name"] == "llama2"
    assert list(metadata["edge.merged.name"]) == ["llama2-embeddings"]  # type: ignore[arg-type]
    assert list(metadata["edge.merged.sha256"]) == [read_adapter(adapter).sha256]  # type: ignore[arg-type]
    assert list(metadata["edge.merged.scale"]) == [0.5]  # type: ignore[arg-type]


def test_file_without_adapters_says_nothing_of_them(tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny("llama2"), ["Q8_0"], tmp_path, threads=1)
    assert not [key for key in read_gguf(path).metadata if key.startswith("edge.merged")]


def test_merged_weights_are_other_weights_than_those_of_the_base(tiny: TinyFolder, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny("llama2"))
    adapter = write_tiny_adapter("llama2-embeddings", tmp_path)
    digests = {
        weights_sha256(merge_adapters(checkpoint, merge).tensors)
        for merge in ([], [ScaledAdapter(adapter)], [ScaledAdapter(adapter, 0.5)], [ScaledAdapter(adapter)] * 2)
    }
    assert len(digests) == 4


def test_weights_are_known_again_in_other_files(tiny: TinyFolder, tmp_path: Path) -> None:
    """However a checkpoint is cut and wherever it lies: only names, types, shapes and values count."""
    tensors = read_checkpoint(tiny("llama3")).tensors
    one_file = tmp_path / "all"
    with one_file.open("wb") as file:
        moved = {}
        for name, tensor in reversed(tensors.items()):
            offset = file.tell()
            with tensor.file.open("rb") as source:
                source.seek(tensor.offset)
                file.write(source.read(tensor.n_bytes))
            moved[name] = replace(tensor, file=one_file, offset=offset)
    assert weights_sha256(moved) == weights_sha256(tensors)
    first = min(moved.values(), key=lambda tensor: tensor.offset)
    with one_file.open("r+b") as file:
        file.seek(first.offset)
        file.write(b"\x00\x00\x00\x00")
    assert weights_sha256(moved) != weights_sha256(tensors)


def test_weights_that_went_away_are_an_error_that_names_the_file(tiny: TinyFolder, tmp_path: Path) -> None:
    tensors = read_checkpoint(tiny("llama2")).tensors
    gone = {name: replace(tensor, file=tmp_path / "gone.safetensors") for name, tensor in tensors.items()}
    with pytest.raises(EdgeError, match=r"gone\.safetensors cannot be read"):
        weights_sha256(gone)


def test_damaged_adapter_is_named_and_leaves_no_file(tiny: TinyFolder, tmp_path: Path) -> None:
    name = f"base_model.model.{DOWN}.lora_A.default.weight"
    adapter = edited_adapter(
        write_tiny_adapter("llama2-embeddings", tmp_path),
        tmp_path / "edited",
        lambda tensors: tensors.update({name: stored(np.full((4, 512), np.inf))}),
    )
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "out.gguf", merge=[ScaledAdapter(adapter)], threads=1)
    assert caught.value.message == f"The tensor {name!r} of an adapter holds NaN or infinity."
    assert not list(tmp_path.glob("out*"))


def test_adapter_of_another_base_is_refused_before_anything_is_written(tiny: TinyFolder, tmp_path: Path) -> None:
    merge = [ScaledAdapter(write_tiny_adapter("gemma2-patterns", tmp_path))]
    with pytest.raises(EdgeError) as caught:
        plan_checkpoint(tiny("qwen2"), ["F32"], tmp_path / "out", merge=merge)
    assert "qwen2 (qwen2) does not have: model.layers.2." in caught.value.message
    assert caught.value.hint == "It was trained on edge-tests/gemma2: give that as base."


def test_adapter_cannot_be_merged_into_a_gguf_file(tiny: TinyFolder, tmp_path: Path) -> None:
    (base,) = write_checkpoint(tiny("qwen2"), ["F32"], tmp_path / "base.gguf", threads=1)
    with pytest.raises(EdgeError, match="An adapter cannot be merged into"):
        plan_checkpoint(base, ["Q8_0"], tmp_path, merge=[ScaledAdapter(write_tiny_adapter("qwen2-rslora", tmp_path))])
