"""Everything about a conversion before a weight is read: every tensor's source, transform, type, offset and size.

A tensor of the checkpoint that no rule names, or a rule without its tensor, is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.checkpoint import Checkpoint
from convert.families import Family, TensorRule, check_reproducible, find_family
from convert.hyperparameters import Hyperparameters, read_hyperparameters
from convert.layout import PartPlan, StoredTensor, lay_out
from convert.metadata import file_metadata, model_metadata
from convert.recipes import Recipe
from convert.rope import frequency_factors
from convert.safetensors_file import SourceTensor
from convert.tensor_types import read_traits, tensor_types
from convert.tokenizer import read_vocabulary
from convert.transforms import Transform
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, TensorType

READABLE_DTYPES = ("F32", "F16", "BF16")
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the output: from a source tensor, or computed from the configuration (`values`)."""

    name: str
    shape: tuple[int, ...]
    source: SourceTensor | None
    transform: Transform | None = None
    values: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        """Rows of the matrix the tensor is converted as; a vector is a single column."""
        return self.element_count // self.columns

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def element_count(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class FilePlan:
    """One model to write: one file, or the parts of a split one."""

    path: Path
    """The model as one file; the parts of a split one are named after it."""
    recipe: Recipe
    types: Mapping[str, TensorType]
    parts: tuple[PartPlan, ...]

    @property
    def file_bytes(self) -> int:
        return sum(part.file_bytes for part in self.parts)

    @property
    def weights_bytes(self) -> int:
        return sum(part.file_bytes - len(part.header) for part in self.parts)

    @property
    def first_path(self) -> Path:
        """The file to load."""
        return self.parts[0].path


@dataclass(frozen=True)
class ConversionPlan:
    """The tensors of a conversion in file order, and the files to write them to."""

    family: Family
    hyperparameters: Hyperparameters
    tensors: tuple[TensorPlan, ...]
    files: tuple[FilePlan, ...]
    limitations: tuple[str, ...]
    """Where llama.cpp will do something else than the checkpoint's tokenizer, in words for a person."""

    @property
    def parameter_count(self) -> int:
        return _parameter_count(self.tensors)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source.n_bytes for tensor in self.tensors if tensor.source)


def plan_conversion(
    checkpoint: Checkpoint, targets: Mapping[Path, Recipe], *, max_part_bytes: int | None = None
) -> ConversionPlan:
    """Plan the files of `targets` from a checkpoint. EdgeError for whatever keeps it from being converted rightly.

    A model larger than `max_part_bytes` is split into parts of at most that size.
    """
    family = find_family(checkpoint.architecture)
    shape = read_hyperparameters(checkpoint.config, tied_by_default=family.tied_by_default)
    check_reproducible(family, shape)
    tensors = tuple(plan_tensors(family, shape, checkpoint.tensors))
    vocabulary = read_vocabulary(checkpoint, shape.vocabulary)
    metadata = model_metadata(checkpoint, family, shape, vocabulary, _parameter_count(tensors))
    files = tuple(_plan_file(path, recipe, metadata, tensors, max_part_bytes) for path, recipe in targets.items())
    return ConversionPlan(family, shape, tensors, files, vocabulary.limitations)


def _parameter_count(tensors: Sequence[TensorPlan]) -> int:
    """Weights of the checkpoint; what is computed from the configuration is none of its parameters."""
    return sum(tensor.element_count for tensor in tensors if tensor.source)


def plan_tensors(family: Family, shape: Hyperparameters, sources: Mapping[str, SourceTensor]) -> Iterator[TensorPlan]:
    """The tensors a family makes of a checkpoint's, in file order. EdgeError for missing, unknown or misshapen ones."""
    used: set[str] = set()
    for rule, block in _expanded(family, shape):
        name = rule.source_name(block)
        if rule.presence == "untied" and shape.tied_embeddings:
            used.add(name)  # a tied checkpoint may carry a copy that transformers ignores as well
            continue
        source = sources.get(name)
        if source is None:
            if rule.presence == "optional":
                continue
            raise EdgeError(
                f"The checkpoint has no tensor {name!r}, which {family.name} needs.",
                hint="It is incomplete or its config.json belongs to another model: download it again.",
            )
        used.add(name)
        _check_source(source, tuple(shape.size(dimension) for dimension in rule.shape), rule.shape)
        yield TensorPlan(rule.target_name(block), source.shape, source, rule.transform)
    _refuse_leftovers(family, set(sources) - used)
    for name, factors in frequency_factors(shape.rope).items():
        yield TensorPlan(name, factors.shape, None, values=factors)


def _expanded(family: Family, shape: Hyperparameters) -> Iterator[tuple[TensorRule, int]]:
    """Rules in file order: what stands before the blocks, the blocks one by one, what stands after them."""
    first = next(index for index, rule in enumerate(family.tensors) if rule.is_per_block)
    for rule in family.tensors[:first]:
        yield rule, 0
    for block in range(shape.layers):
        for rule in family.tensors:
            if rule.is_per_block:
                yield rule, block
    for rule in family.tensors[first:]:
        if not rule.is_per_block:
            yield rule, 0


def _check_source(source: SourceTensor, expected: tuple[int, ...], dimensions: Sequence[str]) -> None:
    if source.shape != expected:
        raise EdgeError(
            f"The tensor {source.name!r} has shape {list(source.shape)}; config.json makes it {list(expected)}"
            f" ({' x '.join(dimensions)}).",
            hint="config.json and weights belong to different models.",
        )
    if source.dtype not in READABLE_DTYPES:
        raise EdgeError(
            f"The tensor {source.name!r} is stored as {source.dtype}.",
            hint=f"Convertible are {', '.join(READABLE_DTYPES)}: get the original, unquantized checkpoint.",
        )


def _refuse_leftovers(family: Family, names: set[str]) -> None:
    left = sorted(name for name in names if not any(re.search(pattern, name) for pattern in family.ignored))
    if left:
        more = f" and {len(left) - _NAMES_SHOWN} more" if left[_NAMES_SHOWN:] else ""
        raise EdgeError(
            f"The checkpoint has tensors that {family.name} does not know: {', '.join(left[:_NAMES_SHOWN])}{more}.",
            hint="Leaving them out would change the model: it is of another architecture, or has an adapter inside.",
        )


def _plan_file(
    path: Path,
    recipe: Recipe,
    metadata: Sequence[MetadataEntry],
    tensors: Sequence[TensorPlan],
    max_part_bytes: int | None,
) -> FilePlan:
    types = tensor_types(
        recipe,
        {tensor.name: tensor.shape for tensor in tensors},
        read_traits({entry.key: entry.value for entry in metadata}),
    )
    stored = [StoredTensor(tensor.name, tensor.shape, types[tensor.name]) for tensor in tensors]
    return FilePlan(path, recipe, types, lay_out(path, [*metadata, *file_metadata(recipe)], stored, max_part_bytes))
