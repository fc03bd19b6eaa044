"""A LoRA as a GGUF adapter: for each matrix that it changes two tensors, NAME.lora_a and NAME.lora_b.

llama.cpp computes `scale * alpha / rank * lora_b @ (lora_a @ x)`, with one alpha for the file; what differs between
modules is multiplied into `lora_b`, whose rows follow the order that the model's rows have.
Source: llama.cpp, src/llama-adapter.cpp, convert_lora_to_gguf.py, and for embeddings build_inp_embd in llama-graph.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.adapter import WEIGHTS_FILE, Adapter, AdapterPair
from convert.adapter_base import AdapterBase, BaseTensor
from convert.adapter_fit import left_out_names, pairs_by_base_module
from convert.layout import StoredTensor, lay_out
from convert.metadata import converter_versions
from convert.plan import ConversionPlan, FilePlan
from convert.recipes import Recipe
from convert.safetensors_file import SourceTensor
from convert.shards import ShardMaps
from convert.slabs import widened
from convert.tensor_plan import SourceRows, TensorPlan, left_out_parts
from convert.transforms import SlabTransform
from edge.errors import EdgeError
from edge.gguf_format import BASE_KEY, TENSOR_TYPES, MetadataEntry, ValueType

ADAPTER_TYPES = ("F32", "F16", "BF16")
_MERGE_INSTEAD = "Merge the adapter into its base instead: edge convert BASE --merge-lora ADAPTER"
Floats = npt.NDArray[np.float32]


def plan_adapter(adapter: Adapter, base: AdapterBase, path: Path, recipe: Recipe) -> ConversionPlan:
    """Plan the file of an adapter. EdgeError when it does not fit its base, or is to be quantized."""
    if recipe.name not in ADAPTER_TYPES:
        raise EdgeError(
            f"An adapter cannot be stored as {recipe.name}.", hint=f"It must be one of: {', '.join(ADAPTER_TYPES)}."
        )
    pairs = pairs_by_base_module(adapter, base.modules)
    alpha = max(_alpha(pair) for pair in pairs.values())
    members: dict[str, list[_Member]] = {}
    for module, pair in sorted(pairs.items()):
        target = base.tensors[module]
        members.setdefault(target.name, []).append(_Member(pair, target))
    tensors = [tensor for group in members.values() for tensor in _plan_group(group, base, alpha)]
    types = {tensor.name: TENSOR_TYPES[recipe.default] for tensor in tensors}
    stored = [StoredTensor(tensor.name, tensor.shape, types[tensor.name]) for tensor in tensors]
    file_type = MetadataEntry("general.file_type", ValueType.UINT32, recipe.file_type)
    metadata = [*_metadata(adapter, base, alpha), file_type]
    file = FilePlan(path, recipe, types, lay_out(path, metadata, stored, None))
    limitations = tuple(left_out_parts(base.family, left_out_names(adapter, base.family)))
    return ConversionPlan(base.family.name, base.family.gguf_name, tuple(tensors), (file,), limitations)


def _alpha(pair: AdapterPair) -> float:
    """The alpha by which llama.cpp scales a pair rightly."""
    return pair.scale * pair.rank


@dataclass(frozen=True)
class _Member:
    """A pair and the matrix of the model that it changes."""

    pair: AdapterPair
    target: BaseTensor


def _plan_group(members: Sequence[_Member], base: AdapterBase, alpha: float) -> Iterator[TensorPlan]:
    """The two tensors for all pairs of one tensor of the model: one pair, or those of all its experts."""
    pair, target = members[0].pair, members[0].target
    factor = _alpha(pair) / alpha
    if target.transform:
        _check_order(pair, target.transform)
    if pair.is_embedding:
        tokens = np.ascontiguousarray(_read(pair.a)[:, : target.rows].T)
        yield TensorPlan(f"{target.name}.lora_a", tokens.shape, (), values=tokens)
        b = (SourceRows(pair.b, 0, pair.b.rows),)
        yield TensorPlan(f"{target.name}.lora_b", pair.b.shape, b, _scaled(None, factor))
        return
    experts: tuple[int, ...] = ()
    if target.expert is not None:
        members = _all_experts(members, base)
        experts = (len(members),)
    left = tuple(SourceRows(member.pair.b, 0, target.rows) for member in members)
    right = tuple(SourceRows(member.pair.a, 0, pair.rank) for member in members)
    yield TensorPlan(f"{target.name}.lora_a", (*experts, pair.rank, pair.a.columns), right)
    yield TensorPlan(
        f"{target.name}.lora_b", (*experts, target.rows, pair.rank), left, _scaled(target.transform, factor)
    )


def _all_experts(members: Sequence[_Member], base: AdapterBase) -> list[_Member]:
    """The pairs in the order of the experts. EdgeError unless each has one, of one rank and scale."""
    ordered = sorted(members, key=lambda member: member.target.expert or 0)
    count = sum(tensor.name == ordered[0].target.name for tensor in base.tensors.values())
    kinds = {(member.pair.rank, member.pair.scale) for member in ordered}
    if len(ordered) < count or len(kinds) > 1:
        raise EdgeError(
            f"The matrices of {ordered[0].pair.module} and its like cannot be stored: llama.cpp has the {count} experts"
            " of a layer in one tensor, and their matrices have to be complete and of one rank and scale.",
            hint=_MERGE_INSTEAD,
        )
    return ordered


def _scaled(order: SlabTransform | None, factor: float) -> SlabTransform | None:
    """The transform of `lora_b`'s rows: in the model's order, times a factor."""
    if math.isclose(factor, 1, rel_tol=1e-12):
        return order

    def apply(slab: Floats) -> Floats:
        ordered = order.apply(slab) if order else slab
        return ordered * np.float32(factor)

    return SlabTransform(f"times {factor:g}", apply, order.unit if order else 1)


def _check_order(pair: AdapterPair, order: SlabTransform) -> None:
    """A transform of rows may be applied to one factor alone; any other would need the whole product."""
    b, a = _read(pair.b)[: order.unit], _read(pair.a)
    if not np.allclose(order.apply(b @ a), order.apply(b) @ a, rtol=1e-4, atol=1e-6):
        raise EdgeError(
            f"The matrices of {pair.module} cannot be stored: llama.cpp keeps this weight in an order ({order.name})"
            " that no product of two matrices can follow.",
            hint=_MERGE_INSTEAD,
        )


def _read(tensor: SourceTensor) -> Floats:
    with ShardMaps() as maps:
        return widened(maps.rows(tensor, 0, tensor.rows))


def _metadata(adapter: Adapter, base: AdapterBase, alpha: float) -> Iterator[MetadataEntry]:
    tool, library = converter_versions()
    texts: Mapping[str, str | None] = {
        "general.architecture": base.family.gguf_name,
        "general.type": "adapter",
        "general.name": adapter.name,
        "adapter.type": "lora",
        "general.base_model.0.name": adapter.config.base_name or base.modules.name,
        "general.converter": tool,
        "general.converter.library": library,
        BASE_KEY: base.weights_sha256,
    }
    for key, text in texts.items():
        if text is not None:
            yield MetadataEntry(key, ValueType.STRING, text)
    yield MetadataEntry("general.base_model.count", ValueType.UINT32, 1)
    yield MetadataEntry("adapter.lora.alpha", ValueType.FLOAT32, alpha)
    yield MetadataEntry("general.source.files", ValueType.ARRAY, [WEIGHTS_FILE], ValueType.STRING)
    yield MetadataEntry("general.source.sha256", ValueType.ARRAY, [adapter.sha256], ValueType.STRING)
