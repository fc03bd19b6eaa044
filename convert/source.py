"""A model to convert, in the terms that are the same for every kind of source: its tensors, and the keys of its files.

A checkpoint is one kind; `convert.gguf_source` has the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.checkpoint import Checkpoint
from convert.families import Family, check_reproducible, find_family
from convert.hyperparameters import Hyperparameters
from convert.metadata import model_metadata
from convert.tensor_plan import TensorPlan, left_out_parts, parameter_count, plan_tensors
from convert.tied_output import refuse_another_output
from convert.tokenizer import Vocabulary, read_vocabulary
from convert.vocabulary import Limitation
from edge.gguf_format import MetadataEntry, TensorType


@dataclass(frozen=True)
class Source:
    """What files of a model are made of. Tensors are in file order; none of them has been read."""

    name: str
    """What files are named after."""
    path: Path
    """The checkpoint's directory, or the file."""
    family: str
    architecture: str
    """GGUF's name of the architecture."""
    tensors: tuple[TensorPlan, ...]
    metadata: tuple[MetadataEntry, ...]
    """What all files have in common."""
    kept_types: Mapping[str, TensorType] = field(default_factory=dict)
    """The types of tensors that are not quantized, where they are not F32."""
    limitations: tuple[str, ...] = ()
    """What a file will not do as the source does, in words for a person."""
    checkpoint: Checkpoint | None = None
    """The checkpoint, with its tokenizer and chat template, if it is one."""
    tokenizer_limitations: tuple[Limitation, ...] = ()


def checkpoint_source(checkpoint: Checkpoint) -> Source:
    """A checkpoint as a source. EdgeError for whatever keeps it from being converted rightly."""
    family, shape, vocabulary = read_model(checkpoint)
    check_reproducible(family, shape)
    tensors = tuple(plan_tensors(family, shape, checkpoint.tensors))
    refuse_another_output(family, tensors, checkpoint.tensors)
    metadata = model_metadata(checkpoint, family, shape, vocabulary, parameter_count(tensors))
    tokenizer_limitations = (limitation.words for limitation in vocabulary.limitations)
    return Source(
        name=checkpoint.model_name,
        path=checkpoint.directory,
        family=family.name,
        architecture=family.gguf_name,
        tensors=tensors,
        metadata=tuple(metadata),
        limitations=(*left_out_parts(family, list(checkpoint.tensors)), *tokenizer_limitations),
        checkpoint=checkpoint,
        tokenizer_limitations=vocabulary.limitations,
    )


def read_model(checkpoint: Checkpoint) -> tuple[Family, Hyperparameters, Vocabulary]:
    """What a checkpoint is: its family, its shape and its tokens. EdgeError for one that no family describes."""
    family = find_family(checkpoint.architecture)
    shape = family.read_shape(checkpoint.config)
    vocabulary = read_vocabulary(checkpoint, shape.vocabulary)
    if family.trims_vocabulary:
        vocabulary = vocabulary.without_padding()
        shape = shape.with_vocabulary(len(vocabulary.tokens))
    return family, shape, vocabulary
