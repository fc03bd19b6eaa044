"""Typed values out of a checkpoint's config.json, under one name each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from convert.config_values import flag, number, positive_integer
from convert.rope import RopeParameters, read_rope_parameters
from edge.errors import EdgeError


@dataclass(frozen=True)
class Hyperparameters:
    """The shape of a decoder-only transformer. Sizes are element counts."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int
    norm_epsilon: float
    tied_embeddings: bool
    rope: RopeParameters
    config: Mapping[str, Any]
    """config.json as it is, for what only one family knows."""

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        return self.key_value_heads * self.head_dim

    def size(self, name: str) -> int:
        """A dimension by the name that tensor rules use, such as "hidden"."""
        return cast(int, getattr(self, name))


def read_hyperparameters(config: Mapping[str, Any], *, tied_by_default: bool) -> Hyperparameters:
    """Read a config.json. EdgeError when a value is missing or makes no transformer that llama.cpp can run."""
    hidden = positive_integer(config, "hidden_size")
    heads = positive_integer(config, "num_attention_heads")
    key_value_heads = positive_integer(config, "num_key_value_heads", default=heads)
    head_dim = positive_integer(config, "head_dim", default=hidden // heads)
    context_tokens = positive_integer(config, "max_position_embeddings")
    _check_heads(heads, key_value_heads, head_dim)
    return Hyperparameters(
        layers=positive_integer(config, "num_hidden_layers"),
        hidden=hidden,
        feed_forward=positive_integer(config, "intermediate_size"),
        heads=heads,
        key_value_heads=key_value_heads,
        head_dim=head_dim,
        vocabulary=positive_integer(config, "vocab_size"),
        context_tokens=context_tokens,
        norm_epsilon=number(config, "rms_norm_eps"),
        tied_embeddings=flag(config, "tie_word_embeddings", default=tied_by_default),
        rope=read_rope_parameters(config, head_dim, context_tokens),
        config=config,
    )


def _check_heads(heads: int, key_value_heads: int, head_dim: int) -> None:
    """What llama.cpp takes for granted and would abort the process over."""
    if heads % key_value_heads:
        raise EdgeError(
            f"config.json gives {heads} attention heads to {key_value_heads} key/value heads.",
            hint="Each key/value head serves the same number of attention heads: one must divide the other.",
        )
    if head_dim % 2:
        raise EdgeError(
            f"config.json makes head_dim {head_dim}.", hint="RoPE turns pairs of dimensions: it must be even."
        )
