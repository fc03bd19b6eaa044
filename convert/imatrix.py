"""Importance matrices: how much each column of a weight matrix matters, as measured on text, and llama.cpp's files.

    GGUF     keys imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; for each weight tensor two F32 tensors:
             NAME.in_sum2 [experts, columns], sums of squared inputs, and NAME.counts [experts, 1], rows they are of
    legacy   entry count i32 | each entry: name length i32, name, calls i32, value count i32, values f32 | chunks i32,
             dataset length i32, dataset: values are means times calls

Source: llama.cpp, tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp, tools/quantize/quantize.cpp (load_imatrix).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from convert.gguf_header import TensorHeader, header_bytes
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf_container
from edge.gguf_format import DEFAULT_ALIGNMENT, MAGIC, TENSOR_TYPES, MetadataEntry, ValueType, align
from edge.whole_file import written_whole

Floats = npt.NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNK_COUNT, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_MAX_LEGACY_BYTES = 1 << 30
_LONGEST_NAME = 1 << 10
_GET_AGAIN = "The file is damaged or no importance matrix: make it again with --calibrate."


@dataclass(frozen=True)
class TensorImportance:
    """Sums of squared inputs [experts or 1, columns], and of how many rows each sum is."""

    sums: Floats
    counts: npt.NDArray[np.int64]

    @cached_property
    def weights(self) -> Floats:
        """Mean squares, flat: of one expert after another; 1 for an expert that no token reached."""
        rows = self.sums.reshape(len(self.counts), -1)
        counts = self.counts.astype(np.float32)[:, None]
        means = np.divide(rows, counts, out=np.ones_like(rows), where=counts > 0)
        return np.ascontiguousarray(means.reshape(-1))


@dataclass(frozen=True)
class ImportanceMatrix:
    """What was measured for each weight tensor, by its GGUF name, and on what."""

    name: str
    """The file it comes from, or the text it was measured on."""
    entries: Mapping[str, TensorImportance]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_tokens: int = 0

    def metadata(self) -> list[MetadataEntry]:
        """The keys that a file made with this matrix carries, as those of llama.cpp's quantizer."""
        keys = [MetadataEntry("quantize.imatrix.file", ValueType.STRING, self.name)]
        if self.datasets:
            keys.append(MetadataEntry("quantize.imatrix.dataset", ValueType.STRING, self.datasets[0]))
        keys.append(MetadataEntry("quantize.imatrix.entries_count", ValueType.UINT32, len(self.entries)))
        if self.chunk_count:
            keys.append(MetadataEntry("quantize.imatrix.chunks_count", ValueType.UINT32, self.chunk_count))
        return keys


def check_matrix(matrix: ImportanceMatrix, shapes: Mapping[str, Sequence[int]]) -> None:
    """EdgeError that names the first tensor where a matrix does not belong to a model of these shapes."""
    for name, entry in sorted(matrix.entries.items()):
        shape = shapes.get(name)
        if shape is None:
            raise _other_model(matrix, f"it knows {name!r}, which the model does not have")
        wanted = shape[-1] * (shape[0] if len(shape) > 2 else 1)
        if entry.sums.size != wanted:
            raise _other_model(matrix, f"it has {entry.sums.size} values for {name!r}, which needs {wanted}")
    known = {_without_block(name) for name in matrix.entries}
    for name in shapes:
        if name.startswith("blk.") and name not in matrix.entries and _without_block(name) in known:
            raise _other_model(matrix, f"it has nothing for {name!r}")


def _without_block(name: str) -> str:
    return name.partition(".")[2].partition(".")[2] if name.startswith("blk.") else name


def _other_model(matrix: ImportanceMatrix, reason: str) -> EdgeError:
    return EdgeError(
        f"The importance matrix {matrix.name} is of another model: {reason}.",
        hint="Measure one for this model with --calibrate.",
    )


def expert_rows(first: int, last: int, rows_per_expert: int) -> Iterable[tuple[int, int, int]]:
    """Rows `first` up to `last` of a stack, cut where experts end: expert, first row, last row of each piece."""
    while first < last:
        expert = first // rows_per_expert
        end = min(last, (expert + 1) * rows_per_expert)
        yield expert, first, end
        first = end


# Reading


def read_imatrix(path: Path) -> ImportanceMatrix:
    """An importance matrix in either of llama.cpp's formats. EdgeError for anything else, and for values of no use."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.", hint="Check the path.") from error
    matrix = _read_gguf_matrix(path) if magic == MAGIC else _read_legacy_matrix(path)
    if not matrix.entries:
        raise EdgeError(f"{path} holds no importance of any tensor.", hint=_GET_AGAIN)
    for name, entry in matrix.entries.items():
        check_values(path.name, name, entry)
    return matrix


def check_values(origin: str, name: str, entry: TensorImportance) -> None:
    """EdgeError if the sums are no sums of squares."""
    if not np.isfinite(entry.sums).all():
        raise EdgeError(f"{origin} holds NaN or infinity for {name!r}.", hint=_GET_AGAIN)
    if (entry.sums < 0).any() or (entry.counts < 0).any():
        raise EdgeError(f"{origin} holds negative numbers for {name!r}.", hint=_GET_AGAIN)


def _read_gguf_matrix(path: Path) -> ImportanceMatrix:
    file = read_gguf_container(path)
    if file.metadata.get("general.type") == "model" or _CHUNK_COUNT not in file.metadata:
        raise EdgeError(f"{path} is a GGUF file, but no importance matrix: it has no {_CHUNK_COUNT}.", hint=_GET_AGAIN)
    names = sorted({name.removesuffix(suffix) for suffix in (SUMS, COUNTS) for name in file.tensors if suffix in name})
    content = np.memmap(path, np.uint8, "r")
    return ImportanceMatrix(
        path.name,
        {name: _read_entry(file, name, content) for name in names},
        tuple(map(str, cast(Any, file.metadata.get(_DATASETS, ())))),
        _whole_number(file, _CHUNK_COUNT),
        _whole_number(file, _CHUNK_SIZE),
    )


def _read_entry(file: GGUFFile, name: str, content: npt.NDArray[np.uint8]) -> TensorImportance:
    values = []
    for suffix in (SUMS, COUNTS):
        tensor = file.tensors.get(name + suffix)
        if tensor is None or tensor.type.name != "F32":
            what = "is missing" if tensor is None else f"is {tensor.type.name} instead of F32"
            raise EdgeError(f"{file.path}: {name + suffix!r} {what}.", hint=_GET_AGAIN)
        values.append(content[tensor.offset : tensor.offset + tensor.n_bytes].view(np.float32).copy())
    sums, counts = values
    if sums.size % counts.size or not np.isfinite(counts).all():
        raise EdgeError(
            f"{file.path}: the counts of {name!r} do not fit its {sums.size} sums.",
            hint=_GET_AGAIN,
        )
    return TensorImportance(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))


def _whole_number(file: GGUFFile, key: str) -> int:
    value = file.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _read_legacy_matrix(path: Path) -> ImportanceMatrix:
    if path.stat().st_size > _MAX_LEGACY_BYTES:
        raise EdgeError(f"{path} is too large for an importance matrix.", hint=_GET_AGAIN)
    content = memoryview(path.read_bytes())
    position = 0

    def take(n_bytes: int) -> memoryview:
        nonlocal position
        if not 0 <= n_bytes <= len(content) - position:
            raise EdgeError(f"{path} is no importance matrix, or cut off.", hint=_GET_AGAIN)
        position += n_bytes
        return content[position - n_bytes : position]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    entries = {}
    for _ in range(number()):
        name = bytes(take(min(number(), _LONGEST_NAME))).decode("utf-8", "replace")
        calls = number()
        sums = np.frombuffer(take(4 * number()), "<f4").astype(np.float32)
        entries[name] = TensorImportance(sums.reshape(1, -1), np.array([max(calls, 1)], np.int64))
    if position == len(content):
        return ImportanceMatrix(path.name, entries)
    chunk_count = number()
    dataset = bytes(take(number())).decode("utf-8", "replace")
    return ImportanceMatrix(path.name, entries, (dataset,) if dataset else (), chunk_count)


# Writing


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write a matrix as GGUF, tensors by name. The file appears complete or not at all."""
    metadata = [
        MetadataEntry("general.type", ValueType.STRING, "imatrix"),
        MetadataEntry(_DATASETS, ValueType.ARRAY, list(matrix.datasets), ValueType.STRING),
        MetadataEntry(_CHUNK_COUNT, ValueType.UINT32, matrix.chunk_count),
        MetadataEntry(_CHUNK_SIZE, ValueType.UINT32, matrix.chunk_tokens),
    ]
    stored = {}
    for name, entry in sorted(matrix.entries.items()):
        stored[name + SUMS] = entry.sums
        stored[name + COUNTS] = entry.counts.astype(np.float32)[:, None]
    headers, body = [], bytearray()
    for name, values in stored.items():
        headers.append(TensorHeader(name, values.shape, TENSOR_TYPES["F32"], len(body)))
        body += np.ascontiguousarray(values, "<f4").tobytes()
        body += bytes(align(len(body), DEFAULT_ALIGNMENT) - len(body))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(header_bytes(metadata, headers) + body)
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error.strerror or error}.", hint="Check the folder.") from error
