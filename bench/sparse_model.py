"""GGUF files in the shape of published models that hold no weights: a header, and a hole as long as the data would be.

llama.cpp sizes a context with such a file as with a real one, and it takes a few kilobytes on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.layout import StoredTensor, lay_out
from convert.model_outline import outline_model
from convert.recipes import find_recipe
from edge.gguf_format import MetadataEntry, ValueType


def write_sparse_model(path: Path, config: Mapping[str, Any], quantization: str) -> None:
    """The model that a config.json describes, without weights and with as many nameless tokens as it has."""
    outline, recipe = outline_model(config), find_recipe(quantization)
    types = outline.types(recipe)
    metadata = [
        *outline.metadata,
        MetadataEntry("tokenizer.ggml.model", ValueType.STRING, "none"),
        MetadataEntry("general.file_type", ValueType.UINT32, recipe.file_type),
    ]
    tensors = [StoredTensor(name, shape, types[name]) for name, shape in outline.shapes.items()]
    (part,) = lay_out(path, metadata, tensors, max_bytes=None)
    with path.open("wb") as file:
        file.write(part.header)
        file.truncate(part.file_bytes)
