"""A model as its config.json describes it: keys, and names and shapes of tensors, without tokenizer or weights.

Enough to know what a file of it would take: its header's keys decide about the KV cache, its tensors about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.families import Family, find_family
from convert.hyperparameters import Hyperparameters
from convert.metadata import family_metadata
from convert.recipes import Recipe
from convert.rope import rope_metadata
from convert.safetensors_file import SourceTensor
from convert.tensor_plan import expanded_rules, plan_tensors
from convert.tensor_types import read_traits, tensor_types
from edge.errors import EdgeError
from edge.gguf_format import MetadataEntry, TensorType, ValueType


@dataclass(frozen=True)
class ModelOutline:
    """What a file of a model will hold. Shapes have the outermost dimension first."""

    architecture: str
    """GGUF's name of the architecture."""
    metadata: tuple[MetadataEntry, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def keys(self) -> dict[str, Any]:
        return {entry.key: entry.value for entry in self.metadata}

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def types(self, recipe: Recipe) -> dict[str, TensorType]:
        """The type of each tensor under a recipe; those that need an importance matrix are taken to have one."""
        return tensor_types(recipe, self.shapes, read_traits(self.keys), has_matrix=recipe.needs_matrix)


def outline_model(config: Mapping[str, Any], tensors: Mapping[str, SourceTensor] | None = None) -> ModelOutline:
    """The outline of a checkpoint, of which the headers may be at hand; without them, config.json decides alone.

    EdgeError for an architecture that no family describes, or tensors that do not belong to the configuration.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise EdgeError(
            f"config.json names no architecture: `architectures` is {architectures!r}.",
            hint='It must be a list such as ["LlamaForCausalLM"].',
        )
    family = find_family(str(architectures[0]))
    shape = family.read_shape(config)
    planned = plan_tensors(family, shape, tensors if tensors is not None else _expected_tensors(family, shape))
    metadata = (
        MetadataEntry("general.architecture", ValueType.STRING, family.gguf_name),
        *family_metadata(family, shape),
        *rope_metadata(shape.rope, family.gguf_name),
        MetadataEntry(f"{family.gguf_name}.vocab_size", ValueType.UINT32, shape.vocabulary),
    )
    known = {entry.key: entry for entry in metadata}
    return ModelOutline(family.gguf_name, tuple(known.values()), {tensor.name: tensor.shape for tensor in planned})


def _expected_tensors(family: Family, shape: Hyperparameters) -> dict[str, SourceTensor]:
    """The tensors that a checkpoint must have. Of those that it may have, none."""
    expected = {}
    for rule, block in expanded_rules(family, shape):
        if rule.presence == "optional" or (rule.presence == "untied" and shape.tied_embeddings):
            continue
        dimensions = tuple(shape.size(name) for name in rule.shape)
        for expert in range(shape.experts if rule.is_per_expert else 1):
            name = rule.source_name(block, expert)
            expected[name] = SourceTensor(name, "BF16", dimensions, Path(), 0, 2 * math.prod(dimensions))
    return expected
