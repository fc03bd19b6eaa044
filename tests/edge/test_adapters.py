"""References to adapters, and engines that answer with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from convert.merge import ScaledAdapter
from convert.pipeline import convert_adapter, write_checkpoint
from edge import AdapterSettings, ModelSettings, Request
from edge.adapters import resolve_adapter, split_scale
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.local_engine import LocalEngine
from edge.prompt import plain_tokens
from edge.settings import SamplingSettings
from tests.tiny import write_tiny_checkpoint
from tests.tiny.adapters import write_tiny_adapter

SETTINGS = ModelSettings(threads=1)
GREEDY = SamplingSettings(temperature=0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as a checkpoint and as base.gguf, its adapter as a PEFT directory and as adapter.gguf."""
    folder = tmp_path_factory.mktemp("adapted")
    checkpoint = write_tiny_checkpoint("qwen2", folder)
    write_checkpoint(checkpoint, ["F32"], folder / "base.gguf", threads=1)
    convert_adapter(write_tiny_adapter("qwen2-rslora", folder), checkpoint, out=folder / "adapter.gguf")
    return folder


# References


@pytest.mark.parametrize(
    ("reference", "path", "scale"),
    [
        ("adapter.gguf", "adapter.gguf", 1.0),
        ("adapter.gguf:0.5", "adapter.gguf", 0.5),
        ("adapter.gguf:-1", "adapter.gguf", -1.0),
        ("some/folder:1e-2", "some/folder", 0.01),
        ("a:b:2", "a:b", 2.0),
    ],
)
def test_scale_stands_behind_the_last_colon(reference: str, path: str, scale: float) -> None:
    assert split_scale(reference) == (Path(path), scale)


def test_file_with_a_colon_in_its_name_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "adapter:2"
    path.touch()
    assert split_scale(str(path)) == (path, 1.0)


@pytest.mark.parametrize("scale", ["much", "", "nan", "inf", "1,5"])
def test_scale_that_is_no_number_is_refused(scale: str) -> None:
    with pytest.raises(EdgeError) as caught:
        split_scale(f"adapter.gguf:{scale}")
    assert caught.value.message == (
        f"The scale of the adapter in 'adapter.gguf:{scale}' is {scale!r}, which is not a number."
    )
    assert "adapter.gguf:0.5" in caught.value.hint


def test_settings_refuse_a_scale_that_is_not_finite() -> None:
    with pytest.raises(EdgeError, match=r"The scale of a\.gguf is nan"):
        AdapterSettings(Path("a.gguf"), float("nan"))


def test_adapter_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(EdgeError, match=r"There is no adapter 'nowhere\.gguf': no such file or directory\."):
        resolve_adapter("nowhere.gguf:0.5", folder / "base.gguf")


def test_file_is_itself(folder: Path) -> None:
    found = resolve_adapter(f"{folder / 'adapter.gguf'}:0.25", folder / "base.gguf")
    assert found == AdapterSettings(folder / "adapter.gguf", 0.25)


def test_peft_directory_is_converted_once_for_its_model(folder: Path, cache: Path) -> None:
    found = resolve_adapter(f"{folder / 'qwen2-rslora'}:2", folder / "base.gguf")
    assert found.scale == 2.0
    assert found.path.is_relative_to(cache)
    assert found.path.read_bytes() == (folder / "adapter.gguf").read_bytes()
    written = found.path.stat().st_mtime_ns
    assert resolve_adapter(str(folder / "qwen2-rslora"), folder / "base.gguf").path == found.path
    assert found.path.stat().st_mtime_ns == written


def test_peft_directory_is_converted_anew_for_a_model_that_changed(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes((folder / "base.gguf").read_bytes())
    first = resolve_adapter(str(folder / "qwen2-rslora"), model)
    os.utime(model, ns=(0, 0))
    assert resolve_adapter(str(folder / "qwen2-rslora"), model).path != first.path


def test_directory_that_is_no_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"is no PEFT adapter: it has no adapter_config\.json"):
        resolve_adapter(str(tmp_path), folder / "base.gguf")


# Answers


def answer(path: Path, *adapters: AdapterSettings) -> tuple[int, ...]:
    with LocalEngine(path, replace(SETTINGS, adapters=adapters)) as engine:
        prompt = tuple(plain_tokens("The bees danced, and she wrote it down.", engine.vocab))
        completion = engine.submit(Request(prompt, sampling=GREEDY, max_tokens=12)).result()
        repeated = engine.submit(Request(prompt, sampling=GREEDY, max_tokens=12)).result()
        assert repeated.usage.cached_tokens > 0
        assert repeated.tokens == completion.tokens
        return tuple(completion.tokens)


def test_engine_answers_as_the_merged_model_does(folder: Path, tmp_path: Path) -> None:
    merge = [ScaledAdapter(folder / "qwen2-rslora", 0.5)]
    (merged,) = write_checkpoint(folder / "qwen2", ["F32"], tmp_path / "merged.gguf", merge=merge, threads=1)
    adapted = answer(folder / "base.gguf", AdapterSettings(folder / "adapter.gguf", 0.5))
    assert adapted == answer(merged)
    assert adapted != answer(folder / "base.gguf")


def test_the_same_adapter_twice_counts_twice(folder: Path) -> None:
    half = AdapterSettings(folder / "adapter.gguf", 0.5)
    assert answer(folder / "base.gguf", half, half) == answer(folder / "base.gguf", replace(half, scale=1.0))


def test_adapter_with_scale_zero_changes_nothing(folder: Path) -> None:
    unused = AdapterSettings(folder / "adapter.gguf", 0.0)
    assert answer(folder / "base.gguf", unused) == answer(folder / "base.gguf")


def test_engine_refuses_an_adapter_of_other_weights_and_opens_without_it(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "other.gguf"
    digest = str(read_gguf(folder / "adapter.gguf").metadata["edge.adapter.base_sha256"])
    adapter.write_bytes((folder / "adapter.gguf").read_bytes().replace(digest.encode(), b"0" * len(digest)))
    with pytest.raises(EdgeError, match="was made for other weights"):
        LocalEngine(folder / "base.gguf", replace(SETTINGS, adapters=(AdapterSettings(adapter),)))
    assert answer(folder / "base.gguf")


def test_engine_refuses_an_adapter_as_its_model(folder: Path) -> None:
    with pytest.raises(EdgeError, match="is an adapter, which changes a model and is none itself"):
        LocalEngine(folder / "adapter.gguf", SETTINGS)


def test_engine_refuses_a_model_as_adapter(folder: Path) -> None:
    with pytest.raises(EdgeError, match=r"is no LoRA adapter: general\.type is 'model'"):
        LocalEngine(folder / "base.gguf", replace(SETTINGS, adapters=(AdapterSettings(folder / "base.gguf"),)))
