"""Models of a server from files: what they take, and how they are opened."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edge.device_profiles import Device, MemoryPool, this_device
from edge.devices import read_ram
from edge.engine import Engine
from edge.errors import EdgeError
from edge.fingerprint import system_fingerprint
from edge.fitted_model import FittedModel, Wanted, fit_model
from edge.gguf_file import GGUFFile, read_gguf
from edge.kv_cache_memory import ContextPlan
from edge.memory import predict_memory
from edge.model_shape import stored_model
from edge.server.model_pool import LoadedModel, ModelSource
from edge.settings import DEFAULT_CONTEXT_TOKENS, ModelSettings

_MEMORY_SHARE = 0.8
_log = logging.getLogger("edge.server")


def source_of(name: str, path: Path, settings: ModelSettings) -> ModelSource:
    """A model's file, looked at but not loaded. EdgeError if it is none."""
    file = read_gguf(path)
    return ModelSource(name, file.path, settings, _memory_bytes(file, settings), int(file.path.stat().st_mtime))


def fitted_source(name: str, path: Path, wanted: Wanted, limit_bytes: int | None = None) -> ModelSource:
    """A model's file, to be loaded with the best settings that fit what all models may take. EdgeError if it is none.

    What fits now is what is counted on; when it is loaded there may be less, but no more is taken.
    """
    fitted = fit_model(path, wanted, _device(limit_bytes))
    if fitted.best:
        shared = fitted.settings.context_tokens or 0
        wanted = replace(wanted, longest_tokens=shared // wanted.settings.parallel)
    created = int(fitted.file.path.stat().st_mtime)
    return ModelSource(name, fitted.file.path, fitted.settings, fitted.memory_bytes, created, wanted)


def open_model(source: ModelSource) -> LoadedModel:
    """The model in a process of its own. EdgeError if it cannot be loaded."""
    if source.wanted:
        return _open_fitted(source, fit_model(source.path, source.wanted))
    fingerprint = system_fingerprint(read_gguf(source.path), source.settings)
    return LoadedModel(source, Engine(source.path, source.settings), fingerprint)


def _open_fitted(source: ModelSource, fitted: FittedModel) -> LoadedModel:
    """The model with the best settings that fit now; what that means is said in the log."""
    if fitted.line:
        _log.log(logging.WARNING if fitted.may_not_fit else logging.INFO, "%s: %s", source.name, fitted.line)

    def open_engine(settings: ModelSettings) -> LoadedModel:
        loaded = replace(source, settings=settings)
        return LoadedModel(loaded, Engine(source.path, settings), system_fingerprint(fitted.file, settings))

    return fitted.open(open_engine, lambda line: _log.warning("%s: %s", source.name, line))


def _device(limit_bytes: int | None) -> Device:
    """This machine, with no more than so many bytes of each memory."""
    device = this_device(measures_bandwidth=False)
    if limit_bytes is None:
        return device

    def limited(pool: MemoryPool) -> MemoryPool:
        return replace(pool, free_bytes=min(pool.free_bytes, limit_bytes))

    return replace(device, ram=limited(device.ram), gpus=tuple(map(limited, device.gpus)))


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
