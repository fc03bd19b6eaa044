"""Weights by memory map: row slabs of source tensors as numpy views, and their pages given back after use."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.safetensors_file import SourceTensor
from edge.errors import EdgeError

# numpy has no bfloat16 and no 8-bit floats: those come as the unsigned integers that hold their bits
VIEW_TYPES: dict[str, str] = {
    "BOOL": "u1",
    "U8": "u1",
    "I8": "i1",
    "F8_E5M2": "u1",
    "F8_E4M3": "u1",
    "F8_E8M0": "u1",
    "F8_E4M3FNUZ": "u1",
    "F8_E5M2FNUZ": "u1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
}

# A page fault also maps the pages around it, up to a whole large folio of the page cache
FAULT_WINDOW_BYTES = 2 * 1024 * 1024


class ShardMaps:
    """The files of a checkpoint, each mapped read-only when it is first needed. May be used from several threads."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> ShardMaps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the files; a map that a view still needs goes when the view goes."""
        for mapped in self._maps.values():
            try:
                mapped.close()
            except BufferError:
                continue
        self._maps.clear()

    def rows(self, tensor: SourceTensor, first_row: int, last_row: int) -> npt.NDArray[Any]:
        """Rows `first_row` up to, but without, `last_row` as `[rows, columns]` in the source type (BF16 as uint16).

        A read-only view that costs no memory until it is read; a copy when the tensor is not aligned in its file.
        """
        assert 0 <= first_row <= last_row <= tensor.rows, f"rows {first_row}..{last_row} of {tensor}"
        if tensor.dtype not in VIEW_TYPES:
            raise EdgeError(f"{tensor.file}: {tensor.name} is {tensor.dtype}, which has no values to read.")
        item_type = np.dtype(VIEW_TYPES[tensor.dtype])
        shape = (last_row - first_row, tensor.columns)
        if 0 in shape:
            return np.empty(shape, item_type)
        offset = tensor.offset + first_row * tensor.columns * item_type.itemsize
        view = np.frombuffer(self._map(tensor), item_type, shape[0] * shape[1], offset).reshape(shape)
        return view if view.flags.aligned else view.copy()

    def encoded_rows(self, tensor: SourceTensor, first_row: int, last_row: int) -> npt.NDArray[np.uint8]:
        """The bytes of rows `first_row` up to `last_row` in a block type of GGUF, as a read-only view."""
        row_bytes = tensor.n_bytes // tensor.rows
        count = (last_row - first_row) * row_bytes
        return np.frombuffer(self._map(tensor), np.uint8, count, tensor.offset + first_row * row_bytes)

    def read_ahead(self, tensor: SourceTensor, first_row: int, last_row: int) -> None:
        """Has the system read these rows from the disk while something else is done. A vector is read whole."""
        if not hasattr(mmap, "MADV_WILLNEED") or not tensor.n_bytes:
            return
        row_bytes = tensor.n_bytes // tensor.rows
        last_row = min(last_row, tensor.rows)
        first_row = min(first_row, last_row - 1)
        mapped = self._map(tensor)
        begin = (tensor.offset + first_row * row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, begin, tensor.offset + last_row * row_bytes - begin)

    def release(self, tensor: SourceTensor, first_row: int, last_row: int) -> None:
        """Lets the system take back the memory of these rows; reading them again fetches them from the file.

        Rounds outwards to the window that a page fault may have filled; what is dropped of other rows comes back
        from the page cache when it is read.
        """
        if not hasattr(mmap, "MADV_DONTNEED") or first_row == last_row or not tensor.n_bytes:
            return
        row_bytes = tensor.n_bytes // tensor.rows
        window = max(FAULT_WINDOW_BYTES, mmap.PAGESIZE)
        mapped = self._map(tensor)
        begin = (tensor.offset + first_row * row_bytes) // window * window
        end = min(-(-(tensor.offset + last_row * row_bytes) // window) * window, len(mapped))
        mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def _map(self, tensor: SourceTensor) -> mmap.mmap:
        with self._lock:
            if tensor.file not in self._maps:
                self._maps[tensor.file] = _map_file(tensor.file)
            mapped = self._maps[tensor.file]
        if len(mapped) < tensor.offset + tensor.n_bytes:
            raise EdgeError(
                f"{tensor.file} has {len(mapped)} bytes; {tensor.name} ends at {tensor.offset + tensor.n_bytes}.",
                hint="The file changed while it was read: start again when it is complete.",
            )
        return mapped


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise EdgeError(f"{path} cannot be mapped into memory: {error}.") from error
