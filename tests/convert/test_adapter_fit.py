"""Whether an adapter belongs to a base is known before a weight is read, and an error says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.adapter import read_adapter
from convert.adapter_fit import pairs_by_base_module
from convert.checkpoint import read_checkpoint
from convert.merge import checkpoint_modules
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder
from tests.convert.edited import stored
from tests.convert.edited_adapter import Tensors, edited_adapter
from tests.tiny.adapters import ADAPTERS, write_tiny_adapter

LAYER = "base_model.model.model.layers.0"


def refusal(adapter: Path, base: Path) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        pairs_by_base_module(read_adapter(adapter), checkpoint_modules(read_checkpoint(base)))
    return caught.value


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_fits_the_base_it_was_made_for(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    adapter = read_adapter(write_tiny_adapter(name, tmp_path))
    base = checkpoint_modules(read_checkpoint(tiny(ADAPTERS[name].base)))
    assert set(pairs_by_base_module(adapter, base)) == set(adapter.pairs)


def test_adapter_of_a_base_of_other_sizes_is_refused_with_both_shapes_and_the_base_it_names(
    tiny: TinyFolder, tmp_path: Path
) -> None:
    error = refusal(write_tiny_adapter("llama2-embeddings", tmp_path), tiny("mistral"))
    assert "model.layers.0.self_attn.q_proj make [256, 256]; in mistral it is [512, 256]." in error.message
    assert error.hint == "It was trained on edge-tests/llama2: give that as base."


def test_modules_that_the_base_does_not_have_are_named(tiny: TinyFolder, tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if "q_proj" in name]:
            tensors[name.replace("q_proj", "query_key_value")] = tensors.pop(name)

    adapter = edited_adapter(write_tiny_adapter("llama3-plain", tmp_path), tmp_path / "edited", rename)
    error = refusal(adapter, tiny("llama3"))
    assert error.message == (
        f"{adapter} changes modules that llama3 (llama) does not have: model.layers.0.self_attn.query_key_value,"
        " model.layers.1.self_attn.query_key_value, model.layers.2.self_attn.query_key_value and 5 more."
    )


def test_adapter_of_a_base_with_more_layers_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(write_tiny_adapter("llama3-plain", tmp_path), tiny("mistral"))
    assert "changes modules that mistral (llama) does not have: model.layers.2." in error.message


def test_adapter_that_lacks_modules_it_should_have_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    def cut(tensors: Tensors) -> None:
        for name in [name for name in tensors if "layers.7.self_attn.v_proj" in name]:
            del tensors[name]

    adapter = edited_adapter(write_tiny_adapter("llama3-plain", tmp_path), tmp_path / "edited", cut)
    error = refusal(adapter, tiny("llama3"))
    assert "has no matrices for model.layers.7.self_attn.v_proj, which its adapter_config.json names." in error.message


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_embeddings_or_output_of_a_tied_base_cannot_be_changed_alone(
    module: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    def keep(tensors: Tensors) -> None:
        for name in [name for name in tensors if module not in name]:
            del tensors[name]

    adapter = edited_adapter(write_tiny_adapter("llama2-embeddings", tmp_path), tmp_path / "edited", keep)
    error = refusal(adapter, tiny("llama3-published"))
    assert f"{module}, but llama3-published uses one tensor as embeddings and as output" in error.message
    assert "merge with PEFT and save the model untied" in error.hint


def test_copy_of_the_bases_embeddings_beside_their_matrices_is_left_out(tiny: TinyFolder, tmp_path: Path) -> None:
    """PEFT saves one with every adapter of embeddings."""
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    adapter = edited_adapter(
        write_tiny_adapter("llama2-embeddings", tmp_path),
        tmp_path / "edited",
        lambda tensors: tensors.update({name: stored(np.zeros((666, 256)))}),
    )
    pairs = pairs_by_base_module(read_adapter(adapter), checkpoint_modules(read_checkpoint(tiny("llama2"))))
    assert pairs["model.embed_tokens"].is_embedding


def test_adapter_trained_with_additional_tokens_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    adapter = edited_adapter(
        write_tiny_adapter("llama2-embeddings", tmp_path),
        tmp_path / "edited",
        lambda tensors: tensors.update({name: stored(np.zeros((700, 256)))}),
    )
    error = refusal(adapter, tiny("llama2"))
    assert "was trained with model.embed_tokens as [700, 256]; in llama2 it is [666, 256]." in error.message
    assert "Tokens were added" in error.hint


def test_matrices_of_embeddings_for_a_linear_module_are_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    def disguise(tensors: Tensors) -> None:
        a, b = (tensors.pop(f"{LAYER}.self_attn.q_proj.lora_{side}.weight") for side in "AB")
        tensors[f"{LAYER}.self_attn.q_proj.lora_embedding_A"] = a
        tensors[f"{LAYER}.self_attn.q_proj.lora_embedding_B"] = b

    adapter = edited_adapter(write_tiny_adapter("llama3-plain", tmp_path), tmp_path / "edited", disguise)
    error = refusal(adapter, tiny("llama3"))
    assert "has matrices of embeddings for a linear module, or the reverse: model.layers.0.self_attn.q_proj." in (
        error.message
    )
