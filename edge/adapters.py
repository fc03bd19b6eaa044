"""A reference to a LoRA adapter, FILE[:SCALE], to what an engine can use: a GGUF file and its scale.

A PEFT directory is converted into the cache for the model that it is wanted for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.conversion_cache import ConversionCache
from edge.errors import EdgeError
from edge.models import cache_directory
from edge.settings import AdapterSettings

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

QUANTIZATION = "F32"  # an adapter is small, and every rounding of it is added to all that the model rounds


def split_scale(reference: str) -> tuple[Path, float]:
    """The path and the scale, 1 if none is given. EdgeError for a scale that is not a number."""
    whole = Path(reference).expanduser()
    name, colon, scale = reference.rpartition(":")
    if not colon or whole.exists():
        return whole, 1.0
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise EdgeError(
            f"The scale of the adapter in {reference!r} is {scale!r}, which is not a number.",
            hint="Write it behind a colon, such as adapter.gguf:0.5, or leave it out.",
        )
    return Path(name).expanduser(), number


def resolve_adapter(reference: str, model: Path) -> AdapterSettings:
    """The adapter that `reference` means, ready for the GGUF file `model`."""
    path, scale = split_scale(reference)
    if path.is_dir():
        path = _converted(path.resolve(), model.resolve())
    elif not path.is_file():
        raise EdgeError(
            f"There is no adapter {str(path)!r}: no such file or directory.",
            hint="Give a GGUF adapter, or a PEFT directory that holds adapter_config.json.",
        )
    return AdapterSettings(path, scale)


def _converted(directory: Path, model: Path) -> Path:
    def convert(
        source: Path, quantizations: Sequence[str], out: Path, *, progress: ProgressCallback | None = None
    ) -> list[Path]:
        from convert.pipeline import convert_adapter

        return [convert_adapter(source, model, quantizations[0], out, force=True, progress=progress)]

    status = model.stat()
    cache = ConversionCache(cache_directory() / "adapters", convert)
    return cache.gguf(
        directory,
        name=directory.name,
        origin=f"{directory}\n{model}\n{status.st_size}\n{status.st_mtime_ns}",
        quantization=QUANTIZATION,
    )
