"""Models of a server from files: what they take, and how they are opened."""

from __future__ import annotations

from pathlib import Path

from edge.devices import read_ram
from edge.engine import Engine
from edge.errors import EdgeError
from edge.fingerprint import system_fingerprint
from edge.gguf_file import GGUFFile, read_gguf
from edge.kv_cache_memory import ContextPlan
from edge.memory import predict_memory
from edge.model_shape import stored_model
from edge.server.model_pool import LoadedModel, ModelSource
from edge.settings import DEFAULT_CONTEXT_TOKENS, ModelSettings

_MEMORY_SHARE = 0.8


def source_of(name: str, path: Path, settings: ModelSettings) -> ModelSource:
    """A model's file, looked at but not loaded. EdgeError if it is none."""
    file = read_gguf(path)
    return ModelSource(name, file.path, settings, _memory_bytes(file, settings), int(file.path.stat().st_mtime))


def open_model(source: ModelSource) -> LoadedModel:
    """The model in a process of its own. EdgeError if it cannot be loaded."""
    fingerprint = system_fingerprint(read_gguf(source.path), source.settings)
    return LoadedModel(source, Engine(source.path, source.settings), fingerprint)


def usable_memory_bytes() -> int:
    """What several models may take together unless a person says otherwise: most of what can be had now."""
    return int(_MEMORY_SHARE * read_ram().available_bytes)


def _memory_bytes(file: GGUFFile, settings: ModelSettings) -> int:
    """What the model takes when it is loaded; of a kind that no prediction is made for, its weights."""
    try:
        model = stored_model(file)
        trained = model.shape.context_tokens
        context = ContextPlan(
            settings.context_tokens or min(trained, DEFAULT_CONTEXT_TOKENS),
            sequences=settings.parallel,
            batch_tokens=settings.prefill_tokens,
            key_type=settings.key_type,
            value_type=settings.value_type,
            has_flash_attention=settings.flash_attention != "off",
        )
        return predict_memory(model, context, checkpoint_bytes=settings.checkpoint_bytes).total
    except EdgeError:
        return sum(tensor.n_bytes for tensor in file.tensors.values())
