"""The type of each tensor: the rules by themselves, and against the choice of llama.cpp's own quantizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.gguf_header import TensorHeader, header_bytes
from convert.recipes import RECIPES, Recipe, find_recipe, tensor_types
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import TENSOR_TYPES, MetadataEntry, ValueType, align
from edge.llama.quantize import FILE_TYPES, quantize_file

QUANTIZED = ["Q8_0", "Q4_K_M"]
VOCABULARY = 4

Shapes = dict[str, tuple[int, ...]]


def decoder_shapes(layers: int, *, hidden: int = 256, feed_forward: int = 256, tied: bool = False) -> Shapes:
    """The tensors of a llama-like model. The quantizer does not care how many rows there are."""
    shapes: Shapes = {"token_embd.weight": (VOCABULARY, hidden)}
    for block in range(layers):
        columns = {
            "attn_q": hidden,
            "attn_k": hidden,
            "attn_v": hidden,
            "attn_output": hidden,
            "ffn_gate": hidden,
            "ffn_up": hidden,
            "ffn_down": feed_forward,
        }
        shapes |= {f"blk.{block}.{name}.weight": (2, width) for name, width in columns.items()}
        shapes[f"blk.{block}.attn_norm.weight"] = (hidden,)
        shapes[f"blk.{block}.attn_v.bias"] = (2,)
    shapes["output_norm.weight"] = (hidden,)
    return shapes if tied else {**shapes, "output.weight": (VOCABULARY, hidden)}


def write_bfloat16_file(path: Path, shapes: Shapes, architecture: str, layers: int, key_value_heads: int) -> None:
    """A GGUF file whose weights are all zero; only as many keys as the quantizer asks for."""
    numbers = {
        "block_count": layers,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 256,
        "attention.head_count": 4,
        "attention.head_count_kv": key_value_heads,
        "vocab_size": VOCABULARY,
    }
    metadata = [
        MetadataEntry("general.architecture", ValueType.STRING, architecture),
        *(MetadataEntry(f"{architecture}.{name}", ValueType.UINT32, value) for name, value in numbers.items()),
        MetadataEntry(f"{architecture}.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
    ]
    types = tensor_types(RECIPES["BF16"], shapes, blocks=layers)
    tensors, end = [], 0
    for name, shape in shapes.items():
        tensors.append(TensorHeader(name, shape, types[name], align(end, 32)))
        rows = shape[0] if len(shape) > 1 else 1
        end = tensors[-1].offset + rows * types[name].row_bytes(shape[-1])
    header = header_bytes(metadata, tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(align(len(header) + end, 32))


def llama_cpp_choice(
    folder: Path, shapes: Shapes, quantization: str, *, layers: int, architecture: str = "llama", kv_heads: int = 2
) -> dict[str, str]:
    source, target = folder / "bfloat16.gguf", folder / "quantized.gguf"
    write_bfloat16_file(source, shapes, architecture, layers, kv_heads)
    quantize_file(source, target, quantization, threads=1)
    return {name: tensor.type.name for name, tensor in read_gguf(target).tensors.items()}


def our_choice(shapes: Shapes, quantization: str, *, layers: int, is_70b: bool = False) -> dict[str, str]:
    types = tensor_types(RECIPES[quantization], shapes, blocks=layers, is_70b=is_70b)
    return {name: kind.name for name, kind in types.items()}


@pytest.mark.parametrize("quantization", QUANTIZED)
@pytest.mark.parametrize("tied", [True, False])
def test_types_are_llama_cpp_s_for_any_number_of_layers(quantization: str, tied: bool, tmp_path: Path) -> None:
    for layers in range(1, 34):
        shapes = decoder_shapes(layers, tied=tied)
        expected = llama_cpp_choice(tmp_path, shapes, quantization, layers=layers)
        assert our_choice(shapes, quantization, layers=layers) == expected, f"{layers} layers"


@pytest.mark.parametrize("quantization", QUANTIZED)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("columns", [32, 64, 96, 128, 224, 288, 512, 576, 8, 33, 48, 250, 257, 2047])
def test_types_are_llama_cpp_s_for_rows_that_do_not_fill_blocks(
    quantization: str, tied: bool, columns: int, tmp_path: Path
) -> None:
    for hidden, feed_forward in ((columns, 256), (256, columns)):
        shapes = decoder_shapes(8, hidden=hidden, feed_forward=feed_forward, tied=tied)
        expected = llama_cpp_choice(tmp_path, shapes, quantization, layers=8)
        assert our_choice(shapes, quantization, layers=8) == expected


@pytest.mark.parametrize(
    ("architecture", "kv_heads", "is_70b"),
    [("llama", 1, True), ("llama", 4, False), ("qwen2", 1, True), ("qwen2", 4, True), ("qwen3", 1, False)],
)
def test_types_are_llama_cpp_s_for_80_layers(architecture: str, kv_heads: int, is_70b: bool, tmp_path: Path) -> None:
    shapes = decoder_shapes(80)
    expected = llama_cpp_choice(tmp_path, shapes, "Q4_K_M", layers=80, architecture=architecture, kv_heads=kv_heads)
    found = our_choice(shapes, "Q4_K_M", layers=80, is_70b=is_70b)
    assert found == expected
    assert ("Q5_K" in found.values()) is is_70b


def test_q4_k_m_of_eight_layers_is_this() -> None:
    shapes = decoder_shapes(8)
    found = our_choice(shapes, "Q4_K_M", layers=8)
    assert [found[f"blk.{block}.attn_v.weight"] for block in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K",
    ]  # fmt: skip
    assert [found[f"blk.{block}.ffn_down.weight"] for block in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K",
    ]  # fmt: skip
    assert {found[f"blk.{block}.attn_q.weight"] for block in range(8)} == {"Q4_K"}
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q6_K", "Q4_K")
    assert (found["output_norm.weight"], found["blk.0.attn_v.bias"]) == ("F32", "F32")


def test_tied_embeddings_are_encoded_as_the_output_they_are() -> None:
    assert our_choice(decoder_shapes(1, tied=True), "Q4_K_M", layers=1)["token_embd.weight"] == "Q6_K"


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16"])
def test_plain_recipes_keep_vectors_in_float32(quantization: str) -> None:
    found = our_choice(decoder_shapes(2, hidden=33), quantization, layers=2)
    assert found["blk.1.ffn_up.weight"] == found["output.weight"] == quantization
    assert found["blk.1.attn_norm.weight"] == found["blk.1.attn_v.bias"] == "F32"


@pytest.mark.parametrize(
    ("columns", "chosen", "fallback"),
    [
        (256, "Q4_K", "Q4_K"),
        (288, "Q4_K", "Q5_0"),
        (288, "Q5_K", "Q5_1"),
        (288, "Q6_K", "Q8_0"),
        (40, "Q4_K", "F16"),
        (40, "Q8_0", "F16"),
    ],
)
def test_type_gives_way_to_one_whose_blocks_the_columns_fill(columns: int, chosen: str, fallback: str) -> None:
    shapes = {"blk.0.attn_q.weight": (2, columns)}
    types = tensor_types(Recipe("of a test", 0, chosen), shapes, blocks=1)
    assert types["blk.0.attn_q.weight"].name == fallback


def test_blocks_are_counted_by_number_and_not_by_text() -> None:
    """Block 10 stands after block 9, whatever order the tensors come in."""
    by_text = dict(sorted(decoder_shapes(11).items()))
    assert our_choice(by_text, "Q4_K_M", layers=11) == our_choice(decoder_shapes(11), "Q4_K_M", layers=11)


def test_every_type_of_a_recipe_is_known_and_its_number_is_llama_cpp_s() -> None:
    for recipe in RECIPES.values():
        assert {recipe.default, *(rule.type for rule in recipe.rules)} <= set(TENSOR_TYPES)
        assert recipe.file_type == FILE_TYPES[recipe.name]


def test_recipe_is_found_in_any_case() -> None:
    assert find_recipe("q4_k_m") is RECIPES["Q4_K_M"]


def test_unknown_quantization_lists_the_known_ones() -> None:
    with pytest.raises(EdgeError) as caught:
        find_recipe("Q4_K_X")
    assert caught.value.message == "The quantization 'Q4_K_X' is not known."
    assert caught.value.hint == "Known are: F32, F16, BF16, Q8_0, Q4_K_M."
