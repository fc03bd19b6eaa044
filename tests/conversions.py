"""Conversions without their proof, which takes longer than they do and has tests of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convert.pipeline import plan_checkpoint
from convert.plan import NO_OPTIONS, ConversionOptions
from convert.write import write_files


def convert_unproven(
    source: Path, quantizations: Sequence[str], out: Path, options: ConversionOptions = NO_OPTIONS
) -> list[Path]:
    """The files to load, one for each quantization."""
    return write_files(plan_checkpoint(source, quantizations, out, options=options), threads=1)
