"""Weights that are read in while the rest is imported."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

import edge.model_loading
from edge.engine import Engine
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.llama.model import Model
from edge.model_loading import ModelLoading
from edge.settings import AdapterSettings, ModelSettings

SETTINGS = ModelSettings(context_tokens=256, threads=1)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """The models that were loaded."""
    models: list[Model] = []

    class Kept(Model):
        def __init__(self, path: Path, *, gpu_layers: int, gpu_split: tuple[int, ...], repack_weights: bool) -> None:
            assert threading.current_thread() is not threading.main_thread()
            super().__init__(path, gpu_layers=gpu_layers, gpu_split=gpu_split, repack_weights=repack_weights)
            models.append(self)

    monkeypatch.setattr(edge.model_loading, "Model", Kept)
    return models


def test_model_belongs_to_who_took_it(tiny_gguf: Path, loaded: list[Model]) -> None:
    with ModelLoading(read_gguf(tiny_gguf), SETTINGS) as loading:
        model = loading.take()
    assert loaded == [model]
    assert model.pointer
    model.close()


def test_model_that_nobody_takes_is_freed(tiny_gguf: Path, loaded: list[Model]) -> None:
    with pytest.raises(KeyboardInterrupt), ModelLoading(read_gguf(tiny_gguf), SETTINGS):
        raise KeyboardInterrupt
    (model,) = loaded
    assert not model.pointer


def test_model_that_cannot_be_loaded_is_one_error(tiny_gguf: Path, tmp_path: Path) -> None:
    file = replace(read_gguf(tiny_gguf), path=tmp_path / "gone.gguf")
    with (
        pytest.raises(EdgeError, match=r"llama\.cpp cannot load .*gone\.gguf"),
        ModelLoading(file, SETTINGS) as loading,
    ):
        loading.take()
    with ModelLoading(file, SETTINGS):  # nobody wanted to know
        pass


def test_defect_while_loading_is_told_too(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> Model:
        raise OSError("the library is gone")

    monkeypatch.setattr(edge.model_loading, "Model", broken)
    with pytest.raises(OSError, match="the library is gone"):
        Engine(tiny_gguf, SETTINGS, isolate=False)


def test_engine_that_is_refused_its_adapter_keeps_no_model(tiny_gguf: Path, loaded: list[Model]) -> None:
    settings = replace(SETTINGS, adapters=(AdapterSettings(tiny_gguf, 1.0),))
    with pytest.raises(EdgeError):
        Engine(tiny_gguf, settings, isolate=False)
    (model,) = loaded
    assert not model.pointer


def test_adapter_is_no_model(tiny_gguf: Path) -> None:
    file = read_gguf(tiny_gguf)
    adapter = replace(file, metadata={**file.metadata, "general.type": "adapter"})
    with pytest.raises(EdgeError, match="is an adapter, which changes a model and is none itself"):
        ModelLoading(adapter, SETTINGS)
