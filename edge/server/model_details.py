"""What a model's file says of it, for clients that ask what a model is. No path on this machine is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edge.description import describe
from edge.errors import EdgeError
from edge.gguf_file import read_gguf
from edge.quantities import count_text
from edge.server.model_pool import ModelSource

_LARGEST_KEPT = 16


@dataclass(frozen=True)
class ModelDetails:
    """Empty texts and zeros where the file does not say."""

    family: str = ""
    parameters: str = ""
    """Their number, as people read it."""
    quantization: str = ""
    file_bytes: int = 0
    template: str = ""
    license: str = ""
    metadata: Mapping[str, str | int | float | bool | None] | None = None
    """The file's keys; None in place of lists, such as the vocabulary."""


def details_of(source: ModelSource) -> ModelDetails:
    """Read from the header of the model's file; nothing if that cannot be read."""
    return _details(source.path, source.created)


@lru_cache(maxsize=_LARGEST_KEPT)
def _details(path: Path, _made: int) -> ModelDetails:
    try:
        file = read_gguf(path)
    except EdgeError:
        return ModelDetails()
    described = describe(file)
    return ModelDetails(
        family=described.architecture,
        parameters=count_text(described.parameters),
        quantization=described.quantization or "",
        file_bytes=described.file_bytes,
        template=described.chat_template or "",
        license=str(file.metadata.get("general.license") or ""),
        metadata={
            key: value if isinstance(value, str | int | float | bool) else None for key, value in file.metadata.items()
        },
    )
