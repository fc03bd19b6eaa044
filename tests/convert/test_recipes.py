"""The table of recipes, and the types it gives, against the choice of llama.cpp's own quantizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.recipes import RECIPES, Recipe, find_recipe
from convert.tensor_types import CHOOSABLE_TYPES, TypeChoices, read_choices, read_traits, tensor_types
from edge.errors import EdgeError
from edge.gguf_format import TENSOR_TYPES
from edge.llama.quantize import FileQuantization
from tests.convert.quantizer_oracle import (
    MadeUpModel,
    Shapes,
    decoder_shapes,
    llama_cpp_types,
    model_keys,
    write_model,
)

QUANTIZED = [name for name, recipe in RECIPES.items() if recipe.is_quantized]
ANY_MATRIX = {"blk.0.attn_q.weight": np.ones(256, np.float32)}


def our_types(
    shapes: Shapes,
    quantization: str,
    model: MadeUpModel,
    *,
    has_matrix: bool = False,
    choices: TypeChoices | None = None,
) -> dict[str, str]:
    keys = {entry.key: entry.value for entry in model_keys(model)}
    types = tensor_types(
        RECIPES[quantization],
        shapes,
        read_traits(keys),
        choices=choices or TypeChoices(),
        has_matrix=has_matrix,
    )
    return {name: kind.name for name, kind in types.items()}


def check_all_recipes(folder: Path, shapes: Shapes, model: MadeUpModel) -> None:
    source = write_model(folder / "model.gguf", shapes, model)
    for quantization in QUANTIZED:
        for has_matrix in (False, True):
            wanted = FileQuantization(quantization, importance=ANY_MATRIX if has_matrix else {}, is_trial=True)
            expected = llama_cpp_types(source, wanted)
            found = our_types(shapes, quantization, model, has_matrix=has_matrix)
            assert found == expected, f"{quantization} {model}, matrix: {has_matrix}"


@pytest.mark.parametrize("layers", [*range(1, 34), 80])
def test_types_are_llama_cpp_s_for_any_number_of_layers(layers: int, tmp_path: Path) -> None:
    check_all_recipes(tmp_path, decoder_shapes(layers, tied=layers % 2 == 0), MadeUpModel(layers))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("experts", [0, 2, 4, 8, 16])
@pytest.mark.parametrize("key_heads", [8, 2, 1])
def test_types_are_llama_cpp_s_for_grouped_queries_and_experts(
    key_heads: int, experts: int, tied: bool, tmp_path: Path
) -> None:
    for layers in (2, 17):
        shapes = decoder_shapes(layers, tied=tied, experts=experts)
        check_all_recipes(tmp_path, shapes, MadeUpModel(layers, key_heads=key_heads, experts=experts))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("columns", [32, 64, 96, 224, 288, 576, 8, 33, 250, 2047])
def test_types_are_llama_cpp_s_for_rows_that_do_not_fill_blocks(columns: int, tied: bool, tmp_path: Path) -> None:
    for hidden, feed_forward in ((columns, 256), (256, columns)):
        shapes = decoder_shapes(8, hidden=hidden, feed_forward=feed_forward, tied=tied)
        check_all_recipes(tmp_path, shapes, MadeUpModel(8, key_heads=2))


@pytest.mark.parametrize(
    ("architecture", "key_heads", "is_70b"),
    [("llama", 1, True), ("llama", 8, False), ("qwen2", 1, True), ("qwen2", 8, True), ("qwen3", 1, False)],
)
def test_types_are_llama_cpp_s_for_80_layers(architecture: str, key_heads: int, is_70b: bool, tmp_path: Path) -> None:
    model = MadeUpModel(80, architecture, key_heads)
    shapes = decoder_shapes(80)
    check_all_recipes(tmp_path, shapes, model)
    assert ("Q5_K" in our_types(shapes, "Q4_K_M", model).values()) is is_70b


def test_fused_projection_counts_as_value(tmp_path: Path) -> None:
    shapes: Shapes = {}
    for name, shape in decoder_shapes(9).items():
        if "attn_q." in name:
            shapes[name.replace("attn_q.", "attn_qkv.")] = shape
        elif "attn_k." not in name and "attn_v." not in name:
            shapes[name] = shape
    check_all_recipes(tmp_path, shapes, MadeUpModel(9, "phi3"))
    assert our_types(shapes, "Q3_K_L", MadeUpModel(9, "phi3"))["blk.4.attn_qkv.weight"] == "Q5_K"


def test_tensors_that_llama_cpp_leaves_alone_are_left_alone(tmp_path: Path) -> None:
    shapes = {**decoder_shapes(1), "blk.0.shortconv.conv.weight": (2, 256), "blk.0.ffn_gate_inp_shexp.weight": (1, 256)}
    found = our_types(shapes, "Q4_K_M", MadeUpModel(1, "lfm2"))
    assert found["blk.0.shortconv.conv.weight"] == found["blk.0.ffn_gate_inp_shexp.weight"] == "F32"


def test_q4_k_m_of_eight_layers_is_this() -> None:
    found = our_types(decoder_shapes(8), "Q4_K_M", MadeUpModel(8))
    assert [found[f"blk.{block}.attn_v.weight"] for block in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K",
    ]  # fmt: skip
    assert [found[f"blk.{block}.ffn_down.weight"] for block in range(8)] == [
        "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K",
    ]  # fmt: skip
    assert {found[f"blk.{block}.attn_q.weight"] for block in range(8)} == {"Q4_K"}
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q6_K", "Q4_K")
    assert (found["output_norm.weight"], found["blk.0.attn_v.bias"]) == ("F32", "F32")


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16"])
def test_plain_recipes_keep_vectors_in_float32(quantization: str) -> None:
    found = our_types(decoder_shapes(2, hidden=33), quantization, MadeUpModel(2))
    assert found["blk.1.ffn_up.weight"] == found["output.weight"] == quantization
    assert found["blk.1.attn_norm.weight"] == found["blk.1.attn_v.bias"] == "F32"


def test_vectors_keep_the_type_they_have() -> None:
    traits = read_traits({entry.key: entry.value for entry in model_keys(MadeUpModel(1))})
    kept = {"output_norm.weight": TENSOR_TYPES["F16"], "output.weight": TENSOR_TYPES["F16"]}
    types = tensor_types(RECIPES["Q8_0"], decoder_shapes(1), traits, kept=kept)
    assert (types["output_norm.weight"].name, types["output.weight"].name) == ("F16", "Q8_0")


def test_blocks_are_counted_by_number_and_not_by_text() -> None:
    """Block 10 stands after block 9, whatever order the tensors come in."""
    by_text, model = dict(sorted(decoder_shapes(11).items())), MadeUpModel(11)
    assert our_types(by_text, "Q4_K_M", model) == our_types(decoder_shapes(11), "Q4_K_M", model)


def test_heads_that_differ_from_block_to_block_are_those_of_the_first() -> None:
    keys = {"general.architecture": "lfm2", "lfm2.block_count": 2, "lfm2.attention.head_count": 32}
    assert read_traits({**keys, "lfm2.attention.head_count_kv": [8, 0]}).query_groups == 4
    assert read_traits({**keys, "lfm2.attention.head_count_kv": [0, 8]}).query_groups == 0


# What a person chose


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q4_K_S", "Q3_K_M", "Q8_0"])
@pytest.mark.parametrize(
    ("overrides", "output", "embedding"),
    [
        ([("ffn_down", "Q6_K")], None, None),
        ([(r"blk\.(0|3|4)\.attn_v", "F16"), ("attn_", "Q5_K"), ("attn_q", "Q8_0")], None, None),
        ([], "F16", None),
        ([], None, "Q8_0"),
        ([], "Q5_K", "F32"),
        ([("output|embd", "Q5_0")], None, None),
        ([("output|embd", "Q5_0")], "Q8_0", None),
        ([("output|embd", "Q5_0")], "BF16", "Q4_0"),
    ],
)
def test_choices_have_the_effect_they_have_in_llama_cpp(
    overrides: list[tuple[str, str]],
    output: str | None,
    embedding: str | None,
    quantization: str,
    tied: bool,
    tmp_path: Path,
) -> None:
    shapes, model = decoder_shapes(9, tied=tied), MadeUpModel(9)
    source = write_model(tmp_path / "model.gguf", shapes, model)
    wanted = FileQuantization(
        quantization, overrides=overrides, output_type=output, embedding_type=embedding, is_trial=True
    )
    choices = read_choices([f"{pattern}={kind}" for pattern, kind in overrides], output=output, embedding=embedding)
    assert our_types(shapes, quantization, model, choices=choices) == llama_cpp_types(source, wanted)


def test_types_of_output_and_embedding_hold_for_plain_recipes_too() -> None:
    choices = read_choices(output="Q8_0", embedding="F32")
    found = our_types(decoder_shapes(1), "F16", MadeUpModel(1), choices=choices)
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q8_0", "F32")
    assert found["blk.0.attn_q.weight"] == "F16"


def test_override_with_an_equals_sign_in_its_expression_is_split_at_the_last() -> None:
    (override,) = read_choices([r"(?=blk)=q6_k"]).overrides
    assert (override.pattern, override.type) == ("(?=blk)", "Q6_K")


def test_override_that_fits_nothing_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        our_types(decoder_shapes(1), "Q4_K_M", MadeUpModel(1), choices=read_choices(["_norm=Q8_0"]))
    assert caught.value.message == ("--tensor-type _norm=Q8_0: no tensor that is quantized has a name like '_norm'.")
    assert caught.value.hint == "List the names with: edge inspect --all FILE.gguf"


def test_override_of_a_plain_recipe_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        our_types(decoder_shapes(1), "F16", MadeUpModel(1), choices=read_choices(["attn_q=Q8_0"]))
    assert caught.value.message == "--tensor-type changes nothing in F16, which is not quantized."


@pytest.mark.parametrize("choice", [{"overrides": ["attn_q=Q6_K"]}, {"output": "Q6_K"}, {"embedding": "Q6_K"}])
def test_chosen_type_that_does_not_fit_the_columns_is_refused(choice: dict[str, object]) -> None:
    with pytest.raises(EdgeError) as caught:
        our_types(decoder_shapes(1, hidden=288), "Q4_K_M", MadeUpModel(1), choices=read_choices(**choice))  # type: ignore[arg-type]
    assert "cannot be Q6_K: its 288 columns do not fill blocks of 256." in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ffn_down", "--tensor-type 'ffn_down' is not of the form REGEX=TYPE."),
        ("=Q6_K", "--tensor-type '=Q6_K' is not of the form REGEX=TYPE."),
        ("ffn_down=Q7_K", "--tensor-type: the type 'Q7_K' is not known."),
        ("ffn_(=Q6_K", "--tensor-type 'ffn_(=Q6_K': 'ffn_(' is no regular expression: missing ), "),
    ],
)
def test_override_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(EdgeError) as caught:
        read_choices([text])
    assert caught.value.message.startswith(message)


def test_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(EdgeError) as caught:
        read_choices(output="Q4_K_M")
    assert caught.value.message == "--output-type: the type 'Q4_K_M' is not known."
    assert caught.value.hint == f"Known are: {', '.join(CHOOSABLE_TYPES)}."


# The table


def test_every_type_of_a_recipe_can_be_chosen_and_every_condition_is_a_rule_s_own() -> None:
    for recipe in RECIPES.values():
        assert {recipe.default, *(rule.type for rule in recipe.rules)} <= set(CHOOSABLE_TYPES)
        assert len(set(recipe.rules)) == len(recipe.rules), recipe.name


def test_recipe_is_found_in_any_case() -> None:
    assert find_recipe("q4_k_m") is RECIPES["Q4_K_M"]


def test_recipe_without_rules_is_of_one_type() -> None:
    traits = read_traits({entry.key: entry.value for entry in model_keys(MadeUpModel(1))})
    types = tensor_types(Recipe("of a test", "Q5_K"), {"blk.0.attn_q.weight": (2, 288)}, traits)
    assert types["blk.0.attn_q.weight"].name == "Q5_1"


def test_unknown_quantization_lists_the_known_ones() -> None:
    with pytest.raises(EdgeError) as caught:
        find_recipe("Q4_K_X")
    assert caught.value.message == "The quantization 'Q4_K_X' is not known."
    assert caught.value.hint == f"Known are: {', '.join(RECIPES)}."
