"""Which files of a repository are chosen."""

from __future__ import annotations

import pytest

from edge.errors import EdgeError
from edge.hub_choice import checkpoint_names, choose_gguf, gguf_by_quantization, licence_names, quantization_of


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("gemma-2-9b-it-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-1.7b-instruct-q8_0.gguf", "Q8_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-8B-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model_q5_k_m.gguf", "Q5_K_M"),
        ("BF16/model-BF16.gguf", "BF16"),
        ("F16/model.gguf", "F16"),
        ("Q6_K/model-Q6_K-00001-of-00002.gguf", "Q6_K"),
        ("Q4_0.gguf", "Q4_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Qwen3-0.6B.gguf", ""),
    ],
)
def test_quantization_is_read_from_the_name(name: str, quantization: str) -> None:
    assert gguf_by_quantization([name]) == {quantization: [name]}


def test_files_beside_a_model_are_not_models() -> None:
    names = ["mmproj-model-F16.gguf", "model.imatrix.gguf", "model-Q8_0.gguf", "README.md", "model-Q4_0.gguf.part"]
    assert gguf_by_quantization(names) == {"Q8_0": ["model-Q8_0.gguf"]}


@pytest.mark.parametrize(
    ("names", "quantization", "chosen"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], None, ["m-Q4_K_M.gguf"]),
        (["m-Q8_0.gguf", "m-F16.gguf"], None, ["m-Q8_0.gguf"]),
        (["m-Q2_K.gguf"], None, ["m-Q2_K.gguf"]),
        (["m.gguf"], None, ["m.gguf"]),
        (["m-Q2_K.gguf", "m-IQ1_S.gguf"], None, []),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "Q8_0", ["m-Q8_0.gguf"]),
        (["m-Q8_0.gguf"], "Q4_K_M", []),
        (["model.safetensors"], None, []),
        ([], "Q8_0", []),
    ],
)
def test_gguf_is_chosen_by_quantization_or_preference(
    names: list[str], quantization: str | None, chosen: list[str]
) -> None:
    assert choose_gguf("org/model", names, quantization) == chosen


def test_every_part_of_a_split_gguf_is_chosen_in_order() -> None:
    parts = [f"Q8_0/m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert choose_gguf("org/model", [*reversed(parts), "m-Q4_K_M.gguf"], "Q8_0") == parts


def test_split_gguf_that_lacks_a_part_is_refused_by_its_name() -> None:
    names = ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"]
    with pytest.raises(EdgeError) as caught:
        choose_gguf("org/model", names, None)
    assert caught.value.message == (
        "org/model has m-Q8_0-00001-of-00003.gguf, but not m-Q8_0-00002-of-00003.gguf: a part of the model is missing."
    )
    assert caught.value.hint == "Choose another quantization, as in org/name:Q4_K_M."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "several Q8_0 files: a-Q8_0.gguf, b-Q8_0.gguf"),
        (["a.gguf", "b.gguf"], "several GGUF"),
        (["m-Q8_0-00001-of-00001.gguf", "n-Q8_0.gguf"], "several Q8_0 files: m-Q8_0-00001-of-00001.gguf, n-Q8_0.gguf"),
    ],
)
def test_choice_between_files_of_one_quantization_is_left_to_the_person(names: list[str], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        choose_gguf("org/model", names, None)


def test_checkpoint_is_its_configuration_tokenizer_and_one_set_of_weights() -> None:
    small = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    other = [
        "README.md",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "onnx/model.onnx",
        "consolidated-1-of-2.safetensors",
    ]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert checkpoint_names([*small, *other, "model.safetensors"]) == [*small, "model.safetensors"]
    assert checkpoint_names([*small, *other, index, *shards]) == [*small, index, *shards]
    assert checkpoint_names([*small, index, *shards, "model.safetensors"]) == [*small, "model.safetensors"]
    assert checkpoint_names([*small, *other, *shards]) == []
    assert checkpoint_names(["tokenizer.json", "model.safetensors"]) == []


def test_texts_of_the_licence_are_known_by_their_names() -> None:
    names = ["LICENSE", "LICENSE.txt", "USE_POLICY.md", "NOTICE", "license-gemma.md", "LICENCE", "COPYING"]
    others = ["README.md", "licensed.json", "docs/LICENSE", "model.safetensors"]
    assert licence_names([*names, *others]) == names


def test_gguf_whose_name_tells_no_quantization_is_called_gguf() -> None:
    assert (quantization_of("model.gguf"), quantization_of("m-q4_k_m.gguf")) == ("GGUF", "Q4_K_M")
