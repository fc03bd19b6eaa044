"""GGUF back to a checkpoint: exact weights, llama.cpp's row order undone, and a tokenizer that gives the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from convert.checkpoint import Checkpoint, read_checkpoint
from convert.restore import half_order_rows, restore_checkpoint, round_to_bfloat16
from convert.shards import ShardMaps
from edge.errors import EdgeError

HIDDEN, HEADS, KV_HEADS, FEED_FORWARD = 64, 4, 2, 96
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcd123", "Ġ", "Ċ", "ab", "Ġab", "cd"]
MERGES = ["a b", "Ġ ab", "c d"]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
SHAPES = {
    "token_embd": (len(TOKENS), HIDDEN),
    "output_norm": (HIDDEN,),
    "blk.0.attn_norm": (HIDDEN,),
    "blk.0.attn_q": (HIDDEN, HIDDEN),
    "blk.0.attn_k": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "blk.0.attn_v": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "blk.0.attn_output": (HIDDEN, HIDDEN),
    "blk.0.ffn_norm": (HIDDEN,),
    "blk.0.ffn_gate": (FEED_FORWARD, HIDDEN),
    "blk.0.ffn_up": (FEED_FORWARD, HIDDEN),
    "blk.0.ffn_down": (HIDDEN, FEED_FORWARD),
}


def write_gguf(path: Path, *, architecture: str = "llama", pre: str = "smollm", extra: str | None = None) -> Path:
    """A llama of one layer: Q4_1 matrices, a Q8_0 embedding, F32 norms, all seeded."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(7)
    for name, shape in (SHAPES | ({extra: (HIDDEN,)} if extra else {})).items():
        values = random.standard_normal(shape, np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else gguf.GGMLQuantizationType.Q4_1
        if len(shape) == 1:
            kind = gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def checkpoint(source: Path, tmp_path: Path) -> Checkpoint:
    directory = tmp_path / "restored"
    directory.mkdir()
    restore_checkpoint(source, directory)
    return read_checkpoint(directory)


def restored(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    tensor = checkpoint.tensors[name]
    assert tensor.dtype == "BF16"
    with ShardMaps() as maps:
        bits = maps.rows(tensor, 0, tensor.rows).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tensor.shape)


def dequantized(source: Path, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    tensor = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == name)
    values: np.ndarray[Any, np.dtype[np.float32]] = dequantize(tensor.data, tensor.tensor_type)
    return values


def llama_cpp_order(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter does to the rows of q and k."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def nearest_bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (round_to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


def test_every_tensor_has_its_hugging_face_name_and_shape(checkpoint: Checkpoint) -> None:
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        "model.embed_tokens.weight": (15, 64),
        "model.norm.weight": (64,),
        "model.layers.0.input_layernorm.weight": (64,),
        "model.layers.0.self_attn.q_proj.weight": (64, 64),
        "model.layers.0.self_attn.k_proj.weight": (32, 64),
        "model.layers.0.self_attn.v_proj.weight": (32, 64),
        "model.layers.0.self_attn.o_proj.weight": (64, 64),
        "model.layers.0.post_attention_layernorm.weight": (64,),
        "model.layers.0.mlp.gate_proj.weight": (96, 64),
        "model.layers.0.mlp.up_proj.weight": (96, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 96),
    }


@pytest.mark.parametrize(
    ("name", "gguf_name"),
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.0.self_attn.v_proj", "blk.0.attn_v"),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down"),
    ],
)
def test_weights_are_the_dequantized_ones_rounded_to_bfloat16(
    name: str, gguf_name: str, checkpoint: Checkpoint, source: Path
) -> None:
    expected = nearest_bfloat16(dequantized(source, f"{gguf_name}.weight"))
    np.testing.assert_array_equal(restored(checkpoint, f"{name}.weight"), expected)


@pytest.mark.parametrize(("projection", "heads"), [("q", HEADS), ("k", KV_HEADS)])
def test_query_and_key_rows_return_to_the_order_of_transformers(
    projection: str, heads: int, checkpoint: Checkpoint, source: Path
) -> None:
    rows = restored(checkpoint, f"model.layers.0.self_attn.{projection}_proj.weight")
    original = nearest_bfloat16(dequantized(source, f"blk.0.attn_{projection}.weight"))
    assert not np.array_equal(rows, original)
    np.testing.assert_array_equal(llama_cpp_order(rows, heads), original)


def test_half_order_of_two_heads_takes_the_even_rows_of_each_head_first() -> None:
    rows = np.arange(8).reshape(8, 1)
    assert half_order_rows(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_config_says_what_the_gguf_said(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["intermediate_size"], config["vocab_size"]) == (64, 96, 15)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-5, 100000.0)
    assert (config["num_hidden_layers"], config["max_position_embeddings"]) == (1, 512)
    assert config["tie_word_embeddings"] is True
    assert checkpoint.generation_config["eos_token_id"] == config["eos_token_id"] == 2
    assert checkpoint.chat_template == TEMPLATE


def test_tokenizer_splits_digits_merges_and_keeps_control_tokens_whole(checkpoint: Checkpoint) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_json))
    text = "<|im_start|>ab ab12\ncd<|im_end|>"
    encoded = tokenizer.encode(text)
    assert encoded.tokens == ["<|im_start|>", "ab", "Ġab", "1", "2", "Ċ", "cd", "<|im_end|>"]
    assert encoded.ids == [TOKENS.index(token) for token in encoded.tokens]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_tokenizer_config_names_the_special_tokens(checkpoint: Checkpoint) -> None:
    config = checkpoint.tokenizer_config
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["unk_token"], config["pad_token"]) == ("<|endoftext|>", "<|im_end|>")
    assert list(config["added_tokens_decoder"]) == ["0", "1", "2"]
    special = json.loads((checkpoint.directory / "special_tokens_map.json").read_text())
    assert special["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]


def test_untied_output_becomes_the_language_model_head(tmp_path: Path) -> None:
    restore_checkpoint(write_gguf(tmp_path / "tiny.gguf", extra="output"), tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert "lm_head.weight" in checkpoint.tensors
    assert checkpoint.config["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_gguf(path, architecture="gemma2"), "general.architecture is 'gemma2'"),
        (lambda path: write_gguf(path, pre="qwen2"), "tokenizer.ggml.pre is 'qwen2'"),
        (lambda path: write_gguf(path, extra="rope_freqs"), "a tensor that no Llama checkpoint has: rope_freqs.weight"),
        (lambda path: write_gguf(path, extra="blk.0.attn_sinks"), "no Llama checkpoint has: blk.0.attn_sinks.weight"),
    ],
)
def test_any_other_model_is_refused(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=message):
        restore_checkpoint(write(tmp_path / "other.gguf"), tmp_path)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F80),  # 1.0 is exact
        (0x3F808000, 0x3F80),  # a tie goes down to the even neighbour
        (0x3F818000, 0x3F82),  # a tie goes up to the even neighbour
        (0x3F808001, 0x3F81),  # just above a tie goes up
        (0x3F817FFF, 0x3F81),  # just below a tie goes down
        (0xBF818000, 0xBF82),  # the sign stays
        (0x7F7FFFFF, 0x7F80),  # the largest float32 is nearest to infinity
        (0x80000000, 0x8000),  # minus zero
        (0x00008001, 0x0001),  # subnormal
    ],
)
def test_rounding_is_to_nearest_with_ties_to_even(bits: int, rounded: int) -> None:
    assert round_to_bfloat16(np.array([bits], np.uint32).view(np.float32)).tolist() == [rounded]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127, min_value=-(2.0**127)))
def test_no_bfloat16_is_nearer_than_the_one_that_rounding_gives(value: float) -> None:
    (bits,) = round_to_bfloat16(np.array([value], np.float32)).tolist()
    candidates = np.array([max(bits - 1, 0), bits, bits + 1], np.uint32) << 16
    distances = np.abs(candidates.view(np.float32).astype(np.float64) - value)
    assert distances[1] == np.nanmin(distances)
