"""What llama.cpp has built in for the dense families, and the keys that only one of them has."""

from __future__ import annotations

from typing import Any

import pytest

from convert.checkpoint import read_checkpoint
from convert.families import check_reproducible, find_family
from convert.tensor_plan import plan_tensors
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder
from tests.convert.test_families import keys, objection, refusal, tiny_shape

YARN: dict[str, Any] = {
    "rope_theta": 10000.0,
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize("name", ["phi3", "olmo2", "olmo3", "starcoder2", "exaone4", "cohere2", "stablelm"])
def test_attention_that_is_not_as_wide_as_the_model_is_refused(name: str) -> None:
    assert objection(name, head_dim=128) == "4 heads of 128 are not hidden_size 256, llama.cpp takes them for it."


@pytest.mark.parametrize("name", ["llama2", "qwen3", "granite", "olmo2", "ernie4_5"])
def test_rope_that_turns_a_part_of_each_head_is_refused(name: str) -> None:
    dimensions = tiny_shape(name)[1].head_dim
    assert objection(name, partial_rotary_factor=0.5) == (
        f"RoPE turns {dimensions // 2} of {dimensions} dimensions of a head, llama.cpp turns all."
    )


@pytest.mark.parametrize(("name", "dimensions"), [("phi3", 64), ("glm4", 64), ("stablelm", 16)])
def test_part_of_a_head_that_is_turned_unless_said(name: str, dimensions: int) -> None:
    rope = {"rope_theta": 10000.0, "rope_type": "default"}
    family, shape = tiny_shape(name, rope_parameters=rope, partial_rotary_factor=None)
    check_reproducible(family, shape)
    assert shape.rope.dimensions == dimensions


@pytest.mark.parametrize("name", ["llama2", "qwen3", "smollm3"])
def test_betas_that_llama_cpp_does_not_read_are_refused(name: str) -> None:
    assert objection(name, rope_parameters={**YARN, "beta_fast": 16}) == (
        "yarn's beta_fast and beta_slow are 16 and 1, llama.cpp assumes 32 and 1."
    )
    check_reproducible(*tiny_shape(name, rope_parameters=YARN))


def test_ministral3_may_have_betas_of_its_own() -> None:
    check_reproducible(*tiny_shape("ministral3", rope_parameters={**YARN, "beta_fast": 16}))


@pytest.mark.parametrize("name", ["phi3", "starcoder2", "ministral", "ministral3"])
def test_context_ends_at_the_sliding_window(name: str) -> None:
    assert keys(name, sliding_window=128)["context_length"] == 128
    assert keys(name, sliding_window=4096)["context_length"] == 512


def test_phi3_has_no_scaling_but_longrope() -> None:
    error = refusal("phi3", rope_scaling=YARN)
    assert error.message == "llama.cpp has no RoPE scaling 'yarn' for phi3."
    assert error.hint == "It must be one of: default, longrope."


@pytest.mark.parametrize(
    "changes",
    [
        {"no_rope_layers": [1, 1, 0, 1, 1, 0]},
        {"no_rope_layers": [1, 1, 1, 1, 1, 1]},
        {"no_rope_layers": None, "no_rope_layer_interval": 3},
    ],
)
def test_smollm3_without_rope_in_other_layers_than_every_fourth_is_refused(changes: dict[str, Any]) -> None:
    assert objection("smollm3", **changes) == "the layers without RoPE are not every 4th."


def test_smollm3_that_says_nothing_has_no_rope_in_every_fourth_layer() -> None:
    check_reproducible(*tiny_shape("smollm3", no_rope_layers=None, no_rope_layer_interval=None))


def test_smollm3_slides_only_where_it_is_told_to() -> None:
    assert keys("smollm3", sliding_window=128, use_sliding_window=True)["context_length"] == 128
    assert keys("smollm3", sliding_window=128)["context_length"] == 512


@pytest.mark.parametrize("name", ["olmo2", "olmo3", "stablelm"])
def test_tied_embeddings_are_refused_where_llama_cpp_needs_an_output(name: str) -> None:
    assert objection(name, tie_word_embeddings=True) == (
        "tie_word_embeddings is true, llama.cpp needs an output of its own."
    )


def test_starcoder2_without_biases_is_refused() -> None:
    assert objection("starcoder2", use_bias=False) == "use_bias is false, llama.cpp needs biases."


def test_starcoder2_has_the_epsilon_of_a_layer_norm() -> None:
    found = keys("starcoder2")
    assert found["attention.layer_norm_epsilon"] == 1e-5
    assert "attention.layer_norm_rms_epsilon" not in found


def test_granite_has_a_key_for_each_multiplier() -> None:
    found = keys("granite")
    assert found["attention.scale"] == 0.25
    assert found["embedding_scale"] == 1.5
    assert found["residual_scale"] == 0.5
    assert found["logit_scale"] == 3.0


def test_granite_multiplies_by_one_unless_said() -> None:
    assert keys("granite", logits_scaling=None)["logit_scale"] == 1.0


def test_granite_multiplier_that_llama_cpp_would_take_for_none_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        keys("granite", residual_multiplier=0)
    assert caught.value.message == "config.json gives residual_multiplier as 0."


def test_ministral3_lets_queries_grow_by_its_beta() -> None:
    assert keys("ministral3")["attention.temperature_scale"] == 0.4
    assert keys("ministral3", rope_parameters=YARN)["attention.temperature_scale"] is None


def test_mistral_small_is_plain_llama_below_the_same_tower() -> None:
    """Its language model is of the type mistral."""
    text = {**tiny_shape("mistral3")[1].config, "rope_parameters": {"rope_theta": 1e9}, "model_type": "mistral"}
    family, shape = tiny_shape("mistral3", text_config=text)
    check_reproducible(family, shape)
    assert shape.rope.theta == 1e9
    assert {rule.key: rule.value(shape) for rule in family.keys}["attention.temperature_scale"] is None


@pytest.mark.parametrize("tied", [True, False])
def test_mistral3_keeps_an_output_of_its_own_though_it_says_that_it_is_tied(tied: bool, tiny: TinyFolder) -> None:
    """transformers 5 takes it for tied unless told, and writes so, but reads the output that there is."""
    family, shape = tiny_shape("mistral3", tie_word_embeddings=tied)
    sources = read_checkpoint(tiny("mistral3")).tensors
    assert "output.weight" in [tensor.name for tensor in plan_tensors(family, shape, sources)]


def test_ministral3_that_grows_without_yarn_is_refused() -> None:
    rope = {"rope_theta": 10000.0, "rope_type": "default", "llama_4_scaling_beta": 0.1}
    assert objection("ministral3", rope_parameters=rope) == (
        "llama_4_scaling_beta comes with the RoPE scaling 'default' instead of 'yarn'."
    )


OLMO3_ROPES: dict[str, Any] = {
    "full_attention": YARN,
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}


def test_olmo3_says_which_layers_slide() -> None:
    found = keys("olmo3")
    assert found["attention.sliding_window"] == 16
    assert found["attention.sliding_window_pattern"] == [True, False, True, True]
    assert found["context_length"] == 512
    every_fourth = keys("olmo3", layer_types=None, num_hidden_layers=5)
    assert every_fourth["attention.sliding_window_pattern"] == [True, True, True, False, True]
    assert keys("olmo3", layer_types=["full_attention"] * 4)["attention.sliding_window"] is None


def test_olmo3_s_ropes_mean_the_same_side_by_side() -> None:
    stored = {kind: {**rope, "rope_theta": 500000.0} for kind, rope in OLMO3_ROPES.items()}
    before = tiny_shape("olmo3", rope_scaling={**YARN, "rope_theta": 500000.0})[1].rope
    assert tiny_shape("olmo3", rope_parameters=stored)[1].rope == before


def test_olmo3_whose_sliding_layers_turn_otherwise_is_refused() -> None:
    check_reproducible(*tiny_shape("olmo3", rope_parameters=OLMO3_ROPES))
    other = {**OLMO3_ROPES, "sliding_attention": {"rope_theta": 5000.0}}
    assert objection("olmo3", rope_parameters=other) == (
        "rope_theta is 5000 in sliding layers, llama.cpp takes that of full ones, 10000."
    )
    assert objection("olmo3", rope_parameters={**OLMO3_ROPES, "sliding_attention": YARN}) == (
        "its sliding layers have the RoPE scaling 'yarn', llama.cpp scales full ones only."
    )


@pytest.mark.parametrize("value", ["none", {"rope_theta": 10000.0}])
def test_olmo3_without_a_rope_for_each_kind_of_layer_is_refused(value: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        tiny_shape("olmo3", rope_parameters=value)
    assert caught.value.message == f"config.json gives rope_parameters as {value!r}."
    assert caught.value.hint == "An object with full_attention and sliding_attention is needed."


def test_exaone4_slides_where_llama_cpp_lets_it() -> None:
    assert objection("exaone4", sliding_window=128) == (
        "it has a sliding window and 2 layers, llama.cpp slides with 64 only."
    )
    assert objection("exaone4-window", sliding_window=None) == (
        "it has 64 layers and no sliding window, llama.cpp slides then."
    )
    assert keys("exaone4")["attention.sliding_window"] is None
    assert keys("exaone4-window")["attention.sliding_window_pattern"][:5] == [True, True, True, False, True]


def test_cohere2_without_a_sliding_window_is_refused() -> None:
    expected = "it has no sliding window, llama.cpp needs one."
    assert objection("cohere2", sliding_window=None) == expected
    assert objection("cohere2", layer_types=["full_attention"] * 4) == expected


def test_cohere2_with_an_output_of_its_own_is_refused() -> None:
    assert objection("cohere2", tie_word_embeddings=False) == (
        "tie_word_embeddings is false, llama.cpp always uses the embeddings as output."
    )


def test_cohere2_takes_transformers_defaults_for_what_is_not_said() -> None:
    config = {**tiny_shape("cohere2")[1].config}
    for name in ("layer_norm_eps", "layer_types", "logit_scale", "sliding_window", "tie_word_embeddings"):
        del config[name]
    family = find_family("Cohere2ForCausalLM")
    shape = family.read_shape(config)
    check_reproducible(family, shape)
    found = {rule.key: rule.value(shape) for rule in family.keys}
    assert found["logit_scale"] == 0.0625
    assert found["attention.sliding_window"] == 4096
    assert found["attention.sliding_window_pattern"] == [True, True, True, False]


@pytest.mark.parametrize("name", ["use_parallel_residual", "qk_layernorm"])
def test_stablelm_12b_is_refused(name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        tiny_shape("stablelm", **{name: True})
    assert caught.value.message == f"config.json gives {name} as true, as StableLM 2 12B has it."
    assert caught.value.hint == "Of StableLM, the models with 1.6B and 3B parameters are supported."


def test_ernie4_5_with_biases_is_refused() -> None:
    assert objection("ernie4_5", use_bias=True) == "use_bias is true, llama.cpp adds no biases."


LFM2_ADJUSTED: dict[str, Any] = {"block_auto_adjust_ff_dim": True, "intermediate_size": None}


def test_lfm2_tells_convolutions_by_layers_without_key_value_heads() -> None:
    assert keys("lfm2")["attention.head_count_kv"] == [0, 0, 2, 0, 2]
    assert keys("lfm2")["shortconv.l_cache"] == 3
    assert keys("lfm2", layer_types=None)["attention.head_count_kv"] == [2] * 5


def test_lfm2_was_published_with_other_names() -> None:
    first = {**LFM2_ADJUSTED, "block_ff_dim": 700, "full_attn_idxs": [2, 4], "layer_types": None, "tie_embedding": True}
    assert keys("lfm2", **first) == keys("lfm2")
    assert tiny_shape("lfm2", tie_embedding=False)[1].tied_embeddings is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"block_ff_dim": 4608}, 3072),
        ({"block_ff_dim": 4609}, 3072),
        ({"block_ff_dim": 4611}, 3328),
        ({"block_ff_dim": 4608, "block_ffn_dim_multiplier": 1.5}, 4608),
        ({"block_ff_dim": 4608, "block_auto_adjust_ff_dim": False}, 4608),
        ({"block_ff_dim": None, "intermediate_size": 1000, "block_multiple_of": 10}, 670),
    ],
)
def test_lfm2_adjusts_the_size_of_its_feed_forward_network(changes: dict[str, Any], expected: int) -> None:
    assert tiny_shape("lfm2", **LFM2_ADJUSTED | changes)[1].feed_forward == expected


@pytest.mark.parametrize("layer_types", ["conv", ["conv"] * 4, ["conv"] * 4 + ["sliding_attention"]])
def test_lfm2_with_layer_types_that_are_none_is_refused(layer_types: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        tiny_shape("lfm2", layer_types=layer_types)
    assert caught.value.message == f"config.json gives layer_types as {layer_types!r}."
    assert caught.value.hint == "It must name one of full_attention and conv for each of 5 layers."


def test_lfm2_with_biases_is_refused() -> None:
    assert objection("lfm2", conv_bias=True) == "conv_bias is true, llama.cpp adds no biases."
