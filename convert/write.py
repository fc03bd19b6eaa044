"""Streams a conversion plan into its files: each slab is read once and encoded for every file.

Every slab's place is known beforehand, so threads write where they are done, in any order. A file has the suffix
`.part` until it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from convert.plan import ConversionPlan, FilePlan
from convert.pool import ProgressCallback, work_through
from convert.shards import ShardMaps
from convert.slabs import Slab, read_slab, release_slab, slabs, source_bytes
from edge.errors import EdgeError
from edge.gguf_format import TensorType
from edge.llama.quantize import is_sound, quantize_rows
from edge.quantities import size_text


class PartFile:
    """A file that appears under its name only when it is complete; until then it is `.part`, and gone on failure.

    Every method raises an EdgeError that names the file when the disk or its rights do not allow what is asked.
    """

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self._part = plan.path.with_name(plan.path.name + ".part")
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._is_temporary = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._file:
            self._file.close()
        if self._is_temporary:
            with contextlib.suppress(OSError):
                self._part.unlink()

    def create(self) -> None:
        """Make the file in its final size, with nothing in it."""
        with _naming(self.plan.path.parent):
            self.plan.path.parent.mkdir(parents=True, exist_ok=True)
        with _naming(self.plan.path):
            self._is_temporary = True  # before it exists, so that no interrupt can leave it behind
            self._file = io.FileIO(self._part, "w+")
            self._file.truncate(self.plan.file_bytes)

    def write_at(self, content: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        view = memoryview(content if isinstance(content, bytes) else content.data)
        with _naming(self.plan.path):
            while view:
                written = self._write_some(view, offset)
                view, offset = view[written:], offset + written

    def sync(self) -> None:
        with _naming(self.plan.path):
            os.fsync(self._opened.fileno())

    def commit(self) -> None:
        """Put the file under its name."""
        self._opened.close()
        with _naming(self.plan.path):
            self._part.replace(self.plan.path)
        self._is_temporary = False
        _sync_directory(self.plan.path.parent)

    @property
    def _opened(self) -> io.FileIO:
        assert self._file is not None, f"{self._part} has not been created"
        return self._file

    def _write_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._opened.fileno(), view, offset)
        with self._lock:
            self._opened.seek(offset)
            return self._opened.write(view)


def write_files(plan: ConversionPlan, *, threads: int | None, progress: ProgressCallback | None = None) -> list[Path]:
    """Write every file of a plan.

    On any error or interrupt nothing is left of them, and a file that they would have replaced stays as it was; only
    one that interrupts the final renaming may leave some of them complete.
    """
    check_free_space(plan.files)
    with contextlib.ExitStack() as cleanup:
        maps = cleanup.enter_context(ShardMaps())
        files = [cleanup.enter_context(PartFile(file)) for file in plan.files]
        for file in files:
            file.create()
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
                f"{folder} has {size_text(free_bytes)} free; the conversion needs {size_text(needed_bytes)}.",
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
                _refuse_overflow(slab, kind)
            encoded_types[kind.name] = encoded
        file.write_at(encoded, file.plan.offsets[slab.tensor.name] + slab.first * row_bytes)


def _refuse_overflow(slab: Slab, kind: TensorType) -> NoReturn:
    name = slab.tensor.source.name if slab.tensor.source else slab.tensor.name
    raise EdgeError(f"The tensor {name!r} holds values that {kind.name} cannot express.", hint="Choose BF16 or F32.")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn the system's errors into one that names the file being made."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise EdgeError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint=f"{'Free some space' if is_full else 'Check the folder'} or write elsewhere with --out.",
        ) from error


def _sync_directory(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
