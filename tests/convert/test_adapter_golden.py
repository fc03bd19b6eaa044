"""A base with a LoRA computes what PEFT computes: with a GGUF adapter beside it, and with the adapter merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from convert.merge import ScaledAdapter
from convert.pipeline import convert_adapter, write_checkpoint
from edge.adapter_check import check_adapter
from edge.gguf_file import read_gguf
from edge.llama.adapter import Adapter, use_adapters
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from tests.convert.conftest import TinyFolder
from tests.convert.test_golden import all_logits, divergences
from tests.golden.stored import FOLDER, read_golden
from tests.tiny import CONTEXT_TOKENS, weights_sha256
from tests.tiny.adapters import ADAPTERS, TinyAdapter, write_adapter, write_tiny_adapter

LARGEST_DIVERGENCE = 1e-6
LEAST_EFFECT = 0.1  # mean KL divergence between an adapted model and its base

Floats = npt.NDArray[np.float32]


def adapted_logits(model: Model, adapter: Adapter, tokens: npt.NDArray[np.int32], scale: float = 1.0) -> Floats:
    """Logits [tokens, vocabulary], as `all_logits` computes them, but with an adapter."""
    with Context(
        model,
        context_tokens=CONTEXT_TOKENS,
        max_outputs=len(tokens),
        key_type="F32",
        value_type="F32",
        flash_attention="off",
    ) as context:
        use_adapters(context, [(adapter, scale)])
        batch = Batch(len(tokens), 1)
        batch.add(tokens.tolist(), sequence=0, position=0, last_logits=True)
        batch.want_all_logits()
        context.decode(batch)
        return np.stack([context.logits(index) for index in range(len(tokens))])


def test_every_adapter_has_its_logits_and_none_are_left_over() -> None:
    files = list((FOLDER / "adapters").glob("*.npz"))
    assert {file.stem for file in files} == set(ADAPTERS)
    assert sum(file.stat().st_size for file in files) < 400_000


@pytest.mark.parametrize("name", ADAPTERS)
def test_base_with_its_gguf_adapter_gives_the_logits_of_peft(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    base, directory = tiny(ADAPTERS[name].base), write_tiny_adapter(name, tmp_path)
    (converted,) = write_checkpoint(base, ["F32"], tmp_path / "base.gguf", threads=1)
    adapter_file = convert_adapter(directory, base, out=tmp_path / "adapter.gguf")
    check_adapter(read_gguf(adapter_file), read_gguf(converted))
    golden = read_golden(f"adapters/{name}")
    assert golden.weights_sha256 == weights_sha256(directory)
    with Model(converted) as model, Adapter(model, adapter_file) as adapter:
        for sequence in golden.sequences:
            ours = adapted_logits(model, adapter, sequence.tokens)[sequence.positions]
            without = adapted_logits(model, adapter, sequence.tokens, scale=0.0)[sequence.positions]
            assert divergences(sequence.logits, ours).mean() <= LARGEST_DIVERGENCE
            assert (sequence.logits.argmax(axis=-1) == ours.argmax(axis=-1)).all()
            assert divergences(sequence.logits, without).mean() >= LEAST_EFFECT


@pytest.mark.parametrize("name", ADAPTERS)
def test_base_with_the_adapter_merged_into_it_gives_the_logits_of_peft(
    name: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    merge = [ScaledAdapter(write_tiny_adapter(name, tmp_path))]
    (merged,) = write_checkpoint(tiny(ADAPTERS[name].base), ["F32"], tmp_path / "x.gguf", merge=merge, threads=1)
    with Model(merged) as model:
        for sequence in read_golden(f"adapters/{name}").sequences:
            ours = all_logits(model, sequence.tokens)[sequence.positions]
            assert divergences(sequence.logits, ours).mean() <= LARGEST_DIVERGENCE
            assert (sequence.logits.argmax(axis=-1) == ours.argmax(axis=-1)).all()


def test_half_of_an_adapter_beside_the_base_is_half_of_it_merged(tiny: TinyFolder, tmp_path: Path) -> None:
    base, directory = tiny("qwen2"), write_tiny_adapter("qwen2-rslora", tmp_path)
    (converted,) = write_checkpoint(base, ["F32"], tmp_path / "base.gguf", threads=1)
    (merged,) = write_checkpoint(
        base, ["F32"], tmp_path / "merged.gguf", merge=[ScaledAdapter(directory, 0.5)], threads=1
    )
    tokens = read_golden("adapters/qwen2-rslora").sequences[0].tokens
    with Model(merged) as model:
        expected = all_logits(model, tokens)
    adapter_file = convert_adapter(directory, converted, out=tmp_path / "adapter.gguf")
    with Model(converted) as model, Adapter(model, adapter_file) as adapter:
        assert divergences(expected, adapted_logits(model, adapter, tokens, scale=0.5)).mean() <= 1e-8
        assert divergences(expected, adapted_logits(model, adapter, tokens)).mean() >= LEAST_EFFECT


# What other families have of their own: fused projections, other names and prefixes, layers without RoPE, and experts,
# which PEFT no longer knows as modules since transformers keeps those of a layer in one parameter.
OTHERS = [
    TinyAdapter(base, base, rank=4, alpha=8, modules=modules)
    for base, modules in {
        "gemma3-multimodal": ("q_proj", "down_proj"),
        "granite": ("q_proj", "k_proj", "down_proj"),
        "mixtral": ("w1", "w2", "w3", "gate", "k_proj"),
        "olmo2": ("q_proj", "v_proj"),
        "phi3": ("qkv_proj", "gate_up_proj", "down_proj", "o_proj"),
        "smollm3": ("q_proj", "k_proj"),
        "starcoder2": ("q_proj", "k_proj", "c_fc", "c_proj"),
    }.items()
]


@pytest.mark.parametrize("adapter_of_family", OTHERS, ids=lambda adapter: adapter.name)
def test_adapter_beside_its_base_is_the_same_as_merged(
    adapter_of_family: TinyAdapter, tiny: TinyFolder, tmp_path: Path
) -> None:
    base, directory = tiny(adapter_of_family.base), write_adapter(adapter_of_family, tmp_path)
    (converted,) = write_checkpoint(base, ["F32"], tmp_path / "base.gguf", threads=1)
    merge = [ScaledAdapter(directory)]
    (merged,) = write_checkpoint(base, ["F32"], tmp_path / "merged.gguf", merge=merge, threads=1)
    adapter_file = convert_adapter(directory, base, out=tmp_path / "adapter.gguf")
    assert convert_adapter(directory, converted, out=tmp_path / "b.gguf").read_bytes() == adapter_file.read_bytes()
    check_adapter(read_gguf(adapter_file), read_gguf(converted))
    tokens = np.arange(5, 69, dtype=np.int32)
    with Model(merged) as model:
        expected = all_logits(model, tokens)
    with Model(converted) as model, Adapter(model, adapter_file) as adapter:
        assert divergences(expected, adapted_logits(model, adapter, tokens)).mean() <= LARGEST_DIVERGENCE
        assert divergences(expected, adapted_logits(model, adapter, tokens, scale=0.0)).mean() >= LEAST_EFFECT
