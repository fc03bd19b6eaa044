"""What stands in a GGUF adapter, and which cannot be made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from convert.adapter import read_adapter
from convert.adapter_base import AdapterBase, BaseTensor, read_adapter_base
from convert.adapter_plan import plan_adapter
from convert.pipeline import convert_adapter, plan_adapter_file, plan_checkpoint, write_checkpoint
from convert.recipes import find_recipe
from convert.shards import ShardMaps
from convert.transforms import SlabTransform
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.gguf_format import ValueType
from tests.convert.conftest import TinyFolder
from tests.convert.edited import Weights, stored
from tests.convert.edited_adapter import Tensors, edited_adapter
from tests.edge.gguf_bytes import Document, array, scalar, string, tensor
from tests.tiny import TINY
from tests.tiny.adapters import ADAPTERS, TinyAdapter, write_adapter, write_tiny_adapter

DIGEST = "edge.source.weights_sha256"
SHAPE_KEYS = ("block_count", "embedding_length", "attention.head_count", "context_length")


@pytest.fixture(scope="module")
def bases(tiny: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny bases of adapters as GGUF files."""
    folder = tmp_path_factory.mktemp("bases")
    names = {adapter.base for adapter in ADAPTERS.values()}
    return {name: write_checkpoint(tiny(name), ["F32"], folder / f"{name}.gguf", threads=1)[0] for name in names}


def values(file: GGUFFile, name: str) -> npt.NDArray[np.float32]:
    """An F32 tensor, outermost dimension first."""
    tensor = file.tensors[name]
    assert tensor.type.name == "F32"
    return np.fromfile(file.path, np.float32, tensor.n_elements, offset=tensor.offset).reshape(tensor.shape[::-1])


def source_values(adapter: Path, module: str, side: str) -> npt.NDArray[np.float32]:
    pair = read_adapter(adapter).pairs[module]
    tensor = pair.a if side == "a" else pair.b
    with ShardMaps() as maps:
        rows = maps.rows(tensor, 0, tensor.rows)
    bits: npt.NDArray[Any] = rows.astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32) if tensor.dtype == "BF16" else rows.astype(np.float32)


@pytest.mark.parametrize("name", ADAPTERS)
def test_file_is_the_same_for_a_checkpoint_as_for_the_gguf_file_made_of_it(
    name: str, tiny: TinyFolder, bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter, base = write_tiny_adapter(name, tmp_path), ADAPTERS[name].base
    of_checkpoint = convert_adapter(adapter, tiny(base), out=tmp_path / "a.gguf")
    of_gguf = convert_adapter(adapter, bases[base], out=tmp_path / "b.gguf")
    assert of_checkpoint.read_bytes() == of_gguf.read_bytes()


def test_keys_say_what_it_is_and_which_weights_it_is_for(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_tiny_adapter("llama3-plain", tmp_path)
    file = read_gguf(convert_adapter(adapter, bases["llama3"], out=tmp_path))
    assert file.path.name == "llama3-plain-F32.gguf"
    expected = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "llama3-plain",
        "general.base_model.count": 1,
        "general.base_model.0.name": "edge-tests/llama3",
        "general.file_type": 0,
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
        "edge.adapter.base_sha256": read_gguf(bases["llama3"]).metadata[DIGEST],
    }
    assert {key: file.metadata[key] for key in expected} == expected
    assert list(file.metadata["general.source.sha256"]) == [read_adapter(adapter).sha256]  # type: ignore[arg-type]


def test_query_rows_of_b_follow_the_order_of_llama_cpp_and_all_else_stays(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = write_tiny_adapter("llama3-plain", tmp_path)
    file = read_gguf(convert_adapter(adapter, bases["llama3"], out=tmp_path))
    assert len(file.tensors) == 2 * 8 * 7
    for module, name in (("self_attn.q_proj", "attn_q"), ("self_attn.v_proj", "attn_v"), ("mlp.up_proj", "ffn_up")):
        a, b = (source_values(adapter, f"model.layers.3.{module}", side) for side in "ab")
        if name == "attn_q":
            b = b.reshape(-1, 2, 32, 8).swapaxes(1, 2).reshape(b.shape)
        assert (values(file, f"blk.3.{name}.weight.lora_a") == a).all()
        assert (values(file, f"blk.3.{name}.weight.lora_b") == b).all()


def test_scales_that_differ_between_modules_are_folded_into_b(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_tiny_adapter("gemma2-patterns", tmp_path)
    file = read_gguf(convert_adapter(adapter, bases["gemma2"], out=tmp_path))
    alpha = file.metadata["adapter.lora.alpha"]
    assert alpha == 32.0  # the largest, so that no factor is above 1
    pairs = read_adapter(adapter).pairs
    for module, name in (
        ("layers.1.self_attn.k_proj", "blk.1.attn_k"),
        ("layers.1.self_attn.q_proj", "blk.1.attn_q"),
        ("layers.2.mlp.up_proj", "blk.2.ffn_up"),
        ("layers.3.mlp.down_proj", "blk.3.ffn_down"),
    ):
        b, pair = source_values(adapter, f"model.{module}", "b"), pairs[f"model.{module}"]
        effective = values(file, f"{name}.weight.lora_b") * (alpha / pair.rank)
        np.testing.assert_allclose(effective, b * pair.scale, rtol=1e-6)


def test_embeddings_come_as_rows_of_tokens(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_tiny_adapter("llama2-embeddings", tmp_path)
    file = read_gguf(convert_adapter(adapter, bases["llama2"], out=tmp_path))
    a, b = (source_values(adapter, "model.embed_tokens", side) for side in "ab")
    assert (values(file, "token_embd.weight.lora_a") == a.T).all()
    assert (values(file, "token_embd.weight.lora_b") == b).all()
    assert file.tensors["output.weight.lora_b"].shape == (4, 666)


def test_half_precision_is_stored_when_it_is_asked_for(bases: dict[str, Path], tmp_path: Path) -> None:
    file = read_gguf(convert_adapter(write_tiny_adapter("qwen2-rslora", tmp_path), bases["qwen2"], "f16", tmp_path))
    assert {tensor.type.name for tensor in file.tensors.values()} == {"F16"}


def test_matrices_of_a_part_that_no_file_holds_are_left_out_and_told_of(tiny: TinyFolder, tmp_path: Path) -> None:
    everywhere = TinyAdapter("everywhere", "gemma3-multimodal", rank=4, alpha=8, modules=("q_proj",))
    adapter = write_adapter(everywhere, tmp_path)
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj" in read_adapter(adapter).pairs
    plan = plan_adapter_file(adapter, tiny("gemma3-multimodal"), out=tmp_path)
    assert {tensor.name.split(".")[2] for tensor in plan.tensors} == {"attn_q"}
    assert plan.limitations == (
        "the file holds the language model, without the vision tower and its projector (1 tensors)",
    )


def test_adapter_of_nothing_but_a_part_that_no_file_holds_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    tower = TinyAdapter("tower", "gemma3-multimodal", rank=4, alpha=8, modules=("encoder.layers.0.self_attn.q_proj",))
    with pytest.raises(EdgeError, match=r"changes nothing of the language model, only: vision_tower\."):
        plan_adapter_file(write_adapter(tower, tmp_path), tiny("gemma3-multimodal"), out=tmp_path)


def test_adapter_without_base_is_refused_and_the_base_it_names_is_said(tmp_path: Path) -> None:
    adapter = write_tiny_adapter("llama3-plain", tmp_path)
    with pytest.raises(EdgeError) as caught:
        plan_adapter_file(adapter, None)
    assert caught.value.message == (
        f"{adapter} is an adapter, which is converted for its base. It was trained on edge-tests/llama3."
    )
    assert "--base" in caught.value.hint


def test_quantized_adapter_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        convert_adapter(write_tiny_adapter("llama3-plain", tmp_path), bases["llama3"], "Q4_K_M", tmp_path)
    assert caught.value.message == "An adapter cannot be stored as Q4_K_M."
    assert caught.value.hint == "It must be one of: F32, F16, BF16."


def test_existing_file_is_kept_unless_forced(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_tiny_adapter("qwen2-rslora", tmp_path)
    (tmp_path / "a.gguf").write_text("mine")
    with pytest.raises(EdgeError, match="exists already"):
        convert_adapter(adapter, bases["qwen2"], out=tmp_path / "a.gguf")
    convert_adapter(adapter, bases["qwen2"], out=tmp_path / "a.gguf", force=True)
    assert read_gguf(tmp_path / "a.gguf").metadata["adapter.type"] == "lora"


def test_damaged_matrix_leaves_no_file(bases: dict[str, Path], tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    adapter = edited_adapter(
        write_tiny_adapter("qwen2-rslora", tmp_path),
        tmp_path / "edited",
        lambda tensors: tensors.update({name: stored(np.full((256, 4), np.nan))}),
    )
    with pytest.raises(EdgeError, match=r"lora_B\.weight' holds NaN or infinity in row 0"):
        convert_adapter(adapter, bases["qwen2"], out=tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out*"))


def test_base_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(Document(architecture="mamba", entries=[("general.type", string("model"))]).to_bytes())
    with pytest.raises(EdgeError, match="is of the architecture 'mamba'") as caught:
        read_adapter_base(base)
    assert "llama" in caught.value.hint


def test_base_that_does_not_say_its_shape_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(Document(entries=[("llama.block_count", scalar(4, 2))]).to_bytes())
    with pytest.raises(EdgeError, match="does not say hidden_size"):
        read_adapter_base(base)


def test_sizes_that_a_file_gives_for_each_layer_are_no_obstacle(bases: dict[str, Path], tmp_path: Path) -> None:
    """Other tools, and some families, write the lengths of feed-forward layers as an array."""
    source = read_gguf(bases["qwen2"])
    lengths = ("qwen2.feed_forward_length", array(ValueType.UINT32, [512, 512]))
    numbers = {key: source.metadata[f"qwen2.{key}"] for key in SHAPE_KEYS}
    entries = [lengths, *((f"qwen2.{key}", scalar(ValueType.UINT32, int(str(n)))) for key, n in numbers.items())]
    described = [
        tensor(name, found.shape, found.type.id, found.offset - source.data_offset)
        for name, found in source.tensors.items()
    ]
    base = tmp_path / "base.gguf"
    weights = bases["qwen2"].read_bytes()[source.data_offset :]
    base.write_bytes(Document(entries, described, weights, architecture="qwen2").to_bytes())
    assert meaning(read_adapter_base(base)) == meaning(read_adapter_base(bases["qwen2"]))


def test_adapter_for_a_file_of_another_tool_names_no_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(bases["qwen2"].read_bytes().replace(DIGEST.encode(), b"x" * len(DIGEST)))
    file = read_gguf(convert_adapter(write_tiny_adapter("qwen2-rslora", tmp_path), base, out=tmp_path))
    assert "edge.adapter.base_sha256" not in file.metadata


def test_weight_in_an_order_that_no_product_can_follow_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    base = read_adapter_base(tiny("llama3"))
    mirrored = SlabTransform("columns mirrored", lambda slab: np.ascontiguousarray(slab[:, ::-1]))
    module = "model.layers.0.self_attn.q_proj"
    tensor = base.tensors[module]
    changed = BaseTensor(tensor.name, tensor.shape, tensor.rows, mirrored)
    tensors = {**base.tensors, module: changed}
    adapter = read_adapter(write_tiny_adapter("llama3-plain", tmp_path))
    with pytest.raises(EdgeError) as caught:
        plan_adapter(
            adapter, AdapterBase(base.modules, tensors, base.weights_sha256), tmp_path / "x.gguf", find_recipe("F32")
        )
    assert f"matrices of {module} cannot be stored" in caught.value.message
    assert "--merge-lora" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"rank_pattern": {"experts.1.w1": 2}},
        {"alpha_pattern": {"experts.1.w1": 2}},
        {"exclude_modules": ["experts.1.w1"]},
    ],
)
def test_experts_that_differ_in_more_than_their_values_are_refused(
    change: dict[str, Any], tiny: TinyFolder, tmp_path: Path
) -> None:
    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if "experts.1.w1" in name]:
            values = tensors.pop(name).values
            if "rank_pattern" in change:
                tensors[name] = Weights("BF16", values[:2] if "lora_A" in name else values[:, :2].copy())
            elif "alpha_pattern" in change:
                tensors[name] = Weights("BF16", values)

    experts = TinyAdapter("mixtral-experts", "mixtral", rank=4, alpha=8, modules=("w1", "w2"))
    adapter = edited_adapter(write_adapter(experts, tmp_path), tmp_path / "edited", edit, **change)
    with pytest.raises(EdgeError) as caught:
        convert_adapter(adapter, tiny("mixtral"), out=tmp_path / "out.gguf")
    assert "experts of a layer in one tensor, and their matrices have to be complete" in caught.value.message
    assert "--merge-lora" in caught.value.hint


@pytest.mark.parametrize("name", TINY)
def test_base_means_the_same_as_a_checkpoint_and_as_the_gguf_file_made_of_it(
    name: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    part = plan_checkpoint(tiny(name), ["F32"], tmp_path / "base.gguf").files[0].parts[0]
    part.path.write_bytes(part.header)
    os.truncate(part.path, part.file_bytes)  # of the weights, none is needed
    of_checkpoint, of_gguf = read_adapter_base(tiny(name)), read_adapter_base(part.path)
    assert of_checkpoint.tensors
    assert of_gguf.weights_sha256 == of_checkpoint.weights_sha256
    assert of_gguf.modules.tied_embeddings == of_checkpoint.modules.tied_embeddings
    assert meaning(of_gguf) == meaning(of_checkpoint)


def meaning(base: AdapterBase) -> dict[str, tuple[Any, ...]]:
    """What a base says of each module; transforms, which are functions, by name and unit."""
    return {
        module: (
            tensor.name,
            tensor.rows,
            tensor.expert,
            tensor.transform and (tensor.transform.name, tensor.transform.unit),
        )
        for module, tensor in base.tensors.items()
    }
