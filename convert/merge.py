"""A checkpoint with LoRA adapters merged into it: the same checkpoint, whose tensors get something added when read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert.adapter import Adapter, AdapterPair, read_adapter
from convert.adapter_fit import BaseModules, is_left_out, pairs_by_base_module
from convert.checkpoint import Checkpoint, MergedAdapter
from convert.families import find_family
from convert.safetensors_file import LowRank, SourceTensor


@dataclass(frozen=True)
class ScaledAdapter:
    """A PEFT directory and how much of it to merge."""

    directory: Path
    scale: float = 1.0


def merge_adapters(checkpoint: Checkpoint, adapters: Sequence[ScaledAdapter]) -> Checkpoint:
    """The checkpoint with each adapter added. EdgeError for one that belongs to another base. Reads no weight."""
    for wanted in adapters:
        checkpoint = _merge(checkpoint, read_adapter(wanted.directory), wanted.scale)
    return checkpoint


def checkpoint_modules(checkpoint: Checkpoint) -> BaseModules:
    """The matrices of a checkpoint that an adapter may change."""
    family = find_family(checkpoint.architecture)
    shapes = {module: checkpoint.tensors[name].shape for module, name in _names_by_module(checkpoint).items()}
    return BaseModules(checkpoint.name, family, shapes, family.read_shape(checkpoint.config).tied_embeddings)


def _names_by_module(checkpoint: Checkpoint) -> dict[str, str]:
    family = find_family(checkpoint.architecture)
    return {
        family.rule_name(name).removesuffix(".weight"): name
        for name, tensor in checkpoint.tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and not is_left_out(family, name)
    }


def _merge(checkpoint: Checkpoint, adapter: Adapter, scale: float) -> Checkpoint:
    pairs = pairs_by_base_module(adapter, checkpoint_modules(checkpoint))
    names = _names_by_module(checkpoint)
    changed = {
        names[module]: _with_addition(checkpoint.tensors[names[module]], pair, scale) for module, pair in pairs.items()
    }
    merged = MergedAdapter(adapter.name, adapter.sha256, scale)
    return replace(
        checkpoint,
        tensors={**checkpoint.tensors, **changed},
        merged=(*checkpoint.merged, merged),
    )


def _with_addition(tensor: SourceTensor, pair: AdapterPair, scale: float) -> SourceTensor:
    left, right = (pair.a, pair.b) if pair.is_embedding else (pair.b, pair.a)
    addition = LowRank(left, right, scale * pair.scale, is_transposed=pair.is_embedding)
    return replace(tensor, additions=(*tensor.additions, addition))
