"""Typed values out of a checkpoint's config.json, under one name each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

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
    """Read a config.json. EdgeError when a value is missing or is not a sensible number."""
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    head_dim = _positive(config, "head_dim", default=hidden // heads)
    context_tokens = _positive(config, "max_position_embeddings")
    return Hyperparameters(
        layers=_positive(config, "num_hidden_layers"),
        hidden=hidden,
        feed_forward=_positive(config, "intermediate_size"),
        heads=heads,
        key_value_heads=_positive(config, "num_key_value_heads", default=heads),
        head_dim=head_dim,
        vocabulary=_positive(config, "vocab_size"),
        context_tokens=context_tokens,
        norm_epsilon=_number(config, "rms_norm_eps"),
        tied_embeddings=bool(config.get("tie_word_embeddings", tied_by_default)),
        rope=read_rope_parameters(config, head_dim, context_tokens),
        config=config,
    )


def _positive(config: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise EdgeError(f"config.json does not say {name}.", hint="The checkpoint is incomplete: download it again.")
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise EdgeError(f"config.json gives {name} as {value!r}.", hint="A positive whole number is needed.")
    return value


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise EdgeError(f"config.json gives {name} as {value!r}.", hint="A number is needed.")
    return float(value)
