"""The table of families: consistent with gguf's names, and clear about what llama.cpp would compute differently."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gguf
import pytest

from convert.families import FAMILIES, Family, check_reproducible, find_family
from convert.hyperparameters import Hyperparameters
from edge.errors import EdgeError
from tests.tiny import TINY

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def tiny_shape(name: str, **changes: Any) -> tuple[Family, Hyperparameters]:
    config = {**TINY[name].config, **changes}
    family = find_family(config["architectures"][0])
    return family, family.read_shape(config)


def refusal(name: str, **changes: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        check_reproducible(*tiny_shape(name, **changes))
    return caught.value


def objection(name: str, **changes: Any) -> str:
    """What keeps a checkpoint from being reproduced, without the sentence around it."""
    error = refusal(name, **changes)
    assert error.hint == "llama.cpp has these values built in; a file would load and answer wrongly."
    start, _, reason = error.message.partition(" checkpoint cannot be reproduced: ")
    assert start.startswith("This ")
    return reason


def keys(name: str, **changes: Any) -> dict[str, Any]:
    family, shape = tiny_shape(name, **changes)
    return {rule.key: rule.value(shape) for rule in family.keys}


@pytest.mark.parametrize("name", TINY)
def test_tiny_checkpoints_can_be_reproduced(name: str) -> None:
    check_reproducible(*tiny_shape(name))


@every_family
def test_family_has_a_tiny_checkpoint(family: Family) -> None:
    names = {checkpoint.config["architectures"][0] for checkpoint in TINY.values()}
    assert set(family.hf_architectures) <= names


@every_family
def test_tensors_are_ones_that_llama_cpp_knows_for_the_architecture(family: Family) -> None:
    assert {rule.target for rule in family.tensors} <= set(gguf.MODEL_TENSORS[family.architecture])


@every_family
def test_no_name_is_given_twice(family: Family) -> None:
    name = next(name for name in TINY if TINY[name].config["architectures"][0] in family.hf_architectures)
    _, shape = tiny_shape(name)
    for block in range(shape.layers):
        rules = [rule for rule in family.tensors if rule.is_in_layer(shape, block)]
        assert Counter(rule.source_name(block) for rule in rules).most_common(1)[0][1] == 1
        assert Counter(rule.target_name(block) for rule in rules).most_common(1)[0][1] == 1
    assert Counter(rule.key for rule in family.keys).most_common(1)[0][1] == 1


@every_family
def test_dimensions_are_those_of_hyperparameters(family: Family) -> None:
    name = next(name for name in TINY if TINY[name].config["architectures"][0] in family.hf_architectures)
    _, shape = tiny_shape(name)
    for rule in family.tensors:
        assert min(shape.size(dimension) for dimension in rule.shape) > 0, rule


def test_names_hold_the_block_on_both_sides() -> None:
    rule = next(rule for rule in FAMILIES[0].tensors if rule.source.endswith("q_proj.weight"))
    assert rule.source_name(12) == "model.layers.12.self_attn.q_proj.weight"
    assert rule.target_name(12) == "blk.12.attn_q.weight"


def test_architecture_finds_its_family() -> None:
    assert find_family("MistralForCausalLM").name == "llama"
    assert find_family("Gemma2ForCausalLM").name == "gemma2"


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(EdgeError) as caught:
        find_family("GPT2LMHeadModel")
    assert caught.value.message == "The architecture 'GPT2LMHeadModel' is not supported."
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("These are: LlamaForCausalLM, ")
    assert all(name in caught.value.hint for family in FAMILIES for name in family.hf_architectures)


def test_unknown_activation_is_refused() -> None:
    error = refusal("llama2", hidden_act="gelu")
    assert error.message == "The activation 'gelu' is not what llama.cpp computes for llama."
    assert error.hint == "It must be one of: silu."
    assert refusal("gemma2", hidden_activation="gelu").hint == "It must be one of: gelu_pytorch_tanh."


def test_hidden_activation_counts_more_than_hidden_act() -> None:
    """Gemma 2 was published with a wrong hidden_act, which transformers does not read."""
    check_reproducible(*tiny_shape("gemma2", hidden_act="gelu"))


def test_gemma_was_published_with_the_name_of_another_activation() -> None:
    """transformers takes "gelu" for its approximation there, as llama.cpp does."""
    check_reproducible(*tiny_shape("gemma", hidden_act="gelu"))
    check_reproducible(*tiny_shape("gemma", hidden_act="gelu_pytorch_tanh"))
    assert refusal("gemma", hidden_act="silu").hint == "It must be one of: gelu_pytorch_tanh, gelu."


@pytest.mark.parametrize("name", ["gemma2", "qwen2", "qwen3"])
def test_llama3_scaling_is_refused_where_llama_cpp_reads_no_frequency_factors(name: str) -> None:
    error = refusal(name, rope_parameters=TINY["llama3"].config["rope_parameters"])
    assert error.message == f"llama.cpp has no RoPE scaling 'llama3' for {name}."
    assert error.hint == "It must be one of: default, linear" + (", yarn." if "qwen" in name else ".")


@pytest.mark.parametrize("scalar", [144, 224, 256.5])
def test_gemma2_attention_scale_that_llama_cpp_does_not_use_is_refused(scalar: float) -> None:
    assert objection("gemma2", query_pre_attn_scalar=scalar) == (
        f"query_pre_attn_scalar is {scalar:g}, llama.cpp assumes 128."
    )


def test_gemma2_with_46_layers_scales_by_the_width_of_a_head_s_share() -> None:
    """Gemma 2 27B: 4608 wide, 32 heads of 128, scaled by 144."""
    shape = {
        "head_dim": 128,
        "hidden_size": 4608,
        "layer_types": None,
        "num_attention_heads": 32,
        "num_hidden_layers": 46,
        "num_key_value_heads": 16,
    }
    check_reproducible(*tiny_shape("gemma2", **shape, query_pre_attn_scalar=144))
    assert objection("gemma2", **shape, query_pre_attn_scalar=128) == (
        "query_pre_attn_scalar is 128, llama.cpp assumes 144."
    )


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping"])
@pytest.mark.parametrize("value", [None, 0])
def test_gemma2_without_a_soft_cap_is_refused(name: str, value: float | None) -> None:
    assert objection("gemma2", **{name: value}) == f"{name} is {value}, llama.cpp always caps."


def test_gemma2_with_an_output_of_its_own_is_refused() -> None:
    assert objection("gemma2", tie_word_embeddings=False) == (
        "tie_word_embeddings is false, llama.cpp always uses the embeddings as output."
    )


def test_gemma2_whose_layers_do_not_alternate_is_refused() -> None:
    expected = "layer_types do not alternate between sliding and full attention."
    assert objection("gemma2", layer_types=["full_attention"] * 4) == expected
    assert objection("gemma2", layer_types=["full_attention", "sliding_attention"] * 2) == expected


def test_gemma2_takes_transformers_defaults_for_what_is_not_said() -> None:
    config = {**TINY["gemma2"].config, "head_dim": 256}
    unsaid = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "query_pre_attn_scalar")
    for name in (*unsaid, "layer_types", "tie_word_embeddings"):
        del config[name]
    family = find_family("Gemma2ForCausalLM")
    shape = family.read_shape(config)
    check_reproducible(family, shape)
    values = {rule.key: rule.value(shape) for rule in family.keys}
    assert values["attn_logit_softcapping"] == 50.0
    assert values["final_logit_softcapping"] == 30.0
    assert values["attention.sliding_window"] == 4096


@pytest.mark.parametrize(
    ("name", "value"),
    [("sliding_window", "wide"), ("attn_logit_softcapping", "50"), ("final_logit_softcapping", float("nan"))],
)
def test_gemma2_number_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        keys("gemma2", **{name: value})
    assert caught.value.message == f"config.json gives {name} as {value!r}."


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
def test_gemma_that_looks_ahead_is_refused(name: str) -> None:
    assert objection(name, use_bidirectional_attention=True) == (
        "use_bidirectional_attention is true, llama.cpp lets a token see what is before it only."
    )


def test_gemma3_with_62_layers_scales_by_the_width_of_a_head_s_share() -> None:
    """Gemma 3 27B: 5376 wide, 32 heads of 128, scaled by 168."""
    shape = {
        "head_dim": 128,
        "hidden_size": 5376,
        "layer_types": None,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
    }
    check_reproducible(*tiny_shape("gemma3", **shape, query_pre_attn_scalar=168))
    assert objection("gemma3", **shape, query_pre_attn_scalar=128) == (
        "query_pre_attn_scalar is 128, llama.cpp assumes 168."
    )


def test_gemma3_with_a_cap_or_scaled_rope_where_llama_cpp_has_none_is_refused() -> None:
    assert objection("gemma3", attn_logit_softcapping=50.0) == "attn_logit_softcapping is set, llama.cpp does not cap."
    ropes = TINY["gemma3"].config["rope_parameters"]
    scaled = {**ropes, "sliding_attention": {"factor": 2.0, "rope_theta": 10000.0, "rope_type": "linear"}}
    assert objection("gemma3", rope_parameters=scaled) == (
        "its sliding layers have the RoPE scaling 'linear', llama.cpp scales full ones only."
    )


def test_gemma3_says_which_layers_slide() -> None:
    assert keys("gemma3")["attention.sliding_window_pattern"] == [True, False, True, True]
    assert keys("gemma3")["rope.freq_base_swa"] == 500.0
    every_sixth = keys("gemma3", layer_types=None, num_hidden_layers=7)
    assert every_sixth["attention.sliding_window_pattern"] == [True] * 5 + [False, True]
    none = keys("gemma3", layer_types=["full_attention"] * 4)
    for key in ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"):
        assert none[key] is None


@pytest.mark.parametrize("layer_types", ["sliding_attention", ["full_attention"] * 3, ["full_attention", "other"] * 2])
def test_gemma3_with_layer_types_that_are_none_is_refused(layer_types: Any) -> None:
    with pytest.raises(EdgeError) as caught:
        keys("gemma3", layer_types=layer_types)
    assert caught.value.message == f"config.json gives layer_types as {layer_types!r}."
    assert caught.value.hint == "It must name one of sliding_attention and full_attention for each of 4 layers."


def test_gemma3_caps_logits_if_it_says_so() -> None:
    assert keys("gemma3")["final_logit_softcapping"] is None
    assert keys("gemma3", final_logit_softcapping=30.0)["final_logit_softcapping"] == 30.0


def test_multimodal_gemma3_takes_transformers_defaults_for_its_language_model() -> None:
    """The configuration of Gemma 3 4B, which leaves the most out."""
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    }
    family = find_family("Gemma3ForConditionalGeneration")
    shape = family.read_shape(config)
    check_reproducible(family, shape)
    assert (shape.heads, shape.key_value_heads, shape.head_dim, shape.vocabulary) == (8, 4, 256, 262208)
    assert (shape.rope.theta, shape.rope.scaling, shape.rope.settings) == (1e6, "linear", {"factor": 8.0})
    assert shape.tied_embeddings
    values = {rule.key: rule.value(shape) for rule in family.keys}
    assert values["context_length"] == 131072
    assert values["attention.sliding_window"] == 1024
    assert values["rope.freq_base_swa"] == 10000.0


@pytest.mark.parametrize("name", ["text_config", "rope_parameters"])
def test_gemma3_whose_settings_are_no_object_is_refused(name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        find_family("Gemma3ForCausalLM").read_shape({**TINY["gemma3"].config, name: "none"})
    assert caught.value.message == f"config.json gives {name} as 'none'."


def test_qwen3_moe_that_llama_cpp_would_compute_differently_is_refused() -> None:
    assert objection("qwen3_moe", norm_topk_prob=False) == (
        "norm_topk_prob is false, llama.cpp always makes the weights of the chosen experts add up to one."
    )
    assert objection("qwen3_moe", mlp_only_layers=[1]) == (
        "mlp_only_layers has layers without experts, llama.cpp has them in every layer."
    )
    assert objection("qwen3_moe", decoder_sparse_step=2) == (
        "decoder_sparse_step leaves layers without experts, llama.cpp has them in every layer."
    )


def test_experts_are_counted_in_keys() -> None:
    assert keys("mixtral").items() >= {"expert_count": 8, "expert_used_count": 2, "feed_forward_length": 256}.items()
    assert keys("qwen3_moe").items() >= {"expert_count": 6, "expert_used_count": 3}.items()
    assert keys("qwen3_moe")["expert_feed_forward_length"] == 256


def test_qwen2_whose_heads_are_not_as_wide_as_the_model_is_refused() -> None:
    assert objection("qwen2", head_dim=128) == "4 heads of 128 are not hidden_size 256, llama.cpp takes them for it."


def test_keys_give_the_shape() -> None:
    assert keys("gemma2") == {
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 16,
        "attention.value_length": 128,
        "attn_logit_softcapping": 6.0,
        "block_count": 4,
        "context_length": 512,
        "embedding_length": 256,
        "feed_forward_length": 768,
        "final_logit_softcapping": 4.0,
        "vocab_size": 679,
    }


def test_context_ends_at_a_sliding_window_that_llama_cpp_does_not_have() -> None:
    """Beyond the window, full attention would see what the checkpoint was trained not to see."""
    assert keys("mistral", sliding_window=128)["context_length"] == 128
    assert keys("mistral", sliding_window=4096)["context_length"] == 512
    assert keys("mistral", sliding_window=None)["context_length"] == 512
    assert keys("qwen2", sliding_window=128, use_sliding_window=True)["context_length"] == 128
    assert keys("qwen2", sliding_window=128, use_sliding_window=False)["context_length"] == 512


def test_sliding_window_that_is_none_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        keys("mistral", sliding_window=-1)
    assert caught.value.message == "config.json gives sliding_window as -1."
