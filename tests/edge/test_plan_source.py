"""Where a plan's models come from: files, checkpoint directories, well-known names, and headers on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.checkpoint import read_checkpoint
from convert.pipeline import plan_checkpoint
from edge.device_profiles import find_device
from edge.errors import EdgeError
from edge.hub_headers import CheckpointHeaders, HubHeaders, TensorHeader, read_config_text
from edge.plan_source import best_quantization, find_model, smaller_model_hint
from tests.tiny import write_tiny_checkpoint


class FakeHeaders:
    """The headers of one checkpoint, under any name; keeps the names that were asked for."""

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        tensors = {name: TensorHeader(each.dtype, each.shape) for name, each in checkpoint.tensors.items()}
        self.headers = CheckpointHeaders(checkpoint.config, tensors)
        self.asked: list[str] = []

    def read(self, repository: str) -> CheckpointHeaders:
        self.asked.append(repository)
        return self.headers


class NoHub:
    def read(self, repository: str) -> CheckpointHeaders:
        raise AssertionError(f"{repository} was asked of the hub")


def test_file_is_what_it_is(demo_gguf: Path) -> None:
    found = find_model(str(demo_gguf), NoHub())
    assert found.place == "file" and found.reference == str(demo_gguf)
    assert [each.quantization for each in found.candidates] == ["Q4_1"]
    assert found.origin == f"the header of {demo_gguf.name}"


def test_directory_can_have_every_quantization_with_the_bytes_of_its_conversion(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint("llama3", tmp_path)
    found = find_model(str(folder), NoHub())
    assert found.place == "directory"
    names = [each.quantization for each in found.candidates]
    assert {"BF16", "Q8_0", "Q4_K_M", "IQ3_M"} <= set(names)
    assert next(each for each in found.candidates if each.quantization == "IQ3_M").needs_matrix
    planned = plan_checkpoint(folder, ["Q4_K_M"], tmp_path / "out").files[0]
    chosen = next(each for each in found.candidates if each.quantization == "Q4_K_M")
    assert {each.name: each.type for each in chosen.model.tensors} == {
        name: kind.name for name, kind in planned.types.items()
    }
    assert abs(chosen.model.weights_bytes - planned.weights_bytes) < 32 * len(planned.types)


def test_well_known_name_needs_no_network() -> None:
    found = find_model("google/gemma-2-9b-it", NoHub())
    assert found.place == "name" and found.origin == "the published configuration of google/gemma-2-9b-it"
    assert not any(each.needs_matrix for each in found.candidates), "edge pull makes none that need a calibration"


def test_quantization_behind_a_name_is_the_only_one_planned() -> None:
    found = find_model("google/gemma-2-9b-it:q6_k", NoHub())
    assert found.reference == "google/gemma-2-9b-it"
    assert [each.quantization for each in found.candidates] == ["Q6_K"]


def test_demo_is_known() -> None:
    found = find_model("demo", NoHub())
    assert found.reference == "demo" and found.candidates[0].model.shape.vocabulary == 49152


def test_other_names_are_read_from_headers_on_the_hub(tmp_path: Path) -> None:
    hub = FakeHeaders(write_tiny_checkpoint("qwen3", tmp_path))
    found = find_model("someone/their-model:Q8_0", hub)
    assert hub.asked == ["someone/their-model"]
    assert found.origin == "config.json and headers of someone/their-model"
    assert [each.quantization for each in found.candidates] == ["Q8_0"]
    local = find_model(str(tmp_path / "qwen3"))
    alike = next(each for each in local.candidates if each.quantization == "Q8_0")
    assert found.candidates[0].model == alike.model


@pytest.mark.parametrize("reference", ["nothing.gguf", "no name at all", ""])
def test_reference_that_means_nothing_is_refused(reference: str) -> None:
    with pytest.raises(EdgeError) as caught:
        find_model(reference, NoHub())
    assert caught.value.message.startswith(f"There is no model {reference!r}: no such file or directory")
    assert caught.value.hint.startswith("Give a .gguf file, a checkpoint directory")


def test_unknown_quantization_is_refused() -> None:
    with pytest.raises(EdgeError, match="The quantization 'Q9' is not known"):
        find_model("google/gemma-2-9b-it:Q9", NoHub())


def test_hint_names_the_largest_model_that_fits() -> None:
    assert smaller_model_hint(1_500_000_000).startswith("The largest known model that fits is ")
    assert smaller_model_hint(1_000_000) == "No model that edge knows fits into so little memory."


class FakeTensor:
    dtype = "BF16"
    shape = (3, 4)


class FakeFile:
    tensors = {"model.norm.weight": FakeTensor()}  # noqa: RUF012


class FakeRepository:
    files_metadata = {"model.safetensors": FakeFile()}  # noqa: RUF012


def test_hub_is_asked_for_a_configuration_and_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"]}', "utf-8")
    asked: list[Any] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(config)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.get_safetensors_metadata", lambda self, repository: FakeRepository())
    read = HubHeaders().read("org/name")
    assert asked == [("org/name", "config.json")]
    assert read.config == {"architectures": ["LlamaForCausalLM"]}
    assert read.tensors == {"model.norm.weight": TensorHeader("BF16", (3, 4))}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("NotASafetensorsRepoError", "org/name has no safetensors checkpoint whose headers could be read."),
        ("SafetensorsParsingError", "The safetensors headers of org/name are damaged: broken"),
    ],
)
def test_repository_without_readable_headers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    from huggingface_hub import errors

    config = tmp_path / "config.json"
    config.write_text("{}", "utf-8")

    def refuse(self: object, repository: str) -> None:
        raise getattr(errors, kind)("broken")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name: str(config))
    monkeypatch.setattr("huggingface_hub.HfApi.get_safetensors_metadata", refuse)
    with pytest.raises(EdgeError) as caught:
        HubHeaders().read("org/name")
    assert caught.value.message == message


@pytest.mark.parametrize(("text", "what"), [("{", "is not JSON"), ("[]", "is no object")])
def test_configuration_that_is_none_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(EdgeError, match=rf"config\.json of org/name {what}"):
        read_config_text("org/name", path)
    path.write_text(json.dumps({"a": 1}), "utf-8")
    assert read_config_text("org/name", path) == {"a": 1}


def test_best_quantization_of_a_name_follows_the_device(demo_gguf: Path) -> None:
    card, pi = find_device("rtx-3060-12gb"), find_device("raspberry-pi-5-8gb")
    assert best_quantization("google/gemma-2-9b-it", card) == "Q8_0"
    assert best_quantization("google/gemma-2-9b-it", pi) == "Q4_K_M"
    assert best_quantization(str(demo_gguf), card) is None
