"""Where the tensors of a model go: one file, or several of a bounded size, each with its header.

Knows names, shapes and types; where the weights come from is for `convert.plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.gguf_header import TensorHeader, header_bytes
from edge.errors import EdgeError
from edge.gguf_format import DEFAULT_ALIGNMENT, MetadataEntry, TensorType, align
from edge.gguf_split import MAX_PARTS, part_paths, split_entries
from edge.quantities import size_text


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file will hold it; the shape has the outermost dimension first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def n_bytes(self) -> int:
        elements = 1
        for dimension in self.shape:
            elements *= dimension
        return elements // self.type.block_elements * self.type.block_bytes


@dataclass(frozen=True)
class PartPlan:
    """One file on the disk: a whole model, or a part of a split one. `offsets` are absolute, by tensor name."""

    path: Path
    header: bytes
    offsets: Mapping[str, int]
    file_bytes: int


def lay_out(
    path: Path, metadata: Sequence[MetadataEntry], tensors: Sequence[StoredTensor], max_bytes: int | None
) -> tuple[PartPlan, ...]:
    """The file at `path`; or parts of at most `max_bytes` beside it under llama.cpp's names, if it would be larger.

    Only the first part has the model's metadata. EdgeError when something does not fit into a part.
    """
    whole = _part(path, metadata, tensors)
    if max_bytes is None or whole.file_bytes <= max_bytes:
        return (whole,)
    groups = list(_groups(metadata, tensors, max_bytes))
    if len(groups) > MAX_PARTS:
        raise EdgeError(
            f"Parts of {size_text(max_bytes)} would be {len(groups):,} files; {MAX_PARTS:,} are possible.",
            hint="Give a larger --split-max-size.",
        )
    return tuple(
        _part(part, _part_metadata(metadata, number, len(groups), len(tensors)), group)
        for number, (part, group) in enumerate(zip(part_paths(path, len(groups)), groups, strict=True), start=1)
    )


def _groups(
    metadata: Sequence[MetadataEntry], tensors: Sequence[StoredTensor], max_bytes: int
) -> Iterator[list[StoredTensor]]:
    """The tensors of each part in order, as many as fit; of the first one none, if its metadata leave no room."""
    empty_bytes = len(header_bytes(_part_metadata(metadata, 1, MAX_PARTS, len(tensors)), []))
    if empty_bytes > max_bytes:
        raise EdgeError(
            f"The metadata take {size_text(empty_bytes)}, more than a part of {size_text(max_bytes)} can hold.",
            hint="Give a larger --split-max-size.",
        )
    later_bytes = len(header_bytes(_part_metadata(metadata, 2, MAX_PARTS, len(tensors)), []))
    group: list[StoredTensor] = []
    filled_bytes = empty_bytes
    for tensor in tensors:
        tensor_bytes = _tensor_header(tensor, 0).n_bytes + align(tensor.n_bytes, DEFAULT_ALIGNMENT)
        if align(filled_bytes + tensor_bytes, DEFAULT_ALIGNMENT) > max_bytes:
            yield group
            group, filled_bytes = [], later_bytes
            if align(filled_bytes + tensor_bytes, DEFAULT_ALIGNMENT) > max_bytes:
                raise EdgeError(
                    f"The tensor {tensor.name!r} takes {size_text(tensor.n_bytes)}, more than a part of"
                    f" {size_text(max_bytes)} can hold.",
                    hint="Give a larger --split-max-size.",
                )
        group.append(tensor)
        filled_bytes += tensor_bytes
    yield group


def _part_metadata(
    metadata: Sequence[MetadataEntry], number: int, count: int, tensor_count: int
) -> list[MetadataEntry]:
    return [*(metadata if number == 1 else ()), *split_entries(number, count, tensor_count)]


def _part(path: Path, metadata: Sequence[MetadataEntry], tensors: Sequence[StoredTensor]) -> PartPlan:
    relative: dict[str, int] = {}
    end = 0
    for tensor in tensors:
        relative[tensor.name] = end
        end = align(end + tensor.n_bytes, DEFAULT_ALIGNMENT)
    header = header_bytes(metadata, [_tensor_header(tensor, relative[tensor.name]) for tensor in tensors])
    return PartPlan(path, header, {name: len(header) + offset for name, offset in relative.items()}, len(header) + end)


def _tensor_header(tensor: StoredTensor, offset: int) -> TensorHeader:
    return TensorHeader(tensor.name, tensor.shape, tensor.type, offset)
