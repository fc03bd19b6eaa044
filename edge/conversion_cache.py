"""Checkpoints converted once: the GGUF file of a checkpoint directory, made when it is first asked for.

Layout: models/<name>-<origin>-<fingerprint>/<name>-<QUANT>.gguf, where <origin> stays the same when a checkpoint
changes and <fingerprint> does not. A file is found again with a few calls of stat: neither numpy nor the converter is
imported then.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.errors import EdgeError
from edge.stored_files import held

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

CONVERTER_VERSION = 1  # raise it when conversions come out different, so that those in caches are made anew

_SOURCE_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
_HEAD_BYTES = 64 * 1024  # of a weight file that are read for its fingerprint: its header and the first weights
_NAME_LIMIT = 80  # characters of a model's name that go into names of the cache


class Converter(Protocol):
    """What makes a GGUF file of a checkpoint directory: `convert.pipeline.convert_checkpoint`, or a fake in tests."""

    def __call__(
        self, source: Path, quantizations: Sequence[str], out: Path, *, progress: ProgressCallback | None = None
    ) -> list[Path]: ...


def convert_in_process(
    source: Path, quantizations: Sequence[str], out: Path, *, progress: ProgressCallback | None = None
) -> list[Path]:
    """The real converter, imported when it is needed. A file that is at `out` already is replaced."""
    from convert.pipeline import convert_checkpoint

    return convert_checkpoint(source, quantizations, out, force=True, progress=progress)


@dataclass(frozen=True)
class ConversionCache:
    """The conversions below `folder`, which several processes may use at once."""

    folder: Path
    converter: Converter = convert_in_process
    progress: ProgressCallback | None = None

    def gguf(self, checkpoint: Path, *, name: str, origin: str, quantization: str) -> Path:
        """The checkpoint as a GGUF file. Conversions of what was at the same `origin` before are deleted."""
        name = name[:_NAME_LIMIT]
        key = f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
        target = self.folder / "models" / f"{key}-{fingerprint(checkpoint)}" / f"{name}-{quantization}.gguf"
        if target.is_file():
            return target
        with held(self.folder / "locks" / f"{key}.lock", target.name):
            if not target.is_file():  # or else another process was faster
                self._convert(checkpoint, quantization, target)
                self._delete_superseded(key, target.parent)
        return target

    def _convert(self, checkpoint: Path, quantization: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.converter(checkpoint, [quantization], target, progress=self.progress)
        finally:
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # only when nothing came of it

    def _delete_superseded(self, key: str, current: Path) -> None:
        for folder in current.parent.glob(f"{glob.escape(key)}-*"):
            if folder != current:
                shutil.rmtree(folder, ignore_errors=True)


def fingerprint(checkpoint: Path) -> str:
    """Changes when the checkpoint may have: its files' names, sizes and times, and the head of each weight file."""
    digest = hashlib.sha256(str(CONVERTER_VERSION).encode())
    try:
        with os.scandir(checkpoint) as entries:
            sources = sorted((entry for entry in entries if entry.name.endswith(_SOURCE_SUFFIXES)), key=os.fspath)
        for entry in sources:
            status = entry.stat()
            digest.update(f"\n{entry.name}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
            if entry.name.endswith(".safetensors"):
                with open(entry.path, "rb") as file:  # noqa: PTH123 - a Path would cost more than the rest
                    digest.update(file.read(_HEAD_BYTES))
    except OSError as error:
        raise EdgeError(f"{checkpoint} cannot be read: {error.strerror or error} ({error.filename}).") from error
    return digest.hexdigest()[:12]
