"""Checkpoint directories: what is read from a sound one, and the error each unsound or unfit one gives."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.checkpoint import read_checkpoint
from convert.safetensors_file import read_safetensors_header, write_safetensors
from edge.errors import EdgeError

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 4}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_shard(path: Path, *names: str, dtype: str = "F32") -> None:
    values = np.arange(4, dtype="f4").view("u1")[: 16 if dtype == "F32" else 4]
    shape = [len(values) // (4 if dtype == "F32" else 1)]
    write_safetensors(path, [(name, dtype, shape, lambda: values) for name in names])


def write_index(directory: Path, weight_map: Mapping[str, object]) -> None:
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": 32}, "weight_map": weight_map})


@pytest.fixture
def single(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny-model"
    directory.mkdir()
    write_json(directory / "config.json", CONFIG)
    write_shard(directory / "model.safetensors", "norm.weight")
    return directory


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    directory = tmp_path / "sharded"
    directory.mkdir()
    write_json(directory / "config.json", CONFIG)
    write_shard(directory / "first.safetensors", "a.weight", "b.weight")
    write_shard(directory / "second.safetensors", "c.weight")
    write_index(
        directory,
        {"a.weight": "first.safetensors", "b.weight": "first.safetensors", "c.weight": "second.safetensors"},
    )
    return directory


def refusal(directory: Path) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        read_checkpoint(directory)
    return caught.value


def test_single_file_checkpoint_is_read(single: Path) -> None:
    checkpoint = read_checkpoint(single)
    assert checkpoint.name == "tiny-model"
    assert checkpoint.repository is None
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.config == CONFIG
    assert checkpoint.generation_config == {}
    assert checkpoint.tokenizer_config == {}
    assert checkpoint.chat_template is None
    assert checkpoint.tokenizer_json is None
    assert checkpoint.tokenizer_model is None
    assert list(checkpoint.tensors) == ["norm.weight"]


def test_hashes_cover_headers_and_every_config_and_tokenizer_file(single: Path) -> None:
    write_json(single / "tokenizer.json", {"model": {}})
    write_json(single / "generation_config.json", {"eos_token_id": 2})
    (single / "README.md").write_text("not a source of the model")
    checkpoint = read_checkpoint(single)
    header = read_safetensors_header(single / "model.safetensors")
    assert checkpoint.header_sha256 == {"model.safetensors": header.header_sha256}
    assert checkpoint.file_sha256 == {
        name: hashlib.sha256((single / name).read_bytes()).hexdigest()
        for name in ("config.json", "generation_config.json", "tokenizer.json")
    }
    assert checkpoint.generation_config == {"eos_token_id": 2}
    assert checkpoint.tokenizer_json == single / "tokenizer.json"


def test_sharded_checkpoint_gives_every_tensor_from_its_shard(sharded: Path) -> None:
    checkpoint = read_checkpoint(sharded)
    assert {name: tensor.file.name for name, tensor in checkpoint.tensors.items()} == {
        "a.weight": "first.safetensors",
        "b.weight": "first.safetensors",
        "c.weight": "second.safetensors",
    }
    assert set(checkpoint.header_sha256) == {"first.safetensors", "second.safetensors"}
    assert "model.safetensors.index.json" in checkpoint.file_sha256


def test_whole_file_is_preferred_to_an_index_as_transformers_does(sharded: Path) -> None:
    write_shard(sharded / "model.safetensors", "whole.weight")
    assert list(read_checkpoint(sharded).tensors) == ["whole.weight"]


def test_snapshot_in_the_hub_cache_is_named_after_its_repository(single: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--google--gemma-2-9b-it" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    single.rename(snapshot)
    checkpoint = read_checkpoint(snapshot)
    assert (checkpoint.name, checkpoint.repository) == ("gemma-2-9b-it", "google/gemma-2-9b-it")


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "second.safetensors").unlink()
    assert "second.safetensors is missing" in refusal(sharded).message


def test_truncated_shard_is_named(sharded: Path) -> None:
    path = sharded / "second.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "it is truncated" in refusal(sharded).message
    assert str(path) in refusal(sharded).message


def test_tensor_that_the_index_promises_but_no_shard_holds_is_named(sharded: Path) -> None:
    write_index(sharded, {"a.weight": "first.safetensors", "d.weight": "second.safetensors"})
    assert "second.safetensors does not hold 'd.weight'" in refusal(sharded).message


def test_tensor_in_another_shard_than_the_index_says_is_named(sharded: Path) -> None:
    weight_map = {"a.weight": "second.safetensors", "b.weight": "first.safetensors", "c.weight": "second.safetensors"}
    write_index(sharded, weight_map)
    assert "second.safetensors does not hold 'a.weight'" in refusal(sharded).message


def test_tensor_that_the_index_does_not_name_is_named(sharded: Path) -> None:
    write_index(sharded, {"a.weight": "first.safetensors", "c.weight": "second.safetensors"})
    assert (
        "first.safetensors holds 'b.weight', which model.safetensors.index.json does not name"
        in refusal(sharded).message
    )


def test_tensor_in_two_shards_is_named_with_both(sharded: Path) -> None:
    write_shard(sharded / "second.safetensors", "c.weight", "b.weight")
    message = refusal(sharded).message
    assert "b.weight is in both" in message and "first.safetensors" in message and "second.safetensors" in message


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "..",
        ".",
        "",
        "x\0.safetensors",
        5,
        None,
        ["x.safetensors"],
    ],
)
def test_index_that_points_out_of_the_checkpoint_is_refused(shard: object, sharded: Path) -> None:
    write_shard(sharded.parent / "x.safetensors", "a.weight")
    write_index(sharded, {"a.weight": shard})
    assert "is not a file name inside the checkpoint" in refusal(sharded).message


def test_index_that_points_at_a_pickle_is_refused(sharded: Path) -> None:
    write_index(sharded, {"a.weight": "pytorch_model.bin"})
    assert "'pytorch_model.bin', which is not a safetensors file" in refusal(sharded).message


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_index_without_a_weight_map_is_refused(index: object, sharded: Path) -> None:
    write_json(sharded / "model.safetensors.index.json", index)
    assert "has no weight_map" in refusal(sharded).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickle_weights_are_refused_with_the_reason_and_a_way_out(name: str, single: Path) -> None:
    (single / "model.safetensors").rename(single / name)
    error = refusal(single)
    assert f"only as Python pickles ({name}), which can run any code" in error.message
    assert "https://huggingface.co/spaces/safetensors/convert" in error.hint


def test_pickle_beside_safetensors_is_ignored(single: Path) -> None:
    (single / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert list(read_checkpoint(single).tensors) == ["norm.weight"]


def test_shards_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    error = refusal(sharded)
    assert "has first.safetensors but neither model.safetensors nor model.safetensors.index.json" in error.message


def test_directory_without_weights_is_refused(single: Path) -> None:
    (single / "model.safetensors").unlink()
    assert refusal(single).message.endswith("holds no weights.")


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "hqq"}}, "hqq"),
        ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "bitsandbytes"),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, "mxfp4"),
        ({"compression_config": {"format": "pack"}}, "compression_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization": "int4"}, "'int4'"),
    ],
)
def test_quantized_checkpoint_is_refused_by_its_method(config: dict[str, Any], method: str, single: Path) -> None:
    write_json(single / "config.json", CONFIG | config)
    error = refusal(single)
    assert f"is already quantized ({method}): config.json has" in error.message
    assert "original checkpoint" in error.hint


def test_empty_quantization_config_is_none(single: Path) -> None:
    write_json(single / "config.json", CONFIG | {"quantization_config": None, "text_config": None})
    assert read_checkpoint(single).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("layers.0.q_proj.qweight", "F32", "GPTQ or AWQ"),
        ("layers.0.q_proj.qzeros", "F32", "GPTQ or AWQ"),
        ("layers.0.q_proj.weight_scale_inv", "F32", "FP8"),
        ("layers.0.q_proj.weight_packed", "F32", "compressed-tensors"),
        ("layers.0.q_proj.SCB", "F32", "bitsandbytes"),
        ("layers.0.q_proj.weight.absmax", "F32", "bitsandbytes"),
        ("layers.0.q_proj.W_q", "F32", "HQQ"),
        ("layers.0.q_proj.weight", "F8_E4M3", "F8_E4M3"),
    ],
)
def test_packed_tensors_give_a_quantized_checkpoint_away(name: str, dtype: str, method: str, single: Path) -> None:
    write_shard(single / "model.safetensors", name, dtype=dtype)
    assert f"is already quantized ({method}): it holds {name} as {dtype}" in refusal(single).message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds a JSON list, not an object"),
        (b"{}", "names no architecture: `architectures` is None"),
        (b'{"architectures": []}', "names no architecture: `architectures` is []"),
        (b'{"architectures": [7]}', "names no architecture: `architectures` is [7]"),
        (b'{"architectures": "LlamaForCausalLM"}', "names no architecture"),
    ],
)
def test_unsound_config_is_refused(content: bytes, message: str, single: Path) -> None:
    (single / "config.json").write_bytes(content)
    assert message in refusal(single).message
    assert str(single / "config.json") in refusal(single).message


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "chat_template.json"])
def test_unsound_optional_file_is_refused_by_name(name: str, single: Path) -> None:
    (single / name).write_text("not json")
    assert f"{single / name} is not JSON" in refusal(single).message


def test_missing_config_is_refused(single: Path) -> None:
    (single / "config.json").unlink()
    assert refusal(single).message.endswith("has no config.json.")


def test_adapter_is_refused_with_the_way_to_merge_it(single: Path) -> None:
    (single / "config.json").rename(single / "adapter_config.json")
    error = refusal(single)
    assert "is a PEFT adapter, not a whole model" in error.message
    assert "--merge-lora" in error.hint


def test_directory_of_gguf_files_points_at_the_file(single: Path) -> None:
    (single / "config.json").rename(single / "model.gguf")
    assert refusal(single).hint == "Give the .gguf file itself."


def test_path_that_is_no_directory_is_refused(single: Path) -> None:
    assert "config.json is not a directory" in refusal(single / "config.json").message
    assert "absent is not a directory" in refusal(single / "absent").message


def test_chat_template_sources_are_taken_in_order(single: Path) -> None:
    write_json(single / "tokenizer_config.json", {"chat_template": "from tokenizer_config"})
    assert read_checkpoint(single).chat_template == "from tokenizer_config"
    write_json(single / "chat_template.json", {"chat_template": "from json"})
    assert read_checkpoint(single).chat_template == "from json"
    (single / "chat_template.jinja").write_text("from jinja é", encoding="utf-8")
    assert read_checkpoint(single).chat_template == "from jinja é"


@pytest.mark.parametrize(
    ("value", "template"),
    [
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], "D"),
        ({"default": "D", "rag": "R"}, "D"),
        ([{"name": "tool_use", "template": "T"}], None),
        ([{"name": []}, {}], None),
        (None, None),
    ],
)
def test_the_default_is_chosen_of_named_chat_templates(value: object, template: str | None, single: Path) -> None:
    write_json(single / "tokenizer_config.json", {"chat_template": value})
    assert read_checkpoint(single).chat_template == template


@pytest.mark.parametrize("value", [7, ["text"], {"default": 7}, [{"name": "default", "template": []}]])
def test_chat_template_of_another_kind_is_refused(value: object, single: Path) -> None:
    write_json(single / "tokenizer_config.json", {"chat_template": value})
    assert "chat_template is neither text nor a list of named templates" in refusal(single).message


def test_chat_template_that_is_not_utf8_is_refused(single: Path) -> None:
    (single / "chat_template.jinja").write_bytes(b"\xff")
    assert "chat_template.jinja cannot be read" in refusal(single).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    config=st.dictionaries(st.sampled_from(["architectures", "text_config", "quantization_config"]), json_values),
    tokenizer_config=json_values | st.fixed_dictionaries({"chat_template": json_values}),
    index=json_values | st.fixed_dictionaries({"weight_map": json_values}),
)
def test_any_json_is_read_or_is_an_edge_error(
    config: Any, tokenizer_config: Any, index: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp() / "any-json"
    directory.mkdir(exist_ok=True)
    write_json(directory / "config.json", {"architectures": ["A"]} | config)
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    write_json(directory / "model.safetensors.index.json", index)
    for uses_index in (True, False):
        with contextlib.suppress(EdgeError):
            read_checkpoint(directory)
        if uses_index:
            write_shard(directory / "model.safetensors", "norm.weight")
    (directory / "model.safetensors").unlink()
