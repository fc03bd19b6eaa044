"""Tiny checkpoints, complete as transformers saves them: config, generation config, BF16 safetensors, tokenizer.

Nothing of their weights is stored: they follow from a checkpoint's name, bit for bit on every machine, and are
written when a test asks for them. `tests/golden` holds the logits that transformers computes from the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.safetensors_file import write_safetensors

TOKENIZERS = Path(__file__).parent / "tokenizers"
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class TinyCheckpoint:
    """What to write. `config` and `generation_config` are the JSON documents; `tokenizer` is a folder's name."""

    name: str
    tokenizer: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1

    @property
    def head_dim(self) -> int:
        config = self.config
        return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _config(architecture: str, changes: Mapping[str, Any]) -> dict[str, Any]:
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


def _published(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it, which is what most of the hub has."""
    return {**config, "torch_dtype": config.pop("dtype"), "transformers_version": "4.45.0"}


def _llama(**changes: Any) -> dict[str, Any]:
    defaults = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return _config("LlamaForCausalLM", {**defaults, **changes})


def _gemma2(**changes: Any) -> dict[str, Any]:
    """Soft caps and a window small enough to be felt by a tiny model. Heads are wider than hidden / heads."""
    defaults: dict[str, Any] = {
        "model_type": "gemma2",
        "attention_bias": False,
        "attn_logit_softcapping": 6.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": 4.0,
        "head_dim": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": 768,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 128,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
        "vocab_size": 679,
    }
    return _config("Gemma2ForCausalLM", {**defaults, **changes})


def _qwen2(**changes: Any) -> dict[str, Any]:
    """As published: a sliding window that is switched off, and more rows of embeddings than there are tokens."""
    defaults: dict[str, Any] = {
        "model_type": "qwen2",
        "bos_token_id": 617,
        "eos_token_id": 619,
        "max_window_layers": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 256,
        "use_sliding_window": False,
        "vocab_size": 640,
    }
    return _published(_config("Qwen2ForCausalLM", {**defaults, **changes}))


def _qwen3(**changes: Any) -> dict[str, Any]:
    layers = changes.get("num_hidden_layers", 2)
    defaults: dict[str, Any] = {
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": 617,
        "eos_token_id": 619,
        "head_dim": 128,
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 624,
    }
    return _config("Qwen3ForCausalLM", {**defaults, **changes})


# wavelengths between 16 and 64 tokens are interpolated and longer ones stretched, well within a golden sequence
LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}
LLAMA2_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 666}
LLAMA3_TOKENS = {"bos_token_id": 616, "eos_token_id": [617, 621, 622], "vocab_size": 624}

_CHECKPOINTS = (
    # as the first Llama 2 releases: no rope_theta, no grouped heads
    TinyCheckpoint(
        "llama2",
        "llama2",
        _published(_llama(num_key_value_heads=4, rope_scaling=None, **LLAMA2_TOKENS)),
        {"bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9},
    ),
    # enough layers that Q4_K_M's choice between Q4_K and Q6_K follows its pattern
    TinyCheckpoint(
        "llama3",
        "llama3",
        _llama(
            head_dim=64,
            num_hidden_layers=8,
            rope_parameters={**LLAMA3_ROPE, "rope_theta": 500000.0},
            **LLAMA3_TOKENS,
        ),
        {"bos_token_id": 616, "do_sample": True, "eos_token_id": [617, 621, 622], "temperature": 0.6},
        shards=3,
    ),
    TinyCheckpoint(
        "llama3-published",
        "llama3",
        _published(
            _llama(
                num_key_value_heads=1,
                rope_scaling=LLAMA3_ROPE,
                rope_theta=500000.0,
                tie_word_embeddings=True,
                **LLAMA3_TOKENS,
            )
        ),
    ),
    TinyCheckpoint(
        "llama-linear",
        "mistral",
        _published(_llama(rope_scaling={"factor": 4.0, "type": "linear"}, rope_theta=10000.0, **LLAMA2_TOKENS)),
    ),
    # rows that K-quants cannot take (288), and rows that no quantization can take (336)
    TinyCheckpoint(
        "llama-uneven",
        "llama2",
        _llama(
            hidden_size=288,
            intermediate_size=336,
            num_attention_heads=6,
            num_key_value_heads=3,
            num_hidden_layers=3,
            head_dim=48,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
            **LLAMA2_TOKENS,
        ),
    ),
    TinyCheckpoint(
        "smollm2",
        "smollm2",
        _published(
            _llama(
                bos_token_id=1,
                eos_token_id=2,
                hidden_size=288,
                intermediate_size=768,
                num_attention_heads=9,
                num_hidden_layers=3,
                num_key_value_heads=3,
                pad_token_id=2,
                rope_interleaved=False,
                rope_scaling=None,
                rope_theta=100000,
                tie_word_embeddings=True,
                vocab_size=608,
            )
        ),
    ),
    TinyCheckpoint(
        "mistral",
        "mistral",
        _config(
            "MistralForCausalLM",
            {
                **LLAMA2_TOKENS,
                "head_dim": 64,
                "model_type": "mistral",
                "num_attention_heads": 8,
                "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
                "sliding_window": None,
            },
        ),
    ),
    TinyCheckpoint(
        "gemma2",
        "gemma2",
        _gemma2(),
        {"bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 8], "pad_token_id": 0},
    ),
    TinyCheckpoint(
        "qwen2",
        "qwen",
        _qwen2(),
        {"bos_token_id": 617, "eos_token_id": [619, 617], "repetition_penalty": 1.05, "temperature": 0.7},
    ),
    TinyCheckpoint("qwen3", "qwen", _qwen3(tie_word_embeddings=True), {"eos_token_id": [619, 617], "top_k": 20}),
    TinyCheckpoint("qwen3-untied", "qwen", _qwen3(num_hidden_layers=3), {"eos_token_id": [619, 617], "top_k": 20}),
)
TINY: dict[str, TinyCheckpoint] = {checkpoint.name: checkpoint for checkpoint in _CHECKPOINTS}


def write_tiny_checkpoint(family: str, directory: Path, *, variant: str = "") -> Path:
    """Writes the checkpoint `family` or `family-variant` of `TINY` into a new folder of `directory` and gives it."""
    checkpoint = TINY[f"{family}-{variant}" if variant else family]
    folder = directory / checkpoint.name
    shutil.copytree(TOKENIZERS / checkpoint.tokenizer, folder)
    _write_json(folder / "config.json", checkpoint.config)
    generation = {"_from_model_config": True, "transformers_version": checkpoint.config["transformers_version"]}
    _write_json(folder / "generation_config.json", {**generation, **checkpoint.generation_config})
    _write_weights(folder, checkpoint)
    return folder


def weights_sha256(folder: Path) -> str:
    """Digest of the safetensors files in `folder`, by which golden logits know their checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tensor_shapes(checkpoint: TinyCheckpoint) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its name, sorted as transformers sorts them."""
    config = checkpoint.config
    hidden = config["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    layer = _layer_shapes(checkpoint)
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return dict(sorted(shapes.items()))


def _layer_shapes(checkpoint: TinyCheckpoint) -> dict[str, tuple[int, ...]]:
    config, head_dim = checkpoint.config, checkpoint.head_dim
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "mlp.down_proj.weight": (hidden, feed_forward),
        "mlp.gate_proj.weight": (feed_forward, hidden),
        "mlp.up_proj.weight": (feed_forward, hidden),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
    }
    if config["model_type"] == "gemma2":
        shapes |= {f"{side}_feedforward_layernorm.weight": (hidden,) for side in ("pre", "post")}
    if config["model_type"] == "qwen2":
        rows = {"q": queries, "k": keys, "v": keys}
        shapes |= {f"self_attn.{name}_proj.bias": (count,) for name, count in rows.items()}
    if config["model_type"] == "qwen3":
        shapes |= {f"self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
    return shapes


def tensor_values(checkpoint: TinyCheckpoint, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The weights, bell-shaped, scaled so that attention is far from uniform and every norm and bias matters."""
    noise = _noise(f"{checkpoint.name}/{name}", math.prod(shape)).reshape(shape)
    if name.endswith(".bias"):
        return noise * np.float32(0.5)
    if name.endswith("norm.weight"):
        center = 0.0 if checkpoint.config["model_type"] == "gemma2" else 1.0
        center += 0.4 if "q_norm" in name or "k_norm" in name else 0.0
        return noise * np.float32(0.25) + np.float32(center)
    gain = {"q_proj": 1.4, "k_proj": 1.4, "lm_head": 2.0, "embed_tokens": 2.0}.get(name.split(".")[-2], 0.8)
    return noise * np.float32(gain / math.sqrt(shape[-1]))


def _noise(seed: str, count: int) -> npt.NDArray[np.float32]:
    """Values of mean 0 and deviation 1: sums of four 16-bit numbers.

    They come from the raw bits of the generator, which numpy promises never to change, unlike its distributions.
    """
    raw: npt.NDArray[np.uint64] = np.random.PCG64(zlib.crc32(seed.encode())).random_raw(count)
    sums: npt.NDArray[np.int32] = raw.astype("<u8").view("<u2").reshape(count, 4).sum(axis=1, dtype=np.int32)
    return (sums - 131070).astype(np.float32) * np.float32(math.sqrt(3) / 65536)


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even; the values are finite."""
    bits = values.view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype("<u2")


def _write_weights(folder: Path, checkpoint: TinyCheckpoint) -> None:
    def tensor_bytes(name: str) -> bytes:
        return _bfloat16(tensor_values(checkpoint, name, shapes[name])).tobytes()

    shapes = tensor_shapes(checkpoint)
    files = _shard_names(shapes, checkpoint.shards)
    for file in dict.fromkeys(files.values()):
        names = [name for name in shapes if files[name] == file]
        entries = [(name, "BF16", shapes[name], partial(tensor_bytes, name)) for name in names]
        write_safetensors(folder / file, entries, {"format": "pt"})
    if checkpoint.shards > 1:
        parameters = sum(map(math.prod, shapes.values()))
        metadata = {"total_parameters": parameters, "total_size": 2 * parameters}
        _write_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": files})


def _shard_names(shapes: Mapping[str, tuple[int, ...]], shards: int) -> dict[str, str]:
    """The file of each tensor: consecutive tensors, about as many bytes in each file."""
    if shards == 1:
        return dict.fromkeys(shapes, "model.safetensors")
    total = sum(map(math.prod, shapes.values()))
    names, written = {}, 0
    for name, shape in shapes.items():
        names[name] = f"model-{written * shards // total + 1:05d}-of-{shards:05d}.safetensors"
        written += math.prod(shape)
    return names


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
