from __future__ import annotations

import io
import json
from pathlib import Path

import gguf
import pytest
from rich.console import Console, RenderableType

from edge.description import kv_cache_bytes
from edge.gguf_file import read_gguf
from edge.gguf_format import FILE_TYPES, ValueType
from edge.inspect import Description, describe, render, render_keys, render_tensors
from tests.edge.gguf_bytes import F32, Q8_0, Document, array, scalar, string, tensor


def number(value: int) -> bytes:
    return scalar(ValueType.UINT32, value)


GEMMA = Document(
    architecture="gemma2",
    entries=[
        ("general.name", string("Tiny Gemma")),
        ("general.file_type", number(7)),
        ("general.source.sha256", array(ValueType.STRING, ["0123456789abcdef0123", "b", "c", "d"])),
        ("edge.recipe", string("Q8_0")),
        ("gemma2.block_count", number(26)),
        ("gemma2.embedding_length", number(2304)),
        ("gemma2.attention.head_count", number(8)),
        ("gemma2.attention.head_count_kv", number(4)),
        ("gemma2.attention.key_length", number(256)),
        ("gemma2.attention.value_length", number(256)),
        ("gemma2.feed_forward_length", number(9216)),
        ("gemma2.context_length", number(8192)),
        ("gemma2.attention.sliding_window", number(4096)),
        ("gemma2.rope.freq_base", scalar(ValueType.FLOAT32, 10000)),
        ("gemma2.rope.scaling.type", string("linear")),
        ("gemma2.rope.scaling.factor", scalar(ValueType.FLOAT32, 8)),
        ("tokenizer.ggml.model", string("gpt2")),
        ("tokenizer.ggml.pre", string("default")),
        ("tokenizer.ggml.tokens", array(ValueType.STRING, ["<bos>", "[INST]", b"\xff", "d", "e"])),
        ("tokenizer.ggml.bos_token_id", number(0)),
        ("tokenizer.ggml.eos_token_id", number(1)),
        ("tokenizer.ggml.unknown_token_id", number(2)),
        ("tokenizer.ggml.padding_token_id", number(99)),
        ("tokenizer.ggml.add_bos_token", scalar(ValueType.BOOL, True)),
        ("tokenizer.chat_template", string("\n".join(f"line {count}" for count in range(9)))),
    ],
    tensors=[tensor("output.weight", [32, 3], Q8_0, 0), tensor("output_norm.weight", [8], F32, 128)],
    weights=bytes(128 + 32),
)


def described(folder: Path, document: Document = GEMMA) -> Description:
    path = folder / "model.gguf"
    path.write_bytes(document.to_bytes())
    return describe(read_gguf(path))


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_numbers_of_a_file_are_exact(tmp_path: Path) -> None:
    description = described(tmp_path)
    assert (description.parameters, description.quantization, description.architecture) == (104, "Q8_0", "gemma2")
    assert description.bits_per_weight == 8 * (102 + 32) / 104
    assert [(share.type, share.tensors, share.n_bytes) for share in description.tensor_types] == [
        ("Q8_0", 1, 102),
        ("F32", 1, 32),
    ]
    assert sum(share.share for share in description.tensor_types) == pytest.approx(1)


def test_kv_cache_is_counted_for_all_layers(tmp_path: Path) -> None:
    assert described(tmp_path).shape.kv_cache_bytes_per_token == 26 * 4 * (256 + 256) * 2


def test_kv_cache_of_layers_that_differ_is_their_sum() -> None:
    assert kv_cache_bytes(3, (1, 0, 2), 64, 128) == 3 * (64 + 128) * 2
    assert kv_cache_bytes(3, None, 64, 64) is None


def test_head_dim_is_hidden_by_heads_when_the_file_gives_none(tmp_path: Path) -> None:
    entries = [
        ("llama.embedding_length", number(576)),
        ("llama.attention.head_count", number(9)),
        ("llama.block_count", number(30)),
    ]
    shape = described(tmp_path, Document(entries=entries)).shape
    assert (shape.head_dim, shape.kv_heads, shape.kv_cache_bytes_per_token) == (64, 9, 30 * 9 * 128 * 2)


def test_numbers_per_layer_are_kept_and_shown_as_a_range(tmp_path: Path) -> None:
    entries = [("llama.attention.head_count_kv", array(ValueType.INT32, [4, 1, 2]))]
    description = described(tmp_path, Document(entries=entries))
    assert description.shape.kv_heads == (4, 1, 2)
    assert "KV heads 1 to 4" in " ".join(shown(render(description)).split())


def test_latent_attention_has_no_kv_cache_figure(tmp_path: Path) -> None:
    entries = [
        ("llama.attention.kv_lora_rank", number(512)),
        ("llama.block_count", number(2)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.key_length", number(64)),
    ]
    assert described(tmp_path, Document(entries=entries)).shape.kv_cache_bytes_per_token is None


def test_keys_of_the_wrong_type_are_taken_as_missing(tmp_path: Path) -> None:
    entries = [
        ("llama.block_count", string("many")),
        ("llama.attention.head_count", array(ValueType.FLOAT32, [float("nan")])),
        ("llama.context_length", scalar(ValueType.BOOL, True)),
        ("llama.rope.freq_base", array(ValueType.STRING, [])),
        ("tokenizer.ggml.add_bos_token", string("yes")),
        ("general.name", number(1)),
        ("tokenizer.ggml.tokens", array(ValueType.INT32, [1])),
    ]
    description = described(tmp_path, Document(entries=entries))
    assert (description.shape.layers, description.shape.heads, description.shape.context_tokens) == (None, None, None)
    assert (description.shape.rope_base, description.name, description.tokenizer) == (None, None, None)
    assert shown(render(description)).startswith("(no name) · llama · 0 parameters")


def test_overview_shows_the_facts_in_80_columns(tmp_path: Path) -> None:
    description = described(tmp_path)
    text = shown(render(description))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Tiny Gemma · gemma2 · 104 parameters · Q8_0 ·")
    for row in (
        "layers 26 Type Tensors Size Share",
        "hidden 2,304 Q8_0 1 102 bytes 76.1%",
        "heads 8 F32 1 32 bytes 23.9%",
        "head dim 256 Tokenizer",
        "vocabulary 5 pre-tokenizer default",
        "context 8,192 tokens 5",
        "sliding window 4,096 adds BOS yes",
        "RoPE base 10,000 bos 0 <bos>",
        "RoPE scaling linear × 8 eos 1 [INST]",
        "KV per token 106 kB at f16",
        "unknown 2 �",
        "padding 99 (not in the vocabulary)",
        "line 5",
        "… 3 more lines",
        "general.source.sha256 ['0123456789abcde…', 'b', 'c', … 4 in all]",
        "edge.recipe Q8_0",
    ):
        assert row in " ".join(text.split()), row
    assert "line 6" not in text


def test_file_without_a_template_says_so(tmp_path: Path) -> None:
    assert "none: messages cannot be written as a prompt without one" in shown(render(described(tmp_path, Document())))


def test_rope_frequencies_are_named_as_a_tensor(tmp_path: Path) -> None:
    document = Document(tensors=[tensor("rope_freqs.weight", [8], F32, 0)], weights=bytes(32))
    assert described(tmp_path, document).shape.rope_scaling == "by frequency (tensor rope_freqs.weight)"


def test_experts_are_shown_as_used_of_all(tmp_path: Path) -> None:
    entries = [("llama.expert_count", number(8)), ("llama.expert_used_count", number(2))]
    assert "experts 2 of 8" in " ".join(shown(render(described(tmp_path, Document(entries=entries)))).split())


def test_every_key_is_listed_with_its_type_and_wide_arrays_are_cut(tmp_path: Path) -> None:
    text = rows(shown(render_keys(described(tmp_path)), width=100))
    assert "gemma2.rope.freq_base float32 10000" in text
    assert "tokenizer.ggml.tokens string[] ['<bos>', '[INST]', '\\udcff', … 5 in all]" in text
    assert any(row.startswith("tokenizer.chat_template string line 0⏎line 1⏎line 2") for row in text)
    assert len(text) >= len(GEMMA.entries) + 3


def test_every_tensor_is_listed_with_its_shape(tmp_path: Path) -> None:
    text = rows(shown(render_tensors(described(tmp_path))))
    assert "output.weight Q8_0 32 × 3 102 bytes" in text
    assert "output_norm.weight F32 8 32 bytes" in text


def test_terminal_codes_in_a_file_are_shown_escaped(tmp_path: Path) -> None:
    entries = [
        ("general.name", string("evil \x1b[2J name")),
        ("general.\x1b]0;x\x07", string("\x9b31m")),
        ("tokenizer.chat_template", string("\x1b[31m{{ red }}")),
        ("tokenizer.ggml.tokens", array(ValueType.STRING, ["\x1b[5m"])),
        ("tokenizer.ggml.bos_token_id", number(0)),
    ]
    description = described(tmp_path, Document(entries=entries))
    for renderable in (render(description), render_keys(description)):
        assert not {"\x1b", "\x07", "\x9b"} & set(shown(renderable, width=100))
    assert "evil \\x1b[2J name" in shown(render(description))


def test_json_holds_everything_and_survives_the_round_trip(tmp_path: Path) -> None:
    document = described(tmp_path).to_json()
    again = json.loads(json.dumps(document))
    assert again["shape"]["sliding_window"] == 4096
    assert again["tokenizer"]["special"][0] == {"role": "bos", "id": 0, "text": "<bos>"}
    assert again["tensors"][0] == {"name": "output.weight", "type": "Q8_0", "shape": [32, 3], "n_bytes": 102}
    assert {key["name"] for key in again["keys"]} >= {"general.name", "edge.recipe"}


def test_file_types_are_named_as_by_gguf_py() -> None:
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert all(theirs[number] == name for name, number in FILE_TYPES.items())
