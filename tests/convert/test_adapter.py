"""Reading PEFT adapters: what they change and by how much, and which of them are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.adapter import is_adapter_directory, read_adapter
from convert.adapter_config import read_adapter_config
from edge.errors import EdgeError
from tests.convert.edited import stored
from tests.convert.edited_adapter import Tensors, edited_adapter
from tests.tiny import write_tiny_checkpoint
from tests.tiny.adapters import ADAPTERS, write_tiny_adapter

QUERY = "model.layers.0.self_attn.q_proj"
QUERY_A, QUERY_B = (f"base_model.model.{QUERY}.lora_{side}.weight" for side in "AB")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_adapter("llama3-plain", tmp_path_factory.mktemp("adapter"))


def test_every_module_has_its_pair_rank_and_scale(plain: Path) -> None:
    adapter = read_adapter(plain)
    assert adapter.name == "llama3-plain"
    assert adapter.config.base_name == "edge-tests/llama3"
    assert len(adapter.pairs) == 8 * 7
    pair = adapter.pairs[QUERY]
    assert (pair.rank, pair.scale, pair.weight_shape, pair.is_embedding) == (8, 2.0, (256, 256), False)
    assert (pair.a.name, pair.b.name) == (QUERY_A, QUERY_B)


def test_rank_stabilized_adapter_is_scaled_by_the_root_of_its_rank(tmp_path: Path) -> None:
    adapter = read_adapter(write_tiny_adapter("qwen2-rslora", tmp_path))
    assert {pair.scale for pair in adapter.pairs.values()} == {4 / math.sqrt(4)}


@pytest.mark.parametrize(
    ("module", "rank", "scale"),
    [
        ("model.layers.0.self_attn.q_proj", 8, 1.0),
        ("model.layers.1.self_attn.q_proj", 4, 2.0),
        ("model.layers.1.self_attn.k_proj", 8, 4.0),
        ("model.layers.2.mlp.gate_proj", 8, 2.5 / 8),
        ("model.layers.3.mlp.gate_proj", 8, 1.0),
        ("model.layers.3.mlp.down_proj", 6, 8 / 6),
    ],
)
def test_patterns_decide_rank_and_scale_of_the_modules_they_name(
    module: str, rank: int, scale: float, tmp_path: Path
) -> None:
    pair = read_adapter(write_tiny_adapter("gemma2-patterns", tmp_path)).pairs[module]
    assert (pair.rank, pair.scale) == (rank, scale)


def test_names_with_the_adapters_own_name_in_them_mean_the_same_modules(tmp_path: Path) -> None:
    pairs = read_adapter(write_tiny_adapter("llama2-embeddings", tmp_path)).pairs
    assert set(pairs) == {
        "model.embed_tokens",
        "lm_head",
        *(f"model.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")),
    }


def test_matrices_of_embeddings_make_a_transposed_weight(tmp_path: Path) -> None:
    pair = read_adapter(write_tiny_adapter("llama2-embeddings", tmp_path)).pairs["model.embed_tokens"]
    assert (pair.is_embedding, pair.weight_shape) == (True, (666, 256))


def test_tensors_without_pefts_prefix_are_read_as_well(plain: Path, tmp_path: Path) -> None:
    def shorten(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("base_model.model.")] = tensors.pop(name)

    assert set(read_adapter(edited_adapter(plain, tmp_path / "short", shorten)).pairs) == set(read_adapter(plain).pairs)


@pytest.mark.parametrize(
    ("settings", "targeted", "left_alone"),
    [
        ({"target_modules": ["q_proj"]}, "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"),
        ({"target_modules": ["lm_head"]}, "lm_head", "model.lm_head_norm"),
        ({"target_modules": r".*\.(q|v)_proj"}, "model.layers.0.self_attn.v_proj", "model.layers.0.mlp.up_proj"),
        ({"target_modules": "all-linear"}, "model.layers.0.mlp.up_proj", "lm_head"),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, "model.layers.1.q_proj", "model.layers.11.q_proj"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0]}, "model.layers.0.q_proj", "model.layers.1.q_proj"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": "blocks"},
            "model.blocks.2.q_proj",
            "model.layers.2.q_proj",
        ),
        (
            {"target_modules": ["q_proj"], "exclude_modules": ["layers.0.q_proj"]},
            "a.layers.1.q_proj",
            "a.layers.0.q_proj",
        ),
    ],
)
def test_settings_name_modules_as_peft_reads_them(
    settings: dict[str, Any], targeted: str, left_alone: str, plain: Path, tmp_path: Path
) -> None:
    config = read_adapter_config(edited_adapter(plain, tmp_path / "edited", **settings))
    assert config.targets(targeted)
    assert not config.targets(left_alone)


def test_adapter_directory_is_told_from_a_checkpoint(plain: Path, tmp_path: Path) -> None:
    assert is_adapter_directory(plain)
    assert not is_adapter_directory(write_tiny_checkpoint("llama2", tmp_path))


# Refused because of their settings


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "sets use_dora to True: DoRA scales each row by a learned magnitude."),
        ({"bias": "lora_only"}, "sets bias to 'lora_only': it was trained together with biases of its base"),
        ({"lora_bias": True}, "sets lora_bias to True: its matrices have biases of their own."),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save to ['lm_head']: it replaces whole modules"),
        ({"trainable_token_indices": [1]}, "it replaces single rows of the embeddings"),
        ({"target_parameters": ["w"]}, "it changes parameters that are not a module's weight"),
        ({"alora_invocation_tokens": [1]}, "an activated LoRA only acts behind certain tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "the adapter belongs to a base with changed weights"),
        ({"peft_type": "IA3"}, "is of PEFT's type 'IA3'."),
        ({"r": 0}, "gives r as 0."),
        ({"r": None}, "does not say r."),
        ({"lora_alpha": 0}, "gives lora_alpha as 0."),
        ({"rank_pattern": {"q_proj": 1.5}}, "gives q_proj as 1.5."),
        ({"alpha_pattern": [1]}, "gives alpha_pattern as [1]."),
        ({"use_rslora": "yes"}, "gives use_rslora as 'yes'."),
        ({"target_modules": 5}, "gives target_modules as 5."),
        ({"layers_to_transform": ["all"]}, "gives layers_to_transform as ['all']."),
        ({"target_modules": "(q_proj"}, "has a pattern that is no regular expression: '(q_proj'"),
        ({"rank_pattern": {"(q": 4}}, "has a pattern that is no regular expression: '(q'"),
    ],
)
def test_settings_beyond_a_lora_or_without_sense_are_refused_with_the_reason(
    settings: dict[str, Any], reason: str, plain: Path, tmp_path: Path
) -> None:
    folder = edited_adapter(plain, tmp_path / "edited", **settings)
    with pytest.raises(EdgeError) as caught:
        read_adapter(folder)
    assert reason in caught.value.message
    assert str(folder / "adapter_config.json") in caught.value.message
    assert caught.value.hint


def test_settings_that_are_no_json_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = edited_adapter(plain, tmp_path / "edited")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(EdgeError, match="cannot be read"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(EdgeError, match="holds no JSON object"):
        read_adapter(folder)


def test_directory_without_settings_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(EdgeError) as caught:
        read_adapter(tmp_path)
    assert caught.value.message == f"{tmp_path} is no PEFT adapter: it has no adapter_config.json."


# Refused because of their weights


def test_weights_that_are_only_a_pickle_are_refused_unread(plain: Path, tmp_path: Path) -> None:
    folder = edited_adapter(plain, tmp_path / "edited")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(EdgeError) as caught:
        read_adapter(folder)
    assert "only as a Python pickle (adapter_model.bin), which can run any code" in caught.value.message
    assert "adapter_model.safetensors" in caught.value.hint


def test_adapter_without_weights_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = edited_adapter(plain, tmp_path / "edited")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(EdgeError, match=r"has no adapter_model\.safetensors"):
        read_adapter(folder)


def _replace(name: str, values: Any, dtype: str = "F32") -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: stored(values, dtype)})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda tensors: tensors.pop(QUERY_B), f"has no lora_B for {QUERY}, only {QUERY_A}."),
        (lambda tensors: tensors.pop(QUERY_A), f"has no lora_A for {QUERY}, only {QUERY_B}."),
        (lambda tensors: tensors.clear(), "holds no LoRA matrices"),
        (
            _replace(QUERY_A, np.zeros((6, 256))),
            f"the matrices of {QUERY} are [6, 256] and [256, 8]; adapter_config.json makes their rank 8.",
        ),
        (
            _replace(QUERY_B, np.zeros((256, 16))),
            f"the matrices of {QUERY} are [8, 256] and [256, 16]; adapter_config.json makes their rank 8.",
        ),
        (_replace(QUERY_A, np.zeros(8)), "is F32 [8]."),
        (_replace(QUERY_A, np.zeros((8, 256)), "I64"), "is I64 [8, 256]."),
        (
            _replace("base_model.model.lm_head.weight", np.zeros((4, 4))),
            "has the tensor 'base_model.model.lm_head.weight', which is not supported: a whole weight would replace",
        ),
        (
            _replace(f"base_model.model.{QUERY}.lora_magnitude_vector", np.zeros(4)),
            "is not supported: DoRA scales each row by a learned magnitude.",
        ),
        (_replace(f"base_model.model.{QUERY}.lora_C.weight", np.zeros((4, 4))), "it is neither side of a LoRA."),
        (_replace(f"base_model.model.{QUERY}.lora_A", np.zeros((4, 4))), "it is neither side of a LoRA."),
        (
            _replace(f"base_model.model.{QUERY}.lora_A.default.weight", np.zeros((8, 256))),
            "has two tensors for the same matrix",
        ),
    ],
)
def test_weights_that_make_no_lora_are_refused_with_the_reason(
    edit: Callable[[Tensors], object], reason: str, plain: Path, tmp_path: Path
) -> None:
    folder = edited_adapter(plain, tmp_path / "edited", edit)
    with pytest.raises(EdgeError) as caught:
        read_adapter(folder)
    assert reason in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ADAPTERS)
def test_settings_name_every_module_that_peft_saved(name: str, tmp_path: Path) -> None:
    adapter = read_adapter(write_tiny_adapter(name, tmp_path))
    assert all(adapter.config.targets(module) for module in adapter.pairs)
