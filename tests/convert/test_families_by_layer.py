"""Families whose layers are of several kinds: Gemma 4 and Qwen 3.5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert.families import find_family
from convert.hyperparameters import Hyperparameters
from convert.pipeline import plan_checkpoint
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder
from tests.convert.test_families import keys, objection, tiny_shape
from tests.tiny import TINY

SLIDING, FULL = "sliding_attention", "full_attention"


def refused_config(name: str, **changes: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        keys(name, **changes)
    return caught.value


def shape_of(name: str, **changes: Any) -> Hyperparameters:
    return tiny_shape(name, **changes)[1]


def test_gemma4_says_what_differs_from_layer_to_layer() -> None:
    assert (
        keys("gemma4").items()
        >= {
            "attention.head_count_kv": 2,
            "attention.key_length": 128,
            "attention.key_length_swa": 64,
            "attention.shared_kv_layers": 2,
            "attention.sliding_window_pattern": [True, False] * 3,
            "embedding_length_per_layer_input": 64,
            "feed_forward_length": [512, 512, 512, 512, 1024, 1024],
            "rope.freq_base_swa": 500.0,
        }.items()
    )
    assert (
        keys("gemma4-dense").items()
        >= {
            "attention.head_count_kv": [2, 2, 1],
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
            "feed_forward_length": 512,
        }.items()
    )


def test_gemma4_may_say_the_width_of_its_full_layers_one_by_one() -> None:
    """As transformers 5.23 saves it."""
    by_layer = {"2": {"head_dim": 128, "num_key_value_heads": 1}}
    text = TINY["gemma4-dense"].config["text_config"]
    saved = {"global_head_dim": None, "num_global_key_value_heads": None, "per_layer_config": by_layer}
    assert keys("gemma4-dense", text_config={**text, **saved}) == keys("gemma4-dense")
    uniform = {**text, "attention_k_eq_v": False, "head_dim": 128, "per_layer_config": {}}
    assert keys("gemma4-dense", text_config=uniform)["attention.key_length_swa"] == 128
    error = refused_config("gemma4", per_layer_config={"1": {"head_dim": 64}, "3": {"head_dim": 128}})
    assert error.message.startswith("config.json gives per_layer_config as {'1': ")
    assert error.hint == "llama.cpp has one width of heads for all layers with full_attention."


def test_gemma4_turns_a_part_of_the_dimensions_in_full_layers() -> None:
    factors = find_family("Gemma4ForCausalLM").computed(shape_of("gemma4"))["rope_freqs.weight"]
    assert factors.tolist() == [1.0] * 16 + [float(np.float32(1e30))] * 48


def test_gemma4_that_llama_cpp_would_compute_differently_is_refused() -> None:
    ropes = TINY["gemma4"].config["rope_parameters"]
    scaled = {**ropes[SLIDING], "factor": 2.0, "rope_type": "linear"}
    assert objection("gemma4", enable_moe_block=True) == "its layers have experts, which are not converted yet."
    assert objection("gemma4", use_bidirectional_attention="all") == (
        "use_bidirectional_attention is 'all', llama.cpp lets a token see what is before it only."
    )
    assert objection("gemma4", layer_types=[FULL] * 6) == "its first layer must slide and its last one must not."
    assert objection("gemma4", rope_parameters={FULL: ropes[SLIDING], SLIDING: ropes[SLIDING]}) == (
        "full layers have the RoPE {'rope_theta': 500.0, 'rope_type': 'default'}, llama.cpp has an unscaled"
        " proportional one."
    )
    assert objection("gemma4", rope_parameters={**ropes, SLIDING: scaled}).endswith("llama.cpp does not scale them.")
    assert objection("gemma4", vocab_size_per_layer_input=7) == "vocab_size_per_layer_input is not vocab_size."


@pytest.mark.parametrize("rope", ["none", {"rope_theta": 10000.0}])
def test_gemma4_without_a_rope_for_each_kind_of_layers_is_refused(rope: Any) -> None:
    error = refused_config("gemma4", rope_parameters=rope)
    assert error.message == f"config.json gives rope_parameters as {rope!r}."
    assert error.hint == "One object for full_attention, one for sliding_attention."


def test_qwen3_5_says_which_layers_remember_a_state() -> None:
    assert (
        keys("qwen3_5").items()
        >= {
            "attention.recurrent_layers": [True, False, True],
            "rope.dimension_sections": [6, 5, 5, 0],
            "ssm.conv_kernel": 4,
            "ssm.group_count": 2,
            "ssm.inner_size": 256,
            "ssm.state_size": 64,
            "ssm.time_step_rank": 4,
        }.items()
    )
    every_fourth = keys("qwen3_5", layer_types=None, num_hidden_layers=8)["attention.recurrent_layers"]
    assert every_fourth == [True, True, True, False] * 2


def test_qwen3_5_has_its_value_heads_in_turn() -> None:
    """Two heads to each of two key heads: the first of both, then the second of both."""
    family, shape = tiny_shape("qwen3_5")
    orders = {rule.source.rpartition("linear_attn.")[2]: rule.row_order for rule in family.tensors if rule.row_order}
    assert orders["A_log"](shape) == [(0, 1), (2, 3), (1, 2), (3, 4)]
    assert orders["in_proj_qkv.weight"](shape) == [(0, 256), (256, 320), (384, 448), (320, 384), (448, 512)]


def test_qwen3_5_that_llama_cpp_would_compute_differently_is_refused() -> None:
    assert objection("qwen3_5", linear_value_head_dim=128) == (
        "linear_key_head_dim is 64 and linear_value_head_dim 128, llama.cpp has one for both."
    )
    assert objection("qwen3_5", linear_num_value_heads=3) == ("3 linear value heads cannot be shared by 2 key heads.")
    rope = {**TINY["qwen3_5"].config["rope_parameters"], "mrope_section": [11, 11, 10]}
    assert objection("qwen3_5", rope_parameters=rope) == "mrope_section [11, 11, 10] does not cover 16 frequencies."
    assert objection("qwen3_5", attn_output_gate=False) == "attn_output_gate is false, llama.cpp always has a gate."


def test_qwen3_5_with_layer_types_that_are_none_is_refused() -> None:
    error = refused_config("qwen3_5", layer_types=["other"] * 3)
    assert error.message == "config.json gives layer_types as ['other', 'other', 'other']."
    assert error.hint == "It must name one of linear_attention and full_attention for each of 3 layers."


def test_tensors_stand_in_their_layers_only(tiny: TinyFolder) -> None:
    names = {tensor.name for tensor in plan_checkpoint(tiny("qwen3_5"), ["F32"]).tensors}
    assert {"blk.0.ssm_a", "blk.0.ssm_dt.bias", "blk.1.attn_q.weight", "blk.2.ssm_conv1d.weight"} <= names
    assert not {"blk.1.ssm_a", "blk.0.attn_q.weight"} & names
    names = {tensor.name for tensor in plan_checkpoint(tiny("gemma4-dense"), ["F32"]).tensors}
    assert {"blk.1.attn_v.weight", "blk.2.attn_k.weight", "blk.2.layer_output_scale.weight"} <= names
    assert not {"blk.2.attn_v.weight", "per_layer_token_embd.weight"} & names
