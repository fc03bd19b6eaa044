"""What a file says about itself: provenance, sampling defaults, size, shape."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.checkpoint import read_checkpoint
from convert.families import find_family
from convert.metadata import safe_name, size_label
from convert.pipeline import write_checkpoint
from convert.recipes import RECIPES
from convert.rope import frequency_factors
from edge.gguf_file import read_gguf
from edge.llama.library import backend
from edge.llama.model import Model
from tests.convert.conftest import TinyFolder
from tests.convert.edited import edited_json
from tests.tiny import TINY, converted_parameters


def metadata_of(source: Path, folder: Path, quantization: str = "Q8_0") -> Mapping[str, Any]:
    (path,) = write_checkpoint(source, [quantization], folder / "converted.gguf", force=True)
    return read_gguf(path).metadata


def sampling_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key.startswith("general.sampling.")}


def header_sha256(path: Path) -> str:
    """Of a safetensors file: the eight bytes of the header's length, and the header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return hashlib.sha256(content[: 8 + length]).hexdigest()


def test_hashes_are_those_of_the_source_s_files(tiny: TinyFolder, tmp_path: Path) -> None:
    source = tiny("llama3")
    metadata = metadata_of(source, tmp_path)
    hashes = dict(zip(metadata["general.source.files"], metadata["general.source.sha256"], strict=True))
    expected = {path.name: header_sha256(path) for path in source.glob("*.safetensors")}
    for path in source.iterdir():
        if path.name not in expected:
            expected[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes == expected
    assert {"config.json", "generation_config.json", "tokenizer.json", "model-00002-of-00003.safetensors"} <= set(
        hashes
    )


def test_tool_and_library_are_named_with_their_versions(tiny: TinyFolder, tmp_path: Path) -> None:
    metadata = metadata_of(tiny("qwen3"), tmp_path)
    assert metadata["general.converter"] == f"edge-llm {version('edge-llm')}"
    assert metadata["general.converter.library"] == f"llama-cpp-python {version('llama-cpp-python')}"


def test_plain_directory_is_its_own_source(tiny: TinyFolder, tmp_path: Path) -> None:
    metadata = metadata_of(tiny("qwen3"), tmp_path)
    assert metadata["general.name"] == metadata["general.source.name"] == "qwen3"
    assert "general.source.repo_url" not in metadata


@pytest.mark.parametrize(
    ("name", "expected"), [("Phi-3-mini", "Phi 3-mini"), ("my-phi3.5", "my-phi 3.5"), ("Phi-4", "Phi-4")]
)
def test_name_that_llama_cpp_would_look_up_tokens_for_is_taken_apart(name: str, expected: str) -> None:
    assert safe_name(name, ["<unk>", "<s>", "</s>"]) == expected
    assert safe_name(name, ["<unk>", "<s>", "</s>", "<|endoftext|>"]) == name


def test_snapshot_of_the_hub_names_its_repository(tiny: TinyFolder, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "c1899de"
    shutil.copytree(tiny("qwen3"), snapshot)
    metadata = metadata_of(snapshot, tmp_path)
    assert metadata["general.name"] == "Qwen3-0.6B"
    assert metadata["general.source.name"] == "Qwen/Qwen3-0.6B"
    assert metadata["general.source.repo_url"] == "https://huggingface.co/Qwen/Qwen3-0.6B"


def test_sampling_defaults_come_from_the_generation_config(tiny: TinyFolder, tmp_path: Path) -> None:
    source = edited_json(
        tiny("qwen3"),
        tmp_path / "sampled",
        "generation_config.json",
        temperature=0.6,
        top_k=20,
        top_p=0.95,
        min_p=0,
        repetition_penalty=1.05,
    )
    expected = {
        "general.sampling.temp": float(np.float32(0.6)),
        "general.sampling.top_k": 20,
        "general.sampling.top_p": float(np.float32(0.95)),
        "general.sampling.min_p": 0.0,
        "general.sampling.penalty_repeat": float(np.float32(1.05)),
    }
    assert sampling_of(metadata_of(source, tmp_path)) == expected


def test_checkpoint_that_does_not_sample_is_run_without_chance(tiny: TinyFolder, tmp_path: Path) -> None:
    source = edited_json(
        tiny("qwen3"), tmp_path / "greedy", "generation_config.json", do_sample=False, temperature=0.6, top_k=20
    )
    assert sampling_of(metadata_of(source, tmp_path)) == {"general.sampling.temp": 0.0}


def test_file_says_nothing_about_sampling_that_the_checkpoint_does_not_say(tiny: TinyFolder, tmp_path: Path) -> None:
    assert sampling_of(metadata_of(tiny("gemma2"), tmp_path)) == {}


@pytest.mark.parametrize("value", ["0.7", None, True, float("nan"), float("inf"), 10**30, -(2**40)])
def test_sampling_default_that_is_no_number_is_left_out(value: Any, tiny: TinyFolder, tmp_path: Path) -> None:
    source = shutil.copytree(tiny("qwen3"), tmp_path / "odd")
    (source / "generation_config.json").write_text(json.dumps({"top_k": value, "temperature": value}))
    assert sampling_of(metadata_of(source, tmp_path)) == {}


@pytest.mark.parametrize("quantization", [name for name, recipe in RECIPES.items() if not recipe.needs_matrix])
def test_file_type_is_the_quantization_s_number(quantization: str, tiny: TinyFolder, tmp_path: Path) -> None:
    metadata = metadata_of(tiny("qwen3"), tmp_path, quantization)
    assert metadata["general.file_type"] == RECIPES[quantization].file_type
    assert metadata["general.quantization_version"] == 2


@pytest.mark.parametrize(
    ("count", "label"),
    [
        (1_000, "1K"),
        (663_552, "664K"),
        (134_515_008, "135M"),
        (1_235_814_400, "1.2B"),
        (9_241_705_984, "9.2B"),
        (27_227_128_320, "27B"),
        (1_000_000_000_000, "1.0T"),
    ],
)
def test_size_is_labelled_as_people_say_it(count: int, label: str) -> None:
    assert size_label(count) == label


@pytest.mark.parametrize("name", TINY)
def test_llama_cpp_takes_the_shape_from_the_keys(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    (path,) = write_checkpoint(tiny(name), ["Q8_0"], tmp_path)
    config, llama = TINY[name].text_config, backend()
    has_window = any(rule.key == "attention.sliding_window" for rule in find_family(config["architectures"][0]).keys)
    with Model(path) as model:
        assert llama.llama_model_n_layer(model.pointer) == config["num_hidden_layers"]
        assert llama.llama_model_n_embd(model.pointer) == config["hidden_size"]
        assert llama.llama_model_n_head(model.pointer) == config["num_attention_heads"]
        key_value_heads = 0 if name == "lfm2" else config["num_key_value_heads"]  # its first layer is a convolution
        assert llama.llama_model_n_head_kv(model.pointer) == key_value_heads
        assert model.trained_context_tokens == config["max_position_embeddings"]
        assert model.sliding_window == (config["sliding_window"] or 0 if has_window else 0)
        assert model.vocab.size == TINY[name].vocabulary
        family = find_family(config["architectures"][0])
        shape = family.read_shape(config)
        computed = sum(factors.size for factors in {**frequency_factors(shape.rope), **family.computed(shape)}.values())
        assert model.parameter_count == converted_parameters(TINY[name]) + computed


def test_parameters_of_the_size_label_are_those_of_the_checkpoint(tiny: TinyFolder, tmp_path: Path) -> None:
    count = sum(tensor.n_bytes // 2 for tensor in read_checkpoint(tiny("llama3")).tensors.values())
    assert metadata_of(tiny("llama3"), tmp_path)["general.size_label"] == size_label(count) == "5.0M"
