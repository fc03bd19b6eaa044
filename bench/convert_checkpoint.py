"""Checkpoints of random weights to convert: the shape of a published model, complete with a small tokenizer.

A quantizer's work does not depend on what the weights mean, so that normal ones measure it as well as trained ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.pretokenizers import CL100K
from convert.safetensors_file import write_safetensors

POOL_WEIGHTS = 1 << 22
"""Normal numbers that are drawn; tensors repeat them from a random place on, which is faster than drawing more."""

Bfloat16 = npt.NDArray[np.uint16]
Tensor = tuple[str, str, tuple[int, ...], Callable[[], memoryview]]

WEIGHT_SPREAD = 0.02
NORM_SPREAD = 0.1
SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


@dataclass(frozen=True)
class CheckpointShape:
    """The sizes of a llama model with tied embeddings."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int

    @property
    def parameter_count(self) -> int:
        return sum(int(np.prod(shape)) for _, shape in self.tensor_shapes())

    def tensor_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names as transformers saves them, with their shapes."""
        hidden, feed_forward = self.hidden, self.feed_forward
        query, key_value = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", (hidden,)
            yield f"{prefix}.self_attn.q_proj.weight", (query, hidden)
            yield f"{prefix}.self_attn.k_proj.weight", (key_value, hidden)
            yield f"{prefix}.self_attn.v_proj.weight", (key_value, hidden)
            yield f"{prefix}.self_attn.o_proj.weight", (hidden, query)
            yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
            yield f"{prefix}.mlp.gate_proj.weight", (feed_forward, hidden)
            yield f"{prefix}.mlp.up_proj.weight", (feed_forward, hidden)
            yield f"{prefix}.mlp.down_proj.weight", (hidden, feed_forward)
        yield "model.norm.weight", (hidden,)


SHAPES = {
    # the shape of Llama 3.2 1B
    "1.2B": CheckpointShape(
        layers=16, hidden=2048, feed_forward=8192, heads=32, key_value_heads=8, head_dim=64, vocabulary=128256
    ),
    # for trying the measurement itself
    "small": CheckpointShape(
        layers=4, hidden=512, feed_forward=1024, heads=8, key_value_heads=2, head_dim=64, vocabulary=4096
    ),
}


def generate_checkpoint(directory: Path, shape: CheckpointShape, *, seed: int = 0) -> None:
    """Write a checkpoint with BF16 weights; the same seed gives the same bytes. What is there is overwritten."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", _config(shape))
    _write_json(directory / "tokenizer.json", _tokenizer_json())
    _write_json(directory / "tokenizer_config.json", _tokenizer_config())
    (directory / "tokenizer.model").write_bytes(_sentencepiece_model())
    write_safetensors(directory / "model.safetensors", _tensors(shape, seed))


def _tensors(shape: CheckpointShape, seed: int) -> Iterator[Tensor]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal(POOL_WEIGHTS, dtype=np.float32)
    weights = to_bfloat16(normal * np.float32(WEIGHT_SPREAD))
    norms = to_bfloat16(1 + normal[: 1 << 16] * np.float32(NORM_SPREAD))
    for name, dimensions in shape.tensor_shapes():
        pool = norms if len(dimensions) == 1 else weights
        start = int(random.integers(len(pool)))
        yield name, "BF16", dimensions, _repeated(pool, start, int(np.prod(dimensions)))


def _repeated(pool: Bfloat16, start: int, count: int) -> Callable[[], memoryview]:
    def content() -> memoryview:
        return np.resize(np.roll(pool, -start), count).data

    return content


def to_bfloat16(values: npt.NDArray[np.float32]) -> Bfloat16:
    """Finite float32 values rounded to nearest even, as the upper halves of their bits."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _config(shape: CheckpointShape) -> dict[str, Any]:
    begin, *ends = range(256, 256 + len(SPECIAL_TOKENS))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "bos_token_id": begin,
        "eos_token_id": ends,
    }


def _tokenizer_json() -> dict[str, Any]:
    """Byte-level BPE that splits words as Llama 3 does and merges nothing: one token for each byte."""
    characters = byte_characters()
    vocabulary = {character: byte for byte, character in enumerate(characters)}
    added = [
        {
            "id": len(vocabulary) + index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, text in enumerate(SPECIAL_TOKENS)
    ]
    split = {"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "ignore_merges": True},
    }


def byte_characters() -> str:
    """The printable character that stands for each byte in byte-level BPE. Source: encoder.py of GPT-2."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


def _tokenizer_config() -> dict[str, Any]:
    begin, end, _ = SPECIAL_TOKENS
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end}


def _sentencepiece_model() -> bytes:
    """A tokenizer.model for llama.cpp's converter, which takes any; a BPE tokenizer it knows by its hash only."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["to measure is to know"]),
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        vocab_size=256 + 32,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
