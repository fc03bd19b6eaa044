"""The proof: reads a GGUF file back and shows that it holds what it should.

Alone, a file has to be complete for its architecture, of the right shapes, and finite throughout. Against its
checkpoint, every tensor's error has to stay within what its type can do: a wrong permutation, scale or name does not.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from convert.families import FAMILIES, Family
from convert.families.record import in_every_layer
from convert.plan import ConversionPlan, open_source, plan_conversion
from convert.pool import ProgressCallback, work_through
from convert.quantization_error import ERROR_BOUNDS, ErrorSums, TensorError
from convert.shards import ShardMaps
from convert.slabs import SLAB_ELEMENTS, Slab, read_ahead, read_slab, release_slab, slabs, source_bytes
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, TensorInfo, read_gguf
from edge.llama.quantize import dequantize_rows, is_sound

_WEIGHTED_KEY = "quantize.imatrix.entries_count"  # in every file that was made with an importance matrix
_OTHER_CHECKPOINT = "The file was made from another checkpoint."


@dataclass(frozen=True)
class TensorProof:
    """What was read. `errors`, the nearest to its bound first, is empty if no checkpoint was compared with."""

    path: Path
    tensor_count: int
    file_bytes: int
    family: str | None
    """None if the architecture is not in the table, so that completeness could not be checked."""
    errors: tuple[TensorError, ...] = ()

    @property
    def summary(self) -> str:
        """In a line for a person."""
        if not self.errors:
            completeness = "complete" if self.family else "of an architecture without a completeness check"
            return f"{self.tensor_count} tensors, {completeness}, all finite"
        worst = self.errors[0]
        if not worst.relative_error:
            return f"{self.tensor_count} tensors equal their source exactly"
        return (
            f"{self.tensor_count} tensors match their source; worst {worst.name}:"
            f" {worst.relative_error:.2%} ({worst.type})"
        )


def verify_file(path: Path, *, threads: int | None = None, progress: ProgressCallback | None = None) -> TensorProof:
    """Read a file back by itself. EdgeError for the first tensor that is missing, misshapen or not finite."""
    file = read_gguf(path)
    family = _family_of(file)
    if family:
        _check_complete(file, family)
    with _MappedTensors() as mapped:

        def check(rows: _Rows) -> None:
            _check_finite(mapped.read(rows), rows)

        work_through(
            (rows for tensor in file.tensors.values() for rows in _cut(tensor)),
            check,
            size_bytes=lambda rows: rows.n_bytes,
            threads=threads,
            total_bytes=sum(tensor.n_bytes for tensor in file.tensors.values()),
            progress=progress,
        )
    return TensorProof(path, len(file.tensors), file.file_bytes, family.name if family else None)


def verify_against(
    path: Path, source: Path, *, threads: int | None = None, progress: ProgressCallback | None = None
) -> TensorProof:
    """Compare every tensor of a file with the checkpoint it was made of. EdgeError for one that is out of bounds."""
    return verify_planned(read_gguf(path), plan_conversion(open_source(source), {}), threads=threads, progress=progress)


def verify_planned(
    file: GGUFFile, plan: ConversionPlan, *, threads: int | None = None, progress: ProgressCallback | None = None
) -> TensorProof:
    """Compare every tensor of a file with what a plan makes of its sources. EdgeError for one that is out of bounds."""
    _check_comparable(file, plan)
    sums = ErrorSums(is_weighted=_WEIGHTED_KEY in file.metadata)
    with ShardMaps() as maps, _MappedTensors() as mapped:

        def compare(slab: Slab) -> None:
            tensor = file.tensors[slab.tensor.name]
            rows = _Rows(tensor, slab.first, slab.last)
            encoded = mapped.read(rows)
            _check_finite(encoded, rows)
            wanted = read_slab(slab, maps)
            release_slab(slab, maps)
            found = dequantize_rows(encoded, tensor.type, slab.tensor.columns)
            sums.add(tensor.name, tensor.type, slab.first, wanted, found)

        work_through(
            read_ahead((slab for tensor in plan.tensors for slab in slabs(tensor)), maps),
            compare,
            size_bytes=source_bytes,
            threads=threads,
            total_bytes=plan.source_bytes,
            progress=progress,
        )
    errors = sums.by_tensor()
    _refuse_errors(file.path, errors)
    return TensorProof(file.path, len(file.tensors), file.file_bytes, plan.family, errors)


def _refuse_errors(path: Path, errors: Sequence[TensorError]) -> None:
    """EdgeError for the worst of the errors if it is out of bounds, or for a block that is."""
    worst = errors[0]
    if worst.share_of_bound > 1:
        raise EdgeError(
            f"{path}: the tensor {worst.name!r} ({worst.type}) is off by {worst.relative_error:.3g} of its size;"
            f" {worst.bound:.3g} is the limit.",
            hint="The file was not made from this checkpoint or is damaged: convert it again.",
        )
    damaged = next((error for error in errors if error.damaged_row is not None), None)
    if damaged:
        raise EdgeError(
            f"{path}: the tensor {damaged.name!r} is off by more than {damaged.type} rounds, in row"
            f" {damaged.damaged_row}.",
            hint="The file is damaged: convert it again.",
        )


@dataclass(frozen=True)
class _Rows:
    """Rows `first` up to, but without, `last` of a tensor in a file."""

    tensor: TensorInfo
    first: int
    last: int

    @property
    def row_bytes(self) -> int:
        return self.tensor.type.row_bytes(_columns(self.tensor))

    @property
    def n_bytes(self) -> int:
        return (self.last - self.first) * self.row_bytes


class _MappedTensors:
    """Encoded rows of GGUF files by memory map. Any thread may read."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _MappedTensors:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for mapped in self._maps.values():
            mapped.close()

    def read(self, rows: _Rows) -> npt.NDArray[np.uint8]:
        """A copy of the encoded rows, so that the map's pages can be given back at once."""
        mapped = self._map(rows.tensor.path)
        start = rows.tensor.offset + rows.first * rows.row_bytes
        end = start + rows.n_bytes
        content = np.frombuffer(mapped[start:end], np.uint8)
        if hasattr(mmap, "MADV_DONTNEED"):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, page, end - page)
        return content

    def _map(self, path: Path) -> mmap.mmap:
        with self._lock:
            if path not in self._maps:
                with path.open("rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._maps[path]


def _cut(tensor: TensorInfo) -> Iterator[_Rows]:
    columns = _columns(tensor)
    count = tensor.n_elements // columns
    step = max(1, SLAB_ELEMENTS // columns)
    for first in range(0, count, step):
        yield _Rows(tensor, first, min(first + step, count))


def _columns(tensor: TensorInfo) -> int:
    """Columns of the matrix a tensor is stored as; a vector is a single column."""
    return tensor.shape[0] if len(tensor.shape) > 1 else 1


def _check_finite(encoded: npt.NDArray[np.uint8], rows: _Rows) -> None:
    if not is_sound(encoded, rows.tensor.type):
        raise EdgeError(
            f"The tensor {rows.tensor.name!r} holds NaN or infinity at or after row {rows.first}.",
            hint="The file is damaged: convert or download it again.",
        )


def _check_comparable(file: GGUFFile, plan: ConversionPlan) -> None:
    """Both sides must have the same tensors in the same shapes, of types whose errors are known."""
    if file.architecture != plan.architecture:
        raise EdgeError(
            f"{file.path} is of the architecture {file.architecture!r}; the checkpoint makes {plan.architecture!r}.",
            hint=_OTHER_CHECKPOINT,
        )
    wanted = {tensor.name: tuple(reversed(tensor.shape)) for tensor in plan.tensors}
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise EdgeError(
                f"{file.path}: the tensor {name!r} has shape {_shown(found.get(name))};"
                f" the checkpoint makes it {_shown(wanted.get(name))}.",
                hint=_OTHER_CHECKPOINT,
            )
        kind = file.tensors[name].type.name
        if kind not in ERROR_BOUNDS:
            raise EdgeError(
                f"{file.path}: the tensor {name!r} is of type {kind}, whose rounding is not known.",
                hint=f"Known are: {', '.join(ERROR_BOUNDS)}.",
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return str(list(shape)) if shape else "none (absent)"


def _family_of(file: GGUFFile) -> Family | None:
    """The family of a file, by its architecture and by whether it has experts."""
    has_experts = f"{file.architecture}.expert_count" in file.metadata
    fitting = (family for family in FAMILIES if family.gguf_name == file.architecture)
    return next((family for family in fitting if family.has_experts == has_experts), None)


def _check_complete(file: GGUFFile, family: Family) -> None:
    """Every tensor that a family requires is there, in the shape that the file's own keys give."""
    sizes = _sizes(file, family)
    for rule in family.tensors:
        if rule.is_in_layer is not in_every_layer:
            continue  # which layers have it is not told by the keys alone
        for block in range(sizes["layers"] if rule.is_per_block else 1):
            name = rule.target_name(block)
            expected = tuple(sizes.get(dimension) for dimension in reversed(rule.target_shape))
            tensor = file.tensors.get(name)
            if tensor is None and rule.presence == "required":
                raise EdgeError(
                    f"{file.path}: the tensor {name!r} is missing.", hint="Convert or download the file again."
                )
            if tensor and None not in expected and tensor.shape != expected:
                raise EdgeError(
                    f"{file.path}: the tensor {name!r} has shape {list(tensor.shape)};"
                    f" the file's keys make it {list(expected)}.",
                    hint="Convert or download the file again.",
                )


def _sizes(file: GGUFFile, family: Family) -> Mapping[str, int]:
    """The dimensions that tensor rules name, from a file's keys; some that a few families name are not among them."""

    def value(key: str, default: int | None = None) -> int:
        stored = file.metadata.get(f"{family.gguf_name}.{key}", default)
        if isinstance(stored, Sequence) and not isinstance(stored, str):
            stored = stored[0]  # one for each block, the usual one first
        if not isinstance(stored, int):
            raise EdgeError(
                f"{file.path} has no usable key {family.gguf_name}.{key}.", hint="Convert or download the file again."
            )
        return stored

    heads, hidden = value("attention.head_count"), value("embedding_length")
    head_dim = value("attention.key_length", hidden // max(heads, 1))
    query, key_value = heads * head_dim, value("attention.head_count_kv", heads) * head_dim
    feed_forward = value("feed_forward_length")
    tokens = cast(Any, file.metadata.get("tokenizer.ggml.tokens", ()))
    return {
        "layers": value("block_count"),
        "hidden": hidden,
        "feed_forward": feed_forward,
        "gate_up": 2 * feed_forward,
        "experts": value("expert_count", 0),
        "expert_feed_forward": value("expert_feed_forward_length", feed_forward),
        "head_dim": head_dim,
        "query": query,
        "key_value": key_value,
        "query_key_value": query + 2 * key_value,
        "vocabulary": value("vocab_size", len(tokens)),
    }
