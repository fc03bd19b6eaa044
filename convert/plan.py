"""Everything about a conversion before a weight is read: every tensor's source, transform, type, offset and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.checkpoint import Checkpoint, read_checkpoint
from convert.gguf_source import gguf_source
from convert.imatrix import ImportanceMatrix, check_matrix
from convert.layout import PartPlan, StoredTensor, lay_out
from convert.metadata import file_metadata
from convert.recipes import Recipe, check_without_matrix
from convert.source import Source, checkpoint_source
from convert.tensor_plan import TensorPlan, parameter_count
from convert.tensor_types import NO_CHOICES, TypeChoices, read_traits, tensor_types, tensor_without_matrix
from convert.vocabulary import Limitation
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.gguf_format import TensorType


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

    family: str
    architecture: str
    """GGUF's name of the architecture."""
    tensors: tuple[TensorPlan, ...]
    files: tuple[FilePlan, ...]
    limitations: tuple[str, ...] = ()
    """What the file will not do as the checkpoint does, in words for a person."""
    checkpoint: Checkpoint | None = None
    """What the files are made of, with its tokenizer and chat template; None for an adapter or a GGUF file."""
    source: Path | None = None
    """The directory or file that they are made of; None for an adapter."""
    tokenizer_limitations: tuple[Limitation, ...] = ()
    matrix: ImportanceMatrix | None = None
    """How much each column of a quantized tensor matters."""

    @property
    def parameter_count(self) -> int:
        return parameter_count(self.tensors)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class ConversionOptions:
    """What a person may choose of files beyond their recipes."""

    choices: TypeChoices = NO_CHOICES
    matrix: ImportanceMatrix | None = None
    max_part_bytes: int | None = None
    """A model larger than this is split into parts of at most this size."""


NO_OPTIONS = ConversionOptions()


def open_source(path: Path) -> Source:
    """A checkpoint directory or a GGUF file as a source. EdgeError if it is neither, or cannot be converted."""
    return gguf_source(read_gguf(path)) if path.is_file() else checkpoint_source(read_checkpoint(path))


def plan_conversion(
    source: Source, targets: Mapping[Path, Recipe], options: ConversionOptions = NO_OPTIONS
) -> ConversionPlan:
    """Plan the files of `targets`. EdgeError for options that do not fit the model."""
    if options.matrix:
        check_matrix(options.matrix, {tensor.name: tensor.shape for tensor in source.tensors})
    return ConversionPlan(
        family=source.family,
        architecture=source.architecture,
        tensors=source.tensors,
        files=tuple(_plan_file(path, recipe, source, options) for path, recipe in targets.items()),
        limitations=source.limitations,
        checkpoint=source.checkpoint,
        source=source.path,
        tokenizer_limitations=source.tokenizer_limitations,
        matrix=options.matrix,
    )


def _plan_file(path: Path, recipe: Recipe, source: Source, options: ConversionOptions) -> FilePlan:
    matrix = options.matrix if recipe.is_quantized else None
    types = tensor_types(
        recipe,
        {tensor.name: tensor.shape for tensor in source.tensors},
        read_traits({entry.key: entry.value for entry in source.metadata}),
        choices=options.choices,
        has_matrix=matrix is not None,
        kept=source.kept_types,
    )
    _check_importance(recipe, types, matrix)
    stored = [StoredTensor(tensor.name, tensor.shape, types[tensor.name]) for tensor in source.tensors]
    metadata = [*source.metadata, *file_metadata(recipe), *(matrix.metadata() if matrix else ())]
    return FilePlan(path, recipe, types, lay_out(path, metadata, stored, options.max_part_bytes))


def _check_importance(recipe: Recipe, types: Mapping[str, TensorType], matrix: ImportanceMatrix | None) -> None:
    """EdgeError for types that are too small to be made without importance."""
    if matrix is None:
        check_without_matrix(recipe)
    name = tensor_without_matrix(types, matrix.entries if matrix else ())
    if name:
        missing = f"{matrix.name} has none for it" if matrix else "there is none"
        raise EdgeError(
            f"The tensor {name!r} would be {types[name].name}, which needs an importance matrix; {missing}.",
            hint="Measure one with --calibrate default, or choose another type.",
        )
