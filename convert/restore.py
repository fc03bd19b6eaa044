"""The way back: a Llama-family GGUF file as the Hugging Face checkpoint it could have been made of.

Weights are dequantized, so what the quantization lost stays lost. Knows the llama architecture with a SmolLM tokenizer,
which is what the demo model needs, and refuses everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from convert.safetensors_file import write_safetensors
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, TensorInfo, read_gguf

# Elements dequantized at a time: the float32 of a slab stays in the processor's cache
SLAB_ELEMENTS = 1 << 18
CONTROL_TOKEN = 3  # LLAMA_TOKEN_TYPE_CONTROL

# Source: llama.cpp, gguf-py/gguf/tensor_mapping.py
MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def restore_checkpoint(gguf: Path, directory: Path) -> None:
    """Writes config.json, generation_config.json, the tokenizer and model.safetensors (BF16) into `directory`."""
    source = read_gguf(gguf)
    _check_kind(source)
    config = _config(source)
    json_files = {
        "config.json": config,
        "generation_config.json": {
            "_from_model_config": True,
            "do_sample": False,  # a model of this size answers best with its likeliest words
            **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        },
        "tokenizer.json": _tokenizer(source),
        "tokenizer_config.json": _tokenizer_config(source),
        "special_tokens_map.json": _special_tokens(source),
    }
    for name, content in json_files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    write_safetensors(directory / "model.safetensors", _tensors(source, config), {"format": "pt"})


def _check_kind(source: GGUFFile) -> None:
    expected = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    for key, value in expected.items():
        if source.metadata.get(key) != value:
            raise EdgeError(
                f"{source.path} cannot be turned back into a checkpoint: {key} is {source.metadata.get(key)!r}.",
                hint=f"Only {key} = {value!r} is known.",
            )


def _value(source: GGUFFile, key: str) -> Any:
    if key not in source.metadata:
        raise EdgeError(f"{source.path} lacks the key {key}.", hint="Install or download the file again.")
    return source.metadata[key]


def _config(source: GGUFFile) -> dict[str, Any]:
    """The fields that transformers' LlamaConfig saves.

    Source: transformers, models/llama/configuration_llama.py.
    """
    hidden_size = _value(source, "llama.embedding_length")
    heads = _value(source, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": _value(source, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(source, "tokenizer.ggml.eos_token_id"),
        "head_dim": hidden_size // heads,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": hidden_size**-0.5,
        "intermediate_size": _value(source, "llama.feed_forward_length"),
        "max_position_embeddings": _value(source, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": _value(source, "llama.block_count"),
        "num_key_value_heads": _value(source, "llama.attention.head_count_kv"),
        "pad_token_id": _value(source, "tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1,
        "rms_norm_eps": _decimal(_value(source, "llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": _decimal(_value(source, "llama.rope.freq_base")),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(_value(source, "tokenizer.ggml.tokens")),
    }


def _decimal(value: float) -> float:
    """The shortest decimal that a float32 was written as: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))


# The tokenizer


def _tokenizer(source: GGUFFile) -> dict[str, Any]:
    """tokenizer.json as the `tokenizers` library writes it for SmolLM2."""
    tokens = list(_value(source, "tokenizer.ggml.tokens"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, **_added(text)} for token, text in _control_tokens(source).items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in _value(source, "tokenizer.ggml.merges")],
        },
    }


def _control_tokens(source: GGUFFile) -> dict[int, str]:
    tokens = _value(source, "tokenizer.ggml.tokens")
    types = _value(source, "tokenizer.ggml.token_type")
    return {token: tokens[token] for token, kind in enumerate(types) if kind == CONTROL_TOKEN}


def _added(text: str) -> dict[str, Any]:
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _special_tokens(source: GGUFFile) -> dict[str, Any]:
    tokens = _value(source, "tokenizer.ggml.tokens")
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    named = {name: tokens[_value(source, f"tokenizer.ggml.{key}_token_id")] for name, key in keys.items()}
    return {"additional_special_tokens": [named["bos_token"], named["eos_token"]], **named}


def _tokenizer_config(source: GGUFFile) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token): _added(text) for token, text in _control_tokens(source).items()},
        "chat_template": _value(source, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": _value(source, "llama.context_length"),
        "tokenizer_class": "GPT2Tokenizer",
        **_special_tokens(source),
    }


# The weights


def _tensors(
    source: GGUFFile, config: Mapping[str, Any]
) -> Iterator[tuple[str, str, tuple[int, ...], Callable[[], memoryview]]]:
    """Every tensor as `write_safetensors` takes them: dequantized only when its turn has come."""
    # plain arrays: each slice of a memmap costs more
    mapped = {path: np.asarray(np.memmap(path, mode="r")) for path in source.parts or (source.path,)}
    for tensor in source.tensors.values():
        name, heads = _hugging_face_name(source, tensor.name, config)
        shape = tuple(reversed(tensor.shape))
        yield name, "BF16", shape, partial(_bfloat16, mapped[tensor.path], tensor, heads)


def _hugging_face_name(source: GGUFFile, name: str, config: Mapping[str, Any]) -> tuple[str, int | None]:
    """The tensor's name in the checkpoint, and the number of heads when its rows stand in llama.cpp's RoPE order."""
    if name in MODEL_TENSORS:
        return MODEL_TENSORS[name], None
    match = _LAYER_NAME.fullmatch(name)
    if not match or match[2] not in LAYER_TENSORS:
        raise EdgeError(f"{source.path} has a tensor that no Llama checkpoint has: {name}.")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(match[2])
    return f"model.layers.{match[1]}.{LAYER_TENSORS[match[2]]}.weight", heads


def _bfloat16(mapped: npt.NDArray[np.uint8], tensor: TensorInfo, heads: int | None) -> memoryview:
    """The tensor as bfloat16 `[rows, columns]`; with `heads`, its rows come in the order transformers has them."""
    columns = tensor.shape[0]
    rows = tensor.n_elements // columns
    packed = mapped[tensor.offset : tensor.offset + tensor.n_bytes].reshape(rows, -1)
    if heads is not None:
        packed = half_order_rows(packed, heads)
    values = np.empty((rows, columns), np.uint16)
    slab_rows = max(1, SLAB_ELEMENTS // columns)
    for first in range(0, rows, slab_rows):
        slab = dequantize(packed[first : first + slab_rows], GGMLQuantizationType[tensor.type.name])
        values[first : first + slab_rows] = round_to_bfloat16(slab)
    return values.data


def half_order_rows(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Undoes llama.cpp's RoPE order: `[heads, head_dim/2, 2, ...]` (pairs) to `[heads, 2, head_dim/2, ...]` (halves).

    Source: llama.cpp, conversion/llama.py, LlamaModel.permute, which this inverts.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even. Finite values only: a NaN could become infinite.

    Adding 0x7FFF, and one more when the last bit that stays is set, carries into that bit exactly when the 16 bits
    that go are above one half of it, or are one half and it is odd.
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)
