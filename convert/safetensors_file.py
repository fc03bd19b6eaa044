"""Safetensors files: what is in one, validated before a weight is read, and how one is written.

Knows the container only; what the tensors mean is for `convert.families`, which files belong together for
`convert.checkpoint`. Pure Python: no numpy.
Source: https://github.com/huggingface/safetensors (README, "Format", and the checks of `SafeTensors::deserialize`).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from edge.errors import EdgeError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# File layout: u64 little-endian header length | header (JSON object, padded with spaces) | tensor bytes, no holes
LENGTH_BYTES = 8
HEADER_BYTES_LIMIT = 100_000_000
DIMENSIONS_LIMIT = 64  # numpy's own limit
HEADER_ALIGNMENT = 8
METADATA_KEY = "__metadata__"
GIT_LFS_PREFIX = b"version https://git-lfs"

BITS_PER_ELEMENT: dict[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True)
class LowRank:
    """A product of two stored matrices: `scale * left @ right`, of shape [rows, rank] and [rank, columns].

    With `is_transposed`, both are stored the other way round.
    """

    left: SourceTensor
    right: SourceTensor
    scale: float
    is_transposed: bool = False


@dataclass(frozen=True)
class SourceTensor:
    """Where one tensor lies: `shape` is row-major (outermost first), `offset` counts from the start of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    n_bytes: int
    additions: tuple[LowRank, ...] = ()
    """What is to be added to the values when they are read."""

    @property
    def columns(self) -> int:
        """Values of the last dimension; a scalar has one."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """All outer dimensions flattened; one for a vector or a scalar."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class SafetensorsFile:
    """The header of one file. `header_sha256` covers the length field and the JSON as they stand in the file."""

    path: Path
    tensors: dict[str, SourceTensor]
    header_sha256: str
    metadata: dict[str, str]


def read_safetensors_header(path: Path) -> SafetensorsFile:
    """The tensors of `path`, every offset proven to lie inside the file; EdgeError when the file is not sound."""
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            header = _read_header(path, file, file_bytes)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror or error}.") from error
    entries = _parse_header(path, header)
    metadata = _metadata(path, entries.pop(METADATA_KEY, {}))
    data_offset = LENGTH_BYTES + len(header)
    tensors = {name: _tensor(path, name, entry, data_offset) for name, entry in entries.items()}
    _check_extents(path, tensors.values(), data_offset, file_bytes)
    digest = hashlib.sha256(struct.pack("<Q", len(header)) + header).hexdigest()
    return SafetensorsFile(path, tensors, digest, metadata)


def write_safetensors(
    path: Path,
    tensors: Iterable[tuple[str, str, Sequence[int], Callable[[], ReadableBuffer]]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes (name, dtype, shape, function giving the bytes) one after the other; one tensor is in memory at a time.

    Wider types come first, so that every tensor is aligned to its own item size; otherwise the order is kept.
    """
    ordered = sorted(tensors, key=lambda tensor: -BITS_PER_ELEMENT[tensor[1]])
    header: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    end = 0
    for name, dtype, shape, _ in ordered:
        assert name not in header, f"{name} is given twice"
        begin, end = end, end + math.prod(shape) * BITS_PER_ELEMENT[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, produce in ordered:
            begin, end = header[name]["data_offsets"]
            written = file.write(produce())
            assert written == end - begin, f"{name} gave {written} bytes instead of {end - begin}"


def _refuse(path: Path, what: str) -> NoReturn:
    raise EdgeError(
        f"{path} is not a sound safetensors file: {what}.",
        hint="Download or save the file again; its size or content is not what its author wrote.",
    )


def _read_header(path: Path, file: BinaryIO, file_bytes: int) -> bytes:
    prefix = file.read(len(GIT_LFS_PREFIX))
    if prefix == GIT_LFS_PREFIX:
        raise EdgeError(
            f"{path} is a Git LFS pointer, not the weights themselves.",
            hint="Run `git lfs pull` in the checkpoint's directory.",
        )
    if file_bytes < LENGTH_BYTES:
        _refuse(path, f"it has {file_bytes} bytes, too few for the header length")
    (header_bytes,) = struct.unpack_from("<Q", prefix)
    if header_bytes > HEADER_BYTES_LIMIT:
        _refuse(path, f"its header claims {header_bytes} bytes, above the limit of {HEADER_BYTES_LIMIT}")
    if LENGTH_BYTES + header_bytes > file_bytes:
        _refuse(path, f"its header claims {header_bytes} bytes and the file has {file_bytes} in all")
    file.seek(LENGTH_BYTES)
    return file.read(header_bytes)


def _parse_header(path: Path, header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        _refuse(path, "its header does not begin with '{'")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            (repeated, _), *_ = Counter(name for name, _ in pairs).most_common(1)
            _refuse(path, f"{repeated!r} stands twice in its header")
        return entries

    try:
        entries = json.loads(header.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not JSON ({error})")
    assert isinstance(entries, dict), "JSON that begins with '{' is an object"
    return entries


def _metadata(path: Path, entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        _refuse(path, f"{METADATA_KEY} is not a map from text to text")
    return entry


def _tensor(path: Path, name: str, entry: Any, data_offset: int) -> SourceTensor:
    if not name.isprintable():  # also refuses lone surrogates, which no output file could hold
        _refuse(path, f"tensor name {name!r} has characters that cannot be printed")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"the entry of {name!r} is not made of dtype, shape and data_offsets")
    dtype, shape, extent = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS_PER_ELEMENT:
        known = ", ".join(BITS_PER_ELEMENT)
        raise EdgeError(f"{path}: tensor {name!r} has the unknown type {dtype!r}.", hint=f"Known types: {known}.")
    if not _is_counts(shape) or len(shape) > DIMENSIONS_LIMIT:
        _refuse(path, f"the shape of {name!r} is not a list of at most {DIMENSIONS_LIMIT} sizes")
    if not _is_counts(extent) or len(extent) != 2:
        _refuse(path, f"the data_offsets of {name!r} are not two offsets")
    begin, end = extent
    if begin > end:
        _refuse(path, f"{name!r} begins at {begin}, after its end at {end}")
    bits = math.prod(shape) * BITS_PER_ELEMENT[dtype]
    if bits != 8 * (end - begin):
        _refuse(path, f"{name!r} is {dtype} {shape}, which takes {bits} bits, but spans {end - begin} bytes")
    return SourceTensor(name, dtype, tuple(shape), path, data_offset + begin, end - begin)


def _is_counts(value: Any) -> bool:
    """Whether `value` is a list of whole numbers from 0 to 2**63 (bool, which Python counts as int, is none)."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _check_extents(path: Path, tensors: Iterable[SourceTensor], data_offset: int, file_bytes: int) -> None:
    """Tensors must follow one another without overlap or hole and end where the file ends."""
    end = data_offset
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            problem = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            _refuse(path, f"{tensor.name!r} at byte {tensor.offset} {problem}, which ends at {end}")
        end += tensor.n_bytes
    if end > file_bytes:
        _refuse(path, f"it is truncated: its tensors end at byte {end} and the file has {file_bytes} bytes")
    if end < file_bytes:
        _refuse(path, f"{file_bytes - end} bytes after its last tensor belong to none")
