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
    assert Counter(rule.source_name(7) for rule in family.tensors).most_common(1)[0][1] == 1
    assert Counter(rule.target_name(7) for rule in family.tensors).most_common(1)[0][1] == 1
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
    known = [name for family in FAMILIES for name in family.hf_architectures]
    assert known[0] == "LlamaForCausalLM"
    assert caught.value.hint == f"Known are: {', '.join(known)}."


def test_unknown_activation_is_refused() -> None:
    error = refusal("llama2", hidden_act="gelu")
    assert error.message == "The activation 'gelu' is not what llama.cpp computes for llama."
    assert error.hint == "It must be one of: silu."
    assert refusal("gemma2", hidden_activation="gelu").hint == "It must be one of: gelu_pytorch_tanh."


def test_hidden_activation_counts_more_than_hidden_act() -> None:
    """Gemma 2 was published with a wrong hidden_act, which transformers does not read."""
    check_reproducible(*tiny_shape("gemma2", hidden_act="gelu"))


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
