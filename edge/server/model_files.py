"""Models of a server from files: what they take, and how they are opened."""

from __future__ import annotations

from pathlib import Path

from edge.engine import Engine
from edge.fingerprint import system_fingerprint
from edge.gguf_file import read_gguf
from edge.server.model_pool import LoadedModel, ModelSource
from edge.settings import ModelSettings


def source_of(name: str, path: Path, settings: ModelSettings) -> ModelSource:
    """A model's file, looked at but not loaded. EdgeError if it is none."""
    file = read_gguf(path)
    weights = sum(tensor.n_bytes for tensor in file.tensors.values())
    return ModelSource(name, file.path, settings, weights, int(file.path.stat().st_mtime))


def open_model(source: ModelSource) -> LoadedModel:
    """The model in a process of its own. EdgeError if it cannot be loaded."""
    fingerprint = system_fingerprint(read_gguf(source.path), source.settings)
    return LoadedModel(source, Engine(source.path, source.settings), fingerprint)
