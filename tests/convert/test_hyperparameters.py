"""config.json as typed values: what is read, what stands in for what is missing, and what is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.families import find_family
from convert.hyperparameters import Hyperparameters, read_hyperparameters
from edge.errors import EdgeError
from tests.tiny import TINY

CONFIG: dict[str, Any] = {
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 1000,
}
NEEDED = [
    name for name in CONFIG if name not in ("head_dim", "num_key_value_heads", "rope_theta", "tie_word_embeddings")
]
INTEGERS = [name for name in CONFIG if isinstance(CONFIG[name], int) and CONFIG[name] is not True]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def read(**changes: Any) -> Hyperparameters:
    return read_hyperparameters({**CONFIG, **changes})


def refusal(**changes: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        read(**changes)
    return caught.value


def test_every_value_is_read() -> None:
    shape = read()
    assert (shape.layers, shape.hidden, shape.feed_forward) == (3, 256, 512)
    assert (shape.heads, shape.key_value_heads, shape.head_dim) == (8, 2, 64)
    assert (shape.vocabulary, shape.context_tokens, shape.norm_epsilon) == (1000, 2048, 1e-5)
    assert shape.tied_embeddings
    assert shape.rope.theta == 500000.0


def test_query_and_key_value_are_heads_times_head_dim() -> None:
    shape = read()
    assert (shape.size("query"), shape.size("key_value")) == (512, 128)


@pytest.mark.parametrize("missing", [{}, {"head_dim": None, "num_key_value_heads": None}])
def test_heads_share_the_hidden_size_and_are_not_grouped_unless_said(missing: dict[str, None]) -> None:
    config = {name: value for name, value in CONFIG.items() if name not in ("head_dim", "num_key_value_heads")}
    shape = read_hyperparameters({**config, **missing})
    assert (shape.head_dim, shape.key_value_heads) == (32, 8)


@pytest.mark.parametrize("missing", [{}, {"tie_word_embeddings": None}])
def test_embeddings_are_not_tied_unless_said(missing: dict[str, None]) -> None:
    config = {name: value for name, value in CONFIG.items() if name != "tie_word_embeddings"}
    assert read_hyperparameters({**config, **missing}).tied_embeddings is False
    assert read_hyperparameters(CONFIG).tied_embeddings is True


def test_keys_may_have_other_names() -> None:
    config = {name: value for name, value in CONFIG.items() if name != "rms_norm_eps"}
    assert (
        read_hyperparameters({**config, "norm_epsilon": 0.5}, names={"rms_norm_eps": "norm_epsilon"}).norm_epsilon
        == 0.5
    )
    with pytest.raises(EdgeError) as caught:
        read_hyperparameters(CONFIG, names={"rms_norm_eps": "norm_epsilon"})
    assert caught.value.message == "config.json does not say norm_epsilon."


def test_experts_are_read_where_a_family_has_them() -> None:
    config = {**CONFIG, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    shape = read_hyperparameters(config, has_experts=True)
    assert (shape.experts, shape.experts_used, shape.expert_feed_forward) == (8, 2, 64)
    assert read_hyperparameters(config).experts == 0
    with pytest.raises(EdgeError) as caught:
        read_hyperparameters({**config, "num_experts_per_tok": 9}, has_experts=True)
    assert caught.value.message == "config.json uses 9 experts of 8 for each token."


@pytest.mark.parametrize("name", NEEDED)
def test_missing_value_is_named(name: str) -> None:
    error = refusal(**{name: None})
    assert error.message == f"config.json does not say {name}."
    assert error.hint == "The checkpoint is incomplete: download it again."


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 2.0, "8", True, [8], 2**31])
def test_size_that_is_no_positive_integer_is_refused(name: str, value: Any) -> None:
    error = refusal(**{name: value})
    assert error.message == f"config.json gives {name} as {value!r}."
    assert error.hint == "A whole number from 1 to 2147483647 is needed."


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf"), 10**400, "1e-5", False])
def test_epsilon_that_llama_cpp_could_not_use_is_refused(value: Any) -> None:
    error = refusal(rms_norm_eps=value)
    assert error.message == f"config.json gives rms_norm_eps as {value!r}."
    assert error.hint == "A number that is not negative is needed."


def test_tie_that_is_neither_true_nor_false_is_refused() -> None:
    error = refusal(tie_word_embeddings="false")
    assert error.message == "config.json gives tie_word_embeddings as 'false'."
    assert error.hint == "true or false is needed."


def test_heads_that_key_value_heads_cannot_share_out_are_refused() -> None:
    error = refusal(num_attention_heads=8, num_key_value_heads=3)
    assert error.message == "config.json gives 8 attention heads to 3 key/value heads."
    assert error.hint == "Each key/value head serves the same number of attention heads: one must divide the other."


def test_odd_head_dim_is_refused() -> None:
    error = refusal(head_dim=63)
    assert error.message == "config.json makes head_dim 63."
    assert error.hint == "RoPE turns pairs of dimensions: it must be even."


@pytest.mark.parametrize("name", TINY)
def test_tiny_checkpoints_are_read(name: str) -> None:
    config = TINY[name].config
    shape = find_family(config["architectures"][0]).read_shape(config)
    assert shape.head_dim == TINY[name].head_dim
    assert shape.layers == TINY[name].text_config["num_hidden_layers"]


@settings(deadline=None)
@given(name=st.sampled_from([*CONFIG, "rope_parameters", "rope_scaling", "partial_rotary_factor"]), value=json_values)
def test_whatever_a_config_says_is_read_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(EdgeError):
        shape = read(**{name: value})
        assert min(shape.layers, shape.hidden, shape.head_dim, shape.query, shape.key_value) > 0
