"""Streams a conversion plan into its files: each slab is read once and encoded for every file.

Every slab's place is known beforehand, so threads write where they are done, in any order. A model has the suffix
`.part` until it is complete and on the disk, and until it has been judged.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from convert.claim import Claim, ClaimedError
from convert.encode import encode_rows
from convert.imatrix import ImportanceMatrix, expert_rows
from convert.layout import PartPlan
from convert.plan import ConversionPlan, FilePlan
from convert.pool import ProgressCallback, work_through
from convert.shards import ShardMaps
from convert.slabs import Slab, read_ahead, read_slab, release_slab, slabs, source_bytes, stored_encoding
from edge.errors import EdgeError
from edge.gguf_format import TensorType
from edge.llama.quantize import is_sound
from edge.quantities import size_text

Judge = Callable[[FilePlan, Path], bool]
"""Says whether a model may get its name; the path is that of its file, or of its first part, until it has one."""


class PendingModel:
    """A model whose files appear under their names only when they are complete and accepted.

    Until then it is `NAME.gguf.part`: a file, or a folder with the parts of a split model under their final names,
    from which llama.cpp loads them. It is gone on failure, and `NAME.gguf.rejected` if it was judged to be wrong.
    Every method raises an EdgeError that names the file when the disk or its rights do not allow what is asked.
    """

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self._part = plan.path.with_name(plan.path.name + ".part")
        self._is_split = len(plan.parts) > 1
        self._files = [_File(part, self._pending_path(part)) for part in plan.parts]
        self._file_of = {name: file for file in self._files for name in file.plan.offsets}
        self._is_temporary = False
        self._claim: Claim | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for file in self._files:
            file.close()
        if self._is_temporary:
            self._remove_part()
        if self._claim:
            self._claim.release()

    def create(self) -> None:
        """Make the files in their final size, with nothing but their headers in them.

        EdgeError if another conversion is making them.
        """
        folder = self._part if self._is_split else self._part.parent
        with _naming(self.plan.path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self._is_temporary = True  # before a file exists, so that no interrupt can leave it behind
        try:
            with _naming(self.plan.path):
                self._claim = Claim(self._part, made_for=self.plan.path)
        except ClaimedError:
            self._is_temporary = False
            raise
        for file in self._files:
            file.create()

    def write_rows(self, tensor: str, first: int, encoded: npt.NDArray[np.uint8], row_bytes: int) -> None:
        """Put encoded rows of a tensor, from row `first` on, into their place."""
        file = self._file_of[tensor]
        file.write_at(encoded, file.plan.offsets[tensor] + first * row_bytes)

    def sync(self) -> None:
        for file in self._files:
            file.sync()

    @property
    def path(self) -> Path:
        """The file to load, as long as the model has no name yet."""
        return self._files[0].path

    def commit(self) -> None:
        """Put the files under their names."""
        for file in self._files:
            file.close()
            with _naming(file.plan.path):
                file.path.replace(file.plan.path)
        self._is_temporary = False
        if self._is_split:
            self._remove_part()
        _sync_directory(self.plan.path.parent)

    def reject(self) -> None:
        """Keep the files where nobody takes them for a model; what stands under their names stays."""
        for file in self._files:
            file.close()
        target = rejected_path(self.plan.path)
        with _naming(target):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            self._part.replace(target)
        self._is_temporary = False

    def _remove_part(self) -> None:
        if self._is_split:
            shutil.rmtree(self._part, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _pending_path(self, part: PartPlan) -> Path:
        return self._part / part.path.name if self._is_split else self._part


def rejected_path(path: Path) -> Path:
    """Where a model is left that was not accepted."""
    return path.with_name(path.name + ".rejected")


class _File:
    """One open file of a pending model."""

    def __init__(self, plan: PartPlan, path: Path) -> None:
        self.plan = plan
        self.path = path
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None

    def create(self) -> None:
        with _naming(self.plan.path):
            self._file = io.FileIO(self.path, "w+")
            self._file.truncate(self.plan.file_bytes)
        self.write_at(self.plan.header, 0)

    def write_at(self, content: bytes | npt.NDArray[np.uint8], offset: int) -> None:
        view = memoryview(content if isinstance(content, bytes) else content.data)
        with _naming(self.plan.path):
            while view:
                written = self._write_some(view, offset)
                view, offset = view[written:], offset + written

    def sync(self) -> None:
        with _naming(self.plan.path):
            os.fsync(self._opened.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()

    @property
    def _opened(self) -> io.FileIO:
        assert self._file is not None, f"{self.path} has not been created"
        return self._file

    def _write_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._opened.fileno(), view, offset)
        with self._lock:
            self._opened.seek(offset)
            return self._opened.write(view)


def write_files(
    plan: ConversionPlan, *, threads: int | None, progress: ProgressCallback | None = None, judge: Judge | None = None
) -> list[Path]:
    """Write every file of a plan; gives the file to load of each model that was accepted by the judge.

    On any error or interrupt nothing is left of them, and a file that they would have replaced stays as it was; only
    one that interrupts the final renaming may leave some of them complete.
    """
    check_free_space(plan.files)
    with contextlib.ExitStack() as cleanup:
        maps = cleanup.enter_context(ShardMaps())
        models = [cleanup.enter_context(PendingModel(file)) for file in plan.files]
        for model in models:
            model.create()
        _write_tensors(plan, models, maps, threads, progress)
        for model in models:
            model.sync()
        accepted = [judge is None or judge(model.plan, model.path) for model in models]
        for model, is_accepted in zip(models, accepted, strict=True):
            if is_accepted:
                model.commit()
            else:
                model.reject()
    return [model.plan.first_path for model, is_accepted in zip(models, accepted, strict=True) if is_accepted]


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
    models: Sequence[PendingModel],
    maps: ShardMaps,
    threads: int | None,
    progress: ProgressCallback | None,
) -> None:
    pending = read_ahead((slab for tensor in plan.tensors for slab in slabs(tensor)), maps)
    work_through(
        pending,
        lambda slab: _convert_slab(slab, plan, models, maps),
        size_bytes=source_bytes,
        threads=threads,
        total_bytes=plan.source_bytes,
        progress=progress,
    )


def _convert_slab(slab: Slab, plan: ConversionPlan, models: Sequence[PendingModel], maps: ShardMaps) -> None:
    values = read_slab(slab, maps)
    encoded_types: dict[str, npt.NDArray[np.uint8]] = {}
    for model in models:
        kind = model.plan.types[slab.tensor.name]
        row_bytes = kind.row_bytes(slab.tensor.columns)
        encoded = encoded_types.get(kind.name)
        if encoded is None:
            encoded = stored_encoding(slab, kind, maps)
            if encoded is None:
                encoded = _encode(slab, values, kind, plan.matrix)
            if not is_sound(encoded, kind):
                _refuse_overflow(slab, kind)
            encoded_types[kind.name] = encoded
        model.write_rows(slab.tensor.name, slab.first, encoded, row_bytes)
    release_slab(slab, maps)


def _encode(
    slab: Slab, values: npt.NDArray[np.float32], kind: TensorType, matrix: ImportanceMatrix | None
) -> npt.NDArray[np.uint8]:
    """The slab's rows as `kind`; each expert's with its own importance, if any was measured."""
    row_bytes = kind.row_bytes(slab.tensor.columns)
    encoded = np.empty(len(values) * row_bytes, np.uint8)
    entry = matrix.entries.get(slab.tensor.name) if matrix else None
    if entry is None:
        encode_rows(values, kind, encoded)
        return encoded
    weights = entry.weights.reshape(-1, slab.tensor.columns)
    for expert, first, last in expert_rows(slab.first, slab.last, slab.tensor.rows // len(weights)):
        rows = slice(first - slab.first, last - slab.first)
        encode_rows(values[rows], kind, encoded[rows.start * row_bytes : rows.stop * row_bytes], weights[expert])
    return encoded


def _refuse_overflow(slab: Slab, kind: TensorType) -> NoReturn:
    name = slab.source.tensor.name if slab.source else slab.tensor.name
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
