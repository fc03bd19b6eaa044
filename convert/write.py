"""Streams a conversion plan into its files: each slab is read once and encoded for every file.

Every slab's place is known beforehand, so threads write where they are done, in any order. A file has the suffix
`.part` until it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.plan import ConversionPlan, FilePlan
from convert.pool import ProgressCallback, work_through
from convert.shards import ShardMaps
from convert.slabs import Slab, read_slab, refuse_non_finite, release_slab, slabs, source_bytes
from edge.errors import EdgeError
from edge.llama.quantize import is_sound, quantize_rows


class PartFile:
    """A file that appears under its name only when it is complete; until then it is `.part`, and gone on failure."""

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self._part = plan.path.with_name(plan.path.name + ".part")
        self._file = self._part.open("w+b", buffering=0)
        self._lock = threading.Lock()
        self._file.truncate(plan.file_bytes)

    def write_at(self, content: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        view = memoryview(content if isinstance(content, bytes) else content.data)
        while view:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._file.fileno(), view, offset)
            else:
                with self._lock:
                    self._file.seek(offset)
                    written = self._file.write(view)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        self._file.close()
        self._part.replace(self.plan.path)
        _sync_directory(self.plan.path.parent)

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def write_files(plan: ConversionPlan, *, threads: int | None, progress: ProgressCallback | None = None) -> list[Path]:
    """Write every file of a plan. On any error or interrupt no file is left, neither finished nor partial."""
    check_free_space(plan.files)
    with contextlib.ExitStack() as cleanup:
        maps = cleanup.enter_context(ShardMaps())
        files: list[PartFile] = []
        for file_plan in plan.files:
            file_plan.path.parent.mkdir(parents=True, exist_ok=True)
            file = PartFile(file_plan)
            cleanup.callback(file.discard)
            files.append(file)
        with _disk_errors():
            for file in files:
                file.write_at(file.plan.header, 0)
            _write_tensors(plan, files, maps, threads, progress)
            for file in files:
                file.sync()
            for file in files:
                file.commit()
        return [file.plan.path for file in files]


def check_free_space(files: Sequence[FilePlan]) -> None:
    """EdgeError if the planned files do not fit on their disks."""
    needed: dict[Path, int] = {}
    for file in files:
        folder = file.path.absolute().parent
        needed[folder] = needed.get(folder, 0) + file.file_bytes
    for folder, needed_bytes in needed.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free_bytes = shutil.disk_usage(existing).free
        if free_bytes < needed_bytes:
            raise EdgeError(
                f"{folder} has {free_bytes / 1e9:.2f} GB free; the conversion needs {needed_bytes / 1e9:.2f} GB.",
                hint="Free some space or write elsewhere with --out.",
            )


def _write_tensors(
    plan: ConversionPlan,
    files: Sequence[PartFile],
    maps: ShardMaps,
    threads: int | None,
    progress: ProgressCallback | None,
) -> None:
    pending = (slab for tensor in plan.tensors for slab in slabs(tensor, plan.hyperparameters))
    work_through(
        pending,
        lambda slab: _convert_slab(slab, plan, files, maps),
        size_bytes=source_bytes,
        threads=threads,
        total_bytes=plan.source_bytes,
        progress=progress,
    )


def _convert_slab(slab: Slab, plan: ConversionPlan, files: Sequence[PartFile], maps: ShardMaps) -> None:
    values = read_slab(slab, plan.hyperparameters, maps)
    release_slab(slab, maps)
    encoded_types: dict[str, npt.NDArray[np.uint8]] = {}
    for file in files:
        kind = file.plan.types[slab.tensor.name]
        row_bytes = kind.row_bytes(slab.tensor.columns)
        encoded = encoded_types.get(kind.name)
        if encoded is None:
            encoded = np.empty(len(values) * row_bytes, np.uint8)
            quantize_rows(values, kind, encoded)
            if not is_sound(encoded, kind):
                refuse_non_finite(slab, values, kind.name)
            encoded_types[kind.name] = encoded
        file.write_at(encoded, file.plan.offsets[slab.tensor.name] + slab.first * row_bytes)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeError(
            f"Writing failed: {error.strerror or error}.", hint="Free some space or write elsewhere with --out."
        ) from error


def _sync_directory(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
