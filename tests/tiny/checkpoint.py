"""What a tiny checkpoint is made of, and the configuration that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.tiny.shapes import Shapes, decoder_shapes

CONTEXT_TOKENS = 512
SMALL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "vocab_size": 320}


@dataclass(frozen=True)
class TinyCheckpoint:
    """What to write. `config` and `generation_config` are the JSON documents; `tokenizer` is a folder's name."""

    name: str
    tokenizer: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1
    shapes: Callable[[Mapping[str, Any]], Shapes] = decoder_shapes
    """The shape of every tensor, from the configuration."""
    norm_center: float = 1.0
    """Around which the weights of norms lie: 0 where the model adds one to them."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """How much some kinds of matrices amplify, where the usual would leave others without effect."""
    padding_tokens: int = 0
    """Rows of embeddings beyond the tokenizer's vocabulary that a conversion leaves out."""

    @property
    def head_dim(self) -> int:
        config = self.text_config
        return int(
            config.get("global_head_dim")
            or config.get("head_dim")
            or config["hidden_size"] // config["num_attention_heads"]
        )

    @property
    def vocabulary(self) -> int:
        """Tokens of the converted model."""
        return int(self.text_config["vocab_size"]) - self.padding_tokens

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The configuration with the language model's part of it in the foreground."""
        return {**self.config, **self.config.get("text_config", {})}


def base_config(architecture: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every family has, in the sizes that most checkpoints here use."""
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": CONTEXT_TOKENS,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "transformers_version": "5.23.0",
        "use_cache": True,
        **changes,
    }


def published(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it, which is what most of the hub has."""
    return {**config, "torch_dtype": config.pop("dtype"), "transformers_version": "4.45.0"}
