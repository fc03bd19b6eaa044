"""Everything about a conversion before a weight is read: every tensor's source, transform, type, offset and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.checkpoint import Checkpoint
from convert.families import Family, check_reproducible, find_family
from convert.hyperparameters import Hyperparameters
from convert.layout import PartPlan, StoredTensor, lay_out
from convert.metadata import file_metadata, model_metadata
from convert.recipes import Recipe
from convert.tensor_plan import TensorPlan, left_out_parts, plan_tensors
from convert.tensor_types import read_traits, tensor_types
from convert.tokenizer import Vocabulary, read_vocabulary
from edge.gguf_format import MetadataEntry, TensorType


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
    """What the file will not do as the checkpoint does, in words for a person."""

    @property
    def parameter_count(self) -> int:
        return _parameter_count(self.tensors)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.tensors)


def plan_conversion(
    checkpoint: Checkpoint, targets: Mapping[Path, Recipe], *, max_part_bytes: int | None = None
) -> ConversionPlan:
    """Plan the files of `targets` from a checkpoint. EdgeError for whatever keeps it from being converted rightly.

    A model larger than `max_part_bytes` is split into parts of at most that size.
    """
    family, shape, vocabulary = read_model(checkpoint)
    check_reproducible(family, shape)
    tensors = tuple(plan_tensors(family, shape, checkpoint.tensors))
    metadata = model_metadata(checkpoint, family, shape, vocabulary, _parameter_count(tensors))
    files = tuple(_plan_file(path, recipe, metadata, tensors, max_part_bytes) for path, recipe in targets.items())
    tokenizer_limitations = (limitation.words for limitation in vocabulary.limitations)
    limitations = (*left_out_parts(family, list(checkpoint.tensors)), *tokenizer_limitations)
    return ConversionPlan(family, shape, tensors, files, limitations)


def read_model(checkpoint: Checkpoint) -> tuple[Family, Hyperparameters, Vocabulary]:
    """What a checkpoint is: its family, its shape and its tokens. EdgeError for one that no family describes."""
    family = find_family(checkpoint.architecture)
    shape = family.read_shape(checkpoint.config)
    vocabulary = read_vocabulary(checkpoint, shape.vocabulary)
    if family.trims_vocabulary:
        vocabulary = vocabulary.without_padding()
        shape = shape.with_vocabulary(len(vocabulary.tokens))
    return family, shape, vocabulary


def _parameter_count(tensors: Sequence[TensorPlan]) -> int:
    """Weights of the checkpoint; what is computed from the configuration is none of its parameters."""
    return sum(tensor.element_count for tensor in tensors if tensor.sources)


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
