"""The plan of a conversion: exact sizes, and a refusal for whatever would not be converted rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.pipeline import plan_checkpoint, write_checkpoint
from convert.plan import ConversionPlan
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from tests.convert.conftest import TinyFolder
from tests.convert.edited import Weights, edited_json, edited_weights, stored
from tests.tiny import TINY, converted_parameters

QUERY = "model.layers.0.self_attn.q_proj.weight"
QUANTIZATIONS = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_K_M", "Q2_K", "IQ4_XS"]
Edit = Callable[[dict[str, Weights]], None]


def refusal(source: Path) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        plan_checkpoint(source, ["F32"], source / "out")
    assert not (source / "out").exists()
    return caught.value


def plan_of(source: Path, *quantizations: str) -> ConversionPlan:
    return plan_checkpoint(source, quantizations or ["F32"], source / "out")


@pytest.mark.parametrize("name", TINY)
def test_planned_files_are_those_on_the_disk(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    plan = plan_checkpoint(tiny(name), QUANTIZATIONS, tmp_path)
    paths = write_checkpoint(tiny(name), QUANTIZATIONS, tmp_path)
    for planned, path in zip(plan.files, paths, strict=True):
        assert planned.path == path
        assert planned.file_bytes == path.stat().st_size, planned.recipe.name
        file = read_gguf(path)
        assert {tensor.name: tensor.offset for tensor in file.tensors.values()} == planned.parts[0].offsets
        assert {tensor.name: tensor.type for tensor in file.tensors.values()} == planned.types
        assert file.data_offset == len(planned.parts[0].header)


@pytest.mark.parametrize("name", TINY)
def test_plan_counts_the_checkpoint_s_parameters(name: str, tiny: TinyFolder) -> None:
    plan = plan_of(tiny(name))
    expected = converted_parameters(TINY[name])
    assert plan.parameter_count == expected
    assert plan.source_bytes == 2 * expected


def test_tensors_stand_in_the_order_in_which_they_are_used(tiny: TinyFolder) -> None:
    names = [tensor.name for tensor in plan_of(tiny("qwen3-untied")).tensors]
    block = [
        "attn_norm.weight",
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_output.weight",
        "attn_q_norm.weight",
        "attn_k_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
        "ffn_norm.weight",
    ]
    blocks = [f"blk.{number}.{name}" for number in range(3) for name in block]
    assert names == ["token_embd.weight", *blocks, "output_norm.weight", "output.weight"]


def test_frequency_factors_are_a_tensor_without_a_source(tiny: TinyFolder) -> None:
    last = plan_of(tiny("llama3")).tensors[-1]
    assert (last.name, last.shape, last.sources) == ("rope_freqs.weight", (32,), ())
    assert last.values is not None and last.values.dtype == np.float32


def test_limits_of_the_tokenizer_are_part_of_the_plan(tiny: TinyFolder, tmp_path: Path) -> None:
    assert plan_of(tiny("qwen3")).limitations == ()
    source = shutil.copytree(tiny("qwen3"), tmp_path / "stripping")
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][0]["lstrip"] = True
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    text = tokenizer["added_tokens"][0]["content"]
    assert plan_of(source).limitations == (
        f"llama.cpp keeps the white space beside {text!r}, which the tokenizer takes away",
    )


def test_missing_tensor_is_named(tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(edited_weights(tiny("llama2"), tmp_path / "edited", lambda weights: weights.pop(QUERY)))
    assert error.message == f"The checkpoint has no tensor '{QUERY}', which llama needs."
    assert error.hint == "It is incomplete or its config.json belongs to another model: download it again."


def test_missing_output_is_named_unless_it_is_tied(tiny: TinyFolder, tmp_path: Path) -> None:
    untied = edited_json(tiny("qwen3"), tmp_path / "untied", tie_word_embeddings=False)
    assert refusal(untied).message == "The checkpoint has no tensor 'lm_head.weight', which qwen3 needs."


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "smollm2"])
def test_copy_of_tied_embeddings_is_left_out_as_transformers_does(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    def add_copy(weights: dict[str, Weights]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]

    source = edited_weights(tiny(name), tmp_path / "edited", add_copy)
    names = [tensor.name for tensor in plan_of(source).tensors]
    assert names == [tensor.name for tensor in plan_of(tiny(name)).tensors]
    assert "output.weight" not in names


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "smollm2"])
def test_output_that_differs_from_tied_embeddings_is_not_lost_in_silence(
    name: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    def add_another(weights: dict[str, Weights]) -> None:
        embeddings = weights["model.embed_tokens.weight"]
        output = embeddings.values.copy()
        output[-1, -1] += 1
        weights["lm_head.weight"] = Weights(embeddings.dtype, output)

    error = refusal(edited_weights(tiny(name), tmp_path / "edited", add_another))
    assert error.message == (
        "The checkpoint ties its output to the embeddings, but 'lm_head.weight' has other values than"
        " 'model.embed_tokens.weight'."
    )
    assert '"tie_word_embeddings" to false' in error.hint


def test_extra_tensors_are_named(tiny: TinyFolder, tmp_path: Path) -> None:
    def add(*names: str) -> Edit:
        return lambda weights: weights.update({name: stored(np.zeros(4)) for name in names})

    error = refusal(edited_weights(tiny("llama2"), tmp_path / "one", add("model.vision.weight")))
    assert error.message == "The checkpoint has tensors that llama does not know: model.vision.weight."
    assert error.hint == (
        "Leaving them out would change the model: it is of another architecture, or has an adapter inside."
    )
    error = refusal(edited_weights(tiny("llama2"), tmp_path / "five", add("e", "d", "c", "b", "a")))
    assert error.message == "The checkpoint has tensors that llama does not know: a, b, c and 2 more."


def test_layers_beyond_the_config_s_are_extra_tensors(tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(edited_json(tiny("llama2"), tmp_path / "fewer", num_hidden_layers=1))
    assert error.message.startswith(
        "The checkpoint has tensors that llama does not know: model.layers.1.input_layernorm.weight, "
    )


def test_frequencies_that_old_checkpoints_carry_are_ignored(tiny: TinyFolder, tmp_path: Path) -> None:
    def add(weights: dict[str, Weights]) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = stored(np.zeros(32))

    source = edited_weights(tiny("llama2"), tmp_path / "old", add)
    assert len(plan_of(source).tensors) == len(plan_of(tiny("llama2")).tensors)


def test_biases_of_a_llama_are_converted_where_there_are_any(tiny: TinyFolder, tmp_path: Path) -> None:
    def add(weights: dict[str, Weights]) -> None:
        for block in (0, 1):
            weights[f"model.layers.{block}.self_attn.q_proj.bias"] = stored(np.arange(256))

    source = edited_weights(tiny("llama2"), tmp_path / "biased", add)
    (path,) = write_checkpoint(source, ["F32"], tmp_path)
    bias = read_gguf(path).tensors["blk.1.attn_q.bias"]
    values = np.fromfile(path, np.float32, 256, offset=bias.offset)
    # the rows of a head of 64 go in pairs, in a vector as in a matrix
    assert values[:6].tolist() == [0, 32, 1, 33, 2, 34]
    assert values[64:66].tolist() == [64, 96]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (QUERY, (128, 256), "[256, 256] (query x hidden)"),
        (QUERY, (256, 256, 1), "[256, 256] (query x hidden)"),
        (QUERY, (65536,), "[256, 256] (query x hidden)"),
        ("model.norm.weight", (1, 256), "[256] (hidden)"),
        ("model.embed_tokens.weight", (600, 256), "[666, 256] (vocabulary x hidden)"),
    ],
)
def test_tensor_of_the_wrong_shape_is_named(
    name: str, shape: tuple[int, ...], expected: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    def reshape(weights: dict[str, Weights]) -> None:
        weights[name] = stored(np.zeros(shape))

    error = refusal(edited_weights(tiny("llama2"), tmp_path / "edited", reshape))
    assert error.message == f"The tensor '{name}' has shape {list(shape)}; config.json makes it {expected}."
    assert error.hint == "config.json and weights belong to different models."


@pytest.mark.parametrize("dtype", ["I64", "F64"])
def test_tensor_of_another_kind_of_number_is_named(dtype: str, tiny: TinyFolder, tmp_path: Path) -> None:
    def retype(weights: dict[str, Weights]) -> None:
        weights[QUERY] = stored(np.zeros((256, 256)), dtype)

    error = refusal(edited_weights(tiny("llama2"), tmp_path / "edited", retype))
    assert error.message == f"The tensor '{QUERY}' is stored as {dtype}."
    assert error.hint == "Convertible are F32, F16, BF16: get the original, unquantized checkpoint."


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama2", {"architectures": ["BloomForCausalLM"]}, "The architecture 'BloomForCausalLM' is not supported."),
        ("llama2", {"hidden_act": "relu"}, "The activation 'relu' is not what llama.cpp computes for llama."),
        ("llama2", {"hidden_size": None}, "config.json does not say hidden_size."),
        ("llama2", {"rms_norm_eps": "small"}, "config.json gives rms_norm_eps as 'small'."),
        ("llama2", {"rope_scaling": {"type": "dynamic"}}, "RoPE scaling 'dynamic' is not supported."),
        (
            "gemma2",
            {"query_pre_attn_scalar": 224},
            "This gemma2 checkpoint cannot be reproduced: query_pre_attn_scalar is 224, llama.cpp assumes 128.",
        ),
    ],
)
def test_config_that_cannot_be_converted_is_refused_by_the_plan(
    name: str, changes: dict[str, Any], message: str, tiny: TinyFolder, tmp_path: Path
) -> None:
    assert refusal(edited_json(tiny(name), tmp_path / "edited", **changes)).message == message


def test_checkpoint_without_tokenizer_is_refused_by_the_plan(tiny: TinyFolder, tmp_path: Path) -> None:
    source = shutil.copytree(tiny("llama2"), tmp_path / "mute")
    (source / "tokenizer.json").unlink()
    assert refusal(source).message == f"{source} has neither tokenizer.json nor tokenizer.model."
