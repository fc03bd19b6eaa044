"""Typed values out of a checkpoint's config.json, under one name each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    experts: int
    """How many feed-forward networks a layer chooses from; 0 where it has a single one."""
    experts_used: int
    expert_feed_forward: int
    config: Mapping[str, Any]
    """config.json as it is, for what only one family knows."""
    spare_rows: int = 0
    """Rows of embeddings in the checkpoint beyond the vocabulary, which the file does not get."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Dimensions that only one family has."""

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def query_key_value(self) -> int:
        return self.query + 2 * self.key_value

    @property
    def gate_up(self) -> int:
        return 2 * self.feed_forward

    @property
    def key_value(self) -> int:
        return self.key_value_heads * self.head_dim

    def with_vocabulary(self, tokens: int) -> Hyperparameters:
        """The same with the first tokens only: the rows of embeddings beyond them are spare."""
        return replace(self, vocabulary=tokens, spare_rows=self.spare_rows + self.vocabulary - tokens)

    def size(self, name: str) -> int:
        """A dimension by the name that tensor rules use, such as "hidden"."""
        if name == "1":
            return 1
        return self.sizes[name] if name in self.sizes else cast(int, getattr(self, name))


def read_hyperparameters(
    config: Mapping[str, Any], *, names: Mapping[str, str] | None = None, has_experts: bool = False
) -> Hyperparameters:
    """Read a config.json, whose keys may have other `names`.

    EdgeError when a value is missing or makes no transformer that llama.cpp can run.
    """

    def count(name: str, default: int | None = None) -> int:
        return positive_integer(config, name_of(name), default=default)

    def name_of(name: str) -> str:
        return (names or {}).get(name, name)

    hidden, heads = count("hidden_size"), count("num_attention_heads")
    key_value_heads = count("num_key_value_heads", heads)
    head_dim = count("head_dim", hidden // heads)
    context_tokens = count("max_position_embeddings")
    _check_heads(heads, key_value_heads, head_dim)
    experts_name = "num_local_experts" if config.get("num_local_experts") else "num_experts"
    experts = count(experts_name) if has_experts else 0
    experts_used = count("num_experts_per_tok") if has_experts else 0
    _check_experts(experts, experts_used)
    expert_feed_forward = count("moe_intermediate_size") if has_experts else 0
    return Hyperparameters(
        layers=count("num_hidden_layers"),
        hidden=hidden,
        feed_forward=count("intermediate_size"),
        heads=heads,
        key_value_heads=key_value_heads,
        head_dim=head_dim,
        vocabulary=count("vocab_size"),
        context_tokens=context_tokens,
        norm_epsilon=number(config, name_of("rms_norm_eps")),
        tied_embeddings=flag(config, "tie_word_embeddings", default=False),
        rope=read_rope_parameters(config, head_dim, context_tokens),
        experts=experts,
        experts_used=experts_used,
        expert_feed_forward=expert_feed_forward,
        config=config,
    )


def _check_experts(experts: int, used: int) -> None:
    if used > experts:
        raise EdgeError(
            f"config.json uses {used} experts of {experts} for each token.",
            hint="One of the numbers belongs to another model.",
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
