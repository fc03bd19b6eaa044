"""Turn Hugging Face checkpoints into quantized GGUF files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convert.pipeline import convert_checkpoint as convert_checkpoint


def __getattr__(name: str) -> Any:
    if name != "convert_checkpoint":
        raise AttributeError(f"module 'convert' has no attribute {name!r}")
    from convert.pipeline import convert_checkpoint

    return convert_checkpoint
