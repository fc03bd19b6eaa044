"""Model references: what each form means, with a fake hub and a fake converter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import platformdirs
import pytest

import edge.conversion_cache
import edge.conversion_record
import edge.models
import edge.pull
from convert.pool import Progress
from edge.errors import EdgeError
from edge.models import cache_directory, resolve
from tests.edge.fake_hub import CHECKPOINT, CONFIG, FakeConverter, FakeHub


@pytest.fixture
def converter() -> FakeConverter:
    return FakeConverter()


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    for name, text in CHECKPOINT.items():
        (directory / name).write_text(text)
    return directory


def refusal(reference: str, **options: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        resolve(reference, **options)
    return caught.value


# Paths


def test_gguf_path_is_itself(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert resolve("~/model.gguf") == tmp_path / "model.gguf"


def test_quantization_of_a_file_cannot_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    error = refusal(str(tmp_path / "model.gguf"), quantization="Q8_0")
    assert "is a file whose quantization is settled; it cannot become Q8_0" in error.message


@pytest.mark.parametrize(
    "reference",
    [
        "absent.gguf",
        "org/absent.gguf",
        "./absent",
        "/no/such/dir",
        "llama3",
        "",
        "a/b/c",
        "~nobody-here/x",
        "a\0",
        "x" * 5000,
    ],
)
def test_reference_that_is_nothing_is_refused_with_the_forms_there_are(reference: str, hub: FakeHub) -> None:
    error = refusal(reference, hub=hub)
    assert error.message.startswith(f"There is no model {reference!r}")
    assert error.hint == "Give a .gguf file, a checkpoint directory, org/name[:QUANT] on the Hugging Face hub, or demo."
    assert hub.listings == 0


# Checkpoint directories


def test_directory_is_converted_to_q4_k_m_into_the_cache(
    checkpoint: Path, converter: FakeConverter, cache: Path
) -> None:
    path = resolve(str(checkpoint), converter=converter)
    assert path.is_relative_to(cache)
    assert path.name == "tiny-Q4_K_M.gguf"
    assert resolve(str(checkpoint), converter=converter) == path
    assert converter.calls == [(checkpoint, "Q4_K_M")]


def test_directory_is_the_same_by_any_path(
    checkpoint: Path, converter: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resolve(str(checkpoint), converter=converter)
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "link").symlink_to(checkpoint)
    assert resolve("tiny", converter=converter) == resolve("./link/", converter=converter) == path


def test_quantization_is_taken_in_any_case(checkpoint: Path, converter: FakeConverter) -> None:
    assert resolve(str(checkpoint), quantization="q8_0", converter=converter).read_text() == "Q8_0"


def test_directory_wins_over_a_name_on_the_hub(
    checkpoint: Path, converter: FakeConverter, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent.parent)
    reference = f"{checkpoint.parent.name}/{checkpoint.name}"
    resolve(reference, converter=converter, hub=hub)
    assert converter.calls == [(checkpoint, "Q4_K_M")]
    assert hub.listings == 0


def test_progress_reaches_the_converter(checkpoint: Path, converter: FakeConverter) -> None:
    seen: list[Any] = []
    resolve(str(checkpoint), converter=converter, progress=seen.append)
    assert seen == [Progress(7, 7)]


# The demo


@pytest.fixture
def demo(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands for the demo's builder; gives the directories that it was asked for."""
    asked: list[Path] = []

    def build(directory: Path) -> Path:
        asked.append(directory)
        return checkpoint

    monkeypatch.setattr(edge.models, "build_demo_checkpoint", build)
    return asked


def test_demo_is_built_in_the_cache_and_converted_to_q8_0(
    demo: list[Path], checkpoint: Path, converter: FakeConverter, cache: Path
) -> None:
    path = resolve("demo", converter=converter)
    assert demo == [cache / "demo" / "SmolLM2-135M-Instruct"]
    assert converter.calls == [(checkpoint, "F16")]
    assert path.name == "SmolLM2-135M-Instruct-F16.gguf"


def test_demo_takes_a_quantization_in_either_place(demo: list[Path], converter: FakeConverter) -> None:
    assert resolve("demo:q4_k_m", converter=converter).read_text() == "Q4_K_M"
    assert resolve("demo", quantization="F16", converter=converter).read_text() == "F16"
    assert resolve("demo:F16", quantization="f16", converter=converter).read_text() == "F16"
    error = refusal("demo:F16", quantization="Q8_0", converter=converter)
    assert error.message == "Two quantizations are asked for: F16 and Q8_0."


# Names on the hub


def test_gguf_of_the_quantization_is_downloaded_and_nothing_else(hub: FakeHub, converter: FakeConverter) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4", "model-Q8_0.gguf": "8", **CHECKPOINT}
    assert resolve("org/model:q8_0", hub=hub, converter=converter).read_text() == "8"
    assert hub.downloaded == ["model-Q8_0.gguf"]
    assert converter.calls == []


def test_gguf_of_the_preferred_quantization_is_taken_when_none_is_asked_for(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"model-Q8_0.gguf": "8", "model-Q4_K_M.gguf": "4"}
    assert resolve("org/model", hub=hub).read_text() == "4"


def test_resolved_name_is_found_again_without_the_hub(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4"}
    path = resolve("org/model", hub=hub)
    hub.repositories.clear()
    assert resolve("org/model", hub=hub) == path
    assert hub.listings == 1


def test_resolved_name_is_looked_up_again_when_its_file_is_gone(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4"}
    resolve("org/model", hub=hub).unlink()
    assert resolve("org/model", hub=hub).read_text() == "4"
    assert hub.listings == 2


@pytest.mark.parametrize("record", ["", "[]", '{"format": 1}', '{"same_as": 5}', '{"same_as": "x"}', "\ud800"])
def test_unreadable_record_is_made_anew(record: str, hub: FakeHub, cache: Path) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4"}
    resolve("org/model", hub=hub)
    for path in (cache / "records").iterdir():
        path.write_bytes(record.encode("utf-8", "surrogatepass"))
    assert resolve("org/model", hub=hub).read_text() == "4"
    assert hub.listings == 2


def test_safetensors_are_downloaded_without_pickles_and_converted(hub: FakeHub, converter: FakeConverter) -> None:
    hub.repositories["org/model"] = {
        **CHECKPOINT,
        "pytorch_model.bin": "pickle",
        "consolidated.safetensors": "again",
        "README.md": "about",
    }
    path = resolve("org/model", hub=hub, converter=converter)
    assert path.name == "model-Q4_K_M.gguf"
    assert path.read_text() == "Q4_K_M"
    assert hub.downloaded == ["config.json", "tokenizer.json", "model.safetensors"]


def test_quantization_without_a_gguf_is_converted_from_the_checkpoint(hub: FakeHub, converter: FakeConverter) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4", **CHECKPOINT}
    assert resolve("org/model", quantization="Q8_0", hub=hub, converter=converter).read_text() == "Q8_0"


def test_conversion_for_the_hub_is_made_anew_by_a_new_converter(
    hub: FakeHub, converter: FakeConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/model"] = CHECKPOINT
    resolve("org/model", hub=hub, converter=converter)
    for module in (edge.conversion_cache, edge.conversion_record, edge.pull):
        monkeypatch.setattr(module, "CONVERTER_VERSION", edge.pull.CONVERTER_VERSION + 1)
    resolve("org/model", hub=hub, converter=converter)
    assert hub.listings == 2


@pytest.mark.parametrize(
    ("config", "quantization", "message"),
    [
        ({"architectures": ["UnheardOfForCausalLM"]}, "Q8_0", "UnheardOfForCausalLM"),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}}, "Q8_0", "(gptq)"),
        ({"architectures": ["LlamaForCausalLM"]}, "Q9_9", "Q9_9"),
        ({"architectures": ["LlamaForCausalLM"]}, "IQ2_M", "IQ2_M needs an importance matrix."),
    ],
)
def test_what_cannot_be_converted_is_refused_before_its_weights_are_downloaded(
    config: dict[str, Any], quantization: str, message: str, hub: FakeHub, converter: FakeConverter
) -> None:
    hub.repositories["org/model"] = CHECKPOINT | {"config.json": json.dumps(config)}
    assert message in refusal("org/model", quantization=quantization, hub=hub, converter=converter).message
    assert "model.safetensors" not in hub.downloaded


def test_missing_quantization_is_refused_with_those_there_are(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4", "model-Q6_K.gguf": "6"}
    error = refusal("org/model:Q8_0", hub=hub)
    assert error.message == "org/model has no GGUF file of Q8_0, and nothing to convert."
    assert error.hint == "It has: org/model:Q4_K_M, org/model:Q6_K."


def test_repository_of_pickles_is_refused(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"config.json": CONFIG, "pytorch_model.bin": "pickle"}
    error = refusal("org/model", hub=hub)
    assert "only as Python pickles, which can run any code" in error.message
    assert "spaces/safetensors/convert" in error.hint


def test_repository_without_a_model_is_refused(hub: FakeHub) -> None:
    hub.repositories["org/model"] = {"adapter_config.json": "{}", "adapter_model.safetensors": "weights"}
    error = refusal("org/model", hub=hub)
    assert "holds no model that edge can use" in error.message
    assert "adapter" in error.hint


def test_part_of_a_model_on_this_machine_is_called_that(hub: FakeHub) -> None:
    hub.is_local_copy = True
    hub.repositories["org/model"] = {"config.json": CONFIG}
    error = refusal("org/model", hub=hub)
    assert error.message.startswith("What is on this machine of org/model is no whole model")
    assert "HF_HUB_OFFLINE" in error.hint


# The cache folder


def test_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_CACHE")
    assert cache_directory() == Path(platformdirs.user_cache_dir("edge", appauthor=False))


def test_cache_can_be_put_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGE_CACHE", "~/models")
    assert cache_directory() == tmp_path / "models"


def test_cache_that_cannot_be_written_is_an_edge_error(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file"))
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4"}
    assert "cannot be written" in refusal("org/model", hub=hub).message


def test_what_was_resolved_once_is_found_without_heavy_imports(
    checkpoint: Path, hub: FakeHub, converter: FakeConverter
) -> None:
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4"}
    paths = [resolve("org/model", hub=hub), resolve(str(checkpoint), converter=converter)]
    program = (
        "import sys; from edge.models import resolve\n"
        f"print(resolve('org/model'), resolve({str(checkpoint)!r}), sep='\\n')\n"
        "heavy = {'numpy', 'huggingface_hub', 'gguf', 'convert', 'filelock', 'llama_cpp', 'platformdirs'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert done.stdout.splitlines() == [*map(str, paths), "[]"]
