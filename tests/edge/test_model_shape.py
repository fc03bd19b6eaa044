"""The shape of a model as GGUF keys tell it: which layers keep what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.model_shape import StoredTensor, model_of, stored_model

KEYS: dict[str, Any] = {
    "block_count": 8,
    "embedding_length": 512,
    "feed_forward_length": 2048,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "context_length": 4096,
    "vocab_size": 1000,
}


def keys_of(architecture: str, **more: Any) -> dict[str, Any]:
    named = {f"{architecture}.{name}": value for name, value in {**KEYS, **more}.items()}
    return {"general.architecture": architecture, **named}


def slides(architecture: str, **more: Any) -> list[bool]:
    keys = keys_of(architecture, **{name.replace("__", "."): value for name, value in more.items()})
    return [layer.slides for layer in model_of(keys, []).shape.layers]


def test_real_model_is_read_from_its_file(demo_gguf: Path) -> None:
    model = stored_model(read_gguf(demo_gguf))
    assert (len(model.shape.layers), model.shape.hidden, model.shape.vocabulary) == (30, 576, 49152)
    assert model.shape.layers[0].heads == 9 and model.shape.layers[0].key_value_heads == 3
    assert model.shape.is_gated
    assert model.weights_bytes == sum(tensor.n_bytes for tensor in read_gguf(demo_gguf).tensors.values())


def test_second_layer_of_gemma_2_sees_everything() -> None:
    assert slides("gemma2") == [True, False] * 4
    assert model_of(keys_of("gemma2"), []).shape.sliding_window == 4096


def test_pattern_of_the_file_decides_over_that_of_the_family() -> None:
    assert slides("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=2) == [True, False] * 4
    pattern = [True, True, False, True, True, True, True, False]
    assert slides("gemma3", attention__sliding_window=512, attention__sliding_window_pattern=pattern) == pattern


@pytest.mark.parametrize("architecture", ["llama", "phi3", "mistral3"])
def test_windows_that_llama_cpp_does_not_use_save_nothing(architecture: str) -> None:
    assert slides(architecture, attention__sliding_window=1024) == [False] * 8


def test_small_exaone_has_no_windows() -> None:
    assert slides("exaone4", attention__sliding_window=4096) == [False] * 8


def test_first_layer_of_smallthinker_is_the_full_one() -> None:
    assert slides("smallthinker", attention__sliding_window=4096) == [False, True, True, True] * 2


def test_layers_without_heads_for_keys_keep_a_state() -> None:
    keys = keys_of("lfm2", **{"shortconv.l_cache": 3, "attention.head_count_kv": [0, 0, 2, 0, 2, 0, 0, 2]})
    shape = model_of(keys, []).shape
    assert [layer.has_cache for layer in shape.layers] == [False, False, True, False, True, False, False, True]
    assert [layer.has_state for layer in shape.layers] == [not layer.has_cache for layer in shape.layers]
    assert shape.state_values == 2 * 512


def test_recurrent_layers_are_listed_or_follow_from_the_interval() -> None:
    ssm = {"ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 16, "ssm.group_count": 2}
    listed = model_of(keys_of("qwen35", **ssm, **{"attention.recurrent_layers": [True, True, True, False] * 2}), [])
    counted = model_of(keys_of("qwen35", **ssm, full_attention_interval=4), [])
    assert listed.shape == counted.shape
    assert listed.shape.state_values == 3 * (64 + 2 * 2 * 16) + 64 * 16


def test_layers_that_share_a_cache_have_none_of_their_own() -> None:
    keys = keys_of("gemma4", **{"attention.shared_kv_layers": 3, "attention.sliding_window": 512})
    assert [layer.has_cache for layer in model_of(keys, []).shape.layers] == [True] * 5 + [False] * 3


def test_latent_attention_keeps_keys_only() -> None:
    keys = keys_of("deepseek2", **{"attention.kv_lora_rank": 512, "attention.key_length_mla": 192})
    assert {layer.value_width for layer in model_of(keys, []).shape.layers} == {0}


def test_layers_that_only_guess_ahead_are_not_counted() -> None:
    assert len(model_of(keys_of("glm4", nextn_predict_layers=1), []).shape.layers) == 7


def test_feed_forward_without_a_gate_is_told_by_its_tensors() -> None:
    def up(rows: int) -> StoredTensor:
        return StoredTensor("blk.0.ffn_up.weight", "F32", rows * 512, rows * 512 * 4)

    assert not model_of(keys_of("starcoder2"), [up(2048)]).shape.is_gated
    assert model_of(keys_of("phi3"), [up(4096)]).shape.is_gated
    gate = StoredTensor("blk.0.ffn_gate.weight", "F32", 2048 * 512, 2048 * 512 * 4)
    assert model_of(keys_of("llama"), [up(2048), gate]).shape.is_gated


@pytest.mark.parametrize("count", [0, 513, 4_000_000_000])
def test_number_of_blocks_that_no_model_has_is_refused(count: int) -> None:
    with pytest.raises(EdgeError) as caught:
        model_of(keys_of("llama", block_count=count), [])
    assert caught.value.message == f"The model has {count} blocks by its llama.block_count."
    assert caught.value.hint == "llama.cpp runs models of 1 to 512: the file is damaged."


def test_file_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        model_of({"general.architecture": "clip"}, [])
    assert caught.value.message == "The model does not say its clip.vocab_size."
    assert "edge inspect" in caught.value.hint


def test_merges_are_those_of_the_tokenizer_or_as_many_as_tokens(demo_gguf: Path) -> None:
    assert stored_model(read_gguf(demo_gguf)).shape.merges == 48_900
    for architecture, merges in (("llama", 1000), ("gemma2", 0)):
        assert model_of(keys_of(architecture), ()).shape.merges == merges, "a configuration tells no tokenizer"
