"""Tensors that come from several of a checkpoint, from a part of one, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert import slabs as slab_module
from convert.checkpoint import read_checkpoint
from convert.pipeline import plan_checkpoint, write_checkpoint
from convert.plan import ConversionPlan
from convert.slabs import slabs
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder
from tests.convert.edited import Weights, edited_weights, stored
from tests.tiny import TINY

EXPERTS = "model.layers.0.mlp.experts"
GATE_AND_UP = f"{EXPERTS}.gate_up_proj"


def plan_of(source: Path) -> ConversionPlan:
    return plan_checkpoint(source, ["F32"], source / "out")


def refusal(source: Path) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        plan_of(source)
    return caught.value


def tensor_bytes(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    return {
        name: content[tensor.offset : tensor.offset + tensor.n_bytes]
        for name, tensor in read_gguf(path).tensors.items()
    }


def fuse(weights: dict[str, Weights]) -> None:
    """Puts the experts of each block into the two tensors that transformers 5 has in memory."""
    experts = sorted({int(name.split(".")[5]) for name in weights if ".experts." in name})
    for block in range(2):
        prefix = f"model.layers.{block}.mlp.experts"

        def take(name: str, prefix: str = prefix) -> list[np.ndarray]:
            return [weights.pop(f"{prefix}.{expert}.{name}.weight").values for expert in experts]

        gate, up, down = take("gate_proj"), take("up_proj"), take("down_proj")
        both = [np.concatenate(pair) for pair in zip(gate, up, strict=True)]
        weights[f"{prefix}.gate_up_proj"] = Weights("BF16", np.stack(both))
        weights[f"{prefix}.down_proj"] = Weights("BF16", np.stack(down))


def test_experts_of_a_block_are_one_tensor(tiny: TinyFolder) -> None:
    tensors = {tensor.name: tensor for tensor in plan_of(tiny("qwen3_moe")).tensors}
    up = tensors["blk.1.ffn_up_exps.weight"]
    assert up.shape == (6, 256, 256)
    assert [rows.tensor.name for rows in up.sources] == [
        f"model.layers.1.mlp.experts.{expert}.up_proj.weight" for expert in range(6)
    ]
    assert {(rows.first, rows.last) for rows in up.sources} == {(0, 256)}
    assert "blk.0.ffn_up.weight" not in tensors


def test_fused_experts_make_the_same_file_as_separate_ones(tiny: TinyFolder, tmp_path: Path) -> None:
    fused = edited_weights(tiny("qwen3_moe"), tmp_path / "fused", fuse)
    assert len(read_checkpoint(fused).tensors) < len(read_checkpoint(tiny("qwen3_moe")).tensors)
    paths = [
        write_checkpoint(source, ["Q4_K_M"], tmp_path / f"{number}.gguf")[0]
        for number, source in enumerate((tiny("qwen3_moe"), fused))
    ]
    assert tensor_bytes(paths[0]) == tensor_bytes(paths[1])


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_moe-fused", "gemma3-multimodal"])
def test_slabs_cover_a_tensor_without_crossing_an_expert(
    name: str, tiny: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_module, "SLAB_ELEMENTS", 100 * 256)  # experts have 256 rows
    for tensor in plan_of(tiny(name)).tensors:
        cut = list(slabs(tensor))
        assert [slab.first for slab in cut] == [0, *(slab.last for slab in cut[:-1])]
        assert cut[-1].last == tensor.rows
        for slab in cut:
            assert slab.source is not None
            assert slab.source.count == slab.last - slab.first
            expert_rows = tensor.shape[1] if len(tensor.shape) == 3 else tensor.rows
            assert slab.first // expert_rows == (slab.last - 1) // expert_rows


def test_missing_expert_is_named(tiny: TinyFolder, tmp_path: Path) -> None:
    name = f"{EXPERTS}.4.down_proj.weight"
    error = refusal(edited_weights(tiny("qwen3_moe"), tmp_path / "edited", lambda weights: weights.pop(name)))
    assert error.message == f"The checkpoint has no tensor {name!r}, which qwen3_moe needs."


def test_expert_too_many_is_named(tiny: TinyFolder, tmp_path: Path) -> None:
    name = f"{EXPERTS}.6.down_proj.weight"

    def add(weights: dict[str, Weights]) -> None:
        weights[name] = weights[f"{EXPERTS}.5.down_proj.weight"]

    error = refusal(edited_weights(tiny("qwen3_moe"), tmp_path / "edited", add))
    assert error.message == f"The checkpoint has tensors that qwen3_moe does not know: {name}."


def test_fused_experts_of_another_shape_are_named(tiny: TinyFolder, tmp_path: Path) -> None:
    def transpose(weights: dict[str, Weights]) -> None:
        weights[GATE_AND_UP] = Weights("BF16", weights[GATE_AND_UP].values.swapaxes(1, 2).copy())

    error = refusal(edited_weights(tiny("qwen3_moe-fused"), tmp_path / "edited", transpose))
    assert error.message == (
        f"The tensor '{GATE_AND_UP}' has shape [4, 256, 512]; config.json makes it [4, 512, 256]"
        " (experts x 2 expert_feed_forward x hidden)."
    )


def test_nan_in_an_expert_is_named_with_its_own_row(tiny: TinyFolder, tmp_path: Path) -> None:
    def damage(weights: dict[str, Weights]) -> None:
        weights[GATE_AND_UP].values[2, 300, 7] = 0x7FC0

    source = edited_weights(tiny("qwen3_moe-fused"), tmp_path / "edited", damage)
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(source, ["F32"], tmp_path / "out.gguf")
    assert caught.value.message == f"The tensor '{GATE_AND_UP}' holds NaN or infinity in row {2 * 512 + 300}."


def test_rows_beyond_the_tokenizer_s_last_token_are_left_out(tiny: TinyFolder, tmp_path: Path) -> None:
    source = read_checkpoint(tiny("gemma3-multimodal"))
    stored_rows = source.tensors["language_model.model.embed_tokens.weight"].rows
    (path,) = write_checkpoint(source.directory, ["F32"], tmp_path / "out.gguf")
    file = read_gguf(path)
    tokens = TINY["gemma3-multimodal"].vocabulary
    assert stored_rows == tokens + 17
    assert file.tensors["token_embd.weight"].shape == (256, tokens)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == file.metadata["gemma3.vocab_size"] == tokens


def test_what_is_left_out_of_a_multimodal_checkpoint_is_told(tiny: TinyFolder) -> None:
    plan = plan_of(tiny("gemma3-multimodal"))
    assert plan.limitations[0] == (
        "the file holds the language model, without the vision tower and its projector (23 tensors)"
    )
    assert not any("vision" in limitation for limitation in plan_of(tiny("gemma3")).limitations)


def test_language_model_may_go_by_the_names_of_newer_transformers(tiny: TinyFolder, tmp_path: Path) -> None:
    published, newer = "language_model.model.", "model.language_model."

    def rename(weights: dict[str, Weights]) -> None:
        for name in [name for name in weights if name.startswith(published)]:
            weights[newer + name.removeprefix(published)] = weights.pop(name)

    source = edited_weights(tiny("gemma3-multimodal"), tmp_path / "renamed", rename)
    names = [tensor.name for tensor in plan_of(source).tensors]
    assert names == [tensor.name for tensor in plan_of(tiny("gemma3-multimodal")).tensors]


def test_tensor_under_two_names_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    def copy(weights: dict[str, Weights]) -> None:
        weights["model.norm.weight"] = stored(np.ones(256))

    error = refusal(edited_weights(tiny("gemma3-multimodal"), tmp_path / "edited", copy))
    assert error.message == (
        "The checkpoint has the same tensor twice: 'language_model.model.norm.weight' and 'model.norm.weight'."
    )
